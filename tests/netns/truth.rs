//! Truth tables: every place of a topology asks every address of every other, by each declared port and others, in several
//! protocols, and what passes is compared with what the naive reading of the file says. Nothing may be wrong, and nothing may
//! go without an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::host::{Host, text};
use crate::naive::{FIRST_UPLINK, Naive, Place, Verdict, What};
use crate::prober::{self, Address, Kind, Probe, Seen, Site};

/// A pretend host with everything around a topology: a namespace for each node, the world beyond each uplink, and somebody
/// in each hub's tunnel.
pub struct House {
    pub host: Host,
    pub naive: Naive,
    /// How many protocol numbers have been used here: what tracks connections remembers those that passed.
    odd: usize,
}

/// Protocol numbers that stand for nothing (IANA's registry): 148 to 252.
const UNASSIGNED: [u8; 105] = {
    let mut numbers = [148; 105];
    let mut i = 0;
    while i < numbers.len() {
        numbers[i] += i as u8;
        i += 1;
    }
    numbers
};

/// The namespace of a place.
fn netns(place: &Place) -> Option<String> {
    match place {
        Place::Node(node) if node == "host" => None,
        Place::Node(node) => Some(node.clone()),
        // As `Host` makes it.
        Place::Outside(uplink) if uplink == "eth0" => Some("lan".to_owned()),
        Place::Outside(uplink) => Some(format!("beyond-{uplink}")),
        Place::Client(hub) => Some(format!("client-{hub}")),
    }
}

