//! The messages that make, change and remove what a table holds, each with what it is for.

use std::fmt;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::super::nfnl::{self, NESTED, add};
use super::super::socket::Batch;
use super::uapi::{self, INET, NFTABLES, chain, data, element, message, object, rule, set, table, userdata};
use crate::nft::{
    Among, Base, Element, Expression, Foreign, Key, Kind, Leads, Limit, Rule, Set, TABLE, Target, Text, Type, Value,
    Verdict,
};

/// An attribute's length has 16 bits: a list of elements goes on in another message long before.
const LIST: usize = 32 * 1024;

/// What a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Table,
    Chain(Text),
    /// By its chain and its comment.
    Rule(Text, Option<Text>),
    Set(Text),
    /// Elements that are to go.
    Removal(Text),
    Counter(Text),
    Foreign(Text),
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            About::Table => write!(f, "table inet {TABLE}"),
            About::Chain(name) => write!(f, "chain {name}"),
            About::Rule(chain, Some(comment)) => write!(f, "the rule \"{comment}\" of chain {chain}"),
            About::Rule(chain, None) => write!(f, "a rule of chain {chain}"),
            About::Set(name) | About::Removal(name) => write!(f, "set {name}"),
            About::Counter(name) => write!(f, "counter {name}"),
            About::Foreign(name) => write!(f, "{name}"),
        }
    }
}

/// Messages that take effect together or not at all.
pub struct Transaction {
    batch: Batch,
    /// By the tag of a message, what it is for.
    about: Vec<About>,
    /// The number of the next set: only within the transaction.
    next_set: u32,
}

impl Transaction {
    /// It is refused where the rules of the namespace have changed since this generation.
    pub fn begin(generation: u32) -> Transaction {
        let mut transaction = Transaction { batch: Batch::default(), about: Vec::new(), next_set: 1 };
        transaction.bound(uapi::BATCH_BEGIN, |bytes| be32(bytes, uapi::BATCH_GENID, generation));
        transaction
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.about.len() == 1
    }

    /// All of it, and by tag what each message is for.
    pub fn end(mut self) -> (Batch, Vec<About>) {
        self.bound(uapi::BATCH_END, |_| {});
        (self.batch, self.about)
    }

    fn bound(&mut self, kind: u8, attributes: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        attributes(&mut bytes);
        self.batch.push(self.about.len(), &nfnl::request(0, kind, 0, 0, u16::from(NFTABLES), &bytes));
        self.about.push(About::Table);
    }

    fn message(&mut self, about: About, kind: u8, flags: u16, attributes: &[u8]) {
        self.batch.push(self.about.len(), &nfnl::request(NFTABLES, kind, flags, INET, 0, attributes));
        self.about.push(about);
    }

    /// A message that names something of the table, whose own name is the first attribute of all of them.
    fn named(&mut self, about: About, kind: u8, name: (u16, &str)) {
        let mut bytes = Vec::new();
        text(&mut bytes, table::NAME, TABLE);
        text(&mut bytes, name.0, name.1);
        self.message(about, kind, 0, &bytes);
    }

    /// Makes the table, or switches it on again.
    pub fn add_table(&mut self) {
        let mut bytes = Vec::new();
        text(&mut bytes, table::NAME, TABLE);
        be32(&mut bytes, table::FLAGS, 0);
        add(&mut bytes, table::USERDATA, &comment(TABLE));
        self.message(About::Table, message::NEW_TABLE, NLM_F_CREATE, &bytes);
    }

    pub fn delete_table(&mut self) {
        let mut bytes = Vec::new();
        text(&mut bytes, table::NAME, TABLE);
        self.message(About::Table, message::DEL_TABLE, 0, &bytes);
    }

