//! The replicator's mind: commits go out, answers come in, claims are carried to their end, joining peers are told all.
//!
//! Pure, as foca is: no clock, no socket, no randomness. The caller hands in the time, the slots and a [`Port`] through
//! which the core acts; the actor does so with links and mailboxes, the simulator with queues.

use std::collections::{BTreeMap, HashMap};

use super::{
    export::Export,
    frame::{Reply, Request, Ticket},
    ledger::{Ledger, Objection, Remedy, Sequence, Settled, Verdict, WaitId},
};
use crate::{
    limits,
    names::{ContextPath, NodeId, SessionId},
    session::{
        Slots,
        claim::{Claim, Outcome},
        delta::{ClaimRequest, End, Update, Whole},
        replica::{self, Adoption, Intent, Reach, Slot, Tenure},
        stamp::Epoch,
    },
    time::Moment,
};

/// The protocol state of one replicator over the node's slots.
#[derive(Debug)]
pub struct Core<S> {
    slots: S,
    config: CoreConfig,
    ledger: Ledger,
    nodes: BTreeMap<NodeId, Serves>,
    claims: HashMap<Ticket, Asking>,
    next_ticket: Ticket,
    next_claim: u64,
    exports: BTreeMap<NodeId, Export>,
}

/// The rules of one replicator.
#[derive(Clone, Copy, Debug)]
pub struct CoreConfig {
    /// When a reply is released.
    pub ack: crate::settings::Ack,
    /// The longest wait for one peer.
    pub ack_timeout: std::time::Duration,
    /// The longest wait for the answers to a claim.
    pub claim_timeout: std::time::Duration,
}

/// How the core acts on the world.
pub trait Port {
    /// Queues a request for a peer whose link is up.
    fn send(&mut self, peer: NodeId, request: &Request) -> Queued;
    /// Queues an update for a peer whose link is up.
    fn send_update(&mut self, peer: NodeId, update: &Update) -> Queued;
    /// A wait is over.
    fn settled(&mut self, wait: WaitId, verdict: Verdict);
    /// A claim is over.
    fn claimed(&mut self, claim: ClaimId, ended: ClaimEnded);
    /// A peer may lack sessions: it ought to be told everything.
    fn needs(&mut self, peer: NodeId);
    /// A peer left the in-sync set.
    fn lagging(&mut self, peer: NodeId, why: Lagging);
    /// A peer was told so many sessions and holds them all.
    fn exported(&mut self, peer: NodeId, sessions: usize);
}

/// Whether there was room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It will be written.
    Yes,
    /// The peer takes too little; nothing was queued.
    Full,
}

/// Why a peer is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lagging {
    /// It did not answer in time.
    Silent,
    /// Its queue is full.
    Full,
}

/// Whether a node answers requests, or only gives away what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// It serves.
    Yes,
    /// It starts or drains.
    No,
}

/// A claim that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId(u64);

/// What somebody wants of a session that this node does not own.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The session.
    pub id: SessionId,
    /// The webapp that wants it.
    pub context: ContextPath,
    /// Whether an owner that serves is to hand over too.
    pub insist: bool,
}

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEnded {
    /// This node owns the session now.
    Owner,
    /// That node owns it and serves: the request should go there.
    Elsewhere(NodeId),
    /// Nobody has it, or it has ended.
    Nothing,
    /// Others claim it at the same time; the request may be tried again.
    Contended,
}

/// One peer, as the core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// It is waited for.
    pub in_sync: bool,
    /// Nothing is left that it ought to be told whole.
    pub complete: bool,
    /// Age of the oldest update it has not answered.
    pub lag: std::time::Duration,
    /// Updates under way.
    pub in_flight: usize,
}

#[derive(Debug)]
struct Asking {
    for_whom: ClaimId,
    wish: Wish,
    claim: Claim,
    intent: Intent,
    deadline: Moment,
    tries: usize,
    round: Round,
}

/// Whom a claim has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The owner alone. Its running request commits before it hands over; were the others asked at the same time, or did
    /// this node claim already, they would refuse that commit, and perhaps not all of them.
    Owner(NodeId),
    /// All other members as well.
    Everyone,
}

impl<S: Slots> Core<S> {
    /// A core without links.
    pub fn new(slots: S, config: CoreConfig) -> Self {
        Self {
            slots,
            config,
            ledger: Ledger::new(config.ack, config.ack_timeout),
            nodes: BTreeMap::new(),
            claims: HashMap::new(),
            next_ticket: 0,
            next_claim: 0,
            exports: BTreeMap::new(),
        }
    }

