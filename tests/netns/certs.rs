//! Certificates of a hub's sites: from files that change, from the internal CA, and from an ACME directory, which is a real one:
//! pebble, whose certificates are short-lived where they are to be renewed, beyond the uplink.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, KeyPair};
use serde_json::{Value, json};

use crate::host::{Host, Running};
use crate::nameserver::NameServer;

/// The program that serves a hub.
const HUB: &str = env!("CARGO_BIN_EXE_wire-hub");
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Replaced files are taken within this, says the README.
const TAKEN: Duration = Duration::from_secs(10);
/// Where the directory is, and how it is set up: `TLS` and `HTTP` are where it looks, `SECONDS` how long its certificates hold.
const DIRECTORY: &str = "https://acme.example.net:14000/dir";
const PEBBLE: &str = r#"{ "pebble": {
  "listenAddress": "192.0.2.1:14000", "managementListenAddress": "192.0.2.1:15000",
  "certificate": "/run/pebble.crt", "privateKey": "/run/pebble.key",
  "httpPort": HTTP, "tlsPort": TLS, "certificateValidityPeriod": SECONDS,
  "ocspResponderURL": "", "externalAccountBindingRequired": false
} }"#;
/// It looks at once, and never takes an old look for a new one.
const PEBBLES_WAYS: [&str; 3] = ["PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_WFE_NONCEREJECT=5"];
const BLOG: &str = "blog.example.org";
const SHOP: &str = "shop.example.org";
const ZONE: &str = "blog.example.org A 192.0.2.2\nshop.example.org A 192.0.2.2\nacme.example.net A 192.0.2.1\n";

/// A host that is a hub: it serves its sites at the address of its uplink.
struct House {
    host: Host,
    hub: RefCell<Option<Running>>,
    /// As it was told last.
    orders: Value,
}

impl House {
    fn new(sites: &[(&str, Value)]) -> House {
        let host = Host::new();
        for program in ["openssl", "curl", "sslscan", "pebble"] {
            let there = host.run("host", &["sh", "-c", &format!("command -v {program}")]).code == 0;
            assert!(there, "this test needs `{program}` (`scripts/test --install` installs it)");
        }
        host.sh("for at in acme ca; do mkdir -p -m 700 /var/lib/wire/$at; done; mkdir /run/tls");
        host.sh("mount -t tmpfs tmpfs /var/log; mkdir /var/log/wire; ip -n lan link set lo up");
        let orders = json!({ "hub": "edge", "tunnel": null, "proxy": {
            "sites": sites.iter().map(|(host, tls)| site(host, tls)).collect::<Value>(),
            "redirects": [],
            "acme": { "contact": "mailto:me@example.org", "directory": DIRECTORY, "ca": "/run/tls/acme-ca.pem" },
            "nameservers": ["192.0.2.1"],
        } });
        House { host, hub: RefCell::default(), orders }
    }

    /// Starts the hub with the power that `wire hub` leaves it.
    #[track_caller]
    fn start(&self) {
        self.hub.take();
        let socket = self.host.path("/run/edge.sock");
        let _ = std::fs::remove_file(&socket);
        let socket = UnixListener::bind(socket).expect("a socket");
        self.host.write("/run/orders.json", &self.orders.to_string());
        let script = format!("exec 3<&0 </run/orders.json; exec {HUB} edge 2>>/run/edge.log");
        let power = ["setpriv", "--bounding-set", "-all,+net_bind_service", "--inh-caps", "-all", "--no-new-privs"];
        let argv = [&["setpriv", "--pdeathsig", "KILL"], &power[..], &["sh", "-c", &script]].concat();
        let mut command = self.host.command("host", &argv);
        let hub = command.stdin(Stdio::from(OwnedFd::from(socket))).stdout(Stdio::null()).spawn().expect("it starts");
        self.hub.replace(Some(Running(hub)));
        assert!(self.ask(&json!("likeness"))["likeness"].is_u64(), "{}", self.said());
    }

