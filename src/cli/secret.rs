//! `tasuki secret`: makes the secret of a cluster that spans several machines.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{Config, Failure, say};
use crate::settings::{DEFAULT_SECRET_FILE, Secret, variable_of};

#[derive(Debug, Args)]
pub(super) struct MakeSecret {
    /// The file to make [default: cluster.secret_file, or conf/secret]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: Config,
}

impl MakeSecret {
    /// Writes a new file, and says what to do with it. The secret itself is not shown.
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let file = match self.file {
            Some(file) => file,
            None => self.config.sources().load()?.settings.cluster.secret_file.unwrap_or(DEFAULT_SECRET_FILE.into()),
        };
        let made = Secret::draw().and_then(|secret| secret.write_new(&file));
        made.map_err(|error| Failure::Secret { file: file.clone(), problem: problem(&error) })?;
        say(&next_steps(&file));
        Ok(ExitCode::SUCCESS)
    }
}

fn problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            "there is such a file already, and a secret is not written over; name another file".to_owned()
        }
        _ => format!("cannot be written: {error}"),
    }
}

fn next_steps(file: &Path) -> String {
    let (file, variable) = (file.display(), variable_of("cluster.secret_file"));
    format!(
        "{file}: a new secret, for this user only (mode 600)

Next, on every machine of the cluster:
  copy this file there, as it is:   scp -p {file} OTHER-MACHINE:{file}
  name it in [cluster]:             secret_file = \"{file}\"   (or {variable}={file})
  then let the cluster reach out:   bind = \"the address by which the other machines reach this one\"
  and ask whether all is good:      tasuki check"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_steps_name_the_file_and_the_key() {
        let text = next_steps(Path::new("conf/secret"));
        for part in ["conf/secret: a new secret", "secret_file = \"conf/secret\"", "TASUKI__CLUSTER__SECRET_FILE"] {
            assert!(text.contains(part), "{part:?} is in\n{text}");
        }
    }
}
