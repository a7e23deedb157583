//! Rules written as nft writes them: each method adds the expressions of one word of nft's language, in the order in which nft
//! itself generates them, so that `nft list` reads them back as they were meant.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{
    Among, Base, Chain, Compare, Ct, Element, Expression, Header, Key, Leads, Limit, Meta, REG, REG32_01, Rule, Set,
    Target, Text, Type, VERDICT, Value, Verdict,
};

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` (linux/netfilter.h).
pub const IPV4: u8 = 2;
pub const IPV6: u8 = 10;
/// `IPPROTO_*` (linux/in.h).
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
/// `enum ip_conntrack_info`'s bits as `ct state` shows them (`NF_CT_STATE_BIT`, linux/netfilter/nf_conntrack_common.h).
pub const INVALID: u32 = 1;
pub const ESTABLISHED: u32 = 2;
pub const RELATED: u32 = 4;
pub const NEW: u32 = 8;
/// `IPS_DST_NAT` (linux/netfilter/nf_conntrack_common.h).
const DST_NAT: u32 = 0x20;
/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR` (linux/netfilter/nf_tables.h), `RTN_LOCAL` (linux/rtnetlink.h).
const FIB_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const LOCAL: u32 = 2;

/// Which address of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

impl Side {
    /// Where it stands in the header of a family, and its length (RFC 791, RFC 8200).
    fn place(self, ipv4: bool) -> (u8, u8) {
        match (self, ipv4) {
            (Side::Source, true) => (12, 4),
            (Side::Destination, true) => (16, 4),
            (Side::Source, false) => (8, 16),
            (Side::Destination, false) => (24, 16),
        }
    }
}

/// Which device of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

impl Way {
    fn meta(self) -> Meta {
        match self {
            Way::In => Meta::IifName,
            Way::Out => Meta::OifName,
        }
    }
}

impl Rule {
    pub fn new() -> Rule {
        Rule::default()
    }

    fn with(mut self, expressions: impl IntoIterator<Item = Expression>) -> Rule {
        self.expressions.extend(expressions);
        self
    }

    fn compare(self, how: Compare, value: Value) -> Rule {
        self.with([Expression::Compare { from: REG, how, value }])
    }

    pub fn comment(mut self, comment: impl Into<Text>) -> Rule {
        self.comment = Some(comment.into());
        self
    }

    /// `meta nfproto ipv4`, once in a rule.
    pub fn family(self, ipv4: bool) -> Rule {
        let load = Expression::Meta { key: Meta::NfProto, to: REG };
        if self.expressions.contains(&load) {
            return self;
        }
        self.with([load]).compare(Compare::Equal, Value::byte(if ipv4 { IPV4 } else { IPV6 }))
    }

    /// `meta l4proto tcp`, once in a rule.
    pub fn protocol(self, protocol: u8) -> Rule {
        let load = Expression::Meta { key: Meta::L4Proto, to: REG };
        if self.expressions.contains(&load) {
            return self;
        }
        self.with([load]).compare(Compare::Equal, Value::byte(protocol))
    }

    /// `meta l4proto { tcp, udp }`, or with `inverted`, `meta l4proto != …`.
    pub fn protocols(self, protocols: &[u8], inverted: bool) -> Rule {
        let set = among(Type::Protocol, protocols.iter().map(|protocol| Value::byte(*protocol)));
        self.with([Expression::Meta { key: Meta::L4Proto, to: REG }]).among(set, inverted)
    }

    /// `iifname "lo"`.
    pub fn device(self, way: Way, name: &str) -> Rule {
        self.with([Expression::Meta { key: way.meta(), to: REG }]).compare(Compare::Equal, Value::device(name))
    }

    /// `iifname @set`, or with `inverted`, `iifname != @set`.
    pub fn devices(self, way: Way, set: Among, inverted: bool) -> Rule {
        self.with([Expression::Meta { key: way.meta(), to: REG }]).among(set, inverted)
    }

