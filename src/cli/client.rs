//! Asks the balancer's manager, as a browser on this machine would.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1,
    header::{CONNECTION, HOST},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    balancer::Sockets,
    limits,
    names::Route,
    observe::StatusReport,
    settings::{Listening, Settings},
};

/// Where the manager is.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    /// The setting that says so.
    key: &'static str,
    path: String,
}

/// What a node can be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Drain,
    Resume,
    Disable,
    Reset,
    /// 1 to 100.
    Weight(u8),
    Standby(bool),
    Restart,
}

/// What the balancer says to an order that it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Accepted {
    /// It is not all well.
    pub(super) warning: Option<String>,
}

/// Which life of a node's process answered: 16 hexadecimal digits, another at each start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Life {
    life: String,
}

/// Which process of the balancer answers, and why there is no other if one was asked for in vain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Balancer {
    pub(super) pid: u32,
    pub(super) refused: Option<String>,
}

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("no balancer answers at {0}: is tasuki running? (looked up in {2}; {1})")]
    NoBalancer(SocketAddr, io::Error, &'static str),
    #[error("no balancer is known: {2} has port 0, and {0}/balancer.json cannot be read ({1})")]
    Unknown(String, io::Error, &'static str),
    #[error("the balancer at {0} did not answer within {seconds} s", seconds = limits::ASK_TIMEOUT.as_secs())]
    TooLate(SocketAddr),
    #[error("the balancer at {0} broke off: {1}")]
    Broken(SocketAddr, String),
    #[error("the balancer at {0} does not let this address use its manager (balancer.manager.allow)")]
    Forbidden(SocketAddr),
    #[error("{0}")]
    Refused(String),
    #[error(
        "what answers at {0} is no tasuki balancer's manager (balancer.manager.listen and path say where that is), or of another \
         version: {1}"
    )]
    NotUnderstood(SocketAddr, String),
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Client {
    /// The balancer of these settings; the one that wrote `balancer.json` in `node.run` where the port was left open.
    pub(super) fn of(settings: &Settings) -> Result<Self, AskError> {
        let (run, balancer) = (&settings.node.run, &settings.balancer);
        let (wanted, key) = match balancer.manager.listen {
            Some(own) => (own, Sockets::MANAGER),
            None => (balancer.listen, Sockets::PLAIN),
        };
        let mut address = wanted;
        if wanted.port() == 0 {
            let bound = Listening::read(run);
            let bound = bound.map_err(|error| AskError::Unknown(run.display().to_string(), error, key))?;
            address = bound.manager.filter(|_| key == Sockets::MANAGER).unwrap_or(bound.listen);
        }
        Ok(Self { address: reachable(address), key, path: balancer.manager.path.clone() })
    }

    #[cfg(test)]
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { address, key: Sockets::PLAIN, path: "/manager".to_owned() }
    }

    pub(super) async fn status(&self) -> Result<StatusReport, AskError> {
        let path = format!("{}/status.json", self.path);
        self.understood(&self.ask(Method::GET, &path).await?)
    }

    /// Gives an order that is not a restart.
    pub(super) async fn set(&self, route: &Route, action: Action) -> Result<Accepted, AskError> {
        let answer = self.order(route, action).await?;
        self.understood(&answer)
    }

    async fn order(&self, route: &Route, action: Action) -> Result<Bytes, AskError> {
        let word = match action {
            Action::Drain => "drain".to_owned(),
            Action::Resume => "resume".to_owned(),
            Action::Disable => "disable".to_owned(),
            Action::Reset => "reset".to_owned(),
            Action::Weight(weight) => format!("weight/{weight}"),
            Action::Standby(on) => format!("standby/{}", if on { "on" } else { "off" }),
            Action::Restart => "restart".to_owned(),
        };
        self.ask(Method::POST, &format!("{}/members/{route}/{word}", self.path)).await
    }

    /// Asks a node to restart and says which life it was that took the order.
    pub(super) async fn restart(&self, route: &Route) -> Result<Life, AskError> {
        let answer = self.order(route, Action::Restart).await?;
        self.understood(&answer)
    }

    /// Which life of the node answers now. An error while none does.
    pub(super) async fn life(&self, route: &Route) -> Result<Life, AskError> {
        let path = format!("{}/members/{route}/life", self.path);
        self.understood(&self.ask(Method::GET, &path).await?)
    }

    /// Asks for another process in the balancer's place and says which one took the order.
    pub(super) async fn restart_balancer(&self) -> Result<Balancer, AskError> {
        let path = format!("{}/restart", self.path);
        self.understood(&self.ask(Method::POST, &path).await?)
    }

    /// Which process of the balancer answers now.
    pub(super) async fn balancer(&self) -> Result<Balancer, AskError> {
        let path = format!("{}/restart", self.path);
        self.understood(&self.ask(Method::GET, &path).await?)
    }

    fn understood<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, AskError> {
        serde_json::from_slice(body).map_err(|error| AskError::NotUnderstood(self.address, error.to_string()))
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, AskError> {
        let answer = timeout(limits::ASK_TIMEOUT, self.exchange(method, path)).await;
        let (status, body) = answer.map_err(|_| AskError::TooLate(self.address))??;
        match status {
            _ if status.is_success() => Ok(body),
            StatusCode::FORBIDDEN => Err(AskError::Forbidden(self.address)),
            _ => Err(match serde_json::from_slice::<Refusal>(&body) {
                Ok(refusal) => AskError::Refused(refusal.error),
                Err(_) => AskError::NotUnderstood(self.address, format!("{status} for {path}")),
            }),
        }
    }

    /// One request on a connection of its own.
    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), AskError> {
        let broken = |error: &dyn std::error::Error| AskError::Broken(self.address, error.to_string());
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| AskError::NoBalancer(self.address, error, self.key))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONNECTION, "close")
            .header("Tasuki-Control", "1")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), limits::STATUS_BYTES).collect().await;
            let body = body.map_err(|error| AskError::Broken(self.address, error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection must be driven for the exchange to move; its own end says nothing that the exchange does not.
        let drive = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            biased;
            answer = exchange => answer,
            never = drive => never,
        }
    }
}

