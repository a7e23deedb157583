//! What `[node]` says of a node fits together: its home, its zones, its way out.

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::{HOST, Home, Name, Place};

use super::super::draft::{self, rootless};
use super::published::first_publication;
use super::{Check, and, line, list};
use crate::near::shown;

impl<'d> Check<'d> {
    /// What a node's own table says must fit together.
    pub(super) fn nodes(&self) {
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
            } else if let Some(user) = node.user.as_ref().filter(|user| node.owned.is_some() && user.it != "root") {
                let message = format!("a container of `{}` cannot join a namespace that root owns", user.it);
                tell(user.place, &message, "strike `owned`, or let it be a container of root's");
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
                    tell(
                        shares.place,
                        "a hub has a namespace of its own",
                        &format!("strike `shares`, or [hub.{name}]"),
                    );
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
    pub(super) fn is_first_of_cycle(&self, node: &draft::Node) -> bool {
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

    pub(super) fn home(&self, node: &Name) -> Home {
        match self.is_owned(node) {
            true => Home::Netns(node.clone()),
            false => self.other_home(node),
        }
    }

    /// By its own word; or as a hub that `wire` runs, unless somebody else's namespace is named.
    pub(super) fn is_owned(&self, node: &Name) -> bool {
        let table = self.tables.get(node.as_str());
        let is_run = self.hubs.get(node.as_str()).is_some_and(|hub| hub.is_run());
        let elsewhere = |table: &draft::Node| {
            table.netns.is_some() || table.container.is_some() || table.user.is_some() || table.shares.is_some()
        };
        table.is_some_and(|table| table.owned.is_some()) || is_run && !table.is_some_and(|table| elsewhere(table))
    }

    /// Where it lives if `wire` makes it no home.
    fn other_home(&self, node: &Name) -> Home {
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
    pub(super) fn homes(&self) {
        let mut taken: BTreeMap<String, (&Name, Place)> = BTreeMap::new();
        for node in self.draft.modules.iter().flat_map(|module| &module.nodes) {
            let table = self.tables.get(node.it.as_str());
            let place = table.map_or(node.place, |table| table.name.place);
            let mut homes = vec![match self.other_home(&node.it) {
                Home::Netns(netns) => format!("the namespace `{netns}`"),
                Home::Podman { container, user } => {
                    format!("the container `{container}` of {}", user.as_deref().unwrap_or("root"))
                }
            }];
            homes.extend(self.is_owned(&node.it).then(|| format!("the namespace `{}`", node.it)));
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
    pub(super) fn zones_of(&self, space: &str) -> Option<BTreeMap<&'d str, &'d draft::Wire<'d>>> {
        let mut zones = BTreeMap::new();
        for (wire, far) in self.wires_of(space).filter(|(_, far)| self.is_hub(far)) {
            zones.entry(self.hubs[far].zone.as_ref()?.as_str()).or_insert(wire);
        }
        Some(zones)
    }

    pub(super) fn zones(&self) {
        if !self.ends_whole {
            return;
        }
        let leaves = self.members.keys().copied().filter(|node| self.is_leaf(node));
        let zones_of: BTreeMap<_, _> = leaves.filter_map(|leaf| Some((leaf, self.zones_of(leaf)?))).collect();
        for (node, zones) in &zones_of {
            let table = self.tables.get(node);
            if table.is_some_and(|table| table.zones_torn) {
                continue;
            }
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
            let (Some(first), Some(second)) = (zones_of.get(a), zones_of.get(b)) else {
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
    pub(super) fn ways_out(&self) {
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
                    // A hub that publishes is told the same for that.
                    if first_publication(self.hubs[space]).is_some() {
                        continue;
                    }
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
}
