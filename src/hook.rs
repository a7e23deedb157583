//! `wire hook`: a container is wired before its first instruction, and unwired when it has ended. Where the hook has
//! power over the host it does what `wire up NODE` does, by files alone, for podman holds the container's lock and
//! would not answer. The hook of a user's container hands over to the daemon instead, whose side is `serve`.

mod conf;
mod install;
mod told;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::apply;
use crate::cli::{Cli, HookTerms, HookVerb};
use crate::desired;
use crate::error::{Error, Exit, Fault};
use crate::file;
use crate::kernel::Kernel;
use crate::kernel::door::{self, Guest, Request, Stage};
use crate::kernel::power;
use crate::kernel::starting::{self, Owner};
use crate::kernel::syslog;
use crate::parse;
use crate::report::{self, Report};
use crate::rules::Rules;
use crate::sets;
use crate::state::State;
use crate::target::Scope;
use crate::topology::{Home, Name, Node, Topology};
use crate::voice::{Voice, count, duration};

use told::Told;

/// Nobody waits longer for a container to start.
const LONGEST: u64 = 300;
/// How long the daemon waits for its turn to serve a guest.
const TURN: Duration = Duration::from_secs(5);

/// What was done for a container.
pub struct Wired {
    pub node: Name,
    pub report: Report,
    /// What is there now, and the namespaces that it is in, to be closed when there is time for it.
    pub seen: State,
    pub kernel: Kernel,
}

pub fn run(voice: &Voice, cli: &Cli, verb: &HookVerb) -> Result<Exit, Error> {
    match verb {
        HookVerb::CreateRuntime(terms) => stage(voice, cli, Stage::CreateRuntime, terms),
        HookVerb::Poststop(terms) => stage(voice, cli, Stage::Poststop, terms),
        HookVerb::Install(terms) => {
            let wait = seconds(terms)?;
            install::install(voice, cli, terms, wait)
        }
        HookVerb::Remove => install::remove(voice),
    }
}

/// How long a container may wait.
fn seconds(terms: &HookTerms) -> Result<u64, Error> {
    let seconds = parse::duration(&terms.wait)
        .map_err(|fault| Error { hint: fault.hint, ..Error::invalid(format!("--wait: {}", fault.message)) })?;
    if seconds > LONGEST {
        return Err(Error::invalid(format!("--wait: {} is too long", duration(seconds)))
            .hint("a container waits for five minutes at most: `5m`"));
    }
    Ok(seconds)
}

/// One call by the runtime or by podman. A container that cannot be wired starts all the same, with no wire to the
/// others, unless told otherwise; one that ends is never kept from it.
fn stage(voice: &Voice, cli: &Cli, stage: Stage, terms: &HookTerms) -> Result<Exit, Error> {
    let until = Instant::now() + Duration::from_secs(seconds(terms)?);
    let told = Told::read(until);
    let done = told.as_ref().map_err(Error::clone).and_then(|told| match starting::rules_here()? {
        true => here(voice, cli, stage, told, until),
        false => hand_over(cli, stage, told, until, terms.strict).map(|()| None),
    });
    let wired = match done {
        Ok(wired) => wired,
        Err(error) => return Ok(failed(voice, stage, told.ok().as_ref(), &error, terms.strict)),
    };
    if voice.json {
        let report = wired.as_ref().map(|wired| &wired.report);
        let mut value = report::report_json(report.unwrap_or(&Report::default()));
        value["node"] = serde_json::json!(wired.as_ref().map(|wired| &wired.node));
        voice.print_json(&value);
    }
    let Some(wired) = wired else { return Ok(Exit::Done) };
    if !voice.json {
        voice.report(&wired.report, "hook");
    }
    let shortfall = shortfall(&wired.report);
    wired.kernel.leave_open();
    Ok(match shortfall {
        Some(error) => failed(voice, stage, told.ok().as_ref(), &error, terms.strict),
        None => Exit::Done,
    })
}

/// Says what is missing, also where it is read: the runtime throws away what a hook writes.
fn failed(voice: &Voice, stage: Stage, told: Option<&Told>, error: &Error, strict: bool) -> Exit {
    let container = told.map_or_else(|| "a container".to_owned(), |told| format!("container {}", told.short()));
    let (what, exit) = match (stage, strict) {
        (Stage::CreateRuntime, true) => ("does not start, for it cannot be wired", Exit::Failed),
        (Stage::CreateRuntime, false) => ("starts without all of its wires", Exit::Done),
        (Stage::Poststop, _) => ("has ended, and what is left of its wires stays", Exit::Done),
    };
    let message = format!("{container} {what}: {}", error.message);
    let hint = error.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
    syslog::warn(&format!("{message}{hint}"));
    voice.error(&Error { message, ..error.clone() });
    exit
}

/// Why not all of it is as it was meant to be.
fn shortfall(report: &Report) -> Option<Error> {
    let failed = report.failed.iter().map(|(change, error)| format!("{change}: {error}"));
    let blocked = report.findings.iter().filter(|finding| finding.blocks).map(|finding| finding.message.clone());
    let reasons: Vec<String> = failed.chain(blocked).collect();
    let more = match reasons.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Some(Error::failed(format!("{}{more}", reasons.first()?)).hint("`wire plan` tells all of it"))
}

/// The hook of a container of root's.
fn here(voice: &Voice, cli: &Cli, stage: Stage, told: &Told, until: Instant) -> Result<Option<Wired>, Error> {
    let path = cli.topology();
    if !path.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    let text = file::read(&path, cli.trust_owner.as_deref())?;
    let owner = Owner::root()?;
    let names = owner.names(&told.id);
    if !may_concern(&text, &names) {
        return Ok(None);
    }
    let parsed = power::without(|| parse::topology(&text))?;
    let topology = parsed.map_err(|faults| invalid(&path.display().to_string(), &faults))?;
    let Some(node) = node(&topology, &owner, &names) else { return Ok(None) };
    wire(voice, &topology, node, &owner, stage, told, until)
}

