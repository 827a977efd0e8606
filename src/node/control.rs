//! What the node tells and obeys: `/health`, `/ready`, and `/.tasuki` for balancers and the command line.
//!
//! `/.tasuki` answers to this machine and to the addresses of live balancers, and only to requests with the header
//! `Tasuki-Control`, which a foreign web page cannot make a browser send without asking first (CORS preflight). What a
//! front says that it has passed on is refused: our balancer never does, and another one would open this to its clients.
//! One on this machine that says nothing has to keep these paths to itself.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap},
    },
    web,
};
use serde::{Deserialize, Serialize};

use super::{House, Worker, refusal};
use crate::{
    limits,
    membership::{self, Duty, Role, Roster},
    names::host_is_local,
    observe::{NodeReport, NodeState, PeerReport, StrangersReport, Terms},
    replication::{LinkReport, Observe},
    webapp,
};

/// Marks a request that a person or a balancer meant.
const CONTROL: &str = "Tasuki-Control";

/// An order from outside, for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Serve, or drain.
    Duty(Duty),
    /// Stop gracefully and begin a new life.
    Restart,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedDuty {
    duty: Duty,
}

/// Which life of the node answers.
#[derive(Serialize)]
struct Life {
    life: String,
}

/// What the paths of this file are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Health,
    Ready,
    Status,
    Life,
    Duty,
    Restart,
    Deploy,
    /// Below `/.tasuki`, but nothing.
    Nothing,
}

/// Whether a path belongs to this file; webapps never see it.
pub(super) fn asked(path: &str) -> Option<Asked> {
    Some(match path {
        "/health" => Asked::Health,
        "/ready" => Asked::Ready,
        "/.tasuki/status" => Asked::Status,
        "/.tasuki/life" => Asked::Life,
        "/.tasuki/duty" => Asked::Duty,
        "/.tasuki/restart" => Asked::Restart,
        "/.tasuki/deployments" => Asked::Deploy,
        path if path == "/.tasuki" || path.starts_with("/.tasuki/") => Asked::Nothing,
        _ => return None,
    })
}

impl Worker {
    pub(super) async fn control(&self, asked: Asked, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
        match asked {
            Asked::Health => return HttpResponse::Ok().body("ok\n"),
            Asked::Ready => return ready(self.house.duty.get()),
            _ => {}
        }
        let headers = request.headers();
        let is_order = headers.contains_key(CONTROL) && !was_forwarded(headers) && names_an_address(headers);
        if !is_order || !request.peer_addr().is_some_and(|peer| self.house.is_ours(peer.ip())) {
            return refusal::page(StatusCode::FORBIDDEN, "Not from here.");
        }
        match (asked, request.method()) {
            (Asked::Status, &Method::GET) => HttpResponse::Ok().json(self.house.report().await),
            (Asked::Life, &Method::GET) => HttpResponse::Ok().json(Life { life: self.house.me.to_string() }),
            (Asked::Duty, &Method::POST) => self.new_duty(payload).await,
            (Asked::Restart, &Method::POST) => self.order(Order::Restart, StatusCode::ACCEPTED),
            (Asked::Deploy, &Method::POST) => self.deploy(request, payload).await,
            (Asked::Status | Asked::Life | Asked::Duty | Asked::Restart | Asked::Deploy, _) => {
                refusal::page(StatusCode::METHOD_NOT_ALLOWED, "This path is asked in another way.")
            }
            _ => refusal::page(StatusCode::NOT_FOUND, "There is nothing here."),
        }
    }

