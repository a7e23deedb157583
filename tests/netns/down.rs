//! `wire down`: the host and every node are as they were, whatever they were.

use serde_json::json;

use crate::host::{Host, expect_silence};
use crate::world::{World, pluto, small};

/// Settings a host may have before `wire` comes, for itself and for every node, in the order they are written.
const PLAIN: &[(&str, &str)] = &[];
const LAX: &[(&str, &str)] = &[
    ("ipv4/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "2"),
    ("ipv4/conf/default/rp_filter", "2"),
    ("ipv4/conf/all/accept_redirects", "1"),
    ("ipv4/conf/all/send_redirects", "1"),
    ("ipv4/conf/all/accept_source_route", "1"),
    ("ipv4/conf/all/route_localnet", "1"),
    ("ipv4/conf/all/proxy_arp", "1"),
    ("ipv4/conf/default/proxy_arp", "1"),
    ("ipv4/conf/default/arp_ignore", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/all/accept_redirects", "1"),
    ("ipv6/conf/default/accept_ra", "2"),
];
const STRICT: &[(&str, &str)] = &[
    ("ipv4/conf/all/forwarding", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/conf/default/accept_source_route", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];
/// Somebody forwards by one device only; `all` says no.
const MIXED: &[(&str, &str)] = &[
    ("ipv4/conf/all/forwarding", "1"),
    ("ipv4/conf/default/forwarding", "0"),
    ("ipv4/conf/lo/forwarding", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "2"),
];

fn set(world: &World, host: &Host, settings: &[(&str, &str)]) {
    for node in ["host"].iter().chain(&world.nodes) {
        for (key, value) in settings {
            host.set_sysctl(node, key, value);
        }
    }
}

/// Before `up` and after `down` the dumps of the host and every node are equal, on a plain, a lax, a strict and a mixed
/// host; in between each wire is what it must be whatever the defaults were; and a second `down` does nothing.
#[test]
fn down_leaves_everything_as_it_was() {
    for (what, settings) in [("plain", PLAIN), ("lax", LAX), ("strict", STRICT), ("mixed", MIXED)] {
        let world = small();
        let host = world.host();
        set(&world, &host, settings);
        let pristine = host.dump();
        host.wire(&["up"]).expect(0);
        world.observe(&host);
        host.wire(&["audit"]).expect(0);
        host.wire(&["down"]).expect(0);
        host.dump().expect(&pristine, what);
        let monitors = world.monitors(&host);
        let again = host.wire(&["--json", "down"]).expect(0).json();
        assert_eq!(again["done"], json!([]), "{what}");
        expect_silence(&monitors, "the second down");
    }
}

/// The whole house comes and goes without a trace, in every namespace.
#[test]
fn down_of_the_whole_house() {
    let world = pluto();
    let host = world.host();
    let pristine = host.dump();
    for _ in 0..2 {
        host.wire(&["up"]).expect(0);
        host.wire(&["down"]).expect(0);
        host.dump().expect(&pristine, "down");
    }
}

/// The host's own settings are never touched while wired, but for the forwarding of its uplinks, nor are other people's rules;
/// its links and routes gain one each per host wire, and it gains one table.
#[test]
fn the_host_gains_one_link_and_one_route_per_host_wire() {
    for settings in [LAX, STRICT] {
        let world = pluto();
        let host = world.host();
        set(&world, &host, settings);
        let wires = |fact: &str| fact.contains("host-p") || fact.starts_with("host nft table inet wire /");
        let forwards = |fact: &str| fact.starts_with("host setting ipv4/conf/eth0/forwarding:");
        let own = |fact: &str| fact.starts_with("host ") && !wires(fact) && !forwards(fact);
        host.sh("nft add table ip mine; nft add chain ip mine input '{ type filter hook input priority 0; }'");
        let before = host.dump();
        host.wire(&["up"]).expect(0);
        let wired = host.dump();
        assert_eq!(host.sysctl("host", "ipv4/conf/eth0/forwarding"), "1");
        assert_eq!(host.sh("nft list tables"), "table ip mine\ntable inet wire\n");
        wired.only(own).expect(&before.only(own), "the host's own");
        let gained = |kind: &str| {
            let start = format!("host {kind} ");
            wired.0.difference(&before.0).filter(|fact| fact.starts_with(&start)).cloned().collect::<Vec<_>>()
        };
        assert_eq!(gained("link").len(), 2);
        assert_eq!(gained("address").len(), 2, "{:#?}", gained("address"));
        let routes = gained("route");
        assert_eq!(routes.iter().filter(|route| route.contains("\"table\":\"main\"")).count(), 2, "{routes:#?}");
    }
}

/// `down` of a target takes that away and leaves the rest, down to the last setting and rule, as if only the rest had been wired:
/// a node that no wire is left in has no rules any more, and another keeps them whole.
#[test]
fn down_takes_what_a_target_names() {
    let world = small();
    for (target, left) in [
        ("web", &["host-edge", "edge-shop-and-its-till", "vault"][..]),
        ("wire:edge-web", &["host-edge", "edge-shop-and-its-till", "shop-web-database", "vault"]),
        ("wire:host-edge", &["edge-web", "edge-shop-and-its-till", "shop-web-database", "vault"]),
        ("gates", &["shop-web-database", "vault"]),
        ("shops", &["host-edge"]),
        ("vault", &["host-edge", "edge-web", "edge-shop-and-its-till", "shop-web-database"]),
        ("host", &["edge-web", "edge-shop-and-its-till", "shop-web-database", "vault"]),
    ] {
        let (host, _) = world.up();
        let before = world.indexes(&host);
        host.wire(&["down", target]).expect(0);
        let other = world.host();
        other.wire(&[&["up"], left].concat()).expect(0);
        host.dump().expect(&other.dump(), target);
        for ((node, wire), index) in before.into_iter().filter(|((_, wire), _)| left.contains(wire)) {
            assert_eq!(host.link(node, wire)["ifindex"], index, "{wire} at {node} was left alone");
        }
    }
}

/// `down` takes away what it finds of `wire`'s also where the file no longer has it, where a node does not run any more and
/// where ends were broken, moved or renamed.
#[test]
fn down_of_a_broken_world() {
    let world = small();
    let breaks = [
        "ip -n web link del eth0",
        "ip -n web link set eth0 down; ip -n web link set eth0 name other",
        "ip -n web link set eth0 alias mine group default",
        "ip -n web link set eth0 address 02:00:00:00:00:01; ip -n edge link set edge-web alias ''",
        "ip -n web address add 198.51.100.1/24 dev eth0",
        "ip -n web link set eth0 netns vault",
        "ip -n edge route del default",
    ];
    for by in breaks {
        let host = world.host();
        let pristine = host.dump();
        host.wire(&["up"]).expect(0);
        host.sh(by);
        host.wire(&["down"]).expect(0);
        host.dump().expect(&pristine, by);
    }

    let host = world.host();
    let pristine = host.dump();
    host.wire(&["up"]).expect(0);
    host.topology(
        &world
            .topology
            .lines()
            .filter(|line| !line.contains("\"edge-web\""))
            .map(|l| format!("{l}\n"))
            .collect::<String>(),
    );
    host.wire(&["down"]).expect(0);
    host.dump().expect(&pristine, "down with a shorter file");
}

/// What somebody switched back on while the wires were up, stays on; what he made stricter, stays stricter.
#[test]
fn down_keeps_what_somebody_changed_meanwhile() {
    let world = small();
    let host = world.host();
    set(&world, &host, &[("ipv4/conf/all/accept_redirects", "0"), ("ipv4/conf/all/route_localnet", "1")]);
    host.wire(&["up"]).expect(0);
    host.set_sysctl("edge", "ipv4/conf/all/accept_redirects", "1");
    host.wire(&["down"]).expect(0);
    assert_eq!(host.sysctl("edge", "ipv4/conf/all/accept_redirects"), "1");
    assert_eq!(host.sysctl("edge", "ipv4/conf/all/route_localnet"), "1");
    assert_eq!(host.sysctl("web", "ipv4/conf/all/accept_redirects"), "0");
}

/// A node that came back meanwhile has settings of its own: what was remembered of the old one is not put on the new one.
#[test]
fn down_forgets_a_node_that_was_restarted() {
    let world = small();
    let host = world.host();
    host.set_sysctl("edge", "ipv4/conf/all/forwarding", "1");
    host.set_sysctl("edge", "ipv4/conf/all/route_localnet", "1");
    host.wire(&["up"]).expect(0);
    host.sh("ip netns del edge; ip netns add edge");
    host.set_sysctl("edge", "ipv4/conf/all/forwarding", "0");
    host.set_sysctl("edge", "ipv4/conf/all/route_localnet", "0");
    let pristine = host.dump().only(|fact| fact.starts_with("edge "));
    host.wire(&["up"]).expect(0);
    host.wire(&["down"]).expect(0);
    host.dump().only(|fact| fact.starts_with("edge ")).expect(&pristine, "the new edge");
}

/// What is remembered of a namespace goes with it: nodes that come back again and again leave nothing behind.
#[test]
fn what_is_remembered_goes_with_its_namespace() {
    let host = small().host();
    let remembered = || {
        let text = std::fs::read_to_string(host.path("/run/wire/remembered.json")).expect("something is remembered");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON").as_object().expect("an object").len()
    };
    host.wire(&["up"]).expect(0);
    let before = remembered();
    for _ in 0..3 {
        host.sh("ip netns del web; ip netns add web");
        host.wire(&["up"]).expect(0);
        assert_eq!(remembered(), before);
    }
    host.wire(&["down"]).expect(0);
    assert!(!host.path("/run/wire/remembered.json").exists());
}
