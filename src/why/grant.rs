//! Everything a topology file allows, as one list with a sentence each: `why` searches it, `check -v` prints it. Knows nothing
//! of rules or kernel, and nothing of what is denied: that is whatever this list does not hold.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::topology::{
    Allowed, Device, Flow, HOST, Hub, Mode, Name, Node, OUTSIDE, Peer, Per, Place, Policy, Protocol, Rate, Service,
    Tls, Topology, Whom, Wire,
};

/// One side of a connection: who opens it, or where it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Party<'a> {
    Outside,
    /// A namespace by the name of the node that owns it, the host among them.
    Node(&'a str),
    /// A VPN peer, with the hub it comes in at.
    Peer(&'a Hub, &'a Peer),
}

impl std::fmt::Display for Party<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Party::Outside => write!(f, "`{OUTSIDE}`"),
            Party::Node(name) => write!(f, "`{name}`"),
            Party::Peer(_, peer) => write!(f, "VPN peer `{}`", peer.name),
        }
    }
}

/// One thing the file lets somebody open.
#[derive(Debug)]
pub struct Grant<'a> {
    pub from: Party<'a>,
    pub to: Party<'a>,
    /// As whoever opens it dials it; everything where there is none.
    pub service: Option<Service>,
    /// As it ends at the far side, where that differs.
    pub arrives: Option<Service>,
    pub wire: Option<&'a Name>,
    /// None for what the file allows by saying nothing.
    pub line: Option<usize>,
    /// Whether it matters who opens a connection or where it arrives, besides its port.
    pub conditional: bool,
    pub asks: Asks<'a>,
    pub sentence: String,
}

/// What a grant asks of a connection besides its port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asks<'a> {
    /// Of the address it comes from.
    pub from: Option<&'a Whom>,
    /// Of the address it goes to.
    pub to: Option<&'a Whom>,
    /// That the address it goes to be public.
    pub public: bool,
    /// Of a published port: the one address of the host, and the one uplink.
    pub address: Option<IpAddr>,
    pub on: Option<&'a Device>,
    pub rate: Option<Rated>,
}

/// A rate, told from others of its kind by where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rated {
    pub rate: Rate,
    pub place: Place,
}

impl Rated {
    fn of(rate: Option<Rate>, place: Place) -> Option<Rated> {
        rate.map(|rate| Rated { rate, place })
    }
}

/// Every grant of a file: its wires', then its nodes', its hubs', the host's.
pub fn all(topology: &Topology) -> Vec<Grant<'_>> {
    let mut grants = Vec::new();
    for wire in &topology.wires {
        over(wire, &mut grants);
    }
    for node in topology.nodes.values() {
        egress(topology, node, &mut grants);
    }
    for hub in topology.hubs.values() {
        at_hub(topology, hub, &mut grants);
    }
    host(topology, &mut grants);
    grants
}

/// The flows that the end (0 or 1) of a wire may open towards the other.
pub fn opened_by(wire: &Wire, end: usize) -> &[Flow] {
    if end == 0 { &wire.allow } else { &wire.allow_back }
}

/// The wires a node's connections to the outside leave by, in their order; empty where there is no way out.
pub fn way_out<'a>(topology: &'a Topology, node: &'a str) -> Vec<&'a Wire> {
    let to_host =
        |node| topology.wires_of(node).find(|(wire, end)| wire.far(*end).node.is_host()).map(|(wire, _)| wire);
    let to_hub = topology.wires_of(node).find(|(wire, end)| topology.hubs.contains_key(&wire.far(*end).node));
    let snat = topology.nodes.get(node).is_some_and(|node| node.snat.is_some());
    match (to_host(node), to_hub) {
        (Some(own), _) if !topology.is_leaf(node) || !own.publish.is_empty() || snat => vec![own],
        (_, Some((first, end))) if topology.is_leaf(node) => match to_host(first.far(end).node.as_str()) {
            Some(second) => vec![first, second],
            None => Vec::new(),
        },
        (own, _) => own.into_iter().collect(),
    }
}

