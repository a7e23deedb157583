//! Containers that are being started. While an OCI hook runs, neither podman nor the runtime has written down which
//! process is the container's: only the hook is told. So it leaves a note of that in `/run/wire`, for whoever wires
//! another container meanwhile. What a note says has to be proven like every other claim. It knows nothing of wires.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::netns::Netns;
use super::pending::now;
use super::podman::files::{self, Files};
use super::podman::{self, Podman, Standing};
use super::process::{self, Identity, USER_HZ};
use super::run::{Lock, RunDirectory};
use super::sys;
use super::user::User;
use crate::error::{Context, Error};
use crate::topology::{Home, Name, Topology};

pub(super) const STARTING: &str = "starting.json";
/// More than `wire` ever writes there.
const LARGEST: u64 = 1 << 20;
/// Milliseconds after which the runtime has long written down what a note says.
const FORGOTTEN: u64 = 600_000;

/// No machine runs more containers that are nodes.
const MOST: usize = 4096;

/// Somebody whose containers are started.
pub struct Owner {
    user: User,
    files: Files,
}

impl Owner {
    pub fn root() -> Result<Owner, Error> {
        Ok(Owner::of(User::whose(None)?))
    }

    pub fn with_id(uid: u32) -> Result<Owner, Error> {
        User::with_id(uid).map(Owner::of)
    }

    fn of(user: User) -> Owner {
        let files = Files::of(&user);
        Owner { user, files }
    }

    /// Whether this is whom the topology calls so; root where it calls nobody.
    pub fn is(&self, user: Option<&str>) -> bool {
        user.unwrap_or("root") == self.user.name
    }

    /// The names of a container of theirs, by its id; none where it is not theirs.
    pub fn names(&self, id: &str) -> Vec<String> {
        self.files.names_of(id)
    }

    /// The process that is said to become a container, held by its namespace, which is theirs and not the host's.
    pub fn starting(&self, pid: u32, container: &Name) -> Result<Starting, Error> {
        let called = format!("container `{container}`");
        let tried = format!("opening the namespace of {called}");
        let Some((born, namespace)) = process::living(pid).context(tried)? else {
            return Err(Error::failed(format!("{called} has ended already: its process is gone")));
        };
        podman::check(&namespace, &self.user).map_err(|why| why.refusal(&called, &self.user))?;
        Ok(Starting { pid, born, namespace })
    }

    /// Another node of the topology that is this very namespace.
    pub fn lives_in(&self, topology: &Topology, own: &Name, id: &str, starting: &Starting) -> Option<Name> {
        if self.files.is_apart(id) {
            return None;
        }
        let mut podman = Podman::by_files();
        let mut same = |home: &Home| {
            let namespace = match home {
                Home::Netns(name) => Netns::named(name.as_str()).ok()??,
                Home::Podman { container, user } if self.is(user.as_deref()) => {
                    match podman.find(container, user.as_deref()).ok()? {
                        Standing::Running(held) => Netns::held(held.namespace),
                        Standing::Waiting(_) => return None,
                    }
                }
                Home::Podman { .. } => return None,
            };
            podman::same(&namespace, &starting.namespace).ok().filter(|same| *same)
        };
        let others = topology.nodes.values().filter(|node| node.name != *own && node.shares.is_none());
        others.into_iter().find(|node| same(&node.home).is_some()).map(|node| node.name.clone())
    }

    /// Leaves word that this process is that container.
    /// `cookie`: of its namespace, once that is known.
    pub fn note(&self, id: &str, starting: &Starting, cookie: Option<u64>, lock: &Lock) -> Result<(), Error> {
        let note = Note { pid: starting.pid, born: starting.born, cookie };
        self.change(lock, |notes| {
            notes.insert(key(self.user.uid, id), note);
        })
    }

