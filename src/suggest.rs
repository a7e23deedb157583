//! `wire suggest`: from what wires in audit mode let pass to the flows that would allow it, as the lines to write. Pure: what was
//! recorded comes from whoever reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::log::packet::{Header, Part};
use crate::log::record::{Names, Who, enforced, leaves_the_link};
use crate::nft::Value;
use crate::rules;
use crate::topology::{Flow, Name, Per, Protocol, Service, Topology, Whom, Wire};

/// What somebody wanted to open, as an element of a set `would.WIRE` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tried {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// By IANA's number.
    pub protocol: u8,
    /// The destination's; of ICMP its type, times 256, and its code, which stand first in it.
    pub port: u16,
}

impl Tried {
    /// Out of the key of an element.
    pub fn of(key: &[Value]) -> Option<Tried> {
        let [source, destination, protocol, port] = key else { return None };
        let address = |value: &Value| <[u8; 4]>::try_from(value.as_bytes()).ok().map(Ipv4Addr::from);
        Some(Tried {
            source: address(source)?,
            destination: address(destination)?,
            protocol: *protocol.as_bytes().first()?,
            port: u16::from_be_bytes(port.as_bytes().try_into().ok()?),
        })
    }
}

/// Something tried, with the node and the wire that recorded it.
pub type Recorded = (Name, Name, Tried);

/// What could be written, and what could not.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Suggested {
    /// In the order of the file.
    pub flows: Vec<Flows>,
    pub left: Vec<Left>,
}

/// New flows for one key of one wire or node.
#[derive(Debug, PartialEq, Serialize)]
pub struct Flows {
    /// Of the file, where the wire or node stands.
    pub line: usize,
    pub wire: Option<Name>,
    pub node: Option<Name>,
    /// `allow`, `allow-back` or `egress`.
    pub key: &'static str,
    /// The new ones, as they stand in `toml`.
    pub flows: Vec<String>,
    /// The whole key with its flows, old and new.
    pub toml: String,
}

/// What no flow of the file can allow, or none should.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Left {
    pub from: String,
    pub to: String,
    pub flow: String,
    pub reason: String,
}

/// Where flows are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    /// Of a wire, by its place in the file, what that end may open.
    Wire(usize, usize),
    Egress(&'a Name),
}

/// The flows to be written for one key: by whom they are for (egress to what is not public), protocol and ICMP type, the ports.
type Wanted = BTreeMap<(Option<IpAddr>, Protocol, Option<String>), BTreeSet<u16>>;

/// The flows that would have allowed all of it.
pub fn suggest(topology: &Topology, recorded: &[Recorded]) -> Suggested {
    let enforced = enforced(topology);
    let names = Names::of(&enforced);
    let mut wanted: BTreeMap<Key, Wanted> = BTreeMap::new();
    let mut left = BTreeSet::new();
    for (node, wire, tried) in recorded {
        // A wire that the file does not have any more wants no flows.
        let Some(place) = enforced.wires.iter().position(|known| known.name == *wire) else { continue };
        match judge(&enforced, &names, node, place, tried) {
            Judged::Allowed => {}
            Judged::Left(some) => left.extend(some),
            Judged::Wanted(key, to, service) => {
                let ports = service.ports.iter().map(|(port, _)| *port);
                wanted
                    .entry(key)
                    .or_default()
                    .entry((to, service.protocol, service.icmp_type))
                    .or_default()
                    .extend(ports);
            }
        }
    }
    let mut flows: Vec<Flows> = wanted.iter().map(|(key, wanted)| write(topology, *key, wanted)).collect();
    flows.sort_by_key(|flows| flows.line);
    Suggested { flows, left: left.into_iter().collect() }
}

enum Judged<'a> {
    /// The file allows it already.
    Allowed,
    Left(Option<Left>),
    Wanted(Key<'a>, Option<IpAddr>, Service),
}

