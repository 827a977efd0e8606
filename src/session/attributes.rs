//! What is in one session: its attributes in the order they were set first, and what was removed from it of late.
//!
//! Made for a million sessions: a session of one attribute takes no allocation here beside a long value.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    delta::Attribute,
    draft::Change,
    pool,
    stamp::{Packed, Stamp},
    value::Value,
};
use crate::limits;

/// The attributes of a record; each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Attributes(SmallVec<[Entry; 1]>);

/// An [`Attribute`] in less room.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    name: Arc<str>,
    value: Option<Value>,
    stamp: Packed,
}

/// An attribute before a commit changed it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Before {
    name: Arc<str>,
    was: Option<Entry>,
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
        self.0.iter().filter_map(|entry| Some((&entry.name, entry.value.as_ref()?)))
    }

    /// All names, removed ones included, and the commits that set or removed them.
    pub(super) fn stamps(&self) -> impl Iterator<Item = (&str, Stamp)> {
        self.0.iter().map(|entry| (&*entry.name, entry.stamp()))
    }

    /// All names, removed ones included, with their values and the commits that set or removed them.
    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = (&str, Option<&Value>, Stamp)> {
        self.0.iter().map(|entry| (&*entry.name, entry.value.as_ref(), entry.stamp()))
    }

    /// All attributes, removed ones included.
    pub(super) fn to_vec(&self) -> Vec<Attribute> {
        let told =
            |entry: &Entry| Attribute { name: entry.name.clone(), value: entry.value.clone(), stamp: entry.stamp() };
        self.0.iter().map(told).collect()
    }

    /// Makes one change of the commit `stamp`, and gives what was there before.
    pub(super) fn apply(&mut self, change: &Change, stamp: Stamp, removals: Removals) -> Before {
        let at = self.position(change.name());
        match (change, at) {
            (Change::Set(_, value), Some(at)) if self.0[at].value.is_some() => {
                let new = Entry { name: self.0[at].name.clone(), value: Some(value.clone()), stamp: stamp.into() };
                let was = std::mem::replace(&mut self.0[at], new);
                Before { name: was.name.clone(), was: Some(was) }
            }
            (change, at) => {
                let was = at.map(|at| self.0.remove(at));
                let name = was.as_ref().map_or_else(|| pool::name(change.name()), |was| was.name.clone());
                self.append(name.clone(), change, stamp, removals);
                Before { name, was }
            }
        }
    }

    fn append(&mut self, name: Arc<str>, change: &Change, stamp: Stamp, removals: Removals) {
        match change {
            Change::Set(_, value) => self.0.push(Entry { name, value: Some(value.clone()), stamp: stamp.into() }),
            Change::Remove(_) if removals == Removals::Remembered => {
                self.0.push(Entry { name, value: None, stamp: stamp.into() });
                self.bound_removals();
            }
            Change::Remove(_) => {}
        }
    }

    /// Takes back one change of the commit `stamp`, unless something newer stands there.
    pub(super) fn take_back(&mut self, Before { name, was }: Before, stamp: Stamp) {
        let at = self.position(&name);
        let now = at.map(|at| self.0[at].stamp());
        match (at, was) {
            (Some(at), Some(was)) if now == Some(stamp) || now < Some(was.stamp()) => self.0[at] = was,
            (Some(at), None) if now == Some(stamp) => drop(self.0.remove(at)),
            (Some(_), _) => {}
            (None, was) => self.0.extend(was),
        }
    }

    fn position(&self, name: &Arc<str>) -> Option<usize> {
        self.0.iter().position(|known| Arc::ptr_eq(&known.name, name) || known.name == *name)
    }

    fn bound_removals(&mut self) {
        let removed = || self.0.iter().enumerate().filter(|(_, known)| known.value.is_none());
        let oldest =
            |(_, a): &(usize, &Entry), (_, b): &(usize, &Entry)| (a.stamp(), &b.name).cmp(&(b.stamp(), &a.name));
        if removed().count() > limits::REMOVED_ATTRIBUTES
            && let Some((at, _)) = removed().min_by(oldest)
        {
            self.0.remove(at);
        }
    }
}

impl Entry {
    fn stamp(&self) -> Stamp {
        self.stamp.into()
    }
}

impl From<Vec<Attribute>> for Attributes {
    fn from(attributes: Vec<Attribute>) -> Self {
        let entry = |Attribute { name, value, stamp }| Entry { name: pool::name(&name), value, stamp: stamp.into() };
        Self(attributes.into_iter().map(entry).collect())
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
