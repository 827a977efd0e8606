//! What goes wrong, one thing at a time: the next fault waits until the cluster has caught up with the last.

use crate::{
    cluster::{Cluster, DRAIN, machine_of},
    story,
    world::Event,
};

/// How often the schedule looks at the cluster.
const POLL_US: u64 = 20_000;

/// A healed cluster must have caught up within this time.
const CATCH_UP_US: u64 = 15_000_000;

/// The longest a request may take with all its retries.
const LONGEST_CALL_US: u64 = 6_000_000;

/// Bytes by which a queue may pass its bound: the message that filled it.
const ONE_MESSAGE: usize = 2_048;

/// How long nothing is asked before the nodes are compared.
const SETTLE_US: u64 = 1_500_000;

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
    /// Compares the nodes.
    Settled,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed; what it had written still arrives.
    Kill,
    /// The machine loses its power; what was under way is gone.
    PowerCut,
    /// The process stops and goes on later.
    Pause,
    /// Connections of a machine are cut, one or all.
    Cut,
    /// Nothing passes between two machines for a while.
    Stall,
    /// Everything to and from a machine takes long for a while.
    Slow,
    /// The node is drained, leaves and comes back.
    Drain,
}

/// The schedule of one run.
pub(crate) struct Plan {
    left: usize,
    /// The current fault lasts until then.
    busy_until_us: u64,
    healed_us: u64,
    calm: usize,
    /// Since when the last fault is maintenance, which nobody may notice.
    pub(crate) maintenance_since_us: Option<u64>,
    /// Two machines that the last fault keeps from hearing each other, though the balancer reaches both, until that is
    /// healed.
    pub(crate) split: Option<[usize; 2]>,
    /// What happened, for the report of a violation.
    pub(crate) log: Vec<String>,
}

impl Plan {
    /// So many faults.
    pub(crate) fn new(faults: usize, now_us: u64) -> Self {
        Self {
            left: faults,
            busy_until_us: now_us,
            healed_us: now_us,
            calm: 0,
            maintenance_since_us: None,
            split: None,
            log: Vec::new(),
        }
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
        if now_us < self.plan.busy_until_us {
            self.plan.healed_us = now_us;
        }
        let calm = now_us >= self.plan.busy_until_us && self.is_caught_up();
        self.plan.calm = if calm { self.plan.calm + 1 } else { 0 };
        if now_us > self.plan.healed_us + CATCH_UP_US && !calm {
            self.checker.violate(format!("the cluster never caught up: {}", self.why_not_caught_up()));
        }
        if self.plan.calm >= 2 {
            self.plan.healed_us = now_us;
            self.plan.split = None;
            if self.plan.left == 0 {
                return self.close();
            }
            if self.world.percent(30) {
                self.plan.calm = 0;
                self.plan.left -= 1;
                self.begin_fault();
            }
        }
        self.world.after(POLL_US, Event::Fault(Step::Poll));
    }

    fn close(&mut self) {
        self.closing = true;
        if self.tabs.iter().any(|tab| tab.current.is_some()) {
            self.world.after(POLL_US, Event::Fault(Step::Poll));
        } else {
            self.world.after(SETTLE_US, Event::Fault(Step::Settled));
        }
    }

    fn notice_endless_calls(&mut self) {
        let now_us = self.world.now_us();
        let pending = self.tabs.iter().filter_map(|tab| tab.current.as_ref());
        if pending.into_iter().any(|pending| now_us > pending.since_us + LONGEST_CALL_US) {
            self.checker.violate("a request waits for ever");
        }
    }

    fn compare(&mut self) {
        let now = self.world.moment();
        let nodes = self.machines.iter().filter_map(|machine| machine.node.as_ref());
        for what in nodes.clone().filter_map(|node| node.unfinished(now)) {
            self.checker.violate(what);
        }
        let holdings: Vec<_> = nodes.map(crate::node::Node::holdings).collect();
        // Such a node is to be noticed by what users see, not by looking into it.
        let lenient = self.canary == Some(crate::Canary::TombstoneDropped);
        self.checker.settled(&holdings, lenient);
    }

    fn begin_fault(&mut self) {
        use Fault::{Cut, Drain, Kill, Pause, PowerCut, Slow, Stall};
        let all = [Kill, PowerCut, Pause, Pause, Cut, Stall, Slow, Drain];
        let Some(fault) = self.world.pick(&all) else { return };
        let machine = self.world.between(0, self.machines.len() as u64 - 1) as usize;
        let (now_us, long_us) = (self.world.now_us(), self.world.between(50_000, 1_200_000));
        self.plan.log.push(format!("{fault:?} of machine {machine} at {now_us} us for {long_us} us"));
        story::tell_all(self.plan.log.last());
        self.plan.busy_until_us = now_us + long_us;
        self.plan.maintenance_since_us = (fault == Drain).then_some(now_us);
        match fault {
            Kill | PowerCut => {
                self.crash(machine, fault);
                self.world.after(long_us, Event::Fault(Step::Start(machine)));
            }
            Pause => self.pause(machine, long_us),
            Cut => self.cut(machine),
            Stall => {
                let other = (machine + 1 + self.world.between(0, self.machines.len() as u64 - 2) as usize)
                    % self.machines.len();
                self.plan.split = Some([machine, other]);
                self.wire.stall(machine, other, now_us + long_us);
            }
            Slow => {
                let by_us = self.world.between(5_000, 150_000);
                self.wire.slow_down(machine, now_us + long_us, by_us);
            }
            Drain => {
                if let Some(id) = self.machines[machine].node.as_ref().map(|node| node.id) {
                    self.set_duty(id, DRAIN);
                }
                // The balancer hears of it before the node leaves, and of its return when it serves.
                self.failed_until[machine] = u64::MAX;
                self.plan.busy_until_us = now_us + long_us + 1_000_000;
                self.world.after(long_us, Event::Fault(Step::Leave(machine)));
            }
        }
    }

    fn cut(&mut self, machine: usize) {
        let all = self.world.percent(50);
        let conns = self.wire.select(|conn| machine_of(conn.dialer) == machine || machine_of(conn.acceptor) == machine);
        for conn in conns {
            if all || self.world.percent(30) {
                self.wire.cut(conn, &mut self.world);
            }
        }
    }

    fn leave(&mut self, machine: usize) {
        let Some(node) = self.machines[machine].node.as_ref() else { return };
        if node.jobs.is_empty() {
            self.crash(machine, Fault::Drain);
            let pause_us = self.world.between(50_000, 400_000);
            self.world.after(pause_us, Event::Fault(Step::Start(machine)));
        } else {
            self.world.after(5_000, Event::Fault(Step::Leave(machine)));
        }
    }
}
