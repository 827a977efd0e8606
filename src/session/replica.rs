//! The truth about one session on one node: who owns it, what it holds, what may be done to it.
//!
//! Pure: no clock, no socket, no lock. Everything here judges first and then changes one [`Slot`]; the table hands it
//! in, the simulator too.
//!
//! ```text
//!            create                        promise (hand-over), newer update, fence
//!   (none) ─────────► Owned ◄──────────────────────────────────────────► Held
//!                       ▲          adopt                                   │
//!                       └───────────────────── Claiming ◄──────────────────┘ claim
//! ```

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{
    delta::{Answer, Attribute, ClaimRequest, Delta, End, Update, Whole},
    draft::Change,
    lease::Term,
    stamp::{Epoch, Stamp},
    value::Value,
};
use crate::{
    limits,
    names::{ContextPath, NodeId, SessionId},
    time::Moment,
};

/// What a node knows of one session id; nothing at all is `None`.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot {
    /// A session.
    Live(Record),
    /// It has ended. Kept longer than any late delta can be under way.
    Ended(Tombstone),
}

/// One session.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    context: ContextPath,
    stamp: Stamp,
    promised: Epoch,
    tenure: Tenure,
    /// The term of this node's lease in which it became the owner.
    term: Term,
    reach: Reach,
    timeout: Option<u32>,
    accessed: Moment,
    told: Moment,
    attributes: SmallVec<[Attribute; 1]>,
}

/// This node's part in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// It may commit.
    Owned,
    /// It is asking to become the owner.
    Claiming,
    /// It keeps a copy.
    Held,
}

/// How far a session travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To the other nodes.
    Cluster,
    /// Nowhere: its webapp is not `<distributable/>`.
    Node,
}

/// The memory of an ended session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tombstone {
    /// The commit that ended it.
    pub stamp: Stamp,
    /// When even this may be forgotten.
    pub until: Moment,
}

/// What a node can do with a session right now.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It owns it.
    Owned,
    /// It has a copy; the owner is, as far as it knows, `owner`. That may be this node itself, if its lease has run out
    /// since: others may have claimed the session meanwhile.
    Held {
        /// The node with the highest promised epoch.
        owner: NodeId,
    },
    /// It never heard of it.
    Unknown,
    /// The session has ended.
    Ended,
    /// The id belongs to a session of another webapp.
    OtherWebapp,
}

/// How a request finds its session.
#[derive(Clone, Debug, PartialEq)]
pub enum Visited {
    /// In use.
    Fresh,
    /// In use, and it is time that the holders hear of it.
    Tell,
    /// Its time was over: it has ended. See [`Expiry::Over`].
    Over(Option<Update>),
}

/// Whether a session has run out of time.
#[derive(Clone, Debug, PartialEq)]
pub enum Expiry {
    /// It has not, or this node is not the one to end it.
    Runs,
    /// It has ended, and the holders must be told this; nothing when it never left this node.
    Over(Option<Update>),
}

/// How a holder took an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It holds it now.
    Applied,
    /// It held it already.
    Duplicate,
    /// A step in between is missing: it needs the whole session.
    Gap,
    /// It has promised this higher epoch, so the sender is not the owner any more.
    Fenced(Epoch),
    /// The session has ended, with this commit.
    Ended(Stamp),
}

/// A commit that was made here and is not yet safe.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// What the holders must be told.
    pub update: Update,
    /// How to take it back.
    pub undo: Undo,
}

/// The state before a commit that may still be refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Undo {
    stamp: Stamp,
    before: Option<Slot>,
}

/// Why a commit was not made. The request changed nothing and may be sent to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not own the session any more")]
pub struct NotOwner;

/// How an adoption ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// This node is the owner.
    Owner,
    /// A higher epoch was promised meanwhile.
    Superseded(Epoch),
    /// Nobody has the session.
    Nothing,
    /// It has ended here since the claim began, with this commit, which others may have refused because of the claim.
    Ended(Stamp),
}

/// What a node creates a session with.
#[derive(Clone, Debug)]
pub struct Birth<'a> {
    /// The new id.
    pub id: SessionId,
    /// The creator and first owner.
    pub me: NodeId,
    /// The term of its lease. One that has run out is good enough: nobody else knows the session.
    pub term: Term,
    /// The webapp.
    pub context: &'a ContextPath,
    /// How far it travels.
    pub reach: Reach,
    /// Idle time after which it ends.
    pub timeout: Option<Duration>,
}

