//! The SWIM protocol, run by foca, with its timers in one ordered queue and without a clock of its own.
//!
//! Three things that foca leaves to its user are done here. After a changed announcement it falls silent until
//! somebody has answered to the new one, so the announcement is repeated to every member, and members that do not
//! answer at all are declared down. And an announcement that loses against an older one of the same address (the
//! clock was set back before a restart) is raised until it wins. And who has lost everybody keeps to itself that they are
//! down.

use std::{net::SocketAddr, num::NonZero, time::Duration};

use foca::{
    AccumulatingRuntime, Foca, Identity as _, Member, Message, NoCustomBroadcast, OwnedNotification, PeriodicParams,
    State, Timer,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    Duty,
    codec::{Positional, take_header},
    datagram::Refused,
    identity::Identity,
    timers::Timers,
};
use crate::{limits, names::NodeId, time::Moment};

/// How often one member is probed. With this, [`PROBE_RTT`] and [`SUSPECT`] three nodes notice a silent one after
/// 1.4 s in the middle and 2.1 s at worst, 5 % of all datagrams lost.
const PROBE_PERIOD: Duration = Duration::from_millis(300);

/// A direct answer takes no longer; then other members are asked to probe.
const PROBE_RTT: Duration = Duration::from_millis(100);

/// The time a suspected member has to object.
const SUSPECT: Duration = Duration::from_millis(900);

/// How often news are passed on, and how often an own new announcement is repeated.
const GOSSIP: Duration = Duration::from_millis(100);

/// Members told each time.
const GOSSIP_TO: NonZero<usize> = NonZero::new(2).unwrap();

/// How often each piece of news is passed on. foca's proposal for three members is 2, and loses objections.
const TRANSMISSIONS: NonZero<u8> = NonZero::new(10).unwrap();

/// How often a member is asked for its whole list, and members that are down are asked whether they are.
const RECONCILE: Duration = Duration::from_secs(5);

/// How long a member that is down is remembered, so that old news do not bring it back, and is asked after.
const REMEMBER_DOWN: Duration = Duration::from_secs(3_600);

/// An own new announcement is repeated at least this often ...
const SPREAD_AT_LEAST: u32 = 3;

/// ... and at most this often while nobody answers: by then a silent member would have been declared down.
const SPREAD_AT_MOST: u32 = 15;

/// Returns, each within [`RENEWALS_WITHIN`] of the one before, from which on an announcement seems to lose against an
/// older one.
const RENEWALS: u32 = 3;

/// See [`RENEWALS`].
const RENEWALS_WITHIN: Duration = Duration::from_secs(1);

/// An announcement is raised by a second, and then by twice as much as before, so often: up to 34 years at once, for a
/// clock that began in 1970. Not for ever: a later start that is too far ahead has to be outdone like this itself.
const DOUBLINGS: u32 = 30;

/// This process among the members.
pub(super) struct Swim {
    foca: Foca<Identity, Positional, StdRng, NoCustomBroadcast>,
    rng: StdRng,
    runtime: AccumulatingRuntime<Identity>,
    timers: Timers,
    acceptance: Acceptance,
    spread: Spread,
    renewals: Renewals,
    reconcile: Moment,
}

/// What a message was, as far as it matters outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The sender's list of all members, sent because it was asked.
    List,
    /// Anything else.
    Other,
}

/// Whether a member is known to have taken the current announcement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acceptance {
    Known,
    Unknown,
}

/// Repeats an announcement.
struct Spread {
    next: Option<Moment>,
    rounds: u32,
}

struct Renewals {
    last: Moment,
    count: u32,
}

impl Swim {
    /// Alone, until [`Swim::announce`] has been answered.
    pub(super) fn new(me: Identity, mut rng: StdRng, now: Moment) -> Self {
        Self {
            foca: Foca::new(me, config(), StdRng::from_rng(&mut rng), Positional),
            rng,
            runtime: AccumulatingRuntime::new(),
            timers: Timers::default(),
            acceptance: Acceptance::Unknown,
            spread: Spread { next: None, rounds: 0 },
            renewals: Renewals { last: now, count: 0 },
            reconcile: now + RECONCILE,
        }
    }

    /// What this process announces now.
    pub(super) fn me(&self) -> &Identity {
        self.foca.identity()
    }

