//! A Caddyfile that has Caddy do what `wire hub` would: for who keeps Caddy in the hub's container. What Caddy cannot do, or does in
//! a way of its own, is said in comments. It is for Caddy 2.6 and later.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;

use crate::hub::orders::{BODY, HEADERS, LOGS, Proxy, Site, Tls};

/// What every site begins with.
const COMMON: &str = r#"
	# Nobody but this proxy says who asks, and a connection becomes a WebSocket or nothing.
	request_header -Forwarded
	request_header -X-Forwarded*
	request_header -X-Real-IP
	request_header -X-Original-*
	request_header -X-Rewrite-URL
	request_header -X-Host
	request_header -X-Client-IP
	request_header -X-Cluster-Client-IP
	request_header -Client-IP
	request_header -True-Client-IP
	request_header -CF-Connecting-IP
	request_header -Fastly-Client-IP
	request_header -Via
	request_header -Proxy
	request_header -*_*
	@other {
		header Upgrade *
		not header_regexp Upgrade (?i)^websocket$
	}
	request_header @other -Upgrade
"#;

/// How an upstream is asked.
const UPSTREAM: &str = "
(upstream) {
	header_up X-Real-IP {remote_host}
	header_up X-Forwarded-Port 443
	flush_interval -1
	transport http {
		dial_timeout 5s
		response_header_timeout 30s
		compression off
		versions 1.1
	}
}
";

/// The Caddyfile of a hub.
pub fn file(hub: &str, proxy: &Proxy) -> String {
    let mut file = File(String::new());
    file.notes(hub, proxy);
    file.globals(proxy);
    file.common(hub);
    let mut hosts: Vec<&str> = Vec::new();
    for host in proxy.sites.iter().map(|site| site.host.as_str()) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    for host in &hosts {
        file.host(host, proxy.sites.iter().filter(|site| site.host == *host).collect());
    }
    for redirect in &proxy.redirects {
        file.line(0, &format!("\n{} {{", redirect.host));
        file.tls(&redirect.tls);
        file.line(1, "import common");
        file.line(1, "import answer");
        file.line(1, &format!("redir {}{{uri}} 308", redirect.to.trim_end_matches('/')));
        file.line(0, "}");
        hosts.push(&redirect.host);
    }
    let plain: Vec<String> = hosts.iter().map(|host| format!("http://{host}")).collect();
    file.line(0, "\n# Port 80 leads to HTTPS, and answers ACME by itself.");
    file.block(0, &plain.join(", "), &["header -Server", "redir https://{host}{uri} 308"]);
    file.line(0, "");
    file.block(0, "http://", &["header -Server", "respond 404"]);
    file.0
}

struct File(String);

impl File {
    fn line(&mut self, depth: usize, text: &str) {
        let indent = if text.is_empty() { "" } else { &"\t".repeat(depth) };
        // Nothing fails to be written to a string.
        let _ = writeln!(self.0, "{indent}{text}");
    }

    fn block(&mut self, depth: usize, head: &str, lines: &[&str]) {
        self.line(depth, &format!("{head} {{"));
        lines.iter().for_each(|line| self.line(depth + 1, line));
        self.line(depth, "}");
    }

    /// What is not the same.
    fn notes(&mut self, hub: &str, proxy: &Proxy) {
        self.line(0, &format!("# hub `{hub}`, by `wire render caddy`. Unlike `wire hub`, Caddy"));
        self.line(0, "# - limits neither requests nor connections of one client (the module caddy-ratelimit can)");
        self.line(0, "# - writes an access log with other keys: request.remote_ip, request.method, request.host, request.uri, status");
        if tls(proxy).any(|tls| *tls == Tls::Internal) {
            self.line(0, "# - signs `internal` sites by a CA of its own: clients must trust that root, not wire's");
        }
    }

    fn globals(&mut self, proxy: &Proxy) {
        self.line(0, "{");
        if tls(proxy).any(|tls| *tls == Tls::Acme) {
            let acme = &proxy.acme;
            if let Some(contact) = &acme.contact {
                self.line(1, &format!("email {}", word(contact.trim_start_matches("mailto:"))));
            }
            self.line(1, &format!("acme_ca {}", word(&acme.directory)));
            if let Some(ca) = &acme.ca {
                self.line(1, &format!("acme_ca_root {}", word(ca)));
            }
        }
        self.line(1, "skip_install_trust");
        self.line(1, "auto_https disable_redirects");
        self.line(1, "servers {");
        for line in ["protocols h1 h2", "strict_sni_host on", "max_header_size 32KiB"] {
            self.line(2, line);
        }
        self.block(2, "timeouts", &["read_header 10s", "idle 60s"]);
        self.line(1, "}");
        self.line(0, "}");
    }

    fn common(&mut self, hub: &str) {
        self.line(0, "\n(common) {");
        self.line(1, "log {");
        self.block(2, &format!("output file {LOGS}/{hub}.log"), &["roll_size 10MiB", "roll_keep 5"]);
        self.line(2, "format json");
        self.line(1, "}");
        self.0 += COMMON;
        self.block(1, "handle_errors", &["import answer", "respond \"{err.status_code} {err.status_text}\""]);
        self.line(0, "}");
        self.line(0, "\n(answer) {");
        self.usual(1, |_| true);
        self.block(1, "header", &["-Server", "defer"]);
        self.line(0, "}");
        self.0 += UPSTREAM;
    }

    fn tls(&mut self, tls: &Tls) {
        match tls {
            // Caddy does it by itself.
            Tls::Acme => {}
            Tls::Internal => self.line(1, "tls internal"),
            Tls::Files { cert, key } => self.line(1, &format!("tls {} {}", word(cert), word(key))),
        }
    }

