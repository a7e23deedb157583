//! The kernel's WireGuard, over generic netlink: what a device of it knows, and the request that each change becomes. It knows
//! nothing of files and of what is right.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnetwork::IpNetwork;
use netlink_packet_core::{DecodeError, NLM_F_DUMP, NlasIterator, ParseableParametrized};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use nix::errno::Errno;

use super::keys;
use super::rtm::request;
use super::socket::{Answer, Batch, Refusal, Request, Socket};
use crate::hub::orders::Secret;
use crate::plan::tunnel::{PeerChange, Peered};
use crate::state::tunnel::{Heard, Peer, Wireguard};

#[cfg(test)]
mod tests;

/// A number of the kernel's, given anew at every boot.
pub type Family = u16;

/// The number that it has for WireGuard, if it has that. Asking loads the module.
pub fn family(socket: &Socket) -> Result<Option<Family>, Refusal> {
    /// `GENL_ID_CTRL` and `CTRL_ATTR_FAMILY_ID` (linux/genetlink.h).
    const CONTROL: u16 = 16;
    const FAMILY_ID: u16 = 1;
    /// `struct genlmsghdr`.
    const HEADER: usize = 4;
    let name = GenlCtrlAttrs::FamilyName(WireguardMessage::family_name().to_owned());
    let ask = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
    let mut batch = Batch::default();
    batch.push(0, &request(CONTROL, 0, &GenlMessage::from_payload(ask)));
    let mut found = None;
    let refused = socket.exchange(&mut batch, |_, (_, payload)| {
        // Of all that is told of a family this alone is read.
        let id =
            NlasIterator::new(payload.get(HEADER..).unwrap_or_default()).flatten().find(|nla| nla.kind() == FAMILY_ID);
        found = id.and_then(|nla| nla.value().try_into().ok()).map(u16::from_ne_bytes);
    });
    match refused.into_iter().next() {
        None => Ok(found),
        Some((_, refusal)) if refusal.errno == Errno::ENOENT => Ok(None),
        Some((_, refusal)) => Err(refusal),
    }
}

fn message(family: Family, flags: u16, cmd: WireguardCmd, attributes: Vec<WireguardAttribute>) -> Request {
    request(family, flags, &GenlMessage::from_payload(WireguardMessage { cmd, attributes }))
}

/// What a device knows.
pub fn look(socket: &Socket, family: Family, index: u32) -> Result<Wireguard, Refusal> {
    let ask = message(family, NLM_F_DUMP, WireguardCmd::GetDevice, vec![WireguardAttribute::IfIndex(index)]);
    let mut seen = Wireguard::default();
    // Of many peers there are many messages, and one may go on in the next.
    for part in socket.dump(&ask, read)? {
        seen.private = seen.private.or(part.private);
        seen.listen = seen.listen.max(part.listen);
        for (key, peer) in part.peers {
            match seen.peers.get_mut(&key) {
                Some(known) => known.allowed.extend(peer.allowed),
                None => drop(seen.peers.insert(key, peer)),
            }
        }
    }
    Ok(seen)
}

fn read((kind, payload): Answer) -> Result<Option<Wireguard>, DecodeError> {
    let message: GenlMessage<WireguardMessage> = GenlMessage::parse_with_param(payload, kind)?;
    let mut seen = Wireguard::default();
    for attribute in message.payload.attributes {
        match attribute {
            WireguardAttribute::PrivateKey(key) => seen.private = (key != [0; 32]).then(|| keys::secret(&key)),
            WireguardAttribute::ListenPort(port) => seen.listen = port,
            WireguardAttribute::Peers(peers) => seen.peers.extend(peers.into_iter().filter_map(peer)),
            _ => {}
        }
    }
    Ok(Some(seen))
}

