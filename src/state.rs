//! What namespaces hold, as far as wires go: one type for what the file wants and for what the kernel shows, so that drift is
//! a difference of two values. No system call here and no opinion about which of the two is right.

pub mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::nft::{Table, Text, Value, others};
use crate::rules::Openings;
use crate::topology::{Device, Mac, Name};

use self::tunnel::{Keys, Tunnel};

/// All namespaces, by node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub namespaces: BTreeMap<Name, Namespace>,
    /// Nodes that do not run, with what they do instead. Only ever seen, never wanted.
    pub waiting: BTreeMap<Name, String>,
    /// Nodes whose namespace must not be touched, with the reason. Only ever seen, never wanted.
    pub refused: BTreeMap<Name, String>,
    /// Whether the kernel has WireGuard. Only ever seen, and only where the file has a tunnel.
    pub has_wireguard: bool,
    /// What the key files of tunnels hold, by hub.
    pub keys: BTreeMap<Name, Keys>,
}

impl State {
    /// The same, but for tunnels and their keys.
    pub fn without_tunnels(mut self) -> State {
        self.keys.clear();
        self.namespaces.values_mut().for_each(|namespace| namespace.tunnels.clear());
        self
    }
}

/// One network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    /// What tells it from every other one until the next boot (`SO_NETNS_COOKIE`). Only ever seen.
    pub cookie: u64,
    /// Who has made it.
    pub maker: Maker,
    /// Who lives in one that `wire` has made, or holds it by another name. Only ever seen.
    pub inhabitant: Option<String>,
    /// The ends of wires, by wire.
    pub ends: BTreeMap<Name, End>,
    /// The tunnels that a hub's clients come in by, by device.
    pub tunnels: BTreeMap<Device, Tunnel>,
    /// Whether wires or tunnels end here that are out of a command's scope. Only ever seen.
    pub beyond: bool,
    /// Settings of the whole namespace (`conf/all`); empty at the host, which is not `wire`'s to set.
    pub settings: BTreeMap<Setting, i32>,
    /// What those were before `wire` changed them.
    pub remembered: BTreeMap<Setting, i32>,
    /// Settings of devices that are no wire's and have to forward for one (an uplink, a tunnel), and of `default`, which those
    /// take after that are yet to come.
    pub others: BTreeMap<(Device, Setting), i32>,
    /// What those were before `wire` changed them.
    pub others_remembered: BTreeMap<(Device, Setting), i32>,
    /// The rules.
    pub table: Option<Arc<Table>>,
    /// Which state of all the rules of the namespace that is: another after every change by anybody. Only ever seen.
    pub generation: u32,
    /// What its named counters have counted, in packets. Only ever seen.
    pub counts: BTreeMap<Text, u64>,
    /// By wire in audit mode, what the rules would not have let begin: source, destination, protocol, and port or ICMP type and
    /// code. Only ever seen.
    pub recorded: BTreeMap<Name, Vec<Vec<Value>>>,
    /// What the rules let begin. Only ever wanted: nobody can tell it from what is seen.
    pub openings: Arc<Openings>,
    /// Devices that carry `wire`'s mark and are no end that could be told.
    pub strays: Vec<Device>,
    pub foreign: Foreign,
}

/// Who has made a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maker {
    /// Somebody else, who takes it away, too.
    #[default]
    Others,
    /// `wire`, for a node that is `owned`.
    Wire,
    /// Nobody yet: what it is seen to hold is what it will be born with.
    Nobody,
    /// Nobody yet, and its name is there: somebody was killed.
    Killed,
}

impl Maker {
    /// Whether there is a namespace at all.
    pub fn has_made(self) -> bool {
        matches!(self, Maker::Others | Maker::Wire)
    }
}

/// One end of a wire.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub device: Device,
    /// The wire's name as the device's altname.
    pub altname: bool,
    pub marks: Marks,
    /// The node that the far end is in; `None` where the far end is not this wire's.
    pub far: Option<Name>,
    /// Bytes.
    pub mtu: u32,
    pub up: bool,
    /// Whether it answers ARP at all.
    pub arp: bool,
    /// Whether a bridge or the like has taken it.
    pub enslaved: bool,
    pub addresses: BTreeSet<IpNetwork>,
    pub routes: BTreeSet<Route>,
    pub settings: BTreeMap<Setting, i32>,
    pub traffic: Traffic,
}

/// What makes a device `wire`'s: from birth the group and the hardware address, then the alias. Any one is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    pub group: bool,
    pub alias: bool,
    pub mac: Mac,
}

/// Bytes that went through an end since its birth. Only ever seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
}

/// A route over an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub to: IpNetwork,
    /// `None` for the wire's own subnet, whose route the kernel makes out of the address.
    pub via: Option<IpAddr>,
    /// The address that this one's packets come from; IPv4's own subnet alone names it.
    pub from: Option<IpAddr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.to.prefix(), self.via) {
            (0, Some(via)) => write!(f, "default via {via}"),
            (_, Some(via)) => write!(f, "{} via {via}", self.to),
            (_, None) => write!(f, "{} on the wire itself", self.to),
        }
    }
}

