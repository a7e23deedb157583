//! From the topology to the table of each namespace: deny everything, in, out and through, but for what the file lets begin.
//! Pure: no system call, and nothing of how a table is loaded.
//!
//! A packet is looked up by its device once and then meets the few rules of that one wire, however many there are. Both ends of
//! a wire have the same flows, so that whoever rules one of them gains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::nft::{Elements, Table};
use crate::topology::{
    Clients, Device, Flow, Forward, Hub, Mode, Name, Policy, Protocol, Service, Tls, Topology, Whom, Wire,
};

mod addresses;
mod chains;
mod opening;
mod passage;
mod translation;

pub use addresses::is_public;
use addresses::{elements, inside, private};
use chains::Draft;
pub use chains::clipped;
pub use opening::{Beginning, Match, Opening, Openings, Path, named};
use opening::{Egress, INSIDE, PRIVATE, Published, Towards, of_family, pairs, ranges_of};
pub use passage::Passage;

/// Addresses from first to last, both meant, with the seconds until they go.
pub type Range = (IpAddr, IpAddr, Option<u64>);
/// What the sets of the file hold now: for each disjoint ranges.
pub type Ranges = BTreeMap<Name, Vec<Range>>;

/// The counter that a table has as long as connections are to be forgotten that it lets begin no more.
pub const UNFINISHED: &str = "unfinished";

/// The rules of a topology, with what is asked of it again and again.
pub struct Rules<'a> {
    topology: &'a Topology,
    ranges: &'a Ranges,
    wires: BTreeMap<&'a Name, Vec<(&'a Wire, usize)>>,
    /// By namespace, with what its sharers may open.
    egress: BTreeMap<&'a Name, Vec<Egress<'a>>>,
    /// By hub that `wire` runs, what it needs published.
    needed: BTreeMap<&'a Name, Vec<Published<'a>>>,
    /// All subnets of wires and all prefixes of clients, of both families.
    inside: Vec<Range>,
    /// The tables of nodes that were asked for before.
    known: Mutex<BTreeMap<Name, Arc<Table>>>,
}

/// What of the host the rules depend on besides the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Circumstances {
    /// The uplinks that only forward because `wire` lets them: nothing may pass them but what the file says.
    pub opened: BTreeSet<Device>,
}

