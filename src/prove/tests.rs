//! What is asked of houses, and what is made of the answers. What the file says is held against a second reading of it, the one
//! that the truth tables of `tests/netns` are computed by.

use std::net::Ipv4Addr;

use super::world::Uplink;
use super::*;
use crate::naive::{self, Naive};
use crate::rules::{Ranges, Rules};
use crate::topology::Device;

const SMALL: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80", "tcp/2222:22"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", allow = ["tcp/80", "tcp/8000-8002", "udp/5353"] },
  { name = "edge-shop", ends = ["edge", "shop"], subnet = "172.16.2.0/31", allow = [{ flow = "tcp/22,23", rate = "1/minute" }], allow-back = ["udp/53"] },
  { name = "shop-web", ends = ["shop", "web"], subnet = "10.254.1.0/31", subnet6 = "fd00:254::/127", allow = ["tcp/5432", { flow = "tcp/9", from = "@friends" }, { flow = "tcp/10", from = "10.254.1.0" }, { flow = "tcp/11", from = "10.254.1.9" }] },
  { name = "edge-new", ends = ["edge", "new"], subnet = "172.16.3.0/31", mode = "audit" },
]
[host]
uplinks = ["eth0"]
[module]
nodes = ["edge", "web", "shop", "new", "vault"]
[hub.edge]
zone = "public"
[[hub.edge.forward]]
port = "tcp/25565"
to = "web:25566"
[node.shop]
egress = ["tcp/443"]
[node.vault]
network = "none"
[set.friends]
elements = ["192.0.2.9"]
"#;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Everything that is asked of a house, and what is left open.
fn asked(topology: &Topology, sets: &Contents, world: Option<&World>, host: Vec<IpAddr>) -> (Vec<Probe>, Vec<Unknown>) {
    let ranges = Ranges::new();
    let scope = Scope::everything(topology);
    let ways = Ways::of(topology, &Rules::of(topology, &ranges));
    let present = crate::desired::namespaces(topology);
    let house = House { topology, scope: &scope, sets, ways, present, host, world };
    let questions = Questions::of(&house);
    let (mut probes, mut unknown) = (Vec::new(), Vec::new());
    for sender in house.senders() {
        let (more, open) = questions.of_sender(&sender);
        probes.extend(more);
        unknown.extend(open);
    }
    (probes, unknown)
}

fn listed(topology: &Topology) -> Contents {
    topology.sets.values().map(|set| (set.name.clone(), set.elements.clone())).collect()
}

/// The small house from within, all sets known.
fn small() -> (Vec<Probe>, Vec<Unknown>) {
    let topology = crate::parse::topology(SMALL).unwrap();
    asked(&topology, &listed(&topology), None, vec![ip("192.0.2.2")])
}

/// What one node tries at an address, with what is expected.
fn tried(probes: &[Probe], from: &str, address: &str) -> Vec<(What, bool)> {
    let dialled = probes.iter().filter(|probe| matches!(probe.how, How::Dial(_) | How::Through(_)));
    let here = dialled.filter(|probe| probe.from.as_str() == from && probe.address == ip(address));
    here.map(|probe| (probe.what, probe.expected != Expected::Drop)).collect()
}

