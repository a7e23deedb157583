//! Links as netlink writes them, both directions side by side: what a dump says of a device, and the request that each action
//! becomes. It opens nothing and sends nothing.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NlaBuffer, NlasIterator, Parseable,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage, Prop,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::rtm::{self, request};
use super::socket::{Answer, Request};
use crate::state::{EVERY_END, Setting, Traffic, WITH_IPV6};
use crate::topology::Mac;

/// The group of every device that `wire` makes: "wire" in ASCII. The kernel keeps an `int`, any number but 0 is free.
pub const GROUP: u32 = 0x7769_7265;
/// Devices that are about to be deleted together.
pub const DOOMED: u32 = 0x7769_7266;
/// In front of the wire's name in the device's alias.
pub const ALIAS: &str = "wire:";
/// In front of the hub's name in the alias of its tunnel, which is no wire's.
pub const TUNNEL: &str = "wire-tunnel:";

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
    /// As `ip -d link` has it.
    pub kind: String,
    pub enslaved: bool,
    /// The far end's index, and the number that its namespace has in this one.
    pub far_index: u32,
    pub far_namespace: Option<i32>,
    pub settings: Vec<(Setting, i32)>,
    pub traffic: Traffic,
}

pub fn list() -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    request(rtm::GETLINK, NLM_F_DUMP, &message)
}

/// Asks for one device.
pub fn one(index: u32) -> Request {
    let mut message = LinkMessageBuilder::<LinkUnspec>::default()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    message.header.index = index;
    request(rtm::GETLINK, 0, &message)
}

/// Asks which number a namespace has in the one of the socket.
pub fn number_of(namespace: RawFd) -> Request {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(namespace as u32));
    request(rtm::GETNSID, 0, &message)
}

/// The answer to `number_of`; `None` where it has none.
pub fn number((kind, payload): Answer) -> Option<i32> {
    let message = NsidMessage::parse(payload).ok().filter(|_| kind == rtm::NEWNSID)?;
    message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => (*id >= 0).then_some(*id),
        _ => None,
    })
}

/// Attributes of a link (linux/if_link.h). Of the many that a dump brings these few are read, without the rest being taken
/// apart: a look at a thousand namespaces is to cost less than making one wire in ten.
mod ifla {
    pub const ADDRESS: u16 = 1;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const LINK: u16 = 5;
    pub const MASTER: u16 = 10;
    pub const LINKINFO: u16 = 18;
    pub const IFALIAS: u16 = 20;
    pub const STATS64: u16 = 23;
    pub const AF_SPEC: u16 = 26;
    pub const GROUP: u16 = 27;
    pub const LINK_NETNSID: u16 = 37;
    pub const PROP_LIST: u16 = 52;
    pub const ALT_IFNAME: u16 = 53;
    pub const INFO_KIND: u16 = 1;
    pub const INET_CONF: u16 = 1;
    pub const INET6_CONF: u16 = 2;
    pub const AF_INET: u16 = 2;
    pub const AF_INET6: u16 = 10;
}

