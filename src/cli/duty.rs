//! What an administrator sets of a member: `tasuki drain`, `resume`, `disable`, `weight`, `standby`, `reset`.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use tokio::time::sleep;

use super::{
    Config, Failure, block_on,
    client::{Action, AskError, Client},
    complain, say,
};
use crate::{
    limits,
    membership::Duty,
    names::Route,
    observe::{NodeReport, NodeState, StatusReport},
};

/// Between two looks at a node that hands over its sessions.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct OneMember {
    /// The member's route, such as r1
    route: Route,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    member: OneMember,
    /// Wait until the node has handed over its sessions
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct Weight {
    #[command(flatten)]
    member: OneMember,
    /// Its share of new sessions, 1 to 100
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    weight: u8,
}

#[derive(Debug, Args)]
pub(super) struct Standby {
    #[command(flatten)]
    member: OneMember,
    /// Whether it is a standby member
    standby: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Why a drain was not waited for to its end. The node drains all the same.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDrained {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0} drains, but no other node serves: its sessions stay until one does (tasuki resume {0})")]
    NobodyElse(Route),
    #[error("{0} is not there any more")]
    Gone(Route),
    #[error("{0} does not drain any more: somebody has resumed it")]
    Resumed(Route),
    #[error("{route} still owns {owned} sessions after {seconds} s; it goes on draining", seconds = limits::DRAIN_TIMEOUT.as_secs())]
    TooLate { route: Route, owned: usize },
}

/// How far a drain is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// So many sessions are still to move.
    Moving(usize),
    /// None; so many stay, because their webapp has no `<distributable/>`.
    Over { staying: usize },
}

impl OneMember {
    pub(super) fn resume(self) -> Result<ExitCode, Failure> {
        self.set(Action::Resume, |route| format!("{route} serves again"))
    }

    pub(super) fn disable(self) -> Result<ExitCode, Failure> {
        self.set(Action::Disable, |route| {
            format!("{route} is disabled: it gets no request until \"tasuki resume {route}\"")
        })
    }

    pub(super) fn reset(self) -> Result<ExitCode, Failure> {
        self.set(Action::Reset, |route| format!("{route} is as the settings file says"))
    }

    fn set(self, action: Action, done: impl Fn(&Route) -> String) -> Result<ExitCode, Failure> {
        let client = self.client()?;
        block_on(async { Ok(order(&client, &self.route, action).await?) })?;
        say(&done(&self.route));
        Ok(ExitCode::SUCCESS)
    }

    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::of(&self.config.sources().load()?.settings)?)
    }
}

impl Weight {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Self { member, weight } = self;
        member.set(Action::Weight(weight), |route| format!("{route} has weight {weight}"))
    }
}

impl Standby {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Self { member, standby } = self;
        member.set(Action::Standby(standby == Switch::On), |route| match standby {
            Switch::On => format!("{route} is a standby member: it is used when no other one of its set may serve"),
            Switch::Off => format!("{route} is no standby member"),
        })
    }
}

