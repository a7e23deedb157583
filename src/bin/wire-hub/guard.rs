//! What a hub lets go of before it serves anybody: whoever takes it over finds neither a file to read nor a program to run. What the
//! kernel cannot forbid (Landlock is of 5.13, and may be off) is told once; the rest holds all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use nix::sys::prctl;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::orders::{self, Orders, Tls};
use crate::trouble::{Context, Trouble};
use crate::voice;

/// What a TUN device is opened by.
const TUN: &str = "/dev/net/tun";
/// What tells names, besides name servers.
const NAMES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];
/// Random numbers, where a static program does not find the call for them.
const RANDOM: [&str; 2] = ["/dev/random", "/dev/urandom"];
/// The newest that is known here; an older kernel does as much of it as it can.
const NEWEST: ABI = ABI::V5;

/// What the process may still open.
pub struct Guard {
    directories: BTreeSet<PathBuf>,
    tun: bool,
}

impl Guard {
    /// Whether new orders can be served within it; or why not.
    pub fn allows(&self, orders: &Orders) -> Result<(), String> {
        if orders.tunnel.is_some() && !self.tun {
            return Err("it was started without a tunnel".to_owned());
        }
        match directories(orders).difference(&self.directories).next() {
            Some(new) => {
                Err(format!("it may read only what it was to read when it started, and not {}", new.display()))
            }
            None => Ok(()),
        }
    }
}

/// Lets go of everything that these orders do not need. To call while there is one thread.
pub fn confine(orders: &Orders) -> Result<Guard, Trouble> {
    prctl::set_no_new_privs().context("cannot give up new privileges")?;
    // Its memory has keys: no core dump of it, and nobody but root looks into it.
    prctl::set_dumpable(false).context("cannot keep its memory to itself")?;
    let guard = Guard { directories: directories(orders), tun: orders.tunnel.is_some() };
    for directory in guard.directories.iter().filter(|directory| is_everybodys(directory)) {
        let shown = directory.display();
        voice::say(&format!(
            "certificates lie in {shown}, so that the hub may read all of it: give them a directory of their own"
        ));
    }
    match files(&guard).context("cannot give up the files of this machine")? {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {}
        RulesetStatus::NotEnforced => {
            voice::say("this kernel has no Landlock: files are kept from the hub by their modes alone")
        }
    }
    calls().context("cannot give up system calls")?;
    Ok(guard)
}

/// The directories of certificates and keys: a file that is replaced is another, its directory stays. Where the file is a link, as
/// those of `certbot` are, that which it leads to counts as well.
fn directories(orders: &Orders) -> BTreeSet<PathBuf> {
    let proxy = orders.proxy.iter();
    let tls = proxy.clone().flat_map(|proxy| {
        proxy.sites.iter().map(|site| &site.tls).chain(proxy.redirects.iter().map(|redirect| &redirect.tls))
    });
    let files = tls.filter_map(|tls| if let Tls::Files { cert, key } = tls { Some([cert, key]) } else { None });
    let files = files.flatten().chain(proxy.filter_map(|proxy| proxy.acme.ca.as_ref()));
    let directories = |file: &String| {
        let file = Path::new(file);
        [Some(file.to_owned()), file.canonicalize().ok()].into_iter().flatten()
    };
    files.flat_map(directories).filter_map(|file| file.parent().map(Path::to_owned)).collect()
}

/// Whether a directory has the files of others below it, secret ones too.
fn is_everybodys(directory: &Path) -> bool {
    const SHARED: [&str; 10] =
        ["/", "/etc", "/etc/wire", "/etc/wire/keys", "/home", "/root", "/run", "/srv", "/var", "/var/lib"];
    SHARED.iter().any(|shared| directory == Path::new(shared))
}

