//! Beside other people's tables, as Docker, podman, firewalld, ufw, fail2ban, mailcow and a workstation keep them: theirs stay
//! as they are; what they drop of what the file allows is named, with the lines that let it pass; what lets it pass gives no
//! alarm.

use serde_json::Value;

use crate::host::{Host, text};
use crate::prober::{Address, Kind, Probe, Seen, Site, send};

const TOPOLOGY: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80"], allow = ["tcp/22"], allow-back = ["tcp/9100"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", allow = ["tcp/80"] },
]
[host]
uplinks = ["eth0"]
[module]
gates = ["edge", "web"]
[node.edge]
egress = ["tcp/443"]
"#;

/// One of the flows of the file, and how it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// From outside, by the host, to the published port.
    Published,
    /// From the node to the outside.
    Egress,
    /// From the node to the host.
    ToHost,
    /// From the host to the node.
    FromHost,
    /// Between two nodes.
    Between,
}

const FLOWS: [Flow; 5] = [Flow::Published, Flow::Egress, Flow::ToHost, Flow::FromHost, Flow::Between];

fn house() -> Host {
    Host::with(&["edge", "web"], TOPOLOGY)
}

/// Which of the flows arrive.
fn passing(host: &Host, expected: &[Flow]) -> Vec<Flow> {
    let at = |ip: &str| Address { ip: ip.parse().expect("an address"), scope: 0 };
    let site = |name: &str, netns: Option<&str>, ip: &str, ports: &[u16]| Site {
        name: name.to_owned(),
        netns: netns.map(str::to_owned),
        addresses: vec![at(ip)],
        ports: ports.to_vec(),
    };
    let sites = [
        site("host", None, "192.168.100.0", &[9100]),
        site("lan", Some("lan"), "192.0.2.1", &[443]),
        site("edge", Some("edge"), "192.168.100.1", &[80, 22]),
        site("web", Some("web"), "172.16.1.1", &[80]),
    ];
    let probes = FLOWS.map(|flow| {
        let (from, to, port) = match flow {
            Flow::Published => (1, "192.0.2.2", 80),
            Flow::Egress => (2, "192.0.2.1", 443),
            Flow::ToHost => (2, "192.168.100.0", 9100),
            Flow::FromHost => (0, "192.168.100.1", 22),
            Flow::Between => (2, "172.16.1.1", 80),
        };
        Probe { site: from, source: None, to: at(to), kind: Kind::Tcp, port, passes: expected.contains(&flow) }
    });
    let seen = send(host, &sites, &probes);
    let arrived = FLOWS.into_iter().zip(seen).filter(|(_, seen)| matches!(seen, Seen::Answer { .. }));
    arrived.map(|(flow, _)| flow).collect()
}

/// What is not wire's of the rules at a node, byte by byte, without what has been counted.
fn theirs(host: &Host, node: &str) -> String {
    let all = host.run(node, &["nft", "-s", "list", "ruleset"]).expect(0).stdout;
    let (mut theirs, mut ours) = (String::new(), false);
    for line in all.lines() {
        ours |= line == "table inet wire {";
        if !ours {
            theirs += &format!("{line}\n");
        }
        ours &= line != "}";
    }
    theirs
}

/// The lines that hints of a kind of deviation give to add.
fn lines(audit: &Value, kind: &str) -> Vec<String> {
    let deviations = audit["deviations"].as_array().expect("deviations").iter();
    let hints = deviations.filter(|deviation| deviation["kind"] == kind).map(|deviation| text(&deviation["hint"]));
    hints
        .flat_map(|hint| {
            hint.lines().filter_map(|line| line.strip_prefix("    ").map(str::to_owned)).collect::<Vec<_>>()
        })
        .collect()
}

/// What a tool makes of its line where it keeps the table: as `nft` commands.
type Made = (&'static str, &'static str);

