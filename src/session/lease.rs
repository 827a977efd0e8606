//! The right to answer from one's own copies: for how long, and whether it ever ran out.
//!
//! A node that was paused does not know that another one has taken its sessions over. So it owns them only while it holds
//! a lease, which the other nodes confirm again and again, and which is short:
//!
//! ```text
//!   owner   ── Renew(at) ──►  peer      notes: granted now; claims nothing of the owner without asking it
//!           ◄─ Renewed(at) ─            before the grant has run out
//!   until = at + LEASE, the earliest of all peers
//! ```
//!
//! Each time the lease ran out a new term begins, and what was owned in an older one is claimed again before it is used.
//! So it is when a peer is heard again that was left out: either may have taken over what the other one owned.
//!
//! A lease is granted to whoever asks, also to a node that membership takes to be down: as long as it asks it serves, and
//! nobody takes its sessions.
//!
//! All times of a lease are of its own node's clock, which counts pauses, so clocks need not agree: a peer grants later
//! than the owner asked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{limits, names::NodeId, time::Moment};

/// Counts how often a node's lease began anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u32);

/// The lease of a node, and those it has granted. A handle, read by every request.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    until: AtomicU64,
    term: AtomicU32,
    /// Since when.
    silent: Mutex<BTreeMap<NodeId, Moment>>,
    grants: Mutex<BTreeMap<NodeId, Moment>>,
}

/// Keeps the lease of a node: one for all its replicators.
#[derive(Debug)]
pub struct LeaseKeeper {
    lease: Lease,
    span: Duration,
    patience: Duration,
    peers: BTreeMap<NodeId, Peer>,
    /// Left out though their processes may live on, in the order in which they were lost.
    lost: VecDeque<NodeId>,
    looked_at: Moment,
    renewed_at: Moment,
}

/// Whether the peers are to be asked for their confirmation now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// They are.
    Due,
    /// They were a moment ago.
    NotYet,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    part: Part,
    /// When it was asked what it has confirmed.
    confirmed: Moment,
    /// When it last answered in good time, or was given the time to.
    prompt_at: Moment,
}

/// A peer's part in the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It has not confirmed anything yet.
    New,
    /// The lease is no longer than it confirms.
    Confirms,
    /// It answers too late or not at all, and is left out until it answers in time.
    Silent,
}

impl Lease {
    /// A lease that nobody has confirmed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The term, while the lease holds.
    pub fn term(&self, now: Moment) -> Option<Term> {
        // In this order: a term is written before the time it begins with, so no old term is ever seen with a new time.
        let until = self.0.until.load(Ordering::Acquire);
        (now.0 < until).then(|| self.latest())
    }

    /// The term that holds or has run out.
    pub fn latest(&self) -> Term {
        Term(self.0.term.load(Ordering::Acquire))
    }

    /// Whether a peer has not answered this node for so long that nobody waits for it.
    pub fn is_silent(&self, peer: NodeId) -> bool {
        lock(&self.0.silent).contains_key(&peer)
    }

    /// When a silent peer was last heard in good time.
    pub fn silent_since(&self, peer: NodeId) -> Option<Moment> {
        lock(&self.0.silent).get(&peer).copied()
    }

    /// Grants a peer its lease: it asked for it, or for a session. To be called before the peer is told.
    pub fn grant(&self, peer: NodeId, now: Moment) {
        lock(&self.0.grants).insert(peer, now);
    }

    /// Whether a peer may still act on what was granted within the last `span`.
    pub fn is_granted(&self, peer: NodeId, span: Duration, now: Moment) -> bool {
        lock(&self.0.grants).get(&peer).is_some_and(|at| now <= *at + span)
    }

    /// The process of a peer has ended: it cannot act on what was granted.
    pub fn revoke(&self, peer: NodeId) {
        lock(&self.0.grants).remove(&peer);
    }

    /// The peers that may still act on what was granted within the last `span`.
    pub fn granted(&self, span: Duration, now: Moment) -> Vec<NodeId> {
        let grants = lock(&self.0.grants);
        grants.iter().filter(|(_, at)| now <= **at + span).map(|(peer, _)| *peer).collect()
    }

