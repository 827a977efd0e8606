//! A user: one kept-alive connection, one cookie jar.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

const PATIENCE: Duration = Duration::from_secs(20);

const FORM: &str = "application/x-www-form-urlencoded";

/// What a user's browser keeps.
pub struct Browser {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
    pub cookies: BTreeMap<String, String>,
    /// Sent with every request.
    pub header: Option<(&'static str, &'static str)>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// Why there was no answer.
#[derive(Debug)]
pub struct NoAnswer(pub String);

impl Browser {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, cookies: BTreeMap::new(), header: None }
    }

    /// Closes the connection; the cookies stay.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// A second window of the same user.
    pub fn window(&self) -> Self {
        Self { address: self.address, connection: None, cookies: self.cookies.clone(), header: self.header }
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, NoAnswer> {
        self.send(Method::GET, path, None).await
    }

    /// Sends a form, its fields already encoded.
    pub async fn post(&mut self, path: &str, form: &str) -> Result<Answer, NoAnswer> {
        self.post_as(path, FORM, form.as_bytes().to_vec()).await
    }

    /// Sends a body of any kind.
    pub async fn post_as(&mut self, path: &str, content_type: &str, body: Vec<u8>) -> Result<Answer, NoAnswer> {
        self.send(Method::POST, path, Some((content_type, body))).await
    }

    /// The counter page in its plain form: the node's name and the count.
    pub async fn count(&mut self) -> Result<(String, u64), NoAnswer> {
        let answer = self.get("/?plain").await?;
        answer.plain().ok_or_else(|| NoAnswer(format!("{} {:?}", answer.status, answer.body)))
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Answer, NoAnswer> {
        let request = self.request(method, path, body);
        let answer = timeout(PATIENCE, self.exchange(request)).await;
        let answer =
            answer.map_err(|_| NoAnswer("timed out".into())).flatten().inspect_err(|_| self.connection = None)?;
        self.keep_cookies(&answer.headers);
        Ok(answer)
    }

    fn request(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.address.to_string());
        if !self.cookies.is_empty() {
            let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, pairs.join("; "));
        }
        if let Some((name, value)) = self.header {
            request = request.header(name, value);
        }
        let Some((content_type, body)) = body else { return request.body(Full::default()).unwrap() };
        request.header(header::CONTENT_TYPE, content_type).body(Full::from(body)).unwrap()
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        let broken = |error: &dyn std::fmt::Display| NoAnswer(error.to_string());
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await.map_err(|error| broken(&error))?;
        let response = connection.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
        self.connection = Some(connection);
        Ok(Answer { status: head.status, headers: head.headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| NoAnswer(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| NoAnswer(error.to_string()))?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|error| NoAnswer(error.to_string()))?;
        tokio::task::spawn_local(driver);
        Ok(sender)
    }

    fn keep_cookies(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(header::SET_COOKIE) {
            let line = line.to_str().unwrap();
            let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `[r1]`, then the number, as the seeds' page answers.
    pub fn plain(&self) -> Option<(String, u64)> {
        let (node, count) = self.body.trim_end().split_once('\n')?;
        let node = node.strip_prefix('[')?.strip_suffix(']')?;
        Some((node.to_owned(), count.parse().ok()?)).filter(|_| self.status == StatusCode::OK)
    }
}
