//! Keeps the log readable when every request fails: so many lines a second, and a count of the others.

use std::time::Duration;

use crate::time::Moment;

/// Counts lines of one kind.
#[derive(Debug)]
pub(crate) struct Throttle {
    most: u32,
    since: Moment,
    written: u32,
    swallowed: u64,
}

/// Whether a line may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Write it, and say how many were swallowed before it.
    Write {
        /// Lines not written since the last one that was.
        swallowed: u64,
    },
    /// Do not.
    Swallow,
}

impl Throttle {
    /// At most `most` lines a second.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, since: Moment::default(), written: 0, swallowed: 0 }
    }

    /// Asks for one line.
    pub(crate) fn line(&mut self, now: Moment) -> Line {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.written) = (now, 0);
        }
        if self.written >= self.most {
            self.swallowed += 1;
            return Line::Swallow;
        }
        self.written += 1;
        Line::Write { swallowed: std::mem::take(&mut self.swallowed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut throttle = Throttle::new(2);
        let lines: Vec<_> = [5_000, 5_001, 5_002, 5_900].map(|now| throttle.line(Moment(now))).into();
        assert_eq!(lines, [Line::Write { swallowed: 0 }, Line::Write { swallowed: 0 }, Line::Swallow, Line::Swallow]);
        assert_eq!(throttle.line(Moment(6_000)), Line::Write { swallowed: 2 });
    }
}
