//! The words of nft for what expressions and sets hold, and which text it can read at all. `None` is what it has no words for.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::nft::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, NEW, RELATED, TCP, UDP};
use crate::nft::{Limit, Type, Value, Verdict};
use crate::topology::DEVICE_MAX;

/// The burst that nft takes where none is said, and does not say.
const BURST: u32 = 5;

/// The names without a dot that wire gives to chains, sets and maps: no keywords of nft.
const PLAIN: [&str; 14] = [
    "answers",
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

/// nft's name of a type (src/datatype.c).
pub(super) fn type_name(of: Type) -> &'static str {
    match of {
        Type::Ipv4 => "ipv4_addr",
        Type::Ipv6 => "ipv6_addr",
        Type::Protocol => "inet_proto",
        Type::Service => "inet_service",
        Type::Icmp => "icmp_type",
        Type::CtState => "ct_state",
        Type::Icmpv6 => "icmpv6_type",
        Type::IfName => "ifname",
        Type::Other => "another",
    }
}

/// A value of a type, where nft can read it.
pub(super) fn say(of: Type, value: &Value) -> Option<String> {
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
        (Type::Icmp, [number]) => kind(ICMP_TYPES, *number),
        (Type::Icmpv6, [number]) => kind(ICMPV6_TYPES, *number),
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
pub(super) fn range(of: Type, first: &Value, last: &Value) -> Option<String> {
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
pub(super) fn device(name: &[u8], wildcard: bool) -> Option<String> {
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

pub(super) fn become_of_it(verdict: &Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) if bare(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) if bare(chain) => format!("goto {chain}"),
        _ => return None,
    })
}

pub(super) fn limit(limit: &Limit) -> Option<String> {
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
pub(super) const STATE: &[(u32, &str)] =
    &[(INVALID, "invalid"), (ESTABLISHED, "established"), (RELATED, "related"), (NEW, "new"), (0x40, "untracked")];

/// `enum ip_conntrack_status` as far as nft has names (linux/netfilter/nf_conntrack_common.h).
pub(super) const STATUS: &[(u32, &str)] = &[
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
pub(super) fn bits(names: &[(u32, &str)], bits: u32) -> Option<String> {
    let here: Vec<_> = names.iter().filter(|(bit, _)| bits & bit != 0).collect();
    let all = here.iter().fold(0, |all, (bit, _)| all | bit);
    (bits != 0 && all == bits).then(|| here.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(","))
}

/// A number that the kernel keeps in the machine's own order.
pub(super) fn host(value: &Value) -> Option<u32> {
    Some(u32::from_ne_bytes(value.as_bytes().try_into().ok()?))
}

/// A number in network order.
pub(super) fn number(value: &Value) -> u128 {
    value.as_bytes().iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Whether nft reads a name as one: it begins with a letter, `_` or `.`, has letters, digits and `/ - _ .` (`string`,
/// src/scanner.l), and is no keyword. No keyword has a dot, so a name has one, or is one of wire's few others.
pub(super) fn bare(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.'));
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    PLAIN.contains(&name) || first && name.len() > 1 && name.contains('.') && name.chars().all(legal)
}

/// A string of nft. Nothing stands for a quote in it, so that it and what would break the line are replaced by `?`.
pub(super) fn quoted(text: &str, forbidden: &[char], longest: usize) -> String {
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("\"{}\"", clean(&text[..end]).replace(forbidden, "?"))
}

/// Text that stays within its line and its quotes.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(harmful) { text.replace(harmful, "?").into() } else { text.into() }
}

fn harmful(c: char) -> bool {
    c.is_control() || c == '"'
}

/// `1d2h3m4s`.
pub(super) fn time(seconds: u64) -> String {
    let parts = [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect()
}
