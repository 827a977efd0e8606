//! Takes what repairs tell into the table, on a thread beside the one that acknowledges commits and grants leases: these
//! never wait for a batch.
//!
//! There is one thread for all peers that repair this node, so that together they take no more than one processor. It
//! lasts while there is something to do.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::oneshot, task::spawn_blocking};

use super::{batch::Batch, frame::BadFrame};
use crate::{
    names::{NodeId, SessionId},
    session::{
        Slots, Table,
        delta::{Ending, Update, Whole},
        placement::Spread,
        replica::{self, Applied, Slot},
        stamp::Epoch,
    },
    time::Moment,
};

/// What came of a batch.
#[derive(Debug, Default, PartialEq)]
pub struct Taken {
    /// Sessions that have ended here.
    pub ended: Vec<(SessionId, Ending)>,
    /// Sessions that are known here to have a later owner.
    pub outranked: Vec<(SessionId, Epoch)>,
    /// Copies of sessions that this node owns: to be merged when no request of the session is running.
    pub later: Vec<Whole>,
}

/// Where batches are handed in. A handle.
#[derive(Clone)]
pub(super) struct Intake {
    table: Table,
    line: Arc<Mutex<Line>>,
}

#[derive(Default)]
struct Line {
    /// No more than [`limits::REPAIR_BATCHES`](crate::limits::REPAIR_BATCHES) of each link.
    waiting: VecDeque<Job>,
    is_worked_on: bool,
}

struct Job {
    from: NodeId,
    batch: Batch,
    done: oneshot::Sender<Result<Taken, BadFrame>>,
}

impl Intake {
    /// Into this table.
    pub(super) fn new(table: Table) -> Self {
        Self { table, line: Arc::default() }
    }

    /// Takes a batch in, after those that came before.
    pub(super) fn take(&self, from: NodeId, batch: Batch) -> oneshot::Receiver<Result<Taken, BadFrame>> {
        let (done, taken) = oneshot::channel();
        let mut line = self.line();
        line.waiting.push_back(Job { from, batch, done });
        if !line.is_worked_on {
            line.is_worked_on = true;
            let intake = self.clone();
            spawn_blocking(move || intake.work());
        }
        taken
    }

    fn work(&self) {
        let _at_work = AtWork(self);
        while let Some(Job { from, batch, done }) = self.next() {
            let now = Moment::now();
            self.table.hear(from, now);
            // Nobody listens when the link has gone meanwhile; what it told holds all the same.
            let _ = done.send(take(&self.table, &batch, now));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut line = self.line();
        let job = line.waiting.pop_front();
        line.is_worked_on = job.is_some();
        job
    }

    /// Nobody works any more, whatever the reason.
    fn rest(&self) {
        let mut line = self.line();
        line.is_worked_on = false;
        // Their links learn that they are not taken in.
        line.waiting.clear();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // What is locked is never left half done.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends also when a batch brings the thread down.
struct AtWork<'a>(&'a Intake);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.rest();
        }
    }
}

/// A copy as this node takes it. That its sender has promised the session to this very node, and has not heard of it since,
/// is no news: either this node knows more, or its claim came to nothing, and was never an ownership.
pub fn without_own_claim(slots: &impl Slots, mut copy: Whole) -> Whole {
    if copy.behind && copy.owner.node == slots.me() && slots.placement().spread() != Spread::Everywhere {
        copy.owner = copy.stamp.epoch;
    }
    copy
}

