//! The system calls that nix lacks, one function each, as thin as can be. The only file with `unsafe`; it decides nothing.
#![expect(unsafe_code, reason = "raw system calls; each block says why it is sound")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{LinkAddr, SockaddrLike};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

/// `PIDFS_IOCTL_MAGIC` and the fourth of its requests (linux/pidfd.h, since 6.11).
const PIDFD_GET_NET_NAMESPACE: libc::c_ulong = nix::request_code_none!(0xff, 4) as libc::c_ulong;
/// linux/nsfs.h, since 4.9 and, the owner, 4.11.
const NS_GET_USERNS: libc::c_ulong = nix::request_code_none!(0xb7, 1) as libc::c_ulong;
const NS_GET_PARENT: libc::c_ulong = nix::request_code_none!(0xb7, 2) as libc::c_ulong;
const NS_GET_OWNER_UID: libc::c_ulong = nix::request_code_none!(0xb7, 4) as libc::c_ulong;

/// linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()) as libc::c_ulong;
const TUNSETPERSIST: libc::c_ulong = nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()) as libc::c_ulong;
const TUNSETIFINDEX: libc::c_ulong = nix::request_code_write!(b'T', 218, size_of::<libc::c_uint>()) as libc::c_ulong;

/// A handle on a process, which stays that process's when its pid is handed out again. ESRCH: there is none.
pub fn pidfd_open(pid: u32) -> nix::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| Errno::ESRCH)?;
    // SAFETY: two integers go in, no memory is handed over.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The network namespace of a process. ESRCH: it has ended; ENOTTY: the kernel is older than 6.11.
pub fn network_namespace(process: BorrowedFd) -> nix::Result<OwnedFd> {
    descriptor(process, PIDFD_GET_NET_NAMESPACE)
}

/// The user namespace that owns a namespace. EPERM: it lies outside our own.
pub fn owning_user_namespace(namespace: BorrowedFd) -> nix::Result<OwnedFd> {
    descriptor(namespace, NS_GET_USERNS)
}

/// The user namespace that a user namespace was made in. EPERM: it lies outside our own, or there is none.
pub fn parent_user_namespace(user_namespace: BorrowedFd) -> nix::Result<OwnedFd> {
    descriptor(user_namespace, NS_GET_PARENT)
}

/// Who made a user namespace.
pub fn owner_of_user_namespace(user_namespace: BorrowedFd) -> nix::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: this request writes one uid_t through the pointer, which outlives the call.
    Errno::result(unsafe { libc::ioctl(user_namespace.as_raw_fd(), NS_GET_OWNER_UID as _, &raw mut uid) })?;
    Ok(uid)
}

/// A request that takes nothing and answers with a new descriptor.
fn descriptor(of: BorrowedFd, request: libc::c_ulong) -> nix::Result<OwnedFd> {
    // SAFETY: only ever called with the three requests above, which take no argument, so no memory is handed over.
    let fd = Errno::result(unsafe { libc::ioctl(of.as_raw_fd(), request as _, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Who a program is to run as.
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    /// All of them, the first included.
    pub groups: Vec<u32>,
}

/// Lets a program run in a session of its own, so that it has no terminal to type into and can be ended with all its children,
/// and as somebody else where told.
pub fn detach(command: &mut Command, credentials: Option<Credentials>) {
    let enter = move || -> io::Result<()> {
        nix::unistd::setsid()?;
        if let Some(Credentials { uid, gid, groups }) = &credentials {
            // SAFETY: `groups` lives in this closure and the count is its own. The raw call sets this process's only thread.
            Errno::result(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })?;
            // The group first: afterwards there is no right to change it. All three ids, so that there is no way back.
            nix::unistd::setresgid((*gid).into(), (*gid).into(), (*gid).into())?;
            nix::unistd::setresuid((*uid).into(), (*uid).into(), (*uid).into())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls alone; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) };
}

/// Lets a program have these descriptors, under the numbers from 3 on, and no others but its three streams.
pub fn hand_over(command: &mut Command, kept: [RawFd; 2]) {
    const CLOEXEC: libc::c_uint = libc::CLOSE_RANGE_CLOEXEC;
    let place = move || -> io::Result<()> {
        // SAFETY: three integers go in, and nothing is closed before the exec that follows.
        Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOEXEC) })?;
        for (number, held) in (3..).zip(kept) {
            // SAFETY: two integers go in. Whoever had the number in this process is not there after the exec.
            Errno::result(unsafe { libc::dup2(held, number) })?;
        }
        Ok(())
    };
    // SAFETY: right before exec the closure makes system calls alone; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(place) };
}

