//! Deploy by dropping it in the folder, and nobody notices: not under load, not half-copied, not broken, not 300 times.

use std::{
    cell::{Cell, RefCell},
    fs,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use hyper::StatusCode;
use tokio::task::{JoinHandle, spawn_local};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::Cluster,
        webapps::{Webapps, packed},
    },
};

/// Redeploys in the story; `TASUKI_REDEPLOYS=300` for the long run of the memory figures.
const REDEPLOYS: u32 = 30;

/// What a node may grow by from the 10th redeploy to the last.
const GROWTH: u64 = 5 * 1024 * 1024;

/// A webapp in its version `n`: a page that counts, and a static file.
fn version(n: u32) -> [(&'static str, String); 4] {
    [
        ("index.html.j2", format!("{{% include 'part.j2' %}} {n} {{{{ session.add('count') }}}}")),
        ("version.txt", format!("static {n} 0")),
        ("WEB-INF/templates/part.j2", "page".to_owned()),
        ("WEB-INF/web.xml", "<web-app><distributable/></web-app>".to_owned()),
    ]
}

fn files<'a>(version: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    version.iter().map(|(name, text)| (*name, text.as_str())).collect()
}

/// Users who reload a page and a static file, each with a session, and see versions only ever grow.
struct Users {
    stop: Rc<Cell<bool>>,
    answered: Rc<Cell<u64>>,
    troubles: Rc<RefCell<Vec<String>>>,
    users: Vec<JoinHandle<()>>,
}

impl Users {
    fn start(address: SocketAddr, users: usize) -> Self {
        let mut it = Self { stop: Rc::default(), answered: Rc::default(), troubles: Rc::default(), users: Vec::new() };
        for _ in 0..users {
            let user = user(address, it.stop.clone(), it.answered.clone(), it.troubles.clone());
            it.users.push(spawn_local(user));
        }
        it
    }

    /// Nobody saw an error, an older version after a newer one, or a session that began anew.
    async fn finish(self) -> u64 {
        self.stop.set(true);
        for user in self.users {
            user.await.unwrap();
        }
        let troubles = self.troubles.take();
        assert!(troubles.is_empty(), "{} of {}: {:?}", troubles.len(), self.answered.get(), &troubles[..1]);
        self.answered.get()
    }
}

