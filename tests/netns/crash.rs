//! Killed or refused at any point: the next run finishes, no refusal is ever taken for success, nothing is more open in
//! between than it is to be, and nothing is left over. `strace` stops `wire` at the n-th time it makes a call, for
//! every n, so no luck is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::confirm;
use crate::host::{Dump, Host, Output, Running, TOPOLOGY, WIRE, until};
use crate::order::removes;
use crate::packet::is_root;
use crate::watch::Watch;
use crate::world::{GROUP, World, pluto, small};

/// What sends to the kernel and hears from it.
const SENDS: &str = "sendto,sendmsg,sendmmsg";
const RECEIVES: &str = "recvfrom,recvmsg,recvmmsg";
/// What may change something else: files, and settings below `/proc/sys`.
const FILES: &str = "openat,open,creat,write,pwrite64,writev,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,\
                     rmdir,fsync,fdatasync,link,linkat,symlink,symlinkat,chmod,fchmod,fchmodat,chown,fchown,fchownat,\
                     ftruncate,mount,umount2,unshare,fsconfig,fsmount,fork,clone,clone3,vfork";

const KILL: &str = "signal=KILL";
const REFUSED: &str = "error=EPERM";
/// Whatever the kernel may say to a send or a receive that has nothing wrong with it.
const ERRORS: [&str; 4] = ["error=ENOBUFS", "error=ENOMEM", REFUSED, "error=EBUSY"];
const FULL: &str = "error=ENOSPC";

/// How many faults are tried at a time: much of each is waiting for the kernel.
const WORKERS: usize = 4;

/// A call that a command makes: how `strace` finds it again, by its name and how many of that name came before in its
/// thread.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub n: usize,
    pub said: String,
}

impl Call {
    fn is_send(&self) -> bool {
        SENDS.split(',').any(|name| name == self.name)
    }

    fn is_receive(&self) -> bool {
        RECEIVES.split(',').any(|name| name == self.name)
    }

    /// Whether something may be different after it. What is written on the terminal is not.
    pub fn changes(&self) -> bool {
        match &*self.name {
            "openat" | "open" => self.said.contains("O_CREAT"),
            "write" => !self.said.starts_with("write(1<") && !self.said.starts_with("write(2<"),
            _ if self.is_send() => !only_asks(&self.said),
            _ => !self.is_receive(),
        }
    }
}

/// Runs `wire` behind another program, with `/run/stdin` to read from.
fn fed(host: &Host, program: &[&str], command: &[&str]) -> Output {
    host.wire_under(&[&["sh", "-c", FED, "sh"], program].concat(), command)
}

const FED: &str = "[ -e /run/stdin ] || : >/run/stdin; exec \"$@\" </run/stdin";

/// The calls of a command's first thread, in their order: `strace` counts by thread and by name.
pub fn calls(host: &Host, names: &str, command: &[&str]) -> Vec<Call> {
    let trace = format!("trace={names}");
    let strace = ["strace", "-f", "-qq", "-y", "-s", "64", "-o", "/run/trace", "-e", &trace, "-e", "signal=none"];
    fed(host, &strace, command).expect(0);
    read_calls(&host.sh("cat /run/trace"))
}

/// The calls of the first thread of a trace.
fn read_calls(trace: &str) -> Vec<Call> {
    let lines = || trace.lines().filter(|line| !line.contains("resumed>")).filter_map(|line| line.split_once(' '));
    let first = lines().next().expect("a call").0;
    let mut calls = Vec::<Call>::new();
    for said in lines().filter(|(thread, _)| *thread == first).map(|(_, said)| said.trim_start().to_owned()) {
        let Some((name, _)) = said.split_once('(') else { continue };
        let n = calls.iter().filter(|call| call.name == name).count() + 1;
        calls.push(Call { name: name.to_owned(), n, said });
    }
    assert!((1..5000).contains(&calls.len()), "{} calls: {trace}", calls.len());
    calls
}

