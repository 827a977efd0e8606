use super::*;
use crate::session::digest::BUCKETS;

const INTERVAL: Duration = Duration::from_secs(60);
const T: Moment = Moment(1_000);

fn id(bucket: usize, n: u8) -> SessionId {
    let mut id = [n; 16];
    (id[0], id[1]) = ((bucket >> 4) as u8, ((bucket & 0xF) << 4) as u8);
    SessionId(id)
}

fn digest(sessions: &[SessionId]) -> Digest {
    let mut digest = Digest::default();
    sessions.iter().for_each(|id| digest.add(*id, 1));
    digest
}

fn differs(round: RoundNumber, differing: &[usize], empty: &[usize]) -> Finding {
    let set = |buckets: &[usize]| buckets.iter().copied().collect();
    Finding::Differs { round, differing: set(differing), empty: set(empty) }
}

/// A round whose digest has been sent.
fn begun(sessions: &[SessionId]) -> (Repair, RoundNumber) {
    let mut repair = Repair::default();
    repair.want(T);
    let round = repair.begin(T);
    repair.digested(round, &digest(sessions), T);
    assert!(matches!(repair.question(), Some(Question::Digest { .. })));
    repair.asked();
    (repair, round)
}

fn listed(ids: &[SessionId]) -> Vec<Listed> {
    ids.iter().map(|id| Listed { id: *id, fingerprint: 1 }).collect()
}

#[test]
fn one_round_serves_reasons_that_come_together() {
    let mut repair = Repair::default();
    assert!(repair.is_complete() && repair.due(Moment(9), Moment(9)) == Due::Nothing);
    repair.want(Moment(10));
    repair.want(Moment(12));
    let due = [11, 12].map(|quiet_since| repair.due(Moment(quiet_since), Moment(50)));
    assert_eq!(due, [Due::Nothing, Due::Reason]);
    assert!(!repair.is_complete());
}

#[test]
fn a_node_without_sessions_asks_nothing() {
    let mut repair = Repair::default();
    repair.want(T);
    let round = repair.begin(T);
    assert_eq!(repair.drained(INTERVAL, T), None, "the digest is not made yet");
    repair.digested(round, &Digest::default(), T);
    assert_eq!(repair.question(), None);
    assert_eq!(repair.drained(INTERVAL, T), Some(Repaired::default()));
    assert!(repair.is_complete());
}

#[test]
fn a_round_tells_empty_buckets_at_once_and_asks_about_the_others() {
    let (full, empty) = (id(5, 1), id(9, 2));
    let (mut repair, round) = begun(&[full, empty]);
    assert_eq!(repair.next_window(), None, "the peer has not answered");
    repair.found(differs(round, &[5, 9, 11], &[9, 11]), T);
    let (_, wanted) = repair.next_window().unwrap();
    assert_eq!((wanted.tell.iter().collect::<Vec<_>>(), wanted.list.iter().collect::<Vec<_>>()), (vec![9], vec![5]));
    assert_eq!(repair.next_window(), None, "one at a time");
    repair.looked_up(round, Window { tell: vec![empty], list: listed(&[full]), ..Window::default() }, T);
    assert_eq!((repair.next(), repair.next()), (Some(empty), Some(empty)), "it was not sent yet");
    repair.told();
    assert_eq!(repair.question(), Some(&Question::List { round, sessions: listed(&[full]) }));
    repair.asked();
    assert_eq!((repair.next(), repair.drained(INTERVAL, T)), (None, None), "the answer is not there");
    repair.found(Finding::Wants { round, wanted: vec![1] }, T);
    assert_eq!((repair.next(), repair.drained(INTERVAL, T)), (Some(full), None));
    repair.told();
    let report = repair.drained(INTERVAL, T + Duration::from_millis(7)).unwrap();
    let took = Duration::from_millis(7);
    assert_eq!(report, Repaired { sessions: 2, differing: 3, listed: 1, told: 2, left: 0, took });
}

#[test]
fn a_round_ends_when_its_last_batch_is_acknowledged_and_has_only_so_many_under_way() {
    let (mut repair, round) = begun(&[id(1, 1)]);
    repair.found(differs(round, &[1], &[1]), T);
    repair.next_window();
    repair.looked_up(round, Window { tell: vec![id(1, 1)], ..Window::default() }, T);
    repair.passed();
    assert!(repair.has_credit() && repair.batch().is_none());
    let packed = || Packed { bytes: vec![1].into(), sessions: 5 };
    repair.tell(packed());
    assert_eq!(repair.batch().unwrap().number, 1);
    assert_eq!(repair.drained(INTERVAL, T), None, "it was not sent yet");
    repair.sent();
    assert!(repair.batch().is_none() && repair.drained(INTERVAL, T).is_none(), "it is not acknowledged yet");
    for number in 2..=limits::REPAIR_BATCHES as u32 {
        assert!(repair.has_credit());
        repair.tell(packed());
        assert_eq!(repair.batch().unwrap().number, number);
        repair.sent();
    }
    assert!(!repair.has_credit());
    repair.took(99);
    assert!(!repair.has_credit(), "there was no such batch");
    (1..=limits::REPAIR_BATCHES as u32).for_each(|number| repair.took(number));
    assert_eq!(repair.drained(INTERVAL, T).unwrap().told, 5 * limits::REPAIR_BATCHES);
}

