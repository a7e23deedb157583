//! What a topology must become, said a second time and by hand: the observations that every wired world must pass, and a
//! recipe of `ip` commands that passes them. The recipe proves the observations; the observations prove `wire`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::host::{Dump, Host, Monitor, text};

/// The group number that marks a wire's device ("wire" in ASCII).
pub const GROUP: &str = "2003399269";
/// The protocol number that marks a route.
pub const PROTOCOL: &str = "119";

/// One end of a wire. An empty device stands for the wire's own name.
#[derive(Clone, Copy, Debug)]
pub struct End(pub &'static str, pub &'static str, pub &'static str);

#[derive(Clone, Copy, Debug)]
pub struct Wire {
    pub name: &'static str,
    pub ends: [End; 2],
    pub prefix: u8,
    pub mtu: u32,
    /// The addresses of a wire with a `subnet6`, a /127.
    pub ends6: Option<[&'static str; 2]>,
}

/// A wire with a /31, an MTU of 1500 and no IPv6.
pub const fn wire(name: &'static str, first: End, second: End) -> Wire {
    Wire { name, ends: [first, second], prefix: 31, mtu: 1500, ends6: None }
}

/// A route besides the connected ones: node, destination, gateway, device.
#[derive(Clone, Copy, Debug)]
pub struct Route(pub &'static str, pub &'static str, pub &'static str, pub &'static str);

/// What somebody may open: a node, the address of a far end and a port of TCP.
#[derive(Clone, Copy, Debug)]
pub struct Flow(pub &'static str, pub &'static str, pub u16);

/// A device that forwards: its node, and the wire that it is an end of, or its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forwards(pub &'static str, pub &'static str);

/// A topology file and what it must become.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub topology: String,
    /// Every node but the host.
    pub nodes: Vec<&'static str>,
    pub wires: Vec<Wire>,
    pub routes: Vec<Route>,
    /// One for each wire that lets anything begin, and no echo request for any.
    pub flows: Vec<Flow>,
    /// All others do not.
    pub forwards: Vec<Forwards>,
}

/// What each device of a wire is set to, below `ipv4/conf/DEVICE` of its namespace, besides `forwarding`.
pub const SETTINGS: [(&str, &str); 8] = [
    ("rp_filter", "1"),
    ("arp_ignore", "2"),
    ("arp_announce", "2"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    ("route_localnet", "0"),
    ("proxy_arp", "0"),
];

/// The same below `ipv6/conf/DEVICE` for a wire with IPv6.
pub const SETTINGS6: [(&str, &str); 8] = [
    ("disable_ipv6", "0"),
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
    ("forwarding", "0"),
    ("proxy_ndp", "0"),
    ("accept_dad", "0"),
];

/// What every namespace that wires end in, but the host's, is set to, below `ipv4/conf/all`.
pub const SETTINGS_ALL: [(&str, &str); 3] = [("forwarding", "0"), ("accept_redirects", "0"), ("route_localnet", "0")];

impl Wire {
    fn mark(&self, end: usize) -> String {
        format!("address 02:77:00:00:00:{end:02x} group {GROUP} mtu {} numtxqueues 1 numrxqueues 1", self.mtu)
    }

    /// The device name of an end: its own, or the wire's, or a short form of that.
    fn device(&self, end: usize) -> String {
        match self.ends[end].1 {
            "" if self.name.len() <= 15 => self.name.to_owned(),
            "" => format!("{}+{}", &self.name[..6], &self.name[self.name.len() - 8..]),
            device => device.to_owned(),
        }
    }
}

impl World {
    /// A pretend host with every node, not yet wired.
    pub fn host(&self) -> Host {
        Host::with(&self.nodes, &self.topology)
    }

    /// A pretend host that `wire up` has wired, and what it holds.
    pub fn up(&self) -> (Host, Dump) {
        let host = self.host();
        host.wire(&["up"]).expect(0);
        let dump = host.dump();
        (host, dump)
    }

    /// The index of every device, by node and wire: it changes when a device is made anew, and only then.
    pub fn indexes(&self, host: &Host) -> BTreeMap<(&'static str, &'static str), u64> {
        let ends = self.wires.iter().flat_map(|wire| wire.ends.map(|end| (end.0, wire.name)));
        ends.map(|(node, wire)| ((node, wire), host.link(node, wire)["ifindex"].as_u64().expect("an index"))).collect()
    }

    /// All rules with their handles: a rule has another when it is made anew, and only then.
    pub fn handles(&self, host: &Host) -> Vec<String> {
        let list = ["nft", "-a", "-s", "list", "ruleset"];
        ["host"].iter().chain(&self.nodes).map(|node| host.run(node, &list).expect(0).stdout).collect()
    }

    /// One monitor at the host and at every node.
    pub fn monitors<'a>(&self, host: &'a Host) -> Vec<Monitor<'a>> {
        ["host"].iter().chain(&self.nodes).map(|node| host.monitor(node)).collect()
    }

    /// Whether both ends of a wire are up and all its flows pass.
    pub fn works(&self, host: &Host, wire: &Wire) -> bool {
        let up =
            |node| host.run(node, &["ip", "-br", "link", "show", "dev", wire.name, "up"]).stdout.contains("LOWER_UP");
        let over = |flow: &&Flow| {
            wire.ends.iter().any(|end| end.2 == flow.1) || wire.ends6.is_some_and(|ends6| ends6.contains(&flow.1))
        };
        let mut flows = self.flows.iter().filter(over);
        wire.ends.iter().all(|end| up(end.0)) && flows.all(|flow| host.reaches(flow.0, flow.1, flow.2))
    }

    fn is_wired(&self, node: &str) -> bool {
        self.wires.iter().any(|wire| wire.ends.iter().any(|end| end.0 == node))
    }

    /// Whether a node has rules: every one of the file, and the host where a wire ends.
    fn is_policed(&self, node: &str) -> bool {
        node != "host" || self.is_wired(node)
    }

    fn forwards(&self, node: &str, device: &str) -> &'static str {
        let known = |forwards: &Forwards| forwards.0 == node && forwards.1 == device;
        if self.forwards.iter().any(known) { "1" } else { "0" }
    }

    /// The devices that forward and are no wire's.
    fn forwarding_besides(&self) -> impl Iterator<Item = &Forwards> {
        self.forwards.iter().filter(|forwards| self.wires.iter().all(|wire| wire.name != forwards.1))
    }

    /// The rules of a node in the fewest words: what its flows need and nothing else.
    fn rules(&self, node: &str) -> String {
        let ends =
            || self.wires.iter().flat_map(|wire| [0, 1].map(|end| (wire, end))).filter(|(w, e)| w.ends[*e].0 == node);
        let is_own = |address: &str| {
            ends()
                .any(|(wire, end)| wire.ends[end].2 == address || wire.ends6.is_some_and(|ends6| ends6[end] == address))
        };
        let accept = |Flow(_, address, port): &Flow| {
            let family = if address.contains(':') { "ip6" } else { "ip" };
            format!("{family} daddr {address} tcp dport {port} accept\n")
        };
        let arrives = self.flows.iter().filter(|flow| is_own(flow.1)).map(accept);
        let leaves = self.flows.iter().filter(|flow| flow.0 == node).map(accept);
        let any = "ct state established accept\nicmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n";
        let [mut input, mut forward, mut output] = [any.to_owned(), String::new(), any.to_owned()];
        input.extend(arrives);
        output.extend(leaves);
        let devices: Vec<String> = ends().map(|(wire, end)| format!("\"{}\"", wire.device(end))).collect();
        for (chain, by) in [(&mut input, "iifname"), (&mut forward, "iifname"), (&mut output, "oifname")] {
            // The host's own traffic is its own.
            let free = if node == "host" { format!("!= {{ {} }}", devices.join(", ")) } else { "lo".to_owned() };
            *chain += &format!("{by} {free} accept\n");
        }
        let chain = |name: &str, rules: &str| {
            format!("chain {name} {{ type filter hook {name} priority 0; policy drop;\n{rules}counter drop; }}\n")
        };
        let chains = [chain("input", &input), chain("forward", &forward), chain("output", &output)].concat();
        format!("table inet wire {{\ncomment \"wire\"\n{chains}}}\n")
    }

    /// Wires a host by hand.
    pub fn recipe(&self, host: &Host) {
        let mut script = String::from("set -e\n");
        let mut line = |text: String| script.extend([&text, "\n"]);
        for node in ["host"].iter().chain(&self.nodes).filter(|node| self.is_policed(node)) {
            host.write(&format!("/run/rules.{node}"), &self.rules(node));
            let at = if *node == "host" { String::new() } else { format!("nsenter --net=/run/netns/{node} ") };
            line(format!("{at}nft -f /run/rules.{node}; rm /run/rules.{node}"));
        }
        for node in self.nodes.iter().filter(|node| self.is_wired(node)) {
            let all = SETTINGS_ALL.map(|(key, value)| format!("echo {value} >$all/{key}; ")).concat();
            let rp_filter = "[ $(cat $all/rp_filter) -le 1 ] || echo 1 >$all/rp_filter";
            line(format!("nsenter --net=/run/netns/{node} sh -ec 'all=/proc/sys/net/ipv4/conf/all; {all}{rp_filter}'"));
        }
        for Forwards(node, device) in self.forwarding_besides() {
            let at = if *node == "host" { String::new() } else { format!("nsenter --net=/run/netns/{node} ") };
            line(format!("{at}sh -c 'echo 1 >/proc/sys/net/ipv4/conf/{device}/forwarding'"));
        }
        for wire in &self.wires {
            let place = [0, 1].map(|end| match wire.ends[end].0 {
                "host" => (String::new(), String::new(), "sh".to_owned()),
                node => (format!("netns {node}"), format!("-n {node}"), format!("nsenter --net=/run/netns/{node} sh")),
            });
            let [first, second] = [0, 1].map(|end| wire.device(end));
            // A host's end is made with the other end in its namespace, for `ip` cannot name its own.
            let (near, far, ends) =
                if wire.ends[1].0 == "host" { (&second, &first, [1, 0]) } else { (&first, &second, [0, 1]) };
            line(format!(
                "ip link add {near} {} {} type veth peer name {far} {} {}",
                place[ends[0]].0,
                wire.mark(ends[0]),
                place[ends[1]].0,
                wire.mark(ends[1]),
            ));
            for (end, (_, n, sh)) in place.iter().enumerate() {
                let (device, address) = (wire.device(end), wire.ends[end].2);
                line(format!("ip {n} link set {device} alias wire:{}", wire.name));
                if device != wire.name {
                    line(format!("ip {n} link property add dev {device} altname {}", wire.name));
                }
                let forwards = [("forwarding", self.forwards(wire.ends[end].0, wire.name))];
                let settings = SETTINGS.iter().chain(&forwards);
                let settings = settings.map(|(key, value)| format!("echo {value} >ipv4/conf/{device}/{key}; "));
                let settings: String = settings.collect();
                let settings6 = match wire.ends6 {
                    None => format!("echo 1 >ipv6/conf/{device}/disable_ipv6"),
                    Some(_) => {
                        SETTINGS6.map(|(key, value)| format!("echo {value} >ipv6/conf/{device}/{key}; ")).concat()
                    }
                };
                line(format!("{sh} -ec 'cd /proc/sys/net; {settings}{settings6}'"));
                line(format!("ip {n} address add {address}/{} dev {device}", wire.prefix));
                if let Some(ends6) = wire.ends6 {
                    line(format!("ip {n} address add {}/127 dev {device} nodad", ends6[end]));
                }
                line(format!("ip {n} link set {device} up"));
            }
        }
        for Route(node, to, via, device) in &self.routes {
            let n = if *node == "host" { String::new() } else { format!("-n {node}") };
            line(format!("ip {n} route add {to} via {via} dev {device} proto {PROTOCOL}"));
        }
        host.sh(&script);
    }

    /// Fails the test unless exactly this world is on the host and its nodes, whoever wired it.
    #[track_caller]
    pub fn observe(&self, host: &Host) {
        let mut devices: BTreeMap<&str, BTreeSet<String>> =
            BTreeMap::from([("host", ["eth0", "lo"].map(str::to_owned).into())]);
        devices.extend(self.nodes.iter().map(|node| (*node, ["lo".to_owned()].into())));
        for wire in &self.wires {
            for end in [0, 1] {
                let device = self.observe_end(host, wire, end);
                devices.get_mut(wire.ends[end].0).expect("a node of this world").insert(device);
            }
        }
        for (node, wanted) in devices {
            assert_eq!(host.links(node).into_iter().collect::<BTreeSet<_>>(), wanted, "the devices at {node}");
            self.observe_routes(host, node);
            if node != "host" && self.is_wired(node) {
                for (key, value) in SETTINGS_ALL {
                    assert_eq!(host.sysctl(node, &format!("ipv4/conf/all/{key}")), value, "all/{key} at {node}");
                }
                assert!(host.sysctl(node, "ipv4/conf/all/rp_filter").as_str() <= "1", "all/rp_filter at {node}");
            }
            match self.is_policed(node) {
                true => observe_rules(host, node),
                false => assert_eq!(host.rules(node), "", "rules at {node}"),
            }
        }
        for Forwards(node, device) in self.forwarding_besides() {
            assert_eq!(host.sysctl(node, &format!("ipv4/conf/{device}/forwarding")), "1", "{device} at {node}");
        }
        for Flow(node, address, port) in &self.flows {
            assert!(host.reaches(node, address, *port), "{node} does not reach {address}:{port}");
        }
    }

    /// One end: its name, mark, state, addresses and settings, and that no flow is no way. Returns its device name.
    #[track_caller]
    fn observe_end(&self, host: &Host, wire: &Wire, end: usize) -> String {
        let End(node, device, address) = wire.ends[end];
        let link = host.link(node, wire.name);
        let at = format!("{} at {node}: {link}", wire.name);
        let name = text(&link["ifname"]);
        match device {
            "" if wire.name.len() <= 15 => assert_eq!(name, wire.name, "{at}"),
            "" => assert!(name.len() == 15 && name.starts_with(&format!("{}+", &wire.name[..6])), "{at}"),
            device => assert_eq!(name, device, "{at}"),
        }
        let altnames = if name == wire.name { json!(null) } else { json!([wire.name]) };
        assert_eq!(link["altnames"], altnames, "altname of {at}");
        assert_eq!(link["ifalias"], format!("wire:{}", wire.name), "alias of {at}");
        assert_eq!(link["group"], GROUP, "group of {at}");
        assert!(text(&link["address"]).starts_with("02:77:"), "hardware address of {at}");
        assert_eq!(link["mtu"], wire.mtu, "mtu of {at}");
        assert_eq!(link["linkinfo"]["info_kind"], "veth", "kind of {at}");
        let flags = link["flags"].as_array().expect("flags");
        assert!(["UP", "LOWER_UP"].iter().all(|flag| flags.iter().any(|f| f == flag)), "state of {at}");

        let mut wanted = BTreeSet::from([(address.to_owned(), u64::from(wire.prefix))]);
        wanted.extend(wire.ends6.map(|ends| (ends[end].to_owned(), 127)));
        let seen = link["addr_info"].as_array().expect("addresses").iter().filter(|address| address["scope"] != "link");
        let seen: BTreeSet<_> = seen.map(|a| (text(&a["local"]), a["prefixlen"].as_u64().expect("a length"))).collect();
        assert_eq!(seen, wanted, "addresses of {at}");

        for (key, value) in SETTINGS.into_iter().chain([("forwarding", self.forwards(node, wire.name))]) {
            assert_eq!(host.sysctl(node, &format!("ipv4/conf/{name}/{key}")), value, "{key} of {at}");
        }
        let settings6: &[_] = if wire.ends6.is_some() { &SETTINGS6 } else { &[("disable_ipv6", "1")] };
        for (key, value) in settings6 {
            assert_eq!(host.sysctl(node, &format!("ipv6/conf/{name}/{key}")), *value, "{key} of {at}");
        }
        assert!(!host.ping(node, wire.ends[1 - end].2), "an echo over {at}");
        assert!(wire.ends6.is_none_or(|ends| !host.ping(node, ends[1 - end])), "an echo over IPv6 over {at}");
        name
    }

    /// The routes of a node: a connected one for each wire, the world's own, and nothing else.
    #[track_caller]
    fn observe_routes(&self, host: &Host, node: &str) {
        let listed = |args: &[&str]| -> BTreeSet<(String, Option<String>, String)> {
            let routes = host.ip(node, args);
            let routes = routes.as_array().expect("a list").iter().filter(|route| route["dev"] != "lo");
            let gateway = |route: &Value| route["gateway"].as_str().map(str::to_owned);
            routes.map(|route| (text(&route["dst"]), gateway(route), text(&route["protocol"]))).collect()
        };
        let mut wanted = BTreeSet::new();
        if node == "host" {
            wanted.insert(("192.0.2.0/24".to_owned(), None, "kernel".to_owned()));
            wanted.insert(("default".to_owned(), Some("192.0.2.1".to_owned()), "boot".to_owned()));
        }
        for wire in self.wires.iter().filter(|wire| wire.ends.iter().any(|end| end.0 == node)) {
            wanted.insert((format!("{}/{}", subnet(wire), wire.prefix), None, "kernel".to_owned()));
        }
        for Route(_, to, via, _) in self.routes.iter().filter(|route| route.0 == node) {
            wanted.insert((to.to_string(), Some(via.to_string()), PROTOCOL.to_owned()));
        }
        assert_eq!(listed(&["-4", "route", "show"]), wanted, "the routes at {node}");
    }
}

