//! The core with one node's real table, and peers that are played by the test.

mod claims;
mod spread;

use std::time::Duration;

use super::*;
use crate::{
    replication::ledger::Objection,
    session::{
        Table,
        delta::{Answer, ClaimRequest, Delta, End, Ending, Finality, Given},
        lease::Term,
        replica::{self, Birth, Reach, Record, Slot, Tenure},
        stamp::{Epoch, Stamp},
    },
    settings::Ack,
};

const ME: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const NOW: Moment = Moment(1_000_000);
const TIMEOUT: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_millis(300);

/// Records what the core does; a peer takes only so many messages.
#[derive(Default)]
struct Desk {
    claims: Vec<(NodeId, Ticket)>,
    updates: Vec<(NodeId, SessionId)>,
    claimed: Vec<ClaimEnded>,
    settled: Vec<Verdict>,
    needs: Vec<NodeId>,
    room: Option<usize>,
    stopped: Vec<NodeId>,
    insisted: usize,
    /// Who is to pass on to whom that it was replaced.
    replaced: Vec<(NodeId, NodeId)>,
}

impl Port for Desk {
    fn send(&mut self, peer: NodeId, request: &Request) -> Queued {
        if let Request::Claim(ticket, claim) = request {
            self.claims.push((peer, *ticket));
            self.insisted += usize::from(claim.insist);
        }
        if let Request::Replaces { member, .. } = request {
            self.replaced.push((peer, *member));
        }
        Queued::Yes
    }

    fn send_update(&mut self, peer: NodeId, update: &Update) -> Queued {
        match &mut self.room {
            Some(0) => return Queued::Full,
            Some(room) => *room -= 1,
            None => {}
        }
        self.updates.push((peer, update.id()));
        Queued::Yes
    }

    fn settled(&mut self, _: WaitId, verdict: Verdict) {
        self.settled.push(verdict);
    }

    fn claimed(&mut self, _: ClaimId, ended: ClaimEnded) {
        self.claimed.push(ended);
    }

    fn needs(&mut self, peer: NodeId) {
        self.needs.push(peer);
    }

    fn lagging(&mut self, _: NodeId, _: Lagging) {}

    fn survey(&mut self, _: Survey) {}

    fn repaired(&mut self, _: NodeId, _: Repaired) {}
}

fn id(n: u8) -> SessionId {
    SessionId([n; 16])
}

fn create(table: &Table, session: SessionId, owner: NodeId) {
    let context = ContextPath::root();
    let birth =
        Birth { id: session, me: owner, term: Term(1), context: &context, reach: Reach::Cluster, timeout: None };
    let mut slot = None;
    let born = replica::create(&mut slot, &birth, &[], NOW);
    table.with(session, |held| match owner {
        ME => *held = slot,
        _ => drop(replica::apply(held, born.update, NOW)),
    });
}

fn core(table: &Table, desk: &mut Desk) -> Core<Table> {
    let config = CoreConfig {
        ack: Ack::One,
        ack_timeout: TIMEOUT,
        claim_timeout: TIMEOUT,
        lease: LEASE,
        repair_interval: TIMEOUT,
    };
    let mut core = Core::keeping_lease(table.clone(), config);
    core.nodes([(B, Serves::Yes), (C, Serves::Yes)].into(), NOW);
    core.link_up(B, NOW, desk);
    core.link_up(C, NOW, desk);
    pass(&mut core, desk, 0, 0);
    core
}

fn after(ms: u64) -> Moment {
    NOW + Duration::from_millis(ms)
}

/// Time passes from one tick to another; peers that are not stopped confirm the lease at once.
fn pass(core: &mut Core<Table>, desk: &mut Desk, from: u64, to: u64) {
    for ms in (from..=to).step_by(20) {
        core.tick(after(ms), desk);
        let stopped = desk.stopped.clone();
        for peer in [B, C].into_iter().filter(|peer| !stopped.contains(peer)) {
            core.replied(peer, [Reply::Renewed { at: after(ms) }], after(ms), desk);
        }
    }
}

fn wish(insist: bool) -> Wish {
    Wish { id: id(1), context: ContextPath::root(), insist }
}

fn tenure(table: &Table) -> Option<Tenure> {
    table.peek(id(1), |slot| Slot::live(slot).map(Record::tenure))
}

