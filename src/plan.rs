//! The difference of two states as a list of changes: data that prints itself, each with its reason. Pure: what is wanted and
//! what was seen come in, nothing is asked.

mod diff;
mod renames;
mod ruled;
mod strangers;
#[cfg(test)]
pub(crate) mod tests;
pub mod tunnel;

use std::fmt;

use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::nft::Table;
use crate::rules::Openings;
use crate::state::{End, Route, Setting};
use crate::topology::{Device, Mac, Name};

pub use diff::diff;
pub use ruled::Difference;
pub use strangers::strangers;

use self::tunnel::Step;

/// What stands between the state that was seen and the one that is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they are safe: what is too much goes first, an end comes up last and gets its routes then.
    pub changes: Vec<Change>,
    /// Wires that wait for a node to run.
    pub waiting: Vec<Waiting>,
    /// What `wire` will not mend by itself.
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub node: Name,
    /// The wire it is about; none for a setting of the whole namespace or a device that is no wire's any more.
    pub wire: Option<Name>,
    pub action: Action,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    pub wire: Name,
    pub node: Name,
    /// What the node does instead of running.
    pub reason: String,
}

/// Something foreign that is named and left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub node: Name,
    pub wire: Option<Name>,
    pub kind: &'static str,
    pub message: String,
    pub hint: String,
    /// The wire cannot be what the file says because of it.
    pub blocks: bool,
}

/// One thing to do in one namespace. The order of the variants is the order of execution, which is the order of safety.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Makes the namespace of a node, with its loopback up and a mark.
    Make,
    /// Makes the key of a hub's tunnel, a file of this path.
    MakeKey(String),
    /// Makes the rules of a namespace what they are to be, all at once.
    Load(Box<Load>),
    /// Deletes a device, and with it the far end of its pair.
    Remove {
        device: Device,
    },
    /// Sets a sysctl of the whole namespace.
    SetAll(Setting, i32),
    /// The same for a device that is no wire's.
    SetOther(Device, Setting, i32),
    RemoveRoute(Route),
    /// Before others are added: of two addresses in one subnet the second goes with the first.
    RemoveAddress(IpNetwork),
    /// Takes the wire's name from the device's altnames, so that the device can be called by it.
    Unname,
    Rename {
        from: Device,
        to: Device,
    },
    /// Makes the pair with all that belongs to both its ends.
    Create(Box<[(Name, End); 2]>),
    /// Renews what tells the device as wire's.
    Mark(Mac),
    Altname,
    /// Takes the device out of a bridge.
    Release,
    Arp,
    Mtu(u32),
    Set(Setting, i32),
    AddAddress(IpNetwork),
    Up,
    AddRoute(Route),
    /// One thing to do with a hub's tunnel.
    Tunnel(Device, Step),
    /// Removes the rules of a namespace, when no cable is left that they would police.
    Unload,
    /// Takes a namespace away that `wire` made, when nothing is left in it.
    Unmake,
}

/// The rules of a namespace, to be put into force.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    pub table: Arc<Table>,
    /// What of the established connections may stay.
    pub openings: Arc<Openings>,
    /// What is not as it is to be.
    pub differences: Vec<Difference>,
}

/// The kind of a deviation of rules.
pub const RULES: &str = "rules";

