//! What a change takes to be undone: of what was there before, the part that the change touches, and from that and from what is
//! there now the state that is wanted then. Pure, and the same difference as everywhere carries it out.
//!
//! What the change did not touch is wanted as it is. So is what became another namespace, and what somebody else has changed or
//! taken away meanwhile. What only mended (a device that was down, in a bridge, without its marks) stays mended.

mod elements;
#[cfg(test)]
mod tests;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::nft::{Rule, Table};
use crate::plan::{Action, Change};
use crate::rules::{self, Openings};
use crate::state::{End, Maker, Marks, Namespace, Route, Setting, State, Traffic};
use crate::topology::{self, Device, Name};

/// A change that may have to be undone.
#[derive(Clone, Debug, Default)]
pub struct Undo {
    before: State,
    /// The namespaces it makes, and those that it takes away.
    made: BTreeSet<Name>,
    unmade: BTreeSet<Name>,
    /// The wires it touches, and whether it takes them away.
    wires: BTreeMap<Name, bool>,
    /// The rules that it loads; none where it takes them away.
    rules: BTreeMap<Name, Option<(Arc<Table>, Arc<Openings>)>>,
    /// What it sets a whole namespace to, and devices that are no wire's.
    settings: BTreeMap<Name, BTreeMap<Setting, i32>>,
    others: BTreeMap<Name, BTreeMap<(Device, Setting), i32>>,
    /// What it does with tunnels.
    tunnels: BTreeMap<(Name, Device), tunnel::Change>,
}

impl Undo {
    /// Of these changes to what was seen.
    pub fn of(seen: &State, changes: &[Change]) -> Undo {
        let mut undo = Undo { before: seen.clone(), ..Undo::default() };
        for Change { node, wire, action, .. } in changes {
            match action {
                Action::Load(load) => {
                    undo.rules.insert(node.clone(), Some((load.table.clone(), load.openings.clone())));
                }
                Action::Make => drop(undo.made.insert(node.clone())),
                Action::Unmake => drop(undo.unmade.insert(node.clone())),
                Action::Unload => drop(undo.rules.insert(node.clone(), None)),
                Action::SetAll(setting, value) => {
                    undo.settings.entry(node.clone()).or_default().insert(*setting, *value);
                }
                Action::Tunnel(device, step) => {
                    undo.tunnels.entry((node.clone(), device.clone())).or_default().add(step);
                }
                Action::Remove { device } if wire.is_none() => {
                    let is_tunnel = |here: &Namespace| here.tunnels.contains_key(device);
                    if seen.namespaces.get(node).is_some_and(is_tunnel) {
                        undo.tunnels.entry((node.clone(), device.clone())).or_default().whole = true;
                    }
                }
                Action::SetOther(device, setting, value) => {
                    undo.others.entry(node.clone()).or_default().insert((device.clone(), *setting), *value);
                }
                _ => {}
            }
            if let Some(wire) = wire {
                let removed = undo.wires.entry(wire.clone()).or_default();
                // One that is made anew is removed first.
                *removed = matches!(action, Action::Remove { .. }) || *removed && !matches!(action, Action::Create(_));
            }
        }
        undo
    }

    /// Whether it touches a wire.
    pub fn is_about(&self, wire: &Name) -> bool {
        self.wires.contains_key(wire)
    }

    /// The nodes whose settings it changes, with the devices that are no wire's: to be looked at whatever the file says of them.
    pub fn devices(&self) -> BTreeMap<Name, BTreeSet<Device>> {
        let mut devices: BTreeMap<Name, BTreeSet<Device>> =
            self.settings.keys().map(|node| (node.clone(), BTreeSet::new())).collect();
        for (node, others) in &self.others {
            devices.entry(node.clone()).or_default().extend(others.keys().map(|(device, _)| device.clone()));
        }
        devices
    }

    /// The namespaces that it takes away: to be missed whatever the file says of them.
    pub fn unmade(&self) -> BTreeSet<Name> {
        self.unmade.clone()
    }

