//! The nouns of a topology file and what must hold for them. No TOML, no kernel: `parse` makes a `Topology` out of text and
//! has checked it, everybody else only reads it.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Serialize, Serializer};
use siphasher::sip::SipHasher24;

/// The longest device name: `IFNAMSIZ` (linux/if.h) is 16 with the closing NUL.
pub const DEVICE_MAX: usize = 15;
/// The longest name of a wire, node, module, hub, set or peer, in characters.
pub const NAME_MAX: usize = 64;
/// The name of the node that `wire` runs in.
pub const HOST: &str = "host";
/// Where named namespaces are, as `ip netns` has it.
pub const NETNS: &str = "/run/netns/";
/// The word for whatever lies beyond an uplink.
pub const OUTSIDE: &str = "outside";

/// A name of a wire, node, module, hub, set or peer: 1 to 64 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The text as a name, or `None` where it breaks the rule above. Reserved words are the parser's business.
    pub fn new(text: &str) -> Option<Name> {
        let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let first = text.bytes().next()?.is_ascii_alphanumeric();
        (first && text.len() <= NAME_MAX && text.bytes().all(legal)).then(|| Name(text.into()))
    }

    /// The name of the host node.
    pub fn host() -> Name {
        Name(HOST.into())
    }

    /// The word for whatever lies beyond an uplink, where it is a place.
    pub fn outside() -> Name {
        Name(OUTSIDE.into())
    }

    /// What stands for a named namespace that a node of its name does not live in: its path, which names no node.
    pub fn of_path(netns: &str) -> Name {
        Name(format!("{NETNS}{netns}").into())
    }

    /// The other way round: the namespace's own name.
    pub fn netns(&self) -> &str {
        self.0.strip_prefix(NETNS).unwrap_or(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_host(&self) -> bool {
        &*self.0 == HOST
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Where a word of the file stands. Both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// A whole topology file, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Topology {
    /// In the order of the file.
    pub wires: Vec<Wire>,
    /// Every node but the host.
    pub nodes: BTreeMap<Name, Node>,
    /// In the order of the file, each with its nodes in the order of the file.
    pub modules: Vec<Module>,
    pub hubs: BTreeMap<Name, Hub>,
    pub host: Host,
    pub pool: Pool,
    pub sets: BTreeMap<Name, Set>,
    pub acme: Option<Acme>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Module {
    pub name: Name,
    pub nodes: Vec<Name>,
}

/// Where `wire number` takes the /31s from of wires without a pool of a hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pool {
    pub host: Option<Ipv4Network>,
    pub direct: Option<Ipv4Network>,
}

/// One container or named namespace.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    pub name: Name,
    pub module: Name,
    pub home: Home,
    /// `network = "none"`: nothing but loopback may be there.
    pub network_none: bool,
    /// `wire` makes and keeps its home, which is `/run/netns/NAME` then.
    pub owned: bool,
    /// The node (or `host`) whose namespace it lives in, with whatever ends there.
    pub shares: Option<Name>,
    /// As declared, for a node of more than one zone.
    pub zones: Vec<Name>,
    pub egress: Vec<Flow>,
    /// The source address its egress leaves the host by.
    pub snat: Option<IpAddr>,
    pub place: Place,
}

/// What a node's namespace is found by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// `/run/netns/NAME`.
    Netns(Name),
    /// A podman container of a user (root's where there is none).
    Podman { container: Name, user: Option<String> },
}

/// A node that many wires of one zone meet in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hub {
    pub name: Name,
    pub zone: Name,
    pub pool: Option<Ipv4Network>,
    pub clients: Option<Clients>,
    pub wireguard: Option<Wireguard>,
    #[serde(rename = "site")]
    pub sites: Vec<Site>,
    #[serde(rename = "redirect")]
    pub redirects: Vec<Redirect>,
    #[serde(rename = "forward")]
    pub forwards: Vec<Forward>,
    pub place: Place,
}

impl Hub {
    /// Whether `wire hub` runs in it: forwards alone are rules of the kernel.
    pub fn is_run(&self) -> bool {
        self.wireguard.is_some() || self.serves_web()
    }

