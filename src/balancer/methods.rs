//! How a member is chosen: for a new session by turn or by load, for a session that has to move by its id.

use crate::settings::Method;

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

/// Highest random weight (Thaler and Ravishankar 1996), weighted by -w / ln(hash): every process that sees the same
/// members chooses the same one for a session, and a member that leaves moves only its own sessions.
pub(crate) fn rendezvous(key: &[u8], members: &[Candidate<'_>]) -> Option<usize> {
    let score = |member: &Candidate<'_>| {
        let hash = mixed(fnv1a(fnv1a(FNV_START, key), member.route.as_bytes()));
        let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(member.weight) / unit.ln()
    };
    let scored = members.iter().enumerate().map(|(index, member)| (index, score(member)));
    scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: the same in every process and every version, which std's hasher does not promise.
fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The finish of splitmix64: FNV alone leaves the upper bits of short texts alike.
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(rendezvous(b"id", &[]), None);
        assert_eq!(less_busy(&members(&[1]), 1, 2), Some(0));
    }

    #[test]
    fn a_rendezvous_is_the_same_in_every_process() {
        let at = |id: u8| ROUTES[rendezvous(&[id; 16], &members(&[50, 50, 50])).unwrap()];
        assert_eq!((0..12).map(at).collect::<Vec<_>>(), PINNED, "changing it moves the sessions of a rolling upgrade");
    }

    /// What version 0.1 chooses.
    const PINNED: [&str; 12] = ["r3", "r2", "r2", "r3", "r3", "r3", "r3", "r3", "r1", "r2", "r3", "r1"];

    #[test]
    fn a_leaving_member_moves_only_its_own_sessions() {
        let all = members(&[50, 50, 50]);
        let mut counts = [0; 3];
        for id in 0..3_000u32 {
            let key = id.to_be_bytes();
            let before = rendezvous(&key, &all).unwrap();
            counts[before] += 1;
            let after = rendezvous(&key, &all[..2]).unwrap();
            assert!(before == 2 || before == after, "session {id} moved without need");
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_rendezvous_follows_the_weights() {
        let all = members(&[10, 30]);
        let heavy = (0..4_000u32).filter(|id| rendezvous(&id.to_be_bytes(), &all) == Some(1)).count();
        assert!((2_850..3_150).contains(&heavy), "{heavy} of 4000");
    }

    #[test]
    fn two_workers_do_not_begin_with_the_same_member_every_time() {
        let first = |seed| Picker::new(Method::ByRequests, seed).pick(&members(&[50, 50])).unwrap();
        let begun: Vec<_> = (0..32).map(first).collect();
        assert!(begun.contains(&0) && begun.contains(&1));
    }
}
