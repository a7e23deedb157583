//! The sets of the topology while `wire watch` runs: names are asked for again in their time, on a thread of their own, for a
//! name server may keep one waiting; files are read again when they change. What the kernel is given is not done here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Context, Error};
use crate::sets::{self, Answers};
use crate::topology::{Name, Set, Topology};

/// Where a set names no interval.
const INTERVAL: u64 = 300;

pub struct Names {
    /// When each set's names are to be asked for again.
    due: BTreeMap<Name, Instant>,
    asked: Option<Receiver<(Vec<Name>, Answers)>>,
    /// Readable when there are answers.
    bell: EventFd,
}

fn interval(set: &Set) -> Option<Duration> {
    (!set.dns.is_empty()).then(|| Duration::from_secs(set.interval.unwrap_or(INTERVAL).max(1)))
}

impl Names {
    pub fn new() -> Result<Names, Error> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        Ok(Names { due: BTreeMap::new(), asked: None, bell: bell.context("cannot wait for answers of the DNS")? })
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// From now on those of this topology, all of them at once: nobody knows how old what is known is.
    pub fn follow(&mut self, topology: &Topology, now: Instant) {
        let with_names = topology.sets.values().filter(|set| interval(set).is_some());
        self.due = with_names.map(|set| (set.name.clone(), now)).collect();
    }

    pub fn until(&self) -> Option<Instant> {
        self.due.values().min().copied().filter(|_| self.asked.is_none())
    }

    /// Begins to ask for what is due.
    pub fn ask(&mut self, topology: &Topology, now: Instant) -> Result<(), Error> {
        if self.asked.is_some() {
            return Ok(());
        }
        let due = self.due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone());
        let sets: Vec<Set> = due.filter_map(|name| topology.sets.get(&name).cloned()).collect();
        if sets.is_empty() {
            return Ok(());
        }
        for set in &sets {
            if let Some(interval) = interval(set) {
                self.due.insert(set.name.clone(), now + interval);
            }
        }
        let (sender, receiver) = channel();
        let bell = self.bell.as_fd().try_clone_to_owned().context("cannot wait for answers of the DNS")?;
        let ask = move || {
            let answers = sets::ask(&sets);
            // Nobody listens any more where another topology is followed by now.
            let _ = sender.send((sets.into_iter().map(|set| set.name).collect(), answers));
            let _ = nix::unistd::write(bell, &1_u64.to_ne_bytes());
        };
        std::thread::Builder::new().name("names".to_owned()).spawn(ask).context("cannot ask the DNS")?;
        self.asked = Some(receiver);
        Ok(())
    }

    /// What was answered, with the sets that it is for.
    pub fn answers(&mut self) -> Option<(Vec<Name>, Answers)> {
        let _ = self.bell.read();
        self.asked.take()?.recv().ok()
    }
}

/// The sets that are made of a file.
pub fn of_file<'a>(topology: &'a Topology, path: &'a Path) -> impl Iterator<Item = &'a Set> {
    topology.sets.values().filter(move |set| set.file.as_ref().is_some_and(|file| Path::new(file) == path))
}
