//! The rules of a topology come to the same whether they are loaded by this program or, as text, by nft.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::desired;
use crate::nft::text;
use crate::parse;
use crate::rules::{Circumstances, Ranges, Rules};
use crate::topology::Topology;

/// Some of both families, one of them for a while, in every set.
fn ranges(topology: &Topology) -> Ranges {
    let range = |first: &str, last: &str, expires| (first.parse().unwrap(), last.parse().unwrap(), expires);
    let some = vec![
        range("192.0.2.0", "192.0.2.255", None),
        range("198.51.100.7", "198.51.100.7", Some(7200)),
        range("198.51.100.9", "198.51.101.4", None),
        range("2001:db8::", "2001:db8::ffff", None),
        range("2001:db8:1::1", "2001:db8:1::1", Some(7200)),
    ];
    topology.sets.keys().map(|name| (name.clone(), some.clone())).collect()
}

/// A listing with the elements of its sets in order, and their time as it was asked.
fn sorted(list: &str) -> String {
    let list = list.replace(",\n\t\t\t     ", ", ");
    let element = |element: &str| element.split(" expires ").next().unwrap_or_default().to_owned();
    let part = |part: &str| match part.split_once(" }") {
        Some((inside, rest)) => {
            let mut elements: Vec<String> = inside.split(", ").map(element).collect();
            elements.sort();
            format!("{} }}{rest}", elements.join(", "))
        }
        None => part.to_owned(),
    };
    let list = list.replacen("table inet wire {\n\tcomment \"wire\"\n", "", 1);
    let list = list.split("{ ").map(part).collect::<Vec<_>>().join("{ ");
    // Sets and chains are listed in the order in which they were made.
    let list = list.strip_suffix("}\n").unwrap_or(&list);
    let mut blocks: Vec<&str> = list.split("\n\n").map(str::trim_end).collect();
    blocks.sort();
    blocks.join("\n\n")
}

/// A table without how long its elements still stay.
fn for_ever(mut table: Table) -> Table {
    let elements = table.sets.values_mut().flat_map(|set| set.elements.iter_mut().map(|(_, element)| element));
    elements.for_each(|element| element.expires = element.expires.map(|_| 0));
    table
}

/// The first things that stand in one table and not in the other.
fn difference(one: &Table, other: &Table) -> String {
    for (name, chain) in &one.chains {
        let rules = |chain: Option<&Chain>| chain.map(|chain| chain.rules.clone()).unwrap_or_default();
        let (these, those) = (rules(Some(chain)), rules(other.chains.get(name)));
        if let Some((this, that)) = these.iter().zip(&those).find(|(this, that)| this != that) {
            return format!("chain {name}:\n{:?}\n{:?}", this.expressions, that.expressions);
        }
    }
    let differs = one.sets.iter().find(|(name, set)| other.sets.get(*name) != Some(set));
    format!("{:?}", differs.map(|(name, set)| (name, set, other.sets.get(name))))
}

/// Loads a table in both ways.
fn both_ways(wanted: &Table, what: impl std::fmt::Display) {
    let said = text::table(wanted);
    assert!(said.lines().all(|line| !line.trim_start().starts_with('#')), "{what}: something has no words\n{said}");

    let socket = elsewhere();
    load(&socket, Some(wanted));
    let ours = list();
    let (found, wanted) = (for_ever(table(&socket)), for_ever(wanted.clone()));
    assert!(found == wanted, "{what}, loaded by this program from\n{said}\n{}", difference(&wanted, &found));

    let socket = elsewhere();
    nft(&said, &["-f", "-"]).unwrap_or_else(|error| panic!("{what}: {error}\n{said}"));
    let found = for_ever(table(&socket));
    assert!(found == wanted, "{what}, loaded by nft from\n{said}\n{}", difference(&wanted, &found));
    assert_eq!(sorted(&list()), sorted(&ours), "{what}");
}

/// Loads the tables of all namespaces of a topology in both ways.
fn all_both_ways(topology: &Topology) {
    let ranges = ranges(topology);
    let rules = Rules::of(topology, &ranges);
    for node in desired::namespaces(topology) {
        let devices = rules.forwarding(&node).devices.into_iter().filter(|_| node.is_host());
        for circumstances in [Circumstances::default(), Circumstances { opened: devices.cloned().collect() }] {
            if let Some(wanted) = rules.table(&node, &circumstances) {
                both_ways(&wanted, &node);
            }
        }
    }
}

/// Tries what choices make, so many times.
fn any_of(cases: u32, test: impl Fn(Vec<u32>)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let choices = prop::collection::vec(any::<u32>(), 0..2500);
    let run = |choices| {
        test(choices);
        Ok(())
    };
    TestRunner::new(config).run(&choices, run).unwrap();
}

#[test]
fn nft_loads_the_same_of_every_example() {
    alone("oracle::nft_loads_the_same_of_every_example", || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("topology");
        let files =
            std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let topologies: Vec<Topology> = files.map(|text| parse::topology(&text).unwrap()).collect();
        assert!(topologies.len() > 2);
        topologies.iter().for_each(all_both_ways);
    });
}

#[test]
fn nft_loads_the_same_of_any_topology() {
    alone("oracle::nft_loads_the_same_of_any_topology", || {
        any_of(16, |choices| all_both_ways(&parse::tests::property::made(choices)));
    });
}

#[test]
fn nft_loads_the_same_of_any_table() {
    alone("oracle::nft_loads_the_same_of_any_table", || {
        any_of(60, |choices| both_ways(&text::tests::property::sayable(choices), "a table"));
    });
}
