//! The actor that owns the life of sessions: it ends what is over and forgets what is past.
//!
//! Requests do not pass its mailbox; they use the table, as it does.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};
use tracing::info;

use super::{
    delta::Update,
    lease::Term,
    placement::Spread,
    replica::{self, Expiry, Reach, Record, Slot, Tenure},
    table::{Slots, Table},
};
use crate::{limits, names::SessionId, time::Moment};

/// Keeps the sessions of a node.
pub struct SessionStore {
    table: Table,
    ended: Recipient<Swept>,
}

/// What the other nodes are to hear and nobody waits for: sessions that ended by time, copies that were merged.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Swept(pub Vec<Update>);

/// Asks for a sweep now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Sweep;

/// What a sweep does with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Nothing.
    Nothing,
    /// This node owns it and its time is over: it ends everywhere.
    End,
    /// A copy whose owner did not end it in twice its time, this node's own included if its lease has run out since; or a
    /// tombstone past its use: forgotten here.
    Forget,
    /// An end that nobody has refuted: what was held before is forgotten.
    Settle,
}

impl SessionStore {
    /// Keeps `table`; `ended` hears of sessions that ended by time.
    pub fn new(table: Table, ended: Recipient<Swept>) -> Self {
        Self { table, ended }
    }

    fn sweep(&self, now: Moment) {
        let term = self.table.lease().term(now);
        self.drop_strays(now);
        let due = self.table.ids(|slot| due(slot, term, now) != Due::Nothing);
        let updates: Vec<Update> = due.iter().filter_map(|id| self.settle(*id, now)).collect();
        if !due.is_empty() {
            info!(ended = updates.len(), forgotten = due.len() - updates.len(), "sessions swept");
        }
        self.table.shrink();
        let mut rest = updates.into_iter();
        while !rest.as_slice().is_empty() {
            self.ended.do_send(Swept(rest.by_ref().take(limits::SWEEP_BATCH).collect()));
        }
    }

    /// Forgets copies that this node keeps from a time when it was a holder. While it is one, or the owner is not live, or
    /// the nodes have changed lately, it keeps them: whoever holds them now may not have been told yet.
    fn drop_strays(&self, now: Moment) {
        let placed = self.table.placed();
        if placed.placement.spread() == Spread::Everywhere || now.since(placed.since) < limits::STRAY_COPY {
            return;
        }
        let is_stray = |id: SessionId, slot: &Slot| match slot {
            Slot::Live(record) if is_old_copy(record, now) => {
                let owner = record.promised().node;
                placed.placement.has(owner) && !placed.placement.involves(id, owner, self.table.me())
            }
            _ => false,
        };
        let old = self.table.ids(|slot| matches!(slot, Slot::Live(record) if is_old_copy(record, now)));
        let dropped = old
            .into_iter()
            .filter(|id| self.table.with(*id, |slot| slot.take_if(|slot| is_stray(*id, slot)).is_some()));
        let dropped = dropped.count();
        if dropped > 0 {
            info!(dropped, "copies that other nodes hold now");
        }
    }

    /// Looks again under the lock: a request may have come in between.
    fn settle(&self, id: SessionId, now: Moment) -> Option<Update> {
        let term = self.table.lease().term(now);
        self.table.with(id, |slot| match slot.as_ref().map_or(Due::Nothing, |slot| due(slot, term, now)) {
            Due::Nothing => None,
            Due::Forget => {
                *slot = None;
                None
            }
            Due::Settle => {
                if let Some(Slot::Ended(tombstone)) = slot {
                    tombstone.settle();
                }
                None
            }
            Due::End => match replica::expire(slot, id, term, now) {
                Expiry::Over(ended) => ended,
                Expiry::Runs => None,
            },
        })
    }
}

fn is_old_copy(record: &Record, now: Moment) -> bool {
    record.tenure() == Tenure::Held
        && record.reach() == Reach::Cluster
        && now.since(record.accessed()) >= limits::STRAY_COPY
}

fn due(slot: &Slot, term: Option<Term>, now: Moment) -> Due {
    match slot {
        Slot::Ended(tombstone) if tombstone.until <= now => Due::Forget,
        Slot::Ended(tombstone) if tombstone.is_settled(now) => Due::Settle,
        Slot::Sought(sought) if sought.is_over(now) => Due::Forget,
        Slot::Ended(_) | Slot::Sought(_) => Due::Nothing,
        Slot::Live(record) if record.is_owned(term) && record.is_over(now, 1) => Due::End,
        Slot::Live(record) if !record.is_owned(term) && record.is_over(now, 2) => Due::Forget,
        Slot::Live(_) => Due::Nothing,
    }
}

impl Actor for SessionStore {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Nodes started together do not sweep together (Jetty adds 10 % at random for the same reason).
        let spread = Duration::from_millis(self.table.me().0 % 1_000);
        ctx.run_interval(limits::SWEEP_INTERVAL + spread, |_, ctx| ctx.notify(Sweep));
    }
}

impl Handler<Sweep> for SessionStore {
    type Result = ();

