//! The seeded simulation: whole clusters of pure cores, with users and faults, under one random seed.
//!
//! What is real: the sessions' state machine, the replication core and ledger, and every byte of the wire format. What
//! is simulated: time, connections, the queue of each session's requests, membership, the balancer and its users.
//!
//! The links are TCP, so within one connection nothing is lost, doubled or overtaken. Loss is a connection that is cut
//! with a lost tail, perhaps in the middle of a frame; reordering is between the several links of one node, which have
//! delays of their own; duplication is a session told whole again on another link.
//!
//! Each machine has a clock of its own, ahead of the others by any time and drifting; a moment of one that is compared on
//! another breaks a run at once.
//!
//! In most runs faults come one at a time, and the next one waits until the nodes themselves report that they have caught
//! up: that is what the product promises to get over. In the others they overlap, and only that is checked which holds
//! always: nothing steps back on a node, replicators keep nothing that nobody waits for, no request waits for ever, the
//! cluster recovers.
//!
//! In a part of the runs only some nodes hold a session, as with `manager = "backup"`.
//!
//! A run of its own stops everything on purpose and starts it again, between other faults; another one has other settings
//! than the default.
//!
//! Left out: a commit that was fenced counts as perhaps done, because one holder may have taken it before it heard of the
//! claim. While two machines do not hear each other and the balancer reaches both, what one of them has answered is new to
//! the other one until a third machine has told it; while two sides do not hear each other, until they do. No machine goes
//! back by itself meanwhile. Not judged is what a machine writes that nobody else holds, and a session that both of two sides
//! have written, until they have caught up. The bound of the queue of a link is that of the simulated links.
//!
//! A violation names the seed and the step. `TASUKI_SEED=123 cargo test --test simulation` replays one seed,
//! `TASUKI_SEEDS=100000 cargo test --test simulation` runs more of them than the default. `TASUKI_FIRST=3 TASUKI_STEP=4` takes
//! only those with `manager = "backup"`. The run with full stops counts by `TASUKI_STOP_SEEDS`, the
//! one with other settings by `TASUKI_SETTINGS_SEEDS`.

mod accept;
mod canary;
mod checker;
mod client;
mod clock;
mod cluster;
mod desk;
mod faults;
mod node;
mod request;
mod schedule;
mod slots;
mod stop;
mod story;
mod wire;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use cluster::{Cluster, Report};
use faults::Fault;

/// Seeds of a run that nobody asked for more of: about 20 s in a development build on one core.
const DEFAULT_SEEDS: u64 = 250;

/// The same with full stops, and with other settings.
const DEFAULT_STOP_SEEDS: u64 = 100;

/// A run ends after so many violations: the first ones tell enough.
const MOST_VIOLATIONS: usize = 20;

/// A long run says how far it is each time it has come so many seeds further.
const PROGRESS_SEEDS: u64 = 10_000;

/// A deliberate fault is noticed within so many seeds, or the checker is blind to it.
const CANARY_SEEDS: u64 = 2_000;

/// A deliberately broken part: a check that cannot fail proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Canary {
    /// A holder acknowledges an update and takes it later.
    AckBeforeApply,
    /// A reply leaves before any holder has acknowledged.
    ReplyBeforeAck,
    /// A holder does not tell an owner that it was outranked.
    NoFence,
    /// A claim asks one member only.
    ClaimAsksOnePeer,
    /// A holder takes a delta though a step before it is missing.
    GapApplied,
    /// A holder forgets the end of a session at once.
    TombstoneDropped,
    /// The next request of a session begins before the last one's commit is held.
    TurnEndsAtCommit,
    /// A node answers from its own copies however long it was away.
    NoLease,
    /// A node that stops saves nothing.
    NothingSaved,
    /// A link takes whatever it is given, however slow its peer is.
    QueueWithoutBound,
    /// A replicator goes on keeping what a peer has acknowledged.
    AckNotBooked,
    /// A node finds itself the same as any other that compares.
    NothingDiffers,
    /// The same as a reply before the acknowledgement: its replicator waits for nobody.
    WaitAbandoned,
    /// An owner does not hear from a third node that its session was promised to one that it does not hear.
    ReplacedUntold,
    /// A write is answered however few nodes hold it.
    TooFewCopies,
    /// Who held a session when all nodes were there is told of it for ever, whoever is left.
    HoldersStay,
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// One fault after the other, or all at once.
    Faults,
    /// Full stops, and other faults between them.
    FullStops,
    /// Faults, where two nodes must hold what is answered (`cluster.min_copies = 2`, with any manager), where every commit
    /// tells the whole session (`manager = "full"`), or both.
    Settings,
    /// Faults, and a part of the product that is broken.
    Broken(Canary),
}

