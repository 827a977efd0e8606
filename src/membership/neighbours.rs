//! Everything membership decides, in one step function: an input and the time go in, what is to be done comes out.
//!
//! It joins the protocol (`swim`), the search (`discovery`) and the wrapping (`datagram`), and keeps the roster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use foca::{Identity as _, State};
use rand::rngs::StdRng;

use super::{
    Duty, Member, Role, Roster, Way,
    datagram::{Envelope, Kind, Refused},
    discovery::{Ask, Discovery},
    identity::Identity,
    report::{Datagrams, MemberReport, MemberState, Report},
    seal::Seal,
    strangers::{Dropped, Strangers},
    swim::{Heard, Swim},
};
use crate::{limits, names::NodeId, settings, time::Moment};

/// An alarm this late means that the process was held up (a pause, a starved machine) ...
const HELD_UP: Duration = Duration::from_millis(250);

/// ... and that answers wait to be read: this long no silence is held against anybody.
const READ_FIRST: Duration = Duration::from_millis(20);

/// What happened.
#[derive(Debug)]
pub(super) enum Input<'a> {
    /// [`Neighbours::next`] has come.
    Tick,
    /// A datagram, to this process or to the group.
    Datagram { from: SocketAddr, bytes: &'a [u8] },
    /// A probe was refused: nobody is at the address.
    ProbeRefused(SocketAddr),
    /// A look-up has ended; without addresses if it failed.
    Resolved { name: &'a str, addresses: &'a [SocketAddr] },
    /// This node wants to be asked for something else.
    SetDuty(Duty),
    /// The link to this member was reset, and nobody accepts a new one.
    LinkBroken(NodeId),
    /// This process leaves for good. Nothing comes out of later inputs.
    Leave,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Output {
    /// Send a datagram.
    Send { to: SocketAddr, bytes: Vec<u8> },
    /// Send a datagram to the group.
    Beacon { bytes: Vec<u8> },
    /// Send a datagram from a connected socket and say when it is refused.
    Probe { to: SocketAddr, bytes: Vec<u8> },
    /// Look a `host:port` up; must be answered by [`Input::Resolved`].
    Resolve(String),
    /// Tell every subscriber.
    Publish(Arc<Roster>),
    /// Tell the administrator.
    Tell(News),
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Found {
        member: Member,
        way: Way,
    },
    Gone {
        member: Member,
        why: Why,
    },
    /// Of somebody who is not listened to.
    Dropped(Dropped),
    /// A name in this setting that has no address now.
    Unresolved {
        key: &'static str,
        name: String,
    },
}

/// Why a member is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It said so.
    Left,
    /// It did not answer.
    Silent,
    /// Its replication link broke.
    LinkBroken,
    /// A new process has taken its address.
    Replaced,
    /// Another member said so.
    Reported,
}

/// The members as this process sees them.
pub(super) struct Neighbours {
    envelope: Envelope,
    swim: Swim,
    discovery: Discovery,
    roster: Arc<Roster>,
    found: BTreeMap<SocketAddr, Way>,
    strangers: Strangers,
    unresolved: BTreeMap<String, Moment>,
    datagrams: Datagrams,
    presence: Presence,
    reading_until: Option<Moment>,
}

/// Whether a datagram reached the protocol.
enum Taken {
    /// Members that are gone afterwards are gone for this reason.
    Yes(Why),
    No,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Left,
}

impl Neighbours {
    /// To be followed by [`Input::Tick`]. `multicast` says whether the group could be joined.
    pub(super) fn new(
        settings: &settings::Cluster,
        seal: Option<Seal>,
        multicast: bool,
        me: Identity,
        rng: StdRng,
        now: Moment,
    ) -> Self {
        Self {
            envelope: Envelope::new(&settings.name, seal),
            discovery: Discovery::new(settings, multicast, me.addr(), now),
            swim: Swim::new(me, rng, now),
            roster: Arc::default(),
            found: BTreeMap::new(),
            strangers: Strangers::default(),
            unresolved: BTreeMap::new(),
            datagrams: Datagrams::default(),
            presence: Presence::Here,
            reading_until: None,
        }
    }

    /// Takes one input.
    pub(super) fn handle(&mut self, input: Input<'_>, now: Moment) -> Vec<Output> {
        if self.presence == Presence::Left {
            return Vec::new();
        }
        let was_held_up = self.reading_until.is_some();
        self.notice_hold_up(now);
        let mut outputs = Vec::new();
        let why = match input {
            Input::Tick => {
                if self.reading_until.is_none() {
                    self.swim.tick(now);
                }
                Why::Silent
            }
            Input::Datagram { from, bytes } => match self.datagram(from, bytes, now) {
                Taken::Yes(why) => why,
                // Nothing has changed, and there may be very many of them.
                Taken::No if !was_held_up => {
                    self.tell_strangers(now, &mut outputs);
                    return outputs;
                }
                Taken::No => Why::Reported,
            },
            Input::ProbeRefused(address) => {
                self.discovery.refused(address);
                Why::Reported
            }
            Input::Resolved { name, addresses } => {
                self.discovery.resolved(name, addresses, now);
                self.note_resolved(name, addresses, now, &mut outputs);
                Why::Reported
            }
            Input::SetDuty(duty) => {
                self.swim.change_duty(duty, now);
                Why::Reported
            }
            Input::LinkBroken(id) => {
                self.swim.declare_down(id, now);
                Why::LinkBroken
            }
            Input::Leave => {
                self.leave(&mut outputs);
                return outputs;
            }
        };
        self.finish(why, now, &mut outputs);
        outputs
    }

