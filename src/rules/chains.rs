//! The chains of one namespace, and the sets they look into: what enters where, and the few rules that a packet of one wire meets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::addresses::elements;
use super::opening::{INSIDE, PRIVATE, named, of_family, pairs};
use super::{Circumstances, Match, Opening, Path, Rules};
use crate::nft::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, NEW, RELATED, Side, TCP, UDP, Way, among};
use crate::nft::{
    Among, Base, Chain, Compare, Element, Hook, Key, Kind, Leads, Limit, Rule, Set, Table, Target, Text, Type, Value,
    Verdict,
};
use crate::topology::{Clients, Device, Mode, Name, OUTSIDE, Policy, Protocol, Service, Wire};

/// How often a denied packet of one wire is logged: a flood fills neither disk nor log.
const LOGGED: Limit = Limit { rate: 10, unit: 1, burst: 20, over: false };

/// How many addresses are counted against a rate at once. One more is let nowhere.
const METERED: u32 = 65_536;

/// How many different flows a wire in audit mode remembers.
const WOULD_BE: u32 = 4096;

/// `NFT_USERDATA_MAXLEN` is 256, and nft takes comments of up to 128 bytes with the closing NUL.
const COMMENT_MAX: usize = 127;

/// Where a proxy listens.
const WEB: [u16; 2] = [80, 443];

/// The name of the chain that denies what goes over a wire; in audit mode, that lets it pass and remembers it.
fn end_of(wire: &Wire) -> String {
    let word = if wire.mode == Mode::Audit { "watched" } else { "denied" };
    format!("{word}.{}", wire.name)
}

fn denied(wire: &Wire) -> String {
    format!("denied.{}", wire.name)
}

/// A table being made.
pub(super) struct Draft<'d, 'a> {
    pub(super) rules: &'d Rules<'a>,
    pub(super) node: &'d Name,
    pub(super) table: Table,
}

/// The map of what becomes of answers.
const ANSWERS: &str = "answers";
/// What a packet meets that no wire knows.
const NOBODY: &str = "denied";

impl<'d, 'a> Draft<'d, 'a> {
    /// The whole table of a node.
    pub(super) fn of(rules: &'d Rules<'a>, node: &'d Name, circumstances: &Circumstances) -> Table {
        let mut draft = Draft { rules, node, table: Table::default() };
        draft.base(circumstances);
        for (wire, side) in rules.wires_of(node) {
            draft.wire(wire, *side);
        }
        if let Some(clients) = rules.clients_of(node) {
            draft.clients(clients);
        }
        draft.translation();
        draft.table
    }

    fn chain(&mut self, name: impl Into<Text>, mut chain: Chain) {
        // A thousand tables are held at once, and a list grows by doubling.
        chain.rules.iter_mut().for_each(|rule| rule.expressions.shrink_to_fit());
        chain.rules.shrink_to_fit();
        self.table.chains.insert(name.into(), chain);
    }

    fn is_hub(&self) -> bool {
        self.rules.topology.hubs.contains_key(self.node)
    }

