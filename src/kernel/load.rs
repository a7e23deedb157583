//! Rules are put into force and taken away, and the connections that no rule lets begin any more are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::conntrack::{self, Entry, Part};
use super::nft::{self, Failed};
use super::share::share;
use super::socket::Refusal;
use super::{Kernel, Rules};
use crate::nft::build::{ICMP, ICMPV6, TCP, UDP};
use crate::nft::{Key, Table, Text, Value, others};
use crate::plan::{Action, Change, Load};
use crate::rules::{Beginning, UNFINISHED};
use crate::topology::{Name, Protocol};

/// How often a change is tried again that somebody else's came before.
const TRIES: usize = 5;

impl Kernel {
    /// Puts the rules of a plan into force, before any cable is touched. Returns what was refused, by the change's place.
    pub(super) fn load(&mut self, changes: &[Change]) -> Vec<(usize, String)> {
        let mut loads: BTreeMap<&Name, (usize, &Load)> = BTreeMap::new();
        for (i, change) in changes.iter().enumerate() {
            if let Action::Load(load) = &change.action {
                loads.insert(&change.node, (i, load));
            }
        }
        if loads.is_empty() {
            return Vec::new();
        }
        let mut work = Vec::new();
        for (name, open) in &mut self.open {
            if let Some((i, load)) = loads.remove(name) {
                work.push((i, load, &mut open.rules));
            }
        }
        let done = share(work, || (), |(), (i, load, rules)| (i, rules.become_what(load)));
        let refused = done.into_iter().filter_map(|(i, done)| Some((i, done.err()?.to_string())));
        let gone = loads.into_values().map(|(i, _)| (i, "it is gone".to_owned()));
        let sentence =
            |(i, why): (usize, String)| (i, format!("the rules of {} could not be loaded: {why}", changes[i].node));
        refused.chain(gone).map(sentence).collect()
    }

    /// Takes rules away, after the cables.
    pub(super) fn unload<'c>(&mut self, changes: impl Iterator<Item = (usize, &'c Change)>) -> Vec<(usize, String)> {
        let mut refused = Vec::new();
        for (i, change) in changes.filter(|(_, change)| change.action == Action::Unload) {
            let Some(open) = self.open.get_mut(&change.node) else { continue };
            if let Err(error) = open.rules.change(None) {
                refused.push((i, format!("the rules of {} could not be removed: {error}", change.node)));
            }
        }
        refused
    }
}

impl Rules {
    fn become_what(&mut self, load: &Load) -> Result<(), Failed> {
        let refused = |refusal| Failed::Refused { what: "to forget connections".to_owned(), refusal };
        // Who is stopped in between leaves rules that are as they are to be, and connections that are not: that is seen next time.
        let busy = conntrack::count(&self.socket).map_err(refused)? > 0;
        if busy {
            let mut unfinished = Table::clone(&load.table);
            unfinished.counters.insert(UNFINISHED.into(), 0);
            self.change(Some(&Arc::new(unfinished)))?;
            self.forget(load).map_err(refused)?;
        }
        self.change(Some(&load.table))?;
        if busy { Ok(()) } else { self.forget(load).map_err(refused) }
    }

    /// One transaction, tried again where somebody else has changed something in between.
    fn change(&mut self, wanted: Option<&Arc<Table>>) -> Result<(), Failed> {
        let mut tries = 0;
        loop {
            tries += 1;
            let table = wanted.map(AsRef::as_ref);
            match nft::change(&self.socket, self.seen.as_deref(), table, self.generation) {
                Ok(()) => {
                    self.seen = wanted.cloned();
                    // Ours makes one more, and never 0 (nf_tables_commit, net/netfilter/nf_tables_api.c).
                    self.generation = self.generation.checked_add(1).unwrap_or(1);
                    return Ok(());
                }
                Err(Failed::Overtaken) if tries < TRIES => {
                    let what = "to list the rules".to_owned();
                    self.look(None).map_err(|refusal| Failed::Refused { what, refusal })?;
                }
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Looks what the table holds now. A table that is as it is to be is not kept a second time.
    pub(super) fn look(&mut self, known: Option<&Arc<Table>>) -> Result<Looked, Refusal> {
        let nft::Seen { table, ours, generation } = nft::read(&self.socket)?;
        self.generation = generation;
        let foreign = table.is_some() && !ours;
        let mut table = table.filter(|_| ours);
        let counts = table.as_mut().map(|table| std::mem::take(&mut table.counters)).unwrap_or_default();
        if let Some(table) = &mut table {
            table.counters = counts.keys().map(|name| (name.clone(), 0)).collect();
        }
        let recorded = table.iter().flat_map(recorded).collect();
        let same = known.filter(|known| table.as_ref() == Some(known.as_ref()));
        self.seen = same.cloned().or_else(|| table.map(Arc::new));
        Ok(Looked { foreign, counts, recorded })
    }

    /// The tables that are not wire's.
    pub(super) fn others(&self) -> Result<Vec<others::Table>, Refusal> {
        nft::others::read(&self.socket)
    }

    /// Forgets the connections over wires that nothing lets begin any more: their packets would pass by their state.
    fn forget(&self, load: &Load) -> Result<(), Refusal> {
        if conntrack::count(&self.socket)? == 0 {
            return Ok(());
        }
        let stays = |entry: &Entry| {
            let Some(beginning) = beginning(entry) else { return true };
            !load.openings.is_over_a_wire(&beginning) || load.openings.let_begin(&beginning, &load.table)
        };
        let doomed: Vec<Entry> = conntrack::list(&self.socket)?.into_iter().filter(|entry| !stays(entry)).collect();
        match conntrack::delete(&self.socket, &doomed).into_iter().next() {
            Some((_, refusal)) => Err(refusal),
            None => Ok(()),
        }
    }
}

/// What a look at a namespace's rules brings besides them.
pub(super) struct Looked {
    /// There is a table of that name, and it is not wire's.
    pub foreign: bool,
    pub counts: BTreeMap<Text, u64>,
    pub recorded: BTreeMap<Name, Vec<Vec<Value>>>,
}

/// What wires in audit mode have remembered.
fn recorded(table: &Table) -> impl Iterator<Item = (Name, Vec<Vec<Value>>)> {
    let would = table.sets.iter().filter_map(|(name, set)| Some((Name::new(name.strip_prefix("would.")?)?, set)));
    would.map(|(wire, set)| {
        let parts = |key: &Key| if let Key::Many(parts) = key { Some(parts.clone()) } else { None };
        (wire, set.elements.keys().filter_map(parts).collect())
    })
}

/// The first packet of a connection as the rules saw it: its destination already translated, its source not yet.
fn beginning(entry: &Entry) -> Option<Beginning> {
    let protocol = match entry.protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        ICMP => Protocol::Icmp,
        ICMPV6 => Protocol::Icmpv6,
        _ => return None,
    };
    let port = match (entry.original.part, entry.reply.part) {
        (_, Part::Ports { source, .. }) => source,
        (Part::Icmp { kind, .. }, _) => kind.into(),
        _ => return None,
    };
    Some(Beginning { from: entry.original.source, to: entry.reply.source, protocol, port })
}
