//! `wire hook` as real podman and its runtime call it: what a container finds at its first instruction, by its own
//! eyes, and what is left when it has ended. Observed by `ip` and `nft` in the namespaces of the processes that podman
//! names.

use std::time::{Duration, Instant};

use crate::podman::machine::{Machine, Output, Owner, TOPOLOGY, until};

/// Where the program is in the machine: a hook's path must be root's alone.
const WIRE: &str = "/run/bin/wire";

/// What `podman run` exits with where the runtime does not start the container.
const REFUSED: i32 = 126;

/// A hub and two leaves, all wired to each other.
const HOUSE: &str = r#"
version = 1
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31" },
  { name = "edge-a", ends = ["edge", "a"], subnet = "172.16.1.0/31", allow = ["tcp/80"] },
  { name = "edge-b", ends = ["edge", "b"], subnet = "172.16.2.0/31", allow = ["tcp/80"] },
  { name = "a-b", ends = ["a", "b"], subnet = "10.254.0.0/31", allow = ["tcp/80"] },
]
[host]
uplinks = ["up0"]
[hub.edge]
zone = "x"
[module]
everyone = ["edge", "a", "b", "sharer"]
[node.a]
egress = ["tcp/443"]
[node.sharer]
shares = "a"
"#;

/// What `a` sees of itself when all is well.
const WIRED: &str = "10.254.0.0/31 a-b 172.16.1.1/31 eth0 default 172.16.1.0 eth0";

/// A machine with the program, a topology and the image.
struct House(Machine);

impl House {
    fn new(topology: &str, users: &[Owner]) -> House {
        let machine = Machine::new();
        let program = env!("CARGO_BIN_EXE_wire");
        machine.sh(
            None,
            &format!(
                "mount -t tmpfs -o mode=755 tmpfs /usr/share/containers
                 mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
                 mkdir -m 755 /run/bin; mkdir -m 777 /run/out; cp {program} {WIRE}; chmod 755 {WIRE}
                 ip link add up0 type veth peer name up1"
            ),
        );
        machine.image(users.iter().copied());
        machine.write(TOPOLOGY, topology);
        House(machine)
    }

    /// Runs `wire hook` as somebody.
    fn hook(&self, owner: Owner, words: &str) -> Output {
        self.0.attempt(owner, &format!("{WIRE} -f {TOPOLOGY} hook {words}"))
    }

    fn install(&self, owner: Owner, words: &str) {
        self.hook(owner, &format!("install {words}")).expect(0);
    }

    /// Starts containers, which write down what they see of their network before anything else, each start in a line.
    fn run(&self, owner: Owner, name: &str, flags: &str) -> Output {
        // Without quotes, for it is quoted already.
        let look = "{ busybox ip -4 -o address; busybox ip route; } | busybox awk '/ lo / { next } \
                    \\$3 ~ /^inet$/ { print \\$4, \\$2 } /^default/ { print \\$1, \\$3, \\$5 }' \
                    | busybox sort | busybox tr '\\n' ' ' >>/out/NAME; echo >>/out/NAME; \
                    trap 'exit 0' TERM; sleep 1000000 & wait";
        let look = look.replace("NAME", name);
        let flags = if flags.contains("--network") { flags.to_owned() } else { format!("{flags} --network none") };
        let options = format!("-d --name {name} {flags} -v /run/out:/out");
        self.0.attempt(owner, &format!("podman run {options} localhost/image:1 sh -c \"{look}\""))
    }

