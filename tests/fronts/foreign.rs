//! Other HTTP servers behind tasuki's balancer: servers that keep their own sessions and add a route of their own to the
//! cookie, as a Tomcat with `jvmRoute` does.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    rc::Rc,
};

use tasuki::settings::Listening;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, spawn_local},
};

use crate::{
    house::by_path,
    story,
    support::{
        browser::Browser,
        cluster::{Place, Process},
        wait_for,
    },
};

/// A small server in the manner of Tomcat: `JSESSIONID=<id>.<jvmRoute>`, sessions in its own memory, and no idea of tasuki.
struct Tomcat {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Sessions {
    counts: HashMap<String, u64>,
    made: u64,
}

impl Tomcat {
    async fn start(route: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = Rc::<RefCell<Sessions>>::default();
        let accepting = spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                spawn_local(serve(stream, route, sessions.clone()));
            }
        });
        Self { address, accepting }
    }
}

async fn serve(mut stream: TcpStream, route: &str, sessions: Rc<RefCell<Sessions>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let answer = answer(&head, route, &mut sessions.borrow_mut());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The counter page; anything else is 404, and so is whatever a balancer may want to know of a tasuki node.
fn answer(head: &str, route: &str, sessions: &mut Sessions) -> String {
    let target = head.split(' ').nth(1).unwrap_or_default();
    let path = target.split(['?', ';']).next().unwrap_or_default();
    if path != "/" && path != "/index.html" {
        return "HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n".to_owned();
    }
    let by_path = target.split_once(";jsessionid=").map(|(_, rest)| rest.split('?').next().unwrap_or_default());
    let cookies = head.lines().filter_map(|line| line.to_lowercase().strip_prefix("cookie:").map(|_| &line[7..]));
    let by_cookie = cookies.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix("JSESSIONID="));
    let asked = by_path.or(by_cookie).map(|session| session.split('.').next().unwrap_or_default().to_owned());
    let known = asked.filter(|id| sessions.counts.contains_key(id));
    let mut set_cookie = String::new();
    let id = known.unwrap_or_else(|| {
        sessions.made += 1;
        // No id of one server is known to another.
        let server: u64 = route.bytes().map(u64::from).sum();
        let id = format!("{:0>32X}", (server << 32) + sessions.made * 7_919);
        set_cookie = format!("Set-Cookie: JSESSIONID={id}.{route}; Path=/; HttpOnly\r\n");
        id
    });
    let count = sessions.counts.entry(id).or_default();
    *count += 1;
    let body = format!("[{route}]\n{count}\n");
    format!("HTTP/1.1 200 \r\nContent-Type: text/plain\r\n{set_cookie}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A balancer before servers with these routes.
pub(crate) async fn door(place: &Place, tomcats: &[(&str, SocketAddr)]) -> (Process, SocketAddr) {
    let member = |(route, address): &(&str, SocketAddr)| {
        format!("[[balancer.member]]\nurl = \"http://{address}\"\nroute = \"{route}\"\n")
    };
    std::fs::write(place.path("t.toml"), tomcats.iter().map(member).collect::<String>()).unwrap();
    let process = place.start(&["balancer", "--config", "t.toml"]);
    let run = place.path("run");
    let listen = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await.listen;
    wait_for("both members are used", || async {
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            seen.insert(Browser::new(listen).count().await.ok()?.0);
        }
        (seen.len() == tomcats.len()).then_some(())
    })
    .await;
    (process, listen)
}

#[test]
fn a_tomcat_behind_tasuki_keeps_its_users_by_its_own_route() {
    story(async {
        let (one, two) = (Tomcat::start("tomcat1").await, Tomcat::start("tomcat2").await);
        let place = Place::new();
        let (_balancer, listen) = door(&place, &[("tomcat1", one.address), ("tomcat2", two.address)]).await;
        users_stay(listen).await;
    });
}

/// Users are spread over two servers, and each stays at its own.
pub(crate) async fn users_stay(listen: SocketAddr) {
    let mut homes = BTreeSet::new();
    for _ in 0..6 {
        let mut browser = Browser::new(listen);
        let (home, count) = browser.count().await.unwrap();
        assert_eq!(count, 1);
        let cookie = browser.cookies["JSESSIONID"].clone();
        assert!(cookie.ends_with(&format!(".{home}")), "{cookie}");
        for wanted in 2..=5 {
            assert_eq!(browser.count().await.unwrap(), (home.clone(), wanted));
        }
        assert_eq!(browser.cookies["JSESSIONID"], cookie, "the balancer leaves the cookie as it is");
        let answer = by_path(listen, &cookie).await;
        assert_eq!(answer.plain(), Some((home.clone(), 6)), "by the path too");
        homes.insert(home);
    }
    assert_eq!(homes.len(), 2, "new users are spread");
}

#[test]
fn when_a_tomcat_goes_its_users_go_on_with_a_new_session_at_the_other() {
    story(async {
        let (one, two) = (Tomcat::start("tomcat1").await, Tomcat::start("tomcat2").await);
        let place = Place::new();
        let (_balancer, listen) = door(&place, &[("tomcat1", one.address), ("tomcat2", two.address)]).await;
        let mut browser = Browser::new(listen);
        let (home, _) = browser.count().await.unwrap();
        let (gone, other) = if home == "tomcat1" { (one, "tomcat2") } else { (two, "tomcat1") };
        gone.accepting.abort();
        wait_for("nobody listens there", || async { TcpStream::connect(gone.address).await.err() }).await;
        // Its open connections still answer; a new user's request finds that there are no new ones.
        let (node, count) = wait_for("it moves", || async {
            let counted = Browser::new(listen);
            let mut window = counted;
            window.cookies.clone_from(&browser.cookies);
            window.count().await.ok().filter(|(node, _)| node == other)
        })
        .await;
        assert_eq!((node.as_str(), count), (other, 1), "sessions of other servers are theirs");
    });
}
