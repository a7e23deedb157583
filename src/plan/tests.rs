//! The difference against whatever a kernel may be found to hold: played onto it in its order, nothing is refused, nothing
//! foreign is touched, and it holds what is wanted.

pub mod dice;
mod linux;

use std::sync::Arc;

use proptest::prelude::*;

use self::dice::{Dice, keys, name, nameless};
use self::linux::play;
use super::{Action, Change, Difference, Plan, diff, strangers};
use crate::desired;
use crate::nft::{Chain, Foreign, Key, Rule, Table, Value};
use crate::parse;
use crate::rules::{Ranges, Rules};
use crate::state::tunnel::{Kind, Wireguard};
use crate::state::{Maker, Namespace, Route, Setting, State};
use crate::target::Scope;
use crate::topology::{Device, Name, Topology};

/// Plays a plan, or says what was refused.
pub fn played(plan: &Plan, seen: &State) -> Result<State, String> {
    let mut state = seen.clone();
    for change in &plan.changes {
        play(&mut state, change, seen).map_err(|refusal| format!("{change} ({}): {refusal}", change.reason))?;
    }
    Ok(state)
}

pub fn up(topology: &Topology, seen: &State) -> State {
    desired::up(topology, &Rules::of(topology, &Ranges::new()), &Scope::everything(topology), seen)
}

pub fn down(seen: &State) -> State {
    let everything = Scope { everything: true, ..Scope::default() };
    desired::down(&everything, seen)
}

/// Rules before cables: nothing that carries packets comes before the rules of its node, and rules go last.
fn assert_order(plan: &Plan) {
    for (place, change) in plan.changes.iter().enumerate() {
        let opened: Vec<&Name> = match &change.action {
            Action::Create(ends) => ends.iter().map(|(node, _)| node).collect(),
            Action::Up | Action::AddRoute(_) | Action::AddAddress(_) | Action::SetOther(_, _, 1) => vec![&change.node],
            Action::Tunnel(..) => vec![&change.node],
            Action::Set(Setting::Forwarding | Setting::ForceForwarding6, 1) => vec![&change.node],
            Action::SetAll(Setting::Forwarding | Setting::Forwarding6, 1) => vec![&change.node],
            _ => Vec::new(),
        };
        let rest = &plan.changes[place..];
        let late = rest.iter().find(|next| opened.contains(&&next.node) && matches!(next.action, Action::Load(_)));
        assert!(late.is_none(), "{change} comes before the rules");
        let is_last = |change: &Change| matches!(change.action, Action::Unload | Action::Unmake);
        let last = !is_last(change) || rest.iter().all(is_last);
        assert!(last, "{change} is not the last");
    }
}

/// Without what packets do to a table.
pub fn unused(table: &Table) -> Table {
    let mut table = table.clone();
    table.counters.values_mut().for_each(|count| *count = 0);
    table.sets.values_mut().filter(|set| set.dynamic).for_each(|set| set.elements.clear());
    table
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
        assert_tunnels(node, namespace, asked, state, plan);
        assert!(namespace.maker == asked.maker || namespace.inhabitant.is_some(), "who has made {node}");
        for wire in namespace.ends.keys() {
            assert!(asked.ends.contains_key(wire) || waits(wire) || blocked(wire), "{wire} is left in {node}");
        }
        assert!(namespace.strays.is_empty());
        for (setting, value) in &asked.settings {
            assert_eq!(namespace.settings[setting], *value, "{setting:?} in {node}");
        }
        for (place, value) in &asked.others {
            assert_eq!(namespace.others[place], *value, "{place:?} in {node}");
        }
        let [seen, asked] = [namespace, asked].map(|namespace| namespace.table.as_deref().map(unused));
        assert_eq!(seen, asked, "the rules of {node}");
    }
}