/// The table of a node: the mark, a chain for each way that drops whatever comes to its end by a rule of its own and by its
/// policy, and no other chain that packets enter by themselves but those that translate.
#[track_caller]
fn observe_rules(host: &Host, node: &str) {
    let listing = host.run(node, &["nft", "-j", "list", "table", "inet", "wire"]).expect(0).json();
    let list = || listing["nftables"].as_array().expect("a listing").iter();
    let of = |kind: &'static str| list().filter_map(move |object| object.get(kind));
    let said = host.rules(node);
    assert!(said.contains("\n\tcomment \"wire\"\n") && !said.contains("\n\tflags"), "at {node}: {said}");
    let mut filters = BTreeSet::new();
    for chain in of("chain").filter(|chain| chain.get("hook").is_some()) {
        let (name, hook) = (text(&chain["name"]), text(&chain["hook"]));
        if chain["type"] == "nat" {
            assert!(
                ["prerouting", "postrouting"].contains(&&*hook) && chain["policy"] == "accept",
                "{chain} at {node}"
            );
            continue;
        }
        assert_eq!((&chain["type"], &chain["prio"], &chain["policy"]), (&json!("filter"), &json!(0), &json!("drop")));
        let last = of("rule").filter(|rule| rule["chain"] == *name).next_back().expect("a rule");
        let says = |word: &str| last["expr"].as_array().expect("a list").iter().any(|one| one.get(word).is_some());
        assert!(says("counter") && says("drop"), "the last rule of {name} at {node}: {last}");
        assert!(filters.insert(hook), "two chains at one hook: {chain} at {node}");
    }
    assert_eq!(filters, ["forward", "input", "output"].map(str::to_owned).into(), "at {node}");
}

