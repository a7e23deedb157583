//! Address sets: what is added stays, files and names are read again, what is planted is refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, TOPOLOGY, text};
use crate::nameserver::NameServer;
use crate::world::small;

const SETS: &str = r#"
[set.banned]
file = "/run/banned"

[set.players]
dns = ["anna.example.net"]
interval = "5m"
elements = ["198.51.100.4", "192.0.2.0/24"]

[set.friends]
dns = ["anna.example.net"]
private = true

[set.loose]
"#;

/// A small house with sets, none of them with anything in it but what the file says.
fn house() -> Host {
    let world = small();
    let host = Host::with(&world.nodes, &(world.topology.clone() + SETS));
    host.write("/run/banned", "");
    host
}

/// What a set holds: `ADDRESS FROM`, with `timed` behind it where it has an end.
#[track_caller]
fn list(host: &Host, set: &str) -> Vec<String> {
    let listed = host.wire(&["--json", "set", "list", set]).expect(0).json();
    assert_eq!(listed["set"], set);
    let element = |element: &Value| {
        let timed = if element["expires-in"].is_u64() { " timed" } else { "" };
        format!("{} {}{timed}", text(&element["address"]), text(&element["from"]))
    };
    listed["elements"].as_array().expect("a list").iter().map(element).collect()
}

/// The seconds that an element of a set has left.
fn left(host: &Host, set: &str, address: &str) -> u64 {
    let listed = host.wire(&["--json", "set", "list", set]).expect(0).json();
    let elements = listed["elements"].as_array().expect("a list");
    let element = elements.iter().find(|element| element["address"] == address && element["from"] == "added");
    element.expect("an element")["expires-in"].as_u64().expect("an end")
}

/// What is added stays over `up` and `down`, with the time that is left, and goes when it is deleted. No namespace hears of it.
#[test]
fn what_is_added_stays() {
    let host = house();
    host.sh("mount --bind /dev/null /etc/resolv.conf");
    let before = host.dump();
    let added = host.wire(&["--json", "set", "add", "loose", "203.0.113.9", "2001:db8::/32", "203.0.113.9"]).expect(0);
    assert_eq!(added.json(), json!({"set": "loose", "added": ["203.0.113.9", "2001:db8::/32"], "already": []}));
    host.wire(&["set", "add", "loose", "198.51.100.0/25", "--for", "1h"]).expect(0);
    let wanted = ["198.51.100.0/25 added timed", "203.0.113.9 added", "2001:db8::/32 added"];
    assert_eq!(list(&host, "loose"), wanted);
    host.dump().expect(&before, "sets are no links");
    for command in ["up", "down", "up"] {
        host.wire(&[command]).expect(0);
        assert_eq!(list(&host, "loose"), wanted, "{command}");
        assert!((3000..=3600).contains(&left(&host, "loose", "198.51.100.0/25")));
    }
    let shown = host.wire(&["set", "list", "loose"]).expect(0).stdout;
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..2], ["198.51.100.0/25", "added"]);
    assert!(lines[0][2] == "1h" || lines[0][2].starts_with("59m"), "{shown}");
    assert_eq!(lines[1..], [["203.0.113.9", "added"], ["2001:db8::/32", "added"]]);

    let deleted = host.wire(&["--json", "set", "del", "loose", "203.0.113.9", "203.0.113.10"]).expect(0);
    assert_eq!(deleted.json(), json!({"set": "loose", "deleted": ["203.0.113.9"], "absent": ["203.0.113.10"]}));
    assert!(deleted.stderr.contains("`203.0.113.10` is not in set `loose`"), "{}", deleted.stderr);
    assert_eq!(list(&host, "loose"), ["198.51.100.0/25 added timed", "2001:db8::/32 added"]);
    host.wire(&["set", "del", "loose", "198.51.100.0/25", "2001:db8::/32"]).expect(0);
    assert_eq!(list(&host, "loose"), [""; 0]);
    assert!(!host.path("/var/lib/wire/sets/loose.set").exists(), "of nothing nothing is kept");
}

