//! Settings after they were checked: every value here may be used without another question.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    num::NonZero,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use crate::names::Route;

/// Everything an administrator can choose. [`Settings::default`] is what tasuki does without a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[session]`
    pub session: Session,
    /// `[node]`
    pub node: Node,
    /// `[balancer]` and `[[balancer.member]]`
    pub balancer: Balancer,
}

/// Who belongs together and how members find each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Members of other clusters on the same network are ignored by this name.
    pub name: String,
    /// The address for membership and replication, and the one that others are told. Without a secret only loopback;
    /// never the unspecified one.
    pub bind: IpAddr,
    /// The ways of finding members that are on.
    pub discovery: Vec<Discovery>,
    /// The multicast group, Tomcat's by default.
    pub multicast: SocketAddrV4,
    /// `host:port` of other members; the port is their `node.replication`, for UDP and TCP alike.
    pub peers: Vec<String>,
    /// `name:port` whose addresses (A and AAAA records) are members, looked up again and again.
    pub dns: Vec<String>,
    /// The file of the secret that seals everything between members; see [`super::Secret`]. None: nothing is sealed.
    pub secret_file: Option<PathBuf>,
    /// How long a starting node waits for members that neither answer nor refuse.
    pub discovery_timeout: Duration,
    /// Nodes that must hold a write before it is answered, the owner included; where fewer can, writes are refused.
    pub min_copies: NonZero<usize>,
}

/// A way of finding members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Beacons to `cluster.multicast`.
    Multicast,
    /// The list in `cluster.peers`.
    Static,
    /// The names in `cluster.dns`.
    Dns,
}

/// How sessions live and how they are copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Name of the session cookie; its lower case is the path parameter.
    pub cookie: String,
    /// Idle time after which a session ends, where web.xml names none.
    pub timeout: Duration,
    /// Which nodes hold a session, and what they are told.
    pub manager: SessionManager,
    /// With [`SessionManager::Backup`]: how many nodes hold a session beside its owner.
    pub copies: NonZero<usize>,
    /// Replicates what was set; `false` compares all encoded values at the end of a request with those at its start.
    pub dirty_flag: bool,
    /// When a reply is released.
    pub ack: Ack,
    /// The longest wait for one peer; then it leaves the in-sync set until it has caught up.
    pub ack_timeout: Duration,
    /// The longest wait for live members when a session moves to this node; `ack_timeout` more for one that has just fallen
    /// silent.
    pub claim_timeout: Duration,
    /// The longest wait of a request for its turn in its session.
    pub turn_timeout: Duration,
    /// How often each peer is compared with this node, even when nothing seems to be missing.
    pub repair_interval: Duration,
    /// Sessions one node keeps, copies included; a new one above it is refused with 503.
    pub max_sessions: NonZero<usize>,
}

/// Which nodes hold a session beside its owner, and what a commit tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionManager {
    /// All nodes, the changes only (Tomcat's DeltaManager).
    Delta,
    /// All nodes, the whole session with each commit.
    Full,
    /// [`Session::copies`] nodes, the changes only (Tomcat's BackupManager).
    Backup,
}

/// How many copies must be held before a reply is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// None: the reply leaves at once (Tomcat's default; writes are lost when a node dies).
    None,
    /// One live peer holds the write.
    One,
    /// Every live peer in the in-sync set holds the write.
    All,
}

/// One application server.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// This node's name in cookies and on pages.
    pub route: Route,
    /// Where it answers HTTP. `tasuki up` adds 10,000 to the port for each further node (port 0 stays 0), and where
    /// that leaves the range of ports it starts again one above the first.
    pub http: SocketAddr,
    /// Membership (UDP) and replication (TCP): a fixed port, 0 for any, or none for the first free one of
    /// 4000 to 4099.
    pub replication: Option<u16>,
    /// The folder of the webapps.
    pub webapps: PathBuf,
    /// The folder for what must outlive the process.
    pub run: PathBuf,
    /// The last node to stop writes its sessions into `run`, and the next start loads them.
    pub snapshot: bool,
    /// HTTP workers.
    pub workers: NonZero<usize>,
    /// `Tasuki-Node` and `Tasuki-Copies` on every reply.
    pub response_headers: bool,
    /// A page that fails shows its error and the lines of its template to whoever asked.
    pub development: bool,
    /// Bytes of one file of a form.
    pub max_file_bytes: u64,
    /// Bytes of a whole form with files.
    pub max_upload_bytes: u64,
    /// The longest graceful stop.
    pub shutdown_timeout: Duration,
    /// How long a session stays on the version of its webapp on which it began, after a newer one has come.
    pub version_timeout: Duration,
}

