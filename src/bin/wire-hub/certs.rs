//! Certificates: from files, from the internal CA, from ACME. Where one cannot be had, its host gets no handshake, that is told,
//! and all others go on; one that is there is kept until there is a better.

mod acme;
mod authority;
mod files;
mod pair;
mod shelf;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio_rustls::rustls;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};

use acme::Acme;
use authority::Authority;
use files::Files;
use pair::Moment;
use shown::{ACME, Shown};

use crate::orders::{Proxy, STATE, Tls};
use crate::trouble::{Context, Trouble};
use crate::voice;

/// Files are looked at so often, and whether a certificate is to be made anew.
const REST: Duration = Duration::from_secs(4);

pub struct Certs {
    tls: Arc<ServerConfig>,
    shown: Arc<Shown>,
    kept: Mutex<Kept>,
}

/// Where each host's certificate comes from.
struct Kept {
    state: PathBuf,
    sources: BTreeMap<String, (Tls, Source)>,
    /// Opened when the first host needs it.
    authority: Option<Authority>,
    /// The last thing that was wrong with it.
    told: Option<Trouble>,
    acme: Acme,
}

enum Source {
    Files(Files),
    /// Since when it holds, and when it is to be made, or made anew.
    Internal(Moment, Moment),
    /// Has a task of its own.
    Acme,
}

impl Certs {
    /// Loads or makes what is there at once, and keeps the rest coming from a task of the runtime that it is started in.
    pub fn start(orders: &Proxy) -> Result<Arc<Certs>, Trouble> {
        Certs::start_in(Path::new(STATE), orders)
    }

    fn start_in(state: &Path, orders: &Proxy) -> Result<Arc<Certs>, Trouble> {
        let shown = Arc::new(Shown::default());
        let tls = Arc::new(tls(shown.clone())?);
        let acme = Acme::new(state.join("acme"), shown.clone());
        let (sources, authority, told) = (BTreeMap::new(), None, None);
        let kept = Mutex::new(Kept { state: state.to_owned(), sources, authority, told, acme });
        let certs = Arc::new(Certs { tls, shown, kept });
        certs.serve(orders)?;
        tokio::spawn(keep(Arc::downgrade(&certs)));
        Ok(certs)
    }

    /// From now on for these.
    pub fn serve(&self, orders: &Proxy) -> Result<(), Trouble> {
        let sites = orders.sites.iter().map(|site| (&site.host, &site.tls));
        let redirects = orders.redirects.iter().map(|redirect| (&redirect.host, &redirect.tls));
        let mut wanted = BTreeMap::new();
        for (host, tls) in sites.chain(redirects) {
            wanted.entry(host.clone()).or_insert_with(|| tls.clone());
        }
        self.shown.keep(|host| wanted.contains_key(host));
        let mut kept = self.kept();
        let by_acme = wanted.iter().filter(|(_, tls)| **tls == Tls::Acme).map(|(host, _)| host.clone());
        kept.acme.serve(by_acme.collect(), orders);
        kept.sources.retain(|host, (tls, _)| wanted.get(host) == Some(tls));
        for (host, tls) in wanted {
            let source = || match &tls {
                Tls::Files { cert, key } => Source::Files(Files::new(cert, key)),
                Tls::Internal => Source::Internal(Moment(0), Moment(0)),
                Tls::Acme => Source::Acme,
            };
            kept.sources.entry(host).or_insert_with(|| (tls.clone(), source()));
        }
        kept.look(&self.shown, true);
        Ok(())
    }

    /// For every handshake: a name that no site or redirect has gets none. A connection that has agreed on `acme-tls/1` is over
    /// with the handshake: it was ACME's look, and nothing is served on it.
    pub fn tls(&self) -> Arc<ServerConfig> {
        self.tls.clone()
    }

    /// What ACME is to be told for a token of its http-01 challenge, which it asks for on port 80.
    pub fn challenge(&self, host: &str, token: &str) -> Option<String> {
        self.shown.told(host, token)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Takes what is new. `at_once`: somebody waits to be told what is wrong.
    fn look(&mut self, shown: &Shown, at_once: bool) {
        let now = Moment::now();
        for (host, (_, source)) in &mut self.sources {
            match source {
                Source::Files(files) => {
                    if let Some(pair) = files.look(host, shown.has(host), at_once) {
                        shown.show(host, pair.key);
                    }
                }
                // A clock that was set back makes it one that does not hold yet.
                Source::Internal(from, due) if *due <= now || now < *from => {
                    let signed = match &self.authority {
                        Some(authority) => authority.sign(host, now),
                        None => Authority::open(&self.state.join("ca"))
                            .and_then(|authority| self.authority.insert(authority).sign(host, now)),
                    };
                    match signed {
                        Ok(pair) => {
                            (*from, *due) = (pair.from, pair.due());
                            shown.show(host, pair.key);
                            self.told = None;
                        }
                        Err(trouble) if self.told.as_ref() == Some(&trouble) && !at_once => {}
                        Err(trouble) => {
                            voice::error(&trouble.to_string());
                            self.told = Some(trouble);
                        }
                    }
                }
                Source::Internal(..) | Source::Acme => {}
            }
        }
    }
}

/// Looks as long as the certificates are needed.
async fn keep(certs: Weak<Certs>) {
    loop {
        tokio::time::sleep(REST).await;
        let Some(certs) = certs.upgrade() else { return };
        certs.kept().look(&certs.shown, false);
    }
}

/// TLS 1.2 and 1.3 with what of them is sound today, HTTP/2 and HTTP/1.1, and tickets for clients that come back.
fn tls(shown: Arc<Shown>) -> Result<ServerConfig, Trouble> {
    let provider = Arc::new(ring::default_provider());
    let tickets = ring::Ticketer::new().context("cannot make keys for TLS tickets")?;
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
    let mut config = config.context("cannot set up TLS")?.with_no_client_auth().with_cert_resolver(shown);
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", ACME].map(<[u8]>::to_vec).into();
    config.ticketer = tickets;
    // Clients that come back bring what is to be remembered.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
