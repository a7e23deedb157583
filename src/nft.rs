//! What `table inet wire` of one namespace holds, at the level of the kernel's own expressions: one value for what the file
//! wants and for what the kernel shows, so that any difference is seen. Pure: `rules` makes it, `kernel::nft` loads and reads
//! it, `text` says it in nft's words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub mod build;
pub mod others;
pub mod text;

/// The name of the table, in the family `inet`, and the comment that marks it as wire's.
pub const TABLE: &str = "wire";
/// The NFLOG group that wire's rules log to ("w" in ASCII).
pub const LOG_GROUP: u16 = 119;

pub type Text = Arc<str>;

/// One table. What only the kernel knows (handles, places of elements, states of limits) is not in it.
///
/// Two are equal where nothing has to be done to make one of the other: what has been counted, what packets have put into
/// sets and how long what goes by itself still stays makes no difference.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub chains: BTreeMap<Text, Chain>,
    /// The named sets and maps; anonymous ones are in the rules that use them.
    pub sets: BTreeMap<Text, Set>,
    /// The named counters, each with the packets that it has counted: zero in what is wanted.
    pub counters: BTreeMap<Text, u64>,
    /// What somebody put into the table that wire never makes. Only ever seen.
    pub foreign: BTreeSet<Foreign>,
    /// `NFT_TABLE_F_DORMANT`: switched off by somebody. Only ever seen.
    pub dormant: bool,
}

impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.chains == other.chains
            && self.sets == other.sets
            && self.counters.keys().eq(other.counters.keys())
            && self.foreign == other.foreign
            && self.dormant == other.dormant
    }
}

/// What wire never makes, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Foreign {
    FlowTable(Text),
    /// A quota and the like, by its `NFT_OBJECT_*` (linux/netfilter/nf_tables.h).
    Object(u32, Text),
    /// A chain that belongs to the one rule that jumps to it, and goes with that.
    Bound(Text),
}

impl Foreign {
    pub fn name(&self) -> &str {
        match self {
            Foreign::FlowTable(name) | Foreign::Object(_, name) | Foreign::Bound(name) => name,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// Where packets enter it by themselves; none for a chain that others jump to.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: Kind,
    pub hook: Hook,
    pub priority: i32,
    /// Whether the policy is drop; else accept.
    pub drop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Filter,
    Nat,
    /// `route`, which wire never uses.
    Other,
}

/// `enum nf_inet_hooks` (linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
    /// Of another family.
    Other = 5,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    pub expressions: Vec<Expression>,
    /// `comment "…"`, kept in the rule's user data; at most 128 bytes.
    pub comment: Option<Text>,
}

/// `NFT_REG_VERDICT` and `NFT_REG_1` (linux/netfilter/nf_tables.h): whatever is loaded goes to the first register, as nft does it.
pub const VERDICT: u8 = 0;
pub const REG: u8 = 1;
/// `NFT_REG32_01`: where the second part of a concatenation goes; the third is in the next.
pub const REG32_01: u8 = 9;

/// One step of a rule, as the kernel runs it (linux/netfilter/nf_tables.h, `enum nft_*_attributes`).
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// `payload`: bytes of the packet, in network order.
    Payload { base: Header, offset: u8, length: u8, to: u8 },
    /// `meta`.
    Meta { key: Meta, to: u8 },
    /// `ct`: state, status and the like.
    Ct { key: Ct, to: u8 },
    /// `fib`: `result` is `enum nft_fib_result`, `flags` are `NFTA_FIB_F_*`.
    Fib { result: u32, flags: u32, to: u8 },
    /// `bitwise`: `to = (from & mask) ^ xor`.
    Bitwise { from: u8, to: u8, mask: Value, xor: Value },
    /// `cmp`: goes on only where it holds.
    Compare { from: u8, how: Compare, value: Value },
    /// `lookup`: goes on only where the register is in the set (or, inverted, is not). From a map, what it leads to goes `to` a
    /// register, a verdict to `VERDICT`.
    Lookup { set: Among, from: u8, inverted: bool, to: Option<u8> },
    /// `immediate`: a value for a register.
    Load { to: u8, value: Value },
    /// `immediate`: what becomes of the packet.
    Verdict(Verdict),
    /// `counter` without a name; what it has counted is not kept.
    Counter,
    /// `objref` to a named counter.
    Count(Text),
    /// `limit`: so many packets a unit (in seconds).
    Limit(Limit),
    /// `log` to an NFLOG group.
    Log { prefix: Text, group: u16 },
    /// `nat`: the address, and the port where there is one, are in these registers. `family` is `NFPROTO_*`.
    Nat { to_source: bool, family: u8, address: u8, port: Option<u8> },
    /// `masq`.
    Masquerade,
    /// `dynset`: puts the register into a set, or renews it there, under a limit where there is one; goes on where that holds.
    Update { set: Text, from: u8, limit: Option<Limit> },
    /// One that wire never makes, by its name and its attributes as they are. Only ever seen.
    Unknown { name: Text, attributes: Box<[u8]> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub rate: u64,
    /// Seconds.
    pub unit: u64,
    pub burst: u32,
    /// Holds above the rate, not below it.
    pub over: bool,
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// `enum nft_meta_keys`; others are `Expression::Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    IifName = 6,
    OifName = 7,
    NfProto = 15,
    L4Proto = 16,
}

/// `enum nft_ct_keys`; others are `Expression::Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    State = 0,
    Status = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Equal = 0,
    Different = 1,
    Less = 2,
    AtMost = 3,
    Greater = 4,
    AtLeast = 5,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(Text),
    Goto(Text),
    /// `NF_QUEUE` and the like, which wire never uses, by its number.
    Other(i32),
}

