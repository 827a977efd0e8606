//! The real door on a free port, in front of small real HTTP servers that speak the contract between balancer and node.

#[path = "balancer/frames.rs"]
mod frames;
#[path = "balancer/http.rs"]
mod http;
#[path = "balancer/malformed.rs"]
mod malformed;
#[path = "balancer/tls.rs"]
mod tls;
#[path = "balancer/upstream.rs"]
mod upstream;

use std::{
    net::{SocketAddr, TcpListener},
    num::NonZero,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::ServerHandle,
    rt,
    web::{self, Bytes, Payload},
};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, client::conn::http1};
use hyper_util::rt::TokioIo;
use tasuki::{
    balancer::{self, Door, MemberReport, Observe, Standing},
    limits,
    membership::{Duty, Member, Role, Roster, RosterChanged},
    names::NodeId,
    settings::{self, Manager, Method, StaticMember},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ID: &str = "00112233445566778899AABBCCDDEEFF";
const DEADLINE: Duration = Duration::from_secs(5);

/// A small node: says who it is, what it was asked, and what it is told to say.
#[derive(Clone)]
struct Node {
    route: &'static str,
    address: SocketAddr,
    /// Answer to everything but the node's own endpoints; none for a page that names the route.
    retry: Arc<Mutex<Option<&'static str>>>,
    ready: Arc<Mutex<(u16, &'static str)>>,
    /// Requests executed.
    done: Arc<AtomicUsize>,
    handle: ServerHandle,
}

impl Node {
    fn start(route: &'static str) -> Self {
        Self::start_at(route, ([127, 0, 0, 1], 0).into())
    }

    fn start_at(route: &'static str, address: SocketAddr) -> Self {
        let (retry, done) = (Arc::<Mutex<Option<&'static str>>>::default(), Arc::<AtomicUsize>::default());
        let ready = Arc::new(Mutex::new((200, "")));
        let state = (route, retry.clone(), done.clone(), ready.clone());
        let server = HttpServer::new(move || {
            let state = state.clone();
            App::new().app_data(web::PayloadConfig::new(64 << 20)).default_service(web::to(
                move |request: HttpRequest, payload: Payload| node(state.clone(), request, payload),
            ))
        })
        .workers(1)
        .tcp_nodelay(true)
        .disable_signals()
        .shutdown_timeout(1)
        .bind(address)
        .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        rt::spawn(server);
        Self { route, address, retry, ready, done, handle }
    }

    fn says(&self, retry: Option<&'static str>) {
        *self.retry.lock().unwrap() = retry;
    }

    fn executed(&self) -> usize {
        self.done.load(SeqCst)
    }

    fn as_member(&self) -> StaticMember {
        fixed(self.route, self.address)
    }

    fn on_roster(&self, id: u64) -> Member {
        let role = Role::Node { route: self.route.parse().unwrap(), http: self.address, duty: Duty::Serving };
        Member { id: NodeId(id), address: self.address, role }
    }
}

type NodeState = (&'static str, Arc<Mutex<Option<&'static str>>>, Arc<AtomicUsize>, Arc<Mutex<(u16, &'static str)>>);

async fn node((route, retry, done, ready): NodeState, request: HttpRequest, mut payload: Payload) -> HttpResponse {
    if request.path() == "/ready" {
        let (status, word) = *ready.lock().unwrap();
        return HttpResponse::build(actix_web::http::StatusCode::from_u16(status).unwrap()).body(word);
    }
    let stays = request.headers().get("tasuki-attempt").is_some_and(|attempt| attempt == "stay");
    if let Some(retry) = *retry.lock().unwrap()
        && (stays || retry.starts_with("any"))
    {
        let words = format!("{route} says {retry}");
        return HttpResponse::ServiceUnavailable().insert_header(("tasuki-retry", retry)).body(words);
    }
    if request.path() == "/count" {
        let mut length = 0;
        while let Some(Ok(piece)) = payload.next().await {
            length += piece.len();
        }
        done.fetch_add(1, SeqCst);
        return HttpResponse::Ok().body(format!("{length}"));
    }
    let body = web::Bytes::from(payload.map(|piece| piece.unwrap_or_default()).collect::<Vec<Bytes>>().await.concat());
    done.fetch_add(1, SeqCst);
    match request.path() {
        "/large" => {
            let pieces = (0..320).map(|_| Ok::<_, actix_web::Error>(Bytes::from(vec![b'x'; 64 * 1024])));
            HttpResponse::Ok().no_chunking(320 * 64 * 1024).streaming(stream::iter(pieces.collect::<Vec<_>>()))
        }
        "/chunked" => HttpResponse::Ok().streaming(stream::iter([Ok::<_, actix_web::Error>(Bytes::from("chunked"))])),
        "/nothing" => HttpResponse::NoContent().finish(),
        "/short" => {
            rt::time::sleep(Duration::from_millis(500)).await;
            HttpResponse::Ok().finish()
        }
        "/slow" => {
            rt::time::sleep(Duration::from_secs(30)).await;
            HttpResponse::Ok().finish()
        }
        "/error" => HttpResponse::InternalServerError().insert_header(("x-route", route)).body("broken"),
        "/.tasuki/duty" => HttpResponse::NoContent().finish(),
        _ => {
            let mut heads: Vec<String> =
                request.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap_or("?"))).collect();
            heads.sort();
            HttpResponse::Ok().insert_header(("x-route", route)).body(format!(
                "{}\n{}\n{}",
                request.method(),
                heads.join("\n"),
                String::from_utf8_lossy(&body)
            ))
        }
    }
}

fn fixed(route: &str, address: SocketAddr) -> StaticMember {
    StaticMember { address, route: route.parse().unwrap(), weight: 50, standby: false, set: 0 }
}

fn settings(members: Vec<StaticMember>) -> settings::Balancer {
    settings::Balancer {
        membership: 0,
        listen: ([127, 0, 0, 1], 0).into(),
        method: Method::ByRequests,
        sticky: true,
        failover: true,
        forced_recovery: true,
        timeout: Duration::from_millis(500),
        read_timeout: Duration::from_secs(60),
        max_attempts: NonZero::new(3).unwrap(),
        retry_timeout: None,
        retry_percent: 20,
        retry: Duration::from_secs(2),
        health_interval: Duration::from_secs(2),
        health_fall: NonZero::new(3).unwrap(),
        health_rise: NonZero::new(2).unwrap(),
        member_connections: NonZero::new(1_024).unwrap(),
        queue: 1_024,
        queue_timeout: Duration::from_secs(2),
        fail_on_status: vec![],
        fail_on_timeout: false,
        max_ejected_percent: 50,
        slow_start: Duration::ZERO,
        sorry_page: None,
        trusted_proxies: vec![],
        max_body_bytes: 1 << 30,
        retry_body_bytes: 64 * 1024,
        restart_timeout: Duration::from_secs(60),
        workers: NonZero::new(1).unwrap(),
        members,
        manager: Manager {
            listen: None,
            path: "/balancer-manager".into(),
            allow: vec!["127.0.0.0/8".parse().unwrap()],
        },
        tls: None,
        local: settings::Static::default(),
    }
}

/// Opens the door and waits until every member has been looked at.
async fn open(members: Vec<StaticMember>) -> Door {
    open_with(settings(members)).await
}

async fn open_with(settings: settings::Balancer) -> Door {
    let count = settings.members.len();
    let door = balancer::start(&settings, &settings::Session::default(), Duration::from_secs(1)).unwrap();
    wait_for(&door, |members| members.len() == count && members.iter().all(|m| m.standing != Standing::Coming)).await;
    door
}

async fn wait_for(door: &Door, condition: impl Fn(&[MemberReport]) -> bool) {
    let begun = Instant::now();
    loop {
        let members = door.balancer.send(Observe).await.unwrap();
        if condition(&members) {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "not in time: {members:?}");
        rt::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Reply {
    status: u16,
    headers: hyper::HeaderMap,
    body: Bytes,
}

impl Reply {
    fn route(&self) -> &str {
        self.headers.get("x-route").map_or("", |route| route.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn send(door: &Door, request: Request<Full<Bytes>>) -> Reply {
    let response = raw(door, request).await;
    let (head, body) = response.into_parts();
    Reply { status: head.status.as_u16(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}

async fn raw(door: &Door, request: Request<Full<Bytes>>) -> Response<hyper::body::Incoming> {
    let socket = TcpStream::connect(door.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    rt::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    rt::spawn(async move {
        let _ = sender.ready().await;
    });
    response
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

async fn get(door: &Door, path: &str, headers: &[(&str, &str)]) -> Reply {
    send(door, request("GET", path, headers, "")).await
}

fn cookie(route: &str) -> String {
    format!("JSESSIONID={ID}.{route}")
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A member made of bytes: it answers health checks, and hands over every other connection when its first head was read.
async fn bare_member(mut serve: impl FnMut(TcpStream) + 'static) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    rt::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while upstream::find(&head, b"\r\n\r\n").is_none() && matches!(socket.read_buf(&mut head).await, Ok(1..)) {}
            if head.starts_with(b"GET /ready ") {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            } else {
                serve(socket);
            }
        }
    });
    address
}

/// A member that reads each request and then closes without a word; says how many it read.
async fn silent_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::<AtomicUsize>::default();
    let count = seen.clone();
    let address = bare_member(move |_| {
        count.fetch_add(1, SeqCst);
    });
    (address.await, seen)
}

#[actix_web::test]
async fn a_session_stays_and_new_ones_are_spread() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    for route in ["r1", "r2"] {
        for _ in 0..5 {
            let reply = get(&door, "/", &[("cookie", &cookie(route))]).await;
            assert_eq!((reply.status, reply.route()), (200, route));
            assert!(reply.text().contains("tasuki-attempt: stay"));
        }
    }
    let reply = get(&door, &format!("/a;jsessionid={ID}.r2"), &[("cookie", &cookie("r1"))]).await;
    assert_eq!(reply.route(), "r2", "the path parameter wins");
    let mut routes = Vec::new();
    for _ in 0..6 {
        routes.push(get(&door, "/", &[]).await.route().to_string());
    }
    assert_eq!(routes.iter().filter(|route| *route == "r1").count(), 3, "{routes:?}");
}

#[actix_web::test]
async fn a_refused_connection_goes_to_another_member_any_method() {
    let r1 = Node::start("r1");
    let members = vec![r1.as_member(), fixed("r2", nobody())];
    let door = open(members).await;
    for method in ["GET", "POST", "PATCH", "DELETE"] {
        let reply = send(&door, request(method, "/", &[("cookie", &cookie("r2"))], "body")).await;
        assert_eq!((reply.status, reply.route()), (200, "r1"), "{method}");
        assert!(reply.text().contains("tasuki-attempt: move"), "{method}");
        assert!(reply.text().ends_with("body"), "{method}");
    }
}

/// Waits until a stopped server has closed its connections, which it does a moment after it says that it has stopped: a
/// POST that is written in that moment may have been executed, and is rightly answered with 502. State 01 of proc(5) is
/// ESTABLISHED.
async fn closed(port: u16) {
    let local = format!(":{port:04X}");
    let is_open = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|address| address.ends_with(&local)) && fields.get(3) == Some(&"01")
    };
    let start = Instant::now();
    while std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(is_open) {
        assert!(start.elapsed() < DEADLINE, "port {port} still has connections");
        rt::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_web::test]
async fn a_member_that_dies_between_two_requests_is_not_noticed_by_the_client() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r1"))]).await.route(), "r1");
    r1.handle.stop(false).await;
    closed(r1.address.port()).await;
    for method in ["POST", "GET", "POST"] {
        let reply = send(&door, request(method, "/", &[("cookie", &cookie("r1"))], "x")).await;
        assert_eq!((reply.status, reply.route()), (200, "r2"), "{method}");
    }
    wait_for(&door, |members| members[0].standing == Standing::Failed).await;
    let back = Node::start_at("r1", r1.address);
    wait_for(&door, |members| members[0].standing == Standing::Usable).await;
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r1"))]).await.route(), "r1");
    assert_eq!(back.executed(), 1);
}

#[actix_web::test]
async fn a_post_that_may_have_been_executed_is_never_repeated() {
    let r2 = Node::start("r2");
    let (address, seen) = silent_server().await;
    let door = open(vec![fixed("r1", address), r2.as_member()]).await;
    let reply = send(&door, request("POST", "/", &[("cookie", &cookie("r1"))], "pay")).await;
    assert_eq!(reply.status, 502);
    assert_eq!((seen.load(SeqCst), r2.executed()), (1, 0));
    let reply = get(&door, "/", &[("cookie", &cookie("r1"))]).await;
    assert_eq!((reply.status, reply.route()), (200, "r2"), "a GET goes on");
}

#[actix_web::test]
async fn a_slow_member_is_left_for_another_one_or_said_to_be_slow() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    let reply = send(&door, request("POST", "/slow", &[("cookie", &cookie("r1"))], "x")).await;
    assert_eq!(reply.status, 504);
    assert_eq!(r2.executed(), 0, "the POST may still be running");
    // A GET is tried on the other member too, which is as slow.
    let reply = get(&door, "/slow", &[("cookie", &cookie("r1"))]).await;
    assert_eq!((reply.status, r2.executed()), (504, 1));
}

#[actix_web::test]
async fn what_one_member_may_have_done_is_not_said_to_be_undone_because_another_one_refuses() {
    let r2 = Node::start("r2");
    r2.says(Some("any;not-done"));
    for other in [fixed("r2", nobody()), r2.as_member()] {
        let (address, seen) = silent_server().await;
        let door = open(vec![fixed("r1", address), other]).await;
        let reply = get(&door, "/", &[("cookie", &cookie("r1"))]).await;
        assert_eq!((reply.status, seen.load(SeqCst)), (502, 1), "{}", reply.text());
    }
}

#[actix_web::test]
async fn not_done_here_is_followed_with_its_body() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    r1.says(Some("r2"));
    let post = || request("POST", "/", &[("cookie", &cookie("r1"))], "the whole body");
    let reply = send(&door, post()).await;
    assert_eq!((reply.status, reply.route()), (200, "r2"));
    assert!(reply.text().contains("tasuki-attempt: stay") && reply.text().ends_with("the whole body"));
    r1.says(Some("any"));
    let reply = send(&door, post()).await;
    assert_eq!((reply.status, reply.route()), (200, "r2"));
    assert!(reply.text().contains("tasuki-attempt: move") && reply.text().ends_with("the whole body"));
    assert_eq!(r1.executed(), 0);
}

#[actix_web::test]
async fn an_owner_that_died_meanwhile_leaves_the_session_to_the_one_that_named_it() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member(), fixed("r2", nobody())]).await;
    r1.says(Some("r2"));
    let reply = get(&door, "/", &[("cookie", &cookie("r1"))]).await;
    assert_eq!((reply.status, reply.route()), (200, "r1"));
    assert!(reply.text().contains("tasuki-attempt: move"));
}

#[actix_web::test]
async fn members_that_send_requests_round_in_circles_are_left_in_the_end() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    r1.says(Some("r2"));
    r2.says(Some("r1"));
    let reply = get(&door, "/", &[("cookie", &cookie("r1"))]).await;
    assert_eq!(reply.status, 503);
    assert!(reply.headers.get("tasuki-retry").is_none());
}