/// What a blind checker might take a canary for: that something got stuck is not what it is about.
const STUCK: [&str; 7] =
    ["a panic", "never caught up", "waits for ever", "nothing happens", "past its bound", "books", "are waited for"];

/// Of which nodes hold a session, in the report of a violation.
const EVERYWHERE: &str = "copies: None";
const BACKUP: &str = "copies: Some";

impl Canary {
    /// Whether a violation is the one that it is about.
    fn is_noticed_by(self, what: &str) -> bool {
        match self {
            Self::QueueWithoutBound => what.contains("past its bound"),
            Self::AckNotBooked => what.contains("books"),
            Self::WaitAbandoned => what.contains("are waited for"),
            Self::TooFewCopies => what.contains("a write is answered"),
            Self::ReplacedUntold => what.contains("answered long ago"),
            Self::NothingDiffers => what.contains("at the end"),
            _ => !STUCK.iter().any(|stuck| what.contains(stuck)),
        }
    }

    /// The faults under which it does harm, if these are few.
    fn faults(self) -> Option<&'static [Fault]> {
        match self {
            Self::NoLease => Some(&[Fault::Pause, Fault::Sleep, Fault::Stall]),
            Self::ReplacedUntold => Some(&[Fault::Stall]),
            _ => None,
        }
    }

    /// The managers under which it does harm.
    fn managers(self) -> &'static [&'static str] {
        match self {
            Self::HoldersStay => &[BACKUP],
            // Its links have too little to carry.
            Self::QueueWithoutBound => &[EVERYWHERE],
            // A lease is the same whoever holds what; with few holders it takes many seeds.
            Self::NoLease => &[EVERYWHERE],
            _ => &[EVERYWHERE, BACKUP],
        }
    }
}

impl Scenario {
    /// What is broken.
    fn canary(self) -> Option<Canary> {
        if let Self::Broken(canary) = self { Some(canary) } else { None }
    }
}

