//! The command line itself: words, exit codes, what goes to which stream, the shape of the JSON.

use serde_json::{Value, json};

use crate::host::{Host, TOPOLOGY, WIRE};
use crate::world::{pluto, small};

/// Usage that is wrong exits 2 and says so on stderr; help and version exit 0 and go to stdout.
#[test]
fn usage() {
    let host = small().host();
    for args in [&[][..], &["wire"], &["up", "--no-such-flag"], &["--color", "sometimes", "audit"], &["why", "edge"]] {
        let output = host.wire(args).expect(2);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}: {output:?}");
    }
    let help = host.wire(&["--help"]).expect(0);
    for command in [
        "check",
        "number",
        "plan",
        "up",
        "confirm",
        "down",
        "audit",
        "prove",
        "why",
        "suggest",
        "render",
        "set",
        "log",
        "peer",
        "lab",
        "service",
        "completions",
        "man",
    ] {
        assert!(help.stdout.contains(command), "{command}: {}", help.stdout);
        assert!(!host.wire(&[command, "--help"]).expect(0).stdout.is_empty());
    }
    assert!(host.wire(&["--version"]).expect(0).stdout.starts_with("wire "));
}

/// A file that is not there is named, whichever way it was asked for.
#[test]
fn a_missing_file_is_named() {
    let host = Host::new();
    for (env, args, path) in [
        ("A=B", &["-f", "/run/nothing.toml", "check"][..], "/run/nothing.toml"),
        ("WIRE_TOPOLOGY=/run/none.toml", &["check"], "/run/none.toml"),
        ("A=B", &["check"], "/etc/wire/topology.toml"),
    ] {
        let output = host.run("host", &[&["env", env, WIRE], args].concat());
        assert!([1, 2].contains(&output.code) && output.stderr.contains(path), "{output:?}");
    }
    let host = small().host();
    host.run("host", &["env", &format!("WIRE_TOPOLOGY={TOPOLOGY}"), WIRE, "plan"]).expect(3);
}

/// `check` accepts the whole house and the small one, and says every flow with `-v`.
#[test]
fn check_accepts_what_is_right() {
    for world in [pluto(), small()] {
        let host = Host::with(&[], &world.topology);
        let check = host.wire(&["--json", "check"]).expect(0).json();
        assert_eq!((&check["ok"], &check["errors"]), (&json!(true), &json!([])));
        let said = host.wire(&["-v", "check"]).expect(0);
        assert!(world.wires.iter().all(|wire| said.stdout.contains(wire.name) || said.stdout.contains(wire.ends[1].0)));
    }
}

/// Faults of a file are all told, with line and column from 1, the word that is wrong, and a hint.
#[test]
fn check_tells_every_fault() {
    let world = small();
    let wrong = world
        .topology
        .replace("ends = [\"edge\", \"web\"]", "ends = [\"edge\", \"wep\"]")
        .replace("mtu = 1400", "mtuu = 1400");
    let host = Host::with(&[], &wrong);
    let check = host.wire(&["--json", "check"]).expect(2).json();
    assert_eq!(check["ok"], json!(false));
    let errors = check["errors"].as_array().expect("errors");
    for (word, suggestion) in [("wep", "web"), ("mtuu", "mtu")] {
        let line = wrong.lines().position(|line| line.contains(word)).expect("a line") + 1;
        let column = wrong.lines().nth(line - 1).and_then(|text| text.find(word)).expect("a column") + 1;
        let error = errors.iter().find(|error| error["message"].as_str().is_some_and(|text| text.contains(word)));
        let error = error.unwrap_or_else(|| panic!("`{word}` in {errors:#?}"));
        assert_eq!(error["line"], json!(line), "{error}");
        let near = error["column"].as_i64().expect("a column") - column as i64;
        assert!((-1..=0).contains(&near), "{error}");
        let said = format!("{} {}", error["message"], error["hint"]);
        assert!(said.contains(suggestion), "{said}");
    }
    let told = host.wire(&["check"]).expect(2).stderr;
    assert!(told.contains(&format!("{TOPOLOGY}:")) && told.contains("wep") && told.contains("mtuu"), "{told}");
}

