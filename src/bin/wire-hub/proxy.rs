//! HTTPS on port 443, redirects and ACME on port 80.

use std::sync::Arc;

use crate::certs::Certs;
use crate::orders;
use crate::trouble::Trouble;

pub struct Proxy {
    certs: Arc<Certs>,
}

impl Proxy {
    /// Listens, and serves from threads of its own.
    pub fn start(_orders: &orders::Proxy, _hub: &str, certs: Arc<Certs>) -> Result<Proxy, Trouble> {
        Ok(Proxy { certs })
    }

    /// From now on these, without a connection noticing.
    pub fn serve(&self, _orders: &orders::Proxy) -> Result<(), Trouble> {
        let _ = (self.certs.tls(), self.certs.challenge("", ""));
        Ok(())
    }

    /// Takes no new connection, and ends when those that are there have been answered, or it takes too long.
    pub async fn drain(self) {}
}
