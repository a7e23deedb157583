//! What the file says of one connection: who opens it, over which wire, from and to which addresses. `prove` holds what packets
//! do against this. It knows grants and addresses; rules it never sees.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::grant::{self, Grant, Party, Rated};
use crate::topology::{HOST, Name, OUTSIDE, Service, Topology, Whom};

/// What the sets of a file hold now, by name. One that is not here holds nobody knows what.
pub type Contents = BTreeMap<Name, Vec<IpNetwork>>;

/// A connection that somebody may try to open.
pub struct Dial<'a> {
    /// A node that owns its namespace, or `outside`.
    pub from: &'a str,
    pub to: &'a str,
    /// The wire whose far end is dialled, between two nodes.
    pub wire: Option<&'a Name>,
    /// One port, or one type of ICMP.
    pub service: &'a Service,
    pub source: IpAddr,
    pub address: IpAddr,
}

/// What the file says of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// With the rate of the flow that lets it through, if that has one.
    Pass(Option<Rated>),
    Drop,
    /// It turns on this set, whose contents are not known.
    Depends(Name),
}

/// Where a connection from the outside ends.
#[derive(Debug, PartialEq)]
pub struct Landing<'a> {
    pub node: &'a str,
    /// The port there, of tcp and udp.
    pub arrives: Option<u16>,
    pub verdict: Verdict,
}

/// The grants of a file, to be asked many times.
pub struct Grants<'a> {
    topology: &'a Topology,
    sets: &'a Contents,
    /// By who opens and where it ends.
    between: BTreeMap<&'a str, BTreeMap<&'a str, Vec<Grant<'a>>>>,
}

impl<'a> Grants<'a> {
    pub fn of(topology: &'a Topology, sets: &'a Contents) -> Grants<'a> {
        let mut between: BTreeMap<&str, BTreeMap<&str, Vec<Grant>>> = BTreeMap::new();
        for grant in grant::all(topology) {
            // Who comes in through a tunnel has no namespace to send from.
            if let (Some(from), Some(to)) = (word(grant.from), word(grant.to)) {
                between.entry(from).or_default().entry(to).or_default().push(grant);
            }
        }
        Grants { topology, sets, between }
    }

    /// Everything that is granted from one to the other.
    pub fn between(&self, from: &str, to: &str) -> &[Grant<'a>] {
        self.between.get(from).and_then(|to_whom| to_whom.get(to)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Everything that is granted to anybody, with whom it is granted to.
    pub fn all(&self) -> impl Iterator<Item = (&'a str, &'a str, &Grant<'a>)> {
        let pairs =
            self.between.iter().flat_map(|(from, whom)| whom.iter().map(move |(to, grants)| (*from, *to, grants)));
        pairs.flat_map(|(from, to, grants)| grants.iter().map(move |grant| (from, to, grant)))
    }

    /// What the file says of a connection between two nodes, or from a node to the outside.
    pub fn verdict(&self, dial: &Dial) -> Verdict {
        let over = |grant: &&Grant| dial.to == OUTSIDE || grant.wire == dial.wire;
        let grants = self.between(dial.from, dial.to).iter().filter(over);
        first(grants.map(|grant| (grant, self.allows(grant, dial))))
    }

    /// Where a connection from the outside to an address of the host's ends, one that is no wire's end. `on` is the device it
    /// comes in on.
    pub fn landing(&self, dial: &Dial, on: &str) -> Landing<'a> {
        let at_host = |verdict| Landing { node: HOST, arrives: None, verdict };
        match (self.blocks(dial.source), &self.topology.host.block) {
            (None, Some(block)) => return at_host(Verdict::Depends(block.clone())),
            (Some(true), _) => return at_host(Verdict::Drop),
            _ => {}
        }
        let handed_on = self.between.get(OUTSIDE).into_iter().flatten().filter(|(to, _)| **to != HOST);
        // What is published at one address is meant before what is at all of them.
        for named in [Some(dial.address), None] {
            let here = |grant: &&Grant| {
                grant.asks.address == named && grant.asks.on.is_none_or(|device| device.as_str() == on)
            };
            for (node, grants) in handed_on.clone() {
                let mut arrives = None;
                let verdict = first(grants.iter().filter(here).map(|grant| {
                    let allows = self.allows(grant, dial);
                    if allows == Ok(true) {
                        arrives = grant.arrives_at(dial.service);
                    }
                    (grant, allows)
                }));
                if verdict != Verdict::Drop {
                    return Landing { node, arrives, verdict };
                }
            }
        }
        at_host(first(self.between(OUTSIDE, HOST).iter().map(|grant| (grant, self.allows(grant, dial)))))
    }

    /// Whether the host drops whatever comes from an address, before it asks what that is; `None`: nobody knows.
    pub fn blocks(&self, source: IpAddr) -> Option<bool> {
        self.topology.host.block.as_ref().map_or(Some(false), |block| self.holds(block, source))
    }

    /// Whether a grant is for a connection; an unknown set is the answer where it turns on that.
    fn allows(&self, grant: &Grant, dial: &Dial) -> Result<bool, Name> {
        let Some(service) = &grant.service else { return Ok(true) };
        if !service.covers(dial.service) || (grant.asks.public && !is_public(dial.address)) {
            return Ok(false);
        }
        let mut unknown = None;
        for (whom, address) in [(grant.asks.from, dial.source), (grant.asks.to, dial.address)] {
            match whom {
                None => {}
                Some(Whom::Network(network)) if network.contains(address) => {}
                Some(Whom::Network(_)) => return Ok(false),
                Some(Whom::Set(name)) => match self.holds(name, address) {
                    Some(true) => {}
                    Some(false) => return Ok(false),
                    None => unknown = Some(name.clone()),
                },
            }
        }
        unknown.map_or(Ok(true), Err)
    }

    fn holds(&self, set: &Name, address: IpAddr) -> Option<bool> {
        Some(self.sets.get(set)?.iter().any(|network| network.contains(address)))
    }
}

/// Of several answers the one that lets through, else the one that is not known. A flow without a rate lets everything through
/// that one with a rate would not.
fn first<'g, 'a: 'g>(answers: impl Iterator<Item = (&'g Grant<'a>, Result<bool, Name>)>) -> Verdict {
    let mut verdict = Verdict::Drop;
    for (grant, answer) in answers {
        match (answer, &verdict) {
            (Ok(true), Verdict::Drop | Verdict::Depends(_) | Verdict::Pass(Some(_))) => {
                verdict = Verdict::Pass(grant.asks.rate);
            }
            (Err(set), Verdict::Drop) => verdict = Verdict::Depends(set),
            _ => {}
        }
    }
    verdict
}

fn word<'a>(party: Party<'a>) -> Option<&'a str> {
    match party {
        Party::Outside => Some(OUTSIDE),
        Party::Node(name) => Some(name),
        Party::Peer(..) => None,
    }
}

/// Whether an egress that does not say where to may go there: everything but what is private, shared, local to a link or a
/// machine, or meant for many (the special-purpose registries of RFC 6890, as the contract has them).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            !(a == 0 || a == 127 || a >= 224 || shared || v4.is_private() || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            !(first == 0 || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 || first >= 0xff00)
        }
    }
}
