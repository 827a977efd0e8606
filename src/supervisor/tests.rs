use std::{fs, time::Duration};

use tokio::time::{sleep, timeout};

use super::*;

/// A folder in which each child writes its pid to a file of its name when it starts, and appends to `ends`
/// when it ends gracefully.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A shell as a child: `body` runs after its start was noted.
    fn child(&self, name: &str, body: &str) -> ChildPlan {
        let folder = self.0.path().display();
        let script = format!("echo $$ > {folder}/{name}.new; mv {folder}/{name}.new {folder}/{name}; {body}");
        let script = script.replace("ENDS", &format!("echo {name} >> {folder}/ends"));
        let arguments = vec!["-c".into(), script.into()];
        ChildPlan { name: name.to_owned(), program: "/bin/sh".into(), arguments, variables: Vec::new() }
    }

    fn pid(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.0.path().join(name)).ok()?.trim().parse().ok()
    }

    fn ends(&self) -> String {
        fs::read_to_string(self.0.path().join("ends")).unwrap_or_default()
    }

    /// Waits until the child has a process other than `old`.
    async fn started(&self, name: &str, old: Option<u32>) -> u32 {
        let wait = async {
            loop {
                match self.pid(name) {
                    Some(pid) if Some(pid) != old => return pid,
                    _ => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(Duration::from_secs(10), wait).await.expect("the child starts")
    }

    fn plan(&self, balancer: &str, node: &str, seconds: u64) -> Plan {
        Plan {
            balancer: self.child("balancer", balancer),
            nodes: vec![self.child("r1", node), self.child("r2", node)],
            run: self.0.path().to_owned(),
            shutdown_timeout: Duration::from_secs(seconds),
            restart_timeout: Duration::from_secs(10),
        }
    }
}

const GOOD: &str = "cat > /dev/null; ENDS";
const DEAF: &str = "while :; do sleep 0.05; done";

fn alive(pid: u32) -> bool {
    // A zombie has an empty command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn sockets() -> Sockets {
    let any = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Sockets { plain: any(), tls: Some(any()), manager: None }
}

async fn never() {
    std::future::pending().await
}

#[tokio::test]
async fn the_balancer_stops_before_the_nodes() {
    let stage = Stage::new();
    let stop = async {
        for name in ["balancer", "r1", "r2"] {
            stage.started(name, None).await;
        }
    };
    let plan = stage.plan("cat > /dev/null; sleep 0.3; ENDS", GOOD, 10);
    assert_eq!(run(plan, sockets(), never(), stop, never()).await.unwrap(), End::Graceful);
    assert_eq!(stage.ends().lines().next(), Some("balancer"));
    assert_eq!(stage.ends().lines().count(), 3, "all have ended by themselves");
}

#[tokio::test]
async fn a_node_that_others_have_told_to_stop_is_not_started_again_while_the_balancer_ends() {
    let stage = Stage::new();
    let (mut first, folder) = (None, stage.0.path().to_owned());
    let stop = async {
        first = Some(stage.started("r1", None).await);
        stage.started("balancer", None).await;
    };
    // systemd tells everybody at once; r1 is done before the balancer is.
    let balancer = format!("cat > /dev/null; kill $(cat {}/r1); sleep 0.4; ENDS", folder.display());
    let node = "trap 'exit 0' TERM; exec 3<&0; cat <&3 > /dev/null & wait; ENDS";
    let plan = stage.plan(&balancer, node, 10);
    assert_eq!(run(plan, sockets(), never(), stop, never()).await.unwrap(), End::Graceful);
    assert_eq!(stage.pid("r1"), first);
    assert!(stage.ends().contains("r2") && !stage.ends().contains("r1"), "{}", stage.ends());
}

#[tokio::test]
async fn a_node_that_dies_in_the_middle_of_its_stop_is_told_of() {
    let stage = Stage::new();
    let stop = async {
        for name in ["balancer", "r1", "r2"] {
            stage.started(name, None).await;
        }
    };
    let mut plan = stage.plan(GOOD, GOOD, 10);
    plan.nodes[1] = stage.child("r2", "cat > /dev/null; kill -9 $$");
    assert_eq!(run(plan, sockets(), never(), stop, never()).await.unwrap(), End::Failed);
    assert!(stage.ends().contains("r1"), "the others have their time");
}

#[tokio::test]
async fn a_node_that_dies_while_the_balancer_still_ends_is_told_of() {
    for end in ["kill -9 $$", "exit 1"] {
        let stage = Stage::new();
        let folder = stage.0.path().display();
        let node = format!("until test -e {folder}/go; do sleep 0.01; done; {end}");
        let balancer = format!("cat > /dev/null; touch {folder}/go; sleep 0.4; ENDS");
        let stop = async {
            for name in ["balancer", "r1", "r2"] {
                stage.started(name, None).await;
            }
        };
        let mut plan = stage.plan(&balancer, GOOD, 10);
        plan.nodes[1] = stage.child("r2", &node);
        assert_eq!(run(plan, sockets(), async {}, stop, never()).await.unwrap(), End::Failed, "{end}");
        assert!(stage.ends().contains("balancer"));
    }
}

#[tokio::test]
async fn nodes_have_their_own_time_when_the_balancer_has_taken_its_half() {
    let stage = Stage::new();
    let stop = async {
        for name in ["balancer", "r1", "r2"] {
            stage.started(name, None).await;
        }
    };
    // Told after half a second, and done after the second from the beginning and the grace.
    let grace = limits::KILL_GRACE.as_secs_f64();
    let node = format!("cat > /dev/null; sleep {}; ENDS", 0.8 + grace);
    let end = run(stage.plan(DEAF, &node, 1), sockets(), never(), stop, never()).await.unwrap();
    assert_eq!(end, End::Killed, "the balancer was");
    assert_eq!(stage.ends().lines().count(), 2, "and the nodes were not");
}

#[tokio::test]
async fn a_killed_child_is_started_again_and_the_others_stay() {
    let stage = Stage::new();
    let stop = async {
        let (r1, r2) = (stage.started("r1", None).await, stage.started("r2", None).await);
        kill(r1);
        stage.started("r1", Some(r1)).await;
        assert_eq!(stage.pid("r2"), Some(r2));
        assert!(!alive(r1) && alive(r2));
    };
    assert_eq!(run(stage.plan(GOOD, GOOD, 10), sockets(), never(), stop, never()).await.unwrap(), End::Graceful);
}

#[tokio::test]
async fn a_child_that_refuses_its_first_start_ends_everything() {
    let stage = Stage::new();
    let mut plan = stage.plan(GOOD, GOOD, 10);
    plan.nodes[1] = stage.child("r2", "exit 2");
    let failure = run(plan, sockets(), never(), never(), never()).await.unwrap_err();
    assert_eq!(failure.to_string(), "r2 did not start (exit code 2); it has said why above");
}

#[tokio::test]
async fn a_refusal_after_the_system_came_up_is_a_restart() {
    let stage = Stage::new();
    let mut plan = stage.plan(GOOD, GOOD, 10);
    let again = "test -e FOLDER/again && { cat > /dev/null; exit 0; }; touch FOLDER/again; sleep 0.3; exit 1";
    let again = again.replace("FOLDER", &stage.0.path().display().to_string());
    plan.nodes[1] = stage.child("r2", &again);
    let stop = async {
        let first = stage.started("r2", None).await;
        stage.started("r2", Some(first)).await;
    };
    assert_eq!(run(plan, sockets(), async {}, stop, never()).await.unwrap(), End::Graceful);
}

#[tokio::test]
async fn a_balancer_that_asks_is_replaced_and_goes_when_the_new_one_is_ready() {
    let stage = Stage::new();
    // The first one asks; the second, which is told that it is one, says that it is ready.
    let body = "case $0 in --successor) printf A >&0; cat > /dev/null; ENDS;; \
                *) until test -e FOLDER/go; do sleep 0.01; done; printf R >&0; head -c 1 > FOLDER/heard; ENDS;; esac";
    let body = body.replace("FOLDER", &stage.0.path().display().to_string());
    let stop = async {
        let old = stage.started("balancer", None).await;
        fs::write(stage.0.path().join("go"), "").unwrap();
        let new = stage.started("balancer", Some(old)).await;
        while stage.ends().lines().next() != Some("balancer") {
            sleep(Duration::from_millis(5)).await;
        }
        assert!(!alive(old) && alive(new));
        assert_eq!(fs::read_to_string(stage.0.path().join("heard")).unwrap(), "N");
    };
    let end = run(stage.plan(&body, GOOD, 10), sockets(), never(), stop, never()).await.unwrap();
    assert_eq!(end, End::Graceful);
    assert_eq!(stage.ends().lines().filter(|line| *line == "balancer").count(), 2, "none was started for nothing");
}

#[tokio::test]
async fn a_balancer_whose_successor_fails_is_told_to_go_on() {
    let stage = Stage::new();
    let body =
        "case $0 in --successor) exit 1;; *) printf R >&0; head -c 1 > FOLDER/heard; cat > /dev/null; ENDS;; esac";
    let folder = stage.0.path().to_owned();
    let body = body.replace("FOLDER", &folder.display().to_string());
    let stop = async {
        while !fs::read_to_string(folder.join("heard")).is_ok_and(|heard| heard == "K") {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let end = run(stage.plan(&body, GOOD, 10), sockets(), never(), stop, never()).await.unwrap();
    assert_eq!(end, End::Graceful);
    assert!(stage.ends().contains("balancer"));
}

#[tokio::test]
async fn connections_wait_in_the_socket_while_there_is_no_balancer() {
    let stage = Stage::new();
    let sockets = sockets();
    let [plain, tls] = [&sockets.plain, sockets.tls.as_ref().unwrap()].map(|it| it.local_addr().unwrap());
    let stop = async {
        let first = stage.started("balancer", None).await;
        kill(first);
        for address in [plain, tls] {
            std::net::TcpStream::connect(address).expect("it is not refused");
        }
        stage.started("balancer", Some(first)).await;
        for address in [plain, tls] {
            std::net::TcpStream::connect(address).expect("it is not refused");
        }
    };
    let plan = stage.plan(
        "test $LISTEN_FDS = 2 -a -S /dev/fd/$LISTEN_FDS_FIRST_FD -a -S /dev/fd/$((LISTEN_FDS_FIRST_FD + 1)) || exit 1; \
                cat > /dev/null; ENDS",
        GOOD,
        10,
    );
    assert_eq!(run(plan, sockets, never(), stop, never()).await.unwrap(), End::Graceful);
}

#[tokio::test]
async fn a_child_that_does_not_stop_is_killed() {
    let stage = Stage::new();
    let stop = async {
        stage.started("balancer", None).await;
        stage.started("r1", None).await;
    };
    let mut plan = stage.plan(DEAF, GOOD, 1);
    plan.shutdown_timeout = Duration::from_millis(100);
    assert_eq!(run(plan, sockets(), never(), stop, never()).await.unwrap(), End::Killed);
    assert!(!alive(stage.pid("balancer").unwrap()));
}

#[tokio::test]
async fn a_node_that_saves_its_sessions_is_not_killed_meanwhile() {
    let stage = Stage::new();
    let stop = async {
        stage.started("r1", None).await;
        stage.started("r2", None).await;
    };
    let save =
        "cat > /dev/null; printf 1 > FOLDER/r2.sessions.unfinished; sleep 2.5; rm FOLDER/r2.sessions.unfinished; ENDS";
    let save = save.replace("FOLDER", &stage.0.path().display().to_string());
    let mut plan = stage.plan(GOOD, &save, 0);
    plan.nodes[0] = stage.child("r1", DEAF);
    plan.shutdown_timeout = Duration::ZERO;
    // The grace of a child that hangs is over long before.
    assert_eq!(run(plan, sockets(), never(), stop, never()).await.unwrap(), End::Killed);
    assert!(stage.ends().contains("r2") && !stage.ends().contains("r1"), "{}", stage.ends());
}

#[tokio::test]
async fn a_second_signal_kills_at_once() {
    let stage = Stage::new();
    let all = async || {
        for name in ["balancer", "r1", "r2"] {
            stage.started(name, None).await;
        }
    };
    let begun = Instant::now();
    let end = run(stage.plan(DEAF, DEAF, 60), sockets(), never(), all(), all()).await.unwrap();
    assert_eq!(end, End::Killed);
    assert!(begun.elapsed() < Duration::from_secs(30), "nothing was waited for");
    assert!(["balancer", "r1", "r2"].iter().all(|name| !alive(stage.pid(name).unwrap())));
}

#[tokio::test]
async fn an_executable_that_is_not_there_is_named() {
    let stage = Stage::new();
    let mut plan = stage.plan(GOOD, GOOD, 10);
    plan.nodes[0].program = "/nowhere/tasuki".into();
    let failure = run(plan, sockets(), never(), never(), never()).await.unwrap_err().to_string();
    assert!(failure.starts_with("r1 could not be started: No such file"), "{failure}");
}

#[test]
fn snapshots_of_nodes_that_are_not_started_are_told_of() {
    let stage = Stage::new();
    let plan = stage.plan(GOOD, GOOD, 10);
    for name in ["r1.sessions", "r2.sessions", "r3.sessions"] {
        fs::write(plan.run.join(name), "").unwrap();
    }
    assert_eq!(plan.strays(), [plan.run.join("r3.sessions")]);
}

#[test]
fn every_child_knows_the_other_nodes() {
    let webapps = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.node.webapps = webapps.path().to_owned();
    settings.node.http.set_port(0);
    settings.balancer.listen.set_port(0);
    settings.cluster.peers = vec!["other:4000".to_owned()];
    let planned = |settings: &Settings| plan(settings, 2, Path::new("/bin/tasuki"), Some(Path::new("a.toml"))).unwrap();
    let plan = planned(&settings);
    let value = |child: &ChildPlan, key: &str| child.chosen(key).unwrap().to_owned();
    let own: Vec<String> = plan.nodes.iter().map(|node| value(node, "node.replication")).collect();
    assert_eq!(value(&plan.nodes[0], "cluster.peers"), format!("127.0.0.1:{},other:4000", own[1]));
    assert_eq!(value(&plan.nodes[1], "cluster.peers"), format!("127.0.0.1:{},other:4000", own[0]));
    let all = format!("127.0.0.1:{},127.0.0.1:{},other:4000", own[0], own[1]);
    assert_eq!(value(&plan.balancer, "cluster.peers"), all);
    assert_eq!(plan.balancer.arguments, ["balancer", "--supervised", "--config", "a.toml"]);
    assert_eq!(plan.nodes[1].arguments[4..], ["--route", "r2"]);

    (settings.cluster.discovery, settings.cluster.peers) = (vec![Discovery::Multicast], Vec::new());
    let plan = planned(&settings);
    let told = plan.nodes.iter().chain([&plan.balancer]).filter_map(|child| child.chosen("cluster.peers"));
    assert_eq!(told.count(), 0, "nobody is asked, and settings that name somebody all the same are refused");
}