/// The tunnels of a node are as wanted: all but those whose name is somebody else's.
fn assert_tunnels(node: &Name, seen: &Namespace, asked: &Namespace, state: &State, plan: &Plan) {
    let blocked = plan.findings.iter().any(|finding| finding.node == *node && finding.kind == "taken");
    assert!(seen.tunnels.keys().all(|device| asked.tunnels.contains_key(device)), "a tunnel is left in {node}");
    for (device, wanted) in asked.tunnels.iter().filter(|_| !blocked) {
        let (mut tunnel, mut wanted) = (seen.tunnels[device].clone(), wanted.clone());
        nameless(&mut wanted);
        if let Kind::Kernel(Wireguard { private: key @ None, .. }) = &mut wanted.kind {
            // One that may not be used leaves the tunnel as it is.
            *key = state.keys[node].private.clone().unwrap_or_default();
        }
        tunnel.settings.retain(|setting, _| wanted.settings.contains_key(setting));
        (tunnel.foreign, wanted.foreign) = Default::default();
        assert_eq!(tunnel, wanted, "{device} in {node}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

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
        assert_order(&plan);
        prop_assert!(plan.changes.iter().all(|change| !change.reason.is_empty() && !change.subject().is_empty()));
        let state = played(&plan, &seen).map_err(TestCaseError::fail)?;
        // What somebody has put into a namespace of `wire`'s own goes with it.
        let goes = |node: &Name| plan.changes.iter().any(|change| change.node == *node && change.action == Action::Unmake);
        for (node, namespace) in state.namespaces.iter().filter(|(node, _)| !goes(node)) {
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
        let touched = |node: &Name, setting: &Setting| {
            let of = |state: &State| state.namespaces[node].settings.get(setting).copied();
            of(&seen) != of(&made)
        };
        let plan = diff(&down(&seen), &seen);
        assert_order(&plan);
        let state = played(&plan, &seen).map_err(TestCaseError::fail)?;
        for (node, namespace) in &state.namespaces {
            prop_assert!(namespace.ends.is_empty() && namespace.strays.is_empty() && namespace.table.is_none());
            prop_assert!(namespace.tunnels.is_empty());
            let stays = namespace.inhabitant.is_some() || namespace.maker == Maker::Others;
            prop_assert_eq!(namespace.maker.has_made(), stays, "{} is left", node);
            if !stays {
                continue;
            }
            // Whoever switches a whole namespace switches every device of it.
            let alone = |(device, setting): &(Device, Setting)| device.as_str() != "all" && !touched(node, setting);
            for (place, value) in before.namespaces[node].others.iter().filter(|(place, _)| alone(place)) {
                prop_assert_eq!(namespace.others[place], *value, "{:?} in {}: {:#?}", place, node, plan.changes);
            }
            for (setting, value) in &namespace.settings {
                let somebody = seen.namespaces[node].settings[setting];
                let expected = if touched(node, setting) { somebody } else { before.namespaces[node].settings[setting] };
                prop_assert_eq!(*value, expected, "{:?} in {}: {:#?}", setting, node, plan.changes);
            }
        }
        prop_assert_eq!(diff(&down(&state), &state).changes, vec![]);
    }

    #[test]
    fn down_leaves_nothing_of_any_state(choices in prop::collection::vec(any::<u32>(), 0..400)) {
        let mut dice = Dice::new(choices);
        let topology = dice.topology();
        let seen = dice.seen(&topology);
        let plan = diff(&down(&seen), &seen);
        assert_order(&plan);
        let state = played(&plan, &seen).map_err(TestCaseError::fail)?;
        prop_assert!(state.namespaces.values().all(|here| here.ends.is_empty() && here.strays.is_empty()));
        prop_assert!(state.namespaces.values().all(|here| here.table.is_none() && here.tunnels.is_empty()));
        let stays = |here: &Namespace| here.inhabitant.is_some() || here.maker == Maker::Others;
        prop_assert!(state.namespaces.values().all(|here| here.maker.has_made() == stays(here)));
    }
}

/// A leaf of two hubs, with a wire too small for IPv6 to another leaf.
fn leaf() -> (Topology, State) {
    let text = r#"
        version = 1
        runtime = "netns"
        wire = [
          { name = "one", ends = ["edge", "leaf"], subnet = "10.0.1.0/31" },
          { name = "two", ends = ["vpn", "leaf"], subnet = "10.0.2.0/31" },
          { name = "six", ends = ["leaf", "other"], subnet = "10.0.6.0/31", allow = ["tcp/80"], mtu = 1000 },
        ]
        [host]
        uplinks = ["up0"]
        [module]
        all-of-them = ["edge", "vpn", "leaf", "other"]
        [hub.edge]
        zone = "z"
        [hub.vpn]
        zone = "z"
        [node.leaf]
        egress = ["tcp/443"]
    "#;
    let topology = parse::topology(text).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let mut state = State::default();
    for node in desired::namespaces(&topology) {
        state.namespaces.insert(node, Namespace::default());
    }
    let state = up(&topology, &state);
    (topology, state)
}

/// What is planned when a leaf is not as the file says, as `CHANGE (REASON)` and `KIND: MESSAGE`.
fn planned(damage: impl FnOnce(&mut Namespace)) -> Vec<String> {
    let (topology, mut seen) = leaf();
    damage(seen.namespaces.get_mut("leaf").unwrap());
    let plan = diff(&up(&topology, &seen), &seen);
    let changes = plan.changes.iter().map(|change| format!("{change} ({})", change.reason));
    changes.chain(plan.findings.iter().map(|finding| format!("{}: {}", finding.kind, finding.message))).collect()
}

fn call(namespace: &mut Namespace, wire: &str, device: &str) {
    namespace.ends.get_mut(wire).unwrap().device = Device::new(device).unwrap();
}

#[test]
fn a_chain_of_names_is_followed_from_its_free_end() {
    let plan = planned(|leaf| {
        call(leaf, "six", "free");
        call(leaf, "one", "six");
        call(leaf, "two", "eth0");
    });
    let expected = [
        "rename two: eth0 to two at leaf (the device is called `eth0`)",
        "rename one: six to eth0 at leaf (the device is called `six`)",
        "rename six: free to six at leaf (the device is called `free`)",
    ];
    assert_eq!(plan, expected);
}

#[test]
fn names_that_go_round_in_a_circle_need_one_more() {
    let plan = planned(|leaf| {
        call(leaf, "one", "two");
        call(leaf, "two", "six");
        call(leaf, "six", "eth0");
    });
    let expected = [
        "rename six: eth0 to wire+0 at leaf (another wire is to have the name `eth0`)",
        "rename one: two to eth0 at leaf (the device is called `two`)",
        "rename two: six to two at leaf (the device is called `six`)",
        "rename six: wire+0 to six at leaf (the device is called `eth0`)",
    ];
    assert_eq!(plan, expected);
}

#[test]
fn a_foreign_device_keeps_its_name_and_a_foreign_route_its_place() {
    let plan = planned(|leaf| {
        call(leaf, "two", "odd");
        leaf.foreign.devices = vec![vec!["two".to_owned()]];
    });
    let taken = "taken: leaf has a device `two` that is not wire's and has the name that wire `two` needs";
    assert_eq!(plan, [taken]);

    let everywhere = "0.0.0.0/0".parse().unwrap();
    let over = |other: &str| {
        let other = name(other);
        planned(|leaf| {
            leaf.ends.get_mut("one").unwrap().routes.retain(|route| route.via.is_none());
            leaf.foreign.routes = vec![(other, everywhere)];
        })
    };
    let message =
        |wire: &str| format!("foreign-route: leaf has a route to default over wire `{wire}` that is not wire's");
    assert_eq!(over("one"), [message("one")]);
    assert_eq!(over("two"), [message("two")]);
    let plan = planned(|leaf| {
        leaf.ends.get_mut("one").unwrap().routes.retain(|route| route.via.is_none());
        leaf.foreign.networks = vec![(everywhere, "podman0".to_owned())];
    });
    assert_eq!(plan, ["foreign-route: leaf has a route to default over `podman0` already; wire `one` is to have it"]);
}

#[test]
fn a_stranger_that_stands_in_the_way_is_told_once() {
    let (topology, mut seen) = leaf();
    let leaf = seen.namespaces.get_mut("leaf").unwrap();
    leaf.ends.get_mut("one").unwrap().routes.retain(|route| route.via.is_none());
    leaf.foreign.routes = vec![(name("one"), "0.0.0.0/0".parse().unwrap())];
    let plan = diff(&up(&topology, &seen), &seen);
    let messages = |findings: &[super::Finding]| findings.iter().map(|f| f.message.clone()).collect::<Vec<_>>();
    assert_eq!(messages(&plan.findings), messages(&strangers(&topology, &seen)));
}

#[test]
fn a_wire_waits_for_a_node_that_does_not_run_and_leaves_its_names_to_others() {
    let (topology, mut seen) = leaf();
    seen.namespaces.remove("vpn");
    seen.waiting.insert(name("vpn"), "has stopped".to_owned());
    let leaf = seen.namespaces.get_mut("leaf").unwrap();
    leaf.ends.get_mut("two").unwrap().far = None;
    call(leaf, "one", "odd");
    call(leaf, "two", "eth0");
    let plan = diff(&up(&topology, &seen), &seen);
    let waiting: Vec<_> = plan.waiting.iter().map(|w| (w.wire.as_str(), w.node.as_str(), w.reason.as_str())).collect();
    assert_eq!(waiting, [("two", "vpn", "has stopped")]);
    let changes: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["rename two: eth0 to wire+0 at leaf", "rename one: odd to eth0 at leaf"]);
}

#[test]
fn ends_that_were_swapped_in_the_file_never_hold_both_addresses() {
    let plan = planned(|leaf| {
        let end = leaf.ends.get_mut("one").unwrap();
        end.addresses = ["10.0.1.0/31".parse().unwrap()].into();
    });
    let expected = [
        "remove-address one: 10.0.1.0/31 at leaf (the file does not want it any more)",
        "add-address one: 10.0.1.1/31 at leaf (it is missing)",
        "add-route one: default via 10.0.1.0 at leaf (it goes with the address that is removed)",
    ];
    assert_eq!(plan, expected);
}

#[test]
fn a_device_too_small_for_ipv6_gets_its_settings_again_when_it_grows() {
    let plan = planned(|leaf| leaf.ends.get_mut("one").unwrap().mtu = 1000);
    let expected = [
        "set one: mtu 1500 at leaf (it is 1000)",
        "set one: ipv6.disable_ipv6 = 1 at leaf (a larger MTU brings it back as the default)",
    ];
    assert_eq!(plan, expected);
    assert_eq!(planned(|leaf| leaf.ends.get_mut("six").unwrap().mtu = 900), ["set six: mtu 1000 at leaf (it is 900)"]);
}

#[test]
fn a_pair_that_is_not_right_is_made_anew_and_says_why() {
    let elsewhere = "must be made anew: its two ends do not belong together";
    let plan = planned(|leaf| leaf.ends.get_mut("two").unwrap().far = None);
    let expected = [
        format!("remove two at leaf ({elsewhere})"),
        format!("remove two at vpn ({elsewhere})"),
        format!("create two at vpn ({elsewhere})"),
    ];
    assert_eq!(plan, expected);
    let half = "must be made anew: the end in vpn has no far end where the file says";
    let plan = planned(|leaf| drop(leaf.ends.remove("two")));
    assert_eq!(plan, [format!("remove two at vpn ({half})"), format!("create two at vpn ({half})")]);
}

#[test]
fn switching_ipv6_off_takes_its_addresses_and_routes_along() {
    let plan = planned(|leaf| {
        let end = leaf.ends.get_mut("two").unwrap();
        end.settings.insert(Setting::DisableIpv6, 0);
        end.addresses.insert("fd09::1/127".parse().unwrap());
        end.routes.insert(Route { to: "::/0".parse().unwrap(), via: "fd09::".parse().ok(), from: None });
    });
    assert_eq!(plan, ["set two: ipv6.disable_ipv6 = 1 at leaf (it is 0)"]);
}

#[test]
fn what_is_left_of_a_waiting_wire_keeps_no_route_of_others() {
    let (topology, mut seen) = leaf();
    seen.namespaces.remove("vpn");
    let leaf = seen.namespaces.get_mut("leaf").unwrap();
    let routes = &mut leaf.ends.get_mut("one").unwrap().routes;
    let led: Vec<Route> = routes.iter().filter(|route| route.via.is_some()).copied().collect();
    routes.retain(|route| route.via.is_none());
    leaf.ends.get_mut("two").unwrap().routes.extend(led);
    let plan = diff(&up(&topology, &seen), &seen);
    let changes: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        ["remove-route two: default via 10.0.1.0 at leaf", "add-route one: default via 10.0.1.0 at leaf"]
    );
}

