//! Users behind the balancer: sticky by the route of the last answer, and the law of retries.
//!
//! Each user has one cookie and several tabs that send requests at the same time. Reads and writes of a value are
//! idempotent and are sent again when an answer did not come; an increment is not, and may have been done.

use std::collections::{BTreeMap, BTreeSet};

use tasuki::{
    names::{NodeId, SessionId},
    session::{draft::Draft, replica::Reach},
};

use crate::{
    checker::{Answered, Place},
    cluster::{Cluster, DRAINED, machine_of},
    node::Input,
    world::Event,
};

/// How long the balancer waits for an answer.
const BALANCER_TIMEOUT_US: u64 = 600_000;

/// Members tried for one request.
const MAX_ATTEMPTS: usize = 8;

/// How long the balancer leaves out a member that did not answer.
const FAILED_US: u64 = 300_000;

/// What a tab asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Looks.
    Read,
    /// Adds one to the counter.
    Add,
    /// Sets the tab's own attribute, or removes it.
    Put(usize, Option<i64>),
    /// Logs out.
    End,
    /// Logs in: the session goes on under a new id.
    Renew,
}

/// One try of one request, as a node gets it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tab: usize,
    pub(crate) number: u64,
    pub(crate) attempt: usize,
    pub(crate) session: Option<SessionId>,
    pub(crate) insist: bool,
    pub(crate) op: Op,
    /// Whether the webapp's sessions travel.
    pub(crate) reach: Reach,
}

/// What a node answers.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It was done, and this is what the page saw.
    Done(Seen),
    /// There is no such session.
    NoSession,
    /// Not done here: that machine owns it.
    Retry(usize),
    /// Not done here: any other.
    RetryAny,
    /// The session was claimed while the commit was under way: it may have been done.
    Fenced,
    /// Not done: too many requests of this session, or too few nodes to hold it.
    Busy,
    /// Too few nodes hold it, and it was taken back; yet it may have been done.
    TakenBack,
}

/// What a page saw when it had done its work.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) session: SessionId,
    pub(crate) node: NodeId,
    /// Nodes that hold the write; 0 for a read.
    pub(crate) copies: usize,
    pub(crate) count: i64,
    pub(crate) attributes: BTreeMap<usize, i64>,
}

/// What a tab hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is time for the next request.
    Wake,
    /// An answer to a try.
    Answer { call: u64, attempt: usize, from: NodeId, outcome: Outcome },
    /// The connection was refused: the request was not read.
    Refused { call: u64, attempt: usize },
    /// The connection broke, or no answer came in time: it may have been done.
    Lost { call: u64, attempt: usize },
}

/// How a request ended for its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was not done, for sure.
    NotDone,
    /// It may have been done.
    Maybe,
}

/// One user: the cookie.
pub(crate) struct User {
    session: Option<SessionId>,
    machine: usize,
    reach: Reach,
}

/// One tab of a user's browser.
pub(crate) struct Tab {
    pub(crate) user: usize,
    /// Its own attribute.
    pub(crate) own: usize,
    pub(crate) current: Option<Pending>,
    next_value: i64,
}

/// A request under way.
pub(crate) struct Pending {
    number: u64,
    attempt: usize,
    op: Op,
    pub(crate) session: Option<SessionId>,
    target: usize,
    maybe: bool,
    avoid: BTreeSet<usize>,
    /// When it was first sent.
    pub(crate) since_us: u64,
}

impl Op {
    /// The page's work.
    pub(crate) fn apply(self, draft: &mut Draft) {
        let refused = "small numbers are always accepted";
        match self {
            Self::Read | Self::End | Self::Renew => {}
            Self::Add => drop(draft.add("count", 1).expect(refused)),
            Self::Put(own, Some(value)) => draft.set(&format!("a{own}"), &value).expect(refused),
            Self::Put(own, None) => drop(draft.remove(&format!("a{own}"))),
        }
    }

    fn is_idempotent(self) -> bool {
        !matches!(self, Self::Add | Self::Renew)
    }
}

impl Seen {
    /// What a draft holds.
    pub(crate) fn of(session: SessionId, node: NodeId, draft: &Draft) -> Self {
        let own = |name: &str| name.strip_prefix('a')?.parse().ok();
        let named = draft.attributes().filter_map(|(name, value)| Some((own(name)?, value.decode().ok()?)));
        let count = draft.get_as("count").unwrap_or(0);
        Self { session, node, copies: 0, count, attributes: named.collect() }
    }
}

impl User {
    /// One without a session, of a webapp whose sessions may stay on their node.
    pub(crate) fn new(is_local: bool) -> Self {
        Self { session: None, machine: 0, reach: if is_local { Reach::Node } else { Reach::Cluster } }
    }
}

impl Tab {
    /// The tab of a user with an attribute of its own.
    pub(crate) fn new(user: usize, own: usize) -> Self {
        Self { user, own, current: None, next_value: 0 }
    }
}

