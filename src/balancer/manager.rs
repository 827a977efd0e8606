//! The manager: a page for people, JSON for programs, and what an administrator sets of a member.
//!
//! Open to the addresses of `balancer.manager.allow` only: the peer of the connection counts, never a header, and a
//! request that says it came through a proxy is refused, for its peer is not who asks. What changes something is a POST:
//! from a program with `Tasuki-Control: 1`, which a browser sends to another site only after asking it, and this one says
//! no; from a form of the page with the marks that `guard` looks at.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, LOCATION, REFERRER_POLICY},
    },
    web::{Payload, Query},
};
use bytes::Bytes;
use futures_util::future::join_all;
use minijinja::{Environment, context, value::Serde};
use serde::{Deserialize, Serialize};

use super::{
    actor::{Done, DutyAccepted, SetMember},
    control::{self, Silence},
    guard::{self, Strange},
    headers,
    orders::Change,
    pages::{self, Refusal},
    view::{Member, MemberReport, Standing, View},
    worker::Worker,
};
use crate::{
    limits,
    membership::Duty,
    names::{Route, host_is_local},
    observe::{Admin, BalancerReport, NodeReport, NodeState, PeerReport, SessionCounts, StatusReport, Terms},
    time::Moment,
};

/// The page without its members, compiled once.
static PAGE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.add_template(TEMPLATE, include_str!("manager.html")).expect("our own page is a template");
    pages
});

/// Its ending has the page's values escaped.
const TEMPLATE: &str = "manager.html";

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

/// What `json` and `?json` answer. A stable interface: fields are only added.
#[derive(Serialize)]
struct Report {
    balancer: BalancerReport,
    /// The clock of this machine, in milliseconds, for rates between two reports. It has no meaning of its own.
    at_ms: u64,
    members: Vec<ReportedMember>,
}

/// A member: what the balancer counts, and what the node says of itself.
#[derive(Serialize)]
struct ReportedMember {
    #[serde(flatten)]
    counted: MemberReport,
    state: NodeState,
    pid: Option<u32>,
    /// None for a member that does not say; one that is no tasuki node never does.
    sessions: Option<SessionCounts>,
    staying: usize,
    peers: Vec<PeerReport>,
    /// Age of the oldest write that a peer has not acknowledged.
    lag_ms: u64,
}

/// A form of the page, as it is sent.
#[derive(Deserialize)]
struct Form {
    nonce: String,
    route: String,
    /// As in the paths of the API: `drain`, `standby/on`.
    order: String,
    /// Of the order `weight`.
    weight: Option<String>,
}

