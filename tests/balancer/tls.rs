//! The door over TLS, with real handshakes, and over HTTP/2.

use std::{fs, io, os::unix::fs::PermissionsExt, path::PathBuf};

use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

pub(super) const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A folder with a certificate and its key.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> (Self, CertificateDer<'static>) {
        let files = Self(tempfile::tempdir().unwrap());
        let certificate = files.renew();
        (files, certificate)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces both, one after the other, as an ACME client does.
    fn renew(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write("cert.pem", &made.cert.pem());
        self.write("key.pem", &made.signing_key.serialize_pem());
        made.cert.der().clone()
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    fn settings(&self, http2: bool) -> settings::Tls {
        let listen = ([127, 0, 0, 1], 0).into();
        settings::Tls { listen, certificate: self.path("cert.pem"), key: self.path("key.pem"), http2 }
    }
}

pub(super) async fn open_tls(files: &Files, http2: bool, members: Vec<StaticMember>) -> Door {
    open_with(settings::Balancer { tls: Some(files.settings(http2)), ..settings(members) }).await
}

/// A client that believes this certificate alone.
pub(super) async fn connect(
    door: &Door,
    certificate: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(door.tls.unwrap()).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
}

type Sender = http2::SendRequest<Full<Bytes>>;

async fn http2(door: &Door, certificate: &CertificateDer<'static>) -> Sender {
    let stream = connect(door, certificate, BOTH, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    rt::spawn(connection);
    sender
}

async fn send_http2(sender: &mut Sender, request: Request<Full<Bytes>>) -> Reply {
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Reply { status: head.status.as_u16(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}

fn over_tls(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

#[actix_web::test]
async fn tls_1_2_and_1_3_are_spoken_and_the_member_hears_of_it() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    for version in BOTH {
        let mut stream = connect(&door, &certificate, &[version], &["http/1.1"]).await.unwrap();
        let head = b"GET / HTTP/1.1\r\nhost: localhost\r\nx-forwarded-proto: http\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-forwarded-proto: https"), "{answer}");
        assert!(answer.contains("proto=https") && !answer.contains("proto: http\n"), "{answer}");
    }
    assert!(get(&door, "/", &[]).await.text().contains("x-forwarded-proto: http\n"), "the plain port stays plain");
    let (_, other) = Files::new();
    assert!(connect(&door, &other, BOTH, &[]).await.is_err(), "a certificate that the client does not know");
}

#[actix_web::test]
async fn what_is_malformed_is_no_better_over_tls() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    let mut stream = connect(&door, &certificate, BOTH, &[]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx : y\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains("200"), "{answer}");
    assert_eq!(r1.executed(), 0);
    let mut plain = TcpStream::connect(door.tls.unwrap()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "plain text on the port for TLS");
}

#[actix_web::test]
async fn a_new_certificate_is_shown_without_a_restart_and_a_bad_one_is_not() {
    let (r1, (files, first)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    let mut early = http2(&door, &first).await;
    let second = files.renew();
    let shown = async |certificate: &CertificateDer<'static>| {
        let begun = Instant::now();
        while connect(&door, certificate, BOTH, &[]).await.is_err() {
            assert!(begun.elapsed() < DEADLINE * 2, "not shown");
            rt::time::sleep(Duration::from_millis(20)).await;
        }
    };
    shown(&second).await;
    assert!(connect(&door, &first, BOTH, &[]).await.is_err());
    assert_eq!(send_http2(&mut early, over_tls("GET", "/", &[], "")).await.status, 200, "connections stay");
    let strange = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    files.write("key.pem", &strange.signing_key.serialize_pem());
    let begun = Instant::now();
    let mut warnings = of_balancer(&door, "warnings").await;
    while !warnings.to_string().contains("the new certificate is refused, the old one stays: balancer.tls.key ") {
        assert!(begun.elapsed() < DEADLINE * 2, "a key that does not belong to it is not refused: {warnings}");
        rt::time::sleep(Duration::from_millis(20)).await;
        warnings = of_balancer(&door, "warnings").await;
    }
    assert!(connect(&door, &second, BOTH, &[]).await.is_ok(), "the old certificate stays");
    let third = files.renew();
    shown(&third).await;
    assert_eq!(of_balancer(&door, "warnings").await, serde_json::json!([]));
}

#[actix_web::test]
async fn a_certificate_that_cannot_be_used_is_named_at_the_start() {
    let (files, _) = Files::new();
    files.write("key.pem", "no key");
    let settings = settings::Balancer { tls: Some(files.settings(true)), ..settings(vec![]) };
    let error = balancer::start(&settings, &settings::Session::default(), DEADLINE).err().unwrap().to_string();
    assert!(error.starts_with("balancer.tls.key ") && error.contains("no private key"), "{error}");
    assert_eq!(balancer::check_certificate(&files.settings(true)), Err(error), "\"tasuki check\" says the same");
}

#[actix_web::test]
async fn http_2_is_spoken_where_the_client_can() {
    let (r1, r2, (files, certificate)) = (Node::start("r1"), Node::start("r2"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member(), r2.as_member()]).await;
    let mut sender = http2(&door, &certificate).await;
    let headers = [("cookie", "a=1"), ("cookie", &cookie("r2")), ("te", "trailers"), ("x-mine", "kept")];
    let reply = send_http2(&mut sender, over_tls("POST", "/", &headers, "the whole body")).await;
    assert_eq!((reply.status, reply.route()), (200, "r2"));
    let seen = reply.text();
    assert!(seen.starts_with("POST\n") && seen.ends_with("the whole body"), "{seen}");
    let cookies = format!("cookie: a=1; {}", cookie("r2"));
    for line in ["host: localhost", "x-forwarded-proto: https", "x-forwarded-host: localhost", "x-mine: kept", &cookies]
    {
        assert!(seen.lines().any(|seen| seen == line), "{line} is missing in {seen}");
    }
    assert!(!seen.contains("te: trailers"), "{seen}");
    let reply = send_http2(&mut sender, over_tls("HEAD", "/large", &[], "")).await;
    assert_eq!(
        (reply.status, reply.body.len(), &reply.headers["content-length"]),
        (200, 0, &"20971520".parse().unwrap())
    );
    assert_eq!(send_http2(&mut sender, over_tls("GET", "/nothing", &[], "")).await.status, 204);
    assert_eq!(send_http2(&mut sender, over_tls("GET", "/chunked", &[], "")).await.text(), "chunked");
    let reply = send_http2(&mut sender, over_tls("POST", "/count", &[], vec![b'y'; 5 << 20])).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "5242880"));
    assert_eq!(send_http2(&mut sender, over_tls("GET", "/large", &[], "")).await.body.len(), 20 << 20);
    for (method, path, status) in [("TRACE", "/", 405), ("BREW", "/", 501), ("GET", "/.tasuki/duty", 404)] {
        assert_eq!(send_http2(&mut sender, over_tls(method, path, &[], "")).await.status, status, "{method} {path}");
    }
    let many = (0..200).map(|_| {
        let mut sender = sender.clone();
        async move { send_http2(&mut sender, over_tls("GET", "/", &[], "")).await.status }
    });
    let statuses = futures_util::future::join_all(many).await;
    assert_eq!(statuses, vec![200; 200], "more than run at once wait for their turn");
}

