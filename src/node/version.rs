//! Which of several versions of a webapp side by side answers: the one on which the session began, for a time.

use std::sync::Arc;

use actix_web::HttpRequest;

use super::{Worker, cookie};
use crate::{
    names::{ContextPath, SessionId},
    session::{
        draft::{Draft, Fate},
        replica::Slot,
    },
    time::Moment,
    webapp::{VERSION_ATTRIBUTE, Versions, Webapp},
};

/// On which version a session began; none is the one without a `##`.
type Tag = Option<String>;

impl Worker {
    /// The version for a request, as far as this node can tell before it has the session: by a copy that lies here, else
    /// the newest.
    pub(super) fn version_at_hand(&self, versions: &Versions, request: &HttpRequest) -> Arc<Webapp> {
        if versions.is_single() {
            return versions.newest().clone();
        }
        let tokens = versions.all().flat_map(|app| cookie::tokens(request, self.cookie_name(app)));
        let tag = tokens.into_iter().find_map(|token| self.tag_here(token.id, versions.newest().context()));
        tag.map_or(versions.newest().clone(), |tag| self.of_session(versions, tag.as_deref()))
    }

    /// The version of the session that a request has got, if it is another one than `app`.
    pub(super) fn other_version(&self, versions: &Versions, app: &Webapp, draft: &Draft) -> Option<Arc<Webapp>> {
        if versions.is_single() || draft.is_new() {
            return None;
        }
        let its_own = self.of_session(versions, draft.get_as::<String>(VERSION_ATTRIBUTE).as_deref());
        (its_own.name() != app.name()).then_some(its_own)
    }

    /// The name of the session cookie of a webapp.
    pub(super) fn cookie_name<'a>(&'a self, app: &'a Webapp) -> &'a str {
        app.descriptor().cookie.name.as_deref().unwrap_or(&self.house.session.cookie)
    }

    fn of_session(&self, versions: &Versions, tag: Option<&str>) -> Arc<Webapp> {
        versions.of_session(tag, Moment::now(), self.house.version_timeout).clone()
    }

    /// None when no copy of the session lies here.
    fn tag_here(&self, id: SessionId, context: &ContextPath) -> Option<Tag> {
        self.house.table.peek(id, |slot| {
            let record = Slot::live(slot).filter(|record| record.context() == context)?;
            let tag = record.attributes().find(|(name, _)| &**name == VERSION_ATTRIBUTE);
            Some(tag.and_then(|(_, value)| value.decode().ok()))
        })
    }
}

/// Notes in a session which version it is on: when it begins, and when it goes to another one. A session that nobody
/// writes is not begun by that.
pub(super) fn note_version(draft: &mut Draft, app: &Webapp) {
    let is_begun = match draft.fate() {
        Fate::Continues | Fate::Renewed => draft.id().is_some() || !draft.changes().is_empty(),
        Fate::Ends => !draft.changes().is_empty(),
    };
    if !is_begun || draft.get_as::<String>(VERSION_ATTRIBUTE).as_deref() == app.tag() {
        return;
    }
    match app.tag() {
        // A session that is full to the last byte follows the newest version instead.
        Some(tag) => drop(draft.set(VERSION_ATTRIBUTE, &tag)),
        None => drop(draft.remove(VERSION_ATTRIBUTE)),
    }
}
