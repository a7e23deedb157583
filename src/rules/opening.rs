//! What may begin in one namespace, said as addresses and services: the meaning of the file, from which both the rules are made
//! and connections are told that no rule lets begin any more.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::{Range, Ranges, Rules};
use crate::nft::{Key, Table, Value};
use crate::topology::{Device, Flow, Name, Protocol, Rate, Service, Whom, Wire};
use crate::why::{self, may_use};

/// A connection that may begin, as one namespace sees its first packet, destination addresses already translated.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    pub ipv4: bool,
    pub path: Path,
    pub from: Vec<Match>,
    pub to: Vec<Match>,
    pub service: Arc<Service>,
    /// Only what `prerouting` has given another destination: as it was dialled, range by range.
    pub handed_on: Option<Arc<Service>>,
    /// The only uplink, or other device, that it may come in on.
    pub on: Option<Device>,
    pub rate: Option<(Meter, Rate)>,
    pub log: bool,
    pub comment: String,
}

/// Where a packet comes from and where it goes to, as far as it matters.
#[derive(Clone, Debug, PartialEq)]
pub enum Path {
    /// To this node.
    In,
    /// From this node.
    Out,
    /// Through this node, to a device; or, towards the outside, to any uplink.
    To(Device),
    ToUplinks,
}

/// The name of what is counted against a rate, the same as long as the flow stands in the same place of its list.
pub type Meter = String;

/// What an address is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    Is(IpNetwork),
    Not(IpNetwork),
    /// In a named set of the table.
    In(String),
    NotIn(String),
}

/// The set of what is not public, and of all addresses of the topology; each for one family.
pub const PRIVATE: [&str; 2] = ["private", "private6"];
pub const INSIDE: [&str; 2] = ["inside", "inside6"];

/// The name of a set of one family.
pub fn of_family(names: [&str; 2], ipv4: bool) -> String {
    names[usize::from(!ipv4)].to_owned()
}

/// The name in the table of a set of the file.
pub fn named(set: &Name, ipv4: bool) -> String {
    format!("{}.{set}", if ipv4 { "set" } else { "set6" })
}

/// Everything that may begin in one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Openings {
    pub list: Vec<Opening>,
    /// The addresses of the node's own ends.
    pub own: Vec<IpAddr>,
    /// Those of the far ends, and of a hub's clients.
    pub policed: Vec<IpNetwork>,
    /// Those of the far ends of wires in audit mode.
    pub watched: Vec<IpNetwork>,
}

impl Openings {
    /// Whether a connection goes over a wire, as far as addresses tell: others are nobody's business here.
    pub fn is_over_a_wire(&self, beginning: &Beginning) -> bool {
        let Beginning { from, to, .. } = beginning;
        let far = |address: &IpAddr| self.policed.iter().chain(&self.watched).any(|network| network.contains(*address));
        let own = |address: &IpAddr| self.own.contains(address);
        far(from) || far(to) || own(from) != own(to)
    }

    /// Whether anything lets a connection begin.
    pub fn let_begin(&self, beginning: &Beginning, table: &Table) -> bool {
        let watched = |address: IpAddr| self.watched.iter().any(|network| network.contains(address));
        watched(beginning.from)
            || watched(beginning.to)
            || self.list.iter().any(|opening| opening.lets(beginning, table))
    }
}

/// What a connection's first packet is: what `conntrack` remembers of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    pub from: IpAddr,
    /// Already translated.
    pub to: IpAddr,
    pub protocol: Protocol,
    /// The destination port, or the ICMP type.
    pub port: u16,
}

