use super::*;
use crate::session::delta::{End, Finality};

const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const ID: SessionId = SessionId([1; 16]);
const START: Moment = Moment(1_000);

fn ledger(ack: Ack) -> Ledger {
    let mut ledger = Ledger::new(ack, Duration::from_secs(1));
    ledger.link_up(B);
    ledger.link_up(C);
    ledger
}

fn update() -> Update {
    let stamp = Stamp { epoch: Epoch { counter: 1, node: NodeId(1) }, version: 1 };
    Update::End(End { id: ID, ending: Ending { finality: Finality::Final, stamp } })
}

fn commit(ledger: &mut Ledger, now: Moment) -> (WaitId, Option<Settled>) {
    let wait = ledger.open();
    for peer in ledger.peers().collect::<Vec<_>>() {
        ledger.sent(peer, &update(), Some(wait), now);
    }
    (wait, ledger.sealed(wait))
}

fn held(wait: WaitId, copies: usize) -> Settled {
    Settled { wait, verdict: Verdict::Held(copies) }
}

#[test]
fn the_first_copy_releases_a_reply_that_wants_one() {
    let mut ledger = ledger(Ack::One);
    let (wait, at_once) = commit(&mut ledger, START);
    assert_eq!(at_once, None);
    assert_eq!(ledger.acked(B, 1), [held(wait, 2)]);
    assert_eq!(ledger.acked(C, 1), []);
    assert!(ledger.is_idle());
}

#[test]
fn every_copy_is_needed_by_a_reply_that_wants_all() {
    let mut ledger = ledger(Ack::All);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.acked(B, 1), []);
    assert_eq!(ledger.acked(C, 1), [held(wait, 3)]);
}

#[test]
fn a_reply_that_wants_none_leaves_at_once() {
    let mut ledger = ledger(Ack::None);
    let (wait, at_once) = commit(&mut ledger, START);
    assert_eq!(at_once, Some(held(wait, 1)));
}

#[test]
fn without_peers_the_reply_leaves_and_says_it_is_alone() {
    let mut ledger = Ledger::new(Ack::One, Duration::from_secs(1));
    let (wait, at_once) = commit(&mut ledger, START);
    assert_eq!(at_once, Some(held(wait, 1)));
}

#[test]
fn a_reply_is_not_released_before_the_least_number_of_copies_is_held() {
    let mut ledger = ledger(Ack::One).with_least(3);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.acked(B, 1), []);
    assert_eq!(ledger.acked(C, 1), [held(wait, 3)]);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.acked(B, 2), []);
    let too_few = Settled { wait, verdict: Verdict::TooFew(2) };
    assert_eq!(ledger.link_down(C), [too_few], "a peer that is lost between the sending and its answer");
}

#[test]
fn a_copy_of_a_peer_that_is_not_waited_for_counts_when_it_comes_in_time() {
    let mut ledger = ledger(Ack::All);
    commit(&mut ledger, START);
    ledger.acked(B, 1);
    ledger.tick(START + Duration::from_secs(1));
    let (wait, _) = commit(&mut ledger, START + Duration::from_secs(1));
    assert_eq!(ledger.acked(C, 2), []);
    assert_eq!(ledger.acked(B, 2), [held(wait, 3)]);
}

#[test]
fn an_acknowledgement_covers_everything_before_it() {
    let mut ledger = ledger(Ack::One);
    let waits: Vec<WaitId> = (0..3).map(|_| commit(&mut ledger, START).0).collect();
    assert_eq!(ledger.acked(B, 2), [held(waits[0], 2), held(waits[1], 2)]);
    assert_eq!(ledger.in_flight(B), 1);
}

#[test]
fn a_dead_peer_is_not_waited_for() {
    let mut ledger = ledger(Ack::One);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.link_down(B), []);
    assert_eq!(ledger.link_down(C), [held(wait, 1)]);
}

#[test]
fn a_silent_peer_leaves_the_in_sync_set_until_it_has_caught_up() {
    let mut ledger = ledger(Ack::All);
    let (first, _) = commit(&mut ledger, START);
    ledger.acked(B, 1);
    assert_eq!(ledger.tick(START + Duration::from_millis(999)), []);
    assert_eq!(ledger.tick(START + Duration::from_secs(1)), [(C, vec![held(first, 2)])]);
    assert!(!ledger.is_in_sync(C));
    let (second, _) = commit(&mut ledger, START + Duration::from_secs(1));
    assert_eq!(ledger.acked(B, 2), [held(second, 2)], "nobody waits for a lagging peer");
    assert_eq!(ledger.acked(C, 0), []);
    assert!(!ledger.is_in_sync(C), "it still owes what it fell back with");
    assert_eq!(ledger.acked(C, 1), []);
    assert!(!ledger.is_in_sync(C), "it lacks what was answered without it");
    let (third, _) = commit(&mut ledger, START + Duration::from_secs(1));
    assert_eq!(ledger.acked(B, 3), [], "but from now on it is waited for");
    assert_eq!(ledger.acked(C, 2), []);
    assert!(ledger.is_in_sync(C) && ledger.in_flight(C) == 1, "under load there is always something under way");
    assert_eq!(ledger.tick(START + Duration::from_secs(2)), [(C, vec![held(third, 2)])], "it is as slow as before");
}

