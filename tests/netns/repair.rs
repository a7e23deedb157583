//! Drift: whatever is broken by hand is named by `audit`, explained by `plan`, mended by `up`, and after that all is silent.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};

use crate::host::{Dump, Host, expect_silence, text};
use crate::world::{World, small};

/// How `up` is expected to mend.
#[derive(Clone, Copy, PartialEq)]
enum Mend {
    /// No device is made anew.
    InPlace,
    /// The devices of these wires may be made anew, no other.
    Remade(&'static [&'static str]),
}
use Mend::{InPlace, Remade};

/// One way of breaking a wired world: by what commands, and the deviation that `audit` must name.
struct Break {
    by: String,
    node: &'static str,
    wire: &'static str,
    kind: &'static str,
    mend: Mend,
    /// What the person who broke it must tidy up himself.
    tidy: &'static str,
    /// What the message must say besides.
    word: &'static str,
}

fn by(script: impl Into<String>, node: &'static str, wire: &'static str, kind: &'static str, mend: Mend) -> Break {
    Break { by: script.into(), node, wire, kind, mend, tidy: "", word: "" }
}

/// Breaks a small world in each of the ways, and proves for each: `audit` exits 3 and names node, wire and kind, in JSON and
/// to people; `plan` exits 3 and gives a reason; `up` exits 0 and everything is as before; nothing but the broken wire was
/// touched, and that in place where so expected; a second `up` and `audit` find nothing.
fn each_is_named_and_mended(breaks: &[Break]) {
    let world = small();
    each(breaks, |host, wired, case| is_named_and_mended(&world, host, wired, case));
}

/// One after the other on a wired host; after one that fails, on another.
fn each(breaks: &[Break], is_right: impl Fn(&Host, &Dump, &Break)) {
    let world = small();
    let (mut host, wired) = world.up();
    let mut failed = Vec::new();
    for case in breaks {
        if catch_unwind(AssertUnwindSafe(|| is_right(&host, &wired, case))).is_err() {
            eprintln!("^^^ after `{}`\n", case.by);
            failed.push(&*case.by);
            host = world.up().0;
        }
    }
    assert!(failed.is_empty(), "{} of {} ways of breaking: {failed:#?}", failed.len(), breaks.len());
}

fn is_named_and_mended(world: &World, host: &Host, wired: &Dump, case: &Break) {
    let before = world.indexes(host);
    host.sh(&case.by);

    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    let message = message(&audit, case.node, case.wire, case.kind, case.word);
    let names = |text: &str| text.contains(case.wire) && text.contains(case.node) && text.contains(case.word);
    assert!(names(&message), "the message names node and wire: {message}");
    let said = host.wire(&["audit"]).expect(3).stdout;
    assert!(said.lines().any(names), "audit tells people: {said}");

    let plan = host.wire(&["--json", "plan"]).expect(3).json();
    let changes = plan["changes"].as_array().expect("changes");
    assert!(changes.iter().all(|change| !text(&change["reason"]).is_empty()), "each change has a reason: {plan}");
    let broken: &[&str] = match &case.mend {
        InPlace => &[case.wire],
        Remade(wires) => wires,
    };
    let about = |change: &Value| broken.iter().any(|wire| change.to_string().contains(wire));
    // One change mends all that is wrong with the rules of a node.
    let about_rules =
        |change: &Value| case.kind == "rules" && change["node"] == case.node && change["action"] == "load";
    let is_about = |change: &Value| case.wire.is_empty() || about_rules(change) || about(change);
    assert!(changes.iter().any(is_about), "the plan is about {broken:?}: {plan}");

    let up = host.wire(&["--json", "up"]).expect(0).json();
    assert_eq!(up["failed"], json!([]), "{up}");
    assert_ne!(up["done"], json!([]), "{up}");
    host.sh(case.tidy);
    host.dump().expect(wired, "mended");
    for (end, index) in world.indexes(host) {
        let may_be_new = case.mend != InPlace && broken.contains(&end.1);
        assert!(may_be_new || before[&end] == index, "{end:?} was made anew");
    }

    let (monitors, handles) = (world.monitors(host), world.handles(host));
    let again = host.wire(&["--json", "up"]).expect(0).json();
    assert_eq!(again["done"], json!([]), "the second up: {again}");
    expect_silence(&monitors, "the second up");
    assert_eq!(world.handles(host), handles, "the second up made rules anew");
    let audit = host.wire(&["--json", "audit"]).expect(0).json();
    assert_eq!(audit["deviations"], json!([]));
}