/// What is not `wire`'s and may stand in its way. Only ever seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foreign {
    /// Devices without a mark, loopback left out: each with all its names, its device name first.
    pub devices: Vec<Vec<String>>,
    /// Addresses on an end that `wire` did not put there, with the wire.
    pub addresses: Vec<(Name, IpNetwork)>,
    /// Routes over an end that `wire` did not put there, with the wire.
    pub routes: Vec<(Name, IpNetwork)>,
    /// A table of the name of wire's that is not wire's.
    pub table: bool,
    /// The tables of others that packets pass, where wires end.
    pub tables: Vec<others::Table>,
    /// The indexes of all devices, by which those may ask for them.
    pub indexes: BTreeMap<String, u32>,
    /// What other devices have routes or addresses for, with the device.
    pub networks: Vec<(IpNetwork, String)>,
}

impl Foreign {
    /// Whether one of the devices goes by a name.
    pub fn has_device(&self, name: &str) -> bool {
        self.devices.iter().flatten().any(|known| known == name)
    }
}

/// A sysctl below `net/ipv4/conf/DEVICE` or `net/ipv6/conf/DEVICE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    Forwarding,
    ProxyArp,
    AcceptRedirects,
    SendRedirects,
    RpFilter,
    AcceptSourceRoute,
    ArpAnnounce,
    ArpIgnore,
    RouteLocalnet,
    DisableIpv6,
    Forwarding6,
    AcceptRa,
    AcceptRedirects6,
    Autoconf,
    AcceptDad,
    ProxyNdp,
    AcceptSourceRoute6,
    /// Of one device alone, where the kernel has it (6.17); else IPv6 is forwarded by all devices or none.
    ForceForwarding6,
}

/// What every end has, whatever the host's defaults are: strict about sources (RFC 3704), mute about addresses of other wires,
/// no redirects, no source routing, no way to 127.0.0.0/8, no forwarding.
pub const EVERY_END: [(Setting, i32); 9] = [
    (Setting::Forwarding, 0),
    (Setting::ProxyArp, 0),
    (Setting::AcceptRedirects, 0),
    (Setting::SendRedirects, 0),
    (Setting::RpFilter, 1),
    (Setting::AcceptSourceRoute, 0),
    (Setting::ArpAnnounce, 2),
    (Setting::ArpIgnore, 2),
    (Setting::RouteLocalnet, 0),
];

/// The settings of a whole namespace that could undo those of an end.
pub const WHOLE_NAMESPACE: [Setting; 4] =
    [Setting::Forwarding, Setting::AcceptRedirects, Setting::RpFilter, Setting::RouteLocalnet];

/// An end without IPv6.
pub const WITHOUT_IPV6: [(Setting, i32); 1] = [(Setting::DisableIpv6, 1)];

/// An end with IPv6: addresses from the file alone. Duplicate detection is off: the far end is the only other one there is.
pub const WITH_IPV6: [(Setting, i32); 8] = [
    (Setting::DisableIpv6, 0),
    (Setting::Forwarding6, 0),
    (Setting::AcceptRa, 0),
    (Setting::AcceptRedirects6, 0),
    (Setting::Autoconf, 0),
    (Setting::AcceptDad, 0),
    (Setting::ProxyNdp, 0),
    (Setting::AcceptSourceRoute6, 0),
];

impl Setting {
    /// The name of its file.
    pub fn key(self) -> &'static str {
        match self {
            Setting::Forwarding | Setting::Forwarding6 => "forwarding",
            Setting::ProxyArp => "proxy_arp",
            Setting::AcceptRedirects | Setting::AcceptRedirects6 => "accept_redirects",
            Setting::SendRedirects => "send_redirects",
            Setting::RpFilter => "rp_filter",
            Setting::AcceptSourceRoute | Setting::AcceptSourceRoute6 => "accept_source_route",
            Setting::ArpAnnounce => "arp_announce",
            Setting::ArpIgnore => "arp_ignore",
            Setting::RouteLocalnet => "route_localnet",
            Setting::DisableIpv6 => "disable_ipv6",
            Setting::AcceptRa => "accept_ra",
            Setting::Autoconf => "autoconf",
            Setting::AcceptDad => "accept_dad",
            Setting::ProxyNdp => "proxy_ndp",
            Setting::ForceForwarding6 => "force_forwarding",
        }
    }

    pub fn is_ipv6(self) -> bool {
        self >= Setting::DisableIpv6
    }

    /// The sysctl of one device, or of `all`, as `sysctl` writes it but for the slashes: a device name may hold dots.
    pub fn path(self, device: &str) -> String {
        let family = if self.is_ipv6() { "ipv6" } else { "ipv4" };
        format!("net/{family}/conf/{device}/{}", self.key())
    }

    /// The other way round, for the settings that `wire` changes beside its own devices.
    pub fn of_path(path: &str) -> Option<(Device, Setting)> {
        let known = [Setting::Forwarding, Setting::ForceForwarding6];
        let device = Device::new(path.strip_prefix("net/")?.split_once("/conf/")?.1.rsplit_once('/')?.0)?;
        known.into_iter().find(|setting| setting.path(device.as_str()) == path).map(|setting| (device, setting))
    }
}
