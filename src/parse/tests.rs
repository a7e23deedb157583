//! The parser against whole files: those shipped, those with something wrong, those that have no end, those made up.

mod faults;
pub(crate) mod property;

use std::path::Path;

use super::{number, topology, warnings};
use crate::error::Fault;
use crate::topology::*;

/// What is said of a file, as the tables of this folder write it.
fn told(faults: &[Fault]) -> Vec<(String, String)> {
    let words = |fault: &Fault| {
        let Place { line, column } = fault.place;
        (format!("{line}:{column}: {}", fault.message), fault.hint.clone().unwrap_or_default())
    };
    faults.iter().map(words).collect()
}

/// The files of a folder, with their names.
fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Reads a text in every way and holds what must be true of any: nobody panics, a refusal has a reason, every place is one
/// of the text, faults stand in the order of the file, and what was numbered is valid.
fn survives(text: &str) {
    let lines: Vec<_> = text.split('\n').map(|line| line.chars().count()).collect();
    let inside = |faults: &[Fault]| {
        assert!(!faults.is_empty(), "refused without a reason: {text:?}");
        assert!(faults.is_sorted());
        for Fault { place, message, .. } in faults {
            let length = place.line.checked_sub(1).and_then(|line| lines.get(line));
            let fits = length.is_some_and(|length| (1..=length + 1).contains(&place.column));
            assert!(fits, "{place:?} is not in the text: {message}\n{text:?}");
            assert!(!message.contains('\n'));
        }
    };
    match topology(text) {
        Ok(topology) => {
            warnings(&topology);
            assert_eq!(number(text), Ok((text.to_owned(), Vec::new())));
        }
        Err(faults) => {
            inside(&faults);
            match number(text) {
                Ok((text, numbered)) => {
                    assert_eq!(faults.len(), numbered.len());
                    topology(&text).unwrap();
                }
                Err(faults) => inside(&faults),
            }
        }
    }
}

#[test]
fn shipped_files_are_valid() {
    for (path, text) in files("topology") {
        match topology(&text) {
            Ok(topology) => assert_eq!(told(&warnings(&topology)), [], "{path}"),
            Err(faults) => panic!("{path}: {:#?}", told(&faults)),
        }
    }
}

#[test]
fn every_fault_is_told_once_at_its_place() {
    for case in faults::CASES {
        let told = topology(case.text).err().map(|faults| told(&faults)).unwrap_or_default();
        let told: Vec<_> = told.iter().map(|(message, hint)| (message.as_str(), hint.as_str())).collect();
        assert_eq!(told, case.faults, "{}\n{}", case.rule, case.text);
        survives(case.text);
    }
}

/// Every string of a file made a number, and every key misspelt: one fault each, where the mistake is.
#[test]
fn one_mistake_is_one_fault() {
    let (_, text) = files("topology").into_iter().find(|(path, _)| path.ends_with("hubs.toml")).unwrap();
    let mut mistakes = 0;
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        let code = &line[..line.find('#').unwrap_or(line.len())];
        let mut edits = Vec::new();
        let quotes: Vec<_> = code.match_indices('"').map(|(at, _)| at).collect();
        edits.extend(quotes.chunks_exact(2).map(|pair| (pair[0]..pair[1] + 1, "7")));
        for (equals, _) in
            code.match_indices('=').filter(|(at, _)| quotes.iter().filter(|quote| *quote < at).count() % 2 == 0)
        {
            let end = code[..equals].trim_end().len();
            edits.push((end..end, "q"));
        }
        for (range, word) in edits {
            // A module's name, a header's and a string for a key may be any.
            let is_free = code[..range.end].ends_with('"') && code[range.end..].trim_start().starts_with('=');
            if is_free || word == "q" && (code[..range.end].ends_with('"') || !line.starts_with(' ') && is_module(code))
            {
                continue;
            }
            let mut text = text.clone();
            text.replace_range(line_start + range.start..line_start + range.end, word);
            let faults = topology(&text).err().unwrap_or_default();
            assert_eq!(faults.len(), 1, "{:#?}\n{}", told(&faults), &text[line_start..].lines().next().unwrap());
            assert_eq!(faults[0].place.line, 1 + text[..line_start].matches('\n').count());
            mistakes += 1;
        }
        line_start += line.len();
    }
    assert!(mistakes > 200, "{mistakes}");
}

fn is_module(code: &str) -> bool {
    ["michel", "frangisk", "eligius", "akitio", "cecilia", "post"].iter().any(|module| code.starts_with(module))
}

