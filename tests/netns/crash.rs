//! Killed or refused at any point: the next run finishes, no refusal is ever taken for success, and nothing is more open in
//! between than it is to be. `strace` stops `wire` at the n-th time it sends to the kernel, for every n, so no luck is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{Dump, Host, Output, text};
use crate::order::removes;
use crate::packet::is_root;
use crate::world::{End, Flow, GROUP, World, pluto, small, wire};

const SENDS: &str = "sendto,sendmsg,sendmmsg";
const RECEIVES: &str = "recvfrom,recvmsg,recvmmsg";

/// The calls of a command, in their order, where it does them all in one thread: `strace` counts by thread.
pub fn calls(host: &Host, calls: &str, command: &[&str]) -> Vec<String> {
    let trace = format!("trace={calls}");
    let strace = ["strace", "-f", "-qq", "-s", "64", "-o", "/run/trace", "-e", &trace, "-e", "signal=none"];
    host.wire_under(&strace, command).expect(0);
    let trace = host.sh("cat /run/trace");
    let mut threads = BTreeMap::<_, Vec<String>>::new();
    for call in trace.lines().filter(|line| !line.contains("resumed>")) {
        let (thread, call) = call.split_once(' ').expect("strace -f -o begins lines with the thread");
        threads.entry(thread).or_default().push(call.to_owned());
    }
    let most = threads.into_values().max_by_key(Vec::len).unwrap_or_default();
    assert!((1..2000).contains(&most.len()), "{command:?} calls {} times: {trace}", most.len());
    most
}

/// Whether a send only asks: for a list (`NLM_F_DUMP`), the state of all rules (`NFT_MSG_GETGEN`), the number of a namespace
/// (`RTM_GETNSID`), or how many connections there are (`IPCTNL_MSG_CT_GET_STATS`).
pub fn only_asks(send: &str) -> bool {
    let words = ["0x300", "NLM_F_DUMP", "0xa10 ", "GETGEN", "0x5a ", "GETNSID", "0x105 ", "CT_GET_STATS"];
    words.iter().any(|word| send.contains(word))
}

/// At which of a command's calls to try a fault.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Every,
    /// Those that change something, and those after them: between two others nothing is different.
    Changes,
}

impl At {
    fn places(self, host: &Host, names: &str, command: &[&str]) -> Vec<usize> {
        let calls = calls(host, names, command);
        let changes = |n: usize| n == 0 || !only_asks(&calls[n]) || !only_asks(&calls[n - 1]);
        (0..calls.len()).filter(|n| self == At::Every || changes(*n)).map(|n| n + 1).collect()
    }
}

/// Fails the test if in any namespace an end is up, or a device forwards, and no table is there to police it.
#[track_caller]
pub fn expect_rules(dump: &Dump, when: &str) {
    let node = |fact: &str| fact.split(' ').next().expect("a node").to_owned();
    let way_in = "/ chain input / 1 / type filter hook input priority filter; policy drop;";
    let policed: BTreeSet<String> =
        dump.0.iter().filter(|fact| fact.ends_with(way_in)).map(|fact| node(fact)).collect();
    for fact in &dump.0 {
        let open = match fact.split_once(" link ") {
            Some((_, link)) => {
                let link: Value = serde_json::from_str(link).expect("a link is JSON");
                let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
                let ours = link["group"] == GROUP || text(&link["address"]).starts_with("02:77:");
                up && ours
            }
            None => fact.contains(" setting ") && fact.ends_with("forwarding:1"),
        };
        assert!(!open || policed.contains(&node(fact)), "{when}: without rules: {fact}");
    }
}

/// Runs a command that meets a fault at the n-th of these calls. Returns its exit code.
pub fn with_fault(host: &Host, calls: &str, fault: &str, n: usize, command: &[&str]) -> i32 {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}:when={n}"));
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", "signal=none", "-e", &inject];
    host.wire_under(&strace, command).code
}

/// Runs a command whose first send of a kind is refused, and so is the one in each further round that it tries. Nothing else may
/// be sent that changes something, so that every round has as many sends.
pub fn always_refused(host: &Host, run: &Run, is_meant: &dyn Fn(&str) -> bool) -> Output {
    let strace = |when: &str| {
        (run.start)(host);
        let (trace, inject) = (format!("trace={SENDS}"), format!("inject={SENDS}:{REFUSED}:when={when}"));
        let limit = ["-f", "-qq", "-v", "-s", "100000", "-o", "/run/trace"];
        let strace = [&["strace"][..], &limit, &["-e", &trace, "-e", "signal=none", "-e", &inject]].concat();
        let output = host.wire_under(&strace, run.command);
        let trace = host.sh("cat /run/trace");
        let meant = trace.lines().enumerate().filter(|(_, send)| is_meant(send)).map(|(place, _)| place + 1);
        (output, meant.collect::<Vec<usize>>())
    };
    let (_, undisturbed) = strace("65535");
    let first = undisturbed[0];
    let (output, again) = strace(&first.to_string());
    assert_eq!((output.code, again.len()), (0, 2), "the second round does it: {output:?}");
    let (output, refused) = strace(&format!("{first}+{}", again[1] - first));
    assert_eq!(refused.len(), 4, "tried in every round: {output:?}");
    output
}

