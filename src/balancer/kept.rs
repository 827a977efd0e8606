//! `run/members.json`: what an administrator has set, across restarts.
//!
//! While one process of a balancer takes another one's place both may be told something: each looks whether the other has
//! written, now and then and before it writes itself.
//!
//! Written beside its place and moved there when every byte is on the disk (rename(2), fsync(2) of the folder), as the
//! snapshots of sessions are. What cannot be read is refused whole and kept aside: half an order is none.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use serde::{Deserialize, Serialize};

use super::orders::{self, Orders};
use crate::limits;

const NAME: &str = "members.json";

/// A change of what is written is another number, so that an older release refuses it instead of misreading it.
const VERSION: u32 = 1;

/// Where the orders stand.
#[derive(Clone, Debug)]
pub struct Kept {
    folder: PathBuf,
}

/// What the file looks like from outside: inode, bytes, and the time of the last change. It differs when somebody has
/// written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look(u64, u64, i64, i64);

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    members: &'a Orders,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadBack {
    #[serde(rename = "version")]
    _version: u32,
    members: Orders,
}

/// Read first: what else another version says is not ours to judge.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// The file system's word.
    #[error(transparent)]
    System(#[from] io::Error),
    /// Not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Of another release.
    #[error("it has version {0}, this release reads {VERSION}")]
    OtherVersion(u32),
}

impl Kept {
    /// In the folder `run`.
    pub fn of(run: &Path) -> Self {
        Self { folder: run.to_owned() }
    }

    /// Where the file stands.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// What was set before. A file that cannot be used is moved aside; one line of the log says why and where it is.
    pub(crate) fn load(&self) -> Orders {
        match self.read() {
            Ok(orders) => {
                if !orders.is_empty() {
                    tracing::info!(file = %self.path().display(), members = orders.len(), "set by an administrator");
                }
                orders
            }
            Err(why) => {
                let file = self.path();
                match self.set_aside() {
                    Ok(place) => tracing::warn!(
                        "{}: {why}; what was set of members is not used, they are as in the settings file. \
                         It is kept as {}",
                        file.display(),
                        place.display()
                    ),
                    Err(error) => tracing::warn!(
                        "{}: {why}; what was set of members is not used, and the file cannot be moved aside: {error}",
                        file.display()
                    ),
                }
                Orders::new()
            }
        }
    }

    /// None while there is no file.
    pub(crate) fn look(&self) -> Option<Look> {
        let found = fs::metadata(self.path()).ok()?;
        Some(Look(found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    }

    /// What is in the file; nothing is set where there is none.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub(crate) fn read(&self) -> Result<Orders, Unreadable> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Orders::new()),
            Err(error) => return Err(error.into()),
        };
        let mut text = Vec::new();
        file.take(limits::KEPT_ORDERS_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > limits::KEPT_ORDERS_BYTES {
            return Err(Unreadable::Damaged(format!("it is larger than {} bytes", limits::KEPT_ORDERS_BYTES)));
        }
        let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
        let AnyVersion { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(Unreadable::OtherVersion(version));
        }
        let ReadBack { members, .. } = serde_json::from_slice::<ReadBack>(&text).map_err(damaged)?;
        if !orders::are_good(&members) {
            return Err(Unreadable::Damaged("a weight is not between 1 and 100, or there are too many members".into()));
        }
        Ok(members)
    }

    /// Writes what is set. When it fails, what was there before is still there.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn write(&self, members: &Orders) -> io::Result<()> {
        // Two processes may write at once, while one takes the other's place.
        let unfinished = self.folder.join(format!("{NAME}.unfinished-{}", process::id()));
        let written = self.write_to(&unfinished, members).and_then(|()| {
            fs::rename(&unfinished, self.path())?;
            File::open(&self.folder)?.sync_all()
        });
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn write_to(&self, place: &Path, members: &Orders) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(place)?;
        let mut text = serde_json::to_vec_pretty(&Written { version: VERSION, members })?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()
    }

    /// Of at most [`limits::SNAPSHOTS_ASIDE`] such files the oldest one is given up.
    fn set_aside(&self) -> io::Result<PathBuf> {
        let places = (1..=limits::SNAPSHOTS_ASIDE).map(|n| self.folder.join(format!("{NAME}.damaged-{n}")));
        // What is not there comes first, then the one that was changed first.
        let changed = |place: &PathBuf| fs::symlink_metadata(place).and_then(|metadata| metadata.modified()).ok();
        let place = places.min_by_key(changed).unwrap_or_else(|| self.folder.join(format!("{NAME}.damaged")));
        fs::rename(self.path(), &place)?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::orders::Set, *};
    use crate::observe::Admin;

    fn some() -> Orders {
        let drained = Set { duty: Some(Admin::Drained), weight: Some(7), standby: None };
        Orders::from([("r1".parse().unwrap(), drained)])
    }

    #[test]
    fn what_was_written_is_read_and_no_other_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::of(&folder.path().join("run"));
        assert_eq!(kept.load(), Orders::new());
        kept.write(&some()).unwrap();
        assert_eq!(kept.load(), some());
        kept.write(&Orders::new()).unwrap();
        assert_eq!(kept.load(), Orders::new());
        assert_eq!(fs::read_dir(folder.path().join("run")).unwrap().count(), 1);
    }

    #[test]
    fn what_another_process_has_not_finished_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join(format!("{NAME}.unfinished"));
        fs::write(&other, "half of").unwrap();
        Kept::of(folder.path()).write(&some()).unwrap();
        assert_eq!(fs::read_to_string(other).unwrap(), "half of");
    }

    #[test]
    fn a_file_that_was_written_looks_different() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::of(folder.path());
        let nothing = kept.look();
        kept.write(&some()).unwrap();
        let first = kept.look();
        kept.write(&some()).unwrap();
        assert!(nothing.is_none() && first.is_some() && kept.look() != first);
    }

    #[test]
    fn the_text_of_version_1_is_pinned() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"members":{"r1":{"duty":"drained","weight":7}}}"#;
        fs::write(folder.path().join(NAME), text).unwrap();
        assert_eq!(Kept::of(folder.path()).load(), some());
    }

    #[test]
    fn what_cannot_be_used_is_refused_whole_and_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::of(folder.path());
        let whole = r#"{"version":1,"members":{"r1":{"weight":7}}}"#;
        let cut = (0..whole.len()).map(|end| whole[..end].to_owned());
        let others = [
            r#"{"version":2,"members":{},"more":1}"#,
            r#"{"version":1,"members":{"r1":{"weight":0}}}"#,
            r#"{"version":1,"members":{"r1":{"colour":"red"}}}"#,
            r#"{"version":1,"members":{"r.1":{}}}"#,
        ];
        for text in cut.chain(others.map(str::to_owned)) {
            fs::write(kept.path(), &text).unwrap();
            assert_eq!(kept.load(), Orders::new(), "{text}");
            assert!(!kept.path().exists());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), limits::SNAPSHOTS_ASIDE);
        fs::write(kept.path(), whole).unwrap();
        assert_eq!(kept.load().len(), 1);
    }
}
