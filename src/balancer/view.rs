//! What requests see of the members: a read-only list that the actor replaces, and counters that requests move.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::Notify;

use super::methods::{Candidate, FULL};
use crate::{
    membership::Duty,
    names::Route,
    observe::{Admin, Differs},
    time::Moment,
};

/// The members at one moment, in the order of their routes.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// At most one for each route.
    pub(crate) members: Vec<Arc<Member>>,
    /// Routes of members that have served and left.
    pub(crate) left: Vec<Route>,
}

/// A member as a request sees it.
#[derive(Debug)]
pub(crate) struct Member {
    /// Names this life of the member inside this balancer: a restarted node has another one.
    pub(crate) serial: u64,
    /// Its stable name.
    pub(crate) route: Route,
    /// Where it answers.
    pub(crate) address: SocketAddr,
    /// Its share of new sessions.
    pub(crate) weight: u8,
    /// Used only when no other member of its set may serve.
    pub(crate) standby: bool,
    /// Used only when no member of a lower set may serve.
    pub(crate) set: u8,
    /// It has come back and starts slowly.
    pub(crate) warming: Option<Warming>,
    /// It is out because of its answers.
    pub(crate) ejected: bool,
    /// Requests that it may answer at once.
    pub(crate) most: usize,
    /// What it wants to be asked for.
    pub(crate) duty: Duty,
    /// Whether it may be asked.
    pub(crate) standing: Standing,
    /// It is drained and well, and its sessions cannot move: they stay with it (httpd's `N`).
    pub(crate) keeps_sessions: bool,
    /// Membership knows it: it takes orders.
    pub(crate) is_node: bool,
    /// What an administrator has it do.
    pub(crate) admin: Admin,
    /// What was set and is not what the file says.
    pub(crate) differs: Vec<Differs>,
    /// Shared by all views of this life.
    pub(crate) counters: Arc<Counters>,
}

/// A member that gets a growing part of its share of new sessions, from a hundredth to the whole, as with HAProxy's
/// slowstart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Warming {
    /// When it came back.
    pub(crate) since: Moment,
    /// When it has its whole share.
    pub(crate) span: Duration,
}

/// Whether a member may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It serves.
    Usable,
    /// It will serve soon: it says so, or it has not been asked yet.
    Coming,
    /// It wants nothing, or an administrator has drained it.
    Draining,
    /// An administrator has disabled it.
    Disabled,
    /// It does not answer.
    Failed,
}

/// What requests leave behind. Relaxed everywhere: these are hints and statistics, nothing is ordered by them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    busy: AtomicUsize,
    /// Requests that wait until it is less busy.
    waiting: AtomicUsize,
    /// Wakes the one of them that waits longest.
    freed: Notify,
    elected: AtomicU64,
    failed: AtomicU64,
    /// Answers in a row that count as failures.
    errors: AtomicU32,
    answered: AtomicU64,
    server_errors: AtomicU64,
    /// Of all answers together, from the request to the head of the answer.
    answer_micros: AtomicU64,
    /// Bytes of bodies.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// A request was refused and the actor does not know it yet; no other request needs to find out for itself.
    refused: AtomicBool,
    /// The actor has been told of trouble and has not looked at it yet.
    told: AtomicBool,
}

/// A request that a member is answering; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Member>);

/// A place in the queue before a member; left when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Member>);

/// One member in the report that `Observe` and `members.json` give.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemberReport {
    /// Its stable name.
    pub route: Route,
    /// Where it answers HTTP.
    pub address: SocketAddr,
    /// Whether it may be asked.
    pub standing: Standing,
    /// What it wants to be asked for.
    pub duty: Duty,
    /// Its share of new sessions, 1 to 100.
    pub weight: u8,
    /// Used only when no other member of its set may serve.
    pub standby: bool,
    /// Used only when no member of a lower set may serve.
    pub set: u8,
    /// It is out because of its answers (`balancer.fail_on_status`, `balancer.fail_on_timeout`).
    pub ejected: bool,
    /// Percent of its share of new sessions that it gets now; less than 100 while it starts slowly.
    pub warm_percent: u32,
    /// What an administrator has it do.
    pub admin: Admin,
    /// What was set and is not what the file says.
    pub differs: Vec<Differs>,
    /// Requests it is answering now.
    pub busy: usize,
    /// Requests that wait until it is less busy (`balancer.member_connections`).
    pub waiting: usize,
    /// Requests sent to it in this life.
    pub elected: u64,
    /// Attempts that brought no answer in this life.
    pub failed: u64,
    /// Answers in this life, without those by which a node only named another one.
    pub answered: u64,
    /// Those of them with a status of 500 or above.
    pub server_errors: u64,
    /// The time from request to answer of all of them together, in microseconds.
    pub answer_micros: u64,
    /// Bytes of request bodies sent to it in this life (httpd's "To").
    pub bytes_in: u64,
    /// Bytes of answers' bodies received from it in this life (httpd's "From").
    pub bytes_out: u64,
}

