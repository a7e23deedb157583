//! Tables loaded into the kernel and read back, in namespaces of their own.

mod oracle;
mod others;

use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::super::socket::NETLINK_NETFILTER;
use super::*;
use crate::nft::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, NEW, RELATED, Side, TCP, UDP, Way, among};
use crate::nft::{Base, Chain, Compare, Hook, Key, Kind, Leads, Limit, Rule, Type, Value};

/// Set for the test that runs in namespaces of its own.
const ALONE: &str = "WIRE_TEST_ALONE";

/// Runs a test of this module, named in full, as root of a user namespace and a network namespace of its own: this program
/// starts itself again in them.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(program)
        .args(["--exact", "--nocapture", "--include-ignored", &format!("kernel::nft::tests::{test}")])
        .env(ALONE, "yes")
        .output()
        .expect("unshare (util-linux) is there");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{wrong}");
    print!("{said}");
}

fn socket() -> Socket {
    Socket::open(NETLINK_NETFILTER).expect("a socket opens")
}

/// A socket in a new namespace, which lives as long as it.
fn elsewhere() -> Socket {
    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace is made");
    socket()
}

fn nft(input: &str, args: &[&str]) -> Result<String, String> {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft (nftables) is there");
    child.stdin.take().expect("it has an input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("nft writes UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn list() -> String {
    nft("", &["list", "table", "inet", "wire"]).expect("nft lists what there is")
}

/// Makes of whatever is there what is wanted.
#[track_caller]
fn load(socket: &Socket, wanted: Option<&Table>) {
    let seen = read(socket).expect("it can be read");
    change(socket, seen.table.as_ref(), wanted, seen.generation).expect("it can be changed");
}

#[track_caller]
fn table(socket: &Socket) -> Table {
    let seen = read(socket).expect("it can be read");
    assert!(seen.ours);
    seen.table.expect("there is one")
}

fn filter(hook: Hook) -> Base {
    Base { kind: Kind::Filter, hook, priority: 0, drop: true }
}

fn nat(hook: Hook, priority: i32) -> Base {
    Base { kind: Kind::Nat, hook, priority, drop: false }
}

const SECOND: Limit = Limit { rate: 10, unit: 1, burst: 20, over: false };

fn goto(chain: &str) -> Element {
    Element { leads_to: Some(Target::Verdict(Verdict::Goto(chain.into()))), expires: None }
}

fn range(first: &str, last: &str) -> Key {
    let value = |text: &str| Value::address(text.parse().expect("an address"));
    Key::Range(value(first), value(last))
}

/// Everything that wire may make.
fn broad() -> Table {
    let net = |text: &str| text.parse().expect("a network");
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let dispatch = || Set {
        key: vec![Type::IfName],
        leads_to: Some(Leads::Verdict),
        elements: [
            (Key::One(Value::device("w.leaf")), goto("in.leaf")),
            (Key::One(Value::device("averylongdevice")), goto("denied.leaf")),
        ]
        .into_iter()
        .collect(),
        ..Set::default()
    };
    let named = |of, elements: Vec<(Key, Element)>| Set {
        key: vec![of],
        interval: true,
        timeout: true,
        elements: elements.into_iter().collect(),
        ..Set::default()
    };
    let plain = Element::default;
    let passing = || Element { expires: Some(3600), ..Element::default() };
    let dynamic = |key, expiry| Set { key, timeout: true, dynamic: true, size: 65_535, expiry, ..Set::default() };
    let rules = [
        Rule::new().by_a_neighbour().icmp_types(ICMPV6, &[133, 134, 135, 136]).accept(),
        Rule::new().address(Side::Source, Compare::Different, &net("10.9.0.1/32")).goto("denied.leaf"),
        Rule::new().by_state([
            (ESTABLISHED, Verdict::Accept),
            (RELATED, Verdict::Jump("related".into())),
            (INVALID, Verdict::Goto("denied.leaf".into())),
        ]),
        Rule::new()
            .address(Side::Source, Compare::Equal, &net("10.0.0.0/12"))
            .address(Side::Destination, Compare::Equal, &net("10.1.0.0/16"))
            .ports(TCP, (80, 80))
            .state(NEW)
            .accept()
            .comment("leaf -> hub: web — and more"),
        Rule::new().ports(UDP, (8000, 8010)).log("wire allowed leaf").accept(),
        Rule::new().ports_in(TCP, &[80, 443, 22]).accept(),
        Rule::new().address_in(Side::Source, true, Among::Named("set.x".into()), false).icmp_type(ICMP, 8).accept(),
        Rule::new()
            .address_in(Side::Destination, false, Among::Named("set6.x".into()), true)
            .ports(TCP, (1, 1023))
            .accept(),
        Rule::new()
            .address(Side::Source, Compare::Equal, &net("fd00::/7"))
            .address(Side::Destination, Compare::Equal, &net("fd00:1::/64"))
            .accept(),
        Rule::new().limit_each("rate.1", true, SECOND).accept(),
        Rule::new().limit_each("rate.1", true, Limit { over: true, unit: 60, ..SECOND }).drop(),
        Rule::new().record("would.leaf", false),
        Rule::new().device(Way::In, "lo").accept(),
        Rule::new().devices(Way::Out, among(Type::IfName, ["a", "b"].map(Value::device)), true).accept(),
        Rule::new().handed_on().accept(),
        Rule::new().verdict(Verdict::Return),
        Rule::new().goto("denied.leaf"),
    ];
    let mut table = Table::default();
    let mut chain = |name: &str, chain| drop(table.chains.insert(name.into(), chain));
    chain("in.leaf", Chain::of(rules));
    chain("related", Chain::of([Rule::new().icmp_types(ICMP, &[3, 11, 12]).accept()]));
    chain(
        "denied.leaf",
        Chain::of([Rule::new().limit(SECOND).log("wire denied leaf"), Rule::new().count("denied.leaf").drop()]),
    );
    chain("empty", Chain::default());
    chain(
        "input",
        Chain::base(
            filter(Hook::Input),
            [Rule::new().dispatch(Way::In, "input"), Rule::new().jump("empty"), Rule::new().counted().drop()],
        ),
    );
    chain("forward", Chain::base(Base { drop: false, priority: -5, ..filter(Hook::Forward) }, []));
    chain(
        "prerouting",
        Chain::base(
            nat(Hook::Prerouting, -100),
            [
                Rule::new().not_for_this_host().ports(TCP, (80, 80)).dnat(address("10.0.0.2"), Some(8080)),
                Rule::new().dnat(address("fd00::1"), None),
                Rule::new().ports(UDP, (53, 53)).dnat(address("fd00::1"), Some(5353)),
            ],
        ),
    );
    chain(
        "postrouting",
        Chain::base(
            nat(Hook::Postrouting, 100),
            [
                Rule::new().address(Side::Source, Compare::Equal, &net("10.0.0.1/32")).snat(address("192.0.2.1")),
                Rule::new().masquerade(),
            ],
        ),
    );
    table.counters = [("denied.leaf".into(), 0), ("unused".into(), 0)].into();
    table.sets = [
        ("input".into(), dispatch()),
        (
            "set.x".into(),
            named(
                Type::Ipv4,
                vec![
                    (range("10.0.0.0", "10.255.255.255"), plain()),
                    (range("11.0.0.0", "11.0.0.5"), plain()),
                    (range("11.0.0.6", "11.0.0.6"), passing()),
                    (range("240.0.0.0", "255.255.255.255"), passing()),
                ],
            ),
        ),
        (
            "set6.x".into(),
            named(
                Type::Ipv6,
                vec![
                    (range("::", "::5"), plain()),
                    (range("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), passing()),
                    (range("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), plain()),
                ],
            ),
        ),
        ("nothing".into(), named(Type::Ipv4, Vec::new())),
        (
            "hosts".into(),
            Set {
                key: vec![Type::Ipv4],
                leads_to: Some(Leads::Value(Type::Ipv4)),
                elements: [(
                    Key::One(Value::address(address("10.0.0.1"))),
                    Element { leads_to: Some(Target::Value(Value::address(address("10.0.0.2")))), expires: None },
                )]
                .into_iter()
                .collect(),
                ..Set::default()
            },
        ),
        (
            "pairs".into(),
            Set {
                key: vec![Type::Ipv6, Type::Protocol, Type::Service],
                elements: [(
                    Key::Many(vec![Value::address(Ipv6Addr::LOCALHOST.into()), Value::byte(TCP), Value::port(80)]),
                    Element::default(),
                )]
                .into_iter()
                .collect(),
                ..Set::default()
            },
        ),
        ("rate.1".into(), dynamic(vec![Type::Ipv4], 60)),
        ("would.leaf".into(), dynamic(vec![Type::Ipv4, Type::Ipv4, Type::Protocol, Type::Service], 86_400)),
    ]
    .into();
    table
}

/// What was loaded is read back as it was meant, printed by nft, and taken again by nft from what it printed.
#[test]
fn what_is_loaded_is_read_back() {
    alone("what_is_loaded_is_read_back", || {
        let socket = socket();
        let seen = read(&socket).expect("an empty namespace can be read");
        assert_eq!((seen.table, seen.ours), (None, false));
        load(&socket, Some(&broad()));
        let found = table(&socket);
        assert_eq!(found, broad());
        let listing = list();
        let socket = elsewhere();
        nft(&listing, &["-f", "-"]).expect("nft takes what it printed");
        let found = table(&socket);
        assert_eq!(found, broad(), "as nft makes it of its own words");
    });
}

/// A chain whose rules are as they should be is left alone, and so are counts; what differs is made right, whichever it is.
#[test]
fn only_what_differs_is_touched() {
    alone("only_what_differs_is_touched", || {
        let socket = socket();
        let counted = "table inet wire { comment \"wire\"; counter denied.leaf { packets 7 bytes 588 } ; }";
        nft(counted, &["-f", "-"]).expect("nft makes a counter that has counted");
        load(&socket, Some(&broad()));
        let mut wanted = broad();
        let chain = |wanted: &mut Table, name: &str, chain| drop(wanted.chains.insert(name.into(), chain));
        chain(&mut wanted, "related", Chain::of([Rule::new().drop()]));
        chain(&mut wanted, "new", Chain::of([Rule::new().accept()]));
        chain(&mut wanted, "empty", Chain::of([Rule::new().jump("new")]));
        let base = Base { drop: true, priority: -5, ..filter(Hook::Forward) };
        chain(&mut wanted, "forward", Chain::base(base, []));
        wanted.counters.remove("unused");
        wanted.counters.insert("new".into(), 0);
        wanted.sets.remove("pairs");
        let dispatch = wanted.sets.get_mut("input").expect("it is there");
        dispatch.elements.insert(Key::One(Value::device("w.leaf")), goto("denied.leaf"));
        dispatch.elements.remove(&Key::One(Value::device("averylongdevice")));
        dispatch.elements.insert(Key::One(Value::device("w.new")), goto("new"));
        let set = wanted.sets.get_mut("set.x").expect("it is there");
        set.elements.remove(&range("240.0.0.0", "255.255.255.255"));
        set.elements.remove(&range("11.0.0.0", "11.0.0.5"));
        set.elements.insert(range("11.0.0.4", "11.0.0.5"), Element::default());
        set.elements.insert(range("11.0.0.6", "11.0.0.6"), Element::default());
        set.elements.insert(range("12.0.0.0", "255.255.255.255"), Element::default());

        let handles = |changed: &[&str]| {
            let listing = nft("", &["-a", "list", "table", "inet", "wire"]).expect("nft lists what there is");
            let mut within = String::new();
            let mut handles = Vec::new();
            for line in listing.lines() {
                match line.split_once("# handle ").map(|(before, handle)| (before.trim(), handle)) {
                    Some((before, handle)) if before.ends_with('{') => {
                        within = before.split(' ').nth(1).unwrap_or_default().to_owned();
                        // The table is named in three words.
                        handles.push((before.to_owned(), handle.to_owned()));
                    }
                    Some((rule, handle)) if !changed.contains(&within.as_str()) => {
                        handles.push((format!("{within}: {rule}"), handle.to_owned()));
                    }
                    _ => {}
                }
            }
            handles.retain(|(what, _)| {
                !["counter unused {", "counter new {", "set pairs {", "chain new {"].contains(&what.as_str())
            });
            handles
        };
        let changed = ["related", "empty", "new"];
        let before = handles(&changed);
        assert!(before.len() > 35, "{before:?}");
        load(&socket, Some(&wanted));
        assert_eq!(handles(&changed), before);
        let mut found = table(&socket);
        assert_eq!(found.counters.insert("denied.leaf".into(), 0), Some(7));
        assert_eq!(found, wanted);

        // Nothing to do is nothing done.
        let seen = read(&socket).expect("it can be read");
        load(&socket, Some(&wanted));
        assert_eq!(read(&socket).expect("it can be read").generation, seen.generation);
        load(&socket, None);
        assert_eq!(read(&socket).expect("it can be read").table, None);
        load(&socket, None);
    });
}

/// A chain that becomes a base chain or another one, and a set of another type, are made anew with whatever leads there.
#[test]
fn what_cannot_be_changed_is_made_anew() {
    alone("what_cannot_be_changed_is_made_anew", || {
        let socket = socket();
        let mut wanted = broad();
        load(&socket, Some(&wanted));
        let swap = [
            "delete chain inet wire forward",
            "add chain inet wire forward",
            "add rule inet wire empty goto forward",
            "add element inet wire input { \"x\" : goto forward }",
            "add rule inet wire empty ct state vmap { new : jump forward }",
        ];
        nft(&swap.join("\n"), &["-f", "-"]).expect("nft does what it is told");
        let forward = wanted.chains.get_mut("empty").expect("it is there");
        forward.rules.clear();
        load(&socket, Some(&wanted));
        assert_eq!(table(&socket), wanted);
        for change in [
            "delete chain inet wire forward; add chain inet wire forward { type nat hook prerouting priority 5; }",
            "delete chain inet wire forward; add chain inet wire forward { type filter hook forward priority 5; }",
            "delete chain inet wire forward; add chain inet wire forward { type filter hook output priority -5; }",
            "delete chain inet wire forward; add chain inet wire forward; add rule inet wire forward accept",
            "flush chain inet wire in.leaf; delete set inet wire set.x; add set inet wire set.x { type ipv6_addr; }; \
             add rule inet wire in.leaf ip6 saddr @set.x accept",
            "flush chain inet wire in.leaf; delete set inet wire set.x; add set inet wire set.x { type mark; }",
            "flush chain inet wire in.leaf; delete set inet wire set.x; \
             add set inet wire set.x { type ipv4_addr; flags interval; counter; }",
        ] {
            nft(&change.replace("; ", ";\n"), &["-f", "-"]).expect(change);
            assert_ne!(table(&socket), wanted, "{change}");
            load(&socket, Some(&wanted));
            assert_eq!(table(&socket), wanted, "{change}");
        }
        // The set of another type where only the set differs.
        let set = wanted.sets.get_mut("set.x").expect("it is there");
        (set.timeout, set.elements) =
            (false, [(range("10.0.0.0", "10.0.0.5"), Element::default())].into_iter().collect());
        load(&socket, Some(&wanted));
        assert_eq!(table(&socket), wanted);
    });
}

/// Whatever somebody changes is seen, and made right again.
#[test]
fn every_deviation_is_seen_and_undone() {
    alone("every_deviation_is_seen_and_undone", || {
        let socket = socket();
        let wanted = broad();
        load(&socket, Some(&wanted));
        let mut made = 0;
        for change in [
            "add rule inet wire empty accept",
            "insert rule inet wire in.leaf accept",
            "insert rule inet wire input accept",
            "add rule inet wire empty log prefix \"wire\"",
            "add rule inet wire empty log level debug",
            "add rule inet wire empty log group 119 snaplen 20",
            "add rule inet wire empty limit rate 10 bytes/second accept",
            "add rule inet wire empty ip ttl set 1",
            "add rule inet wire empty meta mark set 1",
            "add rule inet wire empty ct mark 1 accept",
            "add rule inet wire empty ct original ip saddr 10.0.0.1 accept",
            "add rule inet wire empty meta skuid 1 accept",
            "add rule inet wire empty notrack",
            "add rule inet wire empty queue num 1",
            "add rule inet wire empty reject",
            "add rule inet wire empty tcp option mss size set 1300",
            "add rule inet wire empty ip saddr 10.0.0.1-10.0.0.5 accept",
            "add rule inet wire empty ip dscp set cs1",
            "add rule inet wire empty add @rate.1 { ip saddr }",
            "add rule inet wire empty update @rate.1 { ip saddr timeout 5s }",
            "add rule inet wire empty update @rate.1 { ip saddr counter }",
            "add rule inet wire empty delete @rate.1 { ip saddr }",
            "add rule inet wire empty jump { accept; }",
            "add rule inet wire empty tcp dport { 1-5 } accept",
            "add rule inet wire postrouting masquerade random",
            "add rule inet wire postrouting meta l4proto tcp masquerade to :1024-2048",
            "add rule inet wire postrouting snat ip to 10.0.0.1-10.0.0.5",
            "add rule inet wire prerouting dnat ip to 10.0.0.1 persistent",
            "add rule inet wire prerouting tcp dport 5 dnat ip to 10.0.0.1:5-10",
            "add rule inet wire prerouting tcp dport 5 redirect to :8080",
            "flush chain inet wire input",
            "flush ruleset inet; add table inet wire { comment \"wire\"; }",
            "add chain inet wire forward { policy drop; }",
            "add chain inet wire other",
            "add chain inet wire other { type filter hook input priority -10; policy accept; }",
            "add chain inet wire other { type route hook output priority -10; policy accept; }",
            "add chain inet wire other; add rule inet wire other accept; insert rule inet wire in.leaf jump other",
            "add set inet wire other { type ipv4_addr; }",
            "add map inet wire other { type mark : verdict; elements = { 1 : goto in.leaf }; }",
            "add counter inet wire other",
            "add quota inet wire other { over 25 mbytes; }",
            "add limit inet wire other { rate 400/minute; }; add rule inet wire input limit name \"other\" accept",
            "add flowtable inet wire other { hook ingress priority 0; devices = { lo }; }; \
             add rule inet wire forward flow add @other",
            "delete element inet wire set.x { 10.0.0.0/8 }",
            "add element inet wire set.x { 1.2.3.4 }",
            "add element inet wire set6.x { 1::-2:: timeout 5m }",
            "delete element inet wire set.x { 240.0.0.0/4 }; add element inet wire set.x { 240.0.0.0/4 }",
            "flush set inet wire set6.x",
            "delete element inet wire input { \"w.leaf\" }; add element inet wire input { \"w.leaf\" : accept }",
            "delete element inet wire hosts { 10.0.0.1 }; add element inet wire hosts { 10.0.0.1 : 10.0.0.3 }",
            "add element inet wire pairs { ::1 . tcp . 81 }",
            "delete counter inet wire unused",
            "add table inet wire { flags dormant; }",
            "add table inet wire { flags dormant; }; add chain inet wire other; flush chain inet wire input",
            "add table inet wire { flags dormant; }; delete chain inet wire forward",
        ] {
            let script = change.replace("}; ", "}\n").replace("; add", "\nadd").replace("; insert", "\ninsert");
            let script = script.replace("; flush", "\nflush").replace("; delete", "\ndelete");
            match nft(&script, &["-f", "-"]) {
                Ok(_) => made += 1,
                // A kernel need not have everything.
                Err(error) if error.contains("Could not process rule: ") => continue,
                Err(error) => panic!("{change}: {error}"),
            }
            assert_ne!(table(&socket), wanted, "{change}");
            load(&socket, Some(&wanted));
            assert_eq!(table(&socket), wanted, "{change}");
        }
        println!("{made} deviations made");
        assert!(made > 40, "{made}");
    });
}

/// A table without wire's mark is somebody else's, whatever its name.
#[test]
fn a_table_without_the_mark_is_not_ours() {
    alone("a_table_without_the_mark_is_not_ours", || {
        for theirs in ["", "comment \"wires\";", "comment \"my wire\";"] {
            let socket = elsewhere();
            nft(&format!("table inet wire {{ {theirs} }}"), &["-f", "-"]).expect("nft makes a table");
            let seen = read(&socket).expect("it can be read");
            assert_eq!((seen.table, seen.ours), (Some(Table::default()), false), "{theirs}");
        }
        // Nor is one of another family or another name.
        let socket = elsewhere();
        for other in ["ip wire", "inet other"] {
            nft(&format!("table {other} {{ comment \"wire\"; chain x {{ accept; }}; }}"), &["-f", "-"]).expect("made");
            assert_eq!(read(&socket).expect("it can be read").table, None);
        }
        load(&socket, Some(&broad()));
        assert_eq!(table(&socket), broad());
        load(&socket, None);
        assert_eq!(nft("", &["list", "tables"]).expect("listed"), "table ip wire\ntable inet other\n");
    });
}

/// What was decided on what has changed since is not done, and nothing of it is.
#[test]
fn a_change_by_somebody_else_is_not_overrun() {
    alone("a_change_by_somebody_else_is_not_overrun", || {
        let socket = socket();
        load(&socket, Some(&broad()));
        let seen = read(&socket).expect("it can be read");
        let mut wanted = broad();
        wanted.chains.insert("new".into(), Chain::default());
        nft("add table ip other", &["-f", "-"]).expect("made");
        let change = |generation| change(&socket, seen.table.as_ref(), Some(&wanted), generation);
        assert_eq!(change(seen.generation), Err(Failed::Overtaken));
        assert_eq!(table(&socket), broad());
        assert_eq!(change(seen.generation + 1), Ok(()));
        assert_eq!(table(&socket), wanted);

        // An element that has gone by itself.
        let seen = read(&socket).expect("it can be read");
        let mut had = seen.table.expect("it is there");
        let gone = had.sets.get_mut("set.x").expect("it is there");
        gone.elements.insert(range("1.0.0.0", "1.0.0.5"), Element { expires: Some(1), leads_to: None });
        wanted.chains.remove("new");
        assert_eq!(super::change(&socket, Some(&had), Some(&wanted), seen.generation), Err(Failed::Overtaken));
        load(&socket, Some(&wanted));
        assert_eq!(table(&socket), wanted);
    });
}

/// A refusal says which part it is about, and leaves everything as it was.
#[test]
fn a_refusal_says_what_it_is_about() {
    alone("a_refusal_says_what_it_is_about", || {
        let socket = socket();
        load(&socket, Some(&broad()));
        let rule = Rule::new().goto("nowhere");
        let refused = |edit: &dyn Fn(&mut Table)| {
            let mut wanted = broad();
            edit(&mut wanted);
            let seen = read(&socket).expect("it can be read");
            let failed = change(&socket, seen.table.as_ref(), Some(&wanted), seen.generation);
            assert_eq!(table(&socket), broad());
            failed.expect_err("the kernel refuses it").to_string()
        };
        let with = |rule: &Rule| {
            let rule = rule.clone();
            refused(&move |wanted| drop(wanted.chains.insert("empty".into(), Chain::of([rule.clone()]))))
        };
        let enoent = "No such file or directory (ENOENT)";
        assert_eq!(with(&rule), format!("the kernel refuses a rule of chain empty: {enoent}"));
        let commented = rule.comment("a -> b");
        assert_eq!(with(&commented), format!("the kernel refuses the rule \"a -> b\" of chain empty: {enoent}"));
        let set = refused(&|wanted| {
            let set = wanted.sets.get_mut("set.x").expect("it is there");
            set.elements.insert(range("10.1.0.0", "11.0.0.2"), Element::default());
        });
        assert!(set.starts_with("the kernel refuses set set.x: "), "{set}");
        let around = with(&Rule::new().jump("input"));
        assert!(around.starts_with("the kernel refuses a rule of chain empty: "), "{around}");

        // The test has no right to send more than anybody may, which the kernel doubles.
        let limit = std::fs::read_to_string("/proc/sys/net/core/wmem_max").ok();
        let limit = limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(212_992_usize);
        let long = Expression::Unknown { name: "long".into(), attributes: vec![0; 60_000].into() };
        let rules = vec![Rule { expressions: vec![long], comment: None }; limit * 2 / 60_000 + 2];
        let large = refused(&move |wanted| drop(wanted.chains.insert("empty".into(), Chain::of(rules.clone()))));
        assert!(large.contains("net.core.wmem_max"), "{large}");
    });
}

/// A set of thousands goes in in several messages, is read back in several, and changed by its differences.
#[test]
fn a_large_set_is_loaded_and_changed() {
    alone("a_large_set_is_loaded_and_changed", || {
        let socket = socket();
        let ranges = |step: u32| {
            let value = |number: u32| Value::new(&number.to_be_bytes());
            let range = move |number: u32| Key::Range(value(number * step), value(number * step + 3));
            let elements = (0..4000).map(|number| (range(number), Element::default())).collect();
            Set { key: vec![Type::Ipv4], interval: true, timeout: true, elements, ..Set::default() }
        };
        let with = |set| Table { sets: [("set.x".into(), set)].into(), ..Table::default() };
        for step in [4, 5, 4, 6] {
            load(&socket, Some(&with(ranges(step))));
            assert_eq!(table(&socket), with(ranges(step)));
        }
    });
}

/// An element that has gone by itself is not seen, and can be put back beside what the kernel still keeps of it.
#[test]
fn what_has_expired_is_gone_and_can_come_back() {
    use std::time::{Duration, Instant};
    alone("what_has_expired_is_gone_and_can_come_back", || {
        let socket = socket();
        let mut wanted = broad();
        let set = |wanted: &mut Table, expires| {
            let elements = [
                (range("10.0.0.0", "10.0.0.9"), Element::default()),
                (range("10.0.0.10", "10.0.0.20"), Element { expires, leads_to: None }),
                (range("10.0.0.21", "10.0.0.30"), Element::default()),
                (range("250.0.0.0", "255.255.255.255"), Element { expires, leads_to: None }),
            ];
            wanted.sets.get_mut("set.x").expect("it is there").elements = elements.into_iter().collect();
        };
        set(&mut wanted, Some(1));
        load(&socket, Some(&wanted));
        assert_eq!(table(&socket), wanted);
        let deadline = Instant::now() + Duration::from_secs(20);
        while table(&socket).sets["set.x"].elements.len() > 2 {
            assert!(Instant::now() < deadline, "it never goes");
            std::thread::yield_now();
        }
        set(&mut wanted, Some(3600));
        load(&socket, Some(&wanted));
        let found = table(&socket);
        assert_eq!(found, wanted);
        let left = |key| found.sets["set.x"].elements[&key].expires;
        assert!(left(range("10.0.0.10", "10.0.0.20")).is_some_and(|left| (3000..=3600).contains(&left)));
        assert_eq!(left(range("10.0.0.0", "10.0.0.9")), None);
    });
}

/// Whatever the comment and the prefix: they come back as they were, as long as they are not too long.
#[test]
fn words_are_kept_as_they_are() {
    alone("words_are_kept_as_they_are", || {
        let socket = socket();
        for words in ["", "x", "with \"quotes\", ünïcode — and more", &"x".repeat(127)] {
            let rule = Rule::new().log(words).comment(words).accept();
            let wanted = Table { chains: [("a".into(), Chain::of([rule]))].into(), ..Table::default() };
            load(&socket, Some(&wanted));
            assert_eq!(table(&socket), wanted);
        }
    });
}

/// Chooses from what a test is dealt, the same from the same.
struct Choice<'a>(&'a mut dyn Iterator<Item = u16>);

impl Choice<'_> {
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.0.next().unwrap_or(0)) % end
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 1
    }

    fn address(&mut self, ipv4: bool) -> IpAddr {
        match ipv4 {
            true => IpAddr::from([10, 0, self.below(2) as u8, self.below(256) as u8]),
            false => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, self.below(2) as u16, self.below(9) as u16]),
        }
    }

    /// Ranges that do not meet, some side by side, up to the last address or from the first.
    fn ranges(&mut self, ipv4: bool) -> Set {
        let value = |number: u128| match ipv4 {
            true => Value::new(&(number as u32).to_be_bytes()),
            false => Value::new(&number.to_be_bytes()),
        };
        let last = if ipv4 { u128::from(u32::MAX) } else { u128::MAX };
        let mut edges: Vec<u128> = (0..2 * self.below(6)).map(|_| self.below(300) as u128 * (last / 299)).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut elements = std::collections::BTreeMap::new();
        for pair in edges.windows(2) {
            if self.below(3) > 0 {
                // The last address belongs to a range that begins before it.
                let end = if pair[1] == last / 299 * 299 { last } else { pair[1] - 1 };
                let expires = self.yes().then(|| 1000 + self.below(5000) as u64);
                elements.insert(Key::Range(value(pair[0]), value(end)), Element { expires, leads_to: None });
            }
        }
        let key = vec![if ipv4 { Type::Ipv4 } else { Type::Ipv6 }];
        Set { key, interval: true, timeout: true, elements: elements.into_iter().collect(), ..Set::default() }
    }

    fn verdict(&mut self, later: &[Text]) -> Verdict {
        match self.below(5) {
            0 => Verdict::Drop,
            1 if !later.is_empty() => Verdict::Jump(self.of(later)),
            2 if !later.is_empty() => Verdict::Goto(self.of(later)),
            3 => Verdict::Return,
            _ => Verdict::Accept,
        }
    }

    /// A rule that nft can say in its own words, so of one family and one protocol.
    fn rule(&mut self, later: &[Text], table: &Table) -> Rule {
        let (ipv4, protocol) = (self.yes(), self.of(&[TCP, UDP]));
        let icmp = if ipv4 { ICMP } else { ICMPV6 };
        let is_icmp = self.below(4) == 0;
        let side = self.of(&[Side::Source, Side::Destination]);
        let how = self.of(&[Compare::Equal, Compare::Different]);
        let limit = Limit {
            rate: 1 + self.below(50) as u64,
            unit: self.of(&[1, 60, 3600]),
            burst: 1 + self.below(9) as u32,
            over: self.yes(),
        };
        let low = self.below(60_000) as u16;
        let mut rule = Rule::new();
        for _ in 0..self.below(4) {
            rule = match self.below(10) {
                0 => {
                    let prefix = self.below(if ipv4 { 32 } else { 128 }) as u8 + 1;
                    let network = ipnetwork::IpNetwork::new(self.address(ipv4), prefix).expect("a network");
                    rule.address(side, how, &network)
                }
                1 => {
                    let set: Text = if ipv4 { "set.x" } else { "set6.x" }.into();
                    if !table.sets.contains_key(&set) {
                        continue;
                    }
                    rule.address_in(side, ipv4, Among::Named(set), self.yes())
                }
                2 if is_icmp => rule.icmp_type(icmp, self.of(&[128, 129, 3])),
                2 => rule.ports(protocol, (low, low + self.below(2) as u16 * 17)),
                3 if is_icmp => rule.icmp_types(icmp, &[3, 128, 129][self.below(2)..]),
                3 => rule.ports_in(protocol, &[low, low + 1, 65_000][self.below(2)..]),
                4 => rule.state(self.of(&[NEW, NEW | ESTABLISHED])),
                5 => rule.device(self.of(&[Way::In, Way::Out]), "lo"),
                6 => {
                    let devices =
                        ["a", "wire-12345", "fifteenletters0"][self.below(2)..].iter().copied().map(Value::device);
                    let devices: Vec<Value> = devices.collect();
                    rule.devices(self.of(&[Way::In, Way::Out]), among(Type::IfName, devices), self.yes())
                }
                7 => rule.limit(limit),
                8 if table.sets.contains_key("rate.1") && ipv4 => rule.limit_each("rate.1", true, limit),
                8 if !ipv4 => rule.by_a_neighbour(),
                _ => rule.handed_on(),
            };
        }
        if self.yes() {
            rule = rule.log(self.of(&["wire denied", "wire allowed leaf"]));
        }
        if self.below(4) == 0 {
            rule = rule.comment(self.of(&["a comment", "another", "leaf -> hub"]));
        }
        match self.below(5) {
            0 => rule.counted(),
            1 if table.counters.contains_key("denied.leaf") => rule.count("denied.leaf").drop(),
            2 => {
                let verdicts = [self.verdict(later), self.verdict(later)];
                rule.by_state([ESTABLISHED, INVALID].into_iter().zip(verdicts))
            }
            3 if table.sets.contains_key("by.device") => rule.dispatch(Way::In, "by.device"),
            _ => rule.verdict(self.verdict(later)),
        }
    }

    fn table(&mut self) -> Table {
        let mut table = Table::default();
        let names: Vec<Text> = ["a", "b.x", "c", "d", "e"].map(Text::from).into_iter().filter(|_| self.yes()).collect();
        for counter in ["denied.leaf", "other"] {
            if self.yes() {
                table.counters.insert(counter.into(), 0);
            }
        }
        for (set, ipv4) in [("set.x", true), ("set6.x", false)] {
            if self.yes() {
                table.sets.insert(set.into(), self.ranges(ipv4));
            }
        }
        if self.yes() {
            let set = Set {
                key: vec![Type::Ipv4],
                timeout: true,
                dynamic: true,
                size: self.of(&[100, 65_535]),
                expiry: 60,
                ..Set::default()
            };
            table.sets.insert("rate.1".into(), set);
        }
        // What a map leads to has no way to a rule that looks into it.
        let (looking, led_to) = names.split_at(names.len() / 2);
        if self.yes() {
            let devices = ["lo", "a", "b", "c"].into_iter().filter(|_| self.yes()).collect::<Vec<_>>();
            let element = |verdict| Element { leads_to: Some(Target::Verdict(verdict)), expires: None };
            let elements = devices
                .into_iter()
                .map(|name| (Key::One(Value::device(name)), element(self.verdict(led_to))))
                .collect();
            let set = Set { key: vec![Type::IfName], leads_to: Some(Leads::Verdict), elements, ..Set::default() };
            table.sets.insert("by.device".into(), set);
        }
        let without = {
            let mut table = table.clone();
            table.sets.remove("by.device");
            table
        };
        for (place, name) in names.iter().enumerate() {
            let seen = if looking.contains(name) { &table } else { &without };
            let rules: Vec<Rule> = (0..self.below(4)).map(|_| self.rule(&names[place + 1..], seen)).collect();
            table.chains.insert(name.clone(), Chain::of(rules));
        }
        for hook in [Hook::Input, Hook::Forward, Hook::Output] {
            if self.yes() {
                let base = Base { priority: self.of(&[0, -5]), drop: self.yes(), ..filter(hook) };
                let rules: Vec<Rule> = (0..self.below(4)).map(|_| self.rule(&names, &table)).collect();
                table.chains.insert(format!("{hook:?}").into(), Chain::base(base, rules));
            }
        }
        if self.yes() {
            let ipv4 = self.yes();
            let port = self.yes().then_some(8080);
            let rule = Rule::new().not_for_this_host().ports(TCP, (80, 80)).dnat(self.address(ipv4), port);
            table.chains.insert("prerouting".into(), Chain::base(nat(Hook::Prerouting, -100), [rule]));
        }
        if self.yes() {
            let ipv4 = self.yes();
            let rules = [Rule::new().snat(self.address(ipv4)), Rule::new().masquerade()];
            let rules = rules.into_iter().take(1 + self.below(2));
            table.chains.insert("postrouting".into(), Chain::base(nat(Hook::Postrouting, 100), rules));
        }
        table
    }
}

