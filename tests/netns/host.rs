//! The pretend host: a user, network and mount namespace of its own with an uplink to a LAN, in which the built `wire` runs
//! as root and is observed by `ip`, `nft` and packets. It needs no privilege where user namespaces are allowed, and whatever
//! lives in it dies with the `Host` value, also on panic: its keeper ends when the pipe to it closes.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// The programs that tests run, and the packages (Debian's names, Alpine's are the same) that bring them.
const PROGRAMS: [(&str, &str); 9] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux (Alpine: setpriv)"),
    ("timeout", "coreutils"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("strace", "strace"),
    ("busybox", "busybox-static"),
];

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long anything may take before a test calls it hung.
const DEADLINE: Duration = Duration::from_secs(20);

/// Makes the pretend host inside its fresh namespaces: `/run` and `/var/lib` of its own, and an uplink `eth0` whose far end is the
/// namespace `lan`. Duplicate address detection is off, and the pair has two indexes (with one alone, the kernel's link watch
/// takes its time), so that its addresses are there at once.
const SETUP: &str = r#"
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir /run/netns
ip link set lo up
ip netns add lan
for at in '' '--net=/run/netns/lan'; do
  nsenter $at sh -c 'for f in all default; do echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad; done'
done
ip link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 netns lan index 100 address 02:00:00:00:00:02
ip address add 192.0.2.2/24 dev eth0
ip -n lan address add 192.0.2.1/24 dev eth0
ip -n lan link set eth0 up
ip link set eth0 up
ip route add default via 192.0.2.1
echo ready
exec cat
"#;

/// Prints what a namespace holds, one namespace after the other. Read by `Dump::read`.
const OBSERVE: &str = r#"
observe() {
  printf '\001%s\n' "$1"
  printf 'address show\nroute show table all\nrule show\n' | ip -j -d -b -
  printf '\002\n'
  grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf
  printf '\002\n'
  nft -s list ruleset
}
if [ $# = 1 ]; then observe "$1"; exit; fi
observe host
for path in /run/netns/*; do nsenter --net="$path" sh /run/observe "${path##*/}" || :; done
"#;

/// What a program did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; 128 and the signal's number where one ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    fn new(status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>) -> Output {
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).expect("an ended program has one");
        let text = |bytes| String::from_utf8(bytes).expect("programs write UTF-8");
        Output { code, stdout: text(stdout), stderr: text(stderr) }
    }

    /// Fails the test with everything the program said unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        assert_eq!(self.code, code, "exit code\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// The standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("not JSON: {error}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
        })
    }
}

/// A program in the background; it ends with the value.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Host {
    /// Holds the namespaces open until its standard input closes.
    _keeper: Running,
    pid: u32,
    fences: AtomicU32,
}

