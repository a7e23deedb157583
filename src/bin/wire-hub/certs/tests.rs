//! Handshakes without a network, and what is kept on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore, ServerConnection};

use super::pair::Pair;
use super::*;
use crate::orders::{Redirect, Site, Upstream};

/// A directory that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("wire-certs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.0.join(name)).unwrap().permissions().mode() & 0o7777
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate that signs itself.
fn own(host: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([host.to_owned()]).unwrap()
}

fn orders(hosts: &[(&str, Tls)]) -> Proxy {
    let site = |(host, tls): &(&str, Tls)| Site {
        host: (*host).to_owned(),
        path: None,
        upstream: Upstream { node: "web".into(), address: [10, 0, 0, 1].into(), port: 80 },
        tls: tls.clone(),
        methods: vec!["GET".into()],
        headers: BTreeMap::new(),
        rate: None,
        body: None,
    };
    let directory = "https://acme.invalid/dir".to_owned();
    let acme = crate::orders::Acme { contact: None, directory, ca: None };
    Proxy { sites: hosts.iter().map(site).collect(), redirects: Vec::new(), acme, nameservers: Vec::new() }
}

/// What a client has seen of a server.
#[derive(Debug)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    protocol: Option<Vec<u8>>,
    version: Option<ProtocolVersion>,
    kind: Option<HandshakeKind>,
}

/// A client that trusts these.
fn client(roots: &[&CertificateDer<'static>]) -> ClientConfig {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add((*root).clone()).unwrap());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    config.with_protocol_versions(&[&TLS13, &TLS12]).unwrap().with_root_certificates(store).with_no_client_auth()
}

/// Has a client and the server shake hands and say a word to each other.
fn shake(certs: &Certs, config: &Arc<ClientConfig>, host: &str) -> Result<Seen, rustls::Error> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(config.clone(), name).unwrap();
    let mut server = ServerConnection::new(certs.tls()).unwrap();
    std::io::Write::write_all(&mut client.writer(), b"a word").unwrap();
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        let heard = server.process_new_packets();
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets()?;
        heard?;
    }
    let chain = client.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
    let protocol = client.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Seen { chain, protocol, version: client.protocol_version(), kind: client.handshake_kind() })
}

