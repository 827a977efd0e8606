//! A page that failed: where, in which lines, by way of which templates.

use std::{error::Error as _, fmt};

use minijinja::ErrorKind;

use super::templates::Templates;
use crate::limits;

/// A page that could not be rendered: the webapp's fault, answered with 500. Nothing of its draft is committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PageError {
    /// Where.
    pub place: Place,
    /// What went wrong. For the log, not for the client.
    pub what: String,
    /// The templates that included, extended or called that one, the page first.
    pub through: Vec<Place>,
    /// The lines around it, with their numbers.
    pub lines: Vec<(usize, String)>,
}

/// A place in a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, relative to the webapps folder: `shop/WEB-INF/templates/base.html.j2`.
    pub file: String,
    /// The line in it, from 1, if it is known.
    pub line: Option<usize>,
    /// The first character in that line, from 1, and how many there are, if that is known.
    pub columns: Option<(usize, usize)>,
}

impl PageError {
    /// Without a place in a file.
    pub fn new(file: impl Into<String>, what: impl Into<String>) -> Self {
        let place = Place { file: file.into(), ..Place::default() };
        Self { place, what: what.into(), through: Vec::new(), lines: Vec::new() }
    }

    /// Names the innermost template of a chain of errors: an include's own line tells little.
    pub(super) fn of(error: &minijinja::Error, templates: &Templates, page: &str) -> Self {
        let chain: Vec<&minijinja::Error> = std::iter::successors(Some(error), |error| cause(error)).collect();
        let inner = chain.last().copied().unwrap_or(error);
        let mut places: Vec<Place> = Vec::new();
        for error in chain.iter().filter(|error| error.name().is_some()) {
            let place = place(error, templates);
            if places.last().is_none_or(|last| (&last.file, last.line) != (&place.file, place.line)) {
                places.push(place);
            }
        }
        let at = places.pop().unwrap_or_else(|| Place { file: templates.file(page), ..Place::default() });
        let named = chain.iter().rev().find_map(|error| error.name()).unwrap_or(page);
        let lines = at.line.map(|line| excerpt(&source(templates, named), line)).unwrap_or_default();
        places.truncate(limits::FAULT_TEMPLATES);
        Self { what: what(inner, at.snippet(&lines)), place: at, through: places, lines }
    }
}

impl Place {
    /// What stands there, if it is a short piece of one line.
    fn snippet(&self, lines: &[(usize, String)]) -> Option<String> {
        let ((first, count), at) = (self.columns?, self.line?);
        let (_, line) = lines.iter().find(|(number, _)| *number == at)?;
        Some(line.chars().skip(first - 1).take(count.min(limits::FAULT_LINE)).collect())
    }
}

fn cause(error: &minijinja::Error) -> Option<&minijinja::Error> {
    error.source()?.downcast_ref()
}

fn what(error: &minijinja::Error, snippet: Option<String>) -> String {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => return format!("the page needs more than {} steps", limits::PAGE_FUEL),
        kind => error.detail().map_or(kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    match (error.kind(), snippet) {
        (ErrorKind::UndefinedError, Some(code)) if !code.is_empty() => format!("{what} in {code:?}"),
        _ => what,
    }
}

fn place(error: &minijinja::Error, templates: &Templates) -> Place {
    let name = error.name().unwrap_or_default();
    let columns = columns(&source(templates, name), error);
    Place { file: templates.file(name), line: error.line(), columns }
}

fn source(templates: &Templates, name: &str) -> String {
    templates.environment.get_template(name).map_or_else(|_| String::new(), |template| template.source().to_owned())
}

/// First character and number of characters of what an error is about, as far as it stands in its line.
pub(super) fn columns(source: &str, error: &minijinja::Error) -> Option<(usize, usize)> {
    let range = error.range()?;
    let (before, rest) = (source.get(..range.start)?, source.get(range.start..)?);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    if error.line()? != before.matches('\n').count() + 1 {
        return None;
    }
    let piece = rest.get(..range.len()).unwrap_or(rest);
    let count = piece.lines().next().unwrap_or_default().chars().count();
    Some((before[start..].chars().count() + 1, count.max(1)))
}

/// The line and two before and after it.
fn excerpt(source: &str, line: usize) -> Vec<(usize, String)> {
    let around = source.lines().enumerate().map(|(at, text)| (at + 1, text));
    let shown = around.skip(line.saturating_sub(3)).take_while(|(at, _)| *at <= line + 2);
    shown.map(|(at, text)| (at, text.chars().take(limits::FAULT_LINE).collect())).collect()
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        self.through.iter().rev().try_for_each(|place| write!(f, " (from {place})"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
        self.columns.map_or(Ok(()), |(first, _)| write!(f, ":{first}"))
    }
}
