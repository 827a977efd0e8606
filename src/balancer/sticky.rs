//! Which session a request belongs to, and where that session was last answered. Reads text, decides nothing.

use crate::{limits, names::SessionId};

/// How session ids are written in requests.
#[derive(Debug)]
pub(crate) struct Sticky {
    cookie: Box<str>,
    /// The cookie's name in lower case (servlet specification 7.1.3), as `;jsessionid=`.
    parameter: Box<str>,
}

/// What a request says of its session. Both parts are the client's word only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// The session's name, without the route.
    pub(crate) id: &'a str,
    /// What stands behind the dot.
    pub(crate) route: Option<&'a str>,
}

impl Sticky {
    /// `cookie` is the name of the session cookie.
    pub(crate) fn new(cookie: &str) -> Self {
        Self { cookie: cookie.into(), parameter: format!(";{}=", cookie.to_ascii_lowercase()).into() }
    }

    /// Finds the session of a request; the path parameter wins over cookies, as in httpd.
    ///
    /// Of several cookies of the name (nested webapps) the first one counts whose route `is_member`; when none has
    /// one, a cookie of any name that holds an id of ours and such a route, for a webapp may name its own; else the first.
    /// At most [`limits::SESSION_COOKIES_TRIED`] of either kind are looked at.
    pub(crate) fn find<'a>(
        &self,
        path: &'a str,
        cookie_headers: impl Iterator<Item = &'a [u8]>,
        is_member: impl Fn(&str) -> bool,
    ) -> Option<Token<'a>> {
        if let Some(token) = self.in_path(path) {
            return Some(token);
        }
        let (mut first, mut named_otherwise) = (None, None);
        let (mut left, mut others_left) = (limits::SESSION_COOKIES_TRIED, limits::SESSION_COOKIES_TRIED);
        for (name, token) in cookie_headers.flat_map(cookies) {
            let is_of_member = token.route.is_some_and(&is_member);
            if name == &*self.cookie && left > 0 {
                left -= 1;
                if is_of_member {
                    return Some(token);
                }
                first = first.or(Some(token));
            } else if name != &*self.cookie && others_left > 0 && matches!(token.key(), Key::Session(_)) {
                others_left -= 1;
                named_otherwise = named_otherwise.or(Some(token).filter(|_| is_of_member));
            }
        }
        named_otherwise.or(first)
    }

    fn in_path<'a>(&self, path: &'a str) -> Option<Token<'a>> {
        if !path.contains(';') {
            return None;
        }
        let start = path.find(&*self.parameter)? + self.parameter.len();
        let rest = &path[start..];
        Token::read(rest.split([';', '/', '?', '#']).next().unwrap_or_default())
    }
}

/// Names and values of cookies that may hold a session.
fn cookies(header: &[u8]) -> impl Iterator<Item = (&str, Token<'_>)> {
    header.split(|b| *b == b';').filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.trim().split_once('=')?;
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        Some((name, Token::read(value)?))
    })
}

impl<'a> Token<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (id, route) = text.split_once('.').map_or((text, None), |(id, route)| (id, Some(route)));
        (!id.is_empty()).then_some(Self { id, route: route.filter(|route| !route.is_empty()) })
    }

    /// The bytes a member is chosen by when the session has to move: the sixteen of a [`SessionId`], so that upper and
    /// lower case agree, or those of a foreign id as they are written.
    pub(crate) fn key(&self) -> Key<'a> {
        self.id.parse().map_or(Key::Foreign(self.id), Key::Session)
    }
}

/// What names a session for the rendezvous choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// An id of ours.
    Session(SessionId),
    /// An id of a member that is no tasuki node.
    Foreign(&'a str),
}