/// A wire without IPv6 on the only way from one party to the other, if there is one.
pub fn without_ipv6<'a>(topology: &'a Topology, from: Party, to: Party<'a>) -> Option<&'a Wire> {
    let (from, to) = match (from, to) {
        (Party::Node(from), Party::Outside) => {
            let from = topology.nodes.get(from)?.name.as_str();
            return way_out(topology, from).into_iter().find(|wire| wire.subnet6.is_none());
        }
        (Party::Node(from), Party::Node(to)) => (from, to),
        (Party::Peer(hub, _), Party::Node(to)) => (hub.name.as_str(), to),
        _ => return None,
    };
    let between: Vec<_> = topology.wires_of(to).filter(|(wire, end)| wire.far(*end).node.as_str() == from).collect();
    let first = between.first().map(|(wire, _)| *wire);
    first.filter(|_| between.iter().all(|(wire, _)| wire.subnet6.is_none()))
}

/// Whether a grant asks for addresses that nobody on its wire has, or for IPv6 where there is none. What a set holds may change.
pub fn is_idle(topology: &Topology, grant: &Grant) -> bool {
    let Asks { from, to, .. } = grant.asks;
    let protocol = grant.service.as_ref().map(|service| service.protocol);
    let only = |ipv4: bool| protocol != Some(if ipv4 { Protocol::Icmpv6 } else { Protocol::Icmp });
    let is_one_of = |whom: Option<&Whom>, address| match whom {
        Some(Whom::Network(network)) => network.contains(address),
        Some(Whom::Set(_)) | None => true,
    };
    let (near, far) = match (grant.from, grant.to) {
        (Party::Node(_), Party::Outside) => {
            let ipv6 = matches!(to, Some(Whom::Network(IpNetwork::V6(_)))) || !only(true);
            return ipv6 && without_ipv6(topology, grant.from, grant.to).is_some();
        }
        (Party::Node(near), Party::Node(far)) => (near, far),
        (Party::Peer(hub, _), Party::Node(far)) => (hub.name.as_str(), far),
        _ => return false,
    };
    let Some(wire) = grant.wire.and_then(|name| topology.wire(name.as_str())) else { return false };
    let (Some(near), Some(far)) = (wire.end_in(near), wire.end_in(far)) else { return false };
    let (near, far) = (&wire.ends[near], &wire.ends[far]);
    // A hub's flows are its clients' as well, who come with addresses of their own.
    let hub = topology.hubs.get(&near.node);
    let clients = hub.and_then(|hub| hub.clients.as_ref()).map(|clients| clients.prefix);
    let peers = hub.and_then(|hub| hub.wireguard.as_ref()).map(|wireguard| wireguard.peers.as_slice());
    let is_clients = |network: &IpNetwork| {
        clients.is_some_and(|prefix| prefix.contains(network.ip()) || network.contains(prefix.ip()))
            || peers.is_some_and(|peers| peers.iter().any(|peer| network.contains(peer.address)))
    };
    let pairs = [
        Some((IpAddr::from(near.address), IpAddr::from(far.address))),
        near.address6.zip(far.address6).map(|(near, far)| (near.into(), far.into())),
    ];
    !pairs.into_iter().flatten().any(|(near, far): (IpAddr, IpAddr)| {
        let known =
            matches!(from, Some(Whom::Network(network)) if network.is_ipv4() == near.is_ipv4() && is_clients(network));
        only(near.is_ipv4()) && (known || is_one_of(from, near)) && is_one_of(to, far)
    })
}

/// Whether a VPN peer's `allow` names a wire of its hub (which has that end), by itself or by what it leads to.
pub fn may_use(topology: &Topology, peer: &Peer, wire: &Wire, end: usize) -> bool {
    let far = &wire.far(end).node;
    peer.allow.iter().any(|allowed| match allowed {
        Allowed::Everything => true,
        Allowed::Wire(name) => *name == wire.name,
        Allowed::Node(name) => topology.namespace_of(name) == far,
        Allowed::Module(name) => topology
            .module(name.as_str())
            .is_some_and(|module| module.nodes.iter().any(|node| topology.namespace_of(node) == far)),
    })
}

/// Whether a flow is for a peer, which passes its hub under its own address.
pub fn is_for(flow: &Flow, peer: &Peer) -> bool {
    !matches!(flow.from, Some(Whom::Network(network)) if !network.contains(peer.address))
}

