//! T38 to T51: what those can do who have rights of their own, and what is written into the file.

use std::io::{BufRead, BufReader};
use std::time::Instant;

use serde_json::Value;

use super::gate::taken_over;
use super::time::Talk;
use super::{HOUSE, House, until};
use crate::host::{Dump, TOPOLOGY, WIRE};
use crate::packet::{ICMP, PATIENCE, Packet, SYN, TAG, TCP, Tap, UDP, echo, tcp, udp};

/// T38: a leaf with CAP_NET_ADMIN does what it likes to its end of a wire: renames it, flushes its rules, takes addresses and routes,
/// lets forward, ties its two wires together by a bridge, takes every mark from the device, deletes it. Nothing new is reachable
/// after any of it, other wires do not notice, and `audit` names what was done.
///
/// It depends on the far end's rules: with those out, other ports are reached.
#[test]
fn t38_a_leaf_with_every_right() {
    // What is done at `web`, the word that `audit` says of it, and how it is undone where `up` leaves it to its owner.
    let acts = [
        ("ip link set eth0 down; ip link set eth0 name wan0; ip link set wan0 up", "wan0", ""),
        ("ip link set eth0 name web-net", "web-net", ""),
        ("nft flush ruleset", "rules", ""),
        ("nft insert rule inet wire output accept; nft insert rule inet wire input accept", "accept", ""),
        ("ip address add 172.16.2.1/32 dev eth0", "172.16.2.1", "ip address del 172.16.2.1/32 dev eth0"),
        (
            "ip address del 172.16.1.1/31 dev eth0; ip address add 172.16.1.1/24 dev eth0",
            "172.16.1.1",
            "ip address del 172.16.1.1/24 dev eth0",
        ),
        ("ip route add default via 172.16.1.0", "default", "ip route del default"),
        ("echo 1 >/proc/sys/net/ipv4/ip_forward", "forwarding", ""),
        (
            "echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_ignore",
            "rp_filter",
            "",
        ),
        (
            "ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0; ip link set web-db master br0",
            "br0",
            "ip link del br0",
        ),
        ("ip link set eth0 address 02:00:00:00:00:99", "edge-web", ""),
        ("ip link set eth0 mtu 9000", "mtu", ""),
        ("ip link set eth0 alias '' group default", "edge-web", ""),
        ("ip link del eth0", "edge-web", ""),
    ];
    let Some(house) = House::up() else { return };
    let ears = [UDP, TCP, ICMP].map(|protocol| house.ear("edge", protocol));
    let others = [house.ear("shop", UDP), house.ear("db", UDP), house.ear("host", UDP), house.ear("lan", UDP)];
    let ears: Vec<_> = ears.iter().chain(&others).collect();
    let own = "172.16.1.1";
    let mut packets: Vec<Packet> = [22, 80, 81].map(|port| udp(own, "172.16.1.0", port)).into();
    packets.extend([tcp(own, "172.16.1.0", 443, SYN), echo(own, "172.16.1.0")]);
    packets.extend([("172.16.2.0", 443), ("192.168.100.1", 80)].map(|(to, port)| udp(own, to, port)));
    let onwards = [("172.16.2.1", 80), ("192.168.100.0", 9), ("192.0.2.1", 80)].map(|(to, port)| udp(own, to, port));
    for (act, word, undo) in acts {
        let (web, shop, ear) = (house.from("web", "edge-web"), house.from("edge", "edge-shop"), house.ear("shop", UDP));
        house.host.run("web", &["sh", "-ec", act]).expect(0);
        let audit = house.host.wire(&["--json", "audit"]).expect(3).json();
        let about = |deviation: &&Value| deviation["node"] == "web" || deviation["wire"] == "edge-web";
        let deviations = audit["deviations"].as_array().expect("deviations");
        let named: String = deviations.iter().filter(about).map(|deviation| deviation.to_string() + "\n").collect();
        assert!(named.contains(word), "`{act}` at web: {deviations:#?}");
        let talks = |deviation: &&Value| !["web", "edge"].contains(&deviation["node"].as_str().unwrap_or_default());
        let elsewhere: Vec<_> = deviations.iter().filter(talks).filter(|one| one["wire"] != "web-db").collect();
        assert!(elsewhere.is_empty(), "`{act}` at web is said of others: {elsewhere:#?}");
        if act != "ip link del eth0" {
            house.denies("edge-web", &web, &packets, &ears);
            house.the_kernel_drops("edge", &web, &onwards, &ears);
        }
        house.passes(&shop, &udp("172.16.2.0", "172.16.2.1", 80), &ear);
        house.host.run("web", &["sh", "-ec", undo]).expect(0);
        ears.iter().for_each(|ear| drop(ear.heard()));
        house.mended();
    }
    let web = house.from("web", "edge-web");
    house.open("edge", "in.edge-web");
    packets.iter().take(3).for_each(|packet| house.passes(&web, packet, ears[0]));
}

