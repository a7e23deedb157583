//! Route netlink's kinds of messages (`RTM_*`, linux/rtnetlink.h), and a message of each as bytes.

use netlink_packet_core::Emitable;

use super::socket::Request;

pub const NEWLINK: u16 = 16;
pub const DELLINK: u16 = 17;
pub const GETLINK: u16 = 18;
pub const SETLINK: u16 = 19;
pub const NEWADDR: u16 = 20;
pub const DELADDR: u16 = 21;
pub const GETADDR: u16 = 22;
pub const NEWROUTE: u16 = 24;
pub const DELROUTE: u16 = 25;
pub const GETROUTE: u16 = 26;
pub const NEWNSID: u16 = 88;
pub const GETNSID: u16 = 90;
pub const NEWLINKPROP: u16 = 108;
pub const DELLINKPROP: u16 = 109;

/// What marks an address (`IFA_PROTO`, Linux 5.18) or a route (`rtm_protocol`) as `wire`'s: "w" in ASCII, of the range that
/// linux/rtnetlink.h leaves to user space.
pub const PROTOCOL: u8 = b'w';

pub fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    Request { kind, flags, message: bytes }
}
