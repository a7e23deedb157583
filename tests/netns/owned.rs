//! Namespaces that `wire` makes and keeps: there before their container, there after it, and gone with `down`; and nothing else
//! that lies where they are to be is touched.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::crash::{Call, calls, expect_rules, with_fault};
use crate::host::{Dump, Host, WIRE, expect_silence, text};
use crate::podman::machine::{Machine, TOPOLOGY, until};
use crate::world::{End, Flow, Forwards, Route, World, wire};

/// A hub and a leaf of `wire`'s, a leaf that is there, and a node of `wire`'s without wires.
fn world() -> World {
    let topology = r#"
version = 1
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", publish = ["tcp/80"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.1.0/31", subnet6 = "fd00:1::/127", allow = ["tcp/80"] },
  { name = "web-database", ends = ["web", "database"], subnet = "10.254.1.0/31", allow = ["tcp/5432"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["edge"]
shops = ["web", "database", "vault"]

[hub.edge]
zone = "public"
clients = { prefix = "10.100.0.0/24", device = "wg0" }

[node.edge]
owned = true

[node.web]
owned = true

[node.database]
netns = "database"

[node.vault]
owned = true
network = "none"
"#;
    let mut wires = vec![
        wire("host-edge", End("host", "", "192.168.100.0"), End("edge", "", "192.168.100.1")),
        wire("edge-web", End("edge", "", "172.16.1.0"), End("web", "eth0", "172.16.1.1")),
        wire("web-database", End("web", "", "10.254.1.0"), End("database", "", "10.254.1.1")),
    ];
    wires[1].ends6 = Some(["fd00:1::", "fd00:1::1"]);
    World {
        topology: topology.to_owned(),
        nodes: vec!["edge", "web", "database", "vault"],
        wires,
        routes: vec![
            Route("edge", "default", "192.168.100.0", "host-edge"),
            Route("web", "10.100.0.0/24", "172.16.1.0", "eth0"),
        ],
        flows: vec![Flow("edge", "172.16.1.1", 80), Flow("edge", "fd00:1::1", 80), Flow("web", "10.254.1.1", 5432)],
        forwards: vec![
            Forwards("host", "eth0"),
            Forwards("host", "host-edge"),
            Forwards("edge", "default"),
            Forwards("edge", "edge-web"),
        ],
    }
}

/// A host on which only that node is there that is nobody's to make.
fn host() -> Host {
    Host::with(&["database"], &world().topology)
}

/// What `/run/netns` holds, and what its files are.
fn names(host: &Host) -> String {
    host.sh("cd /run/netns && stat -c '%n %F %a %s' -- * | sort")
}

/// Everything that `wire` may leave.
fn traces(host: &Host) -> Dump {
    let mut dump = host.dump();
    dump.0.extend(names(host).lines().map(|name| format!("file {name}")));
    dump
}

fn list<'a>(report: &'a Value, key: &str) -> Vec<(&'a str, &'a str)> {
    let list = report[key].as_array().expect("a list").iter();
    list.map(|change| (change["action"].as_str().expect("a verb"), change["node"].as_str().expect("a node"))).collect()
}

fn deviations(audit: &Value) -> Vec<(String, String)> {
    let list = audit["deviations"].as_array().expect("a list").iter();
    list.map(|deviation| (text(&deviation["kind"]), text(&deviation["node"]))).collect()
}

