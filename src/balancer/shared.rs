//! A stream that hyper reads and writes, and that somebody else still has: to ask whether it is open, or to close it well.

use std::{
    cell::{Ref, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A handle of it. On one thread, and never borrowed across an await.
#[derive(Debug)]
pub(super) struct Shared<I>(Rc<RefCell<I>>);

impl<I> Shared<I> {
    pub(super) fn new(io: I) -> Self {
        Self(Rc::new(RefCell::new(io)))
    }

    /// The stream, for a look at it.
    pub(super) fn look(&self) -> Ref<'_, I> {
        self.0.borrow()
    }
}

impl<I> Clone for Shared<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Shared<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, to)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Shared<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
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
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Most requests are a head alone, and send(2) costs less than writev(2) with a list of one.
        match pieces {
            [piece] => self.poll_write(cx, piece),
            _ => Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }
}
