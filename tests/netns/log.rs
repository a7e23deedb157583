//! `wire log`: packets that rules of the nodes log, as lines and as objects. The rules are nft's own here, in a table that comes
//! before wire's.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::host::{Host, Running, TOPOLOGY, WIRE};
use crate::world::pluto;

const DEADLINE: Duration = Duration::from_secs(20);

/// `wire log`, reading.
struct Log {
    running: Running,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    lines
}

impl Log {
    /// Started, and reading in all nodes that run.
    fn start(host: &Host, args: &[&str]) -> Log {
        let argv = [&["setpriv", "--pdeathsig", "KILL", WIRE, "-f", TOPOLOGY], args].concat();
        let mut command = host.command("host", &argv);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wire starts");
        let stdout = lines(child.stdout.take().expect("a pipe"));
        let stderr = lines(child.stderr.take().expect("a pipe"));
        let log = Log { running: Running(child), stdout, stderr };
        log.told("reading at");
        log
    }

    /// Waits until a line of stderr says this.
    #[track_caller]
    fn told(&self, word: &str) -> String {
        loop {
            let line =
                self.stderr.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("`{word}` is not said: {error}"));
            if line.contains(word) {
                return line;
            }
        }
    }

    /// The next line of stdout.
    #[track_caller]
    fn line(&self) -> String {
        self.stdout.recv_timeout(DEADLINE).expect("a line")
    }

    #[track_caller]
    fn object(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Ends it, and returns the exit code and what it still said.
    fn end(mut self, signal: Signal) -> (Option<i32>, Vec<String>) {
        kill(Pid::from_raw(self.running.0.id() as i32), signal).expect("it still runs");
        let rest = self.rest();
        (self.running.0.wait().expect("it ends").code(), rest)
    }

    /// All that it still says until it ends.
    fn rest(&self) -> Vec<String> {
        let mut rest = Vec::new();
        loop {
            match self.stdout.recv_timeout(DEADLINE) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => return rest,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
    }
}

/// The house, wired by hand: no rules but those of the test.
fn wired() -> Host {
    let world = pluto();
    let host = world.host();
    world.recipe(&host);
    let delete = "nft delete table inet wire 2>/dev/null || :";
    let nodes = "for path in /run/netns/*; do nsenter --net=$path sh -c";
    host.sh(&format!("{delete}; {nodes} '{delete}'; done"));
    host
}

/// Loads a chain into a node, before whatever `wire` has there.
fn rules(host: &Host, node: &str, hook: &str, rules: &str) {
    let path = format!("/run/{node}.nft");
    let chain = format!("chain {hook} {{ type filter hook {hook} priority -1; policy accept;\n{rules}\n}}");
    host.write(&path, &format!("table inet test {{\n{chain}\n}}\n"));
    host.run(node, &["nft", "-f", &path]).expect(0);
}

/// Tries to connect, in vain.
fn connect(host: &Host, node: &str, address: &str, port: &str) {
    assert_ne!(host.run(node, &["timeout", "0.5", "busybox", "nc", address, port]).code, 0);
}

/// The line of the file that says this.
fn line_of(text: &str, word: &str) -> usize {
    text.lines().position(|line| line.contains(word)).expect(word) + 1
}

const DENY_GIT: &str = r#"tcp dport 22 log prefix "wire denied priv-git-ssh" group 119 drop"#;

/// Packets denied in several namespaces at once are shown by names, with the line that would have to change; what others log
/// to the same group is not.
#[test]
fn packets_are_shown_in_names() {
    let host = wired();
    let text = pluto().topology;
    rules(&host, "git-ssh", "output", &format!("tcp dport 22 log prefix \"not of wire\" group 119\n{DENY_GIT}"));
    let pings = [("10.1.1.1", "priv-git-ssh"), ("10.1.2.1", "priv-master-ssh")];
    let watch =
        |(from, wire)| format!("ip saddr {from} icmp type echo-request log prefix \"wire watched {wire}\" group 119\n");
    rules(&host, "vpn-edge", "input", &pings.map(watch).concat());
    let line = line_of(&text, "\"priv-git-ssh\"");
    let hint = "add \"tcp/22\" to `allow-back` of wire `priv-git-ssh`";

    let log = Log::start(&host, &["log"]);
    connect(&host, "git-ssh", "10.1.1.0", "22");
    let shown = log.line();
    for words in [
        "denied tcp/22 git-ssh → vpn-edge over priv-git-ssh, out at git-ssh, 10.1.1.1:",
        &format!(" → 10.1.1.0:22; {TOPOLOGY}:{line}: {hint}"),
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    assert!(host.ping("master-ssh", "10.1.2.0"));
    let shown = log.line();
    let words =
        "watched icmp/echo-request master-ssh → vpn-edge over priv-master-ssh, in at vpn-edge, 10.1.2.1 → 10.1.2.0; ";
    assert!(shown.contains(words), "{shown}");
    assert_eq!(log.end(Signal::SIGINT), (Some(0), vec![]));

    let log = Log::start(&host, &["--json", "log"]);
    connect(&host, "git-ssh", "10.1.1.0", "22");
    let mut record = log.object();
    let stamp = record["time"].take();
    assert!(stamp.as_str().is_some_and(|time| time.len() == 24 && time.starts_with("20") && time.ends_with('Z')));
    assert!(record["source-port"].take().as_u64() > Some(1023));
    assert_eq!(
        record,
        json!({
            "time": null, "verdict": "denied", "node": "git-ssh", "hook": "out", "device": "eth0", "wire": "priv-git-ssh",
            "from": "git-ssh", "to": "vpn-edge", "flow": "tcp/22", "source": "10.1.1.1", "source-port": null,
            "destination": "10.1.1.0", "destination-port": 22, "line": line,
            "reason": "tcp/22 goes the other way over wire `priv-git-ssh`: only `vpn-edge` may open it to `git-ssh`",
            "hint": hint,
        })
    );
    assert_eq!(log.end(Signal::SIGTERM), (Some(0), vec![]));

    // A target leaves out what is not about it.
    let log = Log::start(&host, &["--json", "log", "master-ssh"]);
    assert!(host.ping("git-ssh", "10.1.1.0") && host.ping("master-ssh", "10.1.2.0"));
    assert_eq!(log.object()["from"], "master-ssh");
    assert_eq!(log.end(Signal::SIGINT), (Some(0), vec![]));
    let log = Log::start(&host, &["--json", "log", "eligius"]);
    assert!(host.ping("master-ssh", "10.1.2.0") && host.ping("git-ssh", "10.1.1.0"));
    assert_eq!(log.object()["from"], "git-ssh");
    assert_eq!(log.end(Signal::SIGINT), (Some(0), vec![]));
}

/// What wire's own rules deny is shown, wherever that is: at the node that sends, or at the host for what comes from outside.
#[test]
fn wires_own_rules_are_heard() {
    let host = pluto().host();
    host.wire(&["up"]).expect(0);
    host.sh("ip -n lan route add 192.168.100.0/24 via 192.0.2.2");
    let log = Log::start(&host, &["log"]);
    for (node, address, port, shown) in [
        ("master-ssh", "10.1.2.0", "53", "master-ssh → vpn-edge over priv-master-ssh, out at master-ssh, 10.1.2.1:"),
        ("vpn-edge", "10.1.2.1", "80", "vpn-edge → master-ssh over priv-master-ssh, out at vpn-edge, 10.1.2.0:"),
        (
            "reverse-proxy-edge",
            "1.1.1.1",
            "443",
            "reverse-proxy-edge → outside over host-pub, out at reverse-proxy-edge, ",
        ),
        ("lan", "192.168.100.1", "22", "outside → reverse-proxy-edge over host-pub, through host, 192.0.2.1:"),
    ] {
        connect(&host, node, address, port);
        let line = log.line();
        assert!(line.contains(&format!("denied tcp/{port} {shown}")), "{line}");
    }
    assert_eq!(log.end(Signal::SIGINT), (Some(0), vec![]));
}

const FLOOD: &str = "WIRE_TEST_FLOOD";

/// Sends so many datagrams from a node: this very program does, started there with the same test, which then calls `flooded`.
fn flood(host: &Host, test: &str, node: &str, target: &str, packets: usize) {
    let program = std::env::current_exe().expect("this program");
    let program = program.to_str().expect("a path");
    let flood = ["env", &format!("{FLOOD}={packets} {target}"), program, "--exact", test];
    host.run(node, &flood).expect(0);
}

/// Whether this is the program that floods, which it then has done.
fn flooded() -> bool {
    let Ok(flood) = std::env::var(FLOOD) else { return false };
    let (packets, target) = flood.split_once(' ').expect("a number and an address");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    for _ in 0..packets.parse().expect("a number") {
        socket.send_to(b"x", target).expect("it leaves");
    }
    true
}

/// What the counter of a test's rules has counted.
fn counted(host: &Host, node: &str) -> usize {
    let list = host.run(node, &["nft", "-j", "list", "table", "inet", "test"]).expect(0).json();
    let rules = list["nftables"].as_array().expect("a list").iter().filter_map(|item| item["rule"]["expr"].as_array());
    rules.flatten().find_map(|one| one["counter"]["packets"].as_u64()).expect("a counter") as usize
}

/// A flood of a hundred thousand denied packets gives as many records as the rule's limit lets through, and no more.
#[test]
fn a_flood_is_few_records() {
    if flooded() {
        return;
    }
    let host = wired();
    let deny = "udp dport 53 limit rate 10/second burst 20 packets log prefix \"wire denied priv-git-ssh\" group 119\n\
        udp dport 53 counter drop";
    rules(&host, "vpn-edge", "input", deny);
    let log = Log::start(&host, &["--json", "log"]);
    let start = Instant::now();
    flood(&host, "log::a_flood_is_few_records", "git-ssh", "10.1.1.0:53", 100_000);
    let dropped = counted(&host, "vpn-edge");
    // The sender outruns the softirq now and then, whose queue is finite.
    assert!((50_000..=100_000).contains(&dropped), "{dropped} packets came");
    let most = 20 + 10 * (start.elapsed().as_secs() as usize + 1);
    assert_eq!(log.object()["flow"], "udp/53");
    let (code, rest) = log.end(Signal::SIGINT);
    assert_eq!(code, Some(0));
    assert!((10..most).contains(&rest.len()), "{} records of {dropped} packets, at most {most}", rest.len());
}

/// Of what comes faster than it is read, not one packet is left out uncounted.
#[test]
fn losses_are_counted() {
    if flooded() {
        return;
    }
    let host = wired();
    let deny = "udp dport 53-54 log prefix \"wire denied priv-git-ssh\" group 119\nudp dport 53-54 counter drop";
    rules(&host, "vpn-edge", "input", deny);
    let log = Log::start(&host, &["--json", "log"]);
    let pid = Pid::from_raw(log.running.0.id() as i32);
    kill(pid, Signal::SIGSTOP).expect("it runs");
    flood(&host, "log::losses_are_counted", "git-ssh", "10.1.1.0:53", 20_000);
    kill(pid, Signal::SIGCONT).expect("it runs");
    // Only a later packet tells that some before it are missing.
    let mut shown = 0;
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE, "nothing comes any more");
        flood(&host, "log::losses_are_counted", "git-ssh", "10.1.1.0:54", 1);
        let mut is_last = false;
        while let Ok(line) = log.stdout.recv_timeout(Duration::from_secs(1)) {
            shown += 1;
            is_last |= line.contains("udp/54");
        }
        if is_last {
            break;
        }
    }
    kill(pid, Signal::SIGINT).expect("it runs");
    let told: Vec<String> = log.stderr.iter().filter(|line| line.contains("came too fast to be shown")).collect();
    let number =
        |line: &String| line.split(' ').next().and_then(|number| number.parse::<usize>().ok()).expect("a number");
    let lost: usize = told.iter().map(number).sum();
    assert!(lost > 10_000, "{told:?}");
    assert_eq!(shown + lost, counted(&host, "vpn-edge"), "{told:?}");
}