#[actix_web::test]
async fn a_write_without_copies_goes_to_another_node_and_the_clearest_words_to_the_client() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    let cookie = cookie("r1");
    let post = async || send(&door, request("POST", "/", &[("cookie", &cookie)], "x")).await;
    r1.says(Some("any;not-done"));
    assert_eq!((post().await.route(), r1.executed(), r2.executed()), ("r2", 0, 1));
    r2.says(Some("any;not-done"));
    let reply = post().await;
    assert_eq!((reply.status, reply.text().as_str()), (503, "r2 says any;not-done"));
    assert!(reply.headers.get("tasuki-retry").is_none());
    r1.says(Some("any;in-doubt"));
    assert_eq!(get(&door, "/", &[("cookie", &cookie)]).await.text(), "r1 says any;in-doubt", "it may have been done");
}

#[actix_web::test]
async fn a_draining_member_gets_nothing_and_its_sessions_move() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    *r1.ready.lock().unwrap() = (503, "draining");
    r1.says(Some("any"));
    get(&door, "/", &[("cookie", &cookie("r1"))]).await;
    wait_for(&door, |members| members[0].standing == Standing::Draining).await;
    r1.says(None);
    for _ in 0..4 {
        assert_eq!(get(&door, "/", &[]).await.route(), "r2", "new sessions go elsewhere");
    }
    let reply = get(&door, "/", &[("cookie", &cookie("r1"))]).await;
    assert_eq!(reply.route(), "r2");
    assert!(reply.text().contains("tasuki-attempt: move"));
    assert_eq!(r1.executed(), 0);
    *r1.ready.lock().unwrap() = (200, "");
    wait_for(&door, |members| members[0].standing == Standing::Usable).await;
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r1"))]).await.route(), "r1");
}

