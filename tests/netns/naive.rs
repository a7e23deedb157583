//! A second reading of a topology file, as plain as it can be: who reaches whom, by which port. It shares no line with the
//! program and knows nothing of rules; it takes the file's own words and asks every question anew, from the beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

/// Where packets come from and end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A namespace by the name of the node that owns it, `host` among them.
    Node(String),
    /// What lies beyond an uplink.
    Outside(String),
    /// Whoever comes in by a hub's own tunnel.
    Client(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Place::Node(name) => write!(f, "{name}"),
            Place::Outside(uplink) => write!(f, "outside({uplink})"),
            Place::Client(hub) => write!(f, "client({hub})"),
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Tcp(u16),
    Udp(u16),
    /// An echo request, of the address's family.
    Echo,
    /// A protocol that no flow can name.
    Odd,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            What::Tcp(port) => write!(f, "tcp/{port}"),
            What::Udp(port) => write!(f, "udp/{port}"),
            What::Echo => write!(f, "echo"),
            What::Odd => write!(f, "odd"),
        }
    }
}

/// What should become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    /// It arrives here, at this port (0 where there are none), from this source, which is none where that is not said.
    Pass {
        at: Place,
        port: u16,
        from: Option<IpAddr>,
    },
}

/// What the file does not say: the addresses of the host on its uplinks, its first on each first, and those beyond.
#[derive(Clone, Debug, Default)]
pub struct Around {
    pub host: Vec<(String, IpAddr)>,
    pub outside: Vec<(String, IpAddr)>,
}

/// The uplink that every pretend host has.
pub const FIRST_UPLINK: &str = "eth0";

/// Addresses of the outside that no file names: one of the Internet's own and a private one, of each family.
const STRANGERS: [&str; 4] = ["198.51.100.200", "192.168.250.9", "2001:db8:ffff::9", "fd0f::9"];

