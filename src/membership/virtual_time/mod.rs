//! Several cores on one simulated network in virtual time. One seed decides delays, losses and draws.

mod promises;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Duty, Member, Role, Roster,
    identity::Identity,
    neighbours::{Input, Neighbours, News, Output, Why},
    seal::Seal,
    strangers::Dropped,
};
use crate::{
    names::NodeId,
    settings::{Cluster, Discovery, Secret},
    time::Moment,
};

/// The network and everybody on it.
struct World {
    seed: u64,
    rng: StdRng,
    now: Moment,
    loss: f64,
    /// A datagram takes this long, or a millisecond more.
    delay: Duration,
    /// Datagrams under way, by arrival and number.
    wire: BTreeMap<(Moment, u64), Datagram>,
    sent: u64,
    processes: BTreeMap<SocketAddr, Process>,
    /// Nothing passes between the two sides, while there is a split.
    other_side: Vec<SocketAddr>,
    /// Nothing passes from the first to the second.
    one_way: Vec<(SocketAddr, SocketAddr)>,
    /// With which whoever is started next seals.
    secret: Option<Secret>,
    /// What names resolve to; a name that is not here does not.
    names: BTreeMap<String, Vec<SocketAddr>>,
    looked_up: Vec<(Moment, String)>,
    /// What somebody who listens has heard.
    recorded: Option<Vec<Datagram>>,
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

const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(3);

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn cluster(discovery: Discovery, peers: &[u16]) -> Cluster {
    Cluster {
        name: "test".into(),
        discovery: vec![discovery],
        peers: peers.iter().map(|port| at(*port).to_string()).collect(),
        discovery_timeout: DISCOVERY_TIMEOUT,
        ..Cluster::default()
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
            delay: Duration::ZERO,
            wire: BTreeMap::new(),
            sent: 0,
            processes: BTreeMap::new(),
            other_side: Vec::new(),
            one_way: Vec::new(),
            secret: None,
            names: BTreeMap::new(),
            looked_up: Vec::new(),
            recorded: None,
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
        let seal = self.secret.as_ref().map(|secret| Seal::new(secret, &settings.name, self.rng.random()));
        let core = Neighbours::new(settings, seal, multicast, me, rng, self.now);
        let process =
            Process { id: NodeId(id), core, published: Vec::new(), news: Vec::new(), paused: false, inbox: Vec::new() };
        self.processes.insert(at(port), process);
        self.give(port, Input::Tick);
    }

    fn kill(&mut self, port: u16) {
        self.processes.remove(&at(port));
    }

    /// The alarm rings before what came meanwhile is read.
    fn resume(&mut self, port: u16) {
        self.give(port, Input::Tick);
        let process = self.process_mut(at(port));
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
            Output::Resolve(name) => {
                let addresses = self.names.get(&name).cloned().unwrap_or_default();
                self.looked_up.push((self.now, name.clone()));
                self.give(from.port(), Input::Resolved { name: &name, addresses: &addresses });
            }
            Output::Publish(roster) => {
                let now = self.now;
                self.process_mut(from).published.push((now, (*roster).clone()));
            }
            Output::Tell(news) => self.process_mut(from).news.push(news),
        }
    }

    fn post(&mut self, datagram: Datagram) {
        let split = self.other_side.contains(&datagram.from) != self.other_side.contains(&datagram.to);
        let cut = self.one_way.contains(&(datagram.from, datagram.to));
        if split || cut || self.rng.random_bool(self.loss) {
            return;
        }
        self.sent += 1;
        self.recorded.iter_mut().for_each(|recorded| recorded.push(datagram.clone()));
        let delay = self.delay + ms(self.rng.random_range(0..=1));
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

    fn dropped(&self, port: u16) -> Vec<Dropped> {
        let dropped = |news: &News| if let News::Dropped(dropped) = news { Some(*dropped) } else { None };
        self.process(port).news.iter().filter_map(dropped).collect()
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
