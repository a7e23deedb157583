//! From a wanted state to a kernel that holds it: look, take the difference, carry it out, look again. Says what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::desired::{self, Ways};
use crate::error::Error;
use crate::kernel::run::{Lock, RunDirectory};
use crate::kernel::{self, Kernel, Where};
use crate::plan::{self, Action, Change, Plan};
use crate::prove::world::World;
use crate::prove::{self, House, Proof};
use crate::report::Report;
use crate::rules::Rules;
use crate::sets::{self, Sets};
use crate::state::{Maker, State};
use crate::target::Scope;
use crate::topology::{Device, NETNS, Name, Topology};
use crate::voice::{Progress, Voice};
use crate::why::dial::Contents;

/// A container may come back in a new namespace while it is wired: then what is left is done once more, a few times.
const ROUNDS: usize = 4;

/// Waits for this run's turn to change anything.
pub fn lock(voice: &Voice) -> Result<Lock, Error> {
    kernel::may("wire network namespaces", &[kernel::ENTER, kernel::CHANGE])?;
    RunDirectory::open()?.lock(|| voice.say("waiting for another run of wire to end"))
}

/// The same, but not for ever.
pub fn lock_within(limit: Duration) -> Result<Lock, Error> {
    kernel::may("wire network namespaces", &[kernel::ENTER, kernel::CHANGE])?;
    RunDirectory::open()?.lock_within(limit)
}

/// Makes the kernel what is wanted, and looks again: what is not so then has failed, whatever the kernel answered before.
pub fn change(
    voice: &Voice,
    rules: &Rules,
    scope: &Scope,
    lock: &Lock,
    want: impl Fn(&State) -> State,
) -> Result<(Report, State), Error> {
    change_after(voice, rules, scope, lock, &want, &mut |_, _, _| Ok(()))
}

/// The same, after somebody has seen what is there, what is wanted and what changes, and does not refuse.
pub fn change_after(
    voice: &Voice,
    rules: &Rules,
    scope: &Scope,
    lock: &Lock,
    want: &dyn Fn(&State) -> State,
    first: &mut dyn FnMut(&State, &State, &[Change]) -> Result<(), Error>,
) -> Result<(Report, State), Error> {
    let mut kernel = Kernel::open(Some(RunDirectory::open()?))?;
    let changed = carry_out(&mut kernel, voice, rules, scope, lock, want, first);
    kernel.leave_open();
    changed
}

/// The same by what podman has written down: that is quick, and podman would not answer while it starts a container. The
/// namespaces come back to be closed when there is time for it.
pub fn change_by_files(
    voice: &Voice,
    rules: &Rules,
    scope: &Scope,
    lock: &Lock,
    want: &dyn Fn(&State) -> State,
) -> Result<(Report, State, Kernel), Error> {
    let mut kernel = Kernel::by_files(Some(RunDirectory::open()?))?;
    let (report, seen) = carry_out(&mut kernel, voice, rules, scope, lock, want, &mut |_, _, _| Ok(()))?;
    Ok((report, seen, kernel))
}

/// The same for what was there before a change, which may have set devices that the file does not speak of, and have taken away
/// namespaces.
pub fn back(
    voice: &Voice,
    rules: &Rules,
    scope: &Scope,
    (devices, unmade): (BTreeMap<Name, BTreeSet<Device>>, BTreeSet<Name>),
    lock: &Lock,
    want: &dyn Fn(&State) -> State,
) -> Result<Report, Error> {
    let mut kernel = Kernel::open(Some(RunDirectory::open()?))?;
    kernel.look_also(devices, unmade);
    let changed = carry_out(&mut kernel, voice, rules, scope, lock, want, &mut |_, _, _| Ok(()));
    kernel.leave_open();
    Ok(changed?.0)
}

fn carry_out(
    kernel: &mut Kernel,
    voice: &Voice,
    rules: &Rules,
    scope: &Scope,
    lock: &Lock,
    want: &dyn Fn(&State) -> State,
    first: &mut dyn FnMut(&State, &State, &[Change]) -> Result<(), Error>,
) -> Result<(Report, State), Error> {
    let mut report = Report::default();
    let mut refused: Vec<(Change, String)> = Vec::new();
    let mut round = 0;
    loop {
        let seen = observe(kernel, rules, scope)?;
        let wanted = want(&seen);
        let Plan { changes, waiting, findings } = plan::diff(&wanted, &seen);
        if changes.is_empty() || round == ROUNDS {
            let left: BTreeSet<Option<Name>> = changes.iter().map(|change| change.wire.clone()).collect();
            let failed = |done: &Change| refused.iter().any(|(change, _)| change.is_same(done));
            report
                .done
                .retain(|done| !left.contains(&done.wire) || !failed(done) && !changes.iter().any(|c| c.is_same(done)));
            // Somebody has moved in meanwhile.
            let stays = |node: &Name| seen.namespaces.get(node).is_some_and(|here| here.maker == Maker::Wire);
            report.done.retain(|done| done.action != Action::Unmake || !stays(&done.node));
            report.failed = changes.into_iter().map(|change| with_error(change, &refused)).collect();
            (report.waiting, report.findings) = (waiting, findings);
            if report.failed.is_empty() {
                kernel.forget(&seen, scope.everything)?;
            }
            return Ok((report, seen));
        }
        if round == 0 {
            first(&seen, &wanted, &changes)?;
        }
        drop(wanted);
        let plan = Plan { changes, ..Plan::default() };
        let mut progress = Progress::of(voice);
        let refusals = kernel.apply(&plan, lock, &mut |done, total| progress.show(done, total))?;
        progress.end();
        let what = |change: usize| plan.changes[change].clone().without_table();
        refused.extend(refusals.into_iter().map(|refused| (what(refused.change), refused.error)));
        let again = std::mem::take(&mut report.done);
        report.done =
            again.into_iter().filter(|done| round == 0 || !plan.changes.iter().any(|c| c.is_same(done))).collect();
        report.done.extend(plan.changes.into_iter().map(Change::without_table));
        kernel.find_again(rules.topology())?;
        round += 1;
    }
}

