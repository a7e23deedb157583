//! The small languages inside the file's strings: flows, rates, addresses, durations, sizes. Each reader tells what is
//! wrong and where, and knows nothing of the table its word stands in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::topology::{Device, Flow, Name, Per, Protocol, Publish, Rate, Service, Whom};

use super::kinds::{FLOW, PUBLISH};
use super::tree::{Said, Table, Value, Word};
use crate::near::{meant, nearest, shown};

/// New connections that may come at once where `burst` says nothing else.
const BURST: u32 = 5;

/// A flow's protocol and ports: `tcp/80,443`, `udp/8000-8010`, `icmp`, `icmp/echo-request`.
pub fn service(word: &Word) -> Option<Service> {
    let (protocol, rest) = protocol(word)?;
    let rest_at = word.text.len() - rest.map_or(0, str::len);
    match (protocol, rest) {
        (Protocol::Tcp | Protocol::Udp, None) => {
            word.fault(
                format!("`{protocol}` names no port"),
                format!("write `\"{protocol}/443\"`, with the port it means"),
            );
            None
        }
        (Protocol::Tcp | Protocol::Udp, Some(rest)) => {
            if let Some(at) = rest.find(':') {
                let message = format!("`{}` is handed on to another port, which only `publish` can", shown(word.text));
                word.fault_in(rest_at + at, message, format!("write `\"{protocol}/{}\"`", &rest[..at]));
                return None;
            }
            Some(Service { protocol, ports: ports(word, rest, rest_at)?, icmp_type: None })
        }
        (_, None) => Some(Service { protocol, ports: Vec::new(), icmp_type: None }),
        (_, Some(rest)) => {
            if protocol.icmp_number(rest).is_none() {
                let types: Vec<&str> = protocol.icmp_types().iter().map(|(_, name)| *name).collect();
                let hint = meant(rest, types.iter().copied(), format!("the types are {}", types.join(", ")));
                word.fault_in(
                    rest_at,
                    format!("`{protocol}` has no type `{}` that a flow may name", shown(rest)),
                    hint,
                );
                return None;
            }
            Some(Service { protocol, ports: Vec::new(), icmp_type: Some(rest.to_owned()) })
        }
    }
}

fn protocol<'t>(word: &Word<'t>) -> Option<(Protocol, Option<&'t str>)> {
    let (name, rest) = match word.text.split_once('/') {
        Some((name, rest)) => (name, Some(rest)),
        None => (word.text, None),
    };
    let protocol = match name {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        "icmpv6" => Protocol::Icmpv6,
        _ => {
            let names = ["tcp", "udp", "icmp", "icmpv6"];
            if name.is_empty() || (rest.is_none() && name.bytes().all(|b| b.is_ascii_digit() || b",-".contains(&b))) {
                let port = if name.is_empty() { "443" } else { name };
                word.fault(format!("flow `{}` names no protocol", shown(word.text)), format!("write `\"tcp/{port}\"`"));
            } else {
                let hint = meant(name, names, "a flow is written `tcp/443`, `udp/53`, `icmp` or `icmpv6`");
                word.fault_in(0, format!("`{}` is no protocol", shown(name)), hint);
            }
            return None;
        }
    };
    Some((protocol, rest))
}

/// One port, a list or a range, sorted, and joined where they touch.
fn ports(word: &Word, text: &str, at: usize) -> Option<Vec<(u16, u16)>> {
    let mut ports = Vec::new();
    let mut at = at;
    for part in text.split(',') {
        ports.push(range(word, part, at)?);
        at += part.len() + 1;
    }
    ports.sort();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (low, high) in ports {
        match joined.last_mut() {
            Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
            _ => joined.push((low, high)),
        }
    }
    Some(joined)
}

fn range(word: &Word, text: &str, at: usize) -> Option<(u16, u16)> {
    let Some((low, high)) = text.split_once('-') else {
        let port = port(word, text, at)?;
        return Some((port, port));
    };
    let (from, to) = (port(word, low, at)?, port(word, high, at + low.len() + 1)?);
    if from > to {
        word.fault_in(at, format!("the range `{text}` runs backwards"), format!("write `{to}-{from}`"));
        return None;
    }
    Some((from, to))
}

fn port(word: &Word, text: &str, at: usize) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|&port: &u16| digits && port > 0);
    if port.is_none() {
        let trimmed = text.trim();
        let hint = if trimmed != text && trimmed.parse::<u16>().is_ok() {
            "write it without spaces".to_owned()
        } else {
            "a port is a number from 1 to 65535, a list `80,443` or a range `8000-8010`".to_owned()
        };
        word.fault_in(at, format!("`{}` is no port", shown(text)), hint);
    }
    port
}

