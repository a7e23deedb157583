//! The TUN device that `wire up` has made, taken up by whoever serves it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use crate::trouble::{Context, Trouble};

const TUN: &str = "/dev/net/tun";
/// linux/if_tun.h, where glibc and musl have different types for a request.
const TUNSETIFF: u64 = nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()) as u64;
const TUNGETIFF: u64 = nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()) as u64;
/// linux/sockios.h.
const SIOCGIFMTU: u64 = 0x8921;
/// boringtun reads a packet into that many bytes of a device that it has not opened itself.
const MTU: i32 = 1500;

/// The kernel's `struct ifreq`, 40 bytes, of which these requests know the name and the first member of the union.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: libc::c_int,
    rest: [u8; 20],
}

impl Request {
    fn new(name: &str, value: libc::c_int) -> Request {
        let mut request = Request { name: [0; libc::IFNAMSIZ], value, rest: [0; 20] };
        // The last byte stays the closing NUL.
        request.name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        request
    }

    fn ask(&mut self, file: &impl AsRawFd, request: u64) -> nix::Result<()> {
        #[expect(unsafe_code, reason = "a request that nix does not know")]
        // SAFETY: each of the requests here reads and writes one ifreq, which is as large as this and outlives the call.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), request as _, &raw mut *self) }).map(drop)
    }
}

/// One open end of the device.
pub fn attach(name: &str) -> Result<File, Trouble> {
    let failed = || format!("cannot take up the tunnel `{name}`");
    // Who may make devices would make it now. (`if_nametoindex` asks over a socket of this machine, which a hub has given up.)
    let mtu = mtu(name).ok_or_else(|| Trouble(format!("{}: there is no such device", failed())))?;
    let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN).context(failed());
    // It has to be asked for as it was made.
    let mut taken = Err(Errno::EINVAL);
    for queues in [0, libc::IFF_MULTI_QUEUE] {
        let file = open()?;
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | queues;
        taken = Request::new(name, flags).ask(&file, TUNSETIFF).map(|()| file);
        if taken.as_ref().err() != Some(&Errno::EINVAL) {
            break;
        }
    }
    let file = taken.map_err(|errno| {
        let reason = match errno {
            Errno::EBUSY => "another program has taken it up".to_owned(),
            Errno::EINVAL => "it is none of the kind that `wire up` makes".to_owned(),
            Errno::EPERM => "it belongs to another user".to_owned(),
            errno => io::Error::from(errno).to_string(),
        };
        Trouble(format!("{}: {reason}", failed()))
    })?;
    if mtu > MTU {
        return Err(Trouble(format!("{}: its MTU is larger than {MTU}", failed())));
    }
    Ok(file)
}

/// Whether the device still is what is open.
pub fn is_attached(file: &File) -> bool {
    Request::new("", 0).ask(file, TUNGETIFF).is_ok()
}

fn mtu(name: &str) -> Option<i32> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    let mut request = Request::new(name, 0);
    request.ask(&socket, SIOCGIFMTU).ok()?;
    Some(request.value)
}
