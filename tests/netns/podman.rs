//! Real podman containers, rootful and rootless, found by `wire` as on anybody's host and observed by `ip` in the namespaces
//! of the processes that podman names. What every node's links must be is written down here once, in `WIRES`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

pub mod machine;

use machine::{Machine, Output, Owner, TOPOLOGY, until};

/// A homelab: name, first end, second end, the first end's address in a /31.
const WIRES: [(&str, &str, &str, [u8; 4]); 15] = [
    ("host-pub", "host", "reverse-proxy-edge", [192, 168, 100, 0]),
    ("host-priv", "host", "vpn-edge", [192, 168, 101, 0]),
    ("pub-lbmt-darkroom", "reverse-proxy-edge", "lbmt-darkroom", [172, 16, 1, 0]),
    ("pub-lbmt-weblog", "reverse-proxy-edge", "lbmt-weblog", [172, 16, 2, 0]),
    ("pub-lbmt-shop", "reverse-proxy-edge", "lbmt-shop", [172, 16, 3, 0]),
    ("priv-git-ssh", "vpn-edge", "git-ssh", [10, 1, 1, 0]),
    ("pub-git-web", "reverse-proxy-edge", "git-web", [172, 16, 4, 0]),
    ("priv-master-ssh", "vpn-edge", "master-ssh", [10, 1, 2, 0]),
    ("priv-master-explorer-web", "vpn-edge", "master-explorer-web", [10, 1, 3, 0]),
    ("pub-minecraft-server", "reverse-proxy-edge", "minecraft-server", [172, 16, 5, 0]),
    ("priv-minecraft-ttyd-rcon", "vpn-edge", "minecraft-ttyd-rcon", [10, 1, 4, 0]),
    ("pub-minecraft-map", "reverse-proxy-edge", "minecraft-map", [172, 16, 6, 0]),
    ("priv-navidrome-server", "vpn-edge", "navidrome-server", [10, 1, 5, 0]),
    ("priv-navidrome-web-client", "vpn-edge", "navidrome-web-client", [10, 1, 6, 0]),
    ("navidrome-server-client", "navidrome-server", "navidrome-web-client", [10, 254, 1, 0]),
];

const MODULES: [(&str, &[&str]); 6] = [
    ("michel", &["reverse-proxy-edge", "vpn-edge", "reverse-proxy-stats"]),
    ("frangisk", &["lbmt-darkroom", "lbmt-weblog", "lbmt-shop", "lbmt-shop-backup"]),
    ("eligius", &["git-ssh", "git-web"]),
    ("isidore", &["master-ssh", "master-explorer-web", "master-backup"]),
    ("akitio", &["minecraft-server", "minecraft-ttyd-rcon", "minecraft-map", "minecraft-backup"]),
    ("cecilia", &["navidrome-server", "navidrome-web-client"]),
];

fn containers() -> impl Iterator<Item = &'static str> {
    MODULES.iter().flat_map(|(_, nodes)| nodes.iter().copied())
}

fn rootful(_: &str) -> Owner {
    None
}

fn rootless(_: &str) -> Owner {
    Some("anna")
}

/// The hubs are root's, one module is another user's than the rest.
fn mixed(container: &str) -> Owner {
    match container {
        "reverse-proxy-edge" | "vpn-edge" => None,
        "navidrome-server" | "navidrome-web-client" => Some("bert"),
        _ => Some("anna"),
    }
}

/// The topology file, for containers of these owners.
fn topology(owner: fn(&str) -> Owner) -> String {
    let mut text = String::from("version = 1\n");
    for (name, first, second, [a, b, c, d]) in WIRES {
        let _ = writeln!(
            text,
            "[[wire]]\nname = {name:?}\nends = [{first:?}, {second:?}]\nsubnet = \"{a}.{b}.{c}.{d}/31\""
        );
        text.push_str("allow = [\"tcp/80\"]\n");
    }
    // One user for most of them, and the others by name.
    let usual = owner("lbmt-shop");
    if let Some(user) = usual {
        let _ = writeln!(text, "[podman]\nuser = {user:?}");
    }
    for container in containers().filter(|container| owner(container) != usual) {
        let _ = writeln!(text, "[node.{container}]\nuser = {:?}", owner(container).unwrap_or("root"));
    }
    text.push_str("[hub.reverse-proxy-edge]\nzone = \"public\"\n[hub.vpn-edge]\nzone = \"private\"\n[module]\n");
    for (module, nodes) in MODULES {
        let _ = writeln!(text, "{module} = {nodes:?}");
    }
    text
}

