//! A node is stopped and goes on later, as a paused virtual machine does: it must not answer from its old copy.

use std::time::Duration;

use rustix::process::Signal;
use tokio::{task::spawn_local, time::sleep};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{self, Cluster},
        load::Load,
    },
};

#[test]
fn a_node_that_wakes_never_answers_with_an_older_number() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        browser.count().await.unwrap();
        for round in 0..3 {
            let (owner, _) = browser.count().await.unwrap();
            let node = cluster.node(&owner).await;
            let old = browser.window();
            cluster::send(node.pid.unwrap(), Signal::STOP);
            let (other, before) = browser.count().await.unwrap();
            assert_ne!(other, owner);
            let (_, last) = browser.count().await.unwrap();
            assert_eq!(last, before + 1, "it goes on where it went");
            // They wait in the stopped node's sockets, and are the first that it sees.
            let early: Vec<_> = (0..8).map(|n| spawn_local(ask(window(&old, node.http, n)))).collect();
            sleep(Duration::from_millis(50)).await;
            cluster::send(node.pid.unwrap(), Signal::CONT);
            let mut numbers = Vec::new();
            for asked in early {
                numbers.extend(asked.await.unwrap());
            }
            for n in 0..20 {
                numbers.extend(ask(window(&old, node.http, n)).await);
            }
            let old_ones: Vec<_> = numbers.iter().filter(|number| **number <= last).collect();
            assert!(old_ones.is_empty(), "round {round}: {old_ones:?} after {last} had been answered");
            assert!(!numbers.is_empty(), "round {round}: a node that never answers proves nothing");
            cluster.settled(2).await;
        }
    });
}

#[test]
fn pauses_under_load_lose_nothing_and_fail_nothing() {
    story(async {
        let cluster = Cluster::up(2).await;
        let load = Load::start(cluster.listen, 16);
        for (n, pause_ms) in [200, 350, 600, 1_100, 2_300, 3_500].into_iter().enumerate() {
            load.progress(300).await;
            let pid = cluster.node(["r1", "r2"][n % 2]).await.pid.unwrap();
            cluster::send(pid, Signal::STOP);
            sleep(Duration::from_millis(pause_ms)).await;
            cluster::send(pid, Signal::CONT);
            load.progress(300).await;
            cluster.settled(2).await;
        }
        let seen = load.finish().await;
        println!("{} answered, {} doubled, longest gap {:?}", seen.answered, seen.doubled, seen.longest_gap);
        seen.assert_whole();
    });
}

/// A window that goes to the node itself: every other one as our balancer would ask first.
fn window(old: &Browser, node: std::net::SocketAddr, n: usize) -> Browser {
    let mut direct = Browser::new(node);
    direct.cookies = old.cookies.clone();
    direct.header = (n % 2 == 0).then_some(("Tasuki-Attempt", "stay"));
    direct
}

/// The number, if the node answers with one. One that says "not done here" or that has no turn says nothing old.
async fn ask(mut window: Browser) -> Option<u64> {
    window.count().await.ok().map(|(_, number)| number)
}
