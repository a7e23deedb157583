//! The pretend host: network and mount namespaces of its own with a tmpfs on /run. Nothing of the real host is touched, and
//! all dies with this program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::netlink::{
    Batch, IFLA_GROUP, RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, Socket, netfilter_socket, route_socket,
};
use super::rules;
use super::wiring::Wiring;
use crate::{Result, WORK};

/// What the host is called among the nodes.
pub const HOST: &str = "host";
/// An index that no kernel gives out by itself, however many devices it puts into a new namespace.
const UPLINK: u32 = 500;

/// The namespaces, by name; the host's own is one of them.
pub struct PretendHost {
    nodes: BTreeMap<String, Node>,
}

struct Node {
    place: File,
    /// For its rules. It stays open: closing it behind a removal would wait for the kernel to be done with it.
    filter: Socket,
}

impl PretendHost {
    pub fn enter() -> Result<PretendHost> {
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        match unshare(own) {
            Err(Errno::EPERM) => {
                unshare(own | CloneFlags::CLONE_NEWUSER)
                    .map_err(|e| format!("neither root nor a user namespace to be had: {e}"))?;
                fs::write("/proc/self/setgroups", "deny")?;
                fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
                fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
            }
            outcome => outcome?,
        }
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none)?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
        fs::create_dir(WORK)?;
        fs::create_dir("/run/netns")?;
        // Two descriptors for each namespace.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;

        let host = Node { place: File::open("/proc/self/ns/net")?, filter: netfilter_socket()? };
        let mut pretend = PretendHost { nodes: BTreeMap::from([(HOST.to_owned(), host)]) };
        pretend.grow(&["uplink".to_owned()])?;
        // An uplink for the topology to name. It leads nowhere, and a veth is there where dummy devices are not.
        let mut batch = Batch::default();
        batch.pair(UPLINK, ("eth0", pretend.place(HOST)?), ("eth0", pretend.place("uplink")?));
        batch.message(RTM_NEWLINK, 0).link(1, true).end();
        batch.message(RTM_NEWLINK, 0).link(UPLINK, true).end();
        route_socket()?.carry_out(&batch)?;
        // As on any host of containers; and where `wire` has to switch it on, it has rules for that which nobody else has.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(pretend)
    }

    /// Makes the nodes that are not there yet.
    pub fn grow(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            if !self.nodes.contains_key(name) {
                let node = self.make(name)?;
                self.nodes.insert(name.clone(), node);
            }
        }
        Ok(())
    }

    /// Makes a named namespace as `ip netns add` does, its loopback up.
    fn make(&self, name: &str) -> Result<Node> {
        let path = format!("/run/netns/{name}");
        File::create(&path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/self/ns/net"), path.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let mut batch = Batch::default();
        batch.message(RTM_NEWLINK, 0).link(1, true).end();
        route_socket()?.carry_out(&batch)?;
        let filter = netfilter_socket()?;
        setns(self.place(HOST)?, CloneFlags::CLONE_NEWNET)?;
        Ok(Node { place: File::open(&path)?, filter })
    }

    fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).ok_or_else(|| format!("there is no namespace {name}").into())
    }

    pub fn place(&self, name: &str) -> Result<&File> {
        Ok(&self.node(name)?.place)
    }

    /// For the rules of a node.
    pub fn filter(&self, name: &str) -> Result<&Socket> {
        Ok(&self.node(name)?.filter)
    }

    /// Does something in the namespace of a node.
    pub fn inside<T>(&self, name: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
        setns(self.place(name)?, CloneFlags::CLONE_NEWNET)?;
        let done = what();
        setns(self.place(HOST)?, CloneFlags::CLONE_NEWNET)?;
        done
    }

    /// The kernel frees devices and rules after the call that removed them; the next variant should not pay for that.
    pub fn settle(&self) {
        sleep(Duration::from_micros(20_000 + 200 * self.nodes.len() as u64));
    }
}

