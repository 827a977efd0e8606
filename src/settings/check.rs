//! Raw settings become checked ones. What is absent keeps its default; what is wrong is refused with the rule.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{
    Ack, Balancer, Cluster, Discovery, Manager, Method, Node, Session, SessionManager, Settings, Static, StaticMember,
    Tls,
    defaults::available_workers,
    raw::{self, Raw, Scalar},
    refusal::Wrong,
    values::{self, Rule, duration, host_and_port, list, network, switch, text, whole},
};
use crate::{
    limits,
    names::{ContextPath, Route},
};

const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Waits inside a request: above a minute the user has left.
const WAIT: RangeInclusive<Duration> = MILLI..=MINUTE;

pub(super) fn check(raw: Raw) -> Result<Settings, Wrong> {
    let (cluster, session) = (cluster(raw.cluster)?, session(raw.session)?);
    somebody_is_asked(&cluster)?;
    enough_copies(&cluster, &session)?;
    Ok(Settings { cluster, session, node: node(raw.node)?, balancer: balancer(raw.balancer)? })
}

fn cluster(raw: raw::Cluster) -> Result<Cluster, Wrong> {
    let mut it = Cluster::default();
    set(&mut it.name, "cluster.name", raw.name, cluster_name)?;
    set(&mut it.secret_file, "cluster.secret_file", raw.secret_file, optional_path)?;
    let sealed = it.secret_file.is_some();
    set(&mut it.bind, "cluster.bind", raw.bind, |value| cluster_address(value, sealed))?;
    set(&mut it.discovery, "cluster.discovery", raw.discovery, |value| list(value, discovery))?;
    set(&mut it.multicast, "cluster.multicast", raw.multicast, multicast)?;
    set(&mut it.peers, "cluster.peers", raw.peers, |value| list(value, host_and_port))?;
    set(&mut it.dns, "cluster.dns", raw.dns, |value| list(value, host_and_port))?;
    let range = Duration::ZERO..=MINUTE;
    set(&mut it.discovery_timeout, "cluster.discovery_timeout", raw.discovery_timeout, |value| duration(value, range))?;
    set(&mut it.min_copies, "cluster.min_copies", raw.min_copies, copies)?;
    it.discovery.dedup();
    Ok(it)
}

fn session(raw: raw::Session) -> Result<Session, Wrong> {
    let mut it = Session::default();
    set(&mut it.cookie, "session.cookie", raw.cookie, cookie_name)?;
    let idle = Duration::from_secs(1)..=YEAR;
    set(&mut it.timeout, "session.timeout", raw.timeout, |value| duration(value, idle))?;
    set(&mut it.manager, "session.manager", raw.manager, session_manager)?;
    set(&mut it.copies, "session.copies", raw.copies, copies)?;
    set(&mut it.dirty_flag, "session.dirty_flag", raw.dirty_flag, switch)?;
    set(&mut it.ack, "session.ack", raw.ack, ack)?;
    set(&mut it.ack_timeout, "session.ack_timeout", raw.ack_timeout, |value| duration(value, WAIT))?;
    set(&mut it.claim_timeout, "session.claim_timeout", raw.claim_timeout, |value| duration(value, WAIT))?;
    set(&mut it.turn_timeout, "session.turn_timeout", raw.turn_timeout, |value| duration(value, WAIT))?;
    let repair = Duration::from_secs(1)..=MINUTE * 60;
    set(&mut it.repair_interval, "session.repair_interval", raw.repair_interval, |value| duration(value, repair))?;
    set(&mut it.max_sessions, "session.max_sessions", raw.max_sessions, |value| values::count(value, 1_000_000_000))?;
    Ok(it)
}

/// Whether those who are named to be asked for the others are asked.
fn somebody_is_asked(cluster: &Cluster) -> Result<(), Wrong> {
    let named = [
        ("cluster.peers", &cluster.peers, Discovery::Static, "static"),
        ("cluster.dns", &cluster.dns, Discovery::Dns, "dns"),
    ];
    for (key, names, way, word) in named {
        if !names.is_empty() && !cluster.discovery.contains(&way) {
            let rule = format!("nobody here is asked, because cluster.discovery lacks {word:?}; add it there");
            return Err(Wrong::new(key, format!("{names:?}"), rule));
        }
    }
    Ok(())
}

