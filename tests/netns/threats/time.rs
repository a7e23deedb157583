//! T30 to T33: what somebody else does to the rules, and what was there before them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::{HOUSE, House};
use crate::host::text;
use crate::packet::{Injector, TAG, UDP, udp, udp_from};
use crate::repair::deviation;

/// T30: something on the host flushes all rules there, as reloads of other firewalls do; then the same in a leaf. The far ends
/// still deny, nothing of a wire is handed in any more, `audit` says so, `up` puts all back.
///
/// It depends on every wire having rules at both ends: with those of the far end out as well, it passes.
#[test]
fn t30_a_flush_by_others() {
    let Some(house) = House::up() else { return };
    let (ears, lan) = (["edge", "mail"].map(|node| house.ear(node, UDP)), house.lan());
    let others = [("host-edge", "192.168.100.1", [22, 81, 443]), ("host-mail", "192.168.102.1", [22, 80, 443])];
    let packets = others.map(|(wire, to, ports)| (wire, ports.map(|port| udp("192.0.2.1", to, port))));
    house.passes(&lan, &udp("192.0.2.1", "192.0.2.2", 80), &ears[0]);
    house.nft("host", "flush ruleset");
    for (wire, packets) in &packets {
        house.denies(wire, &lan, packets, &ears.each_ref());
    }
    let audit = house.host.wire(&["--json", "audit"]).expect(3).json();
    deviation(&audit, "host", "", "rules");
    // What was published is the host's own affair now, and nobody's at the hub.
    let at_host = house.ear("host", UDP);
    house.passes(&lan, &udp_from(4243, "192.0.2.1", "192.0.2.2", 80), &at_host);
    assert!(ears[0].heard().is_empty());
    house.open("edge", "in.host-edge");
    packets[0].1.iter().for_each(|packet| house.passes(&lan, packet, &ears[0]));
    house.mended();
    house.passes(&lan, &udp_from(4244, "192.0.2.1", "192.0.2.2", 80), &ears[0]);
    assert!(at_host.heard().is_empty());
    for (wire, packets) in &packets {
        house.denies(wire, &lan, packets, &ears.each_ref());
    }

    house.nft("web", "flush ruleset");
    let at_web = house.ear("web", UDP);
    let before = house.denied("edge-web");
    let socket = house.host.at("edge", || UdpSocket::bind("172.16.1.0:0").expect("an address of its own"));
    let refused = socket.send_to(TAG, "172.16.1.1:22").expect_err("the hub's own rules deny it");
    assert_eq!((refused.kind(), house.denied("edge-web")), (ErrorKind::PermissionDenied, before + 1));
    house.denies("edge-web", &house.from("web", "edge-web"), &[udp("172.16.1.1", "172.16.1.0", 22)], &[&ears[0]]);
    assert!(at_web.heard().is_empty());
    house.mended();
}

/// A connection by TCP, or a conversation by UDP, of two processes.
pub enum Talk {
    Tcp(TcpStream, TcpStream),
    Udp(UdpSocket, UdpSocket, SocketAddr),
}

const SECOND: Duration = Duration::from_secs(1);

impl Talk {
    /// By TCP, from a node to an address of another, as it is dialled and as it is served.
    pub fn tcp(house: &House, from: &str, dialled: &str, to: &str, served: &str) -> Talk {
        let listener = house.host.at(to, || TcpListener::bind(served).expect(served));
        let near = house.host.at(from, || TcpStream::connect(dialled).expect(dialled));
        let (far, _) = listener.accept().expect("a connection");
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(SECOND)).expect("a socket may wait");
            stream.set_nodelay(true).expect("a socket need not wait");
        }
        Talk::Tcp(near, far).begun()
    }

    pub fn udp(house: &House, from: &str, dialled: &str, to: &str, served: &str) -> Talk {
        let bind = |node, address| house.host.at(node, || UdpSocket::bind(address).expect("a port"));
        let (near, far) = (bind(from, "0.0.0.0:0"), bind(to, served));
        near.connect(dialled).expect("an address");
        near.send(b"hello").expect("it may be sent");
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(SECOND)).expect("a socket may wait");
        }
        let (_, client) = far.recv_from(&mut [0; 8]).expect("it arrives");
        Talk::Udp(near, far, client).begun()
    }

    fn begun(self) -> Talk {
        assert!(self.goes_on(), "it goes both ways");
        self
    }

    /// Whether it goes on both ways, on however busy a machine.
    pub fn goes_on(&self) -> bool {
        (0..10).any(|_| self.heard() == [true, true])
    }

    /// Whether a word sent now arrives within a second, there and back.
    pub fn heard(&self) -> [bool; 2] {
        let mut buffer = [0; 8];
        let arrived = |result: std::io::Result<usize>| match result {
            Ok(length) => length > 0,
            Err(error) => {
                let silent = [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind());
                assert!(silent, "not silence, but: {error}");
                false
            }
        };
        match self {
            Talk::Tcp(near, far) => [(near, far), (far, near)]
                .map(|(mut from, mut to)| from.write(b"word").is_ok() && arrived(to.read(&mut buffer))),
            Talk::Udp(near, far, client) => [
                near.send(b"word").is_ok() && arrived(far.recv(&mut buffer)),
                far.send_to(b"word", *client).is_ok() && arrived(near.recv(&mut buffer)),
            ],
        }
    }
}