#[actix_web::test]
async fn nobody_left_means_the_sorry_page_and_recovery_needs_no_help() {
    let address = nobody();
    let door = open(vec![fixed("r1", address)]).await;
    let reply = get(&door, "/", &[]).await;
    assert_eq!((reply.status, reply.headers["retry-after"].to_str().unwrap()), (503, "5"));
    assert!(reply.text().contains("ただいまメンテナンス中です"));
    let reply = get(&door, "/sorry.html", &[]).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("ただいまメンテナンス中です"));
    Node::start_at("r1", address);
    assert_eq!(get(&door, "/", &[]).await.route(), "r1", "failed members are tried when nobody else is left");
}

#[actix_web::test]
async fn nodes_come_and_go_with_the_roster() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![]).await;
    assert_eq!(get(&door, "/", &[]).await.status, 503);
    let tell = |members| door.roster.do_send(RosterChanged(Arc::new(Roster { members, discovered: true })));
    tell(vec![r1.on_roster(1), r2.on_roster(2)]);
    wait_for(&door, |members| members.len() == 2).await;
    let reply = get(&door, "/", &[("cookie", &cookie("r2"))]).await;
    assert_eq!(reply.route(), "r2", "a request waits for the first health check");
    tell(vec![r1.on_roster(1)]);
    wait_for(&door, |members| members.len() == 1).await;
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r2"))]).await.route(), "r1");
    tell(vec![r1.on_roster(9)]);
    wait_for(&door, |members| members[0].elected == 0 && members[0].standing == Standing::Usable).await;
    assert_eq!(get(&door, "/", &[]).await.route(), "r1", "a new life under the same route");
}

#[actix_web::test]
async fn by_traffic_a_member_that_carries_much_gets_no_new_sessions_for_a_while() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let members = vec![r1.as_member(), r2.as_member()];
    let door = open_with(settings::Balancer { method: Method::ByTraffic, ..settings(members) }).await;
    let mut begun = Vec::new();
    for _ in 0..10 {
        begun.push(get(&door, "/", &[]).await.route().to_string());
    }
    assert_eq!(begun.iter().filter(|route| *route == "r1").count(), 5, "{begun:?}");
    assert_eq!(get(&door, "/large", &[("cookie", &cookie("r1"))]).await.body.len(), 20 << 20);
    for _ in 0..10 {
        assert_eq!(get(&door, "/", &[]).await.route(), "r2");
    }
    assert_eq!(
        send(&door, request("POST", "/count", &[("cookie", &cookie("r2"))], vec![b'x'; 30 << 20])).await.status,
        200
    );
    for _ in 0..10 {
        assert_eq!(get(&door, "/", &[]).await.route(), "r1", "both directions count");
    }
    let members = door.balancer.send(Observe).await.unwrap();
    assert!(members[0].bytes_out > 20 << 20 && members[0].bytes_in == 0, "{members:?}");
    assert_eq!(members[1].bytes_in, 30 << 20);
}

#[actix_web::test]
async fn a_higher_set_stands_in_for_a_lower_one_and_stands_back() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), StaticMember { set: 1, ..r2.as_member() }]).await;
    for _ in 0..4 {
        assert_eq!(get(&door, "/", &[]).await.route(), "r1");
    }
    r1.handle.stop(false).await;
    closed(r1.address.port()).await;
    for session in [vec![], vec![("cookie", cookie("r1"))]] {
        let headers: Vec<_> = session.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(get(&door, "/", &headers).await.route(), "r2");
    }
    wait_for(&door, |members| members[0].standing == Standing::Failed).await;
    Node::start_at("r1", r1.address);
    wait_for(&door, |members| members[0].standing == Standing::Usable).await;
    assert_eq!(get(&door, "/", &[]).await.route(), "r1");
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r2"))]).await.route(), "r2", "a session stays where it is");
}

