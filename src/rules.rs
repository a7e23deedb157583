//! From the topology to the table of each namespace: deny everything, in, out and through, but for what the file lets begin.
//! Pure: no system call, and nothing of how a table is loaded.
//!
//! A packet is looked up by its device once and then meets the few rules of that one wire, however many there are. Both ends of
//! a wire have the same flows, so that whoever rules one of them gains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnetwork::IpNetwork;

use crate::nft::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, NEW, RELATED, Side, TCP, UDP, Way, among};
use crate::nft::{
    Among, Base, Chain, Compare, Element, Hook, Key, Kind, Leads, Limit, Rule, Set, Table, Target, Text, Type, Value,
    Verdict,
};
use crate::topology::{
    Clients, Device, Flow, Forward, Hub, Mode, Name, OUTSIDE, Per, Policy, Protocol, Service, Tls, Topology, Whom, Wire,
};

mod opening;
#[cfg(test)]
mod tests;

pub use opening::{Beginning, Opening, Openings};
use opening::{Egress, INSIDE, Match, PRIVATE, Path, Published, Towards, named, of_family, pairs, ranges_of};

/// Addresses from first to last, both meant, with the seconds until they go.
pub type Range = (IpAddr, IpAddr, Option<u64>);
/// What the sets of the file hold now: for each disjoint ranges.
pub type Ranges = BTreeMap<Name, Vec<Range>>;

