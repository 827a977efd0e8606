//! `<cookie-config>`: how the session cookie of one webapp differs from the server's.

use std::time::Duration;

use actix_web::cookie::SameSite;

use super::{Malformed, xml::Element};
use crate::names::ContextPath;

/// The session cookie of a webapp. [`CookieRules::default`] is that of a webapp that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieRules {
    /// Its name; none for `session.cookie`.
    pub name: Option<String>,
    /// Its path, which covers the webapp; none for the context path.
    pub path: Option<String>,
    /// Its domain; none for the host alone.
    pub domain: Option<String>,
    /// Scripts do not see it.
    pub http_only: bool,
    /// When it is sent over TLS only.
    pub secure: Secure,
    /// Whether other sites' requests carry it.
    pub same_site: SameSite,
    /// How long a browser keeps it; none for as long as the browser runs.
    pub max_age: Option<Duration>,
}

/// When a cookie is `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// When the client came over TLS.
    ByConnection,
    /// Always: `<secure>true</secure>`.
    Always,
}

impl Default for CookieRules {
    fn default() -> Self {
        Self {
            name: None,
            path: None,
            domain: None,
            http_only: true,
            secure: Secure::ByConnection,
            same_site: SameSite::Lax,
            max_age: None,
        }
    }
}

/// Reads the element. `unused` is told of every child that means nothing here.
pub(super) fn read(
    config: &Element,
    context: &ContextPath,
    unused: &mut dyn FnMut(&Element),
) -> Result<CookieRules, Malformed> {
    let mut rules = CookieRules::default();
    for child in &config.children {
        match child.name.as_str() {
            "name" => rules.name = Some(name(child)?),
            "path" => rules.path = Some(path(child, context)?),
            "domain" => rules.domain = Some(domain(child)?),
            "http-only" => rules.http_only = truth(child)?,
            "secure" => rules.secure = if truth(child)? { Secure::Always } else { Secure::ByConnection },
            "max-age" => rules.max_age = max_age(child)?,
            "attribute" if child.text_of("attribute-name").eq_ignore_ascii_case("SameSite") => {
                rules.same_site = same_site(child)?;
            }
            "comment" => {}
            _ => unused(child),
        }
    }
    rules.check(context).map_err(|what| config.malformed(what))?;
    Ok(rules)
}

impl CookieRules {
    /// What a browser would throw away is refused here, where somebody reads it (draft-ietf-httpbis-rfc6265bis, 5.7).
    fn check(&self, context: &ContextPath) -> Result<(), String> {
        let is_secure = self.secure == Secure::Always;
        let name = self.name.as_deref().unwrap_or_default().to_ascii_lowercase();
        if self.same_site == SameSite::None && !is_secure {
            return Err("browsers take SameSite=None only from a secure cookie; add <secure>true</secure>".into());
        }
        if name.starts_with("__secure-") && !is_secure {
            return Err("browsers take a __Secure- cookie only if it is secure; add <secure>true</secure>".into());
        }
        let path = self.path.as_deref().unwrap_or(context.cookie_path());
        if name.starts_with("__host-") && !(is_secure && path == "/" && self.domain.is_none()) {
            let needs = "<secure>true</secure>, <path>/</path> and no <domain>";
            return Err(format!("browsers take a __Host- cookie only with {needs}"));
        }
        Ok(())
    }
}

/// A token (RFC 6265, 4.1.1).
fn name(child: &Element) -> Result<String, Malformed> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match child.text.as_str() {
        name if !name.is_empty() && name.len() <= 64 && name.bytes().all(token) => Ok(name.to_owned()),
        name => {
            Err(child
                .malformed(format!("a cookie's name has 1 to 64 letters, digits or !#$%&'*+-.^_`|~, not {name:?}")))
        }
    }
}

/// A path that a browser sends the cookie to when it asks for the webapp (RFC 6265, 5.1.4).
fn path(child: &Element, context: &ContextPath) -> Result<String, Malformed> {
    let (path, own) = (child.text.as_str(), format!("{}/", context.as_str()));
    let covers = own.starts_with(path) && (path.ends_with('/') || own[path.len()..].starts_with('/'));
    if !path.starts_with('/') || !covers || path.contains([';', ',']) || !path.bytes().all(|b| b.is_ascii_graphic()) {
        let what = format!(
            "the path {path:?} does not cover the webapp, which answers at {context}; leave it out or write \"/\""
        );
        return Err(child.malformed(what));
    }
    Ok(path.to_owned())
}

fn domain(child: &Element) -> Result<String, Malformed> {
    let domain = child.text.strip_prefix('.').unwrap_or(&child.text);
    let label = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if domain.len() > 253 || !domain.split('.').all(label) {
        return Err(child.malformed(format!("a domain is a name such as example.com, but this is {:?}", child.text)));
    }
    Ok(domain.to_owned())
}

fn truth(child: &Element) -> Result<bool, Malformed> {
    match child.text.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(child.malformed(format!("<{}> is true or false, but this is {other:?}", child.name))),
    }
}

/// Seconds; less than 0 is the browser's lifetime. With 0 a browser would forget each session at once.
fn max_age(child: &Element) -> Result<Option<Duration>, Malformed> {
    match child.text.parse::<i32>() {
        Ok(0) | Err(_) => {
            Err(child
                .malformed(format!("<max-age> is a number of seconds above 0, or -1, but this is {:?}", child.text)))
        }
        Ok(seconds) => Ok(u64::try_from(seconds).ok().map(Duration::from_secs)),
    }
}

fn same_site(child: &Element) -> Result<SameSite, Malformed> {
    let value = child.text_of("attribute-value");
    match value.to_ascii_lowercase().as_str() {
        "strict" => Ok(SameSite::Strict),
        "lax" => Ok(SameSite::Lax),
        "none" => Ok(SameSite::None),
        _ => Err(child.malformed(format!("SameSite is Strict, Lax or None, but this is {value:?}"))),
    }
}
