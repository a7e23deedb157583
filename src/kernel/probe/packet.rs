//! Packets byte by byte, and the wires they are put on without asking the sender's own namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, sendto, socket};

use super::super::conntrack::{Part, Tuple};
use super::super::sys;
use super::track::Sent;
use crate::prove::What;
use crate::topology::Mac;

/// linux/if_ether.h.
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_ALL: u16 = 0x0003;
/// linux/in.h.
const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// linux/icmp.h, linux/icmpv6.h: a request, then its reply.
const ECHO: [u8; 2] = [8, 0];
const ECHO6: [u8; 2] = [128, 129];
/// So many frames are looked at each time there are some: whoever sends more on a wire must not keep us from the others.
const FRAMES: usize = 256;

/// The internet checksum (RFC 1071) over several pieces, each but the last of an even length.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|piece| piece.chunks(2));
    let mut sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An echo request. The kernel itself puts the checksum into one of ICMPv6.
pub fn echo(v4: bool, number: u16) -> Vec<u8> {
    let kind = if v4 { ECHO[0] } else { ECHO6[0] };
    let [high, low] = number.to_be_bytes();
    let mut message = vec![kind, 0, 0, 0, high, low, 0, 1];
    if v4 {
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// What tells an echo request from others, with its protocol.
pub fn echo_part(v4: bool, number: u16) -> (u8, Part) {
    let (protocol, kind) = if v4 { (ICMP, ECHO[0]) } else { (ICMPV6, ECHO6[0]) };
    (protocol, Part::Icmp { kind, code: 0, id: number })
}

/// Whether that is the reply to an echo request. A raw socket of IPv4 hands over the header in front as well.
pub fn is_reply(packet: &[u8], v4: bool, number: u16) -> bool {
    let start = if v4 { packet.first().map_or(0, |first| usize::from(first & 0xf) * 4) } else { 0 };
    let kind = if v4 { ECHO[1] } else { ECHO6[1] };
    packet.get(start..start + 6).is_some_and(|head| head[0] == kind && head[4..6] == number.to_be_bytes())
}

/// The first packet of a TCP connection, an empty UDP datagram, or an echo request, headers and all. `number`: the port it comes
/// from, or the echo request's own. None where the addresses are of two kinds.
pub fn opening(source: IpAddr, destination: IpAddr, number: u16, what: What, hops: u8) -> Option<(Vec<u8>, Sent)> {
    let v4 = source.is_ipv4();
    let ports = |to: u16| [number.to_be_bytes(), to.to_be_bytes()].concat();
    let part = |to| Part::Ports { source: number, destination: to };
    let ((protocol, part), mut body, sum_at) = match what {
        // Sequence 1, no acknowledgement, five words, SYN, a window.
        What::Tcp(to) => {
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
            ((TCP, part(to)), [ports(to), rest.to_vec()].concat(), 16)
        }
        What::Udp(to) => ((UDP, part(to)), [ports(to), vec![0, 8, 0, 0]].concat(), 6),
        What::Echo => (echo_part(v4, number), echo(v4, number), 2),
    };
    let length = body.len() as u16;
    let (header, addresses) = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (header4(a, b, protocol, hops, length), [a.octets(), b.octets()].concat()),
        (IpAddr::V6(a), IpAddr::V6(b)) => (header6(a, b, protocol, hops, length), [a.octets(), b.octets()].concat()),
        _ => return None,
    };
    if protocol != ICMP {
        let [high, low] = length.to_be_bytes();
        let sum = checksum(&[&addresses, &[0, protocol, high, low], &body]);
        // Zero says of UDP that there is no checksum (RFC 768).
        let sum = if protocol == UDP && sum == 0 { 0xffff } else { sum };
        body[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    Some(([header, body].concat(), (protocol, Tuple { source, destination, part })))
}

fn header4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, hops: u8, length: u16) -> Vec<u8> {
    let [high, low] = (20 + length).to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, hops, protocol, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, hops: u8, length: u16) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, high, low, protocol, hops];
    header.extend(source.octets());
    header.extend(destination.octets());
    header
}

/// One end of a wire below everything that polices it: sends frames, and hears all that comes and goes.
pub struct Wiretap {
    socket: UdpSocket,
    index: u32,
    /// What was put on the wire, by the number of the probe.
    sent: Vec<(usize, Sent)>,
}

