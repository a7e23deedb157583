//! What stands in the way where the file allows nothing: one sentence, the nearest line that would have to change, and what to
//! write there. Asked only after the grants were searched in vain; never decides whether something is allowed.

use std::collections::BTreeSet;

use crate::topology::{HOST, Hub, Name, OUTSIDE, Peer, Protocol, Service, Topology, Wire};

use super::grant::{Grant, Party, is_for, is_idle, may_use, opened_by, way_out, without_ipv6};
use super::{Answer, same};

/// What stands in the way, and the nearest line that would have to change.
pub fn denied(topology: &Topology, a: Party, b: Party, service: Option<&Service>, grants: &[Grant]) -> Answer {
    for party in [a, b] {
        if let Party::Node(node) = party
            && let Some(answer) = bare(topology, node)
        {
            return answer;
        }
    }
    if service.is_some_and(|service| service.protocol == Protocol::Icmpv6)
        && let Some(wire) = without_ipv6(topology, a, b)
    {
        return no(format!("wire `{}` has no IPv6", wire.name))
            .on(&wire.name)
            .at(Some(wire.place.line))
            .hint("add `subnet6 = \"fd00::/127\"` to it");
    }
    let asked = |grant: &&Grant| {
        let covers = |open: &Service| service.is_none_or(|service| open.overlaps(service));
        (grant.from, grant.to) == (a, b) && grant.service.as_ref().is_some_and(covers)
    };
    if let Some(grant) = grants.iter().filter(asked).find(|grant| is_idle(topology, grant)) {
        let why = match (b, without_ipv6(topology, a, b)) {
            (Party::Outside, Some(wire)) => format!("wire `{}` has no IPv6", wire.name),
            _ => "nobody has such an address there".to_owned(),
        };
        let answer = no(format!("{}, but {why}", grant.sentence)).at(grant.line);
        return grant.wire.into_iter().fold(answer, Answer::on);
    }
    match (a, b) {
        (Party::Peer(hub, peer), _) => from_peer(topology, hub, peer, b, service),
        (_, Party::Peer(_, peer)) => {
            no(format!("nothing opens connections to VPN peer `{}`, only replies to its own go there", peer.name))
        }
        (Party::Node(node), Party::Outside) => no_egress(topology, node, service, grants),
        (Party::Outside, Party::Node(HOST)) => shut_host(topology, service, grants),
        (Party::Outside, Party::Node(node)) => unpublished(topology, node, service, grants),
        (Party::Node(from), Party::Node(to)) => between(topology, from, to, service),
        (Party::Outside, Party::Outside) => same(OUTSIDE, OUTSIDE, a),
    }
}

fn no(reason: impl Into<String>) -> Answer {
    Answer { allowed: false, wire: None, line: None, reason: reason.into(), hint: None }
}

impl Answer {
    fn at(self, line: Option<usize>) -> Answer {
        Answer { line, ..self }
    }

    fn on(self, wire: &Name) -> Answer {
        Answer { wire: Some(wire.clone()), ..self }
    }

    fn hint(self, hint: impl Into<String>) -> Answer {
        Answer { hint: Some(hint.into()), ..self }
    }
}

/// A node with nothing but its loopback.
fn bare(topology: &Topology, node: &str) -> Option<Answer> {
    let node = topology.nodes.get(node)?;
    let reason = if node.network_none {
        format!("`{}` has `network = \"none\"`: there is nothing but its loopback", node.name)
    } else if topology.wires_of(node.name.as_str()).next().is_none() {
        format!("no wire ends in `{}`: there is nothing but its loopback", node.name)
    } else {
        return None;
    };
    Some(no(reason).at(Some(node.place.line)))
}

/// The grant that hands a port of the host on to a node, whoever asks for it.
pub fn handed_on<'g, 'a>(grants: &'g [Grant<'a>], service: Option<&Service>) -> Option<&'g Grant<'a>> {
    let service = service?;
    let whole = |grant: &&Grant| !grant.conditional && grant.service.as_ref().is_some_and(|held| held.covers(service));
    let from_outside = |grant: &&Grant| grant.from == Party::Outside && grant.to != Party::Node(HOST);
    grants.iter().filter(from_outside).find(whole)
}

