//! Which addresses are asked when, and when whoever has not answered is not there.
//!
//! An ask is one unacknowledged datagram, so it is repeated: for ever, because a cluster that was split heals only
//! if somebody asks, and ever more rarely, because a peer may be gone for good.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::Serialize;

use super::{
    dns::{Outcome, Zone},
    seed::Seed,
};
use crate::{limits, settings, time::Moment};

/// Tomcat's frequency of multicast heartbeats.
const BEACON_PERIOD: Duration = Duration::from_millis(500);

/// A member that shows up this long after it was asked was found by that ask.
const CREDIT: Duration = Duration::from_secs(10);

/// How a member was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// It stands in `cluster.peers`.
    Static,
    /// A name of `cluster.dns` has its address.
    Dns,
    /// Its beacon was heard.
    Multicast,
    /// It came by itself, or another member told of it.
    Introduced,
}

/// What is to be done to find members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Announce this process to whoever is at the address.
    Announce(SocketAddr),
    /// See whether anybody is at the address.
    Probe(SocketAddr),
    /// Look the host name of a `host:port` up.
    Resolve(String),
    /// Send a beacon to the group.
    Beacon,
}

/// What is known about where members may be.
pub(super) struct Discovery {
    own: SocketAddr,
    /// The addresses in `cluster.peers`; this process itself is left out.
    peers: BTreeMap<SocketAddr, Seed>,
    /// The names there, and those in `cluster.dns`.
    zones: Vec<(Way, Zone)>,
    beacon: Option<Moment>,
    asked: BTreeMap<SocketAddr, Asked>,
    deadline: Moment,
    progress: Progress,
}

/// How far discovery got. It does not go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    /// A member has told all it knows.
    Told,
    Complete,
}

struct Asked {
    at: Moment,
    way: Way,
}

impl Discovery {
    /// `multicast` says whether the group could be joined; `own` is left out wherever it is named.
    pub(super) fn new(settings: &settings::Cluster, multicast: bool, own: SocketAddr, now: Moment) -> Self {
        let entries = |way, list| settings.discovery.contains(&way).then_some(list).into_iter().flatten();
        let listed: Vec<&String> = entries(settings::Discovery::Static, &settings.peers).collect();
        let addresses = listed.iter().filter_map(|entry| literal(entry)).filter(|address| *address != own);
        let names = listed.iter().filter(|entry| literal(entry).is_none()).map(|name| (Way::Static, *name));
        let zones = entries(settings::Discovery::Dns, &settings.dns).map(|name| (Way::Dns, name));
        Self {
            own,
            peers: addresses.map(|address| (address, Seed::new(now))).collect(),
            zones: names.chain(zones).map(|(way, name)| (way, Zone::new(name, now))).collect(),
            beacon: multicast.then_some(now),
            asked: BTreeMap::new(),
            deadline: now + settings.discovery_timeout,
            progress: Progress::Waiting,
        }
    }

    /// What is to be asked now. `live` are the addresses of the live members.
    pub(super) fn due(&mut self, now: Moment, live: &[SocketAddr]) -> Vec<Ask> {
        let mut asks = Vec::new();
        if let Some(beacon) = self.beacon.as_mut().filter(|due| **due <= now) {
            *beacon = now + BEACON_PERIOD;
            asks.push(Ask::Beacon);
        }
        let complete = self.is_complete();
        let listed = self.peers.iter_mut();
        let listed = listed.flat_map(|(address, seed)| seed.ask(*address, now, live, complete));
        let mut found: Vec<_> = listed.map(|ask| (Way::Static, ask)).collect();
        for (way, zone) in &mut self.zones {
            found.extend(zone.ask(now, live, complete).into_iter().map(|ask| (*way, ask)));
        }
        for (way, ask) in found {
            if let Ask::Announce(address) = ask {
                self.note(address, way, now);
            }
            asks.push(ask);
        }
        asks
    }

    /// When [`Discovery::due`] or [`Discovery::settle`] has something to do next.
    pub(super) fn next(&self) -> Option<Moment> {
        let deadline = (!self.is_complete()).then_some(self.deadline);
        let seeds = self.peers.values().map(Seed::next).chain(self.zones.iter().map(|(_, zone)| zone.next()));
        seeds.chain(self.beacon).chain(deadline).min()
    }

    /// A beacon of somebody who is no live member came from this address.
    pub(super) fn beacon_heard(&mut self, from: SocketAddr, now: Moment) -> Option<Ask> {
        let asked_just_now = |asked: &Asked| asked.way == Way::Multicast && now.since(asked.at) < BEACON_PERIOD / 2;
        if from == self.own || self.asked.get(&from).is_some_and(asked_just_now) {
            return None;
        }
        self.note(from, Way::Multicast, now);
        Some(Ask::Announce(from))
    }

    /// A member came unasked. As long as discovery is not complete it is asked for what it knows.
    pub(super) fn introduced(&self, address: SocketAddr) -> Option<Ask> {
        (!self.is_complete()).then_some(Ask::Announce(address))
    }

