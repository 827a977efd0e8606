//! The table of all sessions of a node, and the queue of each session's requests.
//!
//! The only file that knows DashMap. No guard leaves it and none lives across an await: callers hand in a closure that
//! sees one slot and gives back what it needs.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher},
    hint::black_box,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::{DashMap, Entry};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

use super::{
    digest::mix,
    lease::Lease,
    placement::Placement,
    replica::{Slot, Tenure},
    tries::Tries,
};
use crate::{
    limits,
    names::{NodeId, SessionId},
    observe::SessionCounts,
    time::Moment,
};

/// All sessions of this node. A handle: clones share the table.
#[derive(Clone)]
pub struct Table(Arc<Inner>);

struct Inner {
    me: NodeId,
    lease: Lease,
    tries: Tries,
    placed: ArcSwap<Placed>,
    /// `None` only while a closure runs: an emptied slot is removed before its shard is unlocked.
    slots: DashMap<SessionId, Option<Slot>, IdHasher>,
    turns: DashMap<SessionId, Arc<Mutex<()>>>,
    /// When the repair of a peer told this node something last.
    told: std::sync::Mutex<BTreeMap<NodeId, Moment>>,
    owned: AtomicUsize,
    held: AtomicUsize,
    ended: AtomicUsize,
}

/// Who holds what, and since when that has been so.
#[derive(Clone, Debug)]
pub struct Placed {
    /// As the roster has it.
    pub placement: Arc<Placement>,
    /// When the nodes were others.
    pub since: Moment,
}

/// The slots of a node, as the protocol needs them: the table, or the map of a simulated node.
pub trait Slots {
    /// The node.
    fn me(&self) -> NodeId;
    /// Its right to answer from them.
    fn lease(&self) -> &Lease;
    /// What it has claimed in vain.
    fn tries(&self) -> &Tries;
    /// Which nodes hold what.
    fn placement(&self) -> Arc<Placement>;
    /// Whether a peer is about to tell this node what it lacks.
    fn is_told_by(&self, _peer: NodeId, _now: Moment) -> bool {
        false
    }
    /// Shows one slot to `act`, which may fill, change or empty it, and never asks for another one.
    fn with<R>(&self, id: SessionId, act: impl FnOnce(&mut Option<Slot>) -> R) -> R;
    /// The ids of all slots for which `wanted` holds.
    fn ids(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<SessionId>;
    /// Shows every slot to `look`, which asks for none. One that comes or goes meanwhile may be shown or not.
    fn visit_all(&self, look: impl FnMut(SessionId, &Slot));
    /// The same, of those slots only whose ids are wanted.
    fn visit_some(&self, wanted: impl Fn(SessionId) -> bool, mut look: impl FnMut(SessionId, &Slot)) {
        self.visit_all(|id, slot| {
            if wanted(id) {
                look(id, slot);
            }
        });
    }
}

/// The right to run one request of a session. Dropping it lets the next one in, in the order they came.
pub struct Turn {
    table: Table,
    id: SessionId,
    guard: Option<OwnedMutexGuard<()>>,
}

/// Why a request did not get its turn. It may be sent again later; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTurn {
    /// The requests before it took too long.
    #[error("earlier requests of this session take too long")]
    TimedOut,
    /// Too many requests wait already.
    #[error("too many requests of this session at once")]
    Crowded,
}

/// What a count is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    Owned,
    Held,
    Ended,
}

impl Table {
    /// An empty table of the node `me`.
    pub fn new(me: NodeId) -> Self {
        let slots = DashMap::with_hasher_and_shard_amount(IdHasher, limits::TABLE_SHARDS);
        let turns = DashMap::with_shard_amount(limits::TABLE_SHARDS);
        Self(Arc::new(Inner {
            me,
            lease: Lease::new(),
            tries: Tries::default(),
            placed: ArcSwap::from_pointee(Placed { placement: Placement::everywhere().into(), since: Moment(0) }),
            slots,
            turns,
            told: std::sync::Mutex::default(),
            owned: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
        }))
    }

    /// Shows one slot to `look`, which changes nothing.
    pub fn peek<R>(&self, id: SessionId, look: impl FnOnce(&Option<Slot>) -> R) -> R {
        match self.0.slots.get(&id) {
            Some(slot) => look(&slot),
            None => look(&None),
        }
    }

    /// Who holds what now.
    pub fn placed(&self) -> Arc<Placed> {
        self.0.placed.load_full()
    }

    /// The live nodes are others.
    pub fn place(&self, placement: Placement, now: Moment) {
        if *self.0.placed.load().placement != placement {
            self.0.placed.store(Arc::new(Placed { placement: placement.into(), since: now }));
        }
    }

