//! Several cores on one simulated network in virtual time: the promises of this folder, tried over many seeds.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Duty, Member, MemberState, Role, Roster, Way,
    identity::Identity,
    neighbours::{Input, Neighbours, News, Output, Why},
};
use crate::{
    limits,
    names::NodeId,
    settings::{Cluster, Discovery},
    time::Moment,
};

const SEEDS: std::ops::Range<u64> = 0..40;
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// The network and everybody on it.
struct World {
    seed: u64,
    rng: StdRng,
    now: Moment,
    loss: f64,
    /// Datagrams under way, by arrival and number.
    wire: BTreeMap<(Moment, u64), Datagram>,
    sent: u64,
    processes: BTreeMap<SocketAddr, Process>,
    /// Nothing passes between the two sides, while there is a split.
    other_side: Vec<SocketAddr>,
}

struct Process {
    id: NodeId,
    core: Neighbours,
    published: Vec<(Moment, Roster)>,
    news: Vec<News>,
    paused: bool,
    /// What came while it was paused.
    inbox: Vec<Datagram>,
}

#[derive(Clone)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn cluster(discovery: Discovery, peers: &[u16]) -> Cluster {
    Cluster {
        name: "test".into(),
        bind: [127, 0, 0, 1].into(),
        discovery: vec![discovery],
        multicast: "228.0.0.4:45564".parse().unwrap(),
        peers: peers.iter().map(|port| at(*port).to_string()).collect(),
        discovery_timeout: DISCOVERY_TIMEOUT,
    }
}