/// Every port that anybody may open at a node, the edges of ranges, and one of each kind that nobody may; at every address, but
/// only at the far end of the wire that says so do they pass.
#[test]
fn every_address_is_asked_for_every_port() {
    let (probes, unknown) = small();
    assert_eq!(unknown, []);
    let at_web = |address| tried(&probes, "edge", address);
    use What::{Echo, Tcp, Udp};
    let ports = [
        Tcp(9),
        Tcp(10),
        Tcp(11),
        Tcp(80),
        Tcp(5353),
        Tcp(5432),
        Tcp(8000),
        Tcp(8002),
        Tcp(8003),
        Tcp(25566),
        Udp(80),
        Udp(5353),
        Echo,
    ];
    let open = [Tcp(80), Tcp(8000), Tcp(8002), Udp(5353)];
    let mut found = at_web("172.16.1.1");
    found.sort();
    assert_eq!(found, ports.map(|what| (what, open.contains(&what))));
    let mut found = at_web("10.254.1.1");
    found.sort();
    assert_eq!(found, ports.map(|what| (what, false)));
    // From whom a flow is asks for the address of the one who dials.
    let open: Vec<What> =
        tried(&probes, "shop", "10.254.1.1").into_iter().filter(|(_, passes)| *passes).map(|(what, _)| what).collect();
    assert_eq!(open, [Tcp(10), Tcp(5432)]);
    let open: Vec<_> = tried(&probes, "shop", "fd00:254::1").into_iter().filter(|(_, passes)| *passes).collect();
    assert_eq!(open, [(Tcp(5432), true)]);
    // What the far node may open here is tried the other way as well.
    assert!(tried(&probes, "web", "10.254.1.0").contains(&(Tcp(5432), false)));
    // A node without wires tries everybody, and is tried by nobody.
    assert!(tried(&probes, "vault", "172.16.1.1").contains(&(Tcp(80), false)));
    assert!(!probes.iter().any(|probe| probe.to.as_str() == "vault"));
    // What the host is called elsewhere is not open to its nodes.
    assert!(tried(&probes, "edge", "192.0.2.2").iter().all(|(_, passes)| !passes));
    assert!(!tried(&probes, "edge", "192.0.2.2").is_empty());
    // Link-local addresses, each over its own wire.
    let local = questions::link_local(crate::topology::mac(&name("shop-web"), 1)).to_string();
    assert_eq!(tried(&probes, "shop", &local).len(), tried(&probes, "shop", "fd00:254::1").len());
    assert!(tried(&probes, "shop", &local).iter().all(|(_, passes)| !passes));
}

/// Over a wire in audit mode everything passes, and of what lies behind it nothing is said.
#[test]
fn a_watched_wire_lets_everything_pass() {
    let (probes, _) = small();
    assert!(tried(&probes, "edge", "172.16.3.1").iter().all(|(_, passes)| *passes));
    assert!(tried(&probes, "new", "172.16.3.0").len() > 4);
    assert!(tried(&probes, "new", "172.16.3.0").iter().all(|(_, passes)| *passes));
    let forged = probes.iter().filter(|probe| !matches!(probe.how, How::Dial(_) | How::Through(_)));
    let watched: Vec<_> = forged.filter(|probe| probe.from.as_str() == "new" && probe.to.as_str() == "edge").collect();
    assert!(watched.is_empty(), "{watched:?}");
    // But what lies behind another wire is that one's to hold back.
    let behind = |probe: &&Probe| probe.from.as_str() == "new" && probe.to.as_str() == "web";
    assert!(probes.iter().filter(behind).all(|probe| probe.expected == Expected::Drop));
    assert!(probes.iter().filter(behind).any(|probe| matches!(probe.how, How::Frame { .. })));
}

/// No packet of a house enters more namespaces than it must: what the routes of the file would hand to an uplink ends before.
#[test]
fn packets_end_before_they_leave() {
    let (probes, _) = small();
    for (from, address, hops) in [
        ("edge", "172.16.1.1", 1),
        ("shop", "172.16.2.0", 1),
        ("shop", "172.16.1.0", 1),
        ("shop", "172.16.1.1", 2),
        ("shop", "192.168.100.0", 2),
        ("shop", "192.0.2.2", 2),
        ("edge", "10.254.1.0", 1),
        ("web", "192.168.100.0", 2),
        ("host", "172.16.1.1", 1),
    ] {
        let dialled = |probe: &&Probe| {
            probe.from.as_str() == from && probe.address == ip(address) && matches!(probe.how, How::Dial(_))
        };
        let found: BTreeSet<u8> = probes.iter().filter(dialled).map(|probe| probe.hops).collect();
        assert_eq!(found, BTreeSet::from([hops]), "{from} {address}");
    }
}

