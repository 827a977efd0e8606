//! How everything is: the reports that `tasuki status`, the manager page and tests read, and the log.

use std::{collections::BTreeMap, io::IsTerminal, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::{
    membership::Duty,
    names::{ContextPath, Route},
};

/// Answer of `tasuki status --json` and of the manager's `status.json`. A stable interface: fields are only added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The balancer that was asked.
    pub balancer: BalancerReport,
    /// Its nodes, in the order of their routes.
    pub nodes: Vec<NodeReport>,
}

/// A balancer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancerReport {
    /// Where users connect.
    pub listen: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// Requests that it has answered with an error of its own since it started.
    #[serde(default)]
    pub refusals: RefusalCounts,
    /// What has to be done soon, such as to renew the certificate.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Requests that a balancer has refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalCounts {
    /// 400: not what HTTP allows.
    pub bad_request: u64,
    /// 408: the client stopped sending.
    pub client_timeout: u64,
    /// 413: the body is larger than `balancer.max_body_bytes`.
    pub body_too_large: u64,
    /// 414: the address is too long.
    pub target_too_long: u64,
    /// 431: the headers are too large.
    pub headers_too_large: u64,
    /// 502: a member's answer was lost or broken.
    pub bad_gateway: u64,
    /// 503: no member may serve.
    pub unavailable: u64,
    /// 503: the member answers as many requests as it may, and the queue is full or the wait was too long.
    pub queue_full: u64,
    /// 504: no answer in time.
    pub gateway_timeout: u64,
    /// Everything else, such as a method that nobody has defined.
    pub other: u64,
    /// Of 502 and 504: those that might have been sent to another member, but too many were already (`balancer.retry_percent`).
    pub not_repeated: u64,
}

/// A node: what it says of itself, or, when it cannot be asked, what the balancer knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its stable name.
    pub route: Route,
    /// Its process; unknown for a node that does not answer.
    pub pid: Option<u32>,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// Whether it can be used.
    pub state: NodeState,
    /// What it wants to be asked for.
    pub duty: Duty,
    /// Its sessions.
    pub sessions: SessionCounts,
    /// Its view of the other nodes.
    pub peers: Vec<PeerReport>,
    /// Writes that were refused or taken back because too few nodes could hold them (`cluster.min_copies`).
    #[serde(default)]
    pub writes_refused: u64,
    /// Answered writes that no other node held then, though there have been others.
    #[serde(default)]
    pub writes_alone: u64,
    /// No other node is waited for now, though there have been others: what is written here is held here only.
    #[serde(default)]
    pub alone: bool,
    /// New sessions that were refused because the node keeps as many as it may (`session.max_sessions`).
    #[serde(default)]
    pub sessions_refused: u64,
    /// Ended sessions that it remembers.
    #[serde(default)]
    pub ended: usize,
    /// Who was kept out of its port for membership and replication.
    #[serde(default)]
    pub strangers: StrangersReport,
    /// Of the sessions it owns, those that cannot move because their webapp has no `<distributable/>`. Counted while it
    /// drains.
    #[serde(default)]
    pub staying: usize,
    /// Those of its settings that have to be alike on all nodes, by their keys, as the file has them.
    #[serde(default)]
    pub alike: BTreeMap<String, String>,
    /// Its webapps, by their full names.
    #[serde(default)]
    pub webapps: Vec<WebappReport>,
    /// On what terms the balancer uses it; a node does not know this of itself.
    #[serde(flatten)]
    pub terms: Terms,
}

/// What has come to a node's replication port since its start and was dropped: it was not sealed with this cluster's secret,
/// or, of links, was nothing that a node of tasuki says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrangersReport {
    /// Of membership.
    pub datagrams: u64,
    /// Links of replication.
    pub links: u64,
}

/// How one webapp of a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebappReport {
    /// The name of its folder or archive: `shop`, `shop##2`.
    pub name: String,
    /// Where it answers; none while no version of it is good.
    pub context: Option<ContextPath>,
    /// The fingerprint of the content that answers: equal on all nodes that have the same files.
    pub version: Option<String>,
    /// Its sessions are copied to other nodes.
    pub distributable: bool,
    /// Where what answers comes from.
    pub source: WebappSource,
    /// Why what lies there now is not what answers: file, line, what to do.
    pub error: Option<String>,
    /// What else an administrator should know of, a sentence each.
    pub notes: Vec<String>,
}

