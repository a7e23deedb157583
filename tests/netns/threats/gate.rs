//! T13 to T26: what comes in, what goes out, and what passes through.

use std::net::{IpAddr, UdpSocket};
use std::slice::from_ref;

use super::time::Talk;
use super::{HOUSE, House, TIMES, until};
use crate::packet::{ICMP, ICMPV6, Packet, SYN, TAG, TCP, Tap, UDP, echo, error, icmp, packet, tcp, udp, udp_from};

/// A socket of a process of the node, which the node's own rules see.
fn honest(house: &House, node: &str) -> UdpSocket {
    house.host.at(node, || UdpSocket::bind("0.0.0.0:0").expect("a port"))
}

/// The senders of what comes to an ear when a process of a node sends to this address; each time by a new connection.
#[track_caller]
fn arrives_from(house: &House, node: &str, to: &str, ear: &crate::packet::Ear) -> IpAddr {
    let socket = honest(house, node);
    let mut senders = Vec::new();
    until(&format!("{node} reaches {to}"), || {
        socket.send_to(TAG, to).unwrap_or_else(|error| panic!("{node} may not send to {to}: {error}"));
        senders = ear.heard();
        !senders.is_empty()
    });
    senders[0]
}

/// T13: a machine of the LAN has routes to every inside address by way of the host, and sends to each, at ports that are
/// published there, allowed to others, and neither. Only what is asked of the host's own address is handed on.
///
/// It depends on `outside.WIRE`, which takes only what the host itself has given that destination, and on the rules of `forward`
/// for what no chain of a wire takes.
#[test]
fn t13_a_neighbour_with_routes() {
    let Some(house) = House::up() else { return };
    house
        .host
        .sh("ip address add 2001:db8:1::2/64 dev eth0 nodad; ip -n lan address add 2001:db8:1::1/64 dev eth0 nodad");
    let (lan, back) = (house.lan(), Tap::at(&house.host, "lan"));
    let ears = ["edge", "vpn", "web", "shop", "git", "db", "mail"].map(|node| house.ear(node, UDP));
    let to = |address: &str| [22, 25, 80, 443, 7777].map(|port| udp("192.0.2.1", address, port));
    house.denies("host-edge", &lan, &to("192.168.100.1"), &ears.each_ref());
    house.denies("host-mail", &lan, &to("192.168.102.1"), &ears.each_ref());
    house.denies("host-edge", &lan, &[tcp("192.0.2.1", "192.168.100.1", 80, SYN)], &[&house.ear("edge", TCP)]);
    for inside in ["192.168.101.1", "172.16.1.0", "172.16.1.1", "172.16.2.1", "10.1.1.1", "10.254.1.1", "10.100.0.2"] {
        house.nobody_takes("host", &lan, &to(inside), &ears.each_ref());
    }
    let sixth = house.ear6("edge", UDP);
    house.denies("host-edge", &lan, &[udp("2001:db8:1::1", "fd00:100::1", 80)], &[&sixth]);
    let returned = back.heard().into_iter().filter(|frame| frame[6..12] != lan.own).count();
    assert_eq!(returned, 0, "the host sends something of it back to the LAN");
    house.passes(&lan, &udp("192.0.2.1", "192.0.2.2", 80), &ears[0]);
    house.passes(&lan, &udp("192.0.2.1", "192.0.2.25", 25), &ears[6]);
    house.passes(&lan, &udp("2001:db8:1::1", "2001:db8:1::2", 80), &sixth);
    // Another port, and the bound port at another address: the host's own business, but nothing of a wire.
    let others = [udp("192.0.2.1", "192.0.2.2", 81), udp("192.0.2.1", "192.0.2.2", 25)];
    others.iter().for_each(|packet| house.passes(&lan, packet, &house.ear("host", UDP)));
    ears.iter().for_each(|ear| assert!(ear.heard().is_empty()));

    house.open("host", "outside.host-edge");
    house.passes(&lan, &udp("192.0.2.1", "192.168.100.1", 80), &ears[0]);
    house.take_out("host", "forward", "only an uplink or a wire leads to a wire");
    house.take_out("host", "forward", "forwards for wires alone");
    house.open("vpn", "in.host-vpn");
    house.take_out("vpn", "in.host-vpn", "ip saddr !=");
    house.passes(&lan, &udp("192.0.2.1", "192.168.101.1", 22), &ears[1]);
    house.mended();
    house.denies("host-edge", &lan, &to("192.168.100.1"), &ears.each_ref());
}