/// A machine on which the whole homelab runs.
struct Homelab {
    machine: Machine,
    owner: fn(&str) -> Owner,
}

impl Homelab {
    fn new(owner: fn(&str) -> Owner) -> Homelab {
        let machine = Machine::new();
        let owners = BTreeSet::from_iter(containers().map(owner));
        machine.image(owners.iter().copied());
        for user in owners {
            let theirs: Vec<_> = containers().filter(|container| owner(container) == user).collect();
            machine.start(user, &theirs, "--restart=always");
        }
        machine.write(TOPOLOGY, &topology(owner));
        Homelab { machine, owner }
    }

    fn wire(&self, args: &[&str]) -> Output {
        self.machine.wire(args)
    }

    /// By a `podman` command of the owner's, such as `restart -t 0`.
    fn podman(&self, command: &str, container: &str) {
        self.machine.podman((self.owner)(container), &format!("{command} {container}"));
    }

    fn pid(&self, container: &str) -> u32 {
        self.machine.wait_for((self.owner)(container), container, None)
    }

    /// Restarts a container and waits until it is back.
    fn restart(&self, container: &str) {
        let before = self.pid(container);
        self.podman("restart -t 0", container);
        self.machine.wait_for((self.owner)(container), container, Some(before));
    }

    /// Kills a container's first process behind podman's back and waits until its policy has brought it back.
    fn kill(&self, container: &str) {
        let before = self.pid(container);
        self.machine.sh(None, &format!("kill -9 {before}"));
        self.machine.wait_for((self.owner)(container), container, Some(before));
    }

    /// Fails the test unless the host and every running container hold the links of the file and no others. Wires of nodes
    /// that do not run must be nowhere.
    #[track_caller]
    fn is_wired(&self) {
        let owners = BTreeSet::from_iter(containers().map(self.owner));
        let mut pids: BTreeMap<String, Option<u32>> = [("host".into(), None)].into();
        for user in owners {
            pids.extend(self.machine.pids(user).into_iter().map(|(name, pid)| (name, Some(pid))));
        }
        let mut expected: BTreeMap<&str, BTreeMap<String, String>> =
            pids.keys().map(|node| (node.as_str(), BTreeMap::new())).collect();
        for (name, first, second, [a, b, c, d]) in WIRES {
            if expected.contains_key(first) && expected.contains_key(second) {
                for (node, d) in [(first, d), (second, d + 1)] {
                    let ends = expected.entry(node).or_default();
                    ends.insert(name.into(), format!("up {a}.{b}.{c}.{d}/31"));
                }
            }
        }
        let seen: BTreeMap<&str, _> =
            pids.iter().map(|(node, pid)| (node.as_str(), self.machine.links(*pid))).collect();
        assert_eq!(seen, expected);
    }

    /// Fails the test unless `audit` finds these wires, and no others, different from the file, `up` puts them right, and
    /// there is nothing left to do then.
    #[track_caller]
    fn is_repaired(&self, broken: &[&str]) {
        let audit = self.wire(&["--json", "audit"]).expect(3).json();
        let wires = audit["wires"].as_array().expect("a list of wires");
        let differing =
            wires.iter().filter(|wire| wire["state"] != "up").map(|wire| wire["name"].as_str().unwrap_or_default());
        assert_eq!(BTreeSet::from_iter(differing), BTreeSet::from_iter(broken.iter().copied()), "{audit}");
        for name in broken {
            let deviations = audit["deviations"].as_array().expect("a list of deviations");
            assert!(deviations.iter().any(|deviation| deviation["wire"] == *name), "{name} is not named: {audit}");
        }
        self.wire(&["up"]).expect(0);
        self.is_wired();
        self.is_settled();
    }

