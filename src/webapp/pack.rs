//! Makes an archive of a folder, for `tasuki deploy FOLDER`: the same bytes for the same content, whenever it is made.

use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};

use zip::{CompressionMethod, DateTime, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::refusal::Refusal;
use crate::limits;

/// An archive of everything in the folder but hidden files (`.git`, `.env`), in memory.
///
/// # Errors
/// A file that cannot be read, a link (it would lead elsewhere on every node), or more than
/// [`limits::ARCHIVE_ENTRIES`] files or [`limits::ARCHIVE_BYTES`].
pub fn pack(folder: &Path) -> Result<Vec<u8>, Refusal> {
    let mut packing = Packing { writer: ZipWriter::new(Cursor::new(Vec::new())), files: 0, bytes: 0 };
    packing.add_folder(folder, "", 0)?;
    if packing.files == 0 {
        return Err(Refusal::new(folder.display().to_string(), "holds no files"));
    }
    let done = packing.writer.finish().map_err(|error| unpackable(folder, &error))?;
    Ok(done.into_inner())
}

struct Packing {
    writer: ZipWriter<Cursor<Vec<u8>>>,
    files: usize,
    bytes: u64,
}

impl Packing {
    fn add_folder(&mut self, folder: &Path, name: &str, depth: usize) -> Result<(), Refusal> {
        let unread = |error: &std::io::Error| Refusal::io(folder.display().to_string(), error);
        if depth > limits::WEBAPP_DEPTH {
            let what = format!("is nested deeper than {} folders", limits::WEBAPP_DEPTH);
            return Err(Refusal::new(folder.display().to_string(), what));
        }
        let entries = fs::read_dir(folder).map_err(|error| unread(&error))?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(|error| unread(&error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let own = entry.file_name().into_string();
            let own = own.map_err(|_| Refusal::new(path.display().to_string(), "has a name that is not UTF-8"))?;
            let kind = entry.file_type().map_err(|error| unread(&error))?;
            match kind {
                _ if own.starts_with('.') => {}
                kind if kind.is_symlink() => {
                    let what = "is a link, which would lead elsewhere on every node; put the file itself there";
                    return Err(Refusal::new(path.display().to_string(), what));
                }
                kind if kind.is_dir() => self.add_folder(&path, &format!("{name}{own}/"), depth + 1)?,
                _ => self.add_file(&path, &format!("{name}{own}"))?,
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, name: &str) -> Result<(), Refusal> {
        let shown = || path.display().to_string();
        let content = fs::read(path).map_err(|error| Refusal::io(shown(), &error))?;
        self.files += 1;
        self.bytes += content.len() as u64;
        if self.files > limits::ARCHIVE_ENTRIES {
            return Err(Refusal::new(
                shown(),
                format!("is one file too many: {} are allowed", limits::ARCHIVE_ENTRIES),
            ));
        }
        if self.bytes > limits::ARCHIVE_BYTES {
            return Err(Refusal::new(
                shown(),
                format!("is too much: {} bytes are allowed in all", limits::ARCHIVE_BYTES),
            ));
        }
        // No times, no owners: nodes and administrators compare archives by their digest.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644);
        let started = self.writer.start_file(name, options);
        started.map_err(|error| unpackable(path, &error))?;
        self.writer.write_all(&content).map_err(|error| Refusal::io(shown(), &error))
    }
}

fn unpackable(path: &Path, error: &ZipError) -> Refusal {
    Refusal::new(path.display().to_string(), format!("cannot be packed: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::webapp::archive::unpack;

    #[test]
    fn what_was_packed_unpacks_to_the_same_and_packs_to_the_same() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("WEB-INF/templates")).unwrap();
        for (name, text) in [("b.css", "b"), ("a.html.j2", "a"), ("WEB-INF/web.xml", "<web-app/>"), (".env", "secret")]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let first = pack(folder.path()).unwrap();
        let work = tempfile::tempdir().unwrap();
        let archive = work.path().join("shop.war");
        fs::write(&archive, &first).unwrap();
        let unpacked = work.path().join("shop");
        fs::create_dir(&unpacked).unwrap();
        unpack("shop", &archive, &unpacked).unwrap();
        assert_eq!(fs::read_to_string(unpacked.join("WEB-INF/web.xml")).unwrap(), "<web-app/>");
        assert!(!unpacked.join(".env").exists());
        assert_eq!(pack(&unpacked).unwrap(), first, "another folder, another time, the same content");
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(pack(folder.path()).unwrap_err().to_string().contains("holds no files"));
        symlink("/etc/passwd", folder.path().join("users.txt")).unwrap();
        let refused = pack(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("users.txt: is a link"), "{refused}");
        assert!(pack(&folder.path().join("none")).unwrap_err().to_string().contains("none: "));
    }
}
