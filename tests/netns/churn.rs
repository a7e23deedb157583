//! A house of real containers in which somebody restarts, kills, stops and replaces things at random, two hundred times in all:
//! after each, the kernel is what the file says, without anybody having run `wire up`; and on a wire that it is not about nothing
//! ever happens, while traffic flows there.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use crate::podman::machine::{Machine, Owner, TOPOLOGY, until};

/// Where the program is in the machine: a hook's path must be root's alone.
const WIRE: &str = "/run/bin/wire";
const ACTS: usize = 100;

/// A hub, three leaves that are churned (one of them a user's where there is a watch, one a pod), and two that are left alone.
fn topology(user: &str) -> String {
    format!(
        r#"
version = 1
wire = [
  {{ name = "host-edge", ends = ["host", "edge"], subnet = "192.168.100.0/31" }},
  {{ name = "edge-a", ends = ["edge", "a"], subnet = "172.16.1.0/31", allow = ["tcp/80"] }},
  {{ name = "edge-b", ends = ["edge", "b"], subnet = "172.16.2.0/31", allow = ["tcp/80"] }},
  {{ name = "edge-pod", ends = ["edge", "pod"], subnet = "172.16.3.0/31", allow = ["tcp/80"] }},
  {{ name = "a-b", ends = ["a", "b"], subnet = "10.254.0.0/31", allow = ["tcp/80"] }},
  {{ name = "edge-still", ends = ["edge", "still"], subnet = "172.16.4.0/31", allow = ["tcp/80"] }},
  {{ name = "still-calm", ends = ["still", "calm"], subnet = "10.254.1.0/31", allow = ["tcp/7000"] }},
]
[module]
everyone = ["edge", "a", "b", "pod", "still", "calm", "sharer", "member"]
[hub.edge]
zone = "x"
[node.b]
user = "{user}"
[node.pod]
container = "pod-infra"
[node.sharer]
shares = "a"
[node.member]
shares = "pod"
"#
    )
}

/// The same numbers each time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

struct Churned {
    machine: Machine,
    /// Whose `b` is.
    user: Owner,
}

/// What the kernel tells of links, addresses and routes in a namespace, as long as it lives.
struct Heard {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Heard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SERVE: &str = "trap \"exit 0\" TERM; while :; do echo x | nc -l -p 80 >/dev/null; done & wait";

impl Churned {
    fn new(user: Owner) -> Churned {
        let machine = Machine::new();
        let program = env!("CARGO_BIN_EXE_wire");
        machine.sh(
            None,
            &format!(
                "mount -t tmpfs -o mode=755 tmpfs /usr/share/containers
                 mkdir -m 755 /run/bin; mkdir -m 777 /run/out; cp {program} {WIRE}; chmod 755 {WIRE}"
            ),
        );
        machine.image([None, user]);
        machine.write(TOPOLOGY, &topology(user.unwrap_or("root")));
        Churned { machine, user }
    }

    fn wire(&self, words: &str) -> i32 {
        let script = format!("{WIRE} -f {TOPOLOGY} {words} >/run/out/said 2>&1 && echo 0 || echo $?");
        self.machine.sh(None, &script).trim().parse().expect("a code")
    }

    fn start(&self) {
        let machine = &self.machine;
        machine.start(None, &["edge", "a", "still", "calm"], "--restart=always");
        machine.start(self.user, &["b"], "--restart=always");
        machine.sh(
            None,
            &format!(
                "podman run -d --name sharer --restart=always --network container:a localhost/image:1 sh -c '{SERVE}' >/dev/null
                 podman pod create --name pod --infra-name pod-infra --network none --infra-image localhost/image:1 \
                    --infra-command 'sleep 1000000' >/dev/null
                 podman run -d --pod pod --name member localhost/image:1 sh -c '{SERVE}' >/dev/null"
            ),
        );
    }

    fn pid(&self, owner: Owner, name: &str) -> u32 {
        self.machine.wait_for(owner, name, None)
    }

    /// Waits until the kernel is what the file says.
    #[track_caller]
    fn in_accord(&self, after: &str) {
        until(&format!("all is as the file says after `{after}`"), || (self.wire("audit") == 0).then_some(()));
    }

