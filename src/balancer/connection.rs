//! A connection to a member, which carries one request at a time.
//!
//! hyper wants its side of a connection to be polled by somebody. A task of its own would be woken for each step, and wake
//! the request's task for each: four times for an ordinary request, and the head of the answer would leave in a packet of
//! its own before the task had brought the body. So the request that holds the connection polls it, and in the pool nobody
//! does.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_web::rt;
use bytes::Bytes;
use hyper::{
    Request, Response, Version,
    body::{Body, Frame, Incoming},
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, task::coop::unconstrained, time::timeout};

use super::{members::Trouble, shared::Shared, upload::Outgoing};
use crate::limits;

/// Dropping it closes it.
pub(crate) struct Connection {
    sender: http1::SendRequest<Outgoing>,
    work: Work,
    socket: Shared<TcpStream>,
    /// It spoke HTTP/1.0: hyper would write the next request so, and a body of unknown length would be lost.
    is_old: bool,
    suspect: bool,
}

/// Who polls hyper's side.
enum Work {
    /// Whoever holds the connection. Boxed: a connection goes from hand to hand for each request.
    Here(Box<http1::Connection<TokioIo<Shared<TcpStream>>, Outgoing>>),
    /// A task.
    Apart,
    /// Nobody: it has ended.
    Ended,
}

/// What becomes of a request that was sent.
pub(crate) type Sent = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;

/// A piece of an answer's body.
type Piece = Option<Result<Frame<Bytes>, hyper::Error>>;

impl Connection {
    /// Connects to a member.
    ///
    /// # Errors
    /// What the operating system says, and `TimedOut` after `longest`.
    pub(crate) async fn open(address: SocketAddr, longest: Duration) -> io::Result<Self> {
        let socket = Shared::new(connect(address, longest).await?);
        let (sender, connection) = http1::Builder::new()
            .max_header_size(limits::ANSWER_HEAD_BYTES)
            .handshake(TokioIo::new(socket.clone()))
            .await
            .map_err(io::Error::other)?;
        Ok(Self { sender, work: Work::Here(Box::new(connection)), socket, is_old: false, suspect: false })
    }

    /// Sends a request; ends with the head of the answer.
    ///
    /// # Errors
    /// What hyper says; the request is in it when no byte of it was written.
    pub(crate) async fn send(&mut self, request: Request<Outgoing>) -> Sent {
        // Without a budget: what refuses to look because of it would wake somebody, and there is nobody to be woken.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        let work = &mut self.work;
        let answer = poll_fn(|cx| work.go_on_until(cx, || answer.as_mut().poll(&mut unheard()))).await;
        self.is_old = answer.as_ref().is_ok_and(|answer| answer.version() != Version::HTTP_11);
        self.suspect = false;
        answer
    }

    /// Its last answer has no body, whatever its head says, and a member that sends one all the same is not to be believed:
    /// those bytes would be read as the answer to the next request.
    pub(crate) fn suspect(&mut self) {
        self.suspect = true;
    }

    /// See [`Connection::suspect`].
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// The next piece of the answer's body.
    pub(crate) fn poll_frame(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Work::Apart = self.work {
            return Pin::new(body).poll_frame(cx);
        }
        // The first look takes what is there, or says that something is wanted.
        let mut look = || Pin::new(&mut *body).poll_frame(&mut unheard());
        let piece = look();
        if piece.is_ready() { piece } else { self.work.go_on_until(cx, look) }
    }

    /// For an answer that comes before the request's body has gone: both go on, also while the client takes nothing of the
    /// answer. Such a connection is not used again.
    pub(crate) fn set_apart(&mut self) {
        if let Work::Here(connection) = std::mem::replace(&mut self.work, Work::Apart) {
            rt::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to a member ended");
                }
            });
        }
    }

    /// The answer was read whole: whether the connection can carry another request, as far as is known here.
    pub(crate) fn is_reusable(&mut self) -> bool {
        if self.is_old || matches!(self.work, Work::Apart) {
            return false;
        }
        self.work.go_on(&mut unheard());
        self.sender.is_ready()
    }

    /// Whether the member has neither closed it nor sent anything unasked, as the kernel knows it at this moment.
    pub(crate) fn is_open(&self) -> bool {
        let socket = self.socket.look();
        let peeked = SockRef::from(&*socket).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    #[cfg(test)]
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.look().local_addr().unwrap()
    }
}