/// Whether the copies that are demanded can be there at all.
fn enough_copies(cluster: &Cluster, session: &Session) -> Result<(), Wrong> {
    let demanded = cluster.min_copies.get();
    let refuse = |rule: String| Err(Wrong::new("cluster.min_copies", demanded, rule));
    let made = session.copies.get() + 1;
    if session.manager == SessionManager::Backup && demanded > made {
        let says = format!("session.manager = \"backup\" with session.copies = {}", session.copies);
        return refuse(format!("there are never more than {made}: {says}"));
    }
    if session.ack == Ack::None && demanded > 1 {
        return refuse("session.ack = \"none\" waits for no copy; write \"one\" or \"all\" there".to_owned());
    }
    Ok(())
}

fn node(raw: raw::Node) -> Result<Node, Wrong> {
    let mut it = Node::default();
    set(&mut it.route, "node.route", raw.route, route)?;
    set(&mut it.http, "node.http", raw.http, values::address)?;
    set(&mut it.replication, "node.replication", raw.replication, replication)?;
    set(&mut it.webapps, "node.webapps", raw.webapps, path)?;
    set(&mut it.run, "node.run", raw.run, path)?;
    set(&mut it.snapshot, "node.snapshot", raw.snapshot, switch)?;
    set(&mut it.workers, "node.workers", raw.workers, workers)?;
    set(&mut it.response_headers, "node.response_headers", raw.response_headers, switch)?;
    set(&mut it.development, "node.development", raw.development, switch)?;
    let most = limits::UPLOADS_BYTES;
    set(&mut it.max_file_bytes, "node.max_file_bytes", raw.max_file_bytes, |value| whole(value, 0..=most))?;
    set(&mut it.max_upload_bytes, "node.max_upload_bytes", raw.max_upload_bytes, |value| whole(value, 0..=most))?;
    let stop = Duration::from_millis(100)..=MINUTE * 10;
    set(&mut it.shutdown_timeout, "node.shutdown_timeout", raw.shutdown_timeout, |value| duration(value, stop))?;
    let side_by_side = Duration::ZERO..=MINUTE * 60 * 24 * 365;
    set(&mut it.version_timeout, "node.version_timeout", raw.version_timeout, |value| duration(value, side_by_side))?;
    Ok(it)
}