#[actix_web::test]
async fn a_member_that_comes_back_gets_few_new_sessions_and_all_of_its_own() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let members = vec![r1.as_member(), r2.as_member()];
    let slow_start = Duration::from_secs(600);
    let door = open_with(settings::Balancer { slow_start, ..settings(members) }).await;
    let warm = async || door.balancer.send(Observe).await.unwrap().iter().map(|m| m.warm_percent).collect::<Vec<_>>();
    assert_eq!(warm().await, [100, 100], "the first start is not slow");
    r1.handle.stop(false).await;
    closed(r1.address.port()).await;
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r1"))]).await.route(), "r2");
    wait_for(&door, |members| members[0].standing == Standing::Failed).await;
    Node::start_at("r1", r1.address);
    wait_for(&door, |members| members[0].standing == Standing::Usable).await;
    let mut new = Vec::new();
    for _ in 0..40 {
        assert_eq!(get(&door, "/", &[("cookie", &cookie("r1"))]).await.route(), "r1");
        new.push(get(&door, "/", &[]).await.route().to_string());
    }
    assert!(new.iter().filter(|route| *route == "r1").count() <= 2, "{new:?}");
    assert!(warm().await[0] <= 10 && warm().await[1] == 100);
}

#[actix_web::test]
async fn a_member_of_many_errors_is_left_out_for_a_time_and_never_the_last_one() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let strict = settings::Balancer {
        fail_on_status: vec![500],
        fail_on_timeout: true,
        retry: Duration::from_millis(300),
        ..settings(vec![r1.as_member(), r2.as_member()])
    };
    let door = open_with(strict).await;
    let ask = async |path: &str, route: &str| get(&door, path, &[("cookie", &cookie(route))]).await;
    for path in ["/error", "/error", "/", "/error", "/error"] {
        assert_eq!(ask(path, "r1").await.route(), "r1", "not in a row");
    }
    assert_eq!(ask("/error", "r1").await.status, 500, "the answer is the member's own");
    wait_for(&door, |members| members[0].ejected && members[0].standing == Standing::Failed).await;
    for _ in 0..9 {
        let reply = ask("/error", "r2").await;
        assert_eq!((reply.status, reply.route()), (500, "r2"));
    }
    let members = door.balancer.send(Observe).await.unwrap();
    assert!(!members[1].ejected && members[1].standing == Standing::Usable, "{members:?}");
    wait_for(&door, |members| members[0].standing == Standing::Usable).await;
    assert_eq!(ask("/", "r1").await.route(), "r1");
    for _ in 0..3 {
        assert_eq!(send(&door, request("POST", "/slow", &[("cookie", &cookie("r1"))], "")).await.status, 504);
    }
    wait_for(&door, |members| members[0].ejected).await;
}

/// Occupies a member until the body is ended with [`let_go`].
async fn occupy(door: &Door, route: &str) -> TcpStream {
    let mut client = TcpStream::connect(door.address).await.unwrap();
    let cookie = cookie(route);
    let head = format!("POST /count HTTP/1.1\r\nhost: x\r\ncookie: {cookie}\r\ntransfer-encoding: chunked\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    wait_for(door, |members| members.iter().any(|member| member.route.as_str() == route && member.busy == 1)).await;
    client
}

async fn let_go(client: &mut TcpStream) {
    client.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(client, "\r\n\r\n0").await;
}

#[actix_web::test]
async fn a_full_member_has_a_queue_and_a_full_queue_is_answered_503() {
    let r1 = Node::start("r1");
    let narrow = settings::Balancer {
        member_connections: NonZero::<usize>::MIN,
        queue: 1,
        queue_timeout: DEADLINE,
        timeout: DEADLINE,
        ..settings(vec![r1.as_member()])
    };
    let door = Arc::new(open_with(narrow).await);
    let mut first = occupy(&door, "r1").await;
    let behind = door.clone();
    let second = rt::spawn(async move { get(&behind, "/", &[]).await });
    wait_for(&door, |members| members[0].waiting == 1).await;
    for session in [vec![], vec![("cookie", cookie("r1"))]] {
        let headers: Vec<_> = session.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = get(&door, "/", &headers).await;
        assert_eq!((reply.status, reply.headers["retry-after"].to_str().unwrap()), (503, "5"));
        assert!(reply.text().contains("混み合っています"), "{}", reply.text());
    }
    assert_eq!(r1.executed(), 0);
    let_go(&mut first).await;
    assert_eq!(second.await.unwrap().status, 200, "it had waited");
    assert_eq!(get(&door, "/", &[]).await.status, 200);
    wait_for(&door, |members| (members[0].busy, members[0].waiting) == (0, 0)).await;
    let status = get(&door, "/balancer-manager/status.json", &[]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["balancer"]["refusals"]["queue_full"], 2);
}

#[actix_web::test]
async fn a_wait_in_the_queue_ends_and_new_sessions_do_not_wait_where_another_member_has_room() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let narrow = settings::Balancer {
        member_connections: NonZero::<usize>::MIN,
        queue_timeout: Duration::from_millis(100),
        timeout: DEADLINE,
        ..settings(vec![r1.as_member(), r2.as_member()])
    };
    let door = open_with(narrow).await;
    let mut first = occupy(&door, "r1").await;
    for _ in 0..4 {
        assert_eq!(get(&door, "/", &[]).await.route(), "r2");
    }
    let begun = Instant::now();
    let reply = get(&door, "/", &[("cookie", &cookie("r1"))]).await;
    assert_eq!(reply.status, 503, "its session is at r1");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let_go(&mut first).await;
    wait_for(&door, |members| members[0].busy == 0).await;
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r1"))]).await.route(), "r1");
}

#[actix_web::test]
async fn who_waits_for_a_member_that_drains_goes_elsewhere() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let narrow = settings::Balancer {
        member_connections: NonZero::<usize>::MIN,
        queue_timeout: DEADLINE,
        timeout: DEADLINE,
        health_interval: Duration::from_millis(50),
        ..settings(vec![r1.as_member(), r2.as_member()])
    };
    let door = Arc::new(open_with(narrow).await);
    let _first = occupy(&door, "r1").await;
    let behind = door.clone();
    let second = rt::spawn(async move { get(&behind, "/", &[("cookie", &cookie("r1"))]).await });
    wait_for(&door, |members| members[0].waiting == 1).await;
    *r1.ready.lock().unwrap() = (503, "draining");
    assert_eq!(second.await.unwrap().route(), "r2");
    assert_eq!(r1.executed(), 0);
}

