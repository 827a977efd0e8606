//! When something goes wrong. One thing at a time, and the next one waits until the cluster has caught up: that is what
//! the product promises to get over without a loss. Or, in a storm, whatever comes.

use std::collections::BTreeSet;

use tasuki::names::{NodeId, SessionId};

use crate::{
    Canary,
    cluster::{Cluster, DRAIN},
    faults::{Apart, Fault, ONE_BY_ONE, STOPS, STORM},
    story,
    world::Event,
};

/// How often the schedule looks at the cluster.
const POLL_US: u64 = 20_000;

/// A healed cluster must have caught up within this time.
const CATCH_UP_US: u64 = 15_000_000;

/// The longest a node that drains waits until others hold what it has.
const LEAVE_US: u64 = 5_000_000;

/// The longest a request may take with all its retries.
const LONGEST_CALL_US: u64 = 6_000_000;

/// Bytes by which a queue may pass its bound: the message that filled it.
const ONE_MESSAGE: usize = 2_048;

/// How long nothing is asked before the nodes are compared.
const SETTLE_US: u64 = 1_500_000;

/// The same where sessions end soon: all have ended by then, copies after twice their time.
const SETTLE_SHORT_US: u64 = 3_200_000;

/// A step of the schedule.
#[derive(Debug)]
pub(crate) enum Step {
    /// Looks at the cluster.
    Poll,
    /// A new process starts on a machine.
    Start(usize),
    /// A paused process goes on.
    Wake(usize),
    /// A draining process leaves, at the latest.
    Leave(usize),
    /// No request is to be left before all nodes are told to stop.
    StopAll,
    /// A node saves what it holds and ends.
    Stop(usize),
    /// Membership learns who is there.
    Truth,
    /// Compares the nodes.
    Settled,
}

/// The schedule of one run.
pub(crate) struct Plan {
    left: usize,
    /// Faults overlap, and what is promised against one at a time is not checked.
    pub(crate) is_storm: bool,
    /// Everything is stopped and started, between other faults.
    pub(crate) has_stops: bool,
    /// The current fault lasts until then.
    busy_until_us: u64,
    healed_us: u64,
    calm: usize,
    /// Since when the last fault is maintenance, which nobody may notice.
    pub(crate) maintenance_since_us: Option<u64>,
    /// Until then a claim may arrive that was held up by a fault, and given up.
    pub(crate) late_claims_until_us: u64,
    /// Who does not hear whom, until that is healed.
    pub(crate) apart: Apart,
    /// What happened, for the report of a violation.
    pub(crate) log: Vec<String>,
}

impl Plan {
    /// So many faults.
    pub(crate) fn new(faults: usize, is_storm: bool, has_stops: bool, now_us: u64) -> Self {
        Self {
            left: faults,
            is_storm,
            has_stops,
            busy_until_us: now_us,
            healed_us: now_us,
            calm: 0,
            maintenance_since_us: None,
            late_claims_until_us: 0,
            apart: Apart::default(),
            log: Vec::new(),
        }
    }

    /// What has begun is over then.
    pub(crate) fn lasts_until(&mut self, until_us: u64) {
        self.busy_until_us = self.busy_until_us.max(until_us);
    }
}

impl Cluster {
    /// A step of the schedule; true ends the run.
    pub(crate) fn fault_step(&mut self, step: Step) -> bool {
        if !matches!(step, Step::Poll) {
            story::tell_all(&step);
        }
        match step {
            Step::Poll => self.poll(),
            Step::Start(machine) => self.start(machine),
            Step::Wake(machine) => self.wake(machine),
            Step::Leave(machine) => self.leave(machine),
            Step::StopAll => self.stop_all(),
            Step::Stop(machine) => self.stop(machine),
            Step::Truth => self.tell_truth(),
            Step::Settled => {
                self.compare();
                return true;
            }
        }
        false
    }

