//! What is tried between a lab's house and its outside: what is published, what is not, every address of the house as a
//! neighbour with a route of his own would dial it, and what nodes may open towards the outside.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::questions::{Address, Gathered, edges, of_end};
use super::world::Uplink;
use super::{Answerer, How, Probe, What};
use crate::topology::{HOST, Mode, Name, OUTSIDE};
use crate::why::dial::{Dial, Landing, Verdict};

/// Between two in one room a packet never gets old.
const FAR: u8 = 64;

impl Gathered<'_, '_> {
    /// Everything that the outside dials.
    pub fn enter(&mut self) {
        let Some(world) = self.questions.house.world else { return };
        let called = self.called();
        for uplink in &world.uplinks {
            let sources = [&uplink.far].into_iter().chain(&uplink.others);
            for (i, source) in sources.enumerate() {
                for near in [&uplink.near].into_iter().chain(&uplink.called) {
                    for &what in &called {
                        // Where nobody asks who it is, one is enough.
                        self.at_uplink(uplink, (*source).into(), (*near).into(), what, i == 0);
                    }
                }
            }
        }
        if !world.uplinks.is_empty() {
            self.inwards();
        }
    }

    /// All that is published anywhere, and what nobody declares at the host.
    fn called(&self) -> BTreeSet<What> {
        let from_outside = self.questions.grants.all().filter(|(from, _, _)| *from == OUTSIDE);
        let services = from_outside.filter_map(|(_, _, grant)| grant.service.as_ref());
        let mut called: BTreeSet<What> = services.flat_map(edges).collect();
        let declared = called.clone();
        let free = |of: fn(u16) -> What| (1..=u16::MAX).map(of).find(|what| !declared.contains(what));
        called.extend([free(What::Tcp), free(What::Udp), Some(What::Echo)].into_iter().flatten());
        called.extend(self.questions.tried_at(&Name::host()).iter());
        called
    }

    /// One port at one of the host's addresses, from one of the outside's.
    fn at_uplink(&mut self, uplink: &Uplink, source: IpAddr, address: IpAddr, what: What, always: bool) {
        let service = what.service(address);
        let dial = Dial { from: OUTSIDE, to: HOST, wire: None, service: &service, source, address };
        let Landing { node, arrives, verdict } = self.questions.grants.landing(&dial, uplink.device.as_str());
        let blocked = self.questions.topology().host.block.is_some();
        let asked = || {
            self.questions.grants.all().any(|(from, _, grant)| {
                from == OUTSIDE
                    && grant.asks.from.is_some()
                    && grant.service.as_ref().is_some_and(|s| s.covers(&service))
            })
        };
        let Some(to) = Name::new(node) else { return };
        if !(always || blocked || asked()) || !self.questions.in_scope(self.from, &to, None) || !self.is_there(&to) {
            return;
        }
        let ends = match (what, arrives) {
            (What::Tcp(_), Some(port)) => What::Tcp(port),
            (What::Udp(_), Some(port)) => What::Udp(port),
            (what, _) => what,
        };
        let listens = self.questions.house.world.is_some_and(|world| world.listens(&to, ends, address));
        let by = Answerer { node: to.clone(), listens, client: Some(source) };
        let probe = self.probe(&to, Address { ip: address, on: None }, what, FAR);
        self.ask(Probe { how: How::Dial(Some(source)), ..probe }, verdict, Some(by));
    }

    fn is_there(&self, node: &Name) -> bool {
        self.questions.house.present.contains(node)
    }

    /// Every address of the house, by routes that somebody on the LAN has added.
    fn inwards(&mut self) {
        for (to, address) in self.questions.addresses_but_of(self.from) {
            let Some((wire, end)) = address.on else { continue };
            let watched = wire.mode == Mode::Audit && wire.far(end).node.is_host();
            if watched || !self.questions.in_scope(self.from, to, Some(wire)) {
                continue;
            }
            for what in self.questions.tried_at(to).iter() {
                self.probes.push(self.probe(to, address, *what, FAR));
            }
        }
    }

    /// What a node opens towards the outside.
    pub fn leave(&mut self) {
        let Some(world) = self.questions.house.world else { return };
        let (Some(first), Some(outside)) = (world.uplinks.first(), Name::new(OUTSIDE)) else { return };
        if !self.questions.in_scope(self.from, &outside, None) {
            return;
        }
        let topology = self.questions.topology();
        let is_host = self.from.is_host();
        let egress = topology.nodes.values().filter(|node| !node.egress.is_empty());
        let own = egress.filter(|node| topology.namespace_of(&node.name) == self.from);
        let leaves_by = own.filter_map(|node| node.snat).next().unwrap_or(first.near.into());
        let out = self.questions.house.ways.out(self.from);
        let source = out.and_then(|wire| of_end(wire, wire.end_in(self.from.as_str())?).next());
        let leads_out = is_host || self.leads_out();
        let whats: BTreeSet<What> = world
            .listeners
            .iter()
            .filter(|(node, ..)| *node == outside)
            .filter_map(|(_, protocol, port)| What::of(*protocol, *port))
            .chain([What::Echo])
            .collect();
        for far in [&first.far].into_iter().chain(&first.others) {
            let ip = IpAddr::from(*far);
            // Whoever is blocked cannot answer, so that it would not be seen what was sent to him.
            if self.questions.grants.blocks(ip) != Some(false) {
                continue;
            }
            for &what in &whats {
                let service = what.service(ip);
                let dial = Dial {
                    from: self.from.as_str(),
                    to: OUTSIDE,
                    wire: None,
                    service: &service,
                    source: source.unwrap_or(leaves_by),
                    address: ip,
                };
                let verdict = if leads_out { self.questions.grants.verdict(&dial) } else { Verdict::Drop };
                let by = Answerer {
                    node: outside.clone(),
                    listens: world.listens(&outside, what, ip),
                    client: (!is_host).then_some(leaves_by),
                };
                let probe = self.probe(&outside, Address { ip, on: None }, what, FAR);
                self.ask(probe, verdict, Some(by));
            }
        }
    }

    /// Whether the default routes of the file lead from here to the host.
    fn leads_out(&self) -> bool {
        let mut node = self.from;
        for _ in 0..4 {
            let Some(wire) = self.questions.house.ways.out(node) else { return false };
            let Some(end) = wire.end_in(node.as_str()) else { return false };
            node = &wire.far(end).node;
            if node.is_host() {
                return true;
            }
        }
        false
    }
}
