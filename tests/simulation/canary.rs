//! Deliberate faults of the accepting side: the checker must notice each of them.

use tasuki::{
    names::SessionId,
    replication::{ledger::Verdict, survey::Finding},
    session::{
        Slots,
        delta::{Attribute, Update},
        draft::Change,
        lease::Term,
        replica::{self, Applied, Slot},
    },
    time::Moment,
};

use crate::{Canary, slots::SimSlots};

/// Makes a mess of an update and says whether its objection is kept from the sender.
pub(crate) fn spoils(canary: Canary, slots: &SimSlots, update: &Update, applied: &Applied, now: Moment) -> bool {
    match (canary, applied) {
        (Canary::NoFence, Applied::Fenced(_)) => true,
        (Canary::GapApplied, Applied::Gap) => {
            apply_over_gap(slots, update, now);
            true
        }
        (Canary::TombstoneDropped, _) => {
            if matches!(update, Update::End(_)) {
                slots.unwatched(update.id(), |slot| *slot = None);
            }
            false
        }
        _ => false,
    }
}

/// The term of a node's lease; for a node that has none and does not mind, the one in which it became the owner.
pub(crate) fn term(canary: Option<Canary>, slots: &SimSlots, session: SessionId, now: Moment) -> Option<Term> {
    if canary != Some(Canary::NoLease) {
        return slots.lease().term(now);
    }
    let mut terms = (0..=slots.lease().latest().0).map(|term| Some(Term(term)));
    slots.with(session, |slot| {
        terms.find(|term| Slot::live(slot).is_some_and(|record| record.is_owned(*term))).flatten()
    })
}

/// What a node says that compares itself with another one; of one that does not look, that there is no difference.
pub(crate) fn finding(canary: Option<Canary>, finding: Finding) -> Finding {
    match finding {
        Finding::Differs { round, .. } if canary == Some(Canary::NothingDiffers) => {
            Finding::Differs { round, differing: Default::default(), empty: Default::default() }
        }
        other => other,
    }
}

/// What a replier says who does not wait for the holders.
pub(crate) fn unproven(canary: Option<Canary>) -> Option<Verdict> {
    matches!(canary, Some(Canary::ReplyBeforeAck | Canary::WaitAbandoned)).then_some(Verdict::Held(2))
}

/// Patches the copy as if no step were missing.
fn apply_over_gap(slots: &SimSlots, update: &Update, now: Moment) {
    let Update::Delta(delta) = update else { return };
    slots.unwatched(delta.id, |slot| {
        let Some(mut whole) = Slot::live(slot).map(|record| record.whole(delta.id, now)) else { return };
        for change in &delta.changes {
            whole.attributes.retain(|attribute| attribute.name != *change.name());
            if let Change::Set(name, value) = change {
                whole.attributes.push(Attribute { name: name.clone(), value: Some(value.clone()), stamp: delta.stamp });
            }
        }
        (whole.stamp, whole.owner) = (delta.stamp, delta.stamp.epoch);
        replica::apply(slot, Update::Whole(whole), now);
    });
}
