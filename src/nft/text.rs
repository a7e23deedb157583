//! A table in nft's words, as `nft list` prints it and `nft -f` loads it back to the very same expressions. What nft's language
//! cannot say stands in a line of its own that begins with `#`: left out, and seen to be left out. Pure.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, IPV4, IPV6, NEW, RELATED, TCP, UDP};
use super::{
    Among, Base, Chain, Compare, Ct, Element, Expression as E, Header, Hook, Key, Kind, Leads, Limit, Meta, REG, Rule,
    Set, TABLE, Table, Target, Type, VERDICT, Value, Verdict,
};
use crate::topology::DEVICE_MAX;

#[cfg(test)]
pub(crate) mod tests;

/// The longest comment of a rule, in bytes (`NFTNL_UDATA_COMMENT_MAXLEN`, libnftnl/udata.h).
const COMMENT_MAX: usize = 128;
/// The longest prefix of a log, in bytes (`NF_LOG_PREFIXLEN`, linux/netfilter/nf_log.h, less the closing NUL).
const PREFIX_MAX: usize = 127;
/// The burst that nft takes where none is said, and does not say.
const BURST: u32 = 5;

/// The names without a dot that wire gives to chains, sets and maps: no keywords of nft.
const PLAIN: [&str; 13] = [
    "clients",
    "denied",
    "forward",
    "input",
    "inside",
    "inside6",
    "output",
    "outside",
    "postrouting",
    "prerouting",
    "private",
    "private6",
    "related",
];

/// What the names of a wire's own chains begin with, in the order in which they are read.
const OF_A_WIRE: [&str; 7] = ["in", "out", "through", "outside", "clients", "watched", "denied"];

/// A whole table: what it counts, its sets and maps, its base chains in the order of their hooks, and then the chains of each
/// wire together. Counters are without what they have counted (`nft -s`).
pub fn table(table: &Table) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    if table.dormant {
        text += "\tflags dormant\n";
    }
    text += &format!("\tcomment \"{TABLE}\"\n");
    // nft itself has an empty line there with flags and none without.
    let mut gap = if table.dormant { "\n" } else { "" };
    let mut block = |lines: &str| {
        text += gap;
        text += lines;
        gap = "\n";
    };
    for name in table.counters.keys() {
        block(&said(bare(name), &format!("\tcounter {} {{\n\t}}\n", clean(name))));
    }
    for (name, value) in &table.sets {
        block(&set(name, value));
    }
    let mut chains: Vec<_> = table.chains.iter().collect();
    let hooked = |chain: &Chain| chain.base.map(|base| (base.hook, base.priority));
    chains.sort_by_key(|(name, chain)| (chain.base.is_none(), hooked(chain), place(name)));
    for (name, value) in chains {
        block(&chain(name, value));
    }
    for name in &table.foreign {
        block(&format!("\t# not made by wire: {}\n", clean(name.name())));
    }
    text + "}\n"
}

/// One rule in nft's words, for messages; what nft has no words for is in brackets.
pub fn rule(rule: &Rule) -> String {
    line(rule).0
}

/// Where a chain that others jump to stands among its like: common ones first, then by wire.
fn place(name: &str) -> (&str, usize, &str) {
    let (kind, wire) = name.split_once('.').unwrap_or(("", ""));
    (wire, OF_A_WIRE.iter().position(|known| *known == kind).unwrap_or(OF_A_WIRE.len()), name)
}

/// Lines as they are, or where nft could not read them, each as a comment.
fn said(sayable: bool, lines: &str) -> String {
    if sayable {
        return lines.to_owned();
    }
    lines.lines().map(|line| format!("\t# {}\n", line.trim_start_matches(['\t', '#', ' ']))).collect()
}

fn chain(name: &str, chain: &Chain) -> String {
    let mut sayable = bare(name);
    let mut text = format!("\tchain {} {{\n", clean(name));
    if let Some(base) = chain.base {
        let (head, known) = head(base);
        sayable &= known;
        text += &format!("\t\t{head}\n");
    }
    for rule in &chain.rules {
        let (line, whole) = line(rule);
        text += &format!("\t\t{}{line}\n", if whole { "" } else { "# " });
    }
    said(sayable, &(text + "\t}\n"))
}

