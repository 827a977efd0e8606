//! HTTP/1 as both sides see it on the wire: what ends at the door, what is told early, and what breaks off visibly.

use tokio::sync::Notify;

use super::{upstream::Upstream, *};

/// A member that answers the nth request of a user with the nth text, bytes as they are, and then closes; says how many it
/// has read. It reads heads, not bodies.
async fn scripted(script: &'static [&'static str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::<AtomicUsize>::default();
    let count = seen.clone();
    let address = bare_member(move |mut socket| {
        let text = script[count.fetch_add(1, SeqCst).min(script.len() - 1)];
        rt::spawn(async move {
            let _ = socket.write_all(text.as_bytes()).await;
            let _ = socket.shutdown().await;
            // Not a reset, which might overtake the answer.
            while let Ok(1..) = socket.read(&mut [0; 4_096]).await {}
        });
    });
    (address.await, seen)
}

/// A member that answers users with these pieces, and with the next one whenever it is told to.
async fn in_pieces(pieces: &'static [&'static str]) -> (SocketAddr, Arc<Notify>) {
    let next = Arc::<Notify>::default();
    let told = next.clone();
    let address = bare_member(move |mut socket| {
        let told = told.clone();
        rt::spawn(async move {
            for piece in pieces {
                let _ = socket.write_all(piece.as_bytes()).await;
                told.notified().await;
            }
        });
    });
    (address.await, next)
}

/// Sends, and reads until the connection ends.
async fn told(door: &Door, text: &str) -> String {
    let mut client = TcpStream::connect(door.address).await.unwrap();
    client.write_all(text.as_bytes()).await.unwrap();
    rest(&mut client).await
}

async fn rest(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, client.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(read.is_ok(), "the connection hangs after {text}");
    text
}

/// A door in front of one member, patient enough for a busy machine.
async fn before(address: SocketAddr) -> Door {
    open_with(settings::Balancer { timeout: DEADLINE, ..settings(vec![fixed("r1", address)]) }).await
}

#[actix_web::test]
async fn fields_of_one_connection_end_at_the_door_on_both_ways() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nconnection: close, x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n\
                          proxy-authenticate: Basic\r\ntrailer: x\r\nupgrade: h2c\r\nx-mine: kept\r\ncontent-length: 2\r\n\r\nok";
    let (address, _) = scripted(&[ANSWER]).await;
    let answer = told(&before(address).await, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let lower = answer.to_lowercase();
    assert!(lower.contains("x-mine: kept") && answer.ends_with("ok"), "{answer}");
    for gone in ["x-private", "keep-alive", "proxy-authenticate", "trailer", "upgrade"] {
        assert!(!lower.contains(gone), "{gone} went on: {answer}");
    }
    let upstream = Upstream::start().await;
    let head = "GET /a HTTP/1.1\r\nhost: x\r\nconnection: close, x-private\r\nx-private: 1\r\nkeep-alive: 5\r\nte: trailers\r\n\
                proxy-authorization: x\r\nproxy-connection: keep-alive\r\ntrailer: x\r\nx-mine: kept\r\n\r\n";
    told(&before(upstream.address).await, head).await;
    let seen = &upstream.requests().unwrap()[0];
    assert_eq!(seen.all("x-mine"), ["kept"]);
    for gone in ["x-private", "keep-alive", "te", "proxy-authorization", "proxy-connection", "trailer", "connection"] {
        assert!(seen.all(gone).is_empty(), "{gone} went on: {seen:?}");
    }
}

#[actix_web::test]
async fn a_client_that_waits_for_100_is_told_and_its_member_is_not_asked_to() {
    let upstream = Upstream::start().await;
    let door = before(upstream.address).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    let head = b"POST /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
    client.write_all(head).await.unwrap();
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(upstream.requests().unwrap().is_empty(), "a small body is waited for first");
    client.write_all(b"body").await.unwrap();
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 200"));
    let seen = &upstream.requests().unwrap()[0];
    assert_eq!((seen.body.as_slice(), seen.all("expect").len()), (&b"body"[..], 0));
}

