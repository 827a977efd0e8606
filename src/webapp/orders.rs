//! What the cluster wants deployed: archives, checked one by one beside what runs, and made to answer all at once.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use actix::prelude::*;

use super::{
    actor::Deployer,
    archive::Fault,
    deployments::Deployed,
    folder::archive_stamp,
    reader::{Readout, read_archive},
    refusal::Refusal,
    rehearsal::{Rehearsal, rehearse},
    work::Work,
};
use crate::limits;

/// Reads an archive whole, as if it were to be deployed: unpacked, descriptor read, every page compiled, one of them
/// rendered. Nothing changes for users. What was unpacked is kept for a [`SetDeployed`] of the same file.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Checked, Refusal>")]
pub struct Check {
    /// The webapp's full name, such as `shop##2`.
    pub name: String,
    /// The archive.
    pub archive: PathBuf,
    /// A page that is rendered for nobody, to see whether it fails.
    pub rehearsal: Option<Rehearsal>,
}

/// An archive that can be deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The fingerprint of its content: equal on all nodes.
    pub version: String,
    /// What its author should know of.
    pub remarks: Vec<String>,
}

/// Makes exactly these archives the ones that the cluster has deployed. All of them are read before anything changes; if
/// one is refused nothing changes, else everything does at once, between two requests. An order that comes while an
/// earlier one is read outruns it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), Vec<Refusal>>")]
pub struct SetDeployed {
    /// By the webapps' full names. The files must not change while they are deployed.
    pub archives: BTreeMap<String, PathBuf>,
}

/// Which file a webapp was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    name: String,
    archive: PathBuf,
    stamp: u64,
}

/// Webapps that were checked and are not deployed yet: the last [`limits::WEBAPPS_PREPARED`].
#[derive(Debug, Default)]
pub(super) struct Prepared(VecDeque<Deployed>);

/// What is to be read and what is at hand.
struct Plan {
    at_hand: Vec<Deployed>,
    unread: Vec<Origin>,
}

impl Origin {
    pub(super) fn of(name: String, archive: PathBuf) -> Self {
        let stamp = archive_stamp(&archive);
        Self { name, archive, stamp }
    }

    fn read(&self, work: &Work) -> Result<Readout, Refusal> {
        read_archive(&self.name, &self.name, &self.archive, work).map_err(Fault::refusal)
    }
}

impl Prepared {
    /// Keeps it, and gives what has to make room for it.
    fn keep(&mut self, prepared: Deployed) -> Option<Deployed> {
        let same = self.0.iter().position(|other| other.origin.name == prepared.origin.name);
        let is_full = self.0.len() == limits::WEBAPPS_PREPARED;
        let gone = match same {
            Some(at) => self.0.remove(at),
            None if is_full => self.0.pop_front(),
            None => None,
        };
        self.0.push_back(prepared);
        gone
    }

    fn find(&self, origin: &Origin) -> Option<&Deployed> {
        self.0.iter().find(|prepared| prepared.origin == *origin)
    }

    /// What is deployed now needs no place here.
    fn release(&mut self, deployed: &BTreeMap<String, Deployed>) {
        self.0.retain(|prepared| deployed.get(&prepared.origin.name).is_none_or(|it| it.origin != prepared.origin));
    }
}

/// What the cluster had deployed when this node was stopped: what is broken is left out.
pub(super) fn deploy_at_start(deployer: &mut Deployer, archives: BTreeMap<String, PathBuf>) {
    let (mut deployed, mut left_out) = (BTreeMap::new(), BTreeMap::new());
    for (name, archive) in archives {
        let origin = Origin::of(name.clone(), archive);
        match origin.read(&deployer.work) {
            Ok(readout) => {
                deployed.insert(name, Deployed { origin, app: Arc::new(readout.app) });
            }
            Err(refusal) => {
                tracing::error!("webapp {name}, deployed by the cluster, is left out: {refusal}");
                left_out.insert(name, refusal);
            }
        }
    }
    deployer.deployments.set_deployed(deployed, left_out);
}