/// Where a webapp comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebappSource {
    /// The node's webapps folder.
    Folder,
    /// `tasuki deploy`: every node of the cluster has it.
    Deployed,
}

/// On what terms a balancer uses a member: as the file says, unless an administrator has set it otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// What an administrator has it do.
    pub admin: Admin,
    /// Its share of new sessions, 1 to 100.
    pub weight: u8,
    /// Used only when no other member of its set may serve.
    pub standby: bool,
    /// What was set and is not what the file says.
    pub differs: Vec<Differs>,
}

/// What an administrator has a member do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// Everything.
    #[default]
    Enabled,
    /// No new sessions. A node's sessions move on; a server that is no node keeps the ones it has (httpd's `N`).
    Drained,
    /// No request at all (httpd's `D`).
    Disabled,
}

/// One setting of a member whose value is not the file's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differs {
    /// `duty`, `weight` or `standby`.
    pub setting: String,
    /// What holds.
    pub now: String,
    /// What the file says, or what holds for a member that it does not name.
    pub file: String,
}

impl Admin {
    /// As in the JSON reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Drained => "drained",
            Self::Disabled => "disabled",
        }
    }
}

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} (file: {})", self.setting, self.now, self.file)
    }
}

/// Whether a node can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It does not know its peers yet.
    Starting,
    /// It answers.
    Ready,
    /// It is about to exit.
    Stopping,
    /// It does not answer.
    Failed,
}

/// How many sessions, copies apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// Sessions this node may commit.
    pub owned: usize,
    /// Copies of sessions that others own.
    pub held: usize,
}

/// One peer, as a node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer's route.
    pub route: Route,
    /// It is waited for before a reply is released, it holds all that this node owns, and the two hear each other.
    pub in_sync: bool,
    /// Age of the oldest write it has not acknowledged.
    pub lag_ms: u64,
    /// Writes on their way to it that it has not acknowledged.
    #[serde(default)]
    pub queued: usize,
    /// Bytes that have not been written to it yet.
    #[serde(default)]
    pub queued_bytes: usize,
    /// Bytes written to it since it joined.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes of its acknowledgements and answers.
    #[serde(default)]
    pub received_bytes: u64,
    /// How often it was compared with this node since it joined.
    #[serde(default)]
    pub repair_rounds: u64,
    /// Sessions that it was told then because it lacked them, ended ones included.
    #[serde(default)]
    pub repaired_sessions: u64,
}

impl PeerReport {
    /// The same peer through another link: it is as far as the one that is furthest behind.
    pub fn add(&mut self, link: &Self) {
        self.in_sync &= link.in_sync;
        self.lag_ms = self.lag_ms.max(link.lag_ms);
        self.queued += link.queued;
        self.queued_bytes += link.queued_bytes;
        self.sent_bytes += link.sent_bytes;
        self.received_bytes += link.received_bytes;
        self.repair_rounds += link.repair_rounds;
        self.repaired_sessions += link.repaired_sessions;
    }
}

/// What is told without `RUST_LOG`. Libraries speak only of trouble, and not at all of what any client can cause: a line
/// for each malformed request would let strangers fill the disk.
const TOLD: &str = "info,actix_server=warn,actix_http=off,notify=error";

/// Starts the log on standard error. `RUST_LOG` chooses what is told, as everywhere in Rust; without it `info`.
///
/// Does nothing when a log is running already (several nodes of one test process).
pub fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(TOLD));
    let colours = std::io::stderr().is_terminal();
    // A log that cannot be written (a closed pipe, a full disk) is no reason to die: the subscriber would report it with
    // `eprintln!`, to the same place, and that panics.
    let log = tracing_subscriber::fmt().log_internal_errors(false);
    let log = log.with_env_filter(filter).with_target(false).with_ansi(colours);
    let _ = log.with_writer(std::io::stderr).try_init();
}