/// For experiments (IEEE 802): the rules may see what of IP is bridged (br_netfilter), but not this.
const NOT_IP: [u8; 2] = [0x88, 0xb5];

/// T39: a leaf with CAP_NET_RAW listens to everything (promiscuous), while its neighbours talk, to each other and to frames for
/// nobody. It hears its own wires and nothing else.
///
/// It depends on wires being links between two: with the hub's ends in one bridge it hears.
#[test]
fn t39_listening() {
    let Some(house) = House::up() else { return };
    house.host.sh("ip -n web link set eth0 promisc on; ip -n web link set web-db promisc on");
    let tap = Tap::at(&house.host, "web");
    let (shop, git) = (house.from("shop", "edge-shop"), house.from("git", "vpn-git"));
    let (edge, ear, _open) = (house.from("edge", "edge-web"), house.ear("edge", UDP), house.ear("web", UDP));
    house.passes(&shop, &udp("172.16.2.1", "172.16.2.0", 443), &ear);
    git.send(&udp("10.1.1.1", "10.1.1.0", 22));
    let mut lost = shop;
    lost.far = [2, 0, 0, 0, 0, 0x77];
    lost.send(&udp("172.16.2.1", "172.16.2.0", 443));
    lost.frame(NOT_IP, TAG);
    edge.send(&udp("172.16.1.0", "172.16.1.1", 80));
    let mut heard = Vec::new();
    until("it hears its own wire", || {
        heard.extend(tap.heard());
        !heard.is_empty()
    });
    // From 172.16.1.0 to 172.16.1.1, which stand in the header of IP, behind that of Ethernet.
    assert_eq!(heard.iter().map(|frame| &frame[26..34]).collect::<Vec<_>>(), [[172, 16, 1, 0, 172, 16, 1, 1]]);

    house.host.sh("ip -n edge link add br0 type bridge; ip -n edge link set br0 up
         ip -n edge link set edge-web master br0; ip -n edge link set edge-shop master br0");
    until("it hears what is for nobody", || {
        lost.frame(NOT_IP, TAG);
        !tap.heard().is_empty()
    });
}

/// What could mean something else where text is put together.
const NASTY: [&str; 12] = [
    r#"x\" ; accept comment \"y"#,
    r#"x\"; flush ruleset; #"#,
    r"x\n add rule inet wire input accept",
    r"x\u0000y",
    "x;y",
    "$(reboot)",
    "`id`",
    "../../x",
    "-rf",
    r"\u202Eetupmi\u202C",
    "🔥",
    "x y",
];

/// T40: every text of a file, one after the other, is one that would end a string, a line or a command and begin another: in
/// quotes, with newlines, NUL, backquotes, right to left, ten thousand letters. Each is refused with its place, or is a device's
/// or file's name and no more: then rules are the same but for that name, in the kernel and as text, which loads as what it says.
///
/// It depends on names being of few letters, and on the kernel being told in numbers: there is no rule to take out. A device may
/// have most of these names.
#[test]
fn t40_texts_that_mean_something_else() {
    let named = r#"
version = 1
runtime = "netns"
wire = [
  { name = "WIRE", ends = ["host", "NODE"], subnet = "192.168.100.0/31", ifname = ["NEAR", "FAR"], publish = [{ flow = "tcp/80", on = "ON", from = "@SET" }] },
]
[host]
uplinks = ["UPLINK"]
[module]
MODULE = ["NODE"]
[hub.NODE]
zone = "ZONE"
clients = { prefix = "10.100.0.0/24", device = "TUNNEL" }
[node.NODE]
netns = "NETNS"
[set.SET]
elements = ["192.0.2.7"]
file = "FILE"
"#;
    let usual = [
        ("WIRE", "host-edge"),
        ("MODULE", "gates"),
        ("NODE", "edge"),
        ("NETNS", "edge"),
        ("NEAR", "near"),
        ("FAR", "far"),
        ("ON", "eth1"),
        ("SET", "players"),
        ("UPLINK", "eth0"),
        ("ZONE", "public"),
        ("TUNNEL", "wg0"),
        ("FILE", "/run/players"),
    ];
    let file = |changed: &str, to: &str| {
        usual
            .iter()
            .fold(named.to_owned(), |text, (word, value)| text.replace(word, if *word == changed { to } else { value }))
    };
    let Some(house) = House::of(&file("", "")) else { return };
    house.host.write("/run/players", "");
    let shape = |dump: &Dump| {
        let rules = dump
            .0
            .iter()
            .filter(|fact| fact.contains(" nft ") && !fact.contains("\"map\"") && !fact.contains("\"set\""));
        let count = |word: &str| rules.clone().filter(|fact| fact.contains(word)).count();
        ["\"rule\"", "\"chain\"", "\"table\"", "\"accept\"", "\"drop\"", "\"goto\""].map(count)
    };
    let wanted = shape(&house.host.dump());
    let long = "x".repeat(10_000);
    let mut taken = 0;
    for (word, _) in usual {
        for nasty in NASTY.iter().copied().chain([&*long]) {
            house.host.topology(&file(word, nasty));
            let check = house.host.wire(&["check"]);
            if check.code != 0 {
                assert_eq!(check.code, 2, "{word} = {nasty}: {check:?}");
                assert!(check.stderr.contains(TOPOLOGY), "{word} = {nasty}: {}", check.stderr);
                continue;
            }
            assert!(
                ["NEAR", "FAR", "ON", "UPLINK", "TUNNEL", "FILE", "ZONE", "NETNS"].contains(&word),
                "{word} = {nasty}"
            );
            let up = house.host.wire(&["up"]);
            assert!([0, 1].contains(&up.code), "{word} = {nasty}: {up:?}");
            if up.code == 0 {
                taken += 1;
                let rendered = house.host.wire(&["render", "nft", "host"]).expect(0).stdout;
                house.host.write("/run/rendered", &rendered);
                let loads = house.host.run("lan", &["nft", "-c", "-f", "/run/rendered"]);
                let spoken =
                    rendered.lines().filter(|line| line.contains(nasty)).all(|line| line.trim_start().starts_with('#'));
                assert!(loads.code == 0 || spoken, "{word} = {nasty}: {}\n{rendered}", loads.stderr);
                assert_eq!(shape(&house.host.dump()), wanted, "{word} = {nasty}");
            }
            house.host.wire(&["down"]).expect(0);
        }
    }
    assert!(taken > 10, "{taken} of them were taken");
}

/// T43: the file is replaced over and over, by one or the other of two, while `up` reads it. What is in force afterwards is one of
/// the two, never something of both. (Files that others could have written: `boundary::a_file_of_others_is_refused`.)
///
/// It depends on the file being read once, by one open file.
#[test]
fn t43_a_file_that_is_replaced() {
    let with = |mtu: &str| HOUSE.replace("/31\"", &format!("/31\", mtu = {mtu}"));
    let Some(house) = House::of(&with("1400")) else { return };
    for mtu in ["1300", "1400"] {
        house.host.write(&format!("/run/{mtu}"), &with(mtu));
    }
    let swap = format!("cd /run; echo ready; while :; do cp 1300 a; mv a {TOPOLOGY}; cp 1400 a; mv a {TOPOLOGY}; done");
    let swapping = house.host.start("host", &["sh", "-ec", &swap]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        house.wire_up();
        let ends = ["host-edge", "host-vpn", "host-mail", "edge-web", "edge-shop", "vpn-git", "web-db"]
            .iter()
            .flat_map(|wire| wire.split('-').map(move |node| (node, *wire)));
        let links = house.host.sh("ip -j link show; for at in /run/netns/*; do ip -n ${at##*/} -j link show; done");
        let lists = serde_json::Deserializer::from_str(&links).into_iter::<Value>().map(|list| list.expect("JSON"));
        let all: Vec<Value> = lists.flat_map(|list| list.as_array().cloned().unwrap_or_default()).collect();
        let ours = all.iter().filter(|link| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with("wire:")));
        let mtus: std::collections::BTreeSet<u64> = ours.clone().filter_map(|link| link["mtu"].as_u64()).collect();
        assert_eq!((ours.count(), mtus.len()), (ends.count(), 1), "{mtus:?}");
        seen.extend(mtus);
    }
    drop(swapping);
    assert_eq!(seen, [1300, 1400].into(), "both came");
}

