//! `table inet wire` of one namespace, read and changed over a socket that stays open: closing one right after a change waits
//! for the kernel to be done with what was taken out (an RCU grace period, some 13 ms).

mod decode;
mod encode;
pub mod others;
#[cfg(test)]
mod tests;
mod uapi;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use netlink_packet_core::{DecodeError, NLM_F_DUMP};
use nix::errno::Errno;

use self::decode::{Head, SeenSet};
use self::encode::{About, Transaction, text};
use self::uapi::{INET, NFTABLES, element, message, table};
use super::nfnl;
use super::socket::{Batch, Refusal, Request, Socket};
use crate::nft::{Among, Element, Expression, Set, TABLE, Table, Target, Text, Verdict};

/// How often what changes while it is read is read again.
const TRIES: usize = 5;

/// What a namespace held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// `table inet wire`; empty where it is not ours.
    pub table: Option<Table>,
    /// Whether the table, where there is one, has wire's mark, and goes with no other process.
    pub ours: bool,
    /// Which state of all the rules of the namespace this is: another after every change by anybody.
    pub generation: u32,
}

/// Why a change did not take effect; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Somebody else changed the rules of the namespace since they were read: read and try again.
    Overtaken,
    /// The kernel said no.
    Refused {
        /// What it refused, in nft's words.
        what: String,
        refusal: Refusal,
    },
    /// The change is this many bytes in one piece, which is more than this process may send.
    TooLarge(usize),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failed::Overtaken => f.write_str("somebody else is changing the rules of the namespace at the same time"),
            Failed::Refused { what, refusal } => write!(f, "the kernel refuses {what}: {refusal}"),
            Failed::TooLarge(bytes) => write!(
                f,
                "the rules are {} KiB in one piece, and the kernel takes less from a process without CAP_NET_ADMIN \
                 of the host (net.core.wmem_max)",
                bytes.div_ceil(1024)
            ),
        }
    }
}

/// What the table of the socket's namespace holds.
pub fn read(socket: &Socket) -> Result<Seen, Refusal> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (generation, head) = begin(socket)?;
        let seen = match head {
            None => return Ok(Seen { table: None, ours: false, generation }),
            Some(head) if !head.ours => return Ok(Seen { table: Some(Table::default()), ours: false, generation }),
            Some(head) => contents(socket, &head),
        };
        let (after, _) = begin(socket)?;
        if after == generation {
            return seen.map(|table| Seen { table: Some(table), ours: true, generation });
        }
        if tries == TRIES {
            return Err(seen.err().unwrap_or(Errno::EINTR.into()));
        }
    }
}

/// The generation, and what the table says of itself where there is one.
fn begin(socket: &Socket) -> Result<(u32, Option<Head>), Refusal> {
    let mut batch = Batch::default();
    batch.push(0, &ask(message::GET_GENERATION, 0, &[]));
    batch.push(1, &ask(message::GET_TABLE, 0, &named(table::NAME, TABLE)));
    let (mut generation, mut head) = (None, None);
    let refused = socket.exchange(&mut batch, |tag, (_, payload)| {
        let bytes = nfnl::read(payload).map_or(&[][..], |(_, bytes)| bytes);
        match tag {
            0 => generation = decode::generation(bytes),
            _ => head = Some(decode::head(bytes)),
        }
    });
    match refused.into_iter().find(|(tag, refusal)| (*tag, refusal.errno) != (1, Errno::ENOENT)) {
        Some((_, refusal)) => Err(refusal),
        None => Ok((generation.ok_or(Errno::EBADMSG)?, head)),
    }
}

