//! Packets of the house of `topology/pluto.toml`, each with what a person is to read of it.

use std::time::{Duration, SystemTime};

use super::*;
use crate::parse;

const PLUTO: &str = include_str!("../../../topology/pluto.toml");

/// What lies above IP.
#[derive(Clone, Copy)]
enum Above {
    /// A connection being opened.
    Syn(u16, u16),
    /// Any later TCP packet.
    Ack(u16, u16),
    Udp(u16, u16),
    Icmp(u8),
    /// Another protocol by its number.
    Other(u8),
}

fn bytes(source: &str, destination: &str, above: Above) -> Vec<u8> {
    let (protocol, mut payload) = match above {
        Above::Syn(from, to) | Above::Ack(from, to) => (6, [from.to_be_bytes(), to.to_be_bytes()].concat()),
        Above::Udp(from, to) => (17, [from.to_be_bytes(), to.to_be_bytes()].concat()),
        Above::Icmp(kind) => (if source.contains(':') { 58 } else { 1 }, vec![kind]),
        Above::Other(protocol) => (protocol, vec![]),
    };
    payload.resize(20, 0);
    payload[13] = if matches!(above, Above::Syn(..)) { 0x02 } else { 0x10 };
    let mut bytes = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut bytes = vec![0; 12];
            (bytes[0], bytes[9]) = (0x45, protocol);
            [&bytes, &source.octets()[..], &destination.octets()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            [&[0x60, 0, 0, 0, 0, 20, protocol, 64][..], &source.octets(), &destination.octets()].concat()
        }
        _ => panic!("two families"),
    };
    bytes.extend(payload);
    bytes
}

fn packet(prefix: &str, hook: Hook, device: &str, bytes: Vec<u8>) -> Packet {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_599_042);
    Packet { prefix: prefix.into(), hook, device: Device::new(device), at, bytes }
}

fn record(text: &str, node: &str, packet: &Packet) -> Option<Record> {
    let topology = enforced(&parse::topology(text).unwrap());
    Names::of(&topology).record(&Name::new(node).unwrap(), packet)
}

/// The line that says this.
fn line_of(text: &str, word: &str) -> usize {
    text.lines().position(|line| line.contains(word)).unwrap() + 1
}

