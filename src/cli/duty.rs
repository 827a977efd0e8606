//! `tasuki drain` and `tasuki resume`.

use std::process::ExitCode;

use clap::Args;

use super::{
    Config, Failure, block_on,
    client::{Action, Client},
    say,
};
use crate::names::Route;

#[derive(Debug, Args)]
pub(super) struct OneNode {
    /// The node's route, such as r1
    route: Route,
    #[command(flatten)]
    config: Config,
}

impl OneNode {
    pub(super) fn drain(self) -> Result<ExitCode, Failure> {
        let done = "drains: it gets no new sessions, and those it has move on with their next request";
        self.ask(Action::Drain, done)
    }

    pub(super) fn resume(self) -> Result<ExitCode, Failure> {
        self.ask(Action::Resume, "serves again")
    }

    fn ask(self, action: Action, done: &str) -> Result<ExitCode, Failure> {
        let client = Client::of(&self.config.sources().load()?.settings)?;
        block_on(async { Ok(client.order(&self.route, action).await?) })?;
        say(&format!("{} {done}", self.route));
        Ok(ExitCode::SUCCESS)
    }
}
