//! What lies in the webapps folder: which entry stands for which webapp, and whether it has changed.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::listing::{list, stamp};
use crate::limits;

/// What stands for one webapp in the webapps folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The name of the folder or archive.
    pub(super) entry: String,
    pub(super) kind: Kind,
    /// Changes when a file in it does (name, size, time, inode), and when another entry takes its place.
    pub(super) stamp: u64,
    /// Other entries of the same webapp, which do not count.
    pub(super) hides: Vec<String>,
}

/// The first one counts: Tomcat looks for an archive before a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `.war`
    War,
    /// `.zip`
    Zip,
    Folder,
}

/// The webapps of a folder by their full names. One that cannot be listed has a stamp all the same, so that it is read
/// and refused once. Names that start with a dot are for those who copy.
///
/// # Errors
/// The folder itself cannot be read.
pub(super) fn candidates(webapps: &Path) -> io::Result<BTreeMap<String, Candidate>> {
    let mut found: BTreeMap<String, Candidate> = BTreeMap::new();
    for entry in fs::read_dir(webapps)? {
        let entry = entry?;
        let Ok(file_name) = entry.file_name().into_string() else { continue };
        let Some((kind, name)) = kind_of(&file_name, &entry.path()) else { continue };
        if found.len() == limits::WEBAPPS && !found.contains_key(name) {
            continue;
        }
        let stamp = stamp_of(&file_name, kind, &entry.path());
        let candidate = Candidate { entry: file_name.clone(), kind, stamp, hides: Vec::new() };
        match found.get_mut(name) {
            None => drop(found.insert(name.to_owned(), candidate)),
            Some(other) => other.stand_beside(candidate),
        }
    }
    Ok(found)
}

impl Candidate {
    fn stand_beside(&mut self, mut other: Self) {
        if (other.kind, &other.entry) < (self.kind, &self.entry) {
            std::mem::swap(self, &mut other);
        }
        self.hides.append(&mut other.hides);
        self.hides.push(other.entry);
        self.hides.sort();
    }
}

/// What kind of entry it is, and the webapp that it stands for.
fn kind_of<'a>(file_name: &'a str, at: &Path) -> Option<(Kind, &'a str)> {
    let is_folder = at.is_dir();
    let (stem, end) = file_name.rsplit_once('.').unwrap_or((file_name, ""));
    match end.to_ascii_lowercase().as_str() {
        _ if file_name.starts_with('.') => None,
        "war" if !is_folder => Some((Kind::War, stem)),
        "zip" if !is_folder => Some((Kind::Zip, stem)),
        _ => is_folder.then_some((Kind::Folder, file_name)),
    }
}

fn stamp_of(entry: &str, kind: Kind, at: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    entry.hash(&mut hasher);
    match kind {
        Kind::Folder => list(entry, at).map_or(0, |listing| stamp(&listing.files)).hash(&mut hasher),
        Kind::War | Kind::Zip => archive_stamp(at).hash(&mut hasher),
    }
    hasher.finish()
}

/// Changes when an archive does; 0 for one that cannot be looked at.
pub(super) fn archive_stamp(at: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    match fs::metadata(at) {
        Ok(it) => (it.len(), it.mtime(), it.mtime_nsec(), it.ino()).hash(&mut hasher),
        Err(_) => return 0,
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webapps(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let at = folder.path().join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, name).unwrap();
        }
        folder
    }

    #[test]
    fn an_archive_stands_before_a_folder_of_the_same_name() {
        let folder =
            webapps(&["shop/index.html", "shop.zip", "shop.WAR", "a#b/x", "note.txt", ".shop.war.Xa3b", ".git/a"]);
        let found = candidates(folder.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a#b", "shop"]);
        let shop = &found["shop"];
        assert_eq!((shop.entry.as_str(), shop.kind), ("shop.WAR", Kind::War));
        assert_eq!(shop.hides, ["shop", "shop.zip"]);
        fs::remove_file(folder.path().join("shop.WAR")).unwrap();
        fs::remove_file(folder.path().join("shop.zip")).unwrap();
        let after = candidates(folder.path()).unwrap();
        assert_eq!((after["shop"].kind, after["shop"].hides.len()), (Kind::Folder, 0));
        assert_ne!(after["shop"].stamp, shop.stamp, "what stands there now is read");
    }

    #[test]
    fn a_stamp_changes_with_any_file() {
        let folder = webapps(&["x/a.css", "x/WEB-INF/web.xml", "y.war"]);
        let before = candidates(folder.path()).unwrap();
        assert_eq!(candidates(folder.path()).unwrap(), before);
        fs::write(folder.path().join("x/a.css"), "ab").unwrap();
        fs::write(folder.path().join("y.war"), "longer").unwrap();
        let after = candidates(folder.path()).unwrap();
        assert!(after["x"].stamp != before["x"].stamp && after["y"].stamp != before["y"].stamp);
        assert!(candidates(&folder.path().join("none")).is_err());
    }
}
