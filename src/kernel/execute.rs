//! A plan becomes requests, in its order: removals, settings of namespaces, names, births, and then each namespace's rest in one
//! batch. A refusal is remembered with its change and keeps nothing else from being done, but for what rests on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use super::lab::LOOPBACK;
use super::run::Lock;
use super::socket::{Batch, Refusal, Request};
use super::{Held, Kernel, Open, Refused, address, link, owned, route};
use crate::error::Error;
use crate::plan::tunnel::Step;
use crate::plan::{Action, Change, Plan};
use crate::state::{End, Namespace, Setting, State};
use crate::topology::{Device, Name};

impl Kernel {
    /// Carries out a plan, in its order. What is refused keeps nothing else from being done, but for what rests on it.
    /// `progress` hears how much of how much is done.
    pub fn apply(
        &mut self,
        plan: &Plan,
        lock: &Lock,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Refused>, Error> {
        let mut work = Work { changes: &plan.changes, refused: BTreeMap::new(), tried: Vec::new() };
        self.make(&mut work);
        let keys = Kernel::make_keys(&mut work, lock);
        for (i, error) in self.load(&plan.changes) {
            work.fail(i, error);
        }
        work.bar();
        self.remove(&mut work);
        work.keep(self.left(&work));
        self.set_namespaces(&mut work)?;
        let nodes = work.by_node();
        for (node, changes) in &nodes {
            self.rename(node, changes, &mut work);
        }
        let total = nodes.len() * 2;
        self.create(&mut work, &mut |part, whole| progress(nodes.len() * part / whole.max(1), total));
        for (done, (node, changes)) in nodes.iter().enumerate() {
            self.finish(node, changes, &mut work)?;
            progress(nodes.len() + done + 1, total);
        }
        self.tunnels(&keys, &mut work);
        let last: Vec<usize> = (0..plan.changes.len()).filter(|i| !work.refused.contains_key(i)).collect();
        for (i, error) in self.unload(last.into_iter().map(|i| (i, &plan.changes[i]))) {
            work.fail(i, error);
        }
        self.unmake(&mut work)?;
        Ok(work.refused.into_iter().map(|(change, error)| Refused { change, error }).collect())
    }

    /// Makes namespaces, and holds them as those that were there.
    fn make(&mut self, work: &mut Work) {
        let mut missing = BTreeSet::new();
        for (i, change) in work.changes.iter().enumerate().filter(|(_, change)| change.action == Action::Make) {
            let made = owned::make(change.node.netns(), &self.home, &mut self.sysctls);
            let opened = made.and_then(|netns| {
                let mut open = Open::new(netns, &self.home)?;
                let born = self.unmade.remove(&change.node).unwrap_or_default();
                (open.settings, open.others, open.next_index) = (born.settings, born.others, LOOPBACK + 1);
                Ok(open)
            });
            match opened {
                Ok(open) => drop(self.open.insert(change.node.clone(), open)),
                Err(error) => {
                    missing.insert(change.node.clone());
                    work.fail(i, error.message);
                }
            }
        }
        work.without(&missing);
    }

    /// Takes namespaces away, unless somebody has moved in since they were looked at.
    fn unmake(&mut self, work: &mut Work) -> Result<(), Error> {
        let last = |(i, change): &(usize, &Change)| change.action == Action::Unmake && !work.refused.contains_key(i);
        let doomed: Vec<(usize, &Change)> = work.changes.iter().enumerate().filter(last).collect();
        if doomed.is_empty() {
            return Ok(());
        }
        let key = |node: &Name| self.open.get(node).and_then(|open| open.netns.key().ok());
        let names = doomed.iter().filter_map(|(_, change)| Some((key(&change.node)?, change.node.netns()))).collect();
        let inhabitants = owned::inhabitants(&names);
        let stays: Vec<Option<String>> =
            doomed.iter().map(|(_, change)| inhabitants.get(&key(&change.node)?).cloned()).collect();
        for ((i, change), stays) in doomed.into_iter().zip(stays) {
            let node = &change.node;
            let unmade = match stays {
                Some(who) => Err(Error::failed(who)),
                None => owned::unmake(node.netns()),
            };
            match unmade {
                Err(error) => work.fail(i, error.message),
                Ok(()) => {
                    if let Some(open) = self.open.remove(node) {
                        self.remembered.remove(&open.cookie);
                    }
                }
            }
        }
        self.remember()
    }

    /// Deletes pairs, in as few namespaces as possible: many at once in one cost as much as one alone.
    fn remove(&mut self, work: &mut Work) {
        // A wire that is removed twice has ends that do not belong together: each goes by itself.
        let mut times: HashMap<&Name, usize> = HashMap::new();
        for change in work.changes.iter().filter(|change| matches!(change.action, Action::Remove { .. })) {
            *times.entry(change.wire.as_ref().unwrap_or(&change.node)).or_default() += 1;
        }
        let mut pairs: HashMap<&Name, Vec<(&Name, u32)>> = HashMap::new();
        for (node, open) in self.open.iter().filter(|_| !times.is_empty()) {
            for (wire, held) in &open.ends {
                pairs.entry(wire).or_default().push((node, held.index));
            }
        }
        let mut places: Vec<(usize, Vec<(&Name, u32)>)> = Vec::new();
        for (i, change) in work.changes.iter().enumerate() {
            let Action::Remove { device } = &change.action else { continue };
            let here = |(node, _): &&(&Name, u32)| **node == change.node;
            let ends = match &change.wire {
                Some(wire) if times[wire] == 1 => pairs.remove(wire).unwrap_or_default(),
                Some(wire) => pairs.get(wire).into_iter().flatten().filter(here).copied().collect(),
                None => {
                    let stray = self.open.get(&change.node).and_then(|open| open.strays.get(device));
                    stray.map(|index| (&change.node, *index)).into_iter().collect()
                }
            };
            places.push((i, ends));
        }
        let mut crowd: HashMap<&Name, usize> = HashMap::new();
        for (node, _) in places.iter().flat_map(|(_, ends)| ends) {
            *crowd.entry(node).or_default() += 1;
        }
        let mut doomed: BTreeMap<&Name, Vec<(usize, u32)>> = BTreeMap::new();
        for (i, ends) in &places {
            if let Some((node, index)) = ends.iter().max_by_key(|(node, _)| (crowd[node], *node)) {
                doomed.entry(node).or_default().push((*i, *index));
            }
        }
        for (node, links) in doomed {
            let socket = &self.open[node].socket;
            let mut batch = Batch::default();
            let gone = |(_, refusal): &(usize, Refusal)| refusal.errno != Errno::ENODEV;
            if let [(i, index)] = links[..] {
                work.push(&mut batch, i, "delete it", link::delete(index));
            } else {
                for (i, index) in &links {
                    work.push(&mut batch, *i, "delete it", link::doom(*index));
                }
                let refused = socket.send(&mut batch);
                work.refuse(refused.into_iter().filter(gone));
                work.push(&mut batch, links[0].0, "delete it", link::delete_doomed());
            }
            let refused = socket.send(&mut batch);
            work.refuse(refused.into_iter().filter(gone));
        }
    }

    /// The nodes that keep a cable which was to be removed.
    fn left(&self, work: &Work) -> BTreeSet<Name> {
        let removals = work.refused.keys().map(|i| &work.changes[*i]);
        let mut nodes = BTreeSet::new();
        for change in removals.filter(|change| matches!(change.action, Action::Remove { .. })) {
            let ends =
                self.open.iter().filter(|(_, open)| change.wire.as_ref().is_some_and(|w| open.ends.contains_key(w)));
            nodes.extend(ends.map(|(node, _)| node.clone()));
            nodes.insert(change.node.clone());
        }
        nodes
    }

    /// Settings of whole namespaces, and of devices that are no wire's. What they were is on disk before the first is changed.
    fn set_namespaces(&mut self, work: &mut Work) -> Result<(), Error> {
        let all = Device::new("all");
        let changes = work.changes.iter().enumerate().filter(|(i, _)| !work.refused.contains_key(i));
        let changes: Vec<(usize, &Name, &Device, Setting, i32)> = changes
            .filter_map(|(i, change)| match &change.action {
                Action::SetAll(setting, value) => Some((i, &change.node, all.as_ref()?, *setting, *value)),
                Action::SetOther(device, setting, value) => Some((i, &change.node, device, *setting, *value)),
                _ => None,
            })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        for &(_, node, device, setting, value) in &changes {
            let open = &self.open[node];
            let place = (device.clone(), setting);
            let is_all = all.as_ref() == Some(device);
            let before = if is_all { open.settings.get(&setting) } else { open.others.get(&place) };
            let Some(&before) = before else { continue };
            let sysctls = &mut self.sysctls;
            // Forwarding is written through to every device (`inet_forward_change`): those that were off stay off afterwards.
            let through = is_all && matches!(setting, Setting::Forwarding | Setting::Forwarding6) && value == 0;
            let off = match through {
                true => {
                    let list = || Ok::<_, Errno>(sysctls.conf(setting.is_ipv6())?.with(setting, 0));
                    open.netns.inside(&self.home, list)?.unwrap_or_default()
                }
                false => Vec::new(),
            };
            let remembered = self.remembered.entry(open.cookie).or_default();
            let path = setting.path(device.as_str());
            // Where that of all was changed, a device of which nothing is remembered was as all were; one that is switched off
            // goes back.
            let all_before = remembered.get(&setting.path("all")).copied().filter(|_| !is_all);
            let before = all_before.unwrap_or(before);
            if !remembered.contains_key(&path) && (is_all || (value, before) == (1, 0)) {
                remembered.extend(off.into_iter().map(|device| (setting.path(&device), 0)));
                remembered.insert(path, before);
            }
        }
        self.remember()?;
        for (i, node, device, setting, value) in changes {
            let open = &self.open[node];
            let path = setting.path(device.as_str());
            let is_all = all.as_ref() == Some(device);
            let remembered = self.remembered.entry(open.cookie).or_default();
            let back = remembered.get(&path) == Some(&value);
            // What was remembered with it is put back behind it.
            let along = |device: &str| remembered.contains_key(&setting.path(device));
            let sysctls = &mut self.sysctls;
            let write = || {
                let conf = sysctls.conf(setting.is_ipv6())?;
                conf.write(device.as_str(), setting, value)?;
                let through = if back && is_all { conf.with(setting, value) } else { Vec::new() };
                for device in through.iter().filter(|device| *device != "all" && along(device)) {
                    conf.write(device, setting, 0)?;
                }
                Ok::<(), std::io::Error>(())
            };
            if let Err(error) = open.netns.inside(&self.home, write)? {
                work.fail(i, format!("cannot write {path} in {node}: {error}"));
            } else if back && is_all {
                let (start, end) = path.split_at(path.len() - "all/".len() - setting.key().len());
                let same = |path: &String| path.starts_with(start) && path.ends_with(&end["all".len()..]);
                remembered.retain(|path, _| !same(path));
            } else if back && (value != 0 || !remembered.contains_key(&setting.path("all"))) {
                // One that was off is to be off again, too, when what is written through to all goes back.
                remembered.remove(&path);
            }
        }
        self.remembered.retain(|_, settings| !settings.is_empty());
        self.remember()
    }

    /// Forgets what was remembered of namespaces in which nothing of wire's is left: whoever was stopped between
    /// putting a setting back and forgetting it leaves that behind. `all`: everything was looked for, so that what was
    /// not seen is gone.
    pub fn forget(&mut self, seen: &State, all: bool) -> Result<(), Error> {
        let all = all && seen.refused.is_empty() && self.podman.may_ask();
        let known: HashMap<u64, &Namespace> = seen.namespaces.values().map(|known| (known.cookie, known)).collect();
        let bare = |known: &Namespace| known.ends.is_empty() && known.table.is_none() && !known.beyond;
        let before = self.remembered.len();
        self.remembered.retain(|cookie, _| known.get(cookie).map_or(!all, |known| !bare(known)));
        if self.remembered.len() == before { Ok(()) } else { self.remember() }
    }

    fn remember(&self) -> Result<(), Error> {
        self.run.as_ref().map_or(Ok(()), |run| run.remember(&self.remembered))
    }

    /// What must be right before a device is born: the names that are taken, and sizes that hide settings.
    fn rename(&mut self, node: &Name, changes: &[usize], work: &mut Work) {
        let Some(open) = self.open.get_mut(node) else { return };
        let mut batch = Batch::default();
        for &i in changes {
            let Change { wire: Some(wire), action, .. } = &work.changes[i] else { continue };
            let Some(held) = open.ends.get_mut(wire) else { continue };
            match action {
                Action::Unname => work.push(&mut batch, i, "drop the altname", link::unname(held.index, wire.as_str())),
                Action::Rename { to, .. } => {
                    held.device = to.clone();
                    work.push(&mut batch, i, "rename it", link::rename(held.index, to.as_str()));
                }
                Action::Mtu(mtu) => work.push(&mut batch, i, "set the MTU", link::resize(held.index, *mtu)),
                _ => {}
            }
        }
        let refused = open.socket.send(&mut batch);
        // A kernel before 6.2 renames no device that is up.
        let (busy, refused): (Vec<_>, Vec<_>) = refused.into_iter().partition(|(_, r)| r.errno == Errno::EBUSY);
        work.refuse(refused.into_iter());
        for (tag, refusal) in busy {
            let (i, _) = work.tried[tag];
            match &work.changes[i] {
                Change { wire: Some(wire), action: Action::Rename { to, .. }, .. } if open.ends.contains_key(wire) => {
                    let index = open.ends[wire].index;
                    for request in [link::lower(index), link::rename(index, to.as_str()), link::raise(index)] {
                        work.push(&mut batch, i, "rename it", request);
                    }
                }
                _ => work.refuse([(tag, refusal)].into_iter()),
            }
        }
        let refused = open.socket.send(&mut batch);
        work.refuse(refused.into_iter());
    }

    /// Each pair from its first end's own namespace: before Linux 6.15 the kernel looks for a device of that index where the
    /// request comes from, not where the end is to be born, and refuses (EEXIST) if there is one.
    fn create(&mut self, work: &mut Work, progress: &mut dyn FnMut(usize, usize)) {
        let mut batches: BTreeMap<&Name, Batch> = BTreeMap::new();
        let total = work.changes.len();
        for i in 0..total {
            let Change { wire: Some(wire), action: Action::Create(ends), .. } = &work.changes[i] else { continue };
            if work.refused.contains_key(&i) {
                continue;
            }
            if ends.iter().any(|(node, _)| !self.open.contains_key(node)) {
                work.fail(i, format!("cannot make wire `{wire}`: one of its nodes is gone"));
                continue;
            }
            let mut taken = 0;
            let mut birth = |side: usize| {
                let (node, end) = &ends[side];
                let open = self.open.get_mut(node)?;
                // One index at both ends would have the kernel take up to a second to notice the carrier
                // (linkwatch_urgent_event, net/core/link_watch.c).
                let index = open.next_index + u32::from(open.next_index == taken);
                open.next_index = index + 1;
                taken = index;
                open.ends.insert(wire.clone(), Held { index, device: end.device.clone() });
                let namespace = open.netns.as_fd().as_raw_fd();
                Some(link::Birth { namespace, index, name: end.device.as_str(), mac: end.marks.mac, mtu: end.mtu })
            };
            let (Some(first), Some(second)) = (birth(0), birth(1)) else { continue };
            let batch = batches.entry(&ends[0].0).or_default();
            work.push(batch, i, "make the pair", link::create([first, second]));
            // Often enough for somebody who looks on.
            if i % 128 == 127 {
                self.send(&mut batches, work);
                progress(i, total);
            }
        }
        self.send(&mut batches, work);
    }

    /// Sends each batch in its namespace.
    fn send(&self, batches: &mut BTreeMap<&Name, Batch>, work: &mut Work) {
        for (node, mut batch) in std::mem::take(batches) {
            let Some(open) = self.open.get(node) else { continue };
            let refused = open.socket.send(&mut batch);
            work.refuse(refused.into_iter());
        }
    }

    /// Everything else in one namespace: what only `/proc/sys` takes, then one batch. IPv6 is off before an end is up.
    fn finish(&mut self, node: &Name, changes: &[usize], work: &mut Work) -> Result<(), Error> {
        let Some(open) = self.open.get(node) else { return Ok(()) };
        let mut files: Vec<(usize, &str, Setting, i32)> = Vec::new();
        for &i in changes {
            let Change { wire: Some(wire), action, .. } = &work.changes[i] else { continue };
            let Some(held) = open.ends.get(wire).filter(|_| !work.refused.contains_key(&i)) else { continue };
            let settings: Vec<(Setting, i32)> = match action {
                Action::Create(ends) => {
                    let here = ends.iter().filter(|(at, _)| at == node);
                    here.flat_map(|(_, end)| &end.settings).map(|(&setting, &value)| (setting, value)).collect()
                }
                Action::Set(setting, value) => vec![(*setting, *value)],
                _ => continue,
            };
            let ipv6 = settings.into_iter().filter(|(setting, _)| setting.is_ipv6());
            files.extend(ipv6.map(|(setting, value)| (i, held.device.as_str(), setting, value)));
        }
        if !files.is_empty() {
            let sysctls = &mut self.sysctls;
            let write = || {
                let conf = sysctls.conf(true);
                let written = files.iter().map(|(_, device, setting, value)| match &conf {
                    Ok(conf) => conf.write(device, *setting, *value),
                    Err(errno) => Err((*errno).into()),
                });
                written.collect::<Vec<std::io::Result<()>>>()
            };
            let written = open.netns.inside(&self.home, write)?;
            for ((i, device, setting, value), written) in files.into_iter().zip(written) {
                let Err(error) = written else { continue };
                // Where the kernel or the device has no IPv6 there is nothing to switch off.
                let off = (setting, value) == (Setting::DisableIpv6, 1);
                if !off || error.kind() != std::io::ErrorKind::NotFound {
                    work.fail(i, format!("cannot write {} in {node}: {error}", setting.path(device)));
                }
            }
        }
        // An end that could not be set as it must be stays down.
        let unset = |i: &&usize| matches!(work.changes[**i].action, Action::Set(..)) && work.refused.contains_key(i);
        let barred: BTreeSet<Name> =
            changes.iter().filter(unset).filter_map(|i| work.changes[*i].wire.clone()).collect();
        let mut batch = Batch::default();
        for &i in changes {
            let Change { wire: Some(wire), action, .. } = &work.changes[i] else { continue };
            let Some(held) = open.ends.get(wire).filter(|_| !work.refused.contains_key(&i)) else { continue };
            let index = held.index;
            let (tried, request) = match action {
                Action::Create(ends) => {
                    for (_, end) in ends.iter().filter(|(at, _)| at == node) {
                        work.born(&mut batch, i, wire, index, end);
                    }
                    continue;
                }
                Action::Set(setting, _) if setting.is_ipv6() => continue,
                Action::Set(setting, value) => ("set it", link::configure(index, [(*setting, *value)].into_iter())),
                Action::Mark(mac) => ("mark it", link::mark(index, wire.as_str(), *mac)),
                Action::Altname => ("add the altname", link::altname(index, wire.as_str())),
                Action::Release => ("release it", link::release(index)),
                Action::Arp => ("switch ARP on", link::arp_on(index)),
                Action::AddAddress(address) => ("add the address", address::add(index, address)),
                Action::RemoveAddress(address) => ("remove the address", address::remove(index, address)),
                Action::Up if barred.contains(wire) => {
                    work.fail(i, format!("wire `{wire}` in {node}: it stays down until its settings are right"));
                    continue;
                }
                Action::Up => ("raise it", link::raise(index)),
                Action::AddRoute(route) => ("add the route", route::add(index, route, true)),
                Action::RemoveRoute(route) => ("remove the route", route::remove(index, route)),
                Action::Make
                | Action::MakeKey(_)
                | Action::Tunnel(..)
                | Action::Unmake
                | Action::Load(_)
                | Action::Unload
                | Action::Remove { .. }
                | Action::SetAll(..)
                | Action::SetOther(..)
                | Action::Unname
                | Action::Rename { .. }
                | Action::Mtu(_) => continue,
            };
            work.push(&mut batch, i, tried, request);
        }
        let refused = open.socket.send(&mut batch);
        work.refuse(refused.into_iter());
        Ok(())
    }
}

/// A plan under way.
pub(super) struct Work<'a> {
    pub(super) changes: &'a [Change],
    /// By change, the first thing that was refused: what comes after rests on it.
    pub(super) refused: BTreeMap<usize, String>,
    /// What each request was for, by its tag.
    tried: Vec<(usize, &'static str)>,
}

impl Work<'_> {
    fn push(&mut self, batch: &mut Batch, change: usize, tried: &'static str, request: Request) {
        batch.push(self.tried.len(), &request);
        self.tried.push((change, tried));
    }

