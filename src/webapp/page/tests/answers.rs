//! How pages end, what they leave for the next one, and where their links lead.

use super::*;

#[test]
fn a_page_ends_with_the_bytes_that_it_sends() {
    let template = "text{% do session.set('a', 1) %}{% do response.send(session.file, 'text/csv; charset=utf-8', \
                    file_name='表.csv') %}{% do session.set('b', 1) %}";
    let mut draft = Draft::blank();
    draft.set("file", &serde_bytes::ByteBuf::from(b"\x00\xff,1".to_vec())).unwrap();
    let rendered = render(template, get(""), draft);
    assert_eq!((rendered.status.as_u16(), &rendered.body[..]), (200, &b"\x00\xff,1"[..]));
    assert_eq!(rendered.content_type, "text/csv; charset=utf-8");
    assert_eq!(header(&rendered, "x-content-type-options"), Some("nosniff"));
    let disposition = "attachment; filename=\"_.csv\"; filename*=UTF-8''%E8%A1%A8.csv";
    assert_eq!(header(&rendered, "content-disposition"), Some(disposition));
    assert!(rendered.draft.get("a").is_some() && rendered.draft.get("b").is_none());
}

#[test]
fn what_others_have_made_is_not_run_as_if_this_site_had() {
    let sent =
        |arguments: &str| render(&format!("{{% do response.send('<x>', {arguments}) %}}"), get(""), Draft::blank());
    for kind in ["text/html", "image/svg+xml", "Application/XHTML+XML; charset=utf-8"] {
        assert!(header(&sent(&format!("'{kind}'")), "content-security-policy").unwrap().contains("sandbox"), "{kind}");
    }
    assert_eq!(header(&sent("'application/pdf'"), "content-security-policy"), None);
    let download = sent("content_type='text/html', file_name='a.html'");
    assert_eq!(header(&download, "content-security-policy"), None);
    assert_eq!(header(&download, "content-disposition"), Some("attachment; filename=\"a.html\""));
    let shown = sent("'image/png', file_name='a.png', inline=true");
    assert_eq!(header(&shown, "content-disposition"), Some("inline; filename=\"a.png\""));
    assert_eq!(sent("").content_type, "application/octet-stream");
}

#[test]
fn what_cannot_be_sent_is_refused() {
    assert!(fails("{% do response.send([1]) %}").what.contains("bytes or a text"));
    assert!(fails("{% do response.send(1) %}").what.contains("number"));
    fails("{% do response.send('a', 'text/html\\r\\nX: y') %}");
    fails("{% do response.send('a', colour='red') %}");
    assert!(fails("{% do response.send('x' * 4194305) %}").what.contains("4194304"));
}

#[test]
fn a_redirect_leaves_this_site_only_where_the_page_says_so() {
    let to = |arguments: &str| format!("{{% do response.redirect({arguments}) %}}");
    let error = fails(&to("request.query.next or 'https://evil.example/'"));
    assert!(error.what.contains("external=true"), "{error}");
    for good in [
        "'https://example.org/', external=true",
        "'http://LOCALHOST:12121/a'",
        "'https://example.org', 302, external=true",
    ] {
        assert!(render(&to(good), get(""), Draft::blank()).status.is_redirection(), "{good}");
    }
    for bad in
        ["'//example.org/', external=true", "'https://localhost:12121/'", "'http://localhost:12121@evil.example/'"]
    {
        fails(&to(bad));
    }
    let kept = render(&to("url('//evil.example', a='b c')"), get(""), Draft::blank());
    assert_eq!(header(&kept, "location"), Some("/shop/evil.example?a=b%20c"));
}

#[test]
fn a_link_has_its_query_encoded() {
    for (call, link) in [
        ("url('/x', page=2)", "/shop/x?page=2"),
        ("url('/x?a=1#top', q='申&b', b=none, c=missing)", "/shop/x?a=1&q=%E7%94%B3%26b#top"),
        ("url('', ids=[1, 2], ok=true)", "/shop/?ids=1&ids=2&ok=True"),
    ] {
        assert_eq!(body(&format!("{{{{ {call}|safe }}}}")), link, "{call}");
    }
    assert_eq!(body("{{ url('/x', a=1, b=2) }}"), "&#x2f;shop&#x2f;x?a=1&amp;b=2");
    assert!(fails("{{ url('/x', a={'b': 1}) }}").what.contains("\"a\""));
}

#[test]
fn a_message_is_shown_once_on_whatever_page_comes_next() {
    let show = "{% for m in flash.take() %}{{ m.kind }}:{{ m.message }};{% endfor %}";
    let first = render(
        "{% do flash('saved <b>') %}{% do flash('slow', 'warning') %}{% do flash(3, kind='n') %}{% do response.redirect('/') %}",
        get(""),
        Draft::blank(),
    );
    assert_eq!(first.status, 303);
    let second = render(&format!("{show}{{{{ session|list }}}}"), get(""), first.draft);
    assert_eq!(second.text(), "info:saved &lt;b&gt;;warning:slow;n:3;[]", "it is no attribute of the page's");
    let third = render(show, get(""), second.draft);
    assert_eq!((third.text(), third.draft.changes().len()), ("", 1));
    assert_eq!(render(show, get(""), Draft::blank()).draft.changes().len(), 0, "to look is no write");
}

#[test]
fn messages_are_bounded_and_outlive_the_end_of_a_session() {
    let many = "{% for i in range(40) %}{% do flash(i ~ 'x' * 3000) %}{% endfor %}{% for m in flash.take() %}\
                {{ m.message|length }} {% endfor %}{{ flash.take() }}";
    assert_eq!(body(many), format!("{}[]", "1024 ".repeat(limits::FLASHES)));
    let goodbye = render("{% do session.invalidate() %}{% do flash('goodbye') %}", get(""), Draft::blank());
    assert_eq!((goodbye.draft.fate(), goodbye.draft.changes().len()), (Fate::Ends, 1));
    assert!(page("{% do flash('x') %}").uses_session());
}
