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
mod warn;

use toml::de::DeTable;

use crate::error::Fault;
use crate::topology::{Service, Topology};

use crate::near::shown;
use draft::Draft;
use tree::{Kind, Page, Word};

pub use number::number;
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
    let page = Page::new(text);
    let service = flow::service(&Word::alone(&page));
    match (service, page.into_faults().into_iter().next()) {
        (Some(service), None) => Ok(service),
        (_, Some(fault)) => Err(fault),
        (None, None) => unreachable!("what cannot be read is told"),
    }
}

/// Reads the text and makes something of it; whatever that is, it does not count where there are faults.
fn read<T>(text: &str, make: impl FnOnce(&Page, &Draft) -> Option<T>) -> Result<T, Vec<Fault>> {
    let page = Page::new(text);
    if let Some(at) = too_deep(text) {
        let hint = "a `]` or `}` is missing above, or one too many was opened";
        page.fault(page.place(at), "this is nested deeper than anything in a topology", hint);
        return Err(page.into_faults());
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(torn(page, errors));
    }
    let made = draft::read(&page, tree.get_ref()).and_then(|draft| make(&page, &draft));
    match made {
        Some(made) if page.is_clean() => Ok(made),
        _ => Err(page.into_faults()),
    }
}

/// The bracket that nests too deep. The tree of TOML is built and taken down by recursion, with up to 80 levels of dotted
/// keys in each bracket: left to itself it overflows the stack of a thread.
fn too_deep(text: &str) -> Option<usize> {
    const DEEPEST: usize = 16;
    let mut depth = 0usize;
    let mut rest = text;
    while let Some(at) = rest.find(['[', ']', '{', '}', '#', '"', '\'']) {
        let offset = text.len() - rest.len() + at;
        let found = &rest[at..];
        let skipped = match found.as_bytes()[0] {
            b'[' | b'{' if depth == DEEPEST => return Some(offset),
            b'[' | b'{' => {
                depth += 1;
                1
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                1
            }
            b'#' => found.find('\n').unwrap_or(found.len()),
            _ => string(found),
        };
        rest = &found[skipped..];
    }
    None
}

/// The length of the string that a text begins with, as far as it goes.
fn string(text: &str) -> usize {
    let quote = &text[..1];
    let thrice = quote.repeat(3);
    let (mark, ends) = if text.starts_with(&thrice) { (thrice.as_str(), "") } else { (quote, "\n") };
    let mut at = mark.len();
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with(mark) {
            return at + mark.len();
        }
        if ends.contains(c) {
            return at;
        }
        // An escape takes the next character with it, and a literal string has none.
        let escaped = if quote == "\"" && c == '\\' { text[at + 1..].chars().next() } else { None };
        at += c.len_utf8() + escaped.map_or(0, char::len_utf8);
    }
    text.len()
}

/// What is wrong with a text that is no TOML. What the rest of it means cannot be known then, and guesses would hide the
/// one mistake among others that are none; of each line the first counts.
fn torn(page: Page, errors: Vec<toml::de::Error>) -> Vec<Fault> {
    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(page.text.len()..page.text.len()), error)).collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (span, error) in errors {
        let at = span.start.min(page.text.len());
        let word = page.text.get(span).unwrap_or_default().trim();
        let message = error.message().split(", expected").next().unwrap_or_default();
        if message != "duplicate key" && is_header(page.line_of(at)) {
            // A header is always good TOML, so that what stands above it has swallowed it, and all that follows.
            let message = format!("not TOML: what stands above `{}` has no end", shown(page.line_of(at).trim()));
            page.fault(page.place(at), message, "a `]` or `}` is missing above this line");
            break;
        }
        let hint = match message {
            "duplicate key" if word == "wire" => {
                "write all wires in one way: either `wire = [ … ]` once, or [[wire]] for each".to_owned()
            }
            "duplicate key" => format!("`{}` was written before: keep one of them", shown(word)),
            message if message.contains("must be quoted") => format!("put it in quotes: `\"{}\"`", shown(word)),
            message if message.starts_with("missing comma") => {
                "write a `,` between them, or close the string before".to_owned()
            }
            _ => "the file is TOML: keys are `key = value`, strings stand in quotes, lists in `[ … ]`".to_owned(),
        };
        page.fault(page.place(at), format!("not TOML: {message}"), hint);
    }
    let mut faults = page.into_faults();
    faults.dedup_by_key(|fault| fault.place.line);
    faults
}

/// Whether a line is a table's header, `[host]` or `[[wire]]`.
fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    let name = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]"));
    let name = name.or_else(|| line.strip_prefix('[')?.strip_suffix(']')).unwrap_or_default();
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// All tables of the file, so that a key below the wrong one can be told where it belongs.
static KINDS: [&Kind; 18] = [
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
    &PUBLISH,
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
