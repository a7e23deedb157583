//! Processes by identity. A pid is a number that the kernel hands out again, so a process is held by a pidfd first, then asked
//! for proof, and only then for its network namespace. It knows nothing of podman's files or of who owns what.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sys;

/// Who started a process, or has taken it over since; none for the first of all.
pub fn parent(pid: u32) -> Option<u32> {
    let (parent, _) = parent_and_birth(&fs::read(format!("/proc/{pid}/stat")).ok()?)?;
    (parent > 0).then_some(parent)
}

/// What tells the process that is meant from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It was born then, in clock ticks since boot, as in the 22nd field of `/proc/PID/stat`.
    Born(u64),
    /// It is the first process of the container with this id: its parent is that container's monitor (conmon), or else it is
    /// no younger than the container, `started` in that second since 1970.
    Container { id: String, started: Option<i64> },
}

/// A process and its network namespace, both held: neither turns into another one.
#[derive(Debug)]
pub struct Held {
    /// Becomes readable when the process ends (pidfd_open(2)).
    pub process: OwnedFd,
    pub namespace: OwnedFd,
}

/// What a pid turned out to be.
#[derive(Debug)]
pub enum Found {
    /// The very process that was meant.
    Held(Held),
    /// Nobody has that pid any more.
    Gone,
    /// Somebody else has it.
    Recycled,
}

/// The network namespace of a process, if it is the one meant.
pub fn network_namespace(pid: u32, identity: &Identity) -> io::Result<Found> {
    // 0 would be the caller, 1 is init, which lives in the host's namespaces.
    if pid <= 1 {
        return Ok(Found::Gone);
    }
    // From here on the pid may be handed out again under our hands: whatever /proc says of it may be said of another. What
    // makes it true is the last step, which fails with ESRCH unless the process held since here still lives.
    let held = match sys::pidfd_open(pid) {
        Err(Errno::ESRCH | Errno::EINVAL) => return Ok(Found::Gone),
        held => held?,
    };
    match proves(pid, identity) {
        Ok(true) => {}
        Ok(false) => return Ok(Found::Recycled),
        Err(error) if vanished(&error) => return Ok(Found::Gone),
        Err(error) => return Err(error),
    }
    match sys::network_namespace(held.as_fd()) {
        Ok(namespace) => Ok(Found::Held(Held { process: held, namespace })),
        Err(Errno::ESRCH) => Ok(Found::Gone),
        Err(Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP) => namespace_by_path(pid, held),
        Err(error) => Err(error.into()),
    }
}

/// A living process and its network namespace, with the time of its birth, by which it is known again. `None`: it has ended.
pub fn living(pid: u32) -> io::Result<Option<(u64, OwnedFd)>> {
    let held = match sys::pidfd_open(pid) {
        Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
        held => held?,
    };
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Err(error) if vanished(&error) => return Ok(None),
        stat => stat?,
    };
    let Some((_, born)) = parent_and_birth(&stat) else { return Ok(None) };
    match network_namespace(pid, &Identity::Born(born))? {
        // What was read was of the process that is held if that one lives even now.
        Found::Held(found) if lives(&held)? => Ok(Some((born, found.namespace))),
        _ => Ok(None),
    }
}

/// The way before Linux 6.11: open by pid, then make sure that it was that process all along.
fn namespace_by_path(pid: u32, process: OwnedFd) -> io::Result<Found> {
    match fs::File::open(format!("/proc/{pid}/ns/net")) {
        Ok(namespace) if lives(&process)? => Ok(Found::Held(Held { process, namespace: namespace.into() })),
        Ok(_) => Ok(Found::Gone),
        Err(error) if vanished(&error) => Ok(Found::Gone),
        Err(error) => Err(error),
    }
}

/// A pidfd becomes readable when its process ends, also when nobody has waited for it yet.
fn lives(process: &OwnedFd) -> io::Result<bool> {
    let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut watched, PollTimeout::ZERO)? == 0)
}

fn vanished(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn proves(pid: u32, identity: &Identity) -> io::Result<bool> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let Some((parent, born)) = parent_and_birth(&stat) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected")));
    };
    match identity {
        Identity::Born(ticks) => Ok(born == *ticks),
        Identity::Container { id, started } => {
            let monitor = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
            if contains(&monitor, format!("\0-c\0{id}\0").as_bytes()) {
                return Ok(true);
            }
            // With a dead monitor only the clock is left. A container is started after its process was born; both are rounded
            // to seconds.
            const SLACK: i64 = 2;
            Ok(started
                .zip(boot_time()?)
                .is_some_and(|(started, boot)| boot + (born / USER_HZ) as i64 <= started + SLACK))
        }
    }
}

/// Ticks a second in /proc, the same on every architecture that podman knows (asm/param.h).
pub const USER_HZ: u64 = 100;