/// The network address of a wire: the first end's for a /31, one below it for a /30.
fn subnet(wire: &Wire) -> std::net::Ipv4Addr {
    let first: std::net::Ipv4Addr = wire.ends[0].2.parse().expect("an address");
    std::net::Ipv4Addr::from(u32::from(first) & (u32::MAX << (32 - wire.prefix)))
}

/// A dump in which the recipe and `wire` agree: hardware addresses, the link-local ones made of them, and hashed device names
/// are free, so the first two become their mark and the last the wire's own name. How rules say what they say is free too.
pub fn canonical(dump: &Dump) -> Dump {
    let dump = &dump.only(|fact| fact.split(' ').nth(1) != Some("nft"));
    let mut names = BTreeMap::new();
    for fact in &dump.0 {
        if let Some((node, link)) = fact.split_once(" link ") {
            let link: Value = serde_json::from_str(link).expect("a link is JSON");
            let device = text(&link["ifname"]);
            if let (true, Some(full)) = (device.contains('+'), link["altnames"][0].as_str()) {
                names.insert((node.to_owned(), device), full.to_owned());
            }
        }
    }
    let facts = dump.0.iter().map(|fact| {
        let node = fact.split(' ').next().expect("a node");
        let renamed = names.iter().filter(|((at, _), _)| at == node);
        let fact = renamed.fold(fact.clone(), |fact, ((_, device), full)| fact.replace(device, full));
        shorten(shorten(fact, "\"address\":\"02:77:"), "\"fe80::77:")
    });
    Dump(facts.collect())
}

