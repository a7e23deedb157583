//! What has to change for one state to become another, wire by wire and end by end, each change with its reason.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use super::strangers::foreign_route;
use super::{Action, Change, Finding, Plan, Waiting};
use crate::state::tunnel::Keys;
use crate::state::{End, Foreign, Maker, Marks, Namespace, Route, Setting, State};
use crate::topology::{NETNS, Name};

/// What has to change for `seen` to become `wanted`.
pub fn diff(wanted: &State, seen: &State) -> Plan {
    let mut plan = Plan::default();
    wanted.keys.iter().for_each(|(hub, keys)| plan.keys(hub, keys));
    let to_make = |(hub, keys): (&'_ Name, &Keys)| (keys.private == Ok(None)).then(|| hub.clone());
    let keys: BTreeSet<Name> = wanted.keys.iter().filter_map(to_make).collect();
    for (name, namespace) in &seen.namespaces {
        let empty = Namespace::default();
        let wanted = wanted.namespaces.get(name).unwrap_or(&empty);
        plan.making(name, wanted, namespace);
        plan.rules(name, wanted, namespace);
        plan.tunnels(name, wanted, namespace, keys.contains(name));
        for device in namespace.strays.iter().filter(|device| !wanted.strays.contains(device)) {
            plan.change(
                name,
                None,
                Action::Remove { device: device.clone() },
                "it carries wire's mark and is no wire's end",
            );
        }
        for (&setting, &value) in &wanted.settings {
            if let Some(&now) = namespace.settings.get(&setting).filter(|now| **now != value) {
                let reason = match namespace.remembered.get(&setting) {
                    Some(&before) if before == value => format!("as it was before wire set it to {now}"),
                    _ => format!("it is {now}, which would undo what the wires' own devices are set to"),
                };
                plan.change(name, None, Action::SetAll(setting, value), reason);
                // Switching forwarding switches the taking of redirects the other way (inet_forward_change, net/ipv4/devinet.c).
                let redirects = namespace.settings.get(&Setting::AcceptRedirects);
                if let Some(&redirects) = redirects.filter(|_| setting == Setting::Forwarding)
                    && wanted.settings.get(&Setting::AcceptRedirects).is_none_or(|wanted| *wanted == redirects)
                {
                    let set = Action::SetAll(Setting::AcceptRedirects, redirects);
                    plan.change(name, None, set, "the kernel changes it with forwarding");
                }
            }
        }
    }
    let written = Written::by(&plan);
    for (name, namespace) in &seen.namespaces {
        let wanted = wanted.namespaces.get(name);
        for ((device, setting), &value) in wanted.iter().flat_map(|wanted| &wanted.others) {
            let place = (device.clone(), *setting);
            let Some(&now) = namespace.others.get(&place) else { continue };
            let reason = match namespace.others_remembered.get(&place) {
                _ if now == value && written.undoes(name, *setting, value) => ALONG.to_owned(),
                _ if now == value => continue,
                Some(&before) if before == value => format!("as it was before wire set it to {now}"),
                _ => format!("it is {now}, and has to forward for a wire"),
            };
            plan.change(name, None, Action::SetOther(device.clone(), *setting, value), reason);
        }
    }
    let (wanted_ends, seen_ends) = (by_wire(wanted), by_wire(seen));
    let wires: BTreeSet<&Name> = wanted_ends.keys().chain(seen_ends.keys()).copied().collect();
    for wire in wires {
        let nothing = BTreeMap::new();
        let here = wanted_ends.get(wire).unwrap_or(&nothing);
        let there = seen_ends.get(wire).unwrap_or(&nothing);
        plan.wire(wire, here, there, seen, &written);
    }
    for (node, reason) in &seen.refused {
        let policed = wanted.namespaces.get(node).is_some_and(|namespace| namespace.table.is_some());
        if policed && !plan.findings.iter().any(|finding| finding.node == *node) {
            plan.findings.push(refused(node, None, reason));
        }
    }
    plan.give_way(wanted, seen);
    plan.untangle(seen);
    plan.changes.sort_by_key(|change| change.action.rank());
    plan
}

/// What a setting of a whole namespace takes along.
const ALONG: &str = "the kernel changes it with that of the whole namespace";

/// The settings of whole namespaces that the kernel writes through to every device (inet_forward_change,
/// net/ipv4/devinet.c), with what they become.
struct Written(BTreeMap<(Name, Setting), i32>);

impl Written {
    fn by(plan: &Plan) -> Written {
        let of = |change: &Change| match change.action {
            Action::SetAll(setting @ (Setting::Forwarding | Setting::Forwarding6), value) => {
                Some(((change.node.clone(), setting), value))
            }
            _ => None,
        };
        Written(plan.changes.iter().filter_map(of).collect())
    }

    /// Whether a device that has a value already loses it.
    fn undoes(&self, node: &Name, setting: Setting, value: i32) -> bool {
        let place = |(name, known): &(Name, Setting)| name == node && *known == setting;
        self.0.iter().any(|(written, becomes)| place(written) && *becomes != value)
    }
}

/// A namespace that must not be touched.
fn refused(node: &Name, wire: Option<&Name>, reason: &str) -> Finding {
    let message = match wire {
        Some(wire) => format!("wire `{wire}` is refused at `{node}`: {reason}"),
        None => format!("`{node}` cannot have its rules: {reason}"),
    };
    Finding {
        node: node.clone(),
        wire: wire.cloned(),
        kind: "refused",
        message,
        hint: "put that right, then run `wire up` again".to_owned(),
        blocks: true,
    }
}

type Ends<'a> = BTreeMap<&'a Name, &'a End>;

/// Whether these are two ends that belong together.
fn is_whole(ends: &Ends) -> bool {
    let belongs =
        |(node, end): (&&Name, &&End)| end.far.as_ref().is_some_and(|far| far != *node && ends.contains_key(far));
    ends.len() == 2 && ends.iter().all(belongs)
}

/// The ends of each wire, by node.
fn by_wire(state: &State) -> BTreeMap<&Name, Ends<'_>> {
    let mut wires: BTreeMap<&Name, Ends> = BTreeMap::new();
    for (node, namespace) in &state.namespaces {
        for (wire, end) in &namespace.ends {
            wires.entry(wire).or_default().insert(node, end);
        }
    }
    wires
}

