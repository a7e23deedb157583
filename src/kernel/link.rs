//! Links, addresses and routes as netlink writes them, both directions side by side: what a dump says of a device, and the
//! request that each action becomes. It opens nothing and sends nothing.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, InetDevConf, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, Prop, Stats64,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::state::{Route, Setting, Traffic};
use crate::topology::Mac;

/// The group of every device that `wire` makes: "wire" in ASCII. The kernel keeps an `int`, any number but 0 is free.
pub const GROUP: u32 = 0x7769_7265;
/// Devices that are about to be deleted together.
pub const DOOMED: u32 = 0x7769_7266;
/// What marks an address (`IFA_PROTO`, Linux 5.18) or a route (`rtm_protocol`) as `wire`'s: "w" in ASCII, of the range that
/// linux/rtnetlink.h leaves to user space.
pub const PROTOCOL: u8 = b'w';
/// In front of the wire's name in the device's alias.
pub const ALIAS: &str = "wire:";

/// One device, as far as it matters here.
#[derive(Default)]
pub struct Seen {
    pub index: u32,
    pub name: String,
    pub altnames: Vec<String>,
    pub alias: String,
    pub group: u32,
    pub mac: Mac,
    pub mtu: u32,
    pub up: bool,
    pub arp: bool,
    pub loopback: bool,
    pub veth: bool,
    pub enslaved: bool,
    /// The far end's index, and the number that its namespace has in this one.
    pub far_index: u32,
    pub far_namespace: Option<i32>,
    pub settings: Vec<(Setting, i32)>,
    pub traffic: Traffic,
}

pub fn list_links() -> RouteNetlinkMessage {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    RouteNetlinkMessage::GetLink(message)
}

pub fn list_addresses(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family;
    RouteNetlinkMessage::GetAddress(message)
}

/// Of the main table.
pub fn list_routes(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks which number a namespace has in the one of the socket.
pub fn number_of(namespace: RawFd) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(namespace as u32));
    RouteNetlinkMessage::GetNsId(message)
}

/// The answer to `number_of`; `None` where it has none.
pub fn number(message: &NsidMessage) -> Option<i32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => (*id >= 0).then_some(*id),
        _ => None,
    })
}

