//! Connections to members: one pool on each worker, nothing shared between workers.
//!
//! Last in, first out, so that few connections stay warm and the others grow old. Before one is used again the kernel
//! is asked whether the member has closed it meanwhile: hyper would learn that only when its task runs next, and a POST
//! written in between could not be repeated.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::rt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::upload::Outgoing;
use crate::{limits, time::Moment};

/// Idle connections of one worker, by the life of the member.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>>>,
}

/// A connection that carries one request at a time. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Takes the requests.
    pub(crate) sender: http1::SendRequest<Outgoing>,
    socket: Rc<RefCell<TcpStream>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Moment,
}

/// The socket, shared between hyper's task and the question whether it is still open. One thread, never borrowed
/// across an await.
struct Shared(Rc<RefCell<TcpStream>>);

impl Pool {
    /// The connection to this life of a member that was used last, if one is still good.
    pub(crate) fn take(&self, serial: u64, now: Moment) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let stack = idle.get_mut(&serial)?;
        while let Some(Idle { connection, since }) = stack.pop() {
            if now.since(since) < limits::POOL_IDLE && connection.is_open() && connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Gives a connection back after its answer was read whole. Above [`limits::POOL_CONNECTIONS`] it is closed.
    pub(crate) fn put(&self, serial: u64, connection: Connection, now: Moment) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let stack = idle.entry(serial).or_default();
        if stack.len() < limits::POOL_CONNECTIONS {
            stack.push(Idle { connection, since: now });
        }
    }

    /// Closes what grew old and what belongs to members that are not `kept`.
    pub(crate) fn sweep(&self, now: Moment, kept: impl Fn(u64) -> bool) {
        self.idle.borrow_mut().retain(|serial, stack| {
            stack.retain(|idle| now.since(idle.since) < limits::POOL_IDLE && !idle.connection.sender.is_closed());
            kept(*serial) && !stack.is_empty()
        });
    }

    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }
}

impl Connection {
    /// Connects to a member.
    ///
    /// # Errors
    /// What the operating system says, and `TimedOut` after `longest`.
    pub(crate) async fn open(address: SocketAddr, longest: Duration) -> io::Result<Self> {
        let socket = connect(address, longest).await?;
        let socket = Rc::new(RefCell::new(socket));
        let (sender, connection) = http1::Builder::new()
            .max_header_size(limits::ANSWER_HEAD_BYTES)
            .handshake(TokioIo::new(Shared(socket.clone())))
            .await
            .map_err(io::Error::other)?;
        rt::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "connection to a member ended");
            }
        });
        Ok(Self { sender, socket })
    }

    /// Whether the member has neither closed it nor sent anything unasked.
    fn is_open(&self) -> bool {
        let socket = self.socket.borrow();
        let peeked = SockRef::from(&*socket).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
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

/// Whether a failed connect is this machine's fault: no file descriptors, no ports, no memory. It says nothing about
/// the member.
pub(crate) fn is_own_fault(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| own.iter().any(|errno| errno.raw_os_error() == code))
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use actix_web::dev::Payload;
    use http_body_util::BodyExt;
    use hyper::Request;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::upload::Upload, *};

    const SECOND: Duration = Duration::from_secs(1);

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Connection::open(listener.local_addr().unwrap(), SECOND).await.unwrap();
        (connection, listener.accept().await.unwrap().0)
    }

    async fn used(connection: &mut Connection, server: &mut TcpStream) {
        let request = Request::get("/")
            .header("host", "x")
            .body(Upload::new(Payload::None, None, 0).outgoing(Default::default()))
            .unwrap();
        let answering = async {
            let mut head = [0; 1_024];
            assert!(server.read(&mut head).await.unwrap() > 0);
            server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        };
        let (answer, ()) = tokio::join!(connection.sender.send_request(request), answering);
        assert_eq!(answer.unwrap().into_body().collect().await.unwrap().to_bytes(), "ok");
    }

    #[actix_web::test]
    async fn the_connection_used_last_is_used_next() {
        let (pool, now) = (Pool::default(), Moment(5));
        let mut servers = Vec::new();
        for _ in 0..2 {
            let (mut connection, mut server) = pair().await;
            used(&mut connection, &mut server).await;
            servers.push((connection.socket.borrow().local_addr().unwrap(), server));
            pool.put(1, connection, now);
        }
        assert!(pool.take(2, now).is_none(), "another member's connections are not taken");
        for (address, _) in servers.iter().rev() {
            assert_eq!(pool.take(1, now).unwrap().socket.borrow().local_addr().unwrap(), *address);
        }
        assert!(pool.take(1, now).is_none());
    }

    #[actix_web::test]
    async fn a_connection_that_the_member_has_closed_is_not_used_again() {
        let (pool, now) = (Pool::default(), Moment(5));
        let (mut connection, mut server) = pair().await;
        used(&mut connection, &mut server).await;
        pool.put(1, connection, now);
        // No await between the close and the take: hyper's task has no chance to see it.
        drop(server.into_std().unwrap());
        assert!(pool.take(1, now).is_none());
    }

    #[actix_web::test]
    async fn old_connections_and_those_of_other_lives_are_swept() {
        let (pool, now) = (Pool::default(), Moment(5));
        let mut servers = Vec::new();
        for serial in [1, 2] {
            let (mut connection, mut server) = pair().await;
            used(&mut connection, &mut server).await;
            pool.put(serial, connection, now);
            servers.push(server);
        }
        pool.sweep(now, |serial| serial == 2);
        assert_eq!(pool.idle(), 1);
        assert!(pool.take(2, now + limits::POOL_IDLE).is_none(), "too old to be trusted");
        pool.sweep(now + limits::POOL_IDLE, |_| true);
        assert_eq!(pool.idle(), 0);
    }

    #[test]
    fn a_lack_of_file_descriptors_is_not_the_members_fault() {
        assert!(is_own_fault(&io::Error::from_raw_os_error(24)));
        assert!(!is_own_fault(&io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert!(!is_own_fault(&io::Error::from_raw_os_error(111)));
    }
}
