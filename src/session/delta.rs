//! What travels between nodes about one session.

use std::{sync::Arc, time::Duration};

use super::{
    draft::Change,
    stamp::{Epoch, Stamp},
    value::Value,
};
use crate::names::{ContextPath, NodeId, SessionId};

/// The changes of one commit. It follows on `version - 1` of the same epoch; a first commit of an epoch is a [`Whole`].
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The session.
    pub id: SessionId,
    /// The commit.
    pub stamp: Stamp,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// A session as it stands: for a holder that lacks it or lacks a step in between.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// The session.
    pub id: SessionId,
    /// The webapp it belongs to.
    pub context: ContextPath,
    /// The ownership under which it is sent.
    pub owner: Epoch,
    /// The newest commit in it; its epoch may be older than the owner's.
    pub stamp: Stamp,
    /// Idle time after which it ends; none for never.
    pub timeout: Option<Duration>,
    /// How long it has been idle.
    pub idle: Duration,
    /// Whether the session may have gone on without this copy: who sends it has promised it to a node that has told it
    /// nothing since.
    pub behind: bool,
    /// Everything in it, and what was removed from it of late.
    pub attributes: Vec<Attribute>,
}

/// One attribute, with the commit that set or removed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Its name.
    pub name: Arc<str>,
    /// Its encoded value; none: it was removed, and what was set before must not come back from elsewhere.
    pub value: Option<Value>,
    /// The commit that set or removed it.
    pub stamp: Stamp,
}

/// The end of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    /// The session.
    pub id: SessionId,
    /// How it ended.
    pub ending: Ending,
}

/// How a session ended. Of two endings the greater one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// Whether a session that has gone on refutes it.
    pub finality: Finality,
    /// The commit that ended it.
    pub stamp: Stamp,
}

/// Whether an end stands, whatever else is heard of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finality {
    /// A later ownership, under which the session has gone on, refutes it: its owner found its time to be over, or has not
    /// yet told a user that it has ended, and may have been replaced without knowing it.
    Refutable,
    /// A user was told so. One who has logged out is not logged in again by a node that did not hear of it.
    Final,
}

/// What a node tells the others.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A commit.
    Delta(Delta),
    /// A whole session.
    Whole(Whole),
    /// A session is over.
    End(End),
    /// A session as the sender holds it, whoever owns it: told in repair, or by one that has been replaced. Merged, and refused
    /// only if the session has ended.
    Copy(Whole),
}

/// A node asks to become the owner.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequest {
    /// The session.
    pub id: SessionId,
    /// The ownership it asks for.
    pub epoch: Epoch,
    /// The webapp it wants it for.
    pub context: ContextPath,
    /// The newest commit it holds itself.
    pub have: Option<Stamp>,
    /// Whether an owner that serves is to hand over too.
    pub insist: bool,
}

/// What a member gives away with its promise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// The highest ownership it knew of before.
    pub owner: Option<Epoch>,
    /// The last ownership of whose commits it has all that was told, if it knows of one. An earlier one than `owner` if that
    /// has told it nothing since.
    pub current: Option<Epoch>,
    /// How long the session has been idle, as far as it knows.
    pub idle: Option<Duration>,
    /// Its copy, if that has something that the claimant's lacks.
    pub copy: Option<Whole>,
}

/// What a member answers to a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It will refuse lower epochs.
    Promised(Given),
    /// It never heard of this session, and has promised nothing.
    Unknown,
    /// The session has ended. With what the member held before, if that is not long ago and the end may be refuted.
    Ended(Ending, Option<Whole>),
    /// It has promised this higher epoch to another node.
    Refused(Epoch),
    /// This node owns the session and serves it: the request should go there. Nothing was promised.
    Owned(NodeId),
}

impl Update {
    /// The session it is about.
    pub fn id(&self) -> SessionId {
        match self {
            Self::Delta(delta) => delta.id,
            Self::Whole(whole) | Self::Copy(whole) => whole.id,
            Self::End(end) => end.id,
        }
    }

    /// The newest commit in it.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Delta(delta) => delta.stamp,
            Self::Whole(whole) | Self::Copy(whole) => whole.stamp,
            Self::End(end) => end.ending.stamp,
        }
    }
}

impl Ending {
    /// Whether it stands against a session that has gone on under this ownership.
    pub fn outlasts(self, owner: Epoch) -> bool {
        self.finality == Finality::Final || self.stamp.epoch >= owner
    }

    /// The same, as of a higher ownership that was asked for and found it.
    #[must_use]
    pub fn raised_to(self, epoch: Epoch) -> Self {
        Self { stamp: Stamp { epoch: self.stamp.epoch.max(epoch), ..self.stamp }, ..self }
    }
}

impl Given {
    /// What two members give.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let idle = [self.idle, other.idle].into_iter().flatten().min();
        let copy = match (self.copy, other.copy) {
            (Some(ours), Some(theirs)) => Some(ours.merged_with(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
        let (owner, current) = (self.owner.max(other.owner), self.current.max(other.current));
        Self { owner, current, idle, copy }
    }
}