impl Drop for Host {
    /// Whoever was left behind in a session of his own would keep the namespaces.
    fn drop(&mut self) {
        let user = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        let own = user(&self.pid.to_string());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = process.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
                continue;
            };
            if own.is_some()
                && user(pid) == own
                && let Ok(pid) = pid.parse()
            {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

impl Host {
    /// A host with an uplink and nothing else.
    pub fn new() -> Host {
        programs();
        let mut user = Running(spawn(Command::new("unshare").args(["-U", "sh", "-c", "echo ready; exec cat"])));
        ready(&mut user, USER_NAMESPACES);
        map_users(user.0.id());

        let mut command = enter(user.0.id(), &["-U"]);
        command.args(["unshare", "-n", "-m", "--propagation", "private", "sh", "-c", SETUP]);
        let mut keeper = Running(spawn(&mut command));
        ready(&mut keeper, USER_NAMESPACES);
        let host = Host { pid: keeper.0.id(), _keeper: keeper, fences: AtomicU32::new(0) };
        host.write("/run/observe", OBSERVE);
        host.dump();
        host
    }

    /// A host with a namespace for each name, and a topology file.
    pub fn with(nodes: &[&str], topology: &str) -> Host {
        let host = Host::new();
        host.netns(nodes);
        host.topology(topology);
        host
    }

    /// Makes named namespaces.
    pub fn netns(&self, names: &[&str]) {
        self.sh(&format!("set -e; for name in {}; do ip netns add $name; done", names.join(" ")));
    }

    /// Writes the topology file that `wire` reads.
    pub fn topology(&self, text: &str) {
        self.write(TOPOLOGY, text);
    }

    /// A path of the pretend host as seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.path(path), text).expect(path);
    }

    /// A program at a node (`host` or a named namespace), not yet started.
    pub fn command(&self, node: &str, argv: &[&str]) -> Command {
        let mut command = enter(self.pid, &["-U", "-n", "-m"]);
        if node != "host" {
            command.args(["nsenter", &format!("--net=/run/netns/{node}")]);
        }
        command.args(argv).stdin(Stdio::null());
        command
    }

    /// Does something in the network namespace of a node, in a thread that ends there. Sockets made in it stay in it. Takes root:
    /// see `packet::is_root`.
    pub fn at<T: Send>(&self, node: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = match node {
            "host" => PathBuf::from(format!("/proc/{}/ns/net", self.pid)),
            node => self.path(&format!("/run/netns/{node}")),
        };
        let namespace = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let enter = || setns(namespace, CloneFlags::CLONE_NEWNET).expect("root enters whatever he likes");
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                enter();
                work()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program at a node to its end.
    pub fn run(&self, node: &str, argv: &[&str]) -> Output {
        let output = self.command(node, argv).output().expect("nsenter starts");
        Output::new(output.status, output.stdout, output.stderr)
    }

    /// Starts a program at a node in the background; it ends with the value, or with the test.
    pub fn start(&self, node: &str, argv: &[&str]) -> Running {
        let argv = [&["setpriv", "--pdeathsig", "KILL"], argv].concat();
        let mut command = self.command(node, &argv);
        Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter starts"))
    }

    /// Keeps a node's present namespace alive, as a process in it would, as long as the value.
    pub fn inhabit(&self, node: &str) -> Running {
        let mut inhabitant = self.start(node, &["sh", "-c", "echo ready; exec cat"]);
        ready(&mut inhabitant, "a shell does not start");
        inhabitant
    }

    /// Runs shell commands on the host, which must succeed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.run("host", &["sh", "-c", script]);
        assert_eq!(output.code, 0, "`{script}`: {}", output.stderr);
        output.stdout
    }

    /// Runs `wire` on the host as root, with the topology file and nothing else in its environment.
    pub fn wire(&self, args: &[&str]) -> Output {
        self.wire_under(&[], args)
    }

    /// Runs `wire` behind another program, such as `strace`.
    pub fn wire_under(&self, program: &[&str], args: &[&str]) -> Output {
        let limit = ["timeout", "-k", "1", "60"];
        self.run("host", &[&limit, program, &[WIRE, "-f", TOPOLOGY], args].concat())
    }

    /// What `ip -j -d` says at a node.
    #[track_caller]
    pub fn ip(&self, node: &str, args: &[&str]) -> Value {
        let output = self.run(node, &[&["ip", "-j", "-d"], args].concat()).expect(0);
        if output.stdout.trim().is_empty() { json!([]) } else { output.json() }
    }

    /// One link, with its addresses.
    #[track_caller]
    pub fn link(&self, node: &str, device: &str) -> Value {
        self.ip(node, &["address", "show", "dev", device])[0].take()
    }

    /// A kernel setting below `/proc/sys/net`, such as `ipv4/conf/all/forwarding`.
    pub fn sysctl(&self, node: &str, key: &str) -> String {
        let path = format!("/proc/sys/net/{key}");
        self.run(node, &["cat", &path]).expect(0).stdout.trim().to_owned()
    }

    pub fn set_sysctl(&self, node: &str, key: &str, value: &str) {
        self.run(node, &["sh", "-c", &format!("echo {value} >/proc/sys/net/{key}")]).expect(0);
    }

    /// Whether a connection from a node arrives at a port where nobody listens: the far end's refusal comes back then.
    pub fn reaches(&self, node: &str, address: &str, port: u16) -> bool {
        let output = self.run(node, &["busybox", "nc", "-w", "3", address, &port.to_string()]);
        let arrived = output.stderr.contains("Connection refused");
        assert!(arrived || output.stderr.contains("timed out"), "{node} to {address}:{port}: {output:?}");
        arrived
    }

    /// The table of wire's rules at a node as `nft` lists it; empty where there is none.
    pub fn rules(&self, node: &str) -> String {
        self.run(node, &["nft", "list", "table", "inet", "wire"]).stdout
    }

    /// Whether an echo request from a node is answered.
    pub fn ping(&self, node: &str, address: &str) -> bool {
        self.run(node, &["busybox", "ping", "-c", "1", "-w", "2", address]).code == 0
    }

    /// The names of the links at a node, in order.
    pub fn links(&self, node: &str) -> Vec<String> {
        let links = self.ip(node, &["link", "show"]);
        links.as_array().expect("a list").iter().map(|link| text(&link["ifname"])).collect()
    }

    /// Everything that the host and every named namespace hold, once no link is between two states.
    pub fn dump(&self) -> Dump {
        let start = Instant::now();
        loop {
            let raw = self.run("host", &["sh", "/run/observe"]).expect(0).stdout;
            match Dump::read(&raw) {
                Ok(dump) => return dump,
                Err(link) if start.elapsed() > DEADLINE => panic!("a link never comes to rest: {link}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The dump of some nodes alone.
    pub fn dump_nodes(&self, nodes: &[&str]) -> Dump {
        self.dump().only(|fact| nodes.contains(&fact.split(' ').next().expect("a node")))
    }

    /// Watches the links, addresses, routes, rules and settings of a node from now on.
    pub fn monitor(&self, node: &str) -> Monitor<'_> {
        let argv = ["ip", "monitor", "link", "address", "route", "rule", "netconf"];
        let mut running = self.start(node, &argv);
        let output = BufReader::new(running.0.stdout.take().expect("a pipe"));
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let monitor = Monitor { host: self, node: node.to_owned(), lines, _running: running };
        let start = Instant::now();
        while monitor.fence(Duration::from_millis(20)).is_none() {
            assert!(start.elapsed() < DEADLINE, "`ip monitor` at {node} shows nothing");
        }
        monitor
    }
}

/// Waits until something is so. A client of the VPN asks for a handshake again after 5 s, and takes 15 to find that nobody answers.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(45), "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The topology file as the pretend host sees it.
pub const TOPOLOGY: &str = "/run/topology.toml";

/// The program under test.
pub const WIRE: &str = env!("CARGO_BIN_EXE_wire");

const USER_NAMESPACES: &str = "a user namespace cannot be made here: run the tests as root, or allow them \
    (kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces)";

/// Fails with the package to install where a program is missing.
fn programs() {
    static MISSING: OnceLock<Vec<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let found = |name: &str| PATH.split(':').any(|dir| PathBuf::from(dir).join(name).exists());
        let missing = PROGRAMS.iter().filter(|(program, _)| !found(program));
        missing.map(|(program, package)| format!("`{program}` of the package {package}")).collect()
    });
    assert!(missing.is_empty(), "these tests need {} (`scripts/test --install` installs it)", missing.join(", "));
}

/// A command in namespaces of a process, with an empty environment but for the path.
fn enter(pid: u32, namespaces: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg("--preserve-credentials").args(namespaces).args(["-t", &pid.to_string(), "--"]);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C");
    command
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("util-linux is there")
}

/// Waits until a child has said `ready`.
#[track_caller]
fn ready(child: &mut Running, otherwise: &str) {
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    if line != "ready\n" {
        let mut stderr = String::new();
        child.0.stderr.as_mut().map(|pipe| pipe.read_to_string(&mut stderr));
        panic!("{otherwise}: {stderr}");
    }
}

/// Maps the users of a new user namespace: for root everybody to himself, for anybody else himself to root.
fn map_users(pid: u32) {
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect(&path);
    };
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if !uid.is_root() {
        write("setgroups", "deny");
        write("uid_map", &format!("0 {uid} 1"));
        return write("gid_map", &format!("0 {gid} 1"));
    }
    for map in ["uid_map", "gid_map"] {
        let own = std::fs::read_to_string(format!("/proc/self/{map}")).expect(map);
        let identity = own.lines().map(|line| {
            let mut fields = line.split_whitespace();
            let (first, count) = (fields.next().expect("a user"), fields.nth(1).expect("a count"));
            format!("{first} {first} {count}\n")
        });
        write(map, &identity.collect::<String>());
    }
}

/// Events of a node. `ip` prints them as they come; a fence, a route that comes and goes, tells that all before it are there.
pub struct Monitor<'a> {
    host: &'a Host,
    node: String,
    lines: std::sync::mpsc::Receiver<String>,
    _running: Running,
}