#[test]
fn what_a_survey_has_packed_is_part_of_its_window_until_it_is_sent() {
    let (mut repair, round) = begun(&[id(1, 1)]);
    repair.round.as_mut().unwrap().counts = vec![limits::REPAIR_IDS as u32; BUCKETS].into();
    repair.found(differs(round, &[1, 2], &[1, 2]), T);
    repair.next_window().unwrap();
    let packed = || Packed { bytes: vec![1].into(), sessions: limits::REPAIR_IDS / 2 };
    repair.looked_up(round, Window { packed: vec![packed()], ..Window::default() }, T);
    assert!(repair.next_window().is_none() && repair.drained(INTERVAL, T).is_none());
    assert_eq!(repair.next_packed(), Some(packed()));
    assert!(repair.next_packed().is_none() && repair.next_window().is_some());
}

#[test]
fn the_next_list_waits_for_the_answer_to_the_last_one() {
    let ids: Vec<SessionId> = (0..=limits::REPAIR_LIST).map(|n| id(n % BUCKETS, (n / BUCKETS) as u8)).collect();
    let (mut repair, round) = begun(&ids);
    repair.found(differs(round, &(0..BUCKETS).collect::<Vec<_>>(), &[]), T);
    repair.next_window().unwrap();
    repair.looked_up(round, Window { list: listed(&ids), ..Window::default() }, T);
    let length = |question: Option<&Question>| match question {
        Some(Question::List { sessions, .. }) => Some(sessions.len()),
        _ => None,
    };
    assert_eq!(length(repair.question()), Some(limits::REPAIR_LIST));
    repair.found(Finding::Wants { round, wanted: vec![0xFF] }, T);
    assert_eq!(repair.next(), None, "an answer to what was not asked yet");
    repair.asked();
    assert_eq!(repair.question(), None);
    repair.found(Finding::Wants { round, wanted: Vec::new() }, T);
    assert_eq!(length(repair.question()), Some(1));
}

