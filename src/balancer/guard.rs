//! Whether a form of the manager was sent from the manager's own page.
//!
//! Three marks, each of which a foreign page lacks: the nonce of this process (only who can read the page knows it), a
//! cookie that browsers send with requests of the same site only (`SameSite=Strict`), and an `Origin` that is this host.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest,
    cookie::{Cookie, SameSite},
    http::header::{HOST, HeaderMap, ORIGIN},
};

/// The manager's cookie. Not the sessions': no member ever needs it.
const COOKIE: &str = "tasuki-manager";

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
    pub(crate) fn cookie(&self, path: &str) -> Cookie<'_> {
        Cookie::build(COOKIE, &self.cookie).path(path.to_owned()).http_only(true).same_site(SameSite::Strict).finish()
    }

    /// Judges a form by its request and the nonce in it.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub(crate) fn admit(&self, request: &HttpRequest, nonce: &str) -> Result<(), Strange> {
        if !is_own(request.headers()) {
            return Err(Strange::Origin);
        }
        let cookie = request.cookie(COOKIE);
        let has_cookie = cookie.is_some_and(|cookie| same(cookie.value(), &self.cookie));
        if has_cookie && same(nonce, &self.nonce) { Ok(()) } else { Err(Strange::OutOfDate) }
    }
}

/// Whether `Origin` is there and names the host that was asked.
fn is_own(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text(ORIGIN).and_then(|origin| origin.strip_prefix("http://").or(origin.strip_prefix("https://")));
    origin.is_some() && origin == text(HOST)
}

/// Compares in a time that does not tell where two words differ.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

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
        for origin in ["", "null", "http://evil.example", "http://127.0.0.1:80", "http://127.0.0.1:12121.evil.example"]
        {
            assert_eq!(keys.admit(&form(origin, &keys.cookie), &keys.nonce), Err(Strange::Origin), "{origin}");
        }
        assert_eq!(keys.admit(&form(own, "00"), &keys.nonce), Err(Strange::OutOfDate));
        assert_eq!(keys.admit(&form(own, &keys.cookie), ""), Err(Strange::OutOfDate));
        assert_eq!(keys.admit(&form(own, &keys.cookie), &keys.cookie), Err(Strange::OutOfDate));
        assert!(keys.nonce.len() == 32 && keys.nonce != keys.cookie);
    }

    #[test]
    fn the_cookie_stays_with_the_manager() {
        let cookie = keys().unwrap().cookie("/balancer-manager").to_string();
        for part in ["HttpOnly", "SameSite=Strict", "Path=/balancer-manager"] {
            assert!(cookie.contains(part), "{cookie}");
        }
    }
}
