//! How long to wait before a child that ended is started again.

use std::time::Duration;

use crate::limits;

/// Short lives in a row, and what they cost.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    short_lives: u32,
}

impl Backoff {
    /// The wait after a child that lived for `lived`: none the first time, then 0.1 s, doubling up to 5 s for as long
    /// as it lives less than 10 s.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= limits::SHORT_LIFE {
            self.short_lives = 0;
        }
        let wait = match self.short_lives {
            0 => Duration::ZERO,
            lives => limits::BACKOFF_FIRST.saturating_mul(1 << (lives - 1).min(16)).min(limits::BACKOFF_LAST),
        };
        self.short_lives = self.short_lives.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn a_child_is_started_again_at_once_and_then_more_slowly_each_time() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.after(SHORT).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn a_long_life_is_forgiven() {
        let mut backoff = Backoff::default();
        let last = (0..5).map(|_| backoff.after(SHORT)).last();
        assert_eq!(last, Some(Duration::from_millis(800)));
        assert_eq!(backoff.after(limits::SHORT_LIFE), Duration::ZERO);
        assert_eq!(backoff.after(SHORT), Duration::from_millis(100));
    }

    #[test]
    fn a_child_that_never_lives_does_not_overflow_the_wait() {
        let mut backoff = Backoff { short_lives: u32::MAX - 1 };
        assert_eq!(backoff.after(SHORT), limits::BACKOFF_LAST);
        assert_eq!(backoff.after(SHORT), limits::BACKOFF_LAST);
    }
}
