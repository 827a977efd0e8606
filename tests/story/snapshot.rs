//! Everything stops on purpose, and starts again: the sessions are still there.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use rustix::process::Signal;

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{Cluster, Place, Process, run_by},
        machines::Machines,
        wait_for,
    },
};

/// Ctrl-C, and everything has ended well.
async fn stop(mut cluster: Cluster) {
    cluster.process().signal(Signal::INT);
    assert_eq!(cluster.process().ended().await, Some(0), "{}", cluster.place().log());
}

fn file(place: &Place, route: &str) -> PathBuf {
    place.path("run").join(format!("{route}.sessions"))
}

fn snapshots(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.path("run")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.contains("sessions")).collect();
    names.sort();
    names
}

/// The same user, of the cluster that runs now.
fn again(cluster: &Cluster, before: &Browser) -> Browser {
    let mut browser = cluster.browser();
    browser.cookies = before.cookies.clone();
    browser
}

/// A node without a balancer, which serves. `start` is given its command.
async fn node_by(place: &Place, start: impl FnOnce(Command) -> Command) -> (Process, Browser) {
    let address = free_address();
    let place = place.clone().set("NODE__HTTP", &address.to_string());
    let node = place.spawn(start(place.tasuki(&["node"])));
    let is_ready = async || Browser::new(address).get("/ready").await.ok().filter(|answer| answer.status.is_success());
    wait_for("the node serves", is_ready).await;
    (node, Browser::new(address))
}

async fn node(place: &Place) -> (Process, Browser) {
    node_by(place, |command| command).await
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn counters_go_on_after_everything_was_stopped_and_started() {
    story(async {
        let place = Place::new();
        let mut users = Vec::new();
        for round in 1..=3 {
            let cluster = Cluster::up_in(place.clone(), 2).await;
            assert!(snapshots(&place).is_empty(), "what was loaded is gone: {:?}", snapshots(&place));
            users = if round == 1 {
                (0..8).map(|_| cluster.browser()).collect()
            } else {
                users.iter().map(|user| again(&cluster, user)).collect()
            };
            for user in &mut users {
                assert_eq!(user.count().await.unwrap().1, round);
            }
            stop(cluster).await;
            assert_eq!(snapshots(&place), ["r1.sessions", "r2.sessions"], "both were the last");
        }
    });
}

#[test]
fn a_logout_is_not_undone_by_a_stop() {
    story(async {
        let place = pages("{% if request.query.end %}{% do session.invalidate() %}{% endif %}");
        let cluster = Cluster::up_in(place.clone(), 2).await;
        let mut user = cluster.browser();
        assert_eq!(user.count().await.unwrap().1, 1);
        let old = user.window();
        user.get("/?end=yes").await.unwrap();
        stop(cluster).await;
        let cluster = Cluster::up_in(place, 2).await;
        assert_eq!(again(&cluster, &old).count().await.unwrap().1, 1, "a new session");
    });
}

#[test]
fn sessions_that_never_leave_their_node_survive_its_restart() {
    story(async {
        let place = pages("");
        fs::write(place.path("webapps/ROOT/WEB-INF/web.xml"), "<web-app/>").unwrap();
        let cluster = Cluster::up_in(place, 2).await;
        let mut users: Vec<_> = (0..4).map(|_| cluster.browser()).collect();
        let mut nodes = Vec::new();
        for user in &mut users {
            nodes.push(user.count().await.unwrap().0);
        }
        let (code, said) = cluster.command(&["restart", "--rolling"]).await;
        assert_eq!(code, Some(0), "{said}");
        cluster.settled(2).await;
        for (user, node) in users.iter_mut().zip(nodes) {
            assert_eq!(user.count().await.unwrap(), (node, 2), "{}", cluster.place().log());
        }
        assert!(snapshots(cluster.place()).is_empty());
    });
}

#[test]
fn a_rolling_restart_writes_and_loads_nothing() {
    story(async {
        let cluster = Cluster::up(2).await;
        assert_eq!(cluster.browser().count().await.unwrap().1, 1);
        assert_eq!(cluster.command(&["restart", "--rolling"]).await.0, Some(0));
        assert!(!cluster.place().log().contains(".sessions"), "the others held everything");
    });
}

#[test]
fn a_node_that_has_no_link_to_a_live_peer_saves_what_only_it_holds() {
    story(async {
        let Some(mut machines) = Machines::start(Place::new(), 2).await else { return };
        let mut users: Vec<Browser> = (0..8).map(|_| machines.browser()).collect();
        // Datagrams pass: they stay members of each other.
        machines.network.clog("r1", "r2");
        machines.network.clog("r2", "r1");
        machines.network.lose("r1", "r2");
        let mut on_r1 = Vec::new();
        for user in &mut users {
            user.count().await.unwrap();
        }
        machines.apart("r1").await;
        for user in &mut users {
            if user.count().await.unwrap().0 == "r1" {
                on_r1.push(user);
            }
        }
        assert!(!on_r1.is_empty(), "the balancer spreads them");
        machines.stop("r1").await;
        assert!(file(machines.place(), "r1").exists(), "{}", machines.place().log());
        machines.network.go("r1", "r2");
        machines.network.go("r2", "r1");
        machines.boot("r1", 2);
        machines.settled(2).await;
        for user in on_r1 {
            assert_eq!(user.count().await.unwrap().1, 3);
        }
    });
}

#[test]
fn a_damaged_snapshot_is_refused_in_one_line_and_kept() {
    story(async {
        let place = Place::new();
        let (mut process, mut user) = node(&place).await;
        assert_eq!(user.count().await.unwrap().1, 1);
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await, Some(0));
        let mut bytes = fs::read(file(&place, "r1")).unwrap();
        let at = bytes.len() - 40;
        bytes[at] ^= 0x10;
        fs::write(file(&place, "r1"), &bytes).unwrap();
        let unfinished = place.path("run/r1.sessions.unfinished");
        fs::write(&unfinished, "half").unwrap();

        let (mut process, mut now) = node(&place).await;
        let said = place.log();
        assert!(said.contains("sessions are lost: the last stop was cut short while it wrote"), "{said}");
        assert!(!unfinished.exists());
        let line = said.lines().find(|line| line.contains("not loaded")).unwrap_or_else(|| panic!("{said}"));
        for part in [
            "/run/r1.sessions are not loaded: at byte ",
            "the checksum of a block does not fit",
            "kept as r1.sessions.damaged-1",
        ] {
            assert!(line.contains(part), "{part:?} is in {line}");
        }
        assert_eq!(fs::read(place.path("run/r1.sessions.damaged-1")).unwrap(), bytes);
        now.cookies = user.cookies.clone();
        let mut user = now;
        assert_eq!(user.count().await.unwrap().1, 1, "the node starts empty");
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await, Some(0));
        assert_eq!(snapshots(&place), ["r1.sessions", "r1.sessions.damaged-1"]);
    });
}

