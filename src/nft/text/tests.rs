use std::io::Write;
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;

use super::raise::{COMMENT_MAX, PREFIX_MAX};
use super::words::quoted;
use super::*;
use crate::nft::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, NEW, RELATED, Side, TCP, UDP, Way, among};
use crate::nft::{Among, Compare, Expression as E, Foreign, Header, Limit, Meta, REG, Text, Value, Verdict};

pub(crate) mod property;

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn text(text: &str) -> Text {
    text.into()
}

fn limit_of(rate: u64, unit: u64, burst: u32) -> Limit {
    Limit { rate, unit, burst, over: false }
}

/// A rule with more expressions than the builder has words for.
fn more<const N: usize>(mut rule: Rule, expressions: [E; N]) -> Rule {
    rule.expressions.extend(expressions);
    rule
}

const DPORT: E = E::Payload { base: Header::Transport, offset: 2, length: 2, to: REG };

fn compare(how: Compare, value: Value) -> E {
    E::Compare { from: REG, how, value }
}

/// A set of ranges in a rule.
fn ranges(of: Type, ends: &[(Value, Value)]) -> Among {
    let elements = ends.iter().map(|(first, last)| (Key::Range(*first, *last), Element::default())).collect();
    Among::Anonymous(Box::new(Set { key: vec![of], interval: true, elements, ..Set::default() }))
}