impl<'a> Rules<'a> {
    pub fn of(topology: &'a Topology, ranges: &'a Ranges) -> Rules<'a> {
        let mut egress: BTreeMap<&Name, Vec<Egress>> = BTreeMap::new();
        for node in topology.nodes.values() {
            let flows = node.egress.iter().map(|flow| Egress {
                service: Arc::new(flow.flow.clone()),
                to: flow.to.as_ref().map_or(Towards::Public, Towards::Whom),
                from: flow.from.as_ref(),
                rate: flow.rate,
                log: flow.log,
            });
            egress.entry(topology.namespace_of(&node.name)).or_default().extend(flows);
        }
        let mut needed = BTreeMap::new();
        for hub in topology.hubs.values() {
            egress.entry(&hub.name).or_default().extend(certificates(topology, hub));
            needed.insert(&hub.name, needs(hub));
        }
        let inside = inside(topology);
        Rules { topology, ranges, wires: topology.wires_by_node(), egress, needed, inside, known: Mutex::default() }
    }

    /// The table of a node other than the host: made once, however often it is asked for.
    pub fn known(&self, node: &Name) -> Option<Arc<Table>> {
        self.topology.nodes.get(node).filter(|node| node.shares.is_none())?;
        // Only a panic poisons it, and nothing here panics.
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = known().get(node) {
            return Some(table.clone());
        }
        let table = Arc::new(self.table(node, &Circumstances::default())?);
        known().insert(node.clone(), table.clone());
        Some(table)
    }

    /// The table of a node, or none for a host that the file has nothing to say about.
    pub fn table(&self, node: &Name, circumstances: &Circumstances) -> Option<Table> {
        let wires = self.wires_of(node);
        let host = &self.topology.host;
        if node.is_host() && wires.is_empty() && host.policy == Policy::Wires && host.block.is_none() {
            return None;
        }
        Some(Draft::of(self, node, circumstances))
    }

    /// What may begin in a node: what its table lets through.
    pub fn openings(&self, node: &Name) -> Openings {
        let mut all = Openings::default();
        for (wire, side) in self.wires_of(node) {
            all.list.extend(self.into(wire, *side));
            all.list.extend(self.out_of(wire, *side));
            all.list.extend(self.outwards(wire, *side));
            if node.is_host() {
                all.list.extend(self.handed_in(wire, *side));
            } else if self.topology.hubs.contains_key(node) {
                all.list.extend(self.for_clients(wire, *side));
            }
            let list = if wire.mode == Mode::Audit { &mut all.watched } else { &mut all.policed };
            for pair in pairs(wire, *side) {
                all.own.push(pair.own);
                list.push(pair.far.into());
            }
        }
        all.list.extend(self.handed_through(node));
        all.policed.extend(self.clients_of(node).map(|clients| clients.prefix));
        all
    }

    /// The devices of a node that must forward: its wires by their names, and others.
    pub fn forwarding(&self, node: &Name) -> Forwarding<'a> {
        let mut forwarding = Forwarding::default();
        for (wire, side) in self.wires_of(node) {
            let far = &wire.far(*side).node;
            let passes = match node.is_host() {
                true => !self.published(wire).is_empty() || self.speakers(wire, *side).next().is_some(),
                false => {
                    (self.topology.hubs.contains_key(node) && self.leads_outside(wire, *side, far))
                        || !self.for_clients(wire, *side).is_empty()
                }
            };
            if passes {
                forwarding.wires.insert(&wire.name);
                let exit = self.host_wire(node).filter(|_| self.leads_outside(wire, *side, far));
                if wire.subnet6.is_some() && self.passes_ipv6(wire, *side, exit) {
                    forwarding.wires6.insert(&wire.name);
                    forwarding.wires6.extend(exit.filter(|exit| exit.subnet6.is_some()).map(|exit| &exit.name));
                }
                let beyond = match node.is_host() {
                    true => self
                        .topology
                        .host
                        .uplinks
                        .iter()
                        .chain(self.published(wire).iter().filter_map(|published| published.on))
                        .collect(),
                    false if self.for_clients(wire, *side).is_empty() => Vec::new(),
                    false => self.clients_of(node).map(|clients| &clients.device).into_iter().collect(),
                };
                forwarding.devices.extend(beyond);
                forwarding.wires.extend(exit.map(|exit| &exit.name));
            }
        }
        forwarding
    }

    /// Whether what passes this node over one of its wires may be IPv6. `exit` is where a hub's leaf leaves by.
    fn passes_ipv6(&self, wire: &'a Wire, side: usize, exit: Option<&Wire>) -> bool {
        let (here, far) = (&wire.ends[side].node, &wire.far(side).node);
        let any = |openings: Vec<Opening>| openings.iter().any(|opening| !opening.ipv4);
        let watched = wire.mode == Mode::Audit;
        if here.is_host() {
            return watched || any(self.handed_in(wire, side)) || any(self.outwards(wire, side));
        }
        let outside = || watched || any(self.outwards(wire, side)) || self.forwards_to(far, wire).next().is_some();
        any(self.for_clients(wire, side)) || exit.is_some_and(|exit| exit.subnet6.is_some()) && outside()
    }

    /// Whether a leaf at the far end of a hub's wire is spoken for to the outside or handed anything from there.
    fn leads_outside(&self, wire: &Wire, side: usize, far: &'a Name) -> bool {
        let first = self.way_out(far).first().is_some_and(|first| first.name == wire.name);
        (first && self.speaks(far)) || self.forwards_to(far, wire).next().is_some() && wire.far(side).node == *far
    }

    pub fn topology(&self) -> &'a Topology {
        self.topology
    }

    pub fn wires_of(&self, node: &Name) -> &[(&'a Wire, usize)] {
        self.wires.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    fn clients_of(&self, node: &Name) -> Option<&'a Clients> {
        self.topology.hubs.get(node)?.clients.as_ref()
    }

    /// The first wire of a node that ends at the host.
    fn host_wire(&self, node: &Name) -> Option<&'a Wire> {
        self.wires_of(node).iter().find(|(wire, side)| wire.far(*side).node.is_host()).map(|(wire, _)| *wire)
    }

    fn device(&self, wire: &Wire, node: &Name) -> Device {
        let end = wire.end_in(node.as_str()).unwrap_or(0);
        wire.ends[end].device.clone()
    }

    /// The wires that a node's connections to the outside leave by, in their order; empty where there is no way out.
    fn way_out(&self, node: &Name) -> Vec<&'a Wire> {
        let own = self.host_wire(node);
        let leaf = self.topology.is_leaf(node.as_str());
        let snat = self.topology.nodes.get(node).is_some_and(|node| node.snat.is_some());
        let hub = |(wire, side): &&(&'a Wire, usize)| self.topology.hubs.contains_key(&wire.far(*side).node);
        let to_hub = self.wires_of(node).iter().find(hub).filter(|_| leaf);
        match (own, to_hub) {
            (Some(own), _) if !leaf || !own.publish.is_empty() || snat => vec![own],
            (_, Some((first, side))) => match self.host_wire(&first.far(*side).node) {
                Some(second) => vec![first, second],
                None => Vec::new(),
            },
            (own, _) => own.into_iter().collect(),
        }
    }

    /// What a namespace may open to the outside.
    fn egress(&self, node: &Name) -> &[Egress<'a>] {
        self.egress.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a namespace opens anything to the outside, or is let to by wires that only watch.
    pub fn speaks(&self, node: &Name) -> bool {
        let way = self.way_out(node);
        !way.is_empty() && (!self.egress(node).is_empty() || way.iter().all(|wire| wire.mode == Mode::Audit))
    }

    /// The nodes that speak to the outside over a host wire: the one at its far end, and the leaves of a hub.
    fn speakers(&self, wire: &'a Wire, side: usize) -> impl Iterator<Item = &'a Name> + use<'a, '_> {
        let far = &wire.far(side).node;
        let hub = self.topology.hubs.contains_key(far);
        let leaves = self.wires_of(far).iter().filter(move |_| hub).map(|(wire, side)| &wire.far(*side).node);
        let mut seen = BTreeSet::new();
        let nodes = [far].into_iter().chain(leaves).filter(move |node| seen.insert(*node));
        nodes.filter(|node| self.speaks(node) && self.way_out(node).last().is_some_and(|last| last.name == wire.name))
    }

    /// What passes the host to the outside over a wire, with whose it is. A hub speaks for all its leaves with one voice, so that
    /// what many of them may do is said once.
    fn spoken_for(&self, wire: &'a Wire, side: usize) -> Vec<(&'a Name, &Egress<'a>)> {
        let far = &wire.far(side).node;
        let mut said = BTreeSet::new();
        let all = self.speakers(wire, side).flat_map(|node| self.egress(node).iter().map(move |egress| (node, egress)));
        all.filter(|(node, egress)| node == &far || said.insert((egress.service.to_string(), egress.to.to_string())))
            .collect()
    }

    /// What is published over a host wire, whatever asks for it.
    fn published(&self, wire: &'a Wire) -> Vec<Published<'a>> {
        let mut published: Vec<Published> = (wire.publish.iter())
            .map(|publish| Published {
                service: Arc::new(publish.flow.clone()),
                arrives: Arc::new(publish.to_port.map_or(publish.flow.clone(), |port| moved(&publish.flow, port))),
                address: publish.address,
                on: publish.on.as_ref(),
                from: publish.from.as_ref(),
                rate: publish.rate,
                log: publish.log,
            })
            .collect();
        let far = &wire.ends[usize::from(wire.ends[0].node.is_host())].node;
        let first = self.host_wire(far).is_some_and(|first| first.name == wire.name);
        for need in self.needed.get(far).into_iter().flatten().filter(|_| first) {
            let said = |known: &Published| {
                known.address.is_none()
                    && known.on.is_none()
                    && known.from.is_none()
                    && known.rate.is_none()
                    && known.service.covers(&need.service)
            };
            if !published.iter().any(said) {
                published.push(need.clone());
            }
        }
        published
    }

    /// What may come to the host itself from an uplink, with `policy = "all"`.
    fn to_host(&self, flow: &Flow, number: usize, ipv4: bool) -> Option<Opening> {
        let meter = format!("host.{number}");
        let comment = format!("host: {} from outside", flow.flow);
        self.flow(ipv4, Path::In, flow, Vec::new(), Vec::new(), meter, comment)
    }

    /// The forwards of a hub that end at a leaf over this wire between the two.
    fn forwards_to<'r>(&'r self, leaf: &'r Name, wire: &'r Wire) -> impl Iterator<Item = &'a Forward> + use<'a, 'r> {
        let hub = wire.end_in(leaf.as_str()).map(|side| &wire.far(side).node);
        let hub = hub.and_then(|hub| self.topology.hubs.get_key_value(hub));
        let forwards = hub.into_iter().flat_map(|(name, hub)| hub.forwards.iter().map(move |forward| (name, forward)));
        let here = move |(hub, forward): &(&'a Name, &'a Forward)| {
            self.topology.namespace_of(&forward.to.node) == leaf
                && self.leads_to(hub, forward).is_some_and(|(first, _)| first.name == wire.name)
        };
        forwards.filter(here).map(|(_, forward)| forward)
    }

    /// The first wire between a hub and the leaf of one of its forwards, with the hub's end.
    fn leads_to(&self, hub: &Name, forward: &'a Forward) -> Option<(&'a Wire, usize)> {
        let leaf = self.topology.namespace_of(&forward.to.node);
        self.wires_of(hub).iter().find(|(wire, side)| wire.far(*side).node == *leaf).copied()
    }

    /// Whether the far end of a hub's wire has a route back to the hub's clients.
    fn knows_clients(&self, hub: &Name, wire: &Wire, side: usize) -> bool {
        let far = &wire.far(side).node;
        let first = self.wires_of(far).iter().find(|(other, side)| other.far(*side).node == *hub);
        self.topology.is_leaf(far.as_str()) && first.is_some_and(|(first, _)| first.name == wire.name)
    }

    /// The elements of a set of a table.
    pub fn elements(&self, set: &str) -> Elements {
        elements(&self.ranges(set).unwrap_or_default())
    }

    /// The ranges of a set of a table, as the rules use them.
    fn ranges(&self, set: &str) -> Option<Vec<Range>> {
        for ipv4 in [true, false] {
            if *set == of_family(PRIVATE, ipv4) {
                return Some(private(ipv4));
            }
            if *set == of_family(INSIDE, ipv4) {
                return Some(self.inside.iter().filter(|(first, _, _)| first.is_ipv4() == ipv4).copied().collect());
            }
        }
        let (ipv4, name) = match set.split_once('.')? {
            ("set", name) => (true, name),
            ("set6", name) => (false, name),
            _ => return None,
        };
        Some(ranges_of(self.ranges, &Name::new(name)?, ipv4).copied().collect())
    }
}

