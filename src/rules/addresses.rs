//! Addresses as ranges: what is public, and what belongs to the topology.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::Range;
use crate::nft::{Element, Elements, Key, Value};
use crate::topology::Topology;

pub fn elements(ranges: &[Range]) -> Elements {
    let key = |first, last| Key::Range(Value::address(first), Value::address(last));
    let element = |expires| Element { expires, ..Element::default() };
    ranges.iter().map(|&(first, last, expires)| (key(first, last), element(expires))).collect()
}

/// Whatever egress has to name to reach it (RFC 1122, 1918, 3927, 5771, 6598, 1112; RFC 4193, 4291).
pub fn private(ipv4: bool) -> Vec<Range> {
    let networks: &[&str] = match ipv4 {
        true => &[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/3",
        ],
        // The first holds ::1, addresses that stand for IPv4 ones, and NAT64's (RFC 6052).
        false => &["::/8", "fc00::/7", "fe80::/9", "ff00::/8"],
    };
    networks.iter().filter_map(|text| text.parse().ok()).map(|network: IpNetwork| range(&network)).collect()
}

/// Whether egress reaches it without naming it.
pub fn is_public(address: IpAddr) -> bool {
    !private(address.is_ipv4()).iter().any(|(first, last, _)| (*first..=*last).contains(&address))
}

fn range(network: &IpNetwork) -> Range {
    (network.network(), network.broadcast(), None)
}

/// Every address that a wire or a tunnel of the file has, as few ranges as possible.
pub fn inside(topology: &Topology) -> Vec<Range> {
    let wires = topology.wires.iter();
    let subnets = wires.flat_map(|wire| [Some(IpNetwork::V4(wire.subnet)), wire.subnet6.map(IpNetwork::V6)]);
    let prefixes = topology.hubs.values().filter_map(|hub| Some(hub.clients.as_ref()?.prefix));
    let mut all: Vec<Range> = subnets.flatten().chain(prefixes).map(|network| range(&network)).collect();
    all.sort();
    let mut merged: Vec<Range> = Vec::new();
    for (first, last, _) in all {
        match merged.last_mut() {
            Some((before, end, _)) if before.is_ipv4() == first.is_ipv4() && first <= *end => *end = last.max(*end),
            Some((before, end, _)) if before.is_ipv4() == first.is_ipv4() && next(*end) == Some(first) => *end = last,
            _ => merged.push((first, last, None)),
        }
    }
    merged
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}