impl Cluster {
    /// A tab hears something.
    pub(crate) fn tab_heard(&mut self, tab: usize, heard: Heard) {
        let current = self.tabs[tab].current.as_ref().map(|pending| (pending.number, pending.attempt));
        match heard {
            Heard::Wake => self.begin(tab),
            Heard::Answer { call, attempt, from, outcome } if current == Some((call, attempt)) => {
                self.answered(tab, from, outcome);
            }
            Heard::Refused { call, attempt } if current == Some((call, attempt)) => self.try_another(tab),
            Heard::Lost { call, attempt } if current == Some((call, attempt)) => self.lost(tab),
            Heard::Answer { .. } | Heard::Refused { .. } | Heard::Lost { .. } => {}
        }
    }

    /// Tells the tabs whose connection goes to a process that has ended.
    pub(crate) fn break_connections(&mut self, machine: usize) {
        for tab in 0..self.tabs.len() {
            let Some(pending) = self.tabs[tab].current.as_ref().filter(|pending| pending.target == machine) else {
                continue;
            };
            let heard = Heard::Lost { call: pending.number, attempt: pending.attempt };
            let delay_us = self.world.between(1_000, 3_000);
            self.world.after(delay_us, Event::Tab(tab, heard));
        }
    }

    fn begin(&mut self, tab: usize) {
        if self.closing {
            return;
        }
        if self.is_stopping {
            let delay_us = self.world.between(10_000, 40_000);
            return self.world.after(delay_us, Event::Tab(tab, Heard::Wake));
        }
        let user = &self.users[self.tabs[tab].user];
        let (session, machine, reach) = (user.session, user.machine, user.reach);
        let op = self.draw_op(tab, session.is_some());
        self.next_call += 1;
        let (number, since_us) = (self.next_call, self.world.now_us());
        let is_stray = session.is_some() && self.world.percent(self.rules.strays);
        let drawn = self.world.between(0, self.machines.len() as u64 - 1) as usize;
        let target = if session.is_none() || is_stray { drawn } else { machine };
        let avoid = BTreeSet::new();
        let pending = Pending { number, attempt: 0, op, session, target, maybe: false, avoid, since_us };
        self.tabs[tab].current = Some(pending);
        self.checker.issued(tab, number, session, op, since_us, reach);
        let failed = self.failed_until[target] > since_us;
        if failed { self.choose(tab) } else { self.send(tab, target, is_stray) }
    }

    fn draw_op(&mut self, tab: usize, has_session: bool) -> Op {
        let kind = self.world.between(1, 100);
        let Tab { own, next_value, .. } = &mut self.tabs[tab];
        *next_value += 1;
        match kind {
            1..=30 if has_session => Op::Read,
            31..=33 if has_session => Op::End,
            34..=35 if has_session => Op::Renew,
            36..=40 if has_session => Op::Put(*own, None),
            41..=66 => Op::Put(*own, Some(*next_value)),
            _ => Op::Add,
        }
    }

    fn send(&mut self, tab: usize, target: usize, insist: bool) {
        let reach = self.users[self.tabs[tab].user].reach;
        let Some(pending) = self.tabs[tab].current.as_mut() else { return };
        pending.attempt += 1;
        pending.target = target;
        let Pending { number, attempt, session, op, .. } = *pending;
        let delay_us = self.world.between(50, 1_000);
        let Some(node) = self.machines[target].node.as_ref() else {
            return self.world.after(delay_us, Event::Tab(tab, Heard::Refused { call: number, attempt }));
        };
        let call = Call { tab, number, attempt, session, insist, op, reach };
        if self.unreachable_until[target] <= self.world.now_us() {
            self.world.after(delay_us, Event::Node(node.id, Input::Request(call)));
        }
        self.world.after(BALANCER_TIMEOUT_US, Event::Tab(tab, Heard::Lost { call: number, attempt }));
    }

    fn answered(&mut self, tab: usize, from: NodeId, outcome: Outcome) {
        let machine = machine_of(from);
        match outcome {
            Outcome::Done(seen) => self.done_for_user(tab, machine, &seen),
            Outcome::NoSession => {
                let Some(pending) = self.tabs[tab].current.take() else { return };
                self.forget_cookie(tab, pending.session);
                let answered =
                    Answered { at_us: self.world.now_us(), is_apart: self.plan.apart.side(machine).is_some() };
                self.checker.no_session(tab, pending.number, pending.maybe, answered);
                self.think(tab);
            }
            Outcome::Busy => self.busy(tab),
            Outcome::TakenBack => {
                if let Some(pending) = self.tabs[tab].current.as_mut() {
                    pending.maybe = true;
                }
                self.busy(tab);
            }
            Outcome::Retry(owner) => {
                let Some(pending) = self.tabs[tab].current.as_ref() else { return };
                let unreachable = pending.avoid.contains(&owner) || owner == machine;
                if pending.attempt >= MAX_ATTEMPTS {
                    self.ended(tab);
                } else if unreachable {
                    self.send(tab, machine, true);
                } else {
                    self.send(tab, owner, false);
                }
            }
            Outcome::RetryAny => self.try_another(tab),
            Outcome::Fenced => self.perhaps_done(tab),
        }
    }

