//! Claims and promises: how a session finds a new owner.

use super::{Reach, Record, Slot, Sought, Tenure, record::Behind};
use crate::{
    limits,
    names::NodeId,
    session::{
        delta::{Answer, ClaimRequest, Ending, Given},
        lease::Term,
        stamp::{Epoch, Stamp},
    },
    time::Moment,
};

/// How an adoption ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// This node is the owner.
    Owner,
    /// A higher epoch was promised meanwhile.
    Superseded(Epoch),
    /// Nobody has the session.
    Nothing,
    /// It has ended here since the claim began, by a commit that others may have refused because of the claim.
    Ended(Ending),
}

/// What a claim asks the slot for before any message is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// The epoch to ask for.
    pub epoch: Epoch,
    /// What this node holds.
    pub have: Option<Stamp>,
    /// What it had promised before, if it holds it.
    pub before: Option<Epoch>,
    /// The same, if it holds it or not.
    pub promised: Option<Epoch>,
}

/// What a claim of `me` asks for. Changes nothing: see [`claim`].
///
/// `above` is an epoch that refused an earlier try.
pub fn intent(slot: &Option<Slot>, me: NodeId, above: Option<Epoch>) -> Intent {
    let promised = Slot::promised(slot);
    let epoch = above.max(promised).map_or(Epoch::unheard(me), |epoch| epoch.outranked_by(me));
    let record = Slot::live(slot);
    Intent { epoch, have: record.map(Record::stamp), before: record.map(Record::promised), promised }
}

/// Begins a claim. Until it is adopted it outranks nobody here: an owner that keeps its session must not have been
/// refused meanwhile, and what this node takes from it in that time goes with the session.
///
/// # Errors
/// A higher epoch that was promised to another node since the claim was intended.
pub fn claim(slot: &mut Option<Slot>, epoch: Epoch) -> Result<(), Epoch> {
    if let Some(promised) = Slot::promised(slot).filter(|promised| *promised > epoch) {
        return Err(promised);
    }
    match slot {
        None => *slot = Some(Slot::Sought(Sought { is_claimed: true, ..Sought::default() }.into())),
        Some(Slot::Live(record)) => record.tenure = Tenure::Claiming,
        Some(Slot::Sought(sought)) => sought.is_claimed = true,
        Some(Slot::Ended(_)) => {}
    }
    Ok(())
}

/// Whether a claim is answered in the session's turn, after the request of this node that runs: if the session is given away.
/// Also by an owner whose lease has run out, and by one that has heard that it was replaced: what it began before may be about
/// to be answered.
pub fn is_given_away(slot: &Option<Slot>, request: &ClaimRequest, term: Option<Term>, serves: bool) -> bool {
    let stays = |record: &Record| record.is_owned(term) && !request.insist && serves;
    Slot::live(slot).is_some_and(|record| match record.tenure {
        Tenure::Owned => !stays(record),
        Tenure::Claiming | Tenure::Held => record.open,
    })
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
        Some(Slot::Sought(sought)) => return promise_unseen(&mut sought.promised, request.epoch),
        Some(Slot::Ended(tombstone)) => {
            let before = tombstone.before.as_ref().filter(|record| record.context == request.context);
            let before = before.map(|record| record.whole(request.id, now));
            return Answer::Ended(tombstone.ending, before);
        }
        Some(Slot::Live(record)) if record.context != request.context || record.reach == Reach::Node => {
            return Answer::Unknown;
        }
        Some(Slot::Live(record)) => record,
    };
    let owner = record.promised().node;
    let is_right = if owner == me { record.is_owned(term) } else { owner != request.epoch.node };
    // A claimant that holds a commit of a later owner proves that this one was replaced: a network was split, and heals.
    let was_replaced = request.have.is_some_and(|have| have.epoch > record.promised());
    if !request.insist && is_right && !was_replaced && serves(owner) {
        return Answer::Owned(owner);
    }
    if request.epoch < record.promised() {
        return Answer::Refused(record.promised());
    }
    // The claimant has seen what is here if that is of the same ownership and not newer; if it is of another one, both may
    // have what the other lacks. A commit that may still be refused is told only if it is newer.
    let is_newer = |have: Stamp| have < record.stamp() || !record.open && !record.stamp().is_seen_by(have);
    let copy = request.have.is_none_or(is_newer).then(|| record.whole(request.id, now));
    let (owner, current) = record.known();
    // It may know of this very claim already, from a fence: that is no ownership yet.
    let owner = Some(owner).filter(|owner| *owner < request.epoch);
    let given = Given { owner, current, idle: Some(now.since(record.accessed)), copy };
    record.give_away(request.epoch);
    record.told = now;
    Answer::Promised(given)
}

