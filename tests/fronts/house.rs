//! Two nodes without a balancer of tasuki's, a front before them, and what is asked of every front.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use hyper::StatusCode;
use rustix::process::Signal;
use tasuki::observe::{NodeReport, NodeState};
use tempfile::TempDir;

use crate::support::{
    browser::{Answer, Browser},
    cluster::{Place, Process, send},
    free_address, skipped, wait_for,
};

/// What the balancer sends with a question to a node.
const CONTROL: Option<(&str, &str)> = Some(("Tasuki-Control", "1"));

/// Two nodes on fixed ports that find each other without a balancer.
pub(crate) struct House {
    place: Place,
    pub(crate) nodes: [Node; 2],
}

pub(crate) struct Node {
    route: &'static str,
    pub(crate) http: SocketAddr,
    replication: SocketAddr,
    process: Option<Process>,
}

/// A front that runs, ended with this value.
pub(crate) struct Front {
    pub(crate) listen: SocketAddr,
    child: Child,
    folder: TempDir,
    log: &'static str,
}

/// Where a program is, or a line that says that it is not there.
pub(crate) fn installed(program: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        skipped(&format!("{program} is not installed (Debian: apt-get install {package})"));
    }
    found
}

impl House {
    pub(crate) async fn open() -> Self {
        let node = |route| Node { route, http: free_address(), replication: free_address(), process: None };
        let nodes = [node("r1"), node("r2")];
        let peers = nodes.iter().map(|node| node.replication.to_string()).collect::<Vec<_>>().join(",");
        let mut house = Self { place: Place::new().set("CLUSTER__PEERS", &peers), nodes };
        for index in 0..house.nodes.len() {
            house.start(index);
        }
        house.settled().await;
        house
    }

    pub(crate) fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let mut command = self.place.tasuki(&["node", "--route", node.route]);
        command
            .env("TASUKI__NODE__HTTP", node.http.to_string())
            .env("TASUKI__NODE__REPLICATION", node.replication.port().to_string());
        node.process = Some(self.place.spawn(command));
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self, route: &str) -> usize {
        let index = self.nodes.iter().position(|node| node.route == route).unwrap();
        let mut process = self.nodes[index].process.take().unwrap();
        send(process.pid(), Signal::KILL);
        process.ended().await;
        index
    }

    /// Both serve, and each holds what the other owns.
    pub(crate) async fn settled(&self) {
        for node in &self.nodes {
            wait_for("the node serves and is in sync", || async {
                let mut browser = Browser::new(node.http);
                browser.header = CONTROL;
                let said = browser.get("/.tasuki/status").await.ok()?;
                let said = serde_json::from_str::<NodeReport>(&said.body).ok()?;
                let in_sync = said.peers.len() == 1 && said.peers.iter().all(|peer| peer.in_sync);
                (said.state == NodeState::Ready && in_sync).then_some(())
            })
            .await;
        }
    }
}

impl Front {
    /// Starts a program with a file of settings, and waits until a node answers through it. `settings` is given the
    /// folder and the address, `command` the program and that file.
    pub(crate) async fn start(
        log: &'static str,
        settings: impl FnOnce(&Path, SocketAddr) -> String,
        command: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let (folder, listen) = (tempfile::tempdir().unwrap(), free_address());
        // Its workers may run as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("front.conf");
        fs::write(&file, settings(folder.path(), listen)).unwrap();
        let said = fs::File::create(folder.path().join("said")).unwrap();
        let mut command = command(&file);
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
        let front = Self { listen, child: command.spawn().unwrap(), folder, log };
        wait_for("a node answers through the front", || async {
            Browser::new(listen).get("/?plain").await.ok().filter(|answer| answer.plain().is_some())
        })
        .await;
        front
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.listen)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Each of them ends its workers when it is told to end at once in this way.
        send(self.child.id(), Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            for file in ["said", self.log] {
                let text = fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
                eprintln!("--- {file} of the front ---\n{text}");
            }
        }
    }
}

/// The seeds' promise, through any front: a user stays with a node, the node is killed, the number goes on; it comes back,
/// and the user stays where the session is.
pub(crate) async fn a_session_outlives_its_node(house: &mut House, front: &Front) {
    let mut browser = front.browser();
    let (node, _) = browser.count().await.unwrap();
    for wanted in 2..=6 {
        assert_eq!(browser.count().await.unwrap(), (node.clone(), wanted), "sticky");
    }
    assert!(browser.cookies["JSESSIONID"].ends_with(&format!(".{node}")));
    let others = spread(front).await;
    assert_eq!(others.len(), 2, "new users are spread over both nodes: {others:?}");

    let mut outsider = front.browser();
    outsider.header = CONTROL;
    let answer = outsider.get("/.tasuki/status").await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "no orders through a front");

    let killed = house.kill(&node).await;
    let (other, count) = browser.count().await.unwrap();
    assert_ne!(other, node);
    assert_eq!(count, 7, "the number goes on");
    assert!(browser.cookies["JSESSIONID"].ends_with(&format!(".{other}")));
    for wanted in 8..=12 {
        assert_eq!(browser.count().await.unwrap(), (other.clone(), wanted));
    }

    house.start(killed);
    house.settled().await;
    wait_for("the front uses the node again", || async { (spread(front).await.len() == 2).then_some(()) }).await;
    assert_eq!(browser.count().await.unwrap(), (other.clone(), 13), "it stays where its session is");
    assert_eq!(house.kill(&other).await, 1 - killed);
    assert_eq!(browser.count().await.unwrap(), (node, 14), "and comes back when that one goes");
}

/// Which nodes eight new users get.
async fn spread(front: &Front) -> BTreeSet<String> {
    let mut nodes = BTreeSet::new();
    for _ in 0..8 {
        if let Ok((node, _)) = front.browser().count().await {
            nodes.insert(node);
        }
    }
    nodes
}

/// A request with the session in its path, for clients without cookies.
pub(crate) async fn by_path(address: SocketAddr, session: &str) -> Answer {
    Browser::new(address).get(&format!("/index.html;jsessionid={session}?plain")).await.unwrap()
}
