//! What requests lacked: how often, and when the log says so.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{limits, time::Moment};

/// Counts what an administrator should look at: writes that too few nodes could hold, new sessions without room.
#[derive(Debug, Default)]
pub struct Shortage {
    count: AtomicU64,
    told: AtomicU64,
}

impl Shortage {
    /// One more. True when it is time for a line in the log: the first one, and then not more than one in
    /// [`limits::SHORTAGE_TOLD`].
    pub(super) fn note(&self, now: Moment) -> bool {
        self.count.fetch_add(1, Relaxed);
        let told = self.told.load(Relaxed);
        let due = told == 0 || now.since(Moment(told)) >= limits::SHORTAGE_TOLD;
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
    fn every_refused_write_is_counted_and_few_are_told() {
        let (shortage, start) = (Shortage::default(), Moment(5_000_000));
        assert!(shortage.note(start));
        assert!(!shortage.note(start + limits::SHORTAGE_TOLD / 2));
        assert!(shortage.note(start + limits::SHORTAGE_TOLD));
        assert!(!shortage.note(start + limits::SHORTAGE_TOLD));
        assert_eq!(shortage.count(), 4);
    }
}
