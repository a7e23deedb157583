//! What is not `wire`'s: named when it stands in the way, never touched, and the cause of no other wire's failure.

use nftables::batch::Batch;
use nftables::schema::{Chain, NfListObject, Rule, Table};
use nftables::stmt::{Counter, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::Value;

use crate::host::{Host, text};
use crate::repair::deviation;
use crate::world::{World, small};

/// What is the stranger's of a dump: what was there before `up` came.
fn untouched(host: &Host, before: &crate::host::Dump, what: &str) {
    let after = host.dump();
    let lost: Vec<_> = before.0.difference(&after.0).filter(|fact| !fact.contains(" setting ")).collect();
    assert!(lost.is_empty(), "{what}: gone or changed: {lost:#?}");
}

/// A device of the same name, or a foreign network that overlaps the wire's: that wire fails alone and says why, the others
/// are wired, and the stranger is left as he was, also by `down`. When he goes, the next `up` makes the wire.
#[test]
fn a_stranger_in_the_way_fails_one_wire() {
    // By what he comes and goes, where he stands in the way, of which wire, and the kind of deviation.
    let strangers = [
        (
            "ip link add host-edge type veth peer name x netns lan",
            "ip link del host-edge",
            ("host", "host-edge", "taken"),
        ),
        ("ip -n edge link add edge-web type bridge", "ip -n edge link del edge-web", ("edge", "edge-web", "taken")),
        ("ip -n web link add eth0 type bridge", "ip -n web link del eth0", ("web", "edge-web", "taken")),
        (
            "ip -n shop link add eth0 type veth peer name eth1",
            "ip -n shop link del eth0",
            ("shop", "edge-shop-and-its-till", "taken"),
        ),
        (
            "ip -n web link add x type bridge; ip -n web link property add dev x altname shop-web-database",
            "ip -n web link del x",
            ("web", "shop-web-database", "taken"),
        ),
        (
            "ip route add 192.168.100.0/24 via 192.0.2.1",
            "ip route del 192.168.100.0/24",
            ("host", "host-edge", "overlap"),
        ),
        (
            "ip route add 192.168.100.1/32 via 192.0.2.1",
            "ip route del 192.168.100.1/32",
            ("host", "host-edge", "overlap"),
        ),
        (
            "ip address add 192.168.100.1/24 dev eth0",
            "ip address del 192.168.100.1/24 dev eth0",
            ("host", "host-edge", "overlap"),
        ),
        (
            "ip address add 192.168.100.0/32 dev lo",
            "ip address del 192.168.100.0/32 dev lo",
            ("host", "host-edge", "overlap"),
        ),
    ];
    let world = small();
    for (by, undo, (node, wire, kind)) in strangers {
        let host = world.host();
        let clean = host.dump();
        host.sh(by);
        let before = host.dump();
        let up = host.wire(&["--json", "up"]).expect(1).json();
        let failed = up["failed"].as_array().expect("failed");
        let about = |failure: &Value| failure.to_string().contains(wire) && !text(&failure["error"]).is_empty();
        assert!(!failed.is_empty() && failed.iter().all(about), "{by}: {up:#}");
        untouched(&host, &before, by);
        for other in world.wires.iter().filter(|other| other.name != wire) {
            assert!(world.works(&host, other), "{by}: {} is wired", other.name);
        }
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        let message = text(&deviation(&audit, node, wire, kind)["message"]);
        assert!(message.contains(wire) && message.contains(node), "{message}");
        let told = host.wire(&["up"]).expect(1);
        assert!(told.stderr.contains(wire) && told.stderr.contains(node), "{by}: {}", told.stderr);
        untouched(&host, &before, by);
        host.wire(&["down"]).expect(0);
        host.dump().expect(&before, by);

        host.sh(undo);
        host.dump().expect(&clean, "the stranger has gone");
        host.wire(&["up"]).expect(0);
        world.observe(&host);
    }
}

/// Strangers who come after `up`: an address on our device stands in the way of its wire alone.
#[test]
fn a_foreign_address_is_named_and_left() {
    let world = small();
    for (by, node, wire) in [
        ("ip -n web address add 198.51.100.7/24 dev eth0", "web", "edge-web"),
        ("ip address add 198.51.100.7/32 dev host-edge", "host", "host-edge"),
        ("ip -n shop address add 2001:db8::1/64 dev shop-web-database", "shop", "shop-web-database"),
    ] {
        let (host, _) = world.up();
        host.sh(by);
        let before = host.dump();
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        let message = text(&deviation(&audit, node, wire, "foreign-address")["message"]);
        assert!(message.contains(wire) && message.contains(node), "{message}");
        let up = host.wire(&["--json", "up"]).expect(1).json();
        assert!(up["failed"].to_string().contains(wire), "{up:#}");
        host.dump().expect(&before, by);
        host.wire(&["audit"]).expect(3);

        host.sh("ip -n edge link set edge-shop-and-its-till down");
        host.wire(&["up"]).expect(1);
        host.dump().expect(&before, "another wire is mended all the same");
    }
}

/// A route of somebody else's over our device and a device of somebody else's in a node are deviations that `up` leaves
/// alone, and no reason for it to fail.
#[test]
fn foreign_routes_and_devices_are_named_and_left() {
    let world = small();
    for (by, node, wire, kind, name) in [
        ("ip -n web route add 198.51.100.0/24 via 172.16.1.0", "web", "edge-web", "foreign-route", "198.51.100.0/24"),
        ("ip -n web route add default via 172.16.1.0", "web", "edge-web", "foreign-route", "default"),
        ("ip route add 198.51.100.0/24 via 192.168.100.1", "host", "host-edge", "foreign-route", "198.51.100.0/24"),
        ("ip -n web link add podman1 type bridge", "web", "", "foreign-device", "podman1"),
        ("ip -n edge link add wg7 type bridge", "edge", "", "foreign-device", "wg7"),
        ("ip -n vault link add eth0 type bridge", "vault", "", "network", "eth0"),
        ("ip link add host-b type veth peer name eth0 netns vault", "vault", "", "network", "eth0"),
    ] {
        let (host, _) = world.up();
        host.sh(by);
        let before = host.dump();
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        let message = text(&deviation(&audit, node, wire, kind)["message"]);
        assert!(message.contains(node) && message.contains(name), "{message}");
        host.wire(&["up"]).expect(0);
        host.dump().expect(&before, by);
        host.wire(&["audit"]).expect(3);
        host.wire(&["down"]).expect(0);
        assert!(kind.ends_with("route") || host.links(node).iter().any(|link| link == name), "{by}: {name} stays");
    }
    let (host, _) = world.up();
    host.sh("ip link add docker0 type bridge; ip route add 203.0.113.0/24 via 192.0.2.1");
    host.wire(&["audit"]).expect(0);
}

/// A hub's own tunnel, the device of its `clients`, is no stranger.
#[test]
fn the_device_of_a_hubs_clients_is_expected() {
    let (host, _) = small().up();
    host.sh(
        "ip -n edge link add wg0 type bridge; ip -n edge address add 10.100.0.1/24 dev wg0; ip -n edge link set wg0 up",
    );
    host.wire(&["audit"]).expect(0);
    let before = host.dump();
    host.wire(&["up"]).expect(0);
    host.dump().expect(&before, "up");
}

/// Our device that lost every mark is a stranger by now: it is named, and left alone.
#[test]
fn a_device_without_any_mark_is_a_stranger() {
    let (host, _) = small().up();
    host.sh("ip -n web link set eth0 group default alias '' address 02:00:00:00:00:01");
    host.sh("ip -n edge link set edge-web group default alias '' address 02:00:00:00:00:02");
    let before = host.dump();
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    deviation(&audit, "web", "edge-web", "taken");
    deviation(&audit, "edge", "edge-web", "taken");
    host.wire(&["up"]).expect(1);
    host.dump().expect(&before, "up");
}

/// Two nodes of the file in one namespace, or a node in the host's own, are refused; their wires alone fail.
#[test]
fn one_namespace_is_one_node() {
    let world = World { nodes: vec!["edge", "web", "vault"], ..small() };
    let host = world.host();
    host.sh("touch /run/netns/shop; mount --bind /run/netns/web /run/netns/shop");
    let before = host.dump();
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    let named = audit["deviations"].as_array().expect("deviations").iter().filter(|d| d["kind"] == "refused");
    let named: Vec<String> = named.map(Value::to_string).collect();
    assert!(named.iter().any(|d| d.contains("web") && d.contains("shop")), "{audit:#}");
    host.wire(&["up"]).expect(1);
    assert!(host.links("web").len() == 1, "neither is wired: {:?}", host.links("web"));
    host.wire(&["down"]).expect(0);
    host.dump().expect(&before, "down");

    let host = world.host();
    host.sh("touch /run/netns/shop; mount --bind /proc/self/ns/net /run/netns/shop");
    let before = host.links("host");
    let up = host.wire(&["up"]).expect(1);
    assert!(up.stderr.contains("shop") && up.stderr.contains("host"), "{}", up.stderr);
    let after: Vec<_> = host.links("host").into_iter().filter(|link| link != "host-edge").collect();
    assert_eq!(after, before);
}

/// Other people's tables, as a firewall, netavark or fail2ban have them.
const OTHERS: &str = "
table inet firewall {
    set known { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.7 } }
    chain input {
        type filter hook input priority 0; policy accept;
        counter
        ip saddr @known tcp dport 22 accept
        iifname wire counter drop
    }
}
table ip nat {
    chain post {
        type nat hook postrouting priority 100;
        oifname eth0 masquerade
    }
}
table ip wire {
    chain input { type filter hook input priority 5; policy accept; }
}
table inet wireless {
    comment \"wire\"
    chain in.edge-web { accept; }
}
";

