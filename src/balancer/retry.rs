//! The law of retries: what may follow when an attempt brought no answer. One pure function.
//!
//! | what became of the attempt | then |
//! |---|---|
//! | no byte of it was written | same member on a fresh connection once if the connection was a pooled one, then another; any method |
//! | broke before the first byte of the answer | the same, but only if the method is idempotent and the body can be sent again; else 502 |
//! | no first byte in time | another member, under the same condition; else 504 |
//! | the node says "not done here" | the member it names, or any other; any method, if the body can be sent again |
//!
//! After the first byte of an answer has gone to the client nothing is repeated: that case never comes here.
//!
//! The budget: `balancer.max_attempts` members for attempts that failed, [`limits::NOT_DONE_HOPS`] for
//! "not done here" (beside it, so that `max_attempts = 1` still lets a session move), and no new attempt later than
//! `balancer.retry_timeout` after the request came. Each is finite, so no answer of any member can make a request go round
//! for ever.
//!
//! Beside the budget of one request there is one of all together, the [`Allowance`]: what may have been executed is repeated
//! for `balancer.retry_percent` of the requests at most, so that members which are slow because they have too much to do do
//! not get more by it. What was surely not executed costs no member anything, and is not counted.

use std::time::Duration;

use crate::{limits, time::Moment};

/// What became of an attempt that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No byte of the request was written: refused, no connection in time, or handed back by the connection.
    Untouched(Connection),
    /// The connection ended before the first byte of the answer: the request may have been executed.
    Broke(Connection),
    /// No first byte within `balancer.timeout`: the request may be being executed.
    Late,
    /// The node did not execute it and names the member that will.
    NotDoneAskNamed,
    /// The node did not execute it; any other one may.
    NotDoneAskAny,
}

/// The connection an attempt went out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// Opened for it.
    Fresh,
    /// Taken from the pool: the member may have closed it at the same moment, which says nothing about the member.
    Pooled,
}

/// What the law wants to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nature {
    /// RFC 9110 section 9.2.2.
    pub(crate) idempotent: bool,
    /// The whole body can be sent once more.
    pub(crate) replayable: bool,
}

impl Nature {
    /// What may have been executed may be sent again.
    pub(crate) fn is_repeatable(self) -> bool {
        self.idempotent && self.replayable
    }
}

/// What is left of a request's attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Members that may still be tried after the present one.
    pub(crate) members: usize,
    /// "Not done here" answers that may still be followed.
    pub(crate) hops: u32,
    /// The present member may be tried again on a fresh connection.
    pub(crate) fresh: bool,
    /// The time is not over.
    pub(crate) in_time: bool,
    /// The balancer repeats requests that may have been executed.
    pub(crate) allowed: bool,
}

/// How many requests are repeated although they may have been executed: a part of those of the last
/// [`limits::RETRY_ALLOWANCE_SPAN`], and always [`limits::RETRY_RESERVE`]. As Finagle's RetryBudget, without a bucket that
/// is full after a quiet night.
#[derive(Debug)]
pub(crate) struct Allowance {
    percent: u64,
    seconds: [Second; SECONDS],
}

/// What was counted in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    /// Which one it was.
    at: u64,
    requests: u64,
    repeats: u64,
}

const SECONDS: usize = limits::RETRY_ALLOWANCE_SPAN.as_secs() as usize;

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The same member, on a fresh connection.
    SameMember,
    /// A member that was not tried yet.
    OtherMember,
    /// The member that the node named.
    NamedMember,
    /// The client is told.
    Stop(Stop),
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// 502: it may have been executed, the answer is lost.
    BadGateway,
    /// 503 and the sorry page: this attempt did not execute it.
    Unavailable,
    /// 504: it may have been executed, no answer came in time.
    GatewayTimeout,
}

impl Budget {
    /// At the first attempt.
    pub(crate) fn new(max_attempts: usize) -> Self {
        let members = max_attempts.saturating_sub(1);
        Self { members, hops: limits::NOT_DONE_HOPS, fresh: true, in_time: true, allowed: true }
    }

