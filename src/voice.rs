//! Where words go: data to stdout, talk to stderr, colours and progress only to a person. The only room that prints.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use crate::cli::{Cli, Colour};
use crate::error::{Error, Exit, Fault};
use crate::plan::Plan;
use crate::prove::Proof;
use crate::report::{self, Paint, Report};

pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A duration as the topology file writes it, unit after unit: `1d2h`, `59m12s`.
pub fn duration(seconds: u64) -> String {
    let mut text = String::new();
    let mut rest = seconds;
    for (unit, length) in [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= length || (unit == "s" && text.is_empty()) {
            text += &format!("{}{unit}", rest / length);
            rest %= length;
        }
    }
    text
}

/// A time as RFC 3339 has it, to the millisecond.
pub fn utc(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", second % 60, since.subsec_millis())
}

/// The day, so many days after 1970-01-01, in the Gregorian calendar. Years begin with March here, so that the leap day is the
/// last of its year, and 400 of them are always 146097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let from_0000 = days + 719_468;
    let (era, day_of_era) = (from_0000 / 146_097, from_0000 % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let january = month >= 10;
    (era * 400 + year + u64::from(january), if january { month - 9 } else { month + 3 }, day)
}

/// Where words go: data to stdout, talk to stderr.
pub struct Voice {
    pub json: bool,
    quiet: bool,
    pub verbose: bool,
    pub out: Paint,
    pub err: Paint,
    lost: Cell<bool>,
    unheard: Cell<bool>,
    spoke: Cell<bool>,
    /// Warnings that somebody else is to tell.
    kept: Option<RefCell<Vec<Error>>>,
}

