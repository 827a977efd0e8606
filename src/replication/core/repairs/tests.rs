//! Several nodes, each with its real table and the replicator that repairs, connected by queues.

mod spread;

use std::collections::BTreeMap;

use super::*;
use crate::{
    names::{ContextPath, SessionId},
    replication::{
        batch::Batch,
        core::{ClaimEnded, ClaimId, CoreConfig, Lagging, PeerState, Serves},
        frame::Reply,
        intake,
        ledger::{Objection, Sequence, Verdict, WaitId},
        repair::Repaired,
        survey::{self, Question},
    },
    session::{
        Table,
        delta::{Delta, End, Ending, Finality, Update, Whole},
        digest::{fingerprint, mix},
        draft::Change,
        lease::Term,
        placement::{Place, Placement, Spread},
        replica::{self, Applied, Birth, Reach, Slot},
        stamp::{Epoch, Stamp},
        value::Value,
    },
    settings::Ack,
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const D: NodeId = NodeId(4);
const INTERVAL: Duration = Duration::from_secs(60);
const TERM: Term = Term(0);

/// Nodes under one clock.
struct World {
    now: Moment,
    nodes: BTreeMap<NodeId, Node>,
}

struct Node {
    table: Table,
    core: Core<Table>,
    desk: Desk,
    received: BTreeMap<NodeId, Sequence>,
}

/// What a core wants to be done, and what it was told.
#[derive(Default)]
struct Desk {
    out: Vec<(NodeId, Request)>,
    surveys: Vec<Survey>,
    repaired: Vec<(NodeId, Repaired)>,
    /// How many messages each peer takes before its next answer; everything where it is not said.
    room: Option<usize>,
    taken: usize,
    /// Sessions told.
    told: BTreeMap<NodeId, usize>,
    digests: usize,
}

impl Port for Desk {
    fn send(&mut self, peer: NodeId, request: &Request) -> Queued {
        if self.room.is_some_and(|room| self.taken >= room) {
            return Queued::Full;
        }
        self.taken += 1;
        self.digests += usize::from(matches!(request, Request::Compare(Question::Digest { .. })));
        self.out.push((peer, request.clone()));
        Queued::Yes
    }

    fn send_update(&mut self, peer: NodeId, update: &Update) -> Queued {
        let queued = self.send(peer, &Request::Update(update.clone()));
        *self.told.entry(peer).or_default() += usize::from(queued == Queued::Yes);
        queued
    }

    fn send_batch(&mut self, peer: NodeId, batch: &Batch) -> Queued {
        let queued = self.send(peer, &Request::Copies(batch.clone()));
        *self.told.entry(peer).or_default() += if queued == Queued::Yes { batch.copies().count() } else { 0 };
        queued
    }

    fn settled(&mut self, _: WaitId, _: Verdict) {}

    fn claimed(&mut self, _: ClaimId, _: ClaimEnded) {}

    fn needs(&mut self, _: NodeId) {}

    fn lagging(&mut self, _: NodeId, _: Lagging) {}

    fn survey(&mut self, survey: Survey) {
        self.surveys.push(survey);
    }

    fn repaired(&mut self, peer: NodeId, report: Repaired) {
        self.repaired.push((peer, report));
    }
}

impl World {
    /// Nodes that do not know each other yet.
    fn of(nodes: &[NodeId]) -> Self {
        let second = Duration::from_secs(1);
        let config = CoreConfig {
            ack: Ack::One,
            ack_timeout: second,
            claim_timeout: second,
            lease: second,
            repair_interval: INTERVAL,
        };
        let node = |id: &NodeId| {
            let table = Table::new(*id);
            let core = Core::keeping_lease(table.clone(), config);
            (*id, Node { table, core, desk: Desk::default(), received: BTreeMap::new() })
        };
        Self { now: Moment(1_000_000), nodes: nodes.iter().map(node).collect() }
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    fn table(&self, id: NodeId) -> Table {
        self.nodes[&id].table.clone()
    }

    /// Everyone knows everyone and has a new link to everyone.
    fn link_all(&mut self) {
        let (all, now): (Vec<NodeId>, _) = (self.nodes.keys().copied().collect(), self.now);
        for (id, node) in &mut self.nodes {
            let peers = all.iter().filter(|peer| *peer != id);
            node.core.nodes(peers.clone().map(|peer| (*peer, Serves::Yes)).collect(), now);
            for peer in peers {
                node.core.link_down(*peer, now, &mut node.desk);
                node.received.clear();
                node.core.link_up(*peer, now, &mut node.desk);
                node.core.repair(*peer, now);
            }
        }
    }

    /// Each session is held by its owner and so many others of those that live.
    fn spread(&mut self, copies: usize) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.spread_without(copies, node, &[]);
        }
    }

    /// The same as one node sees it that knows of others, or of itself, that they drain.
    fn spread_without(&mut self, copies: usize, id: NodeId, draining: &[NodeId]) {
        let route = |node: &NodeId| format!("r{}", node.0).parse().unwrap();
        let place = |node: &NodeId| Place { node: *node, route: route(node), serves: !draining.contains(node) };
        let placement = Placement::new(Spread::Chosen(copies), self.nodes.keys().map(place));
        let now = self.now;
        let node = self.node(id);
        node.table.place(placement.clone(), now);
        node.core.place(placement, now);
    }

    fn holders(&self, n: u64) -> Vec<NodeId> {
        self.nodes.keys().copied().filter(|node| self.holds(*node, n).is_some()).collect()
    }

    /// A node is gone, and the others know it.
    fn lose(&mut self, lost: NodeId) {
        self.nodes.remove(&lost);
        let (all, now): (Vec<NodeId>, _) = (self.nodes.keys().copied().collect(), self.now);
        for (id, node) in &mut self.nodes {
            node.core.link_down(lost, now, &mut node.desk);
            node.core.nodes(all.iter().filter(|peer| *peer != id).map(|peer| (*peer, Serves::Yes)).collect(), now);
        }
    }

    /// Time passes, and what is sent arrives at once.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + limits::REPLICATOR_TICK;
            let now = self.now;
            self.nodes.values_mut().for_each(|node| node.core.tick(now, &mut node.desk));
            while self.deliver() {}
        }
    }

    /// Delivers what has been sent, and says whether there was anything.
    fn deliver(&mut self) -> bool {
        let now = self.now;
        let mut is_busy = false;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let node = self.node(id);
            for survey in std::mem::take(&mut node.desk.surveys) {
                is_busy = true;
                node.core.surveyed(survey.run(&node.table), now, &mut node.desk);
            }
            node.desk.taken = 0;
            for (peer, request) in std::mem::take(&mut node.desk.out) {
                is_busy = true;
                let replies = self.nodes.get_mut(&peer).map(|node| node.take(id, request, now)).unwrap_or_default();
                let node = self.node(id);
                node.core.replied(peer, replies, now, &mut node.desk);
            }
        }
        is_busy
    }

    /// Sessions of an owner, held by others too.
    fn create(&mut self, sessions: std::ops::Range<u64>, owner: NodeId, holders: &[NodeId]) {
        for n in sessions {
            let context = ContextPath::root();
            let birth =
                Birth { id: id(n), me: owner, term: TERM, context: &context, reach: Reach::Cluster, timeout: None };
            let change = Change::Set("n".into(), Value::encode(&n).unwrap());
            let born = self.table(owner).with(id(n), |slot| {
                let born = replica::create(slot, &birth, &[change], self.now);
                assert_eq!(replica::keep(slot, id(n), &born.undo, self.now), replica::Kept::Stands(None));
                born
            });
            for holder in holders {
                self.table(*holder).with(id(n), |slot| replica::apply(slot, born.update.clone(), self.now));
            }
        }
    }

    /// A commit of the owner of which only these hear.
    fn commit(&mut self, n: u64, holders: &[NodeId], name: &str) {
        for holder in holders {
            let owner = self.owner(*holder, n);
            self.table(*holder).with(id(n), |slot| {
                let stamp = Slot::live(slot).unwrap().stamp();
                let stamp = Stamp { epoch: Epoch::first(owner), version: stamp.version + 1 };
                let changes = vec![Change::Set(name.into(), Value::encode(&n).unwrap())];
                let tenure = Slot::live(slot).unwrap().tenure();
                if tenure == replica::Tenure::Owned {
                    let committed = replica::commit(slot, id(n), &changes, Some(TERM), self.now).unwrap();
                    assert_eq!(replica::keep(slot, id(n), &committed.undo, self.now), replica::Kept::Stands(None));
                } else {
                    assert_eq!(
                        replica::apply(slot, Update::Delta(Delta { id: id(n), stamp, changes }), self.now),
                        Applied::Applied
                    );
                }
            });
        }
    }

    fn owner(&self, at: NodeId, n: u64) -> NodeId {
        self.table(at).peek(id(n), |slot| Slot::live(slot).unwrap().promised().node)
    }

    fn holds(&self, node: NodeId, n: u64) -> Option<u64> {
        self.table(node).peek(id(n), |slot| slot.as_ref().and_then(|slot| fingerprint(id(n), slot)))
    }

    fn all_hold_the_same(&self, sessions: std::ops::Range<u64>) -> bool {
        let mut all = sessions.map(|n| self.nodes.keys().map(|node| self.holds(*node, n)).collect::<Vec<_>>());
        all.all(|held| held[0].is_some() && held.iter().all(|other| *other == held[0]))
    }

    fn reports(&self, from: NodeId, to: NodeId) -> Vec<Repaired> {
        let of = self.nodes[&from].desk.repaired.iter().filter(|(peer, _)| *peer == to);
        of.map(|(_, report)| Repaired { took: Duration::ZERO, ..*report }).collect()
    }

    fn state(&self, from: NodeId, to: NodeId) -> PeerState {
        self.nodes[&from].core.peer(to, self.now)
    }

    fn forget_reports(&mut self) {
        self.nodes.values_mut().for_each(|node| node.desk = Desk { room: node.desk.room, ..Desk::default() });
    }
}

