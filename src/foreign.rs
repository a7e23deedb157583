//! Tables that are not wire's: of Docker, podman, firewalld, ufw and whoever else has rules in a namespace. They stay as they
//! are. But a packet must pass the base chains of every table, and an accept in wire's does not help where another drops: so the
//! first packet of everything that the file lets begin is sent through them on paper, and its answer too. Pure.
//!
//! Only what is certain is said: a rule that cannot be judged may as well let the packet pass.

use std::collections::BTreeSet;

use crate::nft::build::NEW;
use crate::nft::others::{Chain, Step, Table};
use crate::nft::{self, Base, Hook, Kind};
use crate::plan::Finding;
use crate::rules::Rules;
use crate::state::{Namespace, State};
use crate::target::Scope;
use crate::topology::Name;

mod line;
mod packet;
mod run;
#[cfg(test)]
mod tests;

use self::line::Line;
pub use self::packet::Packet;
use self::packet::{Probe, Sets};
use self::run::{Outcome, Place};

/// The kinds of what is found here.
pub const KINDS: [&str; 2] = ["foreign-drop", "foreign-dnat"];

/// A base chain of a table.
#[derive(Clone, Copy)]
struct Chosen<'a> {
    table: &'a Table,
    chain: &'a str,
    base: Base,
}

impl Chosen<'_> {
    /// Whether it may give what is published another destination before wire does: wire's own chain has this priority.
    fn comes_before_wire(&self) -> bool {
        let Base { kind, hook, priority, .. } = self.base;
        kind == Kind::Nat && hook == Hook::Prerouting && priority <= -100
    }
}

/// What one base chain does to what the file allows.
#[derive(Default)]
struct Done {
    place: Option<Place>,
    /// What of the file it does it to, in the file's words and order.
    flows: Vec<String>,
    wires: BTreeSet<Name>,
    /// Whether it does it to answers alone.
    answers: bool,
    lines: Vec<Line>,
}

impl Done {
    fn note(&mut self, probe: &Probe, place: Place, answer: bool, lines: Vec<Line>) {
        self.answers = answer && (self.answers || self.flows.is_empty());
        self.place.get_or_insert(place);
        let comment = &probe.passage.opening.comment;
        if !self.flows.contains(comment) {
            self.flows.push(comment.clone());
        }
        self.wires.extend(probe.passage.wire.clone());
        lines.into_iter().for_each(|line| line.join(&mut self.lines));
    }

    /// The wire, where it is one alone.
    fn wire(&self) -> Option<Name> {
        self.wires.first().filter(|_| self.wires.len() == 1).cloned()
    }

    /// The first few of what it is about.
    fn flows(&self) -> String {
        const SAID: usize = 3;
        let said: Vec<String> = self.flows.iter().take(SAID).map(|flow| format!("`{flow}`")).collect();
        match self.flows.len().saturating_sub(SAID) {
            0 => said.join(", "),
            more => format!("{} and {more} more", said.join(", ")),
        }
    }
}

/// Whether a packet to or from a namespace may pass wire's own rules there: none stops it for certain, nor hands it on.
pub fn passes(own: &nft::Table, hook: Hook, packet: &Packet) -> bool {
    let mut table = Table { sets: own.sets.clone(), ..Table::default() };
    for (name, chain) in &own.chains {
        let rule = |rule: &nft::Rule| rule.expressions.iter().cloned().map(Step::Known).collect();
        table.chains.insert(name.clone(), Chain { base: chain.base, rules: chain.rules.iter().map(rule).collect() });
    }
    let comes_by = |base: &Base| match base.kind {
        // Asked of a connection's first packet alone.
        Kind::Nat => hook == Hook::Input && base.hook == Hook::Prerouting && packet.state == NEW,
        _ => base.hook == hook,
    };
    let chains = table.chains.iter().filter(|(_, chain)| chain.base.as_ref().is_some_and(comes_by));
    let mut outcomes = chains.map(|(name, _)| run::base(&table, name, packet));
    outcomes.all(|outcome| outcome.clone().dropped().is_none() && outcome.translated().is_none())
}

/// What other people's tables do to what the file lets pass over the wires in scope that are there.
pub fn findings(rules: &Rules, scope: &Scope, seen: &State) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, namespace) in &seen.namespaces {
        if !namespace.foreign.tables.is_empty() {
            findings.extend(of_node(rules, scope, node, namespace));
        }
    }
    findings
}

