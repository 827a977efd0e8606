//! Pages that go wrong: the request suffers, the node does not. Static files that are the same wherever they are asked for.

use std::fs;

use hyper::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{Cluster, Place},
    },
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
fn a_session_begins_with_a_value_and_is_handed_to_its_user_only() {
    story(async {
        let pages = [
            ("nothing.txt.j2", "{% do session.set('n', 1) %}{% do session.remove('n') %}nothing"),
            ("public.txt.j2", "{% do response.header('Cache-Control', 'public, max-age=60') %}{{ session.add('n') }}"),
        ];
        for dirty_flag in ["true", "false"] {
            let cluster = with_pages_in(Place::new().set("SESSION__DIRTY_FLAG", dirty_flag), &pages).await;
            let mut browser = cluster.browser();
            assert_eq!(browser.get("/nothing.txt").await.unwrap().body, "nothing");
            assert!(browser.cookies.is_empty(), "dirty_flag = {dirty_flag}: {:?}", browser.cookies);
            let first = browser.get("/public.txt").await.unwrap();
            assert_eq!((first.body.as_str(), first.header("cache-control")), ("1", Some("no-store")));
            let second = browser.get("/public.txt").await.unwrap();
            assert_eq!((second.body.as_str(), second.header("cache-control")), ("2", Some("public, max-age=60")));
            let (_, token) = browser.cookies.iter().next().unwrap();
            let (id, _) = token.split_once('.').unwrap();
            let mut led = cluster.browser();
            // Where a browser takes no cookies this is its session, as it is behind httpd.
            assert_eq!(led.get(&format!("/public.txt;jsessionid={id}")).await.unwrap().body, "3");
            assert!(led.cookies.is_empty(), "who follows a link does not go on in another one's session");
        }
    });
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
fn a_static_file_is_the_same_on_every_node_and_through_the_balancer() {
    story(async {
        let cluster = Cluster::up(2).await;
        let nodes = cluster.settled(2).await.nodes;
        let mut tags = Vec::new();
        for address in nodes.iter().map(|node| node.http).chain([cluster.listen]) {
            let mut browser = Browser::new(address);
            browser.header = Some(("accept-encoding", "gzip"));
            let answer = browser.get("/style.css").await.unwrap();
            assert_eq!(answer.header("content-encoding"), Some("gzip"), "{address}");
            assert!(browser.cookies.is_empty(), "a static file begins no session");
            tags.push(answer.header("etag").unwrap().to_owned());
            browser.header = Some(("range", "bytes=0-9"));
            let part = browser.get("/style.css").await.unwrap();
            assert_eq!((part.status, part.body.len()), (StatusCode::PARTIAL_CONTENT, 10), "{address}");
            browser.header = Some(("if-none-match", "*"));
            let known = browser.get("/style.css").await.unwrap();
            assert_eq!((known.status, known.body.as_str()), (StatusCode::NOT_MODIFIED, ""), "{address}");
            let head = head(address, "/style.css").await;
            assert!(head.contains("content-length: ") && head.ends_with("\r\n\r\n"), "no byte of the body: {head}");
        }
        assert!(tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");
    });
}

/// Everything that a server sends for a HEAD request.
async fn head(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said.to_lowercase()
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