impl Monitor<'_> {
    /// What happened since the last call (or the start).
    #[track_caller]
    pub fn events(&self) -> Vec<String> {
        self.fence(DEADLINE).unwrap_or_else(|| panic!("`ip monitor` at {} went silent", self.node))
    }

    fn fence(&self, patience: Duration) -> Option<Vec<String>> {
        let number = self.host.fences.fetch_add(1, Ordering::Relaxed);
        let fence = format!("blackhole 203.0.113.{} table {}", number % 256, 70_000 + number);
        let file = format!("/run/fence-{number}");
        self.host.write(&file, &format!("route add {fence}\nroute del {fence}\n"));
        self.host.run(&self.node, &["ip", "-batch", &file]).expect(0);
        std::fs::remove_file(self.host.path(&file)).expect(&file);
        let end = Instant::now() + patience;
        let mut events = Vec::new();
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
            let line = line.trim_end();
            match line.strip_prefix("Deleted blackhole") {
                Some(rest) if fence.ends_with(rest.trim()) => return Some(events),
                _ if line.contains("blackhole 203.0.113.") => {}
                _ => events.push(line.to_owned()),
            }
        }
    }
}

/// Fails the test if anything happened at any of the nodes since the last look.
#[track_caller]
pub fn expect_silence(monitors: &[Monitor], when: &str) {
    for monitor in monitors {
        let events = monitor.events();
        assert!(events.is_empty(), "{when}: {} saw\n{}", monitor.node, events.join("\n"));
    }
}