/// A packet and what is to be read of it: where it was, the rule's words, the packet; from, to, flow; a part of the line
/// that would have to change (empty for none), a part of the reason, a part of the hint (empty for none).
type Case<'a> = (
    (&'a str, Hook, &'a str, &'a str),
    (&'a str, &'a str, Above),
    (&'a str, &'a str, &'a str),
    (&'a str, &'a str, &'a str),
);

#[track_caller]
fn hold(text: &str, cases: &[Case]) {
    for ((node, hook, device, prefix), (source, destination, above), (from, to, flow), (line, reason, hint)) in cases {
        let case = format!("{source} → {destination} at {node}, {hook:?} {device}, {prefix:?}");
        let record = record(text, node, &packet(prefix, *hook, device, bytes(source, destination, *above)));
        let record = record.unwrap_or_else(|| panic!("{case}: nothing"));
        assert_eq!((&*record.from, &*record.to, &*record.flow), (*from, *to, *flow), "{case}");
        let wanted = (!line.is_empty()).then(|| line_of(text, line));
        assert_eq!(record.line, wanted, "{case}: {record:?}");
        assert!(record.reason.contains(reason), "{case}: {}", record.reason);
        match &record.hint {
            Some(said) => assert!(!hint.is_empty() && said.contains(hint), "{case}: {said}"),
            None => assert_eq!(*hint, "", "{case}: no hint"),
        }
    }
}

#[test]
fn packets_of_a_house() {
    use Hook::{In, Out, Through};
    let git = "wire denied priv-git-ssh";
    let git_line = "name = \"priv-git-ssh\"";
    hold(
        PLUTO,
        &[
            // The wrong way over a wire, seen where it starts and where it ends.
            (
                ("git-ssh", Out, "eth0", git),
                ("10.1.1.1", "10.1.1.0", Above::Syn(40000, 22)),
                ("git-ssh", "vpn-edge", "tcp/22"),
                (git_line, "goes the other way", "add \"tcp/22\" to `allow-back` of wire `priv-git-ssh`"),
            ),
            (
                ("vpn-edge", In, "priv-git-ssh", git),
                ("10.1.1.1", "10.1.1.0", Above::Udp(40000, 53)),
                ("git-ssh", "vpn-edge", "udp/53"),
                (git_line, "open nothing to `vpn-edge`", "add \"udp/53\" to `allow-back` of wire `priv-git-ssh`"),
            ),
            (
                ("vpn-edge", Out, "priv-git-ssh", git),
                ("10.1.1.0", "10.1.1.1", Above::Icmp(8)),
                ("vpn-edge", "git-ssh", "icmp/echo-request"),
                (git_line, "only tcp/22", "add \"icmp/echo-request\" to `allow`"),
            ),
            // Under another's address.
            (
                ("vpn-edge", In, "priv-git-ssh", git),
                ("10.1.2.1", "10.1.1.0", Above::Syn(1, 2)),
                ("git-ssh", "vpn-edge", "tcp/2"),
                (git_line, "source 10.1.2.1 is no address of `git-ssh` on wire `priv-git-ssh`, but of master-ssh", ""),
            ),
            (
                ("vpn-edge", Through, "priv-git-ssh", git),
                ("198.51.100.1", "10.1.2.1", Above::Syn(1, 2)),
                ("git-ssh", "master-ssh", "tcp/2"),
                (git_line, "source 198.51.100.1 is no address of `git-ssh`", ""),
            ),
            (
                ("host", Through, "host-pub", "wire denied host-pub"),
                ("10.100.0.7", "1.1.1.1", Above::Syn(1, 443)),
                ("reverse-proxy-edge", "outside", "tcp/443"),
                ("name = \"host-pub\"", "source 10.100.0.7 is no address of `reverse-proxy-edge`", ""),
            ),
            (
                ("host", In, "host-pub", "wire denied host-pub"),
                ("203.0.113.9", "192.168.100.0", Above::Syn(1, 22)),
                ("reverse-proxy-edge", "host", "tcp/22"),
                ("name = \"host-pub\"", "source 203.0.113.9 is no address of `reverse-proxy-edge`", ""),
            ),
            (
                ("vpn-edge", Out, "priv-git-ssh", git),
                ("10.1.2.0", "10.1.1.1", Above::Syn(1, 22)),
                ("vpn-edge", "git-ssh", "tcp/22"),
                (git_line, "source 10.1.2.0 is no address of `vpn-edge` on wire `priv-git-ssh`, but on another", ""),
            ),
            // To an address of the neighbour's that is none of this wire.
            (
                ("vpn-edge", In, "priv-git-ssh", git),
                ("10.1.1.1", "10.1.2.0", Above::Syn(1, 22)),
                ("git-ssh", "vpn-edge", "tcp/22"),
                (git_line, "destination 10.1.2.0 is no address of `vpn-edge` on wire `priv-git-ssh`", ""),
            ),
            (
                ("host", In, "host-priv", "wire denied host-priv"),
                ("192.168.101.1", "192.0.2.2", Above::Syn(1, 22)),
                ("vpn-edge", "host", "tcp/22"),
                ("name = \"host-priv\"", "destination 192.0.2.2 is no address of `host` on wire `host-priv`", ""),
            ),
            // From one leaf to another, through the hub.
            (
                ("vpn-edge", Through, "priv-git-ssh", git),
                ("10.1.1.1", "10.1.2.1", Above::Syn(1, 22)),
                ("git-ssh", "master-ssh", "tcp/22"),
                (git_line, "meet only in `vpn-edge`", "git-ssh-master-ssh"),
            ),
            // From the hub's own clients, whose device is no wire.
            (
                ("vpn-edge", Through, "wg0", "wire denied"),
                ("10.100.0.7", "10.1.1.1", Above::Syn(1, 80)),
                ("vpn-edge's clients", "git-ssh", "tcp/80"),
                (git_line, "only tcp/22", "add \"tcp/80\" to `allow` of wire `priv-git-ssh`"),
            ),
            (
                ("vpn-edge", In, "wg0", "wire denied"),
                ("10.100.0.7", "10.100.0.1", Above::Syn(1, 22)),
                ("vpn-edge's clients", "vpn-edge", "tcp/22"),
                ("[hub.vpn-edge]", "nothing to `vpn-edge` itself", ""),
            ),
            (
                ("vpn-edge", Through, "wg0", "wire denied"),
                ("10.100.0.7", "10.100.0.8", Above::Syn(1, 22)),
                ("vpn-edge's clients", "vpn-edge's clients", "tcp/22"),
                ("[hub.vpn-edge]", "keeps its clients apart", ""),
            ),
            (
                ("vpn-edge", In, "wg0", "wire denied"),
                ("10.1.1.0", "10.1.1.0", Above::Syn(1, 22)),
                ("vpn-edge", "vpn-edge", "tcp/22"),
                ("", "an address of `vpn-edge` itself", ""),
            ),
            // To and from the outside.
            (
                ("host", Through, "host-pub", "wire denied host-pub"),
                ("192.168.100.1", "1.1.1.1", Above::Syn(1, 443)),
                ("reverse-proxy-edge", "outside", "tcp/443"),
                ("michel   =", "has no `egress`", "add \"tcp/443\" to `egress` of [node.reverse-proxy-edge]"),
            ),
            (
                ("host", Through, "eth0", "wire denied"),
                ("203.0.113.9", "192.168.100.1", Above::Syn(51413, 22)),
                ("outside", "reverse-proxy-edge", "tcp/22"),
                ("name = \"host-pub\"", "only tcp/80, tcp/443", "add \"tcp/22\" to `publish` of wire `host-pub`"),
            ),
            (
                ("reverse-proxy-edge", In, "host-pub", "wire denied host-pub"),
                ("203.0.113.9", "192.168.100.1", Above::Syn(51413, 22)),
                ("outside", "reverse-proxy-edge", "tcp/22"),
                ("name = \"host-pub\"", "only tcp/80, tcp/443", "`publish`"),
            ),
            // Denied on the wire that it was to leave by.
            (
                ("host", Through, "eth0", "wire denied host-pub"),
                ("203.0.113.9", "192.168.100.1", Above::Syn(51413, 22)),
                ("outside", "reverse-proxy-edge", "tcp/22"),
                ("name = \"host-pub\"", "only tcp/80, tcp/443", "add \"tcp/22\" to `publish` of wire `host-pub`"),
            ),
            (
                ("vpn-edge", Through, "priv-git-ssh", "wire denied priv-master-ssh"),
                ("10.1.2.1", "10.1.2.1", Above::Syn(1, 22)),
                ("git-ssh", "master-ssh", "tcp/22"),
                (git_line, "source 10.1.2.1 is no address of `git-ssh` on wire `priv-git-ssh`", ""),
            ),
            (
                ("host", Through, "eth0", "wire denied host-pub"),
                ("10.1.1.1", "192.168.100.1", Above::Syn(51413, 80)),
                ("outside", "reverse-proxy-edge", "tcp/80"),
                ("", "source 10.1.1.1 is an address of git-ssh, but it came in on an uplink", ""),
            ),
            // What the file allows: a condition, or the kernel differs.
            (
                ("vpn-edge", Out, "priv-git-ssh", git),
                ("10.1.1.0", "10.1.1.1", Above::Syn(40000, 22)),
                ("vpn-edge", "git-ssh", "tcp/22"),
                (git_line, "`vpn-edge` may open tcp/22", "`wire audit`"),
            ),
            // In the midst of a connection that nobody knows, in both directions.
            (
                ("vpn-edge", Out, "priv-git-ssh", git),
                ("10.1.1.0", "10.1.1.1", Above::Ack(40000, 22)),
                ("vpn-edge", "git-ssh", "tcp/22"),
                (git_line, "belongs to a connection that is not known", ""),
            ),
            (
                ("git-ssh", Out, "eth0", git),
                ("10.1.1.1", "10.1.1.0", Above::Ack(22, 40000)),
                ("git-ssh", "vpn-edge", "tcp/40000"),
                (git_line, "answers a connection that `git-ssh` does not know", ""),
            ),
            // What no flow can name.
            (
                ("git-ssh", Out, "eth0", git),
                ("10.1.1.1", "10.1.1.0", Above::Other(47)),
                ("git-ssh", "vpn-edge", "ip/47"),
                ("", "no flow can name ip/47", ""),
            ),
            (
                ("git-ssh", Out, "eth0", git),
                ("10.1.1.1", "224.0.0.251", Above::Udp(5353, 5353)),
                ("git-ssh", "vpn-edge", "udp/5353"),
                (git_line, "carries nothing for 224.0.0.251", ""),
            ),
            (
                ("git-ssh", Out, "eth0", git),
                ("fe80::1", "ff02::2", Above::Icmp(133)),
                ("git-ssh", "vpn-edge", "icmpv6/133"),
                (git_line, "has no `subnet6`", "a `subnet6`"),
            ),
            // What met no wire, or one that is none any more.
            (
                ("git-ssh", In, "tap0", "wire denied"),
                ("192.0.2.9", "192.0.2.1", Above::Syn(1, 2)),
                ("outside", "git-ssh", "tcp/2"),
                ("", "on `tap0`, which is none of its wires", "`wire audit`"),
            ),
            (
                ("git-ssh", In, "eth0", "wire denied was-here"),
                ("10.1.1.0", "10.1.1.1", Above::Syn(1, 2)),
                ("vpn-edge", "git-ssh", "tcp/2"),
                ("", "no wire `was-here`", "`wire up`"),
            ),
            // The rules of one node may name a wire of another's; it is not taken for one here.
            (
                ("git-ssh", In, "eth0", "wire denied host-pub"),
                ("10.1.1.0", "10.1.1.1", Above::Syn(1, 2)),
                ("vpn-edge", "git-ssh", "tcp/2"),
                ("", "no wire `host-pub` there", "`wire up`"),
            ),
            (
                ("git-ssh", Out, "eth0", "wire watched priv-git-ssh"),
                ("10.1.1.1", "10.1.1.0", Above::Syn(40000, 22)),
                ("git-ssh", "vpn-edge", "tcp/22"),
                (git_line, "goes the other way", "`allow-back`"),
            ),
            (
                ("git-ssh", In, "eth0", "wire allowed priv-git-ssh"),
                ("10.1.1.0", "10.1.1.1", Above::Syn(40000, 22)),
                ("vpn-edge", "git-ssh", "tcp/22"),
                (git_line, "`vpn-edge` may open tcp/22", ""),
            ),
            (
                ("git-ssh", In, "eth0", "wire allowed priv-git-ssh"),
                ("10.1.1.0", "10.1.1.1", Above::Syn(40000, 23)),
                ("vpn-edge", "git-ssh", "tcp/23"),
                (git_line, "does not allow it any more", "`wire up`"),
            ),
        ],
    );
}

/// VPN peers have names, and a wire with IPv6 is as any other.
#[test]
fn peers_and_ipv6() {
    let text = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.101.0/31" },
  { name = "vpn-git",  ends = ["vpn", "git"], subnet = "10.1.1.0/31", subnet6 = "fd00::/127", allow = ["tcp/22"] },
]
[host]
uplinks = ["eth0"]
[module]
house = ["vpn", "git"]
[hub.vpn]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }
[hub.vpn.wireguard]
listen = 51820
private-key = "/etc/wire/keys/vpn"
[[hub.vpn.wireguard.peer]]
name = "laptop"
public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
address = "10.100.0.2"
allow = ["git"]
"#;
    use Hook::{In, Out, Through};
    hold(
        text,
        &[
            (
                ("vpn", Through, "wg0", "wire denied"),
                ("10.100.0.2", "10.1.1.1", Above::Syn(1, 80)),
                ("laptop", "git", "tcp/80"),
                ("name = \"vpn-git\"", "VPN peer `laptop`", "add \"tcp/80\" to `allow` of wire `vpn-git`"),
            ),
            (
                ("git", In, "eth0", "wire denied vpn-git"),
                ("10.100.0.2", "10.1.1.1", Above::Syn(1, 80)),
                ("laptop", "git", "tcp/80"),
                ("name = \"vpn-git\"", "VPN peer `laptop`", "`allow`"),
            ),
            (
                ("vpn", Through, "wg0", "wire denied"),
                ("10.100.0.9", "10.1.1.1", Above::Syn(1, 80)),
                ("vpn's clients", "git", "tcp/80"),
                ("name = \"vpn-git\"", "only tcp/22", "`allow`"),
            ),
            (
                ("git", Out, "eth0", "wire denied vpn-git"),
                ("fd00::1", "fd00::", Above::Syn(1, 80)),
                ("git", "vpn", "tcp/80"),
                ("name = \"vpn-git\"", "", "`allow-back`"),
            ),
            (
                ("vpn", In, "vpn-git", "wire denied vpn-git"),
                ("fe80::2", "fd00::", Above::Icmp(128)),
                ("git", "vpn", "icmpv6/echo-request"),
                ("name = \"vpn-git\"", "source fe80::2 is no address of `git`", ""),
            ),
        ],
    );
}

