//! Packets that the rules of a namespace log, read in there (NFLOG): the kernel's own log shows what the first network
//! namespace logs and no other. Here messages become packets; what a packet means is not known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::nfnl::{self, ULOG, find, number};
use super::socket::{Batch, NETLINK_NETFILTER, Refusal, Socket};
use super::{Kernel, Open, Where, link};
use crate::error::{Context, Error};
use crate::log::packet::{Hook, Packet};
use crate::nft::LOG_GROUP;
use crate::state::State;
use crate::topology::{Device, NETNS, Name, Topology};

/// How much of a packet is asked for, in bytes: an IPv6 header with a few options, and TCP's.
const LENGTH: u32 = 96;
/// How long the kernel may keep a packet to hand over more than one at once, in hundredths of a second. What is sent from here
/// has no time of its own and gets that of its arrival with us.
const PATIENCE: u32 = 1;

/// `NFULNL_MSG_*` (linux/netfilter/nfnetlink_log.h), as are the constants that follow.
const PACKET: u8 = 0;
const CONFIG: u8 = 1;

/// `NFULA_CFG_*`: attributes of a request.
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_TIMEOUT: u16 = 4;
const CFG_FLAGS: u16 = 6;

/// `NFULNL_CFG_CMD_BIND`, `NFULNL_COPY_PACKET`, `NFULNL_CFG_F_SEQ`.
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const NUMBERED: u16 = 1;

/// `NFULA_*`: attributes of a packet.
const PACKET_HDR: u16 = 1;
const TIMESTAMP: u16 = 3;
const INDEV: u16 = 4;
const OUTDEV: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
const SEQ: u16 = 12;

/// A packet as the kernel hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Logged {
    /// Of this reader's, counted by the kernel: what is left out was lost.
    number: u32,
    prefix: String,
    hook: Hook,
    /// Indexes of devices.
    input: Option<u32>,
    output: Option<u32>,
    /// When it came in; unknown for what is sent from here.
    at: Option<SystemTime>,
    bytes: Vec<u8>,
}

/// One namespace's packets.
struct Reader {
    socket: Socket,
    /// The number of the next packet.
    next: Option<u32>,
    devices: HashMap<u32, Option<Device>>,
}

impl Reader {
    /// Begins to read in the namespace that the calling thread is in.
    fn open() -> Result<Reader, Error> {
        let socket = Socket::open(NETLINK_NETFILTER)?;
        let mut attributes = Vec::new();
        nfnl::add(&mut attributes, CFG_CMD, &[BIND]);
        let mut mode = LENGTH.to_be_bytes().to_vec();
        mode.extend([COPY_PACKET, 0]);
        nfnl::add(&mut attributes, CFG_MODE, &mode);
        nfnl::add(&mut attributes, CFG_TIMEOUT, &PATIENCE.to_be_bytes());
        nfnl::add(&mut attributes, CFG_FLAGS, &NUMBERED.to_be_bytes());
        let mut batch = Batch::default();
        batch.push(0, &nfnl::request(ULOG, CONFIG, 0, libc::AF_UNSPEC as u8, LOG_GROUP, &attributes));
        match socket.send(&mut batch).into_iter().next() {
            None => Ok(Reader { socket, next: None, devices: HashMap::new() }),
            Some((_, refusal)) => Err(taken(&refusal)),
        }
    }

