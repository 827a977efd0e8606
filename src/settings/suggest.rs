//! "Did you mean": the nearest known name for one that is not known.

/// How alike two names must be (0 to 1, Jaro-Winkler) before one is offered for the other: a typing error or a
/// changed ending passes, another word does not.
const ALIKE: f64 = 0.8;

/// The known name that is most like `name`, if any is like it at all.
///
/// Dotted keys are compared as a whole and by their last part, so that a good key in the wrong section is found too.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = &name.to_lowercase().replace('-', "_");
    let scored = known.into_iter().map(|candidate| (likeness(name, candidate), candidate));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= ALIKE).then_some(best.1)
}

fn likeness(name: &str, candidate: &str) -> f64 {
    let whole = strsim::jaro_winkler(name, candidate);
    let ends = strsim::jaro_winkler(last_part(name), last_part(candidate));
    // Inside one section the section's name must not make everything alike; between sections it breaks ties.
    if section(name) == section(candidate) { ends } else { ends * 0.9 + whole * 0.1 }
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn section(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(section, _)| section)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 6] =
        ["cluster.name", "session.timeout", "session.turn_timeout", "balancer.timeout", "balancer.listen", "node.http"];

    #[test]
    fn a_typing_error_finds_its_key() {
        assert_eq!(nearest("session.timout", KNOWN), Some("session.timeout"));
        assert_eq!(nearest("balancer.timeot", KNOWN), Some("balancer.timeout"));
    }

    #[test]
    fn a_key_in_the_wrong_section_is_found() {
        assert_eq!(nearest("node.listen", KNOWN), Some("balancer.listen"));
        assert_eq!(nearest("sesion.timeout", KNOWN), Some("session.timeout"));
    }

    #[test]
    fn another_word_is_not_offered() {
        assert_eq!(nearest("session.colour", KNOWN), None);
        assert_eq!(nearest("anything", []), None);
    }
}
