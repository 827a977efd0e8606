//! The balancer's actor: owns the members, makes the health checks, publishes the view. Never on a request's path.

use std::{io, sync::Arc, time::Duration};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, ResponseActFuture, WrapFuture,
    dev::MessageResponse,
};

use super::{
    control,
    keeper::{Keeper, Read, Turn},
    kept::{Kept, Unreadable},
    members::{Check, Members, Trouble, Untold, Verdict},
    orders::{Change, Orders},
    rules::Rules,
    view::{MemberReport, Standing},
};
use crate::{
    limits,
    membership::{Duty, RosterChanged},
    names::Route,
    time::Moment,
};

/// Owns what is known of the members.
pub struct Balancer {
    members: Members,
    rules: Arc<Rules>,
    /// Where what is set is kept; none in tests.
    keeper: Option<Keeper>,
    /// The longest wait for a health check.
    patience: Duration,
    /// Membership has found what there is to find.
    discovered: bool,
}

/// Asks how the members are.
#[derive(Debug, Message)]
#[rtype(result = "Vec<MemberReport>")]
pub struct Observe;

/// Asks whether there is a member that serves, and none of which more is to be heard soon.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct IsSettled;

/// A request met trouble.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Met {
    pub(crate) serial: u64,
    pub(crate) trouble: Trouble,
}

/// A node has accepted a new duty from the manager.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct DutyAccepted {
    pub(crate) route: Route,
    pub(crate) duty: Duty,
}

/// An administrator sets something of a member.
#[derive(Debug, Message)]
#[rtype(result = "Done")]
pub(crate) struct SetMember {
    pub(crate) route: Route,
    pub(crate) change: Change,
}

/// What became of it.
#[derive(Debug, MessageResponse)]
pub(crate) enum Done {
    /// It holds, and is kept.
    Kept,
    /// It holds until the balancer ends: it could not be written, for this reason.
    NotKept(String),
    /// There is no such member.
    NoMember,
}

/// Where an order is kept.
enum Place {
    /// As in tests.
    Nowhere,
    Ours(Turn),
    /// The disk does not answer.
    Hangs,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Told {
    serial: u64,
    accepted: bool,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Checked {
    serial: u64,
    verdict: Verdict,
}

impl Balancer {
    /// Starts the actor on this thread. `patience` bounds a health check, beside [`limits::PROBE_TIMEOUT`].
    pub(crate) fn start_with(
        members: Members,
        rules: Arc<Rules>,
        kept: Option<Kept>,
        patience: Duration,
    ) -> Addr<Self> {
        let patience = patience.min(limits::PROBE_TIMEOUT);
        Self { members, rules, keeper: kept.map(Keeper::new), patience, discovered: false }.start()
    }

    /// A node that was drained and has begun a new life does not know it: it is told again.
    fn tell_untold(&mut self, ctx: &mut Context<Self>) {
        for Untold { serial, address } in self.members.untold() {
            let me = ctx.address();
            actix::spawn(async move {
                let accepted = control::tell_duty(address, Duty::Draining).await.is_ok_and(|(s, _)| s.is_success());
                me.do_send(Told { serial, accepted });
            });
        }
    }

    /// Takes over what another process of this balancer was told, which takes this one's place or leaves it. While an order
    /// uses the file that is left to it.
    fn read_orders(&mut self, ctx: &mut Context<Self>) {
        let Some(turn) = self.keeper.as_ref().and_then(Keeper::turn_at_once) else { return };
        // The turn lasts until the news are taken over: an order in between would be lost.
        let read = turn.read().into_actor(self).map(|Read { turn: _turn, news }, this, ctx| this.adopt(news, ctx));
        ctx.spawn(read);
    }

    fn adopt(&mut self, news: Option<Result<Orders, Unreadable>>, ctx: &mut Context<Self>) {
        let (Some(news), Some(keeper)) = (news, &self.keeper) else { return };
        let file = keeper.kept.path();
        match news {
            Ok(orders) => {
                if self.members.adopt(orders, Moment::now()) {
                    tracing::info!(file = %file.display(), "set by an administrator in another process");
                    self.publish();
                    self.check_due(ctx);
                    self.tell_untold(ctx);
                }
            }
            Err(why) => tracing::warn!("{}: {why}; what was set before still holds", file.display()),
        }
    }

    /// False when there is no such member.
    fn set(&mut self, route: &Route, change: Change, ctx: &mut Context<Self>) -> bool {
        let is_set = self.members.set(route, change, Moment::now());
        if is_set {
            tracing::info!(%route, ?change, "set by an administrator");
            self.publish();
            self.check_due(ctx);
        }
        is_set
    }

    fn publish(&self) {
        let (old, new) = (self.rules.published.view(), self.members.view());
        for member in &new.members {
            let before = old.named(member.route.as_str()).map(|old| old.standing);
            if before != Some(member.standing) {
                tell(&member.route, before, member.standing);
            }
        }
        for gone in old.members.iter().filter(|old| new.named(old.route.as_str()).is_none()) {
            tracing::info!(route = %gone.route, "member left");
        }
        self.rules.published.publish(new);
    }

    fn check_due(&mut self, ctx: &mut Context<Self>) {
        if self.members.release(Moment::now()) {
            self.publish();
        }
        let (me, patience) = (ctx.address(), self.patience);
        for Check { serial, address, kind } in self.members.due(Moment::now()) {
            let me = me.clone();
            actix::spawn(async move {
                let verdict = control::check(address, kind, patience).await;
                me.do_send(Checked { serial, verdict });
            });
        }
    }
}

fn tell(route: &Route, before: Option<Standing>, now: Standing) {
    match now {
        Standing::Failed => tracing::warn!(%route, "member failed"),
        _ => tracing::info!(%route, ?before, ?now, "member changed"),
    }
}

impl Actor for Balancer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.publish();
        self.check_due(ctx);
        ctx.run_interval(limits::PROBE_TICK, Self::check_due);
        ctx.run_interval(limits::ORDERS_POLL, Self::read_orders);
    }
}

