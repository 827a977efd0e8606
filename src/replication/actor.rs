//! The actor that tells the holders: a thin shell that gives the core its links, its clock and its callers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use actix::{Actor, AsyncContext, Context, Handler, Message, MessageResult, Recipient, ResponseFuture};
use bytes::BytesMut;
use tokio::{sync::oneshot, task::spawn_blocking};
use tracing::{debug, info, warn};

use super::{
    batch::Batch,
    core::{ClaimEnded, ClaimId, Core, CoreConfig, Lagging, Port, Queued, Serves, Wish},
    frame::{self, Request},
    greeting::Hello,
    ledger::{Verdict, WaitId},
    link::{Carried, FromLink, Link, LinkEvent},
    repair::Repaired,
    seal::LinkSeal,
    survey::{Found, Survey},
};
use crate::{
    limits,
    membership::{Duty, LinkBroken, NodeMember, Roster, RosterChanged},
    names::{ContextPath, NodeId, Route, SessionId},
    session::{
        Slots, Swept, Table,
        delta::Update,
        placement::{Place, Placement, Spread},
    },
    time::Moment,
};

/// Tells the holders what one worker commits, and asks them for what it lacks.
pub struct Replicator {
    core: Core<Table>,
    outside: Outside,
}

/// What a replicator is given at its start.
#[derive(Clone)]
pub struct ReplicatorConfig {
    /// The sessions of this node.
    pub table: Table,
    /// This node's name.
    pub route: Route,
    /// The cluster's name.
    pub cluster: String,
    /// How links are sealed.
    pub seal: LinkSeal,
    /// When a reply is released, and how long anything is waited for.
    pub rules: CoreConfig,
    /// How many nodes hold a session.
    pub spread: Spread,
    /// How many must hold what is answered, this one included.
    pub min_copies: usize,
    /// Bytes that may wait for a peer on the link of this replicator.
    pub queue_bytes: usize,
    /// Who repairs the peers and keeps the node's lease; none: this one does.
    pub exporter: Option<Recipient<PeerNeeds>>,
    /// Who hears that a peer's process is gone.
    pub gone: Recipient<LinkBroken>,
}

/// A peer may lack sessions: a link to it came up, or its queue was full.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct PeerNeeds(pub NodeId);

/// Tells the holders of a commit; answers when the reply may leave, and not at all when nobody can know any more.
#[derive(Debug, Message)]
#[rtype(result = "Option<Verdict>")]
pub struct Replicate(pub Update);

/// The node answers nothing any more: its lease ends now, and is asked for no more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Retire;

/// The duty of this node. One that drains tells the others what it holds, as long as it still can: see
/// [`Place::serves`].
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct OwnDuty(pub Duty);

/// Asks how many nodes would hold a commit of this session if it were made now, this one included.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "usize")]
pub struct WouldHold(pub SessionId);

/// Tells the holders that a session was used. Nobody waits for it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Touch(pub SessionId);

/// Asks for a session that this node does not own.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Claimed")]
pub struct Claim(pub Wish);

/// How a claim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// This node owns the session now.
    Owner,
    /// The node of this route owns it and serves: the request should go there.
    Elsewhere(Route),
    /// Nobody has it, or it has ended.
    Nothing,
    /// Others claim it at the same time; the request may be tried again.
    Contended,
}

/// Offers sessions to a node, which then claims them; answers whether it was sent.
#[derive(Clone, Debug, Message)]
#[rtype(result = "bool")]
pub struct Offer {
    /// The node.
    pub to: NodeId,
    /// The webapp of the sessions.
    pub context: ContextPath,
    /// At most [`limits::OFFER_SESSIONS`].
    pub ids: Vec<SessionId>,
}

/// Asks how the links are.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<LinkReport>")]
pub struct Observe;

/// One link, as its replicator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// The peer.
    pub peer: NodeId,
    /// Its name.
    pub route: Route,
    /// It is waited for.
    pub in_sync: bool,
    /// It was repaired since there was last a reason to.
    pub complete: bool,
    /// It confirms this node's lease, as far as this replicator keeps it: the two hear each other.
    pub is_heard: bool,
    /// Age of the oldest update it has not answered.
    pub lag: Duration,
    /// Updates under way.
    pub in_flight: usize,
    /// Bytes not yet written.
    pub queued_bytes: usize,
    /// Bytes written and read since this link was first opened, those of earlier connections included.
    pub traffic: Carried,
    /// What the repairs of the peer have come to. Only one replicator of a node repairs.
    pub repairs: Repairs,
}

