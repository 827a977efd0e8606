//! HTTP/2 for clients over TLS: hyper speaks it, and every stream becomes a request of actix-web as any other.
//!
//! Bounded here: streams at once, resets in a time, idle time, and how long a client takes nothing of an answer. A client
//! that takes nothing at all answers no PING either. Bounded by h2, which hyper is made of: the size of a
//! decoded head (its CONTINUATION frames included), resets of streams that were not yet taken up, resets that a client
//! makes us send, empty DATA frames, and unanswered PING and SETTINGS.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{Request, Response};
use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    dev::Payload,
    error::PayloadError,
    http as front, rt,
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::BodyDataStream;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_LENGTH, HeaderName, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
    time::{sleep, timeout},
};

use super::shared::Shared;
use crate::{limits, time::Moment};

/// Answers a request: actix-web's application.
pub(crate) type Application = Rc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Response<BoxBody>>>>>;

/// Streams of one connection.
#[derive(Debug, Default)]
struct Streams {
    running: Cell<usize>,
    /// When the last one ended, or the connection began.
    quiet_since: Cell<Moment>,
    resets: Resets,
    /// There were too many resets.
    flooded: Notify,
    /// Streams that were given a piece of an answer and have not asked for the next one, since when.
    given: RefCell<Vec<(u64, Moment)>>,
    begun: Cell<u64>,
}

/// Streams that ended before their answer did: the client has reset them.
#[derive(Debug, Default)]
struct Resets {
    since: Cell<Moment>,
    count: Cell<usize>,
}

/// A stream whose answer has not ended.
#[derive(Debug)]
struct Stream {
    streams: Rc<Streams>,
    number: u64,
    answered: bool,
}

/// Serves one connection until its end. When `stopping` ends, which is when the server stops or is replaced, no new streams
/// are taken, and those that run are finished.
pub(crate) async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Option<SocketAddr>,
    application: Application,
    stopping: impl Future<Output = ()>,
) {
    serve_within(io, peer, application, stopping, limits::CLIENT_WRITE_STALL).await;
}

/// The same with a bound of one's own for a client that takes nothing of an answer.
async fn serve_within(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Option<SocketAddr>,
    application: Application,
    stopping: impl Future<Output = ()>,
    write_stall: Duration,
) {
    let (streams, io) = (Rc::new(Streams::default()), Shared::new(io));
    // Still here when hyper has finished with it.
    let held = io.clone();
    streams.quiet_since.set(Moment::now());
    let service = service_fn({
        let streams = streams.clone();
        move |request| answer(request, peer, application.clone(), Stream::begin(&streams))
    });
    let connection = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::HTTP2_STREAMS)
        .max_header_list_size(limits::HTTP2_HEAD_BYTES)
        .keep_alive_interval(limits::CLIENT_KEEP_ALIVE)
        .keep_alive_timeout(limits::HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let (mut connection, mut stopping) = (pin!(connection), pin!(stopping));
    let (mut ending, mut stop) = (None, false);
    loop {
        let now = Moment::now();
        if streams.is_stalled(now, write_stall) {
            tracing::debug!(?peer, "an HTTP/2 client takes nothing of an answer");
            return;
        }
        let idle = streams.idle(now);
        // GOAWAY first; who does not go within a moment is left.
        let rest = match ending {
            None if idle >= limits::CLIENT_KEEP_ALIVE => {
                connection.as_mut().graceful_shutdown();
                ending = Some(now);
                limits::CLIENT_LINGER
            }
            None => limits::CLIENT_KEEP_ALIVE - idle,
            // The last bytes of the last answer are on their way for a moment after its stream has ended.
            Some(since) if idle.min(now.since(since)) >= limits::CLIENT_LINGER => return,
            Some(_) => limits::CLIENT_LINGER,
        };
        tokio::select! {
            ended = connection.as_mut() => {
                match ended {
                    Ok(()) => linger(held).await,
                    Err(error) => tracing::debug!(?peer, %error, "an HTTP/2 connection broke"),
                }
                return;
            }
            () = streams.flooded.notified() => {
                tracing::debug!(?peer, "an HTTP/2 client reset too many streams");
                return;
            }
            () = stopping.as_mut(), if !stop => {
                stop = true;
                connection.as_mut().graceful_shutdown();
                ending.get_or_insert(now);
            }
            () = sleep(rest.min(write_stall)) => {}
        }
    }
}