    /// Makes a chain, or gives a base chain that is there its policy.
    pub fn add_chain(&mut self, name: &Text, base: Option<&Base>) {
        let mut bytes = Vec::new();
        text(&mut bytes, chain::TABLE, TABLE);
        text(&mut bytes, chain::NAME, name);
        if let Some(base) = base {
            let hook = open(&mut bytes, chain::HOOK);
            be32(&mut bytes, chain::HOOK_NUMBER, base.hook as u32);
            be32(&mut bytes, chain::HOOK_PRIORITY, base.priority as u32);
            close(&mut bytes, hook);
            be32(&mut bytes, chain::POLICY, u32::from(!base.drop));
            let kind = match base.kind {
                Kind::Filter => "filter",
                Kind::Nat => "nat",
                Kind::Other => "route",
            };
            text(&mut bytes, chain::TYPE, kind);
        }
        self.message(About::Chain(name.clone()), message::NEW_CHAIN, NLM_F_CREATE, &bytes);
    }

    pub fn delete_chain(&mut self, name: &Text) {
        self.named(About::Chain(name.clone()), message::DEL_CHAIN, (chain::NAME, name));
    }

    /// Takes all rules out of a chain.
    pub fn flush_chain(&mut self, name: &Text) {
        self.named(About::Chain(name.clone()), message::DEL_RULE, (rule::CHAIN, name));
    }

    pub fn add_counter(&mut self, name: &Text) {
        let mut bytes = Vec::new();
        text(&mut bytes, object::TABLE, TABLE);
        text(&mut bytes, object::NAME, name);
        be32(&mut bytes, object::TYPE, object::COUNTER);
        let counts = open(&mut bytes, object::DATA);
        be64(&mut bytes, object::BYTES, 0);
        be64(&mut bytes, object::PACKETS, 0);
        close(&mut bytes, counts);
        self.message(About::Counter(name.clone()), message::NEW_OBJECT, NLM_F_CREATE, &bytes);
    }

    pub fn delete_counter(&mut self, name: &Text) {
        self.delete_object(About::Counter(name.clone()), object::COUNTER, name);
    }

    fn delete_object(&mut self, about: About, kind: u32, name: &str) {
        let mut bytes = Vec::new();
        text(&mut bytes, object::TABLE, TABLE);
        text(&mut bytes, object::NAME, name);
        be32(&mut bytes, object::TYPE, kind);
        self.message(about, message::DEL_OBJECT, 0, &bytes);
    }

    /// Takes out what wire never makes, as far as it does not go by itself.
    pub fn delete_foreign(&mut self, foreign: &Foreign) {
        match foreign {
            Foreign::FlowTable(name) => {
                self.named(About::Foreign(name.clone()), message::DEL_FLOW_TABLE, (object::FLOW_TABLE_NAME, name));
            }
            Foreign::Object(kind, name) => self.delete_object(About::Foreign(name.clone()), *kind, name),
            Foreign::Bound(_) => {}
        }
    }

    pub fn delete_set(&mut self, name: &Text) {
        self.named(About::Set(name.clone()), message::DEL_SET, (set::NAME, name));
    }

    /// Makes a named set with its elements.
    pub fn add_set(&mut self, name: &Text, made: &Set) {
        self.make_set(&About::Set(name.clone()), name, 0, made.size, made);
    }

    /// Makes a set that lives in one rule, and gives back the number that the rule knows it by.
    fn add_anonymous_set(&mut self, about: &About, made: &Set) -> u32 {
        let size = u32::try_from(made.elements.len()).unwrap_or(0);
        self.make_set(about, pattern(made), set::ANONYMOUS | set::CONSTANT, size, made)
    }

