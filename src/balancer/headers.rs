//! Heads on their way through the door: what is dropped, what is set, and the step between the two `http` crates
//! (actix-web speaks 0.2, hyper speaks 1). Nothing is copied as raw text: every head is written anew from its fields.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{self as front, header as front_header},
};
use bytes::{Bytes, BytesMut};
use hyper::{
    Uri,
    body::Body,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use ipnet::IpNet;
use smallvec::SmallVec;

use super::{choice::Attempt, client::Scheme, pages::Refusal};
use crate::limits;

/// To nodes: `stay` or `move`.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("tasuki-attempt");

/// From nodes, with 503: the request was not executed; a route, or `any`.
pub(crate) const RETRY: &str = "tasuki-retry";

/// Any other member may do it; where there is none, the node's own answer is for the client. Nothing was changed.
pub(crate) const ANY_NOT_DONE: &[u8] = b"any;not-done";

/// The same of a request that may be done twice, and perhaps was done.
pub(crate) const ANY_IN_DOUBT: &[u8] = b"any;in-doubt";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The most that an address takes as text, and what stands around it in `Forwarded`: room, not bounds.
const LONGEST_ADDRESS: usize = 45;
const FORWARDED_FRAME: usize = 40;

/// The head of a request, checked, as far as it is the same for every attempt.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    request: &'a HttpRequest,
    method: hyper::Method,
    uri: Uri,
    host: HeaderValue,
    peer: Option<IpAddr>,
    scheme: Scheme,
    /// The client's own forwarding headers are believed.
    trusted: bool,
    /// Fields that the client's `Connection` names.
    named: SmallVec<[&'a str; 4]>,
    websocket: bool,
}

impl<'a> Head<'a> {
    /// Checks what actix-web has parsed. `listen` is this balancer's own address.
    ///
    /// # Errors
    /// 400 for a `Host` or a target that is none, 414 and 431 above the bounds of [`limits`], 417 for an `Expect` that asks
    /// for anything but 100-continue.
    pub(crate) fn read(
        request: &'a HttpRequest,
        trusted_proxies: &[IpNet],
        listen: SocketAddr,
    ) -> Result<Self, Refusal> {
        check_form(request)?;
        check_expectation(request)?;
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        if target.len() > limits::REQUEST_TARGET_BYTES {
            return Err(Refusal::TargetTooLong);
        }
        let fields = request.headers();
        let bytes: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if bytes > limits::REQUEST_HEADERS_BYTES {
            return Err(Refusal::HeadersTooLarge);
        }
        let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
        Ok(Self {
            request,
            method: request.method().as_str().parse().map_err(|_| Refusal::BadRequest)?,
            uri: target.parse().map_err(|_| Refusal::BadRequest)?,
            host: host(request, listen)?,
            peer,
            scheme: Scheme::of(request),
            trusted: peer.is_some_and(|peer| trusted_proxies.iter().any(|net| net.contains(&peer))),
            named: named_by_connection(request),
            websocket: asks_for_websocket(request)?,
        })
    }

    /// The request wants to become a WebSocket.
    pub(crate) fn websocket(&self) -> bool {
        self.websocket
    }

    /// As the client sent it.
    pub(crate) fn front(&self) -> &'a HttpRequest {
        self.request
    }

    /// The method.
    pub(crate) fn method(&self) -> &hyper::Method {
        &self.method
    }

    /// The request for one attempt.
    ///
    /// Hop-by-hop fields (RFC 9110 section 7.6.1) and those that `Connection` names are gone, so are `Expect` (answered
    /// by actix-web), `Tasuki-*`, fields with `_` in their names (CGI-like applications take them for others), and, of a
    /// client that is no trusted proxy, all it says of forwarding. Then ours are set: no `Connection: X-Forwarded-For`
    /// of a client can take them away (httpd CVE-2022-31813).
    ///
    /// # Errors
    /// 400 for a field that hyper does not take.
    pub(crate) fn request<B: Body>(&self, attempt: Attempt, body: B) -> Result<hyper::Request<B>, Refusal> {
        let length = body.size_hint().exact();
        let mut request = hyper::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        let fields = request.headers_mut();
        fields.reserve(self.request.headers().len() + 6);
        fields.insert(header::HOST, self.host.clone());
        let going = || self.request.headers().iter().filter(|(name, _)| self.goes_on(name.as_str()));
        // One allocation for all values; each is a part of it.
        let mut values = BytesMut::with_capacity(going().map(|(_, value)| value.len()).sum());
        for (name, value) in going() {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|_| Refusal::BadRequest)?;
            values.extend_from_slice(value.as_bytes());
            let value = HeaderValue::from_maybe_shared(values.split().freeze()).map_err(|_| Refusal::BadRequest)?;
            fields.append(name, value);
        }
        self.frame(length, fields);
        if self.request.version() == front::Version::HTTP_2 {
            join_cookies(fields);
        }
        self.sign(fields);
        fields.insert(ATTEMPT, HeaderValue::from_static(attempt.as_str()));
        if self.websocket {
            fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        Ok(request)
    }

    /// Where hyper would say nothing: it takes a GET of unknown length for one without a body, and sends no length of nothing,
    /// which some servers answer 411.
    fn frame(&self, length: Option<u64>, fields: &mut HeaderMap) {
        match length {
            None => drop(fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
            Some(0) if self.request.headers().contains_key(front_header::CONTENT_LENGTH) => {
                fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            Some(_) => {}
        }
    }

    fn goes_on(&self, name: &str) -> bool {
        let ours = matches!(name, "host" | "content-length" | "expect");
        let about_forwarding = name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-");
        !(ours
            || is_hop_by_hop(name)
            || name.starts_with("tasuki-")
            || name.contains('_')
            || about_forwarding && !self.trusted
            || self.named.iter().any(|named| named.eq_ignore_ascii_case(name)))
    }

    /// Says where the request came from. A trusted proxy's words about host and protocol stand, its lists are extended.
    fn sign(&self, fields: &mut HeaderMap) {
        let mut text = BytesMut::with_capacity(2 * LONGEST_ADDRESS + FORWARDED_FRAME + self.host.len());
        self.write_peer(&mut text);
        extend(fields, FORWARDED_FOR, text.split().freeze());
        self.write_forwarded(&mut text);
        extend(fields, header::FORWARDED, text.freeze());
        fields.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(self.scheme.as_str()));
        fields.entry(FORWARDED_HOST).or_insert_with(|| self.host.clone());
    }

    fn write_peer(&self, text: &mut BytesMut) {
        match self.peer {
            Some(peer) => drop(write!(text, "{peer}")),
            None => text.extend_from_slice(b"unknown"),
        }
    }

    /// RFC 7239 section 4: an IPv6 address stands in brackets and quotes.
    fn write_forwarded(&self, text: &mut BytesMut) {
        let (before, after) = if let Some(IpAddr::V6(_)) = self.peer { ("for=\"[", "]\"") } else { ("for=", "") };
        text.extend_from_slice(before.as_bytes());
        self.write_peer(text);
        for part in [after, ";host=\"", self.host.to_str().unwrap_or_default(), "\";proto=", self.scheme.as_str()] {
            text.extend_from_slice(part.as_bytes());
        }
    }
}

/// An HTTP/2 client may cut its cookies into a field each; for HTTP/1 they are one again (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        fields.insert(header::COOKIE, whole);
    }
}

