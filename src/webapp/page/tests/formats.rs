//! Dates, times and numbers as people of some languages read them.

use super::*;

/// 2026-11-26, 21:05:09 in London, 22:05:09 in Vienna, the next day in Tokyo.
const NOW: i64 = 1_795_727_109;

fn shown(expression: &str) -> String {
    shown_by(&[("time_zone", "Europe/Vienna")], expression)
}

fn shown_by(parameters: &[(&str, &str)], expression: &str) -> String {
    let page = pages_with(parameters, &[("/index.txt.j2", &format!("{{{{ {expression} }}}}"))]);
    let now = jiff::Timestamp::from_second(NOW).unwrap();
    let rendered = page.unwrap().render(Request { now, ..get("") }, Draft::blank(), &node());
    rendered.unwrap_or_else(|error| panic!("{expression}: {error}")).text().to_owned()
}

#[test]
fn a_date_is_written_as_its_language_has_it() {
    for (expression, text) in [
        ("now()", "1795727109"),
        ("now()|date", "Nov 26, 2026"),
        ("now()|date('short')", "2026-11-26"),
        ("now()|date('long')", "November 26, 2026"),
        ("now()|date('full')", "Thursday, November 26, 2026"),
        ("now()|date('iso')", "2026-11-26"),
        ("now()|date('%d.%m.%y')", "26.11.26"),
        ("now()|date(lang='ja')", "2026/11/26"),
        ("now()|date('long', lang='ja-JP')", "2026年11月26日"),
        ("now()|date('full', lang='ja')", "2026年11月26日木曜日"),
        ("now()|date('full', lang='de')", "2026-11-26"),
        ("now()|time", "22:05:09"),
        ("now()|time('short')", "22:05"),
        ("now()|time('long')", "22:05:09 CET"),
        ("now()|datetime", "Nov 26, 2026, 22:05"),
        ("now()|datetime('long', lang='ja')", "2026年11月26日 22:05"),
        ("now()|datetime('iso')", "2026-11-26T22:05:09+01:00"),
        ("now()|datetime(zone='Asia/Tokyo')", "Nov 27, 2026, 06:05"),
        ("(now() - 3600)|time('short', zone='UTC')", "20:05"),
    ] {
        assert_eq!(shown(expression), text, "{expression}");
    }
}

#[test]
fn a_date_is_read_as_browsers_and_databases_write_it() {
    for (expression, text) in [
        ("'2026-11-26'|date", "Nov 26, 2026"),
        ("'2026-11-26T09:30'|datetime", "Nov 26, 2026, 09:30"),
        ("'2026-11-26 09:30:00'|datetime", "Nov 26, 2026, 09:30"),
        ("'2026-11-26T23:30:00Z'|datetime", "Nov 27, 2026, 00:30"),
        ("'2026-11-26T09:30:00+09:00'|datetime", "Nov 26, 2026, 01:30"),
        ("0.75|datetime('iso', zone='UTC')", "1970-01-01T00:00:00+00:00"),
        ("(-1)|time(zone='UTC')", "23:59:59"),
        ("''|date ~ none|date ~ missing|time", ""),
    ] {
        assert_eq!(shown(expression), text, "{expression}");
    }
    for bad in ["'tomorrow'|date", "'2026-02-30'|date", "[1]|date", "now()|date('huge')", "now()|date('%!')"] {
        fails(&format!("{{{{ {bad} }}}}"));
    }
    assert!(fails("{{ now()|date(zone='Moon/Sea') }}").what.contains("\"Moon/Sea\""));
    assert!(fails("{{ 1e300|date }}").what.contains("no date"));
}

#[test]
fn the_language_and_the_zone_are_the_pages_or_the_webapps() {
    let japan = [("language", "ja"), ("time_zone", "Asia/Tokyo")];
    assert_eq!(shown_by(&japan, "now()|datetime('long')"), "2026年11月27日 06:05");
    assert_eq!(body("{% set lang = 'ja' %}{{ '2026-11-26'|date('long') }}"), "2026年11月26日");
    let broken = pages_with(&[("time_zone", "Asia/Edo")], &[("/index.html.j2", "")]).unwrap_err();
    assert!(broken.file.ends_with("web.xml") && broken.what.contains("\"Asia/Edo\""), "{broken:?}");
}

#[test]
fn a_number_is_grouped_and_rounded() {
    for (expression, text) in [
        ("1234567|number", "1,234,567"),
        ("-1234.5|number(2)", "-1,234.50"),
        ("999|number(2)", "999.00"),
        ("100|number", "100"),
        ("-100000|number(0)", "-100,000"),
        ("1234.567|number", "1,234.567"),
        ("'1234567'|number(1)", "1,234,567.0"),
        ("' 12.345 '|number(1)", "12.3"),
        ("1234567|number(lang='ja')", "1,234,567"),
        ("1234567.5|number(2, lang='de')", "1234567.50"),
        ("0.5|number(0)", "0"),
        ("missing|number ~ ''|number", ""),
    ] {
        assert_eq!(shown(expression), text, "{expression}");
    }
    for bad in ["'abc'|number", "[]|number", "1|number(99)", "'nan'|number", "1|number(-1)"] {
        fails(&format!("{{{{ {bad} }}}}"));
    }
}
