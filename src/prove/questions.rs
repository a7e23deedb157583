//! Which packets to send between the nodes of a house: from every node to every address of every other, whatever of it the
//! file declares, and a port of each kind that it does not.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use super::{Answerer, Doubt, Expected, House, How, Probe, Unknown, What};
use crate::topology::{self, Mac, Mode, Name, OUTSIDE, Place, Protocol, Service, Topology, Wire};
use crate::why::dial::{Dial, Grants, Verdict};

/// More namespaces than this no packet of a house passes: leaf, hub, host, hub, leaf.
const FARTHEST: u8 = 5;

pub struct Questions<'a> {
    pub house: &'a House<'a>,
    pub grants: Grants<'a>,
    wires: BTreeMap<&'a Name, Vec<(&'a Wire, usize)>>,
    /// All that may be dialled at a node.
    addresses: BTreeMap<&'a Name, Vec<Address<'a>>>,
    /// What the file declares at a node, whoever may open it.
    declared: HashMap<&'a str, Vec<Service>>,
    /// What to try at a node, worked out once.
    tried: RefCell<HashMap<Name, Rc<BTreeSet<What>>>>,
}

/// An address of a node's.
#[derive(Clone, Copy)]
pub struct Address<'a> {
    pub ip: IpAddr,
    /// The wire it is on, and with which end; the host has others.
    pub on: Option<(&'a Wire, usize)>,
}

/// What becomes of a packet by the routes of the file.
pub struct Walk {
    /// How many namespaces it enters.
    pub hops: u8,
    pub arrives: bool,
    /// Whether every wire on its way is in audit mode: then nothing is said of it.
    pub watched: bool,
}

/// What a sender tries, gathered.
pub struct Gathered<'q, 'a> {
    pub questions: &'q Questions<'a>,
    pub from: &'q Name,
    pub probes: Vec<Probe>,
    pub unknown: Vec<Unknown>,
    /// Flows with a rate that are tried already, by IP version: once is enough.
    rated: HashSet<(usize, usize, bool)>,
}

