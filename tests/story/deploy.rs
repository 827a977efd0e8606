//! `tasuki deploy`: one webapp changes on all nodes, or on none, and nobody who uses it notices more than the change.

use std::{
    cell::{Cell, RefCell},
    fs,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
};

use tasuki::observe::{NodeReport, WebappSource};
use tokio::task::{JoinHandle, spawn_local};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{Cluster, Place},
        wait_for,
    },
};

const NODES: [&str; 3] = ["r1", "r2", "r3"];

/// Readers who ask every node for `/shop/`, and what they saw.
struct Readers {
    stop: Rc<Cell<bool>>,
    trouble: Rc<RefCell<Option<String>>>,
    seen: Rc<Cell<u32>>,
    readers: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Each one reads through the balancer, and must see versions in their order and nothing else.
    fn start(listen: SocketAddr) -> Self {
        let (stop, trouble, seen) = (Rc::new(Cell::new(false)), Rc::default(), Rc::new(Cell::new(0)));
        let readers =
            (0..6).map(|_| spawn_local(read(listen, stop.clone(), Rc::clone(&trouble), seen.clone()))).collect();
        Self { stop, trouble, seen, readers }
    }

    /// Waits until they have read on for a while.
    async fn progress(&self) {
        let goal = self.seen.get() + 60;
        wait_for("the readers go on", || async { (self.seen.get() >= goal).then_some(()) }).await;
    }

    async fn finish(self) {
        self.stop.set(true);
        for reader in self.readers {
            reader.await.unwrap();
        }
        assert_eq!(self.trouble.take(), None);
    }
}

async fn read(listen: SocketAddr, stop: Rc<Cell<bool>>, trouble: Rc<RefCell<Option<String>>>, seen: Rc<Cell<u32>>) {
    let (mut browser, mut last) = (Browser::new(listen), 0);
    while !stop.get() {
        // A session that sticks to its node, as a user's would.
        let version = match browser.get("/shop/").await {
            Ok(answer) if answer.status == 200 => answer.body.trim().parse().unwrap_or(0),
            other => {
                trouble.borrow_mut().get_or_insert(format!("{other:?}"));
                return;
            }
        };
        if version < last {
            trouble.borrow_mut().get_or_insert(format!("{version} after {last}"));
            return;
        }
        last = version;
        seen.set(seen.get() + 1);
    }
}

/// A webapp with one page: its version. Every reader has a session there.
fn shop(place: &Place, page: &str) -> String {
    let folder = place.path("new/shop");
    fs::create_dir_all(folder.join("WEB-INF")).unwrap();
    fs::write(folder.join("index.html.j2"), page).unwrap();
    fs::write(folder.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    folder.display().to_string()
}

fn version(n: u32) -> String {
    format!("{{% do session.add('n', 1) %}}{n}")
}

fn empty_folder(place: Place) -> Place {
    let webapps = place.path("webapps");
    fs::create_dir_all(&webapps).unwrap();
    let shown = webapps.display().to_string();
    place.set("NODE__WEBAPPS", &shown)
}

async fn cluster(nodes: usize) -> Cluster {
    Cluster::up_in(empty_folder(Place::new()), nodes).await
}

/// What every node answers for `/shop/`, asked itself.
async fn answers(cluster: &Cluster) -> Vec<String> {
    let mut answers = Vec::new();
    for node in cluster.status().await.expect("the balancer answers").nodes {
        let answer = Browser::new(node.http).get("/shop/").await.unwrap();
        answers.push(if answer.status == 200 { answer.body.trim().to_owned() } else { answer.status.to_string() });
    }
    answers
}

#[test]
fn a_deployment_reaches_every_node_or_none_while_users_go_on() {
    story(async {
        let cluster = cluster(3).await;
        let place = cluster.place();
        let (code, said) = cluster.command(&["deploy", &shop(place, &version(1))]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("shop is deployed on 3 nodes (sha256 "), "{said}");
        assert!(NODES.iter().all(|node| said.contains(&format!("{node}  has it, checked"))), "{said}");
        assert_eq!(answers(&cluster).await, ["1", "1", "1"]);
        let readers = Readers::start(cluster.listen);
        readers.progress().await;

        let (code, said) =
            cluster.command(&["deploy", &shop(place, &version(2)), "--canary", "r2", "--watch", "1"]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("r2  was watched for 1 s: "), "{said}");
        readers.progress().await;
        assert_eq!(answers(&cluster).await, ["2", "2", "2"]);

        for (broken, why) in [
            ("{% if %}3", "shop/index.html.j2:1"),
            ("{{ session.nothing() }}3", "shop: its page / fails"),
            (
                "{% if node.route == 'r3' %}{% do response.status(500) %}{% endif %}3",
                "r3: shop: its page / answers with 500",
            ),
        ] {
            let (code, said) = cluster.command(&["deploy", &shop(place, broken)]).await;
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(why) && said.contains("nothing was changed on any node"), "{why}: {said}");
            assert_eq!(answers(&cluster).await, ["2", "2", "2"]);
        }
        let path = shop(place, &version(3));
        let (code, said) = cluster.command(&["deploy", &path, "--probe", "/health.txt"]).await;
        assert!(code == Some(1) && said.contains("there is nothing at /health.txt"), "{said}");
        readers.progress().await;
        readers.finish().await;
    });
}

