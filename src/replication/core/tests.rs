//! The core with one node's real table, and peers that are played by the test.

use std::time::Duration;

use super::*;
use crate::{
    session::{
        Table,
        delta::{Answer, Delta},
        replica::{Birth, Record},
        stamp::Stamp,
    },
    settings::Ack,
};

const ME: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const NOW: Moment = Moment(1_000_000);
const TIMEOUT: Duration = Duration::from_secs(1);

/// Records what the core does; a peer takes only so many messages.
#[derive(Default)]
struct Desk {
    claims: Vec<(NodeId, Ticket)>,
    updates: Vec<(NodeId, SessionId)>,
    claimed: Vec<ClaimEnded>,
    exported: Vec<usize>,
    room: Option<usize>,
}

impl Port for Desk {
    fn send(&mut self, peer: NodeId, request: &Request) -> Queued {
        if let Request::Claim(ticket, _) = request {
            self.claims.push((peer, *ticket));
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

    fn settled(&mut self, _: WaitId, _: Verdict) {}

    fn claimed(&mut self, _: ClaimId, ended: ClaimEnded) {
        self.claimed.push(ended);
    }

    fn needs(&mut self, _: NodeId) {}

    fn lagging(&mut self, _: NodeId, _: Lagging) {}

    fn exported(&mut self, _: NodeId, sessions: usize) {
        self.exported.push(sessions);
    }
}

fn id(n: u8) -> SessionId {
    SessionId([n; 16])
}

fn create(table: &Table, session: SessionId, owner: NodeId) {
    let context = ContextPath::root();
    let birth = Birth { id: session, me: owner, context: &context, reach: Reach::Cluster, timeout: None };
    let mut slot = None;
    let born = replica::create(&mut slot, &birth, &[], NOW);
    table.with(session, |held| match owner {
        ME => *held = slot,
        _ => drop(replica::apply(held, born.update, NOW)),
    });
}

fn core(table: &Table, desk: &mut Desk) -> Core<Table> {
    let config = CoreConfig { ack: Ack::One, ack_timeout: TIMEOUT, claim_timeout: TIMEOUT };
    let mut core = Core::new(table.clone(), config);
    core.nodes([(B, Serves::Yes), (C, Serves::Yes)].into(), NOW);
    core.link_up(B, desk);
    core.link_up(C, desk);
    core
}

fn wish(insist: bool) -> Wish {
    Wish { id: id(1), context: ContextPath::root(), insist }
}

fn tenure(table: &Table) -> Option<Tenure> {
    table.peek(id(1), |slot| Slot::live(slot).map(Record::tenure))
}

#[test]
fn a_claim_asks_the_owner_before_the_others() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let [(B, ticket)] = desk.claims[..] else { panic!("the owner alone is asked, not {:?}", desk.claims) };
    core.replied(B, [Reply::Answer(ticket, Answer::Promised(None))], NOW, &mut desk);
    assert_eq!((&desk.claims[1..], &desk.claimed[..]), (&[(C, ticket)][..], &[][..]));
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(None))], NOW, &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Owner]);
    assert_eq!(tenure(&table), Some(Tenure::Owned));
}

#[test]
fn a_claimant_takes_what_the_owner_commits_before_it_hands_over() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let stamp = Stamp { epoch: Epoch::first(B), version: 2 };
    let running = Update::Delta(Delta { id: id(1), stamp, changes: Vec::new() });
    assert_eq!(table.with(id(1), |slot| replica::apply(slot, running, NOW)), replica::Applied::Applied);
    let ticket = desk.claims[0].1;
    core.replied(B, [Reply::Answer(ticket, Answer::Promised(None))], NOW, &mut desk);
    assert_eq!(tenure(&table), Some(Tenure::Claiming), "from here on its commits are refused");
}

#[test]
fn what_the_owner_handed_over_is_kept_while_the_others_are_asked() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    let mut newer = table.peek(id(1), |slot| Slot::live(slot).unwrap().whole(id(1), NOW));
    newer.stamp.version += 5;
    core.claim(wish(true), NOW, &mut desk);
    let ticket = desk.claims[0].1;
    core.replied(B, [Reply::Answer(ticket, Answer::Promised(Some(newer.clone())))], NOW, &mut desk);
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(None))], NOW, &mut desk);
    assert_eq!(table.peek(id(1), |slot| Slot::live(slot).unwrap().stamp()), newer.stamp);
}

#[test]
fn an_owner_that_does_not_answer_holds_up_a_claim_no_longer_than_its_time() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    core.tick(NOW + TIMEOUT, &mut desk);
    assert_eq!(desk.claims.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [B, C]);
    core.tick(NOW + TIMEOUT * 2, &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Owner]);
}

#[test]
fn a_node_for_which_all_others_lag_asks_them_before_it_takes_a_session() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), C);
    let mut core = core(&table, &mut desk);
    let stamp = Stamp { epoch: Epoch::first(ME), version: 1 };
    core.announce(&Update::Delta(Delta { id: id(9), stamp, changes: Vec::new() }), NOW, &mut desk);
    let later = NOW + TIMEOUT;
    core.tick(later, &mut desk);
    assert!(!core.peer(B, later).in_sync && !core.peer(C, later).in_sync);
    core.claim(wish(false), later, &mut desk);
    assert_eq!((tenure(&table), &desk.claimed[..]), (Some(Tenure::Held), &[][..]));
    let ticket = desk.claims[0].1;
    core.replied(C, [Reply::Answer(ticket, Answer::Owned(C))], later, &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Elsewhere(C)]);
}

#[test]
fn a_copy_run_goes_on_where_a_full_queue_stopped_it() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    (1..=5).for_each(|n| create(&table, id(n), ME));
    let mut core = core(&table, &mut desk);
    core.export(B, NOW);
    let mut now = NOW + limits::EXPORT_QUIET;
    for sent in [2, 4, 5] {
        desk.room = Some(2);
        core.tick(now, &mut desk);
        assert_eq!(desk.updates.len(), sent);
        core.replied(B, [Reply::Ack(sent as Sequence)], now, &mut desk);
        now = now + limits::REPLICATOR_TICK;
    }
    assert_eq!(desk.exported, [5]);
    let told: std::collections::BTreeSet<_> = desk.updates.iter().map(|(_, session)| *session).collect();
    assert_eq!(told.len(), 5, "each one once");
}

#[test]
fn a_peer_that_joined_before_a_loss_was_known_is_told_what_the_lost_node_owned() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), C);
    let mut core = core(&table, &mut desk);
    core.export(B, NOW);
    let mut now = NOW + limits::EXPORT_QUIET;
    core.tick(now, &mut desk);
    assert_eq!((&desk.exported[..], desk.updates.len()), (&[0][..], 0), "its owner is there to tell it");
    core.nodes([(B, Serves::Yes)].into(), now);
    now = now + limits::EXPORT_QUIET;
    core.tick(now, &mut desk);
    assert_eq!(desk.updates, [(B, id(1))]);
}
