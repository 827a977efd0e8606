//! The session managers: to a webapp they are the same, and they keep the same promises.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use hyper::StatusCode;
use rustix::process::Signal;
use tasuki::{observe::StatusReport, settings::Listening};

use crate::{
    joining::replication_port,
    story,
    support::{
        browser::Browser,
        cluster::{self, Cluster, Place, Process, settled, status},
        load::Load,
        wait_for,
    },
};

const MANAGERS: [&str; 3] = ["delta", "full", "backup"];

#[test]
fn every_manager_carries_the_number_over_a_kill() {
    story(async {
        for manager in MANAGERS {
            let cluster = Cluster::up_in(Place::new().set("SESSION__MANAGER", manager), 3).await;
            let mut browser = cluster.browser();
            let (first, _) = browser.count().await.unwrap();
            let answer = browser.get("/?plain").await.unwrap();
            assert_eq!(
                (answer.plain(), answer.header("tasuki-copies")),
                (Some((first.clone(), 2)), Some("2")),
                "{manager}"
            );
            let killed = cluster.kill(&first).await;
            let (second, count) = browser.count().await.unwrap();
            assert_ne!(first, second);
            assert_eq!(count, 3, "{manager}");
            cluster.back(&first, killed, 3).await;
            cluster.kill(&second).await;
            assert_eq!(browser.count().await.unwrap().1, 4, "{manager}");
        }
    });
}

#[test]
fn every_manager_loses_nothing_under_load() {
    story(async {
        for manager in ["full", "backup"] {
            let cluster = Cluster::up_in(Place::new().set("SESSION__MANAGER", manager), 3).await;
            let load = Load::start(cluster.listen, 16);
            for route in ["r1", "r2", "r3"] {
                load.progress(300).await;
                let killed = cluster.kill(route).await;
                load.progress(300).await;
                cluster.back(route, killed, 3).await;
            }
            load.finish().await.assert_whole();
        }
    });
}

#[test]
fn a_backup_holds_each_session_twice_and_again_after_a_node_is_lost() {
    story(async {
        const SESSIONS: usize = 60;
        let cluster = Cluster::up_in(Place::new().set("SESSION__MANAGER", "backup"), 4).await;
        let mut users = Vec::new();
        for _ in 0..SESSIONS {
            let mut user = cluster.browser();
            user.count().await.unwrap();
            users.push(user);
        }
        assert_eq!(totals(&cluster.status().await.unwrap()), (SESSIONS, SESSIONS));
        let killed = cluster.kill("r1").await;
        // Nobody asks for a session, and yet each is held twice again: the new r1 is given its share, too.
        cluster.back("r1", killed, 4).await;
        let copies = async || {
            let (owned, held) = totals(&cluster.status().await?);
            (owned + held >= 2 * SESSIONS).then_some(())
        };
        wait_for("each session is held twice", copies).await;
        for route in ["r2", "r3"] {
            let killed = cluster.kill(route).await;
            for user in &mut users {
                user.count().await.unwrap();
            }
            cluster.back(route, killed, 4).await;
        }
        for user in &mut users {
            assert_eq!(user.count().await.unwrap().1, 4);
        }
    });
}

#[test]
fn a_failover_goes_to_the_node_that_has_the_copy() {
    story(async {
        let nodes = Nodes::start(4).await;
        let r1 = settled(nodes.listen, 4).await.nodes[0].http;
        let mut users = Vec::new();
        for _ in 0..24 {
            let mut user = Browser::new(r1);
            user.count().await.unwrap();
            let mut at_the_door = Browser::new(nodes.listen);
            at_the_door.cookies = user.cookies;
            users.push(at_the_door);
        }
        let report = status(nodes.listen).await.unwrap();
        let held = report.nodes.iter().map(|node| (node.route.to_string(), node.sessions.held));
        let held: BTreeMap<String, usize> = held.filter(|(_, held)| *held > 0).collect();
        assert_eq!(held.values().sum::<usize>(), users.len(), "every session on one node beside r1");
        assert_eq!(held.keys().collect::<Vec<_>>(), ["r2", "r3"], "its partners");
        // Nobody starts it again.
        cluster::send(nodes.nodes[0].pid(), Signal::KILL);
        let mut moved: BTreeMap<String, usize> = BTreeMap::new();
        for user in &mut users {
            let (node, count) = user.count().await.unwrap();
            assert_eq!(count, 2);
            *moved.entry(node).or_default() += 1;
        }
        assert_eq!(moved, held, "each went to the node that held it");
    });
}

