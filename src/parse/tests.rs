//! The parser against whole files: those shipped, those with one thing wrong, those made up.

use super::{number, topology, warnings};
use crate::error::Fault;

fn words(faults: &[Fault]) -> String {
    let word = |f: &Fault| {
        format!("{}:{}: {}\n    {}\n", f.place.line, f.place.column, f.message, f.hint.as_deref().unwrap_or("-"))
    };
    faults.iter().map(word).collect()
}

#[test]
fn shipped_files_are_valid() {
    for entry in std::fs::read_dir("topology").unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        match topology(&text) {
            Ok(topology) => assert_eq!(words(&warnings(&topology)), "", "{}", path.display()),
            Err(faults) => panic!("{}\n{}", path.display(), words(&faults)),
        }
    }
}