    /// What the hub has said.
    fn said(&self) -> String {
        std::fs::read_to_string(self.host.path("/run/edge.log")).unwrap_or_default()
    }

    #[track_caller]
    fn ask(&self, ask: &Value) -> Value {
        let mut socket = UnixStream::connect(self.host.path("/run/edge.sock")).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        writeln!(socket, "{ask}").expect("it listens");
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("`{line}`: {}", self.said()))
    }

    /// Tells the hub its orders anew.
    #[track_caller]
    fn serve(&self) {
        assert_eq!(self.ask(&json!({ "serve": self.orders })), json!("done"));
    }

    /// The certificate that a client from outside is shown, in PEM; `None` where there is no handshake.
    fn shown(&self, host: &str) -> Option<String> {
        let argv = ["openssl", "s_client", "-connect", "192.0.2.2:443", "-servername", host];
        let output = self.host.run("lan", &argv);
        let text = output.stdout;
        let (start, end) = (text.find("-----BEGIN CERTIFICATE")?, text.find("-----END CERTIFICATE-----")?);
        Some(text[start..end].to_owned() + "-----END CERTIFICATE-----\n")
    }

    /// What openssl tells of a certificate.
    #[track_caller]
    fn told(&self, certificate: &str, what: &str) -> String {
        self.host.write("/run/shown.pem", certificate);
        let argv = ["openssl", "x509", "-in", "/run/shown.pem", "-noout", what];
        self.host.run("host", &argv).expect(0).stdout.trim().to_owned()
    }

    #[track_caller]
    fn issuer(&self, host: &str) -> Option<String> {
        self.shown(host).map(|shown| self.told(&shown, "-issuer"))
    }

    #[track_caller]
    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        self.within(PATIENCE, what, &mut done);
    }

    #[track_caller]
    fn within(&self, patience: Duration, what: &str, done: &mut dyn FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < patience, "not in time: {what}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the hub has said this, from a place in what it says on.
    #[track_caller]
    fn hears(&self, from: usize, words: &str) {
        self.until(words, || self.said()[from..].contains(words));
    }

    fn mode(&self, path: &str) -> String {
        self.host.sh(&format!("stat -c %a {path}")).trim().to_owned()
    }

    /// Starts the directory. `hand`: who signs for it.
    fn pebble(&self, hand: &Hand, [http, tls, seconds]: [u32; 3]) -> Running {
        self.host.write("/run/tls/acme-ca.pem", &hand.root);
        self.host.write("/run/pebble.crt", &hand.cert);
        self.host.write("/run/pebble.key", &hand.key);
        let setup = PEBBLE.replace("HTTP", &http.to_string()).replace("TLS", &tls.to_string());
        self.host.write("/run/pebble.json", &setup.replace("SECONDS", &seconds.to_string()));
        let script = "exec pebble -config /run/pebble.json -dnsserver 192.0.2.1:53 >>/run/pebble.log 2>&1";
        let argv = [&["env"], &PEBBLES_WAYS[..], &["sh", "-c", script]].concat();
        let pebble = self.host.start("lan", &argv);
        let answers = ["curl", "-sk", "--fail", "https://192.0.2.1:14000/dir"];
        self.until("pebble answers", || self.host.run("host", &answers).code == 0);
        pebble
    }
}

/// An authority of the directory's own certificate.
struct Hand {
    root: String,
    cert: String,
    key: String,
}

fn hand() -> Hand {
    let root = rcgen::generate_simple_self_signed(["acme.example.net".to_owned()]).expect("a certificate");
    Hand { root: root.cert.pem(), cert: root.cert.pem(), key: root.signing_key.serialize_pem() }
}

fn site(host: &str, tls: &Value) -> Value {
    json!({
        "host": host, "path": null, "upstream": { "node": "web", "address": "192.0.2.1", "port": 8080 }, "tls": tls,
        "methods": ["GET", "HEAD", "POST"], "headers": {}, "rate": null, "body": null,
    })
}