/// T14: a hub asks a machine outside for the very port that it publishes itself: it must reach that machine, not itself. Nor does
/// it reach itself, or another node that of the hub, by the host's own address.
///
/// It depends on two rules at the head of `prerouting`: only what comes in on an uplink, and only what is for the host itself, is
/// handed in. The first is enough.
#[test]
fn t14_the_hubs_own_requests() {
    let Some(house) = House::up() else { return };
    let (at_lan, at_edge) = (house.ear("lan", UDP), house.ear("edge", UDP));
    arrives_from(&house, "edge", "192.0.2.1:80", &at_lan);
    for (node, own, wire) in [("edge", "192.168.100.1", "host-edge"), ("mail", "192.168.102.1", "host-mail")] {
        house.denies(wire, &house.from(node, wire), &[udp(own, "192.0.2.2", 80)], &[&at_edge]);
    }
    assert!(at_edge.heard().is_empty());

    house.take_out("host", "prerouting", "fib daddr");
    arrives_from(&house, "edge", "192.0.2.1:80", &at_lan);
    house.take_out("host", "prerouting", "iifname !=");
    // Its own request is given its own address, and so goes nowhere.
    house.denies("host-edge", &house.from("edge", "host-edge"), &[udp("192.168.100.1", "192.0.2.1", 80)], &[&at_lan]);
    house.mended();
    arrives_from(&house, "edge", "192.0.2.1:80", &at_lan);
}

/// T15: what the host publishes bypasses its firewall, elsewhere. On a host that is strict (`policy = "all"`) a machine of the LAN
/// tries what is open on the host, what is not, and what is published; then it is blocked, while it talks to what is published.
///
/// It depends on `input` taking nothing else from an uplink, and on the rules for `block`, which come before all others.
#[test]
fn t15_a_strict_host() {
    let strict = "uplinks = [\"eth0\"]\npolicy = \"all\"\nallow = [\"udp/9\"]\nblock = \"@banned\"\n[set.banned]\n";
    let Some(house) = House::of(&HOUSE.replace("uplinks = [\"eth0\"]\n", strict)) else { return };
    let (lan, ears) = (house.lan(), [UDP, TCP, ICMP].map(|protocol| house.ear("host", protocol)));
    let to = |port| udp("192.0.2.1", "192.0.2.2", port);
    let closed = [to(22), to(81), tcp("192.0.2.1", "192.0.2.2", 9, SYN), echo("192.0.2.1", "192.0.2.2")];
    let denies =
        || house.drops(|| house.counted("host", "input"), &lan, &closed, &ears.each_ref(), "the host takes nothing");
    denies();
    house.denies("host-edge", &lan, &[udp("192.0.2.1", "192.168.100.1", 22)], &[]);
    house.passes(&lan, &to(9), &ears[0]);
    let at_lan = house.host.at("lan", || UdpSocket::bind("192.0.2.1:53").expect("a port"));
    let own = honest(&house, "host");
    own.send_to(b"name?", "192.0.2.1:53").expect("the host speaks as it likes");
    let asked = at_lan.recv_from(&mut [0; 64]).expect("a question").1;
    at_lan.send_to(b"name", asked).expect("an answer");
    own.set_read_timeout(Some(crate::packet::PATIENCE)).expect("a socket may wait");
    own.recv(&mut [0; 64]).expect("answers pass");

    let talk = Talk::udp(&house, "lan", "192.0.2.2:80", "edge", "192.168.100.1:80");
    house.host.wire(&["set", "add", "banned", "192.0.2.1"]).expect(0);
    assert_eq!(talk.heard(), [false, true], "what is established ends, from his side");
    let blocked = || -> u64 {
        let rules = ["input", "forward"].map(|chain| house.rules("host", chain)).concat();
        let rules = rules.iter().filter(|(_, rule)| rule.contains("@set.banned"));
        let counted = |(_, rule): &(String, String)| -> Option<u64> {
            rule.split_once("counter packets ")?.1.split(' ').next()?.parse().ok()
        };
        rules.filter_map(counted).sum()
    };
    house.drops(blocked, &lan, &[to(9), to(80), to(22)], &ears.each_ref(), "the host blocks");
    house.host.wire(&["set", "del", "banned", "192.0.2.1"]).expect(0);
    assert!(talk.goes_on(), "and goes on");

    house.host.wire(&["set", "add", "banned", "192.0.2.1"]).expect(0);
    house.take_out("host", "input", "@set.banned");
    house.passes(&lan, &to(9), &ears[0]);
    house.host.wire(&["set", "del", "banned", "192.0.2.1"]).expect(0);
    house.mended();
    denies();
    house.open("host", "input");
    closed[..2].iter().for_each(|packet| house.passes(&lan, packet, &ears[0]));
}

/// T16: a host that forwards for its wires is taken as a way between its networks by a machine of the LAN. Where the host did not
/// forward before, it forwards nothing of that; where it did, it does as before.
///
/// It depends on the rule of `forward` for uplinks that only forward for wires.
#[test]
fn t16_the_host_as_a_router() {
    let second = "set -e
        ip netns add other
        ip link add eth1 type veth peer name eth1 netns other
        ip address add 203.0.113.1/24 dev eth1
        ip -n other address add 203.0.113.2/24 dev eth1
        ip link set eth1 up
        ip -n other link set eth1 up";
    let packet = udp("192.0.2.1", "203.0.113.2", 9);
    for router in [false, true] {
        let Some(house) = House::bare(HOUSE) else { return };
        house.host.sh(second);
        house.host.set_sysctl("host", "ipv4/ip_forward", if router { "1" } else { "0" });
        let (lan, ear) = (house.lan(), house.ear("other", UDP));
        match router {
            true => house.passes(&lan, &packet, &ear),
            false => house.the_kernel_drops("host", &lan, from_ref(&packet), &[&ear]),
        }
        house.wire_up();
        match router {
            true => house.passes(&lan, &packet, &ear),
            false => house.nobody_takes("host", &lan, from_ref(&packet), &[&ear]),
        }
        if !router {
            house.take_out("host", "forward", "forwards for wires alone");
            house.passes(&lan, &packet, &ear);
        }
    }
}