/// From each end of each wire a source that is not its own, by the kernel and on the wire, at a port that is open to the end
/// itself and to nobody who comes through it.
#[test]
fn sources_are_forged_where_nobody_may_come_from_elsewhere() {
    let (probes, _) = small();
    for (from, to, what) in [
        ("edge", "web", What::Tcp(80)),
        ("edge", "shop", What::Tcp(1)),
        ("shop", "edge", What::Udp(53)),
        ("shop", "web", What::Tcp(5432)),
    ] {
        let here = |probe: &&Probe| probe.from.as_str() == from && probe.to.as_str() == to && probe.address.is_ipv4();
        let foreign = |probe: &&Probe| match probe.how {
            How::Raw(source) | How::Frame { source, .. } => {
                let Some(wire) = &probe.wire else { return false };
                let own = SMALL.lines().find(|line| line.contains(&format!("\"{wire}\""))).unwrap();
                let subnet: ipnetwork::Ipv4Network =
                    own.split("subnet = \"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
                matches!(source, IpAddr::V4(v4) if !subnet.contains(v4))
                    && subnet.contains(match probe.address {
                        IpAddr::V4(v4) => v4,
                        _ => Ipv4Addr::UNSPECIFIED,
                    })
            }
            _ => false,
        };
        let forged: Vec<&Probe> = probes.iter().filter(here).filter(foreign).collect();
        assert!(
            forged.iter().any(|probe| matches!(probe.how, How::Raw(_)) && probe.what == what),
            "{from} {to}: {forged:?}"
        );
        assert!(forged.iter().any(|probe| matches!(probe.how, How::Frame { .. }) && probe.what == what), "{from} {to}");
        assert!(forged.iter().all(|probe| probe.expected == Expected::Drop));
    }
    // To a published port come whole the addresses of the outside; so does what the hub forwards.
    let to = |to: &str, ports: &[u16]| {
        let forged = probes.iter().filter(|probe| matches!(probe.how, How::Raw(_)) && probe.to.as_str() == to);
        forged.filter(|probe| matches!(probe.what, What::Tcp(port) if ports.contains(&port))).count()
    };
    assert_eq!((to("edge", &[22, 80, 2222, 25565]), to("web", &[25566])), (0, 0));
}

/// A flow with a rate is tried once from each address, however many ports it has.
#[test]
fn a_rate_is_tried_once() {
    let (probes, _) = small();
    let open = |probe: &&Probe| {
        probe.from.as_str() == "edge" && probe.to.as_str() == "shop" && probe.expected != Expected::Drop
    };
    let open: Vec<_> = probes.iter().filter(open).collect();
    let [probe] = open[..] else { panic!("{open:?}") };
    assert_eq!((probe.what, probe.burst, probe.may_repeat()), (What::Tcp(22), Some(5), true));
    assert!(!Probe { burst: Some(2), ..probe.clone() }.may_repeat());
}

/// What turns on a set that nobody knows is not sent, and said.
#[test]
fn an_unknown_set_leaves_open_what_turns_on_it() {
    let topology = crate::parse::topology(SMALL).unwrap();
    let (probes, unknown) = asked(&topology, &Contents::new(), None, Vec::new());
    let open: Vec<_> =
        unknown.iter().map(|one| (one.from.as_str(), one.to.as_str(), one.flow.as_str(), one.address)).collect();
    assert_eq!(open, [("shop", "web", "tcp/9", ip("10.254.1.1")), ("shop", "web", "tcp/9", ip("fd00:254::1"))]);
    assert!(unknown[0].reason.contains("@friends"), "{}", unknown[0].reason);
    assert!(
        !probes
            .iter()
            .any(|probe| (probe.from.as_str(), probe.what, probe.address) == ("shop", What::Tcp(9), ip("10.254.1.1"))
                && matches!(probe.how, How::Dial(_)))
    );
}

/// Asks one house everything, from within and from the outside, and says how much passes.
fn agrees(text: &str) -> usize {
    let topology = crate::parse::topology(text).unwrap();
    let naive = Naive::read(text);
    let addresses = naive.addresses();
    let v4 = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    };
    // A world with the addresses of that reading.
    let mut world = World::of(&topology, &listed(&topology));
    for uplink in &mut world.uplinks {
        let number = naive.uplinks().iter().position(|known| known == uplink.device.as_str()).unwrap();
        let [first, _] = Naive::uplink(number);
        let at = |last: u8| format!("{first}{last}").parse::<Ipv4Addr>().unwrap();
        (uplink.near, uplink.far) = (at(2), at(1));
        let outside = addresses.get(&naive::Place::Outside(uplink.device.to_string()));
        uplink.others = outside.into_iter().flatten().filter_map(v4).filter(|ip| *ip != uplink.far).collect();
    }
    let wired = |ip: &IpAddr| {
        topology.wires.iter().any(|wire| (0..2).any(|end| questions::of_end(wire, end).any(|own| own == *ip)))
    };
    let host = addresses[&naive::Place::Node(HOST.to_owned())].iter().copied().filter(|ip| !wired(ip)).collect();
    let (probes, unknown) = asked(&topology, &listed(&topology), Some(&world), host);
    assert_eq!(unknown, []);
    let mut passes = 0;
    for probe in probes.iter().filter(|probe| matches!(probe.how, How::Dial(_))) {
        let (from, source) = match (&probe.how, probe.from.as_str()) {
            (How::Dial(source), OUTSIDE) => {
                let here = |uplink: &&Uplink| {
                    v4(&probe.address) == Some(uplink.near)
                        || uplink.called.iter().any(|called| Some(*called) == v4(&probe.address))
                };
                let uplink = world.uplinks.iter().find(here).unwrap_or(&world.uplinks[0]);
                (naive::Place::Outside(uplink.device.to_string()), Some(source.unwrap_or(uplink.far.into())))
            }
            (_, node) => (naive::Place::Node(node.to_owned()), None),
        };
        let what = match probe.what {
            What::Tcp(port) => naive::What::Tcp(port),
            What::Udp(port) => naive::What::Udp(port),
            What::Echo => naive::What::Echo,
        };
        let verdict = naive.judge(&from, source, probe.address, what);
        let answerer = match &probe.expected {
            Expected::Pass(Some(answerer)) => Some((answerer.node.to_string(), answerer.client)),
            Expected::Pass(None) => panic!("a lab knows who answers: {probe:?}"),
            Expected::Drop => None,
        };
        let second = match verdict {
            naive::Verdict::Drop => None,
            naive::Verdict::Pass { at: naive::Place::Node(node), from, .. } => Some((node, from)),
            naive::Verdict::Pass { at: naive::Place::Outside(_), from, .. } => Some((OUTSIDE.to_owned(), from)),
            naive::Verdict::Pass { at, .. } => panic!("{at} is nobody's to ask here"),
        };
        assert_eq!(answerer, second, "{probe:?}");
        passes += usize::from(answerer.is_some());
    }
    passes
}

