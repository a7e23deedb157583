//! The only room with side effects: it finds the namespaces, reads what they hold into a `State`, and carries out a `Plan`.
//! It decides nothing; what is right is said by the plan it is given.

pub mod lab;
mod link;
mod netns;
mod podman;
mod process;
mod program;
pub mod run;
mod socket;
mod sys;
mod sysctl;
mod user;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use caps::{CapSet, Capability};
use ipnetwork::IpNetwork;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use self::link::Seen;
use self::netns::Netns;
use self::podman::{Podman, Standing};
use self::run::{Remembered, RunDirectory};
use self::socket::{Batch, Refusal, Socket};
use self::sysctl::Sysctls;
use crate::error::{Context, Error};
use crate::plan::{Action, Change, Plan};
use crate::state::{End, Marks, Namespace, Route, Setting, State, WHOLE_NAMESPACE};
use crate::topology::{self, Device, Home, Mac, Name, Topology};

/// The namespaces of a topology, each held open with one socket in it.
pub struct Kernel {
    home: Netns,
    /// In the namespace that `wire` runs in.
    socket: Socket,
    open: BTreeMap<Name, Open>,
    podman: Podman,
    sysctls: Sysctls,
    run: Option<RunDirectory>,
    remembered: Remembered,
}

/// One namespace.
struct Open {
    netns: Netns,
    socket: Socket,
    cookie: u64,
    /// The device of each wire that ends here, and of each stray; as last seen or made.
    ends: HashMap<Name, Held>,
    strays: HashMap<Device, u32>,
    settings: BTreeMap<Setting, i32>,
    /// No device has this index or a higher one.
    next_index: u32,
}

struct Held {
    index: u32,
    device: Device,
}