impl Plan {
    pub(super) fn change(&mut self, node: &Name, wire: Option<&Name>, action: Action, reason: impl Into<String>) {
        self.changes.push(Change { node: node.clone(), wire: wire.cloned(), action, reason: reason.into() });
    }

    /// The namespace itself.
    fn making(&mut self, node: &Name, wanted: &Namespace, seen: &Namespace) {
        let name = node.netns();
        match (wanted.maker, seen.maker) {
            (Maker::Wire, Maker::Nobody) => {
                self.change(node, None, Action::Make, format!("there is no {NETNS}{name}"));
            }
            (Maker::Wire, Maker::Killed) => self.change(node, None, Action::Make, "its making was not finished"),
            (Maker::Nobody, Maker::Killed) => self.change(node, None, Action::Unmake, "its making was not finished"),
            (Maker::Nobody, Maker::Wire) => match &seen.inhabitant {
                None => self.change(node, None, Action::Unmake, "wire made it, and it is not to be there"),
                Some(who) => self.findings.push(Finding {
                    node: node.clone(),
                    wire: None,
                    kind: "inhabited",
                    message: format!("the namespace {NETNS}{name} is not to be there and stays: {who}"),
                    hint: match name == node.as_str() {
                        true => "when that has ended, the next `wire down` takes it away".to_owned(),
                        // It is struck from the file.
                        false => "when that has ended, the next `wire up` or `wire down` takes it away".to_owned(),
                    },
                    blocks: false,
                }),
            },
            _ => {}
        }
    }

