//! What a page writes: of which type, how values are escaped in it, and how much of it.

use std::io::{self, Write};

use actix_web::http::header::HeaderValue;
use minijinja::{AutoEscape, Error, ErrorKind, HtmlEscape, Output, State, Value, escape_formatter};

use super::templates::produced;
use crate::limits;

/// JSON that may also stand inside `<script>`.
const SCRIPT: &str = "script";

/// HTML's escaping, of those characters only that XML 1.0 has.
const XML: &str = "xml";

/// The body of one rendering.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    written: Vec<u8>,
    is_full: bool,
}

impl Sheet {
    /// More was written than one page may have. The rendering has ended at that point.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// What was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.written
    }
}

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.len() + bytes.len() > limits::PAGE_BYTES {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The type of what a page produces, by its name; text is UTF-8.
pub(in crate::webapp) fn content_type(produced: &str) -> HeaderValue {
    header_of(&mime_guess::from_path(produced).first_or_octet_stream())
}

/// A type as a header; text is UTF-8 where it does not say.
pub(in crate::webapp) fn header_of(mime: &mime_guess::Mime) -> HeaderValue {
    let is_text = mime.type_() == "text"
        || matches!(mime.subtype().as_str(), "json" | "javascript" | "xml")
        || mime.suffix().is_some_and(|suffix| suffix == "xml" || suffix == "json");
    let text = if is_text && mime.get_param("charset").is_none() {
        format!("{}; charset=utf-8", mime.essence_str())
    } else {
        mime.to_string()
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

/// How values are escaped in a template, by the name of what it produces. A name that says nothing is taken for
/// HTML: escaping too much is seen at once, escaping too little is not.
///
/// Text is not escaped, and so is not safe everywhere it may end up: a spreadsheet takes a CSV field that starts with
/// `=`, `+`, `-` or `@` for a formula.
pub(super) fn escaping(name: &str) -> AutoEscape {
    match produced(name).rsplit('.').next() {
        Some("txt" | "csv" | "css" | "md") => AutoEscape::None,
        Some("json" | "js" | "mjs") => AutoEscape::Custom(SCRIPT.into()),
        Some("xml" | "svg" | "rss" | "atom") => AutoEscape::Custom(XML.into()),
        _ => AutoEscape::Html,
    }
}

/// Writes a value as its template escapes it.
pub(super) fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match state.auto_escape() {
        AutoEscape::Custom(_) if value.is_safe() => Ok(write!(out, "{value}")?),
        AutoEscape::Custom(kind) if kind == SCRIPT => Ok(out.write_str(&script(value)?)?),
        AutoEscape::Custom(_) => Ok(write!(out, "{}", HtmlEscape(&xml(&value.to_string())))?),
        _ => escape_formatter(out, state, value),
    }
}

/// A value as JSON, and as JavaScript, also inside `<script>` and before ES2019: what ends a script or a line there stands
/// nowhere in JSON but in strings, and is written as an escape.
fn script(value: &Value) -> Result<String, Error> {
    let json = serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, format!("this has no form in JSON: {error}")))?;
    let special = |c: char| matches!(c, '<' | '>' | '&' | '\'' | '\u{2028}' | '\u{2029}');
    if !json.contains(special) {
        return Ok(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if special(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    Ok(safe)
}

/// A character that XML 1.0 has not (section 2.2), even as a reference, would make the whole document useless.
fn xml(text: &str) -> String {
    let is_one = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|c| if is_one(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}