    /// After `next` was followed. The present member changes, so it has its fresh connection again.
    pub(crate) fn spend(&mut self, outcome: Outcome, next: Next) {
        match (outcome, next) {
            (_, Next::Stop(_)) => {}
            (_, Next::SameMember) => self.fresh = false,
            (Outcome::NotDoneAskAny | Outcome::NotDoneAskNamed, _) => {
                self.hops = self.hops.saturating_sub(1);
                self.fresh = true;
            }
            (_, Next::OtherMember | Next::NamedMember) => {
                self.members = self.members.saturating_sub(1);
                self.fresh = true;
            }
        }
    }
}

/// The law.
pub(crate) fn next(outcome: Outcome, nature: Nature, budget: Budget) -> Next {
    use Outcome::{Broke, Late, NotDoneAskAny, NotDoneAskNamed, Untouched};
    let safe = if is_in_doubt(outcome) { nature.is_repeatable() } else { nature.replayable };
    let stop = Next::Stop(stop(outcome));
    match outcome {
        _ if !safe || !budget.in_time => stop,
        Broke(_) | Late if !budget.allowed => stop,
        Untouched(Connection::Pooled) | Broke(Connection::Pooled) if budget.fresh => Next::SameMember,
        Untouched(_) | Broke(_) | Late if budget.members > 0 => Next::OtherMember,
        NotDoneAskNamed if budget.hops > 0 => Next::NamedMember,
        NotDoneAskAny if budget.hops > 0 => Next::OtherMember,
        _ => stop,
    }
}

/// Whether `next` sends a request again that may have been executed: it counts against the [`Allowance`].
pub(crate) fn repeats(outcome: Outcome, next: Next) -> bool {
    is_in_doubt(outcome) && !matches!(next, Next::Stop(_))
}

/// Whether the request may have been executed. What later attempts find does not change that.
pub(crate) fn is_in_doubt(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Broke(_) | Outcome::Late)
}

impl Allowance {
    /// `percent` of the requests may be repeated.
    pub(crate) fn new(percent: u32) -> Self {
        Self { percent: u64::from(percent), seconds: [Second::default(); SECONDS] }
    }

    /// A request has come.
    pub(crate) fn request(&mut self, now: Moment) {
        self.second(now).requests += 1;
    }

    /// A request is repeated.
    pub(crate) fn repeat(&mut self, now: Moment) {
        self.second(now).repeats += 1;
    }

    /// Whether another one may be.
    pub(crate) fn is_left(&self, now: Moment) -> bool {
        let span = Duration::from_secs(SECONDS as u64);
        let recent = |second: &&Second| now.since(Moment(second.at * 1_000)) < span;
        let (requests, repeats) = self
            .seconds
            .iter()
            .filter(recent)
            .fold((0, 0), |(requests, repeats), second| (requests + second.requests, repeats + second.repeats));
        repeats < limits::RETRY_RESERVE + requests * self.percent / 100
    }

    fn second(&mut self, now: Moment) -> &mut Second {
        let at = now.0 / 1_000;
        let second = &mut self.seconds[at as usize % SECONDS];
        if second.at != at {
            *second = Second { at, ..Second::default() };
        }
        second
    }
}

/// What the client is told when nothing follows, also because there is no other member.
pub(crate) fn stop(outcome: Outcome) -> Stop {
    match outcome {
        Outcome::Broke(_) => Stop::BadGateway,
        Outcome::Late => Stop::GatewayTimeout,
        Outcome::Untouched(_) | Outcome::NotDoneAskAny | Outcome::NotDoneAskNamed => Stop::Unavailable,
    }
}

/// Whether a repeated request does what one request does (RFC 9110 section 9.2.2). Unknown methods do not.
pub(crate) fn idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
}

#[cfg(test)]
mod tests {
    use super::{Connection::*, Next::*, Outcome::*, Stop::*, *};

