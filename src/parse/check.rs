//! What must hold between the words of a file, and the topology that comes of it: every name leads to something, no
//! address, port or device is given twice, nothing contradicts. Each check stays silent where a word it needs could not be
//! read, so that one mistake gives one fault.

mod addresses;
mod hubs;
mod made;
mod nodes;
mod published;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::topology::{HOST, Name, OUTSIDE, Place, Service, Topology};

use super::draft::{self, Draft};
use super::tree::Page;
use crate::near::{meant, nearest, shown};

/// The topology of a draft, or nothing where something is wrong with it, which is told.
pub fn topology(page: &Page, draft: &Draft) -> Option<Topology> {
    let check = Check::whole(page, draft);
    if page.is_clean() { check.topology() } else { None }
}

/// Where a node was first named in `[module]`.
struct Member<'d> {
    name: &'d Name,
    module: &'d Name,
    place: Place,
}

pub struct Check<'d> {
    page: &'d Page<'d>,
    draft: &'d Draft<'d>,
    members: BTreeMap<&'d str, Member<'d>>,
    tables: HashMap<&'d str, &'d draft::Node<'d>>,
    hubs: HashMap<&'d str, &'d draft::Hub<'d>>,
    /// The namespace of each node; none where it cannot be known.
    spaces: HashMap<&'d str, Option<&'d str>>,
    /// The namespaces each wire joins, by the order of the wires; none where they cannot be known.
    ends: Vec<Option<[&'d str; 2]>>,
    /// The wires that end in each namespace, each with the far one, in the order of the file.
    wires: HashMap<&'d str, Vec<(&'d draft::Wire<'d>, &'d str)>>,
    /// Each leaf's first hub and the wire to it, where its default route goes.
    first_hubs: HashMap<&'d str, (&'d draft::Wire<'d>, &'d str)>,
    /// All wires have their ends: one that is not there does not exist.
    ends_whole: bool,
    /// Names that are no node's, which has been told.
    strangers: BTreeSet<&'d str>,
}

/// The line of a place, as messages say it.
fn line(place: Place) -> String {
    format!("line {}", place.line)
}

/// `a`, `b` and `c`.
fn and<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match &words[..] {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        words => words.concat(),
    }
}

/// A list of strings as the file writes it.
fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("\"{word}\"")).collect();
    format!("[{}]", words.join(", "))
}

