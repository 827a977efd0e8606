//! `url()`: a path of this webapp as a link. It never leads to another server.

use minijinja::{
    AutoEscape, Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind},
};

use crate::{names::ContextPath, webapp::path};

/// The link to a path within the webapp, with these query parameters: a list is several of one name, and what is undefined or
/// none is left out. Marked safe where it has nothing to escape, so that slashes stay readable in HTML.
pub(super) fn url(state: &State<'_, '_>, context: &ContextPath, to: &str, query: &Kwargs) -> Result<Value, Error> {
    let link = link(context, to, query)?;
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-._~/?=%:@+,#".contains(&b);
    // In JSON it is a string like any other.
    let is_readable = matches!(state.auto_escape(), AutoEscape::Html) && link.bytes().all(harmless);
    Ok(if is_readable { Value::from_safe_string(link) } else { Value::from(link) })
}

fn link(context: &ContextPath, to: &str, query: &Kwargs) -> Result<String, Error> {
    let query = encoded(query)?;
    let (to, fragment) = to.split_at(to.find('#').unwrap_or(to.len()));
    let mark = match (query.is_empty(), to.contains('?')) {
        (true, _) => "",
        (false, true) => "&",
        (false, false) => "?",
    };
    // Two slashes, or a backslash that browsers take for one, would make the next word a host.
    let to = to.trim_start_matches(['/', '\\', '\t', '\n', '\r', ' ']);
    Ok(format!("{}/{}{mark}{query}{}", path::encode(context.as_str()), kept(to), kept(fragment)))
}

/// Percent-encodes what may not stand in a URL (RFC 3986); what is encoded, or divides it, stays.
pub(super) fn kept(url: &str) -> String {
    let mut kept = String::with_capacity(url.len());
    for byte in url.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~%:/?#[]@!$&'()*+,;=".contains(&byte) {
            kept.push(byte.into());
        } else {
            kept.push_str(&format!("%{byte:02X}"));
        }
    }
    kept
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(super) fn component(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn encoded(query: &Kwargs) -> Result<String, Error> {
    let mut pairs = Vec::new();
    for name in query.args() {
        let value: Value = query.get(name)?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for value in value.try_iter()? {
                    pairs.extend(pair(name, &value)?);
                }
            }
            _ => pairs.extend(pair(name, &value)?),
        }
    }
    Ok(pairs.join("&"))
}

fn pair(name: &str, value: &Value) -> Result<Option<String>, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(None),
        ValueKind::String | ValueKind::Number | ValueKind::Bool => {
            Ok(Some(format!("{}={}", component(name), component(&value.to_string()))))
        }
        kind => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("a query parameter {name:?} of {kind} has no text")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(to: &str) -> String {
        let none = Kwargs::from_iter(std::iter::empty::<(String, Value)>());
        super::link(&ContextPath::root(), to, &none).unwrap()
    }

    #[test]
    fn a_link_stays_on_this_server() {
        for to in
            ["//evil.example/a", "/\\evil.example/a", "\\\\evil.example/a", "/\t/evil.example/a", " //evil.example/a"]
        {
            assert!(link(to).starts_with("/evil.example/a"), "{to:?} {}", link(to));
        }
        assert_eq!(link("https://evil.example"), "/https://evil.example");
        assert_eq!(link("/a\r\nb"), "/a%0D%0Ab");
    }

    #[test]
    fn what_may_not_stand_in_a_url_is_encoded_and_the_rest_is_not_encoded_twice() {
        assert_eq!(link("/申 請?a=b&c=%20#z"), "/%E7%94%B3%20%E8%AB%8B?a=b&c=%20#z");
        assert_eq!(component("a b&=/申"), "a%20b%26%3D%2F%E7%94%B3");
    }
}