    fn make_set(&mut self, about: &About, name: &str, flags: u32, size: u32, made: &Set) -> u32 {
        let id = self.next_set;
        self.next_set += 1;
        let mut bytes = Vec::new();
        text(&mut bytes, set::TABLE, TABLE);
        text(&mut bytes, set::NAME, name);
        let flag = |holds, flag| if holds { flag } else { 0 };
        let flags = flags
            | flag(made.interval, set::INTERVAL)
            | flag(made.leads_to.is_some(), set::MAP)
            | flag(made.timeout, set::EXPIRES)
            | flag(made.dynamic, set::DYNAMIC);
        be32(&mut bytes, set::FLAGS, flags);
        let (kind, length) = key_type(&made.key);
        be32(&mut bytes, set::KEY_TYPE, kind);
        be32(&mut bytes, set::KEY_LENGTH, length);
        match made.leads_to {
            Some(Leads::Verdict) => {
                be32(&mut bytes, set::DATA_TYPE, set::VERDICTS);
                be32(&mut bytes, set::DATA_LENGTH, 0);
            }
            Some(Leads::Value(of)) => {
                be32(&mut bytes, set::DATA_TYPE, of as u32);
                be32(&mut bytes, set::DATA_LENGTH, of.length() as u32);
            }
            None => {}
        }
        be32(&mut bytes, set::ID, id);
        if size != 0 {
            let description = open(&mut bytes, set::DESCRIPTION);
            be32(&mut bytes, set::DESCRIPTION_SIZE, size);
            close(&mut bytes, description);
        }
        if made.expiry != 0 {
            be64(&mut bytes, set::TIMEOUT, made.expiry.saturating_mul(1000));
        }
        add(&mut bytes, set::USERDATA, &orders(made));
        self.message(about.clone(), message::NEW_SET, NLM_F_CREATE, &bytes);
        self.elements(about, message::NEW_ELEMENT, (name, Some(id)), made.interval, made.elements.iter());
        id
    }

    pub fn add_elements<'a>(&mut self, name: &Text, of: &Set, all: impl Iterator<Item = (&'a Key, &'a Element)>) {
        self.elements(&About::Set(name.clone()), message::NEW_ELEMENT, (name, None), of.interval, all);
    }

    pub fn delete_elements<'a>(&mut self, name: &Text, of: &Set, all: impl Iterator<Item = (&'a Key, &'a Element)>) {
        self.elements(&About::Removal(name.clone()), message::DEL_ELEMENT, (name, None), of.interval, all);
    }

    fn elements<'a>(
        &mut self,
        about: &About,
        kind: u8,
        (name, id): (&str, Option<u32>),
        interval: bool,
        all: impl Iterator<Item = (&'a Key, &'a Element)>,
    ) {
        let mut all = all.peekable();
        while all.peek().is_some() {
            let mut bytes = Vec::new();
            text(&mut bytes, element::TABLE, TABLE);
            text(&mut bytes, element::SET, name);
            if let Some(id) = id {
                be32(&mut bytes, element::SET_ID, id);
            }
            let list = open(&mut bytes, element::ELEMENTS);
            while bytes.len() < LIST
                && let Some((key, content)) = all.next()
            {
                one_element(&mut bytes, kind == message::DEL_ELEMENT, interval, key, content);
            }
            close(&mut bytes, list);
            let flags = if kind == message::NEW_ELEMENT { NLM_F_CREATE } else { 0 };
            self.message(about.clone(), kind, flags, &bytes);
        }
    }

    /// Adds a rule at the end of its chain.
    pub fn add_rule(&mut self, of: &Text, made: &Rule) {
        let about = About::Rule(of.clone(), made.comment.clone());
        let mut bytes = Vec::with_capacity(1024);
        text(&mut bytes, rule::TABLE, TABLE);
        text(&mut bytes, rule::CHAIN, of);
        let list = open(&mut bytes, rule::EXPRESSIONS);
        for step in &made.expressions {
            // A set must have been made before the rule that looks into it.
            let id = match step {
                Expression::Lookup { set: Among::Anonymous(within), .. } => self.add_anonymous_set(&about, within),
                _ => 0,
            };
            one_expression(&mut bytes, step, id);
        }
        close(&mut bytes, list);
        if let Some(words) = &made.comment {
            add(&mut bytes, rule::USERDATA, &comment(words));
        }
        self.message(about, message::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &bytes);
    }
}

