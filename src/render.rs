//! What would be installed, as text.

use std::collections::BTreeSet;

use crate::nft::text;
use crate::rules::{Circumstances, Rules};
use crate::topology::Name;

pub mod caddy;
pub mod hosts;
#[cfg(test)]
mod tests;
pub mod wireguard;

/// The rules of each of these namespaces as `nft -f` loads them, less those of a host that the file has nothing to say about.
pub fn nft<'n>(rules: &Rules, nodes: &'n BTreeSet<Name>) -> Vec<(&'n Name, String)> {
    let text = |node: &'n Name| Some((node, text::table(&rules.table(node, &Circumstances::default())?)));
    nodes.iter().filter_map(text).collect()
}