impl AsFd for Wiretap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Wiretap {
    /// On a device of the namespace that the calling thread is in.
    pub fn on(index: u32) -> nix::Result<Wiretap> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        bind(socket.as_raw_fd(), &sys::link_address(index, ETH_P_ALL, [0; 6])?)?;
        // Receiving is the same for a socket of any kind.
        Ok(Wiretap { socket: socket.into(), index, sent: Vec::new() })
    }

    /// Puts a packet on the wire.
    pub fn put(&mut self, probe: usize, packet: &[u8], sent: Sent, mac: Mac) -> nix::Result<()> {
        let protocol = if sent.1.source.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 };
        let to = sys::link_address(self.index, protocol, mac)?;
        sendto(self.socket.as_raw_fd(), packet, &to, MsgFlags::empty())?;
        self.sent.push((probe, sent));
        Ok(())
    }

    /// The probes that somebody has answered on this wire.
    pub fn answered(&self) -> Vec<usize> {
        let mut answered = Vec::new();
        let mut buffer = [0; 128];
        for _ in 0..FRAMES {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let Some((protocol, heard)) = read(&buffer[..length]) else { continue };
            let back = (protocol, heard.back());
            answered.extend(self.sent.iter().filter(|(_, sent)| *sent == back).map(|(probe, _)| *probe));
        }
        answered
    }
}

/// What a packet of TCP or UDP is between.
fn read(packet: &[u8]) -> Option<Sent> {
    let octets = |from: usize| -> Option<[u8; 16]> { packet.get(from..from + 16)?.try_into().ok() };
    let four = |from: usize| -> Option<[u8; 4]> { packet.get(from..from + 4)?.try_into().ok() };
    let (protocol, source, destination, start): (u8, IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, four(12)?.into(), four(16)?.into(), usize::from(packet[0] & 0xf) * 4),
        6 => (*packet.get(6)?, octets(8)?.into(), octets(24)?.into(), 40),
        _ => return None,
    };
    let port = |from: usize| Some(u16::from_be_bytes(packet.get(from..from + 2)?.try_into().ok()?));
    matches!(protocol, TCP | UDP).then_some(())?;
    let part = Part::Ports { source: port(start)?, destination: port(start + 2)? };
    Some((protocol, Tuple { source, destination, part }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What is built is what is read, and every checksum adds up to nothing, as whoever receives it reckons.
    #[test]
    fn a_packet_is_whole() {
        for (source, destination) in [("10.0.0.0", "10.0.0.1"), ("198.51.100.77", "172.16.2.1"), ("fd00::", "fd00::1")]
        {
            for what in [What::Tcp(80), What::Udp(53), What::Echo] {
                let (packet, sent) = opening(ip(source), ip(destination), 40_000, what, 3).unwrap();
                assert_eq!(read(&packet), Some(sent).filter(|_| what != What::Echo));
                let v4 = ip(source).is_ipv4();
                let (start, hops) = if v4 { (20, packet[8]) } else { (40, packet[7]) };
                assert_eq!(hops, 3);
                if v4 {
                    assert_eq!(checksum(&[&packet[..20]]), 0);
                    assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
                }
                let addresses = if v4 { &packet[12..20] } else { &packet[8..40] };
                let length = ((packet.len() - start) as u16).to_be_bytes();
                let pseudo = [addresses, &[0, sent.0, length[0], length[1]]].concat();
                let pseudo = if sent.0 == ICMP { Vec::new() } else { pseudo };
                assert_eq!(checksum(&[&pseudo, &packet[start..]]), 0, "{source} {what:?}");
            }
        }
        assert_eq!(opening(ip("10.0.0.0"), ip("fd00::1"), 1, What::Tcp(1), 1), None);
    }

    /// A reply is one to the very request, and a request is no reply to itself.
    #[test]
    fn a_reply_is_told_from_others() {
        for v4 in [true, false] {
            let request = echo(v4, 7);
            let mut reply = request.clone();
            reply[0] = if v4 { ECHO[1] } else { ECHO6[1] };
            let whole = |message: &[u8]| if v4 { [&[0x45][..], &[0; 19], message].concat() } else { message.to_vec() };
            assert!(is_reply(&whole(&reply), v4, 7));
            assert!(!is_reply(&whole(&reply), v4, 8));
            assert!(!is_reply(&whole(&request), v4, 7));
            assert!(!is_reply(&whole(&reply)[..4], v4, 7));
            if v4 {
                assert_eq!(checksum(&[&request]), 0);
            }
        }
    }
}