    /// The three chains that every packet enters by, the verdict maps of the wires' devices, and what all wires share.
    fn base(&mut self, circumstances: &Circumstances) {
        let rules = self.rules;
        let host = self.node.is_host().then_some(&rules.topology.host);
        let wires = rules.wires_of(self.node);
        let devices: Vec<&Device> = wires.iter().map(|(wire, side)| &wire.ends[*side].device).collect();
        let names = |prefix: &'static str| {
            let chain = move |(wire, _): &(&Wire, usize)| format!("{prefix}.{}", wire.name);
            devices.iter().copied().zip(wires.iter().map(chain)).collect::<Vec<_>>()
        };
        let uplinks: Vec<&Device> = self.uplinks();
        let mut input = vec![Rule::new().device(Way::In, "lo").accept()];
        let mut forward = Vec::new();
        let mut output = vec![Rule::new().device(Way::Out, "lo").accept()];
        if let Some(block) = host.and_then(|host| host.block.as_ref()) {
            for ipv4 in [true, false] {
                self.set(&named(block, ipv4));
                let blocked = || {
                    let rule = Rule::new().devices(Way::In, device_set(&uplinks), false);
                    let set = Among::Named(named(block, ipv4).into());
                    rule.address_in(Side::Source, ipv4, set, false)
                        .counted()
                        .drop()
                        .comment(format!("blocked: @{block}"))
                };
                input.push(blocked());
                forward.push(blocked());
            }
        }
        if !wires.is_empty() {
            self.map("input", names("in"));
            self.map("output", names("out"));
            let mut through = names("through");
            let tunnel = rules.clients_of(self.node).map(|clients| &clients.device);
            through.extend(tunnel.map(|device| (device, "clients".to_owned())));
            if host.is_some() {
                through.extend(uplinks.iter().map(|device| (*device, OUTSIDE.to_owned())));
            }
            self.map("forward", through);
            input.push(Rule::new().dispatch(Way::In, "input"));
            output.push(Rule::new().dispatch(Way::Out, "output"));
            forward.push(Rule::new().dispatch(Way::In, "forward"));
        }
        if let Some(clients) = rules.clients_of(self.node) {
            let device = clients.device.as_str();
            input.push(Rule::new().device(Way::In, device).state_by(ANSWERS));
            output.push(Rule::new().device(Way::Out, device).state_by(ANSWERS));
        }
        if let Some(host) = host {
            self.host_ends(&uplinks, &devices, host.policy, circumstances, [&mut input, &mut forward, &mut output]);
        }
        for (name, hook, rules) in
            [("input", Hook::Input, input), ("forward", Hook::Forward, forward), ("output", Hook::Output, output)]
        {
            let base = Base { kind: Kind::Filter, hook, priority: 0, drop: true };
            self.chain(name, Chain::base(base, rules.into_iter().chain(end(None))));
        }
        self.chain("related", related());
        self.states();
        self.chain(NOBODY, Chain::of(end(None)));
    }

    /// The devices that lead outside: the uplinks, and whatever else something is published on.
    pub(super) fn uplinks(&self) -> Vec<&'a Device> {
        let topology = self.rules.topology;
        let on = topology.wires.iter().flat_map(|wire| &wire.publish).filter_map(|publish| publish.on.as_ref());
        let all: BTreeSet<&Device> = topology.host.uplinks.iter().chain(on).collect();
        all.into_iter().collect()
    }

    /// What the host does with packets that have nothing to do with a wire.
    fn host_ends(
        &mut self,
        uplinks: &[&Device],
        devices: &[&Device],
        policy: Policy,
        circumstances: &Circumstances,
        [input, forward, output]: [&mut Vec<Rule>; 3],
    ) {
        let rules = self.rules;
        let from_outside = || Rule::new().devices(Way::In, device_set(uplinks), false);
        for pair in rules.wires_of(self.node).iter().flat_map(|(wire, side)| pairs(wire, *side)) {
            let own = IpNetwork::from(pair.own);
            let rule = Rule::new().address(Side::Destination, Compare::Equal, &own).goto(NOBODY);
            input.push(rule.comment("a wire's address, by another way"));
        }
        for ipv4 in [true, false] {
            let inside = of_family(INSIDE, ipv4);
            let any = rules.inside.iter().any(|(first, _, _)| first.is_ipv4() == ipv4);
            if !uplinks.is_empty() && any {
                self.set(&inside);
                let set = Among::Named(inside.into());
                let rule = from_outside().address_in(Side::Source, ipv4, set, false).goto(NOBODY);
                input.push(rule.comment("nobody outside has an address of the topology"));
            }
        }
        if !devices.is_empty() {
            let wired = Rule::new().devices(Way::Out, device_set(devices), false).goto(NOBODY);
            forward.push(wired.comment("only an uplink or a wire leads to a wire"));
        }
        match policy {
            Policy::Wires => input.push(Rule::new().accept().comment("nothing to do with a wire")),
            Policy::All => {
                input
                    .push(Rule::new().devices(Way::In, device_set(uplinks), true).accept().comment("not from outside"));
                input.extend(self.host_itself());
                // What the host forwards by itself comes from elsewhere, or is an answer.
                forward.push(Rule::new().state(ESTABLISHED | RELATED).accept());
                forward.push(from_outside().goto(NOBODY));
            }
        }
        let opened: Vec<&Device> = circumstances.opened.iter().collect();
        if !opened.is_empty() && policy == Policy::Wires {
            forward.push(Rule::new().state(ESTABLISHED | RELATED).accept());
            let rule = Rule::new().devices(Way::In, device_set(&opened), false).goto(NOBODY);
            forward.push(rule.comment("forwards for wires alone"));
        }
        forward.push(Rule::new().accept().comment("nothing to do with a wire"));
        output.push(Rule::new().accept().comment("nothing to do with a wire"));
        if !rules.wires_of(self.node).is_empty() && !uplinks.is_empty() {
            self.outside(uplinks);
        }
    }

    /// With `policy = "all"`: what may come to the host itself from an uplink.
    fn host_itself(&mut self) -> Vec<Rule> {
        let mut list = vec![
            Rule::new().by_state([
                (ESTABLISHED, Verdict::Accept),
                (RELATED, Verdict::Jump("related".into())),
                (INVALID, Verdict::Goto(NOBODY.into())),
            ]),
            // RFC 4861: neighbours and routers; RFC 2710 and 3810: who listens to which group.
            Rule::new().by_a_neighbour().icmp_types(ICMPV6, &[134, 135, 136]).accept(),
            Rule::new().icmp_types(ICMPV6, &[130, 131, 132, 143]).accept(),
            Rule::new().ports_between(UDP, 67, 68).accept().comment("DHCP"),
            Rule::new().family(false).ports_between(UDP, 547, 546).accept().comment("DHCPv6"),
        ];
        for (number, flow) in self.rules.topology.host.allow.iter().enumerate() {
            for ipv4 in [true, false] {
                if let Some(opening) = self.rules.to_host(flow, number, ipv4) {
                    list.extend(self.open(&opening, None, Verdict::Accept));
                }
            }
        }
        list
    }

    /// What comes in on an uplink to pass the host: only what is published, by the wire it leads to.
    fn outside(&mut self, uplinks: &[&Device]) {
        let rules = self.rules;
        let mut leads = Vec::new();
        for (wire, side) in rules.wires_of(self.node) {
            let openings = rules.handed_in(wire, *side);
            if openings.is_empty() && rules.speakers(wire, *side).next().is_none() {
                continue;
            }
            let chain = format!("outside.{}", wire.name);
            let mut list = Vec::new();
            for pair in pairs(wire, *side) {
                let inside = of_family(INSIDE, pair.ipv4);
                self.set(&inside);
                let set = Among::Named(inside.into());
                list.push(Rule::new().address_in(Side::Source, pair.ipv4, set, false).goto(&denied(wire)));
            }
            list.push(answers());
            for opening in &openings {
                let on: Vec<&Device> = match &opening.on {
                    Some(device) => vec![device],
                    None => rules.topology.host.uplinks.iter().collect(),
                };
                let on = (on.len() < uplinks.len()).then_some(on);
                list.extend(self.open(opening, on.as_deref(), Verdict::Accept));
            }
            list.push(Rule::new().goto(&denied(wire)));
            self.chain(chain.clone(), Chain::of(list));
            leads.push((&wire.ends[*side].device, chain));
        }
        let mut list = Vec::new();
        if !leads.is_empty() {
            self.map(OUTSIDE, leads);
            list.push(Rule::new().dispatch(Way::Out, OUTSIDE));
        }
        // The rest is said once, in `forward`, behind the look at the devices.
        list.push(Rule::new().verdict(Verdict::Return));
        self.chain(OUTSIDE, Chain::of(list));
    }

    /// The chains of one wire.
    fn wire(&mut self, wire: &'a Wire, side: usize) {
        let rules = self.rules;
        let here = &wire.ends[side].node;
        self.last(wire);
        let end = end_of(wire);
        let anybody = self.is_way_out(wire, side);

        let mut list = Vec::new();
        for pair in pairs(wire, side) {
            if !pair.ipv4 {
                list.extend(neighbours(pair.far));
            }
            let own = IpNetwork::from(pair.own);
            list.push(Rule::new().address(Side::Destination, Compare::Different, &own).goto(&end));
            list.extend(self.strangers(wire, side, pair.ipv4, anybody, &end));
        }
        list.push(answers());
        for opening in rules.into(wire, side) {
            list.extend(self.open(&opening, None, Verdict::Accept));
        }
        list.push(Rule::new().goto(&end));
        self.chain(format!("in.{}", wire.name), Chain::of(list));

        let mut list = Vec::new();
        for pair in pairs(wire, side) {
            if !pair.ipv4 {
                list.extend(neighbours(pair.own));
                // The kernel tells routers which groups it listens to (RFC 3810); there is none here to be told.
                list.push(Rule::new().icmp_types(ICMPV6, &[131, 132, 143]).drop());
            }
            let own = IpNetwork::from(pair.own);
            list.push(Rule::new().address(Side::Source, Compare::Different, &own).goto(&end));
        }
        // Where a proxy is started anew, whoever comes meanwhile is not turned away: he knocks again by himself.
        let proxy = rules.topology.hubs.get(here).filter(|hub| hub.serves_web());
        if let Some(hub) = proxy.filter(|_| wire.far(side).node.is_host()) {
            let rule = Rule::new().nobody_listens(&WEB).drop();
            list.push(rule.comment(format!("{}: who comes while it restarts knocks again", hub.name)));
        }
        list.push(answers());
        for opening in rules.out_of(wire, side) {
            list.extend(self.open(&opening, None, Verdict::Accept));
        }
        list.push(Rule::new().goto(&end));
        self.chain(format!("out.{}", wire.name), Chain::of(list));

        let mut list = Vec::new();
        let exit = rules.host_wire(here);
        let is_exit = exit.is_some_and(|exit| exit.name == wire.name);
        if here.is_host() || self.is_hub() && !is_exit {
            self.passing_out(wire, side, &mut list);
        } else if self.is_hub() && is_exit {
            self.passing_in(wire, side, &mut list);
        }
        list.push(Rule::new().goto(&denied(wire)));
        self.chain(format!("through.{}", wire.name), Chain::of(list));
    }

    /// Whether more than the far end and its clients may be heard over a wire.
    fn is_way_out(&self, wire: &'a Wire, side: usize) -> bool {
        let rules = self.rules;
        let (here, far) = (&wire.ends[side].node, &wire.far(side).node);
        let out = rules.way_out(here).first().is_some_and(|first| first.name == wire.name) && rules.speaks(here);
        let published = far.is_host() && !rules.published(wire).is_empty();
        !here.is_host() && (out || published || rules.forwards_to(here, wire).next().is_some())
    }

    /// Sends to the end of the chain what comes from an address that it may not come from over this wire.
    fn strangers(&mut self, wire: &'a Wire, side: usize, ipv4: bool, anybody: bool, end: &str) -> Vec<Rule> {
        let rules = self.rules;
        let Some(pair) = pairs(wire, side).into_iter().find(|pair| pair.ipv4 == ipv4) else { return Vec::new() };
        let known = || {
            let hub = &wire.far(side).node;
            let clients = rules.clients_of(hub).filter(|_| rules.knows_clients(hub, wire, 1 - side));
            let prefixes = clients.map(|clients| clients.prefix).filter(|prefix| prefix.is_ipv4() == ipv4);
            [IpNetwork::from(pair.far)].into_iter().chain(prefixes)
        };
        let not_known = || known().fold(Rule::new(), |rule, one| rule.address(Side::Source, Compare::Different, &one));
        if !anybody {
            return vec![not_known().goto(end)];
        }
        rules
            .outsiders(wire, side, ipv4)
            .into_iter()
            .filter(|not| !matches!(not, Match::Not(one) if known().any(|known| known == *one)))
            .map(|not| match not {
                Match::NotIn(set) => {
                    self.set(&set);
                    not_known().address_in(Side::Source, ipv4, Among::Named(set.into()), false).goto(end)
                }
                Match::Not(one) => Rule::new().address(Side::Source, Compare::Equal, &one).goto(end),
                Match::Is(_) | Match::In(_) => Rule::new().goto(end),
            })
            .collect()
    }

    /// From the far end of a wire to the outside, and answers to what came in.
    fn passing_out(&mut self, wire: &'a Wire, side: usize, list: &mut Vec<Rule>) {
        let rules = self.rules;
        let here = &wire.ends[side].node;
        for pair in pairs(wire, side) {
            let far = IpNetwork::from(pair.far);
            list.push(Rule::new().address(Side::Source, Compare::Different, &far).goto(&denied(wire)));
        }
        list.push(answers());
        let openings = rules.outwards(wire, side);
        let watched = wire.mode == Mode::Audit && rules.speaks(&wire.far(side).node);
        if openings.is_empty() && !watched {
            return;
        }
        for pair in pairs(wire, side) {
            let inside = of_family(INSIDE, pair.ipv4);
            self.set(&inside);
            let set = Among::Named(inside.into());
            let rule = Rule::new().address_in(Side::Destination, pair.ipv4, set, false).goto(&denied(wire));
            list.push(rule.comment("no address of the topology is outside"));
        }
        for opening in &openings {
            list.extend(self.open(opening, None, Verdict::Accept));
        }
        if watched {
            let exits: Vec<&Device> = match rules.host_wire(here).filter(|exit| exit.mode == Mode::Audit) {
                _ if here.is_host() => rules.topology.host.uplinks.iter().collect(),
                Some(exit) => exit.end_in(here.as_str()).map(|end| &exit.ends[end].device).into_iter().collect(),
                None => Vec::new(),
            };
            if !exits.is_empty() {
                list.push(Rule::new().devices(Way::Out, device_set(&exits), false).goto(&end_of(wire)));
            }
        }
    }

    /// From a hub's host wire to its leaves: what the hub hands on, and answers.
    fn passing_in(&mut self, wire: &'a Wire, side: usize, list: &mut Vec<Rule>) {
        let asked = !self.rules.for_clients(wire, side).is_empty();
        for pair in pairs(wire, side) {
            // What the hub's clients ask of the host is answered by the host itself.
            if asked {
                let answer = || Rule::new().address(Side::Source, Compare::Equal, &IpNetwork::from(pair.far));
                list.push(answer().state(ESTABLISHED).accept());
                list.push(answer().state(RELATED).jump("related"));
            }
            let inside = of_family(INSIDE, pair.ipv4);
            self.set(&inside);
            let set = Among::Named(inside.into());
            list.push(Rule::new().address_in(Side::Source, pair.ipv4, set, false).goto(&denied(wire)));
        }
        list.push(answers());
        for opening in self.rules.handed_through(&wire.ends[side].node) {
            list.extend(self.open(&opening, None, Verdict::Accept));
        }
    }

    /// What comes out of a hub's tunnel.
    fn clients(&mut self, clients: &'a Clients) {
        let rules = self.rules;
        let mut leads = Vec::new();
        for (wire, side) in rules.wires_of(self.node) {
            let openings = rules.for_clients(wire, *side);
            if openings.is_empty() && wire.mode != Mode::Audit {
                continue;
            }
            let mut list = Vec::new();
            for opening in &openings {
                list.extend(self.open(opening, None, Verdict::Accept));
            }
            list.push(Rule::new().goto(&end_of(wire)));
            let chain = format!("clients.{}", wire.name);
            self.chain(chain.clone(), Chain::of(list));
            leads.push((&wire.ends[*side].device, chain));
        }
        let mut list = vec![
            Rule::new()
                .family(clients.prefix.is_ipv4())
                .address(Side::Source, Compare::Different, &clients.prefix)
                .goto(NOBODY),
            Rule::new().family(!clients.prefix.is_ipv4()).goto(NOBODY),
        ];
        list.push(answers());
        if !leads.is_empty() {
            self.map("clients", leads);
            list.push(Rule::new().dispatch(Way::Out, "clients"));
        }
        let hub = rules.topology.hubs.get(self.node);
        if hub.and_then(|hub| hub.wireguard.as_ref()).is_some_and(|wireguard| !wireguard.isolate) {
            let device = clients.device.as_str();
            list.push(Rule::new().device(Way::Out, device).accept().comment("isolate = false"));
        }
        list.push(Rule::new().goto(NOBODY));
        self.chain("clients", Chain::of(list));
    }

    /// The rules that let a connection begin: more than one where there are ranges of ports.
    fn open(&mut self, opening: &Opening, on: Option<&[&Device]>, verdict: Verdict) -> Vec<Rule> {
        let ipv4 = opening.ipv4;
        let mut start = Rule::new();
        if let Some(on) = on {
            start = start.devices(Way::In, device_set(on), false);
        }
        match &opening.path {
            Path::To(device) => start = start.device(Way::Out, device.as_str()),
            Path::ToUplinks => {
                let uplinks: Vec<&Device> = self.rules.topology.host.uplinks.iter().collect();
                start = start.devices(Way::Out, device_set(&uplinks), false);
            }
            Path::In | Path::Out => {}
        }
        start = start.family(ipv4);
        for (side, matches) in [(Side::Source, &opening.from), (Side::Destination, &opening.to)] {
            for one in matches {
                start = match one {
                    Match::Is(network) => start.address(side, Compare::Equal, network),
                    Match::Not(network) => start.address(side, Compare::Different, network),
                    Match::In(set) | Match::NotIn(set) => {
                        self.set(set);
                        let inverted = matches!(one, Match::NotIn(_));
                        start.address_in(side, ipv4, Among::Named(set.as_str().into()), inverted)
                    }
                };
            }
        }
        let meter = opening.rate.as_ref().map(|(meter, rate)| {
            let name = format!("{}.{meter}", if ipv4 { "rate" } else { "rate6" });
            let unit = u64::from(rate.per.seconds());
            // Forgotten when it is whole again: sooner, it would be new and have its burst anew.
            let whole = unit * (u64::from(rate.burst) + 1) / u64::from(rate.count.max(1)) + 1;
            self.table.sets.entry(name.as_str().into()).or_insert_with(|| Set {
                key: vec![if ipv4 { Type::Ipv4 } else { Type::Ipv6 }],
                dynamic: true,
                timeout: true,
                size: METERED,
                expiry: whole.max(60),
                ..Set::default()
            });
            (name, Limit { rate: rate.count.into(), unit, burst: rate.burst, over: false })
        });
        let wire = opening.comment.split(':').next().unwrap_or_default().to_owned();
        services(start, &opening.service)
            .into_iter()
            .map(|mut rule| {
                if opening.handed_on.is_some() {
                    rule = rule.handed_on();
                }
                rule = rule.state(NEW);
                if let Some((set, limit)) = &meter {
                    rule = rule.limit_each(set, ipv4, *limit);
                }
                if opening.log {
                    rule = rule.log(format!("wire allowed {wire}"));
                }
                rule.verdict(verdict.clone()).comment(clipped(&opening.comment))
            })
            .collect()
    }

    /// The chains that a wire's packets end in when nothing lets them on, and their counters.
    fn last(&mut self, wire: &Wire) {
        self.table.counters.insert(denied(wire).into(), 0);
        self.chain(denied(wire), Chain::of(end(Some(wire))));
        if wire.mode != Mode::Audit {
            return;
        }
        let (watched, would) = (end_of(wire), format!("would.{}", wire.name));
        self.table.counters.insert(watched.as_str().into(), 0);
        self.table.sets.insert(
            would.as_str().into(),
            Set {
                key: vec![Type::Ipv4, Type::Ipv4, Type::Protocol, Type::Service],
                dynamic: true,
                size: WOULD_BE,
                ..Set::default()
            },
        );
        let rules = [
            Rule::new().limit(LOGGED).log(format!("wire watched {}", wire.name)),
            Rule::new().count(&watched),
            Rule::new().protocols(&[TCP, UDP], false).state(NEW).record(&would, false),
            // Not by ICMP's own number: nft takes that for implied by what follows, and forgets it.
            Rule::new().protocols(&[TCP, UDP], true).state(NEW).record(&would, true),
            Rule::new().accept(),
        ];
        self.chain(watched, Chain::of(rules));
    }

    /// Takes a named set of addresses into the table.
    pub(super) fn set(&mut self, name: &str) {
        let ranges = self.rules.ranges(name).unwrap_or_default();
        let ipv4 = !(name.starts_with("set6.") || name.ends_with('6') && [PRIVATE[1], INSIDE[1]].contains(&name));
        let timeout = name.starts_with("set.") || name.starts_with("set6.");
        self.table.sets.entry(name.into()).or_insert_with(|| Set {
            key: vec![if ipv4 { Type::Ipv4 } else { Type::Ipv6 }],
            interval: true,
            timeout,
            elements: elements(&ranges),
            ..Set::default()
        });
    }

    /// What becomes of a packet that belongs to a connection.
    fn states(&mut self) {
        let verdicts = [(ESTABLISHED, Verdict::Accept), (RELATED, Verdict::Jump("related".into()))];
        let element = |verdict| Element { leads_to: Some(Target::Verdict(verdict)), ..Element::default() };
        let elements = verdicts.into_iter().map(|(state, verdict)| (Key::One(Value::host(state)), element(verdict)));
        self.table.sets.insert(
            ANSWERS.into(),
            Set {
                key: vec![Type::CtState],
                leads_to: Some(Leads::Verdict),
                elements: elements.collect(),
                ..Set::default()
            },
        );
    }

    fn map(&mut self, name: &str, leads: Vec<(&Device, String)>) {
        // What leads from outside to no wire comes back: the host has its own ways.
        let verdict = |chain: String| match chain.as_str() {
            OUTSIDE => Verdict::Jump(OUTSIDE.into()),
            _ => Verdict::Goto(chain.into()),
        };
        let element = |chain| Element { leads_to: Some(Target::Verdict(verdict(chain))), ..Element::default() };
        let elements =
            leads.into_iter().map(|(device, chain)| (Key::One(Value::device(device.as_str())), element(chain)));
        self.table.sets.insert(
            name.into(),
            Set {
                key: vec![Type::IfName],
                leads_to: Some(Leads::Verdict),
                elements: elements.collect(),
                ..Set::default()
            },
        );
    }
}

