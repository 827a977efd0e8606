//! The manager: a page for people, JSON for programs, and three words to a node: drain, resume, restart.
//!
//! Open to the addresses of `balancer.manager.allow` only: the peer of the connection counts, never a header, and a
//! request that says it came through a proxy is refused, for its peer is not who asks. What changes something is a POST
//! with `Tasuki-Control: 1`, which a browser sends to another site only after asking it, and this one says no.

use std::{net::SocketAddr, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header::HOST},
};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;

use super::{
    actor::DutyAccepted,
    control::{self, Silence},
    headers, pages,
    pages::Refusal,
    view::{Member, Standing, View},
    worker::Worker,
};
use crate::{
    limits,
    membership::Duty,
    names::{Route, host_is_local},
    observe::{BalancerReport, NodeReport, NodeState, SessionCounts, StatusReport},
};

const PAGE: &str = include_str!("manager.html");

/// What a POST asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Duty(Duty),
    Restart,
}

/// What a request to the manager asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish<'a> {
    Page,
    Status,
    Members,
    /// Which life of a node's process answers.
    Life(&'a str),
    Order(&'a str, Order),
    /// A GET where a POST belongs, or the other way round.
    WrongMethod,
    Unknown,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

impl Order {
    /// What a node wants that has accepted it: one that restarts begins with a drain.
    fn duty(self) -> Duty {
        match self {
            Self::Duty(duty) => duty,
            Self::Restart => Duty::Draining,
        }
    }
}

/// Answers everything at and below the manager's path.
///
/// # Errors
/// 403 for a client that may not open it.
pub(crate) async fn answer(worker: &Worker, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    if !may_open(worker, request) {
        return Err(Refusal::Forbidden);
    }
    let path = request.uri().path();
    let Some(below) = path.strip_prefix(worker.rules.manager.path.trim_end_matches('/')) else {
        return Err(Refusal::NotFound);
    };
    Ok(match wish(request.method(), below) {
        Wish::Page => page(&worker.rules.manager.path),
        Wish::Status => json(StatusCode::OK, &status(worker).await),
        Wish::Members => json(StatusCode::OK, &worker.report()),
        Wish::Life(route) => match named(worker, route) {
            Some(member) => {
                relayed(&member.route, ask(member.address, hyper::Method::GET, "/.tasuki/life", None).await)
            }
            None => no_member(worker, route),
        },
        Wish::Order(..) if request.headers().get("tasuki-control").is_none_or(|value| value != "1") => {
            failure(StatusCode::FORBIDDEN, "the header Tasuki-Control: 1 is missing")
        }
        Wish::Order(route, order) => carry_out(worker, route, order).await,
        Wish::WrongMethod => {
            failure(StatusCode::METHOD_NOT_ALLOWED, "what changes something is a POST, all else a GET")
        }
        Wish::Unknown => failure(StatusCode::NOT_FOUND, "there is nothing here"),
    })
}

fn may_open(worker: &Worker, request: &HttpRequest) -> bool {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let allowed = peer.is_some_and(|peer| worker.rules.manager.allow.iter().any(|net| net.contains(&peer)));
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let named = request.uri().authority().map(|authority| authority.as_str()).or(host);
    allowed && named.is_some_and(host_is_local) && !headers::came_through_a_proxy(request)
}

fn wish<'a>(method: &Method, below: &'a str) -> Wish<'a> {
    let reading = matches!(*method, Method::GET | Method::HEAD);
    let page = match below {
        "" | "/" => Some(Wish::Page),
        "/status.json" => Some(Wish::Status),
        "/members.json" => Some(Wish::Members),
        _ => None,
    };
    if let Some(wish) = page {
        return if reading { wish } else { Wish::WrongMethod };
    }
    let order = |verb| match verb {
        "drain" => Some(Order::Duty(Duty::Draining)),
        "resume" => Some(Order::Duty(Duty::Serving)),
        "restart" => Some(Order::Restart),
        _ => None,
    };
    let parts = below.strip_prefix("/members/").and_then(|rest| rest.split_once('/'));
    if let Some((route, "life")) = parts {
        return if reading { Wish::Life(route) } else { Wish::WrongMethod };
    }
    match parts.and_then(|(route, verb)| Some((route, order(verb)?))) {
        Some((route, order)) if *method == Method::POST => Wish::Order(route, order),
        Some(_) => Wish::WrongMethod,
        None => Wish::Unknown,
    }
}

