//! What the file says, table by table, each word with its place. It judges every word by itself; what must hold between
//! words of different tables it leaves to `check`. Where something could not be read its place here stays empty, and the
//! fault has been told.

mod hub;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use ipnetwork::{Ipv4Network, Ipv6Network};
use toml::de::DeTable;

use crate::topology::{
    Acme, Device, Flow, HOST, MTU, Mode, NAME_MAX, Name, OUTSIDE, Place, Policy, Pool, Publish, Set,
};

use super::flow::{self, device, duration, flows, host_address, network, publishes};
use super::kinds::{ACME, HOST_TABLE, NODE, PODMAN, POOL, SET, TOP, WIRE};
use super::tree::{Page, Said, Table, Value, Word};
use crate::near::{meant, shown};

pub use hub::{ForwardDraft, Hub, NextPeer};

pub struct Draft<'t> {
    /// Every node is a named namespace unless its own table says otherwise.
    pub netns: bool,
    pub user: Option<String>,
    pub wires: Vec<Wire<'t>>,
    /// All wires, hubs and nodes could be read: one that is not there does not exist.
    pub whole: bool,
    pub modules: Vec<Module>,
    /// All of `[module]` could be read: a node that is not there is in no module.
    pub modules_whole: bool,
    pub host: Host,
    pub hubs: Vec<Hub<'t>>,
    pub nodes: Vec<Node<'t>>,
    pub pool: Pool,
    pub sets: BTreeMap<Name, Set>,
    /// All sets could be read: one that is not there does not exist.
    pub sets_whole: bool,
    pub acme: Option<Acme>,
}

pub struct Module {
    pub name: Name,
    pub nodes: Vec<Said<Name>>,
}

pub struct Wire<'t> {
    /// As messages call it.
    pub what: Rc<str>,
    pub place: Place,
    pub name: Option<Said<Name>>,
    pub ends: Option<[Said<&'t str>; 2]>,
    /// Where `ends` stands in the text, and whether within `{ … }`: `number` writes behind it.
    pub ends_span: Range<usize>,
    pub inline: bool,
    pub subnet: Option<Said<Ipv4Network>>,
    /// There is no `subnet` at all.
    pub hole: bool,
    pub subnet6: Option<Said<Ipv6Network>>,
    pub allow: Vec<Flow>,
    pub allow_back: Vec<Flow>,
    /// All flows could be read: one that is not there does not exist.
    pub flows_whole: bool,
    pub publish: Vec<Publish>,
    pub publish_place: Option<Place>,
    pub mtu: u32,
    pub ifname: Option<[Said<Device>; 2]>,
    /// There is an `ifname` that could not be read.
    pub ifname_torn: bool,
    pub mode: Mode,
    pub across_zones: bool,
}

#[derive(Default)]
pub struct Host {
    pub uplinks: Vec<Said<Device>>,
    /// There are `uplinks` that could not be read.
    pub uplinks_torn: bool,
    pub policy: Policy,
    pub policy_place: Place,
    pub allow: Vec<Flow>,
    pub block: Option<Said<Name>>,
}

pub struct Node<'t> {
    pub name: Said<Name>,
    pub netns: Option<Said<Name>>,
    pub container: Option<Said<Name>>,
    pub user: Option<Said<String>>,
    pub network_none: Option<Place>,
    pub owned: Option<Place>,
    pub shares: Option<Said<&'t str>>,
    pub zones: Option<Said<Vec<Name>>>,
    /// There is a `zones` that could not be read.
    pub zones_torn: bool,
    pub egress: Vec<Flow>,
    pub egress_place: Option<Place>,
    pub snat: Option<Said<std::net::IpAddr>>,
}

impl Draft<'_> {
    /// Tells which wires have no subnet yet.
    pub fn tell_holes(&self, page: &Page) {
        for wire in self.wires.iter().filter(|wire| wire.hole) {
            let hint = "run `wire number`, which writes the next free /31 into the file, or write one yourself";
            page.fault(wire.place, format!("{}: `subnet` is missing", wire.what), hint);
        }
    }
}

