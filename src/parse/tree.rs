//! The file as a tree of words with their places: tables whose unknown keys are told at once, values that know what they
//! are wanted to be. It knows which keys a table may have, and nothing of what they mean.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Fault;
use crate::topology::{Name, Place};

use crate::near::{nearest, shown};

/// A thing the file says, and where.
#[derive(Clone, Debug)]
pub struct Said<T> {
    pub it: T,
    pub place: Place,
}

/// The text of a file, the places in it, and what has been found wrong so far. Faults are gathered behind a cell, so that
/// every reader can go on after one and nobody has to carry a list.
pub struct Page<'t> {
    pub text: &'t str,
    starts: Vec<usize>,
    /// How many characters stand before each block of the text: lines may be as long as the file.
    blocks: Vec<usize>,
    faults: RefCell<Vec<Fault>>,
    sets: RefCell<Vec<(Said<Name>, Rc<str>)>>,
    /// Keys that stand below the wrong table.
    strays: RefCell<Vec<String>>,
}

const BLOCK: usize = 64;

/// How many characters begin in these bytes of a text.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

impl<'t> Page<'t> {
    pub fn new(text: &'t str) -> Page<'t> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let counts = text.as_bytes().chunks(BLOCK).map(characters);
        let sum = |before: &mut usize, count| Some(std::mem::replace(before, *before + count));
        let blocks = counts.scan(0, sum).collect();
        let (faults, sets, strays) = Default::default();
        Page { text, starts, blocks, faults, sets, strays }
    }

    /// The place of a byte of the text.
    pub fn place(&self, offset: usize) -> Place {
        let line = self.line(offset);
        // A byte order mark is no character that anybody sees.
        let mark = usize::from(line == 1 && offset > 0 && self.text.starts_with('\u{feff}'));
        Place { line, column: self.before(offset) - self.before(self.starts[line - 1]) + 1 - mark }
    }

    /// How many characters stand before a byte of the text.
    fn before(&self, offset: usize) -> usize {
        let block = (offset / BLOCK).min(self.blocks.len().saturating_sub(1));
        let within = self.text.as_bytes().get(block * BLOCK..offset).unwrap_or_default();
        self.blocks.get(block).copied().unwrap_or_default() + characters(within)
    }

    /// The line a byte of the text stands in, without its end.
    pub fn line_of(&self, offset: usize) -> &'t str {
        let rest = self.text.get(self.starts[self.line(offset) - 1]..).unwrap_or_default();
        rest.lines().next().unwrap_or_default()
    }

    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset).max(1)
    }

    pub fn fault(&self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        let fault = Fault { place, message: message.into(), hint: Some(hint.into()) };
        self.faults.borrow_mut().push(fault);
    }

    pub fn is_clean(&self) -> bool {
        self.count() == 0
    }

    /// How many faults there are so far.
    pub fn count(&self) -> usize {
        self.faults.borrow().len()
    }

    /// Whether a key stands below the wrong table: that the right one lacks it is no second mistake.
    pub fn has_stray(&self, key: &str) -> bool {
        self.strays.borrow().iter().any(|stray| stray == key)
    }

    /// Remembers that a set is named here; whether there is one is known only at the end of the file.
    pub fn names_set(&self, set: Said<Name>, what: &Rc<str>) {
        self.sets.borrow_mut().push((set, what.clone()));
    }

    pub fn sets_named(&self) -> Vec<(Said<Name>, Rc<str>)> {
        self.sets.take()
    }

    /// What is wrong, in the order of the file.
    pub fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort();
        faults.dedup();
        faults
    }
}

/// A kind of table: how its header is written, and its keys, each with an example.
pub struct Kind {
    pub header: &'static str,
    pub keys: &'static [(&'static str, &'static str)],
}

impl Kind {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|(key, _)| *key)
    }

    pub fn example(&self, key: &str) -> Option<&'static str> {
        self.keys.iter().find(|(known, _)| *known == key).map(|(_, example)| *example)
    }
}

