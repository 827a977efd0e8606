//! What tasuki does without a file. `conf/tasuki.toml` lists the same values, and a test compares the two.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    num::NonZero,
    path::PathBuf,
    thread,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Ack, Balancer, Cluster, Discovery, Manager, Method, Node, Session, SessionManager, Settings, Static};
use crate::{limits, names::Route};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const MAX_SESSIONS: NonZero<usize> = NonZero::new(1_000_000).unwrap();

/// The member, and two more: httpd tries all but one, which with many dead members is a long wait.
const MAX_ATTEMPTS: NonZero<usize> = NonZero::new(3).unwrap();

// HAProxy's inter, fall and rise.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
const HEALTH_FALL: NonZero<u32> = NonZero::new(3).unwrap();
const HEALTH_RISE: NonZero<u32> = NonZero::new(2).unwrap();

/// Above what one session may have waiting for its turn, so that no user fills a member alone.
const MEMBER_CONNECTIONS: NonZero<usize> = NonZero::new(2 * limits::TURN_WAITERS).unwrap();

/// Not off, as HAProxy's slowstart is: by busyness a member that comes back idle would get every new session. As long as one
/// is checked fast after a change, which is when one that is not well falls again.
const SLOW_START: Duration = limits::FAST_PROBE_SPAN;

impl Default for Settings {
    /// The values of the systems this one replaces, where they have one and it is safe.
    fn default() -> Self {
        Self {
            cluster: Cluster::default(),
            session: Session::default(),
            node: Node::default(),
            balancer: Balancer::default(),
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "tasuki".to_owned(),
            bind: LOOPBACK,
            discovery: vec![Discovery::Multicast, Discovery::Static],
            multicast: SocketAddrV4::new(Ipv4Addr::new(228, 0, 0, 4), 45564), // Tomcat's McastService
            peers: Vec::new(),
            dns: Vec::new(),
            secret_file: None,
            discovery_timeout: Duration::from_secs(1),
            min_copies: NonZero::<usize>::MIN,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            cookie: "JSESSIONID".to_owned(),
            timeout: Duration::from_secs(30 * 60), // Tomcat's session-timeout
            manager: SessionManager::Delta,
            copies: NonZero::<usize>::MIN,
            dirty_flag: true, // Tomcat's useDirtyFlag
            ack: Ack::One,
            ack_timeout: Duration::from_secs(1),
            claim_timeout: Duration::from_millis(500),
            turn_timeout: Duration::from_secs(10),
            repair_interval: Duration::from_secs(60),
            max_sessions: MAX_SESSIONS,
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            route: default_route(),
            http: SocketAddr::new(LOOPBACK, 18080),
            replication: None,
            webapps: PathBuf::from("webapps"),
            run: PathBuf::from("run"),
            snapshot: true, // Tomcat's StandardManager does so too
            workers: available_workers(),
            response_headers: true,
            development: false,
            max_file_bytes: 16 << 20,
            max_upload_bytes: 32 << 20,
            shutdown_timeout: Duration::from_secs(10),
            version_timeout: Duration::from_secs(2 * 3_600),
        }
    }
}

impl Default for Balancer {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(LOOPBACK, 12121),
            membership: 0,
            method: Method::ByRequests,
            sticky: true,
            failover: true,
            forced_recovery: true, // as httpd and mod_jk
            timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(60), // as nginx's proxy_read_timeout
            max_attempts: MAX_ATTEMPTS,
            retry_timeout: None,
            retry_percent: 20, // as Envoy's and Finagle's retry budget
            retry: Duration::from_secs(2),
            health_interval: HEALTH_INTERVAL,
            health_fall: HEALTH_FALL,
            health_rise: HEALTH_RISE,
            member_connections: MEMBER_CONNECTIONS,
            queue: 1_024,
            queue_timeout: Duration::from_secs(2), // the seeds' timeout of the balancer
            fail_on_status: Vec::new(),            // as httpd's failonstatus and failontimeout
            fail_on_timeout: false,
            max_ejected_percent: 50, // Envoy has 10, and a cluster of two would then never eject
            slow_start: SLOW_START,
            sorry_page: None,
            trusted_proxies: Vec::new(),
            max_body_bytes: 1 << 30, // httpd's LimitRequestBody
            retry_body_bytes: 64 * 1024,
            restart_timeout: Duration::from_secs(60),
            workers: available_workers(),
            members: Vec::new(),
            manager: Manager::default(),
            tls: None,
            local: Static::default(),
        }
    }
}

impl Default for Manager {
    fn default() -> Self {
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        let loopback_v6 = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
        let allow = vec![IpNet::V4(loopback), IpNet::V6(loopback_v6)];
        Self { listen: None, path: "/balancer-manager".to_owned(), allow }
    }
}

/// One worker for each processor this process may use.
pub(super) fn available_workers() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}

fn default_route() -> Route {
    "r1".parse().expect("r1 is a route")
}
