//! Topologies and states made up by choices. Where the choices run out the plainest is taken, so that a failure shrinks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::linux::newborn;
use crate::error::Error;
use crate::hub::orders::Secret;
use crate::nft::{Chain, Element, Expression, Foreign, Key, Rule, Set, Table, Target, Text, Type, Value, Verdict};
use crate::state::tunnel::{Keys, Kind, Peer, Tunnel};
use crate::state::{self, End, Maker, Namespace, Route, Setting, State};
use crate::topology::{Device, Name, Topology};
use crate::{desired, parse};

pub struct Dice(std::vec::IntoIter<u32>);

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// A place in a state: an end.
type At = (Name, Name);

impl Dice {
    pub fn new(choices: Vec<u32>) -> Dice {
        Dice(choices.into_iter())
    }

    pub fn below(&mut self, count: usize) -> usize {
        self.0.next().map_or(0, |choice| choice as usize % count.max(1))
    }

    pub fn chance(&mut self, of: usize) -> bool {
        self.below(of) == of - 1
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Two hubs, leaves on either, on both, on the host, on each other.
    pub fn topology(&mut self) -> Topology {
        let leaves = ["a", "b", "c", "d"];
        let mut pairs = Vec::new();
        let mut leaving = Vec::new();
        let dials_in = self.chance(2);
        for hub in ["edge", "vpn"] {
            if hub == "vpn" && dials_in || !self.chance(4) {
                pairs.push(("host", hub));
            }
        }
        for (i, leaf) in leaves.into_iter().enumerate() {
            let before = pairs.len();
            for hub in ["edge", "vpn"] {
                if !self.chance(3) {
                    pairs.push((hub, leaf));
                }
            }
            if self.chance(4) {
                pairs.push(("host", leaf));
            }
            if pairs.len() > before && self.chance(2) {
                leaving.push(leaf);
            }
            if i > 0 && self.chance(3) {
                pairs.push((leaves[self.below(i)], leaf));
            }
        }
        let mut text = "version = 1\nruntime = \"netns\"\nwire = [\n".to_owned();
        for (n, (from, to)) in pairs.iter().enumerate() {
            let tail = self.pick(&["", "-x", "-by-a-name-too-long"]);
            let prefix = if self.chance(4) { 30 } else { 31 };
            let _ =
                write!(text, "{{ name = \"{from}-{to}{tail}\", ends = [\"{from}\", \"{to}\"], allow = [\"tcp/80\"]");
            let _ = write!(text, ", subnet = \"10.0.{n}.0/{prefix}\"");
            let ipv6 = self.chance(3);
            if ipv6 {
                let _ = write!(text, ", subnet6 = \"fd00:{n}::/127\"");
            }
            if self.chance(3) {
                let _ = write!(text, ", mtu = {}", if ipv6 { 1280 } else { self.pick(&[1000, 1200, 9000]) });
            }
            if self.chance(4) {
                let _ = write!(text, ", ifname = [\"x{n}\", \"y{n}\"]");
            }
            if *from == "host" && self.chance(2) {
                let _ = write!(text, ", publish = [\"tcp/{}\"]", 1000 + n);
            }
            text += " },\n";
        }
        text += "]\n[host]\nuplinks = [\"up0\"]\n[module]\nm = [\"edge\", \"vpn\", \"a\", \"b\", \"c\", \"d\"]\n";
        text += "[hub.edge]\nzone = \"z\"\n[hub.vpn]\nzone = \"z\"\n";
        text += "clients = { prefix = \"10.100.0.0/24\", device = \"wg0\" }\n";
        if dials_in {
            self.wireguard(&mut text);
        }
        for node in leaves.into_iter().chain(["edge", "vpn"]) {
            let _ = writeln!(text, "[node.{node}]");
            if leaving.contains(&node) {
                text += "egress = [\"tcp/443\"]\n";
            }
            if self.chance(4) {
                text += "owned = true\n";
            }
        }
        parse::topology(&text).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"))
    }

    /// Somebody may dial in, with a key of a few and an address of a few.
    fn wireguard(&mut self, text: &mut String) {
        let _ = write!(text, "[hub.vpn.wireguard]\nlisten = {}\n", self.pick(&[51820, 51821]));
        let _ = writeln!(text, "private-key = \"{}\"", self.pick(&["/k/one", "/k/two"]));
        let mut addresses = vec![2, 3, 4, 5];
        for (n, name) in ["laptop", "phone", "tablet"].into_iter().enumerate() {
            if self.chance(3) {
                continue;
            }
            let address = addresses.remove(self.below(addresses.len()));
            let key = public(n + 3 * self.below(2));
            let _ = write!(text, "[[hub.vpn.wireguard.peer]]\nname = \"{name}\"\npublic-key = \"{key}\"\n");
            let _ = write!(text, "address = \"10.100.0.{address}\"\nallow = []\n");
            if self.chance(2) {
                let _ = writeln!(text, "preshared-key = \"/k/{name}{}\"", self.below(2));
            }
        }
    }

    /// Every node runs, or will by `up`, and has no wire yet.
    pub fn bare(&mut self, topology: &Topology) -> State {
        let mut state = State { has_wireguard: self.chance(2), keys: keys(topology), ..State::default() };
        // Since 6.17.
        let forced = self.chance(2);
        for node in desired::namespaces(topology).into_iter().chain([name("struck-node")]) {
            let mut namespace = Namespace::default();
            if !node.is_host() {
                namespace.settings = self.whole();
            }
            let devices: &[&str] = match node.as_str() {
                "host" => &["all", "up0"],
                "vpn" if state.keys.is_empty() && self.chance(2) => &["all", "default", "wg0"],
                "vpn" => &["all", "default"],
                _ => &["all"],
            };
            for device in devices.iter().filter_map(|device| Device::new(device)) {
                namespace.others.insert((device.clone(), Setting::Forwarding), self.below(2) as i32);
                if forced {
                    namespace.others.insert((device, Setting::ForceForwarding6), self.below(2) as i32);
                }
            }
            let owned = topology.nodes.get(&node).map_or(node.as_str() == "struck-node", |node| node.owned);
            if owned {
                let maker = self.pick(&[Maker::Nobody, Maker::Killed, Maker::Wire, Maker::Others]);
                namespace = if maker == Maker::Others { namespace } else { newborn(&namespace) };
                namespace.maker = maker;
                if maker == Maker::Wire {
                    namespace.inhabitant = self.chance(4).then(|| "somebody lives in it".to_owned());
                }
            }
            state.namespaces.insert(node, namespace);
        }
        state
    }

    /// Somebody takes away what `wire` made; the far ends of its wires mostly go with it.
    fn unmake(&mut self, state: &mut State, node: &Name) {
        self.leave(state, node);
        let maker = self.pick(&[Maker::Nobody, Maker::Killed]);
        if let Some(namespace) = state.namespaces.get_mut(node) {
            *namespace = Namespace { maker, ..newborn(namespace) };
        }
    }

    pub fn whole(&mut self) -> BTreeMap<Setting, i32> {
        let all = state::WHOLE_NAMESPACE.into_iter().chain([Setting::Forwarding6]);
        all.map(|setting| (setting, self.below(if setting == Setting::RpFilter { 3 } else { 2 }) as i32)).collect()
    }

    /// What a topology wants, after all that may happen to it.
    pub fn seen(&mut self, topology: &Topology) -> State {
        let mut state = self.bare(topology);
        let wanted = super::up(topology, &state);
        for (node, namespace) in &mut state.namespaces {
            if namespace.maker != Maker::Others && wanted.namespaces[node].maker == Maker::Wire {
                namespace.maker = Maker::Wire;
            }
            let asked = &wanted.namespaces[node];
            (namespace.ends, namespace.table) = (asked.ends.clone(), asked.table.clone());
            namespace.tunnels = asked.tunnels.clone();
            namespace.tunnels.values_mut().for_each(nameless);
            if !node.is_host() && self.chance(2) {
                namespace.remembered = std::mem::replace(&mut namespace.settings, self.whole());
                namespace.remembered.retain(|setting, before| asked.settings.get(setting) != Some(before));
            }
            for (place, value) in asked.others.iter().filter(|_| !self.chance(4)) {
                let before = namespace.others.insert(place.clone(), *value);
                namespace.others_remembered.extend(before.filter(|now| now != value).map(|now| (place.clone(), now)));
            }
        }
        for _ in 0..self.below(16) {
            self.damage(&wanted, &mut state);
        }
        for _ in 0..self.below(8) {
            self.damage_tunnel(&mut state);
        }
        for namespace in state.namespaces.values_mut() {
            if self.chance(8) {
                namespace.table = None;
            }
            if let Some(table) = &mut namespace.table {
                for _ in 0..self.below(4) {
                    self.damage_rules(Arc::make_mut(table));
                }
            }
        }
        for _ in 0..self.below(4).saturating_sub(1) {
            self.stop(&mut state);
        }
        let made = state.namespaces.iter().filter(|(_, namespace)| namespace.maker != Maker::Others);
        for (node, maker) in made.map(|(node, namespace)| (node.clone(), namespace.maker)).collect::<Vec<_>>() {
            if !maker.has_made() || self.chance(4) {
                self.unmake(&mut state, &node);
            }
        }
        lawful(&mut state);
        state
    }

    fn some_end(&mut self, state: &State) -> Option<At> {
        let ends =
            state.namespaces.iter().flat_map(|(node, here)| here.ends.keys().map(|wire| (node.clone(), wire.clone())));
        let ends: Vec<At> = ends.collect();
        (!ends.is_empty()).then(|| self.pick(&ends))
    }

    /// A name that nobody has in a namespace: most like one that somebody should have.
    fn free_name(&mut self, wanted: &Namespace, here: &Namespace) -> Option<Device> {
        let ends = wanted.ends.iter().flat_map(|(wire, end)| [Some(end.device.clone()), Device::new(wire.as_str())]);
        let odd = ["eth0", "odd", "wire+0", "wire+1"].map(Device::new);
        let names: Vec<Device> = ends.chain(odd).flatten().collect();
        let name = self.pick(&names);
        let taken = here.ends.values().any(|end| end.device == name)
            || here.strays.contains(&name)
            || here.foreign.has_device(name.as_str());
        (!taken).then_some(name)
    }

    fn damage(&mut self, wanted: &State, state: &mut State) {
        let Some((node, wire)) = self.some_end(state) else { return };
        let nodes: Vec<Name> = state.namespaces.keys().cloned().collect();
        let elsewhere = self.pick(&nodes);
        let kind = self.below(28);
        if kind < 5 {
            return self.damage_pair(kind, wanted, state, (node, wire), elsewhere);
        }
        let asked = &wanted.namespaces[&node];
        let name = self.free_name(asked, &state.namespaces[&node]);
        let here = state.namespaces.get_mut(&node).unwrap();
        if kind < 13 {
            return self.damage_namespace(kind, here, wire, name);
        }
        let end = here.ends.get_mut(&wire).unwrap();
        match kind {
            13 => end.device = name.unwrap_or(end.device.clone()),
            14 => end.altname = !end.altname,
            15 => end.marks.group = false,
            16 => (end.marks.alias, end.marks.mac) = (self.chance(2), [2, 0, 0, 0, 0, self.below(9) as u8]),
            17 => end.mtu = self.pick(&[1000, 1200, 1400, 1500]),
            18 => end.up = false,
            19 => (end.arp, end.enslaved) = (self.chance(2), self.chance(2)),
            20 => end.addresses.clear(),
            21 => {
                // The other address of its subnet, as when the file has its ends the other way round.
                let other = |own: &IpNetwork| {
                    let ip = own.iter().find(|ip| *ip != own.ip() && *ip != own.network()).unwrap_or(own.network());
                    IpNetwork::new(ip, own.prefix()).unwrap()
                };
                end.addresses = end.addresses.iter().map(other).collect();
            }
            22 => drop(end.addresses.insert(network(self.pick(&["10.9.9.1/31", "fd09::1/127"])))),
            23 => end.routes.clear(),
            24 => {
                let to = network(self.pick(&["0.0.0.0/0", "10.100.0.0/24", "10.88.0.0/16", "::/0"]));
                let via = if to.is_ipv4() { "10.9.9.0" } else { "fd09::" };
                end.routes.insert(Route { to, via: via.parse().ok(), from: None });
            }
            25 => {
                // Somebody has switched IPv6 on.
                end.settings.extend(state::WITH_IPV6);
                end.addresses.insert(network("fd09::1/127"));
                end.routes.insert(Route { to: network("fd99::/64"), via: "fd09::".parse().ok(), from: None });
            }
            _ => {
                let settings: Vec<Setting> = end.settings.keys().copied().collect();
                let setting = self.pick(&settings);
                end.settings.insert(setting, self.below(3) as i32 % if setting.is_ipv6() { 2 } else { 3 });
            }
        }
    }

    fn damage_tunnel(&mut self, state: &mut State) {
        let kind = self.below(18);
        if let Some(keys) = state.keys.get_mut("vpn") {
            let names: Vec<Name> = keys.preshared.keys().cloned().collect();
            match kind {
                0 => keys.private = Ok(None),
                1 => keys.private = Err(Error::failed("others can read it")),
                2 if !names.is_empty() => {
                    keys.preshared.insert(self.pick(&names), Err(Error::failed("others can read it")));
                }
                _ => {}
            }
        }
        let device = Device::new(self.pick(&["wg0", "wg0", "wg0", "wg7"])).unwrap();
        let other = self.pick(&["struck-node", "vpn"]);
        let Some(here) = state.namespaces.get_mut(other).filter(|here| here.maker.has_made()) else { return };
        let taken = here.foreign.has_device(device.as_str()) || here.ends.values().any(|end| end.device == device);
        match kind {
            3 if !taken => {
                // What another file had made.
                let mut tunnel = born(if self.chance(2) { Kind::User } else { Kind::Kernel(Default::default()) });
                tunnel.marked = self.chance(2);
                here.tunnels.insert(device.clone(), tunnel);
            }
            4 if other == "vpn" && !taken && !here.tunnels.contains_key(&device) => {
                here.foreign.devices.push(vec![device.to_string()]);
            }
            _ => {}
        }
        let Some(tunnel) = here.tunnels.get_mut(&device) else { return };
        match kind {
            5 => drop(here.tunnels.remove(&device)),
            6 => tunnel.marked = false,
            7 => tunnel.mtu = 1280,
            8 => (tunnel.up, tunnel.routes) = (false, BTreeSet::new()),
            9 => (tunnel.addresses, tunnel.routes) = (BTreeSet::new(), BTreeSet::new()),
            10 => drop(tunnel.addresses.insert(network("10.9.9.1/24"))),
            11 => tunnel.routes.clear(),
            12 => tunnel.foreign.push(network("10.66.0.0/16")),
            13 => {
                let settings: Vec<Setting> = tunnel.settings.keys().copied().collect();
                if !settings.is_empty() {
                    tunnel.settings.insert(self.pick(&settings), self.below(2) as i32);
                }
            }
            _ => {
                let Kind::Kernel(wireguard) = &mut tunnel.kind else { return };
                let key = public(self.below(8));
                let address = [network(&format!("10.100.0.{}/32", 2 + self.below(4)))];
                match kind {
                    14 => wireguard.private = self.chance(2).then(|| Secret("another".to_owned())),
                    15 => wireguard.listen = 9,
                    16 => drop(wireguard.peers.remove(&key)),
                    _ => {
                        let preshared = self.chance(2).then(|| Secret("another".to_owned()));
                        wireguard.peers.values_mut().for_each(|peer| peer.allowed.retain(|own| !address.contains(own)));
                        let allowed = address.into_iter().filter(|_| !self.chance(4)).collect();
                        wireguard.peers.insert(key, Peer { name: None, preshared, allowed, heard: Default::default() });
                    }
                }
            }
        }
    }

    fn damage_pair(&mut self, kind: usize, wanted: &State, state: &mut State, (node, wire): At, elsewhere: Name) {
        let part = |state: &mut State, node: &Name| {
            for namespace in state.namespaces.values_mut() {
                if let Some(end) = namespace.ends.get_mut(&wire).filter(|end| end.far.as_ref() == Some(node)) {
                    end.far = None;
                }
            }
        };
        let mut end = state.namespaces[&node].ends[&wire].clone();
        let there = &state.namespaces[&elsewhere];
        let name = self.free_name(&wanted.namespaces[&elsewhere], there);
        match kind {
            0 => {
                state.namespaces.get_mut(&node).unwrap().ends.remove(&wire);
                part(state, &node);
            }
            1 => {
                state.namespaces.get_mut(&node).unwrap().ends.get_mut(&wire).unwrap().far = None;
                part(state, &node);
            }
            2 if !there.ends.contains_key(&wire) => {
                let Some(name) = name else { return };
                end.device = name;
                for namespace in state.namespaces.values_mut() {
                    if let Some(far) = namespace.ends.get_mut(&wire).filter(|far| far.far.as_ref() == Some(&node)) {
                        far.far = Some(elsewhere.clone());
                    }
                }
                state.namespaces.get_mut(&node).unwrap().ends.remove(&wire);
                state.namespaces.get_mut(&elsewhere).unwrap().ends.insert(wire.clone(), end);
            }
            3 => {
                // A pair that the file has struck.
                let struck = self::name(self.pick(&["struck", "struck-too"]));
                let known = |node: &Name| state.namespaces[node].ends.contains_key(&struck);
                if node == elsewhere || nodes_with(state, &struck) > 0 || known(&node) {
                    return;
                }
                let Some(there) = name else { return };
                let Some(here) = self.free_name(&wanted.namespaces[&node], &state.namespaces[&node]) else { return };
                for (at, far, device) in [(&node, &elsewhere, here), (&elsewhere, &node, there)] {
                    let far = Some(far.clone());
                    let end = End { device, far, ..end.clone() };
                    state.namespaces.get_mut(at).unwrap().ends.insert(struck.clone(), end);
                }
            }
            _ => {
                // Two devices have each other's name.
                let here = state.namespaces.get_mut(&node).unwrap();
                let others: Vec<Name> = here.ends.keys().cloned().collect();
                let other = self.pick(&others);
                let theirs = here.ends[&other].device.clone();
                let ours = std::mem::replace(&mut here.ends.get_mut(&wire).unwrap().device, theirs);
                if other != wire {
                    here.ends.get_mut(&other).unwrap().device = ours;
                }
            }
        }
    }

    fn damage_namespace(&mut self, kind: usize, here: &mut Namespace, wire: Name, name: Option<Device>) {
        let foreign = &mut here.foreign;
        let subnet = here.ends[&wire].addresses.first().copied();
        match (kind, name) {
            (5 | 6, Some(name)) => here.strays.push(name),
            (7, Some(name)) => {
                let end = here.ends.get_mut(&wire).unwrap();
                foreign.devices.push(vec![std::mem::replace(&mut end.device, name).to_string()]);
            }
            (8, Some(name)) => foreign.devices.push(vec!["podman1".to_owned(), name.to_string()]),
            (7 | 8, _) if !foreign.has_device("podman0") => foreign.devices.push(vec!["podman0".to_owned()]),
            (9, _) => {
                let known = ["0.0.0.0/0", "10.100.0.0/24", "192.0.2.0/24", "::/0"].map(network);
                let network = if self.chance(3) { subnet.unwrap_or(known[2]) } else { self.pick(&known) };
                let network = IpNetwork::new(network.network(), network.prefix()).unwrap();
                foreign.networks.push((network, "podman0".to_owned()));
            }
            (10, _) => foreign.addresses.push((wire, network("10.77.0.1/24"))),
            (11 | 12, _) => {
                foreign.routes.push((wire, network(self.pick(&["0.0.0.0/0", "10.100.0.0/24", "10.66.0.0/16"]))));
            }
            _ => {}
        }
    }

    /// Somebody has changed the rules.
    fn damage_rules(&mut self, table: &mut Table) {
        let names = |table: &Table| table.chains.keys().cloned().collect::<Vec<Text>>();
        let (one, other) = (self.pick(&names(table)), self.pick(&names(table)));
        let somewhere = |dice: &mut Dice, rules: &[Rule]| dice.below(rules.len() + 1);
        let foreign = table.chains[&other].rules.first().cloned().unwrap_or_default();
        let chain = table.chains.get_mut(&one).unwrap();
        match self.below(16) {
            0 => drop(chain.rules.pop()),
            1 if !chain.rules.is_empty() => drop(chain.rules.remove(self.below(chain.rules.len()))),
            2 => chain.rules.insert(somewhere(self, &chain.rules), foreign),
            3 => chain.rules.insert(somewhere(self, &chain.rules), Rule::new().accept()),
            4 => chain.rules.reverse(),
            5 => chain.rules.clear(),
            6 => {
                for rule in &mut chain.rules {
                    let last = rule.expressions.last_mut().filter(|last| matches!(last, Expression::Verdict(_)));
                    last.into_iter().for_each(|last| *last = Expression::Verdict(Verdict::Accept));
                }
            }
            7 => chain.rules.iter_mut().for_each(|rule| rule.comment = Some("other words".into())),
            8 => match &mut chain.base {
                Some(base) => (base.drop, base.priority) = (!base.drop, self.below(2) as i32),
                None => drop(table.chains.remove(&one)),
            },
            9 => drop(table.chains.insert("somebody's".into(), Chain::of([Rule::new().jump(&one)]))),
            10 => drop(table.chains.remove(&one)),
            11 => table.dormant = true,
            12 => drop(table.foreign.insert(Foreign::FlowTable("fast".into()))),
            13 => match table.counters.keys().next().cloned() {
                Some(name) if self.chance(2) => drop(table.counters.remove(&name)),
                name => drop(table.counters.insert(name.unwrap_or("mine".into()), self.below(1000) as u64)),
            },
            _ => self.damage_sets(table),
        }
    }

    fn damage_sets(&mut self, table: &mut Table) {
        let names: Vec<Text> = table.sets.keys().cloned().collect();
        if names.is_empty() || self.chance(8) {
            table.sets.insert("mine".into(), Set { key: vec![Type::Service], ..Set::default() });
            return;
        }
        let name = self.pick(&names);
        let set = table.sets.get_mut(&name).unwrap();
        let keys: Vec<Key> = set.elements.keys().cloned().collect();
        let leads_to = set.leads_to.map(|_| Target::Verdict(Verdict::Accept));
        match self.below(6) {
            0 if !keys.is_empty() => drop(set.elements.remove(&self.pick(&keys))),
            1 if !keys.is_empty() => {
                drop(set.elements.insert(self.pick(&keys), Element { leads_to, expires: Some(9) }))
            }
            2 => {
                let key = Key::One(Value::device(self.pick(&["eth7", "odd"])));
                set.elements.insert(key, Element { leads_to, expires: None });
            }
            3 => set.size += 1,
            4 => drop(table.sets.remove(&name)),
            _ => set.elements.clear(),
        }
    }

    /// A node stops; the far ends of its wires mostly go with it.
    fn stop(&mut self, state: &mut State) {
        let nodes: Vec<Name> = state.namespaces.keys().filter(|node| !node.is_host()).cloned().collect();
        let node = self.pick(&nodes);
        state.namespaces.remove(&node);
        self.leave(state, &node);
        let list = if self.chance(3) { &mut state.refused } else { &mut state.waiting };
        list.insert(node, "does something else".to_owned());
    }
}

impl Dice {
    fn leave(&mut self, state: &mut State, node: &Name) {
        for namespace in state.namespaces.values_mut() {
            namespace.ends.retain(|_, end| end.far.as_ref() != Some(node) || self.chance(4));
            for end in namespace.ends.values_mut().filter(|end| end.far.as_ref() == Some(node)) {
                end.far = None;
            }
        }
    }
}

/// The key of one of a few peers.
fn public(n: usize) -> String {
    let digit = b"ABCDEFGHIJ"[n] as char;
    format!("{}=", digit.to_string().repeat(42) + "A")
}

/// What the files that a topology names hold.
pub fn keys(topology: &Topology) -> BTreeMap<Name, Keys> {
    let hubs = topology.hubs.values().filter_map(|hub| Some((hub.name.clone(), hub.wireguard.as_ref()?)));
    let hubs = hubs.map(|(name, own)| {
        let named = own.peers.iter().filter_map(|peer| Some((peer.name.clone(), peer.preshared_key.clone()?)));
        let preshared = named.map(|(peer, path)| (peer, Ok(Secret(path)))).collect();
        let path = own.private_key.clone();
        (name, Keys { private: Ok(Some(Secret(path.clone()))), path, preshared })
    });
    hubs.collect()
}

/// The kernel knows keys alone.
pub fn nameless(tunnel: &mut Tunnel) {
    if let Kind::Kernel(wireguard) = &mut tunnel.kind {
        wireguard.peers.values_mut().for_each(|peer| peer.name = None);
    }
}

fn born(kind: Kind) -> Tunnel {
    Tunnel {
        kind,
        marked: true,
        mtu: 1420,
        up: false,
        addresses: BTreeSet::new(),
        routes: BTreeSet::new(),
        settings: BTreeMap::new(),
        traffic: Default::default(),
        foreign: Vec::new(),
    }
}

fn nodes_with(state: &State, wire: &Name) -> usize {
    state.namespaces.values().filter(|namespace| namespace.ends.contains_key(wire)).count()
}

/// Takes away what no kernel could show.
fn lawful(state: &mut State) {
    for namespace in state.namespaces.values_mut() {
        let Namespace { ends, strays, foreign, others, tunnels, .. } = namespace;
        let devices = ends.values().map(|end| end.device.to_string()).chain(strays.iter().map(Device::to_string));
        let devices = devices.chain(tunnels.keys().map(Device::to_string));
        let names: BTreeSet<String> = devices.chain(foreign.devices.iter().flatten().cloned()).collect();
        foreign.addresses.retain(|(wire, _)| ends.contains_key(wire));
        foreign.addresses.sort();
        foreign.addresses.dedup();
        let addressed = |end: &End| end.addresses.iter().any(IpNetwork::is_ipv4);
        let mut led: BTreeSet<IpNetwork> = foreign.networks.iter().map(|(network, _)| *network).collect();
        foreign
            .routes
            .retain(|(wire, to)| ends.get(wire).is_some_and(|end| end.up && addressed(end)) && led.insert(*to));
        for (wire, end) in ends.iter_mut() {
            end.altname &= !names.contains(wire.as_str());
            if end.mtu < 1280 {
                end.settings.retain(|setting, _| !setting.is_ipv6());
                end.settings.insert(Setting::DisableIpv6, 1);
            } else if others.contains_key(&(Device::new("all").unwrap(), Setting::ForceForwarding6)) {
                end.settings.entry(Setting::ForceForwarding6).or_insert(0);
            }
            let ipv6 = end.settings.get(&Setting::DisableIpv6) == Some(&0);
            end.addresses.retain(|address| address.is_ipv4() || ipv6 && end.up);
            let mut subnets = BTreeSet::new();
            end.addresses.retain(|address| subnets.insert((address.network(), address.prefix())));
            let ipv4 = addressed(end);
            end.routes.retain(|route| end.up && if route.to.is_ipv4() { ipv4 } else { ipv6 } && led.insert(route.to));
        }
    }
}
