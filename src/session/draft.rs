//! What one request sees of its session and what it wants to change: a working copy that the node commits afterwards.
//!
//! A draft is made for every request of a page that uses sessions, also when there is no session yet: a session is
//! created by its first write, not by a visit. A page that fails halfway leaves a draft that nobody commits.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use smallvec::SmallVec;

use super::value::{BadValue, Value};
use crate::{limits, names::SessionId};

/// A working copy of one session.
#[derive(Clone, Debug)]
pub struct Draft {
    id: Option<SessionId>,
    attributes: Attributes,
    changes: SmallVec<[Change; 2]>,
    /// Sums that were added to what the session had, whatever that is when the draft is committed.
    added: SmallVec<[(Arc<str>, i64); 1]>,
    fate: Fate,
    /// What was there at the start, if the changes are to be found by comparison in the end.
    start: Option<Attributes>,
}

type Attributes = SmallVec<[(Arc<str>, Value); 2]>;

/// One change of one attribute, in the order the page asked for them.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The attribute has this value now.
    Set(Arc<str>, Value),
    /// The attribute is gone.
    Remove(Arc<str>),
}

/// What the page wants of the session as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Continues,
    /// It goes on under a new id: after a login, so that an id planted before it is worth nothing.
    Renewed,
    /// It ends, on every node.
    Ends,
}

/// Why a write was refused. The session is as it was before; the page may go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The value cannot be copied to another node.
    #[error("session attribute {name:?}: {reason}")]
    Value {
        /// The attribute.
        name: String,
        /// What is wrong with the value.
        reason: BadValue,
    },
    /// The name is empty or too long.
    #[error("a session attribute's name has 1 to {max} bytes", max = limits::ATTRIBUTE_NAME_BYTES)]
    Name,
    /// One attribute too many.
    #[error("a session has at most {max} attributes", max = limits::SESSION_ATTRIBUTES)]
    TooMany,
    /// The values together are too large.
    #[error(
        "session attribute {name:?} of {bytes} bytes is too large: all values of a session take at most {max}, and the others \
         here take {others}",
        max = limits::SESSION_BYTES
    )]
    TooLarge {
        /// The attribute.
        name: String,
        /// What it takes, encoded.
        bytes: usize,
        /// What the session has beside it.
        others: usize,
    },
    /// `add` on something that is not a whole number, or past its range.
    #[error("session attribute {0:?} is not a whole number that {1} can be added to")]
    NotANumber(String, i64),
}

impl Draft {
    /// For a request without a session.
    pub fn blank() -> Self {
        Self::of(None, [])
    }

    /// For a request of an existing session.
    pub fn of(id: Option<SessionId>, attributes: impl IntoIterator<Item = (Arc<str>, Value)>) -> Self {
        let attributes = attributes.into_iter().collect();
        let (changes, added) = (SmallVec::new(), SmallVec::new());
        Self { id, attributes, changes, added, fate: Fate::Continues, start: None }
    }

    /// The same, for a session whose changes are found by comparing it, in [`Draft::compare`], with what it is now: what is
    /// set to the value that it had is no change.
    pub fn comparing(self) -> Self {
        Self { start: Some(self.attributes.clone()), ..self }
    }

    /// Whether changes are found by comparison.
    pub fn is_comparing(&self) -> bool {
        self.start.is_some()
    }

    /// The session's id, if there is a session.
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// No session yet, and nothing written.
    pub fn is_new(&self) -> bool {
        self.id.is_none()
    }

