//! `response` in a template: status, headers, cookies, redirect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::{
    cookie::{Cookie, SameSite, time::Duration},
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Object, ObjectRepr, from_args},
};

use super::session::unknown;
use crate::limits;

/// What a page has said about its answer so far.
#[derive(Debug)]
pub(super) struct ResponseObject {
    /// Cookies are `Secure` unless the page says otherwise.
    secure: bool,
    answer: Mutex<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    status: Option<StatusCode>,
    headers: Vec<(HeaderName, HeaderValue)>,
    content_type: Option<HeaderValue>,
    redirected: bool,
}

impl ResponseObject {
    pub(super) fn new(secure: bool) -> Self {
        Self { secure, answer: Mutex::default() }
    }

    /// The page has ended with a redirect.
    pub(super) fn is_redirect(&self) -> bool {
        self.answer().redirected
    }

    /// Status, headers, and the content type if the page chose one.
    pub(super) fn take(&self) -> (StatusCode, Vec<(HeaderName, HeaderValue)>, Option<HeaderValue>) {
        let answer = std::mem::take(&mut *self.answer());
        (answer.status.unwrap_or(StatusCode::OK), answer.headers, answer.content_type)
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, args: &[Value]) -> Result<(), Error> {
        let (code,): (u16,) = from_args(args)?;
        let code = StatusCode::from_u16(code).ok().filter(|code| code.as_u16() >= 200);
        self.answer().status = Some(code.ok_or_else(|| wrong("a status is a number from 200 to 999"))?);
        Ok(())
    }

    fn header(&self, args: &[Value]) -> Result<(), Error> {
        let (name, value): (&str, &str) = from_args(args)?;
        let name = HeaderName::try_from(name).map_err(|_| wrong(format!("{name:?} is no header name")))?;
        if is_ours(&name) {
            return Err(wrong(format!("the header {name} belongs to the server")));
        }
        let value = header_value(&name, value)?;
        if name == header::CONTENT_TYPE {
            self.answer().content_type = Some(value);
            return Ok(());
        }
        self.push(name, value)
    }

    fn cookie(&self, args: &[Value]) -> Result<(), Error> {
        let (name, value, named): (&str, &str, Kwargs) = from_args(args)?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(wrong(format!("{name:?} is no cookie name")));
        }
        let path: Option<&str> = named.get("path")?;
        let path = path.unwrap_or("/");
        if !path.starts_with('/') || path.contains([';', '\r', '\n']) {
            return Err(wrong(format!("{path:?} is no cookie path")));
        }
        let mut cookie = Cookie::build(name, value)
            .path(path)
            .http_only(named.get::<Option<bool>>("http_only")?.unwrap_or(true))
            .secure(named.get::<Option<bool>>("secure")?.unwrap_or(self.secure))
            .same_site(same_site(named.get("same_site")?)?)
            .finish();
        if let Some(seconds) = named.get::<Option<i64>>("max_age")? {
            cookie.set_max_age(Duration::seconds(seconds));
        }
        named.assert_all_used()?;
        self.push(header::SET_COOKIE, header_value(&header::SET_COOKIE, &cookie.encoded().to_string())?)
    }

    /// Ends the page: nothing behind it is executed, so a guard at its top cannot be passed.
    fn redirect(&self, args: &[Value]) -> Result<(), Error> {
        let (to, code): (&str, Option<u16>) = from_args(args)?;
        if !is_redirect_target(to) {
            return Err(wrong(format!("a redirect goes to a path of this server or an http(s) URL, not to {to:?}")));
        }
        let status = match code {
            None => StatusCode::SEE_OTHER,
            Some(code @ (301 | 302 | 303 | 307 | 308)) => StatusCode::from_u16(code).unwrap_or(StatusCode::SEE_OTHER),
            Some(code) => return Err(wrong(format!("{code} is no status of a redirect"))),
        };
        self.push(header::LOCATION, header_value(&header::LOCATION, &ascii(to))?)?;
        let mut answer = self.answer();
        answer.status = Some(status);
        answer.redirected = true;
        Err(wrong("the page ended with a redirect"))
    }

    /// Adds a header; one that may stand only once replaces the one before.
    fn push(&self, name: HeaderName, value: HeaderValue) -> Result<(), Error> {
        let mut answer = self.answer();
        if name != header::SET_COOKIE && name != header::LINK && name != header::VARY {
            answer.headers.retain(|(known, _)| *known != name);
        }
        if answer.headers.len() == limits::PAGE_HEADERS {
            return Err(wrong(format!("a page sets at most {} headers", limits::PAGE_HEADERS)));
        }
        answer.headers.push((name, value));
        Ok(())
    }
}

