//! Unpacks `.war` and `.zip` archives. Whoever made one may have meant harm: everything is checked before a byte is
//! written, and again while bytes are counted.

mod names;

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
};

use zip::{ZipArchive, read::ZipFileEntry, result::ZipError};

use self::names::{Kind, Names};
use super::refusal::Refusal;
use crate::limits;

/// Why an archive was not unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not open whole: it is being copied, or it is broken. Only time tells.
    Incomplete(Refusal),
    /// It holds what is not deployed, or there is no room for it.
    Refused(Refusal),
}

/// The first bytes of the record at the end of an archive, and of the one that says that there are more than fit it
/// (PKWARE's APPNOTE.TXT, 4.3.16 and 4.3.15).
const END: &[u8] = b"PK\x05\x06";
const ZIP64: &[u8] = b"PK\x06\x07";

/// Where the end record is: it and a comment of 64 KiB, and the other record before it.
const TAIL_BYTES: u64 = 22 + 65_535 + 20;

/// Of a Unix mode: what kind of file it is (inode(7)).
const KIND_BITS: u32 = 0o170_000;

/// Unpacks the archive at `at` into an empty folder. `label` names the archive in messages.
///
/// # Errors
/// The archive is not complete, or something in it is refused; the folder holds a part of it then.
pub(super) fn unpack(label: &str, at: &Path, into: &Path) -> Result<(), Fault> {
    let mut file = File::open(at).map_err(|error| Fault::Refused(Refusal::io(label, &error)))?;
    let bytes = check_size(label, &mut file)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| unopened(label, &error))?;
    check_entries(label, &archive)?;
    let mut budget = Budget { label, archive: bytes, unpacked: 0 };
    for index in 0..archive.len() {
        unpack_entry(&mut archive, index, into, &mut budget)?;
    }
    Ok(())
}

impl Fault {
    /// The message, whoever is at fault.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Incomplete(refusal) | Self::Refused(refusal) => refusal,
        }
    }
}

/// Bytes that may still be written.
struct Budget<'a> {
    label: &'a str,
    /// Of the archive itself.
    archive: u64,
    unpacked: u64,
}

impl Budget<'_> {
    fn spend(&mut self, entry: &str, bytes: u64) -> Result<(), Fault> {
        self.unpacked = self.unpacked.saturating_add(bytes);
        let refused = |what: String| Err(Fault::Refused(Refusal::new(format!("{}/{entry}", self.label), what)));
        if self.unpacked > limits::ARCHIVE_BYTES {
            return refused(format!("here the archive unpacks to more than {} bytes", limits::ARCHIVE_BYTES));
        }
        if self.unpacked > limits::ARCHIVE_RATIO_FROM && self.unpacked / limits::ARCHIVE_RATIO > self.archive {
            return refused(format!("here the archive unpacks to more than {} times its size", limits::ARCHIVE_RATIO));
        }
        Ok(())
    }
}

/// Refuses by what its end says, before the list of entries is read into memory.
fn check_size(label: &str, file: &mut File) -> Result<u64, Fault> {
    let failed = |error: io::Error| Fault::Refused(Refusal::io(label, &error));
    let refused = |what: String| Err(Fault::Refused(Refusal::new(label, what)));
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if bytes > limits::ARCHIVE_BYTES {
        return refused(format!("has {bytes} bytes; {} are allowed", limits::ARCHIVE_BYTES));
    }
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES))).map_err(failed)?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let entries = |end: &[u8]| end.starts_with(END).then(|| u16::from_le_bytes([end[10], end[11]]));
    let is_full = tail.windows(12).filter_map(entries).any(|entries| usize::from(entries) > limits::ARCHIVE_ENTRIES);
    if is_full || tail.windows(4).any(|bytes| bytes == ZIP64) {
        return refused(format!("has more than {} entries", limits::ARCHIVE_ENTRIES));
    }
    Ok(bytes)
}

fn check_entries<R: Read + Seek>(label: &str, archive: &ZipArchive<R>) -> Result<(), Fault> {
    let at_fault = |entry: &str, what: String| Fault::Refused(Refusal::new(format!("{label}/{entry}"), what));
    if archive.has_duplicate_names() {
        return Err(Fault::Refused(Refusal::new(label, "two entries have the same name")));
    }
    let mut names = Names::default();
    let mut declared = Budget { label, archive: u64::MAX, unpacked: 0 };
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index).map_err(|error| unopened(label, &error))?;
        let name = str::from_utf8(entry.name_raw()).map_err(|_| {
            at_fault(
                &String::from_utf8_lossy(entry.name_raw()),
                "the name is not UTF-8; pack it anew with UTF-8 names".into(),
            )
        })?;
        let kind = kind(&entry, name).map_err(|what| at_fault(name, what.into()))?;
        names.add(name, kind).map_err(|what| at_fault(name, what))?;
        declared.spend(name, entry.size())?;
    }
    Ok(())
}

/// What an entry is. Links and devices have no place in a webapp.
fn kind(entry: &ZipFileEntry<'_>, name: &str) -> Result<Kind, &'static str> {
    if entry.encrypted() {
        return Err("is encrypted; pack it without a password");
    }
    match entry.unix_mode().map_or(0, |mode| mode & KIND_BITS) {
        0o120_000 => Err("is a symbolic link; pack the file itself"),
        0 | 0o100_000 | 0o040_000 => Ok(if name.ends_with('/') { Kind::Folder } else { Kind::File }),
        _ => Err("is neither a file nor a folder"),
    }
}

fn unpack_entry<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    index: usize,
    into: &Path,
    budget: &mut Budget<'_>,
) -> Result<(), Fault> {
    let label = budget.label;
    let mut entry = archive.by_index(index).map_err(|error| unopened(label, &error))?;
    // Checked above: UTF-8, relative, and nothing in it climbs.
    let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
    let at = into.join(&name);
    let unwritten = |error: io::Error| {
        Fault::Refused(Refusal::new(
            format!("{label}/{name}"),
            format!("cannot be unpacked to {}: {error}", at.display()),
        ))
    };
    if name.ends_with('/') {
        return fs::create_dir_all(&at).map_err(unwritten);
    }
    fs::create_dir_all(at.parent().unwrap_or(into)).map_err(unwritten)?;
    let mut file = File::create_new(&at).map_err(unwritten)?;
    let mut buffer = [0; 32 * 1024];
    loop {
        let read = entry.read(&mut buffer).map_err(|error| damaged(label, &name, &error))?;
        if read == 0 {
            return Ok(());
        }
        budget.spend(&name, read as u64)?;
        file.write_all(&buffer[..read]).map_err(unwritten)?;
    }
}

/// The checksum of an entry is compared when its last byte is read.
fn damaged(label: &str, name: &str, error: &io::Error) -> Fault {
    Fault::Incomplete(Refusal::new(format!("{label}/{name}"), format!("is damaged ({error}); copy the archive again")))
}

fn unopened(label: &str, error: &ZipError) -> Fault {
    match error {
        ZipError::Io(_) | ZipError::InvalidArchive(_) => {
            Fault::Incomplete(Refusal::new(label, format!("does not open as a whole ({error}); copy it again")))
        }
        error => Fault::Refused(Refusal::new(label, format!("{error}; pack it with deflate or stored"))),
    }
}

#[cfg(test)]
mod tests;