fn shut_host(topology: &Topology, service: Option<&Service>, grants: &[Grant]) -> Answer {
    if let (Some(grant), Some(service)) = (handed_on(grants, service), service) {
        let answer = no(format!("{service} does not end at the host: {}", grant.sentence)).at(grant.line);
        let Party::Node(node) = grant.to else { return answer };
        let answer = grant.wire.into_iter().fold(answer, Answer::on);
        return answer.hint(format!("ask `wire why outside {node}:{service}`"));
    }
    let open = listed(topology.host.allow.iter().map(|flow| &flow.flow));
    let line = topology.host.allow.first().map(|flow| flow.place.line);
    no(format!("with `policy = \"all\"` the host lets in {open}, and what IPv6 and DHCP live by"))
        .at(line)
        .hint(format!("add \"{}\" to `allow` of [host]", example(service)))
}

fn no_egress(topology: &Topology, node: &str, service: Option<&Service>, grants: &[Grant]) -> Answer {
    let own: Vec<_> = grants.iter().filter(|g| (g.from, g.to) == (Party::Node(node), Party::Outside)).collect();
    let place = topology.nodes.get(node).map(|node| node.place.line);
    let line = own.first().map_or(place, |grant| grant.line);
    let mut reason = match own.is_empty() {
        true => format!("`{node}` has no `egress`, so it opens nothing to the outside"),
        false => format!("`{node}` may open {} to the outside", listed(own.iter().filter_map(|g| g.service.as_ref()))),
    };
    if way_out(topology, node).is_empty() {
        reason += ", and none of its wires leads there";
    }
    no(reason).at(line).hint(format!("add \"{}\" to `egress` of [node.{node}]", example(service)))
}

/// Outside to a node that nothing of the host's is handed to, or not this.
fn unpublished(topology: &Topology, node: &str, service: Option<&Service>, grants: &[Grant]) -> Answer {
    let flow = example(service);
    if let (Some(hub), Some(service)) = (topology.hubs.get(node), service)
        && let Some(forward) = hub.forwards.iter().find(|forward| forward.port.overlaps(service))
    {
        return no(format!("`{node}` forwards {} to `{}`, it does not end there", forward.port, forward.to.node))
            .at(Some(forward.place.line))
            .hint(format!("ask `wire why outside {}:{service}`", forward.to.node));
    }
    let host_wire = topology.wires_of(node).find(|(wire, end)| wire.far(*end).node.is_host()).map(|(wire, _)| wire);
    let own: Vec<_> = grants.iter().filter(|g| (g.from, g.to) == (Party::Outside, Party::Node(node))).collect();
    if let Some(first) = own.first() {
        let mut open: Vec<_> = own.iter().filter_map(|grant| grant.service.as_ref()).collect();
        open.dedup();
        let answer = no(format!("of the host's ports {} at `{node}`", ends(&open))).at(first.line);
        let answer = first.wire.into_iter().fold(answer, Answer::on);
        return match host_wire {
            Some(wire) => answer.hint(format!("add \"{flow}\" to `publish` of wire `{}`", wire.name)),
            None => answer,
        };
    }
    if let Some(wire) = host_wire {
        return no(format!("wire `{}` publishes nothing of `{node}`", wire.name))
            .on(&wire.name)
            .at(Some(wire.place.line))
            .hint(format!("add `publish = [\"{flow}\"]` to wire `{}`", wire.name));
    }
    let sites = topology.hubs.values().flat_map(|hub| hub.sites.iter().map(move |site| (hub, site)));
    let mut passed_on = sites.filter(|(_, site)| topology.namespace_of(&site.to.node).as_str() == node);
    if let Some((hub, site)) = passed_on.next() {
        let to = format!("`{}:{}`", site.to.node, site.to.port);
        return no(format!("the outside ends at `{}`, whose site {} passes requests on to {to}", hub.name, site.host))
            .at(Some(site.place.line))
            .hint(format!("ask `wire why outside {}:tcp/443`", hub.name));
    }
    let line = topology.nodes.get(node).map(|node| node.place.line);
    match hubs_of(topology, node).first() {
        Some((hub, wire)) => {
            no(format!("no wire joins `{node}` to the host, and `{}` forwards nothing to it", hub.name))
                .on(&wire.name)
                .at(Some(wire.place.line))
                .hint(format!(
                    "let the proxy or VPN of `{}` speak for it, or give it a [[hub.{}.forward]]",
                    hub.name, hub.name
                ))
        }
        None => no(format!("no wire joins `{node}` to the host"))
            .at(line)
            .hint(new_wire(topology, HOST, node, "publish", &flow)),
    }
}