/// What is said of rules that are not as they are to be, as `WIRE: SENTENCE`.
fn said(damage: impl FnOnce(&mut Table)) -> Vec<String> {
    let (topology, mut seen) = leaf();
    let table = seen.namespaces.get_mut("leaf").unwrap().table.as_mut().unwrap();
    damage(Arc::make_mut(table));
    let plan = diff(&up(&topology, &seen), &seen);
    let [Change { action: Action::Load(load), reason, .. }] = &plan.changes[..] else { return Vec::new() };
    assert!(reason.starts_with(&load.differences[0].what), "{reason}");
    let line = |difference: &Difference| {
        let wire = difference.wire.as_ref().map(|wire| format!("{wire}: ")).unwrap_or_default();
        wire + &difference.what
    };
    load.differences.iter().map(line).collect()
}

#[test]
fn rules_that_differ_are_named() {
    let chain =
        |table: &mut Table, name: &str, damage: &dyn Fn(&mut Chain)| damage(table.chains.get_mut(name).unwrap());
    let cases: [(Vec<String>, &[&str]); 11] = [
        (said(|_| {}), &[]),
        (said(|table| *table.counters.get_mut("denied.one").unwrap() = 7), &[]),
        (
            said(|table| chain(table, "in.one", &|chain| drop(chain.rules.pop()))),
            &["one: chain in.one lacks the rule `goto denied.one`"],
        ),
        (
            said(|table| chain(table, "out.six", &|chain| chain.rules.push(Rule::new().accept()))),
            &["six: chain out.six has the rule `accept`, which is not to be there"],
        ),
        (
            said(|table| chain(table, "related", &|chain| chain.rules.reverse())),
            &["the rules of chain related are not in their order"],
        ),
        (
            said(|table| chain(table, "input", &|chain| chain.base.as_mut().unwrap().drop = false)),
            &["chain input is not entered where it must be, or its policy is another"],
        ),
        (
            said(|table| {
                let chain = table.chains.remove("through.two").unwrap();
                table.chains.insert("mine".into(), chain);
            }),
            &["chain mine is not wire's, or not wanted any more", "two: chain through.two is missing"],
        ),
        (said(|table| table.dormant = true), &["the whole table is switched off (dormant)"]),
        (
            said(|table| {
                table.foreign.insert(Foreign::FlowTable("fast".into()));
                table.counters.remove("denied.six");
                table.counters.insert("unfinished".into(), 0);
            }),
            &[
                "`fast` in the table is not wire's",
                "six: counter denied.six is missing",
                "connections may be left that nothing lets begin any more",
            ],
        ),
        (
            said(|table| {
                let map = table.sets.get_mut("input").unwrap();
                let key = |device: &str| Key::One(Value::device(device));
                let one = map.elements.remove(&key("eth0")).unwrap();
                map.elements.insert(key("odd"), one.clone());
                map.elements.insert(key("six"), one);
            }),
            &["set input lacks eth0", "six in set input is another", "set input has odd, which is not to be there"],
        ),
        (
            said(|table| {
                let output = table.sets.get_mut("output").unwrap();
                output.elements.clear();
                output.timeout = true;
            }),
            &["set output is of another kind"],
        ),
    ];
    for (said, expected) in cases {
        assert_eq!(said, expected);
    }
}