    /// A look at a set; where it is one of the rule's own with a single value, nft compares with that.
    fn among(self, set: Among, inverted: bool) -> Rule {
        if let Among::Anonymous(own) = &set
            && let (1, Some(Key::One(value))) = (own.elements.len(), own.elements.keys().next())
        {
            let (how, value) = (if inverted { Compare::Different } else { Compare::Equal }, *value);
            return self.compare(how, value);
        }
        self.with([Expression::Lookup { set, from: REG, inverted, to: None }])
    }

    /// `iifname vmap @map`.
    pub fn dispatch(self, way: Way, map: &str) -> Rule {
        let set = Among::Named(map.into());
        self.with([
            Expression::Meta { key: way.meta(), to: REG },
            Expression::Lookup { set, from: REG, inverted: false, to: Some(VERDICT) },
        ])
    }

    fn load_address(self, side: Side, ipv4: bool, length: Option<u8>, to: u8) -> Rule {
        let (offset, whole) = side.place(ipv4);
        let payload = Expression::Payload { base: Header::Network, offset, length: length.unwrap_or(whole), to };
        self.family(ipv4).with([payload])
    }

    /// `ip saddr 10.0.0.0/8`, or with `how` different, `ip saddr != …`. Everything needs no word.
    pub fn address(self, side: Side, how: Compare, network: &IpNetwork) -> Rule {
        let (prefix, ipv4) = (network.prefix(), network.is_ipv4());
        if prefix == 0 {
            return self.family(ipv4);
        }
        let first = Value::address(network.network());
        if prefix.is_multiple_of(8) {
            let length = prefix / 8;
            let value = Value::new(&first.as_bytes()[..usize::from(length)]);
            return self.load_address(side, ipv4, Some(length), REG).compare(how, value);
        }
        let mask = Value::address(network.mask());
        let xor = Value::new(&[0; 16][..mask.as_bytes().len()]);
        self.load_address(side, ipv4, None, REG)
            .with([Expression::Bitwise { from: REG, to: REG, mask, xor }])
            .compare(how, first)
    }

    /// `ip saddr @set`.
    pub fn address_in(self, side: Side, ipv4: bool, set: Among, inverted: bool) -> Rule {
        self.load_address(side, ipv4, None, REG).among(set, inverted)
    }

    /// `tcp dport 80`, or `8000-8010`: both ends meant.
    pub fn ports(self, protocol: u8, (low, high): (u16, u16)) -> Rule {
        let rule = self.protocol(protocol).with([DPORT]);
        if low == high {
            return rule.compare(Compare::Equal, Value::port(low));
        }
        rule.compare(Compare::AtLeast, Value::port(low)).compare(Compare::AtMost, Value::port(high))
    }

    /// `udp sport 67 udp dport 68`, which nft looks at in one.
    pub fn ports_between(self, protocol: u8, from: u16, to: u16) -> Rule {
        let both = [from.to_be_bytes(), to.to_be_bytes()].concat();
        self.protocol(protocol).with([BOTH_PORTS]).compare(Compare::Equal, Value::new(&both))
    }

    /// `tcp dport { 80, 443 }`.
    pub fn ports_in(self, protocol: u8, ports: &[u16]) -> Rule {
        let set = among(Type::Service, ports.iter().map(|port| Value::port(*port)));
        self.protocol(protocol).with([DPORT]).among(set, false)
    }

    /// `tcp sport { 80, 443 } tcp flags rst tcp sequence 0`: what the kernel answers to whoever knocks where nobody listens, and
    /// nothing else (RFC 9293, 3.5.2: what is sent to no connection and acknowledges nothing is reset with sequence number zero).
    pub fn nobody_listens(self, ports: &[u16]) -> Rule {
        const RST: u8 = 0x04;
        let transport = |offset, length| Expression::Payload { base: Header::Transport, offset, length, to: REG };
        let set = among(Type::Service, ports.iter().map(|port| Value::port(*port)));
        let flag = Expression::Bitwise { from: REG, to: REG, mask: Value::byte(RST), xor: Value::byte(0) };
        self.protocol(TCP)
            .with([transport(0, 2)])
            .among(set, false)
            .with([transport(13, 1), flag])
            .compare(Compare::Different, Value::byte(0))
            .with([transport(4, 4)])
            .compare(Compare::Equal, Value::new(&[0; 4]))
    }

