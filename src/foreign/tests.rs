use std::collections::BTreeMap;
use std::sync::Arc;

use super::packet::{Packet, Probe};
use super::run;
use super::*;
use crate::nft::build::{ESTABLISHED, ICMP, INVALID, NEW, RELATED, Side, TCP, UDP, Way};
use crate::nft::others::{Family, Load, Ports};
use crate::nft::{
    Among, Compare, Ct, Element, Expression, Header, Key, Leads, Limit, Meta, REG, Rule, Set, Target, Text, Type,
    Value, Verdict,
};
use crate::parse;
use crate::rules::Ranges;
use crate::rules::{Match, Opening, Passage, Path};
use crate::state::{Foreign, Namespace};
use crate::topology::{Device, Protocol, Service};

/// What is judged of a packet by a base chain.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Passes,
    Drops,
    Translates,
    Unsure,
}
use Judged::{Drops, Passes, Translates, Unsure};

fn device(name: &str) -> Device {
    Device::new(name).expect("a device's name")
}

fn known(rules: impl IntoIterator<Item = Rule>) -> Vec<Vec<Step>> {
    rules.into_iter().map(|rule| rule.expressions.into_iter().map(Step::Known).collect()).collect()
}

/// A chain of the same name in a table of its own, with others that it may lead to, and sets.
fn table(
    hook: Hook,
    drop: bool,
    rules: Vec<Vec<Step>>,
    others: &[(&str, Vec<Vec<Step>>)],
    sets: &[(&str, Set)],
) -> Table {
    let base = Base { kind: Kind::Filter, hook, priority: 0, drop };
    let mut chains = BTreeMap::from([("base".into(), Chain { base: Some(base), rules })]);
    chains.extend(others.iter().map(|(name, rules)| (Text::from(*name), Chain { base: None, rules: rules.clone() })));
    let sets = sets.iter().map(|(name, set)| (Text::from(*name), set.clone())).collect();
    Table { family: Family::Inet, name: "theirs".into(), chains, sets }
}

fn base(hook: Hook, priority: i32) -> Base {
    Base { kind: Kind::Filter, hook, priority, drop: false }
}

/// What passes from `eth0` to `host-pub`, to tcp/443 of 192.168.100.1, given that destination by wire, dialled as 8443.
fn passage() -> Passage {
    let service = |port| Arc::new(Service { protocol: Protocol::Tcp, ports: vec![(port, port)], icmp_type: None });
    let opening = Opening {
        ipv4: true,
        path: Path::To(device("host-pub")),
        from: Vec::new(),
        to: vec![Match::Is("192.168.100.1/32".parse().expect("an address"))],
        service: service(443),
        handed_on: Some(service(8443)),
        on: None,
        rate: None,
        log: false,
        comment: "host-pub: published tcp/8443".to_owned(),
    };
    Passage { wire: Name::new("host-pub"), opening, from: vec![device("eth0")], to: vec![device("host-pub")] }
}

/// Runs the packets of a passage, or their answers, through a table.
fn judged_as(table: &Table, passage: &Passage, answer: bool) -> Judged {
    let topology = parse::topology("version = 1\n").expect("an empty file");
    let ranges = Ranges::new();
    let rules = Rules::of(&topology, &ranges);
    let indexes = BTreeMap::from([("lo".to_owned(), 1), ("eth0".to_owned(), 2), ("host-pub".to_owned(), 7)]);
    let probes = Probe::of(&Sets::of(&rules), passage, &indexes);
    assert_eq!(probes.len(), 1, "one port, one way");
    let packets = probes[0].packets(&table.chains["base"].base.expect("a base chain"), answer);
    assert!(!packets.is_empty(), "it comes there");
    let chosen = Chosen { table, chain: "base", base: table.chains["base"].base.expect("a base chain") };
    let all = |packet: &Packet| run::base(table, "base", packet).lets_pass();
    match (certain(&chosen, &packets, Outcome::dropped), certain(&chosen, &packets, Outcome::translated)) {
        (Some(_), _) => Drops,
        (_, Some(_)) => Translates,
        _ if packets.iter().all(all) => Passes,
        _ => Unsure,
    }
}