/// The door.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    /// Where users connect.
    pub listen: SocketAddr,
    /// The balancer's port for membership (UDP): a fixed one for firewalls, or 0 for any.
    pub membership: u16,
    /// How new sessions are spread.
    pub method: Method,
    /// Requests with a route go to that member.
    pub sticky: bool,
    /// A request whose member is gone may go to another one.
    pub failover: bool,
    /// When every member has failed, requests try them all the same.
    pub forced_recovery: bool,
    /// The longest wait for a member: to connect, and for the first byte of an answer.
    pub timeout: Duration,
    /// The longest wait for the next piece of an answer that has begun.
    pub read_timeout: Duration,
    /// Members tried for one request, the first one included.
    pub max_attempts: NonZero<usize>,
    /// A request is sent again only within this time of its arrival; none for twice [`Self::timeout`].
    pub retry_timeout: Option<Duration>,
    /// Of a hundred requests those that may be sent again although a member may have executed them; some are always.
    pub retry_percent: u32,
    /// Time between health checks of a failed member.
    pub retry: Duration,
    /// Health check of a good member.
    pub health_interval: Duration,
    /// Failed checks in a row before a good member counts as failed.
    pub health_fall: NonZero<u32>,
    /// Good checks in a row before a failed member counts as good.
    pub health_rise: NonZero<u32>,
    /// Requests that one member answers at once.
    pub member_connections: NonZero<usize>,
    /// Requests that may wait until a member is less busy than that.
    pub queue: usize,
    /// How long they wait.
    pub queue_timeout: Duration,
    /// Statuses of answers that count as failures of the member: [`Self::health_fall`] in a row take it out for
    /// [`Self::retry`], longer each time.
    pub fail_on_status: Vec<u16>,
    /// No answer in [`Self::timeout`] counts so too.
    pub fail_on_timeout: bool,
    /// Percent of the members that may be out of service before failing requests take out no more; health checks always may.
    pub max_ejected_percent: u32,
    /// How long a member that comes back gets a growing share of new sessions; zero for all of it at once.
    pub slow_start: Duration,
    /// The page for "no member left"; none for the built-in one. Read at start, served from memory.
    pub sorry_page: Option<PathBuf>,
    /// Clients whose `X-Forwarded-*` and `Forwarded` are believed and extended.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest request body; it is not held whole.
    pub max_body_bytes: u64,
    /// The largest request body that is kept so that the request can be sent again.
    pub retry_body_bytes: usize,
    /// The longest time for which a balancer that has been replaced finishes what it has.
    pub restart_timeout: Duration,
    /// HTTP workers.
    pub workers: NonZero<usize>,
    /// Members that membership does not find.
    pub members: Vec<StaticMember>,
    /// `[balancer.manager]`
    pub manager: Manager,
    /// `[balancer.tls]`; none: plain HTTP only.
    pub tls: Option<Tls>,
    /// `[balancer.static]`
    pub local: Static,
}

/// A second port where clients connect over TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Where users connect.
    pub listen: SocketAddr,
    /// PEM file of the certificate and those between it and its root, in this order.
    pub certificate: PathBuf,
    /// PEM file of its private key, for its owner's eyes only.
    pub key: PathBuf,
    /// Offers HTTP/2 beside HTTP/1.1.
    pub http2: bool,
}

/// Files that the balancer serves itself, without a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Static {
    /// Everything below it is answered from the folder; empty for nothing.
    pub path: String,
    /// The folder; none for nothing.
    pub folder: Option<PathBuf>,
}

/// How the member of a new session is chosen (httpd's lbmethod).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Weighted round robin over requests.
    ByRequests,
    /// Bytes in both directions, by weight.
    ByTraffic,
    /// Requests being answered, by weight; among equals by requests.
    ByBusyness,
    /// The less busy one of two drawn members.
    LeastConnections,
}

/// A member named in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticMember {
    /// Where it answers HTTP, from `url = "http://host:port"`.
    pub address: SocketAddr,
    /// The route it puts behind its session ids.
    pub route: Route,
    /// Its share of new sessions, 1 to 100.
    pub weight: u8,
    /// Used only when no other member of its set is left.
    pub standby: bool,
    /// Used only when no member of a lower set may serve (httpd's lbset).
    pub set: u8,
}

/// The manager page.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    /// An address of its own; none for the path on the balancer's ports.
    pub listen: Option<SocketAddr>,
    /// Its path; nothing below it is forwarded.
    pub path: String,
    /// Addresses that may open it.
    pub allow: Vec<IpNet>,
}
