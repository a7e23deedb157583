//! A whole house: pluto with both its hubs run by `wire`, one container's worth of each leaf, somebody outside, and two VPN clients that
//! are another program. Everybody reaches what the file gives him, and nothing else; and nobody notices that the hubs are told
//! anew, or started anew.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, Output, Running, TOPOLOGY, WIRE, until};

const PLUTO: &str = include_str!("../../topology/pluto-hubs.toml");
/// The host as the outside knows it.
const HOST: &str = "192.0.2.2";
/// Every leaf with the port that it answers on, and its address.
const PUBLIC: [(&str, &str, &str); 5] = [
    ("blog.pluto.example", "/", "lbmt-weblog"),
    ("blog.pluto.example", "/photos/", "lbmt-darkroom"),
    ("shop.pluto.example", "/", "lbmt-shop"),
    ("git.pluto.example", "/", "git-web"),
    ("map.pluto.example", "/", "minecraft-map"),
];
const PRIVATE: [(&str, &str, u16); 6] = [
    ("git-ssh", "10.1.1.1", 22),
    ("master-ssh", "10.1.2.1", 22),
    ("master-explorer-web", "10.1.3.1", 8334),
    ("minecraft-ttyd-rcon", "10.1.4.1", 7681),
    ("navidrome-server", "10.1.5.1", 4533),
    ("navidrome-web-client", "10.1.6.1", 80),
];
const GAME: (&str, u16) = ("minecraft-server", 25565);
const HUBS: [&str; 2] = ["reverse-proxy-edge", "vpn-edge"];
const CLIENTS: [(&str, &str); 2] = [("laptop", "10.100.0.2"), ("phone", "10.100.0.3")];

struct House {
    host: Host,
    hubs: Vec<Running>,
    _leaves: Vec<Running>,
    _clients: Vec<Running>,
}

impl House {
    fn new() -> House {
        let host = Host::new();
        let leaves = PUBLIC.iter().map(|(.., node)| (*node, 80));
        let leaves: Vec<(&str, u16)> =
            leaves.chain(PRIVATE.map(|(node, _, port)| (node, port))).chain([GAME]).collect();
        let others = ["reverse-proxy-stats", "lbmt-shop-backup", "master-backup", "minecraft-backup"];
        host.netns(&leaves.iter().map(|(node, _)| *node).chain(others).collect::<Vec<_>>());
        let keys = CLIENTS.map(|_| host.sh("wg genkey").trim().to_owned());
        let public = |key: &str| host.sh(&format!("echo {key} | wg pubkey")).trim().to_owned();
        // Here every node is a named namespace, nobody signs certificates, and players have no names.
        let text = PLUTO
            .replace("version = 1", "version = 1\nruntime = \"netns\"")
            .replace("[podman]\nuser = \"liam\"\n", "")
            .replace("tls  = \"acme\"", "tls  = \"internal\"")
            .replace("tls     = \"acme\"", "tls     = \"internal\"")
            .replace("/etc/wire/keys", "/run/keys")
            .replace("mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs=", &public(&keys[0]))
            .replace("HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=", &public(&keys[1]))
            .replace("dns      = [\"anna.example.net\", \"ben.example.net\"]\ninterval = \"5m\"\n", "")
            .replace("198.51.100.4", "192.0.2.1");
        assert!(!text.contains("acme") && !text.contains("podman") && !text.contains("dns "), "{text}");
        host.topology(&text);
        let serve = |(node, port): &(&str, u16)| {
            host.sh(&format!("mkdir -p /run/www/{node}/photos; echo '{node}' | tee /run/www/{node}/index.html >/run/www/{node}/photos/index.html"));
            host.start(node, &["busybox", "httpd", "-f", "-p", &port.to_string(), "-h", &format!("/run/www/{node}")])
        };
        let leaves = leaves.iter().map(serve).collect();
        host.wire(&["up"]).expect(0);
        let mut house = House { host, hubs: Vec::new(), _leaves: leaves, _clients: Vec::new() };
        house.hubs = HUBS.map(|hub| house.start(hub)).into();
        let hub = house.host.sh("wg pubkey </run/keys/vpn-edge").trim().to_owned();
        house._clients =
            CLIENTS.iter().zip(keys).map(|((name, address), key)| house.dial(name, address, &key, &hub)).collect();
        house
    }

