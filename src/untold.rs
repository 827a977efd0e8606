//! What the log has not told yet of something that others can make happen as often as they like: how often it has
//! happened and what it was last, one line at a time and not too many of them.

use std::time::Duration;

use crate::time::Moment;

/// Things of one kind. Pure: who has one asks it again in time, or the last of many stay untold.
#[derive(Clone, Debug)]
pub(crate) struct Untold<T> {
    last: Option<T>,
    count: u64,
    next: Moment,
}

impl<T> Default for Untold<T> {
    fn default() -> Self {
        Self { last: None, count: 0, next: Moment::default() }
    }
}

impl<T> Untold<T> {
    /// One more, and what it was.
    pub(crate) fn note(&mut self, what: T) {
        self.last = Some(what);
        self.count += 1;
    }

    /// What it was last.
    pub(crate) fn last(&self) -> Option<&T> {
        self.last.as_ref()
    }

    /// When the next line may be written.
    pub(crate) fn next(&self) -> Moment {
        self.next
    }

    /// The last one and how many there were since the line before: to be told now, and then not for `pause`. None when there
    /// is nothing to tell, or not yet.
    pub(crate) fn due(&mut self, now: Moment, pause: Duration) -> Option<(T, u64)> {
        if now < self.next {
            return None;
        }
        let last = self.last.take()?;
        self.next = now + pause;
        Some((last, std::mem::take(&mut self.count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_of_the_others_their_number_and_the_last() {
        let (mut untold, pause, start) = (Untold::default(), Duration::from_secs(10), Moment(5));
        assert_eq!(untold.due(start, pause), None, "nothing has happened");
        untold.note("first");
        assert_eq!(untold.due(start, pause), Some(("first", 1)));
        (0..1_000).for_each(|_| untold.note("again"));
        untold.note("last");
        assert_eq!((untold.due(start + pause / 2, pause), untold.next()), (None, start + pause));
        assert_eq!(untold.due(start + pause, pause), Some(("last", 1_001)));
        assert_eq!(untold.due(start + pause * 5, pause), None, "all is told");
    }
}
