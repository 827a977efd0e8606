//! The body of a member's answer on its way to the client: streams, and gives the connection back when it has ended.
//!
//! When the client goes away actix-web drops the body, the connection is dropped with it, and the member sees it. A member
//! that says nothing for `balancer.read_timeout` in the middle of its answer has broken off.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use hyper::{
    Method, Response,
    body::{Body, Frame, Incoming},
    header::CONTENT_LENGTH,
};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    connection::Connection,
    pace::Running,
    upload::{Progress, Upload},
    view::{Busy, Counters},
    worker::Worker,
};
use crate::time::Moment;

/// The body.
pub(crate) struct Answer {
    incoming: Incoming,
    size: BodySize,
    /// Given back at the end of the body.
    lease: Option<Lease>,
    has_ended: bool,
    /// How the body broke off, until what came before it is on its way.
    broken: Option<io::Error>,
    silence: Silence,
    counters: Arc<Counters>,
    /// The client is not asked for its next request before this one's answer has ended.
    _running: Running,
}

/// A member that is busy with an answer, and the connection on loan from the pool. Dropped before its end it closes the
/// connection.
pub(crate) struct Lease {
    worker: Rc<Worker>,
    /// None where the request had a connection of its own.
    connection: Option<Connection>,
    /// The body of the request, where the answer came before its end.
    upload: Option<Upload>,
    busy: Busy,
}

/// How long nothing has come. It has no timer until somebody waits.
struct Silence {
    longest: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    lasts: bool,
}

impl Answer {
    /// The body of `answer` to a request of `method`. An empty one gives the connection back at once.
    pub(crate) fn new(method: &Method, answer: Response<Incoming>, mut lease: Lease, running: Running) -> Self {
        if is_without_body(method, &answer) {
            lease.expects_nothing();
        }
        let (size, incoming) = (size(method, &answer), answer.into_body());
        let mut body = Self {
            incoming,
            size,
            has_ended: false,
            broken: None,
            silence: Silence { longest: lease.worker.rules.read_timeout, alarm: None, lasts: false },
            counters: lease.busy.member().counters.clone(),
            lease: Some(lease),
            _running: running,
        };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    fn end(&mut self) {
        self.has_ended = true;
        if let Some(lease) = self.lease.take() {
            lease.end();
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.lease.as_mut().and_then(|lease| lease.connection.as_mut()) {
            Some(connection) => connection.poll_frame(&mut self.incoming, cx),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    /// Ready when the member has been silent for too long, which it may be while it still reads the request.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.silence.poll(cx));
            let Some(lease) = &self.lease else { return Poll::Pending };
            if !lease.is_being_sent() {
                lease.worker.warn(lease.busy.member().route.as_str(), &"answer cut", &"no more of it in time");
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The error is told at the next look: actix-web drops at an error what it has not written yet, the head too, and a
    /// client that does not see that there was an answer might ask again.
    fn break_off(&mut self, error: io::Error, cx: &mut Context<'_>) {
        self.lease = None;
        self.broken = Some(error);
        cx.waker().wake_by_ref();
    }
}

impl Silence {
    /// Something has come.
    fn ends(&mut self) {
        self.lasts = false;
    }

    /// Ready when it has lasted too long; the next look begins anew.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let longest = self.longest;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(longest)));
        if !std::mem::replace(&mut self.lasts, true) {
            alarm.as_mut().reset(Instant::now() + longest);
        }
        ready!(alarm.as_mut().poll(cx));
        self.lasts = false;
        Poll::Ready(())
    }
}

/// RFC 9112 section 6.3: whatever the head says.
fn is_without_body(method: &Method, answer: &Response<Incoming>) -> bool {
    method == Method::HEAD || matches!(answer.status().as_u16(), 204 | 304)
}

/// How long the client is told the body is. HEAD tells what GET would send; 204 and 304 have none.
fn size(method: &Method, answer: &Response<Incoming>) -> BodySize {
    let named = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.trim().parse().ok());
    match (answer.status().as_u16(), named) {
        (204 | 304, _) => BodySize::None,
        (_, Some(length)) => BodySize::Sized(length),
        (_, None) if method == Method::HEAD => BodySize::None,
        (_, None) => answer.body().size_hint().exact().map_or(BodySize::Stream, BodySize::Sized),
    }
}

impl Lease {
    /// The connection, if it goes back to the pool, and the body of the request it carries.
    pub(crate) fn new(worker: Rc<Worker>, mut connection: Option<Connection>, busy: Busy, upload: &Upload) -> Self {
        let early = !matches!(upload.progress(), Progress::Done(_));
        if let (true, Some(connection)) = (early, &mut connection) {
            connection.set_apart();
        }
        Self { worker, connection, upload: early.then(|| upload.clone()), busy }
    }

    fn is_being_sent(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !matches!(upload.progress(), Progress::Done(_)))
    }

    /// Whatever still comes of this answer is none of it.
    fn expects_nothing(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.suspect();
        }
    }

    /// The answer was read whole.
    fn end(self) {
        if let Some(connection) = self.connection {
            self.worker.pool.put(self.busy.member().serial, connection, Moment::now());
        }
    }
}

impl MessageBody for Answer {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, io::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(error) = this.broken.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if this.has_ended {
                return Poll::Ready(None);
            }
            let Poll::Ready(piece) = this.next(cx) else {
                let error = ready!(this.wait(cx));
                this.break_off(error, cx);
                return Poll::Pending;
            };
            this.silence.ends();
            match piece {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        this.counters.received(data.len());
                        // Seen here, before the client has taken it: the connection is free a little earlier.
                        if this.incoming.is_end_stream() {
                            this.end();
                        }
                        return Poll::Ready(Some(Ok(data)));
                    }
                    // Trailers: actix-web cannot send them, and nothing may depend on them (RFC 9110 section 6.5).
                    Err(_) => {}
                },
                Some(Err(error)) => {
                    this.break_off(io::Error::other(error), cx);
                    return Poll::Pending;
                }
                None => this.end(),
            }
        }
    }
}
