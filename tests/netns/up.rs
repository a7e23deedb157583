//! `wire up`: from nothing to the file, by target, and with nodes that do not run.

use serde_json::{Value, json};

use crate::host::{Host, expect_silence, text};
use crate::world::{End, Flow, Forwards, Route, World, canonical, pluto, small, wire};

/// A file becomes exactly its links, marks, addresses, routes and settings, over each of which its flows pass; that is the
/// very state which the recipe makes by hand, down to the last setting of the last device, but for the wording of the rules.
#[test]
fn up_makes_what_the_recipe_makes() {
    for world in [pluto(), small()] {
        let (host, wired) = world.up();
        world.observe(&host);
        let by_hand = world.host();
        world.recipe(&by_hand);
        canonical(&wired).expect(&canonical(&by_hand.dump()), "up, compared with the recipe");
    }
}

/// A second `up` says nothing was done, sends no request that changes anything and opens nothing to write but its lock.
#[test]
fn a_second_up_does_nothing() {
    for world in [pluto(), small()] {
        let (host, wired) = world.up();
        let monitors = world.monitors(&host);
        let handles = world.handles(&host);
        let trace = ["strace", "-f", "-qq", "-y", "-o", "/run/trace", "-e", "trace=openat,openat2,open,creat"];
        let again = host.wire_under(&trace, &["--json", "up"]).expect(0).json();
        assert_eq!((&again["done"], &again["failed"]), (&json!([]), &json!([])));
        expect_silence(&monitors, "the second up");
        assert_eq!(world.handles(&host), handles, "no rule was made anew");
        host.dump().expect(&wired, "the second up");
        let trace = host.sh("cat /run/trace");
        let writes =
            trace.lines().filter(|call| ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| call.contains(flag)));
        let others: Vec<_> = writes.filter(|call| !call.contains("lock")).collect();
        assert!(others.is_empty(), "opened to write: {others:#?}");
        assert_eq!(host.wire(&["audit"]).expect(0).code, 0);
        assert_eq!(host.wire(&["--json", "plan"]).expect(0).json()["changes"], json!([]));
    }
}

/// The host never hears of a wire between two containers, not for a moment: not while it is made, repaired or removed. Of a
/// wire of its own it hears under the final name only.
#[test]
fn the_host_never_sees_a_wire_between_containers() {
    let world = small();
    let host = world.host();
    let monitor = host.monitor("host");
    for act in ["", "ip -n web link del eth0", "ip -n shop link set eth0 down", "ip -n edge link del host-edge"] {
        host.sh(act);
        host.wire(&["up"]).expect(0);
    }
    host.wire(&["down"]).expect(0);
    let links: Vec<String> =
        monitor.events().into_iter().filter(|event| event.contains(": <") && !event.starts_with(' ')).collect();
    assert!(!links.is_empty());
    for link in links {
        assert!(link.contains(": host-edge@"), "the host saw {link}");
    }
}

/// `up` makes the wires that end in a node, module or wire named, and no others; a module's name may be said in full.
#[test]
fn up_makes_what_a_target_names() {
    let world = small();
    let all = ["host-edge", "edge-web", "edge-shop-and-its-till", "shop-web-database"];
    let cases: [(&[&str], &[&str]); 9] = [
        (&["web"], &["edge-web", "shop-web-database"]),
        (&["node:web"], &["edge-web", "shop-web-database"]),
        (&["edge-web"], &["edge-web"]),
        (&["wire:edge-web"], &["edge-web"]),
        (&["shops"], &["edge-web", "edge-shop-and-its-till", "shop-web-database"]),
        (&["module:gates"], &["host-edge", "edge-web", "edge-shop-and-its-till"]),
        (&["host"], &["host-edge"]),
        (&["host-edge", "shop-web-database"], &["host-edge", "shop-web-database"]),
        (&[], &all),
    ];
    let host = world.host();
    let pristine = host.dump();
    for (targets, wanted) in cases {
        host.wire(&[&["up"], targets].concat()).expect(0);
        let made: Vec<&str> =
            world.wires.iter().filter(|wire| made(&host, wire.ends[0].0, wire.name)).map(|w| w.name).collect();
        let wanted: Vec<&str> = all.into_iter().filter(|name| wanted.contains(name)).collect();
        assert_eq!(made, wanted, "up {targets:?}");
        host.wire(&[&["audit"], targets].concat()).expect(0);
        assert_eq!(
            host.wire(&["audit"]).code,
            if wanted.len() == all.len() { 0 } else { 3 },
            "audit after up {targets:?}"
        );
        host.wire(&[&["down"], targets].concat()).expect(0);
        host.dump().expect(&pristine, "down after up by target");
    }
}

