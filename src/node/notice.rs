//! The notice board: keeps what every worker and every page may know of the cluster.

use std::sync::Arc;

use actix::{Actor, Context, Handler, Message};

use super::House;
use crate::{
    membership::{Duty, Roster, RosterChanged},
    names::Route,
    webapp::{MemberInfo, NodeInfo},
};

/// Publishes the roster, and the page's picture of it.
pub struct Notice {
    house: Arc<House>,
}

/// This node's own duty has changed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct NewDuty;

impl Notice {
    /// Publishes in `house`.
    pub fn new(house: Arc<House>) -> Self {
        Self { house }
    }

    fn publish(&self) {
        let House { route, duty, roster, info, .. } = &*self.house;
        info.store(Arc::new(NodeInfo::new(route, &members(route, duty.get(), &roster.load()))));
    }
}

/// All nodes in the order of their routes.
pub(super) fn members(me: &Route, duty: Duty, roster: &Roster) -> Vec<MemberInfo> {
    let others = roster.nodes().map(|node| MemberInfo { route: node.route, duty: node.duty, me: false });
    let mut members: Vec<_> = others.collect();
    members.push(MemberInfo { route: me.clone(), duty, me: true });
    members.sort_by(|a, b| a.route.cmp(&b.route));
    members
}

impl Actor for Notice {
    type Context = Context<Self>;
}

impl Handler<RosterChanged> for Notice {
    type Result = ();

    fn handle(&mut self, RosterChanged(roster): RosterChanged, _: &mut Self::Context) {
        self.house.roster.store(roster);
        self.publish();
    }
}

impl Handler<NewDuty> for Notice {
    type Result = ();

    fn handle(&mut self, NewDuty: NewDuty, _: &mut Self::Context) {
        self.publish();
    }
}
