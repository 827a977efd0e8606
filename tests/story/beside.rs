//! Requests of one session side by side (`session.concurrency` = parallel): no page waits for another, and nothing is lost.

use std::{collections::BTreeSet, fs};

use hyper::StatusCode;

use crate::{
    story,
    support::{
        browser::{Answer, Browser, NoAnswer},
        cluster::{Cluster, Place},
    },
};

/// Adds, then takes its time, so that others run beside it, then says what it has seen.
const COUNT: &str = "{%- set n = session.add('n') -%}{%- for i in range(20000) %}{% endfor -%}{{ n }}";

/// Sets an attribute of its own.
const NOTE: &str = "{%- do session.set(request.query.name, 1) -%}{%- for i in range(20000) %}{% endfor -%}";

async fn cluster(nodes: usize, concurrency: &str) -> Cluster {
    let place = Place::new();
    let root = place.path("webapps/ROOT");
    fs::create_dir_all(root.join("WEB-INF")).unwrap();
    let parameter = format!(
        "<context-param><param-name>session.concurrency</param-name><param-value>{concurrency}</param-value></context-param>"
    );
    fs::write(root.join("WEB-INF/web.xml"), format!("<web-app><distributable/>{parameter}</web-app>")).unwrap();
    for (name, page) in [("count", COUNT), ("note", NOTE), ("see", "{{ session.n }} {{ session|length }}")] {
        fs::write(root.join(format!("{name}.txt.j2")), page).unwrap();
    }
    let webapps = place.path("webapps").display().to_string();
    Cluster::up_in(place.set("NODE__WEBAPPS", &webapps).set("NODE__WORKERS", "4"), nodes).await
}

/// So many requests of one session at once.
async fn at_once(browser: &Browser, paths: impl Iterator<Item = String>) -> Vec<Result<Answer, NoAnswer>> {
    let ask = |path: String| {
        let mut window = browser.window();
        tokio::task::spawn_local(async move { window.get(&path).await })
    };
    let asked: Vec<_> = paths.map(ask).collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.unwrap());
    }
    answers
}

async fn seen(browser: &mut Browser) -> String {
    browser.get("/see.txt").await.unwrap().body
}

#[test]
fn two_hundred_increments_side_by_side_count_two_hundred() {
    story(async {
        let cluster = cluster(2, "parallel").await;
        let mut browser = cluster.browser();
        browser.get("/count.txt").await.unwrap();
        let answers = at_once(&browser, (0..200).map(|_| "/count.txt".to_owned())).await;
        let shown: Vec<String> = answers.into_iter().map(|answer| answer.unwrap().body).collect();
        assert_eq!(seen(&mut browser).await, "201 1", "none was lost: {shown:?}");
        let different: BTreeSet<&String> = shown.iter().collect();
        assert!(different.len() < 200, "some ran beside each other, and began at the same number");
        let node = browser.get("/see.txt").await.unwrap().header("tasuki-node").unwrap().to_owned();
        cluster.kill(&node).await;
        assert_eq!(seen(&mut browser).await, "201 1", "and the other node has them all");
    });
}

#[test]
fn increments_that_wait_for_their_turn_see_a_number_each() {
    story(async {
        let cluster = cluster(2, "serial").await;
        let mut browser = cluster.browser();
        browser.get("/count.txt").await.unwrap();
        let answers = at_once(&browser, (0..50).map(|_| "/count.txt".to_owned())).await;
        let shown: BTreeSet<String> = answers.into_iter().map(|answer| answer.unwrap().body).collect();
        assert_eq!((shown.len(), seen(&mut browser).await.as_str()), (50, "51 1"));
    });
}

#[test]
fn what_pages_set_side_by_side_stays_together() {
    story(async {
        let cluster = cluster(2, "parallel").await;
        let mut browser = cluster.browser();
        browser.get("/count.txt").await.unwrap();
        let answers = at_once(&browser, (0..100).map(|n| format!("/note.txt?name=a{n}"))).await;
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap().status == StatusCode::OK));
        assert_eq!(seen(&mut browser).await, "1 101");
    });
}

/// Both nodes are asked directly, as by another front that knows nothing of owners, so the session goes back and forth under
/// pages that are being rendered. Nobody would ask again for them.
#[test]
fn a_session_that_is_taken_away_in_the_middle_comes_back_for_it() {
    story(async {
        let cluster = cluster(2, "parallel").await;
        let mut browser = cluster.browser();
        browser.get("/count.txt").await.unwrap();
        let asked = async |route: &str, windows: usize, rounds: usize| {
            let mut user = Browser::new(cluster.node(route).await.http);
            user.cookies = browser.cookies.clone();
            let mut others = 0;
            for _ in 0..rounds {
                let answers = at_once(&user, (0..windows).map(|_| "/count.txt".to_owned())).await;
                others += answers.iter().filter(|answer| answer.as_ref().unwrap().status != StatusCode::OK).count();
            }
            others
        };
        let refused = tokio::join!(asked("r1", 8, 50), asked("r2", 1, 100));
        assert_eq!(refused, (0, 0));
        assert_eq!(seen(&mut browser).await, "501 1");
    });
}

#[test]
fn what_was_answered_side_by_side_outlives_the_node() {
    story(async {
        let cluster = cluster(3, "parallel").await;
        let mut browser = cluster.browser();
        let first = browser.get("/count.txt").await.unwrap();
        let node = first.header("tasuki-node").unwrap().to_owned();
        let kill = cluster.kill(&node);
        let (answers, _) = tokio::join!(at_once(&browser, (0..100).map(|_| "/count.txt".to_owned())), kill);
        let answered =
            answers.iter().filter(|answer| answer.as_ref().is_ok_and(|it| it.status == StatusCode::OK)).count();
        let now = seen(&mut browser).await;
        let count: usize = now.split(' ').next().unwrap().parse().unwrap();
        // A request that its node may have done before it died is done again.
        assert!((answered + 1..=201).contains(&count), "{answered} of 100 were answered, and there are {now}");
    });
}
