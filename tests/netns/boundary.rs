//! Where `wire` meets a hostile or half-ready system: files of others, planted locks, missing capabilities, wrong files.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::host::{Host, TOPOLOGY, WIRE};
use crate::world::small;

/// A user of the pretend host who is not root, and how root there calls him.
const OTHER: (u32, &str) = (65534, "nobody");

/// Whether the pretend host knows more users than root, which takes root outside.
fn has_users() -> bool {
    nix::unistd::getuid().is_root()
}

/// Run as root, a file that others own or may write is refused before it is read, with the commands that help; nothing
/// happens. `--trust-owner` accepts that owner, and only him.
#[test]
fn a_file_of_others_is_refused() {
    let world = small();
    let host = world.host();
    let pristine = host.dump();
    let file = host.path(TOPOLOGY);
    let refused = |args: &[&str], hint: &str| {
        for command in ["up", "plan", "audit", "prove", "down"] {
            let output = host.wire(&[args, &[command]].concat());
            assert!([1, 2].contains(&output.code), "{command}: {output:?}");
            assert!(output.stderr.contains(hint) && output.stderr.contains(TOPOLOGY), "{command}: {}", output.stderr);
        }
        host.dump().expect(&pristine, "a refused file");
    };
    for mode in [0o666, 0o664, 0o646] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("chmod");
        refused(&[], "chmod");
    }
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("chmod");
    host.wire(&["plan"]).expect(3);

    if has_users() {
        std::os::unix::fs::chown(&file, Some(OTHER.0), None).expect("chown");
    } else {
        host.sh(&format!("mount --bind /etc/hostname {TOPOLOGY}"));
    }
    refused(&[], "chown");
    refused(&["--trust-owner", "root"], "chown");
    if has_users() {
        host.wire(&["--trust-owner", OTHER.1, "plan"]).expect(3);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).expect("chmod");
        refused(&["--trust-owner", OTHER.1], "chmod");
    }
}

/// `check` is for everybody: it reads whatever file it is given, also as root.
#[test]
fn anybody_may_check_any_file() {
    let host = small().host();
    std::fs::set_permissions(host.path(TOPOLOGY), PermissionsExt::from_mode(0o644)).expect("chmod");
    let drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    host.wire_under(&drop, &["check"]).expect(0);
    host.wire_under(&drop, &["why", "edge", "web:tcp/80"]).expect(0);
}

/// A symlink, FIFO, file or directory planted where the lock or its directory belongs is refused by name, at once, and
/// whatever it leads to stays as it was.
#[test]
fn planted_locks_are_refused() {
    let world = small();
    let plants = [
        ("mkdir /run/victim; ln -s /run/victim /run/wire", "/run/wire"),
        ("ln -s /run/nowhere /run/wire", "/run/wire"),
        ("touch /run/wire", "/run/wire"),
        ("mkfifo /run/wire", "/run/wire"),
        ("mkdir -m 700 /run/wire; echo secret >/run/victim; ln -s /run/victim /run/wire/lock", "/run/wire/lock"),
        ("mkdir -m 700 /run/wire; ln -s /run/nowhere /run/wire/lock", "/run/wire/lock"),
        ("mkdir -m 700 /run/wire; mkfifo /run/wire/lock", "/run/wire/lock"),
        ("mkdir -m 700 /run/wire /run/wire/lock", "/run/wire/lock"),
        ("mkdir -m 777 /run/wire", "/run/wire"),
        (
            if has_users() {
                "mkdir -m 700 /run/wire; chown 65534 /run/wire"
            } else {
                "mkdir /run/wire; mount --bind /usr /run/wire"
            },
            "/run/wire",
        ),
        (
            if has_users() {
                "mkdir -m 700 /run/wire; touch /run/wire/lock; chown 65534 /run/wire/lock"
            } else {
                "mkdir -m 700 /run/wire; touch /run/wire/lock; mount --bind /etc/hostname /run/wire/lock"
            },
            "/run/wire/lock",
        ),
    ];
    for (plant, path) in plants {
        let host = world.host();
        host.sh(plant);
        let state = || {
            host.sh("ls -lRn /run --time-style=full-iso 2>/dev/null || ls -lRn /run; cat /run/victim 2>/dev/null || :")
        };
        let (before, files) = (host.dump(), state());
        for command in ["up", "down"] {
            let output = host.wire(&[command]).expect(1);
            assert!(output.stderr.contains(path), "{plant}: {command}: {}", output.stderr);
        }
        assert_eq!(state(), files, "{plant}");
        host.dump().expect(&before, plant);
    }
}

