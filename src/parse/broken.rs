//! Texts that are no TOML, and those that would be too much of it. Nothing of a topology is known here.

use crate::error::Fault;

use super::tree::Page;
use crate::near::shown;

/// The bracket that nests too deep. The tree of TOML is built and taken down by recursion, with up to 80 levels of dotted
/// keys in each bracket: left to itself it overflows the stack of a thread.
pub fn too_deep(text: &str) -> Option<usize> {
    const DEEPEST: usize = 16;
    let mut depth = 0usize;
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| b"[]{}#\"'".contains(&byte)) {
        let offset = text.len() - rest.len() + at;
        let found = &rest[at..];
        let skipped = match found.as_bytes()[0] {
            b'[' | b'{' if depth == DEEPEST => return Some(offset),
            b'[' | b'{' => {
                depth += 1;
                1
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                1
            }
            b'#' => found.find('\n').unwrap_or(found.len()),
            _ => string(found),
        };
        rest = &found[skipped..];
    }
    None
}

/// The length of the string that a text begins with, as far as it goes.
fn string(text: &str) -> usize {
    let text = text.as_bytes();
    let quote = text[0];
    let mark = if text.starts_with(&[quote; 3]) { &text[..3] } else { &text[..1] };
    let mut at = mark.len();
    while at < text.len() {
        match text[at] {
            _ if text[at..].starts_with(mark) => return at + mark.len(),
            b'\n' if mark.len() == 1 => return at,
            // An escape takes the next character with it, and a literal string has none.
            b'\\' if quote == b'"' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// What is wrong with a text that is no TOML. What the rest of it means cannot be known then, and guesses would hide the
/// one mistake among others that are none; of each line the first counts.
pub fn torn(page: Page, errors: Vec<toml::de::Error>) -> Vec<Fault> {
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(page.text.len()..page.text.len()), error)).collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (span, error) in errors {
        let at = span.start.min(page.text.len());
        let word = page.text.get(span).unwrap_or_default().trim();
        let message = error.message().split(", expected").next().unwrap_or_default();
        if message != "duplicate key" && is_header(page.line_of(at)) {
            // A header is always good TOML, so that what stands above it has swallowed it, and all that follows.
            let message = format!("not TOML: what stands above `{}` has no end", shown(page.line_of(at).trim()));
            page.fault(page.place(at), message, "a `]` or `}` is missing above this line");
            break;
        }
        let hint = match message {
            "duplicate key" if word == "wire" => {
                "write all wires in one way: either `wire = [ … ]` once, or [[wire]] for each".to_owned()
            }
            "duplicate key" => format!("`{}` was written before: keep one of them", shown(word)),
            message if message.contains("must be quoted") => format!("put it in quotes: `\"{}\"`", shown(word)),
            message if message.starts_with("missing comma") => {
                "write a `,` between them, or close the string before".to_owned()
            }
            _ => "the file is TOML: keys are `key = value`, strings stand in quotes, lists in `[ … ]`".to_owned(),
        };
        page.fault(page.place(at), format!("not TOML: {message}"), hint);
    }
    let mut faults = page.into_faults();
    faults.dedup_by_key(|fault| fault.place.line);
    faults
}

/// Whether a line is a table's header, `[host]` or `[[wire]]`.
fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    let name = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]"));
    let name = name.or_else(|| line.strip_prefix('[')?.strip_suffix(']')).unwrap_or_default();
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
