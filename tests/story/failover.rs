//! A node dies by kill -9, and no answered write with it.

use rustix::process::Signal;

use crate::{
    story,
    support::{
        cluster::{Cluster, send},
        load::Load,
    },
};

#[test]
fn the_number_goes_on_under_the_other_nodes_name() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        let (first, _) = browser.count().await.unwrap();
        let id = browser.cookies["JSESSIONID"].split('.').next().unwrap().to_owned();
        let killed = cluster.kill(&first).await;
        let (second, count) = browser.count().await.unwrap();
        assert_ne!(first, second);
        assert_eq!(count, 2);
        assert_eq!(browser.cookies["JSESSIONID"], format!("{id}.{second}"), "the id stays, the route changes");
        cluster.back(&first, killed, 2).await;
        assert_eq!(browser.count().await.unwrap(), (second.clone(), 3), "nobody moves back for no reason");
        cluster.kill(&second).await;
        assert_eq!(browser.count().await.unwrap(), (first, 4), "the restarted node had got every session");
    });
}

#[test]
fn a_killed_node_loses_no_answered_write() {
    story(async {
        let cluster = Cluster::up(2).await;
        let load = Load::start(cluster.listen, 16);
        for route in ["r1", "r2", "r1", "r2"] {
            load.progress(300).await;
            let killed = cluster.kill(route).await;
            load.progress(300).await;
            cluster.back(route, killed, 2).await;
        }
        load.finish().await.assert_whole();
    });
}

#[test]
fn three_nodes_carry_on_after_two_have_died_one_after_the_other() {
    story(async {
        let cluster = Cluster::up(3).await;
        let mut browser = cluster.browser();
        let mut expected = 0;
        let mut seen = Vec::new();
        for _ in 0..3 {
            expected += 1;
            let (node, count) = browser.count().await.unwrap();
            assert_eq!(count, expected);
            let killed = cluster.kill(&node).await;
            expected += 1;
            let (next, count) = browser.count().await.unwrap();
            assert_eq!(count, expected);
            assert_ne!(node, next);
            cluster.back(&node, killed, 3).await;
            seen.push(node);
        }
        assert_eq!(seen.len(), 3);
    });
}

#[test]
fn a_login_and_a_half_filled_form_survive() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        let login = browser.get("/request/login.html").await.unwrap();
        let token = csrf(&login.body);
        let before = browser.cookies["JSESSIONID"].clone();
        let answer =
            browser.post("/request/login.html", &format!("_csrf={token}&name=Hanako&password=tasuki")).await.unwrap();
        assert!(answer.status.is_redirection(), "{} {}", answer.status, answer.body);
        assert_ne!(browser.cookies["JSESSIONID"][..32], before[..32], "a login renews the id");
        let home = browser.get("/request/").await.unwrap();
        assert!(home.body.contains("Hanako"));
        let node = home.header("tasuki-node").unwrap().to_owned();
        cluster.kill(&node).await;
        let home = browser.get("/request/").await.unwrap();
        assert!(home.body.contains("Hanako"), "still logged in on {:?}", home.header("tasuki-node"));
        assert_ne!(home.header("tasuki-node"), Some(node.as_str()));
        let mut stolen = cluster.browser();
        stolen.cookies.insert("JSESSIONID".into(), before);
        let answer = stolen.get("/request/").await.unwrap();
        assert!(!answer.status.is_server_error(), "{}", answer.status);
        assert!(!answer.body.contains("Hanako"), "the old id is worth nothing");
    });
}

#[test]
fn an_id_that_nobody_has_given_out_never_becomes_a_session() {
    story(async {
        let cluster = Cluster::up(2).await;
        for route in ["r1", "r2", "r9"] {
            let mut browser = cluster.browser();
            let invented = "0123456789abcdef0123456789ABCDEF";
            browser.cookies.insert("JSESSIONID".into(), format!("{invented}.{route}"));
            for count in 1..=2 {
                assert_eq!(browser.count().await.unwrap().1, count);
                let given = browser.cookies["JSESSIONID"][..32].to_owned();
                assert!(!given.eq_ignore_ascii_case(invented), "{given}");
            }
        }
    });
}

#[test]
fn a_balancer_that_dies_costs_its_users_no_session_and_moves_none() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browsers = Vec::new();
        for _ in 0..6 {
            let mut browser = cluster.browser();
            let (owner, _) = browser.count().await.unwrap();
            browsers.push((browser, owner));
        }
        let load = Load::start(cluster.listen, 8);
        load.progress(300).await;
        send(cluster.status().await.unwrap().balancer.pid, Signal::KILL);
        load.everyone().await;
        for (browser, owner) in browsers {
            let mut browser = browser.window();
            assert_eq!(browser.count().await.unwrap(), (owner, 2), "on the node that has it");
        }
        let seen = load.finish().await;
        println!("{} answered, {} cut off, longest gap {:?}", seen.answered, seen.failed, seen.longest_gap);
        assert_eq!((seen.lost, seen.reset), (0, 0), "{:?}", seen.first_trouble);
    });
}

fn csrf(page: &str) -> &str {
    let field = page.split("name=\"_csrf\"").nth(1).expect("the form carries a token");
    field.split("value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("the token has a value")
}