    /// What is wanted for it to be undone, so many seconds after it was made.
    pub fn wanted(&self, seen: &State, elapsed: u64) -> State {
        let mut wanted = State { namespaces: seen.namespaces.clone(), ..State::default() };
        let mut back: BTreeSet<&Name> = BTreeSet::new();
        for (wire, removed) in &self.wires {
            back.extend(self.wire(wire, *removed, seen, &mut wanted).then_some(wire));
        }
        for (node, namespace) in &mut wanted.namespaces {
            give_way(namespace, &back);
            // It has a setting of its own, as one of the whole namespace.
            namespace.others.retain(|(device, _), _| device.as_str() != "all");
            match namespace.maker {
                Maker::Wire if self.made.contains(node) => namespace.maker = Maker::Nobody,
                Maker::Nobody | Maker::Killed if self.unmade.contains(node) => namespace.maker = Maker::Wire,
                _ => {}
            }
            let Some(before) = self.same(node, seen) else { continue };
            let settings = self.settings.get(node);
            for (setting, set) in settings.into_iter().flatten() {
                restore(&mut namespace.settings, &before.settings, setting, *set);
            }
            // What a whole namespace is set to is written through to its devices: those that it makes right need no more.
            let through = settings.and_then(|settings| settings.get(&Setting::Forwarding));
            let goes_along = |now: i32| before.settings.get(&Setting::Forwarding) == Some(&now);
            for (place, value) in before.others.iter().filter(|((device, _), _)| device.as_str() != "all") {
                let through = through.filter(|_| place.1 == Setting::Forwarding);
                match (self.others.get(node).and_then(|others| others.get(place)), through) {
                    (Some(set), _) => restore(&mut namespace.others, &before.others, place, *set),
                    (None, Some(_)) if goes_along(*value) => drop(namespace.others.remove(place)),
                    (None, Some(set)) => restore(&mut namespace.others, &before.others, place, *set),
                    (None, None) => {}
                }
            }
            for ((_, device), change) in self.tunnels.iter().filter(|((at, _), _)| at == node) {
                change.undo(device, before, namespace);
            }
            if let Some(loaded) = self.rules.get(node) {
                self.rules(loaded.as_ref(), before, namespace, elapsed);
            }
        }
        wanted
    }

    /// The namespace of a node as it was, if the node still has that one.
    fn same(&self, node: &Name, seen: &State) -> Option<&Namespace> {
        let (before, now) = (self.before.namespaces.get(node)?, seen.namespaces.get(node)?);
        let made = self.made.contains(node) && now.maker == Maker::Wire;
        let unmade = self.unmade.contains(node) && !now.maker.has_made();
        (before.cookie == now.cookie || made || unmade).then_some(before)
    }

    /// Whether the wire is to be there as it was.
    fn wire(&self, wire: &Name, removed: bool, seen: &State, wanted: &mut State) -> bool {
        let (before, now) = (ends_of(&self.before, wire), ends_of(seen, wire));
        let pair = <[(&Name, &End); 2]>::try_from(before.into_iter().collect::<Vec<_>>());
        if let Ok(pair) = &pair {
            let moved = pair.iter().any(|(node, _)| self.same(node, seen).is_none());
            // Somebody has taken it away meanwhile.
            let gone = now.is_empty() && !removed;
            if moved || gone {
                return false;
            }
        }
        wanted.namespaces.values_mut().for_each(|namespace| drop(namespace.ends.remove(wire)));
        // Half a wire was none.
        let Ok(mut pair) = pair else { return false };
        pair.sort_by_key(|(_, end)| end.addresses.first());
        for side in 0..2 {
            let ((node, before), (far, _)) = (pair[side], pair[1 - side]);
            let end = self.end(wire, side, before, [node, far]);
            if let Some(namespace) = wanted.namespaces.get_mut(node) {
                namespace.ends.insert(wire.clone(), end);
            }
        }
        true
    }

