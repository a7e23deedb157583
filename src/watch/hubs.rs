//! The hubs that `wire watch` runs as its children, where nobody else serves them: which there should be, and when one that has
//! ended is started again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Source;
use super::told::Teller;
use crate::kernel::ears::{Ears, Other};
use crate::kernel::hub::{self, Child};
use crate::topology::{Name, Topology};
use crate::voice::duration;

/// A hub that ends is started again after this, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_LONGEST: Duration = Duration::from_secs(60);
/// One that has run for so long has not ended at once.
const STEADY: Duration = Duration::from_secs(60);
/// When to look again for one that somebody else serves.
const OTHERS: Duration = Duration::from_secs(60);
/// How long all may take to end in good order.
const DRAINED: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Hubs {
    /// What `wire` is run with.
    arguments: Vec<OsString>,
    running: BTreeMap<Name, (Child, Instant)>,
    /// When those are started that do not run.
    due: BTreeMap<Name, Instant>,
    /// How long one waits that ends again.
    waits: BTreeMap<Name, Duration>,
    /// Whether the kernel serves tunnels itself.
    has_wireguard: bool,
}

impl Hubs {
    pub fn new(source: &Source) -> Hubs {
        let mut arguments = vec![OsString::from("--file"), source.file.clone().into()];
        arguments.extend(source.trusted.map(|user| format!("--trust-owner={user}").into()));
        Hubs { arguments, ..Hubs::default() }
    }

    /// Has those run that the topology wants run, and ends the others.
    pub fn follow(&mut self, topology: &Topology, now: Instant) {
        let has_wireguard = self.has_wireguard;
        let wanted = |name: &Name| topology.hubs.get(name).is_some_and(|hub| hub.needs_process(has_wireguard));
        self.due.retain(|name, _| wanted(name));
        for (_, (child, _)) in self.running.iter().filter(|(name, _)| !wanted(name)) {
            child.tell_to_end();
        }
        for name in topology.hubs.keys().filter(|name| wanted(name) && !self.running.contains_key(*name)) {
            self.due.entry(name.clone()).or_insert(now);
        }
    }

    /// Knows by now whether the kernel has WireGuard.
    pub fn kernel(&mut self, has_wireguard: bool, topology: &Topology, now: Instant) {
        if std::mem::replace(&mut self.has_wireguard, has_wireguard) != has_wireguard {
            self.follow(topology, now);
        }
    }

    pub fn until(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Notices who has ended, and starts whose time has come.
    pub fn turn(&mut self, topology: &Topology, ears: &Ears, teller: &mut Teller, now: Instant) {
        let ended: Vec<(Name, String)> = (self.running.iter_mut())
            .filter_map(|(name, (child, _))| Some((name.clone(), child.has_ended()?)))
            .collect();
        for (name, how) in ended {
            let Some((_, since)) = self.running.remove(&name) else { continue };
            if !topology.hubs.get(&name).is_some_and(|hub| hub.needs_process(self.has_wireguard)) {
                teller.event("hub", &format!("`{name}` has ended"), json!({ "hub": name, "runs": false }));
                continue;
            }
            if now - since >= STEADY {
                self.waits.remove(&name);
            }
            let wait = self.later(name.clone(), now);
            let words = format!("`{name}` {how}, and is started again in {}", duration(wait.as_secs()));
            teller.event("hub", &words, json!({ "hub": name, "runs": false, "again": wait.as_secs() }));
        }
        let due: Vec<Name> = self.due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.due.remove(&name);
            if hub::is_served(name.as_str()) {
                self.due.insert(name, now + OTHERS);
                continue;
            }
            let started = Child::start(&self.arguments, name.as_str())
                .and_then(|child| ears.wait_for(child.end(), Other::Hubs).map(|()| child));
            match started {
                Ok(child) => {
                    teller.event("hub", &format!("`{name}` is started"), json!({ "hub": name, "runs": true }));
                    self.running.insert(name, (child, now));
                }
                Err(error) => {
                    teller.cannot(&error);
                    self.later(name, now);
                }
            }
        }
    }

    /// Starts it after a while, which is told.
    fn later(&mut self, hub: Name, now: Instant) -> Duration {
        let next = self.waits.entry(hub.clone()).or_insert(AGAIN);
        let wait = *next;
        *next = (wait * 2).min(AGAIN_LONGEST);
        self.due.insert(hub, now + wait);
        wait
    }

    /// Ends all of them, in good order.
    pub fn end(self) {
        self.running.values().for_each(|(child, _)| child.tell_to_end());
        let until = Instant::now() + DRAINED;
        self.running.into_values().for_each(|(child, _)| child.wait(until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn a_kernel_that_serves_tunnels_needs_nobody_to() {
        let topology = parse::topology(include_str!("../../topology/pluto-hubs.toml")).unwrap();
        let (mut hubs, now) = (Hubs::default(), Instant::now());
        let due = |hubs: &Hubs| hubs.due.keys().map(|name| name.to_string()).collect::<Vec<_>>();
        hubs.follow(&topology, now);
        assert_eq!(due(&hubs), ["reverse-proxy-edge", "vpn-edge"]);
        hubs.kernel(true, &topology, now);
        assert_eq!(due(&hubs), ["reverse-proxy-edge"]);
        hubs.kernel(false, &topology, now);
        assert_eq!(due(&hubs), ["reverse-proxy-edge", "vpn-edge"]);
    }
}
