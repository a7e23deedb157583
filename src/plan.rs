//! The difference of two states as a list of changes: data that prints itself, each with its reason. Pure: what is wanted and
//! what was seen come in, nothing is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnetwork::IpNetwork;

use crate::state::{End, Foreign, Marks, Namespace, Route, Setting, State};
use crate::topology::{Device, Mac, Name, Topology};

#[cfg(test)]
mod tests;

/// What stands between the state that was seen and the one that is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they are safe: what is too much goes first, an end comes up last and gets its routes then.
    pub changes: Vec<Change>,
    /// Wires that wait for a node to run.
    pub waiting: Vec<Waiting>,
    /// What `wire` will not mend by itself.
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub node: Name,
    /// The wire it is about; none for a setting of the whole namespace or a device that is no wire's any more.
    pub wire: Option<Name>,
    pub action: Action,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    pub wire: Name,
    pub node: Name,
    /// What the node does instead of running.
    pub reason: String,
}

/// Something foreign that is named and left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub node: Name,
    pub wire: Option<Name>,
    pub kind: &'static str,
    pub message: String,
    pub hint: String,
    /// The wire cannot be what the file says because of it.
    pub blocks: bool,
}

/// One thing to do in one namespace. The order of the variants is the order of execution, which is the order of safety.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Deletes a device, and with it the far end of its pair.
    Remove {
        device: Device,
    },
    /// Sets a sysctl of the whole namespace.
    SetAll(Setting, i32),
    RemoveRoute(Route),
    /// Before others are added: of two addresses in one subnet the second goes with the first.
    RemoveAddress(IpNetwork),
    /// Takes the wire's name from the device's altnames, so that the device can be called by it.
    Unname,
    Rename {
        from: Device,
        to: Device,
    },
    /// Makes the pair with all that belongs to both its ends.
    Create(Box<[(Name, End); 2]>),
    /// Renews what tells the device as wire's.
    Mark(Mac),
    Altname,
    /// Takes the device out of a bridge.
    Release,
    Arp,
    Mtu(u32),
    Set(Setting, i32),
    AddAddress(IpNetwork),
    Up,
    AddRoute(Route),
}

impl Action {
    /// One word for what it does.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Create(_) => "create",
            Action::Remove { .. } => "remove",
            Action::Rename { .. } => "rename",
            Action::SetAll(..) | Action::Set(..) | Action::Mtu(_) | Action::Arp => "set",
            Action::Mark(_) => "mark",
            Action::Altname => "add-altname",
            Action::Unname => "remove-altname",
            Action::Release => "release",
            Action::AddAddress(_) => "add-address",
            Action::RemoveAddress(_) => "remove-address",
            Action::Up => "raise",
            Action::AddRoute(_) => "add-route",
            Action::RemoveRoute(_) => "remove-route",
        }
    }

    /// What kind of deviation it mends.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Create(_) => "missing",
            Action::Remove { .. } => "struck",
            Action::Rename { .. } => "name",
            Action::Altname | Action::Unname => "altname",
            Action::Mark(_) => "mark",
            Action::Release => "bridged",
            Action::Mtu(_) => "mtu",
            Action::Set(setting, _) if setting.is_ipv6() => "ipv6",
            Action::SetAll(..) | Action::Set(..) | Action::Arp => "setting",
            Action::AddAddress(_) | Action::RemoveAddress(_) => "address",
            Action::Up => "down",
            Action::AddRoute(_) | Action::RemoveRoute(_) => "route",
        }
    }

    fn rank(&self) -> usize {
        match self {
            Action::Remove { .. } => 0,
            Action::SetAll(..) => 1,
            Action::RemoveRoute(_) => 2,
            Action::RemoveAddress(_) => 3,
            Action::Unname => 4,
            Action::Rename { .. } => 5,
            Action::Create(_) => 6,
            Action::Mark(_) => 7,
            Action::Altname => 8,
            Action::Release => 9,
            Action::Arp => 10,
            Action::Mtu(_) => 11,
            Action::Set(..) => 12,
            Action::AddAddress(_) => 13,
            Action::Up => 14,
            Action::AddRoute(_) => 15,
        }
    }
}

impl Change {
    /// Whether it does the same, for whatever reason.
    pub fn is_same(&self, other: &Change) -> bool {
        (&self.node, &self.wire, &self.action) == (&other.node, &other.wire, &other.action)
    }

