//! The clock of the shells. Cores take a [`Moment`] as an argument and never ask for one.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of this machine's boot-time clock, which also counts while the machine sleeps
/// (CLOCK_BOOTTIME, clock_gettime(2)).
///
/// Never sent to another machine: what travels is a duration ("idle for 20 ms").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Moment(pub u64);

/// The clock shows this many milliseconds, about ten years, when the machine starts: a session that comes from elsewhere
/// may have been idle for longer than this machine runs.
const AT_BOOT: u64 = 1 << 38;

impl Moment {
    /// Asks the operating system. Only shells call this.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(AT_BOOT + time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000)
    }

    /// For how long the machine has been running.
    pub fn since_boot(self) -> Duration {
        self.since(Self(AT_BOOT))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_millis().try_into().unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    /// Stops at the start of the clock.
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_millis().try_into().unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_run_backwards() {
        let earlier = Moment::now();
        assert!(Moment::now() >= earlier);
        assert_eq!(earlier.since(earlier + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(Moment(5) - Duration::from_secs(1), Moment(0));
    }

    #[test]
    fn a_moment_before_the_machine_started_can_be_told() {
        let (now, month) = (Moment::now(), Duration::from_secs(30 * 24 * 3_600));
        assert!(now.since_boot() < month * 100, "this machine has not run for eight years");
        assert_eq!(now.since(now - month * 100), month * 100);
    }
}
