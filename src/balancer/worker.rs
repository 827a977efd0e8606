//! What one HTTP worker keeps between requests: its connections, its turn in the round, and the way to the actor.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Weak,
    sync::Arc,
};

use actix::Addr;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    actor::{Balancer, Met},
    choice::{Choice, Chosen, Patience},
    members::Trouble,
    methods::Picker,
    pool::Pool,
    retry::{self, Allowance, Budget, Nature, Next, Outcome},
    rules::Rules,
    throttle::{Line, Throttle},
    view::{Busy, Member, MemberReport, Place, View},
};
use crate::{limits, time::Moment};

/// One HTTP worker. Nothing in it is shared with another worker but the view.
pub(crate) struct Worker {
    pub(crate) rules: Arc<Rules>,
    pub(crate) pool: Pool,
    pub(crate) balancer: Addr<Balancer>,
    pub(crate) port: Port,
    picker: RefCell<Picker>,
    allowance: RefCell<Allowance>,
    warnings: RefCell<Throttle>,
    /// Requests that wait until a member can serve.
    waiting: Cell<usize>,
}

/// Who connects where this worker's requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Users, and administrators unless they have a port of their own.
    Users,
    /// Administrators alone.
    Manager,
}

/// Whether a member takes a request.
pub(crate) enum Admission {
    /// It does, and counts it until this is dropped.
    Granted(Busy),
    /// It answers as many as it may, and as many wait as may, or the wait was too long.
    Full,
    /// It may not serve any more.
    Gone,
}

/// Counts a waiting request until it is dropped, also when the client goes away.
struct Waiting<'a>(&'a Cell<usize>);

impl Worker {
    /// `seed` must differ between workers.
    pub(crate) fn new(rules: Arc<Rules>, balancer: Addr<Balancer>, port: Port, seed: u64) -> Self {
        Self {
            pool: Pool::default(),
            balancer,
            port,
            picker: RefCell::new(Picker::new(rules.method, seed)),
            allowance: RefCell::new(Allowance::new(rules.retry_percent)),
            warnings: RefCell::new(Throttle::new(limits::WARNINGS_PER_SECOND)),
            waiting: Cell::new(0),
            rules,
        }
    }

    /// Closes connections that are not wanted any more, for as long as the worker lives.
    pub(crate) async fn sweep(worker: Weak<Self>) {
        loop {
            sleep(limits::POOL_SWEEP).await;
            let Some(worker) = worker.upgrade() else { return };
            let view = worker.rules.published.view();
            worker.pool.sweep(Moment::now(), |serial| view.keeps(serial));
        }
    }

    /// Counts a request.
    pub(crate) fn begin(&self, now: Moment) {
        self.allowance.borrow_mut().request(now);
    }

    /// What the law allows next, within the budget of the request and the allowance of all.
    pub(crate) fn next(&self, outcome: Outcome, nature: Nature, budget: &mut Budget, now: Moment) -> Next {
        let mut allowance = self.allowance.borrow_mut();
        budget.allowed = allowance.is_left(now);
        let next = retry::next(outcome, nature, *budget);
        budget.spend(outcome, next);
        if retry::repeats(outcome, next) {
            allowance.repeat(now);
        }
        if !budget.allowed && retry::next(outcome, nature, Budget { allowed: true, ..*budget }) != next {
            self.rules.refusals.not_repeated();
        }
        next
    }

    /// Whether one more request may be sent again although it may have been executed.
    pub(crate) fn may_repeat(&self, now: Moment) -> bool {
        self.allowance.borrow().is_left(now)
    }

    /// Waits until the member answers fewer requests than it may, for a bounded time and in a bounded queue.
    pub(crate) async fn admit(&self, member: &Arc<Member>) -> Admission {
        match Busy::at_once(member) {
            Some(busy) => Admission::Granted(busy),
            // Boxed, as everything on the road of a request that is rare and large: its future is moved several times.
            None => Box::pin(self.wait_for_room(member)).await,
        }
    }

    async fn wait_for_room(&self, member: &Arc<Member>) -> Admission {
        let Some(place) = Place::take(member, self.rules.queue) else { return Admission::Full };
        let mut late = pin!(sleep(self.rules.queue_timeout));
        loop {
            let mut freed = pin!(place.freed());
            freed.as_mut().enable();
            loop {
                let mut changed = pin!(self.rules.published.changed());
                changed.as_mut().enable();
                if let Some(busy) = Busy::begin(member) {
                    return Admission::Granted(busy);
                }
                if !self.rules.published.view().uses(member.serial) {
                    return Admission::Gone;
                }
                tokio::select! {
                    () = &mut freed => break,
                    () = changed => {}
                    () = &mut late => return Admission::Full,
                }
            }
        }
    }

    /// Notes an attempt that brought no answer, or an error; the actor is told once for each burst.
    pub(crate) fn met(&self, member: &Member, trouble: Trouble) {
        let tell = match trouble {
            Trouble::Refused => member.counters.fail(true),
            Trouble::NoAnswer => member.counters.fail(false),
            Trouble::SentAway => member.counters.sent_away(),
            Trouble::Errors => member.counters.erred(self.rules.fall),
        };
        if tell {
            self.balancer.do_send(Met { serial: member.serial, trouble });
        }
    }

    /// How the members are now.
    pub(crate) fn report(&self) -> Vec<MemberReport> {
        self.rules.published.view().report(Moment::now())
    }

    /// Writes a warning, so many a second.
    pub(crate) fn warn(&self, route: &str, what: &dyn std::fmt::Debug, why: &dyn std::fmt::Display) {
        if let Line::Write { swallowed } = self.warnings.borrow_mut().line(Moment::now()) {
            tracing::warn!(route, ?what, %why, swallowed, "request met trouble");
        }
    }

    /// Chooses; waits for a member that is coming, for a bounded time and number of requests.
    pub(crate) async fn choose(&self, pick: impl Fn(&View, Patience, &mut Picker) -> Chosen) -> Option<Choice> {
        let pick = |patience| pick(&self.rules.published.view(), patience, &mut self.picker.borrow_mut());
        match pick(Patience::Fresh) {
            Chosen::Member(choice) => Some(choice),
            Chosen::Nobody => None,
            Chosen::Wait => Box::pin(self.wait_for_member(pick)).await,
        }
    }

    async fn wait_for_member(&self, pick: impl Fn(Patience) -> Chosen) -> Option<Choice> {
        let in_the_end = || match pick(Patience::Spent) {
            Chosen::Member(choice) => Some(choice),
            Chosen::Wait | Chosen::Nobody => None,
        };
        if self.waiting.get() >= limits::MEMBER_WAITERS {
            return in_the_end();
        }
        let _waiting = Waiting::begin(&self.waiting);
        let deadline = Instant::now() + limits::MEMBER_WAIT;
        loop {
            let mut changed = pin!(self.rules.published.changed());
            changed.as_mut().enable();
            match pick(Patience::Fresh) {
                Chosen::Member(choice) => return Some(choice),
                Chosen::Nobody => return None,
                Chosen::Wait if timeout_at(deadline, changed).await.is_err() => return in_the_end(),
                Chosen::Wait => {}
            }
        }
    }
}

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
