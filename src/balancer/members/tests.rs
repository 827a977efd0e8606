//! What becomes of the members, step by step.

use std::time::Duration;

use super::*;
use crate::membership::{Member as ClusterMember, Role, Roster};

const NOW: Moment = Moment(1_000);

fn rules() -> Rules {
    Rules {
        fall: 3,
        rise: 2,
        interval: Duration::from_secs(2),
        retry: Duration::from_secs(2),
        slow_start: Duration::from_secs(10),
        member_connections: 1_024,
        max_ejected_percent: 50,
    }
}

fn node(id: u64, route: &str, duty: Duty) -> ClusterMember {
    let http = SocketAddr::from(([127, 0, 0, 1], 18_080));
    let role = Role::Node { route: route.parse().unwrap(), http, duty };
    ClusterMember { id: NodeId(id), address: ([127, 0, 0, 1], 4_000).into(), role }
}

fn roster(members: Vec<ClusterMember>) -> Roster {
    Roster { members, discovered: true }
}

fn fixed(route: &str, weight: u8) -> StaticMember {
    let address = SocketAddr::from(([127, 0, 0, 1], 18_080));
    StaticMember { address, route: route.parse().unwrap(), weight, standby: false, set: 0 }
}

fn none() -> Members {
    Members::new(rules(), &[], NOW)
}

/// Answers every check that is due.
fn check_all(members: &mut Members, verdict: Verdict) {
    for check in members.due(NOW) {
        members.checked(check.serial, verdict, NOW);
    }
}

fn standings(members: &Members) -> Vec<(String, Standing)> {
    members.view().members.iter().map(|member| (member.route.to_string(), member.standing)).collect()
}

fn standing(members: &Members) -> Standing {
    standings(members)[0].1
}

fn serial(members: &Members) -> u64 {
    members.view().members[0].serial
}

#[test]
fn a_new_node_is_checked_at_once_and_used_after_one_good_check() {
    let mut members = none();
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    assert_eq!(standing(&members), Standing::Coming);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!(standing(&members), Standing::Usable);
    assert!(members.due(NOW).is_empty());
}

#[test]
fn a_check_under_way_is_not_made_twice() {
    let mut members = none();
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    assert_eq!(members.due(NOW).len(), 1);
    assert_eq!(members.due(NOW + Duration::from_secs(60)).len(), 0);
}

