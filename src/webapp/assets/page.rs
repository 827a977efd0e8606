//! Server pages on their way out: compressed for this one answer, where that gives nothing away.

use actix_web::{
    HttpMessage,
    http::header::{self, HeaderName, HeaderValue},
    web::Bytes,
};

use super::{
    coding::{self, Coding},
    media::Media,
};
use crate::limits;

/// The body of a page as the client takes it, and what `headers` must say of it.
///
/// Only for a page without a session. One with a session carries secrets, its CSRF token first, beside what the request
/// has typed, and then the length of what is compressed tells them, a character at a time (BREACH, CVE-2013-3587).
///
/// gzip alone, at its fastest: it takes a hundredth of a millisecond for each KiB, Brotli thrice that for a fifth less.
pub fn pack_page(
    request: &impl HttpMessage,
    content_type: &HeaderValue,
    headers: &mut Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
) -> Bytes {
    let may_differ = !headers.iter().any(|(name, value)| is_bound_to_bytes(name, value));
    let is_worth_it = (limits::COMPRESSED_FROM_BYTES..=limits::COMPRESSED_PAGE_BYTES).contains(&(body.len() as u64));
    let is_text = || content_type.to_str().is_ok_and(|text| Media::of("", Some(text)).is_compressible());
    if !may_differ || !is_worth_it || !is_text() {
        return body;
    }
    headers.push((header::VARY, HeaderValue::from_static("Accept-Encoding")));
    if coding::choose(request, &[Coding::Gzip]) != Coding::Gzip {
        return body;
    }
    match coding::compress_quickly(&body) {
        Ok(packed) if packed.len() < body.len() => {
            headers.push((header::CONTENT_ENCODING, HeaderValue::from_static(Coding::Gzip.name())));
            packed.into()
        }
        _ => body,
    }
}

/// What the page has said of exactly these bytes: a tag, a part, or that nobody may change them.
fn is_bound_to_bytes(name: &HeaderName, value: &HeaderValue) -> bool {
    [header::ETAG, header::CONTENT_RANGE, header::CONTENT_ENCODING].contains(name)
        || *name == header::CACHE_CONTROL && value.to_str().is_ok_and(|value| value.contains("no-transform"))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

    fn packed(
        accepted: &'static str,
        content_type: &HeaderValue,
        set: &[(HeaderName, &'static str)],
    ) -> (usize, usize) {
        let request = TestRequest::get().insert_header((header::ACCEPT_ENCODING, accepted)).to_http_request();
        let mut headers: Vec<_> =
            set.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let body = pack_page(&request, content_type, &mut headers, "<p>a</p>".repeat(1_000).into());
        (body.len(), headers.len() - set.len())
    }

    #[test]
    fn a_page_is_compressed_for_who_takes_gzip_and_says_that_it_depends_on_that() {
        let (length, said) = packed("gzip, br", &HTML, &[]);
        assert!(length < 500 && said == 2, "{length}");
        assert_eq!(packed("br", &HTML, &[]), (8_000, 1));
    }

    #[test]
    fn what_is_bound_to_its_bytes_or_no_text_stays_as_it_is() {
        for set in [(header::ETAG, "\"a\""), (header::CACHE_CONTROL, "public, no-transform")] {
            assert_eq!(packed("gzip", &HTML, &[set]), (8_000, 0));
        }
        assert_eq!(packed("gzip", &HeaderValue::from_static("application/pdf"), &[]), (8_000, 0));
    }
}
