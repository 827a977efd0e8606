//! Everything of one run: machines, the wire between them, the users, the faults, and the checker.

use std::{collections::BTreeMap, time::Duration};

use tasuki::{
    membership::Duty,
    names::NodeId,
    replication::core::CoreConfig,
    session::{
        Slots,
        placement::{Place, Placement, Spread},
    },
    settings::Ack,
    time::Moment,
};

use crate::{
    Canary, Scenario,
    checker::Checker,
    client::{Heard, Tab, User},
    clock::Clock,
    faults::Fault,
    node::{ACK_TIMEOUT, CLAIM_TIMEOUT, Input, LEASE, Node},
    schedule::{Plan, Step},
    stop::Disk,
    wire::{ConnId, End, Wire},
    world::{Event, World},
};

/// Until when the balancer leaves out a machine that was drained: it hears of its return.
pub(crate) const DRAINED: u64 = u64::MAX;

/// Bytes of a queue that is never full.
const WIDE: usize = 1 << 20;

/// The duty of a node that leaves on purpose.
pub(crate) const DRAIN: Duty = Duty::Draining;

/// One machine: at most one process.
pub(crate) struct Machine {
    pub(crate) node: Option<Node>,
    pub(crate) clock: Clock,
    paused: bool,
    /// Until a process starts again nobody answers for it.
    has_no_power: bool,
    deferred: Vec<Input>,
    /// What the last process has saved.
    pub(crate) disk: Option<Disk>,
    /// After a pause: what connections have brought and nobody has read yet. What they bring later stays behind that.
    unread: BTreeMap<Lane, Vec<Input>>,
}

/// One direction of a connection: within it nothing overtakes.
pub(crate) type Lane = (ConnId, bool);

/// What is drawn once for a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) workers: usize,
    /// Bytes on their way to a peer on one link, before it counts as full.
    pub(crate) queue_bytes: usize,
    /// The longest time between two requests of a tab.
    pub(crate) think_us: u64,
    ack: Ack,
    /// How many nodes must hold what is answered.
    pub(crate) least: usize,
    /// Every commit tells the whole session.
    pub(crate) is_full: bool,
    /// Requests, in percent, that come by a front which does not know where their session is.
    pub(crate) strays: u64,
    /// Idle time after which sessions end.
    pub(crate) timeout: Duration,
    /// How many nodes hold a session beside its owner; all others where none is said.
    copies: Option<usize>,
}

/// One run.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) wire: Wire,
    pub(crate) machines: Vec<Machine>,
    pub(crate) users: Vec<User>,
    pub(crate) tabs: Vec<Tab>,
    pub(crate) checker: Checker,
    pub(crate) plan: Plan,
    pub(crate) rules: Rules,
    pub(crate) canary: Option<Canary>,
    /// No new requests: the run comes to its end.
    pub(crate) closing: bool,
    /// No new requests until all nodes have stopped.
    pub(crate) is_stopping: bool,
    pub(crate) next_call: u64,
    /// Members that did not answer the balancer, and until when it leaves them out.
    pub(crate) failed_until: Vec<u64>,
    /// Machines that the balancer does not reach, and until when.
    pub(crate) unreachable_until: Vec<u64>,
    news: u64,
}

/// What a run without violation has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Stands for everything that happened.
    pub(crate) trace: u64,
    /// Events.
    pub(crate) steps: u64,
    /// Answered writes that a second node held.
    pub(crate) protected: usize,
}

/// The machine on which a life of a node runs.
pub(crate) fn machine_of(node: NodeId) -> usize {
    (node.0 & 0xFF) as usize
}

