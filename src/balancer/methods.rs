//! How a member is chosen: for a new session by turn or by load, for a session that has to move by its id.

use std::time::Duration;

use smallvec::SmallVec;

use crate::{limits, session::placement, settings::Method, time::Moment};

/// A member as a method sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Names this life of the member inside this balancer.
    pub(crate) serial: u64,
    /// Its stable name.
    pub(crate) route: &'a str,
    /// Its weight, 1 to 100.
    pub(crate) weight: u8,
    /// Its share of new sessions now, 1 to 10,000: its weight by [`FULL`], or less while it starts slowly.
    pub(crate) share: u32,
    /// Requests it is answering now.
    pub(crate) busy: usize,
    /// Requests sent to it in this life.
    pub(crate) elected: u64,
    /// Bytes of bodies in both directions in this life.
    pub(crate) bytes: u64,
}

/// What a weight is multiplied by to give the share of a member that is warm; one that is cold has 1.
pub(crate) const FULL: u32 = 100;

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
    traffic: Traffic,
    draws: Draws,
}

/// Smooth weighted round robin, as nginx has it: with weights 5, 1, 1 it gives a a b a c a a, never five in a row.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    /// Credit of each member that took part in the last choice, by its serial.
    credit: Vec<(u64, i64)>,
}

/// What each member has carried lately, by its share (httpd's mod_lbmethod_bytraffic). Two things are not as there:
///
/// - What is long ago counts less ([`limits::TRAFFIC_HALF_LIFE`], as mod_jk halves its counters), and a member that comes
///   back begins where the least loaded one is. In httpd it gets every request until it has carried as much as the others.
/// - Bytes are known when a request has ended. Until then it counts as an average one, or all that come meanwhile would
///   go to the same member.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    accounts: Vec<Account>,
    /// Counts the choices, so that a member is known to have taken part in the last one.
    round: u64,
    /// When all numbers were halved in part.
    aged: Moment,
    bytes: f64,
    requests: f64,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    serial: u64,
    /// The member's counters when they were read last.
    bytes: u64,
    elected: u64,
    /// Bytes by share.
    level: f64,
    /// The last choice it took part in, and when that was.
    round: u64,
    at: Moment,
}

/// A sequence of numbers that differ well (splitmix64). Not for secrets.
#[derive(Debug)]
struct Draws(u64);

impl Picker {
    /// `seed` must differ between workers, or they would all begin with the same member.
    pub(crate) fn new(method: Method, seed: u64) -> Self {
        Self { method, round: RoundRobin::default(), traffic: Traffic::default(), draws: Draws(seed) }
    }