#[test]
fn hostile_texts_are_survived() {
    for (_, text) in files("tests/fuzz/corpus/parse") {
        text.char_indices().take(1000).for_each(|(at, _)| survives(&text[..at]));
        survives(&text);
    }
}

#[test]
fn endless_texts_are_survived() {
    let many = |word: &str| word.repeat(5000);
    for text in [
        many("["),
        many("{a="),
        format!("a = {}", many("[")),
        format!("a{} = 1", many(".a")),
        format!("[a{}]", many(".a")),
        format!("a = {}1{}", many("{a="), many("}")),
        format!("a = {}1", many(&format!("{{a{}=", ".a".repeat(70))).chars().take(200_000).collect::<String>()),
        format!("version = 1\n{}", many("[[wire]]\n")),
        format!("version = 1\n[podman]\nuser = \"{}\"", many("ä")),
        format!("version = 1\n[module]\nm = [{}]", many("\"x\",")),
        format!("version = {}", many("1")),
        format!("wire = [{}]", many("{name = 1, ends = [\"a\", 2], nmae = \"ä\"}, ")),
        many("\0"),
        many("\u{feff}"),
        many("\r"),
    ] {
        let refused = topology(&text).unwrap_err();
        assert!(!refused.is_empty());
    }
}

#[test]
fn the_mark_of_a_byte_order_is_no_column() {
    let faults = topology("\u{feff}version = 2\n").unwrap_err();
    assert_eq!(faults[0].place, Place { line: 1, column: 11 });
}

/// The user's house, against the table he drew it as.
#[test]
fn pluto_is_as_its_table_says() {
    let (_, text) = files("topology").into_iter().find(|(path, _)| path.ends_with("pluto.toml")).unwrap();
    let topology = topology(&text).unwrap();
    let row = |wire: &Wire| {
        let [a, b] = &wire.ends;
        format!("{} | {} {} | {} {} | {}", wire.name, a.node, a.address, b.node, b.address, wire.subnet)
    };
    assert_eq!(
        topology.wires.iter().map(row).collect::<Vec<_>>(),
        [
            "host-pub | host 192.168.100.0 | reverse-proxy-edge 192.168.100.1 | 192.168.100.0/31",
            "host-priv | host 192.168.101.0 | vpn-edge 192.168.101.1 | 192.168.101.0/31",
            "pub-lbmt-darkroom | reverse-proxy-edge 172.16.1.0 | lbmt-darkroom 172.16.1.1 | 172.16.1.0/31",
            "pub-lbmt-weblog | reverse-proxy-edge 172.16.2.0 | lbmt-weblog 172.16.2.1 | 172.16.2.0/31",
            "pub-lbmt-shop | reverse-proxy-edge 172.16.3.0 | lbmt-shop 172.16.3.1 | 172.16.3.0/31",
            "priv-git-ssh | vpn-edge 10.1.1.0 | git-ssh 10.1.1.1 | 10.1.1.0/31",
            "pub-git-web | reverse-proxy-edge 172.16.4.0 | git-web 172.16.4.1 | 172.16.4.0/31",
            "priv-master-ssh | vpn-edge 10.1.2.0 | master-ssh 10.1.2.1 | 10.1.2.0/31",
            "priv-master-explorer-web | vpn-edge 10.1.3.0 | master-explorer-web 10.1.3.1 | 10.1.3.0/31",
            "pub-minecraft-server | reverse-proxy-edge 172.16.5.0 | minecraft-server 172.16.5.1 | 172.16.5.0/31",
            "priv-minecraft-ttyd-rcon | vpn-edge 10.1.4.0 | minecraft-ttyd-rcon 10.1.4.1 | 10.1.4.0/31",
            "pub-minecraft-map | reverse-proxy-edge 172.16.6.0 | minecraft-map 172.16.6.1 | 172.16.6.0/31",
            "priv-navidrome-server | vpn-edge 10.1.5.0 | navidrome-server 10.1.5.1 | 10.1.5.0/31",
            "priv-navidrome-web-client | vpn-edge 10.1.6.0 | navidrome-web-client 10.1.6.1 | 10.1.6.0/31",
            "navidrome-server-client | navidrome-server 10.254.1.0 | navidrome-web-client 10.254.1.1 | 10.254.1.0/31",
        ]
    );
    assert_eq!(topology.nodes.values().filter(|node| node.network_none).count(), 4);
    let users: Vec<_> = topology.nodes.values().map(|node| node.home.clone()).collect();
    assert!(users.iter().all(|home| matches!(home, Home::Podman { user: Some(user), .. } if user == "liam")));
}