/// Every table of somebody else's at a node, with its handles.
fn tables_of_others(host: &Host, node: &str) -> Vec<String> {
    let tables = host.run(node, &["nft", "list", "tables"]).expect(0).stdout;
    let others = tables.lines().filter(|table| *table != "table inet wire");
    let list = |table: &str| {
        let words: Vec<&str> = ["nft", "-a", "-s", "list"].into_iter().chain(table.split(' ')).collect();
        host.run(node, &words).expect(0).stdout
    };
    others.map(list).collect()
}

/// Other people's rules are as they were to the last handle, whatever `wire` does: `up`, another, a repair, `down`; and then
/// there are only theirs.
#[test]
fn rules_of_others_stay() {
    let world = small();
    let host = world.host();
    host.write("/run/rules", OTHERS);
    let nodes = ["host", "edge", "vault"];
    for node in nodes {
        host.run(node, &["nft", "-f", "/run/rules"]).expect(0);
    }
    let before = host.dump();
    let others = || nodes.map(|node| tables_of_others(&host, node));
    let untouched = others();
    assert!(untouched.iter().all(|tables| tables.len() == 4));
    for act in [
        ":",
        ":",
        "nft flush table inet wire; nsenter --net=/run/netns/edge nft delete table inet wire",
        "nsenter --net=/run/netns/vault nft add chain inet wire mine",
    ] {
        host.sh(act);
        host.wire(&["up"]).expect(0);
        assert_eq!(others(), untouched, "up after `{act}`");
        host.wire(&["audit"]).expect(0);
    }
    host.wire(&["down"]).expect(0);
    assert_eq!(others(), untouched, "down");
    host.dump().expect(&before, "down");
}