    /// Chooses the member of a request without a session: an index of `members`, or none when that is empty.
    pub(crate) fn pick(&mut self, members: &[Candidate<'_>], now: Moment) -> Option<usize> {
        match self.method {
            Method::ByRequests => self.turn(members, |_| true),
            Method::ByTraffic => {
                let levels = self.traffic.levels(members, now);
                let least = levels.iter().copied().min_by(f64::total_cmp)?;
                self.turn(members, |index| levels[index] <= least)
            }
            Method::ByBusyness => {
                let least = members.iter().min_by(|a, b| busyness(a, b))?;
                self.turn(members, |index| busyness(&members[index], least).is_le())
            }
            Method::LeastConnections => less_busy(members, self.draws.next(), self.draws.next()),
        }
    }

    /// The next one in turn of those that `may`. A worker begins somewhere in the round.
    fn turn(&mut self, members: &[Candidate<'_>], may: impl Fn(usize) -> bool) -> Option<usize> {
        if self.round.credit.is_empty() {
            for _ in 0..self.draws.next() % 16 {
                self.round.pick(members, |_| true);
            }
        }
        self.round.pick(members, may)
    }
}

/// Which of two members answers fewer requests by its share.
fn busyness(a: &Candidate<'_>, b: &Candidate<'_>) -> std::cmp::Ordering {
    (a.busy as u64 * u64::from(b.share)).cmp(&(b.busy as u64 * u64::from(a.share)))
}

impl RoundRobin {
    /// The next one in turn of those that `may`. The others gain credit for later, but not more than a whole round, or
    /// one that was busy for long would then get everything.
    pub(crate) fn pick(&mut self, members: &[Candidate<'_>], may: impl Fn(usize) -> bool) -> Option<usize> {
        self.credit.retain(|(serial, _)| members.iter().any(|member| member.serial == *serial));
        let total: i64 = members.iter().map(|member| i64::from(member.share)).sum();
        let mut best: Option<(usize, usize, i64)> = None;
        for (index, member) in members.iter().enumerate() {
            let slot = self.slot(member.serial);
            let credit = self.credit[slot].1 + i64::from(member.share);
            self.credit[slot].1 = credit;
            if may(index) && best.is_none_or(|(_, _, highest)| credit > highest) {
                best = Some((index, slot, credit));
            }
        }
        if let Some((_, slot, _)) = best {
            self.credit[slot].1 -= total;
        }
        // Not before: who has its turn may have more than a whole round, and would lose what is above it.
        self.credit.iter_mut().for_each(|(_, credit)| *credit = (*credit).clamp(-total, total));
        best.map(|(index, _, _)| index)
    }

    fn slot(&mut self, serial: u64) -> usize {
        self.credit.iter().position(|(known, _)| *known == serial).unwrap_or_else(|| {
            self.credit.push((serial, 0));
            self.credit.len() - 1
        })
    }
}

impl Traffic {
    /// How much each member has carried by its share, requests under way included.
    fn levels(&mut self, members: &[Candidate<'_>], now: Moment) -> SmallVec<[f64; 8]> {
        self.age(now);
        let slots: SmallVec<[usize; 8]> = members.iter().map(|member| self.read(member)).collect();
        self.admit(&slots, now);
        let typical = if self.requests > 0.0 { (self.bytes / self.requests).max(1.0) } else { 1.0 };
        let level = |(member, slot): (&Candidate<'_>, &usize)| {
            self.accounts[*slot].level + member.busy as f64 * typical / f64::from(member.share)
        };
        members.iter().zip(&slots).map(level).collect()
    }

    /// Forgets a part of what was. Members that are gone are forgotten whole.
    fn age(&mut self, now: Moment) {
        let span = now.since(self.aged);
        if span < Duration::from_secs(1) {
            return;
        }
        self.aged = now;
        let left = (-span.as_secs_f64() / limits::TRAFFIC_HALF_LIFE.as_secs_f64()).exp2();
        self.accounts.retain(|account| now.since(account.at) < 2 * limits::TRAFFIC_HALF_LIFE);
        self.accounts.iter_mut().for_each(|account| account.level *= left);
        self.bytes *= left;
        self.requests *= left;
    }

    /// Takes over what a member has carried since the last choice, by the share that it has now.
    fn read(&mut self, member: &Candidate<'_>) -> usize {
        let Candidate { serial, bytes, elected, .. } = *member;
        let known = self.accounts.iter().position(|account| account.serial == serial);
        let slot = known.unwrap_or_else(|| {
            self.accounts.push(Account { serial, bytes, elected, level: 0.0, round: 0, at: Moment(0) });
            self.accounts.len() - 1
        });
        let account = &mut self.accounts[slot];
        let carried = bytes.saturating_sub(account.bytes) as f64;
        account.level += carried / f64::from(member.share);
        self.bytes += carried;
        self.requests += elected.saturating_sub(account.elected) as f64;
        (account.bytes, account.elected) = (bytes, elected);
        slot
    }

    /// Who took no part in the last choice begins where the least loaded of the others is.
    fn admit(&mut self, slots: &[usize], now: Moment) {
        let last = self.round;
        let stayed = slots.iter().map(|slot| &self.accounts[*slot]).filter(|account| account.round == last && last > 0);
        let least = stayed.map(|account| account.level).min_by(f64::total_cmp).unwrap_or(0.0);
        self.round += 1;
        for slot in slots {
            let account = &mut self.accounts[*slot];
            if account.round != last {
                account.level = account.level.max(least);
            }
            (account.round, account.at) = (self.round, now);
        }
    }
}

/// The less busy one, in proportion to its share, of two members drawn by share (power of two choices); of equals the first
/// drawn, so that idle members are chosen by share too.
pub(crate) fn less_busy(members: &[Candidate<'_>], one: u64, two: u64) -> Option<usize> {
    let first = draw(members, None, one)?;
    let Some(second) = draw(members, Some(first), two) else { return Some(first) };
    let load = |of: usize, other: usize| members[of].busy as u64 * u64::from(members[other].share);
    Some(if load(second, first) < load(first, second) { second } else { first })
}

/// Draws an index by share, `without` left out.
fn draw(members: &[Candidate<'_>], without: Option<usize>, number: u64) -> Option<usize> {
    let drawn = || members.iter().enumerate().filter(move |(index, _)| Some(*index) != without);
    let total: u64 = drawn().map(|(_, member)| u64::from(member.share)).sum();
    let mut rest = number.checked_rem(total)?;
    for (index, member) in drawn() {
        match rest.checked_sub(u64::from(member.share)) {
            Some(less) => rest = less,
            None => return Some(index),
        }
    }
    None
}

/// The member where a session goes on that has lost its own: the first choice of [`placement`], so every process that sees
/// the same members chooses the same one, and where only some nodes hold a session, one that does.
///
/// By [`Shares::Weighted`] the weights count too, by -w / ln(hash); with equal weights the choice is the same. A slow start
/// counts for nothing here: a balancer that saw no failure would choose otherwise.
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
            share: u32::from(*weight) * FULL,
            busy: 0,
            elected: 0,
            bytes: 0,
        };
        weights.iter().enumerate().map(member).collect()
    }

    #[test]
    fn turns_are_smooth_and_follow_the_weights() {
        let mut round = RoundRobin::default();
        let turns: Vec<_> = (0..7).map(|_| round.pick(&members(&[5, 1, 1]), |_| true).unwrap()).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_member_that_left_does_not_disturb_the_turns() {
        let mut round = RoundRobin::default();
        for _ in 0..5 {
            round.pick(&members(&[1, 1, 1]), |_| true);
        }
        let turns: Vec<_> = (0..4).map(|_| round.pick(&members(&[1, 1]), |_| true).unwrap()).collect();
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
        two[0].share = 100 * FULL;
        two[1] = Candidate { share: FULL, busy: 1, ..two[1] };
        assert_eq!(less_busy(&two, 3, 0), Some(0), "nine requests are little for a member a hundred times as big");
    }

    #[test]
    fn no_member_means_no_choice() {
        assert_eq!(RoundRobin::default().pick(&[], |_| true), None);
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
        let first = |seed| Picker::new(Method::ByRequests, seed).pick(&members(&[50, 50]), Moment(0)).unwrap();
        let begun: Vec<_> = (0..32).map(first).collect();
        assert!(begun.contains(&0) && begun.contains(&1));
    }

    const METHODS: [Method; 4] = [Method::ByRequests, Method::ByTraffic, Method::ByBusyness, Method::LeastConnections];

    /// Members behind a picker, with requests that take a while and carry bytes.
    struct Town {
        members: Vec<Candidate<'static>>,
        /// Who takes part.
        here: [bool; 3],
        picker: Picker,
        draws: Draws,
        /// (when it ends, member, bytes)
        running: Vec<(u64, usize, u64)>,
        now: u64,
        /// The requests that ended, if any run.
        under_way: usize,
    }

    impl Town {
        fn new(method: Method, weights: &[u8], under_way: usize) -> Self {
            let (members, picker) = (members(weights), Picker::new(method, 7));
            Self { members, here: [true; 3], picker, draws: Draws(1), running: vec![], now: 1_000_000, under_way }
        }

        /// One request: its member, and its bytes. As many are under way as the town has, each for 1 to 200 ms.
        fn request(&mut self) -> (usize, u64) {
            while self.running.len() >= self.under_way.max(1) {
                let first = (0..self.running.len()).min_by_key(|index| self.running[*index].0).unwrap();
                let (ends, member, bytes) = self.running.swap_remove(first);
                self.now = self.now.max(ends);
                self.members[member].busy -= 1;
                self.members[member].bytes += bytes;
            }
            let present: Vec<usize> = (0..self.members.len()).filter(|index| self.here[*index]).collect();
            let few: Vec<_> = present.iter().map(|index| self.members[*index]).collect();
            let chosen = present[self.picker.pick(&few, Moment(self.now)).unwrap()];
            let (bytes, lasts) = (self.draws.next() % 20_000, 1 + self.draws.next() % 200);
            let member = &mut self.members[chosen];
            member.elected += 1;
            if self.under_way == 0 {
                member.bytes += bytes;
                self.now += lasts;
            } else {
                member.busy += 1;
                self.running.push((self.now + lasts, chosen, bytes));
            }
            (chosen, bytes)
        }
    }

    impl Town {
        fn run(&mut self, requests: usize) {
            for _ in 0..requests {
                self.request();
            }
        }
    }

    /// Parts of a hundred.
    fn percent(parts: [u64; 3]) -> [f64; 3] {
        let all: u64 = parts.iter().sum();
        parts.map(|part| part as f64 * 100.0 / all as f64)
    }

    #[test]
    fn every_method_holds_its_weights_within_2_percent() {
        for (method, under_way) in [
            (Method::ByRequests, 0),
            (Method::ByRequests, 200),
            (Method::ByTraffic, 0),
            (Method::ByTraffic, 200),
            (Method::ByBusyness, 0),
            (Method::ByBusyness, 200),
            (Method::LeastConnections, 0),
            (Method::LeastConnections, 200),
        ] {
            for weights in [[50, 30, 20], [1, 1, 98], [33, 33, 34], [100, 10, 50]] {
                let (mut town, mut parts) = (Town::new(method, &weights, under_way), [0; 3]);
                for _ in 0..10_000 {
                    let (member, bytes) = town.request();
                    parts[member] += if method == Method::ByTraffic { bytes } else { 1 };
                }
                let wanted = percent(weights.map(u64::from));
                for (got, wanted) in percent(parts).into_iter().zip(wanted) {
                    assert!((got - wanted).abs() <= 2.0, "{method:?} {under_way} {weights:?}: {:?}", percent(parts));
                }
            }
        }
    }

    /// What a member of weight 30 beside 50 and 20 gets of each hundred requests after its return. Its fair part is 30.
    fn after_a_return(method: Method, under_way: usize) -> Vec<usize> {
        let mut town = Town::new(method, &[50, 30, 20], under_way);
        town.run(3_000);
        town.here[1] = false;
        town.run(3_000);
        town.here[1] = true;
        let hundred = |town: &mut Town| (0..100).filter(|_| town.request().0 == 1).count();
        (0..6).map(|_| hundred(&mut town)).collect()
    }

    #[test]
    fn a_member_that_comes_back_gets_its_share_and_no_spike() {
        for (method, under_way) in
            [(Method::ByRequests, 0), (Method::ByRequests, 40), (Method::ByTraffic, 0), (Method::ByBusyness, 0)]
        {
            let windows = after_a_return(method, under_way);
            assert!(windows.iter().all(|part| (22..=38).contains(part)), "{method:?} {under_way}: {windows:?}");
        }
        // Where requests under way count, an idle member gets what comes until it is as busy as the others, and not one
        // request more: 12 of 40. That is what slow start is for.
        for method in [Method::ByTraffic, Method::ByBusyness, Method::LeastConnections] {
            let windows = after_a_return(method, 40);
            assert!(windows[0] <= 30 + 12, "{method:?}: {windows:?}");
            assert!(windows[1..].iter().all(|part| (18..=42).contains(part)), "{method:?}: {windows:?}");
        }
    }

    #[test]
    fn a_cold_member_gets_a_growing_share() {
        for method in METHODS {
            let mut town = Town::new(method, &[50, 30, 20], 200);
            let mut parts = vec![];
            for warmth in [1, 25, 50, 75, FULL] {
                town.members[1].share = 30 * warmth;
                town.run(400);
                parts.push((0..2_000).filter(|_| town.request().0 == 1).count() / 20);
            }
            // 0.3 of 70.3, 7.5 of 77.5, 15 of 85, 22.5 of 92.5, 30 of 100
            for (got, wanted) in parts.iter().zip([0, 9, 17, 24, 30]) {
                assert!(got.abs_diff(wanted) <= 3, "{method:?}: {parts:?}");
            }
        }
    }

    #[test]
    fn a_member_that_carries_much_for_its_sessions_gets_fewer_new_ones_for_a_while() {
        let mut town = Town::new(Method::ByTraffic, &[50, 50, 50], 0);
        town.run(300);
        town.members[0].bytes += 1_000_000;
        let new: Vec<_> = (0..100).map(|_| town.request().0).collect();
        assert!(!new.contains(&0), "{new:?}");
        let half_lives = 8 * limits::TRAFFIC_HALF_LIFE.as_millis() as u64;
        town.now += half_lives;
        let later = (0..300).filter(|_| town.request().0 == 0).count();
        assert!((80..=120).contains(&later), "{later} of 300");
    }

    #[test]
    fn what_is_on_its_way_counts_before_its_bytes_are_known() {
        let mut town = Town::new(Method::ByTraffic, &[50, 50, 50], 0);
        town.run(300);
        town.under_way = 90;
        town.run(90);
        let busy: Vec<_> = town.members.iter().map(|member| member.busy).collect();
        assert!(busy.iter().all(|busy| (28..=32).contains(busy)), "{busy:?}");
    }

    #[test]
    fn the_memory_of_members_that_are_gone_ends() {
        let mut traffic = Traffic::default();
        for life in 0..5_000u64 {
            let mut one = members(&[50]);
            one[0].serial = life;
            traffic.levels(&one, Moment(life * 1_000));
        }
        assert!(traffic.accounts.len() <= 125, "{}", traffic.accounts.len());
    }
}