impl Object for ResponseObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let done = match method {
            "status" => self.status(args),
            "header" => self.header(args),
            "cookie" => self.cookie(args),
            "redirect" => self.redirect(args),
            _ => Err(unknown("response", method)),
        };
        done.map(|()| Value::UNDEFINED)
    }
}

/// A path of this server (`//host` and `/\host` are another one to a browser), a path relative to the page, a
/// query, or an absolute http(s) URL. No control characters, no spaces, no other scheme.
fn is_redirect_target(to: &str) -> bool {
    if to.is_empty() || to.contains(|c: char| c.is_control() || c == '\\' || c == ' ') {
        return false;
    }
    let lower = to.to_ascii_lowercase();
    let absolute = ["http://", "https://"].iter().find_map(|scheme| lower.strip_prefix(scheme));
    match absolute {
        Some(rest) => !rest.is_empty() && !rest.starts_with('/'),
        // A colon in the first segment would make it a scheme.
        None => !to.starts_with("//") && !to.split(['/', '?', '#']).next().unwrap_or_default().contains(':'),
    }
}

/// Percent-encodes what is not ASCII; what is encoded already stays.
fn ascii(to: &str) -> String {
    let mut encoded = String::with_capacity(to.len());
    for c in to.chars() {
        if c.is_ascii() {
            encoded.push(c);
        } else {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| encoded.push_str(&format!("%{byte:02X}")));
        }
    }
    encoded
}

/// Headers that only the server may set: framing, hop-by-hop (RFC 9110, 7.6.1), the cluster's own. Cookies go through
/// `cookie`, where their parts are checked.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("tasuki-")
        || matches!(
            name,
            "connection" | "content-length" | "keep-alive" | "location" | "proxy-connection" | "set-cookie" | "te"
        )
        || matches!(name, "trailer" | "transfer-encoding" | "upgrade" | "content-encoding" | "date")
}

fn header_value(name: &HeaderName, value: &str) -> Result<HeaderValue, Error> {
    if value.len() > limits::PAGE_HEADER_BYTES {
        return Err(wrong(format!("the header {name} has more than {} bytes", limits::PAGE_HEADER_BYTES)));
    }
    HeaderValue::try_from(value).map_err(|_| wrong(format!("the value of the header {name} has control characters")))
}

fn same_site(text: Option<&str>) -> Result<SameSite, Error> {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None | Some("lax") => Ok(SameSite::Lax),
        Some("strict") => Ok(SameSite::Strict),
        Some("none") => Ok(SameSite::None),
        Some(other) => Err(wrong(format!("same_site is lax, strict or none, not {other:?}"))),
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_here_or_says_http() {
        for good in ["/", "/a/b?c=d", "next.html", "?step=2", "./a", "https://example.org/x", "HTTP://example.org"] {
            assert!(is_redirect_target(good), "{good}");
        }
        let bad = ["", "//evil.example", "/\\evil.example", "javascript:alert(1)", "data:x", "ftp://a", "https://"];
        for bad in bad.into_iter().chain(["/a\r\nSet-Cookie: x", "http:///x", "/a b", "java\tscript:x", "http:x"]) {
            assert!(!is_redirect_target(bad), "{bad:?}");
        }
        assert_eq!(ascii("/申?x=%20"), "/%E7%94%B3?x=%20");
    }
}