impl Work {
    /// Goes on until there is something to `look` at, or nothing more can be done now; then `cx` is woken when it can.
    ///
    /// At first nobody is to be woken: hyper wakes whoever polled it last for every step of its other half, which is us.
    fn go_on_until<T>(&mut self, cx: &mut Context<'_>, mut look: impl FnMut() -> Poll<T>) -> Poll<T> {
        self.go_on(&mut unheard());
        let seen = look();
        if seen.is_ready() {
            return seen;
        }
        self.go_on(cx);
        look()
    }

    /// At its end hyper gives back what was not sent.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        let Self::Here(connection) = self else { return };
        if let Poll::Ready(ended) = Pin::new(&mut **connection).poll(cx) {
            *self = Self::Ended;
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to a member ended");
            }
        }
    }
}

/// For what only [`Work::go_on`] can change, and is looked at behind it.
fn unheard() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A TCP connection to a member, without Nagle's delay and with the kernel watching for a dead machine.
///
/// # Errors
/// What the operating system says, and `TimedOut` after `longest`.
pub(crate) async fn connect(address: SocketAddr, longest: Duration) -> io::Result<TcpStream> {
    let longest = longest.min(limits::CONNECT_TIMEOUT);
    let socket = timeout(longest, TcpStream::connect(address)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(limits::MEMBER_KEEPALIVE)
        .with_interval(limits::MEMBER_KEEPALIVE_INTERVAL)
        .with_retries(3);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    Ok(socket)
}

/// What a failed connect says of the member. Refused is the word of its machine that nobody listens there; silence may be
/// a lost packet or a router's, and has to come again before the member counts as failed.
pub(crate) fn trouble(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Trouble::Refused,
        _ => Trouble::NoAnswer,
    }
}

