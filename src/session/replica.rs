//! The truth about one session on one node: who owns it, what it holds, what may be done to it.
//!
//! Pure: no clock, no socket, no lock. Everything here judges first and then changes one [`Slot`]; the table hands it
//! in, the simulator too.
//!
//! ```text
//!            create                        promise (hand-over), newer update, fence
//!   (none) ─────────► Owned ◄──────────────────────────────────────────► Held
//!                       ▲          adopt                                   │
//!                       └───────────────────── Claiming ◄──────────────────┘ claim
//! ```

mod claims;
mod life;
mod record;
mod told;

use std::time::Duration;

pub use self::{
    claims::{Adoption, Intent, adopt, claim, intent, is_given_away, kept, promise, remember, withdraw},
    life::{
        Birth, Committed, Expiry, Kept, NotOwner, Standing, Undo, Visited, commit, create, end, expire, keep, retreat,
        standing, take_back, touch, touched, undo, visit,
    },
    record::{Record, TOLD_SHARE},
    told::{Applied, apply, bury, merge_copy, retract},
};
use super::{delta::Ending, stamp::Epoch};
use crate::{limits, time::Moment};

/// What a node knows of one session id; nothing at all is `None`.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot {
    /// A session. Boxed, because a hash table has more room than it uses.
    Live(Box<Record>),
    /// It has ended. Kept longer than any late delta can be under way.
    Ended(Box<Tombstone>),
    /// Nothing is held, but somebody claims it.
    Sought(Box<Sought>),
}

/// What has been promised of a session that is not held.
///
/// While a claim of this node is under way: without this memory it would adopt what the claim brings under an epoch that it
/// has let somebody outrank. And when a node is asked for what it does not have, or not yet: two nodes that do not hear each
/// other must not both have it on their side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sought {
    /// The highest epoch of others.
    promised: Option<Epoch>,
    /// A claim of this node is under way.
    is_claimed: bool,
    /// Until then the promise outlasts that claim.
    until: Moment,
}

impl Sought {
    /// Nothing of it matters any more.
    pub fn is_over(&self, now: Moment) -> bool {
        !self.is_claimed && self.until <= now
    }
}

/// This node's part in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// It may commit.
    Owned,
    /// It is asking to become the owner.
    Claiming,
    /// It keeps a copy.
    Held,
}

/// How far a session travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To the other nodes.
    Cluster,
    /// Nowhere: its webapp is not `<distributable/>`.
    Node,
}

/// The memory of an ended session.
#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    /// How it ended.
    pub ending: Ending,
    /// When even this may be forgotten.
    pub until: Moment,
    /// Until then nodes that lack it are told.
    pub told_until: Moment,
    /// What was held before an end that may be refuted: perhaps the only copy beside that of an owner who takes the end back.
    before: Option<Box<Record>>,
}

const _: () = assert!(size_of::<Option<Slot>>() == 16);

impl Tombstone {
    /// Whether it is told to nodes that lack it: for so short a time that whoever hears of it last forgets it after all
    /// those who told of it. Otherwise nodes would remind each other of it for ever.
    pub fn is_told(&self, now: Moment) -> bool {
        now < self.told_until
    }

    /// Whether it keeps what was held before although claims that might have refuted the end are long over.
    pub fn is_settled(&self, now: Moment) -> bool {
        self.before.is_some() && now + limits::TOMBSTONE / 3 >= self.told_until + limits::CLAIM_REMEMBERED
    }

    /// Forgets what was held before.
    pub fn settle(&mut self) {
        self.before = None;
    }
}

impl Slot {
    /// The session, if it is live.
    pub fn live(slot: &Option<Self>) -> Option<&Record> {
        match slot {
            Some(Self::Live(record)) => Some(record),
            _ => None,
        }
    }

    /// Puts the end of a session in the place of what was known of it, and gives that.
    fn end(slot: &mut Option<Self>, ending: Ending, now: Moment) -> Option<Self> {
        let least = now + limits::TOMBSTONE;
        let until = match slot {
            Some(Self::Live(record)) => least.max(record.accessed() + remembered(record.timeout())),
            Some(Self::Ended(tombstone)) => tombstone.until.max(least),
            Some(Self::Sought(_)) | None => least,
        };
        let told_until = now + limits::TOMBSTONE / 3;
        slot.replace(Self::Ended(Box::new(Tombstone { ending, until, told_until, before: None })))
    }

    /// The highest epoch that was promised here.
    fn promised(slot: &Option<Self>) -> Option<Epoch> {
        match slot {
            Some(Self::Live(record)) => Some(record.promised()),
            Some(Self::Sought(sought)) => sought.promised,
            Some(Self::Ended(_)) | None => None,
        }
    }

    /// The highest epoch that was promised here, of a session that is held, if that is later than this one.
    pub fn outranks(slot: &Option<Self>, owner: Epoch) -> Option<Epoch> {
        Self::live(slot).map(Record::promised).filter(|promised| *promised > owner)
    }

    /// How the session has ended, if it has.
    pub fn ending(slot: &Option<Self>) -> Option<Ending> {
        match slot {
            Some(Self::Ended(tombstone)) => Some(tombstone.ending),
            _ => None,
        }
    }

    fn live_mut(slot: &mut Option<Self>) -> Option<&mut Record> {
        match slot {
            Some(Self::Live(record)) => Some(record),
            _ => None,
        }
    }
}

/// A node that was away brings its copy back, and may claim the session with it, until nobody has used that for twice its
/// time ([`Record::is_over`]).
fn remembered(timeout: Option<Duration>) -> Duration {
    timeout.map_or(limits::TOMBSTONE_LONGEST, |timeout| timeout.saturating_mul(2).min(limits::TOMBSTONE_LONGEST))
}

/// Learns that another node has a higher claim.
pub fn yield_to(slot: &mut Option<Slot>, promised: Epoch) {
    if let Some(record) = Slot::live_mut(slot) {
        yield_record(record, promised);
    }
}

/// Learns from a third node that another one has become the owner. A mere holder hears it from whoever tells it of commits.
pub fn replaced(slot: &mut Option<Slot>, by: Epoch) {
    if Slot::live(slot).is_some_and(|record| record.tenure != Tenure::Held) {
        yield_to(slot, by);
    }
}

fn yield_record(record: &mut Record, promised: Epoch) {
    if record.promised() < promised {
        record.give_away(promised);
    }
}

#[cfg(test)]
mod tests;
