//! How one change goes over all nodes, or is taken back from all: pure, fed with what each step led to.
//!
//! ```text
//! check all ─► activate canary ─► probe ─► watch ─► activate the rest ─► probe ─► confirm here ─► confirm the rest
//!     │               └────────────┴─────────┴──────────────┴────────────────┴──────────┘
//!     ▼ refused                               ▼ revert whoever activated
//! ```

use crate::names::Route;

/// What is to be done at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Have the archive, open it, compile it.
    Check,
    /// Serve it, on trial.
    Activate,
    /// Ask it for a page.
    Probe,
    /// Let users use it for a while, and count what fails.
    Watch,
    /// Serve it for good.
    Confirm,
    /// Serve what was served before.
    Revert,
}

/// What one step led to: a word for the administrator, or what is wrong.
pub(super) type Outcome = Result<String, String>;

/// How a campaign has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All nodes serve the new state; those named could not be told, and take it over when they answer again.
    Done { later: Vec<Route> },
    /// Nothing has changed for any user.
    Refused,
    /// It served on trial somewhere, and does not any more.
    TakenBack,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The same step at these nodes, all at once.
    Do(Step, Vec<Route>),
    Over(Verdict),
}

/// How carefully.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Check, activate, probe.
    Full,
    /// There is nothing to check or to probe: something goes.
    Removal,
}

/// One change on its way. Feed it with [`Campaign::over`] until it says that it is over.
#[derive(Clone, Debug)]
pub(super) struct Campaign {
    me: Route,
    nodes: Vec<Route>,
    canary: Option<Route>,
    care: Care,
    /// Who serves it, on trial.
    active: Vec<Route>,
    step: Step,
    /// Whom the step is under way at.
    asked: Vec<Route>,
}

impl Campaign {
    /// Over these nodes, `me` among them, and what comes first.
    pub(super) fn begin(me: Route, nodes: Vec<Route>, canary: Option<Route>, care: Care) -> (Self, Next) {
        let mut campaign = Self { me, nodes, canary, care, active: Vec::new(), step: Step::Check, asked: Vec::new() };
        let next = match care {
            Care::Full => campaign.ask(Step::Check, campaign.nodes.clone()),
            Care::Removal => campaign.activate(),
        };
        (campaign, next)
    }

    /// The step has ended at all nodes it was asked of: `failed` are those where it went wrong.
    pub(super) fn over(&mut self, failed: &[Route]) -> Next {
        let good: Vec<Route> = self.asked.iter().filter(|route| !failed.contains(route)).cloned().collect();
        if self.step == Step::Activate {
            self.active.extend(good);
        }
        let is_confirming_others = self.step == Step::Confirm && self.asked != [self.me.clone()];
        match self.step {
            Step::Revert => Next::Over(Verdict::TakenBack),
            _ if is_confirming_others => Next::Over(Verdict::Done { later: failed.to_vec() }),
            _ if !failed.is_empty() => self.give_up(),
            Step::Check => self.activate(),
            Step::Activate if self.care == Care::Full => self.ask(Step::Probe, self.asked.clone()),
            Step::Probe if self.is_at_canary() => self.ask(Step::Watch, self.asked.clone()),
            Step::Activate | Step::Probe | Step::Watch => self.activate(),
            Step::Confirm => self.confirm_others(),
        }
    }

    /// The canary alone at first, then all others; then it is confirmed.
    fn activate(&mut self) -> Next {
        let canary = self.canary.clone().filter(|canary| !self.active.contains(canary));
        let waiting = |route: &&Route| !self.active.contains(route);
        let next: Vec<Route> = match canary {
            Some(canary) => vec![canary],
            None => self.nodes.iter().filter(waiting).cloned().collect(),
        };
        // From here on it stands: this node's disk is the proof of it.
        if next.is_empty() { self.ask(Step::Confirm, vec![self.me.clone()]) } else { self.ask(Step::Activate, next) }
    }

