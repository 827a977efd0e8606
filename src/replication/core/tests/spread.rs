//! Who is told of what when only some nodes hold a session, and what becomes of a write that too few hold.

use super::*;
use crate::{
    limits,
    session::placement::{Fitness, Place},
};

fn place(node: NodeId) -> Place {
    Place { node, route: format!("r{}", node.0).parse().unwrap(), serves: true }
}

fn placement(nodes: &[NodeId]) -> Placement {
    Placement::new(Spread::Chosen(1), nodes.iter().map(|node| place(*node)))
}

/// A core that tells one other node of each session, with links to B and C.
fn chosen(table: &Table, desk: &mut Desk) -> Core<Table> {
    let mut core = core(table, desk);
    core.place(placement(&[ME, B, C]), NOW);
    core
}

/// The changes of one commit of a session that this node owns.
fn commit(table: &Table, n: u8) -> Update {
    table.with(id(n), |slot| replica::commit(slot, id(n), &[], Some(Term(1)), NOW)).unwrap().update
}

fn copy_of(slot: &Option<Slot>, id: SessionId) -> Update {
    Update::Copy(Slot::live(slot).unwrap().whole(id, NOW))
}

fn create_many(table: &Table, owner: NodeId) -> Vec<u8> {
    let all: Vec<u8> = (1..=40).collect();
    all.iter().for_each(|n| create(table, id(*n), owner));
    all
}

#[test]
fn a_commit_is_told_to_the_holder_alone_and_an_end_to_all() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = chosen(&table, &mut desk);
    for n in create_many(&table, ME) {
        desk.updates.clear();
        core.replicate(&commit(&table, n), NOW, &mut desk);
        let holder = placement(&[ME, B, C]).told(id(n), ME, |_| Fitness::InSync).unwrap()[0];
        assert_eq!(desk.updates, [(holder, id(n))]);
    }
    desk.updates.clear();
    let ended = table.with(id(1), |slot| replica::end(slot, id(1), table.lease().term(NOW), NOW)).unwrap();
    core.replicate(&ended.update, NOW, &mut desk);
    assert_eq!(desk.updates, [(B, id(1)), (C, id(1))]);
}

#[test]
fn a_copy_is_told_to_its_owner_and_to_those_who_hold_for_that_one() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = chosen(&table, &mut desk);
    let all = placement(&[ME, B, C]);
    let (mine, others): (Vec<u8>, Vec<u8>) =
        create_many(&table, B).into_iter().partition(|n| all.is_told(id(*n), B, ME));
    for (n, hearers) in [(mine[0], &[B][..]), (others[0], &[B, C])] {
        let copy = table.peek(id(n), |slot| copy_of(slot, id(n)));
        desk.updates.clear();
        core.announce(&copy, NOW, &mut desk);
        assert_eq!(desk.updates, hearers.iter().map(|peer| (*peer, id(n))).collect::<Vec<_>>());
    }
}

#[test]
fn who_hears_of_a_later_owner_compares_what_is_here_with_all() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = chosen(&table, &mut desk);
    let n = create_many(&table, ME)[0];
    let made = table.with(id(n), |slot| replica::commit(slot, id(n), &[], Some(Term(1)), NOW)).unwrap();
    table.with(id(n), |slot| replica::keep(slot, id(n), &made.undo, NOW));
    let later = Epoch::first(ME).outranked_by(B);
    let took = |epoch| Reply::Took { batch: 1, ended: vec![], outranked: vec![(id(n), epoch)] };
    for needs in [&[B, C][..], &[]] {
        desk.needs.clear();
        core.replied(C, [took(later)], NOW, &mut desk);
        pass(&mut core, &mut desk, 20, 20);
        assert_eq!(desk.needs, needs, "once, when it is news");
        assert_eq!(tenure_of(&table, n), Some(Tenure::Held));
    }
}

