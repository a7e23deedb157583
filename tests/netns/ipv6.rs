//! IPv6 on a wire: fully there with a `subnet6`, not at all without, not for a moment.

use crate::host::Host;
use crate::world::small;

/// With a `subnet6` its flows pass at once, without waiting for duplicate address detection.
#[test]
fn ipv6_answers_at_once() {
    let world = small();
    for _ in 0..5 {
        let host = world.host();
        host.wire(&["up"]).expect(0);
        assert!(host.reaches("web", "fd00:254::", 5432));
        let addresses = host.link("shop", "shop-web-database")["addr_info"].to_string();
        assert!(!addresses.contains("tentative") && !addresses.contains("dadfailed"), "{addresses}");
    }
}

/// Without a `subnet6` no address, route or message of IPv6 is ever on a wire, whatever the defaults of its namespaces:
/// not when it is made, mended or removed.
#[test]
fn without_subnet6_there_is_no_ipv6_for_a_moment() {
    let world = small();
    let host = Host::with(&world.nodes, &world.topology.replace(" subnet6 = \"fd00:254::/127\",", ""));
    for node in ["edge", "web", "shop"] {
        host.set_sysctl(node, "ipv6/conf/all/disable_ipv6", "0");
        host.set_sysctl(node, "ipv6/conf/default/disable_ipv6", "0");
        host.set_sysctl(node, "ipv6/conf/default/accept_ra", "2");
    }
    let monitors = world.monitors(&host);
    host.wire(&["up"]).expect(0);
    host.sh("ip -n web link del eth0");
    host.wire(&["up"]).expect(0);
    host.sh("ip -n edge link set edge-web down; ip -n edge link set edge-web up");
    host.dump();
    host.wire(&["up"]).expect(0);
    host.wire(&["down"]).expect(0);
    // That the kernel keeps settings for every device ("inet6 eth0 forwarding off") is no event.
    let ipv6 = |event: &String| {
        let event = event.trim_start_matches("Deleted ");
        !event.starts_with("inet6 ") && [" inet6 ", "fe80:", "ff00:", "fd00:"].iter().any(|word| event.contains(word))
    };
    for monitor in &monitors {
        let seen: Vec<_> = monitor.events().into_iter().filter(ipv6).collect();
        assert!(seen.is_empty(), "{seen:#?}");
    }
}

/// IPv6 passes the host and a hub by the devices that it has to pass and by no other, where the kernel can forward device by
/// device (6.17); everything is as before afterwards.
#[test]
fn ipv6_is_forwarded_where_it_passes() {
    let topology = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", subnet6 = "fd00:1::/127", publish = ["tcp/80"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", subnet6 = "fd00:2::/127", allow = ["tcp/80"] },
  { name = "edge-shop", ends = ["edge", "shop"], subnet = "172.16.2.0/31", subnet6 = "fd00:3::/127", allow = ["tcp/80"] },
]
[host]
uplinks = ["eth0"]
[module]
m = ["edge", "web", "shop"]
[hub.edge]
zone = "public"
[node.web]
egress = ["tcp/443"]
"#;
    let host = Host::with(&["edge", "web", "shop"], topology);
    if !host.path("/proc/sys/net/ipv6/conf/all/force_forwarding").exists() {
        return;
    }
    host.sh("ip address add 2001:db8::2/64 dev eth0 nodad; ip -n lan address add 2001:db8::1/64 dev eth0 nodad
             ip route add default via 2001:db8::1");
    let before = host.dump();
    host.wire(&["up"]).expect(0);
    host.wire(&["audit"]).expect(0);
    for (node, device, forced) in [
        ("host", "eth0", "1"),
        ("host", "host-edge", "1"),
        ("edge", "host-edge", "1"),
        ("edge", "edge-web", "1"),
        ("edge", "edge-shop", "0"),
        ("web", "eth0", "0"),
        ("shop", "eth0", "0"),
    ] {
        let value = |key: &str| host.sysctl(node, &format!("ipv6/conf/{device}/{key}"));
        assert_eq!((&*value("force_forwarding"), &*value("forwarding")), (forced, "0"), "{device} at {node}");
        assert_eq!(host.sysctl(node, "ipv6/conf/all/forwarding"), "0", "{node}");
    }
    assert!(host.reaches("web", "2001:db8::1", 443), "a leaf's egress");
    assert!(host.reaches("lan", "2001:db8::2", 80), "what is published");
    assert!(host.reaches("edge", "fd00:2::1", 80) && host.reaches("edge", "fd00:3::1", 80), "flows");
    host.sh("ip -n shop route add default via fd00:3::");
    assert!(!host.reaches("web", "2001:db8::1", 80) && !host.reaches("shop", "2001:db8::1", 443));
    host.sh("ip -n lan route add fd00:1::/127 via 2001:db8::2");
    assert!(!host.reaches("lan", "fd00:1::1", 80), "by its own address");
    host.sh("ip -n lan route del fd00:1::/127");
    host.sh("echo 0 >/proc/sys/net/ipv6/conf/eth0/force_forwarding");
    host.sh("nsenter --net=/run/netns/edge sh -c 'echo 0 >/proc/sys/net/ipv6/conf/edge-web/force_forwarding'");
    let audit = host.wire(&["audit"]).expect(3).stdout;
    assert!(audit.contains("force_forwarding") && audit.contains("edge-web"), "{audit}");
    host.wire(&["up"]).expect(0);
    assert!(host.reaches("web", "2001:db8::1", 443), "mended");
    host.wire(&["down"]).expect(0);
    host.dump().expect(&before, "down");
}