    /// A turn is waited for 10 s in the product, and here for less than a claim may take: that it was too late is nothing
    /// that maintenance has promised to prevent.
    fn busy(&mut self, tab: usize) {
        let Some(pending) = self.tabs[tab].current.take() else { return };
        self.checker.gave_up(tab, pending.number, if pending.maybe { Ended::Maybe } else { Ended::NotDone });
        self.think(tab);
    }

    fn lost(&mut self, tab: usize) {
        let now_us = self.world.now_us();
        let Some(pending) = self.tabs[tab].current.as_ref() else { return };
        let failed_until_us = &mut self.failed_until[pending.target];
        *failed_until_us = (*failed_until_us).max(now_us + FAILED_US);
        self.perhaps_done(tab);
    }

    fn perhaps_done(&mut self, tab: usize) {
        let Some(pending) = self.tabs[tab].current.as_mut() else { return };
        pending.maybe = true;
        if pending.op.is_idempotent() { self.try_another(tab) } else { self.ended(tab) }
    }

    /// The member refused, is gone, or cannot take it: the next one is to take the session over.
    fn try_another(&mut self, tab: usize) {
        if let Some(pending) = self.tabs[tab].current.as_mut() {
            pending.avoid.insert(pending.target);
        }
        self.choose(tab);
    }

    /// Sends to the member that every balancer would choose among those that were not tried and seem good, or were not
    /// tried at least.
    fn choose(&mut self, tab: usize) {
        let now_us = self.world.now_us();
        let Some(pending) = self.tabs[tab].current.as_ref() else { return };
        let untried = |machine: &usize| !pending.avoid.contains(machine);
        let all: Vec<usize> = (0..self.machines.len()).filter(untried).collect();
        let good: Vec<usize> = all.iter().copied().filter(|machine| self.failed_until[*machine] <= now_us).collect();
        // One that drains is about to leave, and is the last that is asked.
        let staying: Vec<usize> = all.iter().copied().filter(|at| self.failed_until[*at] != DRAINED).collect();
        let from = [&good, &staying, &all].into_iter().find(|some| !some.is_empty()).unwrap_or(&all);
        let seed = pending.session.map_or(pending.number, |session| u64::from(session.0[0]));
        let next = from.iter().copied().max_by_key(|machine| rendezvous(seed, *machine));
        match next.filter(|_| pending.attempt < MAX_ATTEMPTS) {
            Some(target) => self.send(tab, target, true),
            None => self.ended(tab),
        }
    }

    fn done_for_user(&mut self, tab: usize, machine: usize, seen: &Seen) {
        let Some(pending) = self.tabs[tab].current.take() else { return };
        let own = self.tabs[tab].own;
        if pending.op == Op::End {
            self.forget_cookie(tab, pending.session);
        } else {
            let user = &mut self.users[self.tabs[tab].user];
            if user.session == pending.session {
                (user.session, user.machine) = (Some(seen.session), machine);
            }
        }
        let apart = &self.plan.apart;
        let (side, is_cut_off, may_be_alone) =
            (apart.side(machine), apart.touches(machine), apart.may_be_alone(machine));
        let at_us = self.world.now_us();
        let place = Place { machine, at_us, side, is_cut_off, may_be_alone };
        self.checker.done(tab, pending.number, own, seen, pending.maybe, place);
        self.think(tab);
    }

    fn forget_cookie(&mut self, tab: usize, session: Option<SessionId>) {
        let user = &mut self.users[self.tabs[tab].user];
        if user.session == session {
            user.session = None;
        }
    }

    fn ended(&mut self, tab: usize) {
        let Some(pending) = self.tabs[tab].current.take() else { return };
        let how = if pending.maybe { Ended::Maybe } else { Ended::NotDone };
        // A commit may be refused because of a request that came to another node at the same time.
        let is_contested = how == Ended::Maybe && self.rules.strays > 0;
        // Of two nodes that must both hold it one is away.
        let is_contested = is_contested || self.machines.len() <= self.rules.least;
        // So may it because of a claim that an earlier fault has held up until its node had given it up: the others cannot
        // know that. The user hears that the write is in doubt, and nothing is lost.
        let is_late_claim = how == Ended::Maybe && pending.since_us < self.plan.late_claims_until_us;
        let is_contested = is_contested || is_late_claim;
        if !is_contested && self.plan.maintenance_since_us.is_some_and(|since_us| pending.since_us >= since_us) {
            let (op, session) = (pending.op, pending.session);
            self.checker.violate(format!("{op:?} of tab {tab} ({session:?}) failed during maintenance: {how:?}"));
        }
        self.checker.gave_up(tab, pending.number, how);
        self.think(tab);
    }

    fn think(&mut self, tab: usize) {
        let lunch = self.rules.is_short() && self.world.percent(4);
        let delay_us = self.world.between(0, if lunch { 2_200_000 } else { self.rules.think_us });
        self.world.after(delay_us, Event::Tab(tab, Heard::Wake));
    }
}

/// The weight of a member for a session: every balancer comes to the same choice.
fn rendezvous(seed: u64, machine: usize) -> u64 {
    let mut mixed = (seed << 8 | machine as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^= mixed >> 29;
    mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 7
}