/// The VPN peers of all hubs that `wire` runs, each with its hub.
pub fn peers(topology: &Topology) -> impl Iterator<Item = (&Hub, &Peer)> {
    let with_wireguard = topology.hubs.values().filter_map(|hub| Some((hub, hub.wireguard.as_ref()?)));
    with_wireguard.flat_map(|(hub, wireguard)| wireguard.peers.iter().map(move |peer| (hub, peer)))
}

impl<'a> Asks<'a> {
    fn of(flow: &'a Flow) -> Asks<'a> {
        let rate = Rated::of(flow.rate, flow.place);
        Asks { from: flow.from.as_ref(), to: flow.to.as_ref(), rate, ..Asks::default() }
    }
}

impl<'a> Grant<'a> {
    fn new(from: Party<'a>, to: Party<'a>, service: Option<Service>, sentence: String) -> Grant<'a> {
        let asks = Asks::default();
        Grant { from, to, service, arrives: None, wire: None, line: None, conditional: false, asks, sentence }
    }

    /// The port that a connection ends at which was dialled by one port of this.
    pub fn arrives_at(&self, dialled: &Service) -> Option<u16> {
        let first = |service: &Service| service.ports.first().map(|range| range.0);
        let port = first(dialled)?;
        match (&self.service, &self.arrives) {
            (Some(service), Some(arrives)) => Some(first(arrives)? + port.checked_sub(first(service)?)?),
            _ => Some(port),
        }
    }

    /// A flow of a wire: `only` is what it asks of the source's address.
    fn of_flow(from: Party<'a>, wire: &'a Wire, end: usize, flow: &'a Flow, only: Option<&'a Whom>) -> Grant<'a> {
        let to = Party::Node(wire.far(end).node.as_str());
        let conditions = conditions(only, flow.to.as_ref(), flow.rate, flow.log);
        let sentence = format!("{from} may open {} to {to} over wire `{}`{conditions}", flow.flow, wire.name);
        Grant {
            wire: Some(&wire.name),
            line: Some(flow.place.line),
            conditional: only.is_some() || flow.to.is_some(),
            asks: Asks { from: only, ..Asks::of(flow) },
            ..Grant::new(from, to, Some(flow.flow.clone()), sentence)
        }
    }

    fn of_audit(from: Party<'a>, wire: &'a Wire, end: usize) -> Grant<'a> {
        let to = Party::Node(wire.far(end).node.as_str());
        let sentence =
            format!("{from} may open anything to {to}: wire `{}` is in audit mode, which only counts", wire.name);
        Grant { wire: Some(&wire.name), line: Some(wire.place.line), ..Grant::new(from, to, None, sentence) }
    }
}

fn over<'a>(wire: &'a Wire, grants: &mut Vec<Grant<'a>>) {
    for end in [0, 1] {
        let from = Party::Node(wire.ends[end].node.as_str());
        grants
            .extend(opened_by(wire, end).iter().map(|flow| Grant::of_flow(from, wire, end, flow, flow.from.as_ref())));
        if wire.mode == Mode::Audit {
            grants.push(Grant::of_audit(from, wire, end));
        }
    }
    let Some(host_end) = wire.end_in(HOST) else { return };
    let to = Party::Node(wire.far(host_end).node.as_str());
    for publish in &wire.publish {
        let arrives = publish.to_port.map(|port| moved(&publish.flow, port));
        let remapped = arrives.as_ref().map(|service| format!(" as {service}")).unwrap_or_default();
        let sentence = format!(
            "`outside` may open {} of {}{}, which ends at {to}{remapped} over wire `{}`{}",
            publish.flow,
            publish.address.map_or("the host".into(), |address| address.to_string()),
            publish.on.as_ref().map(|device| format!(" on {device}")).unwrap_or_default(),
            wire.name,
            conditions(publish.from.as_ref(), None, publish.rate, publish.log)
        );
        grants.push(Grant {
            arrives,
            wire: Some(&wire.name),
            line: Some(publish.place.line),
            conditional: publish.from.is_some() || publish.address.is_some() || publish.on.is_some(),
            asks: Asks {
                from: publish.from.as_ref(),
                to: None,
                public: false,
                address: publish.address,
                on: publish.on.as_ref(),
                rate: Rated::of(publish.rate, publish.place),
            },
            ..Grant::new(Party::Outside, to, Some(publish.flow.clone()), sentence)
        });
    }
}

