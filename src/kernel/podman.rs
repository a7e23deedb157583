//! From the name of a podman container to its network namespace, held open and proven to be that container's and its user's.
//! Written-down state comes first, podman itself last; neither is believed before the kernel agrees. It changes nothing, and
//! knows nothing of wires.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use crate::error::{Context, Error};
use crate::topology::Name;

use super::process::{self, Found, Held, Identity};
use super::sys;
use super::user::User;

mod ask;
pub(super) mod files;

use ask::Container;
use files::Files;

/// Where a container is, right now.
#[derive(Debug)]
pub enum Standing {
    /// Its first process and its network namespace: it was that container's when asked for, and stays the same namespace.
    Running(Held),
    /// It does not run now; the sentence says why.
    Waiting(String),
}

/// The containers of every user asked for, each user's looked up once until `refresh`.
pub struct Podman {
    may_ask: bool,
    owners: BTreeMap<String, Owner>,
}

/// Below which folders it is written down what runs of a user's containers.
pub fn run_roots(user: Option<&str>) -> Result<Vec<PathBuf>, Error> {
    Ok(files::run_roots(&User::whose(user)?))
}

/// One user with containers, and what is known of these.
struct Owner {
    user: User,
    files: Files,
    /// What podman itself has said, once it was asked; a failure is not asked for again, it may have taken half a minute.
    answer: Option<Result<Option<Vec<Container>>, Error>>,
}

impl Podman {
    pub fn new() -> Podman {
        Podman { may_ask: true, owners: BTreeMap::new() }
    }

    /// One that goes by what is written down alone: what no file tells of does not run.
    pub fn by_files() -> Podman {
        Podman { may_ask: false, owners: BTreeMap::new() }
    }

    /// Whether it finds every container that runs.
    pub fn may_ask(&self) -> bool {
        self.may_ask
    }

    /// Where a container of a user is (of root, where there is no user).
    ///
    /// Fails when the user does not exist or is somebody else and `wire` is not root, when podman is nowhere to be found or
    /// fails, and when the namespace is not the user's own or is the one that `wire` itself is in.
    pub fn find(&mut self, container: &Name, user: Option<&str>) -> Result<Standing, Error> {
        let may_ask = self.may_ask;
        let owner = self.owner(user)?;
        let name = container.as_str();
        match pinned(owner.files.processes(name)) {
            Some(held) => owner.claim(name, held),
            None if may_ask => owner.ask_for(name),
            None => Ok(owner.not_running(name)),
        }
    }

    /// All running containers of a user, with their namespaces: also those that no file names any more may hold wires. Those
    /// that share the host's namespace, or are in another user's, hold none and are left out.
    pub fn running(&mut self, user: Option<&str>) -> Result<Vec<(String, OwnedFd)>, Error> {
        let may_ask = self.may_ask;
        let owner = self.owner(user)?;
        let mut running = Vec::new();
        if owner.files.exist || !may_ask {
            let named = owner.files.names().map(|name| (name.to_owned(), pinned(owner.files.processes(name))));
            running.extend(named.filter_map(|(name, held)| Some((name, held?.namespace))));
        } else {
            for container in owner.ask()?.unwrap_or_default() {
                let name = container.names.iter().find(|name| Name::new(name).is_some());
                running.extend(name.cloned().zip(pinned([container.process()]).map(|held| held.namespace)));
            }
        }
        running.retain(|(_, namespace)| check(namespace, &owner.user).is_ok());
        Ok(running)
    }

    /// Forgets what was looked up, before looking again.
    pub fn refresh(&mut self) {
        self.owners.clear();
    }

    fn owner(&mut self, user: Option<&str>) -> Result<&mut Owner, Error> {
        match self.owners.entry(user.unwrap_or("root").to_owned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let user = User::whose(user)?;
                let files = Files::of(&user);
                Ok(place.insert(Owner { user, files, answer: None }))
            }
        }
    }
}

impl Owner {
    fn ask(&mut self) -> Result<Option<&[Container]>, Error> {
        let answer = self.answer.get_or_insert_with(|| ask::containers(&self.user));
        answer.as_ref().map(Option::as_deref).map_err(Error::clone)
    }

