//! Attacks, one test each, by the numbers of the list of threats they are on. The doc of a test is the attack, step by step.
//!
//! An attack is made of real packets, mostly put on a device past the rules of the namespace they leave (its owner is the
//! attacker, and he has taken those away). It must show that nothing arrives, that the wire's `denied` counts every packet once
//! (or that the kernel itself dropped it before the rules), and that what is allowed passes beside it. Then the rule that it
//! depends on is taken out, and the attack must succeed: where several rules stand in the way, all but one go first, to see that
//! the one alone is enough.
//!
//! Elsewhere:
//! - T8, T19, T20, what a VPN peer tries: `tunnel`.
//! - T3, no IPv6 on a wire for a moment: `ipv6::without_subnet6_there_is_no_ipv6_for_a_moment`.
//! - T41, two wires with one device name: `no_two_wires_have_one_device_name` among the parser's own tests.
//! - T42, planted files: `boundary::planted_locks_are_refused` and `sets::planted_sets_are_refused`.
//! - T49, whatever is changed behind `wire`'s back: `repair`, rules (`rules_are_mended_in_place`) and all else.
//! - T27, T28, T29, packets while rules come, change and go, and T32, talk meanwhile: `leak`.

use std::time::{Duration, Instant};

use crate::host::{Host, text};
use crate::packet::{Ear, Injector, PATIENCE, Packet, is_root};

mod gate;
mod link;
mod time;
mod trust;