    /// Fails the test unless another `up` has nothing to do, and whatever runs has its rules.
    #[track_caller]
    fn is_settled(&self) {
        let again = self.wire(&["--json", "up"]).expect(0).json();
        assert_eq!((&again["done"], &again["failed"]), (&json!([]), &json!([])), "{again}");
        self.wire(&["audit"]).expect(0);
        for user in BTreeSet::from_iter(containers().map(self.owner)) {
            for (container, pid) in self.machine.pids(user) {
                let tables = self.machine.sh(None, &format!("nsenter -t {pid} -n nft list tables"));
                assert_eq!(tables.trim(), "table inet wire", "{container}");
            }
        }
    }

    /// The wires that wait, with the nodes they wait for, as `up` names them.
    #[track_caller]
    fn waiting(&self) -> Vec<(String, String)> {
        let up = self.wire(&["--json", "up"]).expect(0).json();
        let text = |value: &Value| value.as_str().expect("a name").to_owned();
        let list = up["waiting"].as_array().expect("a list");
        list.iter().map(|one| (text(&one["wire"]), text(&one["node"]))).collect()
    }
}

/// The machine that the tests pretend to have is one: podman's default places are fresh, its containers are invisible outside,
/// and with the value everything is gone.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn the_machine_is_apart() {
    let machine = Machine::new();
    machine.image([None, Some("anna")]);
    for owner in [None, Some("anna")] {
        assert!(machine.pids(owner).is_empty());
        machine.start(owner, &["a", "b"], "");
        let pids = machine.pids(owner);
        assert_eq!(pids.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(pids.values().all(|&pid| machine.links(Some(pid)).is_empty()));
    }
    assert!(machine.links(None).is_empty());
    let map = |owner: Owner| machine.sh(None, &format!("cat /proc/{}/uid_map", machine.pids(owner)["a"]));
    assert_eq!(map(None).split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
    assert_eq!(map(Some("anna")).split_whitespace().take(3).collect::<Vec<_>>(), ["0", "59001", "1"]);

    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let inside = namespace(&machine.pid().to_string());
    let inhabitants = || {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        processes.filter(|process| namespace(&process.file_name().to_string_lossy()) == inside).count()
    };
    assert!(inhabitants() >= 5, "the first process and four monitors");
    drop(machine);
    until("the machine's processes end", || (inhabitants() == 0).then_some(()));
}

/// What all of the following rests on: a container that comes back has another namespace, without links.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_container_that_comes_back_is_empty() {
    let machine = Machine::new();
    machine.image([None, Some("anna")]);
    for owner in [None, Some("anna")] {
        machine.start(owner, &["a"], "--restart=always");
        let mut pid = machine.pids(owner)["a"];
        for act in ["podman restart -t 0 a", "kill -9 $(podman inspect -f '{{.State.Pid}}' a)"] {
            machine.sh(None, &format!("nsenter -t {pid} -n ip link add x type veth peer name y"));
            assert_eq!(machine.links(Some(pid)).len(), 2);
            machine.sh(owner, act);
            pid = machine.wait_for(owner, "a", Some(pid));
            assert!(machine.links(Some(pid)).is_empty(), "{act}");
        }
    }
}

/// What the tests observe can be had: somebody who makes every link by hand, with `ip`, passes. Who lost one does not.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn wires_made_by_hand_are_seen() {
    let lab = Homelab::new(mixed);
    let mut script = String::new();
    for (number, (name, first, second, [a, b, c, d])) in WIRES.into_iter().enumerate() {
        let [first, second] = [first, second].map(|node| if node == "host" { 1 } else { lab.pid(node) });
        let device = format!("w{number}");
        let _ = writeln!(script, "ip link add {device} netns {first} type veth peer name {device} netns {second}");
        for (pid, d) in [(first, d), (second, d + 1)] {
            let _ = writeln!(
                script,
                "nsenter -t {pid} -n ip link property add dev {device} altname {name}
                 nsenter -t {pid} -n sh -c 'echo 1 >/proc/sys/net/ipv6/conf/{device}/disable_ipv6'
                 nsenter -t {pid} -n ip address add {a}.{b}.{c}.{d}/31 dev {device}
                 nsenter -t {pid} -n ip link set {device} up"
            );
        }
    }
    lab.machine.sh(None, &script);
    lab.is_wired();
    lab.restart("git-ssh");
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.is_wired()));
    assert!(seen.is_err(), "a wire is missing and nobody notices");
}