pub struct Naive {
    pub file: File,
    pub around: Around,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct File {
    #[serde(default)]
    pub wire: Vec<Wire>,
    #[serde(default)]
    pub host: Host,
    #[serde(default)]
    pub module: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub hub: BTreeMap<String, Hub>,
    #[serde(default)]
    pub node: BTreeMap<String, Node>,
    #[serde(default)]
    pub set: BTreeMap<String, Set>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Wire {
    pub name: String,
    /// The namespaces it joins.
    pub ends: [String; 2],
    pub subnet: Ipv4Network,
    pub subnet6: Option<Ipv6Network>,
    #[serde(default)]
    pub allow: Vec<Flow>,
    #[serde(default)]
    pub allow_back: Vec<Flow>,
    #[serde(default)]
    pub publish: Vec<Flow>,
    pub mode: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Host {
    #[serde(default)]
    pub uplinks: Vec<String>,
    pub policy: Option<String>,
    #[serde(default)]
    pub allow: Vec<Flow>,
    pub block: Option<String>,
}

#[derive(Deserialize)]
pub struct Hub {
    pub clients: Option<Clients>,
    #[serde(default)]
    pub forward: Vec<Forward>,
}

#[derive(Deserialize)]
pub struct Clients {
    pub prefix: IpNetwork,
    pub device: String,
}

#[derive(Deserialize)]
pub struct Forward {
    pub port: Service,
    pub to: String,
    pub from: Option<String>,
}

#[derive(Default, Deserialize)]
pub struct Node {
    pub shares: Option<String>,
    #[serde(default)]
    pub egress: Vec<Flow>,
    pub snat: Option<IpAddr>,
}

#[derive(Deserialize)]
pub struct Set {
    #[serde(default)]
    pub elements: Vec<IpNetwork>,
}

/// A flow, or a published port, which is one that may be moved, bound to an address and to a device.
#[derive(Clone, Deserialize)]
#[serde(from = "Words")]
pub struct Flow {
    pub flow: Service,
    pub from: Option<String>,
    pub to: Option<String>,
    pub address: Option<IpAddr>,
    pub on: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Short(Service),
    Long { flow: Service, from: Option<String>, to: Option<String>, address: Option<IpAddr>, on: Option<String> },
}

impl From<Words> for Flow {
    fn from(words: Words) -> Flow {
        match words {
            Words::Short(flow) => Flow { flow, from: None, to: None, address: None, on: None },
            Words::Long { flow, from, to, address, on } => Flow { flow, from, to, address, on },
        }
    }
}

/// `tcp/80,443`, `udp/5000-5010:6000`, `icmp`, `icmp/echo-request`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Service {
    pub protocol: String,
    pub ports: Vec<(u16, u16)>,
    /// Where the first port ends up, if elsewhere.
    pub moved: Option<u16>,
    pub kind: Option<String>,
}

impl TryFrom<String> for Service {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Service, Self::Error> {
        let (protocol, rest) = text.split_once('/').unwrap_or((&text, ""));
        let mut service = Service { protocol: protocol.to_owned(), ports: Vec::new(), moved: None, kind: None };
        if protocol.starts_with("icmp") {
            service.kind = Some(rest.to_owned()).filter(|kind| !kind.is_empty());
            return Ok(service);
        }
        let (ports, moved) = rest.split_once(':').unwrap_or((rest, ""));
        if !moved.is_empty() {
            service.moved = Some(moved.parse()?);
        }
        for range in ports.split(',') {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            service.ports.push((low.parse()?, high.parse()?));
        }
        Ok(service)
    }
}

impl Service {
    /// Whether it is this that is sent to that address.
    pub fn is(&self, what: What, to: IpAddr) -> bool {
        match what {
            What::Tcp(port) => self.protocol == "tcp" && self.holds(port),
            What::Udp(port) => self.protocol == "udp" && self.holds(port),
            What::Echo => {
                self.protocol == if to.is_ipv4() { "icmp" } else { "icmpv6" }
                    && self.kind.as_deref().is_none_or(|kind| kind == "echo-request")
            }
            What::Odd => false,
        }
    }

    fn holds(&self, port: u16) -> bool {
        self.ports.iter().any(|(low, high)| *low <= port && port <= *high)
    }

    /// The port at the far end.
    pub fn inner(&self, port: u16) -> u16 {
        match self.moved {
            Some(first) => first + (port - self.ports[0].0),
            None => port,
        }
    }
}

impl What {
    pub fn port(self) -> u16 {
        match self {
            What::Tcp(port) | What::Udp(port) => port,
            What::Echo | What::Odd => 0,
        }
    }
}

impl Wire {
    /// The address of an end.
    pub fn address(&self, end: usize) -> IpAddr {
        // The first address of a /30 is nobody's.
        let first = if self.subnet.prefix() == 30 { 1 } else { 0 };
        Ipv4Addr::from(u32::from(self.subnet.ip()) + first + end as u32).into()
    }

    pub fn address6(&self, end: usize) -> Option<IpAddr> {
        let subnet = self.subnet6?;
        Some(Ipv6Addr::from(u128::from(subnet.ip()) + end as u128).into())
    }

    /// The address of an end, of the same family as another.
    fn address_like(&self, end: usize, other: IpAddr) -> Option<IpAddr> {
        if other.is_ipv4() { Some(self.address(end)) } else { self.address6(end) }
    }

    pub fn is_audit(&self) -> bool {
        self.mode.as_deref() == Some("audit")
    }

    /// What an end may open towards the other.
    pub fn opens(&self, end: usize) -> &[Flow] {
        if end == 0 { &self.allow } else { &self.allow_back }
    }
}

impl Naive {
    pub fn read(text: &str) -> Naive {
        let tree = DeTable::parse(text).unwrap_or_else(|error| panic!("{error}")).into_inner();
        let file = serde_json::from_value(table(&tree)).unwrap_or_else(|error| panic!("{error}"));
        let mut naive = Naive { file, around: Around::default() };
        // A wire of a node that shares another's namespace is the other's.
        let ends: Vec<_> = naive.file.wire.iter().map(|wire| wire.ends.clone().map(|end| naive.space(&end))).collect();
        naive.file.wire.iter_mut().zip(ends).for_each(|(wire, ends)| wire.ends = ends);
        naive.look_around();
        naive
    }

    /// The uplinks in their order, first the one that every pretend host has.
    pub fn uplinks(&self) -> Vec<String> {
        let mut uplinks = self.file.host.uplinks.clone();
        uplinks.retain(|uplink| uplink != FIRST_UPLINK);
        uplinks.insert(0, FIRST_UPLINK.to_owned());
        uplinks
    }

    /// What the addresses of an uplink begin with, in both families. At the host they end in 2, beyond it in 1.
    pub fn uplink(number: usize) -> [String; 2] {
        let first = if number == 0 { "192.0.2.".to_owned() } else { format!("198.18.{number}.") };
        [first, format!("2001:db8:0:{number}::")]
    }

    /// Gives the host and the world beyond its uplinks the addresses that the file speaks of, and some that it does not.
    fn look_around(&mut self) {
        let mut around = Around::default();
        for (number, uplink) in self.uplinks().into_iter().enumerate() {
            for family in Naive::uplink(number) {
                around.host.push((uplink.clone(), parsed(&format!("{family}2"))));
                around.outside.push((uplink.clone(), parsed(&format!("{family}1"))));
            }
        }
        let file = &self.file;
        let published = file.wire.iter().flat_map(|wire| &wire.publish).filter_map(|publish| publish.address);
        let own: BTreeSet<IpAddr> = published.chain(file.node.values().filter_map(|node| node.snat)).collect();
        around.host.extend(own.into_iter().map(|own| (FIRST_UPLINK.to_owned(), own)));

        let of_flow = |flow: &Flow| [flow.from.clone(), flow.to.clone()];
        let mut whom: Vec<String> = file.host.allow.iter().flat_map(of_flow).flatten().collect();
        whom.extend(file.wire.iter().flat_map(|wire| &wire.publish).flat_map(of_flow).flatten());
        whom.extend(file.node.values().flat_map(|node| &node.egress).flat_map(of_flow).flatten());
        whom.extend(file.hub.values().flat_map(|hub| &hub.forward).filter_map(|forward| forward.from.clone()));
        whom.extend(file.host.block.clone());
        let named = whom.iter().flat_map(|whom| self.networks(whom)).map(member);
        let others: BTreeSet<IpAddr> = named.chain(STRANGERS.iter().map(|text| parsed(text))).collect();
        self.around = around;
        for other in others {
            if self.owner(other).is_none() {
                self.around.outside.push((FIRST_UPLINK.to_owned(), other));
            }
        }
    }

    /// Two clients of a hub, and those that the file names.
    pub fn clients(&self, hub: &str) -> BTreeSet<IpAddr> {
        let Some(clients) = &self.file.hub[hub].clients else { return BTreeSet::new() };
        let flows = self.wires(hub).into_iter().flat_map(|(wire, end)| wire.opens(end));
        let named = flows.filter_map(|flow| flow.from.clone()).flat_map(|from| self.networks(&from)).map(member);
        let named = named.filter(|address| clients.prefix.contains(*address));
        clients
            .prefix
            .iter()
            .skip(2)
            .take(2)
            .chain(named)
            .filter(|address| *address != Naive::tunnel(clients))
            .collect()
    }

    /// Everybody who asks and is asked.
    pub fn places(&self) -> Vec<Place> {
        let nodes = self.spaces().into_iter().map(Place::Node);
        let uplinks = self.around.outside.iter().map(|(uplink, _)| Place::Outside(uplink.clone()));
        let hubs = self.file.hub.iter().filter(|(_, hub)| hub.clients.is_some());
        let clients = hubs.map(|(name, _)| Place::Client(name.clone()));
        nodes.chain(uplinks).chain(clients).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every address there is, but for link-local ones.
    pub fn addresses(&self) -> BTreeMap<Place, BTreeSet<IpAddr>> {
        let naive = self;
        let ends =
            naive.file.wire.iter().flat_map(|wire| [0, 1].map(|end| [Some(wire.address(end)), wire.address6(end)]));
        let mut all: BTreeSet<IpAddr> = ends.flatten().flatten().collect();
        all.extend(naive.around.host.iter().chain(&naive.around.outside).map(|(_, address)| *address));
        for (name, hub) in &naive.file.hub {
            all.extend(hub.clients.as_ref().map(Naive::tunnel));
            all.extend(self.clients(name));
        }
        let mut addresses: BTreeMap<Place, BTreeSet<IpAddr>> = BTreeMap::new();
        for address in all {
            let owner = naive.owner(address).expect("every address belongs to somebody");
            addresses.entry(owner).or_default().insert(address);
        }
        addresses
    }

    /// The ports that might be open at a place: those that anybody may dial there, those they end at, and next to each range.
    pub fn ports(&self, place: &Place) -> BTreeSet<u16> {
        let file = &self.file;
        let mut services: Vec<&Service> = Vec::new();
        let mut inner = BTreeSet::new();
        match place {
            Place::Node(node) => {
                for (wire, end) in self.wires(node) {
                    services.extend(wire.opens(1 - end).iter().map(|flow| &flow.flow));
                    for publish in &wire.publish {
                        let bounds = publish.flow.ports.iter().flat_map(|(low, high)| [*low, *high]);
                        match node.as_str() {
                            "host" => services.push(&publish.flow),
                            _ => inner.extend(bounds.map(|port| publish.flow.inner(port))),
                        }
                    }
                }
                for forward in file.hub.values().flat_map(|hub| &hub.forward) {
                    if node == "host" || file.hub.contains_key(node) {
                        services.push(&forward.port);
                    }
                    if self.space(forward.node()) == *node {
                        inner.extend(
                            forward.port.ports.iter().flat_map(|(a, b)| [forward.inner(*a), forward.inner(*b)]),
                        );
                    }
                }
                if node == "host" {
                    services.extend(file.host.allow.iter().map(|flow| &flow.flow));
                }
            }
            Place::Outside(_) => {
                services.extend(file.node.values().flat_map(|node| &node.egress).map(|flow| &flow.flow));
            }
            Place::Client(hub) => {
                let flows = self.wires(hub).into_iter().flat_map(|(wire, end)| wire.opens(end));
                services.extend(flows.map(|flow| &flow.flow).take(1));
            }
        }
        let ranges: BTreeSet<(u16, u16)> = services.iter().flat_map(|service| &service.ports).copied().collect();
        inner.extend(ranges.iter().flat_map(|(low, high)| [*low, *high]));
        inner.extend(ranges.iter().filter(|(low, high)| low < high).map(|(_, high)| high.saturating_add(1)));
        // One that nobody declares.
        inner.insert(9);
        inner
    }

    /// The namespaces of the file, the host's among them.
    pub fn spaces(&self) -> Vec<String> {
        let nodes = self.file.module.values().flatten().filter(|node| self.space(node) == **node);
        nodes.cloned().chain(["host".to_owned()]).collect()
    }

    /// The namespace that a node lives in.
    pub fn space(&self, node: &str) -> String {
        match self.file.node.get(node).and_then(|node| node.shares.as_ref()) {
            Some(other) => self.space(other),
            None => node.to_owned(),
        }
    }

    /// The wires of a namespace, each with the end that is in it.
    pub fn wires(&self, space: &str) -> Vec<(&Wire, usize)> {
        let ends = self.file.wire.iter().flat_map(|wire| [(wire, 0), (wire, 1)]);
        ends.filter(|(wire, end)| wire.ends[*end] == space).collect()
    }

    /// The address of a hub in its own tunnel: the second of its clients' prefix.
    pub fn tunnel(clients: &Clients) -> IpAddr {
        match clients.prefix.ip() {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + 1).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + 1).into(),
        }
    }

    /// Whose address this is.
    pub fn owner(&self, address: IpAddr) -> Option<Place> {
        for wire in &self.file.wire {
            for end in [0, 1] {
                if wire.address(end) == address || wire.address6(end) == Some(address) {
                    return Some(Place::Node(wire.ends[end].clone()));
                }
            }
        }
        for (name, hub) in &self.file.hub {
            if let Some(clients) = &hub.clients {
                if Naive::tunnel(clients) == address {
                    return Some(Place::Node(name.clone()));
                }
                if clients.prefix.contains(address) {
                    return Some(Place::Client(name.clone()));
                }
            }
        }
        if self.is_the_hosts(address) {
            return Some(Place::Node("host".to_owned()));
        }
        let beyond = self.around.outside.iter().find(|(_, other)| *other == address);
        beyond.map(|(uplink, _)| Place::Outside(uplink.clone()))
    }

    /// What becomes of something sent from a place to an address. The source is what a place of several addresses says it is;
    /// a node's is that of the end it leaves by.
    pub fn judge(&self, from: &Place, source: Option<IpAddr>, to: IpAddr, what: What) -> Verdict {
        let Some(owner) = self.owner(to) else { return Verdict::Drop };
        if owner == *from {
            // Nothing of that leaves the namespace.
            return Verdict::Pass { at: owner, port: what.port(), from: None };
        }
        let arrives = match from {
            Place::Node(node) => match &owner {
                Place::Node(_) => {
                    self.over_a_wire(node, None, to, what).or_else(|| self.beyond_the_far_end(node, &owner, to, what))
                }
                Place::Outside(uplink) if node == "host" => {
                    let here = Place::Outside(uplink.clone());
                    let answered = !self.is_blocked(to);
                    answered.then_some(Verdict::Pass { at: here, port: what.port(), from: None })
                }
                Place::Outside(uplink) => self.out(node, uplink, to, what),
                Place::Client(_) => None,
            },
            Place::Client(hub) => self.over_a_wire(hub, source, to, what),
            Place::Outside(uplink) => source.and_then(|source| self.at_the_host(uplink, source, to, what)),
        };
        arrives.unwrap_or(Verdict::Drop)
    }

    /// From a namespace to the far end of one of its wires, dialled by the address that the far end has on it. A hub's client
    /// comes with an address of its own.
    fn over_a_wire(&self, space: &str, client: Option<IpAddr>, to: IpAddr, what: What) -> Option<Verdict> {
        for (wire, end) in self.wires(space) {
            if wire.address_like(1 - end, to) != Some(to) {
                continue;
            }
            let source = match client {
                Some(client) => client,
                None => wire.address_like(end, to)?,
            };
            let lets =
                |flow: &Flow| flow.flow.is(what, to) && self.is_in(&flow.from, source) && self.is_in(&flow.to, to);
            if wire.is_audit() || wire.opens(end).iter().any(lets) {
                let at = wire.ends[1 - end].clone();
                // Only a leaf has a route to a hub's clients: to others they cannot come as themselves.
                let is_leaf = at != "host" && !self.file.hub.contains_key(&at);
                let from = Some(source).filter(|_| client.is_none() || is_leaf);
                return Some(Verdict::Pass { at: Place::Node(at), port: what.port(), from });
            }
        }
        None
    }

    /// From a node to the outside.
    fn out(&self, space: &str, uplink: &str, to: IpAddr, what: What) -> Option<Verdict> {
        let way = self.way_out(space)?;
        if self.is_blocked(to) || to.is_ipv6() && way.iter().any(|wire| wire.subnet6.is_none()) {
            return None;
        }
        let tables = || self.file.node.iter().filter(|(name, _)| self.space(name) == space).map(|(_, table)| table);
        let lets = |flow: &Flow| {
            let meant = if flow.to.is_some() { self.is_in(&flow.to, to) } else { is_public(to) };
            flow.flow.is(what, to) && meant
        };
        let open = tables().any(|table| table.egress.iter().any(lets));
        if !open && !way.iter().all(|wire| wire.is_audit()) {
            return None;
        }
        let snat = tables().find_map(|table| table.snat).filter(|snat| snat.is_ipv4() == to.is_ipv4());
        let own = self.around.host.iter().find(|(on, own)| on == uplink && own.is_ipv4() == to.is_ipv4());
        let from = snat.or(own.map(|(_, own)| *own));
        Some(Verdict::Pass { at: Place::Outside(uplink.to_owned()), port: what.port(), from })
    }

    /// The wires from a namespace to the host, by which it reaches the outside.
    fn way_out(&self, space: &str) -> Option<Vec<&Wire>> {
        let to_host: Vec<_> =
            self.wires(space).into_iter().filter(|(wire, end)| wire.ends[1 - end] == "host").collect();
        let publishing = to_host.iter().find(|(wire, _)| !wire.publish.is_empty());
        let is_hub = |space: &str| self.file.hub.contains_key(space);
        let has_snat = self.file.node.get(space).is_some_and(|node| node.snat.is_some());
        if publishing.is_some() || is_hub(space) || has_snat {
            return Some(vec![publishing.or(to_host.first())?.0]);
        }
        let to_hub = self.wires(space).into_iter().find(|(wire, end)| is_hub(&wire.ends[1 - end]));
        match to_hub {
            Some((wire, end)) => {
                let rest = self.way_out(&wire.ends[1 - end])?;
                Some([vec![wire], rest].concat())
            }
            None => Some(vec![to_host.first()?.0]),
        }
    }

    /// Whether a namespace has a default route: a hub has, and whoever publishes, has egress, is forwarded to, or may do
    /// anything on its way out.
    fn has_a_default_route(&self, space: &str) -> bool {
        let egress = self.file.node.iter().any(|(name, node)| self.space(name) == space && !node.egress.is_empty());
        let publishes = self.wires(space).iter().any(|(wire, _)| !wire.publish.is_empty());
        let mut forwards = self.file.hub.values().flat_map(|hub| &hub.forward);
        let forwarded = forwards.any(|forward| self.space(forward.node()) == space);
        let audit = self.way_out(space).is_some_and(|way| way.iter().all(|wire| wire.is_audit()));
        egress || publishes || forwarded || audit || self.file.hub.contains_key(space)
    }

    /// To another address of the node at the far end of a wire, over which a route leads there. Only a wire that lets everything
    /// pass lets that.
    fn beyond_the_far_end(&self, space: &str, owner: &Place, to: IpAddr, what: What) -> Option<Verdict> {
        let routed = space != "host" && self.has_a_default_route(space);
        let way = self.way_out(space).filter(|_| routed).unwrap_or_default();
        if way.len() > 1 && way.iter().all(|wire| wire.is_audit()) && self.is_the_hosts(to) {
            // Through a hub, which speaks for its leaves and cannot tell whose address that is.
            let end = way[1].ends.iter().position(|end| end != "host")?;
            let from = Some(way[1].address_like(end, to)?);
            return Some(Verdict::Pass { at: owner.clone(), port: what.port(), from });
        }
        let is_hub = self.file.hub.contains_key(space);
        for (wire, end) in self.wires(space) {
            let far = &wire.ends[1 - end];
            // The first wire to a hub with clients has a route to these, and so to the hub's own end of the tunnel.
            let clients = self.file.hub.get(far).and_then(|hub| hub.clients.as_ref());
            let first = self.wires(space).into_iter().find(|(wire, end)| wire.ends[1 - end] == *far);
            let tunnel = !is_hub && clients.is_some_and(|clients| clients.prefix.contains(to));
            let routed = tunnel && first.is_some_and(|(first, _)| first.name == wire.name)
                || way.first().is_some_and(|first| first.name == wire.name);
            if routed && wire.is_audit() && *owner == Place::Node(far.clone()) {
                let from = Some(wire.address_like(end, to)?);
                return Some(Verdict::Pass { at: owner.clone(), port: what.port(), from });
            }
        }
        None
    }

    /// From beyond an uplink to an address of the host that is no wire's.
    fn at_the_host(&self, uplink: &str, source: IpAddr, to: IpAddr, what: What) -> Option<Verdict> {
        if self.is_blocked(source) || !self.is_the_hosts(to) {
            return None;
        }
        let mut found = Vec::new();
        for (wire, end) in self.wires("host") {
            for publish in &wire.publish {
                let on = match &publish.on {
                    Some(device) => device == uplink,
                    None => self.file.host.uplinks.iter().any(|known| known == uplink),
                };
                let here = publish.address.is_none_or(|address| address == to);
                let family = to.is_ipv4() || wire.subnet6.is_some();
                if on && here && family && publish.flow.is(what, to) && self.is_in(&publish.from, source) {
                    let inner = publish.flow.inner(what.port());
                    found.push((publish.address.is_none(), wire.ends[1 - end].clone(), inner));
                }
            }
        }
        for (name, hub) in &self.file.hub {
            let to_host = self.wires(name).into_iter().find(|(wire, end)| wire.ends[1 - end] == "host");
            for forward in &hub.forward {
                let leaf = self.space(forward.node());
                let hop = self.wires(&leaf).into_iter().find(|(wire, end)| wire.ends[1 - end] == *name);
                let (Some((first, _)), Some((second, _))) = (to_host, hop) else { continue };
                let family = to.is_ipv4() || first.subnet6.is_some() && second.subnet6.is_some();
                if family && forward.port.is(what, to) && self.is_in(&forward.from, source) {
                    let inner = forward.inner(what.port());
                    found.push((true, leaf, inner));
                }
            }
        }
        // What is published at one address is meant before what is at all.
        found.sort();
        if let Some((_, node, port)) = found.into_iter().next() {
            return Some(Verdict::Pass { at: Place::Node(node), port, from: Some(source) });
        }
        let host = &self.file.host;
        let lets = |flow: &Flow| flow.flow.is(what, to) && self.is_in(&flow.from, source) && self.is_in(&flow.to, to);
        let open = host.policy.as_deref() != Some("all") || host.allow.iter().any(lets);
        open.then(|| Verdict::Pass { at: Place::Node("host".to_owned()), port: what.port(), from: Some(source) })
    }

    /// Whether an address is one of the host's that is no wire's.
    pub fn is_the_hosts(&self, address: IpAddr) -> bool {
        self.around.host.iter().any(|(_, own)| *own == address)
    }

    fn is_blocked(&self, address: IpAddr) -> bool {
        self.file.host.block.is_some() && self.is_in(&self.file.host.block, address)
    }

    /// Whether an address is meant by `from` or `to`: an address, a prefix, a set, or everybody.
    fn is_in(&self, whom: &Option<String>, address: IpAddr) -> bool {
        whom.as_ref().is_none_or(|whom| match whom.strip_prefix('@') {
            Some(set) => self.file.set[set].elements.iter().any(|network| network.contains(address)),
            None => whom.parse::<IpNetwork>().expect("an address or a prefix").contains(address),
        })
    }

    /// What `from` or `to` names.
    pub fn networks(&self, whom: &str) -> Vec<IpNetwork> {
        match whom.strip_prefix('@') {
            Some(set) => self.file.set[set].elements.clone(),
            None => vec![whom.parse().expect("an address or a prefix")],
        }
    }
}

impl Forward {
    pub fn node(&self) -> &str {
        self.to.rsplit_once(':').expect("a node and a port").0
    }

