//! `run/ROUTE.sessions`: a snapshot on the disk, whole or not at all.
//!
//! It is written beside its place and moved there when every byte is on the disk (rename(2), fsync(2) of the folder), so
//! a stop that is cut short leaves what was there before. Only this user may read it: sessions are users' data. It grows as
//! the disk takes it, and not as memory does, so that whoever waits for it sees that something goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Clock, Header,
    codec::{Counts, Reader, Unreadable, Writer},
};
use crate::{limits, names::Route, time::Moment};

/// Where the snapshot of a node stands.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    folder: PathBuf,
    name: String,
}

/// A file of which no more than [`limits::SNAPSHOT_UNSETTLED_BYTES`] are in memory only.
#[derive(Debug)]
pub struct OnDisk {
    file: File,
    unsettled: usize,
}

/// Why a file is set aside instead of being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// What is in it is not what was written.
    Damaged,
    /// The file system does not give it, or does not let it go.
    Unreadable,
    /// It can, but what is in it must not come back.
    Stale,
}

impl SnapshotFile {
    /// That of the node `route` in the folder `run`.
    pub fn of(run: &Path, route: &Route) -> Self {
        Self { folder: run.to_owned(), name: format!("{route}.sessions") }
    }

    /// The snapshots in the folder `run` of nodes that are not `wanted`. What cannot be listed is nobody's loss now.
    pub fn of_others(run: &Path, wanted: impl Fn(&Route) -> bool) -> Vec<PathBuf> {
        let is_of_another = |name: &str| {
            let route = name.strip_suffix(".sessions").and_then(|route| route.parse::<Route>().ok());
            route.is_some_and(|route| !wanted(&route))
        };
        let paths = fs::read_dir(run).into_iter().flatten().flatten().map(|entry| entry.path());
        let named = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_of_another);
        let mut others: Vec<PathBuf> = paths.filter(named).collect();
        others.sort();
        others
    }

    /// Where it stands.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn exists(&self) -> io::Result<bool> {
        self.path().try_exists()
    }

    /// Opens it and reads its header; none when there is no file.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn open(&self) -> Result<Option<Reader<BufReader<File>>>, Unreadable> {
        match File::open(self.path()) {
            Ok(file) => Reader::open(BufReader::new(file)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a snapshot of what `fill` puts into it. When it fails, nothing has changed.
    ///
    /// # Errors
    /// What the file system says, and what `fill` does.
    pub fn write(
        &self,
        header: &Header,
        fill: impl FnOnce(&mut Writer<BufWriter<OnDisk>>) -> io::Result<()>,
    ) -> io::Result<Counts> {
        fs::create_dir_all(&self.folder)?;
        self.remove_unfinished()?;
        let written = self.write_unfinished(header, fill).and_then(|counts| {
            fs::rename(self.unfinished(), self.path())?;
            self.settle()?;
            Ok(counts)
        });
        if written.is_err() {
            // The first error is the one to tell.
            let _ = self.remove_unfinished();
        }
        written
    }

    /// Takes it away, for good even if the machine loses power now. No file is no error.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> io::Result<()> {
        if remove(&self.path())? { self.settle() } else { Ok(()) }
    }

    /// Removes what a stop that was cut short has left, and says whether there was something.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove_unfinished(&self) -> io::Result<bool> {
        remove(&self.unfinished())
    }

    /// Bytes of a snapshot that is being written; none when none is.
    pub fn unfinished_bytes(&self) -> Option<u64> {
        fs::metadata(self.unfinished()).ok().map(|metadata| metadata.len())
    }

    /// Moves it out of the way, to `.damaged-1`, `.unreadable-1` or `.stale-1` behind its name, and gives its new place. Of at most
    /// [`limits::SNAPSHOTS_ASIDE`] such files the oldest one is given up.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_aside(&self, aside: Aside) -> io::Result<PathBuf> {
        let word = match aside {
            Aside::Damaged => "damaged",
            Aside::Unreadable => "unreadable",
            Aside::Stale => "stale",
        };
        let places = (1..=limits::SNAPSHOTS_ASIDE).map(|n| self.folder.join(format!("{}.{word}-{n}", self.name)));
        // What is not there comes first, then the one that was changed first.
        let changed = |place: &PathBuf| fs::symlink_metadata(place).and_then(|metadata| metadata.modified()).ok();
        let place = places.min_by_key(changed).unwrap_or_else(|| self.unfinished());
        fs::rename(self.path(), &place)?;
        self.settle()?;
        Ok(place)
    }

    fn write_unfinished(
        &self,
        header: &Header,
        fill: impl FnOnce(&mut Writer<BufWriter<OnDisk>>) -> io::Result<()>,
    ) -> io::Result<Counts> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.unfinished())?;
        let file = OnDisk { file, unsettled: 0 };
        let mut writer = Writer::begin(BufWriter::with_capacity(limits::SNAPSHOT_BLOCK_BYTES, file), header)?;
        fill(&mut writer)?;
        let (stream, counts) = writer.finish()?;
        stream.into_inner().map_err(io::IntoInnerError::into_error)?.file.sync_all()?;
        Ok(counts)
    }

    fn unfinished(&self) -> PathBuf {
        self.folder.join(format!("{}.unfinished", self.name))
    }

    /// Makes what has changed in the folder last.
    fn settle(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl Write for OnDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsettled += written;
        if self.unsettled >= limits::SNAPSHOT_UNSETTLED_BYTES {
            self.file.sync_data()?;
            self.unsettled = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Clock {
    /// Asks the operating system.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            unix_ms: since.as_millis().try_into().unwrap_or(u64::MAX),
            boot: boot.trim().to_owned(),
            up_ms: Moment::now().since_boot().as_millis().try_into().unwrap_or(u64::MAX),
        }
    }
}

/// Whether there was one.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
