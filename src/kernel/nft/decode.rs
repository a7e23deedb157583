//! What the kernel says of a table, read strictly: an attribute or a flag that wire would not have set makes an expression
//! unknown and a set one of another type, so that it is never taken for what it only resembles.

use std::collections::HashMap;

use netlink_packet_core::DecodeError;

use super::super::nfnl::{attributes, find, number};
use super::encode::key_type;
use super::uapi::{self, chain, data, element, expression, object, rule, set, table, userdata};
use crate::nft::{
    Among, Base, Chain, Compare, Ct, Element, Elements, Expression, Foreign, Header, Hook, Key, Kind, Leads, Limit,
    Meta, Rule, Set, TABLE, Target, Text, Type, VERDICT, Value, Verdict,
};

pub fn generation(bytes: &[u8]) -> Option<u32> {
    find(bytes, uapi::GENERATION_ID).and_then(be32)
}

/// What the table says of itself.
pub struct Head {
    /// It has wire's mark and no owner without whom it goes.
    pub ours: bool,
    pub dormant: bool,
}

pub fn head(bytes: &[u8]) -> Head {
    let flags = find(bytes, table::FLAGS).and_then(be32).unwrap_or(0);
    let marked = find(bytes, table::USERDATA).and_then(comment).is_some_and(|words| &*words == TABLE);
    Head { ours: marked && flags & table::OWNER == 0, dormant: flags & table::DORMANT != 0 }
}

/// A chain of wire's table; of another table none.
pub fn chain(bytes: &[u8]) -> Result<Option<(Text, Result<Chain, Foreign>)>, DecodeError> {
    let Some((name, base)) = chain_of(bytes, TABLE)? else { return Ok(None) };
    if find(bytes, chain::FLAGS).and_then(be32).unwrap_or(0) & chain::BINDING != 0 {
        return Ok(Some((name.clone(), Err(Foreign::Bound(name)))));
    }
    Ok(Some((name, Ok(Chain { base, rules: Vec::new() }))))
}

/// A chain of a table, with where packets enter it.
pub fn chain_of(bytes: &[u8], table: &str) -> Result<Option<(Text, Option<Base>)>, DecodeError> {
    if !in_table(bytes, chain::TABLE, table) {
        return Ok(None);
    }
    let name = name(bytes, chain::NAME)?;
    let flags = find(bytes, chain::FLAGS).and_then(be32).unwrap_or(0);
    let base = find(bytes, chain::HOOK).map(|hook| {
        let at = |kind| find(hook, kind).and_then(be32);
        let plain = attributes(hook).count() == 2 && flags & !chain::BASE == 0;
        Base {
            kind: match find(bytes, chain::TYPE).map(words).as_deref() {
                Some("filter") if plain => Kind::Filter,
                Some("nat") if plain => Kind::Nat,
                _ => Kind::Other,
            },
            hook: match at(chain::HOOK_NUMBER) {
                Some(0) => Hook::Prerouting,
                Some(1) => Hook::Input,
                Some(2) => Hook::Forward,
                Some(3) => Hook::Output,
                Some(4) => Hook::Postrouting,
                _ => Hook::Other,
            },
            priority: at(chain::HOOK_PRIORITY).unwrap_or(0) as i32,
            drop: find(bytes, chain::POLICY).and_then(be32) == Some(data::DROP as u32),
        }
    });
    Ok(Some((name, base)))
}

/// A set as it is made, without its elements, and whether it has no name of its own.
pub struct SeenSet {
    pub name: Text,
    pub anonymous: bool,
    pub set: Set,
}

pub fn set(bytes: &[u8]) -> Result<Option<SeenSet>, DecodeError> {
    set_of(bytes, TABLE)
}

