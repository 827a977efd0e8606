//! The `Deployer`: watches the webapps folder and publishes what is good, together with what the cluster has deployed.
//!
//! The watcher is only a hint (inotify may lose events, network file systems send none): a hint, silence of
//! [`limits::DEPLOY_QUIET`], then a look at everything; and a look every [`limits::DEPLOY_POLL`] in any case. Files are
//! read on the blocking pool, never on a worker.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actix::prelude::*;
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};

use super::{
    archive::Fault,
    catalog::Catalogue,
    deployments::{Deployments, Outcome},
    folder::{self, Candidate, Kind, Lying},
    orders::{self, Prepared},
    reader,
    rollout::{Calm, Rollout, Step, Trust},
    work::Work,
};
use crate::{limits, observe::WebappReport, time::Moment};

/// Keeps a [`Catalogue`] up to date. Not on the path of a request.
pub struct Deployer {
    folder: PathBuf,
    pub(super) work: Work,
    catalogue: Catalogue,
    pub(super) deployments: Deployments,
    pub(super) prepared: Prepared,
    /// Orders of the cluster that have come, and the last of them that was carried out.
    pub(super) ordered: u64,
    pub(super) obeyed: u64,
    /// Away while a look is under way.
    rollout: Option<Rollout>,
    /// A hint came while a look was under way, or the last look saw something move.
    again: bool,
    folder_fails: bool,
    due: Option<SpawnHandle>,
    watcher: Option<RecommendedWatcher>,
    hinted: Arc<AtomicBool>,
}

/// Where webapps come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The webapps folder.
    pub folder: PathBuf,
    /// Where archives are unpacked. Its content is removed at the start: it belongs to this process alone.
    pub work: PathBuf,
    /// The archives that the cluster has deployed, by the full names of their webapps.
    pub deployed: BTreeMap<String, PathBuf>,
}

/// Asks a [`Deployer`] how it is: one report for each webapp, in the order of their names.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<WebappReport>")]
pub struct Observe;

/// The webapps folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the webapps folder {} cannot be read: {source}", folder.display())]
pub struct NoFolder {
    /// As configured.
    pub folder: PathBuf,
    /// What the operating system says.
    pub source: io::Error,
}

/// Something in the folder may have changed.
#[derive(Message)]
#[rtype(result = "()")]
struct Hint;

/// What one look at the folder led to.
struct Look {
    rollout: Rollout,
    outcome: io::Result<Seen>,
}

/// What lies in the folder, and what has come of what was to be read.
struct Seen {
    lying: Lying,
    outcomes: Vec<(String, Outcome)>,
    calm: Calm,
}

impl Sources {
    /// A webapps folder, and nothing that the cluster has deployed.
    pub fn new(folder: &Path, work: &Path) -> Self {
        Self { folder: folder.to_owned(), work: work.to_owned(), deployed: BTreeMap::new() }
    }
}

impl Deployer {
    /// Reads the folder and deploys what is good in it and among what the cluster has deployed, before anything is
    /// answered. Broken webapps are logged and left out.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(sources: Sources) -> Result<Self, NoFolder> {
        let Sources { folder, work, deployed } = sources;
        let (work, emptied) = Work::open(&work);
        if let Err(error) = emptied {
            tracing::warn!("old files in {} cannot be removed: {error}", work.folder().display());
        }
        let look = look(&folder, &work, Rollout::default(), Trust::AtOnce);
        let seen = look.outcome.map_err(|source| NoFolder { folder: folder.clone(), source })?;
        let mut deployer = Self {
            folder,
            work,
            catalogue: Catalogue::default(),
            deployments: Deployments::default(),
            prepared: Prepared::default(),
            ordered: 0,
            obeyed: 0,
            rollout: Some(look.rollout),
            again: seen.calm == Calm::Moving,
            folder_fails: false,
            due: None,
            watcher: None,
            hinted: Arc::default(),
        };
        orders::deploy_at_start(&mut deployer, deployed);
        deployer.deployments.saw(&seen.lying, seen.outcomes, Moment::now());
        deployer.publish();
        Ok(deployer)
    }

    /// Where the webapps of now are found.
    pub fn catalogue(&self) -> Catalogue {
        self.catalogue.clone()
    }

    /// Everything changes at once, between two requests.
    pub(super) fn publish(&mut self) {
        self.catalogue.publish(self.deployments.catalog(Moment::now()));
    }

    /// Files of archives that no request uses any more are removed off this thread.
    pub(super) fn clear_away(&mut self) {
        let unused = self.deployments.unused();
        if !unused.is_empty() {
            tokio::task::spawn_blocking(move || drop(unused));
        }
    }

    /// Looks after a silence; a hint in between starts the silence anew.
    fn look_soon(&mut self, context: &mut Context<Self>) {
        if let Some(due) = self.due.take() {
            context.cancel_future(due);
        }
        self.due = Some(context.run_later(limits::DEPLOY_QUIET, |actor, context| {
            actor.due = None;
            actor.look_now(context);
        }));
    }

    fn look_now(&mut self, context: &mut Context<Self>) {
        let Some(rollout) = self.rollout.take() else {
            self.again = true;
            return;
        };
        let (folder, work, before) = (self.folder.clone(), self.work.clone(), rollout.clone());
        let task = tokio::task::spawn_blocking(move || look(&folder, &work, rollout, Trust::WhenStable));
        context.spawn(task.into_actor(self).map(|looked, actor, context| {
            // A look that panicked is our fault; what was known before it still holds.
            let failed = |error| Look { rollout: before, outcome: Err(io::Error::other(error)) };
            actor.looked(looked.unwrap_or_else(failed), context);
        }));
    }

    fn looked(&mut self, look: Look, context: &mut Context<Self>) {
        self.rollout = Some(look.rollout);
        let mut again = std::mem::take(&mut self.again);
        match look.outcome {
            Ok(seen) => {
                self.folder_fails = false;
                again |= seen.calm == Calm::Moving;
                let has_changed = !seen.outcomes.is_empty();
                self.deployments.saw(&seen.lying, seen.outcomes, Moment::now());
                if has_changed {
                    self.publish();
                }
            }
            Err(error) if !std::mem::replace(&mut self.folder_fails, true) => {
                let folder = self.folder.display();
                tracing::error!("the webapps folder {folder} cannot be read (what is deployed goes on): {error}");
            }
            Err(_) => {}
        }
        self.clear_away();
        if again {
            self.look_soon(context);
        }
    }

    /// Starts the watcher; without one the poll alone finds changes.
    fn watch(&mut self, context: &mut Context<Self>) {
        let (recipient, hinted) = (context.address().recipient::<Hint>(), self.hinted.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.as_ref().map_or(true, |event| event.need_rescan() || changes(&event.kind));
            // At most one hint lies in the mailbox, however many files are copied.
            if matters && !hinted.swap(true, Ordering::Relaxed) {
                recipient.do_send(Hint);
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => tracing::warn!("changes of webapps are found by polling only: {error}"),
        }
    }
}

