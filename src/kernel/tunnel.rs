//! Tunnels of hubs: what is seen of one beside its link, and the steps that make or mend it, each by itself, so that a peer that is
//! refused keeps no other one out.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use nix::errno::Errno;

use super::execute::Work;
use super::link::{self, Seen};
use super::netns::Netns;
use super::run::Lock;
use super::socket::{Batch, NETLINK_GENERIC, Request, Socket};
use super::sysctl::Sysctls;
use super::wireguard::{self, Family};
use super::{Kernel, Open, address, keys, route, tun};
use crate::error::{Context, Error};
use crate::hub::orders::Secret;
use crate::plan::Action;
use crate::plan::tunnel::Step;
use crate::state::tunnel::{Keys, Kind, Tunnel};
use crate::state::{Namespace, Setting, State};
use crate::topology::{self, Device, Name, Topology};

impl Kernel {
    /// Whether the kernel has WireGuard, and what the files of keys hold; where the file has a tunnel.
    pub(super) fn look_at_keys(&mut self, topology: &Topology, state: &mut State) -> Result<(), Error> {
        let hubs = topology.hubs.values().filter_map(|hub| Some((&hub.name, hub.wireguard.as_ref()?)));
        for (hub, wireguard) in hubs {
            state.keys.insert(hub.clone(), keys_of(wireguard));
        }
        if !state.keys.is_empty() {
            self.wireguard = family(&Socket::open(NETLINK_GENERIC)?)?;
            state.has_wireguard = self.wireguard.is_some();
        }
        Ok(())
    }

    /// Makes the keys that a plan has made, by hub.
    pub(super) fn make_keys(work: &mut Work, lock: &Lock) -> BTreeMap<Name, Secret> {
        let mut made = BTreeMap::new();
        for (i, change) in work.changes.iter().enumerate() {
            let Action::MakeKey(path) = &change.action else { continue };
            match keys::make(path, lock) {
                Ok(key) => drop(made.insert(change.node.clone(), key)),
                Err(error) => work.fail(i, error.message),
            }
        }
        made
    }

    /// Carries out a plan's steps of tunnels, in their order.
    pub(super) fn tunnels(&mut self, keys: &BTreeMap<Name, Secret>, work: &mut Work) {
        let mut unsettled: HashSet<(&Name, &Device)> = HashSet::new();
        let failed = work.refused.keys().map(|i| &work.changes[*i]);
        let failed = failed.filter(|change| matches!(change.action, Action::MakeKey(_)));
        let keyless: BTreeSet<Name> = failed.map(|change| change.node.clone()).collect();
        let any = work.changes.iter().any(|change| matches!(change.action, Action::Tunnel(..)));
        if any && self.wireguard.is_none() {
            // The file need not have the tunnel that is there again. Where nobody answers there is none.
            self.wireguard = Socket::open(NETLINK_GENERIC).and_then(|socket| family(&socket)).unwrap_or_default();
        }
        for (i, change) in work.changes.iter().enumerate() {
            let Action::Tunnel(device, step) = &change.action else { continue };
            let place = (&change.node, device);
            if work.refused.contains_key(&i) {
                unsettled.insert(place);
                continue;
            }
            if keyless.contains(&change.node) {
                work.fail(i, "not without its key, which could not be made".to_owned());
                continue;
            }
            let done = match self.open.get_mut(&change.node) {
                None => Err("it does not run any more".to_owned()),
                Some(_) if *step == Step::Up && unsettled.contains(&place) => {
                    Err("it stays down until the rest of it is right".to_owned())
                }
                Some(open) => {
                    let mut hands = Hands {
                        node: &change.node,
                        device,
                        open,
                        home: &self.home,
                        sysctls: &mut self.sysctls,
                        family: self.wireguard,
                        made: keys.get(&change.node),
                    };
                    hands.take(step)
                }
            };
            if let Err(error) = done {
                if matches!(step, Step::Set(..) | Step::Key(_) | Step::Create(_)) {
                    unsettled.insert(place);
                }
                work.fail(i, format!("tunnel `{device}` of {}: {error}", change.node));
            }
        }
    }
}

/// What the kernel has for WireGuard.
fn family(socket: &Socket) -> Result<Option<Family>, Error> {
    wireguard::family(socket).context("cannot ask the kernel for its WireGuard")
}