fn balancer(raw: raw::Balancer) -> Result<Balancer, Wrong> {
    let mut it = Balancer::default();
    let seen = |value: &Scalar| values::small_count(value, 100);
    set(&mut it.listen, "balancer.listen", raw.listen, values::address)?;
    set(&mut it.membership, "balancer.membership", raw.membership, membership_port)?;
    set(&mut it.method, "balancer.method", raw.method, method)?;
    set(&mut it.sticky, "balancer.sticky", raw.sticky, switch)?;
    set(&mut it.failover, "balancer.failover", raw.failover, switch)?;
    set(&mut it.forced_recovery, "balancer.forced_recovery", raw.forced_recovery, switch)?;
    set(&mut it.timeout, "balancer.timeout", raw.timeout, |value| duration(value, MILLI..=MINUTE * 60))?;
    let pieces = MILLI..=MINUTE * 60 * 24;
    set(&mut it.read_timeout, "balancer.read_timeout", raw.read_timeout, |value| duration(value, pieces))?;
    set(&mut it.max_attempts, "balancer.max_attempts", raw.max_attempts, |value| values::count(value, 100))?;
    set(&mut it.retry_timeout, "balancer.retry_timeout", raw.retry_timeout, retry_timeout)?;
    set(&mut it.retry_percent, "balancer.retry_percent", raw.retry_percent, percent)?;
    set(&mut it.retry, "balancer.retry", raw.retry, |value| duration(value, MILLI * 10..=MINUTE * 60))?;
    set(&mut it.health_interval, "balancer.health_interval", raw.health_interval, |value| {
        duration(value, MILLI * 10..=MINUTE * 60)
    })?;
    set(&mut it.health_fall, "balancer.health_fall", raw.health_fall, seen)?;
    set(&mut it.health_rise, "balancer.health_rise", raw.health_rise, seen)?;
    let most = limits::CLIENT_CONNECTIONS;
    set(&mut it.member_connections, "balancer.member_connections", raw.member_connections, |value| {
        values::count(value, most)
    })?;
    set(&mut it.queue, "balancer.queue", raw.queue, |value| whole(value, 0..=most as u64).map(|most| most as usize))?;
    set(&mut it.queue_timeout, "balancer.queue_timeout", raw.queue_timeout, |value| duration(value, WAIT))?;
    set(&mut it.fail_on_status, "balancer.fail_on_status", raw.fail_on_status, statuses)?;
    set(&mut it.fail_on_timeout, "balancer.fail_on_timeout", raw.fail_on_timeout, switch)?;
    set(&mut it.max_ejected_percent, "balancer.max_ejected_percent", raw.max_ejected_percent, percent)?;
    let start = Duration::ZERO..=MINUTE * 60;
    set(&mut it.slow_start, "balancer.slow_start", raw.slow_start, |value| duration(value, start))?;
    set(&mut it.sorry_page, "balancer.sorry_page", raw.sorry_page, optional_path)?;
    set(&mut it.trusted_proxies, "balancer.trusted_proxies", raw.trusted_proxies, |value| list(value, network))?;
    set(&mut it.max_body_bytes, "balancer.max_body_bytes", raw.max_body_bytes, |value| whole(value, 0..=1 << 50))?;
    set(&mut it.retry_body_bytes, "balancer.retry_body_bytes", raw.retry_body_bytes, retry_body_bytes)?;
    let finish = Duration::from_millis(100)..=MINUTE * 60 * 24;
    set(&mut it.restart_timeout, "balancer.restart_timeout", raw.restart_timeout, |value| duration(value, finish))?;
    set(&mut it.workers, "balancer.workers", raw.workers, workers)?;
    it.members = members(raw.member)?;
    it.manager = manager(raw.manager)?;
    it.tls = tls(raw.tls)?;
    if it.tls.as_ref().is_some_and(|tls| tls.listen.port() > 0 && tls.listen == it.listen) {
        let rule = "balancer.listen has this address for plain HTTP; give each its own, such as \"0.0.0.0:443\"";
        return Err(Wrong::new("balancer.tls.listen", format!("\"{}\"", it.listen), rule));
    }
    if let Some(own) = it.manager.listen
        && own.port() > 0
        && (own == it.listen || it.tls.as_ref().is_some_and(|tls| tls.listen == own))
    {
        let rule = "users connect to this address; give the manager its own, such as \"127.0.0.1:12122\"";
        return Err(Wrong::new("balancer.manager.listen", format!("\"{own}\""), rule));
    }
    it.local = local(raw.local)?;
    Ok(it)
}

/// All three or none: a part of it is a mistake, and must not mean plain HTTP.
fn tls(raw: raw::Tls) -> Result<Option<Tls>, Wrong> {
    let (mut listen, mut certificate, mut key, mut http2) = (None, None, None, true);
    set(&mut listen, "balancer.tls.listen", raw.listen, optional_address)?;
    set(&mut certificate, "balancer.tls.certificate", raw.certificate, optional_path)?;
    set(&mut key, "balancer.tls.key", raw.key, optional_path)?;
    set(&mut http2, "balancer.tls.http2", raw.http2, switch)?;
    let lacks = |name: &str, rule: &str| Err(Wrong::new(&format!("balancer.tls.{name}"), "(nothing)", rule));
    match (listen, certificate, key) {
        (None, None, None) => Ok(None),
        (Some(listen), Some(certificate), Some(key)) => Ok(Some(Tls { listen, certificate, key, http2 })),
        (None, ..) => {
            lacks("listen", "there is a certificate and no port for it; write \"0.0.0.0:443\", or another one")
        }
        (_, None, _) => lacks("certificate", "TLS needs one; name a PEM file with the certificate and its chain"),
        (.., None) => lacks("key", "TLS needs it; name a PEM file with the private key of the certificate"),
    }
}