    pub fn inner(&self, port: u16) -> u16 {
        let first: u16 = self.to.rsplit_once(':').expect("a node and a port").1.parse().expect("a port");
        first + (port - self.port.ports[0].0)
    }
}

/// An address of a network: the second, where there are several.
fn member(network: IpNetwork) -> IpAddr {
    network.iter().nth(1).unwrap_or(network.ip())
}

fn parsed(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A table of TOML as an object of JSON, which serde reads here.
fn table(table: &DeTable) -> Value {
    table.iter().map(|(key, it)| (key.get_ref().to_string(), json(it.get_ref()))).collect::<Map<_, _>>().into()
}

fn json(value: &DeValue) -> Value {
    match value {
        DeValue::String(text) => text.to_string().into(),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Integer(number) => number.as_str().parse::<i64>().expect("a number").into(),
        DeValue::Array(list) => list.iter().map(|it| json(it.get_ref())).collect::<Vec<_>>().into(),
        DeValue::Table(inner) => table(inner),
        DeValue::Float(_) | DeValue::Datetime(_) => panic!("no topology has floats or dates"),
    }
}

/// Whether an address is one of the Internet's own.
fn is_public(address: IpAddr) -> bool {
    let private: &[&str] = match address {
        IpAddr::V4(_) => &[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ],
        IpAddr::V6(_) => &["::/8", "fc00::/7", "fe80::/10", "ff00::/8"],
    };
    !private.iter().any(|network| network.parse::<IpNetwork>().expect("a network").contains(address))
}
