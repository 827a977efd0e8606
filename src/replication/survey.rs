//! Going through the table for a repair: what a node shares with a peer, and what each of them lacks.
//!
//! A look at a million sessions takes a good part of a second, so it is done beside everything else: see
//! [`Port::survey`](super::core::Port::survey).

use super::buckets::{self, Buckets};
use crate::{
    limits,
    names::{NodeId, SessionId},
    session::{
        Slots,
        digest::{BUCKETS, Digest, bucket, fingerprint, mix},
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
    /// The live nodes but the peer and this one: what one of them owns it tells itself.
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
    /// To be told without asking.
    pub(super) tell: Vec<SessionId>,
    /// To be listed.
    pub(super) list: Vec<Listed>,
    /// How many were left to other nodes to tell.
    pub(super) left: usize,
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
            Work::Digests(peers) => Results::Digests(digests(slots, peers, now)),
            Work::Window { peer, round, wanted } => Results::Window(peer, round, window(slots, me, peer, &wanted, now)),
        })
    }
}

/// Answers the question of the node `from`. A digest takes as long as a survey.
pub fn compare(slots: &impl Slots, from: NodeId, question: &Question, now: Moment) -> Finding {
    match question {
        Question::Digest { round, sums } => {
            let mine = digests(slots, vec![(from, *round)], now).pop().map(|(_, _, digest)| digest).unwrap_or_default();
            let differs = |bucket: &usize| sums.get(*bucket).copied().unwrap_or_default() != mine.sums()[*bucket];
            let differing: Buckets = (0..BUCKETS).filter(differs).collect();
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

fn digests(slots: &impl Slots, peers: Vec<(NodeId, RoundNumber)>, now: Moment) -> Vec<(NodeId, RoundNumber, Digest)> {
    let mut digests: Vec<_> = peers.into_iter().map(|(peer, round)| (peer, round, Digest::default())).collect();
    slots.visit_all(|id, slot| {
        let mut print = None;
        for (_, _, digest) in digests.iter_mut().filter(|(peer, _, _)| is_shared(id, slot, *peer, now)) {
            if let Some(print) = *print.get_or_insert_with(|| fingerprint(id, slot)) {
                digest.add(id, print);
            }
        }
    });
    digests
}

fn window(slots: &impl Slots, me: NodeId, peer: NodeId, wanted: &Wanted, now: Moment) -> Window {
    let mut window = Window::default();
    slots.visit_all(|id, slot| {
        let at = bucket(id);
        let (tells, lists) = (wanted.tell.contains(at), wanted.list.contains(at));
        if !(tells || lists) || !is_shared(id, slot, peer, now) || window.is_full() {
            return;
        }
        match fingerprint(id, slot) {
            None => {}
            Some(fingerprint) if lists => window.list.push(Listed { id, fingerprint }),
            Some(_) if tells_first(id, slot, me, peer, &wanted.others) => window.tell.push(id),
            Some(_) => window.left += 1,
        }
    });
    window
}

impl Window {
    /// More than were counted for it have come meanwhile: the holders were told of those when they came.
    fn is_full(&self) -> bool {
        self.tell.len() + self.list.len() >= 2 * limits::REPAIR_IDS
    }
}

/// Whether this node and a peer ought both to have a session: every node holds every session that leaves its node at all.
///
/// What is about to be forgotten is not told any more, or nodes would remind each other of it for ever: a tombstone is told
/// in the first third of its life, so that whoever hears of it last forgets it after all those who told of it.
fn is_shared(_id: SessionId, slot: &Slot, _peer: NodeId, now: Moment) -> bool {
    match slot {
        Slot::Ended(tombstone) => tombstone.until > now + limits::TOMBSTONE * 2 / 3,
        Slot::Live(record) => record.reach() == Reach::Cluster && !record.is_over(now, 2),
    }
}

/// Whether this node tells a peer that has nothing of a session: its owner does, or, where that is gone, one of the others,
/// so that a joining node is not told the same by everyone.
fn tells_first(id: SessionId, slot: &Slot, me: NodeId, peer: NodeId, others: &[NodeId]) -> bool {
    let owner = match slot {
        Slot::Live(record) => record.promised().node,
        Slot::Ended(tombstone) => tombstone.stamp.epoch.node,
    };
    if owner == me || others.contains(&owner) && owner != peer {
        return owner == me;
    }
    let drawn = u64::from_le_bytes(std::array::from_fn(|at| id.0[at]));
    let rank = |node: NodeId| mix(drawn ^ mix(node.0));
    others.iter().all(|other| rank(*other) > rank(me))
}