    /// A newborn end: its settings before it is up, its routes after.
    fn born(&mut self, batch: &mut Batch, change: usize, wire: &Name, index: u32, end: &End) {
        let settings = end.settings.iter().map(|(&setting, &value)| (setting, value));
        self.push(batch, change, "settle it", link::settle(index, wire.as_str(), settings));
        if end.altname {
            self.push(batch, change, "add the altname", link::altname(index, wire.as_str()));
        }
        for address in &end.addresses {
            self.push(batch, change, "add the address", address::add(index, address));
        }
        self.push(batch, change, "raise it", link::raise(index));
        for route in end.routes.iter().filter(|route| route.via.is_some()) {
            self.push(batch, change, "add the route", route::add(index, route, false));
        }
    }

    fn refuse(&mut self, refused: impl Iterator<Item = (usize, Refusal)>) {
        for (tag, refusal) in refused {
            let (i, tried) = self.tried[tag];
            let Change { node, wire, action, .. } = &self.changes[i];
            let what = wire.as_ref().map_or_else(|| "a device".to_owned(), |wire| format!("wire `{wire}`"));
            let place = match action {
                Action::Create(ends) => format!("between {} and {}", ends[0].0, ends[1].0),
                _ => format!("in {node}"),
            };
            self.fail(i, format!("{what} {place}: cannot {tried}: {refusal}"));
        }
    }