/// How often a denied packet of one wire is logged: a flood fills neither disk nor log.
const LOGGED: Limit = Limit { rate: 10, unit: 1, burst: 20, over: false };
/// How many addresses are counted against a rate at once. One more is let nowhere.
const METERED: u32 = 65_536;
/// How many different flows a wire in audit mode remembers.
const WOULD_BE: u32 = 4096;
/// `NFT_USERDATA_MAXLEN` is 256, and nft takes comments of up to 128 bytes with the closing NUL.
const COMMENT_MAX: usize = 127;

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
        let mut draft = Draft { rules: self, node, table: Table::default() };
        draft.base(circumstances);
        for (wire, side) in wires {
            draft.wire(wire, *side);
        }
        if let Some(clients) = self.clients_of(node) {
            draft.clients(clients);
        }
        draft.translation();
        Some(draft.table)
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
                true => !self.published(wire, *side).is_empty() || self.speakers(wire, *side).next().is_some(),
                false => {
                    (self.topology.hubs.contains_key(node) && self.leads_outside(wire, *side, far))
                        || !self.for_clients(wire, *side).is_empty()
                }
            };
            if passes {
                forwarding.wires.insert(&wire.name);
                let beyond = match node.is_host() {
                    true => self
                        .topology
                        .host
                        .uplinks
                        .iter()
                        .chain(self.published(wire, *side).iter().filter_map(|published| published.on))
                        .collect(),
                    false if self.for_clients(wire, *side).is_empty() => Vec::new(),
                    false => self.clients_of(node).map(|clients| &clients.device).into_iter().collect(),
                };
                forwarding.devices.extend(beyond);
                if let Some(exit) = self.host_wire(node).filter(|_| self.leads_outside(wire, *side, far)) {
                    forwarding.wires.insert(&exit.name);
                }
                forwarding.ipv6 |= wire.subnet6.is_some();
            }
        }
        forwarding
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

    /// What passes the host to the outside over a wire, with whose it is.
    fn spoken_for(&self, wire: &'a Wire, side: usize) -> Vec<(&'a Name, &Egress<'a>)> {
        self.speakers(wire, side).flat_map(|node| self.egress(node).iter().map(move |egress| (node, egress))).collect()
    }

    /// What is published over a host wire, whatever asks for it.
    fn published(&self, wire: &'a Wire, side: usize) -> Vec<Published<'a>> {
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
        let _ = side;
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

    /// The rule under which what leaves over a host wire is seen outside: the address that the file gives the node at its far
    /// end, or the uplink's own.
    fn leave(&self, wire: &'a Wire, side: usize, far: IpAddr, uplinks: &[&Device]) -> Option<Rule> {
        self.speakers(wire, side).next()?;
        let rule = Rule::new().devices(Way::Out, device_set(uplinks), false);
        let rule = rule.address(Side::Source, Compare::Equal, &IpNetwork::from(far));
        let comment = clipped(&format!("{}: outside", wire.name));
        let node = self.topology.nodes.get(&wire.far(side).node);
        let rule = match node.and_then(|node| node.snat).filter(|snat| snat.is_ipv4() == far.is_ipv4()) {
            Some(snat) => rule.from_source(snat),
            None => rule.masquerade(),
        };
        Some(rule.comment(comment))
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
    pub fn elements(&self, set: &str) -> BTreeMap<Key, Element> {
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
    /// Uplinks of the host, tunnels of a hub.
    pub devices: BTreeSet<&'a Device>,
    /// Whether IPv6 passes too.
    pub ipv6: bool,
}

/// The name of the chain that denies what goes over a wire; in audit mode, that lets it pass and remembers it.
fn end_of(wire: &Wire) -> String {
    let word = if wire.mode == Mode::Audit { "watched" } else { "denied" };
    format!("{word}.{}", wire.name)
}

fn denied(wire: &Wire) -> String {
    format!("denied.{}", wire.name)
}

/// A table being made.
struct Draft<'d, 'a> {
    rules: &'d Rules<'a>,
    node: &'d Name,
    table: Table,
}

/// What a packet meets that no wire knows.
const NOBODY: &str = "denied";

impl<'a> Draft<'_, 'a> {
    fn chain(&mut self, name: impl Into<Text>, mut chain: Chain) {
        // A thousand tables are held at once, and a list grows by doubling.
        chain.rules.iter_mut().for_each(|rule| rule.expressions.shrink_to_fit());
        chain.rules.shrink_to_fit();
        self.table.chains.insert(name.into(), chain);
    }

    fn is_hub(&self) -> bool {
        self.rules.topology.hubs.contains_key(self.node)
    }

    /// The three chains that every packet enters by, the verdict maps of the wires' devices, and what all wires share.
    fn base(&mut self, circumstances: &Circumstances) {
        let rules = self.rules;
        let host = self.node.is_host().then_some(&rules.topology.host);
        let wires = rules.wires_of(self.node);
        let devices: Vec<&Device> = wires.iter().map(|(wire, side)| &wire.ends[*side].device).collect();
        let names = |prefix: &'static str| {
            let chain = move |(wire, _): &(&Wire, usize)| format!("{prefix}.{}", wire.name);
            devices.iter().copied().zip(wires.iter().map(chain)).collect::<Vec<_>>()
        };
        let uplinks: Vec<&Device> = self.uplinks();
        let mut input = vec![Rule::new().device(Way::In, "lo").accept()];
        let mut forward = Vec::new();
        let mut output = vec![Rule::new().device(Way::Out, "lo").accept()];
        if let Some(block) = host.and_then(|host| host.block.as_ref()) {
            for ipv4 in [true, false] {
                self.set(&named(block, ipv4));
                let blocked = || {
                    let rule = Rule::new().devices(Way::In, device_set(&uplinks), false);
                    let set = Among::Named(named(block, ipv4).into());
                    rule.address_in(Side::Source, ipv4, set, false)
                        .counted()
                        .drop()
                        .comment(format!("blocked: @{block}"))
                };
                input.push(blocked());
                forward.push(blocked());
            }
        }
        if !wires.is_empty() {
            self.map("input", names("in"));
            self.map("output", names("out"));
            let mut through = names("through");
            let tunnel = rules.clients_of(self.node).map(|clients| &clients.device);
            through.extend(tunnel.map(|device| (device, "clients".to_owned())));
            if host.is_some() {
                through.extend(uplinks.iter().map(|device| (*device, OUTSIDE.to_owned())));
            }
            self.map("forward", through);
            input.push(Rule::new().dispatch(Way::In, "input"));
            output.push(Rule::new().dispatch(Way::Out, "output"));
            forward.push(Rule::new().dispatch(Way::In, "forward"));
        }
        if let Some(clients) = rules.clients_of(self.node) {
            let device = clients.device.as_str();
            let by_state = || [(ESTABLISHED, Verdict::Accept), (RELATED, Verdict::Jump("related".into()))];
            input.push(Rule::new().device(Way::In, device).by_state(by_state()));
            output.push(Rule::new().device(Way::Out, device).by_state(by_state()));
        }
        if let Some(host) = host {
            self.host_ends(&uplinks, &devices, host.policy, circumstances, [&mut input, &mut forward, &mut output]);
        }
        for (name, hook, rules) in
            [("input", Hook::Input, input), ("forward", Hook::Forward, forward), ("output", Hook::Output, output)]
        {
            let base = Base { kind: Kind::Filter, hook, priority: 0, drop: true };
            self.chain(name, Chain::base(base, rules.into_iter().chain(end(None))));
        }
        self.chain("related", related());
        self.chain(NOBODY, Chain::of(end(None)));
    }

    /// The devices that lead outside: the uplinks, and whatever else something is published on.
    fn uplinks(&self) -> Vec<&'a Device> {
        let topology = self.rules.topology;
        let on = topology.wires.iter().flat_map(|wire| &wire.publish).filter_map(|publish| publish.on.as_ref());
        let all: BTreeSet<&Device> = topology.host.uplinks.iter().chain(on).collect();
        all.into_iter().collect()
    }

    /// What the host does with packets that have nothing to do with a wire.
    fn host_ends(
        &mut self,
        uplinks: &[&Device],
        devices: &[&Device],
        policy: Policy,
        circumstances: &Circumstances,
        [input, forward, output]: [&mut Vec<Rule>; 3],
    ) {
        let rules = self.rules;
        let from_outside = || Rule::new().devices(Way::In, device_set(uplinks), false);
        for pair in rules.wires_of(self.node).iter().flat_map(|(wire, side)| pairs(wire, *side)) {
            let own = IpNetwork::from(pair.own);
            let rule = Rule::new().address(Side::Destination, Compare::Equal, &own).goto(NOBODY);
            input.push(rule.comment("a wire's address, by another way"));
        }
        for ipv4 in [true, false] {
            let inside = of_family(INSIDE, ipv4);
            if !uplinks.is_empty() && self.set(&inside) {
                let set = Among::Named(inside.into());
                let rule = from_outside().address_in(Side::Source, ipv4, set, false).goto(NOBODY);
                input.push(rule.comment("nobody outside has an address of the topology"));
            }
        }
        if !devices.is_empty() {
            let wired = Rule::new().devices(Way::Out, device_set(devices), false).goto(NOBODY);
            forward.push(wired.comment("only an uplink or a wire leads to a wire"));
        }
        match policy {
            Policy::Wires => input.push(Rule::new().accept().comment("nothing to do with a wire")),
            Policy::All => {
                input
                    .push(Rule::new().devices(Way::In, device_set(uplinks), true).accept().comment("not from outside"));
                input.extend(self.host_itself());
                // What the host forwards by itself comes from elsewhere, or is an answer.
                forward.push(Rule::new().state(ESTABLISHED | RELATED).accept());
                forward.push(from_outside().goto(NOBODY));
            }
        }
        let opened: Vec<&Device> = circumstances.opened.iter().collect();
        if !opened.is_empty() && policy == Policy::Wires {
            forward.push(Rule::new().state(ESTABLISHED | RELATED).accept());
            let rule = Rule::new().devices(Way::In, device_set(&opened), false).goto(NOBODY);
            forward.push(rule.comment("forwards for wires alone"));
        }
        forward.push(Rule::new().accept().comment("nothing to do with a wire"));
        output.push(Rule::new().accept().comment("nothing to do with a wire"));
        if !rules.wires_of(self.node).is_empty() && !uplinks.is_empty() {
            self.outside(uplinks);
        }
    }

    /// With `policy = "all"`: what may come to the host itself from an uplink.
    fn host_itself(&mut self) -> Vec<Rule> {
        let mut list = vec![
            Rule::new().by_state([
                (ESTABLISHED, Verdict::Accept),
                (RELATED, Verdict::Jump("related".into())),
                (INVALID, Verdict::Goto(NOBODY.into())),
            ]),
            // RFC 4861: neighbours and routers; RFC 2710 and 3810: who listens to which group.
            Rule::new().from_the_link().icmp_types(ICMPV6, &[134, 135, 136]).accept(),
            Rule::new().icmp_types(ICMPV6, &[130, 131, 132, 143]).accept(),
            Rule::new().ports_between(UDP, 67, 68).accept().comment("DHCP"),
            Rule::new().family(false).ports_between(UDP, 547, 546).accept().comment("DHCPv6"),
        ];
        for (number, flow) in self.rules.topology.host.allow.iter().enumerate() {
            for ipv4 in [true, false] {
                if let Some(opening) = self.rules.to_host(flow, number, ipv4) {
                    list.extend(self.open(&opening, None, Verdict::Accept));
                }
            }
        }
        list
    }

    /// What comes in on an uplink to pass the host: only what is published, by the wire it leads to.
    fn outside(&mut self, uplinks: &[&Device]) {
        let rules = self.rules;
        let mut leads = Vec::new();
        for (wire, side) in rules.wires_of(self.node) {
            let openings = rules.handed_in(wire, *side);
            if openings.is_empty() && rules.speakers(wire, *side).next().is_none() {
                continue;
            }
            let chain = format!("outside.{}", wire.name);
            let mut list = Vec::new();
            for pair in pairs(wire, *side) {
                let inside = of_family(INSIDE, pair.ipv4);
                self.set(&inside);
                let set = Among::Named(inside.into());
                list.push(Rule::new().address_in(Side::Source, pair.ipv4, set, false).goto(&denied(wire)));
            }
            list.extend(by_state(&denied(wire)));
            for opening in &openings {
                let on: Vec<&Device> = match &opening.on {
                    Some(device) => vec![device],
                    None => rules.topology.host.uplinks.iter().collect(),
                };
                let on = (on.len() < uplinks.len()).then_some(on);
                list.extend(self.open(opening, on.as_deref(), Verdict::Accept));
            }
            list.push(Rule::new().goto(&denied(wire)));
            self.chain(chain.clone(), Chain::of(list));
            leads.push((&wire.ends[*side].device, chain));
        }
        let mut list = Vec::new();
        if !leads.is_empty() {
            self.map(OUTSIDE, leads);
            list.push(Rule::new().dispatch(Way::Out, OUTSIDE));
        }
        // The rest is said once, in `forward`, behind the look at the devices.
        list.push(Rule::new().verdict(Verdict::Return));
        self.chain(OUTSIDE, Chain::of(list));
    }

    /// The chains of one wire.
    fn wire(&mut self, wire: &'a Wire, side: usize) {
        let rules = self.rules;
        let here = &wire.ends[side].node;
        self.last(wire);
        let end = end_of(wire);
        let anybody = self.is_way_out(wire, side);

        let mut list = Vec::new();
        for pair in pairs(wire, side) {
            if !pair.ipv4 {
                list.push(neighbours(Side::Source, pair.far));
            }
            let own = IpNetwork::from(pair.own);
            list.push(Rule::new().address(Side::Destination, Compare::Different, &own).goto(&end));
            list.extend(self.strangers(wire, side, pair.ipv4, anybody, &end));
        }
        list.extend(by_state(&end));
        for opening in rules.into(wire, side) {
            list.extend(self.open(&opening, None, Verdict::Accept));
        }
        list.push(Rule::new().goto(&end));
        self.chain(format!("in.{}", wire.name), Chain::of(list));

        let mut list = Vec::new();
        for pair in pairs(wire, side) {
            if !pair.ipv4 {
                list.push(neighbours(Side::Source, pair.own));
                // The kernel tells routers which groups it listens to (RFC 3810); there is none here to be told.
                list.push(Rule::new().icmp_types(ICMPV6, &[131, 132, 143]).drop());
            }
            let own = IpNetwork::from(pair.own);
            list.push(Rule::new().address(Side::Source, Compare::Different, &own).goto(&end));
        }
        list.extend(by_state(&end));
        for opening in rules.out_of(wire, side) {
            list.extend(self.open(&opening, None, Verdict::Accept));
        }
        list.push(Rule::new().goto(&end));
        self.chain(format!("out.{}", wire.name), Chain::of(list));

        let mut list = Vec::new();
        let exit = rules.host_wire(here);
        let is_exit = exit.is_some_and(|exit| exit.name == wire.name);
        if here.is_host() || self.is_hub() && !is_exit {
            self.passing_out(wire, side, &mut list);
        } else if self.is_hub() && is_exit {
            self.passing_in(wire, side, &mut list);
        }
        list.push(Rule::new().goto(&denied(wire)));
        self.chain(format!("through.{}", wire.name), Chain::of(list));
    }

    /// Whether more than the far end and its clients may be heard over a wire.
    fn is_way_out(&self, wire: &'a Wire, side: usize) -> bool {
        let rules = self.rules;
        let (here, far) = (&wire.ends[side].node, &wire.far(side).node);
        let out = rules.way_out(here).first().is_some_and(|first| first.name == wire.name) && rules.speaks(here);
        let published = far.is_host() && !rules.published(wire, side).is_empty();
        !here.is_host() && (out || published || rules.forwards_to(here, wire).next().is_some())
    }

    /// Sends to the end of the chain what comes from an address that it may not come from over this wire.
    fn strangers(&mut self, wire: &'a Wire, side: usize, ipv4: bool, anybody: bool, end: &str) -> Vec<Rule> {
        let rules = self.rules;
        let Some(pair) = pairs(wire, side).into_iter().find(|pair| pair.ipv4 == ipv4) else { return Vec::new() };
        let known = || {
            let hub = &wire.far(side).node;
            let clients = rules.clients_of(hub).filter(|_| rules.knows_clients(hub, wire, 1 - side));
            let prefixes = clients.map(|clients| clients.prefix).filter(|prefix| prefix.is_ipv4() == ipv4);
            [IpNetwork::from(pair.far)].into_iter().chain(prefixes)
        };
        let not_known = || known().fold(Rule::new(), |rule, one| rule.address(Side::Source, Compare::Different, &one));
        if !anybody {
            return vec![not_known().goto(end)];
        }
        rules
            .outsiders(wire, side, ipv4)
            .into_iter()
            .filter(|not| !matches!(not, Match::Not(one) if known().any(|known| known == *one)))
            .map(|not| match not {
                Match::NotIn(set) => {
                    self.set(&set);
                    not_known().address_in(Side::Source, ipv4, Among::Named(set.into()), false).goto(end)
                }
                Match::Not(one) => Rule::new().address(Side::Source, Compare::Equal, &one).goto(end),
                Match::Is(_) | Match::In(_) => Rule::new().goto(end),
            })
            .collect()
    }

    /// From the far end of a wire to the outside, and answers to what came in.
    fn passing_out(&mut self, wire: &'a Wire, side: usize, list: &mut Vec<Rule>) {
        let rules = self.rules;
        let here = &wire.ends[side].node;
        for pair in pairs(wire, side) {
            let far = IpNetwork::from(pair.far);
            list.push(Rule::new().address(Side::Source, Compare::Different, &far).goto(&denied(wire)));
        }
        list.extend(by_state(&denied(wire)));
        let openings = rules.outwards(wire, side);
        let watched = wire.mode == Mode::Audit && rules.speaks(&wire.far(side).node);
        if openings.is_empty() && !watched {
            return;
        }
        for pair in pairs(wire, side) {
            let inside = of_family(INSIDE, pair.ipv4);
            self.set(&inside);
            let set = Among::Named(inside.into());
            let rule = Rule::new().address_in(Side::Destination, pair.ipv4, set, false).goto(&denied(wire));
            list.push(rule.comment("no address of the topology is outside"));
        }
        for opening in &openings {
            list.extend(self.open(opening, None, Verdict::Accept));
        }
        if watched {
            let exits: Vec<&Device> = match rules.host_wire(here).filter(|exit| exit.mode == Mode::Audit) {
                _ if here.is_host() => rules.topology.host.uplinks.iter().collect(),
                Some(exit) => exit.end_in(here.as_str()).map(|end| &exit.ends[end].device).into_iter().collect(),
                None => Vec::new(),
            };
            if !exits.is_empty() {
                list.push(Rule::new().devices(Way::Out, device_set(&exits), false).goto(&end_of(wire)));
            }
        }
    }

    /// From a hub's host wire to its leaves: what the hub hands on, and answers.
    fn passing_in(&mut self, wire: &'a Wire, side: usize, list: &mut Vec<Rule>) {
        for pair in pairs(wire, side) {
            let inside = of_family(INSIDE, pair.ipv4);
            self.set(&inside);
            let set = Among::Named(inside.into());
            list.push(Rule::new().address_in(Side::Source, pair.ipv4, set, false).goto(&denied(wire)));
        }
        list.extend(by_state(&denied(wire)));
        for opening in self.rules.handed_through(&wire.ends[side].node) {
            list.extend(self.open(&opening, None, Verdict::Accept));
        }
    }

    /// What comes out of a hub's tunnel.
    fn clients(&mut self, clients: &'a Clients) {
        let rules = self.rules;
        let mut leads = Vec::new();
        for (wire, side) in rules.wires_of(self.node) {
            let openings = rules.for_clients(wire, *side);
            if openings.is_empty() && wire.mode != Mode::Audit {
                continue;
            }
            let mut list = Vec::new();
            for opening in &openings {
                list.extend(self.open(opening, None, Verdict::Accept));
            }
            list.push(Rule::new().goto(&end_of(wire)));
            let chain = format!("clients.{}", wire.name);
            self.chain(chain.clone(), Chain::of(list));
            leads.push((&wire.ends[*side].device, chain));
        }
        let mut list = vec![
            Rule::new()
                .family(clients.prefix.is_ipv4())
                .address(Side::Source, Compare::Different, &clients.prefix)
                .goto(NOBODY),
            Rule::new().family(!clients.prefix.is_ipv4()).goto(NOBODY),
        ];
        list.extend(by_state(NOBODY));
        if !leads.is_empty() {
            self.map("clients", leads);
            list.push(Rule::new().dispatch(Way::Out, "clients"));
        }
        let hub = rules.topology.hubs.get(self.node);
        if hub.and_then(|hub| hub.wireguard.as_ref()).is_some_and(|wireguard| !wireguard.isolate) {
            let device = clients.device.as_str();
            list.push(Rule::new().device(Way::Out, device).accept().comment("isolate = false"));
        }
        list.push(Rule::new().goto(NOBODY));
        self.chain("clients", Chain::of(list));
    }

    /// Other destinations for what is published or handed on, and other sources for what leaves.
    fn translation(&mut self) {
        let (before, behind) = if self.node.is_host() { self.at_host() } else { self.at_hub() };
        let mut chain = |name: &str, hook, priority, rules: Vec<Rule>| {
            if !rules.is_empty() {
                let base = Base { kind: Kind::Nat, hook, priority, drop: false };
                self.table.chains.insert(name.into(), Chain::base(base, rules));
            }
        };
        // NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC (linux/netfilter_ipv4.h).
        chain("prerouting", Hook::Prerouting, -100, before);
        chain("postrouting", Hook::Postrouting, 100, behind);
    }

    fn at_host(&mut self) -> (Vec<Rule>, Vec<Rule>) {
        let rules = self.rules;
        let uplinks = self.uplinks();
        let towards: Vec<&Device> = rules.topology.host.uplinks.iter().collect();
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        for (wire, side) in rules.wires_of(self.node) {
            for pair in pairs(wire, *side) {
                for published in rules.published(wire, *side) {
                    before.extend(self.hand_in(wire, &published, pair.far, &uplinks));
                }
                if let Some(rule) = rules.leave(wire, *side, pair.far, &towards) {
                    behind.push(rule);
                }
            }
        }
        if !before.is_empty() {
            let mut first = vec![
                Rule::new().devices(Way::In, device_set(&uplinks), true).accept(),
                Rule::new().not_for_this_host().accept(),
            ];
            for pair in rules.wires_of(self.node).iter().flat_map(|(wire, side)| pairs(wire, *side)) {
                let own = IpNetwork::from(pair.own);
                first.push(Rule::new().address(Side::Destination, Compare::Equal, &own).accept());
            }
            before.splice(0..0, first);
        }
        (before, behind)
    }

    /// A published port: what arrives for it goes to the far end.
    fn hand_in(&mut self, wire: &Wire, published: &Published, far: IpAddr, uplinks: &[&Device]) -> Vec<Rule> {
        let ipv4 = far.is_ipv4();
        if published.address.is_some_and(|address| address.is_ipv4() != ipv4)
            || matches!(published.from, Some(Whom::Network(network)) if network.is_ipv4() != ipv4)
            || matches!((published.service.protocol, ipv4), (Protocol::Icmp, false) | (Protocol::Icmpv6, true))
        {
            return Vec::new();
        }
        let mut start = Rule::new();
        if let Some(on) = published.on {
            start = start.device(Way::In, on.as_str());
        } else if self.rules.topology.host.uplinks.len() < uplinks.len() {
            let all: Vec<&Device> = self.rules.topology.host.uplinks.iter().collect();
            start = start.devices(Way::In, device_set(&all), false);
        }
        if let Some(address) = published.address {
            start = start.address(Side::Destination, Compare::Equal, &IpNetwork::from(address));
        } else {
            start = start.family(ipv4);
        }
        match published.from {
            Some(Whom::Network(network)) => start = start.address(Side::Source, Compare::Equal, network),
            Some(Whom::Set(set)) => {
                self.set(&named(set, ipv4));
                let set = Among::Named(named(set, ipv4).into());
                start = start.address_in(Side::Source, ipv4, set, false);
            }
            None => {}
        }
        let comment = clipped(&format!("{}: publish {}", wire.name, published.service));
        if published.service == published.arrives {
            let list = services(start, &published.service);
            return list.into_iter().map(|rule| rule.to_destination(far, None).comment(comment.clone())).collect();
        }
        // The kernel would give any port of a range: one by one, each keeps its place.
        let ports = |service: &Service| {
            service.ports.clone().into_iter().flat_map(|(low, high)| low..=high).collect::<Vec<u16>>()
        };
        let pairs = ports(&published.service).into_iter().zip(ports(&published.arrives));
        pairs
            .map(|(from, to)| {
                let rule = start.clone().ports(number(published.service.protocol), (from, from));
                rule.to_destination(far, Some(to)).comment(comment.clone())
            })
            .collect()
    }

    fn at_hub(&mut self) -> (Vec<Rule>, Vec<Rule>) {
        let rules = self.rules;
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        let Some(hub) = rules.topology.hubs.get(self.node) else { return (before, behind) };
        let exit = rules.wires_of(self.node).iter().find(|(wire, side)| wire.far(*side).node.is_host());
        for forward in &hub.forwards {
            let Some(((leaf, leaf_side), (exit, side))) = rules.leads_to(self.node, forward).zip(exit) else {
                continue;
            };
            for (own, far) in pairs(exit, *side).iter().flat_map(|own| {
                pairs(leaf, leaf_side).into_iter().filter(|far| far.ipv4 == own.ipv4).map(|far| (own.own, far.far))
            }) {
                let device = exit.ends[*side].device.as_str();
                let rule = Rule::new().device(Way::In, device).address(
                    Side::Destination,
                    Compare::Equal,
                    &IpNetwork::from(own),
                );
                let port = forward.port.ports.first().map(|(low, _)| *low).unwrap_or_default();
                let rule = rule.ports(number(forward.port.protocol), (port, port));
                let to = (port != forward.to.port).then_some(forward.to.port);
                let comment = format!("{}: forward {} to {}", leaf.name, forward.port, forward.to.node);
                before.push(rule.to_destination(far, to).comment(clipped(&comment)));
            }
        }
        for (wire, side) in rules.wires_of(self.node) {
            let device = wire.ends[*side].device.as_str();
            let is_exit = exit.is_some_and(|(exit, _)| exit.name == wire.name);
            let strange = !rules.for_clients(wire, *side).is_empty() && !rules.knows_clients(self.node, wire, *side);
            let speaks = || {
                let leaves = rules.wires_of(self.node).iter().map(|(wire, side)| (wire, &wire.far(*side).node));
                leaves.into_iter().any(|(wire, leaf)| {
                    rules.speaks(leaf) && rules.way_out(leaf).first().is_some_and(|first| first.name == wire.name)
                })
            };
            if !(strange || is_exit && speaks()) {
                continue;
            }
            for pair in pairs(wire, *side) {
                let own = IpNetwork::from(pair.own);
                let rule = Rule::new().device(Way::Out, device).address(Side::Source, Compare::Different, &own);
                let comment = format!("{}: under the hub's own address", wire.name);
                behind.push(rule.from_source(pair.own).comment(clipped(&comment)));
            }
        }
        (before, behind)
    }

    /// The rules that let a connection begin: more than one where there are ranges of ports.
    fn open(&mut self, opening: &Opening, on: Option<&[&Device]>, verdict: Verdict) -> Vec<Rule> {
        let ipv4 = opening.ipv4;
        let mut start = Rule::new();
        if let Some(on) = on {
            start = start.devices(Way::In, device_set(on), false);
        }
        match &opening.path {
            Path::To(device) => start = start.device(Way::Out, device.as_str()),
            Path::ToUplinks => {
                let uplinks: Vec<&Device> = self.rules.topology.host.uplinks.iter().collect();
                start = start.devices(Way::Out, device_set(&uplinks), false);
            }
            Path::In | Path::Out => {}
        }
        start = start.family(ipv4);
        for (side, matches) in [(Side::Source, &opening.from), (Side::Destination, &opening.to)] {
            for one in matches {
                start = match one {
                    Match::Is(network) => start.address(side, Compare::Equal, network),
                    Match::Not(network) => start.address(side, Compare::Different, network),
                    Match::In(set) | Match::NotIn(set) => {
                        self.set(set);
                        let inverted = matches!(one, Match::NotIn(_));
                        start.address_in(side, ipv4, Among::Named(set.as_str().into()), inverted)
                    }
                };
            }
        }
        let meter = opening.rate.as_ref().map(|(meter, rate)| {
            let name = format!("{}.{meter}", if ipv4 { "rate" } else { "rate6" });
            let unit = match rate.per {
                Per::Second => 1,
                Per::Minute => 60,
                Per::Hour => 3600,
                Per::Day => 86_400,
            };
            // Forgotten when it is whole again: sooner, it would be new and have its burst anew.
            let whole = unit * (u64::from(rate.burst) + 1) / u64::from(rate.count.max(1)) + 1;
            self.table.sets.entry(name.as_str().into()).or_insert_with(|| Set {
                key: vec![if ipv4 { Type::Ipv4 } else { Type::Ipv6 }],
                dynamic: true,
                timeout: true,
                size: METERED,
                expiry: whole.max(60),
                ..Set::default()
            });
            (name, Limit { rate: rate.count.into(), unit, burst: rate.burst, over: false })
        });
        let wire = opening.comment.split(':').next().unwrap_or_default().to_owned();
        services(start, &opening.service)
            .into_iter()
            .map(|mut rule| {
                if opening.handed_on {
                    rule = rule.handed_on();
                }
                rule = rule.state(NEW);
                if let Some((set, limit)) = &meter {
                    rule = rule.limit_each(set, ipv4, *limit);
                }
                if opening.log {
                    rule = rule.log(format!("wire allowed {wire}"));
                }
                rule.verdict(verdict.clone()).comment(clipped(&opening.comment))
            })
            .collect()
    }

    /// The chains that a wire's packets end in when nothing lets them on, and their counters.
    fn last(&mut self, wire: &Wire) {
        self.table.counters.insert(denied(wire).into(), 0);
        self.chain(denied(wire), Chain::of(end(Some(wire))));
        if wire.mode != Mode::Audit {
            return;
        }
        let (watched, would) = (end_of(wire), format!("would.{}", wire.name));
        self.table.counters.insert(watched.as_str().into(), 0);
        self.table.sets.insert(
            would.as_str().into(),
            Set {
                key: vec![Type::Ipv4, Type::Ipv4, Type::Protocol, Type::Service],
                dynamic: true,
                size: WOULD_BE,
                ..Set::default()
            },
        );
        let rules = [
            Rule::new().limit(LOGGED).log(format!("wire watched {}", wire.name)),
            Rule::new().count(&watched),
            Rule::new().protocols(&[TCP, UDP], false).state(NEW).record(&would, false),
            // Not by ICMP's own number: nft takes that for implied by what follows, and forgets it.
            Rule::new().protocols(&[TCP, UDP], true).state(NEW).record(&would, true),
            Rule::new().accept(),
        ];
        self.chain(watched, Chain::of(rules));
    }

    /// Takes a named set of addresses into the table. Whether it has any element.
    fn set(&mut self, name: &str) -> bool {
        let ranges = self.rules.ranges(name).unwrap_or_default();
        let any = !ranges.is_empty();
        let ipv4 = !(name.starts_with("set6.") || name.ends_with('6') && [PRIVATE[1], INSIDE[1]].contains(&name));
        let timeout = name.starts_with("set.") || name.starts_with("set6.");
        self.table.sets.entry(name.into()).or_insert_with(|| Set {
            key: vec![if ipv4 { Type::Ipv4 } else { Type::Ipv6 }],
            interval: true,
            timeout,
            elements: elements(&ranges),
            ..Set::default()
        });
        any
    }

    fn map(&mut self, name: &str, leads: Vec<(&Device, String)>) {
        // What leads from outside to no wire comes back: the host has its own ways.
        let verdict = |chain: String| match chain.as_str() {
            OUTSIDE => Verdict::Jump(OUTSIDE.into()),
            _ => Verdict::Goto(chain.into()),
        };
        let element = |chain| Element { leads_to: Some(Target::Verdict(verdict(chain))), ..Element::default() };
        let elements =
            leads.into_iter().map(|(device, chain)| (Key::One(Value::device(device.as_str())), element(chain)));
        self.table.sets.insert(
            name.into(),
            Set {
                key: vec![Type::IfName],
                leads_to: Some(Leads::Verdict),
                elements: elements.collect(),
                ..Set::default()
            },
        );
    }
}

