//! A client's HTTP/1 connection, plain or over TLS: what comes in doubtful framing is kept from actix-web, and the time
//! until the next request is bounded (`pace`). A client that is quiet rests, and one that was refused is read on (`wire`).

use std::{
    cell::Cell,
    io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{HttpRequest, http::Version};
use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    departure::Present,
    framing::{Framing, Malformed, Passed, Place},
    pace::Pace,
    pages::Refusal,
    refusals::Refusals,
    wire::{Lingering, Wire},
};
use crate::{limits, time::Moment};

/// The connection. To actix-web it ends when the next request is overdue.
pub(crate) struct Client {
    /// None once this is dropped.
    guest: Option<Guest>,
    gate: Gate,
    pace: Rc<Pace>,
    /// What came behind a request that has not been answered. actix-http knows one HEAD and one version for a connection,
    /// those of the head it read last, and writes answers to earlier requests after them: it gets one request at a time.
    held: BytesMut,
    /// Bytes that actix-http wanted to write and has not: it offers them again, in front of what is new.
    offered: usize,
    /// The client takes nothing of its answer; ends its patience.
    stalled: Option<Pin<Box<Sleep>>>,
    /// The longest time for that.
    write_stall: Duration,
    /// Wakes the connection at the moment beside it.
    alarm: Option<(Moment, Pin<Box<Sleep>>)>,
    /// A refusal of this connection's last request is counted, or will be where the request is answered.
    refused: bool,
    /// actix-web was told that the client has gone, which only rests.
    rests: bool,
    place: RestingPlace,
}

/// A client apart from its requests.
struct Guest {
    wire: Wire,
    refusals: Arc<Refusals>,
    _present: Present,
}

/// A client that has been quiet for [`limits::CLIENT_REST`]: its connection, without all that a request needs.
pub(crate) struct Resting(Guest);

/// Where a client is found that rests, when actix-web has let it go.
pub(crate) type RestingPlace = Rc<Cell<Option<Resting>>>;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// As plain text.
    Http,
    /// Over TLS.
    Https,
}

/// Judges what comes in before actix-web sees it.
enum Gate {
    Open(Framing),
    /// What is left of [`POISON`].
    Closing(&'static [u8]),
    /// Nothing that comes in has a meaning any more.
    Closed,
}

/// Given to actix-web instead of what is malformed. It is an error wherever its parser stands, in a head and in a body, so
/// that it answers 400 to a head, and closes.
const POISON: &[u8] = b"\r\0";

impl Client {
    /// A connection as it comes.
    pub(crate) fn new(socket: TcpStream, present: Present, refusals: Arc<Refusals>) -> Self {
        Self::of(Guest { wire: Wire::Plain(socket), refusals, _present: present })
    }

    /// A connection whose handshake is done.
    pub(crate) fn sealed(stream: TlsStream<TcpStream>, present: Present, refusals: Arc<Refusals>) -> Self {
        Self::of(Guest { wire: Wire::Sealed(Box::new(stream)), refusals, _present: present })
    }

    fn of(guest: Guest) -> Self {
        Self {
            guest: Some(guest),
            gate: Gate::Open(Framing::default()),
            pace: Rc::default(),
            held: BytesMut::new(),
            offered: 0,
            stalled: None,
            write_stall: limits::CLIENT_WRITE_STALL,
            alarm: None,
            refused: false,
            rests: false,
            place: RestingPlace::default(),
        }
    }

    /// Also connection data, for [`Scheme::of`].
    pub(crate) fn scheme(&self) -> Scheme {
        match self.guest.as_ref().map(|guest| &guest.wire) {
            Some(Wire::Sealed(_)) => Scheme::Https,
            Some(Wire::Plain(_)) | None => Scheme::Http,
        }
    }

    /// To be looked at when actix-web has let this go.
    pub(crate) fn resting_place(&self) -> RestingPlace {
        self.place.clone()
    }

    /// The last request has been given whole and is not answered.
    fn must_wait(&self) -> bool {
        let Gate::Open(framing) = &self.gate else { return false };
        framing.place() == Place::Between && framing.heads() > self.pace.ended.get()
    }