/// What is said of one of these deviations with a word in it.
#[track_caller]
fn message(audit: &Value, node: &str, wire: &str, kind: &str, word: &str) -> String {
    let of = |d: &&Value| d["node"] == node && d["wire"].as_str().unwrap_or_default() == wire;
    let deviations = audit["deviations"].as_array().expect("deviations").iter().filter(of);
    let messages = deviations.filter(|d| kind.split('|').any(|kind| d["kind"] == kind)).map(|d| text(&d["message"]));
    let found = messages.into_iter().find(|message| message.contains(word));
    found.unwrap_or_else(|| panic!("no `{kind}` of {wire} at {node} with `{word}` in {audit:#}"))
}

/// The deviation of a kind (or one of several, as in `missing|peer`) at a node, on a wire (empty: on none).
#[track_caller]
pub fn deviation(audit: &Value, node: &str, wire: &str, kind: &str) -> Value {
    let wire = if wire.is_empty() { json!(null) } else { json!(wire) };
    let deviations = audit["deviations"].as_array().expect("deviations");
    let found = deviations
        .iter()
        .find(|d| d["node"] == node && d["wire"] == wire && kind.split('|').any(|kind| d["kind"] == kind));
    found.unwrap_or_else(|| panic!("no `{kind}` of {wire} at {node} in {deviations:#?}")).clone()
}

/// Ends deleted or moved: the pair is made anew, and what was moved is cleared away. A wire that is gone is named once, at
/// its first node.
#[test]
fn lost_ends_are_made_anew() {
    let lost = |script, node, wire| {
        by(script, node, wire, "missing", Remade(WIRES.iter().find(|w| w[0] == wire).expect("it")))
    };
    let moved = |script, node, wire| Break { kind: "peer", ..lost(script, node, wire) };
    const WIRES: [&[&str]; 3] = [&["edge-web"], &["host-edge"], &["shop-web-database"]];
    each_is_named_and_mended(&[
        lost("ip -n web link del eth0", "edge", "edge-web"),
        lost("ip -n edge link del edge-web", "edge", "edge-web"),
        lost("ip link del host-edge", "host", "host-edge"),
        lost("ip -n shop link del shop-web-database", "shop", "shop-web-database"),
        moved("ip -n web link set eth0 netns vault", "edge", "edge-web"),
        moved("ip -n edge link set edge-web netns vault", "edge", "edge-web"),
        moved("ip -n edge link set edge-web netns $$", "edge", "edge-web"),
        moved("ip link set host-edge netns vault", "host", "host-edge"),
        moved(
            "ip -n web link property del dev eth0 altname edge-web; ip -n web link set eth0 name eth9 netns edge",
            "edge",
            "edge-web",
        ),
        moved("ip -n edge link set edge-web netns lan", "edge", "edge-web"),
    ]);
}

/// A namespace that died and came back, as with a restarted container: every wire that ended in it is made anew at both
/// ends, and no other.
#[test]
fn a_restarted_node_is_wired_again() {
    each_is_named_and_mended(&[
        by(restart("web"), "edge", "edge-web", "missing|peer", WEB),
        by(restart("web"), "shop", "shop-web-database", "missing|peer", WEB),
        by(
            restart("edge"),
            "host",
            "host-edge",
            "missing|peer",
            Remade(&["host-edge", "edge-web", "edge-shop-and-its-till"]),
        ),
    ]);
}

/// The same while something keeps the old namespace alive, so that the far ends do not go by themselves.
#[test]
fn a_restarted_node_is_wired_again_while_the_old_one_lives() {
    let world = small();
    let (host, wired) = world.up();
    let _old = host.inhabit("web");
    is_named_and_mended(&world, &host, &wired, &by(restart("web"), "edge", "edge-web", "missing|peer", WEB));
}

const WEB: Mend = Remade(&["edge-web", "shop-web-database"]);

fn restart(node: &str) -> String {
    format!("ip netns del {node}; ip netns add {node}")
}

