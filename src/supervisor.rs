//! `tasuki up`: the balancer and the nodes of one machine, as child processes.
//!
//! ```text
//! tasuki up ──┬── tasuki balancer    12121
//!             ├── tasuki node r1     18080   4000
//!             └── tasuki node r2     28080   4001
//! ```
//!
//! Each child's standard input is a pipe whose other end the supervisor holds. A child ends gracefully when
//! it closes: that is how it is told to stop, and why nothing is orphaned when the supervisor itself is killed.
//!
//! The sockets on which users connect are the supervisor's, and inherited by the balancer: connections wait in them while a
//! balancer that died is started again, and the old and the new one share them at a restart (`line`).

mod backoff;
mod child;
mod door;
mod line;
mod ports;
mod saving;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{error, warn};

pub use child::ChildPlan;
use child::{Kept, Order, keep, this_program};
use door::Door;
pub use line::{Parent, inherited_sockets, parent, start_successor, tell_ready};
use saving::Saving;

use crate::{
    balancer::Sockets,
    limits,
    names::Route,
    session::snapshot::file::SnapshotFile,
    settings::{Discovery, Refusal, Settings, absolute, variable_of},
};

const BALANCER: &str = "balancer";

/// What is started and how it is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Stopped first, so that nothing new comes in.
    pub balancer: ChildPlan,
    /// r1, r2, ...
    pub nodes: Vec<ChildPlan>,
    /// Where the nodes save their sessions.
    pub run: PathBuf,
    /// The longest graceful stop of a node, and half of it that of the balancer before; [`limits::KILL_GRACE`] later what is left
    /// is killed, unless it saves its sessions.
    pub shutdown_timeout: Duration,
    /// The longest time for which a balancer that has been replaced finishes what it has; after it the same.
    pub restart_timeout: Duration,
}

/// How `up` came to its end when it was asked to, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Every child has finished its work.
    Graceful,
    /// A child has ended by itself, but not as one that was asked to stop: what it was to finish or to save may be lost.
    Failed,
    /// A child was killed: it took too long, or a second signal asked for it.
    Killed,
}

/// Why `up` does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A folder or file that a setting names is missing.
    #[error(transparent)]
    Settings(#[from] Refusal),
    /// A port is taken.
    #[error("{key}: {problem}")]
    Port {
        /// The setting it comes from.
        key: &'static str,
        /// Which port, why, and what to do.
        problem: String,
    },
    /// The ports run out of the range.
    #[error("{key}: from port {first} on there are not enough ports for {nodes} nodes; start lower")]
    NoPorts {
        /// The setting it comes from.
        key: &'static str,
        /// The first port.
        first: u16,
        /// Nodes asked for.
        nodes: usize,
    },
    /// A child ended by itself before everything was up; it has said why.
    #[error("{child} did not start (exit code {code}); it has said why above")]
    Refused {
        /// `balancer` or a route.
        child: String,
        /// Its exit code.
        code: i32,
    },
    /// The executable could not be run.
    #[error("{child} could not be started: {error}")]
    NotStarted {
        /// `balancer` or a route.
        child: String,
        /// What the operating system says.
        error: io::Error,
    },
}

/// Checks folders and ports and says what would be started: a balancer, and `nodes` nodes named r1, r2, ...
///
/// `program` is this executable, `config` what the children are given as `--config`.
///
/// # Errors
/// [`Failure`] names the folder or port that cannot be used. Nothing has been started then.
pub fn plan(settings: &Settings, nodes: usize, program: &Path, config: Option<&Path>) -> Result<Plan, Failure> {
    settings.node.check_folders()?;
    settings.balancer.check_files()?;
    let ports = ports::plan(settings, nodes)?;
    let members: Vec<String> =
        ports.replication.iter().map(|port| SocketAddr::new(settings.cluster.bind, *port).to_string()).collect();
    let is_asked = settings.cluster.discovery.contains(&Discovery::Static);
    let peers_without = |own: Option<usize>| {
        let others = members.iter().enumerate().filter(|(index, _)| Some(*index) != own).map(|(_, member)| member);
        let peers: Vec<&str> = others.chain(&settings.cluster.peers).map(String::as_str).collect();
        is_asked.then(|| (variable_of("cluster.peers"), peers.join(",")))
    };
    let node = |index: usize| {
        let route = format!("r{}", index + 1);
        let mut variables = vec![
            (variable_of("node.http"), ports.http[index].to_string()),
            (variable_of("node.replication"), ports.replication[index].to_string()),
        ];
        variables.extend(peers_without(Some(index)));
        let (program, mut arguments) = this_program(program, "node", config);
        // An option rather than a variable, so that ps(1) shows which node a process is.
        arguments.extend(["--route".into(), route.clone().into()]);
        ChildPlan { name: route, program, arguments, variables }
    };
    let (balancer, arguments) = this_program(program, "balancer", config);
    let variables = peers_without(None).into_iter().collect();
    Ok(Plan {
        balancer: ChildPlan { name: BALANCER.to_owned(), program: balancer, arguments, variables },
        nodes: (0..nodes).map(node).collect(),
        run: settings.node.run.clone(),
        shutdown_timeout: settings.node.shutdown_timeout,
        restart_timeout: settings.balancer.restart_timeout,
    })
}