impl Node {
    /// As the accepting side does it.
    fn take(&mut self, from: NodeId, request: Request, now: Moment) -> Vec<Reply> {
        match request {
            Request::Update(update) => {
                let received = self.received.entry(from).or_default();
                *received += 1;
                let ack = Reply::Ack(*received);
                let applied = match self.table.with(update.id(), |slot| replica::apply(slot, update, now)) {
                    Applied::Later(copy) => self.table.with(copy.id, |slot| replica::merge_copy(slot, *copy, now)),
                    applied => applied,
                };
                let objection = match applied {
                    Applied::Merged(update) => {
                        self.core.announce(&update, now, &mut self.desk);
                        return vec![ack];
                    }
                    Applied::Applied | Applied::Duplicate | Applied::Later(_) => return vec![ack],
                    Applied::Gap => Objection::Gap,
                    Applied::Fenced(epoch) => Objection::Fenced(epoch),
                    Applied::Ended(stamp) => Objection::Ended(stamp),
                };
                vec![Reply::Objection(*received, objection), ack]
            }
            Request::Copies(batch) => {
                let taken = intake::take(&self.table, &batch, now).unwrap();
                for copy in taken.later {
                    let merged = self.table.with(copy.id, |slot| replica::merge_copy(slot, copy, now));
                    if let Applied::Merged(update) = merged {
                        self.core.announce(&update, now, &mut self.desk);
                    }
                }
                vec![Reply::Took { batch: batch.number, ended: taken.ended, outranked: taken.outranked }]
            }
            Request::Compare(question) => vec![Reply::Compared(survey::compare(&self.table, from, &question, now))],
            Request::Renew { at } => vec![Reply::Renewed { at }],
            Request::Touch { .. } | Request::Claim(..) | Request::Offer { .. } | Request::Replaces { .. } => Vec::new(),
        }
    }
}

