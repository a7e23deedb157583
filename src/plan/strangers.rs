//! What is not wire's: named, with what its owner can do about it, and left alone.

use ipnetwork::IpNetwork;

use super::{Finding, Plan};
use crate::state::{End, Namespace, State};
use crate::topology::{Name, Topology};

impl Plan {
    /// What is not wire's and stands in the way of an end.
    pub(super) fn strangers(&mut self, wire: &Name, node: &Name, end: &End, seen: &Namespace) {
        let foreign = &seen.foreign;
        let mut find = |kind, message, hint| {
            self.findings.push(Finding {
                node: node.clone(),
                wire: Some(wire.clone()),
                kind,
                message,
                hint,
                blocks: true,
            });
        };
        let wants = |name: &String| name == end.device.as_str() || name == wire.as_str();
        for device in foreign.devices.iter().filter(|names| names.iter().any(wants)) {
            find(
                "taken",
                format!(
                    "{node} has a device `{}` that is not wire's and has the name that wire `{wire}` needs",
                    device[0]
                ),
                format!(
                    "rename or remove it, or give the wire another `ifname`: `ip link del {}` in {node}",
                    device[0]
                ),
            );
        }
        for (_, address) in foreign.addresses.iter().filter(|(on, _)| on == wire) {
            find(
                "foreign-address",
                format!("the end of wire `{wire}` in {node} has an address {address} that is not wire's"),
                format!("`ip addr del {address} dev {}` in {node}", end.device),
            );
        }
        for (network, device) in &foreign.networks {
            let own = end.addresses.iter().find(|own| network.prefix() != 0 && overlap(own, network));
            if let Some(own) = own {
                find(
                    "overlap",
                    format!("the subnet of wire `{wire}` ({own}) overlaps {network}, which {node} has on `{device}`"),
                    "give the wire another subnet, or `wire number` one".to_owned(),
                );
            }
            if end.routes.iter().any(|route| route.to == *network) {
                find(
                    "foreign-route",
                    format!(
                        "{node} has a route to {} over `{device}` already; wire `{wire}` is to have it",
                        words(network)
                    ),
                    format!("`ip route del {} dev {device}` in {node}", words(network)),
                );
            }
        }
    }
}

fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

fn words(network: &IpNetwork) -> String {
    if network.prefix() == 0 { "default".to_owned() } else { network.to_string() }
}

/// What is foreign in the namespaces that the file speaks of, keeps no wire from working, and still must not be there.
pub fn strangers(topology: &Topology, seen: &State) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wires = topology.wires_by_node();
    for (node, namespace) in &seen.namespaces {
        let none = !wires.contains_key(node);
        let tunnel =
            topology.hubs.get(node).and_then(|hub| hub.clients.as_ref()).map(|clients| clients.device.as_str());
        // The host's devices are its own, and a container that the file does not name is nobody's business here.
        let policed = topology.nodes.contains_key(node);
        let foreign = namespace.foreign.devices.iter().map(|names| &names[0]).filter(|_| policed);
        for device in foreign.filter(|device| Some(device.as_str()) != tunnel) {
            let (kind, message) = match none {
                true => ("network", format!("{node} is to have nothing but loopback, and has a device `{device}`")),
                false => ("foreign-device", format!("{node} has a device `{device}` that is not wire's")),
            };
            let hint = format!("start the container with `--network none`, or `ip link del {device}` in {node}");
            findings.push(Finding { node: node.clone(), wire: None, kind, message, hint, blocks: false });
        }
        for (wire, to) in &namespace.foreign.routes {
            findings.push(foreign_route(node, wire, to));
        }
    }
    findings
}

/// A route over an end that `wire` did not make.
pub(super) fn foreign_route(node: &Name, wire: &Name, to: &IpNetwork) -> Finding {
    Finding {
        node: node.clone(),
        wire: Some(wire.clone()),
        kind: "foreign-route",
        message: format!("{node} has a route to {} over wire `{wire}` that is not wire's", words(to)),
        hint: format!("`ip route del {}` in {node}", words(to)),
        blocks: false,
    }
}