/// Repairs of one peer since it joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Rounds that have ended, those that found nothing included.
    pub rounds: u64,
    /// Sessions that the peer was told, ended ones included.
    pub told: u64,
}

/// A survey that the core wanted has been run.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Surveyed(Found);

/// The world as the core may touch it.
struct Outside {
    config: ReplicatorConfig,
    drains: bool,
    links: BTreeMap<NodeId, Link>,
    links_opened: u64,
    repairs: BTreeMap<NodeId, Repairs>,
    roster: Arc<Roster>,
    waits: HashMap<WaitId, oneshot::Sender<Verdict>>,
    claims: HashMap<ClaimId, oneshot::Sender<Claimed>>,
    /// What the core decided at once, before its caller could begin to wait.
    at_once: Option<Verdict>,
    claimed_at_once: Option<Claimed>,
    /// Reasons for this replicator itself to repair a peer.
    needs: Vec<NodeId>,
    /// This replicator itself, once it runs.
    me: Option<Recipient<Surveyed>>,
}

impl Replicator {
    /// A replicator without links; it opens them when it hears of members.
    pub fn new(config: ReplicatorConfig) -> Self {
        let core = match &config.exporter {
            None => Core::keeping_lease(config.table.clone(), config.rules),
            Some(_) => Core::new(config.table.clone(), config.rules),
        };
        let core = core.with_min_copies(config.min_copies);
        let outside = Outside {
            config,
            drains: false,
            links: BTreeMap::new(),
            links_opened: 0,
            repairs: BTreeMap::new(),
            roster: Arc::default(),
            waits: HashMap::new(),
            claims: HashMap::new(),
            at_once: None,
            claimed_at_once: None,
            needs: Vec::new(),
            me: None,
        };
        Self { core, outside }
    }

    /// Lets the core act, and then does what it asked of this replicator itself.
    fn run<R>(&mut self, act: impl FnOnce(&mut Core<Table>, Moment, &mut Outside) -> R) -> R {
        let now = Moment::now();
        let result = act(&mut self.core, now, &mut self.outside);
        for peer in self.outside.needs.drain(..) {
            self.core.repair(peer, now);
        }
        result
    }

    /// Chooses the holders anew, when the nodes or their duties have changed.
    fn place(&mut self) {
        let placement = self.outside.placement();
        if self.outside.config.exporter.is_none() {
            self.outside.config.table.place(placement.clone(), Moment::now());
        }
        self.run(|core, now, _| core.place(placement, now));
    }
}

impl Outside {
    fn name(&self, peer: NodeId) -> String {
        self.roster.node(peer).map_or_else(|| peer.to_string(), |node| node.route.to_string())
    }

    /// Who holds what among the live nodes and this one. As one that starts it takes itself for a holder already: it is about
    /// to be one.
    fn placement(&self) -> Placement {
        let me = Place { node: self.config.table.me(), route: self.config.route.clone(), serves: !self.drains };
        let serves = |node: &NodeMember| node.duty == Duty::Serving;
        let others = self.roster.nodes().map(|node| Place { node: node.id, serves: serves(&node), route: node.route });
        Placement::new(self.config.spread, others.chain([me]))
    }

    /// Queues what a repair tells.
    fn queue_told(&self, peer: NodeId, put: impl FnOnce(&mut BytesMut)) -> Queued {
        let has_room = |link: &&Link| link.queued_bytes() < limits::REPAIR_QUEUE_BYTES;
        self.links.get(&peer).filter(has_room).map_or(Queued::Full, |link| link.queue(put))
    }

    fn open(&mut self, node: NodeMember, ctx: &Context<Replicator>) {
        let config = &self.config;
        self.links.entry(node.id).or_insert_with(|| {
            self.links_opened += 1;
            let hello = Hello::new(&config.cluster, config.table.me(), config.route.clone(), node.id);
            Link::open(
                self.links_opened,
                node,
                hello,
                config.seal.clone(),
                config.queue_bytes,
                ctx.address().recipient(),
            )
        });
    }
}

impl Repairs {
    fn add(&mut self, Repaired { told, .. }: Repaired) {
        self.rounds += 1;
        self.told += told as u64;
    }
}

impl Port for Outside {
    fn send(&mut self, peer: NodeId, request: &Request) -> Queued {
        self.links.get(&peer).map_or(Queued::Full, |link| link.queue(|out| frame::put_request(out, request)))
    }

    fn send_update(&mut self, peer: NodeId, update: &Update) -> Queued {
        self.links.get(&peer).map_or(Queued::Full, |link| link.queue(|out| frame::put_update(out, update)))
    }

