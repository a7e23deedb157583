//! Everything that may say that the kernel is not as the file says any more: news of each namespace, containers that start and
//! end, named namespaces that come and go, files, signals. It waits for all of them at once and tells what was heard; what is to
//! be done is not known here, and nothing is changed.

mod namespace;
mod paths;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::namespace::Ear;
use self::paths::{Changed, Paths};
use super::netns::Netns;
use super::podman::{self, Podman, Standing};
use crate::error::{Context, Error};
use crate::state::State;
use crate::topology::{Home, Name, Topology};

pub use self::namespace::Part;

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something has changed in a node.
    Change(Name, Part),
    /// The node has a namespace, which is listened to from now on.
    Runs(Name),
    /// The namespace that was the node's is not any more, or is gone; with its cookie.
    Ended(Name, u64),
    /// Where nodes may be that are not listened to: see `look`.
    Place(Place),
    /// The node cannot be listened to; told once for each reason.
    Deaf(Name, Error),
    /// A file that is watched was changed.
    File(PathBuf),
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    End,
    /// Somebody else who is waited for has something.
    Other(Other),
}

/// Where something has happened that may be the beginning or the end of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Containers whose monitors keep their files below this folder.
    Containers(PathBuf),
    /// Named namespaces.
    Namespaces,
}

/// Who else may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Answers of the DNS.
    Answers,
    /// Hooks of users.
    Guests,
    /// Processes that serve hubs.
    Hubs,
}

/// What an event of epoll's is about. The number of a node's ear goes with what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signals,
    Paths,
    Mounts,
    Other(Other),
    Ear(u64, What),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Route,
    Rules,
    Process,
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        match token {
            Token::Signals => 0,
            Token::Paths => 1,
            Token::Mounts => 2,
            Token::Other(Other::Answers) => 3,
            Token::Other(Other::Guests) => 4,
            Token::Other(Other::Hubs) => 5,
            Token::Ear(ear, what) => (ear + 1) << 3 | what as u64,
        }
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Token {
        match (number >> 3, number & 7) {
            (0, 0) => Token::Signals,
            (0, 1) => Token::Paths,
            (0, 2) => Token::Mounts,
            (0, 3) => Token::Other(Other::Answers),
            (0, 4) => Token::Other(Other::Guests),
            (0, _) => Token::Other(Other::Hubs),
            (ear, 0) => Token::Ear(ear - 1, What::Route),
            (ear, 1) => Token::Ear(ear - 1, What::Rules),
            (ear, _) => Token::Ear(ear - 1, What::Process),
        }
    }
}

/// How many events are taken at once.
const EVENTS: usize = 256;

pub struct Ears {
    epoll: Epoll,
    home: Netns,
    signals: SignalFd,
    paths: Paths,
    /// Readable as a priority event when something is mounted or unmounted (proc_pid_mountinfo(5)): `ip netns add` is that.
    mounts: File,
    ears: HashMap<u64, (Name, Ear)>,
    nodes: BTreeMap<Name, u64>,
    /// The number of the next ear.
    next: u64,
    /// Whose containers each of the folders is about.
    owners: HashMap<PathBuf, HashSet<Option<String>>>,
    files: HashSet<PathBuf>,
    /// Why a node could not be listened to, said once.
    refused: BTreeMap<Name, String>,
}

