//! A node that missed writes is told these, and not everything.

use rustix::process::Signal;

use crate::{
    story,
    support::{
        cluster::{self, Cluster},
        wait_for,
    },
};

const SESSIONS: usize = 1_500;
const MISSED: usize = 30;

#[test]
fn a_node_that_missed_some_writes_is_repaired_by_few_messages() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut users = Vec::new();
        for _ in 0..SESSIONS {
            let mut user = cluster.browser();
            let (owner, _) = user.count().await.unwrap();
            user.hang_up();
            users.push((owner, user));
        }
        let stopped = cluster.node("r2").await.pid.unwrap();
        cluster::stop(stopped).await;
        let is_alone = async || cluster.node("r1").await.peers.is_empty().then_some(());
        wait_for("r1 is alone", is_alone).await;
        let before = cluster.place().log().len();
        let mut missed: Vec<_> = users.iter_mut().filter(|(owner, _)| owner == "r1").take(MISSED).collect();
        assert_eq!(missed.len(), MISSED);
        for (_, user) in &mut missed {
            assert_eq!(user.count().await.unwrap(), ("r1".into(), 2));
        }
        cluster::send(stopped, Signal::CONT);
        cluster.settled(2).await;
        let log = cluster.place().log();
        let repairs: Vec<&str> = log[before..].lines().filter(|line| line.contains("repaired:")).collect();
        let sum = |field: &str| repairs.iter().map(|line| number(line, field)).sum::<usize>();
        let (told, listed) = (sum("told="), sum("listed="));
        assert!(told >= MISSED, "it missed {MISSED} writes, and was told {told}: {repairs:#?}");
        assert!(told < 10 * MISSED && listed < SESSIONS, "of {SESSIONS} sessions, {listed} listed: {repairs:#?}");
        let killed = cluster.kill("r1").await;
        for (_, user) in &mut missed {
            // From r2, or from the new process of r1, which can have it from r2 only.
            assert_eq!(user.count().await.unwrap().1, 3, "r2 has what it missed");
        }
        cluster.back("r1", killed, 2).await;
    });
}

/// Of a log line, as in "told=30".
fn number(line: &str, field: &str) -> usize {
    let at = line.find(field).unwrap_or_else(|| panic!("no {field} in {line}")) + field.len();
    line[at..].split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap()
}
