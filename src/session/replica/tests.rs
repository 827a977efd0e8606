//! What may and may not become of one session on one node.

mod split;

use std::time::Duration;

use super::*;
use crate::{
    names::{ContextPath, NodeId, SessionId},
    session::{
        delta::{Answer, ClaimRequest, End, Ending, Finality, Given, Update, Whole},
        draft::Change,
        lease::Term,
        stamp::Stamp,
        value::Value,
    },
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const ID: SessionId = SessionId([7; 16]);
const NOW: Moment = Moment(1_000_000);
const TERM: Option<Term> = Some(Term(0));

fn set(name: &str, value: i64) -> Vec<Change> {
    vec![Change::Set(name.into(), Value::encode(&value).unwrap())]
}

fn gives_no_copy(answer: &Answer) -> bool {
    matches!(answer, Answer::Promised(Given { copy: None, .. }))
}

/// An owner finds the session to be over.
fn over_by_time(slot: &mut Option<Slot>) -> Update {
    match expire(slot, ID, TERM, NOW + Duration::from_secs(9_000)) {
        Expiry::Over(Some(end)) => end,
        other => panic!("its time is over: {other:?}"),
    }
}

fn value(slot: &Option<Slot>, name: &str) -> Option<i64> {
    Slot::live(slot)?.attributes().find(|(known, _)| &**known == name)?.1.decode().ok()
}

fn created(me: NodeId) -> (Option<Slot>, Update) {
    let (mut slot, context) = (None, ContextPath::root());
    let timeout = Some(Duration::from_secs(1_800));
    let birth = Birth { id: ID, me, term: Term(0), context: &context, reach: Reach::Cluster, timeout };
    let committed = create(&mut slot, &birth, &set("n", 1), NOW);
    (slot, committed.update)
}

fn committed(slot: &mut Option<Slot>, n: i64) -> Update {
    commit(slot, ID, &set("n", n), TERM, NOW).unwrap().update
}

fn request(slot: &mut Option<Slot>, me: NodeId, insist: bool) -> ClaimRequest {
    let Intent { epoch, have, .. } = intent(slot, me, None);
    claim(slot, epoch).unwrap();
    ClaimRequest { id: ID, epoch, context: ContextPath::root(), have, insist }
}

#[test]
fn a_holder_follows_its_owner_step_by_step() {
    let (mut a, birth) = created(A);
    let mut b = None;
    assert_eq!(apply(&mut b, birth.clone(), NOW), Applied::Applied);
    assert_eq!(apply(&mut b, birth, NOW), Applied::Duplicate);
    let (second, third) = (committed(&mut a, 2), committed(&mut a, 3));
    assert_eq!(apply(&mut b, third.clone(), NOW), Applied::Gap, "a step is missing");
    assert_eq!(value(&b, "n"), Some(1), "a gap changes nothing");
    assert_eq!(apply(&mut b, second, NOW), Applied::Applied);
    assert_eq!(apply(&mut b, third, NOW), Applied::Applied);
    assert_eq!(value(&b, "n"), Some(3));
    assert_eq!(standing(&b, &ContextPath::root(), TERM), Standing::Held { owner: A });
}

#[test]
fn whoever_takes_itself_for_the_owner_believes_another_node_that_the_session_was_used() {
    let (mut a, _) = created(A);
    let accessed = |slot: &Option<Slot>| Slot::live(slot).unwrap().accessed();
    let later = |seconds| NOW + Duration::from_secs(seconds);
    touched(&mut a, Duration::from_secs(1), later(60));
    assert_eq!(accessed(&a), later(59), "it takes itself for the owner still");
    touched(&mut a, Duration::from_secs(30), later(80));
    assert_eq!(accessed(&a), later(59), "older news");
}

#[test]
fn a_claim_takes_the_newest_copy_and_fences_the_old_owner() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let unseen = committed(&mut a, 2);
    let asked = request(&mut b, B, true);
    let Answer::Promised(given @ Given { copy: Some(_), .. }) = promise(&mut a, &asked, (A, TERM), |_| true, NOW)
    else {
        panic!("a hands over")
    };
    assert_eq!(adopt(&mut b, asked.epoch, given, Term(0), NOW), Adoption::Owner);
    assert_eq!(value(&b, "n"), Some(2));
    assert_eq!(commit(&mut a, ID, &set("n", 9), TERM, NOW), Err(NotOwner));
    assert_eq!(apply(&mut b, unseen, NOW), Applied::Fenced(asked.epoch));
    assert!(matches!(committed(&mut b, 3), Update::Whole(_)), "an ownership begins with the whole session");
    assert!(matches!(committed(&mut b, 4), Update::Delta(_)));
}

