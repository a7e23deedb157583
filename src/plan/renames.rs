//! Renames in an order in which each name is free when a device gets it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Change, Plan};
use crate::state::{Foreign, State};
use crate::topology::{Device, Name};

impl Plan {
    /// Puts the renames of a namespace into an order in which each name is free when a device gets it. Where devices swap their
    /// names, and where one that is left alone has a name that is needed, that one goes by a name of its own for now.
    pub(super) fn untangle(&mut self, seen: &State) {
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
