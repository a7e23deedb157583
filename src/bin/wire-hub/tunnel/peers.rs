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

use super::memory::Endpoints;
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
    /// What each peer's own look at a datagram asks, which comes second: it lets everything by.
    never: Arc<RateLimiter>,
    /// By the upper 24 bits of the index that the other side names them by.
    peers: BTreeMap<u32, Peer>,
    by_key: BTreeMap<[u8; 32], u32>,
    by_address: BTreeMap<IpAddr, u32>,
    /// Where peers were before this began.
    known: Endpoints,
    ticks: u32,
}

struct Peer {
    orders: orders::Peer,
    tunn: Tunn,
    /// Where it was heard last.
    endpoint: Option<SocketAddr>,
    /// It has a session with somebody who is gone, and is asked for another.
    is_lost: bool,
}

impl Peers {
    pub fn new(private_key: &Secret, known: Endpoints) -> Result<Peers, Trouble> {
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
            known,
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
                let endpoint = endpoints.get(&key).copied().unwrap_or(self.known.get(&orders.public_key).copied());
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
        self.peers.insert(index, Peer { orders: orders.clone(), tunn, endpoint, is_lost: endpoint.is_some() });
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
            let due = match std::mem::take(&mut peer.is_lost) {
                true => peer.tunn.format_handshake_initiation(room, false),
                false => peer.tunn.update_timers(room),
            };
            if let TunnResult::WriteToNetwork(datagram) = due {
                say(datagram, endpoint);
            }
        }
    }

    /// Where each peer was heard last, or before this began.
    pub fn endpoints(&self) -> Endpoints {
        let heard = self.peers.values().filter_map(|peer| Some((peer.orders.public_key.clone(), peer.endpoint?)));
        heard.collect()
    }

    /// What was heard of each peer, since this began.
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

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 32] = [2; 32];
    const FROM: &str = "198.51.100.7:40000";

    fn secret(bytes: [u8; 32]) -> Secret {
        Secret(STANDARD.encode(bytes))
    }

    fn public(private: [u8; 32]) -> PublicKey {
        PublicKey::from(&StaticSecret::from(private))
    }

    fn peer(private: [u8; 32], address: &str) -> orders::Peer {
        orders::Peer {
            name: "laptop".to_owned(),
            public_key: STANDARD.encode(public(private).as_bytes()),
            preshared_key: None,
            address: address.parse().unwrap(),
        }
    }

    /// A packet of IPv4 and nothing in it.
    fn packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        (packet[0], packet[3]) = (0x45, 20);
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet
    }

    /// A hub with one peer, and that peer.
    fn pair() -> (Peers, Tunn) {
        let mut hub = Peers::new(&secret([1; 32]), Endpoints::new()).unwrap();
        hub.change(&[peer(CLIENT, "10.100.0.2")]).unwrap();
        (hub, Tunn::new(CLIENT.into(), public([1; 32]), None, None, 1, None))
    }

    /// What the client sends for a packet, when a handshake has been if there was to be one.
    fn sent(hub: &mut Peers, client: &mut Tunn, packet: &[u8]) -> Vec<u8> {
        let mut room = [0; LONGEST];
        let TunnResult::WriteToNetwork(datagram) = client.encapsulate(packet, &mut room) else { panic!("nothing") };
        let mut datagram = datagram.to_vec();
        if datagram.len() == 148 {
            let mut answers = Vec::new();
            let mut room = [0; LONGEST];
            assert_eq!(hub.hear(&datagram, FROM.parse().unwrap(), &mut room, |said| answers.push(said.to_vec())), None);
            let keepalive = client.decapsulate(None, &answers[0], &mut room);
            let TunnResult::WriteToNetwork(keepalive) = keepalive else { panic!("{keepalive:?}") };
            let keepalive = keepalive.to_vec();
            assert_eq!(hub.hear(&keepalive, FROM.parse().unwrap(), &mut room, |_| ()), None);
            let TunnResult::WriteToNetwork(waited) = client.decapsulate(None, &[], &mut room) else {
                panic!("nothing")
            };
            datagram = waited.to_vec();
        }
        datagram
    }

    fn heard(hub: &mut Peers, datagram: &[u8], from: &str) -> Option<Vec<u8>> {
        let mut room = [0; LONGEST];
        let length = hub.hear(datagram, from.parse().unwrap(), &mut room, |_| ())?;
        Some(room[..length].to_vec())
    }

    /// A peer's own packets come out, once; nobody else's do, and the way back leads to where it was heard last.
    #[test]
    fn a_peer_is_heard_under_its_own_address() {
        let (mut hub, mut client) = pair();
        let own = packet([10, 100, 0, 2], [10, 1, 1, 1]);
        let datagram = sent(&mut hub, &mut client, &own);
        assert_eq!(heard(&mut hub, &datagram, FROM), Some(own.clone()));
        assert_eq!(heard(&mut hub, &datagram, "203.0.113.9:1"), None, "once more");
        let spoofed = sent(&mut hub, &mut client, &packet([10, 100, 0, 3], [10, 1, 1, 1]));
        assert_eq!(heard(&mut hub, &spoofed, FROM), None, "another's address");
        let mut room = [0; LONGEST];
        let back = packet([10, 1, 1, 1], [10, 100, 0, 2]);
        let (length, to) = hub.carry(&back, &mut room).unwrap();
        assert_eq!((length, to), (back.len() + 32, FROM.parse().unwrap()), "a replay moves nobody");
        let roamed = sent(&mut hub, &mut client, &own);
        assert!(heard(&mut hub, &roamed, "203.0.113.9:1").is_some());
        assert_eq!(hub.carry(&back, &mut room).unwrap().1, "203.0.113.9:1".parse().unwrap());
        assert!(hub.carry(&packet([10, 1, 1, 1], [10, 100, 0, 3]), &mut room).is_none(), "nobody has this address");
        let seen = hub.seen();
        assert_eq!(seen[0].endpoint.as_deref(), Some("203.0.113.9:1"));
        assert_eq!(seen[0].rx_bytes, 60);
        assert!(seen[0].last_handshake.is_some());
    }

    /// Who is not named gets no answer; who stays keeps his session while others come, go and change; who changes is asked anew, where
    /// he was.
    #[test]
    fn peers_come_and_go() {
        let (mut hub, mut client) = pair();
        let own = packet([10, 100, 0, 2], [10, 1, 1, 1]);
        let first = sent(&mut hub, &mut client, &own);
        assert!(heard(&mut hub, &first, FROM).is_some());
        hub.change(&[peer([3; 32], "10.100.0.3"), peer(CLIENT, "10.100.0.2")]).unwrap();
        let next = sent(&mut hub, &mut client, &own);
        assert!(heard(&mut hub, &next, FROM).is_some(), "its session has stayed");
        assert!(hub.change(&[peer(CLIENT, "10.100.0.2")]).is_ok());

        let mut room = [0; LONGEST];
        let mut stranger = Tunn::new([4; 32].into(), public([1; 32]), None, None, 1, None);
        let TunnResult::WriteToNetwork(hello) = stranger.format_handshake_initiation(&mut room, false) else {
            panic!()
        };
        let hello = hello.to_vec();
        hub.hear(&hello, FROM.parse().unwrap(), &mut room, |_| panic!("a stranger is answered"));

        // They change addresses with each other.
        hub.change(&[peer([3; 32], "10.100.0.2"), peer(CLIENT, "10.100.0.3")]).unwrap();
        let last = sent(&mut hub, &mut client, &own);
        assert_eq!(heard(&mut hub, &last, FROM), None, "its session is over");
        let (length, to) = hub.carry(&packet([10, 1, 1, 1], [10, 100, 0, 3]), &mut room).unwrap();
        assert_eq!((length, to), (148, FROM.parse().unwrap()), "it is asked for a handshake");
    }

    /// Who was there before is asked for a handshake at once, where it was, and once.
    #[test]
    fn a_hub_that_is_started_anew_asks_for_handshakes() {
        let (mut hub, mut client) = pair();
        let own = packet([10, 100, 0, 2], [10, 1, 1, 1]);
        let first = sent(&mut hub, &mut client, &own);
        assert!(heard(&mut hub, &first, FROM).is_some());
        let known = hub.endpoints();
        let mut hub = Peers::new(&secret([1; 32]), known.clone()).unwrap();
        hub.change(&[peer(CLIENT, "10.100.0.2"), peer([3; 32], "10.100.0.3")]).unwrap();
        assert_eq!(hub.endpoints(), known);
        let (mut room, mut said) = ([0; LONGEST], Vec::new());
        hub.tick(&mut room, |datagram, to| said.push((datagram.to_vec(), to)));
        hub.tick(&mut room, |datagram, to| said.push((datagram.to_vec(), to)));
        let [(hello, to)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(*to, FROM.parse().unwrap());
        let mut reply = [0; LONGEST];
        let TunnResult::WriteToNetwork(reply) = client.decapsulate(None, hello, &mut reply) else { panic!("nothing") };
        let mut keepalive = Vec::new();
        hub.hear(reply, FROM.parse().unwrap(), &mut room, |answer| keepalive = answer.to_vec());
        assert!(matches!(client.decapsulate(None, &keepalive, &mut [0; LONGEST]), TunnResult::Done));
        let next = sent(&mut hub, &mut client, &own);
        assert_eq!(heard(&mut hub, &next, FROM), Some(own));
    }

    /// Garbage, of any length and kind, is nobody's.
    #[test]
    fn garbage_is_not_answered() {
        let (mut hub, mut client) = pair();
        let good = sent(&mut hub, &mut client, &packet([10, 100, 0, 2], [10, 1, 1, 1]));
        let mut room = [0; LONGEST];
        for length in (0..=200).chain([LONGEST]) {
            for kind in 0..=5 {
                let mut datagram = vec![0x5a; length];
                datagram.iter_mut().zip([kind, 0, 0, 0]).for_each(|(to, from)| *to = from);
                datagram.iter_mut().zip(&good).skip(4).take(4).for_each(|(to, from)| *to = *from);
                let answer = |_: &[u8]| panic!("{length} bytes of kind {kind} are answered");
                assert_eq!(hub.hear(&datagram, FROM.parse().unwrap(), &mut room, answer), None);
            }
        }
        assert_eq!(hub.carry(&[], &mut room), None);
        assert_eq!(hub.carry(&[0x45], &mut room), None);
    }

    /// When too many ask for handshakes, each must show first that he is where he says.
    #[test]
    fn a_flood_of_handshakes_is_told_to_prove_itself() {
        let (mut hub, _) = pair();
        let (mut room, mut hello) = ([0; LONGEST], [0; LONGEST]);
        let mut lengths = Vec::new();
        for _ in 0..HANDSHAKES + 10 {
            let mut client = Tunn::new(CLIENT.into(), public([1; 32]), None, None, 1, None);
            let TunnResult::WriteToNetwork(hello) = client.format_handshake_initiation(&mut hello, false) else {
                panic!()
            };
            hub.hear(hello, FROM.parse().unwrap(), &mut room, |answer| lengths.push(answer.len()));
        }
        // A response has 92 bytes, a cookie 64.
        assert!(lengths.contains(&92) && lengths.ends_with(&[64; 10]), "{lengths:?}");
    }
}
