//! Real processes on free ports, in a folder of their own. Whatever happens, none outlives the test.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tasuki::{
    membership::Duty,
    observe::{NodeReport, NodeState, StatusReport},
    settings::Listening,
};
use tempfile::TempDir;

use super::{browser::Browser, wait_for};

/// A cluster as `tasuki up` starts it.
pub struct Cluster {
    pub listen: SocketAddr,
    up: Process,
}

/// One process, ended with this value, its children too.
pub struct Process {
    child: Child,
    place: Place,
}

/// Where a cluster runs, and its settings.
#[derive(Clone)]
pub struct Place {
    folder: std::sync::Arc<TempDir>,
    settings: Vec<(String, String)>,
}

impl Place {
    /// A new folder; the webapps are the project's own.
    pub fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap().into(), settings: Vec::new() };
        let webapps = Path::new(env!("CARGO_MANIFEST_DIR")).join("webapps");
        place
            .set("NODE__WEBAPPS", &webapps.display().to_string())
            .set("NODE__HTTP", "127.0.0.1:0")
            .set("NODE__REPLICATION", "0")
            .set("BALANCER__LISTEN", "127.0.0.1:0")
            .set("CLUSTER__DISCOVERY", "static")
    }

    /// A setting, as its environment variable without the prefix.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((format!("TASUKI__{key}"), value.into()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, untouched by the caller's environment.
    pub fn tasuki(&self, arguments: &[&str]) -> Command {
        self.tasuki_at(env!("CARGO_BIN_EXE_tasuki"), arguments)
    }

    /// The same, of another copy of the program.
    pub fn tasuki_at(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let is_ours = |name: &str| {
            name.starts_with("TASUKI_") || name.starts_with("LISTEN_") || ["RUST_LOG", "NOTIFY_SOCKET"].contains(&name)
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(self.folder.path()).envs(self.settings.iter().cloned());
        command.stdin(Stdio::null());
        command
    }

    /// Starts it and keeps what it says in a file.
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.spawn(self.tasuki(arguments))
    }

    /// The same, of a command that was made from [`Place::tasuki`].
    pub fn spawn(&self, mut command: Command) -> Process {
        let log = || fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let child = command.stdout(log()).stderr(log()).spawn().unwrap();
        Process { child, place: self.clone() }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

/// A command as another one runs it that takes it as its last words: a shell that sets limits, say.
pub fn run_by(mut runner: Command, command: &Command) -> Command {
    runner.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => runner.env(name, value),
            None => runner.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        runner.current_dir(folder);
    }
    runner
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits until it has ended by itself, and gives its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait_for("the process ends", || std::future::ready(child.try_wait().unwrap())).await.code()
    }
}

impl Drop for Process {
    /// Hard, because a test may leave it stopped or hanging.
    fn drop(&mut self) {
        let children = children(self.pid());
        for pid in children.into_iter().chain([self.pid()]) {
            send(pid, Signal::KILL);
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what the processes said ---\n{}", self.place.log());
        }
    }
}

impl Cluster {
    /// `tasuki up` with so many nodes, all ready and in sync.
    pub async fn up(nodes: usize) -> Self {
        Self::up_in(Place::new(), nodes).await
    }

    pub async fn up_in(place: Place, nodes: usize) -> Self {
        Self::up_by(place, nodes, |command| command).await
    }

    /// `start` is given the command.
    pub async fn up_by(place: Place, nodes: usize, start: impl FnOnce(Command) -> Command) -> Self {
        let up = place.spawn(start(place.tasuki(&["up", "--nodes", &nodes.to_string()])));
        let run = place.path("run");
        let listening = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await;
        let cluster = Self { listen: listening.listen, up };
        cluster.settled(nodes).await;
        cluster
    }

    pub fn place(&self) -> &Place {
        &self.up.place
    }

    /// The process of `tasuki up`.
    pub fn pid(&self) -> u32 {
        self.up.pid()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.up
    }

    pub fn browser(&self) -> Browser {
        Browser::new(self.listen)
    }

    /// What `status.json` says now.
    pub async fn status(&self) -> Option<StatusReport> {
        status(self.listen).await
    }

    /// Waits until so many nodes serve and each has the others in sync.
    pub async fn settled(&self, nodes: usize) -> StatusReport {
        settled(self.listen, nodes).await
    }

    pub async fn node(&self, route: &str) -> NodeReport {
        let node = |report: StatusReport| report.nodes.into_iter().find(|node| node.route.as_str() == route);
        wait_for("the node is known", || async { self.status().await.and_then(node) }).await
    }

    /// kill -9.
    pub async fn kill(&self, route: &str) -> u32 {
        let node = || async { self.node(route).await.pid };
        let pid = wait_for("the node has a process", node).await;
        send(pid, Signal::KILL);
        pid
    }

    /// Waits until a killed node is back in a new process, and everyone is in sync.
    pub async fn back(&self, route: &str, killed: u32, nodes: usize) {
        wait_for("the node has a new process", || async { self.node(route).await.pid.filter(|pid| *pid != killed) })
            .await;
        self.settled(nodes).await;
    }

    /// Runs a command against this cluster and gives its exit code and what it said.
    pub async fn command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.place().tasuki(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (output.status.code(), said)
    }
}

pub async fn status(listen: SocketAddr) -> Option<StatusReport> {
    let answer = Browser::new(listen).get("/balancer-manager/status.json").await.ok()?;
    serde_json::from_str(&answer.body).ok()
}

pub async fn settled(listen: SocketAddr, nodes: usize) -> StatusReport {
    let is_settled = |report: &StatusReport| {
        report.nodes.len() == nodes
            && report.nodes.iter().all(|node| {
                node.state == NodeState::Ready
                    && node.duty == Duty::Serving
                    && node.peers.len() == nodes - 1
                    && node.peers.iter().all(|peer| peer.in_sync)
            })
    };
    wait_for("all nodes serve and are in sync", || async { status(listen).await.filter(is_settled) }).await
}

pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// SIGSTOP, and waits until every thread has stopped: on a busy machine some run on for a moment.
pub async fn stop(pid: u32) {
    send(pid, Signal::STOP);
    let has_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    let all_have = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok()).all(has_stopped)
    };
    wait_for("the process stops", || std::future::ready(all_have().then_some(()))).await;
}

pub fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// The processes that a process has started and not yet lost (proc(5)).
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
