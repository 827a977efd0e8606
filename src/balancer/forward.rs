//! One request: choose a member, send, and, when no answer came, what the law of retries allows next.

use std::{cell::Cell, io, pin::pin, rc::Rc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::Payload,
    http::{ConnectionType, Version, header::COOKIE},
};
use hyper::{Response, StatusCode, body::Incoming, client::conn::TrySendError};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep};

use super::{
    answer::{Answer, Lease},
    choice::{self, Attempt, Choice},
    connection::{self, Connection},
    headers::{self, Head},
    members::Trouble,
    pace::Running,
    pages::Refusal,
    pool::Stakes,
    retry::{self, Budget, Connection as Kind, Nature, Next, Outcome, Stop},
    sticky::Token,
    tunnel,
    upload::{Outgoing, Progress, Upload},
    view::{Busy, Member},
    worker::{Admission, Worker},
};
use crate::time::Moment;

/// One request on its way through its attempts.
struct Trip<'a> {
    worker: &'a Rc<Worker>,
    head: Head<'a>,
    session: Option<Token<'a>>,
    upload: Upload,
    /// What a WebSocket client sends.
    raw: Cell<Payload>,
    began: Moment,
    /// Members that brought no answer.
    tried: SmallVec<[u64; 4]>,
    /// What the client is told where nobody else can do it.
    last_word: Option<LastWord>,
    /// What the client is told of the last attempt that may have executed the request.
    in_doubt: Option<Stop>,
}

/// A member's own words for a request that it did not do, and that others may do.
struct LastWord {
    response: HttpResponse,
    doubt: Doubt,
}

/// Whether a request that a member did not complete left anything behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// Nothing was changed.
    None,
    /// It may have been done.
    Done,
}

/// What became of an attempt.
enum Tried {
    Answered(HttpResponse),
    NoAnswer(Outcome),
    /// The node did not do it and has words for the client, in case that nobody else can.
    Declined(LastWord),
    /// The node did not execute it and names the owner, which may be a route that is no member here.
    AskInstead(String),
}

/// What a request is sent on.
enum Line {
    /// A connection that goes back to the pool.
    Pooled(Connection),
    /// One of its own, that may become a tunnel.
    Tunnel(tunnel::Sender),
}

/// Whether there is still time for an answer, or who has used it up.
enum Turn {
    Rest(Duration),
    MemberLate,
    ClientStalled,
}

/// What came first after a request was sent.
enum First {
    Answer(Response<Incoming>),
    Failed(TrySendError<hyper::Request<Outgoing>>),
    MemberLate,
    ClientStalled,
}

/// Sends a request to a member and gives its answer, or the reason why there is none.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Refusal> {
    let head = Head::read(request, &worker.rules.trusted_proxies, worker.rules.listen)?;
    let (body, raw) = if head.websocket() { (Payload::None, payload) } else { (payload, Payload::None) };
    let upload = Upload::new(body, content_length(request), worker.rules.retry_body_bytes);
    let upload = upload.limited(worker.rules.max_body_bytes)?;
    if upload.is_some() {
        Box::pin(upload.prefetch()).await?;
    }
    let view = worker.rules.published.view();
    let cookies = request.headers().get_all(COOKIE).map(|value| value.as_bytes());
    let is_member = |route: &str| view.named(route).is_some();
    let session = worker.rules.sticky.find(request.uri().path(), cookies, is_member);
    let (began, raw, tried) = (Moment::now(), Cell::new(raw), SmallVec::new());
    worker.begin(began);
    let mut trip = Trip { worker, head, session, upload, raw, began, tried, last_word: None, in_doubt: None };
    match trip.run().await {
        Err(refusal @ (Refusal::Unavailable | Refusal::QueueFull)) => trip.not_executed(refusal),
        answered => answered,
    }
}

fn content_length(request: &HttpRequest) -> Option<u64> {
    request.headers().get("content-length").and_then(|length| length.to_str().ok()?.trim().parse().ok())
}

