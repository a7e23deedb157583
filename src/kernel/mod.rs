//! The only room with side effects: it finds the namespaces, reads what they hold into a `State`, and carries out a `Plan`.
//! It decides nothing; what is right is said by the plan it is given.

mod address;
pub mod behind;
mod conntrack;
pub mod door;
pub mod ears;
mod execute;
pub mod hub;
pub mod keys;
pub mod lab;
mod link;
mod load;
mod netns;
pub mod nflog;
mod nfnl;
mod nft;
mod observe;
mod owned;
pub mod pending;
mod podman;
pub mod power;
mod probe;
mod process;
mod program;
mod route;
mod rtm;
pub mod run;
pub mod services;
pub mod session;
mod share;
mod socket;
pub mod starting;
pub mod store;
pub mod supervisor;
mod sys;
mod sysctl;
pub mod syslog;
mod tun;
mod tunnel;
mod user;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;

use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::netns::Netns;
use self::podman::{Podman, Standing};
use self::run::{Remembered, RunDirectory};
use self::share::share;
use self::socket::{NETLINK_NETFILTER, NETLINK_ROUTE, Socket};
use self::sysctl::Sysctls;
use crate::error::{Context, Error};
use crate::nft::Table;
use crate::rules;
use crate::state::{Maker, Namespace, Setting, State};
use crate::topology::{Device, Home, NETNS, Name, Topology};

/// The namespaces of a topology, each held open with one socket in it.
pub struct Kernel {
    home: Netns,
    open: BTreeMap<Name, Open>,
    podman: Podman,
    sysctls: Sysctls,
    run: Option<RunDirectory>,
    remembered: Remembered,
    /// Nodes whose settings are looked at whatever the file says of them, with devices that are no wire's.
    also: BTreeMap<Name, BTreeSet<Device>>,
    /// Namespaces that are missed whatever the file says of them.
    missed: BTreeSet<Name>,
    /// Nodes whose namespace is yet to be made, with what it will be born with.
    unmade: BTreeMap<Name, Namespace>,
    /// What the kernel knows WireGuard by, if it has that and it was asked.
    wireguard: Option<wireguard::Family>,
}

/// One namespace.
struct Open {
    netns: Netns,
    socket: Socket,
    cookie: u64,
    /// The device of each wire that ends here, and of each stray; as last seen or made.
    ends: HashMap<Name, Held>,
    /// Those that are of no wire: of tunnels, and of nothing any more.
    strays: HashMap<Device, u32>,
    settings: BTreeMap<Setting, i32>,
    others: BTreeMap<(Device, Setting), i32>,
    /// Its rules, as last seen, and a socket of their own: closed after a change it would wait for the kernel to tidy up.
    rules: Rules,
    /// No device has this index or a higher one.
    next_index: u32,
}

struct Rules {
    socket: Socket,
    seen: Option<Arc<Table>>,
    /// Which state of all the rules of the namespace that is.
    generation: u32,
}

struct Held {
    index: u32,
    device: Device,
}

/// Which namespaces to look into.
pub enum Where<'a> {
    /// All that the file speaks of, and all others that a wire might have been left in.
    Everywhere,
    Nodes(&'a BTreeSet<Name>),
}

/// What a command needs of the kernel.
pub const ENTER: Capability = Capability::CAP_SYS_ADMIN;
pub const CHANGE: Capability = Capability::CAP_NET_ADMIN;
/// To write one's own packet headers.
pub const FORGE: Capability = Capability::CAP_NET_RAW;

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Whether this process may change networks, as root or by capabilities of its file.
pub fn is_privileged() -> bool {
    has(ENTER) || has(CHANGE)
}