fn of_node(rules: &Rules, scope: &Scope, node: &Name, seen: &Namespace) -> Vec<Finding> {
    let mut bases: Vec<(Chosen, Done, Done)> = Vec::new();
    for table in &seen.foreign.tables {
        for (chain, value) in &table.chains {
            let chosen = value.base.map(|base| Chosen { table, chain, base });
            bases.extend(chosen.map(|chosen| (chosen, Done::default(), Done::default())));
        }
    }
    let sets = Sets::of(rules);
    let there = |wire: &Name| scope.wires.contains(wire) && seen.ends.contains_key(wire);
    for passage in rules.passages(node) {
        if !passage.wire.as_ref().map_or(scope.everything, there) {
            continue;
        }
        for probe in Probe::of(&sets, &passage, &seen.foreign.indexes) {
            for (chosen, drops, takes) in &mut bases {
                for answer in [false, true] {
                    let packets = probe.packets(&chosen.base, answer);
                    if let Some(place) = certain(chosen, &packets, Outcome::dropped) {
                        let lines = Line::of(chosen, &probe, &packets, &place.chain);
                        drops.note(&probe, place, answer, lines);
                    }
                }
                if chosen.comes_before_wire() && passage.opening.handed_on.is_some() {
                    let packets = probe.packets(&chosen.base, false);
                    if let Some(place) = certain(chosen, &packets, Outcome::translated) {
                        takes.note(&probe, place, false, Vec::new());
                    }
                }
            }
        }
    }
    let mut findings = Vec::new();
    for (chosen, drops, takes) in &bases {
        findings.extend(drops.place.as_ref().map(|place| dropped(node, chosen, drops, place)));
        findings.extend(takes.place.as_ref().map(|place| taken(node, chosen, takes, place)));
    }
    findings
}

/// What becomes of all of these packets in a base chain, if it is the same for each and certain.
fn certain(chosen: &Chosen, packets: &[Packet], what: fn(Outcome) -> Option<Place>) -> Option<Place> {
    let of = |packet: &Packet| {
        chosen.table.family.has(packet.ipv4).then(|| run::base(chosen.table, chosen.chain, packet)).and_then(what)
    };
    let (first, others) = packets.split_first()?;
    let place = of(first)?;
    others.iter().all(|packet| of(packet).is_some()).then_some(place)
}

/// Where something is done, as part of a sentence.
fn place_of(chosen: &Chosen, place: &Place) -> String {
    match place.rule {
        None => ", by its policy".to_owned(),
        Some(rule) if &*place.chain == chosen.chain => format!(", by its rule {rule}"),
        Some(_) => format!(", in `{}`", clean(&place.chain)),
    }
}

fn dropped(node: &Name, chosen: &Chosen, done: &Done, place: &Place) -> Finding {
    let Chosen { table, chain, .. } = chosen;
    let what = if done.answers { "the answers to what the file allows" } else { "what the file allows" };
    let message = format!(
        "chain `{}` of somebody else's table `{} {}` at {node} drops {what}{}: {}",
        clean(chain),
        table.family.as_str(),
        clean(&table.name),
        place_of(chosen, place),
        done.flows(),
    );
    let lines: String = line::words(&done.lines).iter().map(|line| format!("\n    {line}")).collect();
    let hint = match lines.is_empty() {
        true => "a packet must pass every table: its owner must let these pass there".to_owned(),
        false if node.is_host() => format!("a packet must pass every table: the owner of this one must add{lines}"),
        false => format!("a packet must pass every table: the owner of this one must add, at {node}{lines}"),
    };
    Finding { node: node.clone(), wire: done.wire(), kind: KINDS[0], message, hint, blocks: false }
}

fn taken(node: &Name, chosen: &Chosen, done: &Done, place: &Place) -> Finding {
    let Chosen { table, chain, base } = chosen;
    let which = match base.priority {
        -100 => "only one of the two gets it",
        _ => "it comes first",
    };
    let message = format!(
        "chain `{}` of somebody else's table `{} {}` at {node} hands on what the file publishes{}, and {which}: {}",
        clean(chain),
        table.family.as_str(),
        clean(&table.name),
        place_of(chosen, place),
        done.flows(),
    );
    let hint = "publish it by another port there, or by another in the file".to_owned();
    Finding { node: node.clone(), wire: done.wire(), kind: KINDS[1], message, hint, blocks: false }
}

/// A name that somebody else gave, fit to be shown.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() && c != '`' { c } else { '?' }).collect()
}