/// Everything that has words, and the words.
fn cases() -> Vec<(Rule, &'static str)> {
    let new = Rule::new;
    let devices = || among(Type::IfName, ["eth0", "lo", "odd*"].map(Value::device));
    let v4 = |text: &str| Value::address(text.parse().unwrap());
    let private = [
        ("10.0.0.0", "10.255.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.4", "192.0.2.9"),
        ("224.0.0.0", "255.255.255.255"),
    ];
    let private = private.map(|(first, last)| (v4(first), v4(last)));
    vec![
        (new().accept(), "accept"),
        (new().drop(), "drop"),
        (new().verdict(Verdict::Return), "return"),
        (new().jump("related"), "jump related"),
        (new().goto("denied.9lives"), "goto denied.9lives"),
        (new().device(Way::In, "lo").accept(), "iifname \"lo\" accept"),
        (new().device(Way::Out, "a$b;#{}'`\\ü").accept(), "oifname \"a$b;#{}'`\\ü\" accept"),
        (new().device(Way::In, "*").accept(), "iifname \"\\*\" accept"),
        (new().device(Way::In, "odd*").accept(), "iifname \"odd\\*\" accept"),
        (new().device(Way::In, "odd**").accept(), "iifname \"odd*\\*\" accept"),
        (new().device(Way::In, "a*b").accept(), "iifname \"a*b\" accept"),
        (new().devices(Way::In, devices(), false).accept(), "iifname { \"eth0\", \"lo\", \"odd\\*\" } accept"),
        (new().devices(Way::Out, devices(), true).drop(), "oifname != { \"eth0\", \"lo\", \"odd\\*\" } drop"),
        (new().dispatch(Way::In, "input"), "iifname vmap @input"),
        (
            more(new(), [E::Meta { key: Meta::IifName, to: REG }, compare(Compare::Different, Value::new(b"wl"))])
                .drop(),
            "iifname != \"wl*\" drop",
        ),
        (new().family(true).accept(), "meta nfproto ipv4 accept"),
        (new().family(false).drop(), "meta nfproto ipv6 drop"),
        (new().protocol(TCP).accept(), "meta l4proto tcp accept"),
        (new().protocol(ICMPV6).accept(), "meta l4proto icmpv6 accept"),
        (new().protocol(254).accept(), "meta l4proto 254 accept"),
        (new().address(Side::Source, Compare::Equal, &network("10.0.0.1")).accept(), "ip saddr 10.0.0.1 accept"),
        (
            new().address(Side::Destination, Compare::Different, &network("10.0.0.0/8")).drop(),
            "ip daddr != 10.0.0.0/8 drop",
        ),
        (
            new()
                .address(Side::Source, Compare::Equal, &network("10.1.2.0/23"))
                .address(Side::Destination, Compare::Different, &network("128.0.0.0/1"))
                .accept(),
            "ip saddr 10.1.2.0/23 ip daddr != 128.0.0.0/1 accept",
        ),
        (new().address(Side::Source, Compare::Equal, &network("0.0.0.0/0")).accept(), "meta nfproto ipv4 accept"),
        (
            new()
                .address(Side::Source, Compare::Equal, &network("fc00::/7"))
                .address(Side::Destination, Compare::Equal, &network("2001:db8::/64"))
                .accept(),
            "ip6 saddr fc00::/7 ip6 daddr 2001:db8::/64 accept",
        ),
        (
            new().address(Side::Source, Compare::Equal, &network("2001:db8::1")).by_a_neighbour().accept(),
            "ip6 saddr 2001:db8::1 ip6 hoplimit 255 accept",
        ),
        (
            more(
                new().family(true),
                [
                    E::Payload { base: Header::Network, offset: 12, length: 4, to: REG },
                    compare(Compare::AtLeast, v4("10.0.0.1")),
                    compare(Compare::AtMost, v4("10.0.0.9")),
                ],
            )
            .accept(),
            "ip saddr 10.0.0.1-10.0.0.9 accept",
        ),
        (
            new().address_in(Side::Source, true, Among::Named(text("set.office")), false).accept(),
            "ip saddr @set.office accept",
        ),
        (
            new().address_in(Side::Destination, false, Among::Named(text("set6.office")), true).drop(),
            "ip6 daddr != @set6.office drop",
        ),
        (
            new().address_in(Side::Source, true, ranges(Type::Ipv4, &private), true).drop(),
            "ip saddr != { 10.0.0.0/8, 172.16.0.0/12, 192.0.2.1, 192.0.2.4-192.0.2.9, 224.0.0.0/3 } drop",
        ),
        (new().ports(TCP, (80, 80)).accept(), "tcp dport 80 accept"),
        (new().ports(UDP, (8000, 8010)).accept(), "udp dport 8000-8010 accept"),
        (new().ports(TCP, (0, 65535)).accept(), "tcp dport 0-65535 accept"),
        (new().ports_between(UDP, 67, 68).accept(), "udp sport 67 udp dport 68 accept"),
        (new().ports_in(TCP, &[443, 80]).accept(), "tcp dport { 80, 443 } accept"),
        (
            more(new().protocol(UDP), [DPORT, compare(Compare::AtLeast, Value::port(1024))]).drop(),
            "udp dport >= 1024 drop",
        ),
        (new().nobody_listens(&[80, 443]).drop(), "tcp sport { 80, 443 } tcp flags rst tcp sequence 0 drop"),
        (new().family(false).ports(TCP, (80, 80)).accept(), "meta nfproto ipv6 tcp dport 80 accept"),
        (new().icmp_type(ICMP, 8).accept(), "icmp type echo-request accept"),
        (new().icmp_type(ICMPV6, 200).accept(), "icmpv6 type 200 accept"),
        (
            new().icmp_types(ICMP, &[3, 11, 12]).accept(),
            "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
        ),
        (
            new().by_a_neighbour().icmp_types(ICMPV6, &[133, 135, 136]).accept(),
            "ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
        ),
        (
            new().address(Side::Source, Compare::Equal, &network("10.0.0.1")).icmp_type(ICMP, 0).state(NEW).accept(),
            "ip saddr 10.0.0.1 icmp type echo-reply ct state new accept",
        ),
        (new().state(NEW).accept(), "ct state new accept"),
        (
            new().state(NEW | ESTABLISHED | RELATED | INVALID | 0x40).accept(),
            "ct state invalid,established,related,new,untracked accept",
        ),
        (new().handed_on().accept(), "ct status dnat accept"),
        (
            new().by_state([
                (RELATED, Verdict::Jump(text("related"))),
                (ESTABLISHED, Verdict::Accept),
                (INVALID, Verdict::Goto(text("denied.9lives"))),
            ]),
            "ct state vmap { invalid : goto denied.9lives, established : accept, related : jump related }",
        ),
        (new().not_for_this_host().accept(), "fib daddr type != local accept"),
        (new().limit(limit_of(10, 1, 20)).accept(), "limit rate 10/second burst 20 packets accept"),
        (new().limit(limit_of(3, 604_800, 5)).accept(), "limit rate 3/week accept"),
        (
            new().limit(Limit { over: true, ..limit_of(3, 86400, 1) }).drop(),
            "limit rate over 3/day burst 1 packets drop",
        ),
        (
            new().limit_each("rate.1", true, limit_of(10, 60, 3)).accept(),
            "update @rate.1 { ip saddr limit rate 10/minute burst 3 packets } accept",
        ),
        (
            new().record("would.9lives", false).accept(),
            "update @would.9lives { ip saddr . ip daddr . meta l4proto . th dport } accept",
        ),
        (
            new().protocols(&[TCP, UDP], true).record("would.9lives", true).accept(),
            "meta l4proto != { tcp, udp } update @would.9lives { ip saddr . ip daddr . meta l4proto . th sport } accept",
        ),
        (new().log("wire denied 9lives"), "log prefix \"wire denied 9lives\" group 119"),
        (new().log(""), "log group 119"),
        (new().counted().drop(), "counter drop"),
        (new().count("denied.9lives").drop(), "counter name \"denied.9lives\" drop"),
        (new().accept().comment("web to db, line 12"), "accept comment \"web to db, line 12\""),
        (
            new().ports(TCP, (80, 80)).dnat("10.0.0.1".parse().unwrap(), Some(8080)),
            "tcp dport 80 meta nfproto ipv4 dnat ip to 10.0.0.1:8080",
        ),
        (
            new()
                .device(Way::In, "eth0")
                .not_for_this_host()
                .family(false)
                .ports(UDP, (80, 81))
                .dnat("2001:db8::1".parse().unwrap(), Some(8080)),
            "iifname \"eth0\" fib daddr type != local meta nfproto ipv6 udp dport 80-81 dnat ip6 to [2001:db8::1]:8080",
        ),
        (
            new().protocol(254).dnat("10.0.0.1".parse().unwrap(), None),
            "meta l4proto 254 meta nfproto ipv4 dnat ip to 10.0.0.1",
        ),
        (
            new().address(Side::Source, Compare::Equal, &network("10.0.0.1")).snat("192.0.2.1".parse().unwrap()),
            "ip saddr 10.0.0.1 snat ip to 192.0.2.1",
        ),
        (new().device(Way::Out, "eth0").masquerade(), "oifname \"eth0\" masquerade"),
    ]
}

