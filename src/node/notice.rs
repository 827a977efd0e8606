//! The notice board: keeps what every worker and every page may know of the cluster.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};

use super::House;
use crate::{
    limits,
    membership::{NodeMember, RosterChanged},
    names::Route,
    observe::{PeerReport, SessionCounts},
    webapp::{Follows, MemberInfo, NodeInfo},
};

/// Publishes the roster, and the page's picture of it.
pub struct Notice {
    house: Arc<House>,
    /// As last measured.
    measured: Measured,
}

/// What changes without anybody saying so.
#[derive(Debug, Default, PartialEq)]
struct Measured {
    peers: Vec<(Route, Follows)>,
    sessions: SessionCounts,
}

/// This node's own duty has changed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct NewDuty;

impl Notice {
    /// Publishes in `house`.
    pub fn new(house: Arc<House>) -> Self {
        Self { house, measured: Measured::default() }
    }

    fn publish(&self) {
        let members = members(&self.house, &self.measured.peers);
        let info = NodeInfo::new(&self.house.route, &members, self.measured.sessions);
        self.house.info.store(Arc::new(info));
    }

    /// Asks every link how far its peer is. What a page shows is at most [`limits::NOTICE_INTERVAL`] old and costs the
    /// request nothing.
    fn measure(&mut self, context: &mut Context<Self>) {
        let house = self.house.clone();
        let report = async move { house.report().await }.into_actor(self).map(|report, this, _| {
            let peers = report.peers.iter().map(follows).collect();
            let measured = Measured { peers, sessions: report.sessions };
            if measured != this.measured {
                this.measured = measured;
                this.publish();
            }
        });
        context.spawn(report);
    }
}

fn follows(peer: &PeerReport) -> (Route, Follows) {
    (peer.route.clone(), Follows { in_sync: peer.in_sync, lag_ms: peer.lag_ms })
}

/// All nodes in the order of their routes.
fn members(house: &House, peers: &[(Route, Follows)]) -> Vec<MemberInfo> {
    let follows = |route: &Route| peers.iter().find(|(peer, _)| peer == route).map(|(_, follows)| *follows);
    let other = |node: NodeMember| MemberInfo {
        follows: follows(&node.route),
        route: node.route,
        duty: node.duty,
        me: false,
        life: node.id,
    };
    let me = MemberInfo { route: house.route.clone(), duty: house.duty.get(), me: true, life: house.me, follows: None };
    let mut members: Vec<_> = house.roster.load().nodes().map(other).chain([me]).collect();
    members.sort_by(|a, b| a.route.cmp(&b.route));
    members
}

impl Actor for Notice {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(limits::NOTICE_INTERVAL, Self::measure);
    }
}

impl Handler<RosterChanged> for Notice {
    type Result = ();

    fn handle(&mut self, RosterChanged(roster): RosterChanged, _: &mut Self::Context) {
        if roster.nodes().next().is_some() {
            self.house.had_others.store(true, Relaxed);
        }
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