    /// Waits for that answer, and reads only to see whether the client goes away. The end of the answer wakes the
    /// connection for what is held; what comes later does so by itself.
    fn hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [const { MaybeUninit::uninit() }; limits::CLIENT_READ_BYTES];
        while self.held.len() < limits::CLIENT_HELD_BYTES {
            let mut buf = ReadBuf::uninit(&mut space);
            if self.wire()?.poll_read(cx, &mut buf)?.is_pending() {
                break;
            }
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(buf.filled());
        }
        if !self.held.is_empty() {
            self.pace.waiting.replace(Some(cx.waker().clone()));
        }
        Poll::Pending
    }

    /// The next bytes, from what was held or from the wire.
    fn next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return self.wire()?.poll_read(cx, buf);
        }
        let now = self.held.split_to(self.held.len().min(buf.remaining()));
        buf.put_slice(&now);
        Poll::Ready(Ok(()))
    }

    /// Judges the bytes behind `before`, which may become fewer; those of the next request are held.
    fn judge(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let new = &mut buf.filled_mut()[before..];
        let kept = match &mut self.gate {
            Gate::Open(framing) => match framing.pass(new) {
                Ok(Passed { used, kept }) => {
                    if used < new.len() {
                        let mut rest = BytesMut::from(&new[used..]);
                        rest.unsplit(self.held.split());
                        self.held = rest;
                    }
                    kept
                }
                Err(Malformed { good }) => {
                    // Behind a whole head it is a body, and the one who answers that request counts it.
                    self.refused |= framing.heads() > self.pace.ended.get() || framing.place() == Place::Body;
                    self.gate = Gate::Closing(POISON);
                    good
                }
            },
            // Read on, so that the answer is not lost in a reset (RFC 9112 section 9.6).
            Gate::Closing(_) | Gate::Closed => {
                new.fill(0);
                new.len()
            }
        };
        buf.set_filled(before + kept);
    }

    /// Counts what actix-http refuses by itself, by the answer that it writes while no request of this connection is being
    /// answered and one has begun to come, or none ever came.
    fn count_refusal(&mut self, answer: &[u8]) {
        let ended = self.pace.ended.get();
        let is_an_answer = matches!(&self.gate, Gate::Open(framing)
            if ended > 0 && framing.heads() == ended && framing.place() != Place::Head);
        if self.refused || self.pace.running.get() > 0 || is_an_answer {
            return;
        }
        match answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.first_chunk()) {
            Some(b"400") => self.refuse(Refusal::BadRequest),
            Some(b"408") => self.refuse(Refusal::ClientTimeout),
            Some(b"431") => self.refuse(Refusal::HeadersTooLarge),
            _ => {}
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        if !std::mem::replace(&mut self.refused, true)
            && let Some(guest) = &self.guest
        {
            guest.refusals.count(refusal);
        }
    }

    /// Nothing is under way: a close loses no answer.
    fn is_clean(&self) -> bool {
        matches!(&self.gate, Gate::Open(framing) if framing.place() == Place::Between) && self.held.is_empty()
    }

    /// Shared with the requests of this connection, as its connection data.
    pub(crate) fn pace(&self) -> Rc<Pace> {
        self.pace.clone()
    }

    /// A client that still takes the last answer is not late: how long it may take for that is the stall's to say.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stalled.is_some() {
            return false;
        }
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

impl Scheme {
    /// How the client of a request is connected. HTTP/2 is spoken over TLS alone.
    pub(crate) fn of(request: &HttpRequest) -> Self {
        match request.conn_data() {
            _ if request.version() == Version::HTTP_2 => Self::Https,
            Some(scheme) => *scheme,
            None => Self::Http,
        }
    }

