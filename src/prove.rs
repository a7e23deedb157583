//! `wire prove`: which packets to send, what the file says must become of each, and what it means when something else does. It
//! knows grants and routes of the file, never a rule; packets are sent by whom it is given.

mod frames;
mod outside;
mod questions;
#[cfg(test)]
mod tests;
mod words;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use self::questions::Questions;
use self::world::World;
use crate::desired::Ways;
use crate::error::Exit;
use crate::target::Scope;
use crate::topology::{HOST, Mac, Name, OUTSIDE, Protocol, Service, Topology};
use crate::why::dial::Contents;

/// What is to be proved, and what is there to send from.
pub struct House<'a> {
    pub topology: &'a Topology,
    pub scope: &'a Scope,
    pub sets: &'a Contents,
    /// Where the routes of the file lead.
    pub ways: Ways<'a>,
    /// The nodes whose namespaces are there.
    pub present: BTreeSet<Name>,
    /// The addresses of the host that are no wire's.
    pub host: Vec<IpAddr>,
    /// In a lab: the outside, and who listens where.
    pub world: Option<&'a World>,
}

/// One thing to try.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub from: Name,
    /// Whose address is dialled, or where the file has it end.
    pub to: Name,
    pub address: IpAddr,
    /// The wire whose address that is.
    pub wire: Option<Name>,
    pub what: What,
    pub how: How,
    /// How many namespaces the packet may enter; in the last of them it is delivered or ends.
    pub hops: u8,
    pub expected: Expected,
    /// How many new connections at once the flow lets through, where it counts them.
    pub burst: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    Tcp(u16),
    Udp(u16),
    /// An ICMP or ICMPv6 echo request.
    Echo,
}

#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// As a program does, from this address where one is named.
    Dial(Option<IpAddr>),
    /// As a program does, by the end of this wire: a link-local address says nothing without.
    Through(Name),
    /// As a program does that may write its own headers, with a source that is not its own.
    Raw(IpAddr),
    /// Put on a wire, past all that the sending namespace has to say, to the far end's hardware address.
    Frame { wire: Name, source: IpAddr, mac: Mac },
}

/// What the file says.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    Pass(Option<Answerer>),
    Drop,
}

/// Who must answer in a lab, where everybody says who they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Answerer {
    pub node: Name,
    /// Somebody listens: a refusal is no answer.
    pub listens: bool,
    /// The address that the answerer must have seen.
    pub client: Option<IpAddr>,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Pass(Option<Greeting>),
    Drop,
    Unknown(Doubt),
}

/// What a listener of a lab says: who it is, and whom it sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Greeting {
    pub node: String,
    pub client: IpAddr,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Nobody answered, and nothing tells whether it arrived.
    Silent,
    /// A flow with a rate was silent: others may have used it up.
    Spent,
    /// The way there leads over a device that is no wire; nothing was sent.
    Elsewhere,
    /// The file's answer turns on a set whose contents are not known; nothing was sent.
    Set(Name),
    /// The system kept it from being sent.
    Trouble(String),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Doubt::Silent => f.write_str("nobody answered, and nothing tells whether it arrived"),
            Doubt::Spent => f.write_str("nobody answered, but the rate of its flow may be used up"),
            Doubt::Elsewhere => f.write_str("the way there leads over a device that is no wire, so nothing was sent"),
            Doubt::Set(set) => write!(f, "what @{set} holds is not known, so nothing was sent"),
            Doubt::Trouble(why) => f.write_str(why),
        }
    }
}

