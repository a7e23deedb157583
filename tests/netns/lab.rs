//! `wire lab`: the whole topology in throw-away namespaces, and nothing of it left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::host::{Dump, Host, TOPOLOGY, WIRE};
use crate::world::{pluto, small};

/// Everything of the host that a lab could leave something in.
fn traces(host: &Host) -> Dump {
    let traces = host.sh(
        "ip netns list; ip -o link | sed 's/^[0-9]*: //'; ip address; ip route; cat /proc/self/mounts; ls -lR /run",
    );
    Dump(traces.lines().map(str::to_owned).collect())
}

/// A lab of the user's house is wired, audited and gone again; the host has heard nothing of it.
#[test]
fn a_lab_leaves_nothing() {
    for world in [pluto(), small()] {
        let host = Host::with(&[], &world.topology);
        let before = traces(&host);
        let monitor = host.monitor("host");
        let lab = host.wire(&["lab"]).expect(0);
        assert!(monitor.events().is_empty());
        let said = lab.stdout + &lab.stderr;
        assert!(
            world.wires.iter().all(|wire| said.contains(wire.name)) || said.contains(&world.wires.len().to_string()),
            "{said}"
        );
        traces(&host).expect(&before, "after the lab");
    }
}

/// A lab of containers needs no containers: the file as it stands is enough.
#[test]
fn a_lab_needs_no_containers() {
    for path in [
        concat!(env!("CARGO_MANIFEST_DIR"), "/topology/pluto.toml"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/topology/pluto-hubs.toml"),
    ] {
        let host = Host::with(&[], &std::fs::read_to_string(path).expect(path));
        host.wire(&["lab"]).expect(0);
    }
}

/// A lab needs no privilege: whoever has none runs it in a user namespace of its own.
#[test]
fn a_lab_needs_no_privilege() {
    if !nix::unistd::getuid().is_root() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/topology/pluto.toml");
        let status = std::process::Command::new(WIRE).args(["-f", path, "lab"]).stdout(Stdio::null()).status();
        assert!(status.expect("wire starts").success());
        return;
    }
    let host = Host::with(&[], &small().topology);
    // Where the build is may be closed to others.
    std::fs::copy(WIRE, host.path("/run/binary")).expect("a copy");
    let before = traces(&host);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
    host.run("host", &[&nobody[..], &["/run/binary", "-f", TOPOLOGY, "lab"]].concat()).expect(0);
    traces(&host).expect(&before, "after the lab");
}

/// A command runs inside, on the host or at the node that `--in` names, with the wires up, and its exit code is passed on.
#[test]
fn a_command_runs_inside_a_lab() {
    let host = Host::with(&[], &small().topology);
    let before = traces(&host);
    for code in [0, 1, 3, 42] {
        host.wire(&["lab", "sh", "-c", &format!("exit {code}")]).expect(code);
    }
    let out = host.wire(&["lab", "ip", "-br", "link", "show", "dev", "host-edge"]).expect(0);
    assert!(out.stdout.contains("host-edge"), "{}", out.stdout);
    let out = host.wire(&["lab", "--in", "web", "ip", "-br", "address", "show", "dev", "eth0"]).expect(0);
    assert!(out.stdout.contains("172.16.1.1/31"), "{}", out.stdout);
    let connect =
        |port: &str| host.wire(&["lab", "--in", "web", "busybox", "nc", "-w", "2", "10.254.1.0", port]).stderr;
    assert!(
        !connect("5432").contains("timed out") && connect("5433").contains("timed out"),
        "its flows pass, and no other"
    );
    let out = host.wire(&["lab", "--in", "outside", "ip", "-br", "route", "show", "192.0.2.0/24"]).expect(0);
    assert_eq!(out.stdout, "", "the outside of a lab is not the host's");
    let out = host.wire(&["lab", "--in", "outside", "ip", "-br", "address", "show", "dev", "eth0"]).expect(0);
    assert!(out.stdout.contains("198.18.0.2"), "{}", out.stdout);
    assert!(host.wire(&["lab", "--in", "outsid", "true"]).expect(2).stderr.contains("did you mean `outside`?"));
    assert!(host.wire(&["lab", "--in", "nobody", "true"]).expect(2).stderr.contains("nobody"));
    assert_eq!(host.wire(&["lab", "sh", "-c", "kill -TERM $$"]).code, 143);
    assert_ne!(host.wire(&["lab", "no-such-program"]).code, 0);
    traces(&host).expect(&before, "after the lab");
}

/// A lab whose process is killed leaves nothing either, and what ran in it ends with it: else it would keep our end of its
/// output open.
#[test]
fn a_killed_lab_leaves_nothing() {
    let host = Host::with(&[], &small().topology);
    let before = traces(&host);
    let start = Instant::now();
    let lab = [WIRE, "-f", TOPOLOGY, "lab", "sh", "-c", "echo inside; exec sleep 60"];
    let killed = host.run("host", &[&["timeout", "-s", "KILL", "2"], &lab[..]].concat());
    assert_eq!(killed.code, 137);
    assert!(killed.stdout.ends_with("inside\n"), "{}", killed.stdout);
    assert!(start.elapsed() < Duration::from_secs(30), "what ran inside lives on");
    traces(&host).expect(&before, "after the lab");
}
