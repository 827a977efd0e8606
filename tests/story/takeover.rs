//! The balancer is restarted under load: its socket stays, and nobody notices.

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tasuki::settings::Listening;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, spawn_local},
};

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{Cluster, Place, Process, is_running, settled, status},
        free_address,
        load::Load,
        wait_for,
    },
};

/// Users who come, ask once and go: a connection for each request.
struct Visitors {
    stop: Rc<Cell<bool>>,
    answered: Rc<Cell<u64>>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Visitors {
    fn start(address: SocketAddr, count: usize) -> Self {
        let (stop, answered) = (Rc::<Cell<bool>>::default(), Rc::<Cell<u64>>::default());
        let tasks = (0..count).map(|_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            spawn_local(async move {
                let mut troubles = Vec::new();
                while !stop.get() {
                    match Browser::new(address).get("/?plain").await {
                        Ok(answer) if answer.plain().is_some() => answered.set(answered.get() + 1),
                        other => troubles.push(format!("{other:?}")),
                    }
                }
                troubles
            })
        });
        let tasks = tasks.collect();
        Self { stop, answered, tasks }
    }

    async fn progress(&self, answers: u64) {
        let goal = self.answered.get() + answers;
        wait_for("visitors are answered", || async { (self.answered.get() >= goal).then_some(()) }).await;
    }

    async fn assert_all_answered(self) {
        self.stop.set(true);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), Vec::<String>::new());
        }
    }
}

async fn balancer_pid(listen: SocketAddr) -> u32 {
    wait_for("the balancer answers", || status(listen)).await.balancer.pid
}

async fn restart(cluster: &Cluster) -> (u32, u32) {
    let old = balancer_pid(cluster.listen).await;
    let (code, said) = cluster.command(&["restart", "balancer"]).await;
    assert_eq!(code, Some(0), "{said}");
    let new = balancer_pid(cluster.listen).await;
    assert_ne!(old, new, "{said}");
    (old, new)
}

async fn gone(pid: u32) {
    wait_for("the old process ends", || async { (!is_running(pid)).then_some(()) }).await;
}

#[test]
fn five_restarts_of_the_balancer_refuse_no_connection_and_fail_no_request() {
    story(async {
        let cluster = Cluster::up(2).await;
        let (users, visitors) = (Load::start(cluster.listen, 8), Visitors::start(cluster.listen, 8));
        let mut olds = Vec::new();
        for _ in 0..5 {
            users.progress(100).await;
            visitors.progress(100).await;
            olds.push(restart(&cluster).await.0);
        }
        users.progress(100).await;
        visitors.progress(100).await;
        users.finish().await.assert_whole();
        visitors.assert_all_answered().await;
        for old in olds {
            gone(old).await;
        }
        let (code, said) = cluster.command(&["status"]).await;
        assert_eq!(code, Some(0));
        assert!(said.contains(&format!("pid {}", balancer_pid(cluster.listen).await)), "{said}");
    });
}

#[test]
fn an_order_that_is_given_at_any_moment_of_a_restart_holds_afterwards() {
    story(async {
        let cluster = Cluster::up(2).await;
        let weighs = async |weight: u8| {
            let look = async || (cluster.node("r1").await.terms.weight == weight).then_some(());
            wait_for(&format!("r1 has the weight {weight}"), look).await;
        };
        let (mut weight, is_restarted) = (1, Cell::new(false));
        for _ in 0..3 {
            is_restarted.set(false);
            let restarting = async {
                let (old, _) = restart(&cluster).await;
                is_restarted.set(true);
                old
            };
            let ordering = async {
                while !is_restarted.get() {
                    weight = weight % 100 + 1;
                    let (code, said) = cluster.command(&["weight", "r1", &weight.to_string()]).await;
                    assert_eq!(code, Some(0), "{said}");
                }
            };
            let (old, ()) = tokio::join!(restarting, ordering);
            weighs(weight).await;
            gone(old).await;
            weighs(weight).await;
        }
    });
}

#[test]
fn a_rolling_restart_ends_with_the_balancer() {
    story(async {
        let cluster = Cluster::up(2).await;
        let visitors = Visitors::start(cluster.listen, 4);
        let old = balancer_pid(cluster.listen).await;
        let (code, said) = cluster.command(&["restart", "--rolling"]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.ends_with("all 2 nodes and the balancer are restarted\n"), "{said}");
        assert_ne!(balancer_pid(cluster.listen).await, old);
        visitors.progress(20).await;
        visitors.assert_all_answered().await;
    });
}

