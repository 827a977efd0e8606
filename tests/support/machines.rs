//! A cluster of processes on machines of their own, with a network between them that can fail.

use std::{collections::BTreeMap, net::SocketAddr};

use rustix::process::Signal;
use tasuki::observe::StatusReport;

use super::{
    browser::Browser,
    cluster::{Place, Process, send, settled, status},
    relay::{Name, Network},
    skipped, wait_for,
};

/// Nodes r1, r2, ... and the balancer, each on the machine of its name.
pub struct Machines {
    pub network: Network,
    pub listen: SocketAddr,
    place: Place,
    processes: BTreeMap<Name, Process>,
}

pub const BALANCER: Name = "balancer";
pub const NODES: [Name; 3] = ["r1", "r2", "r3"];

const DOOR: &str = "127.0.0.1:12121";

/// Where a node answers HTTP, on its machine.
pub fn http(node: usize) -> String {
    format!("127.0.0.1:{}", 18_080 + 10_000 * node)
}

fn gossip(node: usize) -> String {
    format!("127.0.0.1:{}", 4_000 + node)
}

impl Machines {
    /// Starts so many nodes and waits until all serve; none, with the reason printed, where that cannot be done.
    pub async fn start(place: Place, nodes: usize) -> Option<Self> {
        let machines: Vec<Name> = NODES[..nodes].iter().copied().chain([BALANCER]).collect();
        let network = match Network::new(&machines) {
            Ok(network) => network,
            Err(why) => {
                skipped(&why);
                return None;
            }
        };
        for (index, node) in NODES[..nodes].iter().enumerate() {
            network.connect(node, http(index).parse().unwrap());
            network.connect(node, gossip(index).parse().unwrap());
            network.datagrams(node, gossip(index).parse().unwrap());
        }
        let listen = network.door_to(BALANCER, DOOR.parse().unwrap());
        let mut machines = Self { network, listen, place, processes: BTreeMap::new() };
        for machine in NODES[..nodes].iter().copied().chain([BALANCER]) {
            machines.boot(machine, nodes);
        }
        machines.settled(nodes).await;
        Some(machines)
    }

    /// Starts the process of a machine.
    pub fn boot(&mut self, machine: Name, nodes: usize) {
        let own = NODES.iter().position(|node| *node == machine);
        let peers: Vec<String> = (0..nodes).filter(|index| Some(*index) != own).map(gossip).collect();
        let place = self.place.clone().set("CLUSTER__PEERS", &peers.join(",")).set("BALANCER__LISTEN", DOOR);
        let command = match own {
            None => place.tasuki(&["balancer"]),
            Some(index) => {
                let port = (4_000 + index).to_string();
                let place = place.set("NODE__HTTP", &http(index)).set("NODE__REPLICATION", &port);
                place.tasuki(&["node", "--route", machine])
            }
        };
        let process = self.place.spawn(self.network.on(machine, &command));
        self.processes.insert(machine, process);
    }

    /// A machine loses its power: nothing that it had under way to the other nodes arrives.
    pub async fn crash(&mut self, machine: Name, nodes: usize) {
        let others = || NODES[..nodes].iter().copied().filter(|other| *other != machine);
        // Not one byte more, in either direction; what the process has written is in this network, and stays there.
        others().for_each(|other| self.network.stop(machine, other));
        others().for_each(|other| self.network.stop(other, machine));
        let mut process = self.processes.remove(machine).unwrap();
        process.signal(Signal::KILL);
        process.ended().await;
        others().for_each(|other| self.network.lose(machine, other));
        others().for_each(|other| self.network.go(machine, other));
        others().for_each(|other| self.network.go(other, machine));
    }

    /// Stops the process of a machine and waits until it has ended well.
    pub async fn stop(&mut self, machine: Name) {
        let mut process = self.processes.remove(machine).unwrap();
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await, Some(0), "{}", self.place.log());
    }

    /// Kills the process of a machine, and waits until its ports are free.
    pub async fn kill(&mut self, machine: Name) {
        let mut process = self.processes.remove(machine).unwrap();
        process.signal(Signal::KILL);
        process.ended().await;
    }

    /// Sends a signal to the process of a machine.
    pub fn signal(&self, machine: Name, signal: Signal) {
        send(self.processes[machine].pid(), signal);
    }

    pub fn pid(&self, machine: Name) -> u32 {
        self.processes[machine].pid()
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn browser(&self) -> Browser {
        Browser::new(self.listen)
    }

    pub async fn status(&self) -> Option<StatusReport> {
        status(self.listen).await
    }

    /// Waits until so many nodes serve and each has the others in sync.
    pub async fn settled(&self, nodes: usize) -> StatusReport {
        settled(self.listen, nodes).await
    }

    /// Waits until a node waits for no peer any more, or hears none.
    pub async fn apart(&self, node: Name) {
        let is_apart = async || {
            let report = self.status().await?;
            let node = report.nodes.into_iter().find(|report| report.route.as_str() == node)?;
            node.peers.iter().all(|peer| !peer.in_sync).then_some(())
        };
        wait_for(&format!("{node} is apart"), is_apart).await;
    }
}
