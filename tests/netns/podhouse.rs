//! `topology/pluto-hubs.toml` on a machine of its own with real podman: its leaves are containers without a network, its hubs are
//! `wire`'s, and a browser and a laptop come from outside. What each may reach answers, and nothing else does.

use crate::podman::machine::{Machine, TOPOLOGY, until};

/// What has a wire or none, with the port that it serves its name on.
const LEAVES: [(&str, u16); 16] = [
    ("lbmt-darkroom", 80),
    ("lbmt-weblog", 80),
    ("lbmt-shop", 80),
    ("git-ssh", 22),
    ("git-web", 80),
    ("master-ssh", 22),
    ("master-explorer-web", 8334),
    ("minecraft-server", 25565),
    ("minecraft-ttyd-rcon", 7681),
    ("minecraft-map", 80),
    ("navidrome-server", 4533),
    ("navidrome-web-client", 80),
    ("reverse-proxy-stats", 80),
    ("lbmt-shop-backup", 80),
    ("master-backup", 80),
    ("minecraft-backup", 80),
];

/// What a peer may open, as the file has it.
const PRIVATE: [(&str, &str); 6] = [
    ("10.1.1.1:22", "git-ssh"),
    ("10.1.2.1:22", "master-ssh"),
    ("10.1.3.1:8334", "master-explorer-web"),
    ("10.1.4.1:7681", "minecraft-ttyd-rcon"),
    ("10.1.5.1:4533", "navidrome-server"),
    ("10.1.6.1:80", "navidrome-web-client"),
];

/// What it may not: another port, another leaf's port, public leaves, a direct wire, the hub, the host.
const CLOSED: [&str; 7] = [
    "10.1.1.1:80",
    "10.1.6.1:4533",
    "172.16.2.1:80",
    "10.254.1.1:80",
    "10.100.0.1:80",
    "192.168.101.0:22",
    "172.16.2.0:443",
];

/// Two who are not of the house, on one network with its uplink.
const NEIGHBOURS: &str = r"
    mount -t tmpfs tmpfs /var/log
    for name in internet browser laptop; do ip netns add $name; ip -n $name link set lo up; done
    ip -n internet link add net type bridge
    ip -n internet link set net up
    ip link add eth0 type veth peer name host netns internet
    ip address add 203.0.113.9/24 dev eth0
    ip link set eth0 up
    number=20
    for name in browser laptop; do
      ip -n $name link add eth0 type veth peer name $name netns internet
      ip -n $name address add 203.0.113.$number/24 dev eth0
      ip -n $name link set eth0 up
      number=$((number + 1))
      mkdir -p /etc/netns/$name
      echo 203.0.113.9 pluto.example blog.pluto.example shop.pluto.example git.pluto.example map.pluto.example \
        www.pluto.example >/etc/netns/$name/hosts
    done
    for name in host browser laptop; do ip -n internet link set $name master net up; done";

struct House(Machine);

impl House {
    /// The house of the file, with certificates of its own, wired; nobody serves its hubs yet. `more` is put at the file's end.
    fn new(more: &str) -> House {
        let machine = Machine::new();
        machine.sh(None, NEIGHBOURS);
        machine.image([None]);
        let mut script = String::new();
        for (name, port) in LEAVES {
            script += &format!(
                "podman run -d --name {name} --network none localhost/image:1 sh -c \
                 'mkdir -p /www/photos; echo {name} | tee /www/photos/index.html >/www/index.html; trap \"exit 0\" TERM; \
                 busybox httpd -f -p {port} -h /www & wait' >/dev/null &\n"
            );
        }
        machine.sh(None, &(script + "wait"));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/topology/pluto-hubs.toml");
        let text = std::fs::read_to_string(path).expect(path);
        // Nobody answers for names here.
        let text = text.replace("user = \"liam\"", "user = \"root\"").replace("\"acme\"", "\"internal\"");
        let text = text.replace("dns      = [\"anna.example.net\", \"ben.example.net\"]\ninterval = \"5m\"\n", "");
        machine.write(TOPOLOGY, &(text + more));
        for (name, _) in LEAVES {
            machine.wait_for(None, name, None);
        }
        House(machine)
    }

    /// Has a hub served until the machine ends.
    fn serve(&self, hub: &str) {
        self.0.background(None, "", &format!("{} -f {TOPOLOGY} hub {hub}", env!("CARGO_BIN_EXE_wire")));
        until("the hub is served", || self.runs(hub).then_some(()));
    }

    fn runs(&self, hub: &str) -> bool {
        let audit = self.0.wire(&["--json", "audit"]).json();
        let hubs = audit["hubs"].as_array().expect("hubs").iter();
        hubs.into_iter().any(|one| one["hub"] == hub && one["runs"] == true)
    }

