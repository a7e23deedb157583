//! The tunnel of a hub that `wire` runs: a device of its own in the hub's namespace, marked from birth, made and mended with the
//! least change, and gone with `down`; and keys that nobody sees. What carries packets over it is tested where that runs.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::crash::{Call, calls, expect_rules, with_fault};
use crate::host::{Dump, Host, expect_silence, text};
use crate::watch::Watch;
use crate::world::GROUP;

const KEY: &str = "/run/keys/vpn";
const LAPTOP: &str = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs=";
const PHONE: &str = "B7jFQkh2hqeDAYVfy20/aoqRHNfxmDqbRNydzSKDnSM=";

fn topology() -> String {
    format!(
        r#"
version = 1
runtime = "netns"
wire = [
  {{ name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.101.0/31" }},
  {{ name = "vpn-git", ends = ["vpn", "git"], subnet = "10.1.1.0/31", allow = ["tcp/22"] }},
]

[host]
uplinks = ["eth0"]

[module]
house = ["vpn", "git"]

[hub.vpn]
zone = "private"
clients = {{ prefix = "10.100.0.0/24", device = "wg0" }}

[hub.vpn.wireguard]
listen = 51820
private-key = "{KEY}"

[[hub.vpn.wireguard.peer]]
name = "laptop"
public-key = "{LAPTOP}"
address = "10.100.0.2"
allow = ["git"]

[[hub.vpn.wireguard.peer]]
name = "phone"
public-key = "{PHONE}"
address = "10.100.0.3"
allow = []
"#
    )
}

/// The same without anybody who dials in.
fn without() -> String {
    let text = topology();
    text[..text.find("[hub.vpn.wireguard]").expect("it is there")].to_owned()
}

fn host() -> Host {
    Host::with(&["vpn", "git"], &topology())
}

fn key(host: &Host) -> String {
    std::fs::read_to_string(host.path(KEY)).expect("there is a key").trim().to_owned()
}

/// What is told of a list, as `ACTION SUBJECT`.
fn list(report: &Value, key: &str) -> Vec<String> {
    let list = report[key].as_array().expect("a list").iter();
    list.map(|change| format!("{} {}", text(&change["action"]), text(&change["subject"]))).collect()
}

/// Those of them that are about a tunnel.
fn of_tunnel(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).filter(|line| line.contains("wg0") || line.contains("key ")).collect()
}

fn deviations(audit: &Value) -> Vec<String> {
    let list = audit["deviations"].as_array().expect("a list").iter();
    list.map(|deviation| format!("{}: {}", text(&deviation["kind"]), text(&deviation["message"]))).collect()
}

/// The device as it is to be, whatever the kernel has.
#[track_caller]
fn observe(host: &Host) {
    let link = host.link("vpn", "wg0");
    assert_eq!(
        (&link["group"], &link["mtu"], &link["ifalias"]),
        (&json!(GROUP), &json!(1420), &json!("wire-tunnel:vpn"))
    );
    assert!(link["flags"].as_array().expect("flags").contains(&json!("UP")), "{link}");
    let addresses: Vec<String> = (link["addr_info"].as_array().expect("a list").iter())
        .map(|address| format!("{}/{}", text(&address["local"]), address["prefixlen"]))
        .collect();
    assert_eq!(addresses, ["10.100.0.1/24"], "no other address, not even a link-local one");
    for (setting, value) in
        [("forwarding", "1"), ("rp_filter", "1"), ("accept_redirects", "0"), ("send_redirects", "0")]
    {
        assert_eq!(host.sysctl("vpn", &format!("ipv4/conf/wg0/{setting}")), value, "{setting}");
    }
    assert_eq!(host.sysctl("vpn", "ipv6/conf/wg0/disable_ipv6"), "1");
    // What comes after it does not forward because of it.
    assert_eq!(host.sysctl("vpn", "ipv4/conf/default/forwarding"), "0");
    if link["linkinfo"]["info_kind"] == "tun" {
        let data = &link["linkinfo"]["info_data"];
        assert_eq!((&data["type"], &data["persist"]), (&json!("tun"), &json!(true)));
        assert!(data["user"].is_null() && data["group"].is_null(), "whoever lives there may attach: {data}");
    } else {
        assert_eq!(link["linkinfo"]["info_kind"], "wireguard");
    }
}

/// `plan` tells it, `up` makes it and its key, a second `up` does nothing, `down` takes it away; the key is nobody else's, and
/// stays.
#[test]
fn a_tunnel_is_made_and_gone() {
    let host = host();
    let before = host.dump();
    let plan = host.wire(&["--json", "plan"]).expect(3).json();
    let changes = list(&plan, "changes");
    assert_eq!(of_tunnel(&changes)[..2], ["make key /run/keys/vpn", "create tunnel wg0"], "{plan:#}");
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    assert!(deviations(&audit).contains(&"missing: vpn: tunnel wg0: there is no such device".to_owned()), "{audit:#}");
    assert!(!host.path(KEY).exists(), "asking makes nothing");
    host.dump().expect(&before, "asking makes nothing");

    let monitor = host.monitor("host");
    let up = host.wire(&["--json", "up"]).expect(0);
    let events = monitor.events();
    assert!(!events.iter().any(|event| event.contains("wg0")), "it was never in the host's namespace: {events:?}");
    drop(monitor);
    assert_eq!(up.json()["done"], plan["changes"]);
    observe(&host);
    let audit = host.wire(&["--json", "audit"]).expect(0).json();
    let hub = &audit["hubs"][0];
    assert_eq!((&hub["hub"], &hub["zone"], &hub["runs"]), (&json!("vpn"), &json!("private"), &json!(false)));
    let kind = &host.link("vpn", "wg0")["linkinfo"]["info_kind"];
    assert_eq!(hub["wireguard"], if kind == "tun" { "userspace" } else { "kernel" });
    let laptop = json!({
        "name": "laptop", "address": "10.100.0.2", "endpoint": null, "last-handshake": null, "rx-bytes": 0, "tx-bytes": 0,
        "state": "never",
    });
    assert_eq!((&hub["peers"][0], hub["peers"].as_array().expect("a list").len()), (&laptop, 2));
    let table = host.wire(&["audit"]).expect(0).stdout;
    assert!(table.contains("vpn  laptop  10.100.0.2  never"), "{table}");
    let about = |path: &str| std::fs::metadata(host.path(path)).expect(path).permissions().mode() & 0o7777;
    assert_eq!((about("/run/keys"), about(KEY)), (0o700, 0o600));
    let key = key(&host);
    assert_eq!(host.sh(&format!("wg pubkey <{KEY}")).trim().len(), 44);

    let monitors = [host.monitor("host"), host.monitor("vpn")];
    let again = host.wire(&["--json", "up"]).expect(0);
    assert_eq!(again.json()["done"], json!([]));
    let plan = host.wire(&["plan"]).expect(0);
    let audit = host.wire(&["--json", "audit"]).expect(0);
    expect_silence(&monitors, "a second up");
    drop(monitors);
    for said in [&up, &again, &plan, &audit] {
        assert!(!said.stdout.contains(&key) && !said.stderr.contains(&key), "{said:?}");
    }

    let down = host.wire(&["--json", "down"]).expect(0).json();
    assert_eq!(of_tunnel(&list(&down, "done")), ["remove wg0"], "{down:#}");
    host.dump().expect(&before, "down");
    assert_eq!(self::key(&host), key, "peers know it");
    host.wire(&["up"]).expect(0);
    assert_eq!(self::key(&host), key);
    observe(&host);
}

/// Whatever somebody does to the device is named, and that alone is mended.
#[test]
fn a_tunnel_is_mended() {
    let host = host();
    host.wire(&["up"]).expect(0);
    let right = host.dump();
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("ip link del wg0", &["missing: vpn: tunnel wg0: there is no such device"], &["create tunnel wg0"]),
        ("ip link set wg0 down", &["down: vpn: tunnel wg0: it is down"], &["raise tunnel wg0"]),
        ("ip link set wg0 mtu 1300", &["mtu: vpn: tunnel wg0: mtu 1420: it is 1300"], &["set tunnel wg0: mtu 1420"]),
        (
            "ip link set wg0 alias mine",
            &["mark: vpn: tunnel wg0: not as wire gave it: group or alias"],
            &["mark tunnel wg0"],
        ),
        (
            "ip address del 10.100.0.1/24 dev wg0",
            &["address: vpn: tunnel wg0: 10.100.0.1/24: it is missing"],
            &["add-address tunnel wg0: 10.100.0.1/24"],
        ),
        (
            "sysctl -qw net.ipv4.conf.wg0.rp_filter=2 net.ipv4.conf.wg0.forwarding=0",
            &[
                "setting: vpn: tunnel wg0: ipv4.forwarding = 1: it is 0",
                "setting: vpn: tunnel wg0: ipv4.rp_filter = 1: it is 2",
            ],
            &["set tunnel wg0: ipv4.forwarding = 1", "set tunnel wg0: ipv4.rp_filter = 1"],
        ),
        (
            "ip route del 10.100.0.0/24 dev wg0",
            &["route: vpn: tunnel wg0: 10.100.0.0/24 over the tunnel itself: it is missing"],
            &["add-route tunnel wg0: 10.100.0.0/24 over the tunnel itself"],
        ),
    ];
    for (hand, told, mended) in cases {
        host.run("vpn", &["sh", "-c", hand]).expect(0);
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        let told_of_tunnel: Vec<String> =
            deviations(&audit).into_iter().filter(|line| !line.starts_with("peer")).collect();
        assert_eq!(told_of_tunnel, told, "{hand}");
        let up = host.wire(&["--json", "up"]).expect(0).json();
        let done: Vec<String> = list(&up, "done").into_iter().filter(|line| !line.contains("peer")).collect();
        assert_eq!(done, mended, "{hand}");
        host.dump().expect(&right, hand);
        host.wire(&["audit"]).expect(0);
    }
    // What somebody has put on it is told, and left.
    host.run("vpn", &["ip", "route", "add", "10.66.0.0/16", "dev", "wg0"]).expect(0);
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    assert!(deviations(&audit)[0].contains("an address or route 10.66.0.0/16 that is not wire's"), "{audit:#}");
    host.wire(&["up"]).expect(0);
    assert!(host.run("vpn", &["ip", "route"]).stdout.contains("10.66.0.0/16"));
}

