//! What may begin in one namespace, with the devices that its packets come in on and leave by.

use super::{Opening, Path, Policy, Rules};
use crate::topology::{Device, Name};

/// An opening, and the way of its first packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// None for what comes from outside to the host itself.
    pub wire: Option<Name>,
    pub opening: Opening,
    /// The devices that it may come in on; none where this node opens it itself.
    pub from: Vec<Device>,
    /// The devices that it may leave by; none where it is for this node.
    pub to: Vec<Device>,
}

impl Rules<'_> {
    /// What may begin in a node, wire by wire.
    pub fn passages(&self, node: &Name) -> Vec<Passage> {
        let mut all = Vec::new();
        let mut add = |openings: Vec<Opening>, from: &[Device], to: &[Device]| {
            for opening in openings {
                // What an opening says it is for begins with the wire.
                let wire = opening.comment.split(':').next().and_then(Name::new).filter(|wire| !wire.is_host());
                let from = opening.on.as_ref().map_or(from.to_vec(), |on| vec![on.clone()]);
                all.push(Passage { wire, opening, from, to: to.to_vec() });
            }
        };
        let host = &self.topology.host;
        let exit: Vec<Device> = self.host_wire(node).map(|exit| self.device(exit, node)).into_iter().collect();
        let tunnel: Vec<Device> = self.clients_of(node).map(|clients| clients.device.clone()).into_iter().collect();
        for (wire, side) in self.wires_of(node) {
            let own = [wire.ends[*side].device.clone()];
            add(self.into(wire, *side), &own, &[]);
            add(self.out_of(wire, *side), &[], &own);
            if node.is_host() {
                add(self.outwards(wire, *side), &own, &host.uplinks);
                add(self.handed_in(wire, *side), &host.uplinks, &own);
            } else if self.topology.hubs.contains_key(node) {
                add(self.outwards(wire, *side), &own, &exit);
                add(self.for_clients(wire, *side), &tunnel, &own);
            }
        }
        if let Some((hub, _)) = self.topology.hubs.get_key_value(node) {
            for opening in self.handed_through(hub) {
                let Path::To(device) = opening.path.clone() else { continue };
                add(vec![opening], &exit, &[device]);
            }
        }
        if node.is_host() && host.policy == Policy::All {
            for (number, flow) in host.allow.iter().enumerate() {
                let openings = [true, false].into_iter().filter_map(|ipv4| self.to_host(flow, number, ipv4));
                add(openings.collect(), &host.uplinks, &[]);
            }
        }
        all
    }
}
