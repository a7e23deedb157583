//! `wire watch`: stays, and does by itself what `wire up` does when it is run, for no more than what was heard of. It has no
//! engine of its own: a mend is an `up` with a narrow scope, under the same lock, so that both can be run beside each other.

mod hubs;
mod names;
mod patience;
mod told;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use self::hubs::Hubs;
use self::names::Names;
use self::patience::{Aim, Patience};
use self::told::Teller;
use crate::apply;
use crate::confirm;
use crate::desired;
use crate::error::{Error, Exit};
use crate::file;
use crate::foreign;
use crate::hook;
use crate::hub;
use crate::kernel::Kernel;
use crate::kernel::door::Door;
use crate::kernel::ears::{Ears, Heard, Other, Part};
use crate::kernel::power;
use crate::kernel::run::{Lock, Remembered, RunDirectory, Watcher};
use crate::kernel::supervisor::Supervisor;
use crate::parse;
use crate::rules::Rules;
use crate::sets::{self, Answers, ranges};
use crate::state::State;
use crate::target::Scope;
use crate::topology::{Name, Topology};
use crate::voice::{Voice, count};

/// What was opened for a mend is closed so much later: right after a change the kernel keeps who closes waiting.
const LET_GO: Duration = Duration::from_millis(200);
/// What could not be done is tried again after this, then after twice as long, and so on.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// Where the topology comes from.
pub struct Source<'a> {
    pub file: PathBuf,
    pub trusted: Option<&'a str>,
    /// Whether it runs the hubs of the file, too.
    pub hubs: bool,
}

struct Watch<'a> {
    hushed: Voice,
    source: &'a Source<'a>,
    text: String,
    topology: Topology,
    /// The file could not be taken when it was read last.
    keeps_old: bool,
    run: RunDirectory,
    /// What is in that folder of settings as they were, should somebody delete it.
    remembered: Remembered,
    ears: Ears,
    names: Names,
    /// None where it could not be opened.
    door: Option<Door>,
    /// None where services of their own run them.
    hubs: Option<Hubs>,
    patience: Patience,
    teller: Teller<'a>,
    supervisor: Supervisor,
    /// Namespaces of the last mends, to be closed then.
    held: Option<(Instant, Vec<Kernel>)>,
    /// Namespaces that have ended since, by their cookies.
    ended: BTreeSet<u64>,
    /// A change waits for its confirmation: nothing is touched until then at the latest.
    paused: Option<Instant>,
    retry: Duration,
    _watcher: Watcher,
}

/// Keeps the kernel true to the file until it is told to end. All wires stay then.
pub fn run(voice: &Voice, source: &Source, text: String, topology: Topology) -> Result<Exit, Error> {
    let supervisor = Supervisor::of_environment();
    // Before it waits for its turn, so that whoever wants it to end need not wait, too.
    let ears = Ears::new()?;
    let lock = apply::lock(voice)?;
    let run = RunDirectory::open()?;
    let watcher = run.watcher()?;
    run.set_ready(false)?;
    drop(lock);
    let names = Names::new()?;
    ears.wait_for(names.bell(), Other::Answers)?;
    let mut teller = Teller::new(voice);
    let door = Door::open(hook::users(&topology)).map_err(|error| teller.cannot(&error)).ok();
    if let Some(door) = &door {
        ears.wait_for(door.as_fd(), Other::Guests)?;
    }
    let mut watch = Watch {
        hushed: voice.hushed(),
        source,
        text,
        topology,
        keeps_old: false,
        remembered: run.remembered().unwrap_or_default(),
        run,
        ears,
        names,
        door,
        hubs: source.hubs.then(|| Hubs::new(source)),
        patience: Patience::default(),
        teller,
        supervisor,
        held: None,
        ended: BTreeSet::new(),
        paused: None,
        retry: RETRY,
        _watcher: watcher,
    };
    watch.follow()?;
    watch.turn();
    watch.run.set_ready(true)?;
    let status = watch.status();
    watch.supervisor.ready(&status);
    watch.teller.event("ready", &status, json!({ "wires": watch.topology.wires.len() }));
    let exit = watch.stay();
    watch.supervisor.stopping();
    watch.hubs.take().into_iter().for_each(Hubs::end);
    watch.teller.event("end", "all wires stay as they are", json!({}));
    watch.run.set_ready(false)?;
    exit
}