impl<'a> Trip<'a> {
    async fn run(&mut self) -> Result<HttpResponse, Refusal> {
        let binding = self.worker.rules.binding;
        let session = self.session;
        let mut choice = match self
            .worker
            .choose(|view, patience, picker| choice::first(view, session, binding, patience, picker, Moment::now()))
            .await
        {
            Some(choice) => choice,
            None => return Err(Refusal::Unavailable),
        };
        let mut budget = Budget::new(self.worker.rules.max_attempts);
        let mut fresh = false;
        loop {
            let (outcome, instead) = match self.attempt(&choice, fresh).await? {
                Tried::Answered(response) => return Ok(response),
                Tried::NoAnswer(outcome) => (outcome, None),
                Tried::AskInstead(route) => (Outcome::NotDoneAskNamed, Some(route)),
                Tried::Declined(word) => {
                    self.keep(word);
                    (Outcome::NotDoneAskAny, None)
                }
            };
            if retry::is_in_doubt(outcome) {
                self.in_doubt = Some(retry::stop(outcome));
            }
            let now = Moment::now();
            budget.in_time = now.since(self.began) < self.worker.rules.retry_span;
            let next = self.worker.next(outcome, self.nature(), &mut budget, now);
            fresh = next == Next::SameMember;
            let following = match next {
                Next::SameMember => Some(choice),
                Next::NamedMember => self.named(instead.unwrap_or_default()).await,
                Next::OtherMember => {
                    self.tried.push(choice.member.serial);
                    self.another().await
                }
                Next::Stop(stop) => return Err(stop.into()),
            };
            choice = following.ok_or(retry::stop(outcome))?;
        }
    }

    /// The last attempt did not execute it. That is the whole truth only if no earlier one may have.
    fn not_executed(&mut self, refusal: Refusal) -> Result<HttpResponse, Refusal> {
        match (self.last_word.take(), self.in_doubt) {
            (Some(LastWord { response, doubt: Doubt::Done }), _) => Ok(response),
            (_, Some(stop)) => Err(stop.into()),
            (Some(LastWord { response, .. }), None) if refusal == Refusal::Unavailable => Ok(response),
            _ => Err(refusal),
        }
    }

    /// The latest words count, but not against a doubt.
    fn keep(&mut self, word: LastWord) {
        if self.last_word.as_ref().is_none_or(|earlier| earlier.doubt <= word.doubt) {
            self.last_word = Some(word);
        }
    }

    /// The member a node has named, or, if it is of no use, another one that takes the session over. The node that
    /// named it counts as untried: it may be the only one left.
    async fn named(&self, route: String) -> Option<Choice> {
        let view = self.worker.rules.published.view();
        match view.named(&route) {
            Some(member) if member.may_serve() && !self.tried.contains(&member.serial) => {
                Some(Choice { member: member.clone(), attempt: Attempt::Stay })
            }
            _ => self.another().await,
        }
    }

    async fn another(&self) -> Option<Choice> {
        let binding = self.worker.rules.binding;
        let (session, tried) = (self.session, &self.tried);
        self.worker
            .choose(|view, _, picker| choice::another(view, session, tried, binding, picker, Moment::now()))
            .await
    }

    fn nature(&self) -> Nature {
        Nature { idempotent: retry::idempotent(self.head.method().as_str()), replayable: self.upload.is_replayable() }
    }

