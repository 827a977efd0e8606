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

/// The end of a session, by logout or by time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    /// The session.
    pub id: SessionId,
    /// The commit that ended it.
    pub stamp: Stamp,
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
    /// A session as the sender holds it, whoever owns it: told in repair, merged and never refused.
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

/// What a member answers to a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It will refuse lower epochs; here is its copy, if that is newer than the claimant's.
    Promised(Option<Whole>),
    /// It never heard of this session, and has promised nothing.
    Unknown,
    /// The session has ended, with this commit.
    Ended(Stamp),
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
            Self::End(end) => end.stamp,
        }
    }
}