fn invalid(path: &str, faults: &[Fault]) -> Error {
    let first = faults.first().map(|fault| format!("{}: {}", fault.place.line, fault.message)).unwrap_or_default();
    Error::invalid(format!("{path} has {}: line {first}", count(faults.len(), "error"))).hint("`wire check` lists them")
}

/// Whether a topology may be about a container of one of these names: it names it, or spells something out.
fn may_concern(text: &str, names: &[String]) -> bool {
    !names.is_empty() && (text.contains('\\') || names.iter().any(|name| text.contains(name.as_str())))
}

/// The node that is this container and has wires of its own.
fn node<'a>(topology: &'a Topology, owner: &Owner, names: &[String]) -> Option<&'a Node> {
    let is_meant = |node: &&Node| match &node.home {
        Home::Podman { container, user } => {
            owner.is(user.as_deref()) && names.iter().any(|name| name == container.as_str())
        }
        Home::Netns(_) => false,
    };
    topology.nodes.values().filter(|node| node.shares.is_none()).find(is_meant)
}

/// Does what the stage asks for, under the lock.
fn wire(
    voice: &Voice,
    topology: &Topology,
    node: &Node,
    owner: &Owner,
    stage: Stage,
    told: &Told,
    until: Instant,
) -> Result<Option<Wired>, Error> {
    let scope = Scope::of(topology, &[format!("node:{}", node.name)])?;
    let Home::Podman { container, .. } = &node.home else { return Ok(None) };
    let lock = || apply::lock_within(until.saturating_duration_since(Instant::now()));
    let (lock, starting) = match stage {
        Stage::CreateRuntime => {
            let starting = owner.starting(told.pid, container)?;
            // Whoever joins the namespace of another node has its wires, if any.
            if owner.lives_in(topology, &node.name, &told.id, &starting).is_some() {
                return Ok(None);
            }
            let lock = lock()?;
            owner.note(&told.id, &starting, None, &lock)?;
            (lock, Some(starting))
        }
        Stage::Poststop => {
            let lock = lock()?;
            owner.forget(&told.id, &lock)?;
            (lock, None)
        }
    };
    let ranges = sets::ranges(&sets::look(voice, topology)?);
    let rules = Rules::of(topology, &ranges);
    let want = |seen: &State| match &starting {
        Some(_) => desired::up(topology, &rules, &scope, seen),
        None => desired::without(seen, &node.name, &scope),
    };
    let (report, seen, kernel) = apply::change_by_files(voice, &rules, &scope, &lock, &want)?;
    if let (Some(starting), Some(namespace)) = (&starting, seen.namespaces.get(&node.name)) {
        owner.note(&told.id, starting, Some(namespace.cookie), &lock)?;
    }
    match seen.waiting.get(&node.name) {
        Some(reason) if starting.is_some() => Err(Error::failed(reason.clone())),
        _ => Ok(Some(Wired { node: node.name.clone(), report, seen, kernel })),
    }
}

/// The hook of a user's container: somebody else has to do it.
fn hand_over(cli: &Cli, stage: Stage, told: &Told, until: Instant, strict: bool) -> Result<(), Error> {
    let names = told.bundle.as_deref().map(|bundle| starting::names_beside(bundle, &told.id)).unwrap_or_default();
    // Nobody is bothered for a container that the topology does not name, as far as one may read it.
    let known = !names.is_empty();
    if known && file::glance(&cli.topology()).is_some_and(|text| !may_concern(&text, &names)) {
        return Ok(());
    }
    let request = Request { stage, id: told.id.clone(), pid: told.pid };
    let patient = strict && stage == Stage::CreateRuntime;
    door::ask(&request, until, patient)
}

/// The users whose hooks the daemon is there for.
pub fn users(topology: &Topology) -> BTreeSet<u32> {
    let names = topology.nodes.values().filter_map(|node| match &node.home {
        Home::Podman { user, .. } => user.as_deref(),
        Home::Netns(_) => None,
    });
    starting::ids(names.collect::<BTreeSet<&str>>()).into_iter().collect()
}

/// Does for a guest what its hook cannot do, and tells it. What the guest says is believed as far as its user's own
/// files and the owner of the namespace bear it out. Comes back with what was done, if the container is a node's.
pub fn serve(voice: &Voice, topology: &Topology, guest: Guest) -> Result<Option<Wired>, Error> {
    let Request { stage, id, pid } = guest.request.clone();
    let told = Told { id, pid, bundle: None };
    let done = Owner::with_id(guest.uid).and_then(|owner| {
        let names = owner.names(&told.id);
        match node(topology, &owner, &names) {
            Some(node) => wire(voice, topology, node, &owner, stage, &told, Instant::now() + TURN),
            None => Ok(None),
        }
    });
    let error = match &done {
        Ok(wired) => wired.as_ref().and_then(|wired| shortfall(&wired.report)),
        Err(error) => Some(error.clone()),
    };
    guest.answer(error.as_ref().map_or(Ok(()), |error| Err(&error.message)));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_does_not_name_it_is_about_others() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        assert!(may_concern("ends = [\"host\", \"git-ssh\"]", &names(&["other", "git-ssh"])));
        assert!(!may_concern("ends = [\"host\", \"git-ssh\"]", &names(&["vpn-edge"])));
        assert!(may_concern("ends = [\"host\", \"\\u0067it-ssh\"]", &names(&["git-ssh"])), "spelled out");
        assert!(!may_concern("ends = [\"host\", \"git-ssh\\n\"]", &names(&[])), "nobody knows it");
    }
}