/// What `wire` keeps is in a directory of mode 0700, in files of mode 0600.
#[test]
fn what_is_kept_is_roots_alone() {
    let (host, _) = small().up();
    let mode = |path: &str| std::fs::symlink_metadata(host.path(path)).expect(path).mode() & 0o7777;
    assert_eq!(mode("/run/wire"), 0o700);
    for entry in std::fs::read_dir(host.path("/run/wire")).expect("a directory") {
        let name = entry.expect("an entry").file_name();
        let path = format!("/run/wire/{}", name.to_str().expect("UTF-8"));
        assert_eq!(mode(&path), 0o600, "{path}");
    }
}

/// A missing capability is named, with the line that gives it, and nothing has happened.
#[test]
fn missing_capabilities_are_named() {
    let host = small().host();
    let before = host.dump();
    for (drop, name) in [("-net_admin", "CAP_NET_ADMIN"), ("-sys_admin", "CAP_SYS_ADMIN"), ("-all", "CAP_NET_ADMIN")] {
        for command in ["up", "down"] {
            let drop = ["setpriv", &format!("--bounding-set={drop}"), "--inh-caps=-all"];
            let output = host.wire_under(&drop, &[command]).expect(1);
            assert!(output.stderr.contains(name), "{drop:?}: {}", output.stderr);
            assert!(output.stderr.contains("setcap") || output.stderr.contains("doas"), "{}", output.stderr);
        }
        host.dump().expect(&before, name);
    }
}

/// A wrong file changes nothing, whether wires are up or not, and every fault of it is told with its place.
#[test]
fn a_wrong_file_changes_nothing() {
    let world = small();
    let wrong = world.topology.replace("\"tcp/80\"", "\"tcp/99999\"").replace("zone = ", "zome = ");
    let holes = world.topology.replace(" subnet = \"172.16.1.0/31\",", "");
    let (host, _) = world.up();
    for (fault, text) in [("wrong", &*wrong), ("empty", ""), ("no TOML", "wire = ["), ("holes", &holes)] {
        host.topology(text);
        let before = host.dump();
        for command in ["plan", "up", "down", "audit", "prove"] {
            let output = host.wire(&[command]).expect(2);
            assert!(output.stderr.contains(TOPOLOGY), "{fault}: {command}: {}", output.stderr);
            assert!(output.stdout.is_empty(), "{fault}: {command}: {}", output.stdout);
        }
        host.dump().expect(&before, fault);
    }
    host.topology(&wrong);
    let told = host.wire(&["up"]).expect(2).stderr;
    assert!(told.contains("99999") && told.contains("zome") && told.contains("zone"), "{told}");
    host.topology(&holes);
    assert!(host.wire(&["up"]).expect(2).stderr.contains("wire number"));
}

/// Where no namespace was ever made there is no /run/netns: every wire but none fails, all wait.
#[test]
fn without_any_namespace_all_wires_wait() {
    let host = Host::with(&[], &small().topology);
    host.sh("ip netns del lan; umount -l /run/netns; rmdir /run/netns");
    let up = host.wire(&["--json", "up"]).expect(0).json();
    assert_eq!(up["waiting"].as_array().expect("a list").len(), 7, "one for each end that must wait: {up}");
}

/// Where `/proc/sys` cannot be written (a container's own, say), it is told, and no end comes up with IPv6 still on.
#[test]
fn a_setting_that_cannot_be_set_keeps_the_end_down() {
    let world = small();
    let host = world.host();
    host.sh("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys");
    let up = host.wire(&["up"]).expect(1);
    for word in ["edge-web", "web", "disable_ipv6", "Read-only"] {
        assert!(up.stderr.contains(word), "`{word}`: {}", up.stderr);
    }
    for node in ["edge", "web", "shop"] {
        assert_eq!(host.run(node, &["ip", "-o", "link", "show", "up"]).stdout, "", "up at {node}");
    }
    host.sh("umount /proc/sys");
    host.wire(&["up"]).expect(0);
    world.observe(&host);
}

