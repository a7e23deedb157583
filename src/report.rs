//! Plans, reports and audits as lines for people and as JSON. It words what others found; it finds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, Exit, Fault};
use crate::foreign;
use crate::hub::heard::AuditedHub;
use crate::plan::{Action, Change, Finding, Plan, RULES, Waiting};
use crate::state::{State, Traffic};
use crate::target::Scope;
use crate::topology::{Name, Topology, Wire};
use crate::why::{Answer, Published};

/// What `up` or `down` did.
#[derive(Debug, Default)]
pub struct Report {
    pub done: Vec<Change>,
    /// With what the kernel said, or what is in the way.
    pub failed: Vec<(Change, String)>,
    pub findings: Vec<Finding>,
    pub waiting: Vec<Waiting>,
    /// Seconds until all of it is undone again, unless it is confirmed.
    pub undone_in: Option<u64>,
}

impl Report {
    /// Whether everything is as it was meant to be, waiting left aside.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && !self.findings.iter().any(|finding| finding.blocks)
    }
}

/// What `audit` found.
#[derive(Debug, Serialize)]
pub struct Audit {
    pub wires: Vec<AuditedWire>,
    pub deviations: Vec<Deviation>,
    /// Those in scope that `wire` runs, where that was asked.
    pub hubs: Vec<AuditedHub>,
    /// What is reachable from outside, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<Vec<Published>>,
}

impl Audit {
    pub fn exit(&self) -> Exit {
        if self.deviations.is_empty() { Exit::Done } else { Exit::Differs }
    }
}