impl Opening {
    /// Whether a connection may begin by it. A rate is not asked: what has begun may stay.
    pub fn lets(&self, beginning: &Beginning, table: &Table) -> bool {
        let Beginning { from, to, protocol, port } = *beginning;
        let service = &self.service;
        let is_service = service.protocol == protocol
            && match protocol {
                Protocol::Tcp | Protocol::Udp => service.ports.iter().any(|&(low, high)| low <= port && port <= high),
                Protocol::Icmp | Protocol::Icmpv6 => service
                    .icmp_type
                    .as_deref()
                    .is_none_or(|kind| protocol.icmp_number(kind).is_none_or(|kind| u16::from(kind) == port)),
            };
        let within = |set: &str, address: IpAddr| {
            let address = Value::address(address);
            let inside = |key: &Key| matches!(key, Key::Range(first, last) if *first <= address && address <= *last);
            table.sets.get(set).is_some_and(|set| set.elements.keys().any(inside))
        };
        let holds = |matches: &[Match], address: IpAddr| {
            matches.iter().all(|one| match one {
                Match::Is(network) => network.contains(address),
                Match::Not(network) => !network.contains(address),
                Match::In(set) => within(set, address),
                Match::NotIn(set) => !within(set, address),
            })
        };
        is_service && from.is_ipv4() == self.ipv4 && holds(&self.from, from) && holds(&self.to, to)
    }
}

/// A port of the host that is handed to the far end of a host wire, written or needed by a hub.
#[derive(Clone, Debug)]
pub struct Published<'a> {
    /// As dialled at the host.
    pub service: Arc<Service>,
    /// As it arrives at the far end.
    pub arrives: Arc<Service>,
    pub address: Option<IpAddr>,
    pub on: Option<&'a Device>,
    pub from: Option<&'a Whom>,
    pub rate: Option<Rate>,
    pub log: bool,
}

/// A connection to the outside that a node may open.
#[derive(Clone, Debug)]
pub struct Egress<'a> {
    pub service: Arc<Service>,
    pub to: Towards<'a>,
    pub from: Option<&'a Whom>,
    pub rate: Option<Rate>,
    pub log: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Towards<'a> {
    Public,
    Anywhere,
    Whom(&'a Whom),
}

impl fmt::Display for Towards<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Towards::Public => f.write_str("public"),
            Towards::Anywhere => f.write_str("anywhere"),
            Towards::Whom(whom) => write!(f, "{whom}"),
        }
    }
}

/// One end of a wire in one family: its own address and the far one.
#[derive(Clone, Copy)]
pub struct Pair {
    pub ipv4: bool,
    pub own: IpAddr,
    pub far: IpAddr,
}

/// The families that a wire has, seen from one end.
pub fn pairs(wire: &Wire, side: usize) -> Vec<Pair> {
    let (own, far) = (&wire.ends[side], wire.far(side));
    let first = Pair { ipv4: true, own: own.address.into(), far: far.address.into() };
    let second = own.address6.zip(far.address6);
    [Some(first), second.map(|(own, far)| Pair { ipv4: false, own: own.into(), far: far.into() })]
        .into_iter()
        .flatten()
        .collect()
}

fn is(address: IpAddr) -> Match {
    Match::Is(IpNetwork::from(address))
}

/// Whether a service exists in a family.
fn fits(service: &Service, ipv4: bool) -> bool {
    !matches!((service.protocol, ipv4), (Protocol::Icmp, false) | (Protocol::Icmpv6, true))
}

/// What a flow asks of an address besides; `None` where it is of the other family.
fn asked(whom: Option<&Whom>, ipv4: bool) -> Option<Option<Match>> {
    match whom {
        None => Some(None),
        Some(Whom::Network(network)) => (network.is_ipv4() == ipv4).then_some(Some(Match::Is(*network))),
        Some(Whom::Set(set)) => Some(Some(Match::In(named(set, ipv4)))),
    }
}