    async fn new_duty(&self, payload: web::Payload) -> HttpResponse {
        let body = payload.to_bytes_limited(limits::CONTROL_BYTES).await;
        let wanted = body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice::<WantedDuty>(&body).ok());
        match wanted {
            Some(WantedDuty { duty: duty @ (Duty::Serving | Duty::Draining) }) => {
                self.order(Order::Duty(duty), StatusCode::NO_CONTENT)
            }
            _ => {
                refusal::page(StatusCode::BAD_REQUEST, "The body is {\"duty\":\"serving\"} or {\"duty\":\"draining\"}.")
            }
        }
    }

    fn order(&self, order: Order, taken: StatusCode) -> HttpResponse {
        match self.house.orders.try_send(order) {
            Ok(()) if order == Order::Restart => {
                HttpResponse::build(taken).json(Life { life: self.house.me.to_string() })
            }
            Ok(()) => HttpResponse::new(taken),
            Err(_) => refusal::page(StatusCode::SERVICE_UNAVAILABLE, "The node is busy with another order."),
        }
    }
}

impl House {
    /// Whether an address is of this machine or of a live balancer.
    pub(super) fn is_ours(&self, peer: IpAddr) -> bool {
        is_ours(peer, self.http, &self.roster.load())
    }

    /// How this node is.
    pub async fn report(&self) -> NodeReport {
        let (duty, links) = (self.duty.get(), self.links().await);
        let had_others = self.had_others.load(Relaxed);
        let membership = self.membership.send(membership::Observe).await;
        NodeReport {
            route: self.route.clone(),
            pid: Some(std::process::id()),
            http: self.http,
            state: match duty {
                Duty::Starting => NodeState::Starting,
                Duty::Serving | Duty::Draining => NodeState::Ready,
            },
            duty,
            sessions: self.table.counts(),
            peers: peers(&links),
            writes_refused: self.shortage.count(),
            writes_alone: self.alone.count(),
            alone: had_others && !links.iter().any(|link| link.in_sync),
            sessions_refused: self.full.count(),
            ended: self.table.remembered(),
            strangers: StrangersReport {
                datagrams: membership.map_or(0, |report| report.datagrams.unsealed),
                links: self.strangers.load(Relaxed),
            },
            staying: if duty == Duty::Draining { self.handover.staying() } else { 0 },
            alike: self.session.alike_on_nodes(self.min_copies),
            webapps: self.deployer.send(webapp::Observe).await.unwrap_or_default(),
            terms: Terms::default(),
        }
    }

    /// Every link of every worker. One that hangs does not hold up the others, nor a stop.
    pub async fn links(&self) -> Vec<LinkReport> {
        let replicators = self.replicators().clone();
        let reports = replicators.iter().map(|replicator| replicator.send(Observe).timeout(limits::LINK_REPORT));
        futures_util::future::join_all(reports).await.into_iter().flatten().flatten().collect()
    }
}

/// A peer is as far as the link that is furthest behind.
fn peers(links: &[LinkReport]) -> Vec<PeerReport> {
    let mut peers: Vec<PeerReport> = Vec::new();
    for link in links {
        let link = PeerReport {
            route: link.route.clone(),
            in_sync: link.in_sync && link.complete && link.is_heard,
            lag_ms: link.lag.as_millis().try_into().unwrap_or(u64::MAX),
            queued: link.in_flight,
            queued_bytes: link.queued_bytes,
            sent_bytes: link.traffic.sent,
            received_bytes: link.traffic.received,
            repair_rounds: link.repairs.rounds,
            repaired_sessions: link.repairs.told,
        };
        match peers.iter_mut().find(|peer| peer.route == link.route) {
            Some(peer) => peer.add(&link),
            None => peers.push(link),
        }
    }
    peers.sort_by(|a, b| a.route.cmp(&b.route));
    peers
}

fn ready(duty: Duty) -> HttpResponse {
    match duty {
        Duty::Serving => HttpResponse::Ok().body("ready\n"),
        Duty::Starting => HttpResponse::ServiceUnavailable().body("starting"),
        Duty::Draining => HttpResponse::ServiceUnavailable().body("draining"),
    }
}

/// Whether a front has passed a request on. Its clients are not this machine, although its connection comes from here.
fn was_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

/// Whether the node was called by its address. A foreign page whose own name was made to lead here (DNS rebinding) may
/// send any header, but not another `Host`.
fn names_an_address(headers: &HeaderMap) -> bool {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).is_some_and(host_is_local)
}

