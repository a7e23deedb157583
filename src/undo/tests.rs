//! A change and its undoing, played onto the model of a kernel that plans are tried on: what comes out is what was there before.

use std::net::IpAddr;

use proptest::prelude::*;

use super::Undo;
use super::elements::keep;
use crate::nft::{Element, Key, Set, Table, Type, Value};
use crate::plan::diff;
use crate::plan::tests::dice::{Dice, keys, name};
use crate::plan::tests::{played, unused, up};
use crate::state::State;
use crate::topology::{Device, Name, Topology};

/// Fails where one of two states is not as the other in what has to be the same again.
fn assert_same(now: &State, before: &State) -> Result<(), TestCaseError> {
    for (node, before) in &before.namespaces {
        let now = &now.namespaces[node];
        for wire in now.ends.keys().chain(before.ends.keys()) {
            let [mut one, other] = [now, before].map(|here| here.ends.get(wire).cloned());
            // The model shows what was set, a kernel everything.
            if let (Some(one), Some(other)) = (&mut one, &other) {
                one.settings.retain(|setting, _| other.settings.contains_key(setting));
            }
            prop_assert_eq!(one, other, "{} in {}", wire, node);
        }
        prop_assert_eq!(&now.tunnels, &before.tunnels, "the tunnels of {}", node);
        prop_assert_eq!(&now.settings, &before.settings, "the settings of {}", node);
        prop_assert_eq!(&now.others, &before.others, "the devices of {}", node);
        prop_assert_eq!(&now.remembered, &before.remembered, "the settings of {}", node);
        prop_assert_eq!(&now.others_remembered, &before.others_remembered, "the devices of {}", node);
        let [now, before] = [now, before].map(|here| here.table.as_deref().map(unused));
        let told = |table: &Option<Table>| table.as_ref().map(crate::nft::text::table);
        prop_assert!(now == before, "the rules of {}: {:?} and not {:?}", node, told(&now), told(&before));
    }
    Ok(())
}

/// What is not there is seen where the file asks for it, and nowhere else.
fn missed_alone(state: &mut State, topology: &Topology) {
    let asked = |node: &Name| topology.nodes.get(node).is_some_and(|node| node.owned);
    state.namespaces.retain(|node, here| here.maker.has_made() || asked(node));
}

