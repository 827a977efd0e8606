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
    folder::{self, Candidate, Kind},
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
    candidates: BTreeMap<String, Candidate>,
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
        deployer.deployments.saw(&seen.candidates, seen.outcomes, Moment::now());
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
                self.deployments.saw(&seen.candidates, seen.outcomes, Moment::now());
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
    let candidates = match folder::candidates(folder) {
        Ok(candidates) => candidates,
        Err(error) => return Look { rollout, outcome: Err(error) },
    };
    let stamps =
        |found: &BTreeMap<String, Candidate>| found.iter().map(|(name, it)| (name.clone(), it.stamp)).collect();
    let before: BTreeMap<String, u64> = stamps(&candidates);
    let (steps, mut calm) = rollout.look(&before, trust);
    let read: Vec<(String, Outcome)> =
        steps.into_iter().map(|step| carry_out(folder, work, &candidates, step)).collect();
    let after =
        if read.is_empty() { Ok(before.clone()) } else { folder::candidates(folder).map(|found| stamps(&found)) };
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
    Look { rollout, outcome: Ok(Seen { candidates, outcomes, calm }) }
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
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::webapp::{Found, Resource};

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Site {
        folder: tempfile::TempDir,
        _work: tempfile::TempDir,
        deployer: Addr<Deployer>,
        catalogue: Catalogue,
    }

    impl Site {
        fn open() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("ROOT")).unwrap();
            fs::write(folder.path().join("ROOT/index.html.j2"), "one").unwrap();
            let work = tempfile::tempdir().unwrap();
            let deployer = Deployer::open(Sources::new(folder.path(), work.path())).unwrap();
            let catalogue = deployer.catalogue();
            Self { folder, _work: work, deployer: deployer.start(), catalogue }
        }

        fn write(&self, name: &str, text: &str) {
            let at = self.folder.path().join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        }

        fn finds(&self, path: &str) -> bool {
            match self.catalogue.load().find(path) {
                Found::Webapp { app, path, .. } => !matches!(app.resolve(&path), Resource::NotFound),
                _ => false,
            }
        }

        /// Waits until the reports are as wanted; the last ones are shown when they never are.
        async fn until(&self, wanted: impl Fn(&[WebappReport]) -> bool) -> Vec<WebappReport> {
            let deadline = std::time::Instant::now() + PATIENCE;
            loop {
                let reports = self.deployer.send(Observe).await.unwrap();
                if wanted(&reports) {
                    return reports;
                }
                assert!(std::time::Instant::now() < deadline, "never as wanted: {reports:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    #[actix::test]
    async fn a_new_folder_is_deployed_and_a_removed_one_undeployed() {
        let site = Site::open();
        assert!(site.finds("/") && !site.finds("/shop/"));
        site.write("shop/index.html", "shop");
        site.until(|reports| reports.len() == 2).await;
        assert!(site.finds("/shop/"));
        fs::remove_dir_all(site.folder.path().join("shop")).unwrap();
        site.until(|reports| reports.len() == 1).await;
        assert!(!site.finds("/shop/") && site.finds("/"));
    }

    #[actix::test]
    async fn a_broken_version_never_replaces_a_good_one_and_says_where() {
        let site = Site::open();
        let good = site.until(|_| true).await[0].version.clone();
        site.write("ROOT/index.html.j2", "two\n{% if %}");
        let reports = site.until(|reports| reports[0].error.is_some()).await;
        assert_eq!(reports[0].version, good);
        assert!(reports[0].error.as_ref().unwrap().starts_with("ROOT/index.html.j2:2:7: "), "{reports:?}");
        assert!(site.finds("/"));
        site.write("ROOT/index.html.j2", "three");
        let reports = site.until(|reports| reports[0].error.is_none()).await;
        assert_ne!(reports[0].version, good);
    }

    #[actix::test]
    async fn a_request_ends_on_the_version_it_started_with() {
        let site = Site::open();
        let Found::Webapp { app: before, .. } = site.catalogue.load().find("/") else { panic!("ROOT is there") };
        site.write("ROOT/index.html.j2", "two");
        site.until(|reports| reports[0].version.as_deref() != Some(before.version())).await;
        assert!(matches!(before.resolve("/"), Resource::Page(_)));
    }

    #[actix::test]
    async fn a_folder_that_vanishes_takes_nothing_down() {
        let site = Site::open();
        let elsewhere = site.folder.path().with_extension("away");
        fs::rename(site.folder.path(), &elsewhere).unwrap();
        site.deployer.send(Hint).await.unwrap();
        tokio::time::sleep(limits::DEPLOY_QUIET * 2).await;
        assert!(site.finds("/"));
        fs::rename(&elsewhere, site.folder.path()).unwrap();
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error =
            Deployer::open(Sources::new(Path::new("/nowhere/webapps"), Path::new("/nowhere/work"))).err().unwrap();
        assert!(error.to_string().contains("/nowhere/webapps"));
    }

    #[test]
    fn reading_is_no_change() {
        assert!(!changes(&EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(changes(&EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(changes(&EventKind::Remove(notify::event::RemoveKind::Any)) && changes(&EventKind::Any));
    }
}
