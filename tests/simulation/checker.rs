//! The shadow of every session: what its users were told, and therefore what every later answer must agree with.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tasuki::{
    names::{NodeId, SessionId},
    session::{
        replica::{Reach, Record, Slot, Tenure},
        stamp::Stamp,
    },
};

use crate::client::{Ended, Op, Seen};

/// What has been promised so far, and the first broken promise.
pub(crate) struct Checker {
    /// Idle time after which a session may be over.
    patience_us: u64,
    /// Links have room for what is passed on, so that it comes to those who do not hear each other.
    has_hearsay: bool,
    /// Too much goes wrong at once for any promise to users; what nodes promise each other still holds.
    is_storm: bool,
    /// When two sides had caught up last.
    healed_us: u64,
    sessions: BTreeMap<SessionId, Shadow>,
    calls: BTreeMap<usize, Issued>,
    seen: BTreeMap<SessionId, BTreeMap<(usize, Voice), i64>>,
    commits: BTreeMap<(SessionId, u32), Stamp>,
    violation: Option<String>,
    /// Answered writes that a second node held: a run without any has proved nothing.
    pub(crate) protected: usize,
}

/// One session as its users know it.
#[derive(Debug, Default)]
struct Shadow {
    /// A second node held its creation.
    sure: bool,
    ended: End,
    /// Increments that were answered while a second node held them.
    low: i64,
    /// Since when it has been so many.
    lows: Vec<(u64, i64)>,
    /// Increments that may have been done.
    high: i64,
    /// Sums that were answered, each to one increment only.
    sums: BTreeSet<i64>,
    own: BTreeMap<usize, Allowed>,
    /// When the latest of the answered requests was sent: since then at least it has been in use.
    used_us: u64,
    /// It was written while two sides went on: until they merge, either may win, and with what it lacked.
    is_blurred: bool,
    /// What was done to it while two sides went on.
    apart: ApartWrites,
    /// A node that does not hear every other, or takes one for gone, has gone on by itself: what it wrote may be lost, and then
    /// was never read.
    is_loose: bool,
    /// It stays on its node.
    is_local: bool,
}

/// Whose answers a tab compares with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Voice {
    /// Of machines that hear every other.
    All,
    /// Of those on one of two sides, which hear each other.
    Side(bool),
    /// Of one machine, whomever it hears.
    One(usize),
}

/// Writes while two sides did not know what the other one did.
#[derive(Debug, Default)]
struct ApartWrites {
    /// On which they were made, answered or not.
    sides: BTreeSet<bool>,
    /// Increments that were answered.
    adds: i64,
    is_ended: bool,
}

/// Where a request was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) machine: usize,
    pub(crate) at_us: u64,
    /// On which of two sides that do not know what the other one does.
    pub(crate) side: Option<bool>,
    /// By a node that does not hear every other: what it reads may be what was true before.
    pub(crate) is_cut_off: bool,
    /// By a node that may be the only one to hold what it writes.
    pub(crate) may_be_alone: bool,
}

/// When and where there was no such session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// The time of the answer.
    pub(crate) at_us: u64,
    /// On one of two sides that do not know what the other one does.
    pub(crate) is_apart: bool,
}

/// What a tab may find in its own attribute.
#[derive(Debug, Default)]
struct Allowed {
    now: BTreeSet<Option<i64>>,
    /// Writes of which a try may come late: they may be done again at any time.
    late: BTreeSet<Option<i64>>,
    /// Answered while two sides went on: on which.
    apart: Vec<(bool, Option<i64>)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    No,
    Maybe,
    Sure,
}

impl Shadow {
    /// While two sides were apart one of them ended it, perhaps, and the other went on with what it had.
    fn ended_on_one_side(&self) -> bool {
        self.is_blurred && self.ended != End::No
    }
}

#[derive(Debug)]
struct Issued {
    number: u64,
    session: Option<SessionId>,
    op: Op,
    own: Option<usize>,
    floor: i64,
    /// The same some time before: what a machine that is heard by others has heard of by now, even if not from the owner.
    old_floor: i64,
    was_over: bool,
    at_us: u64,
    is_local: bool,
}