/// Whether a send only asks: for a list (`NLM_F_DUMP`), the state of all rules (`NFT_MSG_GETGEN`), the number of a namespace
/// (`RTM_GETNSID`), or how many connections there are (`IPCTNL_MSG_CT_GET_STATS`).
fn only_asks(send: &str) -> bool {
    let words = ["0x300", "NLM_F_DUMP", "0xa10 ", "GETGEN", "0x5a ", "GETNSID", "0x105 ", "CT_GET_STATS"];
    words.iter().any(|word| send.contains(word))
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
                let ours =
                    link["group"] == GROUP || link["address"].as_str().is_some_and(|mac| mac.starts_with("02:77:"));
                up && ours
            }
            None => fact.contains(" setting ") && fact.ends_with("forwarding:1"),
        };
        assert!(!open || policed.contains(&node(fact)), "{when}: without rules: {fact}");
    }
}

/// Runs a command that meets a fault at a call, and makes sure that it has.
#[track_caller]
pub fn with_fault(host: &Host, call: &Call, fault: &str, command: &[&str]) -> Output {
    let Call { name, n, .. } = call;
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:{fault}:when={n}"));
    let strace = ["strace", "-f", "-qq", "-o", "/run/trace", "-e", &trace, "-e", "signal=none", "-e", &inject];
    // It is faster with a filter, but sends no signals then.
    let fast: &[&str] = if fault.starts_with("error=") { &["--seccomp-bpf"] } else { &[] };
    let output = fed(host, &[&strace, fast].concat(), command);
    let met = match signal(fault) {
        Some(signal) => output.code == 128 + signal as i32,
        None => std::fs::read_to_string(host.path("/run/trace")).is_ok_and(|trace| trace.contains("(INJECTED)")),
    };
    assert!(met, "{fault} does not come at {call:?}: {output:?}");
    output
}

/// The signal of a fault that is one.
fn signal(fault: &str) -> Option<Signal> {
    let name = fault.strip_prefix("signal=")?;
    Some(format!("SIG{name}").parse().expect("a signal"))
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
    pub start: &'a (dyn Fn(&Host) + Sync),
}

/// What the namespaces hold, and what `wire` keeps in files.
#[derive(Clone, PartialEq, Eq)]
struct State {
    dump: Dump,
    files: BTreeMap<String, String>,
}

impl State {
    fn of(host: &Host) -> State {
        let mut files = BTreeMap::new();
        for directory in ["/run/wire", "/var/lib/wire", "/var/lib/wire/sets"] {
            for entry in std::fs::read_dir(host.path(directory)).into_iter().flatten().flatten() {
                let name = format!("{directory}/{}", entry.file_name().display());
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                // The lock says nothing by being there.
                if entry.path().is_file() && !name.ends_with("/lock") {
                    files.insert(name, text);
                }
            }
        }
        State { dump: host.dump(), files }
    }

    #[track_caller]
    fn expect(&self, wanted: &State, when: &str) {
        self.dump.expect(&wanted.dump, when);
        assert_eq!(self.files, wanted.files, "{when}: the files");
    }

    /// The rules of each node.
    fn rules(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut rules = BTreeMap::<_, BTreeSet<_>>::new();
        for fact in &self.dump.0 {
            let node = fact.split(' ').next().expect("a node");
            let rules = rules.entry(node).or_default();
            rules.extend(fact.contains(" nft inet wire ").then_some(fact.as_str()));
        }
        rules
    }
}

/// A run between its two states on one host, and what was met in between.
struct Between<'a> {
    host: &'a Host,
    run: &'a Run<'a>,
    begin: State,
    end: State,
    /// From these the next run has reached the end.
    mended: Vec<State>,
    at_begin: bool,
}

