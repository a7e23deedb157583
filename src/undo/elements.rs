//! What is in the sets of rules that come back: what was in them before, but for what somebody has put in or taken out since the
//! change. Address by address, for what is put in may lie beside or across what was there.

use std::collections::BTreeSet;

use crate::nft::{Element, Elements, Key, Set, Table, Type, Value};

/// Disjoint ranges in their order, both ends meant.
type Ranges = Vec<(u128, u128, Element)>;

/// Fills the sets of a table of before, given those that the change made of them and those that are there now, so many seconds
/// later.
pub fn keep(table: &mut Table, after: &Table, now: &Table, elapsed: u64) {
    for (name, set) in table.sets.iter_mut().filter(|(_, set)| set.interval && !set.dynamic) {
        let of = |table: &Table| table.sets.get(name).map(|set| ranges(&set.elements)).unwrap_or_default();
        let left = |element: &Element| Element {
            expires: element.expires.map(|left| left.saturating_sub(elapsed)),
            ..element.clone()
        };
        let aged = set.elements.iter().map(|(key, element)| (key.clone(), left(element)));
        set.elements = aged.filter(|(_, element)| element.expires != Some(0)).collect();
        let is_as = |one: &Set, table: &Table| {
            table.sets.get(name).is_some_and(|set| one.elements.keys().eq(set.elements.keys()))
        };
        // Nobody has; or it came back already.
        if after.sets.get(name).map_or(!now.sets.contains_key(name), |after| is_as(after, now)) || is_as(set, now) {
            continue;
        }
        let length = set.key.iter().map(|kind| Type::length(*kind)).sum::<usize>().min(16);
        let value = |number: u128| Value::new(&number.to_be_bytes()[16 - length..]);
        let merged = merged(&ranges(&set.elements), &of(after), &of(now)).into_iter();
        set.elements = merged.map(|(first, last, element)| (Key::Range(value(first), value(last)), element)).collect();
    }
}

fn ranges(elements: &Elements) -> Ranges {
    let number = |value: &Value| value.as_bytes().iter().fold(0, |number: u128, byte| number << 8 | u128::from(*byte));
    let range = |(key, element): (&Key, &Element)| match key {
        Key::Range(first, last) => Some((number(first), number(last), element.clone())),
        Key::One(_) | Key::Many(_) => None,
    };
    elements.iter().filter_map(range).collect()
}

/// An address is in or out as before, where nobody has changed that since `after`; else as it is now.
fn merged(before: &Ranges, after: &Ranges, now: &Ranges) -> Ranges {
    let all = || before.iter().chain(after).chain(now);
    let firsts: BTreeSet<u128> =
        all().flat_map(|(first, last, _)| [Some(*first), last.checked_add(1)]).flatten().collect();
    let mut firsts = firsts.into_iter().peekable();
    let mut merged = Ranges::new();
    while let Some(first) = firsts.next() {
        let last = firsts.peek().map_or(u128::MAX, |next| next - 1);
        let [before, after, now] = [before, after, now].map(|ranges| {
            let place = ranges.partition_point(|(_, last, _)| *last < first);
            ranges.get(place).filter(|(low, _, _)| *low <= first).map(|(_, _, element)| element)
        });
        let element = match now.is_some() == after.is_some() {
            true => before.map(|before| now.unwrap_or(before)),
            false => now,
        };
        let Some(element) = element else { continue };
        match merged.last_mut() {
            Some((_, end, known)) if end.checked_add(1) == Some(first) && known.expires == element.expires => {
                *end = last;
            }
            _ => merged.push((first, last, element.clone())),
        }
    }
    merged
}
