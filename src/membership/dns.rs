//! A name whose addresses are members: all of its A and AAAA records are seeds.
//!
//! The name is looked up for ever, because machines come and go behind it. A look-up that fails forgets nothing: a
//! name server that is away for a while does not split a cluster.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::discovery::{Ask, PAUSE_FIRST, PAUSE_LAST};
use crate::{limits, time::Moment};

/// One entry of `cluster.dns`.
pub(super) struct Zone {
    name: String,
    lookup: Lookup,
    seeds: BTreeMap<SocketAddr, Standing>,
    next: Moment,
    pause: Duration,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Unknown,
    Answered,
    /// Nobody was there.
    Refused,
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
        Self { name: name.to_owned(), lookup: Lookup::Never, seeds: BTreeMap::new(), next: now, pause: PAUSE_FIRST }
    }

    /// When [`Zone::ask`] is to be called next.
    pub(super) fn next(&self) -> Moment {
        self.next
    }

    /// What is to be asked now. `live` are the addresses of the live members, `complete` says whether discovery is.
    pub(super) fn ask(&mut self, now: Moment, live: &[SocketAddr], complete: bool) -> Vec<Ask> {
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_LAST);
        let mut asks = Vec::new();
        if !matches!(self.lookup, Lookup::Running { .. }) {
            self.lookup = Lookup::Running { first: self.lookup == Lookup::Never };
            asks.push(Ask::Resolve(self.name.clone()));
        }
        for (address, standing) in &self.seeds {
            let waited_for = !complete && *standing == Standing::Unknown;
            if waited_for || !live.contains(address) {
                asks.push(Ask::Announce(*address));
            }
            asks.extend(waited_for.then_some(Ask::Probe(*address)));
        }
        asks
    }

    /// A look-up of this name has ended; without addresses if it failed. `own` is left out.
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
        let others = others.take(limits::ADDRESSES_OF_A_NAME);
        let standing = |address: &SocketAddr| self.seeds.get(address).copied().unwrap_or(Standing::Unknown);
        let seeds: BTreeMap<_, _> = others.map(|address| (*address, standing(address))).collect();
        if seeds.keys().any(|address| !self.seeds.contains_key(address)) {
            (self.next, self.pause) = (now, PAUSE_FIRST);
        }
        self.seeds = seeds;
    }

    /// The live member at this address has told all it knows.
    pub(super) fn told(&mut self, by: SocketAddr) {
        self.seeds.entry(by).and_modify(|standing| *standing = Standing::Answered);
    }

    /// Nobody is at this address now.
    pub(super) fn refused(&mut self, address: SocketAddr) {
        let known = self.seeds.get_mut(&address).filter(|standing| **standing == Standing::Unknown);
        known.into_iter().for_each(|standing| *standing = Standing::Refused);
    }

    /// A member at this address is gone: it is asked soon.
    pub(super) fn lost(&mut self, address: SocketAddr, now: Moment) {
        if self.seeds.contains_key(&address) {
            (self.next, self.pause) = (now + PAUSE_FIRST, PAUSE_FIRST);
        }
    }

    /// How far the search in this zone got.
    pub(super) fn outcome(&self) -> Outcome {
        let never = matches!(self.lookup, Lookup::Never | Lookup::Running { first: true });
        if never || self.seeds.values().any(|standing| *standing == Standing::Unknown) {
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
    use super::*;

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

    #[test]
    fn a_name_is_looked_up_for_ever_and_not_more_often_than_every_five_seconds() {
        let mut zone = zone(&[1, 2]);
        let mut times = Vec::new();
        for _ in 0..12 {
            let now = zone.next();
            if zone.ask(now, &[at(2)], true).contains(&Ask::Resolve("nodes:4000".into())) {
                times.push(now);
            }
            zone.resolved("nodes:4000", &[at(1), at(2)], at(OWN), now);
        }
        assert_eq!(times.len(), 12);
        assert!(times.windows(2).skip(6).all(|pair| pair[1].since(pair[0]) == PAUSE_LAST), "{times:?}");
    }

    #[test]
    fn a_failed_look_up_forgets_nothing_and_a_new_answer_replaces_the_old_one() {
        let mut zone = zone(&[2]);
        zone.ask(Moment(10), &[], true);
        zone.resolved("nodes:4000", &[], at(OWN), Moment(20));
        assert!(zone.ask(Moment(500), &[], true).contains(&Ask::Announce(at(2))));
        zone.resolved("nodes:4000", &[at(3)], at(OWN), Moment(501));
        let asks = zone.ask(Moment(501), &[], true);
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