/// Whether this process has these capabilities, said before anything is tried.
pub fn may(what: &str, needed: &[Capability]) -> Result<(), Error> {
    let missing: Vec<String> = needed.iter().filter(|c| !has(**c)).map(Capability::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = std::env::args().collect();
    let program = std::env::current_exe().map_or_else(|_| "wire".to_owned(), |path| path.display().to_string());
    Err(Error::failed(format!("wire may not {what}: it lacks {}", missing.join(" and "))).hint(format!(
        "`doas {}`; or, where all who may run {program} are to be as good as root, `doas setcap \
         cap_net_admin,cap_net_raw,cap_sys_admin,cap_sys_ptrace,cap_dac_override+ep {program}`",
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
        make_room();
        let remembered = run.as_ref().map_or(Ok(Remembered::new()), RunDirectory::remembered)?;
        Ok(Kernel {
            home: Netns::own()?,
            open: BTreeMap::new(),
            podman: Podman::new(),
            sysctls: Sysctls::default(),
            run,
            remembered,
            also: BTreeMap::new(),
            missed: BTreeSet::new(),
            unmade: BTreeMap::new(),
            wireguard: None,
        })
    }

    /// One that goes by what podman has written down and does not ask it.
    pub fn by_files(run: Option<RunDirectory>) -> Result<Kernel, Error> {
        Ok(Kernel { podman: Podman::by_files(), ..Kernel::open(run)? })
    }

    /// From now on looks at the settings of these nodes and devices, too, and tells where these namespaces are not there, whatever
    /// the file says of them.
    pub fn look_also(&mut self, also: BTreeMap<Name, BTreeSet<Device>>, missed: BTreeSet<Name>) {
        (self.also, self.missed) = (also, missed);
    }

    /// What the namespaces hold now.
    pub fn observe(&mut self, topology: &Topology, rules: &rules::Rules, place: &Where) -> Result<State, Error> {
        let mut state = State::default();
        self.find(topology, place, &mut state)?;
        self.survey(topology, rules, &mut state)?;
        self.refuse_tables(topology, &mut state);
        Ok(state)
    }

    /// Opens the namespaces that are there.
    fn find(&mut self, topology: &Topology, place: &Where, state: &mut State) -> Result<(), Error> {
        let all = crate::desired::namespaces(topology);
        let (nodes, everywhere) = match place {
            Where::Everywhere => (&all, true),
            Where::Nodes(nodes) => (*nodes, false),
        };
        let mut found = Vec::new();
        self.unmade.clear();
        let missed = self.missed.clone();
        for node in nodes.iter().chain(&missed) {
            if self.open.contains_key(node) {
                continue;
            }
            let known = topology.nodes.get(node);
            let owned = missed.contains(node) || known.is_some_and(|node| node.owned);
            let former = missed.contains(node).then(|| Home::Netns(node.clone()));
            match self.find_one(known.map(|node| &node.home).or(former.as_ref())) {
                Ok(Err(_)) if owned => match owned::spot(node.netns()) {
                    Ok(owned::Spot::Free(maker)) => {
                        let born = Namespace { maker, ..Namespace::default() };
                        self.unmade.insert(node.clone(), born);
                    }
                    Ok(owned::Spot::Taken(reason)) => drop(state.refused.insert(node.clone(), reason)),
                    Err(error) => drop(state.refused.insert(node.clone(), error.message)),
                },
                Ok(Ok(netns)) => found.push((node.clone(), netns)),
                Ok(Err(reason)) => drop(state.waiting.insert(node.clone(), reason)),
                Err(error) => drop(state.refused.insert(node.clone(), error.message)),
            }
        }
        for (node, error) in self.hold(found) {
            state.refused.insert(node, error.message);
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
                let missing = || format!("there is no namespace {NETNS}{name}");
                Ok(Netns::named(name.netns())?.ok_or_else(missing))
            }
            Some(Home::Podman { container, user }) => Ok(match self.podman.find(container, user.as_deref())? {
                Standing::Running(held) => Ok(Netns::held(held.namespace)),
                Standing::Waiting(reason) => Err(reason),
            }),
        }
    }

    /// The namespace of a node of the file, held open.
    pub fn namespace_of(&mut self, topology: &Topology, node: &Name) -> Result<Netns, Error> {
        let home = topology.nodes.get(node).map(|node| &node.home);
        self.find_one(home)?.map_err(|reason| Error::failed(format!("`{node}` does not run: {reason}")))
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
            let Some(node) = Name::new(&name).filter(|_| !named.contains(name.as_str())) else { continue };
            // What has a node's name and is not where the node lives must not become that node.
            let node = if topology.nodes.contains_key(&node) { Name::of_path(&name) } else { node };
            match Netns::named(&name) {
                Ok(Some(netns)) => found.push((node, netns)),
                Ok(None) if matches!(owned::spot(&name), Ok(owned::Spot::Free(Maker::Killed))) => {
                    let rest = Namespace { maker: Maker::Killed, ..Namespace::default() };
                    self.unmade.insert(node, rest);
                }
                _ => {}
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
            // Somebody else's container may have the name of a node that waits: it must not become that node.
            let is_free = |name: &Name| !topology.nodes.contains_key(name);
            let running = running.into_iter().filter_map(|(name, fd)| Some((Name::new(&name).filter(is_free)?, fd)));
            found.extend(running.map(|(name, fd)| (name, Netns::held(fd))));
        }
        let mut known: HashSet<(u64, u64)> = self.open.values().flat_map(|open| open.netns.key()).collect();
        let mut free: BTreeMap<Name, Netns> = BTreeMap::new();
        for (name, netns) in found {
            if !self.open.contains_key(&name) && known.insert(netns.key()?) {
                free.insert(name, netns);
            }
        }
        // One that cannot be entered is nobody's node.
        self.hold(free.into_iter().collect());
        Ok(())
    }

    /// Opens a socket in each and keeps both. Returns those that could not be entered.
    fn hold(&mut self, found: Vec<(Name, Netns)>) -> Vec<(Name, Error)> {
        let home = &self.home;
        let mut refused = Vec::new();
        for (name, open) in share(found, || (), |(), (name, netns)| (name, Open::new(netns, home))) {
            match open {
                Ok(open) => drop(self.open.insert(name, open)),
                Err(error) => refused.push((name, error)),
            }
        }
        refused
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

    /// Where a table has the name of wire's and is not wire's, there can be no rules, and so no wire.
    fn refuse_tables(&mut self, topology: &Topology, state: &mut State) {
        let taken = state.namespaces.iter().filter(|(_, namespace)| namespace.foreign.table);
        for name in taken.map(|(name, _)| name.clone()).collect::<Vec<Name>>() {
            state.namespaces.remove(&name);
            self.open.remove(&name);
            if name.is_host() || topology.nodes.contains_key(&name) {
                let reason =
                    "its nftables have a table `inet wire` that is not wire's; `nft delete table inet wire` there";
                state.refused.insert(name, reason.to_owned());
            }
        }
    }

    /// Leaves all descriptors to the end of the process, which is near: a thousand namespaces are let go of at once then, and
    /// nobody waits.
    pub fn leave_open(self) {
        std::mem::forget(self);
    }

    /// Looks for every node again: one that came back in another namespace is let go of, so that the next look opens that.
    pub fn find_again(&mut self, topology: &Topology) -> Result<(), Error> {
        self.podman.refresh();
        let nodes: Vec<Name> = self.open.keys().filter(|name| topology.nodes.contains_key(*name)).cloned().collect();
        for name in nodes {
            let home = topology.nodes.get(&name).map(|node| &node.home);
            let held = &self.open[&name].netns;
            let same = match home {
                Some(Home::Netns(netns)) => held.is_named(netns.netns()),
                // Two descriptors that are both open tell for certain whether they are of one namespace.
                home => {
                    let key = held.key()?;
                    matches!(self.find_one(home), Ok(Ok(netns)) if netns.key().ok() == Some(key))
                }
            };
            if !same {
                self.open.remove(&name);
            }
        }
        Ok(())
    }
}

/// Room for the descriptors of many namespaces: two each, where a login has room for 1024. As far as the system lets us.
fn make_room() {
    const ENOUGH: u64 = 65_536;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < ENOUGH
        && setrlimit(Resource::RLIMIT_NOFILE, ENOUGH, hard.max(ENOUGH)).is_err()
    {
        // Whoever may not raise the hard limit may still go up to it; if that is too low, opening says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard);
    }
}

impl Open {
    fn new(netns: Netns, home: &Netns) -> Result<Open, Error> {
        let open = || Ok::<_, Error>((Socket::open(NETLINK_ROUTE)?, Socket::open(NETLINK_NETFILTER)?));
        let (socket, netfilter) = netns.inside(home, open)??;
        let rules = Rules { socket: netfilter, seen: None, generation: 0 };
        let cookie = sys::netns_cookie(socket.as_fd()).context("cannot tell a network namespace from another")?;
        let (ends, strays, settings) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let others = BTreeMap::new();
        Ok(Open { netns, socket, cookie, ends, strays, settings, others, rules, next_index: 1 })
    }
}
