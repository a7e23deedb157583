//! The shell script that `wire` replaces had faults of its own kind; none of them can happen here. The numbers are
//! those of a list made when the script was read.

use serde_json::json;

use crate::host::{Host, text};
use crate::repair::deviation;
use crate::world::{pluto, small};

/// Fault 1: It deleted whatever host link was called like the container. Here a host link called like a node or a wire of the
/// file stays, down to its index.
#[test]
fn a_host_link_called_like_a_container_stays() {
    let host = small().host();
    host.sh("for name in web edge shop edge-web; do ip link add $name type veth peer name $name netns lan; ip link set $name up; done");
    let before = host.dump();
    let index = host.link("host", "web")["ifindex"].clone();
    host.wire(&["up"]).expect(0);
    assert_eq!(host.link("host", "web")["ifindex"], index);
    host.wire(&["down"]).expect(0);
    host.dump().expect(&before, "down");
}

/// Fault 2: Two runs at once met in the scratch name `veth0`. Here twenty at once end as one does, and `veth0` is anybody's.
#[test]
fn runs_at_once_do_not_collide() {
    let world = small();
    let (_, alone) = world.up();
    let host = world.host();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..20).map(|_| scope.spawn(|| host.wire(&["--json", "up"]))).collect();
        let done = runs.into_iter().map(|run| run.join().expect("a run").expect(0).json());
        let busy = done.filter(|report| report["done"] != json!([])).count();
        assert_eq!(busy, 1, "one run did it all, the others found nothing to do");
    });
    host.dump().expect(&alone, "twenty at once");

    let host = world.host();
    host.sh("ip link add veth0 type veth peer name veth1");
    host.wire(&["up"]).expect(0);
    host.sh("ip link del veth0");
    host.dump().expect(&alone, "beside a veth0");
}

/// Fault 2, continued: `up` and `down` at once end as one of the two orders would.
#[test]
fn up_and_down_at_once_end_as_one_after_the_other() {
    let world = small();
    let host = world.host();
    let pristine = host.dump();
    host.wire(&["up"]).expect(0);
    let wired = host.dump();
    for _ in 0..5 {
        std::thread::scope(|scope| {
            for command in ["up", "down", "up", "down"] {
                scope.spawn(|| host.wire(&[command]).expect(0));
            }
        });
        let dump = host.dump();
        assert!(dump == pristine || dump == wired, "{dump}");
    }
}

/// Fault 3: "It has an eth0" was "done": a second wire was never made, a wrong one never mended. Here a node of two wires has
/// both, and an eth0 that is not ours is named.
#[test]
fn having_an_eth0_is_not_being_wired() {
    let world = small();
    let (host, _) = world.up();
    assert_eq!(host.links("web").len(), 3, "loopback and two wires: {:?}", host.links("web"));
    let host = world.host();
    host.sh("ip -n web link add eth0 type bridge; ip -n web link set eth0 up");
    let up = host.wire(&["up"]).expect(1);
    assert!(up.stderr.contains("eth0") && up.stderr.contains("edge-web"), "{}", up.stderr);
    assert!(host.reaches("web", "10.254.1.0", 5432), "its other wire is there");
}

/// Fault 4: A name of 17 characters was refused by the kernel and nobody looked. Here it finds the device in either namespace,
/// and wires whose names differ only at the end do not meet.
#[test]
fn long_names_find_their_devices() {
    let (host, _) = pluto().up();
    for node in ["reverse-proxy-edge", "lbmt-darkroom"] {
        let link = host.link(node, "pub-lbmt-darkroom");
        assert_eq!(link["ifalias"], "wire:pub-lbmt-darkroom");
    }
    let name = |i: usize| format!("a-name-that-differs-only-at-its-very-end-{i}");
    let wires: String = (0..20)
        .map(|i| {
            format!(
                "  {{ name = \"{}\", ends = [\"a\", \"b\"], subnet = \"10.9.{i}.0/31\", allow = [\"tcp/80\"] }},\n",
                name(i)
            )
        })
        .collect();
    let topology = format!("version = 1\nruntime = \"netns\"\nwire = [\n{wires}]\n[module]\nm = [\"a\", \"b\"]\n");
    let host = Host::with(&["a", "b"], &topology);
    host.wire(&["up"]).expect(0);
    for i in 0..20 {
        assert_eq!(text(&host.link("a", &name(i))["addr_info"][0]["local"]), format!("10.9.{i}.0"));
        assert!(host.reaches("a", &format!("10.9.{i}.1"), 80));
    }
}

