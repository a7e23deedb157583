//! Lines of `/etc/hosts` for one node: those that it has a wire to, and no others; and where it may open HTTPS to a hub, the sites
//! that the hub serves, so that it needs no way round through the host.

use std::net::IpAddr;

use crate::topology::{Flow, Name, Protocol, Service, Topology, Wire};
use crate::why::opened_by;

/// An address and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub address: IpAddr,
    pub names: Vec<String>,
}

/// The far ends of a node's wires, in the order of the file.
pub fn hosts(topology: &Topology, node: &Name) -> Vec<Line> {
    let node = topology.namespace_of(node);
    let mut lines = Vec::new();
    for (wire, end) in topology.wires_of(node.as_str()) {
        let far = wire.far(end);
        let sharing =
            topology.nodes.keys().filter(|name| **name != far.node && *topology.namespace_of(name) == far.node);
        let mut names: Vec<String> = [&far.node].into_iter().chain(sharing).map(Name::to_string).collect();
        names.extend(sites(topology, wire, end));
        let addresses = [Some(far.address.into()), far.address6.map(IpAddr::from)];
        lines.extend(addresses.into_iter().flatten().map(|address| Line { address, names: names.clone() }));
    }
    lines
}

/// What a hub at the far end of a wire serves, where the near one may ask it.
fn sites(topology: &Topology, wire: &Wire, end: usize) -> Vec<String> {
    let Some(hub) = topology.hubs.get(&wire.far(end).node) else { return Vec::new() };
    let https = Service { protocol: Protocol::Tcp, ports: vec![(443, 443)], icmp_type: None };
    let opens = |flow: &Flow| flow.flow.covers(&https);
    if !opened_by(wire, end).iter().any(opens) {
        return Vec::new();
    }
    let hosts = hub.sites.iter().map(|site| &site.host).chain(hub.redirects.iter().map(|redirect| &redirect.host));
    let mut hosts: Vec<String> = hosts.map(|host| host.to_ascii_lowercase()).collect();
    let mut seen = std::collections::BTreeSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    hosts
}
