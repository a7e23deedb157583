//! From the topology to the state it asks for. Pure: what is out of a command's scope is taken over as seen, so that one
//! difference serves `up`, `down`, `plan` and `audit` alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::rules::{Circumstances, Rules};
use crate::state::{self, End, Maker, Marks, Namespace, Route, Setting, State, Traffic};
use crate::target::Scope;
use crate::topology::{self, Device, Name, Node, Topology, Wire};

mod tunnel;

#[cfg(test)]
mod tests;

/// The wires in scope as the file says. Of what was seen it asks only which settings the kernel has.
pub fn up(topology: &Topology, rules: &Rules, scope: &Scope, seen: &State) -> State {
    let mut wanted = down(scope, seen);
    let ways = Ways::of(topology, rules);
    // One that may not be touched has no rules either, and that is told even where no wire ends.
    for name in seen.refused.keys().filter(|name| scope.nodes.contains(*name)) {
        wanted.namespaces.entry(name.clone()).or_default();
    }
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
        let touched = !namespace.ends.is_empty() || scope.nodes.contains(name) || scope.rules.contains(name);
        let known = name.is_host() || topology.nodes.get(name).is_some_and(|node| node.shares.is_none());
        let maker = seen.namespaces.get(name).map_or(Maker::Others, |seen| seen.maker);
        if topology.nodes.get(name).is_some_and(|node| touched && node.owned) {
            // One that somebody else has made is as good, and his.
            namespace.maker = if maker == Maker::Others { Maker::Others } else { Maker::Wire };
        } else if touched && known {
            // Whoever is to make it now, the node lives there.
            namespace.maker = maker;
        }
        if touched && known {
            police(rules, name, seen.namespaces.get(name), namespace);
        }
    }
    for hub in topology.hubs.values().filter(|hub| scope.nodes.contains(&hub.name)) {
        tunnel::tunnel(topology, hub, &rules.forwarding(&hub.name), seen, &mut wanted);
    }
    wanted
}

/// The rules of a node, and the forwarding that comes with them.
fn police(rules: &Rules, name: &Name, seen: Option<&Namespace>, wanted: &mut Namespace) {
    let forwarding = rules.forwarding(name);
    let mut circumstances = Circumstances::default();
    let all = |setting| seen?.others.get(&(Device::new("all")?, setting));
    // A tunnel that `wire` makes forwards by itself, and no other device that is yet to come.
    let makes_tunnel = rules.topology().hubs.get(name).is_some_and(|hub| hub.wireguard.is_some());
    if let Some(seen) = seen {
        wanted.others.clear();
        let by_itself = all(Setting::Forwarding) == Some(&1);
        for (place @ (device, setting), &now) in &seen.others {
            let is_default = !name.is_host() && device.as_str() == "default" && !forwarding.devices.is_empty();
            let forwards = !makes_tunnel && (forwarding.devices.contains(device) || is_default);
            let on = match setting {
                Setting::ForceForwarding6 => forwards && !forwarding.wires6.is_empty(),
                _ => forwards,
            };
            if device.as_str() == "all" {
                continue;
            }
            let before = seen.others_remembered.get(place);
            match (on, before) {
                (true, _) => drop(wanted.others.insert(place.clone(), 1)),
                // What somebody else has switched meanwhile stays.
                (false, Some(&before)) if now == 1 => drop(wanted.others.insert(place.clone(), before)),
                _ => {}
            }
            let ours = on && (now == 0 || before == Some(&0));
            if name.is_host() && *setting == Setting::Forwarding && ours && !by_itself {
                circumstances.opened.insert(device.clone());
            }
        }
    }
    for (wire, end) in &mut wanted.ends {
        let forwards = forwarding.wires.contains(wire);
        end.settings.insert(Setting::Forwarding, i32::from(forwards));
        let ipv6 = end.settings.get(&Setting::DisableIpv6) == Some(&0);
        if ipv6 && all(Setting::ForceForwarding6).is_some() {
            end.settings.insert(Setting::ForceForwarding6, i32::from(forwarding.wires6.contains(wire)));
        }
    }
    wanted.table = match name.is_host() {
        true => rules.table(name, &circumstances).map(Arc::new),
        false => rules.known(name),
    };
    // Only a change asks for them, and a table that is as it is to be was not taken a second time.
    let same = |seen: &Namespace| {
        seen.table.as_ref().zip(wanted.table.as_ref()).is_some_and(|(one, other)| Arc::ptr_eq(one, other))
    };
    if !seen.is_some_and(same) {
        wanted.openings = Arc::new(rules.openings(name));
    }
}

