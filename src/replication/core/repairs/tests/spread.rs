//! Where only some nodes hold a session: who is told when one is lost, and what becomes of copies that were given away.

use super::*;

#[test]
fn a_lost_holder_is_replaced_without_a_request() {
    let mut world = World::of(&[A, B, C]);
    world.create(0..200, A, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    assert!((0..200).all(|n| world.holders(n).len() == 2), "each has one holder");
    assert!(world.reports(A, B)[0].told > 0 && world.reports(A, C)[0].told > 0);
    world.lose(B);
    world.spread(1);
    world.pass(MOMENT);
    assert!((0..200).all(|n| world.holders(n) == [A, C]));
    assert!(world.state(A, C).complete);
}

#[test]
fn a_holder_that_drains_hands_its_copies_on_itself() {
    let mut world = World::of(&[A, B, C]);
    world.create(0..200, A, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    world.spread_without(1, B, &[B]);
    assert!(!world.state(B, C).complete, "it does not leave before that");
    // The owner does not tell them: it has not heard of the drain.
    world.pass(MOMENT);
    assert!((0..200).all(|n| world.holds(C, n).is_some()));
    assert!(world.state(B, C).complete);
    assert!((0..200).any(|n| world.holds(B, n).is_some()), "it was a holder");
}

#[test]
fn an_owner_that_drains_does_not_leave_a_single_copy_behind() {
    let mut world = World::of(&[A, B, C]);
    world.create(0..200, A, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    assert!((0..200).all(|n| world.holders(n).len() == 2));
    world.spread_without(1, A, &[A]);
    world.pass(MOMENT);
    assert!((0..200).all(|n| world.holders(n) == [A, B, C]));
    assert!(world.state(A, B).complete && world.state(A, C).complete);
}

#[test]
fn a_node_that_drains_counts_itself_as_gone_where_the_others_are_off_duty_too() {
    let mut world = World::of(&[A, B, C]);
    world.create(0..200, A, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    // B and C drain, so either may be taken for the holder of what A owns.
    world.spread_without(1, B, &[B, C]);
    world.pass(MOMENT);
    let mut held_by_b = (0..200).filter(|n| world.holds(B, *n).is_some()).peekable();
    assert!(held_by_b.peek().is_some() && held_by_b.all(|n| world.holds(C, n).is_some()));
}

#[test]
fn a_drained_node_that_stays_tells_nothing_twice() {
    let mut world = World::of(&[A, B, C]);
    world.create(0..200, A, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    [A, B, C].into_iter().for_each(|node| world.spread_without(1, node, &[B]));
    world.pass(INTERVAL);
    let told = |world: &World, peer| world.reports(B, peer).iter().map(|report| report.told).sum::<usize>();
    let before = [A, C].map(|peer| told(&world, peer));
    world.pass(INTERVAL * 3);
    assert_eq!([A, C].map(|peer| told(&world, peer)), before);
}

#[test]
fn what_a_lost_owner_leaves_gets_another_copy() {
    let mut world = World::of(&[A, B, C, D]);
    world.create(0..200, D, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    assert!((0..200).all(|n| world.holders(n).len() == 2), "the owner and one holder");
    world.lose(D);
    world.spread(1);
    world.pass(limits::REPAIR_AGAIN * 2 + MOMENT);
    let placement = world.table(A).placed().placement.clone();
    for n in 0..200 {
        let chosen: Vec<NodeId> = [A, B, C].into_iter().filter(|node| placement.involves(id(n), D, *node)).collect();
        assert_eq!((chosen.len(), world.holders(n)), (2, chosen));
    }
}

#[test]
fn a_session_that_was_given_to_a_node_which_did_not_take_it_reaches_that_node() {
    let mut world = World::of(&[A, B, C, D]);
    world.create(0..40, A, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    for n in 0..40 {
        // D has given the claim up that it is answered here.
        let promised = Epoch::first(A).outranked_by(D);
        world.table(A).with(id(n), |slot| replica::yield_to(slot, promised));
    }
    world.pass(INTERVAL * 2);
    assert!((0..40).all(|n| world.holders(n).contains(&D)));
}

#[test]
fn a_copy_that_was_given_to_a_node_which_did_not_take_it_is_told_to_the_holders_by_whoever_has_it() {
    let mut world = World::of(&[A, B, C, D]);
    world.create(0..40, A, &[]);
    world.link_all();
    world.pass(MOMENT);
    world.lose(A);
    world.spread(1);
    let placement = world.table(B).placed().placement.clone();
    let ought = |n, node| placement.involves(id(n), D, node);
    for n in 0..40 {
        let keep = |slot: &mut Option<Slot>| replica::yield_to(slot, Epoch::first(A).outranked_by(D));
        let lose = |slot: &mut Option<Slot>| *slot = None;
        [B, C, D].iter().for_each(|node| match ought(n, *node) {
            true => world.table(*node).with(id(n), lose),
            false => world.table(*node).with(id(n), keep),
        });
    }
    world.pass(INTERVAL * 2);
    let lacks = |n: &u64| [B, C, D].into_iter().any(|node| ought(*n, node) && world.holds(node, *n).is_none());
    assert_eq!((0..40).filter(lacks).count(), 0);
}

#[test]
fn an_owner_that_was_replaced_while_it_was_cut_off_learns_of_it_from_those_whom_it_tells() {
    let mut world = World::of(&[A, B, C, D]);
    world.create(0..40, A, &[]);
    world.link_all();
    world.spread(1);
    world.pass(MOMENT);
    let later = Epoch::first(A).outranked_by(D);
    for n in 0..40 {
        let whole = world.table(A).peek(id(n), |slot| Slot::live(slot).unwrap().whole(id(n), world.now));
        let stamp = Stamp { epoch: later, version: 9 };
        let told = Update::Whole(Whole { owner: later, stamp, ..whole });
        let others = [B, C, D].into_iter().filter(|node| world.holds(*node, n).is_some() || *node == D);
        for node in others.collect::<Vec<_>>() {
            world.table(node).with(id(n), |slot| replica::apply(slot, told.clone(), world.now));
        }
    }
    world.pass(INTERVAL * 2);
    let promised = |n| world.table(A).peek(id(n), |slot| Slot::live(slot).map(|record| record.promised()));
    assert!((0..40).all(|n| promised(n) == Some(later)));
}