/// Fault 4, continued: the longest name, 64 characters, is a wire too.
#[test]
fn the_longest_name_is_a_wire() {
    let name = "n".repeat(64);
    let topology = format!(
        "version = 1\nruntime = \"netns\"\nwire = [{{ name = \"{name}\", ends = [\"a\", \"b\"], subnet = \"10.9.0.0/31\" }}]\n[module]\nm = [\"a\", \"b\"]\n"
    );
    let host = Host::with(&["a", "b"], &topology);
    host.wire(&["up"]).expect(0);
    host.wire(&["audit"]).expect(0);
    assert_eq!(host.link("b", &name)["altnames"], json!([name]));
}

/// Fault 5: It switched forwarding on in every leaf. Here it is off in all of them whatever the host's defaults, and a leaf of
/// two wires does not carry packets from one to the other.
#[test]
fn a_leaf_does_not_forward() {
    let world = small();
    let host = world.host();
    for node in &world.nodes {
        host.set_sysctl(node, "ipv4/conf/all/forwarding", "1");
        host.set_sysctl(node, "ipv6/conf/all/forwarding", "1");
    }
    host.wire(&["up"]).expect(0);
    for node in ["web", "shop"] {
        let on = host.run(node, &["sh", "-c", "grep -l 1 /proc/sys/net/ipv4/conf/*/forwarding"]).stdout;
        assert_eq!(on, "", "forwarding at {node}");
    }
    // `web` stands between `edge` and `shop`: asked by them to carry a packet on, it does not, not even without its rules.
    host.sh("ip -n edge route add 10.254.1.0/32 via 172.16.1.1; ip -n shop route add 172.16.1.0/32 via 10.254.1.1");
    for node in ["edge", "shop", "web"] {
        host.run(node, &["nft", "delete", "table", "inet", "wire"]).expect(0);
    }
    assert!(host.ping("edge", "172.16.1.1") && host.ping("shop", "10.254.1.1"), "they do reach it");
    assert!(!host.ping("edge", "10.254.1.0"));
    assert!(!host.ping("shop", "172.16.1.0"));
}

/// Faults 6 to 9: It wrote NAT and forward rules on the host: DNAT without a device, forward accept, appended anew each run, a
/// masquerade that hid clients. Here no rule grows, a port is published on the uplink alone, what leaves is masqueraded towards
/// it alone, and the host forwards nothing else that it did not before.
#[test]
fn the_host_gets_no_rule_twice_and_does_not_forward() {
    for forwarding in ["0", "1"] {
        let world = small();
        let host = world.host();
        host.set_sysctl("host", "ipv4/conf/all/forwarding", forwarding);
        host.wire(&["up"]).expect(0);
        let rules = host.sh("nft list ruleset");
        host.wire(&["up"]).expect(0);
        assert_eq!(host.sh("nft list ruleset"), rules);
        let masquerades: Vec<_> = rules.lines().filter(|rule| rule.contains("masquerade")).collect();
        assert!(
            masquerades.len() == 1 && masquerades[0].contains("oifname \"eth0\" ip saddr 192.168.100.1 "),
            "{masquerades:?}"
        );
        assert_eq!(host.sysctl("host", "ipv4/conf/all/forwarding"), forwarding);
        host.sh("ip -n lan route add 192.168.100.0/31 via 192.0.2.2; ip -n lan route add 172.16.1.0/31 via 192.0.2.2");
        assert!(host.reaches("lan", "192.0.2.2", 80), "what is published");
        assert!(!host.ping("lan", "192.168.100.1"), "the LAN does not reach a hub");
        assert!(!host.reaches("lan", "192.168.100.1", 80) && !host.reaches("lan", "172.16.1.1", 80));
    }
}

/// Fault 10: Direct wires got a default route through the peer. Here a direct wire brings its own /31 and nothing else.
#[test]
fn a_direct_wire_brings_no_default_route() {
    let (host, _) = pluto().up();
    for node in ["navidrome-server", "navidrome-web-client"] {
        let routes = host.ip(node, &["route", "show", "dev", "navidrome-server-client"]);
        assert_eq!(routes.as_array().expect("routes").len(), 1, "{routes}");
        assert_eq!(routes[0]["dst"], "10.254.1.0/31");
    }
}

