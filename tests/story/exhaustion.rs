//! More clients than a process has file descriptors for: those that are there are served, the others wait, and no processor is
//! burnt meanwhile.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    story,
    support::{
        cluster::{Cluster, Place, children, run_by},
        wait_for,
    },
};

/// All of it, hard and soft.
const DESCRIPTORS: &str = "ulimit -n 256; exec \"$0\" \"$@\"";
const CROWD: usize = 400;

/// So many that connect, or wait until they may, and say nothing. They go when this is dropped.
fn crowd(address: SocketAddr) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        crowd.spawn_local(async move {
            let _stranger = TcpStream::connect(address).await;
            std::future::pending().await
        });
    }
    crowd
}

/// Time on a processor until now, of all processes of a cluster (proc(5), schedstat of each thread).
fn cpu(cluster: &Cluster) -> Duration {
    let threads =
        children(cluster.pid()).into_iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap());
    let nanos = threads.map(|thread| {
        let stat = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default()
    });
    Duration::from_nanos(nanos.sum())
}

#[test]
fn clients_beyond_the_limit_of_open_files_wait_and_harm_nobody() {
    story(async {
        let limited = |command: Command| {
            let mut shell = Command::new("sh");
            shell.args(["-c", DESCRIPTORS]);
            run_by(shell, &command)
        };
        let cluster = Cluster::up_by(Place::new(), 2, limited).await;
        let mut user = cluster.browser();
        let (route, _) = user.count().await.unwrap();
        // The other node, which holds what is written. Asked for first: who comes afterwards waits like everybody.
        let holder = cluster.node(if route == "r1" { "r2" } else { "r1" }).await.http;
        let crowds = [crowd(cluster.listen), crowd(holder)];
        wait_for("nobody else gets in", async || {
            timeout(Duration::from_millis(200), cluster.browser().count()).await.is_err().then_some(())
        })
        .await;
        // What is burnt is only seen by waiting.
        let (before, watched) = (cpu(&cluster), Duration::from_secs(2));
        sleep(watched).await;
        let used = cpu(&cluster) - before;
        println!("{used:?} of {watched:?} on a processor");
        assert!(used < watched / 4, "nobody tries again and again: {used:?}");
        for n in 2..20 {
            let answer = user.get("/?plain").await.unwrap();
            assert_eq!(answer.plain(), Some((route.clone(), n)), "it is served as before: {answer:?}");
            assert_eq!(answer.header("tasuki-copies"), Some("2"));
        }
        drop(crowds);
        cluster.settled(2).await;
        assert_eq!(cluster.browser().count().await.unwrap().1, 1, "a new client is served");
        let log = cluster.place().log();
        assert!(log.contains("few files may be open"), "{log}");
        assert!(!log.contains("ERROR"), "{log}");
    });
}
