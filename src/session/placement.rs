//! Which nodes hold a session beside its owner: all of them, or a few that are chosen by the session's id.
//!
//! Pure. Everyone who sees the same members chooses the same ones: the owner that sends a commit, a node that copies what
//! has lost its holder, and the balancer that looks for a node to go on with the session. What they choose by is the
//! session's id and the *route* of a node, because a balancer knows no more of it.
//!
//! ```text
//!   order of the nodes for one id:   r3   r1   r4   r2
//!   owner r3, copies = 1:            owner holder
//!   owner r1:                        holder owner          r3 gone: the balancer goes to r1
//! ```

use std::cmp::Reverse;

use smallvec::SmallVec;

use crate::names::{NodeId, Route, SessionId};

/// The live nodes, this one included, and how many of them hold a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    spread: Spread,
    places: Vec<Place>,
}

/// How many nodes hold a session beside its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// All others.
    Everywhere,
    /// So many, at least 1.
    Chosen(usize),
}

/// A node that may hold sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// This life of it.
    pub node: NodeId,
    /// Its stable name, which it is chosen by.
    pub route: Route,
    /// Whether it answers requests. One that starts or drains is chosen only where too few do.
    pub serves: bool,
}

/// How good a holder a node would be now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// It cannot be told anything.
    Absent,
    /// It is told, but nobody waits for it.
    Lagging,
    /// It takes what it is told.
    InSync,
}

/// Some nodes, the first choice first.
pub type Chosen = SmallVec<[NodeId; 4]>;

impl Placement {
    /// All nodes, whoever they are: what holds until the members are known.
    pub fn everywhere() -> Self {
        Self { spread: Spread::Everywhere, places: Vec::new() }
    }

    /// The nodes that are live, this one included.
    pub fn new(spread: Spread, places: impl IntoIterator<Item = Place>) -> Self {
        Self { spread, places: places.into_iter().collect() }
    }

    /// The same when a node has left.
    #[must_use]
    pub fn without(&self, node: NodeId) -> Self {
        Self::new(self.spread, self.places.iter().filter(|place| place.node != node).cloned())
    }

    /// How many hold a session.
    pub fn spread(&self) -> Spread {
        self.spread
    }

    /// The nodes.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Whether a node is live and about to leave, or to begin.
    pub fn is_off_duty(&self, node: NodeId) -> bool {
        self.places.iter().any(|place| place.node == node && !place.serves)
    }

    /// Whether a node is live.
    pub fn has(&self, node: NodeId) -> bool {
        self.places.iter().any(|place| place.node == node)
    }

    /// Whether a new session of `owner` with this id is held by the owner's partners: the nodes that follow it in the circle
    /// of routes, one more than hold a session.
    ///
    /// Whoever creates a session draws ids until one suits. Were each of many nodes a holder for each other one, every link
    /// would carry a little, and fewer writes would share a packet: with 8 nodes a write cost twice what it does with 2. As
    /// every node is the partner of as many others, copies are spread evenly; the price is that a lost node's sessions go to
    /// its partners and not to all (Cidon et al., "Copysets", 2013, has the trade-off).
    pub fn suits(&self, id: SessionId, owner: NodeId) -> bool {
        let Some(holders) = self.told(id, owner, |_| Fitness::InSync) else { return true };
        let partners = self.partners(owner, holders.len() + 1);
        holders.iter().all(|holder| partners.contains(holder))
    }

    fn partners(&self, owner: NodeId, count: usize) -> Chosen {
        let mine = self.places.iter().find(|place| place.node == owner).map(|place| &place.route);
        let others = self.places.iter().filter(|place| place.node != owner);
        // Those behind it come first, in their order, then those before it.
        let mut circle: SmallVec<[_; 8]> = others
            .map(|place| (!place.serves, mine.is_some_and(|mine| place.route < *mine), &place.route, place.node))
            .collect();
        circle.sort_unstable();
        circle.into_iter().take(count).map(|(.., node)| node).collect()
    }

    /// The nodes that are told of all commits of `owner`, by how fit they are and then by the order of the session; none
    /// when all are told. A commit goes past a holder that cannot take it, to the next one in the order.
    pub fn told(&self, id: SessionId, owner: NodeId, fitness: impl Fn(NodeId) -> Fitness) -> Option<Chosen> {
        let Spread::Chosen(copies) = self.spread else { return None };
        Some(self.first(id, copies, |node| if node == owner { Fitness::Absent } else { fitness(node) }))
    }

