//! Pages of a few lines, rendered.

mod answers;
mod bodies;
mod escapes;
mod faults;
mod formats;

use std::sync::Arc;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::{
    membership::Duty,
    names::SessionId,
    session::draft::{Change, Fate},
};

fn page(template: &str) -> Page {
    pages(&[("/index.html.j2", template)])
}

/// The page of the first template.
fn pages(templates: &[(&str, &str)]) -> Page {
    pages_with(&[("colour", "<red>")], templates).unwrap()
}

fn pages_with(parameters: &[(&str, &str)], templates: &[(&str, &str)]) -> Result<Page, templates::Broken> {
    let source = |(name, text): &(&str, &str)| Source {
        name: (*name).into(),
        file: format!("shop/{}", name.trim_start_matches('/')),
        text: (*text).into(),
    };
    let application = Application {
        name: "Shop".into(),
        context: "/shop".parse().unwrap(),
        version: "1".into(),
        parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    let compiled = Templates::compile(templates.iter().map(source).collect(), &application)?;
    Ok(Page::new(Arc::new(compiled), templates[0].0.into()))
}

fn get(query: &str) -> Request {
    let headers = [("accept-language", "ja,en;q=0.5"), ("cookie", "a=1; b=%E7%94%B3")];
    Request {
        method: "GET".into(),
        path: "/index.html".into(),
        query: query.into(),
        body: Body::default(),
        headers: headers
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect::<Vec<_>>()
            .into_iter()
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.insert(name, value);
                map
            }),
        remote_addr: "192.0.2.7".into(),
        scheme: "http".into(),
        host: "localhost:12121".into(),
        error: None,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn post(form: &str) -> Request {
    Request {
        method: "POST".into(),
        body: Body { form: Some(parameters(form).unwrap()), ..Body::default() },
        ..get("")
    }
}

fn node() -> Arc<NodeInfo> {
    let member = |route: &str, duty, me| {
        let life = crate::names::NodeId(1);
        MemberInfo { route: route.parse().unwrap(), duty, me, life, follows: None }
    };
    let members = [member("r1", Duty::Serving, true), member("r2", Duty::Draining, false)];
    Arc::new(NodeInfo::new(&"r1".parse().unwrap(), &members, Default::default()))
}

fn render(template: &str, request: Request, draft: Draft) -> Rendered {
    page(template).render(request, draft, &node()).unwrap()
}

fn body(template: &str) -> String {
    render(template, get("x=1&x=<2>"), Draft::blank()).text().to_owned()
}

fn fails(template: &str) -> PageError {
    page(template).render(get(""), Draft::blank(), &node()).expect_err("the page fails")
}

fn header<'a>(rendered: &'a Rendered, name: &str) -> Option<&'a str> {
    rendered.headers.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.to_str().ok())
}

#[test]
fn a_session_is_read_and_changed() {
    let mut draft = Draft::of(Some(SessionId([7; 16])), []);
    draft.set("list", &vec![1, 2]).unwrap();
    let draft = Draft::of(draft.id(), draft.attributes().map(|(n, v)| (n.into(), v.clone())).collect::<Vec<_>>());
    let template = "{% do session.set('a', {'b': [1, 'x', none, true]}) %}{{ session.a.b[1] }} {{ session.add('n', 2) }} \
        {{ session.n + session.get('m', 40) }} {{ session.get('m', default=1) }} {{ session.has('list') }} \
        {{ session.remove('list')|length }} {{ session.has('list') }} {{ session|sort|join(',') }} {{ session.none }}|\
        {{ session.id[:4] }} {{ session.is_new }}";
    let rendered = render(template, get(""), draft);
    assert_eq!(rendered.text(), "x 2 42 1 True 2 False a,n |0707 False");
    let changed: Vec<&str> = rendered.draft.changes().iter().map(|change| &**change.name()).collect();
    assert_eq!(changed, ["a", "n", "list"]);
    assert!(matches!(rendered.draft.changes()[2], Change::Remove(_)));
    assert_eq!(rendered.draft.get_as::<i64>("n"), Some(2));
}

#[test]
fn a_value_made_of_others_can_be_kept() {
    let template = "{% do session.set('l', session.get('l', []) + [dict(a=1)]) %}{% do session.set('l', session.l + [{'a': 2}]) %}\
        {{ session.l|map(attribute='a')|sum }} {% set t %}<b>{% endset %}{% do session.set('t', t) %}{{ session.t }}";
    assert_eq!(body(template), "3 &lt;b&gt;");
}

