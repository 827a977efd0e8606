//! Who holds what was sent, and which replies wait for it.
//!
//! Pure: one ledger for each replicator. On each link the updates are numbered from 1 by both ends; a cumulative
//! acknowledgement says how far the peer holds everything, and what it could not take it answers one by one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    names::{NodeId, SessionId},
    session::{
        delta::{Ending, Update},
        stamp::{Epoch, Stamp},
    },
    settings::Ack,
    time::Moment,
};

/// The books of one replicator.
#[derive(Debug)]
pub struct Ledger {
    ack: Ack,
    /// Nodes that must hold what is answered, this one included.
    least: usize,
    patience: Duration,
    peers: BTreeMap<NodeId, Account>,
    waits: HashMap<WaitId, Wait>,
    /// Reported with fewer holders than wanted; gone when it was asked for.
    short: HashMap<WaitId, Short>,
    next_wait: u64,
}

/// A reply that waits for copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaitId(u64);

/// The number of an update on its link.
pub type Sequence = u64;

/// Whether a peer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It is, and has been for all that it owes.
    InSync,
    /// It is again, and still owes some of what left without it.
    CatchingUp,
    /// It did not answer in time and is not waited for until it has caught up, as Kafka treats replicas.
    Lagging,
}

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The reply.
    pub wait: WaitId,
    /// What it may say.
    pub verdict: Verdict,
}

/// Whether a commit is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many nodes hold it, this one included. 1: nobody else was there.
    Held(usize),
    /// Only so many are known to hold it, this one included: fewer than must. The commit must be taken back, and yet others
    /// may hold it, or still get to hold it.
    TooFew(usize),
    /// A peer has promised a higher epoch: the commit must be taken back.
    Fenced(Epoch),
    /// This node has heard that it was replaced, under this epoch: the same, and yet peers may hold the commit.
    Replaced(Epoch),
    /// The session has ended elsewhere: the commit is void.
    Ended(Ending),
}

/// A peer's objection to one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// A step is missing there.
    Gap,
    /// It has promised a higher epoch.
    Fenced(Epoch),
    /// The session has ended there.
    Ended(Ending),
}

/// What the replicator has to do about an objection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing.
    None,
    /// Send the whole session, for this reply if one still waits.
    SendWhole(SessionId, Option<WaitId>),
    /// Tell the reply about this session.
    Settle(SessionId, Settled),
    /// The reply has left already, because another peer took it: learn that this node is not the owner any more.
    Yield(SessionId, Objection),
    /// Nobody waited for it, so perhaps no peer took it: learn the same, and stand by nothing that was refused.
    Retract(SessionId, Stamp, Objection),
}

#[derive(Debug)]
struct Account {
    sync: Sync,
    sent: Sequence,
    /// The next step of catching up is done when nothing up to this number is owed: all that had been sent when the peer
    /// fell back; then all that was sent until it was waited for again. Were it one step with all that is ever sent, a
    /// peer would not come back as long as there is any load.
    owes_up_to: Sequence,
    pending: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    sequence: Sequence,
    id: SessionId,
    stamp: Stamp,
    wait: Option<WaitId>,
    at: Moment,
    /// An objection was raised: the peer does not hold it, whatever it acknowledges.
    refused: bool,
}

#[derive(Debug, Default)]
struct Wait {
    outstanding: SmallVec<[NodeId; 4]>,
    /// Peers that hold it.
    holders: SmallVec<[NodeId; 4]>,
    /// Known when somebody was told.
    id: Option<SessionId>,
    /// Others were told in place of those who were lost.
    is_second_round: bool,
}

/// A commit that fewer nodes hold than should, because those who were told are lost.
#[derive(Debug)]
pub struct Short {
    /// The session.
    pub id: SessionId,
    /// Peers that hold it.
    pub holders: SmallVec<[NodeId; 4]>,
}

impl Ledger {
    /// Empty books under a rule of acknowledgement; a peer that owes an answer for longer than `patience` is lagging.
    pub fn new(ack: Ack, patience: Duration) -> Self {
        let (peers, waits, short) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Self { ack, least: 1, patience, peers, waits, short, next_wait: 0 }
    }

    /// The same, with a number of nodes that must hold what is answered, this one included.
    pub fn with_least(self, least: usize) -> Self {
        Self { least, ..self }
    }

    /// A link is up: numbers start anew.
    pub fn link_up(&mut self, peer: NodeId) {
        self.peers.insert(peer, Account { sync: Sync::InSync, sent: 0, owes_up_to: 0, pending: VecDeque::new() });
    }

