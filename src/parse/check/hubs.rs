//! What hubs that `wire` runs are told to serve leads to somewhere they can reach.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::topology::{Allowed, Flow, HOST, Name, Place, Protocol, Service, Site, Tls};

use super::super::draft;
use super::super::tree::Said;
use super::published::first_publication;
use super::{Check, line};
use crate::near::{meant, nearest, shown};

impl<'d> Check<'d> {
    /// What hubs that `wire` runs need.
    pub(super) fn hubs(&self) {
        let mut peers: BTreeMap<&Name, Place> = BTreeMap::new();
        for hub in &self.draft.hubs {
            let name = hub.name.it.as_str();
            if let Some(place) = first_publication(hub)
                && self.ends_whole
                && self.knows(name)
                && !self.has_host_wire(name)
            {
                let message = format!("hub `{name}`: nothing can be published, as no wire joins it and the host");
                self.page.fault(place, message, format!("add a wire with `ends = [\"host\", \"{name}\"]`"));
            }
            if let Some(wireguard) =
                hub.wireguard.as_ref().filter(|_| !hub.clients_said && !self.page.has_stray("clients"))
            {
                let message = format!("hub `{name}`: the tunnel has no prefix for its clients");
                let hint = "add `clients = { prefix = \"10.100.0.0/24\", device = \"wg0\" }` below [hub.";
                self.page.fault(wireguard.it.place, message, format!("{hint}{name}]"));
            }
            self.peers(hub, &mut peers);
            self.sites(hub);
            hub.forwards.iter().for_each(|forward| self.forward(name, forward));
        }
    }

    pub(super) fn peers(&self, hub: &'d draft::Hub<'d>, names: &mut BTreeMap<&'d Name, Place>) {
        let mut keys: BTreeMap<&str, &Name> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, &Name> = BTreeMap::new();
        for draft in &hub.peers {
            let peer = &draft.peer;
            let tell = |place, message: String, hint: &str| {
                self.page.fault(place, format!("peer `{}`: {message}", peer.name), hint)
            };
            let place = *names.entry(&peer.name).or_insert(draft.name);
            if place != draft.name {
                tell(
                    draft.name,
                    format!("the name is already that of the peer in {}", line(place)),
                    "give each peer its own name",
                );
            }
            let owner = *keys.entry(&peer.public_key).or_insert(&peer.name);
            if *owner != peer.name {
                tell(draft.key, format!("its public key is that of peer `{owner}`"), "make a key pair for each device");
            }
            let owner = *addresses.entry(peer.address).or_insert(&peer.name);
            if *owner != peer.name {
                tell(
                    draft.address,
                    format!("{} is already the address of peer `{owner}`", peer.address),
                    "take another address",
                );
            }
            if let Some(clients) = &hub.clients {
                let prefix = clients.it.prefix;
                let hint =
                    format!("take another address of {prefix}, the hub's own being {}", clients.it.hub_address());
                if !prefix.contains(peer.address) {
                    tell(draft.address, format!("{} is not one of its hub's clients, {prefix}", peer.address), &hint);
                } else if peer.address == clients.it.hub_address() {
                    tell(draft.address, format!("{} is the hub's own address", peer.address), &hint);
                } else if peer.address == prefix.network() || prefix.is_ipv4() && peer.address == prefix.broadcast() {
                    tell(draft.address, format!("{} stands for all of {prefix}", peer.address), &hint);
                }
            }
            draft.allow.iter().for_each(|said| {
                self.allowed(&peer.name, said);
            });
        }
    }

    /// What a word of a peer's `allow` means, told where it is nothing or several things.
    pub(super) fn allowed(&self, peer: &Name, said: &Said<&str>) -> Option<Allowed> {
        if said.it == "*" {
            return Some(Allowed::Everything);
        }
        let wires = || self.draft.wires.iter().filter_map(|wire| Some(wire.name.as_ref()?.it.as_str()));
        let modules = || self.draft.modules.iter().map(|module| module.name.as_str());
        let (kind, text) = match said.it.split_once(':') {
            Some((kind @ ("module" | "node" | "wire"), text)) => (Some(kind), text),
            _ => (None, said.it),
        };
        let name = Name::new(text);
        let is = |which, known: bool| (known && kind.is_none_or(|kind| kind == which)).then(|| name.clone()).flatten();
        let found = [
            is("module", modules().any(|module| module == text)).map(Allowed::Module),
            is("node", self.knows(text)).map(Allowed::Node),
            is("wire", wires().any(|wire| wire == text)).map(Allowed::Wire),
        ];
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        if found.len() > 1 {
            let message = format!("peer `{peer}`: `{text}` is several things");
            self.page.fault(said.place, message, format!("say which: `module:{text}`, `node:{text}` or `wire:{text}`"));
        }
        let whole = self.draft.modules_whole && self.draft.wires.iter().all(|wire| wire.name.is_some());
        if found.is_empty() && whole && !self.strangers.contains(text) {
            let near = nearest(text, modules().chain(self.members.keys().copied()).chain(wires()));
            let hint = meant(text, near, "name modules, nodes or wires, or `*` for everything");
            let message = format!("peer `{peer}`: no module, node or wire is called `{}`", shown(text));
            self.page.fault(said.place, message, hint);
        }
        found.pop()
    }

