//! One life of a simulated node: its replicators, its links and its accepting side, as `replication/actor.rs`,
//! `link.rs` and `accept.rs` have them, over queues of bytes instead of sockets.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    time::Duration,
};

use bytes::BytesMut;
use tasuki::{
    limits,
    membership::Duty,
    names::{NodeId, SessionId},
    replication::{
        core::{ClaimEnded, ClaimId, Core, CoreConfig, Kept, Serves},
        frame::{self, Reply, Ticket},
        ledger::{Sequence, Verdict, WaitId},
    },
    session::{
        Slots,
        delta::{Answer, Update, Whole},
        placement::Placement,
        replica::{self, Expiry, Slot},
    },
    time::Moment,
};

use crate::{
    Canary,
    accept::{Ask, Incoming},
    client::Call,
    cluster::{Cluster, DRAIN, Lane, machine_of},
    request::{Job, JobId},
    slots::SimSlots,
    story,
    wire::{ConnId, End},
    world::Event,
};

/// How long a confirmation holds, shorter than production's so that a run of faults is short, and long enough for links
/// on which a round trip takes 90 ms.
pub(crate) const LEASE: Duration = Duration::from_millis(180);

/// The longest wait for one peer.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_millis(250);

/// The longest wait for the answers to a claim.
pub(crate) const CLAIM_TIMEOUT: Duration = Duration::from_millis(200);

/// As in the product, where it is longer than anything that is played here, too.
pub(crate) const MERGE_PATIENCE: Duration = limits::MERGE_PATIENCE;

/// A starting node serves after this long even when a link is not up.
const DISCOVERY_TIMEOUT_US: u64 = 1_000_000;

/// A node waits for those that stopped together with it for this long.
const RETURN_US: u64 = 5_000_000;

/// What happens to a node. Nothing of it happens while it is paused.
#[derive(Debug)]
pub(crate) enum Input {
    /// Time passes for one replicator.
    Tick(usize),
    /// The node looks for sessions whose time is over.
    Sweep,
    /// Membership tells of one life of a node; an older version is no news.
    Learn { subject: NodeId, version: u64, duty: Option<Duty> },
    /// The starting node knows its peers.
    Discovered,
    /// A replicator tries to connect.
    Dial { core: usize, peer: NodeId },
    /// A connection was greeted.
    Linked(ConnId),
    /// Bytes arrive at one end of a connection.
    Bytes { conn: ConnId, end: End, bytes: Vec<u8> },
    /// An end notices that its connection is over.
    Closed { conn: ConnId, end: End },
    /// What a connection has brought since its node was paused is read.
    Unread(Lane),
    /// A peer may lack sessions; for the exporter.
    Needs(NodeId),
    /// The exporter is to tell the others something that nobody waits for.
    Tell(Update),
    /// A claim that arrived earlier is looked at.
    Asked(Ask),
    /// An answer to a claim is ready to be written.
    Answered(ConnId, Ticket, Answer),
    /// A request of a client.
    Request(Call),
    /// The turn of a session has come to one of those who waited.
    Turn(SessionId, Who),
    /// Somebody has waited for a turn long enough.
    TurnLate(SessionId, Who),
    /// A page has been rendered.
    Rendered(JobId),
    /// A claim of this node has ended.
    Claimed(JobId, ClaimEnded),
    /// Whether a commit is safe.
    Verdict(JobId, Verdict),
    /// An update that a broken node acknowledged before.
    LateApply(Update),
}

/// Who waits for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A request.
    Job(JobId),
    /// A claim that would take the session away.
    Ask(u64),
    /// A copy that is to be merged into it.
    Merge(u64),
}

