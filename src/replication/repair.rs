//! How a peer comes to hold what this node holds: where both differ, which sessions that is, and these.
//!
//! ```text
//!   this node                                   peer
//!   digest of all that both should have   ──►   its own; which buckets differ, which are empty there
//!   sessions of empty buckets, at once    ──►
//!   lists of the other buckets' sessions  ──►   which of them it lacks or has otherwise
//!   those                                 ──►   merges them
//! ```
//!
//! Sessions are told in batches of some hundred. Pure: one of these for each peer, a round at a time. A round is done when
//! the last session of it is acknowledged. It works on a window of buckets, so a million sessions take no more memory than
//! [`limits::REPAIR_IDS`] of them, and the peer's answers and acknowledgements are the credit.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    batch::{Batch, BatchNumber, Packed},
    buckets::{self, Buckets},
    survey::{Finding, Listed, Question, RoundNumber, Wanted, Window},
};
use crate::{limits, names::SessionId, session::digest::Digest, time::Moment};

/// The repair of one peer.
#[derive(Debug, Default)]
pub(super) struct Repair {
    reason_at: Option<Moment>,
    /// When to look even without a reason.
    look_at: Option<Moment>,
    number: RoundNumber,
    /// The last one of this link.
    batch: BatchNumber,
    round: Option<Round>,
    looks: u32,
    /// What the peer wanted in the round before.
    wanted_before: Option<usize>,
    /// Sessions were left to other nodes that may lack them as well.
    is_unproved: bool,
}

/// What a round has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Sessions that both nodes should have, as this node counts them.
    pub sessions: usize,
    /// Buckets that differed, of 4,096.
    pub differing: usize,
    /// Sessions the peer was asked about.
    pub listed: usize,
    /// Sessions it was told, ended ones included.
    pub told: usize,
    /// Sessions that other nodes are to tell.
    pub left: usize,
    /// How long the round took.
    pub took: Duration,
}

#[derive(Debug)]
struct Round {
    has_reason: bool,
    began_at: Moment,
    moved_at: Moment,
    waits: Waits,
    /// To be sent as soon as there is room.
    question: Option<Question>,
    counts: Box<[u32]>,
    /// Buckets of which nothing has been looked up yet.
    tell_in: Buckets,
    list_in: Buckets,
    tell: VecDeque<SessionId>,
    /// What a survey has packed already, and how many sessions that is.
    packed: VecDeque<Packed>,
    ahead: usize,
    /// To be sent as soon as there is room.
    batch: Option<Batch>,
    /// Batches that are on their way or not yet answered.
    under_way: Vec<BatchNumber>,
    /// Sessions with a commit that may still be refused, and since when: to be told at the next tick.
    open: Vec<SessionId>,
    open_since: BTreeMap<SessionId, Moment>,
    list: VecDeque<Listed>,
    /// The list that the peer was asked about last.
    asked: Vec<SessionId>,
    wanted: usize,
    is_unproved: bool,
    report: Repaired,
}

/// Why a round should begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It should not.
    Nothing,
    /// The peer may lack something.
    Reason,
    /// It is only time to look whether it does.
    Look,
}

/// What a round cannot go on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Digest,
    Differences,
    Window,
    Nothing,
}

impl Repair {
    /// The peer may lack something, as of now.
    pub(super) fn want(&mut self, now: Moment) {
        self.reason_at = Some(now);
    }

    /// What a round should begin for: none is going on, and there is a reason that is as old as `quiet_since`, or it is
    /// time for a look.
    pub(super) fn due(&self, quiet_since: Moment, now: Moment) -> Due {
        let has_reason = self.reason_at.is_some_and(|at| at <= quiet_since);
        match self.round {
            None if has_reason => Due::Reason,
            None if self.look_at.is_some_and(|at| at <= now) => Due::Look,
            _ => Due::Nothing,
        }
    }