/// A device out of a dump's message; `None` where it is no device.
pub fn seen((kind, payload): Answer) -> Result<Option<Seen>, DecodeError> {
    /// `struct ifinfomsg` (linux/rtnetlink.h): index and flags stand at 4 and 8.
    const HEADER: usize = 16;
    let Some(attributes) = payload.get(HEADER..).filter(|_| kind == rtm::NEWLINK) else { return Ok(None) };
    let flags = LinkFlags::from_bits_retain(number_at(payload, 8) as u32);
    let mut seen = Seen {
        index: number_at(payload, 4) as u32,
        up: flags.contains(LinkFlags::Up),
        arp: !flags.contains(LinkFlags::Noarp),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Seen::default()
    };
    // A device without IPv6 (its MTU below 1280, or a kernel without) is as good as one with IPv6 off.
    let mut ipv6 = vec![(Setting::DisableIpv6, 1)];
    for nla in NlasIterator::new(attributes) {
        let nla = nla?;
        let value = nla.value();
        match nla.kind() {
            ifla::IFNAME => seen.name = text(value),
            ifla::IFALIAS => seen.alias = text(value),
            ifla::PROP_LIST => {
                let names = nested(value).filter(|nla| nla.kind() == ifla::ALT_IFNAME);
                seen.altnames.extend(names.map(|nla| text(nla.value())));
            }
            ifla::GROUP => seen.group = number_at(value, 0) as u32,
            ifla::ADDRESS => seen.mac = value.try_into().unwrap_or_default(),
            ifla::MTU => seen.mtu = number_at(value, 0) as u32,
            ifla::MASTER => seen.enslaved = number_at(value, 0) != 0,
            ifla::LINK => seen.far_index = number_at(value, 0) as u32,
            ifla::LINK_NETNSID => seen.far_namespace = Some(number_at(value, 0)),
            ifla::LINKINFO => {
                let kind = nested(value).find(|nla| nla.kind() == ifla::INFO_KIND);
                seen.kind = kind.map(|nla| text(nla.value())).unwrap_or_default();
            }
            // `struct rtnl_link_stats64`: packets received and sent, then bytes received and sent.
            ifla::STATS64 => seen.traffic = Traffic { received: wide_at(value, 16), sent: wide_at(value, 24) },
            ifla::AF_SPEC => {
                for family in nested(value) {
                    let (conf, number): (u16, fn(Setting) -> Option<u16>) = match family.kind() {
                        ifla::AF_INET => (ifla::INET_CONF, devconf),
                        ifla::AF_INET6 => (ifla::INET6_CONF, devconf6),
                        _ => continue,
                    };
                    let Some(conf) = nested(family.value()).find(|nla| nla.kind() == conf) else { continue };
                    let values = settings(conf.value(), number);
                    if family.kind() == ifla::AF_INET6 { ipv6 = values } else { seen.settings.extend(values) }
                }
            }
            _ => {}
        }
    }
    seen.settings.extend(ipv6);
    Ok(Some(seen))
}

fn nested(value: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(value).flatten()
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn number_at(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, i32::from_ne_bytes)
}

fn wide_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// The settings of a family out of its array of them, as far as the kernel has them.
fn settings(array: &[u8], number: fn(Setting) -> Option<u16>) -> Vec<(Setting, i32)> {
    let all = EVERY_END.iter().chain(&WITH_IPV6).map(|(setting, _)| *setting).chain([Setting::ForceForwarding6]);
    let numbered = all.filter_map(|setting| Some((setting, usize::from(number(setting)?) * 4)));
    numbered.filter(|(_, at)| at + 4 <= array.len()).map(|(setting, at)| (setting, number_at(array, at))).collect()
}

/// The place of an IPv4 setting in the array that a dump brings, one less than its number (`IPV4_DEVCONF_*`, linux/ip.h).
fn devconf(setting: Setting) -> Option<u16> {
    Some(match setting {
        Setting::Forwarding => 0,
        Setting::ProxyArp => 2,
        Setting::AcceptRedirects => 3,
        Setting::SendRedirects => 5,
        Setting::RpFilter => 7,
        Setting::AcceptSourceRoute => 8,
        Setting::ArpAnnounce => 17,
        Setting::ArpIgnore => 18,
        Setting::RouteLocalnet => 25,
        _ => return None,
    })
}

/// The same for IPv6 (`DEVCONF_*`, linux/ipv6.h), where place and number are one. Netlink does not take these (EINVAL);
/// `/proc/sys` does.
fn devconf6(setting: Setting) -> Option<u16> {
    Some(match setting {
        Setting::Forwarding6 => 0,
        Setting::AcceptRa => 3,
        Setting::AcceptRedirects6 => 4,
        Setting::Autoconf => 5,
        Setting::ProxyNdp => 22,
        Setting::AcceptSourceRoute6 => 24,
        Setting::DisableIpv6 => 26,
        Setting::AcceptDad => 27,
        Setting::ForceForwarding6 => 59,
        _ => return None,
    })
}

