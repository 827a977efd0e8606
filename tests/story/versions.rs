//! Versions of a webapp side by side: `shop##2` takes the new sessions, those of `shop##1` stay where they began.

use std::fs;

use crate::{
    story,
    support::{browser::Browser, cluster::Cluster, webapps::Webapps},
};

const DISTRIBUTABLE: (&str, &str) = ("WEB-INF/web.xml", "<web-app><distributable/></web-app>");

/// A version whose page and static file say which one it is.
fn put(webapps: &Webapps, archive: &str, version: &str) {
    let page = format!("{version} {{{{ session.add('count') }}}}");
    webapps.put(archive, &[("index.html.j2", &page), ("version.txt", version), DISTRIBUTABLE]);
}

async fn sees(browser: &mut Browser, path: &str, wanted: &str) {
    let answer = browser.get(path).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, wanted), "{path}");
}

/// The node that owns the browser's session, by its cookie.
fn route(browser: &Browser) -> String {
    browser.cookies["JSESSIONID"].split_once('.').unwrap().1.to_owned()
}

#[test]
fn a_session_stays_on_its_version_over_failover_until_that_is_removed() {
    story(async {
        let (webapps, place) = Webapps::new();
        put(&webapps, "shop##9.war", "nine");
        let cluster = Cluster::up_in(place, 2).await;
        let (mut old, mut new) = (cluster.browser(), cluster.browser());
        sees(&mut old, "/shop/", "nine 1").await;

        put(&webapps, "shop##10.war", "ten");
        cluster.webapp("shop##10", |it| it.version.is_some()).await;
        cluster.webapp("shop##9", |it| it.notes.iter().any(|note| note.contains("newer version"))).await;
        sees(&mut old, "/shop/", "nine 2").await;
        sees(&mut old, "/shop/version.txt", "nine").await;
        sees(&mut new, "/shop/", "ten 1").await;
        sees(&mut new, "/shop/version.txt", "ten").await;

        let killed = cluster.kill(&route(&old)).await;
        sees(&mut old, "/shop/", "nine 3").await;
        let back = if cluster.node("r1").await.pid.is_some_and(|pid| pid != killed) { "r2" } else { "r1" };
        cluster.back(back, killed, 2).await;
        sees(&mut old, "/shop/", "nine 4").await;

        fs::remove_file(webapps.path("shop##9.war")).unwrap();
        let gone = || async {
            let nodes = cluster.status().await?.nodes;
            nodes.iter().all(|node| node.webapps.iter().all(|it| it.name != "shop##9")).then_some(())
        };
        crate::support::wait_for("the old version is gone", gone).await;
        sees(&mut old, "/shop/", "ten 5").await;
        put(&webapps, "shop##9.war", "nine");
        cluster.webapp("shop##9", |it| it.version.is_some()).await;
        sees(&mut old, "/shop/", "ten 6").await;
    });
}

#[test]
fn a_session_leaves_a_version_that_is_superseded_for_too_long_and_a_broken_version_takes_nobody() {
    story(async {
        let (webapps, place) = Webapps::new();
        put(&webapps, "shop.war", "plain");
        let cluster = Cluster::up_in(place.set("NODE__VERSION_TIMEOUT", "0s"), 1).await;
        let mut browser = cluster.browser();
        sees(&mut browser, "/shop/", "plain 1").await;
        webapps.put("shop##3.war", &[("index.html.j2", "{% broken"), DISTRIBUTABLE]);
        cluster.webapp("shop##3", |it| it.error.is_some()).await;
        sees(&mut browser, "/shop/", "plain 2").await;
        put(&webapps, "shop##2.war", "two");
        cluster.webapp("shop##2", |it| it.version.is_some()).await;
        sees(&mut browser, "/shop/", "two 3").await;
        sees(&mut cluster.browser(), "/shop/", "two 1").await;
    });
}
