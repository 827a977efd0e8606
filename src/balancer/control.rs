//! The balancer's own questions to members: health checks, status, duty. One short connection each, all bounded.

use std::{net::SocketAddr, time::Duration};

use actix_web::rt;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::members::{Kind, Verdict};
use crate::{limits, membership::Duty};

/// Why a member gave no answer to a question.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    /// Nothing came within the time given.
    #[error("gave no answer within {0:?}; its process may be paused or overloaded")]
    Late(Duration),
    /// No connection, or it broke.
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] std::io::Error),
    /// It answers something that is not HTTP, or too much of it.
    #[error("does not answer as expected: {0}")]
    Strange(Box<dyn std::error::Error + Send + Sync>),
}

/// Sends one request and reads the whole answer, at most [`limits::CONTROL_ANSWER_BYTES`], within `longest`.
///
/// # Errors
/// See [`Silence`]. A POST that was late may have been done.
pub(crate) async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    json: Option<String>,
    longest: Duration,
) -> Result<(StatusCode, Bytes), Silence> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .header("tasuki-control", "1")
        .header("connection", "close");
    if json.is_some() {
        request = request.header("content-type", "application/json");
    }
    let request =
        request.body(Full::new(Bytes::from(json.unwrap_or_default()))).map_err(|e| Silence::Strange(e.into()))?;
    timeout(longest, exchange(address, request)).await.map_err(|_| Silence::Late(longest))?
}

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Silence> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|e| Silence::Strange(e.into()))?;
    let task = rt::spawn(connection);
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|e| Silence::Strange(e.into()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), limits::CONTROL_ANSWER_BYTES);
        let body = body.collect().await.map_err(Silence::Strange)?;
        Ok((status, body.to_bytes()))
    };
    let answer = answer.await;
    task.abort();
    answer
}

/// Tells a node what it is to be asked for.
///
/// # Errors
/// See [`Silence`].
pub(crate) async fn tell_duty(address: SocketAddr, duty: Duty) -> Result<(StatusCode, Bytes), Silence> {
    let wanted = serde_json::json!({ "duty": duty }).to_string();
    ask(address, Method::POST, "/.tasuki/duty", Some(wanted), limits::CONTROL_TIMEOUT).await
}

/// Asks a member whether it may be used: `GET /ready`.
///
/// A node answers 200, or 503 with the word for what it wants instead. A server that is no node is alive when it
/// answers anything but a server error, 404 included.
pub(crate) async fn check(address: SocketAddr, kind: Kind, longest: Duration) -> Verdict {
    match ask(address, Method::GET, "/ready", None, longest).await {
        Ok((status, body)) => judge(kind, status, &body),
        Err(silence) => {
            tracing::debug!(%address, %silence, "health check failed");
            Verdict::Dead
        }
    }
}

fn judge(kind: Kind, status: StatusCode, body: &[u8]) -> Verdict {
    match (status, body.trim_ascii(), kind) {
        (StatusCode::OK, ..) => Verdict::Alive(Duty::Serving),
        (StatusCode::SERVICE_UNAVAILABLE, b"draining", _) => Verdict::Alive(Duty::Draining),
        (StatusCode::SERVICE_UNAVAILABLE, b"starting", _) => Verdict::Alive(Duty::Starting),
        (status, _, Kind::Foreign) if !status.is_server_error() => Verdict::Alive(Duty::Serving),
        _ => Verdict::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_what_it_wants() {
        let node = |status, body: &str| judge(Kind::Node, status, body.as_bytes());
        assert_eq!(node(StatusCode::OK, ""), Verdict::Alive(Duty::Serving));
        assert_eq!(node(StatusCode::SERVICE_UNAVAILABLE, "draining\n"), Verdict::Alive(Duty::Draining));
        assert_eq!(node(StatusCode::SERVICE_UNAVAILABLE, "starting"), Verdict::Alive(Duty::Starting));
        assert_eq!(node(StatusCode::SERVICE_UNAVAILABLE, "overloaded"), Verdict::Dead);
        assert_eq!(node(StatusCode::NOT_FOUND, ""), Verdict::Dead, "something else listens on the node's port");
    }

    #[test]
    fn any_other_server_is_alive_when_it_answers() {
        let other = |status| judge(Kind::Foreign, status, b"");
        assert_eq!(other(StatusCode::NOT_FOUND), Verdict::Alive(Duty::Serving));
        assert_eq!(other(StatusCode::FOUND), Verdict::Alive(Duty::Serving));
        assert_eq!(other(StatusCode::BAD_GATEWAY), Verdict::Dead);
    }

    #[actix_web::test]
    async fn a_port_where_nobody_listens_is_dead() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(check(free, Kind::Node, limits::PROBE_TIMEOUT).await, Verdict::Dead);
    }

    #[actix_web::test]
    async fn a_member_that_hangs_is_dead_after_the_time_given() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        assert_eq!(check(address, Kind::Foreign, Duration::from_millis(20)).await, Verdict::Dead);
    }
}
