//! The sockets of a tunnel: what comes in one after another from one sender is taken at once, and what goes out to one receiver is
//! handed over at once, so that the kernel, and every rule on the way, has to do with it once (UDP GRO and GSO, linux/udp.h).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, recvmsg,
    sendmsg, setsockopt, socket, sockopt,
};

/// The largest datagram, or row of them.
const ROW: usize = 65_535;
/// So much of a row may be data: an IPv4 packet has 65,535 bytes with its own header and UDP's.
const MOST: usize = ROW - 20 - 8;
/// `UDP_MAX_SEGMENTS` of older kernels.
const SEGMENTS: usize = 64;

/// A socket for each kind of address that the machine has.
pub struct Sockets {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
    row: Vec<u8>,
}

impl Sockets {
    pub fn bind(port: u16) -> io::Result<Sockets> {
        let v4 = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        let v6 = match open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
            Ok(v6) => Some(v6),
            // A machine without IPv6.
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => None,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Sockets { v4, v6, row: vec![0; ROW] })
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Takes what has come in at one of them, and hands on each datagram with its sender. False if there is nothing.
    pub fn receive(&mut self, number: usize, mut each: impl FnMut(&[u8], SocketAddr, &Mouth)) -> bool {
        let socket = match number {
            0 => Some(&self.v4),
            _ => self.v6.as_ref(),
        };
        let Some(socket) = socket else { return false };
        let mut control = nix::cmsg_space!(i32);
        let mut row = [IoSliceMut::new(&mut self.row)];
        let taken = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut row, Some(&mut control), MsgFlags::empty());
        // An error of an earlier datagram's is told once, and is nobody's concern.
        let Ok(taken) = taken else { return taken.is_err_and(|errno| errno != Errno::EAGAIN) };
        let (length, from) = (taken.bytes, taken.address.and_then(address));
        let each_is = taken.cmsgs().ok().and_then(|mut said| {
            said.find_map(|said| match said {
                ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok().filter(|size| *size > 0),
                _ => None,
            })
        });
        let Some(from) = from else { return true };
        let mouth = Mouth { v4: &self.v4, v6: self.v6.as_ref() };
        for datagram in self.row[..length].chunks(each_is.unwrap_or(length).max(1)) {
            each(datagram, from, &mouth);
        }
        true
    }

    pub fn mouth(&self) -> Mouth<'_> {
        Mouth { v4: &self.v4, v6: self.v6.as_ref() }
    }
}

/// What of the sockets sends.
#[derive(Clone, Copy)]
pub struct Mouth<'a> {
    v4: &'a OwnedFd,
    v6: Option<&'a OwnedFd>,
}

impl Mouth<'_> {
    /// Sends one datagram, or loses it.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) {
        let _ = self.try_send(datagram, datagram.len(), to);
    }

    fn try_send(&self, row: &[u8], each: usize, to: SocketAddr) -> nix::Result<usize> {
        let socket = if to.is_ipv4() { Some(self.v4) } else { self.v6 }.ok_or(Errno::EAFNOSUPPORT)?;
        let size = u16::try_from(each).map_err(|_| Errno::EMSGSIZE)?;
        let segments = [ControlMessage::UdpGsoSegments(&size)];
        let segments = if row.len() > each { &segments[..] } else { &[] };
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(row)], segments, MsgFlags::empty(), Some(&SockaddrStorage::from(to)))
    }
}

/// Datagrams for one receiver that are all as long as the first, but for the last, which may be shorter.
pub struct Row {
    bytes: Vec<u8>,
    length: usize,
    each: usize,
    to: SocketAddr,
}

impl Row {
    pub fn new() -> Row {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Row { bytes: vec![0; ROW + super::peers::LONGEST], length: 0, each: 0, to: nobody }
    }

    /// Where the next datagram is to be written.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.length..]
    }

    /// A datagram has been written there.
    pub fn push(&mut self, length: usize, to: SocketAddr, mouth: Mouth) {
        let is_ended = self.each > 0 && !self.length.is_multiple_of(self.each);
        let fits =
            to == self.to && length <= self.each && self.length + length <= MOST && self.length / self.each < SEGMENTS;
        if self.length > 0 && (is_ended || !fits) {
            let begin = self.length;
            self.send(mouth);
            self.bytes.copy_within(begin..begin + length, 0);
        }
        if self.length == 0 {
            (self.each, self.to) = (length, to);
        }
        self.length += length;
    }

    /// Sends what there is.
    pub fn send(&mut self, mouth: Mouth) {
        let row = &self.bytes[..std::mem::take(&mut self.length)];
        if row.is_empty() {
            return;
        }
        match mouth.try_send(row, self.each, self.to) {
            // There is no room for any of them.
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => {}
            // A row of datagrams may not be cut in pieces on the way (EINVAL), and some devices take none (EIO).
            Err(_) if row.len() > self.each => row.chunks(self.each).for_each(|datagram| mouth.send(datagram, self.to)),
            Err(_) => {}
        }
    }
}

fn open(address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Datagram, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    // An older kernel (before 5.0) hands them over one by one.
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

fn address(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((IpAddr::V4(v4.ip()), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::*;

    fn port(fd: BorrowedFd) -> u16 {
        let address: SockaddrStorage = nix::sys::socket::getsockname(fd.as_raw_fd()).unwrap();
        self::address(address).unwrap().port()
    }

    /// Whatever lengths follow each other, and whoever they are for, each datagram arrives as it was, in its order.
    #[test]
    fn a_row_is_its_datagrams() {
        let [mut one, mut other] = [(); 2].map(|()| Sockets::bind(0).unwrap());
        let sender = Sockets::bind(0).unwrap();
        let mut row = Row::new();
        let mut sent: [Vec<Vec<u8>>; 2] = Default::default();
        let lengths = [200, 200, 200, 100, 200, 300, 300, 1, 1, 1, 1480, 1480, 1480, 1479, 148];
        let lengths = lengths.into_iter().chain(std::iter::repeat_n(1452, 100));
        for (number, length) in lengths.enumerate() {
            let to = usize::from(number % 11 == 7);
            let address = [&one, &other][to];
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port(address.fds().next().unwrap())));
            let datagram: Vec<u8> = (0..length).map(|at| (at + number) as u8).collect();
            row.room()[..length].copy_from_slice(&datagram);
            row.push(length, address, sender.mouth());
            sent[to].push(datagram);
        }
        row.send(sender.mouth());
        for (sockets, sent) in [&mut one, &mut other].into_iter().zip(sent) {
            let (mut heard, start) = (Vec::new(), Instant::now());
            while heard.len() < sent.len() && start.elapsed() < Duration::from_secs(10) {
                sockets.receive(0, |datagram, from, mouth| {
                    heard.push(datagram.to_vec());
                    mouth.send(datagram, from);
                });
            }
            assert!(heard == sent, "{:?}", heard.iter().map(Vec::len).collect::<Vec<_>>());
        }
    }

    /// A port that somebody has is not shared with him.
    #[test]
    fn a_port_is_had_alone() {
        let had = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(Sockets::bind(had.local_addr().unwrap().port()).is_err());
    }
}