/// Somebody's rules, and what wire must say of them.
struct Beside {
    rules: &'static str,
    /// What they drop, all of it for certain.
    dropped: &'static [Flow],
    /// By chain of theirs, what must be named of the file.
    named: &'static [(&'static str, &'static [&'static str])],
    /// The lines to add, in their order, with what comes of each; nothing where the line can be run as it is.
    lines: &'static [Made],
}

/// Theirs stay through everything; what they drop is named by `up` and `audit`, and no wire fails for it; after the lines that
/// are said, and with nothing else, there is nothing to say, and what was dropped arrives.
#[track_caller]
fn beside(case: &Beside) -> Host {
    let host = house();
    host.write("/run/theirs", case.rules);
    host.sh("nft -f /run/theirs");
    let before = theirs(&host, "host");
    let wired = host.wire(&["up"]).expect(0);
    assert_eq!(theirs(&host, "host"), before, "up");

    let passes = |flow: &Flow| !case.dropped.contains(flow);
    let left: Vec<Flow> = FLOWS.into_iter().filter(passes).collect();
    assert_eq!(passing(&host, &left), left, "what theirs lets pass");

    let again = host.wire(&["--json", "up"]).expect(0).json();
    assert_eq!((&again["done"], &again["failed"]), (&serde_json::json!([]), &serde_json::json!([])));
    let warned = again["warnings"].as_array().expect("warnings").clone();
    let audit = host.wire(&["--json", "audit"]).expect(if case.named.is_empty() { 0 } else { 3 }).json();
    let deviations = audit["deviations"].as_array().expect("deviations");
    assert_eq!(warned, *deviations, "up warns of what audit finds");
    assert_eq!(deviations.len(), case.named.len(), "{deviations:#?}");
    for ((chain, flows), deviation) in case.named.iter().zip(deviations) {
        let message = text(&deviation["message"]);
        assert_eq!((&deviation["node"], &deviation["kind"]), (&"host".into(), &"foreign-drop".into()), "{message}");
        assert!(message.starts_with(&format!("chain `{chain}` of somebody else's table `")), "{message}");
        for flow in *flows {
            assert!(message.contains(&format!("`host-edge: {flow}`")), "{flow}: {message}");
        }
        assert!(wired.stderr.contains(&message), "up says it in words: {}", wired.stderr);
    }
    let wires = audit["wires"].as_array().expect("wires");
    assert!(wires.iter().all(|wire| wire["state"] == "up"), "a wire is made all the same: {wires:#?}");
    let said = lines(&audit, "foreign-drop");
    assert_eq!(said, case.lines.iter().map(|(line, _)| *line).collect::<Vec<_>>());
    for line in &said {
        assert!(wired.stderr.contains(line), "{line} is said by up: {}", wired.stderr);
    }

    // What is wrong with wire's own rules is mended, and theirs stay.
    host.sh("nft flush chain inet wire in.host-edge");
    host.wire(&["up"]).expect(0);
    assert_eq!(theirs(&host, "host"), before, "a repair");

    for (line, made) in case.lines {
        host.sh(if made.is_empty() { line } else { made });
    }
    let after = theirs(&host, "host");
    let audit = host.wire(&["--json", "audit"]).expect(0).json();
    assert_eq!(audit["deviations"], serde_json::json!([]));
    let silent = host.wire(&["--json", "up"]).expect(0).json();
    assert_eq!(silent["warnings"], serde_json::json!([]));
    assert_eq!(passing(&host, &FLOWS), FLOWS, "with the lines that were said");

    host.wire(&["down"]).expect(0);
    assert_eq!(host.sh("nft -s list ruleset"), after, "down");
    host
}

