//! Where a page failed, through whatever templates.

use super::*;

fn fault(templates: &[(&str, &str)]) -> PageError {
    pages(templates).render(get(""), Draft::blank(), &node()).expect_err("it fails")
}

fn place(place: &Place) -> (&str, Option<usize>, Option<(usize, usize)>) {
    (&place.file, place.line, place.columns)
}

#[test]
fn a_fault_is_where_it_is_in_nested_includes() {
    let error = fault(&[
        ("/index.html.j2", "\n{% include 'a.html.j2' %}"),
        ("a.html.j2", "<p>\n\n  {% include 'b.html.j2' %}"),
        ("b.html.j2", "1\n2\n申 {{ sesion.count }} x\n4\n5\n6"),
    ]);
    assert_eq!(place(&error.place), ("shop/b.html.j2", Some(3), Some((6, 12))), "{error}");
    assert!(error.what.contains("undefined") && error.what.contains("sesion.count"), "{error}");
    let through: Vec<_> = error.through.iter().map(|place| (place.file.as_str(), place.line)).collect();
    assert_eq!(through, [("shop/index.html.j2", Some(2)), ("shop/a.html.j2", Some(3))]);
    let lines: Vec<usize> = error.lines.iter().map(|(number, _)| *number).collect();
    assert_eq!((lines, error.lines[2].1.as_str()), (vec![1, 2, 3, 4, 5], "申 {{ sesion.count }} x"));
    assert!(error.to_string().starts_with("shop/b.html.j2:3:6: "), "{error}");
    assert!(error.to_string().contains("(from shop/a.html.j2:3"), "{error}");
}

#[test]
fn a_fault_is_where_it_is_in_parents_blocks_and_macros() {
    let base = ("base.html.j2", "{% block b %}{% endblock %}\n{{ 1 / 0 }}");
    let error = fault(&[("/index.html.j2", "{% extends 'base.html.j2' %}"), base]);
    assert_eq!((error.place.file.as_str(), error.place.line), ("shop/base.html.j2", Some(2)), "{error}");
    let error =
        fault(&[("/index.html.j2", "{% extends 'base.html.j2' %}{% block b %}\n\n{{ a.b.c }}{% endblock %}"), base]);
    assert_eq!((error.place.file.as_str(), error.place.line), ("shop/index.html.j2", Some(3)), "{error}");
    let error = fault(&[
        ("/index.html.j2", "{% import 'm.html.j2' as m %}\n{{ m.outer() }}"),
        (
            "m.html.j2",
            "{% macro inner() %}\n{{ nobody.knows }}\n{% endmacro %}{% macro outer() %}{{ inner() }}{% endmacro %}",
        ),
    ]);
    assert_eq!((error.place.file.as_str(), error.place.line), ("shop/m.html.j2", Some(2)), "{error}");
}

#[test]
fn a_fault_of_our_own_functions_is_where_they_are_called() {
    let error = fault(&[("/index.html.j2", "a\n{% do response.redirect('//evil.example') %}")]);
    assert_eq!((error.place.line, error.lines.len()), (Some(2), 2), "{error}");
    let error =
        fault(&[("/index.html.j2", "{% for i in range(9000) %}{% for j in range(9000) %}x{% endfor %}{% endfor %}")]);
    assert!(error.what.contains("250000 steps"), "{error}");
}

#[test]
fn a_long_line_and_a_deep_chain_are_cut() {
    let error = fault(&[("/index.html.j2", &format!("{}{{{{ a.b.c }}}}", "申".repeat(900)))]);
    assert_eq!(error.lines[0].1.chars().count(), limits::FAULT_LINE);
    assert_eq!(error.place.columns.map(|(first, _)| first), Some(904));
    let error = fault(&[("/index.html.j2", "{% include '/index.html.j2' %}")]);
    assert!(error.through.len() <= limits::FAULT_TEMPLATES, "{error}");
}

#[test]
fn a_template_that_does_not_compile_has_a_line_and_a_column() {
    let broken = pages_with(&[], &[("/a.html.j2", "<p>\n申  {% if %}")]).unwrap_err();
    assert_eq!((broken.file.as_str(), broken.line, broken.column), ("shop/a.html.j2", Some(2), Some(10)), "{broken:?}");
}

#[test]
fn a_page_names_what_it_uses() {
    let page = page("{{ session.count }}{% set a = request.query.x %}{{ a }}{{ sesion.count }}");
    assert_eq!(page.names(), ["request.query.x", "sesion.count", "session.count"]);
}