    /// The node owns nothing any more.
    pub fn end(&self) {
        self.0.until.store(0, Ordering::Release);
    }

    fn begin_term(&self) {
        self.0.term.fetch_add(1, Ordering::Release);
    }

    fn forget_grants(&self, is_known: impl Fn(NodeId) -> bool, span: Duration, now: Moment) {
        lock(&self.0.grants).retain(|peer, at| is_known(*peer) || now <= *at + span);
    }

    fn set(&self, until: Moment, now: Moment) {
        let ran_out = self.0.until.load(Ordering::Relaxed) <= now.0;
        if ran_out && now < until {
            self.begin_term();
        }
        self.0.until.store(until.0, Ordering::Release);
    }
}

impl LeaseKeeper {
    /// Keeps `lease`. A confirmation holds for `span`; a peer that gives none in time for `patience`, or for `span` if
    /// that is longer, is left out.
    pub fn new(lease: Lease, span: Duration, patience: Duration) -> Self {
        let (peers, lost, never) = (BTreeMap::new(), VecDeque::new(), Moment(0));
        Self { lease, span, patience: patience.max(span), peers, lost, looked_at: never, renewed_at: never }
    }

    /// The live nodes, this one left out.
    pub fn nodes(&mut self, nodes: impl IntoIterator<Item = NodeId>, now: Moment) {
        self.look(now);
        let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
        let left: Vec<NodeId> = self.peers.keys().copied().filter(|peer| !nodes.contains(peer)).collect();
        for peer in left {
            self.peers.remove(&peer);
            self.lose(peer);
        }
        for peer in &nodes {
            self.peers.entry(*peer).or_insert(Peer { part: Part::New, confirmed: Moment(0), prompt_at: now });
        }
        self.lease.forget_grants(|peer| nodes.contains(&peer), self.span * 2, now);
        self.settle(now);
    }

    /// A peer's process seems to have ended. If it is heard again, it had not.
    pub fn gone(&mut self, peer: NodeId, now: Moment) {
        self.look(now);
        self.peers.remove(&peer);
        self.lose(peer);
        self.settle(now);
    }

    /// A peer confirms what it was asked for at that time. A confirmation from the future is none.
    pub fn confirmed(&mut self, peer: NodeId, at: Moment, now: Moment) {
        self.look(now);
        let Some(known) = self.peers.get_mut(&peer).filter(|_| at <= now) else { return };
        known.confirmed = known.confirmed.max(at);
        // Later than this, and the lease would run out before the next confirmation comes.
        if now.since(at) <= self.span * 2 / 3 {
            known.prompt_at = now;
            let was = std::mem::replace(&mut known.part, Part::Confirms);
            if self.is_found(peer) || was == Part::Silent {
                self.lease.begin_term();
            }
        }
        self.settle(now);
    }