/// Who watches hears of it like of everything else.
#[test]
fn a_watch_mends_it() {
    let host = host();
    let _watch = Watch::start(&host);
    for hand in ["ip link del wg0", "ip link set wg0 down", "ip address del 10.100.0.1/24 dev wg0"] {
        host.run("vpn", &["sh", "-c", hand]).expect(0);
        // By the watch, or by the hub that it starts. The route is there with the address, once the device is up.
        let is_there = || host.run("vpn", &["ip", "route"]).stdout.contains("10.100.0.0/24 dev wg0");
        crate::host::until(&format!("`{hand}` is mended"), is_there);
        observe(&host);
    }
}

/// A device of that name that is not `wire`'s is told and left, with all else as it is to be.
#[test]
fn a_stranger_keeps_its_name() {
    let host = host();
    host.run("vpn", &["ip", "tuntap", "add", "mode", "tun", "wg0"]).expect(0);
    let stranger = host.link("vpn", "wg0");
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    let taken = "taken: vpn has a device `wg0` that is not wire's and has the name that its tunnel needs";
    assert!(deviations(&audit).contains(&taken.to_owned()), "{audit:#}");
    for command in ["up", "up", "down"] {
        let said = host.wire(&[command]);
        assert_eq!(said.code, i32::from(command == "up"), "{said:?}");
        assert_eq!(said.stderr.contains("ip link del wg0"), command == "up", "{said:?}");
        assert_eq!(host.link("vpn", "wg0"), stranger);
    }
    host.run("vpn", &["ip", "link", "del", "wg0"]).expect(0);
    host.wire(&["up"]).expect(0);
    observe(&host);
}

