//! What Linux does with each action, as `kernel/mod.rs` asks for it, and what it refuses. Every fact was seen on a real kernel.

use ipnetwork::IpNetwork;

use crate::plan::{Action, Change};
use crate::state::{End, Namespace, Route, Setting, State};
use crate::topology::{Device, Name};

type Done = Result<(), String>;

fn must(holds: bool, otherwise: impl Into<String>) -> Done {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

/// Carries out one change of the plan that was made for `seen`, or says why Linux would not.
pub fn play(state: &mut State, change: &Change, seen: &State) -> Done {
    let Change { node, wire, action, .. } = change;
    match (action, wire) {
        (Action::Remove { device }, wire) => return remove(state, node, wire.as_ref(), device),
        (Action::Create(ends), Some(wire)) => {
            return ends.iter().try_for_each(|(node, end)| create(state.namespaces.get_mut(node), wire, end));
        }
        _ => {}
    }
    let namespace = state.namespaces.get_mut(node).ok_or("no such namespace")?;
    if let Action::SetAll(setting, value) = action {
        set_all(namespace, *setting, *value, seen.namespaces[node].settings[setting]);
        return Ok(());
    }
    let wire = wire.as_ref().ok_or("no wire is named")?;
    match action {
        Action::Rename { to, .. } => free(namespace, to.as_str())?,
        Action::Altname => free(namespace, wire.as_str())?,
        Action::AddRoute(route) => {
            must(!leads(namespace, &route.to), "takes the place of a foreign route")?;
            // NLM_F_REPLACE: a route to the same destination goes, whichever device it is over.
            for (_, end) in namespace.ends.iter_mut().filter(|(other, _)| *other != wire) {
                end.routes.retain(|known| known.to != route.to);
            }
        }
        _ => {}
    }
    let foreign = &mut namespace.foreign;
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
        Action::Up => must(!std::mem::replace(&mut end.up, true), "it is up already")?,
        Action::AddRoute(route) => add_route(end, route)?,
        Action::Remove { .. } | Action::SetAll(..) | Action::Create(_) => return Err("no wire is named".to_owned()),
    }
    Ok(())
}

/// A device goes with the far end of its pair, and with what others have put on it. One that has gone already is no fault.
fn remove(state: &mut State, node: &Name, wire: Option<&Name>, device: &Device) -> Done {
    let namespace = state.namespaces.get_mut(node).ok_or("no such namespace")?;
    let Some(wire) = wire else {
        namespace.strays.retain(|stray| stray != device);
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

/// One end of a pair: born down and bare, then given what it is to have.
fn create(namespace: Option<&mut Namespace>, wire: &Name, wanted: &End) -> Done {
    let namespace = namespace.ok_or("its node does not run")?;
    must(!namespace.ends.contains_key(wire), "an end of that wire is there")?;
    free(namespace, wanted.device.as_str())?;
    if wanted.altname {
        must(wanted.device.as_str() != wire.as_str(), "EEXIST: it is its own name")?;
        free(namespace, wire.as_str())?;
    }
    let mut end = End { addresses: [].into(), routes: [].into(), ..wanted.clone() };
    for address in &wanted.addresses {
        add_address(&mut end, address)?;
    }
    for route in &wanted.routes {
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
    let known = namespace.ends.iter().any(taken) || strays || namespace.foreign.has_device(name);
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
    Ok(())
}

fn add_route(end: &mut End, route: &Route) -> Done {
    must(end.up, "ENETDOWN")?;
    must(route.to.is_ipv4() || with_ipv6(end), "ENODEV: IPv6 is off")?;
    must(end.addresses.iter().any(|own| own.contains(route.via)), "ENETUNREACH")?;
    must(end.routes.insert(*route), "the route is there")
}

/// Remembers what it was when the namespace was looked at, but for what becomes so again.
fn set_all(namespace: &mut Namespace, setting: Setting, value: i32, before: i32) {
    namespace.remembered.entry(setting).or_insert(before);
    if namespace.remembered.get(&setting) == Some(&value) {
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
    }
}
