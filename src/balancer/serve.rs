//! The front: what is prepared before it opens, what can be done with an open door, and the sorting of requests into those
//! for members and those answered at the door.

use std::{fs, future::Future, io, io::Read, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use actix::{Addr, Recipient};
use actix_web::{
    HttpRequest, HttpResponse,
    dev::ServerHandle,
    http::{Method, StatusCode},
    rt, web,
};
use bytes::Bytes;
use tokio::time::timeout;

use super::{
    actor::Balancer,
    client::Running,
    departure::Departure,
    entrance,
    forward::forward,
    health,
    kept::Kept,
    local::Local,
    manager,
    members::Members,
    pages::{self, Refusal},
    paths,
    rules::Rules,
    sockets::Sockets,
    tls,
    worker::Worker,
};
use crate::{limits, membership::RosterChanged, settings, time::Moment};

/// A balancer that knows its members and does not accept yet.
pub struct Hall {
    /// Where users connect: the bound address, also when the settings said port 0.
    pub address: SocketAddr,
    /// To be subscribed to membership.
    pub roster: Recipient<RosterChanged>,
    /// The actor, for [`super::Observe`] and [`super::IsSettled`].
    pub balancer: Addr<Balancer>,
    rules: Arc<Rules>,
    sockets: Sockets,
    tls: Option<Arc<rustls::ServerConfig>>,
    workers: usize,
    shutdown: Duration,
}

/// A running balancer.
pub struct Door {
    /// Where users connect: the bound address, also when the settings said port 0.
    pub address: SocketAddr,
    /// The same for TLS, if there is a port for it.
    pub tls: Option<SocketAddr>,
    /// To be subscribed to membership.
    pub roster: Recipient<RosterChanged>,
    /// The actor, for [`super::Observe`].
    pub balancer: Addr<Balancer>,
    /// Stops the server; see [`Door::stop`] for the bounded way.
    pub handle: ServerHandle,
    /// Ends when the server has stopped.
    pub server: rt::task::JoinHandle<io::Result<()>>,
    departure: Arc<Departure>,
    /// For a process that takes this one's place.
    sockets: Sockets,
}

/// The sorry page's own address, as in the seeds' httpd.
const SORRY_PATH: &str = "/sorry.html";

/// Starts the balancer inside the running actix system: [`Sockets::bind`], [`prepare`] and [`Hall::open`].
///
/// # Errors
/// An address cannot be bound, or the sorry page or the certificate cannot be read; the text names it.
pub fn start(settings: &settings::Balancer, session: &settings::Session, shutdown: Duration) -> io::Result<Door> {
    prepare(settings, session, shutdown, Sockets::bind(settings)?, None)?.open()
}

/// Starts everything but the accepting of connections, on sockets that listen already.
///
/// `session` says how sessions are named and who holds them; `shutdown` is the longest graceful stop, in whole seconds.
/// Members come from the settings and from [`Hall::roster`]. What an administrator sets is kept in `kept` across restarts.
/// Must be called on a thread with an actix runtime.
///
/// # Errors
/// The sorry page or the certificate cannot be read; the text names it.
pub fn prepare(
    settings: &settings::Balancer,
    session: &settings::Session,
    shutdown: Duration,
    sockets: Sockets,
    kept: Option<Kept>,
) -> io::Result<Hall> {
    let sorry = sorry(settings)?;
    let address = sockets.plain.local_addr()?;
    let (tls, certificate) = settings.tls.as_ref().map(tls::configure).transpose()?.unzip();
    let rules = Rules::new(settings, session, sorry, Local::new(&settings.local)?, address);
    let rules = Arc::new(Rules { certificate, ..rules });
    let orders = kept.as_ref().map(Kept::load).unwrap_or_default();
    let members = Members::with_orders(health::Rules::from(settings), &settings.members, orders, Moment::now());
    let balancer = Balancer::start_with(members, rules.clone(), kept, settings.timeout);
    let (roster, workers) = (balancer.clone().recipient(), settings.workers.get());
    Ok(Hall { address, roster, balancer, rules, sockets, tls, workers, shutdown })
}

impl Hall {
    /// Accepts connections from now on.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(self) -> io::Result<Door> {
        let Self { address, roster, balancer, rules, sockets, tls, workers, shutdown } = self;
        let departure = rules.departure.clone();
        let Sockets { plain, tls: sealed } = sockets.try_clone()?;
        let sealed = sealed.zip(tls);
        let tls = sealed.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        let server = entrance::open(plain, sealed, rules, balancer.clone(), workers, shutdown)?;
        let handle = server.handle();
        Ok(Door { address, tls, roster, balancer, handle, server: rt::spawn(server), departure, sockets })
    }
}

impl Door {
    /// Ends when the manager is asked for another process in place of this one.
    pub fn restart_asked(&self) -> impl Future<Output = ()> + use<> {
        let departure = self.departure.clone();
        async move { departure.restart_asked().await }
    }

    /// Lets the manager tell why there is no other process.
    pub fn refuse_restart(&self, why: &str) {
        self.departure.refuse_restart(why);
    }

    /// The listening sockets, for another process.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn sockets(&self) -> io::Result<Sockets> {
        self.sockets.try_clone()
    }

    /// Another process accepts on the same sockets: this one does no more, and ends when its last client is gone, which has
    /// had an answer that said so or been quiet for too long, or with `enough`.
    pub async fn retire(&self, enough: impl Future<Output = ()>) {
        self.departure.leave();
        self.handle.pause().await;
        tokio::select! {
            () = self.departure.is_empty() => {}
            () = enough => {}
        }
    }

    /// Accepts nothing more, finishes what runs within `longest`, then ends. Connections that are still busy after it
    /// are cut.
    pub async fn stop(self, longest: Duration) {
        drop(self.sockets);
        if timeout(longest, self.handle.stop(true)).await.is_err() {
            tracing::warn!("requests were cut at the end of the graceful stop");
            let _ = timeout(Duration::from_secs(1), self.handle.stop(false)).await;
        }
        self.server.abort();
    }
}

fn named(error: io::Error, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The page is read once: it must be there when nothing else is.
fn sorry(settings: &settings::Balancer) -> io::Result<Bytes> {
    let Some(path) = &settings.sorry_page else { return Ok(Bytes::from_static(pages::SORRY.as_bytes())) };
    let what = || format!("balancer.sorry_page {}", path.display());
    let mut page = Vec::new();
    let file = fs::File::open(path).map_err(|error| named(error, what()))?;
    file.take(limits::SORRY_PAGE_BYTES + 1).read_to_end(&mut page).map_err(|error| named(error, what()))?;
    if page.len() as u64 > limits::SORRY_PAGE_BYTES {
        let text = format!("{}: larger than {} bytes", what(), limits::SORRY_PAGE_BYTES);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(page.into())
}

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
    if paths::is_below(path, &worker.rules.manager.path) {
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
