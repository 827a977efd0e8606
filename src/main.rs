//! tasuki: the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tasuki::cli::run()
}