/// With a policy of accept, a rule that holds for certain and drops is a drop; one that may hold leaves it open.
#[track_caller]
fn holds(rule: Rule, wanted: Judged) {
    let told = format!("{rule:?}");
    let table = table(Hook::Forward, false, known([rule.drop()]), &[], &[]);
    assert_eq!(judged_as(&table, &passage(), false), wanted, "{told}");
}

#[test]
fn a_rule_holds_does_not_or_may() {
    let rule = Rule::new;
    let only = |text: &str| text.parse().expect("a network");
    let of = |side, how, text: &str| rule().address(side, how, &only(text));
    let limit = Limit { rate: 5, unit: 1, burst: 5, over: false };
    for (rule, wanted) in [
        (rule(), Drops),
        (rule().family(true), Drops),
        (rule().family(false), Passes),
        (rule().protocol(TCP), Drops),
        (rule().protocol(UDP), Passes),
        (rule().device(Way::In, "eth0"), Drops),
        (rule().device(Way::In, "eth"), Passes),
        (rule().device(Way::Out, "host-pub"), Drops),
        (rule().device(Way::Out, "eth0"), Passes),
        (rule().ports(TCP, (443, 443)), Drops),
        (rule().ports(TCP, (400, 500)), Drops),
        (rule().ports(TCP, (444, 500)), Passes),
        (rule().ports(TCP, (8443, 8443)), Passes),
        (rule().ports_in(TCP, &[80, 443]), Drops),
        (rule().ports_in(TCP, &[80, 81]), Passes),
        (rule().ports_between(TCP, 1024, 443), Unsure),
        (rule().ports_between(TCP, 1024, 80), Passes),
        (rule().state(NEW), Drops),
        (rule().state(ESTABLISHED | RELATED), Passes),
        (rule().handed_on(), Drops),
        (rule().icmp_type(ICMP, 8), Passes),
        (of(Side::Destination, Compare::Equal, "192.168.100.1/32"), Drops),
        (of(Side::Destination, Compare::Equal, "192.168.0.0/16"), Drops),
        (of(Side::Destination, Compare::Equal, "192.168.96.0/19"), Drops),
        (of(Side::Destination, Compare::Different, "192.168.96.0/19"), Passes),
        (of(Side::Destination, Compare::Equal, "10.0.0.0/8"), Passes),
        // Of those who may come, some have another address.
        (of(Side::Source, Compare::Equal, "198.51.100.0/24"), Unsure),
        (of(Side::Source, Compare::Equal, "192.168.0.0/16"), Passes),
        (of(Side::Source, Compare::Different, "192.168.0.0/16"), Drops),
        (rule().limit(limit), Unsure),
        (rule().counted().log("x"), Drops),
        (rule().not_for_this_host(), Drops),
        (rule().device(Way::In, "eth0").limit(limit), Unsure),
        (rule().device(Way::In, "lo").limit(limit), Passes),
        (rule().by_state([(ESTABLISHED, Verdict::Drop), (INVALID, Verdict::Drop)]), Passes),
        (rule().by_state([(ESTABLISHED, Verdict::Accept), (NEW, Verdict::Drop)]), Drops),
    ] {
        holds(rule, wanted);
    }
}

