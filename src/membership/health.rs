//! Whether something that is tried again and again works, so that the log hears of changes only.

use std::io;

/// How the last attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Well; also before the first one.
    Works,
    Fails,
}

/// What an attempt has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Same,
    /// It worked until now.
    Broke,
    /// It failed until now.
    Recovered,
}

impl Health {
    /// Takes the outcome of the next attempt.
    pub(super) fn turn<T>(&mut self, outcome: &io::Result<T>) -> Turn {
        let now = if outcome.is_ok() { Self::Works } else { Self::Fails };
        match (std::mem::replace(self, now), now) {
            (Self::Works, Self::Fails) => Turn::Broke,
            (Self::Fails, Self::Works) => Turn::Recovered,
            _ => Turn::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_failure_and_the_first_success_after_it_are_news() {
        let mut health = Health::Works;
        let failed = || Err(io::Error::from(io::ErrorKind::NetworkDown));
        let turns = [Ok(()), failed(), failed(), Ok(()), Ok(()), failed()].map(|outcome| health.turn(&outcome));
        assert_eq!(turns, [Turn::Same, Turn::Broke, Turn::Same, Turn::Recovered, Turn::Same, Turn::Broke]);
    }
}
