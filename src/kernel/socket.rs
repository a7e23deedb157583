//! One route netlink socket: requests in batches, answers as values. It knows the protocol and nothing of wires.
//!
//! rtnetlink handles every message inside `sendmsg`, so when that returns all answers are already queued. Without `NLM_F_ACK`
//! only refusals appear: send, then receive until there is nothing more, is the whole protocol and needs no runtime.

use std::fmt;
use std::os::fd::AsFd;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader, NlaBuffer,
    NlasIterator,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::error::{Context, Error};

/// A batch stays below the default send buffer (`net.core.wmem_default`, 208 KiB): a larger one is EMSGSIZE.
const BATCH: usize = 96 * 1024;
/// The kernel fills dump answers up to 32 KiB (NLMSG_GOODSIZE and `netlink_dump`) when the reader offers as much.
const ANSWER: usize = 64 * 1024;
/// `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// `NLM_F_ACK_TLVS` (linux/netlink.h): attributes follow the header that an error message gives back.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h): the kernel's own sentence.
const ATTR_MSG: u16 = 1;

/// The kernel said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub errno: Errno,
    /// The kernel's extended message, where it has one.
    pub message: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({:?})", self.errno.desc(), self.errno)?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal { errno, message: None }
    }
}

fn refusal(error: &std::io::Error) -> Refusal {
    Errno::from_raw(error.raw_os_error().unwrap_or(0)).into()
}

/// One message for the kernel, all but its header's running number.
pub struct Request {
    /// `RTM_*` (linux/rtnetlink.h).
    pub kind: u16,
    /// Beside `NLM_F_REQUEST`.
    pub flags: u16,
    pub message: Vec<u8>,
}

/// One message of the kernel's: its kind and what follows the header.
pub type Answer<'a> = (u16, &'a [u8]);

/// Requests that are sent together, each with a tag of the caller's that comes back with its refusal.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    tags: Vec<usize>,
}

impl Batch {
    pub fn push(&mut self, tag: usize, request: &Request) {
        // The sequence number is the place in the batch, from 1: an answer leads back to its tag.
        self.tags.push(tag);
        let mut header = NetlinkHeader::default();
        header.length = (HEADER + request.message.len()) as u32;
        header.message_type = request.kind;
        header.flags = NLM_F_REQUEST | request.flags;
        header.sequence_number = self.tags.len() as u32;
        let start = self.bytes.len();
        self.bytes.resize(start + HEADER, 0);
        header.emit(&mut self.bytes[start..]);
        self.bytes.extend_from_slice(&request.message);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Whether it should be sent before more is put in.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH - 4096
    }
}

pub struct Socket(netlink_sys::Socket);

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// A socket of the namespace that the calling thread is in, for good.
    pub fn open() -> Result<Socket, Error> {
        let open = || -> std::io::Result<netlink_sys::Socket> {
            // It is bound by its first message, and listens to no group.
            let socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Filters of dump requests are ignored without it.
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        open().map(Socket).context("cannot open a netlink socket")
    }

    /// Sends what is in the batch and empties it. Returns the refusals with their tags; where nothing was sent or the answers
    /// were lost, every tag has one.
    pub fn send(&self, batch: &mut Batch) -> Vec<(usize, Refusal)> {
        self.exchange(batch, |_, _| {})
    }

    /// Like `send`, for requests that are answered.
    pub fn exchange(&self, batch: &mut Batch, mut answer: impl FnMut(usize, Answer)) -> Vec<(usize, Refusal)> {
        let batch = std::mem::take(batch);
        if batch.is_empty() {
            return Vec::new();
        }
        let lost = |refusal: Refusal| batch.tags.iter().map(|tag| (*tag, refusal.clone())).collect();
        if let Err(error) = self.write(&batch.bytes) {
            return lost(refusal(&error));
        }
        let mut refused = Vec::new();
        let mut buffer = Vec::with_capacity(ANSWER);
        loop {
            match self.read(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return refused,
                Err(error) => return lost(refusal(&error)),
            }
            for (header, payload) in messages(&buffer) {
                let Some(&tag) = batch.tags.get((header.sequence_number as usize).wrapping_sub(1)) else { continue };
                if header.message_type != NLMSG_ERROR {
                    answer(tag, (header.message_type, payload));
                } else if let Some(refusal) = error_of(&header, payload) {
                    refused.push((tag, refusal));
                }
            }
        }
    }

    /// Asks for all objects of a kind, and again where the answer was cut or went stale on the way.
    pub fn dump<T>(
        &self,
        request: &Request,
        read: impl Fn(Answer) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, Refusal> {
        let mut tries = 0;
        loop {
            let mut found = Vec::new();
            tries += 1;
            match self.dump_once(request, |answer| read(answer).map(|one| found.extend(one))) {
                Ok(()) => return Ok(found),
                Err(refusal) if tries < 5 && matches!(refusal.errno, Errno::EINTR | Errno::ENOBUFS | Errno::EBUSY) => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }

    fn dump_once(
        &self,
        request: &Request,
        mut each: impl FnMut(Answer) -> Result<(), DecodeError>,
    ) -> Result<(), Refusal> {
        let mut batch = Batch::default();
        batch.push(0, request);
        self.write(&batch.bytes).map_err(|error| refusal(&error))?;
        let mut buffer = Vec::with_capacity(ANSWER);
        let mut refused = None;
        loop {
            self.read(&mut buffer, 0).map_err(|error| refusal(&error))?;
            for (header, payload) in messages(&buffer) {
                if header.flags & NLM_F_DUMP_INTR != 0 {
                    refused = Some(Errno::EINTR.into());
                }
                match header.message_type {
                    NLMSG_DONE => return refused.map_or(Ok(()), Err),
                    NLMSG_ERROR => return Err(error_of(&header, payload).unwrap_or(Errno::EPROTO.into())),
                    // What cannot be read is no reason to believe that there is nothing.
                    kind => {
                        if let Err(error) = each((kind, payload)) {
                            refused = Some(Refusal { errno: Errno::EBADMSG, message: Some(error.to_string()) });
                        }
                    }
                }
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        loop {
            match self.0.send(bytes, 0) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    fn read(&self, buffer: &mut Vec<u8>, flags: libc::c_int) -> std::io::Result<()> {
        buffer.clear();
        loop {
            match self.0.recv(buffer, flags) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }
}

/// The messages that one read brought.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes.get(..length)?;
        let mut header = NetlinkHeader::default();
        header.length = length as u32;
        header.message_type = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        header.flags = u16::from_ne_bytes(message.get(6..8)?.try_into().ok()?);
        header.sequence_number = u32::from_ne_bytes(message.get(8..12)?.try_into().ok()?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, message.get(16..)?))
    })
}

/// What an error message says; `None` for an acknowledgement.
fn error_of(header: &NetlinkHeader, payload: &[u8]) -> Option<Refusal> {
    let code = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    // After the code comes the header of the request, alone because of NETLINK_CAP_ACK, then the attributes.
    let attributes = payload.get(4 + 16..).filter(|_| header.flags & ACK_TLVS != 0).unwrap_or_default();
    let text = |nla: NlaBuffer<&[u8]>| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned();
    let message = NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == ATTR_MSG).map(text);
    Some(Refusal { errno: Errno::from_raw(-code), message })
}
