//! Updates on their way: who is told, what comes back, and what follows from it.

use std::time::Duration;

use super::{Core, Lagging, Port, Queued};
use crate::{
    names::{NodeId, SessionId},
    replication::{
        frame::Request,
        ledger::{Objection, Remedy, Sequence, Settled, Short, Verdict, WaitId},
    },
    session::{
        Slots,
        delta::{End, Ending, Update},
        placement::{Chosen, Fitness, Spread},
        replica::{self, Reach, Slot, Tenure},
        stamp::Epoch,
    },
    time::Moment,
};

impl<S: Slots> Core<S> {
    /// How many nodes would hold a commit now, this one included, before its reply leaves.
    pub fn would_hold(&self, id: SessionId) -> usize {
        1 + self.told(id, self.slots.me()).into_iter().filter(|peer| self.ledger.is_in_sync(*peer)).count()
    }

    /// Tells the holders of a commit. The verdict comes through the port, perhaps at once.
    pub fn replicate(&mut self, update: &Update, now: Moment, port: &mut impl Port) -> WaitId {
        let wait = self.ledger.open();
        for peer in self.hearers(update) {
            self.send_update(peer, update, Some(wait), now, port);
        }
        let settled = self.ledger.sealed(wait);
        self.release(settled, now, port);
        wait
    }

    /// Tells the holders of something that nobody waits for.
    pub fn announce(&mut self, update: &Update, now: Moment, port: &mut impl Port) {
        for peer in self.hearers(update) {
            self.send_update(peer, update, None, now, port);
        }
    }

    /// Tells the holders that a session was used.
    pub fn touch(&mut self, id: SessionId, port: &mut impl Port) {
        for peer in self.told(id, self.slots.me()) {
            // A peer whose queue is full learns of it from the next delta.
            let _ = port.send(peer, &Request::Touch { id, idle: Duration::ZERO });
        }
    }

    /// Whom an update concerns. The end of a session is told to all: somebody may have a copy from a time when it was a
    /// holder, and must not take the session for a live one. A copy is told to its owner too, which may lack some of it.
    fn hearers(&self, update: &Update) -> Chosen {
        match update {
            Update::End(_) => self.ledger.peers().collect(),
            Update::Copy(copy) => self.told(copy.id, copy.owner.node),
            Update::Whole(_) | Update::Delta(_) => self.told(update.id(), self.slots.me()),
        }
    }

    /// Who is to have what this node has of a session of `owner`.
    fn told(&self, id: SessionId, owner: NodeId) -> Chosen {
        let me = self.slots.me();
        let is_linked = |peer| self.ledger.peers().any(|linked| linked == peer);
        // This node has it already.
        let is_fit = |peer| peer == me || self.ledger.is_in_sync(peer);
        let fitness = |peer| match is_fit(peer) {
            true => Fitness::InSync,
            false if is_linked(peer) => Fitness::Lagging,
            false => Fitness::Absent,
        };
        match self.placement.holders(id, owner, fitness) {
            Some(holders) => {
                let owner = Some(owner).filter(|owner| is_linked(*owner));
                owner.into_iter().chain(holders.into_iter().filter(|holder| *holder != me)).collect()
            }
            None => self.ledger.peers().collect(),
        }
    }

    /// Waits are over, unless others can be told in place of those who were lost.
    pub(super) fn release(&mut self, settled: impl IntoIterator<Item = Settled>, now: Moment, port: &mut impl Port) {
        for Settled { wait, verdict } in settled {
            let short = self.ledger.short(wait);
            if !short.is_some_and(|short| self.tell_others(wait, short, now, port)) {
                port.settled(wait, verdict);
            }
        }
    }