impl Deployer {
    fn plan(&self, archives: BTreeMap<String, PathBuf>) -> Plan {
        let mut plan = Plan { at_hand: Vec::new(), unread: Vec::new() };
        for (name, archive) in archives {
            let running = self.deployments.deployed().get(&name);
            let origin = Origin::of(name, archive);
            match running.filter(|running| running.origin == origin).or_else(|| self.prepared.find(&origin)) {
                Some(known) => plan.at_hand.push(known.clone()),
                None => plan.unread.push(origin),
            }
        }
        plan
    }

    fn activate(&mut self, order: u64, read: Result<Vec<Deployed>, Vec<Refusal>>) -> Result<(), Vec<Refusal>> {
        let deployed = read?;
        if order < self.obeyed {
            return Err(vec![Refusal::new("", "a later order was carried out meanwhile; nothing is to be done")]);
        }
        self.obeyed = order;
        let deployed = deployed.into_iter().map(|it| (it.origin.name.clone(), it)).collect();
        self.prepared.release(&deployed);
        self.deployments.set_deployed(deployed, BTreeMap::new());
        self.publish();
        self.clear_away();
        Ok(())
    }
}

impl Handler<Check> for Deployer {
    type Result = ResponseActFuture<Self, Result<Checked, Refusal>>;

    fn handle(&mut self, Check { name, archive, rehearsal }: Check, _: &mut Self::Context) -> Self::Result {
        let (work, label) = (self.work.clone(), name.clone());
        let task = tokio::task::spawn_blocking(move || {
            let origin = Origin::of(name, archive);
            let readout = origin.read(&work)?;
            rehearsal.map_or(Ok(()), |rehearsal| rehearse(&readout.app, &rehearsal))?;
            Ok((origin, readout))
        });
        Box::pin(task.into_actor(self).map(move |read, actor, _| {
            let (origin, Readout { app, remarks }) = read.unwrap_or_else(|error| Err(our_fault(&label, &error)))?;
            let checked = Checked { version: app.version.clone(), remarks };
            if let Some(gone) = actor.prepared.keep(Deployed { origin, app: Arc::new(app) }) {
                actor.deployments.retire(gone.app);
                actor.clear_away();
            }
            Ok(checked)
        }))
    }
}

impl Handler<SetDeployed> for Deployer {
    type Result = ResponseActFuture<Self, Result<(), Vec<Refusal>>>;

    fn handle(&mut self, SetDeployed { archives }: SetDeployed, _: &mut Self::Context) -> Self::Result {
        self.ordered += 1;
        let order = self.ordered;
        if archives.len() > limits::WEBAPPS {
            let what = format!("{} webapps are more than {}", archives.len(), limits::WEBAPPS);
            return Box::pin(actix::fut::ready(Err(vec![Refusal::new("", what)])));
        }
        let (plan, work) = (self.plan(archives), self.work.clone());
        let task = tokio::task::spawn_blocking(move || carry_out(plan, &work));
        Box::pin(task.into_actor(self).map(move |read, actor, _| {
            actor.activate(order, read.unwrap_or_else(|error| Err(vec![our_fault("", &error)])))
        }))
    }
}

/// Reads what is not at hand.
fn carry_out(plan: Plan, work: &Work) -> Result<Vec<Deployed>, Vec<Refusal>> {
    let (mut deployed, mut refusals) = (plan.at_hand, Vec::new());
    for origin in plan.unread {
        match origin.read(work) {
            Ok(readout) => deployed.push(Deployed { origin, app: Arc::new(readout.app) }),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() { Ok(deployed) } else { Err(refusals) }
}

fn our_fault(name: &str, error: &tokio::task::JoinError) -> Refusal {
    Refusal::new(name, format!("reading it failed, which is a fault of tasuki: {error}"))
}

#[cfg(test)]
mod tests;
