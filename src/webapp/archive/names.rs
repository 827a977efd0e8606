//! The names of an archive's entries: each once, on any file system, and none outside of the folder.

use std::collections::HashMap;

use crate::limits;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
}

/// The names so far, folders included, by their lower case.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: HashMap<String, (String, Kind)>,
}

impl Names {
    /// Adds an entry's name; that of a folder may end with a slash.
    ///
    /// # Errors
    /// What is wrong with it, for the administrator.
    pub(super) fn add(&mut self, name: &str, kind: Kind) -> Result<(), String> {
        let path = name.strip_suffix('/').unwrap_or(name);
        check(path)?;
        for (end, _) in path.match_indices('/') {
            self.take(&path[..end], Kind::Folder)?;
        }
        self.take(path, kind)
    }

    fn take(&mut self, path: &str, kind: Kind) -> Result<(), String> {
        match self.seen.get(&path.to_lowercase()) {
            Some((known, Kind::Folder)) if known == path && kind == Kind::Folder => Ok(()),
            Some((known, _)) => Err(format!("the archive also holds {known:?}, and some systems take both for one")),
            None => {
                self.seen.insert(path.to_lowercase(), (path.to_owned(), kind));
                Ok(())
            }
        }
    }
}

fn check(path: &str) -> Result<(), String> {
    let has_drive = path.as_bytes().get(1) == Some(&b':');
    if path.len() > limits::ARCHIVE_PATH_BYTES {
        return Err(format!("the name has more than {} bytes", limits::ARCHIVE_PATH_BYTES));
    }
    if path.contains('\\') || path.contains(char::is_control) {
        return Err("the name has a backslash or a control character; pack it anew".into());
    }
    if has_drive || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("the name leads out of the webapp; pack it anew with plain relative names".into());
    }
    if path.split('/').count() > limits::WEBAPP_DEPTH {
        return Err(format!("deeper than {} folders", limits::WEBAPP_DEPTH));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(names: &[(&str, Kind)]) -> Result<(), String> {
        let mut seen = Names::default();
        names.iter().try_for_each(|(name, kind)| seen.add(name, *kind))
    }

    #[test]
    fn plain_names_are_taken_and_folders_as_often_as_they_come() {
        use Kind::{File, Folder};
        added(&[("a/", Folder), ("a/b.css", File), ("a/", Folder), ("a/c/d.css", File), ("申請.html", File)]).unwrap();
    }

    #[test]
    fn what_leads_out_is_refused() {
        for bad in ["/etc/passwd", "../a", "a/../../b", "a/./b", "a//b", "", "C:/a", "a\\..\\b", "a\0b", "a\nb"] {
            assert!(added(&[(bad, Kind::File)]).is_err(), "{bad:?}");
        }
        assert!(added(&[(&"x".repeat(limits::ARCHIVE_PATH_BYTES + 1), Kind::File)]).is_err());
        assert!(added(&[(&vec!["x"; limits::WEBAPP_DEPTH + 1].join("/"), Kind::File)]).is_err());
    }

    #[test]
    fn names_that_some_system_takes_for_one_are_refused() {
        for (one, other) in [("a", "a"), ("a", "A"), ("a/b", "A/c"), ("É", "é"), ("a", "a/b"), ("a/b", "a")] {
            assert!(added(&[(one, Kind::File), (other, Kind::File)]).is_err(), "{one:?} and {other:?}");
        }
    }
}
