//! The life of a session on the node that owns it: created, used, changed, ended, and a change that was refused taken back.

use std::time::Duration;

use smallvec::SmallVec;

use super::{Reach, Record, Slot, Tenure, yield_to};
use crate::{
    names::{ContextPath, NodeId, SessionId},
    session::{
        attributes::Before,
        delta::{Delta, End, Ending, Finality, Update, Whole},
        draft::Change,
        lease::Term,
        stamp::{Epoch, Stamp},
    },
    time::Moment,
};

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
    before: Earlier,
}

#[derive(Clone, Debug, PartialEq)]
enum Earlier {
    /// There was no session.
    Nothing,
    /// The session had not ended.
    Running(Slot),
    /// What the commit changed was different.
    Changed(Stamp, SmallVec<[Before; 2]>),
}

/// What has become of a commit that is safe.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// It stands. The others are to be told this: that an end is final, or what they lack, if they have gone on meanwhile
    /// without it.
    Stands(Option<Update>),
    /// The session was ended by another node meanwhile, whose user was told so: what was committed ended with it.
    Ended,
}

/// Why a commit was not made. The request changed nothing and may be sent to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not own the session any more")]
pub struct NotOwner;

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

/// What this node can do with the session for a request of `context`. `term` is the one that holds now.
pub fn standing(slot: &Option<Slot>, context: &ContextPath, term: Option<Term>) -> Standing {
    match slot {
        None | Some(Slot::Sought(_)) => Standing::Unknown,
        Some(Slot::Ended(_)) => Standing::Ended,
        Some(Slot::Live(record)) if record.context != *context => Standing::OtherWebapp,
        Some(Slot::Live(record)) if record.is_owned(term) => Standing::Owned,
        Some(Slot::Live(record)) => Standing::Held { owner: record.promised().node },
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
    let due = record.timeout().is_some() && now.since(record.told) >= record.untold();
    if due && record.tenure == Tenure::Owned {
        record.told = now;
    }
    due && record.tenure == Tenure::Owned && record.reach == Reach::Cluster
}

/// Takes over an owner's word that a session was used. Also one that takes itself for the owner: it may have been replaced
/// and not know it yet, and a use is a use, whoever answered it.
pub fn touched(slot: &mut Option<Slot>, idle: Duration, now: Moment) {
    if let Some(record) = Slot::live_mut(slot) {
        record.accessed = record.accessed.max(now - idle);
    }
}

/// Creates a session by its first write.
pub fn create(slot: &mut Option<Slot>, birth: &Birth<'_>, changes: &[Change], now: Moment) -> Committed {
    debug_assert!(slot.is_none(), "a drawn id is new");
    let epoch = Epoch::first(birth.me);
    let mut record = Record::born(birth, epoch, now);
    let stamp = Stamp { epoch, version: 1 };
    record.apply(changes, stamp, now);
    let update = Update::Whole(record.whole(birth.id, now));
    *slot = Some(Slot::Live(record));
    Committed { update, undo: Undo { stamp, before: Earlier::Nothing } }
}

/// Takes back a session that never left this node, as an earlier life of it has saved it. Nothing happens when the id is
/// known already.
pub fn take_back(slot: &mut Option<Slot>, whole: Whole, me: NodeId, now: Moment) {
    if slot.is_none() {
        let promised = whole.owner.outranked_by(me);
        let mut record = Record::of_whole(whole, Tenure::Owned, now);
        record.reach = Reach::Node;
        record.promise(promised);
        *slot = Some(Slot::Live(record));
    }
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
    let record = Slot::live_mut(slot).filter(|record| record.is_owned(term)).ok_or(NotOwner)?;
    let earlier = record.stamp();
    let first_of_epoch = record.stamp().epoch != record.promised();
    let stamp = Stamp { epoch: record.promised(), version: record.stamp().version.saturating_add(1) };
    let changed = record.apply(changes, stamp, now);
    record.open = record.is_cluster_wide();
    let update = if first_of_epoch {
        Update::Whole(record.whole(id, now))
    } else {
        Update::Delta(Delta { id, stamp, changes: changes.to_vec() })
    };
    Ok(Committed { update, undo: Undo { stamp, before: Earlier::Changed(earlier, changed) } })
}

/// Ends a session on its owner: by logout, or because its time is over. A user is told of it only when [`keep`] has made
/// it final.
pub fn end(slot: &mut Option<Slot>, id: SessionId, term: Option<Term>, now: Moment) -> Result<Committed, NotOwner> {
    let record = Slot::live(slot).filter(|record| record.is_owned(term)).ok_or(NotOwner)?;
    let stamp = Stamp { epoch: record.promised(), version: record.stamp().version.saturating_add(1) };
    let ending = Ending { finality: Finality::Refutable, stamp };
    let before = Slot::end(slot, ending, now).map_or(Earlier::Nothing, Earlier::Running);
    Ok(Committed { update: Update::End(End { id, ending }), undo: Undo { stamp, before } })
}

/// Learns that a commit is safe: nobody takes it back any more.
#[must_use]
pub fn keep(slot: &mut Option<Slot>, id: SessionId, undo: &Undo, now: Moment) -> Kept {
    if let Earlier::Running(_) = undo.before {
        // Even if it was refuted meanwhile: the user is told now.
        let ending = Ending { finality: Finality::Final, stamp: undo.stamp };
        let ending = Slot::ending(slot).map_or(ending, |known| known.max(ending));
        Slot::end(slot, ending, now);
        return Kept::Stands(Some(Update::End(End { id, ending })));
    }
    match slot {
        Some(Slot::Live(record)) => {
            record.open = false;
            let lacks_some = record.stamp() != undo.stamp;
            Kept::Stands(lacks_some.then(|| Update::Copy(record.whole(id, now))))
        }
        Some(Slot::Ended(tombstone)) if tombstone.ending.finality == Finality::Final => Kept::Ended,
        Some(Slot::Ended(_) | Slot::Sought(_)) | None => Kept::Stands(None),
    }
}

/// Takes back a commit that a holder refused, and yields to the epoch it has promised. What arrived meanwhile stays, and
/// the others are to be told the rest of it.
#[must_use]
pub fn undo(slot: &mut Option<Slot>, id: SessionId, undo: Undo, promised: Epoch, now: Moment) -> Option<Update> {
    let Undo { stamp, before } = undo;
    let mut went_on = false;
    match (&mut *slot, before) {
        (Some(Slot::Live(record)), Earlier::Nothing) if record.stamp() == stamp => *slot = None,
        (Some(Slot::Live(record)), Earlier::Changed(earlier, changed)) => {
            changed.into_iter().for_each(|before| record.attributes.take_back(before, stamp));
            went_on = record.stamp() != stamp;
            if !went_on {
                record.stamp = earlier.into();
            }
        }
        (Some(Slot::Ended(tombstone)), Earlier::Running(before)) if tombstone.ending.stamp == stamp => {
            *slot = Some(before);
        }
        _ => {}
    }
    yield_to(slot, promised);
    let record = Slot::live_mut(slot)?;
    record.open = false;
    went_on.then(|| Update::Copy(record.whole(id, now)))
}

/// Takes back a commit that too few nodes hold. Nobody has refused it, so some may hold it, and its stamp must not be given
/// again to another one: this node has to claim the session before it uses it again, and hears then who has it. It does not
/// overwrite what it takes back: the others may have gone on without this node, and what they have answered would be lost.
///
/// Gives what the others must hear: of an end that it was none, under a new epoch of this node; of a session that this commit
/// created, and that nobody was told of, its end.
#[must_use]
pub fn retreat(slot: &mut Option<Slot>, id: SessionId, made: Undo, me: NodeId, now: Moment) -> Option<Update> {
    let Stamp { epoch, version } = made.stamp;
    // What was promised to another node since then stays promised.
    let promised = Slot::live(slot).map_or(epoch, |record| record.promised().max(epoch));
    let was_an_end = matches!(made.before, Earlier::Running(_));
    let told = undo(slot, id, made, promised, now);
    match slot {
        None => {
            let stamp = Stamp { epoch, version: version.saturating_add(1) };
            let ending = Ending { finality: Finality::Final, stamp };
            Slot::end(slot, ending, now);
            Some(Update::End(End { id, ending }))
        }
        Some(Slot::Live(record)) if record.tenure == Tenure::Owned && record.promised() == epoch => {
            if was_an_end {
                record.promise(epoch.outranked_by(me));
                return Some(Update::Whole(record.whole(id, now)));
            }
            record.tenure = Tenure::Held;
            told
        }
        _ => told,
    }
}