impl<'a> Questions<'a> {
    pub fn of(house: &'a House<'a>) -> Questions<'a> {
        let topology = house.topology;
        let grants = Grants::of(topology, house.sets);
        let wires = topology.wires_by_node();
        let mut addresses: BTreeMap<&Name, Vec<Address>> = BTreeMap::new();
        for (node, wires) in &wires {
            let own = wires
                .iter()
                .flat_map(|&(wire, end)| of_end(wire, end).map(move |ip| Address { ip, on: Some((wire, end)) }));
            addresses.insert(node, own.collect());
        }
        if let Some((host, _)) = wires.get_key_value(&Name::host()) {
            let others = house.host.iter().map(|&ip| Address { ip, on: None });
            addresses.entry(host).or_default().extend(others);
        }
        let mut declared: HashMap<&str, Vec<Service>> = HashMap::new();
        for (_, to, grant) in grants.all() {
            declared.entry(to).or_default().extend(grant.arrives.clone().or_else(|| grant.service.clone()));
        }
        let tried = RefCell::default();
        Questions { house, grants, wires, addresses, declared, tried }
    }

    /// All that one node (or the outside) tries, and what of it the file leaves open.
    pub fn of_sender(&self, from: &Name) -> (Vec<Probe>, Vec<Unknown>) {
        let mut gathered =
            Gathered { questions: self, from, probes: Vec::new(), unknown: Vec::new(), rated: HashSet::new() };
        if from.as_str() == OUTSIDE {
            gathered.enter();
        } else {
            gathered.dial_nodes();
            gathered.link_local();
            gathered.leave();
            gathered.forged();
            gathered.detours();
        }
        (gathered.probes, gathered.unknown)
    }

    pub fn topology(&self) -> &'a Topology {
        self.house.topology
    }

    /// The addresses of every node that is there, but for one.
    pub fn addresses_but_of<'q>(&'q self, but: &'q Name) -> impl Iterator<Item = (&'a Name, Address<'a>)> + 'q {
        let others =
            self.addresses.iter().filter(move |(node, _)| **node != but && self.house.present.contains(**node));
        others.flat_map(|(node, addresses)| addresses.iter().map(|address| (*node, *address)))
    }

    /// The wires of a node whose far ends are there, with the node's end.
    pub fn wires_of(&self, node: &Name) -> Vec<(&'a Wire, usize)> {
        let all = self.wires.get(node).into_iter().flatten().copied();
        all.filter(|(wire, end)| self.house.present.contains(&wire.far(*end).node)).collect()
    }

    /// Whether a TARGET means this: the sender, or where it goes.
    pub fn in_scope(&self, from: &Name, to: &Name, wire: Option<&Wire>) -> bool {
        let scope = self.house.scope;
        let nodes = || scope.nodes.contains(from) || scope.nodes.contains(to);
        scope.everything || nodes() || wire.is_some_and(|wire| scope.wires.contains(&wire.name))
    }

    /// What to try at a node, whoever tries: what the file declares there and what it does not.
    pub fn tried_at(&self, node: &Name) -> Rc<BTreeSet<What>> {
        if let Some(known) = self.tried.borrow().get(node) {
            return Rc::clone(known);
        }
        let declared = self.declared.get(node.as_str()).map(Vec::as_slice).unwrap_or_default();
        let mut tried: BTreeSet<What> = declared.iter().flat_map(edges).collect();
        tried.extend(
            [self.undeclared(node, What::Tcp), self.undeclared(node, What::Udp), Some(What::Echo)]
                .into_iter()
                .flatten(),
        );
        let tried = Rc::new(tried);
        self.tried.borrow_mut().insert(node.clone(), Rc::clone(&tried));
        tried
    }

    /// A port that the file does not declare at a node; the number of one that it declares of the other protocol, if there is
    /// one: whoever forgot the protocol lets that through.
    pub fn undeclared(&self, node: &Name, of: fn(u16) -> What) -> Option<What> {
        let declared = self.declared.get(node.as_str()).map(Vec::as_slice).unwrap_or_default();
        let ports = declared.iter().flat_map(|service| service.ports.iter().map(|range| range.0));
        let v4 = IpAddr::from([0, 0, 0, 0]);
        let free = |what: &What| !declared.iter().any(|service| service.covers(&what.service(v4)));
        ports.chain(1..=u16::MAX).map(of).find(free)
    }

    /// The way of a packet by the routes of the file.
    pub fn walk(&self, from: &Name, owner: &Name, to: Address) -> Walk {
        let joins = |node: &Name| to.on.filter(|(wire, end)| wire.far(*end).node == *node).map(|(wire, _)| wire);
        let (mut node, mut hops, mut watched) = (from, 0, true);
        loop {
            if hops > 0 && node == owner {
                return Walk { hops, arrives: true, watched };
            }
            let direct = joins(node);
            let Some(wire) = direct.or_else(|| self.house.ways.out(node)).filter(|_| hops < FARTHEST) else {
                return Walk { hops: hops.max(1), arrives: false, watched };
            };
            watched &= wire.mode == Mode::Audit;
            let Some(end) = wire.end_in(node.as_str()) else {
                return Walk { hops: hops.max(1), arrives: false, watched };
            };
            node = &wire.far(end).node;
            hops += 1;
        }
    }
}