fn id(n: u64) -> SessionId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(n).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    SessionId(bytes)
}

const MOMENT: Duration = Duration::from_millis(200);

#[test]
fn a_joining_node_gets_everything_without_a_list() {
    let mut world = World::of(&[A, B]);
    world.create(0..5_000, A, &[]);
    world.link_all();
    assert!(!world.state(A, B).complete);
    world.pass(MOMENT);
    assert!(world.all_hold_the_same(0..5_000));
    let [report] = world.reports(A, B)[..] else { panic!("one round, not {:?}", world.reports(A, B)) };
    assert_eq!((report.listed, report.told, report.left), (0, 5_000, 0));
    let [nothing] = world.reports(B, A)[..] else { panic!("one round, not {:?}", world.reports(B, A)) };
    assert_eq!((nothing.told, nothing.listed), (0, 0));
    assert!(world.state(A, B).complete && world.state(B, A).complete);
}

#[test]
fn a_session_that_was_made_before_the_link_and_is_safe_only_after_it_is_told() {
    let mut world = World::of(&[A, B]);
    let context = ContextPath::root();
    let birth = Birth { id: id(1), me: A, term: TERM, context: &context, reach: Reach::Cluster, timeout: None };
    let born = world.table(A).with(id(1), |slot| replica::create(slot, &birth, &[], world.now));
    world.link_all();
    world.pass(MOMENT);
    assert!(world.holds(B, 1).is_none() && !world.state(A, B).complete, "it may still be refused");
    assert_eq!(
        world.table(A).with(id(1), |slot| replica::keep(slot, id(1), &born.undo, world.now)),
        replica::Kept::Stands(None)
    );
    world.pass(limits::REPLICATOR_TICK * 2);
    assert!(world.all_hold_the_same(1..2) && world.state(A, B).complete);
}