/// A wire in audit mode lets everything pass; what is said is what it will not let pass then.
#[test]
fn what_is_watched_is_not_called_allowed() {
    let text = PLUTO.replace("allow = [\"tcp/22\"] }", "allow = [\"tcp/22\"], mode = \"audit\" }");
    assert_ne!(text, PLUTO);
    hold(
        &text,
        &[(
            ("git-ssh", Hook::Out, "eth0", "wire watched priv-git-ssh"),
            ("10.1.1.1", "10.1.1.0", Above::Syn(40000, 53)),
            ("git-ssh", "vpn-edge", "tcp/53"),
            ("name = \"priv-git-ssh\"", "open nothing", "add \"tcp/53\" to `allow-back` of wire `priv-git-ssh`"),
        )],
    );
}

/// What is not wire's is nobody's, whatever it looks like; the bytes may be anything.
#[test]
fn what_is_not_wires_is_left_out() {
    let good = bytes("10.1.1.1", "10.1.1.0", Above::Syn(1, 22));
    let named = |node, prefix, bytes: &[u8]| record(PLUTO, node, &packet(prefix, Hook::In, "eth0", bytes.to_vec()));
    assert!(named("git-ssh", "wire denied priv-git-ssh", &good).is_some());
    assert_eq!(named("git-ssh", "IN drop", &good), None);
    assert_eq!(named("git-ssh", "wire denied \u{1b}[2J", &good), None);
    assert_eq!(named("nobody", "wire denied priv-git-ssh", &good), None);
    for length in 0..20 {
        assert_eq!(named("git-ssh", "wire denied priv-git-ssh", &good[..length]), None);
    }
}

