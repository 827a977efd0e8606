//! Static files on the disk: found again without following any link, read and hashed whole, or streamed.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use actix_web::{http::header::HttpDate, web::Bytes};
use blake2::{Blake2s256, Digest};
use futures_util::stream::{self, Stream};
use rustix::{
    fs::{Mode, OFlags, open, openat},
    io::Errno,
};

use super::media::looks_like_utf8;
use crate::limits;

/// Where a file lies: below the root of its webapp, by folders that are no links.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Path>,
    pub(super) inside: PathBuf,
}

/// Changes when the file does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) bytes: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

/// A file that was read to its end.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) content: Content,
    /// Of the content; equal wherever the content is.
    pub(super) hash: String,
    /// To the second, as HTTP has it.
    pub(super) modified: HttpDate,
    /// As far as its first [`limits::ASSET_CHUNK_BYTES`] tell.
    pub(super) is_utf8: bool,
}

/// The bytes of a file, or where they are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In memory.
    Kept(Bytes),
    /// On the disk, as long as the file has this stamp.
    OnDisk(Stamp),
}

/// Digits of a hash: 96 bits, so that two contents never share one by chance.
const HASH_DIGITS: usize = 24;

/// How often a file that changes while it is read is read again.
const READINGS: usize = 3;

impl Place {
    /// Opens the file. Each folder on the way is opened from the one before and none may be a link, so that what was
    /// swapped since the webapp was read leads nowhere. Blocks for the time of a few system calls.
    ///
    /// # Errors
    /// `NotFound` when there is no such file now, or only by a link; what the system says otherwise.
    pub(super) fn open(&self) -> io::Result<(File, Stamp)> {
        let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nonblocking: a named pipe must not hold up the worker.
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut at: OwnedFd = open(&*self.root, path, Mode::empty()).map_err(not_found)?;
        let mut names = self.inside.components().peekable();
        while let Some(name) = names.next() {
            let Component::Normal(name) = name else { return Err(io::ErrorKind::NotFound.into()) };
            let flags = if names.peek().is_some() { path } else { read };
            at = openat(&at, name, flags, Mode::empty()).map_err(not_found)?;
        }
        let file = File::from(at);
        let stamp = stamp(&file)?;
        Ok((file, stamp))
    }

    /// Reads and hashes it. Blocks as long as that takes.
    ///
    /// # Errors
    /// As [`Place::open`], and when it changes again and again meanwhile.
    pub(super) fn read(&self) -> io::Result<Reading> {
        for _ in 0..READINGS {
            let (file, before) = self.open()?;
            let (content, hash, is_utf8) = read_whole(&file, &before)?;
            if stamp(&file)? == before {
                return Ok(Reading { content, hash, modified: before.http_date(), is_utf8 });
            }
        }
        Err(io::Error::other("it changes while it is read"))
    }
}

impl Stamp {
    /// In whole seconds. What HTTP has no date for (an archive may bring any time) becomes the nearest one that it has.
    fn http_date(&self) -> HttpDate {
        /// The last second of the year 9999.
        const LAST: u64 = 253_402_300_799;
        let seconds = u64::try_from(self.modified.0).unwrap_or(0).min(LAST);
        HttpDate::from(UNIX_EPOCH + Duration::from_secs(seconds))
    }
}

/// Bytes of a file from one position on, read off the worker, a chunk at a time.
pub(super) fn stream(file: File, from: u64, length: u64) -> impl Stream<Item = io::Result<Bytes>> {
    let file = Arc::new(file);
    stream::try_unfold((file, from, length), |(file, at, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let reader = file.clone();
        let chunk = tokio::task::spawn_blocking(move || chunk(&reader, at, left)).await.map_err(io::Error::other)??;
        let read = chunk.len() as u64;
        Ok(Some((chunk, (file, at + read, left - read))))
    })
}

/// The first bytes of a file: up to [`limits::ASSET_CHUNK_BYTES`].
pub(super) fn beginning(file: &File) -> io::Result<Vec<u8>> {
    let mut beginning = Vec::new();
    file.take(limits::ASSET_CHUNK_BYTES as u64).read_to_end(&mut beginning)?;
    Ok(beginning)
}

fn chunk(file: &File, at: u64, left: u64) -> io::Result<Bytes> {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(limits::ASSET_CHUNK_BYTES);
    let mut chunk = vec![0; most];
    let read = file.read_at(&mut chunk, at)?;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut while it was sent"));
    }
    chunk.truncate(read);
    Ok(chunk.into())
}