    fn send_copy(&mut self, peer: NodeId, update: &Update) -> Queued {
        self.queue_told(peer, |out| frame::put_update(out, update))
    }

    fn send_batch(&mut self, peer: NodeId, batch: &Batch) -> Queued {
        self.queue_told(peer, |out| frame::put_request(out, &Request::Copies(batch.clone())))
    }

    fn settled(&mut self, wait: WaitId, verdict: Verdict) {
        match self.waits.remove(&wait) {
            // The request may have been given up meanwhile.
            Some(reply) => drop(reply.send(verdict)),
            None => self.at_once = Some(verdict),
        }
    }

    fn claimed(&mut self, claim: ClaimId, ended: ClaimEnded) {
        let claimed = match ended {
            ClaimEnded::Owner => Claimed::Owner,
            ClaimEnded::Nothing => Claimed::Nothing,
            ClaimEnded::Contended => Claimed::Contended,
            ClaimEnded::Elsewhere(node) => {
                self.roster.node(node).map_or(Claimed::Contended, |node| Claimed::Elsewhere(node.route))
            }
        };
        match self.claims.remove(&claim) {
            Some(answer) => drop(answer.send(claimed)),
            None => self.claimed_at_once = Some(claimed),
        }
    }

    fn needs(&mut self, peer: NodeId) {
        match &self.config.exporter {
            // At events of links and once a tick, so the mailbox needs no bound; a lost reason would leave a peer without
            // sessions.
            Some(exporter) => exporter.do_send(PeerNeeds(peer)),
            None => self.needs.push(peer),
        }
    }

    fn lagging(&mut self, peer: NodeId, why: Lagging) {
        let reason = match why {
            Lagging::Silent => "it did not acknowledge in time",
            Lagging::Full => "it takes less than it is sent",
        };
        warn!(peer = self.name(peer), "not waited for until it has caught up: {reason}");
    }

    fn caught_up(&mut self, peer: NodeId) {
        info!(peer = self.name(peer), "it has caught up and is waited for again");
    }

    fn survey(&mut self, survey: Survey) {
        let (table, me) = (self.config.table.clone(), self.me.clone());
        // On a thread of its own: this one keeps the lease. If it cannot tell what it found, the process is going down.
        spawn_blocking(move || {
            let found = survey.run(&table);
            if let Some(me) = me {
                me.do_send(Surveyed(found));
            }
        });
    }

    fn repaired(&mut self, peer: NodeId, report: Repaired) {
        self.repairs.entry(peer).or_default().add(report);
        let (peer, took_ms) = (self.name(peer), report.took.as_millis());
        let Repaired { sessions, differing, listed, told, left, .. } = report;
        if told + left > 0 {
            info!(peer, sessions, differing, listed, told, left, took_ms, "repaired: the peer holds what it lacked");
        } else {
            debug!(peer, sessions, differing, listed, took_ms, "compared: the peer lacks nothing");
        }
    }
}

impl Actor for Replicator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(limits::REPLICATOR_MAILBOX);
        self.outside.me = Some(ctx.address().recipient());
        ctx.run_interval(limits::REPLICATOR_TICK, |replicator, _| replicator.run(Core::tick));
    }
}

impl Handler<RosterChanged> for Replicator {
    type Result = ();

    fn handle(&mut self, RosterChanged(roster): RosterChanged, ctx: &mut Self::Context) {
        let links = self.outside.links.keys();
        let gone: Vec<NodeId> = links.filter(|peer| roster.node(**peer).is_none()).copied().collect();
        for peer in gone {
            self.outside.links.remove(&peer);
            self.outside.repairs.remove(&peer);
            self.run(|core, now, outside| core.link_down(peer, now, outside));
            // Two processes do not listen at one address: its link had no time to find out that another one does.
            let address = self.outside.roster.node(peer).map(|node| node.replication);
            if roster.nodes().any(|node| Some(node.replication) == address) {
                self.run(|core, now, outside| core.gone(peer, now, outside));
            }
        }
        let serves = |node: &NodeMember| if node.duty == Duty::Serving { Serves::Yes } else { Serves::No };
        let nodes = roster.nodes().map(|node| (node.id, serves(&node))).collect();
        self.outside.roster = roster;
        self.run(|core, now, _| core.nodes(nodes, now));
        self.place();
        for node in self.outside.roster.clone().nodes() {
            self.outside.open(node, ctx);
        }
    }
}

impl Handler<OwnDuty> for Replicator {
    type Result = ();

    fn handle(&mut self, OwnDuty(duty): OwnDuty, _: &mut Self::Context) {
        self.outside.drains = duty == Duty::Draining;
        self.place();
    }
}

