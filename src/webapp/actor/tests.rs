use std::{fs, time::Duration};

use super::*;
use crate::webapp::{Found, Resource};

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks whether the last look found no folder.
#[derive(Message)]
#[rtype(result = "bool")]
struct FolderFails;

impl Handler<FolderFails> for Deployer {
    type Result = bool;

    fn handle(&mut self, _: FolderFails, _: &mut Self::Context) -> bool {
        self.folder_fails
    }
}

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
    let deadline = std::time::Instant::now() + PATIENCE;
    while !site.deployer.send(FolderFails).await.unwrap() {
        assert!(std::time::Instant::now() < deadline, "nobody has looked");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(site.finds("/"));
    fs::rename(&elsewhere, site.folder.path()).unwrap();
}

#[test]
fn a_missing_folder_is_named() {
    let error = Deployer::open(Sources::new(Path::new("/nowhere/webapps"), Path::new("/nowhere/work"))).err().unwrap();
    assert!(error.to_string().contains("/nowhere/webapps"));
}

#[test]
fn reading_is_no_change() {
    assert!(!changes(&EventKind::Access(AccessKind::Open(AccessMode::Any))));
    assert!(changes(&EventKind::Access(AccessKind::Close(AccessMode::Write))));
    assert!(changes(&EventKind::Remove(notify::event::RemoveKind::Any)) && changes(&EventKind::Any));
}