#[test]
fn what_fails_at_the_canary_is_taken_back_and_what_was_deployed_can_be_gone_back_to() {
    story(async {
        let cluster = cluster(2).await;
        let place = cluster.place();
        for n in [1, 2] {
            assert_eq!(cluster.command(&["deploy", &shop(place, &version(n))]).await.0, Some(0));
        }
        // It fails for users who come back only, which no probe can know.
        let bad = "{% do session.add('n', 1) %}{% if session.n > 2 %}{{ session.nothing() }}{% endif %}3";
        let mut browser = cluster.browser();
        for _ in 0..3 {
            assert_eq!(browser.get("/shop/").await.unwrap().body.trim(), "2");
        }
        let canary = browser.get("/shop/").await.unwrap().headers["tasuki-node"].to_str().unwrap().to_owned();
        let path = shop(place, bad);
        let deploy = ["deploy", &path, "--canary", &canary, "--watch", "3"];
        let users = async { while browser.get("/shop/").await.unwrap().status != 500 {} };
        let ((code, said), _) = tokio::join!(cluster.command(&deploy), users);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("pages failed") && said.contains("shop was taken back"), "{said}");
        assert_eq!(answers(&cluster).await, ["2", "2"]);

        let (code, said) = cluster.command(&["rollback", "shop"]).await;
        assert_eq!((code, answers(&cluster).await), (Some(0), vec!["1".into(), "1".into()]), "{said}");
        let (code, said) = cluster.command(&["webapps"]).await;
        assert!(code == Some(0) && said.contains("deployed  r1, r2"), "{said}");
        let (code, _) = cluster.command(&["undeploy", "shop"]).await;
        assert_eq!((code, answers(&cluster).await), (Some(0), vec!["404 Not Found".into(); 2]));
        let (code, said) = cluster.command(&["undeploy", "shop"]).await;
        assert!(code == Some(1) && said.contains("was not deployed by"), "{said}");
    });
}

