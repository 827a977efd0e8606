//! Clients that go away in the middle, and what must not come of it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{self, Cluster, Place},
    },
};

#[test]
fn a_client_that_gives_up_a_claim_does_not_disturb_the_next_one() {
    story(async {
        let place = Place::new().set("SESSION__CLAIM_TIMEOUT", "300ms").set("SESSION__ACK_TIMEOUT", "50ms");
        let cluster = Cluster::up_in(place, 2).await;
        let mut browser = cluster.browser();
        let (owner, _) = browser.count().await.unwrap();
        let report = cluster.status().await.unwrap();
        let other = report.nodes.iter().find(|node| node.route.as_str() != owner).unwrap().http;
        let stopped = cluster.node(&owner).await.pid.unwrap();
        cluster::send(stopped, Signal::STOP);
        let mut direct = Browser::new(other);
        direct.cookies = browser.cookies.clone();
        give_up(other, &browser.cookies["JSESSIONID"]).await;
        let asked = Instant::now();
        let (node, count) = direct.count().await.unwrap();
        let took = asked.elapsed();
        cluster::send(stopped, Signal::CONT);
        assert!(took < Duration::from_millis(700), "{took:?} is no single claim: the node contests with itself");
        assert_ne!(node, owner);
        assert_eq!(count, 2);
    });
}

/// Asks a node for a session, and resets the connection while the node is still asking the owner.
async fn give_up(node: std::net::SocketAddr, cookie: &str) {
    let mut stream = TcpStream::connect(node).await.unwrap();
    let request = format!("GET /?plain HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID={cookie}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // The client's own patience. It ends in the middle of the claim, which lasts only until the owner counts as silent: to look
    // from outside whether it has begun takes longer than that on a busy machine.
    tokio::time::sleep(Duration::from_millis(50)).await;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}
