//! `response` in a template: status, headers, cookies, and the two ways to end a page: a redirect, and bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::{
    cookie::{Cookie, SameSite, time::Duration},
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web::Bytes,
};
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Object, ObjectRepr, from_args},
};

use super::{body::base_name, link, session::unknown};
use crate::limits;

/// What a page has said about its answer so far.
#[derive(Debug)]
pub(super) struct ResponseObject {
    /// Cookies are `Secure` unless the page says otherwise.
    secure: bool,
    /// Scheme, host and port of this server as the client sees it.
    origin: String,
    answer: Mutex<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    status: Option<StatusCode>,
    headers: Vec<(HeaderName, HeaderValue)>,
    content_type: Option<HeaderValue>,
    end: Option<Bytes>,
}

impl ResponseObject {
    /// For a request with this scheme to this host.
    pub(super) fn new(scheme: &str, host: &str) -> Self {
        let origin = format!("{scheme}://{host}").to_ascii_lowercase();
        Self { secure: scheme == "https", origin, answer: Mutex::default() }
    }

    /// What the page has ended with before its own end: nothing after a redirect, or the bytes that it sent.
    pub(super) fn end(&self) -> Option<Bytes> {
        self.answer().end.take()
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
        let (to, code, named): (&str, Option<u16>, Kwargs) = from_args(args)?;
        let may_leave = named.get::<Option<bool>>("external")?.unwrap_or(false);
        named.assert_all_used()?;
        match target(to) {
            Target::Here => {}
            Target::Absolute(origin) if may_leave || origin == self.origin => {}
            Target::Absolute(_) => {
                return Err(wrong(format!(
                    "{to:?} is another site; where that is meant, say redirect(url, external=true)"
                )));
            }
            Target::Nowhere => {
                return Err(wrong(format!(
                    "a redirect goes to a path of this server or an http(s) URL, not to {to:?}"
                )));
            }
        }
        let status = match code {
            None => StatusCode::SEE_OTHER,
            Some(code @ (301 | 302 | 303 | 307 | 308)) => StatusCode::from_u16(code).unwrap_or(StatusCode::SEE_OTHER),
            Some(code) => return Err(wrong(format!("{code} is no status of a redirect"))),
        };
        self.push(header::LOCATION, header_value(&header::LOCATION, &link::kept(to))?)?;
        self.answer().status = Some(status);
        self.finish(Bytes::new(), "the page ended with a redirect")
    }

    /// Ends the page with these bytes, or this text, instead of what it printed. With a file name it is a download, unless
    /// `inline` says that a browser may show it.
    fn send(&self, state: &State<'_, '_>, args: &[Value]) -> Result<(), Error> {
        let (content, content_type, named): (&Value, Option<&str>, Kwargs) = from_args(args)?;
        let bytes = content
            .as_bytes()
            .ok_or_else(|| wrong(format!("bytes or a text can be sent, not a {}", content.kind())))?;
        if bytes.len() > limits::PAGE_BYTES {
            return Err(wrong(format!(
                "{} bytes are too many to send; {} are allowed",
                bytes.len(),
                limits::PAGE_BYTES
            )));
        }
        state.consume_fuel(bytes.len() as u64 / 64)?;
        let content_type = content_type.map_or_else(|| named.get("content_type"), |it| Ok(Some(it)))?;
        let content_type = content_type.unwrap_or("application/octet-stream");
        let file_name: Option<&str> = named.get("file_name")?;
        let inline = named.get::<Option<bool>>("inline")?.unwrap_or(file_name.is_none());
        named.assert_all_used()?;
        self.answer().content_type = Some(header_value(&header::CONTENT_TYPE, content_type)?);
        self.push(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))?;
        if let Some(name) = file_name {
            self.push(header::CONTENT_DISPOSITION, disposition(name, inline)?)?;
        }
        if inline && may_run_scripts(content_type) && !self.has(&header::CONTENT_SECURITY_POLICY) {
            let policy =
                HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox");
            self.push(header::CONTENT_SECURITY_POLICY, policy)?;
        }
        self.finish(Bytes::copy_from_slice(bytes), "the page ended with what it sent")
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.answer().headers.iter().any(|(known, _)| known == name)
    }

    /// Always an error, which ends the rendering.
    fn finish(&self, body: Bytes, what: &str) -> Result<(), Error> {
        self.answer().end = Some(body);
        Err(wrong(what))
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

    fn call_method(self: &Arc<Self>, state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let done = match method {
            "status" => self.status(args),
            "header" => self.header(args),
            "cookie" => self.cookie(args),
            "redirect" => self.redirect(args),
            "send" => self.send(state, args),
            _ => Err(unknown("response", method)),
        };
        done.map(|()| Value::UNDEFINED)
    }
}