    /// The last way.
    fn ask_for(&mut self, name: &str) -> Result<Standing, Error> {
        let is_meant = |container: &&Container| container.names.iter().any(|known| known == name);
        let logged_out = !self.user.is_root() && !self.user.is_me() && self.user.session().is_none();
        // At boot, for one: podman keeps what runs in the directory of the user's session, and fails where that is gone (mkdir:
        // EACCES). With it went all that ran; what is kept elsewhere the files have told.
        if logged_out && self.files.exist && self.ask().is_err() {
            return Ok(self.not_running(name));
        }
        let container = match self.ask()?.map(|containers| containers.iter().find(is_meant).cloned()) {
            Some(Some(container)) => container,
            Some(None) => return Ok(Standing::Waiting(self.unknown(name))),
            None if self.files.exist => return Ok(self.not_running(name)),
            None => {
                let error = Error::failed(format!("{} cannot be looked up: podman is not here", self.called(name)));
                return Err(error.hint("install podman, or name another namespace for the node (`netns`)"));
            }
        };
        let called = self.called(name);
        if let Some(why) = container.not_running() {
            return Ok(Standing::Waiting(format!("{called} {why}")));
        }
        let (pid, identity) = container.process();
        match process::network_namespace(pid, &identity).context(format_args!("opening the namespace of {called}"))? {
            Found::Held(held) => self.claim(name, held),
            Found::Gone => {
                Ok(Standing::Waiting(format!("{called} is stopping or restarting: its process {pid} is gone")))
            }
            Found::Recycled => Ok(Standing::Waiting(format!(
                "{called} does not run: its process is gone and {pid} is another one now"
            ))),
        }
    }

    /// A container's namespace, once it is known to be the user's.
    fn claim(&self, name: &str, held: Held) -> Result<Standing, Error> {
        match check(&held.namespace, &self.user) {
            Ok(()) => Ok(Standing::Running(held)),
            Err(why) => Err(why.refusal(&self.called(name), &self.user)),
        }
    }

    /// What the files alone can say of a container without a living process.
    fn not_running(&self, name: &str) -> Standing {
        let is_known = self.files.names().any(|known| known == name);
        Standing::Waiting(if is_known { format!("{} does not run", self.called(name)) } else { self.unknown(name) })
    }

    fn unknown(&self, name: &str) -> String {
        match self.user.is_root() {
            true => format!("root has no container `{name}`"),
            false => format!("user `{}` has no container `{name}`", self.user.name),
        }
    }

    fn called(&self, name: &str) -> String {
        match self.user.is_root() {
            true => format!("container `{name}`"),
            false => format!("container `{name}` of user `{}`", self.user.name),
        }
    }
}

/// The namespace of the first process that is proven. What is not is old news, and podman has newer.
fn pinned(processes: impl IntoIterator<Item = (u32, Identity)>) -> Option<Held> {
    processes.into_iter().find_map(|(pid, identity)| match process::network_namespace(pid, &identity) {
        Ok(Found::Held(held)) => Some(held),
        _ => None,
    })
}

impl Container {
    fn process(&self) -> (u32, Identity) {
        (self.pid, Identity::Container { id: self.id.clone(), started: self.started_at })
    }

    /// Why there is no namespace to be had, to follow the container's name. `initialized` and `paused` have one.
    fn not_running(&self) -> Option<String> {
        match self.state.as_str() {
            "created" | "configured" => Some("was created but never started".into()),
            "exited" | "stopped" => Some(format!("is stopped (exit code {})", self.exit_code)),
            "stopping" => Some("is stopping".into()),
            "removing" => Some("is being removed".into()),
            _ => (self.pid <= 1).then(|| "does not run".into()),
        }
    }
}

/// Why a namespace is not taken for a container's, whatever its user says.
#[derive(Debug)]
pub(super) enum Foreign {
    /// `wire` itself is in it.
    Ours,
    /// It belongs to this user id.
    Owned(u32),
    /// It belongs to somebody that cannot even be seen from `wire`'s user namespace.
    Outside,
    Unreadable(io::Error),
}

impl From<io::Error> for Foreign {
    fn from(error: io::Error) -> Foreign {
        Foreign::Unreadable(error)
    }
}

