//! Whether a change would cut the SSH session that it is typed in: whether the rules as they are let that connection begin, or go
//! on, and the rules as they are to be do not. Pure; who finds the session is `kernel::session`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::error::Error;
use crate::foreign;
use crate::nft::build::{ESTABLISHED, NEW, TCP};
use crate::nft::{Hook, Key, Value};
use crate::rules;
use crate::state::{End, Namespace, State};
use crate::topology::{Device, Name, Policy, Topology};

#[cfg(test)]
mod tests;

/// A connection to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub from: IpAddr,
    pub from_port: u16,
    pub to: IpAddr,
    pub port: u16,
}

impl Session {
    /// As sshd says it in `SSH_CONNECTION`: the client's address and port, the server's address and port (ssh(1)).
    pub fn of(text: &str) -> Option<Session> {
        let mut words = text.split(' ');
        let mut end = || {
            // A link-local address has its device behind a `%`, and one of IPv4 may be written as one of IPv6.
            let address: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
            Some((address.to_canonical(), words.next()?.parse().ok()?))
        };
        let ((from, from_port), (to, port)) = (end()?, end()?);
        Some(Session { from, from_port, to, port })
    }

    /// What is to be said where a change would cut it. `by_itself`: the change is undone by itself if nobody says otherwise.
    pub fn warning(self, topology: &Topology, seen: &State, wanted: &State, by_itself: bool) -> Option<Error> {
        let hint = self.cut(topology, seen, wanted)?;
        let Session { from, to, port, .. } = self;
        let sentence = format!("the change cuts the SSH session that it is typed in: {from} to tcp/{port} of {to}");
        let or = if by_itself { "" } else { ", or use `--confirm 60s`" };
        Some(Error::failed(sentence).hint(format!("{hint}{or}")))
    }

    /// What to write so that it is not cut, where it is.
    fn cut(self, topology: &Topology, seen: &State, wanted: &State) -> Option<String> {
        let host = Name::host();
        let (now, then) = (seen.namespaces.get(&host)?, wanted.namespaces.get(&host)?);
        // What comes from this host itself comes over the loopback.
        if self.from == self.to || self.from.is_loopback() {
            return None;
        }
        let Some((wire, end)) = now.ends.iter().find(|(_, end)| self.comes_over(end)) else {
            let cut = |device: &Device| self.shut(Hook::Input, (now, device), (then, device));
            return self.devices(topology, now).iter().any(cut).then(|| self.opening(topology, then));
        };
        let has = |end: &End, address: IpAddr| end.addresses.iter().any(|own| own.ip() == address);
        let Some(after) = then.ends.get(wire).filter(|after| has(after, self.to) || !has(end, self.to)) else {
            return Some(format!("it comes over wire `{wire}`: leave that one as it is, or come another way"));
        };
        let mut cut = self.shut(Hook::Input, (now, &end.device), (then, &after.device));
        // Where the far end itself has opened it, and nobody behind it, that one's rules have a say, too.
        let far = end.far.as_ref();
        if let (Some((before, end)), Some((after, other))) = (end_of(seen, far, wire), end_of(wanted, far, wire))
            && has(end, self.from)
        {
            cut |= self.shut(Hook::Output, (before, &end.device), (after, &other.device));
        }
        let towards = topology.wire(wire.as_str()).and_then(|wire| wire.end_in(host.as_str()));
        let key = if towards == Some(0) { "allow-back" } else { "allow" };
        cut.then(|| format!("give wire `{wire}` the flow `{key} = [\"tcp/{}\"]`", self.port))
    }

    fn comes_over(self, end: &End) -> bool {
        end.addresses.iter().any(|own| own.ip() == self.to || own.contains(self.from))
    }

    /// The devices that it may come in on: those in whose network this host has the address, or else the uplinks.
    fn devices(self, topology: &Topology, host: &Namespace) -> Vec<Device> {
        let holds = host
            .foreign
            .networks
            .iter()
            .filter(|(network, device)| network.prefix() > 0 && network.contains(self.to) && device != "lo");
        let narrowest = holds.max_by_key(|(network, _)| network.prefix());
        let known = narrowest.and_then(|(_, device)| Device::new(device));
        known.map_or_else(|| topology.host.uplinks.clone(), |device| vec![device])
    }

    /// Whether its first packet, or a later one, passes the rules of before and not those of after.
    fn shut(self, hook: Hook, before: (&Namespace, &Device), after: (&Namespace, &Device)) -> bool {
        [NEW, ESTABLISHED].into_iter().any(|state| {
            let passes = |(namespace, device)| self.passes(hook, state, namespace, device);
            passes(before) && !passes(after)
        })
    }

    fn passes(self, hook: Hook, state: u32, namespace: &Namespace, device: &Device) -> bool {
        let Some(table) = &namespace.table else { return true };
        let indexes = Default::default();
        let arrives = hook == Hook::Input;
        let packet = foreign::Packet {
            ipv4: self.to.is_ipv4(),
            iif: arrives.then_some(device),
            oif: (!arrives).then_some(device),
            indexes: &indexes,
            from: Some(self.from),
            to: Some(self.to),
            local: Some(arrives),
            protocol: TCP,
            source: Some((self.from_port, self.from_port)),
            ports: Some((self.port, self.port)),
            kind: 0,
            answer: false,
            state,
            handed_on: Some(false),
            dialled: Some(self.port),
        };
        foreign::passes(table, hook, &packet)
    }

    /// What to write so that it may come in on an uplink.
    fn opening(self, topology: &Topology, then: &Namespace) -> String {
        let port = self.port;
        let holds = |block: &&Name| {
            let set = then.table.as_ref()?.sets.get(rules::named(block, self.from.is_ipv4()).as_str())?;
            let address = Value::address(self.from);
            let range = |key: &Key| matches!(key, Key::Range(first, last) if *first <= address && address <= *last);
            Some(set.elements.keys().any(range))
        };
        if let Some(block) = topology.host.block.as_ref().filter(|block| holds(block) == Some(true)) {
            return format!("take {} out of set `{block}`", self.from);
        }
        let subnets =
            topology.wires.iter().flat_map(|wire| [Some(wire.subnet.into()), wire.subnet6.map(IpNetwork::V6)]);
        if subnets.flatten().any(|subnet| subnet.contains(self.from)) {
            return "give the wires other subnets: nobody outside may have an address of theirs".to_owned();
        }
        match topology.host.policy {
            Policy::All if topology.host.allow.is_empty() => format!("add `allow = [\"tcp/{port}\"]` below [host]"),
            Policy::All => format!("add \"tcp/{port}\" to `allow` below [host]"),
            Policy::Wires => format!("publish another port than tcp/{port}"),
        }
    }
}

fn end_of<'s>(state: &'s State, node: Option<&Name>, wire: &Name) -> Option<(&'s Namespace, &'s End)> {
    let namespace = state.namespaces.get(node?)?;
    Some((namespace, namespace.ends.get(wire)?))
}
