//! The headers of requests and answers on their way through.

use hyper::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

use super::serving::Look;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Those that say who asks, for what, or how it came here: only this proxy knows. (And `Proxy`, which CGI would take for a
/// setting.)
const SAYS_WHO: [&str; 14] = [
    "forwarded",
    "via",
    "proxy",
    "true-client-ip",
    "client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-url",
    "x-original-host",
    "x-original-forwarded-for",
    "x-rewrite-url",
    "x-host",
];

/// Those that concern one connection.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Whether a client's header would tell the upstream who asks. A name with `_` is the same as one with `-` to some upstreams.
fn says_who(name: &str) -> bool {
    name.starts_with("x-forwarded") || name == "x-real-ip" || SAYS_WHO.contains(&name) || name.contains('_')
}

/// Removes what concerns one connection: the usual ones and those that `Connection` names.
fn strip(headers: &mut HeaderMap, also: impl Fn(&HeaderName) -> bool) {
    let mut removed: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        let names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        // What a connection is for can be none of its own.
        let named = names.filter_map(|name| HeaderName::from_bytes(name).ok());
        removed.extend(named.filter(|name| {
            !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::CONNECTION) && headers.contains_key(name)
        }));
    }
    removed.extend(headers.keys().filter(|name| is_hop_by_hop(name) || also(name)).cloned());
    for name in removed {
        headers.remove(name);
    }
}

/// Who asks.
pub struct Asks<'a> {
    pub client: &'a HeaderValue,
    pub host: HeaderValue,
}

/// Makes a client's headers those of the request to the upstream.
pub fn request(headers: &mut HeaderMap, asks: Asks) {
    let expect = header::EXPECT;
    strip(headers, |name| *name == expect || *name == header::HOST || says_who(name.as_str()));
    join_cookies(headers);
    headers.insert(header::HOST, asks.host.clone());
    headers.insert(FORWARDED_FOR, asks.client.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(FORWARDED_HOST, asks.host);
    headers.insert(FORWARDED_PORT, HeaderValue::from_static("443"));
    headers.insert(REAL_IP, asks.client.clone());
}

/// HTTP/2 may send cookies one by one; HTTP/1.1 has one line of them.
fn join_cookies(headers: &mut HeaderMap) {
    if let Entry::Occupied(mut entry) = headers.entry(header::COOKIE)
        && entry.iter().nth(1).is_some()
    {
        let whole = entry.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
        if let Ok(whole) = HeaderValue::from_bytes(&whole) {
            entry.insert(whole);
        }
    }
}

/// Makes an upstream's headers those of the answer to the client.
pub fn answer(headers: &mut HeaderMap, look: &Look) {
    strip(headers, |name| *name == header::SERVER);
    dress(headers, look);
}

/// The headers of a site or a redirect.
pub fn dress(headers: &mut HeaderMap, look: &Look) {
    headers.reserve(look.usual.len() + look.fixed.len() + 1);
    for (name, value) in &look.usual {
        if let Entry::Vacant(entry) = headers.entry(name) {
            entry.insert(value.clone());
        }
    }
    for (name, value) in &look.fixed {
        headers.insert(name, value.clone());
    }
    for name in &look.removed {
        headers.remove(name);
    }
}

/// Whether a request asks for a WebSocket, the only thing that a connection may become.
pub fn wants_websocket(headers: &HeaderMap) -> bool {
    let says = |name, token: &str| {
        let mut tokens = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        tokens.any(|one| one.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    let one = |name| headers.get_all(name).iter().count() == 1;
    one(header::UPGRADE) && says(header::UPGRADE, "websocket") && says(header::CONNECTION, "upgrade")
}

/// Asks the upstream for a WebSocket, or tells the client that it is one.
pub fn websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

#[cfg(test)]
mod tests {
    use super::super::serving::tests::{proxy, site};
    use super::super::serving::{Does, Serving};
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn append(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_client_says_nothing_of_who_it_is_or_of_the_connection() {
        let mut headers = append(&[
            ("host", "a.example"),
            ("connection", "keep-alive, X-Secret , host"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("proxy-connection", "close"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-server", "x"),
            ("x-real-ip", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("via", "1.1 x"),
            ("proxy", "http://x"),
            ("expect", "100-continue"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("accept", "*/*"),
            ("content-length", "0"),
        ]);
        let client = HeaderValue::from_static("192.0.2.9");
        request(&mut headers, Asks { client: &client, host: HeaderValue::from_static("a.example") });
        let wanted = map(&[
            ("host", "a.example"),
            ("cookie", "a=1; b=2"),
            ("accept", "*/*"),
            ("content-length", "0"),
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "192.0.2.9"),
        ]);
        assert_eq!(headers, wanted);
    }

    #[test]
    fn an_upstream_s_own_value_stays_where_the_file_says_nothing() {
        let mut site = site("a.example", None, "web");
        site.headers = [("Referrer-Policy", "no-referrer"), ("X-Powered-By", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let serving = Serving::new(&proxy(vec![site]), None).unwrap();
        let Does::Serve(sites) = &serving.host("a.example").unwrap().does else { panic!("a site") };
        let mut headers = map(&[
            ("server", "nginx"),
            ("x-frame-options", "SAMEORIGIN"),
            ("referrer-policy", "unsafe-url"),
            ("x-powered-by", "php"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
        ]);
        answer(&mut headers, &sites[0].look);
        assert_eq!(headers["x-frame-options"], "SAMEORIGIN");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["strict-transport-security"], "max-age=63072000");
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn only_websockets_are_upgrades() {
        let asks = |upgrade: &[&str], connection: &str| {
            let mut headers = map(&[("connection", connection)]);
            for one in upgrade {
                headers.append("upgrade", one.parse().unwrap());
            }
            wants_websocket(&headers)
        };
        assert!(asks(&["WebSocket"], "keep-alive, Upgrade"));
        assert!(!asks(&["h2c"], "upgrade") && !asks(&["websocket"], "keep-alive") && !asks(&[], "upgrade"));
        assert!(!asks(&["websocket", "h2c"], "upgrade"));
    }
}