/// The kernel puts a number in: `nf_tables_set_alloc_name` (net/netfilter/nf_tables_api.c).
fn pattern(made: &Set) -> &'static str {
    if made.leads_to.is_some() { "__map%d" } else { "__set%d" }
}

/// The number of a key's type, in which a concatenation has six bits a part (`TYPE_BITS`, nftables, include/datatype.h), and
/// its length, of which each part takes whole registers.
pub fn key_type(parts: &[Type]) -> (u32, u32) {
    let number = parts.iter().fold(0, |number: u32, part| number << 6 | *part as u32);
    let length = match parts {
        [one] => one.length(),
        many => many.iter().map(|part| part.length().next_multiple_of(4)).sum(),
    };
    (number, length as u32)
}

/// How nft is to read keys and what they lead to.
fn orders(made: &Set) -> Vec<u8> {
    let order = |of: &Type| match of {
        Type::IfName | Type::CtState => userdata::HOST_ORDER,
        _ => userdata::NETWORK_ORDER,
    };
    let mut bytes = Vec::new();
    let mut one = |kind, order: u32| {
        bytes.extend([kind, 4]);
        bytes.extend(order.to_ne_bytes());
    };
    match made.key.as_slice() {
        [key] => one(userdata::KEY_ORDER, order(key)),
        _ => one(userdata::KEY_ORDER, userdata::NO_ORDER),
    }
    match &made.leads_to {
        Some(Leads::Verdict) => one(userdata::DATA_ORDER, userdata::NO_ORDER),
        Some(Leads::Value(of)) => one(userdata::DATA_ORDER, order(of)),
        None => {}
    }
    bytes
}

/// A comment as nft keeps it, as much of it as there is room for in 256 bytes (`NFT_USERDATA_MAXLEN`).
fn comment(words: &str) -> Vec<u8> {
    let words = &words.as_bytes()[..words.len().min(253)];
    let mut bytes = vec![userdata::COMMENT, words.len() as u8 + 1];
    bytes.extend(words);
    bytes.push(0);
    bytes
}

/// An element; of an interval set the two that a range is to the kernel: where it begins and, but for one that goes up to the
/// very last, where it has ended. Both in one message: newer kernels check them together.
fn one_element(bytes: &mut Vec<u8>, removed: bool, interval: bool, key: &Key, content: &Element) {
    let (first, last) = match key {
        Key::One(value) => (value.as_bytes().to_vec(), Some(value)),
        Key::Range(first, last) => (first.as_bytes().to_vec(), Some(last)),
        Key::Many(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(part.as_bytes());
                all.resize(all.len().next_multiple_of(4), 0);
            }
            (all, None)
        }
    };
    let start = open(bytes, uapi::LIST_ELEMENT);
    value(bytes, element::KEY, &first);
    if !removed {
        match &content.leads_to {
            Some(Target::Verdict(what)) => verdict(bytes, element::DATA, what),
            Some(Target::Value(what)) => value(bytes, element::DATA, what.as_bytes()),
            None => {}
        }
        if let Some(seconds) = content.expires {
            be64(bytes, element::TIMEOUT, seconds.saturating_mul(1000));
        }
    }
    close(bytes, start);
    if interval && let Some(end) = last.and_then(after) {
        let start = open(bytes, uapi::LIST_ELEMENT);
        be32(bytes, element::FLAGS, element::END);
        value(bytes, element::KEY, end.as_bytes());
        close(bytes, start);
    }
}

/// The value after this one in network order; none after the last.
fn after(value: &Value) -> Option<Value> {
    let mut bytes = value.as_bytes().to_vec();
    let carried = bytes.iter_mut().rev().all(|byte| {
        *byte = byte.wrapping_add(1);
        *byte == 0
    });
    (!carried).then(|| Value::new(&bytes))
}

