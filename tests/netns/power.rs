//! What `wire` holds of root's power, looked at from outside while it is held still: by `strace`, which stops it at a
//! system call, and by what the kernel says of the stopped process.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::crash::Attached;
use crate::host::{Host, TOPOLOGY, WIRE};
use crate::watch::Watch;
use crate::world::small;

/// Capabilities by their numbers (linux/capability.h).
const NAMES: [(&str, u32); 11] = [
    ("chown", 0),
    ("dac_override", 1),
    ("fowner", 3),
    ("kill", 5),
    ("setgid", 6),
    ("setuid", 7),
    ("net_admin", 12),
    ("net_raw", 13),
    ("sys_ptrace", 19),
    ("sys_admin", 21),
    ("sys_resource", 24),
];

const NONE: &str = "";
const READ: &str = "dac_override";
const REPLACE: &str = "chown dac_override fowner";
const WIRES: &str = "dac_override kill setgid setuid net_admin sys_ptrace sys_admin sys_resource";
const PROVE: &str = "dac_override kill setgid setuid net_admin net_raw sys_ptrace sys_admin sys_resource";
/// As much as there is.
const ALL: &str = "all";

/// What asks for memory: a parser asks for nothing else.
const MEMORY: &str = "brk,mmap,mremap";

fn mask(names: &str) -> u64 {
    let number = |name| NAMES.iter().find(|(known, _)| *known == name).expect("a capability").1;
    names.split_whitespace().map(|name| 1 << number(name)).sum()
}

/// What a process has in effect, and what it may put into effect.
fn held(pid: u32) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is stopped");
    ["CapEff:", "CapPrm:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        u64::from_str_radix(line.trim(), 16).expect("a number in hex")
    })
}

/// The calls that `wire` makes, as `strace` writes them.
fn calls(host: &Host, trace: &str, args: &[&str]) -> Vec<String> {
    let trace = format!("trace={trace}");
    host.wire_under(&["strace", "-f", "-qq", "-s", "64", "-o", "/run/trace", "-e", &trace, "-e", "signal=none"], args);
    let call = |line: &str| line.split_once(' ').expect("a pid first").1.trim_start().to_owned();
    host.sh("cat /run/trace").lines().map(call).collect()
}

/// Stops `wire` at the n-th of these calls and says what it holds there. It goes no further.
fn held_at(host: &Host, calls: &str, n: usize, args: &[&str]) -> [u64; 2] {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:signal=STOP:when={n}"));
    host.sh("rm -f /run/stopped");
    let strace = ["strace", "-qq", "-o", "/run/stopped", "-e", &trace, "-e", &inject, WIRE, "-f", TOPOLOGY];
    let running = host.start("host", &[&strace, args].concat());
    let start = Instant::now();
    while !std::fs::read_to_string(host.path("/run/stopped")).is_ok_and(|text| text.contains("--- stopped by SIGSTOP"))
    {
        assert!(start.elapsed() < Duration::from_secs(20), "{args:?} is not stopped at call {n} of {calls}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let stopped = child(running.0.id()).expect("strace has a child");
    let held = held(stopped);
    kill(Pid::from_raw(stopped as i32), Signal::SIGKILL).expect("it is stopped");
    held
}

/// The child of a process.
pub fn child(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // State and parent follow the name, which may hold anything.
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&parent.to_string())
    })
}

/// Fails the test unless at its first call that says `word`, `wire` holds so much.
#[track_caller]
fn expect_at(host: &Host, args: &[&str], call: &str, word: &str, wanted: &str) {
    let made = calls(host, call, args);
    let n = made.iter().position(|made| made.contains(word)).unwrap_or_else(|| panic!("{word} in {made:#?}")) + 1;
    expect(host, held_at(host, call, n, args), wanted, &format!("{args:?} at {word}"));
}

#[track_caller]
fn expect(host: &Host, [effective, permitted]: [u64; 2], wanted: &str, when: &str) {
    let [all, _] = everything(host);
    let wanted = if wanted == ALL { all } else { mask(wanted) };
    assert_eq!((effective, permitted), (wanted, wanted), "{when}: {effective:#x} of {permitted:#x}, not {wanted:#x}");
}

/// What root has on this host.
fn everything(host: &Host) -> [u64; 2] {
    let status = host.sh("grep -E '^Cap(Eff|Prm):' /proc/self/status");
    let mut numbers = status.lines().map(|line| u64::from_str_radix(line[7..].trim(), 16).expect("a number"));
    // In the kernel's order CapPrm comes first; root has both.
    [numbers.next().expect("CapPrm"), numbers.next().expect("CapEff")]
}