    /// The encoded value of an attribute.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.attributes.iter().find(|(known, _)| &**known == name).map(|(_, value)| value)
    }

    /// Names and values, in the order they were first set.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.attributes.iter().map(|(name, value)| (&**name, value))
    }

    /// An attribute as a value of the caller's type; none when it is missing or of another shape.
    pub fn get_as<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.get(name)?.decode().ok()
    }

    /// Sets an attribute. The value is encoded here, so what cannot be copied is an error now, for this attribute alone.
    pub fn set(&mut self, name: &str, value: &impl Serialize) -> Result<(), Refused> {
        let value = Value::encode(value).map_err(|reason| Refused::Value { name: name.into(), reason })?;
        self.put(name, value)?;
        self.added.retain(|(known, _)| &**known != name);
        Ok(())
    }

    /// Adds to a whole number (a missing attribute counts as 0) and gives the sum.
    pub fn add(&mut self, name: &str, amount: i64) -> Result<i64, Refused> {
        let refused = || Refused::NotANumber(name.into(), amount);
        let before: i64 = match self.get(name) {
            Some(value) => value.decode().map_err(|_| refused())?,
            None => 0,
        };
        let sum = before.checked_add(amount).ok_or_else(refused)?;
        let is_set = self.changes.iter().any(|change| &**change.name() == name);
        let value = Value::encode(&sum).map_err(|reason| Refused::Value { name: name.into(), reason })?;
        self.put(name, value)?;
        match self.added.iter_mut().find(|(known, _)| &**known == name) {
            // What was added to a value that the request has set itself is that value.
            Some((_, all)) => *all = all.saturating_add(amount),
            None if !is_set => self.added.push((name.into(), amount)),
            None => {}
        }
        Ok(sum)
    }

    /// Removes an attribute and says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(at) = self.attributes.iter().position(|(known, _)| &**known == name) else { return false };
        let (name, _) = self.attributes.remove(at);
        self.added.retain(|(known, _)| *known != name);
        self.note(Change::Remove(name));
        true
    }

    /// Ends the session: every node forgets it. Later writes of the same request start a new one.
    pub fn invalidate(&mut self) {
        self.attributes.clear();
        self.changes.clear();
        self.added.clear();
        if let Some(start) = &mut self.start {
            start.clear();
        }
        self.fate = Fate::Ends;
    }

    /// Gives the session a new id when the request is committed.
    pub fn renew(&mut self) {
        if self.fate == Fate::Continues {
            self.fate = Fate::Renewed;
        }
    }

    /// Ends the request: what it changed is what differs from the start, byte by byte. Without [`Draft::comparing`] it is
    /// what was set and removed, and nothing is done here.
    pub fn compare(&mut self) {
        let Some(start) = &self.start else { return };
        let before = |name: &str| start.iter().find(|(known, _)| &**known == name).map(|(_, value)| value);
        let is_gone = |name: &str| !self.attributes.iter().any(|(known, _)| &**known == name);
        let removed = start.iter().filter(|(name, _)| is_gone(name)).map(|(name, _)| Change::Remove(name.clone()));
        let set = self.attributes.iter().filter(|(name, value)| before(name) != Some(value));
        self.changes = removed.chain(set.map(|(name, value)| Change::Set(name.clone(), value.clone()))).collect();
    }

    /// The same changes made to what the session has become since the draft was made: an attribute that was set has the value
    /// that it was set to, and what was added is added to what is there now.
    ///
    /// # Errors
    /// What is there now does not allow it: it is no number any more, or all together is too large.
    pub fn rebased(&self, now: impl IntoIterator<Item = (Arc<str>, Value)>) -> Result<Self, Refused> {
        if self.fate == Fate::Ends {
            // Its changes are those of a session to come.
            return Ok(self.clone());
        }
        let mut rebased = Self { fate: self.fate, ..Self::of(self.id, now) };
        for change in &self.changes {
            let added = self.added.iter().find(|(name, _)| name == change.name());
            match (change, added) {
                (_, Some((name, amount))) => drop(rebased.add(name, *amount)?),
                (Change::Set(name, value), None) => rebased.put(name, value.clone())?,
                (Change::Remove(name), None) => drop(rebased.remove(name)),
            }
        }
        Ok(rebased)
    }

    /// What the request changed, each attribute at most once.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// What the page wants of the session as a whole.
    pub fn fate(&self) -> Fate {
        self.fate
    }

    fn put(&mut self, name: &str, value: Value) -> Result<(), Refused> {
        if name.is_empty() || name.len() > limits::ATTRIBUTE_NAME_BYTES {
            return Err(Refused::Name);
        }
        let others = self.attributes.iter().filter(|(known, _)| &**known != name);
        let (count, bytes) = others.fold((0, 0), |(count, bytes), (_, value)| (count + 1, bytes + value.len()));
        // What was set and removed again is told as well: it may have been there before.
        let is_noted = || self.changes.iter().any(|change| &**change.name() == name);
        if count == limits::SESSION_ATTRIBUTES || self.changes.len() >= limits::DRAFT_CHANGES && !is_noted() {
            return Err(Refused::TooMany);
        }
        if bytes + value.len() > limits::SESSION_BYTES {
            return Err(Refused::TooLarge { name: name.into(), bytes: value.len(), others: bytes });
        }
        let name = match self.attributes.iter_mut().find(|(known, _)| &**known == name) {
            Some((name, old)) => {
                *old = value.clone();
                name.clone()
            }
            None => {
                let name: Arc<str> = name.into();
                self.attributes.push((name.clone(), value.clone()));
                name
            }
        };
        self.note(Change::Set(name, value));
        Ok(())
    }

    /// Keeps only the last change of each attribute: earlier ones are nobody's business.
    fn note(&mut self, change: Change) {
        self.changes.retain(|earlier| earlier.name() != change.name());
        self.changes.push(change);
    }
}