fn member(id: u64, port: u16) -> Member {
    let role = Role::Node { route: format!("r{port}").parse().unwrap(), http: at(port), duty: Duty::Starting };
    Member { id: NodeId(id), address: at(port), role }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            now: Moment(1_000_000),
            loss: 0.0,
            wire: BTreeMap::new(),
            sent: 0,
            processes: BTreeMap::new(),
            other_side: Vec::new(),
        }
    }

    /// A cluster of this many nodes on ports 1, 2, .. that name each other, all of them known to all.
    fn of(seed: u64, count: u16) -> Self {
        let mut world = Self::new(seed);
        let ports: Vec<u16> = (1..=count).collect();
        ports.iter().for_each(|port| world.start(*port, &cluster(Discovery::Static, &ports)));
        world.until("all know all", ms(1_000), |world| world.all_know_all());
        world
    }

    fn start(&mut self, port: u16, settings: &Cluster) {
        let started = self.now.0;
        self.start_at_clock(port, settings, started);
    }

    fn start_at_clock(&mut self, port: u16, settings: &Cluster, clock: u64) {
        let id = self.rng.random();
        let multicast = settings.discovery.contains(&Discovery::Multicast);
        let rng = StdRng::seed_from_u64(self.rng.random());
        let me = Identity::new(member(id, port), clock);
        let core = Neighbours::new(settings, multicast, me, rng, self.now);
        let process =
            Process { id: NodeId(id), core, published: Vec::new(), news: Vec::new(), paused: false, inbox: Vec::new() };
        self.processes.insert(at(port), process);
        self.give(port, Input::Tick);
    }

    fn kill(&mut self, port: u16) {
        self.processes.remove(&at(port));
    }

    fn resume(&mut self, port: u16) {
        let process = self.processes.get_mut(&at(port)).expect("it runs");
        process.paused = false;
        for Datagram { from, bytes, .. } in std::mem::take(&mut process.inbox) {
            self.give(port, Input::Datagram { from, bytes: &bytes });
        }
    }

    fn give(&mut self, port: u16, input: Input<'_>) {
        let process = self.processes.get_mut(&at(port)).expect("it runs");
        for output in process.core.handle(input, self.now) {
            self.carry_out(at(port), output);
        }
    }

    fn carry_out(&mut self, from: SocketAddr, output: Output) {
        match output {
            Output::Send { to, bytes } => self.post(Datagram { from, to, bytes }),
            Output::Beacon { bytes } => {
                let all: Vec<_> = self.processes.keys().copied().collect();
                all.into_iter().for_each(|to| self.post(Datagram { from, to, bytes: bytes.clone() }));
            }
            Output::Probe { to, .. } => {
                if !self.processes.contains_key(&to) {
                    self.give(from.port(), Input::ProbeRefused(to));
                }
            }
            Output::Resolve(name) => self.give(from.port(), Input::Resolved { name: &name, addresses: &[] }),
            Output::Publish(roster) => {
                let now = self.now;
                self.process_mut(from).published.push((now, (*roster).clone()));
            }
            Output::Tell(news) => self.process_mut(from).news.push(news),
        }
    }

    fn post(&mut self, datagram: Datagram) {
        let split = self.other_side.contains(&datagram.from) != self.other_side.contains(&datagram.to);
        if split || self.rng.random_bool(self.loss) {
            return;
        }
        self.sent += 1;
        let delay = ms(self.rng.random_range(0..=1));
        self.wire.insert((self.now + delay, self.sent), datagram);
    }

    /// Goes on to the next thing that happens, at most to `end`.
    fn step(&mut self, end: Moment) {
        let alarm = |(address, process): (&SocketAddr, &Process)| {
            process.core.next().filter(|_| !process.paused).map(|due| (due, *address))
        };
        let alarm = self.processes.iter().filter_map(alarm).min();
        let arrival = self.wire.keys().next().copied();
        match (arrival, alarm) {
            (Some(key), alarm) if alarm.is_none_or(|(due, _)| key.0 <= due) && key.0 <= end => {
                self.now = self.now.max(key.0);
                let datagram = self.wire.remove(&key).expect("it is under way");
                self.deliver(datagram);
            }
            (_, Some((due, address))) if due <= end => {
                self.now = self.now.max(due);
                self.give(address.port(), Input::Tick);
            }
            _ => self.now = end,
        }
    }

    fn deliver(&mut self, datagram: Datagram) {
        match self.processes.get_mut(&datagram.to) {
            Some(process) if process.paused => process.inbox.push(datagram),
            Some(_) => {
                let Datagram { from, to, bytes } = datagram;
                self.give(to.port(), Input::Datagram { from, bytes: &bytes });
            }
            None => {}
        }
    }

    /// Runs until the condition holds and says how long that took.
    fn until(&mut self, what: &str, limit: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !condition(self) {
            let (seed, rosters) = (self.seed, self.rosters());
            assert!(self.now < start + limit, "seed {seed}: not within {limit:?}: {what}; rosters {rosters:?}");
            self.step(start + limit);
        }
        self.now.since(start)
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.step(end);
        }
    }

    fn process(&self, port: u16) -> &Process {
        &self.processes[&at(port)]
    }

    fn process_mut(&mut self, address: SocketAddr) -> &mut Process {
        self.processes.get_mut(&address).expect("it runs")
    }

    fn id(&self, port: u16) -> NodeId {
        self.process(port).id
    }

    fn roster(&self, port: u16) -> &Roster {
        self.process(port).core.roster()
    }

    fn knows(&self, port: u16, id: NodeId) -> bool {
        self.roster(port).members.iter().any(|member| member.id == id)
    }

    fn all_know_all(&self) -> bool {
        let mut ids: Vec<_> = self.processes.values().map(|process| process.id).collect();
        ids.sort();
        self.processes.values().all(|process| {
            let mut known: Vec<_> = process.core.roster().members.iter().map(|member| member.id).collect();
            known.push(process.id);
            known.sort();
            known == ids
        })
    }

    fn nobody_knows(&self, id: NodeId) -> bool {
        self.processes.keys().all(|address| !self.knows(address.port(), id))
    }

    fn everybody_sees(&self, port: u16, duty: Duty) -> bool {
        let id = self.id(port);
        let others = self.processes.values().filter(|process| process.id != id);
        others.map(|process| process.core.roster().node(id)).all(|node| node.is_some_and(|node| node.duty == duty))
    }

    fn whys(&self, port: u16) -> Vec<Why> {
        let why = |news: &News| if let News::Gone { why, .. } = news { Some(*why) } else { None };
        self.process(port).news.iter().filter_map(why).collect()
    }

    fn rosters(&self) -> Vec<(u16, bool, Vec<u16>)> {
        let ports = |roster: &Roster| roster.members.iter().map(|member| member.address.port()).collect();
        let row = |(address, process): (&SocketAddr, &Process)| {
            let roster = process.core.roster();
            (address.port(), roster.discovered, ports(roster))
        };
        self.processes.iter().map(row).collect()
    }
}

