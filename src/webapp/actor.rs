//! The `Deployer`: watches the webapps folder and publishes what is good.
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
use serde::{Deserialize, Serialize};

use super::{
    app::Webapp,
    catalog::{Catalog, Catalogue},
    folder::{self, Refusal},
    rollout::{Calm, Rollout, Step, Trust},
};
use crate::{limits, names::ContextPath};

/// Keeps a [`Catalogue`] up to date with a folder. Not on the path of a request.
pub struct Deployer {
    folder: PathBuf,
    catalogue: Catalogue,
    apps: BTreeMap<String, Arc<Webapp>>,
    refusals: BTreeMap<String, Refusal>,
    /// Away while a look is under way.
    rollout: Option<Rollout>,
    /// A hint came while a look was under way, or the last look saw something move.
    again: bool,
    folder_fails: bool,
    due: Option<SpawnHandle>,
    watcher: Option<RecommendedWatcher>,
    hinted: Arc<AtomicBool>,
}

/// Asks a [`Deployer`] how it is: one report for each webapp, in the order of their names.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<WebappReport>")]
pub struct Observe;

/// How one webapp is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebappReport {
    /// The name of its folder.
    pub name: String,
    /// Where it answers; none while no version of it is good.
    pub context: Option<ContextPath>,
    /// The version that answers.
    pub version: Option<String>,
    /// Its sessions are copied to other nodes.
    pub distributable: bool,
    /// Why what lies in the folder now is not what answers: file, line, what to do.
    pub error: Option<String>,
}

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
    outcome: io::Result<(Vec<Outcome>, Calm)>,
}

enum Outcome {
    Ready(Box<folder::Readout>),
    Refused(String, Refusal),
    Gone(String),
}

impl Deployer {
    /// Reads the folder and deploys what is good in it, before anything is answered. Broken webapps are logged.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(folder: &Path) -> Result<Self, NoFolder> {
        let mut deployer = Self {
            folder: folder.to_owned(),
            catalogue: Catalogue::default(),
            apps: BTreeMap::new(),
            refusals: BTreeMap::new(),
            rollout: None,
            again: false,
            folder_fails: false,
            due: None,
            watcher: None,
            hinted: Arc::default(),
        };
        let look = look(folder, Rollout::default(), Trust::AtOnce);
        let (outcomes, calm) = look.outcome.map_err(|source| NoFolder { folder: folder.to_owned(), source })?;
        deployer.rollout = Some(look.rollout);
        deployer.again = calm == Calm::Moving;
        deployer.apply(outcomes);
        Ok(deployer)
    }

    /// Where the webapps of now are found.
    pub fn catalogue(&self) -> Catalogue {
        self.catalogue.clone()
    }

    fn apply(&mut self, outcomes: Vec<Outcome>) {
        if outcomes.is_empty() {
            return;
        }
        for outcome in outcomes {
            match outcome {
                Outcome::Ready(readout) => self.deploy(*readout),
                Outcome::Refused(name, refusal) => {
                    let kept =
                        if self.apps.contains_key(&name) { "the version before goes on" } else { "not deployed" };
                    tracing::error!("webapp {name} is broken ({kept}): {refusal}");
                    self.refusals.insert(name, refusal);
                }
                Outcome::Gone(name) => {
                    self.refusals.remove(&name);
                    if self.apps.remove(&name).is_some() {
                        tracing::info!("webapp {name} undeployed: its folder is gone");
                    }
                }
            }
        }
        self.catalogue.publish(Catalog::of(self.apps.values().cloned()));
    }

    fn deploy(&mut self, readout: folder::Readout) {
        let app = Arc::new(readout.app);
        readout.remarks.iter().for_each(|remark| tracing::warn!("webapp {}: {remark}", app.name));
        self.refusals.remove(&app.name);
        if self.apps.get(&app.name).is_none_or(|before| before.version != app.version) {
            tracing::info!("webapp {} deployed at {} (version {})", app.name, app.context, app.version);
        }
        self.apps.insert(app.name.clone(), app);
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
        let folder = self.folder.clone();
        let before = rollout.clone();
        let task = tokio::task::spawn_blocking(move || look(&folder, rollout, Trust::WhenStable));
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
            Ok((outcomes, calm)) => {
                self.folder_fails = false;
                self.apply(outcomes);
                again |= calm == Calm::Moving;
            }
            Err(error) if !std::mem::replace(&mut self.folder_fails, true) => {
                let folder = self.folder.display();
                tracing::error!("the webapps folder {folder} cannot be read (what is deployed goes on): {error}");
            }
            Err(_) => {}
        }
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
fn look(folder: &Path, mut rollout: Rollout, trust: Trust) -> Look {
    let stamps = match folder::stamps(folder) {
        Ok(stamps) => stamps,
        Err(error) => return Look { rollout, outcome: Err(error) },
    };
    let (steps, mut calm) = rollout.look(&stamps, trust);
    let read: Vec<(String, Option<Outcome>)> = steps.into_iter().map(|step| carry_out(folder, step)).collect();
    let after = if read.is_empty() { Ok(stamps.clone()) } else { folder::stamps(folder) };
    let mut outcomes = Vec::new();
    for (name, outcome) in read {
        let unchanged = after.as_ref().is_ok_and(|after| after.get(&name) == stamps.get(&name));
        // At start a webapp is served as it was read; if it is still moving, the next look reads it again.
        if unchanged || trust == Trust::AtOnce {
            outcomes.extend(outcome);
        }
        if !unchanged {
            rollout.changed_while_read(&name);
            calm = Calm::Moving;
        }
    }
    Look { rollout, outcome: Ok((outcomes, calm)) }
}

