//! The members: membership's roster, the members named in the file, what health checks say, merged into one view.
//!
//! A state machine without a clock or a socket; the actor feeds it. The rules of the merge:
//!
//! - One member for each route. A node on the roster is where the roster says; weight and standby are the file's.
//! - A route under a new `NodeId` (or a new address) is a new life: unknown health, counters at zero, new connections.
//!   While an old life is still on the roster beside it, the one that appeared last counts.
//! - A node that leaves the roster is removed, unless the file names it too: then the health checks decide.
//! - What an administrator has set counts before the file and before what the member wants, in every life of it.
//! - What a node wants (its duty) it says twice: to membership and to health checks. The later word counts.
//! - What requests meet takes out no more than a part of the members; a health check may take out any.

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    health::{Ejection, Health, Phase, Rules},
    orders::{Change, InFile, Orders, Set},
    view::{Counters, Member, Standing, View, Warming},
};
use crate::{
    limits,
    membership::{Duty, NodeMember, Roster},
    names::{NodeId, Route},
    observe::{Admin, Terms},
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
    /// What an administrator has set, of members that are away too.
    orders: Orders,
}

/// A node that serves although it is not to: it does not know yet, or has begun a new life since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untold {
    /// Which life of it.
    pub(crate) serial: u64,
    /// Where it is told.
    pub(crate) address: SocketAddr,
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
    /// It is being told to drain.
    telling: bool,
}

impl Members {
    /// With the members of the file and nothing set.
    #[cfg(test)]
    pub(crate) fn new(rules: Rules, fixed: &[StaticMember], now: Moment) -> Self {
        Self::with_orders(rules, fixed, Orders::new(), now)
    }

    /// With the members of the file, all still unknown, and what an administrator has set before.
    pub(crate) fn with_orders(rules: Rules, fixed: &[StaticMember], orders: Orders, now: Moment) -> Self {
        let mut members =
            Self { rules, entries: Vec::new(), seen: HashSet::new(), left: VecDeque::new(), last_serial: 0, orders };
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
        let is_usable = |entry: &Entry| entry.standing(set_of(&self.orders, entry).admin()) == Standing::Usable;
        let out = self.entries.iter().filter(|entry| !is_usable(entry)).count();
        let may_eject = rules.may_eject(out, self.entries.len());
        let serves = self.entries.iter().find(|entry| entry.serial == serial).is_some_and(is_usable);
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.serial == serial) else { return };
        entry.counters.heard();
        match trouble {
            Trouble::Refused => entry.health.refused(rules, now),
            Trouble::NoAnswer if entry.health.is_last_chance(rules) && !may_eject => entry.health.stir(now),
            Trouble::NoAnswer => entry.health.bad(rules, now),
            Trouble::Errors if may_eject && serves => entry.ejection.begin(rules, now),
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

    /// Takes over what an administrator sets. False when there is no such member.
    pub(crate) fn set(&mut self, route: &Route, change: Change, now: Moment) -> bool {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.route == *route) else { return false };
        let before = self.orders.get(route).copied().unwrap_or_default();
        let set = before.with(change, InFile::of(entry.fixed.as_ref()));
        if set == Set::default() {
            self.orders.remove(route);
        } else {
            if self.orders.len() >= limits::MEMBERS {
                let is_here = |route: &Route| self.entries.iter().any(|entry| entry.route == *route);
                let away = self.orders.keys().find(|route| !is_here(route)).cloned();
                away.and_then(|away| self.orders.remove(&away));
            }
            self.orders.insert(route.clone(), set);
        }
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.route == *route) {
            entry.health.stir(now);
        }
        self.settle(now);
        true
    }

    /// Takes over what another process was told. False when that is known here.
    pub(crate) fn adopt(&mut self, orders: Orders, now: Moment) -> bool {
        let is_new = orders != self.orders;
        if is_new {
            self.orders = orders;
            self.entries.iter_mut().for_each(|entry| entry.health.stir(now));
            self.settle(now);
        }
        is_new
    }

    /// What an administrator has set, to be kept.
    pub(crate) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// The nodes that have to be told to drain; each counts as being told until [`Members::told`].
    pub(crate) fn untold(&mut self) -> Vec<Untold> {
        let orders = &self.orders;
        let is_off = |route: &Route| orders.get(route).is_some_and(|set| set.admin() != Admin::Enabled);
        let entries = self.entries.iter_mut();
        let untold =
            entries.filter(|entry| entry.node.is_some() && entry.duty == Duty::Serving && is_off(&entry.route));
        untold
            .filter_map(|entry| {
                let tells = !std::mem::replace(&mut entry.telling, true);
                tells.then_some(Untold { serial: entry.serial, address: entry.address })
            })
            .collect()
    }

    /// A node was told to drain, or could not be: then it is told again when it answers a check.
    pub(crate) fn told(&mut self, serial: u64, accepted: bool, now: Moment) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.serial == serial) {
            entry.telling = false;
            if accepted {
                entry.wants(Duty::Draining, now);
            }
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
        let member = |entry: &Entry| Arc::new(entry.member(&self.rules, set_of(&self.orders, entry)));
        View { members: self.entries.iter().map(member).collect() }
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
            telling: false,
        }
    }

    /// Notes who has come to serve, and who does not any more.
    fn settle(&mut self, now: Moment) {
        for entry in &mut self.entries {
            let serves = entry.standing(set_of(&self.orders, entry).admin()) == Standing::Usable;
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

/// What an administrator has set of a member.
fn set_of(orders: &Orders, entry: &Entry) -> Set {
    orders.get(&entry.route).copied().unwrap_or_default()
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

    fn standing(&self, admin: Admin) -> Standing {
        match admin {
            Admin::Disabled => return Standing::Disabled,
            Admin::Drained => return Standing::Draining,
            Admin::Enabled => {}
        }
        match (self.health.phase(), self.duty) {
            (Phase::New { asked: true } | Phase::Failed { .. }, Duty::Serving) => Standing::Failed,
            (Phase::Failed { .. }, Duty::Starting) => Standing::Failed,
            (_, Duty::Draining) => Standing::Draining,
            (Phase::New { .. }, _) | (_, Duty::Starting) => Standing::Coming,
            (Phase::Good { .. }, Duty::Serving) if self.ejection.is_on() => Standing::Failed,
            (Phase::Good { .. }, Duty::Serving) => Standing::Usable,
        }
    }

    fn member(&self, rules: &Rules, set: Set) -> Member {
        let span = rules.slow_start;
        let Terms { admin, weight, standby, differs } = set.terms(InFile::of(self.fixed.as_ref()));
        let is_well = matches!(self.health.phase(), Phase::Good { .. }) && self.duty == Duty::Serving;
        Member {
            serial: self.serial,
            route: self.route.clone(),
            address: self.address,
            weight,
            standby,
            set: self.fixed.as_ref().map_or(0, |fixed| fixed.set),
            warming: self.returned.filter(|_| !span.is_zero()).map(|since| Warming { since, span }),
            ejected: self.ejection.is_on(),
            most: rules.member_connections,
            duty: self.duty,
            standing: self.standing(admin),
            keeps_sessions: admin == Admin::Drained && self.node.is_none() && is_well,
            is_node: self.node.is_some(),
            admin,
            differs,
            counters: self.counters.clone(),
        }
    }
}

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
}
