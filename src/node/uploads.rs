//! Where the files of forms are while their requests run: in memory when they are short, otherwise on the disk, in files
//! that have no name. So none is left behind, whether the request ends well, its client goes away, or the process is killed.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use actix_web::web::block;
use tracing::warn;

use crate::{limits, settings, webapp::Content};

/// The files of all requests of a node. A handle.
#[derive(Clone, Debug)]
pub struct Uploads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    largest_file: u64,
    largest_form: u64,
    taken: AtomicU64,
}

/// What the body of one request takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    uploads: Uploads,
    bytes: u64,
}

/// The node has as many bytes of bodies in its hands as it can take.
#[derive(Debug)]
pub(super) struct Full;

/// A file that is being received.
#[derive(Debug)]
pub(super) struct Spool {
    uploads: Uploads,
    file: Option<File>,
    written: u64,
    piece: Vec<u8>,
}

impl Uploads {
    /// For the node of these settings, which is just starting.
    ///
    /// Where the file system knows no files without a name, one is made and its name removed at once. A process that was
    /// killed in between has left it in the folder, which is this node's own: it is removed here.
    pub fn open(settings: &settings::Node) -> Self {
        let folder = settings.run.join("uploads").join(settings.route.as_str());
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(folder = %folder.display(), "what a killed process may have left there cannot be removed: {error}");
        }
        let settings::Node { max_file_bytes, max_upload_bytes, .. } = *settings;
        let taken = AtomicU64::new(0);
        Self(Arc::new(Inner { folder, largest_file: max_file_bytes, largest_form: max_upload_bytes, taken }))
    }

    /// Bytes of one file, at most.
    pub(super) fn largest_file(&self) -> u64 {
        self.0.largest_file
    }

    /// Bytes of a whole form with files, at most.
    pub(super) fn largest_form(&self) -> u64 {
        self.0.largest_form
    }

    /// Where the files are, for the log.
    pub(super) fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Bytes of all bodies that there are now.
    #[cfg(test)]
    pub(super) fn taken(&self) -> u64 {
        self.0.taken.load(Relaxed)
    }

    /// For one request.
    pub(super) fn room(&self) -> Room {
        Room { uploads: self.clone(), bytes: 0 }
    }

    /// For one file.
    pub(super) fn spool(&self) -> Spool {
        Spool { uploads: self.clone(), file: None, written: 0, piece: Vec::new() }
    }

    /// A file for this process alone.
    fn create(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0.folder)?;
        tempfile::tempfile_in(&self.0.folder)
    }
}

impl Room {
    /// Takes room for so many bytes more.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Full> {
        let bytes = bytes as u64;
        let taken = &self.uploads.0.taken;
        if taken.fetch_add(bytes, Relaxed) + bytes > limits::UPLOADS_BYTES {
            taken.fetch_sub(bytes, Relaxed);
            return Err(Full);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.uploads.0.taken.fetch_sub(self.bytes, Relaxed);
    }
}

impl Spool {
    /// How many bytes have come.
    pub(super) fn len(&self) -> u64 {
        self.written + self.piece.len() as u64
    }

    /// Takes what has come, and writes it to the disk when there is a piece of it.
    pub(super) async fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= limits::UPLOAD_PIECE_BYTES { self.write().await } else { Ok(()) }
    }

    /// The file is complete.
    pub(super) async fn finish(mut self) -> io::Result<Content> {
        if self.file.is_some() {
            self.write().await?;
        }
        Ok(match self.file {
            Some(file) => Content::File(file, self.written),
            None => Content::Memory(self.piece),
        })
    }

    /// The disk may be slow, and this thread has other requests.
    async fn write(&mut self) -> io::Result<()> {
        let (uploads, file, piece) = (self.uploads.clone(), self.file.take(), std::mem::take(&mut self.piece));
        let size = piece.len() as u64;
        let write = move || {
            let mut file = file.map_or_else(|| uploads.create(), Ok)?;
            file.write_all(&piece)?;
            Ok::<_, io::Error>(file)
        };
        self.file = Some(block(write).await.map_err(io::Error::other)??);
        self.written += size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads(run: &Path) -> Uploads {
        Uploads::open(&settings::Node { run: run.to_owned(), ..settings::Node::default() })
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).map_or(0, |entries| entries.count())
    }

    #[actix_web::test]
    async fn a_long_file_is_on_the_disk_without_a_name_and_a_short_one_in_memory() {
        let run = tempfile::tempdir().unwrap();
        let uploads = uploads(run.path());
        let (mut long, mut short) = (uploads.spool(), uploads.spool());
        short.push(b"short").await.unwrap();
        for piece in 0..5_u8 {
            long.push(&vec![piece; limits::UPLOAD_PIECE_BYTES / 2]).await.unwrap();
        }
        assert!(matches!(short.finish().await.unwrap(), Content::Memory(bytes) if bytes == b"short"));
        assert_eq!(long.len(), limits::UPLOAD_PIECE_BYTES as u64 * 5 / 2);
        let Content::File(file, size) = long.finish().await.unwrap() else { panic!("it is on the disk") };
        assert_eq!((size, file.metadata().unwrap().len()), (limits::UPLOAD_PIECE_BYTES as u64 * 5 / 2, size));
        assert!(uploads.folder().is_dir());
        assert_eq!(names(uploads.folder()), 0, "nothing that could be left behind");
    }

    #[test]
    fn what_a_killed_process_left_behind_is_removed_at_start() {
        let run = tempfile::tempdir().unwrap();
        let folder = uploads(run.path()).folder().to_owned();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(".tmpAbCdEf"), "left").unwrap();
        uploads(run.path());
        assert_eq!(names(&folder), 0);
    }

    #[test]
    fn files_of_all_requests_have_a_bounded_room_which_comes_back() {
        let run = tempfile::tempdir().unwrap();
        let uploads = uploads(run.path());
        let (mut one, mut other) = (uploads.room(), uploads.room());
        one.take(limits::UPLOADS_BYTES as usize).unwrap();
        assert!(other.take(1).is_err());
        drop(one);
        assert!(other.take(1).is_ok());
        drop(other);
        assert_eq!(uploads.taken(), 0);
    }
}
