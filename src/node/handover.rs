//! A drain that does not wait for requests: the draining node offers what it owns, the others claim it.
//!
//! ```text
//!   draining node                     the node where a balancer would send the session
//!   hand_over ── offer: 256 ids ──►   Taker ── claim, as for a request ──► the draining node promises
//!      ▲   waits until they have moved                                        │
//!      └──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! An offer is a hint and changes nothing: ownership moves by the claim, with its epoch, its fence and its turn. A request
//! that comes first claims its session itself.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message};
use actix_web::rt;
use futures_util::{StreamExt, future::join_all, stream};
use tokio::time::sleep;
use tracing::{debug, info};

use super::House;
use crate::{
    limits,
    membership::{Duty, Roster},
    names::{ContextPath, NodeId, Route, SessionId},
    replication::{Claim, Claimed, Offer, Replicator, accept::Offered, core::Wish},
    session::{
        Slots, Table, placement,
        replica::{self, Reach, Slot, Standing, Tenure},
    },
    time::Moment,
};

/// How far a drain is.
#[derive(Debug, Default)]
pub struct Handover {
    /// Sessions that cannot move.
    staying: AtomicUsize,
}

/// What a draining node owns.
#[derive(Debug, Default)]
struct Owned {
    /// By webapp.
    moving: HashMap<ContextPath, Vec<SessionId>>,
    staying: usize,
}

/// Where one part of the sessions goes.
#[derive(Debug, PartialEq, Eq)]
struct Lane {
    to: NodeId,
    context: ContextPath,
    ids: Vec<SessionId>,
}

/// Claims what draining nodes offer.
pub struct Taker {
    house: Arc<House>,
    replicator: Addr<Replicator>,
    /// Nodes whose offer is being claimed, one of each at a time, and the offer that came meanwhile: its owner sees the last
    /// session go before this node has heard that it came.
    busy: HashMap<NodeId, Option<Offered>>,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Taken(NodeId);

impl Handover {
    /// Sessions of this node that cannot move, as counted last.
    pub fn staying(&self) -> usize {
        self.staying.load(Relaxed)
    }
}

/// Offers what `house` owns to the nodes that serve, again and again, as long as it drains.
pub async fn hand_over(house: Arc<House>, replicator: Addr<Replicator>) {
    let (began, mut told) = (Moment::now(), false);
    while house.duty.get() == Duty::Draining {
        let table = house.table.clone();
        // On a thread of its own: a look at a million sessions must not hold up requests.
        let Ok(Owned { moving, staying }) = rt::task::spawn_blocking(move || owned(&table)).await else { return };
        house.handover.staying.store(staying, Relaxed);
        if moving.is_empty() && !told {
            let took_ms = Moment::now().since(began).as_millis();
            info!(route = %house.route, staying, took_ms, "drained: no session is left that can move");
            told = true;
        }
        let serving = serving(&house.roster.load());
        join_all(lanes(moving, &serving).into_iter().map(|lane| offer(&house, &replicator, lane))).await;
        sleep(if told { limits::OFFER_IDLE } else { limits::OFFER_PAUSE }).await;
    }
}

fn owned(table: &Table) -> Owned {
    let mut owned = Owned::default();
    table.visit_all(|id, slot| match slot {
        Slot::Live(record) if record.tenure() != Tenure::Owned => {}
        Slot::Live(record) if record.reach() == Reach::Cluster => {
            owned.moving.entry(record.context().clone()).or_default().push(id);
        }
        Slot::Live(_) => owned.staying += 1,
        Slot::Ended(_) | Slot::Sought(_) => {}
    });
    owned
}

fn serving(roster: &Roster) -> Vec<(NodeId, Route)> {
    roster.nodes().filter(|node| node.duty == Duty::Serving).map(|node| (node.id, node.route)).collect()
}

/// Each session to the node that a balancer would choose for it, or that has its copy where only some have one.
fn lanes(moving: HashMap<ContextPath, Vec<SessionId>>, serving: &[(NodeId, Route)]) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = Vec::new();
    for (context, ids) in moving {
        let mut split: HashMap<NodeId, Vec<SessionId>> = HashMap::new();
        for id in ids {
            let key = placement::key(&id.0);
            let best = serving.iter().max_by_key(|(_, route)| placement::weight(key, route.as_str()));
            if let Some((to, _)) = best {
                split.entry(*to).or_default().push(id);
            }
        }
        lanes.extend(split.into_iter().map(|(to, ids)| Lane { to, context: context.clone(), ids }));
    }
    lanes
}