/// What namespaces hold, one fact a line, without what changes by itself (indexes, counters, lifetimes).
#[derive(Clone, PartialEq, Eq)]
pub struct Dump(pub BTreeSet<String>);

impl Dump {
    /// Reads what `OBSERVE` printed. `Err` names a link whose state is still about to change.
    fn read(raw: &str) -> Result<Dump, String> {
        let mut facts = BTreeSet::new();
        for part in raw.split('\u{1}').skip(1) {
            let (node, part) = part.split_once('\n').expect("a name");
            let [kernel, settings, rules] = part.split("\u{2}\n").collect::<Vec<_>>()[..] else { panic!("{part}") };
            let mut lists = serde_json::Deserializer::from_str(kernel).into_iter::<Value>();
            let mut next = || match lists.next().expect("one list a command").expect("JSON") {
                Value::Array(list) => list,
                other => panic!("{other}"),
            };
            for mut link in next() {
                if !at_rest(&link) {
                    return Err(format!("{node}: {link}"));
                }
                let name = text(&link["ifname"]);
                for mut address in link["addr_info"].take().as_array_mut().expect("addresses").drain(..) {
                    strip(&mut address, &["valid_life_time", "preferred_life_time"]);
                    facts.insert(format!("{node} address {name} {address}"));
                }
                strip(&mut link, &["ifindex", "link_index", "link_netnsid", "operstate", "addr_info"]);
                if let Some(kind) = link["linkinfo"].as_object_mut() {
                    kind.remove("info_data");
                }
                keep(&mut link["flags"], |flag| !matches!(flag, "NO-CARRIER" | "RUNNING"));
                facts.insert(format!("{node} link {link}"));
            }
            for mut route in next() {
                strip(&mut route, &["expires"]);
                keep(&mut route["flags"], |flag| flag != "linkdown");
                facts.insert(format!("{node} route {route}"));
            }
            facts.extend(next().iter().map(|rule| format!("{node} rule {rule}")));
            let settings = settings.lines().filter_map(|line| line.strip_prefix("/proc/sys/net/"));
            facts.extend(settings.map(|setting| format!("{node} setting {setting}")));
            facts.extend(ruleset(rules).into_iter().map(|rule| format!("{node} nft {rule}")));
        }
        Ok(Dump(facts))
    }