    /// The live members, suspected ones included, this process left out.
    pub(super) fn live(&self) -> impl Iterator<Item = &Identity> {
        let me = &self.me().member;
        let is_me = |other: &super::Member| other.address == me.address || other.id == me.id;
        self.foca.iter_members().map(Member::id).filter(move |identity| !is_me(&identity.member))
    }

    /// Every member that is remembered, this process left out.
    pub(super) fn remembered(&self) -> impl Iterator<Item = &Member<Identity>> {
        self.foca.iter_membership_state().filter(|member| member.id().addr() != self.me().addr())
    }

    /// Takes a message that came from this address.
    pub(super) fn receive(&mut self, from: SocketAddr, body: &[u8], now: Moment) -> Result<Heard, Refused> {
        let header = take_header(&mut &body[..]).map_err(|_| Refused::Malformed)?;
        if header.src.addr() != from {
            return Err(Refused::Forged { claimed: header.src.addr() });
        }
        if self.foca.updates_backlog() > limits::UNTOLD_NEWS {
            return Err(Refused::Flood);
        }
        let to_me = header.dst == *self.me();
        let result = self.foca.handle_data(body, &mut self.runtime);
        self.settle(now);
        result.map_err(|_| Refused::Malformed)?;
        Ok(if to_me && header.message == Message::Feed { Heard::List } else { Heard::Other })
    }

    /// Asks whoever is at this address to let this process in.
    pub(super) fn announce(&mut self, to: SocketAddr, now: Moment) {
        self.attempt(now, |foca, runtime| foca.announce(Identity::of_address(to), runtime));
    }

    /// Announces another duty to everybody.
    pub(super) fn change_duty(&mut self, duty: Duty, now: Moment) {
        if let Some(next) = self.me().with_duty(duty) {
            self.change_identity(next, now);
        }
    }

    /// Declares a live member down, at once and everywhere. It returns by itself if it is not.
    pub(super) fn declare_down(&mut self, id: NodeId, now: Moment) {
        let found: Vec<_> = self.live().filter(|live| live.member.id == id).cloned().collect();
        self.apply_down(found, true, now);
    }

    /// Declares a live member down, because it said so itself: this was its last announcement.
    pub(super) fn farewell(&mut self, last: Identity, now: Moment) {
        let known = self.live().any(|live| live.member.id == last.member.id);
        self.apply_down(known.then_some(last), true, now);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Moment) {
        while let Some(timer) = self.timers.pop(now) {
            self.attempt(now, |foca, runtime| foca.handle_timer(timer, runtime));
        }
        if self.spread.next.is_some_and(|due| due <= now) {
            self.repeat_announcement(now);
        }
        if self.reconcile <= now {
            self.reconcile = now + RECONCILE;
            self.ask_the_lost(now);
        }
    }

    /// When [`Swim::tick`] is to be called next.
    pub(super) fn next(&self) -> Moment {
        [self.timers.next(), self.spread.next].into_iter().flatten().fold(self.reconcile, Moment::min)
    }

    /// The messages to be sent, in order.
    pub(super) fn take_sends(&mut self) -> Vec<(SocketAddr, bytes::Bytes)> {
        let sends: Vec<_> = std::iter::from_fn(|| self.runtime.to_send()).map(|(to, body)| (to.addr(), body)).collect();
        let own = self.me().addr();
        sends.into_iter().filter(|(to, _)| *to != own).collect()
    }

    /// Forgets members above [`limits::MEMBERS`]: those that are down, then those that `keep` does not name.
    pub(super) fn trim(&mut self, keep: impl Fn(NodeId) -> bool, now: Moment) {
        let excess = self.foca.iter_membership_state().len().saturating_sub(limits::MEMBERS);
        if excess == 0 {
            return;
        }
        let worth = |member: &&Member<Identity>| (member.state() != State::Down, keep(member.id().member.id));
        let mut members: Vec<_> = self.foca.iter_membership_state().collect();
        members.sort_by_key(worth);
        let forgotten: Vec<_> = members.into_iter().take(excess).map(|member| member.id().clone()).collect();
        self.apply_down(forgotten.clone(), false, now);
        for identity in forgotten {
            self.attempt(now, |foca, runtime| foca.handle_timer(Timer::RemoveDown(identity), runtime));
        }
    }