/// One end to be born: in which namespace, under which index and name.
pub struct Birth<'a> {
    pub namespace: RawFd,
    pub index: u32,
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
}

/// The pair, each end in its namespace from birth. A taken name refuses both (EEXIST). One queue an end: the default is one
/// for every possible processor, and costs a quarter of the whole. The peer cannot be up at birth (ENOTCONN).
pub fn create([first, second]: [Birth; 2]) -> Request {
    let peer = born(LinkMessageBuilder::<LinkUnspec>::default(), &second).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth);
    let message = born(pair, &first).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    request(rtm::NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
}

/// A pair that is not `wire`'s, as a lab's uplink: one end here, the other there, under one name and index.
pub fn unmarked_pair(name: &str, index: u32, there: BorrowedFd) -> Request {
    let peer = LinkMessageBuilder::<LinkUnspec>::default().index(index).name(name.to_owned());
    let peer = peer.setns_by_fd(there.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).index(index).name(name.to_owned());
    let message = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    request(rtm::NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
}

/// A tunnel of the kernel's WireGuard, whose packets come and go in the namespace that it is born in.
pub fn wireguard(index: u32, name: &str, mtu: u32) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Wireguard)
        .index(index)
        .name(name.to_owned())
        .mtu(mtu)
        .append_extra_attribute(LinkAttribute::Group(GROUP));
    request(rtm::NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message.build())
}

/// Group and alias of a device that has no hardware address.
pub fn mark_tunnel(index: u32, hub: &str) -> Request {
    set(change(index)
        .append_extra_attribute(LinkAttribute::IfAlias(format!("{TUNNEL}{hub}")))
        .append_extra_attribute(LinkAttribute::Group(GROUP)))
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
    request(rtm::SETLINK, 0, &builder.build())
}

/// Alias and IPv4 settings of a newborn end: both are silently ignored or refused (EAFNOSUPPORT) at birth.
pub fn settle(index: u32, wire: &str, values: impl Iterator<Item = (Setting, i32)>) -> Request {
    set(change(index)
        .append_extra_attribute(LinkAttribute::IfAlias(format!("{ALIAS}{wire}")))
        .append_extra_attribute(inet(values)))
}

/// Up, and with an alias.
pub fn settle_loopback(index: u32, alias: &str) -> Request {
    set(change(index).up().append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned())))
}

/// The IPv4 settings among `values`.
pub fn configure(index: u32, values: impl Iterator<Item = (Setting, i32)>) -> Request {
    set(change(index).append_extra_attribute(inet(values)))
}

fn inet(values: impl Iterator<Item = (Setting, i32)>) -> LinkAttribute {
    /// `IFLA_INET_CONF` (linux/if_link.h).
    const INET_CONF: u16 = 1;
    let mut nested = Vec::new();
    for (number, value) in values.filter_map(|(setting, value)| Some((devconf(setting)? + 1, value))) {
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
    request(rtm::NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL, &prop(index, name))
}

pub fn unname(index: u32, name: &str) -> Request {
    request(rtm::DELLINKPROP, 0, &prop(index, name))
}

fn prop(index: u32, name: &str) -> LinkMessage {
    let props = LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]);
    change(index).append_extra_attribute(props).build()
}

pub fn delete(index: u32) -> Request {
    request(rtm::DELLINK, 0, &change(index).build())
}

/// One by one costs a grace period (20 ms) each, a group one for all.
pub fn delete_doomed() -> Request {
    let group = LinkMessageBuilder::<LinkUnspec>::default().append_extra_attribute(LinkAttribute::Group(DOOMED));
    request(rtm::DELLINK, 0, &group.build())
}
