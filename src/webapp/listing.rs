//! What lies in a webapp's folder and may be used: never what is private, never what a link leads out to.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{path::is_private, refusal::Refusal};
use crate::limits;

/// A file of a webapp's folder.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Relative to the webapp's folder, with slashes, without one at the start.
    pub(super) name: String,
    pub(super) at: PathBuf,
    pub(super) bytes: u64,
    modified: (i64, i64),
    inode: u64,
}

#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<File>,
    /// What lies there and is left out.
    pub(super) remarks: Vec<String>,
}

/// All files of a webapp that may be used, in the order of their names.
pub(super) fn list(name: &str, folder: &Path) -> Result<Listing, Refusal> {
    let root = fs::canonicalize(folder).map_err(|error| Refusal::io(name, &error))?;
    let mut listing = Listing::default();
    if root.is_dir() {
        walk(name, &root, &root, "", &mut listing)?;
    }
    listing.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

fn walk(app: &str, root: &Path, folder: &Path, prefix: &str, listing: &mut Listing) -> Result<(), Refusal> {
    if prefix.split('/').count() > limits::WEBAPP_DEPTH {
        return Err(Refusal::new(format!("{app}/{prefix}"), format!("deeper than {} folders", limits::WEBAPP_DEPTH)));
    }
    let failed = |error: io::Error| Refusal::io(format!("{app}/{prefix}"), &error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(file_name) = entry.file_name().into_string() else {
            listing.remark(format!("{app}/{prefix}{}: the name is not UTF-8", entry.file_name().display()));
            continue;
        };
        let name = format!("{prefix}{file_name}");
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            if !is_private(&file_name) || name == "WEB-INF" {
                walk(app, root, &entry.path(), &format!("{name}/"), listing)?;
            }
        } else if !file_name.starts_with('.') {
            listing.add(app, root, name, entry.path(), kind.is_symlink())?;
        }
    }
    Ok(())
}

impl Listing {
    /// Adds a file; a link only if it leads to a file inside the webapp.
    fn add(&mut self, app: &str, root: &Path, name: String, at: PathBuf, link: bool) -> Result<(), Refusal> {
        let target = if link { fs::canonicalize(&at).unwrap_or_default() } else { at };
        if link && (!target.starts_with(root) || target.is_dir() || leads_to_private(root, &target)) {
            self.remark(format!("{app}/{name}: a link that does not lead to a public file of the webapp is left out"));
            return Ok(());
        }
        // A file that vanishes between two looks is simply not there.
        let Ok(metadata) = fs::metadata(&target) else { return Ok(()) };
        if !metadata.is_file() {
            return Ok(());
        }
        if self.files.len() == limits::WEBAPP_FILES {
            return Err(Refusal::new(app, format!("more than {} files", limits::WEBAPP_FILES)));
        }
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        self.files.push(File { name, at: target, bytes: metadata.len(), modified, inode: metadata.ino() });
        Ok(())
    }

    fn remark(&mut self, what: String) {
        if self.remarks.len() < limits::WEBAPP_REMARKS {
            self.remarks.push(what);
        }
    }
}

fn leads_to_private(root: &Path, target: &Path) -> bool {
    let inside = target.strip_prefix(root).unwrap_or(target);
    inside.extension().is_some_and(|end| end == "j2") || inside.iter().any(|part| part.to_str().is_none_or(is_private))
}

/// Changes when a file does (name, size, time, inode).
pub(super) fn stamp(files: &[File]) -> u64 {
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| (&file.name, file.bytes, file.modified, file.inode).hash(&mut hasher));
    hasher.finish()
}
