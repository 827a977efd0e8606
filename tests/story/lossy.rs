//! A bad network: slow, and it loses a fifth of all datagrams.

use crate::{
    story,
    support::{
        cluster::Place,
        load::{Load, Seen},
        machines::{BALANCER, Machines, NODES},
    },
};

const USERS: usize = 12;
/// Of a hundred.
const LOST: u32 = 20;

const CHANGES: [&str; 4] = ["member failed", "member changed", "not waited for", "link down"];

#[test]
fn a_slow_network_that_loses_a_fifth_of_its_datagrams_costs_no_write() {
    story(async {
        let Some(machines) = Machines::start(Place::new(), 3).await else { return };
        let before = machines.place().log().len();
        let all = || NODES.into_iter().chain([BALANCER]);
        for (from, to) in all().flat_map(|from| all().map(move |to| (from, to))).filter(|(from, to)| from != to) {
            machines.network.lose_datagrams(from, to, LOST);
            if from != BALANCER && to != BALANCER {
                machines.network.delay(from, to, 30..70);
            }
        }
        let load = Load::start(machines.listen, USERS);
        load.progress(800).await;
        let mut seen = load.finish().await;
        let log = machines.place().log();
        let changes: Vec<&str> =
            log[before..].lines().filter(|line| CHANGES.iter().any(|it| line.contains(it))).collect();
        let p99 = seen.percentile(0.99);
        let Seen { answered, failed, doubled, lost, reset, longest_gap, ref first_trouble, .. } = seen;
        println!(
            "{answered} answered, {failed} refused, {doubled} doubled, p99 {p99:.0} ms, longest \
             gap {longest_gap:?}"
        );
        println!("{changes:#?}");
        assert_eq!((lost, reset), (0, 0), "first: {first_trouble:?}");
        machines.settled(3).await;
    });
}