/// Everything the file says, or nothing where it is not of this version.
pub fn read<'t>(page: &'t Page<'t>, tree: &'t DeTable<'t>) -> Option<Draft<'t>> {
    if let Some(version) = tree.get("version").and_then(|v| v.get_ref().as_integer())
        && version.as_str() != "1"
    {
        let at = tree.get("version").map_or(0, |version| version.span().start);
        let message = format!("version {} is not known to this `wire`", shown(version.as_str()));
        page.fault(page.place(at), message, "write `version = 1`, or take a newer `wire`");
        return None;
    }
    let top = Table::new(page, &TOP, "", Place { line: 1, column: 1 }, tree);
    let runtime = top.value("runtime").and_then(|runtime| choice(&runtime, &["podman", "netns"]));
    let podman = top.value("podman").and_then(|podman| podman.table(&PODMAN, "[podman]"));
    let (modules, modules_whole) = modules(&top);
    let (sets, sets_whole) = sets(&top);
    let wires_value = top.value("wire").map(|wires| wires.list());
    let mut whole = !top.misspells("wire") && !matches!(wires_value, Some(None));
    let wires_list = wires_value.flatten().unwrap_or_default();
    let wires: Vec<_> = wires_list.iter().filter_map(wire).collect();
    whole &= wires.len() == wires_list.len();
    let draft = Draft {
        netns: runtime == Some("netns"),
        user: podman.and_then(|podman| user(&podman.value("user")?)).and_then(|user| rootless(user.it)),
        wires,
        modules,
        modules_whole,
        host: top.value("host").and_then(|host| host_table(&host)).unwrap_or_default(),
        hubs: named(&top, "hub", hub::hub, &mut whole),
        nodes: named(&top, "node", node, &mut whole),
        pool: top.value("pool").and_then(|pool| pool_table(&pool)).unwrap_or_default(),
        sets,
        sets_whole,
        acme: top.value("acme").and_then(|acme| acme_table(&acme)),
        whole,
    };
    // Last, when it is known whether it stands below a table.
    if !page.has_stray("version")
        && let Some(version) = top.required("version")
    {
        version.number(1..=1);
    }
    Some(draft)
}

/// The tables `[KIND.NAME]`, and whether they are all there are.
fn named<'t, T>(
    top: &Table<'t>,
    kind: &'static str,
    read: fn(Said<Name>, &Value<'t>) -> Option<T>,
    whole: &mut bool,
) -> Vec<T> {
    let entries = entries(top, kind, whole);
    let tables: Vec<_> = entries.iter().filter_map(|(key, value)| read(name(key, kind)?, value)).collect();
    *whole &= tables.len() == entries.len();
    tables
}

fn entries<'t>(top: &Table<'t>, kind: &'static str, whole: &mut bool) -> Vec<(Word<'t>, Value<'t>)> {
    let value = top.value(kind);
    *whole &= !top.misspells(kind) && value.as_ref().is_none_or(Value::is_table);
    value.map(|tables| tables.named(format!("[{kind}]"))).unwrap_or_default()
}

/// A name that this word gives to something.
fn name(word: &Word, kind: &str) -> Option<Said<Name>> {
    const RESERVED: [&str; 5] = ["lo", "all", "default", HOST, OUTSIDE];
    if RESERVED.contains(&word.text) || (kind == "wire" && word.text == "eth0") {
        let hint = if word.text == HOST && kind == "node" {
            "what concerns the host stands below [host]".to_owned()
        } else {
            format!("give the {kind} another name")
        };
        word.fault(format!("`{}` is taken and cannot name a {kind}", word.text), hint);
        return None;
    }
    legal(word, kind)
}

/// A name that something outside the file has, where no word is taken.
fn legal(word: &Word, kind: &str) -> Option<Said<Name>> {
    let name = Name::new(word.text);
    if name.is_none() {
        let legal = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }
        };
        let better: String = word.text.chars().take(NAME_MAX).map(legal).collect();
        let better = better.trim_matches(['.', '_', '-']);
        let rule = "a name is 1 to 64 of letters, digits, `.`, `_` and `-`, and begins with a letter or digit";
        let hint = if Name::new(better).is_some() { format!("{rule}: `{better}`") } else { rule.to_owned() };
        word.fault(format!("`{}` cannot name a {kind}", shown(word.text)), hint);
    }
    name.map(|name| word.said(name))
}