#[actix_web::test]
async fn an_http_2_client_that_expects_100_continue_is_answered_all_the_same() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    let mut sender = http2(&door, &certificate).await;
    for (expectation, status) in [("100-continue", 200), ("a miracle", 417)] {
        let request = over_tls("POST", "/count", &[("expect", expectation)], "abc");
        let reply = send_http2(&mut sender, request).await;
        assert_eq!(reply.status, status, "{expectation}");
        assert!(status != 200 || reply.text() == "3");
    }
}

#[actix_web::test]
async fn http_2_clients_leave_a_balancer_that_is_replaced_and_what_runs_is_answered() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let tls = Some(files.settings(true));
    let patient = settings::Balancer { tls, timeout: DEADLINE * 10, ..settings(vec![r1.as_member()]) };
    let door = open_with(patient).await;
    let mut idle = http2(&door, &certificate).await;
    assert_eq!(send_http2(&mut idle, over_tls("GET", "/", &[], "")).await.status, 200);
    let mut busy = http2(&door, &certificate).await;
    let running = rt::spawn(async move { send_http2(&mut busy, over_tls("GET", "/short", &[], "")).await.status });
    wait_for(&door, |members| members[0].busy == 1).await;
    tokio::time::timeout(DEADLINE, door.retire(std::future::pending())).await.expect("its clients stay");
    assert_eq!(running.await.unwrap(), 200);
    assert!(idle.is_closed(), "it was not told");
}

