//! A node dies while all sessions are on their way to a node that joins: the one that tells them, then the one that is told.

use std::time::Duration;

use crate::{
    partition::large_sessions,
    story,
    support::{
        browser::Browser,
        load::Load,
        machines::{Machines, NODES},
        wait_for,
    },
};

const SESSIONS: usize = 300;
const USERS: usize = 8;

/// Adds one for each of them, and expects the number that all have by now.
async fn all_count(users: &mut [Browser], expected: u64) {
    for user in users {
        assert_eq!(user.count().await.unwrap().1, expected);
        user.hang_up();
    }
}

/// Waits until a node that joins holds some sessions, and asserts that it does not hold all of them.
async fn midway(machines: &Machines, joiner: &str) -> usize {
    let told = wait_for("the transfer is under way", async || {
        let nodes = machines.status().await?.nodes;
        let joiner = nodes.into_iter().find(|node| node.route.as_str() == joiner)?;
        Some(joiner.sessions.held + joiner.sessions.owned).filter(|told| *told > SESSIONS / 10)
    });
    let told = told.await;
    assert!(told < SESSIONS * 9 / 10, "of {SESSIONS} sessions {told} have arrived already: nothing is under way");
    told
}

#[test]
fn a_transfer_that_is_cut_off_by_a_death_loses_nothing() {
    story(async {
        let Some(mut machines) = Machines::start(large_sessions(), 3).await else { return };
        let mut users: Vec<Browser> = (0..SESSIONS).map(|_| machines.browser()).collect();
        all_count(&mut users, 1).await;
        let load = Load::start(machines.listen, USERS);
        load.progress(100).await;
        for (round, (joiner, dying)) in [("r3", "r1"), ("r1", "r1")].into_iter().enumerate() {
            machines.kill(joiner).await;
            load.progress(100).await;
            let donors = || NODES.into_iter().filter(|node| *node != joiner);
            donors().for_each(|donor| machines.network.delay(donor, joiner, 60..90));
            machines.boot(joiner, 3);
            let told = midway(&machines, joiner).await;
            machines.crash(dying, 3).await;
            println!("{dying} died when {joiner} had {told} of {SESSIONS} sessions");
            donors().for_each(|donor| machines.network.delay(donor, joiner, 0..0));
            load.progress(100).await;
            all_count(&mut users, round as u64 + 2).await;
            machines.boot(dying, 3);
            machines.settled(3).await;
        }
        let seen = load.finish().await;
        println!("{} answered, {} refused, longest gap {:?}", seen.answered, seen.failed, seen.longest_gap);
        assert_eq!((seen.lost, seen.reset), (0, 0), "first: {:?}", seen.first_trouble);
        assert!(seen.longest_gap < Duration::from_secs(10), "{:?}", seen.longest_gap);
        all_count(&mut users, 4).await;
    });
}