    /// A hub as its service runs it.
    fn start(&self, hub: &str) -> Running {
        // What the one before has left is no sign of the next.
        let socket = self.host.path(&format!("/run/wire/hub/{hub}.sock"));
        let _ = std::fs::remove_file(&socket);
        let script = format!("exec {WIRE} -f {TOPOLOGY} hub {hub} >>/run/{hub}.log 2>&1");
        let running = self.host.start("host", &["sh", "-c", &script]);
        let answers = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        until(&format!("{hub} runs: {}", self.said(hub)), answers);
        running
    }

    fn said(&self, hub: &str) -> String {
        std::fs::read_to_string(self.host.path(&format!("/run/{hub}.log"))).unwrap_or_default()
    }

    /// What somebody outside gets for a URL, with the host's name leading to the host.
    fn fetch(&self, from: &str, url: &str, more: &[&str]) -> Output {
        let name = url.split('/').nth(2).expect("a host").split(':').next().expect("a name");
        let resolve = [80, 443].map(|port| format!("{name}:{port}:{HOST}"));
        let ca = "/var/lib/wire/ca/root.crt";
        let options = ["curl", "-sS", "-m", "10", "--cacert", ca, "--resolve", &resolve[0], "--resolve", &resolve[1]];
        self.host.run(from, &[&options[..], more, &[url]].concat())
    }

    /// A client of the VPN, somewhere behind the LAN, that sends everything it may not reach otherwise into its tunnel.
    fn dial(&self, name: &str, address: &str, key: &str, hub: &str) -> Running {
        let number = address.rsplit('.').next().expect("a number");
        let net = format!("198.51.{number}");
        self.host.netns(&[name]);
        self.host.sh(&format!(
            "set -e\n\
             ip link add to-{name} netns lan type veth peer name eth0 netns {name}\n\
             ip -n lan address add {net}.1/24 dev to-{name}; ip -n lan link set to-{name} up\n\
             ip -n {name} address add {net}.2/24 dev eth0; ip -n {name} link set lo up; ip -n {name} link set eth0 up\n\
             ip -n {name} route add default via {net}.1\n\
             nsenter --net=/run/netns/lan sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'"
        ));
        let running = self.host.start(name, &["env", "WG_PROCESS_FOREGROUND=1", "wireguard-go", "wg0"]);
        let socket = "/run/wireguard/wg0.sock";
        until("wireguard-go is there", || self.host.path(socket).exists());
        self.host.write(
            "/run/client.conf",
            &format!(
                "[Interface]\nPrivateKey = {key}\n[Peer]\nPublicKey = {hub}\nAllowedIPs = 0.0.0.0/0\n\
                 Endpoint = {HOST}:51820\nPersistentKeepalive = 1\n"
            ),
        );
        self.host.sh(&format!(
            "set -e\n\
             wg setconf wg0 /run/client.conf; rm /run/client.conf\n\
             # The next client's has the same name in another namespace.\n\
             mv {socket} /run/wireguard/{name}.sock\n\
             ip -n {name} address add {address}/32 dev wg0; ip -n {name} link set wg0 mtu 1420 up\n\
             for net in 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16; do ip -n {name} route add $net dev wg0; done"
        ));
        running
    }
}

/// From outside every site, each from its own leaf, and the game for those who play; from the VPN what each peer may use; and of all
/// other doors of all leaves not one.
#[test]
fn everybody_reaches_what_is_his() {
    let house = House::new();
    let host = &house.host;
    for (name, path, leaf) in PUBLIC {
        let page = house.fetch("lan", &format!("https://{name}{path}"), &[]);
        assert_eq!(page.stdout.trim(), leaf, "{name}{path}: {} {}", page.stderr, house.said("reverse-proxy-edge"));
    }
    let moved = house.fetch(
        "lan",
        "https://www.pluto.example/a?b=c",
        &["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"],
    );
    assert_eq!(moved.stdout, "308 https://blog.pluto.example/a?b=c", "{}", moved.stderr);
    let plain =
        house.fetch("lan", "http://blog.pluto.example/a", &["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"]);
    assert_eq!(plain.stdout, "308 https://blog.pluto.example/a", "{}", plain.stderr);
    assert_ne!(house.fetch("lan", "https://home.pluto.example/", &["-k"]).code, 0, "an unknown name got a handshake");
    let game = host.run("lan", &["curl", "-sS", "-m", "5", &format!("http://{HOST}:25565/")]);
    assert_eq!(game.stdout.trim(), GAME.0, "{}", game.stderr);
    for (client, allowed) in [("laptop", &PRIVATE[..]), ("phone", &PRIVATE[4..])] {
        for (leaf, address, port) in PRIVATE {
            let url = format!("http://{address}:{port}/");
            let fetch = || host.run(client, &["curl", "-sS", "-m", "3", &url]).stdout.trim().to_owned();
            match allowed.iter().any(|(node, ..)| *node == leaf) {
                true => until(&format!("{client} reaches {leaf}: {}", house.said("vpn-edge")), || fetch() == leaf),
                false => assert_eq!(fetch(), "", "{client} reaches {leaf}"),
            }
        }
    }
    // Nobody comes in by another way: neither to a leaf by its address, nor from one edge to the other.
    let elsewhere = [
        ("lan", "172.16.2.1", 80),
        ("lan", "10.1.1.1", 22),
        ("laptop", "172.16.2.1", 80),
        ("phone", "192.168.100.1", 443),
    ];
    host.sh("for net in 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16; do ip -n lan route add $net via 192.0.2.2; done");
    for (from, address, port) in elsewhere {
        assert!(!host.reaches(from, address, port), "{from} reaches {address}:{port}");
    }
    for port in [22, 8080, 51820] {
        assert!(!host.reaches("lan", "192.168.100.1", port), "the proxy answers on {port}");
    }
    // As it is said, so it is.
    let published = host.wire(&["--json", "audit", "--published"]).expect(0).json();
    let ends: Vec<&str> =
        published["published"].as_array().expect("a list").iter().filter_map(|one| one["ends-at"].as_str()).collect();
    for (.., leaf) in PUBLIC {
        assert!(ends.contains(&format!("{leaf}:80").as_str()), "{ends:?}");
    }
}