    fn apply_down(&mut self, gone: impl IntoIterator<Item = Identity>, tell: bool, now: Moment) {
        let gone = gone.into_iter().map(Member::down);
        self.attempt(now, |foca, runtime| foca.apply_many(gone, tell, runtime));
    }

    fn change_identity(&mut self, next: Identity, now: Moment) {
        self.acceptance = Acceptance::Unknown;
        self.attempt(now, |foca, runtime| foca.change_identity(next, runtime));
        self.spread = Spread { next: Some(now), rounds: 0 };
        self.repeat_announcement(now);
    }

    fn repeat_announcement(&mut self, now: Moment) {
        let live: Vec<_> = self.live().cloned().collect();
        let accepted = self.acceptance == Acceptance::Known;
        if live.is_empty() || (accepted && self.spread.rounds >= SPREAD_AT_LEAST) {
            self.spread.next = None;
        } else if self.spread.rounds >= SPREAD_AT_MOST {
            self.spread.next = None;
            self.apply_down(live, true, now);
        } else {
            self.spread = Spread { next: Some(now + GOSSIP), rounds: self.spread.rounds + 1 };
            live.into_iter().for_each(|to| self.attempt(now, |foca, runtime| foca.announce(to, runtime)));
        }
    }

    /// foca asks members that are down only while others are up.
    fn ask_the_lost(&mut self, now: Moment) {
        if self.live().next().is_none() {
            let lost: Vec<_> = self.remembered().map(|member| member.id().clone()).collect();
            lost.into_iter().for_each(|to| self.attempt(now, |foca, runtime| foca.announce(to, runtime)));
        }
    }

    fn attempt(
        &mut self,
        now: Moment,
        act: impl FnOnce(
            &mut Foca<Identity, Positional, StdRng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Identity>,
        ) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = act(&mut self.foca, &mut self.runtime) {
            tracing::debug!(%error, "membership protocol");
        }
        self.settle(now);
    }

    /// Queues the timers and reads the notices that the last step left behind.
    fn settle(&mut self, now: Moment) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.add(now + after, timer);
        }
        while let Some(notice) = self.runtime.to_notify() {
            match notice {
                OwnedNotification::Active => self.acceptance = Acceptance::Known,
                OwnedNotification::Rejoin(_) => self.renewed(now),
                _ => {}
            }
        }
        if self.foca.num_members() == 0 && self.foca.updates_backlog() > 0 {
            self.forget_news(now);
        }
    }

    /// This process has lost everybody. Nobody is left to be told that they are down, and whoever it meets again need not hear
    /// it from one that was cut off: they would lose each other. It remembers it all the same.
    fn forget_news(&mut self, now: Moment) {
        let lost: Vec<_> = self.foca.iter_membership_state().cloned().collect();
        self.foca = Foca::new(self.me().clone(), config(), StdRng::from_rng(&mut self.rng), Positional);
        self.timers = Timers::default();
        self.attempt(now, |foca, runtime| foca.apply_many(lost.into_iter(), false, runtime));
    }

    /// Others had declared this process down, and foca has renewed the announcement.
    fn renewed(&mut self, now: Moment) {
        self.acceptance = Acceptance::Unknown;
        self.spread = Spread { next: Some(now + GOSSIP), rounds: 0 };
        let lately = now.since(self.renewals.last) <= RENEWALS_WITHIN;
        let count = if lately { self.renewals.count.saturating_add(1) } else { 1 };
        self.renewals = Renewals { last: now, count };
        if let Some(excess) = count.checked_sub(RENEWALS)
            && let Some(raised) = self.me().raised(1_000 << excess.min(DOUBLINGS))
        {
            self.change_identity(raised, now);
        }
    }
}

fn config() -> foca::Config {
    let every = |frequency, num_members| Some(PeriodicParams { frequency, num_members });
    foca::Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        suspect_to_down_after: SUSPECT,
        remove_down_after: Some(REMEMBER_DOWN),
        max_transmissions: TRANSMISSIONS,
        max_packet_size: const { NonZero::new(limits::DATAGRAM_BODY_BYTES).unwrap() },
        notify_down_members: true,
        periodic_gossip: every(GOSSIP, GOSSIP_TO),
        periodic_announce: every(RECONCILE, NonZero::<usize>::MIN),
        periodic_announce_to_down_members: every(RECONCILE, GOSSIP_TO),
        ..foca::Config::simple()
    }
}