#[test]
fn a_serving_owner_keeps_the_session_unless_the_claimant_insists() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let asked = request(&mut b, B, false);
    assert_eq!(promise(&mut a, &asked, (A, TERM), |_| true, NOW), Answer::Owned(A));
    assert!(gives_no_copy(&promise(&mut a, &asked, (A, TERM), |_| false, NOW)), "a draining owner hands over");
}

#[test]
fn an_owner_that_was_replaced_while_it_was_cut_off_does_not_keep_the_session() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let taken = request(&mut b, B, true);
    adopt(&mut b, taken.epoch, Given::default(), Term::default(), NOW);
    committed(&mut b, 2);
    committed(&mut a, 3);
    let asked = request(&mut b, B, false);
    assert!(gives_no_copy(&promise(&mut a, &asked, (A, TERM), |_| true, NOW)), "what it committed alone is older");
    assert!(matches!(standing(&a, &asked.context, TERM), Standing::Held { owner: B }));
}

#[test]
fn a_claim_leaves_the_owner_in_its_right_until_it_is_adopted() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let asked = request(&mut b, B, false);
    assert_eq!(apply(&mut b, committed(&mut a, 2), NOW), Applied::Applied, "it may be withdrawn");
    withdraw(&mut b);
    assert_eq!(apply(&mut b, committed(&mut a, 3), NOW), Applied::Applied);
    assert_eq!(standing(&b, &ContextPath::root(), TERM), Standing::Held { owner: A });
    claim(&mut b, asked.epoch).unwrap();
    assert_eq!(adopt(&mut b, asked.epoch, Given::default(), Term(0), NOW), Adoption::Owner);
    assert_eq!(value(&b, "n"), Some(3), "what it took while it claimed goes with the session");
    assert_eq!(apply(&mut b, committed(&mut a, 4), NOW), Applied::Fenced(asked.epoch));
}

#[test]
fn taking_back_a_commit_takes_back_no_promise() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let late = commit(&mut a, ID, &set("n", 5), TERM, NOW).unwrap();
    let (lower, higher) = (Epoch::first(A).outranked_by(B), Epoch::first(A).outranked_by(NodeId(3)));
    let asked = ClaimRequest { id: ID, epoch: higher, context: ContextPath::root(), have: None, insist: true };
    assert!(matches!(promise(&mut a, &asked, (A, TERM), |_| true, NOW), Answer::Promised(Given { copy: Some(_), .. })));
    assert_eq!(undo(&mut a, ID, late.undo, lower, NOW), None);
    assert_eq!(Slot::live(&a).map(Record::promised), Some(higher));
}

#[test]
fn two_that_were_apart_and_both_owned_a_session_do_not_name_each_other() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let apart = request(&mut b, B, true);
    adopt(&mut b, apart.epoch, Given::default(), Term(0), NOW);
    let later = Some(Term(1));
    let of_a = request(&mut a, A, false);
    assert_eq!(promise(&mut b, &of_a, (B, later), |_| true, NOW), Answer::Refused(apart.epoch));
    let of_b = request(&mut b, B, false);
    assert!(gives_no_copy(&promise(&mut a, &of_b, (A, later), |_| true, NOW)));
}

#[test]
fn of_two_claims_the_lower_one_is_refused_or_superseded() {
    let (_, birth) = created(A);
    let (mut b, mut c, mut holder) = (None, None, None);
    for slot in [&mut b, &mut c, &mut holder] {
        apply(slot, birth.clone(), NOW);
    }
    let of_b = request(&mut b, B, true);
    let of_c = request(&mut c, NodeId(3), true);
    assert!(of_b.epoch < of_c.epoch);
    assert!(gives_no_copy(&promise(&mut holder, &of_c, (NodeId(9), TERM), |_| true, NOW)));
    assert_eq!(promise(&mut holder, &of_b, (NodeId(9), TERM), |_| true, NOW), Answer::Refused(of_c.epoch));
    assert!(gives_no_copy(&promise(&mut b, &of_c, (B, TERM), |_| true, NOW)));
    assert_eq!(adopt(&mut b, of_b.epoch, Given::default(), Term(0), NOW), Adoption::Superseded(of_c.epoch));
    assert_eq!(adopt(&mut c, of_c.epoch, Given::default(), Term(0), NOW), Adoption::Owner);
}

