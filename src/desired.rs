//! From the topology to the state it asks for. Pure: what is out of a command's scope is taken over as seen, so that one
//! difference serves `up`, `down`, `plan` and `audit` alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::state::{self, End, Marks, Namespace, Route, Setting, State, Traffic};
use crate::target::Scope;
use crate::topology::{self, Name, Topology, Wire};

#[cfg(test)]
mod tests;

/// The wires in scope as the file says. Of what was seen it asks only which settings the kernel has.
pub fn up(topology: &Topology, scope: &Scope, seen: &State) -> State {
    let mut wanted = down(seen);
    let ways = Ways::of(topology);
    for wire in topology.wires.iter().filter(|wire| scope.wires.contains(&wire.name)) {
        for side in 0..2 {
            let namespace = wanted.namespaces.entry(wire.ends[side].node.clone()).or_default();
            namespace.ends.insert(wire.name.clone(), end(&ways, wire, side));
        }
    }
    for (name, namespace) in &mut wanted.namespaces {
        if let Some(seen) = seen.namespaces.get(name).filter(|_| !namespace.ends.is_empty()) {
            namespace.settings = whole_namespace(&seen.settings);
        }
    }
    wanted
}

/// No wire at all, and every namespace as it was before. What somebody else has set meanwhile stays.
pub fn down(seen: &State) -> State {
    let mut wanted = State::default();
    for (name, seen) in &seen.namespaces {
        let ours = whole_namespace(&seen.remembered);
        let untouched = |setting: &Setting| seen.settings.get(setting) == ours.get(setting);
        let before = seen.remembered.iter().filter(|(setting, _)| untouched(setting));
        let settings = before.map(|(&setting, &value)| (setting, value)).collect();
        wanted.namespaces.insert(name.clone(), Namespace { settings, ..Namespace::default() });
    }
    wanted
}

/// What was seen, less what is out of scope.
pub fn narrow(seen: &State, scope: &Scope) -> State {
    let mut state = seen.clone();
    for (name, namespace) in &mut state.namespaces {
        let here = scope.everything || scope.nodes.contains(name);
        // A wire that only the kernel knows is struck from the file: it goes with the node that the scope names.
        let meant = |wire: &Name| here || scope.wires.contains(wire);
        let before = namespace.ends.len();
        namespace.ends.retain(|wire, _| meant(wire));
        namespace.foreign.addresses.retain(|(wire, _)| meant(wire));
        namespace.foreign.routes.retain(|(wire, _)| meant(wire));
        if !here {
            namespace.strays.clear();
        }
        if namespace.ends.len() < before {
            namespace.remembered.clear();
        }
    }
    state
}

/// One end as the file says.
fn end(ways: &Ways, wire: &Wire, side: usize) -> End {
    let end = &wire.ends[side];
    let mut addresses = BTreeSet::from([address(end.address.into(), wire.subnet.prefix())]);
    let mut settings: BTreeMap<Setting, i32> = state::EVERY_END.into();
    match (end.address6, wire.subnet6) {
        (Some(own), Some(subnet)) => {
            addresses.insert(address(own.into(), subnet.prefix()));
            settings.extend(state::WITH_IPV6);
        }
        _ => settings.extend(state::WITHOUT_IPV6),
    }
    End {
        device: end.device.clone(),
        altname: end.device.as_str() != wire.name.as_str(),
        marks: Marks { group: true, alias: true, mac: topology::mac(&wire.name, side) },
        far: Some(wire.far(side).node.clone()),
        mtu: wire.mtu,
        up: true,
        arp: true,
        enslaved: false,
        addresses,
        routes: ways.routes(wire, side),
        settings,
        traffic: Traffic::default(),
    }
}

/// An address as the kernel lists it. A prefix that its family does not have cannot come out of a checked file.
fn address(ip: IpAddr, prefix: u8) -> IpNetwork {
    IpNetwork::new(ip, prefix).unwrap_or(IpNetwork::from(ip))
}

