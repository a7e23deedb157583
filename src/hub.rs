//! `wire hub`: what a hub serves, worked out of the same graph as the wires, and told to the program that serves it. A backend
//! without a flow cannot be among it: the address of an upstream is the far end of a wire that lets the hub open that port.

use std::fs;
use std::net::IpAddr;

use crate::apply;
use crate::desired;
use crate::error::{Error, Exit};
use crate::kernel::hub::{self as process, Asked};
use crate::kernel::run::Lock;
use crate::near::{nearest, shown};
use crate::rules::Rules;
use crate::sets;
use crate::state::State;
use crate::target::Scope;
use crate::topology::{self, Flow, Hub, Mode, Name, Protocol, Service, Tls, Topology};
use crate::voice::{Voice, count};

pub mod heard;
pub mod orders;

use orders::{Acme, Answer, Ask, Orders, Peer, Proxy, Rate, Redirect, Site, Tunnel, Upstream};

/// Let's Encrypt, where nobody says otherwise.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// What a site lets through that names no methods.
const METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

/// Serves one hub until it is told to end: this process becomes `wire-hub`. Comes back only where it cannot.
pub fn run(voice: &Voice, topology: &Topology, name: &str) -> Result<Exit, Error> {
    let hub = find(topology, name)?;
    let place = process::Place::take(hub.name.as_str())?;
    let lock = apply::lock(voice)?;
    let seen = wired(voice, topology, hub, &lock)?;
    let orders = orders(topology, hub, &seen)?;
    drop(lock);
    voice.say(&format!("hub `{}` serves {}", hub.name, serves(hub)));
    let never = process::run(topology, &hub.name, place, &orders)?;
    match never {}
}

/// The hub of this name, if `wire` runs it.
pub fn find<'t>(topology: &'t Topology, name: &str) -> Result<&'t Hub, Error> {
    let run = topology.hubs.values().filter(|hub| hub.is_run());
    match topology.hubs.get(name) {
        Some(hub) if hub.is_run() => Ok(hub),
        Some(hub) => Err(Error::invalid(format!("hub `{name}` has nothing that wire runs")).hint(format!(
            "give it [hub.{0}.wireguard], or a [[hub.{0}.site]]; forwards are rules that `wire up` sets",
            hub.name
        ))),
        None => {
            let known: Vec<&str> = run.map(|hub| hub.name.as_str()).collect();
            let hint = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => "no hub of the file has `wireguard`, `site` or `redirect`".to_owned(),
                None => format!("wire runs {}", known.join(", ")),
            };
            Err(Error::invalid(format!("there is no hub `{name}`")).hint(hint))
        }
    }
}

/// What `wire up` does for the hub, so that its namespace, rules, wires and tunnel are there before it serves.
fn wired(voice: &Voice, topology: &Topology, hub: &Hub, lock: &Lock) -> Result<State, Error> {
    let scope = Scope::of(topology, &[format!("node:{}", hub.name)])?;
    let answers = sets::ask(topology.sets.values());
    let ranges = sets::ranges(&sets::renewed(voice, topology, &answers, lock)?);
    let rules = Rules::of(topology, &ranges);
    let want = |seen: &State| desired::up(topology, &rules, &scope, seen);
    let (report, seen) = apply::change(voice, &rules, &scope, lock, want)?;
    if let Some((change, error)) = report.failed.first() {
        return Err(Error::failed(format!("hub `{}` cannot be wired: {change}: {error}", hub.name))
            .hint(format!("`wire up node:{}` says more", hub.name)));
    }
    match seen.waiting.get(&hub.name).or(seen.refused.get(&hub.name)) {
        Some(reason) => Err(Error::failed(format!("hub `{}` has no namespace to run in: {reason}", hub.name))
            .hint("start its container first; without `container` in its [node], wire makes a namespace itself")),
        None => Ok(seen),
    }
}

fn serves(hub: &Hub) -> String {
    let mut parts = Vec::new();
    if let Some(wireguard) = &hub.wireguard {
        parts.push(count(wireguard.peers.len(), "peer"));
    }
    if hub.serves_web() {
        parts.push(count(hub.sites.len(), "site"));
        if !hub.redirects.is_empty() {
            parts.push(count(hub.redirects.len(), "redirect"));
        }
    }
    parts.join(", ")
}