/// Rootful containers, by a `wire` with an empty environment: the files' way, podman's socket, podman's program.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn rootful_containers_are_wired() {
    is_wired_by_every_way(rootful);
}

/// The same with all containers of one user without privileges.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn rootless_containers_are_wired() {
    is_wired_by_every_way(rootless);
}

/// The same with hubs of root's and leaves of two users.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn containers_of_several_users_are_wired() {
    is_wired_by_every_way(mixed);
}

fn is_wired_by_every_way(owner: fn(&str) -> Owner) {
    let lab = Homelab::new(owner);
    lab.wire(&["up"]).expect(0);
    lab.is_wired();
    lab.is_settled();
    lab.wire(&["down"]).expect(0);
    assert!(lab.machine.links(None).is_empty(), "down");
    lab.machine.wire_without_state(&["up"]).expect(0);
    lab.is_wired();
    lab.wire(&["down"]).expect(0);
    for user in BTreeSet::from_iter(containers().map(owner)) {
        lab.machine.serve_podman(user);
    }
    lab.machine.wire_without_state(&["up"]).expect(0);
    lab.is_wired();
    lab.is_settled();
}

/// A packet takes the wire: the far end's server answers over it.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_wired_container_answers() {
    let lab = Homelab::new(mixed);
    lab.wire(&["up"]).expect(0);
    let answer = |of: u32| {
        let script = format!("nsenter -t {of} -n timeout 5 busybox nc 10.1.5.1 80 </dev/null || :");
        lab.machine.sh(None, &script)
    };
    assert_eq!(answer(lab.pid("vpn-edge")).trim(), "navidrome-server");
    assert_eq!(answer(lab.pid("git-ssh")).trim(), "", "no wire leads there");
}

/// After a reboot, and before he logs in, a user has no directory below `/run/user`, and his podman cannot make it: that none of
/// his containers runs is no failure.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn who_is_not_logged_in_runs_nothing() {
    let machine = Machine::new();
    let anna = Some("anna");
    machine.image([anna]);
    for name in ["one", "two"] {
        machine.podman(anna, &format!("create -q --name {name} --network none localhost/image:1 sleep 1000"));
    }
    machine.write(
        TOPOLOGY,
        "version = 1\nwire = [{ name = \"cable\", ends = [\"one\", \"two\"], subnet = \"10.254.0.0/31\" }]\n\
         [podman]\nuser = \"anna\"\n[module]\nhome = [\"one\", \"two\"]\n",
    );
    machine.sh(None, "pkill -u anna; rm -rf /run/user/59001");
    let report = machine.wire(&["--json", "up"]).expect(0).json();
    assert_eq!(report["waiting"].as_array().map(Vec::len), Some(2), "{report}");
    machine.wire(&["audit"]).expect(0);
}

/// A stopped container's wires wait, named with it; with `--strict`, or asked for by name, that is a failure.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_stopped_container_is_waited_for() {
    let lab = Homelab::new(mixed);
    lab.podman("stop -t 0", "git-ssh");
    assert_eq!(lab.waiting(), [("priv-git-ssh".into(), "git-ssh".into())]);
    lab.is_wired();
    let said = lab.wire(&["up"]).expect(0);
    assert!((said.stdout + &said.stderr).contains("git-ssh"));
    lab.wire(&["up", "--strict"]).expect(1);
    lab.wire(&["up", "node:git-ssh"]).expect(1);
    let audit = lab.wire(&["--json", "audit"]).expect(0).json();
    let state = |wire: &Value| (wire["name"] == "priv-git-ssh").then(|| wire["state"].clone());
    assert_eq!(audit["wires"].as_array().expect("a list").iter().find_map(state), Some("waiting".into()));

    lab.podman("start", "git-ssh");
    lab.is_repaired(&["priv-git-ssh"]);
}

