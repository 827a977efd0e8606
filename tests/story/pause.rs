//! A node is stopped and goes on later, as a paused virtual machine does: it must not answer from its old copy.

use std::{fs, future::ready, net::SocketAddr, time::Duration};

use rustix::process::Signal;
use tokio::{task::spawn_local, time::sleep};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{self, Cluster, Place},
        load::Load,
        sockets, wait_for,
    },
};

#[test]
fn a_node_that_wakes_never_answers_with_an_older_number() {
    story(async {
        let cluster = Cluster::up_in(place(), 2).await;
        let mut browser = cluster.browser();
        browser.count().await.unwrap();
        for round in 0..2 {
            let (owner, _) = browser.count().await.unwrap();
            let node = cluster.node(&owner).await;
            let old = browser.window();
            cluster::stop(node.pid.unwrap()).await;
            let (other, before) = browser.count().await.unwrap();
            assert_ne!(other, owner);
            // From here on nothing is sent to the stopped node: it cannot read in its sockets what it has missed.
            let is_alone = async || cluster.node(&other).await.peers.is_empty().then_some(());
            wait_for("the stopped node is no member any more", is_alone).await;
            let (_, last) = browser.count().await.unwrap();
            assert_eq!(last, before + 1, "it goes on where it went");
            // They wait in the stopped node's sockets, and are the first that it sees.
            let early: Vec<_> = (0..8).map(|n| spawn_local(look(window(&old, node.http, n)))).collect();
            let lie_there = || ready((sockets::unread(node.http.port()) >= early.len()).then_some(()));
            wait_for("the requests lie in its sockets", lie_there).await;
            cluster::send(node.pid.unwrap(), Signal::CONT);
            let mut numbers = Vec::new();
            for asked in early {
                numbers.extend(asked.await.unwrap());
            }
            for n in 0..20 {
                numbers.extend(look(window(&old, node.http, n)).await);
            }
            let old_ones: Vec<_> = numbers.iter().filter(|number| **number < last).collect();
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
            cluster::stop(pid).await;
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

#[test]
fn while_one_of_three_nodes_hangs_all_users_go_on_and_lose_nothing() {
    story(async {
        let cluster = Cluster::up(3).await;
        let load = Load::start(cluster.listen, 16);
        for route in ["r1", "r2", "r3"] {
            load.progress(300).await;
            let pid = cluster.node(route).await.pid.unwrap();
            cluster::stop(pid).await;
            load.progress(300).await;
            let given_up = async || {
                let mut nodes = cluster.status().await?.nodes;
                nodes.retain(|node| node.route.as_str() != route);
                (nodes.len() == 2 && nodes.iter().all(|node| node.peers.len() == 1)).then_some(())
            };
            wait_for("the others give it up", given_up).await;
            load.everyone().await;
            cluster::send(pid, Signal::CONT);
            cluster.settled(3).await;
        }
        load.progress(300).await;
        let seen = load.finish().await;
        println!("{} answered, {} doubled, longest gap {:?}", seen.answered, seen.doubled, seen.longest_gap);
        seen.assert_whole();
    });
}

/// A webapp that counts, and a page of it that only looks: a number that is written is refused by who knows better.
fn place() -> Place {
    let place = Place::new();
    let webapps = place.path("counters");
    let root = webapps.join("ROOT");
    fs::create_dir_all(root.join("WEB-INF")).unwrap();
    fs::write(root.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    fs::write(root.join("index.html.j2"), "[{{ node.route }}]\n{{ session.add('count') }}\n").unwrap();
    fs::write(root.join("look.html.j2"), "[{{ node.route }}]\n{{ session.get('count', 0) }}\n").unwrap();
    place.set("NODE__WEBAPPS", &webapps.display().to_string())
}

/// A window that goes to the node itself: every other one as our balancer would ask first.
fn window(old: &Browser, node: SocketAddr, n: usize) -> Browser {
    let mut direct = Browser::new(node);
    direct.cookies = old.cookies.clone();
    direct.header = n.is_multiple_of(2).then_some(("Tasuki-Attempt", "stay"));
    direct
}

/// The number, if the node answers with one. One that says "not done here" says nothing old.
async fn look(mut window: Browser) -> Option<u64> {
    let answer = window.get("/look.html").await.ok()?;
    answer.plain().map(|(_, number)| number)
}
