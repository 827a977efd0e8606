//! What kind of file it is, by its name or as the descriptor says: content type, charset, worth compressing or not.

use actix_web::http::header::HeaderValue;
use mime_guess::Mime;

/// The kind of a file.
#[derive(Clone, Debug)]
pub(super) struct Media {
    plain: HeaderValue,
    /// The same with `charset=utf-8`, for a text whose type does not name a charset already.
    utf8: Option<HeaderValue>,
    compressible: bool,
}

impl Media {
    /// By the descriptor's `mime-mapping`, if there is one that is a content type, or by the end of the name.
    pub(super) fn of(name: &str, declared: Option<&str>) -> Self {
        let parsed = declared.and_then(|text| Some((text.trim().parse::<Mime>().ok()?, text.trim().to_owned())));
        let guessed = || mime_guess::from_path(name).first_or_octet_stream();
        let (mime, text) = parsed.unwrap_or_else(|| (guessed(), guessed().to_string()));
        let names_charset = mime.get_param("charset").is_some();
        let utf8 = (is_text(&mime) && !names_charset).then(|| value(&format!("{text}; charset=utf-8")));
        Self { plain: value(&text), utf8, compressible: is_compressible(&mime) }
    }

    /// Whether the charset depends on the content.
    pub(super) fn wants_charset(&self) -> bool {
        self.utf8.is_some()
    }

    /// Compressing such a file makes it smaller.
    pub(super) fn is_compressible(&self) -> bool {
        self.compressible
    }

    /// The content type of a file that is UTF-8, or is not. A text in an older encoding gets no charset, so that what it
    /// says of itself (`<meta charset="Shift_JIS">`) counts.
    pub(super) fn content_type(&self, is_utf8: bool) -> HeaderValue {
        self.utf8.as_ref().filter(|_| is_utf8).unwrap_or(&self.plain).clone()
    }
}

/// Whether the beginning of a file can be the beginning of a UTF-8 text: a character may be cut at its end.
pub(super) fn looks_like_utf8(beginning: &[u8]) -> bool {
    std::str::from_utf8(beginning).map_or_else(|error| error.error_len().is_none(), |_| true)
}

fn is_text(mime: &Mime) -> bool {
    mime.type_() == "text"
        || matches!(mime.subtype().as_str(), "json" | "javascript" | "xml")
        || mime.suffix().is_some_and(|suffix| suffix == "xml" || suffix == "json")
}

fn is_compressible(mime: &Mime) -> bool {
    let uncompressed = ["application/wasm", "application/vnd.ms-fontobject", "image/x-icon", "image/bmp"];
    is_text(mime) || uncompressed.contains(&mime.essence_str()) || matches!(mime.essence_str(), "font/ttf" | "font/otf")
}

fn value(mime: &str) -> HeaderValue {
    HeaderValue::try_from(mime).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(name: &str, declared: Option<&str>, is_utf8: bool) -> String {
        Media::of(name, declared).content_type(is_utf8).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_text_names_its_charset_and_a_picture_has_none() {
        for (name, expected) in [
            ("/a.css", "text/css; charset=utf-8"),
            ("/a.js", "text/javascript; charset=utf-8"),
            ("/a.json", "application/json; charset=utf-8"),
            ("/a.svg", "image/svg+xml; charset=utf-8"),
            ("/a.png", "image/png"),
            ("/a", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name, None, true), expected, "{name}");
        }
    }

    #[test]
    fn a_text_in_another_encoding_may_say_so_itself() {
        let shift_jis = [0x90, 0x5c, 0x90, 0xbf];
        assert!(!looks_like_utf8(&shift_jis) && looks_like_utf8("申請".as_bytes()));
        assert!(looks_like_utf8(&"申請".as_bytes()[..4]), "a character is cut");
        assert_eq!(content_type("/old.html", None, looks_like_utf8(&shift_jis)), "text/html");
    }

    #[test]
    fn the_descriptor_has_the_last_word() {
        assert_eq!(content_type("/a.html", Some("text/html; charset=Shift_JIS"), true), "text/html; charset=Shift_JIS");
        assert_eq!(content_type("/a.log", Some("text/plain"), true), "text/plain; charset=utf-8");
        assert_eq!(content_type("/a.css", Some("no type"), true), "text/css; charset=utf-8");
    }

    #[test]
    fn what_is_compressed_already_is_not_compressed() {
        for name in ["a.html", "a.svg", "a.js", "a.wasm", "a.ttf", "a.ico", "a.webmanifest"] {
            assert!(Media::of(name, None).is_compressible(), "{name}");
        }
        for name in ["a.png", "a.jpg", "a.woff2", "a.zip", "a.mp4", "a.pdf", "a.gz"] {
            assert!(!Media::of(name, None).is_compressible(), "{name}");
        }
    }
}