    /// An end as it was, as far as `wire` makes ends.
    fn end(&self, wire: &Name, side: usize, before: &End, [node, far]: [&Name; 2]) -> End {
        let mut end = End {
            marks: Marks { group: true, alias: true, mac: topology::mac(wire, side) },
            far: Some(far.clone()),
            up: true,
            arp: true,
            enslaved: false,
            traffic: Traffic::default(),
            ..before.clone()
        };
        if end.addresses.is_empty() {
            // A kernel before 5.18 keeps no mark on an address, and one that the file does not have counted as foreign.
            let foreign = self.before.namespaces.get(node).map(|namespace| &namespace.foreign.addresses);
            let here = foreign.into_iter().flatten().filter(|(on, _)| on == wire);
            end.addresses = here.map(|(_, address)| *address).collect();
        }
        // The kernel makes the route of a subnet with the address, and takes none whose gateway lies nowhere.
        let fits = |route: &Route, own: &IpNetwork| match route.via {
            Some(via) => own.contains(via),
            None => own.network() == route.to.network() && route.from.is_none_or(|from| from == own.ip()),
        };
        end.routes.retain(|route| end.addresses.iter().any(|own| fits(route, own)));
        end
    }

    /// The rules of a namespace, whose ends are as wanted already.
    fn rules(
        &self,
        loaded: Option<&(Arc<Table>, Arc<Openings>)>,
        before: &Namespace,
        wanted: &mut Namespace,
        elapsed: u64,
    ) {
        let wired = |here: &Namespace| !here.ends.is_empty() || !here.tunnels.is_empty() || here.beyond;
        let Some(table) = &before.table else {
            // Nothing was policed before; what came meanwhile is.
            if !wired(wanted) || wired(before) {
                wanted.table = None;
            }
            return;
        };
        if wanted.table.is_none() && loaded.is_some() && !wired(wanted) {
            return;
        }
        let nothing = Table::default();
        // What is not wire's does not come back.
        let mut table = Table { foreign: BTreeSet::new(), dormant: false, ..table.as_ref().clone() };
        let after = loaded.map_or(&nothing, |(table, _)| table.as_ref());
        elements::keep(&mut table, after, wanted.table.as_deref().unwrap_or(&nothing), elapsed);
        wanted.openings = loaded.map(|(after, made)| Arc::new(openings(made, &table, after))).unwrap_or_default();
        wanted.table = Some(Arc::new(table));
    }
}

/// The ends of a wire, by node.
fn ends_of<'s>(state: &'s State, wire: &Name) -> BTreeMap<&'s Name, &'s End> {
    state.namespaces.iter().filter_map(|(node, namespace)| Some((node, namespace.ends.get(wire)?))).collect()
}

/// A wire that did not come back keeps no route that one has which did.
fn give_way(namespace: &mut Namespace, back: &BTreeSet<&Name>) {
    let beyond =
        |end: &End| end.routes.iter().filter(|route| route.via.is_some()).map(|route| route.to).collect::<Vec<_>>();
    let had = namespace.ends.iter().filter(|(wire, _)| back.contains(wire));
    let had: BTreeSet<IpNetwork> = had.flat_map(|(_, end)| beyond(end)).collect();
    for (_, end) in namespace.ends.iter_mut().filter(|(wire, _)| !back.contains(wire)) {
        end.routes.retain(|route| route.via.is_none() || !had.contains(&route.to));
    }
}

/// A value goes back to what it was, unless somebody else has set it meanwhile.
fn restore<K: Ord + Clone>(wanted: &mut BTreeMap<K, i32>, before: &BTreeMap<K, i32>, key: &K, set: i32) {
    if let Some(value) = before.get(key)
        && wanted.get(key) == Some(&set)
    {
        wanted.insert(key.clone(), *value);
    }
}

/// What may begin under the rules as they were: of what the change let begin, that which those have in the same words. What the
/// change did not let begin is over already.
fn openings(made: &Openings, before: &Table, after: &Table) -> Openings {
    let [old, new] = [before, after].map(|table| {
        let mut rules: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
        for rule in table.chains.values().flat_map(|chain| &chain.rules) {
            rules.entry(rule.comment.as_deref().unwrap_or_default()).or_default().push(rule);
        }
        rules
    });
    let mut left = made.clone();
    left.list.retain(|opening| {
        let comment = rules::clipped(&opening.comment);
        old.get(&*comment).is_some_and(|old| new.get(&*comment) == Some(old))
    });
    // Audit mode came with the change.
    if !before.chains.keys().any(|chain| chain.starts_with("watched.")) {
        left.policed.append(&mut left.watched);
    }
    left
}