/// How a base chain begins, and whether nft can read that.
fn head(base: Base) -> (String, bool) {
    let kind = match base.kind {
        Kind::Filter => "filter",
        Kind::Nat => "nat",
        Kind::Other => "route",
    };
    let hook = match base.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
        Hook::Other => "of another family",
    };
    let priority = priority(base.hook, base.priority);
    let policy = if base.drop { "drop" } else { "accept" };
    (format!("type {kind} hook {hook} priority {priority}; policy {policy};"), base.hook != Hook::Other)
}

/// `enum nf_ip_hook_priorities` (linux/netfilter_ipv4.h), each where nft knows its name, and what is at most 10 from one.
fn priority(hook: Hook, priority: i32) -> String {
    let names = [
        ("raw", -300, true),
        ("mangle", -150, true),
        ("dstnat", -100, hook == Hook::Prerouting),
        ("filter", 0, true),
        ("security", 50, true),
        ("srcnat", 100, hook == Hook::Postrouting),
    ];
    let near = names.iter().find(|(_, at, here)| *here && priority.abs_diff(*at) <= 10);
    match near {
        Some((name, at, _)) if priority == *at => (*name).to_owned(),
        Some((name, at, _)) if priority > *at => format!("{name} + {}", priority.abs_diff(*at)),
        Some((name, at, _)) => format!("{name} - {}", priority.abs_diff(*at)),
        None => priority.to_string(),
    }
}

fn set(name: &str, set: &Set) -> String {
    let keys: Vec<&str> = set.key.iter().map(|of| type_name(*of)).collect();
    let mut sayable = bare(name) && !keys.is_empty() && !set.key.contains(&Type::Other);
    let (word, leads_to) = match set.leads_to {
        None => ("set", String::new()),
        Some(Leads::Verdict) => ("map", " : verdict".to_owned()),
        Some(Leads::Value(of)) => {
            sayable &= of != Type::Other;
            ("map", format!(" : {}", type_name(of)))
        }
    };
    let mut text = format!("\t{word} {} {{\n\t\ttype {}{leads_to}\n", clean(name), keys.join(" . "));
    if set.size > 0 {
        text += &format!("\t\tsize {}\n", set.size);
    }
    let flags = [(set.dynamic, "dynamic"), (set.interval, "interval"), (set.timeout, "timeout")];
    let flags: Vec<&str> = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).collect();
    if !flags.is_empty() {
        text += &format!("\t\tflags {}\n", flags.join(","));
    }
    if set.expiry > 0 {
        text += &format!("\t\ttimeout {}\n", time(set.expiry));
    }
    let (elements, left_out) = if set.dynamic { Default::default() } else { elements(set) };
    if !elements.is_empty() {
        // As many in a line as nft has there.
        let across = match set.key[..] {
            [Type::Protocol | Type::Service] => 5,
            [Type::Ipv4 | Type::CtState] => 2,
            _ => 1,
        };
        let lines: Vec<String> = elements.chunks(across).map(|some| some.join(", ")).collect();
        text += &format!("\t\telements = {{ {} }}\n", lines.join(",\n\t\t\t     "));
    }
    text.extend(left_out.iter().map(|element| format!("\t\t# {element}\n")));
    said(sayable, &(text + "\t}\n"))
}

/// nft's name of a type (src/datatype.c).
fn type_name(of: Type) -> &'static str {
    match of {
        Type::Ipv4 => "ipv4_addr",
        Type::Ipv6 => "ipv6_addr",
        Type::Protocol => "inet_proto",
        Type::Service => "inet_service",
        Type::IcmpType => "icmp_type",
        Type::CtState => "ct_state",
        Type::Icmpv6Type => "icmpv6_type",
        Type::IfName => "ifname",
        Type::Other => "another",
    }
}

/// The elements of a set in order, and those that nft cannot say.
fn elements(set: &Set) -> (Vec<String>, Vec<String>) {
    let mut all: Vec<_> = set.elements.iter().collect();
    if set.key == [Type::CtState] {
        all.sort_by_key(|(key, _)| match key {
            Key::One(value) => host(value),
            _ => None,
        });
    }
    let (mut elements, mut left_out) = (Vec::new(), Vec::new());
    for (key, value) in all {
        match element(set, key, value) {
            Some(words) => elements.push(words),
            None => left_out.push(raw_element(key, value)),
        }
    }
    (elements, left_out)
}

