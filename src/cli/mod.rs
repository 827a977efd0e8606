//! The command line: one file a command, and the only place that prints.
//!
//! Exit codes: 0 good, 1 failed, 2 wrong use (options, settings).

mod check;
mod client;
mod deploy;
mod duty;
mod node;
mod restart;
mod secret;
mod serve;
mod signals;
mod status;
mod up;
mod webapps;

use std::{
    future::Future,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    server,
    settings::{Refusal, Sources},
    supervisor,
};

const AFTER_HELP: &str = "\
Examples:
  tasuki                              the balancer on 127.0.0.1:12121 and two nodes, until Ctrl-C
  tasuki --nodes 3                    the same with three nodes
  tasuki status                       who is there, who is in sync
  tasuki drain r1 --wait              r1 gets no new sessions; waits until those it has are elsewhere
  tasuki weight r1 10                 r1 gets a smaller share of new sessions
  tasuki restart --rolling            every node, one after the other, then the balancer; no session is lost
  tasuki restart balancer             a new process on the same socket; no connection is refused
  tasuki deploy shop.war --canary r1  r1 serves it first; when its users see no failed page the others follow
  tasuki rollback shop                back to the version before
  tasuki check --config my.toml       is this file good?
  TASUKI__SESSION__TIMEOUT=1h tasuki  any setting by environment variable

Settings: built-in defaults, then conf/tasuki.toml (or --config FILE), then environment variables
TASUKI__SECTION__KEY (TASUKI__BALANCER__LISTEN=127.0.0.1:8080), then options.
RUST_LOG=debug shows more of what happens.

Exit codes: 0 good, 1 failed, 2 wrong use (an option or a setting).";

/// An application server that carries users' sessions from node to node.
#[derive(Debug, Parser)]
#[command(name = "tasuki", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
struct Tasuki {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: up::Up,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the balancer and the nodes of this machine, and keep them running (what tasuki alone does)
    Up(up::Up),
    /// Run one node
    Node(serve::Node),
    /// Run the balancer
    Balancer(serve::Balancer),
    /// Show the balancer's nodes, their sessions, and who is in sync with whom
    Status(status::Status),
    /// Give a member no new sessions; those of a node move to other nodes, at their next request or before
    Drain(duty::Drain),
    /// Let a drained or disabled member serve again
    Resume(duty::OneMember),
    /// Send a member no request at all; other nodes take its sessions over
    Disable(duty::OneMember),
    /// Set a member's share of new sessions
    Weight(duty::Weight),
    /// Use a member only when no other one of its set may serve (on), or as all others (off)
    Standby(duty::Standby),
    /// Take back what was set of a member: everything is as the settings file says
    Reset(duty::OneMember),
    /// Restart a node, the balancer, or all of them one after the other, and wait until it is back and in sync
    Restart(restart::Restart),
    /// Put a webapp on all nodes at once, checked everywhere before any of them serves it
    Deploy(deploy::Deploy),
    /// Take back what was deployed under a name on all nodes
    Undeploy(deploy::Undeploy),
    /// Go back to what was deployed before on all nodes
    Rollback(deploy::Rollback),
    /// Show which version of each webapp answers on which node
    Webapps(webapps::Webapps),
    /// Say whether the settings are good
    Check(check::Check),
    /// Make the secret of a cluster that spans several machines
    Secret(secret::MakeSecret),
}

/// Where settings come from, for every command.
#[derive(Clone, Debug, Default, Args)]
struct Config {
    /// The settings file [default: conf/tasuki.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command did not do what it was asked to; its text is one line.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] Refusal),
    #[error(transparent)]
    Supervisor(#[from] supervisor::Failure),
    #[error(transparent)]
    Server(#[from] server::Failure),
    #[error(transparent)]
    Ask(#[from] client::AskError),
    #[error(transparent)]
    Restart(#[from] restart::NotRestarted),
    #[error(transparent)]
    Drain(#[from] duty::NotDrained),
    #[error(transparent)]
    Deploy(#[from] deploy::NotDeployed),
    #[error("{file}: {problem}", file = file.display())]
    Secret { file: PathBuf, problem: String },
    #[error("{0}")]
    Listen(io::Error),
    /// What is wrong with the certificate or its key.
    #[error("{0}")]
    Certificate(String),
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

/// Does what the command line says.
///
/// Ends the process itself for `--help`, `--version` (code 0) and for options that are not understood (code 2).
pub fn run() -> ExitCode {
    let arguments = Tasuki::parse();
    let done = match arguments.command.unwrap_or(Command::Up(arguments.up)) {
        Command::Up(up) => up.run(),
        Command::Node(node) => node.run(),
        Command::Balancer(balancer) => balancer.run(),
        Command::Status(status) => status.run(),
        Command::Drain(drain) => drain.run(),
        Command::Resume(member) => member.resume(),
        Command::Disable(member) => member.disable(),
        Command::Weight(weight) => weight.run(),
        Command::Standby(standby) => standby.run(),
        Command::Reset(member) => member.reset(),
        Command::Restart(restart) => restart.run(),
        Command::Deploy(deploy) => deploy.run(),
        Command::Undeploy(undeploy) => undeploy.run(),
        Command::Rollback(rollback) => rollback.run(),
        Command::Webapps(webapps) => webapps.run(),
        Command::Check(check) => check.run(),
        Command::Secret(secret) => secret.run(),
    };
    done.unwrap_or_else(|failure| {
        complain(&failure.to_string());
        ExitCode::from(failure.exit_code())
    })
}

impl Config {
    fn sources(&self) -> Sources {
        Sources::of_this_process(self.config.clone())
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Certificate(_) | Self::Supervisor(supervisor::Failure::Settings(_)) => 2,
            _ => 1,
        }
    }
}

/// Runs a command that asks the balancer, or watches children, on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::System("the runtime does not start", error))?.block_on(work)
}

/// A line a row, in columns as wide as they must be.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Prints to standard output. That nobody reads it any more (`tasuki status | head`) is no error.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "tasuki: {text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Tasuki::command().debug_assert();
    }

    #[test]
    fn no_command_is_up() {
        let arguments = Tasuki::try_parse_from(["tasuki", "--nodes", "3"]).unwrap();
        assert!(arguments.command.is_none());
        assert_eq!(arguments.up.nodes(), 3);
        assert_eq!(Tasuki::try_parse_from(["tasuki"]).unwrap().up.nodes(), 2);
    }

    #[test]
    fn wrong_use_is_code_2() {
        for wrong in [
            &["tasuki", "start"][..],
            &["tasuki", "--nodes", "0"],
            &["tasuki", "--nodes", "10"],
            &["tasuki", "drain"],
            &["tasuki", "drain", "r.1"],
            &["tasuki", "weight", "r1"],
            &["tasuki", "weight", "r1", "0"],
            &["tasuki", "weight", "r1", "101"],
            &["tasuki", "standby", "r1", "yes"],
            &["tasuki", "resume", "r1", "--wait"],
            &["tasuki", "deploy"],
            &["tasuki", "deploy", "shop.war", "--watch", "5"],
            &["tasuki", "deploy", "shop.war", "--canary", "r1", "--watch", "301"],
            &["tasuki", "rollback"],
            &["tasuki", "restart"],
            &["tasuki", "restart", "r1", "--rolling"],
        ] {
            assert_eq!(Tasuki::try_parse_from(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