    fn handle(&mut self, _: Sweep, _: &mut Self::Context) {
        self.sweep(Moment::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{ContextPath, NodeId},
        session::{
            lease::LeaseKeeper,
            placement::{Place, Placement},
            replica::Birth,
        },
    };

    const ME: NodeId = NodeId(1);

    struct Ear(std::sync::mpsc::Sender<Vec<Update>>);

    impl Actor for Ear {
        type Context = Context<Self>;
    }

    impl Handler<Swept> for Ear {
        type Result = ();

        fn handle(&mut self, swept: Swept, _: &mut Self::Context) {
            self.0.send(swept.0).unwrap();
        }
    }

    #[actix_web::test]
    async fn an_idle_session_ends_everywhere_and_its_tombstone_is_forgotten_later() {
        let (told, heard) = std::sync::mpsc::channel();
        let table = Table::new(ME);
        let store = SessionStore::new(table.clone(), Ear(told).start().recipient());
        let hour = Duration::from_secs(3_600);
        LeaseKeeper::new(table.lease().clone(), hour, hour).tick(Moment(0));
        let (context, timeout) = (ContextPath::root(), Some(Duration::from_secs(60)));
        for (n, reach) in [Reach::Cluster, Reach::Node].into_iter().enumerate() {
            let id = SessionId([n as u8; 16]);
            let birth = Birth { id, me: ME, term: Term(1), context: &context, reach, timeout };
            table.with(id, |slot| replica::create(slot, &birth, &[], Moment(0)));
        }
        store.sweep(Moment(59_999));
        assert_eq!(table.counts().owned, 2);
        store.sweep(Moment(60_000));
        tokio::task::yield_now().await;
        assert_eq!(table.counts().owned, 0);
        let ended = heard.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(ended.iter().map(Update::id).collect::<Vec<_>>(), [SessionId([0; 16])], "local ones are not told");
        assert_eq!(table.ids(|_| true).len(), 2);
        store.sweep(Moment(60_000) + limits::TOMBSTONE);
        assert_eq!(table.ids(|_| true).len(), 0);
    }

    #[actix_web::test]
    async fn a_copy_whose_owner_does_not_end_it_is_forgotten_after_twice_its_time() {
        let (told, heard) = std::sync::mpsc::channel();
        let table = Table::new(ME);
        let store = SessionStore::new(table.clone(), Ear(told).start().recipient());
        let (id, context, timeout) = (SessionId([1; 16]), ContextPath::root(), Duration::from_secs(60));
        let (me, timeout_of) = (NodeId(2), Some(timeout));
        let birth = Birth { id, me, term: Term(1), context: &context, reach: Reach::Cluster, timeout: timeout_of };
        let born = replica::create(&mut None, &birth, &[], Moment(0)).update;
        table.with(id, |slot| replica::apply(slot, born, Moment(0)));
        let just_before = Duration::from_millis(1);
        store.sweep(Moment(0) + timeout * 2 - just_before);
        assert_eq!(table.slots(), 1, "its owner may have let it be used");
        store.sweep(Moment(0) + timeout * 2);
        assert_eq!(table.slots(), 0);
        assert!(heard.try_recv().is_err(), "that is not this node's to tell");
    }

    #[actix_web::test]
    async fn a_copy_that_other_nodes_hold_is_dropped_in_the_end_and_no_other() {
        let (told, _heard) = std::sync::mpsc::channel();
        let table = Table::new(ME);
        let store = SessionStore::new(table.clone(), Ear(told).start().recipient());
        let place = |n: u64| Place { node: NodeId(n), route: format!("r{n}").parse().unwrap(), serves: true };
        let placement = |nodes: &[u64]| Placement::new(Spread::Chosen(1), nodes.iter().map(|n| place(*n)));
        let (owner, all) = (NodeId(2), placement(&[1, 2, 3]));
        let context = ContextPath::root();
        let ids: Vec<SessionId> = (0..50).map(|n| SessionId([n; 16])).collect();
        for id in &ids {
            let birth =
                Birth { id: *id, me: owner, term: Term(1), context: &context, reach: Reach::Cluster, timeout: None };
            let born = replica::create(&mut None, &birth, &[], Moment(0)).update;
            table.with(*id, |slot| replica::apply(slot, born, Moment(0)));
        }
        let mine = ids.iter().filter(|id| all.involves(**id, owner, ME)).count();
        assert!((10..40).contains(&mine), "{mine} of 50");
        let late = Moment(0) + limits::STRAY_COPY;
        table.place(all.clone(), Moment(1));
        store.sweep(late);
        assert_eq!(table.counts().held, 50, "the nodes have changed lately");
        table.place(placement(&[1, 3]), Moment(2));
        store.sweep(Moment(2) + limits::STRAY_COPY);
        assert_eq!(table.counts().held, 50, "the owner is gone");
        table.place(all, Moment(3));
        store.sweep(Moment(3) + limits::STRAY_COPY);
        assert_eq!(table.counts().held, mine);
        assert!(
            ids.iter()
                .all(|id| table.peek(*id, |slot| slot.is_some()) == table.placed().placement.involves(*id, owner, ME))
        );
    }
}
