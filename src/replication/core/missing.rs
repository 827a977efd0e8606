//! Nodes that are on the list no more and may be alive all the same, on the other side of a split.
//!
//! Where only some nodes hold a session, the side that has neither its owner nor a holder may still have a copy from an
//! earlier time. Were it to go on with that under a higher epoch, everything that was answered since would be taken for
//! removed when the sides meet again. An answered write is held by two nodes at least: who has lost so many at the same time
//! cannot know whether an old copy is the newest. Of nodes that were lost one after the other each was replaced by the others
//! before the next one was.

use std::borrow::Cow;

use crate::{
    limits,
    names::NodeId,
    session::placement::{Place, Placement},
    time::Moment,
};

/// The nodes that are missing, beside those that are live.
#[derive(Debug)]
pub(super) struct Missing {
    lost: Vec<(Place, Moment)>,
    live: Placement,
}

impl Missing {
    /// Nobody is.
    pub(super) fn nobody() -> Self {
        Self { lost: Vec::new(), live: Placement::everywhere() }
    }

    /// A node fell off the list, and nobody knows whether it has ended. Of many the latest are remembered.
    pub(super) fn lost(&mut self, place: Place, now: Moment) {
        if self.lost.len() == limits::MISSING_NODES {
            self.lost.remove(0);
        }
        self.lost.push((place, now));
    }

    /// A node has ended.
    pub(super) fn ended(&mut self, node: NodeId) {
        self.lost.retain(|(place, _)| place.node != node);
    }

    /// These are live now. A route that is back belongs to a new process, so the old one has ended.
    pub(super) fn live(&mut self, placement: &Placement, now: Moment) {
        let is_back = |lost: &Place| placement.places().iter().any(|place| place.route == lost.route);
        self.lost.retain(|(place, since)| !is_back(place) && is_recent(*since, now));
        self.live = placement.clone();
    }

    /// Those that may be alive, and since when they are missing.
    pub(super) fn nodes(&self, now: Moment) -> impl Iterator<Item = (NodeId, Moment)> {
        self.lost.iter().map(|(place, since)| (place.node, *since)).filter(move |(_, since)| is_recent(*since, now))
    }

    /// The nodes as somebody saw them who was heard last at that time: what was lost well before has been replaced by then.
    pub(super) fn placement(&self, then: Moment) -> Cow<'_, Placement> {
        let mut there = self.lost.iter().filter(|(_, since)| *since + limits::REPLACED >= then).peekable();
        if there.peek().is_none() {
            return Cow::Borrowed(&self.live);
        }
        let there = there.map(|(place, _)| place.clone());
        Cow::Owned(Placement::new(self.live.spread(), self.live.places().iter().cloned().chain(there)))
    }
}

/// How many of these were lost at about the same time, before anybody could replace the first of them.
pub(super) fn most_together(losses: &[Moment]) -> usize {
    let is_soon_after = |first: Moment, loss: Moment| loss >= first && loss.since(first) < limits::REPLACED;
    let together = |first: &Moment| losses.iter().filter(|loss| is_soon_after(*first, **loss)).count();
    losses.iter().map(together).max().unwrap_or(0)
}

/// A node that was lost earlier is not expected back.
pub(super) fn is_recent(since: Moment, now: Moment) -> bool {
    now.since(since) < limits::MISSING
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::placement::Spread;

    const NOW: Moment = Moment(1_000_000);

    fn place(n: u64, route: &str) -> Place {
        Place { node: NodeId(n), route: route.parse().unwrap(), serves: true }
    }

    fn placement(places: &[Place]) -> Placement {
        Placement::new(Spread::Chosen(1), places.iter().cloned())
    }

    #[test]
    fn a_lost_node_is_missing_until_its_route_is_back_or_it_has_ended_or_was_away_for_long() {
        let (here, [b, c, d]) = (place(1, "r1"), [(2, "r2"), (3, "r3"), (4, "r4")].map(|(n, route)| place(n, route)));
        let mut missing = Missing::nobody();
        [&b, &c, &d].into_iter().for_each(|lost| missing.lost(lost.clone(), NOW));
        missing.live(&placement(std::slice::from_ref(&here)), NOW);
        assert_eq!(missing.nodes(NOW).count(), 3);
        missing.live(&placement(&[here.clone(), place(5, "r2")]), NOW);
        missing.ended(c.node);
        assert_eq!(missing.nodes(NOW).collect::<Vec<_>>(), [(d.node, NOW)]);
        assert_eq!(missing.nodes(NOW + limits::MISSING).count(), 0);
        missing.live(&placement(&[here]), NOW + limits::MISSING);
        assert!(!missing.placement(NOW).has(d.node));
    }

    #[test]
    fn a_node_that_was_lost_well_before_is_no_holder_of_those_who_were_there_later() {
        let mut missing = Missing::nobody();
        missing.lost(place(2, "r2"), NOW);
        missing.live(&placement(&[place(1, "r1")]), NOW);
        for (then, is_there) in [(Moment(0), true), (NOW, true), (NOW + limits::REPLACED, true)] {
            assert_eq!(missing.placement(then).has(NodeId(2)), is_there);
        }
        let later = missing.placement(NOW + limits::REPLACED * 2);
        assert!(!later.has(NodeId(2)) && later.has(NodeId(1)));
    }

    #[test]
    fn losses_count_together_only_within_the_time_that_it_takes_to_replace_a_node() {
        assert_eq!(most_together(&[]), 0);
        let later = |parts: u32| NOW + limits::REPLACED / 2 * parts;
        assert_eq!(most_together(&[later(2), later(0), later(4)]), 1);
        assert_eq!(most_together(&[later(5), later(0), later(4), later(2)]), 2);
    }

    #[test]
    fn no_more_are_remembered_than_the_limit() {
        let mut missing = Missing::nobody();
        (0..100).for_each(|n| missing.lost(place(n, &format!("r{n}")), NOW));
        assert_eq!(missing.nodes(NOW).count(), limits::MISSING_NODES);
        assert_eq!(missing.nodes(NOW).last(), Some((NodeId(99), NOW)));
    }
}
