//! One child process: started, watched, started again when it ends, and stopped by closing its standard input.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    process::{Child, ChildStdin, Command},
    sync::watch,
    time::sleep,
};
use tracing::{info, warn};

use super::backoff::Backoff;
use crate::settings::variable_of;

/// How one child is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildPlan {
    /// `balancer`, or the node's route.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Environment variables beside those of this process.
    pub variables: Vec<(String, String)>,
}

impl ChildPlan {
    /// What the child gets for the setting `key`, if the supervisor chooses it.
    pub fn chosen(&self, key: &str) -> Option<&str> {
        let name = variable_of(key);
        self.variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.as_str())
    }
}

/// What the keeper of a child is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Keep it alive.
    Run,
    /// Let it run, and do not start it again: it may have been told to stop by somebody else, as by systemd's
    /// `KillMode=control-group`.
    LiveOut,
    /// Stop it gracefully: close its standard input and wait.
    Stop,
    /// Kill it.
    Kill,
}

/// Why a keeper has ended.
#[derive(Debug)]
pub(super) enum Kept {
    /// The child was told to stop and has.
    Stopped,
    /// It has ended meanwhile, but not well; this is how.
    Failed(String),
    /// The child had to be killed.
    Killed,
    /// The child ended with this exit code before everything was up: it cannot work as it is set up.
    Refused(i32),
    /// The process could not be started.
    NotStarted(io::Error),
}

/// How one life of a child went.
pub(super) enum Life {
    Ended(End),
    Stopped(Kept),
}

/// How a life ended that nobody had asked to end.
pub(super) struct End {
    pid: Option<u32>,
    code: Option<i32>,
    text: String,
    /// There was no process at all.
    not_started: Option<io::Error>,
}

/// What becomes of a child whose life has ended: it is started again, sooner or later.
pub(super) struct Lives<'a> {
    name: &'a str,
    up: &'a AtomicBool,
    backoff: Backoff,
    first: bool,
}

/// Keeps one child running until it is ordered to stop. `up` turns true when the whole system has come up once.
pub(super) async fn keep(plan: ChildPlan, mut orders: watch::Receiver<Order>, up: Arc<AtomicBool>) -> (String, Kept) {
    let kept = keep_running(&plan, &mut orders, &up).await;
    (plan.name, kept)
}

async fn keep_running(plan: &ChildPlan, orders: &mut watch::Receiver<Order>, up: &AtomicBool) -> Kept {
    let mut lives = Lives::new(&plan.name, up);
    while *orders.borrow() == Order::Run {
        let begun = Instant::now();
        let life = match start(plan) {
            Ok(started) => watch_one(started, orders).await,
            Err(error) => Life::Ended(End::not_started(error)),
        };
        if let Some(kept) = lives.next(life, begun, orders).await {
            return kept;
        }
    }
    Kept::Stopped
}

impl<'a> Lives<'a> {
    pub(super) fn new(name: &'a str, up: &'a AtomicBool) -> Self {
        Self { name, up, backoff: Backoff::default(), first: true }
    }

    /// Waits until the next life may begin; none may when this says how it ends.
    pub(super) async fn next(
        &mut self,
        life: Life,
        begun: Instant,
        orders: &mut watch::Receiver<Order>,
    ) -> Option<Kept> {
        let end = match life {
            Life::Stopped(kept) => return Some(kept),
            Life::Ended(End { not_started: Some(error), .. }) if self.first => return Some(Kept::NotStarted(error)),
            Life::Ended(end) => end,
        };
        if let (true, false, Some(code @ 1..=2)) = (self.first, self.up.load(Ordering::Relaxed), end.code) {
            return Some(Kept::Refused(code));
        }
        if *orders.borrow() >= Order::LiveOut {
            return Some(end.kept());
        }
        self.first = false;
        let wait = self.backoff.after(begun.elapsed());
        report(self.name, &end, wait);
        tokio::select! {
            () = sleep(wait) => {}
            () = ordered(orders, Order::LiveOut) => {}
        }
        None
    }
}

async fn watch_one((mut child, stdin): (Child, Option<ChildStdin>), orders: &mut watch::Receiver<Order>) -> Life {
    let pid = child.id();
    tokio::select! {
        status = child.wait() => Life::Ended(End::of(pid, status)),
        () = ordered(orders, Order::Stop) => {
            drop(stdin);
            Life::Stopped(stop(child, orders).await)
        }
    }
}

/// The process gets a group of its own, so that a Ctrl-C in the terminal reaches the supervisor alone.
pub(super) fn command(plan: &ChildPlan) -> Command {
    let mut command = Command::new(&plan.program);
    command.args(&plan.arguments).envs(plan.variables.iter().map(|(name, value)| (name, value))).process_group(0);
    command
}

fn start(plan: &ChildPlan) -> io::Result<(Child, Option<ChildStdin>)> {
    let mut child = command(plan).stdin(Stdio::piped()).spawn()?;
    // Waiting for a child closes the standard input it still has: it must be held apart.
    let stdin = child.stdin.take();
    info!(child = %plan.name, pid = child.id(), "started");
    Ok((child, stdin))
}

/// Waits for a child that has been told to stop.
pub(super) async fn stop(mut child: Child, orders: &mut watch::Receiver<Order>) -> Kept {
    let pid = child.id();
    tokio::select! {
        status = child.wait() => return End::of(pid, status).kept(),
        () = ordered(orders, Order::Kill) => {}
    }
    kill(&mut child).await;
    Kept::Killed
}

pub(super) async fn kill(child: &mut Child) {
    let _ = child.start_kill(); // an error means that it has just ended by itself
    let _ = child.wait().await;
}

/// Ends when the order is at least this one, or when nobody is left to give one.
pub(super) async fn ordered(orders: &mut watch::Receiver<Order>, least: Order) {
    let _ = orders.wait_for(|order| *order >= least).await;
}

fn report(name: &str, end: &End, wait: Duration) {
    let End { pid, text, .. } = end;
    match wait {
        Duration::ZERO => warn!(child = %name, pid, "{text}; starting it again"),
        _ => warn!(child = %name, pid, "{text}; starting it again in {} ms", wait.as_millis()),
    }
}

impl End {
    pub(super) fn of(pid: Option<u32>, status: io::Result<ExitStatus>) -> Self {
        let (code, text) = match status {
            Ok(status) => (status.code(), format!("ended, {status}")),
            Err(error) => (None, format!("cannot be watched: {error}")),
        };
        Self { pid, code, text, not_started: None }
    }

    /// What it is of a child that was to end.
    pub(super) fn kept(self) -> Kept {
        if self.code == Some(0) { Kept::Stopped } else { Kept::Failed(self.text) }
    }

    pub(super) fn not_started(error: io::Error) -> Self {
        Self { pid: None, code: None, text: format!("cannot be started: {error}"), not_started: Some(error) }
    }
}

/// The executable and the arguments of a child that is this program.
pub(super) fn this_program(program: &Path, command: &str, config: Option<&Path>) -> (PathBuf, Vec<OsString>) {
    let mut arguments: Vec<OsString> = vec![command.into(), "--supervised".into()];
    if let Some(config) = config {
        arguments.extend(["--config".into(), config.into()]);
    }
    (program.to_owned(), arguments)
}
