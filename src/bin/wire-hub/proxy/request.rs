//! Which name and path a request is for. Whatever can be read in two ways is refused.

use std::borrow::Cow;

use hyper::header::{HOST, HeaderMap};
use hyper::{Uri, Version};

use super::serving::{Does, Host, Site};

/// More than the request itself has is a fault of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// The host that a request names, as written, with its port; in HTTP/2 by `:authority`, and `Host` only says the same.
pub fn authority<'a>(version: Version, uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Ambiguous> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().map_err(|_| Ambiguous)?),
        (Some(_), Some(_)) => return Err(Ambiguous),
    };
    match (uri.authority().map(|authority| authority.as_str()), host) {
        (Some(one), Some(other)) if !one.eq_ignore_ascii_case(other) => Err(Ambiguous),
        // HTTP/1.1 asks for the header even beside a whole URL.
        (Some(_), None) if version < Version::HTTP_2 => Err(Ambiguous),
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Err(Ambiguous),
    }
}

/// The name of an authority: letters, digits, dots and dashes, with a port or without.
pub fn name(authority: &str) -> Result<&str, Ambiguous> {
    let (name, port) = authority.split_once(':').unwrap_or((authority, "443"));
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let whole = !name.is_empty() && name.bytes().all(known);
    let numbered = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if whole && numbered { Ok(name) } else { Err(Ambiguous) }
}

/// The site of a host that a path is below: the longest that matches.
pub fn site<'a>(host: &'a Host, path: &str) -> Result<Option<&'a Site>, Ambiguous> {
    let Does::Serve(sites) = &host.does else { return Ok(None) };
    if !host.has_paths() {
        return Ok(sites.first());
    }
    let path = plain(path)?;
    let below = |site: &&Site| {
        let rest = path.strip_prefix(&*site.path);
        rest.is_some_and(|rest| site.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    };
    Ok(sites.iter().find(below))
}

/// A path as an upstream may read it: what need not be encoded is not, and slashes are one. One that climbs is refused: it
/// would leave what its site is limited to.
fn plain(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if !path.contains(['%', '\\']) && !path.contains("//") && !path.contains("/.") {
        return Ok(Cow::Borrowed(path));
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        let digits = rest.get(1..3).filter(|_| next == '%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let read = match (next, digits) {
            ('%', None) | ('\\', _) => return Err(Ambiguous),
            // A slash, a backslash or an end of a text in disguise is read by some and not by others.
            ('%', Some(b'/' | b'\\' | 0)) => return Err(Ambiguous),
            ('%', Some(byte)) if byte.is_ascii_graphic() && byte != b'%' => {
                rest = &rest[3..];
                char::from(byte)
            }
            (other, _) => {
                rest = &rest[other.len_utf8()..];
                other
            }
        };
        if !(read == '/' && plain.ends_with('/')) {
            plain.push(read);
        }
    }
    if plain.split('/').any(|part| matches!(part, "." | "..")) { Err(Ambiguous) } else { Ok(Cow::Owned(plain)) }
}

#[cfg(test)]
mod tests {
    use super::super::serving::Serving;
    use super::super::serving::tests::{proxy, site as ordered};
    use super::*;

    #[test]
    fn a_request_names_one_host() {
        let said = |version, uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            authority(version, &uri.parse().unwrap(), &headers).map(str::to_owned)
        };
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        assert_eq!(said(h1, "/", &["a.example"]).as_deref(), Ok("a.example"));
        assert_eq!(said(h1, "https://a.example/", &["A.example"]).as_deref(), Ok("a.example"));
        assert_eq!(said(h2, "https://a.example/", &[]).as_deref(), Ok("a.example"));
        assert_eq!(said(h2, "/", &["a.example"]).as_deref(), Ok("a.example"));
        for (version, uri, hosts) in [
            (h1, "/", &[][..]),
            (h1, "/", &["a.example", "a.example"]),
            (h1, "https://a.example/", &["b.example"]),
            (h1, "https://a.example/", &[]),
            (h2, "https://a.example/", &["b.example"]),
        ] {
            assert_eq!(said(version, uri, hosts), Err(Ambiguous), "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn a_host_is_a_name_and_a_port() {
        assert_eq!(name("a-1.example"), Ok("a-1.example"));
        assert_eq!(name("a.example:8443"), Ok("a.example"));
        for bad in
            ["", ":443", "a.example:", "a.example:x", "a.example:123456", "u@a.example", "a b", "[::1]", "a/b", "a\\b"]
        {
            assert_eq!(name(bad), Err(Ambiguous), "{bad}");
        }
    }

    #[test]
    fn a_path_is_below_the_longest_that_matches() {
        let sites = vec![
            ordered("a.example", None, "root"),
            ordered("a.example", Some("/photos"), "photos"),
            ordered("b.example", Some("/only"), "only"),
        ];
        let serving = Serving::new(&proxy(sites), None).unwrap();
        let found = |host: &str, path: &str| {
            let site = site(serving.host(host).unwrap(), path);
            site.map(|site| site.map(|site| site.path.to_string()))
        };
        let is = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(found("a.example", "/"), is(""));
        assert_eq!(found("a.example", "/photos"), is("/photos"));
        assert_eq!(found("a.example", "/photos/1.jpg"), is("/photos"));
        assert_eq!(found("a.example", "/photosphere"), is(""));
        assert_eq!(found("a.example", "//photos"), is("/photos"));
        assert_eq!(found("a.example", "/%70hotos/x"), is("/photos"));
        assert_eq!(found("a.example", "/a%20b"), is(""));
        assert_eq!(found("a.example", "/.well-known/x"), is(""));
        assert_eq!(found("b.example", "/"), Ok(None));
        for bad in [
            "/only/../x",
            "/only/%2e%2e/x",
            "/only/%2E./x",
            "/./only",
            "/only%2f..",
            "/only\\..",
            "/only/%zz",
            "/%5c",
            "/%00",
        ] {
            assert_eq!(found("b.example", bad), Err(Ambiguous), "{bad}");
        }
    }
}
