//! A packet that a rule has logged: what the kernel says of it, and what its own headers say. Bytes become values here; whose
//! they are is not known.

use std::net::IpAddr;
use std::time::SystemTime;

use serde::Serialize;

use crate::topology::{Device, Name, Protocol, Service};

/// Where in a node's namespace a packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// About to be delivered there.
    In,
    /// Sent from there.
    Out,
    /// On its way from one device to another.
    Through,
}

/// One logged packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The rule's words.
    pub prefix: String,
    pub hook: Hook,
    /// The device that it came in on, or was to leave by where it came in on none.
    pub device: Option<Device>,
    pub at: SystemTime,
    /// It from its IP header on, or only the beginning.
    pub bytes: Vec<u8>,
}

/// What became of a packet that was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Denied,
    /// It passed, and will be denied when the wire's `mode` is `enforce`.
    Watched,
    /// By a flow with `log = true`.
    Allowed,
}

/// What a rule of wire's says in front of a packet: the verdict and the wire, if it met one. `None`: not a rule of wire's.
pub fn prefix(text: &str) -> Option<(Verdict, Option<Name>)> {
    let (verdict, wire) = match text.strip_prefix("wire ")?.split_once(' ') {
        // A name holds no character that could do something to a terminal; whoever owns a namespace writes what they like.
        Some((verdict, wire)) => (verdict, Some(Name::new(wire)?)),
        None => (&text["wire ".len()..], None),
    };
    let verdict = match verdict {
        "denied" => Verdict::Denied,
        "watched" => Verdict::Watched,
        "allowed" => Verdict::Allowed,
        _ => return None,
    };
    Some((verdict, wire))
}

/// What a packet's own headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// By IANA's number.
    pub protocol: u8,
    pub part: Part,
}

/// What of it lies above IP, as far as it was there to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Tcp {
        source: u16,
        destination: u16,
        /// SYN without ACK: it opens a connection.
        opens: bool,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    /// By its type's number.
    Icmp(u8),
    Icmpv6(u8),
    /// A later fragment, a protocol without ports, or cut off too early.
    Unknown,
}

/// Protocol numbers (IANA; RFC 8200 for the IPv6 extension headers).
mod number {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const OPTIONS: u8 = 60;
}

/// Reads a packet's headers. `None`: it is no whole IP header.
pub fn header(bytes: &[u8]) -> Option<Header> {
    match bytes.first()? >> 4 {
        4 => header4(bytes),
        6 => header6(bytes),
        _ => None,
    }
}

/// RFC 791, section 3.1.
fn header4(bytes: &[u8]) -> Option<Header> {
    let protocol = *bytes.get(9)?;
    let later = word(bytes, 6)? & 0x1fff != 0;
    let above = bytes.get(usize::from(bytes[0] & 0x0f) * 4..).filter(|_| !later).unwrap_or_default();
    let address = |at| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    Some(Header { source: address(12)?, destination: address(16)?, protocol, part: part(protocol, above) })
}

/// RFC 8200, sections 3 and 4.
fn header6(bytes: &[u8]) -> Option<Header> {
    let address = |at| Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
    let (source, destination) = (address(8)?, address(24)?);
    let (mut protocol, mut above) = (bytes[6], &bytes[40..]);
    loop {
        let length = match (protocol, above) {
            (number::FRAGMENT, [_, _, high, low, ..]) if u16::from_be_bytes([*high, *low]) >> 3 == 0 => 8,
            (number::HOP_BY_HOP | number::ROUTING | number::OPTIONS, [_, length, ..]) => 8 + 8 * usize::from(*length),
            (number::AUTHENTICATION, [_, length, ..]) => 8 + 4 * usize::from(*length),
            (number::FRAGMENT, [next, ..]) => {
                return Some(Header { source, destination, protocol: *next, part: Part::Unknown });
            }
            _ => break,
        };
        protocol = above[0];
        above = above.get(length..).unwrap_or_default();
    }
    Some(Header { source, destination, protocol, part: part(protocol, above) })
}

