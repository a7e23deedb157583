//! A tunnel that is served: a thread that carries packets between the device and the network.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::memory::Endpoints;
use super::peers::{LONGEST, Peers, TICK};
use super::tun::{HEADER, Joiner, ROW, Splitter, Tun};
use super::udp::{Row, Sockets};
use crate::orders::{self, PeerSeen, Secret};
use crate::trouble::{Context, Trouble};

/// So often one side is listened to before it is the other's turn.
const TURN: usize = 64;
/// Packets that are handed to the device at once.
const BATCH: usize = 128;

pub struct Device {
    name: String,
    listen: u16,
    private_key: Secret,
    peers: Arc<Mutex<Peers>>,
    tun: Arc<Tun>,
    end: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.end.write(1);
        // The port and the device are free when its thread has ended.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Device {
    /// `known` is where peers were heard last.
    pub fn start(orders: &orders::Tunnel, known: Endpoints) -> Result<Device, Trouble> {
        let failed = || format!("cannot serve the tunnel `{}`", orders.device);
        let tun = Arc::new(Tun::attach(&orders.device)?);
        let mut peers = Peers::new(&orders.private_key, known).context(failed())?;
        peers.change(&orders.peers)?;
        let sockets = Sockets::bind(orders.listen)
            .map_err(|_| Trouble(format!("{}: another program has udp/{}", failed(), orders.listen)))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let end = Arc::new(EventFd::from_flags(flags).context(failed())?);
        let peers = Arc::new(Mutex::new(peers));
        let carrier = Carrier {
            peers: peers.clone(),
            tun: tun.clone(),
            end: end.clone(),
            sockets,
            splitter: Splitter::default(),
            joiner: Joiner::default(),
            row: Row::new(),
            packets: (0..BATCH).map(|_| Vec::with_capacity(HEADER + ROW)).collect(),
            arrived: 0,
        };
        let thread = std::thread::Builder::new().name("tunnel".into()).spawn(|| carrier.carry()).context(failed())?;
        Ok(Device {
            name: orders.device.clone(),
            listen: orders.listen,
            private_key: orders.private_key.clone(),
            peers,
            tun,
            end,
            thread: Some(thread),
        })
    }

    pub fn is_attached(&self) -> bool {
        self.tun.is_attached()
    }

    /// Whether it can go on under these orders, whatever peers they name.
    pub fn serves(&self, orders: &orders::Tunnel) -> bool {
        let same = self.name == orders.device && self.listen == orders.listen && self.private_key == orders.private_key;
        same && self.is_attached()
    }

    /// From now on these peers; who stays notices nothing.
    pub fn change(&mut self, wanted: &[orders::Peer]) -> Result<(), Trouble> {
        locked(&self.peers).change(wanted)
    }

    /// Where each peer was heard last.
    pub fn endpoints(&self) -> Endpoints {
        locked(&self.peers).endpoints()
    }

    /// What was heard of each peer, since this began.
    pub fn peers(&self) -> Vec<PeerSeen> {
        locked(&self.peers).seen()
    }
}

fn locked(peers: &Mutex<Peers>) -> MutexGuard<'_, Peers> {
    // What is in there is true after every step.
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread has.
struct Carrier {
    peers: Arc<Mutex<Peers>>,
    tun: Arc<Tun>,
    end: Arc<EventFd>,
    sockets: Sockets,
    splitter: Splitter,
    joiner: Joiner,
    row: Row,
    /// Packets for the device, each behind room for its header, and with room for those that are joined to it, or none would be. The
    /// first `arrived` hold one. Memory that nothing was written to costs nothing.
    packets: Vec<Vec<u8>>,
    arrived: usize,
}

impl Carrier {
    /// Until it is to end, or the device is gone.
    fn carry(mut self) {
        let mut ticked = Instant::now();
        loop {
            let waits = TICK.saturating_sub(ticked.elapsed());
            let timeout = PollTimeout::try_from(waits).unwrap_or(PollTimeout::ZERO);
            let fds = [self.end.as_fd(), self.tun.as_fd()].into_iter().chain(self.sockets.fds());
            let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let said: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
            if !said[0].is_empty() || said[1].intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) {
                return;
            }
            if !said[1].is_empty() {
                self.outwards();
            }
            for (number, said) in said[2..].iter().enumerate() {
                if !said.is_empty() {
                    self.inwards(number);
                }
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                let mouth = self.sockets.mouth();
                let mut room = [0; LONGEST];
                locked(&self.peers).tick(&mut room, |datagram, to| mouth.send(datagram, to));
            }
        }
    }

    /// From the device to the network.
    fn outwards(&mut self) {
        let mut peers = locked(&self.peers);
        let mouth = self.sockets.mouth();
        for _ in 0..TURN {
            let Some(packets) = self.splitter.take(&self.tun) else { break };
            for packet in packets {
                if let Some((length, to)) = peers.carry(packet, self.row.room()) {
                    self.row.push(length, to, mouth);
                }
            }
        }
        self.row.send(mouth);
    }

    /// From the network to the device.
    fn inwards(&mut self, number: usize) {
        let Carrier { peers, tun, sockets, joiner, packets, arrived, .. } = self;
        let mut peers = locked(peers);
        for _ in 0..TURN {
            let more = sockets.receive(number, |datagram, from, mouth| {
                if datagram.len() > LONGEST {
                    return;
                }
                let room = &mut packets[*arrived];
                room.resize(HEADER + LONGEST, 0);
                if let Some(length) = peers.hear(datagram, from, &mut room[HEADER..], |answer| mouth.send(answer, from))
                {
                    room.truncate(HEADER + length);
                    *arrived += 1;
                }
                if *arrived == packets.len() {
                    joiner.send(packets, tun);
                    *arrived = 0;
                }
            });
            if !more {
                break;
            }
        }
        joiner.send(&mut packets[..std::mem::take(arrived)], tun);
    }
}