/// A table of the file.
pub struct Table<'t> {
    page: &'t Page<'t>,
    kind: &'static Kind,
    what: Rc<str>,
    pub place: Place,
    tree: &'t DeTable<'t>,
    /// Keys that are not there, but were meant by one that is misspelt: that they are missing is no second mistake.
    meant: Vec<&'static str>,
}

impl<'t> Table<'t> {
    /// The table, after telling which of its keys are unknown. `kinds` are all tables of the file, so that a key below the
    /// wrong one can be told where it belongs.
    pub fn new(
        page: &'t Page<'t>,
        kind: &'static Kind,
        what: impl Into<Rc<str>>,
        place: Place,
        tree: &'t DeTable<'t>,
    ) -> Table<'t> {
        let mut table = Table { page, kind, what: what.into(), place, tree, meant: Vec::new() };
        for (key, _) in tree.iter().filter(|(key, _)| kind.example(key.get_ref()).is_none()) {
            table.unknown(key.get_ref(), page.place(key.span().start));
        }
        table
    }

    fn unknown(&mut self, key: &str, place: Place) {
        let near = nearest(key, self.kind.names());
        let homes: Vec<_> = super::kinds::KINDS.iter().filter(|kind| kind.example(key).is_some()).collect();
        let typo = near.filter(|near| homes.is_empty() || strsim::damerau_levenshtein(key, near) == 1);
        let hint = match (typo, &homes[..]) {
            (Some(near), _) => {
                self.meant.push(near);
                format!("did you mean `{near}`?")
            }
            (None, []) => match super::kinds::KINDS.iter().find_map(|kind| Some((kind, nearest(key, kind.names())?))) {
                Some((kind, near)) => format!("did you mean `{near}`, which belongs {}?", home(kind)),
                None => {
                    let known: Vec<_> = self.kind.names().map(|key| format!("`{key}`")).collect();
                    format!("the keys here are {}", known.join(", "))
                }
            },
            (None, homes) => {
                self.page.strays.borrow_mut().push(key.to_owned());
                let homes: Vec<_> = homes.iter().map(|kind| home(kind)).collect();
                format!("`{key}` belongs {}", homes.join(", or "))
            }
        };
        let message = format!("unknown key `{}`", shown(key));
        self.page.fault(place, prefixed(&self.what, &message), hint);
    }

    pub fn what(&self) -> &Rc<str> {
        &self.what
    }

    /// What is said of a thing that has no name until its table is read.
    pub fn rename(&mut self, what: impl Into<Rc<str>>) {
        self.what = what.into();
    }

    /// Whether the key is there, be it misspelt.
    pub fn has(&self, key: &'static str) -> bool {
        self.tree.get(key).is_some() || self.meant.contains(&key)
    }

    /// Whether the key is there, but misspelt: what it says cannot be known.
    pub fn misspells(&self, key: &str) -> bool {
        self.meant.contains(&key)
    }

    pub fn value(&self, key: &'static str) -> Option<Value<'t>> {
        let (key, tree) = self.tree.get_key_value(key)?;
        Some(self.entry(key, tree))
    }

    /// The value of a key that must be there.
    pub fn required(&self, key: &'static str) -> Option<Value<'t>> {
        if !self.has(key) {
            let hint = format!("add `{}`", self.kind.example(key).unwrap_or(key));
            self.fault(format!("`{key}` is missing"), hint);
        }
        self.value(key)
    }

    fn entry(&self, key: &'t Spanned<toml::de::DeString<'t>>, tree: &'t Spanned<DeValue<'t>>) -> Value<'t> {
        Value {
            page: self.page,
            example: self.kind.example(key.get_ref()),
            what: self.what.clone(),
            key: key.get_ref(),
            at: key.span().start,
            tree,
        }
    }

    pub fn fault(&self, message: impl AsRef<str>, hint: impl Into<String>) {
        self.page.fault(self.place, prefixed(&self.what, message.as_ref()), hint);
    }
}

/// The message with the name of the thing it is about in front.
fn prefixed(what: &str, message: &str) -> String {
    if what.is_empty() { message.to_owned() } else { format!("{what}: {message}") }
}