/// A command that starts from one state and must reach another, and how to get to the first.
pub struct Run<'a> {
    pub command: &'a [&'a str],
    pub start: &'a dyn Fn(&Host),
}

/// Meets every fault at every call of a command; the next, undisturbed run must reach the state that an undisturbed run
/// alone reaches. Where the disturbed run claims success, it must have reached it already, and the next finds nothing to do.
fn every_fault(world: &World, run: &Run, calls: &str, faults: &[&str], at: At) {
    let host = world.host();
    (run.start)(&host);
    let begin = host.dump();
    let places = at.places(&host, calls, run.command);
    let end = host.dump();
    for fault in faults {
        for &n in &places {
            (run.start)(&host);
            let code = with_fault(&host, calls, fault, n, run.command);
            match fault.starts_with("signal") {
                true => assert!(code == 137 || code == 0, "{fault} at {n}: exit code {code}"),
                false => assert!([0, 1].contains(&code), "{fault} at {n}: exit code {code}"),
            }
            expect_rules(&host.dump(), &format!("{fault} at call {n}"));
            let next = host.wire(&[&["--json"], run.command].concat()).expect(0).json();
            assert!(code != 0 || next["done"] == json!([]), "{fault} at {n}: success was claimed, and yet {next:#}");
            host.dump().expect(&end, &format!("the next run, {fault} at call {n}"));
        }
        (run.start)(&host);
        host.dump().expect(&begin, &format!("from the start again, {fault}"));
    }
}

/// One wire between two leaves: few enough calls to disturb each.
fn tiny() -> World {
    let topology = r#"
version = 1
runtime = "netns"
wire = [{ name = "a-b", ends = ["a", "b"], subnet = "10.9.0.0/31", allow = ["tcp/80"] }]
[module]
m = ["a", "b"]
"#;
    World {
        topology: topology.into(),
        nodes: vec!["a", "b"],
        wires: vec![wire("a-b", End("a", "", "10.9.0.0"), End("b", "", "10.9.0.1"))],
        flows: vec![Flow("a", "10.9.0.1", 80)],
        ..World::default()
    }
}

const KILL: &str = "signal=KILL";
const NO_BUFFERS: &str = "error=ENOBUFS";
const REFUSED: &str = "error=EPERM";

fn pristine(host: &Host) {
    host.wire(&["down"]).expect(0);
}

fn wired(host: &Host) {
    host.wire(&["up"]).expect(0);
}

/// SIGKILL at every send of an `up` of the whole house: the next `up` finishes, and `down` after it leaves nothing.
#[test]
fn up_killed_at_every_send() {
    every_fault(&pluto(), &Run { command: &["up"], start: &pristine }, SENDS, &[KILL], At::Changes);
}

/// ENOBUFS and EPERM at every send of an `up` that changes something; of a small one, at every send.
#[test]
fn up_refused_at_every_send() {
    every_fault(&small(), &Run { command: &["up"], start: &pristine }, SENDS, &[NO_BUFFERS, REFUSED], At::Changes);
    every_fault(&tiny(), &Run { command: &["up"], start: &pristine }, SENDS, &[NO_BUFFERS, REFUSED], At::Every);
}

/// ENOBUFS at every receive of an `up`: an answer that got lost is not taken for a good one.
#[test]
fn up_deaf_at_every_receive() {
    every_fault(&tiny(), &Run { command: &["up"], start: &pristine }, RECEIVES, &[NO_BUFFERS, KILL], At::Every);
}

/// The same for `down`, which claims success only when everything has gone; and rules stay as long as there is a cable.
#[test]
fn down_disturbed_at_every_call() {
    let run = Run { command: &["down"], start: &wired };
    every_fault(&small(), &run, SENDS, &[KILL, NO_BUFFERS, REFUSED], At::Changes);
    every_fault(&tiny(), &run, SENDS, &[NO_BUFFERS, REFUSED], At::Every);
    every_fault(&tiny(), &run, RECEIVES, &[NO_BUFFERS], At::Every);
}