#[test]
fn a_claim_is_promised_by_a_member_that_knows_of_it_from_a_fence() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let asked = request(&mut b, B, true);
    let late = commit(&mut a, ID, &set("n", 5), TERM, NOW).unwrap();
    assert_eq!(undo(&mut a, ID, late.undo, asked.epoch, NOW), None);
    let Answer::Promised(given) = promise(&mut a, &asked, (A, TERM), |_| true, NOW) else {
        panic!("it is the same claim")
    };
    assert_eq!((given.owner, given.copy), (None, None), "which is no ownership yet");
}

#[test]
fn a_refused_commit_is_taken_back() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let asked = request(&mut b, B, true);
    adopt(&mut b, asked.epoch, Given::default(), Term(0), NOW);
    let late = commit(&mut a, ID, &set("n", 5), TERM, NOW).unwrap();
    let Applied::Fenced(promised) = apply(&mut b, late.update, NOW) else { panic!("the old owner is fenced") };
    assert_eq!(undo(&mut a, ID, late.undo, promised, NOW), None);
    assert_eq!(value(&a, "n"), Some(1));
    assert_eq!(standing(&a, &ContextPath::root(), TERM), Standing::Held { owner: B });
}

#[test]
fn a_commit_that_too_few_hold_is_taken_back_unless_a_claim_finds_it() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let changes = [set("n", 5), set("new", 6)].concat();
    let late = commit(&mut a, ID, &changes, TERM, NOW).unwrap();
    assert_eq!(retreat(&mut a, ID, late.undo, A, NOW), None);
    assert_eq!((value(&a, "n"), value(&a, "new")), (Some(1), None));
    assert_eq!(
        standing(&a, &ContextPath::root(), TERM),
        Standing::Held { owner: A },
        "its stamp must not be given twice"
    );
    for (arrived, found) in [(false, Some(1)), (true, Some(5))] {
        let (mut a, mut b) = (a.clone(), b.clone());
        if arrived {
            assert_eq!(apply(&mut b, late.update.clone(), NOW), Applied::Applied, "it was still on its way");
        }
        let asked = request(&mut a, A, true);
        let Answer::Promised(given) = promise(&mut b, &asked, (B, TERM), |_| true, NOW) else {
            panic!("A may have it")
        };
        assert_eq!(adopt(&mut a, asked.epoch, given, Term(0), NOW), Adoption::Owner);
        assert_eq!(value(&a, "n"), found);
        let next = committed(&mut a, 3);
        assert_eq!(apply(&mut b, next, NOW), Applied::Applied);
        assert_eq!((value(&a, "n"), value(&b, "n")), (Some(3), Some(3)));
    }
}

#[test]
fn an_end_that_too_few_hold_is_taken_back() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let late = end(&mut a, ID, TERM, NOW).unwrap();
    apply(&mut b, late.update, NOW);
    let again = retreat(&mut a, ID, late.undo, A, NOW).unwrap();
    assert_eq!((value(&a, "n"), standing(&a, &ContextPath::root(), TERM)), (Some(1), Standing::Owned));
    assert_eq!(apply(&mut b, again, NOW), Applied::Applied, "whoever took the end hears that it was none");
    assert_eq!(value(&b, "n"), Some(1));
}

#[test]
fn a_session_that_too_few_hold_and_nobody_was_told_of_ends_everywhere() {
    let (mut a, context) = (None, ContextPath::root());
    let birth = Birth { id: ID, me: A, term: Term(0), context: &context, reach: Reach::Cluster, timeout: None };
    let made = create(&mut a, &birth, &set("n", 1), NOW);
    let ended = retreat(&mut a, ID, made.undo, A, NOW).unwrap();
    assert!(matches!(a, Some(Slot::Ended(_))));
    let mut b = None;
    apply(&mut b, made.update, NOW);
    assert_eq!(apply(&mut b, ended, NOW), Applied::Applied, "whoever took it forgets it");
}