    /// The live nodes, this one left out.
    ///
    /// A node that is on the list no more leaves sessions that only holders can tell. A peer that joined while it still
    /// seemed to be there has not been told of them by anyone: it is told everything again.
    pub fn nodes(&mut self, nodes: BTreeMap<NodeId, Serves>, now: Moment) {
        self.exports.retain(|peer, _| nodes.contains_key(peer));
        if self.nodes.keys().any(|node| !nodes.contains_key(node)) {
            let since = now - limits::EXPORT_AGAIN;
            self.exports.values_mut().for_each(|export| export.node_lost(since, now));
        }
        self.nodes = nodes;
    }

    /// A link is up; both ends count from 1.
    pub fn link_up(&mut self, peer: NodeId, port: &mut impl Port) {
        self.ledger.link_up(peer);
        port.needs(peer);
    }

    /// A link is down.
    pub fn link_down(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) {
        if let Some(export) = self.exports.get_mut(&peer) {
            export.broken();
        }
        release(self.ledger.link_down(peer), port);
        for ticket in self.tickets() {
            let outcome = self.claims.get_mut(&ticket).and_then(|asking| asking.claim.lost(peer));
            self.claim_ended(ticket, outcome, now, port);
        }
    }

    /// Tells the holders of a commit. The verdict comes through the port, perhaps at once.
    pub fn replicate(&mut self, update: &Update, now: Moment, port: &mut impl Port) -> WaitId {
        let wait = self.ledger.open();
        for peer in self.ledger.peers().collect::<smallvec::SmallVec<[NodeId; 4]>>() {
            self.send_update(peer, update, Some(wait), now, port);
        }
        release(self.ledger.sealed(wait), port);
        wait
    }

    /// Tells the holders of something that nobody waits for.
    pub fn announce(&mut self, update: &Update, now: Moment, port: &mut impl Port) {
        for peer in self.ledger.peers().collect::<Vec<_>>() {
            self.send_update(peer, update, None, now, port);
        }
    }

    /// Tells the holders that a session was used.
    pub fn touch(&mut self, id: SessionId, port: &mut impl Port) {
        for peer in self.ledger.peers() {
            // A peer whose queue is full learns of it from the next delta.
            let _ = port.send(peer, &Request::Touch { id, idle: std::time::Duration::ZERO });
        }
    }

    /// Asks for a session. The end comes through the port, perhaps at once.
    pub fn claim(&mut self, wish: Wish, now: Moment, port: &mut impl Port) -> ClaimId {
        self.next_claim += 1;
        let for_whom = ClaimId(self.next_claim);
        match self.serving_owner(wish.id).filter(|_| !wish.insist) {
            Some(owner) => port.claimed(for_whom, ClaimEnded::Elsewhere(owner)),
            None => self.ask(for_whom, wish, 1, None, now, port),
        }
        for_whom
    }

    /// A peer answered.
    pub fn replied(
        &mut self,
        peer: NodeId,
        replies: impl IntoIterator<Item = Reply>,
        now: Moment,
        port: &mut impl Port,
    ) {
        for reply in replies {
            match reply {
                Reply::Ack(sequence) => release(self.ledger.acked(peer, sequence), port),
                Reply::Objection(sequence, objection) => self.objected(peer, sequence, objection, now, port),
                Reply::Answer(ticket, answer) => {
                    let asking = self.claims.get_mut(&ticket);
                    let outcome = asking.and_then(|asking| asking.claim.answered(peer, answer));
                    self.claim_ended(ticket, outcome, now, port);
                }
            }
        }
        self.pump(peer, now, port);
    }

    /// A peer is to be told everything it may lack.
    pub fn export(&mut self, peer: NodeId, now: Moment) {
        if self.nodes.contains_key(&peer) {
            self.exports.entry(peer).or_default().want(now);
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Moment, port: &mut impl Port) {
        for (peer, settled) in self.ledger.tick(now) {
            port.lagging(peer, Lagging::Silent);
            release(settled, port);
        }
        for ticket in self.tickets() {
            let late = self.claims.get(&ticket).filter(|asking| asking.deadline <= now);
            let outcome = late.map(|asking| asking.claim.clone().expired());
            self.claim_ended(ticket, outcome, now, port);
        }
        self.begin_exports(now);
        for peer in self.exports.keys().copied().collect::<Vec<_>>() {
            self.pump(peer, now, port);
        }
    }

    /// How a peer is.
    pub fn peer(&self, peer: NodeId, now: Moment) -> PeerState {
        PeerState {
            in_sync: self.ledger.is_in_sync(peer),
            complete: self.exports.get(&peer).is_none_or(Export::is_complete),
            lag: self.ledger.lag(peer, now),
            in_flight: self.ledger.in_flight(peer),
        }
    }

    fn tickets(&self) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> = self.claims.keys().copied().collect();
        tickets.sort_unstable();
        tickets
    }

