//! Certificates of an ACME directory (RFC 8555).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::shown::Shown;
use crate::orders::Proxy;
use crate::voice;

pub struct Acme {
    _directory: PathBuf,
    _shown: Arc<Shown>,
}

impl Acme {
    pub fn new(directory: PathBuf, shown: Arc<Shown>) -> Acme {
        Acme { _directory: directory, _shown: shown }
    }

    /// From now on for these hosts.
    pub fn serve(&mut self, hosts: BTreeSet<String>, _orders: &Proxy) {
        for host in hosts {
            voice::error(&format!("certificate of {host}: ACME is not there yet; no handshake for it"));
        }
    }
}
