//! What carries a client's bytes, and how it is closed so that the last of them arrive.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::limits;

/// The connection under what is said.
pub(super) enum Wire {
    Plain(TcpStream),
    Sealed(Box<TlsStream<TcpStream>>),
}

/// One of the connections that are read on.
pub(super) struct Lingering;

/// Connections that are read on after they were refused.
static LINGERING: AtomicUsize = AtomicUsize::new(0);

impl Wire {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Sealed(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    /// Ends when there is something to be read, or an end or an error to be seen.
    pub(super) async fn readable(&self) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Sealed(stream) => stream.get_ref().0,
        };
        let _ = socket.readable().await; // an error is seen at the read that follows
    }

    /// Says that nothing more is said.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown().await,
            Self::Sealed(stream) => stream.shutdown().await,
        }
    }

    /// Says that nothing more is said, and reads what the client still says, into nothing.
    pub(super) async fn drain(self) {
        match self {
            Self::Plain(stream) => drain(stream).await,
            Self::Sealed(stream) => drain(*stream).await,
        }
    }
}

async fn drain(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut nothing = [0; 4_096];
    if stream.shutdown().await.is_ok() {
        while let Ok(1..) = stream.read(&mut nothing).await {}
    }
}

impl Lingering {
    /// None above [`limits::CLIENTS_LINGERING`].
    pub(super) fn begin() -> Option<Self> {
        let one = Self; // counted down when dropped, also when there are too many
        (LINGERING.fetch_add(1, Ordering::Relaxed) < limits::CLIENTS_LINGERING).then_some(one)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
    }
}