/// Missing is a deviation, and no waiting; `up` makes the namespace and all that is in it in one run, whatever the host's defaults
/// are, and nothing is left to do; `down` takes all of it away.
#[test]
fn a_namespace_is_made_wired_and_gone() {
    let (world, host) = (world(), host());
    let before = traces(&host);
    let plan = host.wire(&["--json", "plan"]).expect(3).json();
    let made = [("make", "edge"), ("make", "vault"), ("make", "web")];
    assert_eq!(list(&plan, "changes")[..3], made, "{plan}");
    assert_eq!(plan["waiting"], json!([]));
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    assert!(audit["wires"].as_array().expect("a list").iter().all(|wire| wire["state"] == "missing"), "{audit}");
    for node in ["edge", "vault", "web"] {
        let missing = ("missing".to_owned(), node.to_owned());
        assert!(deviations(&audit).contains(&missing), "{audit}");
        assert!(!deviations(&audit).contains(&("rules".to_owned(), node.to_owned())), "{audit}");
    }
    let prove = host.wire(&["--json", "prove"]).expect(0).json();
    assert!(text(&prove["absent"]["web"]).contains("`wire up` makes it"), "{prove}");
    traces(&host).expect(&before, "asking makes nothing");

    let up = host.wire(&["--json", "up", "--strict"]).expect(0).json();
    assert_eq!(up["done"], plan["changes"]);
    world.observe(&host);
    for node in ["edge", "vault", "web"] {
        let loopback = host.link(node, "lo");
        assert!(loopback["flags"].as_array().expect("flags").contains(&json!("UP")), "{loopback}");
        assert_eq!(loopback["ifalias"], "wire");
    }
    assert_eq!(host.sysctl("vault", "ipv4/conf/all/forwarding"), "0");
    assert_eq!(host.sh("stat -c %a /run/netns"), "755\n");
    let monitors = world.monitors(&host);
    assert_eq!(host.wire(&["--json", "up"]).expect(0).json()["done"], json!([]));
    host.wire(&["plan"]).expect(0);
    host.wire(&["audit"]).expect(0);
    expect_silence(&monitors, "a second up");
    drop(monitors);
    let prove = host.wire(&["--json", "prove"]).expect(0).json();
    assert_eq!((&prove["violations"], &prove["absent"]), (&json!([]), &json!({})));

    let down = host.wire(&["--json", "down"]).expect(0).json();
    let last = list(&down, "done").split_off(list(&down, "done").len() - 3);
    assert_eq!(last, [("unmake", "edge"), ("unmake", "vault"), ("unmake", "web")]);
    traces(&host).expect(&before, "down");
    assert_eq!(host.wire(&["--json", "down"]).expect(0).json()["done"], json!([]));
    assert!(!host.path("/run/wire/remembered.json").exists());
}

/// `/run/netns` itself is made where it is missing, for all to read whatever the umask, and shared, so that it is shown to those who
/// have copied the mounts.
#[test]
fn the_directory_is_made() {
    let host = Host::new();
    host.topology(&world().topology);
    // The tests' own namespace goes with its directory; the link to it stays.
    host.sh("umount /run/netns/lan; umount -l /run/netns || :; rm -r /run/netns");
    // A machine that has one of its own shows it below.
    let below = host.sh("findmnt -n -o PROPAGATION /run/netns || :");
    let up = host.run("host", &["sh", "-c", "umask 077; exec \"$@\"", "sh", WIRE, "-f", crate::host::TOPOLOGY, "up"]);
    assert!(up.expect(0).stderr.contains("waiting: wire `web-database` for `database`"));
    let above = host.sh("stat -c %a /run/netns; findmnt -n -o PROPAGATION /run/netns");
    assert_eq!(above, format!("755\n{below}shared\n"));
    host.wire(&["down"]).expect(0);
    assert_eq!(host.sh("ls /run/netns"), "");
}

/// A TARGET means its own namespaces and no others; a wire alone makes what it ends in, and takes nothing away but itself.
#[test]
fn a_target_makes_and_takes_its_own() {
    let host = host();
    let here = || host.sh("ls /run/netns");
    host.wire(&["up", "web-database"]).expect(0);
    assert_eq!(here(), "database\nlan\nweb\n");
    host.wire(&["down", "web-database"]).expect(0);
    assert_eq!(here(), "database\nlan\nweb\n");
    host.wire(&["down", "edge"]).expect(0);
    assert_eq!(here(), "database\nlan\nweb\n");
    host.wire(&["down", "web"]).expect(0);
    assert_eq!(here(), "database\nlan\n");
    host.wire(&["up", "vault"]).expect(0);
    assert_eq!(here(), "database\nlan\nvault\n");
    host.wire(&["down", "gates"]).expect(0);
    host.wire(&["down", "shops"]).expect(0);
    assert_eq!(here(), "database\nlan\n");
}

