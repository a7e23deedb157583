//! The connections that one namespace remembers (conntrack), listed and forgotten one by one. Which of them are to be
//! forgotten is not decided here.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, NLM_F_DUMP};
use nix::errno::Errno;

use super::nfnl::{self, CTNETLINK, find, number};
use super::socket::{Answer, Batch, Refusal, Request, Socket};

/// `IPCTNL_MSG_CT_*` (linux/netfilter/nfnetlink_conntrack.h), as are the constants that follow.
const NEW: u8 = 0;
const GET: u8 = 1;
const DELETE: u8 = 2;
const GET_STATS: u8 = 5;
/// `CTA_STATS_GLOBAL_ENTRIES`.
const ENTRIES: u16 = 1;

/// `CTA_*`: attributes of an entry.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// `CTA_TUPLE_*`: of a tuple.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

/// `CTA_IP_*`: of its addresses.
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;

/// `CTA_PROTO_*`: of what lies above.
const PROTO_NUM: u16 = 1;
const SRC_PORT: u16 = 2;
const DST_PORT: u16 = 3;
const ICMP_ID: u16 = 4;
const ICMP_TYPE: u16 = 5;
const ICMP_CODE: u16 = 6;
const ICMPV6_ID: u16 = 7;
const ICMPV6_TYPE: u16 = 8;
const ICMPV6_CODE: u16 = 9;

/// One connection as a namespace remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// By IANA's number, as in the packet: `IPPROTO_*` (linux/in.h).
    pub protocol: u8,
    /// As whoever opened it sent it.
    pub original: Tuple,
    /// As its answers come: with translated addresses, its source is where the connection really went, and its destination
    /// whom that end sees.
    pub reply: Tuple,
    /// Its bits: `IPS_*` (linux/netfilter/nf_conntrack_common.h).
    pub status: u32,
    key: Key,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub part: Part,
}

/// What of its addresses a connection takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Of a protocol that has ports.
    Ports { source: u16, destination: u16 },
    /// Of ICMP and ICMPv6.
    Icmp { kind: u8, code: u8, id: u16 },
    /// All of them: a protocol that conntrack knows nothing else of.
    Whole,
}

/// What tells an entry from every other, those before and after it with the same addresses included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    /// The original tuple's attributes as the kernel wrote them.
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Vec<u8>,
}

/// How many connections the namespace remembers. Cheap, where a list is not: the kernel goes through the table of all namespaces
/// for it, which takes milliseconds.
pub fn count(socket: &Socket) -> Result<u32, Refusal> {
    let mut batch = Batch::default();
    batch.push(0, &nfnl::request(CTNETLINK, GET_STATS, 0, libc::AF_UNSPEC as u8, 0, &[]));
    let mut count = None;
    let refused = socket.exchange(&mut batch, |_, (_, payload)| {
        let bytes = nfnl::read(payload).and_then(|(_, bytes)| find(bytes, ENTRIES)).and_then(number);
        count = bytes.map(u32::from_be_bytes);
    });
    match refused.into_iter().next() {
        Some((_, refusal)) => Err(refusal),
        None => Ok(count.ok_or(Errno::EBADMSG)?),
    }
}

/// All connections of the namespace that the socket (of `NETLINK_NETFILTER`) is in, IPv4 and IPv6.
pub fn list(socket: &Socket) -> Result<Vec<Entry>, Refusal> {
    let every_family = libc::AF_UNSPEC as u8;
    socket.dump(&nfnl::request(CTNETLINK, GET, NLM_F_DUMP, every_family, 0, &[]), read)
}

/// Forgets exactly these connections: a newer one with the same addresses stays, and one that is gone already is no failure.
/// Returns what the kernel refused, by place in the list.
pub fn delete(socket: &Socket, entries: &[Entry]) -> Vec<(usize, Refusal)> {
    let mut batch = Batch::default();
    for (place, entry) in entries.iter().enumerate() {
        batch.push(place, &entry.key.delete());
    }
    let mut refused = socket.send(&mut batch);
    refused.retain(|(_, refusal)| refusal.errno != Errno::ENOENT);
    refused
}

/// Which of these connections the namespace remembers, each with its protocol. Asked for one by one: a list would be of all
/// namespaces.
pub fn knows(socket: &Socket, asked: &[(u8, Tuple)]) -> Vec<bool> {
    let mut known = vec![false; asked.len()];
    let mut batch = Batch::default();
    for (place, (protocol, tuple)) in asked.iter().enumerate() {
        let mut attributes = Vec::new();
        nfnl::add(&mut attributes, TUPLE_ORIG | nfnl::NESTED, &tuple.write(*protocol));
        let family = if tuple.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        batch.push(place, &nfnl::request(CTNETLINK, GET, 0, family as u8, 0, &attributes));
    }
    // ENOENT is the other answer, and what cannot be asked is not known.
    socket.exchange(&mut batch, |place, _| known[place] = true);
    known
}

