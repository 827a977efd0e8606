//! The names that travel: between nodes, in cookies, in configuration and on paths.
//!
//! Each is checked once, where text becomes meaning; afterwards a value of the type is proof that the rule holds.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits;

/// The stable name of a node, as in Tomcat's `jvmRoute` and mod_proxy_balancer's `route`.
///
/// It stands behind the dot in the session cookie, so it is short and has no dot: 1 to
/// [`limits::ROUTE_BYTES`] of `A-Z a-z 0-9 _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route(Arc<str>);

/// One life of one process: drawn from the operating system's randomness at each start.
///
/// A restarted process is a new member, so nothing that was promised to the old one holds for the new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// Sixteen bytes from the operating system's random source; 32 hexadecimal digits in the cookie.
///
/// The id never changes when a session moves to another node: only the route behind it in the cookie does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

/// What the session cookie carries: an id and, as a hint, the route of the node that wrote the cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// Names the session.
    pub id: SessionId,
    /// Where the session was last answered. A hint for the balancer, never an identity.
    pub route: Option<Route>,
}

/// The path under which a webapp answers: empty for `ROOT`, `/shop`, `/a/b`. Never ends with a slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextPath(Arc<str>);

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// See [`Route`].
    #[error("a route has 1 to {max} characters of A-Z a-z 0-9 _ -, but this is {0:?}", max = limits::ROUTE_BYTES)]
    Route(String),
    /// See [`SessionId`].
    #[error("a session id has 32 hexadecimal digits")]
    SessionId,
    /// See [`ContextPath`].
    #[error("a context path is empty or starts with '/' and has no empty, '.' or '..' segment, but this is {0:?}")]
    ContextPath(String),
}

impl Route {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Route {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if text.is_empty() || text.len() > limits::ROUTE_BYTES || !text.bytes().all(allowed) {
            return Err(BadName::Route(text.chars().take(limits::ROUTE_BYTES + 1).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl NodeId {
    /// Draws the id of this life.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing safe can be done without it.
    pub fn draw() -> Self {
        Self(getrandom::u64().expect("the operating system gives random bytes"))
    }
}

impl SessionId {
    /// Draws an id that nobody can guess.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: a guessable id would be worse than no answer.
    pub fn draw() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        Self(bytes)
    }

    /// The first eight digits, for logs: enough to follow a session, useless to steal it.
    pub fn short(&self) -> impl fmt::Display + use<> {
        let [a, b, c, d, ..] = self.0;
        format_args_hex([a, b, c, d])
    }
}

fn format_args_hex(bytes: [u8; 4]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

impl FromStr for SessionId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let digits: &[u8; 32] = text.as_bytes().try_into().map_err(|_| BadName::SessionId)?;
        let value = |digit: u8| (digit as char).to_digit(16).ok_or(BadName::SessionId);
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl FromStr for SessionToken {
    type Err = BadName;

    /// Reads `<id>` or `<id>.<route>`; a route that is not one is dropped, for it is only a hint.
    fn from_str(text: &str) -> Result<Self, BadName> {
        let (id, route) = text.split_once('.').unwrap_or((text, ""));
        Ok(Self { id: id.parse()?, route: route.parse().ok() })
    }
}

impl ContextPath {
    /// The context of the webapp `ROOT`.
    pub fn root() -> Self {
        Self("".into())
    }

    /// The path as written: empty for `ROOT`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `Path` attribute of this webapp's cookies: Tomcat's rule, without a trailing slash.
    pub fn cookie_path(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }
}

impl FromStr for ContextPath {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let good_segment = |s: &str| !s.is_empty() && s != "." && s != ".." && !s.contains(['\\', '\0', ';', '?', '#']);
        let good = text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(good_segment));
        if !good || text.len() > limits::CONTEXT_PATH_BYTES {
            return Err(BadName::ContextPath(text.chars().take(limits::CONTEXT_PATH_BYTES).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for SessionId {
    /// The whole id, for the cookie. Logs use [`SessionId::short`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.short())
    }
}

impl fmt::Display for ContextPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cookie_path())
    }
}

impl fmt::Debug for ContextPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cookie_path())
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Route, ContextPath);

/// Whether the value of `Host` is an IP literal or localhost, with or without a port: what controls this system answers
/// to no other, for a name under someone else's control could be made to point here (DNS rebinding).
pub fn host_is_local(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    host.parse::<SocketAddr>().is_ok()
        || host.parse::<Ipv4Addr>().is_ok()
        || bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
        || name.eq_ignore_ascii_case("localhost") && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_no_dot_and_a_bounded_length() {
        assert_eq!("r1".parse::<Route>().unwrap().as_str(), "r1");
        for bad in ["", "a.b", "r 1", "r;1", &"x".repeat(limits::ROUTE_BYTES + 1)] {
            assert!(bad.parse::<Route>().is_err(), "{bad:?} is no route");
        }
    }

    #[test]
    fn a_session_id_is_32_hexadecimal_digits_and_nothing_else() {
        let id = SessionId::draw();
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        assert_eq!(id.to_string().to_lowercase().parse::<SessionId>(), Ok(id));
        for bad in ["", "00", &"g".repeat(32), &"0".repeat(33), &format!("{}é", "0".repeat(30))] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad:?} is no id");
        }
    }

    #[test]
    fn a_token_with_a_strange_route_keeps_its_id() {
        let id = SessionId::draw();
        let token: SessionToken = format!("{id}.r2").parse().unwrap();
        assert_eq!((token.id, token.route), (id, "r2".parse().ok()));
        let token: SessionToken = format!("{id}.a b").parse().unwrap();
        assert_eq!((token.id, token.route), (id, None));
    }

    #[test]
    fn a_context_path_never_climbs() {
        for good in ["", "/shop", "/a/b"] {
            assert_eq!(good.parse::<ContextPath>().unwrap().as_str(), good);
        }
        for bad in ["shop", "/", "/a/", "/../etc", "/a//b", "/a/./b"] {
            assert!(bad.parse::<ContextPath>().is_err(), "{bad:?} is no context path");
        }
    }

    #[test]
    fn logs_see_only_a_part_of_the_id() {
        let id = SessionId([0xAB; 16]);
        assert_eq!(format!("{id:?} {}", id.short()), "ABABABAB.. ABABABAB");
    }

    #[test]
    fn only_local_hosts_are_asked_for_orders() {
        for good in ["localhost", "LOCALHOST:12121", "127.0.0.1", "127.0.0.1:12121", "[::1]", "[::1]:80", "10.0.0.5:1"]
        {
            assert!(host_is_local(good), "{good}");
        }
        for bad in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "localhost:x", "[::1"] {
            assert!(!host_is_local(bad), "{bad}");
        }
    }
}
