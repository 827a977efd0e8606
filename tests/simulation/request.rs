//! A request on its way through a node: turn, ownership, page, commit, copies, answer.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use tasuki::{
    membership::Duty,
    names::{ContextPath, NodeId, SessionId},
    replication::{
        core::{ClaimEnded, Wish},
        ledger::Verdict,
    },
    session::{
        Slots,
        delta::Update,
        draft::{Change, Draft},
        replica::{self, Birth, Committed, Kept, NotOwner, Reach, Record, Slot, Standing, Undo, Visited},
        stamp::Stamp,
    },
    time::Moment,
};

use crate::{
    Canary, canary,
    client::{Call, Heard, Op, Outcome, Seen},
    cluster::{Cluster, Rules, machine_of},
    node::{Input, Node, TurnQueue, Who},
    story,
    world::Event,
};

/// The longest wait of a request for its turn.
const TURN_TIMEOUT: Duration = Duration::from_millis(300);

/// The longest a page takes.
const PAGE_US: u64 = 2_000;

/// Names a request within one life of a node.
pub(crate) type JobId = u64;

/// A request that has been taken in.
#[derive(Debug)]
pub(crate) struct Job {
    call: Call,
    worker: usize,
    session: SessionId,
    changes: Vec<Change>,
    seen: Option<Seen>,
    undo: Option<Undo>,
    stamp: Option<Stamp>,
    /// Of one that goes on under a new id.
    renewal: Option<Renewal>,
}

/// A session that goes on under a new id: first it is written there, then the old one ends.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    new: SessionId,
    /// Nodes that hold the new one.
    copies: Option<usize>,
}

impl Job {
    /// The session that is written now.
    fn written(&self) -> SessionId {
        self.renewal.filter(|renewal| renewal.copies.is_none()).map_or(self.session, |renewal| renewal.new)
    }
}

impl Cluster {
    /// Something of a request happens to a node that is awake.
    pub(crate) fn request_input(&mut self, id: NodeId, input: Input) {
        match input {
            Input::Request(call) => self.take_in(id, call),
            Input::Turn(_, Who::Job(job)) => self.examine(id, job),
            Input::Turn(session, Who::Ask(number)) => {
                if let Some(ask) = self.node_mut(id).and_then(|node| node.asks.remove(&number)) {
                    self.promise(id, ask);
                }
                self.end_turn(id, session, Who::Ask(number));
            }
            Input::Turn(session, Who::Merge(number)) => {
                if let Some(copy) = self.node_mut(id).and_then(|node| node.merges.remove(&number)) {
                    self.merge(id, copy);
                }
                self.end_turn(id, session, Who::Merge(number));
            }
            Input::TurnLate(session, who) => self.turn_late(id, session, who),
            Input::Rendered(job) => self.commit(id, job),
            Input::Claimed(job, ended) => self.claimed(id, job, ended),
            Input::Verdict(job, verdict) => self.verdict(id, job, verdict),
            _ => {}
        }
    }

    fn take_in(&mut self, id: NodeId, call: Call) {
        let worker = self.world.between(1, self.rules.workers as u64) as usize;
        let drawn = self.draw_session();
        let Some(node) = self.node_mut(id) else { return };
        let new = call.session.is_none();
        let session = call.session.unwrap_or(drawn);
        let renewal = (call.op == Op::Renew).then_some(Renewal { new: drawn, copies: None });
        node.next_job += 1;
        let job = node.next_job;
        let call_is_refused = node.duty != Duty::Serving;
        let (changes, seen, undo, stamp) = (Vec::new(), None, None, None);
        node.jobs.insert(job, Job { call, worker, session, changes, seen, undo, stamp, renewal });
        if call_is_refused {
            self.answer(id, job, Outcome::RetryAny);
        } else if new {
            self.render(id, job);
        } else {
            self.want_turn(id, session, Who::Job(job), TURN_TIMEOUT);
        }
    }

    // --- turns ---

