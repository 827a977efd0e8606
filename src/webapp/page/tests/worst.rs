//! Pages that ask for as much as they can: each ends by itself, and at once.

use super::*;

/// A list that has itself twice, so many times over: few bytes, and no end of elements.
const DOUBLE: &str =
    "{% set ns = namespace(x=['x']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";

#[test]
fn a_value_without_end_is_not_printed() {
    for what in [
        "{{ ns.x }}",
        "{% set c %}{{ ns.x }}{% endset %}",
        "{{ ns.x|tojson }}",
        "{{ ns.x|pprint|length }}",
        "{{ ns.x|string }}",
        "{{ ns.x|e }}",
        "{{ '%s'|format(ns.x) }}",
        "{{ ns.x|join(',') }}",
        "{{ {'a': ns.x}|urlencode }}",
        "{% do flash(ns.x) %}",
    ] {
        let error = fails(&format!("{DOUBLE}{what}"));
        assert!(error.what.contains("250000 steps"), "{what}: {error}");
        let json = pages(&[("/a.json.j2", &format!("{DOUBLE}{what}"))]);
        assert!(json.render(get(""), Draft::blank(), &node()).is_err(), "{what} in JSON");
    }
}

#[test]
fn a_large_text_costs_as_much_as_it_is_long_however_often_it_is_looked_at() {
    let large = "{% set b = 'x' * 4000000 %}{% for i in range(9999) %}";
    for what in ["{% if b is lower %}{% endif %}", "{% if b is startingwith('y') %}{% endif %}", "{% do url(b) %}"] {
        let error = fails(&format!("{large}{what}{{% endfor %}}"));
        assert!(error.what.contains("250000 steps"), "{what}: {error}");
    }
}

#[test]
fn what_writes_to_the_session_costs_what_it_writes() {
    let loops = |what: &str| {
        format!("{{% for i in range(9999) %}}{{% for j in range(99) %}}{what}{{% endfor %}}{{% endfor %}}")
    };
    for what in ["{% do flash('x' * 1000) %}", "{% do session.set('n' ~ i, j) %}", "{% do session.add('n') %}"] {
        assert!(fails(&loops(what)).what.contains("250000 steps"), "{what}");
    }
}

#[test]
fn no_number_makes_a_filter_take_all_memory() {
    for what in [
        "[[1]]|tojson(indent=99999999)",
        "'a\\nb'|indent(999999999)",
        "[1]|batch(999999999, 'x')|list",
        "'%999999999d'|format(1)",
    ] {
        fails(&format!("{{{{ {what} }}}}"));
    }
    assert_eq!(body("{{ [1]|tojson(2) }}{{ {'a': [1, 'b']}|tojson }}"), "[\n  1\n]{\"a\": [1, \"b\"]}");
}

#[test]
fn filters_do_what_they_did_before_they_were_weighed() {
    assert_eq!(
        body("{{ ['a', '<']|join('-') }} {{ [1]|string }} {{ 'a b'|urlencode }} {{ '%s-%s'|format(1, 'x') }}"),
        "a-&lt; [1] a%20b 1-x"
    );
    assert_eq!(
        body(
            "{{ 'abc' is startingwith('a') }} {{ 'ABC' is lower }} {{ '<'|e }} {{ [{'a': 1}]|join(',', attribute='a') }}"
        ),
        "True False &lt; 1"
    );
}

#[test]
fn a_page_that_writes_too_much_ends_there() {
    let error = fails("{% for i in range(9) %}{{ 'x' * 1000000 }}{% endfor %}");
    assert!(error.what.contains("4194304"), "{error}");
}
