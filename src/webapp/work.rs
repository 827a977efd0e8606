//! Where archives are unpacked: a folder of this process, made anew at each start.
//!
//! Nothing in it outlives the process, so nothing is synced to the disk: after a crash the archives are unpacked again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The folder of one process, usually `run/work/ROUTE`. Clones are the same one.
#[derive(Clone, Debug)]
pub(super) struct Work {
    folder: PathBuf,
    next: Arc<AtomicU64>,
}

/// The files of one unpacked archive. They are removed with the last webapp that uses them.
#[derive(Debug)]
pub(super) struct Unpacked {
    folder: PathBuf,
}

impl Work {
    /// Empties the folder of what an earlier life of the process has left. It is made when it is needed.
    ///
    /// # Errors
    /// The operating system's; archives can be unpacked all the same, only the old files stay.
    pub(super) fn open(folder: &Path) -> (Self, io::Result<()>) {
        let emptied = match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        (Self { folder: folder.to_owned(), next: Arc::default() }, emptied)
    }

    /// Fills a new folder for the webapp `name` by `fill`. It has its final name only when it is full.
    ///
    /// # Errors
    /// What `fill` says, or the operating system; nothing is left then.
    pub(super) fn unpack<E>(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), E>,
        failed: impl Fn(io::Error) -> E,
    ) -> Result<Unpacked, E> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let of_name = self.folder.join(name);
        let filling = Unpacked { folder: of_name.join(format!("{number}.tmp")) };
        fs::create_dir_all(&filling.folder).map_err(&failed)?;
        fill(&filling.folder)?;
        let full = Unpacked { folder: of_name.join(number.to_string()) };
        fs::rename(&filling.folder, &full.folder).map_err(&failed)?;
        Ok(full)
    }

    /// For messages.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Unpacked {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Unpacked {
    /// What cannot be removed now goes at the next start.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_life_has_left_is_removed_at_the_start() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("work/r1");
        fs::create_dir_all(folder.join("shop/7")).unwrap();
        let (_, emptied) = Work::open(&folder);
        emptied.unwrap();
        assert!(!folder.exists());
        Work::open(&folder).1.expect("nothing to empty is no failure");
    }

    #[test]
    fn a_folder_is_there_while_it_is_used_and_nothing_is_left_of_a_failure() {
        let run = tempfile::tempdir().unwrap();
        let (work, _) = Work::open(&run.path().join("work"));
        let write = |folder: &Path| fs::write(folder.join("a"), "a");
        let unpacked = work.unpack("shop##2", write, |error| error).unwrap();
        let other = work.unpack("shop##2", write, |error| error).unwrap();
        assert!(unpacked.folder().join("a").exists() && unpacked.folder() != other.folder());
        drop(unpacked);
        let refused = work.unpack("shop##2", |_| Err(io::Error::other("full")), |error| error);
        assert_eq!(refused.unwrap_err().to_string(), "full");
        let left: Vec<_> = fs::read_dir(run.path().join("work/shop##2")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [other.folder()]);
    }
}
