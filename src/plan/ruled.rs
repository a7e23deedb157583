//! What of a namespace's rules is not as it is to be, in words: by chain, rule and set, so that whatever somebody did to them is
//! named, and one change that puts all of it right.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Action, Load, Plan};
use crate::nft::{Chain, Key, Rule, Set, Table, Type, Value, text};
use crate::rules::UNFINISHED;
use crate::state::Namespace;
use crate::topology::Name;

/// One thing that is not as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The wire whose rules it is among.
    pub wire: Option<Name>,
    /// One sentence.
    pub what: String,
}

/// Of more differences than these the rest is only counted.
const SAID: usize = 8;

impl Plan {
    /// The change that makes the rules of a namespace what they are to be.
    pub(super) fn rules(&mut self, node: &Name, wanted: &Namespace, seen: &Namespace) {
        let (table, differences) = match (&wanted.table, &seen.table) {
            (None, None) => return,
            (None, Some(_)) => {
                return self.change(node, None, Action::Unload, "no wire is left that they would police");
            }
            (Some(table), None) => {
                let what = "there are none of wire's".to_owned();
                (table, vec![Difference { wire: None, what }])
            }
            (Some(table), Some(seen)) if table == seen => return,
            (Some(table), Some(seen)) => (table, differences(table, seen)),
        };
        let Some(first) = differences.first() else { return };
        let reason = match differences.len() - 1 {
            0 => first.what.clone(),
            more => format!("{}, and {more} more", first.what),
        };
        let (table, openings) = (table.clone(), wanted.openings.clone());
        self.change(node, None, Action::Load(Box::new(Load { table, openings, differences })), reason);
    }
}

/// What stands between two tables. Counts, and what packets put into sets, are no difference.
fn differences(wanted: &Table, seen: &Table) -> Vec<Difference> {
    let mut found = Found(Vec::new());
    if seen.dormant {
        found.say("table", "the whole table is switched off (dormant)".to_owned());
    }
    for foreign in &seen.foreign {
        let name = foreign.name();
        found.say(name, format!("`{name}` in the table is not wire's"));
    }
    for name in names(wanted.chains.keys(), seen.chains.keys()) {
        match (wanted.chains.get(name), seen.chains.get(name)) {
            (Some(_), None) => found.say(name, format!("chain {name} is missing")),
            (None, Some(_)) => found.say(name, format!("chain {name} is not wire's, or not wanted any more")),
            (Some(wanted), Some(seen)) => found.chain(name, wanted, seen),
            (None, None) => {}
        }
    }
    for name in names(wanted.sets.keys(), seen.sets.keys()) {
        match (wanted.sets.get(name), seen.sets.get(name)) {
            (Some(_), None) => found.say(name, format!("set {name} is missing")),
            (None, Some(_)) => found.say(name, format!("set {name} is not wire's, or not wanted any more")),
            (Some(wanted), Some(seen)) => found.set(name, wanted, seen),
            (None, None) => {}
        }
    }
    for name in names(wanted.counters.keys(), seen.counters.keys()) {
        match (wanted.counters.contains_key(name), seen.counters.contains_key(name)) {
            (true, false) => found.say(name, format!("counter {name} is missing")),
            (false, true) if name == UNFINISHED => {
                found.say(name, "connections may be left that nothing lets begin any more".to_owned());
            }
            (false, true) => found.say(name, format!("counter {name} is not wire's, or not wanted any more")),
            _ => {}
        }
    }
    found.0
}

fn names<'a, T: AsRef<str> + ?Sized + 'a>(
    one: impl Iterator<Item = &'a T>,
    other: impl Iterator<Item = &'a T>,
) -> BTreeSet<&'a str> {
    one.chain(other).map(AsRef::as_ref).collect()
}

struct Found(Vec<Difference>);

impl Found {
    /// Chains, sets and counters of a wire are called by a word, a dot and the wire's name.
    fn say(&mut self, name: &str, what: String) {
        const OF_WIRES: [&str; 8] = ["in", "out", "through", "outside", "clients", "denied", "watched", "would"];
        let of_wire = name.split_once('.').filter(|(word, _)| OF_WIRES.contains(word));
        let wire = of_wire.and_then(|(_, wire)| Name::new(wire));
        self.0.push(Difference { wire, what });
    }

    fn chain(&mut self, name: &str, wanted: &Chain, seen: &Chain) {
        if wanted.base != seen.base {
            self.say(name, format!("chain {name} is not entered where it must be, or its policy is another"));
        }
        if wanted.rules == seen.rules {
            return;
        }
        let mut left: Vec<&Rule> = seen.rules.iter().collect();
        let mut missing = Vec::new();
        for rule in &wanted.rules {
            match left.iter().position(|other| *other == rule) {
                Some(place) => drop(left.remove(place)),
                None => missing.push(rule),
            }
        }
        if missing.is_empty() && left.is_empty() {
            self.say(name, format!("the rules of chain {name} are not in their order"));
        }
        for rule in missing.iter().take(SAID) {
            self.say(name, format!("chain {name} lacks the rule `{}`", text::rule(rule)));
        }
        for rule in left.iter().take(SAID) {
            self.say(name, format!("chain {name} has the rule `{}`, which is not to be there", text::rule(rule)));
        }
    }

    fn set(&mut self, name: &str, wanted: &Set, seen: &Set) {
        let shape = |set: &Set| Set { elements: [].into_iter().collect(), ..set.clone() };
        if shape(wanted) != shape(seen) {
            self.say(name, format!("set {name} is of another kind"));
            return;
        }
        if wanted.dynamic {
            return;
        }
        let mut said = 0;
        let mut say = |what: String| {
            said += 1;
            if said <= SAID {
                self.say(name, what);
            }
        };
        for (key, element) in &wanted.elements {
            match seen.elements.get(key) {
                None => say(format!("set {name} lacks {}", words(wanted, key))),
                Some(seen) if element != seen => say(format!("{} in set {name} is another", words(wanted, key))),
                Some(_) => {}
            }
        }
        for key in seen.elements.keys().filter(|key| !wanted.elements.contains_key(*key)) {
            say(format!("set {name} has {}, which is not to be there", words(wanted, key)));
        }
    }
}

fn words(of: &Set, key: &Key) -> String {
    let value = |value: &Value| {
        let bytes = value.as_bytes();
        let address = match bytes.len() {
            4 => bytes.try_into().ok().map(|four: [u8; 4]| Ipv4Addr::from(four).to_string()),
            _ => bytes.try_into().ok().map(|all: [u8; 16]| Ipv6Addr::from(all).to_string()),
        };
        let device = || String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        address.filter(|_| of.key != [Type::IfName]).unwrap_or_else(device)
    };
    match key {
        Key::One(one) => value(one),
        Key::Range(first, last) if first == last => value(first),
        Key::Range(first, last) => format!("{}-{}", value(first), value(last)),
        Key::Many(parts) => parts.iter().map(value).collect::<Vec<String>>().join(" . "),
    }
}
