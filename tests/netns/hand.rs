//! A house wired by `ip` and walled by `nft`, written by hand: what the truth tables are proved with. They hold there, and
//! with one rule less or one more they name exactly the cells that this changes.

use crate::truth::House;

const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", subnet6 = "fd00:100::/127", publish = ["tcp/80", "udp/5000-5001:6000"] },
  { name = "host-mail", ends = ["host", "mail"], subnet = "192.168.101.0/31", publish = [{ flow = "tcp/25", address = "203.0.113.25" }], allow-back = ["icmp"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", allow = ["tcp/80"], allow-back = ["tcp/443"] },
  { name = "edge-game", ends = ["edge", "game"], subnet = "172.16.2.0/31" },
  { name = "game-db", ends = ["game", "db"], subnet = "10.254.1.0/31", subnet6 = "fd00:254::/127", allow = ["tcp/5432", "icmpv6"] },
]

[host]
uplinks = ["eth0"]
block   = "@banned"

[module]
all = ["edge", "web", "game", "db", "mail", "vault"]

[hub.edge]
zone    = "public"
clients = { prefix = "10.100.0.0/24", device = "wg0" }

[[hub.edge.forward]]
port = "tcp/25565"
to   = "game:25565"

[node.web]
egress = ["tcp/443", { flow = "udp/53", to = "192.168.1.1" }]

[node.mail]
egress = ["tcp/25"]
snat   = "203.0.113.25"

[set.banned]
elements = ["198.51.100.66"]
"#;

/// Routes and forwarding, besides what the wires bring.
const ROUTES: &str = "
ip -n edge route add default via 192.168.100.0
ip -n edge -6 route add default via fd00:100::
ip -n mail route add default via 192.168.101.0
ip -n web route add default via 172.16.1.0
ip -n web route del 10.100.0.0/24 2>/dev/null || :
ip -n game route add default via 172.16.2.0
for at in '' '--net=/run/netns/edge'; do
  nsenter $at sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
done
";

/// The rules of each namespace. `public` and the answers to what is open are the same everywhere.
const RULES: [(&str, &str); 7] = [
    (
        "host",
        r#"
chain prerouting {
  type nat hook prerouting priority dstnat; policy accept;
  iifname "eth0" fib daddr type local ip daddr != { 192.168.100.0, 192.168.101.0 } jump published
  iifname "eth0" fib daddr type local ip6 daddr != fd00:100:: jump published6
}
chain published {
  tcp dport 80 dnat ip to 192.168.100.1
  tcp dport 25565 dnat ip to 192.168.100.1
  udp dport 5000 dnat ip to 192.168.100.1:6000
  udp dport 5001 dnat ip to 192.168.100.1:6001
  ip daddr 203.0.113.25 tcp dport 25 dnat ip to 192.168.101.1
}
chain published6 {
  tcp dport 80 dnat ip6 to fd00:100::1
  udp dport 5000 dnat ip6 to [fd00:100::1]:6000
  udp dport 5001 dnat ip6 to [fd00:100::1]:6001
}
chain postrouting {
  type nat hook postrouting priority srcnat; policy accept;
  iifname "host-mail" oifname "eth0" snat ip to 203.0.113.25
  iifname "host-edge" oifname "eth0" masquerade
}
chain input {
  type filter hook input priority filter; policy drop;
  iifname "eth0" ip saddr 198.51.100.66 drop
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  iifname "lo" accept
  iifname "host-mail" ip saddr 192.168.101.1 ip daddr 192.168.101.0 meta l4proto icmp accept
  iifname "eth0" ip daddr != { 192.168.100.0, 192.168.101.0 } accept
  iifname "eth0" ip6 daddr != fd00:100:: accept
  counter drop
}
chain forward {
  type filter hook forward priority filter; policy drop;
  iifname "eth0" ip saddr 198.51.100.66 drop
  ct state established,related accept
  iifname "eth0" oifname { "host-edge", "host-mail" } ct status dnat accept
  iifname "host-edge" oifname "eth0" ip saddr 192.168.100.1 jump public
  iifname "host-edge" oifname "eth0" ip saddr 192.168.100.1 ip daddr 192.168.1.1 udp dport 53 accept
  iifname "host-mail" oifname "eth0" ip saddr 192.168.101.1 ip daddr @private drop
  iifname "host-mail" oifname "eth0" ip saddr 192.168.101.1 tcp dport 25 accept
  counter drop
}
chain public {
  ip daddr @private return
  tcp dport 443 accept
}
chain output {
  type filter hook output priority filter; policy drop;
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  oifname { "lo", "eth0" } accept
  counter drop
}
"#,
    ),
    (
        "edge",
        r#"
chain prerouting {
  type nat hook prerouting priority dstnat; policy accept;
  iifname "host-edge" ip daddr 192.168.100.1 tcp dport 25565 dnat ip to 172.16.2.1
}
chain postrouting {
  type nat hook postrouting priority srcnat; policy accept;
  iifname "edge-web" oifname "host-edge" masquerade
}
chain input {
  type filter hook input priority filter; policy drop;
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  iifname "lo" accept
  iifname "host-edge" ip saddr != 192.168.0.0/16 ip daddr 192.168.100.1 tcp dport 80 accept
  iifname "host-edge" ip saddr != 192.168.0.0/16 ip daddr 192.168.100.1 udp dport 6000-6001 accept
  iifname "host-edge" ip saddr { 192.168.1.1, 192.168.250.9 } ip daddr 192.168.100.1 tcp dport 80 accept
  iifname "host-edge" ip saddr { 192.168.1.1, 192.168.250.9 } ip daddr 192.168.100.1 udp dport 6000-6001 accept
  iifname "host-edge" ip6 saddr != fd00:100:: ip6 daddr fd00:100::1 tcp dport 80 accept
  iifname "host-edge" ip6 saddr != fd00:100:: ip6 daddr fd00:100::1 udp dport 6000-6001 accept
  iifname "edge-web" ip saddr 172.16.1.1 ip daddr 172.16.1.0 tcp dport 443 accept
  counter drop
}
chain forward {
  type filter hook forward priority filter; policy drop;
  ct state established,related accept
  iifname "host-edge" oifname "edge-game" ct status dnat accept
  iifname "wg0" oifname "edge-web" ip saddr 10.100.0.0/24 ip daddr 172.16.1.1 tcp dport 80 accept
  iifname "edge-web" oifname "host-edge" ip saddr 172.16.1.1 ip daddr 192.168.1.1 udp dport 53 accept
  iifname "edge-web" oifname "host-edge" ip saddr 172.16.1.1 ip daddr != @private tcp dport 443 accept
  counter drop
}
chain output {
  type filter hook output priority filter; policy drop;
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  oifname "lo" accept
  oifname "edge-web" ip saddr 172.16.1.0 ip daddr 172.16.1.1 tcp dport 80 accept
  counter drop
}
"#,
    ),
    (
        "web",
        r#"
chain input {
  type filter hook input priority filter; policy drop;
  ct state established,related accept
  iifname "lo" accept
  iifname "edge-web" ip saddr { 172.16.1.0, 10.100.0.0/24 } ip daddr 172.16.1.1 tcp dport 80 accept
  counter drop
}
chain output {
  type filter hook output priority filter; policy drop;
  ct state established,related accept
  oifname "lo" accept
  oifname "edge-web" ip daddr 172.16.1.0 tcp dport 443 accept
  oifname "edge-web" ip daddr 192.168.1.1 udp dport 53 accept
  oifname "edge-web" ip daddr != @private tcp dport 443 accept
  counter drop
}
"#,
    ),
    (
        "game",
        r#"
chain input {
  type filter hook input priority filter; policy drop;
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  iifname "lo" accept
  iifname "edge-game" ip daddr 172.16.2.1 tcp dport 25565 accept
  counter drop
}
chain output {
  type filter hook output priority filter; policy drop;
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  oifname "lo" accept
  oifname "game-db" ip daddr 10.254.1.1 tcp dport 5432 accept
  oifname "game-db" ip6 daddr fd00:254::1 tcp dport 5432 accept
  oifname "game-db" ip6 daddr fd00:254::1 icmpv6 type echo-request accept
  counter drop
}
"#,
    ),
    (
        "db",
        r#"
chain input {
  type filter hook input priority filter; policy drop;
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  iifname "lo" accept
  iifname "game-db" ip saddr 10.254.1.0 ip daddr 10.254.1.1 tcp dport 5432 accept
  iifname "game-db" ip6 saddr fd00:254:: ip6 daddr fd00:254::1 tcp dport 5432 accept
  iifname "game-db" ip6 saddr fd00:254:: ip6 daddr fd00:254::1 icmpv6 type echo-request accept
  counter drop
}
chain output {
  type filter hook output priority filter; policy drop;
  ct state established,related accept
  icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  oifname "lo" accept
  counter drop
}
"#,
    ),
    (
        "mail",
        r#"
chain input {
  type filter hook input priority filter; policy drop;
  ct state established,related accept
  iifname "lo" accept
  iifname "host-mail" ip saddr != 192.168.101.0 ip daddr 192.168.101.1 tcp dport 25 accept
  counter drop
}
chain output {
  type filter hook output priority filter; policy drop;
  ct state established,related accept
  oifname "lo" accept
  oifname "host-mail" ip daddr 192.168.101.0 meta l4proto icmp accept
  oifname "host-mail" ip daddr != @private tcp dport 25 accept
  counter drop
}
"#,
    ),
    ("vault", "chain input { type filter hook input priority filter; policy drop; iifname \"lo\" accept; }\n"),
];

/// Loads the rules of a namespace, with one text in the place of another.
fn load(house: &House, node: &str, text: &str, instead: &str) {
    let (_, rules) = RULES.iter().find(|(name, _)| *name == node).expect("a node with rules");
    assert!(rules.contains(text), "`{text}` is no rule of {node}");
    let rules = if text.is_empty() { rules.to_string() } else { rules.replace(text, instead) };
    let private = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, \
                   224.0.0.0/4, 240.0.0.0/4";
    let set = format!("set private {{ type ipv4_addr; flags interval; elements = {{ {private} }}; }}");
    let table = format!("table inet hand\ndelete table inet hand\ntable inet hand {{\n{set}\n{rules}\n}}\n");
    house.host.write("/run/rules", &table);
    house.host.run(node, &["nft", "-f", "/run/rules"]).expect(0);
}

fn house() -> House {
    let house = House::new(HOUSE);
    let mut script = "set -e\n".to_owned();
    for wire in &house.naive.file.wire {
        let [a, b] = [0, 1].map(|end| (&wire.ends[end], wire.address(end), wire.address6(end)));
        let at = |node: &String| if node == "host" { String::new() } else { format!("-n {node}") };
        script +=
            &format!("ip {} link add {name} type veth peer name {name} netns {}\n", at(a.0), b.0, name = wire.name);
        for (node, address, address6) in [a, b] {
            let (ip, name) = (format!("ip {}", at(node)), &wire.name);
            script += &format!("{ip} address add {address}/31 dev {name}\n");
            script +=
                &address6.map_or(String::new(), |address| format!("{ip} address add {address}/127 dev {name} nodad\n"));
            script += &format!("{ip} link set {name} up\n");
        }
    }
    house.host.sh(&(script + ROUTES));
    for (node, _) in RULES {
        load(&house, node, "", "");
    }
    house
}

#[test]
fn rules_by_hand_hold_the_table() {
    let mut house = house();
    house.table().expect("by hand");
}

/// With one rule less or one more, the table names the cells that this changes, all of them and no others.
#[test]
fn a_rule_too_few_or_too_many_is_named() {
    let mut house = house();
    // What is changed where, what every wrong cell says then, and how many these are.
    let cases: [(&[[&str; 3]], &[&str], usize); 5] = [
        (
            &[["edge", "iifname \"wg0\"", "iifname \"no\""]],
            &["client(edge) (10.100.0.", "-> 172.16.1.1 (web) tcp/80: expected pass"],
            2,
        ),
        (
            &[["host", "snat ip to 203.0.113.25", "accept"]],
            &["mail -> ", "tcp/25: expected pass to outside(eth0):25 from 203.0.113.25, seen pass"],
            2,
        ),
        (
            &[["host", "ip daddr @private drop", "accept"], ["mail", "ip daddr != @private", ""]],
            &["mail -> 192.168.", "expected drop, seen pass"],
            2,
        ),
        (
            &[["game", "tcp dport 5432", "meta l4proto udp"], ["db", "tcp dport 5432", "meta l4proto udp"]],
            &["game -> ", "(db)", "p/"],
            6,
        ),
        // Of what has no ports a second packet to oneself is its own reply, so only ten of twelve are wrong.
        (&[["db", "iifname \"lo\" accept", ""]], &["db -> ", "(db)", "expected pass"], 10),
    ];
    for (edits, words, count) in cases {
        edits.iter().for_each(|[node, text, instead]| load(&house, node, text, instead));
        let table = house.table();
        let named = table.wrong.iter().filter(|line| words.iter().all(|word| line.contains(word))).count();
        assert!(table.unanswered.is_empty(), "{:#?}", table.unanswered);
        assert_eq!((named, table.wrong.len()), (count, count), "{edits:?}: {:#?}", table.wrong);
        edits.iter().for_each(|[node, ..]| load(&house, node, "", ""));
    }
}
