//! `tasuki node` and `tasuki balancer`: one process of the cluster.

use std::{
    env,
    future::Future,
    io,
    mem::ManuallyDrop,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{self, ExitCode},
};

use clap::Args;
use sd_notify::NotifyState;
use tracing::warn;

use super::{Config, Failure, signals};
use crate::{
    balancer::Sockets,
    descriptors, limits, observe,
    server::{self, Exit, Replaced, Succession},
    settings::Settings,
    supervisor::{self, Parent},
};

/// What Rust gives each new thread as its stack, in bytes; actix lets nobody else choose it for its workers.
const STACK: &str = "RUST_MIN_STACK";

/// As [`Balancer`] has it.
const SUCCESSOR: &str = "--successor";

#[derive(Debug, Args)]
pub(super) struct Node {
    /// The node's name, behind the dot in the session cookie [default: node.route]
    #[arg(long)]
    route: Option<String>,
    #[command(flatten)]
    process: Process,
}

#[derive(Debug, Args)]
pub(super) struct Balancer {
    #[command(flatten)]
    process: Process,
    /// Take the place of a balancer on the same socket: accept when the members are known, and say so on standard input
    #[arg(long, hide = true)]
    successor: bool,
}

#[derive(Debug, Args)]
struct Process {
    #[command(flatten)]
    config: Config,
    /// Stop when standard input ends: the supervisor holds its other end
    #[arg(long, hide = true)]
    supervised: bool,
}

impl Node {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let sources = self.process.config.sources().with_flag("--route", "node.route", self.route.clone());
        let settings = sources.load()?.settings;
        settings.node.check_folders()?;
        settings.cluster.secret()?;
        if env::var_os(STACK).is_none() {
            return Err(Failure::System("the node could not be started with a larger stack", with_a_larger_stack()?));
        }
        self.process.run(settings, |settings, _, stop| server::run_node(settings, stop))
    }
}

impl Balancer {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let settings = self.process.config.sources().load()?.settings;
        settings.balancer.check_files()?;
        settings.cluster.secret()?;
        let sockets = supervisor::inherited_sockets().map_err(|error| Failure::System("LISTEN_FDS", error))?;
        let (supervised, is_successor, program) = (self.process.supervised, self.successor, this_program()?);
        self.process.run(settings, |settings, line, stop| {
            let tell_ready = move || {
                if supervised || is_successor {
                    supervisor::tell_ready();
                }
                tell_manager(&[NotifyState::Ready]);
            };
            let replace: Box<dyn Fn(Sockets) -> Replaced> = match line {
                Some(parent) => Box::new(move |_| Box::pin(parent.clone().replace())),
                None => Box::new(move |sockets| Box::pin(replace_by_hand(program.clone(), sockets))),
            };
            let succession = Succession { sockets, is_successor, tell_ready: Box::new(tell_ready), replace };
            server::run_balancer(settings, succession, stop)
        })
    }
}

type Stop = std::pin::Pin<Box<dyn Future<Output = ()>>>;

impl Process {
    /// `server` is given the settings, the line to the supervisor if there is one, and what ends it.
    fn run<F>(
        &self,
        settings: Settings,
        server: impl FnOnce(Settings, Option<Parent>, Stop) -> F,
    ) -> Result<ExitCode, Failure>
    where
        F: Future<Output = Result<Exit, server::Failure>>,
    {
        let program = this_program()?;
        observe::start_log();
        let files = descriptors::raise();
        if files < limits::DESCRIPTORS_FEW {
            warn!(
                files,
                "few files may be open (ulimit -Hn, LimitNOFILE= of systemd): clients wait when there are many"
            );
        }
        // Never dropped: an actor that was started but has not run yet would begin its life in the drop, where there is
        // no runtime, and panic across the one line that says what is wrong. The process ends right after this.
        let system = ManuallyDrop::new(actix::System::new());
        let exit = system.block_on(async {
            let stop = self.stop().map_err(|error| Failure::System("signals cannot be received", error))?;
            let (line, stop) = stop;
            Ok::<_, Failure>(server(settings, line, stop).await?)
        })?;
        match exit {
            Exit::Stopped | Exit::Replaced => Ok(ExitCode::SUCCESS),
            Exit::Restart => Err(Failure::System("the restart failed", replace_process(program))),
        }
    }

    /// Ends at the first signal, or when the supervisor wants it or is gone. A second signal ends the process at once.
    fn stop(&self) -> io::Result<(Option<Parent>, Stop)> {
        let (first, second) = signals::first_and_second()?;
        actix::spawn(async {
            second.await;
            process::exit(1);
        });
        if !self.supervised {
            return Ok((None, Box::pin(first)));
        }
        let (line, gone) = supervisor::parent();
        let stop = async {
            tokio::select! {
                () = first => {}
                () = gone => {}
            }
        };
        Ok((Some(line), Box::pin(stop)))
    }
}

/// Where this executable lies. Asked for at the start: after an upgrade the path leads to the new one, and a restart runs that;
/// who asks then is told of the old one, which is deleted.
fn this_program() -> Result<PathBuf, Failure> {
    env::current_exe().map_err(|error| Failure::System("this executable has no path", error))
}

/// The same command line again, in this process: pid, environment and the supervisor's pipe stay. Returns on failure.
fn replace_process(program: PathBuf) -> io::Error {
    process::Command::new(program).args(env::args_os().skip(1)).exec()
}

/// The same command line again with [`limits::PAGE_STACK_BYTES`] for each worker. Returns on failure.
fn with_a_larger_stack() -> Result<io::Error, Failure> {
    let mut command = process::Command::new(this_program()?);
    Ok(command.args(env::args_os().skip(1)).env(STACK, limits::PAGE_STACK_BYTES.to_string()).exec())
}

/// Starts the same command line again beside this process, which goes when the other accepts. Whoever waits for this
/// process sees it end: a shell shows its prompt again. systemd is told which process to watch from now on.
async fn replace_by_hand(program: PathBuf, sockets: Sockets) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(env::args_os().skip(1).filter(|argument| argument != SUCCESSOR)).arg(SUCCESSOR);
    if let Some(pid) = supervisor::start_successor(command, sockets).await? {
        tell_manager(&[NotifyState::MainPid(pid)]);
    }
    Ok(())
}

/// Tells systemd, if it has started this process and wants to know (`Type=notify`).
fn tell_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("systemd cannot be told: {error}");
    }
}
