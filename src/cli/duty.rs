//! `tasuki drain` and `tasuki resume`.

use std::process::ExitCode;

use clap::Args;

use super::{
    Config, Failure, block_on,
    client::{Action, Client},
    say,
};
use crate::{
    membership::Duty,
    names::Route,
    observe::{NodeReport, NodeState, StatusReport},
};

#[derive(Debug, Args)]
pub(super) struct OneNode {
    /// The node's route, such as r1
    route: Route,
    #[command(flatten)]
    config: Config,
}

impl OneNode {
    pub(super) fn drain(self) -> Result<ExitCode, Failure> {
        let client = self.client()?;
        let report = block_on(async {
            client.order(&self.route, Action::Drain).await?;
            Ok(client.status().await?)
        })?;
        say(&drained(&self.route, &report));
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn resume(self) -> Result<ExitCode, Failure> {
        let client = self.client()?;
        block_on(async { Ok(client.order(&self.route, Action::Resume).await?) })?;
        say(&format!("{} serves again", self.route));
        Ok(ExitCode::SUCCESS)
    }

    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::of(&self.config.sources().load()?.settings)?)
    }
}

/// What a drain means: another node takes the sessions over, or nobody does.
fn drained(route: &Route, report: &StatusReport) -> String {
    let takes_over =
        |node: &&NodeReport| node.route != *route && node.state == NodeState::Ready && node.duty == Duty::Serving;
    match report.nodes.iter().find(takes_over) {
        Some(_) => format!("{route} drains: it gets no new sessions, and those it has move on with their next request"),
        None => format!(
            "{route} drains, and no other node serves: users get the sorry page until one does (tasuki resume {route})"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::report;

    #[test]
    fn a_drain_that_leaves_nobody_says_so() {
        let r1: Route = "r1".parse().unwrap();
        let mut both = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Ready, &["r1"])]);
        assert!(drained(&r1, &both).contains("move on"));
        both.nodes[1].duty = Duty::Draining;
        assert!(drained(&r1, &both).ends_with("(tasuki resume r1)"));
        assert!(drained(&r1, &report(&[("r1", NodeState::Ready, &[])])).contains("sorry page"));
    }
}
