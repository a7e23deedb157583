//! From the expressions of a rule to nft's words for them, as `nft list` finds them.

use super::elements;
use super::raw::raw;
use super::words::{STATE, STATUS, bare, become_of_it, bits, device, host, limit, number, quoted, say};
use crate::nft::build::{ICMP, ICMPV6, IPV4, IPV6, TCP, UDP};
use crate::nft::{Among, Compare, Ct, Expression as E, Header, Meta, REG, Rule, Type, VERDICT, Value};

/// The longest comment of a rule, in bytes (`NFTNL_UDATA_COMMENT_MAXLEN`, libnftnl/udata.h).
pub(super) const COMMENT_MAX: usize = 128;
/// The longest prefix of a log, in bytes (`NF_LOG_PREFIXLEN`, linux/netfilter/nf_log.h, less the closing NUL).
pub(super) const PREFIX_MAX: usize = 127;

/// The words of a rule, and whether nft would read all of them.
pub(super) fn line(rule: &Rule) -> (String, bool) {
    let mut reader = Reader { rest: &rule.expressions, ipv4: None, protocol: None };
    let last = |expression: &E| matches!(expression, E::Verdict(_) | E::Nat { .. } | E::Masquerade);
    // What comes after an end nft refuses.
    let ended = rule.expressions.split_last().is_some_and(|(_, before)| before.iter().any(last));
    let (mut words, mut whole) = (Vec::new(), !ended);
    while let [first, rest @ ..] = reader.rest {
        match reader.raise() {
            Some((said, length)) => {
                reader.rest = reader.rest.get(length..).unwrap_or_default();
                words.push(said);
            }
            None => {
                whole = false;
                words.push(raw(first));
                reader.rest = rest;
            }
        }
    }
    words.extend(rule.comment.as_ref().map(|comment| format!("comment {}", quoted(comment, &[], COMMENT_MAX))));
    words.retain(|said| !said.is_empty());
    (words.join(" "), whole)
}

/// What a register holds after some expressions, as the left side of what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    /// So many bytes of an address.
    Address {
        ipv4: bool,
        length: u8,
    },
    Of(Type),
    Status,
    AddressType,
    /// A number of one byte.
    Byte,
    /// Of a TCP segment.
    Flags,
    Sequence,
}

impl Loaded {
    /// The type of a set that it can be looked up in.
    fn key(self) -> Option<Type> {
        match self {
            Loaded::Address { ipv4: true, length: 4 } => Some(Type::Ipv4),
            Loaded::Address { ipv4: false, length: 16 } => Some(Type::Ipv6),
            Loaded::Of(of) => Some(of),
            _ => None,
        }
    }

    /// Whether nft takes it for more or less than another.
    fn counts(self) -> bool {
        matches!(self.key(), Some(Type::Ipv4 | Type::Ipv6 | Type::Service)) || self == Loaded::Byte
    }

    fn say(self, value: &Value) -> Option<String> {
        match (self, value.as_bytes()) {
            (Loaded::AddressType, _) => {
                // `RTN_*` (linux/rtnetlink.h).
                let names = [
                    "unspec",
                    "unicast",
                    "local",
                    "broadcast",
                    "anycast",
                    "multicast",
                    "blackhole",
                    "unreachable",
                    "prohibit",
                ];
                names.get(usize::try_from(host(value)?).ok()?).map(|name| (*name).to_owned())
            }
            (Loaded::Byte, [byte]) => Some(byte.to_string()),
            (Loaded::Sequence, [a, b, c, d]) => Some(u32::from_be_bytes([*a, *b, *c, *d]).to_string()),
            _ => say(self.key()?, value),
        }
    }
}

/// Goes through a rule and knows what nft would know at each place of it.
struct Reader<'a> {
    rest: &'a [E],
    /// The family, where an expression has settled it.
    ipv4: Option<bool>,
    protocol: Option<u8>,
}

