//! `run/ROUTE.node.json`: where a node of this machine answers, and the key that deployments must show.
//!
//! The control interface believes every program of this machine that it means what it asks; who may put code on all nodes is
//! a question of who may read this file.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use serde::{Deserialize, Serialize};

use crate::names::Route;

const END: &str = ".node.json";

/// A running node, for who may read its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Badge {
    /// Its name.
    pub route: Route,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// Another one at each start: 32 hex digits.
    pub key: String,
}

impl Badge {
    /// A new one for this process.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn draw(route: &Route, http: SocketAddr) -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let key = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { route: route.clone(), http, pid: process::id(), key })
    }

    /// Writes it into the folder `run`, which is made if need be, for this user alone. Readers see the old file or the new
    /// one, never a part.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, run: &Path) -> io::Result<()> {
        fs::create_dir_all(run)?;
        let unfinished = run.join(format!("{}{END}.{}", self.route, process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&unfinished, self.path(run))
    }

    /// Takes the file away, if it still speaks of this process. For the graceful stop.
    pub fn remove(&self, run: &Path) {
        if read(&self.path(run)).is_ok_and(|badge| badge == *self) {
            let _ = fs::remove_file(self.path(run));
        }
    }

    /// Those of all nodes that use this folder, in the order of their routes; some may have died.
    ///
    /// # Errors
    /// What the file system says: no such folder, or no permission to read a file in it.
    pub fn all(run: &Path) -> io::Result<Vec<Self>> {
        let mut badges = Vec::new();
        for entry in fs::read_dir(run)? {
            let path = entry?.path();
            if path.to_str().is_some_and(|path| path.ends_with(END)) {
                badges.push(
                    read(&path)
                        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
                );
            }
        }
        badges.sort_by(|a, b| a.route.cmp(&b.route));
        Ok(badges)
    }

    fn path(&self, run: &Path) -> PathBuf {
        run.join(format!("{}{END}", self.route))
    }
}

fn read(path: &Path) -> io::Result<Badge> {
    serde_json::from_slice(&fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn badge(route: &str) -> Badge {
        Badge::draw(&route.parse().unwrap(), "127.0.0.1:18080".parse().unwrap()).unwrap()
    }

    #[test]
    fn every_node_of_the_folder_is_found_and_only_its_user_may_look() {
        let run = tempfile::tempdir().unwrap();
        let (r2, r1) = (badge("r2"), badge("r1"));
        r2.write(run.path()).unwrap();
        r1.write(run.path()).unwrap();
        fs::write(run.path().join("balancer.json"), "{}").unwrap();
        assert_eq!(Badge::all(run.path()).unwrap(), [r1.clone(), r2]);
        let mode = fs::metadata(r1.path(run.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        badge("r1").remove(run.path());
        assert_eq!(Badge::all(run.path()).unwrap().len(), 2, "that of another life");
        r1.remove(run.path());
        assert_eq!(Badge::all(run.path()).unwrap().len(), 1);
        assert_ne!(badge("r1").key, badge("r1").key);
    }
}
