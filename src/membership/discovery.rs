//! Which addresses are asked when, and when whoever has not answered is not there.
//!
//! An ask is one unacknowledged datagram, so it is repeated: for ever, because a cluster that was split heals only
//! if somebody asks, and ever more rarely, because a peer may be gone for good.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::Serialize;

use crate::{limits, settings, time::Moment};

/// The first pause between two asks of an absent peer.
const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// The last one.
const PAUSE_LAST: Duration = Duration::from_secs(5);

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
        Self {
            own,
            peers: names.map(|name| Peer::new(name, own, now)).collect(),
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
        for peer in self.peers.iter_mut().filter(|peer| peer.next <= now) {
            asks.extend(peer.ask(now, live, complete));
        }
        for ask in &asks {
            if let Ask::Announce(address) = ask {
                self.note(*address, Way::Static, now);
            }
        }
        asks
    }

    /// When [`Discovery::due`] or [`Discovery::settle`] has something to do next.
    pub(super) fn next(&self) -> Option<Moment> {
        let deadline = (!self.is_complete()).then_some(self.deadline);
        self.peers.iter().map(|peer| peer.next).chain(self.beacon).chain(deadline).min()
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
    }

    /// A look-up has ended; without addresses if it failed.
    pub(super) fn resolved(&mut self, name: &str, addresses: &[SocketAddr], now: Moment) {
        let own = self.own;
        for peer in self.peers.iter_mut().filter(|peer| peer.name == name && peer.lookup == Lookup::Running) {
            peer.lookup = Lookup::Idle;
            peer.found(addresses, own, now);
        }
    }

    /// A member at this address is gone: it is asked soon.
    pub(super) fn lost(&mut self, address: SocketAddr, now: Moment) {
        for peer in self.peers.iter_mut().filter(|peer| peer.addresses.contains(&address)) {
            (peer.next, peer.pause) = (now + PAUSE_FIRST, PAUSE_FIRST);
        }
    }

    /// How the member at this address, which has just appeared, was found.
    pub(super) fn way(&self, address: SocketAddr, now: Moment) -> Way {
        let recent = self.asked.get(&address).filter(|asked| now.since(asked.at) <= CREDIT);
        recent.map_or(Way::Introduced, |asked| asked.way)
    }

    /// Looks again whether discovery is complete. To be called when the roster holds everybody heard of so far.
    pub(super) fn settle(&mut self, now: Moment) {
        let mut others = self.peers.iter().filter(|peer| peer.standing != Standing::Own).peekable();
        let settled = match others.peek() {
            Some(_) => others.all(|peer| peer.standing != Standing::Unknown),
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