    /// What the starts of a container have seen, once there are so many.
    #[track_caller]
    fn seen(&self, name: &str, starts: usize) -> Vec<String> {
        let lines = until(&format!("start {starts} of `{name}`"), || {
            let text = std::fs::read_to_string(self.0.path(&format!("/run/out/{name}"))).unwrap_or_default();
            (text.matches('\n').count() >= starts).then_some(text)
        });
        lines.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn pid(&self, owner: Owner, name: &str) -> u32 {
        self.0.wait_for(owner, name, None)
    }

    /// The names of the links of a container.
    #[track_caller]
    fn wires(&self, owner: Owner, name: &str) -> Vec<String> {
        self.0.links(Some(self.pid(owner, name))).into_keys().collect()
    }

    #[track_caller]
    fn rules(&self, pid: u32) -> String {
        self.0.sh(None, &format!("nsenter -t {pid} -n nft list tables"))
    }
}

/// However a container starts, its first instruction sees its addresses, its routes and the far ends up, and podman is
/// asked nothing meanwhile, although not every node runs.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn the_first_instruction_sees_its_wires() {
    let house = House::new(HOUSE, &[None]);
    let machine = &house.0;
    // What comes first on the path remembers who asked, and hands over.
    let script = "#!/bin/sh\ncat /proc/$PPID/comm >>/run/askers\nexec /usr/bin/podman \"$@\"\n";
    machine.write("/usr/local/sbin/podman", script);
    machine.sh(None, "chmod 755 /usr/local/sbin/podman");
    house.install(None, "");
    house.run(None, "a", "--restart=always").expect(0);
    assert_eq!(house.seen("a", 1), [""], "nobody else runs");
    assert_eq!(machine.links(None).len(), 2, "the uplink alone");
    house.run(None, "edge", "--restart=always").expect(0);
    house.run(None, "b", "--restart=always").expect(0);
    assert_eq!(
        house.seen("edge", 1),
        ["172.16.1.0/31 edge-a 192.168.100.1/31 host-edge default 192.168.100.0 host-edge"]
    );
    assert_eq!(house.seen("b", 1), ["10.254.0.1/31 a-b 172.16.2.1/31 eth0"]);
    assert_eq!(house.wires(None, "a"), ["a-b", "edge-a"], "the others' hooks have wired it");

    let crash = format!("kill -9 {}", house.pid(None, "a"));
    for (number, act) in ["podman restart -t 0 a", "podman stop -t 0 a; podman start a", &crash].iter().enumerate() {
        let before = house.pid(None, "a");
        // The pid in the last one is of the start before it.
        let act = if act.starts_with("kill") { format!("kill -9 {before}") } else { (*act).to_owned() };
        machine.sh(None, &act);
        machine.wait_for(None, "a", Some(before));
        assert_eq!(house.seen("a", 2 + number).last().map(String::as_str), Some(WIRED), "{act}");
    }
    house.run(None, "a", "--replace").expect(0);
    assert_eq!(house.seen("a", 5).last().map(String::as_str), Some(WIRED), "replaced");
    machine.wire(&["plan"]).expect(0);
    let askers = machine.sh(None, "sort -u /run/askers");
    assert!(askers.contains("sh") && !askers.contains("wire"), "{askers}");
}

/// The rules stand before the first instruction, too: a container that is made and not yet started has them.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn rules_stand_before_the_first_instruction() {
    let house = House::new(HOUSE, &[None]);
    house.install(None, "--strict");
    house.run(None, "edge", "").expect(0);
    house.0.sh(None, "podman create --name a --network none localhost/image:1 sleep 1000000; podman init a");
    let pid = house.0.podman(None, "inspect -f '{{.State.Pid}}' a").trim().parse().expect("a pid");
    assert!(house.0.sh(None, &format!("cat /proc/{pid}/comm")).starts_with("crun"), "its program runs already");
    assert_eq!(house.0.links(Some(pid)).into_keys().collect::<Vec<_>>(), ["edge-a"]);
    assert_eq!(house.rules(pid).trim(), "table inet wire");
    house.0.wire(&["plan"]).expect(0);
    house.0.podman(None, "start a");
    assert_eq!(house.pid(None, "a"), pid);
    assert_eq!(house.wires(None, "a"), ["edge-a"]);
}

