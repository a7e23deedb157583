//! Certificates: from files, from the internal CA, from ACME.

use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;

use crate::orders::Proxy;
use crate::trouble::Trouble;

pub struct Certs {
    tls: Arc<ServerConfig>,
}

impl Certs {
    /// Loads or makes what is there at once, and keeps the rest coming from a task of the runtime that it is started in.
    pub fn start(_orders: &Proxy) -> Result<Arc<Certs>, Trouble> {
        Err(Trouble("no certificates yet".into()))
    }

    /// From now on for these.
    pub fn serve(&self, _orders: &Proxy) -> Result<(), Trouble> {
        Ok(())
    }

    /// For every handshake: a name that no site or redirect has gets none.
    pub fn tls(&self) -> Arc<ServerConfig> {
        self.tls.clone()
    }

    /// What ACME is to be told for a token of its http-01 challenge, which it asks for on port 80.
    pub fn challenge(&self, _host: &str, _token: &str) -> Option<String> {
        None
    }
}