    /// Begins a round; the digest is to be made.
    pub(super) fn begin(&mut self, now: Moment) -> RoundNumber {
        let has_reason = self.reason_at.take().is_some();
        if has_reason {
            (self.looks, self.wanted_before) = (0, None);
        }
        self.look_at = None;
        self.number = self.number.wrapping_add(1);
        self.round = Some(Round::new(has_reason || self.is_unproved, now));
        self.number
    }

    /// The digest is made.
    pub(super) fn digested(&mut self, number: RoundNumber, digest: &Digest, now: Moment) {
        let Some(round) = self.current(number).filter(|round| round.waits == Waits::Digest) else { return };
        round.moved_at = now;
        round.counts = digest.counts().into();
        round.report.sessions = digest.counts().iter().map(|count| *count as usize).sum();
        round.waits = Waits::Nothing;
        if round.report.sessions > 0 {
            round.waits = Waits::Differences;
            round.question = Some(Question::Digest { round: number, sums: digest.sums().into() });
        }
    }

    /// The peer has answered a question.
    pub(super) fn found(&mut self, finding: Finding, now: Moment) {
        match finding {
            Finding::Differs { round, differing, empty } => self.differs(round, &differing, &empty, now),
            Finding::Wants { round, wanted } => self.wants(round, &wanted, now),
        }
    }

    /// The sessions of a window have been looked up.
    pub(super) fn looked_up(&mut self, number: RoundNumber, window: Window, now: Moment) {
        let Some(round) = self.current(number).filter(|round| round.waits == Waits::Window) else { return };
        round.moved_at = now;
        round.waits = Waits::Nothing;
        round.report.left += window.left;
        round.is_unproved |= window.unproved > 0;
        round.ahead += window.packed.iter().map(|packed| packed.sessions).sum::<usize>();
        round.packed.extend(window.packed);
        round.tell.extend(window.tell);
        round.list.extend(window.list);
    }

    /// The peer gives signs of life.
    pub(super) fn moved(&mut self, now: Moment) {
        if let Some(round) = &mut self.round {
            round.moved_at = now;
        }
    }

    /// The question to be sent now, again and again until [`Repair::asked`].
    pub(super) fn question(&mut self) -> Option<&Question> {
        let number = self.number;
        let round = self.round.as_mut()?;
        if round.question.is_none() && round.may_list() {
            let some = round.list.len().min(limits::REPAIR_LIST);
            let sessions: Vec<Listed> = round.list.drain(..some).collect();
            round.asked = sessions.iter().map(|listed| listed.id).collect();
            round.question = Some(Question::List { round: number, sessions });
        }
        round.question.as_ref()
    }

    /// The question is on its way.
    pub(super) fn asked(&mut self) {
        if let Some(round) = &mut self.round {
            round.question = None;
            round.report.listed += round.asked.len();
        }
    }

    /// The next session to tell, the same until [`Repair::told`]: a full queue must not lose its place.
    pub(super) fn next(&self) -> Option<SessionId> {
        self.round.as_ref()?.tell.front().copied()
    }

