//! A name whose addresses are members: all of its A and AAAA records are seeds.
//!
//! The name is looked up for ever, because machines come and go behind it. A look-up that fails forgets nothing: a
//! name server that is away for a while does not split a cluster.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    discovery::Ask,
    seed::{Repeat, Seed},
};
use crate::{limits, time::Moment};

/// One name whose addresses are members.
pub(super) struct Zone {
    name: String,
    lookup: Lookup,
    /// Apart from the asks: an answer that varies must not make the next look-up come sooner.
    lookups: Repeat,
    seeds: BTreeMap<SocketAddr, Seed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    /// The first one has not ended well yet.
    Never,
    Idle,
    Running {
        first: bool,
    },
}

/// What a zone adds to the question whether discovery is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Somebody there has neither answered nor refused, or the name has never been looked up.
    Open,
    /// Everybody there has answered or refused.
    Settled,
    /// Nobody else is there.
    OnlyOwn,
}

impl Zone {
    /// For a `name:port`, to be looked up at once.
    pub(super) fn new(name: &str, now: Moment) -> Self {
        Self { name: name.to_owned(), lookup: Lookup::Never, lookups: Repeat::from(now), seeds: BTreeMap::new() }
    }

    /// The `name:port`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// When [`Zone::ask`] is to be called next.
    pub(super) fn next(&self) -> Moment {
        self.seeds.values().map(Seed::next).fold(self.lookups.next(), Moment::min)
    }

    /// What is to be asked now. `live` are the addresses of the live members, `complete` says whether discovery is.
    pub(super) fn ask(&mut self, now: Moment, live: &[SocketAddr], complete: bool) -> Vec<Ask> {
        let mut asks = Vec::new();
        if self.lookups.is_due(now) && !matches!(self.lookup, Lookup::Running { .. }) {
            self.lookup = Lookup::Running { first: self.lookup == Lookup::Never };
            asks.push(Ask::Resolve(self.name.clone()));
        }
        asks.extend(self.seeds.iter_mut().flat_map(|(address, seed)| seed.ask(*address, now, live, complete)));
        asks
    }

    /// A look-up of this name has ended; without addresses if it failed. `own` is left out, new ones are asked at once.
    pub(super) fn resolved(&mut self, name: &str, addresses: &[SocketAddr], own: SocketAddr, now: Moment) {
        let Lookup::Running { first } = self.lookup else { return };
        if name != self.name {
            return;
        }
        if addresses.is_empty() {
            self.lookup = if first { Lookup::Never } else { Lookup::Idle };
            return;
        }
        self.lookup = Lookup::Idle;
        let others = addresses.iter().filter(|address| **address != own && address.is_ipv4() == own.is_ipv4());
        let seed = |address: &SocketAddr| self.seeds.get(address).copied().unwrap_or(Seed::new(now));
        self.seeds = others.take(limits::ADDRESSES_OF_A_NAME).map(|address| (*address, seed(address))).collect();
    }

    /// The live member at this address has told all it knows.
    pub(super) fn told(&mut self, by: SocketAddr) {
        self.seeds.entry(by).and_modify(Seed::told);
    }

    /// Nobody is at this address now.
    pub(super) fn refused(&mut self, address: SocketAddr) {
        self.seeds.entry(address).and_modify(Seed::refused);
    }

    /// A member at this address is gone: it is asked soon.
    pub(super) fn lost(&mut self, address: SocketAddr, now: Moment) {
        self.seeds.entry(address).and_modify(|seed| seed.lost(now));
    }