/// Docker with iptables drops what it does not forward itself. Its own chain for the owner's rules takes the line.
#[test]
fn docker_drops_what_it_does_not_know() {
    beside(&Beside {
        rules: include_str!("coexist/docker.nft"),
        dropped: &[Flow::Published, Flow::Egress],
        named: &[("FORWARD", &["published tcp/80", "outside, tcp/443"])],
        lines: &[
            (
                "iptables -I DOCKER-USER -i host-edge -o eth0 -p tcp --dport 443 -j ACCEPT",
                "nft insert rule ip filter DOCKER-USER iifname host-edge oifname eth0 tcp dport 443 counter accept",
            ),
            (
                "iptables -I DOCKER-USER -i eth0 -o host-edge -p tcp --dport 80 -j ACCEPT",
                "nft insert rule ip filter DOCKER-USER iifname eth0 oifname host-edge tcp dport 80 counter accept",
            ),
            (
                "iptables -I DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "nft insert rule ip filter DOCKER-USER ct state related,established counter accept",
            ),
        ],
    });
}

/// Real tables of iptables-nft have matches that are xtables' own: they are read as well, and take the lines as they are said.
#[test]
fn iptables_own_matches_are_read() {
    let host = house();
    host.write(
        "/run/theirs",
        "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m state --state RELATED,ESTABLISHED -m comment --comment answers -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22,8000:8010 -j ACCEPT
-A INPUT -m addrtype --dst-type BROADCAST -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 -j ACCEPT
-A FORWARD -m limit --limit 3/min -j LOG
-A FORWARD -p udp -j REJECT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80
COMMIT
",
    );
    host.sh("iptables-restore /run/theirs");
    let before = theirs(&host, "host");
    host.wire(&["up"]).expect(0);
    assert_eq!(theirs(&host, "host"), before);
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    let said = lines(&audit, "foreign-drop");
    assert_eq!(
        said,
        [
            "iptables -I DOCKER-USER -i host-edge -o eth0 -p tcp --dport 443 -j ACCEPT",
            "iptables -I DOCKER-USER -i eth0 -o host-edge -p tcp --dport 80 -j ACCEPT",
            "iptables -I DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables -I INPUT -i host-edge -p tcp --dport 9100 -j ACCEPT",
        ]
    );
    let taken = audit["deviations"].as_array().expect("deviations").iter().find(|one| one["kind"] == "foreign-dnat");
    assert!(text(&taken.expect("a port that two publish")["message"]).contains("`DOCKER`"), "{audit:#}");
    said.iter().for_each(|line| drop(host.sh(line)));
    host.sh("iptables -t nat -F DOCKER");
    host.wire(&["audit"]).expect(0);
    assert_eq!(passing(&host, &FLOWS), FLOWS);
}

/// Docker's nftables backend has no policy for what is not its own.
#[test]
fn dockers_nftables_backend_lets_everything_else_pass() {
    beside(&Beside { rules: include_str!("coexist/docker-nftables.nft"), dropped: &[], named: &[], lines: &[] });
}

/// firewalld rejects what comes from a device of an ordinary zone, and lets pass whatever was given another destination.
#[test]
fn firewalld_wants_the_wire_in_a_zone() {
    beside(&Beside {
        rules: include_str!("coexist/firewalld.nft"),
        dropped: &[Flow::Egress, Flow::ToHost],
        named: &[("filter_FORWARD", &["outside, tcp/443"]), ("filter_INPUT", &["edge may open tcp/9100"])],
        lines: &[
            ("firewall-cmd --permanent --zone=trusted --add-interface=host-edge", "true"),
            ("firewall-cmd --reload", TRUSTED),
            ("firewall-cmd --permanent --zone=trusted --add-interface=host-edge", "true"),
            ("firewall-cmd --reload", "true"),
        ],
    });
}

/// What firewalld 1.3 makes of a device in its zone `trusted`.
const TRUSTED: &str = "nft add chain inet firewalld filter_FWD_trusted; \
    nft add rule inet firewalld filter_FWD_trusted accept; \
    nft add chain inet firewalld filter_IN_trusted; \
    nft add rule inet firewalld filter_IN_trusted accept; \
    nft insert rule inet firewalld filter_FORWARD_ZONES iifname host-edge goto filter_FWD_trusted; \
    nft insert rule inet firewalld filter_INPUT_ZONES iifname host-edge goto filter_IN_trusted";

