//! Starts real clusters, kills their processes, and talks to them as users do. Shared by the story tests and the load
//! program.

// Each test program uses its own part of this.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod browser;
pub mod chromium;
pub mod cluster;
pub mod load;
pub mod machines;
pub mod relay;

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Longest wait for anything that a healthy cluster does in a moment.
pub const DEADLINE: Duration = Duration::from_secs(30);

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
