//! The proxy of a hub beside nginx and Caddy: the same certificate, the same upstream, the same headers, a line of an access log
//! for every request, on all processors of one machine. In each round each of them has a turn of each load, so that a slow
//! moment is felt by all; what is compared are the ratios within a round.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::host::PretendHost;
use crate::{Options, Result, WORK, median};

const HOST: &str = "bench.example";
/// Who answers behind all of them.
const UPSTREAM: u16 = 8080;
/// Seconds of one turn.
const TURN: &str = "3";

/// Who is measured, and where each listens.
pub const PROXIES: [(&str, u16); 3] = [("wire-hub", 443), ("nginx", 9443), ("caddy", 10443)];

/// What is asked of each.
pub const LOADS: [&str; 5] = ["h1, 1 KiB", "h2, 1 KiB", "h1, 1 MiB", "h2, 1 MiB", "handshakes"];

/// What each proxy did.
#[derive(Default)]
pub struct Proxied {
    pub name: &'static str,
    /// For each load what each round had a second.
    pub rates: [Vec<f64>; LOADS.len()],
    /// The same in milliseconds, that one of a hundred took longer than; HTTP/1.1 alone.
    pub slowest: [Vec<f64>; LOADS.len()],
    /// KiB, all its processes: before anything was asked, and the most that was seen between two turns.
    pub idle: u64,
    pub loaded: u64,
}

/// How often the first had so much as the second.
pub fn ratio(of: &[f64], to: &[f64]) -> Option<f64> {
    median(of.iter().zip(to).map(|(a, b)| a / b).collect())
}

pub fn measure(_pretend: &PretendHost, options: &Options) -> Result<Vec<Proxied>> {
    prepare()?;
    let mut running = Vec::new();
    start(&mut running, Command::new("nginx").args(["-c", &path("upstream.conf"), "-g", "daemon off;"]))?;
    running.push(hub(&options.hub)?);
    start(&mut running, Command::new("nginx").args(["-c", &path("nginx.conf"), "-g", "daemon off;"]))?;
    let caddy = ["run", "--config", &path("Caddyfile"), "--adapter", "caddyfile"];
    start(&mut running, Command::new("caddy").args(caddy).env("HOME", WORK).env("XDG_DATA_HOME", WORK))?;
    for (name, port) in PROXIES {
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(format!("{name} does not listen").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let mut proxied = PROXIES.map(|(name, _)| Proxied { name, ..Proxied::default() });
    for (one, child) in proxied.iter_mut().zip(&running[1..]) {
        one.idle = resident(child.0.id())?;
    }
    let rounds = options.repeat.unwrap_or(5);
    for round in 1..=rounds {
        eprintln!("bench: proxy, round {round} of {rounds}");
        for load in 0..LOADS.len() {
            for ((one, child), (_, port)) in proxied.iter_mut().zip(&running[1..]).zip(PROXIES) {
                let (rate, slowest) = turn(load, port)?;
                one.rates[load].push(rate);
                one.slowest[load].extend(slowest);
                one.loaded = one.loaded.max(resident(child.0.id())?);
            }
        }
    }
    Ok(proxied.into())
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A master of workers tells them only if it is asked kindly.
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn path(name: &str) -> String {
    format!("{WORK}/{name}")
}

/// The files that all of them need.
fn prepare() -> Result<()> {
    let (none, flags) = (None::<&str>, MsFlags::empty());
    mount(Some("tmpfs"), "/var/log", Some("tmpfs"), flags, none)?;
    for dir in ["/var/log/wire", "/var/log/nginx"] {
        fs::create_dir(dir)?;
    }
    let hosts = path("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost {HOST}\n"))?;
    mount(Some(hosts.as_str()), "/etc/hosts", none, MsFlags::MS_BIND, none)?;

    let www = path("www");
    fs::create_dir(&www)?;
    fs::write(format!("{www}/small"), vec![b'x'; 1 << 10])?;
    fs::write(format!("{www}/large"), vec![b'x'; 1 << 20])?;
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '))
        .args(["-subj", "/CN=bench", "-addext", &format!("subjectAltName=DNS:{HOST}")])
        .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
        .stderr(Stdio::null())
        .status()?;
    if !made.success() {
        return Err("openssl makes no certificate".into());
    }
    let common = "events { worker_connections 8192; } worker_rlimit_nofile 20000;";
    fs::write(
        path("upstream.conf"),
        format!(
            "user root; worker_processes 1; pid {WORK}/upstream.pid; error_log stderr crit; {common}
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000;
               server {{ listen 127.0.0.1:{UPSTREAM}; root {www}; open_file_cache max=10; }} }}"
        ),
    )?;
    fs::write(path("nginx.conf"), nginx(common))?;
    fs::write(path("Caddyfile"), caddy())?;
    fs::write(path("orders"), orders().to_string())?;
    Ok(())
}

fn orders() -> serde_json::Value {
    let site = json!({
        "host": HOST, "path": null, "headers": {}, "rate": null, "body": null,
        "methods": ["GET", "HEAD", "POST"],
        "tls": { "files": { "cert": path("cert.pem"), "key": path("key.pem") } },
        "upstream": { "node": "web", "address": "127.0.0.1", "port": UPSTREAM },
    });
    let acme = json!({ "contact": null, "directory": "", "ca": null });
    json!({ "hub": "bench", "tunnel": null,
        "proxy": { "sites": [site], "redirects": [], "acme": acme, "nameservers": [] } })
}

