//! One request of a node, from the head to the reply.

use std::{panic::AssertUnwindSafe, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};
use jiff::Timestamp;
use tracing::{error, warn};

use super::{
    House, Worker, body,
    commit::Done,
    control, cookie, fault,
    gate::{Attempt, NotDone},
    refusal,
};
use crate::{
    limits,
    membership::Duty,
    time::Moment,
    webapp::{self, Found, Page, PageError, Rendered, Resource, Webapp},
};

const ATTEMPT: &str = "Tasuki-Attempt";

/// Adds a worker's answers to an actix-web app.
pub fn routes(worker: Worker) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config.app_data(web::Data::new(worker)).default_service(web::to(answer));
    }
}

async fn answer(request: HttpRequest, payload: web::Payload, worker: web::Data<Worker>) -> HttpResponse {
    if let Some(asked) = control::asked(request.path()) {
        return worker.control(asked, &request, payload).await;
    }
    // It would hand a script the cookies that are kept from it; the balancer never sends it.
    if request.method() == Method::TRACE {
        return refusal::page(StatusCode::METHOD_NOT_ALLOWED, "This method is not allowed.");
    }
    let _running = worker.house.traffic.begin();
    let attempt = attempt(&request);
    let mut response = match worker.turned_away(attempt) {
        Some(why) => refusal::not_done(&why, request.method()),
        None => worker.serve(&request, payload, attempt).await,
    };
    worker.sign(&mut response);
    response
}

impl Worker {
    /// A node that is not on duty sends our balancer elsewhere, as long as there is somebody else.
    fn turned_away(&self, attempt: Attempt) -> Option<NotDone> {
        let duty = self.house.duty.get();
        let others = || self.house.roster.load().nodes().any(|node| node.duty == Duty::Serving);
        let away = match duty {
            Duty::Serving => false,
            Duty::Starting => true,
            Duty::Draining => attempt != Attempt::Direct && others(),
        };
        away.then_some(NotDone::AskAnother)
    }

    async fn serve(&self, request: &HttpRequest, payload: web::Payload, attempt: Attempt) -> HttpResponse {
        let (app, path) = match self.house.catalogue.load().find(request.path()) {
            Found::Webapp { app, path, .. } => (app, path),
            Found::AddSlash(to) => return redirect(to, request.query_string()),
            Found::NotFound => return not_found(),
            Found::Bad => return refusal::page(StatusCode::BAD_REQUEST, "This path cannot be looked up."),
        };
        match app.resolve(&path) {
            Resource::Page(page) => {
                let page = Visit { app: &app, page: &page, path: &path, attempt };
                self.page(page, request, payload).await.unwrap_or_else(|refused| refused)
            }
            Resource::Asset(asset) => webapp::assets::answer(&asset, request).await,
            Resource::AddSlash(to) => redirect(to, request.query_string()),
            Resource::NotFound => not_found(),
        }
    }

    async fn page(
        &self,
        visit: Visit<'_>,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<HttpResponse, HttpResponse> {
        // The room of its files is given back when this request has ended.
        let body::Received { body, room: _room } = body::receive(request, payload, &self.house.uploads).await?;
        let not_done = |why| refusal::not_done(&why, request.method());
        let rules = self.house.session_rules(visit.app);
        let name = &self.house.session.cookie;
        let tokens = match visit.page.needs_session(request.method().as_str()) {
            true => cookie::tokens(request, name),
            false => Default::default(),
        };
        let mut entry = self.enter(&tokens, &rules, visit.attempt).await.map_err(not_done)?;
        let client = Client::of(request, &self.house);
        let secure = client.scheme == "https";
        let asked = client.request(&visit, body, request);
        let draft = std::mem::replace(&mut entry.draft, crate::session::draft::Draft::blank());
        let rendered = self.render(visit.page, asked, draft);
        visit.app.tally().note(rendered.as_ref().map_or(true, |rendered| rendered.status.is_server_error()));
        let Rendered { status, headers, content_type, body, draft } =
            rendered.map_err(|error| self.broken(&visit, &error))?;
        let Done { cookie, copies } = self.settle(entry, draft, &rules).await.map_err(not_done)?;
        let mut response = HttpResponse::build(status);
        response.insert_header((header::CONTENT_TYPE, content_type));
        for header in headers {
            response.append_header(header);
        }
        if let Some(cookie) = self::cookie::cookie(cookie, name, &rules.context, &self.house.route, secure) {
            response.cookie(cookie);
        }
        if let Some(copies) = copies.filter(|_| self.house.response_headers) {
            response.insert_header(("Tasuki-Copies", copies));
        }
        Ok(response.body(body))
    }

