//! Two states of one session become one: a last-writer-wins map, attribute by attribute.
//!
//! ```text
//!   name: red@v7  cart: 2@v3              name: blue@v5  cart: 2@v3  seen: gone@v6
//!                     └──────────── merge ───────────────┘
//!                name: red@v7  cart: 2@v3  seen: gone@v6
//! ```
//!
//! Of each attribute the higher rank stands, its removal included, so it does not matter in which order, how often and by
//! whom states are merged: all come to the same one (a state-based CRDT; Shapiro et al., "A comprehensive study of
//! convergent and commutative replicated data types", 2011, LWW-element-set).

use std::{cmp::Reverse, mem};

use super::{
    delta::{Attribute, Whole},
    stamp::Stamp,
};
use crate::{limits, names::NodeId};

/// One side of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The newest commit in it.
    pub stamp: Stamp,
    /// What is in it, removals included; each name once.
    pub attributes: Vec<Attribute>,
}

/// What a merge brought to the side that merged, which is "ours".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// Both had the same.
    Nothing,
    /// Theirs had more, and ours is now the same.
    News,
    /// Ours had more already, and theirs brought nothing.
    Surplus,
    /// Each had something that the other lacked.
    Both,
}

/// Where an attribute of the merged state comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
    Both,
}

impl State {
    /// Takes in another state of the same session.
    pub fn merge(&mut self, theirs: Self) -> Brought {
        let before = self.attributes.len();
        let (mut union, known_removed) = union(mem::take(&mut self.attributes), self.stamp, theirs);
        self.stamp = self.stamp.max(union.stamp);
        bound(&mut union.attributes);
        let is_from = |side| union.attributes.iter().any(|(_, of)| *of == side);
        let kept = union.attributes.iter().filter(|(_, side)| *side != Side::Theirs).count();
        let news = is_from(Side::Theirs) || kept < before;
        let surplus = is_from(Side::Ours) || known_removed;
        self.attributes = union.attributes.into_iter().map(|(attribute, _)| attribute).collect();
        Brought::of(news, surplus)
    }
}

impl Brought {
    /// Whether theirs lacks something that ours has.
    pub fn has_surplus(self) -> bool {
        matches!(self, Self::Surplus | Self::Both)
    }

    /// Whether ours changed.
    pub fn has_news(self) -> bool {
        matches!(self, Self::News | Self::Both)
    }

    fn of(news: bool, surplus: bool) -> Self {
        match (news, surplus) {
            (false, false) => Self::Nothing,
            (true, false) => Self::News,
            (false, true) => Self::Surplus,
            (true, true) => Self::Both,
        }
    }
}

impl Whole {
    /// One copy made of two copies of the same session.
    #[must_use]
    pub fn merged_with(self, other: Self) -> Self {
        let mut state = State { stamp: self.stamp, attributes: self.attributes };
        state.merge(State { stamp: other.stamp, attributes: other.attributes });
        let State { stamp, attributes } = state;
        let (owner, idle) = (self.owner.max(other.owner), self.idle.min(other.idle));
        Self { owner, idle, behind: self.behind && other.behind, stamp, attributes, ..self }
    }
}

struct Union {
    stamp: Stamp,
    attributes: Vec<(Attribute, Side)>,
}

/// The attributes of both sides, and whether ours knows of a removal that theirs does not.
///
/// What is missing on a side that has seen the commit which set it was removed there, and the removal itself has been
/// dropped since: it is removed on both.
fn union(ours: Vec<Attribute>, our_stamp: Stamp, theirs: State) -> (Union, bool) {
    let State { stamp, attributes: mut theirs } = theirs;
    theirs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut theirs: Vec<Option<Attribute>> = theirs.into_iter().map(Some).collect();
    let mut attributes = Vec::with_capacity(ours.len() + theirs.len());
    let names: Vec<_> = theirs.iter().flatten().map(|attribute| attribute.name.clone()).collect();
    for our in ours {
        let their = names.binary_search(&our.name).ok().and_then(|at| theirs[at].take());
        match their {
            None if our.stamp.is_seen_by(stamp) => {}
            None => attributes.push((our, Side::Ours)),
            Some(their) if rank(&their) > rank(&our) => attributes.push((their, Side::Theirs)),
            Some(their) if rank(&their) < rank(&our) => attributes.push((our, Side::Ours)),
            Some(_) => attributes.push((our, Side::Both)),
        }
    }
    let (removed, new): (Vec<_>, Vec<_>) =
        theirs.into_iter().flatten().partition(|their| their.stamp.is_seen_by(our_stamp));
    attributes.extend(new.into_iter().map(|their| (their, Side::Theirs)));
    (Union { stamp, attributes }, !removed.is_empty())
}

