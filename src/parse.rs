//! The text of a topology file becomes a `Topology`, or the list of everything that is wrong with it, each fault with its
//! place and the next move. It reads no file, prints nothing and asks no kernel: whether a container or an uplink is there
//! is not its business.
//!
//! `tree` gives words and tables with their places, `flow` reads the words, `draft` says what the file says, `check` says
//! what must hold between its parts and makes the topology, `number` writes subnets into the text.

mod check;
mod draft;
mod flow;

mod number;
#[cfg(test)]
mod tests;
mod tree;

use toml::de::DeTable;

use crate::error::Fault;
use crate::topology::Topology;

use crate::near::shown;
use draft::Draft;
use tree::{Kind, Page};

pub use check::warnings;
pub use number::number;

/// The topology that a file's text means, or everything that is wrong with it, in the order of the file.
pub fn topology(text: &str) -> Result<Topology, Vec<Fault>> {
    read(text, |page, draft| {
        draft.tell_holes(page);
        check::topology(page, draft)
    })
}

/// Reads the text and makes something of it; whatever that is, it does not count where there are faults.
fn read<T>(text: &str, make: impl FnOnce(&Page, &Draft) -> Option<T>) -> Result<T, Vec<Fault>> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let page = Page::new(text);
    if !errors.is_empty() {
        return Err(torn(page, errors));
    }
    let made = draft::read(&page, tree.get_ref()).and_then(|draft| make(&page, &draft));
    match made {
        Some(made) if page.is_clean() => Ok(made),
        _ => Err(page.into_faults()),
    }
}

/// What is wrong with a text that is no TOML. What the rest of it means cannot be known then, and guesses would hide the
/// one mistake among others that are none; of each line the first counts.
fn torn(page: Page, errors: Vec<toml::de::Error>) -> Vec<Fault> {
    for error in errors {
        let at = error.span().map_or(page.text.len(), |span| span.start.min(page.text.len()));
        let word = error.span().and_then(|span| page.text.get(span)).unwrap_or_default().trim();
        let hint = match error.message() {
            "duplicate key" if word == "wire" => {
                "write all wires in one way: either `wire = [ … ]` once, or [[wire]] for each".to_owned()
            }
            "duplicate key" => format!("`{}` was written before: keep one of them", shown(word)),
            _ => "the file is TOML: keys are `key = value`, strings stand in quotes, lists in `[ … ]`".to_owned(),
        };
        page.fault(page.place(at), format!("not TOML: {}", error.message()), hint);
    }
    let mut faults = page.into_faults();
    faults.dedup_by_key(|fault| fault.place.line);
    faults
}

/// All tables of the file, so that a key below the wrong one can be told where it belongs.
static KINDS: [&Kind; 17] = [
    &TOP,
    &WIRE,
    &PODMAN,
    &HOST_TABLE,
    &POOL,
    &NODE,
    &HUB,
    &CLIENTS,
    &WIREGUARD,
    &PEER,
    &SITE,
    &TLS,
    &REDIRECT,
    &FORWARD,
    &SET,
    &ACME,
    &FLOW,
];

static TOP: Kind = Kind {
    header: "",
    keys: &[
        ("version", "version = 1"),
        ("runtime", "runtime = \"netns\""),
        ("wire", "wire = [ { name = \"web-db\", ends = [\"web\", \"db\"], subnet = \"10.254.0.0/31\" } ]"),
        ("podman", "[podman]"),
        ("host", "[host]"),
        ("module", "[module]"),
        ("hub", "[hub.NAME]"),
        ("pool", "[pool]"),
        ("node", "[node.NAME]"),
        ("set", "[set.NAME]"),
        ("acme", "[acme]"),
    ],
};

static WIRE: Kind = Kind {
    header: "[[wire]]",
    keys: &[
        ("name", "name = \"web-db\""),
        ("ends", "ends = [\"web\", \"db\"]"),
        ("subnet", "subnet = \"10.254.0.0/31\""),
        ("subnet6", "subnet6 = \"fd00::/127\""),
        ("allow", "allow = [\"tcp/80\"]"),
        ("allow-back", "allow-back = [\"tcp/80\"]"),
        ("publish", "publish = [\"tcp/443\"]"),
        ("mtu", "mtu = 1420"),
        ("ifname", "ifname = [\"web-db\", \"eth0\"]"),
        ("mode", "mode = \"audit\""),
        ("across-zones", "across-zones = true"),
    ],
};

static PODMAN: Kind = Kind { header: "[podman]", keys: &[("user", "user = \"liam\"")] };

static HOST_TABLE: Kind = Kind {
    header: "[host]",
    keys: &[
        ("uplinks", "uplinks = [\"eth0\"]"),
        ("policy", "policy = \"wires\""),
        ("allow", "allow = [\"tcp/22\"]"),
        ("block", "block = \"@banned\""),
    ],
};

static POOL: Kind = Kind {
    header: "[pool]",
    keys: &[("host", "host = \"192.168.96.0/20\""), ("direct", "direct = \"10.254.0.0/16\"")],
};