/// A set that is looked into: one with a name, or one that lives in the rule alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Among {
    Named(Text),
    Anonymous(Box<Set>),
}

/// By key. Most sets have one element or two, for which a tree would take a page.
pub type Elements = litemap::LiteMap<Key, Element>;

/// A set, or a map where it leads to something.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// What a key is made of, in order; more than one is a concatenation.
    pub key: Vec<Type>,
    pub leads_to: Option<Leads>,
    /// `NFT_SET_INTERVAL`: elements are ranges.
    pub interval: bool,
    /// `NFT_SET_TIMEOUT`: elements may go by themselves.
    pub timeout: bool,
    /// `NFT_SET_EVAL`: packets put elements in; those are not compared, and at most `size` of them fit.
    pub dynamic: bool,
    /// The most elements; 0 for no limit.
    pub size: u32,
    /// Seconds that an element stays by default; 0 for ever.
    pub expiry: u64,
    /// Of a dynamic set, empty in what is wanted.
    pub elements: Elements,
}

impl Set {
    /// Whether they are the same but for what is in them.
    pub fn is_made_like(&self, other: &Set) -> bool {
        let made = |set: &Set| (set.leads_to, set.interval, set.timeout, set.dynamic, set.size, set.expiry);
        self.key == other.key && made(self) == made(other)
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Set) -> bool {
        self.is_made_like(other) && (self.dynamic || self.elements == other.elements)
    }
}

/// The types of a key, by the numbers that nft gives them (src/datatype.c, `enum datatypes` in its include/datatype.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    Ipv4 = 7,
    Ipv6 = 8,
    Protocol = 12,
    Service = 13,
    Icmp = 14,
    CtState = 26,
    Icmpv6 = 29,
    IfName = 41,
    /// Any other, or a set that is unlike wire's in another way. Only ever seen.
    Other = 0,
}

impl Type {
    /// How many bytes a value of it has.
    pub fn length(self) -> usize {
        match self {
            Type::Protocol | Type::Icmp | Type::Icmpv6 => 1,
            Type::Service => 2,
            Type::Ipv4 | Type::CtState | Type::Other => 4,
            Type::Ipv6 | Type::IfName => 16,
        }
    }
}

/// What a map leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    Verdict,
    Value(Type),
}

/// The key of an element: one value a part; of an interval set the first and the last of the range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    One(Value),
    Many(Vec<Value>),
    Range(Value, Value),
}

#[derive(Clone, Debug, Default)]
pub struct Element {
    pub leads_to: Option<Target>,
    /// Seconds until it goes, as asked when it is made and as it stands when it is read; `None` for ever. Two elements that
    /// both have one are equal.
    pub expires: Option<u64>,
}

impl PartialEq for Element {
    fn eq(&self, other: &Element) -> bool {
        // What is left runs down between two looks, and the kernel's clock stands still while a machine sleeps.
        let near = |a: u64, b: u64| a.abs_diff(b) <= 5 + a.max(b) / 64;
        self.leads_to == other.leads_to
            && match (self.expires, other.expires) {
                (Some(a), Some(b)) => near(a, b),
                (a, b) => a == b,
            }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Verdict(Verdict),
    Value(Value),
}

/// Up to 16 bytes as a register holds them: addresses and ports in network order, device names padded with NUL, `ct state`
/// and the like in the machine's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    length: u8,
    bytes: [u8; 16],
}

impl Value {
    /// The first 16 bytes of these.
    pub fn new(from: &[u8]) -> Value {
        let length = from.len().min(16);
        let mut bytes = [0; 16];
        bytes[..length].copy_from_slice(&from[..length]);
        Value { length: length as u8, bytes }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub fn address(address: IpAddr) -> Value {
        match address {
            IpAddr::V4(v4) => Value::new(&v4.octets()),
            IpAddr::V6(v6) => Value::new(&v6.octets()),
        }
    }

    /// `IFNAMSIZ` bytes (linux/if.h).
    pub fn device(name: &str) -> Value {
        let mut bytes = [0; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Value { length: 16, bytes }
    }

    pub fn port(port: u16) -> Value {
        Value::new(&port.to_be_bytes())
    }

    pub fn byte(byte: u8) -> Value {
        Value::new(&[byte])
    }

    /// A number that the kernel keeps in the machine's own order.
    pub fn host(number: u32) -> Value {
        Value::new(&number.to_ne_bytes())
    }
}
