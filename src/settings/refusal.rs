//! What is said when settings cannot be used: where it stands, what it is, which rule it breaks, what to do.

use std::{fmt, path::PathBuf};

/// Why tasuki does not start with these settings. Its text is one line for the person who wrote them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file cannot be read at all.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file that was asked for.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The file is not TOML.
    #[error("{path}: line {line}, column {column}: {problem}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u32,
        /// Counted from 1.
        column: u32,
        /// What the parser says.
        problem: String,
    },
    /// A key or a variable that does not exist, or not yet.
    #[error("{}: {problem}", place.named(key))]
    Key {
        /// Where it stands.
        place: Place,
        /// The dotted key; of a variable, its name.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A value that breaks a rule.
    #[error("{}: {rule}", place.with_value(key, value))]
    Value {
        /// Where it stands.
        place: Place,
        /// The dotted key.
        key: String,
        /// The value as written.
        value: String,
        /// The rule and what to do.
        rule: String,
    },
    /// A folder or file that a setting names is not there.
    #[error("{key} = {path:?}: {problem}")]
    Missing {
        /// The dotted key.
        key: &'static str,
        /// The path as written.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
    /// An option of the command line, with its dashes.
    Flag(&'static str),
}

impl Place {
    fn named(&self, key: &str) -> String {
        match self {
            Self::File(path) => format!("{}: {key}", path.display()),
            Self::Variable(name) => name.clone(),
            Self::Flag(flag) => (*flag).to_owned(),
        }
    }

    fn with_value(&self, key: &str, value: &str) -> String {
        match self {
            Self::File(path) => format!("{}: {key} = {value}", path.display()),
            Self::Variable(name) => format!("{name}={value}"),
            Self::Flag(flag) => format!("{flag} {value}"),
        }
    }
}

/// A rule broken by the value of a key; the loader adds where it was written.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) rule: String,
}

impl Wrong {
    pub(super) fn new(key: &str, value: impl fmt::Display, rule: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: value.to_string(), rule: rule.into() }
    }
}