#[test]
fn what_only_others_ask_is_judged() {
    let drop = || Step::Known(Expression::Verdict(Verdict::Drop));
    let compare = |how, value| Step::Known(Expression::Compare { from: REG, how, value });
    let equal = |value| compare(Compare::Equal, value);
    let load = |what| Step::Load { what, to: REG };
    let port = |port: u16| Value::port(port);
    let dport = || Step::Known(Expression::Payload { base: Header::Transport, offset: 2, length: 2, to: REG });
    let range = |first, last, inverted| Step::Range { from: REG, inverted, first: port(first), last: port(last) };
    let ports = |of, ranges: &[(u16, u16)], inverted| Step::Ports { of, ranges: ranges.to_vec(), inverted };
    let states = |bits, inverted| Step::States { bits, inverted };
    let flags = || Step::Known(Expression::Payload { base: Header::Transport, offset: 13, length: 1, to: REG });
    let mask = |mask: u8| {
        Step::Known(Expression::Bitwise { from: REG, to: REG, mask: Value::byte(mask), xor: Value::byte(0) })
    };
    let status = || Step::Known(Expression::Ct { key: Ct::Status, to: REG });
    let wide =
        |mask| Step::Known(Expression::Bitwise { from: REG, to: REG, mask: Value::host(mask), xor: Value::host(0) });
    let cases: Vec<(Vec<Step>, Judged)> = vec![
        (vec![load(Load::Iif), equal(Value::host(2))], Drops),
        (vec![load(Load::Iif), equal(Value::host(1))], Passes),
        (vec![load(Load::Oif), equal(Value::host(7))], Drops),
        (vec![load(Load::EtherType), equal(Value::new(&[8, 0]))], Drops),
        (vec![load(Load::EtherType), equal(Value::new(&[0x86, 0xdd]))], Passes),
        (vec![load(Load::Direction), equal(Value::byte(0))], Drops),
        (vec![load(Load::Dialled), equal(port(8443))], Drops),
        (vec![load(Load::Dialled), equal(port(443))], Passes),
        (vec![dport(), range(400, 443, false)], Drops),
        (vec![dport(), range(400, 443, true)], Passes),
        (vec![dport(), range(444, 500, true)], Drops),
        (vec![ports(Ports::Destination, &[(80, 80), (440, 450)], false)], Drops),
        (vec![ports(Ports::Destination, &[(80, 80)], true)], Drops),
        (vec![ports(Ports::Source, &[(0, u16::MAX)], false)], Drops),
        (vec![ports(Ports::Source, &[(1024, u16::MAX)], false)], Unsure),
        (vec![ports(Ports::Either, &[(443, 443)], false)], Drops),
        (vec![ports(Ports::Either, &[(80, 80)], false)], Unsure),
        (vec![states(NEW, false)], Drops),
        (vec![states(NEW, true)], Passes),
        (vec![states(ESTABLISHED | RELATED, false)], Passes),
        (vec![states(0x80, false)], Drops),
        (vec![states(0x40, false)], Unsure),
        (vec![Step::Destination { types: 1 << 2, inverted: false }], Passes),
        (vec![Step::Destination { types: 1 << 1, inverted: false }], Drops),
        (vec![Step::Destination { types: 1 << 2, inverted: true }], Drops),
        (vec![Step::Icmp { kind: 8, inverted: true }], Drops),
        (vec![flags(), mask(0x12), equal(Value::byte(2))], Drops),
        (vec![flags(), mask(0x12), equal(Value::byte(0x12))], Passes),
        (vec![flags(), mask(0xc0), equal(Value::byte(0))], Unsure),
        (vec![status(), wide(0x20), compare(Compare::Different, Value::host(0))], Drops),
        (vec![status(), wide(0x10), compare(Compare::Different, Value::host(0))], Unsure),
        (vec![Step::Nothing], Drops),
        (vec![Step::Strange], Unsure),
        (vec![load(Load::Iif), Step::Strange, equal(Value::host(1))], Unsure),
        // What was never put there is not known, and no register is beyond the last.
        (vec![equal(Value::host(1))], Unsure),
        (vec![Step::Known(Expression::Compare { from: 255, how: Compare::Equal, value: Value::host(0) })], Unsure),
        (vec![Step::Known(Expression::Payload { base: Header::Transport, offset: 200, length: 2, to: REG })], Unsure),
        (vec![Step::Known(Expression::Payload { base: Header::Link, offset: 0, length: 6, to: 200 })], Unsure),
    ];
    for (mut steps, wanted) in cases {
        let told = format!("{steps:?}");
        steps.push(drop());
        let table = table(Hook::Forward, false, vec![steps], &[], &[]);
        assert_eq!(judged_as(&table, &passage(), false), wanted, "{told}");
    }
    for (steps, wanted) in [
        (vec![Step::Reject], Drops),
        (vec![Step::Anything], Unsure),
        (vec![Step::Translate], Translates),
        (vec![], Passes),
    ] {
        let table = table(Hook::Forward, false, vec![steps], &[], &[]);
        assert_eq!(judged_as(&table, &passage(), false), wanted);
    }
}