fn own(host: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate")
}

/// What is asked of ACME comes, is kept for root alone, and is there again after a restart, whether ACME is or not.
#[test]
fn certificates_of_acme_come_and_are_kept() {
    let house = House::new(&[(BLOG, json!("acme")), (SHOP, json!("acme"))]);
    let names = NameServer::start(&house.host);
    names.zone(ZONE);
    let pebble = house.pebble(&hand(), [80, 443, 7_776_000]);
    house.start();
    for host in [BLOG, SHOP] {
        house.until("a certificate", || house.issuer(host).is_some_and(|issuer| issuer.contains("Pebble")));
        let shown = house.shown(host).expect("one");
        assert!(house.told(&shown, "-ext=subjectAltName").contains(host));
    }
    let kept = "/var/lib/wire/acme/acme.example.net";
    assert_eq!([house.mode("/var/lib/wire/acme"), house.mode(kept)], ["700", "700"]);
    for file in ["account.json", "blog.example.org.pem", "shop.example.org.pem"] {
        assert_eq!(house.mode(&format!("{kept}/{file}")), "600", "{file}");
    }
    assert_eq!(house.host.sh(&format!("ls {kept} | wc -l")).trim(), "3", "nothing else is left");
    let log = house.host.sh("cat /run/pebble.log");
    assert!(!log.contains("http-01") || !log.contains("failed"), "port 443 is enough:\n{log}");

    let before = [BLOG, SHOP].map(|host| house.shown(host));
    drop(pebble);
    house.start();
    assert_eq!([BLOG, SHOP].map(|host| house.shown(host)), before, "at once");
    assert_eq!(house.host.sh("grep -c 'made an account' /run/edge.log").trim(), "1");
}

/// Where port 443 cannot be seen from outside, port 80 is enough.
#[test]
fn acme_may_look_at_either_port() {
    let house = House::new(&[(BLOG, json!("acme"))]);
    let names = NameServer::start(&house.host);
    names.zone(ZONE);
    let _pebble = house.pebble(&hand(), [80, 4443, 7_776_000]);
    house.start();
    house.until("a certificate", || house.issuer(BLOG).is_some_and(|issuer| issuer.contains("Pebble")));
}

/// A certificate is renewed while the one before still holds, again and again, and no client sees the difference. Where it cannot be,
/// the last good one stays.
#[test]
fn certificates_are_renewed_in_time() {
    let house = House::new(&[(BLOG, json!("acme"))]);
    let names = NameServer::start(&house.host);
    names.zone(ZONE);
    let pebble = house.pebble(&hand(), [80, 443, 15]);
    house.start();
    house.until("a certificate", || house.shown(BLOG).is_some());
    let mut seen = vec![house.shown(BLOG).expect("one")];
    house.until("two renewals", || {
        let shown = house.shown(BLOG).unwrap_or_else(|| panic!("no handshake: {}", house.said()));
        house.host.write("/run/shown.pem", &shown);
        let holds = house.host.run("host", &["openssl", "x509", "-in", "/run/shown.pem", "-noout", "-checkend", "0"]);
        assert_eq!(holds.code, 0, "a certificate that has ended: {}", house.said());
        if seen.last() != Some(&shown) {
            seen.push(shown);
        }
        seen.len() > 2
    });
    assert!(!house.said().contains("error"), "{}", house.said());
    drop(pebble);
    house.hears(0, "Connection refused; next try in 60 seconds; the one that is there holds until ");
    assert!(house.shown(BLOG).is_some());
}