/// The last rules of a chain: what comes so far is logged now and then, counted and dropped. The drop is a rule because a policy
/// alone lets packets pass in the moment in which a chain is made anew.
fn end(wire: Option<&Wire>) -> [Rule; 2] {
    match wire {
        Some(wire) => [
            Rule::new().limit(LOGGED).log(format!("wire denied {}", wire.name)),
            Rule::new().count(&denied(wire)).drop(),
        ],
        None => [Rule::new().limit(LOGGED).log("wire denied"), Rule::new().counted().drop()],
    }
}

/// Answers pass, and errors that belong to a connection; what belongs to none is denied. Three rules and no map: the kernel
/// takes long to name a set of its own in each of a thousand chains, and most packets are answers.
fn by_state(end: &str) -> [Rule; 3] {
    [
        Rule::new().state(ESTABLISHED).accept(),
        Rule::new().state(RELATED).jump("related"),
        Rule::new().state(INVALID).goto(end),
    ]
}

/// Of what conntrack takes for related, errors of ICMP alone (RFC 792, RFC 4443): no helper opens a port.
fn related() -> Chain {
    Chain::of([
        Rule::new().icmp_types(ICMP, &[3, 11, 12]).accept(),
        Rule::new().icmp_types(ICMPV6, &[1, 2, 3, 4]).accept(),
    ])
}