    /// A link is down: nobody waits for that peer any more.
    pub fn link_down(&mut self, peer: NodeId) -> Vec<Settled> {
        self.peers.remove(&peer);
        self.release(peer)
    }

    /// The peers with a link.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.keys().copied()
    }

    /// Whether a peer has a link and holds all that was answered without it.
    pub fn is_in_sync(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|account| account.sync == Sync::InSync)
    }

    /// Age of the oldest update a peer has not answered.
    pub fn lag(&self, peer: NodeId, now: Moment) -> Duration {
        let oldest = self.peers.get(&peer).and_then(|account| account.pending.front());
        oldest.map_or(Duration::ZERO, |entry| now.since(entry.at))
    }

    /// Updates on their way to a peer.
    pub fn in_flight(&self, peer: NodeId) -> usize {
        self.peers.get(&peer).map_or(0, |account| account.pending.len())
    }

    /// Opens a wait. The updates are sent next; [`Ledger::sealed`] closes the list.
    pub fn open(&mut self) -> WaitId {
        self.next_wait += 1;
        let wait = WaitId(self.next_wait);
        self.waits.insert(wait, Wait::default());
        wait
    }

    /// Whether a wait that is over, and not reported yet, might go on with others in place of those who were lost.
    pub fn short(&mut self, wait: WaitId) -> Option<Short> {
        self.short.remove(&wait)
    }

    /// It does. The updates are sent next; [`Ledger::sealed`] closes the list, for good.
    pub fn open_again(&mut self, wait: WaitId, Short { id, holders }: Short) {
        self.waits.insert(wait, Wait { holders, id: Some(id), is_second_round: true, ..Wait::default() });
    }

    /// An update was queued for a peer with a link.
    pub fn sent(&mut self, peer: NodeId, update: &Update, wait: Option<WaitId>, now: Moment) {
        let Some(account) = self.peers.get_mut(&peer) else { return };
        account.sent += 1;
        let (sequence, id, stamp) = (account.sent, update.id(), update.stamp());
        account.pending.push_back(Entry { sequence, id, stamp, wait, at: now, refused: false });
        let waited_for = account.sync != Sync::Lagging;
        if let Some(wait) = wait.and_then(|wait| self.waits.get_mut(&wait)).filter(|_| waited_for) {
            wait.id = Some(id);
            if !wait.outstanding.contains(&peer) {
                wait.outstanding.push(peer);
            }
        }
    }

    /// Everything was queued that is to be queued: perhaps there is nothing to wait for.
    pub fn sealed(&mut self, wait: WaitId) -> Option<Settled> {
        self.judge(wait)
    }

    /// A peer's queue is full: it is not waited for until it has caught up.
    pub fn overflowed(&mut self, peer: NodeId) -> Vec<Settled> {
        if let Some(account) = self.peers.get_mut(&peer) {
            account.fall_back();
        }
        self.release(peer)
    }

    /// Nothing can be sent to a peer that asked for the whole session: this reply does not wait for it.
    pub fn given_up(&mut self, peer: NodeId, wait: WaitId) -> Option<Settled> {
        self.waits.get_mut(&wait)?.outstanding.retain(|waited| *waited != peer);
        self.judge(wait)
    }

    /// This node has heard that it was replaced: nobody is to confirm this any more.
    pub fn replaced(&mut self, wait: WaitId, by: Epoch) -> Option<Settled> {
        self.waits.remove(&wait)?;
        Some(Settled { wait, verdict: Verdict::Replaced(by) })
    }

    /// A peer holds everything up to `sequence` that it did not object to.
    pub fn acked(&mut self, peer: NodeId, sequence: Sequence) -> Vec<Settled> {
        let Some(account) = self.peers.get_mut(&peer) else { return Vec::new() };
        let mut held = Vec::new();
        while account.pending.front().is_some_and(|entry| entry.sequence <= sequence) {
            held.extend(account.pending.pop_front().filter(|entry| !entry.refused).and_then(|entry| entry.wait));
        }
        account.catch_up();
        held.into_iter().filter_map(|wait| self.held(wait, peer)).collect()
    }

    /// A peer could not take one update. It says so before it acknowledges that number.
    pub fn objected(&mut self, peer: NodeId, sequence: Sequence, objection: Objection) -> Remedy {
        let Some(account) = self.peers.get_mut(&peer) else { return Remedy::None };
        let whole_will_be = account.sent + 1;
        let Some(entry) = account.entry(sequence).filter(|entry| !entry.refused) else { return Remedy::None };
        entry.refused = true;
        let (id, stamp, was_waited_for) = (entry.id, entry.stamp, entry.wait.is_some());
        let wait = entry.wait.filter(|wait| self.waits.contains_key(wait));
        let verdict = match objection {
            Objection::Gap => {
                if sequence <= account.owes_up_to {
                    account.owes_up_to = whole_will_be;
                }
                return Remedy::SendWhole(id, wait);
            }
            Objection::Fenced(epoch) => Verdict::Fenced(epoch),
            Objection::Ended(ending) => Verdict::Ended(ending),
        };
        match wait {
            Some(wait) => {
                self.waits.remove(&wait);
                Remedy::Settle(id, Settled { wait, verdict })
            }
            None if was_waited_for => Remedy::Yield(id, objection),
            None => Remedy::Retract(id, stamp, objection),
        }
    }

    /// Peers that owe an answer for too long leave the in-sync set; those that owe none come back, even if nothing is sent
    /// to them any more.
    pub fn tick(&mut self, now: Moment) -> Vec<(NodeId, Vec<Settled>)> {
        for account in self.peers.values_mut().filter(|account| account.pending.is_empty()) {
            account.sync = Sync::InSync;
        }
        let patience = self.patience;
        let late = |account: &Account| account.pending.front().is_some_and(|entry| now.since(entry.at) >= patience);
        let lagging: Vec<NodeId> = self
            .peers
            .iter_mut()
            .filter(|(_, account)| account.sync != Sync::Lagging && late(account))
            .map(|(peer, account)| {
                account.fall_back();
                *peer
            })
            .collect();
        lagging.into_iter().map(|peer| (peer, self.release(peer))).collect()
    }

    /// Replies that wait, and those whose end is not reported yet.
    pub fn waits(&self) -> usize {
        self.waits.len() + self.short.len()
    }

    /// Nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.waits.is_empty() && self.peers.values().all(|account| account.pending.is_empty())
    }

    fn held(&mut self, wait: WaitId, peer: NodeId) -> Option<Settled> {
        let open = self.waits.get_mut(&wait)?;
        open.holders.push(peer);
        open.outstanding.retain(|waited| *waited != peer);
        self.judge(wait)
    }

    fn release(&mut self, peer: NodeId) -> Vec<Settled> {
        let mut touched: Vec<WaitId> = Vec::new();
        for (id, wait) in &mut self.waits {
            if wait.outstanding.contains(&peer) {
                wait.outstanding.retain(|waited| *waited != peer);
                touched.push(*id);
            }
        }
        touched.sort_unstable();
        touched.into_iter().filter_map(|wait| self.judge(wait)).collect()
    }

    /// How many nodes should hold what is answered, this one included.
    fn wanted(&self) -> usize {
        match self.ack {
            Ack::None => self.least,
            Ack::One | Ack::All => self.least.max(2),
        }
    }

    fn judge(&mut self, wait: WaitId) -> Option<Settled> {
        let open = self.waits.get(&wait)?;
        let (copies, wanted) = (1 + open.holders.len(), self.wanted());
        let enough = self.ack != Ack::All && copies >= wanted;
        if !enough && !open.outstanding.is_empty() {
            return None;
        }
        let closed = self.waits.remove(&wait)?;
        if let Some(id) = closed.id.filter(|_| copies < wanted && !closed.is_second_round) {
            self.short.insert(wait, Short { id, holders: closed.holders });
        }
        let verdict = if copies < self.least { Verdict::TooFew(copies) } else { Verdict::Held(copies) };
        Some(Settled { wait, verdict })
    }
}

impl Account {
    /// Numbers follow on one another, so the first one tells where each is.
    fn entry(&mut self, sequence: Sequence) -> Option<&mut Entry> {
        let first = self.pending.front()?.sequence;
        self.pending.get_mut(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }

    fn fall_back(&mut self) {
        self.sync = Sync::Lagging;
        self.owes_up_to = self.sent;
    }

    fn catch_up(&mut self) {
        let holds = |account: &Self| account.pending.front().is_none_or(|entry| entry.sequence > account.owes_up_to);
        if self.sync == Sync::Lagging && holds(self) {
            self.sync = Sync::CatchingUp;
            self.owes_up_to = self.sent;
        }
        if self.sync == Sync::CatchingUp && holds(self) {
            self.sync = Sync::InSync;
        }
    }
}

#[cfg(test)]
mod tests;