/// After so long a machine that some of the others hear knows of what they have been told of a session by its owner, even
/// if it does not hear that owner itself.
const HEARSAY_US: u64 = 100_000;

/// A session must not end before this part of its time, in percent: clocks do not run alike.
const NOT_BEFORE: u64 = 95;

impl Checker {
    /// Nothing has been promised yet.
    pub(crate) fn new(timeout: Duration, has_hearsay: bool, is_storm: bool) -> Self {
        Self {
            patience_us: timeout.as_micros() as u64 * NOT_BEFORE / 100,
            has_hearsay,
            is_storm,
            healed_us: 0,
            sessions: BTreeMap::new(),
            calls: BTreeMap::new(),
            seen: BTreeMap::new(),
            commits: BTreeMap::new(),
            violation: None,
            protected: 0,
        }
    }

    /// The first broken promise.
    pub(crate) fn violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    /// Notes a broken promise.
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    /// Notes a broken promise to a user.
    fn let_down(&mut self, what: impl Into<String>) {
        if !self.is_storm {
            self.violate(what);
        }
    }

    /// A tab sends a request.
    pub(crate) fn issued(
        &mut self,
        tab: usize,
        number: u64,
        session: Option<SessionId>,
        op: Op,
        at_us: u64,
        reach: Reach,
    ) {
        let shadow = session.and_then(|session| self.sessions.get_mut(&session));
        let (mut floor, mut old_floor, mut was_over) = (0, 0, false);
        if let Some(shadow) = shadow {
            (floor, was_over) = (shadow.low, shadow.ended == End::Sure);
            old_floor = shadow.low_at(at_us.saturating_sub(HEARSAY_US));
            match op {
                Op::Add => shadow.high += 1,
                Op::End | Op::Renew if shadow.ended == End::No => shadow.ended = End::Maybe,
                _ => {}
            }
        }
        let own = if let Op::Put(own, _) = op { Some(own) } else { None };
        self.calls.insert(
            tab,
            Issued { number, session, op, own, floor, old_floor, was_over, at_us, is_local: reach == Reach::Node },
        );
    }

    /// A commit was answered while a second node held it.
    pub(crate) fn committed(&mut self, session: SessionId, stamp: Stamp) {
        self.protected += 1;
        if let Some(other) = self.commits.insert((session, stamp.version), stamp) {
            self.let_down(format!("{session:?}: two nodes were allowed the same version: {other:?} and {stamp:?}"));
        }
    }

    /// A request was answered.
    pub(crate) fn done(&mut self, tab: usize, number: u64, own: usize, seen: &Seen, maybe: bool, place: Place) {
        let Some(issued) = self.calls.remove(&tab).filter(|issued| issued.number == number) else { return };
        let Some(session) = issued.session else { return self.born(tab, own, &issued, seen, place) };
        let side = place.side;
        let only_read = seen.copies == 0;
        // What came before the sides had caught up may have had its turn before the last copy was merged.
        if side.is_none() && !(place.is_cut_off && only_read) && issued.at_us >= self.healed_us {
            self.judge(tab, own, &issued, seen, place);
        } else {
            self.judge_alone(tab, &issued, seen, place);
        }
        let held = seen.copies > 1 && side.is_none();
        if issued.op == Op::Renew {
            self.renewed(tab, &issued, seen, place);
        }
        let Some(shadow) = self.sessions.get_mut(&session) else { return };
        shadow.used_us = shadow.used_us.max(issued.at_us);
        if let Some(side) = side.filter(|_| seen.copies > 0) {
            shadow.apart.sides.insert(side);
        }
        match issued.op {
            Op::Read => {}
            Op::Add if held => {
                shadow.raise(shadow.low + 1, place.at_us);
                if !shadow.sums.insert(seen.count) {
                    let sum = seen.count;
                    self.let_down(format!("{:?}: two increments were answered with the sum {sum}", seen.session));
                }
            }
            Op::Add => shadow.apart.adds += i64::from(side.is_some()),
            Op::Put(own, value) => {
                let allowed = shadow.own.entry(own).or_default();
                if held {
                    allowed.now.clear();
                } else if allowed.now.is_empty() {
                    // What nobody else holds may be lost, and then it was never set.
                    allowed.now.insert(None);
                }
                if seen.copies > 0 {
                    allowed.now.insert(value);
                }
                if maybe {
                    allowed.late.insert(value);
                }
                if let Some(side) = side.filter(|_| seen.copies > 0 && !maybe) {
                    allowed.apart.push((side, value));
                }
            }
            Op::End | Op::Renew if held => shadow.ended = End::Sure,
            Op::End | Op::Renew => shadow.apart.is_ended |= side.is_some(),
        }
    }