/// Fifty times the file is changed and taken over while somebody fetches page after page, and every tenth time the proxy is started
/// anew: no request fails, and no peer of the VPN is cut off.
#[test]
fn nobody_notices_fifty_reloads() {
    let mut house = House::new();
    until("the laptop is there", || {
        house.host.run("laptop", &["curl", "-sS", "-m", "3", "http://10.1.6.1/"]).code == 0
    });
    let path = house.host.path(TOPOLOGY);
    let text = std::fs::read_to_string(&path).expect("the file");
    // Failures are told by curl, each in a line.
    let ca = "/var/lib/wire/ca/root.crt";
    let fetch = format!(
        "while [ ! -e /run/stop ]; do curl -sS -f -m 20 --cacert {ca} --resolve blog.pluto.example:443:{HOST} \
         -o /dev/null -o /dev/null -o /dev/null https://blog.pluto.example/ https://blog.pluto.example/photos/ https://blog.pluto.example/ \
         2>>/run/failed && echo >>/run/fetched; busybox usleep 20000; done"
    );
    let ping = "while [ ! -e /run/stop ]; do curl -sS -f -m 20 -o /dev/null http://10.1.6.1/ 2>>/run/failed && echo >>/run/pinged; busybox usleep 20000; done";
    let running = [
        house.host.start("lan", &["sh", "-c", &fetch]),
        house.host.start("lan", &["sh", "-c", &fetch]),
        house.host.start("laptop", &["sh", "-c", ping]),
    ];
    let lines = |file: &str| std::fs::read_to_string(house.host.path(file)).unwrap_or_default().lines().count();
    until("pages are fetched", || lines("/run/fetched") > 3 && lines("/run/pinged") > 3);
    for round in 0..50 {
        let headers = format!("headers = {{ \"X-Round\" = \"{round}\", ");
        house.host.topology(&text.replace("headers = { ", &headers));
        let told = house.host.wire(&["up"]).expect(0);
        assert!(told.stderr.contains("serves"), "{}", told.stderr);
        if round % 10 == 9 {
            let old = house.hubs[0].0.id();
            kill(Pid::from_raw(old as i32), Signal::SIGTERM).expect("it runs");
            assert!(house.hubs[0].0.wait().expect("it ends").success(), "{}", house.said(HUBS[0]));
            house.hubs[0] = house.start(HUBS[0]);
        }
    }
    let before = lines("/run/fetched");
    until("pages are fetched afterwards", || lines("/run/fetched") > before + 3);
    house.host.write("/run/stop", "");
    drop(running);
    let failed = std::fs::read_to_string(house.host.path("/run/failed")).unwrap_or_default();
    assert_eq!(failed, "", "{} pages were fetched; the hub: {}", lines("/run/fetched"), house.said(HUBS[0]));
    let shop = house.fetch("lan", "https://shop.pluto.example/", &["-o", "/dev/null", "-D", "-"]);
    assert!(shop.stdout.to_lowercase().contains("x-round: 49"), "{}", shop.stdout);
}