/// Jumps come back, gotos do not; the first end of a packet is its end; what may happen on the way leaves it open only where
/// it may let the packet pass.
#[test]
fn chains_are_followed() {
    let rule = Rule::new;
    let perhaps = || rule().limit(Limit { rate: 5, unit: 1, burst: 5, over: false });
    let never = || rule().device(Way::In, "lo");
    let back = |rule: Rule| rule.verdict(Verdict::Return);
    let empty: Vec<Rule> = Vec::new();
    let cases: Vec<(bool, Vec<Rule>, Vec<Rule>, Judged)> = vec![
        (true, vec![], empty.clone(), Drops),
        (true, vec![rule().accept()], empty.clone(), Passes),
        (true, vec![never().accept()], empty.clone(), Drops),
        (true, vec![perhaps().accept()], empty.clone(), Unsure),
        (true, vec![perhaps().drop()], empty.clone(), Drops),
        (false, vec![perhaps().drop()], empty.clone(), Unsure),
        (false, vec![rule().accept(), rule().drop()], empty.clone(), Passes),
        (false, vec![perhaps().accept(), rule().drop()], empty.clone(), Unsure),
        (true, vec![back(rule()), rule().accept()], empty.clone(), Drops),
        (true, vec![rule().jump("other")], vec![rule().accept()], Passes),
        (true, vec![rule().jump("other"), rule().accept()], vec![back(rule()), rule().drop()], Passes),
        (true, vec![rule().goto("other"), rule().accept()], empty.clone(), Drops),
        (true, vec![rule().jump("other"), rule().accept()], empty.clone(), Passes),
        (false, vec![rule().jump("other")], vec![never().accept(), rule().drop()], Drops),
        (false, vec![perhaps().jump("other"), rule().drop()], vec![rule().accept()], Unsure),
        (false, vec![perhaps().jump("other"), rule().drop()], vec![rule().drop()], Drops),
        (false, vec![perhaps().goto("other"), rule().drop()], empty.clone(), Unsure),
        (true, vec![perhaps().goto("other")], empty.clone(), Drops),
        (false, vec![rule().verdict(Verdict::Other(3)), rule().drop()], empty.clone(), Unsure),
        (false, vec![rule().jump("nowhere"), rule().drop()], empty, Unsure),
    ];
    for (drop, rules, other, wanted) in cases {
        let told = format!("{drop} {rules:?} {other:?}");
        let table = table(Hook::Forward, drop, known(rules), &[("other", known(other))], &[]);
        assert_eq!(judged_as(&table, &passage(), false), wanted, "{told}");
    }
    // A chain that leads to itself, which the kernel never has, ends.
    let round = table(Hook::Forward, true, known([rule().jump("base"), rule().accept()]), &[], &[]);
    assert_eq!(judged_as(&round, &passage(), false), Unsure);
}