/// The last rules of a chain: what comes so far is logged now and then, counted and dropped. The drop is a rule because a policy
/// alone lets packets pass in the moment in which a chain is made anew.
fn end(wire: Option<&Wire>) -> [Rule; 2] {
    match wire {
        Some(wire) => [
            Rule::new().limit(LOGGED).log(format!("wire denied {}", wire.name)),
            Rule::new().count(&denied(wire)).drop(),
        ],
        None => [Rule::new().limit(LOGGED).log("wire denied"), Rule::new().counted().drop()],
    }
}

/// Answers pass, and errors that belong to a connection. What belongs to none is invalid, and comes to the chain's end: whatever
/// is let begin has to be new. One map for all chains: the kernel takes long to name a set of its own in each of a thousand.
fn answers() -> Rule {
    Rule::new().state_by(ANSWERS)
}

/// Of what conntrack takes for related, errors of ICMP alone (RFC 792, RFC 4443): no helper opens a port.
fn related() -> Chain {
    Chain::of([
        Rule::new().icmp_types(ICMP, &[3, 11, 12]).accept(),
        Rule::new().icmp_types(ICMPV6, &[1, 2, 3, 4]).accept(),
    ])
}

/// Neighbour solicitation and advertisement (RFC 4861) from one end: by its address, or by its link-local one, which the kernel
/// asks from where it forwards, and where it makes sure of a neighbour that it knows.
fn neighbours(address: IpAddr) -> impl Iterator<Item = Rule> {
    // RFC 4291, 2.5.6.
    let link_local = IpNetwork::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 64);
    [Ok(IpNetwork::from(address)), link_local].into_iter().flatten().map(|from| {
        let rule = Rule::new().address(Side::Source, Compare::Equal, &from);
        rule.by_a_neighbour().icmp_types(ICMPV6, &[135, 136]).accept()
    })
}

