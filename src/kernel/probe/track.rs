//! Whether a namespace has seen a packet: a connection that its rules let in is in its conntrack, one that they drop is not, for
//! it is entered there only when they are done with it (`nf_conntrack_confirm`). Asked for one by one, so that it does not
//! matter how many others there are.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::super::Open;
use super::super::netns::Netns;
use super::super::socket::{Batch, Request, Socket};
use super::packet::{ECHO, ECHO6, ICMP, ICMPV6, UDP};

/// A message of `NFNL_SUBSYS_CTNETLINK` (linux/netfilter/nfnetlink.h): `IPCTNL_MSG_CT_GET` (nfnetlink_conntrack.h).
const CT_GET: u16 = 1 << 8 | 1;
/// `NLA_F_NESTED` (linux/netlink.h).
const NESTED: u16 = 1 << 15;
/// `CTA_TUPLE_ORIG`, and what is in one (nfnetlink_conntrack.h).
const TUPLE_ORIG: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4: [u16; 2] = [1, 2];
const IP_V6: [u16; 2] = [3, 4];
const PROTO_NUM: u16 = 1;
const PROTO_PORTS: [u16; 2] = [2, 3];
/// Number, type and code.
const PROTO_ICMP: [u16; 3] = [4, 5, 6];
const PROTO_ICMPV6: [u16; 3] = [7, 8, 9];

/// What tells a connection from all others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuple {
    /// Of IP (linux/in.h).
    pub protocol: u8,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of an echo request its number, and nothing.
    pub ports: (u16, u16),
}

impl Tuple {
    /// The same from the other side.
    pub fn back(self) -> Tuple {
        Tuple { source: self.destination, destination: self.source, ports: (self.ports.1, self.ports.0), ..self }
    }
}

/// Asks one namespace.
pub struct Tracker {
    socket: Option<Socket>,
    /// Whether it tracks connections at all, of IPv4 and of IPv6: only where a rule asks for it. None: not tried yet.
    tracks: [Option<bool>; 2],
}

impl Tracker {
    pub fn open(open: &Open, home: &Netns) -> Tracker {
        let socket = open.netns.inside(home, Socket::netfilter).ok().and_then(Result::ok);
        Tracker { socket, tracks: [None; 2] }
    }

    /// Whether what is not known was not let in: tried by a packet of the namespace to this address of its own.
    pub fn tracks(&mut self, open: &Open, home: &Netns, own: IpAddr) -> bool {
        let family = usize::from(own.is_ipv6());
        if let Some(tracks) = self.tracks[family] {
            return tracks;
        }
        // A link-local address is none of the whole namespace.
        let local = matches!(own, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let sent = (!local).then(|| open.netns.inside(home, || to_itself(own)).ok().flatten()).flatten();
        let tracks = sent.map(|tuple| self.know(&[tuple]) == [true]);
        self.tracks[family] = tracks;
        tracks == Some(true)
    }

    /// Whether these were let in.
    pub fn know(&self, tuples: &[Tuple]) -> Vec<bool> {
        let mut known = vec![false; tuples.len()];
        if let Some(socket) = &self.socket {
            let mut batch = Batch::default();
            for (i, tuple) in tuples.iter().enumerate() {
                batch.push(i, &ask(tuple));
            }
            // ENOENT is the other answer.
            socket.exchange(&mut batch, |i, _| known[i] = true);
        }
        known
    }
}

/// An empty datagram from a namespace to itself, which nobody else is bothered by. It is tracked before loopback has it, so
/// that it does not matter whether that is up.
fn to_itself(own: IpAddr) -> Option<Tuple> {
    let [here, there] = [0, 1].map(|_| UdpSocket::bind(SocketAddr::new(own, 0)).ok());
    let (here, there) = (here?, there?);
    // What comes of it is asked for elsewhere.
    let _ = here.send_to(&[], there.local_addr().ok()?);
    let ports = (here.local_addr().ok()?.port(), there.local_addr().ok()?.port());
    Some(Tuple { protocol: UDP, source: own, destination: own, ports })
}

/// Whether there is a connection.
fn ask(tuple: &Tuple) -> Request {
    let (family, ip, source, destination) = match (tuple.source, tuple.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (libc::AF_INET, IP_V4, a.octets().to_vec(), b.octets().to_vec()),
        (a, b) => (libc::AF_INET6, IP_V6, octets6(a), octets6(b)),
    };
    let addresses = [attribute(ip[0], &source), attribute(ip[1], &destination)].concat();
    let (first, second) = tuple.ports;
    let echo = |kinds: [u16; 3], kind: u8| {
        [attribute(kinds[0], &first.to_be_bytes()), attribute(kinds[1], &[kind]), attribute(kinds[2], &[0])].concat()
    };
    let ports = match tuple.protocol {
        ICMP => echo(PROTO_ICMP, ECHO[0]),
        ICMPV6 => echo(PROTO_ICMPV6, ECHO6[0]),
        _ => {
            [attribute(PROTO_PORTS[0], &first.to_be_bytes()), attribute(PROTO_PORTS[1], &second.to_be_bytes())].concat()
        }
    };
    let protocol = [attribute(PROTO_NUM, &[tuple.protocol]), ports].concat();
    let whole = [attribute(TUPLE_IP | NESTED, &addresses), attribute(TUPLE_PROTO | NESTED, &protocol)].concat();
    // `struct nfgenmsg`: family, version, and a resource that is none.
    let mut message = vec![family as u8, 0, 0, 0];
    message.extend(attribute(TUPLE_ORIG | NESTED, &whole));
    Request { kind: CT_GET, flags: 0, message }
}

fn octets6(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
