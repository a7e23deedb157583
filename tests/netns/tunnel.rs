//! The VPN: a hub whose tunnel `wire-hub` serves, and clients outside that are another program, wireguard-go.
//!
//! - T8, a peer in another's name: `a_peer_has_its_own_address_alone`.
//! - T19, a peer to another: `peers_reach_each_other_only_if_the_file_says_so`.
//! - T20, a peer where it may not go, whatever it sets as AllowedIPs: `a_peer_reaches_what_it_may_and_nothing_else`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::host::{Host, Running, TOPOLOGY, WIRE, until};

/// Where the hub is asked.
const SOCKET: &str = "/run/wire/hub/vpn.sock";
/// It stays, and does not say that it would rather that the kernel did it.
const QUIET: &str = "WG_PROCESS_FOREGROUND=1";
/// How long anything may take. A client asks for a handshake again after 5 s, and takes 15 to find that nobody answers.
const PATIENCE: Duration = Duration::from_secs(45);

const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-vpn", ends = ["host", "vpn"],  subnet = "192.168.101.0/31" },
  { name = "vpn-git",  ends = ["vpn", "git"],   subnet = "10.1.1.0/31", allow = ["tcp/22", "icmp/echo-request"] },
  { name = "vpn-wiki", ends = ["vpn", "wiki"],  subnet = "10.1.2.0/31", allow = ["tcp/80"] },
  { name = "git-db",   ends = ["git", "db"],    subnet = "10.254.1.0/31", allow = ["tcp/5432"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["vpn"]
rooms = ["git", "wiki", "db"]

[hub.vpn]
zone = "private"
clients = { prefix = "10.100.0.0/24", device = "wg0" }

[hub.vpn.wireguard]
listen = 51820
endpoint = "192.0.2.2:51820"
private-key = "/run/keys/vpn"
isolate = true

[[hub.vpn.wireguard.peer]]
name = "laptop"
public-key = "LAPTOP"
address = "10.100.0.2"
allow = ["git"]

[[hub.vpn.wireguard.peer]]
name = "phone"
public-key = "PHONE"
address = "10.100.0.3"
allow = ["vpn-wiki"]
"#;

/// The outside: what the host takes for its LAN leads on to both clients.
const OUTSIDE: &str = r#"
set -e
mkdir -p /run/keys
n=1
for client in laptop phone; do
  ip netns add $client
  ip link add to-$client netns lan type veth peer name eth0 netns $client
  ip -n lan address add 198.51.$((100 + n)).1/24 dev to-$client
  ip -n lan link set to-$client up
  ip -n $client address add 198.51.$((100 + n)).2/24 dev eth0
  ip -n $client link set lo up
  ip -n $client link set eth0 up
  ip -n $client route add default via 198.51.$((100 + n)).1
  n=$((n + 1))
done
nsenter --net=/run/netns/lan sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
"#;

/// What tells a namespace from every other one: `SO_NETNS_COOKIE` of asm-generic/socket.h.
const COOKIE: &str = "import socket, sys
print(int.from_bytes(socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder))";

/// The keys of somebody.
#[derive(Clone)]
struct Keys {
    private: String,
    public: String,
}

/// A house with a tunnel that is served.
struct Vpn {
    host: Host,
    hub: Option<Running>,
    keys: [Keys; 3],
    /// As the hub was told last.
    orders: Value,
    _clients: Vec<Running>,
}

impl Vpn {
    /// As the file has it.
    fn up() -> Vpn {
        Vpn::of(HOUSE)
    }

    fn of(house: &str) -> Vpn {
        let host = Host::with(&["git", "wiki", "db"], "");
        host.sh(OUTSIDE);
        let keys = ["vpn", "laptop", "phone"].map(|_| keys(&host));
        host.topology(&house.replace("LAPTOP", &keys[1].public).replace("PHONE", &keys[2].public));
        host.write("/run/keys/vpn", &keys[0].private);
        host.sh("chmod 700 /run/keys; chmod 600 /run/keys/vpn");
        host.wire(&["up"]).expect(0);
        let orders = json!({
            "hub": "vpn",
            "namespace": host.run("vpn", &["python3", "-c", COOKIE]).expect(0).json(),
            "tunnel": {
                "device": "wg0",
                "listen": 51820,
                "private-key": keys[0].private,
                "peers": [
                    { "name": "laptop", "public-key": keys[1].public, "preshared-key": null, "address": "10.100.0.2" },
                    { "name": "phone", "public-key": keys[2].public, "preshared-key": null, "address": "10.100.0.3" },
                ],
            },
            "proxy": null,
        });
        let mut vpn = Vpn { host, hub: None, keys, orders, _clients: Vec::new() };
        vpn.serve();
        for (number, client) in ["laptop", "phone"].into_iter().enumerate() {
            let running = vpn.dial(client, &vpn.keys[number + 1], &format!("10.100.0.{}", number + 2));
            vpn._clients.push(running);
        }
        vpn
    }

    /// Starts the hub.
    fn serve(&mut self) {
        self.hub = None;
        let script = format!("exec {WIRE} -f {TOPOLOGY} hub vpn 2>>/run/vpn.log");
        let mut command = self.host.command("host", &["setpriv", "--pdeathsig", "KILL", "sh", "-c", &script]);
        self.hub = Some(Running(command.stdout(Stdio::null()).spawn().expect("it starts")));
        until("the hub answers", || UnixStream::connect(self.host.path(SOCKET)).is_ok());
        assert!(self.ask(&json!("likeness"))["likeness"].is_u64(), "{}", self.said());
    }

    /// What the hub has said.
    fn said(&self) -> String {
        std::fs::read_to_string(self.host.path("/run/vpn.log")).unwrap_or_default()
    }

    fn ask(&self, ask: &Value) -> Value {
        let mut socket = UnixStream::connect(self.host.path(SOCKET)).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        writeln!(socket, "{ask}").expect("it listens");
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("`{line}`: {}", self.said()))
    }

    /// Tells the hub to serve other peers from now on.
    #[track_caller]
    fn peers(&mut self, peers: Value) {
        self.orders["tunnel"]["peers"] = peers;
        assert_eq!(self.ask(&json!({ "serve": self.orders })), json!("done"));
    }

    fn wanted(&self) -> Value {
        self.orders["tunnel"]["peers"].clone()
    }

    /// What is known of a client.
    fn seen(&self, client: usize) -> Value {
        let peers = self.ask(&json!("peers"));
        let peers = peers["peers"].as_array().expect("peers").clone();
        let seen = peers.into_iter().find(|peer| peer["public-key"] == self.keys[client].public.as_str());
        seen.unwrap_or(Value::Null)
    }

    /// A client that sends everything by its tunnel.
    fn dial(&self, client: &str, keys: &Keys, address: &str) -> Running {
        let device = format!("wg-{client}");
        let running = self.host.start(client, &["env", QUIET, "wireguard-go", &device]);
        until("wireguard-go is there", || self.host.path(&format!("/run/wireguard/{device}.sock")).exists());
        let hub = &self.keys[0].public;
        let conf = format!(
            "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {hub}\nAllowedIPs = 0.0.0.0/0\n\
             Endpoint = 192.0.2.2:51820\nPersistentKeepalive = 1\n",
            keys.private
        );
        self.host.write(&format!("/run/{device}.conf"), &conf);
        let script = format!(
            "set -e; ip -n {client} route add 192.0.2.2 via $(ip -n {client} route show default | cut -d' ' -f3)\n\
             wg setconf {device} /run/{device}.conf; rm /run/{device}.conf\n\
             ip -n {client} address add {address}/32 dev {device}; ip -n {client} link set {device} mtu 1420 up\n\
             for net in 10.0.0.0/8 192.168.0.0/16 192.0.2.0/25; do ip -n {client} route add $net dev {device}; done"
        );
        self.host.sh(&script);
        running
    }

    /// The packets that have come out of the tunnel.
    fn came_out(&self) -> u64 {
        let link = self.host.ip("vpn", &["-s", "link", "show", "dev", "wg0"]);
        link[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
    }

    /// Whether a connection that a client begins arrives at once.
    fn arrives(&self, client: &str, address: &str, port: u16) -> bool {
        let output = self.host.run(client, &["busybox", "nc", "-w", "1", address, &port.to_string()]);
        output.stderr.contains("Connection refused")
    }

    /// What the hub's rules have denied of what belongs to no wire.
    fn denied(&self) -> u64 {
        let rules = self.host.run("vpn", &["nft", "list", "table", "inet", "wire"]).expect(0).stdout;
        let packets = rules.lines().filter(|line| line.trim_end().ends_with("drop"));
        let named = rules.split("counter denied.").skip(1).map(|text| text.split('}').next().expect("a counter"));
        let count = |text: &str| text.split_once("packets ")?.1.split(' ').next()?.parse::<u64>().ok();
        packets.filter_map(count).sum::<u64>() + named.filter_map(count).sum::<u64>()
    }
}

fn keys(host: &Host) -> Keys {
    let private = host.sh("wg genkey").trim().to_owned();
    let public = host.sh(&format!("echo {private} | wg pubkey")).trim().to_owned();
    Keys { private, public }
}

const GIT: &str = "10.1.1.1";
const WIKI: &str = "10.1.2.1";

/// Every flow of the wires that a peer may use passes, under its own address, and nothing else: no other leaf, no other port, not the
/// hub, the host or the outside, though the client sends all of that into its tunnel. Each is counted.
#[test]
fn a_peer_reaches_what_it_may_and_nothing_else() {
    let vpn = Vpn::up();
    let host = &vpn.host;
    until("the laptop reaches git", || vpn.arrives("laptop", GIT, 22));
    until("the phone reaches the wiki", || vpn.arrives("phone", WIKI, 80));
    assert!(host.ping("laptop", GIT));
    for (client, address, port) in [
        ("laptop", GIT, 23),
        ("laptop", WIKI, 80),
        ("phone", GIT, 22),
        ("laptop", "10.254.1.1", 5432),
        ("laptop", "10.100.0.1", 22),
        ("laptop", "192.168.101.0", 22),
        ("laptop", "192.0.2.1", 443),
    ] {
        let before = vpn.denied();
        assert!(!vpn.arrives(client, address, port), "{client} reaches {address}:{port}");
        assert!(vpn.denied() > before, "{client} to {address}:{port} is not counted");
    }
    // A client is heard of, under the address that it has outside.
    let seen = vpn.seen(1);
    assert!(seen["endpoint"].as_str().is_some_and(|endpoint| endpoint.starts_with("198.51.101.2:")), "{seen}");
    assert!(seen["last-handshake"].as_u64() > Some(1_700_000_000), "{seen}");
    assert!(seen["rx-bytes"].as_u64() > Some(0) && seen["tx-bytes"].as_u64() > Some(0), "{seen}");
    assert!(!vpn.said().contains("error"), "{}", vpn.said());
}

/// T8: the laptop takes the phone's address, and one that is nobody's. Neither comes out of the tunnel.
#[test]
fn a_peer_has_its_own_address_alone() {
    let vpn = Vpn::up();
    let host = &vpn.host;
    until("the phone reaches the wiki", || vpn.arrives("phone", WIKI, 80));
    until("the laptop reaches git", || vpn.arrives("laptop", GIT, 22));
    for (address, to, port) in [("10.100.0.3", WIKI, 80), ("10.100.0.99", GIT, 22), ("10.1.2.1", GIT, 22)] {
        let received = vpn.seen(1)["rx-bytes"].as_u64();
        host.sh(&format!(
            "set -e; ip -n laptop address add {address}/32 dev wg-laptop\n\
             ip -n laptop route replace 10.0.0.0/8 dev wg-laptop src {address}"
        ));
        let before = vpn.came_out();
        assert!(!vpn.arrives("laptop", to, port), "{address} to {to}:{port}");
        assert_eq!(vpn.came_out(), before, "{address} to {to}:{port} came out of the tunnel");
        assert!(vpn.seen(1)["rx-bytes"].as_u64() > received, "nothing was sent");
        host.sh(&format!(
            "set -e; ip -n laptop route replace 10.0.0.0/8 dev wg-laptop src 10.100.0.2\n\
             ip -n laptop address del {address}/32 dev wg-laptop"
        ));
    }
    assert!(vpn.arrives("laptop", GIT, 22));
}

/// T19: by default a peer does not reach another, and is counted; with `isolate = false` it does.
#[test]
fn peers_reach_each_other_only_if_the_file_says_so() {
    let vpn = Vpn::up();
    until("both are there", || vpn.arrives("laptop", GIT, 22) && vpn.arrives("phone", WIKI, 80));
    let before = vpn.denied();
    assert!(!vpn.host.ping("laptop", "10.100.0.3") && !vpn.arrives("laptop", "10.100.0.3", 22));
    assert!(vpn.denied() > before);
    let file = std::fs::read_to_string(vpn.host.path(TOPOLOGY)).expect("the file");
    vpn.host.topology(&file.replace("isolate = true", "isolate = false"));
    vpn.host.wire(&["up"]).expect(0);
    until("the laptop reaches the phone", || vpn.arrives("laptop", "10.100.0.3", 22));
    assert!(vpn.host.ping("phone", "10.100.0.2"));
}

/// A preshared key is asked for where there is one, and of that peer alone; the wrong one, or none, gets no handshake.
#[test]
fn a_preshared_key_counts_for_its_peer() {
    let mut vpn = Vpn::up();
    until("both are there", || vpn.arrives("laptop", GIT, 22) && vpn.arrives("phone", WIKI, 80));
    let [right, wrong] = [(); 2].map(|()| vpn.host.sh("wg genkey").trim().to_owned());
    let hub = vpn.keys[0].public.clone();
    let mut wanted = vpn.wanted();
    wanted[0]["preshared-key"] = json!(right);
    vpn.peers(wanted);
    let set = |host: &Host, key: &str| {
        host.write("/run/psk", key);
        host.sh(&format!("wg set wg-laptop peer {hub} preshared-key /run/psk; rm /run/psk"));
    };
    assert!(!vpn.arrives("laptop", GIT, 22), "without the key");
    assert!(vpn.arrives("phone", WIKI, 80), "the next peer has none, and needs none");
    let before = vpn.seen(1)["last-handshake"].clone();
    set(&vpn.host, &wrong);
    assert!(!vpn.arrives("laptop", GIT, 22), "with the wrong key");
    assert_eq!(vpn.seen(1)["last-handshake"], before, "a handshake");
    set(&vpn.host, &right);
    until("the laptop is there again", || vpn.arrives("laptop", GIT, 22));
}

/// What passes in bulk, in rows of many packets or one by one, is what was sent, byte for byte, both ways; and so is what is larger
/// than a packet may be.
#[test]
fn what_passes_is_what_was_sent() {
    let vpn = Vpn::up();
    let host = &vpn.host;
    until("the laptop reaches git", || vpn.arrives("laptop", GIT, 22));
    host.sh("head -c 30000000 /dev/urandom >/run/sent");
    // Each ends when the other has, and until then its own side stays open.
    let run = |node: &str, how: &str| host.start(node, &["sh", "-c", &format!("exec busybox nc {how}")]);
    for (there, back, what) in [("</run/sent", ">/run/got", "there"), (">/run/got", "</run/sent", "back")] {
        let mut listener = run("git", &format!("-l -p 22 {back}"));
        let open = || host.run("git", &["ss", "-Hltn", "sport", "=", ":22"]).stdout.contains(":22");
        until("git listens", open);
        let mut client = run("laptop", &format!("{GIT} 22 {there}"));
        for end in [&mut listener, &mut client] {
            assert!(end.0.wait().expect("its end").success(), "{what}");
        }
        host.sh("cmp /run/sent /run/got; rm /run/got");
    }
    for size in ["1", "1392", "1393", "9000"] {
        host.run("laptop", &["busybox", "ping", "-c", "3", "-i", "0.1", "-W", "5", "-s", size, GIT]).expect(0);
    }
}

/// A client that changes its port, or its address, goes on: the hub follows it.
#[test]
fn a_client_may_roam() {
    let vpn = Vpn::up();
    let host = &vpn.host;
    until("the laptop reaches git", || vpn.arrives("laptop", GIT, 22));
    let endpoint = |is: &str| vpn.seen(1)["endpoint"].as_str().is_some_and(|endpoint| endpoint == is);
    host.sh("wg set wg-laptop listen-port 40000");
    until("it is known by its new port", || vpn.arrives("laptop", GIT, 22) && endpoint("198.51.101.2:40000"));
    // It is told to dial again, or it would take its time to find that its old address is gone.
    let hub = &vpn.keys[0].public;
    host.sh(&format!(
        "set -e; ip -n laptop address flush dev eth0; ip -n laptop address add 198.51.101.77/24 dev eth0\n\
         ip -n laptop route add default via 198.51.101.1; ip -n laptop route add 192.0.2.2 via 198.51.101.1\n\
         wg set wg-laptop peer {hub} endpoint 192.0.2.2:51820"
    ));
    until("it is known by its new address", || vpn.arrives("laptop", GIT, 22) && endpoint("198.51.101.77:40000"));
}

/// Peers come, change and go while another's packets pass: not one of those is lost.
#[test]
fn a_change_disturbs_no_other_peer() {
    let mut vpn = Vpn::up();
    until("both are there", || vpn.arrives("laptop", GIT, 22) && vpn.arrives("phone", WIKI, 80));
    let count = 300;
    let mut stream = vpn.host.start("laptop", &["busybox", "ping", "-i", "0.01", "-c", &count.to_string(), GIT]);
    let handshake = vpn.seen(1)["last-handshake"].clone();
    let (both, phone) = (vpn.wanted(), vpn.wanted()[1].clone());
    let mut round = 0;
    while stream.0.try_wait().expect("it is ours").is_none() {
        let mut other = phone.clone();
        match round % 4 {
            0 => other["address"] = json!("10.100.0.77"),
            1 => other["preshared-key"] = json!(vpn.host.sh("wg genkey").trim()),
            2 => other["public-key"] = json!(keys(&vpn.host).public),
            _ => {}
        }
        vpn.peers(match round % 5 {
            0 => json!([both[0]]),
            1 => json!([other, both[0]]),
            _ => json!([both[0], other]),
        });
        round += 1;
    }
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stream.0.stdout.take().expect("a pipe"), &mut said).expect("text");
    assert!(said.contains(&format!("{count} packets received")), "in {round} changes: {said}");
    assert!(round > 20, "{round} changes");
    assert_eq!(vpn.seen(1)["last-handshake"], handshake, "without a new handshake");
    vpn.peers(both);
    until("the phone is there again", || vpn.arrives("phone", WIKI, 80));
}

/// By the commands alone: a peer that is added dials in with what was printed for it once `up` has let it in, while another's packets
/// pass; when it is struck from the file, it is out. `audit` knows who is there.
#[test]
fn a_peer_comes_and_goes_by_the_file() {
    let vpn = Vpn::up();
    let host = &vpn.host;
    until("the laptop reaches git", || vpn.arrives("laptop", GIT, 22));
    let before = std::fs::read_to_string(host.path(TOPOLOGY)).expect("the file");
    let mut stream = host.start("laptop", &["busybox", "ping", "-i", "0.01", "-c", "300", GIT]);
    let conf = host.wire(&["peer", "add", "tablet", "--allow", "git"]).expect(0).stdout;
    host.wire(&["up"]).expect(0);
    let _tablet = host.start("lan", &["env", QUIET, "wireguard-go", "wg-tablet"]);
    until("wireguard-go is there", || host.path("/run/wireguard/wg-tablet.sock").exists());
    host.write("/run/tablet.conf", &conf);
    host.sh("set -e; sed /^Address/d /run/tablet.conf >/run/tablet.wg; wg setconf wg-tablet /run/tablet.wg\n\
         ip -n lan address add 10.100.0.4/32 dev wg-tablet; ip -n lan link set wg-tablet mtu 1420 up\n\
         ip -n lan route add 10.1.0.0/16 dev wg-tablet");
    until("the tablet reaches git", || vpn.arrives("lan", GIT, 22));
    host.wire(&["audit"]).expect(0);
    host.topology(&before);
    host.wire(&["up"]).expect(0);
    assert!(!vpn.arrives("lan", GIT, 22), "the tablet is out");
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stream.0.stdout.take().expect("a pipe"), &mut said).expect("text");
    assert!(said.contains("300 packets received"), "{said}");
    host.wire(&["audit"]).expect(0);
}