#[actix_web::test]
async fn a_form_of_the_manager_is_taken_over_http_2_too() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    let mut sender = http2(&door, &certificate).await;
    let page = send_http2(&mut sender, over_tls("GET", "/balancer-manager", &[], "")).await;
    let set = page.headers["set-cookie"].to_str().unwrap();
    assert!(set.contains("; Secure"), "{set}");
    let (cookie, text) = (set.split(';').next().unwrap(), page.text());
    let nonce = text.split("name=\"nonce\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let form = format!("nonce={nonce}&route=r1&order=disable");
    let headers =
        [("content-type", "application/x-www-form-urlencoded"), ("origin", "https://localhost"), ("cookie", cookie)];
    let reply = send_http2(&mut sender, over_tls("POST", "/balancer-manager/", &headers, form)).await;
    assert_eq!(reply.status, 303, "{}", reply.text());
}

#[actix_web::test]
async fn http_2_can_be_turned_off() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, false, vec![r1.as_member()]).await;
    let stream = connect(&door, &certificate, BOTH, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[actix_web::test]
async fn a_stream_that_is_reset_takes_its_request_back() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let tls = Some(files.settings(true));
    let patient = settings::Balancer { tls, timeout: DEADLINE * 10, ..settings(vec![r1.as_member()]) };
    let door = open_with(patient).await;
    let mut sender = http2(&door, &certificate).await;
    let running = rt::spawn(sender.send_request(over_tls("GET", "/slow", &[], "")));
    wait_for(&door, |members| members[0].busy == 1).await;
    running.abort();
    wait_for(&door, |members| members[0].busy == 0).await;
    assert_eq!(send_http2(&mut sender, over_tls("GET", "/", &[], "")).await.status, 200, "the connection goes on");
}

#[actix_web::test]
async fn whoever_resets_streams_all_the_time_is_disconnected() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let tls = Some(files.settings(true));
    let patient = settings::Balancer { tls, timeout: DEADLINE * 10, ..settings(vec![r1.as_member()]) };
    let door = open_with(patient).await;
    let mut sender = http2(&door, &certificate).await;
    let mut resets = 0;
    while sender.ready().await.is_ok() {
        assert!(resets <= limits::HTTP2_RESETS * 2, "{resets} resets, and still connected");
        let running = rt::spawn(sender.send_request(over_tls("GET", "/slow", &[], "")));
        wait_for(&door, |members| members[0].busy == 1 || running.is_finished()).await;
        running.abort();
        wait_for(&door, |members| members[0].busy == 0).await;
        resets += 1;
    }
    assert!(resets > limits::HTTP2_RESETS, "after {resets}");
}

#[actix_web::test]
async fn an_http_2_answer_that_breaks_off_is_seen_to_be_broken() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    rt::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4_096]).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        }
    });
    let (files, certificate) = Files::new();
    let door = open_tls(&files, true, vec![fixed("r1", address)]).await;
    let mut sender = http2(&door, &certificate).await;
    let answer = sender.send_request(over_tls("GET", "/", &[], "")).await.unwrap();
    assert!(answer.into_body().collect().await.is_err(), "a part was taken for the whole");
}

#[actix_web::test]
async fn a_graceful_stop_finishes_the_streams_that_run() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let tls = Some(files.settings(true));
    let settings = settings::Balancer { tls, timeout: DEADLINE, ..settings(vec![r1.as_member()]) };
    let door = balancer::start(&settings, &settings::Session::default(), DEADLINE).unwrap();
    let mut sender = http2(&door, &certificate).await;
    let answer = sender.send_request(over_tls("GET", "/large", &[], "")).await.unwrap();
    let stopping = rt::spawn(door.stop(DEADLINE));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 20 << 20);
    tokio::time::timeout(DEADLINE, stopping).await.expect("it waits for an idle client").unwrap();
}