/// Which devices of a node have to forward.
#[derive(Debug, Default, PartialEq)]
pub struct Forwarding<'a> {
    pub wires: BTreeSet<&'a Name>,
    /// Those of them that IPv6 passes too.
    pub wires6: BTreeSet<&'a Name>,
    /// Uplinks of the host, tunnels of a hub.
    pub devices: BTreeSet<&'a Device>,
}

/// What a hub that `wire` runs needs published.
fn needs<'a>(hub: &'a Hub) -> Vec<Published<'a>> {
    let published = |service: Service, from: Option<&'a Whom>| {
        let service = Arc::new(service);
        Published { arrives: service.clone(), service, address: None, on: None, from, rate: None, log: false }
    };
    let mut needs: Vec<Published> = Vec::new();
    if !hub.sites.is_empty() || !hub.redirects.is_empty() {
        // One by one: the file may publish either itself.
        needs.extend([80, 443].map(|port| {
            let ports = vec![(port, port)];
            published(Service { protocol: Protocol::Tcp, ports, icmp_type: None }, None)
        }));
    }
    if let Some(wireguard) = &hub.wireguard {
        let ports = vec![(wireguard.listen, wireguard.listen)];
        needs.push(published(Service { protocol: Protocol::Udp, ports, icmp_type: None }, None));
    }
    needs.extend(hub.forwards.iter().map(|forward| published(forward.port.clone(), forward.from.as_ref())));
    needs
}

