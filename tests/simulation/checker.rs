//! The shadow of every session: what its users were told, and therefore what every later answer must agree with.

use std::collections::{BTreeMap, BTreeSet};

use tasuki::{
    names::SessionId,
    session::{
        replica::{Record, Slot},
        stamp::Stamp,
    },
};

use crate::client::{Ended, Op, Seen};

/// What has been promised so far, and the first broken promise.
#[derive(Default)]
pub(crate) struct Checker {
    sessions: BTreeMap<SessionId, Shadow>,
    calls: BTreeMap<usize, Issued>,
    seen: BTreeMap<(usize, SessionId), i64>,
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
    /// Increments that may have been done.
    high: i64,
    /// Sums that were answered, each to one increment only.
    sums: BTreeSet<i64>,
    own: BTreeMap<usize, Allowed>,
}

/// What a tab may find in its own attribute.
#[derive(Debug, Default)]
struct Allowed {
    now: BTreeSet<Option<i64>>,
    /// Writes of which a try may come late: they may be done again at any time.
    late: BTreeSet<Option<i64>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    No,
    Maybe,
    Sure,
}

#[derive(Debug)]
struct Issued {
    number: u64,
    session: Option<SessionId>,
    op: Op,
    own: Option<usize>,
    floor: i64,
    was_over: bool,
}

impl Checker {
    /// The first broken promise.
    pub(crate) fn violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    /// Notes a broken promise.
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    /// A tab sends a request.
    pub(crate) fn issued(&mut self, tab: usize, number: u64, session: Option<SessionId>, op: Op) {
        let shadow = session.and_then(|session| self.sessions.get_mut(&session));
        let (mut floor, mut was_over) = (0, false);
        if let Some(shadow) = shadow {
            (floor, was_over) = (shadow.low, shadow.ended == End::Sure);
            match op {
                Op::Add => shadow.high += 1,
                Op::End if shadow.ended == End::No => shadow.ended = End::Maybe,
                _ => {}
            }
        }
        let own = if let Op::Put(own, _) = op { Some(own) } else { None };
        self.calls.insert(tab, Issued { number, session, op, own, floor, was_over });
    }

    /// A commit was answered while a second node held it.
    pub(crate) fn committed(&mut self, session: SessionId, stamp: Stamp) {
        self.protected += 1;
        if let Some(other) = self.commits.insert((session, stamp.version), stamp) {
            self.violate(format!("{session:?}: two nodes were allowed the same version: {other:?} and {stamp:?}"));
        }
    }

    /// A request was answered.
    pub(crate) fn done(&mut self, tab: usize, number: u64, own: usize, seen: &Seen, maybe: bool) {
        let Some(issued) = self.calls.remove(&tab).filter(|issued| issued.number == number) else { return };
        if issued.session.is_none() {
            return self.born(tab, own, &issued, seen);
        }
        self.judge(tab, own, &issued, seen);
        let Some(shadow) = self.sessions.get_mut(&seen.session) else { return };
        let held = seen.copies > 1;
        match issued.op {
            Op::Read => {}
            Op::Add if held => {
                shadow.low += 1;
                if !shadow.sums.insert(seen.count) {
                    let sum = seen.count;
                    self.violate(format!("{:?}: two increments were answered with the sum {sum}", seen.session));
                }
            }
            Op::Add => {}
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
            }
            Op::End if held => shadow.ended = End::Sure,
            Op::End => {}
        }
    }

    /// Two nodes that do not hear each other may both answer from a session, and neither what only the other one holds.
    /// What a second node held is still promised.
    pub(crate) fn forget_reads(&mut self, session: SessionId) {
        self.seen.retain(|(_, seen), _| *seen != session);
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
    pub(crate) fn no_session(&mut self, tab: usize, number: u64, maybe: bool) {
        let Some(issued) = self.calls.get(&tab).filter(|issued| issued.number == number) else { return };
        let shadow = issued.session.and_then(|session| self.sessions.get(&session));
        if shadow.is_some_and(|shadow| shadow.sure && shadow.ended == End::No) {
            let session = issued.session;
            self.violate(format!("{session:?}: an answered session is not known any more: {shadow:?}"));
        }
        self.gave_up(tab, number, if maybe { Ended::Maybe } else { Ended::NotDone });
    }

    /// Everything has healed and nothing is under way: all nodes agree with each other and with what users were told.
    /// `lenient` does not mind when only some remember the end of a session.
    pub(crate) fn settled(&mut self, nodes: &[BTreeMap<SessionId, Slot>], lenient: bool) {
        for (id, shadow) in &self.sessions {
            for held in nodes {
                if let Some(what) = disagreement(shadow, held.get(id)) {
                    self.violation.get_or_insert(format!("{id:?} at the end: {what}, told {shadow:?}"));
                }
            }
        }
        let Some((first, others)) = nodes.split_first() else { return };
        let ids: BTreeSet<&SessionId> = nodes.iter().flat_map(|held| held.keys()).collect();
        for id in ids {
            let of = |held: &BTreeMap<SessionId, Slot>| {
                held.get(id).map(essence).filter(|known| !lenient || known.is_some())
            };
            let expected = of(first);
            if let Some(other) = others.iter().find(|held| of(held) != expected) {
                let (here, there) = (first.get(id), other.get(id));
                self.violation.get_or_insert(format!("{id:?}: nodes disagree at the end: {here:?} and {there:?}"));
            }
        }
    }

    fn born(&mut self, tab: usize, own: usize, issued: &Issued, seen: &Seen) {
        let held = seen.copies > 1;
        let mut shadow = Shadow { sure: held, high: seen.count, ..Shadow::default() };
        if held {
            shadow.low = seen.count;
            shadow.sums.insert(seen.count);
        }
        let written = if let Op::Put(_, value) = issued.op { value } else { None };
        shadow.own.entry(own).or_default().now.insert(written);
        self.seen.insert((tab, seen.session), seen.count);
        self.sessions.insert(seen.session, shadow);
    }

    fn judge(&mut self, tab: usize, own: usize, issued: &Issued, seen: &Seen) {
        let Some(shadow) = self.sessions.get(&seen.session) else { return };
        let before = self.seen.insert((tab, seen.session), seen.count).unwrap_or(0);
        let added = i64::from(issued.op == Op::Add);
        let floor = issued.floor.max(before) + added;
        let value = seen.attributes.get(&own).copied();
        let expected = shadow.own.get(&own);
        let known = expected.is_none_or(|allowed| {
            (allowed.now.is_empty() && value.is_none()) || allowed.now.contains(&value) || allowed.late.contains(&value)
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
            let what = format!("{:?} for tab {tab} on {:?}: {what}; {issued:?}, {shadow:?}", seen.session, seen.node);
            self.violate(what);
        }
    }
}

/// What of a slot all nodes must agree on.
fn essence(slot: &Slot) -> Option<(Stamp, BTreeMap<String, Vec<u8>>)> {
    match slot {
        Slot::Live(record) => Some((record.stamp(), values(record))),
        Slot::Ended(_) => None,
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
    if count < shadow.low || count > shadow.high {
        return Some(format!("the counter is {count}"));
    }
    shadow.own.iter().find_map(|(own, allowed)| {
        let value = number(&format!("a{own}"));
        let known = (allowed.now.is_empty() && value.is_none())
            || allowed.now.contains(&value)
            || allowed.late.contains(&value);
        (!known).then(|| format!("attribute a{own} is {value:?}"))
    })
}
