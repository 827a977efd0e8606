//! The clocks of the machines: no two agree on the time, and none runs quite like another.

use tasuki::time::Moment;

use crate::world::World;

/// The boot clock of one machine, which counts pauses and sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    ahead_us: u64,
    /// Its microseconds in a million real ones.
    rate: u64,
}

/// A second takes this much more or less, in microseconds: far worse than any quartz, and within the margin of leases.
const DRIFT: u64 = 30_000;

/// Machines have been up for so long at most.
const UPTIME_US: u64 = 30 * 24 * 3_600 * 1_000_000;

impl Clock {
    /// The clock of a machine that was started at some time.
    pub(crate) fn drawn(world: &mut World) -> Self {
        // Long enough for spans before now to exist.
        let ahead_us = world.between(3_600_000_000, UPTIME_US);
        Self { ahead_us, rate: world.between(1_000_000 - DRIFT, 1_000_000 + DRIFT) }
    }

    /// What it shows.
    pub(crate) fn moment(self, now_us: u64) -> Moment {
        let ran_us = u128::from(now_us) * u128::from(self.rate) / 1_000_000;
        Moment((self.ahead_us + ran_us as u64) / 1_000)
    }

    /// It shows a later time: the machine slept, and the world did not notice how long.
    pub(crate) fn jump(&mut self, by_us: u64) {
        self.ahead_us += by_us;
    }
}
