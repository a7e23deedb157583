//! Bare netlink for the benchmark: messages put together byte by byte, sent many at a time, and what must be read of answers.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

use crate::Result;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
/// To be made, and not to be there yet.
pub const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const NLA_F_NESTED: u16 = 0x8000;
pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
pub const RTM_GETLINK: u16 = 18;
pub const RTM_SETLINK: u16 = 19;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_GETROUTE: u16 = 26;
pub const RTM_NEWLINKPROP: u16 = 108;
pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_IFALIAS: u16 = 20;
pub const IFLA_AF_SPEC: u16 = 26;
pub const IFLA_GROUP: u16 = 27;
pub const IFLA_NET_NS_FD: u16 = 28;
pub const IFLA_NUM_TX_QUEUES: u16 = 31;
pub const IFLA_NUM_RX_QUEUES: u16 = 32;
pub const IFLA_PROP_LIST: u16 = 52;
pub const IFLA_ALT_IFNAME: u16 = 53;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
pub const VETH_INFO_PEER: u16 = 1;
pub const IFLA_INET_CONF: u16 = 1;
pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
pub const IFA_PROTO: u16 = 11;
pub const RTA_OIF: u16 = 4;
pub const RTA_GATEWAY: u16 = 5;
pub const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
pub const NFNL_MSG_BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`, where a message's kind has it.
pub const NFTABLES: u16 = 10 << 8;
/// The main routing table.
pub const MAIN: u8 = 254;
pub const AF_INET: u8 = libc::AF_INET as u8;
pub const RTN_UNICAST: u8 = 1;
/// Who made an address or a route: any number that nobody else uses.
pub const PROTOCOL: u8 = 119;
pub const GROUP: u32 = 119;

/// One end of a pair at its birth: its device's name and its namespace.
pub type Birth<'a> = (&'a str, &'a File);

/// Messages for one socket, one after the other.
#[derive(Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    /// Where each message starts, for a socket to send as many at a time as it can.
    starts: Vec<usize>,
    /// Where each attribute that is still open starts.
    open: Vec<usize>,
}

impl Batch {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Opens a message; what follows up to `end` is its body.
    pub fn message(&mut self, kind: u16, flags: u16) -> &mut Batch {
        self.starts.push(self.bytes.len());
        self.bytes(&[0; 4]).bytes(&kind.to_ne_bytes()).bytes(&(NLM_F_REQUEST | flags).to_ne_bytes()).bytes(&[0; 8])
    }

    /// Opens a message of netfilter's, for a family and with the number that is the subsystem's own.
    pub fn netfilter(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> &mut Batch {
        let [high, low] = resource.to_be_bytes();
        self.message(kind, flags).bytes(&[family, 0, high, low])
    }

    pub fn end(&mut self) {
        if let Some(&start) = self.starts.last() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Batch {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn link(&mut self, index: u32, up: bool) -> &mut Batch {
        let up = u32::from(up) * libc::IFF_UP as u32;
        self.bytes(&[0; 4]).bytes(&index.to_ne_bytes()).bytes(&up.to_ne_bytes()).bytes(&up.to_ne_bytes())
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Batch {
        self.nest(kind).bytes(value).close()
    }

    pub fn text(&mut self, kind: u16, value: &str) -> &mut Batch {
        self.nest(kind).bytes(value.as_bytes()).bytes(&[0]).close()
    }

    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Batch {
        self.attribute(kind, &value.to_ne_bytes())
    }

    pub fn nest(&mut self, kind: u16) -> &mut Batch {
        self.open.push(self.bytes.len());
        self.bytes(&[0; 2]).bytes(&kind.to_ne_bytes())
    }

    /// Ends the attribute opened last: its length, and padding up to the next multiple of four.
    pub fn close(&mut self) -> &mut Batch {
        if let Some(start) = self.open.pop() {
            let length = (self.bytes.len() - start) as u16;
            self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        }
        self
    }

    /// A veth pair born with both ends in their places, under the same index in both.
    pub fn pair(&mut self, index: u32, outer: Birth<'_>, peer: Birth<'_>) {
        self.message(RTM_NEWLINK, NEW).birth(index, outer, 2);
        self.nest(IFLA_LINKINFO).text(IFLA_INFO_KIND, "veth");
        self.nest(IFLA_INFO_DATA).nest(VETH_INFO_PEER).birth(index, peer, 6);
        self.close().close().close().end();
    }

    /// One end of a pair; the first byte of its address tells it from the other.
    pub fn birth(&mut self, index: u32, (device, place): Birth<'_>, first: u8) {
        let [a, b, c, d] = index.to_be_bytes();
        self.link(index, false).text(IFLA_IFNAME, device);
        self.u32(IFLA_NET_NS_FD, place.as_raw_fd() as u32);
        self.attribute(IFLA_ADDRESS, &[first, 119, a, b, c, d]);
        self.u32(IFLA_MTU, 1500).u32(IFLA_GROUP, GROUP);
        self.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1);
    }
}

pub struct Socket {
    fd: OwnedFd,
}

pub fn route_socket() -> Result<Socket> {
    open(SockProtocol::NetlinkRoute)
}

pub fn netfilter_socket() -> Result<Socket> {
    open(SockProtocol::NetlinkNetFilter)
}

fn open(protocol: SockProtocol) -> Result<Socket> {
    Ok(Socket { fd: socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)? })
}

pub struct Link {
    pub index: u32,
    pub up: bool,
}

impl Socket {
    /// Sends a batch. The kernel handles it inside the call, and without asking for replies only errors come back.
    pub fn carry_out(&self, batch: &Batch) -> Result<()> {
        // A socket takes about 200 kB at once, and raising that is not for everybody.
        const AT_ONCE: usize = 128 << 10;
        let mut from = 0;
        while from < batch.bytes.len() {
            let after = batch.starts.partition_point(|start| *start <= from + AT_ONCE);
            let to = match batch.starts.get(after) {
                Some(_) => batch.starts[after - 1],
                None => batch.bytes.len(),
            };
            self.send(&batch.bytes[from..to])?;
            from = to;
        }
        Ok(())
    }

    /// Sends what belongs in one piece, whatever its size.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > 128 << 10 {
            // The kernel doubles what it is told. Only root may pass the system's limit.
            setsockopt(&self.fd, sockopt::SndBufForce, &bytes.len())
                .or_else(|_| setsockopt(&self.fd, sockopt::SndBuf, &bytes.len()))?;
        }
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        let mut buffer = [0; 4096];
        match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => {
                let code = i32::from_ne_bytes(buffer[16..20].try_into()?);
                let kind = u16::from_ne_bytes(buffer[24..26].try_into()?);
                Err(format!("the kernel refused message {kind}: {}", Errno::from_raw(-code)).into())
            }
        }
    }

    /// Asks for a list, and hands over each message of it without its header.
    pub fn dump(&self, request: &Batch, mut each: impl FnMut(&[u8])) -> Result<()> {
        send(self.fd.as_raw_fd(), &request.bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; 32 << 10];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes(rest[..4].try_into()?) as usize;
                match u16::from_ne_bytes(rest[4..6].try_into()?) {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err("the kernel refused to list".into()),
                    _ => each(&rest[16..length]),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }

    /// The wires' ends here; what else a kernel puts into each namespace (tunl0, sit0) is none of ours.
    pub fn veths(&self) -> Result<Vec<Link>> {
        let mut request = Batch::default();
        request.message(RTM_GETLINK, NLM_F_DUMP).link(0, false).end();
        let mut links = Vec::new();
        self.dump(&request, |message| {
            let (Some(index), Some(flags)) = (word(message, 4), word(message, 8)) else {
                return;
            };
            // The link's kind; nothing else in the message reads like it.
            if message.windows(5).any(|window| window == b"veth\0") {
                links.push(Link { index, up: flags & libc::IFF_UP as u32 != 0 });
            }
        })?;
        Ok(links)
    }

    pub fn has_default_route(&self) -> Result<bool> {
        let mut request = Batch::default();
        request.message(RTM_GETROUTE, NLM_F_DUMP).bytes(&[AF_INET, 0, 0, 0]).bytes(&[0; 8]).end();
        let mut found = false;
        self.dump(&request, |route| found |= route[1] == 0 && route[4] == MAIN)?;
        Ok(found)
    }
}

/// A 32-bit number of a message.
pub fn word(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