/// Where somebody lives, or which has another name by now, the namespace stays, without wires and rules, and that is said; when he
/// has gone it goes.
#[test]
fn an_inhabited_namespace_stays() {
    let host = host();
    let before = traces(&host);
    host.wire(&["up"]).expect(0);
    let inhabitant = host.inhabit("web");
    host.sh("touch /run/vault; mount --bind /run/netns/vault /run/vault");
    let down = host.wire(&["--json", "down"]).expect(0).json();
    let warnings = down["warnings"].as_array().expect("a list");
    assert_eq!(
        warnings.iter().map(|w| (text(&w["kind"]), text(&w["node"]))).collect::<Vec<_>>(),
        [("inhabited".to_owned(), "vault".to_owned()), ("inhabited".to_owned(), "web".to_owned())]
    );
    assert!(text(&warnings[0]["message"]).contains("it is /run/vault as well"), "{down}");
    assert!(text(&warnings[1]["message"]).contains(" lives in it"), "{down}");
    assert_eq!(host.sh("ls /run/netns"), "database\nlan\nvault\nweb\n");
    assert!(host.links("web") == ["lo"] && host.rules("web").is_empty() && host.rules("vault").is_empty());
    let again = host.wire(&["down"]).expect(0);
    assert!(again.stderr.contains("warning: the namespace /run/netns/web"), "{}", again.stderr);

    // Nobody notices that it comes back.
    host.wire(&["up"]).expect(0);
    world().observe(&host);
    drop(inhabitant);
    host.sh("umount /run/vault; rm /run/vault");
    host.wire(&["down"]).expect(0);
    traces(&host).expect(&before, "as before");
}

/// Who moves in between the look and the deed is not thrown out, and nobody says he was.
#[test]
fn who_moves_in_meanwhile_stays() {
    let host = host();
    host.wire(&["up"]).expect(0);
    let first = calls(&host, "sendto,sendmsg", &["down"]).iter().position(Call::changes).expect("a change") + 1;
    host.wire(&["up"]).expect(0);
    let inject = format!("inject=sendto,sendmsg:delay_enter=3s:when={first}");
    let strace = ["strace", "-f", "-qq", "-o", "/run/trace", "-e", "trace=openat,sendto,sendmsg", "-e", "signal=none"];
    let down = [&strace[..], &["-e", &inject, WIRE, "-f", crate::host::TOPOLOGY, "--json", "down"]].concat();
    let mut down = host.start("host", &down);
    let start = Instant::now();
    while !std::fs::read_to_string(host.path("/run/trace")).is_ok_and(|trace| trace.contains("/proc/self/mountinfo")) {
        assert!(start.elapsed() < Duration::from_secs(20), "it never looks who lives there");
        std::thread::sleep(Duration::from_millis(10));
    }
    let inhabitant = host.inhabit("web");
    let mut said = String::new();
    down.0.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(down.0.wait().expect("it ends").success(), "{said}");
    let said: Value = serde_json::from_str(&said).expect(&said);
    let unmade: Vec<_> = list(&said, "done").into_iter().filter(|(action, _)| *action == "unmake").collect();
    assert_eq!(unmade, [("unmake", "edge"), ("unmake", "vault")]);
    assert_eq!((&said["warnings"][0]["kind"], &said["warnings"][0]["node"]), (&json!("inhabited"), &json!("web")));
    assert_eq!(host.sh("ls /run/netns"), "database\nlan\nweb\n");
    drop(inhabitant);
}

