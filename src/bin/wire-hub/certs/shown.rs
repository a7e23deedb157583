//! What handshakes are answered with, by the server name that the client asks for: the host's certificate, and while ACME looks,
//! the certificate of its challenge. A name that is not here gets no handshake. Every thread of the proxy reads it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio_rustls::rustls;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The protocol that ACME's tls-alpn-01 speaks (RFC 8737).
pub const ACME: &[u8] = b"acme-tls/1";

#[derive(Default)]
pub struct Shown {
    hosts: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    challenged: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    /// By token, the host that it was made for and what to say.
    tokens: RwLock<HashMap<String, (String, String)>>,
}

impl Shown {
    pub fn show(&self, host: &str, key: Arc<CertifiedKey>) {
        write(&self.hosts).insert(host.to_owned(), key);
    }

    /// Only these from now on.
    pub fn keep(&self, wanted: impl Fn(&str) -> bool) {
        write(&self.hosts).retain(|host, _| wanted(host));
    }

    pub fn has(&self, host: &str) -> bool {
        read(&self.hosts).contains_key(host)
    }

    /// What http-01 is to be told. A port may stand behind the host, as clients send it.
    pub fn told(&self, host: &str, token: &str) -> Option<String> {
        let host = host.split(':').next().unwrap_or_default();
        let tokens = read(&self.tokens);
        tokens.get(token).filter(|(of, _)| of.eq_ignore_ascii_case(host)).map(|(_, answer)| answer.clone())
    }

    /// Answers an http-01 challenge as long as the value lives.
    pub fn tell(self: &Arc<Self>, host: &str, token: &str, answer: &str) -> Challenge {
        write(&self.tokens).insert(token.to_owned(), (host.to_owned(), answer.to_owned()));
        Challenge { shown: self.clone(), host: None, token: Some(token.to_owned()) }
    }

    /// Answers a tls-alpn-01 challenge as long as the value lives.
    pub fn challenge(self: &Arc<Self>, host: &str, key: Arc<CertifiedKey>) -> Challenge {
        write(&self.challenged).insert(host.to_owned(), key);
        Challenge { shown: self.clone(), host: Some(host.to_owned()), token: None }
    }
}

/// A challenge of ACME that is being answered.
pub struct Challenge {
    shown: Arc<Shown>,
    host: Option<String>,
    token: Option<String>,
}

impl Drop for Challenge {
    fn drop(&mut self) {
        if let Some(host) = &self.host {
            write(&self.shown.challenged).remove(host);
        }
        if let Some(token) = &self.token {
            write(&self.shown.tokens).remove(token);
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name()?;
        // Whoever speaks it speaks nothing else, and sees no site.
        let from = match hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == ACME)) {
            true => &self.challenged,
            false => &self.hosts,
        };
        read(from).get(host).cloned()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(read(&self.hosts).keys()).finish()
    }
}

/// Nothing panics while it writes, so that a lock that says so is right all the same.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