impl<'a> Between<'a> {
    fn new(host: &'a Host, run: &'a Run<'a>) -> Between<'a> {
        (run.start)(host);
        let begin = State::of(host);
        fed(host, &[], run.command).expect(0);
        let end = State::of(host);
        Between::of(host, run, (begin, end))
    }

    fn of(host: &'a Host, run: &'a Run<'a>, (begin, end): (State, State)) -> Between<'a> {
        Between { host, run, begin, end, mended: Vec::new(), at_begin: false }
    }

    /// What has to be so at any moment: where a cable is up there are rules; the rules of each node are the old or the
    /// new ones, whole; and what is denied at both does not pass.
    #[track_caller]
    fn expect_closed(&self, now: &State, when: &str) {
        expect_rules(&now.dump, when);
        let (rules, old, new) = (now.rules(), self.begin.rules(), self.end.rules());
        for (node, rules) in &rules {
            let whole = old.get(node) == Some(rules) || new.get(node) == Some(rules);
            assert!(whole, "{when}: the rules of {node} are neither the old nor the new ones: {rules:#?}");
        }
        expect_denied(self.host, when);
    }

    /// Meets a fault at a call; the next, undisturbed run must reach the state that an undisturbed run alone reaches.
    /// Where the disturbed run claims success, it must have reached it already.
    fn meet(&mut self, call: &Call, fault: &str) {
        let when = format!("{fault} at {call:?} of {:?}", self.run.command);
        // A send is reached in the same way from what a run has left that came to nothing; a file that is there already
        // is not made.
        if !std::mem::take(&mut self.at_begin) || !call.is_send() && !call.is_receive() {
            (self.run.start)(self.host);
        }
        let output = with_fault(self.host, call, fault, self.run.command);
        // The hook of a container that has ended says what it could not do, and stands in nobody's way.
        let told = output.stderr.contains("error: ");
        let fails = if self.run.command == ["hook", "poststop"] { 0 } else { 1 };
        let expected = if told { output.code == fails } else { output.code == 0 };
        assert!(expected || signal(fault).is_some(), "{when}: {output:?}");
        let now = State::of(self.host);
        self.expect_closed(&now, &when);
        if output.code == 0 && !told {
            return now.expect(&self.end, &format!("{when}: success is claimed"));
        }
        self.mend(now, &when);
    }

    /// The next run.
    fn mend(&mut self, now: State, when: &str) {
        self.at_begin = now == self.begin;
        if !self.at_begin && !self.mended.contains(&now) {
            fed(self.host, &[], self.run.command).expect(0);
            State::of(self.host).expect(&self.end, &format!("the next run, {when}"));
            self.mended.push(now);
        }
    }
}

/// Fails the test unless what is denied is refused on the spot, or has no way to go.
#[track_caller]
fn expect_denied(host: &Host, when: &str) {
    for (node, to) in [("a", "10.9.0.1"), ("b", "10.9.0.0")] {
        let is_there = nix::unistd::getuid().is_root() && host.path(&format!("/run/netns/{node}")).exists();
        let sent = is_there.then(|| {
            host.at(node, || {
                UdpSocket::bind("0.0.0.0:0").expect("a port").send_to(b"x", (to, 81)).map_err(|e| e.kind())
            })
        });
        assert!(!matches!(sent, Some(Ok(_))), "{when}: {node} could send what is denied");
    }
}

/// A pretend host with as little on it as a world needs: everything there is looked at again and again.
fn host_of(world: &World) -> Host {
    let host = world.host();
    if !world.topology.contains("uplinks") {
        host.sh("ip netns del lan");
        until("the uplink is gone", || host.links("host") == ["lo"]);
    }
    host
}

/// Shares work among hosts of their own.
fn share<T: Send>(
    world: &World,
    workers: usize,
    work: Vec<T>,
    each: impl Fn(&Host, &mut dyn Iterator<Item = T>) + Sync,
) {
    let queue = Mutex::new(work.into_iter());
    let next = || queue.lock().expect("nobody panics with it").next();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| each(&host_of(world), &mut std::iter::from_fn(next)));
        }
    });
}

