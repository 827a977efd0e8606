//! The name of a webapp, as Tomcat has it: `ROOT` is the root, `a#b` is `/a/b`, `shop##2` is version 2 of `/shop`.

use std::{cmp::Ordering, fmt, str::FromStr};

use crate::{limits, names::ContextPath};

/// A webapp's full name: where it answers, and which of several versions side by side it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AppName {
    full: String,
    context: ContextPath,
    tag: Option<Tag>,
}

/// What stands behind `##`. The greater one is the newer one.
///
/// Digits are compared as numbers of any length (11 is newer than 2, unlike in Tomcat), everything else as text, piece by
/// piece; a number is older than text, and what ends first is older: 1 < 1.2 < 1.10 < 1.10-b < x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(String);

/// A piece of a tag. The order of the variants is their order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    /// Count of digits without leading zeros, and the digits.
    Number(usize, &'a str),
    Text(&'a str),
}

impl AppName {
    /// As the folder or the archive is named, without `.war` or `.zip`.
    pub(super) fn full(&self) -> &str {
        &self.full
    }

    /// The path under which it answers.
    pub(super) fn context(&self) -> &ContextPath {
        &self.context
    }

    /// Which of several versions it is; none is older than every other.
    pub(super) fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }
}

impl Tag {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let is_number = rest.bytes().next()?.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != is_number).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(end);
            rest = after;
            let digits = piece.trim_start_matches('0');
            Some(if is_number { Piece::Number(digits.len(), digits) } else { Piece::Text(piece) })
        })
    }
}

impl Ord for Tag {
    fn cmp(&self, other: &Self) -> Ordering {
        self.pieces().cmp(other.pieces()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Tag {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for AppName {
    /// What is wrong and what to do.
    type Err = String;

    fn from_str(full: &str) -> Result<Self, String> {
        if full.len() > limits::CONTEXT_PATH_BYTES {
            return Err(format!("the name has more than {} bytes; shorten it", limits::CONTEXT_PATH_BYTES));
        }
        // It also names a folder of unpacked files.
        if full.starts_with('.') || full.contains(['/', '\\']) || full.contains(char::is_control) {
            return Err("a webapp's name has no slash and no control character and does not start with a dot".into());
        }
        let (base, tag) = full.split_once("##").map_or((full, None), |(base, tag)| (base, Some(tag)));
        if tag.is_some_and(|tag| tag.is_empty() || tag.contains('#')) {
            return Err("a version stands behind ## and has no # itself, as in shop##2; rename it".into());
        }
        let context = match base {
            "ROOT" => ContextPath::root(),
            base => format!("/{}", base.replace('#', "/")).parse().map_err(|bad| format!("{bad}; rename it"))?,
        };
        Ok(Self { full: full.to_owned(), context, tag: tag.map(|tag| Tag(tag.to_owned())) })
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(full: &str) -> AppName {
        full.parse().unwrap_or_else(|why| panic!("{full}: {why}"))
    }

    #[test]
    fn names_are_those_of_tomcat() {
        for (full, context, tag) in [
            ("ROOT", "", None),
            ("shop", "/shop", None),
            ("a#b", "/a/b", None),
            ("shop##2", "/shop", Some("2")),
            ("ROOT##1.0-b", "", Some("1.0-b")),
            ("a#b##7", "/a/b", Some("7")),
        ] {
            let name = name(full);
            assert_eq!((name.context().as_str(), name.tag().map(Tag::as_str)), (context, tag), "{full}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = "x".repeat(limits::CONTEXT_PATH_BYTES + 1);
        for bad in ["", "a#", "#a", "a##", "##2", "a##2#3", "a;b", "a/b", "a\\b", "..", ".git", "a\nb", &long] {
            assert!(!bad.parse::<AppName>().expect_err(bad).is_empty());
        }
    }

    #[test]
    fn versions_are_compared_as_people_number_them() {
        let ordered =
            ["1", "01", "2", "9", "10", "11", "11.2", "11.10", "11.10-b", "11.10a", "20261126", "b", "b2", "b10"];
        let tag = |text: &str| Tag(text.into());
        for pair in ordered.windows(2) {
            assert!(tag(pair[0]) != tag(pair[1]));
            assert_eq!(tag(pair[0]).cmp(&tag(pair[1])) == Ordering::Less, pair != ["1", "01"], "{pair:?}");
        }
        assert!(name("shop").tag() < name("shop##0").tag(), "no version is the oldest");
        assert!(tag(&"9".repeat(200)) < tag(&format!("1{}", "0".repeat(200))), "numbers have any length");
    }
}