impl<'a> Rules<'a> {
    /// What may arrive here over the end of a wire.
    pub fn into(&self, wire: &'a Wire, side: usize) -> Vec<Opening> {
        let (here, far) = (&wire.ends[side].node, &wire.far(side).node);
        let mut openings = Vec::new();
        for pair in pairs(wire, side) {
            let to = vec![is(pair.own)];
            for (number, flow) in why::opened_by(wire, 1 - side).iter().enumerate() {
                let comment = format!("{}: {far} may open {}", wire.name, flow.flow);
                let mut one = |from: Match, who: &str| {
                    let comment = if who.is_empty() { comment.clone() } else { format!("{comment}, for {who}") };
                    let meter = format!("{}.{number}", wire.name);
                    openings.extend(self.flow(pair.ipv4, Path::In, flow, vec![from], to.clone(), meter, comment));
                };
                one(is(pair.far), "");
                // Where there is no way back to them, their hub gives its own address.
                if self.knows_clients(far, wire, 1 - side) {
                    for (client, who) in self.clients(wire, side, flow, pair.ipv4) {
                        one(client, &who);
                    }
                }
            }
            let from_outside = self.outsiders(wire, side, pair.ipv4);
            if far.is_host() {
                for published in self.published(wire) {
                    let comment = format!("{}: published {}", wire.name, published.arrives);
                    let from =
                        (from_outside.iter().cloned().chain(asked(published.from, pair.ipv4).into_iter().flatten()))
                            .collect();
                    if asked(published.from, pair.ipv4).is_some() && fits(&published.arrives, pair.ipv4) {
                        openings.push(Opening {
                            ipv4: pair.ipv4,
                            path: Path::In,
                            from,
                            to: to.clone(),
                            service: published.arrives.clone(),
                            handed_on: None,
                            on: None,
                            rate: None,
                            log: false,
                            comment,
                        });
                    }
                }
            }
            for forward in self.forwards_to(here, wire) {
                let service = Arc::new(forward_service(forward));
                let Some(only) = asked(forward.from.as_ref(), pair.ipv4) else { continue };
                openings.push(Opening {
                    ipv4: pair.ipv4,
                    path: Path::In,
                    from: from_outside.iter().cloned().chain(only).collect(),
                    to: to.clone(),
                    comment: format!("{}: {far} hands on {service}", wire.name),
                    service,
                    handed_on: None,
                    on: None,
                    rate: None,
                    log: false,
                });
            }
        }
        openings
    }

    /// What this node itself may open over the end of a wire.
    pub fn out_of(&self, wire: &'a Wire, side: usize) -> Vec<Opening> {
        let (here, far) = (&wire.ends[side].node, &wire.far(side).node);
        let leads_out = self.way_out(here).first().is_some_and(|first| first.name == wire.name);
        let mut openings = Vec::new();
        for pair in pairs(wire, side) {
            for flow in why::opened_by(wire, side) {
                let comment = format!("{}: to {far}, {}", wire.name, flow.flow);
                let flow = Flow { rate: None, log: false, ..flow.clone() };
                let (from, to) = (vec![is(pair.own)], vec![is(pair.far)]);
                openings.extend(self.flow(pair.ipv4, Path::Out, &flow, from, to, Meter::new(), comment));
            }
            for egress in self.egress(here).iter().filter(|_| leads_out) {
                let comment = format!("{}: outside, {}", wire.name, egress.service);
                openings.extend(leaving(egress, pair.ipv4, Path::Out, is(pair.own), None, comment));
            }
        }
        openings
    }

