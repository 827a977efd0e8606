//! `tasuki check`: are the settings good?

use std::process::ExitCode;

use clap::Args;

use super::{Config, Failure, say};
use crate::balancer;

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: Config,
}

impl Check {
    /// Reads everything that a start would read, and starts nothing.
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let loaded = self.config.sources().load()?;
        loaded.settings.node.check_folders()?;
        loaded.settings.balancer.check_files()?;
        let tls = loaded.settings.balancer.tls.as_ref();
        tls.map_or(Ok(()), balancer::check_certificate).map_err(Failure::Certificate)?;
        loaded.settings.cluster.secret()?;
        let name = loaded.file.map_or("built-in settings".to_owned(), |file| file.display().to_string());
        say(&format!("{name}: good"));
        Ok(ExitCode::SUCCESS)
    }
}