fn part(protocol: u8, above: &[u8]) -> Part {
    let ports = || Some((word(above, 0)?, word(above, 2)?));
    /// Of the fourteenth byte (RFC 9293, section 3.1).
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    match (protocol, ports()) {
        (number::TCP, Some((source, destination))) => {
            let opens = above.get(13).is_some_and(|flags| flags & (SYN | ACK) == SYN);
            Part::Tcp { source, destination, opens }
        }
        (number::UDP, Some((source, destination))) => Part::Udp { source, destination },
        (number::ICMP, Some(_)) => Part::Icmp(above[0]),
        (number::ICMPV6, Some(_)) => Part::Icmpv6(above[0]),
        _ => Part::Unknown,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A service of one port, or one ICMP type.
fn one(protocol: Protocol, port: u16) -> Service {
    Service { protocol, ports: vec![(port, port)], icmp_type: None }
}

fn icmp(protocol: Protocol, kind: u8) -> Option<Service> {
    let (_, name) = protocol.icmp_types().iter().find(|(number, _)| *number == kind)?;
    Some(Service { protocol, ports: Vec::new(), icmp_type: Some((*name).to_owned()) })
}

impl Header {
    /// The flow that would have to be allowed; `None` for what no flow can name.
    pub fn service(&self) -> Option<Service> {
        match self.part {
            Part::Tcp { destination, .. } => Some(one(Protocol::Tcp, destination)),
            Part::Udp { destination, .. } => Some(one(Protocol::Udp, destination)),
            Part::Icmp(kind) => icmp(Protocol::Icmp, kind),
            Part::Icmpv6(kind) => icmp(Protocol::Icmpv6, kind),
            Part::Unknown => None,
        }
    }

    /// The flow that it may be an answer to, opened the other way; `None` where it surely opens something itself.
    pub fn answered(&self) -> Option<Service> {
        match self.part {
            Part::Tcp { source, opens: false, .. } => Some(one(Protocol::Tcp, source)),
            Part::Udp { source, .. } => Some(one(Protocol::Udp, source)),
            Part::Icmp(0) => icmp(Protocol::Icmp, 8),
            Part::Icmpv6(129) => icmp(Protocol::Icmpv6, 128),
            _ => None,
        }
    }

    /// The flow in words, also where none can be written into a file: `icmp/5`, `ip/47`.
    pub fn flow(&self) -> String {
        match (self.service(), self.part, self.protocol) {
            (Some(service), ..) => service.to_string(),
            (None, Part::Icmp(kind), _) => format!("{}/{kind}", Protocol::Icmp),
            (None, Part::Icmpv6(kind), _) => format!("{}/{kind}", Protocol::Icmpv6),
            (None, _, number::TCP) => Protocol::Tcp.to_string(),
            (None, _, number::UDP) => Protocol::Udp.to_string(),
            (None, _, number::ICMP) => Protocol::Icmp.to_string(),
            (None, _, number::ICMPV6) => Protocol::Icmpv6.to_string(),
            (None, _, other) => format!("ip/{other}"),
        }
    }

    /// The ports of its two ends, where it has any.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.part {
            Part::Tcp { source, destination, .. } | Part::Udp { source, destination } => Some((source, destination)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that hexadecimal digits say.
    fn bytes(digits: &str) -> Vec<u8> {
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn read(digits: &str) -> (String, String, u8, Part) {
        let header = header(&bytes(digits)).unwrap();
        (header.source.to_string(), header.destination.to_string(), header.protocol, header.part)
    }

    const SYN: &str = "4500003c19f04000400622ca7f0000017f000001 d8f200160ea30cd000000000a002ffd7fe3000000204ffd7\
        0402080aa12e5419000000000103030a";
    const DATAGRAM: &str = "45000021b266400040118a637f0000017f000001 b5910035000dfe2068656c6c6f";
    const UNREACHABLE: &str = "45c0003d45880000400136767f0000017f000001 0303053600000000 45000021b266400040118a63\
        7f0000017f000001b5910035000dfe2068656c6c6f";
    const ECHO6: &str = "6006752800403a4000000000000000000000000000000001000000000000000000000000000000018000adc05cb0\
        00000bd32b7df000";
    /// A multicast listener report, behind a hop-by-hop option (RFC 3810).
    const REPORT: &str = "60000000002400010000000000000000000000000000 0000ff020000000000000000000000000016\
        3a00050200000100 8f002a6f0000000104000000ff0200000000000000000001ff4844d3";

    /// Headers of packets as a kernel (6.18) logged them.
    #[test]
    fn headers_are_read() {
        let here = || "127.0.0.1".to_owned();
        assert_eq!(read(SYN), (here(), here(), 6, Part::Tcp { source: 55538, destination: 22, opens: true }));
        assert_eq!(read(DATAGRAM), (here(), here(), 17, Part::Udp { source: 46481, destination: 53 }));
        assert_eq!(read(UNREACHABLE), (here(), here(), 1, Part::Icmp(3)));
        assert_eq!(read(ECHO6), ("::1".into(), "::1".into(), 58, Part::Icmpv6(128)));
        assert_eq!(read(REPORT), ("::".into(), "ff02::16".into(), 58, Part::Icmpv6(143)));
    }

    /// Cut off anywhere it is the same packet with less known of it, or none, and never another.
    #[test]
    fn cut_off_headers_are_not_made_up() {
        for (digits, least) in [(SYN, 20), (DATAGRAM, 20), (UNREACHABLE, 20), (ECHO6, 40), (REPORT, 40)] {
            let whole = bytes(digits);
            let full = header(&whole).unwrap();
            for length in 0..whole.len() {
                match header(&whole[..length]) {
                    None => assert!(length < least, "{length} bytes"),
                    Some(part) => {
                        assert_eq!((part.source, part.destination), (full.source, full.destination));
                        let as_known = match (part.part, full.part) {
                            (Part::Unknown, _) => true,
                            (Part::Tcp { source, .. }, Part::Tcp { source: known, .. }) => source == known,
                            (part, full) => part == full,
                        };
                        assert!(length >= least && as_known, "{length} bytes: {part:?}");
                    }
                }
            }
        }
        for nonsense in ["", "00", "15", "75000000", "4f", "60"] {
            assert_eq!(header(&bytes(nonsense)), None, "{nonsense}");
        }
    }

    /// Fragments: the first has ports, the others have none, whatever their bytes look like.
    #[test]
    fn later_fragments_have_no_ports() {
        let mut later = bytes(SYN);
        later[6..8].copy_from_slice(&[0x20, 0x10]);
        assert_eq!(header(&later).unwrap().part, Part::Unknown);
        assert_eq!(header(&later).unwrap().flow(), "tcp");
        let six = |offset: &str| {
            format!("600000000010 2c40 {} {} 3a00{offset}00000001 80000000", "00".repeat(16), "01".repeat(16))
        };
        assert_eq!(read(&six("0001")).3, Part::Icmpv6(128));
        assert_eq!(read(&six("0009")).3, Part::Unknown);
        assert_eq!(read(&six("0009")).2, 58);
    }

    /// A flow in the words of the file, where one can be written, and in others where none can.
    #[test]
    fn flows_in_words() {
        let of = |protocol: u8, part: Part| {
            let address = "10.0.0.1".parse().unwrap();
            Header { source: address, destination: address, protocol, part }
        };
        let (syn, later) = (Part::Tcp { source: 9, destination: 22, opens: true }, Part::Unknown);
        for (header, flow, writable, answered) in [
            (of(6, syn), "tcp/22", true, None),
            (of(6, Part::Tcp { source: 9, destination: 22, opens: false }), "tcp/22", true, Some("tcp/9")),
            (of(17, Part::Udp { source: 53, destination: 4000 }), "udp/4000", true, Some("udp/53")),
            (of(1, Part::Icmp(8)), "icmp/echo-request", true, None),
            (of(1, Part::Icmp(0)), "icmp/echo-reply", true, Some("icmp/echo-request")),
            (of(1, Part::Icmp(5)), "icmp/5", false, None),
            (of(58, Part::Icmpv6(129)), "icmpv6/echo-reply", true, Some("icmpv6/echo-request")),
            (of(58, Part::Icmpv6(135)), "icmpv6/135", false, None),
            (of(47, later), "ip/47", false, None),
            (of(17, later), "udp", false, None),
        ] {
            assert_eq!(header.flow(), flow);
            assert_eq!(header.service().is_some(), writable, "{flow}");
            assert_eq!(header.answered().map(|service| service.to_string()).as_deref(), answered, "{flow}");
            if let Some(service) = header.service() {
                assert_eq!(crate::parse::service(flow).unwrap(), service);
            }
        }
        for (protocol, types) in [Protocol::Icmp, Protocol::Icmpv6].map(|protocol| (protocol, protocol.icmp_types())) {
            for (_, name) in types {
                assert!(crate::parse::service(&format!("{protocol}/{name}")).is_ok(), "{protocol}/{name}");
            }
        }
    }

    /// Only what wire's rules say is taken, and only with a name that may be a wire's.
    #[test]
    fn prefixes_are_read() {
        let wire = |name: &str| Some(Name::new(name).unwrap());
        for (text, meant) in [
            ("wire denied priv-git-ssh", Some((Verdict::Denied, wire("priv-git-ssh")))),
            ("wire watched a", Some((Verdict::Watched, wire("a")))),
            ("wire allowed a.b_c", Some((Verdict::Allowed, wire("a.b_c")))),
            ("wire denied", Some((Verdict::Denied, None))),
            ("wire denied ", None),
            ("wire denied a b", None),
            ("wire denied \u{1b}[31m", None),
            ("wire dropped a", None),
            ("wire ", None),
            ("wire", None),
            ("my wire denied a", None),
            ("", None),
        ] {
            assert_eq!(prefix(text), meant, "{text:?}");
        }
    }
}