/// Since firewalld 2, `StrictForwardPorts` has it reject what somebody else gave another destination, unless it knows the port.
#[test]
fn firewalld_may_want_to_know_forwarded_ports() {
    const STRICT: &str = "
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat jump filter_FORWARD_dnat
		accept
	}

	chain filter_FORWARD_dnat {
		meta l4proto tcp ct original proto-dst 8080 accept
		reject with icmpx admin-prohibited
	}
}
";
    beside(&Beside {
        rules: STRICT,
        dropped: &[Flow::Published],
        named: &[("filter_FORWARD", &["published tcp/80"])],
        lines: &[
            (
                "firewall-cmd --permanent --add-forward-port=port=80:proto=tcp:toport=80:toaddr=192.168.100.1",
                "nft insert rule inet firewalld filter_FORWARD_dnat meta l4proto tcp ct original proto-dst 80 accept",
            ),
            ("firewall-cmd --reload", "true"),
        ],
    });
}

/// ufw drops what comes in and what passes.
#[test]
fn ufw_takes_rules_of_its_own() {
    beside(&Beside {
        rules: include_str!("coexist/ufw.nft"),
        dropped: &[Flow::Published, Flow::Egress, Flow::ToHost],
        named: &[("FORWARD", &["published tcp/80", "outside, tcp/443"]), ("INPUT", &["edge may open tcp/9100"])],
        lines: &[
            (
                "ufw route allow in on host-edge out on eth0 to any port 443 proto tcp",
                "nft add rule ip filter ufw-user-forward iifname host-edge oifname eth0 tcp dport 443 counter accept",
            ),
            (
                "ufw route allow in on eth0 out on host-edge to any port 80 proto tcp",
                "nft add rule ip filter ufw-user-forward iifname eth0 oifname host-edge tcp dport 80 counter accept",
            ),
            (
                "ufw allow in on host-edge to any port 9100 proto tcp",
                "nft add rule ip filter ufw-user-input iifname host-edge tcp dport 9100 counter accept",
            ),
        ],
    });
}

/// A table of the owner's own takes the line of `nft` as it is said.
#[test]
fn a_workstations_own_rules_take_the_line_as_it_is() {
    beside(&Beside {
        rules: include_str!("coexist/workstation.nft"),
        dropped: &[Flow::Published, Flow::Egress, Flow::ToHost],
        named: &[("forward", &["published tcp/80", "outside, tcp/443"]), ("input", &["edge may open tcp/9100"])],
        lines: &[
            ("nft insert rule inet filter forward iifname \"host-edge\" oifname \"eth0\" tcp dport 443 accept", ""),
            ("nft insert rule inet filter forward iifname \"eth0\" oifname \"host-edge\" tcp dport 80 accept", ""),
            ("nft insert rule inet filter forward ct state established,related accept", ""),
            ("nft insert rule inet filter input iifname \"host-edge\" tcp dport 9100 accept", ""),
        ],
    });
}

/// Whoever drops what goes out is named too, and where only answers are dropped, that is said.
#[test]
fn answers_and_what_goes_out_are_looked_at() {
    const RULES: &str = "
table inet out {
	chain egress {
		type filter hook output priority filter; policy drop;
		oifname lo accept
		ct state established accept
	}

	chain leaves {
		type filter hook postrouting priority 0; policy accept;
		oifname host-edge ct state established tcp sport 9100 drop
	}
}
";
    let host = beside(&Beside {
        rules: RULES,
        dropped: &[Flow::ToHost, Flow::FromHost],
        named: &[("egress", &["to edge, tcp/22"]), ("leaves", &["edge may open tcp/9100"])],
        lines: &[
            ("nft insert rule inet out egress oifname \"host-edge\" tcp dport 22 accept", ""),
            ("nft insert rule inet out leaves ct state established,related accept", ""),
        ],
    });
    host.sh("nft flush chain inet out leaves");
    host.sh("nft add rule inet out leaves oifname host-edge ct state established tcp sport 9100 drop");
    host.wire(&["up"]).expect(0);
    let audit = host.wire(&["audit"]).expect(3).stdout;
    assert!(audit.contains("drops the answers to what the file allows, by its rule 1"), "{audit}");
}