fn simulate(seed: u64, scenario: Scenario) -> Result<Report, String> {
    let mut cluster = Cluster::new(seed, scenario);
    let result = catch_unwind(AssertUnwindSafe(|| cluster.run())).unwrap_or_else(|panic| Err(text(&*panic)));
    result.map_err(|what| {
        let faults = cluster.plan.log.join("\n    ");
        let (step, rules, machines) = (cluster.world.step(), cluster.rules, cluster.machines.len());
        format!(
            "seed {seed}, step {step}, {} us: {what}\n  {machines} machines, {rules:?}, faults:\n    {faults}\n  replay: \
             TASUKI_SEED={seed} cargo test --test simulation",
            cluster.world.now_us()
        )
    })
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    let text = owned.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("a panic: {}", text.unwrap_or_default())
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// A run over many seeds, by several threads.
#[derive(Clone)]
struct Run {
    next: Arc<AtomicU64>,
    last: u64,
    step: u64,
    threads: usize,
    scenario: Scenario,
    tally: Arc<Mutex<Tally>>,
}

/// What a run has come to.
#[derive(Clone, Default)]
struct Tally {
    seeds: u64,
    steps: u64,
    protected: usize,
    violations: Vec<String>,
}

impl Run {
    fn of_settings(scenario: Scenario) -> Self {
        let (seeds, default_seeds) = match scenario {
            Scenario::FullStops => ("TASUKI_STOP_SEEDS", DEFAULT_STOP_SEEDS),
            Scenario::Settings => ("TASUKI_SETTINGS_SEEDS", DEFAULT_STOP_SEEDS),
            Scenario::Faults | Scenario::Broken(_) => ("TASUKI_SEEDS", DEFAULT_SEEDS),
        };
        let (first, last) = match setting("TASUKI_SEED") {
            Some(seed) => (seed, seed),
            None => {
                let first = setting("TASUKI_FIRST").unwrap_or(1);
                (first, first - 1 + setting(seeds).unwrap_or(default_seeds))
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let step = setting("TASUKI_STEP").unwrap_or(1);
        Self { next: Arc::new(first.into()), last, step, threads, scenario, tally: Arc::default() }
    }

    /// Takes seed after seed, until none is left or enough violations were found.
    fn work(&self) {
        loop {
            let seed = self.next.fetch_add(self.step, Ordering::Relaxed);
            if seed > self.last {
                return;
            }
            let result = simulate(seed, self.scenario);
            let mut tally = self.tally.lock().expect("nobody panics while holding it");
            tally.note(result);
            if tally.violations.len() >= MOST_VIOLATIONS {
                return;
            }
        }
    }
}

impl Tally {
    fn note(&mut self, result: Result<Report, String>) {
        self.seeds += 1;
        match result {
            Ok(report) => {
                self.steps += report.steps;
                self.protected += report.protected;
            }
            Err(what) => {
                println!("{what}");
                self.violations.push(what);
            }
        }
        if self.seeds.is_multiple_of(PROGRESS_SEEDS) {
            println!("{} seeds, {} violations", self.seeds, self.violations.len());
        }
    }
}

/// With every manager under which it does harm.
fn is_caught(canary: Canary) {
    for manager in canary.managers() {
        let is_told = |what: &String| what.contains(manager) && canary.is_noticed_by(what);
        // A seed in four is a run with `backup`, if it has nodes enough.
        let mut seeds = (1..=CANARY_SEEDS).map(|n| if *manager == BACKUP { n * 4 - 1 } else { n + n.div_ceil(3) - 1 });
        let violation = seeds.find_map(|seed| simulate(seed, Scenario::Broken(canary)).err().filter(is_told));
        let what =
            violation.unwrap_or_else(|| panic!("{canary:?} was not noticed in {CANARY_SEEDS} seeds of {manager}"));
        println!("{canary:?} was noticed: {what}");
    }
}

#[test]
fn no_promise_is_broken_under_any_seed() {
    run(Scenario::Faults);
}

#[test]
fn a_planned_full_stop_breaks_no_promise() {
    run(Scenario::FullStops);
}

#[test]
fn no_promise_is_broken_with_other_settings() {
    run(Scenario::Settings);
}

fn run(scenario: Scenario) {
    let run = Run::of_settings(scenario);
    let began = std::time::Instant::now();
    let threads: Vec<_> =
        (0..run.threads).map(|_| run.clone()).map(|run| std::thread::spawn(move || run.work())).collect();
    for thread in threads {
        thread.join().expect("a violation is a value, not a panic");
    }
    let Tally { seeds, steps, protected, violations } = run.tally.lock().expect("nobody panics").clone();
    let seconds = began.elapsed().as_secs_f64();
    println!("{seeds} seeds, {steps} steps, {protected} protected writes, {:.0} seeds/s", seeds as f64 / seconds);
    assert!(violations.is_empty(), "{} violations, the first: {}", violations.len(), violations[0]);
    assert!(protected > 0, "a run without a protected write proves nothing");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let once = simulate(7, Scenario::Faults);
    assert_eq!(once, simulate(7, Scenario::Faults));
    assert_ne!(once, simulate(8, Scenario::Faults));
}

#[test]
fn an_acknowledgement_before_the_copy_is_noticed() {
    is_caught(Canary::AckBeforeApply);
}

#[test]
fn a_reply_before_the_acknowledgement_is_noticed() {
    is_caught(Canary::ReplyBeforeAck);
}

#[test]
fn a_missing_fence_is_noticed() {
    is_caught(Canary::NoFence);
}

#[test]
fn a_claim_that_asks_one_member_is_noticed() {
    is_caught(Canary::ClaimAsksOnePeer);
}

#[test]
fn a_delta_over_a_gap_is_noticed() {
    is_caught(Canary::GapApplied);
}

#[test]
fn a_forgotten_end_is_noticed() {
    is_caught(Canary::TombstoneDropped);
}

#[test]
fn a_turn_that_ends_too_early_is_noticed() {
    is_caught(Canary::TurnEndsAtCommit);
}

#[test]
fn a_node_without_a_lease_is_noticed() {
    is_caught(Canary::NoLease);
}

#[test]
fn a_stop_that_saves_nothing_is_noticed() {
    is_caught(Canary::NothingSaved);
}

#[test]
fn a_queue_without_a_bound_is_noticed() {
    is_caught(Canary::QueueWithoutBound);
}

#[test]
fn an_acknowledgement_that_is_not_booked_is_noticed() {
    is_caught(Canary::AckNotBooked);
}

#[test]
fn a_wait_that_nobody_ends_is_noticed() {
    is_caught(Canary::WaitAbandoned);
}

#[test]
fn nodes_that_find_no_difference_are_noticed() {
    is_caught(Canary::NothingDiffers);
}

#[test]
fn a_write_that_too_few_nodes_hold_is_noticed() {
    is_caught(Canary::TooFewCopies);
}

#[test]
fn holders_that_are_never_replaced_are_noticed() {
    is_caught(Canary::HoldersStay);
}

#[test]
fn an_owner_that_does_not_hear_that_it_was_replaced_is_noticed() {
    is_caught(Canary::ReplacedUntold);
}