fn judge<'a>(topology: &'a Topology, names: &Names<'a>, node: &Name, place: usize, tried: &Tried) -> Judged<'a> {
    let wire = &topology.wires[place];
    let (source, destination) = (IpAddr::V4(tried.source), IpAddr::V4(tried.destination));
    let header = header(tried);
    let (from, to) = (names.who(source), names.who(destination));
    let left = |reason: String| {
        let shown = |who: Option<Who>, address: IpAddr| match who {
            Some(who) => who.to_string(),
            None => address.to_string(),
        };
        Judged::Left(Some(Left { from: shown(from, source), to: shown(to, destination), flow: header.flow(), reason }))
    };
    let Some(service) = header.service() else {
        return left(format!("no flow can name {}", header.flow()));
    };
    if !leaves_the_link(destination) {
        return left(format!("a wire carries nothing for {destination}"));
    }
    let opener = wire.ends.iter().position(|end| end.address == tried.source);
    match (opener, from, to) {
        (Some(end), ..) if wire.far(end).address == tried.destination => {
            in_wire(Key::Wire(place, end), destination, None, service, own_flows(wire, end), left)
        }
        (Some(end), Some(Who::Node(opener)), None) => {
            // A hub's own address is that of all its leaves out there: the hub has recorded who it was.
            let translated = node != opener && topology.hubs.contains_key(&wire.ends[end].node);
            if translated {
                return Judged::Left(None);
            }
            let named = (!rules::is_public(destination)).then_some(destination);
            in_wire(Key::Egress(opener), destination, named, service, egress(topology, opener), left)
        }
        (None, Some(Who::Peer(hub, _) | Who::Clients(hub)), Some(Who::Node(_))) => {
            let end = wire.end_in(hub.name.as_str()).filter(|end| wire.far(*end).address == tried.destination);
            match end {
                Some(end) => in_wire(Key::Wire(place, end), destination, None, service, own_flows(wire, end), left),
                None => refused(names, from, to, service, left),
            }
        }
        _ => refused(names, from, to, service, left),
    }
}

/// A flow that its key may lack, or may hold with a condition. `to` is whom egress has to name.
fn in_wire<'a>(
    key: Key<'a>,
    destination: IpAddr,
    to: Option<IpAddr>,
    service: Service,
    flows: &[Flow],
    left: impl Fn(String) -> Judged<'a>,
) -> Judged<'a> {
    let reaches = |flow: &&Flow| match &flow.to {
        None => to.is_none(),
        Some(Whom::Network(network)) => network.contains(destination),
        Some(Whom::Set(_)) => true,
    };
    let asks = |flow: &Flow| flow.from.is_some() || flow.rate.is_some() || matches!(flow.to, Some(Whom::Set(_)));
    let held: Vec<&Flow> = flows.iter().filter(|flow| flow.flow.covers(&service)).filter(reaches).collect();
    match held.first() {
        None => Judged::Wanted(key, to, service),
        Some(_) if held.iter().any(|flow| !asks(flow)) => Judged::Allowed,
        Some(flow) => left(format!("line {} allows it on a condition that was not met", flow.place.line)),
    }
}

/// What no single flow allows, in the words of `why`.
fn refused<'a>(
    names: &Names<'a>,
    from: Option<Who<'a>>,
    to: Option<Who<'a>>,
    service: Service,
    left: impl Fn(String) -> Judged<'a>,
) -> Judged<'a> {
    let (from, to) = (from.unwrap_or(Who::Outside), to.unwrap_or(Who::Outside));
    match names.why(from, to, Some(service)) {
        Some(answer) if !answer.allowed => left(answer.reason),
        _ => left("it came another way than the file has for it".to_owned()),
    }
}

fn own_flows(wire: &Wire, end: usize) -> &[Flow] {
    if end == 0 { &wire.allow } else { &wire.allow_back }
}

fn egress<'a>(topology: &'a Topology, node: &Name) -> &'a [Flow] {
    topology.nodes.get(node).map_or(&[], |node| &node.egress)
}