/// One of that name that somebody else has made is wired and never taken away.
#[test]
fn somebody_elses_namespace_is_used_and_left() {
    let (world, host) = (world(), host());
    host.netns(&["edge", "web", "vault"]);
    let before = traces(&host);
    let up = host.wire(&["--json", "up"]).expect(0).json();
    assert!(list(&up, "done").iter().all(|(action, _)| *action != "make"), "{up}");
    world.observe(&host);
    host.wire(&["down"]).expect(0);
    traces(&host).expect(&before, "as before");
}

/// A node that is struck, or its `owned`, takes the namespace along with the next `up` of all, or `down`; with somebody in it, when he
/// has gone.
#[test]
fn a_struck_namespace_goes() {
    let struck =
        |text: &str| text.replace("\"vault\"]", "]").replace("[node.vault]\nowned = true\nnetwork = \"none\"", "");
    let not_owned = |text: &str| text.replace("[node.web]\nowned = true", "");
    for command in ["up", "down"] {
        let host = host();
        let text = world().topology;
        host.wire(&["up"]).expect(0);
        host.topology(&struck(&text));
        let inhabitant = host.inhabit("vault");
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        assert!(deviations(&audit).contains(&("inhabited".to_owned(), "vault".to_owned())), "{audit}");
        host.wire(&[command]).expect(0);
        assert!(host.path("/run/netns/vault").exists());
        drop(inhabitant);
        if command == "up" {
            let audit = host.wire(&["--json", "audit"]).expect(3).json();
            assert!(deviations(&audit).contains(&("struck".to_owned(), "vault".to_owned())), "{audit}");
        }
        host.wire(&[command]).expect(0);
        assert!(!host.path("/run/netns/vault").exists());

        // Now it is a container of that name, which does not run.
        host.topology(&not_owned(&struck(&text)));
        let up = host.wire(&[command]).expect(0);
        assert!(!host.path("/run/netns/web").exists(), "{up:?}");
        assert!(!host.links("database").contains(&"web-database".to_owned()));
        host.wire(&["down"]).expect(0);
        assert_eq!(host.sh("ls /run/netns"), "database\nlan\n");
    }
}

/// What lies where a namespace is to be and is none is left alone and told; all other wires are made. The empty file that a mount
/// has left behind is used, and is there afterwards as before.
#[test]
fn what_lies_in_its_place_is_left_alone() {
    let plants = [
        ("a link to nothing", "ln -s /run/nothing web"),
        ("a link to a file", "echo precious >/run/precious; ln -s /run/precious web"),
        ("a file", "echo precious >web"),
        ("a file with two names", "touch /run/netns/web; ln web precious"),
        ("a directory", "mkdir web; touch web/precious"),
        ("a pipe", "mkfifo web"),
    ];
    for (what, plant) in plants {
        let host = host();
        let before = traces(&host);
        host.sh(&format!("cd /run/netns; {plant}"));
        let planted = names(&host);
        let up = host.wire(&["--json", "up"]).expect(1).json();
        let failed = up["failed"].as_array().expect("a list");
        assert!(failed.iter().all(|failed| failed["reason"] == "refused"), "{what}: {up}");
        assert!(failed.iter().any(|failed| text(&failed["error"]).contains("ls -ld /run/netns/web")), "{what}: {up}");
        assert!(host.reaches("lan", "192.0.2.2", 1), "the pretend host lives");
        assert!(host.links("edge").contains(&"host-edge".to_owned()), "{what}");
        assert!(!host.path("/run/nothing").exists());
        host.wire(&["down"]).expect(0);
        assert_eq!(names(&host), planted, "{what}");
        // Whoever looks into a pipe waits.
        host.sh("cd /run/netns; rm -r web; rm -f precious");
        traces(&host).expect(&before, what);
    }
    let host = host();
    host.sh("touch /run/netns/web; chmod 0 /run/netns/web");
    let before = traces(&host);
    host.wire(&["up"]).expect(0);
    world().observe(&host);
    host.wire(&["down"]).expect(0);
    traces(&host).expect(&before, "an empty file");
}

