//! The change that waits for its confirmation, in `/run/wire`: a file that goes when it is confirmed or undone. Whoever waits to
//! undo it holds that very file open and locked, so that it is known whether anybody does, and whether the file is still the one
//! that is meant. Times are those since boot, sleep included, for clocks are set.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::fstat;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::run::{DIRECTORY, Lock, RunDirectory};
use crate::error::{Context, Error};

pub(super) const PENDING: &str = "pending.json";
pub(super) const UNDONE: &str = "undone.json";
/// More than `wire` ever writes there.
const LARGEST: u64 = 1 << 20;

/// A change that is undone again unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// When it was made, in milliseconds since boot.
    pub made: u64,
    /// How long it waits, in seconds.
    pub term: u64,
}

/// What became of one that nobody confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// In milliseconds since boot.
    pub at: u64,
    /// How many seconds it had waited.
    pub term: u64,
    /// How many changes that took.
    pub changes: usize,
    /// What could not be undone.
    pub failed: Vec<String>,
}

/// Milliseconds since boot.
pub fn now() -> u64 {
    // This clock has been there since Linux 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| Duration::from(time).as_millis() as u64)
}

/// The time of the clock that supervisors go by (`CLOCK_MONOTONIC`).
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

impl Pending {
    pub fn left(&self) -> Duration {
        Duration::from_millis((self.made + self.term * 1000).saturating_sub(now()))
    }

    /// The seconds that are left, none of them begun.
    pub fn seconds(&self) -> u64 {
        self.left().as_millis().div_ceil(1000) as u64
    }
}

/// The file of a pending change, held by the one that waits.
pub struct Held(Flock<OwnedFd>);

impl Held {
    /// Whether it was confirmed, or another change waits now.
    pub fn is_gone(&self) -> bool {
        fstat(&*self.0).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

impl RunDirectory {
    /// Where it is kept that one waits.
    pub fn pending_file() -> PathBuf {
        Path::new(DIRECTORY).join(PENDING)
    }

    /// The change that waits, and whether there is anybody who would undo it.
    pub fn pending(&self) -> Result<Option<(Pending, bool)>, Error> {
        let Some(pending) = self.kept::<Pending>(PENDING)? else { return Ok(None) };
        let Some(file) = self.0.file(PENDING, OFlag::O_RDONLY)? else { return Ok(None) };
        let held = matches!(Flock::lock(file, FlockArg::LockExclusiveNonblock), Err((_, Errno::EWOULDBLOCK)));
        Ok(Some((pending, held)))
    }

    pub fn put_pending(&self, pending: &Pending, _lock: &Lock) -> Result<(), Error> {
        self.0.remove(UNDONE)?;
        self.keep(PENDING, pending)
    }

    /// Holds it, as the one who waits.
    pub fn hold_pending(&self) -> Result<Held, Error> {
        let path = self.0.path_of(PENDING);
        let file = self.0.file(PENDING, OFlag::O_RDONLY)?;
        let file = file.ok_or_else(|| Error::failed(format!("{path} went away")))?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        held.map(Held).map_err(|(_, errno)| Error::failed(format!("cannot lock {path}: {errno}")))
    }

    pub fn drop_pending(&self, _lock: &Lock) -> Result<(), Error> {
        self.0.remove(PENDING)
    }

    /// What was undone last, if nothing has waited since.
    pub fn undone(&self) -> Result<Option<Undone>, Error> {
        self.kept(UNDONE)
    }

    pub fn put_undone(&self, undone: &Undone, _lock: &Lock) -> Result<(), Error> {
        self.keep(UNDONE, undone)
    }

    fn kept<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.0.read(name, LARGEST)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| self.0.damaged(name, &error.to_string()))
    }

    fn keep<T: Serialize>(&self, name: &str, what: &T) -> Result<(), Error> {
        let text = serde_json::to_vec(what).context(format!("cannot write {}", self.0.path_of(name)))?;
        self.0.write(name, &text)
    }
}
