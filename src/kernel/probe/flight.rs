//! One probe on its way: opened inside the sender's namespace, watched from anywhere.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, send, sendto,
    setsockopt, socket, sockopt,
};

use super::super::Open;
use super::super::conntrack::{Part, Tuple};
use super::packet::{self, TCP, UDP, Wiretap};
use super::track::Sent;
use super::{errno_of, failed};
use crate::prove::{Greeting, How, Probe, Seen, What};
use crate::topology::{Mac, Name};

/// What sending came to.
pub enum Launched {
    Landed(Seen),
    Flying(Flight),
    /// On a wire, with nothing left to watch but the wire.
    Put(Sent),
}

pub struct Flight {
    /// Whatever its kind, these calls of the standard library's are those of any socket.
    socket: UdpSocket,
    kind: Kind,
    pub sent: Sent,
    greeting: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tcp { connected: bool },
    Udp,
    Echo { v4: bool, number: u16 },
}

impl AsFd for Flight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends from one namespace, whose thread it must be used in.
pub struct Launcher<'a> {
    open: &'a Open,
    number: &'a mut u16,
    pub taps: HashMap<Name, Wiretap>,
}

impl<'a> Launcher<'a> {
    pub fn new(open: &'a Open, number: &'a mut u16) -> Launcher<'a> {
        Launcher { open, number, taps: HashMap::new() }
    }

    /// Sends a probe, which has this place among the others.
    pub fn launch(&mut self, place: usize, probe: &Probe) -> Launched {
        *self.number = self.number.wrapping_add(1);
        let done = match &probe.how {
            How::Dial(source) => self.dial(probe, SocketAddr::new(probe.address, port(probe.what)), *source),
            How::Through(wire) => match (self.open.ends.get(wire), probe.address) {
                (Some(end), IpAddr::V6(v6)) => {
                    self.dial(probe, SocketAddrV6::new(v6, port(probe.what), 0, end.index).into(), None)
                }
                _ => Ok(Launched::Landed(Seen::Drop)),
            },
            How::Raw(source) => self.raw(probe, *source),
            How::Frame { wire, source, mac } => self.frame(place, probe, wire, *source, *mac),
        };
        done.unwrap_or_else(|errno| Launched::Landed(failed(errno)))
    }

    /// As any program does.
    fn dial(&self, probe: &Probe, to: SocketAddr, source: Option<IpAddr>) -> nix::Result<Launched> {
        let v4 = to.is_ipv4();
        let (kind, protocol, type_) = match probe.what {
            What::Tcp(_) => (Kind::Tcp { connected: false }, SockProtocol::Tcp, SockType::Stream),
            What::Udp(_) => (Kind::Udp, SockProtocol::Udp, SockType::Datagram),
            What::Echo if v4 => (Kind::Echo { v4, number: *self.number }, SockProtocol::Icmp, SockType::Raw),
            What::Echo => (Kind::Echo { v4, number: *self.number }, SockProtocol::IcmpV6, SockType::Raw),
        };
        let fd = self.socket(v4, type_, protocol, probe.hops)?;
        if let Some(source) = source {
            bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
        }
        // An echo request has no port, and a raw socket none to connect to.
        let to = if matches!(kind, Kind::Echo { .. }) { with_port(to, 0) } else { to };
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(Errno::ECONNREFUSED) => return Ok(Launched::Landed(Seen::Pass(None))),
            Err(errno) => return Err(errno),
        }
        let socket = UdpSocket::from(fd);
        let local = socket.local_addr().map_err(|error| errno_of(&error))?;
        let ports = Part::Ports { source: local.port(), destination: to.port() };
        let (protocol, part) = match kind {
            Kind::Tcp { .. } => (TCP, ports),
            Kind::Udp => (UDP, ports),
            Kind::Echo { v4, number } => packet::echo_part(v4, number),
        };
        let sent = (protocol, Tuple { source: local.ip(), destination: to.ip(), part });
        let flight = Flight { socket, kind, sent, greeting: Vec::new() };
        flight.send()?;
        Ok(Launched::Flying(flight))
    }

    fn socket(&self, v4: bool, type_: SockType, protocol: SockProtocol, hops: u8) -> nix::Result<OwnedFd> {
        let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, type_, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, protocol)?;
        match v4 {
            true => setsockopt(&fd, sockopt::Ipv4Ttl, &i32::from(hops))?,
            false => setsockopt(&fd, sockopt::Ipv6Ttl, &i32::from(hops))?,
        }
        Ok(fd)
    }

    /// With headers of its own, by way of the kernel's rules: what they refuse is told at once.
    fn raw(&self, probe: &Probe, source: IpAddr) -> nix::Result<Launched> {
        let Some((packet, _)) = packet::opening(source, probe.address, self.port(), probe.what, probe.hops) else {
            return Err(Errno::EINVAL);
        };
        let fd = self.socket(probe.address.is_ipv4(), SockType::Raw, SockProtocol::Raw, probe.hops)?;
        sendto(fd.as_raw_fd(), &packet, &SockaddrStorage::from(SocketAddr::new(probe.address, 0)), MsgFlags::empty())?;
        Ok(Launched::Landed(Seen::Pass(None)))
    }

    fn frame(&mut self, place: usize, probe: &Probe, wire: &Name, source: IpAddr, mac: Mac) -> nix::Result<Launched> {
        let Some(end) = self.open.ends.get(wire) else { return Ok(Launched::Landed(Seen::Drop)) };
        let Some((packet, sent)) = packet::opening(source, probe.address, self.port(), probe.what, probe.hops) else {
            return Err(Errno::EINVAL);
        };
        if !self.taps.contains_key(wire) {
            self.taps.insert(wire.clone(), Wiretap::on(end.index)?);
        }
        if let Some(tap) = self.taps.get_mut(wire) {
            tap.put(place, &packet, sent, mac)?;
        }
        Ok(Launched::Put(sent))
    }

    /// A port that no service and no program of the namespace is likely to have, another one each time.
    fn port(&self) -> u16 {
        20_000 + *self.number % 12_000
    }
}