/// What ACME needs of egress: its directory, and somebody to ask for names.
fn certificates<'a>(topology: &Topology, hub: &Hub) -> Vec<Egress<'a>> {
    let mut asked = hub.sites.iter().map(|site| &site.tls).chain(hub.redirects.iter().map(|redirect| &redirect.tls));
    if !asked.any(|tls| *tls == Some(Tls::Acme)) {
        return Vec::new();
    }
    let directory = topology.acme.as_ref().and_then(|acme| acme.directory.as_deref());
    let authority = directory.and_then(|url| url.split("://").nth(1)).and_then(|rest| rest.split('/').next());
    let port = authority.and_then(|text| text.rsplit_once(':')).and_then(|(_, port)| port.parse().ok()).unwrap_or(443);
    let egress = |(protocol, port)| Egress {
        service: Arc::new(Service { protocol, ports: vec![(port, port)], icmp_type: None }),
        to: Towards::Anywhere,
        from: None,
        rate: None,
        log: false,
    };
    [(Protocol::Tcp, port), (Protocol::Udp, 53), (Protocol::Tcp, 53)].map(egress).into()
}

/// A service with its ports moved so that the first one is `first`.
fn moved(service: &Service, first: u16) -> Service {
    let low = service.ports.first().map_or(0, |range| range.0);
    let shift = |port: u16| first.saturating_add(port - low);
    Service { ports: service.ports.iter().map(|&(a, b)| (shift(a), shift(b))).collect(), ..service.clone() }
}
