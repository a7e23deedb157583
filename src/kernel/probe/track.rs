//! Whether a namespace has let a packet in: what its rules accept is in its conntrack, what they drop is not, for it is entered
//! there only when they are done with it (`nf_conntrack_confirm`).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::super::Open;
use super::super::conntrack::{self, Part, Tuple};
use super::super::netns::Netns;
use super::packet::UDP;

/// A connection: its protocol (linux/in.h) and what tells it from others.
pub type Sent = (u8, Tuple);

/// What is known of a namespace: whether it tracks connections at all, of IPv4 and of IPv6. It does only where a rule asks for
/// it. None: not tried yet.
#[derive(Default)]
pub struct Tracker([Option<bool>; 2]);

impl Tracker {
    /// Whether what is not known was not let in: tried by a packet of the namespace to this address of its own.
    pub fn tracks(&mut self, open: &Open, home: &Netns, own: IpAddr) -> bool {
        let family = usize::from(own.is_ipv6());
        // A link-local address is none of the whole namespace.
        let local = matches!(own, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if self.0[family].is_none() && !local {
            let sent = open.netns.inside(home, || to_itself(own)).ok().flatten();
            self.0[family] = sent.map(|sent| conntrack::knows(&open.rules.socket, &[sent]) == [true]);
        }
        self.0[family] == Some(true)
    }
}

/// An empty datagram from a namespace to itself, which nobody else is bothered by. It is tracked before loopback has it, so
/// that it does not matter whether that is up.
fn to_itself(own: IpAddr) -> Option<Sent> {
    let [here, there] = [0, 1].map(|_| UdpSocket::bind(SocketAddr::new(own, 0)).ok());
    let (here, there) = (here?, there?);
    let (source, destination) = (here.local_addr().ok()?.port(), there.local_addr().ok()?.port());
    // What comes of it is asked for elsewhere.
    let _ = here.send_to(&[], there.local_addr().ok()?);
    Some((UDP, Tuple { source: own, destination: own, part: Part::Ports { source, destination } }))
}