/// One of a few words.
fn choice(value: &Value, choices: &[&'static str]) -> Option<&'static str> {
    let word = value.word()?;
    let choice = choices.iter().find(|choice| **choice == word.text).copied();
    if choice.is_none() {
        let all: Vec<_> = choices.iter().map(|choice| format!("`\"{choice}\"`")).collect();
        let hint = meant(word.text, choices.iter().copied(), format!("it may be {}", all.join(" or ")));
        word.fault(format!("`{}` cannot be `{}`", value.key, shown(word.text)), hint);
    }
    choice
}

/// A user's name. Root's containers are those that belong to no other.
fn user(value: &Value) -> Option<Said<String>> {
    let word = value.word()?;
    let legal = |c: char| c.is_alphanumeric() || "._-+@\\$".contains(c);
    let is_name = !word.text.is_empty() && word.text.len() <= 255 && !word.text.starts_with('-');
    if !is_name || !word.text.chars().all(legal) {
        word.fault(format!("`{}` is no user's name", shown(word.text)), "write the name that `id` shows, as `liam`");
        return None;
    }
    Some(word.said(word.text.to_owned()))
}

pub fn rootless(user: String) -> Option<String> {
    Some(user).filter(|user| user != "root")
}

/// A path from the root, as nobody knows where `wire` will be started.
fn path(value: &Value) -> Option<String> {
    let word = value.word()?;
    if !word.text.starts_with('/') || word.text.chars().any(char::is_control) || word.text.ends_with('/') {
        let hint = "write the whole path of a file, beginning with `/`";
        word.fault(format!("`{}` is no path from the root", shown(word.text)), hint);
        return None;
    }
    Some(word.text.to_owned())
}

fn wire<'t>(value: &Value<'t>) -> Option<Wire<'t>> {
    let mut table = value.table(&WIRE, what_wire(value))?;
    let name = table.required("name").and_then(|value| name(&value.word()?, "wire"));
    let ends_value = table.required("ends");
    let ends = ends_value.as_ref().and_then(|ends| pair(ends, "two nodes", "[\"host\", \"web\"]"));
    if let (None, Some([a, b])) = (&name, &ends) {
        table.rename(format!("the wire between `{}` and `{}`", shown(a.text), shown(b.text)));
    }
    let ifname_value = table.value("ifname");
    let ifname = ifname_value.as_ref().and_then(|value| {
        let [a, b] = pair(value, "two devices", "[\"web-db\", \"eth0\"]")?;
        let devices = (device(&a).map(|device| a.said(device)), device(&b).map(|device| b.said(device)));
        Some([devices.0?, devices.1?])
    });
    let before = value.page.count();
    let allow = table.value("allow").map(|value| flows(&value)).unwrap_or_default();
    let allow_back = table.value("allow-back").map(|value| flows(&value)).unwrap_or_default();
    let misspelt = ["allow", "allow-back"].iter().any(|key| table.misspells(key));
    let flows_whole = value.page.count() == before && !misspelt;
    let publish = table.value("publish");
    let subnet6 = table.value("subnet6").and_then(|value| value.word());
    let subnet6 = subnet6.and_then(|word| Some(word.said(flow::subnet6(&word)?)));
    let least = if subnet6.is_some() { 1280 } else { 68 };
    let mtu = table.value("mtu").and_then(|mtu| {
        let number = mtu.number(68..=65535)?;
        if number < least {
            mtu.fault(
                format!("an mtu of {number} is too small for IPv6"),
                "write 1280 or more, or leave `subnet6` out",
            );
        }
        u32::try_from(number).ok()
    });
    let subnet = table.value("subnet").and_then(|value| value.word());
    let across_zones = table.value("across-zones").and_then(|value| value.truth());
    let mode = table.value("mode").and_then(|mode| choice(&mode, &["enforce", "audit"]));
    Some(Wire {
        what: table.what().clone(),
        place: table.place,
        name,
        ends_span: ends_value.map(|ends| ends.span()).unwrap_or_default(),
        inline: value.is_inline(),
        subnet: subnet.and_then(|word| Some(word.said(flow::subnet(&word)?))),
        hole: !table.has("subnet"),
        subnet6,
        allow,
        allow_back,
        flows_whole,
        publish_place: publish.as_ref().map(|publish| publish.place()),
        publish: publish.map(|publish| publishes(&publish)).unwrap_or_default(),
        mtu: mtu.unwrap_or(MTU),
        ifname_torn: table.has("ifname") && ifname.is_none(),
        ifname,
        mode: if mode == Some("audit") { Mode::Audit } else { Mode::Enforce },
        across_zones: across_zones.unwrap_or_else(|| table.has("across-zones")),
        ends: ends.map(|[a, b]| [a.said(a.text), b.said(b.text)]),
    })
}