impl<'a> Gathered<'_, 'a> {
    /// Every address of every other node.
    fn dial_nodes(&mut self) {
        for (to, address) in self.questions.addresses_but_of(self.from) {
            if !self.questions.in_scope(self.from, to, address.on.map(|(wire, _)| wire)) {
                continue;
            }
            let own = address.on.filter(|(wire, end)| wire.far(*end).node == *self.from);
            let walk = self.questions.walk(self.from, to, address);
            if own.is_none() && walk.arrives && walk.watched {
                continue;
            }
            for what in self.whats(to) {
                let probe = self.probe(to, address, what, walk.hops);
                match own {
                    Some((wire, end)) => self.over(probe, wire, 1 - end),
                    None => self.probes.push(probe),
                }
            }
        }
    }

    /// What to try at a node: also what it may open here.
    fn whats(&self, to: &Name) -> BTreeSet<What> {
        let mut whats = (*self.questions.tried_at(to)).clone();
        let back = self.questions.grants.between(to.as_str(), self.from.as_str());
        whats.extend(back.iter().filter_map(|grant| grant.service.as_ref()).flat_map(edges));
        whats
    }

    /// A probe of the far end of a wire: what the file says depends on the flows of that wire alone.
    fn over(&mut self, probe: Probe, wire: &'a Wire, end: usize) {
        let Some(source) = of_end(wire, end).find(|ip| ip.is_ipv4() == probe.address.is_ipv4()) else { return };
        let service = probe.what.service(probe.address);
        let dial = Dial {
            from: self.from.as_str(),
            to: probe.to.as_str(),
            wire: Some(&wire.name),
            service: &service,
            source,
            address: probe.address,
        };
        let verdict = self.questions.grants.verdict(&dial);
        if verdict == Verdict::Drop {
            // Both ends hold it back, each by itself: past the near one's rules only the far one's are left.
            self.probes.push(Probe { how: frame(wire, end, source), ..probe.clone() });
        }
        let by = self.questions.house.world.map(|world| Answerer {
            node: probe.to.clone(),
            listens: world.listens(&probe.to, probe.what, probe.address),
            client: Some(source),
        });
        self.ask(probe, verdict, by);
    }

    /// The link-local address of each wire's far end, over that wire.
    fn link_local(&mut self) {
        for (wire, end) in self.questions.wires_of(self.from) {
            let far = wire.far(end);
            if !self.questions.in_scope(self.from, &far.node, Some(wire)) {
                continue;
            }
            let ip = link_local(topology::mac(&wire.name, 1 - end));
            let passes = wire.subnet6.is_some() && wire.mode == Mode::Audit;
            for what in self.whats(&far.node) {
                let address = Address { ip: ip.into(), on: Some((wire, 1 - end)) };
                let probe = self.probe(&far.node, address, what, 1);
                let expected = if passes { Expected::Pass(None) } else { Expected::Drop };
                self.probes.push(Probe { how: How::Through(wire.name.clone()), expected, ..probe });
            }
        }
    }

    /// A probe that nothing is expected to come of.
    pub fn probe(&self, to: &Name, address: Address, what: What, hops: u8) -> Probe {
        Probe {
            from: self.from.clone(),
            to: to.clone(),
            address: address.ip,
            wire: address.on.map(|(wire, _)| wire.name.clone()),
            what,
            how: How::Dial(None),
            hops,
            expected: Expected::Drop,
            burst: None,
        }
    }

    /// Takes up a probe with what the file says of it; of a flow with a rate one is enough.
    pub fn ask(&mut self, probe: Probe, verdict: Verdict, by: Option<Answerer>) {
        match verdict {
            Verdict::Drop => self.probes.push(probe),
            Verdict::Depends(set) => self.unknown.push(probe.unknown(&Doubt::Set(set))),
            Verdict::Pass(None) => self.probes.push(Probe { expected: Expected::Pass(by), ..probe }),
            Verdict::Pass(Some(rated)) => {
                let Place { line, column } = rated.place;
                if self.rated.insert((line, column, probe.address.is_ipv4())) {
                    let burst = Some(rated.rate.burst);
                    self.probes.push(Probe { expected: Expected::Pass(by), burst, ..probe });
                }
            }
        }
    }
}

/// A packet put on a wire by one of its ends.
pub fn frame(wire: &Wire, end: usize, source: IpAddr) -> How {
    How::Frame { wire: wire.name.clone(), source, mac: topology::mac(&wire.name, 1 - end) }
}

/// The addresses of an end.
pub fn of_end(wire: &Wire, end: usize) -> impl Iterator<Item = IpAddr> + use<> {
    let end = &wire.ends[end];
    [Some(end.address.into()), end.address6.map(IpAddr::from)].into_iter().flatten()
}

/// The ports of a service where something begins or ends: of a range the first, the last, and the one beyond.
pub fn edges(service: &Service) -> impl Iterator<Item = What> + use<> {
    let of = match service.protocol {
        Protocol::Tcp => Some(What::Tcp as fn(u16) -> What),
        Protocol::Udp => Some(What::Udp as fn(u16) -> What),
        Protocol::Icmp | Protocol::Icmpv6 => None,
    };
    let ports = service.ports.iter().flat_map(|&(low, high)| {
        let beyond = high.checked_add(1).filter(|_| low < high);
        [Some(low), Some(high), beyond]
    });
    let ports: BTreeSet<u16> = ports.flatten().collect();
    of.into_iter().flat_map(move |of| ports.clone().into_iter().map(of))
}

/// The address that the kernel makes out of a hardware address (RFC 4291, appendix A).
pub fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}
