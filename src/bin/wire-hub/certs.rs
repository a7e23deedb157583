//! Certificates: a stand-in until the real ones are there. Files are loaded once, all others sign themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::{Ticketer, default_provider, sign::any_supported_type};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::orders::{Proxy, Tls};
use crate::trouble::{Context, Trouble};

#[derive(Debug, Default)]
struct Names(Mutex<HashMap<String, Arc<CertifiedKey>>>);

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().ok()?.get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }
}

pub struct Certs {
    tls: Arc<ServerConfig>,
    names: Arc<Names>,
}

impl Certs {
    pub fn start(orders: &Proxy) -> Result<Arc<Certs>, Trouble> {
        let names = Arc::new(Names::default());
        let builder = ServerConfig::builder_with_provider(default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().context("tls")?;
        let mut tls = builder.with_no_client_auth().with_cert_resolver(names.clone());
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tls.ticketer = Ticketer::new().context("tls")?;
        let certs = Arc::new(Certs { tls: Arc::new(tls), names });
        certs.serve(orders)?;
        Ok(certs)
    }

    pub fn serve(&self, orders: &Proxy) -> Result<(), Trouble> {
        let mut names = HashMap::new();
        let sites = orders.sites.iter().map(|site| (&site.host, &site.tls));
        for (host, tls) in sites.chain(orders.redirects.iter().map(|redirect| (&redirect.host, &redirect.tls))) {
            let (certs, key) = match tls {
                Tls::Files { cert, key } => {
                    let certs = CertificateDer::pem_file_iter(cert).context(cert)?;
                    let certs = certs.collect::<Result<Vec<_>, _>>().context(cert)?;
                    (certs, PrivateKeyDer::from_pem_file(key).context(key)?)
                }
                _ => {
                    let made = rcgen::generate_simple_self_signed(vec![host.clone()]).context("certificate")?;
                    let key = made.signing_key.serialize_der();
                    (vec![made.cert.der().clone()], PrivateKeyDer::try_from(key).map_err(|e| Trouble(e.into()))?)
                }
            };
            let key = any_supported_type(&key).context("key")?;
            names.insert(host.clone(), Arc::new(CertifiedKey::new(certs, key)));
        }
        *self.names.0.lock().map_err(|_| Trouble("lock".into()))? = names;
        Ok(())
    }

    pub fn tls(&self) -> Arc<ServerConfig> {
        self.tls.clone()
    }

    pub fn challenge(&self, _host: &str, _token: &str) -> Option<String> {
        None
    }
}