fn contents(socket: &Socket, head: &Head) -> Result<Table, Refusal> {
    let mut found = Table { dormant: head.dormant, ..Table::default() };
    // All these have the table's name as their first attribute.
    let ours = named(table::NAME, TABLE);
    for (name, chain) in dump(socket, message::GET_CHAIN, &ours, decode::chain)? {
        match chain {
            Ok(chain) => drop(found.chains.insert(name, chain)),
            Err(foreign) => drop(found.foreign.insert(foreign)),
        }
    }
    let mut anonymous = HashMap::new();
    for SeenSet { name, anonymous: unnamed, mut set } in dump(socket, message::GET_SET, &ours, decode::set)? {
        let mut of = ours.clone();
        text(&mut of, element::SET, &name);
        let elements = dump(socket, message::GET_ELEMENT, &of, |bytes| decode::elements(bytes).map(Some))?;
        decode::fill(&mut set, elements.into_iter().flatten().collect());
        match unnamed {
            true => drop(anonymous.insert(name, set)),
            false => drop(found.sets.insert(name, set)),
        }
    }
    for object in dump(socket, message::GET_OBJECT, &ours, decode::object)? {
        match object {
            Ok((name, packets)) => drop(found.counters.insert(name, packets)),
            Err(foreign) => drop(found.foreign.insert(foreign)),
        }
    }
    found.foreign.extend(dump(socket, message::GET_FLOW_TABLE, &ours, decode::flow_table)?);
    let anonymous = std::cell::RefCell::new(anonymous);
    for (name, rule) in
        dump(socket, message::GET_RULE, &ours, |bytes| decode::rule(bytes, &mut anonymous.borrow_mut()))?
    {
        if let Some(chain) = found.chains.get_mut(&name) {
            chain.rules.push(rule);
        }
    }
    Ok(found)
}

fn ask(kind: u8, flags: u16, attributes: &[u8]) -> Request {
    nfnl::request(NFTABLES, kind, flags, INET, 0, attributes)
}

fn named(kind: u16, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    text(&mut bytes, kind, name);
    bytes
}

