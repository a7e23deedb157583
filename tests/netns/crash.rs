//! Killed or refused at any point: the next run finishes, and no refusal is ever taken for success. `strace` stops `wire`
//! at the n-th time it sends to the kernel, for every n, so no luck is needed.

use serde_json::json;

use crate::host::Host;
use crate::world::{World, pluto, small};

const SENDS: &str = "sendto,sendmsg,sendmmsg";
const RECEIVES: &str = "recvfrom,recvmsg,recvmmsg";

/// How often a command does one of these calls, at most in any one of its threads, since `strace` counts by thread.
fn count(host: &Host, calls: &str, command: &[&str]) -> usize {
    let trace = format!("trace={calls}");
    host.wire_under(&["strace", "-f", "-qq", "-o", "/run/trace", "-e", &trace, "-e", "signal=none"], command).expect(0);
    let trace = host.sh("cat /run/trace");
    let mut calls = std::collections::BTreeMap::new();
    for call in trace.lines().filter(|line| !line.contains("resumed>")) {
        let thread = call.split_whitespace().next().expect("strace -f -o begins lines with the thread");
        *calls.entry(thread).or_insert(0) += 1;
    }
    let most = calls.into_values().max().unwrap_or(0);
    assert!((1..1000).contains(&most), "{command:?} calls {most} times: {trace}");
    most
}

/// Runs a command that meets a fault at the n-th of these calls. Returns its exit code.
fn with_fault(host: &Host, calls: &str, fault: &str, n: usize, command: &[&str]) -> i32 {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}:when={n}"));
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", "signal=none", "-e", &inject];
    host.wire_under(&strace, command).code
}

/// A command that starts from one state and must reach another, and how to get to the first.
struct Run<'a> {
    command: &'a [&'a str],
    start: &'a dyn Fn(&Host),
}

/// Meets every fault at every call of a command; the next, undisturbed run must reach the state that an undisturbed run
/// alone reaches. Where the disturbed run claims success, it must have reached it already, and the next finds nothing to do.
fn every_fault(world: &World, run: &Run, calls: &str, faults: &[&str]) {
    let host = world.host();
    (run.start)(&host);
    let begin = host.dump();
    let most = count(&host, calls, run.command);
    let end = host.dump();
    for fault in faults {
        for n in 1..=most {
            (run.start)(&host);
            let code = with_fault(&host, calls, fault, n, run.command);
            match fault.starts_with("signal") {
                true => assert!(code == 137 || code == 0, "{fault} at {n}: exit code {code}"),
                false => assert!([0, 1].contains(&code), "{fault} at {n}: exit code {code}"),
            }
            let next = host.wire(&[&["--json"], run.command].concat()).expect(0).json();
            assert!(code != 0 || next["done"] == json!([]), "{fault} at {n}: success was claimed, and yet {next:#}");
            host.dump().expect(&end, &format!("the next run, {fault} at call {n}"));
        }
        (run.start)(&host);
        host.dump().expect(&begin, &format!("from the start again, {fault}"));
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
    every_fault(&pluto(), &Run { command: &["up"], start: &pristine }, SENDS, &[KILL]);
}

/// ENOBUFS and EPERM at every send of an `up` of the whole house.
#[test]
fn up_refused_at_every_send() {
    every_fault(&pluto(), &Run { command: &["up"], start: &pristine }, SENDS, &[NO_BUFFERS, REFUSED]);
}

/// ENOBUFS at every receive of an `up`: an answer that got lost is not taken for a good one.
#[test]
fn up_deaf_at_every_receive() {
    every_fault(&small(), &Run { command: &["up"], start: &pristine }, RECEIVES, &[NO_BUFFERS, KILL]);
}

/// The same for `down`, which claims success only when everything has gone.
#[test]
fn down_disturbed_at_every_call() {
    let world = small();
    every_fault(&world, &Run { command: &["down"], start: &wired }, SENDS, &[KILL, NO_BUFFERS, REFUSED]);
    every_fault(&world, &Run { command: &["down"], start: &wired }, RECEIVES, &[NO_BUFFERS]);
}

/// The same for a repair of many things at once.
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
                 echo 1 >/proc/sys/net/ipv4/conf/host-edge/forwarding");
    };
    every_fault(&small(), &Run { command: &["up"], start: &broken }, SENDS, &[KILL, NO_BUFFERS, REFUSED]);
}

/// A refusal that stays, from any send on, is told with the node and the kernel's word for it.
#[test]
fn a_refusal_is_told() {
    let world = small();
    let host = world.host();
    let sends = count(&host, SENDS, &["up"]);
    let mut told = 0;
    for n in 1..=sends {
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
    let most = count(&host, SENDS, &["up"]);
    let end = host.dump();
    for signal in ["signal=INT", "signal=TERM"] {
        for n in 1..=most {
            pristine(&host);
            with_fault(&host, SENDS, signal, n, &["up"]);
            host.wire(&["up"]).expect(0);
            host.dump().expect(&end, &format!("the next up, {signal} at {n}"));
        }
    }
}