/// No wire at all, none of the scope's namespaces that `wire` has made, and every other as it was before, but for the rules of those
/// that other wires end in. What somebody else has set meanwhile stays.
pub fn down(scope: &Scope, seen: &State) -> State {
    let mut wanted = State::default();
    for (name, seen) in &seen.namespaces {
        let ours = seen.maker != Maker::Others && (scope.everything || scope.nodes.contains(name));
        let maker = if ours { Maker::Nobody } else { seen.maker };
        let ours = whole_namespace(&seen.remembered);
        let untouched = |setting: &Setting| seen.settings.get(setting) == ours.get(setting);
        let before = seen.remembered.iter().filter(|(setting, _)| untouched(setting));
        let settings = before.map(|(&setting, &value)| (setting, value)).collect();
        let mut namespace = Namespace { maker, settings, ..Namespace::default() };
        if seen.beyond {
            namespace.table = seen.table.clone();
        } else {
            let untouched = |place: &&(Device, Setting)| seen.others.get(place) == Some(&1);
            let before = seen.others_remembered.iter().filter(|(place, _)| untouched(place));
            namespace.others = before.map(|(place, value)| (place.clone(), *value)).collect();
        }
        wanted.namespaces.insert(name.clone(), namespace);
    }
    wanted
}

/// What was seen, without the wires in scope where their node is gone.
pub fn without(seen: &State, node: &Name, scope: &Scope) -> State {
    let mut wanted = State { keys: BTreeMap::new(), ..seen.clone() };
    if !seen.namespaces.contains_key(node) {
        for namespace in wanted.namespaces.values_mut() {
            namespace.ends.retain(|wire, _| !scope.wires.contains(wire));
        }
    }
    wanted
}

/// What was seen, with the elements that these sets of the file have now.
pub fn refilled<'a>(rules: &Rules, sets: impl Iterator<Item = &'a Name>, seen: &State) -> State {
    let names: Vec<String> = sets.flat_map(|set| [format!("set.{set}"), format!("set6.{set}")]).collect();
    let mut wanted = State { keys: BTreeMap::new(), ..seen.clone() };
    for (node, namespace) in &mut wanted.namespaces {
        let Some(table) =
            namespace.table.as_mut().filter(|table| names.iter().any(|name| table.sets.contains_key(&**name)))
        else {
            continue;
        };
        for name in &names {
            if let Some(set) = Arc::make_mut(table).sets.get_mut(name.as_str()) {
                set.elements = rules.elements(name);
            }
        }
        namespace.openings = Arc::new(rules.openings(node));
    }
    wanted
}

/// What was seen, less what is out of scope.
pub fn narrow(mut seen: State, scope: &Scope) -> State {
    if scope.everything {
        return seen;
    }
    seen.keys.retain(|hub, _| scope.nodes.contains(hub));
    for (name, namespace) in &mut seen.namespaces {
        let here = scope.nodes.contains(name);
        // A wire that only the kernel knows is struck from the file: it goes with the node that the scope names.
        let meant = |wire: &Name| here || scope.wires.contains(wire);
        let before = namespace.ends.len();
        namespace.ends.retain(|wire, _| meant(wire));
        namespace.foreign.addresses.retain(|(wire, _)| meant(wire));
        namespace.foreign.routes.retain(|(wire, _)| meant(wire));
        let beyond = namespace.ends.len() < before || !here && !namespace.tunnels.is_empty();
        if !here {
            namespace.strays.clear();
            namespace.tunnels.clear();
        }
        if beyond {
            namespace.beyond = true;
            namespace.remembered.clear();
        }
    }
    seen
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

/// Where routes lead: asked for every end, so worked out once.
pub struct Ways<'a> {
    topology: &'a Topology,
    /// By node, the wire that its default route leads over.
    out: BTreeMap<&'a Name, &'a Wire>,
    /// By leaf and hub, the first wire between the two.
    to_hub: BTreeMap<(&'a Name, &'a Name), &'a Wire>,
}