    /// Whether it takes a process: a kernel that has WireGuard serves tunnels itself.
    pub fn needs_process(&self, has_wireguard: bool) -> bool {
        self.serves_web() || self.wireguard.is_some() && !has_wireguard
    }

    /// Whether it is a reverse proxy.
    pub fn serves_web(&self) -> bool {
        !self.sites.is_empty() || !self.redirects.is_empty()
    }
}

/// Who comes in through a hub's own tunnel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clients {
    pub prefix: IpNetwork,
    pub device: Device,
}

impl Clients {
    /// The hub's own address in its tunnel: the prefix's first but one, as the first stands for all of it.
    pub fn hub_address(&self) -> IpAddr {
        match self.prefix.network() {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).saturating_add(1)).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).saturating_add(1)).into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Wireguard {
    /// UDP port.
    pub listen: u16,
    /// `host:port` as peers dial it.
    pub endpoint: Option<String>,
    /// A path.
    pub private_key: String,
    pub isolate: bool,
    #[serde(rename = "peer")]
    pub peers: Vec<Peer>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Peer {
    pub name: Name,
    /// Base64 of 32 bytes.
    pub public_key: String,
    /// A path.
    pub preshared_key: Option<String>,
    pub address: IpAddr,
    pub allow: Vec<Allowed>,
    pub place: Place,
}

/// What a VPN peer may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allowed {
    Everything,
    Module(Name),
    Node(Name),
    Wire(Name),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Site {
    pub host: String,
    pub to: Upstream,
    pub tls: Option<Tls>,
    /// Only below this path.
    pub path: Option<String>,
    /// Empty: GET, HEAD and POST.
    pub methods: Vec<String>,
    pub headers: BTreeMap<String, String>,
    pub rate: Option<Rate>,
    /// The largest body, in bytes.
    pub body: Option<u64>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Upstream {
    pub node: Name,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    Acme,
    Internal,
    /// Paths.
    Files {
        cert: String,
        key: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Redirect {
    pub host: String,
    /// A URL without path; path and query of the request are kept.
    pub to: String,
    pub tls: Option<Tls>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forward {
    pub port: Service,
    pub to: Upstream,
    pub from: Option<Whom>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Acme {
    pub contact: Option<String>,
    pub directory: Option<String>,
    /// A path.
    pub ca: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Host {
    pub uplinks: Vec<Device>,
    pub policy: Policy,
    pub allow: Vec<Flow>,
    /// A set whose members are dropped first.
    pub block: Option<Name>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Police only what comes from, goes to or passes through a wire.
    #[default]
    Wires,
    /// Also drop what comes in on an uplink.
    All,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Set {
    pub name: Name,
    pub elements: Vec<IpNetwork>,
    /// A path; one address or prefix a line.
    pub file: Option<String>,
    pub dns: Vec<String>,
    /// Seconds between two look-ups of `dns`.
    pub interval: Option<u64>,
    /// Names of `dns` may lead to private, shared and link-local addresses.
    pub private: bool,
    pub place: Place,
}

/// One point-to-point veth pair on its own /31 (or /30).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Wire {
    pub name: Name,
    pub module: Name,
    /// The first has the lower address.
    pub ends: [End; 2],
    pub subnet: Ipv4Network,
    /// A /127. Without one there is no IPv6 on the wire at all.
    pub subnet6: Option<Ipv6Network>,
    /// What the first end may open towards the second.
    pub allow: Vec<Flow>,
    /// What the second end may open towards the first.
    pub allow_back: Vec<Flow>,
    pub publish: Vec<Publish>,
    /// Bytes.
    pub mtu: u32,
    pub mode: Mode,
    pub across_zones: bool,
    pub place: Place,
}

/// The MTU of a wire that does not name one, as of any Ethernet (RFC 894).
pub const MTU: u32 = 1500;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    Enforce,
    /// Lets everything pass, counts and logs what it would drop.
    Audit,
}

/// One end of a wire: a device in a node's namespace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct End {
    /// Never a node that shares another's namespace: then it is that other node.
    pub node: Name,
    pub device: Device,
    pub address: Ipv4Addr,
    pub address6: Option<Ipv6Addr>,
}

/// Who may open a connection, by protocol and port. Which way is said by where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flow {
    pub flow: Service,
    pub from: Option<Whom>,
    pub to: Option<Whom>,
    pub rate: Option<Rate>,
    pub log: bool,
    pub place: Place,
}

/// A port of the host handed to the far end of a wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Publish {
    pub flow: Service,
    /// The first port at the far end, where it differs from the host's.
    pub to_port: Option<u16>,
    pub address: Option<IpAddr>,
    pub on: Option<Device>,
    pub from: Option<Whom>,
    pub rate: Option<Rate>,
    pub log: bool,
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
}

impl Protocol {
    /// The ICMP types that a flow may name, by IANA's numbers (RFC 792, RFC 950; RFC 4443) and nft's names. What changes routes or
    /// neighbours is none of them. Of other protocols none.
    pub fn icmp_types(self) -> &'static [(u8, &'static str)] {
        match self {
            Protocol::Icmp => &[
                (8, "echo-request"),
                (0, "echo-reply"),
                (3, "destination-unreachable"),
                (4, "source-quench"),
                (11, "time-exceeded"),
                (12, "parameter-problem"),
                (13, "timestamp-request"),
                (14, "timestamp-reply"),
                (15, "info-request"),
                (16, "info-reply"),
                (17, "address-mask-request"),
                (18, "address-mask-reply"),
            ],
            Protocol::Icmpv6 => &[
                (128, "echo-request"),
                (129, "echo-reply"),
                (1, "destination-unreachable"),
                (2, "packet-too-big"),
                (3, "time-exceeded"),
                (4, "parameter-problem"),
            ],
            Protocol::Tcp | Protocol::Udp => &[],
        }
    }

    /// The number of a type by its name.
    pub fn icmp_number(self, name: &str) -> Option<u8> {
        self.icmp_types().iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
            Protocol::Icmpv6 => "icmpv6",
        })
    }
}