/// Bans of addresses that may not come anyway, and ports of other containers, are nothing that the file allows.
#[test]
fn bans_and_isolation_of_others_are_no_alarm() {
    for rules in [include_str!("coexist/fail2ban.nft"), include_str!("coexist/mailcow.nft")] {
        beside(&Beside { rules, dropped: &[], named: &[], lines: &[] });
    }
}

/// A node that mailcow, or whoever, has banned is named by the chain that it ends in.
#[test]
fn a_ban_of_a_node_is_named() {
    let host = house();
    host.write("/run/theirs", include_str!("coexist/mailcow.nft"));
    host.sh("nft -f /run/theirs; nft insert rule ip filter MAILCOW ip saddr 192.168.100.1 counter drop");
    host.wire(&["up"]).expect(0);
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    let deviations = audit["deviations"].as_array().expect("deviations");
    let said: Vec<String> = deviations.iter().map(|deviation| text(&deviation["message"])).collect();
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said.iter().all(|said| said.contains(", in `MAILCOW`: ")), "{said:#?}");
    // The answers of a banned node do not come back either.
    assert!(said[0].contains("`host-edge: outside, tcp/443`, `host-edge: published tcp/80`"), "{said:#?}");
    assert!(said[1].contains("`host-edge: edge may open tcp/9100`, `host-edge: to edge, tcp/22`"), "{said:#?}");
}