fn verdict(bytes: &mut Vec<u8>, kind: u16, what: &Verdict) {
    let (code, chain) = match what {
        Verdict::Accept => (data::ACCEPT, None),
        Verdict::Drop => (data::DROP, None),
        Verdict::Return => (data::RETURN, None),
        Verdict::Jump(chain) => (data::JUMP, Some(chain)),
        Verdict::Goto(chain) => (data::GOTO, Some(chain)),
        Verdict::Other(code) => (*code, None),
    };
    let outer = open(bytes, kind);
    let inner = open(bytes, data::VERDICT);
    be32(bytes, data::CODE, code as u32);
    if let Some(chain) = chain {
        text(bytes, data::CHAIN, chain);
    }
    close(bytes, inner);
    close(bytes, outer);
}

/// `set` is the number of the anonymous set that it looks into.
fn one_expression(bytes: &mut Vec<u8>, step: &Expression, set: u32) {
    use uapi::expression::*;
    let start = open(bytes, uapi::LIST_ELEMENT);
    text(bytes, NAME, name(step));
    let content = open(bytes, DATA);
    match step {
        Expression::Payload { base, offset, length, to } => {
            be32(bytes, PAYLOAD_TO, u32::from(*to));
            be32(bytes, PAYLOAD_BASE, *base as u32);
            be32(bytes, PAYLOAD_OFFSET, u32::from(*offset));
            be32(bytes, PAYLOAD_LENGTH, u32::from(*length));
        }
        Expression::Meta { key, to } => {
            be32(bytes, META_KEY, *key as u32);
            be32(bytes, META_TO, u32::from(*to));
        }
        Expression::Ct { key, to } => {
            be32(bytes, META_KEY, *key as u32);
            be32(bytes, META_TO, u32::from(*to));
        }
        Expression::Fib { result, flags, to } => {
            be32(bytes, FIB_FLAGS, *flags);
            be32(bytes, FIB_RESULT, *result);
            be32(bytes, FIB_TO, u32::from(*to));
        }
        Expression::Bitwise { from, to, mask, xor } => {
            be32(bytes, BITWISE_FROM, u32::from(*from));
            be32(bytes, BITWISE_TO, u32::from(*to));
            be32(bytes, BITWISE_LENGTH, mask.as_bytes().len() as u32);
            value(bytes, BITWISE_MASK, mask.as_bytes());
            value(bytes, BITWISE_XOR, xor.as_bytes());
        }
        Expression::Compare { from, how, value: with } => {
            be32(bytes, COMPARE_FROM, u32::from(*from));
            be32(bytes, COMPARE_HOW, *how as u32);
            value(bytes, COMPARE_DATA, with.as_bytes());
        }
        Expression::Lookup { set: among, from, inverted, to } => {
            be32(bytes, LOOKUP_FROM, u32::from(*from));
            if let Some(to) = to {
                be32(bytes, LOOKUP_TO, u32::from(*to));
            }
            match among {
                Among::Named(name) => text(bytes, LOOKUP_SET, name),
                Among::Anonymous(within) => {
                    text(bytes, LOOKUP_SET, pattern(within));
                    be32(bytes, LOOKUP_SET_ID, set);
                }
            }
            if *inverted {
                be32(bytes, LOOKUP_FLAGS, 1);
            }
        }
        Expression::Load { to, value: what } => {
            be32(bytes, IMMEDIATE_TO, u32::from(*to));
            value(bytes, IMMEDIATE_DATA, what.as_bytes());
        }
        Expression::Verdict(what) => {
            be32(bytes, IMMEDIATE_TO, u32::from(crate::nft::VERDICT));
            verdict(bytes, IMMEDIATE_DATA, what);
        }
        Expression::Counter | Expression::Masquerade => {}
        Expression::Count(counter) => {
            be32(bytes, OBJECT_TYPE, object::COUNTER);
            text(bytes, OBJECT_NAME, counter);
        }
        Expression::Limit(rate) => limit(bytes, rate),
        Expression::Log { prefix, group } => {
            if !prefix.is_empty() {
                text(bytes, LOG_PREFIX, prefix);
            }
            add(bytes, LOG_GROUP, &group.to_be_bytes());
        }
        Expression::Nat { to_source, family, address, port } => {
            be32(bytes, NAT_TYPE, u32::from(!to_source));
            be32(bytes, NAT_FAMILY, u32::from(*family));
            be32(bytes, NAT_ADDRESS, u32::from(*address));
            if let Some(port) = port {
                be32(bytes, NAT_PORT, u32::from(*port));
            }
        }
        Expression::Update { set, from, limit: each } => {
            text(bytes, UPDATE_SET, set);
            be32(bytes, UPDATE_OPERATION, 1);
            be32(bytes, UPDATE_KEY, u32::from(*from));
            if let Some(each) = each {
                let inner = open(bytes, UPDATE_EXPRESSION);
                text(bytes, NAME, "limit");
                let content = open(bytes, DATA);
                limit(bytes, each);
                close(bytes, content);
                close(bytes, inner);
            }
        }
        Expression::Unknown { attributes, .. } => bytes.extend_from_slice(attributes),
    }
    close(bytes, content);
    close(bytes, start);
}

