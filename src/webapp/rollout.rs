//! Decides what to deploy: pure, fed with what each look at the webapps folder saw.

use std::collections::BTreeMap;

/// What was seen and tried so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Rollout {
    seen: BTreeMap<String, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The stamp of the last look.
    stamp: u64,
    /// The stamp that was read last, whatever came of it: a broken webapp is not read again before it changes.
    tried: Option<u64>,
}

/// How far a look may trust what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// At start: nothing is waited for.
    AtOnce,
    /// Only what looked the same last time is read: somebody may be copying.
    WhenStable,
}

/// What is to be done about one webapp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read it; if it is good, it takes the place of what was there.
    Read(String),
    /// Its folder is gone.
    Undeploy(String),
}

/// Whether another look is needed soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calm {
    /// Everything has been tried as it is now.
    Settled,
    /// Something changed since the last look.
    Moving,
}

impl Rollout {
    /// Takes the stamps of one look.
    pub(super) fn look(&mut self, stamps: &BTreeMap<String, u64>, trust: Trust) -> (Vec<Step>, Calm) {
        let gone: Vec<String> = self.seen.keys().filter(|name| !stamps.contains_key(*name)).cloned().collect();
        self.seen.retain(|name, _| stamps.contains_key(name));
        let mut steps: Vec<Step> = gone.into_iter().map(Step::Undeploy).collect();
        let mut calm = Calm::Settled;
        for (name, &stamp) in stamps {
            let before = self.seen.get(name).copied();
            let tried = before.and_then(|seen| seen.tried);
            let stable = trust == Trust::AtOnce || before.is_some_and(|seen| seen.stamp == stamp);
            let read = stable && tried != Some(stamp);
            self.seen.insert(name.clone(), Seen { stamp, tried: if read { Some(stamp) } else { tried } });
            if read {
                steps.push(Step::Read(name.clone()));
            } else if tried != Some(stamp) {
                calm = Calm::Moving;
            }
        }
        (steps, calm)
    }

    /// The webapp changed while it was read: what was read counts for nothing.
    pub(super) fn changed_while_read(&mut self, name: &str) {
        if let Some(seen) = self.seen.get_mut(name) {
            seen.tried = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(stamps: &[(&str, u64)]) -> BTreeMap<String, u64> {
        stamps.iter().map(|(name, stamp)| ((*name).to_owned(), *stamp)).collect()
    }

    fn read(name: &str) -> Step {
        Step::Read(name.into())
    }

    #[test]
    fn at_start_everything_is_read_at_once_and_only_once() {
        let mut rollout = Rollout::default();
        let look = stamps(&[("ROOT", 1), ("shop", 1)]);
        assert_eq!(rollout.look(&look, Trust::AtOnce), (vec![read("ROOT"), read("shop")], Calm::Settled));
        assert_eq!(rollout.look(&look, Trust::WhenStable), (vec![], Calm::Settled));
    }

    #[test]
    fn a_folder_that_is_still_being_copied_is_not_read() {
        let mut rollout = Rollout::default();
        for stamp in 1..5 {
            assert_eq!(rollout.look(&stamps(&[("a", stamp)]), Trust::WhenStable), (vec![], Calm::Moving));
        }
        assert_eq!(rollout.look(&stamps(&[("a", 4)]), Trust::WhenStable), (vec![read("a")], Calm::Settled));
    }

    #[test]
    fn a_webapp_that_is_always_moving_does_not_hold_up_the_others() {
        let mut rollout = Rollout::default();
        rollout.look(&stamps(&[("a", 1), ("b", 1)]), Trust::WhenStable);
        assert_eq!(rollout.look(&stamps(&[("a", 2), ("b", 1)]), Trust::WhenStable), (vec![read("b")], Calm::Moving));
    }

    #[test]
    fn a_removed_folder_is_undeployed_and_comes_back_as_a_new_one() {
        let mut rollout = Rollout::default();
        rollout.look(&stamps(&[("a", 1)]), Trust::AtOnce);
        let gone = (vec![Step::Undeploy("a".into())], Calm::Settled);
        assert_eq!(rollout.look(&stamps(&[]), Trust::WhenStable), gone);
        assert_eq!(rollout.look(&stamps(&[("a", 1)]), Trust::WhenStable), (vec![], Calm::Moving));
        assert_eq!(rollout.look(&stamps(&[("a", 1)]), Trust::WhenStable), (vec![read("a")], Calm::Settled));
    }

    #[test]
    fn what_changed_while_it_was_read_is_read_again() {
        let mut rollout = Rollout::default();
        rollout.look(&stamps(&[("a", 1)]), Trust::AtOnce);
        rollout.changed_while_read("a");
        assert_eq!(rollout.look(&stamps(&[("a", 2)]), Trust::WhenStable), (vec![], Calm::Moving));
        assert_eq!(rollout.look(&stamps(&[("a", 2)]), Trust::WhenStable), (vec![read("a")], Calm::Settled));
    }
}