/// The parent (4th field) and the time of birth (22nd). The second is the program's name, which may hold spaces and
/// parentheses, so fields count from the last `)`.
fn parent_and_birth(stat: &[u8]) -> Option<(u32, u64)> {
    let name_ends = stat.iter().rposition(|&c| c == b')')?;
    let rest = str::from_utf8(&stat[name_ends + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let born = fields.nth(17)?.parse().ok()?;
    Some((parent, born))
}

/// The second (since 1970) this machine was booted in, by its clock of today.
fn boot_time() -> io::Result<Option<i64>> {
    let stat = fs::read_to_string("/proc/stat")?;
    Ok(stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn own_birth() -> u64 {
        parent_and_birth(&fs::read("/proc/self/stat").unwrap()).unwrap().1
    }

    #[test]
    fn a_programs_name_may_hold_anything() {
        let tail = "S 7891 7893 7893 0 -1 4194560 97 0 0 0 0 0 0 0 20 0 1 0 103282 2322432 315";
        for name in ["sleep", "tmux: server", "a) S 1 2 3 (b", ") ) )", "((", "\u{ff}"] {
            let stat = format!("7893 ({name}) {tail}");
            assert_eq!(parent_and_birth(stat.as_bytes()), Some((7891, 103282)), "{name}");
        }
        for broken in ["", "7893 (sleep", "7893 (sleep)", "7893 (sleep) S 1 2 3", "7893 (sleep) S x 1"] {
            assert_eq!(parent_and_birth(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn own_process_is_found_by_its_birth() {
        let pid = std::process::id();
        let Found::Held(Held { namespace, .. }) = network_namespace(pid, &Identity::Born(own_birth())).unwrap() else {
            panic!("this process runs")
        };
        let ours = fs::metadata("/proc/self/ns/net").unwrap();
        let theirs = fs::File::from(namespace).metadata().unwrap();
        assert_eq!((ours.dev(), ours.ino()), (theirs.dev(), theirs.ino()));
    }

    #[test]
    fn a_living_process_is_told_with_its_birth() {
        let (born, namespace) = living(std::process::id()).unwrap().unwrap();
        assert_eq!(born, own_birth());
        let ours = fs::metadata("/proc/self/ns/net").unwrap();
        assert_eq!(fs::File::from(namespace).metadata().unwrap().ino(), ours.ino());
        let mut child = Command::new("true").spawn().unwrap();
        let held = sys::pidfd_open(child.id()).unwrap();
        while lives(&held).unwrap() {
            std::thread::yield_now();
        }
        assert!(living(child.id()).unwrap().is_none(), "a zombie");
        child.wait().unwrap();
        for pid in [0, 1, u32::MAX] {
            assert!(living(pid).unwrap().is_none(), "{pid}");
        }
    }

    #[test]
    fn own_process_is_found_by_path_too() {
        let pid = std::process::id();
        let held = sys::pidfd_open(pid).unwrap();
        assert!(matches!(namespace_by_path(pid, held).unwrap(), Found::Held(_)));
    }

    #[test]
    fn another_birth_is_another_process() {
        let pid = std::process::id();
        assert!(matches!(network_namespace(pid, &Identity::Born(own_birth() + 1)).unwrap(), Found::Recycled));
        assert!(matches!(network_namespace(pid, &Identity::Born(own_birth() - 1)).unwrap(), Found::Recycled));
    }

    #[test]
    fn a_container_is_not_older_than_its_process() {
        let pid = std::process::id();
        let born = boot_time().unwrap().unwrap() + (own_birth() / USER_HZ) as i64;
        let seen = |started| {
            let identity = Identity::Container { id: "no-such-container".into(), started };
            network_namespace(pid, &identity).unwrap()
        };
        assert!(matches!(seen(Some(born + 60)), Found::Held(_)));
        assert!(matches!(seen(Some(born)), Found::Held(_)));
        assert!(matches!(seen(Some(born - 60)), Found::Recycled));
        assert!(matches!(seen(None), Found::Recycled));
    }

    #[test]
    fn a_monitor_that_names_the_id_is_proof_enough() {
        let id = "e712d298a691d74020babfb89096cd4b0a828296ebc12bc621d9b5bed0b944ed";
        let mut monitor = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; read line; kill $!", "conmon", "-c", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(monitor.stdout.take().unwrap()), &mut line).unwrap();
        let found = |id: &str| {
            let identity = Identity::Container { id: id.into(), started: None };
            network_namespace(line.trim().parse().unwrap(), &identity).unwrap()
        };
        assert!(matches!(found(id), Found::Held(_)));
        assert!(matches!(found("0c560bf215740b5eb419a916cc26de37762262840e782d5bdefcf1763db86f79"), Found::Recycled));
        drop(monitor.stdin.take());
        monitor.wait().unwrap();
    }

    #[test]
    fn an_ended_process_is_gone_waited_for_or_not() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        let held = sys::pidfd_open(pid).unwrap();
        while lives(&held).unwrap() {
            std::thread::yield_now();
        }
        let identity = Identity::Born(parent_and_birth(&fs::read(format!("/proc/{pid}/stat")).unwrap()).unwrap().1);
        assert!(matches!(network_namespace(pid, &identity).unwrap(), Found::Gone), "a zombie");
        assert!(matches!(namespace_by_path(pid, held).unwrap(), Found::Gone), "a zombie, by path");
        child.wait().unwrap();
        assert!(matches!(network_namespace(pid, &identity).unwrap(), Found::Gone | Found::Recycled), "waited for");
    }

    #[test]
    fn nobody_is_taken_for_a_process() {
        for pid in [0, 1, u32::MAX, i32::MAX as u32] {
            assert!(matches!(network_namespace(pid, &Identity::Born(0)).unwrap(), Found::Gone), "{pid}");
        }
    }
}