/// What cannot be wired starts without a wire, or not at all where that was asked for; waiting for others ends in time.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_failure_lets_start_or_does_not() {
    let house = House::new(HOUSE, &[None]);
    house.run(None, "edge", "").expect(0);
    let edge = house.pid(None, "edge");
    house.0.sh(None, &format!("nsenter -t {edge} -n nft add table inet wire"));
    house.install(None, "--wait 1s");
    house.run(None, "a", "").expect(0);
    assert_eq!(house.seen("a", 1), [""]);
    house.install(None, "--wait 1s --strict");
    let said = house.run(None, "b", "").expect(REFUSED);
    assert!(said.stderr.contains("error executing hook"), "{}", said.stderr);
    assert!(!house.0.path("/run/out/b").exists(), "it ran");
    house.run(None, "c", "").expect(0);

    house.0.sh(None, &format!("nsenter -t {edge} -n nft delete table inet wire; podman rm -f -t 0 a b"));
    let holds = house.0.background(None, "", "flock /run/wire/lock sleep 1000000");
    until("the lock is held", || {
        (!house.0.sh(None, "flock -n /run/wire/lock true && echo free || :").contains("free")).then_some(())
    });
    let start = Instant::now();
    house.run(None, "b", "").expect(REFUSED);
    assert!((1..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    house.install(None, "--wait 1s");
    house.0.podman(None, "rm -f -t 0 b");
    house.run(None, "b", "").expect(0);
    assert_eq!(house.seen("b", 1), [""]);
    // One that is no node's waits for nobody.
    house.install(None, "--wait 5m --strict");
    house.run(None, "d", "").expect(0);
    house.0.sh(None, &format!("kill {holds}"));
}

/// A file that does not hold is said, and only those whom it names are held up by it.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn an_invalid_file_wires_nobody() {
    let house = House::new(&HOUSE.replace("172.16.2.0/31", "172.16.1.0/31"), &[None]);
    house.install(None, "");
    house.run(None, "a", "").expect(0);
    assert_eq!(house.seen("a", 1), [""]);
    house.install(None, "--strict");
    house.run(None, "b", "").expect(REFUSED);
    house.run(None, "stranger-of-the-file", "").expect(0);
    let id = house.0.podman(None, "inspect -f '{{.Id}}' a");
    let state = format!("printf '{{\"id\":\"%s\",\"pid\":{}}}' {}", house.pid(None, "a"), id.trim());
    let said = house.0.sh(None, &format!("{state} | {WIRE} -f {TOPOLOGY} hook createRuntime 2>&1"));
    assert!(said.contains("starts without all of its wires") && said.contains("has 1 error: line 6"), "{said}");
    house.0.sh(None, &format!("rm {TOPOLOGY}"));
    house.run(None, "edge", "").expect(0);
}

/// Nothing that comes in makes it fail in another way than it says, or do anything.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn nonsense_on_stdin_is_refused() {
    let house = House::new(HOUSE, &[None]);
    house.run(None, "a", "").expect(0);
    let id = house.0.podman(None, "inspect -f '{{.Id}}' a").trim().to_owned();
    let hook = |input: &str, options: &str| {
        house.0.sh(
            None,
            &format!("{{ {input}; }} | {WIRE} -f {TOPOLOGY} hook {options} 2>&1 && echo done || echo \"exit $?\""),
        )
    };
    for input in [
        "echo",
        "echo '[]'",
        "head -c 3000000 /dev/zero",
        "cat /bin/busybox",
        "echo '{\"id\":\"\\u001b[31m\",\"pid\":{}}'",
    ] {
        let said = hook(input, "createRuntime --strict");
        assert!(said.ends_with("exit 1\n"), "{input}: {said}");
        assert!(!said.contains('\u{1b}'), "{said}");
        assert!(hook(input, "createRuntime").ends_with("done\n"), "{input}");
        assert!(hook(input, "poststop --strict").ends_with("done\n"), "{input}");
    }
    let start = Instant::now();
    assert!(hook("sleep 3", "createRuntime --strict --wait 1s").ends_with("exit 1\n"));
    assert!(start.elapsed() < Duration::from_secs(30));
    // The host's namespace is nobody's container, nor is what has ended.
    for (pid, why) in [(1, "gone"), (0, "gone"), (4_000_000, "gone")] {
        let said = hook(&format!("echo '{{\"id\":\"{id}\",\"pid\":{pid}}}'"), "createRuntime --strict");
        assert!(said.contains(why) && said.ends_with("exit 1\n"), "{said}");
    }
    let own = house.0.background(None, "", "sleep 1000000");
    let said = hook(&format!("echo '{{\"id\":\"{id}\",\"pid\":{own}}}'"), "createRuntime --strict");
    assert!(said.contains("lives in the host's own network namespace") && said.ends_with("exit 1\n"), "{said}");
    assert_eq!(house.0.links(None).len(), 2);
}

/// Two that start at once find each other, whoever comes first.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn two_that_start_at_once_converge() {
    let house = House::new(HOUSE, &[None]);
    house.install(None, "--strict");
    for name in ["edge", "a", "b"] {
        house.run(None, name, "").expect(0);
    }
    for _ in 0..8 {
        house.0.sh(
            None,
            "podman stop -t 0 edge a b >/dev/null
            running=; for one in edge a b; do podman start $one >/dev/null & running=\"$running $!\"; done
            for one in $running; do wait $one; done",
        );
        house.0.wire(&["plan"]).expect(0);
        for (name, wires) in
            [("edge", &["edge-a", "edge-b", "host-edge"][..]), ("a", &["a-b", "edge-a"]), ("b", &["a-b", "edge-b"])]
        {
            assert_eq!(house.wires(None, name), wires);
        }
    }
}