#[derive(Debug, Serialize)]
pub struct AuditedWire {
    pub name: Name,
    pub module: Name,
    pub state: Standing,
    pub ends: Vec<AuditedEnd>,
    /// Packets dropped at either end.
    pub denied: u64,
    /// Packets that audit mode let pass at either end and that would have been dropped.
    pub watched: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Up,
    Waiting,
    Missing,
    Drift,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AuditedEnd {
    pub node: Name,
    pub ifname: String,
    pub address: String,
    pub up: bool,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Deviation {
    pub node: Name,
    pub wire: Option<Name>,
    pub kind: &'static str,
    pub message: String,
    /// What mends it, where `up` does not.
    pub hint: Option<String>,
}

/// Every wire in scope as it is, and everything that is not as the file says.
pub fn audit(topology: &Topology, scope: &Scope, seen: &State, plan: &Plan, strangers: Vec<Finding>) -> Audit {
    let anew = made_anew(plan);
    let mut deviations = Vec::new();
    let unmade: BTreeSet<&Name> =
        plan.changes.iter().filter(|change| change.action == Action::Make).map(|change| &change.node).collect();
    for change in &plan.changes {
        // Where there is no namespace there is nothing in it, and that is said once.
        if change.wire.is_none() && change.action != Action::Make && unmade.contains(&change.node) {
            continue;
        }
        let again = change.wire.as_ref().is_some_and(|wire| anew.contains(wire));
        if again && matches!(change.action, Action::Remove { .. }) {
            continue;
        }
        if let Action::Load(load) = &change.action {
            deviations.extend(load.differences.iter().map(|difference| Deviation {
                node: change.node.clone(),
                wire: difference.wire.clone(),
                kind: change.action.kind(),
                message: format!("rules of {}: {}", change.node, difference.what),
                hint: None,
            }));
            continue;
        }
        deviations.push(Deviation {
            node: change.node.clone(),
            wire: change.wire.clone(),
            kind: if again && matches!(change.action, Action::Create(_)) { "peer" } else { change.action.kind() },
            message: deviation(change),
            hint: None,
        });
    }
    let reported: BTreeSet<_> = plan.findings.iter().map(|finding| finding.message.clone()).collect();
    let strangers = strangers.into_iter().filter(|finding| !reported.contains(&finding.message));
    for Finding { node, wire, kind, message, hint, .. } in plan.findings.iter().cloned().chain(strangers) {
        deviations.push(Deviation { node, wire, kind, message, hint: Some(hint) });
    }
    // A wire is as the file says, even where somebody else's table lets nothing over it.
    let own = deviations.iter().filter(|deviation| !foreign::KINDS.contains(&deviation.kind));
    let mut drifting: BTreeSet<&Name> = own.filter_map(|deviation| deviation.wire.as_ref()).collect();
    // What is wrong with the rules of a node and with no wire's alone is wrong with all of its wires.
    let rules_of = |deviation: &&Deviation| deviation.wire.is_none() && deviation.kind == RULES;
    let open: BTreeSet<&Name> = deviations.iter().filter(rules_of).map(|deviation| &deviation.node).collect();
    let policed = |wire: &&Wire| wire.ends.iter().any(|end| open.contains(&end.node));
    drifting.extend(topology.wires.iter().filter(policed).map(|wire| &wire.name));
    let waiting: BTreeSet<&Name> = plan.waiting.iter().map(|waiting| &waiting.wire).collect();
    let standing = |wire: &Name| match wire {
        wire if waiting.contains(wire) => Standing::Waiting,
        wire if !drifting.contains(wire) => Standing::Up,
        wire if seen.namespaces.values().any(|namespace| namespace.ends.contains_key(wire)) => Standing::Drift,
        _ => Standing::Missing,
    };
    let wires = topology.wires.iter().filter(|wire| scope.wires.contains(&wire.name));
    let wires = wires.map(|wire| AuditedWire {
        name: wire.name.clone(),
        module: wire.module.clone(),
        state: standing(&wire.name),
        ends: ends(wire, seen),
        denied: counted("denied", wire, seen),
        watched: counted("watched", wire, seen),
    });
    Audit { wires: wires.collect(), deviations, hubs: Vec::new(), published: None }
}

/// What the counters of both ends have counted.
fn counted(what: &str, wire: &Wire, seen: &State) -> u64 {
    let counter = format!("{what}.{}", wire.name);
    let here = wire.ends.iter().filter_map(|end| seen.namespaces.get(&end.node));
    here.filter_map(|namespace| namespace.counts.get(counter.as_str())).sum()
}

/// The wires whose link is there and has to be made again.
fn made_anew(plan: &Plan) -> BTreeSet<Name> {
    let of = |wanted: fn(&Action) -> bool| {
        let wires = plan.changes.iter().filter(move |change| wanted(&change.action)).filter_map(|c| c.wire.clone());
        wires.collect::<BTreeSet<Name>>()
    };
    let removed = of(|action| matches!(action, Action::Remove { .. }));
    of(|action| matches!(action, Action::Create(_))).intersection(&removed).cloned().collect()
}

fn ends(wire: &Wire, seen: &State) -> Vec<AuditedEnd> {
    let end = |end: &crate::topology::End| {
        let live = seen.namespaces.get(&end.node).and_then(|namespace| namespace.ends.get(&wire.name));
        let Traffic { received, sent } = live.map(|live| live.traffic).unwrap_or_default();
        let wanted = end.address.to_string();
        AuditedEnd {
            node: end.node.clone(),
            ifname: live.map_or_else(|| end.device.to_string(), |live| live.device.to_string()),
            address: live.map_or(wanted.clone(), |live| {
                let addresses: Vec<String> = live.addresses.iter().map(|address| address.ip().to_string()).collect();
                addresses.iter().find(|ip| **ip == wanted).or(addresses.first()).cloned().unwrap_or_default()
            }),
            up: live.is_some_and(|live| live.up),
            rx_bytes: received,
            tx_bytes: sent,
        }
    };
    wire.ends.iter().map(end).collect()
}

fn deviation(change: &Change) -> String {
    match (&change.action, &change.wire) {
        (Action::Create(ends), Some(wire)) => {
            format!("wire `{wire}` between {} and {}: {}", ends[0].0, ends[1].0, change.reason)
        }
        (Action::Remove { device }, Some(wire)) => {
            format!("wire `{wire}` has a device `{device}` in {}: {}", change.node, change.reason)
        }
        (Action::Remove { device }, None) => format!("device `{device}` in {}: {}", change.node, change.reason),
        (Action::Make | Action::Unmake, _) => format!("{}: {}", change.subject(), change.reason),
        _ => format!("{}: {}: {}", change.node, change.subject(), change.reason),
    }
}

pub fn change(change: &Change) -> Value {
    json!({
        "node": change.node,
        "action": change.action.verb(),
        "subject": change.subject(),
        "reason": change.reason,
    })
}

fn waiting(waiting: &[Waiting]) -> Value {
    waiting.iter().map(|w| json!({ "wire": w.wire, "node": w.node, "reason": w.reason })).collect()
}

pub fn finding(finding: &Finding) -> Value {
    let Finding { node, wire, kind, message, hint, .. } = finding;
    json!({ "node": node, "wire": wire, "kind": kind, "message": message, "hint": hint })
}

pub fn plan_json(plan: &Plan) -> Value {
    json!({
        "changes": plan.changes.iter().map(change).collect::<Value>(),
        "waiting": waiting(&plan.waiting),
        "findings": plan.findings.iter().map(finding).collect::<Value>(),
    })
}

pub fn report_json(report: &Report) -> Value {
    let mut failed: Vec<Value> = Vec::new();
    for (what, error) in &report.failed {
        let mut value = change(what);
        value["error"] = json!(error);
        failed.push(value);
    }
    for finding in report.findings.iter().filter(|finding| finding.blocks) {
        failed.push(json!({
            "node": finding.node,
            "action": "leave",
            "subject": finding.wire,
            "reason": finding.kind,
            "error": finding.message,
        }));
    }
    json!({
        "done": report.done.iter().map(change).collect::<Value>(),
        "failed": failed,
        "waiting": waiting(&report.waiting),
        "warnings": report.findings.iter().filter(|finding| !finding.blocks).map(warning_json).collect::<Value>(),
        "undone-in": report.undone_in,
    })
}

/// Something foreign that kept nothing from being done.
fn warning_json(finding: &Finding) -> Value {
    json!({
        "node": finding.node,
        "wire": finding.wire,
        "kind": finding.kind,
        "message": finding.message,
        "hint": finding.hint,
    })
}

/// `topology` is what a valid file means.
pub fn check_json(topology: Option<&Topology>, faults: &[Fault], warnings: &[Fault]) -> Value {
    let fault = |fault: &Fault| {
        json!({
            "line": fault.place.line,
            "column": fault.place.column,
            "message": fault.message,
            "hint": fault.hint,
        })
    };
    let mut value = json!({
        "ok": topology.is_some(),
        "errors": faults.iter().map(fault).collect::<Value>(),
        "warnings": warnings.iter().map(fault).collect::<Value>(),
    });
    if let Some(topology) = topology {
        value["topology"] = json!(topology);
    }
    value
}

/// Colours that only repeat what the words say.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    fn dress(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bad(self, text: &str) -> String {
        self.dress("1;31", text)
    }