    fn confirm_others(&mut self) -> Next {
        let others: Vec<Route> = self.nodes.iter().filter(|route| **route != self.me).cloned().collect();
        match others.is_empty() {
            true => Next::Over(Verdict::Done { later: Vec::new() }),
            false => self.ask(Step::Confirm, others),
        }
    }

    /// Whoever was asked to activate may have done so, whatever was heard of it.
    fn give_up(&mut self) -> Next {
        let may_serve: Vec<Route> = match self.step {
            Step::Activate => self.active.iter().chain(&self.asked).cloned().collect(),
            _ => self.active.clone(),
        };
        let may_serve: Vec<Route> = self.nodes.iter().filter(|route| may_serve.contains(route)).cloned().collect();
        if may_serve.is_empty() { Next::Over(Verdict::Refused) } else { self.ask(Step::Revert, may_serve) }
    }

    fn is_at_canary(&self) -> bool {
        self.canary.as_ref().is_some_and(|canary| self.asked == [canary.clone()]) && self.active.len() == 1
    }

    fn ask(&mut self, step: Step, nodes: Vec<Route>) -> Next {
        (self.step, self.asked) = (step, nodes.clone());
        Next::Do(step, nodes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn routes(names: &[&str]) -> Vec<Route> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn route(name: &str) -> Route {
        name.parse().unwrap()
    }

    /// What a campaign of r1, r2 and r3 asks for when the steps named fail, as `step: nodes`.
    fn story(canary: Option<&str>, care: Care, failing: &[(Step, &str)]) -> (Vec<String>, Verdict) {
        let (mut campaign, mut next) =
            Campaign::begin(route("r1"), routes(&["r1", "r2", "r3"]), canary.map(route), care);
        let mut told = Vec::new();
        loop {
            let (step, nodes) = match next {
                Next::Over(verdict) => return (told, verdict),
                Next::Do(step, nodes) => (step, nodes),
            };
            let names: Vec<&str> = nodes.iter().map(Route::as_str).collect();
            told.push(format!("{step:?} {}", names.join(" ")));
            let failed: Vec<Route> =
                nodes.iter().filter(|node| failing.contains(&(step, node.as_str()))).cloned().collect();
            next = campaign.over(&failed);
        }
    }

    fn done() -> Verdict {
        Verdict::Done { later: Vec::new() }
    }

    #[test]
    fn a_good_archive_is_everywhere_before_the_first_node_serves_it() {
        let (told, verdict) = story(None, Care::Full, &[]);
        assert_eq!(told, ["Check r1 r2 r3", "Activate r1 r2 r3", "Probe r1 r2 r3", "Confirm r1", "Confirm r2 r3"]);
        assert_eq!(verdict, done());
    }

    #[test]
    fn a_canary_serves_alone_until_it_was_watched() {
        let (told, verdict) = story(Some("r2"), Care::Full, &[]);
        let expected = [
            "Check r1 r2 r3",
            "Activate r2",
            "Probe r2",
            "Watch r2",
            "Activate r1 r3",
            "Probe r1 r3",
            "Confirm r1",
            "Confirm r2 r3",
        ];
        assert_eq!(told, expected);
        assert_eq!(verdict, done());
    }

    #[test]
    fn what_one_node_refuses_no_node_serves() {
        let (told, verdict) = story(None, Care::Full, &[(Step::Check, "r3")]);
        assert_eq!((told, verdict), (vec!["Check r1 r2 r3".into()], Verdict::Refused));
    }

    #[test]
    fn what_fails_at_the_canary_never_reaches_the_others() {
        for step in [Step::Activate, Step::Probe, Step::Watch] {
            let (told, verdict) = story(Some("r2"), Care::Full, &[(step, "r2")]);
            assert_eq!(told.last().unwrap(), "Revert r2");
            assert!(!told.iter().any(|line| line.starts_with("Activate r1")), "{told:?}");
            assert_eq!(verdict, Verdict::TakenBack);
        }
    }

    #[test]
    fn a_failed_probe_takes_it_back_from_all() {
        let (told, verdict) = story(None, Care::Full, &[(Step::Probe, "r3")]);
        assert_eq!((told.last().unwrap().as_str(), verdict), ("Revert r1 r2 r3", Verdict::TakenBack));
        let (told, _) = story(None, Care::Full, &[(Step::Activate, "r2")]);
        assert_eq!(told.last().unwrap(), "Revert r1 r2 r3", "r2 may serve it although its answer was lost");
    }

    #[test]
    fn a_disk_that_does_not_take_it_here_takes_it_back_and_one_elsewhere_does_not() {
        let (told, verdict) = story(None, Care::Full, &[(Step::Confirm, "r1")]);
        assert_eq!((told.last().unwrap().as_str(), verdict), ("Revert r1 r2 r3", Verdict::TakenBack));
        let (_, verdict) = story(None, Care::Full, &[(Step::Confirm, "r3")]);
        assert_eq!(verdict, Verdict::Done { later: routes(&["r3"]) });
    }

    #[test]
    fn a_removal_needs_no_check_and_no_probe() {
        let (told, verdict) = story(None, Care::Removal, &[]);
        assert_eq!((told, verdict), (routes_told(), done()));
        fn routes_told() -> Vec<String> {
            ["Activate r1 r2 r3", "Confirm r1", "Confirm r2 r3"].map(String::from).to_vec()
        }
    }

    #[test]
    fn one_node_alone_is_a_cluster() {
        let (mut campaign, next) = Campaign::begin(route("r1"), routes(&["r1"]), None, Care::Removal);
        assert_eq!(next, Next::Do(Step::Activate, routes(&["r1"])));
        assert_eq!(campaign.over(&[]), Next::Do(Step::Confirm, routes(&["r1"])));
        assert_eq!(campaign.over(&[]), Next::Over(done()));
    }

    /// What happens at the nodes: who serves the new state, and who for good.
    #[derive(Default)]
    struct World {
        on_trial: BTreeSet<Route>,
        for_good: BTreeSet<Route>,
    }

    impl World {
        fn does(&mut self, step: Step, node: &Route) {
            match step {
                Step::Activate => drop(self.on_trial.insert(node.clone())),
                Step::Confirm => {
                    assert!(self.on_trial.contains(node), "{node} confirms what it does not serve");
                    self.for_good.insert(node.clone());
                }
                Step::Revert => drop(self.on_trial.remove(node)),
                Step::Check | Step::Probe | Step::Watch => {}
            }
        }
    }

    #[test]
    fn whatever_fails_it_is_all_or_nothing() {
        for seed in 0..5_000 {
            let mut random = StdRng::seed_from_u64(seed);
            let nodes: Vec<Route> = (1..=random.random_range(1..6)).map(|n| route(&format!("r{n}"))).collect();
            let canary = random.random_bool(0.5).then(|| nodes[random.random_range(0..nodes.len())].clone());
            let care = if random.random_bool(0.8) { Care::Full } else { Care::Removal };
            let mut world = World::default();
            let (mut campaign, mut next) = Campaign::begin(nodes[0].clone(), nodes.clone(), canary, care);
            let verdict = loop {
                let (step, asked) = match next {
                    Next::Over(verdict) => break verdict,
                    Next::Do(step, asked) => (step, asked),
                };
                let mut failed = Vec::new();
                for node in asked {
                    let fails = random.random_bool(0.1);
                    // What failed may have happened all the same: only its answer was lost. A broken connection reverts.
                    if !fails || step == Step::Activate && random.random_bool(0.5) || step == Step::Revert {
                        world.does(step, &node);
                    }
                    failed.extend(fails.then_some(node));
                }
                next = campaign.over(&failed);
            };
            match verdict {
                Verdict::Done { later } => {
                    assert_eq!(world.on_trial.len(), nodes.len(), "seed {seed}: all serve it");
                    assert_eq!(world.for_good.len() + later.len(), nodes.len(), "seed {seed}");
                    assert!(world.for_good.contains(&nodes[0]), "seed {seed}: who spreads it keeps it");
                }
                _ => assert!(world.on_trial.is_empty() && world.for_good.is_empty(), "seed {seed}: nobody serves it"),
            }
        }
    }
}
