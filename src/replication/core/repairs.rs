//! Repairs on their way: when each peer is compared with this node, and what it is told.

use std::time::Duration;

use super::{Core, Port, Queued};
use crate::{
    limits,
    names::{NodeId, SessionId},
    replication::{
        batch::{BatchNumber, Packer},
        frame::Request,
        repair::{Due, Repair},
        survey::{Finding, Found, Results, Survey},
    },
    session::{
        Slots,
        delta::{End, Ending, Update},
        placement::Spread,
        replica::{Reach, Slot},
    },
    time::Moment,
};

impl<S: Slots> Core<S> {
    /// A peer may lack something: it is compared with this node soon.
    pub fn repair(&mut self, peer: NodeId, now: Moment) {
        if self.nodes.contains_key(&peer) {
            self.repairs.entry(peer).or_default().want(now);
        }
    }

    /// A survey has been run.
    pub fn surveyed(&mut self, Found(results): Found, now: Moment, port: &mut impl Port) {
        self.surveying = None;
        match results {
            Results::Digests(digests) => {
                for (peer, round, digest) in digests {
                    self.with_repair(peer, |repair| repair.digested(round, &digest, now));
                    self.go_on(peer, now, port);
                }
            }
            Results::Window(peer, round, window) => {
                self.with_repair(peer, |repair| repair.looked_up(round, window, now));
                self.go_on(peer, now, port);
            }
        }
        self.survey(now, port);
    }

    pub(super) fn compared(&mut self, peer: NodeId, finding: Finding, now: Moment) {
        self.with_repair(peer, |repair| repair.found(finding, now));
    }

    /// A peer holds what a batch has told, but for sessions that have ended.
    pub(super) fn took(
        &mut self,
        peer: NodeId,
        batch: BatchNumber,
        ended: Vec<(SessionId, Ending)>,
        now: Moment,
        port: &mut impl Port,
    ) {
        for (id, ending) in ended {
            self.end_everywhere(id, ending, now, port);
        }
        self.with_repair(peer, |repair| repair.took(batch));
    }

    pub(super) fn tick_repairs(&mut self, now: Moment, port: &mut impl Port) {
        self.repairs.values_mut().for_each(|repair| repair.tick(now));
        self.survey(now, port);
        for peer in self.repairs.keys().copied().collect::<Vec<_>>() {
            self.pump(peer, now, port);
        }
    }

    /// A peer has answered something, so there is room for more.
    pub(super) fn go_on(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) {
        self.with_repair(peer, |repair| repair.moved(now));
        self.pump(peer, now, port);
    }

    fn with_repair(&mut self, peer: NodeId, act: impl FnOnce(&mut Repair)) {
        if let Some(repair) = self.repairs.get_mut(&peer) {
            act(repair);
        }
    }

    /// One survey at a time, so that repairs of several peers do not take all processors; those that begin together share
    /// one.
    fn survey(&mut self, now: Moment, port: &mut impl Port) {
        // One that never ends has taken its thread with it.
        if self.surveying.is_some_and(|since| now.since(since) < limits::REPAIR_PATIENCE) {
            return;
        }
        let survey = self.digests_due(now).or_else(|| self.window_due(now));
        if let Some(survey) = survey {
            self.surveying = Some(now);
            port.survey(survey);
        }
    }

    fn digests_due(&mut self, now: Moment) -> Option<Survey> {
        let quiet_since = now - limits::REPAIR_QUIET;
        let ledger = &self.ledger;
        let is_ready = |peer: NodeId| ledger.is_in_sync(peer) && ledger.in_flight(peer) == 0;
        let slots = &self.slots;
        let is_due = |peer: NodeId, repair: &Repair| match repair.due(quiet_since, now) {
            Due::Nothing => false,
            Due::Reason => is_ready(peer),
            Due::Look => is_ready(peer) && !slots.is_told_by(peer, now),
        };
        let due = self.repairs.iter_mut().filter(|(peer, repair)| is_due(**peer, repair));
        let peers: Vec<_> = due.map(|(peer, repair)| (*peer, repair.begin(now))).collect();
        (!peers.is_empty()).then(|| Survey::digests(self.slots.me(), peers, now))
    }

