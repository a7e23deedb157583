//! How soon `wire watch` has mended what was broken, from just before it is broken until the kernel has it back, and what it
//! costs while nothing happens.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::host::{HOST, Lab};
use super::netlink::{Batch, IFLA_IFNAME, RTM_DELLINK, route_socket};
use super::rules;
use super::wiring::TOPOLOGY;
use crate::{Options, Result, WORK};

/// How long it is looked on while nothing happens.
const IDLE: Duration = Duration::from_secs(60);
/// Longer than any mend takes.
const LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether it is mended.
const LOOK: Duration = Duration::from_micros(200);
/// Between two breaks: a watch is patient with who breaks without end, and this is not about that.
const PAUSE: Duration = Duration::from_millis(300);

pub struct Life {
    /// What was broken, and the milliseconds until it was whole again.
    pub mends: Vec<(&'static str, Vec<f64>)>,
    pub idle: Idle,
}

pub struct Idle {
    pub seconds: u64,
    /// Of processors.
    pub busy_milliseconds: f64,
    pub wakes: u64,
    pub resident_kib: u64,
    pub descriptors: usize,
}

/// `wire watch`, ready, as long as the value.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Watch {
    fn start(options: &Options) -> Result<Watch> {
        let mut command = Command::new(&options.wire);
        command.args(["-f", TOPOLOGY, "--json", "watch"]).current_dir(WORK).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut watch = Watch(command.spawn()?);
        let mut said = BufReader::new(watch.0.stdout.take().ok_or("no pipe")?);
        let mut line = String::new();
        while !line.contains("\"event\":\"ready\"") {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                return Err("`wire watch` ended before it was ready".into());
            }
        }
        // Whatever it says is read, or it would wait for that.
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        Ok(watch)
    }

    fn status(&self, key: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line")?;
        Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
    }

    fn wakes(&self) -> Result<u64> {
        Ok(self.status("voluntary_ctxt_switches:")? + self.status("nonvoluntary_ctxt_switches:")?)
    }

    /// What processors did for it, in milliseconds (proc_pid_schedstat: nanoseconds on a processor come first).
    fn busy(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.0.id()))?;
        Ok(text.split_whitespace().next().ok_or("nothing is counted")?.parse::<f64>()? / 1e6)
    }
}

/// Breaks a wired lab again and again, and then leaves it alone for a minute.
pub fn measure(lab: &Lab, options: &Options, rounds: usize) -> Result<Life> {
    let watch = Watch::start(options)?;
    lab.expect_wired()?;
    let hub = lab.wiring.nodes.first().ok_or("no hub")?;
    let leaf = lab.wiring.nodes.last().ok_or("no leaf")?;
    let mut mends: Vec<(&'static str, Vec<f64>)> =
        ["rules of a leaf flushed", "rules of the hub flushed", "rules of the host flushed", "a wire deleted"]
            .map(|what| (what, Vec::new()))
            .into();
    let end = lab.wiring.ends(leaf).next().ok_or("no wire")?;
    let route = lab.pretend.inside(leaf, route_socket)?;
    let wires = lab.wiring.ends(leaf).count();
    for _ in 0..rounds {
        for ((_, times), node) in mends.iter_mut().zip([leaf, hub, HOST]) {
            let socket = lab.pretend.filter(node)?;
            let begun = Instant::now();
            rules::clear(socket)?;
            times.push(until(begun, || Ok(rules::count(socket)? == lab.rules[node]))?);
            sleep(PAUSE);
        }
        let mut batch = Batch::default();
        batch.message(RTM_DELLINK, 0).link(0, false).text(IFLA_IFNAME, &end.device).end();
        // The kernel tells of it before it is done with it: this call may well return after the mend.
        let begun = Instant::now();
        route.carry_out(&batch)?;
        let is_back = || Ok(route.veths()?.iter().filter(|link| link.up).count() == wires);
        mends[3].1.push(until(begun, is_back)?);
        sleep(PAUSE);
    }
    lab.expect_wired()?;
    sleep(Duration::from_secs(1));
    let (busy, wakes) = (watch.busy()?, watch.wakes()?);
    sleep(IDLE);
    let idle = Idle {
        seconds: IDLE.as_secs(),
        busy_milliseconds: watch.busy()? - busy,
        wakes: watch.wakes()? - wakes,
        resident_kib: watch.status("VmRSS:")?,
        descriptors: fs::read_dir(format!("/proc/{}/fd", watch.0.id()))?.count(),
    };
    Ok(Life { mends, idle })
}

/// The milliseconds since it began until something is so.
fn until(begun: Instant, mut so: impl FnMut() -> Result<bool>) -> Result<f64> {
    while !so()? {
        if begun.elapsed() > LIMIT {
            return Err("nobody mends what was broken".into());
        }
        sleep(LOOK);
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
