//! Which webapp answers for a path: an immutable list, published whole.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{app::Webapp, path};

/// The webapps of one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By context path; `ROOT` under the empty text.
    apps: HashMap<String, Arc<Webapp>>,
}

/// Where the catalog of now is found. Clones show the same one.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(Arc<ArcSwap<Catalog>>);

/// What a request path names.
#[derive(Debug)]
pub enum Found<'a> {
    /// A webapp, and the path within it: decoded, normalised, starting with a slash.
    Webapp {
        /// The webapp; the request keeps it to its end.
        app: Arc<Webapp>,
        /// The path within it.
        path: Cow<'a, str>,
    },
    /// A webapp asked for without its slash: redirect to this path (percent-encoded); the query goes behind it.
    AddSlash(String),
    /// No webapp answers here (there is no `ROOT`).
    NotFound,
    /// Not a path that can be looked up: 400.
    Bad,
}

impl Catalog {
    /// A catalog of these webapps. Of two with one context path the later one answers.
    pub fn of(apps: impl IntoIterator<Item = Arc<Webapp>>) -> Self {
        Self { apps: apps.into_iter().map(|app| (app.context().as_str().to_owned(), app)).collect() }
    }

    /// Finds the webapp of the longest matching context path for the path of a request target, as it was sent and
    /// without its query.
    pub fn find<'a>(&self, raw: &'a str) -> Found<'a> {
        let Ok(path) = path::normalise(raw) else { return Found::Bad };
        let mut end = path.len();
        loop {
            if let Some(app) = self.apps.get(&path[..end]) {
                return if end == path.len() {
                    Found::AddSlash(path::encode(&format!("{path}/")))
                } else {
                    Found::Webapp { app: app.clone(), path: tail(path, end) }
                };
            }
            match path[..end].rfind('/') {
                Some(shorter) => end = shorter,
                None => return Found::NotFound,
            }
        }
    }

    /// All webapps, in no order.
    pub fn webapps(&self) -> impl Iterator<Item = &Arc<Webapp>> {
        self.apps.values()
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
    use crate::webapp::{Resource, assets::Asset, descriptor::Descriptor};

    fn app(context: &str, assets: &[&str]) -> Arc<Webapp> {
        Arc::new(Webapp {
            name: context.into(),
            context: context.parse().unwrap(),
            version: String::new(),
            descriptor: Descriptor::default(),
            pages: HashMap::new(),
            assets: assets.iter().map(|path| ((*path).to_owned(), Asset::plain("/".as_ref(), path))).collect(),
        })
    }

    fn found(catalog: &Catalog, raw: &str) -> String {
        match catalog.find(raw) {
            Found::Webapp { app, path } => format!("{} {path}", app.context()),
            Found::AddSlash(to) => format!("-> {to}"),
            Found::NotFound => "none".into(),
            Found::Bad => "bad".into(),
        }
    }

    #[test]
    fn the_longest_context_path_wins() {
        let catalog = Catalog::of([app("", &[]), app("/shop", &[]), app("/shop/new", &[])]);
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
        let catalog = Catalog::of([app("/shop", &[])]);
        assert_eq!(found(&catalog, "/"), "none");
        assert_eq!(found(&catalog, "/x/shop/"), "none");
    }

    #[test]
    fn a_folder_answers_with_its_welcome_file_and_gets_its_slash() {
        let app = app("/shop", &["/index.html", "/a b/index.htm", "/a b/x.css"]);
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
        catalogue.clone().publish(Catalog::of([app("", &[])]));
        assert_eq!((before.webapps().count(), catalogue.load().webapps().count()), (0, 1));
    }
}
