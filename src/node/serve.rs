//! One request of a node, from the head to the reply.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc};

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
    House, SessionRules, Worker, body,
    commit::Done,
    control, cookie, dress, fault,
    gate::{Attempt, Entry, NotDone},
    refusal,
    version::note_version,
};
use crate::{
    limits,
    membership::Duty,
    session::{draft::Draft, replica::Reach},
    time::Moment,
    webapp::{self, Concurrency, Found, Page, PageError, Rendered, Resource, Versions, Webapp},
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
        let (versions, path) = match self.house.catalogue.load().find(request.path()) {
            Found::Webapp { versions, path, .. } => (versions, path),
            Found::AddSlash { app, to } => {
                let mut response = redirect(to, request.query_string());
                dress::add_headers(&mut response, &app);
                return response;
            }
            Found::NotFound => return not_found(),
            Found::Bad => return refusal::page(StatusCode::BAD_REQUEST, "This path cannot be looked up."),
        };
        let app = self.version_at_hand(&versions, request);
        let resource = app.resolve(&path);
        let mut visit = Visit { app, versions: &versions, path: &path, attempt };
        let response = match resource {
            Resource::Page(page) => {
                self.page(&mut visit, page, request, payload).await.unwrap_or_else(|refused| refused)
            }
            other => pageless(other, request).await,
        };
        self.dressed(&visit, request, response)
    }

    async fn page(
        &self,
        visit: &mut Visit<'_>,
        mut page: Arc<Page>,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<HttpResponse, HttpResponse> {
        // The room of its files is given back when this request has ended.
        let body::Received { body, room: _room } = body::receive(request, payload, &self.house.uploads).await?;
        let not_done = |why| refusal::not_done(&why, request.method());
        let needs_session = page.needs_session(request.method().as_str()) || !visit.versions.is_single();
        let tokens = match needs_session {
            true => cookie::tokens(request, self.cookie_name(&visit.app)),
            false => Default::default(),
        };
        let rules = self.rules_of_all(visit);
        let mut entry = self.enter(&tokens, &rules, visit.attempt).await.map_err(not_done)?;
        if let Some(other) = self.other_version(visit.versions, &visit.app, &entry.draft) {
            visit.app = other;
            page = match visit.app.resolve(visit.path) {
                Resource::Page(page) => page,
                other => return Ok(pageless(other, request).await),
            };
        }
        let rules = self.house.session_rules(&visit.app);
        let client = Client::of(request, &self.house);
        let secure = client.scheme == "https";
        let asked = client.request(visit, body, request);
        let again = entry.may_be_overtaken().then(|| asked.clone());
        let broken = |error| self.broken(&page, &error);
        let mut rendered = self.compose(visit, &page, asked, &mut entry).map_err(broken)?;
        let mut done = self.settle(entry, rendered.take_draft(), &rules).await;
        if let (Err(NotDone::Overtaken), Some(asked)) = (&done, again) {
            // In its turn, which no other node takes from it by asking.
            let rules = SessionRules { concurrency: Concurrency::Serial, ..rules.clone() };
            let mut entry = self.enter(&tokens, &rules, Attempt::Direct).await.map_err(not_done)?;
            rendered = self.compose(visit, &page, asked, &mut entry).map_err(broken)?;
            done = self.settle(entry, rendered.take_draft(), &rules).await;
        }
        let Done { cookie, copies } = done.map_err(not_done)?;
        let Rendered { status, mut headers, content_type, body, .. } = rendered;
        let body = match page.uses_session() {
            true => body,
            false => webapp::assets::pack_page(request, &content_type, &mut headers, body),
        };
        let mut response = HttpResponse::build(status);
        response.insert_header((header::CONTENT_TYPE, content_type));
        for header in headers {
            response.append_header(header);
        }
        let name = self.cookie_name(&visit.app);
        let settings = &visit.app.descriptor().cookie;
        if let Some(cookie) = cookie::cookie(cookie, name, settings, &rules.context, &self.house.route, secure) {
            // Whatever the page says of itself: a cache would hand the session to the next user.
            response.insert_header((header::CACHE_CONTROL, "no-store"));
            response.cookie(cookie);
        }
        if let Some(copies) = copies.filter(|_| self.house.response_headers) {
            response.insert_header(("Tasuki-Copies", copies));
        }
        Ok(response.body(body))
    }

    /// By what a request is let to a session before it is known which version the session is on: found as far away as one
    /// of them has it found, and in its turn if one of them wants that.
    fn rules_of_all(&self, visit: &Visit<'_>) -> SessionRules {
        let mut rules = self.house.session_rules(&visit.app);
        for version in visit.versions.all().map(|app| app.descriptor()) {
            if version.distributable {
                rules.reach = Reach::Cluster;
            }
            if version.concurrency == Concurrency::Serial {
                rules.concurrency = Concurrency::Serial;
            }
        }
        rules
    }

    /// What the page makes of a request that has been let to its session.
    fn compose(
        &self,
        visit: &Visit<'_>,
        page: &Page,
        asked: webapp::Request,
        entry: &mut Entry,
    ) -> Result<Rendered, PageError> {
        let draft = std::mem::replace(&mut entry.draft, Draft::blank());
        let rendered = self.render(page, asked, draft);
        visit.app.tally().note(rendered.as_ref().map_or(true, |rendered| rendered.status.is_server_error()));
        let mut rendered = rendered?;
        note_version(&mut rendered.draft, visit.app.tag());
        Ok(rendered)
    }

    pub(super) fn render(&self, page: &Page, request: webapp::Request, draft: Draft) -> Result<Rendered, PageError> {
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
    fn broken(&self, page: &Page, error: &PageError) -> HttpResponse {
        let reference = format!("{:08x}", getrandom::u32().unwrap_or_default());
        error!(%reference, "{error}");
        if self.house.development {
            return fault::page(error, &page.names(), &reference);
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

/// A request that has found its webapp.
pub(super) struct Visit<'a> {
    /// The version that answers.
    pub(super) app: Arc<Webapp>,
    versions: &'a Versions,
    /// Within the webapp.
    pub(super) path: &'a str,
    attempt: Attempt,
}

/// The client as it is believed to be.
pub(super) struct Client {
    address: String,
    scheme: String,
    host: String,
}

impl Client {
    /// What a front says of it, or the connection itself.
    ///
    /// Fronts are believed on this machine, as live balancers, and in `balancer.trusted_proxies`; our balancer removes
    /// what clients say of themselves, other fronts may write behind it.
    pub(super) fn of(request: &HttpRequest, house: &House) -> Self {
        let said = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let ip = request.peer_addr().map(|address| address.ip().to_canonical());
        let is_front = |ip: IpAddr| house.trusted_proxies.iter().any(|net| net.contains(&ip)) || house.is_ours(ip);
        let believed = ip.is_some_and(is_front);
        let first = |name| {
            let list = said(name).filter(|_| believed)?;
            list.split(',').next().map(|item| item.trim().to_owned())
        };
        let lists = request.headers().get_all("X-Forwarded-For").filter_map(|list| list.to_str().ok());
        let address = behind(lists.filter(|_| believed), is_front).map(str::to_owned);
        let address = address.or_else(|| ip.map(|ip| ip.to_string())).unwrap_or_default();
        let scheme = first("X-Forwarded-Proto").filter(|scheme| scheme == "https").unwrap_or_else(|| "http".into());
        let host = first("X-Forwarded-Host").or_else(|| said("Host").map(str::to_owned)).unwrap_or_default();
        Self { address, scheme, host }
    }

    pub(super) fn request(self, visit: &Visit<'_>, body: webapp::Body, request: &HttpRequest) -> webapp::Request {
        webapp::Request {
            method: request.method().as_str().to_owned(),
            path: visit.path.to_owned(),
            query: request.query_string().to_owned(),
            body,
            headers: request.headers().clone(),
            remote_addr: self.address,
            scheme: self.scheme,
            host: self.host,
            error: None,
            now: Timestamp::now(),
        }
    }
}

/// The client at the end of a way that fronts have written down, each behind the one before: the last address that is no
/// front's. What stands before it the client may have invented (as mod_remoteip and Tomcat's RemoteIpValve have it).
fn behind<'a>(lists: impl Iterator<Item = &'a str>, is_front: impl Fn(IpAddr) -> bool) -> Option<&'a str> {
    let hops: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).filter(|hop| !hop.is_empty()).collect();
    let is_client = |hop: &&&str| !hop.parse().is_ok_and(|ip: IpAddr| is_front(ip.to_canonical()));
    hops.iter().rev().find(is_client).or(hops.first()).copied()
}

