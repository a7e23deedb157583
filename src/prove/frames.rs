//! What somebody tries who has taken over a namespace: packets with a source that is not his, and packets to addresses behind
//! the far end, as a route added by hand would send them. Put on the wire as frames, they pass whatever his own namespace says.

use std::net::IpAddr;

use super::questions::{Address, Gathered, Walk, edges, frame, of_end};
use super::{How, Probe, What};
use crate::topology::{Flow, HOST, Mode, Name, OUTSIDE, Wire};
use crate::why::grant::{Grant, opened_by};

impl<'a> Gathered<'_, 'a> {
    /// From each end of each wire one packet with a foreign source by way of the kernel, and one as a frame.
    pub fn forged(&mut self) {
        for (wire, end) in self.questions.wires_of(self.from) {
            let far = &wire.far(end).node;
            if wire.mode == Mode::Audit || !self.questions.in_scope(self.from, far, Some(wire)) {
                continue;
            }
            let Some(what) = self.guarded(wire, end) else { continue };
            for ip in of_end(wire, 1 - end) {
                let source = self.foreign(wire, ip.is_ipv4());
                let probe = self.probe(far, Address { ip, on: Some((wire, 1 - end)) }, what, 1);
                self.probes.push(Probe { how: How::Raw(source), ..probe.clone() });
                self.probes.push(Probe { how: frame(wire, end, source), ..probe });
            }
        }
    }

    /// From each end of each wire a frame to every address that its far node has or passes packets on to.
    pub fn detours(&mut self) {
        for (wire, end) in self.questions.wires_of(self.from) {
            let far = &wire.far(end).node;
            for (to, address) in self.questions.addresses_but_of(self.from) {
                let here = address.on.is_some_and(|(on, _)| on.name == wire.name);
                let source = of_end(wire, end).find(|ip| ip.is_ipv4() == address.ip.is_ipv4());
                let (false, Some(source)) = (here, source) else { continue };
                let walk = match to == far {
                    true => Walk { hops: 0, arrives: true, watched: true },
                    false => self.questions.walk(far, to, address),
                };
                let watched = walk.watched && wire.mode == Mode::Audit;
                let on = address.on.map(|(wire, _)| wire);
                let meant = self.questions.in_scope(self.from, to, on);
                if watched || !walk.arrives || !meant {
                    continue;
                }
                let declared = self.questions.tried_at(to).iter().copied().find(|what| matches!(what, What::Tcp(_)));
                let Some(what) = declared else { continue };
                let probe = self.probe(to, address, what, walk.hops + 1);
                self.probes.push(Probe { how: frame(wire, end, source), ..probe });
            }
        }
    }

    /// What an end may open itself, for preference. Not what is published: that comes over a relay with whatever source.
    fn guarded(&self, wire: &Wire, end: usize) -> Option<What> {
        let (here, far) = (&wire.ends[end], wire.far(end));
        let relays = !self.questions.topology().is_leaf(here.node.as_str());
        let over = |(from, to, grant): &(&str, &str, &Grant)| {
            *from == OUTSIDE && *to != HOST && (grant.wire == Some(&wire.name) || *to == far.node.as_str())
        };
        let published = self.questions.grants.all().filter(|grant| relays && over(grant));
        let services = published.flat_map(|(_, _, grant)| [grant.service.clone(), grant.arrives.clone()]);
        let services: Vec<_> = services.flatten().collect();
        let address = IpAddr::from(far.address);
        let free = |what: &What| !services.iter().any(|service| service.covers(&what.service(address)));
        let plain = |flow: &&Flow| flow.from.is_none() && flow.to.is_none() && flow.rate.is_none();
        let own = opened_by(wire, end).iter().filter(plain).filter_map(|flow| edges(&flow.flow).next());
        own.chain(self.questions.undeclared(&far.node, What::Tcp)).find(free)
    }

    /// An address of another wire, that of a neighbour where there is one; else one for documentation (RFC 5737, RFC 3849).
    fn foreign(&self, wire: &Wire, v4: bool) -> IpAddr {
        let ends: [&Name; 2] = [&wire.ends[0].node, &wire.ends[1].node];
        let others = self.questions.topology().wires.iter().flat_map(|other| {
            other
                .ends
                .iter()
                .enumerate()
                .filter(|(_, end)| !ends.contains(&&end.node))
                .flat_map(move |(end, _)| of_end(other, end))
        });
        let mut others = others.filter(|ip| ip.is_ipv4() == v4);
        others.next().unwrap_or(if v4 {
            IpAddr::from([198, 51, 100, 77])
        } else {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77])
        })
    }
}
