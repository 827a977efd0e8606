//! Whether a form of the manager was sent from the manager's own page.
//!
//! Three marks, each of which a foreign page lacks: the nonce of this process (only who can read the page knows it), a
//! cookie that browsers send with requests of the same site only (`SameSite=Strict`), and an `Origin` that is this host.
//!
//! Over TLS the cookie has another name: a browser that has the `Secure` one would take no other of its name from the plain port.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest,
    cookie::{Cookie, SameSite},
    http::header::ORIGIN,
};

use super::{client::Scheme, headers};

/// The manager's cookie. Not the sessions': no member ever needs it.
const COOKIE: &str = "tasuki-manager";

/// The same over TLS: browsers take it from there alone (RFC 6265bis section 4.1.3.1).
const SECURE_COOKIE: &str = "__Secure-tasuki-manager";

/// Drawn once for each process: a form that was loaded before a restart has to be loaded again.
static KEYS: LazyLock<Option<Keys>> = LazyLock::new(|| Some(Keys { nonce: draw()?, cookie: draw()? }));

/// The two words that a form has to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// In the form.
    pub(crate) nonce: String,
    cookie: String,
}

/// Why a form is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Strange {
    /// It was sent by a page of another host, or by something that does not say.
    #[error("this form was not sent by this page (its Origin is another one)")]
    Origin,
    /// The cookie or the nonce is missing or of another process.
    #[error("this form is out of date: reload the page and try again")]
    OutOfDate,
}

/// The keys of this process; none when the operating system gives no random bytes.
pub(crate) fn keys() -> Option<&'static Keys> {
    KEYS.as_ref()
}

/// 128 random bits as text.
pub(crate) fn draw() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Keys {
    /// The cookie for pages below `path`.
    pub(crate) fn cookie(&self, path: &str, scheme: Scheme) -> Cookie<'_> {
        let cookie = Cookie::build(name(scheme), &self.cookie).path(path.to_owned());
        cookie.http_only(true).same_site(SameSite::Strict).secure(scheme == Scheme::Https).finish()
    }

    /// Judges a form by its request and the nonce in it.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub(crate) fn admit(&self, request: &HttpRequest, nonce: &str) -> Result<(), Strange> {
        if !is_own(request) {
            return Err(Strange::Origin);
        }
        let cookie = request.cookie(name(Scheme::of(request)));
        let has_cookie = cookie.is_some_and(|cookie| same(cookie.value(), &self.cookie));
        if has_cookie && same(nonce, &self.nonce) { Ok(()) } else { Err(Strange::OutOfDate) }
    }
}

fn name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => COOKIE,
        Scheme::Https => SECURE_COOKIE,
    }
}

/// Whether `Origin` is there and names the host that was asked, in the same way.
fn is_own(request: &HttpRequest) -> bool {
    let origin = request.headers().get(ORIGIN).and_then(|value| value.to_str().ok());
    let (scheme, host) = origin.and_then(|origin| origin.split_once("://")).unzip();
    scheme == Some(Scheme::of(request).as_str()) && host.is_some() && host == headers::named_host(request)
}

/// Compares in a time that does not tell where two words differ.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use actix_web::{
        http::{Version, header::HOST},
        test::TestRequest,
    };

    use super::*;

    #[test]
    fn a_form_needs_all_three_marks() {
        let keys = keys().unwrap();
        let form = |origin: &'static str, cookie: &str| {
            let request = TestRequest::default().insert_header((HOST, "127.0.0.1:12121"));
            let request = request.cookie(Cookie::new(COOKIE, cookie.to_owned()));
            let request = if origin.is_empty() { request } else { request.insert_header((ORIGIN, origin)) };
            request.to_http_request()
        };
        let own = "http://127.0.0.1:12121";
        assert_eq!(keys.admit(&form(own, &keys.cookie), &keys.nonce), Ok(()));
        for origin in [
            "",
            "null",
            "https://127.0.0.1:12121",
            "http://evil.example",
            "http://127.0.0.1:80",
            "http://127.0.0.1:12121.evil.example",
        ] {
            assert_eq!(keys.admit(&form(origin, &keys.cookie), &keys.nonce), Err(Strange::Origin), "{origin}");
        }
        assert_eq!(keys.admit(&form(own, "00"), &keys.nonce), Err(Strange::OutOfDate));
        assert_eq!(keys.admit(&form(own, &keys.cookie), ""), Err(Strange::OutOfDate));
        assert_eq!(keys.admit(&form(own, &keys.cookie), &keys.cookie), Err(Strange::OutOfDate));
        assert!(keys.nonce.len() == 32 && keys.nonce != keys.cookie);
    }

    #[test]
    fn over_http_2_the_host_is_the_targets() {
        let keys = keys().unwrap();
        let form = |origin: &'static str| {
            let request = TestRequest::post().version(Version::HTTP_2).uri("https://localhost:443/balancer-manager");
            let cookie = Cookie::new(SECURE_COOKIE, keys.cookie.clone());
            request.insert_header((ORIGIN, origin)).cookie(cookie).to_http_request()
        };
        assert_eq!(keys.admit(&form("https://localhost:443"), &keys.nonce), Ok(()));
        for origin in ["http://localhost:443", "https://evil.example", "https://"] {
            assert_eq!(keys.admit(&form(origin), &keys.nonce), Err(Strange::Origin), "{origin}");
        }
    }

    #[test]
    fn the_cookie_stays_with_the_manager() {
        let cookie = |scheme| keys().unwrap().cookie("/balancer-manager", scheme).to_string();
        let (plain, sealed) = (cookie(Scheme::Http), cookie(Scheme::Https));
        for part in ["HttpOnly", "SameSite=Strict", "Path=/balancer-manager"] {
            assert!(plain.contains(part) && sealed.contains(part), "{plain} {sealed}");
        }
        assert!(
            sealed.starts_with("__Secure-") && sealed.contains("; Secure") && !plain.contains("Secure"),
            "{sealed}"
        );
    }
}