    /// The live member at this address has told all it knows.
    pub(super) fn told(&mut self, by: SocketAddr) {
        self.peers.entry(by).and_modify(Seed::told);
        self.zones.iter_mut().for_each(|(_, zone)| zone.told(by));
        if self.progress == Progress::Waiting {
            self.progress = Progress::Told;
        }
    }

    /// Nobody is at this address now.
    pub(super) fn refused(&mut self, address: SocketAddr) {
        self.peers.entry(address).and_modify(Seed::refused);
        self.zones.iter_mut().for_each(|(_, zone)| zone.refused(address));
    }

    /// A look-up has ended; without addresses if it failed.
    pub(super) fn resolved(&mut self, name: &str, addresses: &[SocketAddr], now: Moment) {
        let own = self.own;
        self.zones.iter_mut().for_each(|(_, zone)| zone.resolved(name, addresses, own, now));
    }

    /// The setting in which this name stands.
    pub(super) fn key(&self, name: &str) -> &'static str {
        let listed = self.zones.iter().any(|(way, zone)| *way == Way::Static && zone.name() == name);
        if listed { "cluster.peers" } else { "cluster.dns" }
    }

    /// A member at this address is gone: it is asked soon.
    pub(super) fn lost(&mut self, address: SocketAddr, now: Moment) {
        self.peers.entry(address).and_modify(|seed| seed.lost(now));
        self.zones.iter_mut().for_each(|(_, zone)| zone.lost(address, now));
    }

    /// How the member at this address, which has just appeared, was found.
    pub(super) fn way(&self, address: SocketAddr, now: Moment) -> Way {
        let recent = self.asked.get(&address).filter(|asked| now.since(asked.at) <= CREDIT);
        recent.map_or(Way::Introduced, |asked| asked.way)
    }

    /// Looks again whether discovery is complete. To be called when the roster holds everybody heard of so far.
    pub(super) fn settle(&mut self, now: Moment) {
        let listed = self.peers.values().map(|seed| !seed.is_open());
        let named = self.zones.iter().map(|(_, zone)| zone.outcome()).filter(|outcome| *outcome != Outcome::OnlyOwn);
        let mut others = listed.chain(named.map(|outcome| outcome == Outcome::Settled)).peekable();
        let settled = match others.peek() {
            Some(_) => others.all(|settled| settled),
            None => self.beacon.is_none() || self.progress == Progress::Told,
        };
        if settled || now >= self.deadline {
            self.progress = Progress::Complete;
        }
    }

    /// Every peer has answered or refused, or the time is over.
    pub(super) fn is_complete(&self) -> bool {
        self.progress == Progress::Complete
    }

    fn note(&mut self, address: SocketAddr, way: Way, now: Moment) {
        if self.asked.len() >= limits::HEARD_ADDRESSES && !self.asked.contains_key(&address) {
            let oldest = self.asked.iter().min_by_key(|(_, asked)| asked.at).map(|(address, _)| *address);
            oldest.and_then(|address| self.asked.remove(&address));
        }
        self.asked.insert(address, Asked { at: now, way });
    }
}