/// Nodes and a balancer as an administrator starts them one by one.
struct Nodes {
    listen: SocketAddr,
    /// Where r1 is found.
    seed: String,
    nodes: Vec<Process>,
    _door: Process,
}

impl Nodes {
    async fn start(count: usize) -> Self {
        let place = |name: &str| Place::new().set("SESSION__MANAGER", "backup").set("CLUSTER__NAME", name);
        let first = place("backup");
        let mut nodes = vec![first.start(&["node", "--route", "r1"])];
        let seed = wait_for("r1 has a port", || std::future::ready(replication_port(&first.log()))).await;
        let knows_r1 = || place("backup").set("CLUSTER__PEERS", &seed);
        nodes.extend((2..=count).map(|n| knows_r1().start(&["node", "--route", &format!("r{n}")])));
        let door = knows_r1();
        let _door = door.start(&["balancer"]);
        let run = door.path("run");
        let listening = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await;
        Self { listen: listening.listen, seed, nodes, _door }
    }
}

fn totals(report: &StatusReport) -> (usize, usize) {
    let counts = report.nodes.iter().map(|node| node.sessions);
    counts.fold((0, 0), |(owned, held), counts| (owned + counts.owned, held + counts.held))
}

#[test]
fn nodes_that_are_given_different_managers_are_warned_of() {
    story(async {
        let nodes = Nodes::start(2).await;
        assert_eq!(settled(nodes.listen, 2).await.balancer.warnings, [""; 0]);
        let other = Place::new().set("SESSION__MANAGER", "full").set("CLUSTER__NAME", "backup");
        let _other = other.set("CLUSTER__PEERS", &nodes.seed).start(&["node", "--route", "r3"]);
        let warned = async || status(nodes.listen).await.map(|it| it.balancer.warnings).filter(|it| !it.is_empty());
        let warnings = wait_for("the difference is seen", warned).await;
        let manager =
            "session.manager has to be the same everywhere and is backup on r1, r2, this balancer; full on r3";
        assert_eq!(warnings, [manager]);
    });
}

#[test]
fn a_node_that_has_lost_all_others_says_that_its_writes_are_held_there_only() {
    story(async {
        let nodes = Nodes::start(2).await;
        settled(nodes.listen, 2).await;
        let mut user = Browser::new(nodes.listen);
        assert_eq!(user.get("/?plain").await.unwrap().header("tasuki-copies"), Some("2"));
        cluster::send(nodes.nodes[1].pid(), Signal::KILL);
        let warned = async || {
            // Whoever is left is asked until it has lost the other one.
            let mut window = user.window();
            window.count().await.ok()?;
            status(nodes.listen).await.map(|it| it.balancer.warnings).filter(|it| !it.is_empty())
        };
        let warnings = wait_for("the loss is told of", warned).await;
        assert_eq!(warnings, ["what is written on r1 is held there only: no other node is in sync"]);
        assert!(status(nodes.listen).await.unwrap().nodes[0].writes_alone > 0);
    });
}