impl Handler<RosterChanged> for Balancer {
    type Result = ();

    fn handle(&mut self, RosterChanged(roster): RosterChanged, ctx: &mut Self::Context) {
        self.discovered = roster.discovered;
        let cut = self.members.roster(&roster, Moment::now());
        if cut > 0 {
            tracing::warn!(cut, most = limits::MEMBERS, "more members than the balancer takes");
        }
        self.publish();
        self.check_due(ctx);
        self.tell_untold(ctx);
    }
}

impl Handler<Checked> for Balancer {
    type Result = ();

    fn handle(&mut self, Checked { serial, verdict }: Checked, ctx: &mut Self::Context) {
        self.members.checked(serial, verdict, Moment::now());
        self.publish();
        self.tell_untold(ctx);
    }
}

impl Handler<Told> for Balancer {
    type Result = ();

    fn handle(&mut self, Told { serial, accepted }: Told, _: &mut Self::Context) {
        self.members.told(serial, accepted, Moment::now());
        self.publish();
    }
}

impl Handler<SetMember> for Balancer {
    type Result = ResponseActFuture<Self, Done>;

    /// What another process was told comes first, then this, then the file: all in one turn, or both would be lost in part.
    fn handle(&mut self, SetMember { route, change }: SetMember, _: &mut Self::Context) -> Self::Result {
        let keeper = self.keeper.clone();
        let read = async move {
            match keeper.as_ref()?.turn().await {
                Some(turn) => Some(turn.read().await),
                None => Some(Read { turn: None, news: None }),
            }
        };
        Box::pin(read.into_actor(self).then(move |read, this, ctx| {
            let (place, news) = match read {
                None => (Place::Nowhere, None),
                Some(Read { turn: Some(turn), news }) => (Place::Ours(turn), news),
                Some(Read { turn: None, news }) => (Place::Hangs, news),
            };
            this.adopt(news, ctx);
            let is_set = this.set(&route, change, ctx);
            let orders = this.members.orders().clone();
            let file = this.keeper.as_ref().map(|keeper| keeper.kept.path().display().to_string()).unwrap_or_default();
            async move { if is_set { keep(place, orders, &file).await } else { Done::NoMember } }.into_actor(this)
        }))
    }
}

async fn keep(place: Place, orders: Orders, file: &str) -> Done {
    let written = match place {
        Place::Nowhere => return Done::Kept,
        Place::Hangs => Err(io::ErrorKind::TimedOut.into()),
        Place::Ours(turn) => turn.write(orders).await,
    };
    match written {
        Ok(()) => Done::Kept,
        Err(error) => {
            let why = format!("cannot write {file} (node.run): {error}");
            tracing::warn!("what was set holds until the balancer ends: {why}");
            Done::NotKept(why)
        }
    }
}

impl Handler<Met> for Balancer {
    type Result = ();

    fn handle(&mut self, Met { serial, trouble }: Met, ctx: &mut Self::Context) {
        self.members.trouble(serial, trouble, Moment::now());
        self.publish();
        self.check_due(ctx);
    }
}

impl Handler<DutyAccepted> for Balancer {
    type Result = ();

    fn handle(&mut self, DutyAccepted { route, duty }: DutyAccepted, ctx: &mut Self::Context) {
        self.members.duty(&route, duty, Moment::now());
        self.publish();
        self.check_due(ctx);
    }
}

impl Handler<Observe> for Balancer {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.rules.published.view().report(Moment::now()))
    }
}

impl Handler<IsSettled> for Balancer {
    type Result = bool;

    fn handle(&mut self, _: IsSettled, _: &mut Self::Context) -> bool {
        let view = self.rules.published.view();
        let standings = || view.members.iter().map(|member| member.standing);
        self.discovered && standings().any(|it| it == Standing::Usable) && standings().all(|it| it != Standing::Coming)
    }
}