/// The JSON of every command has the keys that programs rely on, with their types.
#[test]
fn json_has_its_shape() {
    let host = Host::with(&["edge", "shop", "vault"], &small().topology);
    let change = |change: &Value| ["node", "action", "subject", "reason"].iter().all(|key| change[key].is_string());
    let list = |report: &Value, key: &str| report[key].as_array().unwrap_or_else(|| panic!("{key}: {report}")).clone();

    let plan = host.wire(&["--json", "plan"]).expect(3).json();
    assert!(!list(&plan, "changes").is_empty() && list(&plan, "changes").iter().all(change), "{plan:#}");
    assert!(list(&plan, "waiting").iter().all(|w| w["wire"].is_string() && w["node"].is_string()), "{plan:#}");

    let up = host.wire(&["--json", "up"]).expect(0).json();
    assert!(!list(&up, "done").is_empty() && list(&up, "done").iter().all(change), "{up:#}");
    assert_eq!((list(&up, "failed"), list(&up, "waiting")), (vec![], list(&plan, "waiting")));
    assert_eq!(up["done"], plan["changes"], "up does what plan says");

    host.sh("ip -n shop link set eth0 down");
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    let wires = list(&audit, "wires");
    assert_eq!(wires.len(), 4);
    for wire in &wires {
        assert!(wire["name"].is_string() && wire["module"].is_string() && wire["denied"].is_u64(), "{wire:#}");
        let ends = list(wire, "ends");
        assert_eq!(ends.len(), 2);
        for end in ends {
            assert!(["node", "ifname", "address"].iter().all(|key| end[key].is_string()), "{end:#}");
            assert!(end["up"].is_boolean() && end["rx-bytes"].is_u64() && end["tx-bytes"].is_u64(), "{end:#}");
        }
    }
    let state = |name: &str| wires.iter().find(|wire| wire["name"] == name).expect("a wire")["state"].clone();
    assert_eq!(state("host-edge"), "up");
    assert_eq!(state("edge-web"), "waiting");
    assert_eq!(state("edge-shop-and-its-till"), "drift");
    let deviations = list(&audit, "deviations");
    let strings = |d: &Value| ["node", "kind", "message"].iter().all(|key| d[key].is_string());
    assert!(!deviations.is_empty() && deviations.iter().all(strings), "{deviations:#?}");

    let down = host.wire(&["--json", "down"]).expect(0).json();
    assert!(!list(&down, "done").is_empty() && list(&down, "done").iter().all(change), "{down:#}");
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    assert!(list(&audit, "wires").iter().any(|wire| wire["state"] == "missing"), "{audit:#}");

    for (args, code, allowed) in
        [(["edge", "web:tcp/80"], 0, true), (["edge", "web:tcp/81"], 3, false), (["web", "edge"], 3, false)]
    {
        let why = host.wire(&[&["--json", "why"], &args[..]].concat()).expect(code).json();
        assert_eq!(why["allowed"], json!(allowed), "{why}");
        assert!(
            why["reason"].is_string() && (why["wire"].is_string() || !allowed) && (why["line"].is_u64() || !allowed),
            "{why}"
        );
    }
}

/// The counters of `audit` are the kernel's.
#[test]
fn audit_counts_what_the_kernel_counts() {
    let (host, _) = small().up();
    for _ in 0..3 {
        assert!(host.reaches("edge", "172.16.1.1", 80));
    }
    let audit = host.wire(&["--json", "audit"]).expect(0).json();
    let wires = audit["wires"].as_array().expect("wires");
    let end = &wires.iter().find(|wire| wire["name"] == "edge-web").expect("a wire")["ends"][1];
    let link = host.ip("web", &["-s", "link", "show", "dev", "eth0"]);
    assert_eq!(end["rx-bytes"], link[0]["stats64"]["rx"]["bytes"]);
    assert!(end["rx-bytes"].as_u64() > Some(0));
}

