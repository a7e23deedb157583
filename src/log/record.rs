//! A logged packet in the file's words: who wanted to open what to whom, over which wire, and the line that would have to change.
//! Pure: it reads the file's meaning through `why` and never sees a rule.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::packet::{self, Header, Hook, Packet, Part, Verdict};
use crate::report::Paint;
use crate::target::Scope;
use crate::topology::{Device, End, HOST, Hub, Mode, Name, OUTSIDE, Service, Topology, Wire};
use crate::voice::utc;
use crate::why;

/// One packet, named.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// UTC, as in RFC 3339.
    pub time: String,
    pub verdict: Verdict,
    /// Where that was decided.
    pub node: Name,
    pub hook: Hook,
    pub device: Option<Device>,
    /// `None` where it met no wire.
    pub wire: Option<Name>,
    /// A node, a VPN peer, `NODE's clients`, or `outside`.
    pub from: String,
    pub to: String,
    pub flow: String,
    pub source: IpAddr,
    pub source_port: Option<u16>,
    pub destination: IpAddr,
    pub destination_port: Option<u16>,
    /// The line of the file that allows it, or the nearest that would have to change.
    pub line: Option<usize>,
    /// One sentence.
    pub reason: String,
    /// What to write to have it allowed, where something can be written.
    pub hint: Option<String>,
}

/// Who an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who<'a> {
    Node(&'a Name),
    /// By the name of the file, with the hub that it comes in at.
    Peer(&'a Hub, &'a Name),
    /// Somebody of a hub's tunnel that no peer of the file is known for.
    Clients(&'a Hub),
    Outside,
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Who::Node(name) | Who::Peer(_, name) => write!(f, "{name}"),
            Who::Clients(hub) => write!(f, "{}'s clients", hub.name),
            Who::Outside => f.write_str(OUTSIDE),
        }
    }
}

impl<'a> Who<'a> {
    /// As `why` knows it: clients may open what their hub may.
    fn word(self) -> &'a str {
        match self {
            Who::Node(name) | Who::Peer(_, name) => name.as_str(),
            Who::Clients(hub) => hub.name.as_str(),
            Who::Outside => OUTSIDE,
        }
    }
}

/// What the file says of a packet.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    line: Option<usize>,
    reason: String,
    hint: Option<String>,
}

/// A question to `why`: who, to whom, what.
type Question<'a> = (&'a str, &'a str, Option<Service>);

/// The same file with no wire in audit mode, which allows everything: what is asked of it is what it will allow then.
pub fn enforced(topology: &Topology) -> Topology {
    let mut topology = topology.clone();
    topology.wires.iter_mut().for_each(|wire| wire.mode = Mode::Enforce);
    topology
}

/// Names packets by one file, which should be `enforced`.
pub struct Names<'a> {
    topology: &'a Topology,
    /// Those that wires end in.
    nodes: BTreeSet<&'a Name>,
    ends: HashMap<IpAddr, &'a Name>,
    /// Answers already given: one sender who tries again and again asks the same every time.
    answers: RefCell<HashMap<Question<'a>, Option<why::Answer>>>,
}

/// More answers than this are not remembered.
const ANSWERS: usize = 4096;

