//! `wire up --confirm`: what nobody confirms is undone, whatever has become of the terminal; what is confirmed stays; and the one
//! who waits stands in nobody's way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::{major, minor};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::host::{Host, Running, TOPOLOGY, WIRE, until};
use crate::world::small;

const PENDING: &str = "/run/wire/pending.json";

/// The small house changed in everything that a file can say: a wire gone, a wire more, another subnet, another name of a device,
/// no IPv6, another MTU, more and fewer flows, another way out.
const CHANGED: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31", allow = ["tcp/22"] },
  { name = "edge-web", ends = ["edge", "web"], subnet = "172.16.9.0/31", allow = ["tcp/8080"], mtu = 1280, ifname = ["to-web", "up"] },
  { name = "shop-web-database", ends = ["shop", "web"], subnet = "10.254.1.0/31", allow-back = ["tcp/5432", "tcp/5433"] },
  { name = "host-shop", ends = ["host", "shop"], subnet = "192.168.103.0/31", subnet6 = "fd00:103::/127", publish = ["tcp/443"] },
]

[host]
uplinks = ["eth0"]
policy = "all"

[module]
gates = ["edge"]
shops = ["web", "shop", "vault"]

[hub.edge]
zone = "public"

[node.web]
egress = ["tcp/443"]
"#;

fn is_pending(host: &Host) -> bool {
    host.path(PENDING).exists()
}

#[track_caller]
fn until_undone(host: &Host) {
    until("the change is undone", || !is_pending(host));
}

/// Who holds the file of the change that waits.
pub fn waiting(host: &Host) -> Option<i32> {
    let file = std::fs::metadata(host.path(PENDING)).ok()?;
    let (major, minor) = (major(file.dev()), minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let locks = std::fs::read_to_string("/proc/locks").expect("every kernel lists its locks");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[1] == "FLOCK" && words[5] == place).then(|| words[4].parse().expect("a pid"))
    })
}

fn remembered(host: &Host) -> Value {
    let text = std::fs::read_to_string(host.path("/run/wire/remembered.json")).unwrap_or("null".to_owned());
    serde_json::from_str(&text).expect("JSON")
}

/// A wired small house.
fn house() -> Host {
    let host = small().host();
    host.wire(&["up"]).expect(0);
    host
}

