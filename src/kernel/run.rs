//! `/run/wire`: the lock that runs queue on, and the few settings that must be remembered to be put back.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;

use super::pending::{PENDING, UNDONE};
use super::starting::STARTING;
use super::store::Store;
use crate::error::{Context, Error};

pub(super) const DIRECTORY: &str = "/run/wire";
const LOCK: &str = "lock";
const REMEMBERED: &str = "remembered.json";
const WATCHER: &str = "watch";
const READY: &str = "ready";
/// More than `wire` ever writes there.
const REMEMBERED_MAX: u64 = 16 << 20;

/// By the cookie of a namespace: sysctls as they were, by their path below `/proc/sys`.
pub type Remembered = BTreeMap<u64, BTreeMap<String, i32>>;

/// The directory, held open.
pub struct RunDirectory(pub(super) Store);

impl RunDirectory {
    /// Opens it, if it is there.
    pub fn look() -> Result<Option<RunDirectory>, Error> {
        Ok(Store::look(DIRECTORY)?.map(RunDirectory))
    }

    /// Opens it, made where it is missing.
    pub fn open() -> Result<RunDirectory, Error> {
        Store::open(DIRECTORY, Mode::S_IRWXU).map(RunDirectory)
    }

    /// Whether it is still the one that others find.
    pub fn is_in_place(&self) -> bool {
        self.0.is_in_place()
    }

    /// A file that is there to be locked, with its path.
    fn to_lock(&self, name: &str) -> Result<(String, OwnedFd), Error> {
        let path = self.0.path_of(name);
        let file = self.0.file(name, OFlag::O_RDWR | OFlag::O_CREAT)?;
        let file = file.ok_or_else(|| Error::failed(format!("{path} went away")))?;
        Ok((path, file))
    }

    /// Waits for its turn. `waiting` is called once if there is somebody to wait for.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<Lock, Error> {
        let (path, file) = self.to_lock(LOCK)?;
        let failed = |(_, errno): (OwnedFd, Errno)| Error::failed(format!("cannot lock {path}: {errno}"));
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, Errno::EWOULDBLOCK)) => {
                waiting();
                Flock::lock(file, FlockArg::LockExclusive)
            }
            done => done,
        };
        lock.map(|lock| self.taken(lock)).map_err(failed)
    }

    /// The same, but not for ever.
    pub fn lock_within(&self, limit: Duration) -> Result<Lock, Error> {
        let (path, file) = self.to_lock(LOCK)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(self.taken(lock)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno).context(format!("cannot lock {path}")),
        };
        // It waits in the queue like everybody else, in a thread that lets go again of what comes too late.
        let (turn, told) = mpsc::channel();
        thread::spawn(move || drop(turn.send(Flock::lock(file, FlockArg::LockExclusive))));
        match told.recv_timeout(limit) {
            Ok(Ok(lock)) => Ok(self.taken(lock)),
            Ok(Err((_, errno))) => Err(errno).context(format!("cannot lock {path}")),
            Err(_) => Err(Error::failed("another run of wire is not done yet")
                .hint("try again when it has ended; `wire up` wires all that runs then")),
        }
    }

    /// Whoever was killed before has left nothing half written to whoever comes now.
    fn taken(&self, lock: Flock<OwnedFd>) -> Lock {
        [REMEMBERED, PENDING, UNDONE, STARTING].into_iter().for_each(|name| self.0.tidy(name));
        Lock(lock)
    }

    /// Holds the place of the one who watches, as long as the value lives. There is one at a time.
    pub fn watcher(&self) -> Result<Watcher, Error> {
        let (path, file) = self.to_lock(WATCHER)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Watcher(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(Error::failed("another `wire watch` runs already").hint(
                "one is enough: /run/wire/ready has its process id, and `wire service status` tells who supervises it",
            )),
            Err((_, errno)) => Err(Error::failed(format!("cannot lock {path}: {errno}"))),
        }
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        let file = self.0.file(WATCHER, OFlag::O_RDWR).ok().flatten();
        file.is_some_and(|file| matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK))))
    }

    /// Says whether the one who watches has made everything as it is to be, for init scripts to wait for.
    pub fn set_ready(&self, is_ready: bool) -> Result<(), Error> {
        match is_ready {
            true => self.0.write(READY, format!("{}\n", std::process::id()).as_bytes()),
            false => self.0.remove(READY),
        }
    }

    pub fn remembered(&self) -> Result<Remembered, Error> {
        let Some(text) = self.0.read(REMEMBERED, REMEMBERED_MAX)? else { return Ok(Remembered::new()) };
        serde_json::from_str(&text).map_err(|error| self.0.damaged(REMEMBERED, &error.to_string()))
    }

    /// Forgets what settings were before in namespaces that have ended, by their cookies.
    pub fn forget(&self, ended: &BTreeSet<u64>, _lock: &Lock) -> Result<(), Error> {
        let mut remembered = self.remembered()?;
        let before = remembered.len();
        remembered.retain(|cookie, _| !ended.contains(cookie));
        if remembered.len() == before { Ok(()) } else { self.remember(&remembered) }
    }

    pub fn remember(&self, remembered: &Remembered) -> Result<(), Error> {
        if remembered.is_empty() {
            return self.0.remove(REMEMBERED);
        }
        let text = serde_json::to_vec(remembered).context(format!("cannot write {}", self.0.path_of(REMEMBERED)))?;
        self.0.write(REMEMBERED, &text)
    }
}

/// The place of the one who watches.
pub struct Watcher(#[expect(dead_code, reason = "held, not read")] Flock<OwnedFd>);

/// Held until it is dropped, or the process ends however it ends.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<OwnedFd>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_not_waited_for_without_end() {
        let path = std::env::temp_dir().join(format!("wire-lock-{}", std::process::id()));
        let run = RunDirectory(Store::open(path.to_str().unwrap(), Mode::S_IRWXU).unwrap());
        let held = run.lock_within(Duration::ZERO).unwrap();
        let error = run.lock_within(Duration::from_millis(20)).err().unwrap();
        assert_eq!(error.message, "another run of wire is not done yet");
        let got = thread::scope(|scope| {
            let waits = scope.spawn(|| run.lock_within(Duration::from_secs(20)).is_ok());
            drop(held);
            waits.join().unwrap()
        });
        assert!(got, "it is had when it is free, whoever came too late before");
        std::fs::remove_dir_all(path).unwrap();
    }
}
