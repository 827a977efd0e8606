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
//! - Requests that meet broken connections, silence or errors take out no more than a part of the members; one that meets a
//!   refused connection may take out any, and so may a health check.

mod entry;
mod merge;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use self::entry::{Entry, set_of};
use super::{
    health::{Ejection, Health, Phase, Rules},
    orders::{Change, InFile, Orders, Set},
    view::{Standing, View},
};
use crate::{
    limits,
    membership::Duty,
    names::{NodeId, Route},
    observe::Admin,
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
    /// Nobody listens there.
    Refused,
    /// Broken, or no connection or no answer in time.
    NoAnswer,
    /// The node said it does not take requests now: worth asking why.
    SentAway,
    /// As many answers in a row as a member may fail were of `balancer.fail_on_status`, or late.
    Errors,
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
        View { members: self.entries.iter().map(member).collect(), left: self.left.iter().cloned().collect() }
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