    /// Two sides hear each other again. What was answered for an attribute on one side only is there from now on; of what
    /// was answered on both the same one wins everywhere.
    pub(crate) fn healed(&mut self, now_us: u64) {
        self.healed_us = now_us;
        for (id, shadow) in &mut self.sessions {
            shadow.is_loose = false;
            let ApartWrites { sides, adds, is_ended } = std::mem::take(&mut shadow.apart);
            if shadow.is_local {
                continue;
            }
            match sides.len() {
                0 => {}
                1 => {
                    shadow.raise(shadow.low + adds, now_us);
                    shadow.sure = true;
                }
                _ => {
                    shadow.is_blurred = true;
                    self.seen.remove(id);
                }
            }
            if is_ended {
                shadow.ended = End::Sure;
            }
        }
        // What one of them has answered, all of them have from now on.
        for seen in self.seen.values_mut() {
            for ((tab, _), count) in seen.clone() {
                let known = seen.entry((tab, Voice::All)).or_default();
                *known = count.max(*known);
            }
            seen.retain(|(_, voice), _| !matches!(voice, Voice::Side(_)));
        }
        for allowed in self.sessions.values_mut().flat_map(|shadow| shadow.own.values_mut()) {
            let apart = std::mem::take(&mut allowed.apart);
            let Some((side, last)) = apart.last().copied().filter(|_| !self.is_storm) else {
                continue;
            };
            if apart.iter().all(|(other, _)| *other == side) {
                allowed.now = BTreeSet::from([last]);
            }
        }
    }

    /// A write was made on one of two sides, whatever becomes of it.
    pub(crate) fn wrote_apart(&mut self, session: SessionId, side: bool) {
        if let Some(shadow) = self.sessions.get_mut(&session) {
            shadow.apart.sides.insert(side);
        }
    }

    /// A node that does not hear every other, or takes one for gone, has written what nobody else holds, and is about to answer.
    pub(crate) fn wrote_alone(&mut self, session: SessionId) {
        if let Some(shadow) = self.sessions.get_mut(&session) {
            shadow.is_loose = true;
        }
    }

    /// A request ended without an answer from a page.
    pub(crate) fn gave_up(&mut self, tab: usize, number: u64, how: Ended) {
        let Some(issued) = self.calls.remove(&tab).filter(|issued| issued.number == number) else { return };
        let Some(shadow) = issued.session.and_then(|session| self.sessions.get_mut(&session)) else { return };
        match (issued.op, how) {
            (Op::Add, Ended::NotDone) => shadow.high -= 1,
            (Op::Put(own, value), Ended::Maybe) => drop(shadow.own.entry(own).or_default().late.insert(value)),
            _ => {}
        }
    }