/// Meets at every call of a command the faults that are chosen for it, the n-th that is chosen from.
fn every_fault(world: &World, run: &Run, choose: &dyn Fn(usize, &Call) -> Vec<&'static str>) {
    let host = host_of(world);
    (run.start)(&host);
    let calls = calls(&host, &[SENDS, RECEIVES, FILES].join(","), run.command);
    let faults =
        calls.iter().enumerate().flat_map(|(n, call)| choose(n, call).into_iter().map(move |fault| (call, fault)));
    let faults: Vec<(&Call, &str)> = faults.collect();
    let tried = faults.len();
    let start = Instant::now();
    share(world, WORKERS, faults, |host, faults| {
        let mut between = Between::new(host, run);
        faults.for_each(|(call, fault)| between.meet(call, fault));
    });
    eprintln!("{:?}: {tried} faults in {:?}", run.command, start.elapsed());
}

/// One wire between two leaves, and a set that a flow of it is for: few enough calls to disturb each.
fn tiny() -> World {
    let topology = r#"
version = 1
runtime = "netns"
wire = [
  { name = "a-b", ends = ["a", "b"], subnet = "10.9.0.0/31", allow = ["tcp/80", { flow = "udp/53", from = "@friends" }] },
]
[module]
m = ["a", "b"]
[set.friends]
file = "/run/friends"
"#;
    World { topology: topology.into(), nodes: vec!["a", "b"], ..World::default() }
}

const FRIENDS: &str = "/run/friends";

/// As before the first run of all.
fn pristine(host: &Host) {
    host.write(FRIENDS, "");
    host.wire(&["down"]).expect(0);
    for directory in ["/run/wire", "/var/lib/wire"] {
        let _ = std::fs::remove_dir_all(host.path(directory));
    }
}

fn wired(host: &Host) {
    host.write(FRIENDS, "");
    host.wire(&["up"]).expect(0);
}

/// Wired, and then broken by a hand in many ways, rules among them.
fn broken(host: &Host) {
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
}

fn without_a_friend(host: &Host) {
    wired(host);
    host.wire(&["set", "del", "friends", "203.0.113.9"]).expect(0);
}

fn with_a_friend(host: &Host) {
    wired(host);
    host.wire(&["set", "add", "friends", "203.0.113.9"]).expect(0);
}

/// The file of the set says something new.
fn with_news(host: &Host) {
    host.write(FRIENDS, "198.51.100.7\n");
    host.wire(&["up"]).expect(0);
    host.write(FRIENDS, "198.51.100.8\n198.51.100.9\n");
}

/// What `podman` writes down of a container that is about to start, and what a hook is told of it.
fn about_to_start(host: &Host) {
    const ID: &str = "e712c0ffee";
    host.topology(&tiny().topology);
    pristine(host);
    if !host.path("/run/stdin").exists() {
        host.sh(&format!(
            "mkdir -p /var/lib/containers/storage/overlay-containers
             echo '[{{\"id\":\"{ID}\",\"names\":[\"b\"]}}]' >/var/lib/containers/storage/overlay-containers/containers.json
             nsenter --net=/run/netns/b sleep 1000000 >/dev/null 2>&1 &
             echo '{{\"id\":\"{ID}\",\"pid\":'$!'}}' >/run/stdin"
        ));
    }
    // What has ended is not put back, so that what lives on of it is here as it was born.
    host.set_sysctl("b", "ipv4/conf/all/accept_redirects", "1");
    let tables = "[node.a]\nnetns = \"a\"\n[node.b]\ncontainer = \"b\"\n";
    host.topology(&(tiny().topology.replace("runtime = \"netns\"", "") + tables));
}

fn started(host: &Host) {
    about_to_start(host);
    fed(host, &[], &["hook", "createRuntime", "--strict"]).expect(0);
}

/// Every command that changes something, and from where it is disturbed.
const RUNS: [Run; 7] = [
    Run { command: &["up"], start: &pristine },
    Run { command: &["down"], start: &wired },
    Run { command: &["set", "add", "friends", "203.0.113.9"], start: &without_a_friend },
    Run { command: &["set", "del", "friends", "203.0.113.9"], start: &with_a_friend },
    Run { command: &["set", "refresh"], start: &with_news },
    Run { command: &["hook", "createRuntime", "--strict"], start: &about_to_start },
    Run { command: &["hook", "poststop"], start: &started },
];

