//! Whether one member is alive, from health checks and from what requests met. A state machine without a clock.
//!
//! ```text
//!          good                 fall bad ones, or refused
//!   New ─────────► Good ─────────────────────────────────► Failed
//!    │ bad           ▲  broken and late requests count as bad  │
//!    └──► New        └─────────────── rise good ones ──────────┘
//! ```
//!
//! Beside it, [`Ejection`]: a member whose health checks are good and whose answers are not is left out for a time.

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
    /// Requests that one member may answer at once.
    pub(crate) member_connections: usize,
    /// Percent of all members that may be out of service before what requests meet takes out no more.
    pub(crate) max_ejected_percent: u32,
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

/// Whether a member is left out because of its answers. Health checks cannot end that, for they are good all the time: it
/// ends by itself, and lasts longer each time that follows soon (Envoy's outlier detection).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ejection {
    phase: Ejected,
    /// Ejections in a row.
    times: u32,
}

#[derive(Clone, Copy, Debug, Default)]
enum Ejected {
    #[default]
    Never,
    Since(Moment, Duration),
    /// Until when, and for how long.
    Until(Moment, Duration),
}

impl From<&settings::Balancer> for Rules {
    fn from(settings: &settings::Balancer) -> Self {
        Self {
            fall: settings.health_fall.get(),
            rise: settings.health_rise.get(),
            interval: settings.health_interval,
            retry: settings.retry,
            slow_start: settings.slow_start,
            member_connections: settings.member_connections.get(),
            max_ejected_percent: settings.max_ejected_percent,
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

    /// Whether one more bad one makes it a failed member.
    pub(crate) fn is_last_chance(&self, rules: &Rules) -> bool {
        matches!(self.phase, Phase::Good { bad } if bad + 1 >= rules.fall)
    }

    /// A request's connection was refused: nobody listens there, which needs no second opinion.
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

impl Rules {
    /// Whether what requests meet may take one more member out, while `out` of `members` are out of service for any
    /// reason. So it never takes the last one, unless the setting says 100.
    pub(crate) fn may_eject(&self, out: usize, members: usize) -> bool {
        (out + 1) * 100 <= members * self.max_ejected_percent as usize
    }
}

impl Ejection {
    /// Begins: for `retry`, and for once `retry` more each time that follows soon, up to [`limits::EJECTION_LONGEST`].
    pub(crate) fn begin(&mut self, rules: &Rules, now: Moment) {
        self.times = match self.phase {
            Ejected::Until(..) => return,
            Ejected::Since(ended, lasted) if now.since(ended) < lasted => self.times.saturating_add(1),
            Ejected::Since(..) | Ejected::Never => 1,
        };
        let span = rules.retry.saturating_mul(self.times).min(limits::EJECTION_LONGEST.max(rules.retry));
        self.phase = Ejected::Until(now + span, span);
    }

    /// It is left out now.
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.phase, Ejected::Until(..))
    }

    /// Ends what is over. True when it has.
    pub(crate) fn end(&mut self, now: Moment) -> bool {
        match self.phase {
            Ejected::Until(until, span) if until <= now => {
                self.phase = Ejected::Since(now, span);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules {
            fall: 3,
            rise: 2,
            interval: 2 * SECOND,
            retry: 5 * SECOND,
            slow_start: 10 * SECOND,
            member_connections: 9,
            max_ejected_percent: 50,
        }
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
    fn ejections_never_take_out_more_than_allowed() {
        let table = [
            // percent, out, members, may
            (50, 0, 1, false),
            (50, 0, 2, true),
            (50, 1, 2, false),
            (50, 0, 3, true),
            (50, 1, 3, false),
            (50, 4, 10, true),
            (50, 5, 10, false),
            (10, 0, 9, false),
            (10, 0, 10, true),
            (0, 0, 100, false),
            (100, 1, 2, true),
            (99, 99, 100, false),
        ];
        for (max_ejected_percent, out, members, may) in table {
            let rules = Rules { max_ejected_percent, ..rules() };
            assert_eq!(rules.may_eject(out, members), may, "{max_ejected_percent} % with {out} of {members} out");
        }
    }

    #[test]
    fn an_ejection_that_follows_soon_lasts_longer() {
        let (mut ejection, mut now) = (Ejection::default(), Moment(1_000));
        let mut lasted = |ejection: &mut Ejection, pause: Duration| {
            now = now + pause;
            ejection.begin(&rules(), now);
            ejection.begin(&rules(), now);
            let span = (1..1_000).find(|tenths| ejection.end(now + SECOND / 10 * *tenths)).unwrap();
            now = now + SECOND / 10 * span;
            assert!(!ejection.is_on());
            span / 10
        };
        assert_eq!(lasted(&mut ejection, SECOND), 5);
        assert_eq!(lasted(&mut ejection, SECOND), 10);
        assert_eq!(lasted(&mut ejection, SECOND), 15);
        assert_eq!(lasted(&mut ejection, 16 * SECOND), 5, "it was well for as long as it was out");
        let long = Rules { retry: 2 * limits::EJECTION_LONGEST, ..rules() };
        ejection.begin(&long, Moment(0));
        assert!(!ejection.end(Moment(0) + long.retry / 2) && ejection.end(Moment(0) + long.retry), "never below retry");
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
