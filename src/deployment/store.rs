//! What this node keeps on its disk: the manifest, and each archive under its digest.
//!
//! ```text
//! run/deployed/ROUTE/manifest.json          what the cluster has deployed
//!                    3f2a...e1.war          archives, deployed ones and earlier ones
//!                    incoming-1             archives on their way in; removed at the start
//! ```
//!
//! Files are written beside their place, synced and moved there: a kill or a power cut leaves the old state or the new one.
//! Everything here blocks, and belongs on a thread of the blocking pool.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use sha2::{Digest as _, Sha256};

use super::manifest::{Digest, Manifest};
use crate::{limits, names::Route};

const MANIFEST: &str = "manifest.json";

/// The folder of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    folder: Arc<Path>,
    numbers: Arc<AtomicU64>,
}

/// An archive that arrives bit by bit. Dropped before [`Incoming::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    store: Store,
    path: PathBuf,
    file: Option<File>,
    hasher: Sha256,
    bytes: u64,
}

impl Store {
    /// That of the node `route` in the folder `run`, with what it has deployed. What an earlier process has left half is
    /// removed; a manifest that cannot be read is set aside, and the other nodes give it back.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(run: &Path, route: &Route) -> io::Result<(Self, Manifest)> {
        fs::create_dir_all(run)?;
        let folder = run.join("deployed").join(route.as_str());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let store = Self { folder: folder.into(), numbers: Arc::default() };
        for entry in fs::read_dir(&store.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("incoming-") {
                fs::remove_file(entry.path())?;
            }
        }
        let manifest = store.read_manifest();
        Ok((store, manifest))
    }

    fn read_manifest(&self) -> Manifest {
        let path = self.folder.join(MANIFEST);
        let read = fs::read(&path).map(|text| serde_json::from_slice::<Manifest>(&text));
        match read {
            Ok(Ok(manifest)) => manifest,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Manifest::default(),
            Ok(Err(error)) => self.set_aside(&path, &error.to_string()),
            Err(error) => self.set_aside(&path, &error.to_string()),
        }
    }

    fn set_aside(&self, path: &Path, why: &str) -> Manifest {
        let aside = path.with_extension("json.damaged");
        let moved = fs::rename(path, &aside).map_or_else(|error| error.to_string(), |()| aside.display().to_string());
        tracing::error!(
            "{} cannot be read: {why}; what was deployed is asked of the other nodes ({moved})",
            path.display()
        );
        Manifest::default()
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// What the file system says; the file is as it was then.
    pub(super) fn save(&self, manifest: &Manifest) -> io::Result<()> {
        let unfinished = self.unfinished();
        let written = serde_json::to_vec_pretty(manifest).map_err(io::Error::from).and_then(|text| {
            let mut file = create(&unfinished)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.folder.join(MANIFEST))?;
            self.settle()
        });
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Where an archive stands, if it is here.
    pub(super) fn archive(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.path(digest);
        path.is_file().then_some(path)
    }

    /// Where the archives of these names stand; those that are not here are left out.
    pub fn archives(&self, deployed: &BTreeMap<String, Digest>) -> BTreeMap<String, PathBuf> {
        let here = |(name, digest): (&String, &Digest)| Some((name.clone(), self.archive(digest)?));
        deployed.iter().filter_map(here).collect()
    }

    /// Begins to take an archive in.
    ///
    /// # Errors
    /// What the file system says.
    pub fn take_in(&self) -> io::Result<Incoming> {
        let path = self.unfinished();
        let file = Some(create(&path)?);
        Ok(Incoming { store: self.clone(), path, file, hasher: Sha256::new(), bytes: 0 })
    }

    /// Removes archives that nobody wants.
    pub(super) fn sweep(&self, wanted: impl Fn(&Digest) -> bool) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.strip_suffix(".war")?.parse::<Digest>().ok());
            // One that cannot be removed now is removed by the next sweep.
            if digest.is_some_and(|digest| !wanted(&digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.war"))
    }

    fn unfinished(&self) -> PathBuf {
        self.folder.join(format!("incoming-{}", self.numbers.fetch_add(1, Relaxed)))
    }

    fn settle(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl Incoming {
    /// Adds bytes.
    ///
    /// # Errors
    /// More than [`limits::ARCHIVE_BYTES`], or what the file system says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > limits::ARCHIVE_BYTES {
            let most = limits::ARCHIVE_BYTES;
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the archive has more than {most} bytes")));
        }
        self.hasher.update(bytes);
        self.file.as_mut().ok_or_else(|| io::Error::other("it is finished"))?.write_all(bytes)
    }

    /// Everything has come: the archive is in the store, for good. Gives its digest.
    ///
    /// # Errors
    /// It has another digest than `expected`, or what the file system says.
    pub fn finish(mut self, expected: Option<&Digest>) -> io::Result<Digest> {
        let digest = Digest::of(&std::mem::take(&mut self.hasher).finalize());
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            let what = format!("what came has the digest {}, not {}", digest.short(), expected.short());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.file.take().ok_or_else(|| io::Error::other("it is finished"))?.sync_all()?;
        fs::rename(&self.path, self.store.path(&digest))?;
        self.store.settle()?;
        Ok(digest)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone after `finish`.
        let _ = fs::remove_file(&self.path);
    }
}

