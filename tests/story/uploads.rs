//! Files in forms: from the user through the balancer to a page, into the session, to the other node. Whatever goes wrong,
//! nothing is left on the disk.

use std::{fs, path::Path};

use hyper::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    story,
    support::{
        browser::{Answer, Browser},
        cluster::{Cluster, Place},
        wait_for,
    },
};

const PAGE: &str = "\
{%- if request.method == 'POST' -%}
  {%- set file = request.file('f') -%}
  {%- do session.set('name', file.name) -%}
  {%- do session.set('file', file.bytes()) -%}
  {%- do session.set('note', request.field('note')) -%}
{%- endif -%}
{{ csrf_token() }} {{ session.name }} {{ session.file|length }} {{ session.note }}";

async fn cluster(nodes: usize) -> Cluster {
    let place = Place::new();
    let root = place.path("webapps/ROOT");
    fs::create_dir_all(root.join("WEB-INF")).unwrap();
    fs::write(root.join("index.txt.j2"), PAGE).unwrap();
    fs::write(root.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    let webapps = place.path("webapps").display().to_string();
    Cluster::up_in(place.set("NODE__WEBAPPS", &webapps).set("NODE__MAX_FILE_BYTES", "2000000"), nodes).await
}

/// Sends a form with a token, a text and one file.
async fn send(browser: &mut Browser, token: &str, file: &[u8]) -> Answer {
    browser.post_as("/index.txt", "multipart/form-data; boundary=XX", form(token, file)).await.unwrap()
}

fn form(token: &str, file: &[u8]) -> Vec<u8> {
    let field = |name, value| format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let head = "--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\r\n";
    let before = format!("{}{}{head}", field("_csrf", token), field("note", "申請"));
    [before.as_bytes(), file, b"\r\n--XX--\r\n"].concat()
}

async fn token(browser: &mut Browser) -> String {
    let answer = browser.get("/index.txt").await.unwrap();
    answer.body.split(' ').next().unwrap().to_owned()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = |path: std::path::PathBuf| if path.is_dir() { files(&path) } else { vec![path.display().to_string()] };
    entries.flat_map(|entry| below(entry.path())).collect()
}

#[test]
fn a_file_goes_into_the_session_and_outlives_its_node() {
    story(async {
        let cluster = cluster(2).await;
        let mut browser = cluster.browser();
        let token = token(&mut browser).await;
        let bytes: Vec<u8> = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
        let answer = send(&mut browser, &token, &bytes).await;
        assert!(answer.body.ends_with(" a.bin 900000 申請"), "{} {}", answer.status, &answer.body);
        let node = answer.header("tasuki-node").unwrap().to_owned();
        cluster.kill(&node).await;
        let after = browser.get("/index.txt").await.unwrap();
        assert!(after.body.ends_with(" a.bin 900000 申請"), "{} {}", after.status, after.body);
        assert_ne!(after.header("tasuki-node").unwrap(), node);
        assert_eq!(files(&cluster.place().path("run/uploads")), [] as [String; 0]);
    });
}

#[test]
fn a_file_is_taken_also_where_the_session_has_left() {
    story(async {
        let cluster = cluster(2).await;
        let mut browser = cluster.browser();
        let token = token(&mut browser).await;
        let small = send(&mut browser, &token, b"small").await;
        // A form that is open meanwhile: the session goes to the other node, and the cookie names the first.
        let node = small.header("tasuki-node").unwrap();
        for command in [&["drain", node, "--wait"][..], &["resume", node]] {
            let (code, said) = cluster.command(command).await;
            assert_eq!(code, Some(0), "{said}");
        }
        cluster.settled(2).await;
        for size in [900_000, 300_000] {
            let answer = send(&mut browser, &token, &vec![7; size]).await;
            assert!(answer.body.ends_with(&format!(" a.bin {size} 申請")), "{} {}", answer.status, answer.body);
        }
    });
}

#[test]
fn a_file_that_is_too_large_or_comes_without_the_token_is_answered_and_leaves_nothing() {
    story(async {
        let cluster = cluster(1).await;
        let mut browser = cluster.browser();
        let token = token(&mut browser).await;
        let large = vec![7; 3_000_000];
        let answer = send(&mut browser, &token, &large).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(answer.body.contains("A file has at most 2000000 bytes here."), "{}", answer.body);
        assert_eq!(send(&mut browser, "wrong", &large[..500_000]).await.status, StatusCode::FORBIDDEN);
        let refused = browser.post_as("/index.txt", "text/plain", b"x".to_vec()).await.unwrap();
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let after = browser.get("/index.txt").await.unwrap();
        assert!(after.body.ends_with("  0 "), "nothing was kept: {}", after.body);
        assert_eq!(files(&cluster.place().path("run/uploads")), [] as [String; 0]);
    });
}

/// The descriptors of a process that are files of that folder without a name.
fn open_files(pid: u32, folder: &Path) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|to| to.starts_with(folder)).count()
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_a_file_leaves_nothing() {
    story(async {
        let cluster = cluster(1).await;
        let pid = cluster.node("r1").await.pid.unwrap();
        let folder = cluster.place().path("run/uploads").canonicalize().unwrap_or(cluster.place().path("run/uploads"));
        let mut client = TcpStream::connect(cluster.listen).await.unwrap();
        let body = form("t", &vec![7; 1_000_000]);
        let head = format!(
            "POST /index.txt HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body[..600_000]).await.unwrap();
        wait_for("the file is open", || async { (open_files(pid, &folder) > 0).then_some(()) }).await;
        assert_eq!(files(&folder), [] as [String; 0], "it has no name");
        drop(client);
        wait_for("the file is closed", || async { (open_files(pid, &folder) == 0).then_some(()) }).await;
        let mut other = TcpStream::connect(cluster.listen).await.unwrap();
        other.write_all(b"GET /index.txt HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(" 200 OK"), "{answer}");
    });
}