fn header(tried: &Tried) -> Header {
    let Tried { source, destination, protocol, port } = *tried;
    let part = match protocol {
        6 => Part::Tcp { source: 0, destination: port, opens: true },
        17 => Part::Udp { source: 0, destination: port },
        1 => Part::Icmp((port >> 8) as u8),
        _ => Part::Unknown,
    };
    Header { source: source.into(), destination: destination.into(), protocol, part }
}

/// The key with what it has and what it lacks.
fn write(topology: &Topology, key: Key, wanted: &Wanted) -> Flows {
    let new: Vec<String> = wanted
        .iter()
        .map(|((to, protocol, icmp_type), ports)| {
            let service = Service { protocol: *protocol, ports: ranges(ports), icmp_type: icmp_type.clone() };
            match to {
                Some(to) => format!("{{ flow = \"{service}\", to = \"{to}\" }}"),
                None => format!("\"{service}\""),
            }
        })
        .collect();
    let (line, wire, node, name, old) = match key {
        Key::Wire(place, end) => {
            let wire = &topology.wires[place];
            let name = if end == 0 { "allow" } else { "allow-back" };
            (wire.place.line, Some(wire.name.clone()), None, name, own_flows(wire, end))
        }
        Key::Egress(name) => {
            let line = topology.nodes.get(name).map_or(0, |node| node.place.line);
            (line, None, Some(name.clone()), "egress", egress(topology, name))
        }
    };
    let all: Vec<String> = old.iter().map(toml).chain(new.iter().cloned()).collect();
    Flows { line, wire, node, key: name, flows: new, toml: format!("{name} = [{}]", all.join(", ")) }
}

/// Ports as ranges that do not touch.
fn ranges(ports: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if port - *last == 1 => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    ranges
}

/// A flow as the file may say it.
fn toml(flow: &Flow) -> String {
    let mut rest = String::new();
    for (key, whom) in [("from", &flow.from), ("to", &flow.to)] {
        if let Some(whom) = whom {
            let _ = write!(rest, ", {key} = \"{whom}\"");
        }
    }
    if let Some(rate) = flow.rate {
        let per = match rate.per {
            Per::Second => "second",
            Per::Minute => "minute",
            Per::Hour => "hour",
            Per::Day => "day",
        };
        let _ = write!(rest, ", rate = \"{}/{per}\", burst = {}", rate.count, rate.burst);
    }
    if flow.log {
        rest += ", log = true";
    }
    match rest.is_empty() {
        true => format!("\"{}\"", flow.flow),
        false => format!("{{ flow = \"{}\"{rest} }}", flow.flow),
    }
}

/// More ranges than this in one flow were hardly meant.
const MANY: usize = 16;

impl Suggested {
    /// What to write, two lines a key: where, and what stands there then.
    pub fn text(&self, path: &str) -> String {
        let mut text = String::new();
        for Flows { line, wire, node, key: _, flows, toml } in &self.flows {
            let place = match (wire, node) {
                (Some(wire), _) => format!("wire `{wire}`"),
                (None, Some(node)) => format!("[node.{node}]"),
                (None, None) => String::new(),
            };
            let _ = writeln!(text, "{path}:{line}: {place} lacks {}\n  {toml}", flows.join(", "));
        }
        text
    }

    /// What a person should know besides.
    pub fn remarks(&self) -> Vec<String> {
        let many = self.flows.iter().filter(|flows| flows.flows.iter().any(|flow| flow.matches(',').count() >= MANY));
        let many = many.map(|flows| {
            format!("line {}: so many ports are rather a scan, or a protocol that makes up its ports", flows.line)
        });
        let left = self.left.iter().map(|Left { from, to, flow, reason }| {
            format!("nothing is suggested for {flow} from {from} to {to}: {reason}")
        });
        many.chain(left).collect()
    }
}

#[cfg(test)]
mod tests;
