//! What the address sets of `[set.NAME]` hold as of now: what the topology says, the lines of a file, the last good answers of
//! names, and what was added at run time. Everything here is a value made of values; who reads files (`file`), keeps what
//! must outlive a run (`kept`) and asks for names (`ask`) stands below, and what the kernel is given is no business of this
//! room.
//!
//! Nothing makes a set wider than what is known: a name that never was answered for has no element, and a set without any
//! element holds nobody.

mod ask;
mod dns;
mod edit;
mod file;
mod kept;
mod lines;
#[cfg_attr(not(test), expect(dead_code, reason = "asked for by whoever encodes a set for the kernel"))]
pub mod range;
mod resolver;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;

use crate::error::Error;
use crate::kernel::run::{Lock, RunDirectory};
use crate::kernel::{self, CHANGE, ENTER};
use crate::topology::{Name, Set, Topology};
use crate::voice::Voice;

use ask::Answers;
use file::Line;
use kept::{Kept, Shelf};

pub use edit::run;

/// The contents of every set, by its name.
pub type Sets = BTreeMap<Name, Contents>;

/// What one set holds: addresses (as /32 or /128) and prefixes, which may overlap, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// `None`: without end.
    pub elements: BTreeMap<IpNetwork, Option<Expiry>>,
}

/// When an element leaves its set, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(pub u64);

impl Expiry {
    /// The seconds that are left.
    pub fn remaining(self, now: u64) -> u64 {
        self.0.saturating_sub(now)
    }
}

/// The later of two ends, where `None` is no end at all.
fn later(a: Option<Expiry>, b: Option<Expiry>) -> Option<Expiry> {
    a.zip(b).map(|(a, b)| a.max(b))
}

/// Why an address is in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin<'a> {
    Topology,
    /// With its line; without one where the file could not be read and its last good lines stand in.
    File(Option<usize>),
    Dns(&'a str),
    Added,
}

/// One thing that a set holds, with one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element<'a> {
    pub network: IpNetwork,
    pub origin: Origin<'a>,
    pub expiry: Option<Expiry>,
}

/// A set with all that is known of it.
#[derive(Clone, Debug)]
struct Source<'a> {
    set: &'a Set,
    kept: Kept,
    lines: Vec<Line>,
}

impl Source<'_> {
    /// Every element with every reason, in the order of addresses. What has expired is none.
    fn elements(&self, now: u64) -> Vec<Element<'_>> {
        let element = |network, origin| Element { network, origin, expiry: None };
        let topology = self.set.elements.iter().map(|network| element(*network, Origin::Topology));
        let file = self.lines.iter().map(|line| element(line.network, Origin::File(line.number)));
        let names = self.kept.answers.iter().flat_map(|((name, _), answer)| {
            // What was taken when the set still said `private` is refused now that it does not.
            let taken = answer.addresses.iter().filter(|address| refusal(**address, self.set.private).is_none());
            taken.map(|address| element((*address).into(), Origin::Dns(name)))
        });
        let added = self.kept.added.iter().filter_map(|(network, term)| {
            let expiry = term.map(|term| term.expiry(now));
            let lives = expiry.is_none_or(|expiry| expiry.remaining(now) > 0);
            lives.then_some(Element { network: *network, origin: Origin::Added, expiry })
        });
        let mut elements: Vec<_> = topology.chain(file).chain(names).chain(added).collect();
        elements.sort();
        // A line that says the same again is no second reason.
        let is_line = |element: &Element| matches!(element.origin, Origin::File(_));
        elements.dedup_by(|b, a| a == b || a.network == b.network && is_line(a) && is_line(b));
        elements
    }

    fn contents(&self, now: u64) -> Contents {
        let mut contents = Contents::default();
        for Element { network, expiry, .. } in self.elements(now) {
            contents.elements.entry(network).and_modify(|known| *known = later(*known, expiry)).or_insert(expiry);
        }
        contents
    }
}

