//! What must hold between the words of a file, and the topology that comes of it: every name leads to something, no
//! address, port or device is given twice, nothing contradicts. Each check stays silent where a word it needs could not be
//! read, so that one mistake gives one fault.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::error::Fault;
use crate::topology::{
    Allowed, Device, End, Flow, Forward, HOST, Home, Host, Hub, Module, Name, Node, OUTSIDE, Peer, Place, Policy,
    Protocol, Publish, Service, Site, Topology, Upstream, Whom, Wire,
};

use super::draft::{self, Draft, rootless};
use super::tree::{Page, Said};
use crate::near::{meant, nearest, shown};

/// The topology, as far as the draft allows; it counts only if the page is clean afterwards.
pub fn topology(page: &Page, draft: &Draft) -> Option<Topology> {
    let check = Check::new(page, draft);
    check.wire_names();
    check.subnets();
    check.devices();
    check.nodes();
    check.homes();
    check.zones();
    check.ways_out();
    check.uplinks();
    check.publications();
    check.hubs();
    check.sets();
    if page.is_clean() { check.topology() } else { None }
}

/// Where a node was first named in `[module]`.
struct Member<'d> {
    module: &'d Name,
    place: Place,
}

struct Check<'d> {
    page: &'d Page<'d>,
    draft: &'d Draft<'d>,
    members: BTreeMap<&'d str, Member<'d>>,
    tables: BTreeMap<&'d str, &'d draft::Node<'d>>,
    hubs: BTreeMap<&'d str, &'d draft::Hub<'d>>,
    /// The namespace of each node; none where it cannot be known.
    spaces: BTreeMap<&'d str, Option<&'d str>>,
    /// The namespaces each wire joins, by the order of the wires; none where they cannot be known.
    ends: Vec<Option<[&'d str; 2]>>,
    /// All wires have their ends: one that is not there does not exist.
    ends_whole: bool,
}

/// The line of a place, as messages say it.
fn line(place: Place) -> String {
    format!("line {}", place.line)
}

/// `a`, `b` and `c`.
fn and<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match &words[..] {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        words => words.concat(),
    }
}

/// A list of strings as the file writes it.
fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("\"{word}\"")).collect();
    format!("[{}]", words.join(", "))
}