impl<'a> Names<'a> {
    pub fn of(topology: &'a Topology) -> Names<'a> {
        let both = |end: &'a End| [Some(IpAddr::V4(end.address)), end.address6.map(IpAddr::V6)].map(|a| (a, &end.node));
        let ends = topology.wires.iter().flat_map(|wire| &wire.ends).flat_map(both);
        Names {
            topology,
            nodes: topology.wires.iter().flat_map(|wire| &wire.ends).map(|end| &end.node).collect(),
            ends: ends.filter_map(|(address, node)| Some((address?, node))).collect(),
            answers: RefCell::default(),
        }
    }

    /// A packet that was logged in a node's namespace, named. `None`: no rule of wire's logged it, it cannot be read, or no wire of
    /// the file ends there.
    pub fn record(&self, node: &Name, packet: &Packet) -> Option<Record> {
        let (verdict, name) = packet::prefix(&packet.prefix)?;
        let header = packet::header(&packet.bytes)?;
        let hook = packet.hook;
        let node = *self.nodes.get(node)?;
        // A wire of that name that does not end here was named by somebody else.
        let named = name.as_ref().and_then(|name| self.topology.wire(name.as_str()));
        let named = named.and_then(|wire| Some((wire, wire.end_in(node.as_str())?)));
        // What goes through may be denied on the wire that it was to leave by.
        let wire = if hook == Hook::Out { named } else { self.came_by(node, packet.device.as_ref(), named) };
        let from = match hook {
            Hook::Out => Who::Node(node),
            _ if wire.is_none() && self.is_uplink(node, packet.device.as_ref()) => Who::Outside,
            _ => self.sender(wire, header.source),
        };
        let to = match hook {
            Hook::In => Who::Node(node),
            Hook::Out => self.receiver(wire, header.destination),
            Hook::Through => self.receiver(None, header.destination),
        };
        let said = match verdict {
            Verdict::Allowed => self.passes(from, to, &header),
            Verdict::Denied | Verdict::Watched => {
                let unusual = match (wire, named, &name) {
                    (_, None, Some(name)) => Some(struck(name)),
                    (Some((wire, end)), ..) => self.misaddressed(wire, end, hook, &header),
                    (None, ..) => self.strange(node, hook, packet.device.as_ref(), &header),
                };
                unusual.or_else(|| unopened(&header)).unwrap_or_else(|| self.denied(from, to, &header))
            }
        };
        let ports = header.ports();
        Some(Record {
            time: utc(packet.at),
            verdict,
            node: node.clone(),
            hook,
            device: packet.device.clone(),
            wire: name,
            from: from.to_string(),
            to: to.to_string(),
            flow: header.flow(),
            source: header.source,
            source_port: ports.map(|(source, _)| source),
            destination: header.destination,
            destination_port: ports.map(|(_, destination)| destination),
            line: said.line,
            reason: said.reason,
            hint: said.hint,
        })
    }

    /// Whose address it is; `None`: nobody's of the file.
    pub fn who(&self, address: IpAddr) -> Option<Who<'a>> {
        if let Some(node) = self.ends.get(&address) {
            return Some(Who::Node(node));
        }
        for hub in self.topology.hubs.values() {
            let peers = hub.wireguard.iter().flat_map(|wireguard| &wireguard.peers);
            if let Some(peer) = peers.into_iter().find(|peer| peer.address == address) {
                return Some(Who::Peer(hub, &peer.name));
            }
            match &hub.clients {
                Some(clients) if clients.hub_address() == address => return Some(Who::Node(&hub.name)),
                Some(clients) if clients.prefix.contains(address) => return Some(Who::Clients(hub)),
                _ => {}
            }
        }
        None
    }