#[test]
fn an_owner_that_is_about_to_leave_tells_one_more() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = chosen(&table, &mut desk);
    let ids = create_many(&table, ME);
    let places = placement(&[ME, B, C]).places().to_vec();
    let leaving = places.into_iter().map(|place| Place { serves: place.node != ME, ..place });
    core.place(Placement::new(Spread::Chosen(1), leaving), NOW);
    core.replicate(&commit(&table, ids[0]), NOW, &mut desk);
    desk.updates.sort_unstable();
    assert_eq!(desk.updates, [(B, id(ids[0])), (C, id(ids[0]))]);
}

#[test]
fn a_commit_goes_past_a_holder_that_has_no_link_or_lags() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = chosen(&table, &mut desk);
    let ids = create_many(&table, ME);
    let of_b: Vec<u8> = ids.into_iter().filter(|n| placement(&[ME, B, C]).involves(id(*n), ME, B)).collect();
    core.replicate(&commit(&table, of_b[0]), NOW, &mut desk);
    assert_eq!(desk.updates, [(B, id(of_b[0]))]);
    desk.stopped = vec![B];
    pass(&mut core, &mut desk, 20, 1_000);
    assert_eq!(desk.updates, [(B, id(of_b[0])), (C, id(of_b[0]))], "C is told in its place");
    assert_eq!(desk.settled, []);
    core.replied(C, [Reply::Ack(1)], after(1_000), &mut desk);
    assert_eq!(desk.settled, [Verdict::Held(2)]);
    desk.updates.clear();
    core.replicate(&commit(&table, of_b[1]), after(1_000), &mut desk);
    assert_eq!(desk.updates, [(C, id(of_b[1]))], "B lags");
    desk.needs.clear();
    core.replied(B, [Reply::Ack(1)], after(1_010), &mut desk);
    assert!(core.peer(B, after(1_010)).in_sync && !core.peer(B, after(1_010)).complete);
    pass(&mut core, &mut desk, 1_020, 1_020);
    assert_eq!(desk.needs, [B], "it was not told what went to C");
    core.link_down(B, NOW, &mut desk);
    desk.updates.clear();
    core.replicate(&commit(&table, of_b[2]), after(1_020), &mut desk);
    assert_eq!(desk.updates, [(C, id(of_b[2]))], "B has no link");
}

#[test]
fn a_write_whose_holders_are_all_lost_waits_for_no_more_than_one_other() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = chosen(&table, &mut desk).with_min_copies(2);
    let of_b = create_many(&table, ME).into_iter().find(|n| placement(&[ME, B, C]).involves(id(*n), ME, B)).unwrap();
    core.replicate(&commit(&table, of_b), NOW, &mut desk);
    core.link_down(B, NOW, &mut desk);
    assert_eq!((&desk.updates[..], &desk.settled[..]), (&[(B, id(of_b)), (C, id(of_b))][..], &[][..]));
    core.link_down(C, NOW, &mut desk);
    assert_eq!(desk.settled, [Verdict::TooFew(1)]);
}

#[test]
fn only_peers_in_sync_count_for_a_write() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk).with_min_copies(3);
    create(&table, id(1), ME);
    assert_eq!(core.would_hold(id(1)), 3);
    core.replicate(&commit(&table, 1), NOW, &mut desk);
    core.replied(B, [Reply::Ack(1)], NOW, &mut desk);
    assert_eq!(desk.settled, []);
    desk.stopped = vec![C];
    pass(&mut core, &mut desk, 20, 1_000);
    assert_eq!((&desk.settled[..], core.would_hold(id(1))), (&[Verdict::TooFew(2)][..], 2));
    core.place(placement(&[ME, B, C]), NOW);
    assert_eq!(core.would_hold(id(1)), 2, "one holder is all there is");
}