/// What a claim asks the slot for before any message is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// The epoch to ask for.
    pub epoch: Epoch,
    /// What this node holds.
    pub have: Option<Stamp>,
    /// What it had promised before.
    pub before: Option<Epoch>,
}

/// Holders hear of a session's use when this part of its timeout has passed since they last did.
const TOLD_SHARE: u32 = 10;

impl Slot {
    /// The session, if it is live.
    pub fn live(slot: &Option<Self>) -> Option<&Record> {
        match slot {
            Some(Self::Live(record)) => Some(record),
            _ => None,
        }
    }

    fn live_mut(slot: &mut Option<Self>) -> Option<&mut Record> {
        match slot {
            Some(Self::Live(record)) => Some(record),
            _ => None,
        }
    }
}

impl Record {
    /// The webapp it belongs to.
    pub fn context(&self) -> &ContextPath {
        &self.context
    }

    /// The newest commit in it.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The highest epoch this node has promised; its node is the owner as far as this node knows.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// This node's part in it.
    pub fn tenure(&self) -> Tenure {
        self.tenure
    }

    /// Whether this node may answer from it and change it: it is the owner, and its lease, of which `term` is the term
    /// that holds now, has not run out since it became the owner. What never leaves this node needs no lease.
    pub fn is_owned(&self, term: Option<Term>) -> bool {
        self.tenure == Tenure::Owned && (self.reach == Reach::Node || term == Some(self.term))
    }

    /// How far it travels.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// When it was last used.
    pub fn accessed(&self) -> Moment {
        self.accessed
    }

    /// What is in it.
    pub fn attributes(&self) -> impl Iterator<Item = (Arc<str>, Value)> + '_ {
        self.attributes.iter().map(|attribute| (attribute.name.clone(), attribute.value.clone()))
    }

    /// It has been idle for longer than its timeout, times `patience`.
    pub fn is_over(&self, now: Moment, patience: u32) -> bool {
        self.timeout.is_some_and(|timeout| {
            now.since(self.accessed) >= Duration::from_secs(timeout.into()).saturating_mul(patience)
        })
    }

    /// How long an owner may let the session be used without telling the holders.
    fn untold(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or_default().into()) / TOLD_SHARE
    }

    /// The session as it stands.
    pub fn whole(&self, id: SessionId, now: Moment) -> Whole {
        Whole {
            id,
            context: self.context.clone(),
            owner: self.promised,
            stamp: self.stamp,
            timeout: self.timeout.map(|seconds| Duration::from_secs(seconds.into())),
            idle: now.since(self.accessed),
            attributes: self.attributes.to_vec(),
        }
    }

    fn apply(&mut self, changes: &[Change], stamp: Stamp, now: Moment) {
        debug_assert!(stamp > self.stamp, "a session moves forward");
        for change in changes {
            let at = self.attributes.iter().position(|known| known.name == *change.name());
            match (change, at) {
                (Change::Set(_, value), Some(at)) => {
                    self.attributes[at].value = value.clone();
                    self.attributes[at].stamp = stamp;
                }
                (Change::Set(name, value), None) => {
                    self.attributes.push(Attribute { name: name.clone(), value: value.clone(), stamp });
                }
                (Change::Remove(_), Some(at)) => drop(self.attributes.remove(at)),
                (Change::Remove(_), None) => {}
            }
        }
        self.stamp = stamp;
        self.accessed = now;
        self.told = now;
    }

    fn of_whole(whole: Whole, tenure: Tenure, now: Moment) -> Self {
        Self {
            context: whole.context,
            stamp: whole.stamp,
            promised: whole.owner,
            tenure,
            term: Term::default(),
            reach: Reach::Cluster,
            timeout: whole.timeout.map(seconds),
            accessed: now - whole.idle,
            told: now,
            attributes: whole.attributes.into(),
        }
    }
}

/// What this node can do with the session for a request of `context`. `term` is the one that holds now.
pub fn standing(slot: &Option<Slot>, context: &ContextPath, term: Option<Term>) -> Standing {
    match slot {
        None => Standing::Unknown,
        Some(Slot::Ended(_)) => Standing::Ended,
        Some(Slot::Live(record)) if record.context != *context => Standing::OtherWebapp,
        Some(Slot::Live(record)) if record.is_owned(term) => Standing::Owned,
        Some(Slot::Live(record)) => Standing::Held { owner: record.promised.node },
    }
}

/// A request comes to a session that this node owns: its use is noted, unless its time was over already.
pub fn visit(slot: &mut Option<Slot>, id: SessionId, term: Option<Term>, now: Moment) -> Visited {
    match expire(slot, id, term, now) {
        Expiry::Over(ended) => Visited::Over(ended),
        Expiry::Runs if touch(slot, now) => Visited::Tell,
        Expiry::Runs => Visited::Fresh,
    }
}

