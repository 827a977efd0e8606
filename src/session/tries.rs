//! What a node remembers of claims of its own that came to nothing.
//!
//! Whoever was asked has promised the session to this node, and does not know that nothing came of it: asked again, by this
//! node or by another one, it takes this node for the owner, of whose commits it has not heard. This node knows better, and
//! it must not forget what it was told under such a claim: of an earlier ownership whoever was asked may not know any more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;

use super::stamp::Epoch;
use crate::{
    limits,
    names::{NodeId, SessionId},
    time::Moment,
};

/// The tries of a claim that have come to nothing, and what was heard by them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tried {
    /// The counters of the epochs that were asked for.
    counters: SmallVec<[u32; 4]>,
    /// The members whose answers are in here, the counter under which they answered last, and the last ownership of which
    /// their copies had all that was told.
    heard: SmallVec<[(NodeId, u32, Option<Epoch>); 4]>,
    /// The highest ownership they knew of.
    owner: Option<Epoch>,
    /// The highest one that refused a try.
    refused: Option<Epoch>,
}

/// The sessions that this node has claimed in vain. A handle, for all its replicators.
#[derive(Clone, Debug, Default)]
pub struct Tries(Arc<Mutex<BTreeMap<SessionId, (Tried, Moment)>>>);

impl Tried {
    /// Adds a try under this epoch, which these members have answered.
    /// Of too many the first ones are forgotten.
    pub fn add(
        &mut self,
        epoch: Epoch,
        heard: impl IntoIterator<Item = (NodeId, Option<Epoch>)>,
        owner: Option<Epoch>,
    ) {
        if !self.counters.contains(&epoch.counter) {
            self.counters.push(epoch.counter);
        }
        for (member, seen) in heard {
            self.heard.retain(|(known, ..)| *known != member);
            self.heard.push((member, epoch.counter, seen));
        }
        self.counters.drain(..self.counters.len().saturating_sub(limits::CLAIMS_TRIED));
        self.heard.drain(..self.heard.len().saturating_sub(limits::MEMBERS));
        self.owner = self.owner.max(owner);
    }

    /// A try was refused: this was promised to another node.
    pub fn refused(&mut self, by: Epoch) {
        self.refused = self.refused.max(Some(by));
    }

    /// Whether this node has asked for the session under an epoch with this counter, and never owned it under that.
    pub fn has_asked_for(&self, counter: u32) -> bool {
        self.counters.contains(&counter)
    }

    /// What a member knew before it promised the epoch with this counter, if it was heard: the last ownership of which its
    /// copy had all that was told.
    pub fn heard(&self, member: NodeId, counter: u32) -> Option<Option<Epoch>> {
        let heard = self.heard.iter().find(|(known, under, _)| *known == member && *under >= counter);
        heard.map(|(.., seen)| *seen)
    }

    /// The highest ownership that was heard of.
    pub fn owner(&self) -> Option<Epoch> {
        self.owner
    }

    /// The highest promise to another node that was heard of.
    pub fn refused_by(&self) -> Option<Epoch> {
        self.refused
    }
}

impl Tries {
    /// What is remembered of claims to a session; it is forgotten here.
    pub fn take(&self, id: SessionId, now: Moment) -> Tried {
        let known = self.lock().remove(&id).filter(|(_, until)| now < *until);
        known.map(|(tried, _)| tried).unwrap_or_default()
    }

    /// Remembers a claim that came to nothing for [`limits::CLAIM_TRIED`]. Of too many the one that would be forgotten first
    /// makes room.
    pub fn keep(&self, id: SessionId, tried: Tried, now: Moment) {
        let mut known = self.lock();
        if known.len() >= limits::CLAIMS_REMEMBERED
            && let Some(first) = known.iter().min_by_key(|(_, (_, until))| *until).map(|(id, _)| *id)
        {
            known.remove(&first);
        }
        known.insert(id, (tried, now + limits::CLAIM_TRIED));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, (Tried, Moment)>> {
        // What is locked is never left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000);

    fn id(n: u16) -> SessionId {
        SessionId([n.to_be_bytes(); 8].concat().try_into().unwrap())
    }

    fn epoch(counter: u32, node: u64) -> Epoch {
        Epoch { counter, node: NodeId(node) }
    }

    fn tried(counter: u32) -> Tried {
        let mut tried = Tried::default();
        tried.add(epoch(counter, 1), [(NodeId(2), Some(epoch(1, 2)))], Some(epoch(1, 2)));
        tried
    }

    #[test]
    fn tries_add_up_to_the_highest_that_was_heard() {
        let mut tried = tried(2);
        tried.add(epoch(4, 1), [(NodeId(3), None), (NodeId(2), Some(epoch(1, 2)))], None);
        tried.refused(epoch(3, 3));
        tried.refused(epoch(2, 3));
        assert_eq!([2, 3, 4].map(|counter| tried.has_asked_for(counter)), [true, false, true]);
        let seen = Some(Some(epoch(1, 2)));
        assert_eq!([2, 3, 4].map(|member| tried.heard(NodeId(member), 4)), [seen, Some(None), None]);
        tried.add(epoch(5, 1), [(NodeId(2), None)], None);
        assert_eq!([2, 3].map(|member| tried.heard(NodeId(member), 5)), [Some(None), None], "that answer was lost");
        assert_eq!((tried.owner(), tried.refused_by()), (Some(epoch(1, 2)), Some(epoch(3, 3))));
    }

    #[test]
    fn a_claim_is_remembered_once_and_not_for_ever() {
        let tries = Tries::default();
        tries.keep(id(1), tried(2), NOW);
        assert_eq!(tries.take(id(1), NOW), tried(2));
        assert_eq!(tries.take(id(1), NOW), Tried::default());
        tries.keep(id(1), tried(2), NOW);
        assert_eq!(tries.take(id(1), NOW + limits::CLAIM_TRIED), Tried::default());
    }

    #[test]
    fn of_too_many_the_first_ones_are_forgotten() {
        let tries = Tries::default();
        for n in 0..=limits::CLAIMS_REMEMBERED as u16 {
            tries.keep(id(n), tried(2), Moment(NOW.0 + u64::from(n)));
        }
        assert_eq!(tries.take(id(0), NOW), Tried::default());
        assert_eq!(tries.take(id(1), NOW), tried(2));
        let (mut often, most) = (tried(0), limits::CLAIMS_TRIED as u32);
        (1..=most).for_each(|counter| often.add(epoch(counter, 1), [], None));
        assert_eq!([0, 1, most].map(|counter| often.has_asked_for(counter)), [false, true, true]);
        (0..limits::MEMBERS as u64).for_each(|member| often.add(epoch(most, 1), [(NodeId(9 + member), None)], None));
        assert_eq!([2, 9].map(|member| often.heard(NodeId(member), 0)), [None, Some(None)]);
    }
}
