//! The manager: a page for people, JSON for programs, and what an administrator sets of a member.
//!
//! Open to the addresses of `balancer.manager.allow` only: the peer of the connection counts, never a header, and a
//! request that says it came through a proxy is refused, for its peer is not who asks. What changes something is a POST:
//! from a program with `Tasuki-Control: 1`, which a browser sends to another site only after asking it, and this one says
//! no; from a form of the page with the marks that `guard` looks at.

mod page;
mod report;

use std::{net::SocketAddr, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode},
    web::Payload,
};
use bytes::Bytes;
use serde::Serialize;

use super::{
    actor::{Done, DutyAccepted, SetMember},
    client::Scheme,
    control::{self, Silence},
    headers,
    orders::Change,
    pages::{self, Refusal},
    view::Member,
    worker::Worker,
};
use crate::{
    limits,
    membership::Duty,
    names::{Route, host_is_local},
    observe::Admin,
};

/// What a POST asks of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Set(Change),
    Restart,
}

/// What a request to the manager asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish<'a> {
    Page,
    /// Everything that the page shows.
    Report,
    /// A form of the page.
    Form,
    Status,
    Members,
    /// Which life of a node's process answers.
    Life(&'a str),
    Order(&'a str, Order),
    /// Another process in place of this balancer's.
    RestartBalancer,
    /// What has become of that.
    Restart,
    /// An order with a value that it cannot have.
    BadValue(&'static str),
    /// A GET where a POST belongs, or the other way round.
    WrongMethod,
    Unknown,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is carried out, or, with a warning, will be or will not last.
    Done { warning: Option<String> },
    /// A node is asked to restart, and this is its answer.
    Asked(serde_json::Value),
    /// There is no such member.
    NoMember,
    /// The node did not do it.
    Refused(String),
}

/// What is to be told a node that an order is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Drain,
    Serve,
    Nothing,
}

#[derive(Serialize)]
struct Accepted<'a> {
    accepted: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl Order {
    /// By its word and its value, as the paths of the API have them.
    fn read(word: &str, value: Option<&str>) -> Result<Option<Self>, &'static str> {
        Ok(Some(Self::Set(match (word, value) {
            ("drain", None) => Change::Duty(Admin::Drained),
            ("disable", None) => Change::Duty(Admin::Disabled),
            ("resume", None) => Change::Duty(Admin::Enabled),
            ("reset", None) => Change::AsInFile,
            ("restart", None) => return Ok(Some(Self::Restart)),
            ("weight", Some(weight)) => match weight.parse() {
                Ok(weight @ 1..=100) => Change::Weight(weight),
                _ => return Err("a weight is a number from 1 to 100"),
            },
            ("standby", Some("on")) => Change::Standby(true),
            ("standby", Some("off")) => Change::Standby(false),
            ("standby", Some(_)) => return Err("standby is on or off"),
            _ => return Ok(None),
        })))
    }

    fn word(self) -> Word {
        match self {
            Self::Set(Change::Duty(Admin::Drained | Admin::Disabled)) => Word::Drain,
            Self::Set(Change::Duty(Admin::Enabled) | Change::AsInFile) => Word::Serve,
            Self::Set(Change::Weight(_) | Change::Standby(_)) | Self::Restart => Word::Nothing,
        }
    }
}

