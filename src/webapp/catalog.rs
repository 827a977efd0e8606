//! Which webapp answers for a path: an immutable list, published whole.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::{app::Webapp, path};
use crate::time::Moment;

/// The webapps of one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By context path; `ROOT` under the empty text.
    apps: HashMap<String, Arc<Versions>>,
}

/// The good versions of one webapp side by side.
#[derive(Debug)]
pub struct Versions {
    /// The newest first; never empty.
    apps: Vec<Version>,
}

/// A version, and since when there has been a newer one.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) app: Arc<Webapp>,
    pub(super) superseded: Option<Moment>,
}

/// Where the catalog of now is found. Clones show the same one.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(Arc<ArcSwap<Catalog>>);

/// What a request path names.
#[derive(Debug)]
pub enum Found<'a> {
    /// A webapp, and the path within it: decoded, normalised, starting with a slash.
    Webapp {
        /// The newest version of the webapp; the request keeps it to its end.
        app: Arc<Webapp>,
        /// All of its versions.
        versions: Arc<Versions>,
        /// The path within it.
        path: Cow<'a, str>,
    },
    /// A webapp asked for without its slash: redirect to this path (percent-encoded); the query goes behind it.
    AddSlash {
        /// Its newest version.
        app: Arc<Webapp>,
        /// The path.
        to: String,
    },
    /// No webapp answers here (there is no `ROOT`).
    NotFound,
    /// Not a path that can be looked up: 400.
    Bad,
}

impl Catalog {
    /// A catalog of these webapps.
    pub(super) fn of(versions: impl IntoIterator<Item = Version>) -> Self {
        let mut apps: HashMap<String, Vec<Version>> = HashMap::new();
        for version in versions {
            apps.entry(version.app.context().as_str().to_owned()).or_default().push(version);
        }
        let newest_first = |mut apps: Vec<Version>| {
            apps.sort_by(|a, b| b.app.name.tag().cmp(&a.app.name.tag()));
            Arc::new(Versions { apps })
        };
        Self { apps: apps.into_iter().map(|(context, apps)| (context, newest_first(apps))).collect() }
    }

    /// Finds the webapp of the longest matching context path for the path of a request target, as it was sent and
    /// without its query.
    pub fn find<'a>(&self, raw: &'a str) -> Found<'a> {
        let Ok(path) = path::normalise(raw) else { return Found::Bad };
        let mut end = path.len();
        loop {
            if let Some(versions) = self.apps.get(&path[..end]) {
                return if end == path.len() {
                    Found::AddSlash { app: versions.newest().clone(), to: path::encode(&format!("{path}/")) }
                } else {
                    Found::Webapp { app: versions.newest().clone(), versions: versions.clone(), path: tail(path, end) }
                };
            }
            match path[..end].rfind('/') {
                Some(shorter) => end = shorter,
                None => return Found::NotFound,
            }
        }
    }

    /// All versions of all webapps, in no order.
    pub fn webapps(&self) -> impl Iterator<Item = &Arc<Webapp>> {
        self.apps.values().flat_map(|versions| &versions.apps).map(|version| &version.app)
    }
}

impl Versions {
    /// Where new sessions begin.
    pub fn newest(&self) -> &Arc<Webapp> {
        &self.apps[0].app
    }

    /// All of them, the newest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Webapp>> {
        self.apps.iter().map(|version| &version.app)
    }

    /// There is nothing to choose from.
    pub fn is_single(&self) -> bool {
        self.apps.len() == 1
    }

    /// Where a session goes on that began on the version `tag`: there, as long as it is deployed and has not been
    /// superseded for `most`; else on the newest.
    pub fn of_session(&self, tag: Option<&str>, now: Moment, most: Duration) -> &Arc<Webapp> {
        let its_own = self.apps.iter().find(|version| version.app.tag() == tag);
        let lasts = its_own.filter(|version| version.superseded.is_none_or(|since| now.since(since) < most));
        lasts.map_or(self.newest(), |version| &version.app)
    }
}

impl Catalogue {
    /// The catalog of now. Taken once at the start of a request.
    pub fn load(&self) -> Arc<Catalog> {
        self.0.load_full()
    }

    pub(super) fn publish(&self, catalog: Catalog) {
        self.0.store(Arc::new(catalog));
    }
}