/// Whatever a house is asked, a second reading of its file expects the same to become of it.
#[test]
fn a_second_reading_expects_the_same() {
    for text in [
        SMALL,
        include_str!("../../topology/example.toml"),
        include_str!("../../topology/pluto.toml"),
        include_str!("../../topology/home-server.toml"),
        include_str!("../../topology/svc.toml"),
        include_str!("../../topology/own-private-cloud.toml"),
        include_str!("../../topology/chown-me.toml"),
    ] {
        let passes = agrees(text);
        assert!(passes > 15, "{passes}");
    }
    let cases = crate::cases::chains().into_iter().flat_map(|chain| chain.cases);
    let passes: usize = cases.map(|(_, text)| agrees(&text)).sum();
    assert!(passes > 1000, "{passes}");
}

fn probe(expected: Expected) -> Probe {
    Probe {
        from: name("a"),
        to: name("b"),
        address: ip("10.0.0.1"),
        wire: Some(name("a-b")),
        what: What::Udp(53),
        how: How::Dial(None),
        hops: 1,
        expected,
        burst: None,
    }
}

/// A proof of one probe, or of several, by what is seen of each.
fn proof_of(probes: Vec<(Probe, Seen)>, world: Option<&World>) -> Proof {
    let topology = crate::parse::topology(SMALL).unwrap();
    let (ranges, sets, scope) = (Ranges::new(), Contents::new(), Scope::everything(&topology));
    let ways = Ways::of(&topology, &Rules::of(&topology, &ranges));
    let house = House {
        topology: &topology,
        scope: &scope,
        sets: &sets,
        ways,
        present: BTreeSet::new(),
        host: Vec::new(),
        world,
    };
    let mut proof = Proof::default();
    probes.into_iter().for_each(|(probe, seen)| proof.add(&house, &probe, seen));
    proof
}

