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
    /// The child had to be killed.
    Killed,
    /// The child ended with this exit code before everything was up: it cannot work as it is set up.
    Refused(i32),
    /// The process could not be started.
    NotStarted(io::Error),
}

enum Life {
    Ended(End),
    Stopped(Kept),
}

/// How a life ended that nobody had asked to end.
struct End {
    pid: Option<u32>,
    code: Option<i32>,
    text: String,
}

/// Keeps one child running until it is ordered to stop. `up` turns true when the whole system has come up once.
pub(super) async fn keep(plan: ChildPlan, mut orders: watch::Receiver<Order>, up: Arc<AtomicBool>) -> (String, Kept) {
    let kept = keep_running(&plan, &mut orders, &up).await;
    (plan.name, kept)
}

async fn keep_running(plan: &ChildPlan, orders: &mut watch::Receiver<Order>, up: &AtomicBool) -> Kept {
    let mut backoff = Backoff::default();
    let mut first = true;
    while *orders.borrow() == Order::Run {
        let begun = Instant::now();
        let end = match start(plan) {
            Ok(started) => match watch_one(started, orders).await {
                Life::Ended(end) => end,
                Life::Stopped(kept) => return kept,
            },
            Err(error) if first => return Kept::NotStarted(error),
            Err(error) => End { pid: None, code: None, text: format!("cannot be started: {error}") },
        };
        if let (true, false, Some(code @ 1..=2)) = (first, up.load(Ordering::Relaxed), end.code) {
            return Kept::Refused(code);
        }
        first = false;
        let wait = backoff.after(begun.elapsed());
        report(&plan.name, &end, wait);
        tokio::select! {
            () = sleep(wait) => {}
            () = ordered(orders, Order::Stop) => {}
        }
    }
    Kept::Stopped
}

async fn watch_one((mut child, stdin): (Child, Option<ChildStdin>), orders: &mut watch::Receiver<Order>) -> Life {
    let pid = child.id();
    tokio::select! {
        status = child.wait() => Life::Ended(End::of(pid, status)),
        () = ordered(orders, Order::Stop) => Life::Stopped(stop(child, stdin, orders).await),
    }
}

/// Starts the process in a group of its own, so that a Ctrl-C in the terminal reaches the supervisor alone.
fn start(plan: &ChildPlan) -> io::Result<(Child, Option<ChildStdin>)> {
    let mut command = Command::new(&plan.program);
    command.args(&plan.arguments).envs(plan.variables.iter().map(|(name, value)| (name, value)));
    let mut child = command.process_group(0).stdin(Stdio::piped()).spawn()?;
    // Waiting for a child closes the standard input it still has: it must be held apart.
    let stdin = child.stdin.take();
    info!(child = %plan.name, pid = child.id(), "started");
    Ok((child, stdin))
}

async fn stop(mut child: Child, stdin: Option<ChildStdin>, orders: &mut watch::Receiver<Order>) -> Kept {
    drop(stdin);
    let killed = tokio::select! {
        _ = child.wait() => false,
        () = ordered(orders, Order::Kill) => true,
    };
    if !killed {
        return Kept::Stopped;
    }
    let _ = child.start_kill(); // an error means that it has just ended by itself
    let _ = child.wait().await;
    Kept::Killed
}

/// Ends when the order is at least this one, or when nobody is left to give one.
async fn ordered(orders: &mut watch::Receiver<Order>, least: Order) {
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
    fn of(pid: Option<u32>, status: io::Result<ExitStatus>) -> Self {
        match status {
            Ok(status) => Self { pid, code: status.code(), text: format!("ended, {status}") },
            Err(error) => Self { pid, code: None, text: format!("cannot be watched: {error}") },
        }
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
