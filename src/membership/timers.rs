//! The timers foca asks for, in the order in which it must get them back.

use std::collections::VecDeque;

use foca::{Identity as _, Timer, TimerToken};

use super::identity::Identity;
use crate::time::Moment;

/// One ordered queue. It does not grow without bound: timers that foca would ignore are dropped when a newer one
/// shows it, and at most one removal waits for each address.
#[derive(Default)]
pub(super) struct Timers(VecDeque<(Moment, Timer<Identity>)>);

impl Timers {
    /// Adds a timer behind all that are due no later.
    pub(super) fn add(&mut self, at: Moment, timer: Timer<Identity>) {
        match (token(&timer), &timer) {
            (Some(new), _) => self.0.retain(|(_, old)| token(old).is_none_or(|old| old == new)),
            (None, Timer::RemoveDown(new)) => self.0.retain(|(_, old)| !removes(old, new)),
            (None, _) => {}
        }
        let place = self.0.partition_point(|(due, queued)| (*due, queued) <= (at, &timer));
        self.0.insert(place, (at, timer));
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.0.front().map(|(due, _)| *due)
    }

    /// The first one, if it is due.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Timer<Identity>> {
        self.0.pop_front_if(|(due, _)| *due <= now).map(|(_, timer)| timer)
    }
}

/// Foca changes its token when it wants all earlier timers with one forgotten.
fn token(timer: &Timer<Identity>) -> Option<TimerToken> {
    match timer {
        Timer::ProbeRandomMember(token)
        | Timer::SendIndirectProbe { token, .. }
        | Timer::ChangeSuspectToDown { token, .. }
        | Timer::PeriodicAnnounce(token)
        | Timer::PeriodicAnnounceDown(token)
        | Timer::PeriodicGossip(token) => Some(*token),
        Timer::RemoveDown(_) => None,
    }
}

fn removes(timer: &Timer<Identity>, identity: &Identity) -> bool {
    matches!(timer, Timer::RemoveDown(old) if old.addr() == identity.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone(port: u16) -> Identity {
        Identity::of_address(([127, 0, 0, 1], port).into())
    }

    fn all(mut timers: Timers) -> Vec<Timer<Identity>> {
        std::iter::from_fn(|| timers.pop(Moment(u64::MAX))).collect()
    }

    #[test]
    fn timers_come_back_in_order_and_only_when_due() {
        let mut timers = Timers::default();
        let indirect = Timer::SendIndirectProbe { probed_id: someone(1), token: 0 };
        timers.add(Moment(30), Timer::ProbeRandomMember(0));
        timers.add(Moment(10), Timer::PeriodicGossip(0));
        timers.add(Moment(30), indirect.clone());
        assert_eq!((timers.next(), timers.pop(Moment(9))), (Some(Moment(10)), None));
        // At the same moment the indirect probe comes before the next probe, as foca orders them.
        assert_eq!(all(timers), [Timer::PeriodicGossip(0), indirect, Timer::ProbeRandomMember(0)]);
    }

    #[test]
    fn a_new_token_makes_the_queue_forget_the_old_ones() {
        let mut timers = Timers::default();
        timers.add(Moment(1), Timer::ProbeRandomMember(7));
        timers.add(Moment(2), Timer::RemoveDown(someone(1)));
        timers.add(Moment(3), Timer::ProbeRandomMember(8));
        assert_eq!(all(timers), [Timer::RemoveDown(someone(1)), Timer::ProbeRandomMember(8)]);
    }

    #[test]
    fn one_removal_waits_for_each_address() {
        let mut timers = Timers::default();
        let again = Identity { bump: 1, ..someone(1) };
        for identity in [someone(1), someone(2), again.clone()] {
            timers.add(Moment(1), Timer::RemoveDown(identity));
        }
        assert_eq!(all(timers), [Timer::RemoveDown(someone(2)), Timer::RemoveDown(again)]);
    }
}