/// Empty text is "none".
fn optional_address(value: &Scalar) -> Result<Option<SocketAddr>, Rule> {
    if matches!(value, Scalar::Text(text) if text.trim().is_empty()) {
        return Ok(None);
    }
    values::address(value).map(Some)
}

fn manager(raw: raw::Manager) -> Result<Manager, Wrong> {
    let mut it = Manager::default();
    set(&mut it.listen, "balancer.manager.listen", raw.listen, optional_address)?;
    set(&mut it.path, "balancer.manager.path", raw.path, manager_path)?;
    set(&mut it.allow, "balancer.manager.allow", raw.allow, |value| list(value, network))?;
    Ok(it)
}

fn local(raw: raw::Static) -> Result<Static, Wrong> {
    let mut it = Static::default();
    set(&mut it.path, "balancer.static.path", raw.path, |value| match text(value)? {
        "" => Ok(String::new()),
        _ => manager_path(value),
    })?;
    set(&mut it.folder, "balancer.static.folder", raw.folder, optional_path)?;
    if it.path.is_empty() != it.folder.is_none() {
        let rule = "balancer.static.path and balancer.static.folder belong together; set both or none".to_owned();
        return Err(Wrong::new("balancer.static.path", format!("\"{}\"", it.path), rule));
    }
    Ok(it)
}

fn members(raw: Vec<raw::Member>) -> Result<Vec<StaticMember>, Wrong> {
    if raw.len() > limits::SETTING_LIST {
        let rule = format!("at most {} members can be listed", limits::SETTING_LIST);
        return Err(Wrong::new("[[balancer.member]]", format!("{} sections", raw.len()), rule));
    }
    let mut members: Vec<StaticMember> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = |name: &str| format!("[[balancer.member]] number {}: {name}", index + 1);
        let member = member(raw, key)?;
        if members.iter().any(|other| other.route == member.route) {
            let rule = "another member has this route; give each its own";
            return Err(Wrong::new(&key("route"), format!("\"{}\"", member.route), rule));
        }
        members.push(member);
    }
    Ok(members)
}

fn member(raw: raw::Member, key: impl Fn(&str) -> String) -> Result<StaticMember, Wrong> {
    let (mut weight, mut standby, mut lbset) = (50, false, 0); // the seeds' loadfactor
    let address = required(&key("url"), raw.url, member_url)?;
    let route = required(&key("route"), raw.route, route)?;
    set(&mut weight, &key("weight"), raw.weight, |value| whole(value, 1..=100))?;
    set(&mut standby, &key("standby"), raw.standby, switch)?;
    // httpd's lbset has the same range.
    set(&mut lbset, &key("set"), raw.set, |value| whole(value, 0..=99))?;
    Ok(StaticMember { address, route, weight: weight as u8, standby, set: lbset as u8 })
}

fn set<T>(
    slot: &mut T,
    key: &str,
    value: Option<Scalar>,
    read: impl FnOnce(&Scalar) -> Result<T, Rule>,
) -> Result<(), Wrong> {
    if let Some(value) = value {
        *slot = read(&value).map_err(|rule| Wrong::new(key, &value, rule))?;
    }
    Ok(())
}

fn required<T>(key: &str, value: Option<Scalar>, read: impl FnOnce(&Scalar) -> Result<T, Rule>) -> Result<T, Wrong> {
    let value = value.ok_or_else(|| Wrong::new(key, "(nothing)", "every member needs it"))?;
    read(&value).map_err(|rule| Wrong::new(key, &value, rule))
}

fn cluster_name(value: &Scalar) -> Result<String, Rule> {
    let name = text(value)?;
    let good = !name.is_empty() && name.len() <= limits::CLUSTER_NAME_BYTES && !name.contains(char::is_control);
    let rule = || format!("a cluster's name has 1 to {} bytes of printable text", limits::CLUSTER_NAME_BYTES);
    good.then(|| name.to_owned()).ok_or_else(rule)
}