impl<'d> Check<'d> {
    fn new(page: &'d Page<'d>, draft: &'d Draft<'d>) -> Check<'d> {
        let mut members = BTreeMap::new();
        for (module, nodes) in &draft.modules {
            for node in nodes {
                let member = members.entry(node.it.as_str()).or_insert(Member { module, place: node.place });
                if member.place != node.place {
                    let message = match member.module == module {
                        true => format!("module `{module}`: node `{}` stands in it twice", node.it),
                        false => format!(
                            "module `{module}`: node `{}` stands in module `{}` already",
                            node.it, member.module
                        ),
                    };
                    page.fault(node.place, message, format!("keep one of them, here or in {}", line(member.place)));
                }
            }
        }
        let tables = draft.nodes.iter().map(|node| (node.name.it.as_str(), node)).collect();
        let hubs = draft.hubs.iter().map(|hub| (hub.name.it.as_str(), hub)).collect();
        let mut check =
            Check { page, draft, members, tables, hubs, spaces: BTreeMap::new(), ends: Vec::new(), ends_whole: false };
        check.mentions();
        check.spaces = check.members.keys().copied().chain([HOST]).map(|node| (node, check.space(node))).collect();
        check.ends = draft.wires.iter().map(|wire| check.joined(wire)).collect();
        check.ends_whole = check.ends.iter().all(Option::is_some);
        check
    }

    fn knows(&self, node: &str) -> bool {
        node == HOST || self.members.contains_key(node)
    }

    fn is_hub(&self, space: &str) -> bool {
        self.hubs.contains_key(space)
    }

    fn is_leaf(&self, space: &str) -> bool {
        space != HOST && !self.is_hub(space)
    }

    /// Every node that is named anywhere must be there. One that is not is told once, where it is named first.
    fn mentions(&self) {
        let mut mentions: Vec<(Place, &str, String)> = Vec::new();
        for wire in &self.draft.wires {
            mentions.extend(wire.ends.iter().flatten().map(|end| (end.place, end.it, wire.what.clone())));
        }
        for node in &self.draft.nodes {
            let what = format!("node `{}`", node.name.it);
            mentions.extend(node.shares.as_ref().map(|shares| (shares.place, shares.it, what)));
            mentions.push((node.name.place, node.name.it.as_str(), String::new()));
        }
        for hub in &self.draft.hubs {
            mentions.push((hub.name.place, hub.name.it.as_str(), String::new()));
            let what = |host: &str| format!("site `{host}`");
            mentions.extend(hub.sites.iter().map(|s| (s.place, s.it.to.node.as_str(), what(&s.it.host))));
            let what = |port: &Service| format!("forward `{port}`");
            mentions.extend(hub.forwards.iter().map(|f| (f.to, f.forward.to.node.as_str(), what(&f.forward.port))));
        }
        mentions.retain(|(_, node, _)| !self.knows(node));
        mentions.sort();
        let mut told = BTreeSet::new();
        for (place, node, what) in mentions {
            if !told.insert(node) {
                continue;
            }
            let near = nearest(node, self.members.keys().copied().chain([HOST]));
            if near.is_none() && !self.draft.modules_whole {
                continue;
            }
            let what = if what.is_empty() { what } else { what + ": " };
            let hint = if node == OUTSIDE {
                "what lies outside is reached by `egress` and `publish`, not by a wire".to_owned()
            } else {
                meant(
                    node,
                    near,
                    format!("every node stands in a module: add `\"{}\"` to one below [module]", shown(node)),
                )
            };
            self.page.fault(place, format!("{what}no node is called `{}`", shown(node)), hint);
        }
    }

    /// The namespace a node lives in.
    fn space(&self, node: &'d str) -> Option<&'d str> {
        let mut space = node;
        let mut seen = BTreeSet::new();
        while let Some(shares) = self.tables.get(space).and_then(|table| table.shares.as_ref()) {
            if !seen.insert(space) {
                return None;
            }
            space = shares.it;
        }
        self.knows(space).then_some(space)
    }

    /// The two namespaces of a wire, told where they are one.
    fn joined(&self, wire: &draft::Wire<'d>) -> Option<[&'d str; 2]> {
        let [a, b] = wire.ends.as_ref()?;
        let [Some(first), Some(second)] = [a, b].map(|end| *self.spaces.get(end.it)?) else {
            return None;
        };
        if first == second {
            let message = if a.it == b.it {
                format!("{}: both ends are in `{}`", wire.what, a.it)
            } else {
                format!("{}: `{}` and `{}` live in one namespace, that of `{first}`", wire.what, a.it, b.it)
            };
            self.page.fault(b.place, message, "a wire joins two namespaces: name another node");
            return None;
        }
        Some([first, second])
    }

    /// The wires that end in a namespace, each with the far one, in the order of the file.
    fn wires_of(&self, space: &str) -> impl Iterator<Item = (&'d draft::Wire<'d>, &'d str)> {
        self.draft.wires.iter().zip(&self.ends).filter_map(move |(wire, ends)| match (*ends)? {
            [a, b] if a == space => Some((wire, b)),
            [a, b] if b == space => Some((wire, a)),
            _ => None,
        })
    }

    fn has_host_wire(&self, space: &str) -> bool {
        self.wires_of(space).any(|(_, far)| far == HOST)
    }

    /// A leaf's first hub, where its default route goes.
    fn first_hub(&self, space: &str) -> Option<(&'d draft::Wire<'d>, &'d str)> {
        self.wires_of(space).find(|(_, far)| self.is_hub(far))
    }

    fn wire_names(&self) {
        let mut first: BTreeMap<&Name, Place> = BTreeMap::new();
        for name in self.draft.wires.iter().filter_map(|wire| wire.name.as_ref()) {
            let place = *first.entry(&name.it).or_insert(name.place);
            if place != name.place {
                let message = format!("wire `{}`: the name is already that of the wire in {}", name.it, line(place));
                self.page.fault(name.place, message, "a wire's name is its identity: give each its own");
            }
        }
    }

    /// No address belongs to two wires, or to a wire and a tunnel.
    fn subnets(&self) {
        let mut taken: Vec<(Place, IpNetwork, String)> = Vec::new();
        for wire in &self.draft.wires {
            taken.extend(wire.subnet.as_ref().map(|subnet| (subnet.place, subnet.it.into(), wire.what.clone())));
            taken.extend(wire.subnet6.as_ref().map(|subnet| (subnet.place, subnet.it.into(), wire.what.clone())));
        }
        for hub in &self.draft.hubs {
            let what = format!("the clients of hub `{}`", hub.name.it);
            taken.extend(hub.clients.as_ref().map(|clients| (clients.place, clients.it.prefix, what)));
        }
        taken.sort();
        for (i, (place, network, what)) in taken.iter().enumerate() {
            if let Some((before, other, owner)) = taken[..i].iter().find(|(_, other, _)| overlap(*network, *other)) {
                let how = match network == other {
                    true => "is already taken by".to_owned(),
                    false => format!("overlaps {other} of"),
                };
                let message = format!("{what}: {network} {how} {owner} ({})", line(*before));
                let hint = match network {
                    IpNetwork::V4(network) if network.prefix() >= 30 => {
                        "give each wire a /31 of its own, or leave `subnet` out and run `wire number`"
                    }
                    _ => "take addresses that nobody else has",
                };
                self.page.fault(*place, message, hint);
            }
        }
        for wire in &self.draft.wires {
            for publish in &wire.publish {
                let Some(address) = publish.address else { continue };
                if let Some((_, network, owner)) = taken.iter().find(|(_, network, _)| network.contains(address)) {
                    let message = format!(
                        "{}: {address} is no address of the host's own but one of {network}, {owner}",
                        wire.what
                    );
                    self.page.fault(publish.place, message, "name an address that the host has on an uplink");
                } else if address.is_ipv6() && wire.subnet6.is_none() {
                    let message = format!("{}: {address} is published on a wire without IPv6", wire.what);
                    self.page.fault(publish.place, message, "add `subnet6 = \"fd00::/127\"` to the wire");
                }
            }
        }
    }

    /// The devices of a wire's two ends.
    fn devices_of(&self, wire: &draft::Wire<'d>, ends: [&'d str; 2]) -> Option<[Device; 2]> {
        if let Some([a, b]) = &wire.ifname {
            return Some([a.it.clone(), b.it.clone()]);
        }
        let name = &wire.name.as_ref()?.it;
        Some(ends.map(|space| {
            let is_first =
                self.is_leaf(space) && self.first_hub(space).is_some_and(|(first, _)| std::ptr::eq(first, wire));
            if is_first { Device::eth0() } else { Device::for_wire(name) }
        }))
    }

    /// No namespace has two devices of one name.
    fn devices(&self) {
        let mut taken: BTreeMap<(&str, Device), (String, Place)> = BTreeMap::new();
        let uplinks: BTreeSet<_> = self.draft.host.uplinks.iter().map(|uplink| &uplink.it).collect();
        for (wire, ends) in self.draft.wires.iter().zip(&self.ends) {
            let Some(ends) = ends.filter(|_| !wire.ifname_torn) else {
                continue;
            };
            let Some(devices) = self.devices_of(wire, ends) else {
                continue;
            };
            for (i, (space, device)) in ends.into_iter().zip(devices).enumerate() {
                let name = wire.name.as_ref().map_or(wire.place, |name| name.place);
                let place = wire.ifname.as_ref().map_or(name, |ifname| ifname[i].place);
                let hint = "name the wire's two devices: `ifname = [\"…\", \"…\"]`";
                if space == HOST && uplinks.contains(&device) {
                    let message =
                        format!("{}: its device at the host would be `{device}`, which is an uplink", wire.what);
                    self.page.fault(place, message, hint);
                } else if let Some((owner, before)) = taken.get(&(space, device.clone())) {
                    let message = format!(
                        "{}: `{space}` has a device `{device}` already, {owner} ({})",
                        wire.what,
                        line(*before)
                    );
                    self.page.fault(place, message, hint);
                } else {
                    taken.insert((space, device), (format!("of {}", wire.what), place));
                }
            }
        }
        for hub in &self.draft.hubs {
            let Some(clients) = &hub.clients else { continue };
            if let Some((owner, before)) = taken.get(&(hub.name.it.as_str(), clients.it.device.clone())) {
                let device = &clients.it.device;
                let message =
                    format!("hub `{}`: it has a device `{device}` already, {owner} ({})", hub.name.it, line(*before));
                self.page.fault(clients.place, message, "give the tunnel another device");
            }
        }
    }

    /// What a node's own table says must fit together.
    fn nodes(&self) {
        for node in &self.draft.nodes {
            let name = node.name.it.as_str();
            let tell =
                |place, message: &str, hint: &str| self.page.fault(place, format!("node `{name}`: {message}"), hint);
            let strike = "keep the one that is meant";
            if let Some(netns) = &node.netns {
                if let Some(container) = &node.container {
                    tell(container.place, "it is a container or a named namespace, not both", strike);
                } else if let Some(user) = &node.user {
                    tell(user.place, "`user` says whose container it is, and `netns` that it is none", strike);
                } else if let Some(owned) = node.owned.filter(|_| netns.it != node.name.it) {
                    let message = format!("`owned` makes the namespace `{name}`, and `netns` names `{}`", netns.it);
                    tell(owned, &message, strike);
                }
            }
            if let Some(shares) = &node.shares {
                let owner = shown(shares.it);
                let contradictions = [
                    (node.netns.as_ref().map(|netns| netns.place), "netns"),
                    (node.owned, "owned"),
                    (node.network_none, "network"),
                    (node.zones.as_ref().map(|zones| zones.place), "zones"),
                    (node.snat.as_ref().map(|snat| snat.place), "snat"),
                ];
                for (place, key) in contradictions {
                    if let Some(place) = place {
                        let message =
                            format!("it lives in the namespace of `{owner}`, so `{key}` is not its own to say");
                        tell(place, &message, &format!("move `{key}` below [node.{owner}], or strike it"));
                    }
                }
                if self.is_hub(name) {
                    tell(shares.place, "a hub has a namespace of its own", "strike `shares`, or [hub.…]");
                } else if self.is_first_of_cycle(node) {
                    let hint = "one of them must have a namespace of its own";
                    tell(shares.place, "`shares` leads back to where it began", hint);
                }
            }
            if let Some(place) = node.network_none
                && let Some((wire, _)) = self.wires_of(name).next()
            {
                let message = format!("`network` is \"none\", but {} ends in it ({})", wire.what, line(wire.place));
                tell(place, &message, "strike one of them");
            }
            if let Some(flow) = node.egress.iter().find(|flow| flow.from.is_some()) {
                tell(
                    flow.place,
                    "`from` says nothing in `egress`: the node itself is the source",
                    "write `to` for whom it may reach",
                );
            }
            if let Some(zones) = node.zones.as_ref().filter(|_| self.is_hub(name)) {
                tell(
                    zones.place,
                    "a hub has one zone",
                    &format!("strike `zones`, and write `zone` below [hub.{name}]"),
                );
            }
        }
    }

    /// Whether `shares` leads back to this node, and to none that stands above it.
    fn is_first_of_cycle(&self, node: &draft::Node) -> bool {
        let mut places = vec![node.name.place];
        let mut space = node.shares.as_ref().map(|shares| shares.it);
        while let Some(next) = space.and_then(|space| self.tables.get(space)) {
            if next.name.it == node.name.it {
                return places.iter().min() == Some(&node.name.place);
            }
            if places.len() > self.tables.len() {
                return false;
            }
            places.push(next.name.place);
            space = next.shares.as_ref().map(|shares| shares.it);
        }
        false
    }

    fn home(&self, node: &Name) -> Home {
        let table = self.tables.get(node.as_str());
        let netns = table.and_then(|table| table.netns.as_ref());
        let container = table.and_then(|table| table.container.as_ref());
        let user = table.and_then(|table| table.user.as_ref());
        match netns {
            Some(netns) => Home::Netns(netns.it.clone()),
            None if self.draft.netns && container.is_none() && user.is_none() => Home::Netns(node.clone()),
            None => Home::Podman {
                container: container.map_or(node, |container| &container.it).clone(),
                user: user.map_or(self.draft.user.clone(), |user| rootless(user.it.clone())),
            },
        }
    }

    /// No two nodes are one container or one named namespace.
    fn homes(&self) {
        let mut taken: BTreeMap<String, (&Name, Place)> = BTreeMap::new();
        for node in self.draft.modules.iter().flat_map(|(_, nodes)| nodes) {
            let table = self.tables.get(node.it.as_str());
            let place = table.map_or(node.place, |table| table.name.place);
            let owned = table.is_some_and(|table| table.owned.is_some());
            let mut homes = vec![match self.home(&node.it) {
                Home::Netns(netns) => format!("the namespace `{netns}`"),
                Home::Podman { container, user } => {
                    format!("the container `{container}` of {}", user.as_deref().unwrap_or("root"))
                }
            }];
            homes.extend(owned.then(|| format!("the namespace `{}`", node.it)));
            for home in homes {
                let (other, before) = *taken.entry(home.clone()).or_insert((&node.it, place));
                if *other != node.it {
                    let message = format!("node `{}`: {home} is node `{other}` already ({})", node.it, line(before));
                    self.page.fault(place, message, "two nodes in one namespace say so by `shares`");
                }
            }
        }
    }

    /// The zones of a leaf: those of its hubs, each with the first wire that leads there; none where one cannot be known.
    fn zones_of(&self, space: &str) -> Option<BTreeMap<&'d str, &'d draft::Wire<'d>>> {
        let mut zones = BTreeMap::new();
        for (wire, far) in self.wires_of(space).filter(|(_, far)| self.is_hub(far)) {
            zones.entry(self.hubs[far].zone.as_ref()?.as_str()).or_insert(wire);
        }
        Some(zones)
    }

    fn zones(&self) {
        if !self.ends_whole {
            return;
        }
        for &node in self.members.keys().filter(|node| self.is_leaf(node)) {
            let table = self.tables.get(node);
            let (Some(zones), false) = (self.zones_of(node), table.is_some_and(|table| table.zones_torn)) else {
                continue;
            };
            let write = format!("write `zones = {}` below [node.{node}]", list(zones.keys().copied()));
            match table.and_then(|table| table.zones.as_ref().filter(|_| table.shares.is_none())) {
                Some(said) => {
                    let declared: BTreeSet<_> = said.it.iter().map(Name::as_str).collect();
                    if !declared.iter().eq(zones.keys()) {
                        let serve = if zones.is_empty() {
                            "it has no hub".to_owned()
                        } else {
                            format!("its hubs serve {}", and(zones.keys().copied()))
                        };
                        let said_zones = if declared.is_empty() { "nothing".to_owned() } else { and(declared) };
                        let message = format!("node `{node}`: `zones` says {said_zones}, but {serve}");
                        let hint = if zones.is_empty() { "strike `zones`".to_owned() } else { write };
                        self.page.fault(said.place, message, hint);
                    }
                }
                None if zones.len() > 1 => {
                    let wire = zones.values().max_by_key(|wire| wire.place);
                    let place = wire.map_or(Place::default(), |wire| wire.place);
                    let message =
                        format!("node `{node}`: its wires lead into the zones {}", and(zones.keys().copied()));
                    self.page.fault(place, message, format!("{write} if that is meant, else take a wire away"));
                }
                None => {}
            }
        }
        for (wire, ends) in self.draft.wires.iter().zip(&self.ends).filter(|(wire, _)| !wire.across_zones) {
            let Some([a, b]) = ends.filter(|ends| ends.iter().all(|end| self.is_leaf(end))) else {
                continue;
            };
            let (Some(first), Some(second)) = (self.zones_of(a), self.zones_of(b)) else {
                continue;
            };
            if !first.is_empty() && !second.is_empty() && !first.keys().any(|zone| second.contains_key(zone)) {
                let (first, second) = (and(first.keys().copied()), and(second.keys().copied()));
                let message = format!("{}: it joins `{a}` of zone {first} and `{b}` of zone {second}", wire.what);
                self.page.fault(wire.place, message, "add `across-zones = true` if that is meant");
            }
        }
    }

    /// Egress needs a way out, and a source address of one's own a wire to the host.
    fn ways_out(&self) {
        for node in self.draft.nodes.iter().filter(|node| self.ends_whole && self.knows(node.name.it.as_str())) {
            let name = node.name.it.as_str();
            let Some(Some(space)) = self.spaces.get(name) else {
                continue;
            };
            let hub = self.draft.hubs.first().map_or("host", |hub| hub.name.it.as_str());
            if let Some(place) = node.egress_place.filter(|_| !node.egress.is_empty()) {
                let out = self.wires_of(space).any(|(_, far)| far == HOST || self.is_leaf(space) && self.is_hub(far));
                if *space == HOST {
                    let message = format!(
                        "node `{name}`: it lives in the host's namespace, whose own connections need no `egress`"
                    );
                    self.page.fault(place, message, "strike `egress`");
                } else if !out && self.is_hub(space) {
                    let message =
                        format!("node `{name}`: `egress` has no way out, as no wire joins the hub and the host");
                    self.page.fault(place, message, format!("add a wire with `ends = [\"host\", \"{space}\"]`"));
                } else if !out {
                    let message = format!("node `{name}`: `egress` has no way out, neither a hub wire nor a host wire");
                    self.page.fault(place, message, format!("add a wire with `ends = [\"{hub}\", \"{space}\"]`"));
                }
            }
            if let Some(snat) = node.snat.as_ref().filter(|_| node.shares.is_none() && !self.has_host_wire(space)) {
                let message = format!("node `{name}`: `snat` needs a wire of its own to the host");
                self.page.fault(snat.place, message, format!("add a wire with `ends = [\"host\", \"{space}\"]`"));
            }
        }
    }

    /// The first thing in the file that cannot be done without knowing which devices lead outside.
    fn uplinks(&self) {
        let host = &self.draft.host;
        if !host.uplinks.is_empty() || host.uplinks_torn {
            return;
        }
        let mut needs: Vec<(Place, String)> = Vec::new();
        for wire in &self.draft.wires {
            let place = wire.publish_place.filter(|_| !wire.publish.is_empty());
            needs.extend(place.map(|place| (place, format!("{} publishes", wire.what))));
        }
        for node in &self.draft.nodes {
            let place = node.egress_place.filter(|_| !node.egress.is_empty());
            needs.extend(place.map(|place| (place, format!("node `{}` has egress", node.name.it))));
        }
        for hub in &self.draft.hubs {
            needs.extend(first_publication(hub).map(|place| (place, format!("hub `{}` publishes", hub.name.it))));
        }
        needs
            .extend(host.block.as_ref().map(|block| (block.place, "`block` drops what comes from outside".to_owned())));
        if host.policy == Policy::All {
            needs.push((host.policy_place, "`policy = \"all\"` drops what comes from outside".to_owned()));
        }
        if let Some((place, need)) = needs.into_iter().min() {
            let message = format!("{need}, but nothing says which devices lead outside");
            self.page.fault(
                place,
                message,
                "write `uplinks = [\"eth0\"]` below [host], with the devices towards LAN and WAN",
            );
        }
    }

    /// No port of the host is handed to two.
    fn publications(&self) {
        let mut all: Vec<Publication> = Vec::new();
        for (wire, ends) in self.draft.wires.iter().zip(&self.ends) {
            let (Some(place), Some(ends)) = (wire.publish_place, ends) else {
                continue;
            };
            let far = match *ends {
                [HOST, far] | [far, HOST] => far,
                _ => {
                    let message =
                        format!("{}: `publish` hands on ports of the host, where this wire does not end", wire.what);
                    let [a, b] = ends;
                    let end = if self.is_hub(a) { a } else { b };
                    let hint = match self.wires_of(end).find(|(_, far)| *far == HOST) {
                        Some((wire, _)) => format!("move it to {}, which does", wire.what),
                        None => "move it to a wire that does".to_owned(),
                    };
                    self.page.fault(place, message, hint);
                    continue;
                }
            };
            all.extend(wire.publish.iter().map(|publish| Publication {
                place: publish.place,
                what: wire.what.clone(),
                service: publish.flow.clone(),
                from: publish.from.clone(),
                far,
                written: Some(publish),
            }));
        }
        for hub in &self.draft.hubs {
            all.extend(derived(hub));
        }
        all.sort_by_key(|publication| publication.place);
        for (i, one) in all.iter().enumerate() {
            if let Some(other) = all[..i].iter().find(|other| one.collides(other)) {
                let ports = &one.service;
                let message = format!(
                    "{}: {ports} of the host is already published by {} ({})",
                    one.what,
                    other.what,
                    line(other.place)
                );
                self.page.fault(one.place, message, "publish another port, or another `address`");
            }
        }
    }

    /// What hubs that `wire` runs need.
    fn hubs(&self) {
        let mut peers: BTreeMap<&Name, Place> = BTreeMap::new();
        for hub in &self.draft.hubs {
            let name = hub.name.it.as_str();
            if let Some(place) = first_publication(hub)
                && self.ends_whole
                && self.knows(name)
                && !self.has_host_wire(name)
            {
                let message = format!("hub `{name}`: nothing can be published, as no wire joins it and the host");
                self.page.fault(place, message, format!("add a wire with `ends = [\"host\", \"{name}\"]`"));
            }
            if let Some(wireguard) = hub.wireguard.as_ref().filter(|_| !hub.clients_said) {
                let message = format!("hub `{name}`: the tunnel has no prefix for its clients");
                let hint = "add `clients = { prefix = \"10.100.0.0/24\", device = \"wg0\" }` below [hub.";
                self.page.fault(wireguard.it.place, message, format!("{hint}{name}]"));
            }
            self.peers(hub, &mut peers);
            self.sites(hub);
            hub.forwards.iter().for_each(|forward| self.forward(name, forward));
        }
    }

    fn peers(&self, hub: &'d draft::Hub<'d>, names: &mut BTreeMap<&'d Name, Place>) {
        let mut keys: BTreeMap<&str, &Name> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, &Name> = BTreeMap::new();
        for draft in &hub.peers {
            let peer = &draft.peer;
            let tell = |place, message: String, hint: &str| {
                self.page.fault(place, format!("peer `{}`: {message}", peer.name), hint)
            };
            let place = *names.entry(&peer.name).or_insert(draft.name);
            if place != draft.name {
                tell(
                    draft.name,
                    format!("the name is already that of the peer in {}", line(place)),
                    "give each peer its own name",
                );
            }
            let owner = *keys.entry(&peer.public_key).or_insert(&peer.name);
            if *owner != peer.name {
                tell(draft.key, format!("its public key is that of peer `{owner}`"), "make a key pair for each device");
            }
            let owner = *addresses.entry(peer.address).or_insert(&peer.name);
            if *owner != peer.name {
                tell(
                    draft.address,
                    format!("{} is already the address of peer `{owner}`", peer.address),
                    "take another address",
                );
            }
            if let Some(clients) = &hub.clients {
                let prefix = clients.it.prefix;
                let hint = format!("take an address between those of {prefix}, from the third on");
                if !prefix.contains(peer.address) {
                    tell(draft.address, format!("{} is not one of its hub's clients, {prefix}", peer.address), &hint);
                } else if peer.address == clients.it.hub_address() {
                    tell(draft.address, format!("{} is the hub's own address", peer.address), &hint);
                } else if peer.address == prefix.network() || prefix.is_ipv4() && peer.address == prefix.broadcast() {
                    tell(draft.address, format!("{} stands for all of {prefix}", peer.address), &hint);
                }
            }
            draft.allow.iter().for_each(|said| {
                self.allowed(&peer.name, said);
            });
        }
    }

    /// What a word of a peer's `allow` means, told where it is nothing or several things.
    fn allowed(&self, peer: &Name, said: &Said<&str>) -> Option<Allowed> {
        if said.it == "*" {
            return Some(Allowed::Everything);
        }
        let wires = || self.draft.wires.iter().filter_map(|wire| Some(wire.name.as_ref()?.it.as_str()));
        let modules = || self.draft.modules.iter().map(|(module, _)| module.as_str());
        let (kind, text) = match said.it.split_once(':') {
            Some((kind @ ("module" | "node" | "wire"), text)) => (Some(kind), text),
            _ => (None, said.it),
        };
        let name = Name::new(text);
        let is = |which, known: bool| (known && kind.is_none_or(|kind| kind == which)).then(|| name.clone()).flatten();
        let found = [
            is("module", modules().any(|module| module == text)).map(Allowed::Module),
            is("node", self.knows(text)).map(Allowed::Node),
            is("wire", wires().any(|wire| wire == text)).map(Allowed::Wire),
        ];
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        if found.len() > 1 {
            let message = format!("peer `{peer}`: `{text}` is several things");
            self.page.fault(said.place, message, format!("say which: `module:{text}`, `node:{text}` or `wire:{text}`"));
        }
        if found.is_empty() {
            let near = nearest(text, modules().chain(self.members.keys().copied()).chain(wires()));
            let whole = self.draft.modules_whole && self.draft.wires.iter().all(|wire| wire.name.is_some());
            if near.is_some() || whole {
                let hint = meant(text, near, "name modules, nodes or wires, or `*` for everything");
                let message = format!("peer `{peer}`: no module, node or wire is called `{}`", shown(text));
                self.page.fault(said.place, message, hint);
            }
        }
        found.pop()
    }

    fn sites(&self, hub: &draft::Hub) {
        let name = hub.name.it.as_str();
        let mut taken: BTreeMap<(&str, Option<&str>), Place> = BTreeMap::new();
        let sites = hub.sites.iter().map(|site| (&site.it.host, site.it.path.as_deref(), site.it.place));
        let redirects = hub.redirects.iter().map(|redirect| (&redirect.host, None, redirect.place));
        let mut hosts: Vec<_> = sites.chain(redirects).collect();
        hosts.sort_by_key(|(_, _, place)| *place);
        for (host, path, place) in hosts {
            let before = *taken.entry((host, path)).or_insert(place);
            if before != place {
                let message = format!(
                    "hub `{name}`: `{host}{}` is served twice, first in {}",
                    path.unwrap_or_default(),
                    line(before)
                );
                self.page.fault(place, message, "keep one of them, or give one a `path`");
            }
        }
        for site in hub.sites.iter().filter(|_| self.ends_whole) {
            let to = &site.it.to;
            let Some(Some(space)) = self.spaces.get(to.node.as_str()) else {
                continue;
            };
            let wanted = Service { protocol: Protocol::Tcp, ports: vec![(to.port, to.port)], icmp_type: None };
            let wires: Vec<_> = self.wires_of(name).filter(|(_, far)| far == space).map(|(wire, _)| wire).collect();
            let flows = |wire: &'d draft::Wire<'d>| {
                if self.is_first_end(wire, name) { &wire.allow } else { &wire.allow_back }
            };
            let lets = |flow: &Flow| flow.flow.covers(&wanted) && flow.to.is_none();
            if wires.iter().any(|wire| !wire.flows_whole || flows(wire).iter().any(lets)) {
                continue;
            }
            let message = format!("site `{}`: no flow lets hub `{name}` reach `{}` by {wanted}", site.it.host, to.node);
            let hint = match wires.first() {
                Some(wire) => {
                    let key = if self.is_first_end(wire, name) { "allow" } else { "allow-back" };
                    format!("add `\"{wanted}\"` to `{key}` of {} ({})", wire.what, line(wire.place))
                }
                None => format!("add a wire with `ends = [\"{name}\", \"{}\"], allow = [\"{wanted}\"]`", to.node),
            };
            self.page.fault(site.place, message, hint);
        }
    }

    fn is_first_end(&self, wire: &draft::Wire, space: &str) -> bool {
        wire.ends.as_ref().is_some_and(|[a, _]| self.spaces.get(a.it).copied().flatten() == Some(space))
    }

    /// A forward keeps the client's address, so replies must come back through the same hub.
    fn forward(&self, hub: &str, draft: &draft::ForwardDraft) {
        let to = &draft.forward.to.node;
        let Some(Some(space)) = self.spaces.get(to.as_str()).filter(|_| self.ends_whole) else {
            return;
        };
        let tell = |message: String, hint: String| {
            self.page.fault(draft.to, format!("forward `{}`: {message}", draft.forward.port), hint);
        };
        if !self.is_leaf(space) {
            let kind = if *space == HOST { "the host" } else { "a hub" };
            tell(format!("`{to}` is {kind}, and a forward ends at a leaf"), "name a leaf of this hub".to_owned());
        } else if !self.wires_of(hub).any(|(_, far)| far == *space) {
            let hint = format!("add a wire with `ends = [\"{hub}\", \"{to}\"]`");
            tell(format!("no wire joins hub `{hub}` and `{to}`"), hint);
        } else if let Some((wire, first)) = self.first_hub(space).filter(|(_, first)| *first != hub) {
            let message =
                format!("replies of `{to}` leave by its first hub, `{first}` ({}), not by `{hub}`", line(wire.place));
            tell(message, format!("move the wire between `{hub}` and `{to}` above it, or forward from `{first}`"));
        }
    }

    fn sets(&self) {
        for (set, what) in self.page.sets_named() {
            if self.draft.sets.contains_key(&set.it) {
                continue;
            }
            let near = nearest(set.it.as_str(), self.draft.sets.keys().map(Name::as_str));
            if near.is_some() || self.draft.sets_whole {
                let hint = meant(set.it.as_str(), near, format!("add [set.{}]", set.it));
                self.page.fault(set.place, format!("{what}: no set is called `{}`", set.it), hint);
            }
        }
    }

    /// The topology; none only where something is missing that was told.
    fn topology(&self) -> Option<Topology> {
        let draft = self.draft;
        let wires: Option<Vec<_>> =
            draft.wires.iter().zip(&self.ends).map(|(wire, ends)| self.wire(wire, (*ends)?)).collect();
        let mut nodes = BTreeMap::new();
        for (name, member) in &self.members {
            nodes.insert(Name::new(name)?, self.node(Name::new(name)?, member));
        }
        for node in draft.nodes.iter().filter(|node| node.shares.is_some()) {
            let owner = self.spaces.get(node.name.it.as_str()).copied().flatten()?;
            if let Some(owner) = nodes.get_mut(owner) {
                owner.egress.extend(node.egress.iter().cloned());
            }
        }
        let mut hubs = BTreeMap::new();
        for hub in &draft.hubs {
            hubs.insert(hub.name.it.clone(), self.hub(hub)?);
        }
        let modules = draft.modules.iter().map(|(module, nodes)| Module {
            name: module.clone(),
            nodes: nodes.iter().map(|node| node.it.clone()).collect(),
        });
        Some(Topology {
            wires: wires?,
            nodes,
            modules: modules.collect(),
            hubs,
            host: Host {
                uplinks: draft.host.uplinks.iter().map(|uplink| uplink.it.clone()).collect(),
                policy: draft.host.policy,
                allow: draft.host.allow.clone(),
                block: draft.host.block.as_ref().map(|block| block.it.clone()),
            },
            pool: draft.pool.clone(),
            sets: draft.sets.clone(),
            acme: draft.acme.clone(),
        })
    }

    fn wire(&self, wire: &draft::Wire<'d>, ends: [&'d str; 2]) -> Option<Wire> {
        let [first, second] = self.devices_of(wire, ends)?;
        let subnet = wire.subnet.as_ref()?.it;
        let subnet6 = wire.subnet6.as_ref().map(|subnet| subnet.it);
        // The first address of a /30 stands for all of it.
        let low = u32::from(subnet.network()) + u32::from(subnet.prefix() == 30);
        let end = |nth: usize, device: Device| {
            Some(End {
                node: if ends[nth] == HOST { Name::host() } else { Name::new(ends[nth])? },
                device,
                address: Ipv4Addr::from(low + nth as u32),
                address6: subnet6.map(|subnet| Ipv6Addr::from(u128::from(subnet.network()) + nth as u128)),
            })
        };
        let leaf = ends.into_iter().find(|end| self.is_leaf(end));
        let namer = leaf.or_else(|| ends.into_iter().find(|end| self.is_hub(end)))?;
        Some(Wire {
            name: wire.name.as_ref()?.it.clone(),
            module: self.members.get(namer)?.module.clone(),
            ends: [end(0, first)?, end(1, second)?],
            subnet,
            subnet6,
            allow: wire.allow.clone(),
            allow_back: wire.allow_back.clone(),
            publish: wire.publish.clone(),
            mtu: wire.mtu,
            mode: wire.mode,
            across_zones: wire.across_zones,
            place: wire.place,
        })
    }

    fn node(&self, name: Name, member: &Member) -> Node {
        let table = self.tables.get(name.as_str()).copied();
        let own = table.filter(|table| table.shares.is_none());
        let shares = table.and_then(|table| table.shares.as_ref());
        Node {
            home: self.home(&name),
            module: member.module.clone(),
            network_none: table.is_some_and(|table| table.network_none.is_some()),
            owned: table.is_some_and(|table| table.owned.is_some()),
            shares: shares.and_then(|shares| if shares.it == HOST { Some(Name::host()) } else { Name::new(shares.it) }),
            zones: table.and_then(|table| Some(table.zones.as_ref()?.it.clone())).unwrap_or_default(),
            egress: own.map(|table| table.egress.clone()).unwrap_or_default(),
            snat: table.and_then(|table| Some(table.snat.as_ref()?.it)),
            place: table.map_or(member.place, |table| table.name.place),
            name,
        }
    }

    fn hub(&self, hub: &draft::Hub) -> Option<Hub> {
        let upstream = |mut to: Upstream| {
            let space = self.spaces.get(to.node.as_str()).copied().flatten()?;
            if space != to.node.as_str() {
                to.node = if space == HOST { Name::host() } else { Name::new(space)? };
            }
            Some(to)
        };
        let mut wireguard = hub.wireguard.as_ref().map(|wireguard| wireguard.it.clone());
        if let Some(wireguard) = &mut wireguard {
            for draft in &hub.peers {
                let allow: Option<_> = draft.allow.iter().map(|said| self.allowed(&draft.peer.name, said)).collect();
                wireguard.peers.push(Peer { allow: allow?, ..draft.peer.clone() });
            }
        }
        let sites: Option<_> =
            hub.sites.iter().map(|site| Some(Site { to: upstream(site.it.to.clone())?, ..site.it.clone() })).collect();
        let forwards: Option<_> = hub
            .forwards
            .iter()
            .map(|draft| Some(Forward { to: upstream(draft.forward.to.clone())?, ..draft.forward.clone() }))
            .collect();
        Some(Hub {
            name: hub.name.it.clone(),
            zone: hub.zone.clone()?,
            pool: hub.pool,
            clients: hub.clients.as_ref().map(|clients| clients.it.clone()),
            wireguard,
            sites: sites?,
            redirects: hub.redirects.clone(),
            forwards: forwards?,
            place: hub.name.place,
        })
    }
}

