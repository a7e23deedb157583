//! `wire peer` and what `wire render` prints for a peer's device and for a node's `/etc/hosts`: written into the file, read back by
//! `wg` and by a reader of codes.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use crate::host::{Host, TOPOLOGY};

const HOUSE: &str = r#"# The house.
version = 1
runtime = "netns"
wire = [
  { name = "host-vpn", ends = ["host", "vpn"],  subnet = "192.168.101.0/31" },
  { name = "host-web", ends = ["host", "web"],  subnet = "192.168.102.0/31" },
  { name = "vpn-git",  ends = ["vpn", "git"],   subnet = "10.1.1.0/31", allow = ["tcp/22"] },
  { name = "vpn-wiki", ends = ["vpn", "wiki"],  subnet = "10.1.2.0/31", allow = ["tcp/80"] },
  { name = "vpn-quiet", ends = ["vpn", "quiet"], subnet = "10.1.3.0/31", allow-back = ["tcp/80"] },
  { name = "web-blog", ends = ["web", "blog"],  subnet = "172.16.1.0/31", allow = ["tcp/80"], allow-back = ["tcp/443"] },
  { name = "web-shop", ends = ["web", "shop"],  subnet = "172.16.2.0/31", allow = ["tcp/80"] },
  { name = "blog-db",  ends = ["blog", "db"],   subnet = "10.254.1.0/31", subnet6 = "fd00:1::/127", allow = ["tcp/5432"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["vpn", "web"]
rooms = ["git", "wiki", "quiet"]
front = ["blog", "shop", "db", "cache"]

[node.cache]
shares = "db"

[hub.vpn]
zone = "private"
clients = { prefix = "10.100.0.0/29", device = "wg0" }

[hub.vpn.wireguard]           # who may come in
listen = 51820
endpoint = "home.example.org:51820"
private-key = "/run/keys/vpn"

[hub.web]
zone = "public"

[[hub.web.site]]
host = "Blog.example.org"
to = "blog:80"

[[hub.web.redirect]]
host = "www.example.org"
to = "https://blog.example.org"
"#;

fn house() -> Host {
    Host::with(&["vpn", "web", "git", "wiki", "quiet", "blog", "shop", "db"], HOUSE)
}

fn file(host: &Host) -> String {
    std::fs::read_to_string(host.path(TOPOLOGY)).expect("the file")
}

/// The value behind a key of a configuration.
fn value<'c>(configuration: &'c str, key: &str) -> &'c str {
    let line = configuration.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
    line.unwrap_or_else(|| panic!("no {key} in {configuration}"))
}

/// A peer gets the next free address and keys that fit, and stands in the file, of which the rest stays to the letter. Its private key is
/// printed and nowhere else.
#[test]
fn a_peer_is_added() {
    let host = house();
    let added = host.wire(&["peer", "add", "laptop", "--allow", "git", "--allow", "vpn-wiki"]).expect(0);
    let conf = &added.stdout;
    assert_eq!(value(conf, "Address"), "10.100.0.2/32");
    assert_eq!(value(conf, "AllowedIPs"), "10.1.1.1/32, 10.1.2.1/32, 10.100.0.1/32");
    assert_eq!((value(conf, "Endpoint"), value(conf, "PersistentKeepalive")), ("home.example.org:51820", "25"));
    let private = value(conf, "PrivateKey");
    let public = |private: &str| host.sh(&format!("echo '{private}' | wg pubkey")).trim().to_owned();
    assert_eq!(value(conf, "PublicKey"), public(host.sh("cat /run/keys/vpn").trim()));
    assert_eq!(value(conf, "PresharedKey"), host.sh("cat /run/keys/laptop.psk").trim());
    for key in ["vpn", "laptop.psk"] {
        let about = std::fs::metadata(host.path(&format!("/run/keys/{key}"))).expect(key);
        assert_eq!((about.mode() & 0o7777, about.uid()), (0o600, 0), "{key}");
    }
    let text = file(&host);
    let table = format!(
        "\n[[hub.vpn.wireguard.peer]]\nname = \"laptop\"\npublic-key = \"{}\"\npreshared-key = \"/run/keys/laptop.psk\"\n\
         address = \"10.100.0.2\"\nallow = [\"git\", \"vpn-wiki\"]\n",
        public(private)
    );
    assert_eq!(text.replacen(&table, "", 1), HOUSE, "{text}");
    assert!(added.stderr.contains("10.100.0.2") && added.stderr.contains("wire up") && !added.stderr.contains(private));
    assert_eq!(host.sh(&format!("grep -rlF '{private}' /run --exclude-dir=netns || true")), "");
    host.wire(&["check"]).expect(0);

    // The next one may reach nothing, has the next address, and is told as JSON.
    let phone = host.wire(&["--json", "peer", "add", "phone"]).expect(0).json();
    assert_eq!((&phone["address"], &phone["hub"]), (&"10.100.0.3".into(), &"vpn".into()));
    assert_eq!(value(phone["configuration"].as_str().expect("text"), "AllowedIPs"), "10.100.0.1/32");
    let list = host.wire(&["peer", "list"]).expect(0).stdout;
    assert_eq!(list, "laptop  10.100.0.2  vpn  git, vpn-wiki\nphone   10.100.0.3  vpn  nothing\n");
    let list = host.wire(&["--json", "peer", "list"]).expect(0).json();
    assert_eq!(list["peers"][0]["allow"], serde_json::json!(["git", "vpn-wiki"]));

    // What its device is to be told can be had again, without its private key; `wg` takes it as it is but for what is wg-quick's.
    let again = host.wire(&["render", "wireguard", "laptop"]).expect(0).stdout;
    assert!(!again.contains(private) && again.contains("# PrivateKey = "), "{again}");
    let lines =
        |conf: &str| conf.lines().filter(|line| !line.contains("rivate")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&again), lines(conf));
    host.write("/run/laptop.conf", conf);
    let argv = ["env", "WG_PROCESS_FOREGROUND=1", "wireguard-go", "wg-laptop"];
    let _device = host.start("git", &argv);
    host.sh(
        "i=0; until [ -S /run/wireguard/wg-laptop.sock ] || [ $i = 500 ]; do i=$((i + 1)); sleep .01; done\n\
         sed '/^Address/d; s/home.example.org/192.0.2.2/' /run/laptop.conf >/run/laptop.wg; wg setconf wg-laptop /run/laptop.wg",
    );
    let shown = host.sh("wg showconf wg-laptop");
    assert_eq!(value(&shown, "PrivateKey"), private);
    assert_eq!(value(&shown, "PresharedKey"), value(conf, "PresharedKey"));
    let ips = |text: &str| value(text, "AllowedIPs").split(", ").map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(ips(&shown), ips(conf));
}