impl Tuple {
    /// The same as its answers have it, where nothing is translated and it has ports.
    pub fn back(self) -> Tuple {
        let part = match self.part {
            Part::Ports { source, destination } => Part::Ports { source: destination, destination: source },
            part => part,
        };
        Tuple { source: self.destination, destination: self.source, part }
    }

    /// As the kernel writes it.
    fn write(&self, protocol: u8) -> Vec<u8> {
        let mut ip = Vec::new();
        for (address, four, six) in [(self.source, V4_SRC, V6_SRC), (self.destination, V4_DST, V6_DST)] {
            match address {
                IpAddr::V4(v4) => nfnl::add(&mut ip, four, &v4.octets()),
                IpAddr::V6(v6) => nfnl::add(&mut ip, six, &v6.octets()),
            }
        }
        let mut above = Vec::new();
        nfnl::add(&mut above, PROTO_NUM, &[protocol]);
        match self.part {
            Part::Ports { source, destination } => {
                nfnl::add(&mut above, SRC_PORT, &source.to_be_bytes());
                nfnl::add(&mut above, DST_PORT, &destination.to_be_bytes());
            }
            Part::Icmp { kind, code, id } => {
                let six = self.source.is_ipv6();
                nfnl::add(&mut above, if six { ICMPV6_ID } else { ICMP_ID }, &id.to_be_bytes());
                nfnl::add(&mut above, if six { ICMPV6_TYPE } else { ICMP_TYPE }, &[kind]);
                nfnl::add(&mut above, if six { ICMPV6_CODE } else { ICMP_CODE }, &[code]);
            }
            Part::Whole => {}
        }
        let mut bytes = Vec::new();
        nfnl::add(&mut bytes, TUPLE_IP | nfnl::NESTED, &ip);
        nfnl::add(&mut bytes, TUPLE_PROTO | nfnl::NESTED, &above);
        bytes
    }
}

impl Key {
    /// Never without the tuple: that would mean every connection of the namespace.
    fn delete(&self) -> Request {
        let mut attributes = Vec::new();
        nfnl::add(&mut attributes, TUPLE_ORIG | nfnl::NESTED, &self.tuple);
        if let Some(zone) = &self.zone {
            nfnl::add(&mut attributes, ZONE, zone);
        }
        nfnl::add(&mut attributes, ID, &self.id);
        nfnl::request(CTNETLINK, DELETE, 0, self.family, 0, &attributes)
    }
}

fn read((kind, payload): Answer) -> Result<Option<Entry>, DecodeError> {
    if kind != u16::from_be_bytes([CTNETLINK, NEW]) {
        return Ok(None);
    }
    entry(payload).map(Some).ok_or_else(|| DecodeError::from("a connection that cannot be read"))
}

fn entry(payload: &[u8]) -> Option<Entry> {
    let (family, attributes) = nfnl::read(payload)?;
    let original = find(attributes, TUPLE_ORIG)?;
    let (protocol, to) = tuple(original)?;
    let (_, back) = tuple(find(attributes, TUPLE_REPLY)?)?;
    Some(Entry {
        protocol,
        original: to,
        reply: back,
        status: u32::from_be_bytes(number(find(attributes, STATUS)?)?),
        key: Key {
            family,
            tuple: original.to_vec(),
            zone: find(attributes, ZONE).map(<[u8]>::to_vec),
            id: find(attributes, ID)?.to_vec(),
        },
    })
}