#[test]
fn a_node_that_was_away_soon_has_what_the_cluster_has_and_a_full_stop_forgets_nothing() {
    story(async {
        let mut cluster = cluster(2).await;
        let killed = cluster.kill("r2").await;
        // While r2 is not there; a node that is neither known to be gone nor answers makes a deployment fail.
        let (code, said) = wait_for("it is deployed", || async {
            let done = cluster.command(&["deploy", &shop(cluster.place(), &version(7))]).await;
            (done.0 == Some(0)).then_some(done)
        })
        .await;
        assert_eq!(code, Some(0), "{said}");
        cluster.back("r2", killed, 2).await;
        // It asked before it served; what was deployed in the same moment, by a node that did not know it yet, it hears soon.
        let all_have = || async { (answers(&cluster).await == ["7", "7"]).then_some(()) };
        wait_for("both answer with it", all_have).await;
        let is_deployed = |node: &NodeReport| {
            node.webapps.iter().any(|app| app.name == "shop" && app.source == WebappSource::Deployed)
        };
        assert!(cluster.status().await.unwrap().nodes.iter().all(is_deployed));

        let place = cluster.place().clone();
        cluster.process().signal(rustix::process::Signal::TERM);
        assert_eq!(cluster.process().ended().await, Some(0));
        assert!(fs::read_dir(place.path("run")).unwrap().flatten().all(|file| !file.path().ends_with("r1.node.json")));
        // One of them has lost its disk.
        fs::remove_dir_all(place.path("run/deployed/r1")).unwrap();
        drop(cluster);
        let cluster = Cluster::up_in(place, 2).await;
        // Two that start together may serve a moment before they know of each other.
        let all_have = || async { (answers(&cluster).await == ["7", "7"]).then_some(()) };
        wait_for("both answer with it again", all_have).await;
    });
}

#[test]
fn a_coordinator_that_dies_in_the_middle_leaves_the_version_before() {
    story(async {
        let cluster = cluster(2).await;
        let place = cluster.place();
        assert_eq!(cluster.command(&["deploy", &shop(place, &version(1))]).await.0, Some(0));
        let path = shop(place, &version(2));
        let deploy = ["deploy", &path, "--canary", "r2", "--watch", "60"];
        let r2 = cluster.node("r2").await.http;
        let dies = async {
            let serves = |wanted: &'static str| async move {
                Browser::new(r2).get("/shop/").await.ok().filter(|answer| answer.body.trim() == wanted)
            };
            wait_for("the canary serves it", || serves("2")).await;
            // The first node of the folder is asked: r1.
            let killed = cluster.kill("r1").await;
            wait_for("the canary goes back", || serves("1")).await;
            killed
        };
        let ((code, said), killed) = tokio::join!(cluster.command(&deploy), dies);
        assert!(code == Some(1) && said.contains("broke off"), "{said}");
        cluster.back("r1", killed, 2).await;
        assert_eq!(answers(&cluster).await, ["1", "1"]);
    });
}

#[test]
fn whoever_cannot_read_the_key_deploys_nothing() {
    story(async {
        let cluster = cluster(1).await;
        let node = cluster.node("r1").await;
        let key: PathBuf = cluster.place().path("run/r1.node.json");
        let badge: serde_json::Value = serde_json::from_str(&fs::read_to_string(&key).unwrap()).unwrap();
        assert_eq!(badge["http"], node.http.to_string());
        let mut browser = Browser::new(node.http);
        browser.header = Some(("Tasuki-Control", "1"));
        let refused = browser.post("/.tasuki/deployments?wanted=undeploy&name=shop", "").await.unwrap();
        assert!(refused.status == 403 && refused.body.contains("key"), "{refused:?}");
        fs::write(&key, fs::read_to_string(&key).unwrap().replace("\"key\":\"", "\"key\":\"0")).unwrap();
        let (code, said) = cluster.command(&["deploy", &shop(cluster.place(), "1")]).await;
        assert!(code == Some(1) && said.contains("The key of this node is needed"), "{said}");
        fs::remove_file(&key).unwrap();
        let (code, said) = cluster.command(&["deploy", &shop(cluster.place(), "1")]).await;
        assert!(code == Some(1) && said.contains("is tasuki running?"), "{said}");
        let (code, said) = cluster.command(&["deploy", "/nowhere/shop.war"]).await;
        assert!(code == Some(1) && said.contains("/nowhere/shop.war: "), "{said}");
    });
}
