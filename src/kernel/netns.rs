//! Network namespaces as file descriptors: opened, told apart, entered and left again. A name or a pid is somebody else's
//! business; what arrives here is already held open and cannot turn into another namespace.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat, stat};
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{Context, Error};

/// `NSFS_MAGIC` (linux/magic.h).
const NSFS: FsType = FsType(0x6e736673);

pub struct Netns(OwnedFd);

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Netns {
    /// The one that `wire` runs in.
    pub fn own() -> Result<Netns, Error> {
        let file = File::open("/proc/thread-self/ns/net").context("cannot open wire's own network namespace")?;
        Ok(Netns(file.into()))
    }

    /// A named one, as `ip netns add` makes it. `None` when there is none of that name.
    pub fn named(name: &str) -> Result<Option<Netns>, Error> {
        let path = Path::new("/run/netns").join(name);
        // People put links to a process's namespace there. What else might lie there must not make us wait.
        match nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty()) {
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).context(format!("cannot open {}", path.display())),
            // What is left of a namespace after its mount has gone is an empty file.
            Ok(fd) if fstatfs(&fd).map(|stat| stat.filesystem_type()) != Ok(NSFS) => Ok(None),
            Ok(fd) => Ok(Some(Netns(fd))),
        }
    }

    /// One that somebody found and opened.
    pub fn held(fd: OwnedFd) -> Netns {
        Netns(fd)
    }

    /// Device and inode: the same for two descriptors of one namespace, as long as both are open. (The kernel gives the number
    /// of a namespace that is gone to the next one at once.)
    pub fn key(&self) -> Result<(u64, u64), Error> {
        let stat = fstat(&self.0).context("cannot tell a network namespace from another")?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Whether a name still leads to this namespace.
    pub fn is_named(&self, name: &str) -> bool {
        let path = Path::new("/run/netns").join(name);
        stat(&path).is_ok_and(|stat| self.key().ok() == Some((stat.st_dev, stat.st_ino)))
    }

    /// Does something in this namespace and comes home.
    ///
    /// The thread itself moves. One that cannot come home must not go on: everything it does next would hit a namespace that
    /// nobody meant.
    pub fn inside<T>(&self, home: &Netns, work: impl FnOnce() -> T) -> Result<T, Error> {
        struct Return<'a>(&'a Netns);
        impl Drop for Return<'_> {
            fn drop(&mut self) {
                if setns(&self.0.0, CloneFlags::CLONE_NEWNET).is_err() {
                    std::process::abort();
                }
            }
        }
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
        let _return = Return(home);
        Ok(work())
    }
}