    /// `icmp type echo-request`, by its number. nft says of which family it is, too.
    pub fn icmp_type(self, protocol: u8, kind: u8) -> Rule {
        self.icmp(protocol).with([ICMP_TYPE]).compare(Compare::Equal, Value::byte(kind))
    }

    /// `icmp type { … }`.
    pub fn icmp_types(self, protocol: u8, kinds: &[u8]) -> Rule {
        let of = if protocol == ICMP { Type::Icmp } else { Type::Icmpv6 };
        let set = among(of, kinds.iter().map(|kind| Value::byte(*kind)));
        self.icmp(protocol).with([ICMP_TYPE]).among(set, false)
    }

    /// Each in its own family: nft takes `icmp type` for no ICMP that comes over IPv6.
    fn icmp(self, protocol: u8) -> Rule {
        self.family(protocol == ICMP).protocol(protocol)
    }

    /// `ip6 hoplimit 255`: it comes from the link itself (RFC 4861, 7.1).
    pub fn by_a_neighbour(self) -> Rule {
        let hop_limit = Expression::Payload { base: Header::Network, offset: 7, length: 1, to: REG };
        self.family(false).with([hop_limit]).compare(Compare::Equal, Value::byte(255))
    }

    fn ct_bits(self, key: Ct, bits: u32) -> Rule {
        self.with([
            Expression::Ct { key, to: REG },
            Expression::Bitwise { from: REG, to: REG, mask: Value::host(bits), xor: Value::host(0) },
        ])
        .compare(Compare::Different, Value::host(0))
    }

    /// `ct state new`, or whatever bits.
    pub fn state(self, bits: u32) -> Rule {
        self.ct_bits(Ct::State, bits)
    }

    /// `ct status dnat`.
    pub fn handed_on(self) -> Rule {
        self.ct_bits(Ct::Status, DST_NAT)
    }

    /// `ct state vmap { … }`.
    pub fn by_state(self, verdicts: impl IntoIterator<Item = (u32, Verdict)>) -> Rule {
        let element = |verdict| Element { leads_to: Some(Target::Verdict(verdict)), ..Element::default() };
        let elements = verdicts.into_iter().map(|(bit, verdict)| (Key::One(Value::host(bit)), element(verdict)));
        let set = Set {
            key: vec![Type::CtState],
            leads_to: Some(Leads::Verdict),
            elements: elements.collect(),
            ..Set::default()
        };
        self.with([
            Expression::Ct { key: Ct::State, to: REG },
            Expression::Lookup { set: Among::Anonymous(Box::new(set)), from: REG, inverted: false, to: Some(VERDICT) },
        ])
    }

    /// `ct state vmap @map`.
    pub fn state_by(self, map: &str) -> Rule {
        self.with([
            Expression::Ct { key: Ct::State, to: REG },
            Expression::Lookup { set: Among::Named(map.into()), from: REG, inverted: false, to: Some(VERDICT) },
        ])
    }

    /// `fib daddr type != local`.
    pub fn not_for_this_host(self) -> Rule {
        self.with([Expression::Fib { result: FIB_TYPE, flags: FIB_DESTINATION, to: REG }])
            .compare(Compare::Different, Value::host(LOCAL))
    }

    /// `limit rate …`.
    pub fn limit(self, limit: Limit) -> Rule {
        self.with([Expression::Limit(limit)])
    }

    /// `update @set { ip saddr limit rate … }`.
    pub fn limit_each(self, set: &str, ipv4: bool, limit: Limit) -> Rule {
        let update = Expression::Update { set: set.into(), from: REG, limit: Some(limit) };
        self.load_address(Side::Source, ipv4, None, REG).with([update])
    }