impl Change {
    /// The attribute that changes.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Set(name, _) | Self::Remove(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_changes_nothing() {
        let draft = Draft::blank();
        assert!(draft.is_new() && draft.changes().is_empty());
    }

    #[test]
    fn only_the_last_change_of_an_attribute_is_kept() {
        let mut draft = Draft::blank();
        draft.set("a", &1).unwrap();
        draft.set("b", &"x").unwrap();
        draft.set("a", &2).unwrap();
        assert_eq!(draft.changes().iter().map(|c| &**c.name()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(draft.get_as::<i64>("a"), Some(2));
        assert!(draft.remove("a") && !draft.remove("a"));
        assert_eq!(draft.changes().last(), Some(&Change::Remove("a".into())));
    }

    #[test]
    fn adding_starts_at_zero_and_refuses_what_is_no_number() {
        let mut draft = Draft::blank();
        assert_eq!(draft.add("n", 2), Ok(2));
        assert_eq!(draft.add("n", -5), Ok(-3));
        draft.set("s", &"text").unwrap();
        assert_eq!(draft.add("s", 1), Err(Refused::NotANumber("s".into(), 1)));
        draft.set("n", &i64::MAX).unwrap();
        assert!(draft.add("n", 1).is_err());
        assert_eq!(draft.get_as::<i64>("n"), Some(i64::MAX), "a refused write leaves the value");
    }

    #[test]
    fn a_session_has_a_bounded_size() {
        let mut draft = Draft::blank();
        let half = vec![7_u8; limits::SESSION_BYTES / 4];
        draft.set("a", &half).unwrap();
        let big = "x".repeat(limits::SESSION_BYTES);
        let refused = draft.set("b", &big).unwrap_err();
        assert!(matches!(&refused, Refused::TooLarge { bytes, .. } if *bytes > big.len()), "{refused}");
        assert!(refused.to_string().contains("\"b\"") && refused.to_string().contains("1048576"), "{refused}");
        assert_eq!(draft.set("", &1), Err(Refused::Name));
        assert_eq!(draft.attributes().count(), 1);
    }

    #[test]
    fn what_is_as_it_was_is_no_change_where_the_ends_are_compared() {
        let value = |n: i64| Value::encode(&n).unwrap();
        let start = || Draft::of(Some(SessionId([1; 16])), [("a".into(), value(1)), ("b".into(), value(2))]);
        let acted = |mut draft: Draft| {
            draft.set("a", &9).unwrap();
            draft.set("a", &1).unwrap();
            draft.set("b", &3).unwrap();
            draft.set("c", &4).unwrap();
            draft.remove("c");
            draft.compare();
            draft.changes().iter().map(|change| change.name().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(acted(start().comparing()), ["b"]);
        assert_eq!(acted(start()), ["a", "b", "c"], "what was set is sent");
        let mut emptied = start().comparing();
        emptied.remove("b");
        emptied.compare();
        assert_eq!(emptied.changes(), [Change::Remove("b".into())]);
        let mut ended = start().comparing();
        ended.invalidate();
        ended.set("a", &1).unwrap();
        ended.compare();
        assert_eq!(ended.changes(), [Change::Set("a".into(), value(1))], "it is another session's");
    }

    #[test]
    fn changes_are_made_to_what_the_session_has_become_meanwhile() {
        let value = |n: i64| Value::encode(&n).unwrap();
        let is = |draft: &Draft| {
            draft.attributes().map(|(name, it)| (name.to_owned(), it.decode().unwrap())).collect::<Vec<_>>()
        };
        let with =
            |pairs: &[(&str, i64)]| pairs.iter().map(|(name, n)| ((*name).into(), value(*n))).collect::<Vec<_>>();
        let mut draft = Draft::of(Some(SessionId([1; 16])), with(&[("n", 1), ("gone", 1), ("reset", 1)]));
        draft.add("n", 2).unwrap();
        draft.add("n", 3).unwrap();
        draft.set("a", &7).unwrap();
        draft.set("reset", &0).unwrap();
        draft.add("reset", 1).unwrap();
        draft.remove("gone");
        draft.renew();
        let rebased = draft.rebased(with(&[("n", 100), ("reset", 50), ("other", 9), ("gone", 2)])).unwrap();
        let expected = [("n", 105), ("reset", 1), ("other", 9), ("a", 7)].map(|(name, n)| (name.to_owned(), n));
        assert_eq!((is(&rebased), rebased.fate()), (expected.to_vec(), Fate::Renewed));
        assert_eq!(rebased.changes().len(), 4, "and no change of what others have done");
        let is_gone = draft.rebased(with(&[("n", 1)])).unwrap();
        assert_eq!(is_gone.changes().len(), 3, "what is gone already is not removed again");
        let mut text = Draft::blank();
        text.set("n", &"text").unwrap();
        let now = text.attributes().map(|(name, it)| (name.into(), it.clone())).collect::<Vec<_>>();
        assert_eq!(draft.rebased(now).unwrap_err(), Refused::NotANumber("n".into(), 5));
        let mut compared = Draft::of(Some(SessionId([1; 16])), with(&[("n", 1)])).comparing();
        compared.add("n", 4).unwrap();
        compared.compare();
        assert_eq!(is(&compared.rebased(with(&[("n", 10)])).unwrap()), [("n".to_owned(), 14)]);
    }

    #[test]
    fn two_drafts_that_fit_alone_and_not_together_are_not_both_made() {
        let large = || vec![7_u8; limits::SESSION_BYTES / 4];
        let mut draft = Draft::of(Some(SessionId([1; 16])), []);
        draft.set("b", &large()).unwrap();
        let mut other = Draft::blank();
        other.set("a", &"x".repeat(limits::SESSION_BYTES - 16)).unwrap();
        let now = other.attributes().map(|(name, it)| (name.into(), it.clone())).collect::<Vec<_>>();
        assert!(matches!(draft.rebased(now), Err(Refused::TooLarge { .. })));
    }

    #[test]
    fn ending_a_session_forgets_what_was_written_before() {
        let mut draft = Draft::of(Some(SessionId([1; 16])), []);
        draft.set("a", &1).unwrap();
        draft.invalidate();
        draft.renew();
        assert_eq!((draft.fate(), draft.changes().len()), (Fate::Ends, 0));
    }
}