/// Ends a session of this node if its time is over.
pub fn expire(slot: &mut Option<Slot>, id: SessionId, term: Option<Term>, now: Moment) -> Expiry {
    let over = |record: &&Record| record.is_owned(term) && record.is_over(now, 1);
    let Some(reach) = Slot::live(slot).filter(over).map(Record::reach) else { return Expiry::Runs };
    let ended = end(slot, id, term, now).ok().map(|committed| committed.update);
    Expiry::Over(ended.filter(|_| reach == Reach::Cluster))
}

/// Notes that a request used the session, and says whether the holders should hear of it: they do when a tenth of the
/// timeout has passed since they last did, so reading costs no message.
pub fn touch(slot: &mut Option<Slot>, now: Moment) -> bool {
    let Some(record) = Slot::live_mut(slot) else { return false };
    record.accessed = now;
    let due = record.timeout.is_some() && now.since(record.told) >= record.untold();
    if due && record.tenure == Tenure::Owned {
        record.told = now;
    }
    due && record.tenure == Tenure::Owned && record.reach == Reach::Cluster
}

/// Takes over an owner's word that a session was used.
pub fn touched(slot: &mut Option<Slot>, idle: Duration, now: Moment) {
    if let Some(record) = Slot::live_mut(slot).filter(|record| record.tenure != Tenure::Owned) {
        record.accessed = record.accessed.max(now - idle);
    }
}

/// Creates a session by its first write.
pub fn create(slot: &mut Option<Slot>, birth: &Birth<'_>, changes: &[Change], now: Moment) -> Committed {
    debug_assert!(slot.is_none(), "a drawn id is new");
    let epoch = Epoch::first(birth.me);
    let mut record = Record {
        context: birth.context.clone(),
        stamp: Stamp { epoch, version: 0 },
        promised: epoch,
        tenure: Tenure::Owned,
        term: birth.term,
        reach: birth.reach,
        timeout: birth.timeout.map(seconds),
        accessed: now,
        told: now,
        attributes: SmallVec::new(),
    };
    let stamp = Stamp { epoch, version: 1 };
    record.apply(changes, stamp, now);
    let update = Update::Whole(record.whole(birth.id, now));
    *slot = Some(Slot::Live(record));
    Committed { update, undo: Undo { stamp, before: None } }
}

/// Commits a request's changes on the owner.
///
/// The first commit of an ownership is told whole, because the holders' copies may end at different versions.
pub fn commit(
    slot: &mut Option<Slot>,
    id: SessionId,
    changes: &[Change],
    term: Option<Term>,
    now: Moment,
) -> Result<Committed, NotOwner> {
    let before = slot.clone();
    let record = Slot::live_mut(slot).filter(|record| record.is_owned(term)).ok_or(NotOwner)?;
    let first_of_epoch = record.stamp.epoch != record.promised;
    let stamp = Stamp { epoch: record.promised, version: record.stamp.version.saturating_add(1) };
    record.apply(changes, stamp, now);
    let update = if first_of_epoch {
        Update::Whole(record.whole(id, now))
    } else {
        Update::Delta(Delta { id, stamp, changes: changes.to_vec() })
    };
    Ok(Committed { update, undo: Undo { stamp, before } })
}

/// Ends a session on its owner: by logout, or because its time is over.
pub fn end(slot: &mut Option<Slot>, id: SessionId, term: Option<Term>, now: Moment) -> Result<Committed, NotOwner> {
    let record = Slot::live(slot).filter(|record| record.is_owned(term)).ok_or(NotOwner)?;
    let stamp = Stamp { epoch: record.promised, version: record.stamp.version.saturating_add(1) };
    let tombstone = Tombstone { stamp, until: now + limits::TOMBSTONE };
    let before = slot.replace(Slot::Ended(tombstone));
    Ok(Committed { update: Update::End(End { id, stamp }), undo: Undo { stamp, before } })
}

/// Takes back a commit that a holder refused, and yields to the epoch it has promised.
///
/// When something newer has arrived meanwhile there is nothing left to take back.
pub fn undo(slot: &mut Option<Slot>, undo: Undo, promised: Epoch) {
    let current = match slot {
        Some(Slot::Live(record)) => Some(record.stamp),
        Some(Slot::Ended(tombstone)) => Some(tombstone.stamp),
        None => None,
    };
    // What was promised since then stays promised.
    let since = Slot::live(slot).map(|record| record.promised);
    if current == Some(undo.stamp) {
        *slot = undo.before;
    }
    yield_to(slot, since.map_or(promised, |since| since.max(promised)));
}

