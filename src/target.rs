//! From the TARGET words of a command line to the wires and nodes they mean.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::near::nearest;
use crate::topology::{Name, Topology};

#[cfg(test)]
mod tests;

/// What a command is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// No TARGET was given: everything, struck wires included.
    pub everything: bool,
    pub wires: BTreeSet<Name>,
    /// Named as nodes or by their modules: what is left of a struck wire in them is meant too.
    pub nodes: BTreeSet<Name>,
    /// Of these the rules alone are meant, whatever wires end there.
    pub rules: BTreeSet<Name>,
    /// Named one by one: such a node must run.
    pub named: BTreeSet<Name>,
}

impl Scope {
    pub fn everything(topology: &Topology) -> Scope {
        Scope {
            everything: true,
            wires: topology.wires.iter().map(|wire| wire.name.clone()).collect(),
            nodes: topology.nodes.keys().cloned().chain([Name::host()]).collect(),
            ..Scope::default()
        }
    }

    /// Whether more than single wires of a node are meant: the node itself, or its rules.
    pub fn has_node(&self, node: &Name) -> bool {
        self.nodes.contains(node) || self.rules.contains(node)
    }

    /// These wires, these nodes with all wires that end there, and the rules of these.
    pub fn around(topology: &Topology, wires: BTreeSet<Name>, nodes: BTreeSet<Name>, rules: BTreeSet<Name>) -> Scope {
        let mut scope = Scope { wires, nodes, rules, ..Scope::default() };
        scope.reach(topology);
        scope
    }

    /// Each TARGET is a module, a node or a wire; a word that is several of these needs `module:`, `node:` or `wire:`.
    pub fn of(topology: &Topology, targets: &[String]) -> Result<Scope, Error> {
        if targets.is_empty() {
            return Ok(Scope::everything(topology));
        }
        let mut scope = Scope::default();
        for target in targets {
            scope.add(topology, target)?;
        }
        scope.reach(topology);
        Ok(scope)
    }

    /// Every wire that ends in one of its nodes is meant, too.
    fn reach(&mut self, topology: &Topology) {
        let ends_here = |name: &Name| self.nodes.contains(name);
        let more: Vec<Name> = (topology.wires.iter())
            .filter(|wire| wire.ends.iter().any(|end| ends_here(&end.node)))
            .map(|wire| wire.name.clone())
            .collect();
        self.wires.extend(more);
    }

    fn add(&mut self, topology: &Topology, target: &str) -> Result<(), Error> {
        let (kind, word) = target.split_once(':').map_or((None, target), |(kind, word)| (Some(kind), word));
        if kind.is_some_and(|kind| !["module", "node", "wire"].contains(&kind)) {
            return Err(Error::invalid(format!("`{target}` is no module, node or wire"))
                .hint("a TARGET is a name, or `module:NAME`, `node:NAME`, `wire:NAME`"));
        }
        let asked = |this: &str| kind.is_none_or(|kind| kind == this);
        let module = topology.module(word).filter(|_| asked("module"));
        let node = (topology.nodes.get(word).map(|node| node.name.clone()))
            .or_else(|| Some(Name::host()).filter(|host| host.as_str() == word))
            .filter(|_| asked("node"));
        let wire = topology.wire(word).filter(|_| asked("wire"));
        match (module, node, wire) {
            (Some(module), None, None) => {
                self.nodes.extend(module.nodes.iter().map(|node| topology.namespace_of(node).clone()));
            }
            (None, Some(node), None) => {
                let namespace = topology.namespace_of(&node).clone();
                self.named.insert(namespace.clone());
                self.nodes.insert(namespace);
            }
            (None, None, Some(wire)) => {
                self.wires.insert(wire.name.clone());
            }
            (None, None, None) => return Err(unknown(topology, kind, word)),
            (module, node, wire) => {
                let kinds = [("module", module.is_some()), ("node", node.is_some()), ("wire", wire.is_some())];
                let meant: Vec<String> =
                    kinds.iter().filter(|(_, is)| *is).map(|(kind, _)| format!("`{kind}:{word}`")).collect();
                return Err(Error::invalid(format!("`{word}` is the name of more than one thing"))
                    .hint(format!("say which: {}", meant.join(" or "))));
            }
        }
        Ok(())
    }
}

fn unknown(topology: &Topology, kind: Option<&str>, word: &str) -> Error {
    let asked = |this: &str| kind.is_none_or(|kind| kind == this);
    let modules = topology.modules.iter().map(|module| &module.name).filter(|_| asked("module"));
    let host = Name::host();
    let nodes = topology.nodes.keys().chain([&host]).filter(|_| asked("node"));
    let wires = topology.wires.iter().map(|wire| &wire.name).filter(|_| asked("wire"));
    let near = modules.chain(nodes).chain(wires).map(Name::as_str);
    let error =
        Error::invalid(format!("there is no {} `{word}` in the topology", kind.unwrap_or("module, node or wire")));
    match nearest(word, near) {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error.hint("a TARGET is a module, a node or a wire of the file"),
    }
}