/// T46: a million packets that are denied, as fast as one process sends. Each is counted, a few are logged, and a wire of the same
/// hub goes on talking.
///
/// It depends on the limit of the rule that logs: without it every packet is a record.
#[test]
fn t46_a_flood_of_denials() {
    const FLOOD: u64 = 1_000_000;
    let Some(house) = House::up() else { return };
    let mut log = house.host.start("host", &[WIRE, "-f", TOPOLOGY, "--json", "log"]);
    let output = BufReader::new(log.0.stdout.take().expect("a pipe"));
    let (send, records) = std::sync::mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let (web, packet) = (house.from("web", "edge-web"), udp("172.16.1.1", "172.16.1.0", 22));
    until("denials are logged", || {
        web.send(&packet);
        records.try_recv().is_ok()
    });
    let talk = Talk::udp(&house, "edge", "172.16.2.1:80", "shop", "172.16.2.1:80");
    // The device counts what the kernel could not take in so fast.
    let lost = || house.host.ip("web", &["-s", "link", "show", "dev", "eth0"])[0]["stats64"]["tx"]["dropped"].as_u64();
    let count = || house.denied("edge-web") + lost().expect("a count");
    let flood = |packets: u64| {
        let (before, start) = (count(), Instant::now());
        let mut talked = 0;
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| (0..packets).for_each(|_| web.send(&packet)));
            while !flooding.is_finished() {
                talked += usize::from(talk.heard() == [true, true]);
            }
        });
        until("each is counted", || {
            let now = count();
            assert!(now <= before + packets, "{} of {packets}", now - before);
            now == before + packets
        });
        (start.elapsed(), talked)
    };
    records.try_iter().count();
    let (took, talked) = flood(FLOOD);
    assert!(talked > 0, "the other wire goes on");
    // What one namespace logs is read in its order, so all has been read when a denial on another wire is.
    let shop = house.from("shop", "edge-shop");
    shop.send(&udp("172.16.2.1", "172.16.2.0", 22));
    let mut logged = 0;
    loop {
        let record = records.recv_timeout(PATIENCE).expect("the last denial is logged");
        if record.contains("edge-shop") {
            break;
        }
        logged += 1;
    }
    let most = 20 + 10 * (took.as_secs() + 2);
    assert!((1..=most).contains(&logged), "{logged} records in {took:?}");

    house.take_out("edge", "denied.edge-web", "limit rate");
    house.nft("edge", "insert rule inet wire denied.edge-web log prefix \"wire denied edge-web\" group 119");
    flood(10_000);
    for _ in 0..=most {
        records.recv_timeout(PATIENCE).expect("every packet is a record");
    }
}