    fn send_update(&mut self, peer: NodeId, update: &Update, wait: Option<WaitId>, now: Moment, port: &mut impl Port) {
        match port.send_update(peer, update) {
            Queued::Yes => self.ledger.sent(peer, update.id(), wait, now),
            Queued::Full => {
                if self.ledger.is_in_sync(peer) {
                    port.lagging(peer, Lagging::Full);
                }
                release(self.ledger.overflowed(peer), port);
                port.needs(peer);
            }
        }
    }

    fn objected(&mut self, peer: NodeId, sequence: Sequence, objection: Objection, now: Moment, port: &mut impl Port) {
        match self.ledger.objected(peer, sequence, objection) {
            Remedy::None | Remedy::Yield(_, Objection::Gap) => {}
            Remedy::Settle(settled) => release([settled], port),
            Remedy::SendWhole(id, wait) => self.send_whole(peer, id, wait, now, port),
            Remedy::Yield(id, Objection::Ended(stamp)) => self.slots.with(id, |slot| replica::bury(slot, stamp, now)),
            Remedy::Yield(id, Objection::Fenced(epoch)) => self.slots.with(id, |slot| replica::yield_to(slot, epoch)),
        }
    }

    fn send_whole(&mut self, peer: NodeId, id: SessionId, wait: Option<WaitId>, now: Moment, port: &mut impl Port) {
        if let Some(update) = self.slots.with(id, |slot| whole(slot, id, now)) {
            self.send_update(peer, &update, wait, now, port);
        }
    }

    // --- claims ---

    fn ask(
        &mut self,
        for_whom: ClaimId,
        wish: Wish,
        tries: usize,
        above: Option<Epoch>,
        now: Moment,
        port: &mut impl Port,
    ) {
        let me = self.slots.me();
        let intent = self.slots.with(wish.id, |slot| replica::intent(slot, me, above));
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let owner = above.or(intent.before).map(|epoch| epoch.node).filter(|owner| self.waits_for(*owner));
        let round = match owner {
            Some(owner) => Round::Owner(owner),
            None => {
                // Never refused: the epoch was made to outrank what is promised here, a moment ago.
                let _ = self.slots.with(wish.id, |slot| replica::claim(slot, intent.epoch));
                Round::Everyone
            }
        };
        let (claim, deadline) = (Claim::new(intent.epoch, []), now);
        let asking = Asking { for_whom, wish, claim, intent, deadline, tries, round };
        self.ask_round(self.next_ticket, asking, None, now, port);
    }

    /// Asks whom this round is about; `newest` and `but` are what the round before has brought and whom it has asked.
    fn ask_round(
        &mut self,
        ticket: Ticket,
        mut asking: Asking,
        before: Option<(NodeId, Option<Whole>)>,
        now: Moment,
        port: &mut impl Port,
    ) {
        let (but, newest) = before.map_or((None, None), |(but, newest)| (Some(but), newest));
        let Wish { id, ref context, insist } = asking.wish;
        let have = asking.intent.have.max(newest.as_ref().map(|newest| newest.stamp));
        let request = ClaimRequest { id, epoch: asking.intent.epoch, context: context.clone(), have, insist };
        let message = Request::Claim(ticket, request);
        let wanted = |peer: &NodeId| match asking.round {
            Round::Owner(owner) => *peer == owner,
            Round::Everyone => Some(*peer) != but,
        };
        let asked = self.ledger.peers().filter(wanted).filter(|peer| port.send(*peer, &message) == Queued::Yes);
        let asked = asked.filter(|peer| self.waits_for(*peer));
        asking.claim = Claim::new(asking.intent.epoch, asked).with_copy(newest);
        asking.deadline = now + self.config.claim_timeout;
        let outcome = asking.claim.outcome();
        self.claims.insert(ticket, asking);
        self.claim_ended(ticket, outcome, now, port);
    }