/// Keys that others may read, or that are none, are refused, with everything else as it is to be; and no key is replaced.
#[test]
fn a_key_that_is_no_secret_is_refused() {
    let plants = [
        ("wg genkey >KEY; chmod 644 KEY", "the key /run/keys/vpn is not its owner's alone", "chmod 600 /run/keys/vpn"),
        (
            "wg genkey >other; chmod 600 other; ln -s other KEY",
            "the key /run/keys/vpn is a link",
            "name the file itself",
        ),
        ("umask 077; echo abc >KEY", "/run/keys/vpn holds no key", "wg genkey"),
        (
            "wg genkey >KEY; chmod 600 KEY; chown 1234 KEY",
            "the key /run/keys/vpn belongs to somebody else",
            "chown root",
        ),
    ];
    for (plant, told, hint) in plants {
        let host = host();
        let plant = plant.replace("KEY", "vpn");
        host.sh(&format!("mkdir -m 700 /run/keys; cd /run/keys; {plant}"));
        let planted = host.sh("cd /run/keys; stat -c '%n %a %u %F' *; cat *");
        let audit = host.wire(&["--json", "audit"]).expect(3).json();
        let said = deviations(&audit).into_iter().find(|line| line.starts_with("key: ")).expect("it is told");
        assert!(said.starts_with(&format!("key: the tunnel of vpn: {told}")), "{said}");
        let up = host.wire(&["up"]).expect(1);
        assert!(up.stderr.contains(told) && up.stderr.contains(hint), "{plant}: {}", up.stderr);
        assert!(!host.links("vpn").contains(&"wg0".to_owned()), "{plant}");
        assert!(host.links("vpn").contains(&"vpn-git".to_owned()), "everything else is made");
        assert_eq!(host.sh("cd /run/keys; stat -c '%n %a %u %F' *; cat *"), planted, "{plant}");
        host.wire(&["down"]).expect(0);
    }
    let host = host();
    host.sh("mkdir -m 777 /run/keys");
    let up = host.wire(&["up"]).expect(1);
    assert!(up.stderr.contains("others may write to /run/keys"), "{}", up.stderr);
    assert!(!host.path(KEY).exists() && !host.links("vpn").contains(&"wg0".to_owned()));
    host.sh("chmod 755 /run/keys");
    host.wire(&["up"]).expect(0);
    // What is there is left as it is while its key may not be used.
    host.sh(&format!("chmod 644 {KEY}"));
    host.wire(&["up"]).expect(1);
    observe(&host);
}