    /// How far the search in this zone got.
    pub(super) fn outcome(&self) -> Outcome {
        let never = matches!(self.lookup, Lookup::Never | Lookup::Running { first: true });
        if never || self.seeds.values().any(Seed::is_open) {
            Outcome::Open
        } else if self.seeds.is_empty() {
            Outcome::OnlyOwn
        } else {
            Outcome::Settled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::seed::PAUSE_LAST, *};

    const OWN: u16 = 1;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn zone(ports: &[u16]) -> Zone {
        let mut zone = Zone::new("nodes:4000", Moment(0));
        assert_eq!(zone.ask(Moment(0), &[], false), [Ask::Resolve("nodes:4000".into())]);
        let addresses: Vec<_> = ports.iter().map(|port| at(*port)).collect();
        zone.resolved("nodes:4000", &addresses, at(OWN), Moment(10));
        zone
    }

    #[test]
    fn every_address_of_a_name_is_a_seed_and_has_to_answer() {
        let mut zone = zone(&[1, 2, 3]);
        assert_eq!(zone.next(), Moment(10), "new addresses are asked at once");
        let asks = zone.ask(Moment(10), &[], false);
        for expected in [Ask::Announce(at(2)), Ask::Probe(at(2)), Ask::Announce(at(3)), Ask::Probe(at(3))] {
            assert!(asks.contains(&expected), "{expected:?} is in {asks:?}");
        }
        assert!(!asks.contains(&Ask::Announce(at(OWN))));
        zone.told(at(2));
        assert_eq!(zone.outcome(), Outcome::Open);
        zone.refused(at(3));
        assert_eq!(zone.outcome(), Outcome::Settled);
    }

    /// When the name is looked up, if the answers are these in turn and only 2 is a live member.
    fn look_ups(zone: &mut Zone, answers: &[&[u16]]) -> Vec<Moment> {
        let mut times = Vec::new();
        for _ in 0..200 {
            let now = zone.next();
            if zone.ask(now, &[at(2)], true).contains(&Ask::Resolve("nodes:4000".into())) {
                let answer: Vec<_> = answers[times.len() % answers.len()].iter().map(|port| at(*port)).collect();
                times.push(now);
                zone.resolved("nodes:4000", &answer, at(OWN), now);
            }
        }
        times
    }

    #[test]
    fn a_name_is_looked_up_for_ever_and_not_more_often_than_every_five_seconds() {
        let same: &[&[u16]] = &[&[1, 2]];
        for answers in [same, &[&[2, 3], &[2, 4]], &[&[2, 3, 4], &[4, 2, 3]], &[&[2], &[]]] {
            let times = look_ups(&mut zone(&[1, 2]), answers);
            assert!(times.len() > 20, "{answers:?}: {times:?}");
            assert!(times[..7].windows(2).all(|pair| pair[0] < pair[1]), "{answers:?}: {times:?}");
            let late = times[6..].windows(2);
            assert!(late.into_iter().all(|pair| pair[1].since(pair[0]) == PAUSE_LAST), "{answers:?}: {times:?}");
        }
    }

    #[test]
    fn a_failed_look_up_forgets_nothing_and_a_new_answer_replaces_the_old_one() {
        let mut zone = zone(&[2]);
        assert!(zone.ask(Moment(200), &[], true).contains(&Ask::Resolve("nodes:4000".into())));
        zone.resolved("nodes:4000", &[], at(OWN), Moment(210));
        assert!(zone.ask(Moment(600), &[], true).contains(&Ask::Announce(at(2))));
        zone.resolved("nodes:4000", &[at(3)], at(OWN), Moment(601));
        let asks = zone.ask(Moment(601), &[], true);
        assert!(asks.contains(&Ask::Announce(at(3))) && !asks.contains(&Ask::Announce(at(2))), "{asks:?}");
    }

    #[test]
    fn a_name_that_was_never_found_keeps_the_search_open_and_one_of_nobody_else_does_not() {
        let mut unknown = Zone::new("nodes:4000", Moment(0));
        assert_eq!(unknown.outcome(), Outcome::Open);
        unknown.ask(Moment(0), &[], false);
        unknown.resolved("nodes:4000", &[], at(OWN), Moment(1));
        assert_eq!(unknown.outcome(), Outcome::Open);
        assert_eq!(zone(&[OWN]).outcome(), Outcome::OnlyOwn);
    }

    #[test]
    fn a_name_with_very_many_addresses_does_not_grow_the_memory() {
        let ports: Vec<u16> = (2..2_000).collect();
        assert_eq!(zone(&ports).seeds.len(), limits::ADDRESSES_OF_A_NAME);
    }
}