/// T17: each hub sends to the leaves and to the host wire of the other, at ports that those have open, through the host, also with
/// routes at the host that lead there; leaves and clients send through their hub to other leaves, to other hubs, to clients.
///
/// From hub to hub it depends on `through.WIRE` of the host, whose rule for inside addresses is enough alone; behind that on the
/// other hub's `through.WIRE`, on its not forwarding what comes from the host, and on the leaf's rule for the source.
#[test]
fn t17_from_zone_to_zone() {
    let Some(house) = House::up() else { return };
    house.host.sh("ip route add 10.1.1.0/31 via 192.168.101.1; ip route add 172.16.0.0/16 via 192.168.100.1");
    let ears = ["edge", "vpn", "web", "shop", "git", "mail", "phone"].map(|node| house.ear(node, UDP));
    let ears = ears.each_ref();
    let (edge, vpn) = (house.from("edge", "host-edge"), house.from("vpn", "host-vpn"));
    let all = |from: &str, to: &[(&str, u16)]| to.iter().map(|(to, port)| udp(from, to, *port)).collect::<Vec<_>>();
    let others =
        [("10.1.1.1", 22), ("10.1.1.0", 22), ("192.168.101.1", 51820), ("192.168.102.1", 25), ("10.100.0.2", 9)];
    house.denies("host-edge", &edge, &all("192.168.100.1", &others), &ears);
    let others = [("172.16.1.1", 80), ("172.16.2.1", 7777), ("192.168.100.1", 80), ("192.168.102.1", 25)];
    house.the_kernel_drops("host", &vpn, &all("192.168.101.1", &others), &ears);
    house.host.set_sysctl("host", "ipv4/conf/host-vpn/forwarding", "1");
    house.denies("host-vpn", &vpn, &all("192.168.101.1", &others), &ears);
    // A leaf that its hub speaks for, one that it does not, and one whose hub lets clients in.
    let others = [("172.16.1.1", 80), ("10.1.1.1", 22), ("192.168.100.0", 9), ("192.168.102.1", 25)];
    house.denies("edge-shop", &house.from("shop", "edge-shop"), &all("172.16.2.1", &others), &ears);
    let web = house.from("web", "edge-web");
    house.the_kernel_drops("edge", &web, &all("172.16.1.1", &[("172.16.2.1", 80), ("192.168.102.1", 25)]), &ears);
    house.set("edge", "edge-web", "ipv4/conf/{}/forwarding", "1");
    house.denies("edge-web", &web, &all("172.16.1.1", &[("172.16.2.1", 80), ("192.168.102.1", 25)]), &ears);
    let others = [("10.100.0.2", 9), ("172.16.1.1", 80), ("192.168.100.1", 80)];
    house.denies("vpn-git", &house.from("git", "vpn-git"), &all("10.1.1.1", &others), &ears);
    let others =
        [("10.100.0.3", 9), ("172.16.1.1", 80), ("192.168.102.1", 25), ("192.0.2.1", 53), ("192.168.101.0", 9)];
    house.nobody_takes("vpn", &house.phone(), &all("10.100.0.2", &others), &ears);
    house.passes(&house.phone(), &udp("10.100.0.2", "10.1.1.1", 22), ears[4]);
    house.wire_up();

    let packet = [udp("192.168.100.1", "10.1.1.1", 22)];
    house.open("host", "through.host-edge");
    house.denies("host-edge", &edge, &packet, &ears);
    house.take_out("host", "through.host-edge", "no address of the topology is outside");
    house.the_kernel_drops("vpn", &edge, &packet, &ears);
    house.set("vpn", "host-vpn", "ipv4/conf/{}/forwarding", "1");
    house.set("vpn", "host-vpn", "ipv4/conf/{}/rp_filter", "0");
    house.denies("host-vpn", &edge, &packet, &ears);
    house.open("vpn", "through.host-vpn");
    house.denies("host-vpn", &edge, &packet, &ears);
    house.take_out("vpn", "through.host-vpn", "@inside");
    house.set("git", "eth0", "ipv4/conf/{}/rp_filter", "0");
    house.denies("vpn-git", &edge, &packet, &ears);
    house.open("git", "in.vpn-git");
    house.take_out("git", "in.vpn-git", "ip saddr !=");
    house.passes(&edge, &packet[0], ears[4]);
}

/// Everything that root in a namespace can do to his own walls.
pub fn taken_over(house: &House, node: &str) {
    house.host.run(node, &["nft", "flush", "ruleset"]).expect(0);
    let all = "for dir in /proc/sys/net/ipv4/conf/*; do echo 0 >$dir/rp_filter; echo 1 >$dir/forwarding; \
               echo 1 >$dir/accept_redirects; echo 1 >$dir/accept_source_route; done";
    house.host.run(node, &["sh", "-ec", all]).expect(0);
}