/// A server whose answer to `/slow` takes as long as it is told to, and that echoes on a WebSocket.
async fn slow_member(release: Rc<Cell<bool>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(serve_slowly(stream, release.clone()));
        }
    });
    address
}

async fn serve_slowly(mut stream: TcpStream, release: Rc<Cell<bool>>) {
    loop {
        let Some(head) = head(&mut stream).await else { return };
        if head.to_lowercase().contains("upgrade: websocket") {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch.as_bytes()).await.unwrap();
            let mut bytes = [0; 64];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                let _ = stream.write_all(&bytes[..read]).await;
            }
            return;
        }
        if head.starts_with("GET /slow") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
            while !release.get() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = stream.write_all(b"half").await;
        } else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    }
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// A balancer started by hand, in front of a member that the file names.
async fn balancer_by_hand(place: &Place, member: SocketAddr) -> (Process, SocketAddr) {
    balancer_by_hand_of(place, member, None).await
}

/// The same, of another executable.
async fn balancer_by_hand_of(place: &Place, member: SocketAddr, program: Option<&Path>) -> (Process, SocketAddr) {
    let text = format!("[[balancer.member]]\nurl = \"http://{member}\"\nroute = \"slow\"\n");
    fs::write(place.path("by-hand.toml"), text).unwrap();
    let arguments = ["balancer", "--config", "by-hand.toml"];
    let process = place.spawn(match program {
        Some(program) => place.tasuki_at(program, &arguments),
        None => place.tasuki(&arguments),
    });
    let run = place.path("run");
    let listening = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await;
    wait_for("its member answers", || async {
        let answer = Browser::new(listening.listen).get("/").await.ok()?;
        (answer.body == "ok").then_some(())
    })
    .await;
    (process, listening.listen)
}

#[test]
fn a_balancer_whose_executable_was_replaced_is_followed_by_the_new_one() {
    story(async {
        let place = Place::new();
        let program = place.path("tasuki");
        // As a package manager does it: another file under the same name.
        let install = || {
            let _ = fs::remove_file(&program);
            fs::hard_link(env!("CARGO_BIN_EXE_tasuki"), &program)
                .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_tasuki"), &program).map(drop))
                .unwrap();
        };
        install();
        let member = slow_member(Rc::default()).await;
        let (mut by_hand, listen) = balancer_by_hand_of(&place, member, Some(&program)).await;
        install();
        let new = restart_by_hand(&place, listen).await;
        assert_eq!(by_hand.ended().await, Some(0));
        assert_eq!(fs::read_link(format!("/proc/{}/exe", new.0)).unwrap(), program);
        assert_eq!(Browser::new(listen).get("/").await.unwrap().body, "ok");
    });
}

async fn restart_by_hand(place: &Place, listen: SocketAddr) -> EndedWithTheTest {
    let mut command = place.tasuki(&["restart", "balancer", "--config", "by-hand.toml"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    EndedWithTheTest(balancer_pid(listen).await)
}

#[test]
fn a_request_and_a_websocket_stay_with_the_old_process_until_they_end() {
    story(async {
        let release = Rc::new(Cell::new(false));
        let place = Place::new();
        let member = slow_member(release.clone()).await;
        let (mut by_hand, listen) = balancer_by_hand(&place, member).await;
        let mut slow = TcpStream::connect(listen).await.unwrap();
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(head(&mut slow).await.unwrap().starts_with("HTTP/1.1 200"));
        let mut socket = TcpStream::connect(listen).await.unwrap();
        let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        socket.write_all(upgrade.as_bytes()).await.unwrap();
        assert!(head(&mut socket).await.unwrap().starts_with("HTTP/1.1 101"));

        let old = by_hand.pid();
        let new = restart_by_hand(&place, listen).await;
        assert_ne!(old, new.0);
        assert!(is_running(old), "it has something to finish");
        socket.write_all(b"still here").await.unwrap();
        let mut echo = [0; 10];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"still here");
        release.set(true);
        let mut body = [0; 8];
        slow.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"halfhalf");
        drop((slow, socket));
        assert_eq!(by_hand.ended().await, Some(0), "with the last of its clients");
        assert_eq!(Browser::new(listen).get("/").await.unwrap().body, "ok");
    });
}

