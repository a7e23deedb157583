//! `wire set`: looks at a set and changes what is kept of it. Whatever was changed is on the disk before the kernel is given
//! it, so that a kill in between loses nothing; doing the same again gives the kernel what it lacks.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::kept::{Kept, Shelf, Term};
use super::{Element, Origin, Sets, Source, ask, keep, load, now, renew, shown};
use crate::cli::SetVerb;
use crate::error::{Error, Exit, Fault};
use crate::kernel::run::{Lock, RunDirectory};
use crate::kernel::{self, CHANGE, ENTER};
use crate::near::{meant, shown as quoted};
use crate::parse;
use crate::topology::{Set, Topology};
use crate::voice::{Voice, count, duration};

/// Does what `wire set` was asked. `path` is the topology's; `push` gives the kernel the contents of the sets that may have
/// changed, and is called under the lock.
pub fn run(
    voice: &Voice,
    path: &str,
    topology: &Topology,
    verb: &SetVerb,
    push: impl FnOnce(&Sets, &Lock) -> Result<(), Error>,
) -> Result<Exit, Error> {
    let known = |name: &str| {
        let names = topology.sets.keys().map(|name| name.as_str());
        let hint = || meant(name, names, format!("the sets are the [set.NAME] of {path}"));
        let unknown = || Error::invalid(format!("no set is called `{}`", quoted(name))).hint(hint());
        topology.sets.get(name).ok_or_else(unknown)
    };
    match verb {
        SetVerb::List { set } => list(voice, known(set)?),
        SetVerb::Refresh { sets } => {
            let named: Vec<&Set> = sets.iter().map(|set| known(set)).collect::<Result<_, _>>()?;
            let all = || topology.sets.values().collect();
            refresh(voice, if named.is_empty() { all() } else { named }, push)
        }
        SetVerb::Add { set, addresses, term } => {
            let (set, elements) = (known(set)?, elements(addresses)?);
            let length = term.as_deref().map(parse::duration).transpose();
            let length = length.map_err(|fault| misread("--for: ", fault))?;
            change(voice, set, ["added", "already"], push, |source, now| {
                Ok(add(&mut source.kept, set, &elements, length, now))
            })
        }
        SetVerb::Del { set, addresses } => {
            let (set, elements) = (known(set)?, elements(addresses)?);
            change(voice, set, ["deleted", "absent"], push, |source, now| delete(source, path, &elements, now))
        }
    }
}

fn list(voice: &Voice, set: &Set) -> Result<Exit, Error> {
    let now = now();
    let shelf = Shelf::look()?;
    let source = load(voice, set, shelf.as_ref())?;
    let elements = source.elements(now);
    if voice.json {
        voice.print_json(&shown::json(&set.name, &elements, now));
    } else {
        voice.print(&shown::lines(&elements, now));
        if elements.is_empty() {
            voice.say(&format!("set `{}` is empty: nobody is in it", set.name));
        }
    }
    Ok(Exit::Done)
}

fn refresh(
    voice: &Voice,
    sets: Vec<&Set>,
    push: impl FnOnce(&Sets, &Lock) -> Result<(), Error>,
) -> Result<Exit, Error> {
    kernel::may("change what a set holds", &[ENTER, CHANGE])?;
    let answers = ask(sets.iter().copied());
    let run = RunDirectory::open()?;
    let lock = run.lock(|| voice.say("waiting for another run of wire to end"))?;
    let sets = renew(voice, sets, &answers, &lock)?;
    push(&sets, &lock)?;
    let counted = sets.iter().map(|(set, contents)| (set, contents.elements.len()));
    if voice.json {
        let sets = counted.map(|(set, count)| json!({ "set": set, "elements": count }));
        voice.print_json(&json!({ "sets": sets.collect::<Value>() }));
    } else {
        counted.for_each(|(set, elements)| voice.say(&format!("set `{set}`: {}", count(elements, "element"))));
    }
    Ok(Exit::Done)
}

/// What came of an edit.
#[derive(Default)]
struct Done {
    done: Vec<IpNetwork>,
    /// For these there was nothing to do.
    not: Vec<IpNetwork>,
    remarks: Vec<String>,
}

/// Edits what is kept of a set. `words` are what was done, and what there was instead where there was nothing to do.
fn change(
    voice: &Voice,
    set: &Set,
    words: [&str; 2],
    push: impl FnOnce(&Sets, &Lock) -> Result<(), Error>,
    edit: impl FnOnce(&mut Source, u64) -> Result<Done, Error>,
) -> Result<Exit, Error> {
    kernel::may("change what a set holds", &[ENTER, CHANGE])?;
    let run = RunDirectory::open()?;
    let lock = run.lock(|| voice.say("waiting for another run of wire to end"))?;
    let now = now();
    let mut shelf = Shelf::look()?;
    let mut source = load(voice, set, shelf.as_ref())?;
    let Done { done, not, remarks } = edit(&mut source, now)?;
    keep(&mut shelf, &mut source, now)?;
    push(&Sets::from([(set.name.clone(), source.contents(now))]), &lock)?;
    remarks.iter().for_each(|remark| voice.say(remark));
    if voice.json {
        let list = |list: Vec<IpNetwork>| list.into_iter().map(shown::network).collect::<Value>();
        voice.print_json(&json!({ "set": set.name, words[0]: list(done), words[1]: list(not) }));
    } else {
        voice.say(&format!("set `{}`: {} {}", set.name, count(done.len(), "element"), words[0]));
    }
    Ok(Exit::Done)
}