#[test]
fn sets_and_maps_are_looked_into() {
    let names = |names: &[&str]| {
        let elements = names.iter().map(|name| (Key::One(Value::device(name)), Element::default())).collect();
        Set { key: vec![Type::IfName], elements, ..Set::default() }
    };
    let ranges = |first: &str, last: &str| {
        let value = |text: &str| Value::address(text.parse().expect("an address"));
        let key = Key::Range(value(first), value(last));
        Set {
            key: vec![Type::Ipv4],
            interval: true,
            elements: [(key, Element::default())].into_iter().collect(),
            ..Set::default()
        }
    };
    let lookup = |set: Set, inverted| Rule::new().devices(Way::In, Among::Anonymous(Box::new(set)), inverted);
    for (rule, wanted) in [
        (lookup(names(&["eth0", "eth1"]), false), Drops),
        (lookup(names(&["eth1", "eth2"]), false), Passes),
        (lookup(names(&["eth1", "eth2"]), true), Drops),
        (lookup(Set { dynamic: true, ..names(&["eth0", "eth1"]) }, false), Unsure),
        (lookup(Set { key: vec![Type::Other], ..names(&[]) }, false), Unsure),
    ] {
        holds(rule, wanted);
    }
    let named = |set: Set, side| {
        let rule = Rule::new().address_in(side, true, Among::Named("s".into()), false).drop();
        judged_as(&table(Hook::Forward, false, known([rule]), &[], &[("s", set)]), &passage(), false)
    };
    assert_eq!(named(ranges("192.168.0.0", "192.168.255.255"), Side::Destination), Drops);
    assert_eq!(named(ranges("192.168.100.2", "192.168.255.255"), Side::Destination), Passes);
    assert_eq!(named(ranges("198.51.100.0", "198.51.100.255"), Side::Source), Unsure);
    let missing = Rule::new().address_in(Side::Source, true, Among::Named("none".into()), false).drop();
    assert_eq!(judged_as(&table(Hook::Forward, false, known([missing]), &[], &[]), &passage(), false), Unsure);

    let lead = |verdict: &Verdict| Element { leads_to: Some(Target::Verdict(verdict.clone())), ..Element::default() };
    let map = |name: &str, verdict: Verdict| Set {
        leads_to: Some(Leads::Verdict),
        elements: [(Key::One(Value::device(name)), lead(&verdict))].into_iter().collect(),
        ..names(&[])
    };
    for (set, wanted) in [
        (map("eth0", Verdict::Drop), Drops),
        (map("eth1", Verdict::Drop), Passes),
        (map("eth0", Verdict::Jump("other".into())), Drops),
        (map("eth0", Verdict::Goto("none".into())), Unsure),
    ] {
        let table = table(
            Hook::Forward,
            false,
            known([Rule::new().dispatch(Way::In, "m")]),
            &[("other", known([Rule::new().drop()]))],
            &[("m", set)],
        );
        assert_eq!(judged_as(&table, &passage(), false), wanted);
    }
    let unknown = table(Hook::Forward, true, known([Rule::new().dispatch(Way::In, "m")]), &[], &[]);
    assert_eq!(judged_as(&unknown, &passage(), false), Unsure);

    // A map of values: what it leads to is there for the next step.
    let value = Element { leads_to: Some(Target::Value(Value::port(443))), ..Element::default() };
    let values = Set {
        leads_to: Some(Leads::Value(Type::Service)),
        elements: [(Key::One(Value::device("eth0")), value)].into_iter().collect(),
        ..names(&[])
    };
    let steps = [
        Expression::Meta { key: Meta::IifName, to: REG },
        Expression::Lookup { set: Among::Anonymous(Box::new(values)), from: REG, inverted: false, to: Some(2) },
        Expression::Compare { from: 2, how: Compare::Equal, value: Value::port(443) },
        Expression::Verdict(Verdict::Drop),
    ];
    let mapped = table(Hook::Forward, false, vec![steps.into_iter().map(Step::Known).collect()], &[], &[]);
    assert_eq!(judged_as(&mapped, &passage(), false), Drops);

    // A concatenation has its parts in four bytes each.
    let parts = vec![Value::address("192.168.100.1".parse().expect("an address")), Value::byte(TCP), Value::port(443)];
    let pairs = Set {
        key: vec![Type::Ipv4, Type::Protocol, Type::Service],
        elements: [(Key::Many(parts), Element::default())].into_iter().collect(),
        ..Set::default()
    };
    let steps = [
        Expression::Payload { base: Header::Network, offset: 16, length: 4, to: REG },
        Expression::Meta { key: Meta::L4Proto, to: 9 },
        Expression::Payload { base: Header::Transport, offset: 2, length: 2, to: 10 },
        Expression::Lookup { set: Among::Anonymous(Box::new(pairs)), from: REG, inverted: false, to: None },
        Expression::Verdict(Verdict::Drop),
    ];
    let joined = table(Hook::Forward, false, vec![steps.into_iter().map(Step::Known).collect()], &[], &[]);
    assert_eq!(judged_as(&joined, &passage(), false), Drops);
}