impl Drain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Self { member, wait } = self;
        let (client, route) = (member.client()?, member.route);
        block_on(async {
            order(&client, &route, Action::Drain).await?;
            if !wait {
                say(&drained(&route, &client.status().await?));
                return Ok(());
            }
            Ok(wait_until_drained(&client, &route).await?)
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Gives an order, and repeats the balancer's warning, if it has one.
async fn order(client: &Client, route: &Route, action: Action) -> Result<(), AskError> {
    let accepted = client.set(route, action).await?;
    if let Some(warning) = accepted.warning {
        complain(&format!("warning: {warning}"));
    }
    Ok(())
}

async fn wait_until_drained(client: &Client, route: &Route) -> Result<(), NotDrained> {
    let begun = Instant::now();
    loop {
        match progress(&client.status().await?, route)? {
            Progress::Over { staying } => {
                say(&over(route, staying, begun.elapsed()));
                return Ok(());
            }
            Progress::Moving(owned) if begun.elapsed() >= limits::DRAIN_TIMEOUT => {
                return Err(NotDrained::TooLate { route: route.clone(), owned });
            }
            Progress::Moving(_) => sleep(LOOK).await,
        }
    }
}

fn progress(report: &StatusReport, route: &Route) -> Result<Progress, NotDrained> {
    let node = report.nodes.iter().find(|node| node.route == *route).ok_or(NotDrained::Gone(route.clone()))?;
    if node.terms.admin == Default::default() {
        return Err(NotDrained::Resumed(route.clone()));
    }
    let staying = node.staying.min(node.sessions.owned);
    match node.sessions.owned - staying {
        // What it owned was not counted before it answers.
        0 if node.pid.is_none() => Ok(Progress::Moving(0)),
        0 => Ok(Progress::Over { staying }),
        _ if !report.nodes.iter().any(|other| takes_over(other, route)) => Err(NotDrained::NobodyElse(route.clone())),
        owned => Ok(Progress::Moving(owned)),
    }
}

fn takes_over(node: &NodeReport, route: &Route) -> bool {
    node.route != *route && node.state == NodeState::Ready && node.duty == Duty::Serving
}

fn over(route: &Route, staying: usize, took: Duration) -> String {
    let took = took.as_secs_f32();
    match staying {
        0 => format!("{route} is drained: it owns no sessions, after {took:.1} s"),
        _ => format!(
            "{route} is drained, after {took:.1} s; {staying} sessions of webapps without <distributable/> stay with it"
        ),
    }
}

/// What a drain means: other nodes take the sessions over, or nobody does.
fn drained(route: &Route, report: &StatusReport) -> String {
    match report.nodes.iter().any(|node| takes_over(node, route)) {
        true => format!("{route} drains: it gets no new sessions, and those it has move on"),
        false => format!(
            "{route} drains, and no other node serves: users get the sorry page until one does (tasuki resume {route})"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::status::tests::report, observe::Admin};

    fn r1() -> Route {
        "r1".parse().unwrap()
    }

    #[test]
    fn a_drain_that_leaves_nobody_says_so() {
        let mut both = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Ready, &["r1"])]);
        assert!(drained(&r1(), &both).contains("move on"));
        both.nodes[1].duty = Duty::Draining;
        assert!(drained(&r1(), &both).ends_with("(tasuki resume r1)"));
        assert!(drained(&r1(), &report(&[("r1", NodeState::Ready, &[])])).contains("sorry page"));
    }

    #[test]
    fn a_drain_is_over_when_nothing_is_left_that_can_move() {
        let mut report = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Ready, &["r1"])]);
        assert!(matches!(progress(&report, &r1()), Err(NotDrained::Resumed(_))), "somebody has resumed it");
        report.nodes[0].terms.admin = Admin::Drained;
        assert_eq!(progress(&report, &r1()).unwrap(), Progress::Moving(12));
        report.nodes[0].staying = 5;
        assert_eq!(progress(&report, &r1()).unwrap(), Progress::Moving(7));
        report.nodes[0].sessions.owned = 5;
        assert_eq!(progress(&report, &r1()).unwrap(), Progress::Over { staying: 5 });
        assert!(over(&r1(), 5, LOOK).contains("5 sessions of webapps without <distributable/>"));
        report.nodes[0].pid = None;
        assert_eq!(progress(&report, &r1()).unwrap(), Progress::Moving(0), "it does not answer");
    }

    #[test]
    fn nobody_waits_for_a_drain_that_cannot_end() {
        let mut report = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Failed, &["r1"])]);
        report.nodes[0].terms.admin = Admin::Drained;
        assert!(matches!(progress(&report, &r1()), Err(NotDrained::NobodyElse(_))));
        assert!(matches!(progress(&report, &"r9".parse().unwrap()), Err(NotDrained::Gone(_))));
    }
}