/// Learns that another node has a higher claim.
pub fn yield_to(slot: &mut Option<Slot>, promised: Epoch) {
    if let Some(record) = Slot::live_mut(slot).filter(|record| record.promised < promised) {
        record.promised = promised;
        record.tenure = Tenure::Held;
    }
}

/// Learns from the refusal by `peer` of an update with `stamp`, which nobody waited for, that another node has a higher
/// claim.
///
/// An end that the later owner itself refuses is forgotten: a node that was cut off, and found sessions to be over, must
/// not end those that have gone on elsewhere. A refusal by anybody else is only a promise to somebody who is about to ask
/// here, and must still hear of the end; so is one of something older than the end.
pub fn retract(slot: &mut Option<Slot>, stamp: Stamp, promised: Epoch, peer: NodeId) {
    match slot {
        Some(Slot::Ended(tombstone)) if tombstone.stamp == stamp && promised.node == peer => *slot = None,
        _ => yield_to(slot, promised),
    }
}

/// Takes an update from its sender, or says why not. The sender counts it as held after `Applied` and `Duplicate` only.
pub fn apply(slot: &mut Option<Slot>, update: Update, now: Moment) -> Applied {
    match update {
        Update::Delta(delta) => apply_delta(slot, &delta, now),
        Update::Whole(whole) => apply_whole(slot, whole, now),
        Update::End(end) => apply_end(slot, &end, now),
    }
}

fn apply_delta(slot: &mut Option<Slot>, delta: &Delta, now: Moment) -> Applied {
    let verdict = match slot {
        None => Applied::Gap,
        Some(Slot::Ended(tombstone)) => Applied::Ended(tombstone.stamp),
        Some(Slot::Live(record)) => judge_delta(record, delta.stamp),
    };
    if let (Applied::Applied, Some(record)) = (verdict, Slot::live_mut(slot)) {
        record.promised = delta.stamp.epoch;
        record.tenure = Tenure::Held;
        record.apply(&delta.changes, delta.stamp, now);
    }
    verdict
}

fn judge_delta(record: &Record, stamp: Stamp) -> Applied {
    if stamp.epoch < record.promised {
        return Applied::Fenced(record.promised);
    }
    if stamp <= record.stamp {
        return Applied::Duplicate;
    }
    let follows = record.stamp.epoch == stamp.epoch && record.stamp.version + 1 == stamp.version;
    if follows { Applied::Applied } else { Applied::Gap }
}

fn apply_whole(slot: &mut Option<Slot>, whole: Whole, now: Moment) -> Applied {
    let verdict = match slot {
        None => Applied::Applied,
        Some(Slot::Ended(tombstone)) => Applied::Ended(tombstone.stamp),
        Some(Slot::Live(record)) => judge_whole(record, &whole),
    };
    match (verdict, &mut *slot) {
        (Applied::Applied, _) => *slot = Some(Slot::Live(Record::of_whole(whole, Tenure::Held, now))),
        (Applied::Duplicate, Some(Slot::Live(_))) => yield_to(slot, whole.owner),
        _ => {}
    }
    verdict
}

fn judge_whole(record: &Record, whole: &Whole) -> Applied {
    if whole.owner < record.promised {
        return Applied::Fenced(record.promised);
    }
    if whole.stamp <= record.stamp { Applied::Duplicate } else { Applied::Applied }
}

fn apply_end(slot: &mut Option<Slot>, end: &End, now: Moment) -> Applied {
    let verdict = match slot {
        None => Applied::Applied,
        Some(Slot::Ended(tombstone)) => {
            // The higher rank is remembered: who tells of the end later must not be refused by those who promised it.
            tombstone.stamp = tombstone.stamp.max(end.stamp);
            Applied::Duplicate
        }
        Some(Slot::Live(record)) if end.stamp.epoch < record.promised => Applied::Fenced(record.promised),
        Some(Slot::Live(_)) => Applied::Applied,
    };
    if verdict == Applied::Applied {
        *slot = Some(Slot::Ended(Tombstone { stamp: end.stamp, until: now + limits::TOMBSTONE }));
    }
    verdict
}

