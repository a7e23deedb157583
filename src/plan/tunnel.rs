//! What has to change in the tunnel of a hub: the device, and each peer by itself, so that no other one notices.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::{Action, Finding, Plan, setting_name};
use crate::hub::orders::Secret;
use crate::state::tunnel::{Keys, Kind, Peer, Tunnel};
use crate::state::{Namespace, Route, Setting};
use crate::topology::{Device, Name};

/// One thing to do with a tunnel, in the order in which they are done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Makes the device with all that belongs to it but for the peers, which come one by one.
    Create(Box<Tunnel>),
    Mark,
    Mtu(u32),
    Set(Setting, i32),
    RemoveAddress(IpNetwork),
    AddAddress(IpNetwork),
    /// Gives it its private key; none: the one that was made before.
    Key(Option<Secret>),
    Listen(u16),
    RemovePeer(Peered),
    /// Adds a peer, or changes what of it is not as it is to be.
    SetPeer(Box<PeerChange>),
    Up,
    AddRoute(Route),
}

/// A peer as it is told to people, and to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peered {
    /// Its name, where the file has one for it.
    pub name: Option<Name>,
    /// Its public key, in base64.
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    pub peer: Peered,
    /// It is not there yet.
    pub is_new: bool,
    /// What that is to be; `Some(None)` for none.
    pub preshared: Option<Option<Secret>>,
    pub allowed: Option<BTreeSet<IpNetwork>>,
}

impl Peered {
    fn of(key: &str, name: Option<&Name>) -> Peered {
        Peered { name: name.cloned(), key: key.to_owned() }
    }

    pub fn words(&self) -> String {
        match &self.name {
            Some(name) => format!("peer {name}"),
            None => format!("peer with the key {}", self.key),
        }
    }
}

impl Step {
    pub fn verb(&self) -> &'static str {
        match self {
            Step::Create(_) => "create",
            Step::Mark => "mark",
            Step::Mtu(_) | Step::Set(..) | Step::Key(_) | Step::Listen(_) => "set",
            Step::RemoveAddress(_) => "remove-address",
            Step::AddAddress(_) => "add-address",
            Step::RemovePeer(_) => "remove-peer",
            Step::SetPeer(change) if change.is_new => "add-peer",
            Step::SetPeer(_) => "set-peer",
            Step::Up => "raise",
            Step::AddRoute(_) => "add-route",
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Step::Create(_) => "missing",
            Step::Mark => "mark",
            Step::Mtu(_) => "mtu",
            Step::Set(setting, _) if setting.is_ipv6() => "ipv6",
            Step::Set(..) => "setting",
            Step::RemoveAddress(_) | Step::AddAddress(_) => "address",
            Step::Key(_) => "key",
            Step::Listen(_) => "port",
            Step::RemovePeer(_) | Step::SetPeer(_) => "peer",
            Step::Up => "down",
            Step::AddRoute(_) => "route",
        }
    }

    pub fn subject(&self, device: &Device) -> String {
        let what = match self {
            Step::Create(_) | Step::Mark | Step::Up => return format!("tunnel {device}"),
            Step::RemovePeer(peer) => return peer.words(),
            Step::SetPeer(change) => return change.words(),
            Step::Mtu(mtu) => format!("mtu {mtu}"),
            Step::Set(setting, value) => format!("{} = {value}", setting_name(*setting)),
            Step::RemoveAddress(address) | Step::AddAddress(address) => address.to_string(),
            Step::Key(_) => "private key".to_owned(),
            Step::Listen(port) => format!("port {port}"),
            Step::AddRoute(route) => format!("{} over the tunnel itself", route.to),
        };
        format!("tunnel {device}: {what}")
    }
}

impl PeerChange {
    fn words(&self) -> String {
        let words = self.peer.words();
        match (&self.allowed, &self.preshared) {
            (Some(allowed), _) => format!("{words}: {}", list(allowed)),
            (None, Some(Some(_))) => format!("{words}: preshared key"),
            (None, Some(None)) => format!("{words}: no preshared key"),
            (None, None) => words,
        }
    }
}