/// T18: root in a hub flushes its rules, lets everything forward, adds routes, and sends wherever he can: other ports of his
/// leaves, what lies behind them, the host, other nodes, the outside; under his own addresses, his leaves', strangers'. He gets
/// the ports that the file gives the hub, and the outside that it gives the hub, and no more.
///
/// It depends on the far ends: `in.WIRE` of the leaf, `in.WIRE` and `through.WIRE` of the host.
#[test]
fn t18_a_hub_taken_over() {
    let Some(house) = House::up() else { return };
    taken_over(&house, "edge");
    house
        .host
        .sh("ip -n edge route add 10.254.1.0/31 via 172.16.1.1; ip -n edge route add 10.0.0.0/8 via 192.168.100.0");
    let (to_web, to_shop) = (house.from("edge", "edge-web"), house.from("edge", "edge-shop"));
    let (to_host, ears) = (house.from("edge", "host-edge"), ["web", "shop"].map(|node| house.ear(node, UDP)));
    let (by_tcp, by_icmp) = (house.ear("web", TCP), house.ear("web", ICMP));
    let mut packets: Vec<Packet> = [22, 81, 443, 5432].map(|port| udp("172.16.1.0", "172.16.1.1", port)).into();
    packets.extend([tcp("172.16.1.0", "172.16.1.1", 80, SYN), echo("172.16.1.0", "172.16.1.1")]);
    packets.push(udp("172.16.1.0", "10.254.1.0", 80));
    house.denies("edge-web", &to_web, &packets, &[&ears[0], &by_tcp, &by_icmp]);
    house.the_kernel_drops("web", &to_web, &[udp("172.16.1.0", "10.254.1.1", 5432)], &[&house.ear("db", UDP)]);
    house.denies("edge-shop", &to_shop, &[udp("172.16.2.0", "172.16.2.1", 443)], &[&ears[1]]);
    // What the file lets the hub hand on may come from anybody outside, but not from inside.
    house.host.set_sysctl("shop", "ipv4/conf/eth0/rp_filter", "0");
    house.host.set_sysctl("shop", "ipv4/conf/all/rp_filter", "0");
    house.denies("edge-shop", &to_shop, &[udp("198.51.100.1", "172.16.2.1", 80)], &[&ears[1]]);

    let lan = [UDP, TCP, ICMP].map(|protocol| house.ear("lan", protocol));
    let elsewhere = [house.ear("host", UDP), house.ear("mail", UDP), house.ear("vpn", UDP)];
    let own = "192.168.100.1";
    let mut packets = vec![udp(own, "192.0.2.1", 81), tcp(own, "192.0.2.1", 80, SYN), echo(own, "192.0.2.1")];
    packets.extend(
        [("192.0.2.7", 80), ("198.51.100.1", 80), ("192.168.102.1", 25), ("10.1.1.1", 22)]
            .map(|(to, port)| udp(own, to, port)),
    );
    packets.extend([("192.168.100.0", 22), ("192.0.2.2", 22)].map(|(to, port)| udp(own, to, port)));
    house.denies(
        "host-edge",
        &to_host,
        &packets,
        &[&lan[0], &lan[1], &lan[2], &elsewhere[0], &elsewhere[1], &elsewhere[2]],
    );
    let strangers = ["172.16.2.1", "192.168.102.1", "198.51.100.7"].map(|from| udp(from, "192.0.2.1", 80));
    house.the_kernel_drops("host", &to_host, &strangers, &[&lan[0]]);
    ["all", "host-edge"].iter().for_each(|at| house.host.set_sysctl("host", &format!("ipv4/conf/{at}/rp_filter"), "0"));
    house.denies("host-edge", &to_host, &strangers, &[&lan[0]]);

    house.passes(&to_web, &udp("172.16.1.0", "172.16.1.1", 80), &ears[0]);
    house.passes(&to_host, &udp(own, "192.0.2.1", 80), &lan[0]);
    house.open("web", "in.edge-web");
    house.passes(&to_web, &udp("172.16.1.0", "172.16.1.1", 22), &ears[0]);
    house.open("host", "through.host-edge");
    house.passes(&to_host, &udp(own, "192.0.2.1", 81), &lan[0]);
}