/// What is seen against what is expected: never correct where nothing is known, and in a lab by whom.
#[test]
fn what_is_seen_is_judged() {
    let greeting = |node: &str, client: &str| Seen::Pass(Some(Greeting { node: node.to_owned(), client: ip(client) }));
    let by = |listens| Expected::Pass(Some(Answerer { node: name("b"), listens, client: Some(ip("10.0.0.0")) }));
    let world = World::default();
    for (expected, seen, in_lab, says) in [
        (Expected::Drop, Seen::Drop, false, "correct"),
        (Expected::Drop, Seen::Pass(None), false, "passes"),
        (Expected::Pass(None), Seen::Pass(None), false, "correct"),
        (Expected::Pass(None), Seen::Drop, false, "dropped"),
        (Expected::Pass(None), Seen::Unknown(Doubt::Silent), false, "unknown"),
        (Expected::Drop, Seen::Unknown(Doubt::Silent), false, "unknown"),
        (Expected::Drop, Seen::Unknown(Doubt::Elsewhere), false, "unknown"),
        (by(true), greeting("b", "10.0.0.0"), true, "correct"),
        (by(true), greeting("c", "10.0.0.0"), true, "`c` answered"),
        (by(true), greeting("b", "10.9.9.9"), true, "`b` saw 10.9.9.9 as its client, not 10.0.0.0"),
        (by(true), Seen::Pass(None), true, "the listener of `b` did not answer"),
        (by(false), Seen::Pass(None), true, "correct"),
        (Expected::Drop, greeting("c", "10.0.0.0"), true, "`c` answered"),
    ] {
        let case = format!("{expected:?} {seen:?}");
        let proof = proof_of(vec![(probe(expected), seen)], Some(&world).filter(|_| in_lab));
        assert_eq!(proof.probes, 1);
        let lines = proof.lines(crate::report::Paint(false));
        let said = match (proof.correct, proof.unknown, &proof.violations[..]) {
            (1, 0, []) => "correct".to_owned(),
            (0, 1, []) => proof.doubts().join("\n"),
            (0, 0, [_]) => lines,
            _ => panic!("{case}: {proof:?}"),
        };
        assert!(said.contains(says), "{case}: {said}");
    }
    // A rate may be used up where others live; in a lab nobody does. And the host's way to a node leads over wires alone.
    let rated = Probe { burst: Some(5), ..probe(Expected::Pass(None)) };
    assert_eq!(proof_of(vec![(rated.clone(), Seen::Drop)], None).unknown, 1);
    assert_eq!(proof_of(vec![(rated, Seen::Drop)], Some(&world)).violations.len(), 1);
    let elsewhere = Probe { from: Name::host(), ..probe(Expected::Drop) };
    assert_eq!(proof_of(vec![(elsewhere, Seen::Unknown(Doubt::Elsewhere))], None).correct, 1);
}

/// A proof as the contract has it, and as lines.
#[test]
fn a_proof_is_told() {
    let proof = proof_of(
        vec![
            (probe(Expected::Drop), Seen::Pass(None)),
            (Probe { how: How::Raw(ip("192.0.2.7")), ..probe(Expected::Drop) }, Seen::Pass(None)),
            (probe(Expected::Pass(None)), Seen::Drop),
            (probe(Expected::Pass(None)), Seen::Unknown(Doubt::Silent)),
            (probe(Expected::Drop), Seen::Drop),
        ],
        None,
    );
    assert_eq!(proof.exit(), Exit::Differs);
    assert_eq!(proof.summary(), "prove: 5 probes, 1 correct, 1 unknown, 3 violations");
    assert_eq!(
        proof.lines(crate::report::Paint(false)),
        "passes: a to b, udp/53 at 10.0.0.1: the file says drop\n\
         passes: a to b, udp/53 at 10.0.0.1 from 192.0.2.7: the file says drop (a source that is not the sender's)\n\
         dropped: a to b, udp/53 at 10.0.0.1: the file says pass\n"
    );
    assert_eq!(
        proof.doubts(),
        ["unknown: 1 probe, a to b, udp/53 at 10.0.0.1: nobody answered, and nothing tells whether it arrived"]
    );
    assert_eq!(
        serde_json::to_value(&proof).unwrap(),
        serde_json::json!({
            "probes": 5, "correct": 1, "unknown": 1,
            "violations": [
                { "from": "a", "to": "b", "flow": "udp/53", "expected": "drop", "seen": "pass", "address": "10.0.0.1" },
                { "from": "a", "to": "b", "flow": "udp/53", "expected": "drop", "seen": "pass", "address": "10.0.0.1",
                  "source": "192.0.2.7", "note": "a source that is not the sender's" },
                { "from": "a", "to": "b", "flow": "udp/53", "expected": "pass", "seen": "drop", "address": "10.0.0.1" },
            ],
            "unknowns": [{ "from": "a", "to": "b", "flow": "udp/53", "address": "10.0.0.1",
                           "reason": "nobody answered, and nothing tells whether it arrived" }],
            "absent": {},
        })
    );
}