/// Appends one entry to a comma-separated list that may already stand in one or more fields.
fn extend(fields: &mut HeaderMap, name: HeaderName, entry: Bytes) {
    let list = match fields.contains_key(&name) {
        true => {
            let known = fields.get_all(&name).iter().filter(|value| value.to_str().is_ok()).map(HeaderValue::as_bytes);
            known.chain([&entry[..]]).collect::<Vec<_>>().join(&b", "[..]).into()
        }
        false => entry,
    };
    if let Ok(value) = HeaderValue::from_maybe_shared(list) {
        fields.insert(name, value);
    }
}

/// Fields that end at each hop.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

fn named_by_connection(request: &HttpRequest) -> SmallVec<[&str; 4]> {
    names(request.headers().get_all(front_header::CONNECTION).filter_map(|value| value.to_str().ok()))
}

/// Of comma-separated lists.
fn names<'a>(lists: impl Iterator<Item = &'a str>) -> SmallVec<[&'a str; 4]> {
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// Whether the request wants to become a WebSocket (RFC 6455 section 4.1).
///
/// # Errors
/// 400 when it says so in any other way: actix-http shows everything behind `Upgrade: websocket` as the body, so such a
/// request cannot be forwarded as an ordinary one. Other tokens of `Upgrade` are dropped.
fn asks_for_websocket(request: &HttpRequest) -> Result<bool, Refusal> {
    let fields = request.headers();
    let mut upgrades = fields.get_all(front_header::UPGRADE).filter_map(|value| value.to_str().ok());
    if !upgrades.any(|token| token.trim().eq_ignore_ascii_case("websocket")) {
        return Ok(false);
    }
    let good = request.method() == front::Method::GET
        && request.version() == front::Version::HTTP_11
        && !fields.contains_key(front_header::TRANSFER_ENCODING)
        && !fields.contains_key(front_header::CONTENT_LENGTH)
        && named_by_connection(request).iter().any(|name| name.eq_ignore_ascii_case("upgrade"));
    if good { Ok(true) } else { Err(Refusal::BadRequest) }
}

/// RFC 9112 section 3.2: a target is a path, a whole URL, or, for OPTIONS alone, an asterisk. `GET shop.example:80`, the
/// form of CONNECT, would otherwise be `/` at a host of the client's choice.
fn check_form(request: &HttpRequest) -> Result<(), Refusal> {
    let good = match request.uri().scheme_str() {
        Some(scheme) => matches!(scheme, "http" | "https"),
        None if request.uri().authority().is_some() => false,
        None if request.uri().path() == "*" => request.method() == front::Method::OPTIONS,
        None => request.uri().path().starts_with('/'),
    };
    if good { Ok(()) } else { Err(Refusal::BadRequest) }
}

/// RFC 9110 section 10.1.1: there is one expectation. A client of HTTP/1.0 has none.
fn check_expectation(request: &HttpRequest) -> Result<(), Refusal> {
    let known = |value: &front_header::HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue");
    let http10 = request.version() == front::Version::HTTP_10;
    let good = http10 || request.headers().get_all(front_header::EXPECT).all(known);
    if good { Ok(()) } else { Err(Refusal::ExpectationFailed) }
}

/// The host the client asked for: of an absolute target it is the target's (RFC 9112 section 3.2.2); a client of
/// HTTP/1.0 that names none means the address it connected to. An HTTP/2 client that names two, and differently, is refused
/// (RFC 9113 section 8.3.1), and so is one that names none.
fn host(request: &HttpRequest, listen: SocketAddr) -> Result<HeaderValue, Refusal> {
    let http2 = request.version() == front::Version::HTTP_2;
    let named = request.headers().get(front_header::HOST).map(|host| host.as_bytes());
    let host = match (request.uri().authority().map(|authority| authority.as_str().as_bytes()), named) {
        (Some(target), Some(named)) if http2 && !target.eq_ignore_ascii_case(named) => return Err(Refusal::BadRequest),
        (Some(target), _) => HeaderValue::from_bytes(target),
        (None, Some(named)) => HeaderValue::from_bytes(named),
        (None, None) if http2 => return Err(Refusal::BadRequest),
        (None, None) => HeaderValue::from_bytes(listen.to_string().as_bytes()),
    };
    let host = host.map_err(|_| Refusal::BadRequest)?;
    if is_host(host.as_bytes()) { Ok(host) } else { Err(Refusal::BadRequest) }
}

/// RFC 3986 section 3.2.2: a name or an address, and perhaps a port. Nobody's user name (RFC 9110 section 4.2.4).
fn is_host(text: &[u8]) -> bool {
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|b| *b == b']') {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => return false,
        },
        None => text.split_at(text.iter().position(|b| *b == b':').unwrap_or(text.len())),
    };
    let in_brackets = text.starts_with(b"[");
    let of_a_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(b);
    let of_an_address = |b: &u8| b.is_ascii_hexdigit() || b":.".contains(b);
    let good = if in_brackets { host.iter().all(of_an_address) } else { host.iter().all(of_a_name) };
    let port_is_good = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    good && port_is_good && !host.is_empty()
}