#[test]
fn what_is_no_data_is_refused_where_it_is_set() {
    for value in ["range", "response", "[response]", "{'a': url}"] {
        let error = fails(&format!("\n{{% do session.set('x', {value}) %}}"));
        assert!(error.to_string().starts_with("shop/index.html.j2:2:"), "{error}");
        assert!(error.what.contains("session attribute \"x\""), "{error}");
    }
    let nested = fails(
        "{% set ns = namespace(x=1) %}{% for i in range(40) %}{% set ns.x = [ns.x] %}{% endfor %}\
        {% do session.set('x', ns.x) %}",
    );
    assert!(nested.what.contains("nested"), "{nested}");
    assert!(fails("{% do session.set('s', 'x') %}{{ session.add('s', 1) }}").what.contains("whole number"));
}

#[test]
fn a_request_is_seen_and_escaped() {
    assert_eq!(body("{{ request.query.x }} {{ request.query_all('x')|join('+') }}"), "&lt;2&gt; 1+&lt;2&gt;");
    assert_eq!(body("{{ request.cookies.b }}{{ request.cookies.a }}{{ request.cookies.c }}"), "申1");
    assert_eq!(body("{{ request.header('Accept-Language')[:2] }} {{ 'cookie' in request.headers }}"), "ja True");
    assert_eq!(
        body("{{ request.method }} {{ request.path|safe }} {{ request.host }}"),
        "GET /index.html localhost:12121"
    );
    assert_eq!(body("{{ 'x' in request.query }} {{ 'y' in request.query }} {{ request.form.a }}"), "True False ");
    assert_eq!(body("{% do session.set('user', 'Sato') %}{{ request.user }}"), "Sato");
}

#[test]
fn the_application_and_the_node_are_seen() {
    let template = "{{ application.name }} {{ application.parameters.colour }} {{ url('/a?b=c') }} {{ url('x\"') }} \
        {{ node.route }}{% for m in node.members %} {{ m.route }} {{ m.duty }} {{ m.me }}{% endfor %}";
    let expected = "Shop &lt;red&gt; /shop/a?b=c /shop/x%22 r1 r1 serving True r2 draining False";
    assert_eq!(body(template), expected);
}

#[test]
fn macros_and_included_templates_see_the_same_session() {
    let page = pages(&[
        (
            "/index.html.j2",
            "{% extends 'base.html.j2' %}{% import 'm.html.j2' as m %}{% block b %}{{ m.n() }}{% endblock %}",
        ),
        (
            "base.html.j2",
            "{% import 'm.html.j2' as m %}{{ m.n() }}{% block b %}{% endblock %}{% include '/part.txt.j2' %}",
        ),
        (
            "m.html.j2",
            "{% macro n() %}{{ session.add('n', 1) }}{{ node.route }}{% set f = csrf_field() %},{% endmacro %}",
        ),
        ("/part.txt.j2", "{{ '<' }}{{ session.n }}"),
    ]);
    let rendered = page.render(get(""), Draft::blank(), &node()).unwrap();
    assert_eq!(rendered.text(), "1r1,2r1,<2");
    assert!(page.uses_session() && rendered.draft.get("_csrf").is_some());
}

#[test]
fn an_answer_is_what_the_page_says() {
    let rendered = render(
        "{% do response.status(404) %}{% do response.header('X-A', '1') %}{% do response.header('x-a', '2') %}\
         {% do response.cookie('lang', 'ja x;', max_age=60) %}{% do response.header('Content-Type', 'text/css') %}a",
        get(""),
        Draft::blank(),
    );
    assert_eq!((rendered.status.as_u16(), rendered.text()), (404, "a"));
    assert_eq!(rendered.content_type, "text/css");
    assert_eq!(header(&rendered, "x-a"), Some("2"));
    let cookie = header(&rendered, "set-cookie").unwrap();
    assert_eq!(cookie, "lang=ja%20x%3B; HttpOnly; SameSite=Lax; Path=/; Max-Age=60");
    assert_eq!(header(&rendered, "cache-control"), None, "a page without a session may be cached");
}