/// The ends of claims to sessions of B, of which this node has copies, when B and C have fallen off the list; `lost` tells
/// the core what became of them.
fn claims_when_alone(copies: &[u8], table: &Table, lost: impl Fn(&mut Core<Table>, &mut Desk)) -> Vec<ClaimEnded> {
    let mut desk = Desk::default();
    let mut core = chosen(table, &mut desk);
    core.link_down(B, NOW, &mut desk);
    core.link_down(C, NOW, &mut desk);
    lost(&mut core, &mut desk);
    core.nodes(BTreeMap::new(), NOW);
    core.place(placement(&[ME]), NOW);
    pass(&mut core, &mut desk, 20, 1_000);
    for n in copies {
        core.claim(Wish { id: id(*n), ..wish(true) }, after(1_000), &mut desk);
    }
    desk.claimed
}

#[test]
fn nobody_goes_on_with_a_copy_that_may_be_old_while_those_who_may_have_a_newer_one_are_missing() {
    let all = placement(&[ME, B, C]);
    let (told, stray): (Vec<u8>, Vec<u8>) = (1..=40).partition(|n| all.is_told(id(*n), B, ME));
    let (told, stray) = (told[0], stray[0]);
    let table = Table::new(ME);
    [told, stray].into_iter().for_each(|n| create(&table, id(n), B));
    let mut copy = table.peek(id(told), |slot| slot.clone());
    replica::yield_to(&mut copy, Epoch::first(B).outranked_by(C));
    let given = (told + 1..=255).find(|n| *n != stray && all.is_told(id(*n), C, ME)).unwrap();
    table.with(id(given), |slot| *slot = copy);
    let ends = claims_when_alone(&[told, stray, given], &table, |_, _| {});
    assert_eq!(ends, [ClaimEnded::Owner, ClaimEnded::Contended, ClaimEnded::Contended]);
    assert_eq!(tenure_of(&table, stray), Some(Tenure::Held), "it is kept");
    // An answered write is held by two nodes: one that is missing cannot have gone on by itself.
    let ends = claims_when_alone(&[stray, given], &table, |core, desk| core.gone(C, NOW, desk));
    assert_eq!(ends, [ClaimEnded::Owner, ClaimEnded::Owner]);
}

#[test]
fn of_nodes_that_were_lost_one_after_the_other_the_second_one_had_replaced_the_first() {
    let all = placement(&[ME, B, C]);
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let stray = (1..=255).find(|n| !all.is_told(id(*n), B, ME)).unwrap();
    create(&table, id(stray), B);
    let mut core = chosen(&table, &mut desk);
    core.link_down(C, NOW, &mut desk);
    core.nodes([(B, Serves::Yes)].into(), NOW);
    core.place(placement(&[ME, B]), NOW);
    let late = limits::REPLACED.as_millis() as u64 * 2;
    core.link_down(B, after(late), &mut desk);
    core.nodes(BTreeMap::new(), after(late));
    core.place(placement(&[ME]), after(late));
    pass(&mut core, &mut desk, late + 20, late + 1_000);
    core.claim(Wish { id: id(stray), ..wish(true) }, after(late + 1_000), &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Owner], "B has told this node since C was lost");
}

#[test]
fn what_one_of_the_others_was_told_last_is_gone_on_with() {
    let (d, e) = (NodeId(4), NodeId(5));
    let all = placement(&[ME, B, C, d, e]);
    let n = (1..=255).find(|n| all.is_told(id(*n), d, B)).unwrap();
    let owner = Epoch::first(d);
    // Of the last pair nothing is known at all: who answers so has promised this very claim before.
    let ends = [
        (Some(owner), Some(owner), ClaimEnded::Owner),
        (Some(owner), None, ClaimEnded::Contended),
        (None, None, ClaimEnded::Contended),
    ];
    for (owner_then, current, ended) in ends {
        let (table, mut desk) = (Table::new(ME), Desk::default());
        let mut core = missing_two([d, e], &table, &mut desk);
        core.claim(Wish { id: id(n), ..wish(true) }, after(1_000), &mut desk);
        let [(_, ticket), _] = desk.claims[..] else { panic!("both are asked, not {:?}", desk.claims) };
        core.replied(C, [Reply::Answer(ticket, Answer::Unknown)], after(1_000), &mut desk);
        let Answer::Promised(given) = promised(owner) else { panic!("it is promised") };
        let answer = Answer::Promised(Given { owner: owner_then, current, ..given });
        core.replied(B, [Reply::Answer(ticket, answer)], after(1_000), &mut desk);
        assert_eq!(desk.claimed, [ended]);
    }
}