/// Undoes in as many rounds as `apply` takes, none of which may be refused.
fn undone(undo: &Undo, mut state: State) -> Result<State, TestCaseError> {
    for _ in 0..4 {
        let plan = diff(&undo.wanted(&state, 0), &state);
        if plan.changes.is_empty() {
            return Ok(state);
        }
        state = match played(&plan, &state) {
            // Somebody had given one device the name of another.
            Err(refusal) if refusal.contains("EEXIST: `") => return Err(TestCaseError::reject(refusal)),
            played => played.map_err(TestCaseError::fail)?,
        };
    }
    let left = diff(&undo.wanted(&state, 0), &state).changes;
    let left: Vec<String> = left.iter().map(|change| format!("{change} ({})", change.reason)).collect();
    Err(TestCaseError::fail(format!("there is no end to it: {}", left.join("; "))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_one_file_had_made_is_there_again_after_another(choices in prop::collection::vec(any::<u32>(), 0..400)) {
        let mut dice = Dice::new(choices);
        let (first, second) = (dice.topology(), dice.topology());
        let mut before = dice.bare(&first);
        if dice.chance(2) {
            before = played(&diff(&up(&first, &before), &before), &before).map_err(TestCaseError::fail)?;
        }
        missed_alone(&mut before, &second);
        before.keys = keys(&second);
        let plan = diff(&up(&second, &before), &before);
        let undo = Undo::of(&before, &plan.changes);
        let after = played(&plan, &before).map_err(TestCaseError::fail)?;
        let again = undone(&undo, after)?;
        assert_same(&again, &before)?;
    }

    #[test]
    fn of_whatever_was_there_only_what_the_change_touched_is(choices in prop::collection::vec(any::<u32>(), 0..600)) {
        let mut dice = Dice::new(choices);
        let (first, second) = (dice.topology(), dice.topology());
        let mut before = dice.seen(&first);
        missed_alone(&mut before, &second);
        before.keys = keys(&second);
        let whole = up(&first, &before);
        for (node, here) in before.namespaces.iter_mut().filter(|(_, here)| here.maker.has_made()) {
            // The model has no cables without rules.
            let rules = whole.namespaces.get(node).and_then(|whole| whole.table.clone());
            here.table = here.table.take().or(rules).or(Some(Default::default()));
        }
        let plan = diff(&up(&second, &before), &before);
        let undo = Undo::of(&before, &plan.changes);
        let after = played(&plan, &before).map_err(TestCaseError::fail)?;
        let mut meanwhile = after.clone();
        let replaced = name(["a", "b", "edge", "nobody"][dice.below(4)]);
        if let Some(here) = meanwhile.namespaces.get_mut(&replaced) {
            // One that the change has made is the change's, whoever has made it again since.
            let made = undo.made.contains(&replaced);
            here.cookie = if made { here.cookie } else { 7 };
        }
        let again = undone(&undo, meanwhile)?;
        for (node, here) in &again.namespaces {
            let after = &after.namespaces[node];
            let untouched = |wire: &&Name| !undo.wires.contains_key(*wire);
            for wire in after.ends.keys().filter(untouched) {
                let [mut one, other] = [here, after].map(|here| here.ends[wire].clone());
                // A name that another one is to have back is given up.
                one.device = other.device.clone();
                prop_assert_eq!(one, other, "{} in {}", wire, node);
            }
            let touched = |device: &Device| undo.tunnels.contains_key(&(node.clone(), device.clone()));
            for (device, tunnel) in after.tunnels.iter().filter(|(device, _)| !touched(device)) {
                prop_assert_eq!(&here.tunnels[device], tunnel, "{} in {}", device, node);
            }
            let touched = |place: &Name| undo.settings.contains_key(place) || undo.others.contains_key(place);
            if !touched(node) || *node == replaced && !undo.made.contains(node) {
                prop_assert_eq!(&here.settings, &after.settings, "{}", node);
            }
            if !undo.rules.contains_key(node) || *node == replaced && !undo.made.contains(node) {
                prop_assert_eq!(&here.table, &after.table, "the rules of {}", node);
            }
        }
    }
}

/// A table with one set, of ranges and the seconds that are left.
fn table(elements: &[(&str, &str, Option<u64>)]) -> Table {
    let value = |text: &str| Value::address(text.parse::<IpAddr>().unwrap());
    let element = |(first, last, expires): &(&str, &str, Option<u64>)| {
        (Key::Range(value(first), value(last)), Element { leads_to: None, expires: *expires })
    };
    let set = Set {
        key: vec![Type::Ipv4],
        interval: true,
        timeout: true,
        elements: elements.iter().map(element).collect(),
        ..Set::default()
    };
    Table { sets: [("set.x".into(), set)].into(), ..Table::default() }
}

#[test]
fn what_was_put_in_or_taken_out_since_the_change_stays_so() {
    type Elements<'a> = &'a [(&'a str, &'a str, Option<u64>)];
    let (one, two, net) = ("192.0.2.1", "192.0.2.2", ("192.0.2.0", "192.0.2.255", None));
    let cases: [(&str, [Elements; 3], Elements); 9] = [
        ("nothing", [&[], &[], &[]], &[]),
        ("emptied by the change", [&[net], &[], &[]], &[net]),
        ("filled by the change", [&[], &[net], &[net]], &[]),
        ("put in since", [&[], &[], &[(one, one, Some(30))]], &[(one, one, Some(30))]),
        ("put in beside", [&[(one, one, None)], &[], &[(two, two, None)]], &[(one, two, None)]),
        ("put in across", [&[(one, one, None)], &[], &[net]], &[net]),
        (
            "taken out of the midst",
            [&[net], &[net], &[("192.0.2.0", "192.0.2.0", None), (two, "192.0.2.255", None)]],
            &[("192.0.2.0", "192.0.2.0", None), (two, "192.0.2.255", None)],
        ),
        ("gone by itself", [&[(one, one, Some(60))], &[], &[]], &[]),
        ("not yet gone", [&[(one, one, Some(90))], &[], &[]], &[(one, one, Some(30))]),
    ];
    for (what, [before, after, now], expected) in cases {
        let mut left = table(before);
        keep(&mut left, &table(after), &table(now), 60);
        let elements = |table: &Table| format!("{:?}", table.sets["set.x"].elements);
        assert_eq!(elements(&left), elements(&table(expected)), "{what}");
    }
}