#[test]
fn a_commit_that_was_outranked_meanwhile_leaves_nothing_to_take_back() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let late = commit(&mut a, ID, &set("n", 5), TERM, NOW).unwrap();
    let asked = request(&mut b, B, true);
    adopt(&mut b, asked.epoch, Given::default(), Term(0), NOW);
    yield_to(&mut a, asked.epoch);
    assert_eq!(retreat(&mut a, ID, late.undo, A, NOW), None);
    assert_eq!(standing(&a, &ContextPath::root(), TERM), Standing::Held { owner: B });
}

#[test]
fn taking_back_never_overwrites_something_newer() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let late = commit(&mut a, ID, &set("n", 5), TERM, NOW).unwrap();
    let asked = request(&mut b, B, true);
    adopt(&mut b, asked.epoch, Given::default(), Term(0), NOW);
    let newer = committed(&mut b, 6);
    assert_eq!(apply(&mut a, newer, NOW), Applied::Applied);
    assert!(matches!(undo(&mut a, ID, late.undo, asked.epoch, NOW), Some(Update::Copy(_))));
    assert_eq!(value(&a, "n"), Some(6));
}

#[test]
fn an_ended_session_stays_ended() {
    let (mut a, birth) = created(A);
    let (mut b, mut c) = (None, None);
    apply(&mut b, birth.clone(), NOW);
    apply(&mut c, birth.clone(), NOW);
    let late = committed(&mut a, 2);
    let over = end(&mut a, ID, TERM, NOW).unwrap().update;
    assert_eq!(apply(&mut b, over.clone(), NOW), Applied::Applied);
    assert_eq!(apply(&mut b, over, NOW), Applied::Duplicate);
    assert!(matches!(apply(&mut b, late, NOW), Applied::Ended(_)));
    assert!(matches!(apply(&mut b, birth, NOW), Applied::Ended(_)));
    let asked = request(&mut c, NodeId(3), true);
    assert!(matches!(promise(&mut b, &asked, (B, TERM), |_| true, NOW), Answer::Ended(..)));
}

#[test]
fn what_an_end_has_replaced_is_given_to_a_claim_that_refutes_it_until_it_is_final() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth.clone(), NOW);
    let Update::End(over) = end(&mut a, ID, TERM, NOW).unwrap().update else { panic!("this is an end") };
    apply(&mut b, Update::End(over), NOW);
    let asked = request(&mut None, NodeId(3), true);
    let before = |slot: &mut Option<Slot>| match promise(slot, &asked, (B, TERM), |_| true, NOW) {
        Answer::Ended(ending, before) if ending == over.ending => before,
        other => panic!("{other:?}"),
    };
    let Update::Whole(held) = birth else { panic!("a session is created whole") };
    assert_eq!(before(&mut b).map(|copy| copy.stamp), Some(held.stamp));
    assert_eq!(before(&mut a), None, "the owner takes its end back itself");
    let Some(Slot::Ended(tombstone)) = &mut b.clone() else { panic!("{b:?} has ended") };
    assert!(!tombstone.is_settled(NOW) && tombstone.is_settled(NOW + limits::CLAIM_REMEMBERED));
    tombstone.settle();
    assert!(!tombstone.is_settled(NOW + limits::CLAIM_REMEMBERED), "there is nothing more to forget");
    let last = End { ending: Ending { finality: Finality::Final, ..over.ending }, ..over };
    assert_eq!(apply(&mut b, Update::End(last), NOW), Applied::Duplicate);
    assert!(
        matches!(promise(&mut b, &asked, (B, TERM), |_| true, NOW), Answer::Ended(ending, None) if ending == last.ending)
    );
}