#[test]
fn nodes_that_start_together_find_each_other_in_milliseconds() {
    for seed in SEEDS {
        let mut world = World::of(seed, 2 + (seed % 4) as u16);
        world.until("discovered", ms(20), |w| w.processes.values().all(|p| p.core.roster().discovered));
        assert!(world.now.since(Moment(1_000_000)) < ms(20), "seed {seed}: {:?}", world.now);
    }
}

#[test]
fn a_node_alone_is_ready_at_once_when_its_peers_refuse() {
    let mut world = World::new(1);
    world.start(1, &cluster(Discovery::Static, &[1, 2, 3]));
    assert_eq!(world.process(1).published, [(world.now, Roster { members: vec![], discovered: true })]);
}

#[test]
fn a_peer_that_neither_answers_nor_refuses_is_waited_for_until_the_timeout() {
    let mut world = World::new(1);
    world.start(2, &cluster(Discovery::Static, &[]));
    world.process_mut(at(2)).paused = true;
    world.start(1, &cluster(Discovery::Static, &[2]));
    world.run(DISCOVERY_TIMEOUT - ms(1));
    assert!(!world.roster(1).discovered);
    world.run(ms(1));
    assert!(world.roster(1).discovered);
}

#[test]
fn a_complete_roster_holds_all_that_the_answering_peer_knew() {
    for seed in SEEDS {
        for discovery in [Discovery::Static, Discovery::Multicast] {
            let mut world = World::of(seed, 4);
            // Node 1 asks the newcomer, too, so that its question may overtake its answer.
            for port in 1..=4 {
                world.kill(port);
            }
            world.start(1, &cluster(discovery, &[5]));
            for port in 2..=4 {
                world.start(port, &cluster(discovery, &[1]));
            }
            world.until("four", ms(4_000), World::all_know_all);
            world.run(ms(world.seed * 17));
            world.start(5, &cluster(discovery, &[1]));
            world.until("discovered", ms(1_000), |world| world.roster(5).discovered);
            assert_eq!(world.roster(5).members.len(), 4, "seed {seed} {discovery:?}: {:?}", world.rosters());
        }
    }
}

#[test]
fn beacons_are_enough_to_find_each_other() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        for port in 1..=3 {
            world.start(port, &cluster(Discovery::Multicast, &[]));
        }
        world.until("all know all", ms(1_000), World::all_know_all);
        world.until("discovered", ms(1_000), |w| w.processes.values().all(|p| p.core.roster().discovered));
        let found = |news: &News| matches!(news, News::Found { way: Way::Multicast, .. });
        assert!(world.processes.values().any(|process| process.news.iter().any(found)), "seed {seed}");
    }
}

#[test]
fn a_lost_first_ask_is_repeated() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.loss = 1.0;
        world.start(1, &cluster(Discovery::Static, &[]));
        world.start(2, &cluster(Discovery::Static, &[1]));
        world.run(ms(100));
        world.loss = 0.0;
        world.until("all know all", ms(300), World::all_know_all);
    }
}

#[test]
fn a_silent_member_is_gone_within_three_seconds() {
    for seed in SEEDS {
        for count in 2..=5 {
            let mut world = World::of(seed, count);
            world.run(ms(seed * 37));
            let victim = world.id(1);
            world.kill(1);
            world.until("the silence is noticed", ms(3_000), |world| world.nobody_knows(victim));
            let first = world.processes.values().flat_map(|p| &p.news).find_map(|news| match news {
                News::Gone { why: Why::Silent, member } => Some(member.id),
                _ => None,
            });
            assert_eq!(first, Some(victim), "seed {seed}: somebody noticed by itself");
        }
    }
}

#[test]
fn whoever_leaves_is_gone_at_once_and_stays_away() {
    for seed in SEEDS {
        let mut world = World::of(seed, 5);
        let leaver = world.id(3);
        world.give(3, Input::Leave);
        let took = world.until("gone", ms(10), |world| (1..=5).all(|port| !world.knows(port, leaver)));
        assert!(took <= ms(2), "seed {seed}: {took:?}");
        world.run(ms(7_000));
        assert!(world.nobody_knows(leaver), "seed {seed}: it came back");
        for port in [1, 2, 4, 5] {
            assert_eq!(world.whys(port), [Why::Left], "seed {seed}");
        }
    }
}