/// Where the actor puts the view and requests find it.
#[derive(Debug, Default)]
pub(crate) struct Published {
    view: ArcSwap<View>,
    changed: Notify,
}

impl Published {
    /// The view now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Replaces the view and wakes whoever waits for a change.
    pub(crate) fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
        self.changed.notify_waiters();
    }

    /// Resolves at the next change after this call.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

impl View {
    /// The member of this route.
    pub(crate) fn named(&self, route: &str) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| member.route.as_str() == route)
    }

    /// Whether a member of this route is here or has been: not one of another balancer whose cookie has the same name.
    pub(crate) fn knows(&self, route: &str) -> bool {
        self.named(route).is_some() || self.left.iter().any(|left| left.as_str() == route)
    }

    /// Whether this life of a member is still served by connections of the pool.
    pub(crate) fn keeps(&self, serial: u64) -> bool {
        let used = |member: &Member| member.standing == Standing::Usable || member.keeps_sessions;
        self.members.iter().any(|member| member.serial == serial && used(member))
    }

    /// Whether this life of a member may be asked.
    pub(crate) fn uses(&self, serial: u64) -> bool {
        let used = |member: &Member| member.may_serve() || member.serves_its_own();
        self.members.iter().any(|member| member.serial == serial && used(member))
    }

    /// Everything the balancer knows, in the order of the routes.
    pub(crate) fn report(&self, now: Moment) -> Vec<MemberReport> {
        self.members.iter().map(|member| member.report(now)).collect()
    }
}

impl Member {
    /// It may be asked, as far as anyone knows.
    pub(crate) fn may_serve(&self) -> bool {
        self.standing == Standing::Usable && !self.counters.refused.load(Relaxed)
    }

    /// It is drained, and requests of the sessions that it has go to it all the same.
    pub(crate) fn serves_its_own(&self) -> bool {
        self.keeps_sessions && !self.counters.refused.load(Relaxed)
    }

    /// It is known not to answer. Neither draining nor starting is a failure.
    pub(crate) fn has_failed(&self) -> bool {
        match self.standing {
            Standing::Failed => true,
            Standing::Usable => self.counters.refused.load(Relaxed),
            Standing::Coming | Standing::Draining | Standing::Disabled => false,
        }
    }

    /// As a method sees it.
    pub(crate) fn candidate(&self, now: Moment) -> Candidate<'_> {
        let weight = self.weight.max(1);
        let counters = &self.counters;
        Candidate {
            serial: self.serial,
            route: self.route.as_str(),
            weight,
            share: u32::from(weight) * self.warmth(now),
            busy: counters.busy.load(Relaxed),
            elected: counters.elected.load(Relaxed),
            bytes: counters.bytes_in.load(Relaxed).wrapping_add(counters.bytes_out.load(Relaxed)),
        }
    }

    /// It answers as many requests as it may.
    pub(crate) fn is_full(&self) -> bool {
        self.counters.busy.load(Relaxed) >= self.most
    }

    /// Who comes first where there is a choice: the least one.
    pub(crate) fn rank(&self) -> (u8, bool) {
        (self.set, self.standby)
    }

    /// From 1 to [`FULL`], linear in time.
    fn warmth(&self, now: Moment) -> u32 {
        let Some(Warming { since, span }) = self.warming else { return FULL };
        let part = u128::from(FULL) * now.since(since).as_millis() / span.as_millis().max(1);
        u32::try_from(part).unwrap_or(FULL).clamp(1, FULL)
    }

    fn report(&self, now: Moment) -> MemberReport {
        MemberReport {
            route: self.route.clone(),
            address: self.address,
            standing: if self.has_failed() { Standing::Failed } else { self.standing },
            duty: self.duty,
            weight: self.weight,
            standby: self.standby,
            set: self.set,
            ejected: self.ejected,
            warm_percent: self.warmth(now),
            admin: self.admin,
            differs: self.differs.clone(),
            busy: self.counters.busy.load(Relaxed),
            waiting: self.counters.waiting.load(Relaxed),
            elected: self.counters.elected.load(Relaxed),
            failed: self.counters.failed.load(Relaxed),
            answered: self.counters.answered.load(Relaxed),
            server_errors: self.counters.server_errors.load(Relaxed),
            answer_micros: self.counters.answer_micros.load(Relaxed),
            bytes_in: self.counters.bytes_in.load(Relaxed),
            bytes_out: self.counters.bytes_out.load(Relaxed),
        }
    }
}