    pub fn good(self, text: &str) -> String {
        self.dress("32", text)
    }

    pub fn careful(self, text: &str) -> String {
        self.dress("33", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.dress("2", text)
    }
}

/// A list of changes, one a line: what, where, why.
pub fn changes(changes: &[Change], paint: Paint) -> String {
    let rows: Vec<[String; 3]> = (changes.iter())
        .map(|change| {
            let place = match &change.action {
                Action::Create(ends) => format!("{} – {}", ends[0].0, ends[1].0),
                _ => change.node.to_string(),
            };
            [change.action.verb().to_owned(), change.subject(), place]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (verbs, subjects, places) = (width(0), width(1), width(2));
    let mut text = String::new();
    for (row, change) in rows.iter().zip(changes) {
        let verb = format!("{:verbs$}", row[0]);
        let verb = match change.action {
            Action::Remove { .. } | Action::Unmake => paint.bad(&verb),
            Action::Create(_) | Action::Make => paint.good(&verb),
            _ => paint.careful(&verb),
        };
        let reason = paint.faint(&change.reason);
        let _ = writeln!(text, "{verb}  {:subjects$}  {:places$}  {reason}", row[1], row[2]);
    }
    text
}

/// Wires that wait, by node: a node that does not run is said once.
pub fn waits(waiting: &[Waiting]) -> Vec<String> {
    let mut nodes: BTreeMap<(&Name, &str), Vec<&str>> = BTreeMap::new();
    for wait in waiting {
        nodes.entry((&wait.node, &wait.reason)).or_default().push(wait.wire.as_str());
    }
    let line = |((node, reason), wires): ((&Name, &str), Vec<&str>)| {
        let (noun, shown) = if wires.len() == 1 { ("wire", 1) } else { ("wires", 5) };
        let mut list = wires.iter().take(shown).map(|wire| format!("`{wire}`")).collect::<Vec<_>>().join(", ");
        if wires.len() > shown {
            let _ = write!(list, " and {} more", wires.len() - shown);
        }
        format!("{noun} {list} for `{node}`: {reason}")
    };
    nodes.into_iter().map(line).collect()
}

/// The audit as a table, each wire a line, and the deviations below it.
pub fn audit_table(audit: &Audit, paint: Paint) -> String {
    let heads = ["WIRE", "MODULE", "STATE", "ENDS", "ADDRESSES", "BYTES", "DENIED"];
    let mut rows: Vec<[String; 7]> = vec![heads.map(str::to_owned)];
    for wire in &audit.wires {
        let [first, second] = &wire.ends[..] else { continue };
        let state = match wire.state {
            Standing::Up => "up",
            Standing::Waiting => "waiting",
            Standing::Missing => "missing",
            Standing::Drift => "drift",
        };
        rows.push([
            wire.name.to_string(),
            wire.module.to_string(),
            state.to_owned(),
            format!("{}:{} – {}:{}", first.node, first.ifname, second.node, second.ifname),
            format!("{} – {}", first.address, second.address),
            format!("{} – {}", bytes(first.tx_bytes), bytes(second.tx_bytes)),
            match wire.watched {
                0 => wire.denied.to_string(),
                watched => format!("{} ({watched} watched)", wire.denied),
            },
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padded = format!("{cell:width$}");
            let painted = match (i, column, cell.as_str()) {
                (0, _, _) => paint.faint(&padded),
                (_, 2, "up") => paint.good(&padded),
                (_, 2, "missing" | "drift") => paint.bad(&padded),
                (_, 2, _) => paint.careful(&padded),
                _ => padded,
            };
            line = line + &painted + "  ";
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text + &peers(audit, paint) + &idle(audit, paint) + &deviations(audit, paint)
}

/// Hubs that should be served and are not: starting them is the init system's, so it is no deviation of the kernel's.
fn idle(audit: &Audit, paint: Paint) -> String {
    let idle = audit.hubs.iter().filter(|hub| !hub.runs);
    idle.map(|hub| format!("{} hub `{}` should run and does not\n", paint.careful("note:"), hub.hub)).collect()
}

/// Who dials in, each peer a line.
fn peers(audit: &Audit, paint: Paint) -> String {
    let heads = ["HUB", "PEER", "ADDRESS", "STATE", "HEARD AT", "BYTES"];
    let mut rows: Vec<[String; 6]> = Vec::new();
    for hub in &audit.hubs {
        rows.extend(hub.peers.iter().map(|peer| {
            [
                hub.hub.to_string(),
                peer.name.to_string(),
                peer.address.to_string(),
                peer.state.word().to_owned(),
                peer.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{} – {}", bytes(peer.rx_bytes), bytes(peer.tx_bytes)),
            ]
        }));
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.insert(0, heads.map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = "\n".to_owned();
    for (i, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padded = format!("{cell:width$}");
            line += &match (i, column, cell.as_str()) {
                (0, _, _) => paint.faint(&padded),
                (_, 3, "online") => paint.good(&padded),
                (_, 3, "stale") => paint.careful(&padded),
                _ => padded,
            };
            line += "  ";
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// What is reachable from outside, one a line: the port, the name, where it ends, and the sentence that says all of it with its
/// place in the file. The deviations stand below it.
pub fn published(audit: &Audit, path: &str, paint: Paint) -> String {
    let all = || audit.published.iter().flatten();
    let row = |published: &Published| {
        let Published { flow, name, ends_at, .. } = published;
        let text = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
        [text(flow, "everything"), text(name, "-"), ends_at.clone()]
    };
    let head = ["PUBLISHED", "NAME", "ENDS AT"].map(str::to_owned);
    let rows: Vec<[String; 3]> = std::iter::once(head).chain(all().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("  ");
        let line = if i == 0 { paint.faint(line.trim_end()) } else { line.trim_end().to_owned() };
        let _ = writeln!(text, "{line}");
    }
    if rows.len() > 1 {
        text.push('\n');
    } else {
        text.clear();
    }
    for Published { line, reason, .. } in all() {
        let place = line.map_or(path.to_owned(), |line| format!("{path}:{line}"));
        let _ = writeln!(text, "{} {reason}", paint.faint(&format!("{place}:")));
    }
    text + &deviations(audit, paint)
}

fn deviations(audit: &Audit, paint: Paint) -> String {
    let mut text = String::new();
    for deviation in &audit.deviations {
        let _ = writeln!(text, "{} {}", paint.bad(&format!("{}:", deviation.kind)), deviation.message);
        text.extend(deviation.hint.iter().map(|hint| format!("hint: {hint}\n")));
    }
    text
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = count;
    let mut unit = 0;
    while value >= 10_000 && unit + 1 < UNITS.len() {
        value /= 1000;
        unit += 1;
    }
    format!("{value}{}", UNITS[unit])
}

/// A fault of the file with its line and a mark below the word.
pub fn fault(kind: &str, fault: &Fault, path: &str, text: &str, paint: Paint) -> String {
    let (line, column) = (fault.place.line, fault.place.column);
    let head = if kind == "error" { paint.bad("error:") } else { paint.careful(&format!("{kind}:")) };
    let mut out = format!("{head} {}\n", fault.message);
    if line > 0 {
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let _ = writeln!(out, "{margin}--> {path}:{line}:{column}");
        if let Some(source) = text.lines().nth(line - 1) {
            // Long one-line tables are shown around the word; a tab is a column of its own, so it is kept in the margin.
            const WIDE: usize = 100;
            let start = (column - 1).saturating_sub(WIDE / 2) * usize::from(source.chars().count() > WIDE);
            let shown: String = source.chars().skip(start).take(WIDE).collect();
            let before = source.chars().skip(start).take(column - 1 - start);
            let under: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let (left, right) =
                (if start > 0 { "…" } else { "" }, if source.chars().count() > start + WIDE { "…" } else { "" });
            let shift = " ".repeat(left.chars().count());
            let _ = writeln!(
                out,
                "{margin} |\n{number} | {left}{shown}{right}\n{margin} | {shift}{under}{}",
                paint.bad("^")
            );
        }
    }
    if let Some(hint) = &fault.hint {
        let _ = writeln!(out, "hint: {hint}");
    }
    out
}

/// Whether it is allowed, why, and where that stands.
pub fn answer(answer: &Answer, path: &str, paint: Paint) -> String {
    let verdict = if answer.allowed { paint.good("allowed:") } else { paint.bad("denied:") };
    let place = answer.line.map(|line| paint.faint(&format!("\n  --> {path}:{line}"))).unwrap_or_default();
    format!("{verdict} {}{place}\n", answer.reason)
}

pub fn error(error: &Error, paint: Paint) -> String {
    headed(&paint.bad("error:"), error)
}

/// What went wrong and kept nothing from being done.
pub fn warning(warning: &Error, paint: Paint) -> String {
    headed(&paint.careful("warning:"), warning)
}

fn headed(head: &str, error: &Error) -> String {
    let hint = error.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    format!("{head} {}\n{hint}", error.message)
}