/// Networks that no answer of the DNS may lead to, and whether `private = true` says that it may (RFC 6890 and what it
/// gathers).
const SPECIAL: [(IpAddr, u8, &str, bool); 16] = {
    const fn v4(a: u8, b: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(a, b, 0, 0))
    }
    const fn v6(a: u16, f: u16) -> IpAddr {
        IpAddr::V6(std::net::Ipv6Addr::new(a, 0, 0, 0, 0, f, 0, 0))
    }
    [
        (v4(0, 0), 8, "an unspecified", false),
        (v4(10, 0), 8, "a private", true),
        (v4(100, 64), 10, "a shared", true),
        (v4(127, 0), 8, "a loopback", false),
        (v4(169, 254), 16, "a link-local", true),
        (v4(172, 16), 12, "a private", true),
        (v4(192, 168), 16, "a private", true),
        (v4(224, 0), 4, "a multicast", false),
        (v4(240, 0), 4, "a reserved", false),
        // Unspecified, loopback, and IPv4 in the clothes of IPv6.
        (v6(0, 0), 96, "a reserved", false),
        (v6(0, 0xffff), 96, "a reserved", false),
        (v6(0xfc00, 0), 7, "a private", true),
        (v6(0xfe80, 0), 10, "a link-local", true),
        (v6(0xfec0, 0), 10, "a private", true),
        (v6(0xff00, 0), 8, "a multicast", false),
        // The translated network of RFC 6052, which holds all of IPv4, the private part included.
        (IpAddr::V6(std::net::Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)), 96, "a translated", true),
    ]
};

/// Why an answer of the DNS may not become an element: what kind of address it is, and whether `private = true` would help.
fn refusal(address: IpAddr, private: bool) -> Option<(&'static str, bool)> {
    let holds = |(network, length, ..): &&(IpAddr, u8, &str, bool)| {
        IpNetwork::new(*network, *length).is_ok_and(|network| network.contains(address))
    };
    let (.., kind, curable) = SPECIAL.iter().find(holds)?;
    (!(private && *curable)).then_some((*kind, *curable))
}

/// Takes what was answered for a set's names into what is kept of it, and tells what was not good. A name's last good answer
/// stays where there is no new one.
fn learn(set: &Set, kept: &mut Kept, answers: &Answers, now: u64) -> Vec<Error> {
    let mut warnings = Vec::new();
    kept.answers.retain(|(name, _), _| set.dns.contains(name));
    let names: BTreeSet<&String> = set.dns.iter().collect();
    for name in names {
        let Some(outcomes) = answers.get(name) else { continue };
        let what = format!("`{name}` of set `{}`", set.name);
        let mut taken: Vec<BTreeSet<IpAddr>> = Vec::new();
        let mut refused = false;
        for address in outcomes.iter().flat_map(|(_, outcome)| outcome.iter().flatten()) {
            if let Some((kind, curable)) = refusal(*address, set.private) {
                refused = true;
                let warning = Error::failed(format!("{what} leads to {address}, {kind} address, which is refused"));
                warnings.push(match curable {
                    true => warning.hint(format!("if that is meant, say `private = true` in [set.{}]", set.name)),
                    false => warning.hint("such an address is nobody's in particular; ask whoever runs the name"),
                });
            }
        }
        for (_, outcome) in outcomes {
            let good = outcome.iter().flatten().filter(|address| refusal(**address, set.private).is_none());
            taken.push(good.copied().collect());
        }
        let is_answered = taken.iter().any(|taken| !taken.is_empty());
        let mut failures: Vec<&str> =
            outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err().map(String::as_str)).collect();
        failures.dedup();
        if !is_answered && failures.is_empty() && !refused {
            failures.push("it has no address");
        }
        for ((kind, outcome), taken) in outcomes.iter().zip(taken) {
            let key = (name.clone(), *kind);
            match outcome {
                Ok(_) if !taken.is_empty() => {
                    kept.answers.insert(key, kept::Answer { asked: now, addresses: taken });
                }
                // That it has addresses of the other kind alone is an answer too.
                Ok(all) if all.is_empty() && is_answered => drop(kept.answers.remove(&key)),
                _ => {}
            }
        }
        for failure in failures {
            let known = kept.answers.iter().filter(|((known, _), answer)| known == name && answer.asked != now);
            let known: Vec<String> = known.flat_map(|(_, answer)| &answer.addresses).map(IpAddr::to_string).collect();
            let now = match known.is_empty() {
                true if is_answered => "only a part of its addresses is known".to_owned(),
                true => "nothing is known of it, so that the set has no element of its".to_owned(),
                false => format!("its last good answer stays: {}", known.join(", ")),
            };
            warnings.push(Error::failed(format!("{what} could not be looked up: {failure}; {now}")));
        }
    }
    warnings
}

