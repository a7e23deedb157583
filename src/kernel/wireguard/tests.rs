use super::*;
use crate::topology::Name;

fn key(byte: u8) -> Secret {
    keys::secret(&[byte; 32])
}

fn peered(byte: u8) -> Peered {
    Peered { name: Name::new("laptop"), key: key(byte).0 }
}

fn networks(list: &[&str]) -> BTreeSet<IpNetwork> {
    list.iter().map(|network| network.parse().unwrap()).collect()
}

/// What is asked for, as the kernel would have it: a request is a message of the same kind as an answer.
fn told(request: &Request) -> Wireguard {
    read((request.kind, &request.message)).unwrap().unwrap()
}

#[test]
fn what_is_set_is_what_would_be_seen() {
    let private = key(7);
    let seen = told(&set(30, 4, Some(&private), Some(51820)).unwrap());
    assert_eq!((seen.private, seen.listen, seen.peers.len()), (Some(private), 51820, 0));

    let change = PeerChange {
        peer: peered(3),
        is_new: true,
        preshared: Some(Some(key(9))),
        allowed: Some(networks(&["10.100.0.2/32", "fd00::2/128"])),
    };
    let seen = told(&set_peer(30, 4, &change).unwrap());
    let peer = &seen.peers[&key(3).0];
    assert_eq!((&peer.preshared, &peer.allowed), (&Some(key(9)), &networks(&["10.100.0.2/32", "fd00::2/128"])));
    assert_eq!((seen.private, seen.listen), (None, 0), "the device itself is not touched");

    let none = PeerChange { preshared: Some(None), allowed: None, is_new: false, ..change };
    let request = set_peer(30, 4, &none).unwrap();
    assert_eq!(told(&request).peers[&key(3).0].preshared, None);
    let zeroes = |bytes: &[u8]| bytes.windows(32).any(|window| window == [0; 32]);
    assert!(zeroes(&request.message), "no preshared key is said, for the kernel would keep the one it has");
}

/// The flags that keep other peers, and other things of the same peer, as they are.
#[test]
fn a_request_touches_no_other_peer() {
    let flags = |request: Request| {
        let message: GenlMessage<WireguardMessage> =
            GenlMessage::parse_with_param(&request.message[..], request.kind).unwrap();
        let mut found = Vec::new();
        for attribute in &message.payload.attributes {
            match attribute {
                WireguardAttribute::Peers(peers) => {
                    found.extend(peers.iter().flat_map(|peer| &peer.0).filter_map(|a| match a {
                        WireguardPeerAttribute::Flags(flags) => Some(flags.bits()),
                        _ => None,
                    }))
                }
                WireguardAttribute::Flags(_) => panic!("the device's own flag replaces all peers"),
                _ => {}
            }
        }
        found
    };
    // WGPEER_F_REMOVE_ME 1, WGPEER_F_REPLACE_ALLOWEDIPS 2, WGPEER_F_UPDATE_ONLY 4 (linux/wireguard.h).
    let change = |is_new, allowed: Option<&[&str]>| PeerChange {
        peer: peered(3),
        is_new,
        preshared: Some(None),
        allowed: allowed.map(networks),
    };
    assert_eq!(flags(set_peer(30, 4, &change(true, Some(&["10.100.0.2/32"]))).unwrap()), [2]);
    assert_eq!(flags(set_peer(30, 4, &change(false, Some(&[]))).unwrap()), [6]);
    assert_eq!(flags(set_peer(30, 4, &change(false, None)).unwrap()), [4]);
    assert_eq!(flags(remove_peer(30, 4, &peered(3)).unwrap()), [5]);
    assert_eq!(flags(set(30, 4, Some(&key(1)), None).unwrap()), [0; 0]);
}

#[test]
fn what_is_no_key_is_not_sent() {
    let bad = Secret("AAAA".to_owned());
    assert!(set(30, 4, Some(&bad), None).is_none());
    assert!(remove_peer(30, 4, &Peered { name: None, key: "x".to_owned() }).is_none());
}

/// Here or there: a kernel that has no WireGuard says so, and one that has gives a number.
#[test]
fn the_kernel_says_whether_it_has_it() {
    let family = family(&Socket::open(super::super::socket::NETLINK_GENERIC).unwrap()).unwrap();
    assert!(family.is_none_or(|family| family >= 16), "{family:?}");
}