impl Counters {
    /// Counts an attempt that brought no answer. True when the actor has to be told: only the first of a burst tells.
    pub(crate) fn fail(&self, refused: bool) -> bool {
        self.failed.fetch_add(1, Relaxed);
        let first_refusal = refused && !self.refused.swap(true, Relaxed);
        !self.told.swap(true, Relaxed) || first_refusal
    }

    /// Counts an answer, `took` after the request was sent.
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        self.answered.fetch_add(1, Relaxed);
        self.server_errors.fetch_add(u64::from(status >= 500), Relaxed);
        self.answer_micros.fetch_add(took.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
    }

    /// True when the actor has to be told that the member refuses work; only the first of a burst tells.
    pub(crate) fn sent_away(&self) -> bool {
        !self.told.swap(true, Relaxed)
    }

    /// Counts an answer that was an error. True when the actor has to be told: at each `fall` in a row.
    pub(crate) fn erred(&self, fall: u32) -> bool {
        (self.errors.fetch_add(1, Relaxed).wrapping_add(1)).is_multiple_of(fall)
    }

    /// An answer was none.
    pub(crate) fn absolved(&self) {
        if self.errors.load(Relaxed) != 0 {
            self.errors.store(0, Relaxed);
        }
    }

    /// Bytes of a request's body went to the member.
    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of an answer's body came from the member.
    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// The actor has heard; the next trouble is told again.
    pub(crate) fn heard(&self) {
        self.told.store(false, Relaxed);
    }

    /// The actor has found the member alive.
    pub(crate) fn cleared(&self) {
        self.refused.store(false, Relaxed);
    }
}

impl Busy {
    /// Counts a request that `member` is to answer, unless it answers as many as it may.
    pub(crate) fn begin(member: &Arc<Member>) -> Option<Self> {
        let more = |busy| (busy < member.most).then_some(busy + 1);
        member.counters.busy.fetch_update(SeqCst, Relaxed, more).ok().map(|_| Self(member.clone()))
    }

    /// The same at once: nobody who waits is overtaken.
    pub(crate) fn at_once(member: &Arc<Member>) -> Option<Self> {
        if member.counters.waiting.load(Relaxed) > 0 { None } else { Self::begin(member) }
    }

    /// Counts that the request is sent now.
    pub(crate) fn elected(&self) {
        self.0.counters.elected.fetch_add(1, Relaxed);
    }

    /// The member that answers.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Whoever has a place in the queue sees that there is room, or is seen here: both in one order.
        self.0.counters.busy.fetch_sub(1, SeqCst);
        if self.0.counters.waiting.load(SeqCst) > 0 {
            self.0.counters.freed.notify_one();
        }
    }
}

impl Place {
    /// A place, if fewer than `most` have one.
    pub(crate) fn take(member: &Arc<Member>, most: usize) -> Option<Self> {
        let more = |waiting| (waiting < most).then_some(waiting + 1);
        member.counters.waiting.fetch_update(SeqCst, Relaxed, more).ok().map(|_| Self(member.clone()))
    }

    /// Resolves when the member is less busy, for one place at a time in the order of the calls.
    pub(crate) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.counters.freed.notified()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counters.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A member that serves.
    pub(crate) fn usable(serial: u64, route: &str) -> Member {
        Member {
            serial,
            route: route.parse().unwrap(),
            address: ([127, 0, 0, 1], 1).into(),
            weight: 50,
            standby: false,
            set: 0,
            ejected: false,
            most: 1_024,
            warming: None,
            duty: Duty::Serving,
            standing: Standing::Usable,
            keeps_sessions: false,
            is_node: true,
            admin: Admin::Enabled,
            differs: Vec::new(),
            counters: Arc::default(),
        }
    }

    #[test]
    fn a_refusal_takes_a_member_out_before_the_actor_knows() {
        let member = usable(1, "r1");
        assert!(member.may_serve() && !member.has_failed());
        assert!(member.counters.fail(true), "the first one tells");
        assert!(!member.counters.fail(true), "the second one need not");
        assert!(!member.may_serve() && member.has_failed());
        assert_eq!(member.report(Moment(0)).standing, Standing::Failed);
        member.counters.cleared();
        assert!(member.may_serve());
    }