    const GET: Nature = Nature { idempotent: true, replayable: true };
    const POST: Nature = Nature { idempotent: false, replayable: true };
    const BIG_PUT: Nature = Nature { idempotent: true, replayable: false };

    #[test]
    fn the_law() {
        let full = Budget::new(2);
        let used = Budget { fresh: false, ..full };
        let last = Budget { members: 0, fresh: false, ..full };
        let hopped = Budget { hops: 0, ..full };
        let over = Budget { in_time: false, ..full };
        let spent = Budget { allowed: false, ..full };
        let table = [
            // refused, any method
            (Untouched(Fresh), GET, full, OtherMember),
            (Untouched(Fresh), POST, full, OtherMember),
            (Untouched(Fresh), POST, last, Stop(Unavailable)),
            (Untouched(Fresh), POST, over, Stop(Unavailable)),
            // handed back by a pooled connection
            (Untouched(Pooled), POST, full, SameMember),
            (Untouched(Pooled), POST, used, OtherMember),
            // broken before the first byte
            (Broke(Fresh), GET, full, OtherMember),
            (Broke(Pooled), GET, full, SameMember),
            (Broke(Pooled), GET, used, OtherMember),
            (Broke(Fresh), GET, last, Stop(BadGateway)),
            (Broke(Fresh), POST, full, Stop(BadGateway)),
            (Broke(Pooled), POST, full, Stop(BadGateway)),
            (Broke(Fresh), BIG_PUT, full, Stop(BadGateway)),
            // late
            (Late, GET, full, OtherMember),
            (Late, GET, last, Stop(GatewayTimeout)),
            (Late, POST, full, Stop(GatewayTimeout)),
            (Late, GET, over, Stop(GatewayTimeout)),
            (Untouched(Fresh), GET, over, Stop(Unavailable)),
            (Broke(Fresh), GET, over, Stop(BadGateway)),
            // the allowance of all requests is spent: only what may have been executed counts
            (Broke(Fresh), GET, spent, Stop(BadGateway)),
            (Broke(Pooled), GET, spent, Stop(BadGateway)),
            (Late, GET, spent, Stop(GatewayTimeout)),
            (Untouched(Fresh), POST, spent, OtherMember),
            (Untouched(Pooled), GET, spent, SameMember),
            (NotDoneAskAny, POST, spent, OtherMember),
            (NotDoneAskNamed, POST, spent, NamedMember),
            // not done here
            (NotDoneAskNamed, POST, full, NamedMember),
            (NotDoneAskNamed, POST, last, NamedMember),
            (NotDoneAskAny, POST, full, OtherMember),
            (NotDoneAskAny, POST, last, OtherMember),
            (NotDoneAskAny, GET, hopped, Stop(Unavailable)),
            (NotDoneAskNamed, BIG_PUT, full, Stop(Unavailable)),
        ];
        for (outcome, nature, budget, wanted) in table {
            assert_eq!(next(outcome, nature, budget), wanted, "{outcome:?} {nature:?} {budget:?}");
        }
    }

