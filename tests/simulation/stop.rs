//! A planned full stop: no more requests, every node saves what it holds and ends, and new ones begin with what was saved. As
//! `server.rs` and `server/snapshot.rs` have it, with the product's own file format and judgement of what comes back.

use std::time::Duration;

use tasuki::session::{
    Slots,
    snapshot::{
        self, Clock, Header, Part,
        codec::{Reader, Writer},
    },
};

use crate::{
    Canary,
    cluster::{Cluster, DRAIN},
    faults::Fault,
    schedule::Step,
    story,
    world::Event,
};

/// How often a stopping node looks whether its requests are over.
const LOOK_US: u64 = 5_000;

/// What a node has left on its disk.
pub(crate) struct Disk {
    file: Vec<u8>,
    /// By the clock of the machine, which goes on.
    at_us: u64,
}

impl Cluster {
    /// The balancer takes no more requests; those that are under way end.
    pub(crate) fn begin_full_stop(&mut self, until_us: u64) {
        self.is_stopping = true;
        self.world.after(0, Event::Fault(Step::StopAll));
        self.plan.lasts_until(until_us + 2_000_000);
    }

    /// All nodes are told at the same time, when no request is left.
    pub(crate) fn stop_all(&mut self) {
        if self.tabs.iter().any(|tab| tab.current.is_some()) {
            return self.world.after(LOOK_US, Event::Fault(Step::StopAll));
        }
        for machine in 0..self.machines.len() {
            let delay_us = self.world.between(0, 200_000);
            self.world.after(delay_us, Event::Fault(Step::Stop(machine)));
        }
    }

    /// One of them saves and ends, whatever the others do.
    pub(crate) fn stop(&mut self, machine: usize) {
        let Some(node) = self.machines[machine].node.as_ref() else { return };
        let (id, slots, is_busy) = (node.id, node.slots.clone(), !node.jobs.is_empty());
        self.set_duty(id, DRAIN);
        if is_busy {
            return self.world.after(LOOK_US, Event::Fault(Step::Stop(machine)));
        }
        let now = self.moment(id);
        let mut writer = Writer::begin(Vec::new(), &header()).expect("memory takes what is written to it");
        let saves_nothing = self.canary == Some(Canary::NothingSaved);
        for id in slots.ids(|slot| !saves_nothing && snapshot::is_kept(slot, Part::Everything)) {
            if let Some(saved) = slots.with(id, |slot| snapshot::saved(slot, id, Part::Everything, now)) {
                writer.put(&saved).expect("memory takes what is written to it");
            }
        }
        let (file, counts) = writer.finish().expect("memory takes what is written to it");
        story::tell_all(format!("{id:?} has saved {counts:?}"));
        self.machines[machine].disk = Some(Disk { file, at_us: self.world.now_us() });
        self.crash(machine, Fault::Drain);
        if self.machines.iter().all(|machine| machine.node.is_none()) {
            self.begin_again();
        }
    }

    fn begin_again(&mut self) {
        let pause_us = self.world.between(50_000, 2_000_000);
        for machine in 0..self.machines.len() {
            let delay_us = pause_us + self.world.between(0, 300_000);
            self.world.after(delay_us, Event::Fault(Step::Start(machine)));
        }
        self.plan.lasts_until(self.world.now_us() + pause_us + 500_000);
        self.is_stopping = false;
        // The balancer knows nothing of those before.
        self.failed_until.fill(0);
    }

    /// A node that has just started takes what is on its disk, before anybody asks it.
    pub(crate) fn load(&mut self, machine: usize) {
        let Some(Disk { file, at_us }) = self.machines[machine].disk.take() else { return };
        let Some((id, slots)) = self.machines[machine].node.as_ref().map(|node| (node.id, node.slots.clone())) else {
            return;
        };
        // They have all stopped together.
        let others = (0..self.machines.len()).filter(|other| *other != machine).collect();
        self.machines[machine].node.as_mut().expect("it was there just now").awaited = others;
        let (now, down) = (self.moment(id), Duration::from_micros(self.world.now_us() - at_us));
        let mut reader = Reader::open(&file[..]).expect("it was written whole");
        while let Some(saved) = reader.entry().expect("it was written whole") {
            snapshot::restore(&slots, saved, Part::Everything, down, now);
        }
    }
}

/// What is judged by it comes back always: nobody lives on, and little time passes.
fn header() -> Header {
    let written = Clock { unix_ms: 0, boot: String::new(), up_ms: 0 };
    let (route, cluster, by) = ("m".into(), "simulation".into(), "the simulation".into());
    Header { route, cluster, part: Part::Everything, written, nodes: Vec::new(), routes: Vec::new(), by }
}