    /// A request was answered: there is no such session.
    pub(crate) fn no_session(&mut self, tab: usize, number: u64, maybe: bool, answered: Answered) {
        let Some(issued) = self.calls.get(&tab).filter(|issued| issued.number == number) else { return };
        let shadow = issued.session.and_then(|session| self.sessions.get(&session));
        // Done just before the session was ended elsewhere, perhaps, and then seen by others.
        let maybe = maybe || shadow.is_some_and(|shadow| shadow.ended != End::No);
        let in_time = |shadow: &Shadow| answered.at_us < shadow.used_us + self.patience_us && !answered.is_apart;
        if shadow.is_some_and(|shadow| shadow.sure && shadow.ended == End::No && in_time(shadow)) {
            let session = issued.session;
            self.let_down(format!("{session:?}: an answered session is not known any more: {shadow:?}"));
        }
        self.gave_up(tab, number, if maybe { Ended::Maybe } else { Ended::NotDone });
    }

    /// Everything has healed and nothing is under way: all nodes that ought to have a session agree with each other and with
    /// what users were told. Of some sessions only some nodes may remember the end.
    pub(crate) fn settled(
        &mut self,
        nodes: &[BTreeMap<SessionId, Slot>],
        involves: impl Fn(SessionId, NodeId, usize) -> bool,
        may_forget: impl Fn(&SessionId) -> bool,
    ) {
        self.stay_at_home(nodes);
        // Without one that owns it, the last one that it was promised to.
        let owner = |id: &SessionId| {
            let live = nodes.iter().filter_map(|held| held.get(id)).filter_map(live);
            let known = live.map(|record| (record.tenure() == Tenure::Owned, record.promised()));
            known.max().map(|(_, epoch)| epoch.node)
        };
        let ought = |id: &SessionId, at: usize| owner(id).is_none_or(|owner| involves(*id, owner, at));
        for (id, shadow) in self.sessions.iter().filter(|_| !self.is_storm) {
            for (at, held) in nodes.iter().enumerate() {
                let slot = held.get(id);
                let is_over = shadow.ended == End::Sure && slot.is_some_and(|slot| live(slot).is_some());
                if let Some(what) = disagreement(shadow, slot).filter(|_| is_over || ought(id, at)) {
                    self.violation.get_or_insert(format!("{id:?} at the end: {what}, told {shadow:?}"));
                }
            }
        }
        let ids: BTreeSet<&SessionId> = nodes.iter().flat_map(|held| held.keys()).collect();
        let is_known_local = |id: &&SessionId| self.sessions.get(id).is_some_and(|shadow| shadow.is_local);
        let is_held_local = |id: &&SessionId| nodes.iter().any(|held| held.get(id).is_some_and(is_local));
        for id in ids.into_iter().filter(|id| !is_known_local(id) && !is_held_local(id)) {
            let involved = nodes.iter().enumerate().filter(|(at, _)| ought(id, *at)).map(|(_, held)| held.get(id));
            let involved: Vec<Option<&Slot>> = involved.collect();
            let of = |slot: Option<&Slot>| slot.map(essence).filter(|known| !may_forget(id) || known.is_some());
            if let Some(other) = involved.iter().find(|slot| of(**slot) != of(involved[0])) {
                let here = involved[0];
                self.violation.get_or_insert(format!("{id:?}: nodes disagree at the end: {here:?} and {other:?}"));
            }
        }
    }

    /// Everything was idle for longer than any session lives.
    pub(crate) fn all_over(&mut self, nodes: &[BTreeMap<SessionId, Slot>]) {
        self.stay_at_home(nodes);
        let mut lives = nodes.iter().flatten().filter(|(_, slot)| matches!(slot, Slot::Live(_)));
        if let Some(what) = lives.next().map(|(id, slot)| format!("{id:?} outlived its time: {slot:?}")) {
            self.violate(what);
        }
    }

    /// A session that does not travel is on one node.
    fn stay_at_home(&mut self, nodes: &[BTreeMap<SessionId, Slot>]) {
        let locals = nodes.iter().flatten().filter(|(_, slot)| is_local(slot)).map(|(id, _)| id);
        let on = |id: &SessionId| nodes.iter().filter(|held| held.contains_key(id)).count();
        if let Some(what) = locals.filter(|id| on(id) > 1).map(|id| format!("{id:?} has left its node")).next() {
            self.violate(what);
        }
    }

