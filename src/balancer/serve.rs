//! The sorting of requests into those for members and those answered at the door.

use std::rc::Rc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode},
    web,
};

use super::{
    forward::forward,
    manager,
    pace::Running,
    pages::{self, Refusal},
    paths,
    worker::{Port, Worker},
};

/// The sorry page's own address, as in the seeds' httpd.
const SORRY_PATH: &str = "/sorry.html";

/// Answers one request of any protocol.
pub(crate) async fn answer(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let _running = Running::begin(&request);
    let Some(worker) = request.app_data::<Rc<Worker>>() else {
        return HttpResponse::InternalServerError().finish();
    };
    let mut response = sort(worker, &request, payload).await.unwrap_or_else(|refusal| {
        worker.rules.refusals.count(refusal);
        if !matches!(refusal, Refusal::NotFound | Refusal::Forbidden) {
            worker.warn("-", &refusal, &refusal.status());
        }
        refusal.response(&worker.rules.sorry)
    });
    worker.rules.departure.mark(&mut response);
    response
}

async fn sort(worker: &Rc<Worker>, request: &HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
    let path = request.uri().path();
    allow(request.method())?;
    if paths::is_reserved(path) {
        return Err(Refusal::NotFound);
    }
    let manager = &worker.rules.manager;
    let is_of_manager = paths::is_below(path, &manager.path);
    // Where the manager has a port of its own it is there alone, and there is nothing else.
    if manager.listen.is_some() && is_of_manager != (worker.port == Port::Manager) {
        return Err(Refusal::NotFound);
    }
    if is_of_manager {
        // Boxed: it is larger than all that a request to a member needs, and would be moved with each of them.
        return Box::pin(manager::answer(worker, request, payload)).await;
    }
    if path == SORRY_PATH && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(pages::sorry_page(StatusCode::OK, &worker.rules.sorry));
    }
    if let Some(local) = worker.rules.local.as_ref().filter(|local| local.answers_for(path)) {
        return local.answer(request);
    }
    forward(worker, request, payload.into_inner()).await
}

/// What no member is asked: TRACE would show a page its user's cookies, CONNECT is for other proxies, and a method that
/// nobody has defined is answered 501 (RFC 9110 section 9.1).
fn allow(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::TRACE => Err(Refusal::MethodNotAllowed),
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::OPTIONS | Method::PATCH => {
            Ok(())
        }
        _ => Err(Refusal::NotImplemented),
    }
}
