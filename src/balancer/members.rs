//! The members: membership's roster, the members named in the file, what health checks say, merged into one view.
//!
//! A state machine without a clock or a socket; the actor feeds it. The rules of the merge:
//!
//! - One member for each route. A node on the roster is where the roster says; weight and standby are the file's.
//! - A route under a new `NodeId` (or a new address) is a new life: unknown health, counters at zero, new connections.
//!   While an old life is still on the roster beside it, the one that appeared last counts.
//! - A node that leaves the roster is removed, unless the file names it too: then the health checks decide.
//! - What a node wants (its duty) it says twice: to membership and to health checks. The later word counts.
//! - What requests meet takes out no more than a part of the members; a health check may take out any.

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    health::{Ejection, Health, Phase, Rules},
    view::{Counters, Member, Standing, View, Warming},
};
use crate::{
    limits,
    membership::{Duty, NodeMember, Roster},
    names::{NodeId, Route},
    settings::StaticMember,
    time::Moment,
};

/// Everything known of the members.
#[derive(Debug)]
pub(crate) struct Members {
    rules: Rules,
    /// In the order of their routes.
    entries: Vec<Entry>,
    /// Nodes of the last roster.
    seen: HashSet<NodeId>,
    /// Routes that left, the latest last: who comes back under one of them starts slowly.
    left: VecDeque<Route>,
    last_serial: u64,
}

/// A health check to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// Which life of which member is asked.
    pub(crate) serial: u64,
    /// Where.
    pub(crate) address: SocketAddr,
    /// Whom.
    pub(crate) kind: Kind,
}

/// Whether a member is known to be a tasuki node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Membership knows it.
    Node,
    /// Only the file names it: it may be any server.
    Foreign,
}

/// What a health check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answers, and wants this.
    Alive(Duty),
    /// It does not answer, or with an error.
    Dead,
}

/// What a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No connection.
    Refused,
    /// Broken, or no answer in time.
    NoAnswer,
    /// The node said it does not take requests now: worth asking why.
    SentAway,
    /// As many answers in a row as a member may fail were of `balancer.fail_on_status`, or late.
    Errors,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    route: Route,
    address: SocketAddr,
    /// Its life, if membership knows it.
    node: Option<NodeId>,
    /// The file names it.
    fixed: Option<StaticMember>,
    duty: Duty,
    /// What membership said last.
    announced: Option<Duty>,
    health: Health,
    ejection: Ejection,
    counters: Arc<Counters>,
    /// A check is under way.
    asked: bool,
    /// It serves.
    serves: bool,
    /// It, or an earlier life of its route, has served.
    served: bool,
    /// When it came to serve again.
    returned: Option<Moment>,
}

impl Members {
    /// With the members of the file, all still unknown.
    pub(crate) fn new(rules: Rules, fixed: &[StaticMember], now: Moment) -> Self {
        let mut members =
            Self { rules, entries: Vec::new(), seen: HashSet::new(), left: VecDeque::new(), last_serial: 0 };
        for member in fixed.iter().take(limits::MEMBERS) {
            let entry = members.life(member.route.clone(), member.address, now);
            members.insert(Entry { fixed: Some(member.clone()), duty: Duty::Serving, ..entry });
        }
        members
    }

    /// Takes over membership's list. Returns how many nodes found no place ([`limits::MEMBERS`]).
    pub(crate) fn roster(&mut self, roster: &Roster, now: Moment) -> usize {
        let nodes: Vec<NodeMember> = roster.nodes().collect();
        self.forget_missing(&nodes, now);
        let mut refused = 0;
        for node in &nodes {
            if self.elect(&nodes, &node.route) == Some(node.id) && !self.place(node, now) {
                refused += 1;
            }
        }
        self.seen = nodes.iter().map(|node| node.id).collect();
        self.settle(now);
        refused
    }