    /// Whether a peer confirms in good time.
    pub fn hears(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|known| known.part == Part::Confirms)
    }

    /// Time passes. To be called several times within a lease.
    pub fn tick(&mut self, now: Moment) -> Renewal {
        self.look(now);
        for peer in self.peers.values_mut() {
            if now.since(peer.prompt_at) >= self.patience {
                peer.part = Part::Silent;
            }
        }
        self.settle(now);
        if now.since(self.renewed_at) < self.span / 6 {
            return Renewal::NotYet;
        }
        self.renewed_at = now;
        Renewal::Due
    }

    /// Notices before anything else that this node was away: what the peers answered may lie unread, and who was silent
    /// before may be back.
    fn look(&mut self, now: Moment) {
        let was_away = now.since(self.looked_at) >= self.span / 2;
        self.looked_at = now;
        if was_away {
            let silent = self.peers.iter().filter(|(_, peer)| peer.part == Part::Silent);
            for peer in silent.map(|(peer, _)| *peer).collect::<Vec<_>>() {
                self.lose(peer);
            }
            for peer in self.peers.values_mut() {
                peer.prompt_at = now;
                peer.part = if peer.part == Part::Silent { Part::New } else { peer.part };
            }
        }
    }

    /// Remembers that a peer was left out. Of too many the first are forgotten: most have ended, and never come back.
    fn lose(&mut self, peer: NodeId) {
        if self.lost.contains(&peer) {
            return;
        }
        if self.lost.len() >= limits::MEMBERS {
            self.lost.pop_front();
        }
        self.lost.push_back(peer);
    }

    /// Whether a peer that is heard was lost before.
    fn is_found(&mut self, peer: NodeId) -> bool {
        let at = self.lost.iter().position(|lost| *lost == peer);
        at.and_then(|at| self.lost.remove(at)).is_some()
    }

    fn settle(&mut self, now: Moment) {
        let of = |part| self.peers.iter().filter(move |(_, peer)| peer.part == part);
        let until = of(Part::Confirms).map(|(_, peer)| peer.confirmed + self.span).min();
        let silent: BTreeMap<NodeId, Moment> = of(Part::Silent).map(|(id, peer)| (*id, peer.prompt_at)).collect();
        // Before the time: whoever finds a new term must find who is not waited for in it.
        let mut known = lock(&self.lease.0.silent);
        if *known != silent {
            *known = silent;
        }
        drop(known);
        self.lease.set(until.unwrap_or(now + self.span), now);
    }
}