/// Where a kind of table's keys belong.
fn home(kind: &Kind) -> String {
    match kind.header {
        "" => "at the top of the file, above the first [table]".to_owned(),
        header if header.starts_with('[') => format!("below {header}"),
        header => format!("in {header}"),
    }
}

/// A value of the file, and the key it stands behind.
#[derive(Clone)]
pub struct Value<'t> {
    pub page: &'t Page<'t>,
    example: Option<&'static str>,
    pub what: Rc<str>,
    pub key: &'t str,
    at: usize,
    tree: &'t Spanned<DeValue<'t>>,
}

impl<'t> Value<'t> {
    pub fn place(&self) -> Place {
        self.page.place(self.tree.span().start)
    }

    /// The place of its key: of a table, the name in its header.
    pub fn key_place(&self) -> Place {
        self.page.place(self.at)
    }

    pub fn span(&self) -> Range<usize> {
        self.tree.span()
    }

    pub fn fault(&self, message: impl AsRef<str>, hint: impl Into<String>) {
        self.page.fault(self.place(), prefixed(&self.what, message.as_ref()), hint);
    }

    pub fn said<T>(&self, it: T) -> Said<T> {
        Said { it, place: self.place() }
    }

    pub fn is_table(&self) -> bool {
        matches!(self.tree.get_ref(), DeValue::Table(_))
    }

    pub fn is_list(&self) -> bool {
        matches!(self.tree.get_ref(), DeValue::Array(_))
    }

    pub fn is_word(&self) -> bool {
        matches!(self.tree.get_ref(), DeValue::String(_))
    }

    /// Whether it is a table within `{ … }`.
    pub fn is_inline(&self) -> bool {
        self.raw().starts_with('{')
    }

    /// Where it ends in the text: a table below a header, behind the last of its values.
    pub fn end(&self) -> usize {
        let below = !self.is_inline() && (self.is_table() || self.is_list());
        if below { self.last().max(self.span().end) } else { self.span().end }
    }

    /// Where the last thing in it ends.
    pub fn last(&self) -> usize {
        let end = |tree| Value { tree, ..self.clone() }.end();
        let last = match self.tree.get_ref() {
            DeValue::Table(table) => table.iter().map(|(_, tree)| end(tree)).max(),
            DeValue::Array(list) => list.iter().map(end).max(),
            _ => None,
        };
        last.unwrap_or(self.span().start)
    }

