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
mod names;
mod range;
mod resolver;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;

use crate::error::Error;
use crate::kernel::run::Lock;
use crate::rules::Ranges;
use crate::topology::{Name, Set, Topology};
use crate::voice::Voice;

use file::Line;
use kept::{Kept, Shelf};
use names::{learn, refusal};

pub use ask::Answers;
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

/// The seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The name servers that a `resolv.conf` names, without those of one link alone.
pub fn nameservers(text: &str) -> Vec<IpAddr> {
    resolver::servers(text, |_| None).into_iter().map(|server| server.ip()).collect()
}

/// What has to be asked before the sets can be renewed: it takes up to two seconds where nobody answers, so that it is done
/// before the lock is taken.
pub fn ask<'a>(sets: impl IntoIterator<Item = &'a Set>) -> Answers {
    ask::ask(sets.into_iter().flat_map(|set| set.dns.iter().cloned()).collect())
}

/// What all sets hold, for whoever only looks.
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

/// The contents of sets as the file means them: networks, which may overlap.
pub fn networks(sets: &Sets) -> BTreeMap<Name, Vec<IpNetwork>> {
    sets.iter().map(|(name, contents)| (name.clone(), contents.elements.keys().copied().collect())).collect()
}

/// The contents of sets as rules use them: ranges that do not overlap, with the seconds that are left.
pub fn ranges(sets: &Sets) -> Ranges {
    let now = now();
    let left = |expiry: Option<Expiry>| expiry.map(|expiry| expiry.remaining(now).max(1));
    let of = |contents: &Contents| {
        let ranges = range::disjoint(&contents.elements).into_iter();
        ranges.map(|(first, last, expiry)| (first, last, left(expiry))).collect()
    };
    sets.iter().map(|(name, contents)| (name.clone(), of(contents))).collect()
}

/// The same for these sets alone.
pub fn renew<'a>(
    voice: &Voice,
    sets: impl IntoIterator<Item = &'a Set>,
    answers: &Answers,
    _lock: &Lock,
) -> Result<Sets, Error> {
    let now = now();
    let mut shelf = Shelf::look()?;
    // All are read before anything is written: where one cannot be, nothing has changed.
    let sources = sets.into_iter().map(|set| load(voice, set, shelf.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let mut renewed = Sets::new();
    for mut source in sources {
        let set = source.set;
        learn(set, &mut source.kept, answers, now).iter().for_each(|warning| voice.warn(warning));
        keep(&mut shelf, &mut source, now)?;
        renewed.insert(set.name.clone(), source.contents(now));
    }
    Ok(renewed)
}

/// Keeps what is known of a set, on a shelf that is made where there is none and something to keep.
fn keep(shelf: &mut Option<Shelf>, source: &mut Source, now: u64) -> Result<(), Error> {
    source.kept.prune(now);
    if shelf.is_none() && source.kept != Kept::default() {
        *shelf = Some(Shelf::open()?);
    }
    shelf.as_ref().map_or(Ok(()), |shelf| shelf.put(&source.set.name, &source.kept))
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