/// A link to a namespace is somebody's; one to a namespace of `wire`'s, too.
#[test]
fn a_link_is_nobodys_namespace() {
    let host = host();
    host.wire(&["up", "vault"]).expect(0);
    host.sh("ln -s /run/netns/vault /run/netns/web");
    let refused = host.wire(&["--json", "up"]).expect(1).json();
    assert!(refused.to_string().contains("its namespace is the one of"), "{refused}");
    host.sh("rm /run/netns/web; ip netns add other; ip -n other link set lo alias wire; ln -s /run/netns/other /run/netns/web");
    host.sh("ip netns add kept");
    let before = names(&host);
    host.wire(&["up", "web"]).expect(0);
    world().wires.iter().skip(1).for_each(|wire| assert!(world().works(&host, wire), "{wire:?}"));
    host.wire(&["down", "web"]).expect(0);
    assert!(names(&host).contains("web symbolic link"), "{before}");
    assert!(host.sh("ls /run/netns").contains("kept"));
}

/// Who lives in a namespace can make it look like `wire`'s, or no more so: neither takes it away from its owner, or leaves it behind.
#[test]
fn whose_it_is_does_not_depend_on_who_lives_there() {
    let host = host();
    host.netns(&["kept"]);
    host.wire(&["up"]).expect(0);
    host.sh("ip -n database link set lo alias wire; ip -n kept link set lo alias wire; ip -n web link set lo alias ''");
    host.wire(&["audit"]).expect(0);
    assert_eq!(host.wire(&["--json", "up"]).expect(0).json()["done"], json!([]));
    host.wire(&["down"]).expect(0);
    assert_eq!(host.sh("ls /run/netns"), "database\nkept\nlan\n");
}

/// A `/run/netns` that others may write to is none to make anything in.
#[test]
fn a_directory_of_everybodys_is_refused() {
    let host = host();
    host.sh("chmod 777 /run/netns");
    let up = host.wire(&["up"]).expect(1);
    assert!(up.stderr.contains("others than root may write to /run/netns"), "{}", up.stderr);
    assert_eq!(host.sh("ls /run/netns"), "database\nlan\n");
    host.sh("chmod 755 /run/netns");
    host.wire(&["up"]).expect(0);
}

/// The places at which a command is to be killed: every call that changes anything.
fn changes(host: &Host, command: &[&str]) -> Vec<Call> {
    const NAMES: &str = "mkdir,mkdirat,openat,write,fchmod,mount,umount2,unlink,unlinkat,rename,renameat,unshare,\
        sendto,sendmsg,fsync,symlink,link,linkat";
    let mut calls = calls(host, NAMES, command);
    calls.retain(|call| call.changes() || call.said.contains("O_WRONLY"));
    calls
}

/// Killed or refused at any call that changes something, the next `up` finishes and the next `down` leaves nothing; and what claims
/// success has succeeded.
#[track_caller]
fn every_fault(command: &str, start: &dyn Fn(&Host)) {
    let topology = r#"
version = 1
runtime = "netns"
wire = [{ name = "a-b", ends = ["a", "b"], subnet = "10.9.0.0/31", allow = ["tcp/80"] }]
[module]
m = ["a", "b"]
[node.a]
owned = true
"#;
    let host = Host::with(&["b"], topology);
    let bare = traces(&host);
    start(&host);
    let places = changes(&host, &[command]);
    let known = ["unshare", "mount", "openat"].iter().all(|name| places.iter().any(|call| call.name == *name));
    assert!(known || command == "down", "{places:?}");
    host.wire(&["up"]).expect(0);
    let wired = traces(&host);
    let runs = [("signal=KILL", "up", &wired), ("signal=KILL", "down", &bare)];
    let same = if command == "up" { &wired } else { &bare };
    for (fault, next, wanted) in runs.into_iter().chain([("error=ENOMEM", command, same)]) {
        for call in &places {
            let when = format!("{command} with {fault} at {call:?}, then {next}");
            host.wire(&["down"]).expect(0);
            start(&host);
            let code = with_fault(&host, call, fault, &[command]).code;
            let killed = fault.starts_with("signal");
            assert!(if killed { code == 137 } else { [0, 1].contains(&code) }, "{when}: {code}");
            expect_rules(&host.dump(), &when);
            let then = host.wire(&["--json", next]).expect(0).json();
            assert!(code != 0 || then["done"] == json!([]), "{when}: success was claimed, and yet {then}");
            traces(&host).expect(wanted, &when);
            let again = host.wire(&["--json", next]).expect(0).json();
            assert_eq!(again["done"], json!([]), "{when}");
        }
    }
}