fn read_whole(mut file: &File, stamp: &Stamp) -> io::Result<(Content, String, bool)> {
    let is_kept = stamp.bytes <= limits::ASSET_KEPT_BYTES;
    let mut kept = Vec::new();
    let mut hasher = Blake2s256::new();
    let mut chunk = vec![0; limits::ASSET_CHUNK_BYTES];
    let (mut is_first, mut is_utf8) = (true, true);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
        if is_first {
            (is_first, is_utf8) = (false, looks_like_utf8(&chunk[..read]));
        }
        // A file that grows has another stamp in the end.
        if is_kept && (kept.len() + read) as u64 <= limits::ASSET_KEPT_BYTES {
            kept.extend_from_slice(&chunk[..read]);
        }
    }
    let mut hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    hash.truncate(HASH_DIGITS);
    Ok((if is_kept { Content::Kept(kept.into()) } else { Content::OnDisk(stamp.clone()) }, hash, is_utf8))
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Stamp {
        bytes: metadata.len(),
        device: metadata.dev(),
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// A link on the way, or a file in the place of a folder, is nothing that can be found.
fn not_found(error: Errno) -> io::Error {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::NXIO => io::ErrorKind::NotFound.into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use futures_util::TryStreamExt;
    use tempfile::TempDir;

    use super::*;

    fn place(root: &TempDir, inside: &str) -> Place {
        Place { root: root.path().canonicalize().unwrap().into(), inside: inside.into() }
    }

    fn kind(place: &Place) -> io::ErrorKind {
        place.open().map(|_| ()).unwrap_err().kind()
    }

    #[test]
    fn equal_contents_have_equal_hashes_whatever_the_machine() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(here.path().join("a"), "one").unwrap();
        fs::write(there.path().join("b"), "one").unwrap();
        let read = place(&here, "a").read().unwrap();
        assert_eq!((read.hash.len(), &read.hash), (24, &place(&there, "b").read().unwrap().hash));
        fs::write(here.path().join("a"), "two").unwrap();
        assert_ne!(place(&here, "a").read().unwrap().hash, read.hash);
    }

    #[test]
    fn a_time_that_http_cannot_say_is_no_fault() {
        for (seconds, date) in [
            (-1, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (1_767_225_601, "Thu, 01 Jan 2026 00:00:01 GMT"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            let stamp = Stamp { bytes: 0, device: 0, inode: 0, modified: (seconds, 5) };
            assert_eq!(stamp.http_date().to_string(), date);
        }
    }

    #[test]
    fn a_file_or_a_folder_that_became_a_link_is_not_there_any_more() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "s").unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        fs::write(root.path().join("folder/secret"), "public").unwrap();
        assert!(place(&root, "folder/secret").open().is_ok());

        fs::remove_dir_all(root.path().join("folder")).unwrap();
        symlink(outside.path(), root.path().join("folder")).unwrap();
        symlink(outside.path().join("secret"), root.path().join("file")).unwrap();
        for inside in ["folder/secret", "file", "../secret", "/etc/passwd", "", "folder", "missing"] {
            assert_eq!(kind(&place(&root, inside)), io::ErrorKind::NotFound, "{inside:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_read_and_holds_up_nobody() {
        let root = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        for inside in ["pipe", "folder"] {
            assert_eq!(kind(&place(&root, inside)), io::ErrorKind::NotFound, "{inside}");
        }
    }

    #[actix_web::test]
    async fn a_large_file_stays_on_the_disk_and_is_sent_in_chunks() {
        let root = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..limits::ASSET_KEPT_BYTES + 1).map(|n| (n % 251) as u8).collect();
        fs::write(root.path().join("large"), &bytes).unwrap();
        let place = place(&root, "large");
        assert!(matches!(place.read().unwrap().content, Content::OnDisk(stamp) if stamp.bytes == bytes.len() as u64));
        let (file, _) = place.open().unwrap();
        let (from, length) = (7, limits::ASSET_CHUNK_BYTES + 1);
        let chunks: Vec<Bytes> = stream(file, from as u64, length as u64).try_collect().await.unwrap();
        assert_eq!(chunks.concat(), &bytes[from..from + length]);
        assert!(chunks.iter().all(|chunk| chunk.len() <= limits::ASSET_CHUNK_BYTES));
    }

    #[actix_web::test]
    async fn a_file_that_is_cut_while_it_is_sent_ends_in_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "abc").unwrap();
        let (file, _) = place(&root, "a").open().unwrap();
        assert!(stream(file, 0, 4).try_collect::<Vec<_>>().await.is_err());
    }
}