/// Says that nothing follows, and reads what the client still says: a close with unread bytes (it grants room for more of an
/// answer that it has not read yet) would be a reset, and the end of the answer would be lost.
async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let rest = async {
        let _ = io.shutdown().await;
        while io.read(&mut [0; 512]).await.is_ok_and(|read| read > 0) {}
    };
    let _ = timeout(limits::CLIENT_LINGER, rest).await;
}

/// hyper's own tasks, and the streams, stay on this worker.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        rt::spawn(async move { drop(future.await) });
    }
}

impl Streams {
    /// How long there has been nothing to do.
    fn idle(&self, now: Moment) -> Duration {
        if self.running.get() > 0 { Duration::ZERO } else { now.since(self.quiet_since.get()) }
    }

    /// A stream has not asked for the next piece of its answer for so long: its client gives it no room.
    fn is_stalled(&self, now: Moment, longest: Duration) -> bool {
        self.given.borrow().iter().any(|(_, since)| now.since(*since) >= longest)
    }
}

impl Resets {
    /// One more; whether that is too many within the time.
    fn add(&self, now: Moment) -> bool {
        if self.count.get() == 0 || now.since(self.since.get()) >= limits::HTTP2_RESETS_WITHIN {
            self.since.set(now);
            self.count.set(0);
        }
        self.count.set(self.count.get() + 1);
        self.count.get() > limits::HTTP2_RESETS
    }
}

impl Stream {
    fn begin(streams: &Rc<Streams>) -> Self {
        streams.running.set(streams.running.get() + 1);
        streams.begun.set(streams.begun.get() + 1);
        Self { streams: streams.clone(), number: streams.begun.get(), answered: false }
    }

    /// The next piece is asked for.
    fn asks(&self) {
        self.streams.given.borrow_mut().retain(|(number, _)| *number != self.number);
    }

    /// A piece is on its way.
    fn gives(&self, now: Moment) {
        self.streams.given.borrow_mut().push((self.number, now));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.asks();
        let (streams, now) = (&self.streams, Moment::now());
        streams.running.set(streams.running.get() - 1);
        streams.quiet_since.set(now);
        if !self.answered && streams.resets.add(now) {
            streams.flooded.notify_one();
        }
    }
}

/// Dropped with its request when the client resets the stream, which takes the request back from the member.
async fn answer(
    request: hyper::Request<Incoming>,
    peer: Option<SocketAddr>,
    application: Application,
    mut stream: Stream,
) -> Result<hyper::Response<Answer>, Infallible> {
    let head_only = request.method() == hyper::Method::HEAD;
    let answer = match to_front(request, peer) {
        Some(request) => application(request).await,
        None => Response::with_body(front::StatusCode::BAD_REQUEST, BoxBody::new(())),
    };
    let (head, body) = answer.into_parts();
    let size = body.size();
    let mut answer = hyper::Response::new(());
    let status = hyper::StatusCode::from_u16(head.status().as_u16());
    *answer.status_mut() = status.unwrap_or(hyper::StatusCode::BAD_GATEWAY);
    for (name, value) in head.headers() {
        if !is_of_http1(name.as_str())
            && let Ok(name) = HeaderName::from_bytes(name.as_str().as_bytes())
            && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
        {
            answer.headers_mut().append(name, value);
        }
    }
    if let BodySize::Sized(length) = size {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let body = if head_only || size.is_eof() {
        stream.answered = true;
        None
    } else {
        Some(body)
    };
    Ok(answer.map(|()| Answer { body, rest: Bytes::new(), size, stream }))
}

/// RFC 9113 section 8.2.2.
fn is_of_http1(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "content-length"
    )
}

