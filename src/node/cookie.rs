//! The session cookie, and the session ids a request brings.

use actix_web::{
    HttpRequest,
    cookie::{Cookie, SameSite, time::Duration},
    http::header,
};
use smallvec::SmallVec;

use crate::{
    limits,
    names::{ContextPath, Route, SessionId, SessionToken},
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

/// The session ids of a request, the likeliest first: the path parameter `;jsessionid=`, then cookies in their order.
///
/// There may be several, for webapps below one another each set a cookie of the same name (RFC 6265 section 5.4).
pub(super) fn tokens(request: &HttpRequest, name: &str) -> SmallVec<[SessionToken; 2]> {
    let in_path = path_parameter(request.path(), name);
    let in_cookies = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let in_cookies = in_cookies.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    });
    let mut tokens = SmallVec::new();
    for token in in_path.into_iter().chain(in_cookies).filter_map(|text| text.parse::<SessionToken>().ok()) {
        if tokens.len() < limits::SESSION_COOKIES_TRIED && !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens
}

/// The cookie for a reply. `secure`: the client came over TLS.
pub(super) fn cookie<'a>(
    change: CookieChange,
    name: &'a str,
    context: &'a ContextPath,
    route: &Route,
    secure: bool,
) -> Option<Cookie<'a>> {
    let cookie = match change {
        CookieChange::Keep => return None,
        CookieChange::Set(id) => Cookie::build(name, format!("{id}.{route}")),
        CookieChange::Clear => Cookie::build(name, "").max_age(Duration::ZERO),
    };
    let cookie = cookie.path(context.cookie_path()).http_only(true).same_site(SameSite::Lax);
    Some(if secure { cookie.secure(true) } else { cookie }.finish())
}

/// The value of `;jsessionid=` in the last path segment that has one.
fn path_parameter<'a>(path: &'a str, cookie: &str) -> Option<&'a str> {
    let parameters = path.split('/').flat_map(|segment| segment.split(';').skip(1));
    let named = parameters.filter_map(|parameter| parameter.split_once('='));
    named.filter(|(key, _)| key.eq_ignore_ascii_case(cookie)).map(|(_, value)| value).last()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    const A: &str = "00000000000000000000000000000001";
    const B: &str = "00000000000000000000000000000002";

    fn ids(request: TestRequest) -> Vec<String> {
        let tokens = tokens(&request.to_http_request(), "JSESSIONID");
        tokens.iter().map(|token| token.id.to_string()).collect()
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

    #[test]
    fn the_cookie_is_closed_to_scripts_and_to_other_sites() {
        let (context, route) = ("/shop".parse().unwrap(), "r1".parse().unwrap());
        let made =
            |change, secure| cookie(change, "JSESSIONID", &context, &route, secure).map(|cookie| cookie.to_string());
        let id = A.parse().unwrap();
        let plain = format!("JSESSIONID={A}.r1; HttpOnly; SameSite=Lax; Path=/shop");
        assert_eq!(made(CookieChange::Set(id), false).unwrap(), plain);
        assert!(made(CookieChange::Set(id), true).unwrap().contains("; Secure"));
        assert!(made(CookieChange::Clear, false).unwrap().contains("Max-Age=0"));
        assert_eq!(made(CookieChange::Keep, true), None);
    }
}