#[test]
fn a_lagging_peer_is_not_in_sync_before_its_gaps_are_mended() {
    let mut ledger = Ledger::new(Ack::One, Duration::from_secs(1));
    ledger.link_up(B);
    commit(&mut ledger, START);
    ledger.tick(START + Duration::from_secs(1));
    assert_eq!(ledger.objected(B, 1, Objection::Gap), Remedy::SendWhole(ID, None));
    ledger.sent(B, &update(), None, START + Duration::from_secs(1));
    ledger.acked(B, 1);
    assert!(!ledger.is_in_sync(B), "what it refused it does not hold");
    ledger.acked(B, 2);
    assert!(ledger.is_in_sync(B));
}

#[test]
fn a_gap_of_a_forgotten_session_keeps_no_peer_out_of_sync() {
    let mut ledger = Ledger::new(Ack::One, Duration::from_secs(1));
    ledger.link_up(B);
    commit(&mut ledger, START);
    ledger.tick(START + Duration::from_secs(1));
    assert_eq!(ledger.objected(B, 1, Objection::Gap), Remedy::SendWhole(ID, None));
    ledger.acked(B, 1);
    assert!(ledger.is_in_sync(B), "there is nothing to tell of it");
}

#[test]
fn a_fence_outweighs_copies_and_is_never_counted_as_one() {
    let mut ledger = ledger(Ack::All);
    let (wait, _) = commit(&mut ledger, START);
    ledger.acked(B, 1);
    let higher = Epoch { counter: 5, node: B };
    let fenced = Settled { wait, verdict: Verdict::Fenced(higher) };
    assert_eq!(ledger.objected(C, 1, Objection::Fenced(higher)), Remedy::Settle(ID, fenced));
    assert_eq!(ledger.acked(C, 1), []);
}

#[test]
fn a_late_fence_still_teaches_who_the_owner_is() {
    let mut ledger = ledger(Ack::One);
    commit(&mut ledger, START);
    ledger.acked(B, 1);
    let fence = Objection::Fenced(Epoch { counter: 5, node: B });
    assert_eq!(ledger.objected(C, 1, fence), Remedy::Yield(ID, fence));
    assert_eq!(ledger.objected(C, 1, fence), Remedy::None, "an objection counts once");
}

#[test]
fn what_nobody_waited_for_is_retracted() {
    let mut ledger = ledger(Ack::One);
    ledger.sent(B, &update(), None, START);
    let fence = Objection::Fenced(Epoch { counter: 5, node: C });
    assert_eq!(ledger.objected(B, 1, fence), Remedy::Retract(ID, update().stamp(), fence));
}

#[test]
fn a_gap_is_mended_by_the_whole_session_before_it_counts() {
    let mut ledger = Ledger::new(Ack::One, Duration::from_secs(1));
    ledger.link_up(B);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.objected(B, 1, Objection::Gap), Remedy::SendWhole(ID, Some(wait)));
    ledger.sent(B, &update(), Some(wait), START);
    assert_eq!(ledger.acked(B, 1), [], "a refused update is not held");
    assert_eq!(ledger.acked(B, 2), [held(wait, 2)]);
}

#[test]
fn a_full_queue_releases_those_who_wait_for_it() {
    let mut ledger = Ledger::new(Ack::One, Duration::from_secs(1));
    ledger.link_up(B);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.overflowed(B), [held(wait, 1)]);
    assert!(!ledger.is_in_sync(B));
}

#[test]
fn a_peer_that_fell_back_owing_nothing_comes_back_by_itself() {
    let mut ledger = ledger(Ack::One);
    ledger.overflowed(B);
    assert!(!ledger.is_in_sync(B));
    ledger.tick(START);
    assert!(ledger.is_in_sync(B), "nothing may ever be sent to it that it could acknowledge");
}

#[test]
fn numbers_of_an_old_link_mean_nothing_on_the_new_one() {
    let mut ledger = Ledger::new(Ack::One, Duration::from_secs(1));
    ledger.link_up(B);
    commit(&mut ledger, START);
    ledger.link_down(B);
    ledger.link_up(B);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.acked(B, 1), [held(wait, 2)]);
}

#[test]
fn a_reply_does_not_wait_for_a_session_that_was_forgotten() {
    let mut ledger = Ledger::new(Ack::One, Duration::from_secs(1));
    ledger.link_up(B);
    let (wait, _) = commit(&mut ledger, START);
    assert_eq!(ledger.objected(B, 7, Objection::Gap), Remedy::None, "no such number");
    assert_eq!(ledger.objected(B, 1, Objection::Gap), Remedy::SendWhole(ID, Some(wait)));
    assert_eq!(ledger.given_up(B, wait), Some(held(wait, 1)));
    assert_eq!(ledger.acked(B, 1), []);
    assert!(ledger.is_idle());
}
