//! What a node keeps of one live session, and in how little room.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{Birth, Reach, Tenure};
use crate::{
    limits,
    names::{ContextPath, NodeId, SessionId},
    session::{
        attributes::{Attributes, Before, Removals},
        delta::Whole,
        draft::Change,
        lease::Term,
        merge::{Brought, State},
        pool,
        stamp::{Epoch, Packed, Stamp},
        value::Value,
    },
    time::Moment,
};

/// One session. Laid out for small size: the allocator rounds what it takes up to 16 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub(super) context: ContextPath,
    pub(super) stamp: Packed,
    // The promised epoch.
    pub(super) promised_to: NodeId,
    pub(super) promised_count: u32,
    /// The term of this node's lease in which it became the owner.
    pub(super) term: Term,
    pub(super) accessed: Moment,
    pub(super) told: Moment,
    /// In seconds; [`NEVER`] for a session that does not end by time.
    pub(super) timeout: u32,
    pub(super) tenure: Tenure,
    pub(super) reach: Reach,
    /// Its newest commit in this node's own right may still be refused: it must not be told as something that stands.
    pub(super) open: bool,
    pub(super) behind: Behind,
    pub(super) attributes: Attributes,
}

/// Whether the session may have gone on without this copy: it was promised to a node that has told nothing since. Or this copy
/// without the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// It has not.
    No,
    /// Not before it was promised to the node that it is promised to now. The newest commit here is of the owner of then.
    SinceThisPromise,
    /// Perhaps before that already.
    Longer,
    /// It has not, and this copy has something of a time before this node gave it away that the owner lacked.
    Ahead,
}

impl Behind {
    /// What another node has told of its own copy.
    pub(super) fn of(is_behind: bool) -> Self {
        if is_behind { Self::Longer } else { Self::No }
    }
}

/// Some 136 years.
const NEVER: u32 = u32::MAX;

// What a session of one short attribute takes beside its place in the table.
const _: () = assert!(size_of::<Record>() == 136);

/// Holders hear of a session's use when this part of its timeout has passed since they last did.
pub const TOLD_SHARE: u32 = 10;

impl Record {
    /// The webapp it belongs to.
    pub fn context(&self) -> &ContextPath {
        &self.context
    }

    /// The newest commit in it.
    pub fn stamp(&self) -> Stamp {
        self.stamp.into()
    }

    /// The highest epoch this node has promised; its node is the owner as far as this node knows.
    pub fn promised(&self) -> Epoch {
        Epoch { counter: self.promised_count, node: self.promised_to }
    }

    /// This node's part in it.
    pub fn tenure(&self) -> Tenure {
        self.tenure
    }

    /// Whether this node may answer from it and change it: it is the owner, and its lease, of which `term` is the term
    /// that holds now, has not run out since it became the owner. What never leaves this node needs no lease.
    pub fn is_owned(&self, term: Option<Term>) -> bool {
        self.tenure == Tenure::Owned && (self.reach == Reach::Node || term == Some(self.term))
    }

    /// Whether a commit of it may still be refused: it must not be told as something that stands.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the session may have gone on without this copy: the last promise was to a node that has told nothing since.
    pub fn may_be_behind(&self) -> bool {
        matches!(self.behind, Behind::SinceThisPromise | Behind::Longer)
    }

    /// The owner as far as this node knows, and the last one of whose commits this copy has all that was told: the same one
    /// unless it may be behind. Nothing where nobody here knows.
    pub fn known(&self) -> (Epoch, Option<Epoch>) {
        let seen = match self.behind {
            Behind::No | Behind::Ahead => Some(self.promised()),
            Behind::SinceThisPromise => Some(self.stamp().epoch),
            Behind::Longer => None,
        };
        (self.promised(), seen)
    }

    /// Whether it was given lately to a node that has committed nothing which was told here, or which has lacked some of it.
    pub fn is_unsettled(&self, now: Moment) -> bool {
        let may_be_lacked = self.stamp().epoch != self.promised() || self.behind == Behind::Ahead;
        may_be_lacked && now.since(self.told) < limits::UNSETTLED
    }

    /// How far it travels.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// When it was last used.
    pub fn accessed(&self) -> Moment {
        self.accessed
    }