#[test]
fn a_node_that_leaves_the_roster_is_removed_and_the_list_stays_in_order() {
    let mut members = none();
    members.roster(&roster(vec![node(1, "r3", Duty::Serving), node(2, "r1", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!(standings(&members), [("r1".into(), Standing::Usable), ("r3".into(), Standing::Usable)]);
    members.roster(&roster(vec![node(2, "r1", Duty::Serving)]), NOW);
    assert_eq!(standings(&members), [("r1".into(), Standing::Usable)]);
}

#[test]
fn a_restarted_node_is_a_new_life_even_while_the_old_one_is_on_the_roster() {
    let mut members = none();
    members.roster(&roster(vec![node(9, "r1", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    let old = serial(&members);
    let both = roster(vec![node(2, "r1", Duty::Starting), node(9, "r1", Duty::Serving)]);
    for _ in 0..2 {
        members.roster(&both, NOW);
        assert_ne!(serial(&members), old);
        assert_eq!(standing(&members), Standing::Coming);
    }
    let new = serial(&members);
    members.checked(old, Verdict::Dead, NOW);
    members.roster(&roster(vec![node(2, "r1", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!((serial(&members), standing(&members)), (new, Standing::Usable));
}

#[test]
fn the_later_word_about_the_duty_counts() {
    let mut members = none();
    let announced = |duty| roster(vec![node(1, "r1", duty)]);
    members.roster(&announced(Duty::Serving), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    let id = serial(&members);
    members.checked(id, Verdict::Alive(Duty::Draining), NOW);
    assert_eq!(standing(&members), Standing::Draining);
    members.roster(&announced(Duty::Serving), NOW);
    assert_eq!(standing(&members), Standing::Draining, "an old announcement is no news");
    members.checked(id, Verdict::Alive(Duty::Serving), NOW);
    assert_eq!(standing(&members), Standing::Usable);
    members.roster(&announced(Duty::Draining), NOW);
    assert_eq!(standing(&members), Standing::Draining);
    members.duty(&"r1".parse().unwrap(), Duty::Serving, NOW);
    assert_eq!(standing(&members), Standing::Usable);
}

#[test]
fn draining_is_not_failing() {
    let mut members = none();
    members.roster(&roster(vec![node(1, "r1", Duty::Draining)]), NOW);
    check_all(&mut members, Verdict::Dead);
    assert_eq!(standing(&members), Standing::Draining);
}

#[test]
fn a_refused_request_fails_a_member_and_two_good_checks_bring_it_back() {
    let mut members = none();
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    let id = serial(&members);
    let counters = members.view().members[0].counters.clone();
    assert!(counters.fail(true));
    members.trouble(id, Trouble::Refused, NOW);
    assert_eq!(standing(&members), Standing::Failed);
    members.checked(id, Verdict::Alive(Duty::Serving), NOW);
    assert_eq!(standing(&members), Standing::Failed);
    members.checked(id, Verdict::Alive(Duty::Serving), NOW);
    assert!(members.view().members[0].may_serve(), "the mark of the refused request is wiped");
}

#[test]
fn a_member_that_sends_requests_away_is_asked_why() {
    let mut members = none();
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert!(members.due(NOW).is_empty());
    members.trouble(serial(&members), Trouble::SentAway, NOW);
    assert_eq!(members.due(NOW).len(), 1);
}

#[test]
fn a_member_of_the_file_keeps_its_weight_when_membership_finds_it_and_stays_when_it_leaves() {
    let mut members = Members::new(rules(), &[fixed("r1", 10)], NOW);
    let checks = members.due(NOW);
    assert_eq!(checks[0].kind, Kind::Foreign);
    members.checked(checks[0].serial, Verdict::Alive(Duty::Serving), NOW);
    let id = serial(&members);
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    assert_eq!((serial(&members), members.view().members[0].weight), (id, 10), "the same life, now named");
    members.roster(&roster(vec![]), NOW);
    assert_eq!((serial(&members), standing(&members)), (id, Standing::Usable));
    assert_eq!(members.due(NOW).len(), 1, "whether it is still there is asked at once");
}

#[test]
fn a_new_life_of_a_member_of_the_file_keeps_the_files_word() {
    let mut members = Members::new(rules(), &[fixed("r1", 10)], NOW);
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    let id = serial(&members);
    members.roster(&roster(vec![node(2, "r1", Duty::Serving)]), NOW);
    assert_ne!(serial(&members), id);
    assert_eq!(members.view().members[0].weight, 10);
}

/// Percent of its share that each member gets at `now`.
fn warm(members: &Members, now: Moment) -> Vec<u32> {
    members.view().report(now).iter().map(|member| member.warm_percent).collect()
}

#[test]
fn who_comes_back_starts_slowly_and_who_comes_first_does_not() {
    let mut members = none();
    let cluster = |second| roster(vec![node(1, "r1", Duty::Serving), node(second, "r2", Duty::Serving)]);
    members.roster(&cluster(2), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!(warm(&members, NOW), [100, 100], "the first start");
    members.duty(&"r2".parse().unwrap(), Duty::Draining, NOW);
    let later = NOW + Duration::from_secs(60);
    members.duty(&"r2".parse().unwrap(), Duty::Serving, later);
    assert_eq!(warm(&members, later), [100, 1], "after a drain");
    assert_eq!(warm(&members, later + Duration::from_secs(5)), [100, 50]);
    assert_eq!(warm(&members, later + Duration::from_secs(10)), [100, 100]);
    members.roster(&cluster(3), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!(warm(&members, NOW), [100, 1], "a new life");
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    members.roster(&cluster(4), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!(warm(&members, NOW), [100, 1], "a new life after the old one was gone");
    members.roster(&roster(vec![node(1, "r1", Duty::Serving), node(5, "r3", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!(warm(&members, NOW), [100, 100], "a route that was never there");
}

#[test]
fn a_failed_member_that_rises_starts_slowly_once() {
    let mut members = Members::new(rules(), &[fixed("r1", 10)], NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    let id = serial(&members);
    members.trouble(id, Trouble::Refused, NOW);
    members.checked(id, Verdict::Alive(Duty::Serving), NOW);
    members.checked(id, Verdict::Alive(Duty::Serving), NOW + Duration::from_secs(1));
    members.checked(id, Verdict::Alive(Duty::Serving), NOW + Duration::from_secs(3));
    assert_eq!(warm(&members, NOW + Duration::from_secs(6)), [50]);
    let off = Members { rules: Rules { slow_start: Duration::ZERO, ..rules() }, ..members };
    assert_eq!(warm(&off, NOW + Duration::from_secs(6)), [100]);
}

fn two() -> (Members, u64, u64) {
    let mut members = Members::new(rules(), &[fixed("r1", 50), fixed("r2", 50)], NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    let serials: Vec<u64> = members.view().members.iter().map(|member| member.serial).collect();
    (members, serials[0], serials[1])
}

#[test]
fn a_member_of_many_errors_is_left_out_for_a_time_however_good_its_checks_are() {
    let (mut members, r1, _) = two();
    members.trouble(r1, Trouble::Errors, NOW);
    let view = members.view();
    assert!(view.members[0].ejected && view.members[0].has_failed() && !view.members[0].may_serve());
    members.checked(r1, Verdict::Alive(Duty::Serving), NOW);
    assert_eq!(standing(&members), Standing::Failed);
    let retry = rules().retry;
    assert!(!members.release(NOW + retry / 2));
    assert!(members.release(NOW + retry) && !members.release(NOW + retry));
    assert_eq!(standing(&members), Standing::Usable);
    assert_eq!(warm(&members, NOW + retry), [1, 100], "it starts slowly");
}

#[test]
fn what_requests_meet_never_takes_out_the_last_member_but_a_check_may() {
    for first in [Trouble::Errors, Trouble::Refused] {
        let (mut members, r1, r2) = two();
        members.trouble(r1, first, NOW);
        for _ in 0..9 {
            members.trouble(r2, Trouble::Errors, NOW);
            members.trouble(r2, Trouble::NoAnswer, NOW);
        }
        let wanted = [("r1".to_string(), Standing::Failed), ("r2".to_string(), Standing::Usable)];
        assert_eq!(standings(&members), wanted, "{first:?}");
        assert!(members.due(NOW).iter().any(|check| check.serial == r2), "but it is looked at");
        members.checked(r2, Verdict::Dead, NOW);
        assert_eq!(standings(&members)[1].1, Standing::Failed);
    }
}

fn r1() -> Route {
    "r1".parse().unwrap()
}

#[test]
fn a_drained_node_stays_drained_in_its_next_life_and_is_told_so() {
    let mut members = none();
    members.roster(&roster(vec![node(1, "r1", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert!(members.untold().is_empty() && !members.set(&"r9".parse().unwrap(), Change::AsInFile, NOW));
    assert!(members.set(&r1(), Change::Duty(Admin::Drained), NOW));
    assert_eq!(standing(&members), Standing::Draining);
    let id = serial(&members);
    assert_eq!(members.untold().iter().map(|untold| untold.serial).collect::<Vec<_>>(), [id]);
    assert!(members.untold().is_empty(), "it is being told");
    members.told(id, true, NOW);
    assert!(members.untold().is_empty(), "it knows");
    members.roster(&roster(vec![node(2, "r1", Duty::Serving)]), NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    assert_eq!(standing(&members), Standing::Draining);
    assert_eq!(members.untold().len(), 1);
    members.told(serial(&members), false, NOW);
    assert_eq!(members.untold().len(), 1, "it could not be told, and is told again");
    members.set(&r1(), Change::Duty(Admin::Enabled), NOW);
    members.told(serial(&members), false, NOW);
    assert!(members.untold().is_empty() && members.orders().is_empty());
    assert_eq!(standing(&members), Standing::Usable);
}

#[test]
fn what_was_set_is_there_after_a_restart_of_the_balancer() {
    let mut before = Members::new(rules(), &[fixed("r1", 10)], NOW);
    for change in [Change::Weight(70), Change::Standby(true), Change::Duty(Admin::Disabled)] {
        before.set(&r1(), change, NOW);
    }
    let mut after = Members::with_orders(rules(), &[fixed("r1", 10)], before.orders().clone(), NOW);
    check_all(&mut after, Verdict::Alive(Duty::Serving));
    let member = after.view().members[0].clone();
    assert_eq!((member.weight, member.standby, member.standing), (70, true, Standing::Disabled));
    assert_eq!(member.differs.len(), 3);
    after.set(&r1(), Change::AsInFile, NOW);
    let member = after.view().members[0].clone();
    assert_eq!((member.weight, member.standby, member.standing), (10, false, Standing::Usable));
    assert!(member.differs.is_empty());
}

#[test]
fn what_another_process_was_told_holds_here_too() {
    let mut other = Members::new(rules(), &[fixed("r1", 10)], NOW);
    let mut members = Members::new(rules(), &[fixed("r1", 10)], NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    other.set(&r1(), Change::Duty(Admin::Disabled), NOW);
    assert!(members.adopt(other.orders().clone(), NOW));
    assert_eq!(standing(&members), Standing::Disabled);
    assert!(!members.adopt(other.orders().clone(), NOW), "it is known");
    assert!(members.adopt(Orders::new(), NOW));
    assert_eq!(standing(&members), Standing::Usable);
}

#[test]
fn a_drained_server_that_is_no_node_keeps_its_sessions_and_a_disabled_one_does_not() {
    let mut members = Members::new(rules(), &[fixed("r1", 10)], NOW);
    check_all(&mut members, Verdict::Alive(Duty::Serving));
    members.set(&r1(), Change::Duty(Admin::Drained), NOW);
    let serves_its_own = |members: &Members| members.view().members[0].serves_its_own();
    assert!(serves_its_own(&members) && !members.view().members[0].may_serve());
    assert!(members.view().keeps(serial(&members)), "its connections too");
    assert!(members.untold().is_empty(), "it takes no orders");
    members.set(&r1(), Change::Duty(Admin::Disabled), NOW);
    assert!(!serves_its_own(&members) && !members.view().members[0].has_failed());
}

#[test]
fn orders_of_members_that_are_away_make_room_for_others() {
    let away = |n| (format!("a{n}").parse().unwrap(), Set { weight: Some(1), ..Set::default() });
    let orders: Orders = (0..limits::MEMBERS).map(away).collect();
    let mut members = Members::with_orders(rules(), &[fixed("r1", 10)], orders, NOW);
    assert!(members.set(&r1(), Change::Weight(3), NOW));
    assert_eq!(members.orders().len(), limits::MEMBERS);
    assert_eq!(members.view().members[0].weight, 3);
}

#[test]
fn a_flood_of_nodes_is_cut() {
    let flood = (0..limits::MEMBERS as u64 + 3).map(|id| node(id, &format!("n{id}"), Duty::Serving)).collect();
    let mut members = none();
    assert_eq!(members.roster(&roster(flood), NOW), 3);
    assert_eq!(members.view().members.len(), limits::MEMBERS);
}