    /// Takes over the result of a check; one of a former life is ignored.
    pub(crate) fn checked(&mut self, serial: u64, verdict: Verdict, now: Moment) {
        let rules = &self.rules;
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.serial == serial) else { return };
        entry.asked = false;
        entry.counters.heard();
        match verdict {
            Verdict::Alive(duty) => {
                entry.health.good(rules, now);
                if matches!(entry.health.phase(), Phase::Good { .. }) {
                    entry.counters.cleared();
                }
                entry.wants(duty, now);
                if entry.duty != Duty::Serving {
                    entry.health.soon(rules, now);
                }
            }
            Verdict::Dead => entry.health.bad(rules, now),
        }
        self.settle(now);
    }

    /// Takes over what a request met.
    pub(crate) fn trouble(&mut self, serial: u64, trouble: Trouble, now: Moment) {
        let rules = &self.rules;
        let out = self.entries.iter().filter(|entry| entry.standing() != Standing::Usable).count();
        let may_eject = rules.may_eject(out, self.entries.len());
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.serial == serial) else { return };
        entry.counters.heard();
        match trouble {
            Trouble::Refused => entry.health.refused(rules, now),
            Trouble::NoAnswer if entry.health.is_last_chance(rules) && !may_eject => entry.health.stir(now),
            Trouble::NoAnswer => entry.health.bad(rules, now),
            Trouble::Errors if may_eject && entry.standing() == Standing::Usable => entry.ejection.begin(rules, now),
            Trouble::Errors => {}
            Trouble::SentAway => entry.health.stir(now),
        }
        self.settle(now);
    }

    /// Ends the ejections that are over. True when there were any.
    pub(crate) fn release(&mut self, now: Moment) -> bool {
        let mut released = false;
        for entry in &mut self.entries {
            if entry.ejection.end(now) {
                entry.counters.absolved();
                released = true;
            }
        }
        if released {
            self.settle(now);
        }
        released
    }

    /// A node has accepted a new duty from this balancer: no need to wait until it says so itself.
    pub(crate) fn duty(&mut self, route: &Route, duty: Duty, now: Moment) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.route == *route) {
            entry.wants(duty, now);
        }
        self.settle(now);
    }

    /// The checks that are due; each counts as under way until its result is taken over.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<Check> {
        let due = self.entries.iter_mut().filter(|entry| !entry.asked && entry.health.is_due(now));
        due.map(|entry| {
            entry.asked = true;
            let kind = if entry.node.is_some() { Kind::Node } else { Kind::Foreign };
            Check { serial: entry.serial, address: entry.address, kind }
        })
        .collect()
    }

    /// What requests may see.
    pub(crate) fn view(&self) -> View {
        View { members: self.entries.iter().map(|entry| Arc::new(entry.member(&self.rules))).collect() }
    }

    /// Which of several lives of one route counts: one that was not there before, else the known one, else the one
    /// that wants most.
    fn elect(&self, nodes: &[NodeMember], route: &Route) -> Option<NodeId> {
        let lives = || nodes.iter().filter(|node| node.route == *route);
        let eager = |node: &&NodeMember| match node.duty {
            Duty::Serving => 2,
            Duty::Starting => 1,
            Duty::Draining => 0,
        };
        let known = self.entries.iter().find(|entry| entry.route == *route).and_then(|entry| entry.node);
        let fresh = lives().filter(|node| !self.seen.contains(&node.id)).max_by_key(eager);
        let kept = || lives().find(|node| Some(node.id) == known);
        fresh.or_else(kept).or_else(|| lives().max_by_key(eager)).map(|node| node.id)
    }

    /// Nodes that left: those that the file names go back to the file's address.
    fn forget_missing(&mut self, nodes: &[NodeMember], now: Moment) {
        let gone = |entry: &Entry| entry.node.is_some() && !nodes.iter().any(|node| node.route == entry.route);
        for entry in self.entries.iter().filter(|entry| gone(entry) && entry.served) {
            self.left.retain(|route| *route != entry.route);
            self.left.push_back(entry.route.clone());
        }
        self.left.drain(..self.left.len().saturating_sub(limits::MEMBERS));
        self.entries.retain(|entry| entry.fixed.is_some() || !gone(entry));
        let orphans: Vec<usize> = (0..self.entries.len()).filter(|index| gone(&self.entries[*index])).collect();
        for index in orphans {
            let Some(fixed) = self.entries[index].fixed.clone() else { continue };
            let entry = &mut self.entries[index];
            (entry.node, entry.announced) = (None, None);
            if entry.address != fixed.address {
                let served = entry.served;
                let life = self.life(fixed.route.clone(), fixed.address, now);
                self.entries[index] = Entry { fixed: Some(fixed), duty: Duty::Serving, served, ..life };
            } else {
                entry.health.stir(now);
            }
        }
    }

    /// False when there is no place for another member.
    fn place(&mut self, node: &NodeMember, now: Moment) -> bool {
        let Some(index) = self.entries.iter().position(|entry| entry.route == node.route) else {
            if self.entries.len() >= limits::MEMBERS {
                return false;
            }
            let served = self.left.contains(&node.route);
            let life = self.life(node.route.clone(), node.http, now);
            self.insert(Entry { served, ..life.announced_by(node) });
            return true;
        };
        let entry = &mut self.entries[index];
        let first_named = entry.node.is_none() && entry.address == node.http;
        if entry.address == node.http && (first_named || entry.node == Some(node.id)) {
            entry.node = Some(node.id);
            if entry.announced.replace(node.duty) != Some(node.duty) {
                entry.wants(node.duty, now);
            }
            return true;
        }
        let (fixed, served) = (entry.fixed.take(), entry.served);
        let life = self.life(node.route.clone(), node.http, now);
        self.entries[index] = Entry { fixed, served, ..life.announced_by(node) };
        true
    }

    fn life(&mut self, route: Route, address: SocketAddr, now: Moment) -> Entry {
        self.last_serial += 1;
        Entry {
            serial: self.last_serial,
            route,
            address,
            node: None,
            fixed: None,
            duty: Duty::Starting,
            announced: None,
            health: Health::new(now),
            ejection: Ejection::default(),
            counters: Arc::default(),
            asked: false,
            serves: false,
            served: false,
            returned: None,
        }
    }

    /// Notes who has come to serve, and who does not any more.
    fn settle(&mut self, now: Moment) {
        for entry in &mut self.entries {
            let serves = entry.standing() == Standing::Usable;
            if serves && !entry.serves {
                entry.returned = entry.served.then_some(now);
                entry.served = true;
            }
            entry.serves = serves;
        }
    }

    fn insert(&mut self, entry: Entry) {
        let place = self.entries.partition_point(|other| other.route < entry.route);
        self.entries.insert(place, entry);
    }
}