/// A node whose namespace goes away is let go of, so that its wires go too; when it comes back, reading goes on in the new one.
#[test]
fn a_restarted_node_is_read_again() {
    let host = wired();
    let log = Log::start(&host, &["log"]);
    host.sh("ip netns del git-ssh");
    let start = Instant::now();
    while host.links("vpn-edge").iter().any(|link| link == "priv-git-ssh") {
        assert!(start.elapsed() < DEADLINE, "the namespace is kept");
        std::thread::sleep(Duration::from_millis(50));
    }
    log.told("waiting for `git-ssh`");
    host.netns(&["git-ssh"]);
    host.wire(&["up"]).expect(0);
    rules(&host, "git-ssh", "output", DENY_GIT);
    log.told("reading at `git-ssh` too");
    connect(&host, "git-ssh", "10.1.1.0", "22");
    assert!(log.line().contains("git-ssh → vpn-edge"));
    assert_eq!(log.end(Signal::SIGINT), (Some(0), vec![]));
}

/// One reader at a time: the second is told, and reads where the first does not.
#[test]
fn a_second_reader_is_told() {
    let host = wired();
    let first = Log::start(&host, &["log", "git-ssh"]);
    let second = host.wire(&["log", "git-ssh"]).expect(1);
    assert!(second.stderr.contains("somebody else reads") && second.stdout.is_empty(), "{second:?}");
    let second = host.wire(&["--json", "log", "git-ssh"]).expect(1).json();
    assert!(second["error"].as_str().is_some_and(|error| error.contains("somebody else reads")), "{second}");
    let everything = Log::start(&host, &["log"]);
    rules(&host, "master-ssh", "output", r#"log prefix "wire denied priv-master-ssh" group 119 drop"#);
    connect(&host, "master-ssh", "10.1.2.0", "22");
    assert!(everything.line().contains("master-ssh → vpn-edge"));
    assert_eq!(first.end(Signal::SIGINT), (Some(0), vec![]));
    everything.told("reading at");
    assert_eq!(everything.end(Signal::SIGINT), (Some(0), vec![]));
}

/// It ends when nobody reads what it prints, also while there is nothing to print; without the capabilities it says so.
#[test]
fn it_ends_with_its_reader() {
    let host = wired();
    let script = format!("{{ timeout 20 {WIRE} -f {TOPOLOGY} log; echo ended $? >&2; }} | true");
    let output = host.run("host", &["sh", "-c", &script]).expect(0);
    assert!(output.stderr.contains("ended 0\n"), "{}", output.stderr);
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", WIRE, "-f", TOPOLOGY, "log"];
    let output = host.run("host", &bare).expect(1);
    assert!(output.stderr.contains("CAP_NET_ADMIN") && output.stderr.contains("CAP_SYS_ADMIN"), "{}", output.stderr);
    host.wire(&["log", "nobody"]).expect(2);
}
