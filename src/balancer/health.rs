//! Whether one member is alive, from health checks and from what requests met. A state machine without a clock.
//!
//! ```text
//!          good                 fall bad ones, or refused
//!   New ─────────► Good ─────────────────────────────────► Failed
//!    │ bad           ▲  broken and late requests count as bad  │
//!    └──► New        └─────────────── rise good ones ──────────┘
//! ```

use std::time::Duration;

use crate::{limits, settings, time::Moment};

/// How strictly members are judged.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Bad ones in a row that make a good member a failed one.
    pub(crate) fall: u32,
    /// Good ones in a row that make a failed member a good one.
    pub(crate) rise: u32,
    /// Between checks of a good member.
    pub(crate) interval: Duration,
    /// Between checks of a member that has failed for long.
    pub(crate) retry: Duration,
    /// How long a member that comes back gets a growing share of new sessions.
    pub(crate) slow_start: Duration,
}

/// The health of one life of one member.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    phase: Phase,
    /// When the phase, or what the member wants, last changed.
    changed: Moment,
    /// When it is to be checked next.
    due: Moment,
}

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has never answered.
    New {
        /// It was asked, in vain.
        asked: bool,
    },
    /// It answers.
    Good {
        /// Bad ones in a row.
        bad: u32,
    },
    /// It does not answer.
    Failed {
        /// Good ones in a row.
        good: u32,
    },
}

impl From<&settings::Balancer> for Rules {
    fn from(settings: &settings::Balancer) -> Self {
        Self {
            fall: settings.health_fall.get(),
            rise: settings.health_rise.get(),
            interval: settings.health_interval,
            retry: settings.retry,
            slow_start: settings.slow_start,
        }
    }
}

impl Health {
    /// Of a member nothing is known of: to be checked at once.
    pub(crate) fn new(now: Moment) -> Self {
        Self { phase: Phase::New { asked: false }, changed: now, due: now }
    }

