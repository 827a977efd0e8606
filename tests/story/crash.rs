//! A machine loses its power: what was under way on the replication links never arrives.
//!
//! The links are slow here, so that there is always something under way.

use crate::{
    story,
    support::{
        cluster::Place,
        load::{Load, Seen},
        machines::{Machines, NODES},
    },
};

const USERS: usize = 16;

/// So many crashes under load, of each of so many nodes in turn; none where this machine has no network namespaces.
async fn crashes(place: Place, nodes: usize, times: usize) -> Option<Seen> {
    let mut machines = Machines::start(place, nodes).await?;
    for (a, b) in [("r1", "r2"), ("r1", "r3"), ("r2", "r3")] {
        machines.network.delay(a, b, 20..50);
    }
    let load = Load::start(machines.listen, USERS);
    for n in 0..times {
        load.progress(300).await;
        let node = NODES[n % nodes];
        machines.crash(node, nodes).await;
        load.progress(100).await;
        machines.boot(node, nodes);
        machines.settled(nodes).await;
    }
    let seen = load.finish().await;
    println!("{} answered, {} lost, {} reset", seen.answered, seen.lost, seen.reset);
    Some(seen)
}

#[test]
fn a_power_cut_loses_no_answered_write() {
    story(async {
        if let Some(seen) = crashes(Place::new(), 2, 4).await {
            assert_eq!((seen.lost, seen.reset), (0, 0), "first: {:?}", seen.first_trouble);
            assert!(seen.answered > 1_000);
        }
    });
}

#[test]
fn a_power_cut_loses_no_answered_write_where_each_session_has_one_backup() {
    story(async {
        if let Some(seen) = crashes(Place::new().set("SESSION__MANAGER", "backup"), 3, 3).await {
            assert_eq!((seen.lost, seen.reset), (0, 0), "first: {:?}", seen.first_trouble);
            assert!(seen.answered > 1_000);
        }
    });
}

#[test]
fn without_acknowledgement_a_power_cut_loses_answered_writes() {
    story(async {
        if let Some(seen) = crashes(Place::new().set("SESSION__ACK", "none"), 2, 4).await {
            assert!(seen.lost + seen.reset > 0, "a control that does not fail proves nothing: {seen:?}");
        }
    });
}
