//! Which keys and variables there are; what is said of one that does not exist, or not yet.

use std::ffi::OsString;

use config::{Map, Value, ValueKind};

use super::{
    refusal::{Place, Refusal},
    suggest::nearest,
};

/// What the names of environment variables start with; `__` also stands for each dot of the key.
pub const VARIABLE_PREFIX: &str = "TASUKI__";

const MEMBER: &str = "balancer.member";

/// Keys of the design that this release refuses, and what to do instead.
const LATER: [(&str, &str); 1] = [("session.max_bytes", "see session.max_sessions")];

/// The variable that sets `key`.
pub fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// What stands under a key of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Written {
    Section,
    Value,
}

/// Every key of the file, dotted; empty sections count too.
pub(super) fn collect_written(prefix: &str, tree: &Map<String, Value>, written: &mut Vec<(String, Written)>) {
    for (name, value) in tree {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let sections = sections_in(value);
        sections.iter().for_each(|section| collect_written(&key, section, written));
        written.push((key, if sections.is_empty() { Written::Value } else { Written::Section }));
    }
}

fn sections_in(value: &Value) -> Vec<&Map<String, Value>> {
    match &value.kind {
        ValueKind::Table(section) => vec![section],
        ValueKind::Array(elements) => elements.iter().flat_map(sections_in).collect(),
        _ => Vec::new(),
    }
}

/// What is wrong with a key of the file, if anything is.
pub(super) fn key_problem(key: &str, written: Written, known: &[String]) -> Option<String> {
    let is_key = known.iter().any(|known| known == key);
    let is_section = sections_of(known).any(|section| section == key);
    match written {
        Written::Value if is_key => None,
        Written::Section if is_section => None,
        Written::Section if is_key => Some("is a key with one value, not a section".to_owned()),
        Written::Value if key == MEMBER => Some(format!("is a list of sections; write [[{MEMBER}]] for each")),
        Written::Value if is_section => Some(format!("is a section; write [{key}] and its keys below")),
        Written::Section if !key.contains('.') => Some(unknown_section(key, known)),
        _ => Some(unknown_key(key, known)),
    }
}

fn unknown_section(name: &str, known: &[String]) -> String {
    match nearest(name, sections_of(known)) {
        Some(near) => format!("unknown section; did you mean [{near}]?"),
        None => "unknown section; there are [cluster], [session], [node] and [balancer]".to_owned(),
    }
}

fn unknown_key(key: &str, known: &[String]) -> String {
    if let Some((_, instead)) = LATER.iter().find(|(later, _)| *later == key) {
        return format!("not in this release; remove it ({instead})");
    }
    if let Some(near) = nearest(key, known.iter().map(String::as_str)) {
        return format!("unknown key; did you mean {near}?");
    }
    let Some((section, _)) = key.rsplit_once('.') else {
        return "unknown key; keys stand in [cluster], [session], [node] or [balancer]".to_owned();
    };
    format!("unknown key; [{section}] has {}", keys_in(section, known))
}

fn sections_of(known: &[String]) -> impl Iterator<Item = &str> {
    known.iter().filter_map(|key| key.rsplit_once('.')).map(|(section, _)| section)
}

fn keys_in(section: &str, known: &[String]) -> String {
    let inside = known.iter().filter_map(|key| key.strip_prefix(section)?.strip_prefix('.'));
    inside.filter(|key| !key.contains('.')).collect::<Vec<_>>().join(", ")
}

/// The variables that set something; one that looks as if it should, but does not, is refused.
pub(super) fn known_variables(all: &[(OsString, OsString)], known: &[String]) -> Result<Map<String, String>, Refusal> {
    let mut variables = Map::new();
    for (name, value) in all {
        let Some(name) = name.to_str().filter(|name| name.to_uppercase().starts_with("TASUKI_")) else { continue };
        let refuse = |problem| Err(Refusal::Key { place: Place::Variable(name.into()), key: name.into(), problem });
        if let Some(problem) = variable_problem(name, known) {
            return refuse(problem);
        }
        match value.to_str() {
            _ if !name.starts_with(VARIABLE_PREFIX) => {}
            Some(value) => drop(variables.insert(name.to_owned(), value.to_owned())),
            None => return refuse("its value is not UTF-8 text".to_owned()),
        }
    }
    Ok(variables)
}

/// What is wrong with the name of a variable, if anything is. A single `_` for the double one would set nothing, silently.
fn variable_problem(name: &str, known: &[String]) -> Option<String> {
    // Not by its beginning alone: balancer.membership is a key like any other.
    let of_a_member = |key: &str| key.strip_prefix(MEMBER).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let settable = || known.iter().filter(|key| !of_a_member(key));
    if settable().any(|key| variable_of(key) == name) {
        return None;
    }
    let bare = |name: &str| name.replace('_', "").to_uppercase();
    if let Some(key) = settable().find(|key| bare(&variable_of(key)) == bare(name)) {
        return Some(format!("unknown variable; did you mean {}?", variable_of(key)));
    }
    let key = name.strip_prefix(VARIABLE_PREFIX)?.to_lowercase().replace("__", ".");
    if of_a_member(&key) {
        return Some(format!("members are set in the file only, as [[{MEMBER}]]"));
    }
    if let Some((_, instead)) = LATER.iter().find(|(later, _)| *later == key) {
        return Some(format!("not in this release; unset it ({instead})"));
    }
    Some(match nearest(&key, settable().map(String::as_str)) {
        Some(near) => format!("unknown variable; did you mean {}?", variable_of(near)),
        None => "unknown variable; names are TASUKI__SECTION__KEY, as in TASUKI__NODE__HTTP".to_owned(),
    })
}