    /// Waits for the turn of a session behind those who came before.
    pub(crate) fn want_turn(&mut self, id: NodeId, session: SessionId, who: Who, patience: Duration) {
        let Some(node) = self.node_mut(id) else { return };
        match node.turns.get_mut(&session) {
            Some(queue) => {
                queue.waiting.push_back(who);
                let late = Input::TurnLate(session, who);
                self.world.after(patience.as_micros() as u64, Event::Node(id, late));
            }
            None => {
                node.turns.insert(session, TurnQueue { holder: who, waiting: Default::default() });
                self.world.after(0, Event::Node(id, Input::Turn(session, who)));
            }
        }
    }

    fn end_turn(&mut self, id: NodeId, session: SessionId, who: Who) {
        let Some(node) = self.node_mut(id) else { return };
        let Some(queue) = node.turns.get_mut(&session).filter(|queue| queue.holder == who) else { return };
        match queue.waiting.pop_front() {
            Some(next) => {
                queue.holder = next;
                self.world.after(0, Event::Node(id, Input::Turn(session, next)));
            }
            None => drop(node.turns.remove(&session)),
        }
    }

    fn turn_late(&mut self, id: NodeId, session: SessionId, who: Who) {
        let Some(queue) = self.node_mut(id).and_then(|node| node.turns.get_mut(&session)) else { return };
        let Some(at) = queue.waiting.iter().position(|waiting| *waiting == who) else { return };
        queue.waiting.remove(at);
        match who {
            Who::Job(job) => self.answer(id, job, Outcome::Busy),
            Who::Ask(number) => {
                if let Some(ask) = self.node_mut(id).and_then(|node| node.asks.remove(&number)) {
                    self.keep(id, &ask);
                }
            }
            Who::Merge(number) => {
                if let Some(node) = self.node_mut(id) {
                    node.merges.remove(&number);
                }
            }
        }
    }

    // --- ownership ---

    fn examine(&mut self, id: NodeId, job: JobId) {
        let (now, canary) = (self.moment(id), self.canary);
        let Some(node) = self.node_mut(id) else { return };
        let Some(Job { session, worker, call, .. }) = node.jobs.get(&job) else { return };
        let (session, worker, insist, reach) = (*session, *worker, call.insist, call.reach);
        let term = canary::term(canary, &node.slots, session, now);
        match node.slots.with(session, |slot| replica::standing(slot, &context(reach), term)) {
            Standing::Owned => self.visit(id, job),
            Standing::Ended => self.answer(id, job, Outcome::NoSession),
            Standing::Unknown if reach == Reach::Node => self.answer(id, job, Outcome::NoSession),
            Standing::Held { .. } | Standing::Unknown | Standing::OtherWebapp => {
                let wish = Wish { id: session, context: context(reach), insist };
                let claim = self.with_core(id, worker, |core, now, port| core.claim(wish, now, port));
                let Some((claim, at_once)) = claim else { return };
                match at_once.claimed {
                    Some(ended) => self.claimed(id, job, ended),
                    None => {
                        if let Some(node) = self.node_mut(id) {
                            node.claims.insert((worker, claim), job);
                        }
                    }
                }
            }
        }
    }

    /// Not done here, and the owner is known.
    fn ask_owner(&self, id: NodeId, owner: NodeId) -> Outcome {
        let is_there = owner == id || self.node(id).is_some_and(|node| node.peers().any(|(peer, _)| peer == owner));
        if is_there { Outcome::Retry(machine_of(owner)) } else { Outcome::RetryAny }
    }

    fn claimed(&mut self, id: NodeId, job: JobId, ended: ClaimEnded) {
        match ended {
            ClaimEnded::Owner => self.visit(id, job),
            ClaimEnded::Nothing => self.answer(id, job, Outcome::NoSession),
            ClaimEnded::Contended => self.answer(id, job, Outcome::RetryAny),
            ClaimEnded::Elsewhere(owner) => {
                let outcome = self.ask_owner(id, owner);
                self.answer(id, job, outcome);
            }
        }
    }