#[test]
fn nodes_that_hold_the_same_send_digests_and_nothing_else() {
    let mut world = World::of(&[A, B]);
    world.create(0..1_000, A, &[B]);
    world.create(1_000..2_000, B, &[A]);
    world.link_all();
    world.pass(MOMENT);
    let same = Repaired { sessions: 2_000, ..Repaired::default() };
    assert_eq!((world.reports(A, B), world.reports(B, A)), (vec![same], vec![same]));
    world.pass(INTERVAL / 2);
    assert_eq!(world.nodes[&A].desk.digests, 1, "nothing is looked for before its time");
    world.pass(INTERVAL);
    assert_eq!(world.nodes[&A].desk.digests, 2);
}

#[test]
fn a_peer_that_missed_some_writes_is_told_these_and_asked_about_few() {
    let mut world = World::of(&[A, B]);
    world.create(0..20_000, A, &[B]);
    (0..20).for_each(|n| world.commit(n * 100, &[A], "late"));
    world.link_all();
    world.pass(MOMENT);
    assert!(world.all_hold_the_same(0..20_000));
    let report = world.reports(A, B)[0];
    assert_eq!((report.differing, report.told), (20, 20));
    assert!(report.listed < 300, "{} of 20,000 sessions were listed", report.listed);
    world.forget_reports();
    world.pass(limits::REPAIR_AGAIN + MOMENT);
    assert_eq!(world.reports(A, B), [Repaired { sessions: 20_000, ..Repaired::default() }], "then nothing differs");
    world.forget_reports();
    world.pass(INTERVAL / 2);
    assert_eq!(world.reports(A, B), []);
}

#[test]
fn what_no_reason_told_of_is_found_by_the_regular_look() {
    let mut world = World::of(&[A, B]);
    world.create(0..100, A, &[B]);
    world.link_all();
    world.pass(MOMENT);
    world.commit(7, &[A], "late");
    assert!(!world.all_hold_the_same(0..100));
    world.pass(INTERVAL + INTERVAL / 8);
    assert!(world.all_hold_the_same(0..100));
}

#[test]
fn a_node_that_is_being_told_does_not_look_meanwhile_whether_the_teller_lacks_something() {
    let mut world = World::of(&[A, B]);
    world.create(0..100, A, &[B]);
    world.link_all();
    world.pass(MOMENT);
    world.forget_reports();
    let end = world.now + INTERVAL * 2;
    while world.now < end {
        world.table(B).hear(A, world.now);
        world.pass(limits::REPAIR_TOLD / 2);
    }
    let digests = [A, B].map(|node| world.nodes[&node].desk.digests);
    assert!(digests[0] > 0 && digests[1] == 0, "{digests:?}");
    world.pass(limits::REPAIR_TOLD);
    assert_eq!(world.nodes[&B].desk.digests, 1, "it was only put off");
}

#[test]
fn after_a_split_each_side_learns_what_the_other_has_done() {
    let mut world = World::of(&[A, B, C]);
    world.create(0..50, A, &[B, C]);
    world.create(50..100, B, &[A, C]);
    world.commit(3, &[A], "a");
    world.commit(53, &[B, C], "b");
    world.create(100..120, A, &[]);
    world.create(120..140, C, &[B]);
    world.link_all();
    world.pass(MOMENT * 2);
    assert!(world.all_hold_the_same(0..140));
}

#[test]
fn a_joining_node_is_told_each_session_once_however_many_have_it() {
    let mut world = World::of(&[A, B, C, D]);
    world.create(0..900, A, &[B, C]);
    world.create(900..1_800, B, &[A, C]);
    world.link_all();
    world.pass(MOMENT);
    let to_d: usize = [A, B, C].iter().map(|node| world.nodes[node].desk.told.get(&D).copied().unwrap_or(0)).sum();
    assert_eq!(to_d, 1_800);
    assert!(world.all_hold_the_same(0..1_800));
    world.pass(limits::REPAIR_AGAIN * 20);
    let to_d: usize = [A, B, C].iter().map(|node| world.nodes[node].desk.told.get(&D).copied().unwrap_or(0)).sum();
    assert_eq!(to_d, 1_800, "the looks that follow find everything there");
}