pub fn seen(message: LinkMessage) -> Seen {
    let flags = message.header.flags;
    let mut seen = Seen {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        arp: !flags.contains(LinkFlags::Noarp),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Seen::default()
    };
    // A device without IPv6 (its MTU below 1280, or a kernel without) is as good as one with IPv6 off.
    let mut ipv6 = vec![(Setting::DisableIpv6, 1)];
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => seen.name = name,
            LinkAttribute::PropList(props) => {
                seen.altnames.extend(props.into_iter().filter_map(|prop| match prop {
                    Prop::AltIfName(name) => Some(name),
                    _ => None,
                }));
            }
            LinkAttribute::IfAlias(alias) => seen.alias = alias,
            LinkAttribute::Group(group) => seen.group = group,
            LinkAttribute::Address(mac) => seen.mac = mac.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => seen.mtu = mtu,
            LinkAttribute::Controller(index) => seen.enslaved = index != 0,
            LinkAttribute::Link(index) => seen.far_index = index,
            LinkAttribute::LinkNetNsId(id) => seen.far_namespace = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                seen.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            LinkAttribute::Stats64(Stats64 { rx_bytes, tx_bytes, .. }) => {
                seen.traffic = Traffic { received: rx_bytes, sent: tx_bytes };
            }
            LinkAttribute::AfSpecUnspec(families) => {
                for family in families {
                    match family {
                        AfSpecUnspec::Inet(specs) => {
                            for spec in specs {
                                if let AfSpecInet::DevConf(conf) = spec {
                                    seen.settings.extend(settings(&conf));
                                }
                            }
                        }
                        AfSpecUnspec::Inet6(specs) => {
                            for spec in specs {
                                if let AfSpecInet6::DevConf(conf) = spec {
                                    ipv6 = settings6(&conf);
                                }
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    seen.settings.extend(ipv6);
    seen
}

fn settings(conf: &InetDevConf) -> [(Setting, i32); 9] {
    [
        (Setting::Forwarding, conf.forwarding),
        (Setting::ProxyArp, conf.proxy_arp),
        (Setting::AcceptRedirects, conf.accept_redirects),
        (Setting::SendRedirects, conf.send_redirects),
        (Setting::RpFilter, conf.rp_filter),
        (Setting::AcceptSourceRoute, conf.accept_source_route),
        (Setting::ArpAnnounce, conf.arp_announce),
        (Setting::ArpIgnore, conf.arp_ignore),
        (Setting::RouteLocalnet, conf.route_localnet),
    ]
}

fn settings6(conf: &Inet6DevConf) -> Vec<(Setting, i32)> {
    vec![
        (Setting::DisableIpv6, conf.disable_ipv6),
        (Setting::Forwarding6, conf.forwarding),
        (Setting::AcceptRa, conf.accept_ra),
        (Setting::AcceptRedirects6, conf.accept_redirects),
        (Setting::Autoconf, conf.autoconf),
        (Setting::AcceptDad, conf.accept_dad),
        (Setting::ProxyNdp, conf.proxy_ndp),
        (Setting::AcceptSourceRoute6, conf.accept_source_route),
    ]
}

/// The number of an IPv4 setting in `IFLA_INET_CONF` (`IPV4_DEVCONF_*`, linux/ip.h); `None` for one of IPv6, which netlink does
/// not take (EINVAL) and `/proc/sys` does.
fn devconf(setting: Setting) -> Option<u16> {
    Some(match setting {
        Setting::Forwarding => 1,
        Setting::ProxyArp => 3,
        Setting::AcceptRedirects => 4,
        Setting::SendRedirects => 6,
        Setting::RpFilter => 8,
        Setting::AcceptSourceRoute => 9,
        Setting::ArpAnnounce => 18,
        Setting::ArpIgnore => 19,
        Setting::RouteLocalnet => 26,
        _ => return None,
    })
}

/// An address of a device: its index, the address, and whether `wire` put it there (`None` where the kernel does not say).
pub struct SeenAddress {
    pub index: u32,
    pub address: IpNetwork,
    pub ours: Option<bool>,
    /// Made by the kernel itself, out of the hardware address.
    pub link_local: bool,
}

pub fn seen_address(message: &AddressMessage) -> Option<SeenAddress> {
    let (mut address, mut local, mut protocol) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Protocol(number) => protocol = Some(u8::from(*number)),
            _ => {}
        }
    }
    // IPv4 gives its own address as Local (Address is the far one on a point-to-point device), IPv6 as Address.
    let address = IpNetwork::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(SeenAddress {
        index: message.header.index,
        address,
        ours: protocol.map(|number| number == PROTOCOL),
        link_local: message.header.family == AddressFamily::Inet6 && message.header.scope == AddressScope::Link,
    })
}

/// A route of the main table.
pub struct SeenRoute {
    pub to: IpNetwork,
    pub via: Option<IpAddr>,
    pub devices: Vec<u32>,
    pub metric: u32,
    /// Made by the kernel itself, out of an address.
    pub kernel: bool,
    pub ours: bool,
}

pub fn seen_route(message: &RouteMessage) -> Option<SeenRoute> {
    let header = &message.header;
    let none: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = SeenRoute {
        to: IpNetwork::new(none, header.destination_prefix_length).ok()?,
        via: None,
        devices: Vec::new(),
        // IPv6 has no route without a metric: 1024 is what it gives one that asks for none (IP6_RT_PRIO_USER).
        metric: 0,
        kernel: header.protocol == RouteProtocol::Kernel,
        ours: u8::from(header.protocol) == PROTOCOL,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                route.to = IpNetwork::new(ip(to)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(via) => route.via = ip(via),
            RouteAttribute::Oif(index) => route.devices.push(*index),
            RouteAttribute::MultiPath(hops) => route.devices.extend(hops.iter().map(|hop| hop.interface_index)),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(table) if *table != u32::from(RouteHeader::RT_TABLE_MAIN) => return None,
            _ => {}
        }
    }
    if header.address_family == AddressFamily::Inet6 && route.metric == 1024 {
        route.metric = 0;
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// One end to be born: in which namespace, under which index and name.
pub struct Birth<'a> {
    pub namespace: RawFd,
    pub index: u32,
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
}

/// A request and its flags beside `NLM_F_REQUEST`.
pub type Request = (RouteNetlinkMessage, u16);

/// The pair, each end in its namespace from birth. A taken name refuses both (EEXIST). One queue an end: the default is one
/// for every possible processor, and costs a quarter of the whole. The peer cannot be up at birth (ENOTCONN).
pub fn create([first, second]: [Birth; 2]) -> Request {
    let peer = born(LinkMessageBuilder::<LinkUnspec>::default(), &second).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth);
    let message = born(pair, &first).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// A pair that is not `wire`'s, as a lab's uplink: one end here, the other there, under one name and index.
pub fn unmarked_pair(name: &str, index: u32, there: BorrowedFd) -> Request {
    let peer = LinkMessageBuilder::<LinkUnspec>::default().index(index).name(name.to_owned());
    let peer = peer.setns_by_fd(there.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).index(index).name(name.to_owned());
    let message = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn born<T>(builder: LinkMessageBuilder<T>, birth: &Birth) -> LinkMessageBuilder<T> {
    builder
        .index(birth.index)
        .name(birth.name.to_owned())
        .setns_by_fd(birth.namespace)
        .address(birth.mac.to_vec())
        .mtu(birth.mtu)
        .append_extra_attribute(LinkAttribute::Group(GROUP))
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

fn change(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

fn set(builder: LinkMessageBuilder<LinkUnspec>) -> Request {
    (RouteNetlinkMessage::SetLink(builder.build()), 0)
}

/// Alias and IPv4 settings of a newborn end: both are silently ignored or refused (EAFNOSUPPORT) at birth.
pub fn settle(index: u32, wire: &str, values: impl Iterator<Item = (Setting, i32)>) -> Request {
    set(change(index)
        .append_extra_attribute(LinkAttribute::IfAlias(format!("{ALIAS}{wire}")))
        .append_extra_attribute(inet(values)))
}

/// The IPv4 settings among `values`.
pub fn configure(index: u32, values: impl Iterator<Item = (Setting, i32)>) -> Request {
    set(change(index).append_extra_attribute(inet(values)))
}

fn inet(values: impl Iterator<Item = (Setting, i32)>) -> LinkAttribute {
    /// `IFLA_INET_CONF` (linux/if_link.h).
    const INET_CONF: u16 = 1;
    let mut nested = Vec::new();
    for (number, value) in values.filter_map(|(setting, value)| Some((devconf(setting)?, value))) {
        let nla = DefaultNla::new(number, value.to_ne_bytes().to_vec());
        let start = nested.len();
        nested.resize(start + nla.buffer_len(), 0);
        nla.emit(&mut nested[start..]);
    }
    let conf = DefaultNla::new(INET_CONF | netlink_packet_core::NLA_F_NESTED, nested);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(conf)])])
}

pub fn raise(index: u32) -> Request {
    set(change(index).up())
}

pub fn lower(index: u32) -> Request {
    set(change(index).down())
}

pub fn rename(index: u32, name: &str) -> Request {
    set(change(index).name(name.to_owned()))
}

pub fn mark(index: u32, wire: &str, mac: Mac) -> Request {
    set(change(index)
        .address(mac.to_vec())
        .append_extra_attribute(LinkAttribute::IfAlias(format!("{ALIAS}{wire}")))
        .append_extra_attribute(LinkAttribute::Group(GROUP)))
}

pub fn doom(index: u32) -> Request {
    set(change(index).append_extra_attribute(LinkAttribute::Group(DOOMED)))
}

pub fn release(index: u32) -> Request {
    set(change(index).nocontroller())
}

pub fn arp_on(index: u32) -> Request {
    set(change(index).arp(true))
}

pub fn resize(index: u32, mtu: u32) -> Request {
    set(change(index).mtu(mtu))
}

pub fn altname(index: u32, name: &str) -> Request {
    (RouteNetlinkMessage::NewLinkProp(prop(index, name)), NLM_F_CREATE | NLM_F_EXCL)
}

pub fn unname(index: u32, name: &str) -> Request {
    (RouteNetlinkMessage::DelLinkProp(prop(index, name)), 0)
}

fn prop(index: u32, name: &str) -> LinkMessage {
    let props = LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]);
    change(index).append_extra_attribute(props).build()
}

pub fn delete(index: u32) -> Request {
    (RouteNetlinkMessage::DelLink(change(index).build()), 0)
}

/// One by one costs a grace period (20 ms) each, a group one for all.
pub fn delete_doomed() -> Request {
    let group = LinkMessageBuilder::<LinkUnspec>::default().append_extra_attribute(LinkAttribute::Group(DOOMED));
    (RouteNetlinkMessage::DelLink(group.build()), 0)
}

pub fn add_address(index: u32, address: &IpNetwork) -> Request {
    (RouteNetlinkMessage::NewAddress(address_message(index, address)), NLM_F_CREATE | NLM_F_EXCL)
}

pub fn remove_address(index: u32, address: &IpNetwork) -> Request {
    (RouteNetlinkMessage::DelAddress(address_message(index, address)), 0)
}

fn address_message(index: u32, address: &IpNetwork) -> AddressMessage {
    let mut message = match address {
        IpNetwork::V4(v4) => {
            // Without a broadcast address: of two addresses (RFC 3021) both are taken.
            let mut message =
                AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(index).address(v4.ip(), v4.prefix()).build();
            message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
            message
        }
        IpNetwork::V6(v6) => {
            let mut message =
                AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(index).address(v6.ip(), v6.prefix()).build();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    };
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
    message
}

/// `replace`: takes the place of a route to the same destination, whoever made that.
pub fn add_route(index: u32, route: &Route, replace: bool) -> Request {
    let flags = NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    (RouteNetlinkMessage::NewRoute(route_message(index, route)), flags)
}

pub fn remove_route(index: u32, route: &Route) -> Request {
    (RouteNetlinkMessage::DelRoute(route_message(index, route)), 0)
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    // A gateway and a destination of one family always, so neither is refused.
    let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index).protocol(RouteProtocol::from(PROTOCOL));
    let plain = |builder: RouteMessageBuilder<IpAddr>| {
        let builder = builder.destination_prefix(route.to.ip(), route.to.prefix()).ok()?;
        builder.gateway(route.via).ok()
    };
    plain(builder).map(RouteMessageBuilder::build).unwrap_or_default()
}
