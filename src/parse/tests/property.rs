//! Whatever a topology is, written as a file and read again it is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use proptest::prelude::*;

use crate::parse::topology;
use crate::topology::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_topology_survives_being_written(choices in prop::collection::vec(any::<u32>(), 0..2500), tables: bool) {
        let made = made(choices);
        let text = written(&made, tables);
        match topology(&text) {
            Ok(mut read) => {
                forget_places(&mut read);
                prop_assert_eq!(read, made, "{}", text);
            }
            Err(faults) => prop_assert!(false, "{:#?}\n{}", faults, text),
        }
    }

    #[test]
    fn a_broken_file_is_survived(
        choices in prop::collection::vec(any::<u32>(), 0..300),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, "[\\PC\n]{0,3}"), 1..4),
    ) {
        let made = made(choices);
        let mut text = written(&made, false);
        for (at, length, instead) in cuts {
            let ends: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let from = at.index(ends.len());
            let to = (from + length).min(ends.len() - 1);
            let (from, to) = (ends[from], ends[to]);
            text.replace_range(from..to, &instead);
        }
        super::survives(&text);
    }
}

/// The topology that these choices make.
pub(crate) fn made(choices: Vec<u32>) -> Topology {
    Maker { choices: choices.into_iter(), ports: 0, sets: Vec::new() }.topology()
}

/// Makes a topology by choices; where they run out the plainest is taken, so that a failure shrinks to a small one.
struct Maker {
    choices: std::vec::IntoIter<u32>,
    ports: u16,
    sets: Vec<Name>,
}

/// The far ends of a node's wires, each with the number of the wire.
fn far(wires: &[Wire], node: &Name) -> Vec<(Name, usize)> {
    let wires = wires.iter().enumerate();
    wires.filter_map(|(n, wire)| Some((wire.far(wire.end_in(node.as_str())?).node.clone(), n))).collect()
}

fn named(text: impl AsRef<str>) -> Name {
    Name::new(text.as_ref()).unwrap()
}