    fn wire(&mut self, name: &Name, wanted: &Ends, seen: &Ends, all_seen: &State, written: &Written) {
        // What is to stay as it is stays, be it half a wire.
        if !is_whole(seen) && wanted == seen {
            for (node, end) in seen {
                self.end(name, node, end, end, &all_seen.namespaces[*node].foreign, written);
            }
            return;
        }
        if wanted.len() < 2 {
            self.remove(name, seen, "it is not to be there");
            return;
        }
        let stopped = || wanted.keys().filter(|node| !all_seen.namespaces.contains_key(**node));
        for node in stopped() {
            if let Some(reason) = all_seen.refused.get(*node) {
                self.findings.push(refused(node, Some(name), reason));
            } else {
                let reason = all_seen.waiting.get(*node).cloned().unwrap_or_else(|| "does not run".to_owned());
                self.waiting.push(Waiting { wire: name.clone(), node: (*node).clone(), reason });
            }
        }
        if stopped().next().is_some() {
            // Where it is not to end there are no rules for it.
            if seen.keys().any(|node| !wanted.contains_key(*node)) {
                return self.remove(name, seen, "it ends elsewhere now");
            }
            // What is left of it must not keep a route that another wire is to have now.
            for (node, end) in seen {
                let asked = |route: &&Route| wanted.get(node).is_some_and(|end| end.routes.contains(route));
                let beyond = end.routes.iter().filter(|route| route.via.is_some());
                for route in beyond.filter(|route| !asked(route)) {
                    self.change(node, Some(name), Action::RemoveRoute(*route), "the file does not want it any more");
                }
            }
            return;
        }
        let before = self.findings.len();
        for (node, end) in wanted {
            self.strangers(name, node, end, &all_seen.namespaces[*node]);
        }
        let in_the_way = |finding: &Finding| finding.kind == "taken" || finding.kind == "overlap";
        if wanted.keys().all(|node| seen.contains_key(*node)) && is_whole(seen) {
            for (node, end) in wanted {
                self.end(name, node, end, seen[node], &all_seen.namespaces[*node].foreign, written);
            }
            return;
        }
        let reason = match seen.iter().next() {
            None => "there is no such link".to_owned(),
            Some((node, _)) if seen.len() == 1 => {
                format!("must be made anew: the end in {node} has no far end where the file says")
            }
            Some(_) if wanted.keys().any(|node| !seen.contains_key(*node)) => {
                "must be made anew: it ends elsewhere now".to_owned()
            }
            Some(_) => "must be made anew: its two ends do not belong together".to_owned(),
        };
        self.remove(name, seen, &reason);
        if !self.findings[before..].iter().any(in_the_way) {
            let ends: Vec<(Name, End)> = (wanted.iter()).map(|(node, end)| ((*node).clone(), (*end).clone())).collect();
            if let Ok(mut ends) = <[(Name, End); 2]>::try_from(ends) {
                ends.sort_by_key(|(_, end)| end.addresses.first().copied());
                let node = ends[0].0.clone();
                self.change(&node, Some(name), Action::Create(Box::new(ends)), reason);
            }
        }
    }

    /// Each pair once: one end takes the other with it.
    fn remove(&mut self, wire: &Name, seen: &Ends, reason: &str) {
        let mut gone: BTreeSet<&Name> = BTreeSet::new();
        for (node, end) in seen {
            if gone.contains(*node) {
                continue;
            }
            gone.extend(end.far.as_ref());
            self.change(node, Some(wire), Action::Remove { device: end.device.clone() }, reason);
        }
    }