/// A table `inet wire` that is not wire's is named with the line that removes it, and left to the letter; its node gets no wire and
/// forwards nothing, the others get theirs; `down` leaves it as well. When it goes, the next `up` makes the wires.
#[test]
fn a_table_of_the_same_name_is_refused_and_left() {
    let world = small();
    for (node, comment) in [("edge", ""), ("web", "comment \"mine\";"), ("vault", "comment \"wired\";"), ("host", "")] {
        let host = world.host();
        let table = format!(
            "table inet wire {{
                 {comment}
                 set x {{ type ipv4_addr; }}
                 chain input {{ type filter hook input priority 0; policy accept; counter; }}
             }}"
        );
        host.write("/run/rules", &table);
        host.run(node, &["nft", "-f", "/run/rules"]).expect(0);
        let list = || host.run(node, &["nft", "-a", "-s", "list", "ruleset"]).expect(0).stdout;
        let (before, theirs) = (host.dump(), list());
        for _ in 0..2 {
            let up = host.wire(&["up"]).expect(1);
            for word in [node, "`inet wire`", "nft delete table inet wire"] {
                assert!(up.stderr.contains(word), "{node}: `{word}`: {}", up.stderr);
            }
            assert_eq!(list(), theirs, "{node}: up");
            let own = |fact: &str| fact.starts_with(&format!("{node} "));
            host.dump().only(own).expect(&before.only(own), "no wire, no setting, no rule");
            for wire in world.wires.iter().filter(|wire| wire.ends.iter().all(|end| end.0 != node)) {
                assert!(world.works(&host, wire), "{node}: {} is wired", wire.name);
            }
        }
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        let refused = audit["deviations"].as_array().expect("deviations").iter().filter(|d| d["kind"] == "refused");
        let refused: Vec<&Value> = refused.filter(|deviation| deviation["node"] == node).collect();
        let ends = world.wires.iter().filter(|wire| wire.ends.iter().any(|end| end.0 == node)).count();
        assert_eq!(refused.len(), ends.max(1), "{audit:#}");
        host.wire(&["down"]).expect(0);
        assert_eq!(list(), theirs, "{node}: down");
        host.dump().expect(&before, "down");
        host.run(node, &["nft", "delete", "table", "inet", "wire"]).expect(0);
        host.wire(&["up"]).expect(0);
        world.observe(&host);
    }
}

