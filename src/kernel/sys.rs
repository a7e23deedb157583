//! The system calls that no crate offers safely. The only file with `unsafe` in it.
#![expect(unsafe_code, reason = "getsockopt options that nix does not know")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

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
