//! While rules come, change and go: nothing that is denied passes, not for a moment, and nothing that is allowed is held up.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::host::{Host, TOPOLOGY, WIRE, until};
use crate::packet::{Injector, PATIENCE, Packet, TAG, is_root, udp};

/// The flows of a small house, few and more of them: from one to the other every namespace gets other rules.
const FEW: [&str; 2] = [r#"publish = ["udp/82"]"#, r#"allow = ["udp/80"]"#];
const MORE: [&str; 2] =
    [r#"publish = ["udp/82-89", "tcp/80"]"#, r#"allow = ["tcp/80", "udp/80-89"], allow-back = ["udp/443"]"#];

/// A hub with a client and a leaf.
fn house([published, allowed]: [&str; 2]) -> String {
    format!(
        r#"
version = 1
runtime = "netns"
wire = [
  {{ name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", {published} }},
  {{ name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", {allowed} }},
]
[host]
uplinks = ["eth0"]
[module]
rooms = ["edge", "web"]
[hub.edge]
zone = "public"
clients = {{ prefix = "10.100.0.0/24", device = "wg0" }}
"#
    )
}

const TUNNEL: &str = "
set -e
ip netns add phone
ip link add wg0 netns edge type veth peer name wg0 netns phone
ip -n edge address add 10.100.0.1/24 dev wg0
ip -n phone address add 10.100.0.2/24 dev wg0
ip -n edge link set wg0 up
ip -n phone link set wg0 up
";

/// Of neither file. What goes to this port is denied where it begins or, from beyond, where it comes by first.
const CLOSED: u16 = 9999;
/// Nor this one. What goes to it is put on a wire past the rules of its own end, and is denied at the other.
const FORGED: u16 = 9998;
/// And the one that is published, which from outside is to be had only by the host's own address.
const PORTS: [u16; 3] = [CLOSED, FORGED, 82];

/// The hosts of a flood: who sends, who listens, and who looks on.
struct Flooded {
    host: Host,
    outside: [(Injector, Packet); 2],
    asking: [(UdpSocket, &'static str); 2],
    listening: Vec<(&'static str, u16, UdpSocket)>,
    sent: u64,
}

/// Counts what arrives at a namespace, whether its rules let it in or not.
const ARRIVES: &str = "
table inet post {
    chain prerouting { type filter hook prerouting priority -310; iifname != wg0 udp dport { 82, 9999 } counter; }
}
";

impl Flooded {
    fn new() -> Option<Flooded> {
        if !is_root() {
            return None;
        }
        let host = Host::with(&["edge", "web"], &house(FEW));
        host.sh(TUNNEL);
        host.write("/run/few", &house(FEW));
        host.write("/run/more", &house(MORE));
        host.write("/run/arrives", ARRIVES);
        let inject = |node, device, far| Injector::at(&host, node, device, far);
        let outside = [
            (inject("lan", "eth0", "192.0.2.2"), udp("192.0.2.1", "192.168.100.1", 82)),
            (inject("phone", "wg0", "10.100.0.1"), udp("10.100.0.2", "172.16.1.1", CLOSED)),
        ];
        let asking = [("edge", "172.16.1.1"), ("web", "172.16.1.0")];
        let asking = asking.map(|(node, to)| (bind(&host, node, 0), to));
        let all = ["host", "edge", "web", "lan"].into_iter();
        let listening = all.flat_map(|node| PORTS.map(|port| (node, port, bind(&host, node, port))));
        let listening = listening.collect();
        for node in ["edge", "web"] {
            host.run(node, &["nft", "-f", "/run/arrives"]).expect(0);
        }
        Some(Flooded { host, outside, asking, listening, sent: 0 })
    }

    /// Does something while everybody sends who can, in turn and as fast as it goes: what comes from outside, what processes ask
    /// for, and, where the wires are there to stay, what is forged at their ends.
    #[track_caller]
    fn during(&mut self, forged: &[(Injector, Packet)], work: impl FnOnce(&Host)) {
        let (stop, mut sent) = (AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    for (from, packet) in self.outside.iter().chain(forged) {
                        from.send(packet);
                        sent += 1;
                    }
                    for (socket, to) in &self.asking {
                        // Without a wire there is no way, which does not count.
                        let result = socket.send_to(TAG, (*to, CLOSED)).map_err(|error| error.kind());
                        sent += u64::from(matches!(result, Ok(_) | Err(ErrorKind::PermissionDenied)));
                    }
                }
                sent
            });
            let done = catch_unwind(AssertUnwindSafe(|| work(&self.host)));
            stop.store(true, Ordering::Relaxed);
            sent = flood.join().expect("the flood goes on to the end");
            done.unwrap_or_else(|panic| resume_unwind(panic));
        });
        self.sent += sent;
    }

    /// Nothing has come through to anybody.
    #[track_caller]
    fn nothing_is_delivered(&self, when: &str, ports: &[u16]) {
        for (node, port, socket) in self.listening.iter().filter(|(_, port, _)| ports.contains(port)) {
            let error = socket.recv(&mut [0; 64]).map(|_| ()).map_err(|error| error.kind());
            assert_eq!(error, Err(ErrorKind::WouldBlock), "{when}: {node} hears something at {port}");
        }
    }

    /// Nothing has even left the first namespace that had to deny it.
    #[track_caller]
    fn nothing_arrives(&self, when: &str) {
        for node in ["edge", "web"] {
            let listing = self.host.run(node, &["nft", "list", "chain", "inet", "post", "prerouting"]).expect(0).stdout;
            assert!(listing.contains("counter packets 0 "), "{when}: something arrives at {node}: {listing}");
        }
        self.nothing_is_delivered(when, &PORTS);
    }
}

fn bind(host: &Host, node: &str, port: u16) -> UdpSocket {
    let socket = host.at(node, || UdpSocket::bind(("0.0.0.0", port)).expect("a port"));
    socket.set_nonblocking(true).expect("a socket need not wait");
    socket
}

/// T27, T28, T29: floods that are denied, from outside, from a client, from the processes at both ends of a wire, and forged at its
/// ends, at raw speed: while wires and rules are made for the first time and taken away again, while `up` changes the rules of
/// every namespace a thousand times, and while the rules of one namespace after the other are deleted and come back. More than a
/// million packets, and none is delivered; while no rules are missing, none even leaves the first namespace that must deny it.
///
/// It depends on rules being there before any wire is, on their changing in one go, and on the last rule of each chain being a
/// drop of its own. With the rules of both ends out, it is delivered at once.
#[test]
fn a_denied_flood_never_passes() {
    let Some(mut flooded) = Flooded::new() else { return };
    let wire = format!("{WIRE} -q -f {TOPOLOGY}");
    flooded.during(&[], |host| {
        host.sh(&format!("set -e; for i in $(seq 25); do {wire} up; {wire} down; done; {wire} up"));
    });
    flooded.nothing_arrives("while wires come and go");

    let inject = |node, device, far| Injector::at(&flooded.host, node, device, far);
    let forged = [
        (inject("edge", "edge-web", "172.16.1.1"), udp("172.16.1.0", "172.16.1.1", FORGED)),
        (inject("web", "eth0", "172.16.1.0"), udp("172.16.1.1", "172.16.1.0", FORGED)),
        (inject("edge", "host-edge", "192.168.100.0"), udp("192.168.100.1", "192.0.2.1", FORGED)),
    ];
    flooded.during(&forged, |host| {
        host.sh(&format!(
            "set -e
             for i in $(seq 500); do
                 for file in more few; do
                     cp /run/$file {TOPOLOGY}
                     did=$({wire} --json up)
                     case $did in *action*) ;; *) exit 9 ;; esac
                 done
             done"
        ));
    });
    flooded.nothing_arrives("while rules change");

    flooded.during(&[], |host| {
        host.sh(&format!(
            "set -e
             for i in $(seq 20); do
                 nft delete table inet wire; {wire} up
                 for node in edge web; do nsenter --net=/run/netns/$node nft delete table inet wire; {wire} up; done
             done"
        ));
    });
    // Whether somebody outside asked for what is published, only the host can tell.
    flooded.nothing_is_delivered("while rules are deleted and come back", &PORTS[..2]);
    assert!(flooded.sent > 1_000_000, "{} packets were sent", flooded.sent);

    for node in ["edge", "web"] {
        flooded.host.run(node, &["nft", "delete", "table", "inet", "wire"]).expect(0);
    }
    let heard = || {
        let listening = flooded.listening.iter().filter(|(node, ..)| *node == "web");
        listening.filter(|(_, _, socket)| socket.recv(&mut [0; 64]).is_ok()).count() > 0
    };
    let start = Instant::now();
    while !heard() {
        assert!(start.elapsed() < PATIENCE, "without any rules it passes");
        flooded.asking[0].0.send_to(TAG, (flooded.asking[0].1, CLOSED)).expect("nobody denies it");
    }
}

/// T28: a chain whose policy alone denies lets packets pass in the moment in which it is made anew. So the chains that packets enter
/// by are made once: `up` changes all their rules, and they are the same chains as before, by the kernel's own number for each; and
/// each ends in a drop of its own.
#[test]
fn the_chains_that_packets_enter_by_stay() {
    if !is_root() {
        return;
    }
    let host = Host::with(&["edge", "web"], &house(FEW));
    host.wire(&["up"]).expect(0);
    let chains = || {
        let mut chains = BTreeMap::new();
        for node in ["host", "edge", "web"] {
            let listing = host.run(node, &["nft", "-j", "list", "table", "inet", "wire"]).expect(0).json();
            let all = listing["nftables"].as_array().expect("a list").clone();
            for chain in all.iter().map(|object| &object["chain"]).filter(|chain| chain["hook"].is_string()) {
                let last = all.iter().map(|object| &object["rule"]).rfind(|rule| rule["chain"] == chain["name"]);
                let last = last.map(|rule| rule["expr"].as_array().and_then(|all| all.last()).cloned());
                let drops = last.flatten().is_some_and(|last| last.get("drop").is_some());
                assert!(drops || chain["type"] == "nat", "{chain} at {node} does not end in a drop");
                chains.insert(format!("{node} {}", chain["name"]), chain["handle"].clone());
            }
        }
        chains
    };
    let before: BTreeMap<String, Value> = chains();
    assert_eq!(before.keys().filter(|chain| chain.contains("forward")).count(), 3, "{before:?}");
    for flows in [MORE, FEW, MORE] {
        host.topology(&house(flows));
        host.wire(&["up"]).expect(0);
        assert_eq!(chains(), before);
    }
}

/// A house of talk: a leaf that changes, and a wire of its own for it.
fn talking(shop: &str, more: &str) -> String {
    format!(
        r#"
version = 1
runtime = "netns"
wire = [
  {{ name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80"{more}] }},
  {{ name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", allow = ["tcp/80"{more}] }},
  {{ name = "web-db", ends = ["web", "db"], subnet = "10.254.1.0/31", allow = ["tcp/80"] }},
  {{ name = "edge-shop", ends = ["edge", "shop"], subnet = "172.16.2.0/31", allow = [{shop}] }},
]
[host]
uplinks = ["eth0"]
[module]
rooms = ["edge", "web", "db", "shop"]
[hub.edge]
zone = "public"
"#
    )
}

/// A word every so often on each of these connections, until told to stop. Returns the longest silence that any reader heard, once
/// every byte of every writer has come, and its writer has hung up as he should.
fn steady(talks: &[(TcpStream, TcpStream)], stop: &AtomicBool) -> Duration {
    const OFTEN: Duration = Duration::from_millis(10);
    std::thread::scope(|scope| {
        let mut gaps = Vec::new();
        for (near, far) in talks {
            let written = scope.spawn(move || {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    (&*near).write_all(b"word").expect("nobody cuts it");
                    written += 4;
                    std::thread::sleep(OFTEN);
                }
                near.shutdown(std::net::Shutdown::Write).expect("it is still there");
                written
            });
            gaps.push(scope.spawn(move || {
                let (mut longest, mut last, mut read, mut buffer) = (Duration::ZERO, Instant::now(), 0, [0; 4096]);
                loop {
                    let length = (&*far).read(&mut buffer).expect("nobody cuts it");
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                    read += length;
                    if length == 0 {
                        assert_eq!(read, written.join().expect("a writer"));
                        return longest;
                    }
                }
            }));
        }
        gaps.into_iter().map(|gap| gap.join().expect("a reader")).max().unwrap_or_default()
    })
}

fn connect(host: &Host, from: &str, dialled: &str, to: &str, served: &str) -> (TcpStream, TcpStream) {
    // A program that another test starts just now has the last listener until it is itself.
    let mut listener = None;
    until("the port is free", || {
        listener = host.at(to, || TcpListener::bind(served).ok());
        listener.is_some()
    });
    let listener = listener.expect("a listener");
    let near = host.at(from, || TcpStream::connect(dialled).expect(dialled));
    near.set_nodelay(true).expect("a socket need not wait");
    let far = listener.accept().expect("a connection").0;
    far.set_read_timeout(Some(PATIENCE)).expect("a socket may wait");
    (near, far)
}

/// T32: fifty connections, between leaves, from hub to leaf, and from outside to what is published, talk on while `up` runs two
/// hundred times: with nothing to do, with a change to another wire, with flows added to and taken from their own. None is cut, no
/// word is lost, and none is held up for more than 200 ms longer than connections are beside it that no rule of `wire`'s sees.
#[test]
fn long_connections_do_not_notice() {
    if !is_root() {
        return;
    }
    let host = Host::with(&["edge", "web", "db", "shop", "other"], &talking(r#""udp/80""#, ""));
    host.sh("set -e
         ip link add eth9 netns lan type veth peer name eth9 netns other
         ip -n lan address add 203.0.113.0/31 dev eth9
         ip -n other address add 203.0.113.1/31 dev eth9
         ip -n lan link set eth9 up
         ip -n other link set eth9 up");
    host.wire(&["up"]).expect(0);
    let of_house = [
        ("edge", "172.16.1.1:80", "web", "172.16.1.1:80", 20),
        ("web", "10.254.1.1:80", "db", "10.254.1.1:80", 15),
        ("lan", "192.0.2.2:80", "edge", "192.168.100.1:80", 15),
    ];
    let all = |(from, dialled, to, served, count)| {
        let host = &host;
        (0..count).map(move |_| connect(host, from, dialled, to, served))
    };
    let talks: Vec<_> = of_house.into_iter().flat_map(all).collect();
    assert_eq!(talks.len(), 50);
    let beside: Vec<_> = all(("lan", "203.0.113.1:80", "other", "203.0.113.1:80", 10)).collect();
    let files = [
        talking(r#""udp/80""#, ""),
        talking(r#""udp/80", "tcp/443""#, ""),
        talking(r#""udp/81""#, r#", "udp/80""#),
        talking(r#""udp/80""#, r#", "udp/80", "tcp/81""#),
    ];
    let stop = AtomicBool::new(false);
    let denied = || {
        let audit = host.wire(&["--json", "audit"]).expect(0).json();
        let wires = audit["wires"].as_array().expect("wires").iter();
        wires.map(|wire| wire["denied"].as_u64().expect("a count")).sum::<u64>()
    };
    let before = denied();
    let (noticed, usual) = std::thread::scope(|scope| {
        let (of_house, beside) = (scope.spawn(|| steady(&talks, &stop)), scope.spawn(|| steady(&beside, &stop)));
        let done = catch_unwind(AssertUnwindSafe(|| {
            for round in 0..200 {
                host.topology(&files[round / 2 % files.len()]);
                let did = host.wire(&["--json", "up"]).expect(0).json();
                let idle = did["done"].as_array().is_some_and(Vec::is_empty);
                assert_eq!(idle, round % 2 == 1 || round == 0, "{did:#}");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic));
        (of_house.join().expect("fifty"), beside.join().expect("ten"))
    });
    assert_eq!(denied(), before, "none of their packets is denied");
    assert!(noticed <= usual + Duration::from_millis(200), "silent for {noticed:?}; without rules, for {usual:?}");
}