impl Foreign {
    pub(super) fn refusal(self, called: &str, user: &User) -> Error {
        let of_another = |whom: &str| {
            Error::failed(format!("what is said to be the namespace of {called} belongs to {whom}")).hint(format!(
                "restart that container; if it stays so, see what `{}` did to podman's state files",
                user.name
            ))
        };
        match self {
            Foreign::Ours => Error::failed(format!("{called} lives in the host's own network namespace"))
                .hint("run it with `--network none`, or say `shares = \"host\"` in its table"),
            Foreign::Owned(uid) => of_another(&User::name_of(uid)),
            Foreign::Outside => of_another("a user namespace outside of ours"),
            Foreign::Unreadable(error) => Error::failed(format!("asking whose the namespace of {called} is: {error}")),
        }
    }
}

/// Whether a namespace can be a container's of that user: it is not ours, and that user owns it, as the kernel knows it. A
/// rootless user can make any process's namespace look like a container's; this is what they cannot make up.
pub(super) fn check(namespace: &OwnedFd, user: &User) -> Result<(), Foreign> {
    // The number of a namespace (st_ino) is handed out again at once, but not while it is held open, as both are here.
    let ours = File::open("/proc/self/ns/net")?;
    if same(&ours, namespace)? {
        return Err(Foreign::Ours);
    }
    match owner(namespace) {
        Ok(uid) if uid == user.uid => Ok(()),
        Ok(uid) => Err(Foreign::Owned(uid)),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Foreign::Outside),
        Err(error) => Err(error.into()),
    }
}

/// The user id that a network namespace belongs to. A container may have a user namespace of its own inside its user's, made
/// by whatever id it had there (`--userns`), so what counts is who made the outermost one below our own.
fn owner(namespace: &OwnedFd) -> io::Result<u32> {
    let ours = File::open("/proc/self/ns/user")?;
    let mut owning = sys::owning_user_namespace(namespace.as_fd())?;
    while !same(&ours, &owning)? {
        match sys::parent_user_namespace(owning.as_fd()) {
            Ok(parent) if !same(&ours, &parent)? => owning = parent,
            // EPERM: the parent would be outside of ours, which `owning` as a descendant of ours rules out.
            Ok(_) | Err(Errno::EPERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sys::owner_of_user_namespace(owning.as_fd())?)
}

pub(super) fn same(a: &impl AsFd, b: &impl AsFd) -> io::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: &str, pid: u32) -> Container {
        let exit_code = 137;
        Container { id: "e7".into(), names: vec!["a".into()], pid, state: state.into(), started_at: None, exit_code }
    }

    #[test]
    fn a_state_is_said_in_words() {
        for (state, pid, why) in [
            ("running", 7893, None),
            ("paused", 7893, None),
            ("initialized", 7893, None),
            ("created", 0, Some("was created but never started")),
            ("configured", 0, Some("was created but never started")),
            ("exited", 0, Some("is stopped (exit code 137)")),
            ("stopped", 0, Some("is stopped (exit code 137)")),
            ("stopping", 7893, Some("is stopping")),
            ("removing", 0, Some("is being removed")),
            ("running", 0, Some("does not run")),
            ("\u{1b}[31m", 0, Some("does not run")),
        ] {
            assert_eq!(container(state, pid).not_running().as_deref(), why, "{state}");
        }
    }

    #[test]
    fn our_own_namespace_is_nobodys_container() {
        let ours: OwnedFd = File::open("/proc/self/ns/net").unwrap().into();
        let me = User { name: "me".into(), uid: nix::unistd::Uid::effective().as_raw(), gid: 0, home: "/".into() };
        let refused = check(&ours, &me).unwrap_err();
        assert!(matches!(refused, Foreign::Ours));
        let error = refused.refusal("container `a`", &me);
        assert_eq!(error.message, "container `a` lives in the host's own network namespace");
    }

    #[test]
    fn users_that_are_not_there_are_said() {
        let name = Name::new("a").unwrap();
        let error = Podman::new().find(&name, Some("no-such-user")).unwrap_err();
        assert_eq!(error.message, "there is no user `no-such-user` on this machine");
        assert!(error.hint.is_some());
    }
}