/// Two wires whose far ends were exchanged, perfect in every name, mark, address and setting: only the peer is wrong.
#[test]
fn exchanged_peers_are_told_apart() {
    let world = small();
    let (host, wired) = world.up();
    let mac = |node: &str, wire: &str| text(&host.link(node, wire)["address"]);
    let marked = |mac: String| format!("address {mac} group {} numtxqueues 1 numrxqueues 1", crate::world::GROUP);
    let long = text(&host.link("edge", "edge-shop-and-its-till")["ifname"]);
    let [ew, es] = ["edge-web", "edge-shop-and-its-till"].map(|wire| marked(mac("edge", wire)));
    let (w, s) = (marked(mac("web", "edge-web")), marked(mac("shop", "edge-shop-and-its-till")));
    host.sh("ip -n web link del eth0; ip -n shop link del eth0");
    host.sh(&format!(
        "set -e
         ip link add edge-web netns edge {ew} type veth peer name eth0 netns shop mtu 1400 {s}
         ip link add {long} netns edge mtu 1400 {es} type veth peer name eth0 netns web {w}
         ip -n edge link property add dev {long} altname edge-shop-and-its-till
         ip -n shop link property add dev eth0 altname edge-shop-and-its-till
         ip -n web link property add dev eth0 altname edge-web
         ip -n edge link set edge-web alias wire:edge-web
         ip -n web link set eth0 alias wire:edge-web
         ip -n edge link set {long} alias wire:edge-shop-and-its-till
         ip -n shop link set eth0 alias wire:edge-shop-and-its-till
         settle() {{
           nsenter --net=/run/netns/$1 sh -ec \"cd /proc/sys/net; echo 1 >ipv6/conf/$2/disable_ipv6
             cd ipv4/conf/$2; echo 2 >arp_ignore; echo 2 >arp_announce; echo 1 >rp_filter; echo $4 >forwarding
             for key in accept_redirects send_redirects accept_source_route route_localnet proxy_arp; do echo 0 >\\$key; done\"
           ip -n $1 address add $3/31 dev $2
           ip -n $1 link set $2 up
         }}
         settle edge edge-web 172.16.1.0 1
         settle edge {long} 172.16.2.0 1
         settle web eth0 172.16.1.1 0
         settle shop eth0 172.16.2.1 0
         ip -n web route add 10.100.0.0/24 via 172.16.1.0 dev eth0 proto 119
         ip -n shop route add 10.100.0.0/24 via 172.16.2.0 dev eth0 proto 119
         ip -n shop route add default via 172.16.2.0 dev eth0 proto 119"
    ));
    host.dump().expect(&wired, "the exchanged wires look right");
    assert!(!host.reaches("edge", "172.16.1.1", 80));
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    deviation(&audit, "edge", "edge-web", "peer");
    deviation(&audit, "edge", "edge-shop-and-its-till", "peer");
    host.wire(&["up"]).expect(0);
    host.dump().expect(&wired, "mended");
    world.observe(&host);
    host.wire(&["audit"]).expect(0);
}

/// Names, marks and states of a device are set right on the living device.
#[test]
fn a_changed_link_is_mended_in_place() {
    let rename = |node: &str, old: &str, new: &str| {
        format!(
            "ip -n {node} link set {old} down; ip -n {node} link set {old} name {new}; ip -n {node} link set {new} up"
        )
    };
    let mut bridged = by(
        "ip -n edge link add br0 type bridge; ip -n edge link set edge-web master br0",
        "edge",
        "edge-web",
        "bridged",
        InPlace,
    );
    bridged.tidy = "ip -n edge link del br0";
    each_is_named_and_mended(&[
        by(rename("edge", "edge-web", "other"), "edge", "edge-web", "name", InPlace),
        by(rename("web", "eth0", "eth7"), "web", "edge-web", "name", InPlace),
        by("ip -n web link set eth0 down", "web", "edge-web", "down", InPlace),
        by("ip -n edge link set edge-web down", "edge", "edge-web", "down", InPlace),
        by("ip link set host-edge down", "host", "host-edge", "down", InPlace),
        by("ip -n edge link set host-edge down", "edge", "host-edge", "down", InPlace),
        by("ip -n shop link set dev shop-web-database down", "shop", "shop-web-database", "down", InPlace),
        by("ip -n web link set eth0 mtu 1280", "web", "edge-web", "mtu", InPlace),
        by("ip link set host-edge mtu 9000", "host", "host-edge", "mtu", InPlace),
        by("ip -n shop link set eth0 mtu 1500", "shop", "edge-shop-and-its-till", "mtu", InPlace),
        by("ip -n web link set eth0 address 02:00:00:00:00:01", "web", "edge-web", "mark", InPlace),
        by("ip -n web link set eth0 alias mine", "web", "edge-web", "mark", InPlace),
        by("ip -n web link set eth0 alias ''", "web", "edge-web", "mark", InPlace),
        by("ip -n web link set eth0 alias wire:shop-web-database", "web", "edge-web", "mark", InPlace),
        by("ip -n web link set eth0 group default", "web", "edge-web", "mark", InPlace),
        by("ip link set host-edge group 7", "host", "host-edge", "mark", InPlace),
        by("ip -n web link property del dev eth0 altname edge-web", "web", "edge-web", "altname", InPlace),
        by(
            "ip -n edge link property del dev edge-shop-and-its-till altname edge-shop-and-its-till",
            "edge",
            "edge-shop-and-its-till",
            "altname",
            InPlace,
        ),
        by(
            "ip -n web link set eth0 mtu 1280 alias mine group 5; ip -n web address flush dev eth0",
            "web",
            "edge-web",
            "address",
            InPlace,
        ),
        bridged,
    ]);
}

