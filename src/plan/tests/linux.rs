//! What Linux does with each action, as `kernel/mod.rs` asks for it, and what it refuses. Every fact was seen on a real kernel.

use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::hub::orders::Secret;
use crate::nft::Table;
use crate::plan::tunnel::Step;
use crate::plan::{Action, Change};
use crate::state::tunnel::{Heard, Kind, Peer, Tunnel};
use crate::state::{End, Maker, Namespace, Route, Setting, State};
use crate::topology::{Device, Name};

type Done = Result<(), String>;

fn must(holds: bool, otherwise: impl Into<String>) -> Done {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

/// The cookie of a namespace that was made.
const MADE: u64 = 11;

/// A namespace that is not there, as it will be born.
pub fn newborn(like: &Namespace) -> Namespace {
    let settings = like.settings.keys().map(|setting| (*setting, 0)).collect();
    let others = like.others.keys().filter(|(device, _)| ["all", "default"].contains(&device.as_str()));
    let others = others.map(|place| (place.clone(), 0)).collect();
    Namespace { maker: Maker::Nobody, settings, others, ..Namespace::default() }
}

/// Carries out one change of the plan that was made for `seen`, or says why Linux would not.
pub fn play(state: &mut State, change: &Change, seen: &State) -> Done {
    let Change { node, wire, action, .. } = change;
    match (action, wire) {
        (Action::Remove { device }, wire) => return remove(state, node, wire.as_ref(), device),
        (Action::Create(ends), Some(wire)) => {
            return ends.iter().try_for_each(|(node, end)| create(state.namespaces.get_mut(node), wire, end));
        }
        (Action::Make, _) => {
            let namespace = state.namespaces.get_mut(node).ok_or("nobody misses it")?;
            must(!namespace.maker.has_made(), "EEXIST: it is there")?;
            (namespace.maker, namespace.cookie) = (Maker::Wire, MADE);
            return Ok(());
        }
        (Action::Unmake, _) => {
            let namespace = state.namespaces.get_mut(node).ok_or("no such namespace")?;
            must(matches!(namespace.maker, Maker::Wire | Maker::Killed), "it is not wire's")?;
            must(namespace.inhabitant.is_none(), "somebody lives in it")?;
            must(namespace.ends.is_empty() && namespace.table.is_none(), "cables and rules go before it")?;
            must(namespace.tunnels.is_empty(), "tunnels go before it")?;
            *namespace = newborn(namespace);
            return Ok(());
        }
        (Action::MakeKey(_), _) => {
            let keys = state.keys.get_mut(node).ok_or("nobody has a key there")?;
            must(keys.private == Ok(None), "EEXIST")?;
            keys.private = Ok(Some(Secret("made".to_owned())));
            return Ok(());
        }
        _ => {}
    }
    let made = state.keys.get(node).and_then(|keys| keys.private.clone().ok()?);
    let namespace = state.namespaces.get_mut(node).ok_or("no such namespace")?;
    must(namespace.maker.has_made(), "ENOENT: there is no namespace")?;
    let before = seen.namespaces.get(node).ok_or("nobody has seen it")?;
    match action {
        Action::SetAll(setting, value) => {
            set_all(namespace, *setting, *value, before.settings[setting]);
            return Ok(());
        }
        Action::SetOther(device, setting, value) => {
            return set_other(namespace, &(device.clone(), *setting), *value, before);
        }
        Action::Load(load) => {
            namespace.table = Some(Arc::new(loaded(&load.table, namespace.table.as_deref())));
            return Ok(());
        }
        Action::Tunnel(device, step) => return tunnel(namespace, device, step, made.as_ref()),
        Action::Unload => {
            must(namespace.ends.is_empty() && namespace.strays.is_empty(), "cables go before rules")?;
            must(namespace.tunnels.is_empty(), "tunnels go before rules")?;
            return must(namespace.table.take().is_some(), "ENOENT: there are no rules");
        }
        _ => {}
    }
    let wire = wire.as_ref().ok_or("no wire is named")?;
    match action {
        Action::Rename { to, .. } => free(namespace, to.as_str())?,
        Action::Altname => free(namespace, wire.as_str())?,
        Action::Up => must(namespace.table.is_some(), "rules come before cables")?,
        Action::Set(setting, 1) if forwards(*setting) => {
            must(namespace.table.is_some(), "rules come before forwarding")?;
            must(*setting == Setting::Forwarding || knows_force_forwarding(namespace), "ENOENT")?;
        }
        Action::AddRoute(route) => {
            must(!leads(namespace, &route.to), "takes the place of a foreign route")?;
            // NLM_F_REPLACE: a route to the same destination goes, whichever device it is over.
            for (_, end) in namespace.ends.iter_mut().filter(|(other, _)| *other != wire) {
                end.routes.retain(|known| known.to != route.to);
            }
        }
        _ => {}
    }
    let (foreign, forced) = (&mut namespace.foreign, namespace.others.get(&all(Setting::ForceForwarding6)).copied());
    let end = namespace.ends.get_mut(wire).ok_or("no such end")?;
    match action {
        Action::RemoveRoute(route) => must(end.routes.remove(route), "ESRCH")?,
        Action::RemoveAddress(address) => {
            must(end.addresses.remove(address), "EADDRNOTAVAIL")?;
            let here = foreign.addresses.iter().filter(|(on, _)| on == wire).map(|(_, address)| address);
            if !end.addresses.iter().chain(here).any(IpNetwork::is_ipv4) {
                end.routes.retain(|route| route.to.is_ipv6());
                foreign.routes.retain(|(on, to)| on != wire || to.is_ipv6());
            }
        }
        Action::Unname => must(std::mem::take(&mut end.altname), "there is no such altname")?,
        Action::Rename { from, to } => {
            must(end.device == *from, "the plan knows it by another name")?;
            end.device = to.clone();
        }
        Action::Mark(mac) => (end.marks.group, end.marks.alias, end.marks.mac) = (true, true, *mac),
        Action::Altname => end.altname = true,
        Action::Release => end.enslaved = false,
        Action::Arp => end.arp = true,
        Action::Mtu(mtu) => {
            let before = std::mem::replace(&mut end.mtu, *mtu);
            if *mtu < 1280 {
                without_ipv6(end);
                end.settings.retain(|setting, _| !setting.is_ipv6());
                end.settings.insert(Setting::DisableIpv6, 1);
            } else if before < 1280 {
                // As `conf/default` has it; here as bad as can be.
                end.settings.extend(crate::state::WITH_IPV6.map(|(setting, value)| (setting, 1 - value)));
                end.settings.insert(Setting::DisableIpv6, 0);
                end.settings.extend(forced.map(|_| (Setting::ForceForwarding6, 1)));
            }
        }
        Action::Set(setting, value) if setting.is_ipv6() && end.mtu < 1280 => {
            must((*setting, *value) == (Setting::DisableIpv6, 1), "ENOENT")?;
        }
        Action::Set(setting, value) => {
            end.settings.insert(*setting, *value);
            if (*setting, *value) == (Setting::DisableIpv6, 1) {
                without_ipv6(end);
            }
        }
        Action::AddAddress(address) => add_address(end, address)?,
        Action::Up => {
            must(!std::mem::replace(&mut end.up, true), "it is up already")?;
            let own: Vec<Route> = end.addresses.iter().map(subnet).collect();
            end.routes.extend(own);
        }
        Action::AddRoute(route) => add_route(end, route)?,
        Action::Make
        | Action::MakeKey(_)
        | Action::Tunnel(..)
        | Action::Unmake
        | Action::Remove { .. }
        | Action::Create(_)
        | Action::SetAll(..)
        | Action::SetOther(..)
        | Action::Load(_)
        | Action::Unload => return Err("no wire is named".to_owned()),
    }
    Ok(())
}

/// A device goes with the far end of its pair, and with what others have put on it. One that has gone already is no fault.
fn remove(state: &mut State, node: &Name, wire: Option<&Name>, device: &Device) -> Done {
    let namespace = state.namespaces.get_mut(node).ok_or("no such namespace")?;
    let Some(wire) = wire else {
        namespace.strays.retain(|stray| stray != device);
        namespace.tunnels.remove(device);
        return Ok(());
    };
    let far = namespace.ends.get(wire).and_then(|end| end.far.clone());
    for place in [Some(node), far.as_ref()].into_iter().flatten() {
        let namespace = state.namespaces.get_mut(place).ok_or("its far end is nowhere")?;
        namespace.ends.remove(wire);
        namespace.foreign.addresses.retain(|(on, _)| on != wire);
        namespace.foreign.routes.retain(|(on, _)| on != wire);
    }
    Ok(())
}

/// A tunnel, whose peers are each other's business only where one takes another's address.
fn tunnel(namespace: &mut Namespace, device: &Device, step: &Step, made: Option<&Secret>) -> Done {
    if let Step::Create(wanted) = step {
        must(namespace.table.is_some(), "rules come before cables")?;
        free(namespace, device.as_str())?;
        let mut tunnel = Tunnel { traffic: Default::default(), foreign: Vec::new(), ..wanted.as_ref().clone() };
        if let Kind::Kernel(wireguard) = &mut tunnel.kind {
            must(wireguard.peers.is_empty(), "peers come one by one")?;
            wireguard.private = wireguard.private.take().or(made.cloned());
        }
        namespace.tunnels.insert(device.clone(), tunnel);
        return Ok(());
    }
    let policed = namespace.table.is_some();
    let tunnel = namespace.tunnels.get_mut(device).ok_or("ENODEV")?;
    let subnet = |address: &IpNetwork| subnet(address);
    match (step, &mut tunnel.kind) {
        (Step::Create(_), _) => {}
        (Step::Mark, _) => tunnel.marked = true,
        (Step::Mtu(mtu), _) => tunnel.mtu = *mtu,
        (Step::Set(setting, value), _) => {
            must(policed || !forwards(*setting) || *value == 0, "rules come before forwarding")?;
            tunnel.settings.insert(*setting, *value);
        }
        (Step::RemoveAddress(address), _) => {
            must(tunnel.addresses.remove(address), "EADDRNOTAVAIL")?;
            tunnel.routes.retain(|route| *route != subnet(address));
        }
        (Step::AddAddress(address), _) => {
            must(tunnel.addresses.insert(*address), "EEXIST")?;
            tunnel.routes.extend(tunnel.up.then(|| subnet(address)));
        }
        (Step::Up, _) => {
            must(policed, "rules come before cables")?;
            must(!std::mem::replace(&mut tunnel.up, true), "it is up already")?;
            tunnel.routes.extend(tunnel.addresses.iter().map(subnet));
        }
        (Step::AddRoute(route), _) => {
            must(tunnel.up, "ENETDOWN")?;
            must(tunnel.routes.insert(*route), "the route is there")?;
        }
        (_, Kind::User) => return Err("the kernel knows nothing of it".to_owned()),
        (Step::Key(key), Kind::Kernel(wireguard)) => {
            wireguard.private = Some(key.as_ref().or(made).ok_or("there is no key")?.clone());
        }
        (Step::Listen(port), Kind::Kernel(wireguard)) => wireguard.listen = *port,
        (Step::RemovePeer(peer), Kind::Kernel(wireguard)) => {
            must(wireguard.peers.remove(&peer.key).is_some(), "no such peer")?;
        }
        (Step::SetPeer(change), Kind::Kernel(wireguard)) => {
            let known = wireguard.peers.contains_key(&change.peer.key);
            must(known != change.is_new, "it is there, or it is not")?;
            for (_, other) in wireguard.peers.iter_mut().filter(|(key, _)| **key != change.peer.key) {
                other.allowed.retain(|network| !change.allowed.iter().flatten().any(|taken| taken == network));
            }
            let bare = Peer { name: None, preshared: None, allowed: [].into(), heard: Heard::default() };
            let peer = wireguard.peers.entry(change.peer.key.clone()).or_insert(bare);
            peer.allowed = change.allowed.clone().unwrap_or(std::mem::take(&mut peer.allowed));
            peer.preshared = change.preshared.clone().unwrap_or(peer.preshared.take());
        }
    }
    Ok(())
}

/// One end of a pair: born down and bare, then given what it is to have.
fn create(namespace: Option<&mut Namespace>, wire: &Name, wanted: &End) -> Done {
    let namespace = namespace.ok_or("its node does not run")?;
    must(namespace.maker.has_made(), "ENOENT: there is no namespace")?;
    must(namespace.table.is_some(), "rules come before cables")?;
    must(!namespace.ends.contains_key(wire), "an end of that wire is there")?;
    let forced = wanted.settings.contains_key(&Setting::ForceForwarding6);
    must(!forced || knows_force_forwarding(namespace), "ENOENT")?;
    free(namespace, wanted.device.as_str())?;
    if wanted.altname {
        must(wanted.device.as_str() != wire.as_str(), "EEXIST: it is its own name")?;
        free(namespace, wire.as_str())?;
    }
    let mut end = End { addresses: [].into(), routes: [].into(), ..wanted.clone() };
    for address in &wanted.addresses {
        add_address(&mut end, address)?;
    }
    for route in wanted.routes.iter().filter(|route| route.via.is_some()) {
        let known = namespace.ends.values().any(|end| end.routes.iter().any(|known| known.to == route.to));
        must(!known && !leads(namespace, &route.to), "EEXIST: there is a route to there")?;
        add_route(&mut end, route)?;
    }
    namespace.ends.insert(wire.clone(), end);
    Ok(())
}

/// A device name and an altname are of one kind: neither may be another's.
fn free(namespace: &Namespace, name: &str) -> Done {
    let taken = |(wire, end): (&Name, &End)| end.device.as_str() == name || end.altname && wire.as_str() == name;
    let strays = namespace.strays.iter().any(|stray| stray.as_str() == name);
    let tunnels = namespace.tunnels.keys().any(|device| device.as_str() == name);
    let known = namespace.ends.iter().any(taken) || strays || tunnels || namespace.foreign.has_device(name);
    must(!known, format!("EEXIST: `{name}`"))
}

/// Whether something foreign has a route to there.
fn leads(namespace: &Namespace, to: &IpNetwork) -> bool {
    let mut networks = namespace.foreign.networks.iter().map(|(network, _)| network);
    let mut routes = namespace.foreign.routes.iter().map(|(_, to)| to);
    networks.any(|network| network == to) || routes.any(|route| route == to)
}

fn with_ipv6(end: &End) -> bool {
    end.settings.get(&Setting::DisableIpv6) == Some(&0)
}

fn without_ipv6(end: &mut End) {
    end.addresses.retain(IpNetwork::is_ipv4);
    end.routes.retain(|route| route.to.is_ipv4());
}

fn add_address(end: &mut End, address: &IpNetwork) -> Done {
    must(address.is_ipv4() || with_ipv6(end), "EACCES: IPv6 is off")?;
    let secondary = |known: &IpNetwork| known.network() == address.network() && known.prefix() == address.prefix();
    must(!end.addresses.contains(address), "EEXIST: the address is there")?;
    must(address.is_ipv6() || !end.addresses.iter().any(secondary), "it would go with another of the same subnet")?;
    end.addresses.insert(*address);
    if end.up {
        end.routes.insert(subnet(address));
    }
    Ok(())
}

/// The route that comes with an address.
fn subnet(address: &IpNetwork) -> Route {
    let to = IpNetwork::new(address.network(), address.prefix()).unwrap();
    Route { to, via: None, from: Some(address.ip()).filter(|_| address.is_ipv4()) }
}

fn add_route(end: &mut End, route: &Route) -> Done {
    must(end.up, "ENETDOWN")?;
    must(route.to.is_ipv4() || with_ipv6(end), "ENODEV: IPv6 is off")?;
    let reached = |own: &IpNetwork| route.via.map_or(subnet(own) == *route, |via| own.contains(via));
    must(end.addresses.iter().any(reached), "ENETUNREACH")?;
    must(end.routes.insert(*route), "the route is there")
}

fn all(setting: Setting) -> (Device, Setting) {
    (Device::new("all").unwrap(), setting)
}

fn forwards(setting: Setting) -> bool {
    matches!(setting, Setting::Forwarding | Setting::ForceForwarding6)
}

/// Since 6.17.
fn knows_force_forwarding(namespace: &Namespace) -> bool {
    namespace.others.contains_key(&all(Setting::ForceForwarding6))
}

/// The rules are what was asked for, and what they have counted and learnt stays.
fn loaded(wanted: &Table, before: Option<&Table>) -> Table {
    let mut table = wanted.clone();
    for (name, count) in &mut table.counters {
        *count = before.and_then(|before| before.counters.get(name)).copied().unwrap_or(*count);
    }
    for (name, set) in table.sets.iter_mut().filter(|(_, set)| set.dynamic) {
        let before = before.and_then(|before| before.sets.get(name)).filter(|before| before.dynamic);
        set.elements = before.map(|before| before.elements.clone()).unwrap_or_default();
    }
    table
}

/// Remembers what it was when the namespace was looked at, but for what becomes so again.
fn set_all(namespace: &mut Namespace, setting: Setting, value: i32, before: i32) {
    namespace.remembered.entry(setting).or_insert(before);
    let back = namespace.remembered.get(&setting) == Some(&value);
    if back {
        namespace.remembered.remove(&setting);
    }
    let changes = namespace.settings.insert(setting, value) != Some(value);
    // inet_forward_change (net/ipv4/devinet.c), addrconf_forward_change (net/ipv6/addrconf.c).
    if changes && setting == Setting::Forwarding {
        namespace.settings.insert(Setting::AcceptRedirects, i32::from(value == 0));
    }
    if changes && matches!(setting, Setting::Forwarding | Setting::Forwarding6) {
        for end in namespace.ends.values_mut() {
            end.settings.entry(setting).and_modify(|own| *own = value);
        }
        let Namespace { others, others_remembered, .. } = namespace;
        for (place, now) in others.iter_mut().filter(|((device, own), _)| *own == setting && device.as_str() != "all") {
            if *now == 0 && value == 0 {
                others_remembered.entry(place.clone()).or_insert(0);
            }
            *now = if back && others_remembered.contains_key(place) { 0 } else { value };
        }
        if back {
            others_remembered.retain(|(_, own), _| *own != setting);
        }
    }
}

/// The same for a device that is no wire's.
fn set_other(namespace: &mut Namespace, place: &(Device, Setting), value: i32, seen: &Namespace) -> Done {
    must(namespace.others.contains_key(place), "ENOENT: no such device")?;
    must(value == 0 || namespace.table.is_some(), "rules come before forwarding")?;
    let before = namespace.remembered.get(&place.1).copied().unwrap_or(seen.others[place]);
    if !seen.others_remembered.contains_key(place) && (value, before) == (1, 0) {
        namespace.others_remembered.entry(place.clone()).or_insert(before);
    }
    let goes_along = value == 0 && namespace.remembered.contains_key(&place.1);
    if namespace.others_remembered.get(place) == Some(&value) && !goes_along {
        namespace.others_remembered.remove(place);
    }
    namespace.others.insert(place.clone(), value);
    Ok(())
}
