//! Pages that go wrong: the request suffers, the node does not.

use std::fs;

use hyper::StatusCode;

use crate::{
    story,
    support::cluster::{Cluster, Place},
};

/// A cluster of one node with these pages in `ROOT`.
async fn with_pages(pages: &[(&str, &str)]) -> Cluster {
    with_pages_in(Place::new(), pages).await
}

async fn with_pages_in(place: Place, pages: &[(&str, &str)]) -> Cluster {
    let root = place.path("webapps/ROOT");
    fs::create_dir_all(&root).unwrap();
    for (name, text) in pages {
        fs::write(root.join(name), text).unwrap();
    }
    let webapps = place.path("webapps").display().to_string();
    Cluster::up_in(place.set("NODE__WEBAPPS", &webapps), 1).await
}

#[test]
fn a_page_that_fails_or_never_ends_is_an_error_and_no_more() {
    story(async {
        let wraps = "{% set ns = namespace(x=[]) %}{% for i in range(24000) %}{% set ns.x = [ns.x] %}{% endfor %}";
        let deep = format!("{wraps}deep");
        let printed = format!("{wraps}{{{{ ns.x | tojson }}}}");
        let pages = [
            ("fails.html.j2", "{{ nobody.knows.this }}"),
            ("endless.html.j2", "{% for a in range(9000) %}{% for b in range(9000) %}x{% endfor %}{% endfor %}"),
            ("deep.txt.j2", deep.as_str()),
            ("printed.txt.j2", printed.as_str()),
            ("good.txt.j2", "{{ session.add('n') }}"),
        ];
        let cluster = with_pages(&pages).await;
        let before = cluster.node("r1").await.pid;
        let mut browser = cluster.browser();
        for page in ["/fails.html", "/endless.html"] {
            let answer = browser.get(page).await.unwrap();
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{page}");
            assert!(!answer.body.contains("nobody"), "the inside stays inside");
        }
        for page in ["/deep.txt", "/printed.txt"] {
            assert!(browser.get(page).await.unwrap().status != StatusCode::BAD_GATEWAY, "{page} kills its node");
        }
        assert_eq!(browser.get("/good.txt").await.unwrap().body, "1");
        assert_eq!(cluster.node("r1").await.pid, before, "the same process answers");
    });
}

#[test]
fn a_fault_is_told_to_the_log_and_to_its_developer_only() {
    story(async {
        let pages = [("index.txt.j2", "{% include '/part.txt.j2' %}"), ("part.txt.j2", "one\n{{ nobody.knows }}")];
        let of_users = with_pages(&pages).await;
        let answer = of_users.browser().get("/index.txt").await.unwrap();
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!answer.body.contains("part.txt"), "{}", answer.body);
        let number = answer.body.split("number: ").nth(1).unwrap()[..8].to_owned();
        let log = of_users.place().log();
        let line = log.lines().find(|line| line.contains(&number)).expect("the log has the number");
        assert!(line.contains("ROOT/part.txt.j2:2:4: ") && line.contains("(from ROOT/index.txt.j2:1"), "{line}");
        let of_developers = with_pages_in(Place::new().set("NODE__DEVELOPMENT", "true"), &pages).await;
        let answer = of_developers.browser().get("/index.txt").await.unwrap();
        for part in
            ["ROOT/part.txt.j2, line 2, column 4", "> 2 | {{ nobody.knows }}".replace('>', "&gt;").as_str(), "^^^^^^"]
        {
            assert!(answer.body.contains(part), "{part:?} in {}", answer.body);
        }
    });
}