    /// Notes that the session is used, as `node/gate.rs` has it: its time may have been over.
    fn visit(&mut self, id: NodeId, job: JobId) {
        let (now, canary) = (self.moment(id), self.canary);
        let Some(node) = self.node_mut(id) else { return };
        let Some(Job { session, worker, .. }) = node.jobs.get(&job) else { return };
        let (session, worker) = (*session, *worker);
        let term = canary::term(canary, &node.slots, session, now);
        match node.slots.with(session, |slot| replica::visit(slot, session, term, now)) {
            Visited::Fresh => self.render(id, job),
            Visited::Tell => {
                self.with_core(id, worker, |core, _, port| core.touch(session, port));
                self.render(id, job);
            }
            Visited::Over(ended) => {
                if let Some(end) = ended {
                    self.with_core(id, worker, |core, now, port| core.announce(&end, now, port));
                }
                self.answer(id, job, Outcome::NoSession);
            }
        }
    }

    // --- page and commit ---

    fn render(&mut self, id: NodeId, job: JobId) {
        let Some(node) = self.node_mut(id) else { return };
        let slots = node.slots.clone();
        let Some(Job { call, session, changes, seen, .. }) = node.jobs.get_mut(&job) else { return };
        let known = slots.with(*session, |slot| Slot::live(slot).map(|record| record.attributes().collect::<Vec<_>>()));
        let mut draft = Draft::of(call.session, known.unwrap_or_default());
        call.op.apply(&mut draft);
        *changes = match call.op {
            Op::Renew => draft.attributes().map(|(name, value)| Change::Set(name.into(), value.clone())).collect(),
            _ => draft.changes().to_vec(),
        };
        *seen = Some(Seen::of(*session, id, &draft));
        let delay_us = self.world.between(0, PAGE_US);
        self.world.after(delay_us, Event::Node(id, Input::Rendered(job)));
    }

    fn commit(&mut self, id: NodeId, job: JobId) {
        if let Some(copies) = self.too_few(id, job) {
            let outcome = if self.is_elsewhere(id, copies) { Outcome::RetryAny } else { Outcome::Busy };
            return self.answer(id, job, outcome);
        }
        let (now, Rules { timeout, is_full, .. }, canary) = (self.moment(id), self.rules, self.canary);
        let Some(node) = self.node_mut(id) else { return };
        let slots = node.slots.clone();
        let Some(this) = node.jobs.get(&job) else { return };
        let (Job { call, changes, renewal, .. }, session, lease) = (this, this.written(), slots.lease());
        let (term, reach, context) = (canary::term(canary, &slots, session, now), call.reach, context(call.reach));
        let birth = || Birth {
            id: session,
            me: id,
            term: lease.latest(),
            context: &context,
            reach: call.reach,
            timeout: Some(timeout),
        };
        let committed = slots.with(session, |slot| match call.op {
            Op::Renew if renewal.is_some_and(|renewal| renewal.copies.is_none()) => {
                Ok(Some(replica::create(slot, &birth(), changes, now)))
            }
            Op::End | Op::Renew => replica::end(slot, session, term, now).map(Some),
            _ if call.session.is_none() => Ok(Some(replica::create(slot, &birth(), changes, now))),
            _ if changes.is_empty() => Ok(None),
            _ => replica::commit(slot, session, changes, term, now).map(|mut committed| {
                if let Some(record) = Slot::live(slot).filter(|_| is_full) {
                    committed.update = Update::Whole(record.whole(session, now));
                }
                Some(committed)
            }),
        });
        if let (Ok(Some(_)), Some(side)) = (&committed, self.plan.apart.side(machine_of(id))) {
            self.checker.wrote_apart(session, side);
        }
        match committed {
            Err(NotOwner) => {
                let owner = slots.with(session, |slot| Slot::live(slot).map(|record| record.promised().node));
                let outcome = self.ask_owner(id, owner.unwrap_or(id));
                self.answer(id, job, outcome);
            }
            Ok(None) => self.done(id, job, 0),
            // It is told to nobody.
            Ok(Some(_)) if reach == Reach::Node => self.held(id, job, 1),
            Ok(Some(committed)) => self.replicate(id, job, committed),
        }
    }