/// A long row of nodes, for which a parser needs memory again and again.
fn long() -> String {
    let wire = |n: usize| {
        let subnet = format!("10.{}.{}.{}/31", n / 32768, n / 128 % 256, n % 128 * 2);
        format!(
            "{{ name = \"w{n}\", ends = [\"n{n}\", \"n{}\"], subnet = \"{subnet}\", allow = [\"tcp/80\"] }},",
            n + 1
        )
    };
    let nodes: Vec<String> = (0..=500).map(|n| format!("\"n{n}\"")).collect();
    let wires: Vec<String> = (0..500).map(wire).collect();
    let (wires, nodes) = (wires.join("\n"), nodes.join(", "));
    format!("version = 1\nruntime = \"netns\"\nwire = [\n{wires}\n]\n[module]\nrow = [{nodes}]\n")
}

/// The topology is read with what root gave, and parsed with nothing in effect and nothing more at hand than the
/// command needs, whatever the command is.
#[test]
fn the_topology_is_parsed_without_any_power() {
    let host = Host::with(&[], &long());
    for (args, permitted) in [
        (&["check"][..], NONE),
        (&["why", "n0", "n1"], NONE),
        (&["number"], REPLACE),
        (&["render", "nft", "n0"], READ),
        (&["plan"], WIRES),
        (&["up"], WIRES),
        (&["set", "refresh"], WIRES),
        (&["prove", "n0"], PROVE),
    ] {
        let made = calls(&host, &format!("{MEMORY},openat,close,capset"), args);
        let place = |from: usize, is: &dyn Fn(&str) -> bool| {
            let place = made[from..].iter().position(|call| is(call)).map(|place| from + place);
            place.unwrap_or_else(|| panic!("{args:?}: {made:#?}"))
        };
        let opened = place(0, &|call| call.starts_with("openat(") && call.contains(TOPOLOGY));
        let closed = place(opened, &|call| call.starts_with("close("));
        assert!(
            !made[..closed].iter().any(|call| call.starts_with("capset(")),
            "{args:?}: it is read with what root gave"
        );
        let laid = place(closed, &|call| call.starts_with("capset(") && call.contains("effective=0"));
        let taken = made[laid + 1..].iter().position(|call| call.contains("effective=1<<"));
        let parsing = laid + 1..taken.map_or(made.len(), |place| laid + 1 + place);
        let asks = |place: &usize| MEMORY.split(',').any(|call| made[*place].starts_with(&format!("{call}(")));
        let asked: Vec<usize> = parsing.filter(asks).collect();
        assert!(asked.len() > 4, "{args:?}: a parser needs memory: {made:#?}");
        let middle = asked[asked.len() / 2];
        let (call, _) = made[middle].split_once('(').expect("a call");
        // strace counts each call by itself.
        let n = made[..=middle].iter().filter(|made| made.split('(').next() == Some(call)).count();
        let [effective, at_hand] = held_at(&host, call, n, args);
        assert_eq!((effective, at_hand), (0, mask(permitted)), "{args:?}");
    }
}

/// What each command has in effect where it does what it is for: no more than that takes.
#[test]
fn every_command_has_what_it_needs_and_no_more() {
    let world = small();
    let sets = "\n[set.friends]\nelements = [\"192.0.2.0/24\"]\n";
    let host = Host::with(&world.nodes, &(world.topology.clone() + sets));
    expect_at(&host, &["up"], "openat", TOPOLOGY, ALL);
    for (args, call, word, wanted) in [
        (&["check"][..], "write", "valid", NONE),
        (&["why", "edge", "web:tcp/80"], "write", "", NONE),
        (&["man"], "write", ".TH", NONE),
        (&["completions", "bash"], "write", "wire", NONE),
        (&["render", "nft"], "write", "table inet wire", READ),
        (&["set", "list", "friends"], "write", "192.0.2.0/24", READ),
        (&["lab", "true"], "unshare", "", ALL),
        (&["plan"], "sendto", "NLM_F_DUMP", WIRES),
        (&["audit"], "setns", "", WIRES),
        (&["suggest"], "setns", "", WIRES),
        (&["set", "add", "friends", "203.0.113.9"], "openat", "friends.set.new", WIRES),
        (&["up"], "openat", "/proc/sys/net/ipv4/conf", WIRES),
    ] {
        expect_at(&host, args, call, word, wanted);
    }
    // Stopped in the midst of a change, which is then made again.
    let made = calls(&host, "sendto", &["up"]);
    let asks = |call: &&String| ["NLM_F_DUMP", "GETGEN", "GETNSID", "0x300"].iter().any(|word| call.contains(word));
    let last = made.len() - made.iter().rev().take_while(asks).count();
    host.wire(&["down"]).expect(0);
    expect(&host, held_at(&host, "sendto", last, &["up"]), WIRES, "the last change of an up");
    host.wire(&["up"]).expect(0);
    expect_at(&host, &["prove", "edge-web"], "socket", "AF_PACKET", PROVE);
    expect_at(&host, &["down"], "setns", "", WIRES);
    let holes = world.topology.replace(" subnet = \"172.16.1.0/31\",", "");
    host.topology(&holes.replace("zone = \"public\"", "zone = \"public\"\npool = \"172.16.0.0/16\""));
    // The call before makes the new file.
    expect(&host, held_at(&host, "fchown", 1, &["number"]), REPLACE, "a new file");
    host.sh("rm /run/topology.toml.wire-*");
    host.wire(&["number"]).expect(0);
}