/// What cannot be added leaves the file as it was, and no key behind.
#[test]
fn what_cannot_be_added_changes_nothing() {
    let host = house();
    host.wire(&["peer", "add", "laptop"]).expect(0);
    let before = file(&host);
    for (args, said) in [
        (&["laptop"][..], "has a peer `laptop` already"),
        (&["phone", "--allow", "gitt"], "did you mean `git`?"),
        (&["phone", "--hub", "web"], "no hub `web` has a tunnel"),
        (&["phone", "--hub", "vpm"], "did you mean `vpn`?"),
        (&["../phone"], "cannot name a peer"),
    ] {
        let refused = host.wire(&[&["peer", "add"], args].concat()).expect(2);
        assert!(refused.stderr.contains(said) && refused.stdout.is_empty(), "{args:?}: {refused:?}");
        assert_eq!(file(&host), before, "{args:?}");
    }
    // A key that is there may be somebody's.
    host.write("/run/keys/phone.psk", "");
    assert!(host.wire(&["peer", "add", "phone"]).expect(2).stderr.contains("there is a key /run/keys/phone.psk"));
    // 10.100.0.2 to .6 are five.
    for name in ["a", "b", "c", "d"] {
        host.wire(&["peer", "add", name]).expect(0);
    }
    let full = file(&host);
    let refused = host.wire(&["peer", "add", "e"]).expect(2);
    assert!(refused.stderr.contains("no address left in 10.100.0.0/29"), "{}", refused.stderr);
    assert_eq!(file(&host), full);
    let keys = host.sh("ls -A /run/keys");
    assert_eq!(
        keys.split_whitespace().collect::<Vec<_>>(),
        ["a.psk", "b.psk", "c.psk", "d.psk", "laptop.psk", "phone.psk", "vpn"]
    );
}

