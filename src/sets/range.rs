//! Elements that overlap become ranges that do not, as an interval set of nftables wants them: the kernel refuses an element
//! that meets another.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{Expiry, later};

/// The same addresses as disjoint ranges, first and last of each meant, those of IPv4 first, in order. An address that several
/// elements hold leaves with the last of them; neighbours that leave together are one range.
pub fn disjoint(elements: &BTreeMap<IpNetwork, Option<Expiry>>) -> Vec<(IpAddr, IpAddr, Option<Expiry>)> {
    let (v4, v6): (Vec<_>, Vec<_>) = elements.iter().partition(|(network, _)| network.is_ipv4());
    let mut ranges = Vec::new();
    for (family, address) in [(v4, v4_address as fn(u128) -> IpAddr), (v6, |number| Ipv6Addr::from(number).into())] {
        let of = |(network, expiry): (&IpNetwork, &Option<Expiry>)| (first(network), last(network), *expiry);
        let family = spread(family.into_iter().map(of).collect());
        ranges.extend(family.into_iter().map(|(low, high, expiry)| (address(low), address(high), expiry)));
    }
    ranges
}

/// The same for numbers. The ranges that come in are prefixes: of two that meet one holds the other.
fn spread(mut nested: Vec<(u128, u128, Option<Expiry>)>) -> Vec<(u128, u128, Option<Expiry>)> {
    nested.sort_by_key(|&(low, high, _)| (low, std::cmp::Reverse(high)));
    let mut out = Vec::new();
    // Those around the present place, widest first, each with its own end and the latest expiry so far, and the place from
    // which on nothing has been said yet.
    let mut around: Vec<(u128, Option<Expiry>)> = Vec::new();
    let mut place = 0;
    for (low, high, expiry) in nested {
        while let Some(&(end, outer)) = around.last().filter(|(end, _)| *end < low) {
            say(&mut out, place, end, outer);
            // Something begins behind this end, so there is a number behind it.
            place = place.max(end.saturating_add(1));
            around.pop();
        }
        let expiry = match around.last() {
            Some(&(_, outer)) => {
                if low > place {
                    say(&mut out, place, low - 1, outer);
                }
                later(outer, expiry)
            }
            None => expiry,
        };
        place = low;
        around.push((high, expiry));
    }
    while let Some((end, outer)) = around.pop() {
        say(&mut out, place, end, outer);
        match end.checked_add(1) {
            Some(next) => place = place.max(next),
            None => break,
        }
    }
    out
}

