//! `wire log`: what the rules of all namespaces log, as it happens, each packet in the file's words.

pub mod packet;
pub mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::error::{Error, Exit};
use crate::kernel;
use crate::kernel::nflog::{Look, Readers, Turn};
use crate::target::Scope;
use crate::topology::{Name, Topology};
use crate::voice::{Voice, count};

use record::{Names, enforced};

/// How often it is looked whether a node has come back in another namespace.
const LOOK: Duration = Duration::from_secs(3);
/// And that no look, which may have to ask podman, takes more than this part of the time.
const SHARE: u32 = 50;

/// Prints what is logged until it is told to end, or nobody listens.
pub fn run(voice: &Voice, path: &str, topology: &Topology, scope: &Scope) -> Result<Exit, Error> {
    kernel::may("read what is logged in other network namespaces", &[kernel::ENTER, kernel::CHANGE])?;
    let wires = topology.wires.iter().filter(|wire| scope.wires.contains(&wire.name));
    let nodes: BTreeSet<Name> = wires.flat_map(|wire| wire.ends.iter().map(|end| end.node.clone())).collect();
    let enforced = enforced(topology);
    let names = Names::of(&enforced);
    let mut readers = Readers::new()?;
    let first = readers.look(topology, &nodes)?;
    let mut told = Told::default();
    told.tell(voice, &first);
    if first.begun.is_empty()
        && let Some(error) = first.refused.into_values().next()
    {
        return Err(error);
    }
    voice.say(&format!("reading at {}", count(first.begun.len(), "node")));
    let mut next = Instant::now() + LOOK;
    let mut lost: BTreeMap<Name, usize> = BTreeMap::new();
    loop {
        let each = |node: &Name, packet| {
            let Some(record) = names.record(node, &packet).filter(|record| record.is_in(scope)) else { return };
            if voice.json {
                voice.print_json(&serde_json::json!(record));
            } else {
                voice.print(&record.line(path, voice.out));
            }
        };
        let turn = readers.wait(next, each, |node, more| *lost.entry(node.clone()).or_default() += more as usize)?;
        let is_over = turn == Turn::End || !voice.is_heard();
        if is_over || Instant::now() >= next {
            for (node, lost) in std::mem::take(&mut lost) {
                voice.say(&format!("{} at `{node}` came too fast to be shown", count(lost, "packet")));
            }
        }
        if is_over {
            return Ok(Exit::Done);
        }
        if Instant::now() >= next {
            let start = Instant::now();
            let look = readers.look(topology, &nodes)?;
            told.tell(voice, &look);
            for node in &look.begun {
                voice.say(&format!("reading at `{node}` too"));
            }
            next = Instant::now() + LOOK.max(start.elapsed() * SHARE);
        }
    }
}

/// What was said of nodes where nothing is read, so that it is said once.
#[derive(Default)]
struct Told(BTreeMap<Name, String>);

impl Told {
    fn tell(&mut self, voice: &Voice, look: &Look) {
        let refused = look.refused.iter().map(|(node, error)| {
            let hint = error.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            (node, format!("nothing is read at `{node}`: {}{hint}", error.message))
        });
        let waiting = look.waiting.iter().map(|(node, reason)| (node, format!("waiting for `{node}`: {reason}")));
        let now: BTreeMap<Name, String> = waiting.chain(refused).map(|(node, text)| (node.clone(), text)).collect();
        for (node, text) in &now {
            if self.0.get(node) != Some(text) {
                voice.say(text);
            }
        }
        self.0 = now;
    }
}