    /// Whether the peer has acknowledged so much that it may be told more.
    pub(super) fn has_credit(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.under_way.len() < limits::REPAIR_BATCHES)
    }

    /// The next of what a survey has packed.
    pub(super) fn next_packed(&mut self) -> Option<Packed> {
        let round = self.round.as_mut()?;
        let packed = round.packed.pop_front()?;
        round.ahead -= packed.sessions;
        Some(packed)
    }

    /// These sessions are to be sent as the next batch.
    pub(super) fn tell(&mut self, Packed { bytes, sessions }: Packed) {
        if let Some(round) = &mut self.round {
            self.batch = self.batch.wrapping_add(1);
            round.batch = Some(Batch { number: self.batch, bytes });
            round.report.told += sessions;
        }
    }

    /// The batch to be sent now, again and again until [`Repair::sent`].
    pub(super) fn batch(&self) -> Option<&Batch> {
        self.round.as_ref()?.batch.as_ref()
    }

    /// The batch is on its way.
    pub(super) fn sent(&mut self) {
        if let Some(round) = &mut self.round {
            round.under_way.extend(round.batch.take().map(|batch| batch.number));
        }
    }

    /// The peer holds what a batch has told. Of a batch that nobody waits for this means nothing.
    pub(super) fn took(&mut self, batch: BatchNumber) {
        if let Some(round) = &mut self.round {
            round.under_way.retain(|number| *number != batch);
        }
    }

    /// The next session is on its way by itself.
    pub(super) fn told(&mut self) {
        if let Some(round) = &mut self.round {
            round.report.told += usize::from(round.tell.pop_front().is_some());
        }
    }

    /// The next session has its place in a batch, or there is nothing to tell of it any more.
    pub(super) fn passed(&mut self) {
        if let Some(round) = &mut self.round {
            round.tell.pop_front();
        }
    }

    /// Whether a peer that has nothing of some sessions may be left to others that ought to tell it of them. Not in a look
    /// after a round: they may lack them as well.
    pub(super) fn leaves_to_others(&self) -> bool {
        self.looks == 0
    }

    /// The next session cannot be told now: a commit of it may still be refused, and it may have left before there was a
    /// link to the peer. One that is open again and again is told by its commits.
    pub(super) fn postpone(&mut self, now: Moment) {
        let Some(round) = &mut self.round else { return };
        let Some(id) = round.tell.pop_front() else { return };
        let since = *round.open_since.entry(id).or_insert(now);
        if now.since(since) < limits::REPAIR_OPEN {
            round.open.push(id);
        }
    }

    /// What is to be looked up next, if little is left of what was looked up before; [`Repair::looked_up`] follows.
    pub(super) fn next_window(&mut self) -> Option<(RoundNumber, Wanted)> {
        let round = self.round.as_mut().filter(|round| round.needs_window())?;
        round.waits = Waits::Window;
        Some((self.number, round.next_window()))
    }

    /// Nothing that was told is under way any more. Gives the report if that ends the round; then the next look comes
    /// after `interval`, or soon if this round does not prove that the peer lacks nothing.
    pub(super) fn drained(&mut self, interval: Duration, now: Moment) -> Option<Repaired> {
        let round = self.round.take_if(|round| round.is_done())?;
        let less = self.wanted_before.is_none_or(|before| round.wanted <= before / 2);
        let is_proved = round.wanted == 0 && round.report.left == 0;
        self.is_unproved = round.is_unproved;
        if self.is_unproved {
            self.looks = 1;
            self.look_at = Some(now + limits::REPAIR_LEFT.min(interval));
        } else if is_proved || !less || self.looks >= limits::REPAIR_LOOKS {
            (self.looks, self.wanted_before) = (0, None);
            self.look_at = Some(now + interval);
        } else {
            let pause = limits::REPAIR_AGAIN * 2_u32.pow(self.looks);
            self.look_at = Some(now + pause.min(interval));
            self.looks += 1;
            self.wanted_before = (round.wanted > 0).then_some(round.wanted);
        }
        Some(Repaired { took: now.since(round.began_at), ..round.report })
    }

    /// Time passes: what could not be told is tried again, and a round in which nothing has happened for too long begins anew.
    pub(super) fn tick(&mut self, now: Moment) {
        if let Some(round) = &mut self.round {
            let open = std::mem::take(&mut round.open);
            round.tell.extend(open);
        }
        let is_stuck = |round: &mut Round| now.since(round.moved_at) >= limits::REPAIR_PATIENCE;
        if self.round.take_if(is_stuck).is_some() {
            self.want(now);
        }
    }

    /// The link broke: what was under way counts for nothing, and the next link is a reason of its own.
    pub(super) fn broken(&mut self) {
        *self = Self { number: self.number, ..Self::default() };
    }

    /// A round has ended since the last reason, and left nothing to others that they might lack.
    pub(super) fn is_complete(&self) -> bool {
        self.reason_at.is_none() && !self.is_unproved && self.round.as_ref().is_none_or(|round| !round.has_reason)
    }

    fn differs(&mut self, number: RoundNumber, differing: &Buckets, empty: &Buckets, now: Moment) {
        let Some(round) = self.current(number).filter(|round| round.waits == Waits::Differences) else { return };
        round.moved_at = now;
        round.waits = Waits::Nothing;
        let counts = &round.counts;
        let mine = |bucket: &usize| counts.get(*bucket).is_some_and(|count| *count > 0);
        round.tell_in = differing.iter().filter(mine).filter(|bucket| empty.contains(*bucket)).collect();
        round.list_in = differing.iter().filter(mine).filter(|bucket| !empty.contains(*bucket)).collect();
        round.report.differing = differing.len();
    }

    fn wants(&mut self, number: RoundNumber, wanted: &[u8], now: Moment) {
        // An answer to what has not been sent is none.
        let Some(round) = self.current(number).filter(|round| round.question.is_none()) else { return };
        round.moved_at = now;
        let asked = std::mem::take(&mut round.asked).into_iter().enumerate();
        let before = round.tell.len();
        round.tell.extend(asked.filter(|(at, _)| buckets::is_marked(wanted, *at)).map(|(_, id)| id));
        round.wanted += round.tell.len() - before;
    }

    fn current(&mut self, number: RoundNumber) -> Option<&mut Round> {
        self.round.as_mut().filter(|_| self.number == number)
    }
}

