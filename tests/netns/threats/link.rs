//! T1 to T12: what a neighbour on the link can say.

use std::slice::from_ref;

use super::{House, until};
use crate::host::text;
use crate::packet::{ICMP, ICMPV6, Packet, SYN, TCP, UDP, echo, error, icmp_alone, tcp, udp};

/// A router advertisement (RFC 4861): a default router for half an hour, and a prefix to take an address from.
fn router() -> Packet {
    let head = [64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [&[3, 4, 64, 0xc0][..], &[0, 0, 0x0e, 0x10], &[0, 0, 0x0e, 0x10], &[0; 4]].concat();
    let network = [0x20, 1, 0x0d, 0xb8, 0xba, 0xd0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    icmp_alone("fe80::bad", "ff02::1", 134, 0, &[&head[..], &prefix, &network].concat())
}

/// Whether a node has believed a router.
fn believes(house: &House, node: &str) -> bool {
    let routes = house.host.ip(node, &["-6", "route", "show", "proto", "ra"]);
    let addresses = house.host.ip(node, &["address", "show"]).to_string();
    routes.as_array().is_some_and(|routes| !routes.is_empty()) || addresses.contains("2001:db8:bad0:")
}

/// T1: a node advertises itself as a router over a wire with IPv6, from leaf to hub, hub to leaf and hub to host, and over one
/// without. Nobody takes a route or an address from it.
///
/// It depends on `in.WIRE`'s rules for the destination and the source, and, should those go, on `accept_ra=0`: each alone is
/// enough. Over a wire without IPv6 the kernel takes no packet of it at all.
#[test]
fn t01_router_advertisements() {
    let Some(house) = House::up() else { return };
    for (from, to, wire) in [("web", "edge", "edge-web"), ("edge", "web", "edge-web"), ("edge", "host", "host-edge")] {
        house.denies(wire, &house.from(from, wire), &[router()], &[]);
        assert!(!believes(&house, to), "{to} believes {from}");
    }
    let shop = house.from("shop", "edge-shop");
    let discarded = || -> u64 {
        let all = house.host.run("edge", &["cat", "/proc/net/snmp6"]).expect(0).stdout;
        let line = all.lines().find_map(|line| line.strip_prefix("Ip6InDiscards")).expect("a count");
        line.trim().parse().expect("a number")
    };
    let before = discarded();
    (0..3).for_each(|_| shop.send(&router()));
    until("the kernel discards what is of IPv6", || discarded() == before + 3);
    assert!(!believes(&house, "edge"));

    let edge = house.from("edge", "edge-web");
    let rules_out = || {
        house.open("web", "in.edge-web");
        house.take_out("web", "in.edge-web", "ip6 daddr !=");
        house.take_out("web", "in.edge-web", "ip6 saddr !=");
    };
    let listen = |value| house.host.set_sysctl("web", "ipv6/conf/eth0/accept_ra", value);
    // The setting alone.
    rules_out();
    let heard = house.ear6("web", ICMPV6);
    edge.send(&router());
    house.passes(&edge, &echo("fd00:1::", "fd00:1::1"), &heard);
    assert!(!believes(&house, "web"));
    // The rules alone.
    house.mended();
    listen("1");
    house.denies("edge-web", &edge, &[router()], &[]);
    assert!(!believes(&house, "web"));
    // Neither.
    rules_out();
    edge.send(&router());
    until("web believes a router", || believes(&house, "web"));
}

/// The link-local address of an end.
fn link_local(house: &House, node: &str, wire: &str) -> String {
    let link = house.host.link(node, wire);
    let local = link["addr_info"].as_array().expect("addresses").iter().find(|address| address["scope"] == "link");
    text(&local.expect("a link-local address")["local"])
}

/// T2: over a wire with IPv6 both ends talk to each other's link-local address, to ports that are allowed between their own
/// addresses and to others, by UDP, TCP and ICMP. Nothing passes, as the flow is between the addresses of the file. Where a wire
/// has no IPv6, neither end has an address to talk to.
///
/// It depends on `in.WIRE`'s rules for the destination and for the source, either of them.
#[test]
fn t02_link_local_addresses() {
    let Some(house) = House::up() else { return };
    for wire in ["host-vpn", "host-mail", "edge-shop", "vpn-git", "web-db"] {
        for node in wire.split('-') {
            let addresses = house.host.link(node, wire)["addr_info"].to_string();
            assert!(!addresses.contains("inet6"), "{wire} at {node}: {addresses}");
        }
    }
    for (from, to, wire) in [
        ("web", "edge", "edge-web"),
        ("edge", "web", "edge-web"),
        ("host", "edge", "host-edge"),
        ("edge", "host", "host-edge"),
    ] {
        let ears = [UDP, TCP, ICMPV6].map(|protocol| house.ear6(to, protocol));
        let (own, far) = (&link_local(&house, from, wire), &link_local(&house, to, wire));
        let packets =
            [udp(own, far, 80), udp(own, far, 443), udp(own, far, 22), tcp(own, far, 80, SYN), echo(own, far)];
        house.denies(wire, &house.from(from, wire), &packets, &ears.each_ref());
    }
    let (edge, ear) = (house.from("edge", "edge-web"), house.ear6("web", UDP));
    house.passes(&edge, &udp("fd00:1::", "fd00:1::1", 80), &ear);

    let packet = udp(&link_local(&house, "edge", "edge-web"), &link_local(&house, "web", "edge-web"), 80);
    house.open("web", "in.edge-web");
    house.denies("edge-web", &edge, from_ref(&packet), &[&ear]);
    house.take_out("web", "in.edge-web", "ip6 daddr !=");
    house.denies("edge-web", &edge, from_ref(&packet), &[&ear]);
    house.take_out("web", "in.edge-web", "ip6 saddr !=");
    house.passes(&edge, &packet, &ear);
    house.mended();
    house.denies("edge-web", &edge, &[packet], &[&ear]);
}

/// T4: a kernel answers on any device for any address that it has (the weak host model). A leaf talks over its own wire to the
/// hub's addresses of other wires, at a port that those wires allow; a hub and a leaf of the host to the host's; a machine of the
/// LAN to the host's ends.
///
/// It depends on `in.WIRE`'s rule for the destination, and at the host on one rule in `input` for each of its ends.
#[test]
fn t04_addresses_of_other_wires() {
    let Some(house) = House::up() else { return };
    let (web, ears) = (house.from("web", "edge-web"), [house.ear("edge", UDP), house.ear6("edge", UDP)]);
    let others = ["172.16.2.0", "192.168.100.1"].map(|to| udp("172.16.1.1", to, 443));
    house.denies("edge-web", &web, &others, &ears.each_ref());
    house.denies("edge-web", &web, &[udp("fd00:1::1", "fd00:100::1", 443)], &ears.each_ref());
    house.passes(&web, &udp("172.16.1.1", "172.16.1.0", 443), &ears[0]);
    house.passes(&web, &udp("fd00:1::1", "fd00:1::", 443), &ears[1]);

    let at_host = house.ear("host", UDP);
    for (node, wire, own) in [("edge", "host-edge", "192.168.100.1"), ("mail", "host-mail", "192.168.102.1")] {
        let others = ["192.168.101.0", "192.0.2.2", "192.0.2.25"].map(|to| udp(own, to, 9));
        house.denies(wire, &house.from(node, wire), &others, &[&at_host]);
    }
    let lan = house.lan();
    let ends = ["192.168.100.0", "192.168.101.0", "192.168.102.0"].map(|to| udp("192.0.2.1", to, 9));
    house.nobody_takes("host", &lan, &ends, &[&at_host]);
    house.passes(&lan, &udp("192.0.2.1", "192.0.2.2", 9), &at_host);

    house.open("edge", "in.edge-web");
    house.denies("edge-web", &web, &others, &ears.each_ref());
    house.take_out("edge", "in.edge-web", "ip daddr !=");
    others.iter().for_each(|packet| house.passes(&web, packet, &ears[0]));
    house.take_out("host", "input", "by another way");
    ends.iter().for_each(|packet| house.passes(&lan, packet, &at_host));
    house.mended();
    house.denies("edge-web", &web, &others, &ears.each_ref());
    house.nobody_takes("host", &lan, &ends, &[&at_host]);
}

/// T5: a leaf asks over its wire for the hardware address of each other address that the hub has, a hub for those of the host.
/// Only the far end's own is answered for.
///
/// It depends on `arp_ignore=2`, which is no rule: with 0 in its place there is an answer.
#[test]
fn t05_arp_for_other_wires() {
    let Some(house) = House::up() else { return };
    let answers = |node: &str, device: &str, to: &str| {
        house.host.run(node, &["busybox", "arping", "-c", "2", "-w", "2", "-f", "-I", device, to]).code == 0
    };
    for (node, device, own, others) in [
        ("web", "eth0", "172.16.1.0", &["172.16.2.0", "192.168.100.1"][..]),
        ("edge", "host-edge", "192.168.100.0", &["192.168.101.0", "192.168.102.0", "192.0.2.2"]),
    ] {
        assert!(answers(node, device, own), "{own} is the far end's own");
        for other in others {
            assert!(!answers(node, device, other), "{node} learns of {other}");
        }
    }
    house.set("edge", "edge-web", "ipv4/conf/{}/arp_ignore", "0");
    assert!(answers("web", "eth0", "172.16.2.0"));
}

/// T6: a leaf sends to a port that it may use, from another leaf's address, the host's, a VPN client's, one of the Internet; and
/// from the hub's own, loopback, none, and a group's. Likewise a hub to its leaf and to the host. With `rp_filter=1`, as `wire`
/// sets it, and with 0 and 2, as whoever owns the namespace may.
///
/// The second half of the list no kernel takes. The first half the kernel drops by `rp_filter=1`, and otherwise `in.WIRE`'s rule
/// for the source, on which it depends.
#[test]
fn t06_sources_of_others() {
    let Some(house) = House::up() else { return };
    let strangers = ["172.16.2.1", "192.168.100.0", "10.100.0.2", "198.51.100.7", "10.254.1.1"];
    let impossible = ["172.16.1.0", "127.0.0.1", "0.0.0.0", "224.0.0.1"];
    let from_all =
        |sources: &[&str], to: &str, port| sources.iter().map(|from| udp(from, to, port)).collect::<Vec<_>>();
    let (web, ear) = (house.from("web", "edge-web"), house.ear("edge", UDP));
    house.the_kernel_drops("edge", &web, &from_all(&strangers, "172.16.1.0", 443), &[&ear]);
    for strictness in ["0", "2"] {
        house.set("edge", "edge-web", "ipv4/conf/{}/rp_filter", strictness);
        house.denies("edge-web", &web, &from_all(&strangers, "172.16.1.0", 443), &[&ear]);
        house.the_kernel_drops("edge", &web, &from_all(&impossible, "172.16.1.0", 443), &[&ear]);
        house.passes(&web, &udp("172.16.1.1", "172.16.1.0", 443), &ear);
    }

    let (edge, at_web) = (house.from("edge", "edge-web"), house.ear("web", UDP));
    house.set("web", "eth0", "ipv4/conf/{}/rp_filter", "0");
    house.denies(
        "edge-web",
        &edge,
        &from_all(&["172.16.2.1", "198.51.100.7", "10.254.1.1"], "172.16.1.1", 80),
        &[&at_web],
    );
    house.passes(&edge, &udp("172.16.1.0", "172.16.1.1", 80), &at_web);

    let (edge, at_host) = (house.from("edge", "host-edge"), house.ear("host", UDP));
    house.host.set_sysctl("host", "ipv4/conf/all/rp_filter", "0");
    house.host.set_sysctl("host", "ipv4/conf/host-edge/rp_filter", "0");
    house.denies(
        "host-edge",
        &edge,
        &from_all(&["192.168.101.1", "172.16.1.1", "192.0.2.9"], "192.168.100.0", 9),
        &[&at_host],
    );

    house.open("edge", "in.edge-web");
    house.denies("edge-web", &web, &from_all(&strangers, "172.16.1.0", 443), &[&ear]);
    house.take_out("edge", "in.edge-web", "ip saddr !=");
    from_all(&strangers, "172.16.1.0", 443).iter().for_each(|packet| house.passes(&web, packet, &ear));
}

/// T7: the same over IPv6, for which the kernel has no `rp_filter`: the host's address, another leaf's, one of the Internet, one
/// of the wire's own subnet's neighbours, a link-local one. Neighbours still find each other afterwards.
///
/// It depends on `in.WIRE`'s rule for the source.
#[test]
fn t07_sources_of_others_by_ipv6() {
    let Some(house) = House::up() else { return };
    let strangers = ["fd00:100::", "fd00:100::1", "fd00:254::1", "2001:db8::7", "fd00:1::2", "fe80::1"];
    let packets = strangers.map(|from| udp(from, "fd00:1::", 443));
    let (web, ear) = (house.from("web", "edge-web"), house.ear6("edge", UDP));
    let own = udp("fd00:1::1", "fd00:1::", 443);
    house.denies("edge-web", &web, &packets, &[&ear]);
    house.passes(&web, &own, &ear);
    house.host.sh("ip -n edge -6 neigh flush dev edge-web; ip -n web -6 neigh flush dev eth0");
    let honest = house.host.at("web", || std::net::UdpSocket::bind("[fd00:1::1]:0").expect("an address of its own"));
    until("an honest packet arrives", || {
        honest.send_to(crate::packet::TAG, "[fd00:1::]:443").expect("it may be sent");
        !ear.heard().is_empty()
    });
    // The kernel makes sure of a neighbour that it knows, and asks for one to whom it forwards, from its link-local address.
    let before = house.denied("edge-web");
    let known =
        || house.host.run("edge", &["ip", "-6", "neigh", "show", "fd00:1::1", "dev", "edge-web"]).expect(0).stdout;
    house.host.sh("ip -n edge neigh change fd00:1::1 dev edge-web nud probe");
    until("the far end answers", || known().contains("REACHABLE"));
    assert_eq!(house.denied("edge-web"), before);

    house.open("edge", "in.edge-web");
    house.denies("edge-web", &web, &packets, &[&ear]);
    house.take_out("edge", "in.edge-web", "ip6 saddr !=");
    packets.iter().for_each(|packet| house.passes(&web, packet, &ear));
    house.mended();
    house.denies("edge-web", &web, &packets, &[&ear]);
}

/// T8: a client of a VPN sends from an address that no client has: another node's, the hub's, one of the Internet. (That one
/// client does not send from another's address is WireGuard's own affair: what decides there is that no two peers have one
/// address, which `check` sees to.)
///
/// It depends on the rule for the source in `clients`.
#[test]
fn t08_clients_with_other_addresses() {
    let Some(house) = House::up() else { return };
    house.set("vpn", "wg0", "ipv4/conf/{}/rp_filter", "0");
    let (phone, ears) = (house.phone(), [house.ear("git", UDP), house.ear("vpn", UDP)]);
    let strangers = ["172.16.1.1", "192.168.101.0", "198.51.100.7", "10.100.1.2"];
    let packets = strangers.map(|from| udp(from, "10.1.1.1", 22));
    house.nobody_takes("vpn", &phone, &packets, &ears.each_ref());
    house.passes(&phone, &udp("10.100.0.2", "10.1.1.1", 22), &ears[0]);

    let peer = |name: &str, address: &str| {
        let key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs=";
        format!(
            "[[hub.vpn.wireguard.peer]]\nname = \"{name}\"\npublic-key = \"{key}\"\naddress = \"{address}\"\nallow = [\"git\"]\n"
        )
    };
    let tunnel = "[hub.vpn.wireguard]\nlisten = 51820\nendpoint = \"a.example:51820\"\nprivate-key = \"/run/key\"\n";
    let two = |second| [super::HOUSE, tunnel, &peer("laptop", "10.100.0.2"), &peer("phone", second)].concat();
    house.host.topology(&two("10.100.0.2"));
    let told = house.host.wire(&["check"]).expect(2).stderr;
    assert!(told.contains("10.100.0.2") && told.contains("laptop"), "{told}");

    // Behind that rule everything is told by address, so it takes both an opening for everybody and the rule out.
    house.host.topology(super::HOUSE);
    house.nft("vpn", "add rule inet wire clients.vpn-git accept");
    let (handle, _) = house.rules("vpn", "clients.vpn-git").remove(0);
    house.nft("vpn", &format!("insert rule inet wire clients.vpn-git handle {handle} accept"));
    house.nobody_takes("vpn", &phone, &packets, &ears.each_ref());
    house.take_out("vpn", "clients", "ip saddr !=");
    house.open("git", "in.vpn-git");
    house.take_out("git", "in.vpn-git", "ip saddr !=");
    house.set("git", "eth0", "ipv4/conf/{}/rp_filter", "0");
    house.passes(&phone, &packets[0], &ears[0]);
}

/// T9: a neighbour sends to 127.0.0.1 over the link: a leaf to its hub, a hub to its leaf and to the host.
///
/// The kernel takes no such packet while `route_localnet` is 0, as `wire` sets it. Where somebody sets it, it depends on
/// `in.WIRE`'s rule for the destination.
#[test]
fn t09_loopback_over_the_link() {
    let Some(house) = House::up() else { return };
    let loopback = |from| [udp(from, "127.0.0.1", 443), udp(from, "127.0.0.1", 80)];
    for (from, own, to, wire) in [
        ("web", "172.16.1.1", "edge", "edge-web"),
        ("edge", "172.16.1.0", "web", "edge-web"),
        ("edge", "192.168.100.1", "host", "host-edge"),
    ] {
        let device = text(&house.host.link(to, wire)["ifname"]);
        for device in ["all", &device] {
            assert_eq!(house.host.sysctl(to, &format!("ipv4/conf/{device}/route_localnet")), "0", "{device} at {to}");
        }
        house.host.run(to, &["ip", "link", "set", "lo", "up"]).expect(0);
        let (link, ear) = (house.from(from, wire), house.ear(to, UDP));
        house.the_kernel_drops(to, &link, &loopback(own), &[&ear]);
        house.set(to, &device, "ipv4/conf/{}/route_localnet", "1");
        house.denies(wire, &link, &loopback(own), &[&ear]);
        house.open(to, &format!("in.{wire}"));
        house.denies(wire, &link, &loopback(own), &[&ear]);
        house.take_out(to, &format!("in.{wire}"), "ip daddr !=");
        loopback(own).iter().for_each(|packet| house.passes(&link, packet, &ear));
    }
}

/// T10: a leaf with two wires is used as a way between them: its neighbour on one sends, through it, to its neighbour on the
/// other, at a port that the leaf itself may use. Then its owner lets it forward.
///
/// The kernel does not forward while it is not told to. When it is, it depends on the leaf's `through.WIRE`, and behind that on
/// the far end's rule for the source.
#[test]
fn t10_a_leaf_as_a_way() {
    let Some(house) = House::up() else { return };
    let (db, ear) = (house.from("db", "web-db"), house.ear("edge", UDP));
    let packets = ["172.16.1.0", "172.16.2.1", "192.168.100.0"].map(|to| udp("10.254.1.1", to, 443));
    house.the_kernel_drops("web", &db, &packets[..1], &[&ear]);
    house.host.sh("ip -n web route add default via 172.16.1.0");
    house.the_kernel_drops("web", &db, &packets, &[&ear]);
    house.host.set_sysctl("web", "ipv4/ip_forward", "1");
    house.denies("web-db", &db, &packets, &[&ear]);
    let edge = house.from("edge", "edge-web");
    let at_db = house.ear("db", UDP);
    house.denies("edge-web", &edge, &[udp("172.16.1.0", "10.254.1.1", 5432)], &[&at_db]);

    house.open("web", "through.web-db");
    house.the_kernel_drops("edge", &db, &packets[..1], &[&ear]);
    house.set("edge", "edge-web", "ipv4/conf/{}/rp_filter", "0");
    house.denies("edge-web", &db, &packets[..1], &[&ear]);
    house.open("edge", "in.edge-web");
    house.denies("edge-web", &db, &packets[..1], &[&ear]);
    house.take_out("edge", "in.edge-web", "ip saddr !=");
    house.passes(&db, &packets[0], &ear);
}

/// T11: a hub tells its leaf by an ICMP redirect that the LAN is better reached by a third address, first about a connection
/// that does not exist, then about one that does; a leaf sends its hub a packet with a source route. Neither is followed.
///
/// Redirects depend on `in.WIRE` not taking them, not even as related to a connection, and on `accept_redirects=0`: either is
/// enough. Source routes depend on `accept_source_route=0` alone.
#[test]
fn t11_redirects_and_source_routes() {
    let Some(house) = House::up() else { return };
    for wire in ["host-edge", "host-vpn", "host-mail", "edge-web", "edge-shop", "vpn-git", "web-db"] {
        for node in wire.split('-') {
            let device = text(&house.host.link(node, wire)["ifname"]);
            for key in ["accept_redirects", "send_redirects", "accept_source_route"] {
                let value = house.host.sysctl(node, &format!("ipv4/conf/{device}/{key}"));
                assert_eq!(value, "0", "{key} of {device} at {node}");
            }
        }
    }
    let way = || text(&house.host.ip("shop", &["route", "get", "192.0.2.1"])[0]["gateway"]);
    let (edge, ear) = (house.from("edge", "edge-shop"), house.ear("shop", ICMP));
    let about = |port| udp("172.16.2.1", "192.0.2.1", port);
    let redirect = |port| error("172.16.2.0", "172.16.2.1", 5, 1, [198, 51, 100, 9], &about(port));
    house.denies("edge-shop", &edge, &[redirect(99)], &[&ear]);
    // A connection of the leaf's own, whose errors are related to it.
    let own = house.host.at("shop", || std::net::UdpSocket::bind("172.16.2.1:4242").expect("an address of its own"));
    own.send_to(b"name?", "192.0.2.1:53").expect("it may be sent");
    house.denies("edge-shop", &edge, &[redirect(53)], &[&ear]);
    let unreachable = error("172.16.2.0", "172.16.2.1", 3, 1, [0; 4], &about(53));
    house.passes(&edge, &unreachable, &ear);
    assert_eq!(way(), "172.16.2.0");

    let taken = |value| house.set("shop", "eth0", "ipv4/conf/{}/accept_redirects", value);
    // The rules alone.
    taken("1");
    house.denies("edge-shop", &edge, &[redirect(53)], &[&ear]);
    assert_eq!(way(), "172.16.2.0");
    // The settings alone.
    taken("0");
    house.open("shop", "in.edge-shop");
    house.passes(&edge, &redirect(53), &ear);
    assert_eq!(way(), "172.16.2.0");
    // Neither. The new way is taken once somebody answers for it.
    taken("1");
    until("the redirect is followed", || {
        edge.send(&redirect(53));
        edge.claim("198.51.100.9", edge.own, "172.16.2.1");
        way() == "198.51.100.9"
    });

    // A loose source route (RFC 791) that has come to its end.
    let (web, ear) = (house.from("web", "edge-web"), house.ear("edge", UDP));
    let by_way_of = |place| udp("172.16.1.1", "172.16.1.0", 443).options(&[131, 7, place, 172, 16, 2, 1, 0]);
    house.the_kernel_drops("edge", &web, &[by_way_of(4), by_way_of(8)], &[&ear]);
    house.set("edge", "edge-web", "ipv4/conf/{}/accept_source_route", "1");
    house.passes(&web, &by_way_of(8), &ear);
}

/// T12: a leaf claims by ARP, thousands of times, that it has another leaf's address, the host's, the hub's own and thousands
/// that nobody has. The hub's entries for other wires stay as they are, none is made for what nobody asked, and the other wires
/// carry what they carried.
///
/// It depends on `arp_accept=0` (the kernel's default) and on entries being kept for each device; no rule sees ARP.
#[test]
fn t12_floods_of_arp() {
    let Some(house) = House::up() else { return };
    let web = house.from("web", "edge-web");
    let (shop, ear) = (house.from("shop", "edge-shop"), house.ear("edge", UDP));
    let neighbours = || {
        let list = house.host.run("edge", &["ip", "-4", "neigh", "show", "nud", "all"]).expect(0).stdout;
        let known = list.lines().filter(|line| !line.contains("NOARP")).map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let address = words.iter().position(|word| *word == "lladdr").map(|at| words[at + 1].to_owned());
            (words[0].to_owned(), words[2].to_owned(), address)
        });
        let mut known: Vec<_> = known.filter(|(_, device, _)| device != "edge-web").collect();
        known.sort();
        known
    };
    let socket = house.host.at("edge", || std::net::UdpSocket::bind("172.16.2.0:0").expect("an address of its own"));
    socket.send_to(b"hello", "172.16.2.1:80").expect("it may be sent");
    let before = neighbours();
    assert!(before.iter().any(|(ip, device, _)| ip == "172.16.2.1" && device == "edge-shop"), "{before:?}");
    let flood = |rounds: u32| {
        for round in 0..rounds {
            let nobody = std::net::Ipv4Addr::from(0x0a00_0000 + round).to_string();
            let mac = [2, 0, 0, 0, (round >> 8) as u8, round as u8];
            for claimed in ["172.16.2.1", "192.168.100.0", "172.16.1.0", &nobody] {
                web.claim(claimed, mac, claimed);
            }
            if round % 500 == 0 {
                house.passes(&shop, &udp("172.16.2.1", "172.16.2.0", 443), &ear);
            }
        }
    };
    flood(2500);
    assert_eq!(neighbours(), before, "entries of other wires");
    let of_wire = || house.host.run("edge", &["ip", "-4", "neigh", "show", "dev", "edge-web"]).expect(0).stdout;
    assert_eq!(of_wire().lines().filter(|line| !line.starts_with("172.16.1.1 ")).count(), 0, "{}", of_wire());
    house.set("edge", "edge-web", "ipv4/conf/{}/arp_accept", "1");
    flood(3);
    until("the hub believes it", || of_wire().contains("10.0.0.1 "));
}