impl Maker {
    fn below(&mut self, count: usize) -> usize {
        self.choices.next().map_or(0, |choice| choice as usize % count.max(1))
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == of - 1
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Maker) -> T) -> Option<T> {
        self.chance(3).then(|| make(self))
    }

    fn some<T>(&mut self, make: impl Fn(&mut Maker) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// A name with a number in it that no other of its kind has.
    fn name(&mut self, kind: &str, nth: usize) -> Name {
        let tail = ["", "-b", ".c_d", "-a-name-that-is-longer-than-a-device's".trim_end_matches("'s")];
        named(format!("{}{kind}{nth}{}", ["", "X", "7"][self.below(3)], tail[self.below(4)]))
    }

    /// A port that nothing else has.
    fn port(&mut self) -> u16 {
        self.ports += 1;
        1000 + self.ports
    }

    fn network(&mut self) -> IpNetwork {
        match self.below(3) {
            0 => IpNetwork::V4(Ipv4Network::new(Ipv4Addr::new(192, 0, 2, self.below(256) as u8), 32).unwrap()),
            1 => IpNetwork::V4(Ipv4Network::new(Ipv4Addr::new(198, 51, self.below(256) as u8, 0), 24).unwrap()),
            _ => IpNetwork::V6(
                Ipv6Network::new(Ipv6Addr::new(0x2001, 0xdb8, self.below(9) as u16, 0, 0, 0, 0, 0), 64).unwrap(),
            ),
        }
    }

    fn whom(&mut self) -> Whom {
        let sets = self.sets.clone();
        if !sets.is_empty() && self.chance(2) { Whom::Set(self.pick(&sets)) } else { Whom::Network(self.network()) }
    }

    fn rate(&mut self) -> Rate {
        let per = self.pick(&[Per::Second, Per::Minute, Per::Hour, Per::Day]);
        Rate {
            count: 1 + self.below(100) as u32,
            per,
            burst: if self.chance(2) { 1 + self.below(20) as u32 } else { 5 },
        }
    }

    fn service(&mut self) -> Service {
        let icmp = |protocol, icmp_type: Option<&str>| Service {
            protocol,
            ports: Vec::new(),
            icmp_type: icmp_type.map(str::to_owned),
        };
        match self.below(6) {
            0 => icmp(Protocol::Icmp, None),
            1 => icmp(Protocol::Icmpv6, Some("echo-request")),
            2 => icmp(Protocol::Icmp, Some("parameter-problem")),
            n => {
                let mut at = 1;
                let mut ports = Vec::new();
                for _ in 0..=self.below(3) {
                    let low = at + self.below(1000) as u16;
                    let high = low + if self.chance(2) { self.below(1000) as u16 } else { 0 };
                    ports.push((low, high));
                    at = high + 2;
                }
                Service { protocol: if n == 3 { Protocol::Udp } else { Protocol::Tcp }, ports, icmp_type: None }
            }
        }
    }

    fn flow(&mut self) -> Flow {
        let log = self.chance(4);
        Flow {
            flow: self.service(),
            from: self.maybe(Maker::whom),
            to: self.maybe(Maker::whom),
            rate: self.maybe(Maker::rate),
            log,
            place: Place::default(),
        }
    }

    fn publish(&mut self) -> Publish {
        let low = self.port();
        if self.chance(3) {
            self.ports += 5;
        }
        let flow = Service { protocol: Protocol::Udp, ports: vec![(low, 1000 + self.ports)], icmp_type: None };
        Publish {
            flow,
            to_port: self.maybe(|m| 1 + m.below(900) as u16),
            address: self.maybe(|_| "203.0.113.7".parse().unwrap()),
            on: self.maybe(|_| Device::new("up1").unwrap()),
            from: self.maybe(Maker::whom),
            rate: self.maybe(Maker::rate),
            log: self.chance(4),
            place: Place::default(),
        }
    }

    fn topology(mut self) -> Topology {
        let place = Place::default();
        let sets: BTreeMap<Name, Set> = (0..self.below(3))
            .map(|nth| {
                let name = self.name("set", nth);
                let dns = self.some(|m| format!("d{}.example.net", m.below(9)));
                let interval = if dns.is_empty() { None } else { self.maybe(|m| 1 + m.below(100_000) as u64) };
                let private = !dns.is_empty() && self.chance(2);
                let file = self.maybe(|_| "/var/lib/wire/a file".to_owned());
                (name.clone(), Set { name, elements: self.some(Maker::network), file, dns, interval, private, place })
            })
            .collect();
        self.sets = sets.keys().cloned().collect();

        let names: Vec<Name> = (0..2 + self.below(7)).map(|nth| self.name("n", nth)).collect();
        let hubs: Vec<Name> = names[..self.below(3)].to_vec();
        let leaves: Vec<Name> = names[hubs.len()..].to_vec();
        let zone: BTreeMap<Name, Name> =
            hubs.iter().map(|hub| (hub.clone(), named(self.pick(&["public", "private"])))).collect();
        let shares: BTreeMap<Name, Name> = match &leaves[..] {
            [first, .., last] if self.chance(2) => {
                [(last.clone(), if self.chance(2) { Name::host() } else { first.clone() })].into()
            }
            _ => BTreeMap::new(),
        };
        let spaces: Vec<Name> =
            names.iter().filter(|name| !shares.contains_key(*name)).cloned().chain([Name::host()]).collect();

        let mut modules: Vec<Module> =
            (0..1 + self.below(3)).map(|n| Module { name: self.name("m", n), nodes: vec![] }).collect();
        let mut module_of = BTreeMap::new();
        for name in &names {
            let module = self.below(modules.len());
            modules[module].nodes.push(name.clone());
            module_of.insert(name.clone(), modules[module].name.clone());
        }

        let mut wires: Vec<Wire> = Vec::new();
        let mut with_eth0 = BTreeSet::new();
        for nth in 0..self.below(12) {
            let first = self.below(spaces.len());
            let second = (first + 1 + self.below(spaces.len() - 1)) % spaces.len();
            let ends = [spaces[first].clone(), spaces[second].clone()];
            let name = self.name("w", nth);
            let is_hub = |node: &Name| zone.contains_key(node);
            let mut device = [0, 1].map(|end| {
                let is_first = !ends[end].is_host() && !is_hub(&ends[end]) && is_hub(&ends[1 - end]);
                let is_first = is_first && with_eth0.insert(ends[end].clone());
                if is_first { Device::eth0() } else { Device::for_wire(&name) }
            });
            if self.chance(3) {
                device = ["a", "b"].map(|end| Device::new(&format!("dev{nth}{end}")).unwrap());
            }
            let prefix = if self.chance(4) { 30 } else { 31 };
            let subnet = Ipv4Network::new(Ipv4Addr::new(10, 0, nth as u8, 4 * self.below(64) as u8), prefix).unwrap();
            let subnet6 =
                self.maybe(|_| Ipv6Network::new(Ipv6Addr::new(0xfd00, nth as u16, 0, 0, 0, 0, 0, 0), 127).unwrap());
            let low = u32::from(subnet.network()) + u32::from(prefix == 30);
            let end = |nth: usize| End {
                node: ends[nth].clone(),
                device: device[nth].clone(),
                address: Ipv4Addr::from(low + nth as u32),
                address6: subnet6.map(|net| Ipv6Addr::from(u128::from(net.network()) + nth as u128)),
            };
            let leaf = ends.iter().find(|end| leaves.contains(end)).or(ends.iter().find(|end| is_hub(end))).unwrap();
            let joins_host = ends.iter().any(Name::is_host);
            wires.push(Wire {
                module: module_of[leaf].clone(),
                ends: [end(0), end(1)],
                subnet,
                subnet6,
                allow: self.some(Maker::flow),
                allow_back: self.some(Maker::flow),
                publish: if joins_host { self.some(Maker::publish) } else { Vec::new() },
                mtu: if self.chance(2) { 1280 + self.below(5000) as u32 } else { MTU },
                mode: if self.chance(3) { Mode::Audit } else { Mode::Enforce },
                across_zones: true,
                name,
                place,
            });
            let publish = &mut wires.last_mut().unwrap().publish;
            if subnet6.is_none() {
                publish.iter_mut().for_each(|publish| publish.address = publish.address.filter(IpAddr::is_ipv4));
            }
        }
        let mut nodes = BTreeMap::new();
        for (nth, name) in names.iter().enumerate() {
            let is_own = !shares.contains_key(name);
            let is_hub = zone.contains_key(name);
            let far = far(&wires, name);
            let zones: BTreeSet<Name> = far.iter().filter_map(|(far, _)| zone.get(far).cloned()).collect();
            let says_zones = is_own && !is_hub && (zones.len() > 1 || !zones.is_empty() && self.chance(2));
            let has_host = far.iter().any(|(far, _)| far.is_host());
            let has_out = is_own && (has_host || !is_hub && far.iter().any(|(far, _)| zone.contains_key(far)));
            let container = if self.chance(3) { named(format!("c{nth}")) } else { name.clone() };
            let owned = is_own && self.chance(4);
            let home = match self.below(3) {
                _ if owned => Home::Netns(name.clone()),
                2 if is_own => Home::Netns(named(format!("ns{nth}"))),
                n => Home::Podman { container, user: (n == 1).then(|| "liam".to_owned()) },
            };
            let egress = if has_out { self.some(Maker::flow) } else { Vec::new() };
            let node = Node {
                name: name.clone(),
                module: module_of[name].clone(),
                network_none: is_own && far.is_empty() && self.chance(2),
                owned,
                home,
                shares: shares.get(name).cloned(),
                zones: if says_zones { zones.into_iter().collect() } else { Vec::new() },
                egress: egress.into_iter().map(|flow| Flow { from: None, ..flow }).collect(),
                snat: if is_own && has_host { self.maybe(|_| "203.0.113.25".parse().unwrap()) } else { None },
                place,
            };
            nodes.insert(name.clone(), node);
        }

        let mut made = BTreeMap::new();
        for (nth, name) in hubs.iter().enumerate() {
            let far = far(&wires, name);
            let has_host = far.iter().any(|(far, _)| far.is_host());
            let prefix = Ipv4Network::new(Ipv4Addr::new(10, 100 + nth as u8, 0, 0), 24).unwrap();
            let clients = self.maybe(|_| Clients { prefix: prefix.into(), device: Device::new("wg0").unwrap() });
            let mut hub = Hub {
                name: name.clone(),
                zone: zone[name].clone(),
                pool: self.maybe(|m| Ipv4Network::new(Ipv4Addr::new(172, 16 + m.below(16) as u8, 0, 0), 16).unwrap()),
                wireguard: None,
                clients,
                sites: Vec::new(),
                redirects: Vec::new(),
                forwards: Vec::new(),
                place,
            };
            if has_host && hub.clients.is_some() {
                let peers = (0..self.below(4)).map(|n| self.peer(&names, &modules, &wires, nth, n));
                let peers = peers.collect();
                hub.wireguard = Some(Wireguard {
                    listen: self.port(),
                    endpoint: self.maybe(|_| "home.example.org:51820".to_owned()),
                    private_key: "/etc/wire/keys/hub".to_owned(),
                    isolate: self.chance(2),
                    peers,
                    place,
                });
            }
            let served: Vec<_> = far.iter().filter(|(far, _)| leaves.contains(far)).cloned().collect();
            // Two hubs cannot both have the host's port 443.
            if has_host && nth == 0 && !served.is_empty() {
                for n in 0..self.below(3) {
                    let (node, wire) = self.pick(&served);
                    let port = 1 + self.below(65535) as u16;
                    let service = Service { protocol: Protocol::Tcp, ports: vec![(port, port)], icmp_type: None };
                    let flow = Flow { flow: service, from: None, to: None, rate: None, log: false, place };
                    let wire = &mut wires[wire];
                    if wire.ends[0].node == *name {
                        wire.allow.push(flow)
                    } else {
                        wire.allow_back.push(flow)
                    }
                    hub.sites.push(self.site(n, Upstream { node, port }));
                }
                for n in 0..self.below(3) {
                    let tls = self.maybe(|_| Tls::Internal);
                    let to = "https://blog.example.org:8443".to_owned();
                    hub.redirects.push(Redirect { host: format!("r{n}.example.org"), to, tls, place });
                }
            }
            let first_hub = |leaf: &Name| {
                let mut wires = wires.iter().filter_map(|wire| Some(&wire.far(wire.end_in(leaf.as_str())?).node));
                wires.find(|far| zone.contains_key(*far)) == Some(name)
            };
            for (node, _) in served.iter().filter(|(leaf, _)| has_host && first_hub(leaf)) {
                let port = self.port();
                let port = Service { protocol: Protocol::Tcp, ports: vec![(port, port)], icmp_type: None };
                let to = Upstream { node: node.clone(), port: 1 + self.below(65535) as u16 };
                hub.forwards.push(Forward { port, to, from: self.maybe(Maker::whom), place });
            }
            // One that `wire` runs has a namespace of its own where none is named.
            if let Some(node) = nodes.get_mut(name).filter(|node| hub.is_run() && node.shares.is_none()) {
                (node.home, node.owned) = (Home::Netns(name.clone()), true);
            }
            made.insert(name.clone(), hub);
        }

        let pool = |m: &mut Maker| Ipv4Network::new(Ipv4Addr::new(192, 168, 0, 0), 16 + m.below(16) as u8).unwrap();
        let block = if self.sets.is_empty() { None } else { self.maybe(|m| m.sets[0].clone()) };
        Topology {
            wires,
            nodes,
            modules,
            hubs: made,
            host: Host {
                uplinks: ["up0", "up1"].map(|device| Device::new(device).unwrap()).to_vec(),
                policy: self.pick(&[Policy::Wires, Policy::All]),
                allow: self.some(Maker::flow),
                block,
            },
            pool: Pool { host: self.maybe(pool), direct: self.maybe(pool) },
            sets,
            acme: self.maybe(|m| Acme {
                contact: m.maybe(|_| "mailto:me@example.org".to_owned()),
                directory: m.maybe(|_| "https://acme.example.net/dir".to_owned()),
                ca: m.maybe(|_| "/etc/wire/acme-ca.pem".to_owned()),
            }),
        }
    }

    fn peer(&mut self, names: &[Name], modules: &[Module], wires: &[Wire], hub: usize, nth: usize) -> Peer {
        let allow = match self.below(5) {
            1 => vec![Allowed::Everything],
            2 => vec![Allowed::Node(self.pick(names)), Allowed::Node(Name::host())],
            3 => vec![Allowed::Module(self.pick(modules).name)],
            4 if !wires.is_empty() => vec![Allowed::Wire(self.pick(wires).name)],
            _ => Vec::new(),
        };
        Peer {
            name: named(format!("peer{hub}-{nth}")),
            public_key: format!("mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7{hub}{}=", ["A", "E", "I", "M"][nth]),
            preshared_key: self.maybe(|_| "/etc/wire/keys/peer.psk".to_owned()),
            address: IpAddr::V4(Ipv4Addr::new(10, 100 + hub as u8, 0, 2 + nth as u8)),
            allow,
            place: Place::default(),
        }
    }

    fn site(&mut self, nth: usize, to: Upstream) -> Site {
        let tls = [Tls::Acme, Tls::Internal, Tls::Files { cert: "/c.pem".to_owned(), key: "/k.pem".to_owned() }];
        Site {
            host: format!("s{nth}.example.org"),
            to,
            tls: self.maybe(|m| m.pick(&tls)),
            path: self.maybe(|_| "/photos/a-b".to_owned()),
            methods: self.some(|m| m.pick(&["GET", "PUT"]).to_owned()),
            headers: self.some(|m| (format!("X-H{}", m.below(3)), "a \"b\" \\ c".to_owned())).into_iter().collect(),
            rate: self.maybe(Maker::rate),
            body: self.maybe(|m| m.below(1 << 30) as u64),
            place: Place::default(),
        }
    }
}