/// A leftover of a dead namespace, a file at its place that is none, is no node that runs, and said so.
#[test]
fn a_file_that_is_no_namespace_is_told_apart() {
    let world = small();
    let host = Host::with(&["edge", "shop", "vault"], &world.topology);
    host.sh("touch /run/netns/web");
    let before = host.dump_nodes(&["edge", "shop", "vault"]);
    let output = host.wire(&["up"]);
    let said = output.stdout + &output.stderr;
    assert!(said.contains("web"), "{said}");
    assert!([0, 1].contains(&output.code));
    assert!(host.reaches("edge", "172.16.2.1", 80), "the others are wired");
    host.wire(&["down"]).expect(0);
    host.dump_nodes(&["edge", "shop", "vault"]).expect(&before, "down");
}

/// The environment is not believed: a path with traps and odd locales changes nothing.
#[test]
fn an_empty_environment_is_enough() {
    let world = small();
    let host = world.host();
    let run = host.run("host", &["env", "-i", WIRE, "-f", TOPOLOGY, "up"]).expect(0);
    assert!(run.stderr.lines().count() <= 1, "{}", run.stderr);
    world.observe(&host);
    host.sh("mkdir /run/trap; for name in ip nft podman sysctl; do printf '#!/bin/sh\\ntouch /run/sprung\\n' >/run/trap/$name; chmod +x /run/trap/$name; done");
    host.run("host", &["env", "PATH=/run/trap", WIRE, "-f", TOPOLOGY, "down"]).expect(0);
    assert!(!host.path("/run/sprung").exists(), "wire ran a program of the path");
}

/// What lies in /run/netns and is no network namespace is its own node's trouble: named, its wires refused, the others made.
/// A link to a namespace is as good as one, and what no node is named after troubles nobody.
#[test]
fn what_is_no_network_namespace_stands_alone() {
    let world = small();
    let host = world.host();
    host.sh("ip netns del web; touch /run/netns/web /run/netns/odd");
    host.sh("mount --bind /proc/self/ns/pid /run/netns/web; mount --bind /proc/self/ns/pid /run/netns/odd");
    let up = host.wire(&["--json", "up"]).expect(1).json();
    let failed = up["failed"].as_array().expect("a list");
    let about_web = |failure: &serde_json::Value| failure["error"].as_str().is_some_and(|text| text.contains("`web`"));
    assert!(!failed.is_empty() && failed.iter().all(about_web), "{up:#}");
    for wire in world.wires.iter().filter(|wire| wire.ends.iter().all(|end| end.0 != "web")) {
        assert!(world.works(&host, wire), "{} is wired", wire.name);
    }
    host.sh("umount /run/netns/web; rm /run/netns/web; ip netns add real; ln -s /run/netns/real /run/netns/web");
    host.wire(&["up", "--strict"]).expect(0);
    host.wire(&["audit"]).expect(0);
}

/// With --json, what keeps a command from starting is one object on stdout as well, and is told on stderr as ever.
#[test]
fn an_error_is_an_object_too() {
    let host = small().host();
    for args in [["--json", "up", "nobody"], ["--json", "audit", "nobody"], ["--json", "lab", "--in=nobody"]] {
        let output = host.wire(&args).expect(2);
        let object = output.json();
        assert!(object["error"].as_str().is_some_and(|text| text.contains("nobody")), "{object}");
        assert!(output.stderr.contains("nobody"), "{}", output.stderr);
    }
}

/// Waiting that is a failure is told as one.
#[test]
fn waiting_that_fails_is_told() {
    let host = small().host();
    host.sh("ip netns del web");
    for args in [&["up", "--strict"][..], &["up", "web"], &["up", "node:web"]] {
        let told = host.wire(args).expect(1).stderr;
        assert!(told.contains("error: ") && told.contains("`web`"), "{args:?}: {told}");
    }
}
