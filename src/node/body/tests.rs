//! Bodies as browsers, scripts and attackers send them.

use actix_web::{FromRequest, http::Method, test::TestRequest};
use tempfile::TempDir;

use super::*;
use crate::{settings, webapp::Content};

const PARTS: &str = "multipart/form-data; boundary=XX";

fn uploads(run: &TempDir) -> Uploads {
    let node = settings::Node {
        run: run.path().to_owned(),
        max_file_bytes: 400_000,
        max_upload_bytes: 600_000,
        ..Default::default()
    };
    Uploads::open(&node)
}

async fn read_as(method: Method, head: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Received, BadBody> {
    let run = tempfile::tempdir().unwrap();
    let body: Bytes = body.into();
    let mut request = TestRequest::with_uri("/").method(method);
    if !head.iter().any(|(name, _)| *name == "content-length") {
        request = request.insert_header((header::CONTENT_LENGTH, body.len()));
    }
    for header in head {
        request = request.insert_header(*header);
    }
    let (request, mut payload) = request.set_payload(body).to_http_parts();
    let payload = web::Payload::from_request(&request, &mut payload).await.unwrap();
    read(&request, payload, &uploads(&run)).await
}

async fn posted(content_type: &str, body: impl Into<Bytes>) -> Result<Received, BadBody> {
    read_as(Method::POST, &[("content-type", content_type)], body).await
}

async fn refused(content_type: &str, body: impl Into<Bytes>) -> (u16, String) {
    let bad = posted(content_type, body).await.expect_err("it is refused");
    (bad.status().as_u16(), bad.to_string())
}

/// A part as browsers write it.
fn part(disposition: &str, content: &str) -> String {
    format!("--XX\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
}

fn file(name: &str, file: &str, content: &str) -> String {
    let head =
        format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\nContent-Type: text/plain");
    format!("--XX\r\n{head}\r\n\r\n{content}\r\n")
}

fn form_of(received: &Received) -> Vec<(&str, &str)> {
    let form = received.body.form.as_deref().expect("it is a form");
    form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[actix_web::test]
async fn the_fields_of_a_form_are_the_same_however_it_is_sent() {
    let plain =
        posted("application/x-www-form-urlencoded; charset=utf-8", "a=1&b=%E7%94%B3+x&a=&q%22=%0D%0A").await.unwrap();
    let parts =
        [part("name=\"a\"", "1"), part("name=\"b\"", "申 x"), part("name=\"a\"", ""), part("name=\"q%22\"", "\r\n")];
    let parts = posted(PARTS, format!("{}--XX--\r\n", parts.concat())).await.unwrap();
    assert_eq!(form_of(&plain), [("a", "1"), ("b", "申 x"), ("a", ""), ("q\"", "\r\n")]);
    assert_eq!(form_of(&plain), form_of(&parts));
}

#[actix_web::test]
async fn files_come_beside_the_fields_and_an_empty_choice_is_none() {
    let long = "x\r\n--X".repeat(50_000);
    let body =
        [file("f", "/a/報告.txt", "one"), part("name=\"t\"", "text"), file("f", "b.bin", &long), file("none", "", "")];
    let received = posted(PARTS, format!("{}--XX--\r\n", body.concat())).await.unwrap();
    assert_eq!(form_of(&received), [("t", "text")]);
    let names: Vec<_> = received.body.files.iter().map(|file| (file.field.as_str(), file.name.as_str())).collect();
    assert_eq!(names, [("f", "報告.txt"), ("f", "b.bin")]);
    assert_eq!(received.body.files[0].content_type, "text/plain");
    assert!(matches!(&received.body.files[0].content, Content::Memory(bytes) if bytes == b"one"));
    assert!(matches!(received.body.files[1].content, Content::File(_, 300_000)), "{:?}", received.body.files[1]);
}

#[actix_web::test]
async fn json_is_read_and_one_that_cannot_be_read_is_answered_with_its_place() {
    let json = posted("application/json", "{\"a\": [1]}").await.unwrap().body.json.unwrap();
    assert_eq!(json.get_attr("a").unwrap().to_string(), "[1]");
    assert!(posted("application/merge-patch+json; charset=utf-8", "1").await.unwrap().body.json.is_some());
    let (status, what) = refused("application/json", "{\n\"a\" 1}").await;
    assert_eq!((status, what.as_str()), (400, "The JSON cannot be read: expected `:` at line 2 column 5."));
}

#[actix_web::test]
async fn what_is_no_form_and_no_json_is_not_read() {
    assert_eq!(refused("text/plain", "x").await.0, 415);
    assert_eq!(refused("", "x").await.0, 415);
    let packed = [("content-type", "application/json"), ("content-encoding", "gzip")];
    assert_eq!(read_as(Method::PUT, &packed, "x").await.expect_err("it is refused").status(), 415);
    let empty = posted("text/plain", "").await.unwrap();
    assert!(empty.body.form.is_none() && empty.body.json.is_none(), "a POST without a body is none of it");
    let of_get = read_as(Method::GET, &[("content-type", "application/json")], "{").await.unwrap();
    assert!(of_get.body.json.is_none(), "a GET means nothing by a body");
}

#[actix_web::test]
async fn a_form_has_its_bounds() {
    let long = "x".repeat(limits::FORM_BYTES + 1);
    assert_eq!(refused("application/x-www-form-urlencoded", long.clone()).await.0, 413);
    assert_eq!(refused("application/json", format!("\"{long}\"")).await.0, 413);
    assert_eq!(refused("application/x-www-form-urlencoded", "a&".repeat(limits::PARAMETERS)).await.0, 400);
    assert_eq!(refused("application/x-www-form-urlencoded", &b"a=\xff"[..]).await.0, 400);
    let many = part("name=\"a\"", "").repeat(limits::PARAMETERS + 1);
    assert_eq!(refused(PARTS, many + "--XX--").await.0, 400);
}

#[actix_web::test]
async fn files_have_their_bounds() {
    let (status, what) = refused(PARTS, file("f", "a", &"x".repeat(400_001)) + "--XX--").await;
    assert_eq!((status, what.as_str()), (413, "A file has at most 400000 bytes here."));
    let two = file("f", "a", &"x".repeat(350_000)).repeat(2) + "--XX--";
    assert_eq!(refused(PARTS, two.clone()).await.1, "A form with files has at most 600000 bytes here.");
    let untold = [("content-type", PARTS), ("content-length", "1")];
    let bad = read_as(Method::POST, &untold, two).await.expect_err("it is counted, not believed");
    assert_eq!(bad.to_string(), "A form with files has at most 600000 bytes here.");
    let many = file("f", "a", "x").repeat(limits::UPLOADS + 1) + "--XX--";
    assert_eq!(refused(PARTS, many).await, (413, "A form has at most 64 files.".to_owned()));
}

#[actix_web::test]
async fn a_form_in_parts_that_is_broken_is_said_to_be_so() {
    for body in ["", "--XX\r\n", "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nhalf"] {
        assert_eq!(refused(PARTS, format!("--XX\r\n{body}")).await.0, 400, "{body:?}");
    }
    assert_eq!(refused(PARTS, "--YY--\r\n").await.0, 400);
    assert_eq!(refused("multipart/form-data", "--XX--").await.0, 400);
    let no_name = "--XX\r\nContent-Type: text/plain\r\n\r\nx\r\n--XX--\r\n";
    let (status, what) = refused(PARTS, no_name).await;
    assert!(status == 400 && what.contains("Content-Disposition"), "{what}");
}

#[actix_web::test]
async fn the_room_of_a_body_is_given_back_when_its_request_ends() {
    let run = tempfile::tempdir().unwrap();
    let uploads = uploads(&run);
    let bodies = [
        (PARTS, file("f", "a", &"x".repeat(300_000)) + "--XX--", 300_000),
        (PARTS, part("name=\"abc\"", "text") + "--XX--", 7),
        ("application/x-www-form-urlencoded", "a=1".to_owned(), 3),
        ("application/json", "{}".to_owned(), 2),
    ];
    for (content_type, body, taken) in bodies {
        let request = TestRequest::post().insert_header((header::CONTENT_TYPE, content_type));
        let request = request.insert_header((header::CONTENT_LENGTH, body.len())).set_payload(body);
        let (request, mut payload) = request.to_http_parts();
        let payload = web::Payload::from_request(&request, &mut payload).await.unwrap();
        let received = read(&request, payload, &uploads).await.unwrap();
        assert_eq!(uploads.taken(), taken, "{content_type}");
        drop(received);
        assert_eq!(uploads.taken(), 0);
    }
    assert_eq!(std::fs::read_dir(uploads.folder()).unwrap().count(), 0, "none has a name that could be left behind");
}