#[test]
fn rules_are_said_in_nfts_words() {
    for (rule, words) in cases() {
        assert_eq!(line(&rule), (words.to_owned(), true), "{rule:?}");
    }
}

#[test]
fn what_has_no_words_is_named_in_brackets() {
    let new = Rule::new;
    let unknown = |name: &str, attributes: &[u8]| E::Unknown { name: name.into(), attributes: attributes.into() };
    let cases = [
        (more(new(), [unknown("reject", &[])]), "[reject]"),
        (more(new().ports(TCP, (22, 22)), [unknown("x\ny", &[1, 255])]).drop(), "tcp dport 22 [x?y 0x01ff] drop"),
        // Of which family the address is, nothing says.
        (
            more(new(), [E::Payload { base: Header::Network, offset: 12, length: 4, to: REG }]),
            "[payload 4 at network + 12]",
        ),
        (
            more(new().protocol(TCP), [E::Payload { base: Header::Transport, offset: 13, length: 1, to: REG }])
                .verdict(Verdict::Other(3)),
            "meta l4proto tcp [payload 1 at transport + 13] [verdict 3]",
        ),
        (more(new(), [compare(Compare::Equal, Value::byte(7))]).accept(), "[cmp eq 0x07] accept"),
        (new().device(Way::In, "a\"b").accept(), "[meta iifname] [cmp eq \"a?b\"] accept"),
        (new().device(Way::In, "a\u{1b}b").drop(), "[meta iifname] [cmp eq 0x611b6200000000000000000000000000] drop"),
        (new().device(Way::In, "\\odd*").drop(), "[meta iifname] [cmp eq \"\\odd*\"] drop"),
        (new().device(Way::In, "fifteen-bytes-*").drop(), "[meta iifname] [cmp eq \"fifteen-bytes-*\"] drop"),
        (new().jump("accept"), "[jump accept]"),
        (new().goto("in.a b"), "[goto in.a b]"),
        (new().count("x\"y.z").drop(), "[objref x?y.z] drop"),
        (new().dispatch(Way::In, "9.lives"), "[meta iifname] [lookup @9.lives]"),
        (new().limit(limit_of(3, 7, 5)).accept(), "[limit 3 in 7 s, burst 5] accept"),
        (new().limit(limit_of(3, 1, 0)).accept(), "[limit 3 in 1 s, burst 0] accept"),
        // A port to hand on to needs a protocol.
        (
            new().dnat("10.0.0.1".parse().unwrap(), Some(80)),
            "meta nfproto ipv4 [immediate 0x0a000001] [immediate 0x0050] [nat destination]",
        ),
        (new().state(0x100).accept(), "[ct state] [bitwise & 0x00010000 ^ 0x00000000] [cmp neq 0x00000000] accept"),
        (
            more(
                new().family(true),
                [
                    E::Payload { base: Header::Network, offset: 12, length: 4, to: REG },
                    E::Lookup { set: among(Type::Service, [Value::port(1)]), from: REG, inverted: false, to: None },
                ],
            ),
            "[payload 4 at network + 12] [lookup { 0x0001 }]",
        ),
        (new().accept().drop(), "accept drop"),
    ];
    for (rule, words) in cases {
        assert_eq!(line(&rule), (words.to_owned(), false), "{rule:?}");
    }
}

