//! Which sessions a peer still has to be told whole.
//!
//! Pure: a run begins with the list of all that the peer might lack, goes on as the peer acknowledges, and is done when
//! the last of it is held. A reason that comes up meanwhile asks for another run.

use std::collections::VecDeque;

use crate::{names::SessionId, time::Moment};

/// The copying of sessions to one peer.
#[derive(Debug, Default)]
pub(super) struct Export {
    wanted_at: Option<Moment>,
    left: VecDeque<SessionId>,
    running: bool,
    sent: usize,
    begun_at: Option<Moment>,
}

impl Export {
    /// The peer may lack something, as of now.
    pub(super) fn want(&mut self, now: Moment) {
        self.wanted_at = Some(now);
    }

    /// Whether a run should begin: none is going on, and the reasons have stopped coming since `quiet_since`, for the
    /// links of all workers come up one after the other and one run serves them all.
    pub(super) fn is_due(&self, quiet_since: Moment) -> bool {
        !self.running && self.wanted_at.is_some_and(|at| at <= quiet_since)
    }

    /// A node was lost: the last run, if it began after `since`, left out what that node seemed to be there to tell.
    pub(super) fn node_lost(&mut self, since: Moment, now: Moment) {
        if self.begun_at.is_some_and(|at| at >= since) {
            self.want(now);
        }
    }

    /// Begins a run over these sessions.
    pub(super) fn begin(&mut self, ids: Vec<SessionId>, now: Moment) {
        debug_assert!(!self.running, "one run at a time");
        self.wanted_at = None;
        self.begun_at = Some(now);
        self.running = true;
        self.sent = 0;
        self.left = ids.into();
    }

    /// The next session to send. It stays the next one until [`Export::sent`]: a full queue must not lose its place.
    pub(super) fn next(&self) -> Option<SessionId> {
        self.left.front().copied()
    }

    /// The next session was queued, or there is nothing to tell of it any more.
    pub(super) fn sent(&mut self) {
        self.sent += usize::from(self.left.pop_front().is_some());
    }

    /// Nothing of this run is under way any more. Gives the number of sessions if that ends it.
    pub(super) fn drained(&mut self) -> Option<usize> {
        if !self.running || !self.left.is_empty() {
            return None;
        }
        self.running = false;
        Some(self.sent)
    }

    /// The link broke: what was under way counts for nothing.
    pub(super) fn broken(&mut self) {
        *self = Self::default();
    }

    /// The peer holds everything, as far as this node knows.
    pub(super) fn is_complete(&self) -> bool {
        !self.running && self.wanted_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId([1; 16]);

    #[test]
    fn one_run_serves_reasons_that_come_together() {
        let mut export = Export::default();
        assert!(export.is_complete() && !export.is_due(Moment(9)));
        export.want(Moment(10));
        export.want(Moment(12));
        assert!(!export.is_due(Moment(11)) && export.is_due(Moment(12)));
    }

    #[test]
    fn a_run_ends_when_its_last_session_is_held() {
        let mut export = Export::default();
        export.want(Moment(1));
        export.begin(vec![ID], Moment(2));
        assert_eq!(export.drained(), None, "one is left");
        assert_eq!(export.next(), Some(ID));
        assert_eq!(export.next(), Some(ID), "it was not sent yet");
        export.sent();
        assert_eq!(export.next(), None);
        assert!(!export.is_complete());
        assert_eq!(export.drained(), Some(1));
        assert!(export.is_complete());
    }

    #[test]
    fn a_reason_during_a_run_asks_for_another() {
        let mut export = Export::default();
        export.begin(Vec::new(), Moment(2));
        export.want(Moment(5));
        assert!(!export.is_due(Moment(9)), "the first one is still running");
        assert_eq!(export.drained(), Some(0));
        assert!(export.is_due(Moment(9)) && !export.is_complete());
        export.broken();
        assert!(!export.is_due(Moment(9)));
    }

    #[test]
    fn a_peer_that_was_told_lately_is_told_again_when_a_node_is_lost() {
        let mut export = Export::default();
        export.node_lost(Moment(0), Moment(9));
        assert!(export.is_complete(), "it was told nothing yet, and that is wanted anyway when its link is up");
        export.begin(Vec::new(), Moment(5));
        export.drained();
        export.node_lost(Moment(6), Moment(9));
        assert!(export.is_complete(), "it was told long ago, by the lost node as well");
        export.node_lost(Moment(5), Moment(9));
        assert!(export.is_due(Moment(9)));
    }
}
