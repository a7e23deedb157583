//! What a file asks for, sentence by sentence of the contract.

use std::collections::BTreeMap;

use super::narrow;
use crate::parse;
use crate::rules::{Ranges, Rules};
use crate::state::{EVERY_END, End, Namespace, Route, Setting, State, WITH_IPV6};
use crate::target::Scope;
use crate::topology::{Device, Name, Topology};

/// Two hubs of one zone, of which `vpn` has clients, with these wires and tables.
fn file(wires: &str, tables: &str) -> Topology {
    let text = format!(
        "version = 1\nruntime = \"netns\"\nwire = [\n{wires}\n]\n[host]\nuplinks = [\"up0\"]\n[hub.edge]\nzone = \"z\"\n\
         [hub.vpn]\nzone = \"z\"\nclients = {{ prefix = \"10.100.0.0/24\", device = \"wg0\" }}\n\
         [module]\nhubs = [\"edge\", \"vpn\"]\nleaves = [\"a\", \"b\"]\n{tables}\n"
    );
    parse::topology(&text).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"))
}

/// A wire of the file: its name is its ends, its subnet 10.0.N.0/31.
fn wire(nth: usize, from: &str, to: &str, more: &str) -> String {
    let subnet = if more.contains("subnet =") { String::new() } else { format!("subnet = \"10.0.{nth}.0/31\", ") };
    format!("{{ name = \"{from}-{to}\", ends = [\"{from}\", \"{to}\"], {subnet}allow = [\"tcp/80\"]{more} }},\n")
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn up(topology: &Topology, scope: &Scope, seen: &State) -> State {
    super::up(topology, &Rules::of(topology, &Ranges::new()), scope, seen)
}

fn down(seen: &State) -> State {
    let everything = Scope { everything: true, ..Scope::default() };
    super::down(&everything, seen)
}

fn whole(topology: &Topology) -> State {
    up(topology, &Scope::everything(topology), &State::default())
}

fn of<'a>(state: &'a State, node: &str, wire: &str) -> &'a End {
    &state.namespaces[node].ends[wire]
}

/// The routes that a file asks for beyond each end's own subnet, as `NODE WIRE: ROUTE`.
fn routes(topology: &Topology) -> Vec<String> {
    let state = whole(topology);
    let ends =
        state.namespaces.iter().flat_map(|(node, here)| here.ends.iter().map(move |(wire, end)| (node, wire, end)));
    let beyond = |end: &End| end.routes.iter().filter(|route| route.via.is_some()).copied().collect();
    ends.flat_map(|(node, wire, end)| {
        let routes: Vec<Route> = beyond(end);
        routes.into_iter().map(move |route| format!("{node} {wire}: {route}"))
    })
    .collect()
}