#[test]
fn a_string_never_ends_where_somebody_else_wants() {
    let hostile = "x\" drop; # \n\u{0}\u{85}\ty \\";
    let rule = Rule::new().log(format!("{hostile}$z")).accept().comment(hostile);
    assert_eq!(
        line(&rule),
        ("log prefix \"x? drop; # ????y \\?z\" group 119 accept comment \"x? drop; # ????y \\\"".to_owned(), true)
    );
    // Longer than nft takes, and no character is cut in two.
    let rule = Rule::new().log("ü".repeat(64)).accept().comment("x".to_owned() + &"ü".repeat(64));
    let words = format!("log prefix \"{}\" group 119 accept comment \"x{0}\"", "ü".repeat(63));
    assert_eq!(line(&rule), (words, true));
}

/// What nft says of a table that it has loaded from this text, in a network namespace of its own.
fn listed(text: &str) -> Result<String, String> {
    let script = "nft -f - && nft -s list ruleset";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("`unshare` of the package util-linux");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(said(output.stdout)) } else { Err(format!("{}\n{text}", said(output.stderr))) }
}

/// A listing without what says the same in another way: comment lines, the order of elements, words that versions of nft add
/// or leave out, and a `*` that nft forgets to escape in a set.
fn canonical(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text: String = lines.map(|line| line.to_owned() + "\n").collect();
    let text = text.replace(",\n\t\t\t     ", ", ").replace("\\*\"", "*\"");
    let text = text.replace("ipv6-icmp", "icmpv6").replace(" burst 5 packets", "");
    let sorted = |part: &str| {
        let Some((inside, rest)) = part.split_once(" }") else { return part.to_owned() };
        let mut elements: Vec<&str> = inside.split(", ").collect();
        elements.sort();
        format!("{} }}{rest}", elements.join(", "))
    };
    text.split("{ ").map(sorted).collect::<Vec<_>>().join("{ ")
}

fn interval(of: Type, elements: &[(&str, &str, Option<u64>)]) -> Set {
    let value = |text: &str| Value::address(text.parse().unwrap());
    let elements = elements.iter().map(|(first, last, expires)| {
        (Key::Range(value(first), value(last)), Element { expires: *expires, ..Element::default() })
    });
    Set { key: vec![of], interval: true, timeout: true, elements: elements.collect(), ..Set::default() }
}

/// A map from devices to verdicts.
fn doors(elements: &[(&str, Verdict)]) -> Set {
    let elements = elements.iter().map(|(device, verdict)| {
        let leads_to = Some(Target::Verdict(verdict.clone()));
        (Key::One(Value::device(device)), Element { leads_to, ..Element::default() })
    });
    Set { key: vec![Type::IfName], leads_to: Some(Leads::Verdict), elements: elements.collect(), ..Set::default() }
}

fn base(kind: Kind, hook: Hook, priority: i32, drop: bool) -> Option<Base> {
    Some(Base { kind, hook, priority, drop })
}