/// What podman, Docker, fail2ban, mailcow and a careful owner have in a host's kernel.
const FOREIGN: &str = r#"
table inet netavark {
    chain NETAVARK-ISOLATION-1 { }
    chain HOSTPORT-DNAT { tcp dport 8080 dnat ip to 10.88.0.2:80; }
    chain INPUT { type filter hook input priority filter; policy accept; ip saddr 10.88.0.0/16 udp dport 53 accept; }
    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        jump NETAVARK-ISOLATION-1
        ip daddr 10.88.0.0/16 ct state established,related accept
        ip saddr 10.88.0.0/16 accept
    }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump HOSTPORT-DNAT; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 10.88.0.0/16 ip daddr != 224.0.0.0/4 masquerade; }
}
table ip filter {
    chain DOCKER-USER { oifname "host-*" accept; iifname "host-*" accept; return; }
    chain DOCKER-FORWARD { ct state related,established accept; iifname "docker0" accept; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; jump DOCKER-FORWARD; }
    chain MAILCOW { ip saddr 198.51.100.66 drop; }
    chain INPUT { type filter hook input priority filter; policy accept; jump MAILCOW; }
}
table ip nat {
    chain DOCKER { iifname "docker0" return; iifname != "docker0" tcp dport 8081 dnat to 172.17.0.2:80; }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; oifname != "docker0" ip saddr 172.17.0.0/16 masquerade; }
}
table inet f2b-table {
    set addr-set-sshd { type ipv4_addr; elements = { 198.51.100.67 } }
    chain f2b-chain { type filter hook input priority filter - 1; policy accept; tcp dport 22 ip saddr @addr-set-sshd reject; }
}
"#;

