//! SIGTERM and SIGINT (Ctrl-C): the first asks for a graceful stop, the second for an end at once.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, from now on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Two futures: one ends at the first signal, the other at the second. Must be called inside a runtime.
pub(super) fn first_and_second() -> io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let (mut first, mut second) = (Signals::listen()?, Signals::listen()?);
    let first = async move { first.next().await };
    let second = async move {
        second.next().await;
        second.next().await;
    };
    Ok((first, second))
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