fn dump<T>(
    socket: &Socket,
    kind: u8,
    attributes: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, Refusal> {
    socket.dump(&ask(kind, NLM_F_DUMP, attributes), |(_, payload)| match nfnl::read(payload) {
        Some((_, bytes)) => read(bytes),
        None => Err(DecodeError::from("a message that is cut off")),
    })
}

/// Makes of what was seen what is wanted, in one step and by as little as that takes: what is right stays and keeps its counts.
/// Only of a table that is ours, and of the generation in which it was seen.
pub fn change(socket: &Socket, seen: Option<&Table>, wanted: Option<&Table>, generation: u32) -> Result<(), Failed> {
    let mut transaction = Transaction::begin(generation);
    match (seen, wanted) {
        (None, None) => {}
        (Some(_), None) => transaction.delete_table(),
        (_, Some(wanted)) => steps(&mut transaction, seen, wanted),
    }
    if transaction.is_empty() {
        return Ok(());
    }
    let (batch, about) = transaction.end();
    let bytes = batch.bytes().len();
    let Some((tag, refusal)) = socket.transact(batch).into_iter().next() else { return Ok(()) };
    let about = about.into_iter().nth(tag).unwrap_or(About::Table);
    Err(match (refusal.errno, about) {
        (Errno::ERESTART, _) => Failed::Overtaken,
        // It has gone by itself in the meantime, which makes no new generation.
        (Errno::ENOENT, About::Removal(_)) => Failed::Overtaken,
        (Errno::EMSGSIZE, About::Table) => Failed::TooLarge(bytes),
        (_, about) => Failed::Refused { what: about.to_string(), refusal },
    })
}

fn steps(transaction: &mut Transaction, seen: Option<&Table>, wanted: &Table) {
    let nothing = Table::default();
    let mut has = seen.unwrap_or(&nothing);
    let is_right = |name: &Text, table: &Table| {
        let there = |table: &Table| {
            table.chains.get(name).map(|chain| chain.base.map(|base| (base.kind, base.hook, base.priority)))
        };
        there(table) == there(wanted)
    };
    let right = |name: &Text| is_right(name, has);
    // The kernel lets no base chain come or go while a table is switched on again.
    let bases = || has.chains.iter().chain(&wanted.chains).filter(|(_, chain)| chain.base.is_some());
    if has.dormant && !bases().all(|(name, _)| right(name)) {
        transaction.delete_table();
        has = &nothing;
    }
    if seen.is_none() || seen.is_some_and(|table| table.dormant) {
        transaction.add_table();
    }
    let right = |name: &Text| is_right(name, has);

    // What has to be made anew takes along whatever leads there.
    let chains: BTreeSet<&Text> =
        has.chains.keys().filter(|name| wanted.chains.contains_key(*name) && !right(name)).collect();
    let kept = |name: &Text, set: &Set| wanted.sets.get(name).is_some_and(|wanted| set.is_made_like(wanted));
    let sets: BTreeSet<&Text> = has.sets.iter().filter(|(name, set)| !kept(name, set)).map(|(name, _)| name).collect();
    let leads_to = |verdict: &Verdict| match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => chains.contains(chain),
        _ => false,
    };
    let element_leads =
        |element: &Element| matches!(&element.leads_to, Some(Target::Verdict(verdict)) if leads_to(verdict));
    let is_touched = |step: &Expression| match step {
        Expression::Verdict(verdict) => leads_to(verdict),
        Expression::Lookup { set: Among::Named(set), .. } | Expression::Update { set, .. } => sets.contains(set),
        Expression::Lookup { set: Among::Anonymous(set), .. } => set.elements.values().any(element_leads),
        _ => false,
    };
    let refilled = |name: &Text| match (has.chains.get(name), wanted.chains.get(name)) {
        (Some(has), Some(wanted)) => {
            !right(name)
                || has.rules != wanted.rules
                || has.rules.iter().any(|rule| rule.expressions.iter().any(is_touched))
        }
        _ => true,
    };
    let stays = |has: &Set, wanted: &Set, key| match (has.elements.get(key), wanted.elements.get(key)) {
        (Some(has), Some(wanted)) => has == wanted && !element_leads(has),
        _ => false,
    };

    for (name, _) in has.chains.iter().filter(|(name, chain)| !chain.rules.is_empty() && refilled(name)) {
        transaction.flush_chain(name);
    }
    for (name, set) in has.sets.iter().filter(|(name, set)| !set.dynamic && !sets.contains(name)) {
        let Some(wanted) = wanted.sets.get(name) else { continue };
        let gone = set.elements.iter().filter(|(key, _)| !stays(set, wanted, key));
        transaction.delete_elements(name, set, gone);
    }
    sets.iter().for_each(|name| transaction.delete_set(name));
    for name in has.chains.keys().filter(|name| !right(name)) {
        transaction.delete_chain(name);
    }
    for name in has.counters.keys().filter(|name| !wanted.counters.contains_key(*name)) {
        transaction.delete_counter(name);
    }
    has.foreign.iter().for_each(|foreign| transaction.delete_foreign(foreign));

    for (name, chain) in &wanted.chains {
        let policy = |table: &Table| table.chains.get(name).and_then(|chain| chain.base).map(|base| base.drop);
        if !right(name) || policy(has) != policy(wanted) {
            transaction.add_chain(name, chain.base.as_ref());
        }
    }
    for name in wanted.counters.keys().filter(|name| !has.counters.contains_key(*name)) {
        transaction.add_counter(name);
    }
    for (name, set) in &wanted.sets {
        match has.sets.get(name).filter(|_| !sets.contains(name)) {
            None => transaction.add_set(name, set),
            Some(_) if set.dynamic => {}
            Some(has) => {
                let new = set.elements.iter().filter(|(key, _)| !stays(has, set, key));
                transaction.add_elements(name, set, new);
            }
        }
    }
    for (name, chain) in wanted.chains.iter().filter(|(name, _)| refilled(name)) {
        chain.rules.iter().for_each(|rule| transaction.add_rule(name, rule));
    }
}