#[test]
fn a_restarted_process_replaces_the_old_one_in_one_step() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        world.run(ms(seed * 11 + 1));
        let old = world.id(2);
        world.kill(2);
        world.run(ms(50));
        world.start(2, &cluster(Discovery::Static, &[1, 3]));
        let new = world.id(2);
        let took = world.until("replaced", ms(100), |world| world.all_know_all());
        assert!(took < ms(20), "seed {seed}: {took:?}");
        for port in [1, 3] {
            let mut steps = world.process(port).published.iter().map(|(_, roster)| roster);
            let has = |roster: &Roster, id| roster.members.iter().any(|member| member.id == id);
            assert!(steps.all(|roster| !(has(roster, old) && has(roster, new))), "seed {seed}: both at once");
            assert_eq!(world.whys(port), [Why::Replaced], "seed {seed}");
            let last_two: Vec<_> = world.process(port).published.iter().rev().take(2).map(|(_, r)| r).collect();
            assert!(has(last_two[0], new) && has(last_two[1], old), "seed {seed}: not in one step");
        }
    }
}

#[test]
fn a_clock_that_was_set_back_before_a_restart_keeps_nobody_out() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        world.kill(2);
        let sent = world.sent;
        // Two weeks.
        let clock = world.now.0.saturating_sub(1_000_000);
        world.processes.values_mut().for_each(|process| process.news.clear());
        world.start_at_clock(2, &cluster(Discovery::Static, &[1, 3]), clock);
        world.until("all know all", ms(1_000), World::all_know_all);
        assert!(world.sent - sent < 600, "seed {seed}: {} datagrams", world.sent - sent);
        world.run(ms(5_000));
        assert!(world.all_know_all(), "seed {seed}: {:?}", world.rosters());
    }
}

#[test]
fn a_broken_link_is_known_everywhere_at_once() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        let victim = world.id(1);
        world.kill(1);
        world.give(2, Input::LinkBroken(victim));
        assert!(!world.knows(2, victim));
        assert_eq!(world.whys(2), [Why::LinkBroken]);
        world.until("passed on", ms(200), |world| world.nobody_knows(victim));
    }
}

#[test]
fn a_member_declared_down_by_mistake_returns_with_the_same_life() {
    for seed in SEEDS {
        for count in 2..=4 {
            let mut world = World::of(seed, count);
            world.run(ms(seed * 13));
            let victim = world.id(1);
            world.give(2, Input::LinkBroken(victim));
            assert!(!world.knows(2, victim));
            world.until("it returned", ms(1_000), World::all_know_all);
            assert_eq!(world.id(1), victim);
            world.run(ms(3_000));
            assert!(world.all_know_all(), "seed {seed}: {:?}", world.rosters());
        }
    }
}

#[test]
fn a_paused_process_is_dropped_and_returns() {
    for seed in SEEDS {
        for count in 2..=4 {
            let mut world = World::of(seed, count);
            let paused = world.id(1);
            world.process_mut(at(1)).paused = true;
            world.until("dropped", ms(3_000), |w| (2..=count).all(|port| !w.knows(port, paused)));
            world.run(ms(seed * 500));
            world.resume(1);
            world.until("returned", ms(1_500), World::all_know_all);
        }
    }
}

#[test]
fn a_changed_duty_is_seen_by_everybody_within_200_ms() {
    for seed in SEEDS {
        let mut world = World::of(seed, 2 + (seed % 4) as u16);
        let settled: Vec<_> = world.processes.values().map(|p| p.news.len()).collect();
        for duty in [Duty::Serving, Duty::Draining, Duty::Serving] {
            world.give(1, Input::SetDuty(duty));
            world.until("seen", ms(200), |world| world.everybody_sees(1, duty));
            world.run(ms(seed * 7));
        }
        world.run(ms(5_000));
        let news: Vec<_> = world.processes.values().map(|p| p.news.len()).collect();
        assert_eq!(news, settled, "seed {seed}: a new duty is the same life, nobody comes or goes");
    }
}

#[test]
fn a_peer_that_dies_while_a_duty_changes_is_noticed() {
    for seed in SEEDS {
        let mut world = World::of(seed, 2);
        let victim = world.id(2);
        world.kill(2);
        world.give(1, Input::SetDuty(Duty::Draining));
        world.until("noticed", ms(3_000), |world| world.nobody_knows(victim));
    }
}

