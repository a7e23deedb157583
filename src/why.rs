//! `wire why`: whether A may reach B, from the file alone, by which line or what stands in the way; and the sentences of
//! `wire check -v`. No system call and no rule: this says what the file means, `prove` says whether the kernel agrees.

mod denied;
pub mod dial;
pub mod grant;
mod question;

use serde::Serialize;

use crate::error::Error;
use crate::topology::{HOST, Name, Place, Protocol, Service, Topology};

use self::denied::{denied, handed_on};
use self::grant::{Grant, Party, is_idle, without_ipv6};
pub use self::grant::{is_for, may_use, opened_by, peers};
pub use self::question::question;

/// Whether A may reach B.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub allowed: bool,
    pub wire: Option<Name>,
    /// Where the flow stands that allows it, or the nearest wire or node that would have to change.
    pub line: Option<usize>,
    /// One sentence.
    pub reason: String,
    /// What to write to have it allowed, where something can be written.
    pub hint: Option<String>,
}

/// Every flow of a file as a sentence with its line, in the order of the file.
pub fn sentences(topology: &Topology) -> Vec<(usize, String)> {
    let grants = grant::all(topology);
    let mut lines: Vec<_> = grants.into_iter().filter_map(|grant| Some((grant.line?, grant.sentence))).collect();
    for hub in topology.hubs.values() {
        match (&hub.wireguard, &hub.clients) {
            (Some(wireguard), _) => {
                for peer in wireguard.peers.iter().filter(|peer| peer.allow.is_empty()) {
                    lines.push((peer.place.line, format!("VPN peer `{}` may reach nothing", peer.name)));
                }
            }
            (None, Some(clients)) => lines.push((
                hub.place.line,
                format!(
                    "VPN clients {} of `{}` may open what `{}` may over its wires",
                    clients.prefix, hub.name, hub.name
                ),
            )),
            (None, None) => {}
        }
    }
    if let Some(set) = topology.host.block.as_ref().and_then(|name| topology.sets.get(name)) {
        lines.push((set.place.line, format!("what comes from @{} is dropped before anything else", set.name)));
    }
    lines.sort_by_key(|(line, _)| *line);
    lines
}

/// What is reachable from outside, and where it ends.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Published {
    /// As dialled; none where everything is.
    pub flow: Option<String>,
    pub node: String,
    /// As it arrives there.
    pub arrives: Option<String>,
    /// The name that it is asked for by, with the path below which: of a site or a redirect.
    pub name: Option<String>,
    /// Who answers in the end: a node and its port, or where a redirect leads.
    pub ends_at: String,
    pub wire: Option<Name>,
    pub line: Option<usize>,
    /// One sentence with every condition.
    pub reason: String,
}

/// All that is reachable from outside.
pub fn published(topology: &Topology) -> Vec<Published> {
    let all = grant::all(topology).into_iter().filter(|grant| grant.from == Party::Outside);
    let mut published: Vec<Published> = all
        .filter_map(|grant| {
            let Party::Node(node) = grant.to else { return None };
            let flow = grant.service.as_ref().map(Service::to_string);
            let arrives = grant.arrives.as_ref().map(Service::to_string).or_else(|| flow.clone());
            let (wire, line) = (grant.wire.cloned(), grant.line);
            let (name, ends_at) = ending(topology, node, line, arrives.as_deref());
            Some(Published { flow, node: node.to_owned(), arrives, name, ends_at, wire, line, reason: grant.sentence })
        })
        .collect();
    published.sort_by_key(|published| published.line);
    published
}

/// By which name something is asked for, and who answers in the end: behind a proxy it is not the node that the packets go to.
fn ending(topology: &Topology, node: &str, line: Option<usize>, arrives: Option<&str>) -> (Option<String>, String) {
    let hub = topology.hubs.get(node);
    let is_here = |place: Place| Some(place.line) == line;
    if let Some(site) = hub.and_then(|hub| hub.sites.iter().find(|site| is_here(site.place))) {
        let name = format!("{}{}", site.host, site.path.as_deref().unwrap_or_default());
        return (Some(name), format!("{}:{}", site.to.node, site.to.port));
    }
    if let Some(redirect) = hub.and_then(|hub| hub.redirects.iter().find(|redirect| is_here(redirect.place))) {
        return (Some(redirect.host.clone()), redirect.to.clone());
    }
    let port = arrives.and_then(|arrives| Some(arrives.split_once('/')?.1));
    (None, port.map_or(node.to_owned(), |port| format!("{node}:{port}")))
}

