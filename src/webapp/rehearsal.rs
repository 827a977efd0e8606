//! A webapp's first page, rendered before any user can ask for it: what fails there never reaches one.

use std::sync::Arc;

use actix_web::http::header::HeaderMap;
use jiff::Timestamp;

use super::{
    app::{Resource, Webapp},
    page::{Body, NodeInfo, Page, Request},
    refusal::Refusal,
};
use crate::session::draft::Draft;

/// What to render, and where.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The page, within the webapp: it must be answered with 2xx or 3xx. None: the root, which need not be there, but must
    /// not fail.
    pub path: Option<String>,
    /// What the page sees of its node.
    pub node: Arc<NodeInfo>,
    /// When it is asked for.
    pub now: Timestamp,
}

/// Renders it for a user without a session; what it does to one is forgotten.
pub(super) fn rehearse(app: &Webapp, rehearsal: &Rehearsal) -> Result<(), Refusal> {
    let named = rehearsal.path.as_deref();
    let target = format!("/{}", named.unwrap_or_default().trim_start_matches('/'));
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    match app.resolve(path) {
        Resource::Page(page) => render(app, &page, path, query, rehearsal),
        Resource::NotFound if named.is_some() => {
            Err(Refusal::new(app.name(), format!("there is nothing at {target}, which was to be asked for")))
        }
        _ => Ok(()),
    }
}

fn render(app: &Webapp, page: &Page, path: &str, query: &str, rehearsal: &Rehearsal) -> Result<(), Refusal> {
    let request = Request {
        method: "GET".into(),
        path: path.into(),
        query: query.into(),
        body: Body::default(),
        headers: HeaderMap::new(),
        remote_addr: "127.0.0.1".into(),
        scheme: "http".into(),
        host: "localhost".into(),
        now: rehearsal.now,
        error: None,
    };
    let rendered = page.render(request, Draft::blank(), &rehearsal.node);
    let status = rendered.map_err(|error| Refusal::new(app.name(), format!("its page {path} fails: {error}")))?.status;
    let is_good = if rehearsal.path.is_some() { status.as_u16() < 400 } else { !status.is_server_error() };
    if is_good { Ok(()) } else { Err(Refusal::new(app.name(), format!("its page {path} answers with {status}"))) }
}