/// T19, T20: one peer of a VPN sends to another, and wherever his own configuration lets him: to leaves that he is not allowed, to
/// what they do not have open, to the hub itself, to the outside, whatever the tunnel takes from him. He gets the flows of the
/// wires he is allowed; a peer with `allow = ["*"]` those of all; neither the other.
///
/// It depends on `clients.WIRE` of the hub, which knows peers by their addresses, and on the end of `clients`.
#[test]
fn t19_peers_and_their_rights() {
    let peer = |name: &str, address: &str, allow: &str| {
        format!(
            "[[hub.vpn.wireguard.peer]]\nname = \"{name}\"\npublic-key = \"{}\"\naddress = \"{address}\"\nallow = [{allow}]\n",
            if name == "laptop" {
                "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
            } else {
                "nLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
            },
        )
    };
    let music =
        "  { name = \"vpn-music\", ends = [\"vpn\", \"music\"], subnet = \"10.1.2.0/31\", allow = [\"udp/80\"] },\n]";
    let tunnel = "[hub.vpn.wireguard]\nlisten = 51820\nendpoint = \"a.example:51820\"\nprivate-key = \"/run/key\"\n";
    let topology = HOUSE.replacen("\n]", &format!("\n{music}"), 1).replace("\"git\",", "\"git\", \"music\",")
        + tunnel
        + &peer("laptop", "10.100.0.2", "\"git\"")
        + &peer("phone", "10.100.0.3", "\"*\"");
    let Some(house) = House::bare(&topology) else { return };
    house.host.netns(&["music"]);
    // Here `up` makes the tunnel; what comes out of it is what is to be tried.
    house.host.sh("ip -n vpn link del wg0");
    house.wire_up();
    house.host.sh(super::TUNNEL);
    house.set("vpn", "wg0", "ipv4/conf/{}/forwarding", "1");
    let ears = ["git", "music", "vpn", "phone", "lan"].map(|node| house.ear(node, UDP));
    let phone = house.phone();
    let to = |from: &str, all: &[(&str, u16)]| all.iter().map(|(to, port)| udp(from, to, *port)).collect::<Vec<_>>();
    let laptop = [("10.100.0.3", 22), ("172.16.1.1", 80), ("192.168.101.0", 9), ("192.0.2.1", 53)];
    house.nobody_takes("vpn", &phone, &to("10.100.0.2", &laptop), &ears.each_ref());
    house.nobody_takes("vpn", &phone, &to("10.100.0.3", &[("10.100.0.2", 22)]), &ears.each_ref());
    house.nobody_takes("vpn", &phone, &to("10.100.1.1", &[("10.1.1.1", 22)]), &ears.each_ref());
    house.denies("vpn-git", &phone, &to("10.100.0.2", &[("10.1.1.1", 80)]), &ears.each_ref());
    house.denies("vpn-git", &phone, &to("10.100.0.9", &[("10.1.1.1", 22)]), &ears.each_ref());
    house.denies("vpn-music", &phone, &to("10.100.0.2", &[("10.1.2.1", 80)]), &ears.each_ref());
    house.passes(&phone, &udp("10.100.0.2", "10.1.1.1", 22), &ears[0]);
    house.passes(&phone, &udp("10.100.0.3", "10.1.1.1", 22), &ears[0]);
    house.passes(&phone, &udp("10.100.0.3", "10.1.2.1", 80), &ears[1]);

    let packet = [udp("10.100.0.2", "10.1.2.1", 80)];
    house.open("vpn", "clients.vpn-music");
    house.denies("vpn-music", &phone, &packet, &ears.each_ref());
    house.open("music", "in.vpn-music");
    house.passes(&phone, &packet[0], &ears[1]);
    house.open("vpn", "clients");
    house.host.sh("ip -n phone address add 10.100.0.3/24 dev wg0");
    house.passes(&phone, &udp("10.100.0.9", "10.100.0.3", 22), &ears[3]);
}

/// T21: what leaves must bear the address that the file says: the mail's its own, a hub's and its leaf's the host's; also after the
/// next boot.
///
/// It depends on `postrouting` of the host: without its rule the inside address goes out.
#[test]
fn t21_source_addresses_outside() {
    for _boot in 0..2 {
        let Some(house) = House::up() else { return };
        let lan = house.ear("lan", UDP);
        let seen = |node, to| arrives_from(&house, node, to, &lan).to_string();
        assert_eq!(seen("mail", "192.0.2.1:25"), "192.0.2.25");
        assert_eq!(seen("edge", "192.0.2.1:80"), "192.0.2.2");
        assert_eq!(seen("shop", "192.0.2.1:53"), "192.0.2.2");
        house.take_out("host", "postrouting", "host-mail");
        assert_eq!(seen("mail", "192.0.2.1:25"), "192.168.102.1");
        house.wire_up();
        assert_eq!(seen("mail", "192.0.2.1:25"), "192.0.2.25");
    }
}

/// T22: a client's address must come through to whoever serves it, or all lists of who may come are void: over what is published,
/// over what a hub hands on, over IPv6.
///
/// It depends on there being no rule: with a masquerade towards the hub it would be the host's.
#[test]
fn t22_clients_keep_their_address() {
    let Some(house) = House::up() else { return };
    house
        .host
        .sh("ip address add 2001:db8:1::2/64 dev eth0 nodad; ip -n lan address add 2001:db8:1::1/64 dev eth0 nodad");
    let (edge, shop, sixth) = (house.ear("edge", UDP), house.ear("shop", UDP), house.ear6("edge", UDP));
    assert_eq!(arrives_from(&house, "lan", "192.0.2.2:80", &edge).to_string(), "192.0.2.1");
    assert_eq!(arrives_from(&house, "lan", "192.0.2.2:7777", &shop).to_string(), "192.0.2.1");
    let lan = house.lan();
    lan.send(&udp("2001:db8:1::1", "2001:db8:1::2", 80));
    let mut heard = Vec::new();
    until("a client comes by IPv6", || {
        heard = sixth.heard();
        !heard.is_empty()
    });
    assert_eq!(heard[0].to_string(), "2001:db8:1::1");
    house.nft("host", "add rule inet wire postrouting oifname host-edge masquerade");
    house.take_out("edge", "in.host-edge", "@inside");
    house.open("edge", "in.host-edge");
    assert_eq!(arrives_from(&house, "lan", "192.0.2.2:80", &edge).to_string(), "192.168.100.0");
}