    /// Headers of answers that say nothing of them themselves.
    fn usual(&mut self, depth: usize, wanted: impl Fn(&str) -> bool) {
        for (name, value) in HEADERS.iter().filter(|(name, _)| wanted(name)) {
            self.line(depth, &format!("header ?{} \"{value}\"", capital(name)));
        }
    }

    /// The headers of answers, those of the site whatever the upstream says.
    fn headers(&mut self, depth: usize, site: &Site) {
        if site.headers.is_empty() {
            return self.line(depth, "import answer");
        }
        self.usual(depth, |name| !site.headers.keys().any(|own| own.eq_ignore_ascii_case(name)));
        self.line(depth, "header {");
        self.line(depth + 1, "-Server");
        for (name, value) in &site.headers {
            match value.as_str() {
                "" => self.line(depth + 1, &format!("-{name}")),
                // There it would put in the value of a variable of its environment.
                value if value.contains("{$") => {
                    self.line(depth + 1, &format!("# Caddy cannot be told the value of {name}, which has `{{$` in it"));
                }
                // Braces are a variable's.
                value => {
                    let value = value.replace('{', "\\{").replace('}', "\\}");
                    self.line(depth + 1, &format!("{name} {}", word(&value)));
                }
            }
        }
        self.line(depth + 1, "defer");
        self.line(depth, "}");
    }

    /// One name, with all that is served below its paths: the longest comes first.
    fn host(&mut self, host: &str, mut sites: Vec<&Site>) {
        self.line(0, &format!("\n{host} {{"));
        if let Some(first) = sites.first() {
            self.tls(&first.tls);
        }
        self.line(1, "import common");
        sites.sort_by_key(|site| std::cmp::Reverse(below(site).len()));
        for (number, site) in sites.iter().enumerate() {
            let path = below(site);
            let handle = match path {
                "" => "handle {".to_owned(),
                path => {
                    self.line(1, &format!("@path{number} path_regexp {}", word(&format!("^{}(/|$)", literal(path)))));
                    format!("handle @path{number} {{")
                }
            };
            self.line(1, &handle);
            self.site(number, site);
            self.line(1, "}");
        }
        if sites.last().is_some_and(|site| !below(site).is_empty()) {
            self.block(1, "handle", &["import answer", "respond 404"]);
        }
        self.line(0, "}");
    }

    fn site(&mut self, number: usize, site: &Site) {
        if let Some(rate) = site.rate {
            let often = format!("{} in {} s, {} at once", rate.count, rate.per, rate.burst);
            self.line(2, &format!("# wire lets one client ask {often}; more gets 429"));
        }
        self.headers(2, site);
        self.line(2, &format!("@method{number} not method {}", site.methods.join(" ")));
        self.line(2, &format!("header @method{number} Allow \"{}\"", site.methods.join(", ")));
        self.line(2, &format!("respond @method{number} 405"));
        let most = site.body.unwrap_or(BODY);
        let length = "{header.Content-Length}";
        self.line(2, &format!("@large{number} expression `{length} != \"\" && int({length}) > {most}`"));
        self.line(2, &format!("respond @large{number} 413"));
        self.block(2, "request_body", &[&format!("max_size {most}")]);
        let upstream = &site.upstream;
        let address = SocketAddr::new(upstream.address, upstream.port);
        self.line(2, &format!("# {}", upstream.node));
        self.block(2, &format!("reverse_proxy {address}"), &["import upstream"]);
    }
}

fn tls(proxy: &Proxy) -> impl Iterator<Item = &Tls> {
    let redirects = proxy.redirects.iter().map(|redirect| &redirect.tls);
    proxy.sites.iter().map(|site| &site.tls).chain(redirects)
}

/// The path that a site is below; empty for all.
fn below(site: &Site) -> &str {
    site.path.as_deref().unwrap_or_default().trim_end_matches('/')
}

/// A header's name as it is usually written.
fn capital(name: &str) -> String {
    let begins = |at: usize| at == 0 || name.as_bytes().get(at - 1) == Some(&b'-');
    name.char_indices().map(|(at, c)| if begins(at) { c.to_ascii_uppercase() } else { c }).collect()
}

/// A text as a regular expression that matches nothing else.
fn literal(text: &str) -> String {
    let special: BTreeSet<char> = r"\.+*?()|[]{}^$".chars().collect();
    let escaped = |c: char| special.contains(&c).then_some('\\').into_iter().chain([c]).collect::<Vec<char>>();
    text.chars().flat_map(escaped).collect()
}

/// A text as one word of a Caddyfile. Between backticks everything stands for itself.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@^()|$".contains(c);
    if !text.is_empty() && !text.contains("{") && text.chars().all(plain) {
        text.to_owned()
    } else if text.contains(['"', '\\']) && !text.contains('`') {
        format!("`{text}`")
    } else {
        format!("\"{}\"", text.replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_word() {
        for (text, wanted) in [
            ("/etc/tls/a.crt", "/etc/tls/a.crt"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("a \"word\"", "`a \"word\"`"),
            ("back\\slash", "`back\\slash`"),
            ("a `tick`", "\"a `tick`\""),
            ("\"both\" `", "\"\\\"both\\\" `\""),
            ("{", "\"{\""),
            ("#", "\"#\""),
        ] {
            assert_eq!(word(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_path_matches_itself_alone() {
        assert_eq!(literal("/photos.all/(1)+[a]"), r"/photos\.all/\(1\)\+\[a\]");
    }
}
