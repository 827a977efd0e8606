//! The slots of a simulated node: a map that watches every change for steps back.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use tasuki::{
    names::{NodeId, SessionId},
    session::{
        Slots,
        replica::{Slot, Tenure},
    },
};

use crate::story;

/// The slots of one life of a node. A handle: its replicators and its accepting side share them, as in production.
#[derive(Clone)]
pub(crate) struct SimSlots {
    me: NodeId,
    map: Rc<RefCell<BTreeMap<SessionId, Option<Slot>>>>,
    stepped_back: Rc<RefCell<Option<String>>>,
}

impl SimSlots {
    /// No slots yet.
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, map: Rc::default(), stepped_back: Rc::default() }
    }

    /// What went back in time since the last call.
    pub(crate) fn take_stepped_back(&self) -> Option<String> {
        self.stepped_back.borrow_mut().take()
    }

    /// Changes one slot without being watched: to take a commit back, or to break something on purpose.
    pub(crate) fn unwatched<R>(&self, id: SessionId, act: impl FnOnce(&mut Option<Slot>) -> R) -> R {
        let mut map = self.map.borrow_mut();
        let slot = map.entry(id).or_default();
        let before = story::brief(slot);
        let result = act(slot);
        let after = story::brief(slot);
        if before != after {
            story::tell(id, self.me, || format!("{before} -> {after}"));
        }
        if slot.is_none() {
            map.remove(&id);
        }
        result
    }

    /// A copy of everything.
    pub(crate) fn all(&self) -> BTreeMap<SessionId, Slot> {
        self.map.borrow().iter().filter_map(|(id, slot)| Some((*id, slot.clone()?))).collect()
    }
}

impl Slots for SimSlots {
    fn me(&self) -> NodeId {
        self.me
    }

    fn with<R>(&self, id: SessionId, act: impl FnOnce(&mut Option<Slot>) -> R) -> R {
        self.unwatched(id, |slot| {
            let before = slot.clone();
            let result = act(slot);
            if went_back(&before, slot) {
                let what = format!("{id:?} went back on {:?}: from {before:?} to {slot:?}", self.me);
                self.stepped_back.borrow_mut().get_or_insert(what);
            }
            result
        })
    }

    fn ids(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<SessionId> {
        let map = self.map.borrow();
        map.iter().filter(|(_, slot)| slot.as_ref().is_some_and(&wanted)).map(|(id, _)| *id).collect()
    }
}

/// Versions and promises only grow, but for a claim that is withdrawn; an end is final.
fn went_back(before: &Option<Slot>, after: &Option<Slot>) -> bool {
    match (before, after) {
        (None, _) | (Some(Slot::Live(_)), Some(Slot::Ended(_))) => false,
        (Some(Slot::Live(old)), Some(Slot::Live(new))) => {
            let withdrawn = old.tenure() == Tenure::Claiming;
            new.stamp() < old.stamp() || (new.promised() < old.promised() && !withdrawn)
        }
        (Some(Slot::Ended(_)), Some(Slot::Ended(_))) => false,
        (Some(_), None) | (Some(Slot::Ended(_)), Some(Slot::Live(_))) => true,
    }
}