    /// Where only some are told of a commit, those who were told may be lost before they hold it, while others live: these
    /// are told then, once. Their verdict comes through the port, perhaps at once.
    fn tell_others(&mut self, wait: WaitId, short: Short, now: Moment, port: &mut impl Port) -> bool {
        let id = short.id;
        // Its request has the turn until the verdict, and yet this node may have heard that it was replaced.
        let seen = |slot: &mut Option<Slot>| match replaced(slot) {
            Some(by) => Err(by),
            None => Ok(if is_owned(slot) { whole(slot, id, now) } else { None }),
        };
        let update = match self.slots.with(id, seen) {
            Ok(update) => update,
            Err(by) => {
                port.settled(wait, Verdict::Replaced(by));
                return true;
            }
        };
        if self.placement.spread() == Spread::Everywhere {
            return false;
        }
        let others = self.told(id, self.slots.me()).into_iter();
        let others: Vec<NodeId> =
            others.filter(|peer| self.ledger.is_in_sync(*peer) && !short.holders.contains(peer)).collect();
        let Some(update) = update.filter(|_| !others.is_empty()) else { return false };
        self.ledger.open_again(wait, short);
        for peer in others {
            self.send_update(peer, &update, Some(wait), now, port);
        }
        let settled = self.ledger.sealed(wait);
        self.release(settled, now, port);
        true
    }

    /// A peer is waited for again. Where only some are told of a commit, others were told in its place meanwhile.
    pub(super) fn caught_up(&mut self, peer: NodeId, port: &mut impl Port) {
        port.caught_up(peer);
        if matches!(self.placement.spread(), Spread::Chosen(_)) {
            self.lacking.insert(peer);
        }
    }

    fn send_update(&mut self, peer: NodeId, update: &Update, wait: Option<WaitId>, now: Moment, port: &mut impl Port) {
        match port.send_update(peer, update) {
            Queued::Yes => self.ledger.sent(peer, update, wait, now),
            Queued::Full => {
                if self.ledger.is_in_sync(peer) {
                    port.lagging(peer, Lagging::Full);
                }
                let settled = self.ledger.overflowed(peer);
                self.lacking.insert(peer);
                self.release(settled, now, port);
            }
        }
    }

    pub(super) fn objected(
        &mut self,
        peer: NodeId,
        sequence: Sequence,
        objection: Objection,
        now: Moment,
        port: &mut impl Port,
    ) {
        match self.ledger.objected(peer, sequence, objection) {
            Remedy::None | Remedy::Yield(_, Objection::Gap) | Remedy::Retract(_, _, Objection::Gap) => {}
            Remedy::Settle(id, settled) => {
                self.release([settled], now, port);
                if let Verdict::Ended(ending) = settled.verdict {
                    self.end_everywhere(id, ending, now, port);
                }
            }
            Remedy::SendWhole(id, wait) => self.send_whole(peer, id, wait, now, port),
            Remedy::Yield(id, Objection::Ended(ending)) | Remedy::Retract(id, _, Objection::Ended(ending)) => {
                self.end_everywhere(id, ending, now, port);
            }
            Remedy::Yield(id, Objection::Fenced(epoch)) | Remedy::Retract(id, _, Objection::Fenced(epoch))
                if epoch.node == self.slots.me() =>
            {
                self.refused.insert((peer, id));
            }
            Remedy::Retract(id, stamp, Objection::Fenced(epoch)) => {
                self.slots.with(id, |slot| replica::retract(slot, stamp, epoch, peer));
            }
            Remedy::Yield(id, Objection::Fenced(epoch)) => self.yield_and_tell(peer, id, epoch, now, port),
        }
    }

    /// Yields with a write that was answered: the peer lacks it, and the new owner is to have it.
    fn yield_and_tell(&mut self, peer: NodeId, id: SessionId, epoch: Epoch, now: Moment, port: &mut impl Port) {
        let copy = self.slots.with(id, |slot| {
            replica::yield_to(slot, epoch);
            let record = Slot::live(slot).filter(|record| record.reach() == Reach::Cluster && !record.is_open())?;
            Some(Update::Copy(record.whole(id, now)))
        });
        if let Some(copy) = copy {
            self.send_update(peer, &copy, None, now, port);
        }
    }

