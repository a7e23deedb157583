//! `wire render caddy`, against what `wire hub` does: Caddy with the printed file answers the same requests the same, in the same
//! namespace and behind the same rules.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::host::{Host, Running, TOPOLOGY, WIRE};

const PATIENCE: Duration = Duration::from_secs(30);

const HOUSE: &str = r#"
version = 1
runtime = "netns"
wire = [
  { name = "host-edge", ends = ["host", "edge"], subnet = "192.168.101.0/31" },
  { name = "edge-blog", ends = ["edge", "blog"], subnet = "10.1.1.0/31", allow = ["tcp/8080", "tcp/8081"] },
  { name = "edge-shop", ends = ["edge", "shop"], subnet = "10.1.2.0/31", allow = ["tcp/8080"] },
]

[host]
uplinks = ["eth0"]

[module]
gates = ["edge"]
rooms = ["blog", "shop"]

[hub.edge]
zone = "public"

[[hub.edge.site]]
host = "blog.example.org"
to = "blog:8080"
tls = "internal"

[[hub.edge.site]]
host = "blog.example.org"
to = "shop:8080"
path = "/photos.all/"
tls = "internal"
methods = ["GET", "PUT"]
headers = { "X-Frame-Options" = "SAMEORIGIN", "Referrer-Policy" = "", "X-Own" = 'a "word" and {host} \ `' }
body = "1KB"

[[hub.edge.site]]
host = "shop.example.org"
to = "shop:8080"
path = "/till"
tls = { cert = "/run/tls/shop.crt", key = "/run/tls/shop.key" }

[[hub.edge.site]]
host = "dead.example.org"
to = "blog:8081"
tls = "internal"

[[hub.edge.redirect]]
host = "www.example.org"
to = "https://blog.example.org"
tls = "internal"
"#;

/// An upstream that says what it was asked.
const ECHO: &str = r#"
import http.server, json, socketserver, sys
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = sorted((name.lower(), value.lower()) for name, value in self.headers.items() if name.lower() != "content-length")
        text = json.dumps([sys.argv[1], self.command, self.path, said, len(body)]).encode()
        self.send_response(200)
        if "framed" in self.path:
            self.send_header("X-Frame-Options", "ALLOWALL")
            self.send_header("Referrer-Policy", "origin")
        self.send_header("X-Upstream", sys.argv[1])
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(text)
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_TRACE = answer
    def log_message(self, *_): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
Server((sys.argv[2], 8080), Echo).serve_forever()
"#;

/// What a client asks: by curl, at the host's uplink. Where a body is not wanted it speaks HTTP/1.1, for over HTTP/2 it takes the end
/// of the stream behind the answer for a fault.
const ASKED: [&[&str]; 28] = [
    &["https://blog.example.org/"],
    &["https://blog.example.org/a/b?c=d&e=%20", "-A", "me", "-H", "Cookie: a=b", "-H", "X-Mine: c"],
    &["https://blog.example.org/framed"],
    &["https://blog.example.org/", "--http1.1"],
    &["https://blog.example.org/", "-I"],
    &["https://blog.example.org/", "-d", "some=thing"],
    &["https://blog.example.org/", "-d", "some=thing", "--http1.1"],
    &["https://blog.example.org/", "-X", "PUT"],
    &["https://blog.example.org/", "-X", "DELETE", "--http1.1"],
    &["https://blog.example.org/", "-X", "TRACE"],
    // Who asks is not the client's to say.
    &[
        "https://blog.example.org/",
        "-H",
        "X-Forwarded-For: 1.2.3.4",
        "-H",
        "X-Real-IP: 1.2.3.4",
        "-H",
        "Forwarded: for=1.2.3.4",
    ],
    &["https://blog.example.org/", "-H", "X-Forwarded-Proto: http", "-H", "X_Real_IP: 1.2.3.4", "-H", "Via: 1.1 me"],
    &[
        "https://blog.example.org/",
        "-H",
        "X-Forwarded-Host: x",
        "-H",
        "X-Forwarded-Server: x",
        "-H",
        "True-Client-IP: 1.2.3.4",
    ],
    &[
        "https://blog.example.org/",
        "--http1.1",
        "-H",
        "Connection: Upgrade, X-Mine",
        "-H",
        "Upgrade: h2c",
        "-H",
        "X-Mine: c",
    ],
    &["https://blog.example.org/", "--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: WebSocket"],
    &["https://blog.example.org/photos.all"],
    &["https://blog.example.org/photos.all/a?b=c"],
    &["https://blog.example.org/photos.all/framed", "-X", "PUT"],
    &["https://blog.example.org/photos.all/", "-d", "x", "--http1.1"],
    &["https://blog.example.org/photosxall/"],
    &["https://blog.example.org/Photos.all/"],
    &["https://blog.example.org/photos.allx"],
    &["https://blog.example.org/photos.all/", "-X", "PUT", "--data-binary", "@/run/large", "--http1.1"],
    &["https://shop.example.org/till/1"],
    &["https://shop.example.org/"],
    &["https://blog.example.org/", "-H", "Host: shop.example.org"],
    &["https://www.example.org/a?b=c", "-d", "x", "--http1.1"],
    &["https://dead.example.org/"],
];
/// At port 80, and where nobody is served.
const PLAIN: [&[&str]; 5] = [
    &["http://blog.example.org/a?b=c"],
    &["http://www.example.org/", "-d", "x"],
    &["http://other.example.org/"],
    &["https://other.example.org/"],
    &["https://192.0.2.2/"],
];
/// What two servers need not agree on.
const OWN: [&str; 6] = ["date", "content-length", "content-type", "connection", "keep-alive", "transfer-encoding"];

