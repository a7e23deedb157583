//! What is served, ready for use: orders as a request meets them. It never changes; new orders make another.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use crate::orders::{self, BODY, HEADERS, Rate};
use crate::trouble::{Context, Trouble};

/// What a worker serves from: counted within its own thread, so that no other thread's processor is asked at every request.
pub type Own = std::rc::Rc<std::sync::Arc<Serving>>;

#[derive(Debug)]
pub struct Serving {
    hosts: HashMap<Box<str>, Host>,
    /// Of what no site answers.
    pub usual: Look,
}

/// One name.
#[derive(Debug)]
pub struct Host {
    /// As the `Host` that the upstream sees.
    pub name: HeaderValue,
    pub does: Does,
}

#[derive(Debug)]
pub enum Does {
    /// A URL without path, and the headers that go with it.
    Redirect(Box<str>, Look),
    /// The longest path first.
    Serve(Vec<Site>),
}

#[derive(Debug)]
pub struct Site {
    /// Empty for all, else from a `/` up to no `/`.
    pub path: Box<str>,
    pub upstream: Arc<Upstream>,
    pub methods: Vec<Method>,
    pub allow: HeaderValue,
    pub look: Look,
    pub rate: Option<Rate>,
    /// The largest body, in bytes.
    pub body: u64,
    /// Tells its rate from that of others, over reloads.
    pub key: u64,
}

/// The headers of an answer.
#[derive(Debug)]
pub struct Look {
    /// Where the upstream says nothing.
    pub usual: Vec<(HeaderName, HeaderValue)>,
    /// Whatever the upstream says.
    pub fixed: Vec<(HeaderName, HeaderValue)>,
    pub removed: Vec<HeaderName>,
}

#[derive(Debug)]
pub struct Upstream {
    pub node: Box<str>,
    pub at: SocketAddr,
    /// When it was seen to fail, in milliseconds of the proxy's clock, 0 as long as it answers.
    pub failing: AtomicU64,
}

impl Serving {
    /// `before` has upstreams that are known already.
    pub fn new(orders: &orders::Proxy, before: Option<&Serving>) -> Result<Serving, Trouble> {
        let mut hosts: HashMap<Box<str>, Host> = HashMap::new();
        let named = |name: &str, does| -> Result<Host, Trouble> {
            Ok(Host { name: value(name).context(format_args!("`{name}` is no host"))?, does })
        };
        let mut upstreams: Vec<Arc<Upstream>> = before.iter().flat_map(|before| before.upstreams()).cloned().collect();
        for site in &orders.sites {
            let site_of = Site::new(site, &mut upstreams)?;
            match hosts.get_mut(&*site.host) {
                None => {
                    hosts.insert(site.host.as_str().into(), named(&site.host, Does::Serve(vec![site_of]))?);
                }
                Some(Host { does: Does::Serve(sites), .. }) => sites.push(site_of),
                Some(_) => {}
            }
        }
        for redirect in &orders.redirects {
            let does = Does::Redirect(redirect.to.trim_end_matches('/').into(), Look::new([])?);
            hosts.insert(redirect.host.as_str().into(), named(&redirect.host, does)?);
        }
        for host in hosts.values_mut() {
            if let Does::Serve(sites) = &mut host.does {
                sites.sort_by_key(|site| std::cmp::Reverse(site.path.len()));
            }
        }
        Ok(Serving { hosts, usual: Look::new([])? })
    }

    /// By a name in lower case.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.get(name)
    }

    fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let sites = self.hosts.values().flat_map(|host| match &host.does {
            Does::Serve(sites) => &sites[..],
            Does::Redirect(..) => &[],
        });
        sites.map(|site| &site.upstream)
    }
}

impl Host {
    /// Whether any of its sites is only below a path.
    pub fn has_paths(&self) -> bool {
        matches!(&self.does, Does::Serve(sites) if sites.iter().any(|site| !site.path.is_empty()))
    }
}

