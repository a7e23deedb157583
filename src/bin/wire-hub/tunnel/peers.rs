//! The peers of a tunnel by boringtun's protocol alone: what they sent is let out if it is theirs to send, and what is for them is let
//! in. It knows nothing of devices and sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::orders::{self, PeerSeen, Secret};
use crate::trouble::{Context, Trouble};

/// No datagram of a peer is longer: the largest packet that a device of ours takes (see `tun`), WireGuard's 32 bytes, and as many as
/// it may be filled up by. A datagram's room must be as large, whatever comes out of it.
pub const LONGEST: usize = 2048;
/// How often `tick` is called.
pub const TICK: Duration = Duration::from_millis(250);
const TICKS_A_SECOND: u32 = 4;
/// Handshakes in a second that are answered without asking whether the sender is where he says he is (as in the kernel's WireGuard:
/// about what a small machine can check).
const HANDSHAKES: u64 = 100;

pub struct Peers {
    private: StaticSecret,
    public: PublicKey,
    handshakes: RateLimiter,
    /// Each peer asks once more, and never too often for it.
    never: Arc<RateLimiter>,
    /// By the upper 24 bits of the index that the other side names them by.
    peers: BTreeMap<u32, Peer>,
    by_key: BTreeMap<[u8; 32], u32>,
    by_address: BTreeMap<IpAddr, u32>,
    ticks: u32,
}

struct Peer {
    orders: orders::Peer,
    tunn: Tunn,
    /// Where it was heard last.
    endpoint: Option<SocketAddr>,
}

impl Peers {
    pub fn new(private_key: &Secret) -> Result<Peers, Trouble> {
        let private = bytes(&private_key.0).ok_or_else(|| Trouble("its private key is none".to_owned()))?;
        let private = StaticSecret::from(private);
        let public = PublicKey::from(&private);
        Ok(Peers {
            private,
            public,
            handshakes: RateLimiter::new(&public, HANDSHAKES),
            never: Arc::new(RateLimiter::new(&public, u64::MAX)),
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_address: BTreeMap::new(),
            ticks: 0,
        })
    }

