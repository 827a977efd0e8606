//! The life of the door: what is prepared before it opens, and what can be done with it once it is open.

use std::{fs, future::Future, io, io::Read, net::SocketAddr, sync::Arc, time::Duration};

use actix::{Addr, Recipient};
use actix_web::{dev::ServerHandle, rt};
use bytes::Bytes;
use tokio::time::timeout;

use super::{
    actor::Balancer, departure::Departure, entrance, health, kept::Kept, local::Local, members::Members, pages,
    rules::Rules, sockets::Sockets, tls,
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
    /// Where the manager answers, if it has an address of its own.
    pub manager: Option<SocketAddr>,
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
        let Sockets { plain, tls: sealed, manager: own } = sockets.try_clone()?;
        let sealed = sealed.zip(tls);
        let tls = sealed.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        let manager = own.as_ref().map(|listener| listener.local_addr()).transpose()?;
        let server = entrance::open(plain, sealed, own, rules, balancer.clone(), workers, shutdown)?;
        let handle = server.handle();
        Ok(Door { address, tls, manager, roster, balancer, handle, server: rt::spawn(server), departure, sockets })
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
