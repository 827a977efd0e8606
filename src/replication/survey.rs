//! Going through the table for a repair: what a node shares with a peer, and what each of them lacks.
//!
//! A look at a million sessions takes a good part of a second, so it is done beside everything else: see
//! [`Port::survey`](super::core::Port::survey).

use std::{mem, sync::Arc};

use super::{
    batch::{Packed, Packer},
    buckets::{self, Buckets},
};
use crate::{
    limits,
    names::{NodeId, SessionId},
    session::{
        Slots,
        digest::{BUCKETS, Digest, bucket, fingerprint, mix},
        placement::Placement,
        replica::{Reach, Slot},
    },
    time::Moment,
};

/// Numbers the rounds of a repair: an answer to an earlier one is recognised.
pub type RoundNumber = u32;

/// What a node that repairs a peer asks it.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// In which buckets do we differ?
    Digest {
        /// The round.
        round: RoundNumber,
        /// Of the asking node: see [`Digest::sums`].
        sums: Box<[u64]>,
    },
    /// Which of these do you lack or have otherwise? At most [`limits::REPAIR_LIST`].
    List {
        /// The round.
        round: RoundNumber,
        /// Sessions of the asking node.
        sessions: Vec<Listed>,
    },
}

/// A session as it stands on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The session.
    pub id: SessionId,
    /// See [`fingerprint`].
    pub fingerprint: u64,
}

/// What a peer found out.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// To a digest.
    Differs {
        /// The round.
        round: RoundNumber,
        /// Buckets that are not the same.
        differing: Buckets,
        /// Those of them in which the peer has nothing.
        empty: Buckets,
    },
    /// To a list.
    Wants {
        /// The round.
        round: RoundNumber,
        /// One bit for each session of the list, the lowest bit of a byte first: whether it is wanted.
        wanted: Vec<u8>,
    },
}

/// A task over the whole table.
#[derive(Debug)]
pub struct Survey {
    me: NodeId,
    now: Moment,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// The digest of what is shared with each of these peers.
    Digests(Vec<(NodeId, RoundNumber)>),
    /// The sessions of some buckets.
    Window { peer: NodeId, round: RoundNumber, wanted: Wanted },
}

/// Which sessions a window is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// Buckets in which the peer has nothing.
    pub(super) tell: Buckets,
    /// Buckets in which it has something else.
    pub(super) list: Buckets,
    /// The live nodes but the peer and this one, to which some of it is left: what one of them owns it tells itself.
    pub(super) others: Vec<NodeId>,
}

/// What a survey has found.
#[derive(Debug)]
pub struct Found(pub(super) Results);

#[derive(Debug)]
pub(super) enum Results {
    Digests(Vec<(NodeId, RoundNumber, Digest)>),
    Window(NodeId, RoundNumber, Window),
}

/// The sessions of some buckets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Window {
    /// To be told without asking, as they stand, up to [`limits::REPAIR_AHEAD_BYTES`].
    pub(super) packed: Vec<Packed>,
    /// The others that are to be told without asking: too much to be packed, ended, or with a commit that may be refused.
    pub(super) tell: Vec<SessionId>,
    /// To be listed.
    pub(super) list: Vec<Listed>,
    /// How many were left to other nodes to tell.
    pub(super) left: usize,
    /// How many of those were left to nodes that may lack them as well.
    pub(super) unproved: usize,
}

impl Survey {
    pub(super) fn digests(me: NodeId, peers: Vec<(NodeId, RoundNumber)>, now: Moment) -> Self {
        Self { me, now, work: Work::Digests(peers) }
    }

    pub(super) fn window(me: NodeId, peer: NodeId, round: RoundNumber, wanted: Wanted, now: Moment) -> Self {
        Self { me, now, work: Work::Window { peer, round, wanted } }
    }

    /// Does it. Holds no slot for long, and may run on any thread.
    pub fn run(self, slots: &impl Slots) -> Found {
        let Self { me, now, work } = self;
        Found(match work {
            Work::Digests(peers) => Results::Digests(digests(slots, Role::Tells, peers, |_| true, now)),
            Work::Window { peer, round, wanted } => Results::Window(peer, round, window(slots, me, peer, &wanted, now)),
        })
    }
}

/// Answers the question of the node `from`. A digest takes as long as a survey.
pub fn compare(slots: &impl Slots, from: NodeId, question: &Question, now: Moment) -> Finding {
    match question {
        Question::Digest { round, sums } => {
            // Where the peer has nothing it has nothing to tell: only the rest needs a look at what is in it.
            let theirs = |bucket: &usize| sums.get(*bucket).copied().unwrap_or_default();
            let asked: Buckets = (0..BUCKETS).filter(|bucket| theirs(bucket) != 0).collect();
            let mine = digests(slots, Role::IsTold, vec![(from, *round)], |id| asked.contains(bucket(id)), now).pop();
            let mine = mine.map(|(_, _, digest)| digest).unwrap_or_default();
            let differing: Buckets = asked.iter().filter(|bucket| theirs(bucket) != mine.sums()[*bucket]).collect();
            let empty = differing.iter().filter(|bucket| mine.counts()[*bucket] == 0).collect();
            Finding::Differs { round: *round, differing, empty }
        }
        Question::List { round, sessions } => {
            let mut wanted = vec![0; sessions.len().div_ceil(8)];
            for (at, Listed { id, fingerprint: theirs }) in sessions.iter().enumerate() {
                let mine = slots.with(*id, |slot| slot.as_ref().and_then(|slot| fingerprint(*id, slot)));
                if mine != Some(*theirs) {
                    buckets::mark(&mut wanted, at);
                }
            }
            Finding::Wants { round: *round, wanted }
        }
    }
}