/// T23: a port is published for those of a set, a hub hands one on and a leaf may use one for those of the same: the set is empty,
/// so there is nobody. One is added while all is up: he comes in, by all three ways, and nobody else does; `up` keeps him. He is
/// deleted: he is out. No rule is loaded for it. (What becomes of a set whose names nobody answers for:
/// `sets::names_are_asked_and_their_last_good_answer_stays`.)
///
/// It depends on the set being asked in `prerouting`, in `outside.WIRE` and in the far end's `in.WIRE`: any of them is enough.
#[test]
fn t23_an_empty_set_is_nobody() {
    let limited = HOUSE
        .replace("publish = [\"udp/80\"]", "publish = [{ flow = \"udp/80\", from = \"@friends\" }]")
        .replace("to = \"shop:7777\"\n", "to = \"shop:7777\"\nfrom = \"@friends\"\n")
        .replace("allow = [\"udp/5432\"]", "allow = [{ flow = \"udp/5432\", from = \"@friends\" }]")
        + "[set.friends]\n";
    let Some(house) = House::of(&limited) else { return };
    let ears = ["edge", "shop", "db"].map(|node| house.ear(node, UDP));
    let (lan, web, at_host) = (house.lan(), house.from("web", "web-db"), house.ear("host", UDP));
    let published = |from: &str| [udp(from, "192.0.2.2", 80), udp(from, "192.0.2.2", 7777)];
    let own = udp("10.254.1.0", "10.254.1.1", 5432);
    // What is not handed in is the host's own affair.
    let kept = |from: &str| {
        published(from).iter().for_each(|packet| house.passes(&lan, packet, &at_host));
        ears.iter().for_each(|ear| assert!(ear.heard().is_empty(), "{from} comes in"));
    };
    kept("192.0.2.1");
    house.denies("web-db", &web, from_ref(&own), &[&ears[2]]);
    let handles = || ["prerouting", "outside.host-edge"].map(|chain| house.rules("host", chain)).concat();
    let before = handles();

    house.host.wire(&["set", "add", "friends", "192.0.2.7", "10.254.1.0"]).expect(0);
    let comes_in = || {
        let mut all = published("192.0.2.7");
        // A new connection each time: translation is decided once for each.
        let port = all.iter().map(|packet| u16::from_be_bytes([packet.body[2], packet.body[3]])).collect::<Vec<_>>();
        for (packet, (port, ear)) in all.iter_mut().zip(port.into_iter().zip(&ears)) {
            *packet = udp_from(next_port(), "192.0.2.7", "192.0.2.2", port);
            house.passes(&lan, packet, ear);
        }
        house.passes(&web, &own, &ears[2]);
    };
    comes_in();
    kept("192.0.2.8");
    assert_eq!(handles(), before, "no rule was loaded");
    house.wire_up();
    comes_in();
    assert_eq!(handles(), before);
    house.host.wire(&["set", "del", "friends", "192.0.2.7", "10.254.1.0"]).expect(0);
    let again = [80, 7777].map(|port| udp_from(next_port(), "192.0.2.7", "192.0.2.2", port));
    again.iter().for_each(|packet| house.passes(&lan, packet, &at_host));
    ears.iter().for_each(|ear| assert!(ear.heard().is_empty(), "he is out"));
    house.denies("web-db", &web, &[udp_from(next_port(), "10.254.1.0", "10.254.1.1", 5432)], &[&ears[2]]);

    let stranger = |port| udp_from(next_port(), "192.0.2.8", "192.0.2.2", port);
    house.nft("host", "add rule inet wire prerouting udp dport 80 dnat ip to 192.168.100.1");
    house.denies("host-edge", &lan, &[stranger(80)], &[&ears[0]]);
    house.open("host", "outside.host-edge");
    house.denies("host-edge", &lan, &[stranger(80)], &[&ears[0]]);
    house.open("edge", "in.host-edge");
    house.passes(&lan, &stranger(80), &ears[0]);
}