/// A wiring and the ground it is laid on.
pub struct Lab<'a> {
    pub pretend: &'a PretendHost,
    pub wiring: &'a Wiring,
    /// How many rules each node has when it has all.
    pub rules: BTreeMap<String, usize>,
}

impl Lab<'_> {
    /// The host and the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        std::iter::once(HOST).chain(self.wiring.nodes.iter().map(String::as_str))
    }

    /// Nodes enough to trust the rest: the host, the first, which is a hub, and some between it and the last.
    fn samples(&self) -> impl Iterator<Item = &str> {
        let nodes = &self.wiring.nodes;
        let some = nodes.iter().step_by(nodes.len().div_ceil(24).max(1)).chain(nodes.last());
        std::iter::once(HOST).chain(some.map(String::as_str))
    }

    /// The rules that there are now.
    pub fn count_rules(&self) -> Result<BTreeMap<String, usize>> {
        self.nodes().map(|node| Ok((node.to_owned(), rules::count(self.pretend.filter(node)?)?))).collect()
    }

    /// Did a variant do the work? Every end is up, default routes and rules are there.
    pub fn expect_wired(&self) -> Result<()> {
        for node in self.samples() {
            let socket = self.pretend.inside(node, route_socket)?;
            let ends = self.wiring.ends(node).count();
            let up = socket.veths()?.iter().filter(|link| link.up && !is_uplink(node, link.index)).count();
            if up != ends {
                return Err(format!("{up} of {ends} wires are up in {node}").into());
            }
            let routed = self.wiring.ends(node).flat_map(|end| &end.routes).any(|route| route.starts_with("default"));
            if socket.has_default_route()? != routed {
                return Err(format!("{node} has no default route, or one that it should not have").into());
            }
        }
        self.expect_ruled()
    }

    pub fn expect_ruled(&self) -> Result<()> {
        for node in self.samples() {
            let (rules, wanted) = (rules::count(self.pretend.filter(node)?)?, self.rules[node]);
            if rules == 0 || rules != wanted {
                return Err(format!("{node} has {rules} rules instead of {wanted}").into());
            }
        }
        Ok(())
    }

    pub fn expect_bare(&self) -> Result<()> {
        for node in self.samples() {
            let links = self.pretend.inside(node, route_socket)?.veths()?;
            let left = links.iter().filter(|link| !is_uplink(node, link.index)).count();
            let rules = rules::count(self.pretend.filter(node)?)?;
            if (left, rules) != (0, 0) {
                return Err(format!("{left} devices and {rules} rules are left in {node}").into());
            }
        }
        Ok(())
    }

    /// Removes all wires and rules, whoever laid them.
    pub fn clear(&self) -> Result<()> {
        const DOOMED: u32 = 0x0bad_cab1;
        let nodes: BTreeSet<&str> = self.wiring.wires.iter().map(|wire| wire.from.node.as_str()).collect();
        for node in nodes {
            let socket = self.pretend.inside(node, route_socket)?;
            let mut batch = Batch::default();
            for link in socket.veths()?.iter().filter(|link| !is_uplink(node, link.index)) {
                batch.message(RTM_SETLINK, 0).link(link.index, link.up);
                batch.u32(IFLA_GROUP, DOOMED).end();
            }
            if !batch.bytes.is_empty() {
                batch.message(RTM_DELLINK, 0).link(0, false);
                batch.u32(IFLA_GROUP, DOOMED).end();
                socket.carry_out(&batch)?;
            }
        }
        self.clear_rules()?;
        self.expect_bare()
    }

    /// Removes all rules and leaves the wires.
    pub fn clear_rules(&self) -> Result<()> {
        for node in self.nodes() {
            rules::clear(self.pretend.filter(node)?)?;
        }
        self.pretend.settle();
        Ok(())
    }
}

fn is_uplink(node: &str, index: u32) -> bool {
    node == HOST && index == UPLINK
}