/// What nobody confirms is undone: links, routes, rules, settings and what is remembered of them are as before, be it the
/// first wiring of all or a change of everything.
#[test]
fn what_nobody_confirms_is_undone() {
    let host = small().host();
    let bare = host.dump();
    let up = host.wire(&["--json", "up", "--confirm", "1s"]).expect(0).json();
    assert!(!up["done"].as_array().expect("a list").is_empty() && up["undone-in"].is_u64(), "{up:#}");
    until_undone(&host);
    host.dump().expect(&bare, "the first up, undone");
    assert_eq!(remembered(&host), json!(null));
    let told = host.wire(&["confirm"]).expect(1);
    assert!(told.stderr.contains("nobody confirmed the change within 1s: it was undone"), "{}", told.stderr);

    host.wire(&["up"]).expect(0);
    // A tunnel that somebody runs in the hub, and a namespace with settings of its own.
    host.sh("set -e
             ip -n edge link add wg0 type veth peer name wg0-far
             ip -n edge link set wg0 up
             ip netns exec web sysctl -qw net.ipv4.conf.all.rp_filter=0");
    host.wire(&["up"]).expect(0);
    let (before, known) = (host.dump(), remembered(&host));
    host.topology(CHANGED);
    for round in 1..=2 {
        let up = host.wire(&["--json", "up", "--confirm", "1s"]).expect(0).json();
        assert!(up["done"].as_array().expect("a list").len() > 20, "{up:#}");
        until_undone(&host);
        host.dump().expect(&before, &format!("a change of everything, undone, round {round}"));
        assert_eq!(remembered(&host), known, "round {round}");
    }
    // And what is remembered is still good for the way back.
    host.topology(&small().topology);
    host.wire(&["down"]).expect(0);
    host.sh("ip -n edge link del wg0; ip netns exec web sysctl -qw net.ipv4.conf.all.rp_filter=0");
    let settings = |fact: &str| !fact.contains("web setting ipv4/conf/all/rp_filter");
    host.dump().only(settings).expect(&bare.only(settings), "down at last");
}

/// What is confirmed in time stays, and nobody waits any more.
#[test]
fn what_is_confirmed_stays() {
    let host = house();
    host.topology(CHANGED);
    let up = host.wire(&["up", "--confirm", "2m"]).expect(0);
    assert!(up.stderr.contains("unless `wire confirm` comes before"), "{}", up.stderr);
    let after = host.dump();
    let pid = waiting(&host).expect("somebody waits");
    let confirmed = host.wire(&["--json", "confirm"]).expect(0).json();
    assert_eq!(confirmed["confirmed"], json!(true));
    assert!(!is_pending(&host));
    until("nobody waits", || kill(Pid::from_raw(pid), None).is_err());
    host.dump().expect(&after, "confirmed");
    let again = host.wire(&["confirm"]).expect(1);
    assert!(again.stderr.contains("no change waits for confirmation"), "{}", again.stderr);
}

/// Nothing waits where nothing was changed, where nothing ever was, and where the time makes no sense.
#[test]
fn where_nothing_waits_it_is_said() {
    let host = small().host();
    let told = host.wire(&["--json", "confirm"]).expect(1);
    assert_eq!(told.json()["error"], "no change waits for confirmation");
    host.wire(&["up"]).expect(0);
    let up = host.wire(&["up", "--confirm", "60s"]).expect(0);
    assert!(up.stderr.contains("nothing was changed, so nothing waits"), "{}", up.stderr);
    assert!(!is_pending(&host));
    for term in ["0s", "60", "25h", "-1s", "soon"] {
        let output = host.wire(&["up", &format!("--confirm={term}")]).expect(2);
        assert!(output.stderr.contains("--confirm"), "{term}: {}", output.stderr);
    }
    // It asks for no file: that may be wrong by now.
    host.topology("nonsense");
    host.wire(&["confirm"]).expect(1);
}

/// Who waits is alone: a session of his own without a terminal, nothing open but the file and its directory, deaf to what a
/// terminal says when it goes.
#[test]
fn who_waits_holds_nothing() {
    let host = house();
    host.topology(CHANGED);
    // That this comes back at all says that no pipe is held.
    host.wire(&["up", "--confirm", "3m"]).expect(0);
    let pid = waiting(&host).expect("somebody waits");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let (state, session, terminal) = (fields[0], fields[3], fields[4]);
    assert!(["S", "R"].contains(&state) && session == pid.to_string() && terminal == "0", "{stat}");
    let link = |path: String| std::fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    for fd in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").map(|fd| fd.expect("it runs").file_name())
    {
        let number: u32 = fd.to_str().and_then(|text| text.parse().ok()).expect("a number");
        let path = link(format!("/proc/{pid}/fd/{number}"));
        let meant = match number {
            0..=2 => path.ends_with("dev/null"),
            _ => path.ends_with(&PENDING[1..]) || path.ends_with("run/wire"),
        };
        assert!(meant, "{number}: {}", path.display());
    }
    assert_eq!(link(format!("/proc/{pid}/cwd")).to_str(), Some("/"));
    kill(Pid::from_raw(pid), Signal::SIGHUP).expect("it runs");
    assert_eq!(waiting(&host), Some(pid));
    host.wire(&["confirm"]).expect(0);
}

/// The terminal goes, and all that was started from it: the change is undone all the same.
#[test]
fn a_terminal_that_goes_takes_nobody_along() {
    let host = house();
    let before = host.dump();
    host.topology(CHANGED);
    let script = format!("echo $$; {WIRE} -f {TOPOLOGY} up --confirm 4s >/dev/null 2>&1; echo done; exec cat");
    let mut shell = host.start("host", &["setsid", "sh", "-c", &script]);
    let mut lines = BufReader::new(shell.0.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let leader = Pid::from_raw(lines.next().expect("a line").parse().expect("a pid"));
    assert_eq!(lines.next().as_deref(), Some("done"));
    let waits = waiting(&host).expect("somebody waits");
    for signal in [Signal::SIGHUP, Signal::SIGCONT, Signal::SIGKILL] {
        let _ = killpg(leader, signal);
    }
    until("the shell is gone", || shell.0.try_wait().expect("a child").is_some());
    assert_eq!(waiting(&host), Some(waits));
    until_undone(&host);
    host.dump().expect(&before, "undone without a terminal");
}

/// `up` itself is killed in the midst of its work, at several places: what it had done is undone.
#[test]
fn an_up_that_is_killed_is_undone_too() {
    let host = house();
    let before = host.dump();
    host.topology(CHANGED);
    const SENDS: &str = "sendto,sendmsg,sendmmsg";
    // Without -f: the one who waits is not traced, and so not killed.
    let traced = |inject: &str, out: &str| {
        let (trace, inject) = (format!("trace={SENDS}"), format!("inject={SENDS}:{inject}"));
        let strace = ["strace", "-qq", "-o", out, "-e", &trace, "-e", "signal=none", "-e", &inject];
        let code = host.wire_under(&strace, &["up", "--confirm", "1s"]).code;
        let armed = is_pending(&host);
        until_undone(&host);
        host.dump().expect(&before, &inject);
        (code, armed)
    };
    assert_eq!(traced("delay_enter=0", "/run/trace").0, 0);
    let sends = host.sh("wc -l </run/trace").trim().parse::<usize>().expect("a count");
    let mut killed = 0;
    for place in (1..=8).map(|part| sends * part / 9) {
        let (code, armed) = traced(&format!("signal=KILL:when={place}"), "/dev/null");
        assert_eq!(code, 137);
        killed += usize::from(armed);
    }
    assert!(killed > 2, "it was never killed in its midst");
}

/// Nobody waits for who waits: other commands do their work at once, and say what will become of it.
#[test]
fn others_do_their_work_meanwhile() {
    let host = house();
    host.topology(&small().topology.replace("allow = [\"tcp/80\"] }", "allow = [\"tcp/80\", \"tcp/81\"] }"));
    host.wire(&["up", "edge-web", "--confirm", "3m"]).expect(0);

    let second = host.wire(&["up", "--confirm", "60s"]).expect(1);
    assert!(second.stderr.contains("another change waits for confirmation, for"), "{}", second.stderr);
    assert!(second.stderr.contains("hint: `wire confirm` keeps it; or wait"), "{}", second.stderr);

    let warned = |output: &str| output.contains("warning: a change waits for confirmation and is undone in ");
    let up = host.wire(&["up"]).expect(0);
    assert!(warned(&up.stderr), "{}", up.stderr);
    host.wire(&["audit"]).expect(0);
    let down = host.wire(&["down", "shop-web-database"]).expect(0);
    assert!(warned(&down.stderr), "{}", down.stderr);
    host.wire(&["confirm"]).expect(0);
    let up = host.wire(&["up"]).expect(0);
    assert!(!warned(&up.stderr), "{}", up.stderr);
}

/// Undone is what that `up` has changed, and nothing else: neither what a hand has broken elsewhere, nor what another `up` has
/// done, nor what somebody has put into a set.
#[test]
fn nothing_else_is_undone() {
    let sets = "\n[set.friends]\nelements = [\"198.51.100.4\"]\n";
    let small = small();
    let text = |flows: &str, friends: &str| {
        let text = small.topology.replace("allow = [\"tcp/80\"] }", &format!("allow = [{flows}] }}"));
        text + &sets.replace("\"198.51.100.4\"", friends)
    };
    let friendly = "{ flow = \"tcp/80\", from = \"@friends\" }";
    let publish = |text: String| text.replace("publish = [\"tcp/80\"]", &format!("publish = [{friendly}]"));
    let host = Host::with(&small.nodes, &publish(text("\"tcp/80\"", "\"198.51.100.4\"")));
    host.wire(&["up"]).expect(0);
    let friends = || host.sh("nft list set inet wire set.friends").replace(['\t', '\n'], " ");
    assert!(friends().contains("198.51.100.4"), "{}", friends());

    // Broken by hand, far from the wire that is changed.
    host.sh("set -e
             ip -n shop link set shop-web-database down
             ip netns exec vault nft flush chain inet wire forward");
    let broken = host.dump_nodes(&["shop", "vault", "lan"]);
    let before = host.dump_nodes(&["web"]);
    host.topology(&publish(text("\"tcp/80\", \"tcp/8080\"", "")));
    host.wire(&["up", "edge-web", "host-edge", "--confirm", "8s"]).expect(0);
    assert!(!friends().contains("198.51.100"), "{}", friends());
    let added = host.wire(&["set", "add", "friends", "203.0.113.5", "198.51.100.5", "--for", "3m"]);
    // Somebody else changes another wire in the meantime.
    host.topology(&publish(text("\"tcp/80\", \"tcp/8080\"", "")).replace("mtu = 1400", "mtu = 1300"));
    host.wire(&["up", "edge-shop-and-its-till"]).expect(0);
    assert!(is_pending(&host), "this machine is too slow for the test");
    added.expect(0);
    until_undone(&host);
    host.dump_nodes(&["web"]).expect(&before, "undone");
    assert!(!host.rules("edge").contains("8080"), "{}", host.rules("edge"));
    let now = host.dump_nodes(&["shop", "vault", "lan"]);
    let other = |fact: &str| !fact.contains("eth0") && !fact.starts_with("shop nft ");
    now.only(other).expect(&broken.only(other), "what a hand has broken");
    assert_eq!(host.link("shop", "eth0")["mtu"], 1300, "another up");
    for address in ["198.51.100.4", "198.51.100.5", "203.0.113.5"] {
        let merged = friends().contains(address)
            || address.starts_with("198") && friends().contains("198.51.100.4-198.51.100.5");
        assert!(merged, "{address}: {}", friends());
    }
    assert!(host.wire(&["confirm"]).expect(1).stderr.contains("it was undone"));
}

/// A node that came back in another namespace meanwhile gets nothing that was another's, and all others are as before.
#[test]
fn a_node_that_was_replaced_is_left_alone() {
    let host = house();
    let others = ["host", "edge", "vault", "lan"];
    let is_webs = |fact: &str| fact.contains("edge-web");
    let before = host.dump_nodes(&others).only(|fact| !is_webs(fact) || fact.contains(" nft "));
    host.topology(CHANGED);
    host.wire(&["up", "--confirm", "4s"]).expect(0);
    host.sh("ip netns del web; ip netns add web");
    let fresh = host.dump_nodes(&["web"]);
    assert!(is_pending(&host), "this machine is too slow for the test");
    until_undone(&host);
    host.dump_nodes(&["web"]).expect(&fresh, "another namespace");
    let now = host.dump_nodes(&others).only(|fact| !is_webs(fact) || fact.contains(" nft "));
    now.expect(&before, "the others");
    host.topology(&small().topology);
    host.wire(&["up"]).expect(0);
    assert_eq!(host.wire(&["--json", "audit"]).expect(0).json()["deviations"], json!([]));
}

/// Who waits is killed: the change stays, and that is said.
#[test]
fn when_who_waits_is_killed_the_change_stays() {
    let host = house();
    host.topology(CHANGED);
    host.wire(&["up", "--confirm", "3m"]).expect(0);
    let after = host.dump();
    kill(Pid::from_raw(waiting(&host).expect("somebody waits")), Signal::SIGKILL).expect("it runs");
    until("nobody waits", || waiting(&host).is_none());
    host.dump().expect(&after, "the change stays");
    // Nobody is kept from another one.
    host.topology(&small().topology);
    host.wire(&["up", "--confirm", "3m"]).expect(0);
    kill(Pid::from_raw(waiting(&host).expect("somebody waits")), Signal::SIGKILL).expect("it runs");
    until("nobody waits", || waiting(&host).is_none());
    let told = host.wire(&["confirm"]).expect(0);
    assert!(told.stderr.contains("whoever was to undo the change had ended before"), "{}", told.stderr);
}

/// An `up` that fails in part is undone as well, and says so.
#[test]
fn what_was_done_of_a_failure_is_undone() {
    let host = house();
    host.sh("ip -n shop link add host-shop type veth peer name other");
    let before = host.dump();
    host.topology(CHANGED);
    let up = host.wire(&["up", "--confirm", "1s"]).expect(1);
    assert!(up.stderr.contains("host-shop") && up.stderr.contains("unless `wire confirm` comes"), "{}", up.stderr);
    until_undone(&host);
    host.dump().expect(&before, "undone");
}

/// A connection that only the change had let begin ends with it, and one that was allowed before goes on.
#[test]
fn connections_end_with_what_let_them_begin() {
    let host = house();
    host.topology(&small().topology.replace("allow = [\"tcp/80\"] }", "allow = [\"tcp/80\", \"tcp/81\"] }"));
    let begin = |port: &str| {
        let mut server = host.start("web", &["busybox", "nc", "-l", "-p", port]);
        let listens = format!("ip netns exec web busybox netstat -tln | grep -q ':{port} '");
        until("the port is listened on", || host.run("host", &["sh", "-c", &listens]).code == 0);
        let heard = BufReader::new(server.0.stdout.take().expect("a pipe")).lines();
        (host.start("edge", &["busybox", "nc", "172.16.1.1", port]), server, heard)
    };
    let say = |client: &mut Running, word: &str| {
        writeln!(client.0.stdin.as_mut().expect("a pipe"), "{word}").expect("it runs");
    };
    let (mut old, _at_web, mut heard) = begin("80");
    say(&mut old, "one");
    assert_eq!(heard.next().expect("a line").expect("text"), "one");
    host.wire(&["up", "--confirm", "4s"]).expect(0);
    let (mut new, _too, mut also_heard) = begin("81");
    say(&mut new, "one");
    assert_eq!(also_heard.next().expect("a line").expect("text"), "one");
    assert!(is_pending(&host), "this machine is too slow for the test");
    until_undone(&host);
    let denied = || {
        let listed = host.sh("ip netns exec edge nft -j list counter inet wire denied.edge-web");
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["nftables"][1]["counter"]["packets"].as_u64().expect("a count")
    };
    let before = denied();
    say(&mut new, "two");
    until("what was let begin is denied", || denied() > before);
    say(&mut old, "two");
    assert_eq!(heard.next().expect("a line").expect("text"), "two");
}

/// Who would be locked out is told beforehand, by `plan` and by `up`, and only by what changes that.
#[test]
fn who_is_locked_out_is_told() {
    let host = house();
    let over_ssh = |connection: &str, args: &[&str]| {
        let connection = format!("SSH_CONNECTION={connection}");
        host.run("host", &[&["env", &connection, WIRE, "-f", TOPOLOGY], args].concat())
    };
    let outside = "198.51.100.7 50000 192.0.2.2 22";
    let cut = "warning: the change cuts the SSH session that it is typed in: 198.51.100.7 to tcp/22 of 192.0.2.2\n\
               hint: add `allow = [\"tcp/22\"]` below [host]";
    host.topology(&small().topology.replace("uplinks = [\"eth0\"]", "uplinks = [\"eth0\"]\npolicy = \"all\""));
    let plan = over_ssh(outside, &["plan"]).expect(3);
    assert!(plan.stderr.contains(&format!("{cut}, or use `--confirm 60s`\n")), "{}", plan.stderr);
    assert!(!host.wire(&["plan"]).expect(3).stderr.contains("SSH"));
    // As under doas, where the shell has the variable and the command does not.
    let script = format!("env -u SSH_CONNECTION {WIRE} -f {TOPOLOGY} plan; exit $?");
    let plan = host.run("host", &["env", &format!("SSH_CONNECTION={outside}"), "sh", "-c", &script]).expect(3);
    assert!(plan.stderr.contains(cut), "{}", plan.stderr);
    let up = over_ssh(outside, &["up", "--confirm", "3m"]).expect(0);
    assert!(up.stderr.contains(&format!("{cut}\n")), "{}", up.stderr);
    assert!(!over_ssh(outside, &["plan"]).expect(0).stderr.contains("SSH"), "it is cut already");
    host.wire(&["confirm"]).expect(0);
}