/// The device is taken up again when it has been made anew; so is its client, when the hub was started anew.
#[test]
fn a_tunnel_comes_back() {
    let mut vpn = Vpn::up();
    until("the laptop reaches git", || vpn.arrives("laptop", GIT, 22));
    vpn.host.sh("ip -n vpn link del wg0");
    until("it is missed", || vpn.said().contains("there is no such device; run `wire up`"));
    vpn.host.wire(&["up"]).expect(0);
    until("it is there again", || vpn.said().contains("the tunnel `wg0` is there again"));
    // A client would take 15 s to find that its session is gone.
    let soon = |vpn: &Vpn| {
        let start = Instant::now();
        until("the laptop reaches git", || vpn.arrives("laptop", GIT, 22));
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "it is asked for a handshake only after {:?}",
            start.elapsed()
        );
    };
    soon(&vpn);
    let mut hub = vpn.hub.take().expect("it runs");
    kill(Pid::from_raw(hub.0.id() as i32), Signal::SIGTERM).expect("it runs");
    assert!(hub.0.wait().expect("its end").success(), "{}", vpn.said());
    vpn.serve();
    soon(&vpn);
}

/// No key can be read where everybody may look: the arguments and environment of the hub, what it says and answers.
#[test]
fn keys_are_nowhere_to_be_read() {
    let mut vpn = Vpn::up();
    let preshared = vpn.host.sh("wg genkey").trim().to_owned();
    let mut wanted = vpn.wanted();
    wanted[0]["preshared-key"] = json!(preshared);
    wanted[1]["public-key"] = json!("none");
    vpn.orders["tunnel"]["peers"] = wanted;
    let refused = vpn.ask(&json!({ "serve": vpn.orders }));
    assert!(refused["failed"].as_str().is_some_and(|said| said.contains("`none` is no public key")), "{refused}");
    let pid = vpn.hub.as_ref().expect("it runs").0.id();
    let read =
        |file: &str| String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).expect(file)).into_owned();
    let answers = ["peers", "likeness"].map(|ask| vpn.ask(&json!(ask)).to_string());
    let told = [read("cmdline"), read("environ"), vpn.said(), refused.to_string(), answers.concat()].concat();
    for secret in [&vpn.keys[0].private, &preshared] {
        assert!(!told.contains(secret.as_str()), "{told}");
    }
}