fn digests(
    slots: &impl Slots,
    role: Role,
    peers: Vec<(NodeId, RoundNumber)>,
    is_asked: impl Fn(SessionId) -> bool,
    now: Moment,
) -> Vec<(NodeId, RoundNumber, Digest)> {
    let mut digests: Vec<_> = peers.into_iter().map(|(peer, round)| (peer, round, Digest::default())).collect();
    let sharing = Sharing::new(slots.me(), role, slots.placement(), now);
    slots.visit_some(is_asked, |id, slot| {
        let mut print = None;
        for (_, _, digest) in digests.iter_mut().filter(|(peer, _, _)| sharing.covers(id, slot, *peer)) {
            if let Some(print) = *print.get_or_insert_with(|| fingerprint(id, slot)) {
                digest.add(id, print);
            }
        }
    });
    digests
}

fn window(slots: &impl Slots, me: NodeId, peer: NodeId, wanted: &Wanted, now: Moment) -> Window {
    let (mut window, mut packer, mut room) = (Window::default(), Packer::default(), limits::REPAIR_AHEAD_BYTES);
    // More than were counted for it may have come meanwhile: the holders were told of those when they came.
    let mut known = 0;
    let is_wanted = |id| wanted.tell.contains(bucket(id)) || wanted.list.contains(bucket(id));
    let sharing = Sharing::new(me, Role::Tells, slots.placement(), now);
    slots.visit_some(is_wanted, |id, slot| {
        if !sharing.covers(id, slot, peer) || known >= 2 * limits::REPAIR_IDS {
            return;
        }
        known += 1;
        if wanted.list.contains(bucket(id)) {
            window.list.extend(fingerprint(id, slot).map(|fingerprint| Listed { id, fingerprint }));
            return;
        }
        let teller = teller(id, slot, me, peer, &wanted.others);
        if teller != Teller::Here {
            window.left += 1;
            window.unproved += usize::from(teller == Teller::Other);
            return;
        }
        match slot {
            Slot::Live(record) if room > 0 && !record.is_open() => packer.add(id, record, now),
            Slot::Live(_) | Slot::Ended(_) => window.tell.push(id),
            // Never covered.
            Slot::Sought(_) => {}
        }
        if packer.is_full() {
            room = room.saturating_sub(window.pack(&mut packer));
        }
    });
    window.pack(&mut packer);
    window
}

impl Window {
    /// Takes what is in the packer, and says how many bytes that is.
    fn pack(&mut self, packer: &mut Packer) -> usize {
        let packed = mem::take(packer).pack();
        let bytes = packed.bytes.len();
        if bytes > 0 {
            self.packed.push(packed);
        }
        bytes
    }
}

/// What two nodes ought both to have. Each of them finds the same, of what it has itself.
struct Sharing {
    me: NodeId,
    role: Role,
    placement: Arc<Placement>,
    /// Who ought to have what when this node has left, if it is about to leave.
    left: Option<Placement>,
    now: Moment,
}

/// This node's part in a comparison.
#[derive(Clone, Copy)]
enum Role {
    /// It tells the other what that one lacks.
    Tells,
    /// It is told.
    IsTold,
}

impl Sharing {
    fn new(me: NodeId, role: Role, placement: Arc<Placement>, now: Moment) -> Self {
        let left = placement.is_off_duty(me).then(|| placement.without(me));
        Self { me, role, placement, left, now }
    }

    /// Whether this node and a peer ought both to have a session that leaves its node at all. Of one whose owner is gone
    /// or has told nothing yet those who ought to have it now are told by whoever has it; by a node that is about to leave
    /// those are told who ought to have it then.
    fn covers(&self, id: SessionId, slot: &Slot, peer: NodeId) -> bool {
        let record = match slot {
            Slot::Ended(tombstone) => return tombstone.is_told(self.now),
            Slot::Sought(_) => return false,
            Slot::Live(record) => record,
        };
        if record.reach() != Reach::Cluster || record.is_over(self.now, 2) {
            return false;
        }
        let owner = record.promised().node;
        let involves = |node| self.placement.involves(id, owner, node);
        // It may have been given to a node that had given its claim up, and has nothing.
        let is_unsettled = || !self.placement.has(owner) || record.is_unsettled(self.now);
        match (self.role, &self.left) {
            (Role::Tells, Some(left)) => left.involves(id, owner, peer),
            (Role::Tells, None) => involves(peer) && (involves(self.me) || is_unsettled()),
            (Role::IsTold, _) => involves(self.me) && (involves(peer) || self.placement.is_off_duty(peer)),
        }
    }
}

/// Who tells a peer that has nothing of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    /// This node.
    Here,
    /// Its owner, who has it.
    Owner,
    /// Another node, who has it if the owner has told everyone.
    Other,
}

/// A joining node is not told the same by everyone: by the owner, or, where that is gone, by one of the others.
fn teller(id: SessionId, slot: &Slot, me: NodeId, peer: NodeId, others: &[NodeId]) -> Teller {
    let owner = match slot {
        Slot::Live(record) => record.promised().node,
        Slot::Ended(tombstone) => tombstone.ending.stamp.epoch.node,
        Slot::Sought(_) => return Teller::Owner,
    };
    if owner == me {
        return Teller::Here;
    }
    if others.contains(&owner) && owner != peer {
        return Teller::Owner;
    }
    let drawn = u64::from_le_bytes(std::array::from_fn(|at| id.0[at]));
    let rank = |node: NodeId| mix(drawn ^ mix(node.0));
    if others.iter().all(|other| rank(*other) > rank(me)) { Teller::Here } else { Teller::Other }
}