fn element(set: &Set, key: &Key, element: &Element) -> Option<String> {
    let mut text = match (key, &set.key[..]) {
        (Key::One(value), [of]) => say(*of, value)?,
        (Key::Range(first, last), [of]) => range(*of, first, last)?,
        (Key::Many(values), of) if values.len() == of.len() && of.len() > 1 => {
            let parts: Option<Vec<String>> = of.iter().zip(values).map(|(of, value)| say(*of, value)).collect();
            parts?.join(" . ")
        }
        _ => return None,
    };
    if let Some(seconds) = element.expires.filter(|seconds| *seconds > 0) {
        text += &format!(" timeout {}", time(seconds));
    }
    match (&element.leads_to, set.leads_to) {
        (None, None) => {}
        (Some(Target::Verdict(verdict)), Some(Leads::Verdict)) => text += &format!(" : {}", become_of_it(verdict)?),
        (Some(Target::Value(value)), Some(Leads::Value(of))) => text += &format!(" : {}", say(of, value)?),
        _ => return None,
    }
    Some(text)
}

/// `1d2h3m4s`.
fn time(seconds: u64) -> String {
    let parts = [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect()
}

/// The words of a rule, and whether nft would read all of them.
fn line(rule: &Rule) -> (String, bool) {
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
                    (Some(ICMP), None | Some(true)) if icmp => ("icmp type", Loaded::Of(Type::IcmpType)),
                    (Some(ICMPV6), None | Some(false)) if icmp => ("icmpv6 type", Loaded::Of(Type::Icmpv6Type)),
                    (protocol, _) if matches!((offset, length), (0 | 2, 2)) => {
                        let header = with_ports(protocol)?;
                        let port = if offset == 0 { "sport" } else { "dport" };
                        return Some((format!("{header} {port}"), Loaded::Of(Type::Service)));
                    }
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
        Loaded::Of(Type::CtState) => return None,
        _ => loaded.say(value)?,
    };
    Some(word.to_owned() + &said)
}

/// A value of a type, where nft can read it.
fn say(of: Type, value: &Value) -> Option<String> {
    let bytes = value.as_bytes();
    Some(match (of, bytes) {
        (Type::Ipv4, _) => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string(),
        (Type::Ipv6, _) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string(),
        // Those four nft knows without /etc/protocols.
        (Type::Protocol, [ICMP]) => "icmp".to_owned(),
        (Type::Protocol, [TCP]) => "tcp".to_owned(),
        (Type::Protocol, [UDP]) => "udp".to_owned(),
        (Type::Protocol, [ICMPV6]) => "icmpv6".to_owned(),
        (Type::Protocol, [number]) => number.to_string(),
        (Type::Service, [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        (Type::IcmpType, [number]) => kind(ICMP_TYPES, *number),
        (Type::Icmpv6Type, [number]) => kind(ICMPV6_TYPES, *number),
        (Type::CtState, _) => bits(STATE, host(value).filter(|bits| bits.is_power_of_two())?)?,
        (Type::IfName, _) => {
            let end = bytes.iter().position(|byte| *byte == 0).filter(|_| bytes.len() == 16)?;
            bytes[end..].iter().all(|byte| *byte == 0).then_some(())?;
            device(&bytes[..end], false)?
        }
        _ => return None,
    })
}

/// The range of an interval set, both ends meant: as a prefix where it is one.
fn range(of: Type, first: &Value, last: &Value) -> Option<String> {
    let (low, high) = (number(first), number(last));
    let across = low ^ high;
    let said = say(of, first)?;
    match of {
        _ if first == last => Some(said),
        _ if low > high || first.as_bytes().len() != last.as_bytes().len() => None,
        Type::Ipv4 | Type::Ipv6 if across & across.wrapping_add(1) == 0 && low & across == 0 => {
            Some(format!("{said}/{}", first.as_bytes().len() * 8 - across.count_ones() as usize))
        }
        Type::Ipv4 | Type::Ipv6 | Type::Service => Some(format!("{said}-{}", say(of, last)?)),
        _ => None,
    }
}

/// A device in quotes, or with a wildcard all that begin so. Nothing in a string of nft stands for a quote; a `*` at its end is
/// a wildcard unless a `\` is before it, and then every other `\` goes too.
fn device(name: &[u8], wildcard: bool) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    if name.is_empty() || name.contains(harmful) {
        return None;
    }
    match name.strip_suffix('*') {
        _ if wildcard && name.ends_with('\\') => None,
        _ if wildcard => Some(format!("\"{name}*\"")),
        None => Some(format!("\"{name}\"")),
        Some(start) if name.len() < DEVICE_MAX && !name.contains('\\') => Some(format!("\"{start}\\*\"")),
        Some(_) => None,
    }
}

fn become_of_it(verdict: &Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) if bare(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) if bare(chain) => format!("goto {chain}"),
        _ => return None,
    })
}

