//! HTTPS to an ACME directory: one connection for each of the few requests that it takes, and nothing but what the directory's
//! own certificate proves.

use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use super::super::pair::Moment;
use super::super::shelf;
use super::names;
use crate::trouble::{Context, Trouble};

/// A request and its answer take no longer, and reaching an address no longer than the second.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// No answer is larger, in bytes.
const LARGEST: usize = 1 << 20;

#[derive(Clone)]
pub struct Https {
    tls: Arc<ClientConfig>,
    nameservers: Vec<IpAddr>,
    later: Arc<Mutex<Option<Moment>>>,
}

impl Https {
    /// `ca`: a PEM file of who signed the directory's certificate; else whoever browsers trust.
    pub fn new(ca: Option<&Path>, nameservers: &[IpAddr]) -> Result<Https, Trouble> {
        let mut roots = RootCertStore::empty();
        match ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                let bad = |why| Trouble(format!("who may sign for it cannot be told: {} {why}", path.display()));
                for one in CertificateDer::pem_slice_iter(&shelf::read(path)?) {
                    let one = one.map_err(|_| bad("is no whole PEM"))?;
                    roots.add(one).map_err(|_| bad("holds a certificate that cannot be read"))?;
                }
                if roots.is_empty() {
                    return Err(bad("holds no certificate"));
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(&[&TLS13, &TLS12]).context("cannot set up TLS")?;
        let tls = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        Ok(Https { tls, nameservers: nameservers.to_owned(), later: Arc::default() })
    }

    /// When it may be asked again, after it has said that this was too much.
    pub fn later(&self) -> Option<Moment> {
        *self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Trouble> {
        let uri = request.uri().clone();
        let host = uri.host().unwrap_or_default().to_owned();
        match timeout(PATIENCE, self.fetch(request, &uri, &host)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(Trouble(format!("{host} does not answer within {} seconds", PATIENCE.as_secs()))),
        }
    }

    async fn fetch(
        &self,
        request: Request<BodyWrapper<Bytes>>,
        uri: &Uri,
        host: &str,
    ) -> Result<BytesResponse, Trouble> {
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(Trouble(format!("{uri} is not HTTPS")));
        }
        let stream = self.connect(host, uri.port_u16().unwrap_or(443)).await?;
        // An IPv6 address stands in brackets.
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| Trouble(format!("{host} is no name of a server")))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let stream = stream.context(format!("TLS with {host} fails"))?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.context(format!("{host} does not speak HTTP"))?;
        let answered = async {
            let answer =
                sender.send_request(relative(request, uri)?).await.context(format!("{host} does not answer"))?;
            self.note(&answer);
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|_| Trouble(format!("{host} does not end its answer")))?.to_bytes();
            Ok(BytesResponse::from(Response::from_parts(head, Full::new(body))))
        };
        tokio::pin!(answered);
        // The connection does the work while the answer is waited for.
        tokio::select! {
            answer = &mut answered => answer,
            _ = connection => answered.await,
        }
    }

    /// The first address that takes a connection.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Trouble> {
        let mut last = Trouble(format!("{host} has no address"));
        for address in names::addresses(host, &self.nameservers).await? {
            let tried = || format!("cannot reach {host} at {address}");
            match timeout(CONNECT, TcpStream::connect((address, port))).await {
                Ok(connected) => match connected.context(tried()) {
                    Ok(stream) => return Ok(stream),
                    Err(trouble) => last = trouble,
                },
                Err(_) => last = Trouble(format!("{}: no answer", tried())),
            }
        }
        Err(last)
    }

    /// Remembers what a server that has enough says of when it may be asked again.
    fn note<T>(&self, answer: &Response<T>) {
        if !matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let value = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let when = value.and_then(|value| moment(value, Moment::now()));
        *self.later.lock().unwrap_or_else(PoisonError::into_inner) = when;
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = self.clone().ask(request);
        Box::pin(async move { asked.await.map_err(|trouble| Error::Other(Box::new(trouble))) })
    }
}

/// A request as servers want it: the host apart from the path.
fn relative(mut request: Request<BodyWrapper<Bytes>>, uri: &Uri) -> Result<Request<BodyWrapper<Bytes>>, Trouble> {
    let host = uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let host = host.and_then(Result::ok).ok_or_else(|| Trouble(format!("{uri} has no host")))?;
    request.headers_mut().insert(HOST, host);
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok(request)
}

/// When a `Retry-After` ends: it is a number of seconds, or a date.
fn moment(value: &str, now: Moment) -> Option<Moment> {
    match value.trim().parse() {
        Ok(seconds) => Some(now.after(Duration::from_secs(seconds))),
        Err(_) => {
            let date = httpdate::parse_http_date(value.trim()).ok()?;
            Some(Moment(date.duration_since(UNIX_EPOCH).ok()?.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_wait_is_a_number_or_a_date() {
        let now = Moment(1_000_000_000);
        for (value, wanted) in [
            ("120", Some(1_000_000_120)),
            (" 0 ", Some(1_000_000_000)),
            ("Sun, 09 Sep 2001 01:46:41 GMT", Some(1_000_000_001)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(moment(value, now), wanted.map(Moment), "{value}");
        }
        assert_eq!(moment(&u64::MAX.to_string(), now), Some(Moment(u64::MAX)), "for ever");
    }

    #[test]
    fn what_is_trusted_must_be_there() {
        let path = std::env::temp_dir().join(format!("wire-trusted-{}.pem", std::process::id()));
        let told = |ca| Https::new(ca, &[]).err().map(|trouble| trouble.0);
        assert_eq!(told(Some(&path)).unwrap(), format!("cannot read {}: No such file or directory", path.display()));
        for (text, wanted) in [("", "holds no certificate"), ("-----BEGIN CERTIFICATE-----\n", "is no whole PEM")] {
            std::fs::write(&path, text).unwrap();
            let wanted = format!("who may sign for it cannot be told: {} {wanted}", path.display());
            assert_eq!(told(Some(&path)).unwrap(), wanted);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(told(None), None);
    }
}
