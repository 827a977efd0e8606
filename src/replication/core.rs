//! The replicator's mind: commits go out, answers come in, claims are carried to their end, joining peers are told all.
//!
//! Pure, as foca is: no clock, no socket, no randomness. The caller hands in the time, the slots and a [`Port`] through
//! which the core acts; the actor does so with links and mailboxes, the simulator with queues.

mod answers;
mod claims;
mod missing;
mod repairs;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use self::{
    claims::{Asking, Errand, ask_unasked},
    missing::Missing,
};
use super::{
    batch::Batch,
    frame::{Reply, Request, Ticket},
    ledger::{Ledger, Verdict, WaitId},
    repair::{Repair, Repaired},
    survey::Survey,
};
use crate::{
    names::{ContextPath, NodeId, SessionId},
    session::{
        Slots,
        delta::Update,
        lease::{LeaseKeeper, Renewal},
        placement::{Placement, Spread},
        replica,
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
    /// Claims that cannot begin: the node has no lease.
    parked: Vec<Errand>,
    repairs: BTreeMap<NodeId, Repair>,
    /// Since when a survey has been under way: one at a time.
    surveying: Option<Moment>,
    /// Peers that may lack something since the last tick, because their queue was full, say: told once for all of it.
    lacking: BTreeSet<NodeId>,
    /// Sessions that a peer refused because it had promised a claim of this very node: told again when that has ended.
    /// No more than what was on its way to the peer.
    refused: BTreeSet<(NodeId, SessionId)>,
    /// Of the one replicator that keeps the node's lease.
    keeper: Option<LeaseKeeper>,
    /// Nodes whose process seems to have ended, though they are still on the list.
    gone: BTreeSet<NodeId>,
    placement: Placement,
    missing: Missing,
    pace: Pace,
}

/// Whether this replicator was given the time to listen.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    ticked_at: Moment,
    was_held_up: bool,
}

/// The rules of one replicator.
#[derive(Clone, Copy, Debug)]
pub struct CoreConfig {
    /// When a reply is released.
    pub ack: crate::settings::Ack,
    /// The longest wait for one peer.
    pub ack_timeout: Duration,
    /// The longest wait of a claim, beside the time after which a member counts as silent.
    pub claim_timeout: Duration,
    /// How long a node may act on what a peer has confirmed: [`LEASE`](crate::limits::LEASE), the same on all nodes.
    pub lease: Duration,
    /// How often each peer is compared with this node, even when nothing seems to be missing.
    pub repair_interval: Duration,
}

/// How the core acts on the world.
pub trait Port {
    /// Queues a request for a peer whose link is up.
    fn send(&mut self, peer: NodeId, request: &Request) -> Queued;
    /// Queues an update for a peer whose link is up.
    fn send_update(&mut self, peer: NodeId, update: &Update) -> Queued;
    /// Queues what a repair tells, for a peer whose link is up, but only while little waits there: the lease is renewed
    /// over the same link and must not stand behind it.
    fn send_copy(&mut self, peer: NodeId, update: &Update) -> Queued {
        self.send_update(peer, update)
    }
    /// Queues a batch under the same condition.
    fn send_batch(&mut self, peer: NodeId, batch: &Batch) -> Queued {
        self.send(peer, &Request::Copies(batch.clone()))
    }
    /// A wait is over.
    fn settled(&mut self, wait: WaitId, verdict: Verdict);
    /// A claim is over.
    fn claimed(&mut self, claim: ClaimId, ended: ClaimEnded);
    /// A peer may lack sessions: it ought to be repaired.
    fn needs(&mut self, peer: NodeId);
    /// A peer left the in-sync set.
    fn lagging(&mut self, peer: NodeId, why: Lagging);
    /// A peer that was lagging is in the in-sync set again.
    fn caught_up(&mut self, _peer: NodeId) {}
    /// A survey is to be run, anywhere; [`Core::surveyed`] waits for what it finds.
    fn survey(&mut self, survey: Survey);
    /// A peer was compared with this node, and holds all that this node had to tell it.
    fn repaired(&mut self, peer: NodeId, report: Repaired);
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
    /// Others claim it at the same time, or a node that may still act as its owner, or may be the only one to know it,
    /// does not answer. The request may be tried again.
    Contended,
}

/// What a core keeps until something ends. None of it outlives whom it is kept for by more than a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Replies that wait for copies.
    pub waits: usize,
    /// Claims that somebody waits for.
    pub claims: usize,
    /// Peers and sessions that will be told again when a claim has ended.
    pub refused: usize,
    /// Peers that are to be compared with this node.
    pub lacking: usize,
}