    /// When [`Input::Tick`] is to be given next; none after it left.
    pub(super) fn next(&self) -> Option<Moment> {
        (self.presence == Presence::Here).then(|| self.reading_until.unwrap_or(self.due()))
    }

    /// The roster as it was last published.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// How it is.
    pub(super) fn report(&self) -> Report {
        let report = |member: &foca::Member<Identity>| MemberReport {
            member: member.id().member.clone(),
            started_unix_ms: member.id().started,
            state: match member.state() {
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down => MemberState::Down,
            },
            found: self.found.get(&member.id().addr()).copied(),
        };
        let mut members: Vec<_> = self.swim.remembered().map(report).collect();
        members.sort_by_key(|report| report.member.address);
        Report { members, discovered: self.roster.discovered, datagrams: self.datagrams }
    }

    fn due(&self) -> Moment {
        self.discovery.next().map_or(self.swim.next(), |next| next.min(self.swim.next()))
    }

    fn notice_hold_up(&mut self, now: Moment) {
        self.reading_until = match self.reading_until {
            Some(end) if now < end => Some(end),
            Some(_) => {
                // Here and not only at the alarm: under steady traffic another input might always come first.
                self.swim.tick(now);
                None
            }
            None => (now.since(self.due()) > HELD_UP).then_some(now + READ_FIRST),
        };
    }

