//! The end: in order, in time, and leaving nothing behind.

use rustix::process::Signal;

use crate::{
    story,
    support::{
        cluster::{Cluster, Place, children, is_running},
        load::Load,
        wait_for,
    },
};

#[test]
fn a_signal_stops_everything_with_exit_code_0() {
    story(async {
        for signal in [Signal::TERM, Signal::INT] {
            let mut cluster = Cluster::up(2).await;
            cluster.browser().count().await.unwrap();
            let children = children(cluster.process().pid());
            assert_eq!(children.len(), 3);
            cluster.process().signal(signal);
            assert_eq!(cluster.process().ended().await, Some(0), "{}", cluster.place().log());
            assert!(!children.into_iter().any(is_running));
        }
    });
}

#[test]
fn killing_the_parent_leaves_no_orphan() {
    story(async {
        let mut cluster = Cluster::up(2).await;
        let children = children(cluster.process().pid());
        assert_eq!(children.len(), 3);
        cluster.process().signal(Signal::KILL);
        cluster.process().ended().await;
        wait_for("the children end", || {
            std::future::ready((!children.iter().any(|pid| is_running(*pid))).then_some(()))
        })
        .await;
    });
}

#[test]
fn a_node_that_dies_is_started_again() {
    story(async {
        let cluster = Cluster::up_in(Place::new(), 2).await;
        for _ in 0..3 {
            let killed = cluster.kill("r1").await;
            cluster.back("r1", killed, 2).await;
        }
        let load = Load::start(cluster.listen, 2);
        load.progress(20).await;
        load.finish().await.assert_whole();
    });
}