/// Gives the namespaces that use them the elements of sets as they are now, and touches nothing else of their rules.
pub fn elements(voice: &Voice, topology: &Topology, changed: &Sets, lock: &Lock) -> Result<(), Error> {
    let mut kernel = Kernel::open(Some(RunDirectory::open()?))?;
    let refilled = refill(&mut kernel, voice, topology, changed, lock);
    kernel.leave_open();
    refilled
}

/// The same with namespaces that are somebody's to close.
pub fn refill(
    kernel: &mut Kernel,
    voice: &Voice,
    topology: &Topology,
    changed: &Sets,
    lock: &Lock,
) -> Result<(), Error> {
    let ranges = sets::ranges(changed);
    let rules = Rules::of(topology, &ranges);
    let scope = Scope::everything(topology);
    let want = |seen: &State| desired::refilled(&rules, changed.keys(), seen);
    let (report, _) = carry_out(kernel, voice, &rules, &scope, lock, &want, &mut |_, _, _| Ok(()))?;
    match report.failed.first() {
        Some((change, error)) => {
            Err(Error::failed(format!("the kernel's sets are not as they are to be: {change}: {error}"))
                .hint("running it again is safe"))
        }
        None => Ok(()),
    }
}

/// What was said last when it was tried, or when something else was with the same wire.
fn with_error(change: Change, refused: &[(Change, String)]) -> (Change, String) {
    let same = refused.iter().rev().find(|(other, _)| other.is_same(&change));
    let near = || refused.iter().rev().find(|(other, _)| (&other.wire, &other.node) == (&change.wire, &change.node));
    let error = same.or_else(near).map(|(_, error)| error.clone());
    let error = error.unwrap_or_else(|| format!("it was done and is not so: {}", change.reason));
    (change, error)
}

/// Which namespaces a scope needs to see.
fn nodes_of(topology: &Topology, scope: &Scope) -> BTreeSet<Name> {
    let wires = topology.wires.iter().filter(|wire| scope.wires.contains(&wire.name));
    let ends = wires.flat_map(|wire| wire.ends.iter().map(|end| end.node.clone()));
    ends.chain(scope.nodes.iter().chain(&scope.rules).cloned()).collect()
}

fn observe(kernel: &mut Kernel, rules: &Rules, scope: &Scope) -> Result<State, Error> {
    let topology = rules.topology();
    let seen = if scope.everything {
        kernel.observe(topology, rules, &Where::Everywhere)?
    } else {
        kernel.observe(topology, rules, &Where::Nodes(&nodes_of(topology, scope)))?
    };
    Ok(desired::narrow(seen, scope))
}

/// Sends packets between all nodes that are there. In a lab they know the outside, and everybody who listens.
pub fn prove(rules: &Rules, scope: &Scope, sets: &Contents, world: Option<&World>) -> Result<Proof, Error> {
    kernel::may("send packets in network namespaces", &[kernel::ENTER, kernel::CHANGE, kernel::FORGE])?;
    let mut kernel = Kernel::open(RunDirectory::look()?)?;
    let topology = rules.topology();
    let nodes = desired::namespaces(topology);
    let place = if world.is_some() { Where::Everywhere } else { Where::Nodes(&nodes) };
    let State { mut namespaces, mut waiting, refused, .. } = kernel.observe(topology, rules, &place)?;
    namespaces.retain(|node, here| {
        if !here.maker.has_made() {
            waiting.insert(node.clone(), format!("there is no namespace {NETNS}{node}, and `wire up` makes it"));
        }
        here.maker.has_made()
    });
    let house = House {
        topology,
        scope,
        sets,
        ways: Ways::of(topology, rules),
        present: namespaces.into_keys().filter(|name| nodes.contains(name) && !refused.contains_key(name)).collect(),
        host: kernel.addresses_of_host()?,
        world,
    };
    let mut prober = kernel.prober(world.is_some());
    let mut proof = prove::run(&house, &mut |probes| prober.send(probes), &mut || kernel.denials());
    let meant = nodes_of(topology, scope);
    proof.absent = waiting.into_iter().chain(refused).filter(|(node, _)| meant.contains(node)).collect();
    drop(prober);
    kernel.leave_open();
    Ok(proof)
}

/// For commands that only look: the lock is somebody else's to take, and nothing is made for it.
pub fn look(rules: &Rules, scope: &Scope) -> Result<State, Error> {
    kernel::may("look into other network namespaces", &[kernel::ENTER])?;
    let mut kernel = Kernel::open(RunDirectory::look()?)?;
    let seen = observe(&mut kernel, rules, scope);
    kernel.leave_open();
    seen
}