/// What goes wrong with ACME is told in a sentence with what comes next, the last good certificate stays, and what was mended is
/// tried at once when the hub is told so.
#[test]
fn acme_that_fails_is_told_and_tried_again() {
    let house = House::new(&[(BLOG, json!("acme"))]);
    let names = NameServer::start(&house.host);
    names.zone(ZONE);
    let tried = "next try in 60 seconds; no handshake for it until then";
    let [hand_of_old, hand] = [hand(), hand()];

    // Nobody there; then somebody whom the file does not trust; then one who cannot find the host.
    house.host.write("/run/tls/acme-ca.pem", &hand_of_old.root);
    house.start();
    house.hears(0, "certificate of blog.example.org: acme.example.net: cannot reach acme.example.net at 192.0.2.1: Connection refused");
    house.hears(0, tried);
    assert_eq!(house.shown(BLOG), None);
    let pebble = house.pebble(&hand, [80, 443, 7_776_000]);
    house.host.write("/run/tls/acme-ca.pem", &hand_of_old.root);
    let heard = house.said().len();
    house.serve();
    house.hears(heard, "TLS with acme.example.net fails: invalid peer certificate");
    house.host.write("/run/tls/acme-ca.pem", &hand.root);
    names.zone("acme.example.net A 192.0.2.1");
    let heard = house.said().len();
    house.serve();
    house.hears(heard, "(tls-alpn-01, port 443); ");
    house.hears(heard, "(http-01, port 80); next try in 4 minutes");
    names.zone(ZONE);
    let heard = house.said().len();
    house.serve();
    house.hears(heard, "certificate of blog.example.org: from acme.example.net, until ");
    let shown = house.shown(BLOG);
    assert!(shown.is_some());

    // A directory that has forgotten everything is told who we are, and what is there is shown meanwhile.
    drop(pebble);
    house.host.sh("rm /var/lib/wire/acme/acme.example.net/blog.example.org.pem");
    let _pebble = house.pebble(&hand, [80, 443, 7_776_000]);
    let heard = house.said().len();
    house.start();
    house.hears(heard, "made an account at acme.example.net");
    house.until("another certificate", || house.shown(BLOG).is_some_and(|now| Some(now) != shown));
}

/// Certificates are what somebody has put into files: links too, and what he puts there later; half of it changes nothing. The hub
/// reads nothing else.
#[test]
fn replaced_files_are_taken_in_time() {
    let files = |name: &str| json!({ "files": { "cert": format!("/run/tls/{name}.crt"), "key": format!("/run/tls/{name}.key") } });
    let house = House::new(&[(BLOG, files("blog")), (SHOP, files("live/shop"))]);
    let put = |house: &House, name: &str, text: &str| {
        house.host.write(&format!("{name}.new"), text);
        house.host.sh(&format!("chmod 600 {name}.new; mv {name}.new {name}"));
    };
    let [first, second] = [own(BLOG), own(BLOG)];
    let [shop, shop_later] = [own(SHOP), own(SHOP)];
    let pem = |one: &CertifiedKey<KeyPair>| one.cert.pem().replace('\r', "");
    // As certbot has it: links to files of another directory, and later to others there.
    house.host.sh("mkdir -p /run/tls/live /run/archive; ln -s ../../archive/1.crt /run/tls/live/shop.crt");
    house.host.sh("ln -s ../../archive/1.key /run/tls/live/shop.key");
    put(&house, "/run/archive/1.crt", &shop.cert.pem());
    put(&house, "/run/archive/1.key", &shop.signing_key.serialize_pem());
    house.start();
    assert_eq!([house.shown(BLOG), house.shown(SHOP)], [None, Some(pem(&shop))]);
    assert!(house.said().contains(
        "certificate of blog.example.org: cannot read /run/tls/blog.crt: No such file or directory; no handshake for it until \
         that is mended"
    ));
    put(&house, "/run/tls/blog.crt", &first.cert.pem());
    put(&house, "/run/tls/blog.key", &first.signing_key.serialize_pem());
    house.within(TAKEN, "new files", &mut || house.shown(BLOG) == Some(pem(&first)));
    put(&house, "/run/archive/2.crt", &shop_later.cert.pem());
    put(&house, "/run/archive/2.key", &shop_later.signing_key.serialize_pem());
    house.host.sh("cd /run/tls/live; ln -sf ../../archive/2.crt shop.crt; ln -sf ../../archive/2.key shop.key");
    house.within(TAKEN, "another link", &mut || house.shown(SHOP) == Some(pem(&shop_later)));
    put(&house, "/run/tls/blog.crt", &second.cert.pem());
    house.hears(0, "/run/tls/blog.crt and /run/tls/blog.key: the key is not that of the certificate; the certificate of before stays");
    assert_eq!(house.shown(BLOG), Some(pem(&first)));
    put(&house, "/run/tls/blog.key", &second.signing_key.serialize_pem());
    house.within(TAKEN, "both files", &mut || house.shown(BLOG) == Some(pem(&second)));
    put(&house, "/run/tls/blog.key", &first.signing_key.serialize_pem());
    put(&house, "/run/tls/blog.crt", &first.cert.pem());
    house.serve();
    assert_eq!(house.shown(BLOG), Some(pem(&first)), "at once when the hub is told");
    house.host.sh("chmod 644 /run/tls/blog.key; echo >>/run/tls/blog.key");
    house.hears(0, "/run/tls/blog.key can be read by others, who could pretend to be blog.example.org: `chmod o-r` it");
}

