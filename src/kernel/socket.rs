//! One netlink socket: requests in batches, answers as values. It knows the protocol and nothing of wires.
//!
//! rtnetlink and nfnetlink handle every message inside `sendmsg`, so when that returns all answers are already queued. Without
//! `NLM_F_ACK` only refusals appear: send, then receive until there is nothing more, is the whole protocol and needs no runtime.

use std::cell::Cell;
use std::fmt;
use std::os::fd::AsFd;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader, NlaBuffer,
    NlasIterator,
};
pub use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::error::{Context, Error};

/// What is sent at once stays below the default send buffer (`net.core.wmem_default`, 208 KiB): more is EMSGSIZE.
const BATCH: usize = 96 * 1024;
/// And its answers below the receive buffer of the same size, which each fills with some 800 bytes: more is ENOBUFS.
const MOST: usize = 200;
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
    /// `RTM_*` (linux/rtnetlink.h), or as `nfnl` makes it.
    pub kind: u16,
    /// Beside `NLM_F_REQUEST`.
    pub flags: u16,
    pub message: Vec<u8>,
}

/// One message of the kernel's: its kind and what follows the header.
pub type Answer<'a> = (u16, &'a [u8]);

/// Requests that belong together, each with a tag of the caller's that comes back with its refusal or its answer.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// By request, its tag and where it begins.
    requests: Vec<(usize, usize)>,
}

