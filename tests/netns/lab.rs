//! `wire lab`: the whole topology in throw-away namespaces, and nothing of it left.

use crate::host::Host;
use crate::world::{pluto, small};

/// Everything of the host that a lab could leave something in.
fn traces(host: &Host) -> String {
    host.sh("ip netns list; ip -o link | sed 's/^[0-9]*: //'; ip address; ip route; cat /proc/self/mounts; ls -lR /run; lsns -n -o TYPE,PID 2>/dev/null | wc -l")
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
        assert_eq!(traces(&host), before);
    }
}

/// A lab of containers needs no containers: the file as it stands is enough.
#[test]
fn a_lab_needs_no_containers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/topology/pluto.toml");
    let host = Host::with(&[], &std::fs::read_to_string(path).expect(path));
    host.wire(&["lab"]).expect(0);
}

/// A lab needs no privilege: a user without any capability runs it in a user namespace of its own.
#[test]
fn a_lab_needs_no_privilege() {
    let host = Host::with(&[], &small().topology);
    let before = traces(&host);
    let drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    host.wire_under(&drop, &["lab"]).expect(0);
    assert_eq!(traces(&host), before);
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
    host.wire(&["lab", "--in", "web", "busybox", "ping", "-c", "1", "-w", "2", "172.16.1.0"]).expect(0);
    assert!(host.wire(&["lab", "--in", "nobody", "true"]).expect(2).stderr.contains("nobody"));
    assert_eq!(host.wire(&["lab", "sh", "-c", "kill -TERM $$"]).code, 143);
    assert_ne!(host.wire(&["lab", "no-such-program"]).code, 0);
    assert_eq!(traces(&host), before);
}

/// A lab whose process is killed leaves nothing either.
#[test]
fn a_killed_lab_leaves_nothing() {
    let host = Host::with(&[], &small().topology);
    let before = traces(&host);
    let output = host.run(
        "host",
        &["timeout", "-s", "KILL", "1", crate::host::WIRE, "-f", crate::host::TOPOLOGY, "lab", "cat", "/dev/zero"],
    );
    assert_ne!(output.code, 0);
    assert_eq!(traces(&host), before);
}
