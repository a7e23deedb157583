//! Every form of a TARGET against one file, and what is said of a word that means nothing or too much.

use super::Scope;
use crate::error::Exit;
use crate::parse;
use crate::topology::{Name, Topology};

/// `both` is a node, a module and a wire; `guest` lives in the namespace of `both`, `daemon` in the host's.
fn file() -> Topology {
    let text = r#"
        version = 1
        runtime = "netns"
        wire = [
          { name = "edge-both", ends = ["edge", "both"],  subnet = "10.0.1.0/31" },
          { name = "edge-other", ends = ["edge", "other"], subnet = "10.0.2.0/31" },
          { name = "both",      ends = ["both", "other"], subnet = "10.0.3.0/31", allow = ["tcp/80"] },
          { name = "host-edge", ends = ["host", "edge"],  subnet = "10.0.4.0/31" },
        ]
        [module]
        hubs = ["edge"]
        both = ["both"]
        rest = ["other", "guest", "daemon"]
        [hub.edge]
        zone = "z"
        [node.guest]
        shares = "both"
        [node.daemon]
        shares = "host"
    "#;
    parse::topology(text).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn scope(targets: &[&str]) -> Result<Scope, crate::error::Error> {
    Scope::of(&file(), &targets.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn words<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    names.into_iter().map(Name::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_target_is_a_module_a_node_or_a_wire() {
    // The TARGETs, then the wires, the nodes, and those that must run.
    let cases: [(&[&str], &str, &str, &str); 12] = [
        (&["edge-both"], "edge-both", "", ""),
        (&["wire:both"], "both", "", ""),
        (&["edge"], "edge-both edge-other host-edge", "edge", "edge"),
        (&["node:both"], "both edge-both", "both", "both"),
        (&["module:both"], "both edge-both", "both", ""),
        (&["hubs"], "edge-both edge-other host-edge", "edge", ""),
        (&["host"], "host-edge", "host", "host"),
        (&["node:host"], "host-edge", "host", "host"),
        (&["guest"], "both edge-both", "both", "both"),
        (&["daemon"], "host-edge", "host", "host"),
        (&["rest"], "both edge-both edge-other host-edge", "both host other", ""),
        (&["wire:both", "host"], "both host-edge", "host", "host"),
    ];
    for (targets, wires, nodes, named) in cases {
        let scope = scope(targets).unwrap_or_else(|error| panic!("{targets:?}: {error}"));
        let found = (words(&scope.wires), words(&scope.nodes), words(&scope.named));
        assert_eq!(found, (wires.to_owned(), nodes.to_owned(), named.to_owned()), "{targets:?}");
        assert!(!scope.everything);
    }
}

#[test]
fn no_target_is_everything() {
    let scope = scope(&[]).unwrap();
    assert!(scope.everything && scope.named.is_empty());
    assert_eq!(words(&scope.wires), "both edge-both edge-other host-edge");
    assert!(scope.nodes.contains("host") && scope.nodes.contains("other"));
}

#[test]
fn an_unknown_or_ambiguous_target_is_refused_with_a_hint() {
    let cases = [
        ("both", "`both` is the name of more than one thing", "say which: `module:both` or `node:both` or `wire:both`"),
        ("othr", "there is no module, node or wire `othr` in the topology", "did you mean `other`?"),
        ("wire:hubz", "there is no wire `hubz` in the topology", "a TARGET is a module, a node or a wire of the file"),
        ("module:hubz", "there is no module `hubz` in the topology", "did you mean `hubs`?"),
        (
            "node:edge-both",
            "there is no node `edge-both` in the topology",
            "a TARGET is a module, a node or a wire of the file",
        ),
        ("hosst", "there is no module, node or wire `hosst` in the topology", "did you mean `host`?"),
        (
            "",
            "there is no module, node or wire `` in the topology",
            "a TARGET is a module, a node or a wire of the file",
        ),
        (
            "hub:edge",
            "`hub:edge` is no module, node or wire",
            "a TARGET is a name, or `module:NAME`, `node:NAME`, `wire:NAME`",
        ),
    ];
    for (target, message, hint) in cases {
        let error = scope(&["host", target]).unwrap_err();
        assert_eq!((error.message.as_str(), error.hint.as_deref()), (message, Some(hint)));
        assert_eq!(error.exit, Exit::Invalid);
    }
}
