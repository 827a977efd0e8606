//! What other nodes tell of a session: taken, merged or refused.

use super::{Record, Slot, Tenure, record::Behind, yield_record, yield_to};
use crate::{
    names::NodeId,
    session::{
        delta::{Delta, End, Ending, Finality, Update, Whole},
        stamp::{Epoch, Stamp},
    },
    time::Moment,
};

/// How a node took an update.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// It holds it now.
    Applied,
    /// It holds it now, and what it held beside: those who ought to have it must hear of this.
    Merged(Box<Update>),
    /// It owns the session, so this is to be handed to [`merge_copy`] when no request of the session is running.
    Later(Box<Whole>),
    /// It held it already.
    Duplicate,
    /// A step in between is missing: it needs the whole session.
    Gap,
    /// It has promised this higher epoch, so the sender is not the owner any more.
    Fenced(Epoch),
    /// The session has ended.
    Ended(Ending),
}

/// Takes an update from its sender, or says why not. The sender counts it as held unless it hears of a gap, a fence or an
/// end.
pub fn apply(slot: &mut Option<Slot>, update: Update, now: Moment) -> Applied {
    match update {
        Update::Delta(delta) => apply_delta(slot, &delta, now),
        Update::Whole(whole) => apply_whole(slot, whole, now),
        Update::End(end) => apply_end(slot, &end, now),
        Update::Copy(copy) if Slot::live(slot).is_some_and(|record| record.tenure == Tenure::Owned) => {
            Applied::Later(Box::new(copy))
        }
        Update::Copy(copy) => merge_copy(slot, copy, now),
    }
}

/// Takes in another node's copy. When this node owns the session, the caller holds the session's turn, and what it brings
/// becomes a commit of this node's own, so that all holders agree again; unless it tells of a later owner, who may lack what
/// is here. So may the later owner of a session that this node has just given away: that is left to repairs.
pub fn merge_copy(slot: &mut Option<Slot>, copy: Whole, now: Moment) -> Applied {
    let Some(record) = Slot::live_mut(slot) else { return begin(slot, copy, now) };
    let (id, owner, is_current) = (copy.id, copy.owner, !copy.behind);
    let was_owned = record.tenure == Tenure::Owned;
    let was_given_away = !was_owned && record.stamp().epoch != record.promised();
    let brought = record.merge(copy, now);
    yield_record(record, owner);
    if is_current && owner == record.promised() {
        record.behind = Behind::No;
        if was_given_away && brought.has_surplus() {
            (record.behind, record.told) = (Behind::Ahead, now);
        }
    }
    let has_yielded = was_owned && record.tenure != Tenure::Owned;
    if has_yielded && brought.has_surplus() && !record.open {
        // It has gone on here beside the other owner.
        return Applied::Merged(Box::new(Update::Copy(record.whole(id, now))));
    }
    if !brought.has_news() {
        return Applied::Duplicate;
    }
    if record.tenure != Tenure::Owned {
        return Applied::Applied;
    }
    record.stamp = Stamp { epoch: record.promised(), version: record.stamp().version.saturating_add(1) }.into();
    Applied::Merged(Box::new(Update::Whole(record.whole(id, now))))
}

/// Takes a session that is not known here. One whose end is not final has gone on, if this is of a later ownership.
fn begin(slot: &mut Option<Slot>, whole: Whole, now: Moment) -> Applied {
    match slot {
        Some(Slot::Ended(tombstone)) if tombstone.ending.outlasts(whole.owner) => Applied::Ended(tombstone.ending),
        _ => {
            let (id, promised) = (whole.id, Slot::promised(slot));
            let known = slot.replace(Slot::Live(Record::of_whole(whole, Tenure::Held, now)));
            if let (Some(record), Some(promised)) = (Slot::live_mut(slot), promised) {
                yield_record(record, promised);
            }
            // What the end had replaced may be newer.
            if let (Some(record), Some(Slot::Ended(tombstone))) = (Slot::live_mut(slot), known)
                && let Some(before) = tombstone.before
            {
                record.merge(before.whole(id, now), now);
            }
            Applied::Applied
        }
    }
}

fn apply_delta(slot: &mut Option<Slot>, delta: &Delta, now: Moment) -> Applied {
    let verdict = match slot {
        None => Applied::Gap,
        Some(Slot::Sought(sought)) => {
            let higher = sought.promised.filter(|promised| *promised > delta.stamp.epoch);
            higher.map_or(Applied::Gap, Applied::Fenced)
        }
        Some(Slot::Ended(tombstone)) if tombstone.ending.outlasts(delta.stamp.epoch) => {
            Applied::Ended(tombstone.ending)
        }
        Some(Slot::Ended(_)) => Applied::Gap,
        Some(Slot::Live(record)) => judge_delta(record, delta.stamp),
    };
    if let (Applied::Applied, Some(record)) = (&verdict, Slot::live_mut(slot)) {
        record.promise(delta.stamp.epoch);
        record.tenure = Tenure::Held;
        record.behind = Behind::No;
        record.apply(&delta.changes, delta.stamp, now);
    }
    verdict
}

