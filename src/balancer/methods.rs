//! How a member is chosen: for a new session by turn or by load, for a session that has to move by its id.

use crate::{session::placement, settings::Method};

/// A member as a method sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Names this life of the member inside this balancer.
    pub(crate) serial: u64,
    /// Its stable name.
    pub(crate) route: &'a str,
    /// Its share, 1 to 100.
    pub(crate) weight: u8,
    /// Requests it is answering now.
    pub(crate) busy: usize,
}

/// Whether the weights of members count when a session has to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shares {
    /// They do: every node holds every session.
    Weighted,
    /// They do not: it goes where its copy is, and nodes know of no weights.
    Equal,
}

/// The memory of one worker between two choices.
#[derive(Debug)]
pub(crate) struct Picker {
    method: Method,
    round: RoundRobin,
    draws: Draws,
}

/// Smooth weighted round robin, as nginx has it: with weights 5, 1, 1 it gives a a b a c a a, never five in a row.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    /// Credit of each member that took part in the last choice, by its serial.
    credit: Vec<(u64, i64)>,
}

/// A sequence of numbers that differ well (splitmix64). Not for secrets.
#[derive(Debug)]
struct Draws(u64);

impl Picker {
    /// `seed` must differ between workers, or they would all begin with the same member.
    pub(crate) fn new(method: Method, seed: u64) -> Self {
        Self { method, round: RoundRobin::default(), draws: Draws(seed) }
    }

