//! A pretend machine for real podman: its own mount, network and process namespaces, in which the places where podman keeps
//! things by default (`/run`, `/var/lib/containers`, `/etc/containers`, users and their homes) are fresh, so that podman and
//! `wire` meet there as they do on anybody's host, and the real machine notices nothing. All of it, every container and
//! monitor included, dies with the value, also on panic and when the tests are killed: the first process of the machine ends
//! when the pipe to it closes, and the kernel ends the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
const WIRE: &str = env!("CARGO_BIN_EXE_wire");
/// The topology file inside the machine.
pub const TOPOLOGY: &str = "/run/topology.toml";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long anything may take before a test calls it hung.
const DEADLINE: Duration = Duration::from_secs(60);

/// The users of every machine, with their ids. They exist in its own `/etc/passwd` alone.
const USERS: [(&str, u32); 2] = [("anna", 59001), ("bert", 59002)];

/// Run by bash, which as first process also buries what monitors leave behind.
const SETUP: &str = r#"
set -eu
mount --make-rshared /                          # as init systems have it; podman complains otherwise
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm       # the locks of containers that are no more would use up the machine's
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup         # crun refuses cgroup v1 and hybrid hosts
for place in /etc /var/lib; do
  mkdir -p /run/over$place/upper /run/over$place/work
  mount -t overlay -o lowerdir=$place,upperdir=/run/over$place/upper,workdir=/run/over$place/work overlay $place
done
rm -rf /etc/containers
mkdir -p /etc/containers /var/lib/containers /run/netns
mount -t tmpfs tmpfs /var/lib/containers        # podman's overlay storage does not work on an overlay
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json
cat >/etc/containers/containers.conf <<END
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
log_driver = "none"
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
END
: >/etc/subuid
: >/etc/subgid
while read -r user id; do
  echo "$user:x:$id:$id::/run/home/$user:/bin/sh" >>/etc/passwd
  echo "$user:x:$id:" >>/etc/group
  echo "$user:$((id * 65536)):65536" | tee -a /etc/subuid >>/etc/subgid
  mkdir -p /run/home/$user /run/user/$id
  chown $id:$id /run/home/$user /run/user/$id
  chmod 700 /run/home/$user /run/user/$id
done <<END
$USERS
END
ip link set lo up

# The image: busybox and a few names for it.
mkdir -p /run/image/bin /run/image/proc /run/image/sys /run/image/dev /run/image/etc /run/image/tmp
chmod 755 /run/image
cp "$(command -v busybox)" /run/image/bin/busybox
for name in sh sleep nc; do ln -s busybox /run/image/bin/$name; done
tar -C /run/image --numeric-owner --owner=0 --group=0 -cf /run/image.tar .

echo ready
read -r _ || :
"#;

/// What a program did.
#[derive(Debug)]
pub struct Output {
    status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Fails the test with everything the program said unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        assert_eq!(
            self.status.code(),
            Some(code),
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// The standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("not JSON: {error}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
        })
    }
}