fn judge_delta(record: &Record, stamp: Stamp) -> Applied {
    if stamp.epoch < record.promised() {
        return Applied::Fenced(record.promised());
    }
    if stamp <= record.stamp() {
        return Applied::Duplicate;
    }
    let follows = record.stamp().epoch == stamp.epoch && Some(record.stamp().version) == stamp.version.checked_sub(1);
    if follows { Applied::Applied } else { Applied::Gap }
}

fn apply_whole(slot: &mut Option<Slot>, whole: Whole, now: Moment) -> Applied {
    if let Some(Slot::Sought(sought)) = slot
        && let Some(higher) = sought.promised.filter(|promised| *promised > whole.owner)
    {
        return Applied::Fenced(higher);
    }
    let Some(record) = Slot::live_mut(slot) else { return begin(slot, whole, now) };
    let is_own = record.tenure == Tenure::Owned && whole.owner == record.promised();
    match judge_whole(record, &whole) {
        Applied::Applied if is_own => Applied::Later(Box::new(whole)),
        Applied::Applied => follow(record, whole, now),
        refused => refused,
    }
}

/// A holder of more than it was told has heard it from the other side of a split.
fn follow(record: &mut Record, whole: Whole, now: Moment) -> Applied {
    let (id, had, told) = (whole.id, record.stamp(), whole.stamp);
    yield_record(record, whole.owner);
    record.behind = Behind::of(whole.behind);
    let brought = record.merge(whole, now);
    record.told = now;
    if brought.has_surplus() && !record.open {
        Applied::Merged(Box::new(Update::Copy(record.whole(id, now))))
    } else if brought.has_news() || had < told {
        Applied::Applied
    } else {
        Applied::Duplicate
    }
}

fn judge_whole(record: &Record, whole: &Whole) -> Applied {
    if whole.owner < record.promised() {
        return Applied::Fenced(record.promised());
    }
    // An owner knows what it has committed itself: an older state of that is only late.
    let is_late = whole.stamp <= record.stamp() && record.stamp().epoch == whole.owner;
    if is_late { Applied::Duplicate } else { Applied::Applied }
}

fn apply_end(slot: &mut Option<Slot>, end: &End, now: Moment) -> Applied {
    let verdict = match slot {
        Some(Slot::Ended(tombstone)) if is_outrun(end.ending.stamp, tombstone.ending.stamp) => {
            return Applied::Ended(tombstone.ending);
        }
        Some(Slot::Ended(tombstone)) => {
            // The higher rank is remembered: who tells of the end later must not be refused by those who promised it.
            tombstone.ending = tombstone.ending.max(end.ending);
            if tombstone.ending.finality == Finality::Final {
                tombstone.settle();
            }
            Applied::Duplicate
        }
        _ => match Slot::promised(slot) {
            Some(promised) if !end.ending.outlasts(promised) => Applied::Fenced(promised),
            _ => Applied::Applied,
        },
    };
    if verdict == Applied::Applied {
        let before = Slot::end(slot, end.ending, now);
        if let (Some(Slot::Ended(tombstone)), Some(Slot::Live(record))) = (slot, before)
            && end.ending.finality == Finality::Refutable
        {
            tombstone.before = Some(record);
        }
    }
    verdict
}

/// Whether who tells of this end has missed what a later owner committed before that one ended the session: it must not
/// carry over into a new session what it believes to be the state of this one. An end of a higher rank that is not longer
/// than this one is this one, found by a claim.
fn is_outrun(end: Stamp, known: Stamp) -> bool {
    end.epoch < known.epoch && end.version < known.version
}

/// Learns from the refusal by `peer` of an update with `stamp`, which nobody waited for, that another node has a higher
/// claim.
///
/// An end that is not final and that the later owner itself refuses is forgotten: a node that was cut off, and found sessions to be over, must
/// not end those that have gone on elsewhere. A refusal by anybody else is only a promise to somebody who is about to ask
/// here, and must still hear of the end; so is one of something older than the end.
pub fn retract(slot: &mut Option<Slot>, stamp: Stamp, promised: Epoch, peer: NodeId) {
    match slot {
        Some(Slot::Ended(tombstone))
            if tombstone.ending == (Ending { finality: Finality::Refutable, stamp }) && promised.node == peer =>
        {
            *slot = None;
        }
        _ => yield_to(slot, promised),
    }
}

/// Learns that the session has ended elsewhere, whatever was committed beside it.
pub fn bury(slot: &mut Option<Slot>, ending: Ending, now: Moment) {
    if matches!(slot, Some(Slot::Live(_))) {
        Slot::end(slot, ending, now);
    }
}
