//! What holds for every request of this balancer: settings in the form in which they are used.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use ipnet::IpNet;

use super::{choice::Binding, departure::Departure, local::Local, methods::Shares, sticky::Sticky, view::Published};
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
    /// A request is sent again only within this span of its arrival.
    pub(crate) retry_span: Duration,
    pub(crate) max_attempts: usize,
    pub(crate) retry_body_bytes: usize,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) manager: settings::Manager,
    pub(crate) sorry: Bytes,
    pub(crate) local: Option<Local>,
    pub(crate) listen: SocketAddr,
    pub(crate) departure: Arc<Departure>,
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
            binding: Binding { sticky: settings.sticky, failover: settings.failover, shares },
            method: settings.method,
            timeout: settings.timeout,
            retry_span: settings.timeout * limits::RETRY_TIMEOUTS,
            max_attempts: settings.max_attempts.get(),
            retry_body_bytes: settings.retry_body_bytes,
            trusted_proxies: settings.trusted_proxies.clone(),
            manager: settings.manager.clone(),
            sorry,
            local,
            listen,
            departure: Arc::default(),
        }
    }
}