fn tail(path: Cow<'_, str>, from: usize) -> Cow<'_, str> {
    match path {
        Cow::Borrowed(path) => Cow::Borrowed(&path[from..]),
        Cow::Owned(path) => Cow::Owned(path[from..].to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webapp::{Resource, Tally, assets::Asset, descriptor::Descriptor};

    fn app(name: &str, assets: &[&str]) -> Version {
        let app = Webapp {
            name: name.parse().unwrap(),
            version: String::new(),
            descriptor: Descriptor::default(),
            pages: HashMap::new(),
            assets: assets.iter().map(|path| ((*path).to_owned(), Asset::plain("/".as_ref(), path))).collect(),
            error_pages: HashMap::new(),
            unpacked: None,
            tally: Tally::default(),
        };
        Version { app: Arc::new(app), superseded: None }
    }

    fn found(catalog: &Catalog, raw: &str) -> String {
        match catalog.find(raw) {
            Found::Webapp { app, path, .. } => format!("{} {path}", app.context()),
            Found::AddSlash { to, .. } => format!("-> {to}"),
            Found::NotFound => "none".into(),
            Found::Bad => "bad".into(),
        }
    }

    #[test]
    fn the_longest_context_path_wins() {
        let catalog = Catalog::of([app("ROOT", &[]), app("shop", &[]), app("shop#new", &[])]);
        for (raw, expected) in [
            ("/", "/ /"),
            ("/x", "/ /x"),
            ("/shopping", "/ /shopping"),
            ("/shop", "-> /shop/"),
            ("//shop", "-> /shop/"),
            ("/shop/", "/shop /"),
            ("/shop/x/y", "/shop /x/y"),
            ("/%73hop/a%20b", "/shop /a b"),
            ("/shop/new", "-> /shop/new/"),
            ("/shop/new/z;jsessionid=1", "/shop/new /z"),
            ("/shop/../x", "bad"),
        ] {
            assert_eq!(found(&catalog, raw), expected, "{raw}");
        }
    }

    #[test]
    fn without_a_root_other_paths_name_nothing() {
        let catalog = Catalog::of([app("shop", &[])]);
        assert_eq!(found(&catalog, "/"), "none");
        assert_eq!(found(&catalog, "/x/shop/"), "none");
    }

    #[test]
    fn a_folder_answers_with_its_welcome_file_and_gets_its_slash() {
        let Version { app, .. } = app("shop", &["/index.html", "/a b/index.htm", "/a b/x.css"]);
        assert!(matches!(app.resolve("/"), Resource::Asset(asset) if asset.file().ends_with("index.html")));
        assert!(matches!(app.resolve("/a b/"), Resource::Asset(asset) if asset.file().ends_with("index.htm")));
        assert!(matches!(app.resolve("/a b"), Resource::AddSlash(to) if to == "/shop/a%20b/"));
        assert!(matches!(app.resolve("/a b/x.css/"), Resource::NotFound));
        assert!(matches!(app.resolve("/c"), Resource::NotFound));
    }

    #[test]
    fn a_request_keeps_the_catalog_it_started_with() {
        let catalogue = Catalogue::default();
        let before = catalogue.load();
        catalogue.clone().publish(Catalog::of([app("ROOT", &[])]));
        assert_eq!((before.webapps().count(), catalogue.load().webapps().count()), (0, 1));
    }

    #[test]
    fn a_session_stays_on_its_version_for_a_time() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
        let since = |name: &str, at| Version { superseded: Some(at), ..app(name, &[]) };
        let catalog = Catalog::of([
            since("shop##2", Moment(0)),
            app("shop##11", &[]),
            since("shop", Moment(0) + second),
            app("other##99", &[]),
        ]);
        let Found::Webapp { app, versions, .. } = catalog.find("/shop/") else { panic!("it is there") };
        assert_eq!(app.name(), "shop##11");
        for (tag, now, name) in [
            (Some("2"), Moment(0) + second, "shop##2"),
            (Some("2"), Moment(0) + hour, "shop##11"),
            (Some("11"), Moment(0) + hour + hour, "shop##11"),
            (Some("3"), Moment(0), "shop##11"),
            (None, Moment(0) + hour, "shop"),
            (None, Moment(0) + hour + second, "shop##11"),
        ] {
            assert_eq!(versions.of_session(tag, now, hour).name(), name, "{tag:?} {now:?}");
        }
        assert!(!versions.is_single() && catalog.webapps().count() == 4);
    }
}