/// What the kernel calls it: `struct nft_expr_type` in net/netfilter/nft_*.c.
fn name(step: &Expression) -> &str {
    match step {
        Expression::Payload { .. } => "payload",
        Expression::Meta { .. } => "meta",
        Expression::Ct { .. } => "ct",
        Expression::Fib { .. } => "fib",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Compare { .. } => "cmp",
        Expression::Lookup { .. } => "lookup",
        Expression::Load { .. } | Expression::Verdict(_) => "immediate",
        Expression::Counter => "counter",
        Expression::Count(_) => "objref",
        Expression::Limit(_) => "limit",
        Expression::Log { .. } => "log",
        Expression::Nat { .. } => "nat",
        Expression::Masquerade => "masq",
        Expression::Update { .. } => "dynset",
        Expression::Unknown { name, .. } => name,
    }
}

fn limit(bytes: &mut Vec<u8>, of: &Limit) {
    use uapi::expression::{LIMIT_BURST, LIMIT_FLAGS, LIMIT_RATE, LIMIT_TYPE, LIMIT_UNIT};
    be64(bytes, LIMIT_RATE, of.rate);
    be64(bytes, LIMIT_UNIT, of.unit);
    be32(bytes, LIMIT_BURST, of.burst);
    be32(bytes, LIMIT_TYPE, 0);
    be32(bytes, LIMIT_FLAGS, u32::from(of.over));
}

/// Text ends in NUL (`NLA_NUL_STRING`).
pub fn text(bytes: &mut Vec<u8>, kind: u16, words: &str) {
    let start = open(bytes, kind);
    bytes.extend_from_slice(words.as_bytes());
    bytes.push(0);
    finish(bytes, start, kind);
}

fn value(bytes: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let start = open(bytes, kind);
    add(bytes, data::VALUE, content);
    close(bytes, start);
}

pub fn be32(bytes: &mut Vec<u8>, kind: u16, number: u32) {
    add(bytes, kind, &number.to_be_bytes());
}

fn be64(bytes: &mut Vec<u8>, kind: u16, number: u64) {
    add(bytes, kind, &number.to_be_bytes());
}

/// Begins an attribute whose content follows. Gives back where it is, for `close`.
fn open(bytes: &mut Vec<u8>, kind: u16) -> usize {
    let start = bytes.len();
    add(bytes, kind | NESTED, &[]);
    start
}

fn close(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// Closes one that has no attributes in it.
fn finish(bytes: &mut Vec<u8>, start: usize, kind: u16) {
    close(bytes, start);
    bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
