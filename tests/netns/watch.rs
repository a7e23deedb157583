//! `wire watch` in a house of named namespaces: whatever is broken is mended without being asked, nothing else is touched, and
//! nothing happens when nothing has happened. With containers it is in `podman`.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::host::{Dump, Host, Running, TOPOLOGY, WIRE, expect_silence, text};
use crate::nameserver::NameServer;
use crate::world::{World, small};

const DEADLINE: Duration = Duration::from_secs(30);

/// `wire watch`, ready.
pub struct Watch {
    running: Running,
    events: Receiver<Value>,
}

impl Watch {
    pub fn start(host: &Host) -> Watch {
        Watch::start_with(host, &[])
    }

    /// With these variables (`NAME=value`) in its environment.
    fn start_with(host: &Host, environment: &[&str]) -> Watch {
        let argv = ["setpriv", "--pdeathsig", "KILL", WIRE, "-f", TOPOLOGY, "--json", "watch"];
        let argv = [&["env"], environment, &argv].concat();
        let mut command = host.command("host", &argv);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("wire starts");
        let (send, events) = channel();
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let object = |line: String| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        std::thread::spawn(move || lines.map(object).try_for_each(|event| send.send(event)));
        let watch = Watch { running: Running(child), events };
        watch.event("ready");
        watch
    }

    /// The next event of a kind; those before it are let go.
    #[track_caller]
    pub fn event(&self, kind: &str) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let event = self.events.recv_timeout(end.saturating_duration_since(Instant::now()));
            let event = event.unwrap_or_else(|error| panic!("`{kind}` is not told: {error}"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// What was told since.
    fn events(&self) -> Vec<Value> {
        self.events.try_iter().collect()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.running.0.id() as i32)
    }

    /// Whether somebody else has ended it.
    pub fn is_dead(&mut self) -> bool {
        self.running.0.try_wait().expect("a child").is_some()
    }

    /// Ends it; returns its exit code.
    pub fn end(mut self, signal: Signal) -> Option<i32> {
        kill(self.pid(), signal).expect("it still runs");
        self.running.0.wait().expect("it ends").code()
    }

    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect(key);
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    }