/// Whether an event is more than somebody reading: our own reads must not wake us.
fn changes(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}

/// One look: what is there, what is to be done, and the doing of what takes time.
fn look(folder: &Path, work: &Work, mut rollout: Rollout, trust: Trust) -> Look {
    let lying = match folder::candidates(folder) {
        Ok(lying) => lying,
        Err(error) => return Look { rollout, outcome: Err(error) },
    };
    let stamps =
        |found: &BTreeMap<String, Candidate>| found.iter().map(|(name, it)| (name.clone(), it.stamp)).collect();
    let before: BTreeMap<String, u64> = stamps(&lying.candidates);
    let (steps, mut calm) = rollout.look(&before, trust);
    let read: Vec<(String, Outcome)> =
        steps.into_iter().map(|step| carry_out(folder, work, &lying.candidates, step)).collect();
    let after = if read.is_empty() {
        Ok(before.clone())
    } else {
        folder::candidates(folder).map(|found| stamps(&found.candidates))
    };
    let mut outcomes = Vec::new();
    for (name, outcome) in read {
        let unchanged = after.as_ref().is_ok_and(|after| after.get(&name) == before.get(&name));
        if !unchanged {
            rollout.changed_while_read(&name);
            calm = Calm::Moving;
        }
        // At start a webapp is served as it was read; if it is still moving, the next look reads it again.
        if unchanged || trust == Trust::AtOnce {
            outcomes.push((name, outcome));
        }
    }
    Look { rollout, outcome: Ok(Seen { lying, outcomes, calm }) }
}

fn carry_out(folder: &Path, work: &Work, candidates: &BTreeMap<String, Candidate>, step: Step) -> (String, Outcome) {
    let name = match step {
        Step::Undeploy(name) => return (name, Outcome::Gone),
        Step::Read(name) => name,
    };
    let Some(Candidate { entry, kind, .. }) = candidates.get(&name) else { return (name, Outcome::Gone) };
    let at = folder.join(entry);
    let read = match kind {
        Kind::Folder => reader::read_folder(&name, entry, &at).map_err(Fault::Refused),
        Kind::War | Kind::Zip => reader::read_archive(&name, entry, &at, work),
    };
    let outcome = match read {
        Ok(readout) => Outcome::Ready(Box::new(readout)),
        Err(Fault::Refused(refusal)) => Outcome::Refused(refusal),
        Err(Fault::Incomplete(refusal)) => Outcome::Incomplete(refusal),
    };
    (name, outcome)
}

impl Actor for Deployer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.watch(context);
        context.run_interval(limits::DEPLOY_POLL, |actor, context| actor.look_now(context));
        // What changed between `open` and the watcher.
        self.look_soon(context);
    }
}

impl Handler<Hint> for Deployer {
    type Result = ();

    fn handle(&mut self, _: Hint, context: &mut Self::Context) {
        self.hinted.store(false, Ordering::Relaxed);
        self.look_soon(context);
    }
}

impl Handler<Observe> for Deployer {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.deployments.reports())
    }
}

#[cfg(test)]
mod tests;
