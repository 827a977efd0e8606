//! HTTP/2 by its bytes: frames that no good client sends. Each is refused or bounded, and none reaches a member.

use tokio_rustls::client::TlsStream;

use super::{
    tls::{BOTH, Files, connect, open_tls},
    *,
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals that are not indexed (RFC 7541 section 6.2.2).
fn fields(pairs: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    pairs.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

const GOOD: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/count"), (":authority", "localhost")];

fn get_of(pairs: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(pairs))
}

struct Client(TlsStream<TcpStream>);

/// What the server said of what it was sent.
#[derive(Debug, Default)]
struct Said {
    kinds: Vec<u8>,
    /// The block of the first head, as it came.
    head: Vec<u8>,
}

impl Said {
    /// The stream or the connection is reset, or closed, or it is answered: then no member was asked.
    fn is_refused(&self) -> bool {
        let has = |kind| self.kinds.contains(&kind);
        has(GOAWAY) || has(RST_STREAM) || !self.head.is_empty() || !has(PING)
    }
}

impl Client {
    async fn new(door: &Door, certificate: &rustls::pki_types::CertificateDer<'static>) -> Self {
        let mut stream = connect(door, certificate, BOTH, &["h2"]).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    /// Reads until the server has closed, or has answered a PING that came behind everything else.
    async fn said(&mut self) -> Said {
        let _ = self.0.write_all(&frame(PING, 0, 0, b"all said")).await;
        let mut said = Said::default();
        let read = async {
            loop {
                let mut head = [0; 9];
                if self.0.read_exact(&mut head).await.is_err() {
                    return;
                }
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                if self.0.read_exact(&mut payload).await.is_err() {
                    return;
                }
                said.kinds.push(head[3]);
                if head[3] == HEADERS && said.head.is_empty() {
                    said.head = payload.clone();
                }
                if head[3] == PING && payload == b"all said" {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, read).await.expect("neither closed nor answered");
        said
    }
}

#[actix_web::test]
async fn frames_that_are_none_are_refused_and_reach_no_member() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    let with = |more: &[(&'static str, &'static str)]| get_of(&[&GOOD[..], more].concat());
    let without = |name: &str| get_of(&GOOD.into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>());
    let bad = [
        ("DATA on stream 0", frame(DATA, 0, 0, b"x")),
        ("DATA on a stream that was not opened", frame(DATA, 0, 1, b"x")),
        ("HEADERS on a stream of the server's", frame(HEADERS, END_STREAM | END_HEADERS, 2, &fields(&GOOD))),
        ("HEADERS on stream 0", frame(HEADERS, END_STREAM | END_HEADERS, 0, &fields(&GOOD))),
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        ("an initial window that is too large", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("a PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("RST_STREAM of a stream that was not opened", frame(RST_STREAM, 0, 1, &[0; 4])),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &fields(&GOOD))),
        ("a frame that is too large", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0; 20_000])),
        ("an index that is not in the table", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0x7f])),
        ("no :path", without(":path")),
        ("no :method", without(":method")),
        ("two :path", with(&[(":path", "/other")])),
        ("an unknown pseudo field", with(&[(":unknown", "x")])),
        ("a name in capitals", with(&[("X-Capital", "x")])),
        ("a field of the connection", with(&[("connection", "close")])),
        ("chunks", with(&[("transfer-encoding", "chunked")])),
        ("a line end in a value", with(&[("x", "a\r\nb: c")])),
        ("a length of a body that does not come", with(&[("content-length", "5")])),
    ];
    for (what, bytes) in bad {
        let mut client = Client::new(&door, &certificate).await;
        client.0.write_all(&bytes).await.unwrap();
        let (begun, mut said) = (Instant::now(), client.said().await);
        while !said.is_refused() {
            assert!(begun.elapsed() < DEADLINE, "{what}: neither refused nor answered: {said:?}");
            rt::time::sleep(Duration::from_millis(10)).await;
            said = client.said().await;
        }
        assert_eq!(r1.executed(), 0, "{what}: {said:?}");
    }
    let mut client = Client::new(&door, &certificate).await;
    client.0.write_all(&get_of(&GOOD)).await.unwrap();
    while client.said().await.head.is_empty() {}
    assert_eq!(r1.executed(), 1, "a good one is answered");
}

#[actix_web::test]
async fn a_head_that_does_not_end_is_cut_off() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    let mut client = Client::new(&door, &certificate).await;
    client.0.write_all(&frame(HEADERS, END_STREAM, 1, &fields(&GOOD))).await.unwrap();
    let long = "y".repeat(100);
    let more = fields(&[("x-flood", &long[..]); 100]);
    let flood = async {
        let mut sent = 0;
        while client.0.write_all(&frame(CONTINUATION, 0, 1, &more)).await.is_ok() {
            sent += more.len();
            assert!(sent < 64 << 20, "{sent} bytes of one head were taken");
        }
    };
    tokio::time::timeout(DEADLINE, flood).await.expect("it is neither cut off nor refused");
    assert_eq!(r1.executed(), 0);
    assert_eq!(get(&door, "/", &[]).await.status, 200);
}

#[actix_web::test]
async fn a_flood_of_settings_and_pings_whose_answers_nobody_reads_is_bounded() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    for (what, one) in [("SETTINGS", frame(SETTINGS, 0, 0, &[])), ("PING", frame(PING, 0, 0, &[7; 8]))] {
        let mut client = Client::new(&door, &certificate).await;
        let many = one.repeat(1_000);
        let mut sent = 0;
        let flood = async {
            while client.0.write_all(&many).await.is_ok() {
                sent += many.len();
            }
        };
        // It ends, or the server reads no more of it: what is not read costs it nothing.
        let _ = tokio::time::timeout(Duration::from_secs(2), flood).await;
        assert!(sent < 64 << 20, "{what}: {sent} bytes were taken, and each frame wants an answer");
        assert_eq!(get(&door, "/", &[]).await.status, 200, "{what}");
    }
}

#[actix_web::test]
async fn an_acknowledgement_that_nobody_asked_for_is_no_harm() {
    let (r1, (files, certificate)) = (Node::start("r1"), Files::new());
    let door = open_tls(&files, true, vec![r1.as_member()]).await;
    let mut client = Client::new(&door, &certificate).await;
    client.0.write_all(&frame(PING, ACK, 0, &[1; 8])).await.unwrap();
    client.0.write_all(&get_of(&GOOD)).await.unwrap();
    while client.said().await.head.is_empty() {}
    assert_eq!(r1.executed(), 1);
}