/// A balancer that listens on every address is asked on loopback.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A balancer that gives one answer; gives back what it was asked.
    async fn ask_one(answer: &str, route: &str) -> (Result<Life, AskError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::at(listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        };
        let route = route.parse().unwrap();
        let (life, request) = tokio::join!(client.restart(&route), serve);
        (life, request)
    }

    #[tokio::test]
    async fn an_order_carries_the_control_header() {
        let answer = "HTTP/1.1 202 Accepted\r\nContent-Length: 14\r\n\r\n{\"life\":\"00a\"}";
        let (life, request) = ask_one(answer, "r1").await;
        assert_eq!(life.unwrap(), Life { life: "00a".to_owned() });
        assert!(request.starts_with("POST /manager/members/r1/restart HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("tasuki-control: 1\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_balancers_words() {
        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 24\r\n\r\n{\"error\":\"no node is r9\"}";
        let (life, _) = ask_one(answer, "r9").await;
        let error = life.unwrap_err();
        // One byte less than the body: what is cut off is not taken for a refusal.
        assert!(matches!(error, AskError::NotUnderstood(..)), "{error}");
        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 25\r\n\r\n{\"error\":\"no node is r9\"}";
        let (life, _) = ask_one(answer, "r9").await;
        assert_eq!(life.unwrap_err().to_string(), "no node is r9");
    }

    #[tokio::test]
    async fn what_is_no_balancer_is_said_to_be_none() {
        let (life, _) = ask_one("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "r1").await;
        assert!(life.unwrap_err().to_string().contains("is no tasuki balancer"));
        let (life, _) = ask_one("SSH-2.0-OpenSSH\r\n\r\n", "r1").await;
        assert!(matches!(life, Err(AskError::Broken(..))));
        let (life, _) = ask_one("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "r1").await;
        assert!(life.unwrap_err().to_string().contains("balancer.manager.allow"));
    }

    #[tokio::test]
    async fn nobody_at_the_port_is_a_question() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Client::at(free).status().await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("no balancer answers at {free}: is tasuki running?")), "{error}");
    }

    #[test]
    fn a_manager_with_an_address_of_its_own_is_asked_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.node.run = folder.path().to_owned();
        let address = |settings: &Settings| Client::of(settings).unwrap().address.to_string();
        assert_eq!(address(&settings), "127.0.0.1:12121");
        settings.balancer.manager.listen = Some(([0, 0, 0, 0], 12122).into());
        assert_eq!(address(&settings), "127.0.0.1:12122");
        settings.balancer.manager.listen = Some(([127, 0, 0, 1], 0).into());
        assert!(Client::of(&settings).unwrap_err().to_string().contains("balancer.manager.listen has port 0"));
        let (listen, manager) = (settings.balancer.listen, Some(([127, 0, 0, 1], 4_711).into()));
        Listening { listen, manager, pid: 1 }.write(folder.path()).unwrap();
        assert_eq!(address(&settings), "127.0.0.1:4711");
    }

    #[test]
    fn a_balancer_on_all_addresses_is_asked_on_loopback() {
        let asked = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:12121"), "127.0.0.1:12121");
        assert_eq!(asked("[::]:12121"), "[::1]:12121");
        assert_eq!(asked("192.0.2.1:1"), "192.0.2.1:1");
    }
}
