//! `run/ROUTE.lock`: of the processes of one node only one at a time uses what is in its run folder.
//!
//! A node that stops closes its ports before it saves its sessions. Its next life, which finds them free, would take the
//! file that is being written for a leftover, or load nothing now and the old sessions after a later crash. The lock ends with
//! its process, however that ends (flock(2)); the file stays, for who waits at a removed one would wait at nothing.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::Path,
    process,
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{Failure, cannot_write};
use crate::{limits, names::Route, settings::absolute};

/// What this process has for itself until this value is dropped.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

/// What came of one look at the lock.
#[derive(Debug)]
enum Look {
    Taken(RunLock),
    Held,
}

impl RunLock {
    /// Waits until the earlier life of the node `route` is over, for as long as `patience`.
    ///
    /// # Errors
    /// The other process goes on, or the file cannot be used.
    pub(super) async fn take(run: &Path, route: &Route, patience: Duration) -> Result<Self, Failure> {
        let cannot_use = |error| Failure(cannot_write(run, &error));
        fs::create_dir_all(run).map_err(cannot_use)?;
        let file = run.join(format!("{route}.lock"));
        match timeout(patience, wait(&file, route)).await {
            Ok(taken) => taken.map_err(cannot_use),
            Err(_) => Err(Failure(refusal(&file, route))),
        }
    }
}

async fn wait(file: &Path, route: &Route) -> io::Result<RunLock> {
    let mut is_told = false;
    loop {
        match look(file)? {
            Look::Taken(lock) => return Ok(lock),
            Look::Held if !is_told => {
                is_told = true;
                warn!(%route, "waiting for the earlier process{} of this node to end: it has locked {}", holder(file), shown(file));
            }
            Look::Held => {}
        }
        sleep(limits::LOCK_LOOK).await;
    }
}

fn look(path: &Path) -> io::Result<Look> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            // For people. A disk that is full is no reason not to start.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", process::id()));
            Ok(Look::Taken(RunLock { _file: file }))
        }
        Err(TryLockError::WouldBlock) => Ok(Look::Held),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn refusal(file: &Path, route: &Route) -> String {
    format!(
        "another process{} runs as {route} and has locked {}; stop it, or give this node another name (node.route) or \
         folder (node.run)",
        holder(file),
        shown(file)
    )
}

/// Its pid behind a space, if it could write that down.
fn holder(file: &Path) -> String {
    let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    pid.map_or(String::new(), |pid| format!(" {pid}"))
}

fn shown(file: &Path) -> String {
    absolute(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(run: &Path, route: &str, patience: Duration) -> Result<RunLock, Failure> {
        RunLock::take(run, &route.parse().unwrap(), patience).await
    }

    #[tokio::test]
    async fn a_second_life_waits_for_the_first_and_other_nodes_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let first = take(&run, "r1", Duration::ZERO).await.unwrap();
        let _other = take(&run, "r2", Duration::ZERO).await.unwrap();
        let second = tokio::spawn({
            let run = run.clone();
            async move { take(&run, "r1", Duration::from_secs(60)).await.map(drop) }
        });
        sleep(limits::LOCK_LOOK * 2).await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap().unwrap();
        take(&run, "r1", Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn who_waited_in_vain_names_the_file_and_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let _first = take(folder.path(), "r1", Duration::ZERO).await.unwrap();
        let Failure(why) = take(folder.path(), "r1", limits::LOCK_LOOK).await.unwrap_err();
        let file = folder.path().join("r1.lock");
        let expected =
            format!("another process {} runs as r1 and has locked {}; stop it", process::id(), file.display());
        assert!(why.starts_with(&expected), "{why}");
        fs::write(&file, "").unwrap();
        let Failure(why) = take(folder.path(), "r1", Duration::ZERO).await.unwrap_err();
        assert!(why.starts_with("another process runs as r1"), "{why}");
    }

    #[tokio::test]
    async fn a_folder_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        fs::write(&run, "a file").unwrap();
        let Failure(why) = take(&run, "r1", Duration::ZERO).await.unwrap_err();
        assert!(why.starts_with(&format!("cannot write into {} (node.run): ", run.display())), "{why}");
    }
}