pub fn set_of(bytes: &[u8], table: &str) -> Result<Option<SeenSet>, DecodeError> {
    if !in_table(bytes, set::TABLE, table) {
        return Ok(None);
    }
    let name = name(bytes, set::NAME)?;
    let at = |kind| find(bytes, kind).and_then(be32);
    let flags = at(set::FLAGS).unwrap_or(0);
    let anonymous = flags & set::ANONYMOUS != 0;
    let is = |flag| flags & flag != 0;
    let mut known = set::INTERVAL | set::MAP | set::EXPIRES | set::DYNAMIC;
    if anonymous {
        known |= set::ANONYMOUS | set::CONSTANT;
    }
    let key = key(at(set::KEY_TYPE).unwrap_or(0), at(set::KEY_LENGTH).unwrap_or(0));
    let leads_to = is(set::MAP).then(|| match at(set::DATA_TYPE).unwrap_or(0) {
        set::VERDICTS => Leads::Verdict,
        of => match key_of(of) {
            Some(of) if at(set::DATA_LENGTH) == Some(of.length() as u32) => Leads::Value(of),
            _ => Leads::Value(Type::Other),
        },
    });
    let strange = flags & !known != 0
        || attributes(bytes).any(|(kind, _)| kind == set::EXPRESSION || kind == set::EXPRESSIONS)
        || is(set::INTERVAL) && key.len() > 1;
    let size = find(bytes, set::DESCRIPTION).and_then(|all| find(all, set::DESCRIPTION_SIZE)).and_then(be32);
    let set = Set {
        key: if strange { vec![Type::Other] } else { key },
        leads_to,
        interval: is(set::INTERVAL),
        timeout: is(set::EXPIRES),
        dynamic: is(set::DYNAMIC),
        // An anonymous set is as large as it is full.
        size: if anonymous { 0 } else { size.unwrap_or(0) },
        expiry: find(bytes, set::TIMEOUT).and_then(be64).unwrap_or(0).div_ceil(1000),
        elements: Elements::new(),
    };
    Ok(Some(SeenSet { name, anonymous, set }))
}

fn key_of(number: u32) -> Option<Type> {
    const ALL: [Type; 8] =
        [Type::Ipv4, Type::Ipv6, Type::Protocol, Type::Service, Type::Icmp, Type::CtState, Type::Icmpv6, Type::IfName];
    ALL.into_iter().find(|one| *one as u32 == number)
}

fn key(number: u32, length: u32) -> Vec<Type> {
    let mut parts: Vec<Type> = Vec::new();
    let mut rest = number;
    while rest != 0 {
        parts.push(key_of(rest & 0x3f).unwrap_or(Type::Other));
        rest >>= 6;
    }
    parts.reverse();
    if parts.contains(&Type::Other) || key_type(&parts) != (number, length) { vec![Type::Other] } else { parts }
}

/// One element as the kernel has it: of an interval set half a range.
pub struct SeenElement {
    key: Vec<u8>,
    end: bool,
    strange: bool,
    element: Element,
}

/// Those of one message.
pub fn elements(bytes: &[u8]) -> Result<Vec<SeenElement>, DecodeError> {
    let list = find(bytes, element::ELEMENTS).unwrap_or_default();
    attributes(list)
        .map(|(_, bytes)| one_element(bytes).ok_or_else(|| DecodeError::from("an element that cannot be read")))
        .collect()
}

fn one_element(bytes: &[u8]) -> Option<SeenElement> {
    let mut seen = SeenElement { key: Vec::new(), end: false, strange: false, element: Element::default() };
    for (kind, value) in attributes(bytes) {
        match kind {
            element::KEY => seen.key = find(value, data::VALUE)?.to_vec(),
            element::DATA => {
                seen.element.leads_to = Some(match find(value, data::VERDICT) {
                    Some(what) => Target::Verdict(verdict(what)?),
                    None => Target::Value(Value::new(find(value, data::VALUE)?)),
                });
            }
            element::FLAGS => match be32(value)? {
                0 => {}
                element::END => seen.end = true,
                _ => seen.strange = true,
            },
            element::EXPIRATION => seen.element.expires = Some(be64(value)?.div_ceil(1000)),
            element::TIMEOUT | element::USERDATA | element::PAD => {}
            // What packets put into a set has a limit of its own; what is put in by hand may have one that decides.
            _ => seen.strange = true,
        }
    }
    Some(seen)
}

/// Puts elements into the set that they are of. They come in any order, and those of an interval set half by half.
pub fn fill(set: &mut Set, mut seen: Vec<SeenElement>) {
    if seen.iter().any(|one| one.strange) && !set.dynamic {
        set.key = vec![Type::Other];
    }
    if set.key == [Type::Other] {
        return;
    }
    if !set.interval {
        let key = |bytes: &[u8]| match set.key.as_slice() {
            [_] => Key::One(Value::new(bytes)),
            parts => Key::Many(split(parts, bytes)),
        };
        set.elements = seen.into_iter().map(|one| (key(&one.key), one.element)).collect();
        return;
    }
    // Where one range ends and the next begins, the end is first.
    seen.sort_unstable_by(|one, other| (&one.key, !one.end).cmp(&(&other.key, !other.end)));
    let mut begun: Option<(Value, Element)> = None;
    for one in seen {
        if let Some((first, element)) = begun.take() {
            set.elements.insert(Key::Range(first, before(&one.key)), element);
        }
        if !one.end {
            begun = Some((Value::new(&one.key), one.element));
        }
    }
    if let Some((first, element)) = begun {
        let last = Value::new(&[0xff; 16][..first.as_bytes().len()]);
        set.elements.insert(Key::Range(first, last), element);
    }
}