/// A container that does not exist is one that does not run, whoever it is said to belong to.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn an_unknown_container_is_waited_for() {
    let lab = Homelab::new(mixed);
    lab.podman("rm -f -t 0", "git-ssh");
    assert_eq!(lab.waiting(), [("priv-git-ssh".into(), "git-ssh".into())]);
    // Somebody else's of that name is not it.
    lab.machine.start(Some("bert"), &["git-ssh"], "");
    assert_eq!(lab.waiting(), [("priv-git-ssh".into(), "git-ssh".into())]);
    let stranger = lab.machine.pids(Some("bert"))["git-ssh"];
    assert!(lab.machine.links(Some(stranger)).is_empty());
}

/// A user that does not exist is an error that names it.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn an_unknown_user_is_an_error() {
    let machine = Machine::new();
    machine.write(TOPOLOGY, &topology(rootless).replace("anna", "nobody-of-that-name"));
    let said = machine.wire(&["up"]).expect(1);
    assert!(said.stderr.contains("`nobody-of-that-name`"), "{}", said.stderr);
    assert!(machine.links(None).is_empty());
}

/// A leaf that comes back, restarted or killed, is wired again, at both ends, and nothing else is touched.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_leaf_that_comes_back_is_wired_again() {
    let lab = Homelab::new(mixed);
    lab.wire(&["up"]).expect(0);
    lab.restart("git-ssh");
    lab.is_repaired(&["priv-git-ssh"]);
    lab.kill("lbmt-shop");
    lab.is_repaired(&["pub-lbmt-shop"]);
    lab.restart("navidrome-server");
    lab.is_repaired(&["priv-navidrome-server", "navidrome-server-client"]);
}

/// The same for a hub, with all of its wires.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_hub_that_comes_back_is_wired_again() {
    let lab = Homelab::new(rootful);
    lab.wire(&["up"]).expect(0);
    for (hub, come_back) in
        [("vpn-edge", Homelab::restart as fn(&Homelab, &str)), ("reverse-proxy-edge", Homelab::kill)]
    {
        come_back(&lab, hub);
        let its_own = WIRES.iter().filter(|(_, first, second, _)| [*first, *second].contains(&hub));
        lab.is_repaired(&its_own.map(|(name, ..)| *name).collect::<Vec<_>>());
    }
}

/// However often and in whatever order containers come back, also while `wire` is at work: one `up` afterwards is enough.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_hundred_returns_leave_no_trace() {
    let lab = Homelab::new(mixed);
    let names: Vec<_> = containers().collect();
    // A linear congruential generator (Knuth's MMIX constants): random enough, and the same every time.
    let mut random = 20_u64;
    let mut below = |limit: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % limit
    };
    for _ in 0..50 {
        let (first, second) = (names[below(names.len())], names[below(names.len())]);
        std::thread::scope(|scope| {
            scope.spawn(|| lab.restart(first));
            // What it finds half gone is a failure or waits; that is this run's business, and never a panic's.
            let up = lab.wire(&["up"]);
            assert!(!up.stderr.contains("panicked"), "{}", up.stderr);
        });
        lab.kill(second);
    }
    lab.wire(&["up"]).expect(0);
    lab.is_wired();
    lab.is_settled();
}