/// Somebody else may keep the namespace of a container that has ended: its wires go all the same, nothing else does,
/// and it gets new ones when it comes back.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn what_has_ended_has_no_wires() {
    let house = House::new(HOUSE, &[None]);
    house.install(None, "--strict");
    for name in ["edge", "a", "b"] {
        house.run(None, name, "").expect(0);
    }
    house.run(None, "sharer", "--network container:a").expect(0);
    assert_eq!(house.seen("sharer", 1), [WIRED], "it lives in the namespace of `a`");
    let sharer = house.pid(None, "sharer");
    let edge = house.pid(None, "edge");
    let (rules, stays) = (house.rules(edge), house.0.links(Some(edge))["edge-b"].clone());
    house.0.podman(None, "stop -t 0 a");
    assert_eq!(house.wires(None, "edge"), ["edge-b", "host-edge"]);
    assert_eq!(house.wires(None, "b"), ["edge-b"]);
    assert!(house.0.links(Some(sharer)).is_empty());
    assert_eq!((house.rules(edge), &house.0.links(Some(edge))["edge-b"]), (rules, &stays));
    assert_eq!(house.0.sh(None, "cat /run/wire/starting.json").matches("pid").count(), 2, "it is forgotten");
    house.0.podman(None, "start a");
    assert_eq!(house.seen("a", 2).last().map(String::as_str), Some(WIRED));
    assert!(house.0.links(Some(sharer)).is_empty(), "it is in the old namespace until it restarts");
    house.0.podman(None, "restart -t 0 sharer");
    assert_eq!(house.seen("sharer", 2).last().map(String::as_str), Some(WIRED));
    // Whoever joins another node's namespace, and the file does not know that, has no wires of its own there.
    house.0.podman(None, "rm -f -t 0 b");
    house.run(None, "b", "--network container:a").expect(0);
    assert_eq!(house.wires(None, "a"), ["edge-a"]);
}

/// What is installed is where podman reads it, once, and is taken away again; nobody else's file is.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn install_and_remove_are_exact() {
    let house = House::new(HOUSE, &[None, Some("anna")]);
    let machine = &house.0;
    let list = |place: &str| {
        machine.sh(None, &format!("cd {place} 2>/dev/null && find . ! -type d | sort | tr '\\n' ' ' || :"))
    };
    for (owner, place) in [(None, "/usr/share/containers"), (Some("anna"), "/run/home/anna/.config")] {
        house.install(owner, "");
        let first = list(place);
        assert_eq!(first.matches("hooks.d/wire").count(), 2, "{first}");
        let said = house.hook(owner, "install --json").expect(0).json();
        assert_eq!(said["installed"], serde_json::json!([]), "{said}");
        house.hook(owner, "install --wait 1m --strict").expect(0);
        assert_eq!(list(place), first);
        let other = format!(
            "cp {}/wire.json {0}/other.json",
            if owner.is_none() {
                "/usr/share/containers/oci/hooks.d".to_owned()
            } else {
                format!("{place}/containers/oci/hooks.d")
            }
        );
        machine.sh(owner, &other);
        house.hook(owner, "remove").expect(0);
        assert_eq!(list(place).matches("wire").count(), 0, "{}", list(place));
        assert_eq!(list(place).matches("other.json").count(), 1);
        house.hook(owner, "remove").expect(0);
    }
    // A configured folder wins.
    machine.sh(
        None,
        "mkdir /etc/containers/containers.conf.d
        echo '[engine]\nhooks_dir = [\"/etc/hooks\"]' >/etc/containers/containers.conf.d/a.conf",
    );
    house.install(None, "");
    assert_eq!(list("/etc/hooks").trim(), "./wire-poststop.json ./wire.json");
    house.run(None, "a", "").expect(0);
    house.run(None, "edge", "").expect(0);
    assert_eq!(house.wires(None, "a"), ["edge-a"], "podman reads it");
    house.install(Some("anna"), "");
    let drop_in = machine.sh(None, "cat /run/home/anna/.config/containers/containers.conf.d/wire.conf");
    assert!(drop_in.contains("[\"/etc/hooks\", \"/run/home/anna/.config/containers/oci/hooks.d\"]"), "{drop_in}");
    // Neither what others may change nor what others wrote.
    machine.sh(None, "echo '{}' >/etc/hooks/wire.json");
    assert!(house.hook(None, "install").expect(1).stderr.contains("/etc/hooks/wire.json is not wire's"));
    house.hook(None, "remove").expect(0);
    assert_eq!(list("/etc/hooks").trim(), "./wire.json");
    machine.sh(None, "rm /etc/hooks/wire.json; chmod 777 /run/bin");
    let said = house.hook(None, "install").expect(1).stderr;
    assert!(said.contains("/run/bin can be written by others"), "{said}");
    machine.sh(None, &format!("chmod 755 /run/bin; chown 59002 {WIRE}"));
    for owner in [None, Some("anna")] {
        assert!(house.hook(owner, "install").expect(1).stderr.contains("belongs to bert"));
    }
}

