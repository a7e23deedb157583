//! The tunnel that the clients of a hub come in by: a device of `wire`'s in the hub's namespace, and what the kernel's WireGuard is
//! to know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use super::{Route, Setting, Traffic};
use crate::error::Error;
use crate::hub::orders::Secret;
use crate::topology::Name;

/// One device, by whose name it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    pub kind: Kind,
    /// Whether it carries both of `wire`'s marks, the group and the alias.
    pub marked: bool,
    /// Bytes.
    pub mtu: u32,
    pub up: bool,
    pub addresses: BTreeSet<IpNetwork>,
    /// Those over it that the kernel makes out of the addresses.
    pub routes: BTreeSet<Route>,
    pub settings: BTreeMap<Setting, i32>,
    pub traffic: Traffic,
    /// Addresses and routes that `wire` did not put there. Only ever seen.
    pub foreign: Vec<IpNetwork>,
}

/// Who speaks WireGuard over it.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Kernel(Wireguard),
    /// `wire hub`, over a TUN device.
    User,
}

impl Kind {
    pub fn is_same(&self, other: &Kind) -> bool {
        matches!((self, other), (Kind::Kernel(_), Kind::Kernel(_)) | (Kind::User, Kind::User))
    }
}

/// What the kernel's WireGuard knows of a tunnel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wireguard {
    /// Wanted and none: the one that is yet to be made.
    pub private: Option<Secret>,
    /// UDP port.
    pub listen: u16,
    /// By public key, in base64.
    pub peers: BTreeMap<String, Peer>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Only ever wanted: the kernel knows keys alone.
    pub name: Option<Name>,
    pub preshared: Option<Secret>,
    /// Where it may send from, and all that is sent to it.
    pub allowed: BTreeSet<IpNetwork>,
    pub heard: Heard,
}

/// What was heard of a peer. Only ever seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub endpoint: Option<SocketAddr>,
    /// Seconds since 1970.
    pub handshake: Option<u64>,
    pub traffic: Traffic,
}

/// What the key files of a hub's tunnel hold, or why that may not be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys {
    /// Of the hub's own key.
    pub path: String,
    /// None where it is yet to be made.
    pub private: Result<Option<Secret>, Error>,
    /// By peer, of those that have one.
    pub preshared: BTreeMap<Name, Result<Secret, Error>>,
}