async fn user(address: SocketAddr, stop: Rc<Cell<bool>>, answered: Rc<Cell<u64>>, troubles: Rc<RefCell<Vec<String>>>) {
    let mut browser = Browser::new(address);
    let (mut newest, mut count) = (0, 0);
    while !stop.get() {
        for path in ["/", "/version.txt"] {
            let answer = browser.get(path).await;
            let seen = answer.as_ref().ok().filter(|it| it.status == StatusCode::OK).and_then(|it| read(&it.body));
            match seen {
                Some((version, n)) if version >= newest && (path != "/" || n == count + 1) => {
                    newest = version;
                    count = count.max(n);
                }
                _ => troubles.borrow_mut().push(format!("{path} after version {newest}, count {count}: {answer:?}")),
            }
            answered.set(answered.get() + 1);
        }
        // Users are what is tested, not the speed of this machine.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Version and count: `page 7 12`.
fn read(body: &str) -> Option<(u32, u32)> {
    let mut words = body.split_whitespace().skip(1).map(|word| word.parse().ok());
    Some((words.next()??, words.next()??))
}

/// Resident memory of each node, in bytes.
async fn memory(cluster: &Cluster) -> Vec<u64> {
    let nodes = cluster.status().await.unwrap().nodes;
    let resident = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    nodes.iter().map(|node| resident(node.pid.unwrap())).collect()
}

#[test]
fn redeploys_under_load_fail_nothing_and_leave_nothing_behind() {
    story(async {
        let rounds = std::env::var("TASUKI_REDEPLOYS").ok().and_then(|it| it.parse().ok()).unwrap_or(REDEPLOYS);
        let (webapps, place) = Webapps::new();
        webapps.put("ROOT.war", &files(&version(0)));
        let cluster = Cluster::up_in(place, 2).await;
        let users = Users::start(cluster.listen, 3);
        let (mut running, mut early) = (cluster.redeployed("ROOT", None).await, Vec::new());
        for n in 1..=rounds {
            webapps.put("ROOT.war", &files(&version(n)));
            running = cluster.redeployed("ROOT", Some(&running)).await;
            if n == 10 {
                early = memory(&cluster).await;
            }
        }
        let late = memory(&cluster).await;
        let answered = users.finish().await;
        println!(
            "{rounds} redeploys, {answered} answers; bytes resident after the 10th {early:?}, after the last {late:?}"
        );
        for (early, late) in early.iter().zip(&late) {
            assert!(late.saturating_sub(*early) <= GROWTH, "a node has grown from {early} to {late} bytes");
        }
        let work = cluster.place().path("run/work");
        let unpacked = || ["r1", "r2"].map(|route| fs::read_dir(work.join(route).join("ROOT")).unwrap().count());
        let only_one = || std::future::ready((unpacked() == [1, 1]).then_some(()));
        crate::support::wait_for("files of replaced versions are gone", only_one).await;
    });
}

#[test]
fn a_session_travels_as_far_as_when_it_began_whatever_its_webapp_says_since() {
    const ALL: &str = "<web-app><distributable/></web-app>";
    story(async {
        let pages = |descriptor: &'static str| {
            [
                ("add.txt.j2", "{{ session.add('n') }}"),
                ("look.txt.j2", "{{ session.get('n', 0) }}"),
                ("end.txt.j2", "{% do session.invalidate() %}"),
                ("WEB-INF/web.xml", descriptor),
            ]
        };
        for (before, after, copies) in [(ALL, "<web-app/>", "2"), ("<web-app/>", ALL, "1")] {
            let (webapps, place) = Webapps::new();
            webapps.put("ROOT.war", &pages(before));
            let cluster = Cluster::up_in(place, 2).await;
            let running = cluster.redeployed("ROOT", None).await;
            let (mut users, mut node) = (Vec::new(), String::new());
            // Two of one node: one who stays and one who logs out.
            while users.len() < 2 {
                let mut user = cluster.browser();
                let at = user.get("/add.txt").await.unwrap().header("tasuki-node").unwrap().to_owned();
                if users.is_empty() || at == node {
                    users.push(user);
                    node = at;
                }
            }
            webapps.put("ROOT.war", &pages(after));
            cluster.redeployed("ROOT", Some(&running)).await;
            let [user, leaver] = &mut users[..] else { unreachable!("there are two") };
            let added = user.get("/add.txt").await.unwrap();
            assert_eq!((added.body.as_str(), added.header("tasuki-copies")), ("2", Some(copies)), "{after}");
            let mut stolen = leaver.window();
            assert_eq!(leaver.get("/end.txt").await.unwrap().status, StatusCode::OK);
            let killed = cluster.kill(&node).await;
            let left = if copies == "2" { "2" } else { "0" };
            assert_eq!(user.get("/look.txt").await.unwrap().body, left, "{after}");
            assert_eq!(stolen.get("/look.txt").await.unwrap().body, "0", "{after}: who has logged out has logged out");
            cluster.back(&node, killed, 2).await;
        }
    });
}

#[test]
fn a_half_copied_archive_is_waited_for() {
    story(async {
        let (webapps, place) = Webapps::new();
        webapps.put("ROOT.war", &files(&version(0)));
        let cluster = Cluster::up_in(place, 2).await;
        let users = Users::start(cluster.listen, 2);
        let running = cluster.redeployed("ROOT", None).await;

        // In two halves, the second one when every node has looked at the first.
        let whole = packed(&files(&version(1)));
        fs::write(webapps.path("ROOT.war"), &whole[..whole.len() / 2]).unwrap();
        let copying = cluster.webapp("ROOT", |it| it.notes.iter().any(|note| note.starts_with("being copied"))).await;
        assert_eq!((copying.version.as_deref(), copying.error), (Some(running.as_str()), None));
        fs::write(webapps.path("ROOT.war"), &whole).unwrap();
        let running = cluster.redeployed("ROOT", Some(&running)).await;

        // As rsync does: in parts under another name, which is no webapp, then renamed.
        let (whole, temporary) = (packed(&files(&version(2))), webapps.path(".ROOT.war.Xa3b"));
        fs::write(&temporary, &whole[..whole.len() / 2]).unwrap();
        webapps.write("other/index.html", "a look has been taken");
        cluster.webapp("other", |it| it.version.is_some()).await;
        let report = cluster.webapp("ROOT", |_| true).await;
        assert_eq!((report.version.as_deref(), report.notes.len()), (Some(running.as_str()), 0));
        fs::write(&temporary, &whole).unwrap();
        fs::rename(&temporary, webapps.path("ROOT.war")).unwrap();
        cluster.redeployed("ROOT", Some(&running)).await;
        users.finish().await;
    });
}

#[test]
fn what_is_broken_replaces_nothing_and_status_says_where() {
    story(async {
        let (webapps, place) = Webapps::new();
        webapps.put("ROOT.war", &files(&version(0)));
        let cluster = Cluster::up_in(place, 2).await;
        let users = Users::start(cluster.listen, 1);
        let good = cluster.redeployed("ROOT", None).await;
        let broken: [(&[(&str, &str)], &str); 4] = [
            (&[("index.html.j2", "fine\n{% if %}")], "ROOT.war/index.html.j2:2:"),
            (&[("WEB-INF/web.xml", "<web-app>\n <distributable>\n</web-app>")], "ROOT.war/WEB-INF/web.xml:3:"),
            (
                &[("WEB-INF/web.xml", "<web-app>\n <error-page><location>/no.html</location></error-page></web-app>")],
                "ROOT.war/WEB-INF/web.xml:2:2: there is no page",
            ),
            (&[("a.txt", ""), ("A.txt", "")], "ROOT.war/A.txt: the archive also holds \"a.txt\""),
        ];
        for (files, said) in broken {
            webapps.put("ROOT.war", files);
            let report = cluster.webapp("ROOT", |it| it.error.as_ref().is_some_and(|it| it.starts_with(said))).await;
            assert_eq!(report.version.as_deref(), Some(good.as_str()));
            let (code, text) = cluster.command(&["status"]).await;
            let line = format!("r1, r2: webapp ROOT is broken (the version before goes on): {said}");
            assert!(code == Some(0) && text.contains(&line), "{text}");
        }
        webapps.put("ROOT.war", &files(&version(1)));
        cluster.redeployed("ROOT", Some(&good)).await;
        users.finish().await;
    });
}