fn list(networks: &BTreeSet<IpNetwork>) -> String {
    let single = |network: &IpNetwork| network.prefix() == if network.is_ipv4() { 32 } else { 128 };
    let word = |network: &IpNetwork| if single(network) { network.ip().to_string() } else { network.to_string() };
    match networks.is_empty() {
        true => "nothing".to_owned(),
        false => networks.iter().map(word).collect::<Vec<String>>().join(", "),
    }
}

impl Plan {
    /// Keys that are to be made, and those that may not be used.
    pub(super) fn keys(&mut self, hub: &Name, keys: &Keys) {
        let mut find = |error: &crate::error::Error, whose: String| {
            self.findings.push(Finding {
                node: hub.clone(),
                wire: None,
                kind: "key",
                message: format!("{whose}: {}", error.message),
                hint: error.hint.clone().unwrap_or_default(),
                blocks: true,
            });
        };
        for (peer, preshared) in &keys.preshared {
            if let Err(error) = preshared {
                find(error, format!("peer `{peer}` of {hub}"));
            }
        }
        match &keys.private {
            Err(error) => find(error, format!("the tunnel of {hub}")),
            Ok(None) => self.change(hub, None, Action::MakeKey(keys.path.clone()), "there is no such file"),
            Ok(Some(_)) => {}
        }
    }

    /// The tunnels of a namespace.
    pub(super) fn tunnels(&mut self, node: &Name, wanted: &Namespace, seen: &Namespace, to_make: bool) {
        for (device, tunnel) in &seen.tunnels {
            let reason = match wanted.tunnels.get(device) {
                Some(wanted) if wanted.kind.is_same(&tunnel.kind) => continue,
                None => "it is not to be there",
                Some(Tunnel { kind: Kind::Kernel(_), .. }) => "must be made anew: the kernel has WireGuard by now",
                Some(Tunnel { kind: Kind::User, .. }) => "must be made anew: the kernel has no WireGuard any more",
            };
            self.change(node, None, Action::Remove { device: device.clone() }, reason);
        }
        for (device, wanted) in &wanted.tunnels {
            match seen.tunnels.get(device).filter(|seen| wanted.kind.is_same(&seen.kind)) {
                Some(seen) => self.tunnel(node, device, wanted, seen, to_make),
                None if seen.foreign.has_device(device.as_str()) => self.findings.push(Finding {
                    node: node.clone(),
                    wire: None,
                    kind: "taken",
                    message: format!(
                        "{node} has a device `{device}` that is not wire's and has the name that its tunnel needs"
                    ),
                    hint: format!("remove it, or give `clients` another `device`: `ip link del {device}` in {node}"),
                    blocks: true,
                }),
                None => {
                    let mut bare = wanted.clone();
                    if let Kind::Kernel(wireguard) = &mut bare.kind {
                        wireguard.peers.clear();
                    }
                    let reason = match seen.tunnels.contains_key(device) {
                        true => "there is one of another kind",
                        false => "there is no such device",
                    };
                    let step = Step::Create(Box::new(bare.clone()));
                    self.change(node, None, Action::Tunnel(device.clone(), step), reason);
                    self.peers(node, device, wanted, &bare);
                }
            }
        }
    }