    fn render(
        &self,
        page: &Page,
        request: webapp::Request,
        draft: crate::session::draft::Draft,
    ) -> Result<Rendered, PageError> {
        let info = self.house.info.load_full();
        let file = request.path.clone();
        let begun = Moment::now();
        let render = AssertUnwindSafe(|| page.render(request, draft, &info));
        // A page must not take the other requests of this worker with it.
        let rendered = std::panic::catch_unwind(render)
            .unwrap_or_else(|_| Err(PageError::new(file.as_str(), "the page panicked: a fault of tasuki")));
        let took = Moment::now().since(begun);
        if took >= limits::PAGE_SLOW {
            warn!(page = %file, ?took, "a page was slow, and its worker did nothing else meanwhile");
        }
        rendered
    }

    /// The client gets a number, the log gets the rest, and so does the client where pages are developed.
    fn broken(&self, visit: &Visit<'_>, error: &PageError) -> HttpResponse {
        let reference = format!("{:08x}", getrandom::u32().unwrap_or_default());
        error!(%reference, "{error}");
        if self.house.development {
            return fault::page(error, &visit.page.names(), &reference);
        }
        let what = format!("This page failed. Please tell the administrator this number: {reference}.");
        refusal::page(StatusCode::INTERNAL_SERVER_ERROR, &what)
    }

    fn sign(&self, response: &mut HttpResponse) {
        let headers = response.headers_mut();
        if self.house.response_headers
            && let Ok(route) = HeaderValue::from_str(self.house.route.as_str())
        {
            headers.insert(HeaderName::from_static("tasuki-node"), route);
        }
        if self.house.duty.get() == Duty::Draining {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// A request that has found its page.
#[derive(Clone, Copy)]
struct Visit<'a> {
    app: &'a Arc<Webapp>,
    page: &'a Page,
    path: &'a str,
    attempt: Attempt,
}

/// The client as it is believed to be.
struct Client {
    address: String,
    scheme: String,
    host: String,
}

impl Client {
    /// What a front says of it, or the connection itself.
    ///
    /// Fronts are believed on this machine, as live balancers, and in `balancer.trusted_proxies`; our balancer removes
    /// what clients say of themselves.
    fn of(request: &HttpRequest, house: &House) -> Self {
        let said = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let ip = request.peer_addr().map(|address| address.ip());
        let trusted = ip.is_some_and(|ip| house.trusted_proxies.iter().any(|net| net.contains(&ip)));
        let believed = trusted || house.comes_from_us(request.peer_addr());
        let first = |name| {
            let list = said(name).filter(|_| believed)?;
            list.split(',').next().map(|item| item.trim().to_owned())
        };
        let address = first("X-Forwarded-For").or_else(|| ip.map(|ip| ip.to_string())).unwrap_or_default();
        let scheme = first("X-Forwarded-Proto").filter(|scheme| scheme == "https").unwrap_or_else(|| "http".into());
        let host = first("X-Forwarded-Host").or_else(|| said("Host").map(str::to_owned)).unwrap_or_default();
        Self { address, scheme, host }
    }

    fn request(self, visit: &Visit<'_>, body: webapp::Body, request: &HttpRequest) -> webapp::Request {
        webapp::Request {
            method: request.method().as_str().to_owned(),
            path: visit.path.to_owned(),
            query: request.query_string().to_owned(),
            body,
            headers: request.headers().clone(),
            remote_addr: self.address,
            scheme: self.scheme,
            host: self.host,
            now: Timestamp::now(),
        }
    }
}

fn attempt(request: &HttpRequest) -> Attempt {
    match request.headers().get(ATTEMPT).map(HeaderValue::as_bytes) {
        Some(b"stay") => Attempt::Stay,
        Some(b"move") => Attempt::Move,
        _ => Attempt::Direct,
    }
}

fn redirect(to: String, query: &str) -> HttpResponse {
    let to = if query.is_empty() { to } else { format!("{to}?{query}") };
    HttpResponse::Found().insert_header((header::LOCATION, to)).finish()
}

fn not_found() -> HttpResponse {
    refusal::page(StatusCode::NOT_FOUND, "There is no page at this address.")
}
