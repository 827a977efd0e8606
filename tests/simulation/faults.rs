//! What goes wrong: each kind of fault, how it begins, and whom it keeps apart.

use std::collections::BTreeSet;

use crate::{
    cluster::{Cluster, DRAIN, DRAINED, machine_of},
    schedule::Step,
    story,
    world::Event,
};

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed; what it had written still arrives.
    Kill,
    /// The machine loses its power; what was under way is gone.
    PowerCut,
    /// The process stops and goes on later.
    Pause,
    /// The same, and the machine's clock tells of a much longer time.
    Sleep,
    /// Connections of a machine are cut, one or all.
    Cut,
    /// Nothing passes between two machines for a while.
    Stall,
    /// Everything to and from a machine takes long for a while.
    Slow,
    /// The node is drained, leaves and comes back.
    Drain,
    /// All nodes are stopped on purpose, and started again.
    FullStop,
    /// Nothing passes between one machine and all others.
    Isolate,
    /// Nothing passes between two groups of machines.
    Partition,
    /// A machine is heard and hears nothing, or the other way round.
    OneWay,
    /// Some are told that a node is gone, which is not.
    WrongNews,
    /// The clock of a machine that is awake goes ahead. A boot clock never does that; it must not do lasting harm.
    Jump,
}

/// Faults of which nobody may notice more than a delay, and nobody at all what a second node held.
pub(crate) const ONE_BY_ONE: [Fault; 13] = {
    use Fault::{Cut, Drain, Isolate, Kill, OneWay, Partition, Pause, PowerCut, Sleep, Slow, Stall, WrongNews};
    [Kill, PowerCut, Pause, Pause, Sleep, Cut, Stall, Slow, Drain, Isolate, Partition, OneWay, WrongNews]
};

/// The same with full stops, among what can go wrong just before or after one.
pub(crate) const STOPS: [Fault; 9] = {
    use Fault::{Cut, Drain, FullStop, Kill, Pause, PowerCut, WrongNews};
    [FullStop, FullStop, FullStop, Kill, PowerCut, Pause, Cut, Drain, WrongNews]
};

/// All at once: then only what holds always is promised.
pub(crate) const STORM: [Fault; 13] = {
    use Fault::{Cut, Drain, Isolate, Jump, Kill, OneWay, Partition, Pause, PowerCut, Sleep, Slow, Stall, WrongNews};
    [Kill, PowerCut, Pause, Sleep, Cut, Stall, Slow, Drain, Isolate, Partition, OneWay, WrongNews, Jump]
};

/// Machines that do not hear each other, or were told so wrongly, though the balancer may reach both.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    pairs: BTreeSet<(usize, usize)>,
    /// Where some took another one for gone, and may have gone on without it.
    misled: BTreeSet<usize>,
    /// Where two sides go on, neither of which knows what the other one does: on which a machine is.
    sides: Option<Vec<bool>>,
}

impl Apart {
    /// Whether there is a machine that this one does not hear.
    pub(crate) fn touches(&self, machine: usize) -> bool {
        self.pairs.iter().any(|(a, b)| *a == machine || *b == machine)
    }

    /// Whether this machine may have written what nobody else was told: it does not hear one, or takes one for gone.
    pub(crate) fn may_be_alone(&self, machine: usize) -> bool {
        self.touches(machine) || self.misled.contains(&machine)
    }

    /// The machine's side, if there are two.
    pub(crate) fn side(&self, machine: usize) -> Option<bool> {
        self.sides.as_ref().map(|sides| sides[machine])
    }

    /// Everybody hears everybody, and knows so.
    pub(crate) fn is_over(&self) -> bool {
        self.pairs.is_empty() && self.misled.is_empty()
    }

    fn add(&mut self, a: usize, b: usize) {
        self.pairs.insert((a.min(b), a.max(b)));
    }
}

/// What a fault has held up has arrived by then: a link that was cut catches up, and who claims gives up.
const LATE_CLAIMS_US: u64 = 1_000_000;