    /// Waits until it waits.
    fn rest(&self) {
        until("it is at rest", || {
            let before = self.status("voluntary_ctxt_switches");
            std::thread::sleep(Duration::from_millis(500));
            self.status("voluntary_ctxt_switches") == before
        });
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < DEADLINE, "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A wired small house with somebody who watches.
fn house() -> (World, Host, Dump, Watch) {
    let world = small();
    let (host, wired) = world.up();
    let watch = Watch::start(&host);
    (world, host, wired, watch)
}

/// What breaks a wire or the rules of the small house, and the wires that may be made anew when it is mended.
const BREAKS: [(&str, &[&str]); 21] = [
    ("nsenter --net=/run/netns/web nft flush ruleset", &[]),
    ("nsenter --net=/run/netns/edge nft flush ruleset", &[]),
    ("nft flush ruleset", &[]),
    ("nsenter --net=/run/netns/web nft flush chain inet wire input", &[]),
    ("nsenter --net=/run/netns/edge nft add rule inet wire input accept", &[]),
    ("nsenter --net=/run/netns/shop nft delete table inet wire", &[]),
    ("ip -n web link del eth0", &["edge-web"]),
    ("ip link del host-edge", &["host-edge"]),
    ("ip -n edge link del edge-web", &["edge-web"]),
    ("ip -n web link set eth0 down", &[]),
    ("ip -n web address flush dev eth0", &[]),
    ("ip -n edge route del default", &[]),
    ("ip -n web route del 10.100.0.0/24", &[]),
    ("ip -n web link set eth0 down; ip -n web link set eth0 name other", &[]),
    ("ip -n web link set eth0 mtu 1300", &[]),
    ("ip -n web link set eth0 alias nobody", &[]),
    ("ip -n web link property del dev eth0 altname edge-web", &[]),
    ("ip -n web link set eth0 address 02:00:00:00:00:77", &[]),
    ("nsenter --net=/run/netns/web sh -c 'echo 1 >/proc/sys/net/ipv4/conf/eth0/forwarding'", &[]),
    ("echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding", &[]),
    ("nsenter --net=/run/netns/shop sh -c 'echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter'", &[]),
];

/// Each way of breaking is undone by itself, nothing but what was broken is made anew, and what was mended is told.
#[test]
fn whatever_is_broken_is_mended() {
    let (world, host, wired, watch) = house();
    for (script, anew) in BREAKS {
        let before = world.indexes(&host);
        watch.events();
        host.sh(script);
        let mended = watch.event("mended");
        assert!(!mended["changes"].as_array().expect("changes").is_empty(), "{script}: {mended}");
        until(&format!("all is as it was before `{script}`"), || host.wire(&["audit"]).code == 0);
        host.dump().expect(&wired, script);
        for (end, index) in world.indexes(&host) {
            assert!(anew.contains(&end.1) || before[&end] == index, "`{script}`: {end:?} was made anew");
        }
    }
    assert_eq!(watch.end(Signal::SIGTERM), Some(0));
    host.dump().expect(&wired, "the end of the watch");
}

/// A namespace that comes is wired, one that goes and comes again is wired again, and one that goes is not kept alive: the far
/// ends of its wires go with it.
#[test]
fn namespaces_come_and_go() {
    let world = small();
    let host = world.host();
    host.sh("ip netns del web");
    let watch = Watch::start(&host);
    assert!(!host.links("edge").contains(&"edge-web".to_owned()));
    host.netns(&["web"]);
    assert_eq!(watch.event("runs")["node"], "web");
    watch.event("mended");
    until("web is wired", || host.wire(&["audit"]).code == 0);
    let wired = host.dump();
    for _ in 0..3 {
        host.sh("ip netns del web");
        assert_eq!(watch.event("ended")["node"], "web");
        until("its far ends are gone", || !host.links("edge").contains(&"edge-web".to_owned()));
        host.netns(&["web"]);
        watch.event("runs");
        until("web is wired again", || host.wire(&["audit"]).code == 0);
        host.dump().expect(&wired, "wired again");
    }
    let remembered: Value = serde_json::from_str(&host.sh("cat /run/wire/remembered.json")).expect("JSON");
    assert!(remembered.as_object().expect("by cookie").len() <= 4, "what has ended is forgotten: {remembered}");
    // Away and there again before anybody can look.
    host.sh("ip netns del web; ip netns add web");
    watch.event("ended");
    watch.event("runs");
    until("web is wired", || host.wire(&["audit"]).code == 0);
    host.dump().expect(&wired, "exchanged");
}

/// Where nothing happens it does not wake up once, and the kernel hears nothing from it.
#[test]
fn nothing_happens_when_nothing_happens() {
    let (world, host, _, watch) = house();
    // What its own first look has stirred up comes to rest, and what was opened is let go of; and what the monitors stir up.
    watch.rest();
    let monitors = world.monitors(&host);
    watch.rest();
    let before = (watch.status("voluntary_ctxt_switches"), watch.status("nonvoluntary_ctxt_switches"));
    std::thread::sleep(Duration::from_secs(3));
    let after = (watch.status("voluntary_ctxt_switches"), watch.status("nonvoluntary_ctxt_switches"));
    assert_eq!(after, before, "it was switched to");
    expect_silence(&monitors, "watching");
    assert_eq!(watch.status("Threads"), 1);
}

/// A file that is valid is followed at once, however it was written; an invalid or missing one changes nothing and is told with
/// its faults; SIGHUP has everything looked at.
#[test]
fn the_file_is_followed() {
    let (world, host, wired, watch) = house();
    let without = world.topology.replace("{ name = \"shop-web-database\"", "# { name = \"shop-web-database\"");
    host.write("/run/new.toml", &without);
    host.sh(&format!("mv /run/new.toml {TOPOLOGY}"));
    watch.event("reloaded");
    until("the wire is gone", || {
        !host.links("web").contains(&"shop-web-database".to_owned()) && host.wire(&["audit"]).code == 0
    });
    let smaller = host.dump();

    host.topology("version = 1\nwires = []\n");
    let kept = watch.event("kept");
    assert_eq!(kept["errors"][0]["line"], 2, "{kept}");
    host.sh(&format!("rm {TOPOLOGY}"));
    let kept = watch.event("kept");
    assert!(text(&kept["errors"][0]["message"]).contains("there is no topology file"), "{kept}");
    host.dump().expect(&smaller, "an invalid file changes nothing");
    // What it had is still kept true.
    host.sh("ip -n web link del eth0");
    until("the old file is kept true", || host.dump() == smaller);

    watch.events();
    host.topology(&without);
    watch.event("reloaded");
    host.dump().expect(&smaller, "as the file was before it was wrong");
    host.topology(&world.topology);
    watch.event("reloaded");
    until("the wire is back", || host.wire(&["audit"]).code == 0);
    host.dump().expect(&wired, "as before");

    // The kernel does not tell of this setting, so nobody could have heard of it.
    host.set_sysctl("web", "ipv4/conf/eth0/accept_redirects", "1");
    kill(watch.pid(), Signal::SIGHUP).expect("it runs");
    until("all was looked at", || host.sysctl("web", "ipv4/conf/eth0/accept_redirects") == "0");
}

/// Who deletes `/run/wire` takes away neither the watch nor its place.
#[test]
fn a_deleted_folder_is_made_again() {
    let (_, host, wired, watch) = house();
    // It need not notice before there is something to do.
    host.sh("rm -r /run/wire; nsenter --net=/run/netns/web nft flush ruleset");
    let warning = watch.event("warning");
    assert!(text(&warning["message"]).contains("deleted /run/wire"), "{warning}");
    assert_eq!(host.sh("cat /run/wire/ready").trim(), watch.pid().to_string());
    host.wire(&["watch"]).expect(1);
    until("it is mended", || host.wire(&["audit"]).code == 0);
    host.dump().expect(&wired, "as before");
}

/// There is one at a time; when it ends, even by a kill, all stays as it was and the next one goes on.
#[test]
fn one_at_a_time_and_the_next_goes_on() {
    let (_, host, wired, watch) = house();
    assert_eq!(host.sh("cat /run/wire/ready").trim(), watch.pid().to_string());
    let second = host.wire(&["watch"]).expect(1);
    assert!(second.stderr.contains("another `wire watch` runs already"), "{}", second.stderr);
    host.wire(&["up"]).expect(0);
    watch.end(Signal::SIGKILL);
    host.dump().expect(&wired, "killed");
    host.sh("nsenter --net=/run/netns/web nft flush ruleset");
    let watch = Watch::start(&host);
    host.dump().expect(&wired, "it begins with everything");
    assert_eq!(watch.end(Signal::SIGINT), Some(0));
    host.dump().expect(&wired, "interrupted");
    assert!(!host.path("/run/wire/ready").exists());
}

/// `down` says that what it takes away comes back.
#[test]
fn down_tells_of_the_watch() {
    let (_, host, wired, watch) = house();
    let down = host.wire(&["down"]).expect(0);
    assert!(down.stderr.contains("`wire watch` runs"), "{}", down.stderr);
    until("all is back", || host.wire(&["audit"]).code == 0);
    host.dump().expect(&wired, "back");
    watch.end(Signal::SIGTERM);
    let down = host.wire(&["down"]).expect(0);
    assert!(!down.stderr.contains("`wire watch` runs"), "{}", down.stderr);
}

/// While a change waits for its confirmation nothing is touched; afterwards the file counts.
#[test]
fn a_change_that_waits_is_left_alone() {
    let (world, host, wired, watch) = house();
    let other = world.topology.replace("mtu = 1400", "mtu = 1350");
    host.write("/run/other.toml", &other);
    host.run("host", &[WIRE, "-f", "/run/other.toml", "up", "--confirm", "1h"]).expect(0);
    watch.event("paused");
    let waiting = host.dump();
    assert!(waiting != wired, "it was changed");
    host.sh("ip -n web link set eth0 alias nobody");
    host.sh("ip -n web link set eth0 alias wire:edge-web");
    host.dump().expect(&waiting, "left alone");
    host.wire(&["confirm"]).expect(0);
    watch.event("resumed");
    until("the file counts again", || host.dump() == wired);
}

/// Whoever breaks his own wire without end is mended ever more seldom; another's is mended as quickly as ever.
#[test]
fn who_breaks_without_end_slows_nobody() {
    let (_, host, wired, watch) = house();
    let script = "while :; do ip link set eth0 down; nft flush ruleset; sleep 0.002; done";
    let breaker = host.start("web", &["sh", "-c", script]);
    let told = watch.event("backed-off");
    assert!(text(&told["what"]).contains("web"), "{told}");
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        host.sh("nsenter --net=/run/netns/shop nft delete table inet wire");
        while host.rules("shop").is_empty() {
            assert!(begun.elapsed() < DEADLINE, "nobody mends the shop");
            std::thread::sleep(Duration::from_millis(2));
        }
        times.push(begun.elapsed());
    }
    times.sort();
    assert!(times[2] < Duration::from_secs(1), "{times:?}");
    watch.events();
    std::thread::sleep(Duration::from_secs(2));
    let of_web = |event: &&Value| event["event"] == "mended" && event["nodes"].to_string().contains("web");
    let mends = watch.events().iter().filter(of_web).count();
    assert!(mends < 60, "{mends} mends in two seconds");
    drop(breaker);
    until("all is well again", || host.wire(&["audit"]).code == 0);
    host.dump().expect(&wired, "quiet again");
}

/// systemd is told that it is ready, that it turns, that it reads the file again, and that it ends.
#[test]
fn a_supervisor_is_told() {
    let world = small();
    let host = world.host();
    let socket = UnixDatagram::bind(host.path("/run/notify")).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let hear = |word: &str| {
        let end = Instant::now() + DEADLINE;
        loop {
            let mut text = [0; 4096];
            let length = socket.recv(&mut text).unwrap_or_else(|error| panic!("`{word}` is not said: {error}"));
            let text = String::from_utf8_lossy(&text[..length]).into_owned();
            assert!(Instant::now() < end, "`{word}` is not said");
            if text.lines().any(|line| line.starts_with(word)) {
                return text;
            }
        }
    };
    let watch = Watch::start_with(&host, &["NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=400000"]);
    assert!(hear("READY=1").contains("STATUS=keeps 4 wires"));
    for _ in 0..3 {
        hear("WATCHDOG=1");
    }
    kill(watch.pid(), Signal::SIGHUP).expect("it runs");
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    watch.end(Signal::SIGTERM);
    hear("STOPPING=1");
}

/// Names are asked for again in their time, and files of sets are read when they change; the kernel has it then.
#[test]
fn sets_are_kept_true() {
    let world = small();
    let host = world.host();
    let server = NameServer::start(&host);
    server.zone("anna.example.net A 198.51.100.7");
    host.write("/run/banned", "203.0.113.1\n");
    let sets =
        "\n[set.players]\ndns = [\"anna.example.net\"]\ninterval = \"1s\"\n[set.banned]\nfile = \"/run/banned\"\n";
    let topology =
        world.topology.replace("publish = [\"tcp/80\"]", "publish = [{ flow = \"tcp/80\", from = \"@players\" }]");
    let topology = topology.replace("[host]\n", "[host]\nblock = \"@banned\"\n") + sets;
    host.topology(&topology);
    let watch = Watch::start(&host);
    let holds = |address: &str| host.rules("host").contains(address);
    until("the first answer is in the kernel", || holds("198.51.100.7") && holds("203.0.113.1"));
    server.zone("anna.example.net A 198.51.100.8");
    until("the next one is", || holds("198.51.100.8") && !holds("198.51.100.7"));
    host.write("/run/banned", "203.0.113.2\n");
    until("the file is followed", || holds("203.0.113.2") && !holds("203.0.113.1"));
    // A name server that is gone takes nobody away.
    server.zone("SERVFAIL");
    host.sh("nft flush ruleset");
    until("all is back", || holds("198.51.100.8") && holds("203.0.113.2"));
    host.wire(&["set", "add", "banned", "203.0.113.9"]).expect(0);
    host.sh("nft flush ruleset");
    until("what was added stays", || holds("203.0.113.9"));
    until("one thread is enough between two questions", || watch.status("Threads") == 1);
    host.wire(&["audit"]).expect(0);
}

/// Thousands of events leave it as it was: memory, descriptors and threads.
#[test]
fn thousands_of_events_leave_it_as_it_was() {
    let (_, host, wired, watch) = house();
    let toggle = |from: usize| {
        let mut batch = String::new();
        for i in from..from + 250 {
            let address = format!("10.99.{}.{}/32", i / 250 % 250, i % 250 + 1);
            batch += &format!("address add {address} dev eth0\naddress del {address} dev eth0\n");
        }
        host.write("/run/batch", &batch);
        host.sh("ip -n web -batch /run/batch; ip -n shop -batch /run/batch; nsenter --net=/run/netns/shop nft flush ruleset");
        until("all is mended", || host.wire(&["audit"]).code == 0);
    };
    // Its own memory alone: how much of the program's file has been read in yet is no matter of events.
    let rest = || {
        watch.rest();
        (watch.status("RssAnon"), watch.descriptors(), watch.status("Threads"))
    };
    // The first few let it grow to what it needs.
    (0..4).for_each(|round| toggle(round * 250));
    let before = rest();
    (4..10).for_each(|round| toggle(round * 250));
    let after = rest();
    assert_eq!((after.1, after.2), (before.1, before.2), "descriptors and threads");
    assert!(after.0 < before.0 + 512, "memory: {} KiB, then {} KiB", before.0, after.0);
    host.dump().expect(&wired, "mended");
}
