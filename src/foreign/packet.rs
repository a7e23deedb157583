//! First packets of what the file lets begin, and their answers, as the base chains of a namespace would see them. What of a
//! packet depends on who sends it is not known, bit by bit.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use crate::nft::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, IPV4, IPV6, NEW, TCP, UDP};
use crate::nft::{Base, Header, Hook, Key, Kind, Value};
use crate::rules::{Match, Opening, Passage, Path, Rules};
use crate::topology::{Device, Protocol};

/// A byte, and which of its bits are known.
pub type Byte = (u8, u8);
/// From first to last, both meant.
pub type Ports = (u16, u16);

pub fn known(bytes: &[u8]) -> Vec<Byte> {
    bytes.iter().map(|byte| (*byte, 0xff)).collect()
}

pub fn unknown(length: usize) -> Vec<Byte> {
    vec![(0, 0); length]
}

fn perhaps<const N: usize>(bytes: Option<[u8; N]>) -> Vec<Byte> {
    bytes.map_or_else(|| unknown(N), |bytes| known(&bytes))
}

/// One packet at one hook.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    pub ipv4: bool,
    pub iif: Option<&'a Device>,
    pub oif: Option<&'a Device>,
    pub indexes: &'a BTreeMap<String, u32>,
    pub from: Option<IpAddr>,
    pub to: Option<IpAddr>,
    /// Whether its destination is this namespace's own.
    pub local: Option<bool>,
    pub protocol: u8,
    /// Of tcp and udp: those that are treated alike, from first to last; the first is tried.
    pub source: Option<Ports>,
    pub ports: Option<Ports>,
    /// Of ICMP.
    pub kind: u8,
    pub answer: bool,
    /// As `ct state` has it; what comes before conntrack is `invalid` to it.
    pub state: u32,
    /// Whether its connection has got another destination.
    pub handed_on: Option<bool>,
    /// What its connection was first opened to.
    pub dialled: Option<u16>,
}

impl Packet<'_> {
    /// `meta nfproto`.
    pub fn family(&self) -> u8 {
        if self.ipv4 { IPV4 } else { IPV6 }
    }

    /// `meta protocol`: `ETH_P_IP` and `ETH_P_IPV6` (linux/if_ether.h).
    pub fn ether_type(&self) -> u16 {
        if self.ipv4 { 0x0800 } else { 0x86dd }
    }

    /// `meta iif`, or `oif`: 0 where there is none.
    pub fn index(&self, device: Option<&Device>) -> Vec<Byte> {
        let index = device.map_or(Some(0), |device| self.indexes.get(device.as_str()).copied());
        perhaps(index.map(u32::to_ne_bytes))
    }

    /// `meta iifname`, or `oifname`.
    pub fn name(device: Option<&Device>) -> Vec<Byte> {
        known(Value::device(device.map_or("", Device::as_str)).as_bytes())
    }

    /// `ct status`: of its bits, that the connection was given another destination (`IPS_DST_NAT`), and that it is not yet
    /// confirmed, assured or seen to be answered where it only begins (`enum ip_conntrack_status`,
    /// linux/netfilter/nf_conntrack_common.h).
    pub fn status(&self) -> Vec<Byte> {
        const BEGINS: u32 = 0b1111;
        const DST_NAT: u32 = 0x20;
        let mask = if self.answer { 0 } else { BEGINS } | if self.handed_on.is_some() { DST_NAT } else { 0 };
        let value = if self.handed_on == Some(true) { DST_NAT } else { 0 };
        value.to_ne_bytes().into_iter().zip(mask.to_ne_bytes()).collect()
    }

    /// Bytes of a header, where it has them (RFC 791, 8200, 9293, 768, 792, 4443).
    pub fn payload(&self, header: Header, offset: u8, length: u8) -> Option<Vec<Byte>> {
        let bytes = match header {
            Header::Link => return None,
            Header::Network if self.ipv4 => self.ipv4_header(),
            Header::Network => self.ipv6_header(),
            Header::Transport => self.transport_header(),
        };
        let offset = usize::from(offset);
        bytes.get(offset..offset + usize::from(length)).map(<[Byte]>::to_vec)
    }

    fn ipv4_header(&self) -> Vec<Byte> {
        let address = |address: Option<IpAddr>| match address {
            Some(IpAddr::V4(address)) => known(&address.octets()),
            _ => unknown(4),
        };
        // No fragment: only "don't fragment" may be set.
        let mut bytes = [known(&[0x45]), unknown(5), vec![(0, 0xbf), (0, 0xff)], unknown(1)].concat();
        bytes.extend(known(&[self.protocol]));
        [bytes, unknown(2), address(self.from), address(self.to)].concat()
    }

    fn ipv6_header(&self) -> Vec<Byte> {
        let address = |address: Option<IpAddr>| match address {
            Some(IpAddr::V6(address)) => known(&address.octets()),
            _ => unknown(16),
        };
        let start = [vec![(0x60, 0xf0)], unknown(5), known(&[self.protocol]), unknown(1)].concat();
        [start, address(self.from), address(self.to)].concat()
    }

    fn transport_header(&self) -> Vec<Byte> {
        if matches!(self.protocol, ICMP | ICMPV6) {
            return [known(&[self.kind, 0]), unknown(6)].concat();
        }
        let port = |ports: Option<Ports>| perhaps(ports.map(|(first, _)| first.to_be_bytes()));
        let ports = [port(self.source), port(self.ports)].concat();
        // A first packet of tcp is a SYN alone, but for what says that congestion can be told (RFC 3168).
        let flags = if self.answer { (0, 0) } else { (0x02, 0x3f) };
        match self.protocol {
            TCP => [ports, unknown(9), vec![flags], unknown(6)].concat(),
            _ => [ports, unknown(4)].concat(),
        }
    }
}