    #[test]
    fn a_refusal_is_told_even_when_lesser_trouble_was_told_before() {
        let counters = Counters::default();
        assert!(counters.fail(false));
        assert!(!counters.fail(false));
        assert!(counters.fail(true));
        counters.heard();
        assert!(counters.fail(false));
    }

    #[test]
    fn errors_count_when_they_are_in_a_row() {
        let counters = Counters::default();
        let told = |errors: usize| (0..errors).map(|_| counters.erred(3)).collect::<Vec<_>>();
        assert_eq!(told(2), [false, false]);
        counters.absolved();
        assert_eq!(told(6), [false, false, true, false, false, true], "told again where nothing could be done");
    }

    #[test]
    fn a_request_is_counted_while_it_runs() {
        let member = Arc::new(usable(1, "r1"));
        let busy = Busy::begin(&member).unwrap();
        busy.elected();
        assert_eq!((member.report(Moment(0)).busy, member.report(Moment(0)).elected), (1, 1));
        drop(busy);
        assert_eq!((member.report(Moment(0)).busy, member.report(Moment(0)).elected), (0, 1));
    }

    #[test]
    fn nobody_gets_more_than_there_is_room_for_and_nobody_overtakes() {
        let member = Arc::new(Member { most: 2, ..usable(1, "r1") });
        let first = Busy::at_once(&member).unwrap();
        let _second = Busy::at_once(&member).unwrap();
        assert!(member.is_full() && Busy::at_once(&member).is_none());
        let place = Place::take(&member, 1).unwrap();
        assert!(Place::take(&member, 1).is_none(), "the queue is full");
        drop(first);
        assert!(Busy::at_once(&member).is_none(), "somebody waits");
        assert!(place.freed().now_or_never().is_some());
        let third = Busy::begin(&member).unwrap();
        drop(place);
        assert!(Busy::begin(&member).is_none());
        drop(third);
        assert!(Busy::at_once(&member).is_some());
    }

    #[actix_web::test]
    async fn everybody_in_the_queue_has_a_turn_however_threads_interleave() {
        let member = Arc::new(Member { most: 2, ..usable(1, "r1") });
        let served = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (member, served) = (member.clone(), served.clone());
                std::thread::spawn(move || {
                    let one = async |member: &Arc<Member>| {
                        let place = Place::take(member, 1_000).unwrap();
                        loop {
                            let mut freed = std::pin::pin!(place.freed());
                            freed.as_mut().enable();
                            if let Some(busy) = Busy::begin(member) {
                                assert!(member.counters.busy.load(Relaxed) <= 2);
                                tokio::task::yield_now().await;
                                drop(busy);
                                return;
                            }
                            freed.await;
                        }
                    };
                    let all = async {
                        futures_util::future::join_all((0..50).map(async |_| {
                            for _ in 0..20 {
                                one(&member).await;
                                served.fetch_add(1, Relaxed);
                            }
                        }))
                        .await
                    };
                    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(all);
                })
            })
            .collect();
        let done = move || threads.into_iter().for_each(|thread| thread.join().unwrap());
        tokio::time::timeout(Duration::from_secs(30), tokio::task::spawn_blocking(done)).await.unwrap().unwrap();
        assert_eq!(served.load(Relaxed), 4 * 50 * 20);
        assert_eq!((member.report(Moment(0)).busy, member.report(Moment(0)).waiting), (0, 0));
    }

    #[test]
    fn a_member_that_came_back_warms_up_in_a_line() {
        let warming = Some(Warming { since: Moment(1_000), span: Duration::from_secs(10) });
        let member = Member { warming, ..usable(1, "r1") };
        for (at, percent) in [(0, 1), (1_000, 1), (3_500, 25), (6_000, 50), (11_000, 100), (99_000, 100)] {
            assert_eq!(member.report(Moment(at)).warm_percent, percent, "{at}");
            assert_eq!(member.candidate(Moment(at)).share, 50 * percent);
        }
        assert_eq!(usable(1, "r1").report(Moment(0)).warm_percent, 100);
    }

    #[test]
    fn a_draining_member_keeps_no_connections_and_has_not_failed() {
        let member = Member { standing: Standing::Draining, ..usable(4, "r1") };
        assert!(!member.may_serve() && !member.has_failed());
        let view = View { members: vec![Arc::new(member), Arc::new(usable(5, "r2"))], left: Vec::new() };
        assert!(!view.keeps(4) && view.keeps(5) && !view.keeps(6));
        assert!(view.named("r2").is_some() && view.named("r3").is_none());
    }
}
