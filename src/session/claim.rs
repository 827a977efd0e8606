//! One claim under way: who has been asked, what they answered, and when that is enough.
//!
//! Pure; the replicator feeds it answers, lost links and the end of the waiting time.

use smallvec::SmallVec;

use super::{
    delta::{Answer, Ending, Given},
    stamp::Epoch,
};
use crate::names::NodeId;

/// A claim that has been sent to the members it waits for.
#[derive(Clone, Debug)]
pub struct Claim {
    epoch: Epoch,
    waiting: SmallVec<[NodeId; 4]>,
    /// Who has said that it does not know the session.
    ignorant: SmallVec<[NodeId; 4]>,
    given: Given,
    ended: Option<Ending>,
    /// What those held who say that it has ended.
    before: Given,
    refused: Option<Epoch>,
    owner: Option<NodeId>,
    hearsay: Option<NodeId>,
}

/// How a claim ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nobody outranks it: take this, of all of them together, and what is held here.
    Take(Given),
    /// A member has promised this higher epoch.
    Refused(Epoch),
    /// This member owns the session and serves it, as it says itself.
    Stay(NodeId),
    /// The same, as others say: it may have handed over meanwhile.
    Hearsay(NodeId),
    /// The session has ended.
    Ended(Ending),
}

impl Claim {
    /// A claim with `epoch`, sent to `asked`.
    pub fn new(epoch: Epoch, asked: impl IntoIterator<Item = NodeId>) -> Self {
        let (waiting, ignorant) = (asked.into_iter().collect(), SmallVec::new());
        Self {
            epoch,
            waiting,
            ignorant,
            given: Given::default(),
            ended: None,
            before: Given::default(),
            refused: None,
            owner: None,
            hearsay: None,
        }
    }

    /// The same, with what is known here and what an earlier round has brought.
    pub fn with(self, given: Given) -> Self {
        Self { given, ..self }
    }

    /// The epoch that was asked for.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A member has answered.
    pub fn answered(&mut self, from: NodeId, answer: Answer) -> Option<Outcome> {
        if !self.strike_off(from) {
            return None;
        }
        match answer {
            Answer::Promised(given) => self.given = std::mem::take(&mut self.given).and(given),
            Answer::Unknown => self.ignorant.push(from),
            Answer::Ended(ending, before) => {
                self.ended = self.ended.max(Some(ending));
                let before = Given { idle: before.as_ref().map(|copy| copy.idle), copy: before, ..Given::default() };
                self.before = std::mem::take(&mut self.before).and(before);
            }
            Answer::Refused(epoch) => self.refused = self.refused.max(Some(epoch)),
            Answer::Owned(owner) if owner == from => self.owner = Some(owner),
            Answer::Owned(owner) => self.hearsay = Some(owner),
        }
        self.outcome()
    }

    /// A member is not waited for any more: it has ended, or may not act as an owner.
    pub fn lost(&mut self, member: NodeId) -> Option<Outcome> {
        self.strike_off(member);
        self.outcome()
    }

    /// Who has said that it does not know the session. It may have come to know it since, as the owner.
    pub fn ignorant(&self) -> &[NodeId] {
        &self.ignorant
    }

    /// Who has not answered yet.
    pub fn waiting(&self) -> &[NodeId] {
        &self.waiting
    }

    /// The claim's end, if nothing more is waited for.
    pub fn outcome(&mut self) -> Option<Outcome> {
        // An owner that serves ends the claim at once: nothing moves.
        let is_over = self.waiting.is_empty() || self.owner.or(self.hearsay).is_some();
        is_over.then(|| self.decide())
    }