impl<'d> Check<'d> {
    /// The draft with all that must hold in it checked.
    pub fn whole(page: &'d Page<'d>, draft: &'d Draft<'d>) -> Check<'d> {
        let check = Check::new(page, draft);
        check.wire_names();
        check.subnets();
        check.devices();
        check.nodes();
        check.homes();
        check.zones();
        check.ways_out();
        check.uplinks();
        check.publications();
        check.hubs();
        check.sets();
        check
    }

    /// The wires with the namespaces they join, in the order of the file.
    pub fn wires(&self) -> impl Iterator<Item = (&'d draft::Wire<'d>, [&'d str; 2])> {
        self.draft.wires.iter().zip(&self.ends).filter_map(|(wire, ends)| Some((wire, (*ends)?)))
    }

    fn new(page: &'d Page<'d>, draft: &'d Draft<'d>) -> Check<'d> {
        let mut members = BTreeMap::new();
        for draft::Module { name: module, nodes } in &draft.modules {
            for node in nodes {
                let member = Member { name: &node.it, module, place: node.place };
                let member = members.entry(node.it.as_str()).or_insert(member);
                if member.place != node.place {
                    let message = match member.module == module {
                        true => format!("module `{module}`: node `{}` stands in it twice", node.it),
                        false => format!(
                            "module `{module}`: node `{}` stands in module `{}` already",
                            node.it, member.module
                        ),
                    };
                    page.fault(node.place, message, format!("keep one of them, here or in {}", line(member.place)));
                }
            }
        }
        let tables = draft.nodes.iter().map(|node| (node.name.it.as_str(), node)).collect();
        let hubs = draft.hubs.iter().map(|hub| (hub.name.it.as_str(), hub)).collect();
        let mut check = Check {
            page,
            draft,
            members,
            tables,
            hubs,
            spaces: HashMap::new(),
            ends: Vec::new(),
            wires: HashMap::new(),
            first_hubs: HashMap::new(),
            ends_whole: false,
            strangers: BTreeSet::new(),
        };
        check.strangers = check.mentions();
        check.spaces = check.members.keys().copied().chain([HOST]).map(|node| (node, check.space(node))).collect();
        check.ends = draft.wires.iter().map(|wire| check.joined(wire)).collect();
        check.ends_whole = draft.whole && check.ends.iter().all(Option::is_some);
        for (wire, ends) in draft.wires.iter().zip(&check.ends) {
            let Some([a, b]) = *ends else { continue };
            for (space, far) in [(a, b), (b, a)] {
                check.wires.entry(space).or_default().push((wire, far));
                if check.is_leaf(space) && check.is_hub(far) {
                    check.first_hubs.entry(space).or_insert((wire, far));
                }
            }
        }
        check
    }

    fn knows(&self, node: &str) -> bool {
        node == HOST || self.members.contains_key(node)
    }

    fn is_hub(&self, space: &str) -> bool {
        self.hubs.contains_key(space)
    }

    fn is_leaf(&self, space: &str) -> bool {
        space != HOST && !self.is_hub(space)
    }

    /// Every node that is named anywhere must be there. One that is not is told once, where it is named first.
    fn mentions(&self) -> BTreeSet<&'d str> {
        let mut mentions: Vec<(Place, &'d str, Rc<str>)> = Vec::new();
        for wire in &self.draft.wires {
            let unknown = wire.ends.iter().flatten().filter(|end| !self.knows(end.it));
            mentions.extend(unknown.map(|end| (end.place, end.it, wire.what.clone())));
        }
        for node in &self.draft.nodes {
            let what = || format!("node `{}`", node.name.it).into();
            mentions.extend(node.shares.as_ref().map(|shares| (shares.place, shares.it, what())));
            mentions.push((node.name.place, node.name.it.as_str(), "".into()));
        }
        for hub in &self.draft.hubs {
            mentions.push((hub.name.place, hub.name.it.as_str(), "".into()));
            let what = |host: &str| format!("site `{host}`").into();
            mentions.extend(hub.sites.iter().map(|s| (s.place, s.it.to.node.as_str(), what(&s.it.host))));
            let what = |port: &Service| format!("forward `{port}`").into();
            mentions.extend(hub.forwards.iter().map(|f| (f.to, f.forward.to.node.as_str(), what(&f.forward.port))));
        }
        mentions.retain(|(_, node, _)| !self.knows(node));
        mentions.sort();
        let mut strangers = BTreeSet::new();
        for (place, node, what) in mentions {
            if !strangers.insert(node) || !self.draft.modules_whole {
                continue;
            }
            let near = nearest(node, self.members.keys().copied().chain([HOST]));
            let what = if what.is_empty() { String::new() } else { format!("{what}: ") };
            let node = shown(node);
            let hint = if node == OUTSIDE {
                "what lies outside is reached by `egress` and `publish`, not by a wire".to_owned()
            } else if self.members.is_empty() {
                format!("name all nodes below [module], as `house = [\"{node}\"]`")
            } else {
                meant(&node, near, format!("every node stands in a module: add `\"{node}\"` to one below [module]"))
            };
            self.page.fault(place, format!("{what}no node is called `{node}`"), hint);
            if self.members.is_empty() {
                break;
            }
        }
        strangers
    }

    /// The namespace a node lives in.
    fn space(&self, node: &'d str) -> Option<&'d str> {
        let mut space = node;
        let mut seen = BTreeSet::new();
        while let Some(shares) = self.tables.get(space).and_then(|table| table.shares.as_ref()) {
            if !seen.insert(space) {
                return None;
            }
            space = shares.it;
        }
        self.knows(space).then_some(space)
    }

    /// The two namespaces of a wire, told where they are one.
    fn joined(&self, wire: &draft::Wire<'d>) -> Option<[&'d str; 2]> {
        let [a, b] = wire.ends.as_ref()?;
        let [Some(first), Some(second)] = [a, b].map(|end| *self.spaces.get(end.it)?) else {
            return None;
        };
        if first == second {
            let message = if a.it == b.it {
                format!("{}: both ends are in `{}`", wire.what, a.it)
            } else {
                format!("{}: `{}` and `{}` live in one namespace, that of `{first}`", wire.what, a.it, b.it)
            };
            self.page.fault(b.place, message, "a wire joins two namespaces: name another node");
            return None;
        }
        Some([first, second])
    }

    /// The wires that end in a namespace, each with the far one, in the order of the file.
    fn wires_of(&self, space: &str) -> impl Iterator<Item = (&'d draft::Wire<'d>, &'d str)> {
        self.wires.get(space).into_iter().flatten().copied()
    }

    /// The wires that join a leaf and a hub, in the order of the file. The leaf is asked, as a hub has many.
    fn wires_between(&self, leaf: &str, hub: &str) -> impl Iterator<Item = &'d draft::Wire<'d>> {
        self.wires_of(leaf).filter(move |(_, far)| *far == hub).map(|(wire, _)| wire)
    }

    fn has_host_wire(&self, space: &str) -> bool {
        self.wires_of(space).any(|(_, far)| far == HOST)
    }

    fn wire_names(&self) {
        let mut first: HashMap<&Name, Place> = HashMap::new();
        for name in self.draft.wires.iter().filter_map(|wire| wire.name.as_ref()) {
            let place = *first.entry(&name.it).or_insert(name.place);
            if place != name.place {
                let message = format!("wire `{}`: the name is already that of the wire in {}", name.it, line(place));
                self.page.fault(name.place, message, "a wire's name is its identity: give each its own");
            }
        }
    }

    fn sets(&self) {
        for (set, what) in self.page.sets_named() {
            if self.draft.sets.contains_key(&set.it) {
                continue;
            }
            let near = nearest(set.it.as_str(), self.draft.sets.keys().map(Name::as_str));
            if near.is_some() || self.draft.sets_whole {
                let hint = meant(set.it.as_str(), near, format!("add [set.{}]", set.it));
                self.page.fault(set.place, format!("{what}: no set is called `{}`", set.it), hint);
            }
        }
    }
}