/// A protocol and what of it: `tcp/80,443`, `udp/8000-8010`, `icmp`, `icmp/echo-request`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    pub protocol: Protocol,
    /// For tcp and udp: at least one range, both ends meant, sorted, none touching another. Else empty.
    pub ports: Vec<(u16, u16)>,
    /// For icmp and icmpv6: one type by nft's name; all where there is none.
    pub icmp_type: Option<String>,
}

impl Service {
    /// Whether every port (or type) of `other` is one of `self`.
    pub fn covers(&self, other: &Service) -> bool {
        let holds = |&(low, high): &(u16, u16)| self.ports.iter().any(|&(a, b)| a <= low && high <= b);
        self.protocol == other.protocol
            && (self.icmp_type.is_none() || self.icmp_type == other.icmp_type)
            && other.ports.iter().all(holds)
    }

    /// Whether some port (or type) is in both.
    pub fn overlaps(&self, other: &Service) -> bool {
        let meets = |&(low, high): &(u16, u16)| self.ports.iter().any(|&(a, b)| a <= high && low <= b);
        self.protocol == other.protocol
            && if self.ports.is_empty() {
                self.icmp_type.is_none() || other.icmp_type.is_none() || self.icmp_type == other.icmp_type
            } else {
                other.ports.iter().any(meets)
            }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.protocol)?;
        for (i, (low, high)) in self.ports.iter().enumerate() {
            f.write_str(if i == 0 { "/" } else { "," })?;
            if low == high { write!(f, "{low}")? } else { write!(f, "{low}-{high}")? }
        }
        match &self.icmp_type {
            Some(kind) => write!(f, "/{kind}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Who a flow is from or to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// An address (as /32 or /128) or a prefix.
    Network(IpNetwork),
    Set(Name),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Whom::Network(n) if n.prefix() == if n.is_ipv4() { 32 } else { 128 } => write!(f, "{}", n.ip()),
            Whom::Network(n) => write!(f, "{n}"),
            Whom::Set(name) => write!(f, "@{name}"),
        }
    }
}