    /// What may pass a hub or the host from the far end of a wire to the outside.
    pub fn outwards(&self, wire: &'a Wire, side: usize) -> Vec<Opening> {
        let (here, far) = (&wire.ends[side].node, &wire.far(side).node);
        let mut openings = Vec::new();
        if here.is_host() {
            for pair in pairs(wire, side) {
                for (speaker, egress) in self.spoken_for(wire, side) {
                    let comment = format!("{}: outside, {}", wire.name, egress.service);
                    // A hub speaks under one address for all its leaves, each of which it has counted itself.
                    let meter = (speaker == far).then(|| format!("{}.out", wire.name));
                    openings.extend(leaving(egress, pair.ipv4, Path::ToUplinks, is(pair.far), meter, comment));
                }
            }
        } else if let Some(exit) = self.host_wire(here)
            && self.way_out(far).first().is_some_and(|first| first.name == wire.name)
        {
            let path = || Path::To(self.device(exit, here));
            for pair in pairs(wire, side).into_iter().filter(|pair| pair.ipv4 || exit.subnet6.is_some()) {
                for egress in self.egress(far) {
                    let comment = format!("{}: outside, {}", wire.name, egress.service);
                    let meter = Some(format!("{}.out", wire.name));
                    openings.extend(leaving(egress, pair.ipv4, path(), is(pair.far), meter, comment));
                }
            }
        }
        for (number, opening) in openings.iter_mut().enumerate() {
            if let Some((meter, _)) = &mut opening.rate {
                *meter = format!("{meter}.{number}");
            }
        }
        openings
    }

    /// What may pass the host from an uplink into a wire.
    pub fn handed_in(&self, wire: &'a Wire, side: usize) -> Vec<Opening> {
        let mut openings = Vec::new();
        for pair in pairs(wire, side) {
            for (number, published) in self.published(wire).iter().enumerate() {
                let Some(only) = asked(published.from, pair.ipv4) else { continue };
                if published.address.is_some_and(|address| address.is_ipv4() != pair.ipv4)
                    || !fits(&published.arrives, pair.ipv4)
                {
                    continue;
                }
                openings.push(Opening {
                    ipv4: pair.ipv4,
                    path: Path::To(wire.ends[side].device.clone()),
                    from: only.into_iter().collect(),
                    to: vec![is(pair.far)],
                    service: published.arrives.clone(),
                    handed_on: Some(published.service.clone()),
                    on: published.on.cloned(),
                    rate: published.rate.map(|rate| (format!("{}.published.{number}", wire.name), rate)),
                    log: published.log,
                    comment: format!("{}: published {}", wire.name, published.service),
                });
            }
        }
        openings
    }

    /// What may pass a hub from its host wire to its leaves, by the wire it leaves over.
    pub fn handed_through(&self, hub: &'a Name) -> Vec<Opening> {
        let mut openings = Vec::new();
        for forward in self.topology.hubs.get(hub).into_iter().flat_map(|hub| &hub.forwards) {
            let Some((wire, side)) = self.leads_to(hub, forward) else { continue };
            let service = Arc::new(forward_service(forward));
            for pair in pairs(wire, side) {
                let Some(only) = asked(forward.from.as_ref(), pair.ipv4) else { continue };
                openings.push(Opening {
                    ipv4: pair.ipv4,
                    path: Path::To(wire.ends[side].device.clone()),
                    from: only.into_iter().collect(),
                    to: vec![is(pair.far)],
                    service: service.clone(),
                    handed_on: Some(Arc::new(forward.port.clone())),
                    on: None,
                    rate: None,
                    log: false,
                    comment: format!("{}: forward {} to {}", wire.name, forward.port, forward.to.node),
                });
            }
        }
        openings
    }

    /// What the clients of a hub may open over one of its wires.
    pub fn for_clients(&self, wire: &'a Wire, side: usize) -> Vec<Opening> {
        let far = &wire.far(side).node;
        let path = || Path::To(wire.ends[side].device.clone());
        let mut openings = Vec::new();
        for pair in pairs(wire, side) {
            for flow in why::opened_by(wire, side) {
                for (from, who) in self.clients(wire, 1 - side, flow, pair.ipv4) {
                    let comment = format!("{}: {who} to {far}, {}", wire.name, flow.flow);
                    let flow = Flow { rate: None, log: false, ..flow.clone() };
                    let to = vec![is(pair.far)];
                    openings.extend(self.flow(pair.ipv4, path(), &flow, vec![from], to, Meter::new(), comment));
                }
            }
        }
        openings
    }