/// One life of a node.
pub(crate) struct Node {
    /// This life.
    pub(crate) id: NodeId,
    /// Its sessions.
    pub(crate) slots: SimSlots,
    /// Its duty, as it says itself.
    pub(crate) duty: Duty,
    /// The other nodes, as it knows them: duty, and the version of that news.
    pub(crate) view: BTreeMap<NodeId, (u64, Option<Duty>)>,
    /// The exporter first, then one for each worker.
    pub(crate) cores: Vec<Core<SimSlots>>,
    /// The machines whose nodes stopped together with the last one of this machine.
    pub(crate) awaited: Vec<usize>,
    /// What the exporter has been asked for and has not yet heard.
    pub(crate) needs_under_way: usize,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) next_job: JobId,
    pub(crate) turns: BTreeMap<SessionId, TurnQueue>,
    pub(crate) asks: BTreeMap<u64, Ask>,
    pub(crate) merges: BTreeMap<u64, Whole>,
    /// What the exporter is to tell and has not yet heard of.
    pub(crate) tells_under_way: usize,
    pub(crate) next_ask: u64,
    pub(crate) waits: BTreeMap<(usize, WaitId), JobId>,
    pub(crate) claims: BTreeMap<(usize, ClaimId), JobId>,
    pub(crate) links: BTreeMap<(usize, NodeId), Link>,
    pub(crate) incoming: BTreeMap<ConnId, Incoming>,
    /// Of a node that asks one peer for each claim: which one.
    pub(crate) asked: Vec<BTreeMap<Ticket, NodeId>>,
    /// What peers had refused and was not told again at the last tick of each replicator.
    refused: Vec<usize>,
    born_us: u64,
    discovered: bool,
}

/// The requests and claims of one session, in the order they came.
#[derive(Debug)]
pub(crate) struct TurnQueue {
    pub(crate) holder: Who,
    pub(crate) waiting: VecDeque<Who>,
}

#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) up: Option<(ConnId, BytesMut)>,
    was_up: bool,
    /// Updates that were queued since it is up, and how many of them the peer has acknowledged.
    pub(crate) sent: Sequence,
    acked: Sequence,
}

impl Node {
    /// A node that knows nobody yet.
    pub(crate) fn new(id: NodeId, workers: usize, least: usize, config: CoreConfig, born_us: u64) -> Self {
        let slots = SimSlots::new(id);
        let exporter = Core::keeping_lease(slots.clone(), config);
        let cores = std::iter::once(exporter).chain((0..workers).map(|_| Core::new(slots.clone(), config)));
        Self {
            id,
            duty: Duty::Starting,
            view: BTreeMap::new(),
            cores: cores.map(|core| core.with_min_copies(least)).collect(),
            slots,
            needs_under_way: 0,
            jobs: BTreeMap::new(),
            next_job: 0,
            turns: BTreeMap::new(),
            asks: BTreeMap::new(),
            merges: BTreeMap::new(),
            tells_under_way: 0,
            next_ask: 0,
            waits: BTreeMap::new(),
            claims: BTreeMap::new(),
            links: BTreeMap::new(),
            incoming: BTreeMap::new(),
            asked: vec![BTreeMap::new(); workers + 1],
            refused: vec![0; workers + 1],
            born_us,
            awaited: Vec::new(),
            discovered: false,
        }
    }