fn misread(before: &str, fault: Fault) -> Error {
    Error { hint: fault.hint, ..Error::invalid(format!("{before}{}", fault.message)) }
}

/// Every address of a command line, once.
fn elements(words: &[String]) -> Result<Vec<IpNetwork>, Error> {
    let all = words.iter().map(|word| parse::element(word).map_err(|fault| misread("", fault)));
    let all = all.collect::<Result<BTreeSet<_>, _>>()?;
    Ok(all.into_iter().collect())
}

/// Adding never takes away: what stays longer already stays as long as it does.
fn add(kept: &mut Kept, set: &Set, elements: &[IpNetwork], length: Option<u64>, now: u64) -> Done {
    let mut did = Done::default();
    let term = length.map(|length| Term { until: now.saturating_add(length), length });
    for network in elements {
        let stays = match (kept.added.get(network), term) {
            (Some(None), _) => true,
            (Some(Some(known)), Some(term)) => known.expiry(now) >= term.expiry(now),
            _ => false,
        };
        if stays {
            let shown = shown::network(*network);
            let until = match kept.added.get(network) {
                Some(Some(term)) => format!("for {} yet", duration(term.expiry(now).remaining(now))),
                _ => "without end".to_owned(),
            };
            did.remarks.push(format!("`{shown}` is in set `{}` already, {until}", set.name));
            did.not.push(*network);
        } else {
            kept.added.insert(*network, term);
            did.done.push(*network);
        }
    }
    did
}

/// Takes away what was added. What is in the set for another reason is not this command's to take, and then nothing is done.
fn delete(source: &mut Source, path: &str, elements: &[IpNetwork], now: u64) -> Result<Done, Error> {
    let mut did = Done::default();
    let all = source.elements(now);
    for network in elements {
        let shown = shown::network(*network);
        let own = all.iter().filter(|element| element.network == *network);
        if let Some(element) = own.clone().find(|element| element.origin != Origin::Added) {
            let (place, hint) = stands(source.set, path, element);
            return Err(Error::invalid(format!("`{shown}` stands in {place}")).hint(hint));
        }
        let is_added = own.count() > 0;
        let wider = all.iter().find(|element| element.network != *network && holds(element.network, *network));
        match (is_added, wider) {
            (true, None) => did.done.push(*network),
            (true, Some(wider)) => {
                let wide = shown::network(wider.network);
                did.remarks.push(format!("`{shown}` is still in set `{}`, as a part of `{wide}`", source.set.name));
                did.done.push(*network);
            }
            (false, Some(wider)) => {
                let (place, hint) = stands(source.set, path, wider);
                let wide = shown::network(wider.network);
                let message = format!("`{shown}` is in set `{}` as a part of `{wide}` in {place}", source.set.name);
                return Err(Error::invalid(message).hint(hint));
            }
            (false, None) => {
                did.remarks.push(format!("`{shown}` is not in set `{}`", source.set.name));
                did.not.push(*network);
            }
        }
    }
    for network in &did.done {
        source.kept.added.remove(network);
    }
    Ok(did)
}

/// Whether all of a network is in a wider one.
fn holds(wide: IpNetwork, network: IpNetwork) -> bool {
    wide.is_ipv4() == network.is_ipv4() && wide.prefix() <= network.prefix() && wide.contains(network.network())
}

