//! Whole answers.

use std::{fs, os::unix::fs::symlink};

use actix_web::{body::to_bytes, test::TestRequest};
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.css"), "body { margin: 0 }").unwrap();
    fs::write(folder.path().join("long.css"), "body { margin: 0 }\n".repeat(500)).unwrap();
    folder
}

fn asset(folder: &TempDir, path: &str) -> Arc<Asset> {
    Asset::plain(&folder.path().canonicalize().unwrap(), path)
}

/// With the file as its webapp lists it, and all others beside it.
fn listed(folder: &TempDir, path: &str) -> Arc<Asset> {
    let files: Vec<Listed> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let bytes = entry.metadata().unwrap().len();
            Listed { path: format!("/{name}"), inside: name.into(), bytes, content_type: None }
        })
        .collect();
    collect(&folder.path().canonicalize().unwrap(), &files, &[]).0.remove(path).unwrap()
}

async fn get(asset: &Arc<Asset>, headers: &[(&'static str, &str)]) -> HttpResponse {
    ask(asset, TestRequest::get(), headers).await
}

async fn ask(asset: &Arc<Asset>, request: TestRequest, headers: &[(&'static str, &str)]) -> HttpResponse {
    let request = headers.iter().fold(request, |request, header| request.append_header(*header));
    answer(asset, &request.to_http_request()).await
}

fn header_of(response: &HttpResponse, name: &str) -> String {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

async fn body(response: HttpResponse) -> Vec<u8> {
    to_bytes(response.into_body()).await.unwrap().to_vec()
}

#[actix_web::test]
async fn a_file_is_answered_with_what_a_browser_needs_to_keep_it() {
    let first = get(&asset(&folder(), "/a.css"), &[]).await;
    assert_eq!(first.status(), StatusCode::OK);
    for (name, value) in [
        ("content-type", "text/css; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("vary", ""),
        ("content-encoding", ""),
    ] {
        assert_eq!(header_of(&first, name), value, "{name}");
    }
    assert!(header_of(&first, "last-modified").ends_with(" GMT") && header_of(&first, "etag").len() == 26);
    assert_eq!(body(first).await, b"body { margin: 0 }");
}

#[actix_web::test]
async fn a_user_who_comes_from_another_node_downloads_nothing_again() {
    let (here, there) = (folder(), folder());
    let file = fs::File::open(there.path().join("long.css")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    for accepted in ["", "br"] {
        let first = get(&asset(&here, "/long.css"), &[("accept-encoding", accepted)]).await;
        let conditions = [
            ("accept-encoding", accepted),
            ("if-none-match", &header_of(&first, "etag")),
            ("if-modified-since", &header_of(&first, "last-modified")),
        ];
        let again = get(&asset(&there, "/long.css"), &conditions).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{accepted:?}");
        assert_eq!(header_of(&again, "etag"), header_of(&first, "etag"));
        assert_eq!(header_of(&again, "vary"), "Accept-Encoding");
        assert!(body(again).await.is_empty());
    }
}

#[actix_web::test]
async fn a_file_is_never_written_and_what_is_gone_is_not_found() {
    let folder = folder();
    let file = asset(&folder, "/a.css");
    let post = ask(&file, TestRequest::post(), &[]).await;
    assert_eq!((post.status(), header_of(&post, "allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD".into()));
    fs::remove_file(folder.path().join("a.css")).unwrap();
    assert_eq!(get(&file, &[]).await.status(), StatusCode::NOT_FOUND);
    symlink("/etc/passwd", folder.path().join("a.css")).unwrap();
    assert_eq!(get(&file, &[]).await.status(), StatusCode::NOT_FOUND);
}

#[actix_web::test]
async fn parts_are_sent_of_small_and_large_files() {
    let folder = folder();
    let large: Vec<u8> = (0..limits::ASSET_KEPT_BYTES + 1).map(|n| (n % 251) as u8).collect();
    fs::write(folder.path().join("large.bin"), &large).unwrap();
    let small = body(get(&asset(&folder, "/long.css"), &[]).await).await;
    for (path, whole) in [("/long.css", &small), ("/large.bin", &large)] {
        let file = asset(&folder, path);
        let part = get(&file, &[("range", "bytes=100-299"), ("accept-encoding", "gzip")]).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{path}");
        assert_eq!(header_of(&part, "content-range"), format!("bytes 100-299/{}", whole.len()));
        assert_eq!(body(part).await, &whole[100..300]);
        let none = get(&file, &[("range", "bytes=99999999-")]).await;
        assert_eq!(none.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(header_of(&none, "content-range"), format!("bytes */{}", whole.len()));
        let head = ask(&file, TestRequest::default().method(Method::HEAD), &[("range", "bytes=0-0")]).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(
            actix_web::body::MessageBody::size(head.body()),
            actix_web::body::BodySize::Sized(whole.len() as u64)
        );
        assert_eq!(&body(get(&file, &[]).await).await, whole);
    }
}

#[actix_web::test]
async fn a_text_is_compressed_for_who_takes_it_and_stays_the_same_kind() {
    let folder = folder();
    let file = asset(&folder, "/long.css");
    let plain = body(get(&file, &[]).await).await;
    for (accepted, coding) in [("gzip, br", "br"), ("gzip", "gzip"), ("gzip;q=0", ""), ("zstd", "")] {
        let answer = get(&file, &[("accept-encoding", accepted)]).await;
        assert_eq!(header_of(&answer, "content-encoding"), coding, "{accepted}");
        assert_eq!(header_of(&answer, "vary"), "Accept-Encoding");
        assert_eq!(header_of(&answer, "content-type"), "text/css; charset=utf-8");
        let length = body(answer).await.len();
        assert!(if coding.is_empty() { length == plain.len() } else { length < plain.len() / 10 }, "{length}");
    }
    let small = get(&asset(&folder, "/a.css"), &[("accept-encoding", "gzip")]).await;
    assert_eq!(header_of(&small, "content-encoding"), "", "too small to gain anything");
}

#[actix_web::test]
async fn what_was_compressed_beforehand_is_sent_as_it_lies_there() {
    let folder = folder();
    fs::write(folder.path().join("long.css.zst"), "packed beforehand").unwrap();
    let file = listed(&folder, "/long.css");
    let answer = get(&file, &[("accept-encoding", "zstd")]).await;
    assert_eq!(header_of(&answer, "content-encoding"), "zstd");
    assert_eq!(header_of(&answer, "content-type"), "text/css; charset=utf-8");
    assert!(header_of(&answer, "etag").starts_with('"'), "its bytes are the same everywhere");
    assert_ne!(header_of(&answer, "etag"), header_of(&get(&file, &[]).await, "etag"));
    assert_eq!(body(answer).await, b"packed beforehand");
}

#[actix_web::test]
async fn an_address_that_names_the_content_is_kept_for_ever_and_another_one_is_not() {
    let folder = folder();
    let file = asset(&folder, "/a.css");
    let tag = header_of(&get(&file, &[]).await, "etag");
    let address = format!("/a.css?v={}", &tag[1..13]);
    let named = ask(&file, TestRequest::with_uri(&address), &[]).await;
    assert_eq!(header_of(&named, "cache-control"), "public, max-age=31536000, immutable");
    // While a new version is rolled out, a new page may ask an old node for a new file: the old one must not be kept.
    let other = ask(&file, TestRequest::with_uri("/a.css?v=0123456789"), &[]).await;
    assert_eq!(header_of(&other, "cache-control"), "no-cache");
}

#[actix_web::test]
async fn tag_and_bytes_belong_together_also_when_a_large_file_changes_under_us() {
    let folder = folder();
    let file = folder.path().join("large.bin");
    let large = |byte: u8| vec![byte; limits::ASSET_KEPT_BYTES as usize + 1];
    fs::write(&file, large(1)).unwrap();
    let asset = asset(&folder, "/large.bin");
    let first = get(&asset, &[]).await;
    let tag = header_of(&first, "etag");
    assert_eq!(body(first).await, large(1));
    fs::write(&file, large(2)).unwrap();
    let second = get(&asset, &[("if-none-match", &tag)]).await;
    assert_eq!(second.status(), StatusCode::OK);
    assert_ne!(header_of(&second, "etag"), tag);
    assert_eq!(body(second).await, large(2));
}
