//! What the file says of a hub, and of the tunnel, sites and forwards that `wire` runs in it.

use std::collections::BTreeMap;

use ipnetwork::Ipv4Network;

use crate::topology::{Clients, Forward, Name, Peer, Place, Redirect, Site, Tls, Upstream, Wireguard};

use super::super::flow::{self, device, host_address, optional, prefix, rated, service, size, usable, whom};
use super::super::kinds::{CLIENTS, FORWARD, HUB, PEER, REDIRECT, SITE, TLS, WIREGUARD};
use super::super::tree::{Said, Table, Value, Word};
use super::{choice, domain, name, path, zone};
use crate::near::shown;

pub struct Hub<'t> {
    pub name: Said<Name>,
    pub zone: Option<Name>,
    pub pool: Option<Ipv4Network>,
    pub clients: Option<Said<Clients>>,
    pub clients_said: bool,
    /// Without its peers.
    pub wireguard: Option<Said<Wireguard>>,
    pub peers: Vec<PeerDraft<'t>>,
    /// None without a tunnel.
    pub next_peer: Option<NextPeer>,
    pub sites: Vec<Said<Site>>,
    pub redirects: Vec<Redirect>,
    pub forwards: Vec<ForwardDraft>,
}

impl Hub<'_> {
    /// Whether something runs in it that `wire` brings along.
    pub fn is_run(&self) -> bool {
        self.wireguard.is_some() || !self.sites.is_empty() || !self.redirects.is_empty()
    }
}

/// Where the text takes one more peer, by a byte of it.
#[derive(Clone, Copy, Debug)]
pub enum NextPeer {
    /// A table of its own, behind the line.
    Table(usize),
    /// One more `{ … }` of a list, behind that byte.
    Entry(usize),
    /// The first of an empty list.
    First(usize),
    /// One more key of `{ … }`, behind that byte.
    Key(usize),
}

impl NextPeer {
    fn of(wireguard: &Value, table: &Table) -> NextPeer {
        let Some(peers) = table.value("peer") else {
            return if wireguard.is_inline() {
                NextPeer::Key(wireguard.last())
            } else {
                NextPeer::Table(wireguard.end())
            };
        };
        match peers.list().unwrap_or_default().last() {
            Some(last) if last.is_inline() => NextPeer::Entry(last.end()),
            Some(last) => NextPeer::Table(last.end()),
            None => NextPeer::First(peers.span().start + 1),
        }
    }
}

/// A peer without what it is allowed, which are names still to be found.
pub struct PeerDraft<'t> {
    pub peer: Peer,
    pub name: Place,
    pub address: Place,
    pub key: Place,
    pub allow: Vec<Said<&'t str>>,
}

pub struct ForwardDraft {
    pub forward: Forward,
    pub port: Place,
    pub to: Place,
}

pub fn hub<'t>(said: Said<Name>, value: &Value<'t>) -> Option<Hub<'t>> {
    let what = format!("hub `{}`", said.it);
    let table = value.table(&HUB, what.clone())?;
    let clients = table.value("clients");
    let wireguard_value = table.value("wireguard");
    let wireguard_table = wireguard_value.as_ref().and_then(|value| value.table(&WIREGUARD, what.clone()));
    let next_peer =
        wireguard_value.as_ref().zip(wireguard_table.as_ref()).map(|(value, table)| NextPeer::of(value, table));
    let list = |key| table.value(key).and_then(|value: Value<'t>| value.list()).unwrap_or_default();
    let peers = wireguard_table.as_ref().and_then(|table| table.value("peer")?.list()).unwrap_or_default();
    Some(Hub {
        zone: table.required("zone").and_then(|value| zone(&value.word()?)),
        pool: table.value("pool").and_then(|pool| flow::pool(&pool.word()?)),
        clients_said: table.has("clients"),
        clients: clients.and_then(|value| Some(value.said(clients_table(&value, &what)?))),
        wireguard: wireguard_table.and_then(|table| wireguard(&table, wireguard_value.as_ref()?.key_place())),
        peers: peers.iter().filter_map(peer).collect(),
        next_peer,
        sites: list("site").iter().filter_map(site).collect(),
        redirects: list("redirect").iter().filter_map(redirect).collect(),
        forwards: list("forward").iter().filter_map(forward).collect(),
        name: said,
    })
}

fn clients_table(value: &Value, what: &str) -> Option<Clients> {
    let table = value.table(&CLIENTS, what)?;
    let prefix = table.required("prefix").and_then(|value| {
        let word = value.word()?;
        let prefix = prefix(&word)?;
        let longest = if prefix.is_ipv4() { 30 } else { 126 };
        if prefix.prefix() > longest {
            let hint = format!("take a prefix of /{longest} or shorter: the first address is the hub's own");
            word.fault(format!("`{}` has no room for clients", word.text), hint);
            return None;
        }
        usable(&word, prefix.ip()).then_some(prefix)
    });
    let device = table.required("device").and_then(|value| device(&value.word()?));
    Some(Clients { prefix: prefix?, device: device? })
}

