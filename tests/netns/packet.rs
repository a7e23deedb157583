//! Packets as an attacker makes them: any header, any sender, past the rules of the node that they leave from; and ears that
//! hear what the rules of a node let in.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc::ETH_P_ALL;
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::Host;

/// Protocols by their numbers (IANA).
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// What every packet carries behind its headers, so that it is known again.
pub const TAG: &[u8] = b"wire-threat";

/// The traffic class of every packet: DSCP 42, by which `Post` counts them.
const CLASS: u8 = 42 << 2;

/// Flags of TCP (RFC 9293).
pub const SYN: u8 = 2;

/// How long anything may take before it is called hung.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this process may enter namespaces. Whoever is not root runs the test that calls this once more, in a user namespace
/// where he is: then there is nothing left to do here.
pub fn is_root() -> bool {
    if nix::unistd::getuid().is_root() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().filter(|name| *name != "main").expect("without root, tests take threads of their own");
    let binary = std::env::current_exe().expect("the test binary has a path");
    let mut command = Command::new("unshare");
    command.args(["-U", "-r", "--"]).arg(binary).args([test, "--exact", "--nocapture", "--include-ignored"]);
    let output = command.output().expect("util-linux is there");
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && told.contains("1 passed"), "as root of a user namespace:\n{told}");
    false
}

/// An IP packet, whatever its sender's own addresses may be.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    /// Time to live, hop limit.
    pub hops: u8,
    /// What follows the IP header.
    pub body: Vec<u8>,
    /// Of IPv4: options, padded to words.
    pub options: Vec<u8>,
    /// Of IPv4: the identification, and the flags with the offset of a fragment.
    pub fragment: (u16, u16),
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no address"))
}

/// A packet of any protocol, with nothing but the tag in it.
pub fn packet(protocol: u8, from: &str, to: &str) -> Packet {
    let (from, to) = (ip(from), ip(to));
    Packet { from, to, protocol, hops: 64, body: TAG.to_vec(), options: Vec::new(), fragment: (0, 0) }
}

/// A datagram to a port, from port 4242.
pub fn udp(from: &str, to: &str, port: u16) -> Packet {
    udp_from(4242, from, to, port)
}

/// A datagram from one port to another.
pub fn udp_from(own_port: u16, from: &str, to: &str, port: u16) -> Packet {
    let length = (8 + TAG.len()) as u16;
    let header = [own_port, port, length, 0].map(u16::to_be_bytes).concat();
    packet(UDP, from, to).with(&[&header, TAG].concat(), Some(6))
}

/// A segment from port 4242 to a port, with these flags; it carries data even where it begins a connection.
pub fn tcp(from: &str, to: &str, port: u16, flags: u8) -> Packet {
    let ports = [4242, port].map(u16::to_be_bytes).concat();
    // Sequence and acknowledgement, the header's length in words, a window, checksum and urgent pointer.
    let rest = [&1000u32.to_be_bytes()[..], &[0; 4], &[5 << 4, flags], &[0xff, 0xff], &[0; 4]].concat();
    packet(TCP, from, to).with(&[&ports[..], &rest, TAG].concat(), Some(16))
}

/// A message of ICMP or, between IPv6 addresses, of ICMPv6: what follows its checksum, and the tag.
pub fn icmp(from: &str, to: &str, kind: u8, code: u8, rest: &[u8]) -> Packet {
    icmp_alone(from, to, kind, code, &[rest, TAG].concat())
}

/// The same without the tag, where nothing else may follow. By a hop limit of 255 it comes from the link itself.
pub fn icmp_alone(from: &str, to: &str, kind: u8, code: u8, rest: &[u8]) -> Packet {
    let protocol = if ip(from).is_ipv4() { ICMP } else { ICMPV6 };
    packet(protocol, from, to).hops(255).with(&[&[kind, code, 0, 0], rest].concat(), Some(2))
}

/// An echo request.
pub fn echo(from: &str, to: &str) -> Packet {
    let kind = if ip(from).is_ipv4() { 8 } else { 128 };
    icmp(from, to, kind, 0, &[0x42, 0x42, 0, 1])
}

