//! TLS for clients: which certificate is shown, and that a new one is shown as soon as its files are there.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Weak},
    time::SystemTime,
};

use actix_web::rt;
use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::sleep;

use super::certificate::{Age, Term};
use crate::{limits, settings};

/// ALPN names (RFC 7301, RFC 9113 section 3.1).
pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP11: &[u8] = b"http/1.1";

/// Of files that came while the balancer runs.
const REFUSED: &str = "the new certificate is refused, the old one stays";

/// The certificate that is shown now.
#[derive(Debug)]
pub(crate) struct Shown {
    pair: ArcSwap<Pair>,
    /// Why the files that lie there now are not.
    refused: ArcSwapOption<String>,
}

/// A certificate and its key.
#[derive(Debug)]
struct Pair {
    key: Arc<CertifiedKey>,
    term: Term,
}

impl Shown {
    fn new(pair: Pair) -> Self {
        Self { pair: ArcSwap::from_pointee(pair), refused: ArcSwapOption::empty() }
    }

    /// What an administrator is told of it now.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let refused = self.refused.load();
        let refused = refused.iter().map(|problem| format!("{REFUSED}: {problem}"));
        self.warning().into_iter().chain(refused).collect()
    }

    fn warning(&self) -> Option<String> {
        self.pair.load().term.warning(today())
    }

    fn age(&self) -> Age {
        self.pair.load().term.age(today())
    }
}

/// Seconds since 1970.
fn today() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl ResolvesServerCert for Shown {
    /// One certificate for everybody: a client that asks for another name sees that it is not meant.
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load().key.clone())
    }
}

/// Reads the certificate and its key, and looks for new ones for as long as the configuration lives: TLS 1.2 and 1.3 with
/// the suites that rustls calls safe. Must be called on a thread with an actix runtime.
///
/// # Errors
/// What is wrong with which file, and what to do.
pub(crate) fn configure(settings: &settings::Tls) -> io::Result<(Arc<ServerConfig>, Arc<Shown>)> {
    let stamp = Stamp::of(settings);
    let pair = read(settings).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
    let shown = Arc::new(Shown::new(pair));
    rt::spawn(watch(settings.clone(), stamp, Arc::downgrade(&shown)));
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(shown.clone());
    config.alpn_protocols = match settings.http2 {
        true => vec![HTTP2.to_vec(), HTTP11.to_vec()],
        false => vec![HTTP11.to_vec()],
    };
    Ok((Arc::new(config), shown))
}

/// Whether the certificate and its key could be shown, and clients would believe it now, without starting anything.
///
/// # Errors
/// What is wrong with which file, and what to do.
pub fn check_certificate(settings: &settings::Tls) -> Result<(), String> {
    let Pair { term, .. } = read(settings)?;
    match (term.age(today()), term.warning(today())) {
        (Age::Expired, Some(problem)) => Err(of("certificate", &settings.certificate, &problem)),
        _ => Ok(()),
    }
}

/// What a file looks like from outside; it differs when somebody has written or replaced it.
#[derive(Clone, PartialEq)]
struct Stamp([Option<Look>; 2]);

/// Inode, bytes, and the time of the last change in seconds and nanoseconds.
type Look = (u64, u64, i64, i64);

impl Stamp {
    fn of(settings: &settings::Tls) -> Self {
        let look = |found: Metadata| (found.ino(), found.len(), found.mtime(), found.mtime_nsec());
        Self([&settings.certificate, &settings.key].map(|path| path.metadata().ok().map(look)))
    }
}

/// Takes new files over once they have been left alone for a moment: two files cannot be replaced at once. What is wrong
/// with them is said once, and the old certificate stays. That it ends soon is said once a day.
async fn watch(settings: settings::Tls, mut taken: Stamp, shown: Weak<Shown>) {
    let (mut last, mut said) = (taken.clone(), Age::Good);
    loop {
        if let Some(shown) = shown.upgrade() {
            said = tell(&settings, &shown, said);
        }
        sleep(limits::CERTIFICATE_POLL).await;
        let Some(shown) = shown.upgrade() else { return };
        let files = settings.clone();
        let Ok(now) = rt::task::spawn_blocking(move || Stamp::of(&files)).await else { return };
        let settled = now == last;
        last = now.clone();
        if now == taken || !settled {
            continue;
        }
        taken = now;
        let files = settings.clone();
        match rt::task::spawn_blocking(move || read(&files)).await {
            Ok(Ok(pair)) => {
                shown.pair.store(Arc::new(pair));
                shown.refused.store(None);
                tracing::info!(certificate = %settings.certificate.display(), "a new certificate is shown from now on");
            }
            Ok(Err(problem)) => {
                tracing::warn!(%problem, "{REFUSED}");
                shown.refused.store(Some(Arc::new(problem)));
            }
            Err(_) => return,
        }
    }
}