impl Action {
    /// One word for what it does.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Make | Action::MakeKey(_) => "make",
            Action::Tunnel(_, step) => step.verb(),
            Action::Unmake => "unmake",
            Action::Load(_) => "load",
            Action::Unload => "unload",
            Action::Create(_) => "create",
            Action::Remove { .. } => "remove",
            Action::Rename { .. } => "rename",
            Action::SetAll(..) | Action::SetOther(..) | Action::Set(..) | Action::Mtu(_) | Action::Arp => "set",
            Action::Mark(_) => "mark",
            Action::Altname => "add-altname",
            Action::Unname => "remove-altname",
            Action::Release => "release",
            Action::AddAddress(_) => "add-address",
            Action::RemoveAddress(_) => "remove-address",
            Action::Up => "raise",
            Action::AddRoute(_) => "add-route",
            Action::RemoveRoute(_) => "remove-route",
        }
    }

    /// What kind of deviation it mends.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Load(_) | Action::Unload => RULES,
            Action::Make | Action::MakeKey(_) | Action::Create(_) => "missing",
            Action::Tunnel(_, step) => step.kind(),
            Action::Remove { .. } | Action::Unmake => "struck",
            Action::Rename { .. } => "name",
            Action::Altname | Action::Unname => "altname",
            Action::Mark(_) => "mark",
            Action::Release => "bridged",
            Action::Mtu(_) => "mtu",
            Action::Set(setting, _) if setting.is_ipv6() => "ipv6",
            Action::SetAll(..) | Action::SetOther(..) | Action::Set(..) | Action::Arp => "setting",
            Action::AddAddress(_) | Action::RemoveAddress(_) => "address",
            Action::Up => "down",
            Action::AddRoute(_) | Action::RemoveRoute(_) => "route",
        }
    }

    fn rank(&self) -> usize {
        match self {
            Action::Make => 0,
            Action::MakeKey(_) => 1,
            Action::Load(_) => 2,
            Action::Remove { .. } => 3,
            Action::SetAll(..) => 4,
            Action::SetOther(..) => 5,
            Action::RemoveRoute(_) => 6,
            Action::RemoveAddress(_) => 7,
            Action::Unname => 8,
            Action::Rename { .. } => 9,
            Action::Create(_) => 10,
            Action::Mark(_) => 11,
            Action::Altname => 12,
            Action::Release => 13,
            Action::Arp => 14,
            Action::Mtu(_) => 15,
            Action::Set(..) => 16,
            Action::AddAddress(_) => 17,
            Action::Up => 18,
            Action::AddRoute(_) => 19,
            Action::Tunnel(..) => 20,
            Action::Unload => 21,
            Action::Unmake => 22,
        }
    }
}

impl Change {
    /// The same, once it is done: what is loaded need not be held any more.
    pub fn without_table(mut self) -> Change {
        if let Action::Load(load) = &mut self.action {
            (load.table, load.openings) = Default::default();
        }
        self
    }

    /// Whether it does the same, for whatever reason.
    pub fn is_same(&self, other: &Change) -> bool {
        let same = match (&self.action, &other.action) {
            (Action::Load(_), Action::Load(_)) => true,
            (one, other) => one == other,
        };
        same && (&self.node, &self.wire) == (&other.node, &other.wire)
    }

    /// What is changed, in the user's names: the wire, and what of it.
    pub fn subject(&self) -> String {
        let wire = self.wire.as_ref().map(Name::as_str).unwrap_or_default();
        match &self.action {
            Action::Create(_) | Action::Mark(_) | Action::Altname | Action::Unname | Action::Release => wire.to_owned(),
            Action::Remove { device } if self.wire.is_none() => device.to_string(),
            Action::Remove { .. } | Action::Up => wire.to_owned(),
            Action::Make | Action::Unmake => format!("namespace {}", self.node.netns()),
            Action::MakeKey(path) => format!("key {path}"),
            Action::Tunnel(device, step) => step.subject(device),
            Action::Load(_) | Action::Unload => format!("rules of {}", self.node),
            Action::SetAll(setting, value) => format!("{} = {value}", setting.path("all")),
            Action::SetOther(device, setting, value) => format!("{} = {value}", setting.path(device.as_str())),
            Action::Rename { from, to } => format!("{wire}: {from} to {to}"),
            Action::Arp => format!("{wire}: arp on"),
            Action::Mtu(mtu) => format!("{wire}: mtu {mtu}"),
            Action::Set(setting, value) => format!("{wire}: {} = {value}", setting_name(*setting)),
            Action::AddAddress(address) | Action::RemoveAddress(address) => format!("{wire}: {address}"),
            Action::AddRoute(route) | Action::RemoveRoute(route) => format!("{wire}: {route}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} at {}", self.action.verb(), self.subject(), self.node)
    }
}

fn setting_name(setting: Setting) -> String {
    format!("{}.{}", if setting.is_ipv6() { "ipv6" } else { "ipv4" }, setting.key())
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.findings.is_empty()
    }
}