    /// The other nodes it believes to be live.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (NodeId, Duty)> + '_ {
        self.view.iter().filter_map(|(peer, (_, duty))| Some((*peer, (*duty)?)))
    }

    /// Whether a link is up, in sync, and has nothing left to tell.
    pub(crate) fn is_caught_up_with(&self, peer: NodeId, now: Moment) -> bool {
        self.needs_under_way == 0
            && self.tells_under_way == 0
            && self.merges.is_empty()
            && self.cores.iter().enumerate().all(|(core, replicator)| {
                let up = self.links.get(&(core, peer)).is_some_and(|link| link.up.is_some());
                let state = replicator.peer(peer, now);
                up && state.in_sync && state.complete && state.is_heard
            })
    }

    /// Everything it has is held by others, as a node knows it that drains.
    pub(crate) fn is_relieved(&self, now: Moment) -> bool {
        let links = self.peers().flat_map(|(peer, _)| self.cores.iter().map(move |core| core.peer(peer, now)));
        links.into_iter().all(|link| link.in_sync && link.complete && link.in_flight == 0)
    }

    /// How its links to a peer are, in words.
    pub(crate) fn standing(&self, peer: NodeId, now: Moment) -> String {
        let links: Vec<_> = self.cores.iter().map(|core| core.peer(peer, now)).collect();
        let (needs, tells, merges) = (self.needs_under_way, self.tells_under_way, self.merges.len());
        format!("{needs} needs, {tells} to tell, {merges} to merge, {links:?}")
    }

    /// What is still under way or waited for. A repair may just be telling of something: where clocks jump, one node takes a
    /// tombstone for too old to tell of while the others still do, and these tell it each time.
    pub(crate) fn unfinished(&self, now: Moment) -> Option<String> {
        let peers = self.peers().flat_map(|(peer, _)| self.cores.iter().map(move |core| core.peer(peer, now)));
        let in_flight: usize = peers.filter(|peer| peer.lag >= ACK_TIMEOUT).map(|peer| peer.in_flight).sum();
        // What has been refused since then waits for the next tick.
        let refused = self.cores.iter().zip(&self.refused).map(|(core, left)| core.kept().refused.min(*left)).sum();
        let counts = [self.jobs.len(), self.turns.len(), self.waits.len(), self.claims.len(), in_flight, refused];
        let named = "jobs, turns, waits, claims, updates in flight, refused sessions";
        (counts != [0; 6]).then(|| format!("{:?} still has {counts:?} of {named}", self.id))
    }

    /// What its replicators keep beyond what it is kept for: a reply or a claim that no request waits for, an update that the
    /// peer has acknowledged, more refusals than were sent anything, or more peers than there are.
    pub(crate) fn overgrown(&self, now: Moment) -> Option<String> {
        let kept = self.cores.iter().map(Core::kept);
        let kept = kept.fold(Kept::default(), |sum, one| Kept {
            waits: sum.waits + one.waits,
            claims: sum.claims + one.claims,
            refused: sum.refused + one.refused,
            lacking: sum.lacking + one.lacking,
        });
        let up = self.links.iter().filter(|(_, link)| link.up.is_some());
        let sent: Sequence = up.clone().map(|(_, link)| link.sent).sum();
        let (waits, claims) = (self.waits.len(), self.claims.len());
        let most = Kept { waits, claims, refused: sent as usize, lacking: self.cores.len() * self.peers().count() };
        if kept.waits > waits || kept.claims > claims || kept.refused > most.refused || kept.lacking > most.lacking {
            return Some(format!("keeps {kept:?} where no more than {most:?} are waited for"));
        }
        let mut books = up.map(|((core, peer), link)| (self.cores[*core].peer(*peer, now).in_flight as u64, link));
        let wrong = books.find(|(in_flight, link)| *in_flight != link.sent - link.acked);
        wrong.map(|(in_flight, link)| format!("books {in_flight} updates under way of {link:?}"))
    }

    /// Whether a node, this one included, is live and answers requests.
    pub(crate) fn serves(&self, node: NodeId) -> bool {
        if node == self.id {
            return self.duty == Duty::Serving;
        }
        self.peers().any(|(peer, duty)| peer == node && duty == Duty::Serving)
    }

    fn is_ready(&self, now_us: u64) -> bool {
        let linked = || self.links.values().all(|link| link.was_up);
        let is_back = |machine: &usize| self.peers().any(|(peer, _)| machine_of(peer) == *machine);
        let are_back = self.awaited.iter().all(is_back) || now_us > self.born_us + RETURN_US;
        let is_complete = linked() || now_us > self.born_us + DISCOVERY_TIMEOUT_US;
        self.duty == Duty::Starting && self.discovered && are_back && is_complete
    }
}

impl Cluster {
    /// Something of the protocol happens to a node that is awake.
    pub(crate) fn node_input(&mut self, id: NodeId, input: Input) {
        match input {
            Input::Tick(core) => self.tick(id, core),
            Input::Sweep => self.sweep(id),
            Input::Learn { subject, version, duty } => self.learn(id, subject, version, duty),
            Input::Discovered => {
                if let Some(node) = self.node_mut(id) {
                    node.discovered = true;
                }
            }
            Input::Dial { core, peer } => self.dial(id, core, peer),
            Input::Linked(conn) => self.linked(id, conn),
            Input::Bytes { conn, end, bytes } => {
                self.wire.read(conn, end, bytes.len());
                match end {
                    End::Dialer => self.replies(id, conn, &bytes),
                    End::Acceptor => self.requests(id, conn, &bytes),
                }
            }
            Input::Closed { conn, end } => self.closed(id, conn, end),
            Input::Unread(lane) => self.read_on(id, lane),
            Input::Needs(peer) => {
                if let Some(node) = self.node_mut(id) {
                    node.needs_under_way -= 1;
                }
                self.with_core(id, 0, |core, now, _| core.repair(peer, now));
            }
            Input::Tell(update) => {
                if let Some(node) = self.node_mut(id) {
                    node.tells_under_way -= 1;
                }
                story::tell(update.id(), id, || format!("tells all: {update:?}"));
                self.with_core(id, 0, |core, now, port| core.announce(&update, now, port));
            }
            Input::Asked(ask) => self.asked(id, ask),
            Input::Answered(conn, ticket, answer) => self.reply(conn, &[Reply::Answer(ticket, answer)]),
            Input::LateApply(update) => {
                let now = self.moment(id);
                if let Some(node) = self.node_mut(id) {
                    node.slots.with(update.id(), |slot| drop(replica::apply(slot, update, now)));
                }
            }
            Input::Request(_)
            | Input::Turn(..)
            | Input::TurnLate(..)
            | Input::Rendered(_)
            | Input::Claimed(..)
            | Input::Verdict(..) => self.request_input(id, input),
        }
    }