/// An error of ICMP about a packet: `rest` is what its own header ends in.
pub fn error(from: &str, to: &str, kind: u8, code: u8, rest: [u8; 4], about: &Packet) -> Packet {
    icmp(from, to, kind, code, &[&rest[..], &about.bytes()].concat())
}

impl Packet {
    /// With another body, whose checksum, if it has one, stands at this place.
    fn with(mut self, body: &[u8], checksum: Option<usize>) -> Packet {
        self.body = body.to_vec();
        if let Some(place) = checksum {
            let pseudo = match self.protocol {
                ICMP => Vec::new(),
                _ => {
                    let addresses = [octets(self.from), octets(self.to)].concat();
                    [&addresses[..], &(body.len() as u32).to_be_bytes(), &[0, 0, 0, self.protocol]].concat()
                }
            };
            let sum = checksum_of(&[pseudo, self.body.clone()].concat());
            self.body[place..place + 2].copy_from_slice(&sum);
        }
        self
    }

    pub fn hops(self, hops: u8) -> Packet {
        Packet { hops, ..self }
    }

    pub fn options(self, options: &[u8]) -> Packet {
        assert!(options.len().is_multiple_of(4) && self.from.is_ipv4());
        Packet { options: options.to_vec(), ..self }
    }

    /// In fragments that begin at these offsets in the body (multiples of 8), under one identification. Of IPv4.
    pub fn fragments(&self, id: u16, offsets: &[usize]) -> Vec<Packet> {
        let ends = offsets.iter().skip(1).copied().chain([self.body.len()]);
        let cut = offsets.iter().zip(ends).map(|(&start, end)| {
            assert!(start.is_multiple_of(8));
            let more = if end < self.body.len() { 0x2000 } else { 0 };
            let fragment = (id, more | (start / 8) as u16);
            Packet { body: self.body[start..end].to_vec(), fragment, ..self.clone() }
        });
        cut.collect()
    }

