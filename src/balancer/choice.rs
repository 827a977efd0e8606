//! Which member a request is sent to, and with which word to the node: stay or move. Pure but for the picker's memory.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    methods::{self, Candidate, Picker, Shares},
    sticky::Token,
    view::{Member, Standing, View},
};
use crate::{membership::Duty, time::Moment};

/// What the node is told in `Tasuki-Attempt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// First choice: say so if the session's owner is another live node.
    Stay,
    /// The owner could not be reached or refused: take the session over.
    Move,
}

/// The member for an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// Where it goes.
    pub(crate) member: Arc<Member>,
    /// What the node is told.
    pub(crate) attempt: Attempt,
}

/// Whether anybody can be chosen.
#[derive(Clone, Debug)]
pub(crate) enum Chosen {
    /// This one.
    Member(Choice),
    /// Nobody now, but a member is coming.
    Wait,
    /// Nobody.
    Nobody,
}

/// Whether the request may still wait for its own member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It has just come.
    Fresh,
    /// It has waited long enough: anybody is better.
    Spent,
}

/// How sessions bind requests to members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    /// `balancer.sticky`
    pub(crate) sticky: bool,
    /// `balancer.failover`
    pub(crate) failover: bool,
    /// `balancer.forced_recovery`
    pub(crate) forced_recovery: bool,
    /// How the member is chosen of a session that has lost its own.
    pub(crate) shares: Shares,
}

type Few<'a> = SmallVec<[&'a Arc<Member>; 8]>;

impl Attempt {
    /// As the header has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Move => "move",
        }
    }
}

/// Chooses the member of a first attempt.
///
/// - Its member by route, if that may serve: stay. A draining node gets nothing: its session moves. A drained server that
///   is no node keeps the sessions it has. A disabled member gets nothing at all.
/// - Its member by route, if that says it serves and only has not been checked yet: a short wait, or a balancer that has
///   just started would move every session whose member is checked second.
/// - A session whose member is gone or unknown: the rendezvous choice among those that may serve, move. A session
///   without any route: the same member, but stay, for its owner may be alive.
/// - No session: the method's choice among those of the lowest set that are not full. The same with `sticky = false`, where
///   a session moves with its requests.
/// - With `failover = false` a session that has the route of a member, present or past, is never moved.
pub(crate) fn first(
    view: &View,
    session: Option<Token<'_>>,
    binding: Binding,
    patience: Patience,
    picker: &mut Picker,
    now: Moment,
) -> Chosen {
    let Some(token) = session else {
        return spread(view, &[], binding, Attempt::Stay, picker, now);
    };
    if !binding.sticky {
        return spread(view, &[], binding, Attempt::Move, picker, now);
    }
    if let Some(member) = token.route.and_then(|route| view.named(route)) {
        if member.may_serve() || member.serves_its_own() {
            return Chosen::Member(Choice { member: member.clone(), attempt: Attempt::Stay });
        }
        if patience == Patience::Fresh && member.standing == Standing::Coming && member.duty == Duty::Serving {
            return Chosen::Wait;
        }
    }
    if !may_move(view, token, binding) {
        return Chosen::Nobody;
    }
    let attempt = if token.route.is_some() { Attempt::Move } else { Attempt::Stay };
    choose(view, &[], eligible(view, &[], binding), attempt, now, |few| {
        methods::rendezvous(token.key().bytes(), binding.shares, few)
    })
}

/// Chooses a member that was not `tried` yet.
pub(crate) fn another(
    view: &View,
    session: Option<Token<'_>>,
    tried: &[u64],
    binding: Binding,
    picker: &mut Picker,
    now: Moment,
) -> Chosen {
    match session {
        None => spread(view, tried, binding, Attempt::Stay, picker, now),
        Some(token) if binding.sticky && !may_move(view, token, binding) => Chosen::Nobody,
        Some(token) => {
            let few = eligible(view, tried, binding);
            choose(view, tried, few, Attempt::Move, now, |few| {
                methods::rendezvous(token.key().bytes(), binding.shares, few)
            })
        }
    }
}

/// Whether a session may be served by another member than its own. A route that was never one of ours holds nobody here.
fn may_move(view: &View, token: Token<'_>, binding: Binding) -> bool {
    binding.failover || token.route.is_none_or(|route| !view.knows(route))
}