#[test]
fn a_crash_after_the_start_does_not_take_sessions_back_in_time() {
    story(async {
        let place = Place::new();
        let (mut process, mut user) = node(&place).await;
        assert_eq!(user.count().await.unwrap().1, 1);
        process.signal(Signal::TERM);
        process.ended().await;
        let (mut process, mut now) = node(&place).await;
        now.cookies = user.cookies.clone();
        let mut user = now;
        for expected in 2..5 {
            assert_eq!(user.count().await.unwrap().1, expected);
        }
        process.signal(Signal::KILL);
        process.ended().await;
        let (_process, mut now) = node(&place).await;
        now.cookies = user.cookies.clone();
        let mut user = now;
        assert_eq!(user.count().await.unwrap().1, 1, "lost with the only node, but never 2 again");
    });
}

#[test]
fn a_snapshot_beside_a_cluster_that_lived_on_does_not_outrank_it() {
    story(async {
        let place = Place::new();
        let cluster = Cluster::up_in(place.clone(), 2).await;
        let mut user = cluster.browser();
        assert_eq!(user.count().await.unwrap().1, 1);
        stop(cluster).await;
        let old = fs::read(file(&place, "r1")).unwrap();
        let cluster = Cluster::up_in(place.clone(), 2).await;
        let mut user = again(&cluster, &user);
        for expected in 2..8 {
            assert_eq!(user.count().await.unwrap().1, expected);
        }
        fs::write(file(&place, "r1"), old).unwrap();
        let killed = cluster.kill("r1").await;
        cluster.back("r1", killed, 2).await;
        assert!(snapshots(&place).is_empty(), "it was loaded, for everybody remembers all that happened since");
        for expected in 8..12 {
            assert_eq!(user.count().await.unwrap().1, expected);
        }
        let killed = cluster.kill("r2").await;
        assert_eq!(user.count().await.unwrap().1, 12, "{killed} is gone, and what it held");
    });
}

#[test]
fn a_disk_that_is_full_costs_the_sessions_and_nothing_else() {
    story(async {
        let place = pages(&format!("{{% do session.set('data', '{}') %}}", "x".repeat(300_000)));
        // A file ends at 256 blocks of 512 bytes (ulimit of the POSIX shell), the signal that says so is ignored.
        let limited = |command: Command| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "trap '' XFSZ; ulimit -f 256; exec \"$0\" \"$@\""]);
            run_by(shell, &command)
        };
        let (mut process, mut user) = node_by(&place, limited).await;
        assert_eq!(user.count().await.unwrap().1, 1);
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await, Some(0), "{}", place.log());
        let said = place.log();
        let line = said.lines().find(|line| line.contains("sessions are lost")).unwrap_or_else(|| panic!("{said}"));
        for part in ["/run/r1.sessions (node.run) cannot be written: File too large", "sessions=1"] {
            assert!(line.contains(part), "{part:?} is in {line}");
        }
        assert!(snapshots(&place).is_empty(), "nothing half stays");
    });
}

/// A counter that does `more` before it counts.
fn pages(more: &str) -> Place {
    let place = Place::new();
    let root = place.path("webapps/ROOT");
    fs::create_dir_all(root.join("WEB-INF")).unwrap();
    fs::write(root.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    let page = format!("{more}[{{{{ node.route }}}}]\n{{{{ session.add('count') }}}}\n");
    fs::write(root.join("index.html.j2"), page).unwrap();
    let webapps = place.path("webapps").display().to_string();
    place.set("NODE__WEBAPPS", &webapps)
}