    /// As it goes over the link, behind the link's own header.
    pub fn bytes(&self) -> Vec<u8> {
        let length = (self.body.len() + self.options.len() + if self.from.is_ipv4() { 20 } else { 0 }) as u16;
        let mut header = Vec::new();
        if self.from.is_ipv4() {
            let words = 5 + (self.options.len() / 4) as u8;
            header.extend([0x40 | words, CLASS]);
            header.extend([length, self.fragment.0, self.fragment.1].map(u16::to_be_bytes).concat());
            header.extend([self.hops, self.protocol, 0, 0]);
            header.extend([octets(self.from), octets(self.to), self.options.clone()].concat());
            let sum = checksum_of(&header);
            header[10..12].copy_from_slice(&sum);
        } else {
            header.extend([0x60 | CLASS >> 4, CLASS << 4, 0, 0]);
            header.extend(length.to_be_bytes());
            header.extend([self.protocol, self.hops]);
            header.extend([octets(self.from), octets(self.to)].concat());
        }
        [header, self.body.clone()].concat()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The Internet's checksum (RFC 1071).
fn checksum_of(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// A socket for whole frames at a node, which hears everything that passes any of its devices.
fn frames() -> Socket {
    let protocol = Protocol::from(i32::from((ETH_P_ALL as u16).to_be()));
    Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("root may have a socket for frames")
}

/// Puts frames on one device of a node. No rule of that node sees them.
pub struct Injector {
    socket: Socket,
    pub own: [u8; 6],
    pub far: [u8; 6],
}

impl Injector {
    /// At the device whose far end has this IPv4 address: it is asked for its hardware address.
    #[track_caller]
    pub fn at(host: &Host, node: &str, device: &str, far: &str) -> Injector {
        let socket = host.at(node, frames);
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket may wait for a while");
        let mut asking = host.start(node, &["busybox", "arping", "-I", device, far]);
        let (start, wanted) = (Instant::now(), octets(ip(far)));
        let mut frame = [0; 2048];
        loop {
            assert!(start.elapsed() < PATIENCE, "{far} does not answer {node} over {device}");
            // The address of the first frame in the queue names the device; frames are told apart by what is in them.
            let Ok(from) = socket.peek_sender() else { continue };
            let length = (&socket).read(&mut frame).unwrap_or(0);
            // An answer of ARP (RFC 826) from the far end, to us.
            let answer = frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == wanted;
            if length >= 42 && answer {
                let _ = asking.0.kill();
                socket.bind(&from).expect("the device is there");
                let part = |start: usize| frame[start..start + 6].try_into().expect("six bytes");
                return Injector { socket, own: part(0), far: part(6) };
            }
        }
    }

    pub fn send(&self, packet: &Packet) {
        self.frame(if packet.from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] }, &packet.bytes());
    }

    /// A frame of any type to the far end.
    pub fn frame(&self, ether_type: [u8; 2], payload: &[u8]) {
        let frame = [&self.far[..], &self.own, &ether_type, payload].concat();
        let start = Instant::now();
        while let Err(error) = (&self.socket).write(&frame) {
            // Too many at once, or somebody is just taking the device down and up.
            let passing = [nix::libc::ENOBUFS, nix::libc::EAGAIN, nix::libc::ENETDOWN].map(Some);
            assert!(
                passing.contains(&error.raw_os_error()) && start.elapsed() < PATIENCE,
                "a frame cannot be sent: {error}"
            );
        }
    }

    /// An answer of ARP that nobody asked for: this address is at this hardware address.
    pub fn claim(&self, address: &str, at: [u8; 6], to: &str) {
        let head = [0, 1, 8, 0, 6, 4, 0, 2];
        let body = [&head[..], &at, &octets(ip(address)), &self.far, &octets(ip(to))].concat();
        self.frame([8, 6], &body);
    }
}

/// Hears every packet of a protocol that the rules of a node let in to it, whatever its port.
pub struct Ear {
    socket: UdpSocket,
    /// The ports that tests send to are open: else the kernel would answer that they are not, to somebody who has not asked.
    _open: Vec<Socket>,
}

/// The ports of UDP that tests send to.
const PORTS: [u16; 13] = [9, 22, 23, 25, 53, 80, 81, 443, 5432, 7777, 9999, 51820, 51821];

impl Ear {
    pub fn at(host: &Host, node: &str, ipv4: bool, protocol: u8) -> Ear {
        let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
        let open = |port: u16| {
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
            let everywhere: IpAddr = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            if !ipv4 {
                socket.set_only_v6(true).expect("IPv6 stands alone");
            }
            // Another ear may have it open already.
            socket.bind(&SocketAddr::from((everywhere, port)).into()).ok().map(|()| socket)
        };
        host.at(node, || {
            let raw = Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::from(i32::from(protocol))));
            let open = PORTS.into_iter().filter(|_| protocol == UDP).filter_map(open).collect();
            Ear { socket: raw.expect("root may hear everything").into(), _open: open }
        })
    }

    /// Who sent what has come since the last call, as far as it carries the tag.
    pub fn heard(&self) -> Vec<IpAddr> {
        let mut senders = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, sender)) if is_tagged(&buffer[..length]) => senders.push(sender.ip()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return senders,
                Err(error) => panic!("an ear hears no more: {error}"),
            }
        }
    }
}

fn is_tagged(bytes: &[u8]) -> bool {
    bytes.windows(TAG.len()).any(|window| window == TAG)
}

/// Hears every frame that passes any device of a node, its own included.
pub struct Tap(Socket);

impl Tap {
    pub fn at(host: &Host, node: &str) -> Tap {
        let socket = host.at(node, frames);
        socket.set_nonblocking(true).expect("a socket need not wait");
        Tap(socket)
    }

    /// The tagged frames since the last call.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        let mut frame = [0; 2048];
        loop {
            match (&self.0).read(&mut frame) {
                Ok(length) if is_tagged(&frame[..length]) => heard.push(frame[..length].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return heard,
                Err(error) => panic!("a tap hears no more: {error}"),
            }
        }
    }
}