impl Flight {
    /// Whether whoever lets it in answers it in any case: what is silent then did not get there.
    pub fn is_answered_always(&self) -> bool {
        self.kind != Kind::Udp
    }

    /// What to wake for, once each time: a connection when it is made, and whatever can be read.
    pub fn events(&self) -> EpollFlags {
        let made = matches!(self.kind, Kind::Tcp { .. }).then_some(EpollFlags::EPOLLOUT);
        EpollFlags::EPOLLIN | EpollFlags::EPOLLET | made.unwrap_or(EpollFlags::empty())
    }

    /// Whether it got there and only a greeting is still awaited.
    pub fn is_connected(&self) -> bool {
        self.kind == Kind::Tcp { connected: true }
    }

    /// Once more; TCP does so by itself.
    pub fn send_again(&self) {
        // What is refused now has been sent before.
        let _ = self.send();
    }

    fn send(&self) -> nix::Result<()> {
        let packet = match self.kind {
            Kind::Tcp { .. } => return Ok(()),
            Kind::Udp => Vec::new(),
            Kind::Echo { v4, number } => packet::echo(v4, number),
        };
        send(self.socket.as_raw_fd(), &packet, MsgFlags::empty()).map(drop)
    }

    /// What can be said now that something has happened; nothing yet where it was something else.
    pub fn look(&mut self, greetings: bool) -> Option<Seen> {
        let mut buffer = [0; 256];
        if self.kind == (Kind::Tcp { connected: false }) {
            match self.socket.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(refused(&error, true)),
            }
            if self.socket.peer_addr().is_err() {
                return None;
            }
            if !greetings {
                return Some(Seen::Pass(None));
            }
            self.kind = Kind::Tcp { connected: true };
        }
        loop {
            match (self.socket.recv(&mut buffer), self.kind) {
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => return None,
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Err(_), Kind::Tcp { .. }) | (Ok(0), Kind::Tcp { .. }) => {
                    return Some(Seen::Pass(greeting(&self.greeting)));
                }
                (Err(error), kind) => return Some(refused(&error, kind == Kind::Udp)),
                (Ok(length), Kind::Tcp { .. }) => {
                    self.greeting.extend(&buffer[..length]);
                    if self.greeting.contains(&b'\n') || self.greeting.len() > buffer.len() {
                        return Some(Seen::Pass(greeting(&self.greeting)));
                    }
                }
                (Ok(length), Kind::Udp) => return Some(Seen::Pass(greeting(&buffer[..length]).filter(|_| greetings))),
                (Ok(length), Kind::Echo { v4, number }) => {
                    if packet::is_reply(&buffer[..length], v4, number) {
                        return Some(Seen::Pass(None));
                    }
                }
            }
        }
    }
}

/// What an error says that came back. `answers`: a refusal is an answer of whoever was dialled.
fn refused(error: &io::Error, answers: bool) -> Seen {
    match errno_of(error) {
        Errno::ECONNREFUSED | Errno::ECONNRESET if answers => Seen::Pass(None),
        Errno::ECONNREFUSED => Seen::Drop,
        errno => failed(errno),
    }
}

/// `NODE CLIENT`, as the listeners of a lab say it.
fn greeting(bytes: &[u8]) -> Option<Greeting> {
    let (node, client) = std::str::from_utf8(bytes).ok()?.trim().split_once(' ')?;
    Some(Greeting { node: node.to_owned(), client: client.parse().ok()? })
}

fn port(what: What) -> u16 {
    match what {
        What::Tcp(port) | What::Udp(port) => port,
        What::Echo => 0,
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}
