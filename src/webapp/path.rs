//! The path of a request, from the wire to a name that can be looked up: decoded once, never climbing.

use std::borrow::Cow;

/// Why a path names nothing here or anywhere. Answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPath {
    /// It does not start with a slash (`*`, an authority).
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A percent sign without two digits, or bytes that are not UTF-8.
    #[error("the path is not percent-encoded UTF-8")]
    Encoding,
    /// `.` or `..`, or an encoded slash, a backslash or a control character: what programs disagree about.
    #[error("the path has a segment that may not be used")]
    Segment,
}

/// Decodes and normalises the path of a request target.
///
/// Path parameters (`;jsessionid=...`) are cut off each segment before decoding, as the servlet specification has it;
/// empty segments are merged; a slash at the end stays. What is decoded is not decoded again.
pub(super) fn normalise(raw: &str) -> Result<Cow<'_, str>, BadPath> {
    if is_plain(raw) {
        return Ok(Cow::Borrowed(raw));
    }
    let rest = raw.strip_prefix('/').ok_or(BadPath::NotAbsolute)?;
    let mut path = String::with_capacity(raw.len());
    let mut ends_with_slash = true;
    for segment in rest.split('/') {
        let segment = decode(segment.split(';').next().unwrap_or_default())?;
        ends_with_slash = segment.is_empty();
        if !segment.is_empty() {
            check(&segment)?;
            path.push('/');
            path.push_str(&segment);
        }
    }
    if ends_with_slash {
        path.push('/');
    }
    Ok(Cow::Owned(path))
}

/// The path as it can stand in a `Location` header or a link. Starts with exactly one slash if `path` does.
pub(super) fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b'@' | b'+' | b',' => {
                encoded.push(byte as char)
            }
            _ => {
                encoded.push('%');
                encoded.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[digit as usize])));
            }
        }
    }
    encoded
}

/// Whether a name in a webapp's folder is nobody's business: `.git`, `WEB-INF`, `meta-inf`.
pub(super) fn is_private(name: &str) -> bool {
    name.starts_with('.') || name.eq_ignore_ascii_case("WEB-INF") || name.eq_ignore_ascii_case("META-INF")
}

/// The common case, without an allocation: nothing encoded, nothing to merge, no segment that starts with a dot.
fn is_plain(raw: &str) -> bool {
    let mut before = 0;
    let good = |byte: u8| {
        let clean = match byte {
            b'/' | b'.' => before != b'/',
            _ => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~'),
        };
        before = byte;
        clean
    };
    raw.starts_with('/') && raw.bytes().all(good)
}

fn decode(segment: &str) -> Result<Cow<'_, str>, BadPath> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { digit(rest.next())? << 4 | digit(rest.next())? } else { byte });
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| BadPath::Encoding)
}

fn digit(byte: Option<u8>) -> Result<u8, BadPath> {
    byte.and_then(|byte| (byte as char).to_digit(16)).map(|digit| digit as u8).ok_or(BadPath::Encoding)
}

fn check(segment: &str) -> Result<(), BadPath> {
    let strange = |c: char| c == '/' || c == '\\' || c.is_control();
    if segment == "." || segment == ".." || segment.contains(strange) { Err(BadPath::Segment) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_taken_as_it_is() {
        for plain in ["/", "/shop/", "/shop/a-b_c~1.html"] {
            assert!(matches!(normalise(plain), Ok(Cow::Borrowed(path)) if path == plain));
        }
    }

    #[test]
    fn a_path_is_decoded_once_and_merged() {
        for (raw, path) in [
            ("//shop///x", "/shop/x"),
            ("/%E7%94%B3%E8%AB%8B/", "/申請/"),
            ("/a%20b", "/a b"),
            ("/%252e%252e/x", "/%2e%2e/x"),
            ("/shop;jsessionid=AB.r1/x;v=1", "/shop/x"),
            ("/;jsessionid=AB.r1", "/"),
            ("/.git/config", "/.git/config"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn a_path_that_climbs_or_hides_is_refused() {
        let bad = ["", "*", "/..", "/a/../b", "/%2e%2e/b", "/.%2E;x/b", "/a/./b", "/a%2fb", "/a%5Cb", "/a\\b", "/%00"];
        for raw in bad.into_iter().chain(["/%0d%0a", "/%", "/%4", "/%zz", "/%ff", "/..;a=b/x"]) {
            assert!(normalise(raw).is_err(), "{raw:?} is refused");
        }
    }

    #[test]
    fn an_encoded_path_comes_back() {
        for path in ["/", "/申請/a b/", "/\"<>&'?#%"] {
            assert_eq!(normalise(&encode(path)).as_deref(), Ok(path));
        }
    }

    #[test]
    fn private_names_are_private_in_any_letter_case() {
        assert!([".git", "WEB-INF", "web-inf", "Meta-Inf"].into_iter().all(is_private));
        assert!(!["index.html", "WEB-INFO", "a.b"].into_iter().any(is_private));
    }
}
