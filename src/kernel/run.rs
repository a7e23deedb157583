//! `/run/wire`: the lock that runs queue on, and the few settings that must be remembered to be put back. Nothing in it is
//! trusted to be what it was: the directory and its files are opened without following links and their owner is checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::error::{Context, Error};

const DIRECTORY: &str = "/run/wire";
const LOCK: &str = "lock";
const REMEMBERED: &str = "remembered.json";
/// More than `wire` ever writes there.
const REMEMBERED_MAX: u64 = 16 << 20;

/// By the cookie of a namespace: sysctls as they were, by their path below `/proc/sys`.
pub type Remembered = BTreeMap<u64, BTreeMap<String, i32>>;

/// The directory, held open.
pub struct RunDirectory(OwnedFd);

impl RunDirectory {
    /// Opens it, if it is there.
    pub fn look() -> Result<Option<RunDirectory>, Error> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = match open(DIRECTORY, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            // ELOOP or ENOTDIR: a link or something else has its name.
            Err(errno) => {
                let error = Error::failed(format!("{DIRECTORY} is no directory of wire's own: {}", errno.desc()));
                return Err(error.hint(format!("see what it is with `ls -ld {DIRECTORY}` and remove it")));
            }
            Ok(directory) => directory,
        };
        own(&fstat(&directory).context(format!("cannot look at {DIRECTORY}"))?, DIRECTORY)?;
        Ok(Some(RunDirectory(directory)))
    }

    /// Opens it, made where it is missing.
    pub fn open() -> Result<RunDirectory, Error> {
        match mkdirat(nix::fcntl::AT_FDCWD, DIRECTORY, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).context(format!("cannot make {DIRECTORY}")),
        }
        RunDirectory::look()?.ok_or_else(|| Error::failed(format!("{DIRECTORY} went away")))
    }

    /// Waits for its turn. `waiting` is called once if there is somebody to wait for.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<Lock, Error> {
        let path = format!("{DIRECTORY}/{LOCK}");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat(&self.0, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => file,
            Err(errno) => return Err(not_own(&path, errno.desc())),
        };
        own_file(&file, &path)?;
        let failed = |(_, errno): (OwnedFd, Errno)| Error::failed(format!("cannot lock {path}: {errno}"));
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((file, Errno::EWOULDBLOCK)) => {
                waiting();
                Flock::lock(file, FlockArg::LockExclusive).map(Lock).map_err(failed)
            }
            Err(refused) => Err(failed(refused)),
        }
    }

    pub fn remembered(&self) -> Result<Remembered, Error> {
        let path = format!("{DIRECTORY}/{REMEMBERED}");
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat(&self.0, REMEMBERED, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(Remembered::new()),
            Err(errno) => return Err(not_own(&path, errno.desc())),
            Ok(file) => file,
        };
        own_file(&file, &path)?;
        let mut text = String::new();
        File::from(file).take(REMEMBERED_MAX).read_to_string(&mut text).context(format!("cannot read {path}"))?;
        serde_json::from_str(&text).map_err(|error| not_own(&path, &error.to_string()))
    }

    /// Written whole and put in place at once, so that a kill leaves the old or the new.
    pub fn remember(&self, remembered: &Remembered) -> Result<(), Error> {
        let path = format!("{DIRECTORY}/{REMEMBERED}");
        if remembered.is_empty() {
            return match unlinkat(&self.0, REMEMBERED, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => Ok(()),
                Err(errno) => Err(errno).context(format!("cannot remove {path}")),
            };
        }
        let new = "remembered.json.new";
        let _ = unlinkat(&self.0, new, UnlinkatFlags::NoRemoveDir);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file =
            openat(&self.0, new, flags, Mode::S_IRUSR | Mode::S_IWUSR).context(format!("cannot write {path}"))?;
        let text = serde_json::to_vec(remembered).context(format!("cannot write {path}"))?;
        File::from(file).write_all(&text).context(format!("cannot write {path}"))?;
        renameat(&self.0, new, &self.0, REMEMBERED).context(format!("cannot write {path}"))
    }
}

/// Held until it is dropped, or the process ends however it ends.
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<OwnedFd>);

fn own_file(file: &impl AsFd, path: &str) -> Result<(), Error> {
    let stat = fstat(file).context(format!("cannot look at {path}"))?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFREG || stat.st_nlink != 1 {
        return Err(not_own(path, "it is no plain file"));
    }
    own(&stat, path)
}

fn own(stat: &FileStat, path: &str) -> Result<(), Error> {
    if stat.st_uid != geteuid().as_raw() {
        return Err(not_own(path, "it belongs to somebody else"));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(not_own(path, "others may write to it"));
    }
    Ok(())
}

fn not_own(path: &str, why: &str) -> Error {
    Error::failed(format!("{path} is not wire's own: {why}"))
        .hint(format!("see what it is with `ls -ld {path}` and remove it"))
}