/// Neighbour solicitation and advertisement (RFC 4861) of one address.
fn neighbours(side: Side, address: IpAddr) -> Rule {
    let rule = Rule::new().address(side, Compare::Equal, &IpNetwork::from(address));
    rule.from_the_link().icmp_types(ICMPV6, &[135, 136]).accept()
}

/// A rule for each way of asking for a service: ports one by one in one, each range in one.
fn services(start: Rule, service: &Service) -> Vec<Rule> {
    let protocol = number(service.protocol);
    if service.ports.is_empty() {
        let kind = service.icmp_type.as_deref().and_then(|kind| icmp_number(service.protocol, kind));
        return vec![match kind {
            Some(kind) => start.icmp_type(protocol, kind),
            None => start.protocol(protocol),
        }];
    }
    let single: Vec<u16> = service.ports.iter().filter(|(low, high)| low == high).map(|(low, _)| *low).collect();
    let mut rules = match single[..] {
        [] => Vec::new(),
        [port] => vec![start.clone().ports(protocol, (port, port))],
        _ => vec![start.clone().ports_in(protocol, &single)],
    };
    let ranges = service.ports.iter().filter(|(low, high)| low != high);
    rules.extend(ranges.map(|range| start.clone().ports(protocol, *range)));
    rules
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Icmp => ICMP,
        Protocol::Icmpv6 => ICMPV6,
    }
}