/// What is locked is never left half done, so a panic of another thread spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const SPAN: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_millis(1_000);
    const START: Moment = Moment(1_000_000);

    fn after(ms: u64) -> Moment {
        START + Duration::from_millis(ms)
    }

    /// Ticks as a replicator does, up to and with this time; those who answer do so at once.
    fn run(keeper: &mut LeaseKeeper, from: u64, to: u64, answering: &[NodeId]) {
        for ms in (from..=to).step_by(20) {
            if keeper.tick(after(ms)) == Renewal::Due {
                answering.iter().for_each(|peer| keeper.confirmed(*peer, after(ms), after(ms)));
            }
        }
    }

    fn keeper(peers: &[NodeId]) -> (Lease, LeaseKeeper) {
        let lease = Lease::new();
        let mut keeper = LeaseKeeper::new(lease.clone(), SPAN, PATIENCE);
        keeper.nodes(peers.iter().copied(), START);
        run(&mut keeper, 0, 0, peers);
        (lease, keeper)
    }

    #[test]
    fn a_lease_that_is_renewed_never_runs_out() {
        let (lease, mut keeper) = keeper(&[B, C]);
        let term = lease.term(START).unwrap();
        run(&mut keeper, 20, 5_000, &[B, C]);
        assert_eq!(lease.term(after(5_000)), Some(term));
    }

    #[test]
    fn a_node_that_was_paused_has_no_lease_until_its_peers_confirm_it() {
        let (lease, mut keeper) = keeper(&[B, C]);
        let term = lease.term(START).unwrap();
        assert_eq!((lease.term(after(299)), lease.term(after(300))), (Some(term), None));
        keeper.confirmed(B, after(10), after(900));
        keeper.tick(after(900));
        assert_eq!(lease.term(after(900)), None, "what was confirmed before the pause is worth nothing after it");
        keeper.confirmed(B, after(900), after(901));
        assert_eq!(lease.term(after(901)), None, "every peer is waited for");
        keeper.confirmed(C, after(900), after(902));
        assert_eq!(lease.term(after(902)), Some(Term(term.0 + 1)));
    }

    #[test]
    fn a_silent_peer_is_left_out_after_a_while_and_not_sooner() {
        let (lease, mut keeper) = keeper(&[B, C]);
        let term = lease.term(START).unwrap();
        run(&mut keeper, 20, 980, &[B]);
        assert_eq!((lease.term(after(980)), lease.is_silent(C)), (None, false));
        run(&mut keeper, 1_000, 1_000, &[B]);
        assert_eq!((lease.term(after(1_000)), lease.is_silent(C)), (Some(Term(term.0 + 1)), true));
        keeper.confirmed(C, after(1_000), after(1_010));
        assert!(!lease.is_silent(C));
        assert_eq!(lease.term(after(1_010)), Some(Term(term.0 + 2)), "it may have taken over what is owned here");
        keeper.confirmed(C, after(1_020), after(1_030));
        assert_eq!(lease.term(after(1_030)), Some(Term(term.0 + 2)));
    }

    #[test]
    fn a_node_that_was_off_the_list_ends_the_term_when_it_is_back_and_a_new_one_does_not() {
        let (lease, mut keeper) = keeper(&[B]);
        let term = lease.term(START).unwrap();
        keeper.nodes([B, C], after(20));
        keeper.confirmed(C, after(20), after(21));
        assert_eq!(lease.term(after(21)), Some(term));
        keeper.nodes([B], after(40));
        keeper.nodes([B, C], after(60));
        assert_eq!(lease.term(after(60)), Some(term));
        keeper.confirmed(C, after(60), after(61));
        assert_eq!(lease.term(after(61)), Some(Term(term.0 + 1)));
        keeper.gone(C, after(80));
        keeper.nodes([B, C], after(90));
        keeper.confirmed(C, after(90), after(91));
        assert_eq!(lease.term(after(91)), Some(Term(term.0 + 2)), "that it had ended was wrong");
    }

    #[test]
    fn a_peer_that_always_answers_too_late_does_not_stop_the_node_for_ever() {
        let (lease, mut keeper) = keeper(&[B]);
        for ms in (20..5_000).step_by(20) {
            keeper.tick(after(ms));
            keeper.confirmed(B, after(ms.saturating_sub(400)), after(ms));
        }
        assert!(lease.is_silent(B) && lease.term(after(4_980)).is_some());
    }

    #[test]
    fn time_away_is_not_held_against_a_peer() {
        let (lease, mut keeper) = keeper(&[B]);
        run(&mut keeper, 20, 1_100, &[]);
        assert!(lease.is_silent(B));
        keeper.tick(after(9_000));
        assert!(!lease.is_silent(B), "perhaps it was this node that was silent");
    }

    #[test]
    fn whatever_is_heard_first_after_a_pause_leaves_nobody_out() {
        let hear: [fn(&mut LeaseKeeper); 3] = [
            |keeper| keeper.confirmed(B, after(1_000), after(9_000)),
            |keeper| keeper.nodes([B], after(9_000)),
            |keeper| keeper.gone(C, after(9_000)),
        ];
        for hear in hear {
            let (lease, mut keeper) = keeper(&[B]);
            run(&mut keeper, 20, 1_100, &[]);
            hear(&mut keeper);
            assert!(!lease.is_silent(B));
        }
    }

    #[test]
    fn an_ended_process_is_not_waited_for() {
        let (lease, mut keeper) = keeper(&[B]);
        let term = lease.term(START);
        keeper.gone(B, after(250));
        assert_eq!(lease.term(after(400)), term, "the lease never ran out");
    }

    #[test]
    fn a_node_alone_holds_its_lease_by_being_awake() {
        let (lease, mut keeper) = keeper(&[]);
        run(&mut keeper, 20, 1_000, &[]);
        assert_eq!(lease.term(after(1_000)), Some(Term(1)));
        assert_eq!(lease.term(after(1_300)), None);
        keeper.tick(after(2_000));
        assert_eq!(lease.term(after(2_000)), Some(Term(2)));
    }

    #[test]
    fn a_confirmation_from_the_future_is_none() {
        let (lease, mut keeper) = keeper(&[B]);
        keeper.confirmed(B, after(9_000), after(10));
        assert_eq!(lease.term(after(400)), None);
    }

    #[test]
    fn a_grant_is_remembered_for_as_long_as_it_may_be_used() {
        let (lease, mut keeper) = keeper(&[B]);
        lease.grant(C, START);
        assert!(lease.is_granted(C, SPAN, after(300)) && !lease.is_granted(C, SPAN, after(301)));
        assert!(!lease.is_granted(B, SPAN, START));
        keeper.nodes([B], after(500));
        assert!(lease.is_granted(C, SPAN * 2, after(500)));
        keeper.nodes([B], after(700));
        assert!(!lease.is_granted(C, PATIENCE, after(700)));
    }
}