/// Where an element stands, and how it leaves.
fn stands(set: &Set, path: &str, element: &Element) -> (String, String) {
    let Set { name, place, .. } = set;
    let file = set.file.as_deref().unwrap_or_default();
    match element.origin {
        Origin::Topology => (
            format!("`elements` of [set.{name}], {path}:{}", place.line),
            "strike it there, then run `wire up`".to_owned(),
        ),
        Origin::File(line) => {
            let line = line.map(|line| format!(":{line}")).unwrap_or_default();
            (format!("{file}{line}"), format!("strike it there, then run `wire set refresh {name}`"))
        }
        Origin::Dns(domain) => (
            format!("the last answer for `{domain}`, one of `dns` in [set.{name}], {path}:{}", place.line),
            "strike the name there, then run `wire up`".to_owned(),
        ),
        Origin::Added => (
            "what was added".to_owned(),
            format!("`wire set del {name} {}` takes all of it", shown::network(element.network)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns::Kind;
    use super::super::file::Line;
    use super::super::kept::Answer;
    use super::*;
    use crate::topology::{Name, Place};

    fn networks(words: &[&str]) -> Vec<IpNetwork> {
        elements(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>()).unwrap()
    }

    fn set() -> Set {
        Set {
            name: Name::new("players").unwrap(),
            elements: networks(&["192.0.2.0/24"]),
            file: Some("/srv/players".to_owned()),
            dns: vec!["anna.example.net".to_owned()],
            interval: None,
            private: false,
            place: Place { line: 9, column: 1 },
        }
    }

    fn told(did: &Done) -> (Vec<String>, Vec<String>) {
        let shown = |list: &[IpNetwork]| list.iter().copied().map(shown::network).collect();
        (shown(&did.done), shown(&did.not))
    }

    #[test]
    fn words_are_addresses_once_each() {
        assert_eq!(networks(&["192.0.2.1", "192.0.2.1/32", "2001:db8::1"]).len(), 2);
        let error = elements(&["192.0.2.1".to_owned(), "nobody".to_owned()]).unwrap_err();
        assert_eq!((error.exit, &*error.message), (Exit::Invalid, "`nobody` is no address"));
        assert!(error.hint.is_some_and(|hint| !hint.contains('@')), "a set in a set there is not");
    }

    /// An element stays as long as the longest of what was ever said of it.
    #[test]
    fn adding_never_takes_away() {
        let (set, mut kept) = (set(), Kept::default());
        let one = networks(&["198.51.100.1"]);
        let mut go = |length, now| {
            let did = add(&mut kept, &set, &one, length, now);
            let term = kept.added[&one[0]];
            (did.done.len(), term.map(|term| term.until))
        };
        assert_eq!(go(Some(60), 1000), (1, Some(1060)));
        assert_eq!(go(Some(30), 1000), (0, Some(1060)), "shorter");
        assert_eq!(go(Some(60), 1010), (1, Some(1070)), "longer");
        assert_eq!(go(Some(10), 1100), (1, Some(1110)), "after its end");
        assert_eq!(go(None, 1100), (1, None));
        assert_eq!(go(None, 1100), (0, None));
        assert_eq!(go(Some(60), 1100), (0, None), "without end stays without end");
    }

    #[test]
    fn what_was_added_is_deleted_and_what_is_not_there_is_said() {
        let set = set();
        let mut source = Source { set: &set, kept: Kept::default(), lines: vec![] };
        add(&mut source.kept, &set, &networks(&["198.51.100.1", "198.51.100.0/24"]), None, 1000);
        add(&mut source.kept, &set, &networks(&["198.51.100.2"]), Some(5), 1000);
        let did = delete(&mut source, "t.toml", &networks(&["198.51.100.1", "203.0.113.1"]), 1000).unwrap();
        assert_eq!(told(&did), (vec!["198.51.100.1".to_owned()], vec!["203.0.113.1".to_owned()]));
        let wanted = [
            "`198.51.100.1` is still in set `players`, as a part of `198.51.100.0/24`",
            "`203.0.113.1` is not in set `players`",
        ];
        assert_eq!(did.remarks, wanted);
        let did = delete(&mut source, "t.toml", &networks(&["198.51.100.0/24"]), 1000).unwrap();
        assert_eq!((did.done.len(), did.remarks.len()), (1, 0));
        let did = delete(&mut source, "t.toml", &networks(&["198.51.100.2"]), 1005).unwrap();
        assert_eq!(told(&did), (vec![], vec!["198.51.100.2".to_owned()]), "it has ended by itself");
    }

    /// What stands elsewhere is struck elsewhere: it is said where, and of all that was to be deleted nothing is.
    #[test]
    fn what_stands_elsewhere_is_not_deleted() {
        let set = set();
        let lines = vec![Line { number: Some(3), network: networks(&["203.0.113.3"])[0] }];
        let mut source = Source { set: &set, kept: Kept::default(), lines };
        let answer = Answer { asked: 7, addresses: ["203.0.113.5".parse().unwrap()].into() };
        source.kept.answers.insert(("anna.example.net".to_owned(), Kind::A), answer);
        add(&mut source.kept, &set, &networks(&["198.51.100.0/24", "203.0.113.3"]), None, 1000);
        let table = [
            ("192.0.2.0/24", "`192.0.2.0/24` stands in `elements` of [set.players], t.toml:9", "`wire up`"),
            (
                "192.0.2.7",
                "`192.0.2.7` is in set `players` as a part of `192.0.2.0/24` in `elements` of [set.players], t.toml:9",
                "`wire up`",
            ),
            ("203.0.113.3", "`203.0.113.3` stands in /srv/players:3", "`wire set refresh players`"),
            (
                "203.0.113.5",
                "`203.0.113.5` stands in the last answer for `anna.example.net`, one of `dns` in [set.players], t.toml:9",
                "`wire up`",
            ),
            (
                "198.51.100.7",
                "`198.51.100.7` is in set `players` as a part of `198.51.100.0/24` in what was added",
                "`wire set del players 198.51.100.0/24`",
            ),
        ];
        let before = source.kept.clone();
        for (word, message, hint) in table {
            let error = delete(&mut source, "t.toml", &networks(&["198.51.100.0/24", word]), 1000).err().unwrap();
            assert_eq!((error.exit, &*error.message), (Exit::Invalid, message));
            assert!(error.hint.as_ref().is_some_and(|told| told.contains(hint)), "{error:?}");
            assert_eq!(source.kept, before, "{word}");
        }
    }
}