/// The answer to a claim whose turn has not come: the owner keeps its session for now. One that has heard that it was replaced
/// keeps only its promise.
pub fn kept(slot: &Option<Slot>, me: NodeId) -> Answer {
    match Slot::live(slot).filter(|record| record.tenure != Tenure::Owned) {
        Some(record) => Answer::Refused(record.promised()),
        None => Answer::Owned(me),
    }
}

/// What is not held can be promised all the same.
fn promise_unseen(promised: &mut Option<Epoch>, epoch: Epoch) -> Answer {
    match *promised {
        Some(higher) if higher > epoch => Answer::Refused(higher),
        // It only asks who the owner is, and adopts nothing.
        _ if epoch.counter == 0 => Answer::Unknown,
        _ => {
            *promised = Some(epoch);
            Answer::Unknown
        }
    }
}

/// Keeps a promise of what is not held beyond the claims that are under way. The owner's first commits may be on their way here,
/// or later ones if this node need not hold the session: it must not confirm them to an owner that has been replaced and
/// cannot hear of it. A claim that only asks who the owner is replaces nobody, so ids that clients make up take no room.
pub fn remember(slot: &mut Option<Slot>, epoch: Epoch, now: Moment) {
    if epoch.counter == 0 {
        return;
    }
    let until = now + limits::CLAIM_REMEMBERED;
    match slot {
        None => *slot = Some(Slot::Sought(Sought { promised: Some(epoch), is_claimed: false, until }.into())),
        Some(Slot::Sought(sought)) => sought.until = until,
        Some(Slot::Live(_) | Slot::Ended(_)) => {}
    }
}

/// Ends a claim: this node becomes the owner of what it holds and the others' copies say, unless a higher epoch was
/// promised meanwhile.
///
/// The last owner may have let it be used without telling, so its time is counted from the latest such use: a session
/// must not run out early because its node died.
///
/// `term` is that of this node's lease when the claim began: a lease that ran out meanwhile voids the claim.
pub fn adopt(slot: &mut Option<Slot>, epoch: Epoch, given: Given, term: Term, now: Moment) -> Adoption {
    let Given { idle, copy, .. } = given;
    match slot {
        // Refutable or not: what was held here when the claim began is not here any more, and others were told only of what
        // it lacked.
        Some(Slot::Ended(tombstone)) => return Adoption::Ended(tombstone.ending),
        _ if let Some(higher) = Slot::promised(slot).filter(|promised| *promised > epoch) => {
            return Adoption::Superseded(higher);
        }
        Some(Slot::Sought(_)) => *slot = None,
        Some(Slot::Live(_)) | None => {}
    }
    match (Slot::live_mut(slot), copy) {
        (Some(record), Some(copy)) => drop(record.merge(copy, now)),
        (None, Some(copy)) => *slot = Some(Slot::Live(Record::of_whole(copy, Tenure::Owned, now))),
        (_, None) => {}
    }
    let Some(record) = Slot::live_mut(slot) else { return Adoption::Nothing };
    record.promise(epoch);
    record.tenure = Tenure::Owned;
    record.term = term;
    record.open = false;
    record.behind = Behind::No;
    let accessed = idle.map_or(record.accessed, |idle| record.accessed.max(now - idle));
    // A copy that was given or came just now tells of no use now: the first one here is to be told, if it is not told of yet.
    record.told = record.told.min(accessed);
    record.accessed = (accessed + record.untold()).min(now);
    Adoption::Owner
}

/// Ends a claim that has not become an ownership: this node follows the owner as before.
pub fn withdraw(slot: &mut Option<Slot>) {
    match slot {
        Some(Slot::Sought(sought)) => {
            sought.is_claimed = false;
            // Only what is kept has a time.
            if sought.until == Moment::default() {
                *slot = None;
            }
        }
        Some(Slot::Live(record)) if record.tenure == Tenure::Claiming => record.tenure = Tenure::Held,
        _ => {}
    }
}