    /// The facts that satisfy a condition.
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Dump {
        Dump(self.0.iter().filter(|fact| keep(fact)).cloned().collect())
    }

    /// Fails the test with the difference.
    #[track_caller]
    pub fn expect(&self, wanted: &Dump, when: &str) {
        let lost: String = wanted.0.difference(&self.0).map(|fact| format!("- {fact}\n")).collect();
        let new: String = self.0.difference(&wanted.0).map(|fact| format!("+ {fact}\n")).collect();
        assert!(self == wanted, "{when}: the dumps differ\n{lost}{new}");
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|fact| writeln!(f, "{fact}"))
    }
}

/// Whether the kernel's link watch has caught up with the carrier: until then flags, routes and addresses may still change.
/// A device with an IPv6 address, but for the loopback, gets a link-local one then.
fn at_rest(link: &Value) -> bool {
    let ipv6 = link["addr_info"].as_array().expect("addresses").iter().filter(|address| address["family"] == "inet6");
    let [global, local] = ["global", "link"].map(|scope| ipv6.clone().any(|address| address["scope"] == scope));
    if ipv6.clone().any(|address| address["tentative"] == true) || global && !local && link["ifname"] != "lo" {
        return false;
    }
    let has = |flag: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == flag));
    match (has("UP"), has("LOWER_UP"), link["operstate"].as_str()) {
        (false, ..) => true,
        (true, true, state) => matches!(state, Some("UP" | "UNKNOWN")),
        (true, false, state) => matches!(state, Some("DOWN" | "LOWERLAYERDOWN")),
    }
}

/// A rule set as `nft -s` lists it, a line each with its table, what it is in there (a chain, a set) and its place in that:
/// in which order the kernel keeps those does not matter.
fn ruleset(text: &str) -> Vec<String> {
    let (mut table, mut object, mut place) = ("", "", 0);
    let mut facts = Vec::new();
    for line in text.lines() {
        let depth = line.len() - line.trim_start_matches('\t').len();
        let line = line.trim();
        match (depth, line.strip_suffix(" {")) {
            (0, Some(name)) => (table, object, place) = (name, "", 0),
            (1, Some(name)) => (object, place) = (name, 0),
            (1, None) if line == "}" => object = "",
            _ => {}
        }
        if !line.is_empty() && line != "}" {
            facts.push(format!("{table} / {object} / {place} / {line}"));
            place += 1;
        }
    }
    facts
}

/// The text of a JSON string.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

fn strip(value: &mut Value, keys: &[&str]) {
    let object = value.as_object_mut().expect("an object");
    object.retain(|key, _| !keys.contains(&key.as_str()));
}

fn keep(list: &mut Value, wanted: impl Fn(&str) -> bool) {
    list.as_array_mut().expect("a list").retain(|word| word.as_str().is_some_and(&wanted));
}
