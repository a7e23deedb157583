//! Namespaces that `wire` makes and takes away again: `/run/netns/NAME`, as `ip netns add` makes it, with a mark. It does not know
//! which there should be.
//!
//! Whoever is killed in between leaves nothing that nobody knows: the file that is to carry the name is marked before the namespace
//! is there, which goes by itself as long as it has no name.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, lstat, stat};
use nix::unistd::{UnlinkatFlags, geteuid, mkdir, unlinkat};

use super::lab::LOOPBACK;
use super::link;
use super::netns::Netns;
use super::socket::{Batch, NETLINK_ROUTE, Socket};
use super::sys;
use super::sysctl::Sysctls;
use crate::error::{Context, Error};
use crate::state::{Maker, Setting, WHOLE_NAMESPACE};
use crate::topology::NETNS;

/// The alias of the loopback device in a namespace that `wire` made, for people to see. Whoever lives there can change it.
pub const MARK: &str = "wire";

/// The mark that nobody who lives there reaches, on the file that carries the namespace's name, below its mount: the sticky bit. It
/// means nothing on a file, nobody else gives it to one, and no umask takes it away.
const OURS: Mode = Mode::S_ISVTX;

/// The mode of such a file that was made for it: another was there before, and stays.
const MADE: Mode = OURS.union(Mode::S_IRUSR);

/// Device and inode, as long as the namespace is held open.
type Key = (u64, u64);

/// What stands in the place of a named namespace that is not there.
pub enum Spot {
    /// It can be made: there is nothing, what a killed run of `wire` left, or the empty file of a mount that has gone.
    Free(Maker),
    /// It cannot.
    Taken(String),
}

/// Looks at the place of a namespace that could not be opened.
pub fn spot(name: &str) -> Result<Spot, Error> {
    let path = format!("{NETNS}{name}");
    let stat = match lstat(path.as_str()) {
        Err(Errno::ENOENT) => return Ok(Spot::Free(Maker::Nobody)),
        stat => stat.context(format!("cannot look at {path}"))?,
    };
    Ok(match what(&stat) {
        None if is_begun(&stat) => Spot::Free(Maker::Killed),
        None => Spot::Free(Maker::Nobody),
        Some(what) => Spot::Taken(format!("{path} is {what}; see what it is with `ls -ld {path}` and remove it")),
    })
}

/// What else a file is than an empty one of ours.
fn what(stat: &FileStat) -> Option<&'static str> {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG if stat.st_size != 0 => Some("a file with something in it"),
        SFlag::S_IFREG if stat.st_uid != geteuid().as_raw() || stat.st_nlink != 1 => Some("somebody else's file"),
        SFlag::S_IFREG => None,
        SFlag::S_IFLNK => Some("a link that leads to no namespace"),
        SFlag::S_IFDIR => Some("a directory"),
        _ => Some("no file"),
    }
}

fn is_begun(stat: &FileStat) -> bool {
    what(stat).is_none() && stat.st_mode & OURS.bits() != 0
}

/// `/run/netns` as it is below what is mounted there: the files that carry names.
#[derive(Default)]
pub struct Files(OnceLock<Option<OwnedFd>>);

impl Files {
    /// Whether `wire` has made the namespace of this name. `marked`: it bears the mark for people, which has to do where nobody lets
    /// us see more.
    pub fn are_ours(&self, name: &str, marked: bool) -> bool {
        match self.0.get_or_init(|| sys::bare_mount(c"/run/netns").ok()) {
            Some(files) => fstatat(files, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|file| is_begun(&file)),
            None => marked,
        }
    }
}

/// Whether the namespace itself has this name: a link to it is another's.
pub fn is_named(netns: &Netns, name: &str) -> bool {
    let place = lstat(format!("{NETNS}{name}").as_str());
    place.is_ok_and(|place| netns.key().ok() == Some((place.st_dev, place.st_ino)))
}

/// Makes a namespace. It is born with its loopback up and forwards nothing, whatever the host's defaults are.
pub fn make(name: &str, home: &Netns, sysctls: &mut Sysctls) -> Result<Netns, Error> {
    let failed = || format!("cannot make {NETNS}{name}");
    let directory =
        directory().map_err(|error| Error { message: format!("{}: {}", failed(), error.message), ..error })?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = match openat(&directory, name, flags, MADE) {
        Ok(_) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(errno).context(failed()),
    };
    let born = mounted(name, &directory, home, sysctls);
    if born.is_err() && made {
        let _ = unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir);
    }
    born.context(failed())?;
    Netns::named(name)?.ok_or_else(|| Error::failed(failed()))
}

