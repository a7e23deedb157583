//! What was tried in a house whose wires are in audit mode, and what is to be written for it.

use std::collections::BTreeSet;

use super::*;
use crate::parse;

const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-pub", ends = ["host", "pub"], subnet = "192.168.100.0/31", publish = ["tcp/443"], mode = "audit" },
  { name = "host-mail", ends = ["host", "mail"], subnet = "192.168.100.2/31", mode = "audit" },
  { name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.100.4/31", mode = "audit" },
  { name = "pub-blog", ends = ["pub", "blog"], subnet = "10.0.1.0/31", allow = ["tcp/80"], mode = "audit" },
  { name = "pub-shop", ends = ["pub", "shop"], subnet = "10.0.2.0/31", mode = "audit", allow = [{ flow = "tcp/80", rate = "10/minute", log = true }] },
  { name = "vpn-git", ends = ["vpn", "git"], subnet = "10.1.1.0/31", mode = "audit" },
]

[host]
uplinks = ["eth0"]

[module]
house = ["pub", "vpn", "blog", "shop", "mail", "git"]

[hub.pub]
zone = "public"

[hub.vpn]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }

[node.mail]
egress = ["tcp/25", { flow = "udp/53", to = "192.168.1.1" }]
"#;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

fn of(tried: &[(&str, &str, &str, &str, u8, u16)]) -> (Vec<Recorded>, Suggested) {
    let one = |(node, wire, source, destination, protocol, port): &(&str, &str, &str, &str, u8, u16)| {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let tried = Tried { source, destination, protocol: *protocol, port: *port };
        (Name::new(node).unwrap(), Name::new(wire).unwrap(), tried)
    };
    let recorded: Vec<Recorded> = tried.iter().map(one).collect();
    let suggested = suggest(&parse::topology(HOUSE).unwrap(), &recorded);
    (recorded, suggested)
}

fn keys(suggested: &Suggested) -> Vec<(String, &str)> {
    let place = |flows: &Flows| {
        let line = HOUSE.lines().nth(flows.line - 1).unwrap();
        let name = flows.wire.as_ref().or(flows.node.as_ref()).unwrap();
        assert!(line.contains(name.as_str()), "{name} is not at {line}");
        name.to_string()
    };
    suggested.flows.iter().map(|flows| (place(flows), &*flows.toml)).collect()
}