    /// One thing that somebody does to a container, and how it is called.
    fn act(&self, dice: &mut Dice) -> String {
        let machine = &self.machine;
        let victims: [(&str, Owner); 3] = [("a", None), ("b", self.user), ("edge", None)];
        let (name, owner) = victims[dice.roll(victims.len())];
        let (act, script, owner) = match dice.roll(8) {
            0 => ("pod restart", "podman pod restart pod >/dev/null".to_owned(), None),
            1 => ("restart of a sharer", "podman restart -t 0 sharer >/dev/null || :".to_owned(), None),
            2 => {
                ("stop and start", format!("podman stop -t 0 {name} >/dev/null; podman start {name} >/dev/null"), owner)
            }
            3 if name != "a" => {
                let run = "--network none --restart=always localhost/image:1 sh -c";
                ("replacement", format!("podman run -d --replace --name {name} {run} '{SERVE}' >/dev/null"), owner)
            }
            4 | 5 => {
                let before = self.pid(owner, name);
                machine.sh(None, &format!("kill -9 {before}"));
                machine.wait_for(owner, name, Some(before));
                return format!("kill -9 of {name}");
            }
            _ => ("restart", format!("podman restart -t 0 {name} >/dev/null"), owner),
        };
        machine.sh(owner, &script);
        format!("{act} ({name})")
    }

    fn listen(&self, pid: u32) -> Heard {
        let mut command = self.machine.command(&[
            "nsenter",
            "-t",
            &pid.to_string(),
            "-n",
            "ip",
            "monitor",
            "link",
            "address",
            "route",
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("ip starts");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (said, kept) = (child.stdout.take().expect("a pipe"), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                kept.lock().expect("nobody panics").push(line);
            }
        });
        Heard { child, lines }
    }

    fn churn(&self, seed: u64) {
        let machine = &self.machine;
        self.in_accord("the start");
        // A connection that lives all the time, with a beat ten times a second. Whoever has nothing to say hangs up, so it has
        // something to say that never comes.
        let calm = self.pid(None, "calm");
        let still = self.pid(None, "still");
        let beat = "while read -r beat; do cut -d. -f1 /proc/uptime; done >/run/out/beats";
        machine.background(
            None,
            "",
            &format!("sh -c 'sleep 1000000 | nsenter -t {calm} -n busybox nc -l -p 7000 | {beat}'"),
        );
        until("somebody listens", || {
            machine.sh(None, &format!("nsenter -t {calm} -n ss -ltn")).contains(":7000").then_some(())
        });
        let talk = "while echo beat; do sleep 0.1; done";
        machine.background(None, "", &format!("sh -c '({talk}) | nsenter -t {still} -n busybox nc 10.254.1.1 7000'"));
        until("it beats", || (!machine.sh(None, "cat /run/out/beats").is_empty()).then_some(()));
        let heard = [self.listen(still), self.listen(calm)];
        let mut dice = Dice(seed);
        for number in 1..=ACTS {
            let act = self.act(&mut dice);
            self.in_accord(&format!("{act}, number {number}"));
        }
        for heard in &heard {
            let lines = heard.lines.lock().expect("nobody panics");
            let about: Vec<&String> = lines.iter().filter(|line| line.contains("still-calm")).collect();
            assert!(about.is_empty(), "the wire that nobody touched: {about:?}");
        }
        // What is remembered is of what is there, not of all that ever was.
        let remembered = machine.sh(None, "cat /run/wire/remembered.json");
        let remembered: serde_json::Value = serde_json::from_str(&remembered).expect("JSON");
        assert!(remembered.as_object().expect("by cookie").len() <= 10, "{remembered}");
        let beats = machine.sh(None, "cat /run/out/beats");
        let beats: Vec<u64> = beats.lines().map(|line| line.parse().expect("a second")).collect();
        let now: u64 = machine.sh(None, "cut -d. -f1 /proc/uptime").trim().parse().expect("a second");
        let gap = beats.windows(2).map(|pair| pair[1] - pair[0]).chain(beats.last().map(|last| now - last)).max();
        // Seconds are cut off, and a machine that starts containers has little time for a beat.
        assert!(gap.is_some_and(|gap| gap <= 4), "a gap of {gap:?} s");
    }
}

/// `wire watch` alone: containers of root and of a user.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn under_the_watch_the_state_is_the_file() {
    let churned = Churned::new(Some("anna"));
    churned.machine.background(None, "", &format!("/usr/bin/env -i {WIRE} -f {TOPOLOGY} watch"));
    until("it watches", || churned.machine.path("/run/wire/ready").exists().then_some(()));
    churned.start();
    churned.churn(0x7769_7265);
}

/// The hook alone: containers of root.
#[test]
#[ignore = "needs root and podman: scripts/test runs it"]
fn under_the_hook_the_state_is_the_file() {
    let churned = Churned::new(None);
    assert_eq!(churned.wire("hook install"), 0);
    assert_eq!(churned.wire("up"), 0);
    churned.start();
    churned.churn(0x6b6f_6f68);
}