    /// As `X-Forwarded-Proto` has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Gate {
    /// Puts in what is owed from before; whether that was anything.
    fn owed(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Self::Closing(rest) = *self else { return false };
        let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(now);
        *self = if later.is_empty() { Self::Closed } else { Self::Closing(later) };
        true
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (&mut *self, buf.filled().len());
        loop {
            if this.must_wait() {
                return this.hold(cx);
            }
            if this.gate.owed(buf) {
                return Poll::Ready(Ok(()));
            }
            let read = this.next(cx, buf);
            let came = buf.filled().len() > before;
            if came {
                this.pace.read(Moment::now());
            }
            // Also when bytes came: one a second must not keep it open. No bytes mean the end.
            if this.is_overdue(cx) {
                match this.pace.begun.get() {
                    true => this.refuse(Refusal::ClientTimeout),
                    false => this.rests = this.is_clean(),
                }
                buf.set_filled(before);
                return Poll::Ready(Ok(()));
            }
            if !came {
                return read;
            }
            this.judge(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let new = buf.get(self.offered..).unwrap_or_default();
        self.count_refusal(new);
        let written = match self.wire()? {
            Wire::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Wire::Sealed(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.offered = buf.len() - if let Poll::Ready(Ok(written)) = written { written } else { 0 };
        if written.is_pending() {
            return self.stall(cx).map(Err);
        }
        self.stalled = None;
        if let Poll::Ready(Ok(1..)) = written {
            self.pace.wrote(Moment::now());
            // Sets the alarm behind the end of an answer: nothing is read before the client's next word.
            self.is_overdue(cx);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match self.wire()? {
            Wire::Plain(socket) => return Pin::new(socket).poll_flush(cx),
            Wire::Sealed(stream) => Pin::new(stream).poll_flush(cx),
        };
        // rustls takes what the client does not: it waits here, and not in poll_write.
        if flushed.is_pending() {
            return self.stall(cx).map(Err);
        }
        if self.stalled.take().is_some() {
            self.pace.wrote(Moment::now());
            self.is_overdue(cx);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.rests {
            return Poll::Ready(Ok(()));
        }
        let done = match self.wire()? {
            Wire::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Wire::Sealed(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        if done.is_pending() { self.stall(cx).map(Err) } else { done }
    }
}

impl Client {
    /// Nothing could be written. Ready when that has lasted too long.
    fn stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let longest = self.write_stall;
        let alarm = self.stalled.get_or_insert_with(|| Box::pin(sleep(longest)));
        alarm.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn wire(&mut self) -> io::Result<&mut Wire> {
        let guest = self.guest.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(&mut guest.wire)
    }
}

/// actix-web closes at once behind a refusal. With bytes of the client unread that is a reset, and the refusal is lost.
impl Drop for Client {
    fn drop(&mut self) {
        let Some(guest) = self.guest.take() else { return };
        if self.rests {
            return self.place.set(Some(Resting(guest)));
        }
        let (Ok(runtime), false) = (Handle::try_current(), self.is_clean()) else { return };
        let wire = guest.wire;
        if let Some(lingering) = Lingering::begin() {
            runtime.spawn(async move {
                let _ = timeout(limits::CLIENT_LINGER, wire.drain()).await;
                drop(lingering);
            });
        }
    }
}

impl Resting {
    /// The client, when it says something or goes away. None when it has been quiet for too long, or the server stops; the
    /// connection is closed then.
    pub(crate) async fn awake(mut self, stopping: impl Future<Output = ()>) -> Option<Client> {
        let longest = limits::CLIENT_KEEP_ALIVE.saturating_sub(limits::CLIENT_REST);
        let awake = tokio::select! {
            biased;
            () = stopping => false,
            awake = timeout(longest, self.0.wire.readable()) => awake.is_ok(),
        };
        if awake {
            return Some(Client::of(self.0));
        }
        let _ = timeout(limits::CLIENT_LINGER, self.0.wire.shutdown()).await; // of no use to a client that is gone
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{super::departure::Departure, *};

    fn client(socket: TcpStream) -> Client {
        Client::new(socket, Arc::<Departure>::default().present(), Arc::default())
    }

    #[tokio::test]
    async fn a_connection_whose_next_request_is_overdue_has_ended() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client = client(listener.accept().await.unwrap().0);
        let pace = client.pace();
        far.write_all(b"GET").await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 3, "the first head is actix-web's");
        pace.due.set(Some(Moment::now() + Duration::from_millis(50)));
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "the wait itself ends");
        far.write_all(b"G").await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "a byte more does not help");
    }

    #[tokio::test]
    async fn a_client_that_is_quiet_rests_until_it_says_something() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client = client(listener.accept().await.unwrap().0);
        for word in ["first", "second"] {
            let (pace, place) = (client.pace(), client.resting_place());
            pace.begin();
            pace.end(Moment::now());
            pace.due.set(Some(Moment::now() + Duration::from_millis(20)));
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "for actix-web it has gone");
            client.shutdown().await.unwrap();
            drop(client);
            let resting = place.take().expect("it rests");
            let says = async {
                tokio::task::yield_now().await;
                far.write_all(word.as_bytes()).await.unwrap();
            };
            client = tokio::join!(resting.awake(std::future::pending()), says).0.expect("it has said something");
            let mut said = vec![0; word.len()];
            client.read_exact(&mut said).await.unwrap();
            assert_eq!(said, word.as_bytes());
            client = Client::of(client.guest.take().unwrap());
        }
        let resting = Resting(client.guest.take().unwrap());
        assert!(resting.awake(std::future::ready(())).await.is_none(), "the server stops");
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0, "and has closed the connection");
    }

    /// A client over TLS, and its own side.
    async fn sealed() -> (Client, tokio_rustls::client::TlsStream<TcpStream>) {
        use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let near = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let near = near.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let far = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let far = tokio_rustls::TlsConnector::from(Arc::new(far.with_root_certificates(roots).with_no_client_auth()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(near));
        let (near, far) = tokio::join!(acceptor.accept(accepted), far.connect("localhost".try_into().unwrap(), socket));
        (Client::sealed(near.unwrap(), Arc::<Departure>::default().present(), Arc::default()), far.unwrap())
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_over_tls_is_not_waited_for_for_ever_either() {
        use tokio::io::AsyncWriteExt;
        let (mut client, _far) = sealed().await;
        client.write_stall = Duration::from_millis(50);
        let ended = async {
            loop {
                client.write_all(&[b'x'; 4_096]).await.expect("rustls has taken it");
                if let Err(error) = client.flush().await {
                    return [error, client.shutdown().await.unwrap_err()];
                }
            }
        };
        let ended = timeout(Duration::from_secs(5), ended).await.expect("still waiting");
        assert_eq!(ended.map(|error| error.kind()), [io::ErrorKind::TimedOut; 2]);
    }

    #[tokio::test]
    async fn a_client_that_still_takes_its_last_answer_does_not_rest() {
        use std::future::poll_fn;

        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client = client(listener.accept().await.unwrap().0);
        let answer = vec![0; 64 << 20];
        while poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &answer).is_ready())).await {}
        client.pace.due.set(Some(Moment(0)));
        let mut space = [0; 8];
        let mut look = async || {
            let mut buf = ReadBuf::new(&mut space);
            poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_read(cx, &mut buf).is_pending())).await
        };
        assert!(look().await, "for actix-web it would have gone");
        far.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_its_answer_is_not_waited_for_for_ever() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client = client(listener.accept().await.unwrap().0);
        client.write_stall = Duration::from_millis(50);
        let answer = vec![0; 64 << 20];
        let ended = timeout(Duration::from_secs(5), client.write_all(&answer)).await.expect("still waiting");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(far);
    }

    #[tokio::test]
    async fn a_refusal_behind_an_answer_that_a_slow_client_has_left_is_counted_once() {
        use std::future::poll_fn;

        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut client = client(listener.accept().await.unwrap().0);
        let (pace, refusals) = (client.pace(), client.guest.as_ref().unwrap().refusals.clone());
        far.write_all(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nA : b\r\n\r\n").await.unwrap();
        assert!(client.read(&mut [0; 64]).await.unwrap() > 0);
        pace.begin();
        pace.end(Moment::now());
        let mut left = [b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 64 << 20][..]].concat();
        poll_fn(|cx| {
            while let Poll::Ready(written) = Pin::new(&mut client).poll_write(cx, &left) {
                left.drain(..written.unwrap());
            }
            Poll::Ready(())
        })
        .await;
        assert!(client.read(&mut [0; 64]).await.unwrap() > 0, "what it is refused for");
        left.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert_eq!(refusals.report().bad_request, 0);
        for _ in 0..2 {
            poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &left).is_ready())).await;
            assert_eq!(refusals.report().bad_request, 1);
        }
    }

    #[tokio::test]
    async fn what_is_malformed_comes_as_poison_and_nothing_after_it() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for room in [1, 2, 64] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut client = client(listener.accept().await.unwrap().0);
            far.write_all(b"GET / HTTP/1.1\r\nA : b\r\n\r\nGET / HTTP/1.1\r\n\r\n").await.unwrap();
            drop(far);
            let (mut seen, mut buffer) = (Vec::new(), vec![0; room]);
            while let Ok(read @ 1..) = client.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..read]);
            }
            let poison = seen.windows(2).position(|two| two == POISON).expect("poison");
            assert!(b"GET / HTTP/1.1\r\nA : b\r".starts_with(&seen[..poison]), "{seen:?}");
            assert!(seen[poison + 2..].iter().all(|b| *b == 0), "{seen:?}");
        }
    }
}