/// Where routes lead: asked for every end, so gathered once.
pub struct Ways<'a> {
    topology: &'a Topology,
    wires: BTreeMap<&'a Name, Vec<(&'a Wire, usize)>>,
    /// The namespaces that open connections to the outside or answer some from there.
    going_out: BTreeSet<&'a Name>,
}

impl<'a> Ways<'a> {
    pub fn of(topology: &'a Topology) -> Ways<'a> {
        // A sharer's egress and forwards are those of the namespace it lives in.
        let egress = topology.nodes.values().filter(|node| !node.egress.is_empty()).map(|node| &node.name);
        let forwarded = topology.hubs.values().flat_map(|hub| &hub.forwards).map(|forward| &forward.to.node);
        let going_out = egress.chain(forwarded).map(|node| topology.namespace_of(node)).collect();
        Ways { topology, wires: topology.wires_by_node(), going_out }
    }

    fn wires_of(&self, node: &Name) -> &[(&'a Wire, usize)] {
        self.wires.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// The wire of a node that its default route leads over, if replies or egress need one.
    pub fn out(&self, node: &Name) -> Option<&'a Wire> {
        if node.is_host() {
            return None;
        }
        let hub = |name: &Name| self.topology.hubs.contains_key(name);
        let wires = self.wires_of(node).iter();
        let mut to_host = wires.clone().filter(|(wire, side)| wire.far(*side).node.is_host()).map(|(wire, _)| *wire);
        let publishing = to_host.clone().find(|wire| !wire.publish.is_empty());
        if publishing.is_some() || hub(node) {
            return publishing.or_else(|| to_host.next());
        }
        let mut to_hub = wires.filter(|(wire, side)| hub(&wire.far(*side).node)).map(|(wire, _)| *wire);
        self.going_out.contains(node).then(|| to_hub.next().or_else(|| to_host.next()))?
    }

    /// The routes over an end: its own subnet, a default route where it is the node's way out, and the way back to the clients of a hub.
    fn routes(&self, wire: &Wire, side: usize) -> BTreeSet<Route> {
        let node = &wire.ends[side].node;
        let far = wire.far(side);
        let gateways = [Some(IpAddr::from(far.address)), far.address6.map(IpAddr::from)];
        let own = IpAddr::from(wire.ends[side].address);
        let mut routes = BTreeSet::from([Route { to: wire.subnet.into(), via: None, from: Some(own) }]);
        routes.extend(wire.subnet6.map(|subnet| Route { to: subnet.into(), via: None, from: None }));
        for via in gateways.into_iter().flatten() {
            if self.out(node).is_some_and(|out| out.name == wire.name) {
                let everywhere: IpAddr = match via {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                routes.insert(Route { to: address(everywhere, 0), via: Some(via), from: None });
            }
            let clients = self.topology.hubs.get(&far.node).and_then(|hub| hub.clients.as_ref());
            let first = || self.wires_of(node).iter().find(|(other, own)| other.far(*own).node == far.node);
            if let Some(clients) = clients
                && self.topology.is_leaf(node.as_str())
                && clients.prefix.is_ipv4() == via.is_ipv4()
                && first().is_some_and(|(other, _)| other.name == wire.name)
            {
                routes.insert(Route { to: clients.prefix, via: Some(via), from: None });
            }
        }
        routes
    }
}

/// The settings of a whole namespace that would undo those of an end: a redirect is taken or 127.0.0.0/8 routed where either
/// says so, and `rp_filter` counts by its maximum, of which 2 is the loose one (ip-sysctl).
fn whole_namespace(seen: &BTreeMap<Setting, i32>) -> BTreeMap<Setting, i32> {
    let wanted = |(&setting, &value): (&Setting, &i32)| match setting {
        Setting::RpFilter => (setting, value.min(1)),
        _ => (setting, 0),
    };
    seen.iter().map(wanted).collect()
}

/// The namespaces that a full run looks into: all that wires end in, and the nodes that must stay without.
pub fn namespaces(topology: &Topology) -> BTreeSet<Name> {
    let nodes = topology.nodes.values().filter(|node| node.shares.is_none()).map(|node| node.name.clone());
    nodes.chain([Name::host()]).collect()
}