/// What a packet is depends on where it is met: before wire hands it on it has another destination, behind where sources are
/// translated its own is not known, and an answer has everything the other way round.
#[test]
fn a_packet_is_as_its_hook_sees_it() {
    let topology = parse::topology("version = 1\n").expect("an empty file");
    let ranges = Ranges::new();
    let rules = Rules::of(&topology, &ranges);
    let (passage, indexes) = (passage(), BTreeMap::new());
    let probes = Probe::of(&Sets::of(&rules), &passage, &indexes);
    let probe = &probes[0];
    let at = |hook, priority, answer| probe.packets(&base(hook, priority), answer);
    assert!(at(Hook::Input, 0, false).is_empty() && at(Hook::Output, 0, true).is_empty());
    assert!(at(Hook::Other, 0, false).is_empty());
    let nat = Base { kind: Kind::Nat, ..base(Hook::Postrouting, 100) };
    assert!(probe.packets(&nat, true).is_empty() && !probe.packets(&nat, false).is_empty());

    let far = "192.168.100.1".parse().ok();
    let raw = &at(Hook::Prerouting, -300, false)[0];
    assert_eq!(
        (raw.to, raw.ports, raw.local, raw.state, raw.handed_on),
        (None, Some((8443, 8443)), Some(true), INVALID, None)
    );
    assert!(raw.oif.is_none() && raw.from.is_some());
    let early = &at(Hook::Prerouting, -150, false)[0];
    assert_eq!((early.ports, early.state, early.handed_on), (Some((8443, 8443)), NEW, Some(false)));
    let late = &at(Hook::Prerouting, 0, false)[0];
    assert_eq!((late.to, late.ports, late.local, late.handed_on), (far, Some((443, 443)), Some(false), Some(true)));
    let forward = &at(Hook::Forward, 0, false)[0];
    assert_eq!((forward.iif, forward.oif), (Some(&device("eth0")), Some(&device("host-pub"))));
    let behind = &at(Hook::Postrouting, 200, false)[0];
    assert_eq!((behind.from, behind.to), (None, far));
    let back = &at(Hook::Forward, 0, true)[0];
    assert_eq!((back.iif, back.oif), (Some(&device("host-pub")), Some(&device("eth0"))));
    assert_eq!((back.from, back.source, back.ports, back.state), (far, Some((443, 443)), None, ESTABLISHED));
    assert!(at(Hook::Forward, 0, false).len() > 2, "nobody in particular is several");
}

