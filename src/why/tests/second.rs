//! What `wire why` says against a second reading of the file, which shares no line with the program: the one that the truth
//! tables of `tests/netns` are computed by. Every two nodes, every port that is declared at either or at none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::{ask, parsed};
use crate::naive::{Naive, Place, Verdict, What};
use crate::topology::HOST;

type Addresses = BTreeMap<Place, BTreeSet<IpAddr>>;

/// Whether anybody at one place reaches another, by whatever addresses of a family. A hub asks for its clients as well.
fn may(naive: &Naive, addresses: &Addresses, [from, to]: [&Place; 2], what: What, ipv4: bool) -> bool {
    let asking = match from {
        Place::Node(hub) => vec![from.clone(), Place::Client(hub.clone())],
        _ => vec![from.clone()],
    };
    // What is published is dialled at the host, whose own addresses of IPv6 the file does not speak of.
    let (dialled, ipv4_only) = match (from, to) {
        (Place::Outside(_), Place::Node(node)) => (Place::Node(HOST.to_owned()), node == HOST),
        _ => (to.clone(), false),
    };
    let alike = |address: &&IpAddr| address.is_ipv4() == ipv4 && (ipv4 || !ipv4_only || what == What::Echo);
    asking.iter().any(|from| {
        let sources: Vec<Option<IpAddr>> = match from {
            Place::Node(_) => vec![None],
            _ => addresses.get(from).into_iter().flatten().filter(alike).map(|source| Some(*source)).collect(),
        };
        // A node dials the host at a wire's end; what else reaches it over wires in audit mode is more than `why` speaks of.
        let at_wires = matches!(from, Place::Node(_) | Place::Client(_));
        let here = addresses.get(&dialled).into_iter().flatten().filter(alike);
        here.filter(|address| !at_wires || !naive.is_the_hosts(**address)).any(|address| {
            let passes = |source: &Option<IpAddr>| match naive.judge(from, *source, *address, what) {
                Verdict::Pass { at, .. } => at == *to,
                Verdict::Drop => false,
            };
            sources.iter().any(passes)
        })
    })
}

/// The ports at a node that what is sent to a port of the host may end at.
fn inner(naive: &Naive, node: &Place, what: What) -> BTreeSet<u16> {
    let Place::Node(node) = node else { return BTreeSet::new() };
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let wires = naive.wires(node).into_iter().filter(|(wire, end)| wire.ends[1 - end] == HOST);
    let published = wires.flat_map(|(wire, _)| &wire.publish).filter(|publish| publish.flow.is(what, any));
    let mut ports: BTreeSet<u16> = published.map(|publish| publish.flow.inner(what.port())).collect();
    let forwards = naive.file.hub.values().flat_map(|hub| &hub.forward);
    let forwarded = forwards.filter(|forward| naive.space(forward.node()) == *node && forward.port.is(what, any));
    ports.extend(forwarded.map(|forward| forward.inner(what.port())));
    ports
}

/// Whether a port of the host is handed on only where it comes in by one device, or from some.
fn is_narrow(naive: &Naive, what: What) -> bool {
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let mut publish = naive.file.wire.iter().flat_map(|wire| &wire.publish);
    publish.any(|flow| flow.flow.is(what, any) && (flow.on.is_some() || flow.from.is_some()))
}

/// Asks everything of one file, and says how much was allowed, and what the two do not agree on.
fn ask_all(text: &str) -> (usize, Vec<String>) {
    let (topology, naive) = (parsed(text), Naive::read(text));
    let addresses = naive.addresses();
    let is_outside = |place: &&Place| matches!(place, Place::Outside(_));
    let places = naive.places();
    // All of the outside is one word.
    let mut parties: BTreeMap<String, Vec<&Place>> = BTreeMap::new();
    for place in &places {
        let word = match place {
            Place::Node(node) => node.clone(),
            Place::Outside(_) => "outside".to_owned(),
            Place::Client(_) => continue,
        };
        parties.entry(word).or_default().push(place);
    }
    let at_host = naive.ports(&Place::Node(HOST.to_owned()));
    let mut allowed = 0;
    let mut differ = Vec::new();
    for (from, askers) in &parties {
        for (to, asked) in parties.iter().filter(|(to, _)| *to != from) {
            let reaches = |what: What, ipv4: bool| {
                let pairs = askers.iter().flat_map(|from| asked.iter().map(move |to| [*from, *to]));
                pairs.into_iter().any(|pair| may(&naive, &addresses, pair, what, ipv4))
            };
            let from_outside = askers.iter().any(is_outside);
            let mut ports = naive.ports(asked[0]);
            ports.extend(at_host.iter().filter(|_| from_outside));
            let mut ask = |words: String, expected: bool| {
                let answer = ask(&topology, &format!("{from} {to}:{words}"));
                // What a set holds may change, and `why` says so.
                let may_change = answer.allowed && answer.reason.contains('@');
                if answer.allowed != expected && !may_change {
                    differ.push(format!("{from} {to}:{words}: not {expected}: {}", answer.reason));
                }
                allowed += usize::from(expected);
            };
            for port in ports {
                for of in [What::Tcp, What::Udp] {
                    // Where a port is published for some, `why` says of the host what holds for others.
                    if from_outside && to == HOST && is_narrow(&naive, of(port)) {
                        continue;
                    }
                    // Of a published port both numbers are understood.
                    let ends_here = |outer: &&u16| inner(&naive, asked[0], of(**outer)).contains(&port);
                    let moved = from_outside && at_host.iter().filter(ends_here).any(|outer| reaches(of(*outer), true));
                    let what = of(port);
                    ask(what.to_string(), moved || reaches(what, true) || reaches(what, false));
                }
            }
            ask("icmp/echo-request".to_owned(), reaches(What::Echo, true));
            ask("icmpv6/echo-request".to_owned(), reaches(What::Echo, false));
        }
    }
    (allowed, differ)
}

#[test]
fn a_second_reading_of_every_house_says_the_same() {
    for (text, least) in [
        (include_str!("../../../topology/pluto.toml"), 29),
        (include_str!("../../../topology/home-server.toml"), 100),
        (include_str!("../../../topology/svc.toml"), 70),
        (include_str!("../../../topology/own-private-cloud.toml"), 70),
        (include_str!("../../../topology/chown-me.toml"), 100),
    ] {
        let (allowed, differ) = ask_all(text);
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        assert!(allowed >= least, "{allowed}");
    }
}

#[test]
fn a_second_reading_of_every_generated_case_says_the_same() {
    let mut all = Vec::new();
    for (name, text) in crate::cases::chains().into_iter().flat_map(|chain| chain.cases) {
        let (_, differ) = ask_all(&text);
        all.extend(differ.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