fn files(guard: &Guard) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::from_read(NEWEST) & !AccessFs::Execute;
    let write = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let own = ["acme", "ca"].map(|name| Path::new(orders::STATE).join(name));
    let mut allowed = vec![(PathBuf::from(orders::LOGS), write)];
    allowed.extend(own.map(|path| (path, write)));
    allowed.extend(guard.directories.iter().map(|path| (path.clone(), read)));
    allowed.extend([NAMES, RANDOM].as_flattened().iter().map(|path| (PathBuf::from(path), AccessFs::ReadFile.into())));
    allowed.extend(guard.tun.then(|| (PathBuf::from(TUN), device)));
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?.create()?;
    for (path, access) in allowed {
        // What is not there cannot be opened anyway.
        if let Ok(held) = PathFd::new(&path) {
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
            ruleset = ruleset.add_rule(PathBeneath::new(held, access))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// What no server needs: other programs, other processes' memory, namespaces, mounts, modules, the kernel's own keys and clocks. And
/// what Landlock does not keep from an owner, who is root here: modes, owners and attributes of files, signals, priorities.
const NEVER: [libc::c_long; 61] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_personality,
    libc::SYS_name_to_handle_at,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setpriority,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_ioprio_set,
];
/// Of 6.6 and 6.13, the same number everywhere.
const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;
/// What newer machines have no number for.
#[cfg(target_arch = "x86_64")]
const ONCE: [libc::c_long; 3] = [libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown];
#[cfg(not(target_arch = "x86_64"))]
const ONCE: [libc::c_long; 0] = [];

fn calls() -> Result<(), Box<dyn std::error::Error>> {
    let never = NEVER.into_iter().chain(ONCE);
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = never.map(|call| (call, Vec::new())).collect();
    let not = |number: u32| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(number));
    // Sockets of the Internet and no others: those of this machine, whatever directory they are in, lead to whoever takes orders
    // from root, such as the init system.
    let families = [libc::AF_INET, libc::AF_INET6].map(|family| not(family.unsigned_abs()));
    denied.insert(libc::SYS_socket, vec![SeccompRule::new(families.into_iter().collect::<Result<_, _>>()?)?]);
    // Between its own threads, and of a kind that cannot be turned elsewhere.
    let kind = SeccompCmpOp::MaskedEq(0xf);
    let packets = SeccompCondition::new(1, SeccompCmpArgLen::Dword, kind, u64::from(libc::SOCK_DGRAM.unsigned_abs()))?;
    denied.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![packets])?]);
    // Itself, as `abort` does, and nobody else; 0 is itself as well.
    denied.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![not(std::process::id())?])?]);
    denied.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![not(std::process::id())?, not(0)?])?]);
    // Threads, and no namespaces.
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let with = |flag: i32| {
        let flag = u64::from(flag.unsigned_abs());
        SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?])
    };
    denied.insert(libc::SYS_clone, namespaces.map(with).into_iter().collect::<Result<Vec<_>, _>>()?);
    // Its flags lie in memory, where a filter cannot look; who gets this answer takes the older call.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (denied, errno) in [(denied, libc::EPERM), (unknown, libc::ENOSYS)] {
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        let filter = SeccompFilter::new(denied, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?;
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::PermissionDenied;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_certificate_among_the_files_of_others_is_told() {
        let shared = ["/", "/etc", "/etc/", "/etc/wire/keys"].map(|path| is_everybodys(Path::new(path)));
        let own = ["/etc/letsencrypt/live/a.example", "/etc/wire/certs"].map(|path| is_everybodys(Path::new(path)));
        assert_eq!((shared, own), ([true; 4], [false; 2]));
    }

    /// Root without a capability still owns root's files, may signal root's processes, and is believed by whoever asks a socket of
    /// this machine who calls. Whoever takes over a hub has nothing of that.
    #[test]
    fn it_is_root_by_name_alone() {
        let place = std::env::temp_dir().join(format!("wire-hub-guard-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let (file, socket) = (place.join("file"), place.join("socket"));
        fs::write(&file, "").unwrap();
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(other.id().cast_signed());
        // What is given up is given up by a thread.
        let confined = || {
            confine(&Orders::default()).unwrap();
            let denied = |what: &str, tried: std::io::Result<()>| {
                assert_eq!(tried.map_err(|error| error.kind()), Err(PermissionDenied), "{what}");
            };
            denied("a socket", UnixStream::connect(&socket).map(drop));
            denied("a datagram", UnixDatagram::unbound().map(drop));
            denied("a pair of datagrams", UnixDatagram::pair().map(drop));
            denied("a mode", fs::set_permissions(&file, fs::Permissions::from_mode(0o777)));
            denied("an owner", chown(&file, Some(nix::unistd::geteuid().as_raw()), None));
            denied("a link", symlink(&file, place.join("link")));
            denied("a signal", kill(pid, None).map_err(std::io::Error::from));
            denied("a file", fs::read("/etc/passwd").map(drop));
            // What it needs itself.
            UnixStream::pair()?;
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
            std::net::TcpListener::bind("127.0.0.1:0").map(drop)
        };
        let ended = std::thread::scope(|scope| scope.spawn(confined).join());
        let _ = (other.kill(), other.wait());
        drop(listener);
        fs::remove_dir_all(&place).unwrap();
        ended.expect("nothing that it must not").expect("what it needs");
    }
}