/// A tunnel that the file does not want any more goes, with the next `up` of all or of its hub, and with nothing else.
#[test]
fn a_struck_tunnel_goes() {
    let host = host();
    host.wire(&["up"]).expect(0);
    host.topology(&without());
    host.wire(&["up", "wire:vpn-git"]).expect(0);
    observe_there(&host, true);
    let audit = host.wire(&["--json", "audit"]).expect(3).json();
    assert!(deviations(&audit).contains(&"struck: device `wg0` in vpn: it is not to be there".to_owned()), "{audit:#}");
    host.wire(&["up", "vpn"]).expect(0);
    observe_there(&host, false);
    host.wire(&["audit"]).expect(0);

    // Of the wires alone, rules and tunnel stay.
    host.topology(&topology());
    host.wire(&["up"]).expect(0);
    host.wire(&["down", "wire:vpn-git", "wire:host-vpn"]).expect(0);
    observe_there(&host, true);
    expect_rules(&host.dump(), "the tunnel is left");
    host.wire(&["down", "vpn"]).expect(0);
    observe_there(&host, false);

    // Another name is another device.
    host.wire(&["up"]).expect(0);
    host.topology(&topology().replace("device = \"wg0\"", "device = \"wg1\""));
    let up = host.wire(&["--json", "up"]).expect(0).json();
    let done = list(&up, "done");
    assert!(done.contains(&"remove wg0".to_owned()) && done.contains(&"create tunnel wg1".to_owned()), "{up:#}");
    observe_there(&host, false);
}