fn attempt(request: &HttpRequest) -> Attempt {
    match request.headers().get(ATTEMPT).map(HeaderValue::as_bytes) {
        Some(b"stay") => Attempt::Stay,
        Some(b"move") => Attempt::Move,
        _ => Attempt::Direct,
    }
}

/// What answers without a session.
async fn pageless(resource: Resource, request: &HttpRequest) -> HttpResponse {
    match resource {
        Resource::Asset(asset) => dress::asset(webapp::assets::answer(&asset, request).await),
        Resource::AddSlash(to) => redirect(to, request.query_string()),
        Resource::Page(_) | Resource::NotFound => not_found(),
    }
}

fn redirect(to: String, query: &str) -> HttpResponse {
    let to = if query.is_empty() { to } else { format!("{to}?{query}") };
    HttpResponse::Found().insert_header((header::LOCATION, to)).finish()
}

fn not_found() -> HttpResponse {
    refusal::page(StatusCode::NOT_FOUND, "There is no page at this address.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_does_not_choose_its_address_by_what_it_says_of_earlier_fronts() {
        let is_front = |ip: IpAddr| ip.is_loopback() || ip == IpAddr::from([10, 0, 0, 2]);
        let client = |lists: &[&'static str]| behind(lists.iter().copied(), is_front);
        assert_eq!(client(&["192.0.2.1"]), Some("192.0.2.1"));
        assert_eq!(client(&["203.0.113.9, 192.0.2.1"]), Some("192.0.2.1"), "nginx writes behind what it was told");
        assert_eq!(client(&["203.0.113.9", "192.0.2.1"]), Some("192.0.2.1"), "HAProxy writes a line of its own");
        assert_eq!(client(&["203.0.113.9, 192.0.2.1, 10.0.0.2", "::ffff:127.0.0.1"]), Some("192.0.2.1"));
        assert_eq!(client(&["127.0.0.1, 10.0.0.2"]), Some("127.0.0.1"), "one on this machine");
        assert_eq!(client(&["2001:db8::1, unknown"]), Some("unknown"));
        assert_eq!((client(&[]), client(&[" ,"])), (None, None));
    }
}