/// Addresses and routes are put back, and marked routes that nobody wants removed, without touching the device.
#[test]
fn addresses_and_routes_are_mended_in_place() {
    each_is_named_and_mended(&[
        by("ip -n web address del 172.16.1.1/31 dev eth0", "web", "edge-web", "address", InPlace),
        by("ip -n edge address del 172.16.1.0/31 dev edge-web", "edge", "edge-web", "address", InPlace),
        by("ip address del 192.168.100.0/31 dev host-edge", "host", "host-edge", "address", InPlace),
        by("ip -n edge address flush dev host-edge", "edge", "host-edge", "address", InPlace),
        by(
            "ip -n shop address del fd00:254::/127 dev shop-web-database",
            "shop",
            "shop-web-database",
            "address",
            InPlace,
        ),
        by("ip -n edge route del default", "edge", "host-edge", "route", InPlace),
        by("ip -n web route del 10.100.0.0/24", "web", "edge-web", "route", InPlace),
        by("ip -n shop route del default", "shop", "edge-shop-and-its-till", "route", InPlace),
        by(
            "ip -n edge route replace default via 172.16.1.1 dev edge-web proto 119",
            "edge",
            "host-edge",
            "route",
            InPlace,
        ),
        by(
            "ip -n web route add 198.51.100.0/24 via 172.16.1.0 dev eth0 proto 119",
            "web",
            "edge-web",
            "route",
            InPlace,
        ),
        by("ip -n web route add default via 172.16.1.0 dev eth0 proto 119", "web", "edge-web", "route", InPlace),
        by("ip -n web route del 172.16.1.0/31 dev eth0", "web", "edge-web", "route", InPlace),
        by("ip route del 192.168.100.0/31", "host", "host-edge", "route", InPlace),
    ]);
}