    /// How many nodes would hold a write, if that is fewer than must.
    fn too_few(&mut self, id: NodeId, job: JobId) -> Option<usize> {
        let least = self.rules.least;
        let this = self.node_mut(id)?.jobs.get(&job)?;
        let is_read =
            this.changes.is_empty() && this.call.session.is_some() && !matches!(this.call.op, Op::End | Op::Renew);
        let (worker, written) = (this.worker, this.written());
        if is_read || least < 2 || this.call.reach == Reach::Node || self.canary == Some(Canary::TooFewCopies) {
            return None;
        }
        let copies = self.with_core(id, worker, |core, _, _| core.would_hold(written))?.0;
        (copies < least).then_some(copies)
    }

    /// Whether there are nodes enough for another one to have more luck.
    fn is_elsewhere(&self, id: NodeId, copies: usize) -> bool {
        let live = self.node(id).map_or(0, |node| node.peers().count()) + 1;
        live.saturating_sub(copies) >= self.rules.least
    }

    fn replicate(&mut self, id: NodeId, job: JobId, Committed { update, undo }: Committed) {
        let Some(node) = self.node_mut(id) else { return };
        let Some(this) = node.jobs.get_mut(&job) else { return };
        let written = this.written();
        let Job { session, worker, undo: kept, stamp, .. } = this;
        let (session, worker) = (*session, *worker);
        *stamp = node.slots.with(written, |slot| match slot {
            Some(Slot::Live(record)) => Some(Record::stamp(record)),
            Some(Slot::Ended(tombstone)) => Some(tombstone.ending.stamp),
            Some(Slot::Sought(_)) | None => None,
        });
        *kept = Some(undo);
        let under_way = node.jobs.values().filter(|job| job.undo.is_some() && job.written() == written);
        if under_way.count() > 1 {
            self.checker.violate(format!("{written:?}: two requests of it were under way at once on {id:?}"));
        }
        if self.canary == Some(Canary::TurnEndsAtCommit) {
            self.end_turn(id, session, Who::Job(job));
        }
        let wait = self.with_core(id, worker, |core, now, port| core.replicate(&update, now, port));
        let Some((wait, at_once)) = wait else { return };
        match canary::unproven(self.canary).or(at_once.verdict) {
            Some(verdict) => self.verdict(id, job, verdict),
            None => {
                if let Some(node) = self.node_mut(id) {
                    node.waits.insert((worker, wait), job);
                }
            }
        }
    }

    fn verdict(&mut self, id: NodeId, job: JobId, verdict: Verdict) {
        let now = self.moment(id);
        let Some(node) = self.node_mut(id) else { return };
        let Some(this) = node.jobs.get_mut(&job) else { return };
        let session = this.written();
        let (undo, stamp) = (this.undo.take(), this.stamp);
        // Two nodes may end the same session: an end takes nothing from another.
        let exclusive = !matches!(this.call.op, Op::End | Op::Renew) && self.plan.apart.side(machine_of(id)).is_none();
        let may_be_alone = self.plan.apart.may_be_alone(machine_of(id));
        let Some(node) = self.node_mut(id) else { return };
        story::tell(session, id, || format!("{stamp:?}: {verdict:?}"));
        match verdict {
            Verdict::Held(copies) => {
                let keep = |undo: Undo| node.slots.with(session, |slot| replica::keep(slot, session, &undo, now));
                let told = match undo.map_or(Kept::Stands(None), keep) {
                    Kept::Stands(told) => told,
                    Kept::Ended => return self.answer(id, job, Outcome::NoSession),
                };
                if let Some(stamp) = stamp.filter(|_| copies > 1 && exclusive) {
                    self.checker.committed(session, stamp);
                }
                if copies < 2 && may_be_alone {
                    self.checker.wrote_alone(session);
                }
                self.tell_later(id, told);
                self.held(id, job, copies);
            }
            Verdict::TooFew(copies) => {
                let told = undo.and_then(|undo| {
                    node.slots.unwatched(session, |slot| replica::retreat(slot, session, undo, id, now))
                });
                self.tell_later(id, told);
                let outcome = if self.is_elsewhere(id, copies) { Outcome::Fenced } else { Outcome::TakenBack };
                self.answer(id, job, outcome);
            }
            Verdict::Fenced(epoch) | Verdict::Replaced(epoch) => {
                let undone = undo.and_then(|undo| {
                    node.slots.unwatched(session, |slot| replica::undo(slot, session, undo, epoch, now))
                });
                self.tell_later(id, undone);
                // Another holder may have taken it before it heard of the claim, and the new owner from that holder; a single
                // peer that has refused it has not.
                let is_alone = self.node(id).is_none_or(|node| node.peers().count() < 2);
                let outcome = match verdict {
                    Verdict::Fenced(_) if is_alone => self.ask_owner(id, epoch.node),
                    _ => Outcome::Fenced,
                };
                self.answer(id, job, outcome);
            }
            Verdict::Ended(ending) => {
                node.slots.with(session, |slot| replica::bury(slot, ending, now));
                self.answer(id, job, Outcome::NoSession);
            }
        }
    }