#[test]
fn routes_are_those_of_the_contract() {
    let host_edge = &wire(1, "host", "edge", "");
    let edge_a = &wire(2, "edge", "a", "");
    let egress = "[node.a]\negress = [\"tcp/443\"]";
    let cases: [(&str, String, &str, &[&str]); 14] = [
        ("connected and nothing more", [edge_a, &wire(3, "a", "b", "")[..]].concat(), "", &[]),
        ("a hub over its host wire", host_edge.clone(), "", &["edge host-edge: default via 10.0.1.0"]),
        (
            "a host wire that publishes",
            wire(1, "host", "a", ", publish = [\"tcp/80\"]"),
            "",
            &["a host-a: default via 10.0.1.0"],
        ),
        ("a host wire that does not", wire(1, "host", "a", ""), "", &[]),
        (
            "a leaf that publishes, over the host wire before its hub's",
            [edge_a, &wire(3, "host", "a", ", publish = [\"tcp/80\"]")[..]].concat(),
            egress,
            &["a host-a: default via 10.0.3.0"],
        ),
        ("a leaf with egress over its hub wire", edge_a.clone(), egress, &["a edge-a: default via 10.0.2.0"]),
        (
            "the first of the file, of two hubs",
            [&wire(3, "vpn", "a", "")[..], edge_a].concat(),
            egress,
            &["a vpn-a: default via 10.0.3.0", "a vpn-a: 10.100.0.0/24 via 10.0.3.0"],
        ),
        (
            "its hub's before one to the host",
            [&wire(3, "host", "a", "")[..], edge_a].concat(),
            egress,
            &["a edge-a: default via 10.0.2.0"],
        ),
        (
            "else over its host wire, never over a leaf",
            [&wire(2, "a", "b", "")[..], &wire(3, "host", "a", "")].concat(),
            egress,
            &["a host-a: default via 10.0.3.0"],
        ),
        (
            "a leaf that a hub forwards to",
            [host_edge, &edge_a[..]].concat(),
            "[[hub.edge.forward]]\nport = \"tcp/80\"\nto = \"a:80\"",
            &["a edge-a: default via 10.0.2.0", "edge host-edge: default via 10.0.1.0"],
        ),
        (
            "back to the clients of a hub, from its leaves alone",
            [wire(1, "host", "vpn", ""), wire(2, "vpn", "a", ""), wire(3, "vpn", "edge", "")].concat(),
            "",
            &["a vpn-a: 10.100.0.0/24 via 10.0.2.0", "vpn host-vpn: default via 10.0.1.0"],
        ),
        (
            "a sharer's egress is that of the namespace it lives in",
            edge_a.clone(),
            "more = [\"guest\"]\n[node.guest]\nshares = \"a\"\negress = [\"tcp/443\"]",
            &["a edge-a: default via 10.0.2.0"],
        ),
        (
            "IPv6 where both have it",
            wire(2, "edge", "a", ", subnet6 = \"fd00::/127\""),
            egress,
            &["a edge-a: default via 10.0.2.0", "a edge-a: default via fd00::"],
        ),
        (
            "no IPv6 over a wire that is not the way out",
            [edge_a, &wire(3, "vpn", "a", ", subnet6 = \"fd00::/127\"")[..]].concat(),
            egress,
            &["a edge-a: default via 10.0.2.0", "a vpn-a: 10.100.0.0/24 via 10.0.3.0"],
        ),
    ];
    for (what, wires, tables, expected) in cases {
        assert_eq!(routes(&file(&wires, tables)), expected, "{what}");
    }
}

