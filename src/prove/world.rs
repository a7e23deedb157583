//! The outside of a lab: which addresses it has and the host has towards it, so that everything which the file says of the
//! outside can be tried. Worked out from the file; the lab builds it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::What;
use super::questions::edges;
use crate::topology::{Device, Name, OUTSIDE, Protocol, Topology, Whom, Wire};
use crate::why::dial::{Contents, is_public};

/// What is beyond the host's uplinks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    pub uplinks: Vec<Uplink>,
    /// Who listens where.
    pub listeners: BTreeSet<(Name, Protocol, u16)>,
}

/// One uplink of the host's and what is at its far end.
#[derive(Clone, Debug, PartialEq)]
pub struct Uplink {
    pub device: Device,
    /// A /30 that nobody routes (RFC 2544, 198.18.0.0/15): the host's address in it, then the outside's.
    pub near: Ipv4Addr,
    pub far: Ipv4Addr,
    /// The same for IPv6 (RFC 5180, 2001:2::/48), as a /64.
    pub near6: Ipv6Addr,
    pub far6: Ipv6Addr,
    /// What else the host is called there: addresses that something is published at or leaves by.
    pub called: Vec<Ipv4Addr>,
    /// Who else there is: one of each kind that the file tells apart.
    pub others: Vec<Ipv4Addr>,
}

impl World {
    /// Every uplink of the host's; what the file says of addresses belongs to the first.
    pub fn of(topology: &Topology, sets: &Contents) -> World {
        let published = || topology.wires.iter().flat_map(|wire| &wire.publish);
        let uplink = |(number, device): (usize, &Device)| {
            let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + 4 * number as u32;
            let six = |last| Ipv6Addr::new(0x2001, 2, 0, number as u16, 0, 0, 0, last);
            Uplink {
                device: device.clone(),
                near: Ipv4Addr::from(first + 1),
                far: Ipv4Addr::from(first + 2),
                near6: six(1),
                far6: six(2),
                called: Vec::new(),
                others: Vec::new(),
            }
        };
        let mut world =
            World { uplinks: topology.host.uplinks.iter().enumerate().map(uplink).collect(), ..World::default() };
        for publish in published() {
            let on = |uplink: &&mut Uplink| publish.on.as_ref().is_none_or(|device| *device == uplink.device);
            if let (Some(IpAddr::V4(address)), Some(uplink)) = (publish.address, world.uplinks.iter_mut().find(on)) {
                uplink.call(address);
            }
        }
        let snat = topology.nodes.values().filter_map(|node| node.snat);
        let others = others(topology, sets);
        if let Some(first) = world.uplinks.first_mut() {
            for address in snat {
                if let IpAddr::V4(address) = address {
                    first.call(address);
                }
            }
            first.others = others.into_iter().filter(|other| !first.called.contains(other)).collect();
        }
        let egress = topology.nodes.values().flat_map(|node| &node.egress);
        for what in egress.flat_map(|flow| edges(&flow.flow)).chain(HIDDEN) {
            world.listen(OUTSIDE, what);
        }
        world
    }

    /// All addresses of the outside, of IPv4.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.uplinks.iter().flat_map(|uplink| [uplink.far].into_iter().chain(uplink.others.iter().copied()))
    }

    fn listen(&mut self, node: &str, what: What) {
        let port = match what {
            What::Tcp(port) => Some((Protocol::Tcp, port)),
            What::Udp(port) => Some((Protocol::Udp, port)),
            What::Echo => None,
        };
        if let (Some((protocol, port)), Some(name)) = (port, Name::new(node)) {
            self.listeners.insert((name, protocol, port));
        }
    }

    /// Whether somebody listens at a node there; nobody does for IPv6.
    pub fn listens(&self, node: &Name, what: What, address: IpAddr) -> bool {
        let here = |protocol, port| self.listeners.contains(&(node.clone(), protocol, port));
        address.is_ipv4()
            && match what {
                What::Tcp(port) => here(Protocol::Tcp, port),
                What::Udp(port) => here(Protocol::Udp, port),
                What::Echo => false,
            }
    }
}

/// Ports of the outside that no flow needs to name: somebody is there whom nobody may reach.
const HIDDEN: [What; 2] = [What::Tcp(7), What::Udp(7)];

impl Uplink {
    fn call(&mut self, address: Ipv4Addr) {
        if !self.called.contains(&address) {
            self.called.push(address);
        }
    }
}

/// One address for each network that a flow names and each set, and a private one that none does.
fn others(topology: &Topology, sets: &Contents) -> Vec<Ipv4Addr> {
    let mut whom: Vec<&Whom> = Vec::new();
    whom.extend(topology.wires.iter().flat_map(|wire| &wire.publish).filter_map(|publish| publish.from.as_ref()));
    whom.extend(topology.nodes.values().flat_map(|node| &node.egress).filter_map(|flow| flow.to.as_ref()));
    whom.extend(topology.hubs.values().flat_map(|hub| &hub.forwards).filter_map(|forward| forward.from.as_ref()));
    whom.extend(topology.host.allow.iter().filter_map(|flow| flow.from.as_ref()));
    let block = topology.host.block.clone().map(Whom::Set);
    whom.extend(&block);
    let mut found = Vec::new();
    for whom in whom {
        let network = match whom {
            Whom::Network(network) => Some(*network),
            Whom::Set(name) => sets.get(name).and_then(|networks| networks.first().copied()),
        };
        found.extend(network.and_then(|network| network.iter().take(2).last()));
    }
    let private: [IpAddr; 3] = [[192, 168, 255, 254], [172, 31, 255, 254], [10, 255, 255, 254]].map(IpAddr::from);
    let clients = || topology.hubs.values().filter_map(|hub| hub.clients.as_ref());
    let taken = |ip: IpAddr| {
        let wired = |wire: &Wire| matches!(ip, IpAddr::V4(v4) if wire.subnet.contains(v4));
        topology.wires.iter().any(wired) || clients().any(|clients| clients.prefix.contains(ip))
    };
    found.extend(private.into_iter().find(|ip| !taken(*ip)));
    let mut others = Vec::new();
    for ip in found {
        if let IpAddr::V4(v4) = ip
            && !taken(ip)
            && !others.contains(&v4)
            && (is_public(ip) || v4.is_private() || v4.octets()[0] == 100)
        {
            others.push(v4);
        }
    }
    others
}