/// Every setting of every kind of device, flipped one by one.
#[test]
fn settings_are_mended_in_place() {
    const WRONG: [(&str, &str); 9] = [
        ("forwarding", "1"),
        ("rp_filter", "0"),
        ("arp_ignore", "0"),
        ("arp_announce", "0"),
        ("accept_redirects", "1"),
        ("send_redirects", "1"),
        ("accept_source_route", "1"),
        ("route_localnet", "1"),
        ("proxy_arp", "1"),
    ];
    let set = |node: &str, key: String, value: &str| match node {
        "host" => format!("echo {value} >/proc/sys/net/{key}"),
        node => format!("nsenter --net=/run/netns/{node} sh -c 'echo {value} >/proc/sys/net/{key}'"),
    };
    let mut breaks = Vec::new();
    for (node, device, wire) in [("web", "eth0", "edge-web"), ("host", "host-edge", "host-edge")] {
        for (key, value) in WRONG {
            breaks.push(by(set(node, format!("ipv4/conf/{device}/{key}"), value), node, wire, "setting", InPlace));
        }
        let key = format!("ipv6/conf/{device}/disable_ipv6");
        breaks.push(by(set(node, key, "0"), node, wire, "ipv6", InPlace));
    }
    for (key, value) in [("forwarding", "1"), ("accept_redirects", "1"), ("route_localnet", "1")] {
        breaks.push(by(set("edge", format!("ipv4/conf/all/{key}"), value), "edge", "", "setting", InPlace));
    }
    breaks.push(by(set("edge", "ipv4/conf/edge-web/rp_filter".into(), "2"), "edge", "edge-web", "setting", InPlace));
    // Where packets pass it is forwarding that is off which is wrong.
    breaks.retain(|case| !case.by.contains("host-edge/forwarding"));
    for (node, device, wire) in [
        ("host", "host-edge", "host-edge"),
        ("edge", "host-edge", "host-edge"),
        ("edge", "edge-web", "edge-web"),
        ("host", "eth0", ""),
        ("edge", "default", ""),
    ] {
        breaks.push(by(set(node, format!("ipv4/conf/{device}/forwarding"), "0"), node, wire, "setting", InPlace));
    }
    for (node, device) in [("shop", "shop-web-database"), ("web", "shop-web-database")] {
        let device = format!("$(ls /proc/sys/net/ipv4/conf | grep ^{})", &device[..6]);
        let key = format!("ipv4/conf/{device}/forwarding");
        breaks.push(by(set(node, key, "1"), node, "shop-web-database", "setting", InPlace));
    }
    each_is_named_and_mended(&breaks);
}

/// Forwarding of a whole hub switched on and off again takes along every device that must forward, and one plan says all.
#[test]
fn forwarding_of_a_whole_namespace_is_mended_at_once() {
    let world = small();
    let (host, wired) = world.up();
    for value in ["1", "0"] {
        host.set_sysctl("edge", "ipv4/conf/all/forwarding", "1");
        host.set_sysctl("edge", "ipv4/conf/all/forwarding", value);
        let plan = host.wire(&["--json", "plan"]).expect(3).json();
        let up = host.wire(&["--json", "up"]).expect(0).json();
        assert_eq!(up["done"], plan["changes"], "up does what plan says");
        host.dump().expect(&wired, "mended");
        host.wire(&["audit"]).expect(0);
    }
}

/// A loose `rp_filter` of the whole namespace would undo that of an end: it is tightened, and put back by `down`.
#[test]
fn a_loose_rp_filter_is_tightened() {
    let (host, _) = small().up();
    host.set_sysctl("edge", "ipv4/conf/all/rp_filter", "2");
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    deviation(&audit, "edge", "", "setting");
    host.wire(&["up"]).expect(0);
    assert_eq!(host.sysctl("edge", "ipv4/conf/all/rp_filter"), "1");
    host.wire(&["audit"]).expect(0);
    host.wire(&["down"]).expect(0);
    assert_eq!(host.sysctl("edge", "ipv4/conf/all/rp_filter"), "2");
}

/// The same for a wire with IPv6: its settings, and IPv6 switched off, which takes the addresses with it.
#[test]
fn settings_of_ipv6_are_mended_in_place() {
    let set = |key: &str, value: &str| {
        let device = "$(ls /proc/sys/net/ipv6/conf | grep ^shop-w)";
        format!("nsenter --net=/run/netns/web sh -c 'echo {value} >/proc/sys/net/ipv6/conf/{device}/{key}'")
    };
    let wire = "shop-web-database";
    let one =
        ["accept_ra", "autoconf", "accept_redirects", "accept_source_route", "forwarding", "proxy_ndp", "accept_dad"];
    let mut breaks: Vec<Break> = one.map(|key| by(set(key, "1"), "web", wire, "ipv6", InPlace)).into();
    breaks.push(by(set("disable_ipv6", "1"), "web", wire, "ipv6", InPlace));
    each_is_named_and_mended(&breaks);
}

/// Words for those who break rules: what finds a rule, one goes, a chain goes with all it holds.
const WORDS: &str = r#"
wire="inet wire"
handle() { nft -a list chain $wire "$1" | grep -e "$2" | tail -n 1 | sed 's/.* # //'; }
drop() { nft delete rule $wire "$1" $(handle "$1" "$2"); }
lose() { nft flush chain $wire "$1"; nft delete chain $wire "$1"; }
"#;

