//! What holds for every request of this balancer: settings in the form in which they are used.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use ipnet::IpNet;

use super::{
    choice::Binding, departure::Departure, local::Local, methods::Shares, refusals::Refusals, sticky::Sticky,
    tls::Shown, view::Published,
};
use crate::{
    limits,
    settings::{self, SessionManager},
};

/// What every worker reads and nobody changes, apart from the view inside.
pub(crate) struct Rules {
    pub(crate) published: Published,
    pub(crate) sticky: Sticky,
    pub(crate) binding: Binding,
    pub(crate) method: settings::Method,
    pub(crate) timeout: Duration,
    /// Between two pieces of an answer's body.
    pub(crate) read_timeout: Duration,
    /// A request is sent again only within this span of its arrival.
    pub(crate) retry_span: Duration,
    /// Requests of a hundred that may be sent again although they may have been executed.
    pub(crate) retry_percent: u32,
    pub(crate) max_attempts: usize,
    pub(crate) max_body_bytes: u64,
    pub(crate) retry_body_bytes: usize,
    /// Answers that count as failures of the member.
    pub(crate) fail_on_status: Vec<u16>,
    pub(crate) fail_on_timeout: bool,
    /// Requests that may wait for one member, and how long.
    pub(crate) queue: usize,
    pub(crate) queue_timeout: Duration,
    pub(crate) refusals: Arc<Refusals>,
    /// As many in a row take a member out.
    pub(crate) fall: u32,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) manager: settings::Manager,
    pub(crate) sorry: Bytes,
    pub(crate) local: Option<Local>,
    pub(crate) listen: SocketAddr,
    /// Settings of this balancer that the nodes have to have as well.
    pub(crate) alike: settings::Alike,
    pub(crate) departure: Arc<Departure>,
    /// Shown to clients that come over TLS.
    pub(crate) certificate: Option<Arc<Shown>>,
}

impl Rules {
    /// From the settings, the sorry page as it is sent, the folder that is served here, and the bound address.
    pub(crate) fn new(
        settings: &settings::Balancer,
        session: &settings::Session,
        sorry: Bytes,
        local: Option<Local>,
        listen: SocketAddr,
    ) -> Self {
        let shares = match session.manager {
            SessionManager::Backup => Shares::Equal,
            SessionManager::Delta | SessionManager::Full => Shares::Weighted,
        };
        Self {
            published: Published::default(),
            sticky: Sticky::new(&session.cookie),
            binding: Binding {
                sticky: settings.sticky,
                failover: settings.failover,
                forced_recovery: settings.forced_recovery,
                shares,
            },
            method: settings.method,
            timeout: settings.timeout,
            read_timeout: settings.read_timeout,
            retry_span: settings.retry_timeout.unwrap_or(settings.timeout * limits::RETRY_TIMEOUTS),
            retry_percent: settings.retry_percent,
            max_attempts: settings.max_attempts.get(),
            max_body_bytes: settings.max_body_bytes,
            retry_body_bytes: settings.retry_body_bytes,
            fail_on_status: settings.fail_on_status.clone(),
            fail_on_timeout: settings.fail_on_timeout,
            queue: settings.queue,
            queue_timeout: settings.queue_timeout,
            refusals: Arc::default(),
            fall: settings.health_fall.get(),
            trusted_proxies: settings.trusted_proxies.clone(),
            manager: settings.manager.clone(),
            sorry,
            local,
            listen,
            alike: session.alike_on_balancers(),
            departure: Arc::default(),
            certificate: None,
        }
    }
}
