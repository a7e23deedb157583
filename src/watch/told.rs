//! What `wire watch` says: one event a line, or a JSON object, with the time. What is still so is not said again.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::patience::Aim;
use crate::error::Error;
use crate::plan::{Change, Waiting};
use crate::report::{self, Report};
use crate::topology::Name;
use crate::voice::{Voice, count, utc};

/// What `-q` leaves to be said.
const ERRORS: [&str; 2] = ["failed", "kept"];

pub struct Teller<'a> {
    voice: &'a Voice,
    /// What is wrong and was told.
    told: BTreeSet<String>,
}

impl<'a> Teller<'a> {
    pub fn new(voice: &'a Voice) -> Teller<'a> {
        Teller { voice, told: BTreeSet::new() }
    }

    /// An event in words, or as JSON with these fields.
    pub fn event(&self, event: &str, words: &str, fields: Value) {
        let time = utc(SystemTime::now());
        if self.voice.json {
            let mut object = Map::from_iter([("time".to_owned(), time.into()), ("event".to_owned(), event.into())]);
            object.extend(fields.as_object().cloned().unwrap_or_default());
            self.voice.print_json(&Value::Object(object));
        } else if !self.voice.is_quiet() || ERRORS.contains(&event) {
            self.voice.print(&format!("{} {event}: {words}\n", self.voice.out.faint(&time)));
        }
    }

    /// What was done after a look.
    pub fn mended(&self, report: &Report, took: Duration) {
        if report.done.is_empty() {
            return;
        }
        let nodes: BTreeSet<&Name> = report.done.iter().map(|change| &change.node).collect();
        let names: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
        let changes = count(report.done.len(), "change");
        let words = format!("{} ({changes}, {} ms)", names.join(", "), took.as_millis());
        let fields = json!({
            "nodes": names,
            "changes": report.done.iter().map(report::change).collect::<Value>(),
            "milliseconds": took.as_millis() as u64,
        });
        self.event("mended", &words, fields);
        if !self.voice.json && !self.voice.is_quiet() {
            let lines = report::changes(&report.done, self.voice.out);
            self.voice.print(&lines.lines().map(|line| format!("    {line}\n")).collect::<String>());
        }
    }

    /// What could not be done, what stands in the way and what waits: each once, as long as it is so.
    pub fn wrong(&mut self, report: &Report, is_all: bool) {
        let mut now = BTreeSet::new();
        for (change, error) in &report.failed {
            self.once(&mut now, "failed", &format!("{change}: {error}"), || failed(change, error));
        }
        for finding in &report.findings {
            let words = format!("{} (hint: {})", finding.message, finding.hint);
            self.once(&mut now, "finding", &words, || report::finding(finding));
        }
        for waiting in report.waiting.iter().filter(|_| is_all) {
            let words = format!("wire `{}` waits for `{}`: {}", waiting.wire, waiting.node, waiting.reason);
            self.once(&mut now, "waiting", &words, || waits(waiting));
        }
        match is_all {
            true => self.told = now,
            false => self.told.extend(now),
        }
    }

    fn once(&self, now: &mut BTreeSet<String>, event: &str, words: &str, fields: impl FnOnce() -> Value) {
        if !self.told.contains(words) && !now.contains(words) {
            self.event(event, words, fields());
        }
        now.insert(words.to_owned());
    }

    /// What went wrong and keeps nothing from being done.
    pub fn warn(&mut self, warnings: Vec<Error>) {
        for warning in warnings {
            if self.told.insert(warning.message.clone()) {
                let fields = json!({ "message": warning.message, "hint": warning.hint });
                self.event("warning", &sentence(&warning), fields);
            }
        }
    }

    /// An error that keeps this from being done and nothing else.
    pub fn cannot(&mut self, error: &Error) {
        let words = sentence(error);
        if self.told.insert(words.clone()) {
            self.event("failed", &words, json!({ "error": error.message, "hint": error.hint }));
        }
    }

    /// It is broken so often that it has to wait.
    pub fn backed_off(&mut self, aim: &Aim, wait: Duration) {
        let what = match aim {
            Aim::Everything => "the whole".to_owned(),
            Aim::Node(node) => format!("node `{node}`"),
            Aim::Rules(node) => format!("the rules of `{node}`"),
            Aim::Wire(wire) => format!("wire `{wire}`"),
            Aim::Place(_) => return,
        };
        // Told when it begins to be felt, and not at every doubling.
        if wait >= Duration::from_millis(400) && self.told.insert(format!("{what} backs off")) {
            let words =
                format!("{what} is changed again and again by somebody else: it is mended more seldom from now on");
            self.event("backed-off", &words, json!({ "what": what, "milliseconds": wait.as_millis() as u64 }));
        }
    }

    /// What is right again may be told when it is wrong once more.
    pub fn forget(&mut self) {
        self.told.clear();
    }
}

/// With its hint, on one line.
pub fn sentence(error: &Error) -> String {
    let hint = error.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    format!("{}{hint}", error.message)
}

fn failed(change: &Change, error: &str) -> Value {
    let mut fields = report::change(change);
    fields["error"] = error.into();
    fields
}

fn waits(waiting: &Waiting) -> Value {
    json!({ "wire": waiting.wire, "node": waiting.node, "reason": waiting.reason })
}
