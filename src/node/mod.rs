//! The house: takes a request to its webapp, gives it its session, and lets the reply go when the session is safe.
//!
//! ```text
//!   serve ─► body ─► gate: turn, claim ─► webapp page ─► commit: table, replicator ─► reply
//!     │        (or: not done here, ask r2)          (or: not done here, fenced)
//!     ├─► static file
//!     └─► control: /health, /ready, /.tasuki
//! ```
//!
//! One [`Worker`] per HTTP worker thread, all over one [`House`]. Balancers are known here only by the headers they
//! send.

mod body;
mod commit;
pub mod control;
mod cookie;
mod deploy;
mod dress;
mod fault;
mod gate;
mod handover;
mod notable;
mod notice;
mod refusal;
mod serve;
mod uploads;
mod version;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use actix::Addr;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::mpsc;

pub use self::{
    control::Order,
    handover::{Handover, Taker, hand_over},
    notable::Notable,
    notice::{NewDuty, Notice},
    serve::routes,
    uploads::Uploads,
};
use crate::{
    deployment::Deployments,
    membership::{Membership, Roster, SharedDuty},
    names::{ContextPath, NodeId, Route},
    replication::{OwnDuty, Replicator},
    session::Table,
    settings,
    time::Moment,
    webapp::{Catalogue, Deployer, NodeInfo},
};

/// What all workers of a node share.
pub struct House {
    /// This life of the process.
    pub me: NodeId,
    /// This node's name.
    pub route: Route,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// The sessions.
    pub table: Table,
    /// The webapps.
    pub catalogue: Catalogue,
    /// Who keeps them up to date.
    pub deployer: Addr<Deployer>,
    /// What this node wants to be asked for.
    pub duty: SharedDuty,
    /// The other members.
    pub roster: Arc<ArcSwap<Roster>>,
    /// Who finds them.
    pub membership: Addr<Membership>,
    /// Links of strangers that were refused.
    pub strangers: Arc<AtomicU64>,
    /// What pages may know of the cluster.
    pub info: ArcSwap<NodeInfo>,
    /// `[session]`
    pub session: settings::Session,
    /// `cluster.min_copies`
    pub min_copies: usize,
    /// `node.development`
    pub development: bool,
    /// `Tasuki-Node` and `Tasuki-Copies` on every reply.
    pub response_headers: bool,
    /// Fronts of other makes on other machines whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `node.version_timeout`
    pub version_timeout: Duration,
    /// Shows that a program of this machine may deploy.
    pub key: String,
    /// Where deployments are ordered.
    pub deployments: Deployments,
    /// Where orders from outside go.
    pub orders: mpsc::Sender<Order>,
    /// The exporter and every worker's replicator, for reports.
    pub replicators: Mutex<Vec<Addr<Replicator>>>,
    /// What is going on.
    pub traffic: Traffic,
    /// Writes for which there were too few copies.
    pub shortage: Notable,
    /// Answered writes that no other node holds, since there have been others.
    pub alone: Notable,
    /// There have been other nodes.
    pub had_others: AtomicBool,
    /// New sessions for which there was no room.
    pub full: Notable,
    /// Files of forms.
    pub uploads: Uploads,
    /// How far a drain is.
    pub handover: Handover,
}

/// What one HTTP worker works with.
#[derive(Clone)]
pub struct Worker {
    house: Arc<House>,
    replicator: Addr<Replicator>,
}

/// Requests that run, and when the last one came.
#[derive(Debug, Default)]
pub struct Traffic {
    running: AtomicUsize,
    last: AtomicU64,
}

/// A running request.
struct Running<'a>(&'a Traffic);

impl Worker {
    /// A worker of `house` with its own replicator.
    pub fn new(house: Arc<House>, replicator: Addr<Replicator>) -> Self {
        Self { house, replicator }
    }
}

impl House {
    /// How long a webapp's sessions may be idle, and whether they travel.
    fn session_rules(&self, app: &crate::webapp::Webapp) -> SessionRules {
        use crate::{session::replica::Reach, webapp::SessionTimeout};
        let descriptor = app.descriptor();
        SessionRules {
            context: app.context().clone(),
            reach: if descriptor.distributable { Reach::Cluster } else { Reach::Node },
            concurrency: descriptor.concurrency,
            timeout: match descriptor.session_timeout {
                SessionTimeout::Unspecified => Some(self.session.timeout),
                SessionTimeout::After(timeout) => Some(timeout),
                SessionTimeout::Never => None,
            },
        }
    }

    /// A worker has started its replicator.
    pub fn add_replicator(&self, replicator: Addr<Replicator>) {
        self.replicators().push(replicator);
    }

    /// Every replicator hears what this node does.
    pub fn tell_replicators(&self, duty: OwnDuty) {
        self.replicators().iter().for_each(|replicator| replicator.do_send(duty));
    }

    /// How many replicators there are.
    pub fn replicator_count(&self) -> usize {
        self.replicators().len()
    }

    /// No replicator has panicked.
    pub fn replicators_live(&self) -> bool {
        self.replicators().iter().all(Addr::connected)
    }

    fn replicators(&self) -> MutexGuard<'_, Vec<Addr<Replicator>>> {
        self.replicators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route of a live node, this one included.
    fn route_of(&self, node: NodeId) -> Option<Route> {
        if node == self.me {
            return Some(self.route.clone());
        }
        self.roster.load().node(node).map(|node| node.route)
    }
}

/// How the sessions of a webapp live.
#[derive(Clone, Debug)]
struct SessionRules {
    context: ContextPath,
    reach: crate::session::replica::Reach,
    timeout: Option<Duration>,
    concurrency: crate::webapp::Concurrency,
}

impl Traffic {
    fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Relaxed);
        self.last.store(Moment::now().0, Relaxed);
        Running(self)
    }

    /// How many requests run.
    pub fn running(&self) -> usize {
        self.running.load(Relaxed)
    }

    /// Nothing runs, and nothing has come for so long.
    pub fn is_quiet(&self, now: Moment, span: Duration) -> bool {
        self.running() == 0 && now.since(Moment(self.last.load(Relaxed))) >= span
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}