/// What messages call a wire, even one that is not read yet.
fn what_wire(value: &Value) -> String {
    match value.peek("name") {
        Some(name) if !name.is_empty() => format!("wire `{}`", shown(name)),
        _ => "this wire".to_owned(),
    }
}

/// A list of exactly two words.
fn pair<'t>(value: &Value<'t>, wanted: &str, example: &str) -> Option<[Word<'t>; 2]> {
    let list = value.list()?;
    let count = list.len();
    let words: Vec<_> = list.iter().filter_map(Value::word).collect();
    if count != 2 {
        let found = if count == 1 { "one".to_owned() } else { count.to_string() };
        let message = format!("`{}` names {wanted}, not {found}", value.key);
        value.fault(message, format!("write `{} = {example}`", value.key));
    }
    words.try_into().ok().filter(|_| count == 2)
}

fn modules(top: &Table) -> (Vec<Module>, bool) {
    let mut whole = true;
    let mut modules = Vec::new();
    for (key, value) in entries(top, "module", &mut whole) {
        // What belongs to the top of the file is soon typed below its first table.
        let of_tables = || value.list().is_some_and(|list| list.iter().any(Value::is_table));
        if TOP.example(key.text).is_some() && (!value.is_list() || of_tables()) {
            key.stray(&TOP);
            whole = false;
            continue;
        }
        let value = value.called(format!("module `{}`", shown(key.text)));
        let said = name(&key, "module");
        let Some(list) = value.list() else {
            whole = false;
            continue;
        };
        let nodes: Vec<_> = list.iter().filter_map(|value| name(&value.word()?, "node")).collect();
        whole &= nodes.len() == list.len();
        if let Some(said) = said {
            modules.push(Module { name: said.it, nodes });
        } else {
            whole = false;
        }
    }
    (modules, whole)
}

fn host_table(value: &Value) -> Option<Host> {
    let table = value.table(&HOST_TABLE, "[host]")?;
    let before = value.page.count();
    let uplinks = table.value("uplinks").map(|uplinks| uplinks.words()).unwrap_or_default();
    let uplinks: Vec<_> = uplinks.iter().filter_map(|word| Some(word.said(device(word)?))).collect();
    let uplinks_torn = value.page.count() > before || table.misspells("uplinks");
    let policy = table.value("policy");
    let policy_place = policy.as_ref().map(Value::place).unwrap_or_default();
    let block = table.value("block").and_then(|block| block.word());
    Some(Host {
        uplinks,
        uplinks_torn,
        policy: match policy.and_then(|policy| choice(&policy, &["wires", "all"])) {
            Some("all") => Policy::All,
            _ => Policy::Wires,
        },
        policy_place,
        allow: table.value("allow").map(|allow| flows(&allow)).unwrap_or_default(),
        block: block.and_then(|word| Some(word.said(flow::set(&word)?))),
    })
}