#[test]
fn an_end_is_remembered_for_as_long_as_a_node_that_was_away_can_bring_the_session_back() {
    let (mut a, birth) = created(A);
    let mut away = None;
    apply(&mut away, birth, NOW);
    end(&mut a, ID, TERM, NOW).unwrap();
    let Some(Slot::Ended(tombstone)) = &a else { panic!("{a:?} has ended") };
    let just_before = Moment(tombstone.until.0 - 1);
    assert!(Slot::live(&away).unwrap().is_over(tombstone.until, 2), "nobody can claim it with that copy any more");
    assert!(!Slot::live(&away).unwrap().is_over(just_before, 2) && tombstone.until > NOW + limits::TOMBSTONE);
    assert!(tombstone.is_told(NOW) && !tombstone.is_told(NOW + limits::TOMBSTONE / 3));
}

#[test]
fn who_need_not_hold_a_session_remembers_who_has_claimed_it() {
    let (mut a, birth) = created(A);
    let mut stranger = None;
    let [of_b, of_c] = [(B, None), (NodeId(3), Some(B))].map(|(me, above)| {
        let mut slot = None;
        if let Some(above) = above {
            remember(&mut slot, Epoch::first(A).outranked_by(above), NOW);
        }
        request(&mut slot, me, true)
    });
    assert!(of_b.epoch < of_c.epoch);
    for (asked, answer) in [(&of_c, Answer::Unknown), (&of_b, Answer::Refused(of_c.epoch)), (&of_c, Answer::Unknown)] {
        assert_eq!(promise(&mut stranger, asked, (B, TERM), |_| true, NOW), answer);
        remember(&mut stranger, asked.epoch, NOW);
    }
    let late = committed(&mut a, 2);
    assert_eq!(apply(&mut stranger, late, NOW), Applied::Fenced(of_c.epoch));
    assert_eq!(apply(&mut stranger, birth, NOW), Applied::Fenced(of_c.epoch));
    let Some(Slot::Sought(sought)) = &stranger else { panic!("{stranger:?}") };
    let over = NOW + limits::CLAIM_REMEMBERED;
    assert_eq!([sought.is_over(NOW), sought.is_over(over)], [false, true]);
    claim(&mut stranger, of_c.epoch.outranked_by(B)).unwrap();
    withdraw(&mut stranger);
    assert!(stranger.is_some(), "a claim of its own does not end the memory");
}

#[test]
fn an_end_told_again_under_a_higher_claim_is_remembered_as_such() {
    let (mut a, _) = created(A);
    let Update::End(first) = end(&mut a, ID, TERM, NOW).unwrap().update else { panic!("this is an end") };
    let again = End { ending: first.ending.raised_to(first.ending.stamp.epoch.outranked_by(B)), ..first };
    assert_eq!(apply(&mut a, Update::End(again), NOW), Applied::Duplicate);
    assert_eq!(apply(&mut a, Update::End(first), NOW), Applied::Duplicate);
    assert!(matches!(a, Some(Slot::Ended(tombstone)) if tombstone.ending == again.ending));
}

#[test]
fn an_end_that_is_not_final_is_forgotten_when_the_later_owner_refuses_it_and_not_before() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth.clone(), NOW);
    let asked = request(&mut b, B, true);
    adopt(&mut b, asked.epoch, Given::default(), Term(0), NOW);
    let late = end(&mut a, ID, TERM, NOW).unwrap().update;
    let Applied::Fenced(promised) = apply(&mut b, late.clone(), NOW) else { panic!("the session has gone on") };
    retract(&mut a, birth.stamp(), promised, B);
    retract(&mut a, late.stamp(), promised, NodeId(3));
    assert!(matches!(promise(&mut a.clone(), &asked, (A, TERM), |_| true, NOW), Answer::Ended(..)));
    retract(&mut a, late.stamp(), promised, B);
    assert_eq!(promise(&mut a, &asked, (A, TERM), |_| true, NOW), Answer::Unknown, "nobody hears of that end");
}

#[test]
fn a_claimant_takes_the_end_of_the_session_it_asks_for() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let asked = request(&mut b, B, true);
    let Update::End(over) = end(&mut a, ID, TERM, NOW).unwrap().update else { panic!("this is an end") };
    assert_eq!(
        apply(&mut b, Update::End(over), NOW),
        Applied::Applied,
        "refused, it would be forgotten by the one who tells"
    );
    assert_eq!(adopt(&mut b, asked.epoch, Given::default(), Term(0), NOW), Adoption::Ended(over.ending));
}