/// What passes and what does not, held against the file.
#[derive(Debug, Default, Serialize)]
pub struct Proof {
    pub probes: usize,
    pub correct: usize,
    pub unknown: usize,
    pub violations: Vec<Violation>,
    pub unknowns: Vec<Unknown>,
    /// Nodes that nothing was sent from or to, with the reason.
    pub absent: BTreeMap<Name, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Violation {
    pub from: Name,
    pub to: Name,
    pub flow: String,
    pub expected: Passage,
    pub seen: Passage,
    pub address: IpAddr,
    /// Where it was not the sender's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// What else there is to say of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passage {
    Pass,
    Drop,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unknown {
    pub from: Name,
    pub to: Name,
    pub flow: String,
    pub address: IpAddr,
    pub reason: String,
}

impl Proof {
    pub fn exit(&self) -> Exit {
        if self.violations.is_empty() { Exit::Done } else { Exit::Differs }
    }
}

/// Packets dropped so far, by node and wire.
pub type Denials = BTreeMap<(Name, Name), u64>;

/// So many probes are thought of before they are sent: they wait for silence together.
const CROWD: usize = 4096;
/// So often what was silent is tried again, one packet a wire, while the counters of its ends are watched.
const ROUNDS: usize = 4;

/// Asks everything there is to ask. `send` sends; `denied` counts what was dropped so far, where that is counted.
pub fn run(house: &House, send: &mut dyn FnMut(&[Probe]) -> Vec<Seen>, denied: &mut dyn FnMut() -> Denials) -> Proof {
    let questions = Questions::of(house);
    let mut proof = Proof::default();
    let mut silent = Vec::new();
    let mut waiting: Vec<Probe> = Vec::new();
    let mut flush = |waiting: &mut Vec<Probe>, proof: &mut Proof| {
        let seen = send(waiting);
        for (probe, seen) in waiting.drain(..).zip(seen) {
            if seen == Seen::Unknown(Doubt::Silent) && probe.may_repeat() && probe.wire.is_some() {
                silent.push(probe);
            } else {
                proof.add(house, &probe, seen);
            }
        }
    };
    for sender in house.senders() {
        let (probes, unknown) = questions.of_sender(&sender);
        proof.probes += unknown.len();
        proof.unknown += unknown.len();
        proof.unknowns.extend(unknown);
        waiting.extend(probes);
        if waiting.len() >= CROWD {
            flush(&mut waiting, &mut proof);
        }
    }
    flush(&mut waiting, &mut proof);
    for (probe, seen) in recount(silent, send, denied) {
        proof.add(house, &probe, seen);
    }
    proof
}

/// Tries again what was silent, one packet a wire at a time: when a counter of one of its ends rises, it was dropped there.
fn recount(
    mut silent: Vec<Probe>,
    send: &mut dyn FnMut(&[Probe]) -> Vec<Seen>,
    denied: &mut dyn FnMut() -> Denials,
) -> Vec<(Probe, Seen)> {
    let mut told = Vec::new();
    for _ in 0..ROUNDS {
        if silent.is_empty() {
            break;
        }
        let before = denied();
        let mut wires = BTreeSet::new();
        let (now, later): (Vec<_>, Vec<_>) = silent.into_iter().partition(|probe| {
            let counts =
                |node: &Name| probe.wire.clone().is_some_and(|wire| before.contains_key(&(node.clone(), wire)));
            (counts(&probe.from) || counts(&probe.to)) && wires.insert(probe.wire.clone())
        });
        if now.is_empty() {
            silent = later;
            break;
        }
        let seen = send(&now);
        let after = denied();
        for (probe, seen) in now.into_iter().zip(seen) {
            let risen = |node: &Name| {
                let end = probe.wire.clone().map(|wire| (node.clone(), wire));
                end.is_some_and(|end| after.get(&end) > before.get(&end))
            };
            let dropped = seen == Seen::Unknown(Doubt::Silent) && (risen(&probe.from) || risen(&probe.to));
            told.push((probe, if dropped { Seen::Drop } else { seen }));
        }
        silent = later;
    }
    told.extend(silent.into_iter().map(|probe| (probe, Seen::Unknown(Doubt::Silent))));
    told
}

impl House<'_> {
    /// Who sends: every node that is there, and in a lab the outside.
    fn senders(&self) -> Vec<Name> {
        let outside = self.world.and_then(|_| Name::new(OUTSIDE));
        self.present.iter().cloned().chain(outside).collect()
    }
}

impl Proof {
    fn add(&mut self, house: &House, probe: &Probe, seen: Seen) {
        self.probes += 1;
        match judge(house, probe, seen) {
            Judged::Correct => self.correct += 1,
            Judged::Unknown(doubt) => {
                self.unknown += 1;
                self.unknowns.push(probe.unknown(&doubt));
            }
            Judged::Violation(note) => self.violations.push(probe.violation(note)),
        }
    }
}

enum Judged {
    Correct,
    Unknown(Doubt),
    Violation(Option<String>),
}

/// What was seen against what the file says.
fn judge(house: &House, probe: &Probe, seen: Seen) -> Judged {
    let seen = match seen {
        // The host's own way to what no wire joins it to leads to the outside: nothing of it arrives at a node.
        Seen::Unknown(Doubt::Elsewhere) if probe.from.as_str() == HOST => Seen::Drop,
        seen => seen,
    };
    match (&probe.expected, seen) {
        (_, Seen::Unknown(doubt)) => Judged::Unknown(doubt),
        (Expected::Drop, Seen::Drop) => Judged::Correct,
        (Expected::Drop, Seen::Pass(greeting)) => {
            let other = greeting.filter(|greeting| greeting.node != probe.to.as_str());
            Judged::Violation(other.map(|greeting| format!("`{}` answered", greeting.node)))
        }
        // On a live house others use the flow too.
        (Expected::Pass(_), Seen::Drop) if probe.burst.is_some() && house.world.is_none() => {
            Judged::Unknown(Doubt::Spent)
        }
        (Expected::Pass(_), Seen::Drop) => Judged::Violation(None),
        (Expected::Pass(None), Seen::Pass(_)) => Judged::Correct,
        (Expected::Pass(Some(wanted)), Seen::Pass(None)) if wanted.listens => {
            Judged::Violation(Some(format!("the listener of `{}` did not answer", wanted.node)))
        }
        (Expected::Pass(Some(_)), Seen::Pass(None)) => Judged::Correct,
        (Expected::Pass(Some(wanted)), Seen::Pass(Some(greeting))) => {
            if greeting.node != wanted.node.as_str() {
                return Judged::Violation(Some(format!("`{}` answered", greeting.node)));
            }
            match wanted.client {
                Some(client) if client != greeting.client => Judged::Violation(Some(format!(
                    "`{}` saw {} as its client, not {client}",
                    wanted.node, greeting.client
                ))),
                _ => Judged::Correct,
            }
        }
    }
}

impl Probe {
    /// Whether it may be tried for as long as TCP does within a few seconds: three times.
    pub fn may_repeat(&self) -> bool {
        self.burst.is_none_or(|burst| burst >= 3)
    }