    /// One tunnel that is there: mended in place.
    fn tunnel(&mut self, node: &Name, device: &Device, wanted: &Tunnel, seen: &Tunnel, to_make: bool) {
        let mut change = |step, reason: String| self.change(node, None, Action::Tunnel(device.clone(), step), reason);
        if wanted.marked && !seen.marked {
            change(Step::Mark, "not as wire gave it: group or alias".to_owned());
        }
        if wanted.mtu != seen.mtu {
            change(Step::Mtu(wanted.mtu), format!("it is {}", seen.mtu));
        }
        for (&setting, &value) in &wanted.settings {
            match seen.settings.get(&setting) {
                Some(&now) if now == value => {}
                Some(now) => change(Step::Set(setting, value), format!("it is {now}")),
                None => change(Step::Set(setting, value), "it is not there".to_owned()),
            }
        }
        let stays = |ipv6: bool| !ipv6 || wanted.settings.get(&Setting::DisableIpv6) != Some(&1);
        for address in seen.addresses.difference(&wanted.addresses).filter(|address| stays(address.is_ipv6())) {
            change(Step::RemoveAddress(*address), "the file does not want it any more".to_owned());
        }
        for address in wanted.addresses.difference(&seen.addresses) {
            change(Step::AddAddress(*address), "it is missing".to_owned());
        }
        if let (Kind::Kernel(wanted), Kind::Kernel(seen)) = (&wanted.kind, &seen.kind) {
            if to_make || wanted.private.is_some() && wanted.private != seen.private {
                let reason = match (&wanted.private, &seen.private) {
                    (None, _) => "it is made anew, as there is no file of it",
                    (_, None) => "it has none",
                    _ => "it is not the one of the file",
                };
                change(Step::Key(wanted.private.clone()), reason.to_owned());
            }
            if wanted.listen != seen.listen {
                change(Step::Listen(wanted.listen), format!("it is {}", seen.listen));
            }
        }
        self.peers(node, device, wanted, seen);
        let mut change = |step, reason: &str| self.change(node, None, Action::Tunnel(device.clone(), step), reason);
        if wanted.up && !seen.up {
            change(Step::Up, "it is down");
        }
        for route in wanted.routes.difference(&seen.routes) {
            // The kernel makes it when the address comes, or the device up.
            let is_own = |own: &&IpNetwork| own.network() == route.to.network() && own.prefix() == route.to.prefix();
            if seen.up && seen.addresses.intersection(&wanted.addresses).any(|own| is_own(&own)) {
                change(Step::AddRoute(*route), "it is missing");
            }
        }
        for network in &seen.foreign {
            self.findings.push(Finding {
                node: node.clone(),
                wire: None,
                kind: "foreign-address",
                message: format!(
                    "the tunnel `{device}` of {node} has an address or route {network} that is not wire's"
                ),
                hint: format!(
                    "`ip addr del {network} dev {device}` or `ip route del {network} dev {device}` in {node}"
                ),
                blocks: false,
            });
        }
    }

    /// Those who leave go first: an address is one peer's alone.
    fn peers(&mut self, node: &Name, device: &Device, wanted: &Tunnel, seen: &Tunnel) {
        let (Kind::Kernel(wanted), Kind::Kernel(seen)) = (&wanted.kind, &seen.kind) else { return };
        let mut change = |step, reason: String| self.change(node, None, Action::Tunnel(device.clone(), step), reason);
        for (key, peer) in seen.peers.iter().filter(|(key, _)| !wanted.peers.contains_key(*key)) {
            let reason = match peer.allowed.is_empty() {
                true => "no peer of the file has that key".to_owned(),
                false => format!("no peer of the file has that key (it has {})", list(&peer.allowed)),
            };
            change(Step::RemovePeer(Peered::of(key, None)), reason);
        }
        for (key, peer) in &wanted.peers {
            let peered = Peered::of(key, peer.name.as_ref());
            let Peer { preshared, allowed, .. } = peer;
            let Some(before) = seen.peers.get(key) else {
                let step = PeerChange {
                    peer: peered,
                    is_new: true,
                    preshared: Some(preshared.clone()),
                    allowed: Some(allowed.clone()),
                };
                change(Step::SetPeer(Box::new(step)), "it is not there".to_owned());
                continue;
            };
            let (other_key, other_place) = (before.preshared != *preshared, before.allowed != *allowed);
            let reason = match (other_place, other_key) {
                (false, false) => continue,
                (true, false) => format!("it has {}", list(&before.allowed)),
                (true, true) => format!("it has {}, and another preshared key", list(&before.allowed)),
                (false, true) if before.preshared.is_none() => "it has none".to_owned(),
                (false, true) if preshared.is_none() => "it has one".to_owned(),
                (false, true) => "it is not the one of the file".to_owned(),
            };
            let step = PeerChange {
                peer: peered,
                is_new: false,
                preshared: other_key.then(|| preshared.clone()),
                allowed: other_place.then(|| allowed.clone()),
            };
            change(Step::SetPeer(Box::new(step)), reason);
        }
    }
}