#[test]
fn headers_that_break_out_or_belong_to_the_server_are_refused() {
    for call in [
        "header('X', 'a\\r\\nSet-Cookie: b')",
        "header('Set-Cookie', 'a=b')",
        "header('Content-Length', '3')",
        "header('Tasuki-Retry', 'any')",
        "header('a b', 'c')",
        "cookie('a;b', 'c')",
        "cookie('a', 'c', path='/;x')",
        "cookie('a', 'c', colour='red')",
        "status(99)",
        "redirect('//evil.example/')",
        "redirect('/', 200)",
        "forward('/')",
    ] {
        fails(&format!("{{% do response.{call} %}}"));
    }
    let many = fails("{% for i in range(100) %}{% do response.header('x-' ~ i, 'v') %}{% endfor %}");
    assert!(many.what.contains("64"), "{many}");
}

#[test]
fn a_redirect_ends_the_page_and_keeps_what_was_done_before() {
    let template =
        "text{% do session.set('a', 1) %}{% do response.redirect(url('/申?a=1&b=2')) %}{% do session.set('b', 1) %}";
    let rendered = render(template, get(""), Draft::blank());
    assert_eq!((rendered.status.as_u16(), rendered.text()), (303, ""));
    assert_eq!(header(&rendered, "location"), Some("/shop/%E7%94%B3?a=1&b=2"));
    assert!(rendered.draft.get("a").is_some() && rendered.draft.get("b").is_none());
}

#[test]
fn an_unsafe_request_needs_the_sessions_token() {
    let template =
        "{% if request.method == 'POST' %}{% do session.set('done', request.form.x) %}{% endif %}{{ csrf_field() }}";
    let refused = render(template, post("x=1"), Draft::blank());
    assert_eq!((refused.status.as_u16(), refused.draft.changes().len()), (403, 0));
    let first = render(template, get(""), Draft::blank());
    let token: String = first.draft.get_as("_csrf").unwrap();
    assert_eq!(first.text(), format!("<input type=\"hidden\" name=\"_csrf\" value=\"{token}\">"));
    assert_eq!(header(&first, "cache-control"), Some("no-store"));
    for wrong in ["x=1&_csrf=".to_owned(), format!("x=1&_csrf={}0", &token[1..]), format!("x=1&_csrf={token}1")] {
        assert_eq!(render(template, post(&wrong), first.draft.clone()).status, 403);
    }
    let done = render(template, post(&format!("x=1&_csrf={token}")), first.draft.clone());
    assert_eq!((done.status.as_u16(), done.draft.get_as("done")), (200, Some("1".to_owned())));
    let mut by_header = Request { body: Body::default(), ..post("") };
    by_header.headers.insert(HeaderName::from_static("x-csrf-token"), HeaderValue::from_str(&token).unwrap());
    assert_eq!(render(template, by_header, first.draft).status, 200);
    let plain = page("hello");
    assert!(!plain.uses_session() && plain.needs_session("POST") && !plain.needs_session("GET"));
}

#[test]
fn a_login_renews_the_session_and_its_token() {
    let mut draft = Draft::of(Some(SessionId([7; 16])), []);
    draft.set("_csrf", &"planted").unwrap();
    let rendered =
        render("{% do session.renew() %}{% do session.set('user', 'a') %}{{ csrf_token()|length }}", get(""), draft);
    assert_eq!((rendered.text(), rendered.draft.fate()), ("32", Fate::Renewed));
    let ended = render("{% do session.invalidate() %}", get(""), rendered.draft);
    assert_eq!((ended.draft.fate(), ended.draft.attributes().count()), (Fate::Ends, 0));
}