/// T48: beside the rules of podman, Docker, fail2ban and mailcow, there before `wire` or coming after it. What the file lets pass
/// passes, what it does not does not, their rules stay as they are, `down` takes away what was `wire`'s and nothing else.
///
/// It depends on a table of its own: of theirs no rule is read or written.
#[test]
fn t48_beside_the_rules_of_others() {
    let Some(house) = House::bare(HOUSE) else { return };
    house.host.write("/run/foreign", FOREIGN);
    let theirs = |dump: &Dump| dump.only(|fact| fact.starts_with("host nft ") && !fact.contains("table inet wire /"));
    for first in [true, false] {
        let pristine = house.host.dump();
        if first {
            house.host.sh("nft -f /run/foreign");
        }
        let before = house.host.dump();
        house.wire_up();
        if !first {
            house.host.sh("nft -f /run/foreign");
        }
        house.host.wire(&["audit"]).expect(0);
        let beside = theirs(&house.host.dump());
        let (lan, edge) = (house.lan(), house.from("edge", "host-edge"));
        let (at_edge, at_lan, at_mail) = (house.ear("edge", UDP), house.ear("lan", UDP), house.ear("mail", UDP));
        let ears = [&at_edge, &at_lan, &at_mail];
        house.denies("host-edge", &lan, &[udp("192.0.2.1", "192.168.100.1", 22)], &ears);
        let out = [("192.0.2.1", 81), ("192.168.102.1", 25), ("192.168.100.0", 9)];
        house.denies("host-edge", &edge, &out.map(|(to, port)| udp("192.168.100.1", to, port)), &ears);
        house.passes(&lan, &udp("192.0.2.1", "192.0.2.2", 80), &at_edge);
        house.passes(&lan, &udp("192.0.2.1", "192.0.2.25", 25), &at_mail);
        house.passes(&edge, &udp("192.168.100.1", "192.0.2.1", 80), &at_lan);
        house.host.wire(&["up"]).expect(0);
        theirs(&house.host.dump()).expect(&beside, "up beside others");
        house.host.wire(&["down"]).expect(0);
        theirs(&house.host.dump()).expect(&beside, "down beside others");
        if !first {
            house.host.sh(
                "for table in 'inet netavark' 'ip filter' 'ip nat' 'inet f2b-table'; do nft delete table $table; done",
            );
        }
        house.host.dump().expect(if first { &before } else { &pristine }, "down");
        if first {
            house.host.sh(
                "for table in 'inet netavark' 'ip filter' 'ip nat' 'inet f2b-table'; do nft delete table $table; done",
            );
        }
    }
}

