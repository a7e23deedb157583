//! What a valid topology says and its author may not have meant. It knows the topology alone, and no text.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::error::Fault;
use crate::topology::{Allowed, Flow, Name, Protocol, Topology, Whom};

/// What a valid topology says and its author may not have meant.
pub fn warnings(topology: &Topology) -> Vec<Fault> {
    let mut warnings = Vec::new();
    let mut warn = |place, message: String, hint: &str| {
        warnings.push(Fault { place, message, hint: Some(hint.to_owned()) });
    };
    for wire in &topology.wires {
        if !wire.subnet.network().is_private() {
            let hint = "take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16";
            warn(wire.place, format!("wire `{}`: {} is not a private network", wire.name, wire.subnet), hint);
        }
        if let Some(subnet) = wire.subnet6.filter(|subnet| !subnet.network().is_unique_local()) {
            warn(
                wire.place,
                format!("wire `{}`: {subnet} is not a private network", wire.name),
                "take one of fd00::/8",
            );
        }
        let is6 = |whom: &Option<Whom>| matches!(whom, Some(Whom::Network(IpNetwork::V6(_))));
        let needs6 = |flow: &&Flow| flow.flow.protocol == Protocol::Icmpv6 || is6(&flow.from) || is6(&flow.to);
        for flow in wire.allow.iter().chain(&wire.allow_back).filter(needs6).filter(|_| wire.subnet6.is_none()) {
            let message = format!("wire `{}`: `{}` never passes, as the wire has no IPv6", wire.name, flow.flow);
            warn(flow.place, message, "add a `subnet6`, or strike the flow");
        }
    }
    let wires = topology.wires_by_node();
    let wires_of = |node: &Name| wires.get(node).into_iter().flatten().copied();
    let at_host: BTreeSet<_> = wires_of(&Name::host()).map(|(wire, end)| &wire.far(end).node).collect();
    for node in topology.nodes.values().filter(|node| !node.egress.is_empty() && topology.is_leaf(node.name.as_str())) {
        let mut wires = wires_of(&node.name);
        let Some((wire, end)) = wires.find(|(wire, end)| topology.hubs.contains_key(&wire.far(*end).node)) else {
            continue;
        };
        let hub = &wire.far(end).node;
        if !at_host.contains(hub) && !at_host.contains(&node.name) {
            let message =
                format!("node `{}`: its egress ends at hub `{hub}`, which has no wire to the host", node.name);
            warn(node.place, message, "add a wire between the host and the hub");
        }
    }
    for (hub, peer) in topology
        .hubs
        .values()
        .flat_map(|hub| hub.wireguard.iter().flat_map(move |wg| wg.peers.iter().map(move |peer| (hub, peer))))
    {
        for allowed in &peer.allow {
            let reached = |node: &Name| {
                let space = topology.namespace_of(node);
                wires_of(space).any(|(wire, end)| wire.far(end).node == hub.name)
            };
            let (name, reaches) = match allowed {
                Allowed::Everything => continue,
                Allowed::Node(node) => (node, reached(node)),
                Allowed::Module(name) => {
                    (name, topology.module(name.as_str()).is_some_and(|m| m.nodes.iter().any(reached)))
                }
                Allowed::Wire(name) => {
                    (name, topology.wire(name.as_str()).is_some_and(|wire| wire.end_in(hub.name.as_str()).is_some()))
                }
            };
            if !reaches {
                let message = format!("peer `{}`: hub `{}` has no wire to `{name}`", peer.name, hub.name);
                warn(peer.place, message, "add a wire, or strike it from `allow`");
            }
        }
    }
    warnings.sort();
    warnings
}
