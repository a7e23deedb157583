//! `wire`: text → topology → wanted state; kernel → seen state; their difference is the plan, and every command is a part of
//! that one line. This is the only room that prints.

mod cli;
mod desired;
mod error;
mod file;
mod kernel;
mod lab;
mod near;
mod parse;
mod plan;
mod report;
mod state;
mod target;
mod topology;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};

use cli::{Cli, Colour, Command};
use error::{Error, Exit, Fault};
use kernel::run::RunDirectory;
use kernel::{Kernel, Where};
use plan::{Action, Plan};
use report::{Paint, Report};
use state::State;
use target::Scope;
use topology::{Name, Topology};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let voice = Voice::of(&cli);
    let exit = run(&cli, &voice).unwrap_or_else(|error| {
        voice.complain(&report::error(&error, voice.err));
        error.exit
    });
    ExitCode::from(exit as u8)
}

fn run(cli: &Cli, voice: &Voice) -> Result<Exit, Error> {
    match &cli.command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "wire", &mut text);
            voice.print(&String::from_utf8_lossy(&text));
            return Ok(Exit::Done);
        }
        Command::Man => {
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
            rendered.map_err(|error| Error::failed(format!("cannot make the manual page: {error}")))?;
            voice.print(&String::from_utf8_lossy(&text));
            return Ok(Exit::Done);
        }
        _ => {}
    }
    let path = cli.file.display().to_string();
    let text = file::read(&cli.file, cli.trust_owner.as_deref())?;
    if let Command::Number = cli.command {
        return number(cli, voice, &text);
    }
    let (topology, warnings) = match parse::topology(&text) {
        Ok(topology) => {
            let warnings = parse::warnings(&topology);
            (topology, warnings)
        }
        Err(faults) => return Ok(voice.faults(&path, &text, &faults)),
    };
    match &cli.command {
        Command::Check => Ok(check(voice, &path, &text, &topology, &warnings)),
        Command::Plan(targets) => plan_only(voice, &topology, &Scope::of(&topology, &targets.targets)?),
        Command::Up { targets, strict } => up(voice, &topology, &Scope::of(&topology, &targets.targets)?, *strict),
        Command::Down(targets) => down(voice, &topology, &Scope::of(&topology, &targets.targets)?),
        Command::Audit(targets) => audit(voice, &topology, &Scope::of(&topology, &targets.targets)?),
        Command::Lab { node, command } => lab::run(voice, topology, node, command),
        Command::Why { .. } => Ok(Exit::Done),
        Command::Number | Command::Completions { .. } | Command::Man => Ok(Exit::Done),
    }
}

fn number(cli: &Cli, voice: &Voice, text: &str) -> Result<Exit, Error> {
    match parse::number(text) {
        Ok((numbered, filled)) => {
            if !filled.is_empty() {
                file::replace(&cli.file, &numbered)?;
            }
            if voice.json {
                let wires = filled.iter().map(|(wire, subnet)| serde_json::json!({ "wire": wire, "subnet": subnet }));
                voice.print_json(&serde_json::json!({ "numbered": wires.collect::<serde_json::Value>() }));
            } else {
                voice.print(&filled.iter().map(|(wire, subnet)| format!("{wire} {subnet}\n")).collect::<String>());
                voice.say(&format!("{} numbered", count(filled.len(), "wire")));
            }
            Ok(Exit::Done)
        }
        Err(faults) => Ok(voice.faults(&cli.file.display().to_string(), text, &faults)),
    }
}

fn check(voice: &Voice, path: &str, text: &str, topology: &Topology, warnings: &[Fault]) -> Exit {
    for warning in warnings {
        voice.remark(&report::fault("warning", warning, path, text, voice.err));
    }
    if voice.json {
        voice.print_json(&report::check_json(Some(topology), &[], warnings));
    } else {
        let (wires, nodes) = (count(topology.wires.len(), "wire"), count(topology.nodes.len(), "node"));
        voice.say(&format!("{path}: {wires}, {nodes}, {}: valid", count(topology.modules.len(), "module")));
    }
    Exit::Done
}

/// Which namespaces a scope needs to see.
fn nodes_of(topology: &Topology, scope: &Scope) -> BTreeSet<Name> {
    let wires = topology.wires.iter().filter(|wire| scope.wires.contains(&wire.name));
    let ends = wires.flat_map(|wire| wire.ends.iter().map(|end| end.node.clone()));
    ends.chain(scope.nodes.iter().cloned()).collect()
}

fn observe(kernel: &mut Kernel, topology: &Topology, scope: &Scope) -> Result<State, Error> {
    let seen = if scope.everything {
        kernel.observe(topology, &Where::Everywhere)?
    } else {
        kernel.observe(topology, &Where::Nodes(&nodes_of(topology, scope)))?
    };
    Ok(desired::narrow(&seen, scope))
}

/// For commands that only look: the lock is somebody else's to take, and nothing is made for it.
fn look(topology: &Topology, scope: &Scope) -> Result<State, Error> {
    kernel::may("look into other network namespaces", &[kernel::ENTER])?;
    let mut kernel = Kernel::open(RunDirectory::look()?)?;
    observe(&mut kernel, topology, scope)
}

fn plan_only(voice: &Voice, topology: &Topology, scope: &Scope) -> Result<Exit, Error> {
    let seen = look(topology, scope)?;
    let plan = plan::diff(&desired::up(topology, scope, &seen), &seen);
    if voice.json {
        voice.print_json(&report::plan_json(&plan));
    } else {
        voice.print(&report::changes(&plan.changes, voice.out));
        voice.findings(&plan);
        voice.waits(&plan);
        if plan.is_empty() {
            voice.say("nothing to do");
        }
    }
    Ok(if plan.is_empty() { Exit::Done } else { Exit::Differs })
}