    /// A commit is as safe as it will be: the reply leaves, or the second half of a renewal begins.
    fn held(&mut self, id: NodeId, job: JobId, copies: usize) {
        let renewal = self.node_mut(id).and_then(|node| node.jobs.get_mut(&job)?.renewal.as_mut());
        match renewal {
            Some(renewal) => match renewal.copies.replace(copies) {
                None => self.commit(id, job),
                Some(of_new) => self.done(id, job, copies.min(of_new)),
            },
            None => self.done(id, job, copies),
        }
    }

    // --- answers ---

    fn done(&mut self, id: NodeId, job: JobId, copies: usize) {
        let least = self.rules.least;
        let Some(this) = self.node_mut(id).and_then(|node| node.jobs.get_mut(&job)) else { return };
        let session = this.renewal.map_or(this.session, |renewal| renewal.new);
        if copies > 0 && copies < least && this.call.reach == Reach::Cluster {
            self.checker.violate(format!("{session:?}: a write is answered that {copies} nodes hold"));
        }
        let Some(this) = self.node_mut(id).and_then(|node| node.jobs.get_mut(&job)) else { return };
        if let Some(seen) = this.seen.take() {
            self.answer(id, job, Outcome::Done(Seen { copies, session, ..seen }));
        }
    }

    fn answer(&mut self, id: NodeId, job: JobId, outcome: Outcome) {
        let Some(Job { call, session, .. }) = self.node_mut(id).and_then(|node| node.jobs.remove(&job)) else { return };
        self.end_turn(id, session, Who::Job(job));
        story::tell(session, id, || format!("{:?} of tab {} try {}: {outcome:?}", call.op, call.tab, call.attempt));
        if self.unreachable_until[machine_of(id)] > self.world.now_us() {
            return;
        }
        let delay_us = self.world.between(50, 1_000);
        let heard = Heard::Answer { call: call.number, attempt: call.attempt, from: id, outcome };
        self.world.after(delay_us, Event::Tab(call.tab, heard));
    }

    fn draw_session(&mut self) -> SessionId {
        let (high, low) = (self.world.between(0, u64::MAX), self.world.between(0, u64::MAX));
        SessionId((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }
}

impl Node {
    /// The sessions and values it holds, for comparison with other nodes.
    pub(crate) fn holdings(&self) -> BTreeMap<SessionId, Slot> {
        self.slots.all()
    }

    /// Ended sessions of which it tells nobody any more, and those of which it refuses to hear because it remembers a claim.
    pub(crate) fn fading(&self, now: Moment) -> Vec<SessionId> {
        self.slots.ids(|slot| match slot {
            Slot::Ended(tombstone) => !tombstone.is_told(now),
            Slot::Sought(_) => true,
            Slot::Live(_) => false,
        })
    }
}

/// Sessions that travel and those that do not belong to different webapps.
fn context(reach: Reach) -> ContextPath {
    static ROOT: LazyLock<ContextPath> = LazyLock::new(ContextPath::root);
    static LOCAL: LazyLock<ContextPath> = LazyLock::new(|| "/local".parse().expect("it is a path"));
    match reach {
        Reach::Cluster => ROOT.clone(),
        Reach::Node => LOCAL.clone(),
    }
}
