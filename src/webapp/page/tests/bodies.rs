//! What came with a request, as pages see it.

use super::*;

fn upload(name: &str, bytes: &[u8]) -> Upload {
    let content = Content::Memory(bytes.to_vec());
    Upload { field: "f".into(), name: name.into(), content_type: "text/csv".into(), content }
}

/// A page that is sent these files, with the token of its session.
fn sent(template: &str, files: Vec<Upload>) -> Result<Rendered, PageError> {
    let mut draft = Draft::blank();
    draft.set("_csrf", &"t").unwrap();
    let form = Some(vec![("_csrf".to_owned(), "t".to_owned())]);
    let request = Request {
        method: "POST".into(),
        body: Body { form, files: files.into_iter().map(Into::into).collect(), json: None },
        ..get("")
    };
    page(template).render(request, draft, &node())
}

#[test]
fn a_file_is_seen_with_what_its_client_says_of_it() {
    let template = "{% set f = request.file('f') %}{{ f.name }} {{ f.content_type }} {{ f.size }} {{ f.text() }} \
        {{ request.files('f')|map(attribute='name')|join(',') }} {{ request.file('g') is undefined }} {{ request.files('g') }}";
    let files = vec![upload("a<b>.csv", b"1"), upload("b.csv", "申".as_bytes())];
    let rendered = sent(template, files).unwrap();
    assert_eq!(rendered.text(), "b.csv text&#x2f;csv 3 申 a&lt;b&gt;.csv,b.csv True []");
}

#[test]
fn a_file_is_kept_in_a_session_byte_by_byte() {
    let bytes = [0, 0xff, b'a', b'\n', 0x80];
    let rendered = sent("{% do session.set('a', request.file('f').bytes(5)) %}", vec![upload("a", &bytes)]).unwrap();
    let kept = rendered.draft.get("a").unwrap();
    assert_eq!(kept.as_bytes(), [&[0xc4, 5], &bytes[..]].concat(), "MessagePack's bin: two bytes and the content");
    assert_eq!(render("{{ session.a|length }}", get(""), rendered.draft).text(), "5");
}

#[test]
fn a_file_that_is_larger_than_the_page_wants_or_a_session_takes_is_said_to_be_so() {
    let error = sent("{% do request.file('f').bytes(4) %}", vec![upload("a.txt", b"12345")]).unwrap_err();
    assert!(error.what.contains("\"a.txt\" has 5 bytes, and at most 4"), "{error}");
    let whole = || vec![upload("a.bin", &vec![0; limits::SESSION_BYTES])];
    let error = sent("{% do session.set('a', request.file('f').bytes()) %}", whole()).unwrap_err();
    assert!(error.what.contains("session attribute \"a\" of 1048581 bytes is too large"), "{error}");
}

#[test]
fn a_text_is_read_in_the_encoding_that_it_has() {
    let (japanese, _, _) = encoding_rs::SHIFT_JIS.encode("金額");
    let rendered = sent("{{ request.file('f').text(encoding='shift_jis') }}", vec![upload("a", &japanese)]).unwrap();
    assert_eq!(rendered.text(), "金額");
    assert_eq!(sent("{{ request.file('f').text() }}", vec![upload("a", b"\xef\xbb\xbfa")]).unwrap().text(), "a");
    assert!(
        sent("{{ request.file('f').text() }}", vec![upload("a", &japanese)])
            .unwrap_err()
            .what
            .contains("no text in UTF-8")
    );
    assert!(
        sent("{{ request.file('f').text(encoding='x') }}", vec![upload("a", b"")]).unwrap_err().what.contains("\"x\"")
    );
}

#[test]
fn json_is_data_like_any_other_and_needs_the_token_in_the_head() {
    let body = || Body { json: Some(json(br#"{"a": {"b": ["<1>"]}, "_csrf": "t"}"#).unwrap()), ..Body::default() };
    let template = "{{ request.json.a.b[0] }}{% do session.set('a', request.json.a) %}{{ request.form|length }}";
    let mut draft = Draft::blank();
    draft.set("_csrf", &"t").unwrap();
    let request = || Request { method: "PATCH".into(), body: body(), ..get("") };
    assert_eq!(render(template, request(), draft.clone()).status, 403, "a token in the JSON is none");
    let mut with_token = request();
    with_token.headers.insert(HeaderName::from_static("x-csrf-token"), HeaderValue::from_static("t"));
    let rendered = render(template, with_token, draft);
    assert_eq!((rendered.text(), rendered.draft.get_as("a")), ("&lt;1&gt;0", Some(serde_json::json!({"b": ["<1>"]}))));
    assert_eq!(body_of_nothing(), "True 0");
}

fn body_of_nothing() -> String {
    body("{{ request.json is undefined }} {{ request.files('f')|length }}")
}

#[test]
fn every_unsafe_method_needs_the_token_and_no_safe_one_does() {
    let page = page("done");
    for method in ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "get"] {
        let request = Request { method: method.into(), ..get("") };
        assert_eq!(page.render(request, Draft::blank(), &node()).unwrap().status, 403, "{method}");
    }
    for method in ["GET", "HEAD", "OPTIONS"] {
        let request = Request { method: method.into(), ..get("") };
        assert_eq!(page.render(request, Draft::blank(), &node()).unwrap().status, 200, "{method}");
    }
}
