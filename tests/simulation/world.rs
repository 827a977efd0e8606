//! The scheduler: virtual time, one ordered queue of events, one random source. Nothing else decides what happens next,
//! so the same seed gives the same run.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tasuki::names::NodeId;

use crate::{client::Heard, node::Input, schedule::Step, story};

/// One thing that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// To one life of a node: nothing when that life has ended, later when it is paused.
    Node(NodeId, Input),
    /// To one tab of a user's browser, behind the balancer.
    Tab(usize, Heard),
    /// To the schedule of faults.
    Fault(Step),
}

/// Virtual time and everything that is still to come.
pub(crate) struct World {
    now_us: u64,
    step: u64,
    next: u64,
    /// Boxed, because a tree moves what is in it.
    queue: BTreeMap<(u64, u64), Box<Event>>,
    rng: StdRng,
    trace: DefaultHasher,
}

impl World {
    /// A world in which nothing has been planned.
    pub(crate) fn new(seed: u64) -> Self {
        let now_us = 1_000_000_000;
        let (queue, rng, trace) = (BTreeMap::new(), StdRng::seed_from_u64(seed), DefaultHasher::new());
        Self { now_us, step: 0, next: 0, queue, rng, trace }
    }

    /// The time in microseconds: finer than what nodes see, so that order is not lost.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Events handled so far.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Stands for everything that has happened.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Plans an event `delay_us` from now, behind those already planned for the same time.
    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    /// Plans an event for a time that is not past.
    pub(crate) fn at(&mut self, at_us: u64, event: Event) {
        debug_assert!(at_us >= self.now_us, "time does not run backwards");
        self.next += 1;
        self.queue.insert((at_us, self.next), Box::new(event));
    }

    /// The next event; time moves to it.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let ((at_us, _), event) = self.queue.pop_first()?;
        self.now_us = at_us;
        self.step += 1;
        story::now(at_us);
        at_us.hash(&mut self.trace);
        event.note(&mut self.trace);
        Some(*event)
    }

    /// Forgets planned events.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Event) -> bool) {
        self.queue.retain(|_, event| keep(event));
    }

    /// Draws a number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..=high)
    }

    /// Draws yes with this probability in percent.
    pub(crate) fn percent(&mut self, yes: u64) -> bool {
        self.between(1, 100) <= yes
    }

    /// Draws one of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let last = from.len().checked_sub(1)?;
        Some(from[self.between(0, last as u64) as usize])
    }
}

impl Event {
    fn note(&self, trace: &mut DefaultHasher) {
        match self {
            Self::Node(node, input) => {
                node.hash(trace);
                std::mem::discriminant(input).hash(trace);
                if let Input::Bytes { bytes, .. } = input {
                    bytes.hash(trace);
                }
            }
            Self::Tab(tab, heard) => {
                tab.hash(trace);
                std::mem::discriminant(heard).hash(trace);
            }
            Self::Fault(step) => std::mem::discriminant(step).hash(trace),
        }
    }
}
