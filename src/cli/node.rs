//! Asks a node of this machine itself, with its key: what puts code on all nodes does not go through the balancer.

use std::{io, net::SocketAddr, path::PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, CONTENT_LENGTH, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    deployment::Event,
    limits,
    settings::{Badge, Settings},
};

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoNode {
    #[error("no node of this machine can be asked: {} cannot be read ({error}); run this as the user that runs tasuki, where it runs", run.display())]
    Unreadable { run: PathBuf, error: io::Error },
    #[error("no node of this machine answers: is tasuki running? (looked up in {}/*.node.json)", .0.display())]
    None(PathBuf),
    #[error("the node at {0} broke off: {1}; \"tasuki webapps\" shows what is deployed")]
    Broken(SocketAddr, String),
    #[error("{0}")]
    Refused(String),
}

/// News of a deployment, as they come.
pub(super) struct News {
    node: SocketAddr,
    body: Limited<Incoming>,
    unread: Vec<u8>,
}

/// Gives an order to the first node of this machine that answers. `query` says what, `archive` is what is to be deployed.
pub(super) async fn order(settings: &Settings, query: &str, archive: Bytes) -> Result<News, NoNode> {
    let run = &settings.node.run;
    let badges = Badge::all(run).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NoNode::None(run.clone()),
        _ => NoNode::Unreadable { run: run.clone(), error },
    })?;
    for badge in badges {
        let connected = timeout(limits::ASK_TIMEOUT, TcpStream::connect(badge.http)).await;
        if let Ok(Ok(stream)) = connected {
            return ask(stream, &badge, query, archive).await;
        }
    }
    Err(NoNode::None(run.clone()))
}

async fn ask(stream: TcpStream, badge: &Badge, query: &str, archive: Bytes) -> Result<News, NoNode> {
    let broken = |error: &dyn std::error::Error| NoNode::Broken(badge.http, error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // It ends with the exchange; what the exchange does not say is not worth telling.
    tokio::spawn(connection);
    let request = Request::post(format!("/.tasuki/deployments?{query}"))
        .header(HOST, badge.http.to_string())
        .header(CONNECTION, "close")
        .header(CONTENT_LENGTH, archive.len())
        .header("Tasuki-Control", "1")
        .header("Tasuki-Key", &badge.key)
        .body(Full::new(archive))
        .map_err(|error| broken(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), limits::STATUS_BYTES);
    if status == StatusCode::OK {
        return Ok(News { node: badge.http, body, unread: Vec::new() });
    }
    let text = body.collect().await.map_err(|error| NoNode::Broken(badge.http, error.to_string()))?.to_bytes();
    Err(NoNode::Refused(format!("node {}: {}", badge.route, plain(&String::from_utf8_lossy(&text)))))
}

impl News {
    /// The next line; none when the node has nothing more to say.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, NoNode> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|error| NoNode::Broken(self.node, error.to_string()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.unread.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(NoNode::Broken(self.node, error.to_string())),
            }
        }
    }
}

/// The sentence of one of our own small pages.
fn plain(page: &str) -> String {
    let body = page.split("<p>").nth(1).and_then(|rest| rest.split("</p>").next()).unwrap_or(page);
    body.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&")
}