fn node<'t>(said: Said<Name>, value: &Value<'t>) -> Option<Node<'t>> {
    let table = value.table(&NODE, format!("node `{}`", said.it))?;
    let named = |key| {
        let word = table.value(key)?.word()?;
        legal(&word, if key == "netns" { "namespace" } else { "container" })
    };
    let zones = table.value("zones");
    let zone_names = zones.as_ref().and_then(|zones| {
        let list = zones.list()?;
        let names: Vec<_> = list.iter().filter_map(|value| zone(&value.word()?)).collect();
        (names.len() == list.len()).then(|| zones.said(names))
    });
    let egress = table.value("egress");
    let network = table.value("network");
    let owned = table.value("owned");
    let shares = table.value("shares").and_then(|shares| shares.word());
    let snat = table.value("snat").and_then(|snat| snat.word());
    Some(Node {
        name: said,
        netns: named("netns"),
        container: named("container"),
        user: table.value("user").and_then(|value| user(&value)),
        network_none: network.and_then(|value| choice(&value, &["none"]).map(|_| value.place())),
        owned: owned.filter(|owned| owned.truth() == Some(true)).map(|owned| owned.place()),
        shares: shares.map(|word| word.said(word.text)),
        zones_torn: table.has("zones") && zone_names.is_none(),
        zones: zone_names,
        egress_place: egress.as_ref().map(Value::place),
        egress: egress.map(|egress| flows(&egress)).unwrap_or_default(),
        snat: snat.and_then(|word| Some(word.said(host_address(&word)?))),
    })
}

fn zone(word: &Word) -> Option<Name> {
    let zone = Name::new(word.text);
    if zone.is_none() {
        let hint = "a zone is one word, as `public` or `private`";
        word.fault(format!("`{}` cannot name a zone", shown(word.text)), hint);
    }
    zone
}

fn pool_table(value: &Value) -> Option<Pool> {
    let table = value.table(&POOL, "[pool]")?;
    let pool = |key| flow::pool(&table.value(key)?.word()?);
    Some(Pool { host: pool("host"), direct: pool("direct") })
}

fn sets(top: &Table) -> (BTreeMap<Name, Set>, bool) {
    let mut whole = true;
    let sets = named(top, "set", set, &mut whole).into_iter().collect();
    (sets, whole)
}

fn set(said: Said<Name>, value: &Value) -> Option<(Name, Set)> {
    let table = value.table(&SET, format!("set `{}`", said.it))?;
    let words = |key| table.value(key).map(|value: Value| value.words()).unwrap_or_default();
    let interval = table.value("interval");
    if let Some(interval) = interval.as_ref().filter(|_| !table.has("dns") && !table.has("file")) {
        interval.fault(
            "`interval` says when names are asked again, and there are none",
            "add `dns = [\"anna.example.net\"]`",
        );
    }
    let private = table.value("private");
    if let Some(private) = private.as_ref().filter(|_| !table.has("dns")) {
        private.fault(
            "`private` says what addresses names may lead to, and there are none",
            "add `dns = [\"anna.example.net\"]`",
        );
    }
    let set = Set {
        name: said.it.clone(),
        elements: words("elements").iter().filter_map(network).collect(),
        file: table.value("file").and_then(|file| path(&file)),
        dns: words("dns").iter().filter_map(domain).collect(),
        interval: interval.and_then(|interval| duration(&interval.word()?)),
        private: private.and_then(|private| private.truth()).unwrap_or_default(),
        place: said.place,
    };
    Some((said.it, set))
}

/// A name of the DNS.
fn domain(word: &Word) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(legal) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_address = word.text.parse::<std::net::IpAddr>().is_ok();
    if word.text.len() > 253 || is_address || !word.text.split('.').all(label) {
        word.fault(
            format!("`{}` is no name of the DNS", shown(word.text)),
            "write a name alone, as `blog.example.org`",
        );
        return None;
    }
    Some(word.text.to_ascii_lowercase())
}

fn acme_table(value: &Value) -> Option<Acme> {
    let table = value.table(&ACME, "[acme]")?;
    let url = |key, scheme: &str, example: &str| {
        let word = table.value(key)?.word()?;
        let rest = word.text.strip_prefix(scheme).filter(|rest| !rest.is_empty());
        if rest.is_none() || word.text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            word.fault(
                format!("`{}` does not begin with `{scheme}`", shown(word.text)),
                format!("write `{key} = \"{example}\"`"),
            );
            return None;
        }
        Some(word.text.to_owned())
    };
    Some(Acme {
        contact: url("contact", "mailto:", "mailto:me@example.org"),
        directory: url("directory", "https://", "https://acme.example.net/dir"),
        ca: table.value("ca").and_then(|ca| path(&ca)),
    })
}
