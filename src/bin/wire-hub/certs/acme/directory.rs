//! One ACME directory: the account there, an order for a host's certificate, and what came of it on the disk. The account's key
//! and the certificates are in a directory that has the name of the directory's host.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, KeyAuthorization, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::super::pair::{Moment, Pair};
use super::super::shelf::{For, Shelf};
use super::super::shown::{Challenge, Shown};
use super::client::Https;
use crate::orders;
use crate::trouble::{Context, Trouble};
use crate::voice;

const ACCOUNT: &str = "account.json";
/// Orders under way at once.
const AT_ONCE: usize = 4;
/// ACME looks, and signs, within this.
const PATIENCE: Duration = Duration::from_secs(120);
/// What ACME calls an account that it does not know (any more).
const UNKNOWN: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// How ACME looks whether the host is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A handshake on port 443 (tls-alpn-01), which is open in any case.
    Tls,
    /// A request on port 80 (http-01).
    Http,
}

pub struct Directory {
    /// Its host.
    pub name: String,
    url: String,
    /// Who signed its certificate.
    ca: Option<PathBuf>,
    contact: Option<String>,
    nameservers: Vec<IpAddr>,
    shelf: Shelf,
    shown: Arc<Shown>,
    /// Held while an account is looked for or made.
    account: Mutex<()>,
    permits: Semaphore,
}

/// Why there is no certificate.
#[derive(Debug)]
pub struct Failure {
    pub why: String,
    /// Not to be tried before.
    pub later: Option<Moment>,
}

/// What ends an attempt.
enum End {
    /// ACME has looked and does not like what it has seen.
    Unseen(String),
    Failed(String),
    UnknownAccount,
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> End {
        End::Failed(trouble.0)
    }
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        match error {
            Error::Api(problem) if problem.r#type.as_deref() == Some(UNKNOWN) => End::UnknownAccount,
            Error::Api(problem) => End::Failed(told(&problem)),
            Error::Timeout(_) => End::Failed("it was not done in time".into()),
            Error::Json(_) => End::Failed("what it says is not ACME".into()),
            error => End::Failed(error.to_string()),
        }
    }
}

/// An account as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    contact: Option<String>,
    account: AccountCredentials,
}