    /// Takes out and puts in what is not as wanted; who stays notices nothing. A peer that is put in again is still where it was.
    pub fn change(&mut self, wanted: &[orders::Peer]) -> Result<(), Trouble> {
        let keys: Vec<[u8; 32]> = wanted.iter().map(|peer| public_key(&peer.public_key)).collect::<Result<_, _>>()?;
        let same = |a: &orders::Peer, b: &orders::Peer| a.address == b.address && a.preshared_key == b.preshared_key;
        let mut endpoints = BTreeMap::new();
        // All of them before any comes, since one may have the address of another now.
        for (key, index) in std::mem::take(&mut self.by_key) {
            let stays = keys.iter().zip(wanted).find(|(wanted, _)| **wanted == key);
            if stays.is_some_and(|(_, wanted)| same(&self.peers[&index].orders, wanted)) {
                self.by_key.insert(key, index);
            } else if let Some(gone) = self.peers.remove(&index) {
                self.by_address.remove(&gone.orders.address);
                endpoints.insert(key, gone.endpoint);
            }
        }
        for (key, orders) in keys.into_iter().zip(wanted) {
            if !self.by_key.contains_key(&key) {
                let endpoint = endpoints.get(&key).copied().flatten();
                self.add(key, orders, endpoint)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, key: [u8; 32], orders: &orders::Peer, endpoint: Option<SocketAddr>) -> Result<(), Trouble> {
        let failed = || Trouble(format!("peer `{}`: its preshared key is none", orders.name));
        let preshared = orders.preshared_key.as_ref().map(|key| bytes(&key.0).ok_or_else(failed)).transpose()?;
        let index = self.free_index()?;
        let (private, never) = (self.private.clone(), Some(self.never.clone()));
        let tunn = Tunn::new(private, PublicKey::from(key), preshared, None, index, never);
        self.peers.insert(index, Peer { orders: orders.clone(), tunn, endpoint });
        self.by_key.insert(key, index);
        self.by_address.insert(orders.address, index);
        Ok(())
    }

    /// Nobody learns from it how many peers there are.
    fn free_index(&self) -> Result<u32, Trouble> {
        loop {
            let index = getrandom::u32().context("no random numbers")? >> 8;
            if !self.peers.contains_key(&index) {
                return Ok(index);
            }
        }
    }

    /// Takes a datagram of the network, of at most `LONGEST` bytes, as `room` has. A packet that the sender may send is at the
    /// beginning of `room` then, with its length as the result; what is to be answered goes to `answer`.
    pub fn hear(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        room: &mut [u8],
        mut answer: impl FnMut(&[u8]),
    ) -> Option<usize> {
        let index = match Tunn::parse_incoming_packet(datagram).ok()? {
            Packet::HandshakeInit(_) | Packet::HandshakeResponse(_) => {
                match self.handshakes.verify_packet(Some(from.ip()), datagram, room) {
                    Ok(Packet::HandshakeInit(init)) => {
                        let half = parse_handshake_anon(&self.private, &self.public, &init).ok()?;
                        *self.by_key.get(&half.peer_static_public)?
                    }
                    Ok(Packet::HandshakeResponse(response)) => response.receiver_idx >> 8,
                    Err(TunnResult::WriteToNetwork(cookie)) => {
                        answer(cookie);
                        return None;
                    }
                    _ => return None,
                }
            }
            Packet::PacketCookieReply(reply) => reply.receiver_idx >> 8,
            Packet::PacketData(data) => data.receiver_idx >> 8,
        };
        let peer = self.peers.get_mut(&index)?;
        let own = peer.orders.address;
        let packet = match peer.tunn.decapsulate(Some(from.ip()), datagram, room) {
            // Nobody knows who has sent it.
            TunnResult::Err(_) => return None,
            TunnResult::Done => None,
            TunnResult::WriteToNetwork(own) => {
                answer(own);
                // What waited for the handshake.
                while let TunnResult::WriteToNetwork(waited) = peer.tunn.decapsulate(None, &[], room) {
                    answer(waited);
                }
                None
            }
            TunnResult::WriteToTunnelV4(packet, source) => (own == source).then_some(packet.len()),
            TunnResult::WriteToTunnelV6(packet, source) => (own == source).then_some(packet.len()),
        };
        peer.endpoint = Some(from);
        packet
    }

    /// Takes a packet of the device. What is to be sent for it is at the beginning of `room`, of `LONGEST` bytes at least, with its
    /// length and who gets it as the result.
    pub fn carry(&mut self, packet: &[u8], room: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let index = self.by_address.get(&Tunn::dst_address(packet)?)?;
        let peer = self.peers.get_mut(index)?;
        match peer.tunn.encapsulate(packet, room) {
            TunnResult::WriteToNetwork(datagram) => Some((datagram.len(), peer.endpoint?)),
            _ => None,
        }
    }

    /// What has to be said now and then, to be called every `TICK`: handshakes and keepalives.
    pub fn tick(&mut self, room: &mut [u8], mut say: impl FnMut(&[u8], SocketAddr)) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_A_SECOND) {
            self.handshakes.reset_count();
        }
        for peer in self.peers.values_mut() {
            let Some(endpoint) = peer.endpoint else { continue };
            if let TunnResult::WriteToNetwork(datagram) = peer.tunn.update_timers(room) {
                say(datagram, endpoint);
            }
        }
    }

    pub fn seen(&self) -> Vec<PeerSeen> {
        let now = SystemTime::now();
        let seen = |peer: &Peer| {
            let (last_handshake, sent, received, ..) = peer.tunn.stats();
            PeerSeen {
                public_key: peer.orders.public_key.clone(),
                endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
                last_handshake: last_handshake.and_then(|ago| seconds(now.checked_sub(ago)?)),
                rx_bytes: received as u64,
                tx_bytes: sent as u64,
            }
        };
        self.peers.values().map(seen).collect()
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn public_key(text: &str) -> Result<[u8; 32], Trouble> {
    bytes(text).ok_or_else(|| Trouble(format!("`{text}` is no public key")))
}

fn bytes(base64: &str) -> Option<[u8; 32]> {
    STANDARD.decode(base64).ok()?.try_into().ok()
}
