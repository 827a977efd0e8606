//! Many requests of one session at once.

use crate::{story, support::cluster::Cluster};

#[test]
fn two_hundred_parallel_increments_of_one_session_count_two_hundred() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        browser.count().await.unwrap();
        let windows = (0..200).map(|_| {
            let mut window = browser.window();
            tokio::task::spawn_local(async move { window.count().await.unwrap().1 })
        });
        let mut counts = Vec::new();
        for window in windows.collect::<Vec<_>>() {
            counts.push(window.await.unwrap());
        }
        counts.sort_unstable();
        assert_eq!(counts, (2..=201).collect::<Vec<u64>>(), "each request saw a number of its own");
    });
}

#[test]
fn parallel_requests_of_one_session_stay_together_when_their_node_dies() {
    story(async {
        let cluster = Cluster::up(3).await;
        let mut browser = cluster.browser();
        let (node, _) = browser.count().await.unwrap();
        cluster.kill(&node).await;
        let windows = (0..30).map(|_| {
            let mut window = browser.window();
            tokio::task::spawn_local(async move { window.count().await.unwrap() })
        });
        let mut answers = Vec::new();
        for window in windows.collect::<Vec<_>>() {
            answers.push(window.await.unwrap());
        }
        let mut counts: Vec<u64> = answers.iter().map(|(_, count)| *count).collect();
        counts.sort_unstable();
        assert_eq!(counts, (2..=31).collect::<Vec<u64>>());
        assert!(answers.iter().all(|(other, _)| *other == answers[0].0), "all went to one node: {answers:?}");
    });
}
