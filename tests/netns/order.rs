//! Rules before cables, cables before rules: in which order `wire` asks the kernel for things, and what it does not ask for where
//! the rules are missing.

use crate::crash::{Run, always_refused};
use crate::host::{Host, until};
use crate::world::small;

/// What `wire` asked for, in its order: sends to the kernel and settings that were opened to be written. `strace` shows the kinds
/// of messages as numbers where a socket is another namespace's.
fn asked(host: &Host, args: &[&str]) -> Vec<String> {
    let strace = ["strace", "-f", "-qq", "-v", "-s", "100000", "-o", "/run/trace"];
    let calls = ["-e", "trace=sendto,sendmsg,openat", "-e", "signal=none"];
    host.wire_under(&[&strace[..], &calls].concat(), args).expect(0);
    host.sh("cat /run/trace").lines().map(str::to_owned).collect()
}

fn has(call: &str, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| call.contains(&format!("nlmsg_type={kind}")))
}

/// A change of rules: NFT_MSG_NEWTABLE, _NEWCHAIN, _NEWRULE, _DELRULE, _NEWSETELEM, _DELSETELEM.
fn loads(call: &str) -> bool {
    let kinds = ["0xa00 ", "0xa03 ", "0xa06 ", "0xa08 ", "0xa0c ", "0xa0e "];
    let of_nft = ["NEWTABLE", "NEWCHAIN", "NEWRULE", "DELRULE", "NEWSETELEM", "DELSETELEM"];
    has(call, &kinds) || of_nft.iter().any(|kind| call.contains(&format!("NFT_MSG_{kind}")))
}

/// NFT_MSG_DELTABLE.
fn unloads(call: &str) -> bool {
    has(call, &["0xa02 "]) || call.contains("NFT_MSG_DELTABLE")
}

/// RTM_DELLINK, whose number NFNL_MSG_BATCH_END has too.
pub fn removes(call: &str) -> bool {
    has(call, &["0x11 ", "RTM_DELLINK"]) && !loads(call) && !unloads(call)
}

/// Whatever brings a cable into being or into use: a new link (RTM_NEWLINK, whose number NFNL_MSG_BATCH_BEGIN has too), a changed
/// one (RTM_SETLINK), an address, a route; or a device's forwarding.
fn opens(call: &str) -> bool {
    let link = has(call, &["0x10 ", "RTM_NEWLINK"]) && !loads(call) && !unloads(call);
    link || has(call, &["0x13 ", "RTM_SETLINK", "0x14 ", "RTM_NEWADDR", "0x18 ", "RTM_NEWROUTE"])
        || call.contains("forwarding\", O_WRONLY")
}

#[track_caller]
fn places(calls: &[String], is: fn(&str) -> bool) -> Vec<usize> {
    let places: Vec<usize> = calls.iter().enumerate().filter(|(_, call)| is(call)).map(|(place, _)| place).collect();
    assert!(!places.is_empty());
    places
}

/// All rules of all namespaces are in force before the first link is made, raised, addressed or lets anything pass, whether nothing is
/// there yet or a part of it has to be mended; on the way down the last cable has gone before the first rules go.
#[test]
fn rules_come_before_cables_and_go_after_them() {
    let world = small();
    let host = world.host();
    let breaks = "ip -n web link del eth0; nsenter --net=/run/netns/edge nft flush chain inet wire in.edge-web
        nsenter --net=/run/netns/web nft delete table inet wire; ip -n shop link set eth0 down
        echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding; nft flush chain inet wire input";
    for (what, break_it, namespaces) in [("from nothing", ":", 5), ("a repair", breaks, 3)] {
        host.sh(break_it);
        let calls = asked(&host, &["up"]);
        let (rules, cables) = (places(&calls, loads), places(&calls, opens));
        assert_eq!(rules.len(), namespaces, "{what}: one transaction a namespace");
        assert!(rules.last() < cables.first(), "{what}: {}", calls[cables[0]]);
    }
    let calls = asked(&host, &["down"]);
    let (cables, rules) = (places(&calls, removes), places(&calls, unloads));
    assert!(cables.last() < rules.first() && rules.len() == 5, "{}", calls[rules[0]]);
    assert!(calls.iter().all(|call| !has(call, &["0x14 ", "RTM_NEWADDR"])));
}

/// A namespace whose rules the kernel refuses, again and again, gets no wire and forwards nothing; the others keep theirs, it is
/// named, and the next `up` that may load them makes its wires.
#[test]
fn a_namespace_without_its_rules_gets_no_wire() {
    let world = small();
    let host = world.host();
    let restarted = |host: &Host| {
        host.wire(&["up"]).expect(0);
        host.dump();
        host.sh("ip netns del edge; ip netns add edge");
        // The kernel takes a namespace apart in its own time, and its wires with it.
        let far = [("host", "host-edge"), ("web", "eth0"), ("shop", "eth0")];
        until("its wires are gone", || far.iter().all(|(node, end)| !host.links(node).iter().any(|link| link == end)));
    };
    let up = always_refused(&host, &Run { command: &["up"], start: &restarted }, &loads).expect(1);
    assert!(up.stderr.contains("the rules of edge could not be loaded"), "{}", up.stderr);
    for wire in ["host-edge", "edge-web", "edge-shop-and-its-till"] {
        assert!(up.stderr.contains(&format!("create {wire}")), "{wire} is said not to be there: {}", up.stderr);
    }
    assert_eq!((host.links("edge"), &*host.rules("edge")), (vec!["lo".to_owned()], ""));
    let forwards = host.run("edge", &["sh", "-c", "grep -l 1 /proc/sys/net/ipv[46]/conf/*/forwarding"]).stdout;
    assert_eq!(forwards, "");
    assert!(host.reaches("web", "10.254.1.0", 5432), "the others have theirs");
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    let state = |name: &str| {
        let wires = audit["wires"].as_array().expect("wires");
        wires.iter().find(|wire| wire["name"] == name).expect("a wire")["state"].clone()
    };
    assert_eq!((state("shop-web-database"), state("edge-web")), ("up".into(), "missing".into()));
    host.wire(&["up"]).expect(0);
    world.observe(&host);
}