    /// Takes that back, and forgets the namespace that went with it. The word goes last: who is killed in between is followed by
    /// somebody who still knows which namespace it was.
    pub fn forget(&self, id: &str, lock: &Lock) -> Result<(), Error> {
        let (run, key) = (RunDirectory::open()?, key(self.user.uid, id));
        let cookie = run.starting()?.0.get(&key).and_then(|note| note.cookie);
        run.forget(&cookie.into_iter().collect(), lock)?;
        self.change(lock, |notes| {
            notes.remove(&key);
        })
    }

    fn change(&self, _lock: &Lock, change: impl FnOnce(&mut BTreeMap<String, Note>)) -> Result<(), Error> {
        let run = RunDirectory::open()?;
        let before = run.starting()?;
        let mut notes = Notes(before.0.clone());
        let now = now();
        let is_old = |note: &Note| now.saturating_sub(note.born * 1000 / USER_HZ) >= FORGOTTEN;
        // One that has a cookie stays until its container ends, unless that was never told of too many.
        let too_many = notes.0.len() > MOST;
        notes.0.retain(|_, note| !is_old(note) || note.cookie.is_some() && !too_many);
        change(&mut notes.0);
        match notes == before {
            true => Ok(()),
            false => run.put_starting(&notes),
        }
    }
}

/// A process that is held until it becomes a container.
pub struct Starting {
    pid: u32,
    born: u64,
    namespace: OwnedFd,
}

/// By owner and id, as one word.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Notes(BTreeMap<String, Note>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    pid: u32,
    /// In clock ticks since boot.
    born: u64,
    /// Of its network namespace.
    #[serde(default)]
    cookie: Option<u64>,
}

fn key(uid: u32, id: &str) -> String {
    format!("{uid}/{id}")
}

impl Notes {
    /// What is noted now; nothing for whoever is not root.
    pub(super) fn look() -> Option<Notes> {
        if !Uid::effective().is_root() {
            return None;
        }
        RunDirectory::look().ok()??.starting().ok()
    }

    pub(super) fn process(&self, uid: u32, id: &str) -> Option<(u32, Identity)> {
        let note = self.0.get(&key(uid, id))?;
        Some((note.pid, Identity::Born(note.born)))
    }
}

impl RunDirectory {
    fn starting(&self) -> Result<Notes, Error> {
        let Some(text) = self.0.read(STARTING, LARGEST)? else { return Ok(Notes::default()) };
        serde_json::from_str(&text).map_err(|error| self.0.damaged(STARTING, &error.to_string()))
    }

    fn put_starting(&self, notes: &Notes) -> Result<(), Error> {
        if notes.0.is_empty() {
            return self.0.remove(STARTING);
        }
        let text = serde_json::to_vec(notes).context(format!("cannot write {}", self.0.path_of(STARTING)))?;
        self.0.write(STARTING, &text)
    }
}

/// The names that somebody's own list has for a container, by its folder and id.
pub fn names_beside(bundle: &Path, id: &str) -> Vec<String> {
    files::names_beside(bundle, id)
}

/// Whether this process has power over the network namespace that it is in. The hook of a container without root's
/// rights runs as root of a user namespace that owns the containers' networks, and not the host's.
pub fn rules_here() -> Result<bool, Error> {
    let tried = "cannot tell whose this network namespace is";
    let network = File::open("/proc/self/ns/net").context(tried)?;
    let own = File::open("/proc/self/ns/user").context(tried)?;
    match sys::owning_user_namespace(network.as_fd()) {
        Ok(owning) => Ok(Uid::effective().is_root() && podman::same(&own, &owning).context(tried)?),
        Err(Errno::EPERM) => Ok(false),
        Err(errno) => Err(errno).context(tried),
    }
}

/// The ids of the users, other than root, that these names are of.
pub fn ids<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u32> {
    let known = names.into_iter().filter_map(|name| nix::unistd::User::from_name(name).ok()?);
    known.map(|user| user.uid.as_raw()).filter(|uid| *uid != 0).collect()
}