    /// What is changed, in the user's names: the wire, and what of it.
    pub fn subject(&self) -> String {
        let wire = self.wire.as_ref().map(Name::as_str).unwrap_or_default();
        match &self.action {
            Action::Create(_) | Action::Mark(_) | Action::Altname | Action::Unname | Action::Release => wire.to_owned(),
            Action::Remove { device } if self.wire.is_none() => device.to_string(),
            Action::Remove { .. } | Action::Up => wire.to_owned(),
            Action::SetAll(setting, value) => format!("{} = {value}", setting.path("all")),
            Action::Rename { from, to } => format!("{wire}: {from} to {to}"),
            Action::Arp => format!("{wire}: arp on"),
            Action::Mtu(mtu) => format!("{wire}: mtu {mtu}"),
            Action::Set(setting, value) => format!("{wire}: {} = {value}", setting_name(*setting)),
            Action::AddAddress(address) | Action::RemoveAddress(address) => format!("{wire}: {address}"),
            Action::AddRoute(route) | Action::RemoveRoute(route) => format!("{wire}: {route}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} at {}", self.action.verb(), self.subject(), self.node)
    }
}

fn setting_name(setting: Setting) -> String {
    format!("{}.{}", if setting.is_ipv6() { "ipv6" } else { "ipv4" }, setting.key())
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.findings.is_empty()
    }
}