/// Fault 11: It looked a process up once and trusted the number six times. Here a namespace that is swapped while `up` runs is
/// noticed or wired by the next run, and whatever was made in the old one goes with it.
#[test]
fn a_node_swapped_during_up_is_not_wired_by_mistake() {
    let world = small();
    let (_, wired) = world.up();
    for delay in [1, 3, 6, 10] {
        let host = world.host();
        let inject = format!("inject=sendto,sendmsg:delay_enter=20000:when={delay}+");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto,sendmsg", "-e", &inject];
        std::thread::scope(|scope| {
            let run = scope.spawn(|| host.wire_under(&strace, &["up"]).code);
            for _ in 0..5 {
                host.sh("ip netns del web; ip netns add web");
            }
            assert!([0, 1].contains(&run.join().expect("a run")));
        });
        host.wire(&["up"]).expect(0);
        host.dump().expect(&wired, "the next up");
    }
}

/// Fault 12: Containers with private names hung on the public hub. Here every wire of the house ends in the hub that its name
/// says, and a node of two zones must say so.
#[test]
fn a_private_wire_ends_in_the_private_hub() {
    let (host, _) = pluto().up();
    let audit = host.wire(&["--json", "audit"]).expect(0).json();
    for wire in audit["wires"].as_array().expect("wires") {
        let (name, hub) = (text(&wire["name"]), text(&wire["ends"][0]["node"]));
        let wanted = match name.split('-').next() {
            Some("pub") => "reverse-proxy-edge",
            Some("priv") => "vpn-edge",
            _ => continue,
        };
        assert_eq!(hub, wanted, "{name}");
    }
    let world = small();
    let hub = "[hub.back]\nzone = \"private\"\n";
    let second = "  { name = \"back-web\", ends = [\"back\", \"web\"], subnet = \"10.1.1.0/31\" },\n";
    let zones = world
        .topology
        .replace("wire = [\n", &format!("wire = [\n{second}"))
        .replace("gates = [", "gates = [\"back\", ")
        + hub;
    host.topology(&zones);
    let check = host.wire(&["check"]).expect(2);
    assert!(check.stderr.contains("web") && check.stderr.contains("zone"), "{}", check.stderr);
}

/// Fault 13: Documentation and configuration named different networks. Here what `audit` says of an address is what `ip` says,
/// and two wires on one network are an error of the file.
#[test]
fn audit_says_what_the_kernel_says() {
    let world = pluto();
    let (host, _) = world.up();
    let audit = host.wire(&["--json", "audit"]).expect(0).json();
    let wires = audit["wires"].as_array().expect("wires");
    assert_eq!(wires.len(), 15);
    for wire in wires {
        for end in wire["ends"].as_array().expect("two ends") {
            let link = host.link(&text(&end["node"]), &text(&wire["name"]));
            assert_eq!(link["ifname"], end["ifname"]);
            let address = text(&end["address"]);
            let address = address.split('/').next().expect("an address");
            assert_eq!(link["addr_info"][0]["local"], address);
            assert_eq!(end["up"], json!(true));
        }
        assert_eq!(wire["state"], "up");
    }
    host.topology(&world.topology.replace("172.16.2.0/31", "172.16.1.0/31"));
    let check = host.wire(&["check"]).expect(2).stderr;
    assert!(check.contains("pub-lbmt-darkroom") && check.contains("pub-lbmt-weblog"), "{check}");
}

/// Fault 14: One section per container could not say two wires. Here a node has as many as it has lines, two between the same
/// nodes included.
#[test]
fn two_wires_between_the_same_nodes() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [
  { name = "first", ends = ["a", "b"], subnet = "10.9.0.0/31", allow = ["tcp/80"] },
  { name = "second", ends = ["b", "a"], subnet = "10.9.0.2/31", allow-back = ["tcp/81"] },
]
[module]
m = ["a", "b"]
"#;
    let host = Host::with(&["a", "b"], topology);
    host.wire(&["up"]).expect(0);
    assert!(host.reaches("a", "10.9.0.1", 80) && host.reaches("a", "10.9.0.2", 81));
    assert!(!host.reaches("a", "10.9.0.1", 81), "each has its own flows");
    host.sh("ip -n a link del first");
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    deviation(&audit, "a", "first", "missing");
    host.wire(&["up"]).expect(0);
    host.wire(&["audit"]).expect(0);
}