/// A target that nothing or more than one thing bears is wrong usage, and nothing is touched; said in full it is taken.
#[test]
fn unknown_and_ambiguous_targets_are_wrong_usage() {
    let world = small();
    let ambiguous = world.topology.replace("gates = ", "edge-web = ");
    let host = Host::with(&world.nodes, &ambiguous);
    let pristine = host.dump();
    for command in ["up", "down", "plan", "audit"] {
        for target in ["edge-webb", "edge-web", "node:edge-web", "wire:web", "module:web", "node:", "zone:public"] {
            let output = host.wire(&[command, target]).expect(2);
            let word = target.trim_start_matches("node:").trim_start_matches("wire:").trim_start_matches("module:");
            assert!(output.stderr.contains(word), "{command} {target}: {}", output.stderr);
            assert!(output.stdout.is_empty(), "{command} {target}: {}", output.stdout);
        }
    }
    let output = host.wire(&["up", "edge-webb"]);
    assert!(output.stderr.contains("edge-web`"), "a near miss is suggested: {}", output.stderr);
    let output = host.wire(&["up", "edge-web"]);
    assert!(output.stderr.contains("wire:edge-web") && output.stderr.contains("module:edge-web"), "{}", output.stderr);
    host.dump().expect(&pristine, "wrong usage");
    host.wire(&["up", "wire:edge-web"]).expect(0);
    host.wire(&["up", "module:edge-web"]).expect(0);
}

/// A wire with a node that does not run waits: `up` wires the rest, names it and succeeds, `audit` sees no deviation in it;
/// with `--strict`, or for a target named as a node that does not run, waiting is a failure. When the node comes, so does
/// the wire.
#[test]
fn a_wire_of_a_node_that_does_not_run_waits() {
    let world = small();
    let host = Host::with(&["edge", "shop", "vault"], &world.topology);
    let up = host.wire(&["--json", "up"]).expect(0).json();
    let waiting = |report: &Value| {
        let list = report["waiting"].as_array().expect("a list").iter();
        let mut list: Vec<_> = list.map(|waiting| (text(&waiting["wire"]), text(&waiting["node"]))).collect();
        list.sort();
        list
    };
    let wanted = [("edge-web", "web"), ("shop-web-database", "web")].map(|(w, n)| (w.to_owned(), n.to_owned()));
    assert_eq!(waiting(&up), wanted);
    assert_eq!(waiting(&host.wire(&["--json", "plan"]).expect(0).json()), wanted);
    assert!(made(&host, "edge", "host-edge") && !made(&host, "edge", "edge-web"));

    let audit = host.wire(&["--json", "audit"]).expect(0).json();
    let state = |name: &str| {
        let wires = audit["wires"].as_array().expect("wires");
        text(&wires.iter().find(|wire| wire["name"] == name).expect("every wire of the file")["state"])
    };
    assert_eq!((state("edge-web").as_str(), state("host-edge").as_str()), ("waiting", "up"));
    assert_eq!(audit["deviations"], json!([]));

    let said = host.wire(&["up"]).expect(0);
    assert!((said.stdout + &said.stderr).contains("edge-web"), "what waits is named");
    host.wire(&["up", "--strict"]).expect(1);
    host.wire(&["up", "web"]).expect(1);
    host.wire(&["up", "node:web"]).expect(1);
    host.wire(&["up", "shops"]).expect(0);
    host.wire(&["up", "edge-web"]).expect(0);
    host.netns(&["web"]);
    assert_eq!(host.wire(&["audit"]).code, 3, "a wirable wire that is not there is missing");
    host.wire(&["up", "--strict"]).expect(0);
    world.observe(&host);
}

