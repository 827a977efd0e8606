//! The page of a page that failed, for its developer (`node.development`).

use std::fmt::Write;

use actix_web::{HttpResponse, http::StatusCode};

use super::refusal;
use crate::webapp::{PageError, Place};

/// What went wrong, where, in which lines, by way of which templates, and what names there are. No values: whoever looks
/// over a developer's shoulder need not see a user's.
pub(super) fn page(error: &PageError, names: &[String], reference: &str) -> HttpResponse {
    let PageError { place, what, through, lines } = error;
    let mut body = format!("<p class=\"what\">{}</p>\n<p>In <b>{}</b></p>\n", escaped(what), escaped(&told(place)));
    if !lines.is_empty() {
        let _ = write!(body, "<pre>{}</pre>\n", escaped(&code(lines, place)));
    }
    for place in through.iter().rev() {
        let _ = write!(body, "<p>by way of <b>{}</b></p>\n", escaped(&told(place)));
    }
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(|name| format!("<code>{}</code>", escaped(name))).collect();
        let _ = write!(body, "<p>Names that the page uses: {}</p>\n", names.join(" "));
    }
    let _ = write!(
        body,
        "<p class=\"note\">The log has this as {reference}. You see it because <code>node.development</code> is on; \
         users would see the number only.</p>\n"
    );
    refusal::head(StatusCode::INTERNAL_SERVER_ERROR).body(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>This page failed</title>\n<style>{STYLE}</style>\n<h1>This page failed</h1>\n{body}"
    ))
}

const STYLE: &str = "body{font:1rem/1.6 system-ui,sans-serif;max-width:60rem;margin:6vh auto;padding:0 1.5rem;\
    color-scheme:light dark}h1{font-size:1.5rem}.what{font-size:1.15rem;color:#c22}pre{overflow-x:auto;padding:1rem;\
    border:1px solid #8886;border-radius:.4rem}.note{opacity:.75}";

/// `shop/index.html.j2, line 3, column 8`
fn told(place: &Place) -> String {
    let mut told = place.file.clone();
    if let Some(line) = place.line {
        let _ = write!(told, ", line {line}");
    }
    if let Some((column, _)) = place.columns {
        let _ = write!(told, ", column {column}");
    }
    told
}

/// The lines with their numbers, and a mark below what is at fault. A wide character takes two columns, so the mark of a
/// line with some is only near.
fn code(lines: &[(usize, String)], place: &Place) -> String {
    let width = lines.last().map_or(0, |(number, _)| number.to_string().len());
    let mut code = String::new();
    for (number, line) in lines {
        let is_it = place.line == Some(*number);
        let _ = writeln!(code, "{} {number:width$} | {line}", if is_it { '>' } else { ' ' });
        if let Some((first, count)) = place.columns.filter(|_| is_it) {
            let count = count.min((line.chars().count() + 1).saturating_sub(first)).max(1);
            let _ = writeln!(code, "  {:width$} | {:skip$}{}", "", "", "^".repeat(count), skip = first - 1);
        }
    }
    code
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use actix_web::{body::MessageBody, http::header};

    use super::*;

    #[test]
    fn a_fault_is_shown_with_its_lines_and_a_mark_and_nothing_is_markup() {
        let place = Place { file: "shop/a.html.j2".into(), line: Some(10), columns: Some((4, 3)) };
        let error = PageError {
            place,
            what: "undefined <value>".into(),
            through: vec![Place { file: "shop/index.html.j2".into(), line: Some(2), columns: None }],
            lines: vec![(9, "<b>".into()), (10, "{{ nix }}".into())],
        };
        let response = page(&error, &["session.n".to_owned()], "00c0ffee");
        assert_eq!(response.status(), 500);
        assert!(response.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        let body = response.into_body().try_into_bytes().unwrap();
        let body = std::str::from_utf8(&body).unwrap();
        for part in [
            "undefined &lt;value&gt;",
            "<b>shop/a.html.j2, line 10, column 4</b>",
            "   9 | &lt;b&gt;\n&gt; 10 | {{ nix }}\n     |    ^^^\n",
            "by way of <b>shop/index.html.j2, line 2</b>",
            "<code>session.n</code>",
            "00c0ffee",
        ] {
            assert!(body.contains(part), "{part:?} in {body}");
        }
    }
}