/// What was silent is tried again, one packet a wire at a time, and a counter that rises at one of its ends says that it was
/// dropped; one of another wire says nothing, and neither does none.
#[test]
fn silence_is_judged_by_counters() {
    let silent = |wire: &str, port| Probe { wire: Some(name(wire)), what: What::Udp(port), ..probe(Expected::Drop) };
    let probes = vec![silent("a-b", 1), silent("a-b", 2), silent("a-c", 3), silent("uncounted", 4)];
    let counts = std::cell::RefCell::new(Denials::from([((name("b"), name("a-b")), 7), ((name("a"), name("a-c")), 3)]));
    let mut crowds = Vec::new();
    let mut send = |probes: &[Probe]| {
        crowds.push(probes.iter().map(|probe| probe.what).collect::<Vec<_>>());
        for probe in probes {
            if probe.what == What::Udp(1) {
                *counts.borrow_mut().get_mut(&(name("b"), name("a-b"))).unwrap() += 1;
            }
        }
        vec![Seen::Unknown(Doubt::Silent); probes.len()]
    };
    let told = recount(probes, &mut send, &mut || counts.borrow().clone());
    let told: BTreeMap<What, Seen> = told.into_iter().map(|(probe, seen)| (probe.what, seen)).collect();
    assert_eq!(crowds, [vec![What::Udp(1), What::Udp(3)], vec![What::Udp(2)]]);
    assert_eq!(told[&What::Udp(1)], Seen::Drop);
    for port in [2, 3, 4] {
        assert_eq!(told[&What::Udp(port)], Seen::Unknown(Doubt::Silent), "{port}");
    }
}

/// The outside of a lab has somebody for everything that the file says of it.
#[test]
fn a_world_has_whom_the_file_speaks_of() {
    let text = SMALL
        .replace(
            "publish = [\"tcp/80\",",
            "publish = [{ flow = \"tcp/81\", address = \"203.0.113.25\", from = \"198.51.100.0/24\" }, \"tcp/80\",",
        )
        .replace("egress = [\"tcp/443\"]", "egress = [\"tcp/443\", { flow = \"udp/53\", to = \"192.168.1.1\" }]");
    let topology = crate::parse::topology(&text).unwrap();
    let world = World::of(&topology, &listed(&topology));
    let [uplink] = &world.uplinks[..] else { panic!("{world:?}") };
    assert_eq!(uplink.device, Device::new("eth0").unwrap());
    assert_eq!((uplink.near.to_string(), uplink.far.to_string()), ("198.18.0.1".to_owned(), "198.18.0.2".to_owned()));
    assert_eq!(uplink.called, [Ipv4Addr::new(203, 0, 113, 25)]);
    let others: Vec<String> = uplink.others.iter().map(Ipv4Addr::to_string).collect();
    assert_eq!(others, ["198.51.100.1", "192.168.1.1", "192.168.255.254"]);
    let outside = name(OUTSIDE);
    for what in [What::Tcp(443), What::Udp(53), What::Tcp(7), What::Udp(7)] {
        assert!(world.listens(&outside, what, ip("198.18.0.2")), "{what:?}");
    }
    assert!(!world.listens(&outside, What::Tcp(80), ip("198.18.0.2")));
}
