//! `wire hub`: the process that serves a hub, who starts it, what it may, and what becomes of it.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, Running, TOPOLOGY, WIRE, until};

const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31" },
  { name = "edge-web",  ends = ["edge", "web"],  subnet = "172.16.1.0/31", allow = ["tcp/80"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["edge"]
rooms = ["web"]

[hub.edge]
zone = "public"

[[hub.edge.site]]
host = "web.example.org"
to   = "web:80"
tls  = "internal"
"#;

fn house() -> Host {
    Host::with(&["web"], HOUSE)
}

/// A hub as its service runs it.
fn serve(host: &Host) -> Running {
    let running = host.start("host", &[WIRE, "-f", TOPOLOGY, "hub", "edge"]);
    until("the hub runs", || serves(host));
    running
}

/// Whether somebody serves the hub, as far as the second one is told.
fn serves(host: &Host) -> bool {
    host.run("edge", &["busybox", "nc", "-w", "2", "127.0.0.1", "443"]).code == 0
}

/// The pids of all that serve a hub in the pretend host.
fn pids(host: &Host) -> Vec<i32> {
    let list = host.run(
        "host",
        &["sh", "-c", "for p in $(busybox pidof wire-hub); do echo $p $(readlink /proc/$p/ns/user); done"],
    );
    let user = host.sh("readlink /proc/self/ns/user").trim().to_owned();
    let ours = list.stdout.lines().filter_map(|line| line.split_once(' ')).filter(|(_, theirs)| *theirs == user);
    ours.map(|(pid, _)| pid.parse().expect("a pid")).collect()
}

/// It makes its hub's namespace and wires it, and then may do next to nothing: one capability, no new ones, no file but those it is told
/// of, no key in its arguments or its environment, no descriptor of another's. A second one is refused; SIGTERM ends it with 0,
/// and the wires stay.
#[test]
fn it_has_next_to_no_power() {
    let host = house();
    let mut hub = serve(&host);
    assert!(host.ping("edge", "172.16.1.1") || host.reaches("edge", "172.16.1.1", 80), "it is wired");
    let pid = hub.0.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    };
    assert_eq!(field("Name:"), "wire-hub");
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(set), "0000000000000400", "{set} has more than NET_BIND_SERVICE");
    }
    assert_eq!((field("CapInh:"), field("CapAmb:")), ("0000000000000000".into(), "0000000000000000".into()));
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
    assert_eq!(arguments.split(|byte| *byte == 0).filter(|word| !word.is_empty()).nth(1), Some(&b"edge"[..]));
    let streams = std::fs::read_link(format!("/proc/{pid}/fd/0")).expect("its standard input");
    assert_eq!(streams.display().to_string(), "/dev/null", "its orders are not there to be read again");
    let mode = |path: &str| std::fs::metadata(host.path(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!((mode("/run/wire/hub"), mode("/var/lib/wire/ca")), (0o700, 0o700));

    let second = host.wire(&["hub", "edge"]).expect(1);
    assert!(second.stderr.contains("served already"), "{}", second.stderr);
    host.wire(&["up"]).expect(0);
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).expect("it runs");
    assert!(hub.0.wait().expect("it ends").success());
    assert!(host.reaches("edge", "172.16.1.1", 80));
}

/// `up` names a hub that should run and does not, and says nothing of one that runs; what changes in the file it takes over at once.
#[test]
fn up_tells_it_and_says_who_is_missing() {
    let host = house();
    let told = host.wire(&["up"]).expect(0).stderr;
    assert!(told.contains("hub `edge` should run and does not") && told.contains("wire hub edge"), "{told}");
    assert!(host.wire(&["audit"]).expect(0).stdout.contains("hub `edge` should run and does not"));
    let _hub = serve(&host);
    assert!(!host.wire(&["audit"]).expect(0).stdout.contains("hub `edge`"));
    let told = host.wire(&["up"]).expect(0).stderr;
    assert!(!told.contains("hub `edge`"), "{told}");
    host.topology(&HOUSE.replace("host = \"web.example.org\"", "host = \"www.example.org\""));
    let told = host.wire(&["up"]).expect(0).stderr;
    assert!(told.contains("hub `edge` serves 1 site now"), "{told}");
    // What it was not let to read when it started it cannot read now.
    let files = "{ cert = \"/run/certs/web.crt\", key = \"/run/certs/web.key\" }";
    host.topology(&HOUSE.replace("\"internal\"", files));
    let told = host.wire(&["up"]).expect(0).stderr;
    assert!(told.contains("serves what it served before") && told.contains("/run/certs"), "{told}");
}