#[test]
fn a_session_of_another_webapp_is_not_given_away() {
    let (mut a, _) = created(A);
    let asked = ClaimRequest {
        id: ID,
        epoch: Epoch { counter: 9, node: B },
        context: "/shop".parse().unwrap(),
        have: None,
        insist: true,
    };
    assert_eq!(promise(&mut a, &asked, (A, TERM), |_| true, NOW), Answer::Unknown);
    assert_eq!(standing(&a, &asked.context, TERM), Standing::OtherWebapp);
}

#[test]
fn reading_is_told_once_in_a_tenth_of_the_timeout() {
    let (mut a, _) = created(A);
    assert!(!touch(&mut a, NOW + Duration::from_secs(100)));
    assert!(touch(&mut a, NOW + Duration::from_secs(200)));
    assert!(!touch(&mut a, NOW + Duration::from_secs(210)));
    let over = NOW + Duration::from_secs(210 + 1_800);
    assert!(Slot::live(&a).unwrap().is_over(over, 1) && !Slot::live(&a).unwrap().is_over(over, 2));
}

#[test]
fn a_session_whose_time_is_over_is_not_answered_any_more() {
    let (mut a, _) = created(A);
    let almost = NOW + Duration::from_millis(1_799_999);
    assert_eq!(visit(&mut a.clone(), ID, TERM, almost), Visited::Tell);
    assert!(matches!(visit(&mut a, ID, TERM, NOW + Duration::from_secs(1_800)), Visited::Over(Some(Update::End(_)))));
    assert_eq!(standing(&a, &ContextPath::root(), TERM), Standing::Ended);
}

#[test]
fn a_request_that_has_begun_keeps_its_session_alive() {
    let (mut a, _) = created(A);
    visit(&mut a, ID, TERM, NOW + Duration::from_secs(1_799));
    assert_eq!(expire(&mut a, ID, TERM, NOW + Duration::from_secs(1_801)), Expiry::Runs);
    assert!(commit(&mut a, ID, &set("n", 2), TERM, NOW + Duration::from_secs(1_801)).is_ok());
}

#[test]
fn a_session_does_not_run_out_early_because_it_moved() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let used = NOW + Duration::from_secs(1_700);
    assert_eq!(visit(&mut a, ID, TERM, used), Visited::Tell);
    let asked = request(&mut b, B, true);
    let Answer::Promised(given) = promise(&mut a, &asked, (A, TERM), |_| true, used) else { panic!("it insists") };
    adopt(&mut b, asked.epoch, given, Term(0), used);
    let later = used + Duration::from_secs(1_000);
    assert_eq!(visit(&mut b, ID, TERM, later), Visited::Tell, "what was told of that use has not arrived");
}

