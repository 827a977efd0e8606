//! Whether nodes that should have ended are still writing their sessions to the disk.

use std::path::Path;

use tokio::time::Instant;

use crate::{limits, names::Route, session::snapshot::file::SnapshotFile};

/// The snapshots that are being written.
pub(super) struct Saving {
    files: Vec<SnapshotFile>,
    /// How much there was of them, and when that changed last.
    seen: Option<(u64, Instant)>,
}

impl Saving {
    /// Of these nodes, whose files are in the folder `run`.
    pub(super) fn of<'a>(run: &Path, routes: impl Iterator<Item = &'a str>) -> Self {
        let routes = routes.filter_map(|route| route.parse::<Route>().ok());
        Self { files: routes.map(|route| SnapshotFile::of(run, &route)).collect(), seen: None }
    }

    /// Whether a node is writing, and not stuck.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let written: Vec<u64> = self.files.iter().filter_map(SnapshotFile::unfinished_bytes).collect();
        // The end of one of several is a change too.
        let (bytes, count) = (written.iter().sum::<u64>(), written.len() as u64);
        let known = self.seen.filter(|(seen, _)| *seen == bytes + count).map_or(now, |(_, since)| since);
        self.seen = Some((bytes + count, known));
        count > 0 && now.duration_since(known) < limits::SAVE_PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[test]
    fn a_file_that_grows_is_waited_for_and_one_that_stands_still_not_for_ever() {
        let run = tempfile::tempdir().unwrap();
        let mut saving = Saving::of(run.path(), ["r1", "r2"].into_iter());
        let start = Instant::now();
        assert!(!saving.goes_on(start), "nobody writes");
        let file = run.path().join("r2.sessions.unfinished");
        fs::write(&file, "1").unwrap();
        let late = start + limits::SAVE_PATIENCE - Duration::from_secs(1);
        assert!(saving.goes_on(start) && saving.goes_on(late));
        fs::write(&file, "12").unwrap();
        assert!(saving.goes_on(late) && saving.goes_on(start + limits::SAVE_PATIENCE));
        assert!(!saving.goes_on(late + limits::SAVE_PATIENCE), "the disk hangs");
        fs::remove_file(&file).unwrap();
        assert!(!saving.goes_on(start));
    }
}