#[test]
fn an_end_is_as_the_file_says() {
    let topology = file(
        &[
            wire(1, "edge", "a", ", mtu = 1400"),
            wire(2, "edge", "b", ", subnet = \"10.0.2.0/30\", subnet6 = \"fd00::/127\""),
            wire(3, "a", "b", ", ifname = [\"left\", \"a-b\"]"),
            "{ name = \"a-name-of-more-than-fifteen\", ends = [\"vpn\", \"a\"], subnet = \"10.0.4.0/31\" },".to_owned(),
        ]
        .concat(),
        "",
    );
    let state = whole(&topology);
    let addresses = |node: &str, wire: &str| -> Vec<String> {
        of(&state, node, wire).addresses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(addresses("edge", "edge-a"), ["10.0.1.0/31"]);
    assert_eq!(addresses("a", "edge-a"), ["10.0.1.1/31"]);
    assert_eq!(
        addresses("edge", "edge-b"),
        ["10.0.2.1/30", "fd00::/127"],
        "the first address of a /30 stands for all of it"
    );
    assert_eq!(addresses("b", "edge-b"), ["10.0.2.2/30", "fd00::1/127"]);
    assert_eq!(of(&state, "a", "edge-a").mtu, 1400);
    assert_eq!(of(&state, "b", "edge-b").mtu, 1500);

    let called = |node: &str, wire: &str| (of(&state, node, wire).device.to_string(), of(&state, node, wire).altname);
    assert_eq!(called("edge", "edge-a"), ("edge-a".to_owned(), false));
    assert_eq!(called("a", "edge-a"), ("eth0".to_owned(), true));
    assert_eq!(called("a", "a-b"), ("left".to_owned(), true));
    assert_eq!(called("b", "a-b"), ("a-b".to_owned(), false), "no altname where the device has the name already");
    let long = "a-name-of-more-than-fifteen";
    assert_eq!(called("vpn", long), (Device::for_wire(&name(long)).to_string(), true));

    for (node, wire, far) in [("a", "edge-a", "edge"), ("edge", "edge-a", "a")] {
        let end = of(&state, node, wire);
        assert_eq!(end.far, Some(name(far)));
        assert!(end.up && end.arp && !end.enslaved && end.marks.group && end.marks.alias);
    }
    let mac = |node: &str| of(&state, node, "edge-a").marks.mac;
    assert_ne!(mac("a"), mac("edge"));
}

#[test]
fn ipv6_is_off_without_a_subnet_and_strict_with_one() {
    let topology = file(&[wire(1, "edge", "a", ""), wire(2, "edge", "b", ", subnet6 = \"fd00::/127\"")].concat(), "");
    let state = whole(&topology);
    let mut without: BTreeMap<Setting, i32> = EVERY_END.into();
    let mut with = without.clone();
    without.insert(Setting::DisableIpv6, 1);
    with.extend(WITH_IPV6);
    assert_eq!(of(&state, "a", "edge-a").settings, without);
    assert_eq!(of(&state, "b", "edge-b").settings, with);
    assert_eq!((with[&Setting::DisableIpv6], with[&Setting::AcceptRa], with[&Setting::Forwarding6]), (0, 0, 0));
}

/// What namespaces are set to, and what they were before.
fn seen(now: &[(Setting, i32)], before: &[(Setting, i32)]) -> State {
    let namespace = Namespace {
        settings: now.iter().copied().collect(),
        remembered: before.iter().copied().collect(),
        ..Namespace::default()
    };
    State { namespaces: [(name("a"), namespace)].into(), ..State::default() }
}

#[test]
fn a_namespace_with_wires_undoes_none_of_their_settings() {
    use Setting::{AcceptRedirects, Forwarding, RouteLocalnet, RpFilter};
    let topology = file(&wire(1, "edge", "a", ""), "");
    let everything = Scope::everything(&topology);
    let now = [(Forwarding, 1), (AcceptRedirects, 1), (RpFilter, 2), (RouteLocalnet, 1)];
    let wanted = up(&topology, &everything, &seen(&now, &[]));
    let strict = [(Forwarding, 0), (AcceptRedirects, 0), (RpFilter, 1), (RouteLocalnet, 0)];
    assert_eq!(wanted.namespaces["a"].settings, strict.into());
    assert_eq!(wanted.namespaces["edge"].settings, BTreeMap::new(), "nothing is asked of one that was not seen");
    let wanted = up(&topology, &everything, &seen(&[(RpFilter, 0)], &[]));
    assert_eq!(wanted.namespaces["a"].settings, [(RpFilter, 0)].into(), "0 does not loosen a device's 1");
}

#[test]
fn down_restores_what_nobody_else_has_changed() {
    use Setting::{AcceptRedirects, Forwarding, RpFilter};
    let now = [(Forwarding, 0), (AcceptRedirects, 1), (RpFilter, 0)];
    let before = [(Forwarding, 1), (AcceptRedirects, 1), (RpFilter, 2)];
    let wanted = down(&seen(&now, &before));
    // `accept_redirects` and `rp_filter` are not what wire had set them to.
    assert_eq!(wanted.namespaces["a"].settings, [(Forwarding, 1)].into());
    assert!(wanted.namespaces["a"].ends.is_empty());
}

/// Wires edge-a, edge-b and a-b of the file, and two that it has struck: one in all three nodes' reach, one of `b` alone.
fn with_struck_wires() -> (Topology, State) {
    let wires = [wire(1, "edge", "a", ""), wire(2, "edge", "b", ""), wire(3, "a", "b", "")].concat();
    let topology = file(&wires, "");
    let mut state = whole(&topology);
    let end = of(&state, "a", "edge-a").clone();
    for (node, struck) in [("edge", "was-edge-a"), ("a", "was-edge-a"), ("b", "was-b")] {
        let namespace = state.namespaces.get_mut(node).unwrap();
        namespace.ends.insert(name(struck), end.clone());
        namespace.strays = vec![Device::new("stray").unwrap()];
        assert!(namespace.table.is_some());
        namespace.remembered = [(Setting::Forwarding, 1)].into();
        namespace.settings = [(Setting::Forwarding, 0)].into();
    }
    (topology, state)
}

#[test]
fn a_scope_takes_what_ends_there_and_no_more() {
    let (topology, state) = with_struck_wires();
    let cases: [(&[&str], [&str; 3]); 6] = [
        (&[], ["edge-a edge-b was-edge-a +", "a-b edge-a was-edge-a +", "a-b edge-b was-b +"]),
        (&["node:a"], ["edge-a", "a-b edge-a was-edge-a +", "a-b"]),
        (&["node:b"], ["edge-b", "a-b", "a-b edge-b was-b +"]),
        (&["leaves"], ["edge-a edge-b", "a-b edge-a was-edge-a +", "a-b edge-b was-b +"]),
        (&["edge-a"], ["edge-a", "edge-a", ""]),
        (&["edge-a", "a-b"], ["edge-a", "a-b edge-a", "a-b"]),
    ];
    for (targets, expected) in cases {
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        let scope = Scope::of(&topology, &targets).unwrap();
        let narrowed = narrow(state.clone(), &scope);
        let left = ["edge", "a", "b"].map(|node| {
            let here = &narrowed.namespaces[node];
            let strays = here.strays.iter().map(|_| "+");
            here.ends.keys().map(Name::as_str).chain(strays).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(left, expected, "{targets:?}");
        for node in ["edge", "a", "b"] {
            let (all, here) = (&state.namespaces[node], &narrowed.namespaces[node]);
            // A namespace that keeps a wire keeps the settings that the wire needs.
            let keeps = here.ends.len() < all.ends.len();
            assert_eq!((here.remembered.is_empty(), here.beyond), (keeps, keeps), "{targets:?}: {node}");
            assert_eq!(down(&narrowed).namespaces[node].table.is_some(), keeps, "{targets:?}: {node}");
        }
        let wanted = up(&topology, &scope, &narrowed);
        let asked = wanted.namespaces.values().flat_map(|here| here.ends.keys());
        assert!(asked.clone().all(|wire| scope.wires.contains(wire)), "{targets:?}");
        assert_eq!(asked.count(), 2 * scope.wires.len(), "{targets:?}: every wire with both its ends");
    }
}

/// The ends that forward, as `NODE WIRE`, and the other devices that are made to, as `NODE DEVICE`, where none does yet.
fn forwarding(topology: &Topology) -> Vec<String> {
    let mut seen = State::default();
    for node in super::namespaces(topology) {
        let devices = ["all", "default", "wg0", "up0", "up1", "lo"].map(|device| Device::new(device).unwrap());
        let others = devices.map(|device| ((device, Setting::Forwarding), 0)).into();
        seen.namespaces.insert(node, Namespace { others, ..Namespace::default() });
    }
    let wanted = up(topology, &Scope::everything(topology), &seen);
    let mut found = Vec::new();
    for (node, namespace) in &wanted.namespaces {
        let ends = namespace.ends.iter().filter(|(_, end)| end.settings[&Setting::Forwarding] == 1);
        found.extend(ends.map(|(wire, _)| format!("{node} {wire}")));
        let others = namespace.others.iter().filter(|(_, value)| **value == 1);
        found.extend(others.map(|((device, _), _)| format!("{node} {device}")));
    }
    found
}

#[test]
fn who_passes_nothing_does_not_forward() {
    let host_edge = &wire(1, "host", "edge", "")[..];
    let edge_a = &wire(2, "edge", "a", "")[..];
    let egress = "[node.a]\negress = [\"tcp/443\"]";
    let published = &wire(1, "host", "edge", ", publish = [\"tcp/80\"]")[..];
    let cases: [(&str, String, &str, &[&str]); 8] = [
        ("flows between neighbours", [edge_a, &wire(3, "a", "b", "")].concat(), "", &[]),
        ("a host wire that passes nothing", [host_edge, edge_a].concat(), "", &[]),
        ("what is published", published.to_owned(), "", &["host host-edge", "host up0"]),
        (
            "on another device",
            wire(1, "host", "edge", ", publish = [{ flow = \"tcp/80\", on = \"up1\" }]"),
            "",
            &["host host-edge", "host up0", "host up1"],
        ),
        (
            "a leaf's egress, through its hub and the host",
            [host_edge, edge_a, &wire(3, "edge", "b", "")].concat(),
            egress,
            &["edge edge-a", "edge host-edge", "host host-edge", "host up0"],
        ),
        ("egress that ends at a hub", edge_a.to_owned(), egress, &[]),
        (
            "a forward of a hub",
            [host_edge, edge_a].concat(),
            "[[hub.edge.forward]]\nport = \"tcp/80\"\nto = \"a:80\"",
            &["edge edge-a", "edge host-edge", "host host-edge", "host up0"],
        ),
        (
            "the clients of a hub, by their device and those that come later",
            [wire(1, "host", "vpn", ""), wire(2, "vpn", "a", "")].concat(),
            "",
            &["vpn vpn-a", "vpn default", "vpn wg0"],
        ),
    ];
    for (what, wires, tables, expected) in cases {
        let mut found = forwarding(&file(&wires, tables));
        let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn every_node_touched_has_its_rules_whole() {
    let topology = file(&[wire(1, "edge", "a", ""), wire(2, "edge", "b", ""), wire(3, "a", "b", "")].concat(), "");
    let with_rules = |targets: &[&str]| {
        let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
        let wanted = up(&topology, &Scope::of(&topology, &targets).unwrap(), &State::default());
        let tables = wanted.namespaces.into_iter().filter_map(|(node, namespace)| Some((node, namespace.table?)));
        let chains =
            |node: &str| [("edge", 2), ("a", 2), ("b", 2), ("vpn", 0)].into_iter().find(|known| known.0 == node);
        tables
            .map(|(node, table)| {
                let of_wires = table.chains.keys().filter(|chain| chain.starts_with("in.")).count();
                assert_eq!(Some(of_wires), chains(node.as_str()).map(|known| known.1), "{node}");
                node.to_string()
            })
            .collect::<Vec<String>>()
    };
    assert_eq!(with_rules(&["edge-a"]), ["a", "edge"]);
    assert_eq!(with_rules(&["node:a"]), ["a", "b", "edge"]);
    let everything = up(&topology, &Scope::everything(&topology), &State::default());
    assert!(everything.namespaces.values().all(|namespace| namespace.table.is_some()), "the host has no wire");
    assert!(!everything.namespaces.contains_key("host"));
}

#[test]
fn forwarding_of_others_is_put_back_unless_somebody_wants_it() {
    let topology = file(&wire(1, "host", "edge", ", publish = [\"tcp/80\"]"), "");
    let everything = Scope::everything(&topology);
    let place = |device: &str| (Device::new(device).unwrap(), Setting::Forwarding);
    let seen = |now: i32, before: Option<i32>, beyond: bool| {
        let namespace = Namespace {
            others: [(place("up0"), now), (place("all"), 0)].into(),
            others_remembered: before.map(|before| (place("up0"), before)).into_iter().collect(),
            table: Some(std::sync::Arc::default()),
            beyond,
            ..Namespace::default()
        };
        State { namespaces: [(Name::host(), namespace)].into(), ..State::default() }
    };
    let asked = |state: &State| state.namespaces["host"].others.get(&place("up0")).copied();
    for (now, before) in [(0, None), (1, None), (1, Some(0)), (0, Some(0))] {
        assert_eq!(asked(&up(&topology, &everything, &seen(now, before, false))), Some(1), "{now} {before:?}");
    }
    let unneeded = file(&wire(1, "host", "edge", ""), "");
    assert_eq!(asked(&up(&unneeded, &everything, &seen(1, Some(0), false))), Some(0));
    assert_eq!(asked(&up(&unneeded, &everything, &seen(1, None, false))), None, "somebody else's");
    assert_eq!(asked(&down(&seen(1, Some(0), false))), Some(0));
    assert_eq!(asked(&down(&seen(0, Some(0), false))), None, "switched off meanwhile");
    let kept = down(&seen(1, Some(0), true));
    assert_eq!((asked(&kept), kept.namespaces["host"].table.is_some()), (None, true), "other wires need it");
    assert!(down(&seen(1, Some(0), false)).namespaces["host"].table.is_none());
}