/// Answers everything at and below the manager's path.
///
/// # Errors
/// 403 for a client that may not open it.
pub(crate) async fn answer(worker: &Worker, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Refusal> {
    if !may_open(worker, request) {
        return Err(Refusal::Forbidden);
    }
    let path = request.uri().path();
    let Some(below) = path.strip_prefix(worker.rules.manager.path.trim_end_matches('/')) else {
        return Err(Refusal::NotFound);
    };
    let query = request.query_string();
    Ok(match wish(request.method(), below, query) {
        Wish::Page => page::shown(worker, Scheme::of(request), StatusCode::OK, page::note(query)).await,
        Wish::Report => json(StatusCode::OK, &report::everything(worker).await),
        Wish::Form => page::form(worker, request, payload).await,
        Wish::Status => json(StatusCode::OK, &report::status(worker).await),
        Wish::Members => json(StatusCode::OK, &worker.report()),
        Wish::Life(route) => match named(worker, route) {
            Some(member) => {
                relayed(&member.route, ask(member.address, hyper::Method::GET, "/.tasuki/life", None).await)
            }
            None => no_member(worker, route),
        },
        Wish::Order(..) | Wish::RestartBalancer
            if request.headers().get("tasuki-control").is_none_or(|value| value != "1") =>
        {
            failure(StatusCode::FORBIDDEN, "the header Tasuki-Control: 1 is missing")
        }
        Wish::Order(route, order) => answered(worker, route, carry_out(worker, route, order).await),
        Wish::BadValue(why) => failure(StatusCode::BAD_REQUEST, why),
        Wish::RestartBalancer => {
            worker.rules.departure.ask_for_restart();
            json(StatusCode::ACCEPTED, &process(worker))
        }
        Wish::Restart => json(StatusCode::OK, &process(worker)),
        Wish::WrongMethod => {
            failure(StatusCode::METHOD_NOT_ALLOWED, "what changes something is a POST, all else a GET")
        }
        Wish::Unknown => failure(StatusCode::NOT_FOUND, "there is nothing here"),
    })
}

fn may_open(worker: &Worker, request: &HttpRequest) -> bool {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let allowed = peer.is_some_and(|peer| worker.rules.manager.allow.iter().any(|net| net.contains(&peer)));
    allowed && headers::named_host(request).is_some_and(host_is_local) && !headers::came_through_a_proxy(request)
}

fn wish<'a>(method: &Method, below: &'a str, query: &str) -> Wish<'a> {
    let reading = matches!(*method, Method::GET | Method::HEAD);
    let page = match below {
        "" | "/" if *method == Method::POST => return Wish::Form,
        "" | "/" if query == "json" => Some(Wish::Report),
        "" | "/" => Some(Wish::Page),
        "/json" => Some(Wish::Report),
        "/status.json" => Some(Wish::Status),
        "/members.json" => Some(Wish::Members),
        _ => None,
    };
    if let Some(wish) = page {
        return if reading { wish } else { Wish::WrongMethod };
    }
    if below == "/restart" {
        return match *method {
            Method::POST => Wish::RestartBalancer,
            _ if reading => Wish::Restart,
            _ => Wish::WrongMethod,
        };
    }
    let parts = below.strip_prefix("/members/").and_then(|rest| rest.split_once('/'));
    if let Some((route, "life")) = parts {
        return if reading { Wish::Life(route) } else { Wish::WrongMethod };
    }
    let Some((route, words)) = parts else { return Wish::Unknown };
    let (word, value) = words.split_once('/').map_or((words, None), |(word, value)| (word, Some(value)));
    match Order::read(word, value) {
        Ok(None) => Wish::Unknown,
        _ if *method != Method::POST => Wish::WrongMethod,
        Ok(Some(order)) => Wish::Order(route, order),
        Err(why) => Wish::BadValue(why),
    }
}

/// Which process answers, and why it is still this one if another was asked for in vain.
fn process(worker: &Worker) -> serde_json::Value {
    serde_json::json!({ "pid": std::process::id(), "refused": worker.rules.departure.refusal() })
}

async fn carry_out(worker: &Worker, route: &str, order: Order) -> Outcome {
    let Some(member) = named(worker, route) else { return Outcome::NoMember };
    let change = match order {
        Order::Set(change) => change,
        Order::Restart => return restart(worker, &member).await,
    };
    let route = member.route.clone();
    let mut warning = match worker.balancer.send(SetMember { route, change }).await {
        Ok(Done::Kept) => None,
        Ok(Done::NotKept(why)) => Some(format!("it holds until the balancer ends: {why}")),
        Ok(Done::NoMember) => return Outcome::NoMember,
        Err(_) => return Outcome::Refused("the balancer is about to end".into()),
    };
    let (word, duty) = match order.word() {
        Word::Drain => (Word::Drain, Duty::Draining),
        Word::Serve => (Word::Serve, Duty::Serving),
        Word::Nothing => return Outcome::Done { warning },
    };
    // What is no node, or serves already, is not told to: the balancer's own word is enough.
    if !member.is_node || word == Word::Serve && member.duty != Duty::Draining && member.admin == Admin::Enabled {
        return Outcome::Done { warning };
    }
    let refused = match control::tell_duty(member.address, duty).await {
        Ok((status, _)) if status.is_success() => {
            worker.balancer.do_send(DutyAccepted { route: member.route.clone(), duty });
            return Outcome::Done { warning };
        }
        Ok((status, _)) => format!("{} answered {status}", member.route),
        Err(silence) => format!("{} {silence}", member.route),
    };
    if word == Word::Serve {
        return Outcome::Refused(refused);
    }
    // This balancer sends it nothing from now on, whatever it says, and tells it as soon as it answers.
    warning.get_or_insert(format!("{refused}; it gets no request, and is told as soon as it answers"));
    Outcome::Done { warning }
}