/// What a `publish` hands on: the host's ports, and the first port at the far end where that is another.
fn published(word: &Word) -> Option<(Service, Option<u16>)> {
    let (protocol, rest) = protocol(word)?;
    if !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
        word.fault(format!("`{protocol}` cannot be published"), "only `tcp` and `udp` ports can");
        return None;
    }
    let Some((outer, inner)) = rest.and_then(|rest| rest.split_once(':')) else {
        return Some((service(word)?, None));
    };
    let at = word.text.len() - outer.len() - 1 - inner.len();
    let ports = ports(word, outer, at)?;
    let inner_at = at + outer.len() + 1;
    let [(low, high)] = ports[..] else {
        let hint = "write one `publish` for each port that is handed on to another";
        word.fault_in(inner_at, format!("`{}` hands a list of ports on to one", shown(word.text)), hint);
        return None;
    };
    let to = port(word, inner, inner_at)?;
    if u32::from(to) + u32::from(high - low) > u32::from(u16::MAX) {
        let message = format!("{} ports from `{to}` on end beyond 65535", high - low + 1);
        word.fault_in(inner_at, message, "begin at a lower port");
        return None;
    }
    Some((Service { protocol, ports, icmp_type: None }, Some(to).filter(|to| *to != low)))
}

/// A list of flows, each a string or a table.
pub fn flows(value: &Value) -> Vec<Flow> {
    value.list().unwrap_or_default().iter().filter_map(flow).collect()
}

fn flow(value: &Value) -> Option<Flow> {
    let place = value.place();
    if !value.is_table() {
        return Some(Flow { flow: service(&value.word()?)?, from: None, to: None, rate: None, log: false, place });
    }
    let table = value.table(&FLOW, value.what.clone())?;
    let flow = table.required("flow").and_then(|flow| service(&flow.word()?));
    let (from, to) = (optional(&table, "from", whom), optional(&table, "to", whom));
    let (rate, log) = (rated(&table), table.value("log").and_then(|log| log.truth()).unwrap_or_default());
    Some(Flow { flow: flow?, from: from?, to: to?, rate, log, place })
}

/// A list of what is published, each a string or a table.
pub fn publishes(value: &Value) -> Vec<Publish> {
    value.list().unwrap_or_default().iter().filter_map(publish).collect()
}

fn publish(value: &Value) -> Option<Publish> {
    let place = value.place();
    if !value.is_table() {
        let (flow, to_port) = published(&value.word()?)?;
        return Some(Publish { flow, to_port, address: None, on: None, from: None, rate: None, log: false, place });
    }
    let table = value.table(&PUBLISH, value.what.clone())?;
    let flow = table.required("flow").and_then(|flow| published(&flow.word()?));
    let from = optional(&table, "from", whom);
    let (address, on) = (optional(&table, "address", host_address), optional(&table, "on", device));
    let (rate, log) = (rated(&table), table.value("log").and_then(|log| log.truth()).unwrap_or_default());
    let (flow, to_port) = flow?;
    Some(Publish { flow, to_port, address: address?, on: on?, from: from?, rate, log, place })
}

/// What a key says that may be left out: nothing at all where it is there and cannot be read, so that a thing that was to
/// be narrow is not taken for a wide one.
pub fn optional<T>(table: &Table, key: &'static str, read: fn(&Word) -> Option<T>) -> Option<Option<T>> {
    match table.value(key) {
        Some(value) => read(&value.word()?).map(Some),
        None => Some(None),
    }
}

/// A table's `rate` and `burst`.
pub fn rated(table: &Table) -> Option<Rate> {
    let burst = table.value("burst");
    let Some(value) = table.value("rate") else {
        if let Some(burst) = burst.filter(|_| !table.has("rate")) {
            burst.fault("`burst` without a `rate` says nothing", "add `rate = \"10/minute\"`");
        }
        return None;
    };
    let burst = match burst {
        Some(burst) => burst.number(1..=u32::MAX.into()).and_then(|burst| burst.try_into().ok()),
        None => Some(BURST),
    };
    let (count, per) = rate(&value.word()?)?;
    Some(Rate { count, per, burst: burst? })
}