/// A table with one of everything.
fn everything() -> Table {
    let goto = |chain: &str| Verdict::Goto(text(chain));
    let chain = |base, rules| Chain { base, rules };
    let dynamic = |key: &[Type], size, expiry| Set {
        key: key.to_vec(),
        dynamic: true,
        timeout: true,
        size,
        expiry,
        ..Set::default()
    };
    let recorded = [Type::Ipv4, Type::Ipv4, Type::Protocol, Type::Service];
    let ports = Set {
        key: vec![Type::Service],
        elements: [80, 443, 22, 25, 53, 110]
            .map(|port| (Key::One(Value::port(port)), Element::default()))
            .into_iter()
            .collect(),
        ..Set::default()
    };
    let pair = Key::Many(vec![Value::address("10.0.0.1".parse().unwrap()), Value::port(80)]);
    let pairs = Set {
        key: vec![Type::Ipv4, Type::Service],
        elements: [(pair, Element::default())].into_iter().collect(),
        ..Set::default()
    };
    let target = Element { leads_to: Some(Target::Value(Value::port(8080))), ..Element::default() };
    let moved = Set {
        key: vec![Type::Service],
        leads_to: Some(Leads::Value(Type::Service)),
        elements: [(Key::One(Value::port(80)), target)].into_iter().collect(),
        ..Set::default()
    };
    let offices = [
        ("10.0.0.0", "10.255.255.255", None),
        ("192.0.2.1", "192.0.2.1", Some(90_061)),
        ("192.0.2.4", "192.0.2.9", None),
    ];
    let offices6 =
        [("2001:db8::", "2001:db8::ffff", None), ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None)];
    Table {
        chains: [
            ("denied.b", chain(None, vec![Rule::new().count("denied.b").drop()])),
            ("denied.9lives", chain(None, vec![Rule::new().count("denied.9lives").drop()])),
            ("in.9lives", chain(None, cases().into_iter().map(|(rule, _)| rule).collect())),
            ("in.b", chain(None, vec![])),
            ("related", chain(None, vec![Rule::new().icmp_types(ICMP, &[3, 11]).accept()])),
            ("prerouting", chain(base(Kind::Nat, Hook::Prerouting, -100, false), vec![])),
            ("postrouting", chain(base(Kind::Nat, Hook::Postrouting, 100, false), vec![Rule::new().masquerade()])),
            ("output", chain(base(Kind::Filter, Hook::Output, 0, true), vec![Rule::new().counted().drop()])),
            ("input", chain(base(Kind::Filter, Hook::Input, -5, true), vec![Rule::new().dispatch(Way::In, "input")])),
            ("forward", chain(base(Kind::Filter, Hook::Forward, 11, true), vec![Rule::new().counted().drop()])),
        ]
        .map(|(name, chain)| (text(name), chain))
        .into(),
        sets: [
            ("input", doors(&[("lo", Verdict::Accept), ("a", goto("denied.9lives")), ("odd*", goto("in.b"))])),
            ("rate.1", dynamic(&[Type::Ipv4], 65535, 60)),
            ("would.9lives", dynamic(&recorded, 1000, 86400)),
            ("set.office", interval(Type::Ipv4, &offices)),
            ("set6.office", interval(Type::Ipv6, &offices6)),
            ("set.none", interval(Type::Ipv4, &[])),
            ("ports.1", ports),
            ("pairs.1", pairs),
            ("moved.1", moved),
        ]
        .map(|(name, set)| (text(name), set))
        .into(),
        counters: ["denied.b", "denied.9lives"].map(|name| (text(name), 7)).into(),
        ..Table::default()
    }
}

#[test]
fn nft_lists_what_it_was_told() {
    let text = table(&everything());
    let listed = listed(&text).unwrap();
    assert_eq!(canonical(&listed), canonical(&text));
}

#[test]
fn a_table_reads_from_the_hooks_to_the_wires() {
    let unsayable = Chain::of([Rule::new().accept()]);
    let mut table = everything();
    table.chains.insert(text("drop"), unsayable);
    table.sets.insert(text("a\nb.c"), Set { key: vec![Type::Ipv4], ..Set::default() });
    table.foreign.insert(Foreign::FlowTable(text("fast\tx")));
    table.dormant = true;
    table.sets.insert(text("forward"), doors(&[("a\"b", Verdict::Accept), ("c", Verdict::Drop)]));
    let said = super::table(&table);
    let heads: Vec<&str> = said.lines().filter(|line| line.starts_with('\t') && !line.starts_with("\t\t")).collect();
    let heads: Vec<&str> = heads.iter().map(|line| line.trim()).filter(|line| *line != "}").collect();
    let expected = "flags dormant|comment \"wire\"|counter denied.9lives {|counter denied.b {|# set a?b.c {|# type ipv4_addr|# }|\
         map forward {|map input {|map moved.1 {|set pairs.1 {|set ports.1 {|set rate.1 {|set set.none {|set set.office {|\
         set set6.office {|set would.9lives {|chain prerouting {|chain input {|chain forward {|chain output {|\
         chain postrouting {|# chain drop {|# accept|# }|chain related {|chain in.9lives {|chain denied.9lives {|\
         chain in.b {|chain denied.b {|# not made by wire: fast?x";
    assert_eq!(heads.join("|"), expected);
    let forward =
        "\tmap forward {\n\t\ttype ifname : verdict\n\t\telements = { \"c\" : drop }\n\t\t# \"a?b\" : accept\n\t}\n";
    assert!(said.contains(forward), "{said}");
    // All of it goes through nft, less what is a comment.
    assert_eq!(canonical(&listed(&said).unwrap()), canonical(&said).replace("\n\n\n", "\n\n").replace("\n\n}", "\n}"));
}