    /// One end whose pair is right: mended in place.
    fn end(&mut self, wire: &Name, node: &Name, wanted: &End, seen: &End, foreign: &Foreign, written: &Written) {
        let mut change = |action, reason: String| self.change(node, Some(wire), action, reason);
        let free = wanted.device == seen.device || !foreign.has_device(wanted.device.as_str());
        if free && seen.altname && !wanted.altname {
            let itself = wanted.device.as_str() == wire.as_str();
            let reason = if itself { "the device is to be called so itself" } else { "it had no such name" };
            change(Action::Unname, reason.to_owned());
        }
        if free && wanted.device != seen.device {
            let reason = format!("the device is called `{}`", seen.device);
            change(Action::Rename { from: seen.device.clone(), to: wanted.device.clone() }, reason);
        }
        if seen.marks != wanted.marks {
            let Marks { group, alias, mac } = seen.marks;
            let right = [(group, "group"), (alias, "alias"), (mac == wanted.marks.mac, "hardware address")];
            let wrong: Vec<&str> = right.iter().filter(|(right, _)| !right).map(|(_, what)| *what).collect();
            change(Action::Mark(wanted.marks.mac), format!("not as wire gave it: {}", wrong.join(", ")));
        }
        if wanted.altname && !seen.altname && !foreign.has_device(wire.as_str()) {
            change(Action::Altname, "the device does not go by the wire's name".to_owned());
        }
        if seen.enslaved != wanted.enslaved {
            change(Action::Release, "somebody put the device into a bridge".to_owned());
        }
        if seen.arp != wanted.arp {
            change(Action::Arp, "ARP is off".to_owned());
        }
        if seen.mtu != wanted.mtu {
            change(Action::Mtu(wanted.mtu), format!("it is {}", seen.mtu));
            // A device too small for IPv6 (RFC 8200: 1280) loses its IPv6 settings, and grows back with the defaults.
            if seen.mtu < 1280
                && wanted.mtu >= 1280
                && seen.settings.get(&Setting::DisableIpv6) == wanted.settings.get(&Setting::DisableIpv6)
            {
                let ipv6 = wanted.settings.iter().filter(|(setting, _)| setting.is_ipv6());
                for (&setting, &value) in ipv6 {
                    change(Action::Set(setting, value), "a larger MTU brings it back as the default".to_owned());
                }
            }
        }
        for (&setting, &value) in &wanted.settings {
            match seen.settings.get(&setting) {
                Some(&now) if now == value => {
                    if written.undoes(node, setting, value) {
                        change(Action::Set(setting, value), ALONG.to_owned());
                    }
                }
                Some(now) => change(Action::Set(setting, value), format!("it is {now}")),
                None => change(Action::Set(setting, value), "it is not there".to_owned()),
            }
        }
        // Where IPv6 is switched off, its addresses and routes go with it.
        let stays = |ipv6: bool| !ipv6 || wanted.settings.get(&Setting::DisableIpv6) != Some(&1);
        for route in seen.routes.difference(&wanted.routes).filter(|route| stays(route.to.is_ipv6())) {
            change(Action::RemoveRoute(*route), "the file does not want it any more".to_owned());
        }
        for address in seen.addresses.difference(&wanted.addresses).filter(|address| stays(address.is_ipv6())) {
            change(Action::RemoveAddress(*address), "the file does not want it any more".to_owned());
        }
        for address in wanted.addresses.difference(&seen.addresses) {
            change(Action::AddAddress(*address), "it is missing".to_owned());
        }
        if wanted.up && !seen.up {
            change(Action::Up, "it is down".to_owned());
        }
        let lost = renumbered(wire, wanted, seen, foreign);
        for route in &wanted.routes {
            // The kernel makes the route to a subnet when the address comes, or the device up.
            let made = |own: &IpNetwork| seen.up && seen.addresses.contains(own) && own.network() == route.to.network();
            if route.via.is_none() && !wanted.addresses.iter().any(made) {
                continue;
            }
            if !seen.routes.contains(route) {
                change(Action::AddRoute(*route), "it is missing".to_owned());
            } else if lost && route.via.is_some() && route.to.is_ipv4() {
                change(Action::AddRoute(*route), "it goes with the address that is removed".to_owned());
            }
        }
    }