/// An address that the others can be told, as they write it: never IPv4 as IPv6. Whoever reaches an unsealed port can change any session, so without a secret
/// only this machine may.
fn cluster_address(value: &Scalar, sealed: bool) -> Result<IpAddr, Rule> {
    let address: IpAddr =
        text(value)?.parse().map_err(|_| "must be an IP address, such as \"127.0.0.1\"".to_owned())?;
    let address = address.to_canonical();
    if !sealed && !address.is_loopback() {
        return Err(
            "without a secret the cluster stays on loopback; make one with \"tasuki secret conf/secret\", copy it \
                    to every machine, and name it in cluster.secret_file (node.http and balancer.listen may be any \
                    address)"
                .to_owned(),
        );
    }
    if address.is_unspecified() || address.is_multicast() {
        return Err(
            "the other members are told this address; write the one by which they reach this machine, such as \
                    \"192.0.2.7\""
                .to_owned(),
        );
    }
    Ok(address)
}

fn discovery(written: &str) -> Result<Discovery, Rule> {
    match written {
        "multicast" => Ok(Discovery::Multicast),
        "static" => Ok(Discovery::Static),
        "dns" => Ok(Discovery::Dns),
        _ => Err(format!("{written:?} is no way of discovery; there are \"multicast\", \"static\" and \"dns\"")),
    }
}

fn multicast(value: &Scalar) -> Result<std::net::SocketAddrV4, Rule> {
    let group = text(value)?.parse::<std::net::SocketAddrV4>().ok();
    let rule = "must be an IPv4 multicast group (224.0.0.0 to 239.255.255.255) and a port, as \"228.0.0.4:45564\"";
    group.filter(|group| group.ip().is_multicast() && group.port() > 0).ok_or(rule.to_owned())
}

/// RFC 6265 section 4.1.1: a cookie's name is a token of RFC 2616.
fn cookie_name(value: &Scalar) -> Result<String, Rule> {
    let name = text(value)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let good = !name.is_empty() && name.len() <= limits::COOKIE_NAME_BYTES && name.bytes().all(allowed);
    let rule = || format!("a cookie's name has 1 to {} letters, digits or -_.", limits::COOKIE_NAME_BYTES);
    good.then(|| name.to_owned()).ok_or_else(rule)
}

fn ack(value: &Scalar) -> Result<Ack, Rule> {
    match text(value)? {
        "none" => Ok(Ack::None),
        "one" => Ok(Ack::One),
        "all" => Ok(Ack::All),
        _ => Err("must be \"one\", \"all\" or \"none\"".to_owned()),
    }
}

fn copies(value: &Scalar) -> Result<std::num::NonZero<usize>, Rule> {
    values::count(value, limits::COPIES)
}

fn session_manager(value: &Scalar) -> Result<SessionManager, Rule> {
    match text(value)? {
        "delta" => Ok(SessionManager::Delta),
        "full" => Ok(SessionManager::Full),
        "backup" => Ok(SessionManager::Backup),
        "DeltaManager" => Err("write \"delta\"".to_owned()),
        "BackupManager" => Err("write \"backup\"".to_owned()),
        _ => Err("must be \"delta\", \"full\" or \"backup\"".to_owned()),
    }
}

fn method(value: &Scalar) -> Result<Method, Rule> {
    match text(value)? {
        "by_requests" => Ok(Method::ByRequests),
        "by_traffic" => Ok(Method::ByTraffic),
        "by_busyness" => Ok(Method::ByBusyness),
        "least_connections" => Ok(Method::LeastConnections),
        "byrequests" | "lbmethod=byrequests" => Err("write \"by_requests\"".to_owned()),
        "bytraffic" | "lbmethod=bytraffic" => Err("write \"by_traffic\"".to_owned()),
        "bybusyness" | "lbmethod=bybusyness" => Err("write \"by_busyness\"".to_owned()),
        _ => Err("must be \"by_requests\", \"by_traffic\", \"by_busyness\" or \"least_connections\"".to_owned()),
    }
}