/// Two namespaces: a wire without the flow, or no wire.
fn between(topology: &Topology, from: &str, to: &str, service: Option<&Service>) -> Answer {
    let wires: Vec<_> = topology.wires_of(from).filter(|(wire, end)| wire.far(*end).node.as_str() == to).collect();
    let Some(&(wire, end)) = wires.first() else {
        return apart(topology, from, to, service);
    };
    let hint = add(service, wire, end);
    if let Some(service) = service {
        for (wire, end) in &wires {
            if let Some(flow) = opened_by(wire, 1 - end).iter().find(|flow| flow.flow.overlaps(service)) {
                let reason = format!(
                    "{} goes the other way over wire `{}`: only `{to}` may open it to `{from}`",
                    flow.flow, wire.name
                );
                return no(reason).on(&wire.name).at(Some(flow.place.line)).hint(hint);
            }
        }
        let publish =
            |wire: &Wire| wire.publish.iter().find(|publish| publish.flow.overlaps(service)).map(|p| p.place.line);
        if let (HOST, Some(line)) = (from, publish(wire)) {
            let reason = format!(
                "wire `{}` publishes {service} for the outside, the host's own connections need a flow",
                wire.name
            );
            return no(reason).on(&wire.name).at(Some(line)).hint(hint);
        }
    }
    let held: Vec<_> = wires.iter().flat_map(|(wire, end)| opened_by(wire, *end)).collect();
    let open = listed(held.iter().map(|flow| &flow.flow));
    let names = wires.iter().map(|(wire, _)| format!("`{}`", wire.name)).collect::<Vec<_>>().join(" and ");
    let (word, verb) = if wires.len() == 1 { ("wire", "lets") } else { ("wires", "let") };
    no(format!("{word} {names} {verb} `{from}` open {open} to `{to}`"))
        .on(&wire.name)
        .at(Some(held.first().map_or(wire.place.line, |flow| flow.place.line)))
        .hint(hint)
}

/// Two namespaces that no wire joins.
fn apart(topology: &Topology, from: &str, to: &str, service: Option<&Service>) -> Answer {
    let (ours, theirs) = (hubs_of(topology, from), hubs_of(topology, to));
    let shared = ours.iter().find(|(hub, _)| theirs.iter().any(|(other, _)| other.name == hub.name));
    let (zones, others) = (zones_of(topology, from), zones_of(topology, to));
    let line = [from, to].iter().find_map(|node| topology.nodes.get(*node)).map(|node| node.place.line);
    let hint = new_wire(topology, from, to, "allow", &example(service));
    if let Some((hub, wire)) = shared {
        let reason =
            format!("`{from}` and `{to}` meet only in `{}`, which passes nothing from one to the other", hub.name);
        return no(reason).on(&wire.name).at(Some(wire.place.line)).hint(hint);
    }
    if !zones.is_empty() && !others.is_empty() && zones.is_disjoint(&others) {
        let words = |zones: &BTreeSet<&Name>| zones.iter().map(|zone| zone.as_str()).collect::<Vec<_>>().join(" and ");
        let reason = format!("`{from}` is {}, `{to}` is {}, and no wire joins them", words(&zones), words(&others));
        return no(reason).at(line).hint(hint);
    }
    no(format!("no wire joins `{from}` and `{to}`")).at(line).hint(hint)
}