impl Cluster {
    /// Something goes wrong.
    pub(crate) fn begin_fault(&mut self, fault: Fault) {
        let machine = self.world.between(0, self.machines.len() as u64 - 1) as usize;
        let (now_us, long_us) = (self.world.now_us(), self.world.between(50_000, 1_200_000));
        let until_us = now_us + long_us;
        self.plan.log.push(format!("{fault:?} of machine {machine} at {now_us} us for {long_us} us"));
        story::tell_all(self.plan.log.last());
        self.plan.lasts_until(until_us);
        self.plan.maintenance_since_us = (fault == Fault::Drain && !self.plan.is_storm).then_some(now_us);
        if fault != Fault::Drain {
            self.plan.late_claims_until_us = self.plan.late_claims_until_us.max(until_us + LATE_CLAIMS_US);
        }
        match fault {
            Fault::Kill | Fault::PowerCut => {
                self.crash(machine, fault);
                self.world.after(long_us, Event::Fault(Step::Start(machine)));
            }
            Fault::Pause => self.pause(machine, long_us),
            Fault::Sleep => self.sleep(machine, long_us),
            Fault::Cut => self.cut(machine),
            // Between two machines that is a partition.
            Fault::Stall if self.machines.len() == 2 => self.partition(vec![true, false], until_us),
            Fault::Stall => self.stall(machine, until_us),
            Fault::Slow => {
                let by_us = self.world.between(5_000, 150_000);
                self.wire.slow_down(machine, until_us, by_us);
            }
            Fault::Drain => self.drain(machine, long_us),
            Fault::FullStop => self.begin_full_stop(until_us),
            Fault::Isolate => {
                let sides = (0..self.machines.len()).map(|other| other == machine).collect();
                self.partition(sides, until_us);
            }
            Fault::Partition => {
                let drawn = (0..self.machines.len()).map(|other| other == machine || self.world.percent(50));
                let mut sides: Vec<bool> = drawn.collect();
                let last = (machine + 1) % sides.len();
                sides[last] = false;
                self.partition(sides, until_us);
            }
            Fault::OneWay => self.one_way(machine, until_us),
            Fault::WrongNews => self.wrong_news(machine, until_us),
            Fault::Jump => {
                let by_us = self.world.between(1_000, 3_000_000);
                self.machines[machine].clock.jump(by_us);
            }
        }
    }

    fn sleep(&mut self, machine: usize, long_us: u64) {
        self.pause(machine, long_us);
        // Sessions that end soon are rightly over for a node that slept.
        if !self.rules.is_short() {
            let by_us = self.world.between(0, 100_000_000);
            self.machines[machine].clock.jump(by_us);
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

    fn stall(&mut self, machine: usize, until_us: u64) {
        let count = self.machines.len();
        let other = (machine + 1 + self.world.between(0, count as u64 - 2) as usize) % count;
        self.plan.apart.add(machine, other);
        self.wire.block(machine, other, until_us);
        self.wire.block(other, machine, until_us);
    }

    fn drain(&mut self, machine: usize, long_us: u64) {
        if let Some(id) = self.machines[machine].node.as_ref().map(|node| node.id) {
            self.set_duty(id, DRAIN);
        }
        // The balancer hears of it before the node leaves, and of its return when it serves.
        self.failed_until[machine] = DRAINED;
        self.plan.lasts_until(self.world.now_us() + long_us + 1_000_000);
        self.world.after(long_us, Event::Fault(Step::Leave(machine)));
    }

    fn partition(&mut self, sides: Vec<bool>, until_us: u64) {
        let count = sides.len();
        let across = |a: &usize, b: &usize| sides[*a] != sides[*b];
        let pairs: Vec<(usize, usize)> =
            (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| across(a, b)).collect();
        for (a, b) in pairs.iter().copied() {
            self.wire.block(a, b, until_us);
            self.plan.apart.add(a, b);
        }
        if self.world.percent(50) {
            let hidden = (0..count).filter(|machine| sides[*machine]);
            hidden.for_each(|machine| self.unreachable_until[machine] = until_us);
        }
        self.plan.apart.sides = Some(sides);
        self.lose_sight(pairs, until_us);
    }

    fn one_way(&mut self, machine: usize, until_us: u64) {
        let is_mute = self.world.percent(50);
        let others = (0..self.machines.len()).filter(|other| *other != machine).collect::<Vec<_>>();
        for other in others.iter().copied() {
            let (from, to) = if is_mute { (machine, other) } else { (other, machine) };
            self.wire.block(from, to, until_us);
            self.plan.apart.add(machine, other);
        }
        self.plan.apart.sides = Some((0..self.machines.len()).map(|other| other == machine).collect());
        // Who hears nothing misses the others; who is not heard is missed by them.
        let pairs = others.into_iter().map(|other| if is_mute { (other, machine) } else { (machine, other) });
        self.lose_sight(pairs.collect(), until_us);
    }

    fn wrong_news(&mut self, machine: usize, until_us: u64) {
        let others = (0..self.machines.len()).filter(|other| *other != machine);
        let misled: Vec<usize> = others.filter(|_| self.world.percent(60)).collect();
        let long_us = until_us - self.world.now_us();
        for other in misled {
            self.plan.apart.misled.insert(other);
            // Heard before it is put right: otherwise it would be part of the next fault.
            self.tell_gone(other, machine, long_us.min(100_000));
        }
        self.world.after(long_us, Event::Fault(Step::Truth));
    }

    /// Of each pair the first may come to believe that the second is gone, until it hears of it again.
    fn lose_sight(&mut self, pairs: Vec<(usize, usize)>, until_us: u64) {
        let long_us = until_us - self.world.now_us();
        if long_us > 300_000 && self.world.percent(50) {
            pairs.into_iter().for_each(|(observer, subject)| self.tell_gone(observer, subject, long_us));
        }
        self.world.after(long_us, Event::Fault(Step::Truth));
    }
}