    async fn attempt(&self, choice: &Choice, fresh: bool) -> Result<Tried, Refusal> {
        let member = &choice.member;
        let busy = match self.worker.admit(member).await {
            Admission::Granted(busy) => busy,
            Admission::Full => return Err(Refusal::QueueFull),
            Admission::Gone => return Ok(Tried::NoAnswer(Outcome::Untouched(Kind::Fresh))),
        };
        let (mut connection, kind) = match self.connection(member, fresh).await {
            Ok(connection) => connection,
            Err(error) => return Ok(self.unreachable(member, &error)),
        };
        // A body that cannot be sent twice cannot be told to go to the owner: the session comes to it.
        let attempt = if self.upload.is_small() { choice.attempt } else { Attempt::Move };
        let request = self.head.request(attempt, self.upload.outgoing(member.counters.clone()))?;
        busy.elected();
        let sent = Instant::now();
        let first = match &mut connection {
            Line::Pooled(connection) => self.first(connection.send(request)).await,
            Line::Tunnel(sender) => self.first(sender.try_send_request(request)).await,
        };
        match first {
            First::Answer(answer) => {
                if !answer.headers().contains_key(headers::RETRY) {
                    member.counters.answered(answer.status().as_u16(), sent.elapsed());
                }
                self.judge(answer, connection, busy)
            }
            First::Failed(error) => self.failed(member, error, kind),
            First::MemberLate => {
                self.worker.met(member, Trouble::NoAnswer);
                if self.worker.rules.fail_on_timeout {
                    self.worker.met(member, Trouble::Errors);
                }
                self.worker.warn(member.route.as_str(), &Outcome::Late, &"no answer in time");
                Ok(Tried::NoAnswer(Outcome::Late))
            }
            First::ClientStalled => Err(Refusal::ClientTimeout),
        }
    }

    async fn connection(&self, member: &Member, fresh: bool) -> io::Result<(Line, Kind)> {
        let longest = self.worker.rules.timeout;
        if self.head.websocket() {
            let opened = Box::pin(tunnel::connect(member.address, longest)).await?;
            return Ok((Line::Tunnel(opened), Kind::Fresh));
        }
        let now = Moment::now();
        let is_repeatable = self.nature().is_repeatable() && self.worker.may_repeat(now);
        let stakes = if is_repeatable { Stakes::Repeatable } else { Stakes::Once };
        if !fresh && let Some(connection) = self.worker.pool.take(member.serial, stakes, now) {
            return Ok((Line::Pooled(connection), Kind::Pooled));
        }
        Ok((Line::Pooled(Box::pin(Connection::open(member.address, longest)).await?), Kind::Fresh))
    }

    fn unreachable(&self, member: &Member, error: &io::Error) -> Tried {
        let outcome = Outcome::Untouched(Kind::Fresh);
        if !connection::is_own_fault(error) {
            self.worker.met(member, connection::trouble(error));
        }
        self.worker.warn(member.route.as_str(), &outcome, error);
        Tried::NoAnswer(outcome)
    }

    /// Waits for the head of the answer. The member's time runs only while the client is not the one who is waited for.
    async fn first(
        &self,
        sent: impl Future<Output = Result<Response<Incoming>, TrySendError<hyper::Request<Outgoing>>>>,
    ) -> First {
        let (mut sent, began) = (pin!(sent), Moment::now());
        let mut pause = pin!(sleep(self.worker.rules.timeout));
        loop {
            tokio::select! {
                biased;
                result = &mut sent => return result.map_or_else(First::Failed, First::Answer),
                () = &mut pause => match self.turn(began) {
                    Turn::Rest(rest) => pause.as_mut().reset(Instant::now() + rest),
                    Turn::MemberLate => return First::MemberLate,
                    Turn::ClientStalled => return First::ClientStalled,
                },
            }
        }
    }

    fn turn(&self, began: Moment) -> Turn {
        let timeout = self.worker.rules.timeout;
        let (since, longest, over) = match self.upload.progress() {
            Progress::Done(at) | Progress::MemberTurn(at) => (at, timeout, Turn::MemberLate),
            Progress::ClientTurn(at) => (at, self.upload.patience(), Turn::ClientStalled),
            // hyper is about to report it.
            Progress::Broken | Progress::TooLarge => return Turn::Rest(timeout),
        };
        let waited = Moment::now().since(since.max(began));
        // Never longer than the member's time at once: whose turn it is may change meanwhile.
        match longest.checked_sub(waited) {
            Some(rest) if !rest.is_zero() => Turn::Rest(rest.min(timeout)),
            _ => over,
        }
    }

