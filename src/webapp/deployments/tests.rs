use std::{collections::HashMap, time::Duration};

use super::*;
use crate::webapp::{descriptor::Descriptor, folder::Kind};

const START: Moment = Moment(1_000_000);

fn readout(name: &str, version: &str) -> Readout {
    let app = Webapp {
        name: name.parse().unwrap(),
        version: version.into(),
        descriptor: Descriptor::default(),
        pages: HashMap::new(),
        assets: HashMap::new(),
        error_pages: HashMap::new(),
        unpacked: None,
        tally: crate::webapp::Tally::default(),
    };
    Readout { app, remarks: Vec::new() }
}

fn ready(name: &str, version: &str) -> (String, Outcome) {
    (name.into(), Outcome::Ready(Box::new(readout(name, version))))
}

fn incomplete(name: &str) -> (String, Outcome) {
    (name.into(), Outcome::Incomplete(Refusal::new(format!("{name}.war"), "half")))
}

fn deployed(name: &str, version: &str) -> (String, Deployed) {
    let origin = Origin::of(name.into(), format!("/run/{name}").into());
    (name.into(), Deployed { origin, app: Arc::new(readout(name, version).app) })
}

fn saw(it: &mut Deployments, outcomes: impl IntoIterator<Item = (String, Outcome)>, now: Moment) {
    it.saw(&BTreeMap::new(), outcomes.into_iter().collect(), now);
}

fn report(it: &Deployments, name: &str) -> WebappReport {
    it.reports().into_iter().find(|report| report.name == name).unwrap_or_else(|| panic!("{name} is reported"))
}

#[test]
fn a_deployed_one_stands_over_the_folder_until_it_is_taken_back() {
    let mut it = Deployments::default();
    saw(&mut it, [ready("shop", "folder"), ready("ROOT", "folder")], START);
    it.set_deployed([deployed("shop", "cluster")].into(), BTreeMap::new());
    let shop = report(&it, "shop");
    assert_eq!((shop.source, shop.version.as_deref()), (WebappSource::Deployed, Some("cluster")));
    assert!(shop.notes[0].contains("tasuki undeploy shop"), "{shop:?}");
    assert_eq!(report(&it, "ROOT").source, WebappSource::Folder);
    saw(&mut it, [ready("shop", "folder, changed")], START);
    let versions = |it: &mut Deployments| {
        let mut versions: Vec<String> = it.catalog(START).webapps().map(|app| app.version.clone()).collect();
        versions.sort();
        versions
    };
    assert_eq!(versions(&mut it), ["cluster", "folder"]);
    it.set_deployed(BTreeMap::new(), BTreeMap::new());
    assert_eq!(versions(&mut it), ["folder", "folder, changed"]);
    assert_eq!(report(&it, "shop").notes, [""; 0]);
}

#[test]
fn an_archive_that_does_not_open_is_being_copied_until_patience_ends() {
    let mut it = Deployments::default();
    saw(&mut it, [ready("shop", "old")], START);
    saw(&mut it, [incomplete("shop")], START);
    let shop = report(&it, "shop");
    assert_eq!((shop.version.as_deref(), shop.error.as_deref()), (Some("old"), None));
    assert!(shop.notes[0].starts_with("being copied: shop.war: half"), "{shop:?}");
    let almost = START + limits::ARCHIVE_PATIENCE - Duration::from_millis(1);
    saw(&mut it, [], almost);
    assert_eq!(report(&it, "shop").error, None);
    saw(&mut it, [incomplete("shop")], almost);
    saw(&mut it, [], START + limits::ARCHIVE_PATIENCE);
    assert_eq!(report(&it, "shop").error, None, "it has grown: a new wait");
    saw(&mut it, [], almost + limits::ARCHIVE_PATIENCE);
    let shop = report(&it, "shop");
    assert_eq!((shop.version.as_deref(), shop.error.as_deref()), (Some("old"), Some("shop.war: half")));
    saw(&mut it, [ready("shop", "new")], almost);
    assert_eq!(report(&it, "shop").error, None);
}

#[test]
fn what_is_broken_behind_a_deployed_one_is_a_note_and_what_is_broken_of_it_an_error() {
    let mut it = Deployments::default();
    let broken = |file: &str| Refusal { file: file.into(), place: Some((3, Some(5))), what: "wrong".into() };
    saw(&mut it, [("shop".into(), Outcome::Refused(broken("shop/a.j2")))], START);
    assert_eq!(report(&it, "shop").error.as_deref(), Some("shop/a.j2:3:5: wrong"));
    it.set_deployed([deployed("shop", "cluster")].into(), [("cart".to_owned(), broken("cart"))].into());
    let (shop, cart) = (report(&it, "shop"), report(&it, "cart"));
    assert_eq!((shop.error, shop.notes.len()), (None, 2));
    assert_eq!((cart.source, cart.error.as_deref()), (WebappSource::Deployed, Some("cart:3:5: wrong")));
    saw(&mut it, [("shop".into(), Outcome::Gone)], START);
    assert_eq!(report(&it, "shop").notes, [""; 0]);
}

#[test]
fn a_version_is_superseded_since_the_newer_one_came_and_no_more_when_that_goes() {
    let mut it = Deployments::default();
    let superseded = |it: &Deployments, name: &str| it.superseded.get(name).copied();
    saw(&mut it, [ready("shop##2", "a"), ready("other", "x")], START);
    it.catalog(START);
    assert_eq!(superseded(&it, "shop##2"), None);
    let later = START + Duration::from_secs(60);
    saw(&mut it, [ready("shop##11", "b")], later);
    it.catalog(later);
    it.catalog(later + Duration::from_secs(60));
    assert_eq!((superseded(&it, "shop##2"), superseded(&it, "shop##11")), (Some(later), None));
    assert!(report(&it, "shop##2").notes[0].contains("newer version"));
    saw(&mut it, [("shop##11".into(), Outcome::Gone)], later);
    it.catalog(later);
    assert_eq!(superseded(&it, "shop##2"), None);
}

#[test]
fn entries_that_do_not_count_are_named() {
    let mut it = Deployments::default();
    let candidate = Candidate { entry: "shop.war".into(), kind: Kind::War, stamp: 1, hides: vec!["shop".into()] };
    it.saw(&[("shop".to_owned(), candidate)].into(), vec![ready("shop", "a")], START);
    assert_eq!(report(&it, "shop").notes, ["shop.war stands for it, shop beside it does not count"]);
    saw(&mut it, [], START);
    assert_eq!(report(&it, "shop").notes, [""; 0]);
}