#[track_caller]
fn observe_there(host: &Host, there: bool) {
    assert_eq!(host.links("vpn").contains(&"wg0".to_owned()), there);
}

/// What nobody confirms is undone, be it a tunnel that came or one that went.
#[test]
fn what_nobody_confirms_is_undone() {
    let host = host();
    let undone = |before: &Dump, what: &str| {
        let up = host.wire(&["up", "--confirm", "1s"]).expect(0);
        crate::host::until("the change is undone", || !host.path("/run/wire/pending.json").exists());
        host.dump().expect(before, &format!("{what}: {}", up.stderr));
        let key = key(&host);
        let kept = host.run("host", &["grep", "-rlF", &key, "/run/wire", "/var/lib"]);
        assert_eq!(kept.stdout, "", "a key is remembered");
    };
    undone(&host.dump(), "all of it");
    host.topology(&without());
    host.wire(&["up"]).expect(0);
    let before = host.dump();
    host.topology(&topology());
    undone(&before, "a tunnel that came");
    host.wire(&["up"]).expect(0);
    let before = host.dump();
    host.topology(&without());
    undone(&before, "a tunnel that went");
    host.topology(&topology().replace("10.100.0.0/24", "10.100.0.0/25"));
    undone(&before, "another prefix");
}

/// Killed or refused anywhere, the next run finishes, and in between nothing is there that is not known as `wire`'s.
#[test]
fn disturbed_anywhere_it_is_made_by_the_next() {
    const CALLS: &str = "sendto,sendmsg,ioctl,openat,write,linkat,unlinkat,fsync,mkdir";
    let about = |call: &&Call| {
        call.changes()
            && (call.said.contains("tun")
                || call.said.contains("vpn")
                || call.name.starts_with("send")
                || call.name == "ioctl"
                || call.name == "fsync")
    };
    for command in ["up", "down"] {
        let host = host();
        let bare = host.dump();
        host.wire(&["up"]).expect(0);
        let made = host.dump();
        let start = || match command {
            "up" => host.sh("rm -rf /run/keys; ip -n vpn link del wg0 2>/dev/null || :"),
            _ => host.wire(&["up"]).expect(0).stdout,
        };
        start();
        let calls = calls(&host, CALLS, &[command]);
        assert!(command == "down" || calls.iter().any(|call| call.said.contains("/dev/net/tun")), "{calls:#?}");
        for call in calls.iter().filter(about) {
            for fault in ["signal=KILL", "error=EPERM"] {
                host.wire(&["up"]).expect(0);
                start();
                let said = with_fault(&host, call, fault, &[command]);
                let dump = host.dump();
                expect_rules(&dump, &format!("{fault} at {call:?}"));
                // Nothing of a key is left but a whole one.
                let files = host.sh("cd /run/keys 2>/dev/null && ls -A || :");
                let whole = host.run("host", &["sh", "-c", &format!("! [ -e {KEY} ] || wg pubkey <{KEY}")]);
                assert_eq!(whole.code, 0, "{fault} at {call:?}: {files}: {said:?}");
                let link = host.run("vpn", &["ip", "-j", "-d", "link", "show", "dev", "wg0"]);
                if link.code == 0 {
                    // Whoever is about to delete it says so in its group.
                    let group = text(&link.json()[0]["group"]);
                    assert!([GROUP, "2003399270"].contains(&&*group), "{fault} at {call:?}: nobody knows it: {group}");
                }
                host.wire(&[command]).expect(0);
                host.dump().expect(if command == "up" { &made } else { &bare }, &format!("{fault} at {call:?}"));
                if command == "up" {
                    assert_eq!(host.sh("ls -A /run/keys"), "vpn\n", "{fault} at {call:?}");
                }
            }
        }
    }
}
