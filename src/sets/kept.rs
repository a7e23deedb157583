//! What of a set outlives a run and a boot: `/var/lib/wire/sets/NAME.set`, for root alone, a text of one thing a line. What was
//! added, with and without an end, the last good answers of its names, and the last good lines of its file, for the day when
//! those have a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::sys::stat::Mode;

use super::Expiry;
use super::dns::Kind;
use super::file::Line;
use crate::error::Error;
use crate::kernel::store::Store;
use crate::topology::Name;

const DIRECTORY: &str = "/var/lib/wire";
const SETS: &str = "sets";
/// Others keep their files there too: sets that they write, certificates that they read.
const MODE: Mode = Mode::from_bits_truncate(0o755);
/// The file of a set may be remembered whole, with a word more in each line.
const LARGEST: u64 = 64 << 20;

/// How long something was added for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// In seconds since 1970.
    pub until: u64,
    /// In seconds.
    pub length: u64,
}

impl Term {
    /// When it ends. A clock that was set back, as one without a battery is by every boot, makes no term longer than it was.
    pub fn expiry(self, now: u64) -> Expiry {
        Expiry(self.until.min(now.saturating_add(self.length)))
    }
}

/// The last good answer of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In seconds since 1970.
    pub asked: u64,
    pub addresses: BTreeSet<IpAddr>,
}

/// The last good lines of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFile {
    pub path: String,
    pub elements: BTreeSet<IpNetwork>,
}

impl LastFile {
    pub fn of(path: &str, lines: &[Line]) -> LastFile {
        LastFile { path: path.to_owned(), elements: lines.iter().map(|line| line.network).collect() }
    }

    pub fn lines(&self) -> Vec<Line> {
        self.elements.iter().map(|network| Line { number: None, network: *network }).collect()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// `None`: until it is deleted.
    pub added: BTreeMap<IpNetwork, Option<Term>>,
    pub answers: BTreeMap<(String, Kind), Answer>,
    pub file: Option<LastFile>,
}

impl Kept {
    /// Forgets what has ended.
    pub fn prune(&mut self, now: u64) {
        self.added.retain(|_, term| term.is_none_or(|term| term.expiry(now).remaining(now) > 0));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (network, term) in &self.added {
            let _ = match term {
                None => writeln!(text, "added {network}"),
                Some(Term { until, length }) => writeln!(text, "added {network} until {until} of {length}"),
            };
        }
        for ((name, kind), answer) in &self.answers {
            let _ = write!(text, "answer {name} {kind} {}", answer.asked);
            for address in &answer.addresses {
                let _ = write!(text, " {address}");
            }
            text.push('\n');
        }
        if let Some(file) = &self.file {
            let _ = writeln!(text, "file {}", file.path);
            for network in &file.elements {
                let _ = writeln!(text, "line {network}");
            }
        }
        text
    }

    /// The same read again, or the first line that is none of ours.
    fn read(text: &str) -> Result<Kept, usize> {
        let mut kept = Kept::default();
        for (number, line) in (1usize..).zip(text.lines()) {
            kept.line(line).ok_or(number)?;
        }
        Ok(kept)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "added" => {
                let words: Vec<&str> = rest.split(' ').collect();
                let (network, term) = match words[..] {
                    [network] => (network, None),
                    [network, "until", until, "of", length] => {
                        (network, Some(Term { until: until.parse().ok()?, length: length.parse().ok()? }))
                    }
                    _ => return None,
                };
                self.added.insert(network.parse().ok()?, term);
            }
            "answer" => {
                let mut words = rest.split(' ');
                let (name, kind) = (words.next()?.to_owned(), Kind::named(words.next()?)?);
                let asked = words.next()?.parse().ok()?;
                let addresses = words.map(|address| address.parse().ok()).collect::<Option<_>>()?;
                self.answers.insert((name, kind), Answer { asked, addresses });
            }
            "file" => self.file = Some(LastFile { path: rest.to_owned(), elements: BTreeSet::new() }),
            "line" => drop(self.file.as_mut()?.elements.insert(rest.parse().ok()?)),
            _ => return None,
        }
        Some(())
    }
}

/// Where all of it is kept, held open.
pub struct Shelf(Store);

impl Shelf {
    /// Opens it, if anything was ever kept.
    pub fn look() -> Result<Option<Shelf>, Error> {
        let Some(directory) = Store::look(DIRECTORY)? else { return Ok(None) };
        Ok(directory.look_into(SETS)?.map(Shelf))
    }

    /// Opens it, made where it is missing.
    pub fn open() -> Result<Shelf, Error> {
        Ok(Shelf(Store::open(DIRECTORY, MODE)?.enter(SETS)?))
    }

    pub fn take(&self, set: &Name) -> Result<Kept, Error> {
        let name = file_of(set);
        let Some(text) = self.0.read(&name, LARGEST)? else { return Ok(Kept::default()) };
        Kept::read(&text).map_err(|line| self.0.damaged(&name, &format!("line {line} says nothing that wire writes")))
    }

    /// Writes what is to be kept from now on, if that is not what is there already.
    pub fn put(&self, set: &Name, kept: &Kept) -> Result<(), Error> {
        self.0.tidy(&file_of(set));
        if *kept == self.take(set)? {
            return Ok(());
        }
        match kept.text() {
            nothing if nothing.is_empty() => self.0.remove(&file_of(set)),
            text => self.0.write(&file_of(set), text.as_bytes()),
        }
    }
}

/// A name has no `/` and does not begin with a dot.
fn file_of(set: &Name) -> String {
    format!("{set}.set")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network() -> impl Strategy<Value = IpNetwork> {
        any::<IpAddr>().prop_map(IpNetwork::from)
    }

    fn term() -> impl Strategy<Value = Term> {
        any::<(u64, u64)>().prop_map(|(until, length)| Term { until, length })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            added in prop::collection::btree_map(network(), prop::option::of(term()), 0..8),
            answers in prop::collection::btree_map(
                ("[a-z0-9.-]{1,20}", prop_oneof![Just(Kind::A), Just(Kind::Aaaa)]),
                (any::<u64>(), prop::collection::btree_set(any::<IpAddr>(), 0..4)),
                0..6,
            ),
            file in prop::option::of(("/[^\\p{Cc}]{0,30}", prop::collection::btree_set(network(), 0..8))),
        ) {
            let answers = answers.into_iter().map(|(key, (asked, addresses))| (key, Answer { asked, addresses }));
            let file = file.map(|(path, elements)| LastFile { path, elements });
            let kept = Kept { added, answers: answers.collect(), file };
            prop_assert_eq!(Kept::read(&kept.text()), Ok(kept));
        }

        #[test]
        fn any_text_is_survived(text in "((added|answer|file|line|until|of|A|192.0.2.1/32|9| |\n)|(?s).){0,60}") {
            if let Err(line) = Kept::read(&text) {
                prop_assert!((1..=text.lines().count()).contains(&line));
            }
        }

        /// Whatever the clock does, nothing lasts longer than it was added for, nor longer than it was to last.
        #[test]
        fn no_term_grows(start in 0..1u64 << 40, length in 1..1u64 << 32, now in 0..1u64 << 41) {
            let term = Term { until: start + length, length };
            let left = term.expiry(now).remaining(now);
            prop_assert!(left <= length);
            prop_assert_eq!(left == 0, now >= start + length);
        }
    }
}
