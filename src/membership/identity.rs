//! A member as the SWIM protocol knows it: what it announced, and its rank among all that used its address.

use std::net::SocketAddr;

use super::{
    Duty, Member, Role,
    codec::{self, Malformed},
};
use crate::names::NodeId;

/// One announcement of one life of one process.
///
/// Of two announcements from one address the later one counts: that of the process that started later, or, of one
/// process, the one with the higher bump. SWIM replaces the loser at once, without waiting for its silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// When the process started, in milliseconds since 1970 by its own clock.
    pub(super) started: u64,
    /// Grows with each new announcement of this life: a changed duty, a return after it was declared down.
    pub(super) bump: u32,
    /// What it says of itself.
    pub(super) member: Member,
    /// Fields that a newer version added behind those above: carried along, or the members would disagree.
    pub(super) unknown: Box<[u8]>,
}

impl Identity {
    /// The first announcement of a process.
    pub(super) fn new(member: Member, started: u64) -> Self {
        Self { started, bump: 0, member, unknown: Box::default() }
    }

    /// Stands for whoever is at `address` in a message to somebody who is not known yet.
    pub(super) fn of_address(address: SocketAddr) -> Self {
        Self::new(Member { id: NodeId(0), address, role: Role::Balancer }, 0)
    }

    /// The next announcement of this life with another duty; none when nothing changes.
    pub(super) fn with_duty(&self, wanted: Duty) -> Option<Self> {
        let mut next = self.bumped()?;
        match &mut next.member.role {
            Role::Node { duty, .. } if *duty != wanted => *duty = wanted,
            Role::Node { .. } | Role::Balancer => return None,
        }
        Some(next)
    }

    /// The next announcement, as if this process had started `later_ms` after it did.
    pub(super) fn raised(&self, later_ms: u64) -> Option<Self> {
        let started = self.started.saturating_add(later_ms);
        Some(Self { started, ..self.bumped()? })
    }

    /// Its bytes on the wire.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(codec::IDENTITY_BYTES);
        codec::put_identity(&mut bytes, self);
        bytes
    }

    /// Reads what [`Identity::to_bytes`] wrote, and nothing behind it.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let identity = codec::take_identity(&mut bytes)?;
        if bytes.is_empty() { Ok(identity) } else { Err(Malformed) }
    }

    fn bumped(&self) -> Option<Self> {
        Some(Self { bump: self.bump.checked_add(1)?, ..self.clone() })
    }

    fn rank(&self) -> (u64, u32, NodeId) {
        (self.started, self.bump, self.member.id)
    }
}

impl foca::Identity for Identity {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        self.bumped()
    }

    fn addr(&self) -> SocketAddr {
        self.member.address
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }
}

#[cfg(test)]
mod tests {
    use foca::Identity as _;

    use super::*;

    fn node(id: u64, started: u64) -> Identity {
        let role =
            Role::Node { route: "r1".parse().unwrap(), http: ([127, 0, 0, 1], 18080).into(), duty: Duty::Starting };
        Identity::new(Member { id: NodeId(id), address: ([127, 0, 0, 1], 4000).into(), role }, started)
    }

    #[test]
    fn a_restarted_process_replaces_the_old_one_whatever_its_id() {
        let (old, new) = (node(9, 1_000), node(2, 1_001));
        let old = old.renew().and_then(|id| id.renew()).unwrap();
        assert!(new.win_addr_conflict(&old) && !old.win_addr_conflict(&new));
    }

    #[test]
    fn of_two_that_started_at_once_exactly_one_wins() {
        let (a, b) = (node(1, 1_000), node(2, 1_000));
        assert!(b.win_addr_conflict(&a) && !a.win_addr_conflict(&b));
    }

    #[test]
    fn a_renewed_identity_wins_and_keeps_its_life() {
        let old = node(1, 1_000);
        let new = old.renew().unwrap();
        assert!(new.win_addr_conflict(&old) && !old.win_addr_conflict(&new));
        assert_eq!(new.member, old.member);
        assert_eq!(Identity { bump: u32::MAX, ..old }.renew(), None);
    }

    #[test]
    fn only_a_changed_duty_is_a_new_announcement() {
        let node = node(1, 1_000);
        assert_eq!(node.with_duty(Duty::Starting), None);
        let serving = node.with_duty(Duty::Serving).unwrap();
        assert_eq!((serving.bump, serving.member.id), (1, NodeId(1)));
        assert_eq!(Identity::of_address(node.addr()).with_duty(Duty::Serving), None);
    }
}