#[actix_web::test]
async fn what_may_have_been_done_is_not_repeated_for_ever() {
    let r2 = Node::start("r2");
    let (address, seen) = silent_server().await;
    let limited = settings::Balancer {
        retry_percent: 0,
        health_fall: NonZero::new(1_000).unwrap(),
        ..settings(vec![fixed("r1", address), r2.as_member()])
    };
    let door = open_with(limited).await;
    let mut last = 0;
    for _ in 0..limits::RETRY_RESERVE + 20 {
        last = get(&door, "/", &[("cookie", &cookie("r1"))]).await.status;
        if last != 200 {
            break;
        }
    }
    assert_eq!(last, 502);
    assert_eq!(
        (seen.load(SeqCst), r2.executed()),
        (limits::RETRY_RESERVE as usize + 1, limits::RETRY_RESERVE as usize)
    );
    let status = get(&door, "/balancer-manager/status.json", &[]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["balancer"]["refusals"]["not_repeated"], 1);
}

#[actix_web::test]
async fn a_body_above_the_limit_is_refused_announced_or_not() {
    let r1 = Node::start("r1");
    let small = settings::Balancer { max_body_bytes: 1_000, ..settings(vec![r1.as_member()]) };
    let door = open_with(small).await;
    assert_eq!(send(&door, request("POST", "/count", &[], vec![b'x'; 1_000])).await.text(), "1000");
    assert_eq!(send(&door, request("POST", "/count", &[], vec![b'x'; 1_001])).await.status, 413);
    let mut client = TcpStream::connect(door.address).await.unwrap();
    let chunk = "x".repeat(600);
    let body = format!("258\r\n{chunk}\r\n258\r\n{chunk}\r\n0\r\n\r\n");
    let head = "POST /count HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let answer = read_until(&mut client, "</html>\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    wait_for(&door, |members| members[0].busy == 0).await;
    let members = door.balancer.send(Observe).await.unwrap();
    assert_eq!((members[0].standing, members[0].failed), (Standing::Usable, 0), "it is the client's fault");
    let status = get(&door, "/balancer-manager/status.json", &[]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["balancer"]["refusals"]["body_too_large"], 2);
}

#[actix_web::test]
async fn forwarding_headers_are_set_and_private_ones_end_at_the_door() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let headers = [
        ("x-forwarded-for", "6.6.6.6"),
        ("tasuki-attempt", "move"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("te", "trailers"),
        ("x-mine", "kept"),
    ];
    let seen = get(&door, "/", &headers).await.text();
    for line in ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-forwarded-host: 127.0.0.1", "x-mine: kept"]
    {
        assert!(seen.contains(line), "{line} is missing in {seen}");
    }
    for line in ["6.6.6.6", "x-secret", "te: ", "tasuki-attempt: move", "connection"] {
        assert!(!seen.contains(line), "{line} is in {seen}");
    }
}

#[actix_web::test]
async fn bodies_of_20_mb_stream_both_ways() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let large = Bytes::from(vec![b'y'; 20 << 20]);
    let reply = send(&door, request("POST", "/count", &[], large)).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "20971520"));
    let reply = get(&door, "/large", &[]).await;
    assert_eq!((reply.status, reply.body.len()), (200, 20 << 20));
    assert_eq!(reply.headers["content-length"], "20971520", "the length is passed on, not chunked");
}

#[actix_web::test]
async fn lengths_are_told_as_http_wants_them() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let reply = send(&door, request("HEAD", "/large", &[], "")).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.headers["content-length"], "20971520");
    let reply = get(&door, "/nothing", &[]).await;
    assert_eq!(reply.status, 204);
    assert!(!reply.headers.contains_key("content-length") && !reply.headers.contains_key("transfer-encoding"));
    let reply = get(&door, "/chunked", &[]).await;
    assert_eq!(reply.text(), "chunked");
    assert_eq!(reply.headers["transfer-encoding"], "chunked");
}

#[actix_web::test]
async fn connections_to_members_are_used_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = accepted.clone();
    rt::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let count = count.clone();
            rt::spawn(async move {
                let mut head = vec![0; 65_536];
                let mut first = true;
                while let Ok(read @ 1..) = socket.read(&mut head).await {
                    if std::mem::take(&mut first) && !head[..read].starts_with(b"GET /ready ") {
                        count.fetch_add(1, SeqCst);
                    }
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
                }
            });
        }
    });
    let door = open(vec![fixed("r1", address)]).await;
    for _ in 0..20 {
        assert_eq!(get(&door, "/", &[]).await.text(), "hello");
        assert_eq!(send(&door, request("POST", "/", &[], "x")).await.text(), "hello");
    }
    assert_eq!(accepted.load(SeqCst), 1);
}

#[actix_web::test]
async fn a_client_that_goes_away_takes_the_request_with_it() {
    let (told, closed) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let address = bare_member(move |mut socket| {
        let told = told.take();
        rt::spawn(async move {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
            // End of the stream, or a reset: the door has let go.
            let _ = socket.read(&mut [0; 1]).await;
            told.map(|told| told.send(()));
        });
    })
    .await;
    let door = open(vec![fixed("r1", address)]).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = vec![0; 4_096];
    assert!(client.read(&mut head).await.unwrap() > 0);
    drop(client);
    tokio::time::timeout(DEADLINE, closed).await.expect("the member was not told in time").unwrap();
}