/// The line that a person reads, and the object that a program reads.
#[test]
fn a_record_is_a_line_or_an_object() {
    let text = PLUTO;
    let bytes = bytes("10.1.1.1", "10.1.1.0", Above::Syn(40000, 22));
    let record = record(text, "git-ssh", &packet("wire denied priv-git-ssh", Hook::Out, "eth0", bytes)).unwrap();
    let line = line_of(text, "name = \"priv-git-ssh\"");
    assert_eq!(
        record.line("/etc/wire/topology.toml", Paint(false)),
        format!(
            "2025-12-31T23:59:59.042Z denied tcp/22 git-ssh → vpn-edge over priv-git-ssh, out at git-ssh, 10.1.1.1:40000 → \
             10.1.1.0:22; /etc/wire/topology.toml:{line}: add \"tcp/22\" to `allow-back` of wire `priv-git-ssh`\n"
        )
    );
    assert_eq!(
        serde_json::json!(record),
        serde_json::json!({
            "time": "2025-12-31T23:59:59.042Z", "verdict": "denied", "node": "git-ssh", "hook": "out", "device": "eth0",
            "wire": "priv-git-ssh", "from": "git-ssh", "to": "vpn-edge", "flow": "tcp/22",
            "source": "10.1.1.1", "source-port": 40000, "destination": "10.1.1.0", "destination-port": 22, "line": line,
            "reason": "tcp/22 goes the other way over wire `priv-git-ssh`: only `vpn-edge` may open it to `git-ssh`",
            "hint": "add \"tcp/22\" to `allow-back` of wire `priv-git-ssh`",
        })
    );
}

/// A scope holds what is about its nodes and wires, and nothing else of the hub they meet in.
#[test]
fn a_scope_holds_what_is_about_it() {
    let topology = parse::topology(PLUTO).unwrap();
    let of = |node: &str, wire: &str, source: &str, destination: &str| {
        let packet =
            packet(&format!("wire denied {wire}"), Hook::In, "eth0", bytes(source, destination, Above::Syn(1, 2)));
        Names::of(&topology).record(&Name::new(node).unwrap(), &packet).unwrap()
    };
    let git = of("vpn-edge", "priv-git-ssh", "10.1.1.1", "10.1.1.0");
    let master = of("vpn-edge", "priv-master-ssh", "10.1.2.1", "10.1.2.0");
    for (targets, sees_git, sees_master) in [
        (&[][..], true, true),
        (&["git-ssh"], true, false),
        (&["eligius"], true, false),
        (&["priv-master-ssh"], false, true),
        (&["vpn-edge"], true, true),
        (&["navidrome-server"], false, false),
    ] {
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        let scope = Scope::of(&topology, &targets).unwrap();
        assert_eq!((git.is_in(&scope), master.is_in(&scope)), (sees_git, sees_master), "{targets:?}");
    }
}