fn limit(limit: &Limit) -> Option<String> {
    let unit = match limit.unit {
        1 => "second",
        60 => "minute",
        3600 => "hour",
        86400 => "day",
        604_800 => "week",
        _ => return None,
    };
    (limit.rate > 0 && limit.burst > 0).then_some(())?;
    let over = if limit.over { "over " } else { "" };
    let burst = if limit.burst == BURST { String::new() } else { format!(" burst {} packets", limit.burst) };
    Some(format!("limit rate {over}{}/{unit}{burst}", limit.rate))
}

/// `NF_CT_STATE_BIT` and untracked (linux/netfilter/nf_conntrack_common.h).
const STATE: &[(u32, &str)] =
    &[(INVALID, "invalid"), (ESTABLISHED, "established"), (RELATED, "related"), (NEW, "new"), (0x40, "untracked")];

/// `enum ip_conntrack_status` as far as nft has names (linux/netfilter/nf_conntrack_common.h).
const STATUS: &[(u32, &str)] = &[
    (0x1, "expected"),
    (0x2, "seen-reply"),
    (0x4, "assured"),
    (0x8, "confirmed"),
    (0x10, "snat"),
    (0x20, "dnat"),
    (0x200, "dying"),
];

/// nft's names of ICMP messages (src/proto.c), by number (RFC 792, RFC 1256).
const ICMP_TYPES: &[(u8, &str)] = &[
    (0, "echo-reply"),
    (3, "destination-unreachable"),
    (4, "source-quench"),
    (5, "redirect"),
    (8, "echo-request"),
    (9, "router-advertisement"),
    (10, "router-solicitation"),
    (11, "time-exceeded"),
    (12, "parameter-problem"),
    (13, "timestamp-request"),
    (14, "timestamp-reply"),
    (15, "info-request"),
    (16, "info-reply"),
    (17, "address-mask-request"),
    (18, "address-mask-reply"),
];