/// The wires of the file that end in a node, with which end.
type Wires<'a> = &'a [(&'a topology::Wire, usize)];

/// Which namespaces to look into.
pub enum Where<'a> {
    /// All that the file speaks of, and all others that a wire might have been left in.
    Everywhere,
    Nodes(&'a BTreeSet<Name>),
}

/// What a command needs of the kernel.
pub const ENTER: Capability = Capability::CAP_SYS_ADMIN;
pub const CHANGE: Capability = Capability::CAP_NET_ADMIN;

/// Whether this process has these capabilities, said before anything is tried.
pub fn may(what: &str, needed: &[Capability]) -> Result<(), Error> {
    let has = |capability: &&Capability| caps::has_cap(None, CapSet::Effective, **capability).unwrap_or(false);
    let missing: Vec<String> = needed.iter().filter(|c| !has(c)).map(Capability::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = std::env::args().collect();
    let program = std::env::current_exe().map_or_else(|_| "wire".to_owned(), |path| path.display().to_string());
    Err(Error::failed(format!("wire may not {what}: it lacks {}", missing.join(" and "))).hint(format!(
        "`doas {}`, or once and for all `doas setcap cap_net_admin,cap_sys_admin,cap_sys_ptrace,cap_dac_override+ep {program}`",
        words.join(" ")
    )))
}

/// A change that the kernel refused, by its place in the plan.
pub struct Refused {
    pub change: usize,
    pub error: String,
}

impl Kernel {
    /// `run` is where the settings are remembered that `wire` changed; it may not be there when nothing was ever made.
    pub fn open(run: Option<RunDirectory>) -> Result<Kernel, Error> {
        let remembered = run.as_ref().map_or(Ok(Remembered::new()), RunDirectory::remembered)?;
        Ok(Kernel {
            home: Netns::own()?,
            socket: Socket::open()?,
            open: BTreeMap::new(),
            podman: Podman::new(),
            sysctls: Sysctls::default(),
            run,
            remembered,
        })
    }

    /// What the namespaces hold now.
    pub fn observe(&mut self, topology: &Topology, place: &Where) -> Result<State, Error> {
        let mut state = State::default();
        self.find(topology, place, &mut state)?;
        let mut survey = Survey {
            home: &self.home,
            sysctls: &mut self.sysctls,
            marks: MarkTable::of(topology),
            wires: topology.wires_by_node(),
            remembered: &self.remembered,
            fars: Fars::default(),
        };
        for (name, open) in &mut self.open {
            state.namespaces.insert(name.clone(), open.look(name, &mut survey)?);
        }
        let fars = survey.fars;
        self.pair(&fars, &mut state);
        Ok(state)
    }

    /// Opens the namespaces that are there.
    fn find(&mut self, topology: &Topology, place: &Where, state: &mut State) -> Result<(), Error> {
        let all = crate::desired::namespaces(topology);
        let (nodes, everywhere) = match place {
            Where::Everywhere => (&all, true),
            Where::Nodes(nodes) => (*nodes, false),
        };
        for node in nodes {
            if self.open.contains_key(node) {
                continue;
            }
            let home = topology.nodes.get(node).map(|node| &node.home);
            match self.find_one(home) {
                Ok(Ok(netns)) => {
                    let open = Open::new(netns, &self.home)?;
                    self.open.insert(node.clone(), open);
                }
                Ok(Err(reason)) => drop(state.waiting.insert(node.clone(), reason)),
                Err(error) => drop(state.refused.insert(node.clone(), error.message)),
            }
        }
        if everywhere {
            self.find_struck(topology)?;
        }
        self.refuse_doubles(state);
        Ok(())
    }

    /// The namespace of a node, or what the node does instead of running.
    fn find_one(&mut self, home: Option<&Home>) -> Result<Result<Netns, String>, Error> {
        match home {
            None => Netns::own().map(Ok),
            Some(Home::Netns(name)) => {
                let missing = || format!("there is no namespace /run/netns/{name}");
                Ok(Netns::named(name.as_str())?.ok_or_else(missing))
            }
            Some(Home::Podman { container, user }) => Ok(match self.podman.find(container, user.as_deref())? {
                Standing::Running(fd) => Ok(Netns::held(fd)),
                Standing::Waiting(reason) => Err(reason),
            }),
        }
    }

    /// Namespaces that the file does not name: a node struck from it must not keep its wires.
    fn find_struck(&mut self, topology: &Topology) -> Result<(), Error> {
        let mut found = Vec::new();
        let named: HashSet<&str> = (topology.nodes.values())
            .filter_map(|node| match &node.home {
                Home::Netns(name) => Some(name.as_str()),
                Home::Podman { .. } => None,
            })
            .collect();
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if named.contains(name.as_str()) {
                continue;
            }
            if let Ok(Some(netns)) = Netns::named(&name) {
                found.push((name, netns));
            }
        }
        let users: BTreeSet<Option<String>> = (topology.nodes.values())
            .filter_map(|node| match &node.home {
                Home::Podman { user, .. } => Some(user.clone()),
                Home::Netns(_) => None,
            })
            .collect();
        for user in users {
            // A user whose podman cannot be asked has said so already, for each of his nodes.
            let running = self.podman.running(user.as_deref()).unwrap_or_default();
            found.extend(running.into_iter().map(|(name, fd)| (name, Netns::held(fd))));
        }
        let mut known: HashSet<(u64, u64)> = self.open.values().flat_map(|open| open.netns.key()).collect();
        for (name, netns) in found {
            // Somebody else's container may have the name of a node that waits: it must not become that node.
            let is_free = |name: &Name| !topology.nodes.contains_key(name) && !self.open.contains_key(name);
            let Some(name) = Name::new(&name).filter(is_free) else { continue };
            if known.insert(netns.key()?) {
                self.open.insert(name, Open::new(netns, &self.home)?);
            }
        }
        Ok(())
    }

    /// Two nodes in one namespace would each undo what the other wants; a container in the host's would have the host wired.
    fn refuse_doubles(&mut self, state: &mut State) {
        let host = Name::host();
        let mut nodes: BTreeMap<u64, Vec<Name>> = BTreeMap::new();
        for (name, open) in &self.open {
            nodes.entry(open.cookie).or_default().push(name.clone());
        }
        for names in nodes.into_values().filter(|names| names.len() > 1) {
            for name in names.iter().filter(|name| !name.is_host()) {
                let other = names.iter().filter(|other| *other != name).min_by_key(|other| **other != host);
                let other = other.map(Name::as_str).unwrap_or_default();
                let reason = format!(
                    "its namespace is the one of `{other}`; if that is meant, say `shares = \"{other}\"` in [node.{name}]"
                );
                state.refused.insert(name.clone(), reason);
                self.open.remove(name);
            }
        }
    }

    /// Which ends belong together: each is the other's far end, in the other's namespace.
    fn pair(&self, fars: &Fars, state: &mut State) {
        let mut numbers: HashMap<(&Name, &Name), Option<i32>> = HashMap::new();
        for ends in fars.values() {
            let [(a, here), (b, there)] = &ends[..] else { continue };
            if here.far_index != there.index || there.far_index != here.index {
                continue;
            }
            // Asked where fewer wires end: the kernel searches its list of numbers one by one.
            let fewer = |name: &Name| self.open.get(name).map_or(usize::MAX, |open| open.ends.len());
            let (from, to, number) =
                if fewer(a) <= fewer(b) { (a, b, here.far_namespace) } else { (b, a, there.far_namespace) };
            let known = *numbers.entry((from, to)).or_insert_with(|| self.number_of(from, to));
            if number.is_none() || number != known {
                continue;
            }
            for (node, far, wire) in [(a, b, &here.wire), (b, a, &there.wire)] {
                let end = state.namespaces.get_mut(node).and_then(|namespace| namespace.ends.get_mut(wire));
                if let Some(end) = end {
                    end.far = Some(far.clone());
                }
            }
        }
    }

    /// The number that the namespace of `to` has in that of `from`.
    fn number_of(&self, from: &Name, to: &Name) -> Option<i32> {
        let (from, to) = (self.open.get(from)?, self.open.get(to)?);
        let mut batch = Batch::default();
        batch.push(0, link::number_of(to.netns.as_fd().as_raw_fd()), 0);
        let mut number = None;
        from.socket.exchange(&mut batch, |message| {
            if let RouteNetlinkMessage::NewNsId(message) = message {
                number = link::number(&message);
            }
        });
        number
    }

    /// Lets go of what may not be there any more, so that the next look finds the nodes anew.
    pub fn forget_vanished(&mut self) {
        self.podman.refresh();
        self.open.retain(|name, open| open.lives(name));
    }

    /// Carries out a plan, in its order. What is refused keeps nothing else from being done, but for what rests on it.
    /// `progress` hears how much of how much is done.
    pub fn apply(&mut self, plan: &Plan, progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<Refused>, Error> {
        let mut work = Work { changes: &plan.changes, refused: BTreeMap::new(), tried: Vec::new() };
        self.remove(&mut work);
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
        Ok(work.refused.into_iter().map(|(change, error)| Refused { change, error }).collect())
    }

    /// Deletes pairs, in as few namespaces as possible: many at once in one cost as much as one alone.
    fn remove(&mut self, work: &mut Work) {
        // A wire that is removed twice has ends that do not belong together: each goes by itself.
        let mut times: HashMap<&Name, usize> = HashMap::new();
        for change in work.changes.iter().filter(|change| matches!(change.action, Action::Remove { .. })) {
            *times.entry(change.wire.as_ref().unwrap_or(&change.node)).or_default() += 1;
        }
        let mut places: Vec<(usize, Vec<(&Name, u32)>)> = Vec::new();
        for (i, change) in work.changes.iter().enumerate() {
            let Action::Remove { device } = &change.action else { continue };
            let own = self.open.get(&change.node).and_then(|open| match &change.wire {
                Some(wire) => open.ends.get(wire).map(|held| held.index),
                None => open.strays.get(device).copied(),
            });
            let mut ends: Vec<(&Name, u32)> = own.map(|index| (&change.node, index)).into_iter().collect();
            if let Some(wire) = change.wire.as_ref().filter(|wire| times[wire] == 1) {
                let others = self.open.iter().filter(|(name, _)| **name != change.node);
                ends.extend(others.filter_map(|(name, open)| Some((name, open.ends.get(wire)?.index))));
            }
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

    /// Settings of whole namespaces. What they were is on disk before the first is changed.
    fn set_namespaces(&mut self, work: &mut Work) -> Result<(), Error> {
        let changes = work.changes.iter().enumerate().filter_map(|(i, change)| match change.action {
            Action::SetAll(setting, value) => Some((i, &change.node, setting, value)),
            _ => None,
        });
        let changes: Vec<(usize, &Name, Setting, i32)> = changes.collect();
        if changes.is_empty() {
            return Ok(());
        }
        for (_, node, setting, _) in &changes {
            let open = &self.open[*node];
            if let Some(before) = open.settings.get(setting) {
                let remembered = self.remembered.entry(open.cookie).or_default();
                remembered.entry(setting.path("all")).or_insert(*before);
            }
        }
        self.remember()?;
        for (i, node, setting, value) in changes {
            let open = &self.open[node];
            let path = setting.path("all");
            let sysctls = &mut self.sysctls;
            let write = || sysctls.conf(setting.is_ipv6())?.write("all", setting, value);
            if let Err(error) = open.netns.inside(&self.home, write)? {
                work.fail(i, format!("cannot write {path} in {node}: {error}"));
            } else if let Some(remembered) = self.remembered.get_mut(&open.cookie)
                && remembered.get(&path) == Some(&value)
            {
                remembered.remove(&path);
            }
        }
        self.remembered.retain(|_, settings| !settings.is_empty());
        self.remember()
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

    /// All pairs from one socket, whose namespace sees none of them but its own ends.
    fn create(&mut self, work: &mut Work, progress: &mut dyn FnMut(usize, usize)) {
        let mut batch = Batch::default();
        let total = work.changes.len();
        for i in 0..total {
            let Change { wire: Some(wire), action: Action::Create(ends), .. } = &work.changes[i] else { continue };
            if ends.iter().any(|(node, _)| !self.open.contains_key(node)) {
                work.fail(i, format!("cannot make wire `{wire}`: one of its nodes is gone"));
                continue;
            }
            let mut birth = |side: usize| {
                let (node, end) = &ends[side];
                let open = self.open.get_mut(node)?;
                let index = open.next_index;
                open.next_index += 1;
                open.ends.insert(wire.clone(), Held { index, device: end.device.clone() });
                let namespace = open.netns.as_fd().as_raw_fd();
                Some(link::Birth { namespace, index, name: end.device.as_str(), mac: end.marks.mac, mtu: end.mtu })
            };
            let (Some(first), Some(second)) = (birth(0), birth(1)) else { continue };
            work.push(&mut batch, i, "make the pair", link::create([first, second]));
            if batch.is_full() {
                let refused = self.socket.send(&mut batch);
                work.refuse(refused.into_iter());
                progress(i, total);
            }
        }
        let refused = self.socket.send(&mut batch);
        work.refuse(refused.into_iter());
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
                    if batch.is_full() {
                        let refused = open.socket.send(&mut batch);
                        work.refuse(refused.into_iter());
                    }
                    continue;
                }
                Action::Set(setting, _) if setting.is_ipv6() => continue,
                Action::Set(setting, value) => ("set it", link::configure(index, [(*setting, *value)].into_iter())),
                Action::Mark(mac) => ("mark it", link::mark(index, wire.as_str(), *mac)),
                Action::Altname => ("add the altname", link::altname(index, wire.as_str())),
                Action::Release => ("release it", link::release(index)),
                Action::Arp => ("switch ARP on", link::arp_on(index)),
                Action::AddAddress(address) => ("add the address", link::add_address(index, address)),
                Action::RemoveAddress(address) => ("remove the address", link::remove_address(index, address)),
                Action::Up => ("raise it", link::raise(index)),
                Action::AddRoute(route) => ("add the route", link::add_route(index, route, true)),
                Action::RemoveRoute(route) => ("remove the route", link::remove_route(index, route)),
                Action::Remove { .. }
                | Action::SetAll(..)
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
struct Work<'a> {
    changes: &'a [Change],
    /// By change, the first thing that was refused: what comes after rests on it.
    refused: BTreeMap<usize, String>,
    /// What each request was for, by its tag.
    tried: Vec<(usize, &'static str)>,
}

impl Work<'_> {
    fn push(&mut self, batch: &mut Batch, change: usize, tried: &'static str, (message, flags): link::Request) {
        batch.push(self.tried.len(), message, flags);
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
            self.push(batch, change, "add the address", link::add_address(index, address));
        }
        self.push(batch, change, "raise it", link::raise(index));
        for route in &end.routes {
            self.push(batch, change, "add the route", link::add_route(index, route, false));
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

    fn fail(&mut self, change: usize, error: String) {
        self.refused.entry(change).or_insert(error);
    }

    /// The changes that each node has a part in, in their order.
    fn by_node(&self) -> BTreeMap<Name, Vec<usize>> {
        let mut nodes: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        for (i, change) in self.changes.iter().enumerate() {
            match &change.action {
                Action::Remove { .. } | Action::SetAll(..) => {}
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

/// What tells a device as an end of a wire of the file.
struct MarkTable<'a> {
    macs: HashMap<Mac, (&'a topology::Wire, usize)>,
    devices: HashMap<(&'a Name, &'a str), &'a topology::Wire>,
}

impl<'a> MarkTable<'a> {
    fn of(topology: &'a Topology) -> MarkTable<'a> {
        let mut table = MarkTable { macs: HashMap::new(), devices: HashMap::new() };
        for wire in &topology.wires {
            for (side, end) in wire.ends.iter().enumerate() {
                table.macs.insert(topology::mac(&wire.name, side), (wire, side));
                table.devices.insert((&end.node, end.device.as_str()), wire);
                table.devices.insert((&end.node, wire.name.as_str()), wire);
            }
        }
        table
    }

    /// Whether a device is `wire`'s at all. Any one mark is enough: a kill may fall before the alias, a hand may change one.
    fn ours(&self, seen: &Seen) -> bool {
        let grouped = seen.group == link::GROUP || seen.group == link::DOOMED;
        seen.veth && (grouped || self.macs.contains_key(&seen.mac) || seen.alias.starts_with(link::ALIAS))
    }

    /// The wire that a device of ours is an end of.
    fn wire_of(&self, node: &Name, seen: &Seen) -> Option<Name> {
        if let Some((wire, _)) = self.macs.get(&seen.mac) {
            return Some(wire.name.clone());
        }
        if let Some(name) = seen.alias.strip_prefix(link::ALIAS).and_then(Name::new) {
            return Some(name);
        }
        let names = seen.altnames.iter().chain([&seen.name]);
        names.filter_map(|name| self.devices.get(&(node, name.as_str()))).map(|wire| wire.name.clone()).next()
    }
}

/// One look at all namespaces.
struct Survey<'a> {
    home: &'a Netns,
    sysctls: &'a mut Sysctls,
    marks: MarkTable<'a>,
    wires: BTreeMap<&'a Name, Vec<(&'a topology::Wire, usize)>>,
    remembered: &'a Remembered,
    fars: Fars,
}

/// The seen ends of each wire, to be paired when all namespaces have been looked into.
type Fars = BTreeMap<Name, Vec<(Name, Far)>>;

struct Far {
    wire: Name,
    index: u32,
    far_index: u32,
    far_namespace: Option<i32>,
}

impl Open {
    fn new(netns: Netns, home: &Netns) -> Result<Open, Error> {
        let socket = netns.inside(home, Socket::open)??;
        let cookie = sys::netns_cookie(socket.as_fd()).context("cannot tell a network namespace from another")?;
        let (ends, strays, settings) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        Ok(Open { netns, socket, cookie, ends, strays, settings, next_index: 1 })
    }

    /// Whether this is still the namespace of the node.
    fn lives(&self, _node: &Name) -> bool {
        true
    }

    /// What this namespace holds.
    fn look(&mut self, node: &Name, survey: &mut Survey) -> Result<Namespace, Error> {
        let wires = survey.wires.get(node).cloned().unwrap_or_default();
        let mut namespace = Namespace::default();
        (self.ends, self.strays, self.next_index) = (HashMap::new(), HashMap::new(), 1);
        let cannot = |what: &str| format!("cannot list the {what} of {node}");
        let links = self.socket.dump(link::list_links, |message| match message {
            RouteNetlinkMessage::NewLink(message) => Some(link::seen(message)),
            _ => None,
        });
        let mut foreign: HashMap<u32, String> = HashMap::new();
        let mut own: HashMap<u32, Name> = HashMap::new();
        let mut ipv6 = wires.iter().any(|(wire, _)| wire.subnet6.is_some());
        for seen in links.context(cannot("links"))? {
            self.next_index = self.next_index.max(seen.index + 1);
            if seen.loopback {
                continue;
            }
            if !survey.marks.ours(&seen) {
                foreign.insert(seen.index, seen.name.clone());
                namespace.foreign.devices.push([seen.name].into_iter().chain(seen.altnames).collect());
                continue;
            }
            let Some(device) = Device::new(&seen.name) else { continue };
            let wire = survey.marks.wire_of(node, &seen).filter(|wire| !self.ends.contains_key(wire));
            let Some(wire) = wire else {
                self.strays.insert(device.clone(), seen.index);
                namespace.strays.push(device);
                continue;
            };
            ipv6 |= seen.settings.contains(&(Setting::DisableIpv6, 0));
            self.ends.insert(wire.clone(), Held { index: seen.index, device: device.clone() });
            own.insert(seen.index, wire.clone());
            let (index, far_index, far_namespace) = (seen.index, seen.far_index, seen.far_namespace);
            let far = Far { wire: wire.clone(), index, far_index, far_namespace };
            survey.fars.entry(wire.clone()).or_default().push((node.clone(), far));
            let end = End {
                device,
                altname: seen.altnames.iter().any(|name| name == wire.as_str()),
                marks: Marks {
                    group: seen.group == link::GROUP,
                    alias: seen.alias.strip_prefix(link::ALIAS) == Some(wire.as_str()),
                    mac: seen.mac,
                },
                far: None,
                mtu: seen.mtu,
                up: seen.up,
                arp: seen.arp,
                enslaved: seen.enslaved,
                addresses: BTreeSet::new(),
                routes: BTreeSet::new(),
                settings: seen.settings.into_iter().collect(),
                traffic: seen.traffic,
            };
            namespace.ends.insert(wire, end);
        }
        if !own.is_empty() || !foreign.is_empty() {
            let looked = self.look_at_networks(&wires, ipv6, &foreign, &own, &mut namespace);
            looked.context(cannot("addresses and routes"))?;
        }
        self.look_at_settings(node, &wires, survey, &mut namespace)?;
        Ok(namespace)
    }

    fn look_at_networks(
        &self,
        wires: Wires,
        ipv6: bool,
        foreign: &HashMap<u32, String>,
        own: &HashMap<u32, Name>,
        namespace: &mut Namespace,
    ) -> Result<(), Refusal> {
        let families = [Some(AddressFamily::Inet), ipv6.then_some(AddressFamily::Inet6)];
        for family in families.into_iter().flatten() {
            let addresses = self.socket.dump(
                || link::list_addresses(family),
                |message| match message {
                    RouteNetlinkMessage::NewAddress(message) => link::seen_address(&message),
                    _ => None,
                },
            )?;
            for seen in addresses {
                if let Some(device) = foreign.get(&seen.index) {
                    let network = IpNetwork::new(seen.address.network(), seen.address.prefix()).unwrap_or(seen.address);
                    namespace.foreign.networks.push((network, device.clone()));
                }
                let Some(wire) = own.get(&seen.index) else { continue };
                // A kernel before 5.18 keeps no mark: then it counts as ours if it is as the file says.
                let ours = seen.ours.unwrap_or_else(|| has_address(wires, wire, &seen.address));
                if ours {
                    namespace.ends.entry(wire.clone()).and_modify(|end| {
                        end.addresses.insert(seen.address);
                    });
                } else if !seen.link_local {
                    namespace.foreign.addresses.push((wire.clone(), seen.address));
                }
            }
            let routes = self.socket.dump(
                || link::list_routes(family),
                |message| match message {
                    RouteNetlinkMessage::NewRoute(message) => link::seen_route(&message),
                    _ => None,
                },
            )?;
            for seen in routes {
                if let Some(device) = seen.devices.iter().find_map(|index| foreign.get(index))
                    && (seen.metric == 0 || seen.to.prefix() != 0)
                {
                    namespace.foreign.networks.push((seen.to, device.clone()));
                }
                let Some(wire) = seen.devices.iter().find_map(|index| own.get(index)).filter(|_| !seen.kernel) else {
                    continue;
                };
                match seen.via {
                    Some(via) if seen.ours => {
                        let route = Route { to: seen.to, via };
                        namespace.ends.entry(wire.clone()).and_modify(|end| {
                            end.routes.insert(route);
                        });
                    }
                    _ => namespace.foreign.routes.push((wire.clone(), seen.to)),
                }
            }
        }
        // A device's address and the route that comes with it are one thing to know.
        namespace.foreign.networks.sort();
        namespace.foreign.networks.dedup();
        Ok(())
    }

    /// The settings of the whole namespace. Those of the host are not `wire`'s, and a namespace without wires is left alone.
    fn look_at_settings(
        &mut self,
        node: &Name,
        wires: Wires,
        survey: &mut Survey,
        namespace: &mut Namespace,
    ) -> Result<(), Error> {
        let remembered = survey.remembered.get(&self.cookie);
        if node.is_host() || (wires.is_empty() && remembered.is_none()) {
            return Ok(());
        }
        let ipv6 = wires.iter().any(|(wire, _)| wire.subnet6.is_some());
        let sysctls = &mut survey.sysctls;
        let read = || {
            let mut seen = BTreeMap::new();
            if let Ok(conf) = sysctls.conf(false) {
                seen.extend(WHOLE_NAMESPACE.iter().filter_map(|s| Some((*s, conf.read("all", *s)?))));
            }
            if ipv6 && let Ok(conf) = sysctls.conf(true) {
                seen.extend(conf.read("all", Setting::Forwarding6).map(|value| (Setting::Forwarding6, value)));
            }
            seen
        };
        self.settings = self.netns.inside(survey.home, read)?;
        namespace.settings = self.settings.clone();
        if let Some(remembered) = remembered {
            let known = WHOLE_NAMESPACE.into_iter().chain([Setting::Forwarding6]);
            namespace.remembered = known.filter_map(|s| Some((s, *remembered.get(&s.path("all"))?))).collect();
        }
        Ok(())
    }
}

fn has_address(wires: Wires, name: &Name, address: &IpNetwork) -> bool {
    let own = wires.iter().find(|(wire, _)| wire.name == *name).map(|(wire, side)| &wire.ends[*side]);
    own.is_some_and(|end| address.ip() == end.address || end.address6.is_some_and(|own| address.ip() == own))
}