/// Peers that are added at once have an address each.
#[test]
fn peers_are_added_one_at_a_time() {
    let host = house();
    let add = |name| {
        let argv = [crate::host::WIRE, "-f", TOPOLOGY, "peer", "add", name];
        host.command("host", &argv).stdout(Stdio::null()).spawn().expect("nsenter starts")
    };
    let running: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(add).collect();
    for mut one in running {
        assert!(one.wait().expect("it is ours").success());
    }
    let list = host.wire(&["--json", "peer", "list"]).expect(0).json();
    let peers = list["peers"].as_array().expect("peers").iter();
    let addresses: BTreeSet<_> = peers.map(|peer| peer["address"].as_str().expect("an address").to_owned()).collect();
    assert_eq!(addresses, (2..7).map(|n| format!("10.100.0.{n}")).collect());
}

/// The code of a configuration is read as that configuration, in letters that are light on dark and in colours of its own.
#[test]
fn a_code_is_read() {
    let host = house();
    host.wire(&["peer", "add", "laptop", "--allow", "*"]).expect(0);
    let text = host.wire(&["render", "wireguard", "laptop"]).expect(0).stdout;
    let plain = host.wire(&["--color", "never", "render", "wireguard", "laptop", "--qr"]).expect(0).stdout;
    let coloured = host.wire(&["--color", "always", "render", "wireguard", "laptop", "--qr"]).expect(0).stdout;
    assert!(coloured.lines().all(|line| line.starts_with("\x1b[38;5;16;48;5;231m") && line.ends_with("\x1b[0m")));
    let bare = coloured.replace("\x1b[38;5;16;48;5;231m", "").replace("\x1b[0m", "");
    // A letter of the first is light, of the second black.
    for (code, letter) in [(plain, 255), (bare, 0)] {
        assert_eq!(read(&code, letter).trim_end(), text.trim_end());
    }
}

/// What a camera would see of a code on a screen, read.
fn read(code: &str, letter: u8) -> String {
    const SCALE: usize = 4;
    let rows: Vec<[Vec<u8>; 2]> = (code.lines())
        .map(|line| {
            let half =
                |full: char| line.chars().map(|c| if c == '█' || c == full { letter } else { 255 - letter }).collect();
            [half('▀'), half('▄')]
        })
        .collect();
    let width = rows[0][0].len() * SCALE;
    let mut picture = format!("P5 {width} {} 255\n", rows.len() * 2 * SCALE).into_bytes();
    for row in rows.iter().flatten() {
        let wide: Vec<u8> = row.iter().flat_map(|&grey| [grey; SCALE]).collect();
        picture.extend(wide.repeat(SCALE));
    }
    let path = std::env::temp_dir().join(format!("wire-code-{}-{letter}.pgm", std::process::id()));
    std::fs::File::create(&path).and_then(|mut file| file.write_all(&picture)).expect("a picture");
    let read = std::process::Command::new("zbarimg").args(["--raw", "-q"]).arg(&path).output();
    let _ = std::fs::remove_file(&path);
    let read = read.expect("zbarimg of the package zbar-tools");
    assert!(read.status.success(), "no code is seen in\n{code}");
    String::from_utf8(read.stdout).expect("text")
}

/// A node is told of those it has a wire to, with who lives there, and of a hub's sites where it may ask it for them; of nobody else.
#[test]
fn hosts_are_neighbours() {
    let host = house();
    let hosts = |node: &str| host.wire(&["render", "hosts", node]).expect(0).stdout;
    assert_eq!(
        hosts("blog"),
        "172.16.1.0 web blog.example.org www.example.org\n10.254.1.1 db cache\nfd00:1::1 db cache\n"
    );
    assert_eq!(hosts("shop"), "172.16.2.0 web\n");
    assert_eq!(hosts("cache"), "10.254.1.0 blog\nfd00:1:: blog\n");
    assert_eq!(hosts("host"), "192.168.101.1 vpn\n192.168.102.1 web\n");
    let json = host.wire(&["--json", "render", "hosts", "shop"]).expect(0).json();
    assert_eq!(json, serde_json::json!({ "hosts": [{ "address": "172.16.2.0", "names": ["web"] }] }));
    assert!(host.wire(&["render", "hosts", "blig"]).expect(2).stderr.contains("did you mean `blog`?"));
    assert!(host.wire(&["render", "wireguard", "laptop"]).expect(2).stderr.contains("no peer `laptop`"));
}
