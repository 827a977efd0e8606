//! What is in one session: its attributes in the order they were set first, and what was removed from it of late.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{delta::Attribute, draft::Change, stamp::Stamp, value::Value};
use crate::limits;

/// The attributes of a record; each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Attributes(SmallVec<[Attribute; 1]>);

/// An attribute before a commit changed it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Before {
    name: Arc<str>,
    was: Option<Attribute>,
}

/// Whether a removal leaves something behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removals {
    /// It does, for nodes that hear of the session from elsewhere.
    Remembered,
    /// No other node knows the session.
    Forgotten,
}

impl Attributes {
    /// Names and values of what has not been removed.
    pub(super) fn live(&self) -> impl Iterator<Item = (&Arc<str>, &Value)> {
        self.0.iter().filter_map(|attribute| Some((&attribute.name, attribute.value.as_ref()?)))
    }

    /// All names, removed ones included, and the commits that set or removed them.
    pub(super) fn stamps(&self) -> impl Iterator<Item = (&str, Stamp)> {
        self.0.iter().map(|attribute| (&*attribute.name, attribute.stamp))
    }

    /// All attributes, removed ones included.
    pub(super) fn to_vec(&self) -> Vec<Attribute> {
        self.0.to_vec()
    }

    /// Makes one change of the commit `stamp`, and gives what was there before.
    pub(super) fn apply(&mut self, change: &Change, stamp: Stamp, removals: Removals) -> Before {
        let name = change.name();
        let at = self.position(name);
        let before = Before { name: name.clone(), was: at.map(|at| self.0[at].clone()) };
        let value = match change {
            Change::Set(_, value) => Some(value.clone()),
            Change::Remove(_) => None,
        };
        let is_live = |at: usize| self.0[at].value.is_some();
        match at {
            Some(at) if value.is_some() && is_live(at) => {
                self.0[at].value = value;
                self.0[at].stamp = stamp;
                return before;
            }
            Some(at) => drop(self.0.remove(at)),
            None => {}
        }
        if value.is_some() || removals == Removals::Remembered {
            let is_removal = value.is_none();
            self.0.push(Attribute { name: name.clone(), value, stamp });
            if is_removal {
                self.bound_removals();
            }
        }
        before
    }

    /// Takes back one change of the commit `stamp`, unless something newer stands there.
    pub(super) fn take_back(&mut self, Before { name, was }: Before, stamp: Stamp) {
        match (self.position(&name), was) {
            (Some(at), Some(was)) if self.0[at].stamp == stamp || self.0[at].stamp < was.stamp => self.0[at] = was,
            (Some(at), None) if self.0[at].stamp == stamp => drop(self.0.remove(at)),
            (Some(_), _) => {}
            (None, was) => self.0.extend(was),
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|known| *known.name == *name)
    }

    fn bound_removals(&mut self) {
        let removed = || self.0.iter().enumerate().filter(|(_, known)| known.value.is_none());
        if removed().count() > limits::REMOVED_ATTRIBUTES
            && let Some((at, _)) = removed().min_by(|(_, a), (_, b)| (a.stamp, &b.name).cmp(&(b.stamp, &a.name)))
        {
            self.0.remove(at);
        }
    }
}

impl From<Vec<Attribute>> for Attributes {
    fn from(attributes: Vec<Attribute>) -> Self {
        Self(attributes.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::NodeId, session::stamp::Epoch};

    fn stamp(version: u32) -> Stamp {
        Stamp { epoch: Epoch::first(NodeId(1)), version }
    }

    fn set(name: &str, value: u32) -> Change {
        Change::Set(name.into(), Value::encode(&value).unwrap())
    }

    fn names(attributes: &Attributes) -> Vec<&str> {
        attributes.live().map(|(name, _)| &**name).collect()
    }

    #[test]
    fn a_removed_attribute_is_not_seen_and_comes_last_when_it_is_set_again() {
        let mut attributes = Attributes::default();
        for (change, version) in [(set("a", 1), 1), (set("b", 1), 2), (Change::Remove("a".into()), 3)] {
            attributes.apply(&change, stamp(version), Removals::Remembered);
        }
        assert_eq!((names(&attributes), attributes.to_vec().len()), (vec!["b"], 2));
        attributes.apply(&set("a", 2), stamp(4), Removals::Remembered);
        assert_eq!((names(&attributes), attributes.to_vec().len()), (vec!["b", "a"], 2));
        attributes.apply(&Change::Remove("a".into()), stamp(5), Removals::Forgotten);
        assert_eq!(attributes.to_vec().len(), 1);
    }

    #[test]
    fn the_oldest_removals_are_dropped_first() {
        let mut attributes = Attributes::default();
        let most = limits::REMOVED_ATTRIBUTES as u32;
        for n in 0..most + 5 {
            attributes.apply(&Change::Remove(format!("{n:02}").into()), stamp(n + 1), Removals::Remembered);
        }
        let mut left: Vec<u32> = attributes.to_vec().iter().map(|removed| removed.stamp.version).collect();
        left.sort_unstable();
        assert_eq!(left, (6..=most + 5).collect::<Vec<_>>());
    }

    #[test]
    fn a_change_that_is_taken_back_leaves_what_is_newer() {
        let mut attributes = Attributes::default();
        attributes.apply(&set("a", 1), stamp(1), Removals::Remembered);
        attributes.apply(&set("b", 1), stamp(1), Removals::Remembered);
        let known = attributes.clone();
        let changes = [set("a", 2), Change::Remove("b".into()), set("c", 2)];
        let before: Vec<Before> =
            changes.iter().map(|change| attributes.apply(change, stamp(2), Removals::Remembered)).collect();
        let mut newer = attributes.clone();
        newer.apply(&set("a", 3), stamp(3), Removals::Remembered);
        for before in before {
            newer.take_back(before.clone(), stamp(2));
            attributes.take_back(before, stamp(2));
        }
        assert_eq!(attributes, known);
        assert_eq!(newer.live().next().unwrap().1.decode(), Ok(3));
    }
}