impl Reader<'_> {
    /// The words of what comes next, none where other words imply it, and how many expressions they stand for.
    fn raise(&mut self) -> Option<(String, usize)> {
        Some(match self.rest {
            [
                E::Meta { key: Meta::NfProto, to: REG },
                E::Compare { from: REG, how: Compare::Equal, value },
                after @ ..,
            ] => (self.family(value, after)?, 2),
            [
                E::Meta { key: Meta::L4Proto, to: REG },
                E::Compare { from: REG, how: Compare::Equal, value },
                after @ ..,
            ] if self.protocol.is_none() => (self.protocol(value, after)?, 2),
            [E::Load { to: REG, value }, E::Nat { to_source, family, address: REG, port: None }, ..] => {
                (self.nat(*to_source, *family, value, None)?, 2)
            }
            [
                E::Load { to: REG, value },
                E::Load { to, value: port },
                E::Nat { to_source, family, address: REG, port: Some(at) },
                ..,
            ] if at == to && *to != REG && matches!(self.protocol, Some(TCP | UDP)) => {
                (self.nat(*to_source, *family, value, Some(say(Type::Service, port)?))?, 3)
            }
            [BOTH_PORTS, E::Compare { from: REG, how: Compare::Equal, value }, ..] => match value.as_bytes() {
                [from @ .., high, low] if from.len() == 2 => {
                    let header = with_ports(self.protocol)?;
                    let ports = [Value::new(from), Value::new(&[*high, *low])].map(|port| say(Type::Service, &port));
                    let [Some(from), Some(to)] = ports else { return None };
                    (format!("{header} sport {from} {header} dport {to}"), 2)
                }
                _ => return None,
            },
            [E::Verdict(verdict), ..] => (become_of_it(verdict)?, 1),
            [E::Counter, ..] => ("counter".to_owned(), 1),
            [E::Count(name), ..] if bare(name) => (format!("counter name \"{name}\""), 1),
            [E::Limit(given), ..] => (limit(given)?, 1),
            [E::Log { prefix, group }, ..] if prefix.is_empty() => (format!("log group {group}"), 1),
            [E::Log { prefix, group }, ..] => {
                // In a prefix, nft takes `$` for the beginning of a variable.
                (format!("log prefix {} group {group}", quoted(prefix, &['$'], PREFIX_MAX)), 1)
            }
            [E::Masquerade, ..] => ("masquerade".to_owned(), 1),
            _ => return self.compared(),
        })
    }

    /// `meta nfproto ipv4`, which nft puts in front of `ip saddr` by itself.
    fn family(&mut self, value: &Value, after: &[E]) -> Option<String> {
        let (ipv4, icmp) = match value.as_bytes() {
            [IPV4] => (true, ICMP),
            [IPV6] => (false, ICMPV6),
            _ => return None,
        };
        if self.ipv4.replace(ipv4).is_some() {
            return None;
        }
        let implied = match after {
            [load @ E::Payload { base: Header::Network, to: REG, .. }, ..] => self.load(load).is_some(),
            [
                E::Meta { key: Meta::L4Proto, to: REG },
                E::Compare { from: REG, how: Compare::Equal, value },
                ICMP_TYPE,
                ..,
            ] => value.as_bytes() == [icmp] && self.protocol.is_none(),
            _ => false,
        };
        let word = if ipv4 { "ipv4" } else { "ipv6" };
        Some(if implied { String::new() } else { format!("meta nfproto {word}") })
    }

    /// `meta l4proto tcp`, which nft puts in front of `tcp dport` by itself. In front of `icmp type` it puts the family too.
    fn protocol(&mut self, value: &Value, after: &[E]) -> Option<String> {
        let said = say(Type::Protocol, value)?;
        let protocol = value.as_bytes().first().copied();
        self.protocol = protocol;
        let implied = match after {
            [BOTH_PORTS, ..] | [E::Payload { base: Header::Transport, offset: 0 | 2, length: 2, to: REG }, ..] => {
                matches!(protocol, Some(TCP | UDP))
            }
            [ICMP_TYPE, ..] => {
                matches!((protocol, self.ipv4), (Some(ICMP), Some(true)) | (Some(ICMPV6), Some(false)))
            }
            _ => false,
        };
        Some(if implied { String::new() } else { format!("meta l4proto {said}") })
    }

    fn nat(&self, to_source: bool, family: u8, address: &Value, port: Option<String>) -> Option<String> {
        let word = if to_source { "snat" } else { "dnat" };
        let (ip, of, other) = match family {
            IPV4 => ("ip", Type::Ipv4, false),
            IPV6 => ("ip6", Type::Ipv6, true),
            _ => return None,
        };
        // Of a packet that is of the other family nft wants to hear nothing.
        if self.ipv4 == Some(other) {
            return None;
        }
        let address = say(of, address)?;
        Some(match port {
            Some(port) if of == Type::Ipv6 => format!("{word} {ip} to [{address}]:{port}"),
            Some(port) => format!("{word} {ip} to {address}:{port}"),
            None => format!("{word} {ip} to {address}"),
        })
    }

    /// What one expression puts into a register, where nft has a word for it here.
    fn load(&self, expression: &E) -> Option<(String, Loaded)> {
        let (words, loaded) = match *expression {
            E::Meta { key: Meta::IifName, .. } => ("iifname", Loaded::Of(Type::IfName)),
            E::Meta { key: Meta::OifName, .. } => ("oifname", Loaded::Of(Type::IfName)),
            E::Meta { key: Meta::L4Proto, .. } => ("meta l4proto", Loaded::Of(Type::Protocol)),
            E::Ct { key: Ct::State, .. } => ("ct state", Loaded::Of(Type::CtState)),
            E::Ct { key: Ct::Status, .. } => ("ct status", Loaded::Status),
            // `NFT_FIB_RESULT_ADDRTYPE` of `NFTA_FIB_F_SADDR` or `NFTA_FIB_F_DADDR` (linux/netfilter/nf_tables.h).
            E::Fib { result: 3, flags: 1, .. } => ("fib saddr type", Loaded::AddressType),
            E::Fib { result: 3, flags: 2, .. } => ("fib daddr type", Loaded::AddressType),
            E::Payload { base: Header::Network, offset, length, .. } => {
                let ipv4 = self.ipv4?;
                let fits = (1..=if ipv4 { 4 } else { 16 }).contains(&length);
                let words = match (offset, ipv4) {
                    (12, true) if fits => "ip saddr",
                    (16, true) if fits => "ip daddr",
                    (8, false) if fits => "ip6 saddr",
                    (24, false) if fits => "ip6 daddr",
                    (7, false) if length == 1 => return Some(("ip6 hoplimit".to_owned(), Loaded::Byte)),
                    _ => return None,
                };
                (words, Loaded::Address { ipv4, length })
            }
            E::Payload { base: Header::Transport, offset, length, .. } => {
                let icmp = (offset, length) == (0, 1);
                match (self.protocol, self.ipv4) {
                    (Some(ICMP), None | Some(true)) if icmp => ("icmp type", Loaded::Of(Type::Icmp)),
                    (Some(ICMPV6), None | Some(false)) if icmp => ("icmpv6 type", Loaded::Of(Type::Icmpv6)),
                    (protocol, _) if matches!((offset, length), (0 | 2, 2)) => {
                        let header = with_ports(protocol)?;
                        let port = if offset == 0 { "sport" } else { "dport" };
                        return Some((format!("{header} {port}"), Loaded::Of(Type::Service)));
                    }
                    (Some(TCP), _) if (offset, length) == (13, 1) => ("tcp flags", Loaded::Flags),
                    (Some(TCP), _) if (offset, length) == (4, 4) => ("tcp sequence", Loaded::Sequence),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some((words.to_owned(), loaded))
    }

    /// What the next expressions put into one register after the other, and how many they are.
    fn loads(&self) -> Option<(String, Vec<Loaded>)> {
        let (mut words, mut loads) = (Vec::new(), Vec::new());
        let mut slot = 0;
        for expression in self.rest {
            let (to, length) = match *expression {
                E::Payload { to, length, .. } => (to, length),
                E::Meta { to, key: Meta::IifName | Meta::OifName } => (to, 16),
                E::Meta { to, .. } => (to, 1),
                E::Ct { to, .. } | E::Fib { to, .. } => (to, 4),
                _ => break,
            };
            // `NFT_REG_1` to `NFT_REG_4` are of 16 bytes, `NFT_REG32_00` and on of 4 of the same bytes.
            let at = if (1..=4).contains(&to) { (to - 1) * 4 } else { to.checked_sub(8)? };
            if at != slot {
                break;
            }
            let (said, loaded) = self.load(expression)?;
            words.push(said);
            loads.push(loaded);
            slot += length.div_ceil(4);
        }
        Some((words.join(" . "), loads))
    }

    /// Something of the packet, and what must hold for it.
    fn compared(&self) -> Option<(String, usize)> {
        let (left, loads) = self.loads()?;
        let length = loads.len();
        let after = self.rest.get(length..)?;
        let key: Option<Vec<Type>> = loads.iter().map(|loaded| loaded.key()).collect();
        match (&loads[..], after) {
            ([loaded], [E::Bitwise { from: REG, to: REG, mask, xor }, E::Compare { from: REG, how, value }, ..])
                if xor.as_bytes().iter().all(|byte| *byte == 0) =>
            {
                Some((format!("{left} {}", masked(*loaded, mask, *how, value)?), length + 2))
            }
            (
                [loaded],
                [
                    E::Compare { from: REG, how: Compare::AtLeast, value: first },
                    E::Compare { from: REG, how: Compare::AtMost, value: last },
                    ..,
                ],
            ) if first < last && loaded.counts() => {
                Some((format!("{left} {}-{}", loaded.say(first)?, loaded.say(last)?), length + 2))
            }
            ([loaded], [E::Compare { from: REG, how, value }, ..]) => {
                Some((format!("{left} {}", plain(*loaded, *how, value)?), length + 1))
            }
            ([_, ..], [E::Lookup { set, from: REG, inverted, to }, ..]) => {
                let key = key?;
                let how = match (inverted, to) {
                    (false, None) => "",
                    (true, None) => "!= ",
                    (false, Some(VERDICT)) => "vmap ",
                    _ => return None,
                };
                let set = match set {
                    Among::Named(name) if bare(name) => format!("@{name}"),
                    Among::Anonymous(set) if set.key == key && set.leads_to.is_some() == to.is_some() => {
                        match elements(set) {
                            (all, left_out) if !all.is_empty() && left_out.is_empty() => {
                                format!("{{ {} }}", all.join(", "))
                            }
                            _ => return None,
                        }
                    }
                    _ => return None,
                };
                Some((format!("{left} {how}{set}"), length + 1))
            }
            ([_, ..], [E::Update { set, from: REG, limit: given }, ..]) if bare(set) && key.is_some() => {
                let given = match given {
                    Some(given) => format!(" {}", limit(given)?),
                    None => String::new(),
                };
                Some((format!("update @{set} {{ {left}{given} }}"), length + 1))
            }
            _ => None,
        }
    }
}

/// The type of a message of ICMP or ICMPv6.
const ICMP_TYPE: E = E::Payload { base: Header::Transport, offset: 0, length: 1, to: REG };

/// The flags of a TCP segment (RFC 9293, 3.1).
const FLAGS: [(u8, &str); 6] =
    [(0x01, "fin"), (0x02, "syn"), (0x04, "rst"), (0x08, "psh"), (0x10, "ack"), (0x20, "urg")];

/// The source port and the destination port, which nft looks at in one where both must be the ones it is told.
const BOTH_PORTS: E = E::Payload { base: Header::Transport, offset: 0, length: 4, to: REG };

/// nft's word for a header that begins with two ports.
fn with_ports(protocol: Option<u8>) -> Option<&'static str> {
    match protocol {
        Some(TCP) => Some("tcp"),
        Some(UDP) => Some("udp"),
        Some(_) => None,
        None => Some("th"),
    }
}

/// A value that is compared under a mask: bits of which one must be set, or a network.
fn masked(loaded: Loaded, mask: &Value, how: Compare, value: &Value) -> Option<String> {
    match loaded {
        // One flag that is set, whatever others are.
        Loaded::Flags => {
            let one = FLAGS.iter().find(|(flag, _)| mask.as_bytes() == [*flag])?;
            (how == Compare::Different && value.as_bytes() == [0]).then(|| one.1.to_owned())
        }
        Loaded::Of(Type::CtState) | Loaded::Status => {
            let names = if loaded == Loaded::Status { STATUS } else { STATE };
            let any = how == Compare::Different && host(value)? == 0;
            if any { bits(names, host(mask)?) } else { None }
        }
        Loaded::Address { ipv4, .. } => {
            let of = loaded.key()?;
            let whole = if ipv4 { u128::from(u32::MAX) } else { u128::MAX };
            let host_part = whole & !number(mask);
            let prefix = whole.count_ones() - host_part.count_ones();
            let is_network = host_part & host_part.wrapping_add(1) == 0 && number(value) & host_part == 0;
            let same_length = mask.as_bytes().len() == value.as_bytes().len();
            let equal = match how {
                Compare::Equal => "",
                Compare::Different => "!= ",
                _ => return None,
            };
            (is_network && same_length && prefix > 0).then_some(())?;
            Some(format!("{equal}{}/{prefix}", say(of, value)?))
        }
        _ => None,
    }
}

/// A value that is compared as it is.
fn plain(loaded: Loaded, how: Compare, value: &Value) -> Option<String> {
    let word = match how {
        Compare::Equal => "",
        Compare::Different => "!= ",
        Compare::Less => "< ",
        Compare::AtMost => "<= ",
        Compare::Greater => "> ",
        Compare::AtLeast => ">= ",
    };
    let equal = matches!(how, Compare::Equal | Compare::Different);
    if !equal && !loaded.counts() {
        return None;
    }
    let bytes = value.as_bytes();
    let said = match loaded {
        // Fewer bytes than an address has: a network.
        Loaded::Address { ipv4, length } if loaded.key().is_none() && bytes.len() == usize::from(length) => {
            let mut whole = [0; 16];
            whole[..bytes.len()].copy_from_slice(bytes);
            let first =
                if ipv4 { say(Type::Ipv4, &Value::new(&whole[..4])) } else { say(Type::Ipv6, &Value::new(&whole)) };
            format!("{}/{}", first?, length * 8)
        }
        // Fewer bytes than a name has, and no NUL: all that begin so.
        Loaded::Of(Type::IfName) if bytes.len() < 16 => device(bytes, true)?,
        Loaded::Of(Type::CtState) | Loaded::Flags => return None,
        _ => loaded.say(value)?,
    };
    Some(word.to_owned() + &said)
}