/// A port of the host that is handed on, written or needed by a hub that `wire` runs.
struct Publication<'d> {
    place: Place,
    what: String,
    service: Service,
    from: Option<Whom>,
    far: &'d str,
    /// None where it follows from a hub's tables.
    written: Option<&'d Publish>,
}

impl Publication<'_> {
    fn collides(&self, other: &Publication) -> bool {
        let address = |one: &Publication| one.written.and_then(|publish| publish.address);
        let apart = match (self.written, other.written) {
            (Some(a), Some(b)) => a.on.is_some() && b.on.is_some() && a.on != b.on,
            _ => false,
        };
        self.service.overlaps(&other.service) && address(self) == address(other) && !apart && !self.says_the_same(other)
    }

    fn says_the_same(&self, other: &Publication) -> bool {
        let both = match (self.written, other.written) {
            (Some(a), Some(b)) => {
                let place = Place::default();
                Publish { place, ..a.clone() } == Publish { place, ..b.clone() }
            }
            (Some(written), None) | (None, Some(written)) => written.to_port.is_none() && self.from == other.from,
            (None, None) => false,
        };
        both && self.far == other.far
    }
}

/// What a hub's own tables publish on its host wire.
fn derived<'d>(hub: &'d draft::Hub<'d>) -> Vec<Publication<'d>> {
    let what = format!("hub `{}`", hub.name.it);
    let publication = |place, protocol, port, from| Publication {
        place,
        what: what.clone(),
        service: Service { protocol, ports: vec![(port, port)], icmp_type: None },
        from,
        far: hub.name.it.as_str(),
        written: None,
    };
    let mut all = Vec::new();
    if let Some(wireguard) = &hub.wireguard {
        all.push(publication(wireguard.place, Protocol::Udp, wireguard.it.listen, None));
    }
    let sites = hub.sites.iter().map(|site| site.it.place);
    if let Some(place) = sites.chain(hub.redirects.iter().map(|redirect| redirect.place)).min() {
        all.extend([443, 80].map(|port| publication(place, Protocol::Tcp, port, None)));
    }
    all.extend(hub.forwards.iter().map(|draft| Publication {
        service: draft.forward.port.clone(),
        what: format!("forward `{}`", draft.forward.port),
        ..publication(draft.port, draft.forward.port.protocol, 0, draft.forward.from.clone())
    }));
    all
}