/// A copy that another node gives away, and the promise it is given with.
fn promised(owner: Epoch) -> Answer {
    let mut slot = None;
    let context = ContextPath::root();
    let birth = Birth { id: id(1), me: C, term: Term(1), context: &context, reach: Reach::Cluster, timeout: None };
    let Update::Whole(copy) = replica::create(&mut slot, &birth, &[], NOW).update else { panic!("it begins whole") };
    Answer::Promised(Given { owner: Some(owner), current: Some(owner), idle: Some(Duration::ZERO), copy: Some(copy) })
}

#[test]
fn a_commit_that_a_peer_asks_for_as_a_whole_is_not_told_under_the_epoch_of_the_next_owner() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    create(&table, id(1), ME);
    let made = table.with(id(1), |slot| replica::commit(slot, id(1), &[], Some(Term(1)), NOW)).unwrap();
    core.replicate(&made.update, NOW, &mut desk);
    // Another peer, which had an earlier commit to refuse, says that the session has a new owner.
    let theirs = Epoch::first(ME).outranked_by(C);
    table.with(id(1), |slot| replica::yield_to(slot, theirs));
    desk.updates.clear();
    core.replied(B, [Reply::Objection(1, Objection::Gap), Reply::Ack(1)], NOW, &mut desk);
    assert_eq!(desk.settled, [Verdict::Replaced(theirs)]);
    assert_eq!(desk.updates, [], "it would confirm it");
}

#[test]
fn a_write_that_was_answered_alone_goes_to_who_has_taken_the_session_over() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    create(&table, id(1), ME);
    let made = table.with(id(1), |slot| replica::commit(slot, id(1), &[], Some(Term(1)), NOW)).unwrap();
    core.replicate(&made.update, NOW, &mut desk);
    desk.stopped = vec![B, C];
    pass(&mut core, &mut desk, 20, 1_000);
    assert_eq!(desk.settled, [Verdict::Held(1)]);
    let kept = table.with(id(1), |slot| replica::keep(slot, id(1), &made.undo, after(1_000)));
    assert_eq!(kept, replica::Kept::Stands(None));
    desk.updates.clear();
    let theirs = Epoch::first(ME).outranked_by(B);
    core.replied(B, [Reply::Objection(1, Objection::Fenced(theirs)), Reply::Ack(1)], after(1_000), &mut desk);
    assert_eq!(desk.updates, [(B, id(1))]);
    let promised = table.with(id(1), |slot| Slot::live(slot).map(|record| record.promised()));
    assert_eq!(promised, Some(theirs));
}

#[test]
fn an_owner_that_hears_from_a_third_node_that_it_was_replaced_owns_nothing_and_confirms_nothing() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), ME);
    let mut core = core(&table, &mut desk);
    let made = table.with(id(1), |slot| replica::commit(slot, id(1), &[], Some(Term(1)), NOW)).unwrap();
    core.replicate(&made.update, NOW, &mut desk);
    let lower = Epoch { counter: 0, node: C };
    core.replied(B, [Reply::Replaced(id(1), lower)], NOW, &mut desk);
    assert_eq!(tenure(&table), Some(Tenure::Owned), "an old one takes nothing away");
    let theirs = Epoch::first(ME).outranked_by(C);
    core.replied(B, [Reply::Replaced(id(1), theirs)], NOW, &mut desk);
    assert_eq!(tenure(&table), Some(Tenure::Held));
    core.replied(B, [Reply::Objection(1, Objection::Gap), Reply::Ack(1)], NOW, &mut desk);
    assert_eq!(desk.settled, [Verdict::Replaced(theirs)]);
}

#[test]
fn a_full_queue_is_told_once_however_much_was_dropped() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), ME);
    let mut core = core(&table, &mut desk);
    desk.needs.clear();
    desk.room = Some(0);
    let stamp = Stamp { epoch: Epoch::first(ME), version: 1 };
    for _ in 0..100 {
        core.announce(&Update::Delta(Delta { id: id(1), stamp, changes: Vec::new() }), NOW, &mut desk);
    }
    assert!(desk.needs.is_empty() && !core.peer(B, NOW).complete);
    core.tick(NOW, &mut desk);
    core.tick(NOW, &mut desk);
    assert_eq!(desk.needs, [B, C]);
}