#[test]
fn up_disturbed_at_every_change() {
    every_fault("up", &|_| {});
}

#[test]
fn down_disturbed_at_every_change() {
    every_fault("down", &|host| drop(host.wire(&["up"]).expect(0)));
}

/// What a killed run has begun is taken away even where the file does not speak of it any more.
#[test]
fn what_was_begun_goes_with_its_node() {
    let host = host();
    let second = Call { name: "mount".to_owned(), n: 2, said: String::new() };
    with_fault(&host, &second, "signal=KILL", &["up", "vault"]);
    let begun = names(&host);
    assert!(begun.contains("vault regular empty file 1400 0"), "{begun}");
    host.topology("version = 1\n[module]\nm = [\"database\"]\n[node.database]\nnetns = \"database\"\n");
    let up = host.wire(&["--json", "up"]).expect(0).json();
    assert!(list(&up, "done").contains(&("unmake", "vault")), "{up}");
    assert_eq!(host.sh("ls /run/netns"), "database\nlan\n");
}

/// Where the kernel makes no namespace, that is told with everything that rests on it, nothing is left of the try, and the rest is
/// wired.
#[test]
fn a_refused_namespace_is_told() {
    let host = host();
    let (before, files) = (traces(&host), names(&host));
    for call in ["unshare", "mount"] {
        let inject = format!("inject={call}:error=ENOSPC");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &inject];
        let up = host.wire_under(&strace, &["--json", "up"]).expect(1).json();
        let failed = up["failed"].as_array().expect("a list");
        let of_web = failed.iter().find(|failed| failed["action"] == "make" && failed["node"] == "web");
        assert!(text(&of_web.expect("a failure")["error"]).contains("cannot make /run/netns/web"), "{up}");
        let rest = failed.iter().find(|failed| failed["subject"] == "edge-web").expect("its wire");
        assert!(text(&rest["error"]).contains("could not be made"), "{up}");
        assert_eq!(names(&host), files, "{call}");
        host.wire(&["down"]).expect(0);
        traces(&host).expect(&before, call);
    }
}