/// The step between the two `http` crates; None for what actix-web's cannot say.
fn to_front(request: hyper::Request<Incoming>, peer: Option<SocketAddr>) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let mut request = Request::with_payload(payload(body));
    let head = request.head_mut();
    head.method = front::Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = parts.uri.to_string().parse().ok()?;
    head.version = front::Version::HTTP_2;
    head.peer_addr = peer;
    for (name, value) in &parts.headers {
        let name = front::header::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers_mut().append(name, front::header::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(request)
}

fn payload(body: Incoming) -> Payload {
    if body.is_end_stream() {
        return Payload::None;
    }
    // Trailers end here, as those of HTTP/1.
    let pieces = BodyDataStream::new(body).map_err(|error| PayloadError::Io(io::Error::other(error)));
    Payload::Stream { payload: Box::pin(pieces) }
}

/// The body of an answer, as hyper takes it.
struct Answer {
    body: Option<BoxBody>,
    /// What is left of the last piece of it: few bytes are given at a time, so that a slow client is seen to take them.
    rest: Bytes,
    size: BodySize,
    stream: Stream,
}

impl Answer {
    /// The next bytes of what is left.
    fn give(&mut self) -> Frame<Bytes> {
        self.stream.gives(Moment::now());
        let now = self.rest.len().min(limits::HTTP2_PIECE_BYTES);
        Frame::data(self.rest.split_to(now))
    }

    /// Also with an error: that is the member's fault, not a reset of the client's.
    fn end(&mut self) {
        self.stream.answered = true;
        self.body = None;
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.stream.asks();
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.give())));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let piece = std::task::ready!(Pin::new(body).poll_next(cx));
        match piece {
            Some(Ok(piece)) => {
                self.rest = piece;
                Poll::Ready(Some(Ok(self.give())))
            }
            Some(Err(error)) => {
                self.end();
                Poll::Ready(Some(Err(error.to_string().into())))
            }
            None => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.size {
            BodySize::Sized(length) if self.body.is_some() => SizeHint::with_exact(length),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};
    use hyper::client::conn::http2 as http2_client;

    use super::*;

    const STALL: Duration = Duration::from_millis(200);

    /// A client and its connection to a server whose answers are of two megabytes.
    async fn client() -> (http2_client::SendRequest<Empty<Bytes>>, rt::task::JoinHandle<()>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let answer = |_| -> Pin<Box<dyn Future<Output = Response<BoxBody>>>> {
            Box::pin(async { Response::with_body(front::StatusCode::OK, BoxBody::new(vec![b'x'; 2 << 20])) })
        };
        let served = rt::spawn(serve_within(near, None, Rc::new(answer), std::future::pending(), STALL));
        let mut client = http2_client::Builder::new(Local);
        client.initial_stream_window_size(64 * 1024).initial_connection_window_size(64 * 1024);
        let (sender, connection) = client.handshake(TokioIo::new(far)).await.unwrap();
        rt::spawn(async move { drop(connection.await) });
        (sender, served)
    }

    fn request() -> hyper::Request<Empty<Bytes>> {
        hyper::Request::get("https://localhost/").body(Empty::new()).unwrap()
    }

    #[actix_web::test]
    async fn a_client_that_gives_an_answer_no_room_is_disconnected() {
        let (mut sender, served) = client().await;
        // It answers every PING, and reads nothing of the body.
        let _answer = sender.send_request(request()).await.unwrap();
        tokio::time::timeout(STALL * 25, served).await.expect("still connected").unwrap();
    }

    #[actix_web::test]
    async fn a_client_that_takes_its_answer_slowly_is_not() {
        let (mut sender, served) = client().await;
        let (mut body, mut read) = (sender.send_request(request()).await.unwrap().into_body(), 0);
        while let Some(frame) = body.frame().await {
            read += frame.expect("it is cut off").into_data().unwrap().len();
            if read % (512 * 1024) < 16 * 1024 {
                sleep(STALL / 2).await;
            }
        }
        assert_eq!(read, 2 << 20);
        // Nothing tells that nobody will be disconnected: the time in which that would be has to pass.
        sleep(STALL * 2).await;
        assert!(!served.is_finished(), "an answer that has ended stalls nobody");
    }

    #[test]
    fn resets_are_counted_within_a_time() {
        let (resets, now) = (Resets::default(), Moment(1_000_000_000));
        for _ in 0..limits::HTTP2_RESETS {
            assert!(!resets.add(now));
        }
        assert!(resets.add(now), "one too many");
        let later = now + limits::HTTP2_RESETS_WITHIN;
        assert!(!resets.add(later), "a new time has begun");
    }
}