    /// What is in it.
    pub fn attributes(&self) -> impl Iterator<Item = (Arc<str>, Value)> + '_ {
        self.attributes.live().map(|(name, value)| (name.clone(), value.clone()))
    }

    /// The names of its attributes, removed ones included, and the commits that set or removed them.
    pub fn stamps(&self) -> impl Iterator<Item = (&str, Stamp)> {
        self.attributes.stamps()
    }

    /// All its attributes as they are told: name, value unless it was removed, and the commit that set or removed it.
    pub fn all_attributes(&self) -> impl ExactSizeIterator<Item = (&str, Option<&Value>, Stamp)> {
        self.attributes.all()
    }

    /// It has been idle for longer than its timeout, times `patience`.
    pub fn is_over(&self, now: Moment, patience: u32) -> bool {
        self.timeout().is_some_and(|timeout| now.since(self.accessed) >= timeout.saturating_mul(patience))
    }

    /// How long an owner may let the session be used without telling the holders.
    pub(super) fn untold(&self) -> Duration {
        self.timeout().unwrap_or_default() / TOLD_SHARE
    }

    /// The session as it stands.
    pub fn whole(&self, id: SessionId, now: Moment) -> Whole {
        Whole {
            id,
            context: self.context.clone(),
            owner: self.promised(),
            stamp: self.stamp(),
            timeout: self.timeout(),
            idle: now.since(self.accessed),
            behind: self.may_be_behind(),
            attributes: self.attributes.to_vec(),
        }
    }

    /// Idle time after which it ends; none for never.
    pub fn timeout(&self) -> Option<Duration> {
        (self.timeout != NEVER).then(|| Duration::from_secs(self.timeout.into()))
    }

    pub(super) fn promise(&mut self, epoch: Epoch) {
        (self.promised_count, self.promised_to) = (epoch.counter, epoch.node);
    }

    /// Promises it to another node, which may go on without this copy.
    pub(super) fn give_away(&mut self, epoch: Epoch) {
        self.behind = match self.behind {
            Behind::No | Behind::Ahead if self.stamp().epoch == self.promised() => Behind::SinceThisPromise,
            Behind::SinceThisPromise if self.promised_to == epoch.node => Behind::SinceThisPromise,
            _ => Behind::Longer,
        };
        self.promise(epoch);
        self.tenure = Tenure::Held;
    }

    pub(super) fn is_cluster_wide(&self) -> bool {
        self.reach == Reach::Cluster
    }

    pub(super) fn apply(&mut self, changes: &[Change], stamp: Stamp, now: Moment) -> SmallVec<[Before; 2]> {
        debug_assert!(stamp > self.stamp(), "a session moves forward");
        let removals = if self.is_cluster_wide() { Removals::Remembered } else { Removals::Forgotten };
        let before = changes.iter().map(|change| self.attributes.apply(change, stamp, removals)).collect();
        self.stamp = stamp.into();
        self.accessed = now;
        self.told = now;
        before
    }

    /// Takes in another node's copy, whatever epoch it was told under.
    pub(super) fn merge(&mut self, theirs: Whole, now: Moment) -> Brought {
        let mut ours = State { stamp: self.stamp(), attributes: self.attributes.to_vec() };
        let brought = ours.merge(State { stamp: theirs.stamp, attributes: theirs.attributes });
        // It lacked what the owner of then had told others.
        if self.behind == Behind::SinceThisPromise && ours.stamp != self.stamp() {
            self.behind = Behind::Longer;
        }
        self.stamp = ours.stamp.into();
        if brought.has_news() {
            self.attributes = ours.attributes.into();
        }
        self.accessed = self.accessed.max(now - theirs.idle);
        brought
    }

    /// Without any commit yet.
    pub(super) fn born(birth: &Birth<'_>, epoch: Epoch, now: Moment) -> Box<Self> {
        Box::new(Self {
            context: pool::context(birth.context),
            stamp: Stamp { epoch, version: 0 }.into(),
            promised_to: epoch.node,
            promised_count: epoch.counter,
            term: birth.term,
            accessed: now,
            told: now,
            timeout: seconds(birth.timeout),
            tenure: Tenure::Owned,
            reach: birth.reach,
            open: birth.reach == Reach::Cluster,
            behind: Behind::No,
            attributes: Attributes::default(),
        })
    }

    pub(super) fn of_whole(whole: Whole, tenure: Tenure, now: Moment) -> Box<Self> {
        Box::new(Self {
            context: pool::context(&whole.context),
            stamp: whole.stamp.into(),
            promised_to: whole.owner.node,
            promised_count: whole.owner.counter,
            term: Term::default(),
            accessed: now - whole.idle,
            told: now,
            timeout: seconds(whole.timeout),
            tenure,
            reach: Reach::Cluster,
            open: false,
            behind: Behind::of(whole.behind),
            attributes: whole.attributes.into(),
        })
    }
}

fn seconds(timeout: Option<Duration>) -> u32 {
    timeout.and_then(|timeout| timeout.as_secs().try_into().ok()).unwrap_or(NEVER)
}
