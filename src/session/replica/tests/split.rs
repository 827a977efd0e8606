//! What becomes of a session that two nodes owned at the same time.

use super::*;

const C: NodeId = NodeId(3);

/// An owner and a node that has claimed the session from it without being heard: both may commit.
fn split() -> (Option<Slot>, Option<Slot>) {
    let (a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    take_over(&mut b, B);
    (a, b)
}

fn take_over(slot: &mut Option<Slot>, me: NodeId) {
    let asked = request(slot, me, true);
    adopt(slot, asked.epoch, Given::default(), Term(0), NOW);
}

fn write(slot: &mut Option<Slot>, changes: &[Change]) -> Update {
    let Committed { update, undo } = commit(slot, ID, changes, TERM, NOW).unwrap();
    assert_eq!(keep(slot, ID, &undo, NOW), Kept::Stands(None));
    update
}

/// What a node tells of a session in repair; nothing while a commit of it may still be refused.
fn copy(slot: &Option<Slot>, id: SessionId, now: Moment) -> Option<Update> {
    let record = Slot::live(slot).filter(|record| !record.is_open())?;
    Some(Update::Copy(record.whole(id, now)))
}

/// Tells one node's copy to another, and to whom it came from what has come of it, until nothing does.
fn tell(from: &mut Option<Slot>, to: &mut Option<Slot>, update: Update) {
    let applied = match apply(to, update, NOW) {
        Applied::Later(copy) => merge_copy(to, *copy, NOW),
        applied => applied,
    };
    if let Applied::Merged(update) = applied {
        tell(to, from, *update);
    }
}

fn heal(a: &mut Option<Slot>, b: &mut Option<Slot>) {
    for _ in 0..2 {
        let (of_a, of_b) = (copy(a, ID, NOW), copy(b, ID, NOW));
        tell(a, b, of_a.unwrap());
        tell(b, a, of_b.unwrap());
    }
}

fn stamps(slot: &Option<Slot>) -> (Stamp, Vec<(String, Stamp)>) {
    let record = Slot::live(slot).unwrap();
    let mut stamps: Vec<_> = record.stamps().map(|(name, stamp)| (name.to_string(), stamp)).collect();
    stamps.sort();
    (record.stamp(), stamps)
}

#[test]
fn writes_of_both_sides_to_different_attributes_are_both_there() {
    let (mut a, mut b) = split();
    write(&mut a, &set("left", 1));
    write(&mut b, &set("right", 2));
    heal(&mut a, &mut b);
    for slot in [&a, &b] {
        assert_eq!((value(slot, "left"), value(slot, "right"), value(slot, "n")), (Some(1), Some(2), Some(1)));
    }
    assert_eq!(stamps(&a), stamps(&b));
    assert_eq!(standing(&b, &ContextPath::root(), TERM), Standing::Owned, "the higher epoch stays the owner");
    assert_eq!(standing(&a, &ContextPath::root(), TERM), Standing::Held { owner: B });
}

#[test]
fn the_next_commit_of_the_winner_heals_a_split_without_any_repair() {
    let (mut a, mut b) = split();
    write(&mut a, &set("left", 1));
    let update = write(&mut b, &set("right", 2));
    tell(&mut b, &mut a, update);
    assert_eq!((value(&a, "left"), value(&b, "left"), value(&a, "right")), (Some(1), Some(1), Some(2)));
    assert_eq!(stamps(&a), stamps(&b));
    let next = write(&mut b, &set("right", 3));
    assert!(matches!(next, Update::Delta(_)));
    assert_eq!(apply(&mut a, next, NOW), Applied::Applied, "they agree, so a delta is enough");
}

#[test]
fn a_claim_brings_both_sides_together() {
    let (mut a, mut b) = split();
    write(&mut a, &set("left", 1));
    write(&mut b, &set("right", 2));
    let (mut c, asked) = (None, ClaimRequest { have: None, ..request(&mut b.clone(), C, true) });
    let copies = [&mut a, &mut b].map(|slot| promise(slot, &asked, (A, TERM), |_| true, NOW));
    let mut claim = crate::session::claim::Claim::new(asked.epoch, [A, B]);
    let [of_a, of_b] = copies;
    claim.answered(A, of_a);
    let Some(crate::session::claim::Outcome::Take(given)) = claim.answered(B, of_b) else { panic!("both promise") };
    assert_eq!(adopt(&mut c, asked.epoch, given, Term(0), NOW), Adoption::Owner);
    assert_eq!((value(&c, "left"), value(&c, "right")), (Some(1), Some(2)));
}

#[test]
fn of_two_writes_to_one_attribute_the_higher_epoch_wins_everywhere() {
    let (mut a, mut b) = split();
    for n in 0..9 {
        write(&mut a, &set("n", 100 + n));
    }
    write(&mut b, &set("n", 2));
    heal(&mut a, &mut b);
    assert_eq!((value(&a, "n"), value(&b, "n")), (Some(2), Some(2)));
}

#[test]
fn what_was_removed_on_one_side_does_not_come_back_from_the_other() {
    let (mut a, mut b) = split();
    write(&mut a, &set("n", 5));
    write(&mut b, &[Change::Remove("n".into())]);
    let seen: Vec<_> = Slot::live(&b).unwrap().attributes().collect();
    assert!(seen.is_empty(), "a page does not see what is remembered of a removal");
    heal(&mut a, &mut b);
    assert_eq!((value(&a, "n"), value(&b, "n")), (None, None), "the removal has the higher epoch");
    let (mut a, mut b) = split();
    write(&mut a, &[Change::Remove("n".into())]);
    write(&mut b, &set("n", 5));
    heal(&mut a, &mut b);
    assert_eq!((value(&a, "n"), value(&b, "n")), (Some(5), Some(5)), "the value has");
    assert_eq!(stamps(&a), stamps(&b));
}

#[test]
fn a_user_who_logged_out_on_one_side_is_logged_out_on_the_other() {
    let (mut a, mut b) = split();
    write(&mut b, &set("n", 5));
    let Committed { update, undo } = end(&mut a, ID, TERM, NOW).unwrap();
    assert!(matches!(apply(&mut b.clone(), update, NOW), Applied::Fenced(_)), "nobody was told yet");
    let Kept::Stands(Some(Update::End(over))) = keep(&mut a, ID, &undo, NOW) else {
        panic!("all hear that it is final")
    };
    let copy_of_b = copy(&b, ID, NOW).unwrap();
    assert_eq!(apply(&mut a, copy_of_b, NOW), Applied::Ended(over.ending));
    assert_eq!(apply(&mut b, Update::End(over), NOW), Applied::Applied, "however high the ownership there");
    assert!(matches!(b, Some(Slot::Ended(_))));
}

#[test]
fn an_end_that_is_refuted_before_its_user_is_told_is_final_all_the_same() {
    let (mut a, mut b) = split();
    write(&mut b, &set("n", 5));
    let undo = end(&mut a, ID, TERM, NOW).unwrap().undo;
    assert_eq!(apply(&mut a, copy(&b, ID, NOW).unwrap(), NOW), Applied::Applied, "it has gone on");
    let Kept::Stands(Some(Update::End(over))) = keep(&mut a, ID, &undo, NOW) else { panic!("the reply leaves now") };
    assert!(matches!(a, Some(Slot::Ended(_))));
    assert_eq!(apply(&mut b, Update::End(over), NOW), Applied::Applied);
}

/// One side is too small for a write, and the other one has gone on.
#[test]
fn what_is_taken_back_leaves_what_the_other_side_has_answered() {
    let (mut a, mut b) = split();
    for writes_before in 0..3 {
        (0..writes_before).for_each(|n| drop(write(&mut b, &set("n", 10 + n))));
        take_over(&mut a, A);
        let late = commit(&mut a, ID, &set("n", 5), TERM, NOW).unwrap();
        assert_eq!(retreat(&mut a, ID, late.undo, A, NOW), None);
    }
    write(&mut b, &set("n", 7));
    heal(&mut a, &mut b);
    assert_eq!((value(&a, "n"), value(&b, "n")), (Some(7), Some(7)));
}

#[test]
fn a_commit_of_a_session_that_a_user_has_ended_meanwhile_has_ended_with_it() {
    let (a, mut b) = split();
    let Committed { undo, .. } = end(&mut b, ID, TERM, NOW).unwrap();
    let Kept::Stands(Some(over)) = keep(&mut b, ID, &undo, NOW) else { panic!("all hear that it is final") };
    let refutable = Update::End(End { id: ID, ending: Ending { finality: Finality::Refutable, ..ending(&b) } });
    for (over, ended) in [(over, Kept::Ended), (refutable, Kept::Stands(None))] {
        let mut a = a.clone();
        let Committed { undo, .. } = commit(&mut a, ID, &set("n", 5), TERM, NOW).unwrap();
        assert_eq!(apply(&mut a, over, NOW), Applied::Applied);
        assert_eq!(keep(&mut a, ID, &undo, NOW), ended);
    }
}

fn ending(slot: &Option<Slot>) -> Ending {
    Slot::ending(slot).expect("it has ended")
}

#[test]
fn a_session_whose_time_was_over_on_one_side_goes_on_if_the_other_took_it_over() {
    let (mut a, mut b) = split();
    let over = over_by_time(&mut a);
    assert!(matches!(apply(&mut b, over, NOW), Applied::Fenced(_)));
    let copy_of_b = copy(&b, ID, NOW).unwrap();
    assert_eq!(apply(&mut a, copy_of_b, NOW), Applied::Applied);
    assert_eq!(value(&a, "n"), Some(1), "in whichever order they hear of each other");
    let (mut a, mut b) = split();
    write(&mut a, &set("n", 5));
    let over_on_b = over_by_time(&mut b);
    let copy_of_a = copy(&a, ID, NOW).unwrap();
    assert!(matches!(apply(&mut b, copy_of_a, NOW), Applied::Ended(_)));
    assert_eq!(apply(&mut a, over_on_b, NOW), Applied::Applied, "the later owner knows");
}

#[test]
fn a_refused_commit_is_taken_back_and_what_arrived_meanwhile_stays() {
    let (mut a, mut b) = split();
    write(&mut a, &set("left", 1));
    let late = commit(&mut a, ID, &set("n", 7), TERM, NOW).unwrap();
    assert_eq!(copy(&a, ID, NOW), None, "it may still be refused");
    let newer = write(&mut b, &set("right", 2));
    assert_eq!(apply(&mut a, newer, NOW), Applied::Applied, "nor is it told as something the other side lacks");
    let promised = Slot::live(&b).unwrap().promised();
    let Some(rest) = undo(&mut a, ID, late.undo, promised, NOW) else { panic!("B lacks what was answered here") };
    assert_eq!((value(&a, "n"), value(&a, "left"), value(&a, "right")), (Some(1), Some(1), Some(2)));
    tell(&mut a, &mut b, rest);
    assert_eq!((value(&b, "n"), value(&b, "left")), (Some(1), Some(1)));
    assert_eq!(stamps(&a), stamps(&b));
}

#[test]
fn a_commit_that_was_answered_after_the_other_side_was_heard_is_told_to_it() {
    let (mut a, mut b) = split();
    let alone = commit(&mut a, ID, &set("left", 1), TERM, NOW).unwrap();
    let newer = write(&mut b, &set("right", 2));
    apply(&mut a, newer, NOW);
    let Kept::Stands(Some(told)) = keep(&mut a, ID, &alone.undo, NOW) else { panic!("the others lack it") };
    tell(&mut a, &mut b, told);
    assert_eq!((value(&b, "left"), stamps(&b)), (Some(1), stamps(&a)));
}

#[test]
fn a_copy_is_taken_by_those_who_never_heard_of_the_session_and_by_holders_whatever_they_promised() {
    let (mut a, mut b) = split();
    write(&mut a, &set("left", 1));
    let (mut new, of_a) = (None, copy(&a, ID, NOW).unwrap());
    assert_eq!(apply(&mut new, of_a.clone(), NOW), Applied::Applied);
    assert_eq!(standing(&new, &ContextPath::root(), TERM), Standing::Held { owner: A });
    let mut holder = None;
    apply(&mut holder, write(&mut b, &set("right", 2)), NOW);
    assert_eq!(apply(&mut holder, of_a.clone(), NOW), Applied::Applied, "no fence, for nobody acts on it");
    assert_eq!(apply(&mut holder, of_a, NOW), Applied::Duplicate);
    assert_eq!((value(&holder, "left"), value(&holder, "right")), (Some(1), Some(2)));
    assert_eq!(Slot::live(&holder).unwrap().promised().node, B);
}

#[test]
fn what_the_next_owner_of_a_session_that_was_given_away_lacks_is_left_to_repairs() {
    for writes in [true, false] {
        let (_, mut b) = split();
        let before = Slot::live(&b).unwrap().whole(ID, NOW);
        if writes {
            write(&mut b, &set("right", 1));
        }
        let later = before.owner.outranked_by(C);
        let of_c = Whole { owner: later, stamp: Stamp { epoch: later, version: 9 }, ..before };
        replaced(&mut b, later);
        let record = |slot: &Option<Slot>| Slot::live(slot).unwrap().clone();
        assert!(record(&b).is_unsettled(NOW) && record(&b).may_be_behind());
        assert_eq!(merge_copy(&mut b, of_c, NOW), Applied::Duplicate);
        assert_eq!(record(&b).is_unsettled(NOW), writes, "C lacks it");
        assert!(!record(&b).may_be_behind() && !record(&b).is_unsettled(NOW + limits::UNSETTLED));
    }
}

#[test]
fn an_owner_takes_a_copy_between_two_requests_and_only_if_there_is_something_new_in_it() {
    let (mut a, mut b) = split();
    let of_b = copy(&b, ID, NOW).unwrap();
    let Applied::Later(same) = apply(&mut b, of_b, NOW) else { panic!("B owns it") };
    let before = b.clone();
    assert_eq!(merge_copy(&mut b, *same, NOW), Applied::Duplicate);
    assert_eq!(b, before);
    write(&mut a, &set("left", 1));
    let Some(Update::Copy(of_a)) = copy(&a, ID, NOW) else { panic!("A has a copy") };
    let Applied::Merged(update) = merge_copy(&mut b, of_a, NOW) else { panic!("this is new to B") };
    let (Update::Whole(whole), promised) = (*update, Slot::live(&b).unwrap().promised()) else { panic!("a commit") };
    assert_eq!((whole.owner, whole.stamp), (promised, Stamp { epoch: promised, version: 3 }));
}

#[test]
fn a_late_copy_of_the_owners_own_past_is_no_news_to_a_holder() {
    let (mut a, birth) = created(A);
    let mut holder = None;
    apply(&mut holder, birth.clone(), NOW);
    apply(&mut holder, committed(&mut a, 2), NOW);
    assert_eq!(apply(&mut holder, birth, NOW), Applied::Duplicate, "the owner does not lack what it committed itself");
}