impl Directory {
    pub fn open(
        state: &Path,
        acme: &orders::Acme,
        nameservers: &[IpAddr],
        shown: Arc<Shown>,
    ) -> Result<Directory, Trouble> {
        let url = acme.directory.clone();
        let host = url.parse::<hyper::Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
        // It is the name of a directory too.
        let name =
            host.filter(|host| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte)));
        let name = name.filter(|name| !name.starts_with('.'));
        let name = name.ok_or_else(|| Trouble(format!("the directory {url} is no URL of a host")))?;
        let shelf = Shelf::open(state.join(&name))?;
        let (contact, account, permits) = (acme.contact.clone(), Mutex::new(()), Semaphore::new(AT_ONCE));
        let (ca, nameservers) = (acme.ca.as_ref().map(PathBuf::from), nameservers.to_owned());
        Ok(Directory { name, url, ca, contact, nameservers, shelf, shown, account, permits })
    }

    /// The certificate of a host that is on the disk.
    pub fn kept(&self, host: &str) -> Option<Pair> {
        let kept = self.shelf.read(&file(host)).and_then(|bytes| {
            let Some(bytes) = bytes else { return Ok(None) };
            let pair = Pair::of(&bytes, &bytes).and_then(|pair| match pair.names(host) {
                true => Ok(pair),
                false => Err(format!("it is not for {host}")),
            });
            let path = self.shelf.path_of(&file(host));
            pair.map(Some).map_err(|why| Trouble(format!("{} cannot be used: {why}", path.display())))
        });
        kept.unwrap_or_else(|trouble| {
            voice::error(&format!("certificate of {host}: {trouble}; a new one is asked for"));
            None
        })
    }

    /// Gets a new one. Where ACME does not see the host in one way, it is to look in the other.
    pub async fn get(&self, host: &str, look: &mut Look) -> Result<Pair, Failure> {
        let client = Https::new(self.ca.as_deref(), &self.nameservers);
        let client = client.map_err(|trouble| Failure { why: format!("{}: {trouble}", self.name), later: None })?;
        let failure = |why: String| Failure { why: format!("{}: {why}", self.name), later: client.later() };
        let Ok(_permit) = self.permits.acquire().await else { return Err(failure("it is closed".into())) };
        let mut unseen = Vec::new();
        let mut forgotten = false;
        loop {
            match self.attempt(&client, host, *look).await {
                Ok(pair) => return Ok(pair),
                Err(End::UnknownAccount) if !forgotten => {
                    forgotten = true;
                    self.forget().await;
                }
                Err(End::UnknownAccount) => {
                    return Err(failure("it does not know the account it has just made".into()));
                }
                Err(End::Failed(why)) => return Err(failure(why)),
                Err(End::Unseen(why)) => {
                    unseen.push(format!("{why} ({})", look.name()));
                    *look = look.other();
                    if unseen.len() == 2 || client.later().is_some() {
                        return Err(failure(unseen.join("; ")));
                    }
                }
            }
        }
    }

    async fn attempt(&self, client: &Https, host: &str, look: Look) -> Result<Pair, End> {
        let account = self.account(client).await?;
        let names = [Identifier::Dns(host.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let policy = RetryPolicy::new().timeout(PATIENCE);
        // They are answered until ACME has made up its mind.
        let challenges = self.challenges(&mut order, host, look).await?;
        let mut ready = matches!(order.state().status, OrderStatus::Ready);
        if !ready {
            let polled = order.poll_ready(&policy).await;
            ready = matches!(polled, Ok(OrderStatus::Ready));
            if !ready {
                if let Some(why) = seen(&mut order).await {
                    return Err(End::Unseen(why));
                }
                polled?;
                return Err(End::Unseen("it does not say what it has seen".into()));
            }
        }
        drop(challenges);

        let key = KeyPair::generate().context("cannot make a key")?;
        let mut wanted = CertificateParams::new([host.to_owned()]).context("cannot ask")?;
        wanted.distinguished_name = DistinguishedName::new();
        let request = wanted.serialize_request(&key).context("cannot ask")?;
        order.finalize_csr(request.der()).await?;
        let chain = order.poll_certificate(&policy).await?;
        let key = key.serialize_pem();
        let pair = Pair::of(chain.as_bytes(), key.as_bytes()).map_err(End::Failed)?;
        if !pair.names(host) {
            return Err(End::Failed(format!("its certificate is not for {host}")));
        }
        // A certificate that cannot be kept is one all the same.
        if let Err(trouble) = self.shelf.put(&file(host), (key + &chain).as_bytes(), For::Owner) {
            voice::error(&format!("certificate of {host}: {trouble}; it is asked for again after a restart"));
        }
        Ok(pair)
    }

    /// Answers what ACME wants to see, and says so.
    async fn challenges(&self, order: &mut Order, host: &str, look: Look) -> Result<Vec<Challenge>, End> {
        let mut answered = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                // Of an order before this.
                AuthorizationStatus::Valid => continue,
                _ => return Err(End::Unseen("it has looked already".into())),
            }
            let offered = |look: Look| authorization.challenges.iter().any(|one| one.r#type == look.kind());
            let look = match (offered(look), offered(look.other())) {
                (true, _) => look,
                (false, true) => look.other(),
                (false, false) => return Err(End::Failed("it offers neither tls-alpn-01 nor http-01".into())),
            };
            let Some(mut challenge) = authorization.challenge(look.kind()) else { continue };
            let answer = challenge.key_authorization();
            answered.push(match look {
                Look::Tls => self.shown.challenge(host, look_here(host, &answer)?),
                Look::Http => self.shown.tell(host, &challenge.token, answer.as_str()),
            });
            challenge.set_ready().await?;
        }
        Ok(answered)
    }

    /// The account that is kept, or a new one.
    async fn account(&self, client: &Https) -> Result<Account, End> {
        let _alone = self.account.lock().await;
        let builder = || Account::builder_with_http(Box::new(client.clone()));
        let kept = self.shelf.read(ACCOUNT)?.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let contacts: Vec<&str> = self.contact.iter().map(String::as_str).collect();
        if let Some(kept) = kept.filter(|kept| kept.directory == self.url) {
            // They can be read, but not copied.
            let text = serde_json::to_vec(&kept.account).context("cannot keep the account")?;
            let account = builder().from_credentials(kept.account).await?;
            if kept.contact != self.contact {
                account.update_contacts(&contacts).await?;
                self.keep(serde_json::from_slice(&text).context("cannot keep the account")?)?;
            }
            return Ok(account);
        }
        let wanted = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder().create(&wanted, self.url.clone(), None).await?;
        self.keep(credentials)?;
        voice::say(&format!("made an account at {}, and agreed to its terms of service", self.name));
        Ok(account)
    }

    fn keep(&self, account: AccountCredentials) -> Result<(), Trouble> {
        let kept = Kept { directory: self.url.clone(), contact: self.contact.clone(), account };
        let text = serde_json::to_vec_pretty(&kept).context("cannot keep the account")?;
        self.shelf.put(ACCOUNT, &text, For::Owner)
    }

    async fn forget(&self) {
        let _alone = self.account.lock().await;
        self.shelf.remove(ACCOUNT);
    }
}

impl Look {
    fn other(self) -> Look {
        match self {
            Look::Tls => Look::Http,
            Look::Http => Look::Tls,
        }
    }

    fn kind(self) -> ChallengeType {
        match self {
            Look::Tls => ChallengeType::TlsAlpn01,
            Look::Http => ChallengeType::Http01,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Look::Tls => "tls-alpn-01, port 443",
            Look::Http => "http-01, port 80",
        }
    }
}

/// The file of a host's key and chain: one, so that they are always of one piece.
fn file(host: &str) -> String {
    format!("{host}.pem")
}

/// The certificate that tls-alpn-01 wants to see (RFC 8737). It cannot be checked as others are: what it proves is in an extension
/// that no client but ACME may overlook.
fn look_here(host: &str, answer: &KeyAuthorization) -> Result<Arc<CertifiedKey>, Trouble> {
    let tried = "cannot answer tls-alpn-01";
    let key = KeyPair::generate().context(tried)?;
    let mut wanted = CertificateParams::new([host.to_owned()]).context(tried)?;
    wanted.custom_extensions = vec![CustomExtension::new_acme_identifier(answer.digest().as_ref())];
    let own = CertificateDer::from(wanted.self_signed(&key).context(tried)?);
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into())).context(tried)?;
    Ok(Arc::new(CertifiedKey::new(vec![own], key)))
}

/// What ACME has seen that it did not like.
async fn seen(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Some(told(problem));
        }
    }
    None
}

/// A problem in one line.
fn told(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next()).filter(|kind| !kind.is_empty());
    let text = match (&problem.detail, kind) {
        (Some(detail), Some(kind)) => format!("{kind}: {detail}"),
        (Some(detail), None) => detail.clone(),
        (None, Some(kind)) => kind.to_owned(),
        (None, None) => "it refuses, and does not say why".to_owned(),
    };
    // It comes from outside, and goes to a log.
    let text: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(400).collect();
    text.trim().to_owned()
}