impl Serialize for Whom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// New connections per source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    pub count: u32,
    pub per: Per,
    pub burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    Second,
    Minute,
    Hour,
    Day,
}

impl Per {
    pub fn seconds(self) -> u32 {
        match self {
            Per::Second => 1,
            Per::Minute => 60,
            Per::Hour => 3600,
            Per::Day => 86_400,
        }
    }
}

/// A kernel device name: 1 to 15 bytes, no `/`, `:` or white space (`dev_valid_name`, net/core/dev.c), not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device(Arc<str>);

impl Device {
    /// The text as a device name, or `None` where the kernel would refuse it.
    pub fn new(text: &str) -> Option<Device> {
        let legal = |c: char| c != '/' && c != ':' && !c.is_whitespace() && !c.is_control();
        let fits = !text.is_empty() && text.len() <= DEVICE_MAX && text != "." && text != "..";
        (fits && text.chars().all(legal)).then(|| Device(text.into()))
    }

    /// What a leaf calls the device of its first hub wire.
    pub fn eth0() -> Device {
        Device("eth0".into())
    }

    /// The device name that stands for a wire's name: the name itself where it fits, else its beginning, a `+`, which no name
    /// has, so that a long name never meets a short one, and 8 characters (47 bits) of a hash.
    pub fn for_wire(wire: &Name) -> Device {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let name = wire.as_str();
        if name.len() <= DEVICE_MAX {
            return Device(name.into());
        }
        let mut rest = hash(name, 0);
        let mut text = name[..6].to_owned() + "+";
        for _ in 0..8 {
            text.push(char::from(DIGITS[(rest % 62) as usize]));
            rest /= 62;
        }
        Device(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A hash that stays the same over releases and machines: device names and hardware addresses depend on it.
fn hash(text: &str, salt: u64) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0x7769_7265, salt);
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// A hardware address, its first octet 0x02: unicast, locally administered (IEEE 802).
pub type Mac = [u8; 6];

/// The hardware address of an end (0 or 1) of a wire: a mark from the device's birth, and the same after every re-making, so
/// that the far end's neighbour entry stays right.
pub fn mac(wire: &Name, end: usize) -> Mac {
    let [a, b, c, d, ..] = hash(wire.as_str(), 1).to_be_bytes();
    [0x02, b'w', a, b, c, d & 0xfe | end as u8]
}

impl Wire {
    /// The end (0 or 1) that is in a node.
    pub fn end_in(&self, node: &str) -> Option<usize> {
        self.ends.iter().position(|end| end.node.as_str() == node)
    }

    pub fn far(&self, end: usize) -> &End {
        &self.ends[1 - end]
    }
}

impl Topology {
    pub fn wire(&self, name: &str) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.name.as_str() == name)
    }

    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name.as_str() == name)
    }

    /// The wires that end in a node (a namespace: a sharer has none of its own), with which end, in the order of the file.
    pub fn wires_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (&'a Wire, usize)> {
        self.wires.iter().filter_map(move |wire| Some((wire, wire.end_in(node)?)))
    }

    /// The same for every node at once: what asks for many asks this.
    pub fn wires_by_node(&self) -> BTreeMap<&Name, Vec<(&Wire, usize)>> {
        let mut nodes: BTreeMap<&Name, Vec<(&Wire, usize)>> = BTreeMap::new();
        for wire in &self.wires {
            for (side, end) in wire.ends.iter().enumerate() {
                nodes.entry(&end.node).or_default().push((wire, side));
            }
        }
        nodes
    }

    /// The node whose namespace a node lives in: itself, but for one that shares.
    pub fn namespace_of<'a>(&'a self, node: &'a Name) -> &'a Name {
        match self.nodes.get(node).and_then(|node| node.shares.as_ref()) {
            Some(owner) => self.namespace_of(owner),
            None => node,
        }
    }

    pub fn is_leaf(&self, node: &str) -> bool {
        node != HOST && !self.hubs.contains_key(node)
    }
}
