//! The rules of a topology come to the same whether they are loaded by this program or, as text, by nft.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::desired;
use crate::nft::text;
use crate::parse;
use crate::rules::{Circumstances, Ranges, Rules};
use crate::topology::{HOST, Topology};

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
    let list = list.split("{ ").map(part).collect::<Vec<_>>().join("{ ");
    // Sets and chains are listed in the order in which they were made.
    let mut blocks: Vec<&str> = list.split("\n\n").map(|block| block.trim_end_matches("\n}\n")).collect();
    blocks.sort();
    blocks.join("\n\n")
}

/// A table without how long its elements still stay.
fn for_ever(mut table: Table) -> Table {
    let elements = table.sets.values_mut().flat_map(|set| set.elements.values_mut());
    elements.for_each(|element| element.expires = element.expires.map(|_| 0));
    table
}

/// Loads the table of every namespace of a topology in both ways.
fn both_ways(topology: &Topology) {
    let ranges = ranges(topology);
    let rules = Rules::of(topology, &ranges);
    for node in desired::namespaces(topology) {
        let opened = rules.forwarding(&node).devices.into_iter().cloned().filter(|_| node.as_str() == HOST);
        for circumstances in [Circumstances::default(), Circumstances { opened: opened.collect() }] {
            let Some(wanted) = rules.table(&node, &circumstances) else { continue };
            let said = text::table(&wanted);
            assert!(!said.contains('#'), "{node}: something has no words\n{said}");

            let socket = elsewhere();
            load(&socket, Some(&wanted));
            let ours = list();
            assert_eq!(for_ever(table(&socket)), for_ever(wanted.clone()), "{node}, loaded by this program");

            let socket = elsewhere();
            nft(&said, &["-f", "-"]).unwrap_or_else(|error| panic!("{node}: {error}\n{said}"));
            assert_eq!(for_ever(table(&socket)), for_ever(wanted), "{node}, loaded by nft from\n{said}");
            assert_eq!(sorted(&list()), sorted(&ours), "{node}");
        }
    }
}

#[test]
fn nft_loads_the_same_of_every_example() {
    alone("oracle::nft_loads_the_same_of_every_example", || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("topology");
        let files =
            std::fs::read_dir(folder).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let topologies: Vec<Topology> = files.map(|text| parse::topology(&text).unwrap()).collect();
        assert!(topologies.len() > 2);
        topologies.iter().for_each(both_ways);
    });
}

#[test]
fn nft_loads_the_same_of_any_topology() {
    alone("oracle::nft_loads_the_same_of_any_topology", || {
        let config = ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() };
        let choices = prop::collection::vec(any::<u32>(), 0..2500);
        let test = |choices| {
            both_ways(&parse::tests::property::made(choices));
            Ok(())
        };
        TestRunner::new(config).run(&choices, test).unwrap();
    });
}