#[test]
fn a_session_does_not_run_out_early_because_its_owner_died() {
    let (_, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    // The owner answered readers for almost a tenth of the timeout and had no reason to tell.
    let now = NOW + Duration::from_secs(1_900);
    let asked = request(&mut b, B, true);
    adopt(&mut b, asked.epoch, Given::default(), Term(0), now);
    assert_eq!(visit(&mut b, ID, TERM, now), Visited::Tell);
}

#[test]
fn who_takes_a_session_over_tells_its_first_use() {
    let (mut a, birth) = created(A);
    let (mut b, mut c) = (None, None);
    let Update::Whole(copy) = birth.clone() else { panic!("a session begins whole") };
    apply(&mut c, birth, NOW);
    let (used, idle) = (NOW + Duration::from_secs(1_700), Duration::from_secs(1_700));
    // B has held nothing; A gave it away a moment ago and comes back to it.
    let copy = Some(Whole { idle, ..copy });
    adopt(&mut b, Epoch::first(A).outranked_by(B), Given { copy, ..Given::default() }, Term(0), used);
    let asked = request(&mut c, B, true);
    promise(&mut a, &asked, (A, TERM), |_| true, used);
    adopt(&mut a, asked.epoch.outranked_by(A), Given::default(), Term(0), used);
    for owner in [&mut b, &mut a] {
        assert_eq!(visit(owner, ID, TERM, used), Visited::Tell);
        assert_eq!(visit(owner, ID, TERM, used), Visited::Fresh, "once");
    }
}

#[test]
fn an_owner_whose_lease_has_run_out_claims_before_it_answers_or_changes_anything() {
    let (mut a, _) = created(A);
    let root = ContextPath::root();
    let later = NOW + Duration::from_secs(9_000);
    for term in [None, Some(Term(1))] {
        assert_eq!(standing(&a, &root, term), Standing::Held { owner: A });
        assert_eq!(commit(&mut a, ID, &set("n", 2), term, NOW), Err(NotOwner));
        assert_eq!(end(&mut a, ID, term, NOW), Err(NotOwner));
        assert_eq!(expire(&mut a, ID, term, later), Expiry::Runs);
    }
    let Intent { epoch, .. } = intent(&a, A, None);
    claim(&mut a, epoch).unwrap();
    adopt(&mut a, epoch, Given::default(), Term(1), NOW);
    assert_eq!((standing(&a, &root, Some(Term(1))), value(&a, "n")), (Standing::Owned, Some(1)));
    assert_eq!(standing(&a, &root, TERM), Standing::Held { owner: A });
}

#[test]
fn a_session_that_stays_on_its_node_needs_no_lease() {
    let (mut slot, context) = (None, ContextPath::root());
    let birth = Birth { id: ID, me: A, term: Term(0), context: &context, reach: Reach::Node, timeout: None };
    create(&mut slot, &birth, &[], NOW);
    assert_eq!(standing(&slot, &context, None), Standing::Owned);
    assert!(commit(&mut slot, ID, &set("n", 2), None, NOW).is_ok());
}

#[test]
fn an_end_that_missed_what_a_later_owner_committed_is_refused() {
    let (mut a, birth) = created(A);
    let (mut b, mut holder) = (None, None);
    for slot in [&mut b, &mut holder] {
        apply(slot, birth.clone(), NOW);
    }
    let taken = request(&mut b, B, true);
    adopt(&mut b, taken.epoch, Given::default(), Term::default(), NOW);
    for told in [committed(&mut b, 2), end(&mut b, ID, TERM, NOW).unwrap().update] {
        apply(&mut holder, told, NOW);
    }
    let ending = Slot::ending(&holder).expect("B has ended it");
    let late = end(&mut a, ID, TERM, NOW).unwrap().update;
    assert_eq!(apply(&mut holder, late.clone(), NOW), Applied::Ended(ending), "A would carry over an old state");
    let found = ending_of(&late).raised_to(taken.epoch);
    let mut other = None;
    Slot::end(&mut other, found, NOW);
    assert_eq!(apply(&mut other, late, NOW), Applied::Duplicate, "A's own end, found by B's claim");
}

fn ending_of(update: &Update) -> Ending {
    let Update::End(end) = update else { panic!("{update:?} is an end") };
    end.ending
}

#[test]
fn a_copy_that_comes_while_it_is_sought_keeps_what_was_promised() {
    let (_, birth) = created(A);
    let mut b = None;
    let sought = request(&mut b, B, true);
    claim(&mut b, sought.epoch).unwrap();
    let higher = Epoch { counter: 7, node: NodeId(3) };
    let asked = ClaimRequest { epoch: higher, ..request(&mut None, NodeId(3), true) };
    assert_eq!(promise(&mut b, &asked, (B, TERM), |_| true, NOW), Answer::Unknown);
    let lower = ClaimRequest { epoch: sought.epoch, ..asked };
    assert_eq!(promise(&mut b, &lower, (B, TERM), |_| true, NOW), Answer::Refused(higher));
    assert_eq!(apply(&mut b, birth.clone(), NOW), Applied::Fenced(higher), "its sender is outranked");
    let Update::Whole(copy) = birth else { panic!("it begins whole") };
    assert_eq!(apply(&mut b, Update::Copy(copy), NOW), Applied::Applied);
    assert_eq!(Slot::live(&b).map(Record::promised), Some(higher));
    assert_eq!(adopt(&mut b, sought.epoch, Given::default(), Term(0), NOW), Adoption::Superseded(higher));
}

#[test]
fn a_copy_that_was_given_away_may_be_behind_until_its_new_owner_tells_of_it() {
    let (mut a, birth) = created(A);
    let asked = request(&mut None, B, true);
    let mut b = None;
    apply(&mut b, birth, NOW);
    let current = |answer| match answer {
        Answer::Promised(given) => given.current,
        other => panic!("{other:?}"),
    };
    let is_behind = |slot: &Option<Slot>| Slot::live(slot).unwrap().may_be_behind();
    let asked = ClaimRequest { epoch: Epoch::first(A).outranked_by(B), ..asked };
    assert_eq!(current(promise(&mut a, &asked, (A, TERM), |_| true, NOW)), Some(Epoch::first(A)));
    assert!(is_behind(&a) && !is_behind(&b));
    let later = ClaimRequest { epoch: asked.epoch.outranked_by(NodeId(3)), ..asked.clone() };
    let mut again = a.clone();
    let mut seen = |request: &ClaimRequest| current(promise(&mut again, request, (A, TERM), |_| true, NOW));
    assert_eq!(seen(&asked), Some(Epoch::first(A)), "the same claim once more");
    assert_eq!(seen(&later), Some(Epoch::first(A)), "until B was asked for it");
    assert_eq!(seen(&later), None, "before C there was B");
    adopt(&mut b, asked.epoch, Given::default(), Term(0), NOW);
    let whole = Slot::live(&b).unwrap().whole(ID, NOW);
    let also_behind = Whole { behind: true, ..whole.clone() };
    let mut told = a.clone();
    apply(&mut told, Update::Copy(also_behind), NOW);
    assert!(is_behind(&told), "from one who does not know either");
    for update in [Update::Copy(whole.clone()), Update::Whole(whole), committed(&mut b, 2)] {
        let mut told = a.clone();
        apply(&mut told, update, NOW);
        assert!(!is_behind(&told));
    }
    adopt(&mut a, later.epoch, Given::default(), Term(0), NOW);
    assert!(!is_behind(&a));
}

#[test]
fn a_copy_that_got_something_new_from_another_one_was_not_up_to_date_when_it_was_given_away() {
    let (mut a, birth) = created(A);
    let mut b = None;
    apply(&mut b, birth, NOW);
    committed(&mut a, 2);
    let asked = ClaimRequest { epoch: Epoch::first(A).outranked_by(NodeId(3)), ..request(&mut None, B, true) };
    let current = |slot: &mut Option<Slot>| match promise(slot, &asked, (B, TERM), |_| false, NOW) {
        Answer::Promised(given) => given.current,
        other => panic!("{other:?}"),
    };
    assert_eq!((current(&mut b), current(&mut b)), (Some(Epoch::first(A)), Some(Epoch::first(A))));
    let stray = Whole { behind: true, ..Slot::live(&a).unwrap().whole(ID, NOW) };
    assert_eq!(apply(&mut b, Update::Copy(stray), NOW), Applied::Applied);
    assert_eq!(current(&mut b), None);
}

#[test]
fn an_owner_that_yields_to_another_one_s_copy_tells_what_that_lacks() {
    let (mut a, birth) = created(A);
    let mut stale = None;
    apply(&mut stale, birth, NOW);
    let copy = |slot: &Option<Slot>| Slot::live(slot).unwrap().whole(ID, NOW);
    let later = |slot: &Option<Slot>| Whole { owner: Epoch::first(A).outranked_by(B), behind: true, ..copy(slot) };
    let made = commit(&mut a, ID, &set("n", 2), TERM, NOW).unwrap();
    let mut open = a.clone();
    assert_eq!(merge_copy(&mut open, later(&stale), NOW), Applied::Duplicate, "it may be refused still");
    assert_eq!(keep(&mut a, ID, &made.undo, NOW), Kept::Stands(None));
    let mut even = a.clone();
    let same = later(&even);
    assert_eq!(merge_copy(&mut even, same, NOW), Applied::Duplicate, "it has all of it");
    let told = merge_copy(&mut a, later(&stale), NOW);
    let Applied::Merged(told) = told else { panic!("{told:?}") };
    assert_eq!(*told, Update::Copy(copy(&a)));
    assert_eq!(Slot::live(&a).map(Record::tenure), Some(Tenure::Held));
    assert_eq!(apply(&mut stale, *told, NOW), Applied::Applied);
    assert_eq!(copy(&stale).attributes, copy(&a).attributes);
    assert_eq!(merge_copy(&mut a, later(&stale), NOW), Applied::Duplicate, "it owns nothing any more");
}
