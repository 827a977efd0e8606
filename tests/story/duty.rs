//! What an administrator sets: sessions leave a drained node by themselves, and nothing that restarts forgets it.

use std::time::{Duration, Instant};

use tasuki::{
    membership::Duty,
    observe::{Admin, StatusReport},
    settings::Listening,
};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{Cluster, Place, status},
        load::Load,
        wait_for,
    },
};

const SESSIONS: usize = 2_000;

#[test]
fn a_drained_node_hands_over_idle_sessions_and_loses_none() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut users = sessions(&cluster, SESSIONS).await;
        let before = cluster.node("r1").await.sessions;
        assert!(before.owned > SESSIONS / 4, "{before:?}");
        let load = Load::start(cluster.listen, 8);
        load.progress(50).await;
        let began = Instant::now();
        let (code, said) = cluster.command(&["drain", "r1", "--wait"]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("r1 is drained: it owns no sessions"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(15), "{:?} in a debug build", began.elapsed());
        load.progress(50).await;
        load.finish().await.assert_whole();
        let (r1, r2) = (cluster.node("r1").await.sessions, cluster.node("r2").await.sessions);
        assert_eq!(r1.owned, 0);
        assert!(r2.owned >= SESSIONS, "{r2:?}");
        for user in &mut users {
            assert_eq!(user.count().await.unwrap(), ("r2".into(), 2));
        }
    });
}

#[test]
fn the_sessions_of_a_drained_node_are_spread_over_the_others() {
    story(async {
        for manager in ["delta", "backup"] {
            let cluster = Cluster::up_in(Place::new().set("SESSION__MANAGER", manager), 3).await;
            let mut users = sessions(&cluster, 300).await;
            let before = cluster.status().await.unwrap();
            let (code, said) = cluster.command(&["drain", "r1", "--wait"]).await;
            assert_eq!(code, Some(0), "{said}");
            let after = cluster.status().await.unwrap();
            let gained = |at: usize| after.nodes[at].sessions.owned - before.nodes[at].sessions.owned;
            assert!(gained(1) > 15 && gained(2) > 15, "{manager}: {} and {}", gained(1), gained(2));
            for user in &mut users {
                assert_eq!(user.count().await.unwrap().1, 2, "{manager}");
            }
        }
    });
}

#[test]
fn what_was_set_outlives_restarts_of_the_node_and_of_the_balancer() {
    story(async {
        let cluster = Cluster::up(2).await;
        for command in [&["drain", "r1"][..], &["weight", "r2", "7"]] {
            let (code, said) = cluster.command(command).await;
            assert_eq!(code, Some(0), "{said}");
        }
        let killed = cluster.kill("r1").await;
        let is_drained = |report: &StatusReport| {
            let r1 = &report.nodes[0];
            r1.duty == Duty::Draining && r1.terms.admin == Admin::Drained && r1.pid.is_some_and(|pid| pid != killed)
        };
        wait_for("the new r1 is told to drain", || async { cluster.status().await.filter(is_drained) }).await;
        let (code, said) = cluster.command(&["restart", "r1"]).await;
        assert_eq!(code, Some(0), "{said}");
        wait_for("r1 drains again", || async { cluster.status().await.filter(is_drained) }).await;
        for _ in 0..6 {
            assert_eq!(cluster.browser().count().await.unwrap().0, "r2");
        }
        let balancer = cluster.status().await.unwrap().balancer.pid;
        crate::support::cluster::send(balancer, rustix::process::Signal::KILL);
        let run = cluster.place().path("run");
        let new = || async { Listening::read(&run).ok().filter(|listening| listening.pid != balancer) };
        let listen = wait_for("there is a new balancer", new).await.listen;
        let is_there = |report: &StatusReport| report.nodes.len() == 2 && is_drained(report);
        let report = wait_for("it knows", || async { status(listen).await.filter(is_there) }).await;
        assert_eq!(report.nodes[1].terms.weight, 7);
        assert_eq!(report.nodes[1].terms.differs[0].to_string(), "weight 7 (file: 50)");
        let (_, said) = cluster.command(&["status"]).await;
        assert!(said.contains("r1 differs from the file: duty drained (file: enabled)"), "{said}");
        for command in [&["reset", "r1"][..], &["reset", "r2"]] {
            let (code, said) = cluster.command(command).await;
            assert_eq!(code, Some(0), "{said}");
        }
        crate::support::cluster::settled(listen, 2).await;
        let (_, said) = cluster.command(&["status"]).await;
        assert!(!said.contains("differs"), "{said}");
    });
}

#[test]
fn a_disabled_node_gets_nothing_and_its_sessions_go_on() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        let (node, _) = browser.count().await.unwrap();
        let (code, said) = cluster.command(&["disable", &node]).await;
        assert_eq!(code, Some(0), "{said}");
        let (other, count) = browser.count().await.unwrap();
        assert!(other != node && count == 2);
        let report = cluster.node(&node).await;
        assert_eq!((report.terms.admin, report.duty), (Admin::Disabled, Duty::Draining));
        let (code, said) = cluster.command(&["drain", &other, "--wait"]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no other node serves"), "{said}");
        let (code, said) = cluster.command(&["weight", "r9", "5"]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no member has the route r9; those there are: r1, r2"), "{said}");
        for route in [&node, &other] {
            assert_eq!(cluster.command(&["resume", route]).await.0, Some(0));
        }
        cluster.settled(2).await;
        assert_eq!(browser.count().await.unwrap().1, 3);
    });
}

/// So many users, each with a session that was used once.
async fn sessions(cluster: &Cluster, count: usize) -> Vec<Browser> {
    let listen = cluster.listen;
    let lanes = (0..16).map(|lane| {
        tokio::task::spawn_local(async move {
            let mut users = Vec::new();
            for _ in (lane..count).step_by(16) {
                let mut user = Browser::new(listen);
                assert_eq!(user.count().await.unwrap().1, 1);
                user.hang_up();
                users.push(user);
            }
            users
        })
    });
    let mut users = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        users.extend(lane.await.unwrap());
    }
    users
}