/// Merges the copies of a batch, one after the other.
///
/// # Errors
/// A copy that cannot be read; what came before it is held.
pub fn take(slots: &impl Slots, batch: &Batch, now: Moment) -> Result<Taken, BadFrame> {
    let mut taken = Taken::default();
    for copy in batch.copies() {
        let copy = without_own_claim(slots, copy?);
        let (id, owner) = (copy.id, copy.owner);
        let (applied, outranks) = slots.with(id, |slot| {
            let applied = replica::apply(slot, Update::Copy(copy), now);
            (applied, Slot::outranks(slot, owner))
        });
        // Where all hold everything, the later owner tells all of it.
        let outranks = outranks.filter(|_| slots.placement().spread() != Spread::Everywhere);
        taken.outranked.extend(outranks.map(|epoch| (id, epoch)));
        match applied {
            Applied::Ended(ending) => taken.ended.push((id, ending)),
            Applied::Later(copy) => taken.later.push(*copy),
            // Copies are never refused, and only an owner has to tell what came of one.
            Applied::Applied | Applied::Duplicate | Applied::Merged(_) | Applied::Gap | Applied::Fenced(_) => {}
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        names::ContextPath,
        replication::batch::Packer,
        session::{
            lease::Term,
            placement::Placement,
            replica::{Birth, Reach},
            stamp::Stamp,
        },
    };

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    fn id(n: u8) -> SessionId {
        SessionId([n; 16])
    }

    fn create(table: &Table, owner: NodeId, session: SessionId) {
        let context = ContextPath::root();
        let birth =
            Birth { id: session, me: owner, term: Term(0), context: &context, reach: Reach::Cluster, timeout: None };
        table.with(session, |slot| replica::create(slot, &birth, &[], Moment(1)));
    }

    /// What a peer tells that owns these sessions.
    fn batch(number: u32, sessions: impl IntoIterator<Item = u8>) -> Batch {
        let (table, mut packer) = (Table::new(PEER), Packer::default());
        for session in sessions.into_iter().map(id) {
            create(&table, PEER, session);
            table.peek(session, |slot| packer.add(session, Slot::live(slot).unwrap(), Moment(1)));
        }
        Batch { number, bytes: packer.pack().bytes }
    }

    #[test]
    fn that_a_copy_was_promised_to_this_very_node_is_no_news() {
        let (table, owner) = (Table::new(ME), Epoch::first(PEER));
        let taken = |spread, behind, node| {
            table.place(Placement::new(spread, []), Moment(1));
            let stamp = Stamp { epoch: owner, version: 1 };
            let (context, timeout, idle) = (ContextPath::root(), None, Duration::ZERO);
            let owner = owner.outranked_by(node);
            let copy = Whole { id: id(1), context, owner, stamp, timeout, idle, behind, attributes: Vec::new() };
            without_own_claim(&table, copy).owner
        };
        assert_eq!(taken(Spread::Chosen(1), true, ME), owner);
        for (spread, behind, node) in
            [(Spread::Chosen(1), false, ME), (Spread::Chosen(1), true, PEER), (Spread::Everywhere, true, ME)]
        {
            assert_eq!(taken(spread, behind, node), owner.outranked_by(node));
        }
    }

    #[test]
    fn what_is_new_is_held_and_what_has_ended_or_is_owned_here_is_said() {
        let table = Table::new(ME);
        create(&table, ME, id(2));
        create(&table, ME, id(3));
        let over = table.with(id(3), |slot| replica::end(slot, id(3), Some(Term(0)), Moment(2))).unwrap();
        table.with(id(3), |slot| replica::keep(slot, id(3), &over.undo, Moment(2)));
        let taken = take(&table, &batch(1, 1..=3), Moment(3)).unwrap();
        let told: Vec<SessionId> = taken.later.iter().map(|copy| copy.id).collect();
        assert_eq!(told, [id(2)]);
        assert!(matches!(taken.ended[..], [(ended, _)] if ended == id(3)));
        assert!(table.peek(id(1), |slot| Slot::live(slot).is_some_and(|record| record.promised().node == PEER)));
    }

    #[test]
    fn who_tells_of_a_session_that_has_a_later_owner_hears_of_that_where_not_all_hold_it() {
        let table = Table::new(ME);
        take(&table, &batch(1, 1..=2), Moment(3)).unwrap();
        let later = Epoch::first(PEER).outranked_by(NodeId(3));
        table.with(id(1), |slot| replica::yield_to(slot, later));
        for (spread, outranked) in [(Spread::Everywhere, vec![]), (Spread::Chosen(1), vec![(id(1), later)])] {
            table.place(Placement::new(spread, []), Moment(4));
            assert_eq!(take(&table, &batch(1, 1..=2), Moment(5)).unwrap().outranked, outranked);
        }
    }

    #[actix_web::test]
    async fn batches_are_taken_in_the_order_they_came_and_a_bad_one_ends_nothing_but_itself() {
        let intake = Intake::new(Table::new(ME));
        let bad = Batch { number: 2, bytes: vec![0x97].into() };
        let batches = [batch(1, 1..=1), bad, batch(3, 1..=9)];
        let taken = batches.map(|batch| intake.take(PEER, batch));
        let [first, second, third] = taken;
        assert_eq!(first.await.unwrap().unwrap(), Taken::default());
        assert!(second.await.unwrap().is_err());
        assert_eq!(third.await.unwrap().unwrap(), Taken::default());
        assert_eq!(intake.table.counts().held, 9);
        // One that comes when nothing was left is taken too.
        intake.take(PEER, batch(4, 10..=10)).await.unwrap().unwrap();
        assert_eq!(intake.table.counts().held, 10);
        let now = Moment::now();
        assert!(intake.table.is_told_by(PEER, now) && !intake.table.is_told_by(ME, now));
    }

    #[test]
    fn a_batch_that_brings_its_thread_down_ends_the_line_and_not_those_to_come() {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        let intake = Intake::new(Table::new(ME));
        let (done, mut taken) = oneshot::channel();
        let job = Job { from: PEER, batch: Batch { number: 1, bytes: Default::default() }, done };
        *intake.line() = Line { waiting: [job].into(), is_worked_on: true };
        let fails = || {
            let _at_work = AtWork(&intake);
            panic!("a fault");
        };
        assert!(catch_unwind(AssertUnwindSafe(fails)).is_err());
        let is_told = matches!(taken.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(!intake.line().is_worked_on && is_told, "its link learns of it");
    }
}
