//! A proof in lines for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Passage, Proof, Unknown, Violation};
use crate::report::Paint;
use crate::voice::count;

impl Proof {
    /// Every violation, one a line.
    pub fn lines(&self, paint: Paint) -> String {
        let mut text = String::new();
        for Violation { from, to, flow, seen, address, source, note, .. } in &self.violations {
            let (head, wanted) = match seen {
                Passage::Pass => ("passes:", "drop"),
                Passage::Drop => ("dropped:", "pass"),
            };
            let source = source.map(|source| format!(" from {source}")).unwrap_or_default();
            let note = note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            let head = paint.bad(head);
            let _ = writeln!(text, "{head} {from} to {to}, {flow} at {address}{source}: the file says {wanted}{note}");
        }
        text
    }

    /// What is not known, a line for each reason, and what was not asked.
    pub fn doubts(&self) -> Vec<String> {
        let mut reasons: BTreeMap<&str, Vec<&Unknown>> = BTreeMap::new();
        for unknown in &self.unknowns {
            reasons.entry(&unknown.reason).or_default().push(unknown);
        }
        let mut lines: Vec<String> = Vec::new();
        for (reason, unknowns) in reasons {
            let Some(Unknown { from, to, flow, address, .. }) = unknowns.first() else { continue };
            let such = if unknowns.len() == 1 { "" } else { "such as " };
            let number = count(unknowns.len(), "probe");
            lines.push(format!("unknown: {number}, {such}{from} to {to}, {flow} at {address}: {reason}"));
        }
        lines.extend(self.absent.iter().map(|(node, reason)| format!("not proved: `{node}`: {reason}")));
        lines
    }

    /// How it went, in one line.
    pub fn summary(&self) -> String {
        let (probes, violations) = (count(self.probes, "probe"), count(self.violations.len(), "violation"));
        format!("prove: {probes}, {} correct, {} unknown, {violations}", self.correct, self.unknown)
    }
}
