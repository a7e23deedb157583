//! What `wire` tells `wire-hub` and what that answers: everything a hub serves, worked out of the topology, with its secrets. Both
//! programs have this file; each question is one line of JSON over the hub's socket, and so is each answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The descriptor of the socket that `wire-hub` is asked over, listening since before it was started. The next one is a file that is
/// locked as long as it runs, where it keeps what it has to know when it is started anew.
pub const SOCKET: i32 = 3;
/// Where certificates, the keys of ACME accounts and the internal CA are kept, each in a directory of its own: `acme`, `ca`.
pub const STATE: &str = "/var/lib/wire";
/// Where access logs are: `HUB.log`.
pub const LOGS: &str = "/var/log/wire";
/// What every answer of a site says where its upstream says nothing and the file nothing else.
pub const HEADERS: [(&str, &str); 5] = [
    ("strict-transport-security", "max-age=63072000"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
];
/// The largest body of a request, in bytes, where a site says nothing.
pub const BODY: u64 = 10_000_000;
/// The longest line that either of them takes, in bytes.
pub const LONGEST: u64 = 16 << 20;

/// What is asked of a hub that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Serve this from now on.
    Serve(Box<Orders>),
    /// Which of the tunnel's peers have been heard.
    Peers,
    /// What it serves now, without secrets: by `Orders::likeness`.
    Likeness,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done,
    /// It cannot without being started anew, with the reason.
    Restart(String),
    Failed(String),
    /// It serves where the hub does not live any more, and ends.
    Moved,
    Peers(Vec<PeerSeen>),
    Likeness(u64),
}

/// Everything a hub serves.
#[derive(Clone, Debug, Default, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Orders {
    pub hub: String,
    /// What tells the hub's namespace from every other one until the next boot (`SO_NETNS_COOKIE`).
    #[serde(default)]
    pub namespace: u64,
    /// `None` where the kernel has WireGuard, or nobody is to dial in.
    pub tunnel: Option<Tunnel>,
    pub proxy: Option<Proxy>,
}

impl Orders {
    /// A number that two orders share only if they are the same, secrets included, which cannot be told from it. The same in
    /// both programs as long as they are of one version.
    pub fn likeness(&self) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = siphasher::sip::SipHasher24::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// A secret in base64 (32 bytes) that is never printed.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A WireGuard tunnel in user space, over a TUN device that `wire` has made, addressed and set up.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tunnel {
    pub device: String,
    /// UDP port.
    pub listen: u16,
    pub private_key: Secret,
    pub peers: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Peer {
    pub name: String,
    /// Base64 of 32 bytes.
    pub public_key: String,
    pub preshared_key: Option<Secret>,
    /// The only address that it may send from.
    pub address: IpAddr,
}

/// What was heard of a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerSeen {
    /// Base64 of 32 bytes.
    pub public_key: String,
    /// Where it was heard last, as `address:port`.
    pub endpoint: Option<String>,
    /// Seconds since 1970.
    pub last_handshake: Option<u64>,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// HTTPS on port 443, with redirects and ACME's challenges on port 80.
#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Proxy {
    /// In the order of the file; several may have one host, each with a path of its own.
    pub sites: Vec<Site>,
    pub redirects: Vec<Redirect>,
    pub acme: Acme,
    /// Who is asked for the address of an ACME directory.
    pub nameservers: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Site {
    /// In lower case.
    pub host: String,
    /// Only below this path.
    pub path: Option<String>,
    pub upstream: Upstream,
    pub tls: Tls,
    /// Never empty.
    pub methods: Vec<String>,
    pub headers: BTreeMap<String, String>,
    pub rate: Option<Rate>,
    /// The largest body, in bytes.
    pub body: Option<u64>,
}

/// A leaf's end of its wire to the hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Upstream {
    /// The node's name, for messages.
    pub node: String,
    pub address: IpAddr,
    pub port: u16,
}

/// Requests of one client.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rate {
    pub count: u32,
    /// Seconds.
    pub per: u32,
    pub burst: u32,
}

#[derive(Clone, Debug, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Redirect {
    /// In lower case.
    pub host: String,
    /// A URL without path.
    pub to: String,
    pub tls: Tls,
}

/// Where a host's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    Acme,
    Internal,
    /// Paths of PEM files.
    Files {
        cert: String,
        key: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Acme {
    /// As `mailto:me@example.org`.
    pub contact: Option<String>,
    /// A URL.
    pub directory: String,
    /// Path of a PEM file of who signed the directory's own certificate; `None` for the usual roots.
    pub ca: Option<String>,
}