impl Cluster {
    /// A cluster that is about to start.
    pub(crate) fn new(seed: u64, scenario: Scenario) -> Self {
        let canary = scenario.canary();
        let mut world = World::new(seed);
        let machines = match world.between(1, 100) {
            1..=25 => 2,
            26..=60 => 3,
            61..=80 => 4,
            81..=90 => 5,
            91..=95 => 6,
            _ => 7,
        };
        // Either queues that overflow or users in a hurry: with both, a slow link never catches up, rightly.
        let (queue_bytes, think_us) = match world.between(1, 10) {
            // Requests of one session meet where users are in a hurry.
            _ if canary == Some(Canary::TurnEndsAtCommit) => (WIDE, 3_000),
            1..=2 => (world.between(500, 4_000) as usize, 40_000),
            3..=5 => (WIDE, 3_000),
            _ => (WIDE, 40_000),
        };
        let has_settings = scenario == Scenario::Settings || canary == Some(Canary::TooFewCopies);
        let is_spread = machines > 2 && seed % 4 == 3;
        let rules = Rules {
            workers: world.between(1, 2) as usize,
            queue_bytes,
            think_us,
            ack: if world.percent(80) { Ack::One } else { Ack::All },
            strays: if world.percent(25)
                || matches!(canary, Some(Canary::NoFence | Canary::NoLease | Canary::ReplacedUntold))
            {
                10
            } else {
                0
            },
            // Not drawn: what is drawn later is the same with and without.
            least: if has_settings && (is_spread || !seed.is_multiple_of(3)) { 2 } else { 1 },
            is_full: has_settings && !is_spread && seed % 3 != 1,
            timeout: Duration::from_secs(if world.percent(15) { 1 } else { 1_800 }),
            copies: is_spread.then_some(1 + (seed / 4 % 2) as usize),
        };
        let users = world.between(1, 4) as usize;
        let is_storm = world.percent(25) && canary.is_none();
        let faults = if is_storm { world.between(4, 10) } else { world.between(1, 4) } as usize;
        let has_stops = scenario == Scenario::FullStops || canary == Some(Canary::NothingSaved);
        let plan = Plan::new(faults, is_storm, has_stops, world.now_us());
        let clocks: Vec<Clock> = (0..machines).map(|_| Clock::drawn(&mut world)).collect();
        let locals: Vec<bool> = (0..users).map(|_| world.percent(15)).collect();
        let mut cluster = Self {
            world,
            wire: Wire::default(),
            machines: clocks.into_iter().map(Machine::new).collect(),
            users: locals.into_iter().map(User::new).collect(),
            tabs: (0..users * 2).map(|tab| Tab::new(tab / 2, tab % 2)).collect(),
            checker: Checker::new(rules.timeout, queue_bytes == WIDE, is_storm),
            plan,
            rules,
            canary,
            closing: false,
            is_stopping: false,
            next_call: 0,
            failed_until: vec![0; machines],
            unreachable_until: vec![0; machines],
            news: 0,
        };
        (0..machines).for_each(|machine| cluster.start(machine));
        for tab in 0..cluster.tabs.len() {
            let delay_us = cluster.world.between(400_000, 500_000);
            cluster.world.after(delay_us, Event::Tab(tab, Heard::Wake));
        }
        cluster.world.after(450_000, Event::Fault(Step::Poll));
        cluster
    }

    /// Runs to the end or to the first broken promise.
    pub(crate) fn run(&mut self) -> Result<Report, String> {
        let mut over = false;
        while !over {
            let Some(event) = self.world.pop() else { return Err("nothing happens any more".into()) };
            match event {
                Event::Node(id, input) => self.deliver(id, input),
                Event::Tab(tab, heard) => self.tab_heard(tab, heard),
                Event::Fault(step) => over = self.fault_step(step),
            }
            if let Some(what) = self.checker.violation() {
                return Err(what);
            }
        }
        let (trace, steps) = (self.world.trace(), self.world.step());
        Ok(Report { trace, steps, protected: self.checker.protected })
    }