/// `10/minute`.
pub fn rate(word: &Word) -> Option<(u32, Per)> {
    let units = ["second", "minute", "hour", "day"];
    let (count, unit) = word.text.split_once('/').unwrap_or((word.text, ""));
    let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
    let Some(number) = count.parse().ok().filter(|&n: &u32| digits && n > 0) else {
        word.fault(
            format!("`{}` is no rate", shown(word.text)),
            "write `10/minute`: a number above 0, and second, minute, hour or day",
        );
        return None;
    };
    let per = match unit {
        "second" => Per::Second,
        "minute" => Per::Minute,
        "hour" => Per::Hour,
        "day" => Per::Day,
        _ => {
            let near = nearest(unit, units)
                .or_else(|| units.into_iter().find(|known| !unit.is_empty() && known.starts_with(unit)));
            let hint = format!("write `{number}/{}`", near.unwrap_or("second"));
            word.fault(format!("the rate `{}` is not per second, minute, hour or day", shown(word.text)), hint);
            return None;
        }
    };
    Some((number, per))
}

/// An address, a prefix or `@set`.
pub fn whom(word: &Word) -> Option<Whom> {
    match word.text.strip_prefix('@') {
        Some(_) => set(word).map(Whom::Set),
        None => network(word).map(Whom::Network),
    }
}

/// `@set`; that there is such a set is asked at the end of the file.
pub fn set(word: &Word) -> Option<Name> {
    let Some(name) = word.text.strip_prefix('@') else {
        let hint = if Name::new(word.text).is_some() { word.text } else { "banned" };
        word.fault(
            format!("`{}` is no set", shown(word.text)),
            format!("write `\"@{hint}\"`, the name of a [set.{hint}]"),
        );
        return None;
    };
    let Some(name) = Name::new(name) else {
        word.fault(format!("`{}` is no name of a set", shown(name)), "write `\"@banned\"`, the name of a [set.banned]");
        return None;
    };
    word.page.names_set(Said { it: name.clone(), place: word.part(1) }, &word.what);
    Some(name)
}

/// An address or a prefix without host bits.
pub fn network(word: &Word) -> Option<IpNetwork> {
    network_or(word, WHOM, |network| format!(", or `{}` alone", network.ip()))
}

/// A prefix, for more than one address.
pub fn prefix(word: &Word) -> Option<IpNetwork> {
    network_or(word, WHOM, |_| String::new())
}

/// An address or a prefix where no set may stand. An address of IPv4 in the clothes of IPv6 is one of IPv4, as packets carry it.
pub fn element(word: &Word) -> Option<IpNetwork> {
    let hint = "write an address (`192.0.2.1`) or a prefix (`192.0.2.0/24`)";
    let network = network_or(word, hint, |network| format!(", or `{}` alone", network.ip()))?;
    let IpNetwork::V6(v6) = network else { return Some(network) };
    let mapped = v6.ip().to_ipv4_mapped().zip(v6.prefix().checked_sub(96));
    mapped.and_then(|(v4, length)| IpNetwork::new(v4.into(), length).ok()).or(Some(network))
}

const WHOM: &str = "write an address (`192.0.2.1`), a prefix (`192.0.2.0/24`) or a set (`@banned`)";

fn network_or(word: &Word, hint: &str, instead: fn(&IpNetwork) -> String) -> Option<IpNetwork> {
    let (address, length) = split(word.text);
    let address: Option<IpAddr> = address.parse().ok();
    let whole = address.map(|address| if address.is_ipv4() { 32 } else { 128 });
    let length = length.map_or(whole, decimal);
    let Some(network) = address.zip(length).and_then(|(address, length)| IpNetwork::new(address, length).ok()) else {
        word.fault(format!("`{}` is no address", shown(word.text)), hint);
        return None;
    };
    if network.ip() != network.network() {
        let right = format!("write `{}/{}`{}", network.network(), network.prefix(), instead(&network));
        word.fault(format!("`{}` has bits behind its prefix", word.text), right);
        return None;
    }
    Some(network)
}

/// A prefix of IPv4 for addresses to be taken from: a pool.
pub fn pool(word: &Word) -> Option<Ipv4Network> {
    let IpNetwork::V4(pool) = prefix(word)? else {
        word.fault(format!("`{}` is not of IPv4", word.text), "a pool is a prefix of IPv4, as `10.1.0.0/16`");
        return None;
    };
    if pool.prefix() > 31 {
        word.fault(format!("`{}` has no room for a /31", word.text), "a pool is a prefix, as `10.1.0.0/16`");
        return None;
    }
    (usable(word, pool.network().into()) && usable(word, pool.broadcast().into())).then_some(pool)
}