    /// A route takes the place of one to the same destination, whoever made that: what is not wire's stays.
    fn give_way(&mut self, wanted: &State, seen: &State) {
        let gone = self.gone();
        let addressed = self.changes.iter().filter(|change| matches!(change.action, Action::RemoveAddress(_)));
        let addressed: BTreeSet<(Name, Option<Name>)> = addressed.map(|c| (c.node.clone(), c.wire.clone())).collect();
        let stays = |node: &Name, wire: &Name, to: &IpNetwork| {
            let end = |state: &State| state.namespaces.get(node)?.ends.get(wire).cloned();
            let foreign = &seen.namespaces[node].foreign;
            let lost = || {
                addressed.contains(&(node.clone(), Some(wire.clone())))
                    && end(wanted).zip(end(seen)).is_some_and(|(a, b)| renumbered(wire, &a, &b, foreign))
            };
            !gone.contains(wire) && (to.is_ipv6() || !lost())
        };
        // A route of IPv6 that goes when that is switched off goes too late for a newborn end, which replaces nothing.
        let mut too_late = Vec::new();
        let births = self.changes.iter().filter_map(|change| match &change.action {
            Action::Create(ends) => Some(ends.iter()),
            _ => None,
        });
        for (node, born) in births.flatten() {
            let asked = |route: &&Route| {
                route.to.is_ipv6() && born.routes.iter().any(|one| one.via.is_some() && one.to == route.to)
            };
            for (wire, end) in seen.namespaces[node].ends.iter().filter(|(wire, _)| !gone.contains(*wire)) {
                let off = wanted.namespaces.get(node).and_then(|here| here.ends.get(wire));
                let off = off.is_some_and(|end| end.settings.get(&Setting::DisableIpv6) == Some(&1));
                too_late.extend(
                    end.routes.iter().filter(asked).filter(|_| off).map(|route| (node.clone(), wire.clone(), *route)),
                );
            }
        }
        for (node, wire, route) in too_late {
            let action = Action::RemoveRoute(route);
            let is_same = |change: &Change| {
                change.action == action && (&change.node, change.wire.as_ref()) == (&node, Some(&wire))
            };
            if !self.changes.iter().any(is_same) {
                self.change(&node, Some(&wire), action, "another wire is to have it");
            }
        }
        let mut findings = Vec::new();
        let mut may_have = |node: &Name, wire: Option<&Name>, route: &Route| {
            let Some(Namespace { foreign, .. }) = seen.namespaces.get(node) else { return true };
            let over = foreign.routes.iter().find(|(on, to)| *to == route.to && stays(node, on, to));
            if let Some((on, to)) = over {
                findings.push(Finding { wire: wire.cloned(), blocks: true, ..foreign_route(node, on, to) });
            }
            over.is_none() && foreign.networks.iter().all(|(network, _)| *network != route.to)
        };
        self.changes.retain_mut(|change| match &mut change.action {
            Action::AddRoute(route) => may_have(&change.node, change.wire.as_ref(), route),
            Action::Create(ends) => {
                for (node, end) in ends.iter_mut() {
                    end.routes.retain(|route| may_have(node, change.wire.as_ref(), route));
                }
                true
            }
            _ => true,
        });
        self.findings.append(&mut findings);
    }

    /// The wires whose devices are removed, if only to be made anew.
    pub(super) fn gone(&self) -> BTreeSet<Name> {
        let removals = self.changes.iter().filter(|change| matches!(change.action, Action::Remove { .. }));
        removals.filter_map(|change| change.wire.clone()).collect()
    }
}

/// Whether the end of a wire is without any IPv4 address for a moment: its IPv4 routes go with the last (fib_disable_ip,
/// net/ipv4/fib_frontend.c).
fn renumbered(wire: &Name, wanted: &End, seen: &End, foreign: &Foreign) -> bool {
    let ipv4 = || seen.addresses.iter().filter(|address| address.is_ipv4());
    ipv4().next().is_some()
        && ipv4().all(|address| !wanted.addresses.contains(address))
        && !foreign.addresses.iter().any(|(on, address)| on == wire && address.is_ipv4())
}
