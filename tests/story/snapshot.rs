//! Everything stops on purpose, and starts again: the sessions are still there.

use std::{
    fs::{self, File, OpenOptions},
    future::ready,
    io::Write,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{fs::OFlags, process::Signal};
use tasuki::settings::Listening;

use crate::{
    story,
    support::{
        self,
        browser::Browser,
        cluster::{self, Cluster, Place, Process, run_by},
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
    let (node, address) = begin(place, start);
    wait_for("the node serves", async || serves(address).await.then_some(())).await;
    (node, Browser::new(address))
}

/// The same before it serves.
fn begin(place: &Place, start: impl FnOnce(Command) -> Command) -> (Process, SocketAddr) {
    let address = free_address();
    let place = place.clone().set("NODE__HTTP", &address.to_string());
    (place.spawn(start(place.tasuki(&["node"]))), address)
}

async fn serves(address: SocketAddr) -> bool {
    Browser::new(address).get("/ready").await.is_ok_and(|answer| answer.status.is_success())
}

async fn node(place: &Place) -> (Process, Browser) {
    node_by(place, |command| command).await
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Nodes r1 and r2 with ports of their own, and a balancer that runs all the time.
struct Pair {
    place: Place,
    replication: [SocketAddr; 2],
    listen: SocketAddr,
    _door: Process,
}

impl Pair {
    /// `others` are peers that both nodes are told of, too.
    async fn new(others: &[SocketAddr]) -> Self {
        let replication = [support::free_address(), support::free_address()];
        let peers: Vec<String> = replication.iter().chain(others).map(SocketAddr::to_string).collect();
        let place = Place::new().set("CLUSTER__DISCOVERY_TIMEOUT", "2s").set("CLUSTER__PEERS", &peers.join(","));
        let _door = place.start(&["balancer"]);
        let listening = || ready(Listening::read(&place.path("run")).ok());
        let listen = wait_for("the balancer listens", listening).await.listen;
        Self { place, replication, listen, _door }
    }

    /// Both, and waits until they are in sync.
    async fn start_both(&self) -> [Process; 2] {
        let nodes = [self.start(0), self.start(1)];
        cluster::settled(self.listen, 2).await;
        nodes
    }

    fn start(&self, index: usize) -> Process {
        let port = self.replication[index].port().to_string();
        self.place.clone().set("NODE__REPLICATION", &port).start(&["node", "--route", ["r1", "r2"][index]])
    }

    /// One after the other, so that the first one alone saves.
    async fn stop_both(&self, [mut first, mut second]: [Process; 2]) {
        for node in [&mut second, &mut first] {
            node.signal(Signal::TERM);
            assert_eq!(node.ended().await, Some(0), "{}", self.place.log());
        }
        assert_eq!(snapshots(&self.place), ["r1.sessions"]);
    }
}

/// Puts a pipe into the place of a snapshot and gives its other end when a node has begun to read there, and where the
/// snapshot is now.
async fn slow_to_read(file: &Path, start: impl FnOnce() -> Process) -> (Process, File, PathBuf) {
    let kept = file.with_extension("kept");
    fs::rename(file, &kept).unwrap();
    assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
    let node = start();
    // It cannot be opened so while nobody reads.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let open = || ready(OpenOptions::new().write(true).custom_flags(nonblocking).open(file).ok());
    let pipe = wait_for("the node reads its snapshot", open).await;
    (node, pipe, kept)
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
fn a_start_waits_until_the_last_life_has_saved_its_sessions() {
    story(async {
        let place = Place::new();
        let (mut old, mut user) = node(&place).await;
        assert_eq!(user.count().await.unwrap().1, 1);
        // It has been told to stop, and does not get far.
        cluster::stop(old.pid()).await;
        old.signal(Signal::TERM);
        let (_new, address) = begin(&place, |command| command);
        let waits = || place.log().contains(&format!("waiting for the earlier process {} of this node", old.pid()));
        wait_for("the new process waits", async || (waits() || serves(address).await).then_some(())).await;
        assert!(!serves(address).await, "it shares a folder with a process that still runs");
        old.signal(Signal::CONT);
        assert_eq!(old.ended().await, Some(0), "{}", place.log());
        wait_for("the node serves", async || serves(address).await.then_some(())).await;
        let mut now = Browser::new(address);
        now.cookies = user.cookies.clone();
        assert_eq!(now.count().await.unwrap().1, 2, "{}", place.log());
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
fn peers_are_told_of_what_was_loaded_after_the_links_were_up() {
    story(async {
        // It never answers: both nodes wait for it, and load later.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let pair = Pair::new(&[silent.local_addr().unwrap()]).await;
        let nodes = pair.start_both().await;
        let mut user = Browser::new(pair.listen);
        assert_eq!(user.count().await.unwrap().1, 1);
        pair.stop_both(nodes).await;
        let [mut first, _second] = pair.start_both().await;
        assert!(snapshots(&pair.place).is_empty(), "{}", pair.place.log());
        first.signal(Signal::KILL);
        first.ended().await;
        assert_eq!(user.count().await.unwrap(), ("r2".to_owned(), 2), "{}", pair.place.log());
    });
}

#[test]
fn a_stop_in_the_middle_of_a_load_loses_nothing() {
    story(async {
        let pair = Pair::new(&[]).await;
        let nodes = pair.start_both().await;
        let mut user = Browser::new(pair.listen);
        assert_eq!(user.count().await.unwrap().1, 1);
        pair.stop_both(nodes).await;
        let _second = pair.start(1);
        // It has nothing, and could relieve r1 of that.
        cluster::settled(pair.listen, 1).await;
        let file = file(&pair.place, "r1");
        let (mut first, mut pipe, kept) = slow_to_read(&file, || pair.start(0)).await;
        let said = pair.place.log().len();
        first.signal(Signal::TERM);
        wait_for("r1 stops", || ready(pair.place.log()[said..].contains("Draining").then_some(()))).await;
        fs::rename(&kept, &file).unwrap();
        pipe.write_all(&fs::read(&file).unwrap()).unwrap();
        drop(pipe);
        assert_eq!(first.ended().await, Some(0));
        assert_eq!(snapshots(&pair.place), ["r1.sessions"], "{}", pair.place.log());
        let _first = pair.start(0);
        cluster::settled(pair.listen, 2).await;
        assert_eq!(user.count().await.unwrap().1, 2, "{}", pair.place.log());
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