    /// A peer that has taken what a repair has told knows of later owners: a node that was cut off meanwhile may take itself
    /// for the owner, and as it need not hold the session, nobody else would tell it. Nor would those who ought to have the
    /// session now be told what it has, so it is compared with all.
    pub(super) fn outranked(&mut self, outranked: Vec<(SessionId, Epoch)>) {
        for (id, epoch) in outranked {
            let has_yielded = self.slots.with(id, |slot| {
                let was_owned = is_owned(slot);
                replica::yield_to(slot, epoch);
                was_owned && !is_owned(slot)
            });
            if has_yielded {
                self.lacking.extend(self.nodes.keys());
            }
        }
    }

    /// Learns that a session has ended. The end may have reached only some, because a claim was under way: it is told
    /// again under the highest epoch that is known here, so that those who promised that one do not refuse it.
    pub(super) fn end_everywhere(&mut self, id: SessionId, ending: Ending, now: Moment, port: &mut impl Port) {
        let ended = self.slots.with(id, |slot| {
            let promised = Slot::live(slot).map(|record| record.promised());
            let ending = promised.map_or(ending, |promised| ending.raised_to(promised));
            let (end, before) = (Update::End(End { id, ending }), Slot::ending(slot));
            replica::apply(slot, end.clone(), now);
            // It may have been told here meanwhile, under a lower epoch than others have promised.
            (Slot::ending(slot) > before).then_some(end)
        });
        if let Some(end) = ended {
            self.announce(&end, now, port);
        }
    }

    pub(super) fn tell_refused(&mut self, now: Moment, port: &mut impl Port) {
        for (peer, id) in std::mem::take(&mut self.refused) {
            match self.slots.with(id, |slot| Slot::live(slot).map(|record| record.tenure())) {
                Some(Tenure::Owned) => self.send_whole(peer, id, None, now, port),
                Some(Tenure::Claiming) => drop(self.refused.insert((peer, id))),
                // The owner tells of it, or whoever told of its end.
                Some(Tenure::Held) | None => {}
            }
        }
    }

    fn send_whole(&mut self, peer: NodeId, id: SessionId, wait: Option<WaitId>, now: Moment, port: &mut impl Port) {
        // Told under the epoch of the node that has replaced this one, a commit that nobody has confirmed would be confirmed.
        let seen = |slot: &mut Option<Slot>| match replaced(slot).zip(wait) {
            Some((by, wait)) => Err((by, wait)),
            None => Ok(whole(slot, id, now)),
        };
        let update = match self.slots.with(id, seen) {
            Ok(update) => update,
            Err((by, wait)) => {
                let settled = self.ledger.replaced(wait, by);
                return self.release(settled, now, port);
            }
        };
        match update {
            Some(update) => self.send_update(peer, &update, wait, now, port),
            // It was forgotten here meanwhile.
            None => {
                let settled = wait.and_then(|wait| self.ledger.given_up(peer, wait));
                self.release(settled, now, port);
            }
        }
    }
}

/// Whether this node takes itself for the owner.
fn is_owned(slot: &Option<Slot>) -> bool {
    Slot::live(slot).is_some_and(|record| record.tenure() == Tenure::Owned)
}

/// By whom this node has been replaced.
fn replaced(slot: &Option<Slot>) -> Option<Epoch> {
    Slot::live(slot).filter(|record| record.tenure() != Tenure::Owned).map(|record| record.promised())
}

/// What a peer without the session must be told.
pub(super) fn whole(slot: &Option<Slot>, id: SessionId, now: Moment) -> Option<Update> {
    match slot {
        Some(Slot::Live(record)) if record.reach() == Reach::Cluster => Some(Update::Whole(record.whole(id, now))),
        Some(Slot::Ended(tombstone)) => Some(Update::End(End { id, ending: tombstone.ending })),
        _ => None,
    }
}