/// A /30 leaves out its first and last address and is a wire as any other.
#[test]
fn a_slash_30_is_a_wire() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [{ name = "old-guest", ends = ["a", "b"], subnet = "10.9.0.4/30", allow = ["tcp/80"] }]
[module]
m = ["a", "b"]
"#;
    let mut old = wire("old-guest", End("a", "", "10.9.0.5"), End("b", "", "10.9.0.6"));
    old.prefix = 30;
    let world = World {
        topology: topology.into(),
        nodes: vec!["a", "b"],
        wires: vec![old],
        flows: flows("10.9.0.6"),
        ..World::default()
    };
    let (host, _) = world.up();
    world.observe(&host);
    host.wire(&["audit"]).expect(0);
}

/// A wire may name its own devices, end by end.
#[test]
fn a_wire_may_name_its_devices() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [{ name = "a-to-b", ends = ["a", "b"], subnet = "10.9.0.0/31", ifname = ["uplink", "eth0"], allow = ["tcp/80"] }]
[module]
m = ["a", "b"]
"#;
    let named = wire("a-to-b", End("a", "uplink", "10.9.0.0"), End("b", "eth0", "10.9.0.1"));
    let world = World {
        topology: topology.into(),
        nodes: vec!["a", "b"],
        wires: vec![named],
        flows: flows("10.9.0.1"),
        ..World::default()
    };
    let (host, _) = world.up();
    world.observe(&host);
    host.wire(&["audit"]).expect(0);
}

/// Two wires may exchange the names of their devices: each keeps its device.
#[test]
fn devices_may_exchange_their_names() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [
  { name = "first", ends = ["a", "b"], subnet = "10.9.0.0/31", ifname = ["left", "right"], allow = ["tcp/80"] },
  { name = "second", ends = ["a", "b"], subnet = "10.9.0.2/31", ifname = ["right", "left"], allow = ["tcp/80"] },
]
[module]
m = ["a", "b"]
"#;
    let wires = |[one, two]: [&'static str; 2]| {
        vec![
            wire("first", End("a", one, "10.9.0.0"), End("b", two, "10.9.0.1")),
            wire("second", End("a", two, "10.9.0.2"), End("b", one, "10.9.0.3")),
        ]
    };
    let flows = [flows("10.9.0.1"), flows("10.9.0.3")].concat();
    let wired = wires(["left", "right"]);
    let world = World { topology: topology.into(), nodes: vec!["a", "b"], wires: wired, flows, ..World::default() };
    let (host, _) = world.up();
    world.observe(&host);
    let before = world.indexes(&host);
    let exchanged = topology.replace("left", "X").replace("right", "left").replace('X', "right");
    host.topology(&exchanged);
    host.wire(&["up"]).expect(0);
    World { wires: wires(["right", "left"]), ..world.clone() }.observe(&host);
    assert_eq!(world.indexes(&host), before);
}

/// A node may live in a namespace of another name than its own.
#[test]
fn a_node_may_live_under_another_name() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [{ name = "a-to-b", ends = ["a", "b"], subnet = "10.9.0.0/31", allow = ["tcp/80"] }]
[module]
m = ["a", "b"]
[node.b]
netns = "elsewhere"
"#;
    let there = wire("a-to-b", End("a", "", "10.9.0.0"), End("elsewhere", "", "10.9.0.1"));
    let nodes = vec!["a", "elsewhere"];
    let world =
        World { topology: topology.into(), nodes, wires: vec![there], flows: flows("10.9.0.1"), ..World::default() };
    let (host, _) = world.up();
    world.observe(&host);
    host.wire(&["audit"]).expect(0);
}

/// A node that shares another's namespace has no wires of its own: they end in that one, whose name `audit` gives.
#[test]
fn a_node_that_shares_ends_where_the_other_lives() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [{ name = "torrent", ends = ["vpn", "qbittorrent"], subnet = "10.9.0.0/31", allow = ["tcp/8080"] }]
[module]
m = ["vpn", "gluetun", "qbittorrent"]
[node.qbittorrent]
shares = "gluetun"
"#;
    let torrent = wire("torrent", End("vpn", "", "10.9.0.0"), End("gluetun", "", "10.9.0.1"));
    let flows = vec![Flow("vpn", "10.9.0.1", 8080)];
    let world = World {
        topology: topology.into(),
        nodes: vec!["vpn", "gluetun"],
        wires: vec![torrent],
        flows,
        ..World::default()
    };
    let (host, _) = world.up();
    world.observe(&host);
    host.wire(&["audit"]).expect(0);
}