fn wireguard(table: &Table, place: Place) -> Option<Said<Wireguard>> {
    let listen = table.required("listen");
    let listen_place = listen.as_ref().map(Value::place);
    let listen = listen.and_then(|listen| u16::try_from(listen.number(1..=65535)?).ok());
    let private_key = table.required("private-key").and_then(|key| path(&key));
    let isolate = table.value("isolate").map_or(Some(true), |isolate| isolate.truth());
    let endpoint = table.value("endpoint").and_then(|endpoint| {
        let word = endpoint.word()?;
        let parts = word.text.rsplit_once(':').filter(|(host, port)| {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let plain = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c));
            plain && (bare == *host) != host.contains(':') && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if parts.is_none() {
            let hint = "write what peers dial, as `home.example.org:51820`";
            word.fault(format!("`{}` is no host and port", shown(word.text)), hint);
        }
        parts.map(|_| word.text.to_owned())
    });
    let wireguard =
        Wireguard { listen: listen?, endpoint, private_key: private_key?, isolate: isolate?, peers: Vec::new(), place };
    Some(Said { it: wireguard, place: listen_place? })
}

fn peer<'t>(value: &Value<'t>) -> Option<PeerDraft<'t>> {
    let what = value.peek("name").map_or("peer".to_owned(), |name| format!("peer `{}`", shown(name)));
    let table = value.table(&PEER, what)?;
    let name = table.required("name").and_then(|value| name(&value.word()?, "peer"));
    let key = table.required("public-key").and_then(|value| public_key(&value.word()?));
    let address = table.required("address").and_then(|value| {
        let word = value.word()?;
        Some(word.said(host_address(&word)?))
    });
    let allow = table.required("allow").map(|allow| allow.words());
    let preshared_key = table.value("preshared-key").and_then(|key| path(&key));
    let (name, key, address) = (name?, key?, address?);
    let peer = Peer {
        name: name.it,
        public_key: key.it,
        preshared_key,
        address: address.it,
        allow: Vec::new(),
        place: table.place,
    };
    let allow = allow?.iter().map(|word| word.said(word.text)).collect();
    Some(PeerDraft { peer, name: name.place, address: address.place, key: key.place, allow })
}

/// Base64 of 32 bytes: 43 digits, the last of which has two bits to spare, and a `=`.
fn public_key(word: &Word) -> Option<Said<String>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |digit: &u8| DIGITS.iter().position(|known| known == digit);
    let is_key = match word.text.as_bytes() {
        [digits @ .., last, b'='] if digits.len() == 42 => {
            digits.iter().all(|digit| value(digit).is_some()) && value(last).is_some_and(|value| value % 4 == 0)
        }
        _ => false,
    };
    if !is_key {
        let hint = "write what `wg pubkey` prints: 44 characters, the last a `=`";
        word.fault(format!("`{}` is no public key", shown(word.text)), hint);
    }
    is_key.then(|| word.said(word.text.to_owned()))
}

fn site(value: &Value) -> Option<Said<Site>> {
    let what = value.peek("host").map_or("site".to_owned(), |host| format!("site `{}`", shown(host)));
    let table = value.table(&SITE, what)?;
    let host = table.required("host").and_then(|host| domain(&host.word()?));
    let to_value = table.required("to");
    let to = to_value.as_ref().and_then(|to| upstream(&to.word()?));
    let tls = table.value("tls").and_then(|value| tls(&value));
    let path = table.value("path").and_then(|path| {
        let word = path.word()?;
        let legal = |c: char| c.is_ascii_graphic() && !"?#\\\"".contains(c);
        let plain = word.text.starts_with('/') && word.text.chars().all(legal) && !word.text.contains("..");
        if !plain {
            let hint = "write the beginning of a URL's path, as `/photos`";
            word.fault(format!("`{}` is no path of a URL", shown(word.text)), hint);
        }
        plain.then(|| word.text.to_owned())
    });
    let methods = table.value("methods").map(|methods| methods.words()).unwrap_or_default();
    let method = |word: &Word| {
        if matches!(word.text, "TRACE" | "CONNECT") {
            word.fault(
                format!("`{}` is for no site", word.text),
                "leave it out: a proxy answers it itself, or not at all",
            );
            return None;
        }
        let is_method = !word.text.is_empty() && word.text.bytes().all(|b| b.is_ascii_uppercase());
        if !is_method {
            let upper = word.text.to_ascii_uppercase();
            let is_close = !upper.is_empty() && upper.bytes().all(|b| b.is_ascii_uppercase());
            let hint = format!("write `{}`", if is_close { upper } else { "GET".to_owned() });
            word.fault(format!("`{}` is no method of HTTP", shown(word.text)), hint);
        }
        is_method.then(|| word.text.to_owned())
    };
    let site = Site {
        methods: methods.iter().filter_map(method).collect(),
        headers: table.value("headers").map(|headers| headers_table(&headers)).unwrap_or_default(),
        rate: rated(&table),
        body: table.value("body").and_then(|body| size(&body.word()?)),
        host: host?,
        to: to?,
        tls,
        path,
        place: table.place,
    };
    Some(Said { it: site, place: to_value?.place() })
}