/// What the first example means, where that does not stand in it word by word.
#[test]
fn what_a_file_leaves_out_follows_from_it() {
    let (_, text) = files("topology").into_iter().find(|(path, _)| path.ends_with("example.toml")).unwrap();
    let topology = topology(&text).unwrap();
    let devices = |name: &str| topology.wire(name).unwrap().ends.each_ref().map(|end| end.device.to_string());
    assert_eq!(devices("host-pub"), ["host-pub", "host-pub"]);
    assert_eq!(devices("host-mail"), ["host-mail", "host-mail"]);
    assert_eq!(devices("pub-lbmt-shop"), ["pub-lbmt-shop", "eth0"]);
    assert_eq!(devices("priv-navidrome-web-client"), ["priv-navi-web", "eth0"]);
    let long = Device::for_wire(&Name::new("navidrome-server-client").unwrap()).to_string();
    assert_eq!(devices("navidrome-server-client"), [long.clone(), long]);
    let module = |name: &str| topology.wire(name).unwrap().module.to_string();
    assert_eq!(module("host-pub"), "michel");
    assert_eq!(module("pub-lbmt-shop"), "frangisk");
    assert_eq!(module("host-mail"), "post");
    assert_eq!(module("navidrome-server-client"), "cecilia");
    let node = |name: &str| &topology.nodes[name];
    let container = |name| Home::Podman { container: Name::new(name).unwrap(), user: Some("liam".to_owned()) };
    assert_eq!(node("git-ssh").home, container("git-ssh"));
    assert_eq!(node("mail").home, Home::Podman { container: Name::new("mail").unwrap(), user: None });
    assert_eq!(node("lab").home, Home::Netns(Name::new("lab").unwrap()));
    assert!(node("lbmt-shop-backup").network_none);
    let allow = &topology.wire("priv-git-ssh").unwrap().allow[0];
    assert_eq!(allow.rate, Some(Rate { count: 10, per: Per::Minute, burst: 5 }));
    assert_eq!(topology.host.block, Name::new("banned"));
    assert_eq!(topology.sets["players"].interval, Some(300));
}

#[test]
fn a_slash_30_has_its_first_address_for_itself() {
    let text = "version = 1\nwire = [{ name = \"x\", ends = [\"a\", \"b\"], subnet = \"10.0.0.4/30\" }]\n[module]\nm = [\"a\", \"b\"]\n";
    let topology = topology(text).unwrap();
    assert_eq!(topology.wires[0].ends.each_ref().map(|end| end.address.to_string()), ["10.0.0.5", "10.0.0.6"]);
}

#[test]
fn a_sharer_is_the_node_it_lives_in() {
    let text = r#"
version = 1
runtime = "netns"
wire = [
  { name = "x", ends = ["host", "torrent"], subnet = "10.0.0.0/31" },
  { name = "y", ends = ["web", "agent"], subnet = "10.0.0.2/31" },
]
[module]
m = ["torrent", "gluetun", "web", "agent"]
[host]
uplinks = ["eth0"]
[node.torrent]
shares = "gluetun"
egress = ["udp/51820"]
[node.agent]
shares = "host"
"#;
    let topology = topology(text).unwrap();
    let ends = |name: &str| topology.wire(name).unwrap().ends.each_ref().map(|end| end.node.to_string());
    assert_eq!(ends("x"), ["host", "gluetun"]);
    assert_eq!(ends("y"), ["web", "host"]);
    assert_eq!(topology.nodes["gluetun"].egress.len(), 1);
    assert_eq!(topology.nodes["torrent"].egress, []);
    assert_eq!(topology.nodes["gluetun"].home, Home::Netns(Name::new("gluetun").unwrap()));
}

#[test]
fn flows_are_joined_and_sorted() {
    let text = "version = 1\nwire = [{ name = \"x\", ends = [\"a\", \"b\"], subnet = \"10.0.0.4/31\", \
                allow = [\"tcp/443,80,81,8000-8010,8005-8020\", \"icmp\"] }]\n[module]\nm = [\"a\", \"b\"]\n";
    let topology = topology(text).unwrap();
    assert_eq!(topology.wires[0].allow[0].flow.to_string(), "tcp/80-81,443,8000-8020");
    assert_eq!(topology.wires[0].allow[1].flow.to_string(), "icmp");
}

