//! A hub's tunnel as the file wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::rules::Forwarding;
use crate::state::tunnel::{Keys, Kind, Peer, Tunnel, Wireguard};
use crate::state::{self, Namespace, Route, Setting, State};
use crate::topology::{self, Clients, Device, Hub, MTU, Name, Topology};

/// What WireGuard adds to a packet, on a way by IPv6 (20 bytes more than by IPv4).
const OVERHEAD: u32 = 80;
/// No device is smaller; one for IPv6 is larger (RFC 8200).
const LEAST: u32 = 576;

/// Wants the tunnel of a hub in its namespace, and what its files hold kept.
pub(super) fn tunnel(topology: &Topology, hub: &Hub, forwarding: &Forwarding, seen: &State, wanted: &mut State) {
    let (Some(own), Some(clients)) = (&hub.wireguard, &hub.clients) else { return };
    let (Some(keys), Some(here)) = (seen.keys.get(&hub.name), seen.namespaces.get(&hub.name)) else { return };
    let before = here.tunnels.get(&clients.device);
    let tunnel = match &keys.private {
        // Without a key that may be used nothing is changed.
        Err(_) => before.cloned(),
        Ok(private) if seen.has_wireguard => {
            let peers = own.peers.iter().filter_map(|peer| self::peer(peer, keys, before));
            let peers = peers.collect::<BTreeMap<String, Peer>>();
            let wireguard = Wireguard { private: private.clone(), listen: own.listen, peers };
            Some(device(topology, hub, clients, Kind::Kernel(wireguard), forwarding, here))
        }
        Ok(_) => Some(device(topology, hub, clients, Kind::User, forwarding, here)),
    };
    wanted.keys.insert(hub.name.clone(), keys.clone());
    if let Some(tunnel) = tunnel {
        let namespace = wanted.namespaces.entry(hub.name.clone()).or_default();
        namespace.tunnels.insert(clients.device.clone(), tunnel);
    }
}

/// A peer, by its public key. Where its preshared key may not be used it keeps the one it has; one that is not there stays out.
fn peer(peer: &topology::Peer, keys: &Keys, before: Option<&Tunnel>) -> Option<(String, Peer)> {
    let key = peer.public_key.clone();
    let preshared = match keys.preshared.get(&peer.name) {
        None => None,
        Some(Ok(secret)) => Some(secret.clone()),
        Some(Err(_)) => {
            let Some(Tunnel { kind: Kind::Kernel(before), .. }) = before else { return None };
            before.peers.get(&key)?.preshared.clone()
        }
    };
    let allowed = BTreeSet::from([IpNetwork::from(peer.address)]);
    Some((key, Peer { name: Some(peer.name.clone()), preshared, allowed, heard: Default::default() }))
}

fn device(
    topology: &Topology,
    hub: &Hub,
    clients: &Clients,
    kind: Kind,
    forwarding: &Forwarding,
    seen: &Namespace,
) -> Tunnel {
    let own = clients.hub_address();
    let prefix = clients.prefix.prefix();
    let network = IpNetwork::new(clients.prefix.network(), prefix).unwrap_or(clients.prefix);
    let from = Some(own).filter(IpAddr::is_ipv4);
    let among_themselves = hub.wireguard.as_ref().is_some_and(|own| !own.isolate);
    let forwards = among_themselves || forwarding.devices.contains(&clients.device);
    let mut settings: BTreeMap<Setting, i32> = state::EVERY_END.into();
    if own.is_ipv6() {
        settings.extend(state::WITH_IPV6);
        // Where the kernel has it for one device it has it for all.
        let forced = Device::new("all").map(|all| (all, Setting::ForceForwarding6));
        if forced.is_some_and(|place| seen.others.contains_key(&place)) {
            settings.insert(Setting::ForceForwarding6, i32::from(forwards));
        }
    } else {
        settings.insert(Setting::Forwarding, i32::from(forwards));
        settings.extend(state::WITHOUT_IPV6);
    }
    Tunnel {
        kind,
        marked: true,
        mtu: mtu(topology, &hub.name, own.is_ipv6()),
        up: true,
        addresses: BTreeSet::from([super::address(own, prefix)]),
        routes: BTreeSet::from([Route { to: network, via: None, from }]),
        settings,
        traffic: Default::default(),
        foreign: Vec::new(),
    }
}

/// What fits into the packets of the wire that peers come by.
fn mtu(topology: &Topology, hub: &Name, ipv6: bool) -> u32 {
    let to_host = topology.wires_of(hub.as_str()).filter(|(wire, side)| wire.far(*side).node.is_host());
    let outer = to_host.map(|(wire, _)| wire.mtu).min().unwrap_or(MTU);
    (outer.min(MTU) - OVERHEAD.min(outer)).max(if ipv6 { 1280 } else { LEAST })
}
