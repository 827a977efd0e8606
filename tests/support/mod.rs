//! Starts real clusters, kills their processes, and talks to them as users do. Shared by the story tests and the load
//! program.

// Each test program uses its own part of this.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod browser;
pub mod chromium;
pub mod cluster;
pub mod load;
pub mod machines;
pub mod members;
pub mod relay;
pub mod sockets;
pub mod webapps;

use std::{
    future::Future,
    io::Write,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Longest wait for anything that a healthy cluster does in a moment.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// An address of this machine that nothing uses now, for TCP and UDP, and that nobody is given who asks for any port: those
/// come from above. Programs that run at the same time begin at different places.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 20_000 + (std::process::id() * 37 + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port as u16));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Says why a test does nothing here, to the terminal itself: what a test prints is shown only when it fails.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Asks again and again until `look` gives something, and fails with `what` when it takes too long.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