/// A house with one of everything that can be attacked: two hubs, one with clients, leaves of both, a leaf of the host, a wire
/// between two leaves; published and handed-on ports, ways out, wires with IPv6 and without.
const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", subnet6 = "fd00:100::/127", publish = ["udp/80"] },
  { name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.101.0/31" },
  { name = "host-mail", ends = ["host", "mail"], subnet = "192.168.102.0/31", publish = [{ flow = "udp/25", address = "192.0.2.25" }] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", subnet6 = "fd00:1::/127", allow = ["udp/80"], allow-back = ["udp/443"] },
  { name = "edge-shop", ends = ["edge", "shop"], subnet = "172.16.2.0/31", allow = ["udp/80"], allow-back = ["udp/443"] },
  { name = "vpn-git", ends = ["vpn", "git"], subnet = "10.1.1.0/31", allow = ["udp/22", "tcp/22"] },
  { name = "web-db", ends = ["web", "db"], subnet = "10.254.1.0/31", allow = ["udp/5432"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["edge", "vpn"]
rooms = ["web", "shop", "git", "db", "mail"]

[hub.edge]
zone = "public"

[[hub.edge.forward]]
port = "udp/7777"
to = "shop:7777"

[hub.vpn]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }

[node.edge]
egress = [{ flow = "udp/80", to = "192.0.2.1" }]

[node.shop]
egress = [{ flow = "udp/53", to = "192.0.2.1" }]

[node.mail]
egress = [{ flow = "udp/25", to = "192.0.2.1" }]
snat = "192.0.2.25"
"#;

const NODES: [&str; 7] = ["edge", "vpn", "web", "shop", "git", "db", "mail"];

/// A client of the hub `vpn`, and the host's second address.
const OUTSIDE: &str = "
set -e
ip netns add phone
ip address add 192.0.2.25/24 dev eth0
";

/// What stands in for the tunnel of the hub `vpn`, whoever has made that: a link to the client.
const TUNNEL: &str = "
set -e
ip -n vpn link del wg0 2>/dev/null || :
ip link add wg0 netns vpn type veth peer name wg0 netns phone
ip -n vpn address add 10.100.0.1/24 dev wg0
ip -n phone address add 10.100.0.2/24 dev wg0
ip -n vpn link set wg0 up
ip -n phone link set wg0 up
ip -n phone route add default via 10.100.0.1
";

/// How often an attack is tried.
const TIMES: usize = 3;

/// A house that is wired.
struct House {
    host: Host,
}

impl House {
    /// The usual one. None where this test has been run elsewhere: see `is_root`.
    #[track_caller]
    fn up() -> Option<House> {
        House::of(HOUSE)
    }

    /// Another file for the same nodes.
    #[track_caller]
    fn of(topology: &str) -> Option<House> {
        let house = House::bare(topology)?;
        house.wire_up();
        Some(house)
    }

    /// Not yet wired.
    fn bare(topology: &str) -> Option<House> {
        if !is_root() {
            return None;
        }
        let host = Host::with(&NODES, topology);
        host.sh(OUTSIDE);
        host.sh(TUNNEL);
        Some(House { host })
    }

    #[track_caller]
    fn wire_up(&self) {
        self.host.wire(&["up"]).expect(0);
    }

    /// A way to put frames on the end of a wire in a node.
    #[track_caller]
    fn from(&self, node: &str, wire: &str) -> Injector {
        let device = text(&self.host.link(node, wire)["ifname"]);
        let end = |name: &str| self.host.link(name, wire)["addr_info"][0]["local"].as_str().map(str::to_owned);
        let (first, second) = wire.split_once('-').expect("wires here are named after their ends");
        let far = end(if node == first { second } else { first }).expect("the far end has an address");
        Injector::at(&self.host, node, &device, &far)
    }

    /// From the LAN's only other machine to the host.
    #[track_caller]
    fn lan(&self) -> Injector {
        Injector::at(&self.host, "lan", "eth0", "192.0.2.2")
    }

    /// From a client of the hub `vpn`.
    #[track_caller]
    fn phone(&self) -> Injector {
        Injector::at(&self.host, "phone", "wg0", "10.100.0.1")
    }

    fn ear(&self, node: &str, protocol: u8) -> Ear {
        Ear::at(&self.host, node, true, protocol)
    }

    fn ear6(&self, node: &str, protocol: u8) -> Ear {
        Ear::at(&self.host, node, false, protocol)
    }

    /// What `wire audit` says a wire has denied.
    #[track_caller]
    fn denied(&self, wire: &str) -> u64 {
        let audit = self.host.wire(&["--json", "audit"]).json();
        let wires = audit["wires"].as_array().expect("wires");
        let wire = wires.iter().find(|one| one["name"] == wire).unwrap_or_else(|| panic!("no {wire}: {audit:#}"));
        wire["denied"].as_u64().expect("a number")
    }

    /// What a node has denied that no wire knows.
    #[track_caller]
    fn denied_by_nobody(&self, node: &str) -> u64 {
        self.counted(node, "denied")
    }

    /// What the end of a chain has counted.
    #[track_caller]
    fn counted(&self, node: &str, chain: &str) -> u64 {
        let rules = self.rules(node, chain);
        let counted = rules.iter().rev().find_map(|(_, rule)| rule.split_once("counter packets ")?.1.split(' ').next());
        counted.expect("the last rule counts").parse().expect("a number")
    }

    /// Sends each of these packets some times. Every one is denied on the wire, none arrives.
    #[track_caller]
    fn denies(&self, wire: &str, from: &Injector, packets: &[Packet], ears: &[&Ear]) {
        self.drops(|| self.denied(wire), from, packets, ears, &format!("{wire} denies"));
    }

    /// The same by rules that belong to no wire.
    #[track_caller]
    fn nobody_takes(&self, node: &str, from: &Injector, packets: &[Packet], ears: &[&Ear]) {
        self.drops(|| self.denied_by_nobody(node), from, packets, ears, &format!("nobody at {node} takes"));
    }

    #[track_caller]
    fn drops(&self, count: impl Fn() -> u64, from: &Injector, packets: &[Packet], ears: &[&Ear], what: &str) {
        let before = count();
        for packet in packets.iter().cycle().take(packets.len() * TIMES) {
            from.send(packet);
        }
        let wanted = before + (packets.len() * TIMES) as u64;
        until(&format!("{what} {} of {packets:?}", wanted - before), || {
            let now = count();
            assert!(now <= wanted, "{what}: {} were sent, {} counted", wanted - before, now - before);
            now == wanted
        });
        silent(ears, what);
    }

    /// Sends each of these packets some times. They arrive at the node, and the kernel drops them before its rules.
    #[track_caller]
    fn the_kernel_drops(&self, node: &str, from: &Injector, packets: &[Packet], ears: &[&Ear]) {
        let post = Post::at(&self.host, node);
        for packet in packets.iter().cycle().take(packets.len() * TIMES) {
            from.send(packet);
        }
        let sent = (packets.len() * TIMES) as u64;
        until(&format!("{sent} of {packets:?} arrive at {node}"), || post.seen("prerouting") == sent);
        assert_eq!((post.seen("input"), post.seen("forward")), (0, 0), "{packets:?} went on at {node}");
        silent(ears, "dropped by the kernel");
    }

    /// A packet arrives.
    #[track_caller]
    fn passes(&self, from: &Injector, packet: &Packet, ear: &Ear) {
        from.send(packet);
        until(&format!("{packet:?} arrives"), || !ear.heard().is_empty());
    }

    /// The rules of a chain as nft says them, each with its handle.
    #[track_caller]
    fn rules(&self, node: &str, chain: &str) -> Vec<(String, String)> {
        let listing = self.host.run(node, &["nft", "-a", "list", "chain", "inet", "wire", chain]).expect(0).stdout;
        let rules = listing.lines().filter_map(|line| line.trim().rsplit_once(" # handle "));
        let rules = rules.map(|(rule, handle)| (handle.to_owned(), rule.to_owned()));
        rules.filter(|(_, rule)| !rule.ends_with('{')).collect()
    }

    /// Takes the rules out of a chain that say this.
    #[track_caller]
    fn take_out(&self, node: &str, chain: &str, words: &str) {
        let rules = self.rules(node, chain);
        let handles: Vec<_> = rules.iter().filter(|(_, rule)| rule.contains(words)).map(|(handle, _)| handle).collect();
        assert!(!handles.is_empty(), "no rule of {chain} at {node} says `{words}`: {rules:#?}");
        for handle in handles {
            self.nft(node, &format!("delete rule inet wire {chain} handle {handle}"));
        }
    }

    /// Lets pass what comes to the end of a chain.
    #[track_caller]
    fn open(&self, node: &str, chain: &str) {
        let rules = self.rules(node, chain);
        let (handle, last) = rules.last().expect("a rule");
        assert!(last.contains("goto denied") || last.ends_with("drop"), "the last rule of {chain}: {last}");
        self.nft(node, &format!("replace rule inet wire {chain} handle {handle} counter accept"));
    }

    #[track_caller]
    fn nft(&self, node: &str, command: &str) {
        self.host.run(node, &["nft", command]).expect(0);
    }

    /// Sets what counts for a device: there, and in the whole namespace.
    fn set(&self, node: &str, device: &str, key: &str, value: &str) {
        for device in ["all", device] {
            self.host.set_sysctl(node, &key.replace("{}", device), value);
        }
    }

    /// All is as the file says again.
    #[track_caller]
    fn mended(&self) {
        self.wire_up();
        self.host.wire(&["audit"]).expect(0);
    }
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "it never comes so far: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn silent(ears: &[&Ear], what: &str) {
    for ear in ears {
        assert_eq!(ear.heard(), [] as [std::net::IpAddr; 0], "{what}, and yet it arrives");
    }
}

/// Counts the packets of `packet` at the hooks of a node, before any rule of wire's sees them. Gone with the value.
struct Post<'a> {
    host: &'a Host,
    node: &'a str,
}

impl<'a> Post<'a> {
    fn at(host: &'a Host, node: &'a str) -> Post<'a> {
        let chain = |(hook, priority)| {
            format!(
                "add counter inet post {hook}; \
                 add chain inet post {hook} {{ type filter hook {hook} priority {priority}; }}; \
                 add rule inet post {hook} ip dscp 42 counter name {hook}; \
                 add rule inet post {hook} ip6 dscp 42 counter name {hook}; "
            )
        };
        // What is in fragments has been put together by now (-400, NF_IP_PRI_CONNTRACK_DEFRAG).
        let chains = [("prerouting", -310), ("input", -10), ("forward", -10)].map(chain).concat();
        host.run(node, &["nft", &format!("add table inet post; {chains}")]).expect(0);
        Post { host, node }
    }

    #[track_caller]
    fn seen(&self, hook: &str) -> u64 {
        let listing =
            self.host.run(self.node, &["nft", "-j", "list", "counter", "inet", "post", hook]).expect(0).json();
        listing["nftables"][1]["counter"]["packets"].as_u64().expect("a count")
    }
}

impl Drop for Post<'_> {
    fn drop(&mut self) {
        self.host.run(self.node, &["nft", "delete table inet post"]);
    }
}