/// A tuple, and the protocol's number.
fn tuple(attributes: &[u8]) -> Option<(u8, Tuple)> {
    let (ip, above) = (find(attributes, TUPLE_IP)?, find(attributes, TUPLE_PROTO)?);
    let address = |four, six| -> Option<IpAddr> {
        match find(ip, four) {
            Some(value) => Some(number::<4>(value)?.into()),
            None => Some(number::<16>(find(ip, six)?)?.into()),
        }
    };
    let byte = |kind| find(above, kind).and_then(|value| value.first().copied());
    let word = |kind| find(above, kind).and_then(|value| Some(u16::from_be_bytes(number(value)?)));
    let icmp = |kind, code, id| Some(Part::Icmp { kind: byte(kind)?, code: byte(code)?, id: word(id)? });
    let ports = || Some(Part::Ports { source: word(SRC_PORT)?, destination: word(DST_PORT)? });
    let part = ports()
        .or_else(|| icmp(ICMP_TYPE, ICMP_CODE, ICMP_ID))
        .or_else(|| icmp(ICMPV6_TYPE, ICMPV6_CODE, ICMPV6_ID))
        .unwrap_or(Part::Whole);
    Some((byte(PROTO_NUM)?, Tuple { source: address(V4_SRC, V6_SRC)?, destination: address(V4_DST, V6_DST)?, part }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::process::Command;

    use super::super::socket::NETLINK_NETFILTER;
    use super::*;

    /// A packet of the other direction was seen.
    const SEEN_REPLY: u32 = 1 << 1;
    /// Its source was translated.
    const SRC_NAT: u32 = 1 << 4;
    /// Its destination was.
    const DST_NAT: u32 = 1 << 5;

    fn at(source: &str, destination: &str, part: Part) -> Tuple {
        Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), part }
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        nfnl::add(&mut bytes, kind, value);
        bytes
    }

    /// A tuple as the kernel writes it.
    fn written(protocol: u8, tuple: &Tuple) -> Vec<u8> {
        let (source, destination) = match (tuple.source, tuple.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (attribute(V4_SRC, &from.octets()), attribute(V4_DST, &to.octets())),
            (IpAddr::V6(from), IpAddr::V6(to)) => (attribute(V6_SRC, &from.octets()), attribute(V6_DST, &to.octets())),
            _ => panic!("two families"),
        };
        let mut above = attribute(PROTO_NUM, &[protocol]);
        let six = tuple.source.is_ipv6();
        match tuple.part {
            Part::Ports { source, destination } => {
                above.extend(attribute(SRC_PORT, &source.to_be_bytes()));
                above.extend(attribute(DST_PORT, &destination.to_be_bytes()));
            }
            Part::Icmp { kind, code, id } => {
                above.extend(attribute(if six { ICMPV6_ID } else { ICMP_ID }, &id.to_be_bytes()));
                above.extend(attribute(if six { ICMPV6_TYPE } else { ICMP_TYPE }, &[kind]));
                above.extend(attribute(if six { ICMPV6_CODE } else { ICMP_CODE }, &[code]));
            }
            Part::Whole => {}
        }
        [
            attribute(TUPLE_IP | nfnl::NESTED, &[source, destination].concat()),
            attribute(TUPLE_PROTO | nfnl::NESTED, &above),
        ]
        .concat()
    }

    /// An entry as the kernel writes it, with attributes that are not read in between.
    fn message(protocol: u8, to: &Tuple, back: &Tuple, status: u32) -> Vec<u8> {
        [
            vec![if to.source.is_ipv4() { 2 } else { 10 }, 0, 0, 0],
            attribute(TUPLE_ORIG | nfnl::NESTED, &written(protocol, to)),
            attribute(TUPLE_REPLY | nfnl::NESTED, &written(protocol, back)),
            attribute(STATUS, &status.to_be_bytes()),
            attribute(7, &[0, 0, 0, 30]),
            attribute(ID, &[1, 2, 3, 4]),
        ]
        .concat()
    }

    /// One of each kind: translated TCP, IPv6, ICMP, ICMPv6, and a protocol without ports.
    fn examples() -> Vec<(u8, Tuple, Tuple, u32)> {
        let ports = |source, destination| Part::Ports { source, destination };
        let icmp = |kind| Part::Icmp { kind, code: 0, id: 4711 };
        vec![
            (
                6,
                at("198.51.100.7", "192.0.2.2", ports(40000, 2222)),
                at("192.168.100.1", "198.51.100.7", ports(22, 40000)),
                SEEN_REPLY | DST_NAT,
            ),
            (17, at("fd00::1", "fd00::2", ports(5353, 53)), at("fd00::2", "fd00::1", ports(53, 5353)), 0),
            (1, at("10.1.1.0", "10.1.1.1", icmp(8)), at("10.1.1.1", "10.1.1.0", icmp(0)), SEEN_REPLY),
            (58, at("fd00::1", "fd00::2", icmp(128)), at("fd00::2", "fd00::1", icmp(129)), 0),
            (4, at("10.1.1.0", "10.1.1.1", Part::Whole), at("10.1.1.1", "10.1.1.0", Part::Whole), SRC_NAT),
        ]
    }

    /// An entry is read as the kernel wrote it, and deleting it says exactly what the kernel said.
    #[test]
    fn entries_are_read() {
        for (protocol, to, back, status) in examples() {
            let bytes = message(protocol, &to, &back, status);
            assert_eq!(find(&bytes[4..], TUPLE_ORIG), Some(&to.write(protocol)[..]));
            let entry = read((0x100, &bytes)).unwrap().unwrap();
            assert_eq!((entry.protocol, entry.original, entry.reply, entry.status), (protocol, to, back, status));
            let delete = entry.key.delete();
            assert_eq!((delete.kind, delete.message[0]), (0x102, bytes[0]));
            assert_eq!(find(&delete.message[4..], TUPLE_ORIG), find(&bytes[4..], TUPLE_ORIG));
            assert_eq!(find(&delete.message[4..], ID), Some(&[1, 2, 3, 4][..]));
            assert_eq!(find(&delete.message[4..], ZONE), None);
        }
        let (protocol, to, back, status) = examples().remove(0);
        let zoned = [message(protocol, &to, &back, status), attribute(ZONE, &[0, 9])].concat();
        let delete = entry(&zoned).unwrap().key.delete();
        assert_eq!(find(&delete.message[4..], ZONE), Some(&[0, 9][..]));
        assert_eq!(read((0x101, &zoned)).unwrap(), None);
    }

    /// An answer that is cut off is an error wherever that is: never a shorter list, and never an entry without its tuple.
    #[test]
    fn cut_off_entries_are_errors() {
        for (protocol, to, back, status) in examples() {
            let bytes = message(protocol, &to, &back, status);
            for length in 0..bytes.len() {
                assert!(read((0x100, &bytes[..length])).is_err(), "{length} of {}", bytes.len());
            }
        }
    }

    /// Runs a test again in a user and network namespace of its own, and there for real.
    fn alone(test: &str, work: impl FnOnce()) {
        const INSIDE: &str = "WIRE_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_some() {
            return work();
        }
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new("unshare");
        command.args(["-Urn", "--"]).arg(program).args(["--exact", "--include-ignored", "--nocapture", test]);
        let output = command.env(INSIDE, "1").output().expect("`unshare` of the package util-linux");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    fn run(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().expect(program);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A TCP connection with both ends.
    fn connected(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    fn of(entries: &[Entry], opener: SocketAddr) -> Option<&Entry> {
        let is_its = |entry: &&Entry| {
            let Part::Ports { source, .. } = entry.original.part else { return false };
            (entry.original.source, source) == (opener.ip(), opener.port())
        };
        entries.iter().find(is_its)
    }

    /// Of real connections of both families exactly those are forgotten that were meant: an established one then stops, and
    /// the others and whatever has the same addresses and another identity go on.
    #[test]
    fn exactly_the_meant_connections_are_forgotten() {
        alone("kernel::conntrack::tests::exactly_the_meant_connections_are_forgotten", || {
            run("ip", &["link", "set", "lo", "up"]);
            let rules = "add table inet t; \
                add chain inet t input { type filter hook input priority 0; policy accept; }; \
                add rule inet t input ct state new tcp flags != syn drop; \
                add rule inet t input ct state invalid drop";
            run("nft", &[rules]);
            let socket = Socket::open(NETLINK_NETFILTER).unwrap();
            assert_eq!(list(&socket).unwrap(), []);

            let [mut first, mut second, six] = ["127.0.0.1", "127.0.0.1", "::1"].map(connected);
            let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
            datagrams.send_to(b"x", "127.0.0.1:9").unwrap();
            let opener = |pair: &(TcpStream, TcpStream)| pair.0.local_addr().unwrap();
            let known = list(&socket).unwrap();
            assert_eq!(known.len(), 4, "{known:#?}");
            let entry = |opener| of(&known, opener).unwrap().clone();
            let tcp = entry(opener(&first));
            assert_eq!((tcp.protocol, tcp.status & SEEN_REPLY), (6, SEEN_REPLY));
            let server = first.1.local_addr().unwrap().port();
            assert_eq!(tcp.original.part, Part::Ports { source: opener(&first).port(), destination: server });
            assert_eq!(tcp.reply.part, Part::Ports { source: server, destination: opener(&first).port() });
            assert_eq!(
                (entry(opener(&six)).original.source, entry(opener(&six)).protocol),
                ("::1".parse().unwrap(), 6)
            );
            let udp = entry(datagrams.local_addr().unwrap());
            assert_eq!((udp.protocol, udp.status & SEEN_REPLY), (17, 0));

            let mut newer = tcp.clone();
            newer.key.id = vec![0, 0, 0, 1];
            assert_eq!(delete(&socket, &[newer]), []);
            assert_eq!(list(&socket).unwrap().len(), 4, "an entry of another identity stays");

            assert_eq!(delete(&socket, &[tcp.clone(), udp.clone(), entry(opener(&six))]), []);
            let left = list(&socket).unwrap();
            assert!(left.len() == 1 && of(&left, opener(&second)).is_some(), "{left:#?}");
            assert_eq!(delete(&socket, &[tcp, udp]), [], "what is gone is gone");

            for (pair, arrives, wait) in [(&mut first, false, 300), (&mut second, true, 20_000)] {
                pair.1.set_read_timeout(Some(std::time::Duration::from_millis(wait))).unwrap();
                pair.0.write_all(b"x").unwrap();
                assert_eq!(pair.1.read(&mut [0]).is_ok(), arrives);
            }
        });
    }
}
