//! Whatever the text: the parser does not panic, refuses nothing without a reason, points into the text, and what it
//! numbers is valid. What is found goes to a folder of its own, so that the corpus stays small enough to read:
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz parse /tmp/found tests/fuzz/corpus/parse
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src"]
#[allow(dead_code, reason = "only the parser is driven here")]
mod src {
    pub mod error;
    pub mod near;
    pub mod parse;
    pub mod topology;
}

// The sources name each other from the root of the crate.
use src::{error, near, parse, topology};

fuzz_target!(|text: &str| {
    let inside = |faults: Vec<error::Fault>| {
        assert!(!faults.is_empty());
        for topology::Place { line, column } in faults.iter().map(|fault| fault.place) {
            let length = text.split('\n').nth(line - 1).map(|line| line.chars().count());
            assert!(length.is_some_and(|length| (1..=length + 1).contains(&column)));
        }
    };
    match parse::topology(text) {
        Ok(topology) => {
            parse::warnings(&topology);
            assert_eq!(parse::number(text), Ok((text.to_owned(), Vec::new())));
        }
        Err(faults) => {
            inside(faults);
            if let Err(faults) = parse::number(text) {
                inside(faults);
            }
        }
    }
});