/// SIGKILL at every call of every command that changes something, and whatever ends a program politely at its sends.
#[test]
fn killed_at_every_change() {
    if !is_root() {
        return;
    }
    let choose = |n: usize, call: &Call| match call.changes() {
        true if call.is_send() => vec![KILL, ["signal=INT", "signal=TERM"][n % 2]],
        true => vec![KILL],
        false => vec![],
    };
    RUNS.iter().for_each(|run| every_fault(&tiny(), run, &choose));
}

/// The same for a repair of many things at once, rules among them.
#[test]
fn a_repair_disturbed_at_every_change() {
    let choose = |n: usize, call: &Call| match call.changes() {
        true => vec![KILL, if call.is_send() { ERRORS[n % ERRORS.len()] } else { FULL }],
        false => vec![],
    };
    every_fault(&small(), &Run { command: &["up"], start: &broken }, &choose);
}

/// A big house, which many threads look at and change, is killed here and there in whichever comes so far.
#[test]
fn a_big_house_killed_here_and_there() {
    let host = pluto().host();
    let down = |host: &Host| drop(host.wire(&["down"]).expect(0));
    let run = Run { command: &["up"], start: &down };
    let mut between = Between::new(&host, &run);
    let mut killed = 0;
    for n in [20, 40, 60, 80, 100, 150] {
        down(&host);
        let inject = format!("inject=sendto:signal=KILL:when={n}");
        let strace =
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", "signal=none", "-e", &inject];
        let code = host.wire_under(&strace, &["up"]).code;
        assert!(code == 0 || code == 137, "{code}");
        killed += usize::from(code == 137);
        let now = State::of(&host);
        between.expect_closed(&now, &inject);
        between.mend(now, &inject);
    }
    assert!(killed > 2, "killed {killed} times");
}

/// What the kernel may say to a send or a receive, at each of an `up`, be it a question or an answer: whatever it may
/// say to a send, two of these to a receive.
#[test]
fn an_up_that_is_refused_anything() {
    if !is_root() {
        return;
    }
    let choose = |n: usize, call: &Call| match () {
        () if call.is_send() => ERRORS.to_vec(),
        () if call.is_receive() => vec![ERRORS[n % 2], ERRORS[2 + n % 2]],
        () => vec![],
    };
    every_fault(&tiny(), &RUNS[0], &choose);
}

/// The same wherever a command changes something, and a full disk at what is no send. They all look in the same way as
/// an `up`.
#[test]
fn refused_at_every_change() {
    if !is_root() {
        return;
    }
    let choose = |_: usize, call: &Call| match call.changes() {
        true if call.is_send() => ERRORS.to_vec(),
        true => vec![FULL],
        false => vec![],
    };
    RUNS.iter().for_each(|run| every_fault(&tiny(), run, &choose));
}

/// A signal comes in the midst of every call: that is no refusal.
#[test]
fn interrupted_at_every_call() {
    for run in &RUNS {
        let host = tiny().host();
        let between = Between::new(&host, run);
        for names in [SENDS, RECEIVES] {
            // Every other one, for each is made again.
            let (trace, inject) = (format!("trace={names}"), format!("inject={names}:error=EINTR:when=1+2"));
            let strace = ["strace", "-f", "-qq", "-o", "/run/trace", "-e", &trace, "-e", "signal=none", "-e", &inject];
            (run.start)(&host);
            fed(&host, &strace, run.command).expect(0);
            let trace = host.sh("cat /run/trace");
            let interrupted = trace.lines().filter(|line| line.contains("EINTR")).count();
            assert!(
                interrupted > 10 && interrupted.abs_diff(trace.lines().count() / 2) < 2,
                "{:?}: {trace}",
                run.command
            );
            State::of(&host).expect(&between.end, &format!("{:?} interrupted at {names}", run.command));
        }
    }
}