    pub(super) fn sites(&self, hub: &'d draft::Hub<'d>) {
        let name = hub.name.it.as_str();
        let mut taken: BTreeMap<(&str, Option<&str>), Place> = BTreeMap::new();
        // A path ends in a `/` or not, and means the same; alone it is everything.
        let below =
            |path: &'d Option<String>| Some(path.as_deref()?.trim_end_matches('/')).filter(|path| !path.is_empty());
        let sites = hub.sites.iter().map(|site| (&site.it.host, below(&site.it.path), site.it.place));
        let redirects = hub.redirects.iter().map(|redirect| (&redirect.host, None, redirect.place));
        let mut hosts: Vec<_> = sites.chain(redirects).collect();
        hosts.sort_by_key(|(_, _, place)| *place);
        for (host, path, place) in hosts {
            let before = *taken.entry((host, path)).or_insert(place);
            if before != place {
                let message = format!(
                    "hub `{name}`: `{host}{}` is served twice, first in {}",
                    path.unwrap_or_default(),
                    line(before)
                );
                self.page.fault(place, message, "keep one of them, or give one a `path`");
            }
        }
        for redirect in &hub.redirects {
            let served = |site: &&'d Said<Site>| site.it.host == redirect.host && below(&site.it.path).is_some();
            if let Some(site) = hub.sites.iter().find(served) {
                let message = format!(
                    "hub `{name}`: `{}` is a site ({}), and this redirects all of it",
                    redirect.host,
                    line(site.it.place)
                );
                self.page.fault(redirect.place, message, "keep one of them: a redirect has no path of its own");
            }
        }
        for (i, site) in hub.sites.iter().enumerate() {
            let tls = |site: &Site| site.tls.clone().unwrap_or(Tls::Internal);
            let before = hub.sites[..i].iter().find(|before| before.it.host == site.it.host);
            if let Some(before) = before.filter(|before| tls(&before.it) != tls(&site.it)) {
                let message =
                    format!("hub `{name}`: `{}` has another `tls` in {}", site.it.host, line(before.it.place));
                self.page.fault(site.it.place, message, "a name has one certificate: write the same `tls` in both");
            }
        }
        for site in hub.sites.iter().filter(|_| self.ends_whole) {
            let to = &site.it.to;
            let Some(Some(space)) = self.spaces.get(to.node.as_str()) else {
                continue;
            };
            let wanted = Service { protocol: Protocol::Tcp, ports: vec![(to.port, to.port)], icmp_type: None };
            let wires: Vec<_> = self.wires_between(space, name).collect();
            let flows = |wire: &'d draft::Wire<'d>| {
                if self.is_first_end(wire, name) { &wire.allow } else { &wire.allow_back }
            };
            let lets = |flow: &Flow| flow.flow.covers(&wanted) && flow.to.is_none();
            if wires.iter().any(|wire| !wire.flows_whole || flows(wire).iter().any(lets)) {
                continue;
            }
            let message = format!("site `{}`: no flow lets hub `{name}` reach `{}` by {wanted}", site.it.host, to.node);
            let hint = match wires.first() {
                Some(wire) => {
                    let key = if self.is_first_end(wire, name) { "allow" } else { "allow-back" };
                    format!("add `\"{wanted}\"` to `{key}` of {} ({})", wire.what, line(wire.place))
                }
                None => format!("add a wire with `ends = [\"{name}\", \"{}\"], allow = [\"{wanted}\"]`", to.node),
            };
            self.page.fault(site.place, message, hint);
        }
    }

    pub(super) fn is_first_end(&self, wire: &draft::Wire, space: &str) -> bool {
        wire.ends.as_ref().is_some_and(|[a, _]| self.spaces.get(a.it).copied().flatten() == Some(space))
    }

    /// A forward keeps the client's address, so replies must come back through the same hub.
    pub(super) fn forward(&self, hub: &str, draft: &draft::ForwardDraft) {
        let to = &draft.forward.to.node;
        let Some(Some(space)) = self.spaces.get(to.as_str()).filter(|_| self.ends_whole) else {
            return;
        };
        let tell = |message: String, hint: String| {
            self.page.fault(draft.to, format!("forward `{}`: {message}", draft.forward.port), hint);
        };
        if !self.is_leaf(space) {
            let kind = if *space == HOST { "the host" } else { "a hub" };
            tell(format!("`{to}` is {kind}, and a forward ends at a leaf"), "name a leaf of this hub".to_owned());
        } else if self.wires_between(space, hub).next().is_none() {
            let hint = format!("add a wire with `ends = [\"{hub}\", \"{to}\"]`");
            tell(format!("no wire joins hub `{hub}` and `{to}`"), hint);
        } else if let Some((wire, first)) = self.first_hubs.get(space).filter(|(_, first)| *first != hub) {
            let message =
                format!("replies of `{to}` leave by its first hub, `{first}` ({}), not by `{hub}`", line(wire.place));
            tell(message, format!("move the wire between `{hub}` and `{to}` above it, or forward from `{first}`"));
        }
    }
}