    /// This life of a node, if it lives.
    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.machines[machine_of(id)].node.as_mut().filter(|node| node.id == id)
    }

    /// The same, to look at.
    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.machines[machine_of(id)].node.as_ref().filter(|node| node.id == id)
    }

    /// Whether a connection to this life would be answered now.
    pub(crate) fn is_awake(&self, id: NodeId) -> bool {
        let machine = &self.machines[machine_of(id)];
        !machine.paused && machine.node.as_ref().is_some_and(|node| node.id == id)
    }

    /// Whether a connection to this life would be refused now: the machine runs, and on it no process or another one.
    pub(crate) fn is_refused(&self, id: NodeId) -> bool {
        let machine = &self.machines[machine_of(id)];
        match &machine.node {
            Some(node) => node.id != id && !machine.paused,
            None => !machine.has_no_power,
        }
    }

    /// A node changes its duty and says so.
    pub(crate) fn set_duty(&mut self, id: NodeId, duty: Duty) {
        if let Some(node) = self.node_mut(id) {
            node.duty = duty;
        }
        self.rosters_changed(id);
        if duty == Duty::Serving {
            self.failed_until[machine_of(id)] = 0;
        }
        self.announce(id, Some(duty), 300_000);
    }

    /// The time as this life of a node sees it.
    pub(crate) fn moment(&self, id: NodeId) -> Moment {
        self.clock(&self.machines[machine_of(id)])
    }

    /// The time as a machine sees it.
    pub(crate) fn clock(&self, machine: &Machine) -> Moment {
        machine.clock.moment(self.world.now_us())
    }

    /// A new life on a machine where none is, which does not know anybody and remembers nothing.
    pub(crate) fn start(&mut self, machine: usize) {
        if self.machines[machine].node.is_some() {
            return;
        }
        if self.machines[machine].has_no_power {
            self.machines[machine].clock = Clock::drawn(&mut self.world);
        }
        let drawn = self.world.between(1, u64::MAX >> 8);
        let id = NodeId(drawn << 8 | machine as u64);
        let (ack, ack_timeout, claim_timeout) = (self.rules.ack, ACK_TIMEOUT, CLAIM_TIMEOUT);
        let repair_interval = Duration::from_millis(900);
        let config = CoreConfig { ack, ack_timeout, claim_timeout, lease: LEASE, repair_interval };
        let least = if self.canary == Some(Canary::TooFewCopies) { 1 } else { self.rules.least };
        let node = Node::new(id, self.rules.workers, least, config, self.world.now_us());
        let disk = self.machines[machine].disk.take();
        self.machines[machine] = Machine { node: Some(node), disk, ..Machine::new(self.machines[machine].clock) };
        self.load(machine);
        let sweep_us = self.world.between(0, 250_000);
        self.world.after(sweep_us, Event::Node(id, Input::Sweep));
        for core in 0..=self.rules.workers {
            let delay_us = self.world.between(0, 20_000);
            self.world.after(delay_us, Event::Node(id, Input::Tick(core)));
        }
        let others: Vec<(NodeId, Duty)> = self.others(id).map(|node| (node.id, node.duty)).collect();
        for (subject, duty) in others {
            self.tell(id, subject, Some(duty), 100_000);
        }
        self.world.after(100_001, Event::Node(id, Input::Discovered));
        self.announce(id, Some(Duty::Starting), 150_000);
    }

    /// The process on a machine ends.
    pub(crate) fn crash(&mut self, machine: usize, how: Fault) {
        let Some(node) = self.machines[machine].node.take() else { return };
        let id = node.id;
        for conn in self.wire.select(|conn| conn.touches(id)) {
            match how {
                Fault::PowerCut => self.wire.vanish(conn, id),
                _ => self.wire.hang_up(conn, id, &mut self.world),
            }
        }
        if how == Fault::PowerCut {
            let from_it = |heard: &Heard| matches!(heard, Heard::Answer { from, .. } if *from == id);
            self.world.retain(|event| !matches!(event, Event::Tab(_, heard) if from_it(heard)));
        }
        self.machines[machine].has_no_power = how == Fault::PowerCut;
        self.break_connections(machine);
        self.announce(id, None, 600_000);
    }

    /// The process on a machine stops for a while; the others may think that it is gone.
    pub(crate) fn pause(&mut self, machine: usize, long_us: u64) {
        let Some(id) = self.machines[machine].node.as_ref().map(|node| node.id) else { return };
        self.machines[machine].paused = true;
        self.world.after(long_us, Event::Fault(Step::Wake(machine)));
        if long_us > 300_000 && self.world.percent(50) {
            self.announce(id, None, long_us);
        }
    }

    /// What a paused process has missed comes to it at once, in an order that only connections keep.
    pub(crate) fn wake(&mut self, machine: usize) {
        let now_us = self.world.now_us();
        self.machines[machine].paused = false;
        let deferred = std::mem::take(&mut self.machines[machine].deferred);
        let Some(node) = self.machines[machine].node.as_mut() else { return };
        let (id, duty) = (node.id, node.duty);
        for input in deferred {
            let mut later = Some(input);
            if let Some(lane) = later.as_ref().and_then(lane) {
                let unread = &mut self.machines[machine].unread;
                let is_first = !unread.contains_key(&lane);
                unread.entry(lane).or_default().extend(later.take());
                later = is_first.then_some(Input::Unread(lane));
            }
            if let Some(input) = later {
                let at_us = now_us + self.world.between(0, 5_000);
                self.world.at(at_us, Event::Node(id, input));
            }
        }
        self.announce(id, Some(duty), 300_000);
    }

    /// Reads what a connection has brought since the pause, in its order. A reset that came meanwhile has taken the rest.
    pub(crate) fn read_on(&mut self, id: NodeId, lane: Lane) {
        let unread = self.machines[machine_of(id)].unread.remove(&lane).unwrap_or_default();
        unread.into_iter().for_each(|input| self.deliver(id, input));
    }

    /// Every node serves, knows every other as it is, and has told it everything.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.behind().is_none()
    }

    /// What is missing.
    pub(crate) fn why_not_caught_up(&self) -> String {
        self.behind().unwrap_or_default()
    }

    fn behind(&self) -> Option<String> {
        self.machines.iter().enumerate().find_map(|(at, machine)| {
            let now = self.clock(machine);
            let Some(node) = machine.node.as_ref().filter(|_| !machine.paused) else {
                return Some(format!("machine {at} is away"));
            };
            if node.duty != Duty::Serving {
                return Some(format!("{:?} is {:?}", node.id, node.duty));
            }
            let truth: Vec<(NodeId, Duty)> = self.others(node.id).map(|other| (other.id, other.duty)).collect();
            let mut known: Vec<(NodeId, Duty)> = node.peers().collect();
            known.sort_by_key(|(peer, _)| machine_of(*peer));
            if known != truth {
                return Some(format!("{:?} knows {known:?}, true is {truth:?}", node.id));
            }
            let late = truth.iter().find(|(peer, _)| !node.is_caught_up_with(*peer, now));
            late.map(|(peer, _)| {
                format!("{:?} has not caught up with {peer:?}: {}", node.id, node.standing(*peer, now))
            })
        })
    }

    /// Everybody hears who is there.
    pub(crate) fn tell_truth(&mut self) {
        let nodes = self.machines.iter().filter_map(|machine| machine.node.as_ref());
        for (id, duty) in nodes.map(|node| (node.id, node.duty)).collect::<Vec<_>>() {
            self.announce(id, Some(duty), 300_000);
        }
    }

    /// A machine hears that the node of another is gone, true or not.
    pub(crate) fn tell_gone(&mut self, observer: usize, subject: usize, within_us: u64) {
        let id = |machine: usize| self.machines[machine].node.as_ref().map(|node| node.id);
        if let (Some(observer), Some(subject)) = (id(observer), id(subject)) {
            self.tell(observer, subject, None, within_us);
        }
    }

    /// Who holds what among these nodes, of which some serve.
    pub(crate) fn placement_of(&self, nodes: impl Iterator<Item = (NodeId, bool)>) -> Placement {
        let route = |node| format!("m{}", machine_of(node)).parse().expect("it is a route");
        let place = |(node, serves)| Place { node, route: route(node), serves };
        match self.rules.copies {
            Some(copies) => Placement::new(Spread::Chosen(copies), nodes.map(place)),
            None => Placement::everywhere(),
        }
    }

    fn others(&self, id: NodeId) -> impl Iterator<Item = &Node> {
        self.machines.iter().filter_map(|machine| machine.node.as_ref()).filter(move |node| node.id != id)
    }

    fn announce(&mut self, subject: NodeId, duty: Option<Duty>, within_us: u64) {
        for observer in self.others(subject).map(|node| node.id).collect::<Vec<_>>() {
            self.tell(observer, subject, duty, within_us);
        }
    }

    fn tell(&mut self, observer: NodeId, subject: NodeId, duty: Option<Duty>, within_us: u64) {
        self.news += 1;
        let delay_us = self.world.between(0, within_us);
        self.world.after(delay_us, Event::Node(observer, Input::Learn { subject, version: self.news, duty }));
    }

    fn deliver(&mut self, id: NodeId, input: Input) {
        let input = match input {
            Input::Bytes { conn, end, bytes } => match self.wire.arrive(conn, end, bytes, &mut self.world) {
                Some(bytes) => Input::Bytes { conn, end, bytes },
                None => return,
            },
            other => other,
        };
        let machine = &mut self.machines[machine_of(id)];
        let Some(node) = machine.node.as_ref().filter(|node| node.id == id) else { return };
        if machine.paused {
            machine.deferred.push(input);
            return;
        }
        if let Some(unread) = lane(&input).and_then(|lane| machine.unread.get_mut(&lane)) {
            return unread.push(input);
        }
        let slots = node.slots.clone();
        debug_assert_eq!(slots.me(), id);
        self.node_input(id, input);
        if let Some(what) = slots.take_stepped_back() {
            self.checker.violate(what);
        }
    }
}

impl Machine {
    fn new(clock: Clock) -> Self {
        let (deferred, unread) = (Vec::new(), BTreeMap::new());
        Self { node: None, clock, paused: false, has_no_power: false, disk: None, deferred, unread }
    }
}

impl Rules {
    /// Only some nodes hold a session.
    pub(crate) fn is_spread(&self) -> bool {
        self.copies.is_some()
    }

    /// Whether sessions end while the run goes on.
    pub(crate) fn is_short(&self) -> bool {
        self.timeout < Duration::from_secs(60)
    }
}

fn lane(input: &Input) -> Option<Lane> {
    match input {
        Input::Bytes { conn, end, .. } | Input::Closed { conn, end } => Some((*conn, *end == End::Dialer)),
        Input::Linked(conn) => Some((*conn, true)),
        _ => None,
    }
}