/// A text without what follows this beginning of a JSON string.
fn shorten(text: String, beginning: &str) -> String {
    match text.split_once(beginning) {
        Some((head, tail)) => format!("{head}{beginning}{}", tail.trim_start_matches(|c| c != '"')),
        _ => text,
    }
}

/// The hosts of the user's own house, by the table of its README: 15 wires between 15 nodes and the host.
pub fn pluto() -> World {
    let table = [
        ("host-pub", "host", "192.168.100.0", "reverse-proxy-edge", "192.168.100.1"),
        ("host-priv", "host", "192.168.101.0", "vpn-edge", "192.168.101.1"),
        ("pub-lbmt-darkroom", "reverse-proxy-edge", "172.16.1.0", "lbmt-darkroom", "172.16.1.1"),
        ("pub-lbmt-weblog", "reverse-proxy-edge", "172.16.2.0", "lbmt-weblog", "172.16.2.1"),
        ("pub-lbmt-shop", "reverse-proxy-edge", "172.16.3.0", "lbmt-shop", "172.16.3.1"),
        ("priv-git-ssh", "vpn-edge", "10.1.1.0", "git-ssh", "10.1.1.1"),
        ("pub-git-web", "reverse-proxy-edge", "172.16.4.0", "git-web", "172.16.4.1"),
        ("priv-master-ssh", "vpn-edge", "10.1.2.0", "master-ssh", "10.1.2.1"),
        ("priv-master-explorer-web", "vpn-edge", "10.1.3.0", "master-explorer-web", "10.1.3.1"),
        ("pub-minecraft-server", "reverse-proxy-edge", "172.16.5.0", "minecraft-server", "172.16.5.1"),
        ("priv-minecraft-ttyd-rcon", "vpn-edge", "10.1.4.0", "minecraft-ttyd-rcon", "10.1.4.1"),
        ("pub-minecraft-map", "reverse-proxy-edge", "172.16.6.0", "minecraft-map", "172.16.6.1"),
        ("priv-navidrome-server", "vpn-edge", "10.1.5.0", "navidrome-server", "10.1.5.1"),
        ("priv-navidrome-web-client", "vpn-edge", "10.1.6.0", "navidrome-web-client", "10.1.6.1"),
        ("navidrome-server-client", "navidrome-server", "10.254.1.0", "navidrome-web-client", "10.254.1.1"),
    ];
    let wires = table.map(|(name, first, low, second, high)| {
        let leaf = name.starts_with("pub-") || name.starts_with("priv-");
        wire(name, End(first, "", low), End(second, if leaf { "eth0" } else { "" }, high))
    });
    // The hubs answer the outside over their host wires, the leaves of the VPN its clients over their hub wires, and the
    // game, whose players come by a `forward`, the outside over its hub.
    let mut routes = vec![
        Route("reverse-proxy-edge", "default", "192.168.100.0", "host-pub"),
        Route("vpn-edge", "default", "192.168.101.0", "host-priv"),
        Route("minecraft-server", "default", "172.16.5.0", "eth0"),
    ];
    let private = wires.iter().filter(|wire| wire.name.starts_with("priv-"));
    routes.extend(private.map(|wire| Route(wire.ends[1].0, "10.100.0.0/24", wire.ends[0].2, "eth0")));
    let mut nodes: Vec<_> = wires.iter().map(|wire| wire.ends[1].0).collect();
    nodes.extend(["lbmt-shop-backup", "master-backup", "minecraft-backup", "reverse-proxy-stats"]);
    nodes.sort_unstable();
    nodes.dedup();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/topology/pluto.toml");
    let text = std::fs::read_to_string(path).expect(path);
    let ports = [80, 80, 80, 22, 80, 22, 8334, 25565, 7681, 80, 4533, 80];
    let leaves = wires.iter().filter(|wire| wire.name.starts_with('p'));
    let mut flows: Vec<_> = leaves.zip(ports).map(|(wire, port)| Flow(wire.ends[0].0, wire.ends[1].2, port)).collect();
    flows.push(Flow("navidrome-web-client", "10.254.1.0", 4533));
    // Both host wires publish, the game is handed on, and the VPN's clients use every wire of their hub.
    let mut forwards = vec![
        Forwards("host", "eth0"),
        Forwards("host", "host-pub"),
        Forwards("host", "host-priv"),
        Forwards("reverse-proxy-edge", "host-pub"),
        Forwards("reverse-proxy-edge", "pub-minecraft-server"),
        Forwards("vpn-edge", "default"),
    ];
    let private = wires.iter().filter(|wire| wire.name.starts_with("priv-"));
    forwards.extend(private.map(|wire| Forwards("vpn-edge", wire.name)));
    World { topology: in_namespaces(&text), nodes, wires: wires.into(), routes, flows, forwards }
}

