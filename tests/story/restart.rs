//! Maintenance under load: nobody notices.

use crate::{
    story,
    support::{cluster::Cluster, load::Load, wait_for},
};

#[test]
fn a_graceful_restart_fails_no_request_and_loses_no_session() {
    story(async {
        let cluster = Cluster::up(2).await;
        let load = Load::start(cluster.listen, 16);
        load.progress(200).await;
        let (code, said) = cluster.command(&["restart", "r1"]).await;
        assert_eq!(code, Some(0), "{said}");
        load.progress(200).await;
        load.finish().await.assert_whole();
    });
}

#[test]
fn a_rolling_restart_fails_no_request_and_loses_no_session() {
    story(async {
        let cluster = Cluster::up(3).await;
        let load = Load::start(cluster.listen, 16);
        load.progress(200).await;
        let (code, said) = cluster.command(&["restart", "--rolling"]).await;
        assert_eq!(code, Some(0), "{said}");
        load.progress(200).await;
        load.finish().await.assert_whole();
    });
}

#[test]
fn a_drained_node_gives_its_users_away_and_gets_none_until_it_is_resumed() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        let (node, _) = browser.count().await.unwrap();
        let (code, said) = cluster.command(&["drain", &node]).await;
        assert_eq!(code, Some(0), "{said}");
        let (other, count) = browser.count().await.unwrap();
        assert_ne!(node, other);
        assert_eq!(count, 2);
        for _ in 0..6 {
            assert_eq!(cluster.browser().count().await.unwrap().0, other);
        }
        assert_eq!(cluster.command(&["resume", &node]).await.0, Some(0));
        cluster.settled(2).await;
        wait_for("a resumed node gets new users again", async || {
            (cluster.browser().count().await.unwrap().0 == node).then_some(())
        })
        .await;
    });
}
