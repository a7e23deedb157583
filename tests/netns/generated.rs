//! The generated cases: each wired, asked everything and compared; then changed into the next, and asked again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use crate::cases::{Chain, chains};
use crate::host::{Host, WIRE};
use crate::truth::House;

/// Houses at once: they wait more than they work.
const AT_ONCE: usize = 6;

/// As many cases there must be.
const LEAST: usize = 230;

/// What was done of a feature.
#[derive(Default)]
struct Count {
    cases: usize,
    cells: usize,
    passing: usize,
    wrong: Vec<String>,
}

/// Runs a chain in one house. The first case that fails ends it: the next would begin in a house that is not as it should be.
fn run(chain: &Chain) -> Count {
    let mut count = Count::default();
    let mut house: Option<House> = None;
    let mut before = "nothing".to_owned();
    for (name, text) in &chain.cases {
        let here = format!("{}: {name} (after {before})", chain.feature);
        before = name.clone();
        let table = catch_unwind(AssertUnwindSafe(|| {
            match &mut house {
                Some(house) => house.change(text),
                None => house = Some(House::new(text)),
            }
            let house = house.as_mut().expect("it was just built");
            house.host.wire(&["up"]).expect(0);
            house.table()
        }));
        count.cases += 1;
        match table {
            Ok(table) => {
                count.cells += table.cells;
                count.passing += table.passing;
                let faults = table.wrong.iter().chain(&table.unanswered).map(|line| format!("{here}\n    {line}"));
                count.wrong.extend(faults);
            }
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                count.wrong.push(format!("{here}\n    {said}"));
                break;
            }
        }
    }
    count
}

#[test]
#[ignore = "`up` does not enforce flows yet"]
fn every_generated_case_is_as_its_file_says() {
    let start = Instant::now();
    let waiting = Mutex::new(chains());
    let features: Mutex<BTreeMap<&str, Count>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(chain) = waiting.lock().expect("nobody panics holding it").pop() else { return };
                    let count = run(&chain);
                    let mut features = features.lock().expect("nobody panics holding it");
                    let all = features.entry(chain.feature).or_default();
                    all.cases += count.cases;
                    all.cells += count.cells;
                    all.passing += count.passing;
                    all.wrong.extend(count.wrong);
                }
            });
        }
    });
    let features = features.into_inner().expect("nobody panics holding it");
    let mut total = Count::default();
    for (feature, count) in features {
        eprintln!(
            "{feature:20} {:4} cases {:7} cells {:6} to pass {:5} wrong",
            count.cases,
            count.cells,
            count.passing,
            count.wrong.len()
        );
        total.cases += count.cases;
        total.cells += count.cells;
        total.passing += count.passing;
        total.wrong.extend(count.wrong);
    }
    let (cases, cells, passing, wrong) = (total.cases, total.cells, total.passing, total.wrong.len());
    let seconds = start.elapsed().as_secs_f32();
    eprintln!("{:20} {cases:4} cases {cells:7} cells {passing:6} to pass {wrong:5} wrong, in {seconds:.0} s", "all");
    total.wrong.truncate(80);
    assert!(wrong == 0, "{wrong} wrong\n{}", total.wrong.join("\n"));
    assert!(cases >= LEAST, "only {cases} cases");
}

/// The program takes every one of them, without a word of warning.
#[test]
fn every_generated_case_is_a_valid_topology() {
    let host = Host::new();
    let cases: Vec<_> = chains().into_iter().flat_map(|chain| chain.cases).collect();
    assert!(cases.len() >= LEAST, "only {} cases", cases.len());
    for (number, (_, text)) in cases.iter().enumerate() {
        host.write(&format!("/run/case-{number}"), text);
    }
    let check = "for n in $(seq 0 $1); do \"$0\" -f /run/case-$n check 2>&1 | grep -v ': valid$'; done; :";
    let said = host.run("host", &["sh", "-c", check, WIRE, &(cases.len() - 1).to_string()]).expect(0);
    assert!(said.stdout.is_empty(), "{}", said.stdout);
}