/// Unless it is confirmed, what was made is gone again, and what was taken away is there again, wired.
#[test]
fn what_nobody_confirms_is_undone() {
    let host = host();
    let undone = || {
        let start = Instant::now();
        while host.path("/run/wire/pending.json").exists() {
            assert!(start.elapsed() < Duration::from_secs(40), "the change is never undone");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let bare = traces(&host);
    for target in [&[][..], &["web-database"], &["vault"]] {
        host.wire(&[&["up", "--confirm", "1s"], target].concat()).expect(0);
        assert!(traces(&host) != bare);
        undone();
        traces(&host).expect(&bare, &format!("{target:?}"));
    }
    host.wire(&["up"]).expect(0);
    let wired = host.dump();
    host.topology("version = 1\n[module]\nm = [\"database\"]\n[node.database]\nnetns = \"database\"\n");
    host.wire(&["up", "--confirm", "1s"]).expect(0);
    assert!(!names(&host).contains("web"));
    undone();
    host.dump().expect(&wired, "undone");
    host.topology(&world().topology);
    host.wire(&["audit"]).expect(0);
}

/// The commands that ask and those that change other things find their way without it.
#[test]
fn other_commands_take_it_as_it_is() {
    let text = world().topology + "[set.friends]\nelements = [\"198.51.100.7\"]\n";
    let text = text.replace("allow = [\"tcp/80\"]", "allow = [{ flow = \"tcp/80\", from = \"@friends\" }]");
    let host = Host::with(&["database"], &text);
    let before = traces(&host);
    host.wire(&["check"]).expect(0);
    host.wire(&["why", "edge", "web:tcp/80"]).expect(0);
    host.wire(&["set", "add", "friends", "198.51.100.8"]).expect(0);
    host.wire(&["suggest"]).expect(0);
    host.wire(&["render", "nft", "web"]).expect(0);
    host.wire(&["lab"]).expect(0);
    let log = host.run("host", &["timeout", "-s", "INT", "1", WIRE, "-f", crate::host::TOPOLOGY, "log"]);
    assert!(log.stderr.contains("waiting for `web`: there is no namespace /run/netns/web"), "{log:?}");
    traces(&host).expect(&before, "as before");
    host.wire(&["up"]).expect(0);
    host.wire(&["set", "add", "friends", "198.51.100.9"]).expect(0);
    assert!(host.rules("web").contains("198.51.100.9"), "{}", host.rules("web"));
}

/// A container with `--network ns:/run/netns/web` is wired before it is there and as long as its namespace is: a restart, a crash and
/// another container in its place go unnoticed by its wires, and by a connection over the wire of others.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_container_comes_and_goes_and_its_wires_stay() {
    let machine = Machine::new();
    machine.image([None]);
    machine.write(
        TOPOLOGY,
        r#"
version = 1
wire = [
  { name = "proxy-web", ends = ["proxy", "web"], subnet = "10.254.0.0/31", allow = ["tcp/80"] },
  { name = "proxy-database", ends = ["proxy", "database"], subnet = "10.254.1.0/31", allow = ["tcp/81"] },
]
[module]
m = ["proxy", "database", "web"]
[node.web]
owned = true
"#,
    );
    machine.start(None, &["proxy", "database"], "--restart=always");
    let pids = machine.pids(None);
    let (proxy, database) = (pids["proxy"], pids["database"]);
    let no = machine.run(&[
        "sh",
        "-c",
        "PATH=/usr/bin:/bin podman run --rm --network ns:/run/netns/web localhost/image:1 true",
    ]);
    assert!(no.stderr.contains("/run/netns/web"), "podman wants it to be there: {no:?}");
    machine.wire(&["up", "--strict"]).expect(0);

    machine.background(
        None,
        "",
        &format!("nsenter -t {database} -n sh -c 'sleep 1000 | busybox nc -l -p 81 >/run/heard'"),
    );
    until("it listens", || {
        machine.sh(None, &format!("nsenter -t {database} -n ss -Hltn sport = :81")).contains(":81").then_some(())
    });
    let talk = "while echo x; do sleep 0.02; done | busybox nc 10.254.1.1 81";
    machine.background(None, "", &format!("nsenter -t {proxy} -n sh -c '{talk}'"));
    let heard = || machine.sh(None, "stat -c %s /run/heard").trim().parse::<u64>().expect("a number");
    let talks_on = || {
        let before = heard();
        until("the connection of the others goes on", || (heard() > before + 4).then_some(()));
    };
    talks_on();
    let listen = |(node, enter): (&str, String)| {
        let script = format!("nsenter {enter} sh -c 'exec ip monitor link address route >/run/monitor.{node}'");
        machine.background(None, "", &script)
    };
    let monitors = [("web", "--net=/run/netns/web".to_owned()), ("proxy", format!("-t {proxy} -n"))].map(listen);
    let fence = |enter: &str, number: usize| {
        machine.sh(None, &format!("nsenter {enter} ip route add blackhole 192.88.{}.{}", number / 256, number % 256));
    };
    let enter = ["--net=/run/netns/web".to_owned(), format!("-t {proxy} -n")];
    // Each monitor hears what happens behind its start, and nothing else did meanwhile.
    let mut number = 0;
    let mut silent = |when: &str| {
        for (node, enter) in ["web", "proxy"].iter().zip(&enter) {
            let seen = until("the monitor hears", || {
                number += 1;
                fence(enter, number);
                let seen = machine.sh(None, &format!("cat /run/monitor.{node}"));
                seen.contains(&format!("192.88.{}.{} ", number / 256, number % 256)).then_some(seen)
            });
            let events: Vec<&str> = seen.lines().filter(|line| !line.contains("blackhole 192.88.")).collect();
            assert!(events.is_empty(), "{when}: {node} saw {events:#?}");
        }
    };
    silent("at first");
    let ends = || {
        let show = |enter: &str| {
            let list = machine.sh(None, &format!("nsenter {enter} ip -j -s link show dev proxy-web"));
            let link: Value = serde_json::from_str(&list).expect("JSON");
            let count = |way: &str| link[0]["stats64"][way]["packets"].as_u64().expect("a number");
            (link[0]["ifindex"].as_u64().expect("an index"), count("rx"), count("tx"))
        };
        [show(&enter[0]), show(&enter[1])]
    };
    let mut before = ends();
    let run = |name: &str| {
        let inside = format!("while :; do echo {name} | nc -l -p 80 >/dev/null; done");
        machine.podman(
            None,
            &format!(
                "run -d --name {name} --restart always --stop-signal KILL --network ns:/run/netns/web \
                 localhost/image:1 sh -c '{inside}'"
            ),
        );
    };
    let answers = |name: &str| {
        until("the container answers over its wire", || {
            let answer =
                machine.sh(None, &format!("nsenter -t {proxy} -n timeout 5 busybox nc 10.254.0.1 80 </dev/null || :"));
            (answer.trim() == name).then_some(())
        });
    };
    run("web");
    answers("web");
    let mut name = "web";
    for act in ["restart", "crash", "stop and start", "another", "the same again"] {
        let pid = machine.wait_for(None, name, None);
        match act {
            "restart" => drop(machine.podman(None, "restart -t 0 web")),
            "crash" => drop(machine.sh(None, &format!("kill -9 {pid}"))),
            "stop and start" => {
                machine.podman(None, "stop -t 0 web");
                machine.wire(&["audit"]).expect(0);
                machine.podman(None, "start web");
            }
            "another" => {
                machine.podman(None, "rm -f -t 0 web");
                name = "web-2";
                run(name);
            }
            _ => {
                machine.podman(None, "rm -f -t 0 web-2");
                name = "web";
                run(name);
            }
        }
        machine.wait_for(None, name, Some(pid));
        answers(name);
        silent(act);
        let now = ends();
        for (before, now) in before.iter().zip(&now) {
            assert!(before.0 == now.0 && before.1 <= now.1 && before.2 <= now.2, "{act}: {before:?} {now:?}");
        }
        before = now;
        talks_on();
        machine.wire(&["audit"]).expect(0);
        assert_eq!(machine.wire(&["--json", "up"]).expect(0).json()["done"], json!([]), "{act}");
    }
    // A rootless user cannot join it.
    machine.image([Some("anna")]);
    let script = "podman run --network ns:/run/netns/web localhost/image:1 true 2>&1 || echo refused";
    let said = machine.sh(Some("anna"), script);
    assert!(said.contains("refused"), "{said}");

    let down = machine.wire(&["--json", "down"]).expect(0).json();
    assert_eq!(down["warnings"][0]["kind"], "inhabited", "{down}");
    machine.podman(None, "rm -f -t 0 web");
    machine.sh(None, &format!("kill {}", monitors[0]));
    until("nobody is left", || {
        machine.wire(&["down"]).expect(0);
        machine.sh(None, "ls /run/netns").is_empty().then_some(())
    });
}