    /// What is there to be read, and how many packets were lost before or between. `EAGAIN` is the end of it.
    fn read(&mut self, open: &Open, mut each: impl FnMut(Packet)) -> Result<u32, Errno> {
        let (mut lost, mut found) = (0, Vec::new());
        let received = self.socket.receive(|(kind, payload)| {
            found.extend(logged(payload).filter(|_| kind == u16::from_be_bytes([ULOG, PACKET])));
        });
        match received {
            // The kernel had no room for what came next, which the numbers will tell.
            Ok(()) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        for logged in found {
            lost += self.next.map_or(0, |next| logged.number.wrapping_sub(next));
            self.next = Some(logged.number.wrapping_add(1));
            let device = logged.input.or(logged.output).and_then(|index| self.device(open, index));
            let Logged { prefix, hook, at, bytes, .. } = logged;
            each(Packet { prefix, hook, device, at: at.unwrap_or_else(SystemTime::now), bytes });
        }
        Ok(lost)
    }

    /// The name of a device, asked for once.
    fn device(&mut self, open: &Open, index: u32) -> Option<Device> {
        let ask = || {
            let mut batch = Batch::default();
            batch.push(0, &link::one(index));
            let mut name = None;
            open.socket.exchange(&mut batch, |_, answer| {
                let seen = link::seen(answer).ok().flatten().filter(|seen| seen.index == index);
                name = seen.and_then(|seen| Device::new(&seen.name)).or(name.take());
            });
            name
        };
        self.devices.entry(index).or_insert_with(ask).clone()
    }
}

/// EBUSY: we read there ourselves. EPERM: somebody else does, for that we may read is known before.
fn taken(refusal: &Refusal) -> Error {
    match refusal.errno {
        Errno::EPERM | Errno::EBUSY => {
            Error::failed(format!("somebody else reads what is logged (NFLOG group {LOG_GROUP})"))
                .hint("there can be one reader in a namespace: end the other `wire log`, or what reads there")
        }
        _ => Error::failed(format!("cannot read what is logged: {refusal}"))
            .hint("the kernel needs CONFIG_NETFILTER_NETLINK_LOG (the module nfnetlink_log)"),
    }
}

fn logged(payload: &[u8]) -> Option<Logged> {
    let (_, attributes) = nfnl::read(payload)?;
    let long = |kind| Some(u32::from_be_bytes(number(find(attributes, kind)?)?));
    // `struct nfulnl_msg_packet_hdr`: the protocol, then the hook; its numbers are those of `enum nf_inet_hooks`.
    let hook = match find(attributes, PACKET_HDR)?.get(2)? {
        0 | 1 => Hook::In,
        2 => Hook::Through,
        _ => Hook::Out,
    };
    let prefix = find(attributes, PREFIX).map(String::from_utf8_lossy).unwrap_or_default();
    Some(Logged {
        number: long(SEQ)?,
        prefix: prefix.trim_end_matches('\0').to_owned(),
        hook,
        input: long(INDEV),
        output: long(OUTDEV),
        at: find(attributes, TIMESTAMP).and_then(time),
        bytes: find(attributes, PAYLOAD)?.to_vec(),
    })
}

/// `struct nfulnl_msg_packet_timestamp`: seconds and microseconds since 1970.
fn time(value: &[u8]) -> Option<SystemTime> {
    let (seconds, micros) = (u64::from_be_bytes(number(value)?), u64::from_be_bytes(number(value.get(8..)?)?));
    let since = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// What a look at the nodes brought.
#[derive(Debug, Default)]
pub struct Look {
    /// Where reading began.
    pub begun: Vec<Name>,
    /// Where it ended, because the namespace is not the node's any more.
    pub ended: Vec<Name>,
    /// Nodes that do not run, with what they do instead.
    pub waiting: BTreeMap<Name, String>,
    /// Nodes where nothing can be read.
    pub refused: BTreeMap<Name, Error>,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was read what there was, or the time is over.
    Over,
    /// Somebody wants it to end: SIGINT, SIGTERM, or nobody reads our output any more.
    End,
}

/// Readers in the namespaces of many nodes, as far as they run.
pub struct Readers {
    kernel: Kernel,
    readers: BTreeMap<Name, Reader>,
    signals: SignalFd,
}

impl Readers {
    /// None yet. From now on SIGINT and SIGTERM end a wait and nothing else.
    pub fn new() -> Result<Readers, Error> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block().context("cannot wait for signals")?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let signals = signals.context("cannot wait for signals")?;
        Ok(Readers { kernel: Kernel::open(None)?, readers: BTreeMap::new(), signals })
    }

    /// Looks where the nodes are: reads in new namespaces from now on, and lets go of those that are not their node's any more,
    /// which would not go away as long as somebody reads in them.
    pub fn look(&mut self, topology: &Topology, nodes: &BTreeSet<Name>) -> Result<Look, Error> {
        let mut look = Look::default();
        self.kernel.find_again(topology)?;
        let (kept, ended) =
            std::mem::take(&mut self.readers).into_iter().partition(|(node, _)| self.kernel.open.contains_key(node));
        self.readers = kept;
        look.ended = BTreeMap::into_keys(ended).collect();
        let mut state = State::default();
        self.kernel.find(topology, &Where::Nodes(nodes), &mut state)?;
        look.waiting = state.waiting;
        for node in self.kernel.unmade.keys() {
            look.waiting.insert(node.clone(), format!("there is no namespace {NETNS}{node}, and `wire up` makes it"));
        }
        look.refused = state.refused.into_iter().map(|(node, reason)| (node, Error::failed(reason))).collect();
        for (node, open) in &self.kernel.open {
            if let Some(reader) = self.readers.get_mut(node) {
                reader.devices.clear();
                continue;
            }
            match open.netns.inside(&self.kernel.home, Reader::open).and_then(|opened| opened) {
                Ok(reader) => {
                    self.readers.insert(node.clone(), reader);
                    look.begun.push(node.clone());
                }
                Err(error) => drop(look.refused.insert(node.clone(), error)),
            }
        }
        Ok(look)
    }

    /// Waits until a packet was logged anywhere, at most until then, and hands over what there is, each with the node where it
    /// was logged. `lost`: so many packets could not be kept for us.
    pub fn wait(
        &mut self,
        until: Instant,
        mut each: impl FnMut(&Name, Packet),
        mut lost: impl FnMut(&Name, u32),
    ) -> Result<Turn, Error> {
        let stdout = std::io::stdout();
        // A pipe that nobody reads any more says so by itself (POLLERR), asked or not.
        let mut watched =
            vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
        watched.extend(self.readers.values().map(|reader| PollFd::new(reader.as_fd(), PollFlags::POLLIN)));
        // Rounded up, or the last millisecond would be spent asking.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        match poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => return Ok(Turn::Over),
            answer => answer.context("cannot wait for packets")?,
        };
        let mut ready = watched.iter().map(|watched| watched.any().unwrap_or(true)).collect::<Vec<_>>().into_iter();
        if ready.next() == Some(true) || ready.next() == Some(true) {
            return Ok(Turn::End);
        }
        let mut broken = Vec::new();
        for ((node, reader), _) in self.readers.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let Some(open) = self.kernel.open.get(node) else { continue };
            match reader.read(open, |packet| each(node, packet)) {
                Ok(0) => {}
                Ok(count) => lost(node, count),
                // The next look begins anew there.
                Err(_) => broken.push(node.clone()),
            }
        }
        for node in broken {
            self.readers.remove(&node);
        }
        Ok(Turn::Over)
    }
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(digits: &str) -> Vec<u8> {
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.as_bytes().chunks(2).map(byte).collect()
    }

    /// A UDP packet as a kernel (6.18) logged it in an `input` chain, and a TCP one in an `output` chain.
    const IN: &str = "02000077080001000800010010000a00776972652064656e69656400080004000000000110000800000600000000000000\
        00000006000f000304000006001100000e0000120010000000000000000000000000000800000014000300000000006b0057b9000000\
        00000e212208000c00000000022500090045000021b266400040118a637f0000017f000001b5910035000dfe2068656c6c6f000000";
    const OUT: &str = "0200007708000100080003001d000a00776972652064656e69656420707269762d6769742d737368000000000800050000\
        00000108000b000000000008000e000000000008000c0000000000400009004500003c19f04000400622ca7f0000017f000001d8f200\
        160ea30cd000000000a002ffd7fe3000000204ffd70402080aa12e5419000000000103030a";

    #[test]
    fn packets_are_read() {
        let came = logged(&bytes(IN)).unwrap();
        assert_eq!((came.number, &*came.prefix, came.hook), (2, "wire denied", Hook::In));
        assert_eq!((came.input, came.output), (Some(1), None));
        let since = came.at.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since, Duration::new(0x6b00_57b9, 0x000e_2122 * 1000));
        assert_eq!((came.bytes.len(), &came.bytes[..2]), (33, &[0x45, 0][..]));
        let sent = logged(&bytes(OUT)).unwrap();
        assert_eq!((sent.number, &*sent.prefix, sent.hook), (0, "wire denied priv-git-ssh", Hook::Out));
        assert_eq!((sent.input, sent.output, sent.at), (None, Some(1), None));
        assert_eq!(sent.bytes.len(), 60);
    }

    /// What is cut off is no packet, or one without what was cut off, which here is its payload.
    #[test]
    fn cut_off_packets_are_none() {
        for whole in [bytes(IN), bytes(OUT)] {
            let length = logged(&whole).unwrap().bytes.len();
            for end in 0..whole.len() - whole.len() % 4 - length.next_multiple_of(4) {
                assert_eq!(logged(&whole[..end]), None, "{end}");
            }
        }
        assert_eq!(time(&[0xff; 16]), None);
    }
}