fn carry_out(folder: &Path, step: Step) -> (String, Option<Outcome>) {
    match step {
        Step::Undeploy(name) => (name.clone(), Some(Outcome::Gone(name))),
        Step::Read(name) => match folder::read(folder, &name) {
            Ok(readout) => (name, Some(Outcome::Ready(Box::new(readout)))),
            Err(refusal) => (name.clone(), Some(Outcome::Refused(name, refusal))),
        },
    }
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
        let names = self.apps.keys().chain(self.refusals.keys().filter(|name| !self.apps.contains_key(*name)));
        let mut reports: Vec<WebappReport> = names.map(|name| self.report(name)).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        MessageResult(reports)
    }
}

impl Deployer {
    fn report(&self, name: &str) -> WebappReport {
        let app = self.apps.get(name);
        WebappReport {
            name: name.to_owned(),
            context: app.map(|app| app.context.clone()),
            version: app.map(|app| app.version.clone()),
            distributable: app.is_some_and(|app| app.descriptor.distributable),
            error: self.refusals.get(name).map(Refusal::to_string),
        }
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
        deployer: Addr<Deployer>,
        catalogue: Catalogue,
    }

    impl Site {
        fn open() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("ROOT")).unwrap();
            fs::write(folder.path().join("ROOT/index.html.j2"), "one").unwrap();
            let deployer = Deployer::open(folder.path()).unwrap();
            let catalogue = deployer.catalogue();
            Self { folder, deployer: deployer.start(), catalogue }
        }

        fn write(&self, name: &str, text: &str) {
            let at = self.folder.path().join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        }

        fn finds(&self, path: &str) -> bool {
            match self.catalogue.load().find(path) {
                Found::Webapp { app, path } => !matches!(app.resolve(&path), Resource::NotFound),
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
        assert!(reports[0].error.as_ref().unwrap().starts_with("ROOT/index.html.j2:2: "), "{reports:?}");
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
        let error = Deployer::open(Path::new("/nowhere/webapps")).err().unwrap();
        assert!(error.to_string().contains("/nowhere/webapps"));
    }

    #[test]
    fn reading_is_no_change() {
        assert!(!changes(&EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(changes(&EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(changes(&EventKind::Remove(notify::event::RemoveKind::Any)) && changes(&EventKind::Any));
    }
}
