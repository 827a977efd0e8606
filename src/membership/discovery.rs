//! Which addresses are asked when, and when whoever has not answered is not there.
//!
//! An ask is one unacknowledged datagram, so it is repeated: for ever, because a cluster that was split heals only
//! if somebody asks, and ever more rarely, because a peer may be gone for good.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::Serialize;

use super::dns::{Outcome, Zone};
use crate::{limits, settings, time::Moment};

/// The first pause between two asks of an absent peer.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// The last one.
pub(super) const PAUSE_LAST: Duration = Duration::from_secs(5);

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
    peers: Vec<Peer>,
    zones: Vec<Zone>,
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

/// One entry of `cluster.peers`.
struct Peer {
    name: String,
    lookup: Lookup,
    addresses: Vec<SocketAddr>,
    refused: Vec<SocketAddr>,
    standing: Standing,
    next: Moment,
    pause: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// The entry is an address.
    Needless,
    Idle,
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Unknown,
    /// This process itself.
    Own,
    Answered,
    /// Nobody was there.
    Refused,
}

struct Asked {
    at: Moment,
    way: Way,
}

impl Discovery {
    /// `multicast` says whether the group could be joined; `own` is left out wherever it is named.
    pub(super) fn new(settings: &settings::Cluster, multicast: bool, own: SocketAddr, now: Moment) -> Self {
        let listed = settings.discovery.contains(&settings::Discovery::Static);
        let names = settings.peers.iter().filter(|_| listed);
        let named = settings.discovery.contains(&settings::Discovery::Dns);
        let zones = settings.dns.iter().filter(|_| named);
        Self {
            own,
            peers: names.map(|name| Peer::new(name, own, now)).collect(),
            zones: zones.map(|name| Zone::new(name, now)).collect(),
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
        let zones = self.zones.iter_mut().filter(|zone| zone.next() <= now);
        let by_name: Vec<_> = zones.flat_map(|zone| zone.ask(now, live, complete)).collect();
        let peers = self.peers.iter_mut().filter(|peer| peer.next <= now);
        let by_list: Vec<_> = peers.flat_map(|peer| peer.ask(now, live, complete)).collect();
        for (way, found) in [(Way::Dns, by_name), (Way::Static, by_list)] {
            for ask in &found {
                if let Ask::Announce(address) = ask {
                    self.note(*address, way, now);
                }
            }
            asks.extend(found);
        }
        asks
    }

    /// When [`Discovery::due`] or [`Discovery::settle`] has something to do next.
    pub(super) fn next(&self) -> Option<Moment> {
        let deadline = (!self.is_complete()).then_some(self.deadline);
        let seeds = self.peers.iter().map(|peer| peer.next).chain(self.zones.iter().map(Zone::next));
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
        for peer in self.peers.iter_mut().filter(|peer| peer.addresses.contains(&by)) {
            peer.standing = Standing::Answered;
        }
        self.zones.iter_mut().for_each(|zone| zone.told(by));
        if self.progress == Progress::Waiting {
            self.progress = Progress::Told;
        }
    }

    /// Nobody is at this address now.
    pub(super) fn refused(&mut self, address: SocketAddr) {
        for peer in self.peers.iter_mut().filter(|peer| peer.addresses.contains(&address)) {
            if !peer.refused.contains(&address) {
                peer.refused.push(address);
            }
            peer.judge();
        }
        self.zones.iter_mut().for_each(|zone| zone.refused(address));
    }

    /// A look-up has ended; without addresses if it failed.
    pub(super) fn resolved(&mut self, name: &str, addresses: &[SocketAddr], now: Moment) {
        let own = self.own;
        for peer in self.peers.iter_mut().filter(|peer| peer.name == name && peer.lookup == Lookup::Running) {
            peer.lookup = Lookup::Idle;
            peer.found(addresses, own, now);
        }
        self.zones.iter_mut().for_each(|zone| zone.resolved(name, addresses, own, now));
    }

    /// A member at this address is gone: it is asked soon.
    pub(super) fn lost(&mut self, address: SocketAddr, now: Moment) {
        for peer in self.peers.iter_mut().filter(|peer| peer.addresses.contains(&address)) {
            (peer.next, peer.pause) = (now + PAUSE_FIRST, PAUSE_FIRST);
        }
        self.zones.iter_mut().for_each(|zone| zone.lost(address, now));
    }

    /// How the member at this address, which has just appeared, was found.
    pub(super) fn way(&self, address: SocketAddr, now: Moment) -> Way {
        let recent = self.asked.get(&address).filter(|asked| now.since(asked.at) <= CREDIT);
        recent.map_or(Way::Introduced, |asked| asked.way)
    }

    /// Looks again whether discovery is complete. To be called when the roster holds everybody heard of so far.
    pub(super) fn settle(&mut self, now: Moment) {
        let listed = self.peers.iter().filter(|peer| peer.standing != Standing::Own);
        let listed = listed.map(|peer| peer.standing != Standing::Unknown);
        let named = self.zones.iter().map(Zone::outcome).filter(|outcome| *outcome != Outcome::OnlyOwn);
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

impl Peer {
    fn new(name: &str, own: SocketAddr, now: Moment) -> Self {
        let mut peer = Self {
            name: name.to_owned(),
            lookup: Lookup::Idle,
            addresses: Vec::new(),
            refused: Vec::new(),
            standing: Standing::Unknown,
            next: now,
            pause: PAUSE_FIRST,
        };
        if let Ok(address) = name.parse() {
            peer.found(&[address], own, now);
            peer.lookup = Lookup::Needless;
        }
        peer
    }

    fn found(&mut self, addresses: &[SocketAddr], own: SocketAddr, now: Moment) {
        if addresses.contains(&own) {
            self.standing = Standing::Own;
        }
        let reachable = addresses.iter().filter(|address| address.is_ipv4() == own.is_ipv4());
        let reachable: Vec<_> = reachable.take(limits::ADDRESSES_OF_A_PEER).copied().collect();
        if !reachable.is_empty() && reachable != self.addresses {
            (self.addresses, self.next, self.pause) = (reachable, now, PAUSE_FIRST);
            self.refused.retain(|address| self.addresses.contains(address));
        }
    }

    fn ask(&mut self, now: Moment, live: &[SocketAddr], complete: bool) -> Vec<Ask> {
        let member = self.addresses.iter().any(|address| live.contains(address));
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_LAST);
        if self.standing == Standing::Own || (member && (complete || self.standing == Standing::Answered)) {
            self.next = now + PAUSE_LAST;
            return Vec::new();
        }
        let mut asks = Vec::new();
        if self.lookup == Lookup::Idle {
            self.lookup = Lookup::Running;
            asks.push(Ask::Resolve(self.name.clone()));
        }
        asks.extend(self.addresses.iter().map(|address| Ask::Announce(*address)));
        if !complete && self.standing == Standing::Unknown {
            asks.extend(self.addresses.iter().map(|address| Ask::Probe(*address)));
        }
        asks
    }

    fn judge(&mut self) {
        let all = self.addresses.iter().all(|address| self.refused.contains(address));
        if self.standing == Standing::Unknown && all {
            self.standing = Standing::Refused;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
