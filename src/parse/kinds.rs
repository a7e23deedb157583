//! The tables a topology file may have, and their keys, each with an example that hints can show. What a key means is said
//! where it is read.

use super::tree::Kind;

/// All tables of the file, so that a key below the wrong one can be told where it belongs.
pub static KINDS: [&Kind; 18] = [
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

pub static TOP: Kind = Kind {
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

pub static WIRE: Kind = Kind {
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

pub static PODMAN: Kind = Kind { header: "[podman]", keys: &[("user", "user = \"liam\"")] };

pub static HOST_TABLE: Kind = Kind {
    header: "[host]",
    keys: &[
        ("uplinks", "uplinks = [\"eth0\"]"),
        ("policy", "policy = \"wires\""),
        ("allow", "allow = [\"tcp/22\"]"),
        ("block", "block = \"@banned\""),
    ],
};

pub static POOL: Kind = Kind {
    header: "[pool]",
    keys: &[("host", "host = \"192.168.96.0/20\""), ("direct", "direct = \"10.254.0.0/16\"")],
};

pub static NODE: Kind = Kind {
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

pub static HUB: Kind = Kind {
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

pub static CLIENTS: Kind = Kind {
    header: "a hub's `clients`",
    keys: &[("prefix", "prefix = \"10.100.0.0/24\""), ("device", "device = \"wg0\"")],
};

pub static WIREGUARD: Kind = Kind {
    header: "[hub.NAME.wireguard]",
    keys: &[
        ("listen", "listen = 51820"),
        ("endpoint", "endpoint = \"home.example.org:51820\""),
        ("private-key", "private-key = \"/etc/wire/keys/vpn-edge\""),
        ("isolate", "isolate = true"),
        ("peer", "[[hub.NAME.wireguard.peer]]"),
    ],
};

pub static PEER: Kind = Kind {
    header: "[[hub.NAME.wireguard.peer]]",
    keys: &[
        ("name", "name = \"laptop\""),
        ("public-key", "public-key = \"mLK9Q7KjM5mF1a0bq6oN5gV9VQyZ8tQ2oQxJ0yqF7Xs=\""),
        ("preshared-key", "preshared-key = \"/etc/wire/keys/laptop.psk\""),
        ("address", "address = \"10.100.0.2\""),
        ("allow", "allow = [\"git-ssh\"]"),
    ],
};

pub static SITE: Kind = Kind {
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

pub static TLS: Kind = Kind {
    header: "a site's `tls`",
    keys: &[("cert", "cert = \"/etc/wire/blog.crt\""), ("key", "key = \"/etc/wire/blog.key\"")],
};

pub static REDIRECT: Kind = Kind {
    header: "[[hub.NAME.redirect]]",
    keys: &[
        ("host", "host = \"www.example.org\""),
        ("to", "to = \"https://blog.example.org\""),
        ("tls", "tls = \"acme\""),
    ],
};

pub static FORWARD: Kind = Kind {
    header: "[[hub.NAME.forward]]",
    keys: &[("port", "port = \"tcp/25565\""), ("to", "to = \"minecraft:25565\""), ("from", "from = \"@players\"")],
};

pub static SET: Kind = Kind {
    header: "[set.NAME]",
    keys: &[
        ("file", "file = \"/var/lib/wire/banned\""),
        ("dns", "dns = [\"anna.example.net\"]"),
        ("interval", "interval = \"5m\""),
        ("private", "private = true"),
        ("elements", "elements = [\"192.0.2.0/24\"]"),
    ],
};

pub static ACME: Kind = Kind {
    header: "[acme]",
    keys: &[
        ("contact", "contact = \"mailto:me@example.org\""),
        ("directory", "directory = \"https://acme.example.net/dir\""),
        ("ca", "ca = \"/etc/wire/acme-ca.pem\""),
    ],
};

pub static FLOW: Kind = Kind {
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

pub static PUBLISH: Kind = Kind {
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
