//! A machine loses its power: what was under way on the replication links never arrives.
//!
//! The links are slow here, so that there is always something under way.

use crate::{
    story,
    support::{
        cluster::Place,
        load::{Load, Seen},
        machines::Machines,
    },
};

const USERS: usize = 16;

/// So many crashes under load; none where this machine has no network namespaces.
async fn crashes(ack: &str, times: usize) -> Option<Seen> {
    let mut machines = Machines::start(Place::new().set("SESSION__ACK", ack), 2).await?;
    machines.network.delay("r1", "r2", 20..50);
    let load = Load::start(machines.listen, USERS);
    for n in 0..times {
        load.progress(300).await;
        let node = ["r1", "r2"][n % 2];
        machines.crash(node, 2).await;
        load.progress(100).await;
        machines.boot(node, 2);
        machines.settled(2).await;
    }
    let seen = load.finish().await;
    println!("ack = {ack}: {} answered, {} lost, {} reset", seen.answered, seen.lost, seen.reset);
    Some(seen)
}

#[test]
fn a_power_cut_loses_no_answered_write() {
    story(async {
        if let Some(seen) = crashes("one", 4).await {
            assert_eq!((seen.lost, seen.reset), (0, 0), "first: {:?}", seen.first_trouble);
            assert!(seen.answered > 1_000);
        }
    });
}

#[test]
fn without_acknowledgement_a_power_cut_loses_answered_writes() {
    story(async {
        if let Some(seen) = crashes("none", 4).await {
            assert!(seen.lost + seen.reset > 0, "a control that does not fail proves nothing: {seen:?}");
        }
    });
}
