//! The difference against whatever a kernel may be found to hold: played onto it in its order, nothing is refused, nothing
//! foreign is touched, and it holds what is wanted.

mod dice;
mod linux;

use proptest::prelude::*;

use self::dice::Dice;
use self::linux::play;
use super::{Plan, diff};
use crate::desired;
use crate::state::State;
use crate::target::Scope;
use crate::topology::{Name, Topology};

/// Plays a plan, or says what was refused.
fn played(plan: &Plan, seen: &State) -> Result<State, String> {
    let mut state = seen.clone();
    for change in &plan.changes {
        play(&mut state, change, seen).map_err(|refusal| format!("{change} ({}): {refusal}", change.reason))?;
    }
    Ok(state)
}

fn up(topology: &Topology, seen: &State) -> State {
    desired::up(topology, &Scope::everything(topology), seen)
}

/// What is as the file says, and what is not there: all but the wires that wait and those that something foreign blocks.
fn assert_holds(state: &State, wanted: &State, plan: &Plan) {
    let waits = |wire: &Name| plan.waiting.iter().any(|waiting| waiting.wire == *wire);
    let blocked = |wire: &Name| plan.findings.iter().any(|f| f.blocks && f.wire.as_ref() == Some(wire));
    for (node, namespace) in &wanted.namespaces {
        for (wire, wanted) in namespace.ends.iter().filter(|(wire, _)| !waits(wire) && !blocked(wire)) {
            let mut end = state.namespaces[node].ends[wire].clone();
            end.settings.retain(|setting, _| wanted.settings.contains_key(setting));
            assert_eq!(end, *wanted, "{wire} in {node}");
        }
    }
    for (node, namespace) in &state.namespaces {
        let asked = &wanted.namespaces[node];
        for wire in namespace.ends.keys() {
            assert!(asked.ends.contains_key(wire) || waits(wire) || blocked(wire), "{wire} is left in {node}");
        }
        assert!(namespace.strays.is_empty());
        for (setting, value) in &asked.settings {
            assert_eq!(namespace.settings[setting], *value, "{setting:?} in {node}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_as_wanted_needs_nothing(choices in prop::collection::vec(any::<u32>(), 0..200)) {
        let mut dice = Dice::new(choices);
        let topology = dice.topology();
        let wanted = up(&topology, &dice.bare(&topology));
        prop_assert_eq!(diff(&wanted, &wanted), Plan::default());
    }

    #[test]
    fn a_plan_makes_any_state_the_wanted_one(choices in prop::collection::vec(any::<u32>(), 0..400)) {
        let mut dice = Dice::new(choices);
        let topology = dice.topology();
        let seen = dice.seen(&topology);
        let wanted = up(&topology, &seen);
        let plan = diff(&wanted, &seen);
        prop_assert!(plan.changes.is_sorted_by_key(|change| change.action.rank()));
        prop_assert!(plan.changes.iter().all(|change| !change.reason.is_empty() && !change.subject().is_empty()));
        let state = played(&plan, &seen).map_err(TestCaseError::fail)?;
        for (node, namespace) in &state.namespaces {
            prop_assert_eq!(&namespace.foreign.devices, &seen.namespaces[node].foreign.devices);
            prop_assert_eq!(&namespace.foreign.networks, &seen.namespaces[node].foreign.networks);
        }
        let again = diff(&up(&topology, &state), &state);
        prop_assert_eq!(&again.changes, &[], "after {:#?}", plan.changes);
        assert_holds(&state, &wanted, &again);
    }

    #[test]
    fn what_up_has_made_down_unmakes(choices in prop::collection::vec(any::<u32>(), 0..400)) {
        let mut dice = Dice::new(choices);
        let topology = dice.topology();
        let before = dice.bare(&topology);
        let made = played(&diff(&up(&topology, &before), &before), &before).map_err(TestCaseError::fail)?;
        let mut seen = made.clone();
        for namespace in seen.namespaces.values_mut() {
            let others = dice.whole();
            for (setting, value) in &mut namespace.settings {
                *value = if dice.chance(4) { others[setting] } else { *value };
            }
        }
        let plan = diff(&desired::down(&seen), &seen);
        let state = played(&plan, &seen).map_err(TestCaseError::fail)?;
        for (node, namespace) in &state.namespaces {
            prop_assert!(namespace.ends.is_empty() && namespace.strays.is_empty());
            for (setting, value) in &namespace.settings {
                let somebody = seen.namespaces[node].settings[setting];
                let touched = somebody != made.namespaces[node].settings[setting];
                let expected = if touched { somebody } else { before.namespaces[node].settings[setting] };
                prop_assert_eq!(*value, expected, "{:?} in {}: {:#?}", setting, node, plan.changes);
            }
        }
        prop_assert_eq!(diff(&desired::down(&state), &state).changes, vec![]);
    }

    #[test]
    fn down_leaves_nothing_of_any_state(choices in prop::collection::vec(any::<u32>(), 0..400)) {
        let mut dice = Dice::new(choices);
        let topology = dice.topology();
        let seen = dice.seen(&topology);
        let state = played(&diff(&desired::down(&seen), &seen), &seen).map_err(TestCaseError::fail)?;
        prop_assert!(state.namespaces.values().all(|here| here.ends.is_empty() && here.strays.is_empty()));
    }
}