    /// Chooses the member of a request without a session: an index of `members`, or none when that is empty.
    pub(crate) fn pick(&mut self, members: &[Candidate<'_>]) -> Option<usize> {
        match self.method {
            Method::ByRequests => {
                if self.round.credit.is_empty() {
                    for _ in 0..self.draws.next() % 16 {
                        self.round.pick(members);
                    }
                }
                self.round.pick(members)
            }
            Method::LeastConnections => less_busy(members, self.draws.next(), self.draws.next()),
        }
    }
}

impl RoundRobin {
    /// The next one in turn.
    pub(crate) fn pick(&mut self, members: &[Candidate<'_>]) -> Option<usize> {
        self.credit.retain(|(serial, _)| members.iter().any(|member| member.serial == *serial));
        let total: i64 = members.iter().map(|member| i64::from(member.weight)).sum();
        let mut best: Option<(usize, usize, i64)> = None;
        for (index, member) in members.iter().enumerate() {
            let slot = self.slot(member.serial);
            self.credit[slot].1 += i64::from(member.weight);
            let credit = self.credit[slot].1;
            if best.is_none_or(|(_, _, highest)| credit > highest) {
                best = Some((index, slot, credit));
            }
        }
        best.map(|(index, slot, _)| {
            self.credit[slot].1 -= total;
            index
        })
    }

    fn slot(&mut self, serial: u64) -> usize {
        self.credit.iter().position(|(known, _)| *known == serial).unwrap_or_else(|| {
            self.credit.push((serial, 0));
            self.credit.len() - 1
        })
    }
}

/// The less busy one, in proportion to its weight, of two members drawn by weight (power of two choices).
pub(crate) fn less_busy(members: &[Candidate<'_>], one: u64, two: u64) -> Option<usize> {
    let first = draw(members, None, one)?;
    let Some(second) = draw(members, Some(first), two) else { return Some(first) };
    let load = |of: usize, other: usize| (members[of].busy as u64 + 1) * u64::from(members[other].weight);
    Some(if load(second, first) < load(first, second) { second } else { first })
}

/// Draws an index by weight, `without` left out.
fn draw(members: &[Candidate<'_>], without: Option<usize>, number: u64) -> Option<usize> {
    let drawn = || members.iter().enumerate().filter(move |(index, _)| Some(*index) != without);
    let total: u64 = drawn().map(|(_, member)| u64::from(member.weight)).sum();
    let mut rest = number.checked_rem(total)?;
    for (index, member) in drawn() {
        match rest.checked_sub(u64::from(member.weight)) {
            Some(less) => rest = less,
            None => return Some(index),
        }
    }
    None
}

/// The member where a session goes on that has lost its own: the first choice of [`placement`], so every process that sees
/// the same members chooses the same one, and where only some nodes hold a session, one that does.
///
/// By [`Shares::Weighted`] the weights count too, by -w / ln(hash); with equal weights the choice is the same.
pub(crate) fn rendezvous(key: &[u8], shares: Shares, members: &[Candidate<'_>]) -> Option<usize> {
    let key = placement::key(key);
    let score = |member: &Candidate<'_>| {
        let hash = placement::weight(key, member.route);
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let share = match shares {
            Shares::Weighted => member.weight,
            Shares::Equal => 1,
        };
        (-f64::from(share) / unit.ln(), hash)
    };
    let scored = members.iter().enumerate().map(|(index, member)| (index, score(member)));
    scored.max_by(|(_, a), (_, b)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(index, _)| index)
}

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        placement::mixed(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{NodeId, SessionId},
        session::placement::{Fitness, Place, Placement, Spread},
    };

    const ROUTES: [&str; 3] = ["r1", "r2", "r3"];

    fn members(weights: &[u8]) -> Vec<Candidate<'static>> {
        let member = |(index, weight): (usize, &u8)| Candidate {
            serial: index as u64,
            route: ROUTES[index],
            weight: *weight,
            busy: 0,
        };
        weights.iter().enumerate().map(member).collect()
    }

    #[test]
    fn turns_are_smooth_and_follow_the_weights() {
        let mut round = RoundRobin::default();
        let turns: Vec<_> = (0..7).map(|_| round.pick(&members(&[5, 1, 1])).unwrap()).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_member_that_left_does_not_disturb_the_turns() {
        let mut round = RoundRobin::default();
        for _ in 0..5 {
            round.pick(&members(&[1, 1, 1]));
        }
        let turns: Vec<_> = (0..4).map(|_| round.pick(&members(&[1, 1])).unwrap()).collect();
        assert_eq!(turns.iter().filter(|turn| **turn == 0).count(), 2);
        assert_eq!(round.credit.len(), 2);
    }

    #[test]
    fn the_busier_of_two_is_left_alone() {
        let mut two = members(&[50, 50]);
        two[0].busy = 9;
        for number in 0..100 {
            assert_eq!(less_busy(&two, number, 7 * number), Some(1));
        }
        two[0].weight = 100;
        two[1] = Candidate { weight: 1, busy: 1, ..two[1] };
        assert_eq!(less_busy(&two, 3, 0), Some(0), "ten requests are little for a member a hundred times as big");
    }

    #[test]
    fn no_member_means_no_choice() {
        assert_eq!(RoundRobin::default().pick(&[]), None);
        assert_eq!(less_busy(&[], 1, 2), None);
        assert_eq!(rendezvous(b"id", Shares::Weighted, &[]), None);
        assert_eq!(less_busy(&members(&[1]), 1, 2), Some(0));
    }

    #[test]
    fn a_rendezvous_is_the_same_in_every_process() {
        for shares in [Shares::Weighted, Shares::Equal] {
            let at = |id: u8| ROUTES[rendezvous(&[id; 16], shares, &members(&[50, 50, 50])).unwrap()];
            assert_eq!(
                (0..12).map(at).collect::<Vec<_>>(),
                PINNED,
                "changing it moves the sessions of a rolling upgrade"
            );
        }
    }

    /// What version 0.1 chooses.
    const PINNED: [&str; 12] = ["r3", "r2", "r2", "r3", "r3", "r3", "r3", "r3", "r1", "r2", "r3", "r1"];

    #[test]
    fn a_leaving_member_moves_only_its_own_sessions() {
        let all = members(&[50, 50, 50]);
        let mut counts = [0; 3];
        for id in 0..3_000u32 {
            let key = id.to_be_bytes();
            let before = rendezvous(&key, Shares::Weighted, &all).unwrap();
            counts[before] += 1;
            let after = rendezvous(&key, Shares::Weighted, &all[..2]).unwrap();
            assert!(before == 2 || before == after, "session {id} moved without need");
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_session_goes_where_its_copy_is() {
        let place =
            |index: usize| Place { node: NodeId(index as u64), route: ROUTES[index].parse().unwrap(), serves: true };
        let placement = Placement::new(Spread::Chosen(1), (0..3).map(place));
        for n in 0..1_000u32 {
            let mut id = SessionId([0; 16]);
            id.0[..4].copy_from_slice(&n.to_be_bytes());
            for owner in 0..3usize {
                let holder = placement.told(id, NodeId(owner as u64), |_| Fitness::InSync).unwrap()[0];
                let mut left = members(&[10, 90, 1]);
                left.remove(owner);
                let chosen = left[rendezvous(&id.0, Shares::Equal, &left).unwrap()].serial;
                assert_eq!(holder, NodeId(chosen));
            }
        }
    }

    #[test]
    fn a_rendezvous_follows_the_weights_where_all_hold_all() {
        let all = members(&[10, 30]);
        let heavy = |shares| (0..4_000u32).filter(|id| rendezvous(&id.to_be_bytes(), shares, &all) == Some(1)).count();
        let (weighted, equal) = (heavy(Shares::Weighted), heavy(Shares::Equal));
        assert!((2_850..3_150).contains(&weighted), "{weighted} of 4000");
        assert!((1_850..2_150).contains(&equal), "{equal} of 4000");
    }

    #[test]
    fn two_workers_do_not_begin_with_the_same_member_every_time() {
        let first = |seed| Picker::new(Method::ByRequests, seed).pick(&members(&[50, 50])).unwrap();
        let begun: Vec<_> = (0..32).map(first).collect();
        assert!(begun.contains(&0) && begun.contains(&1));
    }
}
