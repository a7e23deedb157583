//! The text of a topology file becomes a `Topology`, or the list of everything that is wrong with it, each fault with its
//! place and the next move. It reads no file, prints nothing and asks no kernel: whether a container or an uplink is there
//! is not its business.
//!
//! `tree` gives words and tables with their places, `kinds` knows the keys of each, `flow` reads the words, `draft` says what
//! the file says, `check` says what must hold between its parts and makes the topology, `number` writes subnets into the
//! text, `broken` explains what is no TOML at all.

mod broken;
mod check;
mod draft;
mod flow;
mod kinds;
mod number;
mod peer;
#[cfg(test)]
pub(crate) mod tests;
mod tree;
mod warn;

use ipnetwork::IpNetwork;
use toml::de::DeTable;

use crate::error::Fault;
use crate::near::shown;
use crate::topology::{Service, Topology};

use draft::Draft;
use tree::{Page, Word};

pub use number::number;
pub use peer::{NewPeer, add_peer};
pub use warn::warnings;

/// The topology that a file's text means, or everything that is wrong with it, in the order of the file.
pub fn topology(text: &str) -> Result<Topology, Vec<Fault>> {
    read(text, |page, draft| {
        draft.tell_holes(page);
        check::topology(page, draft)
    })
}

/// A flow's protocol and ports, in the words of the file but outside one.
pub fn service(text: &str) -> Result<Service, Fault> {
    alone(text, "flow", flow::service)
}

/// An address or a prefix, in the words of the file but outside one.
pub fn element(text: &str) -> Result<IpNetwork, Fault> {
    alone(text, "address", flow::element)
}

/// A duration in seconds, in the words of the file but outside one.
pub fn duration(text: &str) -> Result<u64, Fault> {
    alone(text, "duration", flow::duration)
}

/// One word of a kind.
fn alone<T>(text: &str, kind: &str, read: fn(&Word) -> Option<T>) -> Result<T, Fault> {
    let page = Page::new(text);
    let it = read(&Word::alone(&page));
    match page.into_faults().into_iter().next() {
        Some(fault) => Err(fault),
        None => it.ok_or_else(|| Fault { message: format!("`{}` is no {kind}", shown(text)), ..Fault::default() }),
    }
}

/// Reads the text and makes something of it; whatever that is, it does not count where there are faults.
fn read<T>(text: &str, make: impl FnOnce(&Page, &Draft) -> Option<T>) -> Result<T, Vec<Fault>> {
    let page = Page::new(text);
    if let Some(at) = broken::too_deep(text) {
        let hint = "a `]` or `}` is missing above, or one too many was opened";
        page.fault(page.place(at), "this is nested deeper than anything in a topology", hint);
        return Err(page.into_faults());
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(broken::torn(page, errors));
    }
    let made = draft::read(&page, tree.get_ref()).and_then(|draft| make(&page, &draft));
    match made {
        Some(made) if page.is_clean() => Ok(made),
        _ => Err(page.into_faults()),
    }
}
