//! What a VPN peer's own device is to be told, as `wg-quick` and the WireGuard apps read it, and as the code that phones scan.

use std::fmt::Write;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::hub::orders::Secret;
use crate::topology::{Clients, Hub, Mode, Name, Peer, Topology, Wire, Wireguard};
use crate::why::{is_for, may_use, opened_by};

/// Seconds between two packets that keep a way through somebody's NAT open; WireGuard's own advice.
const KEEPALIVE: u16 = 25;

/// A peer of a hub that `wire` runs.
#[derive(Clone, Copy)]
pub struct Member<'t> {
    pub hub: &'t Hub,
    pub wireguard: &'t Wireguard,
    pub clients: &'t Clients,
    pub peer: &'t Peer,
}

impl<'t> Member<'t> {
    pub fn find(topology: &'t Topology, name: &Name) -> Option<Member<'t>> {
        topology.hubs.values().find_map(|hub| {
            let (wireguard, clients) = (hub.wireguard.as_ref()?, hub.clients.as_ref()?);
            let peer = wireguard.peers.iter().find(|peer| peer.name == *name)?;
            Some(Member { hub, wireguard, clients, peer })
        })
    }

    /// What it is to send into its tunnel: the hub's end of that, and the leaves' ends of the wires that it has a flow over; with
    /// `isolate = false`, all of the tunnel.
    pub fn reaches(&self, topology: &Topology) -> Vec<IpNetwork> {
        let hub = self.hub.name.as_str();
        let own = match self.wireguard.isolate {
            true => IpNetwork::from(self.clients.hub_address()),
            false => self.clients.prefix,
        };
        let opens = |wire: &Wire, end: usize| {
            let any = opened_by(wire, end).iter().any(|flow| is_for(flow, self.peer));
            may_use(topology, self.peer, wire, end) && (any || wire.mode == Mode::Audit)
        };
        let ends = topology.wires_of(hub).filter(|(wire, end)| opens(wire, *end)).filter_map(|(wire, end)| {
            let far = wire.far(end);
            match self.peer.address {
                IpAddr::V4(_) => Some(IpAddr::from(far.address)),
                IpAddr::V6(_) => far.address6.map(IpAddr::from),
            }
        });
        let mut all: Vec<IpNetwork> = [own].into_iter().chain(ends.map(IpNetwork::from)).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// The keys that a configuration has.
pub struct Keys<'k> {
    /// The peer's own, which only who has made it knows.
    pub private: Option<&'k Secret>,
    /// The hub's, in base64.
    pub public: &'k str,
    pub preshared: Option<&'k Secret>,
}

/// A peer's whole configuration. It has secrets in it.
pub fn configuration(topology: &Topology, member: &Member, keys: &Keys) -> Zeroizing<String> {
    let (peer, hub) = (member.peer, member.hub);
    let length = if peer.address.is_ipv4() { 32 } else { 128 };
    // Room for all of it, so that no half is left behind in memory by growing.
    let mut text = Zeroizing::new(String::with_capacity(64 << 10));
    let _ = writeln!(text, "# {}, a peer of {}\n[Interface]", peer.name, hub.name);
    let _ = match keys.private {
        Some(key) => writeln!(text, "PrivateKey = {}", key.0),
        None => writeln!(text, "# The private key of the device itself, which wire does not keep:\n# PrivateKey = "),
    };
    let _ = writeln!(text, "Address = {}/{length}\n\n[Peer]\nPublicKey = {}", peer.address, keys.public);
    if let Some(key) = keys.preshared {
        let _ = writeln!(text, "PresharedKey = {}", key.0);
    }
    let reaches: Vec<String> = member.reaches(topology).iter().map(IpNetwork::to_string).collect();
    let _ = writeln!(text, "AllowedIPs = {}", reaches.join(", "));
    let _ = match &member.wireguard.endpoint {
        Some(endpoint) => writeln!(text, "Endpoint = {endpoint}"),
        None => {
            writeln!(text, "# Where the hub is reached from outside:\n# Endpoint = HOST:{}", member.wireguard.listen)
        }
    };
    let _ = writeln!(text, "PersistentKeepalive = {KEEPALIVE}");
    text
}

/// A text as a code to scan, two modules a character. `coloured`: black on white whatever the terminal has; else as its letters
/// are, which are taken to be light on dark.
pub fn code(text: &str, coloured: bool) -> Result<Zeroizing<String>, Error> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|_| {
        Error::failed("this configuration is too long for a code").hint("copy the file instead, without --qr")
    })?;
    let (dark, light) = if coloured { (Dense1x2::Dark, Dense1x2::Light) } else { (Dense1x2::Light, Dense1x2::Dark) };
    let image = Zeroizing::new(code.render::<Dense1x2>().dark_color(dark).light_color(light).build());
    let mut lines = Zeroizing::new(String::new());
    for line in image.lines() {
        let _ = match coloured {
            // Black and white of the 256 colours, which no terminal's theme changes.
            true => writeln!(lines, "\u{1b}[38;5;16;48;5;231m{line}\u{1b}[0m"),
            false => writeln!(lines, "{line}"),
        };
    }
    Ok(lines)
}