/// Whoever stays behind to undo a change has what that takes, and `wire confirm` needs nothing.
#[test]
fn who_waits_has_what_an_up_has() {
    let host = small().host();
    host.wire(&["up", "--confirm", "3m"]).expect(0);
    let pid = crate::confirm::waiting(&host).expect("somebody waits");
    expect(&host, held(pid as u32), WIRES, "who waits");
    expect_at(&host, &["confirm"], "flock", "", NONE);
    host.wire(&["confirm"]).expect(1);
}

/// Whoever watches has what an up has, and nothing in effect while it parses the file again.
#[test]
fn who_watches_has_what_an_up_has() {
    let world = small();
    let host = world.host();
    let watch = Watch::start(&host);
    let pid = watch.pid().as_raw() as u32;
    expect(&host, held(pid), WIRES, "who watches");
    let _attached = Attached::to(&host, pid, "capset,openat", &[]);
    host.topology(&world.topology.replace("allow = [\"tcp/80\"] }", "allow = [\"tcp/80\", \"tcp/81\"] }"));
    watch.event("reloaded");
    let trace = std::fs::read_to_string(host.path("/run/trace")).expect("a trace");
    let mut read = trace.lines().skip_while(|call| !call.contains("topology.toml"));
    let mut next = || read.by_ref().find(|call| call.starts_with("capset(")).expect("a capset after the file is open");
    let (laid, taken) = (next(), next());
    assert!(laid.contains("effective=0") && taken.contains("effective=1<<"), "{trace}");
    expect(&host, held(pid), WIRES, "who watches, afterwards");
}

/// With capabilities instead of root, as a program file gives them: the same work, and the same laid down and let go.
#[test]
fn capabilities_are_enough() {
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let given = "+net_admin,+net_raw,+sys_admin,+sys_ptrace,+dac_override";
    let capabilities = [format!("--inh-caps={given}"), format!("--ambient-caps={given}")];
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &capabilities[0], &capabilities[1]];
    let world = small();
    let host = world.host();
    host.wire_under(&nobody, &["plan"]).expect(3);
    host.wire_under(&nobody, &["up"]).expect(0);
    world.observe(&host);
    host.wire_under(&nobody, &["prove", "edge-web"]).expect(0);
    let strace = [&nobody[..], &["strace", "-f", "-qq", "-e", "trace=capset"]].concat();
    let output = host.wire_under(&strace, &["audit"]).expect(0);
    let sets: Vec<&str> = output.stderr.lines().filter(|line| line.contains("capset(")).collect();
    // What is in effect, what is at hand; nothing, while text is parsed; and again.
    let kept = "1<<CAP_DAC_OVERRIDE|1<<CAP_NET_ADMIN|1<<CAP_SYS_PTRACE|1<<CAP_SYS_ADMIN";
    let effective =
        |set: &str| set.split("effective=").nth(1).and_then(|rest| rest.split(", permitted").next()).map(str::to_owned);
    let effective: Vec<Option<String>> = sets.iter().map(|set| effective(set)).collect();
    assert_eq!(
        effective,
        [Some(kept), Some(kept), Some("0"), Some(kept)].map(|set| set.map(str::to_owned)),
        "{sets:#?}"
    );
    assert!(sets.iter().skip(1).all(|set| set.contains(&format!("permitted={kept}"))), "{sets:#?}");
    host.wire_under(&nobody, &["down"]).expect(0);
}

/// Where the power cannot be laid down, nothing is parsed; who has none is not asked to.
#[test]
fn where_power_cannot_be_laid_down_it_is_said() {
    let host = small().host();
    let before = host.dump();
    let forbid = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=capset", "-e", "inject=capset:error=EPERM"];
    for args in [&["check"][..], &["up"], &["number"], &["prove"]] {
        let output = host.wire_under(&forbid, args).expect(1);
        assert!(output.stderr.contains("cannot lay down") && output.stderr.contains("hint: "), "{}", output.stderr);
    }
    host.dump().expect(&before, "nothing was done");
    let nobody = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    host.wire_under(&[&nobody[..], &forbid].concat(), &["check"]).expect(0);
}