/// What another program could read goes to stdout, everything else to stderr; `-q` leaves out what is not asked for, and
/// colour is there only when wanted.
#[test]
fn streams_and_colour() {
    let host = small().host();
    let up = host.wire(&["--json", "up"]).expect(0);
    assert_eq!(up.stderr, "");
    host.sh("ip -n web link set eth0 down");
    assert!(!host.wire(&["audit"]).expect(3).stdout.contains('\u{1b}'));
    assert!(!host.wire(&["--color", "never", "audit"]).expect(3).stdout.contains('\u{1b}'));
    assert!(host.wire(&["--color", "always", "audit"]).expect(3).stdout.contains('\u{1b}'));
    let plain = host.wire(&["audit"]).expect(3).stdout;
    assert!(plain.contains("down") || plain.contains("drift"), "no meaning in colour alone: {plain}");
    let quiet = host.wire(&["-q", "up"]).expect(0);
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("", ""));
}

/// A reader that went away or a full disk is no reason to panic.
#[test]
fn closed_and_full_outputs() {
    let (host, _) = small().up();
    for command in ["audit", "--json audit", "man", "completions bash", "check -v", "plan"] {
        let script = format!(
            "{WIRE} -f {TOPOLOGY} {command} | head -c 1 >/dev/null; {WIRE} -f {TOPOLOGY} {command} >/dev/full; {WIRE} -f {TOPOLOGY} {command} >&-"
        );
        let output = host.run("host", &["sh", "-c", &script]);
        assert!(!output.stderr.contains("panicked"), "{command}: {}", output.stderr);
    }
    assert_ne!(
        host.run("host", &["sh", "-c", &format!("{WIRE} man >/dev/full")]).code,
        0,
        "what was not written is not claimed"
    );
}

/// Completions and the manual page come from the command line itself.
#[test]
fn completions_and_manual() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = host.run("host", &[WIRE, "completions", shell]).expect(0).stdout;
        assert!(["audit", "completions", "trust-owner"].iter().all(|word| script.contains(word)), "{shell}");
    }
    host.sh(&format!(
        "{WIRE} completions bash >/run/completions; bash -n /run/completions 2>/dev/null || ! command -v bash"
    ));
    let manual = host.run("host", &[WIRE, "man"]).expect(0).stdout;
    assert!(manual.contains(".TH wire") && manual.contains("audit"), "{manual}");
}

/// `number` fills in what was left out, keeps the rest to the letter, and the result can be wired.
#[test]
fn number_fills_in_what_was_left_out() {
    let world = small();
    let text = world
        .topology
        .replace(" subnet = \"172.16.2.0/31\",", "")
        .replace("zone = \"public\"", "zone = \"public\"  # a comment\npool = \"172.16.0.0/16\"");
    let host = Host::with(&world.nodes, &text);
    host.wire(&["up"]).expect(2);
    host.wire(&["number"]).expect(0);
    let numbered = std::fs::read_to_string(host.path(TOPOLOGY)).expect("the file");
    assert_eq!(
        numbered.replace(" subnet = \"172.16.0.0/31\",", "").len() + " subnet = \"172.16.0.0/31\",".len(),
        numbered.len(),
        "{numbered}"
    );
    let lines = text.lines().zip(numbered.lines()).filter(|(old, new)| old != new).count();
    assert_eq!((lines, text.lines().count()), (1, numbered.lines().count()), "{numbered}");
    host.wire(&["up"]).expect(0);
    host.wire(&["number"]).expect(0);
    assert_eq!(std::fs::read_to_string(host.path(TOPOLOGY)).expect("the file"), numbered);
}