/// Whether a failed connect is this machine's fault: no file descriptors, no ports, no memory. It says nothing about
/// the member.
pub(crate) fn is_own_fault(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| own.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
pub(crate) mod tests {
    use actix_web::dev::Payload;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::upload::Upload, *};

    /// A connection and the member's side of it.
    pub(crate) async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Connection::open(listener.local_addr().unwrap(), Duration::from_secs(1)).await.unwrap();
        (connection, listener.accept().await.unwrap().0)
    }

    /// One request and its whole answer.
    pub(crate) async fn used(connection: &mut Connection, server: &mut TcpStream) {
        let (answer, ()) = tokio::join!(connection.send(request()), answer(server, b"content-length: 2\r\n\r\nok"));
        assert_eq!(whole(connection, head(answer).into_body()).await.unwrap(), b"ok");
    }

    fn request() -> Request<Outgoing> {
        let body = Upload::new(Payload::None, None, 0).outgoing(Default::default());
        Request::get("/").header("host", "x").body(body).unwrap()
    }

    fn head(sent: Sent) -> Response<Incoming> {
        sent.map_err(TrySendError::into_error).unwrap()
    }

    async fn answer(server: &mut TcpStream, rest: &[u8]) {
        assert!(server.read(&mut [0; 1_024]).await.unwrap() > 0);
        server.write_all(&[b"HTTP/1.1 200 OK\r\n", rest].concat()).await.unwrap();
    }

    async fn whole(connection: &mut Connection, mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
        let mut whole = Vec::new();
        while let Some(frame) = poll_fn(|cx| connection.poll_frame(&mut body, cx)).await {
            whole.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        Ok(whole)
    }

    #[actix_web::test]
    async fn a_connection_carries_one_answer_after_the_other() {
        let (mut connection, mut server) = pair().await;
        for _ in 0..3 {
            used(&mut connection, &mut server).await;
            assert!(connection.is_reusable());
        }
    }

    #[actix_web::test]
    async fn a_connection_that_spoke_http_1_0_is_not_used_again() {
        let (mut connection, mut server) = pair().await;
        let old = async {
            assert!(server.read(&mut [0; 1_024]).await.unwrap() > 0);
            let text = b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok";
            server.write_all(text).await.unwrap();
        };
        let (answer, ()) = tokio::join!(connection.send(request()), old);
        assert_eq!(whole(&mut connection, head(answer).into_body()).await.unwrap(), b"ok");
        assert!(!connection.is_reusable());
    }

    #[actix_web::test]
    async fn a_body_that_comes_in_pieces_is_waited_for() {
        for framing in ["content-length: 60000", "transfer-encoding: chunked"] {
            let (mut connection, mut server) = pair().await;
            let pieces = async {
                answer(&mut server, format!("{framing}\r\n\r\n").as_bytes()).await;
                for _ in 0..60 {
                    let (before, after) = if framing.starts_with('t') { ("3e8\r\n", "\r\n") } else { ("", "") };
                    let piece = [before.as_bytes(), &[b'x'; 1_000], after.as_bytes()].concat();
                    server.write_all(&piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                if framing.starts_with('t') {
                    server.write_all(b"0\r\n\r\n").await.unwrap();
                }
            };
            let read = async {
                let answer = head(connection.send(request()).await);
                whole(&mut connection, answer.into_body()).await.unwrap().len()
            };
            assert_eq!(tokio::join!(read, pieces).0, 60_000, "{framing}");
            assert!(connection.is_reusable(), "{framing}");
        }
    }

    #[actix_web::test]
    async fn a_body_that_breaks_off_is_an_error_and_its_connection_is_not_used_again() {
        let (mut connection, mut server) = pair().await;
        let broken = async {
            answer(&mut server, b"content-length: 9\r\n\r\nok").await;
            drop(server);
        };
        let (answer, ()) = tokio::join!(connection.send(request()), broken);
        assert!(whole(&mut connection, head(answer).into_body()).await.is_err());
        assert!(!connection.is_reusable());
    }

    #[actix_web::test]
    async fn what_is_sent_on_a_connection_that_is_known_to_be_closed_comes_back_untouched() {
        let (mut connection, mut server) = pair().await;
        used(&mut connection, &mut server).await;
        drop(server);
        poll_fn(|cx| connection.socket.look().poll_read_ready(cx)).await.unwrap();
        let error = connection.send(request()).await.err();
        assert!(error.unwrap().take_message().is_some());
    }

    #[actix_web::test]
    async fn a_connection_that_was_set_apart_goes_on_by_itself_and_is_not_used_again() {
        let (mut connection, mut server) = pair().await;
        let (answer, ()) = tokio::join!(connection.send(request()), answer(&mut server, b"content-length: 2\r\n\r\n"));
        connection.set_apart();
        let mut body = head(answer).into_body();
        let (piece, written) =
            tokio::join!(poll_fn(|cx| connection.poll_frame(&mut body, cx)), server.write_all(b"ok"));
        written.unwrap();
        assert_eq!(piece.unwrap().unwrap().into_data().unwrap(), "ok");
        assert!(!connection.is_reusable());
    }

    #[test]
    fn only_a_refused_connection_says_that_nobody_listens() {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
        let trouble = |kind: io::ErrorKind| trouble(&kind.into());
        for kind in [ConnectionRefused, ConnectionReset] {
            assert_eq!(trouble(kind), Trouble::Refused);
        }
        for kind in [TimedOut, HostUnreachable, NetworkUnreachable] {
            assert_eq!(trouble(kind), Trouble::NoAnswer, "{kind}");
        }
    }

    #[test]
    fn a_lack_of_file_descriptors_is_not_the_members_fault() {
        assert!(is_own_fault(&io::Error::from_raw_os_error(24)));
        assert!(!is_own_fault(&io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert!(!is_own_fault(&io::Error::from_raw_os_error(111)));
    }
}
