//! Requests that change something must come from a page of this session: the synchroniser token of OWASP's
//! "Cross-Site Request Forgery Prevention".

use actix_web::{
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
    web::Bytes,
};
use minijinja::Value;

use super::{Rendered, request::Request};
use crate::session::draft::{Draft, Refused};

/// The session attribute and the form field.
pub(super) const ATTRIBUTE: &str = "_csrf";

const HEADER: &str = "x-csrf-token";

/// Every method but the safe ones of RFC 9110, 9.2.1.
pub(super) fn is_unsafe(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// Whether a request carries the token of its session.
pub(super) fn accepts(request: &Request, draft: &Draft) -> bool {
    let Some(token) = draft.get_as::<String>(ATTRIBUTE) else { return false };
    let sent = request.header(HEADER).or_else(|| request.field(ATTRIBUTE));
    sent.is_some_and(|sent| equal(sent.as_bytes(), token.as_bytes()))
}

/// The token of a session, made when there is none.
pub(super) fn token_of(draft: &mut Draft) -> Result<String, Refused> {
    match draft.get_as::<String>(ATTRIBUTE) {
        Some(token) => Ok(token),
        None => {
            let token = draw();
            draft.set(ATTRIBUTE, &token)?;
            Ok(token)
        }
    }
}

/// The hidden field of a form. The token has only hexadecimal digits.
pub(super) fn field(token: &str) -> Value {
    Value::from_safe_string(format!("<input type=\"hidden\" name=\"{ATTRIBUTE}\" value=\"{token}\">"))
}

/// The answer to a request without the token; the session is as it was.
pub(super) fn refusal(draft: Draft) -> Rendered {
    Rendered {
        status: StatusCode::FORBIDDEN,
        headers: vec![(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))],
        content_type: HeaderValue::from_static("text/html; charset=utf-8"),
        body: Bytes::from_static(include_bytes!("refused.html")),
        draft,
    }
}

/// # Panics
/// When the operating system has no randomness to give: a guessable token would be worse than no answer.
fn draw() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b));
    a.len() == b.len() && std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_or_not_and_long_enough() {
        assert!(equal(b"abc", b"abc") && !equal(b"abc", b"abd") && !equal(b"abc", b"ab") && !equal(b"", b"a"));
        let (one, other) = (draw(), draw());
        assert!(one.len() == 32 && one != other);
    }
}