/// A new namespace, mounted on the file that is to carry its name, which is marked.
fn mounted(name: &str, directory: &OwnedFd, home: &Netns, sysctls: &mut Sysctls) -> Result<(), Error> {
    // Held, so that it is this very file that becomes the namespace's, whatever else gets its name.
    let file = openat(directory, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    let file = file.context("cannot open it")?;
    let seen = fstat(&file).context("cannot look at it")?;
    if let Some(what) = what(&seen) {
        return Err(Error::failed(format!("it is {what}")));
    }
    if !is_begun(&seen) {
        let mode = Mode::from_bits_truncate(seen.st_mode) | OURS;
        fchmodat(directory, name, mode, FchmodatFlags::FollowSymlink).context("cannot mark it")?;
    }
    let target = format!("/proc/self/fd/{}", file.as_raw_fd());
    let be_born = || -> Result<(), Error> {
        unshare(CloneFlags::CLONE_NEWNET).context("no new namespace")?;
        let mut batch = Batch::default();
        batch.push(0, &link::settle_loopback(LOOPBACK, MARK));
        let refused = Socket::open(NETLINK_ROUTE)?.send(&mut batch);
        if let Some((_, refusal)) = refused.first() {
            return Err(Error::failed(format!("its loopback: {refusal}")));
        }
        let conf = sysctls.conf(false).context("its settings")?;
        // Forwarding takes the taking of redirects along, so it goes first, as it does in this list.
        for setting in WHOLE_NAMESPACE.into_iter().filter(|setting| conf.read("all", *setting) != Some(0)) {
            conf.write("all", setting, 0).context("its settings")?;
        }
        if let Ok(conf) = sysctls.conf(true)
            && conf.read("all", Setting::Forwarding6).is_some_and(|now| now != 0)
        {
            conf.write("all", Setting::Forwarding6, 0).context("its settings")?;
        }
        bind("/proc/thread-self/ns/net", &target, MsFlags::empty()).context("no mount")
    };
    // The thread comes home from the new namespace as from any other.
    home.inside(home, be_born)?
}

/// `/run/netns`, made and shared as `ip netns add` does it: whoever has a copy of the mounts, such as a service with a `/tmp` of
/// its own, sees there what is made later.
fn directory() -> Result<OwnedFd, Error> {
    let path = NETNS.trim_end_matches('/');
    let cannot = || format!("no {path}");
    let mode = Mode::from_bits_truncate(0o755);
    let made = match mkdir(path, mode) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(errno).context(cannot()),
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(AT_FDCWD, path, flags, Mode::empty()).context(format!("cannot open {path}"));
    let directory = open()?;
    if made {
        // The umask of whoever calls is not meant.
        fchmod(&directory, mode).context(cannot())?;
    }
    let seen = fstat(&directory).context(format!("cannot look at {path}"))?;
    if seen.st_uid != geteuid().as_raw() || seen.st_mode & 0o022 != 0 {
        return Err(Error::failed(format!("others than root may write to {path}"))
            .hint(format!("`chown root {path}; chmod 755 {path}`")));
    }
    let share = || mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // It is no mount.
        Err(Errno::EINVAL) => {
            bind(path, path, MsFlags::MS_REC).context(cannot())?;
            share().context(cannot())?;
        }
        shared => shared.context(cannot())?,
    }
    // What is mounted there now.
    open()
}

fn bind(from: &str, to: &str, more: MsFlags) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | more, None::<&str>)
}

/// Takes a namespace's name away, and what carried it, if that was made for it. The namespace goes with whoever is in it last.
pub fn unmake(name: &str) -> Result<(), Error> {
    let cannot = || format!("cannot remove {NETNS}{name}");
    match umount2(format!("{NETNS}{name}").as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // It is no mount, or gone.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno).context(cannot()),
    }
    let directory = match openat(AT_FDCWD, NETNS, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        directory => directory.context(cannot())?,
    };
    let seen = match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(()),
        seen => seen.context(cannot())?,
    };
    let mode = Mode::from_bits_truncate(seen.st_mode);
    match is_begun(&seen) {
        true if mode == MADE => unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir).context(cannot()),
        // It was there before, for whatever somebody else meant it.
        true => fchmodat(&directory, name, mode - OURS, FchmodatFlags::FollowSymlink).context(cannot()),
        false => Ok(()),
    }
}

/// Who lives in these namespaces, or holds them by another name than the one that is given: one each.
pub fn inhabitants(namespaces: &BTreeMap<Key, &str>) -> BTreeMap<Key, String> {
    let mut found = BTreeMap::new();
    if namespaces.is_empty() {
        return found;
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        // One that has ended, or that nobody may look into, is in none.
        let Ok(seen) = stat(format!("/proc/{pid}/ns/net").as_str()) else { continue };
        let key = (seen.st_dev, seen.st_ino);
        if namespaces.contains_key(&key) {
            found.entry(key).or_insert_with(|| {
                let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                format!("process {pid} ({}) lives in it", program.trim().escape_default())
            });
        }
    }
    // ID PARENT DEVICE ROOT PLACE …: of a namespace the root is `net:[INODE]` (proc_pid_mountinfo(5)).
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for (root, place) in mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    }) {
        let inode = root.strip_prefix("net:[").and_then(|rest| rest.strip_suffix(']')?.parse::<u64>().ok());
        for (key, name) in namespaces.iter().filter(|(key, _)| Some(key.1) == inode) {
            if place != format!("{NETNS}{name}") {
                found.entry(*key).or_insert_with(|| format!("it is {place} as well"));
            }
        }
    }
    found
}