fn from_peer(topology: &Topology, hub: &Hub, peer: &Peer, to: Party, service: Option<&Service>) -> Answer {
    let (name, line) = (&peer.name, Some(peer.place.line));
    let node = match to {
        Party::Node(node) => node,
        Party::Outside => {
            return no(format!(
                "VPN peer `{name}` may open what wires of `{}` allow, nothing to the outside",
                hub.name
            ))
            .at(line);
        }
        Party::Peer(other, _) if other.name == hub.name => {
            return no(format!("`{}` keeps its VPN peers apart from each other", hub.name))
                .at(hub.wireguard.as_ref().map(|wireguard| wireguard.place.line))
                .hint(format!("set `isolate = false` in [hub.{}.wireguard]", hub.name));
        }
        Party::Peer(other, peer) => {
            return no(format!(
                "VPN peers `{name}` and `{}` come in at `{}` and `{}`",
                peer.name, hub.name, other.name
            ))
            .at(line);
        }
    };
    if hub.name.as_str() == node {
        return no(format!("VPN peer `{name}` may open what wires of `{node}` allow, nothing to `{node}` itself"))
            .at(line);
    }
    let wires = || topology.wires_of(hub.name.as_str()).filter(|(wire, end)| wire.far(*end).node.as_str() == node);
    let Some((wire, _)) = wires().next() else {
        return no(format!("VPN peer `{name}` comes in at `{}`, which no wire joins to `{node}`", hub.name)).at(line);
    };
    let Some((wire, end)) = wires().find(|(wire, end)| may_use(topology, peer, wire, *end)) else {
        return no(format!("the `allow` of VPN peer `{name}` does not hold `{node}`"))
            .on(&wire.name)
            .at(line)
            .hint(format!("add \"{node}\" to `allow` of peer `{name}`"));
    };
    let flows = opened_by(wire, end);
    let asked = flows.iter().find(|flow| service.is_some_and(|service| flow.flow.overlaps(service)));
    if let Some((flow, from)) = asked.and_then(|flow| Some((flow, flow.from.as_ref()?))) {
        return no(format!("wire `{}` lets only {from} open {} to `{node}`", wire.name, flow.flow))
            .on(&wire.name)
            .at(Some(flow.place.line));
    }
    let own: Vec<_> = flows.iter().filter(|flow| is_for(flow, peer)).collect();
    let open = listed(own.iter().map(|flow| &flow.flow));
    no(format!("wire `{}` lets VPN peer `{name}` open {open} to `{node}`", wire.name))
        .on(&wire.name)
        .at(Some(own.first().map_or(wire.place.line, |flow| flow.place.line)))
        .hint(add(service, wire, end))
}

/// The hubs a node is wired to, each with the wire.
fn hubs_of<'a>(topology: &'a Topology, node: &'a str) -> Vec<(&'a Hub, &'a Wire)> {
    topology.wires_of(node).filter_map(|(wire, end)| Some((topology.hubs.get(&wire.far(end).node)?, wire))).collect()
}

fn zones_of<'a>(topology: &'a Topology, node: &'a str) -> BTreeSet<&'a Name> {
    match (topology.hubs.get(node), topology.nodes.get(node)) {
        (Some(hub), _) => BTreeSet::from([&hub.zone]),
        (None, Some(node)) if !node.zones.is_empty() => node.zones.iter().collect(),
        _ if node == HOST => BTreeSet::new(),
        _ => hubs_of(topology, node).iter().map(|(hub, _)| &hub.zone).collect(),
    }
}

/// What a wire would have to say for the end to open that.
fn add(service: Option<&Service>, wire: &Wire, end: usize) -> String {
    let key = if end == 0 { "allow" } else { "allow-back" };
    format!("add \"{}\" to `{key}` of wire `{}`", example(service), wire.name)
}

/// The wire that would join two nodes, as a line to paste.
fn new_wire(topology: &Topology, from: &str, to: &str, key: &str, flow: &str) -> String {
    let (zones, others) = (zones_of(topology, from), zones_of(topology, to));
    let leaves = topology.is_leaf(from) && topology.is_leaf(to);
    let across = leaves && !zones.is_empty() && !others.is_empty() && zones.is_disjoint(&others);
    let across = if across { ", across-zones = true" } else { "" };
    let turned = topology.is_leaf(from) && !topology.is_leaf(to);
    let (from, to, key) = if turned { (to, from, "allow-back") } else { (from, to, key) };
    let line = format!("{{ name = \"{from}-{to}\", ends = [\"{from}\", \"{to}\"], {key} = [\"{flow}\"]{across} }}");
    format!("give them a wire, then run `wire number`: {line}")
}

/// "only tcp/22, tcp/80" or "nothing".
fn listed<'a>(services: impl Iterator<Item = &'a Service>) -> String {
    let words: Vec<_> = services.map(Service::to_string).collect();
    if words.is_empty() { "nothing".to_owned() } else { format!("only {}", words.join(", ")) }
}

/// "only tcp/80 ends" or "only tcp/80, tcp/443 end".
fn ends(services: &[&Service]) -> String {
    let one = matches!(services, [service] if matches!(service.ports[..], [(low, high)] if low == high));
    format!("{} {}", listed(services.iter().copied()), if one { "ends" } else { "end" })
}

/// What a hint writes where the question names no flow.
fn example(service: Option<&Service>) -> String {
    service.map_or("tcp/80".to_owned(), Service::to_string)
}