    fn failed(
        &self,
        member: &Member,
        mut error: TrySendError<hyper::Request<Outgoing>>,
        kind: Kind,
    ) -> Result<Tried, Refusal> {
        match self.upload.progress() {
            Progress::Broken => return Err(Refusal::BadRequest),
            Progress::TooLarge => return Err(Refusal::BodyTooLarge),
            Progress::Done(_) | Progress::MemberTurn(_) | Progress::ClientTurn(_) => {}
        }
        let outcome = match error.take_message() {
            Some(_) => Outcome::Untouched(kind),
            None => Outcome::Broke(kind),
        };
        // A pooled connection ends in the ordinary course of things; only a fresh one says something of the member.
        if kind == Kind::Fresh {
            self.worker.met(member, Trouble::NoAnswer);
        }
        let error = error.into_error();
        // An answer that is no HTTP has begun all the same, and the member has surely seen the request.
        let nonsense = error.is_parse();
        if kind == Kind::Fresh || nonsense {
            self.worker.warn(member.route.as_str(), &outcome, &error);
        }
        if nonsense { Err(Refusal::BadGateway) } else { Ok(Tried::NoAnswer(outcome)) }
    }

    fn judge(&self, answer: Response<Incoming>, line: Line, busy: Busy) -> Result<Tried, Refusal> {
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE
            && let Some(retry) = answer.headers().get(headers::RETRY)
        {
            let doubt = match retry.as_bytes() {
                headers::ANY_NOT_DONE => Doubt::None,
                headers::ANY_IN_DOUBT => Doubt::Done,
                _ => return Ok(self.sent_away(retry.to_str().unwrap_or("any"), busy.member())),
            };
            let response = self.answer(answer, line, busy)?;
            return Ok(Tried::Declined(LastWord { response, doubt }));
        }
        if self.worker.rules.fail_on_status.contains(&answer.status().as_u16()) {
            self.worker.met(busy.member(), Trouble::Errors);
        } else {
            busy.member().counters.absolved();
        }
        self.answer(answer, line, busy).map(Tried::Answered)
    }

    /// The member's answer, as the client is to have it.
    fn answer(&self, answer: Response<Incoming>, line: Line, busy: Busy) -> Result<HttpResponse, Refusal> {
        let mut response = headers::to_client(&answer)?;
        if let (StatusCode::SWITCHING_PROTOCOLS, Line::Tunnel(_)) = (answer.status(), &line) {
            tunnel::switch(&mut response);
            let tunnel = tunnel::Tunnel::new(answer, self.raw.replace(Payload::None), busy, self.running());
            return Ok(response.set_body(BoxBody::new(tunnel)));
        }
        if answer.status().is_informational() {
            return Err(Refusal::BadGateway);
        }
        let connection = match line {
            Line::Pooled(connection) => Some(connection),
            Line::Tunnel(_) => None,
        };
        let lease = Lease::new(self.worker.clone(), connection, busy, &self.upload);
        let body = Answer::new(self.head.method(), answer, lease, self.running());
        if body.size() == BodySize::Stream && !self.takes_chunks() {
            response.head_mut().no_chunking(true);
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        Ok(response.set_body(BoxBody::new(body)))
    }

    /// A client of HTTP/1.0 knows no chunks, and to one that asked for a WebSocket actix-http announces chunks and sends none:
    /// there the end of the connection is the end of the body.
    fn takes_chunks(&self) -> bool {
        self.head.front().version() != Version::HTTP_10 && !self.head.websocket()
    }

    fn running(&self) -> Running {
        Running::begin(self.head.front())
    }

    fn sent_away(&self, to: &str, member: &Member) -> Tried {
        if to == "any" {
            self.worker.met(member, Trouble::SentAway);
            return Tried::NoAnswer(Outcome::NotDoneAskAny);
        }
        Tried::AskInstead(to.to_string())
    }
}

impl From<Stop> for Refusal {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::BadGateway => Self::BadGateway,
            Stop::Unavailable => Self::Unavailable,
            Stop::GatewayTimeout => Self::GatewayTimeout,
        }
    }
}