/// A port that nothing was sent from before.
fn next_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(20_000);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// T24: a leaf asks for names, which is also a way to carry data out: by UDP, TCP, TLS and HTTPS, its hub, the host, the resolver of
/// the LAN, one of the Internet. A process of the leaf is refused in the leaf itself; past the leaf's rules its hub and the host
/// refuse. A leaf with one resolver has that one, by UDP. (Names in a set: `sets::answers_are_those_of_the_server`.)
///
/// It depends on there being no flow: with one more rule at the leaf's end and in the hub it gets through.
#[test]
fn t24_names_and_exfiltration() {
    let Some(house) = House::up() else { return };
    let lan = [UDP, TCP].map(|protocol| house.ear("lan", protocol));
    let resolvers = |own: &str, all: &[&str]| -> Vec<Packet> {
        let ways = |to: &&str| [udp(own, to, 53), tcp(own, to, 53, SYN), tcp(own, to, 853, SYN), udp(own, to, 443)];
        all.iter().flat_map(ways).collect()
    };
    for (node, wire, own, hubs) in [
        ("git", "vpn-git", "10.1.1.1", &["10.1.1.0", "192.168.101.0", "192.0.2.1", "9.9.9.9"][..]),
        ("mail", "host-mail", "192.168.102.1", &["192.168.102.0", "192.0.2.2", "192.0.2.1", "9.9.9.9"]),
        ("shop", "edge-shop", "172.16.2.1", &["192.168.100.0", "192.0.2.2", "9.9.9.9"]),
    ] {
        house.denies(wire, &house.from(node, wire), &resolvers(own, hubs), &lan.each_ref());
        for to in ["192.0.2.1:443", "9.9.9.9:53"] {
            let before = house.denied(wire);
            let error = honest(&house, node).send_to(TAG, to).expect_err("no process of a leaf may send that");
            let unreachable = error.kind() == std::io::ErrorKind::NetworkUnreachable;
            assert!(unreachable || error.kind() == std::io::ErrorKind::PermissionDenied, "{error}");
            assert_eq!(house.denied(wire), before + u64::from(!unreachable), "{node} to {to}");
        }
    }
    let shop = house.from("shop", "edge-shop");
    house.denies("edge-shop", &shop, &[tcp("172.16.2.1", "192.0.2.1", 53, SYN)], &[&lan[1]]);
    arrives_from(&house, "shop", "192.0.2.1:53", &lan[0]);

    house.open("edge", "through.edge-shop");
    house.denies("host-edge", &shop, &[udp("172.16.2.1", "9.9.9.9", 53)], &[&lan[0]]);
    house.open("host", "through.host-edge");
    let tap = Tap::at(&house.host, "lan");
    house.host.sh("ip route add 9.9.9.9 via 192.0.2.1");
    shop.send(&udp("172.16.2.1", "9.9.9.9", 53));
    until("a name is asked outside", || !tap.heard().is_empty());
}

/// Every end of every wire with its node, its address and the far one's.
const ENDS: [(&str, &str, &str, &str, &str); 14] = [
    ("host-edge", "host", "edge", "192.168.100.0", "192.168.100.1"),
    ("host-edge", "edge", "host", "192.168.100.1", "192.168.100.0"),
    ("host-vpn", "host", "vpn", "192.168.101.0", "192.168.101.1"),
    ("host-vpn", "vpn", "host", "192.168.101.1", "192.168.101.0"),
    ("host-mail", "host", "mail", "192.168.102.0", "192.168.102.1"),
    ("host-mail", "mail", "host", "192.168.102.1", "192.168.102.0"),
    ("edge-web", "edge", "web", "172.16.1.0", "172.16.1.1"),
    ("edge-web", "web", "edge", "172.16.1.1", "172.16.1.0"),
    ("edge-shop", "edge", "shop", "172.16.2.0", "172.16.2.1"),
    ("edge-shop", "shop", "edge", "172.16.2.1", "172.16.2.0"),
    ("vpn-git", "vpn", "git", "10.1.1.0", "10.1.1.1"),
    ("vpn-git", "git", "vpn", "10.1.1.1", "10.1.1.0"),
    ("web-db", "web", "db", "10.254.1.0", "10.254.1.1"),
    ("web-db", "db", "web", "10.254.1.1", "10.254.1.0"),
];