impl Voice {
    pub fn of(cli: &Cli) -> Voice {
        let paint = |terminal: bool| match cli.color {
            Colour::Always => Paint(true),
            Colour::Never => Paint(false),
            Colour::Auto => Paint(terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())),
        };
        Voice {
            json: cli.json,
            quiet: cli.quiet,
            verbose: cli.verbose,
            out: paint(std::io::stdout().is_terminal()),
            err: paint(std::io::stderr().is_terminal()),
            lost: Cell::new(false),
            unheard: Cell::new(false),
            spoke: Cell::new(false),
            kept: None,
        }
    }

    /// One that says nothing and keeps its warnings, for whoever would say the same again and again.
    pub fn hushed(&self) -> Voice {
        let (lost, unheard, spoke) = Default::default();
        Voice { quiet: true, verbose: false, lost, unheard, spoke, kept: Some(RefCell::default()), ..*self }
    }

    /// The warnings that were kept since.
    pub fn kept(&self) -> Vec<Error> {
        self.kept.as_ref().map(|kept| kept.take()).unwrap_or_default()
    }

    /// A reader that has gone away (`wire audit | head`) is no failure; what is lost on a full disk is.
    pub fn print(&self, text: &str) {
        self.spoke.set(true);
        let mut out = std::io::stdout();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                let error = Error::failed(format!("cannot write the output: {error}"));
                self.complain(&report::error(&error, self.err));
                self.lost.set(true);
            }
            Err(_) => self.unheard.set(true),
            Ok(()) => {}
        }
    }

    /// Whether what is printed still arrives; what prints without end ends when it does not.
    pub fn is_heard(&self) -> bool {
        !self.lost.get() && !self.unheard.get()
    }

    /// The exit code of a run whose output all arrived.
    pub fn code(&self, code: u8) -> u8 {
        if self.lost.get() { Exit::Failed as u8 } else { code }
    }

    /// Why a command ended without doing what it was asked; as JSON too where nothing else was said so.
    pub fn error(&self, error: &Error) {
        if self.json && !self.spoke.get() {
            self.print_json(&serde_json::json!({ "error": error.message, "hint": error.hint }));
        }
        self.complain(&report::error(error, self.err));
    }

    pub fn print_json(&self, value: &serde_json::Value) {
        self.print(&format!("{value}\n"));
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub fn complain(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    pub fn remark(&self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }

    pub fn say(&self, line: &str) {
        self.remark(&format!("{line}\n"));
    }

    /// What went wrong and keeps nothing from being done.
    pub fn warn(&self, warning: &Error) {
        match &self.kept {
            Some(kept) => kept.borrow_mut().push(warning.clone()),
            None => self.remark(&report::warning(warning, self.err)),
        }
    }

    pub fn faults(&self, path: &str, text: &str, faults: &[Fault]) -> Exit {
        if self.json {
            self.print_json(&report::check_json(None, faults, &[]));
        } else {
            for fault in faults {
                self.complain(&(report::fault("error", fault, path, text, self.err) + "\n"));
            }
            self.complain(&format!("{path}: {}; nothing was changed\n", count(faults.len(), "error")));
        }
        Exit::Invalid
    }

    pub fn plan(&self, plan: &Plan) {
        if self.json {
            self.print_json(&report::plan_json(plan));
            return;
        }
        self.print(&report::changes(&plan.changes, self.out));
        self.findings(plan);
        self.waits(plan);
        if plan.is_empty() {
            self.say("nothing to do");
        }
    }

    fn findings(&self, plan: &Plan) {
        for finding in &plan.findings {
            let said = Error::failed(&*finding.message).hint(&*finding.hint);
            match finding.blocks {
                true => self.complain(&report::error(&said, self.err)),
                false => self.warn(&said),
            }
        }
    }

    fn waits(&self, plan: &Plan) {
        for line in report::waits(&plan.waiting) {
            self.say(&format!("waiting: {line}"));
        }
    }

    pub fn audit(&self, audit: &report::Audit, path: &str) {
        if self.json {
            self.print_json(&serde_json::json!(audit));
        } else {
            self.print(&match audit.published {
                Some(_) => report::published(audit, path, self.out),
                None => report::audit_table(audit, self.out),
            });
            if audit.deviations.is_empty() {
                self.say("audit: in accord with the file");
            }
        }
    }

    /// What passes and what does not.
    pub fn proof(&self, proof: &Proof) {
        if self.json {
            self.print_json(&serde_json::json!(proof));
        } else {
            self.print(&proof.lines(self.out));
            proof.doubts().iter().for_each(|line| self.say(line));
            self.say(&proof.summary());
        }
    }

    /// What a lab did, and how it stood before it was gone.
    pub fn lab(&self, report: &Report, proof: &Proof, audit: &report::Audit) {
        if self.json {
            let up = report::report_json(report);
            self.print_json(&serde_json::json!({ "up": up, "prove": proof, "audit": audit }));
        } else {
            self.report(report, "lab");
            self.proof(proof);
            self.audit(audit, "");
            self.say("the lab is gone again");
        }
    }

    pub fn report(&self, report: &Report, verb: &str) {
        if self.json {
            self.print_json(&report::report_json(report));
            return self.undone_in(report.undone_in);
        }
        if !self.quiet {
            self.print(&report::changes(&report.done, self.out));
        }
        for (change, error) in &report.failed {
            self.complain(&report::error(&Error::failed(format!("{change}: {error}")), self.err));
        }
        let plan = Plan { changes: Vec::new(), waiting: report.waiting.clone(), findings: report.findings.clone() };
        self.findings(&plan);
        self.waits(&plan);
        let blocked = report.findings.iter().filter(|finding| finding.blocks).count();
        match (report.done.len(), report.failed.len() + blocked) {
            (0, 0) => self.say(&format!("{verb}: nothing to do")),
            (done, 0) => self.say(&format!("{verb}: {} done", count(done, "change"))),
            (done, failed) => {
                self.say(&format!("{verb}: {} done, {failed} not; running it again is safe", count(done, "change")))
            }
        }
        self.undone_in(report.undone_in);
    }

    /// What is not to be missed: all of it goes again by itself.
    pub fn undone_in(&self, seconds: Option<u64>) {
        if let Some(seconds) = seconds {
            self.say(&format!("undone again in {}, unless `wire confirm` comes before", duration(seconds)));
        }
    }
}

/// How far it is, for a person who looks on while it takes long.
pub struct Progress {
    start: Instant,
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    pub fn of(voice: &Voice) -> Progress {
        let on = std::io::stderr().is_terminal() && !voice.quiet && !voice.json;
        Progress { start: Instant::now(), shown: None, on }
    }

    pub fn show(&mut self, done: usize, total: usize) {
        let now = Instant::now();
        let due = now - self.shown.unwrap_or(self.start) > Duration::from_millis(100);
        if self.on && due && total > 0 {
            self.shown = Some(now);
            let _ = write!(std::io::stderr(), "\rwiring: {:3} %", 100 * done / total);
        }
    }

    pub fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_file_reads_them() {
        for (seconds, wanted) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3552, "59m12s"), (3600, "1h"), (93_601, "1d2h1s"), (864_000, "10d")]
        {
            assert_eq!(duration(seconds), wanted);
        }
    }

    #[test]
    fn days_are_counted() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_210_096, "2024-02-29T12:34:56.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