    /// What rests on a namespace that could not be made.
    fn without(&mut self, missing: &BTreeSet<Name>) {
        for (i, change) in self.changes.iter().enumerate().filter(|_| !missing.is_empty()) {
            let nodes: Vec<&Name> = match &change.action {
                Action::Create(ends) => ends.iter().map(|(node, _)| node).collect(),
                _ => vec![&change.node],
            };
            if let Some(node) = nodes.into_iter().find(|node| missing.contains(*node)) {
                self.fail(i, format!("not without the namespace of {node}, which could not be made"));
            }
        }
    }

    /// What would carry packets through a namespace whose rules could not be loaded: no cable there, and no forwarding.
    fn bar(&mut self) {
        let failed = self.refused.keys().map(|i| &self.changes[*i]);
        let failed = failed.filter(|change| matches!(change.action, Action::Load(_)));
        let barred: BTreeSet<Name> = failed.map(|change| change.node.clone()).collect();
        for (i, change) in self.changes.iter().enumerate().filter(|_| !barred.is_empty()) {
            let opens = |node: &Name| {
                barred.contains(node).then(|| format!("not without the rules of {node}, which could not be loaded"))
            };
            let error = match &change.action {
                Action::Create(ends) => ends.iter().find_map(|(node, _)| opens(node)),
                Action::Tunnel(_, Step::Create(_) | Step::Up | Step::AddRoute(_))
                | Action::Tunnel(_, Step::Set(Setting::Forwarding | Setting::ForceForwarding6, 1))
                | Action::Up
                | Action::AddRoute(_)
                | Action::Set(Setting::Forwarding | Setting::ForceForwarding6, 1)
                | Action::SetOther(_, _, 1) => opens(&change.node),
                _ => None,
            };
            if let Some(error) = error {
                self.refused.entry(i).or_insert(error);
            }
        }
    }