/// nft's names of ICMPv6 messages (src/proto.c), by number (RFC 4443, RFC 4861).
const ICMPV6_TYPES: &[(u8, &str)] = &[
    (1, "destination-unreachable"),
    (2, "packet-too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
    (130, "mld-listener-query"),
    (131, "mld-listener-report"),
    (132, "mld-listener-done"),
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
    (137, "nd-redirect"),
    (138, "router-renumbering"),
    (141, "ind-neighbor-solicit"),
    (142, "ind-neighbor-advert"),
    (143, "mld2-listener-report"),
];

fn kind(names: &[(u8, &str)], number: u8) -> String {
    let named = names.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The names of bits; none where one has no name.
fn bits(names: &[(u32, &str)], bits: u32) -> Option<String> {
    let here: Vec<_> = names.iter().filter(|(bit, _)| bits & bit != 0).collect();
    let all = here.iter().fold(0, |all, (bit, _)| all | bit);
    (bits != 0 && all == bits).then(|| here.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(","))
}

/// A number that the kernel keeps in the machine's own order.
fn host(value: &Value) -> Option<u32> {
    Some(u32::from_ne_bytes(value.as_bytes().try_into().ok()?))
}

/// A number in network order.
fn number(value: &Value) -> u128 {
    value.as_bytes().iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Whether nft reads a name as one: it begins with a letter, `_` or `.`, has letters, digits and `/ - _ .` (`string`,
/// src/scanner.l), and is no keyword. No keyword has a dot, so a name has one, or is one of wire's few others.
fn bare(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.'));
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    PLAIN.contains(&name) || first && name.len() > 1 && name.contains('.') && name.chars().all(legal)
}

/// A string of nft. Nothing stands for a quote in it, so that it and what would break the line are replaced by `?`.
fn quoted(text: &str, forbidden: &[char], longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("\"{}\"", clean(&text[..end]).replace(forbidden, "?"))
}

/// Text that stays within its line and its quotes.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(harmful) { text.replace(harmful, "?").into() } else { text.into() }
}

fn harmful(c: char) -> bool {
    c.is_control() || c == '"'
}

/// An expression that nft has no words for here, by its name in the kernel.
fn raw(expression: &E) -> String {
    let text = match expression {
        E::Payload { base, offset, length, .. } => {
            let base = match base {
                Header::Link => "link",
                Header::Network => "network",
                Header::Transport => "transport",
            };
            format!("payload {length} at {base} + {offset}")
        }
        E::Meta { key: Meta::IifName, .. } => "meta iifname".to_owned(),
        E::Meta { key: Meta::OifName, .. } => "meta oifname".to_owned(),
        E::Meta { key: Meta::NfProto, .. } => "meta nfproto".to_owned(),
        E::Meta { key: Meta::L4Proto, .. } => "meta l4proto".to_owned(),
        E::Ct { key: Ct::State, .. } => "ct state".to_owned(),
        E::Ct { key: Ct::Status, .. } => "ct status".to_owned(),
        E::Fib { result, flags, .. } => format!("fib {result} of {flags:#x}"),
        E::Bitwise { mask, xor, .. } => format!("bitwise & {} ^ {}", raw_value(mask), raw_value(xor)),
        E::Compare { how, value, .. } => {
            let how = match how {
                Compare::Equal => "eq",
                Compare::Different => "neq",
                Compare::Less => "lt",
                Compare::AtMost => "lte",
                Compare::Greater => "gt",
                Compare::AtLeast => "gte",
            };
            format!("cmp {how} {}", raw_value(value))
        }
        E::Lookup { set, inverted, .. } => {
            let set = match set {
                Among::Named(name) => format!("@{}", clean(name)),
                Among::Anonymous(set) => {
                    let elements = set.elements.iter().map(|(key, element)| raw_element(key, element));
                    format!("{{ {} }}", elements.collect::<Vec<_>>().join(", "))
                }
            };
            format!("lookup {}{set}", if *inverted { "!= " } else { "" })
        }
        E::Load { value, .. } => format!("immediate {}", raw_value(value)),
        E::Verdict(verdict) => raw_verdict(verdict),
        E::Counter => "counter".to_owned(),
        E::Count(name) => format!("objref {}", clean(name)),
        E::Limit(limit) => raw_limit(limit),
        E::Log { .. } => "log".to_owned(),
        E::Nat { to_source, .. } => format!("nat {}", if *to_source { "source" } else { "destination" }),
        E::Masquerade => "masq".to_owned(),
        E::Update { set, limit, .. } => {
            let limit = limit.as_ref().map(|limit| format!(" {}", raw_limit(limit)));
            format!("dynset @{}{}", clean(set), limit.unwrap_or_default())
        }
        E::Unknown { name, attributes } if attributes.is_empty() => clean(name).into_owned(),
        E::Unknown { name, attributes } => format!("{} {}", clean(name), hex(attributes)),
    };
    format!("[{text}]")
}

fn raw_limit(limit: &Limit) -> String {
    let over = if limit.over { "over " } else { "" };
    format!("limit {over}{} in {} s, burst {}", limit.rate, limit.unit, limit.burst)
}

fn raw_verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Jump(chain) => format!("jump {}", clean(chain)),
        Verdict::Goto(chain) => format!("goto {}", clean(chain)),
        Verdict::Other(number) => format!("verdict {number}"),
        known => become_of_it(known).unwrap_or_default(),
    }
}

fn raw_element(key: &Key, element: &Element) -> String {
    let key = match key {
        Key::One(value) => raw_value(value),
        Key::Many(values) => values.iter().map(raw_value).collect::<Vec<_>>().join(" . "),
        Key::Range(first, last) => format!("{}-{}", raw_value(first), raw_value(last)),
    };
    match &element.leads_to {
        None => key,
        Some(Target::Verdict(verdict)) => format!("{key} : {}", raw_verdict(verdict)),
        Some(Target::Value(value)) => format!("{key} : {}", raw_value(value)),
    }
}

/// The bytes of a value; what looks like the name of a device as such.
fn raw_value(value: &Value) -> String {
    let bytes = value.as_bytes();
    let name = std::str::from_utf8(bytes).map(|text| text.trim_end_matches('\0')).unwrap_or_default();
    let device = bytes.len() == 16 && !name.is_empty() && name.len() < 16 && !name.contains(char::is_control);
    if device { format!("\"{}\"", clean(name)) } else { hex(bytes) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