fn egress<'a>(topology: &'a Topology, node: &'a Node, grants: &mut Vec<Grant<'a>>) {
    let namespace = topology.namespace_of(&node.name).as_str();
    let from = Party::Node(namespace);
    let route = way_out(topology, namespace);
    let first = route.first();
    let over = first.map(|wire| format!(" over wire `{}`", wire.name)).unwrap_or_default();
    let snat = node.snat.map(|address| format!(" as {address}")).unwrap_or_default();
    for flow in &node.egress {
        let to = flow.to.as_ref().map_or("public addresses".into(), Whom::to_string);
        let conditions = conditions(flow.from.as_ref(), None, flow.rate, flow.log);
        let sentence = format!("{from} may open {} to {to} outside{snat}{over}{conditions}", flow.flow);
        grants.push(Grant {
            wire: first.map(|wire| &wire.name),
            line: Some(flow.place.line),
            conditional: flow.from.is_some() || flow.to.is_some(),
            asks: Asks { public: flow.to.is_none(), ..Asks::of(flow) },
            ..Grant::new(from, Party::Outside, Some(flow.flow.clone()), sentence)
        });
    }
    if let Some(first) = first.filter(|_| route.iter().all(|wire| wire.mode == Mode::Audit)) {
        let sentence =
            format!("{from} may open anything to `outside`: all wires on the way are in audit mode, which only counts");
        grants.push(Grant {
            wire: Some(&first.name),
            line: Some(first.place.line),
            ..Grant::new(from, Party::Outside, None, sentence)
        });
    }
}

/// What a hub that `wire` runs has published by itself, and what its peers may reach through it.
fn at_hub<'a>(topology: &'a Topology, hub: &'a Hub, grants: &mut Vec<Grant<'a>>) {
    let name = hub.name.as_str();
    let here = Party::Node(name);
    let wire = topology.wires_of(name).find(|(wire, end)| wire.far(*end).node.is_host()).map(|(wire, _)| &wire.name);
    let published = |to, service: &Service, place: Place, sentence| Grant {
        wire,
        line: Some(place.line),
        ..Grant::new(Party::Outside, to, Some(service.clone()), sentence)
    };

    let web = Service { protocol: Protocol::Tcp, ports: vec![(80, 80), (443, 443)], icmp_type: None };
    for site in &hub.sites {
        let what = format!("requests for {}{}", site.host, site.path.as_deref().unwrap_or_default());
        let to = format!("`{}:{}`", site.to.node, site.to.port);
        let sentence =
            format!("`outside` may open {web} of the host, which ends at {here}; it passes {what} on to {to}");
        grants.push(published(here, &web, site.place, sentence));
    }
    for redirect in &hub.redirects {
        let what = format!("requests for {} to {}", redirect.host, redirect.to);
        let sentence = format!("`outside` may open {web} of the host, which ends at {here}; it redirects {what}");
        grants.push(published(here, &web, redirect.place, sentence));
    }
    for forward in &hub.forwards {
        let to = Party::Node(topology.namespace_of(&forward.to.node).as_str());
        let end = format!("`{}:{}`", forward.to.node, forward.to.port);
        let conditions = conditions(forward.from.as_ref(), None, None, false);
        let sentence =
            format!("`outside` may open {} of the host, which {here} forwards to {end}{conditions}", forward.port);
        grants.push(Grant {
            arrives: Some(moved(&forward.port, forward.to.port)),
            conditional: forward.from.is_some(),
            asks: Asks { from: forward.from.as_ref(), ..Asks::default() },
            ..published(to, &forward.port, forward.place, sentence)
        });
    }
    certificates(topology, hub, wire, grants);

    let Some(wireguard) = &hub.wireguard else { return };
    let listen =
        Service { protocol: Protocol::Udp, ports: vec![(wireguard.listen, wireguard.listen)], icmp_type: None };
    let sentence = format!("`outside` may open {listen} of the host, which ends at {here}: its WireGuard");
    grants.push(published(here, &listen, wireguard.place, sentence));
    for peer in &wireguard.peers {
        let from = Party::Peer(hub, peer);
        for (wire, end) in topology.wires_of(name).filter(|(wire, end)| may_use(topology, peer, wire, *end)) {
            let only = |flow: &'a Flow| flow.from.as_ref().filter(|from| matches!(from, Whom::Set(_)));
            let flows = opened_by(wire, end).iter().filter(|flow| is_for(flow, peer));
            grants.extend(flows.map(|flow| Grant::of_flow(from, wire, end, flow, only(flow))));
            if wire.mode == Mode::Audit {
                grants.push(Grant::of_audit(from, wire, end));
            }
        }
        for other in wireguard.peers.iter().filter(|other| !wireguard.isolate && other.name != peer.name) {
            let to = Party::Peer(hub, other);
            let sentence = format!("{from} may open anything to {to}: {here} has `isolate = false`");
            grants.push(Grant { line: Some(wireguard.place.line), ..Grant::new(from, to, None, sentence) });
        }
    }
}