#[tokio::test]
async fn a_handshake_takes_a_name_that_is_served() {
    let folder = Folder::new("names");
    let mut wanted = orders(&[("blog.example.org", Tls::Internal), ("shop.example.org", Tls::Internal)]);
    let to = "https://blog.example.org".into();
    wanted.redirects = vec![Redirect { host: "www.example.org".into(), to, tls: Tls::Internal }];
    let certs = Certs::start_in(&folder.0, &wanted).unwrap();
    let root = fs::read(folder.path("ca/root.crt")).unwrap();
    let root = rustls::pki_types::pem::PemObject::from_pem_slice(&root).unwrap();
    let mut config = client(&[&root]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    for host in ["blog.example.org", "shop.example.org", "www.example.org", "Blog.Example.ORG"] {
        let seen = shake(&certs, &config, host).unwrap();
        assert_eq!(
            (seen.protocol.as_deref(), seen.version),
            (Some(&b"h2"[..]), Some(ProtocolVersion::TLSv1_3)),
            "{host}"
        );
        assert_eq!(seen.chain.len(), 1, "{host}");
    }
    for host in ["example.org", "a.blog.example.org", "xblog.example.org", "203.0.113.5"] {
        let refused = shake(&certs, &config, host).unwrap_err();
        assert!(matches!(refused, rustls::Error::AlertReceived(_)), "{host}: {refused:?}");
    }
    let mut silent = client(&[&root]);
    silent.enable_sni = false;
    assert!(shake(&certs, &Arc::new(silent), "blog.example.org").is_err(), "without a name");
}

/// A client that comes back is known by its ticket; where the site has gone, that does not help it.
#[tokio::test]
async fn a_ticket_is_for_a_site_that_is_served() {
    for versions in [&TLS12, &TLS13] {
        let folder = Folder::new(&format!("ticket-{:?}", versions.version));
        let both = [("blog.example.org", Tls::Internal), ("shop.example.org", Tls::Internal)];
        let certs = Certs::start_in(&folder.0, &orders(&both)).unwrap();
        let root = fs::read(folder.path("ca/root.crt")).unwrap();
        let mut store = RootCertStore::empty();
        store.add(rustls::pki_types::pem::PemObject::from_pem_slice(&root).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(&[versions]).unwrap();
        let mut config = config.with_root_certificates(store).with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(16);
        let config = Arc::new(config);
        let kind = |host| shake(&certs, &config, host).map(|seen| seen.kind);
        assert_eq!(kind("blog.example.org"), Ok(Some(HandshakeKind::Full)));
        assert_eq!(kind("blog.example.org"), Ok(Some(HandshakeKind::Resumed)));
        assert_eq!(kind("shop.example.org"), Ok(Some(HandshakeKind::Full)));
        certs.serve(&orders(&both[1..])).unwrap();
        assert!(kind("blog.example.org").is_err());
        assert_eq!(kind("shop.example.org"), Ok(Some(HandshakeKind::Resumed)));
    }
}

/// Who looks for ACME sees the certificate of the challenge and no other, and others do not see it.
#[tokio::test]
async fn a_challenge_is_for_acme_alone() {
    let folder = Folder::new("challenge");
    let blog = own("blog.example.org");
    fs::write(folder.path("crt"), blog.cert.pem()).unwrap();
    fs::write(folder.path("key"), blog.signing_key.serialize_pem()).unwrap();
    let files = Tls::Files { cert: folder.path("crt"), key: folder.path("key") };
    let certs = Certs::start_in(&folder.0, &orders(&[("blog.example.org", files)])).unwrap();
    let other = own("blog.example.org");
    let of = |protocols: &[&[u8]]| {
        let mut config = client(&[blog.cert.der(), other.cert.der()]);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        shake(&certs, &Arc::new(config), "blog.example.org").map(|seen| (seen.chain, seen.protocol))
    };
    assert!(of(&[b"acme-tls/1"]).is_err());
    let site = (vec![blog.cert.der().clone()], Some(b"http/1.1".to_vec()));
    assert_eq!(of(&[b"http/1.1"]), Ok(site.clone()));
    let key = PrivateKeyDer::Pkcs8(other.signing_key.serialize_der().into());
    let pair = Pair::of_der(vec![other.cert.der().clone()], key).unwrap();
    let challenge = certs.shown.challenge("blog.example.org", pair.key);
    assert_eq!(of(&[b"acme-tls/1"]), Ok((vec![other.cert.der().clone()], Some(b"acme-tls/1".to_vec()))));
    assert_eq!(of(&[b"http/1.1"]), Ok(site));
    drop(challenge);
    assert!(of(&[b"acme-tls/1"]).is_err());
    let told = certs.shown.tell("blog.example.org", "token", "token.thumb");
    assert_eq!(certs.challenge("blog.example.org", "token").as_deref(), Some("token.thumb"));
    assert_eq!(certs.challenge("Blog.Example.org:80", "token").as_deref(), Some("token.thumb"));
    assert_eq!(certs.challenge("shop.example.org", "token"), None);
    assert_eq!(certs.challenge("blog.example.org", "other"), None);
    drop(told);
    assert_eq!(certs.challenge("blog.example.org", "token"), None);
}

/// A host whose files are missing or bad has no handshake, and the others do not mind; what is put there later is taken, and what
/// is bad leaves the last good in place.
#[tokio::test]
async fn files_are_taken_once_they_are_good() {
    let folder = Folder::new("files");
    let [first, second, third] = [(); 3].map(|()| own("blog.example.org"));
    let shop = own("shop.example.org");
    let put = |name: &str, text: &str| fs::write(folder.path(name), text).unwrap();
    put("shop.crt", &shop.cert.pem());
    put("shop.key", &shop.signing_key.serialize_pem());
    let files =
        |name: &str| Tls::Files { cert: folder.path(&format!("{name}.crt")), key: folder.path(&format!("{name}.key")) };
    let wanted = orders(&[("blog.example.org", files("blog")), ("shop.example.org", files("shop"))]);
    let certs = Certs::start_in(&folder.0, &wanted).unwrap();
    let trusted = [&first, &second, &third, &shop].map(|one| one.cert.der());
    let seen = |host: &str| {
        let seen = shake(&certs, &Arc::new(client(&trusted)), host).ok()?;
        trusted.iter().position(|one| **one == seen.chain[0])
    };
    let look = || certs.kept().look(&certs.shown, false);
    assert_eq!([seen("blog.example.org"), seen("shop.example.org")], [None, Some(3)]);
    put("blog.crt", &first.cert.pem());
    look();
    assert_eq!(seen("blog.example.org"), None, "no key yet");
    put("blog.key", &first.signing_key.serialize_pem());
    look();
    assert_eq!(seen("blog.example.org"), Some(0));

    let pem = second.cert.pem();
    for half in ["", "nonsense", &pem[..pem.len() / 2], &pem] {
        put("blog.crt", half);
        look();
        assert_eq!(seen("blog.example.org"), Some(0), "half written: {half}");
    }
    put("blog.key", &second.signing_key.serialize_pem());
    look();
    assert_eq!(seen("blog.example.org"), Some(1));
    // A chain may have more behind the host's own.
    put("blog.crt", &(third.cert.pem() + &shop.cert.pem()));
    put("blog.key", &third.signing_key.serialize_pem());
    certs.serve(&wanted).unwrap();
    assert_eq!(seen("blog.example.org"), Some(2), "orders are reason enough to look");
    fs::remove_file(folder.path("blog.key")).unwrap();
    look();
    certs.serve(&wanted).unwrap();
    assert_eq!(seen("blog.example.org"), Some(2), "gone files");
    certs.serve(&orders(&[("blog.example.org", files("nowhere"))])).unwrap();
    assert_eq!([seen("blog.example.org"), seen("shop.example.org")], [Some(2), None]);
}

#[test]
fn what_is_wrong_with_a_pair_is_told() {
    let [one, other] = [own("blog.example.org"), own("blog.example.org")];
    let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
    let broken = cert.replace("MII", "MIX");
    for (cert, key, wanted) in [
        ("", &key[..], "there is no certificate in it"),
        (&key, &key, "there is no certificate in it"),
        (&cert[..200], &key, "the certificate is no whole PEM"),
        (&broken, &key, "the certificate is none that can be read"),
        (&cert, "", "the key is no whole PEM of a private key"),
        (&cert, &cert, "the key is no whole PEM of a private key"),
        (&cert, &other.signing_key.serialize_pem(), "the key is not that of the certificate"),
    ] {
        assert_eq!(Pair::of(cert.as_bytes(), key.as_bytes()).unwrap_err(), wanted);
    }
    let pair = Pair::of(cert.as_bytes(), key.as_bytes()).unwrap();
    assert!(pair.names("blog.example.org") && !pair.names("shop.example.org") && !pair.names("10.0.0.1"));
    assert_eq!(pair.complaint("blog.example.org", Moment::now()), None);
    assert_eq!(pair.complaint("shop.example.org", Moment::now()).unwrap(), "it is not for shop.example.org");
    assert_eq!(pair.complaint("blog.example.org", Moment(0)).unwrap(), "it holds from 1975-01-01 00:00 UTC on");
    let late = Moment(pair.until.0 + 1);
    assert_eq!(pair.complaint("blog.example.org", late).unwrap(), "it held until 4096-01-01 00:00 UTC");
}

#[test]
fn a_root_is_made_once_and_kept_to_itself() {
    let folder = Folder::new("root");
    let ca = folder.0.join("ca");
    let first = Authority::open(&ca).unwrap();
    let made = [folder.path("ca/root.crt"), folder.path("ca/root.key")].map(|path| fs::read(path).unwrap());
    assert_eq!([folder.mode("ca"), folder.mode("ca/root.key"), folder.mode("ca/root.crt")], [0o700, 0o600, 0o644]);
    assert_eq!(fs::read_dir(&ca).unwrap().count(), 2);
    let second = Authority::open(&ca).unwrap();
    assert_eq!([folder.path("ca/root.crt"), folder.path("ca/root.key")].map(|path| fs::read(path).unwrap()), made);
    let now = Moment::now();
    for authority in [first, second] {
        let pair = authority.sign("blog.example.org", now).unwrap();
        assert_eq!(pair.complaint("blog.example.org", now), None);
        assert_eq!(pair.until.since(now).as_secs(), 90 * 86_400);
        assert!((59..61).contains(&(pair.due().since(now).as_secs() / 86_400)));
    }
    let long = format!("{}.example.org", "a".repeat(63));
    assert!(Authority::open(&ca).unwrap().sign(&long, now).unwrap().names(&long));
    // One without the other is told.
    fs::write(folder.path("ca/root.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let told = Authority::open(&ca).err().unwrap().to_string();
    assert_eq!(
        told,
        format!("the internal CA in {} cannot be used: the key is not that of the certificate", ca.display())
    );
    fs::remove_file(folder.path("ca/root.crt")).unwrap();
    Authority::open(&ca).unwrap();
    let mut past = CertificateParams::default();
    past.not_after = Moment(86_400).time().into();
    let key = KeyPair::from_pem(&fs::read_to_string(folder.path("ca/root.key")).unwrap()).unwrap();
    fs::write(folder.path("ca/root.crt"), past.self_signed(&key).unwrap().pem()).unwrap();
    assert!(Authority::open(&ca).err().unwrap().to_string().contains("its root held until 1970-01-02 00:00 UTC"));
}

/// Several hubs that start at once have one root.
#[test]
fn hubs_that_start_together_share_a_root() {
    let folder = Folder::new("race");
    let ca = folder.0.join("ca");
    std::thread::scope(|scope| {
        let opened: Vec<_> = (0..8).map(|_| scope.spawn(|| Authority::open(&ca).map(drop))).collect();
        for one in opened {
            one.join().unwrap().unwrap();
        }
    });
    assert_eq!(fs::read_dir(&ca).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn moments_are_told_as_days() {
    for (seconds, wanted) in [
        (0, "1970-01-01 00:00 UTC"),
        (951_782_399, "2000-02-28 23:59 UTC"),
        (951_782_400, "2000-02-29 00:00 UTC"),
        (951_868_800, "2000-03-01 00:00 UTC"),
        (1_709_164_800, "2024-02-29 00:00 UTC"),
        (1_798_761_540, "2026-12-31 23:59 UTC"),
        (4_107_542_400, "2100-03-01 00:00 UTC"),
    ] {
        assert_eq!(Moment(seconds).to_string(), wanted);
    }
}

/// A machine that begins with a clock years ahead, and sets it right, must not go on with what holds from then on.
#[tokio::test]
async fn a_clock_that_is_set_back_makes_a_certificate_anew() {
    let folder = Folder::new("clock");
    let certs = Certs::start_in(&folder.0, &orders(&[("a.example", Tls::Internal)])).unwrap();
    let held = |kept: &Kept| match kept.sources["a.example"].1 {
        Source::Internal(from, due) => (from, due),
        _ => panic!("not of the internal CA"),
    };
    let mut kept = certs.kept();
    let (from, due) = held(&kept);
    kept.look(&certs.shown, false);
    assert_eq!(held(&kept), (from, due));
    let ahead = |moment: Moment| moment.after(Duration::from_secs(10 * 365 * 86_400));
    kept.sources.insert("a.example".into(), (Tls::Internal, Source::Internal(ahead(from), ahead(due))));
    kept.look(&certs.shown, false);
    assert!(held(&kept).0 < from.after(Duration::from_secs(3_600)));
}
