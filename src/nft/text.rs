//! A table in nft's words, as `nft list` prints it and `nft -f` loads it back to the very same expressions. What nft's language
//! cannot say stands in a line of its own that begins with `#`: left out, and seen to be left out. Pure.

use super::{Base, Chain, Element, Hook, Key, Kind, Leads, Rule, Set, TABLE, Table, Target, Type};
use raise::line;
use raw::raw_element;
use words::{bare, become_of_it, clean, host, range, say, time, type_name};

mod raise;
mod raw;
#[cfg(test)]
pub(crate) mod tests;
mod words;

/// What the names of a wire's own chains begin with, in the order in which they are read.
const OF_A_WIRE: [&str; 7] = ["in", "out", "through", "outside", "clients", "watched", "denied"];

/// A whole table: what it counts, its sets and maps, its base chains in the order of their hooks, and then the chains of each
/// wire together. Counters are without what they have counted (`nft -s`).
pub fn table(table: &Table) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    if table.dormant {
        text += "\tflags dormant\n";
    }
    text += &format!("\tcomment \"{TABLE}\"\n");
    // nft itself has an empty line there with flags and none without.
    let mut gap = if table.dormant { "\n" } else { "" };
    let mut block = |lines: &str| {
        text += gap;
        text += lines;
        gap = "\n";
    };
    for name in table.counters.keys() {
        block(&said(bare(name), &format!("\tcounter {} {{\n\t}}\n", clean(name))));
    }
    for (name, value) in &table.sets {
        block(&set(name, value));
    }
    let mut chains: Vec<_> = table.chains.iter().collect();
    let hooked = |chain: &Chain| chain.base.map(|base| (base.hook, base.priority));
    chains.sort_by_key(|(name, chain)| (chain.base.is_none(), hooked(chain), place(name)));
    for (name, value) in chains {
        block(&chain(name, value));
    }
    for name in &table.foreign {
        block(&format!("\t# not made by wire: {}\n", clean(name.name())));
    }
    text + "}\n"
}

/// One rule in nft's words, for messages; what nft has no words for is in brackets.
pub fn rule(rule: &Rule) -> String {
    line(rule).0
}

/// Where a chain that others jump to stands among its like: common ones first, then by wire.
fn place(name: &str) -> (&str, usize, &str) {
    let (kind, wire) = name.split_once('.').unwrap_or(("", ""));
    (wire, OF_A_WIRE.iter().position(|known| *known == kind).unwrap_or(OF_A_WIRE.len()), name)
}

/// Lines as they are, or where nft could not read them, each as a comment.
fn said(sayable: bool, lines: &str) -> String {
    if sayable {
        return lines.to_owned();
    }
    lines.lines().map(|line| format!("\t# {}\n", line.trim_start_matches(['\t', '#', ' ']))).collect()
}

fn chain(name: &str, chain: &Chain) -> String {
    let mut sayable = bare(name);
    let mut text = format!("\tchain {} {{\n", clean(name));
    if let Some(base) = chain.base {
        let (head, known) = head(base);
        sayable &= known;
        text += &format!("\t\t{head}\n");
    }
    for rule in &chain.rules {
        let (line, whole) = line(rule);
        text += &format!("\t\t{}{line}\n", if whole { "" } else { "# " });
    }
    said(sayable, &(text + "\t}\n"))
}

/// How a base chain begins, and whether nft can read that.
fn head(base: Base) -> (String, bool) {
    let kind = match base.kind {
        Kind::Filter => "filter",
        Kind::Nat => "nat",
        Kind::Other => "route",
    };
    let hook = match base.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
        Hook::Other => "of another family",
    };
    let priority = priority(base.hook, base.priority);
    let policy = if base.drop { "drop" } else { "accept" };
    (format!("type {kind} hook {hook} priority {priority}; policy {policy};"), base.hook != Hook::Other)
}

