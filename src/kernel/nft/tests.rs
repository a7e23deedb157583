//! Tables loaded into the kernel and read back, in namespaces of their own.

use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::super::socket::NETLINK_NETFILTER;
use super::*;
use crate::nft::build::{ESTABLISHED, ICMP, ICMPV6, INVALID, NEW, RELATED, Side, TCP, UDP, Way, among};
use crate::nft::{Base, Chain, Compare, Foreign, Hook, Key, Kind, Leads, Limit, Rule, Type, Value};

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
        .into(),
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
        Rule::new().from_the_link().icmp_types(ICMPV6, &[133, 134, 135, 136]).accept(),
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
        Rule::new().record("would.leaf"),
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
                Rule::new().for_this_host().ports(TCP, (80, 80)).to_destination(address("10.0.0.2"), Some(8080)),
                Rule::new().to_destination(address("fd00::1"), None),
                Rule::new().ports(UDP, (53, 53)).to_destination(address("fd00::1"), Some(5353)),
            ],
        ),
    );
    chain(
        "postrouting",
        Chain::base(
            nat(Hook::Postrouting, 100),
            [
                Rule::new()
                    .address(Side::Source, Compare::Equal, &net("10.0.0.1/32"))
                    .from_source(address("192.0.2.1")),
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
                .into(),
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
                .into(),
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
        elsewhere();
        nft(&listing, &["-f", "-"]).expect("nft takes what it printed");
    });
}