    fn claim_ended(&mut self, ticket: Ticket, outcome: Option<Outcome>, now: Moment, port: &mut impl Port) {
        let Some(outcome) = outcome else { return };
        let Some(mut asking) = self.claims.remove(&ticket) else { return };
        let id = asking.wish.id;
        let ended = match outcome {
            Outcome::Take(newest) if let Round::Owner(owner) = asking.round => {
                if let Err(above) = self.slots.with(id, |slot| replica::claim(slot, asking.intent.epoch)) {
                    return self.ask_again(asking, above, now, port);
                }
                asking.round = Round::Everyone;
                return self.ask_round(ticket, asking, Some((owner, newest)), now, port);
            }
            Outcome::Ended(stamp) => {
                self.slots.with(id, |slot| replica::bury(slot, stamp, now));
                ClaimEnded::Nothing
            }
            Outcome::Stay(owner) => {
                self.slots.with(id, |slot| replica::withdraw(slot, &asking.intent));
                ClaimEnded::Elsewhere(owner)
            }
            Outcome::Refused(above) => return self.ask_again(asking, above, now, port),
            Outcome::Take(newest) => {
                let epoch = asking.intent.epoch;
                match self.slots.with(id, |slot| replica::adopt(slot, epoch, newest, now)) {
                    Adoption::Owner => ClaimEnded::Owner,
                    Adoption::Nothing => ClaimEnded::Nothing,
                    Adoption::Superseded(above) => return self.ask_again(asking, above, now, port),
                }
            }
        };
        port.claimed(asking.for_whom, ended);
    }

    fn ask_again(&mut self, asking: Asking, above: Epoch, now: Moment, port: &mut impl Port) {
        let Asking { for_whom, wish, tries, .. } = asking;
        if tries >= limits::CLAIM_TRIES {
            self.slots.with(wish.id, |slot| replica::yield_to(slot, above));
            port.claimed(for_whom, ClaimEnded::Contended);
        } else {
            self.ask(for_whom, wish, tries + 1, Some(above), now, port);
        }
    }

    /// Whether an answer of this peer is waited for. Those that lag are asked and not waited for; but when all of them
    /// do, it may be this node that was away, and then nobody but they can tell it.
    fn waits_for(&self, peer: NodeId) -> bool {
        self.ledger.is_in_sync(peer)
            || (self.ledger.in_sync().next().is_none() && self.ledger.peers().any(|known| known == peer))
    }

    /// The owner as this node knows it, if it has a link, serves, and is not this node.
    fn serving_owner(&self, id: SessionId) -> Option<NodeId> {
        let owner = self.slots.with(id, |slot| Slot::live(slot).map(|record| record.promised().node))?;
        let serves = self.nodes.get(&owner) == Some(&Serves::Yes);
        (serves && self.ledger.is_in_sync(owner)).then_some(owner)
    }

    // --- export ---

    fn begin_exports(&mut self, now: Moment) {
        let quiet_since = now - limits::EXPORT_QUIET;
        let due = self.exports.iter().filter(|(peer, export)| {
            export.is_due(quiet_since) && self.ledger.is_in_sync(**peer) && self.ledger.in_flight(**peer) == 0
        });
        for peer in due.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            let ids = self.ids_for(peer);
            self.exports.entry(peer).or_default().begin(ids, now);
        }
    }

    /// What this node owns, what nobody else is there to tell, and what has ended.
    fn ids_for(&self, peer: NodeId) -> Vec<SessionId> {
        self.slots.ids(|slot| match slot {
            Slot::Ended(_) => true,
            Slot::Live(record) if record.reach() == Reach::Node => false,
            Slot::Live(record) if record.tenure() == Tenure::Owned => true,
            Slot::Live(record) => {
                let owner = record.promised().node;
                owner != peer && !self.nodes.contains_key(&owner)
            }
        })
    }

    /// Sends as much of a run as the peer has room for. Its acknowledgements are the credit.
    fn pump(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) {
        while self.ledger.in_flight(peer) < limits::EXPORT_WINDOW {
            let Some(id) = self.exports.get(&peer).and_then(Export::next) else { break };
            if let Some(update) = self.slots.with(id, |slot| whole(slot, id, now)) {
                // A full queue is no reason to begin anew: the run goes on when there is room.
                if port.send_update(peer, &update) == Queued::Full {
                    break;
                }
                self.ledger.sent(peer, id, None, now);
            }
            self.exports.entry(peer).and_modify(Export::sent);
        }
        if self.ledger.in_flight(peer) == 0
            && let Some(sessions) = self.exports.get_mut(&peer).and_then(Export::drained)
        {
            port.exported(peer, sessions);
        }
    }
}

/// What a peer without the session must be told.
fn whole(slot: &Option<Slot>, id: SessionId, now: Moment) -> Option<Update> {
    match slot {
        Some(Slot::Live(record)) if record.reach() == Reach::Cluster => Some(Update::Whole(record.whole(id, now))),
        Some(Slot::Ended(tombstone)) => Some(Update::End(End { id, stamp: tombstone.stamp })),
        _ => None,
    }
}

fn release(settled: impl IntoIterator<Item = Settled>, port: &mut impl Port) {
    for Settled { wait, verdict } in settled {
        port.settled(wait, verdict);
    }
}

#[cfg(test)]
mod tests;