/// A topology of containers as one of named namespaces, which have the nodes' names.
pub fn in_namespaces(text: &str) -> String {
    let mut lines = vec!["runtime = \"netns\"".to_owned()];
    let mut header = "";
    for line in text.lines() {
        header = if line.starts_with('[') { line } else { header };
        let key = line.split('=').next().unwrap_or_default().trim();
        let home = header.starts_with("[node.") && ["user", "container", "netns", "owned"].contains(&key);
        if !home && key != "runtime" && !header.starts_with("[podman]") {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

impl House {
    /// Builds everything around a topology, but wires nothing.
    pub fn new(text: &str) -> House {
        let house = House { host: Host::new(), naive: Naive::read(text), odd: 0 };
        house.host.topology(&in_namespaces(text));
        house.furnish();
        house
    }

    /// Takes another topology of the same nodes, uplinks and clients.
    pub fn change(&mut self, text: &str) {
        self.naive = Naive::read(text);
        self.host.topology(&in_namespaces(text));
        self.furnish();
    }

    /// Makes what is not there yet.
    fn furnish(&self) {
        let naive = &self.naive;
        let mut script =
            "set -e\nexist() { [ -e /run/netns/$1 ] || ip netns add $1; ip -n $1 link set lo up; }\n".to_owned();
        let mut line = |text: String| writeln!(script, "{text}").expect("a text grows");
        for space in naive.spaces().iter().filter(|space| *space != "host") {
            line(format!("exist {space}"));
        }
        for (number, uplink) in naive.uplinks().iter().enumerate() {
            let there = netns(&Place::Outside(uplink.clone())).expect("the outside has a namespace");
            let [v4, v6] = Naive::uplink(number);
            line(format!("exist {there}"));
            if number > 0 {
                let pair = format!("ip link add {uplink} type veth peer name {uplink} netns {there}");
                line(format!("ip link show {uplink} >/dev/null 2>&1 || {pair}"));
                line(format!("ip link set {uplink} up; ip -n {there} link set {uplink} up"));
                line(format!("ip address replace {v4}2/24 dev {uplink}"));
                line(format!("ip -n {there} address replace {v4}1/24 dev {uplink}"));
            }
            line(format!("ip address replace {v6}2/64 dev {uplink} nodad"));
            line(format!("ip -n {there} address replace {v6}1/64 dev {uplink} nodad"));
            // A neighbour who sends everything here.
            line(format!("ip -n {there} route replace default via {v4}2"));
            line(format!("ip -n {there} route replace default via {v6}2 dev {uplink}"));
        }
        line(format!("ip route replace default via {}1 dev eth0", Naive::uplink(0)[1]));
        for (_, own) in &naive.around.host {
            line(format!("ip address show to {own} | grep -q . || ip address add {own} dev eth0 {}", second(own)));
        }
        for (uplink, other) in naive.around.outside.iter().filter(|(uplink, _)| uplink == FIRST_UPLINK) {
            let there = netns(&Place::Outside(uplink.clone())).expect("the outside has a namespace");
            line(format!(
                "ip -n {there} address show to {other} | grep -q . || ip -n {there} address add {other} dev lo"
            ));
        }
        for (name, hub) in &naive.file.hub {
            let Some(clients) = &hub.clients else { continue };
            let there = netns(&Place::Client(name.clone())).expect("clients have a namespace");
            let (device, length) = (&clients.device, clients.prefix.prefix());
            let own = Naive::tunnel(clients);
            let pair = format!("ip -n {name} link add {device} type veth peer name tun netns {there}");
            line(format!("exist {there}"));
            line(format!("ip -n {name} link show {device} >/dev/null 2>&1 || {pair}"));
            line(format!("ip -n {name} address replace {own}/{length} dev {device}"));
            line(format!("ip -n {name} link set {device} up; ip -n {there} link set tun up"));
            for client in naive.clients(name) {
                line(format!("ip -n {there} address replace {client}/{length} dev tun"));
            }
            line(format!("ip -n {there} route replace default via {own}"));
        }
        self.host.sh(&script);
    }

    /// The link-local addresses of all wires with IPv6, each as the far end dials it and as its own end has it, and whether its
    /// wire lets everything pass.
    fn link_local(&self) -> Vec<Local> {
        let mut found = Vec::new();
        for wire in self.naive.file.wire.iter().filter(|wire| wire.subnet6.is_some()) {
            let ends = [0, 1].map(|end| self.own_link_local(&wire.ends[end], &wire.name));
            for (here, there) in [(0, 1), (1, 0)] {
                found.push(Local {
                    owner: Place::Node(wire.ends[here].clone()),
                    own: ends[here],
                    asker: Place::Node(wire.ends[there].clone()),
                    dialled: Address { scope: ends[there].scope, ..ends[here] },
                    source: ends[there].ip,
                    audit: wire.is_audit(),
                });
            }
        }
        found
    }

    /// The link-local address of an end, which comes when the carrier has been noticed.
    fn own_link_local(&self, node: &str, wire: &str) -> Address {
        let start = Instant::now();
        loop {
            let link = self.host.link(node, wire);
            let addresses = link["addr_info"].as_array().expect("addresses");
            let ready = |address: &&Value| address["scope"] == "link" && address["tentative"] != true;
            if let Some(address) = addresses.iter().find(ready) {
                let scope = link["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).expect("an index");
                return Address { ip: text(&address["local"]).parse().expect("an address"), scope };
            }
            assert!(start.elapsed() < Duration::from_secs(20), "wire {wire} has no link-local address at {node}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn everybody(&self) -> Everybody {
        let places = self.naive.places();
        let ports = places.iter().map(|place| (place.clone(), self.naive.ports(place))).collect();
        Everybody { addresses: self.naive.addresses(), local: self.link_local(), ports, places }
    }

    /// Every question, with what the file says of it.
    fn cells(&self, all: &Everybody) -> Vec<Cell> {
        let mut cells = Vec::new();
        for from in &all.places {
            for (to, theirs) in &all.addresses {
                // What those around the house say to themselves is no business of a wire.
                if from == to && !matches!(from, Place::Node(_)) {
                    continue;
                }
                let whats = all.whats(to);
                for &address in theirs {
                    for source in self.sources(all, from, address) {
                        cells.extend(whats.iter().map(|&what| Cell {
                            from: from.clone(),
                            source,
                            to: Address { ip: address, scope: 0 },
                            owner: to.clone(),
                            what,
                            expected: self.naive.judge(from, source, address, what),
                        }));
                    }
                }
            }
        }
        for Local { owner, asker, dialled, source, audit, .. } in &all.local {
            cells.extend(all.whats(owner).into_iter().map(|what| Cell {
                from: asker.clone(),
                source: None,
                to: *dialled,
                owner: owner.clone(),
                what,
                expected: match audit {
                    true => Verdict::Pass { at: owner.clone(), port: what.port(), from: Some(*source) },
                    false => Verdict::Drop,
                },
            }));
        }
        cells
    }

    /// The addresses that a place asks from. A node takes its own; who of the outside it is matters only where something is
    /// published.
    fn sources(&self, all: &Everybody, from: &Place, to: IpAddr) -> Vec<Option<IpAddr>> {
        let own = all.addresses.get(from).into_iter().flatten();
        let alike = own.filter(|source| source.is_ipv4() == to.is_ipv4()).map(|source| Some(*source));
        match from {
            Place::Node(_) => vec![None],
            Place::Outside(_) if !self.naive.is_the_hosts(to) => alike.take(1).collect(),
            _ => alike.collect(),
        }
    }

    /// A protocol number for each odd question. What has no ports cannot be told apart behind an address that several share, so
    /// each node that goes out by one has a number of its own.
    fn numbers(&mut self, cells: &[Cell]) -> Vec<u8> {
        let mut speakers: Vec<&Place> = Vec::new();
        let mut numbers = Vec::new();
        for cell in cells {
            let is_node = matches!(cell.from, Place::Node(_)) && cell.expected != Verdict::Drop;
            let far = self.naive.is_the_hosts(cell.to.ip) || matches!(cell.owner, Place::Outside(_));
            let mut number = self.odd;
            if cell.what == What::Odd && is_node && far {
                let known = speakers.iter().position(|place| **place == cell.from);
                number += 1 + known.unwrap_or(speakers.len());
                speakers.extend(Some(&cell.from).filter(|_| known.is_none()));
            }
            numbers.push(UNASSIGNED[number % UNASSIGNED.len()]);
        }
        self.odd += 1 + speakers.len();
        numbers
    }

    /// Asks everything, and compares.
    pub fn table(&mut self) -> Table {
        let start = Instant::now();
        let all = self.everybody();
        let cells = self.cells(&all);
        let numbers = self.numbers(&cells);
        let sites = all.sites(&cells);
        let probe = |(cell, number): (&Cell, &u8)| Probe {
            site: all.places.iter().position(|place| *place == cell.from).expect("everybody has a place"),
            source: cell.source,
            to: cell.to,
            kind: match cell.what {
                What::Tcp(_) => Kind::Tcp,
                What::Udp(_) => Kind::Udp,
                What::Echo => Kind::Echo,
                What::Odd => Kind::Raw(*number),
            },
            port: cell.what.port(),
            passes: cell.expected != Verdict::Drop,
        };
        let probes: Vec<Probe> = cells.iter().zip(&numbers).map(probe).collect();
        let seen = prober::send(&self.host, &sites, &probes);
        let mut table = Table { cells: cells.len(), ..Table::default() };
        for (cell, seen) in cells.iter().zip(&seen) {
            match cell.compare(seen) {
                Outcome::Right => {}
                Outcome::Unanswered => table.unanswered.push(format!("{cell}: {}", said(seen))),
                Outcome::Wrong => table.wrong.push(format!("{cell}, seen {}", said(seen))),
            }
            table.passing += usize::from(cell.expected != Verdict::Drop);
        }
        table.seconds = start.elapsed().as_secs_f32();
        table
    }
}

/// Everybody there is to ask and be asked.
struct Everybody {
    places: Vec<Place>,
    addresses: BTreeMap<Place, BTreeSet<IpAddr>>,
    local: Vec<Local>,
    ports: BTreeMap<Place, BTreeSet<u16>>,
}

impl Everybody {
    /// What a place is asked.
    fn whats(&self, to: &Place) -> Vec<What> {
        let ports = self.ports[to].iter().flat_map(|port| [What::Tcp(*port), What::Udp(*port)]);
        ports.chain([What::Echo, What::Odd]).collect()
    }

    /// The places with all that anybody might ask or end at there.
    fn sites(&self, cells: &[Cell]) -> Vec<Site> {
        let mut ports = self.ports.clone();
        for cell in cells {
            if let Verdict::Pass { at, port, .. } = &cell.expected
                && *port > 0
            {
                ports.entry(at.clone()).or_default().insert(*port);
            }
        }
        let site = |place: &Place| {
            let own = self.addresses.get(place).into_iter().flatten().map(|&ip| Address { ip, scope: 0 });
            let local = self.local.iter().filter(|local| local.owner == *place).map(|local| local.own);
            Site {
                name: place.to_string(),
                netns: netns(place),
                addresses: own.chain(local).collect(),
                ports: ports[place].iter().copied().collect(),
            }
        };
        self.places.iter().map(site).collect()
    }
}

/// An address that is there at once, and that nobody leaves by who is not told to.
fn second(address: &IpAddr) -> &'static str {
    if address.is_ipv6() { "nodad preferred_lft 0" } else { "" }
}

/// A link-local address.
struct Local {
    owner: Place,
    /// As its own end has it, and as the far end dials it.
    own: Address,
    dialled: Address,
    /// Who dials it, and from where.
    asker: Place,
    source: IpAddr,
    /// Whether its wire lets everything pass.
    audit: bool,
}

/// One question and its answer.
struct Cell {
    from: Place,
    source: Option<IpAddr>,
    to: Address,
    owner: Place,
    what: What,
    expected: Verdict,
}

enum Outcome {
    Right,
    Wrong,
    Unanswered,
}

impl Cell {
    fn compare(&self, seen: &Seen) -> Outcome {
        let right = match (&self.expected, seen) {
            (_, Seen::Broken(_)) => return Outcome::Unanswered,
            (Verdict::Drop, seen) => matches!(seen, Seen::Silence | Seen::Unsent(_)),
            (Verdict::Pass { .. }, Seen::Echoed) => true,
            (Verdict::Pass { at, port, from }, Seen::Answer { site, port: on, source }) => {
                at.to_string() == *site && port == on && from.is_none_or(|from| from == *source)
            }
            (Verdict::Pass { .. }, _) => false,
        };
        if right { Outcome::Right } else { Outcome::Wrong }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let source = self.source.map(|source| format!(" ({source})")).unwrap_or_default();
        write!(f, "{}{source} -> {} ({}) {}: expected ", self.from, self.to.ip, self.owner, self.what)?;
        match &self.expected {
            Verdict::Drop => write!(f, "drop"),
            Verdict::Pass { at, port, from } => {
                let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
                write!(f, "pass to {at}:{port}{from}")
            }
        }
    }
}

/// What was seen, in the words of the expectation.
fn said(seen: &Seen) -> String {
    match seen {
        Seen::Answer { site, port, source } => format!("pass to {site}:{port} from {source}"),
        Seen::Echoed => "pass, echoed".to_owned(),
        Seen::Refused => "pass, but nobody listens".to_owned(),
        Seen::Silence => "drop, silently".to_owned(),
        Seen::Unsent(why) => format!("drop before it left: {why}"),
        Seen::Broken(why) => format!("nothing: {why}"),
    }
}

/// How a table came out.
#[derive(Default)]
pub struct Table {
    pub cells: usize,
    pub passing: usize,
    pub wrong: Vec<String>,
    pub unanswered: Vec<String>,
    pub seconds: f32,
}

impl Table {
    /// Prints the counts and fails the test where something is wrong, with as much of it as anybody reads.
    #[track_caller]
    pub fn expect(self, name: &str) {
        let (wrong, unanswered) = (self.wrong.len(), self.unanswered.len());
        eprintln!(
            "{name}: {} cells, {} to pass: {wrong} wrong, {unanswered} unanswered, in {:.1} s",
            self.cells, self.passing, self.seconds
        );
        let lines = self.wrong.iter().chain(&self.unanswered).take(60).map(|line| format!("  {line}\n"));
        assert!(
            wrong + unanswered == 0,
            "{name}: {wrong} wrong, {unanswered} unanswered\n{}",
            lines.collect::<String>()
        );
    }
}

/// The topology of a shipped file.
fn shipped(name: &str) -> String {
    let path = format!("{}/topology/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).expect(&path)
}

/// Wires a shipped house and asks everything.
fn holds(name: &str) {
    let mut house = House::new(&shipped(name));
    house.host.wire(&["up"]).expect(0);
    house.table().expect(name);
}

#[test]
fn pluto_is_as_the_file_says() {
    holds("pluto");
}

#[test]
fn home_server_is_as_the_file_says() {
    holds("home-server");
}

#[test]
fn svc_is_as_the_file_says() {
    holds("svc");
}

#[test]
fn own_private_cloud_is_as_the_file_says() {
    holds("own-private-cloud");
}

#[test]
fn chown_me_is_as_the_file_says() {
    holds("chown-me");
}