/// `own` is where this node is reached: who connects to that from the same machine comes from the same address. On a socket
/// of both families an IPv4 address is a mapped one.
fn is_ours(peer: IpAddr, own: SocketAddr, roster: &Roster) -> bool {
    let peer = peer.to_canonical();
    let is_balancer =
        |ip| roster.members.iter().any(|member| member.role == Role::Balancer && member.address.ip() == ip);
    peer.is_loopback() || peer == own.ip() || is_balancer(peer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        names::NodeId,
        replication::{Carried, Repairs},
    };

    fn link(route: &str, [in_sync, complete, is_heard]: [bool; 3], lag: u64) -> LinkReport {
        LinkReport {
            peer: NodeId(1),
            route: route.parse().unwrap(),
            in_sync,
            complete,
            is_heard,
            lag: Duration::from_millis(lag),
            in_flight: 2,
            queued_bytes: 10,
            traffic: Carried { sent: 100, received: 7 },
            repairs: Repairs { rounds: 2, told: 30 },
        }
    }

    #[test]
    fn a_peer_is_in_sync_when_all_its_links_are_and_it_answers() {
        let well = [true; 3];
        for ill in [[false, true, true], [true, false, true], [true, true, false]] {
            let report = peers(&[link("r3", well, 0), link("r2", well, 4), link("r2", ill, 1)]);
            let seen: Vec<_> = report.iter().map(|peer| (peer.route.as_str(), peer.in_sync, peer.lag_ms)).collect();
            assert_eq!(seen, [("r2", false, 4), ("r3", true, 0)]);
        }
        let report = peers(&[link("r2", well, 4), link("r2", well, 1)]);
        let PeerReport { queued, queued_bytes, sent_bytes, received_bytes, .. } = report[0];
        assert_eq!((queued, queued_bytes, sent_bytes, received_bytes), (4, 20, 200, 14), "of all links together");
        assert_eq!((report[0].repair_rounds, report[0].repaired_sessions), (4, 60));
    }

    #[test]
    fn only_our_own_paths_are_taken_from_the_webapps() {
        assert_eq!(asked("/health"), Some(Asked::Health));
        assert_eq!(asked("/.tasuki/nonsense"), Some(Asked::Nothing));
        assert_eq!(asked("/healthy"), None);
        assert_eq!(asked("/.tasukix"), None);
    }

    #[test]
    fn a_front_on_this_machine_does_not_lend_its_place_to_its_clients() {
        let request = actix_web::test::TestRequest::default();
        assert!(!was_forwarded(request.to_http_request().headers()));
        let request = actix_web::test::TestRequest::default().insert_header(("X-Forwarded-For", "192.0.2.1"));
        assert!(was_forwarded(request.to_http_request().headers()));
    }

    #[test]
    fn a_foreign_name_that_leads_here_gives_no_orders() {
        let named = |host| {
            let request = actix_web::test::TestRequest::default().insert_header((header::HOST, host));
            names_an_address(request.to_http_request().headers())
        };
        for host in ["127.0.0.1:18080", "[::1]:18080", "192.0.2.7", "localhost:18080", "localhost"] {
            assert!(named(host), "{host}");
        }
        for host in ["evil.example:18080", "127.0.0.1.evil.example", "localhost.evil.example:1", ""] {
            assert!(!named(host), "{host}");
        }
    }

    #[test]
    fn strangers_give_no_orders() {
        let role = Role::Balancer;
        let balancer = membership::Member { id: NodeId(1), address: ([192, 0, 2, 3], 4100).into(), role };
        let roster = Roster { members: vec![balancer], discovered: true };
        let is_ours = |peer: &str| is_ours(peer.parse().unwrap(), ([192, 0, 2, 2], 18080).into(), &roster);
        for peer in ["127.0.0.9", "::ffff:127.0.0.1", "::1", "192.0.2.2", "192.0.2.3", "::ffff:192.0.2.3"] {
            assert!(is_ours(peer), "{peer}");
        }
        assert!(!is_ours("192.0.2.1") && !is_ours("::ffff:192.0.2.1"));
    }
}