/// A second run is started while the first is held still at a change, and the first is killed then: the second waits
/// for its turn, does its work, and the next has nothing to mend.
#[test]
fn killed_with_a_second_run_beside_it() {
    if !is_root() {
        return;
    }
    for run in &RUNS {
        let world = tiny();
        let host = host_of(&world);
        (run.start)(&host);
        let calls = calls(&host, &[SENDS, FILES].join(","), run.command);
        let changes: Vec<&Call> = calls.iter().filter(|call| call.changes()).collect();
        share(&world, WORKERS, changes, |host, calls| {
            let mut between = Between::new(host, run);
            for call in calls {
                let when = format!("stopped at {call:?} of {:?}", run.command);
                (run.start)(host);
                let first = Stopped::at(host, call, run.command);
                // Of a container that starts, `up` knows nothing yet.
                let other = if run.command[0] == "hook" { run.command } else { &["up"] };
                let script = format!("exec {WIRE} -f {TOPOLOGY} {} 2>/run/second </run/stdin", other.join(" "));
                host.sh("[ -e /run/stdin ] || : >/run/stdin; : >/run/second");
                let mut second = host.start("host", &["sh", "-c", &script]);
                let said = || std::fs::read_to_string(host.path("/run/second")).unwrap_or_default();
                let mut ended = None;
                until("the second run has ended, or is at the lock", || {
                    ended = second.0.try_wait().expect("a child");
                    ended.is_some() || has_open(second.0.id(), "/run/wire/lock")
                });
                expect_denied(host, &when);
                drop(first);
                let ended = ended.unwrap_or_else(|| second.0.wait().expect("a child"));
                assert!(ended.success(), "{when}: the second run says {}", said());
                let now = State::of(host);
                expect_rules(&now.dump, &when);
                assert!(now.files.keys().all(|name| !name.ends_with(".new")), "{when}: {:?}", now.files.keys());
                between.mend(now, &when);
            }
        });
    }
}

/// Whether a process has a file open.
fn has_open(pid: u32, path: &str) -> bool {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|file| file.ends_with(&path[1..]))
}

/// `wire`, held still after a call; it is killed with the value.
struct Stopped {
    strace: Running,
}

impl Stopped {
    fn at(host: &Host, call: &Call, command: &[&str]) -> Stopped {
        let Call { name, n, .. } = call;
        let (trace, inject) = (format!("trace={name}"), format!("inject={name}:signal=STOP:when={n}"));
        let _ = std::fs::remove_file(host.path("/run/stopped"));
        let strace = ["sh", "-c", FED, "sh", "strace", "-qq", "-o", "/run/stopped", "-e", &trace, "-e", &inject];
        let strace = host.start("host", &[&strace[..], &[WIRE, "-q", "-f", TOPOLOGY], command].concat());
        let said = || std::fs::read_to_string(host.path("/run/stopped")).unwrap_or_default();
        until("the first run is stopped", || said().contains("--- stopped by SIGSTOP"));
        Stopped { strace }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(pid) = crate::power::child(self.strace.0.id()) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        let _ = self.strace.0.wait();
    }
}

/// `strace` at a process that runs already.
pub struct Attached(#[expect(dead_code, reason = "held, not read")] Running);

impl Attached {
    pub fn to(host: &Host, pid: u32, trace: &str, more: &[&str]) -> Attached {
        let (pid_word, trace) = (pid.to_string(), format!("trace={trace}"));
        let strace = ["strace", "-qq", "-y", "-s", "64", "-o", "/run/trace", "-e", &trace, "-e", "signal=none"];
        let running = host.start("host", &[&strace[..], more, &["-p", &pid_word]].concat());
        let is_traced = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
        };
        until("strace is attached", is_traced);
        Attached(running)
    }

    /// What was called until now, as `strace -f` would write it.
    fn calls(&self, host: &Host) -> Vec<Call> {
        let trace = std::fs::read_to_string(host.path("/run/trace")).expect("a trace");
        read_calls(&trace.lines().map(|line| format!("0 {line}\n")).collect::<String>())
    }
}