#[test]
fn a_page_is_bounded() {
    let error = fails("a\n{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}");
    assert_eq!((error.place.file.as_str(), error.place.line), ("shop/index.html.j2", Some(2)));
    assert!(error.what.contains("250000 steps"), "{error}");
    fails(
        "{% set ns = namespace(x='xxxxxxxxxxxxxxxx') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    );
    assert!(fails("{{ 'x' * 5000000 }}").what.contains("bytes"));
    fails("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    fails("{% include '/index.html.j2' %}");
}

/// What a page changes in a session with these attributes, which are compared at the ends of a request.
fn compared(attributes: &[(&str, serde_json::Value)], template: &str) -> Vec<Change> {
    let encoded = |(name, value): &(&str, serde_json::Value)| {
        ((*name).into(), crate::session::value::Value::encode(value).unwrap())
    };
    let draft = Draft::of(Some(SessionId([1; 16])), attributes.iter().map(encoded)).comparing();
    render(template, get(""), draft).draft.changes().to_vec()
}

fn became(changes: &[Change]) -> Vec<(String, serde_json::Value)> {
    let value = |change: &Change| match change {
        Change::Set(name, value) => (name.to_string(), value.decode().unwrap()),
        Change::Remove(name) => (name.to_string(), serde_json::Value::Null),
    };
    changes.iter().map(value).collect()
}

#[test]
fn a_value_that_is_changed_in_place_is_kept_where_the_ends_are_compared() {
    use serde_json::json;
    let cart = ("cart", json!({"items": [{"n": 1}, {"n": 2}], "name": "x", "2": null}));
    let whole = |n: i64, name: &str| json!({"items": [{"n": n}, {"n": 2}], "name": name, "2": null});
    let changed = |template| became(&compared(std::slice::from_ref(&cart), template));
    assert_eq!(changed("{% set c = session.cart %}{% set c.name = 'y' %}"), [("cart".into(), whole(1, "y"))]);
    let deep = "{% set i = session.get('cart')['items'][0] %}{% set i.n = 7 %}{{ session.cart['items'][0].n }}";
    assert_eq!(changed(deep), [("cart".into(), whole(7, "x"))]);
    let after_set = "{% set a = namespace(n=1) %}{% do session.set('a', [a]) %}{% set a.n = 2 %}";
    assert_eq!(changed(after_set), [("a".into(), json!([{"n": 2}]))]);
    let in_hand = "{% set a = namespace(n=1) %}{% do session.set('a', {'a': a}) %}{% set b = session.a %}{% set b.x = 1 %}\
                   {% set a.n = 2 %}{{ session.a.a.n }}";
    assert_eq!(changed(in_hand), [("a".into(), json!({"a": {"n": 2}, "x": 1}))], "the page still has it in its hands");
    let gone = "{% set c = session.cart %}{% set c.name = 'y' %}{% do session.remove('cart') %}";
    assert_eq!(changed(gone), [("cart".into(), json!(null))]);
}

#[test]
fn a_value_that_is_as_it_was_is_not_sent_where_the_ends_are_compared() {
    use serde_json::json;
    let session = [("n", json!(3)), ("cart", json!({"b": 1.5, "a": [true, "x", {"k": null}]}))];
    for template in [
        "{{ session.cart }}{{ session.n }}",
        "{% do session.set('n', 3) %}",
        "{% do session.set('cart', session.cart) %}",
        "{% set c = session.cart %}{% set c.b = 2 %}{% set c.b = 1.5 %}",
        "{% do session.set('new', 1) %}{% do session.remove('new') %}",
        "{% do session.add('n', 2) %}{% do session.add('n', -2) %}",
    ] {
        assert_eq!(became(&compared(&session, template)), [], "{template}");
    }
    assert_eq!(compared(&[], "{% do session.set('n', 3) %}").len(), 1);
}

#[test]
fn what_cannot_be_kept_fails_the_page_also_when_it_was_put_there_in_place() {
    let page = page("{% set a = namespace() %}{% do session.set('a', a) %}{% set a.f = range %}");
    let draft = || Draft::blank().comparing();
    let error = page.render(get(""), draft(), &node()).expect_err("a function is no data");
    assert!(error.what.contains("cannot be kept in a session"), "{error}");
    let endless = self::page("{% set a = namespace() %}{% do session.set('a', a) %}{% set a.a = a %}{% set a.b = a %}");
    assert!(endless.render(get(""), draft(), &node()).is_err());
}

#[test]
fn a_page_sees_a_map_of_the_session_in_the_same_way_however_changes_are_found() {
    let template = "{% set c = session.cart %}{{ c.name }} {{ c['n'] }} {{ c|length }} {{ c is mapping }} {{ c }} \
                    {% for key, value in c|items %}{{ key }}={{ value }};{% endfor %}";
    let value = crate::session::value::Value::encode(&serde_json::json!({"name": "x", "n": 2})).unwrap();
    let draft = || Draft::of(Some(SessionId([1; 16])), [("cart".into(), value.clone())]);
    let (set, compared) = (render(template, get(""), draft()), render(template, get(""), draft().comparing()));
    assert_eq!(set.text(), compared.text());
}