impl Entry {
    fn announced_by(self, node: &NodeMember) -> Self {
        Self { node: Some(node.id), duty: node.duty, announced: Some(node.duty), ..self }
    }

    fn wants(&mut self, duty: Duty, now: Moment) {
        if self.duty != duty {
            self.duty = duty;
            self.health.stir(now);
        }
    }

    fn standing(&self) -> Standing {
        match (self.health.phase(), self.duty) {
            (Phase::New { asked: true } | Phase::Failed { .. }, Duty::Serving) => Standing::Failed,
            (Phase::Failed { .. }, Duty::Starting) => Standing::Failed,
            (_, Duty::Draining) => Standing::Draining,
            (Phase::New { .. }, _) | (_, Duty::Starting) => Standing::Coming,
            (Phase::Good { .. }, Duty::Serving) if self.ejection.is_on() => Standing::Failed,
            (Phase::Good { .. }, Duty::Serving) => Standing::Usable,
        }
    }

    fn member(&self, rules: &Rules) -> Member {
        let span = rules.slow_start;
        Member {
            serial: self.serial,
            route: self.route.clone(),
            address: self.address,
            weight: self.fixed.as_ref().map_or(DEFAULT_WEIGHT, |fixed| fixed.weight),
            standby: self.fixed.as_ref().is_some_and(|fixed| fixed.standby),
            set: self.fixed.as_ref().map_or(0, |fixed| fixed.set),
            warming: self.returned.filter(|_| !span.is_zero()).map(|since| Warming { since, span }),
            ejected: self.ejection.is_on(),
            most: rules.member_connections,
            duty: self.duty,
            standing: self.standing(),
            counters: self.counters.clone(),
        }
    }
}

/// The weight of a node that the file does not name: the seeds' loadfactor.
const DEFAULT_WEIGHT: u8 = 50;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::membership::{Member as ClusterMember, Role};

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

    #[test]
    fn a_flood_of_nodes_is_cut() {
        let flood = (0..limits::MEMBERS as u64 + 3).map(|id| node(id, &format!("n{id}"), Duty::Serving)).collect();
        let mut members = none();
        assert_eq!(members.roster(&roster(flood), NOW), 3);
        assert_eq!(members.view().members.len(), limits::MEMBERS);
    }
}