/// What the page says of the last form.
#[derive(Default, Serialize)]
struct Note {
    text: String,
    is_bad: bool,
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
        Wish::Page => page(worker, StatusCode::OK, note(query)).await,
        Wish::Report => json(StatusCode::OK, &everything(worker).await),
        Wish::Form => form(worker, request, payload).await,
        Wish::Status => json(StatusCode::OK, &status(worker).await),
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
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let named = request.uri().authority().map(|authority| authority.as_str()).or(host);
    allowed && named.is_some_and(host_is_local) && !headers::came_through_a_proxy(request)
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

/// Asks every member at once; who does not answer in time is listed with what the balancer knows.
async fn status(worker: &Worker) -> StatusReport {
    let view: &View = &worker.rules.published.view();
    let balancer = balancer(worker);
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
    let Member { admin, weight, standby, ref differs, .. } = *member;
    report.terms = Terms { admin, weight, standby, differs: differs.clone() };
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
        Standing::Usable | Standing::Draining | Standing::Disabled => NodeState::Ready,
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
        staying: 0,
        terms: Terms::default(),
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

fn balancer(worker: &Worker) -> BalancerReport {
    let rules = &worker.rules;
    let warnings = rules.certificate.as_ref().and_then(|shown| shown.warning()).into_iter().collect();
    BalancerReport { listen: rules.listen, pid: std::process::id(), refusals: rules.refusals.report(), warnings }
}

/// What the page shows: the balancer's counts beside what each node says.
async fn everything(worker: &Worker) -> Report {
    let view: &View = &worker.rules.published.view();
    let nodes = join_all(view.members.iter().map(|member| report(member))).await;
    let members = view.report(Moment::now()).into_iter().zip(nodes).map(|(counted, node)| ReportedMember {
        counted,
        state: node.state,
        sessions: node.pid.map(|_| node.sessions),
        pid: node.pid,
        staying: node.staying,
        lag_ms: node.peers.iter().map(|peer| peer.lag_ms).max().unwrap_or(0),
        peers: node.peers,
    });
    let balancer = balancer(worker);
    Report { balancer, at_ms: Moment::now().0, members: members.collect() }
}

/// Carries out what a form asks for. Its own script reads JSON; without one the page is shown again, and a reload of that
/// sends nothing twice.
async fn form(worker: &Worker, request: &HttpRequest, payload: Payload) -> HttpResponse {
    let wants_json = request.headers().get(ACCEPT).is_some_and(|accept| accept == "application/json");
    let refuse = async |status: StatusCode, why: &str| match wants_json {
        true => failure(status, why),
        false => page(worker, status, Note { text: why.to_owned(), is_bad: true }).await,
    };
    let body = payload.to_bytes_limited(limits::CONTROL_BYTES).await;
    let text = body.ok().and_then(Result::ok).and_then(|body| String::from_utf8(body.to_vec()).ok());
    let form = text.and_then(|text| Some(Query::<Form>::from_query(&text).ok()?.into_inner()));
    let Some(Form { nonce, route, order, weight }) = form else {
        return refuse(StatusCode::BAD_REQUEST, "this form cannot be read").await;
    };
    let admitted = guard::keys().ok_or(Strange::OutOfDate).and_then(|keys| keys.admit(request, &nonce));
    if let Err(strange) = admitted {
        return refuse(StatusCode::FORBIDDEN, &strange.to_string()).await;
    }
    let value = weight.filter(|_| order == "weight");
    let (word, value) = match &value {
        Some(weight) => (&order[..], Some(weight.trim())),
        None => order.split_once('/').map_or((&order[..], None), |(word, value)| (word, Some(value))),
    };
    let order = match Order::read(word, value) {
        Ok(Some(order)) => order,
        Ok(None) => return refuse(StatusCode::BAD_REQUEST, "there is no such order").await,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why).await,
    };
    let outcome = carry_out(worker, &route, order).await;
    if wants_json {
        return answered(worker, &route, outcome);
    }
    match outcome {
        Outcome::Done { warning: None } | Outcome::Asked(_) => {
            let path = worker.rules.manager.path.trim_end_matches('/');
            let place = format!("{path}/?done={word}&route={route}");
            let mut response = HttpResponse::SeeOther();
            pages::harden(&mut response);
            response.insert_header((LOCATION, place)).finish()
        }
        Outcome::Done { warning: Some(warning) } => {
            page(worker, StatusCode::OK, Note { text: format!("{route}: {warning}"), is_bad: true }).await
        }
        Outcome::NoMember => refuse(StatusCode::NOT_FOUND, "there is no such member any more").await,
        Outcome::Refused(why) => refuse(StatusCode::BAD_GATEWAY, &why).await,
    }
}

/// What the page says after a form, by the address it was sent on to. Anybody may have made that address, so it says
/// only that a known order was accepted for something that is a route.
fn note(query: &str) -> Note {
    #[derive(Deserialize)]
    struct Of {
        done: String,
        route: Route,
    }
    let Ok(of) = Query::<Of>::from_query(query) else { return Note::default() };
    let Of { done, route } = of.into_inner();
    let what = match &done[..] {
        "drain" => "drains",
        "disable" => "is disabled",
        "resume" => "serves again",
        "reset" => "is as the file says",
        "restart" => "restarts",
        "weight" => "has another weight",
        "standby" => "has another standby state",
        _ => return Note::default(),
    };
    Note { text: format!("{route} {what}"), is_bad: false }
}

/// The page, with a fresh nonce for its style and its script.
async fn page(worker: &Worker, status: StatusCode, note: Note) -> HttpResponse {
    rendered(&worker.rules.manager.path, status, &note, &everything(worker).await)
}

fn rendered(path: &str, status: StatusCode, note: &Note, report: &Report) -> HttpResponse {
    let (Some(keys), Some(nonce)) = (guard::keys(), guard::draw()) else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the operating system gives no random bytes");
    };
    let base = path.trim_end_matches('/');
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    );
    let (note, report) = (Serde(note), Serde(report));
    let context = context! { nonce, base, form_nonce => keys.nonce.clone(), note, report };
    let page = match PAGE.get_template(TEMPLATE).and_then(|page| page.render(context)) {
        Ok(page) => page,
        Err(error) => {
            tracing::error!("the manager's page: {error:#}");
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made: this is a fault of tasuki");
        }
    };
    let mut response = HttpResponse::build(status);
    pages::harden(&mut response);
    response
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        // Without a referrer a browser would send its forms with `Origin: null`.
        .insert_header((REFERRER_POLICY, "same-origin"))
        .cookie(keys.cookie(path))
        .body(page)
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::{
        super::{
            orders::{InFile, Set},
            view::tests::usable,
        },
        *,
    };

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

    #[test]
    fn a_node_is_ready_when_the_balancer_uses_it_too() {
        assert_eq!(usable_state(NodeState::Ready, Standing::Coming), NodeState::Starting);
        assert_eq!(usable_state(NodeState::Ready, Standing::Usable), NodeState::Ready);
        assert_eq!(usable_state(NodeState::Stopping, Standing::Usable), NodeState::Stopping);
        assert_eq!(usable_state(NodeState::Failed, Standing::Usable), NodeState::Failed);
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

    #[test]
    fn an_address_that_somebody_made_says_nothing_of_its_own() {
        assert_eq!(note("done=drain&route=r1").text, "r1 drains");
        for made in ["done=drain&route=%3Cb%3E", "done=explode&route=r1", "done=drain", "json", ""] {
            assert_eq!(note(made).text, "", "{made}");
        }
    }

    fn of_members(members: Vec<Member>) -> Report {
        let reported = |member: Member| {
            let counted = View { members: vec![Arc::new(member)] }.report(Moment(0)).remove(0);
            let (state, sessions) = (NodeState::Ready, Some(SessionCounts { owned: 7, held: 9 }));
            ReportedMember { counted, state, pid: Some(4711), sessions, staying: 0, peers: vec![], lag_ms: 0 }
        };
        let refusals = crate::observe::RefusalCounts::default();
        let warnings = vec!["the certificate ends in <3> days".to_owned()];
        let balancer = BalancerReport { listen: ([127, 0, 0, 1], 12_121).into(), pid: 1, refusals, warnings };
        Report { balancer, at_ms: 0, members: members.into_iter().map(reported).collect() }
    }

    #[actix_web::test]
    async fn every_style_and_script_of_the_page_has_the_nonce() {
        let page = rendered("/balancer-manager", StatusCode::OK, &Note::default(), &of_members(vec![usable(1, "r1")]));
        let header = |name: &str| page.headers().get(name).unwrap().to_str().unwrap().to_owned();
        let (policy, referrer) = (header("content-security-policy"), header("referrer-policy"));
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
        assert_eq!(referrer, "same-origin", "or forms are sent with Origin: null");
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        let text = String::from_utf8(to_bytes(page.into_body()).await.unwrap().to_vec()).unwrap();
        for tag in ["style", "script"] {
            let (all, with) = (format!("<{tag}"), format!("<{tag} nonce=\"{nonce}\""));
            assert!(text.matches(&all).count() == text.matches(&with).count() && text.contains(&all), "{tag}");
        }
        assert!(!text.contains("https://") && !text.contains("src=") && !text.contains("url("), "external resource");
        assert!(!text.contains(" style=") && !text.contains("innerHTML"), "blocked by the policy, or unsafe");
    }

    #[actix_web::test]
    async fn the_page_says_it_all_without_a_script() {
        let set = Set::default().with(Change::Weight(7), InFile { weight: 50, standby: false });
        let differs = set.terms(InFile { weight: 50, standby: false }).differs;
        let members = vec![Member { weight: 7, differs, ..usable(1, "r1") }];
        let note = Note { text: "<b>r9</b>".into(), is_bad: true };
        let page = rendered("/balancer-manager", StatusCode::OK, &note, &of_members(members));
        let text = String::from_utf8(to_bytes(page.into_body()).await.unwrap().to_vec()).unwrap();
        for part in [
            "127.0.0.1:12121",
            "r1",
            "4711",
            "weight 7 (file: 50)",
            "&lt;b&gt;r9",
            "ends in &lt;3&gt; days",
            "value=\"7\"",
        ] {
            assert!(text.contains(part), "{part} is in {text}");
        }
        assert_eq!(text.matches("<form").count(), text.matches("name=\"nonce\" value=\"").count());
    }
}