async fn restart(worker: &Worker, member: &Member) -> Outcome {
    match ask(member.address, hyper::Method::POST, "/.tasuki/restart", None).await {
        Ok((status, body)) if status.is_success() => {
            tracing::info!(route = %member.route, "restart accepted");
            // It begins with a drain.
            worker.balancer.do_send(DutyAccepted { route: member.route.clone(), duty: Duty::Draining });
            let said = serde_json::from_slice(&body);
            Outcome::Asked(said.unwrap_or_else(|_| serde_json::json!({ "accepted": member.route })))
        }
        Ok((status, _)) => Outcome::Refused(format!("{} answered {status}", member.route)),
        Err(silence) => Outcome::Refused(format!("{} {silence}", member.route)),
    }
}

/// What a program is told of an order.
fn answered(worker: &Worker, route: &str, outcome: Outcome) -> HttpResponse {
    match outcome {
        Outcome::Done { warning } => json(StatusCode::ACCEPTED, &Accepted { accepted: route, warning }),
        Outcome::Asked(said) => json(StatusCode::ACCEPTED, &said),
        Outcome::NoMember => no_member(worker, route),
        Outcome::Refused(why) => failure(StatusCode::BAD_GATEWAY, &why),
    }
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

/// What a node answered to a question, with its own JSON if it gave any.
fn relayed(route: &Route, answer: Result<(hyper::StatusCode, Bytes), Silence>) -> HttpResponse {
    match answer {
        Ok((status, body)) if status.is_success() => {
            let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            json(StatusCode::OK, &said)
        }
        Ok((status, _)) => failure(StatusCode::BAD_GATEWAY, &format!("{route} answered {status}")),
        Err(silence) => failure(StatusCode::BAD_GATEWAY, &format!("{route} {silence}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Order = Order::Set(Change::Duty(Admin::Drained));

    fn set(change: Change) -> Wish<'static> {
        Wish::Order("r1", Order::Set(change))
    }

    #[test]
    fn reading_is_a_get_and_changing_is_a_post() {
        assert_eq!(wish_of(&Method::GET, ""), Wish::Page);
        assert_eq!(wish_of(&Method::HEAD, "/"), Wish::Page);
        assert_eq!(wish_of(&Method::GET, "/status.json"), Wish::Status);
        assert_eq!(wish_of(&Method::POST, "/status.json"), Wish::WrongMethod);
        assert_eq!(wish_of(&Method::POST, "/members/r1/drain"), Wish::Order("r1", DRAIN));
        assert_eq!(wish_of(&Method::POST, "/members/r1/disable"), set(Change::Duty(Admin::Disabled)));
        assert_eq!(wish_of(&Method::POST, "/members/r1/resume"), set(Change::Duty(Admin::Enabled)));
        assert_eq!(wish_of(&Method::POST, "/members/r1/reset"), set(Change::AsInFile));
        assert_eq!(wish_of(&Method::POST, "/members/r1/weight/7"), set(Change::Weight(7)));
        assert_eq!(wish_of(&Method::POST, "/members/r1/standby/on"), set(Change::Standby(true)));
        assert_eq!(wish_of(&Method::POST, "/members/r1/restart"), Wish::Order("r1", Order::Restart));
        assert_eq!(wish_of(&Method::POST, "/restart"), Wish::RestartBalancer);
        assert_eq!(wish_of(&Method::GET, "/restart"), Wish::Restart);
        assert_eq!(wish_of(&Method::DELETE, "/restart"), Wish::WrongMethod);
        assert_eq!(wish_of(&Method::GET, "/members/r1/drain"), Wish::WrongMethod);
        for bad in ["weight/0", "weight/101", "weight/x", "weight/", "standby/yes"] {
            let path = format!("/members/r1/{bad}");
            assert!(matches!(wish_of(&Method::POST, &path), Wish::BadValue(_)), "{bad}");
            assert!(!matches!(wish_of(&Method::GET, &path), Wish::Order(..)), "{bad}");
        }
        assert_eq!(wish_of(&Method::GET, "/members/r1/weight/7"), Wish::WrongMethod);
        for unknown in
            ["/x", "/members", "/members/r1", "/members/r1/kill", "/members/r1/drain/x", "/members/r1/weight"]
        {
            assert_eq!(wish_of(&Method::POST, unknown), Wish::Unknown, "{unknown}");
        }
    }

    fn wish_of<'a>(method: &Method, below: &'a str) -> Wish<'a> {
        wish(method, below, "")
    }

    #[test]
    fn what_the_page_shows_is_json_too_and_its_forms_are_posts() {
        assert_eq!(wish(&Method::GET, "", "json"), Wish::Report);
        assert_eq!(wish(&Method::GET, "/json", ""), Wish::Report);
        assert_eq!(wish(&Method::GET, "", "done=drain&route=r1"), Wish::Page);
        assert_eq!(wish(&Method::POST, "", ""), Wish::Form);
        assert_eq!(wish(&Method::POST, "/json", ""), Wish::WrongMethod);
    }
}