/// Adds a range behind the others, or makes the last one longer.
fn say(out: &mut Vec<(u128, u128, Option<Expiry>)>, low: u128, high: u128, expiry: Option<Expiry>) {
    if low > high {
        return;
    }
    match out.last_mut() {
        Some((_, end, last)) if end.checked_add(1) == Some(low) && *last == expiry => *end = high,
        _ => out.push((low, high, expiry)),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn first(network: &IpNetwork) -> u128 {
    number(network.network())
}

fn last(network: &IpNetwork) -> u128 {
    number(network.broadcast())
}

fn v4_address(number: u128) -> IpAddr {
    // Every number of this family came from 32 bits.
    Ipv4Addr::from(number as u32).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Elements = BTreeMap<IpNetwork, Option<Expiry>>;

    fn elements(of: &[(&str, Option<u64>)]) -> Elements {
        of.iter().map(|(network, expiry)| (network.parse().unwrap(), expiry.map(Expiry))).collect()
    }

    fn told(elements: &Elements) -> Vec<String> {
        let line = |(low, high, expiry): (IpAddr, IpAddr, Option<Expiry>)| match expiry {
            Some(Expiry(expiry)) => format!("{low}-{high} {expiry}"),
            None => format!("{low}-{high}"),
        };
        disjoint(elements).into_iter().map(line).collect()
    }

    #[test]
    fn overlaps_are_one_range_and_the_later_end_wins() {
        let table: [(&[(&str, Option<u64>)], &[&str]); 10] = [
            (&[], &[]),
            (&[("192.0.2.1/32", None)], &["192.0.2.1-192.0.2.1"]),
            (&[("192.0.2.0/24", None), ("192.0.2.7/32", None)], &["192.0.2.0-192.0.2.255"]),
            (&[("192.0.2.0/24", None), ("192.0.2.7/32", Some(5))], &["192.0.2.0-192.0.2.255"]),
            (
                &[("192.0.2.0/24", Some(5)), ("192.0.2.7/32", None)],
                &["192.0.2.0-192.0.2.6 5", "192.0.2.7-192.0.2.7", "192.0.2.8-192.0.2.255 5"],
            ),
            (
                &[
                    ("10.0.0.0/8", Some(5)),
                    ("10.0.0.0/16", Some(9)),
                    ("10.0.0.0/24", Some(7)),
                    ("10.255.255.255/32", None),
                ],
                &["10.0.0.0-10.0.255.255 9", "10.1.0.0-10.255.255.254 5", "10.255.255.255-10.255.255.255"],
            ),
            (&[("192.0.2.0/32", None), ("192.0.2.1/32", None)], &["192.0.2.0-192.0.2.1"]),
            (&[("192.0.2.0/32", None), ("192.0.2.1/32", Some(1))], &["192.0.2.0-192.0.2.0", "192.0.2.1-192.0.2.1 1"]),
            (
                &[("0.0.0.0/0", None), ("::/0", Some(3)), ("255.255.255.255/32", Some(1))],
                &["0.0.0.0-255.255.255.255", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 3"],
            ),
            (
                &[("ffff::/16", Some(3)), ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", None)],
                &[
                    "ffff::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 3",
                    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                ],
            ),
        ];
        for (given, wanted) in table {
            assert_eq!(told(&elements(given)), wanted, "{given:?}");
        }
    }

    /// When an address leaves: never, at a moment, or it is not in at all.
    fn asked(elements: &Elements, address: IpAddr) -> Option<Option<Expiry>> {
        let holding = elements.iter().filter(|(network, _)| network.contains(address));
        holding.map(|(_, expiry)| *expiry).reduce(later)
    }

    /// Few addresses, so that most elements meet: the edges of both families among them.
    fn network() -> impl Strategy<Value = IpNetwork> {
        let v4 = (prop_oneof![Just(0u32), Just(u32::MAX - 63), Just(0x0a00_0000)], 0..64u32, 0..=32u8);
        let v4 = v4.prop_map(|(base, low, length)| {
            let network = ipnetwork::Ipv4Network::new(Ipv4Addr::from(base + low), length).unwrap();
            ipnetwork::Ipv4Network::new(network.network(), length).unwrap().into()
        });
        let v6 = (prop_oneof![Just(0u128), Just(u128::MAX - 63)], 0..64u128, prop_oneof![0..4u8, 118..=128u8]);
        let v6 = v6.prop_map(|(base, low, length)| {
            let network = ipnetwork::Ipv6Network::new(Ipv6Addr::from(base + low), length).unwrap();
            ipnetwork::Ipv6Network::new(network.network(), length).unwrap().into()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn ranges_say_what_the_elements_say(
            elements in prop::collection::btree_map(network(), prop::option::of((0..4u64).prop_map(Expiry)), 0..24),
        ) {
            let ranges = disjoint(&elements);
            for pair in ranges.windows(2) {
                let [(_, end, a), (start, _, b)] = pair else { unreachable!() };
                prop_assert!(end < start, "in order and apart: {ranges:?}");
                let touch = end.is_ipv4() == start.is_ipv4() && number(*end) + 1 == number(*start);
                prop_assert!(!(touch && a == b), "neighbours are one: {ranges:?}");
            }
            // What holds at every edge and beside it holds everywhere.
            let mut edges: Vec<IpAddr> = vec![Ipv4Addr::from(0).into(), Ipv6Addr::from(0).into()];
            for network in elements.keys() {
                edges.extend([network.network(), network.broadcast()]);
            }
            for (low, high, _) in &ranges {
                prop_assert!(low <= high && low.is_ipv4() == high.is_ipv4());
                edges.extend([*low, *high]);
            }
            for edge in edges {
                for step in [-1i8, 0, 1] {
                    let beside = match edge {
                        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add_signed(step.into()).into()),
                        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add_signed(step.into()).into()),
                    };
                    let holding: Vec<_> = ranges.iter().filter(|(low, high, _)| *low <= beside && beside <= *high).collect();
                    let told = holding.first().map(|(_, _, expiry)| *expiry);
                    prop_assert!(holding.len() <= 1);
                    prop_assert_eq!(told, asked(&elements, beside), "{}: {:?}", beside, ranges);
                }
            }
            // Made of whole prefixes again, it is the same: one canonical form.
            let again: Elements = ranges.iter().flat_map(|&(low, high, expiry)| {
                let mut parts = Vec::new();
                let (bits, to_network): (u32, fn(u128, u8) -> IpNetwork) = match low {
                    IpAddr::V4(_) => (32, |n, l| IpNetwork::new(v4_address(n), l).unwrap()),
                    IpAddr::V6(_) => (128, |n, l| IpNetwork::new(Ipv6Addr::from(n).into(), l).unwrap()),
                };
                let (mut at, end) = (number(low), number(high));
                loop {
                    let mut host = 0;
                    while host < bits && at & (u128::MAX >> (127 - host)) == 0
                        && end - at >= (u128::MAX >> (127 - host)) { host += 1; }
                    parts.push((to_network(at, (bits - host) as u8), expiry));
                    let size_less_one = if host == 0 { 0 } else { u128::MAX >> (128 - host) };
                    if end - at == size_less_one { break parts; }
                    at += size_less_one + 1;
                }
            }).collect();
            prop_assert_eq!(disjoint(&again), ranges);
        }
    }
}