/// Statuses of errors, as numbers or with commas.
fn statuses(value: &Scalar) -> Result<Vec<u16>, Rule> {
    let rule = || "must be a list of statuses from 400 to 599, such as [500, 502]".to_owned();
    let status = |value: &Scalar| whole(value, 400..=599).map(|status| status as u16).map_err(|_| rule());
    match value {
        Scalar::List(values) if values.len() <= 200 => values.iter().map(status).collect(),
        Scalar::Whole(_) => Ok(vec![status(value)?]),
        _ => list(value, |written| status(&Scalar::Text(written.to_owned()))).map_err(|_| rule()),
    }
}

fn retry_timeout(value: &Scalar) -> Result<Option<Duration>, Rule> {
    if matches!(value, Scalar::Text(text) if text.trim() == "auto") {
        return Ok(None);
    }
    let rule = |rule| format!("{rule}; or \"auto\" for twice balancer.timeout");
    duration(value, MILLI..=MINUTE * 60).map(Some).map_err(rule)
}

fn percent(value: &Scalar) -> Result<u32, Rule> {
    whole(value, 0..=100).map(|percent| percent as u32)
}

fn route(value: &Scalar) -> Result<Route, Rule> {
    let rule = || format!("a route has 1 to {} characters of A-Z a-z 0-9 _ -, as \"r1\"", limits::ROUTE_BYTES);
    text(value)?.parse().map_err(|_| rule())
}

fn replication(value: &Scalar) -> Result<Option<u16>, Rule> {
    if matches!(value, Scalar::Text(text) if text.trim() == "auto") {
        return Ok(None);
    }
    let rule = "must be a port, 0 for any free one, or \"auto\" for the first free one of 4000 to 4099";
    whole(value, 0..=u64::from(u16::MAX)).map(|port| Some(port as u16)).map_err(|_| rule.to_owned())
}

fn membership_port(value: &Scalar) -> Result<u16, Rule> {
    let rule = "must be a port, or 0 for any free one";
    whole(value, 0..=u64::from(u16::MAX)).map(|port| port as u16).map_err(|_| rule.to_owned())
}

fn workers(value: &Scalar) -> Result<std::num::NonZero<usize>, Rule> {
    if matches!(value, Scalar::Text(text) if text.trim() == "auto") {
        return Ok(available_workers());
    }
    let rule = || format!("must be from 1 to {}, or \"auto\" for one a processor", limits::WORKERS);
    values::count(value, limits::WORKERS).map_err(|_| rule())
}

fn retry_body_bytes(value: &Scalar) -> Result<usize, Rule> {
    whole(value, 0..=limits::RETRY_BODY_BYTES as u64).map(|bytes| bytes as usize)
}

fn path(value: &Scalar) -> Result<PathBuf, Rule> {
    optional_path(value)?.ok_or("must name a folder".to_owned())
}

/// Empty text is "none".
fn optional_path(value: &Scalar) -> Result<Option<PathBuf>, Rule> {
    let path = text(value)?;
    if path.contains('\0') {
        return Err("a path has no zero byte".to_owned());
    }
    Ok((!path.is_empty()).then(|| PathBuf::from(path)))
}

fn manager_path(value: &Scalar) -> Result<String, Rule> {
    let rule = "must be a path such as \"/balancer-manager\", not \"/\" and without a slash at the end";
    let path = text(value)?.parse::<ContextPath>().map_err(|_| rule.to_owned())?;
    let good = !path.as_str().is_empty() && !path.as_str().contains(['%', ' ']);
    good.then(|| path.as_str().to_owned()).ok_or(rule.to_owned())
}

fn member_url(value: &Scalar) -> Result<SocketAddr, Rule> {
    let url = text(value)?;
    if url.starts_with("ajp:") || url.starts_with("https:") {
        return Err("AJP and TLS to members are not in this release; write \"http://127.0.0.1:18080\"".to_owned());
    }
    let rest = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let address = rest.and_then(|rest| rest.parse::<SocketAddr>().ok()).filter(|address| address.port() > 0);
    address.ok_or("must be http:// with an IP address and a port, as \"http://127.0.0.1:18080\"".to_owned())
}