/// What the files hold, or why they may not be used.
fn keys_of(wireguard: &topology::Wireguard) -> Keys {
    let named = wireguard.peers.iter().filter_map(|peer| Some((peer.name.clone(), peer.preshared_key.as_ref()?)));
    Keys {
        path: wireguard.private_key.clone(),
        private: keys::private(&wireguard.private_key),
        preshared: named.map(|(name, path)| (name, keys::preshared(path))).collect(),
    }
}

/// What kind of tunnel a device of ours is, if it is one. What the kernel's WireGuard knows is yet to be asked.
pub(super) fn kind_of(seen: &Seen) -> Option<Kind> {
    if seen.group != link::GROUP && seen.group != link::DOOMED {
        return None;
    }
    match seen.kind.as_str() {
        "wireguard" => Some(Kind::Kernel(Default::default())),
        "tun" => Some(Kind::User),
        _ => None,
    }
}

/// A tunnel of a node as its link shows it.
pub(super) fn of_link(node: &Name, kind: Kind, seen: Seen) -> Tunnel {
    Tunnel {
        kind,
        marked: seen.group == link::GROUP && seen.alias.strip_prefix(link::TUNNEL) == Some(node.as_str()),
        mtu: seen.mtu,
        up: seen.up,
        addresses: Default::default(),
        routes: Default::default(),
        settings: seen.settings.into_iter().collect(),
        traffic: seen.traffic,
        foreign: Vec::new(),
    }
}

impl Open {
    /// Asks the kernel's WireGuard about the tunnels that it carries.
    pub(super) fn look_at_tunnels(&self, node: &Name, home: &Netns, namespace: &mut Namespace) -> Result<(), Error> {
        let mut known = namespace.tunnels.iter_mut().filter_map(|(device, tunnel)| match &mut tunnel.kind {
            Kind::Kernel(known) => Some((device, known)),
            Kind::User => None,
        });
        let Some(first) = known.next() else { return Ok(()) };
        let socket = self.netns.inside(home, || Socket::open(NETLINK_GENERIC))??;
        let Some(family) = family(&socket)? else { return Ok(()) };
        for (device, known) in std::iter::once(first).chain(known) {
            let Some(index) = self.strays.get(device) else { continue };
            let cannot = || format!("cannot ask WireGuard about tunnel `{device}` of {node}");
            *known = wireguard::look(&socket, family, *index).context(cannot())?;
        }
        Ok(())
    }
}

/// One tunnel under way.
struct Hands<'a> {
    node: &'a Name,
    device: &'a Device,
    open: &'a mut Open,
    home: &'a Netns,
    sysctls: &'a mut Sysctls,
    family: Option<Family>,
    /// The key that was made for it.
    made: Option<&'a Secret>,
}

type Done = Result<(), String>;