impl Watch<'_> {
    /// Listens to what the topology speaks of, all of which is to be looked at.
    fn follow(&mut self) -> Result<(), Error> {
        self.ears.watch_file(&self.source.file);
        self.ears.watch_file(&confirm::file());
        for path in self.topology.sets.values().filter_map(|set| set.file.as_ref()) {
            self.ears.watch_file(Path::new(path));
        }
        if let Some(door) = &mut self.door {
            door.welcome(hook::users(&self.topology));
        }
        self.names.follow(&self.topology, Instant::now());
        if let Some(hubs) = &mut self.hubs {
            hubs.follow(&self.topology, Instant::now());
        }
        for heard in self.ears.follow(&self.topology)? {
            if let Heard::Deaf(node, error) = heard {
                self.deaf(&node, error);
            }
        }
        self.patience.heard(Aim::Everything, Instant::now());
        Ok(())
    }

    fn status(&self) -> String {
        let (wires, nodes) = (count(self.topology.wires.len(), "wire"), count(self.topology.nodes.len(), "node"));
        format!("keeps {wires} between {nodes} and the host as {} says", self.source.file.display())
    }

    /// Listens and mends until it is told to end.
    fn stay(&mut self) -> Result<Exit, Error> {
        loop {
            let let_go = self.held.as_ref().map(|(at, _)| *at);
            let due = self.patience.until(self.paused.is_some());
            let guests = self.door.as_ref().and_then(Door::due);
            let hubs = self.hubs.as_ref().and_then(Hubs::until);
            let times = [let_go, due, self.paused, self.names.until(), guests, hubs, self.supervisor.until()];
            let heard = self.ears.wait(&self.topology, times.into_iter().flatten().min())?;
            let now = Instant::now();
            if self.held.as_ref().is_some_and(|(at, _)| *at <= now)
                || heard.iter().any(|heard| matches!(heard, Heard::Ended(..)))
            {
                // A namespace that has lost its node must not live on for us.
                self.held = None;
            }
            if !self.run.is_in_place() {
                self.move_in()?;
            }
            self.supervisor.turns();
            let places = |heard: &Heard| if let Heard::Place(place) = heard { Some(place.clone()) } else { None };
            heard.iter().filter_map(places).for_each(|place| self.patience.heard(Aim::Place(place), now));
            let found = self.look_into_places();
            for heard in heard.into_iter().chain(found) {
                match heard {
                    Heard::End => return Ok(Exit::Done),
                    Heard::Place(_) => {}
                    Heard::Reload => self.reload(true),
                    Heard::File(path) => self.read_again(&path),
                    Heard::Other(Other::Answers) => self.answered(),
                    // They are let in below, as their time comes.
                    Heard::Other(Other::Guests | Other::Hubs) => {}
                    Heard::Change(node, part) => self.patience.heard(aim(node, part), now),
                    Heard::Runs(node) => {
                        self.teller.event("runs", &format!("`{node}`"), json!({ "node": node }));
                        self.patience.heard(Aim::Node(node), now);
                    }
                    Heard::Deaf(node, error) => self.deaf(&node, error),
                    Heard::Ended(node, cookie) => {
                        self.teller.event("ended", &format!("`{node}`"), json!({ "node": node }));
                        self.ended.insert(cookie);
                    }
                }
            }
            if self.paused.is_some_and(|until| until <= now) {
                self.resume();
            }
            if let Err(error) = self.names.ask(&self.topology, now) {
                self.teller.cannot(&error);
            }
            self.serve();
            self.turn();
            if let Some(hubs) = &mut self.hubs {
                hubs.turn(&self.topology, &self.ears, &mut self.teller, now);
            }
            if let Err(error) = self.forget() {
                self.teller.cannot(&error);
            }
        }
    }

    /// Somebody has deleted the folder: nobody would meet us at the lock in it any more.
    fn move_in(&mut self) -> Result<(), Error> {
        self.run = RunDirectory::open()?;
        self._watcher = self.run.watcher()?;
        let lock = self.run.lock(|| {})?;
        let mut remembered = self.run.remembered()?;
        remembered.extend(self.remembered.clone());
        self.run.remember(&remembered)?;
        drop(lock);
        self.run.set_ready(true)?;
        let lost = Error::failed("somebody deleted /run/wire: what it is to hold is there again");
        self.teller.warn(vec![lost.hint("leave it alone while anything is wired: nobody else knows it")]);
        self.patience.heard(Aim::Everything, Instant::now());
        Ok(())
    }

    /// A namespace that has ended is nothing to be remembered: of containers that restart for a year there are many.
    fn forget(&mut self) -> Result<(), Error> {
        let ended = std::mem::take(&mut self.ended);
        self.remembered.retain(|cookie, _| !ended.contains(cookie));
        if ended.is_empty() { Ok(()) } else { self.run.forget(&ended, &self.run.lock(|| {})?) }
    }

    /// Does what the hooks of users cannot do themselves. A container that starts cannot wait for a confirmation.
    fn serve(&mut self) {
        for guest in self.door.as_mut().map(Door::guests).unwrap_or_default() {
            let (uid, begun) = (guest.uid, Instant::now());
            // Each may have to wait for somebody else's run to end.
            self.supervisor.turns();
            match hook::serve(&self.hushed, &self.topology, guest) {
                Ok(Some(wired)) => {
                    self.ears.looked(&wired.seen);
                    self.teller.mended(&wired.report, begun.elapsed());
                    self.teller.wrong(&wired.report, false);
                    self.hold(wired.kernel);
                }
                Ok(None) => {}
                Err(error) => {
                    let message = format!("a hook of the user with id {uid}: {}", error.message);
                    self.teller.cannot(&Error { message, ..error });
                }
            }
        }
    }

    /// Looks for nodes where some may have begun or ended.
    fn look_into_places(&mut self) -> Vec<Heard> {
        let start = Instant::now();
        let places = self.patience.take_places(start);
        if places.is_empty() {
            return Vec::new();
        }
        let heard = self.ears.look(&self.topology, &places);
        let took = start.elapsed();
        places.into_iter().for_each(|place| self.patience.looked_into(Aim::Place(place), took, Instant::now()));
        heard
    }

    fn deaf(&mut self, node: &Name, error: Error) {
        let message = format!("`{node}` cannot be listened to: {}", error.message);
        self.teller.cannot(&Error { message, ..error });
    }

    /// Looks at what is due, and mends it.
    fn turn(&mut self) {
        let start = Instant::now();
        if self.paused.is_some() {
            return;
        }
        let aims = self.patience.take(start);
        if aims.is_empty() {
            return;
        }
        let scope = scope(&self.topology, &aims);
        let is_all = scope.everything;
        let outcome = self.mend(&scope);
        let took = start.elapsed();
        let now = Instant::now();
        let (mended, failed) = match outcome {
            Ok(None) => {
                // It is not for now.
                aims.into_iter().for_each(|aim| self.patience.again(aim, now));
                return;
            }
            Ok(Some(report)) => {
                self.teller.mended(&report, took);
                self.teller.wrong(&report, is_all);
                let nodes: BTreeSet<Name> = report.done.iter().map(|change| change.node.clone()).collect();
                let wires: BTreeSet<Name> = report.done.iter().filter_map(|change| change.wire.clone()).collect();
                (Some((nodes, wires)), !report.failed.is_empty())
            }
            Err(error) => {
                self.teller.cannot(&error);
                (None, true)
            }
        };
        for aim in &aims {
            let mended = mended.as_ref().is_some_and(|(nodes, wires)| match aim {
                Aim::Everything | Aim::Place(_) => false,
                Aim::Node(node) | Aim::Rules(node) => nodes.contains(node),
                Aim::Wire(wire) => wires.contains(wire),
            });
            if let Some(wait) = self.patience.looked(aim.clone(), mended, took / aims.len() as u32, now) {
                self.teller.backed_off(aim, wait);
            }
        }
        if failed {
            aims.into_iter().for_each(|aim| self.patience.again(aim, now + self.retry));
            self.retry = (self.retry * 2).min(RETRY_LONGEST);
        } else {
            self.retry = RETRY;
        }
    }

    /// `None`: a change waits for its confirmation, and nothing was touched.
    fn mend(&mut self, scope: &Scope) -> Result<Option<crate::report::Report>, Error> {
        let lock = self.run.lock(|| {})?;
        if self.is_paused(&lock)? {
            return Ok(None);
        }
        let ranges = ranges(&sets::look(&self.hushed, &self.topology)?);
        self.teller.warn(self.hushed.kept());
        let rules = Rules::of(&self.topology, &ranges);
        let want = |seen: &State| desired::up(&self.topology, &rules, scope, seen);
        let (mut report, seen, kernel) = apply::change_by_files(&self.hushed, &rules, scope, &lock, &want)?;
        self.ears.looked(&seen);
        self.remembered = self.run.remembered()?;
        report.findings.extend(foreign::findings(&rules, scope, &seen));
        hub::tell(&self.hushed, &self.topology, scope, &seen, &lock);
        if let Some(hubs) = &mut self.hubs {
            hubs.kernel(seen.has_wireguard, &self.topology, Instant::now());
        }
        self.teller.warn(self.hushed.kept());
        self.hold(kernel);
        Ok(Some(report))
    }

    fn hold(&mut self, kernel: Kernel) {
        let (at, kernels) = self.held.get_or_insert_with(|| (Instant::now(), Vec::new()));
        *at = Instant::now() + LET_GO;
        kernels.push(kernel);
    }

    fn is_paused(&mut self, lock: &Lock) -> Result<bool, Error> {
        let Some(left) = confirm::waits(lock)? else { return Ok(false) };
        self.paused = Some(Instant::now() + left + Duration::from_secs(1));
        self.teller.event("paused", "a change waits for its confirmation", json!({ "seconds": left.as_secs() }));
        Ok(true)
    }

    fn resume(&mut self) {
        if self.paused.take().is_some() {
            self.teller.event("resumed", "no change waits any more", json!({}));
            self.patience.heard(Aim::Everything, Instant::now());
        }
    }

    /// A file has changed.
    fn read_again(&mut self, path: &Path) {
        if path == self.source.file {
            self.reload(false);
        } else if path == confirm::file() {
            let is_over = match self.run.lock(|| {}).and_then(|lock| confirm::waits(&lock)) {
                Ok(waits) => waits.is_none(),
                Err(_) => false,
            };
            if is_over {
                self.resume();
            }
        } else {
            let names: Vec<Name> = names::of_file(&self.topology, path).map(|set| set.name.clone()).collect();
            self.refill(names, &Answers::new());
        }
    }

    /// Reads the topology again. One that is invalid changes nothing. `asked`: everything is looked at even where it says the
    /// same.
    fn reload(&mut self, asked: bool) {
        self.supervisor.reloading();
        let read = file::read(&self.source.file, self.source.trusted);
        let parsed = read.and_then(|text| Ok((power::without(|| parse::topology(&text))?, text)));
        let path = self.source.file.display().to_string();
        let kept_old = std::mem::replace(&mut self.keeps_old, !matches!(parsed, Ok((Ok(_), _))));
        match parsed {
            Ok((_, text)) if text == self.text && !asked => {
                // Whoever was told that it is wrong is told that it is right again.
                if kept_old {
                    let wires = self.topology.wires.len();
                    self.teller.event("reloaded", &path, json!({ "file": path, "wires": wires }));
                }
            }
            Ok((Ok(topology), text)) => {
                self.teller.forget();
                self.teller.event("reloaded", &path, json!({ "file": path, "wires": topology.wires.len() }));
                (self.topology, self.text) = (topology, text);
                if let Err(error) = self.follow() {
                    self.teller.cannot(&error);
                }
            }
            Ok((Err(faults), _)) => {
                let words = faults
                    .iter()
                    .map(|fault| format!("{path}:{}:{}: {}", fault.place.line, fault.place.column, fault.message));
                let words = words.collect::<Vec<_>>().join("; ");
                let errors = crate::report::check_json(None, &faults, &[])["errors"].clone();
                self.teller.event("kept", &format!("the file as it was before: {words}"), json!({ "errors": errors }));
            }
            Err(error) => {
                let words = format!("the file as it was before: {}", told::sentence(&error));
                self.teller.event(
                    "kept",
                    &words,
                    json!({ "errors": [{ "message": error.message, "hint": error.hint }] }),
                );
            }
        }
        self.supervisor.ready(&self.status());
    }

    fn answered(&mut self) {
        if let Some((names, answers)) = self.names.answers() {
            self.refill(names, &answers);
        }
    }

    /// Gives the kernel what these sets hold now.
    fn refill(&mut self, names: Vec<Name>, answers: &Answers) {
        if let Err(error) = self.try_refill(&names, answers) {
            self.teller.cannot(&error);
        }
    }

    fn try_refill(&mut self, names: &[Name], answers: &Answers) -> Result<(), Error> {
        let sets = names.iter().filter_map(|name| self.topology.sets.get(name));
        let lock = self.run.lock(|| {})?;
        if confirm::waits(&lock)?.is_some() {
            // The look at everything that follows takes them as they are then.
            return Ok(());
        }
        let changed = sets::renew(&self.hushed, sets, answers, &lock)?;
        self.teller.warn(self.hushed.kept());
        let mut kernel = Kernel::by_files(Some(RunDirectory::open()?))?;
        let refilled = apply::refill(&mut kernel, &self.hushed, &self.topology, &changed, &lock);
        self.hold(kernel);
        refilled
    }
}

fn aim(node: Name, part: Part) -> Aim {
    match part {
        Part::Wire(wire) => Aim::Wire(wire),
        Part::Rules => Aim::Rules(node),
        Part::Whole => Aim::Node(node),
    }
}

/// What is to be looked at for all of these.
fn scope(topology: &Topology, aims: &BTreeSet<Aim>) -> Scope {
    if aims.contains(&Aim::Everything) {
        return Scope::everything(topology);
    }
    let (mut wires, mut nodes, mut rules) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for aim in aims {
        match aim {
            Aim::Everything | Aim::Place(_) => {}
            Aim::Node(node) => drop(nodes.insert(node.clone())),
            Aim::Rules(node) => drop(rules.insert(node.clone())),
            // One that is struck from the file is left of something: only a look at everything finds both its ends.
            Aim::Wire(wire) if topology.wire(wire.as_str()).is_none() => return Scope::everything(topology),
            Aim::Wire(wire) => drop(wires.insert(wire.clone())),
        }
    }
    Scope::around(topology, wires, nodes, rules)
}
