//! `wire number`: writes the lowest free subnet of the right pool into the text for every wire that has none, and touches
//! nothing else of it. A file with any other fault is not numbered.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::error::Fault;
use crate::topology::{HOST, Name};

use super::check::Check;
use super::draft::{Draft, Wire};
use super::tree::Page;
use super::{read, topology};

/// A text, and the subnets that were written into it.
pub type Numbered = (String, Vec<(Name, Ipv4Network)>);

/// The text with every wire's subnet in it, and which were written; nothing is changed where one cannot be found.
pub fn number(text: &str) -> Result<Numbered, Vec<Fault>> {
    let (text, numbered) = read(text, |page, draft| {
        let check = Check::whole(page, draft);
        if !page.is_clean() {
            return None;
        }
        let mut free = Free::of(draft);
        let mut text = text.to_owned();
        let mut numbered = Vec::new();
        let mut lines = Vec::new();
        for (wire, ends) in check.wires().filter(|(wire, _)| wire.hole) {
            let subnet = pool(page, draft, wire, ends).and_then(|(pool, owner)| free.take(page, wire, pool, &owner));
            let (Some(subnet), Some(name)) = (subnet, &wire.name) else { continue };
            numbered.push((name.it.clone(), subnet));
            lines.push(insertion(page.text, wire, subnet));
        }
        // From the end of the text to its beginning, so that what is still to come stays where it was.
        lines.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (at, line) in lines {
            text.insert_str(at, &line);
        }
        Some((text, numbered))
    })?;
    topology(&text)?;
    Ok((text, numbered))
}

/// The pool a wire's subnet comes from, and what messages call it.
fn pool(page: &Page, draft: &Draft, wire: &Wire, ends: [&str; 2]) -> Option<(Ipv4Network, String)> {
    let hubs: Vec<_> = draft.hubs.iter().filter(|hub| ends.contains(&hub.name.it.as_str())).collect();
    let (pool, owner, hint) = match hubs[..] {
        _ if ends.contains(&HOST) => (draft.pool.host, "`host` below [pool]".to_owned(), "host = \"192.168.96.0/20\""),
        [hub] => (hub.pool, format!("`pool` below [hub.{}]", hub.name.it), "pool = \"10.1.0.0/16\""),
        _ => (draft.pool.direct, "`direct` below [pool]".to_owned(), "direct = \"10.254.0.0/16\""),
    };
    if pool.is_none() {
        let message = format!("{}: its subnet comes from {owner}, which is not there", wire.what);
        page.fault(wire.place, message, format!("add `{hint}`, or write a `subnet` yourself"));
    }
    Some((pool?, owner))
}

/// The addresses that are taken, as first and last of each network; none overlaps another, which `check` has seen to.
struct Free {
    taken: BTreeMap<u32, u32>,
}

impl Free {
    fn of(draft: &Draft) -> Free {
        let subnets = draft.wires.iter().filter_map(|wire| Some(wire.subnet.as_ref()?.it));
        let clients = draft.hubs.iter().filter_map(|hub| match hub.clients.as_ref()?.it.prefix {
            IpNetwork::V4(prefix) => Some(prefix),
            IpNetwork::V6(_) => None,
        });
        let taken = subnets.chain(clients).map(|net| (net.network().into(), net.broadcast().into()));
        Free { taken: taken.collect() }
    }

    /// The lowest /31 of a pool that nothing else overlaps.
    fn take(&mut self, page: &Page, wire: &Wire, pool: Ipv4Network, owner: &str) -> Option<Ipv4Network> {
        let last = u32::from(pool.broadcast());
        let mut first = Some(u32::from(pool.network()));
        while let Some(address) = first.filter(|first| *first < last) {
            match self.taken.range(..=address + 1).next_back() {
                // Every network here ends at an odd address, so that a /31 may begin behind it.
                Some((_, end)) if *end >= address => first = end.checked_add(1),
                _ => {
                    self.taken.insert(address, address + 1);
                    return Ipv4Network::new(Ipv4Addr::from(address), 31).ok();
                }
            }
        }
        let message = format!("{}: {owner} is full: {pool} has no free /31 left", wire.what);
        page.fault(wire.place, message, "make the pool wider, or write a `subnet` yourself");
        None
    }
}

/// Where a wire's subnet goes, and in which words: behind `ends`, as the wire itself is written.
fn insertion(text: &str, wire: &Wire, subnet: Ipv4Network) -> (usize, String) {
    let key = format!("subnet = \"{subnet}\"");
    let Some((before, after)) = text.split_at_checked(wire.ends_span.end) else { return (text.len(), String::new()) };
    if wire.inline {
        return (before.len(), format!(", {key}"));
    }
    let line = &after[..after.find('\n').unwrap_or(after.len())];
    let (line, newline) = match line.strip_suffix('\r') {
        Some(line) => (line, "\r\n"),
        None if after.contains('\n') || !text.contains("\r\n") => (line, "\n"),
        None => (line, "\r\n"),
    };
    let start = text[..wire.ends_span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let indent: String = text[start..].chars().take_while(|c| matches!(c, ' ' | '\t')).collect();
    (before.len() + line.len(), format!("{newline}{indent}{key}"))
}