/// The address that an entry of `cluster.peers` is; none for a name. As on the wire, IPv4 is never written as IPv6.
fn literal(entry: &str) -> Option<SocketAddr> {
    let address: SocketAddr = entry.parse().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::seed::PAUSE_LAST, *};

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn discovery(peers: &[&str], multicast: bool) -> Discovery {
        let settings = settings::Cluster {
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
            discovery_timeout: Duration::from_secs(3),
            ..settings::Cluster::default()
        };
        Discovery::new(&settings, multicast, at(1), Moment(0))
    }

    fn is_complete_at(discovery: &mut Discovery, now: u64) -> bool {
        discovery.settle(Moment(now));
        discovery.is_complete()
    }

    #[test]
    fn an_absent_peer_is_asked_for_ever_and_ever_more_rarely() {
        let mut discovery = discovery(&["127.0.0.1:2"], false);
        let mut times = Vec::new();
        while times.len() < 8 {
            let now = discovery.next().unwrap();
            let asks = discovery.due(now, &[]);
            discovery.settle(now);
            if asks.contains(&Ask::Announce(at(2))) {
                times.push(now.0);
            }
        }
        assert_eq!(times, [0, 200, 600, 1_400, 3_000, 6_200, 11_200, 16_200]);
    }

    #[test]
    fn an_ipv4_peer_that_is_written_as_ipv6_is_asked_where_it_is() {
        let mut discovery = discovery(&["[::ffff:127.0.0.1]:2", "[::ffff:127.0.0.1]:1"], false);
        assert_eq!(discovery.due(Moment(0), &[]), [Ask::Announce(at(2)), Ask::Probe(at(2))]);
    }

    #[test]
    fn a_member_is_not_asked_again_until_it_is_lost() {
        let mut discovery = discovery(&["127.0.0.1:2"], false);
        discovery.due(Moment(0), &[]);
        discovery.told(at(2));
        assert!(is_complete_at(&mut discovery, 1));
        for now in [200, 5_200, 10_200] {
            assert_eq!(discovery.due(Moment(now), &[at(2)]), []);
        }
        discovery.lost(at(2), Moment(11_000));
        assert_eq!(discovery.due(Moment(11_199), &[]), []);
        assert_eq!(discovery.due(Moment(11_200), &[]), [Ask::Announce(at(2))]);
    }

    #[test]
    fn every_peer_must_have_answered_or_refused() {
        let mut discovery = discovery(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], false);
        assert!(!is_complete_at(&mut discovery, 0));
        discovery.refused(at(2));
        assert!(!is_complete_at(&mut discovery, 1));
        discovery.told(at(3));
        assert!(is_complete_at(&mut discovery, 1));
    }

    #[test]
    fn whoever_has_no_peers_waits_for_an_answer_to_its_beacon() {
        assert!(is_complete_at(&mut discovery(&[], false), 0), "nobody can be found");
        for own_or_none in [&[][..], &["127.0.0.1:1"]] {
            let mut discovery = discovery(own_or_none, true);
            assert!(!is_complete_at(&mut discovery, 2_999));
            discovery.told(at(9));
            assert!(is_complete_at(&mut discovery, 2_999));
        }
        assert!(is_complete_at(&mut discovery(&[], true), 3_000), "the time is over");
    }

    #[test]
    fn a_name_is_looked_up_once_at_a_time_and_refuses_when_all_its_addresses_do() {
        let mut discovery = discovery(&["host:2"], false);
        assert_eq!(discovery.due(Moment(0), &[]), [Ask::Resolve("host:2".into())]);
        assert_eq!(discovery.due(Moment(200), &[]), [], "the look-up is under way");
        let other_family = "[::1]:2".parse().unwrap();
        discovery.resolved("host:2", &[other_family, at(2), at(3)], Moment(300));
        let asks = discovery.due(Moment(300), &[]);
        assert!(asks.contains(&Ask::Probe(at(2))) && asks.contains(&Ask::Announce(at(3))), "{asks:?}");
        assert!(!asks.contains(&Ask::Announce(other_family)), "a socket of one family cannot reach the other");
        discovery.refused(at(2));
        assert!(!is_complete_at(&mut discovery, 301));
        discovery.refused(at(3));
        assert!(is_complete_at(&mut discovery, 301));
    }

    #[test]
    fn a_name_that_is_this_process_is_left_out() {
        let mut discovery = discovery(&["host:1"], false);
        discovery.due(Moment(0), &[]);
        discovery.resolved("host:1", &[at(1)], Moment(1));
        assert!(is_complete_at(&mut discovery, 1));
        assert_eq!(discovery.due(Moment(1), &[]), []);
    }

    #[test]
    fn a_name_is_looked_up_on_while_a_member_is_at_one_of_its_addresses() {
        let mut discovery = discovery(&["host:1"], false);
        let answers = [&[at(1), at(2)][..], &[at(2), at(3)], &[at(3), at(2)], &[at(4), at(3)]];
        let mut look_ups = Vec::new();
        let mut asked = BTreeSet::new();
        while look_ups.len() < 20 {
            let now = discovery.next().unwrap();
            for ask in discovery.due(now, &[at(2)]) {
                match ask {
                    Ask::Resolve(name) => {
                        discovery.resolved(&name, answers[look_ups.len() % answers.len()], now);
                        look_ups.push(now);
                    }
                    Ask::Announce(address) => drop(asked.insert(address)),
                    _ => {}
                }
            }
            discovery.settle(now);
        }
        assert!(look_ups[7..].windows(2).all(|pair| pair[1].since(pair[0]) == PAUSE_LAST), "{look_ups:?}");
        assert!(asked.contains(&at(3)) && asked.contains(&at(4)) && !asked.contains(&at(1)), "{asked:?}");
    }

    #[test]
    fn the_latest_ask_gets_the_credit() {
        let mut discovery = discovery(&["127.0.0.1:2"], true);
        assert_eq!(discovery.way(at(2), Moment(0)), Way::Introduced);
        discovery.due(Moment(0), &[]);
        assert_eq!(discovery.way(at(2), Moment(1)), Way::Static);
        assert_eq!(discovery.beacon_heard(at(2), Moment(50)), Some(Ask::Announce(at(2))));
        assert_eq!(discovery.beacon_heard(at(2), Moment(60)), None, "one ask for each beacon period");
        assert_eq!(discovery.way(at(2), Moment(60)), Way::Multicast);
        assert_eq!(discovery.way(at(2), Moment(10_051)), Way::Introduced);
    }

    #[test]
    fn beacons_from_everywhere_do_not_grow_the_memory() {
        let mut discovery = discovery(&[], true);
        for port in 2..5_000 {
            discovery.beacon_heard(at(port), Moment(u64::from(port)));
        }
        assert_eq!(discovery.asked.len(), limits::HEARD_ADDRESSES);
        assert_eq!(discovery.way(at(4_999), Moment(5_000)), Way::Multicast);
    }
}