/// Only those who may come are tried, and where nobody may, nothing is said.
#[test]
fn addresses_are_of_those_who_may_come() {
    let text = "version = 1
[set.friends]
elements = [\"203.0.113.0/28\"]
[set.nobody]
";
    let topology = parse::topology(text).expect("a file");
    let value = |text: &str| text.parse().expect("an address");
    let friends = vec![(value("203.0.113.0"), value("203.0.113.15"), None)];
    let name = |text: &str| Name::new(text).expect("a name");
    let ranges = Ranges::from([(name("friends"), friends), (name("nobody"), Vec::new())]);
    let rules = Rules::of(&topology, &ranges);
    let indexes = BTreeMap::new();
    let from = |from: Vec<Match>| {
        let mut passage = passage();
        passage.opening.from = from;
        let probes = Probe::of(&Sets::of(&rules), &passage, &indexes);
        let packets = probes.iter().flat_map(|probe| probe.packets(&base(Hook::Forward, 0), false));
        packets.map(|packet| packet.from.expect("known").to_string()).collect::<Vec<String>>()
    };
    assert_eq!(from(vec![Match::In("set.friends".to_owned())]), ["203.0.113.0", "203.0.113.15"]);
    assert!(from(vec![Match::In("set.nobody".to_owned())]).is_empty());
    let is = |text: &str| Match::Is(text.parse().expect("a network"));
    assert_eq!(from(vec![is("10.1.1.1/32")]), ["10.1.1.1"]);
    assert!(from(vec![is("10.1.1.1/32"), Match::In("set.friends".to_owned())]).is_empty());
    assert!(from(vec![Match::NotIn("private".to_owned())]).len() > 1);
    assert!(from(vec![is("10.0.0.0/8"), Match::NotIn("private".to_owned())]).is_empty());
}

const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-pub", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80,443", "tcp/8000-8010", "udp/500"], allow-back = ["icmp/echo-request"] },
  { name = "a-wire-whose-name-is-long", ends = ["host", "web"], subnet = "192.168.101.0/31", subnet6 = "fd00::/127", publish = ["tcp/1", "tcp/3", "tcp/5", "tcp/7", "tcp/9", "tcp/11", "tcp/13", "tcp/15", "tcp/17", "tcp/19", "tcp/21", "tcp/23", "tcp/25", "tcp/27", "tcp/29", "tcp/31-33"] },
]
[host]
uplinks = ["eth0"]
policy = "all"
allow = ["tcp/22"]
[module]
m = ["edge", "web"]
"#;

/// Everything that is found in a house with one foreign table.
fn found(tables: Vec<Table>) -> Vec<Finding> {
    let topology = parse::topology(HOUSE).expect("a file");
    let ranges = Ranges::new();
    let rules = Rules::of(&topology, &ranges);
    let scope = Scope::everything(&topology);
    let wanted = crate::desired::up(&topology, &rules, &scope, &State::default());
    let mut host = wanted.namespaces[&Name::host()].clone();
    host.foreign = Foreign { tables, ..Foreign::default() };
    let seen = State { namespaces: [(Name::host(), host)].into(), ..State::default() };
    findings(&rules, &scope, &seen)
}

fn dropping(family: Family, name: &str, chain: &str, hook: Hook, priority: i32) -> Table {
    let base = Base { kind: Kind::Filter, hook, priority, drop: true };
    let chains = [(Text::from(chain), Chain { base: Some(base), rules: Vec::new() })].into();
    Table { family, name: name.into(), chains, sets: BTreeMap::new() }
}

