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
        let tag = tokens.into_iter().find_map(|brought| self.tag_here(brought.token.id, versions.newest().context()));
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
pub(super) fn note_version(draft: &mut Draft, tag: Option<&str>) {
    let is_begun = match draft.fate() {
        Fate::Continues | Fate::Renewed => draft.id().is_some() || !draft.changes().is_empty(),
        Fate::Ends => !draft.changes().is_empty(),
    };
    if !is_begun || draft.get_as::<String>(VERSION_ATTRIBUTE).as_deref() == tag {
        return;
    }
    match tag {
        // A session that is full to the last byte follows the newest version instead.
        Some(tag) => drop(draft.set(VERSION_ATTRIBUTE, &tag)),
        None => drop(draft.remove(VERSION_ATTRIBUTE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::draft::Change;

    fn on_version(tag: Option<&str>) -> Draft {
        let mut draft = Draft::blank();
        draft.set("n", &1).unwrap();
        note_version(&mut draft, tag);
        let attributes: Vec<_> = draft.attributes().map(|(name, value)| (name.into(), value.clone())).collect();
        Draft::of(Some(SessionId([1; 16])), attributes)
    }

    fn tag(draft: &Draft) -> Tag {
        draft.get_as(VERSION_ATTRIBUTE)
    }

    #[test]
    fn a_session_begins_with_its_version_and_a_visit_begins_none() {
        assert_eq!(tag(&on_version(Some("2"))).as_deref(), Some("2"));
        assert_eq!(tag(&on_version(None)), None);
        let mut visit = Draft::blank();
        note_version(&mut visit, Some("2"));
        assert!(visit.changes().is_empty());
    }

    #[test]
    fn a_session_that_goes_to_another_version_is_written_once() {
        let mut draft = on_version(Some("2"));
        note_version(&mut draft, Some("2"));
        assert!(draft.changes().is_empty());
        note_version(&mut draft, Some("11"));
        assert!(matches!(draft.changes(), [Change::Set(..)]) && tag(&draft).as_deref() == Some("11"));
        let mut back = on_version(Some("2"));
        note_version(&mut back, None);
        assert!(matches!(back.changes(), [Change::Remove(_)]) && tag(&back).is_none());
    }

    #[test]
    fn a_session_that_ends_is_not_begun_anew_by_that() {
        let mut draft = on_version(Some("2"));
        draft.invalidate();
        note_version(&mut draft, Some("2"));
        assert!(draft.changes().is_empty());
        draft.set("n", &1).unwrap();
        note_version(&mut draft, Some("2"));
        assert_eq!(tag(&draft).as_deref(), Some("2"));
    }
}