#[actix_web::test]
async fn the_nodes_own_paths_and_odd_methods_stay_at_the_door() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    for path in ["/.tasuki/duty", "/%2etasuki/duty", "//.tasuki/duty", "/a/../.tasuki/duty", "/.tasuki;x/duty"] {
        let reply = send(&door, request("POST", path, &[("tasuki-control", "1")], "{}")).await;
        assert_eq!(reply.status, 404, "{path}");
    }
    assert_eq!(send(&door, request("TRACE", "/", &[], "")).await.status, 405);
    assert_eq!(send(&door, request("BREW", "/", &[], "")).await.status, 501);
    for (line, status) in [
        ("CONNECT example.org:443", 501),
        ("GET example.org:443", 400),
        ("GET ftp://example.org/", 400),
        ("GET *", 400),
        ("GET http://example.org/.tasuki/status", 404),
    ] {
        let mut client = TcpStream::connect(door.address).await.unwrap();
        client.write_all(format!("{line} HTTP/1.1\r\nhost: example.org\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "</html>\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
    }
    assert_eq!(r1.executed(), 0);
}

#[actix_web::test]
async fn a_later_head_that_never_ends_is_not_waited_for() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    for _ in 0..2 {
        client.write_all(b"GET /count HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        read_until(&mut client, "\r\n\r\n0").await;
    }
    let began = Instant::now();
    let (mut reading, mut writing) = client.split();
    let drip = async {
        // One byte at a time: an attacker is never idle.
        loop {
            let _ = writing.write_all(b"G").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = reading.read_to_end(&mut rest) => {}
        () = tokio::time::sleep(limits::HEAD_TIMEOUT + DEADLINE) => panic!("the connection is still open"),
    }
    assert!(began.elapsed() >= limits::HEAD_TIMEOUT - Duration::from_millis(100), "an honest client had no time");
    assert_eq!(get(&door, "/", &[]).await.status, 200);
    assert_eq!(refusals(&door).await["client_timeout"], 1);
}

#[actix_web::test]
async fn a_body_that_comes_byte_by_byte_is_not_waited_for_for_ever() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    // Above and below what is read whole before a member is asked.
    let clients = [1_000_000, 1_000].map(async |length| {
        let mut client = TcpStream::connect(door.address).await.unwrap();
        let head = format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = client.split();
        let drip = async {
            loop {
                let _ = writing.write_all(b"x").await;
                rt::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let mut answer = String::new();
        let longest = limits::CLIENT_STALL.max(limits::SMALL_BODY_TIMEOUT) + DEADLINE;
        tokio::select! {
            () = drip => {}
            _ = reading.read_to_string(&mut answer) => {}
            () = rt::time::sleep(longest) => panic!("{length}: still waited for"),
        }
        assert!(answer.starts_with("HTTP/1.1 408"), "{length}: {answer:?}");
    });
    futures_util::future::join_all(clients).await;
    wait_for(&door, |members| members[0].busy == 0).await;
    assert_eq!(refusals(&door).await["client_timeout"], 2);
}

#[actix_web::test]
async fn a_client_that_rests_is_answered_again_and_a_stop_does_not_wait_for_it() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    for _ in 0..3 {
        client.write_all(b"POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
        read_until(&mut client, "\r\n\r\n3").await;
        // The client's own pause. That it rests shows nowhere, and whether it does already makes no difference to it.
        rt::time::sleep(limits::CLIENT_REST + Duration::from_millis(200)).await;
    }
    let begun = Instant::now();
    let stopped = rt::spawn(door.stop(DEADLINE));
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "closed, not cut");
    stopped.await.unwrap();
    assert!(begun.elapsed() < DEADLINE, "it waited for a client that says nothing");
}

async fn refusals(door: &Door) -> serde_json::Value {
    of_balancer(door, "refusals").await
}

/// What the manager tells of the balancer itself.
async fn of_balancer(door: &Door, what: &str) -> serde_json::Value {
    let status = get(door, "/balancer-manager/status.json", &[]).await;
    serde_json::from_slice::<serde_json::Value>(&status.body).unwrap()["balancer"][what].take()
}

#[actix_web::test]
async fn what_is_refused_before_it_is_a_request_is_counted_once() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    let good = "GET /count HTTP/1.1\r\nhost: x\r\n\r\n";
    let wide = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(200 * 1024));
    let broken = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nnothing\r\n";
    for (request, status) in [
        ("GET / HTTP/1.1\r\nx : y\r\n\r\n", "400"),
        ("GET /%%% HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", "400"),
        (broken, "400"),
        (&wide, "431"),
        ("", "408"),
    ] {
        for before in ["", good] {
            if request.is_empty() && !before.is_empty() {
                continue; // an idle connection is no refusal
            }
            let mut client = TcpStream::connect(door.address).await.unwrap();
            if !before.is_empty() {
                client.write_all(before.as_bytes()).await.unwrap();
                read_until(&mut client, "\r\n\r\n0").await;
            }
            let _ = client.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            let longest = limits::HEAD_TIMEOUT + DEADLINE;
            let _ = tokio::time::timeout(longest, client.read_to_end(&mut answer)).await.expect("it is not refused");
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{status} after {before:?}: {answer}");
        }
    }
    let counted = refusals(&door).await;
    assert_eq!((&counted["bad_request"], &counted["headers_too_large"]), (&6.into(), &2.into()), "{counted}");
    assert_eq!(counted["client_timeout"], 1, "{counted}");
}

#[actix_web::test]
async fn a_body_that_breaks_off_does_not_hang_and_is_nobodys_fault() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member()]).await;
    for length in [10, 1_000_000] {
        let mut client = TcpStream::connect(door.address).await.unwrap();
        let head = format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\nhalf");
        client.write_all(head.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, client.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection hangs");
        assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    }
    wait_for(&door, |members| members[0].busy == 0).await;
    let members = door.balancer.send(Observe).await.unwrap();
    assert_eq!((members[0].standing, members[0].failed), (Standing::Usable, 0));
}

#[actix_web::test]
async fn a_websocket_passes_through() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    rt::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = vec![0; 65_536];
            let read = socket.read(&mut buffer).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
            if !head.contains("upgrade: websocket") || !head.contains("sec-websocket-key: k") {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                continue;
            }
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nearly";
            socket.write_all(switch).await.unwrap();
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                socket.write_all(&buffer[..read].to_ascii_uppercase()).await.unwrap();
            }
        }
    });
    let door = open(vec![fixed("r1", address)]).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    let head =
        "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut client, "early").await;
    for word in ["hello", "again"] {
        client.write_all(word.as_bytes()).await.unwrap();
        let seen = read_until(&mut client, &word.to_uppercase()).await;
        assert!(!seen.contains("\r\n"), "chunked: {seen}");
    }
    client.shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, client.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    wait_for(&door, |members| members[0].busy == 0).await;
}

async fn read_until(client: &mut TcpStream, wanted: &str) -> String {
    let (mut seen, mut buffer) = (String::new(), [0; 4_096]);
    while !seen.ends_with(wanted) {
        let read = tokio::time::timeout(DEADLINE, client.read(&mut buffer)).await;
        let read = read.unwrap_or_else(|_| panic!("no {wanted} in {seen}")).unwrap();
        assert!(read > 0, "ended without {wanted}: {seen}");
        seen += &String::from_utf8_lossy(&buffer[..read]);
    }
    seen
}

/// The kernel's timers of these connections, as proc(5) has them: 2 is the one of SO_KEEPALIVE.
#[actix_web::test]
async fn the_kernel_looks_after_clients_that_say_nothing() {
    let door = open(vec![]).await;
    let client = TcpStream::connect(door.address).await.unwrap();
    let (near, far) =
        (format!(":{:04X}", door.address.port()), format!(":{:04X}", client.local_addr().unwrap().port()));
    let begun = Instant::now();
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut ours = fields.filter(|fields| fields[1].ends_with(&near) && fields[2].ends_with(&far));
        if ours.next().is_some_and(|fields| fields[5].starts_with("02:")) {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "not watched: {table}");
        rt::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_web::test]
