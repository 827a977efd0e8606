//! What requests see of the members: a read-only list that the actor replaces, and counters that requests move.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::Notify;

use super::methods::Candidate;
use crate::{
    membership::Duty,
    names::Route,
    observe::{Admin, Differs},
};

/// The members at one moment, in the order of their routes.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// At most one for each route.
    pub(crate) members: Vec<Arc<Member>>,
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
    /// Used only when no other member may serve.
    pub(crate) standby: bool,
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
    elected: AtomicU64,
    failed: AtomicU64,
    answered: AtomicU64,
    server_errors: AtomicU64,
    /// Of all answers together, from the request to the head of the answer.
    answer_micros: AtomicU64,
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
    /// Used only when no other member may serve.
    pub standby: bool,
    /// What an administrator has it do.
    pub admin: Admin,
    /// What was set and is not what the file says.
    pub differs: Vec<Differs>,
    /// Requests it is answering now.
    pub busy: usize,
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
    /// Bytes of the bodies of answered requests.
    pub bytes_in: u64,
    /// Bytes of the bodies of answers.
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

    /// Whether this life of a member is still served by connections of the pool.
    pub(crate) fn keeps(&self, serial: u64) -> bool {
        let used = |member: &Member| member.standing == Standing::Usable || member.keeps_sessions;
        self.members.iter().any(|member| member.serial == serial && used(member))
    }

    /// Everything the balancer knows, in the order of the routes.
    pub(crate) fn report(&self) -> Vec<MemberReport> {
        self.members.iter().map(|member| member.report()).collect()
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
    pub(crate) fn candidate(&self) -> Candidate<'_> {
        Candidate {
            serial: self.serial,
            route: self.route.as_str(),
            weight: self.weight.max(1),
            busy: self.counters.busy.load(Relaxed),
        }
    }

    fn report(&self) -> MemberReport {
        MemberReport {
            route: self.route.clone(),
            address: self.address,
            standing: if self.has_failed() { Standing::Failed } else { self.standing },
            duty: self.duty,
            weight: self.weight,
            standby: self.standby,
            admin: self.admin,
            differs: self.differs.clone(),
            busy: self.counters.busy.load(Relaxed),
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

    /// Counts bytes of bodies, from the client and to it.
    pub(crate) fn carried(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.fetch_add(bytes_in, Relaxed);
        self.bytes_out.fetch_add(bytes_out, Relaxed);
    }

    /// True when the actor has to be told that the member refuses work; only the first of a burst tells.
    pub(crate) fn sent_away(&self) -> bool {
        !self.told.swap(true, Relaxed)
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
    /// Counts a request that is sent to `member`.
    pub(crate) fn with(member: &Arc<Member>) -> Self {
        member.counters.busy.fetch_add(1, Relaxed);
        member.counters.elected.fetch_add(1, Relaxed);
        Self(member.clone())
    }

    /// The member that answers.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.counters.busy.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A member that serves.
    pub(crate) fn usable(serial: u64, route: &str) -> Member {
        Member {
            serial,
            route: route.parse().unwrap(),
            address: ([127, 0, 0, 1], 1).into(),
            weight: 50,
            standby: false,
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
        assert_eq!(member.report().standing, Standing::Failed);
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
    fn a_request_is_counted_while_it_runs() {
        let member = Arc::new(usable(1, "r1"));
        let busy = Busy::with(&member);
        assert_eq!((member.report().busy, member.report().elected), (1, 1));
        drop(busy);
        assert_eq!((member.report().busy, member.report().elected), (0, 1));
    }

    #[test]
    fn a_draining_member_keeps_no_connections_and_has_not_failed() {
        let member = Member { standing: Standing::Draining, ..usable(4, "r1") };
        assert!(!member.may_serve() && !member.has_failed());
        let view = View { members: vec![Arc::new(member), Arc::new(usable(5, "r2"))] };
        assert!(!view.keeps(4) && view.keeps(5) && !view.keeps(6));
        assert!(view.named("r2").is_some() && view.named("r3").is_none());
    }
}