/// Whatever the tables: each is read back as it was loaded, anew and in place of another, and nft takes it again.
#[test]
fn any_table_takes_the_place_of_any_other() {
    use proptest::prelude::*;
    alone("any_table_takes_the_place_of_any_other", || {
        let (one, other) = (elsewhere(), socket());
        let _keep = (&one, &other);
        let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let dealt = prop::collection::vec(any::<u16>(), 0..500);
        let outcome = runner.run(&dealt, |dealt| {
            let wanted = Choice(&mut dealt.into_iter()).table();
            // In place of whatever was there before.
            let seen = read(&one).expect("it can be read");
            let changed = change(&one, seen.table.as_ref(), Some(&wanted), seen.generation);
            prop_assert_eq!(changed, Ok(()));
            prop_assert_eq!(&table(&one), &wanted);
            // Anew.
            load(&other, None);
            load(&other, Some(&wanted));
            prop_assert_eq!(&table(&other), &wanted);
            let listing = list();
            let again = nft(&format!("delete table inet wire\n{listing}"), &["-f", "-"]);
            prop_assert!(again.is_ok(), "{}\n{}", listing, again.unwrap_err());
            prop_assert_eq!(&table(&other), &wanted, "{}", listing);
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    });
}

/// Whatever bytes come in place of a message: they are read as something or as nothing, and nothing panics.
#[test]
fn any_bytes_can_be_read() {
    use proptest::prelude::*;
    let read = |bytes: &[u8]| {
        let mut anonymous = HashMap::new();
        decode::head(bytes);
        let _ = (decode::generation(bytes), decode::chain(bytes), decode::object(bytes), decode::flow_table(bytes));
        let _ = decode::rule(bytes, &mut anonymous);
        let elements = || decode::elements(bytes).unwrap_or_default();
        if let Ok(Some(SeenSet { mut set, .. })) = decode::set(bytes) {
            decode::fill(&mut set, elements());
        }
        for (interval, key) in [(true, vec![Type::Ipv4]), (false, vec![Type::Ipv6, Type::Service])] {
            decode::fill(&mut Set { key, interval, ..Set::default() }, elements());
        }
    };
    // The real messages of a table, cut off and with bytes of them changed.
    let mut messages = Vec::new();
    let mut transaction = Transaction::begin(1);
    steps(&mut transaction, None, &broad());
    let bytes = transaction.end().0;
    let mut rest = bytes.bytes();
    while let Some(length) = rest.get(..4).map(|length| u32::from_ne_bytes(length.try_into().expect("four bytes"))) {
        let (message, more) = rest.split_at((length as usize).next_multiple_of(4));
        messages.push(message[20..].to_vec());
        rest = more;
    }
    assert!(messages.len() > 40);
    proptest!(|(which in 0..messages.len(), end in 0..4000_usize, changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6))| {
        let mut message = messages[which].clone();
        if end < 2000 {
            message.truncate(end);
        }
        for (place, byte) in changes {
            let length = message.len().max(1);
            if let Some(there) = message.get_mut(place % length) {
                *there = byte;
            }
        }
        read(&message);
    });
    proptest!(|(bytes in prop::collection::vec(any::<u8>(), 0..200))| read(&bytes));
}
