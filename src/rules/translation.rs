//! Other destinations for what is published or handed on, and other sources for what leaves.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Rules;
use super::chains::{Draft, clipped, device_set, number, services};
use super::opening::{Published, named, pairs};
use crate::nft::build::{Side, Way};
use crate::nft::{Among, Base, Chain, Compare, Hook, Kind, Rule};
use crate::topology::{Device, Protocol, Service, Whom, Wire};

impl<'a> Draft<'_, 'a> {
    /// Other destinations for what is published or handed on, and other sources for what leaves.
    pub(super) fn translation(&mut self) {
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
                for published in rules.published(wire) {
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
            return list.into_iter().map(|rule| rule.dnat(far, None).comment(comment.clone())).collect();
        }
        // The kernel would give any port of a range: one by one, each keeps its place.
        let ports = |service: &Service| {
            service.ports.clone().into_iter().flat_map(|(low, high)| low..=high).collect::<Vec<u16>>()
        };
        let pairs = ports(&published.service).into_iter().zip(ports(&published.arrives));
        pairs
            .map(|(from, to)| {
                let rule = start.clone().ports(number(published.service.protocol), (from, from));
                rule.dnat(far, Some(to)).comment(comment.clone())
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
                before.push(rule.dnat(far, to).comment(clipped(&comment)));
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
                behind.push(rule.snat(pair.own).comment(clipped(&comment)));
            }
        }
        (before, behind)
    }
}

impl<'a> Rules<'a> {
    /// The rule under which what leaves over a host wire is seen outside: the address that the file gives the node at its far
    /// end, or the uplink's own.
    fn leave(&self, wire: &'a Wire, side: usize, far: IpAddr, uplinks: &[&Device]) -> Option<Rule> {
        self.speakers(wire, side).next()?;
        let rule = Rule::new().devices(Way::Out, device_set(uplinks), false);
        let rule = rule.address(Side::Source, Compare::Equal, &IpNetwork::from(far));
        let comment = clipped(&format!("{}: outside", wire.name));
        let node = self.topology.nodes.get(&wire.far(side).node);
        let rule = match node.and_then(|node| node.snat).filter(|snat| snat.is_ipv4() == far.is_ipv4()) {
            Some(snat) => rule.snat(snat),
            None => rule.masquerade(),
        };
        Some(rule.comment(comment))
    }
}
