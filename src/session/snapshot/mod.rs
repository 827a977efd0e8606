//! Sessions over a planned stop: a node that stops writes down what nobody else holds, and what it remembers of ends; its next
//! start takes that back.
//!
//! ```text
//!   graceful stop ─► saved ─► codec ─► file (run/r1.sessions)
//!   next start    ◄─ restore ◄─ verdict ◄─ codec ◄─┘
//! ```
//!
//! What comes back is a copy, as if a node that is gone had told it: whoever needs the session claims it first, and the
//! newest copy of all nodes wins. Only sessions that do not travel are owned at once. Whether a file may be used at all is decided in `verdict`: a cluster that lived on
//! without this node has ended sessions and forgotten them, and those must not come back.
//!
//! The codec works on any [`std::io::Write`] and [`std::io::Read`]; only `file` knows that there is a disk.

pub mod codec;
pub mod file;
pub mod verdict;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Slots,
    delta::{End, Update, Whole},
    replica::{self, Applied, Reach, Slot},
};
use crate::{
    limits,
    names::{NodeId, SessionId},
    time::Moment,
};

/// Which sessions are written or read. What is remembered of ended ones always is: nodes tell each other of it for a while
/// only, and when all of them have been restarted since, nobody would know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// All: nobody else is left to hold them.
    Everything,
    /// Those that never leave this node: nobody else ever held them.
    Local,
}

/// What a snapshot says of itself, with named fields: a later release may add some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The node's route.
    pub route: String,
    /// The cluster's name.
    pub cluster: String,
    /// What was written.
    pub part: Part,
    /// When.
    pub written: Clock,
    /// Every other node that this one knew at that time, also those that seemed to be dead.
    pub nodes: Vec<NodeId>,
    /// The routes of those that were live when this node began to stop: after a full stop they come back, too.
    #[serde(default)]
    pub routes: Vec<String>,
    /// Name and version of the writer, for people.
    pub by: String,
}

/// A moment that can be compared with one of another process, and of another boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Milliseconds since 1970 by this machine's clock, which may be wrong and may be set.
    pub unix_ms: u64,
    /// Names this boot of the machine; empty when the system does not tell.
    pub boot: String,
    /// Milliseconds since this boot, by a clock that nobody sets.
    pub up_ms: u64,
}

/// One entry of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum Saved {
    /// A session of the cluster.
    Shared(Whole),
    /// A session that never left the node.
    Local(Whole),
    /// A session that has ended, and for how long this is still to be remembered: zero when that is not known.
    Ended(End, Duration),
}

impl Saved {
    /// Whether it is a session that is taken back with this part. An end takes no session's room.
    pub fn is_session_of(&self, part: Part) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Shared(_) => part == Part::Everything,
            Self::Ended(..) => false,
        }
    }
}

/// What became of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The node has it, or what it has is newer.
    Back,
    /// Its time ran out, while it was used or since.
    Over,
    /// It is remembered as ended.
    Ended,
    /// It does not belong to the part that is read.
    LeftOut,
}

/// What a snapshot keeps of a slot.
pub fn saved(slot: &Option<Slot>, id: SessionId, part: Part, now: Moment) -> Option<Saved> {
    match slot.as_ref()? {
        Slot::Live(record) if record.reach() == Reach::Node => Some(Saved::Local(record.whole(id, now))),
        Slot::Live(record) if part == Part::Everything => Some(Saved::Shared(record.whole(id, now))),
        Slot::Ended(tombstone) => Some(Saved::Ended(End { id, ending: tombstone.ending }, tombstone.until.since(now))),
        _ => None,
    }
}

/// Whether a snapshot of this part keeps something of the slot.
pub fn is_kept(slot: &Slot, part: Part) -> bool {
    match slot {
        Slot::Live(record) => part == Part::Everything || record.reach() == Reach::Node,
        Slot::Ended(_) => true,
        Slot::Sought(_) => false,
    }
}

/// Takes one entry back, `down` after it was written.
pub fn restore(slots: &impl Slots, saved: Saved, part: Part, down: Duration, now: Moment) -> Restored {
    match saved {
        Saved::Local(mut whole) => {
            whole.idle += down;
            if whole.timeout.is_some_and(|timeout| whole.idle >= timeout) {
                return Restored::Over;
            }
            let me = slots.me();
            slots.with(whole.id, |slot| replica::take_back(slot, whole, me, now));
            Restored::Back
        }
        Saved::Shared(_) if part == Part::Local => Restored::LeftOut,
        Saved::Shared(mut whole) => {
            whole.idle += down;
            // Its owner may have let it be used without telling; whoever claims it looks again.
            if whole.timeout.is_some_and(|timeout| whole.idle >= timeout + timeout / replica::TOLD_SHARE) {
                return Restored::Over;
            }
            match slots.with(whole.id, |slot| replica::apply(slot, Update::Whole(whole), now)) {
                Applied::Ended(_) => Restored::Ended,
                _ => Restored::Back,
            }
        }
        Saved::Ended(end, left) => {
            // Without the session its end says only for how long it is remembered at least.
            let until = now + left.saturating_sub(down).min(limits::TOMBSTONE_LONGEST);
            slots.with(end.id, |slot| {
                replica::apply(slot, Update::End(end), now);
                if let Some(Slot::Ended(tombstone)) = slot {
                    tombstone.until = tombstone.until.max(until);
                }
            });
            Restored::Ended
        }
    }
}

#[cfg(test)]
mod tests;
