//! What users are promised, told with real processes, real sockets and a real kill -9.

mod aborts;
mod beside;
mod concurrency;
mod counter;
mod crash;
mod deploy;
mod descriptors;
mod duty;
mod exhaustion;
mod failover;
mod flapping;
mod form;
mod joining;
mod live;
mod lossy;
mod manager;
mod managers;
mod orders;
mod pages;
mod partition;
mod pause;
mod redeploy;
mod repair;
mod restart;
mod secret;
mod snapshot;
mod sorry;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
mod tls;
mod transfer;
mod uploads;
mod versions;

/// Runs a story on one thread, as a browser's tabs would.
fn story(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, story);
}