    /// What is answered there, with the status.
    fn get(&self, from: &str, url: &str) -> String {
        let curl = "curl -s --max-time 2 --cacert /var/lib/wire/ca/root.crt -w ' %{http_code}'";
        let said = self.0.attempt(None, &format!("ip netns exec {from} {curl} '{url}' || :")).stdout;
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Waits until a page is answered so.
    #[track_caller]
    fn answers(&self, url: &str, expected: &str) {
        until(&format!("{url} answers {expected}"), || (self.get("browser", url) == expected).then_some(()));
    }
}

/// From a file to a house: sites from outside, private leaves from the VPN, nothing else.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_house_is_served_and_nothing_else() {
    let house = House::new("");
    let machine = &house.0;
    machine.wire(&["check"]).expect(0);
    let up = machine.wire(&["up"]).expect(0);
    for hub in ["reverse-proxy-edge", "vpn-edge"] {
        assert!(up.stderr.contains(&format!("hub `{hub}` should run and does not")), "{}", up.stderr);
        house.serve(hub);
    }

    for (url, expected) in [
        ("https://blog.pluto.example/", "lbmt-weblog 200"),
        ("https://blog.pluto.example/photos/", "lbmt-darkroom 200"),
        ("https://shop.pluto.example/", "lbmt-shop 200"),
        ("https://git.pluto.example/", "git-web 200"),
        ("https://map.pluto.example/", "minecraft-map 200"),
        ("https://www.pluto.example/a", "308"),
        ("http://blog.pluto.example/a", "308"),
        // No name of a site's, and nobody who plays.
        ("https://203.0.113.9/", "000"),
        ("http://203.0.113.9:25565/", "000"),
        ("http://172.16.2.1/", "000"),
        ("http://10.1.6.1/", "000"),
    ] {
        house.answers(url, expected);
    }
    machine.wire(&["set", "add", "players", "203.0.113.20"]).expect(0);
    house.answers("http://203.0.113.9:25565/", "minecraft-server 200");

    // A laptop, with the very text that it is to be given.
    let peer = machine.wire(&["peer", "add", "tablet", "--allow", "*"]).expect(0);
    machine.sh(None, "umask 077; : >/run/wgt.conf");
    machine.write("/run/wgt.conf", &peer.stdout);
    machine.wire(&["up"]).expect(0);
    let quick = "ip netns exec laptop env WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go wg-quick up /run/wgt.conf";
    machine.sh(None, &format!("{quick} >/run/quick 2>&1"));
    for (address, name) in PRIVATE {
        let expected = format!("{name} 200");
        until(&format!("{name} answers"), || {
            (house.get("laptop", &format!("http://{address}/")) == expected).then_some(())
        });
    }
    for address in CLOSED {
        assert_eq!(house.get("laptop", &format!("http://{address}/")), "000", "{address}");
    }
    machine.wire(&["audit"]).expect(0);
    let audit = machine.wire(&["--json", "audit"]).expect(0).json();
    let peers = audit["hubs"].as_array().expect("hubs").iter().find(|hub| hub["hub"] == "vpn-edge").expect("vpn-edge");
    let tablet = peers["peers"].as_array().expect("peers").iter().find(|peer| peer["name"] == "tablet");
    assert_eq!(tablet.map(|peer| &peer["state"]), Some(&"online".into()), "{audit}");
}

/// A hub in a container of somebody's ends when that has come back with another namespace, instead of serving nobody where it was, and
/// `up` says so: whoever supervises it starts it where it lives now.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_hub_follows_its_container() {
    let house = House::new("\n[node.reverse-proxy-edge]\ncontainer = \"reverse-proxy-edge\"\n");
    let machine = &house.0;
    let hub = "reverse-proxy-edge";
    machine.podman(None, &format!("run -d --name {hub} --network none localhost/image:1 sleep 1000"));
    machine.wire(&["up"]).expect(0);
    house.serve(hub);
    let page = ("https://blog.pluto.example/", "lbmt-weblog 200");
    house.answers(page.0, page.1);
    // Where it has not moved, `up` leaves it alone.
    machine.wire(&["up"]).expect(0);
    assert!(house.runs(hub));

    let before = machine.wait_for(None, hub, None);
    machine.podman(None, &format!("restart -t 0 {hub}"));
    machine.wait_for(None, hub, Some(before));
    let up = machine.wire(&["up"]).expect(0);
    assert!(up.stderr.contains("in a namespace that is not its own any more"), "{}", up.stderr);
    until("it ends", || (!house.runs(hub)).then_some(()));
    house.serve(hub);
    house.answers(page.0, page.1);
}
