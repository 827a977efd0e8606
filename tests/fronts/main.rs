//! tasuki's nodes behind the balancers that people have (Apache httpd, HAProxy, nginx), and other HTTP servers behind
//! tasuki's balancer, real Tomcats among them.
//!
//! The real programs, with settings of their own in a folder of their own; nothing of the machine's is touched. What is not
//! installed is skipped, with a line that says so. On Debian: `apt-get install apache2-bin haproxy nginx-light
//! tomcat10`.

mod foreign;
mod haproxy;
mod house;
mod httpd;
mod nginx;
#[path = "../support/mod.rs"]
mod support;
mod tomcat;

/// Runs a story on one thread, as a browser's tabs would.
fn story(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, story);
}