impl Key<'_> {
    /// The bytes to hash.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Session(id) => &id.0,
            Self::Foreign(text) => text.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(path: &'a str, cookies: &[&'a str]) -> Option<(&'a str, Option<&'a str>)> {
        let known = |route: &str| route == "r1" || route == "r2";
        let found = Sticky::new("JSESSIONID").find(path, cookies.iter().map(|c| c.as_bytes()), known);
        found.map(|token| (token.id, token.route))
    }

    #[test]
    fn the_route_stands_behind_the_dot_of_the_cookie() {
        assert_eq!(find("/", &["a=b; JSESSIONID=ABC.r1; c=d"]), Some(("ABC", Some("r1"))));
        assert_eq!(find("/", &["JSESSIONID=\"ABC.r1\""]), Some(("ABC", Some("r1"))));
        assert_eq!(find("/", &["JSESSIONID=ABC"]), Some(("ABC", None)));
        assert_eq!(find("/", &["JSESSIONID=ABC."]), Some(("ABC", None)));
    }

    #[test]
    fn other_cookies_and_broken_ones_are_no_session() {
        for cookies in ["", ";;;", "XJSESSIONID=A.r1", "JSESSIONID", "JSESSIONIDX=1", "JSESSIONID=", "JSESSIONID=.r1"] {
            assert_eq!(find("/", &[cookies]), None, "{cookies:?}");
        }
        let found = Sticky::new("JSESSIONID").find("/", [&b"JSESSIONID=\xff.r1"[..]].into_iter(), |_| true);
        assert_eq!(found, None);
    }

    #[test]
    fn a_path_parameter_wins_over_a_cookie() {
        let cookie = ["JSESSIONID=ABC.r1"];
        assert_eq!(find("/a;jsessionid=DEF.r2", &cookie), Some(("DEF", Some("r2"))));
        assert_eq!(find("/a;x=1;jsessionid=DEF.r2;y=2/b?c", &cookie), Some(("DEF", Some("r2"))));
        assert_eq!(find("/a;other=1", &cookie), Some(("ABC", Some("r1"))));
    }

    #[test]
    fn of_several_cookies_the_one_of_a_known_member_counts() {
        assert_eq!(find("/", &["JSESSIONID=A.gone; JSESSIONID=B.r2"]), Some(("B", Some("r2"))));
        assert_eq!(find("/", &["JSESSIONID=A.gone", "JSESSIONID=B.r2"]), Some(("B", Some("r2"))));
        assert_eq!(find("/", &["JSESSIONID=A.gone; JSESSIONID=B.lost"]), Some(("A", Some("gone"))));
    }

    #[test]
    fn a_webapp_may_name_its_own_cookie() {
        let id = SessionId([7; 16]).to_string();
        let of = |text: &str| find("/", &[text]).map(|(id, route)| (id.to_owned(), route.map(str::to_owned)));
        let own = |route: &str| Some((id.clone(), Some(route.to_owned())));
        assert_eq!(of(&format!("a=b; SHOPID={id}.r2")), own("r2"));
        assert_eq!(of(&format!("JSESSIONID=A.gone; SHOPID={id}.r2")), own("r2"));
        assert_eq!(of(&format!("SHOPID={id}.r2; JSESSIONID=A.r1")), Some(("A".into(), Some("r1".into()))));
        assert_eq!(of("track=x.r2; version=1.r1"), None, "no id of ours");
        assert_eq!(of(&format!("SHOPID={id}.gone; JSESSIONID=A.lost")), Some(("A".into(), Some("lost".into()))));
        let flood = format!("x={id}.gone; ").repeat(limits::SESSION_COOKIES_TRIED) + &format!("SHOPID={id}.r2");
        assert_eq!(of(&flood), None);
    }

    #[test]
    fn a_flood_of_cookies_is_not_searched() {
        let flood = "JSESSIONID=A.gone; ".repeat(limits::SESSION_COOKIES_TRIED) + "JSESSIONID=B.r2";
        assert_eq!(find("/", &[&flood]), Some(("A", Some("gone"))));
    }

    #[test]
    fn the_key_of_an_id_does_not_depend_on_its_case() {
        let id = SessionId([0xAB; 16]).to_string();
        let lower = id.to_lowercase();
        let key = |id| Token { id, route: None }.key();
        assert_eq!(key(&id), key(&lower));
        assert_eq!(key("tomcat-id").bytes(), b"tomcat-id");
    }
}