    /// Rules go after the last cable: where one could not be removed they stay.
    fn keep(&mut self, nodes: BTreeSet<Name>) {
        let last = |action: &Action| matches!(action, Action::Unload | Action::Unmake);
        for (i, change) in self.changes.iter().enumerate().filter(|(_, change)| last(&change.action)) {
            if nodes.contains(&change.node) {
                self.fail(i, format!("not while {} has a wire that could not be removed", change.node));
            }
        }
    }

    pub(super) fn fail(&mut self, change: usize, error: String) {
        self.refused.entry(change).or_insert(error);
    }

    /// The changes that each node has a part in, in their order.
    fn by_node(&self) -> BTreeMap<Name, Vec<usize>> {
        let mut nodes: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        for (i, change) in self.changes.iter().enumerate() {
            match &change.action {
                Action::Make | Action::Unmake | Action::Load(_) | Action::Unload => {}
                Action::Remove { .. } | Action::SetAll(..) | Action::SetOther(..) => {}
                Action::MakeKey(_) | Action::Tunnel(..) => {}
                Action::Create(ends) => {
                    for (node, _) in ends.iter() {
                        nodes.entry(node.clone()).or_default().push(i);
                    }
                }
                _ => nodes.entry(change.node.clone()).or_default().push(i),
            }
        }
        nodes
    }
}