/// What is added for a while is gone after it, and forgotten by the next change.
#[test]
fn what_is_added_for_a_while_goes_by_itself() {
    let host = house();
    host.wire(&["set", "add", "loose", "203.0.113.9", "--for", "2s"]).expect(0);
    host.wire(&["set", "add", "loose", "203.0.113.10", "--for", "1d"]).expect(0);
    assert_eq!(list(&host, "loose").len(), 2);
    let start = Instant::now();
    while list(&host, "loose").len() > 1 {
        assert!(start.elapsed() < Duration::from_secs(20), "it stays for ever");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(list(&host, "loose"), ["203.0.113.10 added timed"]);
    host.wire(&["set", "add", "loose", "203.0.113.11"]).expect(0);
    let kept = host.sh("cat /var/lib/wire/sets/loose.set");
    assert!(!kept.contains("203.0.113.9/32") && kept.contains("203.0.113.10/32"), "{kept}");

    // A clock that is set back makes nothing last longer than it was to last.
    host.sh("sed -i 's/until [0-9]*/until 99999999999/' /var/lib/wire/sets/loose.set");
    assert!(left(&host, "loose", "203.0.113.10") <= 86400);
}

/// A wrong address, duration or name of a set exits 2 with a hint, and nothing has changed; so does deleting what stands
/// elsewhere, with the place where it stands.
#[test]
fn wrong_words_change_nothing() {
    let host = house();
    host.write("/run/banned", "# by hand\n203.0.113.3\n");
    host.wire(&["set", "add", "players", "203.0.113.9"]).expect(0);
    let before = host.sh("cat /var/lib/wire/sets/*");
    let line = |what: &str| {
        let topology = std::fs::read_to_string(host.path(TOPOLOGY)).expect("a topology");
        let line = topology.lines().position(|line| line == what).expect("a line") + 1;
        format!("{TOPOLOGY}:{line}")
    };
    let table: [(&[&str], &[&str]); 14] = [
        (&["add", "players", "nobody"], &["`nobody` is no address", "192.0.2.0/24"]),
        (&["add", "players", "203.0.113.10", "192.0.2.1/24"], &["bits behind its prefix", "192.0.2.0/24"]),
        (&["add", "players", "@banned"], &["`@banned` is no address"]),
        (&["add", "players", "x\"; flush ruleset"], &["is no address"]),
        (&["add", "players", "203.0.113.10", "--for", "1 hour"], &["`1 hour` is no duration", "`1h`"]),
        (&["add", "players", "203.0.113.10", "--for", "0s"], &["`0s` is no duration"]),
        (&["add", "playrs", "203.0.113.10"], &["no set is called `playrs`", "`players`"]),
        (&["del", "nothing-like-it", "203.0.113.10"], &["no set is called `nothing-like-it`", TOPOLOGY]),
        (&["list", "../players"], &["no set is called"]),
        (&["refresh", "players", "bannd"], &["no set is called `bannd`", "`banned`"]),
        (&["del", "players", "203.0.113.9", "198.51.100.4"], &["198.51.100.4", &line("[set.players]")]),
        (&["del", "players", "192.0.2.77"], &["`192.0.2.0/24`", &line("[set.players]")]),
        (&["del", "banned", "203.0.113.3"], &["/run/banned:2", "`wire set refresh banned`"]),
        (&["add", "players"], &["Usage"]),
    ];
    for (args, words) in table {
        let output = host.wire(&[&["set"], args].concat()).expect(2);
        assert!(words.iter().all(|word| output.stderr.contains(word)), "{args:?}: {}", output.stderr);
        assert_eq!(host.sh("cat /var/lib/wire/sets/*"), before, "{args:?}");
    }
    let object = host.wire(&["--json", "set", "list", "playrs"]).expect(2).json();
    assert!(object["error"].is_string() && object["hint"] == "did you mean `players`?", "{object}");
}

/// Additions of many at once are all there afterwards.
#[test]
fn additions_at_once_are_all_kept() {
    let host = house();
    std::thread::scope(|scope| {
        for last in 1..=20 {
            let address = format!("203.0.113.{last}");
            let host = &host;
            scope.spawn(move || host.wire(&["set", "add", "loose", &address]).expect(0));
        }
    });
    assert_eq!(list(&host, "loose").len(), 20);
}

/// The file of a set is read anew each time. Where it has a fault that is said with its line and the last good lines stay;
/// where none are known nothing is done; where there is no file nobody is in it.
#[test]
fn a_set_has_a_file() {
    let host = house();
    host.sh("mount --bind /dev/null /etc/resolv.conf");
    let long = "x".repeat(17 << 20);
    host.write("/run/banned", "203.0.113.3 # late\n\n#\n2001:db8::/32\n203.0.113.3\n");
    let refreshed = host.wire(&["--json", "set", "refresh", "banned"]).expect(0).json();
    assert_eq!(refreshed, json!({"sets": [{"set": "banned", "elements": 2}]}));
    let good = ["203.0.113.3 file", "2001:db8::/32 file"];
    assert_eq!(list(&host, "banned"), good);

    let place = host.path("/run/banned");
    let renew = || {
        let _ = std::fs::remove_file(&place).or_else(|_| std::fs::remove_dir(&place));
    };
    let faults: [(&dyn Fn(), &str); 8] = [
        (&|| host.write("/run/banned", "203.0.113.4\nnobody\n"), "/run/banned:2: `nobody` is no address"),
        (&|| drop(std::fs::write(&place, b"203.0.113.4\n\xff\n")), "/run/banned:2: this is no text"),
        (&|| host.write("/run/banned", &long), "/run/banned is larger than 16 MiB"),
        (&|| symlink("/run/elsewhere", &place).expect("a link"), "/run/banned is a link"),
        (&|| symlink("/run/nowhere", &place).expect("a link"), "/run/banned is a link"),
        (&|| host.sh("mkfifo /run/banned").clear(), "/run/banned is no plain file"),
        (&|| host.sh("mkdir /run/banned").clear(), "/run/banned is no plain file"),
        (
            &|| {
                host.write("/run/banned", "203.0.113.4\n");
                std::fs::set_permissions(&place, PermissionsExt::from_mode(0o666)).expect("chmod");
            },
            "/run/banned can be written by everybody",
        ),
    ];
    host.write("/run/elsewhere", "203.0.113.4\n");
    for (plant, fault) in faults {
        renew();
        plant();
        for args in [&["set", "refresh", "banned"][..], &["set", "list", "banned"], &["up"]] {
            let output = host.wire(args).expect(0);
            assert!(
                output.stderr.contains(fault) && output.stderr.contains("last good"),
                "{args:?}: {}",
                output.stderr
            );
        }
        assert_eq!(list(&host, "banned"), good, "{fault}");
        // Where nothing good is remembered, the fault is the end of it, and nothing has happened.
        host.sh("mv /var/lib/wire/sets/banned.set /run/aside");
        let before = host.dump();
        for args in
            [&["set", "refresh"][..], &["set", "list", "banned"], &["set", "add", "banned", "203.0.113.9"], &["up"]]
        {
            let output = host.wire(args).expect(1);
            assert!(output.stderr.contains(fault), "{args:?}: {}", output.stderr);
        }
        host.dump().expect(&before, fault);
        host.sh("mv /run/aside /var/lib/wire/sets/banned.set");
    }
    renew();
    let output = host.wire(&["set", "refresh", "banned"]).expect(0);
    assert!(output.stderr.contains("there is no file /run/banned"), "{}", output.stderr);
    assert_eq!(list(&host, "banned"), [""; 0], "no file, nobody");
}

/// A symlink, FIFO, directory, second name or file of others planted where a set is kept is refused by name, at once, and
/// whatever it leads to stays as it was.
#[test]
fn planted_sets_are_refused() {
    let (wire, sets, kept) = ("/var/lib/wire", "/var/lib/wire/sets", "/var/lib/wire/sets/loose.set");
    let has_users = nix::unistd::getuid().is_root();
    let make = "mkdir /var/lib/wire; mkdir -m 700 /var/lib/wire/sets; echo secret >/var/lib/victim; ";
    let plants = [
        ("mkdir /var/lib/victim; ln -s /var/lib/victim /var/lib/wire".to_owned(), wire),
        ("ln -s /var/lib/nowhere /var/lib/wire".to_owned(), wire),
        ("touch /var/lib/wire".to_owned(), wire),
        ("mkfifo /var/lib/wire".to_owned(), wire),
        ("mkdir -m 777 /var/lib/wire".to_owned(), wire),
        ("mkdir /var/lib/wire /var/lib/victim; ln -s /var/lib/victim /var/lib/wire/sets".to_owned(), sets),
        ("mkdir /var/lib/wire; mkdir -m 770 /var/lib/wire/sets".to_owned(), sets),
        (format!("{make} ln -s /var/lib/victim {kept}"), kept),
        (format!("{make} ln -s /var/lib/nowhere {kept}"), kept),
        (format!("{make} ln /var/lib/victim {kept}"), kept),
        (format!("{make} mkfifo {kept}"), kept),
        (format!("{make} mkdir {kept}"), kept),
        (format!("{make} touch {kept}; chmod 666 {kept}"), kept),
        (format!("{make} echo 'added nobody' >{kept}"), kept),
        (
            if has_users {
                format!("{make} touch {kept}; chown 65534 {kept}")
            } else {
                format!("{make} touch {kept}; mount --bind /etc/hostname {kept}")
            },
            kept,
        ),
    ];
    for (plant, path) in plants {
        let host = house();
        host.sh("mount --bind /dev/null /etc/resolv.conf");
        host.sh(&plant);
        let state = || host.sh("ls -lRn /var/lib; cat /var/lib/victim 2>/dev/null || :");
        let (before, files) = (host.dump(), state());
        for args in [
            &["set", "add", "loose", "203.0.113.9"][..],
            &["set", "list", "loose"],
            &["set", "refresh", "loose"],
            &["up"],
        ] {
            let output = host.wire(args).expect(1);
            assert!(output.stderr.contains(path), "{plant}: {args:?}: {}", output.stderr);
        }
        assert_eq!(state(), files, "{plant}");
        host.dump().expect(&before, &plant);
    }
}

/// What is kept is in a directory of mode 0700, in files of mode 0600.
#[test]
fn what_is_kept_of_sets_is_roots_alone() {
    let host = house();
    host.wire(&["set", "add", "loose", "203.0.113.9"]).expect(0);
    let mode = |path: &str| std::fs::symlink_metadata(host.path(path)).expect(path).mode() & 0o7777;
    let modes = ["/var/lib/wire", "/var/lib/wire/sets", "/var/lib/wire/sets/loose.set"].map(mode);
    assert_eq!(modes, [0o755, 0o700, 0o600]);
    assert_eq!(host.sh("ls -A /var/lib/wire/sets"), "loose.set\n");
}

/// A missing capability is named, with the line that gives it, and nothing has happened; to list a set takes none.
#[test]
fn changing_a_set_takes_capabilities() {
    let host = house();
    let drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    for args in
        [&["set", "add", "loose", "203.0.113.9"][..], &["set", "del", "loose", "203.0.113.9"], &["set", "refresh"]]
    {
        let output = host.wire_under(&drop, args).expect(1);
        assert!(output.stderr.contains("CAP_NET_ADMIN"), "{args:?}: {}", output.stderr);
    }
    assert_eq!(host.sh("ls -A /var/lib"), "");
    host.wire_under(&drop, &["set", "list", "loose"]).expect(0);
}

/// Names are asked at `up` and by `refresh`, all that is answered is in the set, and the last good answer stays whatever goes
/// wrong afterwards.
#[test]
fn names_are_asked_and_their_last_good_answer_stays() {
    let host = house();
    let server = NameServer::start(&host);
    let own = ["192.0.2.0/24 topology", "198.51.100.4 topology"];

    // Nothing was ever known: nobody is in it, and it is said.
    for (zone, why) in
        [("SERVFAIL", "SERVFAIL"), ("", "no such name"), ("anna.example.net CNAME x.net", "it has no address")]
    {
        server.zone(zone);
        let output = host.wire(&["set", "refresh", "players"]).expect(0);
        assert!(output.stderr.contains("`anna.example.net` of set `players`"), "{}", output.stderr);
        assert!(output.stderr.contains(why) && output.stderr.contains("nothing is known"), "{}", output.stderr);
        assert_eq!(list(&host, "players"), own);
        assert_eq!(list(&host, "friends"), [""; 0]);
    }

    server.zone("anna.example.net A 203.0.113.5\nanna.example.net A 203.0.113.6\nanna.example.net AAAA 2001:db8::5");
    let up = host.wire(&["up"]).expect(0);
    assert!(!up.stderr.contains("anna"), "{}", up.stderr);
    let good = [&own[..], &["203.0.113.5 dns", "203.0.113.6 dns", "2001:db8::5 dns"]].concat();
    assert_eq!(list(&host, "players"), good);
    let named = host.wire(&["--json", "set", "list", "players"]).expect(0).json();
    assert_eq!(
        named["elements"][2],
        json!({"address": "203.0.113.5", "from": "dns", "expires-in": null, "name": "anna.example.net"})
    );

    for (zone, why) in [
        ("SERVFAIL", "192.0.2.1 answers SERVFAIL"),
        ("SILENT", "no answer from 192.0.2.1"),
        ("", "no such name"),
        ("anna.example.net A 10.0.0.7", "10.0.0.7, a private address, which is refused"),
        ("anna.example.net A 127.0.0.1", "127.0.0.1, a loopback address, which is refused"),
    ] {
        server.zone(zone);
        for args in [&["set", "refresh", "players"][..], &["up"]] {
            let start = Instant::now();
            let output = host.wire(args).expect(0);
            assert!(output.stderr.contains(why), "{zone}: {args:?}: {}", output.stderr);
            assert!(start.elapsed() < Duration::from_secs(10), "{zone}: nobody waits that long");
            assert_eq!(list(&host, "players"), good, "{zone}");
        }
    }
    drop(server);
    let output = host.wire(&["set", "refresh"]).expect(0);
    assert!(output.stderr.contains("could not be looked up"), "{}", output.stderr);
    assert_eq!(list(&host, "players"), good, "without a server");
    let refused = host.wire(&["set", "del", "players", "203.0.113.5"]).expect(2);
    assert!(refused.stderr.contains("anna.example.net"), "{}", refused.stderr);

    // A name that is struck takes its addresses with it.
    let text = std::fs::read_to_string(host.path(TOPOLOGY)).expect("a topology");
    host.topology(&text.replace("dns = [\"anna.example.net\"]\ninterval", "file = \"/run/banned\"\ninterval"));
    host.wire(&["set", "refresh", "players"]).expect(0);
    assert_eq!(list(&host, "players"), own);
}

/// Forged answers (another id, another question, another sender) are no answers; what does not fit is asked for by TCP;
/// aliases are followed; a new answer replaces the old one; `/etc/hosts` goes first; private addresses are for those who say
/// so.
#[test]
fn answers_are_those_of_the_server() {
    let host = house();
    let server = NameServer::start(&host);
    let dns = |set| {
        host.wire(&["set", "refresh", set]).expect(0);
        let listed = list(&host, set);
        listed.into_iter().filter_map(|line| line.strip_suffix(" dns").map(str::to_owned)).collect::<Vec<_>>()
    };
    for (zone, wanted) in [
        ("anna.example.net A 203.0.113.5", &["203.0.113.5"][..]),
        ("FORGED\nanna.example.net A 203.0.113.7", &["203.0.113.7"]),
        (
            "TRUNCATED\nanna.example.net A 203.0.113.8\nanna.example.net AAAA 2001:db8::8",
            &["203.0.113.8", "2001:db8::8"],
        ),
        ("anna.example.net CNAME a.net\na.net CNAME b.net\nb.net A 203.0.113.9\nc.net A 6.6.6.6", &["203.0.113.9"]),
        ("anna.example.net A 203.0.113.5\nanna.example.net A 192.168.1.5", &["203.0.113.5"]),
    ] {
        server.zone(zone);
        assert_eq!(dns("players"), wanted, "{zone}");
    }
    server.zone("anna.example.net A 192.168.1.5\nanna.example.net AAAA ::1");
    assert_eq!(dns("friends"), ["192.168.1.5"], "private, but not loopback");
    host.write("/run/hosts", "203.0.113.77 Anna.example.net\n2001:db8::77 anna.example.net\n");
    assert_eq!(dns("players"), ["203.0.113.77", "2001:db8::77"]);
}

/// Where there is nothing to keep, nothing is made on the disk.
#[test]
fn nothing_is_kept_of_nothing() {
    let world = small();
    let host = Host::with(&world.nodes, &(world.topology + "[set.fixed]\nelements = [\"192.0.2.0/24\"]\n"));
    host.wire(&["up"]).expect(0);
    host.wire(&["set", "refresh"]).expect(0);
    host.wire(&["set", "del", "fixed", "203.0.113.9"]).expect(0);
    assert_eq!(list(&host, "fixed"), ["192.0.2.0/24 topology"]);
    assert_eq!(host.sh("ls -A /var/lib"), "");
}

/// A lab asks nobody, and keeps and reads nothing of the host's sets.
#[test]
fn a_lab_leaves_sets_alone() {
    let host = house();
    host.wire(&["set", "add", "loose", "203.0.113.9"]).expect(0);
    let before = host.sh("ls -lRn /var/lib; cat /var/lib/wire/sets/*");
    host.wire(&["lab"]).expect(0);
    assert_eq!(host.sh("ls -lRn /var/lib; cat /var/lib/wire/sets/*"), before);
}