/// What a user writes into the runtime's state of his own container leads `wire` into no namespace but his: not the host's,
/// not that of a container of root's or of another user's.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_forged_state_is_refused() {
    let lab = Homelab::new(mixed);
    let machine = &lab.machine;
    machine.start(None, &["victim"], "");
    let apart = machine.background(None, "", "unshare -n sleep 1000000");
    let namespace = |pid: u32| machine.sh(None, &format!("readlink /proc/{pid}/ns/net"));
    until("a namespace of root's without a container", || (namespace(apart) != namespace(1)).then_some(()));
    let id = machine.podman(Some("anna"), "inspect -f '{{.Id}}' git-ssh");
    let status = format!("/run/user/59001/crun/{}/status", id.trim());
    let true_status = machine.sh(Some("anna"), &format!("cat {status}"));
    let targets = [1, apart, machine.pids(None)["victim"], lab.pid("vpn-edge"), lab.pid("navidrome-server")];
    for pid in targets {
        let before = machine.links(Some(pid));
        // The process's true time of birth, so that nothing but the owner gives the lie away.
        let born = machine.sh(None, &format!("cut -d' ' -f22 /proc/{pid}/stat"));
        let forged = format!("{{\"pid\":{pid},\"process-start-time\":{}}}", born.trim());
        machine.sh(Some("anna"), &format!("echo '{forged}' >{status}"));
        let said = lab.wire(&["up", "wire:priv-git-ssh"]);
        // Process 1 is no container for anybody: there the file is only not believed, and podman asked.
        if pid != 1 {
            let said = said.expect(1);
            assert!(said.stderr.contains("git-ssh") && said.stderr.contains("refused"), "{}", said.stderr);
            assert_eq!(machine.links(Some(pid)), before, "process {pid}");
        }
    }
    machine.sh(Some("anna"), &format!("echo '{}' >{status}", true_status.trim()));
    lab.wire(&["up"]).expect(0);
    assert_eq!(machine.links(Some(apart)), BTreeMap::new());
    assert_eq!(machine.links(Some(machine.pids(None)["victim"])), BTreeMap::new());
}

/// Asked for a user's containers, podman runs as that user with all of their groups, without a terminal, and with nothing of
/// the caller's in its environment.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn podman_is_asked_as_its_user() {
    let machine = Machine::new();
    machine.image([Some("anna")]);
    machine.write(TOPOLOGY, &topology(rootless));
    // What comes first on the path looks around and hands over.
    let script = "#!/bin/sh
        cd /run/user/59001
        { id; cut -d' ' -f7 /proc/$$/stat; tr '\\0' '\\n' </proc/$$/environ | sort; } >asked
        exec /usr/bin/podman \"$@\"\n";
    machine.sh(None, "mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin; echo music:x:59100:anna >>/etc/group");
    machine.write("/usr/local/sbin/podman", script);
    machine.sh(None, "chmod 755 /usr/local/sbin/podman");
    machine
        .wire_with(&["SECRET=x", "HOME=/root", "CONTAINERS_CONF=/run/nothing", "XDG_RUNTIME_DIR=/run"], &["up"])
        .expect(0);
    let asked = machine.sh(None, "cat /run/user/59001/asked");
    let expected = [
        "uid=59001(anna) gid=59001(anna) groups=59001(anna),59100(music)",
        "0",
        "HOME=/run/home/anna",
        "LANG=C",
        "LOGNAME=anna",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "USER=anna",
        "XDG_RUNTIME_DIR=/run/user/59001",
    ];
    assert_eq!(asked.lines().collect::<Vec<_>>(), expected);
}

/// A process that has got the pid of a container's is not that container, although podman takes it for it.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_recycled_pid_is_not_wired() {
    let lab = Homelab::new(rootful);
    let machine = &lab.machine;
    machine.podman(None, "rm -f -t 0 git-ssh");
    machine.start(None, &["git-ssh"], "--restart=no");
    let pid = lab.pid("git-ssh");
    let started: u64 = machine.sh(None, "date +%s").trim().parse().expect("a time");
    // Without its monitor nobody tells podman of the end.
    machine.sh(None, &format!("kill -9 $(podman inspect -f '{{{{.State.ConmonPid}}}}' git-ssh); kill -9 {pid}"));
    until("the process is gone", || (!machine.lives(pid)).then_some(()));
    // Clocks are compared where nothing better is left, and rounded: let the stranger be clearly younger.
    until("some seconds pass", || {
        (machine.sh(None, "date +%s").trim().parse::<u64>().ok()? > started + 4).then_some(())
    });
    let number = format!("echo {} >/proc/sys/kernel/ns_last_pid", pid - 1);
    until("the pid is handed out again", || {
        (machine.background(None, &number, "unshare -n sleep 1000000") == pid).then_some(())
    });
    assert_eq!(lab.waiting(), [("priv-git-ssh".into(), "git-ssh".into())]);
    assert!(machine.links(Some(pid)).is_empty());
    assert!(!machine.links(Some(lab.pid("vpn-edge"))).contains_key("priv-git-ssh"));
}