fn headers_table(value: &Value) -> BTreeMap<String, String> {
    let header = |(key, value): &(Word, Value)| {
        let is_name = !key.text.is_empty() && key.text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !is_name {
            key.fault(
                format!("`{}` is no header's name", shown(key.text)),
                "write letters, digits and `-`, as `X-Frame-Options`",
            );
        }
        // These say where an answer ends, or are of one connection: another value would be another answer.
        let is_own = ["content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade"]
            .contains(&key.text.to_ascii_lowercase().as_str());
        if is_own {
            key.fault(format!("header `{}` is the connection's own", key.text), "leave it out: wire sets it");
        }
        let text = value.word()?;
        let is_plain = text.text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        if !is_plain {
            text.fault(
                format!("header `{}` has a value of more than ASCII", shown(key.text)),
                "leave out line breaks, tabs and accents",
            );
        }
        (is_name && !is_own && is_plain).then(|| (key.text.to_owned(), text.text.to_owned()))
    };
    value.named(value.what.clone()).iter().filter_map(header).collect()
}

fn tls(value: &Value) -> Option<Tls> {
    if value.is_word() {
        return match choice(value, &["acme", "internal"])? {
            "acme" => Some(Tls::Acme),
            _ => Some(Tls::Internal),
        };
    }
    let table = value.table(&TLS, value.what.clone())?;
    let cert = table.required("cert").and_then(|cert| path(&cert));
    let key = table.required("key").and_then(|key| path(&key));
    Some(Tls::Files { cert: cert?, key: key? })
}

/// `node:port`; whether there is such a node is asked later.
fn upstream(word: &Word) -> Option<Upstream> {
    let parts = word.text.rsplit_once(':').and_then(|(node, port)| {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0)?;
        Some(Upstream { node: Name::new(node)?, port })
    });
    if parts.is_none() {
        let node = word.text.split(':').next().and_then(Name::new).map_or("web".to_owned(), |node| node.to_string());
        word.fault(
            format!("`{}` is no node and port", shown(word.text)),
            format!("write `{node}:80`, with the port it listens on"),
        );
    }
    parts
}

fn redirect(value: &Value) -> Option<Redirect> {
    let what = value.peek("host").map_or("redirect".to_owned(), |host| format!("redirect `{}`", shown(host)));
    let table = value.table(&REDIRECT, what)?;
    let host = table.required("host").and_then(|host| domain(&host.word()?));
    let to = table.required("to").and_then(|to| {
        let word = to.word()?;
        let rest = word.text.strip_prefix("https://").or(word.text.strip_prefix("http://"));
        let rest = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        match rest {
            Some(rest) if !rest.is_empty() && rest.chars().all(legal) => {
                Some(word.text.strip_suffix('/').unwrap_or(word.text).to_owned())
            }
            _ => {
                let hint = "write scheme and host alone, as `https://blog.example.org`; path and query are kept";
                word.fault(format!("`{}` is no URL without a path", shown(word.text)), hint);
                None
            }
        }
    });
    let tls = table.value("tls").and_then(|value| tls(&value));
    Some(Redirect { host: host?, to: to?, tls, place: table.place })
}

fn forward(value: &Value) -> Option<ForwardDraft> {
    let what = value.peek("port").map_or("forward".to_owned(), |port| format!("forward `{}`", shown(port)));
    let table = value.table(&FORWARD, what)?;
    let port_value = table.required("port");
    let port = port_value.as_ref().and_then(|value| {
        let word = value.word()?;
        let port = service(&word)?;
        let is_one = matches!(port.ports[..], [(low, high)] if low == high);
        if !is_one {
            word.fault(
                format!("`{}` is not one port", shown(word.text)),
                "write one [[hub.NAME.forward]] for each port of tcp or udp",
            );
        }
        is_one.then_some(port)
    });
    let to_value = table.required("to");
    let to = to_value.as_ref().and_then(|to| upstream(&to.word()?));
    let from = optional(&table, "from", whom);
    let forward = Forward { port: port?, to: to?, from: from?, place: table.place };
    Some(ForwardDraft { forward, port: port_value?.place(), to: to_value?.place() })
}