    fn tick(&mut self, id: NodeId, core: usize) {
        let period_us = limits::REPLICATOR_TICK.as_micros() as u64;
        self.world.after(period_us, Event::Node(id, Input::Tick(core)));
        self.with_core(id, core, Core::tick);
        if let Some(node) = self.node_mut(id) {
            node.refused[core] = node.cores[core].kept().refused;
        }
        let now_us = self.world.now_us();
        if self.node_mut(id).is_some_and(|node| node.is_ready(now_us)) {
            self.set_duty(id, Duty::Serving);
        }
    }

    /// As `session/actor.rs` has it.
    fn sweep(&mut self, id: NodeId) {
        let (now, period_us) = (self.moment(id), self.world.between(150_000, 250_000));
        self.world.after(period_us, Event::Node(id, Input::Sweep));
        let Some(node) = self.node_mut(id) else { return };
        let (slots, term) = (node.slots.clone(), node.slots.lease().term(now));
        let is_over = |slot: &Slot| match slot {
            Slot::Live(record) => record.is_over(now, if record.is_owned(term) { 1 } else { 2 }),
            Slot::Sought(sought) => sought.is_over(now),
            Slot::Ended(_) => false,
        };
        for session in slots.ids(is_over) {
            match slots.with(session, |slot| replica::expire(slot, session, term, now)) {
                Expiry::Over(Some(end)) => {
                    self.with_core(id, 0, |core, now, port| core.announce(&end, now, port));
                }
                Expiry::Over(None) => {}
                Expiry::Runs => slots.unwatched(session, |slot| *slot = None),
            }
        }
    }

    // --- membership and outgoing links ---

    fn learn(&mut self, id: NodeId, subject: NodeId, version: u64, duty: Option<Duty>) {
        let Some(node) = self.node_mut(id) else { return };
        let known = node.view.entry(subject).or_insert((0, None));
        if known.0 >= version {
            return;
        }
        *known = (version, duty);
        story::tell_all((id, "learns of", subject, duty));
        self.rosters_changed(id);
    }

    /// `RosterChanged` and `OwnDuty`, at every replicator.
    pub(crate) fn rosters_changed(&mut self, id: NodeId) {
        let Some(node) = self.node_mut(id) else { return };
        let serves = |duty: Duty| if duty == Duty::Serving { Serves::Yes } else { Serves::No };
        let nodes: BTreeMap<NodeId, Serves> = node.peers().map(|(peer, duty)| (peer, serves(duty))).collect();
        for core in 0..node.cores.len() {
            self.roster_changed(id, core, &nodes);
        }
    }

    fn roster_changed(&mut self, id: NodeId, core: usize, nodes: &BTreeMap<NodeId, Serves>) {
        let Some(node) = self.node_mut(id) else { return };
        let links = node.links.keys().filter(|(of, peer)| *of == core && !nodes.contains_key(peer));
        for (_, peer) in links.copied().collect::<Vec<_>>() {
            let link = self.node_mut(id).and_then(|node| node.links.remove(&(core, peer)));
            if let Some((conn, _)) = link.and_then(|link| link.up) {
                self.wire.hang_up(conn, id, &mut self.world);
            }
            self.with_core(id, core, |core, now, port| core.link_down(peer, now, port));
        }
        let mut placement = self.placement(id, nodes);
        // Those who were there when all were.
        let all = self.machines.len();
        if self.canary == Some(Canary::HoldersStay)
            && let Some(first) =
                self.node(id).map(|node| node.slots.placement()).filter(|known| known.places().len() == all)
        {
            placement = Placement::clone(&first);
        }
        if core == 0
            && let Some(node) = self.node_mut(id)
        {
            node.slots.place(placement.clone());
        }
        self.with_core(id, core, |core, now, _| {
            core.nodes(nodes.clone(), now);
            core.place(placement, now);
        });
        for peer in nodes.keys().copied() {
            let Some(node) = self.node_mut(id) else { return };
            if let Entry::Vacant(link) = node.links.entry((core, peer)) {
                link.insert(Link::default());
                self.world.after(0, Event::Node(id, Input::Dial { core, peer }));
            }
        }
    }