    /// The flow in the words of the file.
    pub fn flow(&self) -> String {
        self.what.service(self.address).to_string()
    }

    fn unknown(&self, doubt: &Doubt) -> Unknown {
        Unknown {
            from: self.from.clone(),
            to: self.to.clone(),
            flow: self.flow(),
            address: self.address,
            reason: doubt.to_string(),
        }
    }

    fn violation(&self, note: Option<String>) -> Violation {
        let (expected, seen) = match self.expected {
            Expected::Pass(_) => (Passage::Pass, Passage::Drop),
            Expected::Drop => (Passage::Drop, Passage::Pass),
        };
        let way = match &self.how {
            How::Dial(_) | How::Through(_) => None,
            How::Raw(_) => Some("a source that is not the sender's".to_owned()),
            How::Frame { wire, .. } => Some(format!("put on wire `{wire}` past the sender's own rules")),
        };
        let note = [way, note].into_iter().flatten().collect::<Vec<_>>().join("; ");
        Violation {
            from: self.from.clone(),
            to: self.to.clone(),
            flow: self.flow(),
            expected,
            seen,
            address: self.address,
            source: match self.how {
                How::Dial(source) => source,
                How::Through(_) => None,
                How::Raw(source) | How::Frame { source, .. } => Some(source),
            },
            note: (!note.is_empty()).then_some(note),
        }
    }
}

impl What {
    pub fn of(protocol: Protocol, port: u16) -> Option<What> {
        match protocol {
            Protocol::Tcp => Some(What::Tcp(port)),
            Protocol::Udp => Some(What::Udp(port)),
            Protocol::Icmp | Protocol::Icmpv6 => None,
        }
    }

    /// As the file would write it, towards an address.
    pub fn service(self, address: IpAddr) -> Service {
        let one = |protocol, port| Service { protocol, ports: vec![(port, port)], icmp_type: None };
        match self {
            What::Tcp(port) => one(Protocol::Tcp, port),
            What::Udp(port) => one(Protocol::Udp, port),
            What::Echo => {
                let protocol = if address.is_ipv4() { Protocol::Icmp } else { Protocol::Icmpv6 };
                Service { protocol, ports: Vec::new(), icmp_type: Some("echo-request".to_owned()) }
            }
        }
    }
}
