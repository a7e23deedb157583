//! The words of `wire why`: two names and perhaps a flow. Knows what they mean, not what follows from it.

use crate::error::{Error, Exit};
use crate::near::nearest;
use crate::parse;
use crate::topology::{HOST, Name, OUTSIDE, Service, Topology};

use super::grant::{Party, peers};

/// A question in the words of the command line: `git-ssh lbmt-shop:tcp/443`.
#[derive(Debug, PartialEq, Eq)]
pub struct Question<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub service: Option<Service>,
}

/// Reads the two arguments of `wire why`. Whether they name anything is `answer`'s business.
pub fn question<'a>(from: &'a str, to: &'a str) -> Result<Question<'a>, Error> {
    if let Some((name, _)) = from.split_once(':') {
        let sentence = format!("`{from}` has a port, but only the second of the two may have one");
        return Err(Error::invalid(sentence).hint(format!("who opens a connection is a name alone: `{name}`")));
    }
    let Some((to, flow)) = to.split_once(':') else {
        return Ok(Question { from, to, service: None });
    };
    let service = service(to, flow)?;
    Ok(Question { from, to, service: Some(service) })
}

/// Whom a word of the command line means.
pub fn party<'a>(topology: &'a Topology, word: &str) -> Result<Party<'a>, Error> {
    match word {
        HOST => return Ok(Party::Node(HOST)),
        OUTSIDE => return Ok(Party::Outside),
        _ => {}
    }
    if let Some((name, _)) = topology.nodes.get_key_value(word) {
        return Ok(Party::Node(topology.namespace_of(name).as_str()));
    }
    if let Some((hub, peer)) = peers(topology).find(|(_, peer)| peer.name.as_str() == word) {
        return Ok(Party::Peer(hub, peer));
    }
    if let Some(module) = topology.module(word) {
        let nodes = module.nodes.iter().map(|node| format!("`{node}`")).collect::<Vec<_>>().join(", ");
        return Err(Error::invalid(format!("`{word}` is a module, not a node"))
            .hint(format!("ask for one of its nodes: {nodes}")));
    }
    if let Some(wire) = topology.wire(word) {
        let [a, b] = &wire.ends;
        return Err(Error::invalid(format!("`{word}` is a wire, not a node"))
            .hint(format!("ask for its ends: `{}` and `{}`", a.node, b.node)));
    }
    let names = topology.nodes.keys().map(Name::as_str).chain([HOST, OUTSIDE]);
    let near = nearest(word, names.chain(peers(topology).map(|(_, peer)| peer.name.as_str())));
    let error = Error::invalid(format!("the topology has no node `{word}`"));
    Err(match near {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error.hint("a node is one of [module], `host`, `outside`, or a VPN peer"),
    })
}

/// A flow's words, and what those used to `22` or `22/tcp` are told.
fn service(to: &str, flow: &str) -> Result<Service, Error> {
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    match flow.split_once('/') {
        None if is_number(flow) => {
            Err(Error::invalid(format!("`{flow}` names no protocol")).hint(format!("write `{to}:tcp/{flow}`")))
        }
        Some((ports, protocol)) if is_number(ports) => {
            Err(Error::invalid(format!("`{flow}` names its port first"))
                .hint(format!("write `{to}:{protocol}/{ports}`")))
        }
        _ => parse::service(flow).map_err(|fault| Error {
            exit: Exit::Invalid,
            message: fault.message,
            hint: fault.hint,
        }),
    }
}