    /// Who of a hub's clients may open a flow of one of its wires, as the end (0 or 1) at the far side of the hub sees them.
    fn clients(&self, wire: &Wire, side: usize, flow: &Flow, ipv4: bool) -> Vec<(Match, String)> {
        let hub = &wire.far(side).node;
        let Some((hub, clients)) = self.topology.hubs.get(hub).and_then(|hub| Some((hub, hub.clients.as_ref()?)))
        else {
            return Vec::new();
        };
        if clients.prefix.is_ipv4() != ipv4 || !fits(&flow.flow, ipv4) {
            return Vec::new();
        }
        match &hub.wireguard {
            None => vec![(Match::Is(clients.prefix), format!("clients of {}", hub.name))],
            Some(wireguard) => (wireguard.peers.iter())
                .filter(|peer| may_use(self.topology, peer, wire, 1 - side))
                .map(|peer| (is(peer.address), format!("peer {}", peer.name)))
                .collect(),
        }
    }

    /// What a source from beyond this end must not be: an address that is nobody's outside.
    pub fn outsiders(&self, wire: &Wire, side: usize, ipv4: bool) -> Vec<Match> {
        let here = &wire.ends[side].node;
        if here.is_host() || self.topology.hubs.contains_key(here) {
            return vec![Match::NotIn(of_family(INSIDE, ipv4))];
        }
        let others = self.wires_of(here).iter().flat_map(|(other, side)| pairs(other, *side));
        let both = others.filter(|pair| pair.ipv4 == ipv4).flat_map(|pair| [pair.own, pair.far]);
        both.map(|address| Match::Not(IpNetwork::from(address))).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "one place for what all flows have in common")]
    pub(super) fn flow(
        &self,
        ipv4: bool,
        path: Path,
        flow: &Flow,
        mut from: Vec<Match>,
        mut to: Vec<Match>,
        meter: Meter,
        comment: String,
    ) -> Option<Opening> {
        from.extend(asked(flow.from.as_ref(), ipv4)?);
        to.extend(asked(flow.to.as_ref(), ipv4)?);
        fits(&flow.flow, ipv4).then(|| Opening {
            ipv4,
            path,
            from,
            to,
            service: Arc::new(flow.flow.clone()),
            handed_on: None,
            on: None,
            rate: flow.rate.map(|rate| (meter, rate)),
            log: flow.log,
            comment,
        })
    }
}

/// A connection to the outside, from one address; counted and logged where there is a meter.
fn leaving(
    egress: &Egress,
    ipv4: bool,
    path: Path,
    from: Match,
    meter: Option<Meter>,
    comment: String,
) -> Option<Opening> {
    let towards = match egress.to {
        Towards::Public => Some(Match::NotIn(of_family(PRIVATE, ipv4))),
        Towards::Anywhere => None,
        Towards::Whom(whom) => asked(Some(whom), ipv4)?,
    };
    let only = match path {
        Path::ToUplinks => None,
        _ => asked(egress.from, ipv4)?,
    };
    fits(&egress.service, ipv4).then(|| Opening {
        ipv4,
        path,
        from: [from].into_iter().chain(only).collect(),
        to: towards.into_iter().collect(),
        service: egress.service.clone(),
        handed_on: None,
        on: None,
        log: egress.log && meter.is_some(),
        rate: meter.and_then(|meter| Some((meter, egress.rate?))),
        comment,
    })
}

/// What of a forward arrives at its leaf.
fn forward_service(forward: &crate::topology::Forward) -> Service {
    Service { ports: vec![(forward.to.port, forward.to.port)], ..forward.port.clone() }
}

/// Addresses from first to last with the seconds until they go, by the name of the set in the table.
pub fn ranges_of<'r>(ranges: &'r Ranges, name: &Name, ipv4: bool) -> impl Iterator<Item = &'r Range> + use<'r> {
    ranges.get(name).into_iter().flatten().filter(move |(first, _, _)| first.is_ipv4() == ipv4)
}