/// A change that waits for its confirmation. Killed at any change of the `up` that makes it, or of the one who undoes
/// it: what was there before is there again, or the next `up` makes what the file says.
#[test]
fn a_change_that_waits_is_killed() {
    if !is_root() {
        return;
    }
    let world = tiny();
    let other = world.topology.replace("tcp/80", "tcp/81").replace("allow =", "mtu = 1400, allow =");
    let start = |host: &Host| {
        host.topology(&world.topology);
        let _ = std::fs::remove_file(host.path("/run/wire/undone.json"));
        let _ = std::fs::remove_file(host.path("/run/wire/pending.json"));
        wired(host);
        host.topology(&other);
    };
    let (run, all) = (Run { command: &["up", "--confirm", "1s"], start: &start }, [SENDS, FILES].join(","));
    let changes = |calls: Vec<Call>| calls.into_iter().filter(Call::changes).collect::<Vec<Call>>();
    let next = |between: &Between, when: &str| {
        between.host.wire(&["up"]).expect(0);
        let now = State::of(between.host);
        now.dump.expect(&between.end.dump, &format!("the next up, {when}"));
        assert!(now.files.keys().all(|name| !name.ends_with(".new")), "{when}: {:?}", now.files.keys());
    };
    // What is there before, and what is there while it waits.
    let states = |host: &Host| {
        start(host);
        let begin = State::of(host);
        host.wire(&["up"]).expect(0);
        (begin, State::of(host))
    };

    let host = host_of(&world);
    start(&host);
    let made = changes(calls(&host, &all, run.command));
    assert!(made.len() > 10, "{made:#?}");
    share(&world, 2 * WORKERS, made, |host, made| {
        let between = Between::of(host, &run, states(host));
        for call in made {
            let when = format!("killed at {call:?}");
            start(host);
            let inject = format!("inject={}:signal=KILL:when={}", call.name, call.n);
            let trace = format!("trace={}", call.name);
            // Who waits is not followed, and lives on.
            let strace = ["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", "signal=none", "-e", &inject];
            fed(host, &strace, run.command).expect(137);
            between.expect_closed(&State::of(host), &when);
            until("nobody is left", || !has_processes(host));
            State::of(host).dump.expect(&between.begin.dump, &when);
            next(&between, &when);
        }
    });

    let arm = |host: &Host| {
        start(host);
        host.wire(&["up", "--confirm", "4s"]).expect(0);
        // The list of locks may miss one while others come and go.
        let mut waits = None;
        until("somebody waits", || {
            waits = confirm::waiting(host);
            waits.is_some()
        });
        waits.expect("somebody") as u32
    };
    let attached = Attached::to(&host, arm(&host), &all, &[]);
    until("nobody is left", || !has_processes(&host));
    let undone = changes(attached.calls(&host));
    assert!(undone.len() > 10, "{undone:#?}");
    share(&world, 2 * WORKERS, undone, |host, undone| {
        let between = Between::of(host, &run, states(host));
        for call in undone {
            let when = format!("who undoes killed at {call:?}");
            let inject = format!("inject={}:signal=KILL:when={}", call.name, call.n);
            let attached = Attached::to(host, arm(host), &call.name, &["-e", &inject]);
            until("nobody is left", || !has_processes(host));
            let trace = std::fs::read_to_string(host.path("/run/trace")).unwrap_or_default();
            assert!(trace.trim_end().ends_with("= ?"), "{when}: {trace}");
            drop(attached);
            between.expect_closed(&State::of(host), &when);
            next(&between, &when);
        }
    });
}

/// Whether a `wire` runs on this host.
fn has_processes(host: &Host) -> bool {
    let here = host.sh("readlink /proc/self/ns/user");
    std::fs::read_dir("/proc").expect("/proc").flatten().any(|process| {
        let link = |name: &str| std::fs::read_link(process.path().join(name)).unwrap_or_default();
        link("exe").to_str() == Some(WIRE) && link("ns/user").to_str() == Some(here.trim())
    })
}

/// What `wire watch` mends, each by one event.
const BREAKS: [&str; 3] = [
    "ip -n a link del a-b",
    "nsenter --net=/run/netns/b nft flush ruleset",
    "nsenter --net=/run/netns/a nft add rule inet wire input accept",
];