fn audit(voice: &Voice, topology: &Topology, scope: &Scope) -> Result<Exit, Error> {
    let seen = look(topology, scope)?;
    let audit = audit_of(topology, scope, &seen);
    voice.audit(&audit);
    Ok(if audit.deviations.is_empty() { Exit::Done } else { Exit::Differs })
}

fn audit_of(topology: &Topology, scope: &Scope, seen: &State) -> report::Audit {
    let plan = plan::diff(&desired::up(topology, scope, seen), seen);
    report::audit(topology, scope, seen, &plan, plan::strangers(topology, seen))
}

fn up(voice: &Voice, topology: &Topology, scope: &Scope, strict: bool) -> Result<Exit, Error> {
    let want = |seen: &State| desired::up(topology, scope, seen);
    let (report, seen) = change(voice, topology, scope, want)?;
    voice.report(&report, "up");
    let named = |name: &Name| scope.named.contains(name);
    let waits = (strict && !report.waiting.is_empty())
        || seen.waiting.keys().any(named)
        || report.waiting.iter().any(|waiting| named(&waiting.node));
    Ok(if report.is_success() && !waits { Exit::Done } else { Exit::Failed })
}

fn down(voice: &Voice, topology: &Topology, scope: &Scope) -> Result<Exit, Error> {
    let (report, _) = change(voice, topology, scope, desired::down)?;
    voice.report(&report, "down");
    Ok(if report.is_success() { Exit::Done } else { Exit::Failed })
}

/// A container may come back in a new namespace while it is wired: then what is left is done once more, a few times.
const ROUNDS: usize = 4;

/// Makes the kernel what is wanted, and looks again: what is not so then has failed, whatever the kernel answered before.
fn change(
    voice: &Voice,
    topology: &Topology,
    scope: &Scope,
    want: impl Fn(&State) -> State,
) -> Result<(Report, State), Error> {
    kernel::may("wire network namespaces", &[kernel::ENTER, kernel::CHANGE])?;
    let run = RunDirectory::open()?;
    let _lock = run.lock(|| voice.say("waiting for another run of wire to end"))?;
    let mut kernel = Kernel::open(Some(run))?;
    let mut report = Report::default();
    let mut refused: Vec<(plan::Change, String)> = Vec::new();
    for round in 0.. {
        let seen = observe(&mut kernel, topology, scope)?;
        let Plan { changes, waiting, findings } = plan::diff(&want(&seen), &seen);
        if changes.is_empty() || round == ROUNDS {
            report.waiting = waiting;
            report.findings = findings;
            for left in changes {
                report
                    .done
                    .retain(|done| (&done.node, &done.wire, &done.action) != (&left.node, &left.wire, &left.action));
                let same = |(change, _): &&(plan::Change, String)| change.wire == left.wire && change.node == left.node;
                let error = refused.iter().find(same).map(|(_, error)| error.clone());
                let error = error.unwrap_or_else(|| format!("it was done and is not so: {}", left.reason));
                report.failed.push((left, error));
            }
            return Ok((report, seen));
        }
        let plan = Plan { changes, ..Plan::default() };
        let mut progress = Progress::of(voice);
        let refusals = kernel.apply(&plan, &mut |done, total| progress.show(done, total))?;
        progress.end();
        refused = refusals.into_iter().map(|refused| (plan.changes[refused.change].clone(), refused.error)).collect();
        report.done.extend(plan.changes);
        kernel.forget_vanished();
    }
    Ok((report, State::default()))
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Where words go: data to stdout, talk to stderr.
pub struct Voice {
    json: bool,
    quiet: bool,
    verbose: bool,
    out: Paint,
    err: Paint,
}

impl Voice {
    fn of(cli: &Cli) -> Voice {
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
        }
    }

    /// A reader that has gone away (`wire audit | head`) is no failure.
    fn print(&self, text: &str) {
        let _ = std::io::stdout().write_all(text.as_bytes());
    }

    fn print_json(&self, value: &serde_json::Value) {
        self.print(&format!("{value}\n"));
    }

    fn complain(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn remark(&self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }

    fn say(&self, line: &str) {
        self.remark(&format!("{line}\n"));
    }

    fn faults(&self, path: &str, text: &str, faults: &[Fault]) -> Exit {
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

    fn findings(&self, plan: &Plan) {
        for finding in &plan.findings {
            self.complain(&report::error(&Error::failed(&*finding.message).hint(&*finding.hint), self.err));
        }
    }

    fn waits(&self, plan: &Plan) {
        for line in report::waits(&plan.waiting) {
            self.say(&format!("waiting: {line}"));
        }
    }

    fn audit(&self, audit: &report::Audit) {
        if self.json {
            self.print_json(&serde_json::json!(audit));
        } else {
            self.print(&report::audit_table(audit, self.out));
        }
    }

    fn report(&self, report: &Report, verb: &str) {
        if self.json {
            self.print_json(&report::report_json(report));
            return;
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
    }
}

/// How far it is, for a person who looks on while it takes long.
struct Progress {
    start: Instant,
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    fn of(voice: &Voice) -> Progress {
        let on = std::io::stderr().is_terminal() && !voice.quiet && !voice.json;
        Progress { start: Instant::now(), shown: None, on }
    }

    fn show(&mut self, done: usize, total: usize) {
        let now = Instant::now();
        let due = now - self.shown.unwrap_or(self.start) > Duration::from_millis(100);
        if self.on && due && total > 0 {
            self.shown = Some(now);
            let _ = write!(std::io::stderr(), "\rwiring: {:3} %", 100 * done / total);
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