/// A leaf without a hub reaches the outside over its host wire; a publishing host wire brings the default route, one that
/// does not brings none.
#[test]
fn a_default_route_is_there_only_where_replies_or_egress_need_one() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [
  { name = "mail", ends = ["host", "post"], subnet = "192.168.102.0/31", publish = ["tcp/25"] },
  { name = "logs", ends = ["host", "logger"], subnet = "192.168.102.2/31", allow-back = ["tcp/514"] },
  { name = "fetch", ends = ["host", "fetcher"], subnet = "192.168.102.4/31" },
]
[host]
uplinks = ["eth0"]
[module]
m = ["post", "logger", "fetcher"]
[node.fetcher]
egress = ["tcp/443"]
"#;
    let wires = vec![
        wire("mail", End("host", "", "192.168.102.0"), End("post", "", "192.168.102.1")),
        wire("logs", End("host", "", "192.168.102.2"), End("logger", "", "192.168.102.3")),
        wire("fetch", End("host", "", "192.168.102.4"), End("fetcher", "", "192.168.102.5")),
    ];
    let routes =
        vec![Route("post", "default", "192.168.102.0", "mail"), Route("fetcher", "default", "192.168.102.4", "fetch")];
    let flows = vec![Flow("logger", "192.168.102.2", 514)];
    let forwards = vec![Forwards("host", "eth0"), Forwards("host", "mail"), Forwards("host", "fetch")];
    let nodes = vec!["post", "logger", "fetcher"];
    let world = World { topology: topology.into(), nodes, wires, routes, flows, forwards };
    let (host, _) = world.up();
    world.observe(&host);
}

/// A hub of a hundred wires is wired and audited like one of two, and goes without a trace.
#[test]
fn a_hub_of_a_hundred_wires() {
    let leaves: Vec<String> = (0..100).map(|i| format!("leaf-with-a-name-{i}")).collect();
    let wires = leaves.iter().enumerate().map(|(i, leaf)| {
        format!("  {{ name = \"hub-{leaf}\", ends = [\"hub\", \"{leaf}\"], subnet = \"172.16.{i}.0/31\", allow = [\"tcp/80\"] }},\n")
    });
    let topology = format!(
        "version = 1\nruntime = \"netns\"\nwire = [\n{}]\n[module]\nm = [\"hub\", {}]\n[hub.hub]\nzone = \"public\"\n",
        wires.collect::<String>(),
        leaves.iter().map(|leaf| format!("\"{leaf}\"")).collect::<Vec<_>>().join(", "),
    );
    let host = Host::with(&[], &topology);
    host.netns(&["hub"]);
    host.netns(&leaves.iter().map(String::as_str).collect::<Vec<_>>());
    let pristine = host.dump();
    let up = host.wire(&["up"]).expect(0);
    assert!(
        up.stderr.lines().count() <= 1 && !up.stderr.contains('\r'),
        "no progress where nobody looks on: {}",
        up.stderr
    );
    assert_eq!(host.links("hub").len(), 101);
    assert!(host.reaches("hub", "172.16.99.1", 80) && host.reaches("hub", "172.16.0.1", 80));
    assert!(!host.reaches("hub", "172.16.0.1", 81) && !host.reaches("leaf-with-a-name-0", "172.16.0.0", 80));
    host.sh("ip -n leaf-with-a-name-0 route add default via 172.16.0.0");
    assert!(!host.reaches("leaf-with-a-name-0", "172.16.1.1", 80), "leaves do not meet");
    host.sh("ip -n leaf-with-a-name-0 route del default");
    host.wire(&["audit"]).expect(0);
    host.wire(&["down"]).expect(0);
    host.dump().expect(&pristine, "down");
}

/// That `a` may open the web port of an address.
fn flows(address: &'static str) -> Vec<Flow> {
    vec![Flow("a", address, 80)]
}

fn made(host: &Host, node: &str, wire: &str) -> bool {
    host.run(node, &["ip", "link", "show", "dev", wire]).code == 0
}