    /// `update @set { ip saddr . ip daddr . meta l4proto . th dport }`; of ICMP, its type and code in place of the port.
    pub fn record(self, set: &str, icmp: bool) -> Rule {
        let payload = |(offset, length), to| Expression::Payload { base: Header::Network, offset, length, to };
        self.family(true).with([
            payload(Side::Source.place(true), REG),
            payload(Side::Destination.place(true), REG32_01),
            Expression::Meta { key: Meta::L4Proto, to: REG32_01 + 1 },
            Expression::Payload {
                base: Header::Transport,
                offset: if icmp { 0 } else { 2 },
                length: 2,
                to: REG32_01 + 2,
            },
            Expression::Update { set: set.into(), from: REG, limit: None },
        ])
    }

    pub fn log(self, prefix: impl Into<Text>) -> Rule {
        self.with([Expression::Log { prefix: prefix.into(), group: super::LOG_GROUP }])
    }

    /// `counter`.
    pub fn counted(self) -> Rule {
        self.with([Expression::Counter])
    }

    /// `counter name "…"`.
    pub fn count(self, counter: &str) -> Rule {
        self.with([Expression::Count(counter.into())])
    }

    /// `dnat ip to ADDRESS[:PORT]`.
    pub fn dnat(self, address: IpAddr, port: Option<u16>) -> Rule {
        self.nat(false, address, port)
    }

    /// `snat ip to ADDRESS`.
    pub fn snat(self, address: IpAddr) -> Rule {
        self.nat(true, address, None)
    }

    fn nat(self, to_source: bool, address: IpAddr, port: Option<u16>) -> Rule {
        let family = if address.is_ipv4() { IPV4 } else { IPV6 };
        let rule = self.family(address.is_ipv4()).with([Expression::Load { to: REG, value: Value::address(address) }]);
        // An address fills the first register or a quarter of it; the port goes to the one after.
        let second = REG + 1;
        let rule = match port {
            Some(port) => rule.with([Expression::Load { to: second, value: Value::port(port) }]),
            None => rule,
        };
        rule.with([Expression::Nat { to_source, family, address: REG, port: port.map(|_| second) }])
    }

    pub fn masquerade(self) -> Rule {
        self.with([Expression::Masquerade])
    }

    pub fn verdict(self, verdict: Verdict) -> Rule {
        self.with([Expression::Verdict(verdict)])
    }

    pub fn accept(self) -> Rule {
        self.verdict(Verdict::Accept)
    }

    pub fn drop(self) -> Rule {
        self.verdict(Verdict::Drop)
    }

    pub fn goto(self, chain: &str) -> Rule {
        self.verdict(Verdict::Goto(chain.into()))
    }

    pub fn jump(self, chain: &str) -> Rule {
        self.verdict(Verdict::Jump(chain.into()))
    }
}

/// The destination port, where tcp and udp both have it.
const DPORT: Expression = Expression::Payload { base: Header::Transport, offset: 2, length: 2, to: REG };
const BOTH_PORTS: Expression = Expression::Payload { base: Header::Transport, offset: 0, length: 4, to: REG };
const ICMP_TYPE: Expression = Expression::Payload { base: Header::Transport, offset: 0, length: 1, to: REG };

/// An anonymous set of single values.
pub fn among(of: Type, values: impl IntoIterator<Item = Value>) -> Among {
    let elements = values.into_iter().map(|value| (Key::One(value), Element::default())).collect();
    Among::Anonymous(Box::new(Set { key: vec![of], elements, ..Set::default() }))
}

impl Chain {
    /// A chain that others jump to.
    pub fn of(rules: impl IntoIterator<Item = Rule>) -> Chain {
        Chain { base: None, rules: rules.into_iter().collect() }
    }

    pub fn base(base: Base, rules: impl IntoIterator<Item = Rule>) -> Chain {
        Chain { base: Some(base), rules: rules.into_iter().collect() }
    }
}