fn split(parts: &[Type], mut bytes: &[u8]) -> Vec<Value> {
    let mut values = Vec::with_capacity(parts.len());
    for part in parts {
        values.push(Value::new(bytes.get(..part.length()).unwrap_or_default()));
        bytes = bytes.get(part.length().next_multiple_of(4)..).unwrap_or_default();
    }
    values
}

/// The value before this one in network order.
fn before(bytes: &[u8]) -> Value {
    let mut bytes = bytes.to_vec();
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            break;
        }
    }
    Value::new(&bytes)
}

/// A named counter with its packets, or another object.
pub fn object(bytes: &[u8]) -> Result<Option<Result<(Text, u64), Foreign>>, DecodeError> {
    if !in_table(bytes, object::TABLE, TABLE) {
        return Ok(None);
    }
    let name = name(bytes, object::NAME)?;
    let kind = find(bytes, object::TYPE).and_then(be32).unwrap_or(0);
    if kind != object::COUNTER {
        return Ok(Some(Err(Foreign::Object(kind, name))));
    }
    let packets = find(bytes, object::DATA).and_then(|counts| find(counts, object::PACKETS)).and_then(be64);
    Ok(Some(Ok((name, packets.unwrap_or(0)))))
}

pub fn flow_table(bytes: &[u8]) -> Result<Option<Foreign>, DecodeError> {
    if !in_table(bytes, object::FLOW_TABLE, TABLE) {
        return Ok(None);
    }
    Ok(Some(Foreign::FlowTable(name(bytes, object::FLOW_TABLE_NAME)?)))
}

/// A rule and the chain that it is the next of. Takes the anonymous sets that it looks into.
pub fn rule(bytes: &[u8], anonymous: &mut HashMap<Text, Set>) -> Result<Option<(Text, Rule)>, DecodeError> {
    rule_of(bytes, TABLE, anonymous)
}

/// The same of another table.
pub fn rule_of(
    bytes: &[u8],
    table: &str,
    anonymous: &mut HashMap<Text, Set>,
) -> Result<Option<(Text, Rule)>, DecodeError> {
    if !in_table(bytes, rule::TABLE, table) {
        return Ok(None);
    }
    let list = find(bytes, rule::EXPRESSIONS).unwrap_or_default();
    let mut expressions: Vec<Expression> =
        attributes(list).map(|(_, bytes)| one_expression(bytes, anonymous)).collect();
    expressions.shrink_to_fit();
    let comment = find(bytes, rule::USERDATA).and_then(comment);
    Ok(Some((name(bytes, rule::CHAIN)?, Rule { expressions, comment })))
}

fn one_expression(bytes: &[u8], anonymous: &mut HashMap<Text, Set>) -> Expression {
    let name = find(bytes, expression::NAME).map(words).unwrap_or_default();
    let content = find(bytes, expression::DATA).unwrap_or_default();
    let unknown = || Expression::Unknown { name: name.clone(), attributes: content.into() };
    let known = Attributes::new(content).and_then(|mut found| {
        let made = known(&name, &mut found)?;
        found.is_empty().then_some(made)
    });
    match known {
        Some(Expression::Lookup { set: Among::Named(set), from, inverted, to }) => {
            let set = match anonymous.remove(&set) {
                Some(within) => Among::Anonymous(Box::new(within)),
                None => Among::Named(set),
            };
            Expression::Lookup { set, from, inverted, to }
        }
        Some(made) => made,
        None => unknown(),
    }
}

/// An expression's attributes, each to be taken out once: what is left over is not wire's.
struct Attributes<'a>([Option<&'a [u8]>; 16]);