/// T51: whoever owns rootless containers owns their namespaces, on both sides of a wire. He flushes the rules of a hub and of all
/// its leaves, lets everything forward, adds routes. Between his own he may do what he likes; the host lets out what the file gives
/// that hub, hands in what is published, and takes nothing itself; the other hub and its leaf are not reached. `audit` says what
/// he did.
///
/// It depends on the host's `in.WIRE`, `through.WIRE` and `outside.WIRE`.
#[test]
fn t51_the_owner_of_both_ends() {
    let Some(house) = House::up() else { return };
    for node in ["edge", "web", "shop", "db"] {
        taken_over(&house, node);
    }
    house.host.sh("ip -n web route add default via 172.16.1.0
         ip -n web route add 10.254.1.1 dev web-db 2>/dev/null || :
         ip -n db route add default via 10.254.1.0");
    let audit = house.host.wire(&["--json", "audit"]).expect(3).json();
    for node in ["edge", "web", "shop", "db"] {
        crate::repair::deviation(&audit, node, "", "rules");
        crate::repair::deviation(&audit, node, "", "setting");
    }
    // What is his own he reaches, from leaf to leaf through the hub.
    let (web, at_shop) = (house.from("web", "edge-web"), house.ear("shop", UDP));
    house.passes(&web, &udp("172.16.1.1", "172.16.2.1", 9), &at_shop);
    // From a leaf by way of his hub, which gives it its own address, and from the hub itself.
    house.nft(
        "edge",
        "add table ip mine; add chain ip mine post { type nat hook postrouting priority 100; }; \
                       add rule ip mine post oifname host-edge masquerade",
    );
    let ears = [("lan", UDP), ("lan", TCP), ("lan", ICMP), ("host", UDP), ("vpn", UDP), ("git", UDP), ("mail", UDP)]
        .map(|(node, protocol)| house.ear(node, protocol));
    let from = |own: &str| -> Vec<Packet> {
        let targets = [("192.0.2.1", 81), ("198.51.100.1", 80), ("192.168.101.1", 51820), ("10.1.1.1", 22)];
        let more = [("192.168.102.1", 25), ("192.168.101.0", 9), ("192.0.2.2", 22)];
        let datagrams = targets.into_iter().chain(more).map(|(to, port)| udp(own, to, port));
        datagrams
            .chain([tcp(own, "192.0.2.1", 80, SYN), echo(own, "192.0.2.1"), udp(own, "192.168.100.0", 22)])
            .collect()
    };
    let edge = house.from("edge", "host-edge");
    house.denies("host-edge", &web, &from("172.16.1.1"), &ears.each_ref());
    house.denies("host-edge", &edge, &from("192.168.100.1"), &ears.each_ref());
    let lan = house.lan();
    house.denies("host-edge", &lan, &[udp("192.0.2.1", "192.168.100.1", 22)], &[&house.ear("edge", UDP)]);
    // What the file gives the hub, whoever speaks through it.
    house.passes(&web, &udp("172.16.1.1", "192.0.2.1", 80), &ears[0]);
    house.passes(&lan, &udp("192.0.2.1", "192.0.2.2", 80), &house.ear("edge", UDP));

    house.open("host", "through.host-edge");
    house.passes(&edge, &udp("192.168.100.1", "192.0.2.1", 81), &ears[0]);
}
