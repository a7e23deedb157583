//! What is heard of the hubs that `wire` runs, and of who dials in there: by the kernel where that speaks WireGuard, else by the hub.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use serde::Serialize;

use super::orders::{Answer, Ask};
use crate::kernel::hub::{self as process, Asked};
use crate::state::State;
use crate::state::tunnel::{Heard, Kind};
use crate::target::Scope;
use crate::topology::{self, Hub, Name, Topology};
use crate::voice::Voice;

/// A session whose handshake is older than this is over (REJECT_AFTER_TIME of WireGuard's paper, section 6.1), in seconds.
const SESSION: u64 = 180;
/// Who was not heard for so long may never come again, in seconds.
const LONG: u64 = 30 * 86_400;

#[derive(Debug, Serialize)]
pub struct AuditedHub {
    pub hub: Name,
    pub zone: Name,
    /// Whether it is served: by a process, or where it needs none, by the kernel.
    pub runs: bool,
    /// Who speaks WireGuard, where anybody does.
    pub wireguard: Option<Speaker>,
    pub peers: Vec<AuditedPeer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    Kernel,
    Userspace,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AuditedPeer {
    pub name: Name,
    pub address: IpAddr,
    /// Where it was heard last.
    pub endpoint: Option<String>,
    /// Seconds since 1970.
    pub last_handshake: Option<u64>,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub state: Presence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Online,
    Idle,
    Stale,
    Never,
}

impl Presence {
    fn of(handshake: Option<u64>, now: u64) -> Presence {
        match handshake.map(|then| now.saturating_sub(then)) {
            None => Presence::Never,
            Some(ago) if ago < SESSION => Presence::Online,
            Some(ago) if ago > LONG => Presence::Stale,
            Some(_) => Presence::Idle,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Presence::Online => "online",
            Presence::Idle => "idle",
            Presence::Stale => "stale",
            Presence::Never => "never",
        }
    }
}

/// The hubs in scope that `wire` runs.
pub fn hubs(voice: &Voice, topology: &Topology, scope: &Scope, seen: &State) -> Vec<AuditedHub> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let run = topology.hubs.values().filter(|hub| hub.is_run() && scope.has_node(&hub.name));
    run.map(|hub| audited(voice, hub, seen, now)).collect()
}

fn audited(voice: &Voice, hub: &Hub, seen: &State, now: u64) -> AuditedHub {
    let served = process::is_served(hub.name.as_str());
    let runs = served || !hub.needs_process(seen.has_wireguard);
    let (wireguard, heard) = match &hub.wireguard {
        None => (None, BTreeMap::new()),
        Some(_) if seen.has_wireguard => (Some(Speaker::Kernel), by_kernel(hub, seen)),
        Some(_) if served => (Some(Speaker::Userspace), by_hub(voice, &hub.name)),
        Some(_) => (Some(Speaker::Userspace), BTreeMap::new()),
    };
    let peer = |peer: &topology::Peer| {
        let (endpoint, last_handshake, rx_bytes, tx_bytes) = heard.get(&peer.public_key).cloned().unwrap_or_default();
        let state = Presence::of(last_handshake, now);
        let (name, address) = (peer.name.clone(), peer.address);
        AuditedPeer { name, address, endpoint, last_handshake, rx_bytes, tx_bytes, state }
    };
    let peers = hub.wireguard.iter().flat_map(|own| &own.peers).map(peer).collect();
    AuditedHub { hub: hub.name.clone(), zone: hub.zone.clone(), runs, wireguard, peers }
}

/// By public key: the endpoint, the last handshake, bytes received and sent.
type Peers = BTreeMap<String, (Option<String>, Option<u64>, u64, u64)>;

fn by_kernel(hub: &Hub, seen: &State) -> Peers {
    let tunnel = hub.clients.as_ref().and_then(|own| seen.namespaces.get(&hub.name)?.tunnels.get(&own.device));
    let Some(Kind::Kernel(known)) = tunnel.map(|tunnel| &tunnel.kind) else { return Peers::new() };
    let heard = |heard: &Heard| {
        let endpoint = heard.endpoint.map(|endpoint| endpoint.to_string());
        (endpoint, heard.handshake, heard.traffic.received, heard.traffic.sent)
    };
    known.peers.iter().map(|(key, peer)| (key.clone(), heard(&peer.heard))).collect()
}

fn by_hub(voice: &Voice, hub: &Name) -> Peers {
    match process::ask(hub.as_str(), &Ask::Peers) {
        Ok(Asked::Answered(Answer::Peers(peers))) => {
            // Whoever has taken a hub over may answer anything, and a terminal would obey.
            let endpoint = |text: Option<String>| text.filter(|text| text.parse::<SocketAddr>().is_ok());
            let peers = peers.into_iter();
            peers
                .map(|peer| {
                    (peer.public_key, (endpoint(peer.endpoint), peer.last_handshake, peer.rx_bytes, peer.tx_bytes))
                })
                .collect()
        }
        Ok(_) => Peers::new(),
        Err(error) => {
            voice.warn(&error);
            Peers::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_there_as_long_as_its_session() {
        let now = 1_700_000_000;
        for (ago, expected) in [
            (0, Presence::Online),
            (179, Presence::Online),
            (180, Presence::Idle),
            (LONG, Presence::Idle),
            (LONG + 1, Presence::Stale),
        ] {
            assert_eq!(Presence::of(Some(now - ago), now), expected, "{ago}");
        }
        assert_eq!(Presence::of(None, now), Presence::Never);
        // A clock that was set back.
        assert_eq!(Presence::of(Some(now + 9), now), Presence::Online);
    }
}