async fn the_manager_is_open_to_this_machine_only() {
    let r1 = Node::start("r1");
    let door = open(vec![r1.as_member(), fixed("r2", nobody())]).await;
    let base = "/balancer-manager";
    let page = get(&door, base, &[]).await;
    assert_eq!(page.status, 200);
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let status: serde_json::Value =
        serde_json::from_slice(&get(&door, &format!("{base}/status.json"), &[]).await.body).unwrap();
    assert_eq!(status["nodes"][0]["state"], "ready");
    assert_eq!(status["nodes"][1]["state"], "failed");
    assert_eq!(status["balancer"]["listen"], door.address.to_string());
    for (name, value) in [("host", "evil.example"), ("x-forwarded-for", "1.2.3.4")] {
        let mut request = request("GET", base, &[], "");
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(send(&door, request).await.status, 403, "{name}");
    }
    let post =
        |path: &str, headers: &[(&str, &str)]| send(&door, request("POST", &format!("{base}{path}"), headers, ""));
    let control = [("tasuki-control", "1")];
    assert_eq!(post("/members/r1/drain", &[]).await.status, 403);
    let reply = post("/members/r9/drain", &control).await;
    assert_eq!(reply.status, 404);
    assert!(reply.text().contains("\"error\""));
    assert_eq!(post("/members/r1/weight/101", &control).await.status, 400);
    assert_eq!(get(&door, &format!("{base}/members/r1/drain"), &control).await.status, 405);
    assert_eq!(post("/members/r1/drain", &control).await.status, 202);
    wait_for(&door, |members| members[0].standing == Standing::Draining).await;
}

#[actix_web::test]
async fn what_is_set_of_a_member_holds_at_once_and_the_way_back_too() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    let post = async |path: &str| {
        let path = format!("/balancer-manager/members/{path}");
        assert_eq!(send(&door, request("POST", &path, &[("tasuki-control", "1")], "")).await.status, 202, "{path}");
    };
    let new_ones = async || {
        let mut counts = [0; 2];
        for _ in 0..12 {
            counts[usize::from(get(&door, "/", &[]).await.route() == "r2")] += 1;
        }
        counts
    };
    post("r1/weight/100").await;
    post("r2/weight/20").await;
    assert_eq!(new_ones().await, [10, 2]);
    post("r1/standby/on").await;
    assert_eq!(new_ones().await, [0, 12]);
    let members = door.balancer.send(Observe).await.unwrap();
    let differs: Vec<_> = members[0].differs.iter().map(ToString::to_string).collect();
    assert_eq!(differs, ["weight 100 (file: 50)", "standby on (file: off)"]);
    post("r1/reset").await;
    post("r2/reset").await;
    assert_eq!(new_ones().await, [6, 6]);
    // A server that is no node: its sessions cannot move, so they stay until it is disabled.
    post("r1/drain").await;
    assert_eq!(new_ones().await, [0, 12]);
    assert_eq!(get(&door, "/", &[("cookie", &cookie("r1"))]).await.route(), "r1");
    post("r1/disable").await;
    let moved = get(&door, "/", &[("cookie", &cookie("r1"))]).await;
    assert_eq!((moved.route(), moved.text().contains("tasuki-attempt: move")), ("r2", true));
    r2.handle.stop(false).await;
    wait_for(&door, |members| members[1].standing == Standing::Failed).await;
    assert_eq!(get(&door, "/", &[]).await.status, 503, "a disabled member gets nothing, whoever is left");
    post("r1/resume").await;
    assert_eq!(get(&door, "/", &[]).await.route(), "r1");
}