/// `wire watch` is killed at every change of a mend; once more started, it finishes that, and nothing is left over.
#[test]
fn a_watch_is_killed() {
    if !is_root() {
        return;
    }
    let world = tiny();
    let all = [SENDS, FILES].join(",");
    for broken in BREAKS {
        let run = Run { command: &["up"], start: &wired };
        let watched = |host: &Host| {
            let watch = Watch::start(host);
            assert_eq!(watch.end(Signal::SIGTERM), Some(0));
            State::of(host)
        };
        let host = host_of(&world);
        wired(&host);
        let end = watched(&host);
        let watch = Watch::start(&host);
        let attached = Attached::to(&host, watch.pid().as_raw() as u32, &all, &[]);
        host.sh(broken);
        watch.event("mended");
        until("it is mended", || host.dump() == end.dump);
        let changes: Vec<Call> = attached.calls(&host).into_iter().filter(Call::changes).collect();
        drop(attached);
        assert!(!changes.is_empty());
        drop(watch);
        let (tried, killed) = (changes.len(), AtomicUsize::new(0));
        share(&world, WORKERS, changes, |host, calls| {
            wired(host);
            let end = watched(host);
            let between = Between::of(host, &run, (end.clone(), end));
            for call in calls {
                let when = format!("{broken}: killed at {call:?}");
                let mut watch = Watch::start(host);
                let inject = format!("inject={}:signal=KILL:when={}", call.name, call.n);
                let attached = Attached::to(host, watch.pid().as_raw() as u32, &call.name, &["-e", &inject]);
                host.sh(broken);
                // Events come as they like: it may be mended in fewer calls this time.
                let mut mended = false;
                until("it is killed or has mended", || {
                    mended = host.dump() == between.end.dump;
                    mended || watch.is_dead()
                });
                killed.fetch_add(usize::from(!mended), Ordering::Relaxed);
                drop((attached, watch));
                // Rules that a hand has flushed are not there, killed or not.
                if broken.starts_with("ip ") {
                    expect_rules(&host.dump(), &when);
                    expect_denied(host, &when);
                }
                watched(host).expect(&between.end, &when);
            }
        });
        let killed = killed.into_inner();
        eprintln!("{broken}: killed at {killed} of {tried} changes");
        // Two ends tell of one cable, and may be heard at once or one by one.
        assert!(killed > 5, "killed at {killed} of {tried} changes");
    }
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
    let places: Vec<Call> = calls(&host, SENDS, &["up"]).into_iter().filter(Call::changes).collect();
    assert!(!arrives(&mut connection));
    let check = |faults: &[(&str, &Call)]| {
        let mut connection = connect();
        assert!(arrives(&mut connection), "a connection to begin with");
        host.topology(&struck);
        for (fault, call) in faults {
            let code = with_fault(&host, call, fault, &["up"]).code;
            assert!(code != 0 || !arrives(&mut connection), "{faults:?}: success was claimed");
        }
        host.wire(&["up"]).expect(0);
        assert!(!arrives(&mut connection), "{faults:?}: the connection lives on");
        host.wire(&["audit"]).expect(0);
    };
    for fault in [ERRORS[0], REFUSED] {
        places.iter().for_each(|call| check(&[(fault, call)]));
    }
    // Either end alone ends it: who is to keep it alive has to be stopped at both.
    for first in &places {
        places.iter().for_each(|second| check(&[(KILL, first), (KILL, second)]));
    }
}

/// A refusal that stays, from any send on, is told with the node and the kernel's word for it.
#[test]
fn a_refusal_is_told() {
    let world = small();
    let host = world.host();
    let calls = calls(&host, SENDS, &["up"]);
    let mut told = 0;
    for Call { name, n, .. } in calls.iter().filter(|call| call.changes()) {
        host.wire(&["down"]).expect(0);
        let inject = format!("inject={name}:error=ENOBUFS:when={n}+");
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