static NODE: Kind = Kind {
    header: "[node.NAME]",
    keys: &[
        ("netns", "netns = \"lab\""),
        ("container", "container = \"other-name\""),
        ("user", "user = \"root\""),
        ("network", "network = \"none\""),
        ("owned", "owned = true"),
        ("shares", "shares = \"gluetun\""),
        ("zones", "zones = [\"public\", \"private\"]"),
        ("egress", "egress = [\"tcp/443\"]"),
        ("snat", "snat = \"203.0.113.25\""),
    ],
};

static HUB: Kind = Kind {
    header: "[hub.NAME]",
    keys: &[
        ("zone", "zone = \"public\""),
        ("pool", "pool = \"172.16.0.0/16\""),
        ("clients", "clients = { prefix = \"10.100.0.0/24\", device = \"wg0\" }"),
        ("wireguard", "[hub.NAME.wireguard]"),
        ("site", "[[hub.NAME.site]]"),
        ("redirect", "[[hub.NAME.redirect]]"),
        ("forward", "[[hub.NAME.forward]]"),
    ],
};

static CLIENTS: Kind = Kind {
    header: "a hub's `clients`",
    keys: &[("prefix", "prefix = \"10.100.0.0/24\""), ("device", "device = \"wg0\"")],
};

static WIREGUARD: Kind = Kind {
    header: "[hub.NAME.wireguard]",
    keys: &[
        ("listen", "listen = 51820"),
        ("endpoint", "endpoint = \"home.example.org:51820\""),
        ("private-key", "private-key = \"/etc/wire/keys/vpn-edge\""),
        ("isolate", "isolate = true"),
        ("peer", "[[hub.NAME.wireguard.peer]]"),
    ],
};

static PEER: Kind = Kind {
    header: "[[hub.NAME.wireguard.peer]]",
    keys: &[
        ("name", "name = \"laptop\""),
        ("public-key", "public-key = \"mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs=\""),
        ("preshared-key", "preshared-key = \"/etc/wire/keys/laptop.psk\""),
        ("address", "address = \"10.100.0.2\""),
        ("allow", "allow = [\"git-ssh\"]"),
    ],
};

static SITE: Kind = Kind {
    header: "[[hub.NAME.site]]",
    keys: &[
        ("host", "host = \"blog.example.org\""),
        ("to", "to = \"web:80\""),
        ("tls", "tls = \"acme\""),
        ("path", "path = \"/photos\""),
        ("methods", "methods = [\"GET\", \"HEAD\"]"),
        ("headers", "headers = { \"X-Frame-Options\" = \"SAMEORIGIN\" }"),
        ("rate", "rate = \"50/second\""),
        ("burst", "burst = 100"),
        ("body", "body = \"100MB\""),
    ],
};

static TLS: Kind = Kind {
    header: "a site's `tls`",
    keys: &[("cert", "cert = \"/etc/wire/blog.crt\""), ("key", "key = \"/etc/wire/blog.key\"")],
};

static REDIRECT: Kind = Kind {
    header: "[[hub.NAME.redirect]]",
    keys: &[
        ("host", "host = \"www.example.org\""),
        ("to", "to = \"https://blog.example.org\""),
        ("tls", "tls = \"acme\""),
    ],
};

static FORWARD: Kind = Kind {
    header: "[[hub.NAME.forward]]",
    keys: &[("port", "port = \"tcp/25565\""), ("to", "to = \"minecraft:25565\""), ("from", "from = \"@players\"")],
};

static SET: Kind = Kind {
    header: "[set.NAME]",
    keys: &[
        ("file", "file = \"/var/lib/wire/banned\""),
        ("dns", "dns = [\"anna.example.net\"]"),
        ("interval", "interval = \"5m\""),
        ("elements", "elements = [\"192.0.2.0/24\"]"),
    ],
};

static ACME: Kind = Kind {
    header: "[acme]",
    keys: &[
        ("contact", "contact = \"mailto:me@example.org\""),
        ("directory", "directory = \"https://acme.example.net/dir\""),
        ("ca", "ca = \"/etc/wire/acme-ca.pem\""),
    ],
};

static FLOW: Kind = Kind {
    header: "a flow's table",
    keys: &[
        ("flow", "flow = \"tcp/80\""),
        ("from", "from = \"@players\""),
        ("to", "to = \"192.168.1.1\""),
        ("rate", "rate = \"10/minute\""),
        ("burst", "burst = 20"),
        ("log", "log = true"),
    ],
};

static PUBLISH: Kind = Kind {
    header: "a `publish` table",
    keys: &[
        ("flow", "flow = \"tcp/2222:22\""),
        ("address", "address = \"203.0.113.7\""),
        ("on", "on = \"eth0\""),
        ("from", "from = \"@players\""),
        ("rate", "rate = \"10/minute\""),
        ("burst", "burst = 20"),
        ("log", "log = true"),
    ],
};