    /// The nodes that ought to have a session beside `owner` now: those of [`Placement::told`], and of a session whose owner
    /// is gone, or about to leave, one more, so that as many have it as would with an owner. The first of them is where a
    /// balancer sends the next request.
    pub fn holders(&self, id: SessionId, owner: NodeId, fitness: impl Fn(NodeId) -> Fitness) -> Option<Chosen> {
        let Spread::Chosen(copies) = self.spread else { return None };
        let stays = self.has(owner) && !self.is_off_duty(owner);
        let others = if stays { copies } else { copies + 1 };
        Some(self.first(id, others, |node| if node == owner { Fitness::Absent } else { fitness(node) }))
    }

    /// Whether a node is the owner or told of the owner's commits, if all nodes are fit.
    pub fn is_told(&self, id: SessionId, owner: NodeId, node: NodeId) -> bool {
        node == owner || self.told(id, owner, |_| Fitness::InSync).is_none_or(|told| told.contains(&node))
    }

    /// Whether a node ought to have a session: as its owner, or as a holder.
    pub fn involves(&self, id: SessionId, owner: NodeId, node: NodeId) -> bool {
        node == owner || self.holders(id, owner, |_| Fitness::InSync).is_none_or(|holders| holders.contains(&node))
    }

    fn first(&self, id: SessionId, count: usize, fitness: impl Fn(NodeId) -> Fitness) -> Chosen {
        let key = key(&id.0);
        let ranked = self.places.iter().map(|place| {
            let rank = (fitness(place.node), place.serves, weight(key, place.route.as_str()), place.node);
            Reverse(rank)
        });
        let mut ranked: SmallVec<[_; 8]> = ranked.filter(|Reverse((fitness, ..))| *fitness > Fitness::Absent).collect();
        ranked.sort_unstable();
        ranked.into_iter().take(count).map(|Reverse((.., node))| node).collect()
    }
}

/// The part of [`weight`] that is of the session.
pub fn key(id: &[u8]) -> u64 {
    fnv1a(FNV_START, id)
}

