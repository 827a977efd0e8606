//! `run/balancer.json`: where the balancer really listens, for the command, when the port was left to the system.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
};

use serde::{Deserialize, Serialize};

const FILE: &str = "balancer.json";

/// A balancer that has bound its port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Where users connect, with the real port.
    pub listen: SocketAddr,
    /// Where the manager answers, if it has an address of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<SocketAddr>,
    /// Its process.
    pub pid: u32,
}

impl Listening {
    /// Writes `balancer.json` into the folder `run`, which is made if need be. Readers see the old file or the new one,
    /// never a part.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, run: &Path) -> io::Result<()> {
        fs::create_dir_all(run)?;
        let unfinished = run.join(format!("{FILE}.{}", process::id()));
        fs::write(&unfinished, serde_json::to_vec(self)?)?;
        fs::rename(&unfinished, path(run))
    }

    /// Reads what [`Listening::write`] has written.
    ///
    /// # Errors
    /// What the file system says; [`io::ErrorKind::InvalidData`] when the file is not ours.
    pub fn read(run: &Path) -> io::Result<Self> {
        let text = fs::read(path(run))?;
        serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Takes the file away, if it still speaks of this process. For the balancer's graceful stop.
    pub fn remove_own(run: &Path) {
        if Self::read(run).is_ok_and(|listening| listening.pid == process::id()) {
            Self::forget(run);
        }
    }

    /// Takes the file away, whoever wrote it. For a start that waits for a new one.
    pub fn forget(run: &Path) {
        let _ = fs::remove_file(path(run));
    }
}

fn path(run: &Path) -> PathBuf {
    run.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_only_the_writer_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let other = Listening { listen: "127.0.0.1:43211".parse().unwrap(), manager: None, pid: process::id() + 1 };
        other.write(&run).unwrap();
        Listening::remove_own(&run);
        assert_eq!(Listening::read(&run).unwrap(), other);

        let own = Listening { pid: process::id(), ..other };
        own.write(&run).unwrap();
        assert_eq!(fs::read_dir(&run).unwrap().count(), 1, "no unfinished file stays behind");
        Listening::remove_own(&run);
        assert!(Listening::read(&run).is_err());
    }

    #[test]
    fn a_strange_file_is_an_error() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join(FILE), "{}").unwrap();
        assert_eq!(Listening::read(run.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