#[actix_web::test]
async fn a_form_of_the_manager_is_taken_from_its_own_page_only() {
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let door = open(vec![r1.as_member(), r2.as_member()]).await;
    let page = get(&door, "/balancer-manager", &[]).await;
    let set = page.headers["set-cookie"].to_str().unwrap();
    assert!(set.contains("SameSite=Strict") && set.contains("HttpOnly"), "{set}");
    let cookie = set.split(';').next().unwrap();
    let text = page.text();
    let nonce = text.split("name=\"nonce\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let form = |order: &str| format!("nonce={nonce}&route=r1&order={order}");
    let own = [("origin", "http://127.0.0.1"), ("cookie", cookie)];
    let post = async |headers: &[(&str, &str)], form: String| {
        let kind = ("content-type", "application/x-www-form-urlencoded");
        let headers: Vec<_> = headers.iter().copied().chain([kind]).collect();
        send(&door, request("POST", "/balancer-manager/", &headers, form)).await
    };
    for (headers, form, status) in [
        (&own[1..], form("disable"), 403),
        (&own[..1], form("disable"), 403),
        (&[("origin", "http://evil.example"), ("cookie", cookie)][..], form("disable"), 403),
        (&own, form("disable").replace(nonce, "00"), 403),
        (&own, form("explode"), 400),
        (&own, form("weight") + "&weight=101", 400),
        (&own, "nonsense".into(), 400),
        (&own, form("disable").replace("r1", "r9"), 404),
    ] {
        assert_eq!(post(headers, form.clone()).await.status, status, "{headers:?} {form}");
    }
    let members = door.balancer.send(Observe).await.unwrap();
    assert!(members.iter().all(|member| member.differs.is_empty()), "{members:?}");
    let reply = post(&own, form("weight") + "&weight=7").await;
    assert_eq!(
        (reply.status, &reply.headers["location"]),
        (303, &"/balancer-manager/?done=weight&route=r1".parse().unwrap())
    );
    let reply = post(&[own[0], own[1], ("accept", "application/json")], form("standby/on")).await;
    assert_eq!((reply.status, &reply.text()[..]), (202, "{\"accepted\":\"r1\"}"));
    let report: serde_json::Value =
        serde_json::from_slice(&get(&door, "/balancer-manager?json", &[]).await.body).unwrap();
    assert_eq!((&report["members"][0]["weight"], &report["members"][0]["standby"]), (&7.into(), &true.into()));
    let sent = send(&door, request("POST", "/", &[("cookie", "a=b")], "12345")).await;
    assert_eq!((sent.status, sent.route()), (200, "r2"));
    let counted: serde_json::Value =
        serde_json::from_slice(&get(&door, "/balancer-manager/json", &[]).await.body).unwrap();
    let r2 = &counted["members"][1];
    assert_eq!((&r2["bytes_in"], &r2["answered"], &r2["server_errors"]), (&5.into(), &1.into(), &0.into()));
    assert_eq!(r2["bytes_out"], sent.body.len());
}

#[actix_web::test]
async fn what_is_set_is_there_after_a_restart_of_the_balancer() {
    let folder = tempfile::tempdir().unwrap();
    let r1 = Node::start("r1");
    let open = || {
        let (settings, session) = (settings(vec![r1.as_member()]), settings::Session::default());
        let (sockets, kept) = (balancer::Sockets::bind(&settings).unwrap(), balancer::Kept::of(folder.path()));
        balancer::prepare(&settings, &session, DEADLINE, sockets, Some(kept)).unwrap().open().unwrap()
    };
    let door = open();
    let drain = request("POST", "/balancer-manager/members/r1/drain", &[("tasuki-control", "1")], "");
    assert_eq!(send(&door, drain).await.status, 202);
    door.stop(DEADLINE).await;
    let door = open();
    wait_for(&door, |members| members[0].standing == Standing::Draining).await;
    door.stop(DEADLINE).await;
    std::fs::write(folder.path().join("members.json"), "{\"version\":1,\"mem").unwrap();
    let door = open();
    wait_for(&door, |members| members[0].standing == Standing::Usable).await;
    assert!(folder.path().join("members.json.damaged-1").exists());
    std::fs::remove_dir_all(folder.path()).unwrap();
    std::fs::write(folder.path(), "a file where a folder should be").unwrap();
    let drain = request("POST", "/balancer-manager/members/r1/drain", &[("tasuki-control", "1")], "");
    let reply = send(&door, drain).await;
    assert_eq!(reply.status, 202, "a full disk is no reason to go on with a member that has to go");
    assert!(reply.text().contains("\"warning\":\"it holds until the balancer ends"), "{}", reply.text());
}

/// A pipe without a writer: to open it hangs, as a disk may.
#[actix_web::test]
async fn a_disk_that_hangs_stops_no_health_check_and_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let (settings, session) = (settings(vec![r1.as_member(), r2.as_member()]), settings::Session::default());
    let (sockets, kept) = (balancer::Sockets::bind(&settings).unwrap(), balancer::Kept::of(folder.path()));
    let door = balancer::prepare(&settings, &session, DEADLINE, sockets, Some(kept)).unwrap().open().unwrap();
    wait_for(&door, |members| members.iter().all(|member| member.standing == Standing::Usable)).await;
    let pipe = folder.path().join("members.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let drain = request("POST", "/balancer-manager/members/r1/drain", &[("tasuki-control", "1")], "");
    let reply = tokio::time::timeout(DEADLINE, send(&door, drain)).await.expect("the disk is waited for");
    assert_eq!(reply.status, 202);
    assert!(reply.text().contains("\"warning\":\"it holds until the balancer ends"), "{}", reply.text());
    r2.handle.stop(false).await;
    wait_for(&door, |members| (members[0].standing, members[1].standing) == (Standing::Draining, Standing::Failed))
        .await;
    drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
}

#[actix_web::test]
async fn what_is_set_while_another_process_starts_is_known_to_both() {
    let folder = tempfile::tempdir().unwrap();
    let (r1, r2) = (Node::start("r1"), Node::start("r2"));
    let prepare = || {
        let (settings, session) = (settings(vec![r1.as_member(), r2.as_member()]), settings::Session::default());
        let (sockets, kept) = (balancer::Sockets::bind(&settings).unwrap(), balancer::Kept::of(folder.path()));
        balancer::prepare(&settings, &session, DEADLINE, sockets, Some(kept)).unwrap()
    };
    let disable = async |door: &Door, route: &str| {
        let path = format!("/balancer-manager/members/{route}/disable");
        assert_eq!(send(door, request("POST", &path, &[("tasuki-control", "1")], "")).await.status, 202);
    };
    let old = prepare().open().unwrap();
    let starting = prepare(); // it has read what was kept: nothing
    disable(&old, "r1").await;
    let new = starting.open().unwrap();
    // At once: what the new one keeps must not be without what it has not read yet.
    disable(&new, "r2").await;
    for door in [&old, &new] {
        wait_for(door, |members| members.iter().all(|member| member.standing == Standing::Disabled)).await;
    }
}

#[actix_web::test]
async fn a_manager_that_nobody_may_open_is_closed() {
    let manager = Manager { allow: vec![], ..Manager::default() };
    let door = open_with(settings::Balancer { manager, ..settings(vec![]) }).await;
    for path in ["/balancer-manager", "/balancer-manager/status.json", "/%62alancer-manager"] {
        assert_eq!(get(&door, path, &[]).await.status, 403, "{path}");
    }
}

#[actix_web::test]
async fn a_manager_with_an_address_of_its_own_is_nowhere_else() {
    let r1 = Node::start("r1");
    let manager = Manager { listen: Some(([127, 0, 0, 1], 0).into()), ..Manager::default() };
    let mut door = open_with(settings::Balancer { manager, ..settings(vec![r1.as_member()]) }).await;
    let drain = || request("POST", "/balancer-manager/members/r1/drain", &[("tasuki-control", "1")], "");
    for path in ["/balancer-manager", "/balancer-manager/status.json", "/%62alancer-manager", "/balancer-manager/../x"]
    {
        assert_eq!(get(&door, path, &[]).await.status, 404, "{path}");
    }
    assert_eq!(send(&door, drain()).await.status, 404);
    assert_eq!(get(&door, "/", &[]).await.route(), "r1");
    let users = std::mem::replace(&mut door.address, door.manager.unwrap());
    let status = get(&door, "/balancer-manager/status.json", &[]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["balancer"]["listen"], users.to_string());
    let before = r1.executed();
    for path in ["/", "/sorry.html", "/x/balancer-manager"] {
        assert_eq!(get(&door, path, &[]).await.status, 404, "{path}");
    }
    assert_eq!(r1.executed(), before, "no user's request comes this way");
    assert_eq!(send(&door, drain()).await.status, 202);
}

#[actix_web::test]
async fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let error =
        balancer::start(&settings::Balancer { listen, ..settings(vec![]) }, &settings::Session::default(), DEADLINE);
    let text = error.err().unwrap().to_string();
    assert!(text.contains(&listen.to_string()), "{text}");
    let sorry_page = Some("/does/not/exist.html".into());
    let error = balancer::start(
        &settings::Balancer { sorry_page, ..settings(vec![]) },
        &settings::Session::default(),
        DEADLINE,
    );
    assert!(error.err().unwrap().to_string().contains("/does/not/exist.html"));
}

#[actix_web::test]
async fn a_graceful_stop_finishes_what_runs_and_takes_nothing_new() {
    let r1 = Node::start("r1");
    let door = open_with(settings::Balancer { timeout: DEADLINE, ..settings(vec![r1.as_member()]) }).await;
    let address = door.address;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"POST /count HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
    wait_for(&door, |members| members[0].busy == 1).await;
    let stopping = rt::spawn(door.stop(DEADLINE));
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < DEADLINE, "still accepting");
        rt::time::sleep(Duration::from_millis(5)).await;
    }
    client.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('2'), "{answer}");
    stopping.await.unwrap();
}

#[actix_web::test]
async fn a_path_that_is_excluded_from_proxying_is_answered_from_a_folder_without_any_member() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("logo.svg"), "<svg/>").unwrap();
    let node = Node::start("r1");
    let local = settings::Static { path: "/static".into(), folder: Some(folder.path().into()) };
    let door = open_with(settings::Balancer { local, ..settings(vec![node.as_member()]) }).await;
    for _ in 0..2 {
        let logo = get(&door, "/static/logo.svg", &[]).await;
        assert_eq!((logo.status, &logo.body[..]), (200, &b"<svg/>"[..]));
        assert_eq!(get(&door, "/static/none.svg", &[]).await.status, 404);
        assert_eq!(get(&door, "/%73tatic/../static/none", &[]).await.status, 404, "never forwarded");
        node.handle.stop(false).await;
    }
    assert_eq!(node.done.load(SeqCst), 0);
    assert_eq!(get(&door, "/elsewhere", &[]).await.status, 503);
}
