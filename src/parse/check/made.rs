//! The topology that a clean draft makes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::topology::{
    Device, End, Forward, HOST, Host, Hub, Module, Name, Node, Peer, Site, Topology, Upstream, Wire,
};

use super::super::draft;
use super::{Check, Member};

impl<'d> Check<'d> {
    /// The topology; none only where something is missing that was told.
    pub(super) fn topology(&self) -> Option<Topology> {
        let draft = self.draft;
        let wires: Option<Vec<_>> =
            draft.wires.iter().zip(&self.ends).map(|(wire, ends)| self.wire(wire, (*ends)?)).collect();
        let mut nodes = BTreeMap::new();
        for member in self.members.values() {
            nodes.insert(member.name.clone(), self.node(member));
        }
        for node in draft.nodes.iter().filter(|node| node.shares.is_some()) {
            let owner = self.spaces.get(node.name.it.as_str()).copied().flatten()?;
            if let Some(owner) = nodes.get_mut(owner) {
                owner.egress.extend(node.egress.iter().cloned());
            }
        }
        let mut hubs = BTreeMap::new();
        for hub in &draft.hubs {
            hubs.insert(hub.name.it.clone(), self.hub(hub)?);
        }
        let modules = draft.modules.iter().map(|module| Module {
            name: module.name.clone(),
            nodes: module.nodes.iter().map(|node| node.it.clone()).collect(),
        });
        Some(Topology {
            wires: wires?,
            nodes,
            modules: modules.collect(),
            hubs,
            host: Host {
                uplinks: draft.host.uplinks.iter().map(|uplink| uplink.it.clone()).collect(),
                policy: draft.host.policy,
                allow: draft.host.allow.clone(),
                block: draft.host.block.as_ref().map(|block| block.it.clone()),
            },
            pool: draft.pool.clone(),
            sets: draft.sets.clone(),
            acme: draft.acme.clone(),
        })
    }

    pub(super) fn wire(&self, wire: &draft::Wire<'d>, ends: [&'d str; 2]) -> Option<Wire> {
        let [first, second] = self.devices_of(wire, ends)?;
        let subnet = wire.subnet.as_ref()?.it;
        let subnet6 = wire.subnet6.as_ref().map(|subnet| subnet.it);
        // The first address of a /30 stands for all of it.
        let low = u32::from(subnet.network()) + u32::from(subnet.prefix() == 30);
        let end = |nth: usize, device: Device| {
            Some(End {
                node: if ends[nth] == HOST { Name::host() } else { Name::new(ends[nth])? },
                device,
                address: Ipv4Addr::from(low + nth as u32),
                address6: subnet6.map(|subnet| Ipv6Addr::from(u128::from(subnet.network()) + nth as u128)),
            })
        };
        let leaf = ends.into_iter().find(|end| self.is_leaf(end));
        let namer = leaf.or_else(|| ends.into_iter().find(|end| self.is_hub(end)))?;
        Some(Wire {
            name: wire.name.as_ref()?.it.clone(),
            module: self.members.get(namer)?.module.clone(),
            ends: [end(0, first)?, end(1, second)?],
            subnet,
            subnet6,
            allow: wire.allow.clone(),
            allow_back: wire.allow_back.clone(),
            publish: wire.publish.clone(),
            mtu: wire.mtu,
            mode: wire.mode,
            across_zones: wire.across_zones,
            place: wire.place,
        })
    }

    pub(super) fn node(&self, member: &Member) -> Node {
        let name = member.name;
        let table = self.tables.get(name.as_str()).copied();
        let own = table.filter(|table| table.shares.is_none());
        let shares = table.and_then(|table| table.shares.as_ref());
        Node {
            home: self.home(name),
            module: member.module.clone(),
            network_none: table.is_some_and(|table| table.network_none.is_some()),
            owned: self.is_owned(name),
            shares: shares.and_then(|shares| if shares.it == HOST { Some(Name::host()) } else { Name::new(shares.it) }),
            zones: table.and_then(|table| Some(table.zones.as_ref()?.it.clone())).unwrap_or_default(),
            egress: own.map(|table| table.egress.clone()).unwrap_or_default(),
            snat: table.and_then(|table| Some(table.snat.as_ref()?.it)),
            place: table.map_or(member.place, |table| table.name.place),
            name: name.clone(),
        }
    }

    pub(super) fn hub(&self, hub: &draft::Hub) -> Option<Hub> {
        let upstream = |mut to: Upstream| {
            let space = self.spaces.get(to.node.as_str()).copied().flatten()?;
            if space != to.node.as_str() {
                to.node = if space == HOST { Name::host() } else { Name::new(space)? };
            }
            Some(to)
        };
        let mut wireguard = hub.wireguard.as_ref().map(|wireguard| wireguard.it.clone());
        if let Some(wireguard) = &mut wireguard {
            for draft in &hub.peers {
                let allow: Option<_> = draft.allow.iter().map(|said| self.allowed(&draft.peer.name, said)).collect();
                wireguard.peers.push(Peer { allow: allow?, ..draft.peer.clone() });
            }
        }
        let sites: Option<_> =
            hub.sites.iter().map(|site| Some(Site { to: upstream(site.it.to.clone())?, ..site.it.clone() })).collect();
        let forwards: Option<_> = hub
            .forwards
            .iter()
            .map(|draft| Some(Forward { to: upstream(draft.forward.to.clone())?, ..draft.forward.clone() }))
            .collect();
        Some(Hub {
            name: hub.name.it.clone(),
            zone: hub.zone.clone()?,
            pool: hub.pool,
            clients: hub.clients.as_ref().map(|clients| clients.it.clone()),
            wireguard,
            sites: sites?,
            redirects: hub.redirects.clone(),
            forwards: forwards?,
            place: hub.name.place,
        })
    }
}
