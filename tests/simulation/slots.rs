//! The slots of a simulated node: a map that watches every change for steps back.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use tasuki::{
    names::{NodeId, SessionId},
    session::{
        Slots,
        delta::{Ending, Finality},
        lease::Lease,
        placement::Placement,
        replica::Slot,
        stamp::{Epoch, Stamp},
        tries::Tries,
    },
};

use crate::story;

/// The slots of one life of a node. A handle: its replicators and its accepting side share them, as in production.
#[derive(Clone)]
pub(crate) struct SimSlots {
    me: NodeId,
    lease: Lease,
    tries: Tries,
    map: Rc<RefCell<BTreeMap<SessionId, Option<Slot>>>>,
    stepped_back: Rc<RefCell<Option<String>>>,
    placement: Rc<RefCell<Arc<Placement>>>,
}

/// How far a slot has come. Versions and promises only grow; a final end stays.
#[derive(Clone, Copy, Debug)]
enum Rank {
    Nothing,
    Live(Stamp, Epoch),
    Ended(Ending),
}

impl SimSlots {
    /// No slots yet.
    pub(crate) fn new(me: NodeId) -> Self {
        let placement = Rc::new(RefCell::new(Placement::everywhere().into()));
        Self {
            me,
            lease: Lease::new(),
            tries: Tries::default(),
            map: Rc::default(),
            stepped_back: Rc::default(),
            placement,
        }
    }

    /// Who holds what from now on.
    pub(crate) fn place(&self, placement: Placement) {
        *self.placement.borrow_mut() = placement.into();
    }

    /// What went back in time since the last call.
    pub(crate) fn take_stepped_back(&self) -> Option<String> {
        self.stepped_back.borrow_mut().take()
    }

    /// Changes one slot without being watched: to take a commit back, or to break something on purpose.
    pub(crate) fn unwatched<R>(&self, id: SessionId, act: impl FnOnce(&mut Option<Slot>) -> R) -> R {
        let mut map = self.map.borrow_mut();
        let slot = map.entry(id).or_default();
        let before = story::is_told().then(|| story::brief(slot));
        let result = act(slot);
        if let Some(before) = before.filter(|before| *before != story::brief(slot)) {
            story::tell(id, self.me, || format!("{before} -> {}", story::brief(slot)));
        }
        if slot.is_none() {
            map.remove(&id);
        }
        result
    }

    /// A copy of everything that is known of sessions.
    pub(crate) fn all(&self) -> BTreeMap<SessionId, Slot> {
        let known = |slot: &Slot| !matches!(slot, Slot::Sought(_));
        self.map.borrow().iter().filter_map(|(id, slot)| Some((*id, slot.clone().filter(known)?))).collect()
    }
}

impl Slots for SimSlots {
    fn me(&self) -> NodeId {
        self.me
    }

    fn lease(&self) -> &Lease {
        &self.lease
    }

    fn tries(&self) -> &Tries {
        &self.tries
    }

    fn placement(&self) -> Arc<Placement> {
        self.placement.borrow().clone()
    }

    fn with<R>(&self, id: SessionId, act: impl FnOnce(&mut Option<Slot>) -> R) -> R {
        self.unwatched(id, |slot| {
            let before = Rank::of(slot);
            let result = act(slot);
            let after = Rank::of(slot);
            if before.is_behind(after) {
                return result;
            }
            let what = format!("{id:?} went back on {:?}: from {before:?} to {after:?}", self.me);
            self.stepped_back.borrow_mut().get_or_insert(what);
            result
        })
    }

    fn ids(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<SessionId> {
        let map = self.map.borrow();
        map.iter().filter(|(_, slot)| slot.as_ref().is_some_and(&wanted)).map(|(id, _)| *id).collect()
    }

    fn visit_all(&self, mut look: impl FnMut(SessionId, &Slot)) {
        for (id, slot) in self.map.borrow().iter() {
            slot.iter().for_each(|slot| look(*id, slot));
        }
    }
}

impl Rank {
    fn of(slot: &Option<Slot>) -> Self {
        match slot {
            None | Some(Slot::Sought(_)) => Self::Nothing,
            Some(Slot::Live(record)) => Self::Live(record.stamp(), record.promised()),
            Some(Slot::Ended(tombstone)) => Self::Ended(tombstone.ending),
        }
    }

    fn is_behind(self, next: Self) -> bool {
        match (self, next) {
            (Self::Nothing, _) | (Self::Live(..), Self::Ended(_)) => true,
            (Self::Ended(ending), Self::Ended(next)) => ending <= next,
            (Self::Live(stamp, promised), Self::Live(next_stamp, next_promised)) => {
                stamp <= next_stamp && promised <= next_promised
            }
            // An end that is not final is forgotten when it was refused, and is none if the session has gone on.
            (Self::Ended(ending), Self::Nothing) => ending.finality == Finality::Refutable,
            (Self::Ended(ending), Self::Live(_, promised)) => !ending.outlasts(promised),
            (Self::Live(..), Self::Nothing) => false,
        }
    }
}