/// What has to change for `seen` to become `wanted`.
pub fn diff(wanted: &State, seen: &State) -> Plan {
    let mut plan = Plan::default();
    for (name, namespace) in &seen.namespaces {
        let empty = Namespace::default();
        let wanted = wanted.namespaces.get(name).unwrap_or(&empty);
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
    let (wanted_ends, seen_ends) = (by_wire(wanted), by_wire(seen));
    let wires: BTreeSet<&Name> = wanted_ends.keys().chain(seen_ends.keys()).copied().collect();
    for wire in wires {
        let nothing = BTreeMap::new();
        let here = wanted_ends.get(wire).unwrap_or(&nothing);
        let there = seen_ends.get(wire).unwrap_or(&nothing);
        plan.wire(wire, here, there, seen);
    }
    plan.give_way(wanted, seen);
    plan.untangle(seen);
    plan.changes.sort_by_key(|change| change.action.rank());
    plan
}

type Ends<'a> = BTreeMap<&'a Name, &'a End>;

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
    fn change(&mut self, node: &Name, wire: Option<&Name>, action: Action, reason: impl Into<String>) {
        self.changes.push(Change { node: node.clone(), wire: wire.cloned(), action, reason: reason.into() });
    }

    fn wire(&mut self, name: &Name, wanted: &Ends, seen: &Ends, all_seen: &State) {
        if wanted.len() < 2 {
            self.remove(name, seen, "it is not to be there");
            return;
        }
        let stopped = || wanted.keys().filter(|node| !all_seen.namespaces.contains_key(**node));
        for node in stopped() {
            if let Some(reason) = all_seen.refused.get(*node) {
                self.findings.push(Finding {
                    node: (*node).clone(),
                    wire: Some(name.clone()),
                    kind: "refused",
                    message: format!("{node}: {reason}"),
                    hint: format!("wire `{name}` is left as it is until that is put right"),
                    blocks: true,
                });
            } else {
                let reason = all_seen.waiting.get(*node).cloned().unwrap_or_else(|| "does not run".to_owned());
                self.waiting.push(Waiting { wire: name.clone(), node: (*node).clone(), reason });
            }
        }
        if stopped().next().is_some() {
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
        let paired = wanted.keys().all(|node| seen.contains_key(*node))
            && seen.len() == 2
            && seen
                .iter()
                .all(|(node, end)| end.far.as_ref().is_some_and(|far| far != *node && seen.contains_key(far)));
        if paired {
            for (node, end) in wanted {
                self.end(name, node, end, seen[node], &all_seen.namespaces[*node].foreign);
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

    /// What is not wire's and stands in the way of an end.
    fn strangers(&mut self, wire: &Name, node: &Name, end: &End, seen: &Namespace) {
        let foreign = &seen.foreign;
        let mut find = |kind, message, hint| {
            self.findings.push(Finding {
                node: node.clone(),
                wire: Some(wire.clone()),
                kind,
                message,
                hint,
                blocks: true,
            });
        };
        let wants = |name: &String| name == end.device.as_str() || name == wire.as_str();
        for device in foreign.devices.iter().filter(|names| names.iter().any(wants)) {
            find(
                "taken",
                format!(
                    "{node} has a device `{}` that is not wire's and has the name that wire `{wire}` needs",
                    device[0]
                ),
                format!(
                    "rename or remove it, or give the wire another `ifname`: `ip link del {}` in {node}",
                    device[0]
                ),
            );
        }
        for (_, address) in foreign.addresses.iter().filter(|(on, _)| on == wire) {
            find(
                "foreign-address",
                format!("the end of wire `{wire}` in {node} has an address {address} that is not wire's"),
                format!("`ip addr del {address} dev {}` in {node}", end.device),
            );
        }
        for (network, device) in &foreign.networks {
            let own = end.addresses.iter().find(|own| network.prefix() != 0 && overlap(own, network));
            if let Some(own) = own {
                find(
                    "overlap",
                    format!("the subnet of wire `{wire}` ({own}) overlaps {network}, which {node} has on `{device}`"),
                    "give the wire another subnet, or `wire number` one".to_owned(),
                );
            }
            if end.routes.iter().any(|route| route.to == *network) {
                find(
                    "foreign-route",
                    format!(
                        "{node} has a route to {} over `{device}` already; wire `{wire}` is to have it",
                        words(network)
                    ),
                    format!("`ip route del {} dev {device}` in {node}", words(network)),
                );
            }
        }
    }

    /// One end whose pair is right: mended in place.
    fn end(&mut self, wire: &Name, node: &Name, wanted: &End, seen: &End, foreign: &Foreign) {
        let mut change = |action, reason: String| self.change(node, Some(wire), action, reason);
        if wanted.device != seen.device && !foreign.has_device(wanted.device.as_str()) {
            if seen.altname && wanted.device.as_str() == wire.as_str() {
                change(Action::Unname, "the device is to be called so itself".to_owned());
            }
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
                Some(&now) if now == value => {}
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
        if !seen.up {
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
        let stays = |node: &Name, wire: &Name, to: &IpNetwork| {
            let end = |state: &State| state.namespaces.get(node)?.ends.get(wire).cloned();
            let foreign = &seen.namespaces[node].foreign;
            let lost = || end(wanted).zip(end(seen)).is_some_and(|(a, b)| renumbered(wire, &a, &b, foreign));
            !gone.contains(wire) && (to.is_ipv6() || !lost())
        };
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
    fn gone(&self) -> BTreeSet<Name> {
        let removals = self.changes.iter().filter(|change| matches!(change.action, Action::Remove { .. }));
        removals.filter_map(|change| change.wire.clone()).collect()
    }

    /// Puts the renames of a namespace into an order in which each name is free when a device gets it. Where devices swap their
    /// names, and where one that is left alone has a name that is needed, that one goes by a name of its own for now.
    fn untangle(&mut self, seen: &State) {
        let gone = self.gone();
        let (renames, others): (Vec<Change>, _) =
            std::mem::take(&mut self.changes).into_iter().partition(|change| target(change).is_some());
        self.changes = others;
        let mut pending: BTreeMap<Name, Vec<Change>> = BTreeMap::new();
        let mut wanted: BTreeMap<Name, BTreeSet<Device>> = BTreeMap::new();
        for change in renames {
            wanted.entry(change.node.clone()).or_default().extend(target(&change).cloned());
            pending.entry(change.node.clone()).or_default().push(change);
        }
        for (node, device) in self.changes.iter().flat_map(names_made) {
            wanted.entry(node.clone()).or_default().insert(device);
        }
        for (node, wanted) in wanted {
            let namespace = &seen.namespaces[&node];
            let ends = namespace.ends.iter().filter(|(wire, _)| !gone.contains(*wire));
            let held = ends.map(|(wire, end)| (end.device.clone(), wire.clone())).collect();
            let pending = pending.remove(&node).unwrap_or_default();
            let mut renames =
                Renames { node: &node, foreign: &namespace.foreign, held, wanted, done: &mut self.changes };
            renames.carry_out(pending);
        }
    }
}

/// The renames of one namespace.
struct Renames<'a> {
    node: &'a Name,
    foreign: &'a Foreign,
    /// Who has which name now.
    held: BTreeMap<Device, Name>,
    /// The names that somebody is to get.
    wanted: BTreeSet<Device>,
    done: &'a mut Vec<Change>,
}

impl Renames<'_> {
    fn carry_out(&mut self, mut pending: Vec<Change>) {
        let left_alone = |wire: &Name| pending.iter().all(|change| change.wire.as_ref() != Some(wire));
        let in_the_way = self.held.iter().filter(|(device, wire)| self.wanted.contains(*device) && left_alone(wire));
        for device in in_the_way.map(|(device, _)| device.clone()).collect::<Vec<Device>>() {
            self.set_aside(&device);
        }
        while !pending.is_empty() {
            let free = |change: &Change| target(change).is_some_and(|to| !self.held.contains_key(to));
            if let Some(next) = pending.iter().position(free) {
                self.push(pending.remove(next));
                continue;
            }
            // Each waits for another: they go round in a circle.
            let Some(device) = target(&pending[0]).cloned() else { return };
            let Some((wire, spare)) = self.set_aside(&device) else { return };
            for change in pending.iter_mut().filter(|change| change.wire.as_ref() == Some(&wire)) {
                if let Action::Rename { from, .. } = &mut change.action {
                    *from = spare.clone();
                }
            }
        }
    }

    /// Gives the end that has a name a spare one, and says which end and name.
    fn set_aside(&mut self, device: &Device) -> Option<(Name, Device)> {
        let wire = self.held.get(device)?.clone();
        let is_free = |name: &Device| {
            !self.held.contains_key(name) && !self.wanted.contains(name) && !self.foreign.has_device(name.as_str())
        };
        let spare = (0..).filter_map(|n| Device::new(&format!("wire+{n}"))).find(is_free)?;
        let action = Action::Rename { from: device.clone(), to: spare.clone() };
        let reason = format!("another wire is to have the name `{device}`");
        self.push(Change { node: self.node.clone(), wire: Some(wire.clone()), action, reason });
        Some((wire, spare))
    }

    fn push(&mut self, change: Change) {
        if let Change { wire: Some(wire), action: Action::Rename { from, to }, .. } = &change {
            self.held.remove(from);
            self.held.insert(to.clone(), wire.clone());
        }
        self.done.push(change);
    }
}

fn target(change: &Change) -> Option<&Device> {
    match &change.action {
        Action::Rename { to, .. } => Some(to),
        _ => None,
    }
}

/// The names that a change other than a rename takes, each with the namespace.
fn names_made(change: &Change) -> Vec<(&Name, Device)> {
    let altname = || Device::new(change.wire.as_ref()?.as_str());
    match &change.action {
        Action::Create(ends) => ends
            .iter()
            .flat_map(|(node, end)| {
                [Some(end.device.clone()), altname()].into_iter().flatten().map(move |device| (node, device))
            })
            .collect(),
        Action::Altname => altname().map(|device| (&change.node, device)).into_iter().collect(),
        _ => Vec::new(),
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

fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

fn words(network: &IpNetwork) -> String {
    if network.prefix() == 0 { "default".to_owned() } else { network.to_string() }
}

/// What is foreign in the namespaces that the file speaks of, keeps no wire from working, and still must not be there.
pub fn strangers(topology: &Topology, seen: &State) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wires = topology.wires_by_node();
    for (node, namespace) in &seen.namespaces {
        let none = !wires.contains_key(node);
        let tunnel =
            topology.hubs.get(node).and_then(|hub| hub.clients.as_ref()).map(|clients| clients.device.as_str());
        // The host's devices are its own, and a container that the file does not name is nobody's business here.
        let policed = topology.nodes.contains_key(node);
        let foreign = namespace.foreign.devices.iter().map(|names| &names[0]).filter(|_| policed);
        for device in foreign.filter(|device| Some(device.as_str()) != tunnel) {
            let (kind, message) = match none {
                true => ("network", format!("{node} is to have nothing but loopback, and has a device `{device}`")),
                false => ("foreign-device", format!("{node} has a device `{device}` that is not wire's")),
            };
            let hint = format!("start the container with `--network none`, or `ip link del {device}` in {node}");
            findings.push(Finding { node: node.clone(), wire: None, kind, message, hint, blocks: false });
        }
        for (wire, to) in &namespace.foreign.routes {
            findings.push(foreign_route(node, wire, to));
        }
    }
    findings
}

/// A route over an end that `wire` did not make.
fn foreign_route(node: &Name, wire: &Name, to: &IpNetwork) -> Finding {
    Finding {
        node: node.clone(),
        wire: Some(wire.clone()),
        kind: "foreign-route",
        message: format!("{node} has a route to {} over wire `{wire}` that is not wire's", words(to)),
        hint: format!("`ip route del {}` in {node}", words(to)),
        blocks: false,
    }
}