/// The number of a type by nft's name (RFC 792, RFC 950, RFC 4443).
pub fn icmp_number(protocol: Protocol, name: &str) -> Option<u8> {
    let known: &[(&str, u8)] = match protocol {
        Protocol::Icmp => &[
            ("echo-reply", 0),
            ("destination-unreachable", 3),
            ("source-quench", 4),
            ("echo-request", 8),
            ("time-exceeded", 11),
            ("parameter-problem", 12),
            ("timestamp-request", 13),
            ("timestamp-reply", 14),
            ("info-request", 15),
            ("info-reply", 16),
            ("address-mask-request", 17),
            ("address-mask-reply", 18),
        ],
        Protocol::Icmpv6 => &[
            ("destination-unreachable", 1),
            ("packet-too-big", 2),
            ("time-exceeded", 3),
            ("parameter-problem", 4),
            ("echo-request", 128),
            ("echo-reply", 129),
        ],
        Protocol::Tcp | Protocol::Udp => &[],
    };
    known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// As many characters as a comment may have: names are longer than the kernel's.
pub fn clipped(text: &str) -> Text {
    text.chars().take(COMMENT_MAX).collect::<String>().into()
}

fn device_set(devices: &[&Device]) -> Among {
    among(Type::IfName, devices.iter().map(|device| Value::device(device.as_str())))
}

fn elements(ranges: &[Range]) -> BTreeMap<Key, Element> {
    let key = |first, last| Key::Range(Value::address(first), Value::address(last));
    let element = |expires| Element { expires, ..Element::default() };
    ranges.iter().map(|&(first, last, expires)| (key(first, last), element(expires))).collect()
}

/// Whatever egress has to name to reach it (RFC 1122, 1918, 3927, 5771, 6598, 1112; RFC 4193, 4291).
fn private(ipv4: bool) -> Vec<Range> {
    let networks: &[&str] = match ipv4 {
        true => &[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/3",
        ],
        // The first holds ::1, addresses that stand for IPv4 ones, and NAT64's (RFC 6052).
        false => &["::/8", "fc00::/7", "fe80::/9", "ff00::/8"],
    };
    networks.iter().filter_map(|text| text.parse().ok()).map(|network: IpNetwork| range(&network)).collect()
}

/// Whether egress reaches it without naming it.
pub fn is_public(address: IpAddr) -> bool {
    !private(address.is_ipv4()).iter().any(|(first, last, _)| (*first..=*last).contains(&address))
}

fn range(network: &IpNetwork) -> Range {
    (network.network(), network.broadcast(), None)
}

/// Every address that a wire or a tunnel of the file has, as few ranges as possible.
fn inside(topology: &Topology) -> Vec<Range> {
    let wires = topology.wires.iter();
    let subnets = wires.flat_map(|wire| [Some(IpNetwork::V4(wire.subnet)), wire.subnet6.map(IpNetwork::V6)]);
    let prefixes = topology.hubs.values().filter_map(|hub| Some(hub.clients.as_ref()?.prefix));
    let mut all: Vec<Range> = subnets.flatten().chain(prefixes).map(|network| range(&network)).collect();
    all.sort();
    let mut merged: Vec<Range> = Vec::new();
    for (first, last, _) in all {
        match merged.last_mut() {
            Some((before, end, _)) if before.is_ipv4() == first.is_ipv4() && first <= *end => *end = last.max(*end),
            Some((before, end, _)) if before.is_ipv4() == first.is_ipv4() && next(*end) == Some(first) => *end = last,
            _ => merged.push((first, last, None)),
        }
    }
    merged
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

/// What a hub that `wire` runs needs published.
fn needs<'a>(hub: &'a Hub) -> Vec<Published<'a>> {
    let published = |service: Service, from: Option<&'a Whom>| {
        let service = Arc::new(service);
        Published { arrives: service.clone(), service, address: None, on: None, from, rate: None, log: false }
    };
    let mut needs: Vec<Published> = Vec::new();
    if !hub.sites.is_empty() || !hub.redirects.is_empty() {
        let web = Service { protocol: Protocol::Tcp, ports: vec![(80, 80), (443, 443)], icmp_type: None };
        needs.push(published(web, None));
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