#[actix_web::test]
async fn what_a_member_says_before_its_answer_is_not_the_answer() {
    const ANSWER: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
                          HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (address, _) = scripted(&[ANSWER]).await;
    let answer = told(&before(address).await, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{answer}");
    let (address, _) =
        scripted(&["HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"]).await;
    let answer = told(&before(address).await, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "a switch that nobody asked for: {answer}");
}

#[actix_web::test]
async fn answers_without_a_body_have_none_and_the_next_one_follows() {
    const SCRIPT: &[&str] = &[
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\netag: \"a\"\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast",
    ];
    let (address, seen) = scripted(SCRIPT).await;
    let text = "HEAD / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n\
                GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = told(&before(address).await, text).await;
    let heads: Vec<&str> = answer.split("\r\n\r\n").collect();
    let statuses: Vec<&str> = heads.iter().filter_map(|head| head.strip_prefix("HTTP/1.1 ")?.get(..3)).collect();
    assert_eq!(
        (statuses, heads.last().copied(), seen.load(SeqCst)),
        (vec!["200", "304", "204", "200"], Some("last"), 4)
    );
    assert!(heads[0].contains("content-length: 500"), "HEAD tells what GET would: {answer}");
    assert!(!heads[2].contains("content-length"), "{answer}");
}

#[actix_web::test]
async fn trailers_of_a_member_are_dropped() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nset-cookie: a=b\r\n\r\n";
    let (address, _) = scripted(&[ANSWER]).await;
    let answer = told(&before(address).await, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("2\r\nok\r\n0\r\n\r\n") && !answer.contains("set-cookie"), "{answer}");
}

#[actix_web::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_keeps_its_connection_if_it_asks() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let answer = told(&door, "GET /chunked HTTP/1.0\r\n\r\n").await;
    let lower = answer.to_lowercase();
    assert!(lower.contains(" 200 ok") && answer.ends_with("\r\n\r\nchunked"), "{answer}");
    assert!(!lower.contains("transfer-encoding"), "{answer}");
    let two = "GET /count HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /count HTTP/1.0\r\n\r\n";
    let answer = told(&door, two).await;
    assert_eq!(answer.matches(" 200 OK").count(), 2, "{answer}");
    let seen = told(&door, "GET /a HTTP/1.0\r\n\r\n").await;
    assert!(seen.contains(&format!("host: {}", door.address)), "without a host it means ours: {seen}");
    let mut client = TcpStream::connect(door.address).await.unwrap();
    client.write_all(b"GET /count HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.ends_with('0'), "closed without being asked to");
}

#[actix_web::test]
async fn pipelined_requests_are_answered_in_order() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let mut text = String::new();
    for body in ["", "a", "bb", "ccc"] {
        text += &format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    }
    text += "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = told(&door, &text).await;
    let bodies: Vec<&str> = answer.split("\r\n\r\n").skip(1).map(|part| &part[..1]).collect();
    assert_eq!((bodies, r1.executed()), (vec!["0", "1", "2", "3", "G"], 5), "{answer}");
}

#[actix_web::test]
async fn a_client_that_closes_its_side_has_gone_away() {
    let r1 = Node::start("r1");
    let patient = settings::Balancer { timeout: DEADLINE * 10, ..settings(vec![r1.as_member()]) };
    let door = open_with(patient).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    wait_for(&door, |members| members[0].busy == 1).await;
    client.shutdown().await.unwrap();
    wait_for(&door, |members| members[0].busy == 0).await;
    assert_eq!(rest(&mut client).await, "");
}

#[actix_web::test]
async fn an_answer_that_breaks_off_is_cut_and_never_sent_again() {
    let r2 = Node::start("r2");
    for broken in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        let (address, seen) = scripted(vec![broken].leak()).await;
        let patient = settings::Balancer { timeout: DEADLINE, ..settings(vec![fixed("r1", address), r2.as_member()]) };
        let door = open_with(patient).await;
        let get = format!("GET / HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n", cookie("r1"));
        let answer = told(&door, &get).await;
        assert!(answer.contains("hello") && !answer.ends_with("0\r\n\r\n"), "{answer}");
        assert_eq!((seen.load(SeqCst), r2.executed()), (1, 0), "{broken:?}");
    }
}

#[actix_web::test]
async fn an_answer_that_goes_silent_is_cut_in_time() {
    const WAIT: Duration = Duration::from_millis(300);
    for pieces in [
        &["HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello"],
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"],
    ] {
        let (address, _never) = in_pieces(pieces).await;
        let door = open_with(settings::Balancer { read_timeout: WAIT, ..settings(vec![fixed("r1", address)]) }).await;
        let began = Instant::now();
        let answer = told(&door, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.contains("hello") && !answer.ends_with("0\r\n\r\n"), "{answer}");
        assert!(began.elapsed() >= WAIT, "the member had no time");
        wait_for(&door, |members| members[0].busy == 0).await;
    }
}