    fn poll(&mut self) {
        let now_us = self.world.now_us();
        self.notice_endless_calls();
        if self.wire.longest_queue() > self.rules.queue_bytes + ONE_MESSAGE {
            self.checker.violate("a queue grows past its bound");
        }
        self.notice_overgrown();
        if self.plan.is_storm && self.plan.left > 0 && self.world.percent(12) {
            self.begin_drawn(&STORM);
        }
        if now_us < self.plan.busy_until_us || self.plan.is_storm && self.plan.left > 0 {
            self.plan.healed_us = now_us;
        }
        let calm = now_us >= self.plan.busy_until_us && self.is_caught_up();
        self.plan.calm = if calm { self.plan.calm + 1 } else { 0 };
        if now_us > self.plan.healed_us + CATCH_UP_US && !calm {
            self.checker.violate(format!("the cluster never caught up: {}", self.why_not_caught_up()));
        }
        if self.plan.calm >= 2 {
            self.calm_down(now_us);
            if self.plan.left == 0 {
                return self.close();
            }
            if !self.plan.is_storm && self.world.percent(30) {
                self.plan.calm = 0;
                let all: &[Fault] = if self.plan.has_stops { &STOPS } else { &ONE_BY_ONE };
                self.begin_drawn(self.canary.and_then(Canary::faults).unwrap_or(all));
            }
        }
        self.world.after(POLL_US, Event::Fault(Step::Poll));
    }

    fn begin_drawn(&mut self, from: &[Fault]) {
        self.plan.left -= 1;
        if let Some(fault) = self.world.pick(from) {
            self.begin_fault(fault);
        }
    }

    fn calm_down(&mut self, now_us: u64) {
        self.plan.healed_us = now_us;
        if !self.plan.apart.is_over() {
            self.plan.apart = Apart::default();
            self.checker.healed(now_us);
        }
    }

    fn close(&mut self) {
        self.closing = true;
        if self.tabs.iter().any(|tab| tab.current.is_some()) {
            self.world.after(POLL_US, Event::Fault(Step::Poll));
        } else {
            let settle_us = if self.rules.is_short() { SETTLE_SHORT_US } else { SETTLE_US };
            self.world.after(settle_us, Event::Fault(Step::Settled));
        }
    }

    fn notice_endless_calls(&mut self) {
        let now_us = self.world.now_us();
        let pending = self.tabs.iter().filter_map(|tab| tab.current.as_ref());
        if pending.into_iter().any(|pending| now_us > pending.since_us + LONGEST_CALL_US) {
            self.checker.violate("a request waits for ever");
        }
    }

    fn notice_overgrown(&mut self) {
        // Its requests do not wait for what its replicators still keep, and that is to be noticed by what users see.
        if self.canary == Some(Canary::ReplyBeforeAck) {
            return;
        }
        let nodes = self.machines.iter().filter_map(|machine| Some((machine.node.as_ref()?, self.clock(machine))));
        let mut overgrown = nodes.filter_map(|(node, now)| Some((node.id, node.overgrown(now)?)));
        if let Some((node, what)) = overgrown.next() {
            self.checker.violate(format!("{node:?} {what}"));
        }
    }

    fn compare(&mut self) {
        self.notice_overgrown();
        let nodes = self.machines.iter().filter_map(|machine| Some((machine.node.as_ref()?, self.clock(machine))));
        let unfinished: Vec<String> = nodes.clone().filter_map(|(node, now)| node.unfinished(now)).collect();
        let fading: BTreeSet<SessionId> = nodes.clone().flat_map(|(node, now)| node.fading(now)).collect();
        let placement = self.placement_of(nodes.clone().map(|(node, _)| (node.id, true)));
        let (ids, holdings): (Vec<NodeId>, Vec<_>) = nodes.map(|(node, _)| (node.id, node.holdings())).unzip();
        unfinished.into_iter().for_each(|what| self.checker.violate(what));
        if self.rules.is_short() {
            return self.checker.all_over(&holdings);
        }
        // Such a node is to be noticed by what users see, not by looking into it.
        let forgets = self.canary == Some(Canary::TombstoneDropped);
        let involves = |id: SessionId, owner, at: usize| placement.involves(id, owner, ids[at]);
        self.checker.settled(&holdings, involves, |id| forgets || fading.contains(id));
    }

    /// A draining node has nothing left to do.
    fn leave(&mut self, machine: usize) {
        let Some(node) = self.machines[machine].node.as_ref().filter(|node| node.duty == DRAIN) else { return };
        let is_left = |since_us| self.world.now_us() < since_us + LEAVE_US && !node.is_relieved(self.moment(node.id));
        let is_needed = self.rules.is_spread() && self.plan.maintenance_since_us.is_some_and(is_left);
        if node.jobs.is_empty() && !is_needed {
            self.crash(machine, Fault::Drain);
            let pause_us = self.world.between(50_000, 400_000);
            self.world.after(pause_us, Event::Fault(Step::Start(machine)));
        } else {
            self.world.after(5_000, Event::Fault(Step::Leave(machine)));
        }
    }
}