impl<'a> Ways<'a> {
    pub fn of(topology: &'a Topology, rules: &Rules) -> Ways<'a> {
        // A sharer's egress and forwards are those of the namespace it lives in.
        let speaks = |node: &&Node| !node.egress.is_empty() || rules.speaks(topology.namespace_of(&node.name));
        let egress = topology.nodes.values().filter(speaks).map(|node| &node.name);
        let forwarded = topology.hubs.values().flat_map(|hub| &hub.forwards).map(|forward| &forward.to.node);
        let going_out: BTreeSet<&Name> = egress.chain(forwarded).map(|node| topology.namespace_of(node)).collect();
        let mut ways = Ways { topology, out: BTreeMap::new(), to_hub: BTreeMap::new() };
        for (node, wires) in topology.wires_by_node() {
            if let Some(wire) = out(topology, node, &wires, going_out.contains(node)) {
                ways.out.insert(node, wire);
            }
            for (wire, side) in wires.into_iter().filter(|_| topology.is_leaf(node.as_str())) {
                ways.to_hub.entry((node, &wire.far(side).node)).or_insert(wire);
            }
        }
        ways
    }

    /// The wire that a node's default route leads over, if it has one.
    pub fn out(&self, node: &Name) -> Option<&'a Wire> {
        self.out.get(node).copied()
    }

    /// The routes over an end: its own subnet, a default route where it is the node's way out, and the way back to the clients
    /// of a hub.
    fn routes(&self, wire: &Wire, side: usize) -> BTreeSet<Route> {
        let (end, far) = (&wire.ends[side], wire.far(side));
        let own = IpAddr::from(end.address);
        let mut routes = BTreeSet::from([Route { to: wire.subnet.into(), via: None, from: Some(own) }]);
        routes.extend(wire.subnet6.map(|subnet| Route { to: subnet.into(), via: None, from: None }));
        let is = |known: Option<&&Wire>| known.is_some_and(|known| known.name == wire.name);
        let clients = self.topology.hubs.get(&far.node).and_then(|hub| hub.clients.as_ref());
        let clients = clients.filter(|_| is(self.to_hub.get(&(&end.node, &far.node))));
        for via in [Some(IpAddr::from(far.address)), far.address6.map(IpAddr::from)].into_iter().flatten() {
            if is(self.out.get(&end.node)) {
                let everywhere: IpAddr = match via {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                routes.insert(Route { to: address(everywhere, 0), via: Some(via), from: None });
            }
            if let Some(clients) = clients.filter(|clients| clients.prefix.is_ipv4() == via.is_ipv4()) {
                routes.insert(Route { to: clients.prefix, via: Some(via), from: None });
            }
        }
        routes
    }
}

/// The wire of a node that its default route leads over, if replies or egress need one.
fn out<'a>(topology: &Topology, node: &Name, wires: &[(&'a Wire, usize)], goes_out: bool) -> Option<&'a Wire> {
    let hub = |name: &Name| topology.hubs.contains_key(name);
    let towards = |wanted: &dyn Fn(&Name) -> bool| {
        let found: Vec<&'a Wire> =
            wires.iter().filter(|(wire, side)| wanted(&wire.far(*side).node)).map(|(wire, _)| *wire).collect();
        found
    };
    if node.is_host() {
        return None;
    }
    let to_host = towards(&Name::is_host);
    let publishing = to_host.iter().copied().find(|wire| !wire.publish.is_empty());
    // Only the host can give a node an address of its own, and only what comes from the node itself.
    let snat = topology.nodes.get(node).is_some_and(|node| node.snat.is_some()) && goes_out;
    if publishing.is_some() || hub(node) || snat {
        return publishing.or(to_host.first().copied());
    }
    let to_hub = towards(&hub);
    to_hub.first().or(to_host.first()).copied().filter(|_| goes_out)
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