/// Breaks the rules of a node; the deviation must say a word.
fn rules(node: &'static str, wire: &'static str, word: &'static str, script: &str) -> Break {
    let at = if node == "host" { String::new() } else { format!("nsenter --net=/run/netns/{node} ") };
    Break { word, ..by(format!("{at}sh -es <<'END'\n{WORDS}{script}\nEND"), node, wire, "rules", InPlace) }
}

/// Whatever is done to the rules of a node is named by chain or set and by wire, and mended without touching a device.
#[test]
fn rules_are_mended_in_place() {
    let web = |word, script: &str| rules("web", "edge-web", word, script);
    let edge = |word, script: &str| rules("edge", "", word, script);
    let of_wire = |word, script: &str| rules("edge", "edge-web", word, script);
    let host = |word, script: &str| rules("host", "", word, script);
    are_mended_and_keep_their_counts(&[
        // Rules that are gone.
        web("lacks the rule `ip saddr 172.16.1.0", r#"drop in.edge-web 'open tcp/80"'"#),
        web("in.edge-web lacks the rule `goto", "drop in.edge-web '^.*goto'"),
        of_wire("out.edge-web", "nft flush chain $wire out.edge-web"),
        of_wire("denied.edge-web lacks", "drop denied.edge-web counter"),
        edge("chain input lacks", "drop input vmap"),
        edge("chain output lacks the rule `counter drop`", "drop output counter"),
        rules("shop", "", "chain related", "drop related icmpv6"),
        host("prerouting", "drop prerouting 'publish tcp/80'"),
        host("postrouting", "drop postrouting masquerade"),
        rules("host", "host-edge", "outside.host-edge", "drop outside.host-edge dnat"),
        rules("vault", "", "chain input lacks", "drop input counter"),
        // Rules that are too many.
        web("in.edge-web has the rule `accept`", "nft add rule $wire in.edge-web accept"),
        web("tcp dport 22", "nft insert rule $wire in.edge-web tcp dport 22 accept"),
        web("in.edge-web has the rule", "nft insert rule $wire in.edge-web meta mark 7 accept"),
        web("in.edge-web has the rule", "nft insert rule $wire in.edge-web jump { accept \\; }"),
        web("not to be there", "nft add rule $wire in.edge-web goto denied.edge-web"),
        edge("chain input has the rule `accept`", "nft insert rule $wire input accept"),
        edge("chain forward has", "nft insert rule $wire forward counter accept"),
        rules("vault", "", "chain output has", "nft insert rule $wire output accept"),
        // Rules that are others, or stand elsewhere.
        web(
            "tcp dport 81",
            r#"nft replace rule $wire in.edge-web $(handle in.edge-web 'open tcp/80"') tcp dport 81 accept"#,
        ),
        web(
            "in.edge-web lacks",
            r#"nft replace rule $wire in.edge-web $(handle in.edge-web 'open tcp/80"') \
               ip saddr 172.16.1.0 ip daddr 172.16.1.1 tcp dport 80 ct state new accept"#,
        ),
        web("not in their order", "drop in.edge-web '^.*goto'; nft insert rule $wire in.edge-web goto denied.edge-web"),
        // Sets and maps.
        edge("inside lacks 172.16.1.0", "nft delete element $wire inside { 172.16.1.0/31 }"),
        edge("private has 8.8.8.8", "nft add element $wire private { 8.8.8.8 }"),
        edge(
            "private",
            "nft delete element $wire private { 10.0.0.0/8 }; nft add element $wire private { 10.0.0.0/9 }",
        ),
        edge("forward lacks", "nft flush map $wire forward"),
        edge(
            "edge-web in set input",
            r#"nft delete element $wire input { '"edge-web" : goto in.edge-web' }
               nft add element $wire input { '"edge-web" : goto in.host-edge' }"#,
        ),
        edge("input has eth9", r#"nft add element $wire input { '"eth9" : accept' }"#),
        // The whole table, and its ways in.
        of_wire("in.edge-web", "nft flush table $wire"),
        edge("there are none", "nft delete table $wire"),
        edge("dormant", "nft add table $wire { flags dormant\\; }"),
        edge("chain input is not entered", "nft chain $wire input { policy accept\\; }"),
        edge("chain forward is missing", "lose forward"),
        edge(
            "chain forward is not entered",
            "lose forward; nft add chain $wire forward { type filter hook forward priority 10\\; policy drop\\; }",
        ),
        of_wire(
            "in.edge-web is missing",
            r#"nft delete element $wire input { '"edge-web" : goto in.edge-web' }; lose in.edge-web"#,
        ),
        of_wire("in.edge-web is missing", "nft rename chain $wire in.edge-web mine"),
        // What somebody keeps in it.
        edge("mine", "nft add chain $wire mine"),
        edge("mine", "nft add chain $wire mine { type filter hook input priority -5\\; policy accept\\; }"),
        edge("mine", "nft add set $wire mine { type ipv4_addr\\; }"),
        edge("mine", "nft add map $wire mine { type ifname : verdict\\; }"),
        edge("mine", "nft add counter $wire mine"),
        edge("mine", "nft add quota $wire mine { over 10 mbytes \\; }"),
        // Counters.
        of_wire(
            "counter denied.edge-web is missing",
            "nft flush chain $wire denied.edge-web; nft delete counter $wire denied.edge-web",
        ),
    ]);
}

/// What was denied before is still counted when the rules have been mended, but for what was counted in a table or a counter
/// that somebody has deleted.
fn are_mended_and_keep_their_counts(breaks: &[Break]) {
    let world = small();
    let counts = |host: &Host| {
        let audit = host.wire(&["--json", "audit"]).expect(0).json();
        let wires = audit["wires"].as_array().expect("wires").iter();
        wires.map(|wire| (text(&wire["name"]), wire["denied"].as_u64().expect("a number"))).collect::<Vec<_>>()
    };
    each(breaks, |host, wired, case| {
        for wire in &world.wires {
            for end in [0, 1] {
                assert!(!host.ping(wire.ends[end].0, wire.ends[1 - end].2));
            }
        }
        let before = counts(host);
        assert!(before.iter().all(|(_, denied)| *denied >= 2), "{before:?}");
        is_named_and_mended(&world, host, wired, case);
        if !["delete table", "delete counter"].iter().any(|lost| case.by.contains(lost)) {
            assert_eq!(counts(host), before);
        }
    });
}

/// A wire whose rules are not as they are to be is drifting, at both ends' word; the rules of a node are those of all its wires.
#[test]
fn a_wire_without_its_rules_is_drifting() {
    let world = small();
    let (host, _) = world.up();
    let drifting = || {
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        let wires = audit["wires"].as_array().expect("wires").iter().filter(|wire| wire["state"] == "drift");
        wires.map(|wire| text(&wire["name"])).collect::<Vec<_>>()
    };
    host.sh("nsenter --net=/run/netns/web nft flush chain inet wire in.edge-web");
    assert_eq!(drifting(), ["edge-web"]);
    host.sh("nsenter --net=/run/netns/web nft delete table inet wire");
    assert_eq!(drifting(), ["edge-web", "shop-web-database"]);
    host.wire(&["up"]).expect(0);
    host.wire(&["audit"]).expect(0);
}

/// A file that changed: `up` turns what the old one made into what it makes from nothing with the new one, says so
/// beforehand, and leaves the wires alone that did not change.
#[test]
fn a_changed_file_is_followed() {
    let old = small();
    let line = |name: &str| {
        let start = format!("  {{ name = \"{name}\"");
        old.topology.lines().find(|line| line.starts_with(&start)).expect("a wire of this world").to_owned() + "\n"
    };
    let web = line("edge-web");
    let second = "  { name = \"second-web\", ends = [\"edge\", \"web\"], subnet = \"172.16.3.0/31\" },\n";
    let without = |words: &[&str]| -> String {
        let kept = old.topology.lines().filter(|line| !words.iter().any(|word| line.contains(word)));
        kept.map(|line| format!("{line}\n")).collect()
    };
    let cases: [(&str, String, &[&str]); 17] = [
        ("a wire struck", old.topology.replace(&web, ""), &["edge-web"]),
        (
            "a host wire struck",
            old.topology.replace(&line("host-edge"), "").replace("egress", "# egress"),
            &["host-edge"],
        ),
        ("a wire renamed", old.topology.replace("\"edge-web\"", "\"edge-to-the-web\""), &["edge-web"]),
        ("a wire added", old.topology.replace(&web, &format!("{web}{second}")), &[]),
        (
            "two nodes struck",
            without(&["edge-web", "edge-shop", "shop-web", "shops =", "node.shop", "egress", "node.vault", "network"]),
            &["edge-web", "edge-shop-and-its-till", "shop-web-database"],
        ),
        (
            "a hub no more",
            without(&["hub.edge", "zone", "clients", "egress", "node.shop"]),
            &["edge-web", "edge-shop-and-its-till"],
        ),
        ("another subnet", old.topology.replace("172.16.1.0/31", "172.16.9.0/31"), &["edge-web"]),
        ("another MTU", old.topology.replace("mtu = 1400", "mtu = 1300"), &["edge-shop-and-its-till"]),
        ("no MTU", old.topology.replace(", mtu = 1400", ""), &["edge-shop-and-its-till"]),
        ("ends exchanged", old.topology.replace("[\"edge\", \"web\"]", "[\"web\", \"edge\"]"), &["edge-web"]),
        ("another far end", old.topology.replace("[\"edge\", \"web\"]", "[\"edge\", \"vault\"]"), &["edge-web"]),
        ("another first hub wire", old.topology.replace(&web, &format!("{second}{web}")), &["edge-web"]),
        (
            "own device names",
            old.topology.replace("allow = [\"tcp/80\"] },", "ifname = [\"w\", \"x\"] },"),
            &["edge-web"],
        ),
        ("no IPv6", old.topology.replace(" subnet6 = \"fd00:254::/127\",", ""), &["shop-web-database"]),
        (
            "IPv6",
            old.topology.replace("1.0/31\", allow =", "1.0/31\", subnet6 = \"fd00:1::/127\", allow ="),
            &["edge-web"],
        ),
        ("no egress", old.topology.replace("egress = [\"tcp/443\"]", ""), &["edge-shop-and-its-till"]),
        (
            "two subnets exchanged",
            old.topology.replace("172.16.1.0", "X").replace("172.16.2.0", "172.16.1.0").replace('X', "172.16.2.0"),
            &["edge-web", "edge-shop-and-its-till"],
        ),
    ];
    let host = old.host();
    let pristine = host.dump();
    let mut failed = Vec::new();
    for (what, new, touched) in cases {
        assert_ne!(new, old.topology, "{what}");
        let new = if what == "another far end" { new.replace("[node.vault]\nnetwork = \"none\"\n", "") } else { new };
        let followed = catch_unwind(AssertUnwindSafe(|| {
            host.topology(&old.topology);
            host.wire(&["up"]).expect(0);
            let before = old.indexes(&host);
            host.topology(&new);
            host.wire(&["audit"]).expect(3);
            host.wire(&["plan"]).expect(3);
            host.wire(&["up"]).expect(0);
            let followed = host.dump();
            for ((node, wire), index) in before.into_iter().filter(|((_, wire), _)| !touched.contains(wire)) {
                assert_eq!(host.link(node, wire)["ifindex"], index, "{wire} at {node} was left alone");
            }
            let monitors = old.monitors(&host);
            host.wire(&["up"]).expect(0);
            expect_silence(&monitors, "the second up");
            host.wire(&["audit"]).expect(0);
            host.wire(&["down"]).expect(0);
            host.dump().expect(&pristine, what);
            host.wire(&["up"]).expect(0);
            // A device whose IPv6 is off keeps the other settings of IPv6 that it had.
            let idle =
                |fact: &str| what == "no IPv6" && fact.contains("ipv6/conf/shop-w") && !fact.contains("disable_ipv6");
            followed.only(|fact| !idle(fact)).expect(&host.dump().only(|fact| !idle(fact)), what);
        }));
        if followed.is_err() {
            eprintln!("^^^ {what}\n");
            failed.push(what);
        }
        host.wire(&["down"]).expect(0);
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// A wire that left the file is named as struck, by the name it had.
#[test]
fn a_struck_wire_is_named() {
    let world = small();
    let (host, _) = world.up();
    let without: String =
        world.topology.lines().filter(|line| !line.contains("\"edge-web\"")).map(|l| format!("{l}\n")).collect();
    host.topology(&without);
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    assert!(text(&deviation(&audit, "edge", "edge-web", "struck")["message"]).contains("edge-web"));
    host.wire(&["up"]).expect(0);
    assert!(!host.links("edge").contains(&"edge-web".to_owned()));
    host.wire(&["audit"]).expect(0);
}