/// The hook of a user's container has somebody with power over the host do it, who believes the user nothing that is
/// not so.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn a_users_container_is_wired_by_the_daemon() {
    let users = [None, Some("anna"), Some("bert")];
    let topology = HOUSE.replace(
        "[node.a]",
        "[podman]\nuser = \"anna\"\n[node.edge]\nuser = \"root\"\n[node.b]\nuser = \"bert\"\n[node.a]",
    );
    let house = House::new(&topology, &users);
    let machine = &house.0;
    for owner in users {
        house.install(owner, "");
    }
    house.run(None, "edge", "").expect(0);
    house.run(Some("anna"), "a", "").expect(0);
    assert_eq!(house.seen("a", 1), [""], "nobody is there to wire it");
    machine.podman(Some("anna"), "rm -f -t 0 a");
    house.install(Some("anna"), "--strict --wait 1s");
    house.run(Some("anna"), "a", "").expect(REFUSED);
    house.run(Some("anna"), "other", "").expect(0);

    let serve = format!("/usr/bin/env -i {WIRE} -f {TOPOLOGY} watch");
    let daemon = machine.background(None, "", &serve);
    until("the door is open", || machine.path("/run/wire.sock").exists().then_some(()));
    machine.podman(Some("anna"), "rm -f -t 0 a");
    house.run(Some("anna"), "a", "--restart=always").expect(0);
    house.run(Some("bert"), "b", "").expect(0);
    assert_eq!(house.seen("a", 2).last().map(String::as_str), Some("172.16.1.1/31 eth0 default 172.16.1.0 eth0"));
    assert_eq!(house.seen("b", 1), ["10.254.0.1/31 a-b 172.16.2.1/31 eth0"]);
    machine.sh(None, &format!("kill -9 {}", house.pid(Some("anna"), "a")));
    assert_eq!(house.seen("a", 3).last().map(String::as_str), Some(WIRED));
    house.run(Some("anna"), "another", "").expect(0);

    // Lies: whose id, whose process.
    let id =
        |owner: Owner, name: &str| machine.podman(owner, &format!("inspect -f '{{{{.Id}}}}' {name}")).trim().to_owned();
    let (own, theirs) = (id(Some("anna"), "a"), id(Some("bert"), "b"));
    let all = || [(None, "edge"), (Some("anna"), "a"), (Some("bert"), "b")].map(|(user, name)| house.wires(user, name));
    let before = all();
    let ask = |id: &str, pid: u32| {
        let state = format!("echo '{{\"id\":\"{id}\",\"pid\":{pid}}}'");
        machine.sh(
            Some("anna"),
            &format!("{state} | {WIRE} -f {TOPOLOGY} hook createRuntime --strict 2>&1 && echo done || echo refused"),
        )
    };
    let shell = machine.background(Some("anna"), "", "sleep 1000000");
    for (pid, why) in [
        (house.pid(None, "edge"), "belongs to `root`"),
        (house.pid(Some("bert"), "b"), "belongs to `bert`"),
        (shell, "lives in the host's own network namespace"),
        (1, "is gone"),
    ] {
        let said = ask(&own, pid);
        assert!(said.contains(why) && said.ends_with("refused\n"), "{said}");
    }
    // The container of somebody else is none of this user's, so there is nothing to do.
    assert!(ask(&theirs, house.pid(Some("anna"), "a")).ends_with("done\n"));
    assert!(ask("\\u001b[31m", 7).ends_with("done\n"));
    assert_eq!(all(), before);

    // One who asks without end is in nobody's way.
    let state = format!("{{\"id\":\"{own}\",\"pid\":7}}");
    let ask = format!("{WIRE} -f {TOPOLOGY} hook createRuntime --wait 1s");
    machine.write("/run/flood", &format!("while :; do echo '{state}' | {ask}; done"));
    for _ in 0..4 {
        machine.background(Some("anna"), "", "sh /run/flood");
    }
    let start = Instant::now();
    machine.podman(Some("bert"), "restart -t 0 b");
    assert_eq!(house.seen("b", 2).last().map(String::as_str), Some("10.254.0.1/31 a-b 172.16.2.1/31 eth0"));
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    machine.sh(None, &format!("kill {daemon}"));
}