/// A topology of containers as one of named namespaces.
fn in_namespaces(text: &str) -> String {
    let mut podman = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        podman = if line.starts_with('[') { line.starts_with("[podman]") } else { podman };
        match line {
            _ if podman => {}
            _ if line.starts_with("version") => lines.extend([line, "runtime = \"netns\""]),
            _ => lines.push(line),
        }
    }
    lines.join("\n")
}

/// A small house with one of everything: a hub with clients, two leaves, a leaf with egress, a direct wire with IPv6, a
/// short and a long name, an own MTU.
pub fn small() -> World {
    let topology = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", allow = ["tcp/80"] },
  { name = "edge-shop-and-its-till", ends = ["edge", "shop"], subnet = "172.16.2.0/31", allow = ["tcp/80"], mtu = 1400 },
  { name = "shop-web-database", ends = ["shop", "web"], subnet = "10.254.1.0/31", subnet6 = "fd00:254::/127", allow-back = ["tcp/5432"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["edge"]
shops = ["web", "shop", "vault"]

[hub.edge]
zone = "public"
clients = { prefix = "10.100.0.0/24", device = "wg0" }

[node.shop]
egress = ["tcp/443"]

[node.vault]
network = "none"
"#;
    let mut wires = vec![
        wire("host-edge", End("host", "", "192.168.100.0"), End("edge", "", "192.168.100.1")),
        wire("edge-web", End("edge", "", "172.16.1.0"), End("web", "eth0", "172.16.1.1")),
        wire("edge-shop-and-its-till", End("edge", "", "172.16.2.0"), End("shop", "eth0", "172.16.2.1")),
        wire("shop-web-database", End("shop", "", "10.254.1.0"), End("web", "", "10.254.1.1")),
    ];
    wires[2].mtu = 1400;
    wires[3].ends6 = Some(["fd00:254::", "fd00:254::1"]);
    let routes = vec![
        Route("edge", "default", "192.168.100.0", "host-edge"),
        Route("web", "10.100.0.0/24", "172.16.1.0", "eth0"),
        Route("shop", "10.100.0.0/24", "172.16.2.0", "eth0"),
        Route("shop", "default", "172.16.2.0", "eth0"),
    ];
    let flows = vec![
        Flow("edge", "172.16.1.1", 80),
        Flow("edge", "172.16.2.1", 80),
        Flow("web", "10.254.1.0", 5432),
        Flow("web", "fd00:254::", 5432),
    ];
    let forwards = vec![
        Forwards("host", "eth0"),
        Forwards("host", "host-edge"),
        Forwards("edge", "default"),
        Forwards("edge", "host-edge"),
        Forwards("edge", "edge-web"),
        Forwards("edge", "edge-shop-and-its-till"),
    ];
    World { topology: topology.to_owned(), nodes: vec!["edge", "web", "shop", "vault"], wires, routes, flows, forwards }
}

/// The recipe passes the observations, so an observation that fails is the fault of what is observed.
#[test]
fn the_recipe_by_hand_passes_every_observation() {
    for world in [pluto(), small()] {
        let host = world.host();
        world.recipe(&host);
        world.observe(&host);
    }
}