/// Only this user may read it.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{deployment::manifest::Change, names::NodeId};

    fn open(run: &Path) -> (Store, Manifest) {
        Store::open(run, &"r1".parse().unwrap()).unwrap()
    }

    fn put(store: &Store, bytes: &[u8]) -> Digest {
        let mut incoming = store.take_in().unwrap();
        incoming.write(bytes).unwrap();
        incoming.finish(None).unwrap()
    }

    fn files(store: &Store) -> Vec<String> {
        let entries = fs::read_dir(&store.folder).unwrap();
        let mut files: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        files
    }

    #[test]
    fn an_archive_stands_under_its_digest() {
        let run = tempfile::tempdir().unwrap();
        let (store, manifest) = open(run.path());
        assert_eq!(manifest, Manifest::default());
        let digest = put(&store, b"abc");
        // The digest of "abc" in FIPS 180-4, as everybody knows it.
        assert!(digest.to_string() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(fs::read(store.archive(&digest).unwrap()).unwrap(), b"abc");
        assert_eq!(files(&store), [format!("{digest}.war")]);
    }

    #[test]
    fn what_did_not_arrive_whole_leaves_nothing_behind() {
        let run = tempfile::tempdir().unwrap();
        let (store, _) = open(run.path());
        let expected = put(&store, b"abc");
        let mut wrong = store.take_in().unwrap();
        wrong.write(b"ab").unwrap();
        assert_eq!(wrong.finish(Some(&expected)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut broken_off = store.take_in().unwrap();
        broken_off.write(b"x").unwrap();
        drop(broken_off);
        assert_eq!(files(&store).len(), 1);
        // A process that was killed has no time for that.
        fs::write(store.folder.join("incoming-7"), "x").unwrap();
        assert_eq!(files(&open(run.path()).0).len(), 1);
    }

    #[test]
    fn the_manifest_survives_and_a_damaged_one_is_set_aside() {
        let run = tempfile::tempdir().unwrap();
        let (store, mut manifest) = open(run.path());
        let digest = put(&store, b"abc");
        let entry = manifest.next("shop", Change::Deploy(digest.clone()), NodeId(1)).unwrap();
        manifest.take("shop", &entry);
        store.save(&manifest).unwrap();
        let (store, again) = open(run.path());
        assert_eq!(again, manifest);
        assert_eq!(store.archives(&again.deployed()).keys().collect::<Vec<_>>(), ["shop"]);
        fs::write(store.folder.join(MANIFEST), "{").unwrap();
        assert_eq!(open(run.path()).1, Manifest::default());
        assert!(store.folder.join("manifest.json.damaged").exists());
    }

    #[test]
    fn only_what_is_wanted_stays() {
        let run = tempfile::tempdir().unwrap();
        let (store, _) = open(run.path());
        let (old, new) = (put(&store, b"old"), put(&store, b"new"));
        fs::write(store.folder.join("notes.txt"), "an administrator's").unwrap();
        store.sweep(|digest| *digest == new);
        assert_eq!((store.archive(&old), files(&store).len()), (None, 2));
    }
}
