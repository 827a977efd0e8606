//! What a webapp's descriptor adds to its replies: error pages, headers, content types.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
};

use super::{
    Worker,
    refusal::Plain,
    serve::{Client, Visit},
};
use crate::{
    session::draft::Draft,
    webapp::{Body, ErrorPage, Page, Rendered, RequestError, Webapp},
};

impl Worker {
    /// The reply as the webapp's descriptor wants it.
    pub(super) fn dressed(&self, visit: &Visit<'_>, request: &HttpRequest, response: HttpResponse) -> HttpResponse {
        let mut response = self.explained(visit, request, response);
        add_headers(&mut response, &visit.app);
        response
    }

    /// An error that the server would explain is explained by the webapp, if it has a page for it.
    fn explained(&self, visit: &Visit<'_>, request: &HttpRequest, mut response: HttpResponse) -> HttpResponse {
        let status = response.status();
        let Some(Plain(message)) = response.extensions_mut().remove::<Plain>() else { return response };
        match visit.app.error_page(status.as_u16()) {
            None => response,
            Some(ErrorPage::Static { content_type, body }) => {
                let mut page = HttpResponse::build(status);
                page.insert_header((header::CONTENT_TYPE, content_type.clone()));
                page.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
                page.body(body.clone())
            }
            Some(ErrorPage::Page(page)) => {
                let error = RequestError { code: status.as_u16(), path: visit.path.to_owned(), message };
                self.rendered(visit, page, request, error).unwrap_or(response)
            }
        }
    }

    /// An error page that fails itself is logged, and the server's own page is sent.
    fn rendered(
        &self,
        visit: &Visit<'_>,
        page: &Page,
        request: &HttpRequest,
        error: RequestError,
    ) -> Option<HttpResponse> {
        let status = StatusCode::from_u16(error.code).ok()?;
        let mut asked = Client::of(request, &self.house).request(visit, Body::default(), request);
        // As the servlet specification has it since 6.1; what was sent has been dealt with.
        asked.method = "GET".to_owned();
        asked.error = Some(error);
        let rendered = self.render(page, asked, Draft::blank());
        let broken = |error| tracing::error!(webapp = visit.app.name(), "its error page for {status} fails: {error}");
        let Rendered { headers, content_type, body, .. } = rendered.map_err(broken).ok()?;
        let mut response = HttpResponse::build(status);
        response.insert_header((header::CONTENT_TYPE, content_type));
        response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
        for header in headers {
            response.append_header(header);
        }
        Some(response.body(body))
    }
}

/// What a page has set itself stays.
pub(super) fn add_headers(response: &mut HttpResponse, app: &Webapp) {
    for (name, value) in &app.descriptor().headers {
        if !response.headers().contains_key(name) {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
}

/// A static file's reply: an error of its own is to be explained.
pub(super) fn asset(mut response: HttpResponse) -> HttpResponse {
    let what = match response.status() {
        StatusCode::NOT_FOUND => "There is no page at this address.",
        StatusCode::METHOD_NOT_ALLOWED => "This method is not allowed.",
        StatusCode::INTERNAL_SERVER_ERROR => "This file cannot be read.",
        _ => return response,
    };
    response.extensions_mut().insert(Plain(what.to_owned()));
    response
}
