//! The seeds' page: a number that grows with each visit, on one node.

use hyper::StatusCode;
use rustix::process::Signal;

use crate::{
    story,
    support::{
        chromium::{Chromium, Scheme},
        cluster::{Cluster, Place, send, stop},
    },
};

#[test]
fn the_counter_grows_and_stays_on_its_node() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        let answer = browser.get("/?plain").await.unwrap();
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        let (node, first) = answer.plain().unwrap();
        assert_eq!(answer.body, format!("[{node}]\n1\n"));
        assert_eq!((first, answer.header("tasuki-node")), (1, Some(node.as_str())));
        assert_eq!(answer.header("tasuki-copies"), Some("2"), "the write is held twice before the reply leaves");
        let cookie = answer.header("set-cookie").unwrap();
        for part in [&format!(".{node};"), "; HttpOnly", "; SameSite=Lax", "; Path=/"] {
            assert!(cookie.contains(part), "{cookie} has {part}");
        }
        for expected in 2..20 {
            assert_eq!(browser.count().await.unwrap(), (node.clone(), expected));
        }
    });
}

#[test]
fn new_users_are_spread_over_the_nodes() {
    story(async {
        // Of two nodes the one that is ready a moment later would get fewer users at first, and workers take turns each by
        // itself.
        let place = Place::new().set("BALANCER__SLOW_START", "0s").set("BALANCER__WORKERS", "1");
        let cluster = Cluster::up_in(place, 2).await;
        let mut on_r1 = 0;
        for _ in 0..20 {
            on_r1 += u32::from(cluster.browser().count().await.unwrap().0 == "r1");
        }
        assert_eq!(on_r1, 10, "equal weights, one after the other");
    });
}

#[test]
fn the_page_for_people_shows_the_number_the_node_and_the_cluster() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        let (node, _) = browser.count().await.unwrap();
        let page = browser.get("/").await.unwrap();
        assert_eq!(page.status, StatusCode::OK);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        for part in [">2<", &node, "r1", "r2", "kill -9"] {
            assert!(page.body.contains(part), "the page shows {part}");
        }
    });
}

#[test]
fn what_belongs_to_the_server_is_never_served() {
    story(async {
        let cluster = Cluster::up(2).await;
        let mut browser = cluster.browser();
        let hidden = [
            "/WEB-INF/web.xml",
            "/web-inf/web.xml",
            "/%57EB-INF/web.xml",
            "/index.html.j2",
            "/.tasuki/status",
            "/%2etasuki/status",
            "//.tasuki/status",
            "/../conf/tasuki.toml",
            "/%2e%2e/Cargo.toml",
        ];
        for path in hidden {
            let answer = browser.get(path).await.unwrap();
            let refused = [StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN];
            assert!(refused.contains(&answer.status), "{path} answers {}", answer.status);
        }
    });
}

#[test]
fn in_a_browser_the_number_goes_on_when_its_node_is_killed_in_either_language() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(2).await;
        window.look_like(360, 740, Scheme::Dark).await;
        window.open(&format!("http://{}/", cluster.listen)).await;
        for expected in ["1", "2"] {
            assert_eq!(window.text(".count").await, expected);
            window.click("a.button").await;
            window.until(&format!("document.querySelector('.count')?.textContent > {expected}")).await;
        }
        let node = window.text(".route").await;
        window.click("a[lang=ja]").await;
        window.until("document.documentElement.lang === 'ja'").await;
        assert_eq!(window.text(".count").await, "4");
        // Nobody starts it again at once.
        stop(cluster.pid()).await;
        let killed = cluster.kill(&node).await;
        window.click("a.button").await;
        window.until(&format!("(document.querySelector('.route')?.textContent ?? '{node}') !== '{node}'")).await;
        // A dying node may have counted as well, and its successor again.
        let count: u32 = window.text(".count").await.parse().unwrap();
        assert!((5..=6).contains(&count), "{count} after 4");
        assert!(window.text("html").await.contains("応答したノード"));
        assert_eq!(window.run("return document.documentElement.scrollWidth").await, 360, "nothing leaves the screen");
        window.picture("counter-narrow-dark").await;
        send(cluster.pid(), Signal::CONT);
        cluster.back(&node, killed, 2).await;
    });
}