/// Places differ between a thing made and the same thing read.
fn forget_places(topology: &mut Topology) {
    let none = Place::default();
    let flows = |flows: &mut Vec<Flow>| flows.iter_mut().for_each(|flow| flow.place = none);
    for wire in &mut topology.wires {
        wire.place = none;
        flows(&mut wire.allow);
        flows(&mut wire.allow_back);
        wire.publish.iter_mut().for_each(|publish| publish.place = none);
    }
    for node in topology.nodes.values_mut() {
        node.place = none;
        flows(&mut node.egress);
    }
    for hub in topology.hubs.values_mut() {
        hub.place = none;
        hub.sites.iter_mut().for_each(|site| site.place = none);
        hub.redirects.iter_mut().for_each(|redirect| redirect.place = none);
        hub.forwards.iter_mut().for_each(|forward| forward.place = none);
        if let Some(wireguard) = &mut hub.wireguard {
            wireguard.place = none;
            wireguard.peers.iter_mut().for_each(|peer| peer.place = none);
        }
    }
    flows(&mut topology.host.allow);
    topology.sets.values_mut().for_each(|set| set.place = none);
}

/// A string as TOML writes it.
fn quoted(text: impl Display) -> String {
    format!("{:?}", text.to_string())
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// The keys of one table, those that say nothing left out.
#[derive(Default)]
struct Keys(Vec<(&'static str, String)>);

impl Keys {
    fn put(&mut self, key: &'static str, value: Option<String>) {
        self.0.extend(value.map(|value| (key, value)));
    }

    fn inline(&self) -> String {
        format!("{{ {} }}", self.0.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", "))
    }

    fn table(&self, header: &str) -> String {
        let lines = self.0.iter().map(|(key, value)| format!("{key} = {value}\n"));
        format!("{header}\n{}\n", lines.collect::<String>())
    }
}

fn put_rate(keys: &mut Keys, rate: &Option<Rate>) {
    let Some(rate) = rate else { return };
    let per = format!("{:?}", rate.per).to_lowercase();
    keys.put("rate", Some(quoted(format!("{}/{per}", rate.count))));
    keys.put("burst", (rate.burst != 5).then(|| rate.burst.to_string()));
}

fn flow(flow: &Flow) -> String {
    let mut keys = Keys::default();
    keys.put("flow", Some(quoted(&flow.flow)));
    keys.put("from", flow.from.as_ref().map(quoted));
    keys.put("to", flow.to.as_ref().map(quoted));
    put_rate(&mut keys, &flow.rate);
    keys.put("log", flow.log.then(|| "true".to_owned()));
    if keys.0.len() == 1 { quoted(&flow.flow) } else { keys.inline() }
}

fn flows(flows: &[Flow]) -> Option<String> {
    (!flows.is_empty()).then(|| list(flows.iter().map(flow)))
}

fn publish(publish: &Publish) -> String {
    let mut keys = Keys::default();
    let port = publish.to_port.map(|port| format!(":{port}")).unwrap_or_default();
    keys.put("flow", Some(quoted(format!("{}{port}", publish.flow))));
    keys.put("address", publish.address.map(quoted));
    keys.put("on", publish.on.as_ref().map(quoted));
    keys.put("from", publish.from.as_ref().map(quoted));
    put_rate(&mut keys, &publish.rate);
    keys.put("log", publish.log.then(|| "true".to_owned()));
    if keys.0.len() == 1 { keys.0[0].1.clone() } else { keys.inline() }
}

fn tls(tls: &Tls) -> String {
    match tls {
        Tls::Acme => quoted("acme"),
        Tls::Internal => quoted("internal"),
        Tls::Files { cert, key } => format!("{{ cert = {}, key = {} }}", quoted(cert), quoted(key)),
    }
}

fn wire(wire: &Wire) -> Keys {
    let mut keys = Keys::default();
    keys.put("name", Some(quoted(&wire.name)));
    keys.put("ends", Some(list(wire.ends.iter().map(|end| quoted(&end.node)))));
    keys.put("subnet", Some(quoted(wire.subnet)));
    keys.put("subnet6", wire.subnet6.map(quoted));
    keys.put("allow", flows(&wire.allow));
    keys.put("allow-back", flows(&wire.allow_back));
    keys.put("publish", (!wire.publish.is_empty()).then(|| list(wire.publish.iter().map(publish))));
    keys.put("mtu", (wire.mtu != MTU).then(|| wire.mtu.to_string()));
    let said = wire.ends.iter().any(|end| end.device.as_str().starts_with("dev"));
    keys.put("ifname", said.then(|| list(wire.ends.iter().map(|end| quoted(&end.device)))));
    keys.put("mode", (wire.mode == Mode::Audit).then(|| quoted("audit")));
    keys.put("across-zones", Some("true".to_owned()));
    keys
}

fn written(topology: &Topology, tables: bool) -> String {
    let names = |names: &[Name]| list(names.iter().map(quoted));
    let mut text = "version = 1\n".to_owned();
    let wires = topology.wires.iter().map(wire);
    if tables {
        text.extend(wires.map(|wire| wire.table("[[wire]]")));
    } else {
        text += &format!("wire = [\n{}]\n", wires.map(|wire| format!("  {},\n", wire.inline())).collect::<String>());
    }

    let mut host = Keys::default();
    host.put("uplinks", Some(list(topology.host.uplinks.iter().map(quoted))));
    host.put("policy", (topology.host.policy == Policy::All).then(|| quoted("all")));
    host.put("allow", flows(&topology.host.allow));
    host.put("block", topology.host.block.as_ref().map(|set| quoted(format!("@{set}"))));
    text += &host.table("[host]");

    text += "[module]\n";
    text.extend(topology.modules.iter().map(|module| format!("{} = {}\n", quoted(&module.name), names(&module.nodes))));

    let mut pool = Keys::default();
    pool.put("host", topology.pool.host.map(quoted));
    pool.put("direct", topology.pool.direct.map(quoted));
    text += &pool.table("[pool]");

    for node in topology.nodes.values() {
        let mut keys = Keys::default();
        match &node.home {
            Home::Netns(_) if node.owned => {}
            Home::Netns(netns) => keys.put("netns", Some(quoted(netns))),
            Home::Podman { container, user } => {
                keys.put("container", (*container != node.name).then(|| quoted(container)));
                keys.put("user", user.as_ref().map(quoted));
            }
        }
        keys.put("network", node.network_none.then(|| quoted("none")));
        keys.put("owned", node.owned.then(|| "true".to_owned()));
        keys.put("shares", node.shares.as_ref().map(quoted));
        keys.put("zones", (!node.zones.is_empty()).then(|| names(&node.zones)));
        keys.put("egress", flows(&node.egress));
        keys.put("snat", node.snat.map(quoted));
        if !keys.0.is_empty() {
            text += &keys.table(&format!("[node.{}]", quoted(&node.name)));
        }
    }

    for hub in topology.hubs.values() {
        let header = format!("hub.{}", quoted(&hub.name));
        let mut keys = Keys::default();
        keys.put("zone", Some(quoted(&hub.zone)));
        keys.put("pool", hub.pool.map(quoted));
        let clients = |clients: &Clients| {
            format!("{{ prefix = {}, device = {} }}", quoted(clients.prefix), quoted(&clients.device))
        };
        keys.put("clients", hub.clients.as_ref().map(clients));
        text += &keys.table(&format!("[{header}]"));
        if let Some(wireguard) = &hub.wireguard {
            let mut keys = Keys::default();
            keys.put("listen", Some(wireguard.listen.to_string()));
            keys.put("endpoint", wireguard.endpoint.as_ref().map(quoted));
            keys.put("private-key", Some(quoted(&wireguard.private_key)));
            keys.put("isolate", (!wireguard.isolate).then(|| "false".to_owned()));
            text += &keys.table(&format!("[{header}.wireguard]"));
            for peer in &wireguard.peers {
                let allowed = |allowed: &Allowed| match allowed {
                    Allowed::Everything => quoted("*"),
                    Allowed::Module(name) | Allowed::Node(name) => quoted(name),
                    Allowed::Wire(name) => quoted(format!("wire:{name}")),
                };
                let mut keys = Keys::default();
                keys.put("name", Some(quoted(&peer.name)));
                keys.put("public-key", Some(quoted(&peer.public_key)));
                keys.put("preshared-key", peer.preshared_key.as_ref().map(quoted));
                keys.put("address", Some(quoted(peer.address)));
                keys.put("allow", Some(list(peer.allow.iter().map(allowed))));
                text += &keys.table(&format!("[[{header}.wireguard.peer]]"));
            }
        }
        for site in &hub.sites {
            let mut keys = Keys::default();
            keys.put("host", Some(quoted(&site.host)));
            keys.put("to", Some(quoted(format!("{}:{}", site.to.node, site.to.port))));
            keys.put("tls", site.tls.as_ref().map(tls));
            keys.put("path", site.path.as_ref().map(quoted));
            keys.put("methods", (!site.methods.is_empty()).then(|| list(site.methods.iter().map(quoted))));
            let headers = site.headers.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)));
            let headers: Vec<_> = headers.collect();
            keys.put("headers", (!headers.is_empty()).then(|| format!("{{ {} }}", headers.join(", "))));
            put_rate(&mut keys, &site.rate);
            keys.put("body", site.body.map(quoted));
            text += &keys.table(&format!("[[{header}.site]]"));
        }
        for redirect in &hub.redirects {
            let mut keys = Keys::default();
            keys.put("host", Some(quoted(&redirect.host)));
            keys.put("to", Some(quoted(&redirect.to)));
            keys.put("tls", redirect.tls.as_ref().map(tls));
            text += &keys.table(&format!("[[{header}.redirect]]"));
        }
        for forward in &hub.forwards {
            let mut keys = Keys::default();
            keys.put("port", Some(quoted(&forward.port)));
            keys.put("to", Some(quoted(format!("{}:{}", forward.to.node, forward.to.port))));
            keys.put("from", forward.from.as_ref().map(quoted));
            text += &keys.table(&format!("[[{header}.forward]]"));
        }
    }

    for set in topology.sets.values() {
        let mut keys = Keys::default();
        keys.put("elements", Some(list(set.elements.iter().map(quoted))));
        keys.put("file", set.file.as_ref().map(quoted));
        keys.put("dns", (!set.dns.is_empty()).then(|| list(set.dns.iter().map(quoted))));
        keys.put("interval", set.interval.map(|seconds| quoted(format!("{seconds}s"))));
        keys.put("private", set.private.then(|| "true".to_owned()));
        text += &keys.table(&format!("[set.{}]", quoted(&set.name)));
    }

    if let Some(acme) = &topology.acme {
        let mut keys = Keys::default();
        keys.put("contact", acme.contact.as_ref().map(quoted));
        keys.put("directory", acme.directory.as_ref().map(quoted));
        keys.put("ca", acme.ca.as_ref().map(quoted));
        text += &keys.table("[acme]");
    }
    text
}