/// Gives a member's head to the client: the status and every field that does not end here.
///
/// `Content-Length` is left out: the body says how long it is.
///
/// # Errors
/// 502 for a status or a field that actix-web does not take, and for an answer whose end is in doubt.
pub(crate) fn to_client<B>(answer: &hyper::Response<B>) -> Result<HttpResponse, Refusal> {
    check_framing(answer)?;
    let status = front::StatusCode::from_u16(answer.status().as_u16()).map_err(|_| Refusal::BadGateway)?;
    let mut response = HttpResponse::new(status);
    let connection = answer.headers().get_all(header::CONNECTION);
    let named = names(connection.iter().filter_map(|value| value.to_str().ok()));
    let fields = response.headers_mut();
    for (name, value) in answer.headers() {
        let text = name.as_str();
        let ends = is_hop_by_hop(text) || text == "content-length" || text == RETRY || text == "tasuki-control";
        if ends || named.iter().any(|named| named.eq_ignore_ascii_case(text)) {
            continue;
        }
        let name = front_header::HeaderName::from_bytes(text.as_bytes()).map_err(|_| Refusal::BadGateway)?;
        let value = front_header::HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Refusal::BadGateway)?;
        fields.append(name, value);
    }
    Ok(response)
}

/// RFC 9112 section 6.3: two lengths, or a transfer coding that is not the chunked one alone, may be the work of somebody who
/// wants the rest of an answer to be read as another one.
fn check_framing<B>(answer: &hyper::Response<B>) -> Result<(), Refusal> {
    let mut codings = answer.headers().get_all(header::TRANSFER_ENCODING).iter();
    let good = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
                && answer.version() == hyper::Version::HTTP_11
                && !answer.headers().contains_key(header::CONTENT_LENGTH)
        }
        _ => false,
    };
    if good { Ok(()) } else { Err(Refusal::BadGateway) }
}