    fn decide(&mut self) -> Outcome {
        let stands = |ending: &Ending| self.given.owner.is_none_or(|owner| ending.outlasts(owner));
        if let Some(ending) = self.ended.filter(stands) {
            return Outcome::Ended(ending);
        }
        if let Some(owner) = self.owner {
            return Outcome::Stay(owner);
        }
        if let Some(owner) = self.hearsay {
            return Outcome::Hearsay(owner);
        }
        match self.refused {
            Some(epoch) => Outcome::Refused(epoch),
            // An end that does not stand took the place of a copy, which may be the newest one.
            None => Outcome::Take(std::mem::take(&mut self.given).and(std::mem::take(&mut self.before))),
        }
    }

    fn strike_off(&mut self, member: NodeId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waited| *waited != member);
        self.waiting.len() < before
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        names::{ContextPath, SessionId},
        session::{
            delta::{Finality, Whole},
            stamp::Stamp,
        },
    };

    const ME: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn copy(version: u32) -> Whole {
        let epoch = Epoch::first(B);
        Whole {
            id: SessionId([1; 16]),
            context: ContextPath::root(),
            owner: epoch,
            stamp: Stamp { epoch, version },
            timeout: None,
            idle: Duration::ZERO,
            behind: false,
            attributes: Vec::new(),
        }
    }

    fn given(copy: Whole) -> Given {
        Given { owner: Some(copy.owner), current: Some(copy.owner), idle: Some(copy.idle), copy: Some(copy) }
    }

    fn claim() -> Claim {
        Claim::new(Epoch { counter: 2, node: ME }, [B, C])
    }

    #[test]
    fn nobody_to_ask_is_an_answer_too() {
        assert_eq!(Claim::new(Epoch::first(ME), []).outcome(), Some(Outcome::Take(Given::default())));
    }

    #[test]
    fn every_member_is_waited_for_and_their_copies_are_merged() {
        let mut claim = claim();
        assert_eq!(claim.answered(B, Answer::Promised(given(copy(4)))), None);
        assert_eq!(claim.answered(C, Answer::Promised(given(copy(3)))), Some(Outcome::Take(given(copy(4)))));
    }

    #[test]
    fn a_member_counts_once() {
        let mut claim = claim();
        assert_eq!(claim.answered(B, Answer::Unknown), None);
        assert_eq!(claim.answered(B, Answer::Unknown), None);
        assert_eq!(claim.lost(C), Some(Outcome::Take(Given::default())));
    }

    #[test]
    fn an_end_outweighs_a_copy_and_a_refusal_outweighs_taking() {
        let mut ended = claim();
        ended.answered(B, Answer::Promised(given(copy(4))));
        let ending = Ending { finality: Finality::Final, stamp: copy(5).stamp };
        assert_eq!(ended.answered(C, Answer::Ended(ending, Some(copy(4)))), Some(Outcome::Ended(ending)));
        let mut refused = claim();
        let higher = Epoch { counter: 3, node: B };
        refused.answered(B, Answer::Refused(higher));
        assert_eq!(refused.lost(C), Some(Outcome::Refused(higher)));
    }

    #[test]
    fn only_a_final_end_outweighs_a_later_ownership_and_a_refuted_one_gives_back_what_it_replaced() {
        let later = Given { owner: Some(Epoch { counter: 2, node: C }), ..given(copy(3)) };
        let taken = Given { copy: Some(copy(4)), ..later.clone() };
        for (finality, stands) in [(Finality::Refutable, false), (Finality::Final, true)] {
            let ending = Ending { finality, stamp: copy(5).stamp };
            let mut claim = claim();
            claim.answered(B, Answer::Ended(ending, Some(copy(4))));
            let expected = if stands { Outcome::Ended(ending) } else { Outcome::Take(taken.clone()) };
            assert_eq!(claim.answered(C, Answer::Promised(later.clone())), Some(expected));
        }
    }

    #[test]
    fn a_serving_owner_ends_the_claim_at_once() {
        assert_eq!(claim().answered(C, Answer::Owned(C)), Some(Outcome::Stay(C)));
        assert_eq!(claim().answered(C, Answer::Owned(B)), Some(Outcome::Hearsay(B)), "B is to be asked itself");
    }
}
