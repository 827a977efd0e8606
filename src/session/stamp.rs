//! The order of everything that happens to a session: epochs rank owners, versions count an owner's commits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::NodeId;

/// The rank of an ownership: a counter, then the owner's id, so that two claims are never equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Grows with each claim.
    pub counter: u32,
    /// The owner.
    pub node: NodeId,
}

/// One commit: the higher epoch wins, then the higher version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The ownership under which it was committed.
    pub epoch: Epoch,
    /// Counts the commits of a session, across its owners.
    pub version: u32,
}

/// A stamp as sessions keep it, in 16 bytes instead of 24.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    node: NodeId,
    counter: u32,
    version: u32,
}

impl Epoch {
    /// The first ownership of a session that `node` creates.
    pub fn first(node: NodeId) -> Self {
        Self { counter: 1, node }
    }

    /// What `node` asks for when it does not know the session: whoever knows it refuses that, and says who owns it.
    pub fn unheard(node: NodeId) -> Self {
        Self { counter: 0, node }
    }

    /// The lowest ownership of `node` that outranks this one.
    pub fn outranked_by(self, node: NodeId) -> Self {
        Self { counter: self.counter.saturating_add(1), node }
    }
}

impl Stamp {
    /// Whether a session whose newest commit is `newest` has gone through this commit: both are of one ownership, whose
    /// commits follow one another.
    pub fn is_seen_by(self, newest: Self) -> bool {
        self.epoch == newest.epoch && self.version <= newest.version
    }
}

impl From<Stamp> for Packed {
    fn from(Stamp { epoch: Epoch { counter, node }, version }: Stamp) -> Self {
        Self { node, counter, version }
    }
}

impl From<Packed> for Stamp {
    fn from(Packed { node, counter, version }: Packed) -> Self {
        Self { epoch: Epoch { counter, node }, version }
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Stamp::from(*self).fmt(f)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:?}", self.counter, self.node)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}/{:?}", self.version, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_epoch_outranks_any_version() {
        let old = Epoch::first(NodeId(9));
        let new = old.outranked_by(NodeId(1));
        assert!(new > old);
        assert!(Stamp { epoch: new, version: 2 } > Stamp { epoch: old, version: 900 });
    }

    #[test]
    fn two_claims_of_the_same_count_are_ordered_by_the_node() {
        let start = Epoch::first(NodeId(5));
        assert!(start.outranked_by(NodeId(2)) < start.outranked_by(NodeId(3)));
    }
}
