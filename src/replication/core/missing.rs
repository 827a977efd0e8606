//! Nodes that are on the list no more and may be alive all the same, on the other side of a split.
//!
//! Where only some nodes hold a session, the side that has neither its owner nor a holder may still have a copy from an
//! earlier time. Were it to go on with that under a higher epoch, everything that was answered since would be taken for
//! removed when the sides meet again. An answered write is held by its owner and `copies` others: who does not hear so many
//! nodes cannot know whether an old copy is the newest.

use crate::{
    limits,
    names::NodeId,
    session::placement::{Place, Placement},
    time::Moment,
};

/// The nodes that are missing, and who holds what if they are counted in.
#[derive(Debug)]
pub(super) struct Missing {
    places: Vec<(Place, Moment)>,
    wider: Placement,
}

impl Missing {
    /// Nobody is.
    pub(super) fn nobody() -> Self {
        Self { places: Vec::new(), wider: Placement::everywhere() }
    }

    /// A node fell off the list, and nobody knows whether it has ended. Of many the latest are remembered.
    pub(super) fn lost(&mut self, place: Place, now: Moment) {
        if self.places.len() == limits::MISSING_NODES {
            self.places.remove(0);
        }
        self.places.push((place, now));
    }

    /// A node has ended.
    pub(super) fn ended(&mut self, node: NodeId) {
        self.places.retain(|(place, _)| place.node != node);
    }

    /// These are live now. A route that is back belongs to a new process, so the old one has ended.
    pub(super) fn live(&mut self, placement: &Placement, now: Moment) {
        let is_back = |lost: &Place| placement.places().iter().any(|place| place.route == lost.route);
        self.places.retain(|(place, since)| !is_back(place) && now.since(*since) < limits::MISSING);
        let lost = self.places.iter().map(|(place, _)| place.clone());
        self.wider = Placement::new(placement.spread(), placement.places().iter().cloned().chain(lost));
    }

    /// Those that may be alive.
    pub(super) fn nodes(&self, now: Moment) -> impl Iterator<Item = NodeId> {
        let lately = self.places.iter().filter(move |(_, since)| now.since(*since) < limits::MISSING);
        lately.map(|(place, _)| place.node)
    }

    /// As if all of them were live.
    pub(super) fn placement(&self) -> &Placement {
        &self.wider
    }
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
        assert!(missing.placement().has(b.node) && missing.placement().has(here.node));
        missing.live(&placement(&[here.clone(), place(5, "r2")]), NOW);
        missing.ended(c.node);
        assert_eq!(missing.nodes(NOW).collect::<Vec<_>>(), [d.node]);
        assert_eq!(missing.nodes(NOW + limits::MISSING).count(), 0);
        missing.live(&placement(&[here]), NOW + limits::MISSING);
        assert!(!missing.placement().has(d.node));
    }

    #[test]
    fn no_more_are_remembered_than_the_limit() {
        let mut missing = Missing::nobody();
        (0..100).for_each(|n| missing.lost(place(n, &format!("r{n}")), NOW));
        assert_eq!(missing.nodes(NOW).count(), limits::MISSING_NODES);
        assert_eq!(missing.nodes(NOW).last(), Some(NodeId(99)));
    }
}
