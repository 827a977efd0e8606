//! A WebSocket through the door: after 101 the bytes of both sides are passed on as they come.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpResponse,
    body::{BodySize, MessageBody},
    dev::Payload,
    http::{ConnectionType, header},
    rt,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hyper::{Response, body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf, split},
    sync::oneshot,
    task::JoinHandle,
};

use super::{
    connection,
    pace::Running,
    upload::Outgoing,
    view::{Busy, Counters},
};
use crate::limits;

/// Takes the one request of a connection of its own.
pub(crate) type Sender = http1::SendRequest<Outgoing>;

type Io = TokioIo<Upgraded>;

/// The member's side of a tunnel, as the body of the 101. Dropped when the client goes away, which ends both directions.
pub(crate) struct Tunnel {
    reading: Reading,
    buffer: BytesMut,
    /// Passes on what the client sends.
    upload: JoinHandle<()>,
    /// The member is busy as long as the tunnel stands.
    busy: Busy,
    _running: Running,
}

enum Reading {
    /// The connection has not been handed over yet.
    Coming(oneshot::Receiver<ReadHalf<Io>>),
    Open(ReadHalf<Io>),
}

/// Opens a connection that may be upgraded; it never goes to the pool.
///
/// # Errors
/// What the operating system says, and `TimedOut` after `longest`.
pub(crate) async fn connect(address: SocketAddr, longest: Duration) -> io::Result<Sender> {
    let socket = connection::connect(address, longest).await?;
    let (sender, work) = http1::Builder::new()
        .max_header_size(limits::ANSWER_HEAD_BYTES)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(io::Error::other)?;
    rt::spawn(async move {
        if let Err(error) = work.with_upgrades().await {
            tracing::debug!(%address, %error, "connection to a member ended");
        }
    });
    Ok(sender)
}

/// Makes the client's answer the 101 that the member gave.
pub(crate) fn switch(response: &mut HttpResponse) {
    response.head_mut().set_connection_type(ConnectionType::Upgrade);
    response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
}

impl Tunnel {
    /// Joins the client, whose bytes come as `raw`, and the member that has answered 101.
    pub(crate) fn new(answer: Response<Incoming>, raw: Payload, busy: Busy, running: Running) -> Self {
        let (open, coming) = oneshot::channel();
        let counters = busy.member().counters.clone();
        let upload = rt::spawn(async move {
            match hyper::upgrade::on(answer).await {
                Ok(upgraded) => {
                    let (read, write) = split(TokioIo::new(upgraded));
                    if open.send(read).is_ok() {
                        pass_on(raw, write, &counters).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "a member took its 101 back"),
            }
        });
        Self { reading: Reading::Coming(coming), buffer: BytesMut::new(), upload, busy, _running: running }
    }
}

/// Client to member, until either has had enough; then the member is told that nothing more comes.
async fn pass_on(mut raw: Payload, mut write: WriteHalf<Io>, counters: &Counters) {
    while let Some(Ok(piece)) = raw.next().await {
        counters.sent(piece.len());
        if write.write_all(&piece).await.is_err() || write.flush().await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.upload.abort();
    }
}

impl MessageBody for Tunnel {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, io::Error>>> {
        let this = &mut *self;
        if let Reading::Coming(coming) = &mut this.reading {
            match std::task::ready!(Pin::new(coming).poll(cx)) {
                Ok(read) => this.reading = Reading::Open(read),
                Err(_) => return Poll::Ready(None),
            }
        }
        let Reading::Open(read) = &mut this.reading else { return Poll::Pending };
        this.buffer.resize(limits::TUNNEL_READ_BYTES, 0);
        let mut target = ReadBuf::new(&mut this.buffer);
        std::task::ready!(Pin::new(read).poll_read(cx, &mut target))?;
        let filled = target.filled().len();
        this.busy.member().counters.received(filled);
        Poll::Ready((filled > 0).then(|| Ok(this.buffer.split_to(filled).freeze())))
    }
}
