//! IPv6 on a wire: fully there with a `subnet6`, not at all without, not for a moment.

use crate::host::Host;
use crate::world::small;

/// With a `subnet6` the far end answers at once, without waiting for duplicate address detection.
#[test]
fn ipv6_answers_at_once() {
    let world = small();
    for _ in 0..5 {
        let host = world.host();
        host.wire(&["up"]).expect(0);
        assert!(host.ping("shop", "fd00:254::1"));
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