/// podman's own network goes on beside us, its published port too, and neither gives an alarm.
#[test]
fn podmans_own_network_goes_on() {
    let host = beside(&Beside { rules: include_str!("coexist/netavark.nft"), dropped: &[], named: &[], lines: &[] });
    host.sh("set -e
        ip netns add guest
        ip link add podman0 type bridge
        ip address add 10.88.0.1/16 dev podman0
        ip link add veth0 type veth peer name eth0 netns guest
        ip link set veth0 master podman0 up
        ip link set podman0 up
        ip -n guest address add 10.88.0.2/16 dev eth0
        ip -n guest link set eth0 up
        ip -n guest route add default via 10.88.0.1
        echo 1 >/proc/sys/net/ipv4/ip_forward");
    host.wire(&["up"]).expect(0);
    host.wire(&["audit"]).expect(0);
    let at = |ip: &str| Address { ip: ip.parse().expect("an address"), scope: 0 };
    let site = |name: &str, ip: &str, port| Site {
        name: name.to_owned(),
        netns: Some(name.to_owned()),
        addresses: vec![at(ip)],
        ports: vec![port],
    };
    let sites = [site("lan", "192.0.2.1", 443), site("guest", "10.88.0.2", 80)];
    let probe = |site, to: &str, port| Probe { site, source: None, to: at(to), kind: Kind::Tcp, port, passes: true };
    let seen = send(&host, &sites, &[probe(0, "192.0.2.2", 8080), probe(1, "192.0.2.1", 443)]);
    let answer = |site: &str, port, source: &str| Seen::Answer { site: site.to_owned(), port, source: at(source).ip };
    assert_eq!(seen, [answer("guest", 80, "192.0.2.1"), answer("lan", 443, "192.0.2.2")]);
    assert_eq!(passing(&host, &FLOWS), FLOWS);
}

/// A port that somebody else hands on too is named, and not where it is another, or comes in elsewhere.
#[test]
fn a_port_that_two_publish_is_named() {
    let host = house();
    host.write("/run/theirs", include_str!("coexist/netavark.nft"));
    host.sh("nft -f /run/theirs");
    host.wire(&["up"]).expect(0);
    host.wire(&["audit"]).expect(0);
    let chain = "inet netavark NETAVARK-HOSTPORT-DNAT";
    for (rule, named) in [
        ("tcp dport 81 dnat ip to 10.88.0.2:80", false),
        ("udp dport 80 dnat ip to 10.88.0.2:80", false),
        ("iifname podman0 tcp dport 80 dnat ip to 10.88.0.2:80", false),
        ("ip daddr 192.0.2.77 tcp dport 80 dnat ip to 10.88.0.2:80", false),
        ("tcp dport 80 dnat ip to 10.88.0.2:80", true),
        ("tcp dport 79-82 redirect to :8080", true),
    ] {
        host.sh(&format!("nft insert rule {chain} '{rule}'"));
        let audit = host.wire(&["--json", "audit"]).expect(if named { 3 } else { 0 }).json();
        if named {
            let deviation = &audit["deviations"][0];
            assert_eq!((&deviation["kind"], &deviation["wire"]), (&"foreign-dnat".into(), &"host-edge".into()));
            let message = text(&deviation["message"]);
            for word in ["`PREROUTING`", "`inet netavark`", "`NETAVARK-HOSTPORT-DNAT`", "`host-edge: published tcp/80`"]
            {
                assert!(message.contains(word), "{message}");
            }
        }
        host.sh(&format!("nft flush chain {chain}"));
    }
}

/// In a node somebody else's rules count as much as at the host: a container that brings its own firewall.
#[test]
fn a_nodes_own_firewall_is_looked_at() {
    let host = house();
    host.sh("ip netns exec web nft 'add table ip filter; \
         add chain ip filter INPUT { type filter hook input priority 0; policy drop; }; \
         add rule ip filter INPUT iifname lo accept'");
    let before = theirs(&host, "web");
    let up = host.wire(&["up"]).expect(0);
    let line = "    iptables -I INPUT -i edge-web -p tcp --dport 80 -j ACCEPT";
    assert!(up.stderr.contains("at web") && up.stderr.lines().any(|said| said == line), "{}", up.stderr);
    let left = [Flow::Published, Flow::Egress, Flow::ToHost, Flow::FromHost];
    assert_eq!(passing(&host, &left), left);
    assert_eq!(theirs(&host, "web"), before);
    host.sh("ip netns exec web nft insert rule ip filter INPUT iifname edge-web tcp dport 80 accept");
    host.sh("ip netns exec web nft insert rule ip filter INPUT ct state established accept");
    host.wire(&["audit"]).expect(0);
    assert_eq!(passing(&host, &FLOWS), FLOWS);
    // Only the wires that are asked for are looked at.
    host.sh("ip netns exec web nft flush chain ip filter INPUT");
    host.wire(&["audit", "host-edge"]).expect(0);
    host.wire(&["audit", "edge-web"]).expect(3);
}

/// A table that is switched off, one that no packet enters, and one of another family, drop nothing; nor does what nobody can
/// judge give an alarm.
#[test]
fn what_is_not_certain_is_not_said() {
    let host = house();
    host.wire(&["up"]).expect(0);
    for rules in [
        "table inet off { flags dormant; chain f { type filter hook forward priority 0; policy drop; }; }",
        "table inet none { chain f { drop; }; }",
        "table ip6 other { chain f { type filter hook forward priority 0; policy drop; }; }",
        "table arp other { chain f { type filter hook input priority 0; policy accept; }; }",
        "table inet some { chain f { type filter hook forward priority 0; policy drop; meta mark 1 accept; limit rate 5/second accept; }; }",
        "table inet some { chain f { type filter hook forward priority 0; policy accept; meta mark 1 drop; ip saddr 203.0.113.7 drop; }; }",
        "table inet some { set s { type ipv4_addr; flags dynamic; }; \
         chain f { type filter hook forward priority 0; policy drop; ip saddr @s accept; ip daddr @s accept; }; }",
    ] {
        host.write("/run/theirs", rules);
        host.sh("nft -f /run/theirs");
        host.wire(&["audit"]).expect(0);
        host.sh("nft list tables | grep -v ' wire$' | while read line; do nft delete $line; done");
    }
}