/// T25: between all neighbours, in both directions: protocols that no flow names (tunnels, SCTP, an experimental one), every
/// message of ICMP that asks or answers; over IPv6 the same, and a datagram behind other headers; datagrams in fragments, whole,
/// without their beginning, and with a beginning that is rewritten.
///
/// It depends on every flow naming its protocol and on the end of `in.WIRE`; fragments on being put together before any rule.
#[test]
fn t25_odd_protocols_and_fragments() {
    let Some(house) = House::up() else { return };
    let odd = [2, 4, 41, 46, 47, 50, 51, 89, 103, 108, 132, 136, 253];
    for (wire, from, to, own, far) in ENDS {
        let mut packets: Vec<Packet> = odd.iter().map(|protocol| packet(*protocol, own, far)).collect();
        packets.extend([0, 8, 13, 14, 15, 17].map(|kind| icmp(own, far, kind, 0, &[0x42, 0x42, 0, 1])));
        let ears: Vec<_> = odd.iter().chain(&[ICMP]).map(|protocol| house.ear(to, *protocol)).collect();
        house.denies(wire, &house.from(from, wire), &packets, &ears.iter().collect::<Vec<_>>());
    }
    let (own, far) = ("fd00:1::1", "fd00:1::");
    let (web, udp6) = (house.from("web", "edge-web"), house.ear6("edge", UDP));
    let mut packets: Vec<Packet> = [41, 47, 50, 132, 253].iter().map(|protocol| packet(*protocol, own, far)).collect();
    packets.extend([128, 129, 139, 144].map(|kind| icmp(own, far, kind, 0, &[0x42, 0x42, 0, 1])));
    // A datagram behind options for each hop and for the destination (RFC 8200), which hold only padding.
    let behind = |number, port| {
        let inner = udp(own, far, port);
        Packet { protocol: number, body: [&[UDP, 0, 1, 4, 0, 0, 0, 0], &inner.body[..]].concat(), ..inner }
    };
    packets.extend([behind(0, 22), behind(60, 22)]);
    let at_edge = [41, 47, 50, 132, 253, ICMPV6].map(|protocol| house.ear6("edge", protocol));
    let ears: Vec<_> = at_edge.iter().chain([&udp6]).collect();
    house.denies("edge-web", &web, &packets, &ears);
    house.passes(&web, &behind(60, 443), &udp6);

    let ear = house.ear("edge", UDP);
    let send = |fragments: &[Packet]| fragments.iter().for_each(|fragment| web.send(fragment));
    let whole = |port, id| udp("172.16.1.1", "172.16.1.0", port).fragments(id, &[0, 8, 16]);
    let before = house.denied("edge-web");
    (0..TIMES as u16).for_each(|id| send(&whole(22, id)));
    until("each is put together and denied", || house.denied("edge-web") == before + TIMES as u64);
    // The last parts of one to a port that is open, and then one to another whose first eight bytes come a second time.
    send(&whole(443, 100)[1..]);
    let mut rewritten = whole(443, 101);
    rewritten[1] = whole(22, 101).remove(0);
    send(&rewritten);
    assert!(ear.heard().is_empty());
    send(&whole(443, 102));
    until("a whole one to an open port arrives", || ear.heard().len() == 1);
    assert_eq!(house.denied("edge-web"), before + TIMES as u64);

    house.open("edge", "in.edge-web");
    let ear = house.ear("edge", 253);
    house.passes(&web, &packet(253, "172.16.1.1", "172.16.1.0"), &ear);
}

/// T26: errors of ICMP about connections that do not exist; then errors about one that does, of a kind that nobody needs; then a
/// connection that a protocol's helper expects (as FTP's would, were it loaded). Errors that belong to a connection pass.
///
/// It depends on `invalid` being denied, and on the chain `related`, which takes three kinds of ICMP and nothing else.
#[test]
fn t26_what_claims_to_be_related() {
    let Some(house) = House::up() else { return };
    let (web, ears) = (house.from("web", "edge-web"), [house.ear("edge", ICMP), house.ear6("edge", ICMPV6)]);
    let about = |port| udp("172.16.1.0", "172.16.1.1", port);
    let about6 = |port| udp("fd00:1::", "fd00:1::1", port);
    let four = |kind, code, about: &Packet| error("172.16.1.1", "172.16.1.0", kind, code, [0, 0, 5, 0], about);
    let six = |kind, code, about: &Packet| error("fd00:1::1", "fd00:1::", kind, code, [0, 0, 5, 0], about);
    let kinds = [(3, 0), (3, 1), (3, 3), (3, 4), (4, 0), (5, 1), (11, 0), (12, 0)];
    let kinds6 = [(1, 0), (1, 4), (2, 0), (3, 0), (4, 0)];
    house.denies("edge-web", &web, &kinds.map(|(kind, code)| four(kind, code, &about(80))), &ears.each_ref());
    house.denies("edge-web", &web, &kinds6.map(|(kind, code)| six(kind, code, &about6(80))), &ears.each_ref());

    let own =
        house.host.at("edge", || ["172.16.1.0:4242", "[fd00:1::]:4242"].map(|own| UdpSocket::bind(own).expect(own)));
    own[0].send_to(b"hello", "172.16.1.1:80").expect("it may be sent");
    own[1].send_to(b"hello", "[fd00:1::1]:80").expect("it may be sent");
    house.denies("edge-web", &web, &[four(4, 0, &about(80)), four(5, 1, &about(80))], &ears.each_ref());
    for (kind, code) in [(3, 1), (3, 4), (11, 0), (12, 0)] {
        house.passes(&web, &four(kind, code, &about(80)), &ears[0]);
    }
    kinds6.iter().for_each(|(kind, code)| house.passes(&web, &six(*kind, *code, &about6(80)), &ears[1]));
    house.denies("edge-web", &web, &[four(3, 1, &about(81))], &ears.each_ref());

    // What a helper does: the first packet of a connection makes the kernel expect another one, the other way.
    let expectation = "add table inet ftp; \
        add ct expectation inet ftp data { protocol udp; dport 9999; timeout 1m; size 12; l3proto ip; }; \
        add chain inet ftp output { type filter hook output priority -10; }; \
        add rule inet ftp output udp dport 80 ct expectation set \"data\"";
    house.nft("edge", expectation);
    let (data, ear) = (udp("172.16.1.1", "172.16.1.0", 9999), house.ear("edge", UDP));
    let command = || honest(&house, "edge").send_to(b"PORT", "172.16.1.1:80").expect("it may be sent");
    command();
    house.denies("edge-web", &web, from_ref(&data), &[&ear]);
    house.nft("edge", "add rule inet wire related accept");
    command();
    house.passes(&web, &data, &ear);
}
