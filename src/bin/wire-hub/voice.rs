//! What a hub says to whoever reads its standard error: the init system's log, or a terminal.

use std::io::Write;

pub fn say(text: &str) {
    // Nobody may be there to hear it.
    let _ = writeln!(std::io::stderr(), "wire-hub: {text}");
}

pub fn error(text: &str) {
    say(&format!("error: {text}"));
}