#[test]
fn a_node_that_cannot_have_its_rules_is_told_once() {
    let (topology, mut seen) = leaf();
    for node in ["leaf", "other"] {
        seen.namespaces.remove(node);
        seen.refused.insert(name(node), "it has another table".to_owned());
    }
    let findings = |plan: &Plan| plan.findings.iter().map(|f| f.message.clone()).collect::<Vec<String>>();
    let plan = diff(&up(&topology, &seen), &seen);
    assert_eq!(findings(&plan).len(), 4, "one for each end that is refused: {:#?}", plan.findings);
    assert!(plan.findings.iter().all(|finding| finding.blocks && finding.wire.is_some()));

    let (topology, mut seen) = leaf();
    seen.refused.insert(name("host"), "it has another table".to_owned());
    seen.namespaces.remove("host");
    assert_eq!(findings(&diff(&up(&topology, &seen), &seen)), [""; 0], "a host without wires needs no rules");
    seen.refused.insert(name("vault"), "it has another table".to_owned());
    assert_eq!(findings(&diff(&up(&topology, &seen), &seen)), [""; 0], "no node of the file");
}

#[test]
fn a_foreign_route_over_a_wire_that_waits_stays_in_the_way() {
    let (topology, mut seen) = leaf();
    seen.namespaces.remove("vpn");
    let leaf = seen.namespaces.get_mut("leaf").unwrap();
    leaf.ends.get_mut("one").unwrap().routes.retain(|route| route.via.is_none());
    // Its end is not as it is to be, and is left so until the other node runs.
    leaf.ends.get_mut("two").unwrap().addresses = ["10.0.2.0/31".parse().unwrap()].into();
    leaf.foreign.routes = vec![(name("two"), "0.0.0.0/0".parse().unwrap())];
    let plan = diff(&up(&topology, &seen), &seen);
    assert_eq!(plan.changes, []);
    let message = "leaf has a route to default over wire `two` that is not wire's";
    assert_eq!(plan.findings.iter().map(|finding| &*finding.message).collect::<Vec<_>>(), [message]);
}