    /// As a node sees it that knows these others.
    fn placement(&self, id: NodeId, nodes: &BTreeMap<NodeId, Serves>) -> Placement {
        let drains = self.node(id).is_some_and(|node| node.duty == DRAIN);
        self.placement_of(nodes.iter().map(|(node, serves)| (*node, *serves == Serves::Yes)).chain([(id, !drains)]))
    }

    fn dial(&mut self, id: NodeId, core: usize, peer: NodeId) {
        let wanted = |node: &mut Node| node.links.get(&(core, peer)).is_some_and(|link| link.up.is_none());
        if !self.node_mut(id).is_some_and(wanted) {
            return;
        }
        let stalled = !self.wire.can_connect(id, peer, self.world.now_us());
        if !stalled && self.is_refused(peer) {
            self.with_core(id, core, |core, now, port| core.gone(peer, now, port));
        }
        if stalled || !self.is_awake(peer) {
            let pause_us = self.world.between(20_000, 100_000);
            self.world.after(pause_us, Event::Node(id, Input::Dial { core, peer }));
            return;
        }
        let conn = self.wire.open(id, core, peer, &mut self.world);
        if let Some(node) = self.node_mut(peer) {
            node.incoming.insert(conn, Incoming::new(id));
        }
        let delay_us = self.world.between(200, 2_000);
        self.wire.greet(conn, self.world.now_us() + delay_us);
        self.world.after(delay_us, Event::Node(id, Input::Linked(conn)));
    }

    fn linked(&mut self, id: NodeId, conn: ConnId) {
        let known = self.wire.conn(conn).map(|conn| (conn.core, conn.acceptor, conn.is_stillborn));
        let Some((core, peer, is_stillborn)) = known else { return };
        let link = self.node_mut(id).and_then(|node| node.links.get_mut(&(core, peer)));
        match link.filter(|link| link.up.is_none()) {
            Some(_) if is_stillborn => return self.world.after(0, Event::Node(id, Input::Dial { core, peer })),
            Some(link) => *link = Link { up: Some((conn, BytesMut::new())), was_up: true, sent: 0, acked: 0 },
            None => return self.wire.hang_up(conn, id, &mut self.world),
        }
        story::tell_all((id, core, "link up to", peer));
        self.with_core(id, core, |core, now, port| core.link_up(peer, now, port));
    }

    fn replies(&mut self, id: NodeId, conn: ConnId, bytes: &[u8]) {
        let Some((core, peer)) = self.wire.conn(conn).map(|conn| (conn.core, conn.acceptor)) else { return };
        let is_forgetful = self.canary == Some(Canary::AckNotBooked);
        let link = self.node_mut(id).and_then(|node| node.links.get_mut(&(core, peer)));
        let Some(Link { up: Some((up, input)), acked, .. }) = link else { return };
        if *up != conn {
            return;
        }
        input.extend_from_slice(bytes);
        let mut replies = Vec::new();
        while let Some(reply) = frame::take_reply(input).expect("our own bytes are frames") {
            if let Reply::Ack(sequence) = reply {
                *acked = sequence;
                if is_forgetful {
                    continue;
                }
            }
            replies.push(reply);
        }
        if !replies.is_empty() {
            self.with_core(id, core, |core, now, port| core.replied(peer, replies, now, port));
        }
    }

    fn closed(&mut self, id: NodeId, conn: ConnId, end: End) {
        let Some((core, peer)) = self.wire.conn(conn).map(|conn| (conn.core, conn.acceptor)) else { return };
        let Some(node) = self.node_mut(id) else { return };
        if end == End::Acceptor {
            node.incoming.remove(&conn);
            return;
        }
        let link = node.links.get_mut(&(core, peer));
        let Some(link) = link.filter(|link| link.up.as_ref().is_some_and(|(up, _)| *up == conn)) else {
            return self.wire.never_was(conn);
        };
        link.up = None;
        story::tell_all((id, core, "link down to", peer));
        self.with_core(id, core, |core, now, port| core.link_down(peer, now, port));
        let pause_us = self.world.between(0, 2_000);
        self.world.after(pause_us, Event::Node(id, Input::Dial { core, peer }));
    }
}