/// The host that a client asked for, as it says: of the target, or `Host`.
pub(crate) fn named_host(request: &HttpRequest) -> Option<&str> {
    let host = || request.headers().get(front_header::HOST)?.to_str().ok();
    request.uri().authority().map(|authority| authority.as_str()).or_else(host)
}

/// Whether a request came through another proxy, by its own word. Only used to refuse.
pub(crate) fn came_through_a_proxy(request: &HttpRequest) -> bool {
    ["x-forwarded-for", "forwarded", "via", "x-real-ip"].iter().any(|name| request.headers().contains_key(*name))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use http_body_util::Empty;

    use super::*;

    const PEER: &str = "10.1.2.3:4444";
    const LISTEN: &str = "10.0.0.1:12121";

    fn read(request: &HttpRequest, trusted: &[&str]) -> Result<HeaderMap, Refusal> {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        Ok(Head::read(request, &trusted, LISTEN.parse().unwrap())?
            .request(Attempt::Stay, Empty::<Bytes>::new())?
            .headers()
            .clone())
    }

    fn from_peer() -> TestRequest {
        TestRequest::get().uri("/a?b=c").peer_addr(PEER.parse().unwrap()).insert_header(("host", "shop.example:80"))
    }

    #[test]
    fn the_origin_is_set_from_the_connection() {
        let fields = read(&from_peer().to_http_request(), &[]).unwrap();
        assert_eq!(fields["x-forwarded-for"], "10.1.2.3");
        assert_eq!(fields["x-forwarded-proto"], "http");
        assert_eq!(fields["x-forwarded-host"], "shop.example:80");
        assert_eq!(fields["forwarded"], "for=10.1.2.3;host=\"shop.example:80\";proto=http");
        assert_eq!(fields["host"], "shop.example:80");
        assert_eq!(fields["tasuki-attempt"], "stay");
    }

    #[test]
    fn a_client_cannot_forge_where_it_comes_from() {
        let request = from_peer()
            .insert_header(("x-forwarded-for", "1.1.1.1"))
            .insert_header(("forwarded", "for=1.1.1.1"))
            .insert_header(("x-forwarded-proto", "https"))
            .insert_header(("x-real-ip", "1.1.1.1"))
            .insert_header(("x_forwarded_for", "1.1.1.1"))
            .insert_header(("tasuki-attempt", "move"))
            .insert_header(("tasuki-control", "1"))
            .insert_header(("connection", "close, X-Forwarded-For, Tasuki-Attempt, Host"));
        let fields = read(&request.to_http_request(), &[]).unwrap();
        assert!(fields.values().all(|value| !value.to_str().unwrap().contains("1.1.1.1")), "{fields:?}");
        assert_eq!(fields["x-forwarded-for"], "10.1.2.3");
        assert_eq!(fields["x-forwarded-proto"], "http");
        assert_eq!(fields["tasuki-attempt"], "stay");
        assert_eq!(fields["host"], "shop.example:80");
        assert!(!fields.contains_key("tasuki-control"));
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_its_lists_are_extended() {
        let request = from_peer()
            .insert_header(("x-forwarded-for", "1.1.1.1"))
            .append_header(("x-forwarded-for", "2.2.2.2"))
            .insert_header(("x-forwarded-proto", "https"))
            .insert_header(("forwarded", "for=1.1.1.1;proto=https"));
        let fields = read(&request.to_http_request(), &["10.0.0.0/8"]).unwrap();
        assert_eq!(fields["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.1.2.3");
        assert_eq!(fields.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(fields["x-forwarded-proto"], "https");
        assert_eq!(fields["forwarded"], "for=1.1.1.1;proto=https, for=10.1.2.3;host=\"shop.example:80\";proto=http");
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let request = from_peer()
            .insert_header(("connection", "keep-alive, x-private"))
            .insert_header(("x-private", "1"))
            .insert_header(("keep-alive", "timeout=5"))
            .insert_header(("te", "trailers"))
            .insert_header(("upgrade", "h2c"))
            .insert_header(("proxy-authorization", "x"))
            .insert_header(("expect", "100-continue"))
            .insert_header(("accept", "*/*"))
            .append_header(("cookie", "a=1"))
            .append_header(("cookie", "b=2"));
        let fields = read(&request.to_http_request(), &[]).unwrap();
        for gone in ["connection", "x-private", "keep-alive", "te", "upgrade", "proxy-authorization", "expect"] {
            assert!(!fields.contains_key(gone), "{gone} went on");
        }
        assert_eq!(fields["accept"], "*/*");
        assert_eq!(fields.get_all("cookie").iter().count(), 2);
    }

    #[test]
    fn odd_bytes_go_on_and_never_panic() {
        let odd = front_header::HeaderValue::from_bytes(b"caf\xe9 \xff").unwrap();
        let request = from_peer().insert_header(("x-odd", odd)).to_http_request();
        assert_eq!(read(&request, &[]).unwrap()["x-odd"].as_bytes(), b"caf\xe9 \xff");
        let answer = hyper::Response::builder().header("x-odd", &b"caf\xe9"[..]).body(()).unwrap();
        assert_eq!(to_client(&answer).unwrap().headers().get("x-odd").unwrap().as_bytes(), b"caf\xe9");
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        for bad in
            ["a\"b", "a b", "a/b", "a\\b", "user@host", "", ":80", "a:b", "a:80:80", "[::1", "[::1]x", "[g]", "a, b:1"]
        {
            let request = TestRequest::get().insert_header(("host", bad)).to_http_request();
            assert_eq!(read(&request, &[]).unwrap_err(), Refusal::BadRequest, "{bad}");
        }
        for good in ["a", "a:", "a:8080", "127.0.0.1", "[::1]:80", "xn--eckwd4c7c.example", "a_b"] {
            let request = TestRequest::get().insert_header(("host", good)).to_http_request();
            assert_eq!(read(&request, &[]).unwrap()["host"], good);
        }
        let absolute = TestRequest::get().uri("http://real.example/x").insert_header(("host", "other.example"));
        assert_eq!(read(&absolute.to_http_request(), &[]).unwrap()["host"], "real.example");
    }

    #[test]
    fn a_target_of_another_form_is_refused() {
        let form = |method: front::Method, target: &str| {
            read(&TestRequest::default().method(method).uri(target).insert_header(("host", "x")).to_http_request(), &[])
        };
        for target in ["other.example:80", "other", "ftp://other.example/x", "*"] {
            assert_eq!(form(front::Method::GET, target).unwrap_err(), Refusal::BadRequest, "{target}");
        }
        assert!(form(front::Method::OPTIONS, "*").is_ok());
        assert_eq!(form(front::Method::GET, "https://real.example/x").unwrap()["host"], "real.example");
    }

    #[test]
    fn an_http2_client_names_one_host_and_its_cookies_are_joined() {
        let from = |uri: &str| TestRequest::get().version(front::Version::HTTP_2).uri(uri);
        let request = from("https://shop.example/x")
            .insert_header(("host", "Shop.example"))
            .append_header(("cookie", "a=1"))
            .append_header(("cookie", "b=2"));
        let fields = read(&request.to_http_request(), &[]).unwrap();
        assert_eq!(
            (&fields["host"], &fields["cookie"]),
            (&"shop.example".parse().unwrap(), &"a=1; b=2".parse().unwrap())
        );
        assert_eq!(fields.get_all("cookie").iter().count(), 1);
        assert_eq!(fields["x-forwarded-proto"], "https");
        let two = from("https://shop.example/x").insert_header(("host", "other.example"));
        assert_eq!(read(&two.to_http_request(), &[]).unwrap_err(), Refusal::BadRequest);
        assert_eq!(read(&from("/x").to_http_request(), &[]).unwrap_err(), Refusal::BadRequest);
    }

    #[test]
    fn only_100_continue_can_be_expected() {
        let expects = |what: &'static str| read(&from_peer().insert_header(("expect", what)).to_http_request(), &[]);
        assert!(expects("100-Continue").is_ok());
        for odd in ["200-ok", "100-continue, x", ""] {
            assert_eq!(expects(odd).unwrap_err(), Refusal::ExpectationFailed, "{odd}");
        }
    }

    #[test]
    fn heads_are_bounded() {
        let long = TestRequest::get().uri(&format!("/{}", "a".repeat(limits::REQUEST_TARGET_BYTES))).to_http_request();
        assert_eq!(read(&long, &[]).unwrap_err(), Refusal::TargetTooLong);
        let wide = from_peer().insert_header(("x-wide", "a".repeat(limits::REQUEST_HEADERS_BYTES))).to_http_request();
        assert_eq!(read(&wide, &[]).unwrap_err(), Refusal::HeadersTooLarge);
    }

    #[test]
    fn the_members_words_to_the_balancer_do_not_reach_the_client() {
        let answer = hyper::Response::builder()
            .status(503)
            .header("tasuki-retry", "any")
            .header("tasuki-node", "r1")
            .header("connection", "close, x-private")
            .header("x-private", "1")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(())
            .unwrap();
        let response = to_client(&answer).unwrap();
        assert_eq!(response.status().as_u16(), 503);
        for gone in ["tasuki-retry", "connection", "x-private"] {
            assert!(!response.headers().contains_key(gone), "{gone} went on");
        }
        assert!(response.headers().contains_key("tasuki-node"));
        assert_eq!(response.headers().get_all("set-cookie").count(), 2);
    }

    #[test]
    fn a_websocket_is_asked_for_in_one_way_only() {
        let asks = |upgrade: &'static str, connection: &'static str| {
            let request = from_peer().insert_header(("upgrade", upgrade)).insert_header(("connection", connection));
            asks_for_websocket(&request.to_http_request())
        };
        assert_eq!(asks("WebSocket", "keep-alive, Upgrade"), Ok(true));
        assert_eq!(asks("h2c", "upgrade"), Ok(false));
        assert_eq!(asks("websocket", "keep-alive"), Err(Refusal::BadRequest));
    }
}
