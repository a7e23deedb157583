//! The value of a table that is not wire's, as far as it decides what passes: steps that wire's own rules have too, and the few
//! others that can be judged. Pure, as all of this room; `foreign` sends packets through it on paper.

use std::collections::BTreeMap;

use super::{Base, Expression, Set, Text, Value};

/// A table of somebody else's, as far as it decides what passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub family: Family,
    pub name: Text,
    pub chains: BTreeMap<Text, Chain>,
    /// The named sets and maps.
    pub sets: BTreeMap<Text, Set>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    #[default]
    Inet,
    Ip,
    Ip6,
}

impl Family {
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }

    pub fn has(self, ipv4: bool) -> bool {
        match self {
            Family::Inet => true,
            Family::Ip => ipv4,
            Family::Ip6 => !ipv4,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    pub base: Option<Base>,
    /// Each a list of steps, of which the first that does not hold ends it.
    pub rules: Vec<Vec<Step>>,
}

/// One step of a rule that somebody else made.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// One that wire's own rules have too.
    Known(Expression),
    /// Puts something into a register that wire's own rules never ask for.
    Load { what: Load, to: u8 },
    /// `range`: goes on where the register is between the two, both meant; or, inverted, is not.
    Range { from: u8, inverted: bool, first: Value, last: Value },
    /// Of xtables' `conntrack` and `state`: goes on in one of these states, as bits of `ct state`.
    States { bits: u32, inverted: bool },
    /// Of xtables' `tcp`, `udp` and `multiport`: goes on where the port is in one of these ranges.
    Ports { of: Ports, ranges: Vec<(u16, u16)>, inverted: bool },
    /// Of xtables' `addrtype`: goes on where the destination is of one of these types, as bits by `RTN_*` (linux/rtnetlink.h).
    Destination { types: u16, inverted: bool },
    /// Of xtables' `icmp` and `icmp6`: goes on where the type is this one.
    Icmp { kind: u8, inverted: bool },
    /// `reject`: the packet goes no further.
    Reject,
    /// Another address, and no further rule of this chain.
    Translate,
    /// Goes on whatever the packet: a log, a mark.
    Nothing,
    /// May go on or not: nobody can tell here.
    Strange,
    /// What becomes of the packet, nobody can tell here.
    Anything,
}

/// What only other people's rules ask of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The index of the device that it comes in on.
    Iif,
    /// The index of the device that it leaves by.
    Oif,
    /// The kind of its Ethernet frame.
    EtherType,
    /// The port that its connection was first opened to.
    Dialled,
    /// Whether it goes as the connection's first packet did.
    Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    Source,
    Destination,
    Either,
}