/// One port, or range of ports that are treated alike, of something that the file lets begin: what is tried out.
pub struct Probe<'a> {
    pub passage: &'a Passage,
    pub iif: Option<&'a Device>,
    pub oif: Option<&'a Device>,
    pub protocol: u8,
    pub ports: Option<Ports>,
    /// The same as dialled, where wire gives it another destination.
    pub dialled: Option<Ports>,
    indexes: &'a BTreeMap<String, u32>,
    from: Vec<IpAddr>,
    to: Vec<IpAddr>,
}

impl<'a> Probe<'a> {
    /// Everything that has to be tried of a passage: each way, each range. Nothing where nobody may come.
    pub fn of(sets: &Sets, passage: &'a Passage, indexes: &'a BTreeMap<String, u32>) -> Vec<Probe<'a>> {
        let Opening { ipv4, from, to, service, handed_on, .. } = &passage.opening;
        let (from, to) = (sets.addresses(from, *ipv4), sets.addresses(to, *ipv4));
        let protocol = match service.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
            Protocol::Icmpv6 => ICMPV6,
        };
        let ports: Vec<Option<Ports>> = match service.ports[..] {
            [] => vec![None],
            _ => service.ports.iter().copied().map(Some).collect(),
        };
        let ways = |devices: &'a [Device]| match devices {
            [] => vec![None],
            _ => devices.iter().map(Some).collect::<Vec<_>>(),
        };
        let mut probes = Vec::new();
        for iif in ways(&passage.from) {
            for oif in ways(&passage.to) {
                for (place, ports) in ports.iter().enumerate() {
                    let dialled = handed_on.as_ref().and_then(|service| service.ports.get(place).copied());
                    let (from, to) = (from.clone(), to.clone());
                    probes.push(Probe { passage, iif, oif, protocol, ports: *ports, dialled, indexes, from, to });
                }
            }
        }
        let nobody = from.is_empty() || to.is_empty();
        // What passes a hub or the host has two devices; where one is not known, nothing is.
        let through = matches!(passage.opening.path, Path::To(_) | Path::ToUplinks);
        probes.retain(|probe| !nobody && (!through || probe.iif.is_some() && probe.oif.is_some()));
        probes
    }

    /// The type of its ICMP, by number: an echo request stands for all.
    fn kind(&self, answer: bool) -> u8 {
        let service = &self.passage.opening.service;
        let asked = service.icmp_type.as_deref().and_then(|kind| service.protocol.icmp_number(kind));
        match (self.protocol, answer, asked) {
            (ICMP, false, asked) => asked.unwrap_or(8),
            (ICMP, true, _) => 0,
            (_, false, asked) => asked.unwrap_or(128),
            (_, true, _) => 129,
        }
    }

    /// The packets that stand for it in a base chain, or for its answer; none where they do not come there. Whatever is said of
    /// it must be so of each of them.
    pub fn packets(&self, base: &Base, answer: bool) -> Vec<Packet<'a>> {
        let (iif, oif) = if answer { (self.oif, self.iif) } else { (self.iif, self.oif) };
        let comes = match base.hook {
            Hook::Prerouting => iif.is_some(),
            Hook::Input => iif.is_some() && oif.is_none(),
            Hook::Forward => iif.is_some() && oif.is_some(),
            Hook::Output => iif.is_none() && oif.is_some(),
            Hook::Postrouting => oif.is_some(),
            Hook::Other => false,
        };
        // Only the first packet of a connection comes to where addresses are translated.
        if !comes || answer && base.kind == Kind::Nat {
            return Vec::new();
        }
        // `enum nf_ip_hook_priorities` (linux/netfilter_ipv4.h): conntrack, and translation before and behind.
        let entry = matches!(base.hook, Hook::Prerouting | Hook::Output);
        let tracked = !entry || base.priority > -200;
        let before = base.hook == Hook::Prerouting && base.priority <= -100;
        let behind = base.hook == Hook::Postrouting && base.priority >= 100;
        let handed_on = self.passage.opening.handed_on.is_some();
        let local = iif.is_some() && oif.is_none();
        let ipv4 = self.passage.opening.ipv4;
        let one = |from: IpAddr, to: IpAddr| {
            let mut packet = Packet {
                ipv4,
                iif,
                oif: oif.filter(|_| base.hook != Hook::Prerouting),
                indexes: self.indexes,
                from: Some(from),
                to: Some(to),
                local: Some(local),
                protocol: self.protocol,
                source: None,
                ports: self.ports,
                kind: self.kind(answer),
                answer,
                state: match (tracked, answer) {
                    (false, _) => INVALID,
                    (true, false) => NEW,
                    (true, true) => ESTABLISHED,
                },
                handed_on: tracked.then_some(handed_on && (answer || !before)),
                dialled: self.dialled.or(self.ports).map(|(first, _)| first).filter(|_| tracked),
            };
            if answer {
                (packet.from, packet.to) = (packet.to, packet.from);
                (packet.source, packet.ports) = (packet.ports, None);
            }
            match (before, behind, answer) {
                (true, _, false) if handed_on => {
                    (packet.to, packet.local, packet.ports) = (None, Some(true), self.dialled);
                }
                (true, _, true) => (packet.to, packet.local) = (None, None),
                (_, true, false) => packet.from = None,
                (_, true, true) => (packet.from, packet.source) = (None, None),
                _ => {}
            }
            packet
        };
        self.from.iter().flat_map(|from| self.to.iter().map(move |to| one(*from, *to))).collect()
    }
}

