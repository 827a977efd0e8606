//! The session cookie, and the session ids a request brings.

use actix_web::{
    HttpRequest,
    cookie::{Cookie, time::Duration},
    http::header,
};
use smallvec::SmallVec;

use crate::{
    limits,
    names::{ContextPath, Route, SessionId, SessionToken},
    webapp::{CookieRules, Secure},
};

/// What becomes of the cookie with this reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CookieChange {
    /// Nothing.
    Keep,
    /// It names this session, on this node.
    Set(SessionId),
    /// It is removed.
    Clear,
}

/// A session id that a request brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Brought {
    pub(super) token: SessionToken,
    /// Not in a cookie: then it never becomes one, or whoever follows somebody's link would go on in that one's session.
    pub(super) is_in_path: bool,
}

/// The session ids of a request, the likeliest first: the path parameter `;jsessionid=`, then cookies in their order.
///
/// There may be several, for webapps below one another each set a cookie of the same name (RFC 6265 section 5.4).
pub(super) fn tokens(request: &HttpRequest, name: &str) -> SmallVec<[Brought; 2]> {
    let in_path = path_parameter(request.path(), name).into_iter().map(|text| (text, true));
    let in_cookies = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let in_cookies = in_cookies.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| (value.trim().trim_matches('"'), false))
    });
    let mut tokens = SmallVec::<[Brought; 2]>::new();
    for (text, is_in_path) in in_path.chain(in_cookies) {
        let Ok(token) = text.parse::<SessionToken>() else { continue };
        if tokens.len() < limits::SESSION_COOKIES_TRIED && tokens.iter().all(|known| known.token != token) {
            tokens.push(Brought { token, is_in_path });
        }
    }
    tokens
}

/// The cookie for a reply, as its webapp's descriptor has it. `secure`: the client came over TLS.
pub(super) fn cookie<'a>(
    change: CookieChange,
    name: &'a str,
    rules: &'a CookieRules,
    context: &'a ContextPath,
    route: &Route,
    secure: bool,
) -> Option<Cookie<'a>> {
    let mut cookie = match change {
        CookieChange::Keep => return None,
        CookieChange::Set(id) => Cookie::new(name, format!("{id}.{route}")),
        CookieChange::Clear => Cookie::new(name, ""),
    };
    cookie.set_max_age(match change {
        CookieChange::Clear => Some(Duration::ZERO),
        _ => rules.max_age.and_then(|age| Duration::try_from(age).ok()),
    });
    cookie.set_path(rules.path.as_deref().unwrap_or(context.cookie_path()));
    if let Some(domain) = &rules.domain {
        cookie.set_domain(domain);
    }
    if rules.http_only {
        cookie.set_http_only(true);
    }
    cookie.set_same_site(rules.same_site);
    if secure || rules.secure == Secure::Always {
        cookie.set_secure(true);
    }
    Some(cookie)
}

/// The value of `;jsessionid=` in the last path segment that has one.
fn path_parameter<'a>(path: &'a str, cookie: &str) -> Option<&'a str> {
    let parameters = path.split('/').flat_map(|segment| segment.split(';').skip(1));
    let named = parameters.filter_map(|parameter| parameter.split_once('='));
    named.filter(|(key, _)| key.eq_ignore_ascii_case(cookie)).map(|(_, value)| value).last()
}

#[cfg(test)]
mod tests {
    use actix_web::{cookie::SameSite, test::TestRequest};

    use super::*;

    const A: &str = "00000000000000000000000000000001";
    const B: &str = "00000000000000000000000000000002";

    fn ids(request: TestRequest) -> Vec<String> {
        let tokens = tokens(&request.to_http_request(), "JSESSIONID");
        tokens.iter().map(|brought| brought.token.id.to_string()).collect()
    }

    #[test]
    fn the_path_parameter_comes_before_the_cookies() {
        let request = TestRequest::with_uri(&format!("/shop/a;jsessionid={A}.r1?x=1"))
            .insert_header(("Cookie", format!("x=1; JSESSIONID={B}.r2")));
        assert_eq!(ids(request), [A, B]);
    }

    #[test]
    fn what_is_no_id_is_passed_over_and_repetitions_count_once() {
        let line = format!("JSESSIONID=nonsense; JSESSIONID={A}; jsessionid={B}; JSESSIONID={A}");
        assert_eq!(ids(TestRequest::default().insert_header(("Cookie", line))), [A]);
    }

    #[test]
    fn only_so_many_cookies_are_looked_at() {
        let line: Vec<String> = (0..50).map(|n| format!("JSESSIONID={n:032X}")).collect();
        let request = TestRequest::default().insert_header(("Cookie", line.join("; ")));
        assert_eq!(ids(request).len(), limits::SESSION_COOKIES_TRIED);
    }

    fn made(change: CookieChange, rules: &CookieRules, secure: bool) -> Option<String> {
        let (context, route) = ("/shop".parse().unwrap(), "r1".parse().unwrap());
        let name = rules.name.as_deref().unwrap_or("JSESSIONID");
        cookie(change, name, rules, &context, &route, secure).map(|cookie| cookie.to_string())
    }

    #[test]
    fn the_cookie_is_closed_to_scripts_and_to_other_sites() {
        let (id, rules) = (A.parse().unwrap(), CookieRules::default());
        let plain = format!("JSESSIONID={A}.r1; HttpOnly; SameSite=Lax; Path=/shop");
        assert_eq!(made(CookieChange::Set(id), &rules, false).unwrap(), plain);
        assert!(made(CookieChange::Set(id), &rules, true).unwrap().contains("; Secure"));
        assert!(made(CookieChange::Clear, &rules, false).unwrap().contains("Max-Age=0"));
        assert_eq!(made(CookieChange::Keep, &rules, true), None);
    }

    #[test]
    fn the_cookie_is_as_the_descriptor_says_also_when_it_is_removed() {
        let rules = CookieRules {
            name: Some("SHOPID".into()),
            path: Some("/".into()),
            domain: Some("example.com".into()),
            http_only: false,
            secure: Secure::Always,
            same_site: SameSite::None,
            max_age: Some(std::time::Duration::from_secs(600)),
        };
        let set = made(CookieChange::Set(A.parse().unwrap()), &rules, false).unwrap();
        let as_said = "SameSite=None; Secure; Path=/; Domain=example.com; Max-Age=600";
        assert_eq!(set, format!("SHOPID={A}.r1; {as_said}"));
        let cleared = made(CookieChange::Clear, &rules, false).unwrap();
        assert_eq!(cleared, format!("SHOPID=; {}", as_said.replace("600", "0")));
    }
}