    /// The wire whose device a packet came in on; the one that the rule names where no device is known.
    fn came_by(
        &self,
        node: &Name,
        device: Option<&Device>,
        named: Option<(&'a Wire, usize)>,
    ) -> Option<(&'a Wire, usize)> {
        let Some(device) = device else { return named };
        self.topology.wires.iter().find_map(|wire| {
            let end = wire.end_in(node.as_str()).filter(|end| wire.ends[*end].device == *device)?;
            Some((wire, end))
        })
    }

    fn is_uplink(&self, node: &Name, device: Option<&Device>) -> bool {
        node.is_host() && device.is_some_and(|device| self.topology.host.uplinks.contains(device))
    }

    /// Who sent it: of what came over a wire, the address alone proves nothing.
    fn sender(&self, wire: Option<(&'a Wire, usize)>, source: IpAddr) -> Who<'a> {
        let who = self.who(source).unwrap_or(Who::Outside);
        let Some((wire, end)) = wire else { return who };
        let far = &wire.far(end).node;
        let passed_on = match who {
            Who::Node(_) => false,
            Who::Peer(hub, _) | Who::Clients(hub) => hub.name == *far,
            // A hub passes on what is forwarded to its leaves, and the host what is published.
            Who::Outside => !self.topology.is_leaf(far.as_str()) && !wire.ends[end].node.is_host(),
        };
        if passed_on { who } else { Who::Node(far) }
    }

    /// Whom it is for. `wire` is the one that it was to leave its sender by.
    fn receiver(&self, wire: Option<(&'a Wire, usize)>, destination: IpAddr) -> Who<'a> {
        let far = wire.map(|(wire, end)| &wire.far(end).node);
        match (self.who(destination), far) {
            (Some(who), _) => who,
            (None, Some(far)) if self.topology.is_leaf(far.as_str()) || !leaves_the_link(destination) => Who::Node(far),
            (None, _) => Who::Outside,
        }
    }

    /// Whether one may reach the other, as `why` says it.
    pub fn why(&self, from: Who<'a>, to: Who<'a>, service: Option<Service>) -> Option<why::Answer> {
        let question = (from.word(), to.word(), service);
        let mut answers = self.answers.borrow_mut();
        if let Some(known) = answers.get(&question) {
            return known.clone();
        }
        let answer = why::answer(self.topology, question.0, question.1, question.2.as_ref()).ok();
        if answers.len() >= ANSWERS {
            answers.clear();
        }
        answers.insert(question, answer.clone());
        answer
    }

    /// What a flow with `log = true` let pass.
    fn passes(&self, from: Who<'a>, to: Who<'a>, header: &Header) -> Said {
        match self.why(from, to, header.service()) {
            Some(answer) if answer.allowed => Said { line: answer.line, reason: answer.reason, hint: None },
            Some(answer) => Said {
                line: answer.line,
                reason: format!("the file does not allow it any more: {}", answer.reason),
                hint: Some("`wire up` makes the kernel match the file".into()),
            },
            None => Said { line: None, reason: "the file does not know of it".into(), hint: None },
        }
    }

    fn denied(&self, from: Who<'a>, to: Who<'a>, header: &Header) -> Said {
        if from.word() == to.word() {
            return among_itself(from, to);
        }
        let allowed = |from, to, service| self.why(from, to, Some(service)).filter(|answer| answer.allowed);
        let back = header.answered().and_then(|service| allowed(to, from, service));
        if let Some(answer) = back {
            let reason = format!("it answers a connection that `{}` does not know, or not any more", from.word());
            return Said { line: answer.line, reason, hint: None };
        }
        let Some(answer) = self.why(from, to, header.service()) else {
            let reason = format!("nothing in the file speaks of {} from {from} to {to}", header.flow());
            return Said { line: None, reason, hint: None };
        };
        if !answer.allowed {
            return Said { line: answer.line, reason: answer.reason, hint: answer.hint };
        }
        if matches!(header.part, Part::Tcp { opens: false, .. }) {
            let reason = "it belongs to a connection that is not known, or not any more".to_owned();
            return Said { line: answer.line, reason, hint: None };
        }
        let hint = "a condition of that line was not met (who it is from, where it was sent to, how often), or the kernel \
                    is not as the file says, which `wire audit` tells";
        Said { line: answer.line, reason: answer.reason, hint: Some(hint.into()) }
    }

    /// What is wrong with a packet on that wire whatever its flow. `end` is the one where it was.
    fn misaddressed(&self, wire: &'a Wire, end: usize, hook: Hook, header: &Header) -> Option<Said> {
        let (near, far) = (&wire.ends[end], wire.far(end));
        let said = |reason: String| Some(Said { line: Some(wire.place.line), reason, hint: None });
        let is_of = |end: &End, address: IpAddr| address == IpAddr::V4(end.address) || address6(end) == Some(address);
        if header.source.is_ipv6() && wire.subnet6.is_none() {
            let reason = format!("wire `{}` has no `subnet6`, so there is no IPv6 on it", wire.name);
            return Some(Said { hint: Some(format!("give wire `{}` a `subnet6`", wire.name)), ..said(reason)? });
        }
        let foreign = |address, end: &End, word: &str| {
            let whose = match self.who(address) {
                Some(who) if who == Who::Node(&end.node) => ", but on another".to_owned(),
                Some(who) => format!(", but of {who}"),
                None => String::new(),
            };
            said(format!("its {word} {address} is no address of `{}` on wire `{}`{whose}", end.node, wire.name))
        };
        if !leaves_the_link(header.destination) {
            return said(format!(
                "wire `{}` carries nothing for {}, only from one end to another",
                wire.name, header.destination
            ));
        }
        let sender = if hook == Hook::Out { near } else { far };
        let itself = hook == Hook::Out || self.sender(Some((wire, end)), header.source) == Who::Node(&far.node);
        if itself && !is_of(sender, header.source) {
            return foreign(header.source, sender, "source");
        }
        let receiver = if hook == Hook::Out { far } else { near };
        let beyond = match hook {
            Hook::In => false,
            Hook::Out => {
                self.receiver(Some((wire, end)), header.destination) != Who::Node(&far.node)
                    && !matches!(self.who(header.destination), Some(Who::Node(_)))
            }
            Hook::Through => true,
        };
        if !beyond && !is_of(receiver, header.destination) {
            return foreign(header.destination, receiver, "destination");
        }
        None
    }

    /// What came over no wire although the node has nothing else, or under an address that is not out there.
    fn strange(&self, node: &Name, hook: Hook, device: Option<&Device>, header: &Header) -> Option<Said> {
        if let Some(who) = self.who(header.source)
            && hook != Hook::Out
            && self.is_uplink(node, device)
        {
            let reason = format!("its source {} is an address of {who}, but it came in on an uplink", header.source);
            return Some(Said { line: None, reason, hint: None });
        }
        let clients = self.topology.hubs.get(node).and_then(|hub| hub.clients.as_ref());
        let is_tunnel = clients.is_some_and(|clients| Some(&clients.device) == device);
        if node.as_str() == HOST || hook == Hook::Through || is_tunnel {
            return None;
        }
        let device = device.map_or("a device".to_owned(), |device| format!("`{device}`"));
        let reason = match hook {
            Hook::Out => format!("it was to leave `{node}` by {device}, which is none of its wires"),
            _ => format!("it came in at `{node}` on {device}, which is none of its wires"),
        };
        Some(Said { line: None, reason, hint: Some("`wire audit` names what is there besides wires".into()) })
    }
}

fn address6(end: &End) -> Option<IpAddr> {
    end.address6.map(IpAddr::V6)
}

/// A wire that the rules know and the file does not, or not here.
fn struck(name: &Name) -> Said {
    let reason = format!("the file has no wire `{name}` there any more");
    Said { line: None, reason, hint: Some("`wire up` makes the kernel match the file".into()) }
}

/// What stays in one place for the file, and yet came to the rules.
fn among_itself(from: Who, to: Who) -> Said {
    let said = |hub: &Hub, reason| Said { line: Some(hub.place.line), reason, hint: None };
    match (from, to) {
        (Who::Clients(hub), Who::Clients(_)) => said(hub, format!("`{}` keeps its clients apart", hub.name)),
        (Who::Clients(hub), _) => {
            said(hub, format!("clients may open what `{0}` may over its wires, nothing to `{0}` itself", hub.name))
        }
        (_, Who::Clients(hub)) => {
            said(hub, format!("`{}` opens nothing to its clients, only replies go there", hub.name))
        }
        _ => {
            let reason = format!("it is under an address of `{}` itself and did not come from there", to.word());
            Said { line: None, reason, hint: None }
        }
    }
}

/// What no flow can name.
fn unopened(header: &Header) -> Option<Said> {
    if header.service().is_some() {
        return None;
    }
    let flow = header.flow();
    let reason = match header.part {
        Part::Unknown if header.protocol == 6 || header.protocol == 17 => {
            format!("it is a fragment of {flow}, or too short, and has no port")
        }
        _ => format!("no flow can name {flow}"),
    };
    Some(Said { line: None, reason, hint: None })
}

/// Whether an address may lie beyond the next node: no multicast, broadcast or link-local one.
pub fn leaves_the_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unicast_link_local()),
    }
}

impl Record {
    /// Whether it is about something of a scope: where it was, its wire, or one of the two nodes.
    pub fn is_in(&self, scope: &Scope) -> bool {
        let named = |name: &str| scope.nodes.contains(name);
        scope.everything
            || named(self.node.as_str())
            || self.wire.as_ref().is_some_and(|wire| scope.wires.contains(wire))
            || named(&self.from)
            || named(&self.to)
    }

    /// The packet as one line.
    pub fn line(&self, path: &str, paint: Paint) -> String {
        let verdict = match self.verdict {
            Verdict::Denied => paint.bad("denied"),
            Verdict::Watched => paint.careful("watched"),
            Verdict::Allowed => paint.good("allowed"),
        };
        let hook = match self.hook {
            Hook::In => "in at",
            Hook::Out => "out at",
            Hook::Through => "through",
        };
        let way = match (&self.wire, &self.device) {
            (Some(wire), _) => format!("over {wire}"),
            (None, Some(device)) => format!("over no wire ({device})"),
            (None, None) => "over no wire".to_owned(),
        };
        let at = |address: IpAddr, port: Option<u16>| match (address, port) {
            (address, None) => address.to_string(),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
            (address, Some(port)) => format!("{address}:{port}"),
        };
        let ends = format!("{} → {}", at(self.source, self.source_port), at(self.destination, self.destination_port));
        let place = self.line.map(|line| format!("{path}:{line}: ")).unwrap_or_default();
        let advice = self.hint.as_ref().filter(|_| self.verdict != Verdict::Allowed).unwrap_or(&self.reason);
        format!(
            "{} {verdict} {} {} → {} {way}, {hook} {}, {ends}; {}\n",
            paint.faint(&self.time),
            self.flow,
            self.from,
            self.to,
            self.node,
            paint.faint(&(place + advice)),
        )
    }
}

#[cfg(test)]
mod tests;