/// The internal CA's root is all that a client needs, and names that are not served get no handshake. What TLS is spoken is what
/// is sound today.
#[test]
fn handshakes_are_sound() {
    let house = House::new(&[(BLOG, json!("internal")), (SHOP, json!("internal"))]);
    house.start();
    let curl = |host: &str, more: &[&str]| {
        let (url, to) = (format!("https://{host}/"), format!("{host}:443:192.0.2.2"));
        let argv = [
            "curl",
            "-sS",
            "--http1.1",
            "-o",
            "/dev/null",
            "--cacert",
            "/var/lib/wire/ca/root.crt",
            "--resolve",
            &to,
            &url,
        ];
        house.host.run("lan", &[&argv, more].concat()).code
    };
    assert_eq!([curl(BLOG, &[]), curl(SHOP, &["--tlsv1.3"]), curl(BLOG, &["--tls-max", "1.2"])], [0, 0, 0]);
    assert_ne!(curl(BLOG, &["--tls-max", "1.1", "--ciphers", "ALL@SECLEVEL=0"]), 0);
    assert_eq!(curl("other.example.org", &[]), 35, "a name that nobody serves");
    let silent = ["openssl", "s_client", "-connect", "192.0.2.2:443", "-noservername"];
    assert!(!house.host.run("lan", &silent).stdout.contains("BEGIN CERTIFICATE"), "no name");
    assert_eq!([house.mode("/var/lib/wire/ca"), house.mode("/var/lib/wire/ca/root.key")], ["700", "600"]);
    let root = house.host.sh("cat /var/lib/wire/ca/root.crt");
    house.start();
    assert_eq!(house.host.sh("cat /var/lib/wire/ca/root.crt"), root, "it is made once");
    assert_eq!(curl(BLOG, &[]), 0);

    let scan = ["sslscan", "--no-colour", "--sni-name=blog.example.org", "192.0.2.2:443"];
    let scan = house.host.run("lan", &scan).expect(0).stdout;
    let enabled: Vec<&str> =
        scan.lines().filter(|line| line.starts_with("TLSv1") && line.ends_with("enabled")).collect();
    let enabled: Vec<&str> = enabled.iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(enabled, ["TLSv1.2", "TLSv1.3"], "{scan}");
    for line in scan.lines().filter(|line| line.starts_with("Preferred") || line.starts_with("Accepted")) {
        let sound =
            line.contains("TLS_") || line.contains("ECDHE-") && (line.contains("GCM") || line.contains("POLY1305"));
        assert!(sound, "{line}");
    }
    for line in scan.lines().filter(|line| line.contains("heartbleed")) {
        assert!(line.contains("not vulnerable"), "{line}");
    }
}