impl Handler<FromLink> for Replicator {
    type Result = ();

    fn handle(&mut self, FromLink { peer, link, event }: FromLink, _: &mut Self::Context) {
        // What an earlier link to this peer had still to say is about connections and numbers that are no more.
        if self.outside.links.get(&peer).is_none_or(|current| current.number() != link) {
            return;
        }
        match event {
            LinkEvent::Up => self.run(|core, now, outside| core.link_up(peer, now, outside)),
            LinkEvent::Down => self.run(|core, now, outside| core.link_down(peer, now, outside)),
            LinkEvent::Replies(replies) => self.run(|core, now, outside| core.replied(peer, replies, now, outside)),
            LinkEvent::Gone => {
                self.run(|core, now, outside| core.gone(peer, now, outside));
                self.outside.config.gone.do_send(LinkBroken(peer));
            }
            LinkEvent::Absent => self.core.absent(peer),
        }
    }
}

impl Handler<Replicate> for Replicator {
    type Result = ResponseFuture<Option<Verdict>>;

    fn handle(&mut self, Replicate(update): Replicate, _: &mut Self::Context) -> Self::Result {
        let wait = self.run(|core, now, outside| core.replicate(&update, now, outside));
        if let Some(verdict) = self.outside.at_once.take() {
            return Box::pin(std::future::ready(Some(verdict)));
        }
        let (reply, verdict) = oneshot::channel();
        self.outside.waits.insert(wait, reply);
        // The sender is dropped only with this actor: nobody knows then who holds it.
        Box::pin(async { verdict.await.ok() })
    }
}

impl Handler<WouldHold> for Replicator {
    type Result = usize;

    fn handle(&mut self, WouldHold(id): WouldHold, _: &mut Self::Context) -> usize {
        self.core.would_hold(id)
    }
}

impl Handler<Claim> for Replicator {
    type Result = ResponseFuture<Claimed>;

    fn handle(&mut self, Claim(wish): Claim, _: &mut Self::Context) -> Self::Result {
        let claim = self.run(|core, now, outside| core.claim(wish, now, outside));
        if let Some(claimed) = self.outside.claimed_at_once.take() {
            return Box::pin(std::future::ready(claimed));
        }
        let (answer, claimed) = oneshot::channel();
        self.outside.claims.insert(claim, answer);
        Box::pin(async { claimed.await.unwrap_or(Claimed::Contended) })
    }
}

impl Handler<Retire> for Replicator {
    type Result = ();

    fn handle(&mut self, Retire: Retire, _: &mut Self::Context) {
        self.core.retire();
    }
}

impl Handler<Offer> for Replicator {
    type Result = bool;

    fn handle(&mut self, Offer { to, context, ids }: Offer, _: &mut Self::Context) -> bool {
        self.outside.send(to, &Request::Offer { context, ids }) == Queued::Yes
    }
}

impl Handler<Touch> for Replicator {
    type Result = ();

    fn handle(&mut self, Touch(id): Touch, _: &mut Self::Context) {
        self.run(|core, _, outside| core.touch(id, outside));
    }
}

impl Handler<Swept> for Replicator {
    type Result = ();

    fn handle(&mut self, Swept(updates): Swept, _: &mut Self::Context) {
        for update in &updates {
            self.run(|core, now, outside| core.announce(update, now, outside));
        }
    }
}

impl Handler<PeerNeeds> for Replicator {
    type Result = ();

    fn handle(&mut self, PeerNeeds(peer): PeerNeeds, _: &mut Self::Context) {
        self.run(|core, now, _| core.repair(peer, now));
    }
}

impl Handler<Surveyed> for Replicator {
    type Result = ();

    fn handle(&mut self, Surveyed(found): Surveyed, _: &mut Self::Context) {
        self.run(|core, now, outside| core.surveyed(found, now, outside));
    }
}

impl Handler<Observe> for Replicator {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        let now = Moment::now();
        let report = |node: NodeMember| {
            let state = self.core.peer(node.id, now);
            LinkReport {
                peer: node.id,
                in_sync: state.in_sync,
                complete: state.complete,
                is_heard: state.is_heard,
                lag: state.lag,
                in_flight: state.in_flight,
                queued_bytes: self.outside.links.get(&node.id).map_or(0, Link::queued_bytes),
                traffic: self.outside.links.get(&node.id).map_or(Carried::default(), Link::carried),
                repairs: self.outside.repairs.get(&node.id).copied().unwrap_or_default(),
                route: node.route,
            }
        };
        MessageResult(self.outside.roster.nodes().map(report).collect())
    }
}

#[cfg(test)]
mod tests;
