//! A node that comes when the sessions are already there.

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{Place, settled, status},
        wait_for,
    },
};

const SESSIONS: usize = 500;

#[test]
fn a_joining_node_gets_every_session() {
    story(async {
        let (r1, r2) = (Place::new(), Place::new());
        let door = Place::new();
        let first = r1.clone().set("CLUSTER__NAME", "joining").start(&["node", "--route", "r1"]);
        let gossip = wait_for("r1 has a port", || std::future::ready(replication_port(&r1.log()))).await;
        let knows_r1 = |place: Place| place.set("CLUSTER__NAME", "joining").set("CLUSTER__PEERS", &gossip);
        let _door = knows_r1(door.clone()).start(&["balancer"]);
        let listen = wait_for("the balancer listens", || {
            std::future::ready(tasuki::settings::Listening::read(&door.path("run")).ok())
        })
        .await
        .listen;
        settled(listen, 1).await;
        let mut users = Vec::new();
        for _ in 0..SESSIONS {
            let mut user = Browser::new(listen);
            assert_eq!(user.count().await.unwrap(), ("r1".into(), 1));
            users.push(user);
        }
        let _second = knows_r1(r2).start(&["node", "--route", "r2"]);
        settled(listen, 2).await;
        let report = status(listen).await.unwrap();
        assert_eq!((report.nodes[0].sessions.owned, report.nodes[1].sessions.held), (SESSIONS, SESSIONS));
        let told = &report.nodes[0].peers[0];
        assert!(told.repair_rounds > 0 && told.repaired_sessions >= SESSIONS as u64, "{told:?}");
        drop(first);
        for user in &mut users {
            assert_eq!(user.count().await.unwrap(), ("r2".into(), 2));
        }
    });
}

/// From the log line of a starting node.
pub(crate) fn replication_port(log: &str) -> Option<String> {
    let at = log.find("replication")?;
    let start = log[at..].find("127.0.0.1:")? + at;
    let end = log[start..].find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')? + start;
    Some(log[start..end].to_owned())
}
