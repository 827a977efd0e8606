//! What an administrator should look at: how often it happened, and when the log says so.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{limits, time::Moment};

/// Counts one kind of it: writes that too few nodes hold or could hold, new sessions without room.
#[derive(Debug, Default)]
pub struct Notable {
    count: AtomicU64,
    told: AtomicU64,
}

impl Notable {
    /// One more. True when it is time for a line in the log: the first one, and then not more than one in
    /// [`limits::NOTABLE_TOLD`].
    pub(super) fn note(&self, now: Moment) -> bool {
        self.count.fetch_add(1, Relaxed);
        let told = self.told.load(Relaxed);
        let due = told == 0 || now.since(Moment(told)) >= limits::NOTABLE_TOLD;
        // Of several workers one tells.
        due && self.told.compare_exchange(told, now.0.max(1), Relaxed, Relaxed).is_ok()
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_few_of_it_are_told() {
        let (notable, start) = (Notable::default(), Moment(5_000_000));
        assert!(notable.note(start));
        assert!(!notable.note(start + limits::NOTABLE_TOLD / 2));
        assert!(notable.note(start + limits::NOTABLE_TOLD));
        assert!(!notable.note(start + limits::NOTABLE_TOLD));
        assert_eq!(notable.count(), 4);
    }
}
