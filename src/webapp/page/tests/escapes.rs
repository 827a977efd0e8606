//! Nasty values in every kind of page.

use super::*;

/// What breaks out of texts, tags, scripts and documents.
const NASTY: &str = "</script><script>alert('\"&`\\\u{2028}\u{2029}\n\u{0}\u{b}申";

/// What a page of this name makes of one value.
fn made(name: &str, template: &str, value: impl serde::Serialize) -> Rendered {
    let mut draft = Draft::blank();
    draft.set("v", &value).unwrap();
    pages(&[(name, template)]).render(get(""), draft, &node()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn what_a_page_produces_decides_type_and_escaping() {
    for (name, kind, escaped) in [
        ("/a.html.j2", "text/html; charset=utf-8", "&lt;&quot;"),
        ("/a.txt.j2", "text/plain; charset=utf-8", "<\""),
        ("/a.csv.j2", "text/csv; charset=utf-8", "<\""),
        ("/a.json.j2", "application/json; charset=utf-8", "\"\\u003c\\\"\""),
        ("/a.js.j2", "text/javascript; charset=utf-8", "\"\\u003c\\\"\""),
        ("/a.xml.j2", "text/xml; charset=utf-8", "&lt;&quot;"),
        ("/a.svg.j2", "image/svg+xml; charset=utf-8", "&lt;&quot;"),
        ("/a.bin.j2", "application/octet-stream", "&lt;&quot;"),
        ("/a.j2", "application/octet-stream", "&lt;&quot;"),
    ] {
        let rendered = made(name, "{{ session.v }}", "<\"");
        assert_eq!((rendered.content_type.to_str().unwrap(), rendered.text()), (kind, escaped), "{name}");
    }
}

#[test]
fn json_and_scripts_have_values_and_nothing_ends_the_script_around_them() {
    let value = serde_json::json!({NASTY: [NASTY, 1, -2.5, true, null]});
    for name in ["/a.json.j2", "/a.js.j2"] {
        let rendered = made(name, "{{ session.v }}", &value);
        let text = rendered.text();
        assert!(!text.contains(['<', '>', '&', '\'', '\n', '\u{2028}', '\u{2029}', '\u{0}']), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), value);
    }
    let parts = "{\"url\": {{ url('/a') }}, \"missing\": {{ missing }}, \"token\": {{ csrf_token()|length }}, \"bytes\": {{ b }}}";
    let parts =
        made("/a.json.j2", &format!("{{% set b = session.v %}}{parts}"), serde_bytes::ByteBuf::from(vec![0, 255]));
    let expected = serde_json::json!({"url": "/shop/a", "missing": null, "token": 32, "bytes": [0, 255]});
    assert_eq!(serde_json::from_str::<serde_json::Value>(parts.text()).unwrap(), expected);
}

#[test]
fn html_has_no_markup_and_no_end_of_an_attribute() {
    let rendered =
        made("/a.html.j2", "<a title=\"{{ session.v }}\" data-x='{{ session.v }}'>{{ session.v }}</a>", NASTY);
    let inner = rendered.text().split(['"', '\'']).collect::<Vec<_>>();
    assert_eq!(inner.len(), 5, "four quotes, all of them the template's: {}", rendered.text());
    assert_eq!(rendered.text().matches('<').count(), 2);
    let script = made("/a.html.j2", "<script>let v = {{ session.v|tojson }}</script>", NASTY);
    assert_eq!(script.text().matches('<').count(), 2, "{}", script.text());
}

#[test]
fn xml_stays_well_formed() {
    let rendered =
        made("/a.xml.j2", "<a b=\"{{ session.v }}\">{{ session.v }}{{ 1.5 }}{{ true }}{{ '<b/>'|safe }}</a>", NASTY);
    let mut reader = quick_xml::Reader::from_str(rendered.text());
    while !matches!(reader.read_event().expect("it is well-formed"), quick_xml::events::Event::Eof) {}
    assert!(!rendered.text().contains(['\u{0}', '\u{b}']) && rendered.text().contains("\u{fffd}\u{fffd}申"));
    assert!(rendered.text().ends_with("1.5True<b/></a>"), "{}", rendered.text());
}

#[test]
fn text_is_left_as_it_is() {
    for name in ["/a.txt.j2", "/a.csv.j2", "/a.md.j2", "/a.css.j2"] {
        assert_eq!(made(name, "{{ session.v }}", NASTY).text(), NASTY, "{name}");
    }
    assert_eq!(made("/a.csv.j2", "{{ session.v }}", "=1+1").text(), "=1+1", "not even a formula is changed");
}

#[test]
fn what_is_marked_or_made_by_the_template_is_not_escaped_again() {
    let template =
        "{% set b %}<b>{{ session.v }}</b>{% endset %}{{ b }}{{ session.v|e }}{{ csrf_field()|length > 60 }}";
    assert_eq!(made("/a.html.j2", template, "<").text(), "<b>&lt;</b>&lt;True");
    assert_eq!(made("/a.json.j2", "{{ session.v|tojson }}{{ session.v|e }}", "<").text(), "\"\\u003c\"\"\\u003c\"");
}