    /// The session goes on under a new id, with everything in it.
    fn renewed(&mut self, tab: usize, issued: &Issued, seen: &Seen, place: Place) {
        let mut shadow = Shadow::of(issued, seen, place);
        if seen.copies > 1 {
            shadow.raise(seen.count, place.at_us);
        }
        let owns = issued.session.and_then(|old| self.sessions.get(&old)).map(|old| old.own.keys().copied());
        for own in owns.into_iter().flatten().chain(seen.attributes.keys().copied()) {
            shadow.own.entry(own).or_default().now.insert(seen.attributes.get(&own).copied());
        }
        self.sessions.insert(seen.session, shadow);
        self.saw(tab, seen, place);
    }

    fn born(&mut self, tab: usize, own: usize, issued: &Issued, seen: &Seen, place: Place) {
        let held = seen.copies > 1;
        let mut shadow = Shadow::of(issued, seen, place);
        if held {
            shadow.raise(seen.count, place.at_us);
            shadow.sums.insert(seen.count);
        }
        let written = if let Op::Put(_, value) = issued.op { value } else { None };
        shadow.own.entry(own).or_default().now.insert(written);
        self.sessions.insert(seen.session, shadow);
        self.saw(tab, seen, place);
    }

    /// Notes what a tab has seen, unless it may be lost.
    fn saw(&mut self, tab: usize, seen: &Seen, place: Place) {
        if self.sessions.get(&seen.session).is_none_or(|shadow| shadow.is_loose) {
            return;
        }
        let known = self.seen.entry(seen.session).or_default();
        for voice in place.voices() {
            let count = known.entry((tab, voice)).or_default();
            *count = seen.count.max(*count);
        }
    }

    /// What a tab has seen of a session.
    fn seen(&self, tab: usize, session: SessionId, voices: impl IntoIterator<Item = Voice>) -> i64 {
        let seen = self.seen.get(&session);
        voices.into_iter().filter_map(|voice| seen?.get(&(tab, voice)).copied()).max().unwrap_or(0)
    }

    /// An answer of a machine that does not hear every other, or of one that had not caught up: what another one has
    /// just answered may be new to it, but it does not go back itself.
    fn judge_alone(&mut self, tab: usize, issued: &Issued, seen: &Seen, place: Place) {
        let Some(session) = issued.session else { return };
        let Some(shadow) = self.sessions.get(&session) else { return };
        // Of what both sides have written one wins, as soon as they hear each other.
        if shadow.is_blurred || shadow.apart.sides.len() > 1 {
            return;
        }
        // What was asked before the sides had caught up may have had its turn then, on one that had not.
        let is_late = issued.at_us < self.healed_us;
        let before = if is_late {
            self.seen(tab, session, [Voice::One(place.machine)])
        } else {
            self.seen(tab, session, place.voices())
        };
        let told = if is_late || place.side.is_some() || !self.has_hearsay { 0 } else { issued.old_floor };
        let floor = before.max(told) + i64::from(issued.op == Op::Add);
        let what = if seen.count < floor {
            Some(format!("went back to {}, {before} was seen there and {told} answered long ago", seen.count))
        } else if seen.count > shadow.high {
            Some(format!("is {}, more than was ever asked for", seen.count))
        } else {
            None
        };
        if let Some(what) = what {
            let what =
                format!("{session:?} for tab {tab} on {:?}: the counter {what}; {issued:?}, {shadow:?}", seen.node);
            return self.let_down(what);
        }
        self.saw(tab, seen, place);
    }