/// Where a redirect leads.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// To this server, by a path, a query, or relative to the page.
    Here,
    /// To the server of this scheme, host and port.
    Absolute(String),
    /// To no address that a browser should be sent to.
    Nowhere,
}

/// `//host` and `/\host` are another server to a browser; no control characters, no spaces, no scheme but http(s).
fn target(to: &str) -> Target {
    if to.is_empty() || to.contains(|c: char| c.is_control() || c == '\\' || c == ' ') {
        return Target::Nowhere;
    }
    let lower = to.to_ascii_lowercase();
    let absolute = ["http://", "https://"].iter().find_map(|scheme| lower.strip_prefix(scheme));
    match absolute {
        Some(rest) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            // A name before an @ looks like a host to people.
            if host.is_empty() || host.contains('@') {
                return Target::Nowhere;
            }
            Target::Absolute(lower[..lower.len() - rest.len() + host.len()].to_owned())
        }
        // A colon in the first segment would make it a scheme.
        None if to.starts_with("//") || to.split(['/', '?', '#']).next().unwrap_or_default().contains(':') => {
            Target::Nowhere
        }
        None => Target::Here,
    }
}

/// `Content-Disposition` as RFC 6266 has it: a name of plain letters for old clients, and the whole one encoded (RFC 8187).
fn disposition(name: &str, inline: bool) -> Result<HeaderValue, Error> {
    let name = base_name(name);
    let plain = |c: char| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' };
    let fallback: String = name.chars().map(plain).collect();
    let kind = if inline { "inline" } else { "attachment" };
    let mut value = format!("{kind}; filename=\"{fallback}\"");
    if fallback != name {
        value.push_str(&format!("; filename*=UTF-8''{}", link::component(&name)));
    }
    header_value(&header::CONTENT_DISPOSITION, &value)
}

/// Whether a browser that shows this runs what is in it, as if this site had made it. Others' files must not be run so.
fn may_run_scripts(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "text/html" || essence.ends_with("xml")
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
        for here in ["/", "/a/b?c=d", "next.html", "?step=2", "./a", "/a?to=http://x"] {
            assert_eq!(target(here), Target::Here, "{here}");
        }
        for (to, origin) in [
            ("https://example.org/x@y", "https://example.org"),
            ("HTTP://Example.org", "http://example.org"),
            ("http://a:1?b", "http://a:1"),
        ] {
            assert_eq!(target(to), Target::Absolute(origin.into()), "{to}");
        }
        let bad = ["", "//evil.example", "/\\evil.example", "javascript:alert(1)", "data:x", "ftp://a", "https://"];
        let worse =
            ["/a\r\nSet-Cookie: x", "http:///x", "/a b", "java\tscript:x", "http:x", "http://here@evil.example"];
        for bad in bad.into_iter().chain(worse) {
            assert_eq!(target(bad), Target::Nowhere, "{bad:?}");
        }
    }

    #[test]
    fn a_download_is_called_what_it_is_called() {
        let of = |name, inline| disposition(name, inline).unwrap().to_str().unwrap().to_owned();
        assert_eq!(of("a b.pdf", false), "attachment; filename=\"a b.pdf\"");
        assert_eq!(of("報告\".pdf", true), "inline; filename=\"___.pdf\"; filename*=UTF-8''%E5%A0%B1%E5%91%8A%22.pdf");
        assert_eq!(of("../a\r\nX: y", false), "attachment; filename=\"aX: y\"");
        assert_eq!(of("50%25.txt", false), "attachment; filename=\"50_25.txt\"; filename*=UTF-8''50%2525.txt");
    }
}