/// Every kind of key, what it has kept and what it lacks added, ports of one protocol in one flow; both ends of a wire record
/// the same and it is said once.
#[test]
fn flows_are_written_where_they_belong() {
    let (_, suggested) = of(&[
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", TCP, 443),
        ("blog", "pub-blog", "10.0.1.0", "10.0.1.1", TCP, 443),
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", TCP, 8081),
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", TCP, 8080),
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", TCP, 80),
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", ICMP, 8 << 8),
        ("blog", "pub-blog", "10.0.1.1", "10.0.1.0", UDP, 53),
        ("pub", "pub-shop", "10.0.2.0", "10.0.2.1", TCP, 8000),
        // A leaf's way out, seen by itself, by its hub, and behind its hub's address by the host.
        ("blog", "pub-blog", "10.0.1.1", "1.1.1.1", TCP, 443),
        ("pub", "pub-blog", "10.0.1.1", "9.9.9.9", TCP, 443),
        ("host", "host-pub", "192.168.100.1", "9.9.9.9", TCP, 443),
        // A node's own, public and not.
        ("mail", "host-mail", "192.168.100.3", "8.8.8.8", TCP, 587),
        ("host", "host-mail", "192.168.100.3", "8.8.8.8", TCP, 25),
        ("host", "host-mail", "192.168.100.3", "192.168.1.9", TCP, 445),
        // A client of the VPN.
        ("vpn", "vpn-git", "10.100.0.7", "10.1.1.1", TCP, 22),
        ("git", "vpn-git", "10.100.0.8", "10.1.1.1", TCP, 22),
    ]);
    let wanted = [
        ("pub-blog", r#"allow = ["tcp/80", "tcp/443,8080-8081", "icmp/echo-request"]"#),
        ("pub-blog", r#"allow-back = ["udp/53"]"#),
        ("pub-shop", r#"allow = [{ flow = "tcp/80", rate = "10/minute", burst = 5, log = true }, "tcp/8000"]"#),
        ("vpn-git", r#"allow = ["tcp/22"]"#),
        ("blog", r#"egress = ["tcp/443"]"#),
        (
            "mail",
            r#"egress = ["tcp/25", { flow = "udp/53", to = "192.168.1.1" }, "tcp/587", { flow = "tcp/445", to = "192.168.1.9" }]"#,
        ),
    ];
    let wanted: Vec<(String, &str)> = wanted.map(|(name, toml)| (name.to_owned(), toml)).into();
    assert_eq!(keys(&suggested), wanted);
    assert_eq!(suggested.left, []);
    assert_eq!(suggested.flows[0].flows, ["\"tcp/443,8080-8081\"", "\"icmp/echo-request\""]);
    let line = HOUSE.lines().position(|line| line.contains("\"pub-blog\"")).unwrap() + 1;
    let text = suggested.text("topology.toml");
    let start = format!(
        "topology.toml:{line}: wire `pub-blog` lacks \"tcp/443,8080-8081\", \"icmp/echo-request\"\n  allow = [\"tcp/80\","
    );
    assert!(text.starts_with(&start), "{text}");
}

/// What is allowed is not suggested again, and what no flow can or should allow is said with its reason.
#[test]
fn what_is_not_suggested_is_said() {
    for (tried, reason) in [
        (("blog", "pub-blog", "10.0.1.1", "10.0.2.1", TCP, 80), "meet only in `pub`"),
        (("pub", "pub-shop", "10.0.2.0", "10.0.2.1", TCP, 80), "on a condition that was not met"),
        (("pub", "pub-blog", "10.0.1.0", "10.0.1.1", 47, 0), "no flow can name ip/47"),
        (("pub", "pub-blog", "10.0.1.0", "10.0.1.1", ICMP, 5 << 8), "no flow can name icmp/5"),
        (("blog", "pub-blog", "10.0.1.1", "224.0.0.251", UDP, 5353), "carries nothing for 224.0.0.251"),
        (("pub", "pub-blog", "10.0.2.1", "10.0.1.0", TCP, 80), ""),
        (("pub", "pub-blog", "203.0.113.9", "10.0.1.1", TCP, 22), ""),
        (("vpn", "vpn-git", "10.100.0.7", "10.0.1.1", TCP, 22), ""),
    ] {
        let (_, suggested) = of(&[tried]);
        assert_eq!(suggested.flows, [], "{tried:?}");
        let [left] = &suggested.left[..] else { panic!("{tried:?}: {suggested:?}") };
        assert!(!left.reason.is_empty() && left.reason.contains(reason), "{tried:?}: {}", left.reason);
        assert_eq!(suggested.remarks().len(), 1);
    }
    for tried in [
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", TCP, 80),
        ("host", "host-mail", "192.168.100.3", "8.8.8.8", TCP, 25),
        ("host", "host-mail", "192.168.100.3", "192.168.1.1", UDP, 53),
        ("pub", "was-there", "10.0.1.0", "10.0.1.1", TCP, 9),
    ] {
        assert_eq!(of(&[tried]).1, Suggested::default(), "{tried:?}");
    }
}

/// With what was suggested written into the file, it is a valid file, and nothing is suggested any more.
#[test]
fn what_is_written_is_enough() {
    let (recorded, suggested) = of(&[
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", TCP, 443),
        ("pub", "pub-blog", "10.0.1.0", "10.0.1.1", ICMP, 8 << 8),
        ("blog", "pub-blog", "10.0.1.1", "10.0.1.0", UDP, 53),
        ("pub", "pub-shop", "10.0.2.0", "10.0.2.1", TCP, 8000),
        ("mail", "host-mail", "192.168.100.3", "8.8.8.8", TCP, 587),
        ("host", "host-mail", "192.168.100.3", "192.168.1.9", TCP, 445),
        ("vpn", "vpn-git", "10.100.0.7", "10.1.1.1", TCP, 22),
    ]);
    let mut lines: Vec<String> = HOUSE.lines().map(str::to_owned).collect();
    for flows in &suggested.flows {
        let line = &mut lines[flows.line - 1];
        match flows.key {
            "egress" => lines[flows.line] = flows.toml.clone(),
            key => {
                // The key goes, wherever it stands in the line, and comes back whole.
                if let Some(start) = line.find(&format!(" {key} = [")) {
                    let end = start + line[start..].find(']').unwrap() + 1;
                    line.replace_range(start..end, "");
                    *line = line.replace(",,", ",").replace(", }", " }").replace(",  }", " }");
                }
                *line = line.replace(" },", &format!(", {} }},", flows.toml));
            }
        }
    }
    let text = lines.join("\n");
    let written = parse::topology(&text).unwrap_or_else(|faults| panic!("{text}\n{faults:?}"));
    assert_eq!(suggest(&written, &recorded), Suggested::default(), "{text}");
}

#[test]
fn ports_that_touch_are_ranges() {
    for (ports, wanted) in [
        (&[][..], &[][..]),
        (&[0, 1, 65535], &[(0, 1), (65535, 65535)]),
        (&[5, 3, 4, 7], &[(3, 5), (7, 7)]),
        (&[65534, 65535], &[(65534, 65535)]),
    ] {
        assert_eq!(ranges(&BTreeSet::from_iter(ports.iter().copied())), wanted);
    }
}
