//! Why a webapp is not deployed: what is wrong, where, and what to do.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// Why a webapp was not deployed. What was deployed under its name before goes on answering.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub struct Refusal {
    /// The file at fault, relative to the webapps folder; within an archive as if it were a folder.
    pub file: String,
    /// Line and, where known, column in it, from 1.
    pub place: Option<(usize, Option<usize>)>,
    /// What is wrong and what to do.
    pub what: String,
}

impl Refusal {
    pub(super) fn new(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self { file: file.into(), place: None, what: what.into() }
    }

    pub(super) fn io(file: impl Into<String>, error: &io::Error) -> Self {
        Self::new(file, format!("cannot be read: {error}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, Some(column))) => write!(f, "{}:{line}:{column}: {}", self.file, self.what),
            Some((line, None)) => write!(f, "{}:{line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}