/// How much a session wants to be on the node of this route: the highest one is the first choice (highest random weight,
/// Thaler and Ravishankar 1996). A node that comes or goes moves only what it has.
pub fn weight(key: u64, route: &str) -> u64 {
    mixed(fnv1a(key, route.as_bytes()))
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: the same in every process and every version, which std's hasher does not promise.
fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The finish of splitmix64, which spreads a number over all bits: FNV alone leaves the upper ones of short texts alike.
pub fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    const SESSIONS: u16 = 2_000;

    fn place(n: u64) -> Place {
        Place { node: NodeId(n), route: format!("r{n}").parse().unwrap(), serves: true }
    }

    fn nodes(nodes: impl IntoIterator<Item = u64>, copies: usize) -> Placement {
        Placement::new(Spread::Chosen(copies), nodes.into_iter().map(place))
    }

    fn id(n: u16) -> SessionId {
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        SessionId(bytes)
    }

    fn told(placement: &Placement, id: SessionId, owner: u64) -> Vec<u64> {
        let told = placement.told(id, NodeId(owner), |_| Fitness::InSync).unwrap();
        told.into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn a_session_has_as_many_holders_as_are_wanted_and_none_is_its_owner() {
        let placement = nodes(1..=5, 2);
        let mut counts = [0_usize; 6];
        for n in 0..SESSIONS {
            let told = told(&placement, id(n), 1);
            assert!(told.len() == 2 && !told.contains(&1) && told[0] != told[1], "{told:?}");
            told.iter().for_each(|node| counts[*node as usize] += 1);
        }
        let share = SESSIONS as usize * 2 / 4;
        assert!(counts[2..].iter().all(|count| count.abs_diff(share) < share / 8), "{counts:?}");
        assert_eq!(told(&nodes([1, 2], 3), id(0), 1), [2], "there are no more");
    }

    #[test]
    fn the_first_of_those_who_are_left_is_the_first_holder() {
        let (all, left) = (nodes(1..=4, 1), nodes(2..=4, 1));
        for n in 0..SESSIONS {
            let holder = NodeId(told(&all, id(n), 1)[0]);
            let first = (2..=4).max_by_key(|node| weight(key(&id(n).0), &format!("r{node}"))).unwrap();
            assert_eq!(holder, NodeId(first), "where a balancer goes");
            assert!(left.involves(id(n), NodeId(1), holder), "it ought to have what it has");
            let involved = (2..=4).filter(|node| left.involves(id(n), NodeId(1), NodeId(*node))).count();
            assert_eq!(involved, 2, "and another one too, now that the owner is gone");
        }
    }

    #[test]
    fn an_id_that_suits_is_soon_found_and_its_holders_follow_in_the_circle() {
        for (count, copies) in [(2, 1), (3, 1), (8, 1), (8, 2), (16, 1)] {
            let placement = nodes(1..=count, copies);
            let partners: Vec<u64> = placement.partners(NodeId(count - 1), copies + 1).iter().map(|it| it.0).collect();
            let expected: Vec<u64> = [count].into_iter().chain(1..count - 1).take(copies + 1).collect();
            // Routes are texts: r10 stands before r2.
            assert!(count > 9 || partners == expected, "{partners:?}");
            let suiting = (0..SESSIONS).filter(|n| placement.suits(id(*n), NodeId(1)));
            let held = suiting.map(|n| told(&placement, id(n), 1)).inspect(|held| {
                assert!(held.iter().all(|it| placement.partners(NodeId(1), copies + 1).contains(&NodeId(*it))));
            });
            let found = held.count() * limits::ID_DRAWS / usize::from(SESSIONS);
            assert!(found >= 2, "{count} nodes, {copies} copies: {found} of {} draws suit", limits::ID_DRAWS);
        }
        assert!(Placement::everywhere().suits(id(0), NodeId(1)));
    }

    #[test]
    fn every_node_is_the_partner_of_as_many_others() {
        let placement = nodes(1..=8, 1);
        let mut times = [0; 9];
        for owner in 1..=8 {
            placement.partners(NodeId(owner), 2).iter().for_each(|it| times[it.0 as usize] += 1);
        }
        assert_eq!(times[1..], [2; 8]);
    }

    #[test]
    fn a_lost_holder_moves_only_what_it_held() {
        let (all, left) = (nodes(1..=5, 1), nodes(1..=4, 1));
        for n in 0..SESSIONS {
            let before = told(&all, id(n), 1);
            assert!(before == [5] || before == told(&left, id(n), 1), "session {n} moved without need");
        }
    }

    #[test]
    fn a_commit_goes_past_a_holder_that_cannot_take_it() {
        let placement = nodes(1..=4, 1);
        let first = told(&placement, id(3), 1)[0];
        let fit = |fitness: Fitness| move |node| if node == NodeId(first) { fitness } else { Fitness::InSync };
        for fitness in [Fitness::Absent, Fitness::Lagging] {
            let instead = placement.told(id(3), NodeId(1), fit(fitness)).unwrap();
            assert!(instead.len() == 1 && instead[0] != NodeId(first) && instead[0] != NodeId(1));
        }
        let only_lagging = |node| if node == NodeId(first) { Fitness::Lagging } else { Fitness::Absent };
        assert_eq!(placement.told(id(3), NodeId(1), only_lagging).unwrap()[..], [NodeId(first)], "it may come back");
    }

    #[test]
    fn a_node_that_drains_holds_nothing_where_others_serve() {
        let mut places: Vec<Place> = (1..=3).map(place).collect();
        places[1].serves = false;
        let placement = Placement::new(Spread::Chosen(1), places.clone());
        assert!((0..SESSIONS).all(|n| told(&placement, id(n), 1) == [3]));
        places[2].serves = false;
        let placement = Placement::new(Spread::Chosen(1), places);
        assert!((0..SESSIONS).all(|n| told(&placement, id(n), 1).len() == 1), "better than nobody");
    }

    #[test]
    fn everybody_has_everything_where_nobody_is_chosen() {
        let placement = Placement::new(Spread::Everywhere, (1..=3).map(place));
        assert_eq!(placement.told(id(1), NodeId(1), |_| Fitness::InSync), None);
        assert!(placement.involves(id(1), NodeId(1), NodeId(3)) && placement.involves(id(1), NodeId(9), NodeId(3)));
        assert!(Placement::everywhere().involves(id(1), NodeId(1), NodeId(3)));
    }
}