#[test]
fn what_a_member_knew_before_a_claim_that_came_to_nothing_counts_for_a_later_one() {
    let (d, e) = (NodeId(4), NodeId(5));
    let all = placement(&[ME, B, C, d, e]);
    let n = (1..=255).find(|n| all.is_told(id(*n), d, B)).unwrap();
    let owner = Epoch::first(d);
    let of_b = |owner, current| match promised(Epoch::first(d)) {
        Answer::Promised(given) => Answer::Promised(Given { owner: Some(owner), current, ..given }),
        other => panic!("{other:?}"),
    };
    let ticket_of = |desk: &Desk, member| desk.claims.iter().rev().find(|(peer, _)| *peer == member).unwrap().1;
    for (seen, counter, ended) in [
        (Some(owner), 2, ClaimEnded::Owner),
        (None, 2, ClaimEnded::Owner),
        // Of a claim that is not remembered nobody knows what has become of it.
        (Some(owner), 7, ClaimEnded::Contended),
        (None, 7, ClaimEnded::Contended),
    ] {
        let (table, mut desk) = (Table::new(ME), Desk::default());
        let mut core = missing_two([d, e], &table, &mut desk);
        let claim = |core: &mut Core<Table>, desk: &mut Desk, ms, refused_by| {
            core.claim(Wish { id: id(n), ..wish(true) }, after(ms), desk);
            let first = [(B, Answer::Refused(refused_by)), (C, Answer::Unknown)];
            for (peer, answer) in first {
                core.replied(peer, [Reply::Answer(ticket_of(desk, peer), answer)], after(ms), desk);
            }
        };
        claim(&mut core, &mut desk, 1_000, owner);
        let ticket = ticket_of(&desk, B);
        core.replied(B, [Reply::Answer(ticket, of_b(owner, Some(owner)))], after(1_000), &mut desk);
        pass(&mut core, &mut desk, 1_020, 5_000);
        assert_eq!(desk.claimed, [ClaimEnded::Contended], "C has not answered");
        let mine = Epoch { counter, node: ME };
        claim(&mut core, &mut desk, 5_000, mine);
        let ticket = ticket_of(&desk, B);
        core.replied(C, [Reply::Answer(ticket, Answer::Unknown)], after(5_000), &mut desk);
        core.replied(B, [Reply::Answer(ticket, of_b(mine, seen))], after(5_000), &mut desk);
        assert_eq!(desk.claimed[1..], [ended]);
    }
}

/// A core that has B and C still, and has lost two others at the same time.
fn missing_two(lost: [NodeId; 2], table: &Table, desk: &mut Desk) -> Core<Table> {
    let mut core = core(table, desk);
    let all = [B, C, lost[0], lost[1]];
    core.nodes(all.map(|node| (node, Serves::Yes)).into(), NOW);
    core.place(placement(&[ME, B, C, lost[0], lost[1]]), NOW);
    core.nodes([(B, Serves::Yes), (C, Serves::Yes)].into(), NOW);
    core.place(placement(&[ME, B, C]), NOW);
    pass(&mut core, desk, 20, 1_000);
    core
}

fn tenure_of(table: &Table, n: u8) -> Option<Tenure> {
    table.peek(id(n), |slot| Slot::live(slot).map(Record::tenure))
}