/// What a namespace remembers of connections to a port.
fn remembered(house: &House, node: &str, port: u16) -> Vec<String> {
    let all = house.host.at(node, || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    let all = all.expect("this kernel lists its connections (CONFIG_NF_CONNTRACK_PROCFS)");
    all.lines().filter(|line| line.contains(&format!("dport={port} "))).map(str::to_owned).collect()
}

/// T31: established connections by TCP and UDP: over a wire between leaves, of a hub to a leaf in two flows of one wire, a
/// published one, one handed on by a hub, one of a leaf to the outside. One after the other their flows are struck from the file:
/// with each `up` exactly its own connections end, within a second, in both directions and in every namespace they passed; the
/// others go on. Flows that are added end none.
///
/// It depends on connections being forgotten that no rule lets begin: a change of rules alone leaves them.
#[test]
fn t31_connections_of_struck_flows() {
    let flows = |flows: &str| {
        HOUSE.replace(
            r#"allow = ["udp/80"], allow-back = ["udp/443"] },
  { name = "edge-shop""#,
            &format!(
                r#"allow = [{flows}], allow-back = ["udp/443"] }},
  {{ name = "edge-shop""#
            ),
        )
    };
    let all = flows(r#""tcp/80", "udp/80", "tcp/81", "udp/81""#);
    assert_ne!(all, HOUSE);
    let Some(house) = House::of(&all) else { return };
    let mut talks = vec![
        ("tcp/80", Talk::tcp(&house, "edge", "172.16.1.1:80", "web", "172.16.1.1:80")),
        ("udp/80", Talk::udp(&house, "edge", "172.16.1.1:80", "web", "172.16.1.1:80")),
        ("tcp/81", Talk::tcp(&house, "edge", "172.16.1.1:81", "web", "172.16.1.1:81")),
        ("udp/81", Talk::udp(&house, "edge", "172.16.1.1:81", "web", "172.16.1.1:81")),
        ("back", Talk::udp(&house, "web", "172.16.1.0:443", "edge", "172.16.1.0:443")),
        ("db", Talk::udp(&house, "web", "10.254.1.1:5432", "db", "10.254.1.1:5432")),
        ("published", Talk::udp(&house, "lan", "192.0.2.25:25", "mail", "192.168.102.1:25")),
        ("forward", Talk::udp(&house, "lan", "192.0.2.2:7777", "shop", "172.16.2.1:7777")),
        ("egress", Talk::udp(&house, "shop", "192.0.2.1:53", "lan", "192.0.2.1:53")),
        ("git", Talk::tcp(&house, "vpn", "10.1.1.1:22", "git", "10.1.1.1:22")),
    ];
    let without = |text: &str, words: &str, instead: &str| {
        assert!(text.contains(words), "{words}");
        text.replace(words, instead)
    };
    // What is struck, what ends, and where it was remembered by which port.
    let one = flows(r#""udp/80", "tcp/81", "udp/81""#);
    let two = flows(r#""tcp/81", "udp/81""#);
    let three = without(&two, r#", publish = [{ flow = "udp/25", address = "192.0.2.25" }]"#, "");
    let four = without(&three, "[[hub.edge.forward]]\nport = \"udp/7777\"\nto = \"shop:7777\"\n", "");
    let five = without(&four, r#"egress = [{ flow = "udp/53", to = "192.0.2.1" }]"#, "");
    let six = without(&five, r#", allow = ["udp/5432"]"#, "");
    let steps = [
        (flows(r#""tcp/79-82", "udp/79-82", "tcp/8080""#), "", &[][..]),
        (one, "tcp/80", &[]),
        (two, "udp/80", &[("edge", 80), ("web", 80)]),
        (three, "published", &[("host", 25), ("mail", 25)]),
        (four, "forward", &[("host", 7777), ("edge", 7777), ("shop", 7777)]),
        (five, "egress", &[("host", 53), ("edge", 53), ("shop", 53)]),
        (six, "db", &[("web", 5432), ("db", 5432)]),
    ];
    for (topology, ends, places) in steps {
        for (node, port) in places {
            assert!(!remembered(&house, node, *port).is_empty(), "{node} remembers {port}");
        }
        house.host.topology(&topology);
        house.wire_up();
        for (node, port) in places {
            assert_eq!(remembered(&house, node, *port), [""; 0], "{ends}: {node} forgets {port}");
        }
        let mut left = Vec::new();
        for (name, talk) in talks {
            if name == ends {
                assert_eq!(talk.heard(), [false, false], "{name} ends");
                continue;
            }
            assert!(talk.goes_on(), "{name} goes on without {ends}");
            left.push((name, talk));
        }
        talks = left;
    }
    assert_eq!(talks.len(), 4, "those that nobody struck");

    // A table that changes by nobody's leave keeps them.
    let git = talks.pop().expect("the last one").1;
    house.take_out("vpn", "out.vpn-git", "tcp dport 22");
    house.take_out("git", "in.vpn-git", "tcp dport 22");
    assert!(git.goes_on(), "rules alone do not end what is established");
}

/// T33: a leaf takes its wire down. In the hub appears a device with the name of the wire's end, which leads to somebody else, who
/// sends as himself and as the leaf. He gets nothing: the address that he would be answered from went with the wire. `audit`
/// names him and `up` leaves him alone.
///
/// It depends on rules being bound to names, and to addresses on both sides as well: no rule goes by a device's number, which
/// would be another's, or nobody's, by now.
#[test]
fn t33_a_name_used_again() {
    let Some(house) = House::up() else { return };
    for node in ["host", "edge", "vpn", "web", "shop", "git", "db", "mail"] {
        let rules = house.host.run(node, &["nft", "list", "table", "inet", "wire"]).expect(0).stdout;
        let by_number = rules.lines().find(|line| line.contains("iif ") || line.contains("oif "));
        assert_eq!(by_number, None, "at {node}");
    }
    house.host.sh("set -e
         ip -n web link del eth0
         ip netns add evil
         ip link add edge-web netns edge type veth peer name eth0 netns evil
         ip -n edge link set edge-web addrgenmode none
         ip -n evil link set eth0 addrgenmode none
         ip -n evil address add 172.16.1.1/31 dev eth0
         ip -n evil link set eth0 up
         ip -n edge link set edge-web up
         ip -n edge address add 198.51.100.1/24 dev edge-web
         ip -n evil address add 198.51.100.2/24 dev eth0");
    let evil = Injector::at(&house.host, "evil", "eth0", "198.51.100.1");
    let ear = house.ear("edge", UDP);
    let strangers = [("198.51.100.2", "198.51.100.1"), ("172.16.2.1", "172.16.2.0"), ("172.16.1.1", "198.51.100.1")];
    house.set("edge", "edge-web", "ipv4/conf/{}/rp_filter", "0");
    let packets = strangers.map(|(from, to)| udp(from, to, 443));
    house.denies("edge-web", &evil, &packets, &[&ear]);
    house.denies("edge-web", &evil, &[udp("198.51.100.2", "192.168.100.1", 80)], &[&ear]);
    evil.send(&udp("172.16.1.1", "172.16.1.0", 443));
    house.denies("edge-web", &evil, &packets, &[&ear]);
    let audit = house.host.wire(&["--json", "audit"]).expect(3).json();
    let named = text(&deviation(&audit, "edge", "edge-web", "taken")["message"]);
    assert!(named.contains("edge-web"), "{named}");
    let index = house.host.link("edge", "edge-web")["ifindex"].clone();
    house.host.wire(&["up"]).expect(1);
    assert_eq!(house.host.link("edge", "edge-web")["ifindex"], index);

    house.open("edge", "in.edge-web");
    house.take_out("edge", "in.edge-web", "ip daddr !=");
    house.take_out("edge", "in.edge-web", "ip saddr !=");
    house.passes(&evil, &packets[0], &ear);
    house.host.sh("ip -n edge link del edge-web");
    house.mended();
}