/// Addresses of no one in particular, far from each other, of which the last is for documentation (RFC 5737, RFC 3849).
const ANYONE: [Ipv4Addr; 4] = [
    Ipv4Addr::new(45, 13, 104, 7),
    Ipv4Addr::new(91, 200, 81, 43),
    Ipv4Addr::new(151, 80, 3, 99),
    Ipv4Addr::new(198, 51, 100, 1),
];
const ANYONE6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0x2a01, 0x4f8, 0x17, 0, 0, 0, 0, 7),
    Ipv6Addr::new(0x2600, 0x1f18, 0x51, 0, 0, 0, 0, 43),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
];

/// How many ranges of a set are tried.
const TRIED: usize = 4;

/// The ranges of the file's sets, by their names in wire's tables.
pub struct Sets<'a> {
    rules: &'a Rules<'a>,
    known: RefCell<HashMap<String, Rc<Vec<(Value, Value)>>>>,
}

impl<'a> Sets<'a> {
    pub fn of(rules: &'a Rules) -> Sets<'a> {
        Sets { rules, known: RefCell::default() }
    }

    fn ranges(&self, set: &str) -> Rc<Vec<(Value, Value)>> {
        if let Some(known) = self.known.borrow().get(set) {
            return known.clone();
        }
        let range = |key: &Key| if let Key::Range(first, last) = key { Some((*first, *last)) } else { None };
        let ranges = Rc::new(self.rules.elements(set).iter().filter_map(|(key, _)| range(key)).collect::<Vec<_>>());
        self.known.borrow_mut().insert(set.to_owned(), ranges.clone());
        ranges
    }

    /// Addresses that stand for all that are asked for; none where there are none.
    fn addresses(&self, asked: &[Match], ipv4: bool) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        for one in asked {
            match one {
                Match::Is(network) => found.extend([network.network(), network.broadcast()]),
                Match::In(set) => {
                    let some = self.ranges(set);
                    found.extend(
                        some.iter().take(TRIED).flat_map(|(first, last)| [address(first), address(last)]).flatten(),
                    );
                }
                Match::Not(_) | Match::NotIn(_) => {}
            }
        }
        if !asked.iter().any(|one| matches!(one, Match::Is(_) | Match::In(_))) {
            match ipv4 {
                true => found.extend(ANYONE.map(IpAddr::from)),
                false => found.extend(ANYONE6.map(IpAddr::from)),
            }
        }
        let within = |set: &str, address: IpAddr| {
            let address = Value::address(address);
            self.ranges(set).iter().any(|(first, last)| *first <= address && address <= *last)
        };
        found.retain(|&address| {
            asked.iter().all(|one| match one {
                Match::Is(network) => network.contains(address),
                Match::Not(network) => !network.contains(address),
                Match::In(set) => within(set, address),
                Match::NotIn(set) => !within(set, address),
            })
        });
        found.sort();
        found.dedup();
        found
    }
}

fn address(value: &Value) -> Option<IpAddr> {
    let bytes = value.as_bytes();
    let four: Option<[u8; 4]> = bytes.try_into().ok();
    let sixteen: Option<[u8; 16]> = bytes.try_into().ok();
    four.map(IpAddr::from).or(sixteen.map(IpAddr::from))
}