#[test]
fn what_does_not_end_is_cut_after_the_restart_timeout() {
    story(async {
        let place = Place::new().set("BALANCER__RESTART_TIMEOUT", "300ms");
        let member = slow_member(Rc::default()).await;
        let (mut by_hand, listen) = balancer_by_hand(&place, member).await;
        let mut slow = TcpStream::connect(listen).await.unwrap();
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(head(&mut slow).await.unwrap().starts_with("HTTP/1.1 200"));
        let begun = Instant::now();
        let _new = restart_by_hand(&place, listen).await;
        assert_eq!(by_hand.ended().await, Some(0));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert_eq!(rest, b"half", "cut visibly: the answer is shorter than its Content-Length");
    });
}

#[test]
fn a_restart_that_fails_leaves_the_old_process_in_place_and_says_why() {
    story(async {
        let place = Place::new().set("BALANCER__SORRY_PAGE", "sorry.html");
        fs::write(place.path("sorry.html"), "sorry").unwrap();
        let cluster = Cluster::up_in(place, 1).await;
        let old = balancer_pid(cluster.listen).await;
        std::fs::remove_file(cluster.place().path("sorry.html")).unwrap();
        let (code, said) = cluster.command(&["restart", "balancer"]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the balancer was not restarted, and goes on as it is"), "{said}");
        assert_eq!(balancer_pid(cluster.listen).await, old);
        fs::write(cluster.place().path("sorry.html"), "sorry").unwrap();
        restart(&cluster).await;
    });
}

#[test]
fn a_manager_with_an_address_of_its_own_is_found_by_the_command_and_kept_over_a_restart() {
    story(async {
        let place = Place::new().set("BALANCER__MANAGER__LISTEN", "127.0.0.1:0");
        let _up = place.start(&["up", "--nodes", "1"]);
        let run = place.path("run");
        let listening = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await;
        let manager = listening.manager.expect("it has an address of its own");
        settled(manager, 1).await;
        assert!(status(listening.listen).await.is_none(), "the manager is where users are");
        let old = balancer_pid(manager).await;
        for arguments in [&["status"][..], &["restart", "balancer"], &["status"]] {
            let mut command = place.tasuki(arguments);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
        }
        assert_ne!(balancer_pid(manager).await, old);
        assert_eq!(Listening::read(&run).unwrap().manager, Some(manager));
    });
}

#[test]
fn a_fixed_membership_port_goes_to_the_new_process() {
    story(async {
        let port = free_address().port();
        let cluster = Cluster::up_in(Place::new().set("BALANCER__MEMBERSHIP", &port.to_string()), 2).await;
        let visitors = Visitors::start(cluster.listen, 4);
        for _ in 0..2 {
            gone(restart(&cluster).await.0).await;
        }
        // It hears of what happens now.
        let killed = cluster.kill("r1").await;
        cluster.back("r1", killed, 2).await;
        visitors.progress(20).await;
        visitors.assert_all_answered().await;
    });
}

#[test]
fn connections_wait_while_a_killed_balancer_is_started_again() {
    story(async {
        let cluster = Cluster::up(2).await;
        let old = balancer_pid(cluster.listen).await;
        crate::support::cluster::send(old, Signal::KILL);
        gone(old).await;
        let answer = Browser::new(cluster.listen).get("/?plain").await.expect("not refused");
        assert!(answer.plain().is_some(), "answered by a node: {answer:?}");
        settled(cluster.listen, 2).await;
    });
}

#[test]
fn the_socket_may_come_from_systemd_which_is_told_when_the_balancer_is_ready() {
    story(async {
        let place = Place::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let notify = std::os::unix::net::UnixDatagram::bind(place.path("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // As systemd does it: the socket is descriptor 3, and its variables say so.
        let inherited = rustix::io::dup(&listener).unwrap();
        let mut command = place.tasuki(&["balancer"]);
        command
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDS_FIRST_FD", std::os::fd::AsRawFd::as_raw_fd(&inherited).to_string())
            .env("NOTIFY_SOCKET", place.path("notify"));
        let mut balancer = place.spawn(command);
        drop((inherited, listener));
        let said = || {
            let mut bytes = [0; 256];
            let read = notify.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..read]).trim().to_owned()
        };
        assert_eq!(said(), "READY=1");
        assert_eq!(balancer_pid(address).await, balancer.pid());
        let mut command = place.tasuki(&["restart", "balancer"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let new = balancer_pid(address).await;
        let _ended_with_the_test = EndedWithTheTest(new);
        let words = [said(), said()];
        assert!(words.contains(&format!("MAINPID={new}")), "{words:?}");
        assert_eq!(balancer.ended().await, Some(0));
    });
}

/// A process that nobody here has started.
struct EndedWithTheTest(u32);

impl Drop for EndedWithTheTest {
    fn drop(&mut self) {
        crate::support::cluster::send(self.0, Signal::KILL);
    }
}
