//! No address, and in no namespace a device, belongs to two.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use ipnetwork::IpNetwork;

use crate::topology::{Device, HOST, Place};

use super::super::draft;
use super::{Check, line};

impl<'d> Check<'d> {
    /// No address belongs to two wires, or to a wire and a tunnel.
    pub(super) fn subnets(&self) {
        let mut taken: Vec<(Place, IpNetwork, Rc<str>)> = Vec::new();
        for wire in &self.draft.wires {
            taken.extend(wire.subnet.as_ref().map(|subnet| (subnet.place, subnet.it.into(), wire.what.clone())));
            taken.extend(wire.subnet6.as_ref().map(|subnet| (subnet.place, subnet.it.into(), wire.what.clone())));
        }
        for hub in &self.draft.hubs {
            let what = format!("the clients of hub `{}`", hub.name.it).into();
            taken.extend(hub.clients.as_ref().map(|clients| (clients.place, clients.it.prefix, what)));
        }
        taken.sort();
        let published = self.draft.wires.iter().flat_map(|wire| &wire.publish).filter_map(|publish| publish.address);
        let firsts = firsts(taken.iter().map(|(_, network, _)| *network).chain(published.map(IpNetwork::from)));
        for (i, (place, network, what)) in taken.iter().enumerate() {
            let first = firsts[network];
            if first < i {
                let (before, other, owner) = &taken[first];
                let how = match network == other {
                    true => "is already taken by".to_owned(),
                    false => format!("overlaps {other} of"),
                };
                let message = format!("{what}: {network} {how} {owner} ({})", line(*before));
                let hint = match network {
                    IpNetwork::V4(network) if network.prefix() >= 30 => {
                        "give each wire a /31 of its own, or leave `subnet` out and run `wire number`"
                    }
                    _ => "take addresses that nobody else has",
                };
                self.page.fault(*place, message, hint);
            }
        }
        for wire in &self.draft.wires {
            for publish in &wire.publish {
                let Some(address) = publish.address else { continue };
                if let Some((_, network, owner)) = taken.get(firsts[&address.into()]) {
                    let message = format!(
                        "{}: {address} is no address of the host's own but one of {network}, {owner}",
                        wire.what
                    );
                    self.page.fault(publish.place, message, "name an address that the host has on an uplink");
                } else if address.is_ipv6() && wire.subnet6.is_none() {
                    let message = format!("{}: {address} is published on a wire without IPv6", wire.what);
                    self.page.fault(publish.place, message, "add `subnet6 = \"fd00::/127\"` to the wire");
                }
            }
        }
    }

    /// The devices of a wire's two ends.
    pub(super) fn devices_of(&self, wire: &draft::Wire<'d>, ends: [&'d str; 2]) -> Option<[Device; 2]> {
        if let Some([a, b]) = &wire.ifname {
            return Some([a.it.clone(), b.it.clone()]);
        }
        let name = &wire.name.as_ref()?.it;
        Some(ends.map(|space| {
            let is_first = self.first_hubs.get(space).is_some_and(|(first, _)| std::ptr::eq(*first, wire));
            if is_first { Device::eth0() } else { Device::for_wire(name) }
        }))
    }

    /// No namespace has two devices of one name.
    pub(super) fn devices(&self) {
        let mut taken: HashMap<(&str, Device), (&str, Place)> = HashMap::new();
        let uplinks: BTreeSet<_> = self.draft.host.uplinks.iter().map(|uplink| &uplink.it).collect();
        let mut names = HashSet::new();
        for (wire, ends) in self.wires().filter(|(wire, _)| !wire.ifname_torn) {
            // A name given twice was told; that two devices are alike then is no second mistake.
            if wire.name.as_ref().is_some_and(|name| !names.insert(&name.it)) {
                continue;
            }
            let Some(devices) = self.devices_of(wire, ends) else {
                continue;
            };
            for (i, (space, device)) in ends.into_iter().zip(devices).enumerate() {
                let name = wire.name.as_ref().map_or(wire.place, |name| name.place);
                let place = wire.ifname.as_ref().map_or(name, |ifname| ifname[i].place);
                let hint = "name the wire's two devices: `ifname = [\"…\", \"…\"]`";
                if space == HOST && uplinks.contains(&device) {
                    let message =
                        format!("{}: its device at the host would be `{device}`, which is an uplink", wire.what);
                    self.page.fault(place, message, hint);
                } else if let Some((owner, before)) = taken.get(&(space, device.clone())) {
                    let message = format!(
                        "{}: `{space}` has a device `{device}` already, of {owner} ({})",
                        wire.what,
                        line(*before)
                    );
                    self.page.fault(place, message, hint);
                    if wire.ifname.is_none() {
                        break;
                    }
                } else {
                    taken.insert((space, device), (&wire.what, place));
                }
            }
        }
        for hub in &self.draft.hubs {
            let Some(clients) = &hub.clients else { continue };
            if let Some((owner, before)) = taken.get(&(hub.name.it.as_str(), clients.it.device.clone())) {
                let device = &clients.it.device;
                let message = format!(
                    "hub `{}`: it has a device `{device}` already, of {owner} ({})",
                    hub.name.it,
                    line(*before)
                );
                self.page.fault(clients.place, message, "give the tunnel another device");
            }
        }
    }
}

/// Of each network, the first in the order given that has an address in common with it, itself at the latest. Of two such
/// networks one holds the other, so that in the order of their addresses a network stands behind all that hold it.
fn firsts(networks: impl Iterator<Item = IpNetwork>) -> BTreeMap<IpNetwork, usize> {
    let mut written = BTreeMap::new();
    for (i, network) in networks.enumerate() {
        written.entry(network).or_insert(i);
    }
    let mut firsts = written.clone();
    let mut holders: Vec<(IpNetwork, usize)> = Vec::new();
    for (network, i) in written {
        while holders.pop_if(|(holder, _)| !holder.contains(network.network())).is_some() {}
        let mut found = |network: IpNetwork, i: usize| {
            firsts.entry(network).and_modify(|first| *first = i.min(*first));
        };
        for (holder, j) in &holders {
            found(network, *j);
            found(*holder, i);
        }
        holders.push((network, i));
    }
    firsts
}