/// What ACME needs of egress, which follows from a site or redirect that asks for a certificate.
fn certificates<'a>(topology: &'a Topology, hub: &'a Hub, wire: Option<&'a Name>, grants: &mut Vec<Grant<'a>>) {
    let sites = hub.sites.iter().map(|site| (&site.host, &site.tls, site.place));
    let redirects = hub.redirects.iter().map(|redirect| (&redirect.host, &redirect.tls, redirect.place));
    let asks = |(_, tls, _): &(&String, &Option<Tls>, Place)| **tls == Some(Tls::Acme);
    let Some((host, _, place)) = sites.chain(redirects).find(asks) else {
        return;
    };
    let directory = topology.acme.as_ref().and_then(|acme| acme.directory.as_deref());
    let authority = directory.and_then(|url| url.split("://").nth(1)).and_then(|rest| rest.split('/').next());
    let port = authority.and_then(|text| text.rsplit_once(':')).and_then(|(_, port)| port.parse().ok()).unwrap_or(443);
    let from = Party::Node(hub.name.as_str());
    for (protocol, port) in [(Protocol::Tcp, port), (Protocol::Udp, 53), (Protocol::Tcp, 53)] {
        let service = Service { protocol, ports: vec![(port, port)], icmp_type: None };
        let sentence =
            format!("{from} may open {service} to `outside`, as ACME needs it for the certificate of {host}");
        let grant = Grant::new(from, Party::Outside, Some(service), sentence);
        grants.push(Grant { wire, line: Some(place.line), conditional: true, ..grant });
    }
}

fn host<'a>(topology: &'a Topology, grants: &mut Vec<Grant<'a>>) {
    let (host, outside) = (Party::Node(HOST), Party::Outside);
    let sentence = "`host` may open anything to `outside`: its own connections are not policed".to_owned();
    grants.push(Grant::new(host, outside, None, sentence));
    if topology.host.policy == Policy::Wires {
        let sentence =
            "`outside` may open anything to `host`: `policy = \"wires\"` does not police the host itself".to_owned();
        grants.push(Grant::new(outside, host, None, sentence));
        return;
    }
    for flow in &topology.host.allow {
        let conditions = conditions(flow.from.as_ref(), flow.to.as_ref(), flow.rate, flow.log);
        let sentence = format!("`outside` may open {} to `host`{conditions}", flow.flow);
        grants.push(Grant {
            line: Some(flow.place.line),
            conditional: flow.from.is_some() || flow.to.is_some(),
            asks: Asks::of(flow),
            ..Grant::new(outside, host, Some(flow.flow.clone()), sentence)
        });
    }
}

/// A service with its ports moved so that the first one is `first`.
fn moved(service: &Service, first: u16) -> Service {
    let low = service.ports.first().map_or(0, |range| range.0);
    let shift = |port: u16| first.saturating_add(port - low);
    Service { ports: service.ports.iter().map(|&(a, b)| (shift(a), shift(b))).collect(), ..service.clone() }
}

fn conditions(from: Option<&Whom>, to: Option<&Whom>, rate: Option<Rate>, log: bool) -> String {
    let mut text = String::new();
    if let Some(from) = from {
        text += &format!(", from {from} only");
    }
    if let Some(to) = to {
        text += &format!(", to {to} only");
    }
    if let Some(Rate { count, per, .. }) = rate {
        let connections = if count == 1 { "connection" } else { "connections" };
        let per = match per {
            Per::Second => "a second",
            Per::Minute => "a minute",
            Per::Hour => "an hour",
            Per::Day => "a day",
        };
        text += &format!(", at most {count} new {connections} {per} from each address");
    }
    if log {
        text += ", logged";
    }
    text
}
