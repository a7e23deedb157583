//! Addresses as netlink writes them, both directions side by side.

use ipnetwork::IpNetwork;
use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope};
use rtnetlink::AddressMessageBuilder;

use super::rtm::{self, PROTOCOL, request};
use super::socket::{Answer, Request};

pub fn list(family: AddressFamily) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family;
    request(rtm::GETADDR, NLM_F_DUMP, &message)
}

/// An address of a device: its index, the address, and whether `wire` put it there (`None` where the kernel does not say).
pub struct Seen {
    pub index: u32,
    pub address: IpNetwork,
    pub ours: Option<bool>,
    /// Made by the kernel itself, out of the hardware address.
    pub link_local: bool,
}

pub fn seen((kind, payload): Answer) -> Result<Option<Seen>, DecodeError> {
    if kind != rtm::NEWADDR {
        return Ok(None);
    }
    Ok(read(&AddressMessage::parse(payload)?))
}

fn read(message: &AddressMessage) -> Option<Seen> {
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
    Some(Seen {
        index: message.header.index,
        address,
        ours: protocol.map(|number| number == PROTOCOL),
        link_local: message.header.family == AddressFamily::Inet6 && message.header.scope == AddressScope::Link,
    })
}

pub fn add(index: u32, address: &IpNetwork) -> Request {
    request(rtm::NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message(index, address))
}

pub fn remove(index: u32, address: &IpNetwork) -> Request {
    request(rtm::DELADDR, 0, &message(index, address))
}

fn message(index: u32, address: &IpNetwork) -> AddressMessage {
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
