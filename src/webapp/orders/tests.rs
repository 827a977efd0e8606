use std::{fs, path::Path};

use super::*;
use crate::{
    observe::{WebappReport, WebappSource},
    webapp::{Catalogue, Found, Observe, Sources, Webapp, packing},
};

/// A node's folders, with one webapp in the folder.
struct Site {
    place: tempfile::TempDir,
    deployer: Addr<Deployer>,
    catalogue: Catalogue,
}

impl Site {
    fn open(deployed: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("webapps/shop")).unwrap();
        fs::write(place.path().join("webapps/shop/index.html.j2"), "of the folder").unwrap();
        let mut sources = Sources::new(&place.path().join("webapps"), &place.path().join("work"));
        for (name, page) in deployed {
            sources.deployed.insert((*name).to_owned(), archive(place.path(), name, page));
        }
        let deployer = Deployer::open(sources).unwrap();
        let catalogue = deployer.catalogue();
        Self { place, deployer: deployer.start(), catalogue }
    }

    fn archive(&self, name: &str, page: &str) -> PathBuf {
        archive(self.place.path(), name, page)
    }

    async fn set(&self, archives: &[(&str, &PathBuf)]) -> Result<(), Vec<Refusal>> {
        let archives = archives.iter().map(|(name, at)| ((*name).to_owned(), (*at).clone())).collect();
        self.deployer.send(SetDeployed { archives }).await.unwrap()
    }

    async fn check(&self, name: &str, archive: &Path) -> Result<Checked, Refusal> {
        self.deployer.send(Check { name: name.into(), archive: archive.to_owned(), rehearsal: None }).await.unwrap()
    }

    fn app(&self, path: &str) -> Option<Arc<Webapp>> {
        match self.catalogue.load().find(path) {
            Found::Webapp { app, .. } => Some(app),
            _ => None,
        }
    }

    async fn reports(&self) -> Vec<WebappReport> {
        self.deployer.send(Observe).await.unwrap()
    }

    /// Folders of unpacked archives.
    fn unpacked(&self, name: &str) -> usize {
        fs::read_dir(self.place.path().join("work").join(name)).map_or(0, Iterator::count)
    }
}

fn archive(place: &Path, name: &str, page: &str) -> PathBuf {
    let at = place.join(format!("{name}.{}.war", page.len()));
    packing::put(&at, page);
    at
}

#[actix::test]
async fn a_checked_archive_changes_nothing_until_it_is_deployed() {
    let site = Site::open(&[]);
    let new = site.archive("shop", "of the cluster");
    let checked = site.check("shop", &new).await.unwrap();
    let before = site.app("/shop/").unwrap();
    assert_ne!(before.version(), checked.version);
    assert_eq!(site.unpacked("shop"), 1);
    site.set(&[("shop", &new)]).await.unwrap();
    assert_eq!(site.app("/shop/").unwrap().version(), checked.version);
    assert_eq!(site.unpacked("shop"), 1, "what was checked is what is deployed");
    site.set(&[]).await.unwrap();
    assert_eq!(site.app("/shop/").unwrap().version(), before.version());
}

#[actix::test]
async fn if_one_is_refused_nothing_changes_and_each_fault_is_told() {
    let site = Site::open(&[]);
    let (good, broken) = (site.archive("cart", "good"), site.archive("shop", "\n{% if %}"));
    let before = site.app("/shop/").unwrap();
    let refusals = site.set(&[("cart", &good), ("shop", &broken), ("a/b", &good)]).await.unwrap_err();
    let told: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
    assert!(told[0].starts_with("a/b: a webapp's name has no slash"), "{told:?}");
    assert!(told[1].starts_with("shop/index.html.j2:2:7: syntax error") && told.len() == 2, "{told:?}");
    assert!(site.app("/cart/").is_none() && Arc::ptr_eq(&site.app("/shop/").unwrap(), &before));
    assert_eq!(site.check("shop", &broken).await.unwrap_err(), refusals[1]);
    assert_eq!(site.unpacked("shop") + site.unpacked("cart"), 0, "nothing is left of what was refused");
}

#[actix::test]
async fn what_the_cluster_had_deployed_answers_from_the_start_and_what_is_broken_of_it_is_left_out() {
    let site = Site::open(&[("cart##2", "cart"), ("shop", "{% broken")]);
    assert_eq!(site.app("/cart/").unwrap().name(), "cart##2");
    let reports = site.reports().await;
    let shop = reports.iter().find(|report| report.name == "shop").unwrap();
    assert_eq!((shop.source, shop.context.is_some()), (WebappSource::Folder, true));
    assert!(shop.error.as_ref().unwrap().starts_with("shop/index.html.j2:1:4: "), "{shop:?}");
    let cart = reports.iter().find(|report| report.name == "cart##2").unwrap();
    assert_eq!((cart.source, cart.error.as_deref()), (WebappSource::Deployed, None));
}

#[actix::test]
async fn the_files_of_a_replaced_archive_go_with_the_last_request_that_uses_it() {
    let site = Site::open(&[]);
    let (one, other) = (site.archive("cart", "1"), site.archive("cart", "22"));
    site.set(&[("cart", &one)]).await.unwrap();
    let request = site.app("/cart/").unwrap();
    site.set(&[("cart", &other)]).await.unwrap();
    assert_eq!(site.unpacked("cart"), 2);
    drop(request);
    site.set(&[("cart", &other)]).await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while site.unpacked("cart") > 1 {
        assert!(std::time::Instant::now() < deadline, "the old files stay");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[actix::test]
async fn what_is_checked_and_never_deployed_is_bounded() {
    let site = Site::open(&[]);
    for n in 0..limits::WEBAPPS_PREPARED + 3 {
        let name = format!("w{n}");
        site.check(&name, &site.archive(&name, "x")).await.unwrap();
    }
    let kept = || (0..limits::WEBAPPS_PREPARED + 3).filter(|n| site.unpacked(&format!("w{n}")) > 0).count();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while kept() > limits::WEBAPPS_PREPARED {
        assert!(std::time::Instant::now() < deadline, "{} are kept", kept());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
