//! The tables of a namespace that are not wire's, as far as they decide what passes. Only read where there are any. What wire's
//! own rules never have is read here for what it means and no further: nobody loads it back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use netlink_packet_core::{DecodeError, NLM_F_DUMP};

use super::super::nfnl::{self, find, number};
use super::super::socket::{Refusal, Socket};
use super::decode::{self, SeenSet, be32, words};
use super::uapi::{INET, NFTABLES, data, element, expression, message, object, others, table};
use super::{TRIES, begin, named, text};
use crate::nft::others::{Chain, Family, Load, Ports, Step, Table};
use crate::nft::{Expression, TABLE, Text, Type, Value};

/// Of a set with more elements than these none is kept: nobody can tell then what is in it. The same with a table and its rules.
const MOST: usize = 65_536;

/// All tables but wire's that a packet may come to.
pub fn read(socket: &Socket) -> Result<Vec<Table>, Refusal> {
    let mut tries = 0;
    loop {
        tries += 1;
        let tables = names(socket)?;
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let (generation, _) = begin(socket)?;
        let found: Result<Vec<Option<Table>>, Refusal> =
            tables.into_iter().map(|(family, name)| contents(socket, family, &name)).collect();
        let (after, _) = begin(socket)?;
        if after == generation || tries == TRIES {
            return found.map(|tables| tables.into_iter().flatten().collect());
        }
    }
}

fn number_of(family: Family) -> u8 {
    match family {
        Family::Inet => INET,
        Family::Ip => others::IPV4,
        Family::Ip6 => others::IPV6,
    }
}

