//! A house in small: two hubs, leaves of both zones, a peer with rights and one without, and every kind of flow.

mod second;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::question::Question;
use super::*;
use crate::topology::{
    Acme, Allowed, Clients, Device, End, Flow, Forward, Home, Host, Hub, MTU, Mode, Module, Node, Peer, Per, Place,
    Policy, Pool, Protocol, Publish, Rate, Redirect, Service, Set, Site, Tls, Upstream, Whom, Wire, Wireguard,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn at(line: usize) -> Place {
    Place { line, column: 1 }
}

fn tcp(port: u16) -> Service {
    ports(Protocol::Tcp, &[(port, port)])
}

fn udp(port: u16) -> Service {
    ports(Protocol::Udp, &[(port, port)])
}

fn ports(protocol: Protocol, ranges: &[(u16, u16)]) -> Service {
    Service { protocol, ports: ranges.to_vec(), icmp_type: None }
}

fn flow(line: usize, service: Service) -> Flow {
    Flow { flow: service, from: None, to: None, rate: None, log: false, place: at(line) }
}

fn publish(line: usize, service: Service) -> Publish {
    Publish {
        flow: service,
        to_port: None,
        address: None,
        on: None,
        from: None,
        rate: None,
        log: false,
        place: at(line),
    }
}

fn wire(line: usize, text: &str, first: &str, second: &str) -> Wire {
    let end = |node: &str, last| End {
        node: name(node),
        device: Device::for_wire(&name(text)),
        address: Ipv4Addr::new(10, 0, line as u8, last),
        address6: None,
    };
    Wire {
        name: name(text),
        module: name("all"),
        ends: [end(first, 0), end(second, 1)],
        subnet: format!("10.0.{line}.0/31").parse().unwrap(),
        subnet6: None,
        allow: Vec::new(),
        allow_back: Vec::new(),
        publish: Vec::new(),
        mtu: MTU,
        mode: Mode::Enforce,
        across_zones: false,
        place: at(line),
    }
}

fn node(line: usize, text: &str) -> Node {
    Node {
        name: name(text),
        module: name("all"),
        home: Home::Netns(name(text)),
        network_none: false,
        owned: false,
        shares: None,
        zones: Vec::new(),
        egress: Vec::new(),
        snat: None,
        place: at(line),
    }
}

fn hub(line: usize, text: &str, zone: &str) -> Hub {
    Hub {
        name: name(text),
        zone: name(zone),
        pool: None,
        clients: None,
        wireguard: None,
        sites: Vec::new(),
        redirects: Vec::new(),
        forwards: Vec::new(),
        place: at(line),
    }
}

fn peer(line: usize, text: &str, address: &str, allow: Vec<Allowed>) -> Peer {
    Peer {
        name: name(text),
        public_key: String::new(),
        preshared_key: None,
        address: address.parse().unwrap(),
        allow,
        place: at(line),
    }
}

fn upstream(node: &str, port: u16) -> Upstream {
    Upstream { node: name(node), port }
}

fn house() -> Topology {
    let rate = Rate { count: 10, per: Per::Minute, burst: 5 };
    let players = Some(Whom::Set(name("players")));
    let wires = vec![
        Wire {
            publish: vec![Publish { address: "203.0.113.25".parse().ok(), ..publish(1, tcp(25)) }],
            allow_back: vec![flow(1, tcp(53))],
            ..wire(1, "host-mail", "host", "mail")
        },
        Wire {
            publish: vec![Publish { to_port: Some(22), ..publish(2, tcp(2222)) }, publish(2, udp(60000))],
            allow: vec![flow(2, ports(Protocol::Tcp, &[(8000, 8004)])), flow(2, ports(Protocol::Tcp, &[(8005, 8010)]))],
            ..wire(2, "host-dev", "host", "dev")
        },
        wire(3, "host-pub", "host", "proxy"),
        wire(4, "host-priv", "host", "vpn"),
        Wire {
            allow: vec![flow(5, tcp(80))],
            allow_back: vec![flow(5, tcp(443))],
            ..wire(5, "pub-shop", "proxy", "shop")
        },
        wire(6, "pub-blog", "proxy", "blog"),
        wire(7, "pub-game", "proxy", "game"),
        Wire {
            allow: vec![
                Flow { rate: Some(rate), log: true, ..flow(8, tcp(22)) },
                Flow { from: Some(Whom::Network("10.100.0.9".parse().unwrap())), ..flow(8, tcp(9418)) },
                Flow { from: Some(Whom::Network("10.100.0.0/24".parse().unwrap())), ..flow(8, tcp(873)) },
            ],
            ..wire(8, "priv-git", "vpn", "git")
        },
        Wire { allow: vec![flow(9, tcp(4533))], ..wire(9, "priv-music", "vpn", "music") },
        Wire { allow: vec![flow(10, tcp(80))], ..wire(10, "priv-player", "vpn", "player") },
        Wire { allow_back: vec![flow(11, tcp(4533))], ..wire(11, "music-player", "music", "player") },
        Wire { mode: Mode::Audit, ..wire(12, "priv-new", "vpn", "new") },
    ];
    let nodes = [
        Node { egress: vec![flow(30, tcp(25))], snat: "203.0.113.25".parse().ok(), ..node(30, "mail") },
        node(31, "dev"),
        node(32, "proxy"),
        node(33, "vpn"),
        Node {
            egress: vec![flow(34, tcp(443)), Flow { to: Some(Whom::Set(name("names"))), ..flow(34, udp(53)) }],
            ..node(34, "shop")
        },
        node(35, "blog"),
        node(36, "game"),
        node(37, "git"),
        node(38, "music"),
        node(39, "player"),
        node(40, "new"),
        Node { network_none: true, ..node(41, "backup") },
        node(42, "forgotten"),
        Node { shares: Some(name("music")), ..node(43, "scrobbler") },
        Node { shares: Some(name("host")), ..node(44, "metrics") },
    ];
    let proxy = Hub {
        sites: vec![Site {
            host: "blog.example.org".into(),
            to: upstream("blog", 80),
            tls: Some(Tls::Acme),
            path: Some("/posts".into()),
            methods: Vec::new(),
            headers: BTreeMap::new(),
            rate: None,
            body: None,
            place: at(51),
        }],
        redirects: vec![Redirect {
            host: "www.example.org".into(),
            to: "https://blog.example.org".into(),
            tls: Some(Tls::Internal),
            place: at(52),
        }],
        forwards: vec![Forward { port: tcp(25565), to: upstream("game", 25566), from: players, place: at(53) }],
        ..hub(50, "proxy", "public")
    };
    let vpn = Hub {
        wireguard: Some(Wireguard {
            listen: 51820,
            endpoint: None,
            private_key: String::new(),
            isolate: true,
            peers: vec![
                peer(62, "laptop", "10.100.0.2", vec![Allowed::Module(name("code")), Allowed::Node(name("scrobbler"))]),
                peer(63, "phone", "10.100.0.3", vec![]),
                peer(64, "tablet", "10.100.0.4", vec![Allowed::Wire(name("priv-new"))]),
            ],
            place: at(61),
        }),
        ..hub(60, "vpn", "private")
    };
    Topology {
        wires,
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        modules: vec![Module { name: name("code"), nodes: vec![name("git"), name("dev")] }],
        hubs: [proxy, vpn].into_iter().map(|hub| (hub.name.clone(), hub)).collect(),
        host: Host::default(),
        pool: Pool::default(),
        sets: BTreeMap::new(),
        acme: None,
    }
}

/// `A B[:flow]`, asked as on the command line.
fn ask(topology: &Topology, words: &str) -> Answer {
    let (from, to) = words.split_once(' ').unwrap();
    let question = question(from, to).unwrap();
    answer(topology, question.from, question.to, question.service.as_ref()).unwrap()
}

#[test]
fn what_is_allowed_names_its_wire_line_and_conditions() {
    let house = house();
    for (words, wire, line, reason) in [
        ("proxy shop:tcp/80", "pub-shop", 5, "`proxy` may open tcp/80 to `shop` over wire `pub-shop`"),
        ("proxy shop", "pub-shop", 5, "`proxy` may open tcp/80 to `shop` over wire `pub-shop`"),
        ("shop proxy:tcp/443", "pub-shop", 5, "`shop` may open tcp/443 to `proxy` over wire `pub-shop`"),
        (
            "vpn git:tcp/22",
            "priv-git",
            8,
            "`vpn` may open tcp/22 to `git` over wire `priv-git`, at most 10 new connections a minute from each address, logged",
        ),
        (
            "vpn git:tcp/873",
            "priv-git",
            8,
            "`vpn` may open tcp/873 to `git` over wire `priv-git`, from 10.100.0.0/24 only",
        ),
        ("player music:tcp/4533", "music-player", 11, "`player` may open tcp/4533 to `music` over wire `music-player`"),
        (
            "player scrobbler:tcp/4533",
            "music-player",
            11,
            "`scrobbler` lives in the namespace of `music`; \
             `player` may open tcp/4533 to `music` over wire `music-player`",
        ),
        (
            "host dev:tcp/8003-8006",
            "host-dev",
            2,
            "`host` may open tcp/8000-8004 to `dev` over wire `host-dev`; \
             `host` may open tcp/8005-8010 to `dev` over wire `host-dev`",
        ),
        (
            "metrics dev:tcp/8010",
            "host-dev",
            2,
            "`metrics` lives in the namespace of `host`; `host` may open tcp/8005-8010 to `dev` over wire `host-dev`",
        ),
        (
            "new vpn:tcp/1",
            "priv-new",
            12,
            "`new` may open anything to `vpn`: wire `priv-new` is in audit mode, which only counts",
        ),
        (
            "outside dev:tcp/2222",
            "host-dev",
            2,
            "`outside` may open tcp/2222 of the host, which ends at `dev` as tcp/22 over wire `host-dev`",
        ),
        (
            "outside dev:tcp/22",
            "host-dev",
            2,
            "`outside` may open tcp/2222 of the host, which ends at `dev` as tcp/22 over wire `host-dev`",
        ),
        (
            "outside mail:tcp/25",
            "host-mail",
            1,
            "`outside` may open tcp/25 of 203.0.113.25, which ends at `mail` over wire `host-mail`",
        ),
        (
            "outside proxy:tcp/443",
            "host-pub",
            51,
            "`outside` may open tcp/80,443 of the host, which ends at `proxy`; \
             it passes requests for blog.example.org/posts on to `blog:80`",
        ),
        (
            "outside game:tcp/25566",
            "host-pub",
            53,
            "`outside` may open tcp/25565 of the host, which `proxy` forwards to `game:25566`, from @players only",
        ),
        (
            "outside vpn:udp/51820",
            "host-priv",
            61,
            "`outside` may open udp/51820 of the host, which ends at `vpn`: its WireGuard",
        ),
        (
            "mail outside:tcp/25",
            "host-mail",
            30,
            "`mail` may open tcp/25 to public addresses outside as 203.0.113.25 over wire `host-mail`",
        ),
        ("shop outside:udp/53", "pub-shop", 34, "`shop` may open udp/53 to @names outside over wire `pub-shop`"),
        (
            "proxy outside:tcp/443",
            "host-pub",
            51,
            "`proxy` may open tcp/443 to `outside`, as ACME needs it for the certificate of blog.example.org",
        ),
        (
            "laptop git:tcp/22",
            "priv-git",
            8,
            "VPN peer `laptop` may open tcp/22 to `git` over wire `priv-git`, \
             at most 10 new connections a minute from each address, logged",
        ),
        ("laptop git:tcp/873", "priv-git", 8, "VPN peer `laptop` may open tcp/873 to `git` over wire `priv-git`"),
        ("laptop music", "priv-music", 9, "VPN peer `laptop` may open tcp/4533 to `music` over wire `priv-music`"),
        (
            "tablet new:icmp",
            "priv-new",
            12,
            "VPN peer `tablet` may open anything to `new`: wire `priv-new` is in audit mode, which only counts",
        ),
    ] {
        let expected =
            Answer { allowed: true, wire: Some(name(wire)), line: Some(line), reason: reason.into(), hint: None };
        assert_eq!(ask(&house, words), expected, "{words}");
    }
}

#[test]
fn what_no_wire_polices_is_allowed_without_a_line() {
    let house = house();
    for (words, reason) in [
        ("git git:tcp/22", "`git` reaches itself over its own loopback, which no wire polices"),
        ("host host", "`host` reaches itself over its own loopback, which no wire polices"),
        ("backup backup", "`backup` reaches itself over its own loopback, which no wire polices"),
        (
            "music scrobbler",
            "`music` and `scrobbler` share a namespace and meet on its loopback, which no wire polices",
        ),
        ("metrics host", "`metrics` and `host` share a namespace and meet on its loopback, which no wire polices"),
        ("host outside:tcp/443", "`host` may open anything to `outside`: its own connections are not policed"),
        (
            "outside host:tcp/22",
            "`outside` may open anything to `host`: `policy = \"wires\"` does not police the host itself",
        ),
    ] {
        let expected = Answer { allowed: true, wire: None, line: None, reason: reason.into(), hint: None };
        assert_eq!(ask(&house, words), expected, "{words}");
    }
}

#[test]
fn what_is_denied_says_what_stands_in_the_way() {
    let house = house();
    for (words, wire, line, reason, hint) in [
        (
            "proxy shop:tcp/22",
            Some("pub-shop"),
            Some(5),
            "wire `pub-shop` lets `proxy` open only tcp/80 to `shop`",
            "add \"tcp/22\" to `allow` of wire `pub-shop`",
        ),
        (
            "shop proxy:tcp/80",
            Some("pub-shop"),
            Some(5),
            "tcp/80 goes the other way over wire `pub-shop`: only `proxy` may open it to `shop`",
            "add \"tcp/80\" to `allow-back` of wire `pub-shop`",
        ),
        (
            "proxy blog",
            Some("pub-blog"),
            Some(6),
            "wire `pub-blog` lets `proxy` open nothing to `blog`",
            "add \"tcp/80\" to `allow` of wire `pub-blog`",
        ),
        (
            "host dev:tcp/8003-8011",
            Some("host-dev"),
            Some(2),
            "wire `host-dev` lets `host` open only tcp/8000-8004, tcp/8005-8010 to `dev`",
            "add \"tcp/8003-8011\" to `allow` of wire `host-dev`",
        ),
        (
            "host mail:tcp/25",
            Some("host-mail"),
            Some(1),
            "wire `host-mail` publishes tcp/25 for the outside, the host's own connections need a flow",
            "add \"tcp/25\" to `allow` of wire `host-mail`",
        ),
        (
            "git shop:tcp/443",
            None,
            Some(37),
            "`git` is private, `shop` is public, and no wire joins them",
            "give them a wire, then run `wire number`: \
             { name = \"git-shop\", ends = [\"git\", \"shop\"], allow = [\"tcp/443\"], across-zones = true }",
        ),
        (
            "git music:tcp/4533",
            Some("priv-git"),
            Some(8),
            "`git` and `music` meet only in `vpn`, which passes nothing from one to the other",
            "give them a wire, then run `wire number`: \
             { name = \"git-music\", ends = [\"git\", \"music\"], allow = [\"tcp/4533\"] }",
        ),
        (
            "dev git",
            None,
            Some(31),
            "no wire joins `dev` and `git`",
            "give them a wire, then run `wire number`: { name = \"dev-git\", ends = [\"dev\", \"git\"], allow = [\"tcp/80\"] }",
        ),
        (
            "dev vpn:udp/53",
            None,
            Some(31),
            "no wire joins `dev` and `vpn`",
            "give them a wire, then run `wire number`: \
             { name = \"vpn-dev\", ends = [\"vpn\", \"dev\"], allow-back = [\"udp/53\"] }",
        ),
        (
            "git backup:tcp/22",
            None,
            Some(41),
            "`backup` has `network = \"none\"`: there is nothing but its loopback",
            "",
        ),
        ("outside forgotten", None, Some(42), "no wire ends in `forgotten`: there is nothing but its loopback", ""),
        (
            "git outside:tcp/443",
            None,
            Some(37),
            "`git` has no `egress`, so it opens nothing to the outside",
            "add \"tcp/443\" to `egress` of [node.git]",
        ),
        (
            "shop outside:tcp/80",
            None,
            Some(34),
            "`shop` may open only tcp/443, udp/53 to the outside",
            "add \"tcp/80\" to `egress` of [node.shop]",
        ),
        (
            "outside dev:tcp/80",
            Some("host-dev"),
            Some(2),
            "of the host's ports only tcp/2222, udp/60000 end at `dev`",
            "add \"tcp/80\" to `publish` of wire `host-dev`",
        ),
        (
            "outside proxy:tcp/25565",
            None,
            Some(53),
            "`proxy` forwards tcp/25565 to `game`, it does not end there",
            "ask `wire why outside game:tcp/25565`",
        ),
        (
            "outside blog:tcp/80",
            None,
            Some(51),
            "the outside ends at `proxy`, whose site blog.example.org passes requests on to `blog:80`",
            "ask `wire why outside proxy:tcp/443`",
        ),
        (
            "outside music",
            Some("priv-music"),
            Some(9),
            "no wire joins `music` to the host, and `vpn` forwards nothing to it",
            "let the proxy or VPN of `vpn` speak for it, or give it a [[hub.vpn.forward]]",
        ),
        (
            "outside host:tcp/443",
            Some("host-pub"),
            Some(51),
            "tcp/443 does not end at the host: `outside` may open tcp/80,443 of the host, which ends at `proxy`; \
             it passes requests for blog.example.org/posts on to `blog:80`",
            "ask `wire why outside proxy:tcp/443`",
        ),
        (
            "outside outside",
            None,
            None,
            "what comes in on an uplink does not leave by one: `wire` forwards nothing there",
            "",
        ),
        (
            "laptop player:tcp/80",
            Some("priv-player"),
            Some(62),
            "the `allow` of VPN peer `laptop` does not hold `player`",
            "add \"player\" to `allow` of peer `laptop`",
        ),
        (
            "laptop git:tcp/9418",
            Some("priv-git"),
            Some(8),
            "wire `priv-git` lets only 10.100.0.9 open tcp/9418 to `git`",
            "",
        ),
        (
            "laptop git:tcp/80",
            Some("priv-git"),
            Some(8),
            "wire `priv-git` lets VPN peer `laptop` open only tcp/22, tcp/873 to `git`",
            "add \"tcp/80\" to `allow` of wire `priv-git`",
        ),
        (
            "laptop vpn",
            None,
            Some(62),
            "VPN peer `laptop` may open what wires of `vpn` allow, nothing to `vpn` itself",
            "",
        ),
        ("laptop shop", None, Some(62), "VPN peer `laptop` comes in at `vpn`, which no wire joins to `shop`", ""),
        (
            "laptop outside:tcp/443",
            None,
            Some(62),
            "VPN peer `laptop` may open what wires of `vpn` allow, nothing to the outside",
            "",
        ),
        (
            "laptop phone",
            None,
            Some(61),
            "`vpn` keeps its VPN peers apart from each other",
            "set `isolate = false` in [hub.vpn.wireguard]",
        ),
        (
            "git laptop",
            None,
            None,
            "nothing opens connections to VPN peer `laptop`, only replies to its own go there",
            "",
        ),
    ] {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        let expected = Answer { allowed: false, wire: wire.map(name), line, reason: reason.into(), hint };
        assert_eq!(ask(&house, words), expected, "{words}");
    }
}

#[test]
fn a_policed_host_lets_in_what_it_allows_but_for_the_banned() {
    let mut house = house();
    house.host =
        Host { policy: Policy::All, allow: vec![flow(70, tcp(22))], block: Some(name("banned")), ..Host::default() };
    let open = ask(&house, "outside host:tcp/22");
    assert_eq!(open.reason, "`outside` may open tcp/22 to `host`, unless it comes from @banned");
    assert_eq!((open.allowed, open.line), (true, Some(70)));
    let shut = ask(&house, "outside host:tcp/23");
    assert_eq!(shut.reason, "with `policy = \"all\"` the host lets in only tcp/22, and what IPv6 and DHCP live by");
    assert_eq!((shut.allowed, shut.line), (false, Some(70)));
    assert!(ask(&house, "outside dev:udp/60000").reason.ends_with(", unless it comes from @banned"));
}

#[test]
fn peers_that_are_not_isolated_reach_each_other() {
    let mut house = house();
    house.hubs.get_mut("vpn").unwrap().wireguard.as_mut().unwrap().isolate = false;
    let answer = ask(&house, "laptop phone:tcp/22");
    assert_eq!((answer.allowed, answer.line), (true, Some(61)));
}

#[test]
fn audit_mode_all_the_way_out_lets_everything_out() {
    let mut house = house();
    assert!(!ask(&house, "new outside:tcp/443").allowed);
    house.wires.iter_mut().find(|wire| wire.name.as_str() == "host-priv").unwrap().mode = Mode::Audit;
    assert!(ask(&house, "new outside:tcp/443").allowed);
    assert!(!ask(&house, "git outside:tcp/443").allowed);
}

/// Neither a flow nor audit mode lets IPv6 over a wire that has none.
#[test]
fn without_ipv6_nothing_of_it_passes() {
    let mut house = house();
    let answer = ask(&house, "new vpn:icmpv6");
    let number = house.wires.iter().position(|wire| wire.end_in("new").is_some()).unwrap();
    let wire = &mut house.wires[number];
    assert_eq!(wire.mode, Mode::Audit);
    assert_eq!(answer.reason, format!("wire `{}` has no IPv6", wire.name));
    assert_eq!((answer.allowed, answer.wire.as_ref(), answer.line), (false, Some(&wire.name), Some(wire.place.line)));
    assert_eq!(answer.hint.as_deref(), Some("add `subnet6 = \"fd00::/127\"` to it"));
    wire.subnet6 = Some("fd00::/127".parse().unwrap());
    assert!(ask(&house, "new vpn:icmpv6").allowed);
    assert_eq!(ask(&house, "new outside:icmpv6").reason, "wire `host-priv` has no IPv6");
}

#[test]
fn the_acme_directory_says_which_port_a_hub_needs() {
    let mut house = house();
    let directory = Some("https://acme.example.net:14000/dir".to_owned());
    house.acme = Some(Acme { contact: None, directory, ca: None });
    assert!(ask(&house, "proxy outside:tcp/14000").allowed);
    assert!(!ask(&house, "proxy outside:tcp/443").allowed);
}

#[test]
fn a_name_nobody_has_is_an_error_with_the_nearest_one() {
    let house = house();
    for (word, message, hint) in [
        ("gti", "the topology has no node `gti`", "did you mean `git`?"),
        ("Laptop", "the topology has no node `Laptop`", "did you mean `laptop`?"),
        ("outsid", "the topology has no node `outsid`", "did you mean `outside`?"),
        (
            "nowhere-near",
            "the topology has no node `nowhere-near`",
            "a node is one of [module], `host`, `outside`, or a VPN peer",
        ),
        ("code", "`code` is a module, not a node", "ask for one of its nodes: `git`, `dev`"),
        ("pub-shop", "`pub-shop` is a wire, not a node", "ask for its ends: `proxy` and `shop`"),
    ] {
        let error = answer(&house, "host", word, None).unwrap_err();
        assert_eq!(error, Error::invalid(message).hint(hint));
        assert_eq!(answer(&house, word, "host", None).unwrap_err(), error);
    }
}

#[test]
fn a_question_is_two_names_and_perhaps_a_flow() {
    let asked = question("a", "b:tcp/443,80,81,8000-8010").unwrap();
    let service = ports(Protocol::Tcp, &[(80, 81), (443, 443), (8000, 8010)]);
    assert_eq!(asked, Question { from: "a", to: "b", service: Some(service) });
    assert_eq!(question("a", "b").unwrap(), Question { from: "a", to: "b", service: None });
    for words in ["icmp", "icmpv6", "icmp/echo-request", "udp/65535"] {
        assert_eq!(question("a", &format!("b:{words}")).unwrap().service.unwrap().to_string(), words);
    }
    for (from, to, message, hint) in [
        ("a", "b:22", "`22` names no protocol", "write `b:tcp/22`"),
        ("a", "b:53/udp", "`53/udp` names its port first", "write `b:udp/53`"),
        ("a", "b:", "flow `` names no protocol", "write `\"tcp/443\"`"),
        ("a", "b:tpc/80", "`tpc` is no protocol", "did you mean `tcp`?"),
        (
            "a:tcp/22",
            "b",
            "`a:tcp/22` has a port, but only the second of the two may have one",
            "who opens a connection is a name alone: `a`",
        ),
    ] {
        assert_eq!(question(from, to).unwrap_err(), Error::invalid(message).hint(hint), "{from} {to}");
    }
}

#[test]
fn every_flow_is_a_sentence_in_the_order_of_the_file() {
    let mut house = house();
    let private = house.hubs.get_mut("vpn").unwrap();
    private.clients = Some(Clients { prefix: "10.100.0.0/24".parse().unwrap(), device: Device::new("wg0").unwrap() });
    private.wireguard = None;
    house.host.block = Some(name("banned"));
    let banned = Set {
        name: name("banned"),
        elements: vec![],
        file: None,
        dns: vec![],
        interval: None,
        private: false,
        place: at(80),
    };
    house.sets.insert(name("banned"), banned);
    let sentences = sentences(&house);
    let lines: Vec<_> = sentences.iter().map(|(line, _)| *line).collect();
    assert!(lines.is_sorted());
    assert_eq!(lines, [1, 1, 2, 2, 2, 2, 5, 5, 8, 8, 8, 9, 10, 11, 12, 12, 30, 34, 34, 51, 51, 51, 51, 52, 53, 60, 80]);
    let at_line = |line| sentences.iter().filter(|(l, _)| *l == line).map(|(_, s)| s.as_str()).collect::<Vec<_>>();
    assert_eq!(at_line(60), ["VPN clients 10.100.0.0/24 of `vpn` may open what `vpn` may over its wires"]);
    assert_eq!(at_line(80), ["what comes from @banned is dropped before anything else"]);
}

fn parsed(text: &str) -> Topology {
    crate::parse::topology(text).unwrap()
}

/// Every flow that a file's wires declare is allowed at the line that declares it, and no other port between any two nodes.
fn holds_exactly(topology: &Topology) {
    let ports = [tcp(22), tcp(80), tcp(443), tcp(4533), tcp(7681), tcp(8334), tcp(25565), udp(53), udp(51820), tcp(1)];
    let nodes = || topology.nodes.keys().map(Name::as_str).chain([HOST]);
    for (from, to) in nodes().flat_map(|from| nodes().map(move |to| (from, to))).filter(|(from, to)| from != to) {
        let declared: Vec<_> = topology
            .wires_of(from)
            .filter(|(wire, end)| wire.far(*end).node.as_str() == to)
            .flat_map(|(wire, end)| grant::opened_by(wire, end))
            .collect();
        for flow in &declared {
            let answer = answer(topology, from, to, Some(&flow.flow)).unwrap();
            assert!(answer.allowed && answer.line == Some(flow.place.line), "{from} {to}:{}: {answer:?}", flow.flow);
        }
        for port in ports.iter().filter(|port| !declared.iter().any(|flow| flow.flow.covers(port))) {
            let answer = answer(topology, from, to, Some(port)).unwrap();
            assert!(!answer.allowed, "{from} {to}:{port}: {answer:?}");
            assert!(answer.line.is_some() && !answer.reason.is_empty(), "{from} {to}:{port}: {answer:?}");
        }
        assert_eq!(answer(topology, from, to, None).unwrap().allowed, !declared.is_empty(), "{from} {to}");
    }
}

#[test]
fn the_whole_house_allows_its_flows_and_nothing_else() {
    for text in [include_str!("../../topology/pluto.toml"), include_str!("../../topology/hubs.toml")] {
        holds_exactly(&parsed(text));
    }
    let text = include_str!("../../topology/pluto.toml");
    for (words, allowed, line) in [
        ("outside reverse-proxy-edge:tcp/443", true, "\"host-pub\""),
        ("outside reverse-proxy-edge:tcp/22", false, "\"host-pub\""),
        ("outside vpn-edge:udp/51820", true, "\"host-priv\""),
        ("outside git-ssh:tcp/22", false, "\"priv-git-ssh\""),
        ("outside minecraft-server:tcp/25565", true, "reverse-proxy-edge.forward"),
        ("outside minecraft-server:tcp/22", false, "reverse-proxy-edge.forward"),
        ("vpn-edge git-ssh:tcp/22", true, "\"priv-git-ssh\""),
        ("vpn-edge git-ssh:tcp/80", false, "\"priv-git-ssh\""),
        ("git-ssh vpn-edge:tcp/22", false, "\"priv-git-ssh\""),
        ("git-ssh lbmt-shop:tcp/443", false, "git-ssh"),
        ("lbmt-weblog lbmt-shop:tcp/80", false, "\"pub-lbmt-weblog\""),
        ("lbmt-shop-backup lbmt-shop", false, "lbmt-shop-backup"),
        ("git-ssh outside:tcp/443", false, "git-ssh"),
    ] {
        let answer = ask(&parsed(text), words);
        assert_eq!(answer.allowed, allowed, "{words}: {answer:?}");
        let found = answer.line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default();
        assert!(found.contains(line), "{words}: {answer:?} is at {found}");
    }
}

#[test]
fn the_readme_asks_and_answers_as_the_program_does() {
    let readme = include_str!("../../README.md");
    let pluto = parsed(include_str!("../../topology/pluto.toml"));
    let rows: Vec<_> =
        readme.lines().filter_map(|line| line.strip_prefix("| `wire why ")?.strip_suffix(" |")).collect();
    assert!(rows.iter().filter(|row| row.contains(" | denied | ")).count() > 1, "the table of questions is gone");
    for row in rows.iter().filter(|row| row.contains(" | allowed | ") || row.contains(" | denied | ")) {
        let [question, verdict, reason] = row.split(" | ").collect::<Vec<_>>().try_into().unwrap();
        let answer = ask(&pluto, question.trim_end_matches('`'));
        assert_eq!(
            (if answer.allowed { "allowed" } else { "denied" }, answer.reason.as_str()),
            (verdict, reason),
            "{row}"
        );
    }

    let walk = readme.split("```toml\n").find(|block| block.starts_with("version = 1")).unwrap();
    let walk = parsed(walk.split("```").next().unwrap());
    assert!(ask(&walk, "proxy web:tcp/80").allowed);
    assert!(!ask(&walk, "web proxy").allowed);
}
