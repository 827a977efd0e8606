//! Static files: validators, conditional and range requests as actix-files does them.

use std::path::Path;

use actix_files::NamedFile;
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{self, HeaderValue},
    },
};

/// Answers a request for a file that [`Webapp::resolve`](super::Webapp::resolve) named.
///
/// GET and HEAD only (405 otherwise); 304, 206 and 416 by the request's conditions; 404 when the file has gone since
/// the webapp was deployed. Opening blocks for the time of one `open`; the content is read off the worker.
pub fn answer(file: &Path, request: &HttpRequest) -> HttpResponse {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "GET, HEAD")).finish();
    }
    let file = match NamedFile::open(file) {
        Ok(file) if file.metadata().is_file() => file.prefer_utf8(true).disable_content_disposition(),
        Ok(_) => return HttpResponse::NotFound().finish(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return HttpResponse::NotFound().finish(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "a static file cannot be read");
            return HttpResponse::InternalServerError().finish();
        }
    };
    let mut response = file.into_response(request);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use actix_web::{http::StatusCode, test::TestRequest};

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.css"), "body { margin: 0 }").unwrap();
        folder
    }

    #[actix_web::test]
    async fn a_file_is_answered_with_validators_and_asked_for_only_once() {
        let folder = folder();
        let file = folder.path().join("a.css");
        let first = answer(&file, &TestRequest::get().to_http_request());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers().get("content-type").unwrap(), "text/css; charset=utf-8");
        let again =
            TestRequest::get().insert_header((header::IF_NONE_MATCH, first.headers().get("etag").unwrap().clone()));
        assert_eq!(answer(&file, &again.to_http_request()).status(), StatusCode::NOT_MODIFIED);
        let range = TestRequest::get().insert_header((header::RANGE, "bytes=0-3")).to_http_request();
        assert_eq!(answer(&file, &range).status(), StatusCode::PARTIAL_CONTENT);
    }

    #[actix_web::test]
    async fn a_file_is_never_written_and_a_folder_is_no_file() {
        let folder = folder();
        let get = TestRequest::get().to_http_request();
        let post = TestRequest::post().to_http_request();
        assert_eq!(answer(&folder.path().join("a.css"), &post).status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer(&folder.path().join("b.css"), &get).status(), StatusCode::NOT_FOUND);
        assert_eq!(answer(folder.path(), &get).status(), StatusCode::NOT_FOUND);
    }
}
