//! What a change does with a tunnel, as far as that is undone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::plan::tunnel::Step;
use crate::state::tunnel::{Kind, Tunnel, Wireguard};
use crate::state::{Namespace, Route, Setting};
use crate::topology::Device;

#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    /// It makes the device, or takes it away.
    pub whole: bool,
    mtu: bool,
    key: bool,
    port: bool,
    addresses: bool,
    settings: BTreeSet<Setting>,
    /// Whom it adds, changes or removes, by public key.
    peers: BTreeSet<String>,
}

impl Change {
    pub(super) fn add(&mut self, step: &Step) {
        match step {
            Step::Create(_) => self.whole = true,
            Step::Mtu(_) => self.mtu = true,
            Step::Key(_) => self.key = true,
            Step::Listen(_) => self.port = true,
            Step::AddAddress(_) | Step::RemoveAddress(_) => self.addresses = true,
            Step::Set(setting, _) => drop(self.settings.insert(*setting)),
            Step::SetPeer(change) => drop(self.peers.insert(change.peer.key.clone())),
            Step::RemovePeer(peer) => drop(self.peers.insert(peer.key.clone())),
            // What only mends stays.
            Step::Mark | Step::Up | Step::AddRoute(_) => {}
        }
    }

    /// Has a namespace want the tunnel as it was.
    pub(super) fn undo(&self, device: &Device, before: &Namespace, wanted: &mut Namespace) {
        let Some(before) = before.tunnels.get(device) else {
            if self.whole {
                wanted.tunnels.remove(device);
            }
            return;
        };
        if self.whole {
            let routes = before.addresses.iter().filter_map(subnet).collect();
            let mut tunnel = Tunnel { marked: true, up: true, routes, foreign: Vec::new(), ..before.clone() };
            if let Kind::Kernel(wireguard) = &mut tunnel.kind {
                wireguard.peers.values_mut().for_each(|peer| peer.heard = Default::default());
            }
            wanted.tunnels.insert(device.clone(), tunnel);
            return;
        }
        // Somebody has taken it away meanwhile.
        let Some(wanted) = wanted.tunnels.get_mut(device) else { return };
        if self.mtu {
            wanted.mtu = before.mtu;
        }
        if self.addresses {
            wanted.addresses = before.addresses.clone();
            wanted.routes = before.addresses.iter().filter_map(subnet).collect();
        }
        for setting in &self.settings {
            wanted.settings.extend(before.settings.get(setting).map(|value| (*setting, *value)));
        }
        if let (Kind::Kernel(wanted), Kind::Kernel(before)) = (&mut wanted.kind, &before.kind) {
            self.wireguard(wanted, before);
        }
    }

    fn wireguard(&self, wanted: &mut Wireguard, before: &Wireguard) {
        if self.key {
            wanted.private = before.private.clone().or(wanted.private.take());
        }
        if self.port {
            wanted.listen = before.listen;
        }
        for key in &self.peers {
            match before.peers.get(key) {
                Some(peer) => drop(wanted.peers.insert(key.clone(), peer.clone())),
                None => drop(wanted.peers.remove(key)),
            }
        }
    }
}

/// The route that comes with an address.
fn subnet(address: &IpNetwork) -> Option<Route> {
    let to = IpNetwork::new(address.network(), address.prefix()).ok()?;
    Some(Route { to, via: None, from: Some(address.ip()).filter(IpAddr::is_ipv4) })
}