/// What is planned for a hub that two dial in to when it is not as the file says.
fn dialled(damage: impl FnOnce(&mut State)) -> Vec<String> {
    let text = r#"
        version = 1
        runtime = "netns"
        wire = [{ name = "host-vpn", ends = ["host", "vpn"], subnet = "192.168.101.0/31" }]
        [host]
        uplinks = ["up0"]
        [module]
        all-of-them = ["vpn"]
        [hub.vpn]
        zone = "z"
        clients = { prefix = "10.100.0.0/24", device = "wg0" }
        [hub.vpn.wireguard]
        listen = 51820
        private-key = "/k/vpn"
        [[hub.vpn.wireguard.peer]]
        name = "laptop"
        public-key = "mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs="
        preshared-key = "/k/laptop"
        address = "10.100.0.2"
        allow = []
        [[hub.vpn.wireguard.peer]]
        name = "phone"
        public-key = "B7jFQkh2hqeDAYVfy20/aoqRHNfxmDqbRNydzSKDnSM="
        address = "10.100.0.3"
        allow = []
    "#;
    let topology = parse::topology(text).unwrap_or_else(|faults| panic!("{faults:#?}"));
    let mut seen = State { has_wireguard: true, keys: keys(&topology), ..State::default() };
    for node in desired::namespaces(&topology) {
        seen.namespaces.insert(node, Namespace::default());
    }
    let mut seen = up(&topology, &State { has_wireguard: true, ..seen });
    seen.has_wireguard = true;
    seen.namespaces.values_mut().flat_map(|here| here.tunnels.values_mut()).for_each(nameless);
    damage(&mut seen);
    let plan = diff(&up(&topology, &seen), &seen);
    let changes = plan.changes.iter().map(|change| format!("{change} ({})", change.reason));
    changes.chain(plan.findings.iter().map(|finding| format!("{}: {}", finding.kind, finding.message))).collect()
}

