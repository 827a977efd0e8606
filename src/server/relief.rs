//! When a node that stops may go: what it has is held by others, or nobody can take it.

use std::collections::BTreeMap;

use crate::{names::NodeId, replication::LinkReport, session::placement::Spread};

/// Those who serve hold all that this node has: one of them, where all hold everything. Each has `each` links; of a worker
/// that does not answer none is known.
pub(super) fn is_relieved(links: &[LinkReport], each: usize, serves: impl Fn(NodeId) -> bool, spread: Spread) -> bool {
    let mut serving: BTreeMap<NodeId, usize> = BTreeMap::new();
    for link in links.iter().filter(|link| serves(link.peer)) {
        // One that is silent may have died, and nobody has noticed yet.
        *serving.entry(link.peer).or_default() += usize::from(holds_everything(link) && link.is_heard);
    }
    let holds = |well: &usize| *well >= each;
    match spread {
        Spread::Everywhere => serving.values().any(holds),
        Spread::Chosen(_) => !serving.is_empty() && serving.values().all(holds),
    }
}

/// Nobody is left to be told. Who cannot be told is waited for only while there is `patience`.
pub(super) fn is_told(links: &[LinkReport], patience: bool) -> bool {
    links.iter().all(|link| holds_everything(link) || !link.in_sync && !patience)
}

/// A link that is down or behind is never complete by that: nothing may be under way on it, and all be lacking.
fn holds_everything(link: &LinkReport) -> bool {
    link.in_sync && link.complete && link.in_flight == 0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::replication::{Carried, Repairs};

    fn link(peer: u64, in_sync: bool, complete: bool, in_flight: usize) -> LinkReport {
        LinkReport {
            peer: NodeId(peer),
            route: "r2".parse().unwrap(),
            in_sync,
            complete,
            is_heard: true,
            lag: Duration::ZERO,
            in_flight,
            queued_bytes: 0,
            traffic: Carried::default(),
            repairs: Repairs::default(),
        }
    }

    #[test]
    fn only_a_peer_that_serves_and_has_confirmed_everything_relieves_a_node() {
        let good = || link(2, true, true, 0);
        for spread in [Spread::Everywhere, Spread::Chosen(1)] {
            assert!(is_relieved(&[good()], 1, |_| true, spread));
            assert!(!is_relieved(&[good()], 2, |_| true, spread), "a worker hangs");
            assert!(!is_relieved(&[good()], 1, |_| false, spread), "it does not answer requests");
            assert!(!is_relieved(&[], 1, |_| true, spread));
        }
        let silent = LinkReport { is_heard: false, ..link(3, true, true, 0) };
        for lacking in [link(3, false, true, 0), link(3, true, false, 0), link(3, true, true, 1), silent] {
            assert!(!is_relieved(std::slice::from_ref(&lacking), 1, |_| true, Spread::Everywhere), "{lacking:?}");
            let two = [good(), lacking.clone()];
            assert!(is_relieved(&two, 1, |_| true, Spread::Everywhere), "the other one has all of it");
            assert!(!is_relieved(&two, 1, |_| true, Spread::Chosen(1)), "{lacking:?}");
            assert!(is_relieved(&two, 1, |peer| peer == NodeId(2), Spread::Chosen(1)));
            let of_one_peer = [link(3, true, true, 0), lacking];
            assert!(!is_relieved(&of_one_peer, 2, |_| true, Spread::Everywhere), "it has several links to it");
        }
    }

    #[test]
    fn who_cannot_be_told_is_waited_for_with_patience_and_no_longer() {
        let down = || link(3, false, true, 0);
        assert!(!is_told(&[link(2, true, true, 0), down()], true));
        assert!(is_told(&[link(2, true, true, 0), down()], false));
        assert!(!is_told(&[link(2, true, false, 0), down()], false), "that one is being told");
        assert!(is_told(&[], true));
    }
}
