//! A deployed webapp: what answers for each path. Made whole by `folder`, never changed afterwards.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use actix_web::{http::header::HeaderValue, web::Bytes};

use super::{
    assets::Asset,
    descriptor::Descriptor,
    name::{AppName, Tag},
    page::Page,
    path,
    work::Unpacked,
};
use crate::names::ContextPath;

/// One version of one webapp. Requests that started on it end on it, also when a newer one has taken its place.
#[derive(Debug)]
pub struct Webapp {
    pub(super) name: AppName,
    pub(super) version: String,
    pub(super) descriptor: Descriptor,
    /// By the path of what they produce: `/index.html`.
    pub(super) pages: HashMap<String, Arc<Page>>,
    /// Static files by their path. What is not listed is not served, whatever lies in the folder.
    pub(super) assets: HashMap<String, Arc<Asset>>,
    /// By the location in the descriptor.
    pub(super) error_pages: HashMap<String, ErrorPage>,
    /// Where its files are if it came as an archive: they go with the last request that uses them.
    pub(super) unpacked: Option<Unpacked>,
    pub(super) tally: Tally,
}

/// How the pages of one version of a webapp do.
#[derive(Debug, Default)]
pub struct Tally {
    asked: AtomicU64,
    failed: AtomicU64,
}

/// The session attribute that says on which version of its webapp a session began: the text behind `##`. A session without
/// it began on the version without one.
pub const VERSION_ATTRIBUTE: &str = "_version";

/// What is shown instead of the server's own error page.
#[derive(Clone, Debug)]
pub enum ErrorPage {
    /// A server page, to be rendered with [`RequestError`](super::RequestError).
    Page(Arc<Page>),
    /// A static file, in memory since the webapp was deployed.
    Static {
        /// Its type.
        content_type: HeaderValue,
        /// Its content.
        body: Bytes,
    },
}

/// What answers for a path of a webapp.
#[derive(Clone, Debug)]
pub enum Resource {
    /// A server page.
    Page(Arc<Page>),
    /// A static file, for [`assets::answer`](super::assets::answer).
    Asset(Arc<Asset>),
    /// A folder asked for without its slash: redirect to this path (percent-encoded, starts with one slash); the
    /// query of the request goes behind it.
    AddSlash(String),
    /// Nothing.
    NotFound,
}

impl Tally {
    /// A page was asked for; whether it failed is the webapp's fault alone.
    pub fn note(&self, failed: bool) {
        self.asked.fetch_add(1, Relaxed);
        self.failed.fetch_add(failed.into(), Relaxed);
    }

    /// Pages that were asked for, and how many of them failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.asked.load(Relaxed), self.failed.load(Relaxed))
    }
}

impl Webapp {
    /// How its pages do since it answers.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The name of its folder or archive: `ROOT`, `shop`, `a#b`, `shop##2`.
    pub fn name(&self) -> &str {
        self.name.full()
    }

    /// Which of several versions side by side it is: `2` of `shop##2`. None is older than every other.
    pub fn tag(&self) -> Option<&str> {
        self.name.tag().map(Tag::as_str)
    }

    /// The path under which it answers.
    pub fn context(&self) -> &ContextPath {
        self.name.context()
    }

    /// A fingerprint of its content: equal on all nodes that have the same files.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What its web.xml says.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// What is shown for a status instead of the server's own page, if anything is.
    pub fn error_page(&self, status: u16) -> Option<&ErrorPage> {
        self.error_pages.get(self.descriptor.error_pages.of(status)?)
    }

    /// Finds what answers for a path within the webapp, as [`Catalog::find`](super::Catalog::find) gave it.
    pub fn resolve(&self, path: &str) -> Resource {
        if path.ends_with('/') {
            return self.welcome(path);
        }
        match self.exact(path) {
            Resource::NotFound => match self.welcome(&format!("{path}/")) {
                Resource::NotFound => Resource::NotFound,
                _ => Resource::AddSlash(path::encode(&format!("{}{path}/", self.context().as_str()))),
            },
            found => found,
        }
    }

    /// The first welcome file of a folder; a page answers before a static file of the same name.
    fn welcome(&self, folder: &str) -> Resource {
        let names = self.descriptor.welcome_files.iter();
        let mut found = names.map(|name| self.exact(&format!("{folder}{name}")));
        found.find(|resource| !matches!(resource, Resource::NotFound)).unwrap_or(Resource::NotFound)
    }

    fn exact(&self, path: &str) -> Resource {
        match (self.pages.get(path), self.assets.get(path)) {
            (Some(page), _) => Resource::Page(page.clone()),
            (None, Some(file)) => Resource::Asset(file.clone()),
            (None, None) => Resource::NotFound,
        }
    }
}
