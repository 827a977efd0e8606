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
//! [`limits::RETRY_TIMEOUTS`] times `balancer.timeout` after the first began. Each is finite, so no answer of any
//! member can make a request go round for ever.

use crate::limits;

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
}

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
    /// 503 and the sorry page: it was not executed.
    Unavailable,
    /// 504: it may have been executed, no answer came in time.
    GatewayTimeout,
}

impl Budget {
    /// At the first attempt.
    pub(crate) fn new(max_attempts: usize) -> Self {
        Self { members: max_attempts.saturating_sub(1), hops: limits::NOT_DONE_HOPS, fresh: true, in_time: true }
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
    let safe = match outcome {
        Untouched(_) | NotDoneAskAny | NotDoneAskNamed => nature.replayable,
        Broke(_) | Late => nature.idempotent && nature.replayable,
    };
    let stop = Next::Stop(stop(outcome));
    match outcome {
        _ if !safe || !budget.in_time => stop,
        Untouched(Connection::Pooled) | Broke(Connection::Pooled) if budget.fresh => Next::SameMember,
        Untouched(_) | Broke(_) | Late if budget.members > 0 => Next::OtherMember,
        NotDoneAskNamed if budget.hops > 0 => Next::NamedMember,
        NotDoneAskAny if budget.hops > 0 => Next::OtherMember,
        _ => stop,
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