#[test]
fn warnings_are_told_of_valid_files() {
    let text = r#"
version = 1
wire = [
  { name = "x", ends = ["h", "a"], subnet = "8.8.8.0/31", subnet6 = "2001:db8::/127", allow = ["icmpv6"] },
  { name = "y", ends = ["h", "b"], subnet = "10.0.0.0/31", allow = ["icmpv6", { flow = "tcp/80", from = "fd00::1" }] },
]
[host]
uplinks = ["eth0"]
[module]
m = ["h", "a", "b"]
[hub.h]
zone = "public"
[node.a]
egress = ["tcp/443"]
"#;
    let told = told(&warnings(&topology(text).unwrap()));
    let told: Vec<_> = told.iter().map(|(message, _)| message.as_str()).collect();
    assert_eq!(
        told,
        [
            "4:3: wire `x`: 2001:db8::/127 is not a private network",
            "4:3: wire `x`: 8.8.8.0/31 is not a private network",
            "5:69: wire `y`: `icmpv6` never passes, as the wire has no IPv6",
            "5:79: wire `y`: `tcp/80` never passes, as the wire has no IPv6",
            "13:7: node `a`: its egress ends at hub `h`, which has no wire to the host",
        ]
    );
}

const NODES: &str = r#"
[module]
m = ["h", "a", "b"]
[hub.h]
zone = "public"
pool = "172.16.0.0/29"
[pool]
host   = "192.168.0.0/30"
direct = "10.254.0.0/31"
"#;

#[test]
fn numbers_are_written_where_they_are_missing() {
    let cases = [
        (
            "version = 1 # one\nwire = [\n  { name = \"x\", ends = [\"h\", \"a\"] }, # first\n  { ends=[ \"h\",\"b\" ] ,name=\"y\",},\n  \
             { name = \"z\", ends = [\"h\", \"a\"], subnet = \"172.16.0.0/31\" },\n]",
            "version = 1 # one\nwire = [\n  { name = \"x\", ends = [\"h\", \"a\"], subnet = \"172.16.0.2/31\" }, # first\n  \
             { ends=[ \"h\",\"b\" ], subnet = \"172.16.0.4/31\" ,name=\"y\",},\n  \
             { name = \"z\", ends = [\"h\", \"a\"], subnet = \"172.16.0.0/31\" },\n]",
        ),
        (
            "version = 1\n  [[wire]]\n  ends = [\n    \"host\", # the first\n    \"h\",\n  ] # both\n  name = \"x\"\n\n[[wire]]\nname = \"y\"\nends = [\"b\", \"a\"]",
            "version = 1\n  [[wire]]\n  ends = [\n    \"host\", # the first\n    \"h\",\n  ] # both\n  subnet = \"192.168.0.0/31\"\n  name = \"x\"\n\n\
             [[wire]]\nname = \"y\"\nends = [\"b\", \"a\"]\nsubnet = \"10.254.0.0/31\"",
        ),
        (
            "version = 1\r\n[[wire]]\r\nname = \"x\"\r\nends = [\"b\", \"host\"] # ü\r\nmtu = 1400\r\n",
            "version = 1\r\n[[wire]]\r\nname = \"x\"\r\nends = [\"b\", \"host\"] # ü\r\nsubnet = \"192.168.0.0/31\"\r\nmtu = 1400\r\n",
        ),
    ];
    for (before, after) in cases {
        let (text, numbered) = number(&format!("{before}{NODES}")).unwrap();
        assert_eq!(text, format!("{after}{NODES}"));
        let topology = topology(&text).unwrap();
        for (name, subnet) in numbered {
            assert_eq!(topology.wire(name.as_str()).unwrap().subnet, subnet);
        }
    }
}

#[test]
fn a_last_line_without_an_end_gets_one() {
    let text = "version = 1\n[module]\nm = [\"a\", \"b\"]\n[pool]\ndirect = \"10.254.0.0/31\"\n[[wire]]\nname = \"x\"\nends = [\"a\", \"b\"]";
    let (numbered, _) = number(text).unwrap();
    assert_eq!(numbered, format!("{text}\nsubnet = \"10.254.0.0/31\""));
}

#[test]
fn numbers_keep_clear_of_everything() {
    let text = r#"version = 1
wire = [
  { name = "a", ends = ["h", "a"] },
  { name = "b", ends = ["a", "b"], subnet = "10.1.0.4/30" },
  { name = "c", ends = ["h", "b"] },
]
[module]
m = ["h", "a", "b"]
[hub.h]
zone    = "private"
pool    = "10.1.0.0/28"
clients = { prefix = "10.1.0.0/30", device = "wg0" }
"#;
    let (_, numbered) = number(text).unwrap();
    let numbered: Vec<_> = numbered.iter().map(|(name, subnet)| format!("{name} {subnet}")).collect();
    assert_eq!(numbered, ["a 10.1.0.8/31", "c 10.1.0.10/31"]);
}