/// What to add, in the words of each tool: no line longer than it takes, no name that means something else.
#[test]
fn lines_are_in_the_words_of_the_tool() {
    let lines = |table: Table| -> Vec<String> {
        let found = found(vec![table]);
        let hint = &found.first().expect("a finding").hint;
        hint.lines().skip(1).map(|line| line.trim_start().to_owned()).collect()
    };
    let long = Device::for_wire(&Name::new("a-wire-whose-name-is-long").expect("a name"));
    assert_eq!(
        lines(dropping(Family::Inet, "fw", "forward", Hook::Forward, 0)),
        [
            "nft insert rule inet fw forward iifname \"eth0\" oifname \"host-pub\" tcp dport { 80, 443, 8000-8010 } accept".to_owned(),
            "nft insert rule inet fw forward iifname \"eth0\" oifname \"host-pub\" udp dport 500 accept".to_owned(),
            format!(
                "nft insert rule inet fw forward iifname \"eth0\" oifname '\"{long}\"' tcp dport \
                 {{ 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31-33 }} accept"
            ),
            "nft insert rule inet fw forward ct state established,related accept".to_owned(),
        ]
    );
    assert_eq!(
        lines(dropping(Family::Ip, "filter", "FORWARD", Hook::Forward, 0)),
        [
            "iptables -I FORWARD -i eth0 -o host-pub -p tcp -m multiport --dports 80,443,8000:8010 -j ACCEPT"
                .to_owned(),
            "iptables -I FORWARD -i eth0 -o host-pub -p udp --dport 500 -j ACCEPT".to_owned(),
            format!(
                "iptables -I FORWARD -i eth0 -o {long} -p tcp -m multiport --dports \
                 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29 -j ACCEPT"
            ),
            format!("iptables -I FORWARD -i eth0 -o {long} -p tcp --dport 31:33 -j ACCEPT"),
            "iptables -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
        ]
    );
    assert_eq!(
        lines(dropping(Family::Ip, "filter", "INPUT", Hook::Input, 0)),
        [
            "iptables -I INPUT -i host-pub -p icmp --icmp-type 8 -j ACCEPT",
            "iptables -I INPUT -i eth0 -p tcp --dport 22 -j ACCEPT",
        ]
    );
    // Before conntrack, answers are told by their port.
    let raw = lines(dropping(Family::Ip6, "raw", "PREROUTING", Hook::Prerouting, -300));
    let first = "ip6tables -t raw -I PREROUTING -i eth0 -p tcp -m multiport --dports 1,3,";
    assert!(raw[0].starts_with(first), "{raw:#?}");
    let back = format!("ip6tables -t raw -I PREROUTING -i {long} -p tcp -m multiport --sports 1,3,");
    assert!(raw.iter().any(|line| line.starts_with(&back)), "{raw:#?}");
    // No tool takes `-i` there.
    let behind = lines(dropping(Family::Ip, "mangle", "POSTROUTING", Hook::Postrouting, -150));
    assert!(behind.iter().all(|line| line.starts_with("iptables -t mangle -I POSTROUTING ") && !line.contains(" -i ")));
    assert_eq!(
        lines(dropping(Family::Inet, "firewalld", "filter_INPUT", Hook::Input, 10)),
        [
            "firewall-cmd --permanent --zone=trusted --add-interface=host-pub",
            "firewall-cmd --permanent --add-port=22/tcp",
            "firewall-cmd --reload",
        ]
    );
    // Names of others are only shown, and no line has them that a shell could take for something else.
    for name in ["$(reboot)", "a;b", "--help", "x\u{1b}[2J", "`id`"] {
        let finding = &found(vec![dropping(Family::Inet, "fw", name, Hook::Forward, 0)])[0];
        assert!(!finding.hint.contains('\n') && finding.hint.ends_with("let these pass there"), "{}", finding.hint);
        assert!(!finding.message.contains(['\u{1b}', '\n']) && finding.message.matches('`').count().is_multiple_of(2));
    }
}

/// One finding a chain, however much it drops: the first few by their names, and how many more.
#[test]
fn a_chain_is_one_finding() {
    let both = vec![
        dropping(Family::Ip, "filter", "FORWARD", Hook::Forward, 0),
        dropping(Family::Ip6, "filter", "FORWARD", Hook::Forward, 0),
    ];
    let all = found(both);
    assert_eq!(all.len(), 2);
    let Finding { node, wire, kind, message, blocks, .. } = &all[0];
    assert_eq!((node, wire, *kind, *blocks), (&Name::host(), &None, "foreign-drop", false));
    assert!(message.starts_with("chain `FORWARD` of somebody else's table `ip filter` at host"), "{message}");
    assert!(message.contains("by its policy: `host-pub: published tcp/80,443`, "), "{message}");
    assert!(message.ends_with(" and 16 more"), "{message}");
    assert_eq!(all[1].wire, Name::new("a-wire-whose-name-is-long"), "the one wire with IPv6");
}

/// What is not there cannot be dropped, and what is not asked for is not looked at.
#[test]
fn only_wires_that_are_there_are_looked_at() {
    let topology = parse::topology(HOUSE).expect("a file");
    let ranges = Ranges::new();
    let rules = Rules::of(&topology, &ranges);
    let tables = vec![dropping(Family::Inet, "fw", "forward", Hook::Forward, 0)];
    let bare = Namespace { foreign: Foreign { tables, ..Foreign::default() }, ..Namespace::default() };
    let seen = State { namespaces: [(Name::host(), bare)].into(), ..State::default() };
    assert_eq!(findings(&rules, &Scope::everything(&topology), &seen), []);
}