/// Everything a hub serves, with the keys that were found when it was looked at.
pub fn orders(topology: &Topology, hub: &Hub, seen: &State) -> Result<Orders, Error> {
    let proxy = hub.serves_web().then(|| proxy(topology, hub));
    let namespace = seen.namespaces.get(&hub.name).map_or(0, |here| here.cookie);
    Ok(Orders { hub: hub.name.to_string(), namespace, tunnel: tunnel(hub, seen)?, proxy })
}

/// What the kernel does itself where it has WireGuard.
fn tunnel(hub: &Hub, seen: &State) -> Result<Option<Tunnel>, Error> {
    let (Some(wireguard), Some(clients)) = (&hub.wireguard, &hub.clients) else { return Ok(None) };
    if seen.has_wireguard {
        return Ok(None);
    }
    let path = &wireguard.private_key;
    let keys = seen.keys.get(&hub.name).ok_or_else(|| Error::failed(format!("nobody has looked at the key {path}")))?;
    let private = keys.private.clone()?.ok_or_else(|| Error::failed(format!("there is no key {path}")))?;
    // One whose preshared key may not be used keeps nobody else out; that was told when it was looked at.
    let peer = |peer: &topology::Peer| {
        Some(Peer {
            name: peer.name.to_string(),
            public_key: peer.public_key.clone(),
            preshared_key: keys.preshared.get(&peer.name).cloned().transpose().ok()?,
            address: peer.address,
        })
    };
    Ok(Some(Tunnel {
        device: clients.device.as_str().to_owned(),
        listen: wireguard.listen,
        private_key: private,
        peers: wireguard.peers.iter().filter_map(peer).collect(),
    }))
}

/// The sites and redirects of a hub.
pub fn proxy(topology: &Topology, hub: &Hub) -> Proxy {
    let sites = hub.sites.iter().filter_map(|site| {
        Some(Site {
            host: site.host.to_ascii_lowercase(),
            path: site.path.clone(),
            upstream: upstream(topology, hub, &site.to)?,
            tls: tls(site.tls.as_ref()),
            methods: match site.methods.is_empty() {
                true => METHODS.map(str::to_owned).to_vec(),
                false => site.methods.clone(),
            },
            headers: site.headers.clone(),
            // Pages come with what they show: as many at once as the rate lets by in its time.
            rate: site.rate.map(|rate| Rate {
                count: rate.count,
                per: rate.per.seconds(),
                burst: rate.burst.max(rate.count),
            }),
            body: site.body,
        })
    });
    let redirect = |redirect: &topology::Redirect| Redirect {
        host: redirect.host.to_ascii_lowercase(),
        to: redirect.to.clone(),
        tls: tls(redirect.tls.as_ref()),
    };
    let acme = topology.acme.as_ref();
    Proxy {
        sites: sites.collect(),
        redirects: hub.redirects.iter().map(redirect).collect(),
        acme: Acme {
            contact: acme.and_then(|acme| acme.contact.clone()),
            directory: acme.and_then(|acme| acme.directory.clone()).unwrap_or_else(|| DIRECTORY.to_owned()),
            ca: acme.and_then(|acme| acme.ca.clone()),
        },
        nameservers: nameservers(&hub.name),
    }
}

/// The far end of the wire that lets the hub open the port. A checked file has one for every site.
fn upstream(topology: &Topology, hub: &Hub, to: &topology::Upstream) -> Option<Upstream> {
    let wanted = Service { protocol: Protocol::Tcp, ports: vec![(to.port, to.port)], icmp_type: None };
    let leaf = topology.namespace_of(&to.node);
    let lets = |flow: &Flow| flow.flow.covers(&wanted) && flow.to.is_none();
    let (wire, side) = topology.wires_of(hub.name.as_str()).find(|(wire, side)| {
        let flows = if *side == 0 { &wire.allow } else { &wire.allow_back };
        wire.far(*side).node == *leaf && (wire.mode == Mode::Audit || flows.iter().any(lets))
    })?;
    Some(Upstream { node: to.node.to_string(), address: wire.far(side).address.into(), port: to.port })
}

