//! `wire prove`, held against rules written by hand: what it says of a house whose rules are right, and of the same house with
//! one thing wrong. What `up` itself loads is taken away first, so that it is the hand's rules which are proved.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, text};

const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", allow = ["tcp/80", "tcp/8000-8002", "udp/5353", "icmp/echo-request"] },
  { name = "edge-shop", ends = ["edge", "shop"], subnet = "172.16.2.0/31", allow = [{ flow = "tcp/22", rate = "10/minute" }], allow-back = ["udp/53"] },
  { name = "shop-web", ends = ["shop", "web"], subnet = "10.254.1.0/31", subnet6 = "fd00:254::/127", allow = ["tcp/5432"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["edge"]
shops = ["web", "shop", "vault"]

[hub.edge]
zone = "public"

[node.shop]
egress = ["tcp/443"]

[node.vault]
network = "none"
"#;

const NODES: [&str; 4] = ["edge", "web", "shop", "vault"];

/// What each namespace lets begin: chain, device, from, to, and what.
const OPENINGS: [(&str, &[[&str; 5]]); 4] = [
    ("host", &[]),
    (
        "edge",
        &[
            ["output", "edge-web", "172.16.1.0", "172.16.1.1", "tcp dport { 80, 8000-8002 }"],
            ["output", "edge-web", "172.16.1.0", "172.16.1.1", "udp dport 5353"],
            ["output", "edge-web", "172.16.1.0", "172.16.1.1", "icmp type echo-request"],
            ["output", "edge-shop", "172.16.2.0", "172.16.2.1", "tcp dport 22 limit rate 10/minute burst 5 packets"],
            ["input", "edge-shop", "172.16.2.1", "172.16.2.0", "udp dport 53"],
        ],
    ),
    (
        "web",
        &[
            ["input", "eth0", "172.16.1.0", "172.16.1.1", "tcp dport { 80, 8000-8002 }"],
            ["input", "eth0", "172.16.1.0", "172.16.1.1", "udp dport 5353"],
            ["input", "eth0", "172.16.1.0", "172.16.1.1", "icmp type echo-request"],
            ["input", "shop-web", "10.254.1.0", "10.254.1.1", "tcp dport 5432"],
            ["input", "shop-web", "fd00:254::", "fd00:254::1", "tcp dport 5432"],
        ],
    ),
    (
        "shop",
        &[
            ["input", "eth0", "172.16.2.0", "172.16.2.1", "tcp dport 22 limit rate 10/minute burst 5 packets"],
            ["output", "eth0", "172.16.2.1", "172.16.2.0", "udp dport 53"],
            ["output", "shop-web", "10.254.1.0", "10.254.1.1", "tcp dport 5432"],
            ["output", "shop-web", "fd00:254::", "fd00:254::1", "tcp dport 5432"],
        ],
    ),
];

/// The rules of a namespace: default deny in all three directions, replies, and what may begin.
fn rules(node: &str, openings: &[[&str; 5]]) -> String {
    let chain = |hook: &str, device: &str| {
        let accepts = openings.iter().filter(|opening| opening[0] == hook).map(|[_, on, from, to, what]| {
            let family = if from.contains(':') { "ip6" } else { "ip" };
            format!("{device} \"{on}\" {family} saddr {from} {family} daddr {to} {what} ct state new accept\n")
        });
        // Of the host only what goes over its wire is policed.
        let others = if node == "host" { "!= \"host-edge\"" } else { "\"lo\"" };
        format!(
            "chain {hook} {{ type filter hook {hook} priority 0; policy drop;\n\
             {device} {others} accept\nct state established,related accept\n\
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n{}counter drop\n}}\n",
            accepts.collect::<String>()
        )
    };
    let forward = "chain forward { type filter hook forward priority 0; policy drop; counter drop; }\n";
    format!(
        "flush ruleset\ntable inet hand {{\n{}{}{forward}}}\n",
        chain("input", "iifname"),
        chain("output", "oifname")
    )
}

/// The house, wired, with the hand's rules.
fn house() -> Host {
    let host = Host::with(&NODES, HOUSE);
    host.wire(&["up"]).expect(0);
    for (node, openings) in OPENINGS {
        load(&host, node, &rules(node, openings));
    }
    host
}

fn load(host: &Host, node: &str, rules: &str) {
    host.write("/run/rules", rules);
    host.run(node, &["nft", "-f", "/run/rules"]).expect(0);
}

/// Rules that a namespace has besides the others, from now on.
fn also(host: &Host, node: &str, rules: &str) {
    let lines = rules.replace("; ", ";\n").replace(" }", "\n}\n");
    load(host, node, &format!("table inet other {{\n{lines}\n}}\n"));
}

/// Opens something at a node that its rules do not let begin.
fn open(host: &Host, node: &str, more: &[[&str; 5]]) {
    let (_, openings) = OPENINGS.iter().find(|(name, _)| *name == node).expect("a node with rules");
    load(host, node, &rules(node, &[openings, more].concat()));
}

/// What is in a list of a proof: who, to whom, by what, at which address.
fn listed(proof: &Value, list: &str) -> BTreeSet<[String; 4]> {
    let all = proof[list].as_array().expect("a list").iter();
    all.map(|one| ["from", "to", "flow", "address"].map(|key| text(&one[key]))).collect()
}

fn named<const N: usize>(these: [[&str; 4]; N]) -> BTreeSet<[String; 4]> {
    these.map(|one| one.map(str::to_owned)).into()
}

#[track_caller]
fn prove(host: &Host, code: i32, targets: &[&str]) -> Value {
    let proof = host.wire(&[&["--json", "prove"], targets].concat()).expect(code).json();
    let number = |key: &str| proof[key].as_u64().expect("a number");
    let violations = proof["violations"].as_array().expect("a list").len() as u64;
    assert_eq!(number("probes"), number("correct") + number("unknown") + violations, "{proof}");
    proof
}

/// A node whose UDP services never answer: of one that is not there nobody hears either.
fn mute(host: &Host, node: &str) {
    let hook = "type filter hook output priority -10;";
    load(
        host,
        node,
        &format!("table inet mute {{\nchain c {{ {hook}\nicmp type destination-unreachable drop\n}}\n}}\n"),
    );
}

/// The packets that a counter `seen` of a table `inet other` has counted.
fn counted(host: &Host, node: &str) -> u64 {
    let counters = host.run(node, &["nft", "-j", "list", "counter", "inet", "other", "seen"]).expect(0).json();
    let counters = counters["nftables"].as_array().expect("a list").iter();
    counters.filter_map(|one| one["counter"]["packets"].as_u64()).next().expect("a counter")
}

/// Rules that are right: every probe is answered and agrees with the file, in words and in JSON.
#[test]
fn rules_that_are_right_are_proved() {
    let host = house();
    let proof = prove(&host, 0, &[]);
    assert_eq!((&proof["violations"], &proof["unknown"], &proof["unknowns"]), (&json!([]), &json!(0), &json!([])));
    assert!(proof["probes"].as_u64() > Some(200), "{proof}");
    let said = host.wire(&["prove"]).expect(0);
    assert!(said.stdout.is_empty(), "{}", said.stdout);
    assert!(said.stderr.contains("0 unknown, 0 violations"), "{}", said.stderr);
}

/// What passes and should not is named, each flow at each address, and nothing else is: here all of TCP between two nodes that
/// may talk.
#[test]
fn what_passes_and_should_not_is_named() {
    let host = house();
    let opening = |hook, device| [hook, device, "172.16.1.0", "172.16.1.1", "meta l4proto tcp"];
    open(&host, "edge", &[opening("output", "edge-web")]);
    open(&host, "web", &[opening("input", "eth0")]);
    let proof = prove(&host, 3, &[]);
    let wanted = ["tcp/5353", "tcp/5432", "tcp/8003"].map(|flow| ["edge", "web", flow, "172.16.1.1"]);
    assert_eq!(listed(&proof, "violations"), named(wanted), "{proof}");
    for violation in proof["violations"].as_array().expect("a list") {
        assert_eq!((&violation["expected"], &violation["seen"]), (&json!("drop"), &json!("pass")));
    }
    let said = host.wire(&["prove"]).expect(3);
    assert!(said.stdout.contains("passes: edge to web, tcp/8003 at 172.16.1.1: the file says drop"), "{}", said.stdout);
    assert!(said.stderr.contains(" violations"), "{}", said.stderr);
    assert!(!said.stdout.contains("edge-shop") && !said.stdout.contains("to shop"), "{}", said.stdout);
}

/// Both ends hold back what the file does not say, each by itself. Where the near end's rules are gone, nothing passes that
/// the far end stops; where the far end's are, what is put on the wire past the near end's passes and is named.
#[test]
fn each_end_is_proved_by_itself() {
    let host = house();
    open(&host, "web", &[["input", "eth0", "172.16.1.0", "172.16.1.1", "udp dport 80"]]);
    let proof = prove(&host, 3, &[]);
    assert_eq!(listed(&proof, "violations"), named([["edge", "web", "udp/80", "172.16.1.1"]]), "{proof}");
    assert!(text(&proof["violations"][0]["note"]).contains("put on wire `edge-web`"), "{proof}");

    let host = house();
    open(&host, "edge", &[["output", "edge-web", "172.16.1.0", "172.16.1.1", "udp dport 80"]]);
    prove(&host, 0, &[]);
}

/// What is dropped and should not be is named, whichever end drops it.
#[test]
fn what_is_dropped_and_should_not_be_is_named() {
    let host = house();
    also(
        &host,
        "web",
        "chain c { type filter hook input priority 10; tcp dport 80 drop; ip6 daddr fd00:254::1 tcp dport 5432 drop; }",
    );
    also(
        &host,
        "edge",
        "chain c { type filter hook output priority 10; udp dport 5353 drop; icmp type echo-request drop; }",
    );
    let proof = prove(&host, 3, &[]);
    let wanted = [
        ["edge", "web", "tcp/80", "172.16.1.1"],
        ["edge", "web", "udp/5353", "172.16.1.1"],
        ["edge", "web", "icmp/echo-request", "172.16.1.1"],
        ["shop", "web", "tcp/5432", "fd00:254::1"],
    ];
    assert_eq!(listed(&proof, "violations"), named(wanted), "{proof}");
    for violation in proof["violations"].as_array().expect("a list") {
        assert_eq!((&violation["expected"], &violation["seen"]), (&json!("pass"), &json!("drop")));
    }
    let said = host.wire(&["prove"]).expect(3).stdout;
    assert!(said.contains("dropped: edge to web, tcp/80 at 172.16.1.1: the file says pass"), "{said}");
}

/// A source outside the wire's own is refused by the sender's own namespace, and by the far end when it is put on the wire.
#[test]
fn a_forged_source_is_found_at_either_end() {
    let host = house();
    let anybody = |hook, device| [hook, device, "0.0.0.0/0", "172.16.1.1", "tcp dport 80"];
    open(&host, "edge", &[anybody("output", "edge-web")]);
    let proof = prove(&host, 3, &[]);
    assert_eq!(listed(&proof, "violations"), named([["edge", "web", "tcp/80", "172.16.1.1"]]), "{proof}");
    let [violation] = &proof["violations"].as_array().expect("a list")[..] else { panic!("{proof}") };
    assert!(text(&violation["note"]).contains("a source that is not the sender's"), "{proof}");
    assert_ne!(violation["source"], "172.16.1.0");

    let host = house();
    open(&host, "web", &[anybody("input", "eth0")]);
    // The kernel's own check of sources is the second lock on that door.
    for device in ["all", "eth0"] {
        host.set_sysctl("web", &format!("ipv4/conf/{device}/rp_filter"), "0");
    }
    let proof = prove(&host, 3, &[]);
    assert_eq!(listed(&proof, "violations"), named([["edge", "web", "tcp/80", "172.16.1.1"]]), "{proof}");
    assert!(text(&proof["violations"][0]["note"]).contains("put on wire `edge-web`"), "{proof}");
}

/// A node is reached only at the far end of a wire that says so: not at its other addresses, not at a link-local one, not
/// behind another node, and the host not by what it is called elsewhere.
#[test]
fn other_addresses_are_proved_too() {
    // Link-local addresses, where there is IPv6.
    let host = house();
    for (node, hook) in [("shop", "output"), ("web", "input")] {
        open(&host, node, &[[hook, "shop-web", "fe80::/10", "fe80::/10", "meta l4proto tcp"]]);
    }
    let proof = prove(&host, 3, &[]);
    let found = listed(&proof, "violations");
    assert!(!found.is_empty() && found.iter().all(|one| one[3].starts_with("fe80::")), "{proof}");
    assert!(found.iter().all(|one| one[..2] == ["shop", "web"]), "{proof}");

    // The other addresses of the far node, and a far node that passes packets on.
    let host = house();
    host.run("edge", &["nft", "flush", "ruleset"]).expect(0);
    host.set_sysctl("edge", "ipv4/ip_forward", "1");
    for leaf in ["web", "shop"] {
        load(
            &host,
            leaf,
            "flush ruleset\ntable inet none {\nchain c { type filter hook input priority 0;\nct state new accept\n}\n}\n",
        );
    }
    let found = listed(&prove(&host, 3, &[]), "violations");
    for (from, to, address) in
        [("web", "edge", "172.16.2.0"), ("web", "edge", "192.168.100.1"), ("shop", "web", "172.16.1.1")]
    {
        assert!(found.iter().any(|one| one[0] == from && one[1] == to && one[3] == address), "{from} {to} {address}");
    }

    // What the host is called on its uplink.
    let host = house();
    for node in ["host", "edge"] {
        host.run(node, &["nft", "flush", "ruleset"]).expect(0);
    }
    let found = listed(&prove(&host, 3, &[]), "violations");
    assert!(found.iter().any(|one| one[..2] == ["edge", "host"] && one[3] == "192.0.2.2"), "{found:#?}");
}

/// A UDP service that never answers is judged by what its namespace has let in; where nothing tells, nothing is claimed.
#[test]
fn a_silent_udp_service_is_judged_or_unknown() {
    let host = house();
    mute(&host, "web");
    let proof = prove(&host, 0, &[]);
    assert_eq!(proof["unknown"], 0, "{proof}");
    // Without a rule that asks for it nothing is tracked.
    host.run("web", &["nft", "flush", "ruleset"]).expect(0);
    mute(&host, "web");
    let proof = prove(&host, 3, &[]);
    let silent = ["edge", "web", "udp/5353", "172.16.1.1"].map(str::to_owned);
    assert!(listed(&proof, "unknowns").contains(&silent), "{proof}");
    assert!(!listed(&proof, "violations").contains(&silent), "{proof}");
    let said = host.wire(&["prove"]).expect(3);
    assert!(said.stderr.contains("nobody answered, and nothing tells whether it arrived"), "{}", said.stderr);
}

/// A live house is not disturbed: no connection carries a byte, no datagram either, and nothing leaves by an uplink.
#[test]
fn a_live_house_is_not_disturbed() {
    let host = house();
    let _listener = host.start("web", &["busybox", "nc", "-ll", "-p", "80", "-e", "cat"]);
    let start = Instant::now();
    while !host.run("web", &["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout.contains(":0050 ") {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody listens");
    }
    let chain = "counter seen { } chain c { type filter hook input priority -300;";
    also(
        &host,
        "web",
        &format!("{chain} tcp flags & psh == psh counter name seen; udp length > 8 counter name seen; }}"),
    );
    also(&host, "lan", &format!("{chain} counter name seen; }}"));
    for _ in 0..3 {
        prove(&host, 0, &[]);
    }
    assert_eq!(counted(&host, "web"), 0, "data arrived");
    assert_eq!(counted(&host, "lan"), 0, "packets left the house");
}

/// A flow with a rate is tried once a run, and when it is used up nothing is claimed.
#[test]
fn a_rate_is_not_used_up() {
    let host = house();
    also(
        &host,
        "shop",
        "counter seen { } chain c { type filter hook prerouting priority -300; ip saddr 172.16.2.0 ip daddr 172.16.2.1 tcp dport 22 counter name seen; }",
    );
    assert_eq!(prove(&host, 0, &[])["unknown"], 0);
    // The one connection: its first packet alone, for nobody listens.
    assert_eq!(counted(&host, "shop"), 1);
    let used_up = |_| Some(host.wire(&["prove"]).expect(0).stderr).filter(|said| said.contains(" 1 unknown"));
    let said = (0..10).find_map(used_up).expect("a burst of 5 ends");
    assert!(said.contains("edge to shop, tcp/22") && said.contains("rate"), "{said}");
}

/// A TARGET limits who sends and who is dialled; of what does not run it is said that nothing is proved.
#[test]
fn a_target_limits_what_is_proved() {
    let host = house();
    let all = prove(&host, 0, &[])["probes"].as_u64();
    let vault = prove(&host, 0, &["vault"])["probes"].as_u64();
    let wire = prove(&host, 0, &["wire:shop-web"])["probes"].as_u64();
    assert!(wire > Some(0) && wire < all && vault > Some(0) && vault < wire, "{vault:?} {wire:?} {all:?}");
    for node in ["edge", "web"] {
        host.run(node, &["nft", "flush", "ruleset"]).expect(0);
    }
    prove(&host, 3, &[]);
    prove(&host, 3, &["edge-web"]);
    prove(&host, 0, &["vault"]);
    host.wire(&["prove", "nobody"]).expect(2);

    let host = house();
    host.sh("ip netns del web");
    assert_eq!(prove(&host, 0, &["vault"])["absent"], json!({}));
    for target in ["edge", "shop-web"] {
        let proof = prove(&host, 0, &[target]);
        assert_eq!(proof["absent"]["web"], "there is no namespace /run/netns/web", "{target}: {proof}");
    }
    let said = host.wire(&["prove", "web"]).expect(1).stderr;
    assert!(said.contains("`web` was asked for and does not run"), "{said}");
}

/// A node with another network is dialled from only where a wire leads: what its own default route would send elsewhere is not
/// sent, and not claimed.
#[test]
fn nothing_is_sent_over_devices_that_are_no_wires() {
    let host = house();
    host.sh("ip link add other netns web type veth peer name other netns lan
         ip -n web address add 203.0.113.2/24 dev other; ip -n lan address add 203.0.113.1/24 dev other
         ip -n web link set other up; ip -n lan link set other up
         ip -n web route add default via 203.0.113.1");
    also(
        &host,
        "lan",
        "counter seen { } chain c { type filter hook input priority -300; meta l4proto { tcp, udp, icmp } counter name seen; }",
    );
    let proof = prove(&host, 0, &[]);
    let unknown = listed(&proof, "unknowns");
    assert!(unknown.iter().any(|one| one[0] == "web" && one[1] == "shop" && one[3] == "172.16.2.1"), "{proof}");
    assert!(unknown.iter().all(|one| one[0] == "web" && one[3] != "172.16.1.0" && one[3] != "10.254.1.0"), "{proof}");
    assert_eq!(counted(&host, "lan"), 0);
}

/// Few descriptors are no reason to fail: it takes longer, and says the same.
#[test]
fn few_descriptors_are_enough() {
    let host = house();
    let all = prove(&host, 0, &[]);
    let few = host.wire_under(&["prlimit", "--nofile=128:128"], &["--json", "prove"]).expect(0).json();
    assert_eq!(few, all);
}

/// A house of twenty nodes that all answer nothing but what they must is proved within 5 s.
#[test]
fn twenty_nodes_are_proved_in_time() {
    let leaves: Vec<String> = (1..=18).map(|n| format!("leaf{n}")).collect();
    let wires = leaves.iter().enumerate().map(|(n, leaf)| {
        format!("  {{ name = \"w-{leaf}\", ends = [\"hub\", \"{leaf}\"], subnet = \"172.16.{n}.0/31\", allow = [\"tcp/80\", \"udp/53\"] }},\n")
    });
    let egress = leaves.iter().map(|leaf| format!("[node.{leaf}]\negress = [\"tcp/443\"]\n"));
    let topology = format!(
        "version = 1\nruntime = \"netns\"\nwire = [\n  {{ name = \"host-hub\", ends = [\"host\", \"hub\"], subnet = \"192.168.100.0/31\" }},\n{}]\n\
         [host]\nuplinks = [\"eth0\"]\n[module]\nnodes = [\"hub\", {}]\n[hub.hub]\nzone = \"public\"\n{}",
        wires.collect::<String>(),
        leaves.iter().map(|leaf| format!("\"{leaf}\"")).collect::<Vec<_>>().join(", "),
        egress.collect::<String>(),
    );
    let nodes: Vec<&str> = leaves.iter().map(String::as_str).chain(["hub"]).collect();
    let host = Host::with(&nodes, &topology);
    host.wire(&["up"]).expect(0);
    let ends: Vec<[String; 3]> =
        (0..18).map(|n| [format!("w-leaf{}", n + 1), format!("172.16.{n}.0"), format!("172.16.{n}.1")]).collect();
    let both = |[_, from, to]: &[String; 3], hook: &'static str, device: &str| {
        ["tcp dport 80", "udp dport 53"].map(|what| [hook, device, from, to, what].map(str::to_owned))
    };
    let outwards: Vec<[String; 5]> = ends.iter().flat_map(|end| both(end, "output", &end[0])).collect();
    let outwards: Vec<[&str; 5]> = outwards.iter().map(|one| one.each_ref().map(String::as_str)).collect();
    load(&host, "hub", &rules("hub", &outwards));
    load(&host, "host", &rules("host", &[]).replace("host-edge", "host-hub"));
    for (leaf, end) in leaves.iter().zip(&ends) {
        let inwards = both(end, "input", "eth0");
        let inwards: Vec<[&str; 5]> = inwards.iter().map(|one| one.each_ref().map(String::as_str)).collect();
        load(&host, leaf, &rules(leaf, &inwards));
    }
    let start = Instant::now();
    let proof = prove(&host, 0, &[]);
    let took = start.elapsed();
    assert_eq!(proof["unknown"], 0, "{}", proof["unknowns"]);
    assert!(proof["probes"].as_u64() > Some(3000), "{}", proof["probes"]);
    eprintln!("{} probes {took:?}", proof["probes"]);
    assert!(took < Duration::from_secs(5), "{} probes took {took:?}", proof["probes"]);
}

/// What `up` loads is proved, and what is taken away from it at any node is found, until `up` puts it back.
#[test]
fn what_up_loads_is_proved() {
    let host = Host::with(&NODES, HOUSE);
    host.wire(&["up"]).expect(0);
    let whole = prove(&host, 0, &[]);
    assert_eq!(whole["unknown"], 0, "{whole}");
    for node in ["host", "edge", "web", "shop"] {
        host.run(node, &["nft", "flush", "ruleset"]).expect(0);
        let found = listed(&prove(&host, 3, &[]), "violations");
        assert!(found.iter().all(|one| one[0] == node || one[1] == node), "{node}: {found:#?}");
        // Who came to a node without rules, and what that node sent without leave.
        assert!(found.iter().any(|one| one[0] == node) && found.iter().any(|one| one[1] == node), "{node}: {found:#?}");
        host.wire(&["up"]).expect(0);
    }
    assert_eq!(prove(&host, 0, &[])["correct"], whole["correct"]);
}

/// One of everything that the file can say of the outside, of watching, of rates and of IPv6.
const EVERYTHING: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80", "tcp/2222:22", "udp/5000-5003:6000", { flow = "tcp/8443", from = "198.51.100.0/24" }, { flow = "tcp/9000", address = "203.0.113.25" }, { flow = "tcp/9100", on = "eth1" }, { flow = "tcp/9200", rate = "10/minute" }] },
  { name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.101.0/31", allow = ["tcp/22"], allow-back = ["udp/53"] },
  { name = "host-mail", ends = ["host", "mail"], subnet = "192.168.102.0/31", subnet6 = "fd00:102::/127", publish = ["tcp/25"], allow = ["icmp/echo-request", "icmpv6/echo-request", "tcp/143"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", subnet6 = "fd00:1::/127", allow = ["tcp/80", "tcp/8000-8010", "udp/53,67"], allow-back = ["tcp/443"] },
  { name = "edge-game", ends = ["edge", "game"], subnet = "172.16.2.0/31", allow = ["tcp/25565"] },
  { name = "edge-new", ends = ["edge", "new"], subnet = "172.16.3.0/31", mode = "audit" },
  { name = "vpn-git", ends = ["vpn", "git"], subnet = "10.1.1.0/31", allow = [{ flow = "tcp/22", rate = "3/minute", burst = 1 }, { flow = "tcp/9418", from = "10.100.0.0/24" }, "icmp"] },
  { name = "web-db", ends = ["web", "db"], subnet = "10.254.1.0/31", subnet6 = "fd00:254::/127", allow = ["tcp/5432", "icmpv6"] },
  { name = "new-db", ends = ["new", "db"], subnet = "10.254.2.0/31", subnet6 = "fd00:253::/127", mode = "audit" },
]
[host]
uplinks = ["eth0", "eth1"]
policy = "all"
block = "@banned"
allow = ["tcp/22", { flow = "tcp/8022", from = "198.51.100.0/24" }, "icmp/echo-request"]
[module]
m = ["edge", "vpn", "mail", "web", "game", "new", "git", "db", "vault"]
[hub.edge]
zone = "public"
[[hub.edge.forward]]
port = "tcp/25565"
to = "game:25566"
from = "@players"
[hub.vpn]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[node.mail]
egress = ["tcp/25", { flow = "udp/53", to = "192.168.1.1" }]
snat = "203.0.113.25"
[node.web]
egress = ["tcp/443", "icmp/echo-request"]
[node.vpn]
egress = ["udp/123"]
[node.new]
zones = ["public"]
[node.git]
egress = [{ flow = "tcp/443", to = "203.0.113.128/25", rate = "10/minute" }]
[node.vault]
network = "none"
[set.banned]
elements = ["203.0.113.64/26"]
[set.players]
elements = ["100.64.7.1", "198.51.100.200"]
"#;

/// In a lab the outside is proved as well: what is published and where it ends, who is let in and who is not, what nodes open
/// towards it, and that nobody comes in by a route of his own.
#[test]
fn a_lab_proves_the_outside() {
    let host = Host::with(&[], EVERYTHING);
    let lab = host.wire(&["--json", "lab"]).expect(0).json();
    let proof = &lab["prove"];
    assert_eq!((&proof["unknown"], &proof["violations"]), (&json!(0), &json!([])), "{}", proof["unknowns"]);
    // Without an uplink there is no outside.
    let within = HOUSE
        .replace(", publish = [\"tcp/80\"]", "")
        .replace("uplinks = [\"eth0\"]", "")
        .replace("egress = [\"tcp/443\"]", "");
    host.topology(&within);
    let fewer = host.wire(&["--json", "lab"]).expect(0).json();
    assert!(proof["probes"].as_u64() > Some(2000) && fewer["prove"]["probes"].as_u64() > Some(200), "{fewer}");
    let said = host.wire(&["lab"]).expect(0).stderr;
    assert!(said.contains("prove: ") && said.contains(" 0 violations"), "{said}");
}
