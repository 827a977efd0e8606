//! Response headers by context parameter: `response.header.NAME`.

use actix_web::http::header::{self, HeaderName, HeaderValue};

use crate::limits;

/// Reads a parameter whose name went on with `name` behind the prefix.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let header = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no header name"))?;
    if belongs_to_the_server(&header) {
        return Err(format!("the header {name} is set by the server, for each reply as it must be"));
    }
    if value.len() > limits::PAGE_HEADER_BYTES {
        return Err(format!("a header has at most {} bytes", limits::PAGE_HEADER_BYTES));
    }
    let value =
        HeaderValue::try_from(value).map_err(|_| format!("{name}: a header is one line of visible characters"))?;
    Ok((header, value))
}

/// What says where a message ends, what is in it, or belongs to one connection (RFC 9110, 7.6.1), and cookies, of which
/// there are several.
fn belongs_to_the_server(name: &HeaderName) -> bool {
    const OURS: [HeaderName; 17] = [
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::DATE,
        header::ETAG,
        header::LAST_MODIFIED,
        header::LOCATION,
        header::PROXY_AUTHENTICATE,
        header::RETRY_AFTER,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::VARY,
    ];
    let others = ["keep-alive", "proxy-connection"];
    OURS.contains(name) || others.contains(&name.as_str()) || name.as_str().starts_with("tasuki-")
}