#[test]
fn a_lossy_network_loses_nobody_for_long() {
    for seed in SEEDS {
        let mut world = World::of(seed, 4);
        world.loss = 0.05;
        world.give(2, Input::SetDuty(Duty::Serving));
        world.until("the duty is seen", ms(600), |world| world.everybody_sees(2, Duty::Serving));
        for _ in 0..10 {
            world.run(ms(3_000));
            world.until("all know all", ms(1_500), World::all_know_all);
        }
        let victim = world.id(4);
        world.kill(4);
        world.until("the silence is noticed", ms(3_000), |world| world.nobody_knows(victim));
    }
}

#[test]
fn a_split_cluster_heals() {
    for seed in SEEDS {
        for discovery in [Discovery::Static, Discovery::Multicast] {
            let mut world = World::new(seed);
            (1..=4).for_each(|port| world.start(port, &cluster(discovery, &[1])));
            world.until("all know all", ms(2_000), World::all_know_all);
            world.other_side = vec![at(3), at(4)];
            world.until("split", ms(6_000), |w| (1..=4).all(|port| w.roster(port).members.len() == 1));
            world.run(ms(20_000));
            world.other_side.clear();
            world.until("healed", ms(7_000), World::all_know_all);
        }
    }
}

#[test]
fn members_of_another_cluster_are_ignored_and_logged_once() {
    let mut world = World::new(3);
    world.start(1, &cluster(Discovery::Static, &[]));
    world.start(2, &Cluster { name: "other".into(), ..cluster(Discovery::Static, &[1]) });
    world.run(ms(20_000));
    assert_eq!(world.rosters(), [(1, true, vec![]), (2, true, vec![])]);
    assert_eq!(world.process(1).news, [News::OtherCluster { address: at(2) }]);
    let datagrams = world.process(1).core.report().datagrams;
    assert!(datagrams.other_cluster > 5 && datagrams.refused == datagrams.other_cluster, "{datagrams:?}");
}

#[test]
fn random_and_damaged_datagrams_change_nothing_that_lasts() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        let mut noise = StdRng::seed_from_u64(seed + 1_000);
        let mut seen = Vec::new();
        for _ in 0..400 {
            world.run(ms(5));
            seen.extend(world.wire.values().take(2).cloned());
            let mut bytes = match seen.get(noise.random_range(0..400)) {
                Some(datagram) => datagram.bytes.clone(),
                None => (0..noise.random_range(0..1_500)).map(|_| noise.random()).collect(),
            };
            for _ in 0..noise.random_range(1..4) {
                let place = noise.random_range(0..=bytes.len());
                match bytes.get_mut(place) {
                    Some(byte) => *byte = noise.random(),
                    None => bytes.truncate(noise.random_range(0..=bytes.len())),
                }
            }
            let from = at(noise.random_range(1..6));
            world.give(noise.random_range(1..=3), Input::Datagram { from, bytes: &bytes });
        }
        world.until("all know all", ms(5_000), |world| {
            (1..=3).all(|port| (1..=3).all(|other| port == other || world.knows(port, world.id(other))))
        });
    }
}

#[test]
fn invented_members_do_not_grow_the_memory() {
    let mut world = World::of(1, 2);
    for port in 10..2_000 {
        let mut forger = World::new(u64::from(port));
        forger.start(port, &cluster(Discovery::Static, &[1]));
        let (_, ask) = forger.wire.pop_first().expect("it asks");
        world.give(1, Input::Datagram { from: at(port), bytes: &ask.bytes });
    }
    let report = world.process(1).core.report();
    assert!(report.members.len() <= limits::MEMBERS, "{} members", report.members.len());
    assert!(report.members.iter().any(|m| m.member.address == at(2) && m.state == MemberState::Alive));
    world.until("the invented ones are gone, the real one is not", ms(180_000), World::all_know_all);
}

#[test]
fn the_checker_of_silence_can_fail() {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = World::of(7, 2);
        let victim = world.id(1);
        world.kill(1);
        world.until("noticed too soon", ms(500), |world| world.nobody_knows(victim));
    });
    let text = outcome.unwrap_err().downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains("seed 7") && text.contains("noticed too soon"), "{text}");
}