/// Waits for a condition.
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = condition() {
            return seen;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whose a container is: root's where there is no user.
pub type Owner = Option<&'static str>;

pub struct Machine {
    /// Holds the machine's first process by its standard input.
    keeper: Child,
    /// That process.
    pid: u32,
}

impl Machine {
    /// A machine with podman, the image and the users, and nothing running. Fails where that cannot be.
    pub fn new() -> Machine {
        assert!(nix::unistd::Uid::effective().is_root(), "tests with podman need root");
        for program in ["podman", "crun", "busybox", "unshare", "nsenter", "setpriv", "newuidmap", "bash", "tar", "ip"]
        {
            let is_there = PATH.split(':').any(|folder| Path::new(folder).join(program).is_file());
            assert!(is_there, "tests with podman need the program `{program}`");
        }
        let users: Vec<String> = USERS.iter().map(|(user, id)| format!("{user} {id}")).collect();
        let mut keeper = Command::new("unshare")
            .args(["-m", "-n", "-p", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["bash", "-c", SETUP])
            .env_clear()
            .envs([("PATH", PATH), ("USERS", &users.join("\n"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut said = String::new();
        BufReader::new(keeper.stdout.take().expect("a pipe")).read_line(&mut said).expect("a line");
        if said != "ready\n" {
            let mut complaint = String::new();
            let _ = keeper.stderr.take().map(|mut pipe| pipe.read_to_string(&mut complaint));
            panic!("the pretend machine does not start: {complaint}");
        }
        let children = format!("/proc/{0}/task/{0}/children", keeper.id());
        let children = std::fs::read_to_string(children).expect("a list of children (CONFIG_PROC_CHILDREN)");
        let pid = children.trim().parse().expect("one child");
        Machine { keeper, pid }
    }

    /// The machine's first process, in the process namespace of the tests.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A path of the machine, as seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.path(path), text).expect(path);
    }

    /// A command of root's in the machine, with an empty environment.
    fn command<S: AsRef<OsStr>>(&self, argv: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-n", "-p", "--", "/usr/bin/env", "-i"]);
        command.args(argv).stdin(Stdio::null());
        command
    }

    /// Runs a program of root's, with an empty environment.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Output {
        let output = self.command(argv).output().expect("nsenter starts");
        let text = |bytes| String::from_utf8(bytes).expect("programs write UTF-8");
        Output { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs shell commands as a user; all must succeed.
    #[track_caller]
    pub fn sh(&self, owner: Owner, script: &str) -> String {
        self.run(&shell(owner, script)).expect(0).stdout
    }

    /// Runs shell commands as a user, which may fail.
    pub fn attempt(&self, owner: Owner, script: &str) -> Output {
        self.run(&shell(owner, script))
    }

    /// Starts a program in the background, after a shell command, and tells its pid. It ends with the machine.
    #[track_caller]
    pub fn background(&self, owner: Owner, first: &str, program: &str) -> u32 {
        let pid = self.sh(owner, &format!("{first}\n{program} </dev/null >/dev/null 2>&1 &\necho $!"));
        pid.trim().parse().expect("a pid")
    }

    /// Runs `wire` as root, as an init script does: with nothing in its environment.
    pub fn wire(&self, args: &[&str]) -> Output {
        self.wire_with(&[], args)
    }

    /// Runs `wire` as root with these variables (`NAME=value`) in its environment and no others.
    pub fn wire_with(&self, environment: &[&str], args: &[&str]) -> Output {
        self.run(&[environment, &[WIRE, "-f", TOPOLOGY], args].concat())
    }

    /// Runs `wire` where every file is hidden that podman and its runtime keep of running containers.
    pub fn wire_without_state(&self, args: &[&str]) -> Output {
        let script = "mkdir -p /run/empty
            for place in /run/crun /run/containers/storage/*-containers \
                /run/user/*/crun /run/user/*/containers/*-containers; do
              ! [ -d $place ] || mount --bind /run/empty $place
            done
            exec \"$@\"";
        self.run(&[&["unshare", "-m", "sh", "-euc", script, "sh", WIRE, "-f", TOPOLOGY], args].concat())
    }

    /// Gives users the image, once each.
    pub fn image(&self, owners: impl IntoIterator<Item = Owner>) {
        for owner in BTreeSet::from_iter(owners) {
            self.sh(owner, "podman import -q /run/image.tar localhost/image:1");
        }
    }

    /// Runs containers of a user, without a network, all at once. Each ends on SIGTERM and serves its name on TCP port 80.
    #[track_caller]
    pub fn start(&self, owner: Owner, names: &[&str], flags: &str) {
        let mut script = String::from("running=\n");
        for name in names {
            let inside = format!("trap \"exit 0\" TERM; while :; do echo {name} | nc -l -p 80 >/dev/null; done & wait");
            let _ = writeln!(
                script,
                "podman run -d --name {name} --network none {flags} localhost/image:1 sh -c '{inside}' >/dev/null &
                 running=\"$running $!\""
            );
        }
        self.sh(owner, &(script + "for one in $running; do wait $one; done"));
    }

    #[track_caller]
    pub fn podman(&self, owner: Owner, args: &str) -> String {
        self.sh(owner, &format!("podman {args}"))
    }

    /// Has podman listen on a user's socket, as a unit of the init system would.
    pub fn serve_podman(&self, owner: Owner) {
        self.background(owner, "", "podman system service -t 0");
        let socket = match owner.and_then(|user| USERS.iter().find(|(name, _)| *name == user)) {
            Some((_, id)) => format!("/run/user/{id}/podman/podman.sock"),
            None => "/run/podman/podman.sock".into(),
        };
        until("podman listens", || UnixStream::connect(self.path(&socket)).ok());
    }

    /// The first process of every running container of a user.
    #[track_caller]
    pub fn pids(&self, owner: Owner) -> BTreeMap<String, u32> {
        let list = self.podman(owner, "ps --format '{{.Names}} {{.Pid}}'");
        let pairs = list.lines().map(|line| line.split_once(' ').expect("two words"));
        pairs.map(|(name, pid)| (name.to_owned(), pid.parse().expect(pid))).filter(|(_, pid)| *pid > 1).collect()
    }

    /// Waits until a container runs, in another process than before where that is given.
    #[track_caller]
    pub fn wait_for(&self, owner: Owner, name: &str, before: Option<u32>) -> u32 {
        until(&format!("container `{name}` runs again"), || {
            let pid = self.pids(owner).get(name).copied().filter(|pid| Some(*pid) != before)?;
            self.lives(pid).then_some(pid)
        })
    }

    pub fn lives(&self, pid: u32) -> bool {
        // Not just there: a zombie has no namespaces.
        self.path(&format!("/proc/{pid}")).join("root").read_link().is_ok()
    }

    /// The links of a namespace but loopback, by `ip`: the host's, or that of a process. Each by its longest name, with its
    /// state and IPv4 addresses.
    #[track_caller]
    pub fn links(&self, of: Option<u32>) -> BTreeMap<String, String> {
        let script = format!("nsenter -t {} -n ip -j address show", of.unwrap_or(1));
        let links = self.run(&shell(None, &script)).expect(0).json();
        let links = links.as_array().expect("a list").iter().filter(|link| link["ifname"] != "lo");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        links
            .map(|link| {
                let altnames = link["altnames"].as_array().into_iter().flatten().map(text);
                let name = altnames.chain([text(&link["ifname"])]).max_by_key(String::len).unwrap_or_default();
                let flags: Vec<_> = link["flags"].as_array().into_iter().flatten().map(text).collect();
                let is_up = ["UP", "LOWER_UP"].iter().all(|flag| flags.iter().any(|set| set == flag));
                let mut state = String::from(if is_up { "up" } else { "down" });
                for address in link["addr_info"].as_array().into_iter().flatten() {
                    let _ = write!(state, " {}/{}", text(&address["local"]), address["prefixlen"]);
                }
                (name, state)
            })
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // `--kill-child` takes the machine's first process along, and the kernel everything else in its process namespace.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// What a user's shell has after a login, to be put before a command.
fn environment(owner: Owner) -> Vec<String> {
    let Some(user) = owner else { return vec![format!("PATH={PATH}"), "HOME=/root".into()] };
    let (_, id) = USERS.iter().find(|(name, _)| *name == user).expect("a user of the machine");
    let become_user = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "env"].map(String::from);
    let home = format!("HOME=/run/home/{user}");
    let mut environment = vec![format!("PATH={PATH}")];
    environment.extend(become_user);
    environment.extend([
        home,
        format!("USER={user}"),
        format!("LOGNAME={user}"),
        format!("XDG_RUNTIME_DIR=/run/user/{id}"),
    ]);
    environment
}

fn shell(owner: Owner, script: &str) -> Vec<String> {
    let mut argv = environment(owner);
    argv.extend(["sh", "-euc", script].map(String::from));
    argv
}