/// A new TUN device of this name and index behind an open `/dev/net/tun`, gone when that is closed. EBUSY: the name is taken.
pub fn tun(device: BorrowedFd, name: &str, index: u32) -> nix::Result<()> {
    const TUN: libc::c_short = 0x0001;
    const NO_PI: libc::c_short = 0x1000;
    const EXCL: libc::c_short = -0x8000;
    // SAFETY: all zeroes are a valid `ifreq`, which holds nothing but integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A zero is left to end the name.
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = TUN | NO_PI | EXCL;
    let index = index as libc::c_uint;
    // SAFETY: the pointer is to an integer that outlives the call, which reads it.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFINDEX as _, &raw const index) })?;
    // SAFETY: the pointer is to a whole `ifreq` that outlives the call, and that it may write to.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) }).map(drop)
}

/// Has that device stay when it is closed.
pub fn keep_tun(device: BorrowedFd) -> nix::Result<()> {
    // SAFETY: one integer goes in.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETPERSIST as _, 1) }).map(drop)
}

/// Gives a file of a directory another name there, which nothing must have (EEXIST). EINVAL: its file system cannot do that.
pub fn rename_new(directory: BorrowedFd, from: &CStr, to: &CStr) -> nix::Result<()> {
    let at = directory.as_raw_fd();
    let flags = libc::RENAME_NOREPLACE;
    // SAFETY: both pointers are to strings that end in NUL and outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_renameat2, at, from.as_ptr(), at, to.as_ptr(), flags) };
    Errno::result(done).map(drop)
}

/// `SO_NETNS_COOKIE` (asm-generic/socket.h, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the namespace a socket is in, never used again until the next boot.
pub fn netns_cookie(socket: BorrowedFd) -> Result<u64, Errno> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` is writable for `length` bytes, and both outlive the call.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(code).map(|_| cookie)
}

/// A mount without what is mounted on it, mounted nowhere (linux/mount.h, Linux 5.2). EINVAL: it covers what must not be seen.
pub fn bare_mount(path: &CStr) -> Result<OwnedFd, Errno> {
    const OPEN_TREE_CLONE: libc::c_int = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
    // SAFETY: the only pointer is to a string that ends in NUL and outlives the call.
    let mount = Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(mount as i32) })
}

/// A procfs of our own, mounted nowhere (linux/mount.h, Linux 5.2). EPERM: in a user namespace that must not see all of it.
pub fn procfs() -> Result<OwnedFd, Errno> {
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const CLOEXEC: libc::c_uint = 1;
    const NULL: *const libc::c_char = std::ptr::null();
    // SAFETY: the only pointer is to a constant string that ends in NUL.
    let context = Errno::result(unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), CLOEXEC) })?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
    let context = unsafe { OwnedFd::from_raw_fd(context as i32) };
    let raw = context.as_raw_fd();
    // SAFETY: this command takes neither key nor value, so no memory is handed over.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_CMD_CREATE, NULL, NULL, 0) })?;
    // SAFETY: three integers go in.
    let mount = Errno::result(unsafe { libc::syscall(libc::SYS_fsmount, raw, CLOEXEC, 0) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(mount as i32) })
}

/// The address of a device's link layer, as `sockaddr_ll` (packet(7)) has it: `protocol` is an ethertype.
pub fn link_address(index: u32, protocol: u16, mac: [u8; 6]) -> nix::Result<LinkAddr> {
    // SAFETY: all zeroes are a valid `sockaddr_ll`, which holds nothing but integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    address.sll_halen = mac.len() as u8;
    address.sll_addr[..mac.len()].copy_from_slice(&mac);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a whole `sockaddr_ll` of its own family and length, which is copied.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    address.ok_or(Errno::EAFNOSUPPORT)
}

/// Divides the process in two.
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: no other thread runs. Those that work is shared among have been joined by whoever started them, and what starts
    // threads of its own does so after the last fork. So the child finds every lock free.
    unsafe { nix::unistd::fork() }
}

/// Divides the process in two, of which the second one does `work` and ends. It has a session of its own, reads and writes
/// nothing, and has no other descriptor than this one: so it keeps neither a terminal nor a pipe nor a namespace from their end.
pub fn leave_behind(kept: BorrowedFd, work: &mut dyn FnMut(File)) -> nix::Result<()> {
    if let ForkResult::Child = fork()? {
        // Nothing must come back from here into frames that own descriptors which are closed by now.
        let _ = catch_unwind(AssertUnwindSafe(|| match detached(kept) {
            Ok(kept) => work(kept),
            Err(error) => drop(nix::unistd::write(kept, error.to_string().as_bytes())),
        }));
        // SAFETY: it ends the process at once; no destructor runs that could use what is not there any more.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}

/// Lets go of everything but one descriptor.
fn detached(kept: BorrowedFd) -> io::Result<File> {
    setsid()?;
    // SAFETY: no handler is installed, the signal is ignored from now on.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }?;
    std::env::set_current_dir("/")?;
    let kept = kept.try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    dup2_stderr(null.as_fd())?;
    drop(null);
    let number = kept.as_raw_fd();
    for (first, last) in [(3, number - 1), (number + 1, libc::c_int::MAX)] {
        if first <= last {
            // SAFETY: three integers go in. Whoever owned one of these descriptors is in a frame that nobody comes back to, and
            // neither uses nor closes it again.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
    }
    Ok(kept.into())
}