impl Plan {
    /// Snapshots of nodes that are not to be started: fewer nodes than at the last stop, or other names.
    fn strays(&self) -> Vec<PathBuf> {
        let is_planned = |route: &Route| self.nodes.iter().any(|node| node.name == route.as_str());
        SnapshotFile::of_others(&absolute(&self.run), is_planned)
    }
}

/// Starts everything and keeps it running until `stop`; then stops it gracefully, or at once with `stop_at_once`.
/// `sockets` are where users connect.
///
/// `came_up` ends when the whole system answers (or when that was waited for long enough). Until then a child that
/// exits with code 1 or 2 in its first life ends everything: it cannot work as it is set up.
///
/// # Errors
/// [`Failure::Refused`] and [`Failure::NotStarted`]; whatever was started has been stopped then.
pub async fn run(
    plan: Plan,
    sockets: Sockets,
    came_up: impl Future<Output = ()>,
    stop: impl Future<Output = ()>,
    stop_at_once: impl Future<Output = ()>,
) -> Result<End, Failure> {
    for file in plan.strays() {
        warn!(
            "{} holds sessions of a node that is not started here, and stays: start that node (--nodes), or remove the file",
            file.display()
        );
    }
    let mut keepers = Keepers::start(plan, sockets);
    let (mut came_up, mut stop) = (std::pin::pin!(came_up), std::pin::pin!(stop));
    let mut waiting = true;
    let failed = loop {
        tokio::select! {
            () = &mut came_up, if waiting => {
                waiting = false;
                keepers.up.store(true, Ordering::Relaxed);
            }
            () = &mut stop => break None,
            ended = keepers.next() => break ended,
        }
    };
    let end = keepers.stop(stop_at_once).await;
    match failed {
        Some((child, Kept::Refused(code))) => Err(Failure::Refused { child, code }),
        Some((child, Kept::NotStarted(error))) => Err(Failure::NotStarted { child, error }),
        _ => Ok(end),
    }
}

/// One task for each child.
struct Keepers {
    tasks: JoinSet<(String, Kept)>,
    balancer: watch::Sender<Order>,
    nodes: watch::Sender<Order>,
    balancer_runs: bool,
    up: Arc<AtomicBool>,
    saving: Saving,
    shutdown_timeout: Duration,
    end: End,
}

impl Keepers {
    fn start(plan: Plan, sockets: Sockets) -> Self {
        let (balancer, nodes) = (watch::Sender::new(Order::Run), watch::Sender::new(Order::Run));
        let up = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let saving = Saving::of(&plan.run, plan.nodes.iter().map(|node| node.name.as_str()));
        // The nodes first: the balancer then finds them at its first look.
        for node in plan.nodes {
            tasks.spawn(keep(node, nodes.subscribe(), up.clone()));
        }
        let door = Door { plan: plan.balancer, sockets: Some(sockets), restart_timeout: plan.restart_timeout };
        tasks.spawn(door.keep(balancer.subscribe(), up.clone()));
        let (shutdown_timeout, end) = (plan.shutdown_timeout, End::Graceful);
        Self { tasks, balancer, nodes, balancer_runs: true, up, saving, shutdown_timeout, end }
    }

    /// The next keeper that has ended; none when all have.
    async fn next(&mut self) -> Option<(String, Kept)> {
        let (name, kept) = self.tasks.join_next().await?.unwrap_or_else(|panic| {
            error!("a keeper ended: {panic}");
            ("a keeper".to_owned(), Kept::Killed)
        });
        self.end = self.end.max(how(&name, &kept));
        self.balancer_runs &= name != BALANCER;
        Some((name, kept))
    }

    /// The balancer has half of the time to finish its requests; then, or as soon as it has, the nodes are told.
    async fn stop(mut self, stop_at_once: impl Future<Output = ()>) -> End {
        let (start, mut at_once) = (Instant::now(), std::pin::pin!(stop_at_once));
        let mut deadline = start + self.shutdown_timeout + limits::KILL_GRACE;
        let half = start + self.shutdown_timeout / 2;
        self.balancer.send_replace(Order::Stop);
        self.nodes.send_replace(Order::LiveOut);
        let mut nodes_told = false;
        loop {
            if !nodes_told && (!self.balancer_runs || Instant::now() >= half) {
                self.nodes.send_replace(Order::Stop);
                nodes_told = true;
                // Each of them counts its own time from now on, and saves its sessions when it is over.
                deadline = Instant::now() + self.shutdown_timeout + limits::KILL_GRACE;
            }
            tokio::select! {
                ended = self.next() => if ended.is_none() { return self.end },
                () = sleep_until(half), if !nodes_told => {}
                () = sleep_until(deadline) => match self.saving.goes_on(Instant::now()) {
                    true => deadline = Instant::now() + limits::SAVE_LOOK,
                    false => break,
                },
                () = &mut at_once => break,
            }
        }
        self.balancer.send_replace(Order::Kill);
        self.nodes.send_replace(Order::Kill);
        while self.next().await.is_some() {}
        self.end
    }
}

/// Says what an administrator should look at.
fn how(child: &str, kept: &Kept) -> End {
    match kept {
        Kept::Killed => {
            warn!(%child, "killed");
            End::Killed
        }
        Kept::Failed(text) => {
            warn!(%child, "{text}, in the middle of its stop: its last lines above say why, and whether its sessions are saved");
            End::Failed
        }
        Kept::Stopped | Kept::Refused(_) | Kept::NotStarted(_) => End::Graceful,
    }
}

#[cfg(test)]
mod tests;