fn first_publication(hub: &draft::Hub) -> Option<Place> {
    derived(hub).into_iter().map(|publication| publication.place).min()
}

/// Whether two networks have an address in common; of prefixes, one then holds the other.
fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// What a valid topology says and its author may not have meant.
pub fn warnings(topology: &Topology) -> Vec<Fault> {
    let mut warnings = Vec::new();
    let mut warn = |place, message: String, hint: &str| {
        warnings.push(Fault { place, message, hint: Some(hint.to_owned()) });
    };
    for wire in &topology.wires {
        if !wire.subnet.network().is_private() {
            let hint = "take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16";
            warn(wire.place, format!("wire `{}`: {} is not a private network", wire.name, wire.subnet), hint);
        }
        if let Some(subnet) = wire.subnet6.filter(|subnet| !subnet.network().is_unique_local()) {
            warn(
                wire.place,
                format!("wire `{}`: {subnet} is not a private network", wire.name),
                "take one of fd00::/8",
            );
        }
        let is6 = |whom: &Option<Whom>| matches!(whom, Some(Whom::Network(IpNetwork::V6(_))));
        let needs6 = |flow: &&Flow| flow.flow.protocol == Protocol::Icmpv6 || is6(&flow.from) || is6(&flow.to);
        for flow in wire.allow.iter().chain(&wire.allow_back).filter(needs6).filter(|_| wire.subnet6.is_none()) {
            let message = format!("wire `{}`: `{}` never passes, as the wire has no IPv6", wire.name, flow.flow);
            warn(flow.place, message, "add a `subnet6`, or strike the flow");
        }
    }
    for node in topology.nodes.values().filter(|node| !node.egress.is_empty() && topology.is_leaf(node.name.as_str())) {
        let wires = || topology.wires_of(node.name.as_str());
        let Some((wire, end)) = wires().find(|(wire, end)| topology.hubs.contains_key(&wire.far(*end).node)) else {
            continue;
        };
        let hub = &wire.far(end).node;
        let leads_out = |hub: &Name| topology.wires_of(hub.as_str()).any(|(wire, end)| wire.far(end).node.is_host());
        if !leads_out(hub) && !wires().any(|(wire, end)| wire.far(end).node.is_host()) {
            let message =
                format!("node `{}`: its egress ends at hub `{hub}`, which has no wire to the host", node.name);
            warn(node.place, message, "add a wire between the host and the hub");
        }
    }
    for (hub, peer) in topology
        .hubs
        .values()
        .flat_map(|hub| hub.wireguard.iter().flat_map(move |wg| wg.peers.iter().map(move |peer| (hub, peer))))
    {
        for allowed in &peer.allow {
            let reached = |node: &Name| {
                let space = topology.namespace_of(node);
                topology.wires_of(hub.name.as_str()).any(|(wire, end)| wire.far(end).node == *space)
            };
            let (name, reaches) = match allowed {
                Allowed::Everything => continue,
                Allowed::Node(node) => (node, reached(node)),
                Allowed::Module(name) => {
                    (name, topology.module(name.as_str()).is_some_and(|m| m.nodes.iter().any(reached)))
                }
                Allowed::Wire(name) => {
                    (name, topology.wire(name.as_str()).is_some_and(|wire| wire.end_in(hub.name.as_str()).is_some()))
                }
            };
            if !reaches {
                let message = format!("peer `{}`: hub `{}` has no wire to `{name}`", peer.name, hub.name);
                warn(peer.place, message, "add a wire, or strike it from `allow`");
            }
        }
    }
    warnings.sort();
    warnings
}
