//! What `wire hook` adds to the start and to the end of a container: a whole process, from before its start to after its end. The
//! containers are processes of a pretend host with namespaces of their own, and what podman would have written down of them.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::host::PretendHost;
use super::netlink::route_socket;
use crate::{Options, Result, WORK};

const TOPOLOGY: &str = "/run/bench/hook.toml";
const STATE: &str = "/run/bench/state.json";
const STORAGE: &str = "/var/lib/containers/storage/overlay-containers";
/// As podman has it on a machine of some age.
const OTHERS: usize = 50;
/// A leaf between a hub and the host, which is a container.
const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "hook-hub", ends = ["hub", "leaf"], subnet = "172.16.0.0/31", allow = ["tcp/80"] },
  { name = "hook-host", ends = ["host", "leaf"], subnet = "192.168.96.0/31", allow = ["tcp/80"] },
]
[hub.hub]
zone = "z"
[module]
all-of-it = ["hub", "leaf"]
[node.leaf]
container = "leaf"
"#;

/// What happened, and the milliseconds it took.
pub type Hooked = Vec<(&'static str, Vec<f64>)>;

/// The first process of a container.
struct Container(Child);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn measure(pretend: &mut PretendHost, options: &Options) -> Result<Hooked> {
    eprintln!("bench: wire hook");
    mount(Some("tmpfs"), "/var/lib", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    fs::create_dir_all(STORAGE)?;
    let id = |number: usize| format!("{number:064x}");
    let others = (1..=OTHERS).map(|number| json!({ "id": id(number), "names": [format!("somebody-{number}")] }));
    let all: Vec<_> = [json!({ "id": id(0), "names": ["leaf"] })].into_iter().chain(others).collect();
    fs::write(format!("{STORAGE}/containers.json"), serde_json::to_vec(&all)?)?;
    fs::write(TOPOLOGY, HOUSE)?;
    pretend.grow(&["hub".to_owned()])?;
    let mut hooked: Hooked =
        ["start, no node", "end, no node", "start, a node with two wires", "end, a node with two wires"]
            .map(|what| (what, Vec::new()))
            .into();
    for round in 0..options.repeat.unwrap_or(15) {
        let own = format!("container-{round}");
        pretend.grow(std::slice::from_ref(&own))?;
        let sleep = || Ok(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?);
        let container = Container(pretend.inside(&own, sleep)?);
        for (place, number) in [(0, 1), (2, 0)] {
            fs::write(STATE, json!({ "id": id(number), "pid": container.0.id() }).to_string())?;
            for (place, stage) in [(place, "createRuntime"), (place + 1, "poststop")] {
                hooked[place].1.push(hook(options, stage)?);
                let wires =
                    pretend.inside(&own, || Ok(route_socket()?.veths()?.iter().filter(|link| link.up).count()))?;
                let wanted = if place == 2 { 2 } else { 0 };
                if wires != wanted {
                    return Err(format!("after {}: {wires} wires, and not {wanted}", hooked[place].0).into());
                }
            }
        }
        pretend.settle();
    }
    Ok(hooked)
}

/// The milliseconds of one call.
fn hook(options: &Options, stage: &str) -> Result<f64> {
    let mut command = Command::new(&options.wire);
    command.args(["-f", TOPOLOGY, "hook", stage, "--strict"]).current_dir(WORK).env_remove("WIRE_TOPOLOGY");
    command.stdin(File::open(STATE)?).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status()?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    match (status.success(), status.signal()) {
        (true, _) => Ok(took),
        (false, signal) => Err(format!("`wire hook {stage}` failed: {status} {signal:?}").into()),
    }
}
