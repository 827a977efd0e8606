//! A member that keeps every byte it is sent, and a reader that allows HTTP to be read in one way only.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use actix_web::rt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Answers every request with 200, and keeps what came.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Connection>>>,
}

/// What came over one connection.
#[derive(Default)]
struct Connection {
    requests: Vec<Seen>,
    /// Half a request.
    rest: Vec<u8>,
    unclear: Option<String>,
}

impl Connection {
    /// Takes the next bytes; gives how many requests are whole with them.
    fn take(&mut self, bytes: &[u8]) -> usize {
        self.rest.extend_from_slice(bytes);
        match audit(&self.rest) {
            Ok((requests, rest)) => {
                let whole = requests.len();
                self.rest = rest.to_vec();
                self.requests.extend(requests);
                whole
            }
            Err(unclear) => {
                self.unclear.get_or_insert(unclear);
                0
            }
        }
    }
}

/// One request, read strictly.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Method and target.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let of_that_name = self.fields.iter().filter(|(known, _)| known == name);
        of_that_name.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Connection>>>::default());
        let (this, connections) = (Self { address, seen: seen.clone() }, seen);
        rt::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let number = {
                    let mut connections = connections.lock().unwrap();
                    connections.push(Connection::default());
                    connections.len() - 1
                };
                let connections = connections.clone();
                rt::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                        let whole = connections.lock().unwrap()[number].take(&buffer[..read]);
                        let answers = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".repeat(whole);
                        let _ = socket.write_all(&answers).await;
                    }
                });
            }
        });
        this
    }

    /// The whole requests of users so far, in the order of their connections; what is unclear in any of them is an error.
    pub(crate) fn requests(&self) -> Result<Vec<Seen>, String> {
        let mut requests = Vec::new();
        for connection in self.seen.lock().unwrap().iter() {
            connection.unclear.clone().map_or(Ok(()), Err)?;
            requests.extend(connection.requests.iter().filter(|request| request.line != "GET /ready").cloned());
        }
        Ok(requests)
    }

    /// What came of requests that never came whole.
    pub(crate) fn halves(&self) -> Vec<u8> {
        self.seen.lock().unwrap().iter().flat_map(|connection| connection.rest.clone()).collect()
    }
}

/// Reads the bytes of one connection; gives the whole requests and what is left behind them.
pub(crate) fn audit(bytes: &[u8]) -> Result<(Vec<Seen>, &[u8]), String> {
    let (mut requests, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let Some(end) = find(rest, b"\r\n\r\n") else { return Ok((requests, rest)) };
        let mut request = head(&rest[..end])?;
        let after = &rest[end + 4..];
        let Some((body, taken)) = body(&request, after)? else { return Ok((requests, rest)) };
        request.body = body;
        requests.push(request);
        rest = &after[taken..];
    }
    Ok((requests, rest))
}

fn head(bytes: &[u8]) -> Result<Seen, String> {
    let unclear = |what: &str| format!("{what}: {}", String::from_utf8_lossy(bytes).escape_debug());
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    if lines.iter().any(|line| line.iter().any(|b| *b == 0 || *b == b'\r' || *b == b'\n')) {
        return Err(unclear("a bare CR, LF or NUL"));
    }
    let first = String::from_utf8(lines.remove(0).to_vec()).map_err(|_| unclear("odd bytes in the request line"))?;
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return Err(unclear("a request line of another form")) };
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|b| *b == b':').ok_or(unclear("a line without a colon"))?;
        let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
        // A token without "_", which applications take for "-".
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&b)) {
            return Err(unclear("a name that is none"));
        }
        fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
    }
    let seen = Seen { line: format!("{method} {target}"), fields, body: Vec::new() };
    let count = |name: &str| seen.all(name).len();
    if count("host") != 1 || seen.all("host")[0].is_empty() {
        return Err(unclear("not one host"));
    }
    if count("content-length") + count("transfer-encoding") > 1 {
        return Err(unclear("more than one framing"));
    }
    Ok(seen)
}

fn body(request: &Seen, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    if let [coding] = &request.all("transfer-encoding")[..] {
        return if coding == "chunked" { chunks(bytes) } else { Err(format!("transfer-encoding: {coding}")) };
    }
    let length = match &request.all("content-length")[..] {
        [length] if length.bytes().all(|b| b.is_ascii_digit()) => length.parse().map_err(|_| "a length".to_owned())?,
        [length] => return Err(format!("content-length: {length}")),
        _ => 0,
    };
    Ok(bytes.get(..length).map(|body| (body.to_vec(), length)))
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let line = &bytes[at..at + end];
        let size = str::from_utf8(line).ok().filter(|line| line.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or(format!("a chunk size: {}", String::from_utf8_lossy(line)))?;
        at += end + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if &chunk[size..] != b"\r\n" {
            return Err("a chunk that does not end, or trailers".into());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// Where something stands.
pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|some| some == what)
}

#[test]
fn the_reader_finds_what_is_unclear() {
    let good = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\nGET";
    let (requests, rest) = audit(good).unwrap();
    assert_eq!((requests.len(), requests[0].body.as_slice(), rest), (2, &b"abc"[..], &b"GET"[..]));
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\nx: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n y\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;a\r\nb\r\n0\r\n\r\n",
    ] {
        assert!(audit(bad.as_bytes()).is_err(), "{bad:?}");
    }
}
