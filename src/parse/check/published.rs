//! No port of the host is handed to two, and none without an uplink to come in by.

use std::rc::Rc;

use crate::topology::{HOST, Place, Policy, Protocol, Publish, Service, Whom};

use super::super::draft;
use super::{Check, line};

impl<'d> Check<'d> {
    /// The first thing in the file that cannot be done without knowing which devices lead outside.
    pub(super) fn uplinks(&self) {
        let host = &self.draft.host;
        if !host.uplinks.is_empty() || host.uplinks_torn || self.page.has_stray("uplinks") {
            return;
        }
        let mut needs: Vec<(Place, String)> = Vec::new();
        for wire in &self.draft.wires {
            let place = wire.publish_place.filter(|_| !wire.publish.is_empty());
            needs.extend(place.map(|place| (place, format!("{} publishes", wire.what))));
        }
        for node in &self.draft.nodes {
            let place = node.egress_place.filter(|_| !node.egress.is_empty());
            needs.extend(place.map(|place| (place, format!("node `{}` has egress", node.name.it))));
        }
        for hub in &self.draft.hubs {
            needs.extend(first_publication(hub).map(|place| (place, format!("hub `{}` publishes", hub.name.it))));
        }
        needs
            .extend(host.block.as_ref().map(|block| (block.place, "`block` drops what comes from outside".to_owned())));
        if host.policy == Policy::All {
            needs.push((host.policy_place, "`policy = \"all\"` drops what comes from outside".to_owned()));
        }
        if let Some((place, need)) = needs.into_iter().min() {
            let message = format!("{need}, but nothing says which devices lead outside");
            self.page.fault(
                place,
                message,
                "write `uplinks = [\"eth0\"]` below [host], with the devices towards LAN and WAN",
            );
        }
    }

    /// No port of the host is handed to two.
    pub(super) fn publications(&self) {
        let mut all: Vec<Publication> = Vec::new();
        for (wire, ends) in self.draft.wires.iter().zip(&self.ends) {
            let (Some(place), Some(ends)) = (wire.publish_place, ends) else {
                continue;
            };
            let far = match *ends {
                [HOST, far] | [far, HOST] => far,
                _ => {
                    let message =
                        format!("{}: `publish` hands on ports of the host, where this wire does not end", wire.what);
                    let [a, b] = ends;
                    let end = if self.is_hub(a) { a } else { b };
                    let hint = match self.wires_of(end).find(|(_, far)| *far == HOST) {
                        Some((wire, _)) => format!("move it to {}, which does", wire.what),
                        None => "move it to a wire that does".to_owned(),
                    };
                    self.page.fault(place, message, hint);
                    continue;
                }
            };
            all.extend(wire.publish.iter().map(|publish| Publication {
                place: publish.place,
                what: wire.what.clone(),
                service: publish.flow.clone(),
                from: publish.from.clone(),
                far,
                written: Some(publish),
            }));
        }
        for hub in &self.draft.hubs {
            all.extend(derived(hub));
        }
        all.sort_by_key(|publication| publication.place);
        for (i, one) in all.iter().enumerate() {
            if let Some(other) = all[..i].iter().find(|other| one.collides(other)) {
                let ports = &one.service;
                let message = format!(
                    "{}: {ports} of the host is already published by {} ({})",
                    one.what,
                    other.what,
                    line(other.place)
                );
                self.page.fault(one.place, message, "publish another port, or another `address`");
            }
        }
    }
}

/// A port of the host that is handed on, written or needed by a hub that `wire` runs.
struct Publication<'d> {
    place: Place,
    what: Rc<str>,
    service: Service,
    from: Option<Whom>,
    far: &'d str,
    /// None where it follows from a hub's tables.
    written: Option<&'d Publish>,
}

impl Publication<'_> {
    fn collides(&self, other: &Publication) -> bool {
        let address = |one: &Publication| one.written.and_then(|publish| publish.address);
        let apart = match (self.written, other.written) {
            (Some(a), Some(b)) => a.on.is_some() && b.on.is_some() && a.on != b.on,
            _ => false,
        };
        self.service.overlaps(&other.service) && address(self) == address(other) && !apart && !self.says_the_same(other)
    }

    fn says_the_same(&self, other: &Publication) -> bool {
        let both = match (self.written, other.written) {
            (Some(a), Some(b)) => {
                let place = Place::default();
                Publish { place, ..a.clone() } == Publish { place, ..b.clone() }
            }
            (Some(written), None) | (None, Some(written)) => written.to_port.is_none() && self.from == other.from,
            (None, None) => false,
        };
        both && self.far == other.far
    }
}

/// What a hub's own tables publish on its host wire.
fn derived<'d>(hub: &'d draft::Hub<'d>) -> Vec<Publication<'d>> {
    let what: Rc<str> = format!("hub `{}`", hub.name.it).into();
    let publication = |place, protocol, port, from| Publication {
        place,
        what: what.clone(),
        service: Service { protocol, ports: vec![(port, port)], icmp_type: None },
        from,
        far: hub.name.it.as_str(),
        written: None,
    };
    let mut all = Vec::new();
    if let Some(wireguard) = &hub.wireguard {
        all.push(publication(wireguard.place, Protocol::Udp, wireguard.it.listen, None));
    }
    let sites = hub.sites.iter().map(|site| site.it.place);
    if let Some(place) = sites.chain(hub.redirects.iter().map(|redirect| redirect.place)).min() {
        all.extend([443, 80].map(|port| publication(place, Protocol::Tcp, port, None)));
    }
    all.extend(hub.forwards.iter().map(|draft| Publication {
        service: draft.forward.port.clone(),
        what: format!("forward `{}`", draft.forward.port).into(),
        ..publication(draft.port, draft.forward.port.protocol, 0, draft.forward.from.clone())
    }));
    all
}

pub fn first_publication(hub: &draft::Hub) -> Option<Place> {
    derived(hub).into_iter().map(|publication| publication.place).min()
}