#[test]
fn a_lonely_node_refuses_writes_and_goes_on_reading() {
    story(async {
        let place = pages(Place::new().set("CLUSTER__MIN_COPIES", "2"));
        let cluster = Cluster::up_in(place, 2).await;
        let mut browser = cluster.browser();
        let answer = browser.get("/add.txt").await.unwrap();
        let node = answer.header("tasuki-node").unwrap().to_owned();
        assert_eq!((answer.body.as_str(), answer.header("tasuki-copies")), ("1", Some("2")));
        let other = if node == "r1" { "r2" } else { "r1" };
        let pid = cluster.node(other).await.pid.unwrap();
        cluster::stop(pid).await;
        // The first one finds out, and is taken back, though it waits for the other node and may be heard of from there; the next
        // ones are refused before they are made.
        for _ in 0..4 {
            let refused = browser.get("/add.txt").await.unwrap();
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
            assert!(refused.header("retry-after").is_some());
            assert_eq!(refused.header("tasuki-retry"), None, "that is between our own");
        }
        let answer = browser.get("/add.txt").await.unwrap();
        assert!(answer.body.contains("too few of the servers"), "{}", answer.body);
        let read = browser.get("/look.txt").await.unwrap();
        assert_eq!((read.status, read.body.as_str()), (StatusCode::OK, "1"));
        let mut stranger = cluster.browser();
        assert_eq!(stranger.get("/add.txt").await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(stranger.cookies.is_empty(), "no session was made");
        assert_eq!(browser.get("/end.txt").await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(cluster.node(&node).await.writes_refused >= 6);
        cluster::send(pid, Signal::CONT);
        cluster.settled(2).await;
        let answer = browser.get("/add.txt").await.unwrap();
        assert!(["2", "3"].contains(&answer.body.as_str()), "only the first one was made at all, not {}", answer.body);
        assert_eq!(answer.header("tasuki-copies"), Some("2"));
        assert_eq!(browser.get("/end.txt").await.unwrap().status, StatusCode::OK);
        assert_eq!(browser.get("/look.txt").await.unwrap().body, "0");
    });
}

#[test]
fn a_session_that_is_not_distributable_stays_and_ends_with_its_node() {
    story(async {
        let place = Place::new().set("CLUSTER__MIN_COPIES", "2").set("SESSION__MANAGER", "backup");
        let place = pages(place);
        fs::remove_file(place.path("pages/ROOT/WEB-INF/web.xml")).unwrap();
        let cluster = Cluster::up_in(place, 2).await;
        let mut browser = cluster.browser();
        let first = browser.get("/add.txt").await.unwrap();
        assert_eq!((first.body.as_str(), first.header("tasuki-copies")), ("1", Some("1")), "min_copies is for others");
        let again = browser.get("/add.txt").await.unwrap();
        assert_eq!((again.body.as_str(), again.header("tasuki-node")), ("2", first.header("tasuki-node")));
        assert_eq!(totals(&cluster.status().await.unwrap()), (1, 0));
        let node = first.header("tasuki-node").unwrap();
        cluster.kill(node).await;
        let fresh = browser.get("/add.txt").await.unwrap();
        assert_eq!((fresh.status, fresh.body.as_str()), (StatusCode::OK, "1"));
        assert_ne!(fresh.header("tasuki-node"), Some(node));
    });
}

#[test]
fn without_the_dirty_flag_only_what_differs_is_sent_and_what_changed_in_place_is_caught() {
    story(async {
        let place = pages(Place::new().set("SESSION__DIRTY_FLAG", "false"));
        let root = place.path("pages/ROOT");
        fs::write(root.join("same.txt.j2"), "{% do session.set('same', 5) %}ok").unwrap();
        let cart = "{% if not session.has('cart') %}{% do session.set('cart', {'n': 0}) %}{% endif %}\
                    {% set cart = session.cart %}{% set cart.n = cart.n + 1 %}{{ cart.n }}";
        fs::write(root.join("cart.txt.j2"), cart).unwrap();
        let cluster = Cluster::up_in(place, 2).await;
        let mut browser = cluster.browser();
        assert_eq!(browser.get("/same.txt").await.unwrap().header("tasuki-copies"), Some("2"));
        assert_eq!(browser.get("/same.txt").await.unwrap().header("tasuki-copies"), None, "nothing was written");
        let mut node = String::new();
        for n in ["1", "2", "3"] {
            let answer = browser.get("/cart.txt").await.unwrap();
            assert_eq!((answer.body.as_str(), answer.header("tasuki-copies")), (n, Some("2")));
            node = answer.header("tasuki-node").unwrap().to_owned();
        }
        cluster.kill(&node).await;
        assert_eq!(browser.get("/cart.txt").await.unwrap().body, "4");
    });
}

#[test]
fn full_sends_everything_with_each_write_and_delta_what_has_changed() {
    story(async {
        for (manager, at_least, at_most) in [("full", 20_000, 30_000), ("delta", 1, 1_000)] {
            let place = pages(Place::new().set("SESSION__MANAGER", manager));
            let large = format!("{{% do session.set('large', '{}') %}}ok", "x".repeat(20_000));
            fs::write(place.path("pages/ROOT/large.txt.j2"), large).unwrap();
            let cluster = Cluster::up_in(place, 2).await;
            let mut browser = cluster.browser();
            browser.get("/large.txt").await.unwrap();
            // The first commit after it may be told whole by either.
            browser.get("/add.txt").await.unwrap();
            let sent = async || {
                let nodes = cluster.status().await.unwrap().nodes;
                nodes.iter().flat_map(|node| &node.peers).map(|peer| peer.sent_bytes).sum::<u64>()
            };
            let (before, writes) = (sent().await, 100);
            for n in 0..writes {
                assert_eq!(browser.get("/add.txt").await.unwrap().body, (n + 2).to_string());
            }
            // Leases and acknowledgements are in it.
            let a_write = (sent().await - before) / writes;
            assert!((at_least..at_most).contains(&a_write), "{manager}: {a_write} bytes a write");
        }
    });
}

#[test]
fn a_node_that_keeps_as_many_sessions_as_it_may_refuses_new_ones_and_says_so() {
    story(async {
        let cluster = Cluster::up_in(pages(Place::new().set("SESSION__MAX_SESSIONS", "3")), 1).await;
        let mut users = Vec::new();
        for _ in 0..3 {
            let mut user = cluster.browser();
            assert_eq!(user.get("/add.txt").await.unwrap().status, StatusCode::OK);
            users.push(user);
        }
        let mut newcomer = cluster.browser();
        let refused = newcomer.get("/add.txt").await.unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.body.contains("as many sessions as it can keep"), "{}", refused.body);
        assert!(refused.header("retry-after").is_some() && newcomer.cookies.is_empty());
        assert_eq!(newcomer.get("/look.txt").await.unwrap().status, StatusCode::OK, "that needs no session");
        assert_eq!(users[0].get("/add.txt").await.unwrap().body, "2", "those who have one go on");
        assert_eq!(cluster.node("r1").await.sessions_refused, 1);
        assert_eq!(users[0].get("/renew.txt").await.unwrap().body, "2", "a login changes the id and takes no room");
        assert_eq!(users[0].get("/add.txt").await.unwrap().body, "3");
        assert_eq!(users[2].get("/anew.txt").await.unwrap().body, "you have logged out");
        assert_eq!(users[2].get("/look.txt").await.unwrap().body, "0", "that one was ended");
        let log = cluster.place().log();
        assert!(
            log.contains("new sessions are refused: this node keeps as many as it may (session.max_sessions)"),
            "{log}"
        );
        assert_eq!(users[1].get("/end.txt").await.unwrap().status, StatusCode::OK);
        assert_eq!(newcomer.get("/add.txt").await.unwrap().body, "1", "one has ended");
    });
}

/// A webapp with a page that writes, one that reads and one that ends the session.
pub(crate) fn pages(place: Place) -> Place {
    let webapps = place.path("pages");
    let root = webapps.join("ROOT");
    fs::create_dir_all(root.join("WEB-INF")).unwrap();
    fs::write(root.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    fs::write(root.join("add.txt.j2"), "{{ session.add('n') }}").unwrap();
    fs::write(root.join("look.txt.j2"), "{{ session.get('n', 0) }}").unwrap();
    fs::write(root.join("end.txt.j2"), "{% do session.invalidate() %}ended").unwrap();
    fs::write(root.join("renew.txt.j2"), "{% do session.renew() %}{{ session.n }}").unwrap();
    let anew = "{% do session.invalidate() %}{% do session.set('said', 'you have logged out') %}{{ session.said }}";
    fs::write(root.join("anew.txt.j2"), anew).unwrap();
    place.set("NODE__WEBAPPS", &webapps.display().to_string())
}
