//! Asks this node's own door for a page of a webapp that has just begun to answer.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{CONNECTION, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{limits, names::ContextPath};

/// Asks for `path` within the webapp, or for its root, and says in a word how it went.
///
/// A path that was named must be answered with 2xx or 3xx. The root need not exist, but must not fail: 5xx is bad.
///
/// # Errors
/// What is wrong with the answer, as words.
pub(super) async fn probe(http: SocketAddr, context: &ContextPath, path: Option<&str>) -> Result<String, String> {
    let target = format!("{}/{}", context.as_str(), path.unwrap_or_default().trim_start_matches('/'));
    let answer = timeout(limits::DEPLOY_PROBE, ask(http, &target)).await;
    let status = answer.map_err(|_| format!("{target} is not answered within {}", seconds(limits::DEPLOY_PROBE)))??;
    let is_good = match path {
        Some(_) => status.is_success() || status.is_redirection(),
        None => !status.is_server_error(),
    };
    if is_good {
        Ok(format!("answers {target} with {status}"))
    } else {
        Err(format!("{target} is answered with {status}"))
    }
}

async fn ask(http: SocketAddr, target: &str) -> Result<StatusCode, String> {
    let words = |error: &dyn std::error::Error| format!("{target} is not answered: {error}");
    let stream = TcpStream::connect(http).await.map_err(|error| words(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    let request = Request::get(target).header(HOST, http.to_string()).header(CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| words(&error))?;
    // The connection must be driven for the exchange to move; its own end says nothing that the exchange does not.
    let drive = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = sender.send_request(request) => answer.map(|answer| answer.status()).map_err(|error| words(&error)),
        never = drive => never,
    }
}

fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn probed(answer: &str, path: Option<&str>) -> (Result<String, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1_024];
            let read = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned()
        };
        let context = "/shop".parse().unwrap();
        tokio::join!(probe(http, &context, path), serve)
    }

    #[actix_web::test]
    async fn the_root_must_not_fail_and_a_named_page_must_be_there() {
        let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        let (good, line) = probed(none, None).await;
        assert_eq!((good.unwrap(), line.as_str()), ("answers /shop/ with 404 Not Found".into(), "GET /shop/ HTTP/1.1"));
        let (bad, line) = probed(none, Some("/health.txt")).await;
        assert_eq!(line, "GET /shop/health.txt HTTP/1.1");
        assert_eq!(bad.unwrap_err(), "/shop/health.txt is answered with 404 Not Found");
        let (bad, _) = probed("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", None).await;
        assert!(bad.unwrap_err().contains("500"));
        let (moved, _) = probed("HTTP/1.1 303 See Other\r\nContent-Length: 0\r\n\r\n", Some("x")).await;
        assert!(moved.is_ok());
    }

    #[actix_web::test]
    async fn what_is_no_answer_is_an_error() {
        let (bad, _) = probed("SSH-2.0\r\n\r\n", None).await;
        assert!(bad.unwrap_err().starts_with("/shop/ is not answered"));
    }
}