/// A wire's subnet: an aligned /31, or a /30.
pub fn subnet(word: &Word) -> Option<Ipv4Network> {
    let (address, length) = split(word.text);
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        word.fault(
            format!("`{}` is no subnet of IPv4", shown(word.text)),
            "write `172.16.0.0/31`, or leave `subnet` out and run `wire number`",
        );
        return None;
    };
    let aligned = |length| Ipv4Network::new(address, length).ok().map(|n| format!("{}/{length}", n.network()));
    let right = |length| format!("write `{}`", aligned(length).unwrap_or_default());
    let length = match length.map(decimal) {
        None => {
            word.fault(format!("subnet `{}` has no prefix length", word.text), right(31));
            return None;
        }
        Some(Some(length @ (30 | 31))) => length,
        Some(_) => {
            word.fault(format!("subnet `{}` is neither a /31 nor a /30", shown(word.text)), right(31));
            return None;
        }
    };
    let subnet = Ipv4Network::new(address, length).ok()?;
    if subnet.network() != address {
        word.fault(format!("subnet `{}` does not begin at a multiple of {}", word.text, subnet.size()), right(length));
        return None;
    }
    usable(word, address.into()).then_some(subnet)
}

/// A wire's subnet of IPv6: an aligned /127.
pub fn subnet6(word: &Word) -> Option<Ipv6Network> {
    let (address, length) = split(word.text);
    let Ok(address) = address.parse::<Ipv6Addr>() else {
        word.fault(format!("`{}` is no subnet of IPv6", shown(word.text)), "write `fd00:1::/127`");
        return None;
    };
    let subnet = Ipv6Network::new(address, 127).ok()?;
    let right = format!("write `{}/127`", subnet.network());
    if length.and_then(decimal) != Some(127) {
        word.fault(format!("subnet6 `{}` is no /127", shown(word.text)), right);
        return None;
    }
    if subnet.network() != address {
        word.fault(format!("subnet6 `{}` begins at an odd address", word.text), right);
        return None;
    }
    usable(word, address.into()).then_some(subnet)
}

/// An address that one host has: no prefix, none of many or none.
pub fn host_address(word: &Word) -> Option<IpAddr> {
    let Ok(address) = word.text.parse() else {
        word.fault(format!("`{}` is no address", shown(word.text)), "write one address, as `203.0.113.7`");
        return None;
    };
    usable(word, address).then_some(address)
}

/// Whether an address may stand on a link at all.
pub fn usable(word: &Word, address: IpAddr) -> bool {
    let kind = match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("is an unspecified address"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("is a reserved address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("is an unspecified address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("is an address of IPv4"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("is a link-local address"),
        _ if address.is_loopback() => Some("is a loopback address"),
        _ if address.is_multicast() => Some("is a multicast address"),
        _ => None,
    };
    if let Some(kind) = kind {
        let hint = if address.is_ipv4() {
            "take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
        } else {
            "take one of fd00::/8"
        };
        word.fault(format!("`{}` {kind}", shown(word.text)), hint);
    }
    kind.is_none()
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    }
}

fn decimal(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// A device's name, of the same characters as names: a rule of nft must never read a pattern in it.
pub fn device(word: &Word) -> Option<Device> {
    let device = Name::new(word.text).and_then(|_| Device::new(word.text));
    if device.is_none() {
        let hint =
            "a device's name has 1 to 15 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit";
        word.fault(format!("`{}` cannot be a device's name", shown(word.text)), hint);
    } else if ["lo", "all", "default"].contains(&word.text) {
        word.fault(format!("`{}` is a name of the kernel's own", word.text), "take another device name");
        return None;
    }
    device
}

/// `30s`, `5m`, `1h` or `1d`, in seconds.
pub fn duration(word: &Word) -> Option<u64> {
    let unit = word.text.chars().last().and_then(|unit| Some((unit, "smhd".find(unit)?)));
    let seconds = unit.and_then(|(unit, nth)| {
        let number = word.text.strip_suffix(unit)?;
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        number.parse::<u64>().ok().filter(|n| digits && *n > 0)?.checked_mul([1, 60, 3600, 86400][nth])
    });
    // A century: beyond it clocks overflow and nobody waits.
    let seconds = seconds.filter(|seconds| *seconds <= 100 * 366 * 86400);
    if seconds.is_none() {
        word.fault(format!("`{}` is no duration", shown(word.text)), "write `30s`, `5m`, `1h` or `1d`");
    }
    seconds
}

/// `100MB`, in bytes.
pub fn size(word: &Word) -> Option<u64> {
    let digits = word.text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.text.split_at(digits);
    let factor: Option<u64> = match unit.trim_start() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
    if bytes.is_none() {
        word.fault(
            format!("`{}` is no size", shown(word.text)),
            "write `100MB`, with one of kB, MB, GB, KiB, MiB, GiB",
        );
    }
    bytes
}