impl Hands<'_> {
    fn take(&mut self, step: &Step) -> Done {
        if let Step::Create(tunnel) = step {
            return self.create(tunnel);
        }
        let index = *self.open.strays.get(self.device).ok_or("it is not there")?;
        match step {
            Step::Create(_) => Ok(()),
            Step::Mark => self.tell("mark it", &link::mark_tunnel(index, self.node.as_str())),
            Step::Mtu(mtu) => self.tell("set the MTU", &link::resize(index, *mtu)),
            Step::Set(setting, value) if setting.is_ipv6() => self.write(&[(*setting, *value)]),
            Step::Set(setting, value) => self.tell("set it", &link::configure(index, [(*setting, *value)].into_iter())),
            Step::RemoveAddress(address) => self.tell("remove the address", &address::remove(index, address)),
            Step::AddAddress(address) => self.tell("add the address", &address::add(index, address)),
            Step::Key(key) => {
                let key = key.as_ref().or(self.made).ok_or("not without its key, which could not be made")?;
                self.ask("set its key", |family| wireguard::set(family, index, Some(key), None))
            }
            Step::Listen(port) => {
                let words = format!("listen on UDP port {port}");
                self.ask(&words, |family| wireguard::set(family, index, None, Some(*port)))
            }
            Step::RemovePeer(peer) => {
                self.ask(&format!("remove {}", peer.words()), |family| wireguard::remove_peer(family, index, peer))
            }
            Step::SetPeer(change) => {
                let words = format!("set {}", change.peer.words());
                self.ask(&words, |family| wireguard::set_peer(family, index, change))
            }
            Step::Up => self.tell("raise it", &link::raise(index)),
            Step::AddRoute(route) => self.tell("add the route", &route::add(index, route, true)),
        }
    }

    /// Marked from birth, and up when all the rest is right.
    fn create(&mut self, tunnel: &Tunnel) -> Done {
        let index = self.open.next_index;
        self.open.next_index += 1;
        let name = self.device.as_str();
        let mark = link::mark_tunnel(index, self.node.as_str());
        match &tunnel.kind {
            Kind::Kernel(_) => {
                self.tell("make it", &link::wireguard(index, name, tunnel.mtu))?;
                self.open.strays.insert(self.device.clone(), index);
                self.tell("mark it", &mark)?;
            }
            Kind::User => {
                let Open { netns, socket, .. } = &*self.open;
                let made = netns.inside(self.home, || tun::make(name, index, socket, &mark));
                made.and_then(|made| made).map_err(|error| error.message)?;
                self.open.strays.insert(self.device.clone(), index);
                self.tell("set the MTU", &link::resize(index, tunnel.mtu))?;
            }
        }
        let settings: Vec<(Setting, i32)> = tunnel.settings.iter().map(|(&setting, &value)| (setting, value)).collect();
        self.write(&settings.iter().copied().filter(|(setting, _)| setting.is_ipv6()).collect::<Vec<_>>())?;
        self.tell("set it", &link::configure(index, settings.into_iter()))?;
        if let Kind::Kernel(wireguard) = &tunnel.kind {
            // One that had none before, and is there again, has none.
            let key = wireguard.private.as_ref().or(self.made);
            let words = format!("set its key and UDP port {}", wireguard.listen);
            self.ask(&words, |family| wireguard::set(family, index, key, Some(wireguard.listen)))?;
        }
        for address in &tunnel.addresses {
            self.tell("add the address", &address::add(index, address))?;
        }
        self.tell("raise it", &link::raise(index))
    }

    fn tell(&self, tried: &str, request: &Request) -> Done {
        told(&self.open.socket, tried, request)
    }

    /// The same of the kernel's WireGuard.
    fn ask(&self, tried: &str, request: impl Fn(Family) -> Option<Request>) -> Done {
        let family = self.family.ok_or("the kernel has no WireGuard")?;
        let request = request(family).ok_or_else(|| format!("cannot {tried}: that is no key"))?;
        let socket = self.open.netns.inside(self.home, || Socket::open(NETLINK_GENERIC));
        let socket = socket.and_then(|socket| socket).map_err(|error| error.message)?;
        told(&socket, tried, &request)
    }

    /// What only `/proc/sys` takes.
    fn write(&mut self, settings: &[(Setting, i32)]) -> Done {
        if settings.is_empty() {
            return Ok(());
        }
        let (sysctls, device) = (&mut *self.sysctls, self.device.as_str());
        let write = || {
            for &(setting, value) in settings {
                let written = match sysctls.conf(true) {
                    Ok(conf) => conf.write(device, setting, value),
                    Err(errno) => Err(errno.into()),
                };
                // Where the kernel or the device has no IPv6 there is nothing to switch off.
                let off = (setting, value) == (Setting::DisableIpv6, 1);
                if let Err(error) = written
                    && (!off || error.kind() != std::io::ErrorKind::NotFound)
                {
                    return Err(format!("cannot write {}: {error}", setting.path(device)));
                }
            }
            Ok(())
        };
        self.open.netns.inside(self.home, write).map_err(|error| error.message)?
    }
}

fn told(socket: &Socket, tried: &str, request: &Request) -> Done {
    let mut batch = Batch::default();
    batch.push(0, request);
    match socket.send(&mut batch).into_iter().next() {
        None => Ok(()),
        // WireGuard opens its socket when the device comes up.
        Some((_, refusal)) if refusal.errno == Errno::EADDRINUSE => {
            Err(format!("cannot {tried}: its UDP port is somebody else's there; `ss -ulpn` tells whose"))
        }
        Some((_, refusal)) => Err(format!("cannot {tried}: {refusal}")),
    }
}