/// One that says nothing has what needs nobody else: the internal CA.
fn tls(tls: Option<&Tls>) -> orders::Tls {
    match tls {
        Some(Tls::Acme) => orders::Tls::Acme,
        Some(Tls::Internal) | None => orders::Tls::Internal,
        Some(Tls::Files { cert, key }) => orders::Tls::Files { cert: cert.clone(), key: key.clone() },
    }
}

/// Who can be asked for names from within a hub: those of its own `/etc/netns/NAME/resolv.conf`, as `ip netns exec` has it, else
/// the machine's. What listens on the host's loopback is out of reach there, so that behind systemd-resolved its servers count.
fn nameservers(hub: &Name) -> Vec<IpAddr> {
    let paths = [
        format!("/etc/netns/{hub}/resolv.conf"),
        "/etc/resolv.conf".to_owned(),
        "/run/systemd/resolve/resolv.conf".to_owned(),
    ];
    let of = |path: &String| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let servers = sets::nameservers(&text).into_iter().filter(|address| !address.is_loopback());
        Some(servers.collect::<Vec<IpAddr>>()).filter(|servers| !servers.is_empty())
    };
    paths.iter().find_map(of).unwrap_or_default()
}

/// Tells hubs in scope that run what they are to serve from now on. Returns those that should run and do not.
pub fn tell(voice: &Voice, topology: &Topology, scope: &Scope, seen: &State, _lock: &Lock) -> Vec<Name> {
    let mut missing = Vec::new();
    // One without a namespace serves nobody, which is told of its wires.
    let is_there = |hub: &&Hub| scope.has_node(&hub.name) && seen.namespaces.contains_key(&hub.name);
    for hub in topology.hubs.values().filter(|hub| hub.is_run()).filter(is_there) {
        match told(topology, hub, seen) {
            Ok(Told::Nobody) if !hub.needs_process(seen.has_wireguard) => {}
            Ok(Told::Nobody) => missing.push(hub.name.clone()),
            Ok(Told::AsBefore) => {}
            Ok(Told::Taken) => voice.say(&format!("hub `{}` serves {} now", hub.name, serves(hub))),
            Err(error) => voice.warn(&error),
        }
    }
    missing
}

enum Told {
    Nobody,
    AsBefore,
    Taken,
}

fn told(topology: &Topology, hub: &Hub, seen: &State) -> Result<Told, Error> {
    let orders = orders(topology, hub, seen)?;
    let same = match process::ask(hub.name.as_str(), &Ask::Likeness)? {
        Asked::Nobody => return Ok(Told::Nobody),
        Asked::Answered(answer) => answer == Answer::Likeness(orders.likeness()),
    };
    // Even the same orders have it look at once for what it waits for, such as certificates.
    match process::ask(hub.name.as_str(), &Ask::Serve(Box::new(orders)))? {
        Asked::Nobody => Ok(Told::Nobody),
        Asked::Answered(Answer::Done) if same => Ok(Told::AsBefore),
        Asked::Answered(Answer::Done) => Ok(Told::Taken),
        Asked::Answered(Answer::Restart(reason)) => {
            let reason = shown(&reason);
            Err(Error::failed(format!("hub `{}` serves what it served before: {reason}", hub.name))
                .hint(format!("restart it: the service `wire-hub@{0}`, or `wire hub {0}`", hub.name)))
        }
        Asked::Answered(Answer::Moved) => {
            Err(Error::failed(format!("hub `{}` served in a namespace that is not its own any more, and has ended", hub.name))
                .hint(format!(
                    "the service `wire-hub@{0}`, or `wire watch`, starts it again where it lives now; else do it: `wire hub {0}`",
                    hub.name
                )))
        }
        Asked::Answered(Answer::Failed(reason)) => {
            Err(Error::failed(format!("hub `{}` could not take over everything: {}", hub.name, shown(&reason))))
        }
        Asked::Answered(_) => Err(Error::failed(format!("hub `{}` answers what it was not asked", hub.name))),
    }
}