#[test]
fn a_file_that_cannot_be_numbered_is_told_why() {
    let hole = |name: &str, a: &str, b: &str| format!("[[wire]]\nname = \"{name}\"\nends = [\"{a}\", \"{b}\"]\n");
    let full = hole("u", "host", "a") + &hole("v", "host", "b") + &hole("w", "host", "h");
    let cases = [
        (
            format!("version = 1\n{full}{NODES}"),
            (
                "8:1: wire `w`: `host` below [pool] is full: 192.168.0.0/30 has no free /31 left",
                "make the pool wider, or write a `subnet` yourself",
            ),
        ),
        (
            "version = 1\n".to_owned() + &hole("u", "h", "a") + "[module]\nm = [\"h\", \"a\"]\n[hub.h]\nzone = \"x\"\n",
            (
                "2:1: wire `u`: its subnet comes from `pool` below [hub.h], which is not there",
                "add `pool = \"10.1.0.0/16\"`, or write a `subnet` yourself",
            ),
        ),
        (
            "version = 1\n".to_owned() + &hole("u", "a", "b") + "mtu = 1\n" + NODES,
            ("5:7: wire `u`: `mtu` is out of range: 1", "it may be 68 to 65535"),
        ),
    ];
    for (text, fault) in cases {
        let told = told(&number(&text).unwrap_err());
        assert_eq!(told, [(fault.0.to_owned(), fault.1.to_owned())]);
    }
}

/// Nor may the short name of one wire be that of another, however alike they are.
#[test]
fn no_two_wires_have_one_device_name() {
    let mut seen = std::collections::HashMap::new();
    let mut random = 1u64;
    let mut next = move || {
        // Knuth's MMIX generator: the same names each time.
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        random >> 33
    };
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789.-_";
    for i in 0..1_000_000 {
        let prefix = ["priv-navidrome-", "pub-minecraft-server-in-the-cellar-", "", "x"][i % 4];
        let length = 1 + next() as usize % 20;
        let mut name = prefix.to_owned() + "a";
        name.extend((0..length).map(|_| char::from(LETTERS[next() as usize % LETTERS.len()])));
        let name = Name::new(&name).unwrap();
        let device = Device::for_wire(&name);
        assert!(device.as_str().len() <= DEVICE_MAX);
        assert_eq!(Device::new(device.as_str()).as_ref(), Some(&device));
        let other = seen.entry(device).or_insert_with(|| name.clone());
        assert_eq!(*other, name);
    }
}

/// Addresses outside a file, as a command line or another file has them.
#[test]
fn elements_are_addresses_and_prefixes_alone() {
    let table = [
        ("192.0.2.1", Ok("192.0.2.1/32")),
        ("192.0.2.0/24", Ok("192.0.2.0/24")),
        ("0.0.0.0/0", Ok("0.0.0.0/0")),
        ("2001:db8::1", Ok("2001:db8::1/128")),
        ("2001:DB8::/32", Ok("2001:db8::/32")),
        ("::ffff:192.0.2.1", Ok("192.0.2.1/32")),
        ("::ffff:192.0.2.0/120", Ok("192.0.2.0/24")),
        ("::/0", Ok("::/0")),
        ("", Err("`` is no address")),
        ("192.0.2.1/33", Err("`192.0.2.1/33` is no address")),
        ("192.0.2.0/255.255.255.0", Err("`192.0.2.0/255.255.255.0` is no address")),
        ("192.0.2.0/+24", Err("`192.0.2.0/+24` is no address")),
        ("192.0.2.01", Err("`192.0.2.01` is no address")),
        ("192.0.2.1-192.0.2.9", Err("`192.0.2.1-192.0.2.9` is no address")),
        ("@banned", Err("`@banned` is no address")),
        ("anna.example.net", Err("`anna.example.net` is no address")),
        ("fe80::1%eth0", Err("`fe80::1%eth0` is no address")),
        ("192.0.2.1/24", Err("`192.0.2.1/24` has bits behind its prefix")),
        ("1.2.3.4\u{7}", Err("`1.2.3.4\\u{7}` is no address")),
    ];
    for (text, wanted) in table {
        let read = super::element(text).map(|network| network.to_string()).map_err(|fault| fault.message);
        assert_eq!(read.as_deref().map_err(String::as_str), wanted, "{text}");
    }
    assert_eq!(super::duration("1h"), Ok(3600));
    assert!(super::duration("1 hour").is_err_and(|fault| fault.message == "`1 hour` is no duration"));
}
