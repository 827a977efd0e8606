//! One member, as far as it is known.

use std::{net::SocketAddr, sync::Arc};

use super::super::{
    health::{Ejection, Health, Phase, Rules},
    orders::{InFile, Orders, Set},
    view::{Counters, Member, Standing, Warming},
};
use crate::{
    membership::{Duty, NodeMember},
    names::{NodeId, Route},
    observe::{Admin, Terms},
    settings::StaticMember,
    time::Moment,
};

/// A member in one of its lives.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) serial: u64,
    pub(super) route: Route,
    pub(super) address: SocketAddr,
    /// Its life, if membership knows it.
    pub(super) node: Option<NodeId>,
    /// The file names it.
    pub(super) fixed: Option<StaticMember>,
    pub(super) duty: Duty,
    /// What membership said last.
    pub(super) announced: Option<Duty>,
    pub(super) health: Health,
    pub(super) ejection: Ejection,
    pub(super) counters: Arc<Counters>,
    /// A check is under way.
    pub(super) asked: bool,
    /// It serves.
    pub(super) serves: bool,
    /// It, or an earlier life of its route, has served.
    pub(super) served: bool,
    /// When it came to serve again.
    pub(super) returned: Option<Moment>,
    /// It is being told to drain.
    pub(super) telling: bool,
}

/// What an administrator has set of a member.
pub(super) fn set_of(orders: &Orders, entry: &Entry) -> Set {
    orders.get(&entry.route).copied().unwrap_or_default()
}

impl Entry {
    pub(super) fn announced_by(self, node: &NodeMember) -> Self {
        Self { node: Some(node.id), duty: node.duty, announced: Some(node.duty), ..self }
    }

    pub(super) fn wants(&mut self, duty: Duty, now: Moment) {
        if self.duty != duty {
            self.duty = duty;
            self.health.stir(now);
        }
    }

    pub(super) fn standing(&self, admin: Admin) -> Standing {
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

    pub(super) fn member(&self, rules: &Rules, set: Set) -> Member {
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