impl<'a> Attributes<'a> {
    /// None where one is there twice or has a number that no expression of wire's knows.
    fn new(bytes: &'a [u8]) -> Option<Attributes<'a>> {
        let mut all = [None; 16];
        for (kind, value) in attributes(bytes) {
            if all.get_mut(usize::from(kind))?.replace(value).is_some() {
                return None;
            }
        }
        Some(Attributes(all))
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    fn take(&mut self, kind: u16) -> Option<&'a [u8]> {
        self.0.get_mut(usize::from(kind))?.take()
    }

    fn number(&mut self, kind: u16) -> Option<u32> {
        be32(self.take(kind)?)
    }

    /// A register, or another number that wire keeps in a byte.
    fn byte(&mut self, kind: u16) -> Option<u8> {
        u8::try_from(self.number(kind)?).ok()
    }

    /// Whether it is this number, or not said at all.
    fn is(&mut self, kind: u16, number: u32) -> Option<()> {
        self.take(kind).is_none_or(|value| be32(value) == Some(number)).then_some(())
    }

    fn flag(&mut self, kind: u16) -> Option<bool> {
        match self.take(kind).map_or(Some(0), be32)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn value(&mut self, kind: u16) -> Option<Value> {
        let bytes = find(self.take(kind)?, data::VALUE)?;
        (bytes.len() <= 16).then(|| Value::new(bytes))
    }

    fn text(&mut self, kind: u16) -> Option<Text> {
        self.take(kind).map(words)
    }
}

fn known(name: &str, found: &mut Attributes) -> Option<Expression> {
    use uapi::expression::*;
    Some(match name {
        "payload" => Expression::Payload {
            base: match found.number(PAYLOAD_BASE)? {
                0 => Header::Link,
                1 => Header::Network,
                2 => Header::Transport,
                _ => return None,
            },
            offset: found.byte(PAYLOAD_OFFSET)?,
            length: found.byte(PAYLOAD_LENGTH)?,
            to: found.byte(PAYLOAD_TO)?,
        },
        "meta" => Expression::Meta {
            key: match found.number(META_KEY)? {
                6 => Meta::IifName,
                7 => Meta::OifName,
                15 => Meta::NfProto,
                16 => Meta::L4Proto,
                _ => return None,
            },
            to: found.byte(META_TO)?,
        },
        "ct" => Expression::Ct {
            key: match found.number(META_KEY)? {
                0 => Ct::State,
                2 => Ct::Status,
                _ => return None,
            },
            to: found.byte(META_TO)?,
        },
        "fib" => Expression::Fib {
            result: found.number(FIB_RESULT)?,
            flags: found.number(FIB_FLAGS)?,
            to: found.byte(FIB_TO)?,
        },
        "bitwise" => {
            found.is(BITWISE_OPERATION, 0)?;
            let (mask, xor) = (found.value(BITWISE_MASK)?, found.value(BITWISE_XOR)?);
            found.is(BITWISE_LENGTH, mask.as_bytes().len() as u32)?;
            Expression::Bitwise { from: found.byte(BITWISE_FROM)?, to: found.byte(BITWISE_TO)?, mask, xor }
        }
        "cmp" => Expression::Compare {
            from: found.byte(COMPARE_FROM)?,
            how: match found.number(COMPARE_HOW)? {
                0 => Compare::Equal,
                1 => Compare::Different,
                2 => Compare::Less,
                3 => Compare::AtMost,
                4 => Compare::Greater,
                5 => Compare::AtLeast,
                _ => return None,
            },
            value: found.value(COMPARE_DATA)?,
        },
        "lookup" => Expression::Lookup {
            set: Among::Named(found.text(LOOKUP_SET)?),
            from: found.byte(LOOKUP_FROM)?,
            inverted: found.flag(LOOKUP_FLAGS)?,
            to: match found.take(LOOKUP_TO) {
                Some(to) => Some(u8::try_from(be32(to)?).ok()?),
                None => None,
            },
        },
        "immediate" => {
            let (to, content) = (found.byte(IMMEDIATE_TO)?, found.take(IMMEDIATE_DATA)?);
            match find(content, data::VERDICT) {
                Some(what) if to == VERDICT => Expression::Verdict(verdict(what)?),
                Some(_) => return None,
                None => {
                    let value = find(content, data::VALUE).filter(|bytes| bytes.len() <= 16)?;
                    Expression::Load { to, value: Value::new(value) }
                }
            }
        }
        "counter" => {
            // What it has counted, and what fills up before 64 bits.
            (1..=3).for_each(|kind| _ = found.take(kind));
            Expression::Counter
        }
        "objref" => {
            found.is(OBJECT_TYPE, object::COUNTER)?;
            Expression::Count(found.text(OBJECT_NAME)?)
        }
        "limit" => Expression::Limit(limit(found)?),
        "log" => Expression::Log {
            prefix: found.text(LOG_PREFIX).unwrap_or_default(),
            group: u16::from_be_bytes(number(found.take(LOG_GROUP)?)?),
        },
        "nat" => {
            let (address, port) = (found.byte(NAT_ADDRESS)?, found.take(NAT_PORT));
            found.is(NAT_ADDRESS_LAST, u32::from(address))?;
            let mut maps = NAT_MAPS_ADDRESS;
            let mut to = None;
            if let Some(port) = port {
                let port = be32(port)?;
                found.is(NAT_PORT_LAST, port)?;
                maps |= NAT_MAPS_PORT;
                to = Some(u8::try_from(port).ok()?);
            }
            found.is(NAT_FLAGS, maps)?;
            let to_source = !found.flag(NAT_TYPE)?;
            Expression::Nat { to_source, family: found.byte(NAT_FAMILY)?, address, port: to }
        }
        "masq" => Expression::Masquerade,
        "dynset" => {
            found.is(UPDATE_OPERATION, 1)?;
            if found.take(UPDATE_TIMEOUT).is_some_and(|value| be64(value) != Some(0)) {
                return None;
            }
            found.take(UPDATE_PAD);
            let each = match found.take(UPDATE_EXPRESSION) {
                Some(each) if find(each, NAME).map(words).as_deref() == Some("limit") => {
                    let mut inner = Attributes::new(find(each, DATA)?)?;
                    let limit = limit(&mut inner)?;
                    if !inner.is_empty() {
                        return None;
                    }
                    Some(limit)
                }
                Some(_) => return None,
                None => None,
            };
            let flags = found.take(UPDATE_FLAGS).map_or(Some(0), be32)?;
            if flags & !UPDATE_HAS_EXPRESSION != 0 {
                return None;
            }
            Expression::Update { set: found.text(UPDATE_SET)?, from: found.byte(UPDATE_KEY)?, limit: each }
        }
        _ => return None,
    })
}

fn limit(found: &mut Attributes) -> Option<Limit> {
    use uapi::expression::{LIMIT_BURST, LIMIT_FLAGS, LIMIT_PAD, LIMIT_RATE, LIMIT_TYPE, LIMIT_UNIT};
    // Packets, not bytes.
    found.is(LIMIT_TYPE, 0)?;
    found.take(LIMIT_PAD);
    Some(Limit {
        rate: be64(found.take(LIMIT_RATE)?)?,
        unit: be64(found.take(LIMIT_UNIT)?)?,
        burst: found.number(LIMIT_BURST)?,
        over: found.flag(LIMIT_FLAGS)?,
    })
}

fn verdict(bytes: &[u8]) -> Option<Verdict> {
    let chain = find(bytes, data::CHAIN).map(words);
    Some(match (find(bytes, data::CODE).and_then(be32)? as i32, chain) {
        (data::ACCEPT, None) => Verdict::Accept,
        (data::DROP, None) => Verdict::Drop,
        (data::RETURN, None) => Verdict::Return,
        (data::JUMP, Some(chain)) => Verdict::Jump(chain),
        (data::GOTO, Some(chain)) => Verdict::Goto(chain),
        (code, _) => Verdict::Other(code),
    })
}

fn in_table(bytes: &[u8], kind: u16, table: &str) -> bool {
    find(bytes, kind).map(words).as_deref() == Some(table)
}

pub fn name(bytes: &[u8], kind: u16) -> Result<Text, DecodeError> {
    find(bytes, kind).map(words).ok_or_else(|| DecodeError::from("something of a table has no name"))
}

/// nft's comment among what it keeps.
fn comment(mut bytes: &[u8]) -> Option<Text> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == userdata::COMMENT {
            return Some(words(value));
        }
        bytes = &rest[value.len()..];
    }
    None
}

pub fn words(bytes: &[u8]) -> Text {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into()
}

pub fn be32(value: &[u8]) -> Option<u32> {
    number(value).map(u32::from_be_bytes)
}

fn be64(value: &[u8]) -> Option<u64> {
    number(value).map(u64::from_be_bytes)
}