#[test]
fn the_sessions_of_a_lost_owner_reach_a_node_that_joined_before_the_loss_was_known() {
    let mut world = World::of(&[A, B, C, D]);
    world.create(0..600, D, &[A, B]);
    world.link_all();
    world.node(D).desk.room = Some(0);
    world.pass(MOMENT);
    assert_eq!(world.holds(C, 0), None, "its owner is there to tell it");
    assert!(world.reports(A, C)[0].left > 0);
    world.lose(D);
    world.forget_reports();
    world.pass(MOMENT);
    assert!(world.all_hold_the_same(0..600));
    let told = |from: NodeId| world.nodes[&from].desk.told.get(&C).copied().unwrap_or(0);
    assert_eq!(told(A) + told(B), 600, "each by one of the others");
    assert!(told(A) > 200 && told(B) > 200, "{} and {}: they share the work", told(A), told(B));
}

#[test]
fn what_only_one_node_has_heard_of_a_lost_owner_reaches_the_others() {
    let mut world = World::of(&[A, B, C]);
    world.create(0..100, C, &[A, B]);
    world.link_all();
    world.pass(MOMENT);
    world.commit(5, &[C, B], "last");
    world.lose(C);
    world.pass(MOMENT);
    assert!(world.all_hold_the_same(0..100));
    assert_ne!(world.holds(A, 5), world.holds(A, 6));
}

#[test]
fn an_end_that_a_peer_missed_is_told_and_one_that_is_long_past_is_not() {
    let mut world = World::of(&[A, B]);
    world.create(0..2, A, &[B]);
    let end = |world: &World| world.table(A).with(id(0), |slot| replica::end(slot, id(0), Some(TERM), world.now));
    end(&world).unwrap();
    world.link_all();
    world.pass(MOMENT);
    assert!(world.all_hold_the_same(0..2));
    world.table(B).with(id(0), |slot| *slot = None);
    world.now = world.now + limits::TOMBSTONE / 2;
    world.forget_reports();
    let now = world.now;
    world.node(A).core.repair(B, now);
    world.pass(MOMENT);
    assert_eq!(world.holds(B, 0), None, "nodes do not remind each other of an end for ever");
    assert_eq!(world.reports(A, B)[0].told, 0);
}

#[test]
fn a_session_that_has_ended_here_ends_where_it_still_lives_however_late() {
    let mut world = World::of(&[A, B]);
    world.create(0..2, A, &[B]);
    let ending = Ending { finality: Finality::Refutable, stamp: Stamp { epoch: Epoch::first(A), version: 2 } };
    world.table(A).with(id(0), |slot| replica::apply(slot, Update::End(End { id: id(0), ending }), world.now));
    world.now = world.now + limits::TOMBSTONE / 2;
    world.link_all();
    world.pass(MOMENT * 2);
    let has_ended = |node| world.table(node).peek(id(0), |slot| matches!(slot, Some(Slot::Ended(_))));
    assert!(has_ended(A) && has_ended(B));
}

#[test]
fn a_repair_goes_on_where_a_full_queue_stopped_it() {
    let mut world = World::of(&[A, B]);
    world.create(0..50, A, &[]);
    world.link_all();
    world.node(A).desk.room = Some(3);
    world.pass(MOMENT * 3);
    assert!(world.all_hold_the_same(0..50));
    assert_eq!((world.reports(A, B)[0].told, world.nodes[&A].desk.told[&B]), (50, 50), "each one once");
}

#[test]
fn after_a_link_broke_in_the_middle_only_what_is_left_is_told() {
    let mut world = World::of(&[A, B]);
    world.create(0..10_000, A, &[]);
    world.link_all();
    world.node(A).desk.room = Some(3);
    let some = |world: &World| (0..10_000).filter(|n| world.holds(B, *n).is_some()).count();
    while some(&world) == 0 {
        world.now = world.now + limits::REPLICATOR_TICK;
        let now = world.now;
        world.nodes.values_mut().for_each(|node| node.core.tick(now, &mut node.desk));
        world.deliver();
    }
    let before = some(&world);
    assert!(before < 10_000);
    world.forget_reports();
    world.node(A).desk.room = None;
    world.link_all();
    world.pass(MOMENT);
    assert!(world.all_hold_the_same(0..10_000));
    assert!(world.reports(A, B)[0].told <= 10_000 - before);
}
