//! A node that dies again and again: nobody loses anything, and those that stay grow no larger by it.

use std::{collections::BTreeMap, fs};

use crate::{
    story,
    support::{
        cluster::{Cluster, children},
        load::{Load, Seen},
    },
};

const USERS: usize = 8;
/// After so many deaths everything has been made that is made only once.
const FIRST: usize = 3;
const MORE: usize = 7;
/// Connections come and go with the users; one that is left behind by each death is more than that.
const DESCRIPTORS: usize = 4;
/// What a node that stays may grow by while its users add to their sessions, in megabytes.
const MEGABYTES: u64 = 16;

#[derive(Clone, Copy, Debug)]
struct Size {
    descriptors: usize,
    megabytes: u64,
}

#[test]
fn a_node_that_dies_again_and_again_costs_nothing_that_stays() {
    story(async {
        let cluster = Cluster::up(2).await;
        let load = Load::start(cluster.listen, USERS);
        die(&cluster, &load, FIRST).await;
        let before = sizes(&cluster);
        die(&cluster, &load, MORE).await;
        let after = sizes(&cluster);
        let seen = load.finish().await;
        let Seen { answered, doubled, longest_gap, .. } = seen;
        println!("{answered} answered, {doubled} doubled, longest gap {longest_gap:?}; {before:?}, then {after:?}");
        seen.assert_whole();
        let stayed: Vec<(Size, Size)> =
            before.iter().filter_map(|(pid, size)| Some((*size, *after.get(pid)?))).collect();
        assert_eq!(stayed.len(), 3, "the supervisor, the balancer and r1");
        for (before, after) in stayed {
            assert!(after.descriptors <= before.descriptors + DESCRIPTORS, "{before:?}, then {after:?}");
            assert!(after.megabytes <= before.megabytes + MEGABYTES, "{before:?}, then {after:?}");
        }
    });
}

async fn die(cluster: &Cluster, load: &Load, times: usize) {
    for _ in 0..times {
        let killed = cluster.kill("r2").await;
        load.progress(100).await;
        cluster.back("r2", killed, 2).await;
        load.progress(100).await;
    }
}

/// Of the supervisor and all that it has started.
fn sizes(cluster: &Cluster) -> BTreeMap<u32, Size> {
    let pids = children(cluster.pid()).into_iter().chain([cluster.pid()]);
    pids.filter_map(|pid| Some((pid, size(pid)?))).collect()
}

fn size(pid: u32) -> Option<Size> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
    Some(Size { descriptors, megabytes: kilobytes.parse::<u64>().ok()? / 1_024 })
}