/// Answers from the file whether `from` may open `service` (any flow at all where there is none) to `to`. Of a published port
/// both numbers are understood, the host's first.
pub fn answer(topology: &Topology, from: &str, to: &str, service: Option<&Service>) -> Result<Answer, Error> {
    let (a, b) = (question::party(topology, from)?, question::party(topology, to)?);
    if a == b {
        return Ok(same(from, to, a));
    }
    let grants = grant::all(topology);
    let mut between: Vec<&Grant> = grants.iter().filter(|grant| (grant.from, grant.to) == (a, b)).collect();
    between.retain(|grant| !is_idle(topology, grant));
    // What asks for less says more about why it is allowed.
    between.sort_by_key(|grant| grant.conditional);
    if (a, b) == (Party::Outside, Party::Node(HOST)) && handed_on(&grants, service).is_some() {
        between.clear();
    }

    // Without IPv6 nothing of it passes, not even where anything may.
    if service.is_some_and(|service| service.protocol == Protocol::Icmpv6) && without_ipv6(topology, a, b).is_some() {
        between.clear();
    }

    let dialled = covering(&between, service, |grant| grant.service.as_ref());
    let ending = || covering(&between, service, |grant| grant.arrives.as_ref().or(grant.service.as_ref()));
    let mut answer = match dialled.or_else(ending) {
        Some(used) => allowed(topology, a, &used),
        None => denied(topology, a, b, service, &grants),
    };
    for (asked, party) in [(from, a), (to, b)] {
        if let Party::Node(owner) = party
            && asked != owner
        {
            answer.reason = format!("`{asked}` lives in the namespace of `{owner}`; {}", answer.reason);
        }
    }
    Ok(answer)
}

/// The grants that together hold all of what is asked, or none where something is left over.
fn covering<'g, 'a>(
    grants: &[&'g Grant<'a>],
    asked: Option<&Service>,
    side: impl Fn(&'g Grant<'a>) -> Option<&'g Service>,
) -> Option<Vec<&'g Grant<'a>>> {
    let Some(asked) = asked else {
        return (!grants.is_empty()).then(|| grants.to_vec());
    };
    let mut rest = Some(asked.clone());
    let mut used = Vec::new();
    for &grant in grants {
        let Some(open) = &rest else { break };
        match side(grant) {
            Some(service) if !service.overlaps(open) => {}
            Some(service) => {
                let left = without(open, service);
                if left.as_ref() != Some(open) {
                    used.push(grant);
                }
                rest = left;
            }
            None => {
                used.push(grant);
                rest = None;
            }
        }
    }
    rest.is_none().then_some(used)
}

/// What of `asked` is not in `granted`.
fn without(asked: &Service, granted: &Service) -> Option<Service> {
    if granted.covers(asked) {
        return None;
    }
    if asked.protocol != granted.protocol || asked.ports.is_empty() {
        return Some(asked.clone());
    }
    let mut ports = asked.ports.clone();
    for &(low, high) in &granted.ports {
        let below = |&(a, b): &(u16, u16)| (a < low).then(|| (a, b.min(low - 1)));
        let above = |&(a, b): &(u16, u16)| (b > high).then(|| (a.max(high + 1), b));
        ports = ports.iter().flat_map(|range| [below(range), above(range)]).flatten().collect();
    }
    (!ports.is_empty()).then(|| Service { ports, ..asked.clone() })
}

fn allowed(topology: &Topology, from: Party, used: &[&Grant]) -> Answer {
    let mut reason = used.iter().map(|grant| grant.sentence.as_str()).collect::<Vec<_>>().join("; ");
    if let (Party::Outside, Some(block)) = (from, &topology.host.block) {
        reason += &format!(", unless it comes from @{block}");
    }
    let first = used.first();
    Answer {
        allowed: true,
        wire: first.and_then(|grant| grant.wire.cloned()),
        line: first.and_then(|grant| grant.line),
        reason,
        hint: None,
    }
}

/// Two names for one place: what stays inside a namespace never meets a wire.
fn same(from: &str, to: &str, party: Party) -> Answer {
    let (allowed, reason) = match party {
        Party::Outside => {
            (false, "what comes in on an uplink does not leave by one: `wire` forwards nothing there".to_owned())
        }
        _ if from == to => (true, format!("{party} reaches itself over its own loopback, which no wire polices")),
        _ => (true, format!("`{from}` and `{to}` share a namespace and meet on its loopback, which no wire polices")),
    };
    Answer { allowed, wire: None, line: None, reason, hint: None }
}

#[cfg(test)]
mod tests;