async fn carry_out(worker: &Worker, route: &str, order: Order) -> HttpResponse {
    let Some(member) = named(worker, route) else { return no_member(worker, route) };
    let answer = match order {
        Order::Duty(duty) => {
            let wanted = serde_json::json!({ "duty": duty }).to_string();
            ask(member.address, hyper::Method::POST, "/.tasuki/duty", Some(wanted)).await
        }
        Order::Restart => ask(member.address, hyper::Method::POST, "/.tasuki/restart", None).await,
    };
    if answer.as_ref().is_ok_and(|(status, _)| status.is_success()) {
        tracing::info!(route = %member.route, ?order, "order accepted");
        worker.balancer.do_send(DutyAccepted { route: member.route.clone(), duty: order.duty() });
    }
    relayed(&member.route, answer)
}

/// 404 with the routes that there are. A route that is none is not repeated: it comes from outside.
fn no_member(worker: &Worker, route: &str) -> HttpResponse {
    let asked = route.parse::<Route>().map_or("this name".to_owned(), |route| route.to_string());
    let view = worker.rules.published.view();
    let known: Vec<&str> = view.members.iter().map(|member| member.route.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    failure(StatusCode::NOT_FOUND, &format!("no member has the route {asked}; those there are: {known}"))
}

fn named(worker: &Worker, route: &str) -> Option<Arc<Member>> {
    let route = route.parse::<Route>().ok()?;
    worker.rules.published.view().named(route.as_str()).cloned()
}

async fn ask(
    member: SocketAddr,
    method: hyper::Method,
    path: &str,
    json: Option<String>,
) -> Result<(hyper::StatusCode, Bytes), Silence> {
    control::ask(member, method, path, json, limits::CONTROL_TIMEOUT).await
}

/// What a node answered to an order or a question, with its own JSON if it gave any.
fn relayed(route: &Route, answer: Result<(hyper::StatusCode, Bytes), Silence>) -> HttpResponse {
    match answer {
        Ok((status, body)) if status.is_success() => {
            let said = serde_json::from_slice(&body).unwrap_or_else(|_| serde_json::json!({ "accepted": route }));
            json(if status == hyper::StatusCode::OK { StatusCode::OK } else { StatusCode::ACCEPTED }, &said)
        }
        Ok((status, _)) => failure(StatusCode::BAD_GATEWAY, &format!("{route} answered {status}")),
        Err(silence) => failure(StatusCode::BAD_GATEWAY, &format!("{route} {silence}")),
    }
}

/// Asks every member at once; who does not answer in time is listed with what the balancer knows.
async fn status(worker: &Worker) -> StatusReport {
    let view: &View = &worker.rules.published.view();
    let balancer = BalancerReport {
        listen: worker.rules.listen,
        pid: std::process::id(),
        refusals: worker.rules.refusals.report(),
    };
    StatusReport { balancer, nodes: join_all(view.members.iter().map(|member| report(member))).await }
}

async fn report(member: &Member) -> NodeReport {
    let path = "/.tasuki/status";
    let asked = control::ask(member.address, hyper::Method::GET, path, None, limits::STATUS_TIMEOUT).await;
    let silent = asked.is_err();
    let said = asked.ok().and_then(|(_, body)| serde_json::from_slice::<NodeReport>(&body).ok());
    let mut report = said.unwrap_or_else(|| known(member, silent));
    // Under this route the balancer knows it, and nothing a node says may put it under another.
    report.route = member.route.clone();
    report.state = usable_state(report.state, member.standing);
    report
}

/// A node counts as ready when this balancer uses it too: a rolling restart waits for that before the next one.
fn usable_state(said: NodeState, standing: Standing) -> NodeState {
    match (said, standing) {
        (NodeState::Ready, Standing::Coming) => NodeState::Starting,
        (NodeState::Ready, Standing::Failed) => NodeState::Failed,
        (said, _) => said,
    }
}

/// What is known of a member that does not say anything of itself. One that answers all the same is no tasuki node.
fn known(member: &Member, silent: bool) -> NodeReport {
    let state = match member.standing {
        _ if silent => NodeState::Failed,
        Standing::Failed => NodeState::Failed,
        Standing::Coming => NodeState::Starting,
        Standing::Usable | Standing::Draining => NodeState::Ready,
    };
    NodeReport {
        route: member.route.clone(),
        pid: None,
        http: member.address,
        state,
        duty: member.duty,
        sessions: SessionCounts::default(),
        peers: Vec::new(),
        writes_refused: 0,
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    let mut response = HttpResponse::build(status);
    pages::harden(&mut response);
    response.insert_header(("content-security-policy", "default-src 'none'; frame-ancestors 'none'")).json(body)
}

fn failure(status: StatusCode, error: &str) -> HttpResponse {
    json(status, &Failure { error })
}

/// The page, with a fresh nonce for its style and its script.
fn page(path: &str) -> HttpResponse {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the operating system gives no random bytes");
    }
    let nonce: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    );
    let base = serde_json::to_string(path.trim_end_matches('/')).unwrap_or_default().replace('<', "\\u003c");
    let mut response = HttpResponse::Ok();
    pages::harden(&mut response);
    response
        .insert_header(("content-type", "text/html; charset=utf-8"))
        .insert_header(("content-security-policy", policy))
        .body(PAGE.replace("{{nonce}}", &nonce).replace("\"{{base}}\"", &base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_a_get_and_changing_is_a_post() {
        assert_eq!(wish(&Method::GET, ""), Wish::Page);
        assert_eq!(wish(&Method::HEAD, "/"), Wish::Page);
        assert_eq!(wish(&Method::GET, "/status.json"), Wish::Status);
        assert_eq!(wish(&Method::POST, "/status.json"), Wish::WrongMethod);
        assert_eq!(wish(&Method::POST, "/members/r1/drain"), Wish::Order("r1", Order::Duty(Duty::Draining)));
        assert_eq!(wish(&Method::POST, "/members/r1/resume"), Wish::Order("r1", Order::Duty(Duty::Serving)));
        assert_eq!(wish(&Method::POST, "/members/r1/restart"), Wish::Order("r1", Order::Restart));
        assert_eq!(wish(&Method::GET, "/members/r1/drain"), Wish::WrongMethod);
        for unknown in ["/x", "/members", "/members/r1", "/members/r1/kill", "/members/r1/drain/x"] {
            assert_eq!(wish(&Method::POST, unknown), Wish::Unknown, "{unknown}");
        }
    }

    #[test]
    fn a_node_is_ready_when_the_balancer_uses_it_too() {
        assert_eq!(usable_state(NodeState::Ready, Standing::Coming), NodeState::Starting);
        assert_eq!(usable_state(NodeState::Ready, Standing::Usable), NodeState::Ready);
        assert_eq!(usable_state(NodeState::Stopping, Standing::Usable), NodeState::Stopping);
        assert_eq!(usable_state(NodeState::Failed, Standing::Usable), NodeState::Failed);
    }

    #[test]
    fn every_style_and_script_of_the_page_has_the_nonce() {
        let page = page("/balancer-manager");
        let policy = page.headers().get("content-security-policy").unwrap().to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
        assert_eq!(PAGE.matches("<style").count(), PAGE.matches("<style nonce=\"{{nonce}}\"").count());
        assert_eq!(PAGE.matches("<script").count(), PAGE.matches("<script nonce=\"{{nonce}}\"").count());
        assert!(!PAGE.contains("http://") && !PAGE.contains("https://"), "external resource");
        assert!(!PAGE.contains(" style=") && !PAGE.contains("innerHTML"), "blocked by the policy, or unsafe");
    }
}
