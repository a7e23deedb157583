//! Changes from one file to another, and what is said to somebody who makes them over SSH.

use super::Session;
use crate::desired;
use crate::parse;
use crate::rules::{Ranges, Rules};
use crate::state::{Namespace, State};
use crate::target::Scope;
use crate::topology::{Name, Topology};

#[test]
fn what_sshd_says_is_read() {
    let told = |text: &str| Session::of(text).map(|session| format!("{session:?}"));
    let plain = told("192.0.2.1 50000 192.0.2.2 22");
    assert!(plain.is_some());
    assert_eq!(told("::ffff:192.0.2.1 50000 ::ffff:192.0.2.2 22"), plain);
    assert!(told("fe80::1%eth0 50000 fe80::2%eth0 22").is_some_and(|text| text.contains("fe80::1")));
    for nothing in ["", "UNKNOWN 65535 UNKNOWN 65535", "192.0.2.1 50000 192.0.2.2", "192.0.2.1 x 192.0.2.2 22"] {
        assert_eq!(told(nothing), None, "{nothing}");
    }
}

fn topology(host: &str, wires: &str, more: &str) -> Topology {
    let text = format!(
        "version = 1\nruntime = \"netns\"\nwire = [\n{wires}]\n[host]\nuplinks = [\"eth0\"]\n{host}\n\
         [module]\nm = [\"vpn\", \"web\"]\n[hub.vpn]\nzone = \"z\"\n{more}"
    );
    parse::topology(&text).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"))
}

/// What a host with an uplink holds when the file is carried out.
fn made(topology: &Topology, before: &State) -> State {
    let banned = Name::new("banned").unwrap();
    let address = "203.0.113.9".parse().unwrap();
    let ranges = Ranges::from([(banned, vec![(address, address, None)])]);
    let rules = Rules::of(topology, &ranges);
    desired::up(topology, &rules, &Scope::everything(topology), before)
}

/// The hint to somebody who changes the one file's house to the other's.
fn said(session: &str, [before, after]: [&Topology; 2]) -> Option<String> {
    let mut nothing = State::default();
    for node in desired::namespaces(after) {
        nothing.namespaces.insert(node, Namespace::default());
    }
    let mut seen = made(before, &nothing);
    for (node, namespace) in &nothing.namespaces {
        seen.namespaces.entry(node.clone()).or_insert_with(|| namespace.clone());
    }
    let host = seen.namespaces.get_mut("host").unwrap();
    host.foreign.networks =
        [("127.0.0.0/8", "lo"), ("192.0.2.0/24", "eth0"), ("0.0.0.0/0", "eth0"), ("10.9.0.0/24", "lan0")]
            .map(|(network, device)| (network.parse().unwrap(), device.to_owned()))
            .into();
    let session = Session::of(session).unwrap();
    Some(session.warning(after, &seen, &made(after, &seen), true)?.hint.unwrap())
}

const ANYBODY: &str = "198.51.100.7 50000 192.0.2.2 22";
const BANNED: &str = "203.0.113.9 50000 192.0.2.2 22";
/// Over the wire of the VPN, from the hub itself.
const HUB: &str = "192.168.101.1 50000 192.168.101.0 22";

const WIRE: &str =
    "{ name = \"host-vpn\", ends = [\"host\", \"vpn\"], subnet = \"192.168.101.0/31\", allow-back = [\"tcp/22\"] },\n";
const WEB: &str =
    "{ name = \"vpn-web\", ends = [\"vpn\", \"web\"], subnet = \"10.1.1.0/31\", allow = [\"tcp/80\"] },\n";

#[test]
fn who_would_be_locked_out_is_told_what_to_write() {
    let wires = [WIRE, WEB].concat();
    let open = topology("", &wires, "");
    let add = Some("add `allow = [\"tcp/22\"]` below [host]".to_owned());
    let all = |allow: &str| topology(&format!("policy = \"all\"\n{allow}"), &wires, "");
    let (none, ssh, web) = (all(""), all("allow = [\"tcp/22\"]"), all("allow = [\"tcp/80\"]"));
    let banned = "[set.banned]\n";
    let some = topology("policy = \"all\"\nallow = [{ flow = \"tcp/22\", from = \"@banned\" }]", &wires, banned);
    let block = topology("block = \"@banned\"", &wires, banned);
    let bare = topology("", WEB, "");

    assert_eq!(said(ANYBODY, [&open, &none]), add);
    assert_eq!(said(ANYBODY, [&bare, &none]), add, "there were no rules at all");
    assert_eq!(said(ANYBODY, [&open, &ssh]), None);
    assert_eq!(
        said("198.51.100.7 50000 192.0.2.2 80", [&open, &ssh]),
        Some("add \"tcp/80\" to `allow` below [host]".into())
    );
    assert_eq!(said(ANYBODY, [&ssh, &web]), Some("add \"tcp/22\" to `allow` below [host]".into()));
    assert_eq!(said(ANYBODY, [&none, &web]), None, "they were not let in before either");
    assert_eq!(said("198.51.100.7 50000 10.9.0.1 22", [&open, &none]), None, "by another device than the uplinks");
    assert_eq!(said("192.0.2.2 50000 192.0.2.2 22", [&open, &none]), None, "from the host itself");
    assert_eq!(said("127.0.0.1 50000 127.0.0.1 22", [&open, &none]), None);

    assert_eq!(said(BANNED, [&open, &some]), None);
    assert!(said(ANYBODY, [&open, &some]).is_some());
    assert_eq!(said(BANNED, [&open, &block]), Some("take 203.0.113.9 out of set `banned`".into()));
    assert_eq!(said(ANYBODY, [&open, &block]), None);
    assert_eq!(said(BANNED, [&block, &open]), None);
}

#[test]
fn who_comes_over_a_wire_is_told_too() {
    let wires = |wire: &str| topology("", &[wire, WEB].concat(), "");
    let open = wires(WIRE);
    let flow = Some("give wire `host-vpn` the flow `allow-back = [\"tcp/22\"]`".to_owned());
    let shut = wires(&WIRE.replace("tcp/22", "tcp/2222"));
    assert_eq!(said(HUB, [&open, &shut]), flow);
    assert_eq!(said(HUB, [&shut, &open]), None);
    assert_eq!(said(HUB, [&shut, &shut]), None, "it was shut before");
    assert_eq!(said("192.168.101.1 50000 192.0.2.2 22", [&open, &shut]), None, "no wire lets anybody there");
    let gone = Some("it comes over wire `host-vpn`: leave that one as it is, or come another way".to_owned());
    assert_eq!(said(HUB, [&open, &topology("", WEB, "")]), gone);
    assert_eq!(said(HUB, [&open, &wires(&WIRE.replace("101.0/31", "102.0/31"))]), gone);
    assert_eq!(said(HUB, [&open, &wires(&WIRE.replace(" },", ", ifname = [\"x\", \"y\"] },"))]), None);
    let all = topology("policy = \"all\"", &[WIRE, WEB].concat(), "");
    assert_eq!(said(HUB, [&open, &all]), None, "a wire is no uplink");

    // What is published goes elsewhere.
    let publish = ", publish = [\"tcp/22\"] },";
    assert_eq!(
        said(ANYBODY, [&open, &wires(&WIRE.replace(" },", publish))]),
        Some("publish another port than tcp/22".into())
    );
    let subnet = wires(&WIRE.replace("192.168.101.0/31", "198.51.100.6/31"));
    assert!(said(ANYBODY, [&open, &subnet]).is_some_and(|hint| hint.starts_with("give the wires other subnets")));
}
