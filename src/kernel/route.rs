//! Routes of the main table as netlink writes them, both directions side by side.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::RouteMessageBuilder;

use super::rtm::{self, PROTOCOL, request};
use super::socket::{Answer, Request};
use crate::state::Route;

/// Of the main table.
pub fn list(family: AddressFamily) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    request(rtm::GETROUTE, NLM_F_DUMP, &message)
}

/// A route of the main table.
pub struct Seen {
    pub to: IpNetwork,
    pub via: Option<IpAddr>,
    pub from: Option<IpAddr>,
    pub devices: Vec<u32>,
    pub metric: u32,
    /// Made by the kernel itself, out of an address.
    pub kernel: bool,
    pub ours: bool,
}

pub fn seen((kind, payload): Answer) -> Result<Option<Seen>, DecodeError> {
    if kind != rtm::NEWROUTE {
        return Ok(None);
    }
    Ok(read(&RouteMessage::parse(payload)?))
}

fn read(message: &RouteMessage) -> Option<Seen> {
    let header = &message.header;
    let none: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Seen {
        to: IpNetwork::new(none, header.destination_prefix_length).ok()?,
        via: None,
        from: None,
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
            RouteAttribute::PrefSource(from) => route.from = ip(from),
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

/// Asks which route a packet to an address would take.
pub fn way(to: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    let (family, length, to) = match to {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    (message.header.address_family, message.header.destination_prefix_length) = (family, length);
    message.attributes.push(RouteAttribute::Destination(to));
    request(rtm::GETROUTE, 0, &message)
}

/// The answer to `way`: the device it leaves by.
pub fn device((kind, payload): Answer) -> Option<u32> {
    let message = RouteMessage::parse(payload).ok().filter(|_| kind == rtm::NEWROUTE)?;
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// `replace`: takes the place of a route to the same destination, whoever made that.
pub fn add(index: u32, route: &Route, replace: bool) -> Request {
    let flags = NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    request(rtm::NEWROUTE, flags, &message(index, route))
}

pub fn remove(index: u32, route: &Route) -> Request {
    request(rtm::DELROUTE, 0, &message(index, route))
}

fn message(index: u32, route: &Route) -> RouteMessage {
    let mut builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index);
    builder = match route.via {
        Some(_) => builder.protocol(RouteProtocol::from(PROTOCOL)),
        // As the kernel makes them itself: `fib_add_ifaddr` (net/ipv4/fib_frontend.c), and IP6_RT_PRIO_ADDRCONF for IPv6.
        None if route.to.is_ipv4() => builder.protocol(RouteProtocol::Kernel).scope(RouteScope::Link),
        None => builder.protocol(RouteProtocol::Kernel).priority(256),
    };
    // Gateway and source are of the destination's family always, so nothing here is refused.
    let plain = |mut builder: RouteMessageBuilder<IpAddr>| {
        builder = builder.destination_prefix(route.to.network(), route.to.prefix()).ok()?;
        if let Some(via) = route.via {
            builder = builder.gateway(via).ok()?;
        }
        match route.from {
            Some(from) => builder.pref_source(from).ok(),
            None => Some(builder),
        }
    };
    plain(builder).map(RouteMessageBuilder::build).unwrap_or_default()
}