/// What a client gets: curl's exit code and the status; the headers; what the upstream said it was asked, if it was.
type Got = (String, BTreeMap<String, String>, String);

fn ask(host: &Host, args: &[&str]) -> Got {
    let name = args[0].split('/').nth(2).expect("a host");
    let to = [443, 80].map(|port| format!("{name}:{port}:192.0.2.2"));
    let argv = ["curl", "-sk", "-m", "20", "-o", "/run/body", "-D", "/run/head", "-w", "%{exitcode} %{http_code}"];
    host.sh("rm -f /run/body /run/head; touch /run/body /run/head");
    let output = host.run("lan", &[&argv, &["--resolve", &to[0], "--resolve", &to[1]][..], args].concat());
    let head = host.sh("cat /run/head").replace('\r', "");
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let body = host.sh("cat /run/body");
    (
        output.stdout,
        headers.filter(|(name, _)| !OWN.contains(&name.as_str())).collect(),
        if body.starts_with('[') { body } else { String::new() },
    )
}

/// Waits until somebody serves.
fn served(host: &Host, by: &str) {
    let start = Instant::now();
    while ask(host, ASKED[0]).0 != "0 200" {
        assert!(
            start.elapsed() < PATIENCE,
            "{by} does not serve: {:?}\n{}",
            ask(host, ASKED[0]),
            host.sh("cat /run/*.log")
        );
    }
}

fn start(host: &Host, node: &str, script: &str) -> Running {
    let mut command = host.command(node, &["setpriv", "--pdeathsig", "KILL", "sh", "-c", script]);
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter starts"))
}

/// Every request gets the same answer, and upstreams the same request.
#[test]
fn caddy_does_the_same_as_a_hub() {
    let host = Host::with(&["blog", "shop"], HOUSE);
    for program in ["curl", "python3", "caddy", "openssl"] {
        let there = host.run("host", &["sh", "-c", &format!("command -v {program}")]).code == 0;
        assert!(there, "this test needs `{program}` (`scripts/test --install` installs it)");
    }
    host.sh("mount -t tmpfs tmpfs /var/log; mkdir /run/tls; head -c 2000 /dev/zero | tr '\\0' x >/run/large");
    let shop = rcgen::generate_simple_self_signed(["shop.example.org".to_owned()]).expect("a certificate");
    host.write("/run/tls/shop.crt", &shop.cert.pem());
    host.write("/run/tls/shop.key", &shop.signing_key.serialize_pem());
    host.sh("chmod 600 /run/tls/shop.key");
    host.write("/run/echo.py", ECHO);
    let upstream = |node, address| start(&host, node, &format!("exec python3 /run/echo.py {node} {address}"));
    host.wire(&["up"]).expect(0);
    let _upstreams = [upstream("blog", "10.1.1.1"), upstream("shop", "10.1.2.1")];

    let hub = start(&host, "host", &format!("exec {WIRE} -f {TOPOLOGY} hub edge 2>/run/hub.log"));
    served(&host, "wire-hub");
    let asked = || ASKED.iter().chain(&PLAIN);
    let by_hub: Vec<Got> = asked().map(|args| ask(&host, args)).collect();
    drop(hub);

    let file = host.wire(&["render", "caddy", "edge"]).expect(0).stdout;
    host.write("/run/Caddyfile", &file);
    let way = "XDG_DATA_HOME=/run/caddy XDG_CONFIG_HOME=/run/caddy HOME=/run/caddy";
    let caddy = "--adapter caddyfile --config /run/Caddyfile";
    host.sh(&format!("{way} caddy validate {caddy} 2>&1"));
    let said = host.sh(&format!("{way} caddy fmt /run/Caddyfile"));
    assert_eq!(said, file, "Caddy would write it otherwise");
    let _caddy = start(&host, "edge", &format!("{way} exec caddy run {caddy} >/run/caddy.log 2>&1"));
    served(&host, "Caddy");
    let mut wrong = String::new();
    for (args, by_hub) in asked().zip(&by_hub) {
        let mut by_caddy = ask(&host, args);
        // A hub that serves nothing says nothing of itself either; what Caddy adds does no harm.
        if by_hub.1.is_empty() && by_hub.0 != "0 200" && !by_caddy.1.contains_key("server") {
            by_caddy.1.clear();
        }
        if by_caddy != *by_hub {
            wrong += &format!("{args:?}\n   hub {by_hub:?}\n caddy {by_caddy:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let log = host.sh("cat /var/log/wire/edge.log");
    let line = log.lines().rev().find(|line| line.contains("/a/b?c=d")).expect("a line for each request");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["request"]["host"], &line["status"]), (&"blog.example.org".into(), &200.into()), "{line}");
    let statuses: Vec<&str> = by_hub.iter().map(|(status, ..)| status.as_str()).collect();
    assert!(
        ["0 200", "0 405", "0 413", "0 404", "0 421", "0 308", "0 502"].iter().all(|one| statuses.contains(one)),
        "{statuses:?}"
    );
}