impl Ears {
    /// None yet. From now on SIGHUP, SIGINT and SIGTERM are heard and do nothing else.
    pub fn new() -> Result<Ears, Error> {
        let tried = "cannot wait for news of the kernel";
        super::make_room();
        let wanted = SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]);
        wanted.thread_block().context(tried)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let ears = Ears {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(tried)?,
            home: Netns::own()?,
            signals: SignalFd::with_flags(&wanted, flags).context(tried)?,
            paths: Paths::new()?,
            mounts: File::open("/proc/self/mountinfo").context("cannot open /proc/self/mountinfo")?,
            ears: HashMap::new(),
            nodes: BTreeMap::new(),
            next: 0,
            owners: HashMap::new(),
            files: HashSet::new(),
            refused: BTreeMap::new(),
        };
        ears.add(&ears.signals, Token::Signals, EpollFlags::EPOLLIN)?;
        ears.add(&ears.paths, Token::Paths, EpollFlags::EPOLLIN)?;
        // What was mounted is an error condition that is told without being asked for, and goes away by being told.
        ears.add(&ears.mounts, Token::Mounts, EpollFlags::EPOLLPRI)?;
        Ok(ears)
    }

    fn add(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> Result<(), Error> {
        self.epoll.add(fd, EpollEvent::new(flags, token.into())).context("cannot wait for news of the kernel")
    }

    /// Tells when this has something to be read, too.
    pub fn wait_for(&self, fd: BorrowedFd, other: Other) -> Result<(), Error> {
        self.add(fd, Token::Other(other), EpollFlags::EPOLLIN)
    }

    /// Tells when this file changes, too.
    pub fn watch_file(&mut self, path: &Path) {
        if self.files.insert(path.to_owned()) {
            self.paths.watch_file(path);
        }
    }

    /// Listens to all nodes of a topology that run, and waits for the others. What was listened to for another topology and is
    /// not in this one is let go of.
    pub fn follow(&mut self, topology: &Topology) -> Result<Vec<Heard>, Error> {
        let mut heard = Vec::new();
        let nodes = crate::desired::namespaces(topology);
        for node in self.nodes.keys().filter(|node| !nodes.contains(*node)).cloned().collect::<Vec<_>>() {
            self.let_go(&node);
        }
        let homes = topology.nodes.values().map(|node| &node.home);
        let users: BTreeSet<&Option<String>> = homes
            .filter_map(|home| match home {
                Home::Podman { user, .. } => Some(user),
                Home::Netns(_) => None,
            })
            .collect();
        for user in users {
            // A user who is not there has no containers; `up` says so.
            for folder in podman::run_roots(user.as_deref()).unwrap_or_default() {
                let owners = self.owners.entry(folder.clone()).or_default();
                if owners.insert(user.clone()) && owners.len() == 1 {
                    self.paths.watch_containers(&folder);
                }
            }
        }
        self.look_at(topology, &nodes, &mut heard);
        Ok(heard)
    }

    /// Listens to what runs in these places and was not listened to, and lets go of what is not its node's any more.
    pub fn look(&mut self, topology: &Topology, places: &BTreeSet<Place>) -> Vec<Heard> {
        let mut nodes = BTreeSet::new();
        for place in places {
            match place {
                Place::Containers(folder) => {
                    let owners = self.owners.get(folder);
                    let is_of = |user: &Option<String>| owners.is_some_and(|owners| owners.contains(user));
                    let found = topology.nodes.values().filter(|node| match &node.home {
                        Home::Podman { user, .. } => node.shares.is_none() && is_of(user),
                        Home::Netns(_) => false,
                    });
                    nodes.extend(found.map(|node| node.name.clone()));
                }
                Place::Namespaces => nodes.extend(named(topology)),
            }
        }
        let mut heard = Vec::new();
        self.look_at(topology, &nodes, &mut heard);
        heard
    }

    /// What of these nodes runs and is not listened to yet, and what is listened to and is not theirs any more.
    fn look_at(&mut self, topology: &Topology, nodes: &BTreeSet<Name>, heard: &mut Vec<Heard>) {
        let mut podman = Podman::by_files();
        for node in nodes {
            let home = topology.nodes.get(node).map(|node| &node.home);
            if let Some(id) = self.nodes.get(node) {
                let (_, ear) = &self.ears[id];
                let moved = match home {
                    Some(Home::Netns(name)) => !ear.netns.is_named(name.as_str()),
                    // Its end is told by itself.
                    Some(Home::Podman { .. }) | None => false,
                };
                if !moved {
                    continue;
                }
                let cookie = ear.cookie;
                self.let_go(node);
                heard.push(Heard::Ended(node.clone(), cookie));
            }
            let found = match home {
                None => Netns::own().map(|netns| Some((netns, None))),
                Some(Home::Netns(name)) => Netns::named(name.as_str()).map(|netns| Some((netns?, None))),
                Some(Home::Podman { container, user }) => match podman.find(container, user.as_deref()) {
                    Ok(Standing::Running(held)) => Ok(Some((Netns::held(held.namespace), Some(held.process)))),
                    Ok(Standing::Waiting(_)) => Ok(None),
                    Err(error) => Err(error),
                },
            };
            let opened = found.and_then(|found| match found {
                Some((netns, process)) => Ear::open(netns, process, &self.home).map(Some),
                None => Ok(None),
            });
            match opened.and_then(|ear| ear.map_or(Ok(false), |ear| self.keep(node, ear).map(|()| true))) {
                Ok(true) => heard.push(Heard::Runs(node.clone())),
                Ok(false) => drop(self.refused.remove(node)),
                Err(error) if self.refused.get(node) == Some(&error.message) => {}
                Err(error) => {
                    self.refused.insert(node.clone(), error.message.clone());
                    heard.push(Heard::Deaf(node.clone(), error));
                }
            }
        }
    }

    fn keep(&mut self, node: &Name, ear: Ear) -> Result<(), Error> {
        let id = self.next;
        self.next += 1;
        self.add(&ear.route, Token::Ear(id, What::Route), EpollFlags::EPOLLIN)?;
        self.add(&ear.rules, Token::Ear(id, What::Rules), EpollFlags::EPOLLIN)?;
        if let Some(process) = &ear.process {
            self.add(process, Token::Ear(id, What::Process), EpollFlags::EPOLLIN)?;
        }
        self.nodes.insert(node.clone(), id);
        self.ears.insert(id, (node.clone(), ear));
        self.refused.remove(node);
        Ok(())
    }

    /// What is closed is waited for no more, and keeps nothing alive.
    fn let_go(&mut self, node: &Name) {
        if let Some(id) = self.nodes.remove(node) {
            self.ears.remove(&id);
        }
    }

    /// Somebody has looked at these namespaces and found them right: what led there is no news.
    pub fn looked(&mut self, seen: &State) {
        for (node, namespace) in &seen.namespaces {
            if let Some((_, ear)) = self.nodes.get(node).and_then(|id| self.ears.get_mut(id)) {
                ear.generation = Some(namespace.generation);
            }
        }
    }

    /// Waits until something is heard, at most until then; for ever where there is no end.
    pub fn wait(&mut self, topology: &Topology, until: Option<Instant>) -> Result<Vec<Heard>, Error> {
        let mut events = [EpollEvent::empty(); EVENTS];
        // Rounded up, or the last millisecond would be spent asking.
        let left = until.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let left = left.map_or(EpollTimeout::NONE, |left| EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX));
        let count = match self.epoll.wait(&mut events, left) {
            Err(Errno::EINTR) => 0,
            count => count.context("cannot wait for news of the kernel")?,
        };
        let mut heard = Vec::new();
        let mut parts: BTreeSet<(Name, Part)> = BTreeSet::new();
        let mut again: BTreeSet<Name> = BTreeSet::new();
        for event in &events[..count] {
            match Token::from(event.data()) {
                Token::Signals => heard.extend(self.signals()),
                Token::Other(other) => heard.push(Heard::Other(other)),
                Token::Mounts if named(topology).next().is_none() => {}
                Token::Mounts => heard.push(Heard::Place(Place::Namespaces)),
                Token::Paths => self.hear_paths(&mut heard),
                Token::Ear(id, what) => {
                    // One that was let go of just now.
                    let Some((node, ear)) = self.ears.get_mut(&id) else { continue };
                    let mut told = Vec::new();
                    match what {
                        What::Route => ear.hear_routes(&mut told),
                        What::Rules => ear.hear_rules(&mut told),
                        What::Process => {
                            let (node, cookie) = (node.clone(), ear.cookie);
                            self.let_go(&node);
                            // It may run again already, and that may have been told before.
                            again.insert(node.clone());
                            heard.push(Heard::Ended(node, cookie));
                            continue;
                        }
                    }
                    parts.extend(told.into_iter().map(|part| (node.clone(), part)));
                }
            }
        }
        if !again.is_empty() {
            self.look_at(topology, &again, &mut heard);
        }
        heard.extend(parts.into_iter().map(|(node, part)| Heard::Change(node, part)));
        Ok(heard)
    }

    fn signals(&self) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Ok(Some(signal)) = self.signals.read_signal() {
            heard.push(if signal.ssi_signo == Signal::SIGHUP as u32 { Heard::Reload } else { Heard::End });
        }
        heard
    }

    fn hear_paths(&mut self, heard: &mut Vec<Heard>) {
        for changed in self.paths.changed() {
            match changed {
                Changed::File(path) => heard.push(Heard::File(path)),
                Changed::Containers(folder) => heard.push(Heard::Place(Place::Containers(folder))),
                Changed::Anything => {
                    heard.extend(self.files.iter().cloned().map(Heard::File));
                    heard.extend(self.owners.keys().cloned().map(|folder| Heard::Place(Place::Containers(folder))));
                }
            }
        }
    }
}

/// The nodes that are named namespaces.
fn named(topology: &Topology) -> impl Iterator<Item = Name> + '_ {
    let nodes = topology.nodes.values().filter(|node| node.shares.is_none() && matches!(node.home, Home::Netns(_)));
    nodes.map(|node| node.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_both_ways() {
        let ears = [0, 1, 7, u64::MAX >> 4].into_iter();
        let ears = ears.flat_map(|id| [What::Route, What::Rules, What::Process].map(|what| Token::Ear(id, what)));
        for token in [
            Token::Signals,
            Token::Paths,
            Token::Mounts,
            Token::Other(Other::Answers),
            Token::Other(Other::Guests),
            Token::Other(Other::Hubs),
        ]
        .into_iter()
        .chain(ears)
        {
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }
}
