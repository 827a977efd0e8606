//! The body of a member's answer on its way to the client: streams, and gives the connection back when it has ended.
//!
//! When the client goes away actix-web drops the body, the connection is dropped with it, and the member sees it.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use hyper::{
    Method, Response,
    body::{Body, Incoming},
    header::CONTENT_LENGTH,
};

use super::{
    client::Running,
    connection::Connection,
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
    broken: Option<hyper::Error>,
    counters: Arc<Counters>,
    /// The client is not asked for its next request before this one's answer has ended.
    _running: Running,
}

/// A connection on loan from the pool. Dropped before its end it closes the connection.
pub(crate) struct Lease {
    worker: Rc<Worker>,
    connection: Connection,
    busy: Busy,
}

impl Answer {
    /// The body of `answer` to a request of `method`. An empty one gives the connection back at once.
    pub(crate) fn new(
        method: &Method,
        answer: Response<Incoming>,
        lease: Option<Lease>,
        counters: Arc<Counters>,
        running: Running,
    ) -> Self {
        let size = size(method, &answer);
        let incoming = answer.into_body();
        let mut body = Self { incoming, size, lease, has_ended: false, broken: None, counters, _running: running };
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
    /// The connection, and the body of the request it carries.
    pub(crate) fn new(worker: Rc<Worker>, mut connection: Connection, busy: Busy, upload: &Upload) -> Self {
        if !matches!(upload.progress(), Progress::Done(_)) {
            connection.set_apart();
        }
        Self { worker, connection, busy }
    }

    /// The answer was read whole.
    fn end(self) {
        self.worker.pool.put(self.busy.member().serial, self.connection, Moment::now());
    }
}

impl MessageBody for Answer {
    type Error = hyper::Error;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(error) = this.broken.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if this.has_ended {
                return Poll::Ready(None);
            }
            let piece = match &mut this.lease {
                Some(lease) => lease.connection.poll_frame(&mut this.incoming, cx),
                None => Pin::new(&mut this.incoming).poll_frame(cx),
            };
            match std::task::ready!(piece) {
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
                    // actix-web drops at an error what it has not written yet, the head too: a client would not see that
                    // there was an answer, and might ask again.
                    this.lease = None;
                    this.broken = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => this.end(),
            }
        }
    }
}