    fn window_due(&mut self, now: Moment) -> Option<Survey> {
        let (peer, leaves, (round, mut wanted)) = self
            .repairs
            .iter_mut()
            .find_map(|(peer, repair)| Some((*peer, repair.leaves_to_others(), repair.next_window()?)))?;
        // Where only some hold a session, the one that would be left to tell it may not be one of them.
        if leaves && self.placement.spread() == Spread::Everywhere {
            let others = self.nodes.keys().filter(|node| **node != peer && !self.gone.contains(node));
            wanted.others = others.copied().collect();
        }
        Some(Survey::window(self.slots.me(), peer, round, wanted, now))
    }

    /// Sends as much as the peer has room for. Its answers and acknowledgements are the credit.
    fn pump(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) {
        let interval = self.repair_interval();
        let Some(repair) = self.repairs.get_mut(&peer) else { return };
        if let Some(question) = repair.question() {
            // A full queue is no reason to begin anew: the round goes on when there is room.
            if port.send(peer, &Request::Compare(question.clone())) == Queued::Full {
                return;
            }
            repair.asked();
        }
        if self.tell(peer, now, port) == Queued::Full {
            return;
        }
        if self.ledger.in_flight(peer) == 0
            && let Some(report) = self.repairs.get_mut(&peer).and_then(|repair| repair.drained(interval, now))
        {
            port.repaired(peer, report);
        }
        self.survey(now, port);
    }

    /// Tells a peer sessions, batch after batch, until none is left or it owes too many answers.
    fn tell(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) -> Queued {
        let Some(repair) = self.repairs.get_mut(&peer) else { return Queued::Yes };
        loop {
            if let Some(batch) = repair.batch() {
                if port.send_batch(peer, batch) == Queued::Full {
                    return Queued::Full;
                }
                repair.sent();
            }
            if !repair.has_credit() || self.ledger.in_flight(peer) >= limits::REPAIR_WINDOW {
                return Queued::Yes;
            }
            if let Some(packed) = repair.next_packed() {
                repair.tell(packed);
                continue;
            }
            let mut packer = Packer::default();
            while let Some(id) = repair.next().filter(|_| !packer.is_full()) {
                match self.slots.with(id, |slot| Tellable::of(slot, id, &mut packer, now)) {
                    Tellable::Packed | Tellable::Never => repair.passed(),
                    Tellable::Later => repair.postpone(now),
                    Tellable::Ended(end)
                        if self.ledger.in_flight(peer) < limits::REPAIR_WINDOW
                            && port.send_copy(peer, &end) == Queued::Yes =>
                    {
                        self.ledger.sent(peer, &end, None, now);
                        repair.told();
                    }
                    Tellable::Ended(_) => break,
                }
            }
            if packer.is_empty() {
                let is_stopped = repair.next().is_some();
                return if is_stopped { Queued::Full } else { Queued::Yes };
            }
            repair.tell(packer.pack());
        }
    }

    /// Nodes that were started together do not compare everything together.
    fn repair_interval(&self) -> Duration {
        let spread = self.config.repair_interval / 8;
        self.config.repair_interval + Duration::from_millis(self.slots.me().0 % (spread.as_millis() as u64).max(1))
    }
}

/// Whether a peer can be told of a session.
enum Tellable {
    /// It is in the batch.
    Packed,
    /// It has ended, and this is told alone: a peer may refuse it.
    Ended(Update),
    /// A commit of it may still be refused.
    Later,
    /// It is gone.
    Never,
}

impl Tellable {
    fn of(slot: &Option<Slot>, id: SessionId, packer: &mut Packer, now: Moment) -> Self {
        match slot {
            Some(Slot::Live(record)) if record.reach() != Reach::Cluster => Self::Never,
            Some(Slot::Live(record)) if record.is_open() => Self::Later,
            Some(Slot::Live(record)) => {
                packer.add(id, record, now);
                Self::Packed
            }
            Some(Slot::Ended(tombstone)) => Self::Ended(Update::End(End { id, ending: tombstone.ending })),
            Some(Slot::Sought(_)) | None => Self::Never,
        }
    }
}

#[cfg(test)]
mod tests;
