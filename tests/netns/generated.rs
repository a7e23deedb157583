//! The generated cases: each wired, asked everything and compared; then changed into the next, and asked again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use crate::cases::{Chain, chains};
use crate::host::{Host, WIRE};
use crate::prober::{self, Address, Kind, Probe, Seen, Site};
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
fn every_generated_case_is_as_its_file_says() {
    let start = Instant::now();
    let mut waiting = chains();
    // One feature alone, for whoever looks for a fault.
    if let Ok(feature) = std::env::var("CASES") {
        waiting.retain(|chain| chain.feature.contains(&feature));
    }
    let waiting = Mutex::new(waiting);
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

/// Of connections that come at once as many pass as the flow's burst says, for each source by itself, and no more; of what has
/// no rate all do.
#[test]
fn a_rate_lets_its_burst_pass_for_each_source() {
    let house = House::new(
        r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-a", ends = ["host", "a"], subnet = "10.9.0.0/31", subnet6 = "fd09::/127", publish = [{ flow = "tcp/80", rate = "1/hour" }, "udp/53"] },
  { name = "a-b", ends = ["a", "b"], subnet = "10.9.1.0/31", allow = [{ flow = "tcp/22", rate = "1/hour", burst = 3 }, "tcp/23"] },
]
[host]
uplinks = ["eth0"]
[module]
house = ["a", "b"]
"#,
    );
    house.host.wire(&["up"]).expect(0);
    let address = |text: &str| Address { ip: text.parse().expect("an address"), scope: 0 };
    let site = |name: &str, addresses: &[&str], ports: &[u16]| Site {
        name: name.to_owned(),
        netns: Some(name.to_owned()),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        ports: ports.to_vec(),
    };
    let sites =
        [site("lan", &[], &[]), site("a", &["10.9.0.1", "fd09::1"], &[53, 80]), site("b", &["10.9.1.1"], &[22, 23])];
    // Who asks, from where, whom, by what, and how many of twelve are let in.
    let cases = [
        (0, Some("192.0.2.1"), "192.0.2.2", Kind::Tcp, 80, 5),
        (0, Some("198.51.100.200"), "192.0.2.2", Kind::Tcp, 80, 5),
        (0, Some("2001:db8:ffff::9"), "2001:db8::2", Kind::Tcp, 80, 5),
        (0, Some("192.0.2.1"), "192.0.2.2", Kind::Udp, 53, 12),
        (1, None, "10.9.1.1", Kind::Tcp, 22, 3),
        (1, None, "10.9.1.1", Kind::Tcp, 23, 12),
    ];
    let probe = |(site, source, to, kind, port, _): &(usize, Option<&str>, &str, Kind, u16, usize)| Probe {
        site: *site,
        source: source.map(|text| address(text).ip),
        to: address(to),
        kind: *kind,
        port: *port,
        passes: false,
    };
    let probes: Vec<Probe> = cases.iter().flat_map(|case| vec![probe(case); 12]).collect();
    let seen = prober::send(&house.host, &sites, &probes);
    for (case, seen) in cases.iter().zip(seen.chunks(12)) {
        let passed = seen.iter().filter(|seen| matches!(seen, Seen::Answer { .. })).count();
        assert_eq!(passed, case.5, "{case:?}: {seen:?}");
    }
}