#[actix_web::test]
async fn an_answer_that_goes_on_takes_as_long_as_it_takes() {
    const WAIT: Duration = Duration::from_secs(1);
    const PIECES: &[&str] = &["HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na", "b", "c", "d", "e", "f"];
    let (address, next) = in_pieces(PIECES).await;
    let door = open_with(settings::Balancer { read_timeout: WAIT, ..settings(vec![fixed("r1", address)]) }).await;
    let pieces = rt::spawn(async move {
        loop {
            rt::time::sleep(WAIT * 2 / 5).await;
            next.notify_one();
        }
    });
    let began = Instant::now();
    let answer = told(&door, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with("abcdef") && began.elapsed() > WAIT, "{answer}");
    pieces.abort();
}

#[actix_web::test]
async fn a_member_that_still_reads_the_request_may_be_silent() {
    const WAIT: Duration = Duration::from_millis(200);
    const PIECES: &[&str] = &["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhe", "re"];
    let (address, next) = in_pieces(PIECES).await;
    let door = open_with(settings::Balancer { read_timeout: WAIT, ..settings(vec![fixed("r1", address)]) }).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
    read_until(&mut client, "he").await;
    // The pause is the point: nothing may happen in it.
    rt::time::sleep(WAIT * 4).await;
    next.notify_one();
    read_until(&mut client, "re").await;
}

#[actix_web::test]
async fn a_refused_websocket_ends_where_its_body_ends_and_its_member_is_busy_until_then() {
    const PIECES: &[&str] = &["HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n", "0\r\n\r\n"];
    let (address, next) = in_pieces(PIECES).await;
    let door = before(address).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    let head =
        b"GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";
    client.write_all(head).await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\nno").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 403") && answer.contains("connection: close"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");
    assert_eq!(door.balancer.send(Observe).await.unwrap()[0].busy, 1);
    next.notify_one();
    assert_eq!(rest(&mut client).await, "");
    wait_for(&door, |members| members[0].busy == 0).await;
}

#[actix_web::test]
async fn a_refused_websocket_says_that_nothing_follows_on_its_connection() {
    const SCRIPT: &[&str] = &["HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"];
    let (address, _) = scripted(SCRIPT).await;
    let door = before(address).await;
    let head =
        "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";
    let answer = told(&door, head).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 403") && answer.ends_with("no"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[actix_web::test]
async fn a_body_arrives_whatever_the_method_and_an_empty_one_has_its_length() {
    let upstream = Upstream::start().await;
    let door = before(upstream.address).await;
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let chunks = "transfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        told(&door, &format!("{method} /{method} HTTP/1.1\r\nhost: x\r\n{chunks}")).await;
        let seen = upstream.requests().unwrap().pop().unwrap();
        assert_eq!((seen.line, &seen.body[..]), (format!("{method} /{method}"), &b"abc"[..]));
    }
    told(&door, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    assert_eq!(upstream.requests().unwrap().pop().unwrap().all("content-length"), ["0"]);
}

#[actix_web::test]
async fn an_answer_that_is_no_http_is_a_502_and_not_asked_for_again() {
    for nonsense in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 999999 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (address, seen) = scripted(vec![nonsense].leak()).await;
        let answer = told(&before(address).await, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{nonsense:?}: {answer}");
        assert_eq!(seen.load(SeqCst), 1, "{nonsense:?}");
    }
}

#[actix_web::test]
async fn an_answer_before_the_body_is_read_reaches_the_client() {
    const ANSWER: &str = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let (address, seen) = scripted(&[ANSWER]).await;
    let door = before(address).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n").await.unwrap();
    let (mut reading, mut writing) = client.into_split();
    let upload = rt::spawn(async move {
        let piece = vec![b'x'; 100_000];
        while writing.write_all(&piece).await.is_ok() {}
    });
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, reading.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection hangs");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("big"), "{answer}");
    assert_eq!(seen.load(SeqCst), 1);
    upload.abort();
}

#[actix_web::test]
async fn a_head_that_never_ends_is_answered_408_in_time() {
    let door = open(vec![]).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    let began = Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(limits::HEAD_TIMEOUT + DEADLINE, client.read_to_string(&mut answer)).await;
    assert!(read.is_ok(), "still open");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(began.elapsed() >= limits::HEAD_TIMEOUT - Duration::from_millis(600), "an honest client had no time");
}

#[actix_web::test]
async fn a_body_that_never_comes_is_answered_408_in_time_and_asks_no_member() {
    let upstream = Upstream::start().await;
    let door = before(upstream.address).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(limits::CLIENT_STALL + DEADLINE, client.read_to_string(&mut answer)).await;
    assert!(read.is_ok(), "still open");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(upstream.requests().unwrap().is_empty());
}