#[test]
fn a_tunnel_is_told_in_the_files_names_and_no_key_is_said() {
    const PHONE: &str = "B7jFQkh2hqeDAYVfy20/aoqRHNfxmDqbRNydzSKDnSM=";
    let tunnel = |state: &mut State, damage: &dyn Fn(&mut Wireguard)| {
        let tunnel = state.namespaces.get_mut("vpn").unwrap().tunnels.values_mut().next().unwrap();
        let Kind::Kernel(wireguard) = &mut tunnel.kind else { panic!("the kernel has it") };
        damage(wireguard);
    };
    let cases: [(Vec<String>, &[&str]); 6] = [
        (dialled(|_| {}), &[]),
        (
            dialled(|seen| {
                seen.keys.get_mut("vpn").unwrap().private = Ok(None);
                seen.namespaces.get_mut("vpn").unwrap().tunnels.clear();
            }),
            &[
                "make key /k/vpn at vpn (there is no such file)",
                "create tunnel wg0 at vpn (there is no such device)",
                "add-peer peer phone: 10.100.0.3 at vpn (it is not there)",
                "add-peer peer laptop: 10.100.0.2 at vpn (it is not there)",
            ],
        ),
        (
            dialled(|seen| {
                tunnel(seen, &|wireguard| {
                    let peer = wireguard.peers.remove(PHONE).unwrap();
                    wireguard.peers.insert("another".to_owned(), peer);
                    wireguard.listen = 9;
                });
            }),
            &[
                "set tunnel wg0: port 51820 at vpn (it is 9)",
                "remove-peer peer with the key another at vpn (no peer of the file has that key (it has 10.100.0.3))",
                "add-peer peer phone: 10.100.0.3 at vpn (it is not there)",
            ],
        ),
        (
            dialled(|seen| {
                tunnel(seen, &|wireguard| wireguard.peers.values_mut().for_each(|peer| peer.preshared = None));
            }),
            &["set-peer peer laptop: preshared key at vpn (it has none)"],
        ),
        (
            dialled(|seen| {
                tunnel(seen, &|wireguard| {
                    for peer in wireguard.peers.values_mut() {
                        peer.heard.endpoint = "203.0.113.9:4000".parse().ok();
                        peer.heard.handshake = Some(9);
                    }
                });
            }),
            &[],
        ),
        (
            dialled(|seen| {
                let refused = Err(crate::error::Error::failed("the key /k/laptop is a link"));
                seen.keys.get_mut("vpn").unwrap().preshared.insert(name("laptop"), refused);
                tunnel(seen, &|wireguard| wireguard.listen = 9);
            }),
            &["set tunnel wg0: port 51820 at vpn (it is 9)", "key: peer `laptop` of vpn: the key /k/laptop is a link"],
        ),
    ];
    for (said, expected) in cases {
        assert_eq!(said, expected);
    }
}