/// A rule for each way of asking for a service: ports one by one in one, each range in one.
pub(super) fn services(start: Rule, service: &Service) -> Vec<Rule> {
    let protocol = number(service.protocol);
    if service.ports.is_empty() {
        let kind = service.icmp_type.as_deref().and_then(|kind| service.protocol.icmp_number(kind));
        return vec![match kind {
            Some(kind) => start.icmp_type(protocol, kind),
            None => start.protocol(protocol),
        }];
    }
    let single: Vec<u16> = service.ports.iter().filter(|(low, high)| low == high).map(|(low, _)| *low).collect();
    let mut rules = match single[..] {
        [] => Vec::new(),
        [port] => vec![start.clone().ports(protocol, (port, port))],
        _ => vec![start.clone().ports_in(protocol, &single)],
    };
    let ranges = service.ports.iter().filter(|(low, high)| low != high);
    rules.extend(ranges.map(|range| start.clone().ports(protocol, *range)));
    rules
}

pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Icmp => ICMP,
        Protocol::Icmpv6 => ICMPV6,
    }
}

/// As many characters as a comment may have: names are longer than the kernel's.
pub fn clipped(text: &str) -> Text {
    text.chars().take(COMMENT_MAX).collect::<String>().into()
}

pub(super) fn device_set(devices: &[&Device]) -> Among {
    among(Type::IfName, devices.iter().map(|device| Value::device(device.as_str())))
}
