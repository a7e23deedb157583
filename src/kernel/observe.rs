//! What a namespace holds, read with one socket in it: which devices are ends of wires, what they have, and what is foreign.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;

use super::link::{self, Seen};
use super::netns::Netns;
use super::run::Remembered;
use super::share::share;
use super::socket::{Batch, Refusal};
use super::sysctl::Sysctls;
use super::{Held, Kernel, Open};
use super::{address, owned, route, tunnel};
use crate::error::{Context, Error};
use crate::rules::Rules;
use crate::state::{End, Maker, Marks, Namespace, Route, Setting, State, WHOLE_NAMESPACE};
use crate::topology::{self, Device, Mac, Name, Topology};

/// The wires of the file that end in a node, with which end.
type Wires<'a> = &'a [(&'a topology::Wire, usize)];

impl Kernel {
    /// What all open namespaces hold.
    pub(super) fn survey(&mut self, topology: &Topology, rules: &Rules, state: &mut State) -> Result<(), Error> {
        let survey = Survey {
            home: &self.home,
            marks: MarkTable::of(topology),
            wires: topology.wires_by_node(),
            remembered: &self.remembered,
            others: others(topology),
            also: &self.also,
            rules,
            owned: topology.nodes.values().filter(|node| node.owned).map(|node| &node.name).collect(),
            files: owned::Files::default(),
            descriptors: self.open.iter().map(|(name, open)| (name.clone(), open.netns.as_fd().as_raw_fd())).collect(),
        };
        // The largest first, so that no thread is left with it alone.
        let mut nodes: Vec<(&Name, &mut Open)> = self.open.iter_mut().collect();
        nodes.sort_by_key(|(name, _)| std::cmp::Reverse(survey.wires.get(name).map_or(0, Vec::len)));
        let looked = share(nodes, Sysctls::default, |sysctls, (name, open)| {
            let mut fars = Vec::new();
            let namespace = open.look(name, &survey, sysctls, &mut fars);
            (name.clone(), namespace, fars)
        });
        let newborns: Vec<Name> = self.unmade.keys().cloned().collect();
        for name in newborns {
            let (settings, others) = survey.newborn(&name);
            if let Some(born) = self.unmade.get_mut(&name) {
                (born.settings, born.others) = (settings, others);
                state.namespaces.insert(name, born.clone());
            }
        }
        let mut fars = Fars::default();
        for (name, namespace, found) in looked {
            match namespace {
                Ok(namespace) => drop(state.namespaces.insert(name.clone(), namespace)),
                // What the file does not name was only looked into for what might have been left there.
                Err(_) if !topology.nodes.contains_key(&name) && !name.is_host() => continue,
                Err(error) => return Err(error),
            }
            for far in found {
                fars.entry(far.wire.clone()).or_default().push((name.clone(), far));
            }
        }
        pair(&fars, state);
        self.look_for_inhabitants(state);
        self.look_at_keys(topology, state)
    }

    fn look_for_inhabitants(&self, state: &mut State) {
        let made = state.namespaces.iter_mut().filter(|(_, here)| here.maker == Maker::Wire);
        let made: Vec<_> =
            made.filter_map(|(name, here)| Some((self.open.get(name)?.netns.key().ok()?, name, here))).collect();
        let names = made.iter().map(|(key, name, _)| (*key, name.netns())).collect();
        let mut inhabitants = owned::inhabitants(&names);
        for (key, _, here) in made {
            here.inhabitant = inhabitants.remove(&key);
        }
    }
}

/// Which ends belong together: each is the other's far end, and one of them has the other's namespace for its far one.
fn pair(fars: &Fars, state: &mut State) {
    for (wire, ends) in fars {
        let [(a, here), (b, there)] = &ends[..] else { continue };
        let crossed = here.far_index == there.index && there.far_index == here.index;
        let leads = |far: &Far, to: &Name| far.namespace.is_some() && far.asked == Some((to.clone(), far.namespace));
        if !crossed || !(leads(here, b) || leads(there, a)) {
            continue;
        }
        for (node, other) in [(a, b), (b, a)] {
            let namespace = state.namespaces.get_mut(node);
            if let Some(end) = namespace.and_then(|namespace| namespace.ends.get_mut(wire)) {
                end.far = Some(other.clone());
            }
        }
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
        seen.kind == "veth" && (grouped || self.macs.contains_key(&seen.mac) || seen.alias.starts_with(link::ALIAS))
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
    marks: MarkTable<'a>,
    wires: BTreeMap<&'a Name, Vec<(&'a topology::Wire, usize)>>,
    remembered: &'a Remembered,
    others: BTreeMap<Name, BTreeSet<Device>>,
    also: &'a BTreeMap<Name, BTreeSet<Device>>,
    /// What the rules are to be, so that what is so is not kept twice.
    rules: &'a Rules<'a>,
    /// The nodes whose namespaces `wire` makes, and the files that tell which it has made.
    owned: BTreeSet<&'a Name>,
    files: owned::Files,
    /// The namespaces themselves, held open meanwhile.
    descriptors: HashMap<Name, RawFd>,
}

impl Survey<'_> {
    /// The settings that a namespace will be born with, as far as they would be looked at.
    fn newborn(&self, node: &Name) -> (BTreeMap<Setting, i32>, BTreeMap<(Device, Setting), i32>) {
        let wires = self.wires.get(node).map(Vec::as_slice).unwrap_or_default();
        let also = self.also.get(node);
        if wires.is_empty() && also.is_none() {
            return Default::default();
        }
        let ipv6 = also.is_some() || wires.iter().any(|(wire, _)| wire.subnet6.is_some());
        let mut settings: BTreeMap<Setting, i32> = WHOLE_NAMESPACE.into_iter().map(|setting| (setting, 0)).collect();
        settings.extend(ipv6.then_some((Setting::Forwarding6, 0)));
        // Where the kernel has it for one namespace it has it for all.
        let forced = || Sysctls::default().conf(true).ok()?.read("all", Setting::ForceForwarding6);
        let kinds = [Some(Setting::Forwarding), ipv6.then(forced).flatten().map(|_| Setting::ForceForwarding6)];
        // Of the devices that it may have to forward on none is there but for those that all namespaces have.
        let asked = self.others.get(node).into_iter().flatten().chain(also.into_iter().flatten());
        let devices: BTreeSet<Device> =
            asked.filter(|device| device.as_str() == "default").cloned().chain(Device::new("all")).collect();
        let place =
            |device: &Device| kinds.into_iter().flatten().map(|kind| ((device.clone(), kind), 0)).collect::<Vec<_>>();
        (settings, devices.iter().flat_map(place).collect())
    }
}

/// The seen ends of each wire, to be paired when all namespaces have been looked into.
type Fars = BTreeMap<Name, Vec<(Name, Far)>>;

struct Far {
    wire: Name,
    index: u32,
    /// The far end's index, and the number of its namespace in this one, as the device has them.
    far_index: u32,
    namespace: Option<i32>,
    /// The node that the file has at the far end, and the number of that one's namespace in this one.
    asked: Option<(Name, Option<i32>)>,
}

impl Open {
    /// What this namespace holds.
    fn look(
        &mut self,
        node: &Name,
        survey: &Survey,
        sysctls: &mut Sysctls,
        fars: &mut Vec<Far>,
    ) -> Result<Namespace, Error> {
        let wires = survey.wires.get(node).map(Vec::as_slice).unwrap_or_default();
        let mut namespace = Namespace { cookie: self.cookie, ..Namespace::default() };
        (self.ends, self.strays, self.next_index) = (HashMap::new(), HashMap::new(), 1);
        let cannot = |what: &str| format!("cannot list the {what} of {node}");
        let links = self.socket.dump(&link::list(), link::seen);
        let mut foreign: HashMap<u32, String> = HashMap::new();
        let mut own: HashMap<u32, Name> = HashMap::new();
        let mut tunnels: HashMap<u32, Device> = HashMap::new();
        let mut ipv6 = wires.iter().any(|(wire, _)| wire.subnet6.is_some());
        for seen in links.context(cannot("links"))? {
            self.next_index = self.next_index.max(seen.index + 1);
            if seen.loopback {
                let marked = seen.alias == owned::MARK;
                let asked = !node.is_host() && (marked || survey.owned.contains(node));
                if asked && owned::is_named(&self.netns, node.netns()) && survey.files.are_ours(node.netns(), marked) {
                    namespace.maker = Maker::Wire;
                }
                // A host may have addresses there for all the world to reach.
                if node.is_host() {
                    foreign.insert(seen.index, seen.name);
                }
                continue;
            }
            if let (Some(kind), Some(device)) = (tunnel::kind_of(&seen), Device::new(&seen.name)) {
                ipv6 |= seen.settings.contains(&(Setting::DisableIpv6, 0));
                self.strays.insert(device.clone(), seen.index);
                tunnels.insert(seen.index, device.clone());
                namespace.tunnels.insert(device, tunnel::of_link(node, kind, seen));
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
            fars.push(Far {
                wire: wire.clone(),
                index: seen.index,
                far_index: seen.far_index,
                namespace: seen.far_namespace,
                asked: None,
            });
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
        self.ask_for_far_namespaces(node, wires, survey, fars);
        if !own.is_empty() || !foreign.is_empty() || !tunnels.is_empty() {
            let looked = self.look_at_networks(wires, ipv6, &foreign, &own, &tunnels, &mut namespace);
            looked.context(cannot("addresses and routes"))?;
        }
        self.look_at_tunnels(node, survey.home, &mut namespace)?;
        self.look_at_settings(node, wires, survey, sysctls, &mut namespace)?;
        let known = survey.rules.known(node);
        let looked = self.rules.look(known.as_ref()).context(cannot("rules"))?;
        (namespace.foreign.table, namespace.counts, namespace.recorded) =
            (looked.foreign, looked.counts, looked.recorded);
        (namespace.table, namespace.generation) = (self.rules.seen.clone(), self.rules.generation);
        if !wires.is_empty() || node.is_host() {
            // Nothing is done or left because of them: what changes too fast to be read is looked at the next time.
            namespace.foreign.tables = self.rules.others().unwrap_or_default();
        }
        if !namespace.foreign.tables.is_empty() {
            let ends = self.ends.values().map(|held| (held.device.to_string(), held.index));
            namespace.foreign.indexes = foreign.into_iter().map(|(index, name)| (name, index)).chain(ends).collect();
        }
        Ok(namespace)
    }

    /// Asks for the numbers of the namespaces at the far ends. Of two nodes the one with fewer wires asks: the kernel searches
    /// a namespace's list of numbers one by one.
    fn ask_for_far_namespaces(&self, node: &Name, wires: Wires, survey: &Survey, fars: &mut [Far]) {
        let count = |node: &Name| survey.wires.get(node).map_or(0, Vec::len);
        let mut batch = Batch::default();
        for (wire, side) in wires {
            let far = &wire.far(*side).node;
            let fewer = (count(node), *side) < (count(far), 1 - *side);
            if fewer
                && let Some(place) = fars.iter().position(|seen| seen.wire == wire.name)
                && let Some(descriptor) = survey.descriptors.get(far)
            {
                fars[place].asked = Some((far.clone(), None));
                batch.push(place, &link::number_of(*descriptor));
            }
        }
        self.socket.exchange(&mut batch, |place, answer| {
            if let Some((_, number)) = &mut fars[place].asked {
                *number = link::number(answer);
            }
        });
    }

    fn look_at_networks(
        &self,
        wires: Wires,
        ipv6: bool,
        foreign: &HashMap<u32, String>,
        own: &HashMap<u32, Name>,
        tunnels: &HashMap<u32, Device>,
        namespace: &mut Namespace,
    ) -> Result<(), Refusal> {
        let families = [Some(AddressFamily::Inet), ipv6.then_some(AddressFamily::Inet6)];
        for family in families.into_iter().flatten() {
            let addresses = self.socket.dump(&address::list(family), address::seen)?;
            for seen in addresses {
                if let Some(device) = foreign.get(&seen.index) {
                    let network = IpNetwork::new(seen.address.network(), seen.address.prefix()).unwrap_or(seen.address);
                    namespace.foreign.networks.push((network, device.clone()));
                }
                if let Some(tunnel) = tunnels.get(&seen.index).and_then(|device| namespace.tunnels.get_mut(device)) {
                    // A kernel before 5.18 keeps no mark.
                    if seen.ours.unwrap_or(!seen.link_local) {
                        tunnel.addresses.insert(seen.address);
                    } else if !seen.link_local {
                        tunnel.foreign.push(seen.address);
                    }
                    continue;
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
            let routes = self.socket.dump(&route::list(family), route::seen)?;
            for seen in routes {
                if let Some(device) = seen.devices.iter().find_map(|index| foreign.get(index))
                    && (seen.metric == 0 || seen.to.prefix() != 0)
                {
                    namespace.foreign.networks.push((seen.to, device.clone()));
                }
                let tunnel = seen.devices.iter().find_map(|index| tunnels.get(index));
                if let Some(tunnel) = tunnel.and_then(|device| namespace.tunnels.get_mut(device)) {
                    let of = |own: &IpNetwork| seen.to.contains(own.ip()) && seen.to.prefix() == own.prefix();
                    if seen.via.is_none() && tunnel.addresses.iter().any(of) {
                        let from = seen.from.filter(IpAddr::is_ipv4);
                        tunnel.routes.insert(Route { to: seen.to, via: None, from });
                    } else if !seen.kernel {
                        tunnel.foreign.push(seen.to);
                    }
                    continue;
                }
                let Some(wire) = seen.devices.iter().find_map(|index| own.get(index)) else { continue };
                let route = Route { to: seen.to, via: seen.via, from: seen.from };
                let subnet = seen.via.is_none() && subnets(wires, wire).any(|subnet| subnet == seen.to);
                if subnet || (seen.ours && seen.via.is_some()) {
                    let from = seen.from.filter(|_| subnet);
                    namespace.ends.entry(wire.clone()).and_modify(|end| {
                        end.routes.insert(Route { from, ..route });
                    });
                } else if !seen.kernel {
                    namespace.foreign.routes.push((wire.clone(), seen.to));
                }
            }
        }
        // A device's address and the route that comes with it are one thing to know.
        namespace.foreign.networks.sort();
        namespace.foreign.networks.dedup();
        Ok(())
    }

    /// The settings of the whole namespace, and of the devices that have to forward for a wire. Those of the host as a whole are
    /// not `wire`'s, and a namespace without wires is left alone.
    fn look_at_settings(
        &mut self,
        node: &Name,
        wires: Wires,
        survey: &Survey,
        sysctls: &mut Sysctls,
        namespace: &mut Namespace,
    ) -> Result<(), Error> {
        let remembered = survey.remembered.get(&self.cookie);
        let also = survey.also.get(node);
        if wires.is_empty() && remembered.is_none() && also.is_none() {
            return Ok(());
        }
        let ipv6 = also.is_some() || wires.iter().any(|(wire, _)| wire.subnet6.is_some());
        let mut others = survey.others.get(node).cloned().unwrap_or_default();
        others.extend(also.into_iter().flatten().cloned());
        others.extend(Device::new("all"));
        let known =
            remembered.into_iter().flatten().filter_map(|(path, value)| Some((Setting::of_path(path)?, *value)));
        // An end has its own say, and what was remembered of it went along with the whole namespace.
        let an_end = |device: &Device| {
            namespace.tunnels.contains_key(device) || namespace.ends.values().any(|end| end.device == *device)
        };
        let known: Vec<_> = known.filter(|((device, _), _)| device.as_str() != "all" && !an_end(device)).collect();
        for (place, value) in known {
            others.insert(place.0.clone());
            namespace.others_remembered.insert(place, value);
        }
        let read = || {
            let (mut seen, mut beside) = (BTreeMap::new(), BTreeMap::new());
            for (conf, is_ipv6) in [(sysctls.conf(false), false), (sysctls.conf(true), true)] {
                let Ok(conf) = conf else { continue };
                if is_ipv6 && !ipv6 {
                    continue;
                }
                let forwarding = if is_ipv6 { Setting::ForceForwarding6 } else { Setting::Forwarding };
                for device in &others {
                    beside
                        .extend(conf.read(device.as_str(), forwarding).map(|now| ((device.clone(), forwarding), now)));
                }
                let whole: &[Setting] = if is_ipv6 { &[Setting::Forwarding6] } else { &WHOLE_NAMESPACE };
                seen.extend(whole.iter().filter_map(|s| Some((*s, conf.read("all", *s)?))));
            }
            (seen, beside)
        };
        (self.settings, self.others) = self.netns.inside(survey.home, read)?;
        namespace.others = self.others.clone();
        if node.is_host() {
            self.settings.clear();
            return Ok(());
        }
        namespace.settings = self.settings.clone();
        if let Some(remembered) = remembered {
            let known = WHOLE_NAMESPACE.into_iter().chain([Setting::Forwarding6]);
            namespace.remembered = known.filter_map(|s| Some((s, *remembered.get(&s.path("all"))?))).collect();
        }
        Ok(())
    }
}

/// By node, the devices that are no wire's and may have to forward for one: a host's uplinks; a hub's tunnel, and what devices
/// take after that are yet to come.
fn others(topology: &Topology) -> BTreeMap<Name, BTreeSet<Device>> {
    let on = topology.wires.iter().flat_map(|wire| &wire.publish).filter_map(|publish| publish.on.clone());
    let uplinks = topology.host.uplinks.iter().cloned().chain(on);
    // A tunnel that `wire` makes is set like an end.
    let tunnels = topology.hubs.values().filter(|hub| hub.wireguard.is_none()).filter_map(|hub| {
        let tunnel = hub.clients.as_ref()?.device.clone();
        Some((hub.name.clone(), [tunnel].into_iter().chain(Device::new("default")).collect()))
    });
    [(Name::host(), uplinks.collect())].into_iter().chain(tunnels).collect()
}

fn has_address(wires: Wires, name: &Name, address: &IpNetwork) -> bool {
    let own = wires.iter().find(|(wire, _)| wire.name == *name).map(|(wire, side)| &wire.ends[*side]);
    own.is_some_and(|end| address.ip() == end.address || end.address6.is_some_and(|own| address.ip() == own))
}

/// The subnets that the file gives a wire.
fn subnets<'a>(wires: Wires<'a>, name: &Name) -> impl Iterator<Item = IpNetwork> + use<'a> {
    let wire = wires.iter().find(|(wire, _)| wire.name == *name).map(|(wire, _)| *wire);
    let both = wire.map(|wire| [Some(IpNetwork::V4(wire.subnet)), wire.subnet6.map(IpNetwork::V6)]);
    both.into_iter().flatten().flatten()
}