/// What it is asked for in vain: a hub that the file does not have, and one that has nothing to run.
#[test]
fn a_wrong_name_is_told() {
    let host = Host::with(
        &["edge", "web"],
        &HOUSE
            .replace("[[hub.edge.site]]", "[[hub.edge.forward]]")
            .replace("host = \"web.example.org\"\n", "port = \"tcp/80\"\n")
            .replace("tls  = \"internal\"\n", ""),
    );
    let nothing = host.wire(&["hub", "edge"]).expect(2).stderr;
    assert!(nothing.contains("nothing that wire runs"), "{nothing}");
    let unknown = host.wire(&["hub", "web"]).expect(2).stderr;
    assert!(unknown.contains("there is no hub `web`"), "{unknown}");
    let near = house().wire(&["hub", "egde"]).expect(2).stderr;
    assert!(near.contains("did you mean `edge`?"), "{near}");
}

/// Where no service does, `wire watch` runs the hubs: one that is killed is there again, one that is struck from the file ends, and
/// all end with the watch. With `--no-hubs` it leaves them alone.
#[test]
fn a_watch_runs_hubs() {
    let host = house();
    let mut watch = host.start("host", &[WIRE, "-f", TOPOLOGY, "watch"]);
    until("the hub runs", || serves(&host));
    let first = pids(&host);
    assert_eq!(first.len(), 1);
    kill(Pid::from_raw(first[0]), Signal::SIGKILL).expect("it runs");
    until("another runs", || pids(&host).first().is_some_and(|pid| *pid != first[0]) && serves(&host));
    let (before, _) = HOUSE.split_once("[[hub.edge.site]]").expect("a site");
    host.topology(before);
    until("a hub that is struck ends", || pids(&host).is_empty());
    host.topology(HOUSE);
    until("it is there again", || serves(&host));
    kill(Pid::from_raw(watch.0.id() as i32), Signal::SIGTERM).expect("it runs");
    assert!(watch.0.wait().expect("it ends").success());
    assert!(pids(&host).is_empty());

    let _watch = host.start("host", &[WIRE, "-f", TOPOLOGY, "watch", "--no-hubs"]);
    until("it watches", || host.path("/run/wire/ready").exists());
    assert!(pids(&host).is_empty());
}

/// While a change waits for its confirmation, hubs serve what they did before.
#[test]
fn a_change_that_waits_is_not_told() {
    let host = house();
    let _hub = serve(&host);
    host.wire(&["up"]).expect(0);
    host.topology(&HOUSE.replace("web.example.org", "www.example.org").replace("\"tcp/80\"", "\"tcp/80\", \"tcp/81\""));
    let told = host.wire(&["up", "--confirm", "30s"]).expect(0).stderr;
    assert!(told.contains("until `wire up` is run without --confirm") && !told.contains("now"), "{told}");
    host.wire(&["confirm"]).expect(0);
    assert!(host.wire(&["up"]).expect(0).stderr.contains("serves 1 site now"));
}

/// A container that starts anew has another namespace: a hub that stayed in the old one would serve nobody, and is started in the
/// new one.
#[test]
fn a_hub_follows_its_namespace() {
    let elsewhere = HOUSE.replace("[hub.edge]\n", "[node.edge]\nnetns = \"edge\"\n\n[hub.edge]\n");
    let host = Host::with(&["web", "edge"], &elsewhere);
    host.sh("ip -n edge link set lo up");
    let _watch = host.start("host", &[WIRE, "-f", TOPOLOGY, "watch"]);
    until("the hub runs", || serves(&host));
    let first = pids(&host);
    host.sh("ip netns delete edge && ip netns add edge && ip -n edge link set lo up");
    until("it runs in the new one", || serves(&host));
    assert!(pids(&host).len() == 1 && pids(&host) != first, "{first:?}");
}

/// A hub that is struck from the file and still runs is named by `up`, since nobody else ends it.
#[test]
fn a_hub_that_is_struck_is_named() {
    let host = house();
    let mut hub = serve(&host);
    let (before, _) = HOUSE.split_once("[[hub.edge.site]]").expect("a site");
    host.topology(before);
    let told = host.wire(&["up"]).expect(0).stderr;
    assert!(told.contains("hub `edge` still runs, and the file has it no more"), "{told}");
    kill(Pid::from_raw(hub.0.id() as i32), Signal::SIGTERM).expect("it runs");
    assert!(hub.0.wait().expect("it ends").success());
    let told = host.wire(&["up"]).expect(0).stderr;
    assert!(!told.contains("still runs"), "{told}");
}