    /// Waits for the session's turn, behind the requests that came before.
    pub async fn turn(&self, id: SessionId, patience: Duration) -> Result<Turn, NoTurn> {
        // Made before the queue is touched, so that however this ends an unused queue is removed.
        let mut turn = Turn { table: self.clone(), id, guard: None };
        let queue = self.0.turns.entry(id).or_default().clone();
        if Arc::strong_count(&queue) > limits::TURN_WAITERS {
            return Err(NoTurn::Crowded);
        }
        turn.guard = Some(timeout(patience, queue.lock_owned()).await.map_err(|_| NoTurn::TimedOut)?);
        Ok(turn)
    }

    /// The session's turn, if nobody has it and nobody waits for it.
    pub fn free_turn(&self, id: SessionId) -> Option<Turn> {
        let mut turn = Turn { table: self.clone(), id, guard: None };
        let queue = self.0.turns.entry(id).or_default().clone();
        turn.guard = Some(queue.try_lock_owned().ok()?);
        Some(turn)
    }

    /// The repair of a peer tells this node something.
    pub fn hear(&self, peer: NodeId, now: Moment) {
        let mut told = self.told();
        told.retain(|_, at| now.since(*at) < limits::REPAIR_TOLD);
        told.insert(peer, now);
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<NodeId, Moment>> {
        // What is locked is never left half done.
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions, ended ones left out.
    pub fn counts(&self) -> SessionCounts {
        SessionCounts { owned: self.0.owned.load(Relaxed), held: self.0.held.load(Relaxed) }
    }

    /// How many slots are taken: sessions, and what is remembered of ended ones.
    pub fn slots(&self) -> usize {
        let SessionCounts { owned, held } = self.counts();
        owned + held + self.0.ended.load(Relaxed)
    }

    /// Whether there is no room for a new session where a node keeps so many. Ended ones are remembered for as long as a copy
    /// could come back and take little room, so they count only when there are as many again.
    pub fn is_full(&self, max_sessions: usize) -> bool {
        let SessionCounts { owned, held } = self.counts();
        owned + held >= max_sessions || self.is_full_of_ends(max_sessions)
    }

    /// Whether there is no room for one more end beside what is there.
    pub fn is_full_of_ends(&self, max_sessions: usize) -> bool {
        self.slots() >= max_sessions.saturating_mul(2)
    }

    /// How many ended sessions are remembered.
    pub fn remembered(&self) -> usize {
        self.0.ended.load(Relaxed)
    }

    /// Gives back the room of sessions and queues that are gone, where they left most of it empty. One shard after the other
    /// is copied, so requests wait at most for one of them.
    pub fn shrink(&self) {
        shrink(&self.0.slots);
        shrink(&self.0.turns);
    }

    fn recount(&self, before: Kind, after: Kind) {
        if before == after {
            return;
        }
        if let Some(count) = self.count(before) {
            count.fetch_sub(1, Relaxed);
        }
        if let Some(count) = self.count(after) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn count(&self, kind: Kind) -> Option<&AtomicUsize> {
        match kind {
            Kind::Absent => None,
            Kind::Owned => Some(&self.0.owned),
            Kind::Held => Some(&self.0.held),
            Kind::Ended => Some(&self.0.ended),
        }
    }
}

fn shrink<V, S: BuildHasher + Clone>(map: &DashMap<SessionId, V, S>) {
    // One that has just grown is still filled to 7/16.
    if map.len() < map.capacity() / 8 {
        map.shrink_to_fit();
    }
}

impl Slots for Table {
    fn me(&self) -> NodeId {
        self.0.me
    }

    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn tries(&self) -> &Tries {
        &self.0.tries
    }

    fn placement(&self) -> Arc<Placement> {
        self.0.placed.load().placement.clone()
    }

    fn is_told_by(&self, peer: NodeId, now: Moment) -> bool {
        self.told().get(&peer).is_some_and(|at| now.since(*at) < limits::REPAIR_TOLD)
    }

    /// Nobody else sees the slot meanwhile, so `act` is short.
    fn with<R>(&self, id: SessionId, act: impl FnOnce(&mut Option<Slot>) -> R) -> R {
        match self.0.slots.entry(id) {
            Entry::Occupied(mut entry) => {
                let before = Kind::of(entry.get());
                let result = act(entry.get_mut());
                self.recount(before, Kind::of(entry.get()));
                if entry.get().is_none() {
                    entry.remove();
                }
                result
            }
            Entry::Vacant(entry) => {
                let mut slot = None;
                let result = act(&mut slot);
                self.recount(Kind::Absent, Kind::of(&slot));
                if slot.is_some() {
                    entry.insert(slot);
                }
                result
            }
        }
    }

    /// Shards are looked at one after the other, so a session that
    /// comes or goes meanwhile may be on the list or not.
    fn ids(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<SessionId> {
        let slots = self.0.slots.iter();
        slots.filter(|entry| entry.value().as_ref().is_some_and(&wanted)).map(|entry| *entry.key()).collect()
    }

    fn visit_all(&self, look: impl FnMut(SessionId, &Slot)) {
        self.visit_some(|_| true, look);
    }

    /// One shard after the other, so requests wait at most for a look at one shard's share of the sessions.
    ///
    /// A look at a session is a wait for the memory where it lies, and nothing else takes as long. So some are fetched
    /// together before they are looked at: the processor waits for all of them at once.
    fn visit_some(&self, wanted: impl Fn(SessionId) -> bool, mut look: impl FnMut(SessionId, &Slot)) {
        let mut entries = self.0.slots.iter().filter(|entry| wanted(*entry.key()));
        let mut together = Vec::with_capacity(limits::SLOTS_FETCHED);
        loop {
            together.extend(entries.by_ref().take(limits::SLOTS_FETCHED));
            if together.is_empty() {
                return;
            }
            let fetched = together.iter().filter_map(|entry| entry.value().as_ref()).map(fetch);
            black_box(fetched.fold(0, u64::wrapping_add));
            for entry in together.drain(..) {
                if let Some(slot) = entry.value() {
                    look(*entry.key(), slot);
                }
            }
        }
    }
}

/// Reads something of each part of the memory in which a session lies.
fn fetch(slot: &Slot) -> u64 {
    match slot {
        Slot::Ended(tombstone) => tombstone.until.0,
        Slot::Sought(sought) => sought.is_over(Moment(0)).into(),
        Slot::Live(record) => {
            let attribute = record.stamps().next().map_or(0, |(_, stamp)| u64::from(stamp.version));
            record.accessed().0.wrapping_add(u64::from(record.stamp().version)).wrapping_add(attribute)
        }
    }
}

/// Spreads ids over the table, the same in every process: ids are drawn at random, and none that a client makes up gets
/// in. So what one node tells in the order of its table another one takes in the order of its own, which is several times
/// as fast as in any order: it is the same memory again and again.
#[derive(Clone, Copy, Default)]
struct IdHasher;

/// The hash of one id.
#[derive(Clone, Copy, Default)]
struct IdHash(u64);

impl BuildHasher for IdHasher {
    type Hasher = IdHash;

    fn build_hasher(&self) -> IdHash {
        IdHash::default()
    }
}

impl Hasher for IdHash {
    fn write(&mut self, bytes: &[u8]) {
        // Not the first bytes: all sessions of a bucket of the digest have these.
        if let Some(last) = bytes.last_chunk::<8>() {
            self.0 = mix(self.0 ^ u64::from_le_bytes(*last));
        }
    }

    /// The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Kind {
    fn of(slot: &Option<Slot>) -> Self {
        match slot {
            None | Some(Slot::Sought(_)) => Self::Absent,
            Some(Slot::Ended(_)) => Self::Ended,
            Some(Slot::Live(record)) if record.tenure() == Tenure::Owned => Self::Owned,
            Some(Slot::Live(_)) => Self::Held,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.guard.take());
        // One handle is the table's own; whoever waits for the turn has another.
        self.table.0.turns.remove_if(&self.id, |_, queue| Arc::strong_count(queue) == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::ContextPath,
        session::{
            lease::Term,
            replica::{self, Birth, Reach},
        },
    };

    const ME: NodeId = NodeId(1);
    const ID: SessionId = SessionId([1; 16]);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn create(table: &Table) {
        let context = ContextPath::root();
        let birth = Birth { id: ID, me: ME, term: Term(0), context: &context, reach: Reach::Cluster, timeout: None };
        table.with(ID, |slot| replica::create(slot, &birth, &[], Moment(1)));
    }

    #[test]
    fn every_slot_is_shown_once_and_of_some_only_those_that_are_wanted() {
        let (table, context) = (Table::new(ME), ContextPath::root());
        let ids: std::collections::BTreeSet<SessionId> = (0..=255).map(|n| SessionId([n; 16])).collect();
        for id in ids.iter().copied() {
            let birth = Birth { id, me: ME, term: Term(0), context: &context, reach: Reach::Cluster, timeout: None };
            table.with(id, |slot| replica::create(slot, &birth, &[], Moment(1)));
        }
        let mut seen = Vec::new();
        table.visit_all(|id, _| seen.push(id));
        assert_eq!((seen.len(), seen.into_iter().collect()), (256, ids));
        let mut few = Vec::new();
        table.visit_some(|id| id.0[0] < 2, |id, _| few.push(id));
        few.sort_unstable();
        assert_eq!(few, [SessionId([0; 16]), SessionId([1; 16])]);
    }

    #[test]
    fn looking_at_nothing_leaves_nothing_behind() {
        let table = Table::new(ME);
        assert!(table.with(ID, |slot| slot.is_none()));
        assert_eq!((table.0.slots.len(), table.counts()), (0, SessionCounts::default()));
    }

    #[test]
    fn the_counts_follow_what_happens_to_a_session() {
        let table = Table::new(ME);
        create(&table);
        assert_eq!(table.counts(), SessionCounts { owned: 1, held: 0 });
        let outranked = table.peek(ID, |slot| Slot::live(slot).unwrap().promised().outranked_by(NodeId(2)));
        table.with(ID, |slot| replica::yield_to(slot, outranked));
        assert_eq!(table.counts(), SessionCounts { owned: 0, held: 1 });
        assert_eq!((table.ids(|_| true), table.slots()), (vec![ID], 1));
        table.with(ID, |slot| *slot = None);
        assert_eq!((table.0.slots.len(), table.counts()), (0, SessionCounts::default()));
    }

    #[test]
    fn a_table_is_full_of_sessions_or_of_as_many_ended_ones_again() {
        let (table, context) = (Table::new(ME), ContextPath::root());
        let create = |n| {
            let id = SessionId([n; 16]);
            let birth = Birth { id, me: ME, term: Term(0), context: &context, reach: Reach::Cluster, timeout: None };
            table.with(id, |slot| drop(replica::create(slot, &birth, &[], Moment(1))));
        };
        let end = |n| {
            let id = SessionId([n; 16]);
            table.with(id, |slot| replica::end(slot, id, Some(Term(0)), Moment(2)).is_ok())
        };
        (1..=2).for_each(create);
        assert!(!table.is_full(3));
        create(3);
        assert!(table.is_full(3) && end(3) && !table.is_full(3), "an ended one makes room");
        (4..=6).for_each(|n| {
            create(n);
            assert!(end(n));
        });
        assert_eq!((table.counts().owned, table.remembered(), table.is_full(3)), (2, 4, true));
    }

    #[test]
    fn ended_sessions_take_room_until_they_are_forgotten() {
        let table = Table::new(ME);
        create(&table);
        table.with(ID, |slot| replica::end(slot, ID, Some(Term(0)), Moment(2))).unwrap();
        assert_eq!((table.counts(), table.slots()), (SessionCounts::default(), 1));
        table.with(ID, |slot| *slot = None);
        assert_eq!(table.slots(), 0);
    }

    #[actix_web::test]
    async fn room_that_is_not_used_any_more_is_given_back() {
        let table = Table::new(ME);
        let ids = (0..20_000_u32).map(|n| SessionId((u128::from(n) * 0x9E37_79B9_7F4A_7C15).to_be_bytes()));
        let mut turns = Vec::new();
        for id in ids {
            turns.push(table.turn(id, PATIENCE).await.unwrap());
        }
        table.shrink();
        assert!(table.0.turns.capacity() >= 20_000, "it is in use");
        drop(turns);
        table.shrink();
        assert!(table.0.turns.capacity() < 20_000 / 8);
    }

    #[actix_web::test]
    async fn requests_of_a_session_take_turns_in_the_order_they_came() {
        let table = Table::new(ME);
        let first = table.turn(ID, PATIENCE).await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let waiters: Vec<_> = (0..3)
            .map(|n| {
                let (table, order) = (table.clone(), order.clone());
                actix_web::rt::spawn(async move {
                    let _turn = table.turn(ID, PATIENCE).await.unwrap();
                    order.lock().unwrap().push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(order.lock().unwrap().is_empty(), "the turn is taken");
        drop(first);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
        assert!(table.0.turns.is_empty(), "an unused queue is removed");
    }

    #[actix_web::test]
    async fn nobody_waits_for_ever_or_in_endless_company() {
        let table = Table::new(ME);
        let _first = table.turn(ID, PATIENCE).await.unwrap();
        assert!(matches!(table.turn(ID, Duration::from_millis(1)).await, Err(NoTurn::TimedOut)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut crowd: Vec<_> = (0..limits::TURN_WAITERS).map(|_| Box::pin(table.turn(ID, PATIENCE))).collect();
        for waiting in &mut crowd {
            let _ = waiting.as_mut().poll(&mut context);
        }
        assert!(matches!(table.turn(ID, PATIENCE).await, Err(NoTurn::Crowded)));
        drop(crowd);
        assert!(matches!(table.turn(ID, Duration::from_millis(1)).await, Err(NoTurn::TimedOut)), "the crowd is gone");
    }
}
