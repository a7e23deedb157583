//! A certificate and its key: read from PEM, known to belong together, and until when it holds.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls;

use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

/// What a handshake is answered with, and when it holds.
#[derive(Clone, Debug)]
pub struct Pair {
    pub key: Arc<CertifiedKey>,
    pub from: Moment,
    pub until: Moment,
}

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    pub fn now() -> Moment {
        Moment(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    pub fn before(self, by: Duration) -> Moment {
        Moment(self.0.saturating_sub(by.as_secs()))
    }

    pub fn after(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by.as_secs()))
    }

    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

impl fmt::Display for Moment {
    /// The day and the time of UTC, as `2027-01-31 12:30 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (days, minutes) = (self.0 / 86_400, self.0 % 86_400 / 60);
        // The civil calendar counts in spans of 400 years from a first of March.
        let shifted = days + 719_468;
        let (span, day) = (shifted / 146_097, shifted % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day_of_month = day - (153 * month + 2) / 5 + 1;
        let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = span * 400 + year + late;
        write!(f, "{year:04}-{month:02}-{day_of_month:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
    }
}

impl Pair {
    /// Of a chain, the host's own certificate first, and its key. `Err` says what is wrong with them.
    pub fn of(chain: &[u8], key: &[u8]) -> Result<Pair, String> {
        let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| "the certificate is no whole PEM")?;
        if chain.is_empty() {
            return Err("there is no certificate in it".into());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the key is no whole PEM of a private key")?;
        Pair::of_der(chain, key)
    }

    pub fn of_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Pair, String> {
        let (from, until) = match chain.first().map(|own| x509_parser::parse_x509_certificate(own)) {
            Some(Ok((_, own))) => {
                let moment =
                    |time: x509_parser::time::ASN1Time| Moment(time.timestamp().try_into().unwrap_or_default());
                (moment(own.validity().not_before), moment(own.validity().not_after))
            }
            _ => return Err("the certificate is none that can be read".into()),
        };
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
            rustls::Error::InvalidCertificate(_) => "the certificate is none that can be used".to_owned(),
            _ => "the key is of no kind that is known: RSA, ECDSA and Ed25519 are".to_owned(),
        })?;
        Ok(Pair { key: Arc::new(key), from, until })
    }

    /// Whether it is for this host.
    pub fn names(&self, host: &str) -> bool {
        let (Ok(own), Ok(name)) = (self.key.end_entity_cert(), ServerName::try_from(host)) else { return false };
        ParsedCertificate::try_from(own).is_ok_and(|own| verify_server_name(&own, &name).is_ok())
    }

    /// Why clients will not like it, whatever else is right with it.
    pub fn complaint(&self, host: &str, now: Moment) -> Option<String> {
        if self.until < now {
            Some(format!("it held until {}", self.until))
        } else if self.from > now {
            Some(format!("it holds from {} on", self.from))
        } else if !self.names(host) {
            Some(format!("it is not for {host}"))
        } else {
            None
        }
    }

    /// When it is to be replaced: with a third of its time left.
    pub fn due(&self) -> Moment {
        self.until.before(self.until.since(self.from) / 3)
    }
}