/// Somebody replaces our table by one of that name while the wires are up: it is named and left, the far ends still deny, and
/// `down` removes the cables that it can.
#[test]
fn a_table_that_was_replaced_is_refused() {
    let world = small();
    let (host, _) = world.up();
    host.run("web", &["nft", "flush", "ruleset"]).expect(0);
    host.run("web", &["nft", "add", "table", "inet", "wire"]).expect(0);
    host.wire(&["audit"]).expect(3);
    let up = host.wire(&["up"]).expect(1);
    assert!(up.stderr.contains("web") && up.stderr.contains("nft delete table inet wire"), "{}", up.stderr);
    assert_eq!(host.rules("web"), "table inet wire {\n}\n");
    assert!(!host.reaches("web", "172.16.1.0", 80) && !host.reaches("web", "10.254.1.0", 80), "two keys");
    host.wire(&["down"]).expect(0);
    assert_eq!((host.links("web"), host.links("edge")), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
    assert_eq!(host.rules("web"), "table inet wire {\n}\n");
}

/// A firewall that speaks nft's JSON, as firewalld does, keeps its table over `up`, a repair and `down`, to the last handle.
#[test]
fn a_table_written_as_json_is_left_alone() {
    let mut batch = Batch::new();
    let (family, table) = (NfFamily::INet, "somebodys");
    batch.add(NfListObject::Table(Table { family, name: table.into(), ..Table::default() }));
    batch.add(NfListObject::Chain(Chain {
        family,
        table: table.into(),
        name: "guard".into(),
        _type: Some(NfChainType::Filter),
        hook: Some(NfHook::Input),
        prio: Some(-10),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    let expr = vec![Statement::Counter(Counter::Anonymous(None)), Statement::Accept(None)];
    let (chain, expr) = ("guard".into(), expr.into());
    batch.add(NfListObject::Rule(Rule { family, table: table.into(), chain, expr, ..Rule::default() }));
    let rules = serde_json::to_string(&batch.to_nftables()).expect("it is JSON");

    let host = small().host();
    host.write("/run/somebodys.json", &rules);
    let list = |node| host.run(node, &["nft", "-a", "-s", "list", "table", "inet", table]).expect(0).stdout;
    for node in ["host", "edge"] {
        host.run(node, &["nft", "-j", "-f", "/run/somebodys.json"]).expect(0);
    }
    let before = ["host", "edge"].map(list);
    host.wire(&["up"]).expect(0);
    host.run("edge", &["nft", "delete", "table", "inet", "wire"]).expect(0);
    for command in ["up", "down"] {
        host.wire(&[command]).expect(0);
        assert_eq!(["host", "edge"].map(list), before, "after {command}");
    }
}