fn dump<T>(
    socket: &Socket,
    kind: u8,
    family: u8,
    attributes: &[u8],
    read: impl Fn(u8, &[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, Refusal> {
    let request = nfnl::request(NFTABLES, kind, NLM_F_DUMP, family, 0, attributes);
    socket.dump(&request, |(_, payload)| match nfnl::read(payload) {
        Some((family, bytes)) => read(family, bytes),
        None => Err(DecodeError::from("a message that is cut off")),
    })
}

/// The tables that are switched on, by family.
fn names(socket: &Socket) -> Result<Vec<(Family, Text)>, Refusal> {
    dump(socket, message::GET_TABLE, 0, &[], |family, bytes| {
        let families = [Family::Inet, Family::Ip, Family::Ip6];
        let family = families.into_iter().find(|known| number_of(*known) == family);
        let name = decode::name(bytes, table::NAME)?;
        let dormant = find(bytes, table::FLAGS).and_then(be32).unwrap_or(0) & table::DORMANT != 0;
        let ours = family == Some(Family::Inet) && &*name == TABLE;
        Ok(family.map(|family| (family, name)).filter(|_| !ours && !dormant))
    })
}

/// One table; none where no packet comes to it by itself.
fn contents(socket: &Socket, of: Family, name: &Text) -> Result<Option<Table>, Refusal> {
    let family = number_of(of);
    let its = named(table::NAME, name);
    let mut found = Table { family: of, name: name.clone(), ..Table::default() };
    for (name, base) in dump(socket, message::GET_CHAIN, family, &its, |_, bytes| decode::chain_of(bytes, name))? {
        found.chains.insert(name, Chain { base, rules: Vec::new() });
    }
    if found.chains.values().all(|chain| chain.base.is_none()) {
        return Ok(None);
    }
    let mut anonymous = HashMap::new();
    let sets = dump(socket, message::GET_SET, family, &its, |_, bytes| decode::set_of(bytes, &found.name))?;
    for SeenSet { name, anonymous: unnamed, mut set } in sets {
        // Those of another kind are not looked into, and what packets put in comes and goes.
        if !set.dynamic && !set.key.contains(&Type::Other) {
            let mut of = its.clone();
            text(&mut of, element::SET, &name);
            let count = Cell::new(0);
            let elements = dump(socket, message::GET_ELEMENT, family, &of, |_, bytes| {
                let some = decode::elements(bytes)?;
                count.set(count.get() + some.len());
                Ok((count.get() <= MOST).then_some(some))
            })?;
            match count.get() > MOST {
                true => set.key = vec![Type::Other],
                false => decode::fill(&mut set, elements.into_iter().flatten().collect()),
            }
        }
        match unnamed {
            true => drop(anonymous.insert(name, set)),
            false => drop(found.sets.insert(name, set)),
        }
    }
    let anonymous = RefCell::new(anonymous);
    let count = Cell::new(0);
    let rules = dump(socket, message::GET_RULE, family, &its, |_, bytes| {
        count.set(count.get() + 1);
        match count.get() > MOST {
            true => Ok(None),
            false => decode::rule_of(bytes, name, &mut anonymous.borrow_mut()),
        }
    })?;
    if count.get() > MOST {
        return Ok(None);
    }
    for (name, rule) in rules {
        if let Some(chain) = found.chains.get_mut(&name) {
            chain.rules.push(rule.expressions.into_iter().flat_map(steps).collect());
        }
    }
    Ok(Some(found))
}

/// What an expression of somebody else's means.
fn steps(expression: Expression) -> Vec<Step> {
    let Expression::Unknown { name, attributes } = &expression else { return vec![Step::Known(expression)] };
    step(name, attributes).unwrap_or_else(|| vec![Step::Strange])
}

pub fn step(name: &str, content: &[u8]) -> Option<Vec<Step>> {
    let at = |kind| find(content, kind);
    let is = |kind, number| at(kind).and_then(be32) == Some(number);
    let register = |kind| at(kind).and_then(be32).and_then(|register| u8::try_from(register).ok());
    let load = |what| Some(Step::Load { what, to: register(others::TO)? });
    Some(vec![match name {
        "reject" => Step::Reject,
        "nat" | "masq" | "redir" => Step::Translate,
        "log" | "counter" | "last" | "flow_offload" => Step::Nothing,
        // Without conntrack, or in other hands.
        "notrack" | "queue" | "synproxy" | "tproxy" | "fwd" => Step::Anything,
        "objref" if at(expression::OBJECT_TYPE).and_then(be32).is_some_and(|kind| !object::DECIDE.contains(&kind)) => {
            Step::Nothing
        }
        "meta" if at(others::META_FROM).is_some() => Step::Nothing,
        "meta" if is(expression::META_KEY, others::META_PROTOCOL) => load(Load::EtherType)?,
        "meta" if is(expression::META_KEY, others::META_IIF) => load(Load::Iif)?,
        "meta" if is(expression::META_KEY, others::META_OIF) => load(Load::Oif)?,
        "ct" if at(others::CT_FROM).is_some() => Step::Nothing,
        "ct" if is(expression::META_KEY, others::CT_DIRECTION) => load(Load::Direction)?,
        "ct" if is(expression::META_KEY, others::CT_DESTINATION_PORT) && at(others::CT_WAY) == Some(&[0]) => {
            load(Load::Dialled)?
        }
        "range" => {
            let value = |kind| Some(find(at(kind)?, data::VALUE)?).filter(|bytes| bytes.len() <= 16).map(Value::new);
            Step::Range {
                from: register(others::RANGE_FROM)?,
                inverted: is(others::RANGE_HOW, 1),
                first: value(others::RANGE_FIRST)?,
                last: value(others::RANGE_LAST)?,
            }
        }
        "match" => {
            return matches(&at(others::X_NAME).map(words)?, be32(at(others::X_REVISION)?)?, at(others::X_INFO)?);
        }
        "target" => target(&at(others::X_NAME).map(words)?),
        _ => return None,
    }])
}

/// What a target of xtables does (iptables-extensions(8)).
fn target(name: &str) -> Step {
    match name {
        "REJECT" => Step::Reject,
        "DNAT" | "SNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" => Step::Translate,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "CLASSIFY" | "TCPMSS" | "TRACE" | "TOS" | "DSCP" | "TTL" | "HL"
        | "CHECKSUM" | "SET" | "AUDIT" => Step::Nothing,
        _ => Step::Anything,
    }
}

/// What a match of xtables asks, where it is one of those that other people's firewalls are made of: the layouts are those of
/// linux/netfilter/xt_NAME.h, all in the machine's order.
pub fn matches(name: &str, revision: u32, info: &[u8]) -> Option<Vec<Step>> {
    let half = |at: usize| info.get(at..).and_then(number).map(u16::from_ne_bytes);
    let byte = |at: usize| info.get(at).copied();
    // Both ends of a range of ports, 0 and 65535 where nothing is asked, and whether it is the other way round.
    let ports = |of, at: usize, inverted| {
        let ranges = vec![(half(at)?, half(at + 2)?)];
        Some(Step::Ports { of, ranges, inverted })
    };
    Some(match (name, revision) {
        ("comment", _) => vec![Step::Nothing],
        ("state", 0) => vec![Step::States { bits: u32::from_ne_bytes(number(info)?), inverted: false }],
        ("conntrack", 2 | 3) => {
            // Behind eight addresses and masks, two times and five ports: which are asked, which inverted, and the states.
            let (asked, inverted, states) = (half(146)?, half(148)?, half(150)?);
            const STATE: u16 = 1;
            // Said as `-m state`.
            const ALIAS: u16 = 0x2000;
            let state = Step::States { bits: states.into(), inverted: inverted & STATE != 0 };
            let more = (asked & !(STATE | ALIAS) != 0).then_some(Step::Strange);
            (asked & STATE != 0).then_some(state).into_iter().chain(more).collect()
        }
        ("tcp", 0) => {
            let (option, flags, inverted) = (byte(8)?, byte(9)?, byte(11)?);
            let more = (option != 0 || flags != 0).then_some(Step::Strange);
            let both = [ports(Ports::Source, 0, inverted & 1 != 0)?, ports(Ports::Destination, 4, inverted & 2 != 0)?];
            both.into_iter().chain(more).collect()
        }
        ("udp", 0) => {
            let inverted = byte(8)?;
            vec![ports(Ports::Source, 0, inverted & 1 != 0)?, ports(Ports::Destination, 4, inverted & 2 != 0)?]
        }
        ("multiport", 1) => {
            let of = match byte(0)? {
                0 => Ports::Source,
                1 => Ports::Destination,
                _ => Ports::Either,
            };
            // Up to fifteen ports, and of each whether a range begins with it.
            let mut ranges = Vec::new();
            let mut places = 0..usize::from(byte(1)?.min(15));
            while let Some(place) = places.next() {
                let first = half(2 + 2 * place)?;
                let last = if byte(32 + place)? != 0 { half(2 + 2 * places.next()?)? } else { first };
                ranges.push((first, last));
            }
            vec![Step::Ports { of, ranges, inverted: byte(47)? != 0 }]
        }
        ("addrtype", 1) => {
            let (source, destination, flags) = (half(0)?, half(2)?, u32::from_ne_bytes(number(info.get(4..)?)?));
            const INVERTED: u32 = 2;
            let types = Step::Destination { types: destination, inverted: flags & INVERTED != 0 };
            let more = (source != 0 || flags & !INVERTED != 0).then_some(Step::Strange);
            (destination != 0).then_some(types).into_iter().chain(more).collect()
        }
        ("icmp" | "icmp6", 0) => {
            let (kind, codes, inverted) = (byte(0)?, (byte(1)?, byte(2)?), byte(3)? & 1 != 0);
            match (kind, codes) {
                // Any.
                (0xff, (0, 0xff)) if name == "icmp" => vec![if inverted { Step::Strange } else { Step::Nothing }],
                (kind, (0, 0xff)) => vec![Step::Icmp { kind, inverted }],
                _ => vec![Step::Strange],
            }
        }
        _ => return None,
    })
}