/// Of two ownerships with the same count neither knew of the other: then the one with more commits stands, and not a single
/// one that a node made of a request which its user had long given up there. The node's id settles what is left.
///
/// No two commits have the same stamp, but a merge must give the same result whatever it is handed.
fn rank(attribute: &Attribute) -> (u32, u32, NodeId, Option<&[u8]>) {
    let Stamp { epoch, version } = attribute.stamp;
    (epoch.counter, version, epoch.node, attribute.value.as_ref().map(|value| value.as_bytes()))
}

/// Two sessions within the bounds may be too large together: what was set last stays.
fn bound(attributes: &mut Vec<(Attribute, Side)>) {
    let (live, removed): (Vec<_>, Vec<_>) = attributes.iter().map(|(it, _)| it).partition(|it| it.value.is_some());
    let bytes: usize = live.iter().map(|it| it.value.as_ref().map_or(0, |value| value.len())).sum();
    if live.len() <= limits::SESSION_ATTRIBUTES
        && bytes <= limits::SESSION_BYTES
        && removed.len() <= limits::REMOVED_ATTRIBUTES
    {
        return;
    }
    attributes.sort_unstable_by(|(a, _), (b, _)| (Reverse(a.stamp), &a.name).cmp(&(Reverse(b.stamp), &b.name)));
    let (mut count, mut bytes, mut removed) = (0, 0, 0);
    attributes.retain(|(attribute, _)| match &attribute.value {
        Some(value) => {
            count += 1;
            bytes += value.len();
            count <= limits::SESSION_ATTRIBUTES && bytes <= limits::SESSION_BYTES
        }
        None => {
            removed += 1;
            removed <= limits::REMOVED_ATTRIBUTES
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::session::{stamp::Epoch, value::Value};

    /// SplitMix64 (Steele, Lea, Flood, 2014).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ (z >> 31)) % bound
        }
    }

    fn stamp(counter: u32, node: u64, version: u32) -> Stamp {
        Stamp { epoch: Epoch { counter, node: NodeId(node) }, version }
    }

    fn attribute(name: &str, value: Option<u64>, stamp: Stamp) -> Attribute {
        Attribute { name: name.into(), value: value.map(|value| Value::encode(&value).unwrap()), stamp }
    }

    fn state<const N: usize>(stamp: Stamp, attributes: [Attribute; N]) -> State {
        State { stamp, attributes: attributes.into() }
    }

    fn merged(a: &State, b: &State) -> State {
        let mut merged = a.clone();
        merged.merge(b.clone());
        merged
    }

    type Essence = (Stamp, BTreeMap<Arc<str>, (Option<Value>, Stamp)>);

    fn essence(state: &State) -> Essence {
        let attributes = state.attributes.iter().cloned();
        (state.stamp, attributes.map(|it| (it.name, (it.value, it.stamp))).collect())
    }

    /// Three sides of a split: each has its own owner, goes on from what it has, and hears of others now and then.
    fn split(random: &mut Random) -> [State; 3] {
        let born = state(stamp(1, 9, 1), [attribute("a", Some(0), stamp(1, 9, 1))]);
        let mut sides = [born.clone(), born.clone(), born];
        for _ in 0..random.below(30) {
            let (at, other) = (random.below(3) as usize, random.below(3) as usize);
            if random.below(4) == 0 {
                sides[at] = merged(&sides[at], &sides[other]);
                continue;
            }
            let side = &mut sides[at];
            let stamp = stamp(2 + random.below(2) as u32 * at as u32, at as u64, side.stamp.version + 1);
            if stamp < side.stamp {
                continue;
            }
            let name = ["a", "b", "c", "d"][random.below(4) as usize];
            let value = (random.below(3) > 0).then(|| random.below(100));
            side.attributes.retain(|known| &*known.name != name);
            side.attributes.push(attribute(name, value, stamp));
            side.stamp = stamp;
        }
        sides
    }

    #[test]
    fn it_does_not_matter_in_which_order_and_how_often_states_are_merged() {
        for seed in 0..5_000 {
            let [a, b, c] = &split(&mut Random(seed));
            assert_eq!(essence(&merged(a, b)), essence(&merged(b, a)), "seed {seed}: commutative");
            assert_eq!(
                essence(&merged(&merged(a, b), c)),
                essence(&merged(a, &merged(b, c))),
                "seed {seed}: associative"
            );
            let mut once = merged(a, b);
            let known = essence(&once);
            assert!(!once.merge(b.clone()).has_news(), "seed {seed}: idempotent");
            assert!(!once.merge(a.clone()).has_news() && essence(&once) == known, "seed {seed}: idempotent");
        }
    }

    #[test]
    fn a_merge_says_who_lacked_something() {
        for seed in 0..5_000 {
            let [a, b, _] = &split(&mut Random(seed));
            let mut both = a.clone();
            let brought = both.merge(b.clone());
            let has = |side: &State| essence(side).1 == essence(&both).1;
            assert_eq!((brought.has_news(), brought.has_surplus()), (!has(a), !has(b)), "seed {seed}");
        }
    }

    #[test]
    fn a_removal_stands_against_what_was_set_before_and_yields_to_what_was_set_after() {
        let gone = state(stamp(2, 1, 5), [attribute("a", None, stamp(2, 1, 5))]);
        let older = state(stamp(1, 2, 9), [attribute("a", Some(1), stamp(1, 2, 9))]);
        let newer = state(stamp(2, 3, 5), [attribute("a", Some(2), stamp(2, 3, 5))]);
        assert_eq!(merged(&older, &gone).attributes, gone.attributes);
        assert_eq!(merged(&gone, &older).attributes, gone.attributes);
        assert_eq!(merged(&gone, &newer).attributes, newer.attributes);
        assert_eq!(merged(&newer, &gone).attributes, newer.attributes);
    }

    #[test]
    fn of_two_ownerships_that_did_not_know_of_each_other_the_one_with_more_commits_stands() {
        let many = state(stamp(2, 1, 50), [attribute("a", Some(112), stamp(2, 1, 50))]);
        let one = state(stamp(2, 3, 18), [attribute("a", Some(18), stamp(2, 3, 18))]);
        assert_eq!(merged(&many, &one).attributes, many.attributes);
        assert_eq!(merged(&one, &many).attributes, many.attributes);
        let later = state(stamp(3, 3, 18), [attribute("a", Some(18), stamp(3, 3, 18))]);
        assert_eq!(merged(&many, &later).attributes, later.attributes);
    }

    #[test]
    fn what_a_side_has_seen_and_does_not_have_was_removed_there() {
        let behind = state(stamp(1, 2, 3), [attribute("old", Some(1), stamp(1, 2, 2))]);
        let ahead = state(stamp(1, 2, 90), [attribute("a", Some(1), stamp(1, 2, 90))]);
        assert_eq!(merged(&behind, &ahead), ahead);
        assert_eq!(merged(&ahead, &behind), ahead);
        assert_eq!(ahead.clone().merge(behind.clone()), Brought::Surplus);
        let elsewhere = state(stamp(2, 3, 90), []);
        assert_eq!(merged(&elsewhere, &behind).attributes, behind.attributes, "nobody knows that it was ever there");
    }

    #[test]
    fn two_large_sides_are_cut_to_what_one_session_may_have_and_then_agree() {
        let side = |node: u64, from: u32| {
            let half = limits::SESSION_ATTRIBUTES as u32 * 3 / 4;
            let of = |n: u32, live: bool| {
                let stamp = stamp(1 + node as u32, node, n + 1);
                attribute(&format!("{live}{}", from + n), live.then_some(1), stamp)
            };
            let live = (0..half).map(|n| of(n, true));
            let attributes = live.chain((0..limits::REMOVED_ATTRIBUTES as u32).map(|n| of(n, false)));
            State { stamp: stamp(1 + node as u32, node, half), attributes: attributes.collect() }
        };
        let (mut a, mut b) = (side(1, 0), side(2, 10_000));
        assert_eq!(a.merge(b.clone()), Brought::Both);
        let live = a.attributes.iter().filter(|it| it.value.is_some()).count();
        assert_eq!((live, a.attributes.len() - live), (limits::SESSION_ATTRIBUTES, limits::REMOVED_ATTRIBUTES));
        assert_eq!(b.merge(a.clone()), Brought::News, "there is nothing that would be told for ever");
        assert_eq!(essence(&a), essence(&b));
        let fat = |node: u64| {
            let value = Value::encode(&"x".repeat(limits::SESSION_BYTES * 2 / 3)).unwrap();
            let stamp = stamp(1, node, 2);
            state(stamp, [Attribute { name: format!("{node}").into(), value: Some(value), stamp }])
        };
        assert_eq!(merged(&fat(1), &fat(2)).attributes, fat(2).attributes);
    }
}
