//! `wire lab`: the topology in namespaces to throw away, wired by the same line as everywhere else.

use std::collections::BTreeSet;

use crate::apply;
use crate::desired;
use crate::error::{Error, Exit};
use crate::kernel::lab::{self, Lab, Listeners, Side};
use crate::near::nearest;
use crate::plan;
use crate::prove::world::World;
use crate::report;
use crate::rules::Rules;
use crate::sets;
use crate::state::State;
use crate::target::Scope;
use crate::topology::{HOST, Home, Hub, Name, OUTSIDE, Protocol, Service, Topology};
use crate::voice::Voice;

/// A range of ports longer than this is listened on in its first ports alone.
const PORTS: usize = 64;

/// Builds everything, wires, proves and audits it, and runs `command` in `node` if there is one. Returns the exit code.
pub fn run(voice: &Voice, mut topology: Topology, node: &str, command: &[String]) -> Result<u8, Error> {
    let place = match topology.nodes.get_key_value(node) {
        Some((name, _)) => topology.namespace_of(name).clone(),
        None if node == HOST => Name::host(),
        None if node == OUTSIDE && !topology.host.uplinks.is_empty() => Name::outside(),
        None => {
            let known = topology.nodes.keys().map(Name::as_str).chain([HOST, OUTSIDE]);
            let hint = match nearest(node, known) {
                Some(OUTSIDE) if topology.host.uplinks.is_empty() => {
                    "there is an outside where [host] has `uplinks`".to_owned()
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => "a node is one of [module], or `host`, or `outside`".to_owned(),
            };
            return Err(Error::invalid(format!("there is no node `{node}`")).hint(hint));
        }
    };
    if let Side::Outside(code) = lab::enter()? {
        return Ok(code);
    }
    for node in topology.nodes.values_mut() {
        // Here they are all there from the start.
        (node.home, node.owned) = (Home::Netns(node.name.clone()), false);
    }
    let lab = Lab::new()?;
    let sets = sets::look(voice, &topology)?;
    let ranges = sets::ranges(&sets);
    let sets = sets::networks(&sets);
    let mut world = World::of(&topology, &sets);
    let mut listeners = Listeners::default();
    let mut inside = None;
    if let Some(outside) = lab.outside(&topology, &world)? {
        for (node, protocol, port) in world.listeners.iter().filter(|(node, ..)| node.as_str() == OUTSIDE) {
            for address in world.addresses() {
                listeners.add_at(&lab, node, &outside, address, (*protocol, *port))?;
            }
        }
        if node == OUTSIDE {
            inside = Some(outside);
        }
    }
    for node in topology.nodes.values().filter(|node| node.shares.is_none()) {
        let netns = lab.namespace(node.name.as_str())?;
        for (protocol, port) in ports(&topology, &node.name) {
            listeners.add(&lab, &node.name, &netns, protocol, port)?;
            world.listeners.insert((node.name.clone(), protocol, port));
        }
        if node.name == place {
            inside = Some(netns);
        }
    }
    listeners.answer();
    let scope = Scope::everything(&topology);
    let rules = Rules::of(&topology, &ranges);
    // Nobody dials in here, and keys are none of its business.
    let want = |seen: &State| desired::up(&topology, &rules, &scope, seen).without_tunnels();
    let (report, seen) = apply::change(voice, &rules, &scope, &apply::lock(voice)?, want)?;
    if !command.is_empty() && report.is_success() {
        return lab.run(inside.as_ref(), command);
    }
    let proof = apply::prove(&rules, &scope, &sets, Some(&world))?;
    let plan = plan::diff(&want(&seen), &seen);
    let audit = report::audit(&topology, &scope, &seen, &plan, plan::strangers(&topology, &seen));
    voice.lab(&report, &proof, &audit);
    Ok(match report.is_success() {
        true if proof.exit() == Exit::Done => audit.exit(),
        true => proof.exit(),
        false => Exit::Failed,
    } as u8)
}

/// The ports that a node is to answer on: those of every flow towards it, and of what is published at it or handed on to it.
fn ports(topology: &Topology, node: &Name) -> BTreeSet<(Protocol, u16)> {
    let mut ports = BTreeSet::new();
    let mut add = |service: &Service, shift: Option<u16>| {
        for &(low, high) in &service.ports {
            let moved = shift.map_or(low, |to| to + (low - service.ports[0].0));
            let range = (moved..=moved + (high - low)).take(PORTS);
            ports.extend(range.map(|port| (service.protocol, port)));
        }
    };
    for (wire, end) in topology.wires_of(node.as_str()) {
        let towards = if end == 1 { &wire.allow } else { &wire.allow_back };
        towards.iter().for_each(|flow| add(&flow.flow, None));
        if wire.far(end).node.is_host() {
            wire.publish.iter().for_each(|publish| add(&publish.flow, publish.to_port));
        }
    }
    let forwards = topology.hubs.values().flat_map(|hub| &hub.forwards);
    for forward in forwards.filter(|forward| topology.namespace_of(&forward.to.node) == node) {
        add(&forward.port, Some(forward.to.port));
    }
    // A hub's door turns nobody away: where nobody listens, nothing would be heard of who came in.
    if topology.hubs.get(node).is_some_and(Hub::serves_web) {
        ports.extend([443, 80].map(|port| (Protocol::Tcp, port)));
    }
    ports
}
