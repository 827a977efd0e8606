//! A client's connection, with a bound on the time until its next request. actix-web times the first head of a
//! connection and one that is idle, but waits for ever for a later head that has begun to arrive.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::HttpRequest;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::departure::Present;
use crate::{limits, time::Moment};

/// The connection. To actix-web it ends when the next request is overdue.
pub(crate) struct Client {
    socket: TcpStream,
    pace: Rc<Pace>,
    /// Wakes the connection at the moment beside it.
    alarm: Option<(Moment, Pin<Box<Sleep>>)>,
    _present: Present,
}

/// When the next request of a connection must have come.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Requests that are being answered.
    running: Cell<usize>,
    /// The next head has begun to arrive.
    begun: Cell<bool>,
    /// None while a request runs, and before the first, which actix-web times itself.
    due: Cell<Option<Moment>>,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Option<Rc<Pace>>);

impl Client {
    /// Sets TCP_NODELAY as well: an answer is written as soon as it is there.
    pub(crate) fn new(socket: TcpStream, present: Present) -> Self {
        let _ = socket.set_nodelay(true); // fails only on a connection that is gone
        Self { socket, pace: Rc::default(), alarm: None, _present: present }
    }

    /// Shared with the requests of this connection, as its connection data.
    pub(crate) fn pace(&self) -> Rc<Pace> {
        self.pace.clone()
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(due) = self.pace.due.get() {
            let now = Moment::now();
            if now >= due {
                return true;
            }
            let (at, alarm) = match &mut self.alarm {
                Some((at, alarm)) if *at <= due => (*at, alarm),
                stale => {
                    let (_, alarm) = stale.insert((due, Box::pin(sleep(due.since(now)))));
                    (due, alarm)
                }
            };
            if alarm.as_mut().poll(cx).is_pending() {
                return false;
            }
            // It was set for an earlier request, or it is as good as late.
            self.alarm = None;
            if at == due {
                return true;
            }
        }
        false
    }
}

impl Running {
    /// From now on a request of this connection is being answered.
    pub(crate) fn begin(request: &HttpRequest) -> Self {
        let pace = request.conn_data::<Rc<Pace>>().cloned();
        if let Some(pace) = &pace {
            pace.begin();
        }
        Self(pace)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pace) = &self.0 {
            pace.end(Moment::now());
        }
    }
}

impl Pace {
    const IDLE: Duration = limits::CLIENT_KEEP_ALIVE.saturating_add(limits::HEAD_TIMEOUT);

    fn begin(&self) {
        self.running.set(self.running.get() + 1);
        self.begun.set(false);
        self.due.set(None);
    }

    fn end(&self, now: Moment) {
        self.running.set(self.running.get().saturating_sub(1));
        if self.running.get() == 0 {
            self.due.set(Some(now + Self::IDLE));
        }
    }

    /// Bytes came: between two requests they are the next head, which then has its own time.
    fn read(&self, now: Moment) {
        if self.due.get().is_some() && !self.begun.replace(true) {
            self.due.set(Some(now + limits::HEAD_TIMEOUT));
        }
    }

    /// Bytes went: the last of an answer that a slow client takes while its body has ended here.
    fn wrote(&self, now: Moment) {
        if self.due.get().is_some() && !self.begun.get() {
            self.due.set(Some(now + Self::IDLE));
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.pace.read(Moment::now());
        }
        // Also when bytes came: one a second must not keep it open. No bytes mean the end.
        if this.is_overdue(cx) {
            buf.set_filled(before);
            return Poll::Ready(Ok(()));
        }
        read
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        if let Poll::Ready(Ok(1..)) = written {
            self.pace.wrote(Moment::now());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::departure::Departure, *};

    const NOW: Moment = Moment(1_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_head_and_a_running_request_are_not_timed_here() {
        let pace = Pace::default();
        pace.read(NOW);
        assert_eq!(pace.due.get(), None);
        pace.begin();
        pace.read(NOW);
        pace.wrote(NOW);
        assert_eq!(pace.due.get(), None);
    }

    #[test]
    fn the_next_head_has_its_time_from_its_first_byte() {
        let pace = Pace::default();
        pace.begin();
        pace.end(NOW);
        assert_eq!(pace.due.get(), Some(NOW + Pace::IDLE));
        pace.read(NOW + SECOND);
        let due = Some(NOW + SECOND + limits::HEAD_TIMEOUT);
        assert_eq!(pace.due.get(), due);
        pace.read(NOW + SECOND * 9);
        pace.wrote(NOW + SECOND * 9);
        assert_eq!(pace.due.get(), due, "more bytes are no more time");
        pace.begin();
        assert_eq!(pace.due.get(), None);
    }

    #[test]
    fn a_client_that_takes_its_answer_slowly_is_waited_for() {
        let pace = Pace::default();
        pace.begin();
        pace.begin();
        pace.end(NOW);
        assert_eq!(pace.due.get(), None, "the body of the answer still runs");
        pace.end(NOW);
        pace.wrote(NOW + SECOND);
        assert_eq!(pace.due.get(), Some(NOW + SECOND + Pace::IDLE));
    }

    #[tokio::test]
    async fn a_connection_whose_next_request_is_overdue_has_ended() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client =
            Client::new(listener.accept().await.unwrap().0, std::sync::Arc::<Departure>::default().present());
        let pace = client.pace();
        far.write_all(b"GET").await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 3, "the first head is actix-web's");
        pace.due.set(Some(Moment::now() + Duration::from_millis(50)));
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "the wait itself ends");
        far.write_all(b"G").await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "a byte more does not help");
    }
}