/// By the method, among those that are not full, or all when each is. A session that moves does not ask who is full: its
/// place would depend on the moment.
fn spread(view: &View, tried: &[u64], binding: Binding, attempt: Attempt, picker: &mut Picker, now: Moment) -> Chosen {
    let mut few = eligible(view, tried, binding);
    if few.iter().any(|member| !member.is_full()) {
        few.retain(|member| !member.is_full());
    }
    choose(view, tried, few, attempt, now, |few| picker.pick(few, now))
}

fn choose(
    view: &View,
    tried: &[u64],
    few: Few<'_>,
    attempt: Attempt,
    now: Moment,
    pick: impl FnOnce(&[Candidate<'_>]) -> Option<usize>,
) -> Chosen {
    let candidates: SmallVec<[Candidate<'_>; 8]> = few.iter().map(|member| member.candidate(now)).collect();
    match pick(&candidates).and_then(|index| few.get(index)) {
        Some(member) => Chosen::Member(Choice { member: Arc::clone(member), attempt }),
        None if view.members.iter().any(|member| is_coming(member, tried)) => Chosen::Wait,
        None => Chosen::Nobody,
    }
}

fn is_coming(member: &Member, tried: &[u64]) -> bool {
    member.standing == Standing::Coming && !tried.contains(&member.serial)
}

/// Of those that were not tried: members that may serve; the standby ones only when there is no other; when nobody may
/// serve and nobody is coming, the failed ones, for they may be back (httpd's forcerecovery), if the settings want that.
/// Draining members never.
fn eligible<'a>(view: &'a View, tried: &[u64], binding: Binding) -> Few<'a> {
    let untried = || view.members.iter().filter(|member| !tried.contains(&member.serial));
    let mut few = foremost(untried().filter(|member| member.may_serve()), Member::rank);
    let is_anybody_coming = || view.members.iter().any(|member| is_coming(member, tried));
    if binding.forced_recovery && few.is_empty() && !is_anybody_coming() {
        // Who is out because of its answers gives some at least.
        few = foremost(untried().filter(|member| member.has_failed()), |member| (!member.ejected, member.rank()));
    }
    few
}

/// Those of the least rank.
fn foremost<'a, R: Ord>(
    members: impl Iterator<Item = &'a Arc<Member>> + Clone,
    rank: impl Fn(&Member) -> R,
) -> Few<'a> {
    let least = members.clone().map(|member| rank(member)).min();
    members.filter(|member| Some(rank(member)) == least).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::view::{Warming, tests::usable},
        *,
    };
    use crate::settings::Method;

    const BOUND: Binding = Binding { sticky: true, failover: true, forced_recovery: true, shares: Shares::Weighted };
    const NOW: Moment = Moment(1_000);
    const ID: &str = "00112233445566778899AABBCCDDEEFF";

    fn view(members: Vec<Member>) -> View {
        View { members: members.into_iter().map(Arc::new).collect(), left: vec!["left".parse().unwrap()] }
    }

    fn three(standing: Standing) -> View {
        view(vec![Member { standing, ..usable(1, "r1") }, usable(2, "r2"), usable(3, "r3")])
    }

    fn picker() -> Picker {
        Picker::new(Method::ByRequests, 1)
    }

    fn token(route: Option<&str>) -> Option<Token<'_>> {
        Some(Token { id: ID, route })
    }

    fn begin(view: &View, session: Option<Token<'_>>, binding: Binding, picker: &mut Picker) -> Chosen {
        first(view, session, binding, Patience::Fresh, picker, NOW)
    }

    fn told(chosen: Chosen) -> (String, Attempt) {
        match chosen {
            Chosen::Member(choice) => (choice.member.route.to_string(), choice.attempt),
            other => panic!("{other:?} instead of a member"),
        }
    }

    #[test]
    fn a_session_stays_with_its_member() {
        let view = three(Standing::Usable);
        for route in ["r1", "r2", "r3"] {
            let chosen = begin(&view, token(Some(route)), BOUND, &mut picker());
            assert_eq!(told(chosen), (route.to_string(), Attempt::Stay));
        }
    }

    #[test]
    fn a_session_of_a_draining_failed_or_unknown_member_moves_and_everyone_agrees_where() {
        let expected = told(begin(&three(Standing::Failed), token(Some("r1")), BOUND, &mut picker()));
        assert_eq!(expected.1, Attempt::Move);
        for standing in [Standing::Draining, Standing::Failed] {
            for route in ["r1", "gone"] {
                let chosen = begin(&three(standing), token(Some(route)), BOUND, &mut picker());
                assert_eq!(told(chosen), expected);
            }
        }
    }

    #[test]
    fn a_session_waits_for_the_first_check_of_its_member_but_not_for_a_member_that_starts() {
        let with = |duty| view(vec![Member { standing: Standing::Coming, duty, ..usable(1, "r1") }, usable(2, "r2")]);
        assert!(matches!(begin(&with(Duty::Serving), token(Some("r1")), BOUND, &mut picker()), Chosen::Wait));
        let late = first(&with(Duty::Serving), token(Some("r1")), BOUND, Patience::Spent, &mut picker(), NOW);
        assert_eq!(told(late), ("r2".to_string(), Attempt::Move));
        let starting = begin(&with(Duty::Starting), token(Some("r1")), BOUND, &mut picker());
        assert_eq!(told(starting), ("r2".to_string(), Attempt::Move), "a new life owns nothing");
    }

    #[test]
    fn a_session_without_a_route_is_not_torn_from_its_owner() {
        let chosen = begin(&three(Standing::Usable), token(None), BOUND, &mut picker());
        assert_eq!(told(chosen).1, Attempt::Stay);
    }

    #[test]
    fn new_sessions_are_spread() {
        let (view, mut picker) = (three(Standing::Usable), picker());
        let mut routes: Vec<_> = (0..3).map(|_| told(begin(&view, None, BOUND, &mut picker)).0).collect();
        routes.sort();
        assert_eq!(routes, ["r1", "r2", "r3"]);
    }

    #[test]
    fn without_failover_a_session_is_never_moved() {
        let bound = Binding { failover: false, ..BOUND };
        let view = three(Standing::Failed);
        assert!(matches!(begin(&view, token(Some("r1")), bound, &mut picker()), Chosen::Nobody));
        let begun = |route| begin(&three(Standing::Usable), token(Some(route)), bound, &mut picker());
        assert!(matches!(begun("left"), Chosen::Nobody), "nor when its member has left");
        assert!(matches!(begun("foreign"), Chosen::Member(_)), "that is a session of another balancer");
        assert!(matches!(another(&view, token(Some("r2")), &[2], bound, &mut picker(), NOW), Chosen::Nobody));
        assert!(matches!(begin(&view, None, bound, &mut picker()), Chosen::Member(_)));
    }

    #[test]
    fn a_tried_member_is_not_tried_again() {
        let view = three(Standing::Usable);
        let (route, attempt) = told(another(&view, token(Some("r1")), &[1, 3], BOUND, &mut picker(), NOW));
        assert_eq!((route.as_str(), attempt), ("r2", Attempt::Move));
        assert!(matches!(another(&view, None, &[1, 2, 3], BOUND, &mut picker(), NOW), Chosen::Nobody));
    }

    #[test]
    fn a_standby_serves_only_alone() {
        let spare = |other| {
            view(vec![Member { standing: other, ..usable(1, "r1") }, Member { standby: true, ..usable(2, "r2") }])
        };
        for _ in 0..4 {
            assert_eq!(told(begin(&spare(Standing::Usable), None, BOUND, &mut picker())).0, "r1");
        }
        assert_eq!(told(begin(&spare(Standing::Draining), None, BOUND, &mut picker())).0, "r2");
    }

    #[test]
    fn a_higher_set_serves_only_when_nobody_of_the_lower_ones_may() {
        let at = |serial, route, set, standby, standing| Member { set, standby, standing, ..usable(serial, route) };
        let with = |near, spare, far| {
            view(vec![
                at(1, "near", 0, false, near),
                at(2, "spare", 0, true, spare),
                at(3, "far", 1, false, far),
                at(4, "last", 7, false, Standing::Usable),
            ])
        };
        use Standing::{Coming, Draining, Failed, Usable};
        for (view, wanted) in [
            (with(Usable, Usable, Usable), "near"),
            (with(Failed, Usable, Usable), "spare"),
            (with(Draining, Failed, Usable), "far"),
            (with(Coming, Failed, Usable), "far"),
            (with(Failed, Draining, Failed), "last"),
        ] {
            for session in [None, token(Some("gone"))] {
                assert_eq!(told(begin(&view, session, BOUND, &mut picker())).0, wanted);
            }
        }
        let back = with(Usable, Usable, Usable);
        assert_eq!(
            told(begin(&back, token(Some("far")), BOUND, &mut picker())).0,
            "far",
            "a session stays where it is"
        );
        let tried = another(&back, None, &[1], BOUND, &mut picker(), NOW);
        assert_eq!(told(tried).0, "spare");
    }

    #[test]
    fn a_full_member_gets_no_new_session_while_another_has_room_and_keeps_its_own() {
        let view = view(vec![Member { most: 0, ..usable(1, "r1") }, usable(2, "r2")]);
        for _ in 0..4 {
            assert_eq!(told(begin(&view, None, BOUND, &mut picker())).0, "r2");
            assert_eq!(told(another(&view, None, &[2], BOUND, &mut picker(), NOW)).0, "r1", "where it waits");
        }
        assert_eq!(told(begin(&view, token(Some("r1")), BOUND, &mut picker())), ("r1".to_string(), Attempt::Stay));
    }

    #[test]
    fn a_cold_member_keeps_its_sessions_and_gets_few_new_ones() {
        let warming = Some(Warming { since: NOW, span: Duration::from_secs(10) });
        let view = view(vec![Member { warming, ..usable(1, "r1") }, usable(2, "r2")]);
        let mut picker = picker();
        for _ in 0..20 {
            assert_eq!(told(begin(&view, token(Some("r1")), BOUND, &mut picker)), ("r1".to_string(), Attempt::Stay));
        }
        let new = (0..1_000).filter(|_| told(begin(&view, None, BOUND, &mut picker)).0 == "r1").count();
        assert!((5..15).contains(&new), "{new} of 1000");
        let moved = |view: &View| told(begin(view, token(Some("gone")), BOUND, &mut self::picker())).0;
        let warm = self::view(vec![usable(1, "r1"), usable(2, "r2")]);
        assert_eq!(moved(&view), moved(&warm), "where a session moves does not depend on what a balancer has seen");
    }

    #[test]
    fn without_forced_recovery_failed_members_are_never_tried() {
        let failed = || Member { standing: Standing::Failed, ..usable(1, "r1") };
        let bound = Binding { forced_recovery: false, ..BOUND };
        for session in [None, token(Some("r1")), token(Some("gone"))] {
            assert!(matches!(begin(&view(vec![failed()]), session, bound, &mut picker()), Chosen::Nobody));
        }
        assert!(matches!(begin(&view(vec![failed(), usable(2, "r2")]), None, bound, &mut picker()), Chosen::Member(_)));
    }

    #[test]
    fn failed_members_are_tried_only_when_nobody_else_is_left_and_draining_ones_never() {
        let failed = || Member { standing: Standing::Failed, ..usable(1, "r1") };
        let draining = || Member { standing: Standing::Draining, ..usable(2, "r2") };
        let coming = || Member { standing: Standing::Coming, ..usable(3, "r3") };
        assert_eq!(told(begin(&view(vec![failed(), draining()]), None, BOUND, &mut picker())).0, "r1");
        assert!(matches!(begin(&view(vec![draining()]), None, BOUND, &mut picker()), Chosen::Nobody));
        assert!(matches!(begin(&view(vec![failed(), coming()]), None, BOUND, &mut picker()), Chosen::Wait));
        let ejected = || Member { standing: Standing::Failed, ejected: true, set: 9, ..usable(5, "r5") };
        let all = view(vec![failed(), draining(), ejected()]);
        assert_eq!(told(begin(&all, None, BOUND, &mut picker())).0, "r5");
        assert_eq!(told(another(&all, None, &[5], BOUND, &mut picker(), NOW)).0, "r1");
        assert!(matches!(another(&all, None, &[5, 1], BOUND, &mut picker(), NOW), Chosen::Nobody));
        let busy = view(vec![failed(), usable(4, "r4")]);
        assert_eq!(told(another(&busy, None, &[4], BOUND, &mut picker(), NOW)).0, "r1", "who was tried is no hope");
        assert!(matches!(another(&busy, None, &[4, 1], BOUND, &mut picker(), NOW), Chosen::Nobody));
        assert!(matches!(begin(&view(vec![]), None, BOUND, &mut picker()), Chosen::Nobody));
    }
}
