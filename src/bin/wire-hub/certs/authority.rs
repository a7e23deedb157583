//! The internal CA: one root for all hubs of a machine, made once and kept; the certificates it signs are never on the disk and
//! are made anew in time.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::pair::{Moment, Pair};
use super::shelf::{self, For, Shelf};
use crate::trouble::{Context, Trouble};
use crate::voice;

const ROOT: &str = "root.crt";
const KEY: &str = "root.key";
const DAY: Duration = Duration::from_secs(86_400);
const ROOT_DAYS: u32 = 3_653;
const DAYS: u32 = 90;
/// Clocks of clients may be slow.
const SLACK: Duration = Duration::from_secs(3_600);
/// A machine whose clock is not set yet would make a root that has ended long since: 2026-01-01.
const LATER: Moment = Moment(1_767_225_600);
/// The longest common name (X.520).
const COMMON: usize = 64;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    until: Moment,
}

impl Authority {
    /// Opens the one of this directory, made where there is none.
    pub fn open(directory: &Path) -> Result<Authority, Trouble> {
        let shelf = Shelf::open(directory.to_owned())?;
        let key = match shelf.read(KEY)? {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().context("cannot make the key of the internal CA")?;
                shelf.add(KEY, key.serialize_pem().as_bytes(), For::Owner)?
            }
        };
        if shelf::is_everybodys(&shelf.path_of(KEY)) {
            let path = shelf.path_of(KEY);
            voice::say(&format!(
                "{} can be read by others, who could pretend to be any site: `chmod 600` it",
                path.display()
            ));
        }
        let bad = |why: &str| Trouble(format!("the internal CA in {} cannot be used: {why}", directory.display()));
        let text = std::str::from_utf8(&key).map_err(|_| bad("the key is no text"))?;
        let pair = KeyPair::from_pem(text).map_err(|_| bad("the key cannot be read"))?;
        let root = match shelf.read(ROOT)? {
            Some(root) => root,
            None => {
                let made = root(&pair)?;
                let root = shelf.add(ROOT, made.as_bytes(), For::Everybody)?;
                // Else another hub has.
                if root == made.as_bytes() {
                    voice::say(&format!(
                        "made the internal CA {}: clients of `internal` sites must be told to trust it",
                        shelf.path_of(ROOT).display()
                    ));
                }
                root
            }
        };
        let whole = Pair::of(&root, &key).map_err(|why| bad(&why))?;
        if whole.until < Moment::now() {
            return Err(bad(&format!("its root held until {}; remove {ROOT} and {KEY} for new ones", whole.until)));
        }
        let der = whole.key.cert.first().ok_or_else(|| bad("there is no root"))?;
        let issuer = Issuer::from_ca_cert_der(der, pair).map_err(|_| bad("the root cannot be read"))?;
        Ok(Authority { issuer, until: whole.until })
    }

    /// A new certificate for a host.
    pub fn sign(&self, host: &str, now: Moment) -> Result<Pair, Trouble> {
        let tried = || format!("cannot make a certificate for {host}");
        let key = KeyPair::generate().context(tried())?;
        let mut wanted = CertificateParams::new([host.to_owned()]).context(tried())?;
        wanted.distinguished_name = DistinguishedName::new();
        if host.len() <= COMMON {
            wanted.distinguished_name.push(DnType::CommonName, host);
        }
        wanted.not_before = now.before(SLACK).time().into();
        wanted.not_after = now.after(DAY * DAYS).min(self.until).time().into();
        wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wanted.use_authority_key_identifier_extension = true;
        let signed = wanted.signed_by(&key, &self.issuer).context(tried())?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Pair::of_der(vec![CertificateDer::from(signed)], key).map_err(|why| Trouble(format!("{}: {why}", tried())))
    }
}

/// A root in PEM: it signs certificates of hosts, and no other authority.
fn root(key: &KeyPair) -> Result<String, Trouble> {
    let now = Moment::now().max(LATER);
    let mut wanted = CertificateParams::default();
    wanted.distinguished_name = DistinguishedName::new();
    // The same as long as the key is, and another for every machine: clients look roots up by it.
    let number: String = wanted.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    wanted.distinguished_name.push(DnType::CommonName, format!("wire internal CA {number}"));
    wanted.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    wanted.not_before = now.before(DAY).time().into();
    wanted.not_after = now.after(DAY * ROOT_DAYS).time().into();
    Ok(wanted.self_signed(key).context("cannot make the internal CA")?.pem())
}