impl Site {
    fn new(site: &orders::Site, upstreams: &mut Vec<Arc<Upstream>>) -> Result<Site, Trouble> {
        let at = SocketAddr::new(site.upstream.address, site.upstream.port);
        let known = upstreams.iter().find(|upstream| upstream.at == at && *upstream.node == *site.upstream.node);
        let upstream = match known {
            Some(known) => known.clone(),
            None => {
                let node = site.upstream.node.as_str().into();
                upstreams.push(Arc::new(Upstream { node, at, failing: AtomicU64::new(0) }));
                upstreams[upstreams.len() - 1].clone()
            }
        };
        let method = |name: &String| Method::from_bytes(name.as_bytes()).context(format_args!("`{name}` is no method"));
        let methods = site.methods.iter().map(method).collect::<Result<Vec<_>, _>>()?;
        let allow = value(&site.methods.join(", ")).context("methods")?;
        let look = Look::new(site.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        let path: Box<str> = site.path.as_deref().unwrap_or_default().trim_end_matches('/').into();
        let mut hasher = siphasher::sip::SipHasher24::new();
        (&site.host, &path).hash(&mut hasher);
        let (rate, body) = (site.rate, site.body.unwrap_or(BODY));
        Ok(Site { path, upstream, methods, allow, look, rate, body, key: hasher.finish() })
    }
}

impl Look {
    fn new<'a>(own: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Look, Trouble> {
        let (mut fixed, mut removed) = (Vec::new(), Vec::new());
        for (name, text) in own {
            let header: HeaderName = name.parse().context(format_args!("`{name}` is no header"))?;
            match text {
                "" => removed.push(header),
                text => fixed.push((header, value(text).context(format_args!("the header `{name}`"))?)),
            }
        }
        let usual = HEADERS.map(|(name, text)| (HeaderName::from_static(name), HeaderValue::from_static(text)));
        let said = |name: &HeaderName| removed.contains(name) || fixed.iter().any(|(fixed, _)| fixed == name);
        let usual = usual.into_iter().filter(|(name, _)| !said(name)).collect();
        Ok(Look { usual, fixed, removed })
    }
}

fn value(text: &str) -> Result<HeaderValue, hyper::header::InvalidHeaderValue> {
    HeaderValue::from_str(text)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn site(host: &str, path: Option<&str>, node: &str) -> orders::Site {
        orders::Site {
            host: host.into(),
            path: path.map(str::to_owned),
            upstream: orders::Upstream { node: node.into(), address: [172, 16, 1, 1].into(), port: 80 },
            tls: orders::Tls::Internal,
            methods: ["GET", "HEAD", "POST"].map(str::to_owned).into(),
            headers: Default::default(),
            rate: None,
            body: None,
        }
    }

    pub fn proxy(sites: Vec<orders::Site>) -> orders::Proxy {
        orders::Proxy { sites, redirects: Vec::new(), acme: Default::default(), nameservers: Vec::new() }
    }

    #[test]
    fn a_site_s_own_headers_replace_the_usual_ones_and_an_empty_one_removes() {
        let look = Look::new([("X-Frame-Options", "SAMEORIGIN"), ("Referrer-Policy", "")]).unwrap();
        let usual: Vec<_> = look.usual.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(usual, ["strict-transport-security", "x-content-type-options", "permissions-policy"]);
        assert_eq!(look.fixed.len(), 1);
        assert_eq!(look.removed, ["referrer-policy"]);
        assert!(Look::new([("a b", "c")]).is_err() && Look::new([("a", "b\r\nc: d")]).is_err());
    }

    #[test]
    fn the_longest_path_is_first_and_upstreams_live_on() {
        let sites = [None, Some("/photos"), Some("/photos/raw/")].map(|path| site("a.example", path, "web"));
        let first = Serving::new(&proxy(sites.into()), None).unwrap();
        let Does::Serve(sites) = &first.host("a.example").unwrap().does else { panic!("a site") };
        assert_eq!(sites.iter().map(|site| &*site.path).collect::<Vec<_>>(), ["/photos/raw", "/photos", ""]);
        let second = Serving::new(&proxy(vec![site("b.example", None, "web")]), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(first.upstreams().next().unwrap(), second.upstreams().next().unwrap()));
    }
}