    fn datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Moment) -> Taken {
        self.datagrams.received += 1;
        let refused = match self.judge(from, bytes, now) {
            Ok(why) => return Taken::Yes(why),
            Err(refused) => refused,
        };
        self.datagrams.refused += 1;
        self.strangers.note(refused, from);
        match refused {
            Refused::OtherCluster => self.datagrams.other_cluster += 1,
            Refused::Unsealed => self.datagrams.unsealed += 1,
            Refused::Replayed => self.datagrams.replayed += 1,
            Refused::FromNetwork | Refused::Version(_) | Refused::Sealed => {}
            // What is inside was looked at: the protocol may have moved.
            Refused::Malformed | Refused::Forged { .. } | Refused::Flood => return Taken::Yes(Why::Reported),
        }
        Taken::No
    }

    fn tell_strangers(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        outputs.extend(self.strangers.due(now).into_iter().map(News::Dropped).map(Output::Tell));
    }

    fn note_resolved(&mut self, name: &str, addresses: &[SocketAddr], now: Moment, outputs: &mut Vec<Output>) {
        if !addresses.is_empty() {
            self.unresolved.remove(name);
        } else if self.unresolved.get(name).is_none_or(|told| now.since(*told) >= limits::UNRESOLVED_LINE) {
            // Only names of the settings are looked up.
            self.unresolved.insert(name.to_owned(), now);
            let key = self.discovery.key(name);
            outputs.push(Output::Tell(News::Unresolved { key, name: name.to_owned() }));
        }
    }

    /// Takes what a datagram says. A member that is gone afterwards is gone for the reason returned, unless it was
    /// the sender, who can only have left.
    fn judge(&mut self, from: SocketAddr, bytes: &[u8], now: Moment) -> Result<Why, Refused> {
        self.envelope.admit(from)?;
        let (kind, body) = self.envelope.unwrap(bytes)?;
        match kind {
            Kind::Gossip => {
                if self.swim.receive(from, &body, now)? == Heard::List {
                    self.discovery.told(from);
                }
            }
            Kind::Beacon => self.beacon(from, &body, now)?,
            Kind::Probe => {}
            Kind::Leave => {
                let identity = Identity::from_bytes(&body).map_err(|_| Refused::Malformed)?;
                if identity.addr() != from {
                    return Err(Refused::Forged { claimed: identity.addr() });
                }
                self.swim.farewell(identity, now);
                return Ok(Why::Left);
            }
        }
        Ok(Why::Reported)
    }

    fn beacon(&mut self, from: SocketAddr, body: &[u8], now: Moment) -> Result<(), Refused> {
        let id = NodeId(u64::from_be_bytes(body.try_into().map_err(|_| Refused::Malformed)?));
        let known = id == self.swim.me().member.id || self.swim.live().any(|live| live.member.id == id);
        if !known && let Some(Ask::Announce(to)) = self.discovery.beacon_heard(from, now) {
            self.swim.announce(to, now);
        }
        Ok(())
    }

    /// Tells every member twice: nobody is left to repeat a lost farewell.
    fn leave(&mut self, outputs: &mut Vec<Output>) {
        let farewell = self.swim.me().to_bytes();
        let live: Vec<_> = self.swim.live().map(|live| live.addr()).collect();
        live.repeat(2).into_iter().for_each(|to| self.send(to, Kind::Leave, &farewell, outputs));
        self.presence = Presence::Left;
    }

    /// Follows an input up: the roster, the search, the messages.
    fn finish(&mut self, why: Why, now: Moment, outputs: &mut Vec<Output>) {
        let before = self.roster.clone();
        self.swim.trim(|id| before.members.iter().any(|member| member.id == id), now);
        let members = self.members();
        self.tell_changes(&before.members, &members, why, now, outputs);
        if self.reading_until.is_none() {
            self.discovery.settle(now);
        }
        let roster = Roster { members, discovered: self.discovery.is_complete() };
        if roster != *before {
            self.roster = Arc::new(roster);
            outputs.push(Output::Publish(self.roster.clone()));
        }
        self.tell_strangers(now, outputs);
        self.search(now, outputs);
        self.send_all(outputs);
    }

    fn members(&self) -> Vec<Member> {
        let mut members: Vec<_> = self.swim.live().map(|live| live.member.clone()).collect();
        members.sort_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        members
    }

    fn tell_changes(&mut self, old: &[Member], new: &[Member], why: Why, now: Moment, outputs: &mut Vec<Output>) {
        let missing = |member: &&Member, list: &[Member]| list.iter().all(|other| other.id != member.id);
        for member in old.iter().filter(|member| missing(member, new)) {
            let replaced = new.iter().any(|other| other.address == member.address);
            let why = if replaced { Why::Replaced } else { why };
            outputs.push(Output::Tell(News::Gone { member: member.clone(), why }));
            self.discovery.lost(member.address, now);
        }
        for member in new.iter().filter(|member| missing(member, old)) {
            let way = self.discovery.way(member.address, now);
            self.remember_way(member.address, way);
            outputs.push(Output::Tell(News::Found { member: member.clone(), way }));
            if let Some(Ask::Announce(to)) = self.discovery.introduced(member.address) {
                self.swim.announce(to, now);
            }
        }
    }

    fn remember_way(&mut self, address: SocketAddr, way: Way) {
        if self.found.len() >= limits::MEMBERS {
            let remembered: BTreeSet<_> = self.swim.remembered().map(|member| member.id().addr()).collect();
            self.found.retain(|address, _| remembered.contains(address));
        }
        self.found.insert(address, way);
    }

    fn search(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        let live: Vec<_> = self.roster.members.iter().map(|member| member.address).collect();
        for ask in self.discovery.due(now, &live) {
            match ask {
                Ask::Announce(to) => self.swim.announce(to, now),
                Ask::Probe(to) => outputs.push(Output::Probe { to, bytes: self.envelope.wrap(Kind::Probe, &[]) }),
                Ask::Resolve(name) => outputs.push(Output::Resolve(name)),
                Ask::Beacon => {
                    let id = self.swim.me().member.id.0.to_be_bytes();
                    outputs.push(Output::Beacon { bytes: self.envelope.wrap(Kind::Beacon, &id) });
                }
            }
        }
    }

    fn send_all(&mut self, outputs: &mut Vec<Output>) {
        for (to, body) in self.swim.take_sends() {
            self.send(to, Kind::Gossip, &body, outputs);
        }
    }

    fn send(&mut self, to: SocketAddr, kind: Kind, body: &[u8], outputs: &mut Vec<Output>) {
        self.datagrams.sent += 1;
        outputs.push(Output::Send { to, bytes: self.envelope.wrap(kind, body) });
    }
}

impl News {
    /// Somebody has to do something about it.
    pub(super) fn is_a_warning(&self) -> bool {
        match self {
            Self::Found { .. } | Self::Gone { .. } => false,
            Self::Dropped(dropped) => dropped.is_a_warning(),
            Self::Unresolved { .. } => true,
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { member, way } => {
                let way = match way {
                    Way::Static => "by static",
                    Way::Multicast => "by multicast",
                    Way::Dns => "by dns",
                    Way::Introduced => "as it came by itself or another member told of it",
                };
                write!(f, "found {} at {} {way}", name(member), member.address)
            }
            Self::Gone { member, why } => write!(f, "{} is gone: {why}", name(member)),
            Self::Dropped(dropped) => write!(f, "{dropped}"),
            Self::Unresolved { key, name } => write!(
                f,
                "{name} in {key} has no address now; it is looked up again and again: see whether it is written right \
                 there and known to the name server"
            ),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left",
            Self::Silent => "silent",
            Self::LinkBroken => "link broken",
            Self::Replaced => "replaced by a new process",
            Self::Reported => "another member says so",
        })
    }
}

fn name(member: &Member) -> &str {
    match &member.role {
        Role::Node { route, .. } => route.as_str(),
        Role::Balancer => "the balancer",
    }
}