/// The same for a repair of many things at once, rules among them.
#[test]
fn a_repair_disturbed_at_every_send() {
    let broken = |host: &Host| {
        host.wire(&["up"]).expect(0);
        host.dump();
        host.sh("ip -n web link del eth0
                 ip -n shop link set eth0 mtu 1500
                 ip -n edge link set host-edge alias '' group default
                 ip -n edge route del default
                 ip -n shop address flush dev shop-web-database scope global
                 echo 0 >/proc/sys/net/ipv4/conf/host-edge/forwarding
                 nft insert rule inet wire input accept
                 nsenter --net=/run/netns/edge nft flush map inet wire forward
                 nsenter --net=/run/netns/vault nft flush table inet wire
                 nsenter --net=/run/netns/shop nft add chain inet wire mine");
    };
    let run = Run { command: &["up"], start: &broken };
    every_fault(&small(), &run, SENDS, &[KILL, NO_BUFFERS, REFUSED], At::Changes);
}

/// Where a cable cannot be removed, neither are the rules of its nodes.
#[test]
fn down_that_cannot_remove_a_cable_leaves_its_rules() {
    let host = tiny().host();
    wired(&host);
    let before = host.dump().only(|fact| fact.contains(" nft ") || fact.contains(" link "));
    let down = always_refused(&host, &Run { command: &["down"], start: &wired }, &removes).expect(1);
    assert!(down.stderr.contains("a-b") && down.stderr.contains("unload rules of b"), "{}", down.stderr);
    host.dump().only(|fact| fact.contains(" nft ") || fact.contains(" link ")).expect(&before, "refused");
    host.wire(&["down"]).expect(0);
    assert!(host.links("a") == ["lo"] && host.rules("a").is_empty());
}

/// A flow that was struck while a connection used it: killed at any point of the `up` that ends it, the next one has ended it.
#[test]
fn connections_of_a_struck_flow_end_whatever_happens() {
    if !is_root() {
        return;
    }
    let world = tiny();
    let host = world.host();
    let struck = world.topology.replace("tcp/80", "tcp/81");
    let connect = || {
        host.topology(&world.topology);
        host.wire(&["up"]).expect(0);
        let listener = host.at("b", || TcpListener::bind("10.9.0.1:80").expect("a port"));
        let client = host.at("a", || TcpStream::connect("10.9.0.1:80").expect("a flow"));
        let server = listener.accept().expect("a connection").0;
        server.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
        (client, server)
    };
    let arrives = |(client, server): &mut (TcpStream, TcpStream)| {
        client.write_all(b"x").expect("room");
        server.read(&mut [0]).is_ok()
    };
    let mut connection = connect();
    assert!(arrives(&mut connection));
    host.wire(&["up"]).expect(0);
    assert!(arrives(&mut connection), "an up without a change leaves it");
    host.topology(&struck);
    let places = At::Changes.places(&host, SENDS, &["up"]);
    assert!(!arrives(&mut connection));
    let check = |faults: &[(&str, usize)]| {
        let mut connection = connect();
        assert!(arrives(&mut connection), "a connection to begin with");
        host.topology(&struck);
        for (fault, n) in faults {
            let code = with_fault(&host, SENDS, fault, *n, &["up"]);
            assert!(code != 0 || !arrives(&mut connection), "{faults:?}: success was claimed");
        }
        host.wire(&["up"]).expect(0);
        assert!(!arrives(&mut connection), "{faults:?}: the connection lives on");
        host.wire(&["audit"]).expect(0);
    };
    for fault in [NO_BUFFERS, REFUSED] {
        places.iter().for_each(|n| check(&[(fault, *n)]));
    }
    // Either end alone ends it: who is to keep it alive has to be stopped at both.
    for first in &places {
        places.iter().for_each(|second| check(&[(KILL, *first), (KILL, *second)]));
    }
}

/// A refusal that stays, from any send on, is told with the node and the kernel's word for it.
#[test]
fn a_refusal_is_told() {
    let world = small();
    let host = world.host();
    let places = At::Changes.places(&host, SENDS, &["up"]);
    let mut told = 0;
    for n in places {
        host.wire(&["down"]).expect(0);
        let inject = format!("inject={SENDS}:error=ENOBUFS:when={n}+");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &inject];
        let output = host.wire_under(&strace, &["up"]);
        if output.code == 0 {
            continue;
        }
        told += 1;
        assert!(output.stderr.contains("error: "), "at send {n}: {}", output.stderr);
        let named = ["host", "edge", "web", "shop", "vault", "lan"].iter().any(|node| output.stderr.contains(node));
        assert!(named && output.stderr.to_lowercase().contains("buffer space"), "at send {n}: {}", output.stderr);
    }
    assert!(told > 0);
}

/// SIGINT and SIGTERM in the middle of an `up`: it ends, and the next one finishes.
#[test]
fn up_interrupted() {
    let world = small();
    let host = world.host();
    let places = At::Changes.places(&host, SENDS, &["up"]);
    let end = host.dump();
    for signal in ["signal=INT", "signal=TERM"] {
        for &n in &places {
            pristine(&host);
            with_fault(&host, SENDS, signal, n, &["up"]);
            host.wire(&["up"]).expect(0);
            host.dump().expect(&end, &format!("the next up, {signal} at {n}"));
        }
    }
}