impl Round {
    fn new(has_reason: bool, now: Moment) -> Self {
        Self {
            has_reason,
            began_at: now,
            moved_at: now,
            waits: Waits::Digest,
            question: None,
            counts: Box::default(),
            tell_in: Buckets::default(),
            list_in: Buckets::default(),
            tell: VecDeque::new(),
            packed: VecDeque::new(),
            ahead: 0,
            batch: None,
            under_way: Vec::new(),
            open: Vec::new(),
            open_since: BTreeMap::new(),
            list: VecDeque::new(),
            asked: Vec::new(),
            wanted: 0,
            is_unproved: false,
            report: Repaired::default(),
        }
    }

    /// The next list goes out when the last one was answered and nearly all that it brought is on its way.
    fn may_list(&self) -> bool {
        self.asked.is_empty() && !self.list.is_empty() && self.tell.len() < limits::REPAIR_LIST
    }

    /// While the second half of a window is told the next one is looked up, so that the peer always has something to take.
    fn needs_window(&self) -> bool {
        let has_buckets = !(self.tell_in.is_empty() && self.list_in.is_empty());
        let known = self.ahead + self.tell.len() + self.list.len();
        self.waits == Waits::Nothing && has_buckets && known < limits::REPAIR_IDS / 2
    }

    /// Takes as many buckets as [`limits::REPAIR_IDS`] sessions fill, and at least one.
    fn next_window(&mut self) -> Wanted {
        let (mut wanted, mut room) = (Wanted::default(), limits::REPAIR_IDS);
        take_buckets(&mut self.tell_in, &mut wanted.tell, &self.counts, &mut room);
        take_buckets(&mut self.list_in, &mut wanted.list, &self.counts, &mut room);
        wanted
    }

    fn is_done(&self) -> bool {
        let nothing_left = self.tell_in.is_empty() && self.list_in.is_empty();
        let nothing_waits = self.waits == Waits::Nothing && self.question.is_none() && self.asked.is_empty();
        let all_known = self.open.is_empty() && self.tell.is_empty() && self.list.is_empty();
        let all_told = self.packed.is_empty() && self.batch.is_none() && self.under_way.is_empty();
        nothing_left && nothing_waits && all_known && all_told
    }
}

fn take_buckets(from: &mut Buckets, into: &mut Buckets, counts: &[u32], room: &mut usize) {
    for bucket in from.iter().collect::<Vec<_>>() {
        let count = counts.get(bucket).map_or(0, |count| *count as usize);
        if count > *room && *room < limits::REPAIR_IDS {
            *room = 0;
            return;
        }
        *room = room.saturating_sub(count);
        from.remove(bucket);
        into.insert(bucket);
    }
}

#[cfg(test)]
mod tests;