/// What a claim of `me` asks for. Changes nothing: see [`claim`].
///
/// `above` is an epoch that refused an earlier try.
pub fn intent(slot: &Option<Slot>, me: NodeId, above: Option<Epoch>) -> Intent {
    let Some(record) = Slot::live(slot) else {
        let epoch = above.map_or(Epoch::first(me), |epoch| epoch.outranked_by(me));
        return Intent { epoch, have: None, before: None };
    };
    let before = record.promised;
    let epoch = above.map_or(before, |epoch| epoch.max(before)).outranked_by(me);
    Intent { epoch, have: Some(record.stamp), before: Some(before) }
}

/// Begins a claim. Until it is adopted it outranks nobody here: an owner that keeps its session must not have been
/// refused meanwhile, and what this node takes from it in that time goes with the session.
///
/// # Errors
/// A higher epoch that was promised to another node since the claim was intended.
pub fn claim(slot: &mut Option<Slot>, epoch: Epoch) -> Result<(), Epoch> {
    let Some(record) = Slot::live_mut(slot) else { return Ok(()) };
    if record.promised > epoch {
        return Err(record.promised);
    }
    record.tenure = Tenure::Claiming;
    Ok(())
}

/// A member's answer to a claim. `serves` tells of a node whether it is live and answers requests: an owner that does
/// need not give a session away, unless the claimant insists. Of itself a node says so only if it is the owner in `term`,
/// the one that holds now: two that were apart must not send a request to each other for ever.
///
/// When this node owns the session, the caller holds the session's turn: no request of it is running.
pub fn promise(
    slot: &mut Option<Slot>,
    request: &ClaimRequest,
    (me, term): (NodeId, Option<Term>),
    serves: impl FnOnce(NodeId) -> bool,
    now: Moment,
) -> Answer {
    let record = match slot {
        None => return Answer::Unknown,
        Some(Slot::Ended(tombstone)) => return Answer::Ended(tombstone.stamp),
        Some(Slot::Live(record)) if record.context != request.context || record.reach == Reach::Node => {
            return Answer::Unknown;
        }
        Some(Slot::Live(record)) => record,
    };
    let owner = record.promised.node;
    let is_right = if owner == me { record.is_owned(term) } else { owner != request.epoch.node };
    if !request.insist && is_right && serves(owner) {
        return Answer::Owned(owner);
    }
    // It may know of this very claim already, from a fence.
    if request.epoch < record.promised {
        return Answer::Refused(record.promised);
    }
    record.promised = request.epoch;
    record.tenure = Tenure::Held;
    let newer = request.have.is_none_or(|have| have < record.stamp);
    Answer::Promised(newer.then(|| record.whole(request.id, now)))
}

/// Ends a claim: this node becomes the owner of the newest copy, unless a higher epoch was promised meanwhile.
///
/// The last owner may have let it be used without telling, so its time is counted from the latest such use: a session
/// must not run out early because its node died.
///
/// `term` is that of this node's lease when the claim began: a lease that ran out meanwhile voids the claim.
pub fn adopt(slot: &mut Option<Slot>, epoch: Epoch, newest: Option<Whole>, term: Term, now: Moment) -> Adoption {
    match slot {
        Some(Slot::Ended(tombstone)) => return Adoption::Ended(tombstone.stamp),
        Some(Slot::Live(record)) if record.promised > epoch => return Adoption::Superseded(record.promised),
        _ => {}
    }
    let held = Slot::live(slot).map(Record::stamp);
    if let Some(newest) = newest.filter(|newest| held.is_none_or(|held| held < newest.stamp)) {
        *slot = Some(Slot::Live(Record::of_whole(newest, Tenure::Owned, now)));
    }
    let Some(record) = Slot::live_mut(slot) else { return Adoption::Nothing };
    record.promised = epoch;
    record.tenure = Tenure::Owned;
    record.term = term;
    record.accessed = (record.accessed + record.untold()).min(now);
    Adoption::Owner
}

/// Takes a claim back because the owner serves: this node follows it as before.
pub fn withdraw(slot: &mut Option<Slot>) {
    if let Some(record) = Slot::live_mut(slot).filter(|record| record.tenure == Tenure::Claiming) {
        record.tenure = Tenure::Held;
    }
}

/// Learns that the session has ended elsewhere. An end is final whatever was committed beside it: a user who logged out
/// must not be logged in again by a node that did not hear of it.
pub fn bury(slot: &mut Option<Slot>, stamp: Stamp, now: Moment) {
    if matches!(slot, Some(Slot::Live(_))) {
        *slot = Some(Slot::Ended(Tombstone { stamp, until: now + limits::TOMBSTONE }));
    }
}

fn seconds(timeout: Duration) -> u32 {
    timeout.as_secs().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