/// Says it when the certificate stands otherwise than it was said last. Gives how it stands.
fn tell(settings: &settings::Tls, shown: &Shown, said: Age) -> Age {
    let (age, certificate) = (shown.age(), settings.certificate.display());
    match shown.warning() {
        Some(problem) if age != said && age == Age::Expired => tracing::error!(%certificate, "{problem}"),
        Some(problem) if age != said => tracing::warn!(%certificate, "{problem}"),
        _ => {}
    }
    age
}

/// Reads both files and makes sure that they belong together.
fn read(settings: &settings::Tls) -> Result<Pair, String> {
    let (certificate, key) = (&settings.certificate, &settings.key);
    let bad_certificate = |problem: String| of("certificate", certificate, &problem);
    let chain = chain(certificate).map_err(bad_certificate)?;
    let term = chain.first().map_or_else(|| Err("it is empty".to_owned()), Term::of).map_err(bad_certificate)?;
    let bad_key = |problem: &str| of("key", key, problem);
    settings.check_key_mode().map_err(|problem| bad_key(&problem))?;
    let pem = contents(key).map_err(|error| bad_key(&error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        bad_key("this is no private key in PEM form (\"-----BEGIN PRIVATE KEY-----\"), or it is encrypted")
    })?;
    let signing = ring::sign::any_supported_type(&secret)
        .map_err(|_| bad_key("this kind of key cannot be used; make one of RSA, ECDSA (P-256, P-384) or Ed25519"))?;
    let both = CertifiedKey::new(chain, signing);
    match both.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Pair { key: Arc::new(both), term })
        }
        Err(_) => Err(bad_key(&format!("this is not the key of the certificate in {}", certificate.display()))),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = contents(path).map_err(|error| error.to_string())?;
    let chain: Result<Vec<CertificateDer<'_>>, pem::Error> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|_| "this is no PEM".to_owned())?;
    let first = chain.first().ok_or("there is no certificate in it (\"-----BEGIN CERTIFICATE-----\")")?;
    ParsedCertificate::try_from(first).map_err(|_| "its first certificate cannot be read".to_owned())?;
    Ok(chain.into_iter().map(CertificateDer::into_owned).collect())
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?.take(limits::PEM_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > limits::PEM_BYTES {
        return Err(io::Error::other(format!("it has more than {} bytes", limits::PEM_BYTES)));
    }
    Ok(contents)
}

fn of(name: &str, path: &Path, problem: &str) -> String {
    format!("balancer.tls.{name} {}: {problem}", path.display())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { folder: tempfile::tempdir().unwrap() };
            let (certificate, key) = made();
            files.write(&certificate, &key);
            files
        }

        fn write(&self, certificate: &str, key: &str) {
            fs::write(self.path("cert.pem"), certificate).unwrap();
            fs::write(self.path("key.pem"), key).unwrap();
            fs::set_permissions(self.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn settings(&self) -> settings::Tls {
            let listen = "127.0.0.1:0".parse().unwrap();
            settings::Tls { listen, certificate: self.path("cert.pem"), key: self.path("key.pem"), http2: true }
        }
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_are_read() {
        let files = Files::new();
        assert_eq!(read(&files.settings()).unwrap().key.cert.len(), 1);
    }

    #[test]
    fn a_certificate_that_has_expired_fails_the_check_and_is_shown_all_the_same() {
        let files = Files::new();
        assert_eq!(check_certificate(&files.settings()), Ok(()));
        let mut wanted = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        wanted.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        files.write(&wanted.self_signed(&key).unwrap().pem(), &key.serialize_pem());
        let said = check_certificate(&files.settings()).unwrap_err();
        assert!(said.starts_with("balancer.tls.certificate ") && said.contains("expired on "), "{said}");
        assert!(read(&files.settings()).is_ok(), "better than no port at all");
    }

    #[test]
    fn what_is_wrong_is_said_of_the_right_file() {
        let files = Files::new();
        let (certificate, key) = made();
        let (_, other) = made();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (written, file, problem) in [
            (("", &key[..]), "certificate", "there is no certificate in it"),
            ((broken, &key[..]), "certificate", "cannot be read"),
            ((&certificate[..], ""), "key", "this is no private key"),
            ((&certificate[..], &certificate[..]), "key", "this is no private key"),
            ((&certificate[..], &other[..]), "key", "this is not the key of the certificate in"),
        ] {
            files.write(written.0, written.1);
            let said = read(&files.settings()).unwrap_err();
            assert!(said.starts_with(&format!("balancer.tls.{file} ")) && said.contains(problem), "{said}");
        }
        files.write(&certificate, &key);
        fs::set_permissions(files.path("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
        let said = read(&files.settings()).unwrap_err();
        assert!(said.contains("run: chmod 600"), "{said}");
        fs::remove_file(files.path("cert.pem")).unwrap();
        assert!(read(&files.settings()).unwrap_err().starts_with("balancer.tls.certificate "));
    }
}