/// `enum nf_ip_hook_priorities` (linux/netfilter_ipv4.h), each where nft knows its name, and what is at most 10 from one.
fn priority(hook: Hook, priority: i32) -> String {
    let names = [
        ("raw", -300, true),
        ("mangle", -150, true),
        ("dstnat", -100, hook == Hook::Prerouting),
        ("filter", 0, true),
        ("security", 50, true),
        ("srcnat", 100, hook == Hook::Postrouting),
    ];
    let near = names.iter().find(|(_, at, here)| *here && priority.abs_diff(*at) <= 10);
    match near {
        Some((name, at, _)) if priority == *at => (*name).to_owned(),
        Some((name, at, _)) if priority > *at => format!("{name} + {}", priority.abs_diff(*at)),
        Some((name, at, _)) => format!("{name} - {}", priority.abs_diff(*at)),
        None => priority.to_string(),
    }
}

fn set(name: &str, set: &Set) -> String {
    let keys: Vec<&str> = set.key.iter().map(|of| type_name(*of)).collect();
    let mut sayable = bare(name) && !keys.is_empty() && !set.key.contains(&Type::Other);
    let (word, leads_to) = match set.leads_to {
        None => ("set", String::new()),
        Some(Leads::Verdict) => ("map", " : verdict".to_owned()),
        Some(Leads::Value(of)) => {
            sayable &= of != Type::Other;
            ("map", format!(" : {}", type_name(of)))
        }
    };
    let mut text = format!("\t{word} {} {{\n\t\ttype {}{leads_to}\n", clean(name), keys.join(" . "));
    if set.size > 0 {
        text += &format!("\t\tsize {}\n", set.size);
    }
    let flags = [(set.dynamic, "dynamic"), (set.interval, "interval"), (set.timeout, "timeout")];
    let flags: Vec<&str> = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).collect();
    if !flags.is_empty() {
        text += &format!("\t\tflags {}\n", flags.join(","));
    }
    if set.expiry > 0 {
        text += &format!("\t\ttimeout {}\n", time(set.expiry));
    }
    let (elements, left_out) = if set.dynamic { Default::default() } else { elements(set) };
    if !elements.is_empty() {
        // As many in a line as nft has there.
        let across = match set.key[..] {
            [Type::Protocol | Type::Service] => 5,
            [Type::Ipv4 | Type::CtState] => 2,
            _ => 1,
        };
        let lines: Vec<String> = elements.chunks(across).map(|some| some.join(", ")).collect();
        text += &format!("\t\telements = {{ {} }}\n", lines.join(",\n\t\t\t     "));
    }
    text.extend(left_out.iter().map(|element| format!("\t\t# {element}\n")));
    said(sayable, &(text + "\t}\n"))
}

/// The elements of a set in order, and those that nft cannot say.
fn elements(set: &Set) -> (Vec<String>, Vec<String>) {
    let mut all: Vec<_> = set.elements.iter().collect();
    if set.key == [Type::CtState] {
        all.sort_by_key(|(key, _)| match key {
            Key::One(value) => host(value),
            _ => None,
        });
    }
    let (mut elements, mut left_out) = (Vec::new(), Vec::new());
    for (key, value) in all {
        match element(set, key, value) {
            Some(words) => elements.push(words),
            None => left_out.push(raw_element(key, value)),
        }
    }
    (elements, left_out)
}

fn element(set: &Set, key: &Key, element: &Element) -> Option<String> {
    let mut text = match (key, &set.key[..]) {
        (Key::One(value), [of]) => say(*of, value)?,
        (Key::Range(first, last), [of]) => range(*of, first, last)?,
        (Key::Many(values), of) if values.len() == of.len() && of.len() > 1 => {
            let parts: Option<Vec<String>> = of.iter().zip(values).map(|(of, value)| say(*of, value)).collect();
            parts?.join(" . ")
        }
        _ => return None,
    };
    if let Some(seconds) = element.expires.filter(|seconds| *seconds > 0) {
        text += &format!(" timeout {}", time(seconds));
    }
    match (&element.leads_to, set.leads_to) {
        (None, None) => {}
        (Some(Target::Verdict(verdict)), Some(Leads::Verdict)) => text += &format!(" : {}", become_of_it(verdict)?),
        (Some(Target::Value(value)), Some(Leads::Value(of))) => text += &format!(" : {}", say(of, value)?),
        _ => return None,
    }
    Some(text)
}