impl Batch {
    pub fn push(&mut self, tag: usize, request: &Request) {
        let start = self.bytes.len();
        self.requests.push((tag, start));
        let mut header = NetlinkHeader::default();
        header.length = (HEADER + request.message.len()) as u32;
        header.message_type = request.kind;
        header.flags = NLM_F_REQUEST | request.flags;
        self.bytes.resize(start + HEADER, 0);
        header.emit(&mut self.bytes[start..]);
        self.bytes.extend_from_slice(&request.message);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// All its requests as they are sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The requests from the first that has not been sent on, as many as go at once, and where their bytes end.
    fn piece(&self, first: usize) -> (&[(usize, usize)], usize) {
        let from = self.requests[first].1;
        let end = |next: usize| self.requests.get(next).map_or(self.bytes.len(), |(_, start)| *start);
        let fits = |count: &usize| end(first + count) - from <= BATCH;
        let count = (1..=MOST.min(self.requests.len() - first)).take_while(fits).last().unwrap_or(1);
        (&self.requests[first..first + count], end(first + count))
    }
}

pub struct Socket {
    inner: netlink_sys::Socket,
    /// The number of the next request.
    next: Cell<u32>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Socket {
    /// A socket of the namespace that the calling thread is in, for good. `protocol` is a `NETLINK_*` (linux/netlink.h).
    pub fn open(protocol: isize) -> Result<Socket, Error> {
        let open = || -> std::io::Result<netlink_sys::Socket> {
            // It is bound by its first message, and listens to no group.
            let socket = netlink_sys::Socket::new(protocol)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Filters of dump requests are ignored without it.
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        open().map(|inner| Socket { inner, next: Cell::new(1) }).context("cannot open a netlink socket")
    }

    /// The same, told from now on what the kernel tells these groups.
    pub fn listen(protocol: isize, groups: &[u32]) -> Result<Socket, Error> {
        let mut socket = Socket::open(protocol)?;
        // What is not bound has the kernel's own number, and is told nothing that the kernel says of itself.
        let bound = socket.inner.bind_auto().map(drop);
        let joined = bound.and_then(|()| groups.iter().try_for_each(|group| socket.inner.add_membership(*group)));
        joined.map(|()| socket).context("cannot listen to the kernel")
    }

    /// Sends what is in the batch and empties it. Returns the refusals with their tags; where nothing was sent or the answers
    /// were lost, every tag has one.
    pub fn send(&self, batch: &mut Batch) -> Vec<(usize, Refusal)> {
        self.exchange(batch, |_, _| {})
    }

    /// Like `send`, for requests that are answered.
    pub fn exchange(&self, batch: &mut Batch, mut answer: impl FnMut(usize, Answer)) -> Vec<(usize, Refusal)> {
        let mut batch = std::mem::take(batch);
        let mut refused = Vec::new();
        let mut sent = 0;
        while sent < batch.requests.len() {
            let (piece, end) = batch.piece(sent);
            let piece = piece.to_vec();
            let (some, lost) = self.piece(&mut batch.bytes[..end], &piece, &mut answer);
            match lost {
                None => refused.extend(some),
                // Nothing was sent, or the answers were lost: what became of it is not known.
                Some(refusal) => refused.extend(piece.iter().map(|(tag, _)| (*tag, refusal.clone()))),
            }
            sent += piece.len();
        }
        refused
    }

    /// Sends the whole batch at once, whatever its size, for it is one transaction: all of it is done or nothing. Returns the
    /// refusals with their tags, in order; EMSGSIZE of the first tag where the batch is larger than what this process may send
    /// at once (`net.core.wmem_max`).
    pub fn transact(&self, batch: Batch) -> Vec<(usize, Refusal)> {
        let Batch { mut bytes, requests } = batch;
        let Some((first, _)) = requests.first().copied() else { return Vec::new() };
        if bytes.len() > BATCH {
            // The kernel doubles what it is told. Where the limit is not for us to pass, it gives what the limit allows.
            let _ = setsockopt(self, sockopt::SndBufForce, &bytes.len())
                .or_else(|_| setsockopt(self, sockopt::SndBuf, &bytes.len()));
        }
        let (refused, lost) = self.piece(&mut bytes, &requests, &mut |_, _| {});
        match lost {
            // Where some refusals were lost, the others are reason enough.
            Some(refusal) if refused.is_empty() => vec![(first, refusal)],
            _ => refused,
        }
    }

    /// Sends these requests, which are the last of the bytes. Returns the refusals with their tags, and why there may have been
    /// more.
    fn piece(
        &self,
        bytes: &mut [u8],
        piece: &[(usize, usize)],
        answer: &mut impl FnMut(usize, Answer),
    ) -> (Vec<(usize, Refusal)>, Option<Refusal>) {
        let mut refused = Vec::new();
        let mut lost = None;
        let Some((_, start)) = piece.first().copied() else { return (refused, lost) };
        let first = self.number(piece.len());
        for (number, (_, start)) in (first..).zip(piece) {
            bytes[start + 8..start + 12].copy_from_slice(&number.to_ne_bytes());
        }
        let tag = |number: u32| piece.get(number.wrapping_sub(first) as usize).map(|(tag, _)| *tag);
        if let Err(error) = self.write(&bytes[start..]) {
            return (refused, Some(refusal(&error)));
        }
        let mut buffer = Vec::with_capacity(ANSWER);
        loop {
            match self.read(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return (refused, lost),
                Err(error) => {
                    let refusal = refusal(&error);
                    // Said once, before the answers for which there was room.
                    let more = refusal.errno == Errno::ENOBUFS && lost.is_none();
                    lost = Some(refusal);
                    if more {
                        continue;
                    }
                    return (refused, lost);
                }
            }
            for (header, payload) in messages(&buffer) {
                let Some(tag) = tag(header.sequence_number) else { continue };
                if header.message_type != NLMSG_ERROR {
                    answer(tag, (header.message_type, payload));
                } else if let Some(refusal) = error_of(&header, payload) {
                    refused.push((tag, refusal));
                }
            }
        }
    }

    /// Numbers for so many requests. None is used twice on a socket, so that a late answer is never taken for another's.
    fn number(&self, count: usize) -> u32 {
        let first = self.next.get();
        self.next.set(first.wrapping_add(count as u32));
        first
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
        let number = self.number(1);
        batch.bytes[8..12].copy_from_slice(&number.to_ne_bytes());
        self.write(&batch.bytes).map_err(|error| refusal(&error))?;
        let mut buffer = Vec::with_capacity(ANSWER);
        let mut refused = None;
        loop {
            self.read(&mut buffer, 0).map_err(|error| refusal(&error))?;
            for (header, payload) in messages(&buffer).filter(|(header, _)| header.sequence_number == number) {
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

    /// Reads once what the kernel sends without being asked. EAGAIN: there is nothing; ENOBUFS: there was more than fits.
    pub fn receive(&self, mut each: impl FnMut(Answer)) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(ANSWER);
        self.read(&mut buffer, libc::MSG_DONTWAIT).map_err(|error| refusal(&error).errno)?;
        messages(&buffer).for_each(|(header, payload)| each((header.message_type, payload)));
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        loop {
            match self.inner.send(bytes, 0) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    fn read(&self, buffer: &mut Vec<u8>, flags: libc::c_int) -> std::io::Result<()> {
        buffer.clear();
        loop {
            match self.inner.recv(buffer, flags) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// However many requests a batch has and however long they are, each is in exactly one piece, in order, and no piece is
    /// larger than one send may be, but for a request that is so by itself.
    #[test]
    fn a_batch_goes_out_in_pieces() {
        for (count, length) in
            [(1, 16), (199, 16), (200, 16), (201, 16), (5000, 16), (1000, 900), (3, BATCH), (2, BATCH * 2)]
        {
            let mut batch = Batch::default();
            for tag in 0..count {
                batch.push(tag, &Request { kind: 16, flags: 0, message: vec![0; length] });
            }
            let mut tags = Vec::new();
            let mut from = 0;
            while tags.len() < count {
                let (piece, end) = batch.piece(tags.len());
                assert!(!piece.is_empty() && piece.len() <= MOST && piece[0].1 == from);
                assert!(end - from <= BATCH || piece.len() == 1, "{} bytes at once", end - from);
                tags.extend(piece.iter().map(|(tag, _)| *tag));
                from = end;
            }
            assert!(tags.into_iter().eq(0..count) && from == batch.bytes.len());
        }
    }

    /// A refusal is read with the kernel's own sentence, and an acknowledgement is none.
    #[test]
    fn an_error_message_is_read() {
        let header = |flags| {
            let mut header = NetlinkHeader::default();
            header.flags = flags;
            header
        };
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        let plain = error_of(&header(0), &payload).expect("a refusal");
        assert_eq!(plain.to_string(), "File exists (EEXIST)");
        payload.extend([9, 0, 1, 0]);
        payload.extend(b"taken\0\0\0\0");
        let told = error_of(&header(ACK_TLVS), &payload).expect("a refusal");
        assert_eq!(told.to_string(), "File exists (EEXIST): taken");
        assert_eq!(error_of(&header(0), &[0; 20]), None);
    }
}