/// The seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What has to be asked before the sets can be renewed: it takes up to two seconds where nobody answers, so that it is done
/// before the lock is taken.
pub fn ask<'a>(sets: impl IntoIterator<Item = &'a Set>) -> Answers {
    ask::ask(sets.into_iter().flat_map(|set| set.dns.iter().cloned()).collect())
}

/// What all sets hold, for whoever only looks.
#[expect(dead_code, reason = "asked for by whoever compares sets with the kernel's")]
pub fn look(voice: &Voice, topology: &Topology) -> Result<Sets, Error> {
    let now = now();
    let shelf = Shelf::look()?;
    let contents = |(name, set): (&Name, &Set)| Ok((name.clone(), load(voice, set, shelf.as_ref())?.contents(now)));
    topology.sets.iter().map(contents).collect()
}

/// What all sets hold with these answers, which are kept. Whoever gives the kernel what comes back must still hold the lock:
/// else it could undo what was added in between.
pub fn renewed(voice: &Voice, topology: &Topology, answers: &Answers, lock: &Lock) -> Result<Sets, Error> {
    if topology.sets.is_empty() {
        return Ok(Sets::new());
    }
    renew(voice, topology.sets.values(), answers, lock)
}

/// Asks the names of all sets and keeps what is answered.
pub fn refresh(voice: &Voice, topology: &Topology) -> Result<Sets, Error> {
    if topology.sets.is_empty() {
        return Ok(Sets::new());
    }
    kernel::may("keep what sets hold", &[ENTER, CHANGE])?;
    let answers = ask(topology.sets.values());
    let run = RunDirectory::open()?;
    let lock = run.lock(|| voice.say("waiting for another run of wire to end"))?;
    renewed(voice, topology, &answers, &lock)
}

fn renew<'a>(
    voice: &Voice,
    sets: impl IntoIterator<Item = &'a Set>,
    answers: &Answers,
    _lock: &Lock,
) -> Result<Sets, Error> {
    let now = now();
    let shelf = Shelf::open()?;
    // All are read before anything is written: where one cannot be, nothing has changed.
    let sources = sets.into_iter().map(|set| load(voice, set, Some(&shelf))).collect::<Result<Vec<_>, _>>()?;
    let mut renewed = Sets::new();
    for mut source in sources {
        let set = source.set;
        learn(set, &mut source.kept, answers, now).iter().for_each(|warning| voice.warn(warning));
        shelf.put(&set.name, &mut source.kept, now)?;
        renewed.insert(set.name.clone(), source.contents(now));
    }
    Ok(renewed)
}

/// Reads what is known of a set: what is kept, and its file. A file that cannot be taken is stood in for by its last good
/// lines, where there are any.
fn load<'a>(voice: &Voice, set: &'a Set, shelf: Option<&Shelf>) -> Result<Source<'a>, Error> {
    let mut kept = shelf.map_or(Ok(Kept::default()), |shelf| shelf.take(&set.name))?;
    let lines = match &set.file {
        None => {
            kept.file = None;
            Vec::new()
        }
        Some(path) => match (file::read(path), kept.file.as_ref().filter(|file| file.path == *path)) {
            (Ok(Some(lines)), _) => {
                kept.file = Some(kept::LastFile::of(path, &lines));
                lines
            }
            (Ok(None), _) => {
                kept.file = None;
                let warning = Error::failed(format!("set `{}`: there is no file {path}, so it adds nobody", set.name));
                voice.warn(&warning.hint("make one, even an empty one, or strike `file` from the set"));
                Vec::new()
            }
            (Err(error), Some(last)) => {
                let message = format!("set `{}`: {}; its last good lines stay", set.name, error.message);
                voice.warn(&Error { message, ..error });
                last.lines()
            }
            (Err(error), None) => {
                let message = format!("set `{}`: {}, and no good lines of it are remembered", set.name, error.message);
                return Err(Error { message, ..error });
            }
        },
    };
    Ok(Source { set, kept, lines })
}