/// One offer after the other; the next one when the last one's sessions have moved. What does not move is offered again
/// in the next round, perhaps to another node.
async fn offer(house: &House, replicator: &Addr<Replicator>, Lane { to, context, ids }: Lane) {
    for ids in ids.chunks(limits::OFFER_SESSIONS) {
        let serves = house.roster.load().node(to).is_some_and(|node| node.duty == Duty::Serving);
        if !serves || house.duty.get() != Duty::Draining {
            return;
        }
        let offer = Offer { to, context: context.clone(), ids: ids.to_vec() };
        if !replicator.send(offer).await.unwrap_or(false) {
            return;
        }
        let end = Moment::now() + limits::OFFER_PATIENCE;
        let mut left: Vec<SessionId> = ids.to_vec();
        while Moment::now() < end {
            left.retain(|id| is_owned(&house.table, *id));
            if left.is_empty() {
                break;
            }
            sleep(limits::READY_POLL).await;
        }
    }
}

fn is_owned(table: &Table, id: SessionId) -> bool {
    table.peek(id, |slot| Slot::live(slot).is_some_and(|record| record.tenure() == Tenure::Owned))
}

impl Taker {
    /// Claims for `house` through `replicator`.
    pub fn new(house: Arc<House>, replicator: Addr<Replicator>) -> Self {
        Self { house, replicator, busy: HashMap::new() }
    }

    fn begin(&self, Offered { from, context, ids }: Offered, ctx: &Context<Self>) {
        let (house, replicator, me) = (self.house.clone(), self.replicator.clone(), ctx.address());
        actix::spawn(async move {
            let claims = ids.into_iter().map(|id| take(&house, &replicator, id, &context));
            let taken = stream::iter(claims).buffer_unordered(limits::OFFER_CLAIMS);
            let taken = taken.filter(|taken| std::future::ready(*taken)).count().await;
            debug!(%from, taken, "claimed what was offered");
            me.do_send(Taken(from));
        });
    }
}

impl Actor for Taker {
    type Context = Context<Self>;
}

impl Handler<Offered> for Taker {
    type Result = ();

    fn handle(&mut self, offered: Offered, ctx: &mut Self::Context) {
        if self.house.duty.get() != Duty::Serving {
            return;
        }
        match self.busy.get_mut(&offered.from) {
            // Who offers too much offers it again.
            Some(waiting) => {
                waiting.get_or_insert(offered);
            }
            None => {
                self.busy.insert(offered.from, None);
                self.begin(offered, ctx);
            }
        }
    }
}

impl Handler<Taken> for Taker {
    type Result = ();

    fn handle(&mut self, Taken(from): Taken, ctx: &mut Self::Context) {
        if let Some(Some(waiting)) = self.busy.remove(&from) {
            self.busy.insert(from, None);
            self.begin(waiting, ctx);
        }
    }
}

/// Claims one session as a request does, in its turn; true when this node owns it then.
async fn take(house: &House, replicator: &Addr<Replicator>, id: SessionId, context: &ContextPath) -> bool {
    let Ok(turn) = house.table.turn(id, limits::OFFER_PATIENCE).await else { return false };
    let term = house.table.lease().term(Moment::now());
    match house.table.peek(id, |slot| replica::standing(slot, context, term)) {
        Standing::Unknown | Standing::Held { .. } => {}
        Standing::Owned | Standing::Ended | Standing::OtherWebapp => return false,
    }
    // Without insisting: a node that serves again meanwhile keeps what it has.
    let wish = Wish { id, context: context.clone(), insist: false };
    let claimed = replicator.send(Claim(wish)).await;
    drop(turn);
    matches!(claimed, Ok(Claimed::Owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owned_goes_to_all_who_serve_and_where_a_balancer_would_send_it() {
        let ids: Vec<SessionId> = (0..300).map(|_| SessionId::draw()).collect();
        let serving: Vec<(NodeId, Route)> = [(2, "r2"), (3, "r3")].map(|(n, r)| (NodeId(n), r.parse().unwrap())).into();
        let moving = |ids: &[SessionId]| HashMap::from([(ContextPath::root(), ids.to_vec())]);
        let lanes = lanes(moving(&ids), &serving);
        assert_eq!(lanes.iter().map(|lane| lane.ids.len()).sum::<usize>(), 300);
        assert!(lanes.len() == 2 && lanes.iter().all(|lane| (90..210).contains(&lane.ids.len())));
        for Lane { to, ids, .. } in lanes {
            let (mine, other) = if to == NodeId(2) { ("r2", "r3") } else { ("r3", "r2") };
            for id in ids {
                let key = placement::key(&id.0);
                assert!(placement::weight(key, mine) > placement::weight(key, other));
            }
        }
        assert!(super::lanes(moving(&ids), &[]).is_empty(), "nobody serves");
    }
}