    fn judge(&mut self, tab: usize, own: usize, issued: &Issued, seen: &Seen, place: Place) {
        let Some(session) = issued.session.filter(|id| self.sessions.contains_key(id)) else { return };
        let all = (!place.is_cut_off || seen.copies > 1).then_some(Voice::All);
        let before = self.seen(tab, session, place.voices().chain(all));
        self.saw(tab, seen, place);
        let shadow = &self.sessions[&session];
        let added = i64::from(issued.op == Op::Add);
        let promised = if shadow.is_blurred { 0 } else { issued.floor };
        let floor = promised.max(before) + added;
        let value = seen.attributes.get(&own).copied();
        let expected = shadow.own.get(&own);
        let known = shadow.ended_on_one_side()
            || expected.is_none_or(|allowed| {
                (allowed.now.is_empty() && value.is_none())
                    || allowed.now.contains(&value)
                    || allowed.late.contains(&value)
            });
        let what = if issued.was_over {
            Some("an ended session answers".to_owned())
        } else if seen.count < floor {
            Some(format!("the counter went back to {}, at least {floor} was answered before", seen.count))
        } else if seen.count > shadow.high {
            Some(format!("the counter is {}, more than was ever asked for", seen.count))
        } else if issued.own.is_none() && !known {
            Some(format!("attribute a{own} is {value:?}"))
        } else {
            None
        };
        if let Some(what) = what {
            let what = format!("{session:?} for tab {tab} on {:?}: {what}; {issued:?}, {shadow:?}", seen.node);
            self.let_down(what);
        }
    }
}

fn live(slot: &Slot) -> Option<&Record> {
    match slot {
        Slot::Live(record) => Some(record),
        Slot::Ended(_) | Slot::Sought(_) => None,
    }
}

fn is_local(slot: &Slot) -> bool {
    matches!(slot, Slot::Live(record) if record.reach() == Reach::Node)
}

impl Place {
    /// Whose answer it is.
    fn voices(self) -> impl Iterator<Item = Voice> {
        let all = (!self.is_cut_off).then_some(Voice::All);
        all.into_iter().chain(self.side.map(Voice::Side)).chain([Voice::One(self.machine)])
    }
}

impl Shadow {
    /// A second node holds so many.
    fn raise(&mut self, low: i64, now_us: u64) {
        self.low = low;
        self.lows.push((now_us, low));
    }

    /// What a second node held at that time.
    fn low_at(&self, at_us: u64) -> i64 {
        let until = self.lows.partition_point(|(since_us, _)| *since_us <= at_us);
        until.checked_sub(1).map_or(0, |last| self.lows[last].1)
    }

    fn of(issued: &Issued, seen: &Seen, place: Place) -> Self {
        let Issued { at_us: used_us, is_local, .. } = *issued;
        let sure = seen.copies > 1;
        Self { sure, high: seen.count, used_us, is_local, is_loose: place.may_be_alone && !sure, ..Self::default() }
    }
}

/// What of a slot all nodes must agree on.
fn essence(slot: &Slot) -> Option<(Stamp, BTreeMap<String, Vec<u8>>)> {
    match slot {
        Slot::Live(record) => Some((record.stamp(), values(record))),
        Slot::Ended(_) | Slot::Sought(_) => None,
    }
}

fn values(record: &Record) -> BTreeMap<String, Vec<u8>> {
    record.attributes().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

fn disagreement(shadow: &Shadow, slot: Option<&Slot>) -> Option<String> {
    let Some(Slot::Live(record)) = slot else {
        let lost = shadow.sure && shadow.ended == End::No;
        return lost.then(|| format!("an answered session is {slot:?}"));
    };
    if shadow.ended == End::Sure {
        return Some(format!("an ended session lives: {record:?}"));
    }
    let number = |name: &str| record.attributes().find(|(known, _)| &**known == name)?.1.decode::<i64>().ok();
    let count = number("count").unwrap_or(0);
    if count < shadow.low && !shadow.is_blurred || count > shadow.high {
        return Some(format!("the counter is {count}"));
    }
    if shadow.ended_on_one_side() {
        return None;
    }
    shadow.own.iter().find_map(|(own, allowed)| {
        let value = number(&format!("a{own}"));
        let known = (allowed.now.is_empty() && value.is_none())
            || allowed.now.contains(&value)
            || allowed.late.contains(&value);
        (!known).then(|| format!("attribute a{own} is {value:?}"))
    })
}