    /// The same, said of another thing.
    pub fn called(&self, what: impl Into<Rc<str>>) -> Value<'t> {
        Value { what: what.into(), ..self.clone() }
    }

    /// The string behind a key of a table, before the table is read: what messages call the thing by.
    pub fn peek(&self, key: &str) -> Option<&'t str> {
        match self.tree.get_ref() {
            DeValue::Table(tree) => tree.get(key)?.get_ref().as_str(),
            _ => None,
        }
    }

    fn raw(&self) -> &'t str {
        self.page.text.get(self.tree.span()).unwrap_or_default()
    }

    /// Tells that the value is of the wrong type.
    fn wrong<T>(&self, wanted: &str, hint: Option<String>) -> Option<T> {
        let found = match self.tree.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let hint = hint.unwrap_or_else(|| format!("write `{}`", self.example.unwrap_or(self.key)));
        self.fault(format!("`{}` wants {wanted}, not {found}", shown(self.key)), hint);
        None
    }

    pub fn word(&self) -> Option<Word<'t>> {
        match self.tree.get_ref() {
            DeValue::String(text) => {
                Some(Word { text, page: self.page, what: self.what.clone(), span: self.tree.span() })
            }
            DeValue::Array(_) | DeValue::Table(_) => self.wrong("a string", None),
            _ => self.wrong("a string", Some(format!("put it in quotes: `\"{}\"`", shown(self.raw())))),
        }
    }

    pub fn truth(&self) -> Option<bool> {
        match self.tree.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => self.wrong("true or false", Some(format!("write `{0} = true` or `{0} = false`", self.key))),
        }
    }

    pub fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(number) = self.tree.get_ref() else {
            let digits = self.raw().trim_matches(['"', '\'']);
            let quoted = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            return self.wrong("a whole number", quoted.then(|| format!("write `{} = {digits}`", self.key)));
        };
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            let message = format!("`{}` is out of range: {}", self.key, shown(self.raw()));
            self.fault(message, format!("it may be {} to {}", range.start(), range.end()));
        }
        number
    }

    pub fn list(&self) -> Option<Vec<Value<'t>>> {
        match self.tree.get_ref() {
            DeValue::Array(list) => Some(list.iter().map(|tree| Value { tree, ..self.clone() }).collect()),
            DeValue::String(_) => self.wrong("a list", Some(format!("write `{} = [{}]`", self.key, shown(self.raw())))),
            _ => self.wrong("a list", None),
        }
    }

    pub fn words(&self) -> Vec<Word<'t>> {
        self.list().unwrap_or_default().iter().filter_map(Value::word).collect()
    }

    pub fn table(&self, kind: &'static Kind, what: impl Into<Rc<str>>) -> Option<Table<'t>> {
        match self.tree.get_ref() {
            DeValue::Table(tree) => Some(Table::new(self.page, kind, what, self.place(), tree)),
            _ => self.wrong("a table", None),
        }
    }

    /// The entries of a table whose keys are names, in the order of the file, each with its key as a word. What is wrong
    /// with one is said of `what`.
    pub fn named(&self, what: impl Into<Rc<str>>) -> Vec<(Word<'t>, Value<'t>)> {
        let DeValue::Table(tree) = self.tree.get_ref() else {
            self.wrong::<()>("a table", None);
            return Vec::new();
        };
        let what = what.into();
        let mut entries: Vec<_> = tree.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entry = |(key, tree): (&'t Spanned<toml::de::DeString<'t>>, &'t Spanned<DeValue<'t>>)| {
            let value = Value { tree, key: key.get_ref(), at: key.span().start, ..self.called(what.clone()) };
            (Word { text: key.get_ref(), page: self.page, what: what.clone(), span: key.span() }, value)
        };
        entries.into_iter().map(entry).collect()
    }
}

/// A string of the file, or a key that is a name.
#[derive(Clone)]
pub struct Word<'t> {
    pub text: &'t str,
    pub page: &'t Page<'t>,
    pub what: Rc<str>,
    span: Range<usize>,
}

impl<'t> Word<'t> {
    /// Tells a key that stands where a name is expected, and where it belongs.
    pub fn stray(&self, kind: &Kind) {
        self.page.strays.borrow_mut().push(self.text.to_owned());
        self.fault(format!("`{}` names no module here", self.text), format!("`{}` belongs {}", self.text, home(kind)));
    }

    /// A text that is one word.
    pub fn alone(page: &'t Page<'t>) -> Word<'t> {
        Word { text: page.text, page, what: "".into(), span: 0..page.text.len() }
    }

    pub fn place(&self) -> Place {
        self.page.place(self.span.start)
    }

    pub fn said<T>(&self, it: T) -> Said<T> {
        Said { it, place: self.place() }
    }

    /// The place of a part of it, by its offset in the text; the whole word's where escapes have moved it.
    pub fn part(&self, offset: usize) -> Place {
        let raw = self.page.text.get(self.span.clone()).unwrap_or_default();
        let plain = raw.get(1..raw.len().saturating_sub(1)).is_some_and(|inner| inner == self.text);
        self.page.place(if plain { self.span.start + 1 + offset } else { self.span.start })
    }

    pub fn fault(&self, message: impl AsRef<str>, hint: impl Into<String>) {
        self.page.fault(self.place(), prefixed(&self.what, message.as_ref()), hint);
    }

    pub fn fault_in(&self, offset: usize, message: impl AsRef<str>, hint: impl Into<String>) {
        self.page.fault(self.part(offset), prefixed(&self.what, message.as_ref()), hint);
    }
}