/// One peer, as the core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// It is waited for.
    pub in_sync: bool,
    /// It was repaired since there was last a reason to.
    pub complete: bool,
    /// Age of the oldest update it has not answered.
    pub lag: Duration,
    /// Updates under way.
    pub in_flight: usize,
    /// It confirms this node's lease, as far as this replicator keeps it: the two hear each other.
    pub is_heard: bool,
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
            parked: Vec::new(),
            repairs: BTreeMap::new(),
            surveying: None,
            lacking: BTreeSet::new(),
            refused: BTreeSet::new(),
            keeper: None,
            gone: BTreeSet::new(),
            placement: Placement::everywhere(),
            missing: Missing::nobody(),
            pace: Pace::default(),
        }
    }

    /// The same, with a number of nodes that must hold what is answered, this one included.
    pub fn with_min_copies(self, min_copies: usize) -> Self {
        Self { ledger: self.ledger.with_least(min_copies), ..self }
    }

    /// A core that also keeps the lease of its node. There is one for each node.
    pub fn keeping_lease(slots: S, config: CoreConfig) -> Self {
        let keeper = LeaseKeeper::new(slots.lease().clone(), config.lease, config.ack_timeout);
        Self { keeper: Some(keeper), ..Self::new(slots, config) }
    }

    /// The live nodes, this one left out.
    ///
    /// A node that is on the list no more may have told its last commits to some of them only, and those that it owned to
    /// nobody who joined lately.
    pub fn nodes(&mut self, nodes: BTreeMap<NodeId, Serves>, now: Moment) {
        self.repairs.retain(|peer, _| nodes.contains_key(peer));
        self.lacking.retain(|peer| nodes.contains_key(peer));
        self.refused.retain(|(peer, _)| nodes.contains_key(peer));
        if self.nodes.keys().any(|node| !nodes.contains_key(node)) {
            self.repairs.values_mut().for_each(|repair| repair.want(now));
        }
        for place in self.placement.places() {
            let was_live = self.nodes.contains_key(&place.node) && !self.gone.contains(&place.node);
            if was_live && !nodes.contains_key(&place.node) {
                self.missing.lost(place.clone(), now);
            }
        }
        self.gone.retain(|node| nodes.contains_key(node));
        // A node that leaves on purpose has ended its lease itself: nobody waits until that has run out.
        let left = self.nodes.iter().filter(|(node, serves)| **serves == Serves::No && !nodes.contains_key(node));
        left.for_each(|(node, _)| self.slots.lease().revoke(*node));
        if let Some(keeper) = &mut self.keeper {
            keeper.nodes(nodes.keys().copied(), now);
        }
        self.nodes = nodes;
    }

    /// Who of the live nodes holds what; after [`Core::nodes`]. Who comes to hold a session because others came or went is
    /// told of it at once, and not only with its next commit.
    pub fn place(&mut self, placement: Placement, now: Moment) {
        let moves = matches!(placement.spread(), Spread::Chosen(_)) && placement != self.placement;
        self.placement = placement;
        self.missing.live(&self.placement, now);
        if moves && self.keeper.is_some() {
            for peer in self.nodes.keys() {
                self.repairs.entry(*peer).or_default().want(now);
            }
        }
    }

    /// A link is up; both ends count from 1. Whoever waits for this peer asks it now.
    pub fn link_up(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) {
        if self.gone.remove(&peer)
            && let Some(keeper) = &mut self.keeper
        {
            // It has not ended after all, or was only not there yet.
            keeper.nodes(self.nodes.keys().copied(), now);
        }
        self.ledger.link_up(peer);
        port.needs(peer);
        if self.keeper.is_some() {
            let _ = port.send(peer, &Request::Renew { at: now });
        }
        for asking in self.claims.iter_mut().collect::<BTreeMap<_, _>>() {
            ask_unasked(asking, &self.ledger, port);
        }
    }

    /// A peer's process seems to have ended, and with it all that it might have done as an owner.
    pub fn gone(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) {
        self.gone.insert(peer);
        self.missing.ended(peer);
        self.slots.lease().revoke(peer);
        if let Some(keeper) = &mut self.keeper {
            keeper.gone(peer, now);
        }
        for ticket in self.tickets() {
            let outcome = self.claims.get_mut(&ticket).and_then(|asking| asking.lose(peer));
            self.claim_ended(ticket, outcome, now, port);
        }
    }

    /// Nobody listens where a peer that was never reached is said to be. Its process may have ended, or it is alive and
    /// cannot be reached: as long as it asks for its lease, it acts as an owner.
    pub fn absent(&mut self, peer: NodeId) {
        self.gone.insert(peer);
    }

    /// A link is down. Its peer may be alive and act as an owner, so claims go on waiting for it.
    pub fn link_down(&mut self, peer: NodeId, now: Moment, port: &mut impl Port) {
        if let Some(repair) = self.repairs.get_mut(&peer) {
            repair.broken();
        }
        // When it is up again the peer is told everything.
        self.refused.retain(|(refuser, _)| *refuser != peer);
        let settled = self.ledger.link_down(peer);
        self.release(settled, now, port);
        for asking in self.claims.values_mut() {
            if asking.claim.waiting().contains(&peer) && !asking.unasked.contains(&peer) {
                asking.unasked.push(peer);
            }
        }
    }

    /// Asks for a session. The end comes through the port, perhaps at once.
    pub fn claim(&mut self, wish: Wish, now: Moment, port: &mut impl Port) -> ClaimId {
        self.next_claim += 1;
        let for_whom = ClaimId(self.next_claim);
        // A member that falls silent is known to be so after the one, and answers what it was asked before within the other.
        let end = now + self.config.ack_timeout + self.claim_patience();
        let tried = self.slots.tries().take(wish.id, now);
        let errand = Errand { for_whom, wish, tries: 1, above: None, owner: None, end, rests_until: now, tried };
        self.ask(errand, now, port);
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
        let was_in_sync = self.ledger.is_in_sync(peer);
        for reply in replies {
            match reply {
                Reply::Ack(sequence) => {
                    let settled = self.ledger.acked(peer, sequence);
                    self.release(settled, now, port);
                }
                Reply::Objection(sequence, objection) => self.objected(peer, sequence, objection, now, port),
                Reply::Answer(ticket, answer) => {
                    self.heard(ticket, peer, &answer);
                    let asking = self.claims.get_mut(&ticket);
                    let outcome = asking.and_then(|asking| asking.claim.answered(peer, answer));
                    self.claim_ended(ticket, outcome, now, port);
                }
                Reply::Renewed { at } => {
                    if let Some(keeper) = &mut self.keeper {
                        keeper.confirmed(peer, at, now);
                    }
                }
                Reply::Compared(finding) => self.compared(peer, finding, now),
                Reply::Replaced(id, by) => self.slots.with(id, |slot| replica::replaced(slot, by)),
                Reply::Took { batch, ended, outranked } => {
                    self.outranked(outranked);
                    self.took(peer, batch, ended, now, port);
                }
            }
        }
        if !was_in_sync && self.ledger.is_in_sync(peer) {
            self.caught_up(peer, port);
        }
        self.go_on(peer, now, port);
    }

    /// Time passes.
    pub fn tick(&mut self, now: Moment, port: &mut impl Port) {
        self.keep_lease(now, port);
        if self.pace.is_held_up(now, self.config.lease / 2) {
            return;
        }
        for (peer, settled) in self.ledger.tick(now) {
            port.lagging(peer, Lagging::Silent);
            self.release(settled, now, port);
        }
        self.tick_claims(now, port);
        self.tell_refused(now, port);
        for peer in std::mem::take(&mut self.lacking) {
            port.needs(peer);
        }
        self.tick_repairs(now, port);
    }

    /// The node leaves, and owns nothing any more.
    pub fn retire(&mut self) {
        self.keeper = None;
        self.slots.lease().end();
    }

    /// How a peer is.
    pub fn peer(&self, peer: NodeId, now: Moment) -> PeerState {
        PeerState {
            in_sync: self.ledger.is_in_sync(peer),
            complete: !self.lacking.contains(&peer)
                && self.refused.range((peer, SessionId([0; 16]))..).next().is_none_or(|(refuser, _)| *refuser != peer)
                && self.repairs.get(&peer).is_none_or(Repair::is_complete),
            lag: self.ledger.lag(peer, now),
            in_flight: self.ledger.in_flight(peer),
            is_heard: self.keeper.as_ref().is_none_or(|keeper| keeper.hears(peer)),
        }
    }

    /// What it keeps.
    pub fn kept(&self) -> Kept {
        Kept {
            waits: self.ledger.waits(),
            claims: self.claims.len() + self.parked.len(),
            refused: self.refused.len(),
            lacking: self.lacking.len(),
        }
    }

    fn keep_lease(&mut self, now: Moment, port: &mut impl Port) {
        if let Some(keeper) = &mut self.keeper
            && keeper.tick(now) == Renewal::Due
        {
            for peer in self.ledger.peers() {
                // A peer whose queue is full is asked again soon.
                let _ = port.send(peer, &Request::Renew { at: now });
            }
        }
    }

    fn tickets(&self) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> = self.claims.keys().copied().collect();
        tickets.sort_unstable();
        tickets
    }
}

impl Pace {
    /// Whether this replicator was held up: then answers may lie unread, and for one tick nobody's silence counts.
    fn is_held_up(&mut self, now: Moment, most: Duration) -> bool {
        let late = now.since(self.ticked_at) >= most;
        self.ticked_at = now;
        self.was_held_up = late && !self.was_held_up;
        self.was_held_up
    }
}

#[cfg(test)]
mod tests;