fn peer(message: WireguardPeer) -> Option<(String, Peer)> {
    let mut key = None;
    let mut peer = Peer { name: None, preshared: None, allowed: BTreeSet::new(), heard: Heard::default() };
    for attribute in message.0 {
        match attribute {
            WireguardPeerAttribute::PublicKey(public) => key = Some(STANDARD.encode(public)),
            WireguardPeerAttribute::PresharedKey(key) => peer.preshared = (key != [0; 32]).then(|| keys::secret(&key)),
            WireguardPeerAttribute::Endpoint(endpoint) => peer.heard.endpoint = Some(endpoint),
            WireguardPeerAttribute::LastHandshake(time) => {
                peer.heard.handshake = u64::try_from(time.seconds).ok().filter(|seconds| *seconds > 0);
            }
            WireguardPeerAttribute::RxBytes(received) => peer.heard.traffic.received = received,
            WireguardPeerAttribute::TxBytes(sent) => peer.heard.traffic.sent = sent,
            WireguardPeerAttribute::AllowedIps(networks) => {
                peer.allowed.extend(networks.into_iter().filter_map(|network| self::network(&network)));
            }
            _ => {}
        }
    }
    Some((key?, peer))
}

fn network(message: &WireguardAllowedIp) -> Option<IpNetwork> {
    let (mut ip, mut prefix) = (None, None);
    for attribute in &message.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(address) => ip = Some(*address),
            WireguardAllowedIpAttr::Cidr(length) => prefix = Some(*length),
            _ => {}
        }
    }
    IpNetwork::new(ip?, prefix?).ok()
}

/// Sets the device's own key, or its port, or both. None where the key is none.
pub fn set(family: Family, index: u32, private: Option<&Secret>, listen: Option<u16>) -> Option<Request> {
    let mut attributes = vec![WireguardAttribute::IfIndex(index)];
    if let Some(key) = private {
        attributes.push(WireguardAttribute::PrivateKey(*keys::bytes(key)?));
    }
    attributes.extend(listen.map(WireguardAttribute::ListenPort));
    Some(message(family, 0, WireguardCmd::SetDevice, attributes))
}

/// Adds or changes one peer, and no other. None where a key is none.
pub fn set_peer(family: Family, index: u32, change: &PeerChange) -> Option<Request> {
    let mut flags = WireguardPeerFlags::empty();
    if !change.is_new {
        // One that somebody has removed meanwhile does not come back as half of one.
        flags |= WireguardPeerFlags::UpdateOnly;
    }
    if change.allowed.is_some() {
        flags |= WireguardPeerFlags::ReplaceAllowedIps;
    }
    let mut attributes = vec![public(&change.peer)?, WireguardPeerAttribute::Flags(flags)];
    if let Some(preshared) = &change.preshared {
        // Zeroes mean none.
        let key = preshared.as_ref().map_or(Some([0; 32]), |key| keys::bytes(key).map(|key| *key))?;
        attributes.push(WireguardPeerAttribute::PresharedKey(key));
    }
    if let Some(allowed) = &change.allowed {
        attributes.push(WireguardPeerAttribute::AllowedIps(allowed.iter().map(allowed_ip).collect()));
    }
    Some(one_peer(family, index, attributes))
}

pub fn remove_peer(family: Family, index: u32, peer: &Peered) -> Option<Request> {
    let flags = WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly;
    Some(one_peer(family, index, vec![public(peer)?, WireguardPeerAttribute::Flags(flags)]))
}

fn public(peer: &Peered) -> Option<WireguardPeerAttribute> {
    let key = <[u8; 32]>::try_from(STANDARD.decode(&peer.key).ok()?).ok()?;
    Some(WireguardPeerAttribute::PublicKey(key))
}

fn allowed_ip(network: &IpNetwork) -> WireguardAllowedIp {
    let family = if network.is_ipv4() { WireguardAddressFamily::Ipv4 } else { WireguardAddressFamily::Ipv6 };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(network.ip()),
        WireguardAllowedIpAttr::Cidr(network.prefix()),
    ])
}

fn one_peer(family: Family, index: u32, peer: Vec<WireguardPeerAttribute>) -> Request {
    let peers = WireguardAttribute::Peers(vec![WireguardPeer(peer)]);
    message(family, 0, WireguardCmd::SetDevice, vec![WireguardAttribute::IfIndex(index), peers])
}
