//! The proxy of a hub, by real clients and real upstreams: `wire-hub` in a namespace with its orders, as `wire hub` starts it.

mod load;
mod malformed;
mod patience;
mod requests;
mod websocket;

use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, Output, Running};

const HUB: &str = env!("CARGO_BIN_EXE_wire-hub");
/// Where clients find the hub.
pub const ADDRESS: &str = "198.51.100.2";

/// The programs that these tests run besides the usual ones, and the packages that bring them.
const PROGRAMS: [(&str, &str); 3] = [("curl", "curl"), ("python3", "python3"), ("h2load", "nghttp2-client")];

/// What a hub's rules do for those that find its door closed for a moment: nobody is refused, and tries again.
const PATIENT: &str = "table inet patient { chain output { type filter hook output priority 0; policy accept; \
    tcp sport { 80, 443 } tcp flags & rst == rst tcp sequence 0 drop; }; }";

/// A host with a hub's namespace `edge`, upstreams in it, and clients in the host's own.
pub struct House {
    pub host: Host,
    hub: Option<Running>,
    door: UnixListener,
    upstreams: Vec<Running>,
}

impl House {
    /// With everything but the upstreams and the proxy.
    pub fn closed() -> House {
        let host = Host::new();
        let found = |program: &str| host.run("host", &["sh", "-c", &format!("command -v {program}")]).code == 0;
        for (program, package) in PROGRAMS {
            assert!(found(program), "these tests need `{program}` of the package {package}");
        }
        host.netns(&["edge"]);
        host.sh("set -e
            mount -t tmpfs tmpfs /var/log
            mkdir -p /var/log/wire /var/lib/wire/acme /var/lib/wire/ca /run/wire-hub
            ip link add outside type veth peer name outside netns edge
            ip address add 198.51.100.1/24 dev outside
            ip address add 198.51.100.9/24 dev outside
            ip -n edge address add 198.51.100.2/24 dev outside
            ip link set outside up
            ip -n edge link set outside up
            ip -n edge link set lo up");
        host.write("/run/patient.nft", PATIENT);
        host.run("edge", &["nft", "-f", "/run/patient.nft"]).expect(0);
        host.write("/run/upstream.py", include_str!("proxy/upstream.py"));
        host.write("/run/raw.py", include_str!("proxy/raw.py"));
        host.write("/run/heard", "");
        let door = UnixListener::bind(host.path("/run/wire-hub/edge.sock")).expect("a socket");
        House { host, hub: None, door, upstreams: Vec::new() }
    }

    /// An upstream that answers with what it heard.
    pub fn upstream(&mut self, port: u16) {
        let mut upstream = self.host.start("edge", &["python3", "/run/upstream.py", "127.0.0.1", &port.to_string()]);
        let mut line = String::new();
        let out = upstream.0.stdout.as_mut().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        assert_eq!(line, "ready\n");
        self.upstreams.push(upstream);
    }

    /// Starts the hub, and waits until it listens.
    pub fn start(&mut self, sites: &Value) {
        self.start_after("true", sites);
    }

    /// The same where the shell has said something before, such as a limit.
    pub fn start_after(&mut self, before: &str, sites: &Value) {
        self.host.write("/run/orders.json", &orders(sites).to_string());
        let script = format!("{before}; exec 3<&0 </run/orders.json {HUB} 2>>/run/said");
        let mut command = self.host.command("edge", &["setpriv", "--pdeathsig", "KILL", "sh", "-c", &script]);
        let door = self.door.try_clone().expect("a descriptor");
        let child: Child = command.stdin(Stdio::from(std::os::fd::OwnedFd::from(door))).spawn().expect("a process");
        self.hub = Some(Running(child));
        let listens = || self.host.run("edge", &["ss", "-Hltn", "sport", "=", ":443"]).stdout.contains(":443");
        wait("the hub listens", listens);
    }

    /// Ends the hub as the init system does.
    pub fn stop(&mut self) {
        let mut hub = self.hub.take().expect("it runs");
        let pid = nix::unistd::Pid::from_raw(hub.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        assert!(hub.0.wait().expect("its end").success(), "{}", self.said());
    }

    /// Gives it new orders.
    pub fn serve(&self, sites: &Value) {
        let ask = json!({ "serve": orders(sites) });
        let script = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect('/run/wire-hub/edge.sock')
s.sendall(open('/run/ask', 'rb').read())
print(s.makefile().readline())";
        self.host.write("/run/ask", &format!("{ask}\n"));
        let output = self.host.run("host", &["python3", "-c", script]).expect(0);
        assert_eq!(output.json(), json!("done"), "{}", self.said());
    }

    /// What the hub has said on its standard error.
    pub fn said(&self) -> String {
        self.host.sh("cat /run/said")
    }

    /// Asks by curl for a URL, its host found at the hub.
    pub fn curl(&self, args: &[&str]) -> Output {
        let find = format!("::{ADDRESS}");
        let curl = ["curl", "-sk", "--max-time", "50", "--connect-to", &find];
        self.host.run("host", &[&curl[..], args].concat())
    }

    /// The status of an answer.
    pub fn status(&self, args: &[&str]) -> String {
        self.curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], args].concat()).stdout
    }

    /// What the upstream has heard of a request.
    pub fn heard(&self, args: &[&str]) -> Value {
        self.curl(args).expect(0).json()
    }

    /// Every request that an upstream has heard.
    pub fn all_heard(&self) -> Vec<Value> {
        let text = self.host.sh("cat /run/heard");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The lines of the access log.
    pub fn log(&self) -> Vec<Value> {
        let text = self.host.sh("cat /var/log/wire/edge.log");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// Sends bytes as they are, each over a connection of its own, and tells what came back.
    pub fn raw(&self, cases: &[Vec<u8>], alpn: &str) -> Vec<(String, Vec<u8>)> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let line = |case: &Vec<u8>| {
            format!("{}\n", json!({ "to": ADDRESS, "name": "a.example", "alpn": alpn, "hex": hex(case) }))
        };
        self.host.write("/run/cases", &cases.iter().map(line).collect::<String>());
        let output = self.host.run("host", &["sh", "-c", "python3 /run/raw.py </run/cases"]).expect(0);
        let bytes = |hex: &str| {
            let two = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
            (0..hex.len()).step_by(2).map(two).collect()
        };
        let read = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            (value["end"].as_str().expect("a text").to_owned(), bytes(value["hex"].as_str().expect("a text")))
        };
        output.stdout.lines().map(read).collect()
    }
}

/// Waits for a condition.
#[track_caller]
pub fn wait(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A site with everything as usual but for what is said.
pub fn site(host: &str, port: u16, besides: Value) -> Value {
    let mut site = json!({
        "host": host, "path": null, "tls": "internal", "methods": ["GET", "HEAD", "POST"], "headers": {}, "rate": null,
        "body": null, "upstream": { "node": format!("web-{port}"), "address": "127.0.0.1", "port": port },
    });
    for (key, value) in besides.as_object().expect("a table") {
        site[key] = value.clone();
    }
    site
}

fn orders(sites: &Value) -> Value {
    let redirects = json!([{ "host": "www.a.example", "to": "https://a.example", "tls": "internal" }]);
    let acme = json!({ "contact": null, "directory": "", "ca": null });
    let proxy = json!({ "sites": sites, "redirects": redirects, "acme": acme, "nameservers": [] });
    json!({ "hub": "edge", "tunnel": null, "proxy": proxy })
}