#[test]
fn a_window_holds_no_more_than_its_share_and_the_next_one_comes_before_it_is_empty() {
    let (mut repair, round) = begun(&[id(0, 0)]);
    repair.round.as_mut().unwrap().counts = vec![limits::REPAIR_IDS as u32 / 4; BUCKETS].into();
    let all: Vec<usize> = (0..BUCKETS).collect();
    repair.found(differs(round, &all, &all), T);
    let (_, first) = repair.next_window().unwrap();
    assert_eq!(first.tell.iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    let tell = vec![id(0, 0); limits::REPAIR_IDS / 2];
    repair.looked_up(round, Window { tell, ..Window::default() }, T);
    assert_eq!(repair.next_window(), None);
    repair.told();
    let (_, second) = repair.next_window().unwrap();
    assert_eq!(second.tell.iter().collect::<Vec<_>>(), [4, 5, 6, 7]);
}

#[test]
fn a_bucket_that_is_larger_than_a_window_is_looked_up_alone() {
    let (mut repair, round) = begun(&[id(0, 0)]);
    repair.round.as_mut().unwrap().counts = vec![u32::MAX; BUCKETS].into();
    repair.found(differs(round, &[7, 8], &[7]), T);
    let (_, wanted) = repair.next_window().unwrap();
    assert_eq!((wanted.tell.len(), wanted.list.len()), (1, 0));
}

#[test]
fn a_session_with_an_open_commit_is_told_when_that_is_safe_and_waited_for_in_bounded_time() {
    let (mut repair, round) = begun(&[id(1, 1)]);
    repair.found(differs(round, &[1], &[1]), T);
    repair.next_window();
    repair.looked_up(round, Window { tell: vec![id(1, 1)], ..Window::default() }, T);
    repair.postpone(T);
    assert_eq!((repair.next(), repair.drained(INTERVAL, T)), (None, None));
    let late = T + limits::REPAIR_OPEN;
    repair.tick(late);
    assert_eq!(repair.next(), Some(id(1, 1)));
    repair.postpone(late);
    assert_eq!(repair.drained(INTERVAL, late).unwrap().told, 0);
}

#[test]
fn a_reason_during_a_round_asks_for_another() {
    let (mut repair, round) = begun(&[id(1, 1)]);
    repair.want(Moment(2_000));
    assert_eq!(repair.due(Moment(9_000), Moment(9_000)), Due::Nothing, "the first one is still going on");
    repair.found(differs(round, &[], &[]), T);
    assert!(repair.drained(INTERVAL, T).is_some() && !repair.is_complete());
    assert_eq!(repair.due(Moment(2_000), Moment(2_000)), Due::Reason);
}

#[test]
fn a_round_that_found_something_is_followed_by_looks_until_they_find_no_less() {
    let mut repair = Repair::default();
    let mut round_with = |wanted: u8, at: Moment| {
        let round = repair.begin(at);
        let ids: Vec<SessionId> = (0..8).map(|n| id(3, n)).collect();
        repair.digested(round, &digest(&ids), at);
        assert!(repair.question().is_some());
        repair.asked();
        repair.found(differs(round, &[3], &[]), at);
        repair.next_window();
        repair.looked_up(round, Window { list: listed(&ids), ..Window::default() }, at);
        assert!(repair.question().is_some());
        repair.asked();
        repair.found(Finding::Wants { round, wanted: vec![wanted] }, at);
        while repair.next().is_some() {
            repair.told();
        }
        repair.drained(INTERVAL, at).unwrap();
        repair.look_at.unwrap().since(at)
    };
    assert_eq!(round_with(0b1111_1111, T), limits::REPAIR_AGAIN);
    assert_eq!(round_with(0b1111, T), limits::REPAIR_AGAIN * 2);
    assert_eq!(round_with(0b111, T), INTERVAL, "not much less: this is the load");
    assert_eq!(round_with(1, T), limits::REPAIR_AGAIN);
    assert_eq!(round_with(0, T), INTERVAL);
    let pauses = [0b1111_1111, 0b1111, 0b11, 0b1].map(|wanted| round_with(wanted, T));
    let [first, second, third] = [1, 2, 4].map(|times| limits::REPAIR_AGAIN * times);
    assert_eq!(pauses, [first, second, third, INTERVAL], "and not for ever");
}

#[test]
fn what_was_left_to_its_owner_is_looked_for_later() {
    let (mut repair, round) = begun(&[id(1, 1)]);
    repair.found(differs(round, &[1], &[1]), T);
    repair.next_window();
    repair.looked_up(round, Window { left: 1, ..Window::default() }, T);
    assert!(repair.drained(INTERVAL, T).is_some() && repair.is_complete());
    assert_eq!(repair.due(Moment(0), T + limits::REPAIR_AGAIN), Due::Look);
}

#[test]
fn what_was_left_to_nodes_that_may_lack_it_is_looked_for_before_the_peer_counts_as_complete() {
    let (mut repair, round) = begun(&[id(1, 1)]);
    repair.found(differs(round, &[1], &[1]), T);
    repair.next_window();
    repair.looked_up(round, Window { left: 1, unproved: 1, ..Window::default() }, T);
    assert!(repair.drained(INTERVAL, T).is_some() && !repair.is_complete(), "the others may lack it as well");
    let later = T + limits::REPAIR_LEFT;
    assert_eq!((repair.leaves_to_others(), repair.due(Moment(0), later)), (false, Due::Look));
    let round = repair.begin(later);
    repair.digested(round, &digest(&[id(1, 1)]), later);
    assert!(repair.question().is_some() && !repair.is_complete());
    repair.asked();
    repair.found(differs(round, &[], &[]), later);
    assert!(repair.drained(INTERVAL, later).is_some() && repair.is_complete());
}

#[test]
fn an_answer_to_an_earlier_round_means_nothing() {
    let (mut repair, round) = begun(&[id(1, 1)]);
    repair.broken();
    assert!(repair.is_complete());
    repair.want(T);
    assert_ne!(repair.begin(T), round);
    repair.found(differs(round, &[1], &[1]), T);
    repair.digested(round, &digest(&[id(1, 1)]), T);
    assert!(repair.question().is_none() && repair.next_window().is_none());
}

#[test]
fn a_round_without_an_answer_begins_anew() {
    let (mut repair, _) = begun(&[id(1, 1)]);
    repair.moved(T + Duration::from_secs(1));
    repair.tick(T + limits::REPAIR_PATIENCE);
    assert!(repair.round.is_some());
    let late = T + limits::REPAIR_PATIENCE + Duration::from_secs(1);
    repair.tick(late);
    assert!(repair.due(late, late) == Due::Reason && !repair.is_complete());
}