    /// What is known now.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether a check is due.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        self.due <= now
    }

    /// A check found it alive.
    pub(crate) fn good(&mut self, rules: &Rules, now: Moment) {
        let phase = match self.phase {
            Phase::New { .. } | Phase::Good { .. } => Phase::Good { bad: 0 },
            Phase::Failed { good } if good + 1 >= rules.rise => Phase::Good { bad: 0 },
            Phase::Failed { good } => Phase::Failed { good: good + 1 },
        };
        self.turn(phase, now);
        self.plan(rules, now);
    }

    /// A check failed, or a request met a broken connection or no answer in time.
    pub(crate) fn bad(&mut self, rules: &Rules, now: Moment) {
        let phase = match self.phase {
            Phase::New { .. } => Phase::New { asked: true },
            Phase::Good { bad } if bad + 1 >= rules.fall => Phase::Failed { good: 0 },
            Phase::Good { bad } => Phase::Good { bad: bad + 1 },
            Phase::Failed { .. } => Phase::Failed { good: 0 },
        };
        self.turn(phase, now);
        self.plan(rules, now);
    }

    /// A request was refused: nobody listens there, which needs no second opinion.
    pub(crate) fn refused(&mut self, rules: &Rules, now: Moment) {
        if matches!(self.phase, Phase::Good { .. }) {
            self.turn(Phase::Failed { good: 0 }, now);
        }
        self.plan(rules, now);
    }

    /// What the member wants has changed: for a while it is checked fast.
    pub(crate) fn stir(&mut self, now: Moment) {
        self.changed = now;
        self.due = now;
    }

    fn turn(&mut self, phase: Phase, now: Moment) {
        if std::mem::discriminant(&phase) != std::mem::discriminant(&self.phase) {
            self.changed = now;
        }
        self.phase = phase;
    }

    fn plan(&mut self, rules: &Rules, now: Moment) {
        let changing = now.since(self.changed) < limits::FAST_PROBE_SPAN;
        let pace = match self.phase {
            Phase::Good { bad: 1.. } | Phase::Failed { good: 1.. } => limits::FAST_PROBE,
            Phase::New { .. } | Phase::Failed { good: 0 } if changing => limits::FAST_PROBE,
            Phase::New { .. } | Phase::Failed { .. } => rules.retry,
            Phase::Good { .. } => rules.interval,
        };
        self.due = now + pace;
    }

    /// Like a plan, but soon: the member said it is about to change (starting, draining).
    pub(crate) fn soon(&mut self, rules: &Rules, now: Moment) {
        let changing = now.since(self.changed) < limits::FAST_PROBE_SPAN;
        self.due = now + if changing { limits::FAST_PROBE } else { rules.interval };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules { fall: 3, rise: 2, interval: 2 * SECOND, retry: 5 * SECOND, slow_start: 10 * SECOND }
    }

    fn good_member() -> Health {
        let mut health = Health::new(Moment(0));
        health.good(&rules(), Moment(0));
        health
    }

    #[test]
    fn a_new_member_is_checked_at_once_and_good_after_one_answer() {
        let mut health = Health::new(Moment(7));
        assert!(health.is_due(Moment(7)));
        health.bad(&rules(), Moment(7));
        assert_eq!(health.phase(), Phase::New { asked: true });
        health.good(&rules(), Moment(8));
        assert_eq!(health.phase(), Phase::Good { bad: 0 });
    }

    #[test]
    fn one_refusal_fails_a_member() {
        let mut health = good_member();
        health.refused(&rules(), Moment(1));
        assert_eq!(health.phase(), Phase::Failed { good: 0 });
    }

    #[test]
    fn a_good_member_falls_after_three_bad_ones_in_a_row() {
        let mut health = good_member();
        for (verdict, bad) in [(false, 1), (false, 2), (true, 0), (false, 1), (false, 2)] {
            if verdict {
                health.good(&rules(), Moment(1))
            } else {
                health.bad(&rules(), Moment(1))
            }
            assert_eq!(health.phase(), Phase::Good { bad });
        }
        health.bad(&rules(), Moment(1));
        assert_eq!(health.phase(), Phase::Failed { good: 0 });
    }

    #[test]
    fn a_failed_member_rises_after_two_good_ones_in_a_row() {
        let mut health = good_member();
        health.refused(&rules(), Moment(0));
        health.good(&rules(), Moment(1));
        health.bad(&rules(), Moment(2));
        health.good(&rules(), Moment(3));
        assert_eq!(health.phase(), Phase::Failed { good: 1 });
        health.good(&rules(), Moment(4));
        assert_eq!(health.phase(), Phase::Good { bad: 0 });
    }

    #[test]
    fn checks_are_fast_while_a_member_changes_and_slow_when_it_has_settled() {
        let due_after =
            |health: &Health, now: Moment, span| health.is_due(now + span) && !health.is_due(now + span / 2);
        let mut health = good_member();
        assert!(due_after(&health, Moment(0), 2 * SECOND), "good: the interval");
        health.bad(&rules(), Moment(0));
        assert!(due_after(&health, Moment(0), limits::FAST_PROBE), "doubtful: fast");
        health.refused(&rules(), Moment(0));
        assert!(due_after(&health, Moment(0), limits::FAST_PROBE), "just failed: fast");
        let later = Moment(0) + limits::FAST_PROBE_SPAN;
        health.bad(&rules(), later);
        assert!(due_after(&health, later, 5 * SECOND), "failed for long: retry");
        health.good(&rules(), later);
        assert!(due_after(&health, later, limits::FAST_PROBE), "coming back: fast");
    }

    #[test]
    fn a_member_that_says_it_is_changing_is_asked_again_soon() {
        let mut health = good_member();
        health.stir(Moment(100));
        assert!(health.is_due(Moment(100)));
        health.soon(&rules(), Moment(100));
        assert!(!health.is_due(Moment(100)) && health.is_due(Moment(100) + limits::FAST_PROBE));
    }
}