    /// The rules behind the table, over all there is: each outcome, kind of request and budget.
    #[test]
    fn the_law_holds_everywhere() {
        let outcomes =
            [Untouched(Fresh), Untouched(Pooled), Broke(Fresh), Broke(Pooled), Late, NotDoneAskNamed, NotDoneAskAny];
        let both = [false, true];
        for (outcome, bits) in outcomes.into_iter().flat_map(|outcome| (0..128u32).map(move |bits| (outcome, bits))) {
            let bit = |n: u32| both[(bits >> n & 1) as usize];
            let nature = Nature { idempotent: bit(0), replayable: bit(1) };
            let budget = Budget {
                members: usize::from(bit(2)),
                hops: u32::from(bit(3)),
                fresh: bit(4),
                in_time: bit(5),
                allowed: bit(6),
            };
            let next = next(outcome, nature, budget);
            let goes_on = !matches!(next, Stop(_));
            let told = format!("{outcome:?} {nature:?} {budget:?} {next:?}");
            let in_doubt = matches!(outcome, Broke(_) | Late);
            assert!(!goes_on || budget.in_time && nature.replayable, "{told}");
            assert!(!goes_on || !in_doubt || nature.idempotent && budget.allowed, "{told}");
            assert_eq!(repeats(outcome, next), goes_on && in_doubt, "{told}");
            assert!(
                next != SameMember || budget.fresh && matches!(outcome, Untouched(Pooled) | Broke(Pooled)),
                "{told}"
            );
            assert!(next != NamedMember || outcome == NotDoneAskNamed && budget.hops > 0, "{told}");
            let hop = matches!(outcome, NotDoneAskNamed | NotDoneAskAny);
            assert!(next != OtherMember || if hop { budget.hops > 0 } else { budget.members > 0 }, "{told}");
            let wanted = match outcome {
                Broke(_) => BadGateway,
                Late => GatewayTimeout,
                Untouched(_) | NotDoneAskNamed | NotDoneAskAny => Unavailable,
            };
            assert!(goes_on || next == Stop(wanted), "{told}");
        }
    }

    #[test]
    fn a_fifth_of_the_requests_is_repeated_and_a_reserve_beside() {
        for (percent, requests, wanted) in
            [(20, 0, 100), (20, 1_000, 300), (20, 4, 100), (0, 1_000, 100), (100, 1_000, 1_100)]
        {
            let (mut allowance, now) = (Allowance::new(percent), Moment(5_000_000));
            (0..requests).for_each(|_| allowance.request(now));
            let mut repeated = 0;
            while allowance.is_left(now) {
                allowance.repeat(now);
                repeated += 1;
            }
            assert_eq!(repeated, wanted, "{percent} % of {requests}");
            assert!(!allowance.is_left(now + Duration::from_secs(9)));
            assert!(allowance.is_left(now + Duration::from_secs(10)), "what is long ago does not count");
        }
    }

    #[test]
    fn when_every_answer_is_late_the_members_get_no_more_than_a_fifth_above() {
        let (mut allowance, mut repeated) = (Allowance::new(20), 0);
        for second in 0..60 {
            for n in 0..500 {
                let now = Moment(9_000_000 + second * 1_000 + n * 2);
                allowance.request(now);
                if allowance.is_left(now) {
                    allowance.repeat(now);
                    repeated += 1;
                }
            }
        }
        let most = 30_000 / 5 + limits::RETRY_RESERVE * 60 / limits::RETRY_ALLOWANCE_SPAN.as_secs();
        assert!((6_000..=most + limits::RETRY_RESERVE).contains(&repeated), "{repeated} of 30000");
    }

    #[test]
    fn no_chain_of_outcomes_goes_on_for_ever() {
        let outcomes =
            [Untouched(Fresh), Untouched(Pooled), Broke(Fresh), Broke(Pooled), Late, NotDoneAskNamed, NotDoneAskAny];
        for seed in 0..20_000usize {
            let (mut budget, mut numbers, mut sent) = (Budget::new(3), seed, 1);
            loop {
                numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let outcome = outcomes[(numbers >> 33) % outcomes.len()];
                let next = next(outcome, GET, budget);
                budget.spend(outcome, next);
                if matches!(next, Stop(_)) {
                    break;
                }
                sent += 1;
                assert!(sent <= 2 * (3 + limits::NOT_DONE_HOPS as usize), "seed {seed} never stops");
            }
        }
    }

    #[test]
    fn a_single_attempt_still_lets_a_session_move() {
        assert_eq!(next(NotDoneAskAny, POST, Budget::new(1)), OtherMember);
        assert_eq!(next(Untouched(Fresh), POST, Budget::new(1)), Stop(Unavailable));
    }

    #[test]
    fn unknown_methods_are_not_repeated() {
        assert!(["GET", "HEAD", "PUT", "DELETE", "OPTIONS"].into_iter().all(idempotent));
        assert!(!["POST", "PATCH", "get", "MKCOL", ""].into_iter().any(idempotent));
    }
}