/// What `wire-hub` does by itself, said to nginx.
fn nginx(common: &str) -> String {
    let (_, port) = PROXIES[1];
    let log = r#"{"ts":"$time_iso8601","client":"$remote_addr","status":$status,"bytes":$body_bytes_sent,"seconds":$request_time,"protocol":"$server_protocol","method":"$request_method","host":"$host","path":"$uri","referer":"$http_referer","user-agent":"$http_user_agent"}"#;
    format!(
        r#"user root; worker_processes auto; pid {WORK}/nginx.pid; error_log stderr crit; {common}
        http {{
          log_format line escape=json '{log}'; access_log /var/log/nginx/access.log line;
          keepalive_requests 10000000; server_tokens off;
          upstream web {{ server 127.0.0.1:{UPSTREAM}; keepalive 64; keepalive_requests 10000000; }}
          server {{
            listen {port} ssl http2; server_name {HOST};
            ssl_certificate {WORK}/cert.pem; ssl_certificate_key {WORK}/key.pem;
            ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;
            add_header Strict-Transport-Security max-age=63072000; add_header X-Content-Type-Options nosniff;
            add_header X-Frame-Options DENY; add_header Referrer-Policy strict-origin-when-cross-origin;
            add_header Permissions-Policy "camera=(), microphone=(), geolocation=()";
            if ($request_method !~ ^(GET|HEAD|POST)$) {{ return 405; }}
            location / {{
              proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
              proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-Host $host;
              proxy_set_header X-Forwarded-Port 443; proxy_set_header X-Real-IP $remote_addr;
            }}
          }}
        }}"#
    )
}

/// And to Caddy.
fn caddy() -> String {
    let (_, port) = PROXIES[2];
    format!(
        "{{
\tadmin off
\tauto_https off
\tservers {{
\t\tstrict_sni_host
\t}}
}}
https://{HOST}:{port} {{
\ttls {WORK}/cert.pem {WORK}/key.pem
\tlog {{
\t\toutput file /var/log/caddy.log
\t}}
\theader {{
\t\tStrict-Transport-Security max-age=63072000
\t\tX-Content-Type-Options nosniff
\t\tX-Frame-Options DENY
\t\tReferrer-Policy strict-origin-when-cross-origin
\t\tPermissions-Policy \"camera=(), microphone=(), geolocation=()\"
\t}}
\t@other not method GET HEAD POST
\trespond @other 405
\treverse_proxy 127.0.0.1:{UPSTREAM}
}}
"
    )
}

fn start(running: &mut Vec<Running>, command: &mut Command) -> Result<()> {
    let said = fs::File::create(path("said"))?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn();
    running.push(Running(child.map_err(|error| format!("{}: {error}", command.get_program().display()))?));
    Ok(())
}

/// As `wire hub` starts it: orders on standard input, and a socket that is never asked.
fn hub(program: &Path) -> Result<Running> {
    let door = UnixListener::bind(path("hub.sock"))?;
    let script = format!("exec 3<&0 <{WORK}/orders {}", program.display());
    let child = Command::new("sh").args(["-c", &script]).stdin(OwnedFd::from(door)).spawn()?;
    Ok(Running(child))
}

/// One load for one of them: what it did a second, and for HTTP/1.1 its slowest hundredth.
fn turn(load: usize, port: u16) -> Result<(f64, Option<f64>)> {
    let url = |file: &str| format!("https://{HOST}:{port}/{file}");
    let duration = format!("-d{TURN}s");
    let wrk =
        |rest: &[&str], file: &str| said("wrk", &[&["-t2", &duration, "--latency"], rest, &[&url(file)]].concat());
    let h2load = |rest: &[&str], file: &str| said("h2load", &[&["-D", TURN], rest, &[&url(file)]].concat());
    let text = match load {
        0 => wrk(&["-c64"], "small")?,
        1 => h2load(&["-c16", "-m10"], "small")?,
        2 => wrk(&["-c16"], "large")?,
        3 => h2load(&["-c16", "-m4"], "large")?,
        _ => wrk(&["-c32", "-H", "Connection: close"], "small")?,
    };
    if text.contains("Non-2xx") || text.contains("errored") && !text.contains(" 0 failed, 0 errored, 0 timeout") {
        return Err(format!("not every request was answered:\n{text}").into());
    }
    let after = |mark: &str, place: usize| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(mark));
        line.and_then(|line| line.split_whitespace().nth(place)).map(|word| word.trim_end_matches(',').to_owned())
    };
    let rate = after("Requests/sec:", 1).or_else(|| after("finished in", 3)).ok_or_else(|| text.clone())?;
    let slowest = after("99%", 1).and_then(|word| milliseconds(&word));
    Ok((rate.parse()?, slowest))
}

fn milliseconds(word: &str) -> Option<f64> {
    let unit = word.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = word[..unit].parse().ok()?;
    match &word[unit..] {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        _ => None,
    }
}

fn said(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{program}: {text}").into()) }
}

/// KiB of a process and its children.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    let own: u64 = line.trim().trim_end_matches(" kB").parse()?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().try_fold(own, |sum, child| Ok(sum + resident(child.parse()?)?))
}
