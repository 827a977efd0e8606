//! Which templates a template may reach, read off its source: enough to know, before any request, that a page has
//! nothing to do with sessions. Errs on the side of the session.

use std::collections::{BTreeMap, BTreeSet};

use super::templates::{Broken, Source};

/// What one template includes, extends or imports.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reach {
    /// Named in quotes: line and template.
    named: Vec<(usize, String)>,
    /// A name is computed: it may be any template.
    any: bool,
    /// `ignore missing` stands somewhere.
    may_miss: bool,
}

/// The names of the templates that use the session, themselves or through others.
pub(super) fn session_users(sources: &[Source]) -> Vec<String> {
    let reaches: BTreeMap<&str, Reach> = sources.iter().map(|s| (s.name.as_str(), reach(&s.text))).collect();
    let mut users: BTreeSet<&str> =
        sources.iter().filter(|source| names_session(&source.text)).map(|source| source.name.as_str()).collect();
    loop {
        let reaches_user = |reach: &Reach| {
            reach.any && !users.is_empty() || reach.named.iter().any(|(_, name)| users.contains(name.as_str()))
        };
        let more: Vec<&str> = reaches
            .iter()
            .filter(|(name, reach)| !users.contains(*name) && reaches_user(reach))
            .map(|(name, _)| *name)
            .collect();
        if more.is_empty() {
            return users.into_iter().map(str::to_owned).collect();
        }
        users.extend(more);
    }
}

/// The first template that is named and does not exist.
pub(super) fn missing(sources: &[Source]) -> Option<Broken> {
    let known: BTreeSet<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    sources.iter().find_map(|source| {
        let reach = reach(&source.text);
        let may_miss = reach.any || reach.may_miss;
        let (line, name) = reach.named.into_iter().find(|(_, name)| !may_miss && !known.contains(name.as_str()))?;
        let what = if let Some(path) = name.strip_prefix('/') {
            format!("there is no template {path:?} in this webapp")
        } else {
            format!("there is no template {name:?} in WEB-INF/templates (a page's own path starts with a slash)")
        };
        Some(Broken { file: source.file.clone(), line: Some(line), column: None, what })
    })
}

/// Whether a source names something that reads or writes the session. Words of the text around the tags count too:
/// that costs a page a little time, never a session its turn.
fn names_session(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.into_iter().any(|word| matches!(word, "session" | "csrf_field" | "csrf_token" | "flash" | "user"))
}

fn reach(text: &str) -> Reach {
    let mut reach = Reach::default();
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let line = text[..text.len() - rest.len() + at].matches('\n').count() + 1;
        rest = &rest[at + 2..];
        let tag = &rest[..rest.find("%}").unwrap_or(rest.len())];
        let tag = tag.trim_matches(['-', '+']).trim();
        let (word, arguments) = tag.split_once(|c: char| !c.is_ascii_alphabetic()).unwrap_or((tag, ""));
        if matches!(word, "include" | "extends" | "import" | "from") {
            // The first character behind the word may be the quote itself.
            reach.note(line, &tag[tag.len() - arguments.len() - 1..]);
        }
    }
    reach
}

impl Reach {
    /// Takes the arguments of one tag apart: quoted names, and anything left over that could make a name.
    fn note(&mut self, line: usize, arguments: &str) {
        let mut outside = String::new();
        let mut rest = arguments;
        while let Some(at) = rest.find(['"', '\'']) {
            let quote = rest.as_bytes()[at] as char;
            outside.push_str(&rest[..at]);
            let Some(end) = rest[at + 1..].find(quote) else { break };
            self.named.push((line, rest[at + 1..at + 1 + end].to_owned()));
            rest = &rest[at + end + 2..];
        }
        outside.push_str(rest);
        self.may_miss |= outside.contains("ignore missing");
        let names_follow = outside.trim_start().starts_with("as ") || outside.trim_start().starts_with("import ");
        let plain = outside
            .split_whitespace()
            .all(|word| matches!(word, "ignore" | "missing" | "with" | "without" | "context") || names_follow);
        self.any |= self.named.is_empty() || !plain || outside.contains(['~', '|', '(']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[(&str, &str)]) -> Vec<Source> {
        let source = |(name, text): &(&str, &str)| Source {
            name: (*name).into(),
            file: format!("shop{name}"),
            text: (*text).into(),
        };
        texts.iter().map(source).collect()
    }

    #[test]
    fn the_session_is_seen_through_includes_and_parents() {
        let sources = sources(&[
            ("/plain.html.j2", "{{ request.path }} sessions"),
            ("/direct.html.j2", "{{ session.count }}"),
            ("/form.html.j2", "{%- include \"form.html.j2\" ignore missing -%}"),
            ("/child.html.j2", "{% extends 'base.html.j2' %}"),
            ("/macro.html.j2", "{% from 'm.html.j2' import a, b as c with context %}"),
            ("/other.html.j2", "{% import 'plain.html.j2' as p %}"),
            ("/computed.html.j2", "{% include 'a' ~ request.query.x %}"),
            ("/list.html.j2", "{% include ['x.html.j2', name] %}"),
            ("base.html.j2", "{% include 'form.html.j2' %}"),
            ("form.html.j2", "{{ csrf_field() }}"),
            ("m.html.j2", "{% macro a() %}{{ request.user }}{% endmacro %}"),
            ("plain.html.j2", ""),
        ]);
        let users = session_users(&sources);
        assert!(!users.contains(&"/plain.html.j2".to_owned()) && !users.contains(&"/other.html.j2".to_owned()));
        for name in ["direct", "form", "child", "macro", "computed", "list"] {
            assert!(users.contains(&format!("/{name}.html.j2")), "{name} uses the session: {users:?}");
        }
    }

    #[test]
    fn without_any_session_a_computed_include_needs_none() {
        assert!(session_users(&sources(&[("/a.html.j2", "{% include x %}"), ("b.html.j2", "")])).is_empty());
    }

    #[test]
    fn a_template_that_does_not_exist_is_named_with_its_line() {
        let broken = missing(&sources(&[("/a.html.j2", "\n{% extends \"bsae.html.j2\" %}")])).unwrap();
        assert_eq!((broken.file.as_str(), broken.line), ("shop/a.html.j2", Some(2)));
        assert!(broken.what.contains("bsae.html.j2"));
        for fine in ["{% include 'x' ignore missing %}", "{% include 'x' ~ y %}", "{% include \"/a.html.j2\" %}"] {
            assert_eq!(missing(&sources(&[("/a.html.j2", fine)])), None, "{fine}");
        }
    }
}
