//! Who owned a session last, as far as the answers to a claim tell.
//!
//! A member names whom it has promised the session to last. That is an ownership only if that node's claim came to its end,
//! and of a claim that came to nothing the member does not hear. It comes to light all the same: this node knows of its own
//! claims, and another one that is asked too says that it does not know the session, or only an earlier ownership. Such a
//! promise is void, and what counts is what the member had heard before it.

use smallvec::SmallVec;

use crate::{
    names::NodeId,
    session::{delta::Given, replica::Record, stamp::Epoch, tries::Tried},
};

/// The answers to one try of a claim.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    said: SmallVec<[Said; 4]>,
    /// Who does not know the session.
    strangers: SmallVec<[NodeId; 4]>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    by: NodeId,
    /// Whom it had promised the session to. None: to this very claim, of which it knew before it was asked.
    owner: Option<Epoch>,
    /// The last ownership of which its copy has all that was told.
    seen: Option<Epoch>,
    /// That of the newest commit in its copy.
    proven: Option<Epoch>,
}

impl Said {
    /// What the member has seen. If it cannot tell any more, because it has promised the session to this node since: what it
    /// said to the try that asked for that. Nothing if that answer was not heard.
    fn seen_at_last(&self, claimed: Epoch, tried: &Tried) -> Option<Option<Epoch>> {
        let promised = self.owner.unwrap_or(claimed);
        let before = || tried.heard(self.by, promised.counter).filter(|_| promised.node == claimed.node);
        self.seen.map(Some).or_else(before)
    }
}

/// What the answers come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Latest {
    /// The last ownership.
    pub(super) owner: Option<Epoch>,
    /// The last one of which somebody has all that was told.
    pub(super) current: Option<Epoch>,
    /// Those whose promise is void and who do not know what was before it: there may be a later one.
    blurred: SmallVec<[NodeId; 4]>,
}

impl Latest {
    /// Whether all copies that were found may be older than what nodes have answered that were not heard.
    pub(super) fn may_be_old(&self) -> bool {
        !self.blurred.is_empty() || self.current.is_none() || self.current < self.owner
    }
}

impl Answers {
    /// A member has promised the session to this claim.
    pub(super) fn promised(&mut self, by: NodeId, given: &Given) {
        let proven = given.copy.as_ref().map(|copy| copy.stamp.epoch);
        self.said.push(Said { by, owner: given.owner, seen: given.current, proven });
    }

    /// A member does not know the session.
    pub(super) fn unknown(&mut self, by: NodeId) {
        self.strangers.push(by);
    }

    /// The same answers, and what this node holds itself.
    pub(super) fn with_own(&self, me: NodeId, record: Option<&Record>) -> Self {
        let mut all = self.clone();
        all.said.extend(record.map(|record| {
            let (owner, seen) = record.known();
            Said { by: me, owner: Some(owner), seen, proven: Some(record.stamp().epoch) }
        }));
        all
    }

    /// What they come to for a claim of the epoch's node under that epoch, of which earlier tries have heard this. `is_told`
    /// says whether a member is among those that hear of all commits under an epoch.
    pub(super) fn latest(&self, claimed: Epoch, tried: &Tried, is_told: impl Fn(NodeId, Epoch) -> bool) -> Latest {
        let is_void = |owner: Epoch| self.is_void(owner, claimed, tried);
        let refused = tried.refused_by().filter(|by| !is_void(*by));
        let mut latest = Latest { owner: tried.owner().max(refused), ..Latest::default() };
        for said in &self.said {
            let (seen, promised) = (said.seen_at_last(claimed, tried), said.owner.unwrap_or(claimed));
            let stands = said.seen == Some(promised) || !is_void(promised);
            if seen.is_none() && !stands {
                latest.blurred.push(said.by);
            }
            let seen = seen.flatten();
            latest.owner = latest.owner.max(said.proven).max(if stands { Some(promised) } else { seen });
            latest.current = latest.current.max(seen.filter(|epoch| is_told(said.by, *epoch)));
        }
        latest
    }

    /// Adds these answers to what was tried.
    pub(super) fn add_to(&self, tried: &mut Tried, claimed: Epoch) {
        let Latest { owner, blurred, .. } = self.latest(claimed, tried, |_, _| true);
        let heard = self.said.iter().filter(|said| !blurred.contains(&said.by));
        let heard = heard.map(|said| (said.by, said.seen_at_last(claimed, tried).flatten()));
        let heard: SmallVec<[_; 4]> = heard.chain(self.strangers.iter().map(|member| (*member, None))).collect();
        tried.add(claimed, heard, owner);
    }

    /// Whether nobody has owned the session under this epoch, nor ever will: whoever asked for it has let this claim outrank
    /// it since, or is this node.
    fn is_void(&self, owner: Epoch, claimed: Epoch, tried: &Tried) -> bool {
        if owner.node == claimed.node {
            return owner == claimed || tried.has_asked_for(owner.counter);
        }
        let knows_less = |said: &Said| said.by == owner.node && said.owner.is_some_and(|known| known < owner);
        self.strangers.contains(&owner.node) || self.said.iter().any(knows_less)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{ContextPath, SessionId},
        session::{
            lease::Term,
            replica::{self, Birth, Reach, Slot},
        },
        time::Moment,
    };

    const ME: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    const D: NodeId = NodeId(4);
    const E: NodeId = NodeId(5);

    fn epoch(counter: u32, node: NodeId) -> Epoch {
        Epoch { counter, node }
    }

    const OLD: Epoch = Epoch { counter: 1, node: D };

    fn given(owner: Option<Epoch>, current: Option<Epoch>) -> Given {
        Given { owner, current, ..Given::default() }
    }

    fn answers(said: &[(NodeId, Option<Epoch>, Option<Epoch>)], strangers: &[NodeId]) -> Answers {
        let mut answers = Answers::default();
        said.iter().for_each(|(by, owner, seen)| answers.promised(*by, &given(*owner, *seen)));
        strangers.iter().for_each(|by| answers.unknown(*by));
        answers
    }

    fn latest(answers: &Answers, claimed: Epoch, tried: &Tried) -> Latest {
        answers.latest(claimed, tried, |_, _| true)
    }

    fn tried(counter: u32, heard: &[NodeId]) -> Tried {
        let mut tried = Tried::default();
        tried.add(epoch(counter, ME), heard.iter().map(|member| (*member, Some(OLD))), Some(OLD));
        tried
    }

    #[test]
    fn whom_a_member_has_promised_the_session_to_is_its_owner_unless_that_one_knows_nothing_of_it() {
        let (of_c, claimed) = (epoch(2, C), epoch(3, ME));
        let owner = |strangers: &[NodeId], of_c_says: &[(NodeId, Option<Epoch>, Option<Epoch>)]| {
            let said = [&[(B, Some(of_c), Some(OLD))], of_c_says].concat();
            latest(&answers(&said, strangers), claimed, &Tried::default()).owner
        };
        assert_eq!(owner(&[], &[]), Some(of_c), "it was not heard");
        assert_eq!(owner(&[C], &[]), Some(OLD));
        assert_eq!(owner(&[], &[(C, Some(OLD), None)]), Some(OLD), "it has a copy of before");
        assert_eq!(owner(&[], &[(C, Some(of_c), Some(of_c))]), Some(of_c));
        assert_eq!(
            owner(&[], &[(C, None, Some(of_c))]),
            Some(of_c),
            "it may have owned it before it heard of this claim"
        );
        let of_who_knows = answers(&[(B, Some(of_c), Some(of_c))], &[C]);
        assert_eq!(latest(&of_who_knows, claimed, &Tried::default()).owner, Some(of_c), "B was told");
    }

    #[test]
    fn a_promise_to_this_node_is_void_only_if_it_is_known_to_have_come_to_nothing() {
        let (mine, claimed) = (epoch(2, ME), epoch(3, ME));
        let heard = answers(&[(B, Some(mine), Some(OLD))], &[]);
        assert_eq!(latest(&heard, claimed, &Tried::default()).owner, Some(mine), "it was forgotten what became of it");
        assert!(!latest(&heard, claimed, &tried(2, &[])).may_be_old());
        let again = answers(&[(B, None, Some(OLD))], &[]);
        assert!(!latest(&again, claimed, &tried(3, &[])).may_be_old(), "a try under the same epoch");
    }

    #[test]
    fn who_does_not_know_what_was_before_a_void_promise_leaves_it_open_unless_that_was_heard() {
        let (mine, of_c, claimed) = (epoch(2, ME), epoch(2, C), epoch(3, ME));
        for owner in [Some(mine), None] {
            let heard = answers(&[(B, owner, None)], &[]);
            assert!(latest(&heard, claimed, &tried(2, &[])).may_be_old());
            assert!(latest(&heard, claimed, &tried(2, &[C])).may_be_old());
        }
        let heard = answers(&[(B, Some(mine), None)], &[]);
        assert!(!latest(&heard, claimed, &tried(2, &[B])).may_be_old());
        let under_this_one = answers(&[(B, None, None)], &[]);
        assert!(latest(&under_this_one, claimed, &tried(2, &[B])).may_be_old(), "that answer was lost");
        assert!(!latest(&under_this_one, claimed, &tried(3, &[B])).may_be_old());
        let of_another = answers(&[(B, Some(of_c), None)], &[C]);
        assert!(latest(&of_another, claimed, &tried(2, &[B])).may_be_old(), "C has asked B since");
    }

    #[test]
    fn what_earlier_tries_have_heard_counts() {
        let (of_c, mine, claimed) = (epoch(2, C), epoch(3, ME), epoch(4, ME));
        let mut tried = Tried::default();
        answers(&[(B, Some(OLD), Some(OLD)), (C, Some(of_c), Some(of_c))], &[]).add_to(&mut tried, mine);
        let again = answers(&[(B, Some(mine), Some(OLD))], &[]);
        assert!(latest(&again, claimed, &tried).may_be_old(), "C is gone, and B never knew");
        let (mut stands, mut void) = (Tried::default(), Tried::default());
        for (tried, strangers, owner) in [(&mut stands, &[][..], of_c), (&mut void, &[C], OLD)] {
            tried.refused(of_c);
            answers(&[(B, Some(OLD), Some(OLD))], strangers).add_to(tried, mine);
            assert_eq!(tried.owner(), Some(owner));
        }
    }

    #[test]
    fn a_copy_is_up_to_date_only_with_an_owner_that_told_it_of_everything_and_the_last_one() {
        let claimed = epoch(3, ME);
        let heard = answers(&[(B, Some(OLD), Some(OLD))], &[]);
        assert!(!latest(&heard, claimed, &Tried::default()).may_be_old());
        assert!(heard.latest(claimed, &Tried::default(), |by, _| by != B).may_be_old());
        let mut later = None;
        let context = ContextPath::root();
        let birth = Birth {
            id: SessionId([1; 16]),
            me: C,
            term: Term(0),
            context: &context,
            reach: Reach::Cluster,
            timeout: None,
        };
        replica::create(&mut later, &birth, &[], Moment(1));
        let record = Slot::live(&later);
        assert!(latest(&Answers::default().with_own(ME, record), claimed, &Tried::default()).current.is_some());
        let copy = record.map(|record| record.whole(birth.id, Moment(1)));
        assert!(copy.as_ref().is_some_and(|copy| copy.stamp.epoch < OLD));
        let mut heard = heard;
        let mut copy_of_later = copy;
        copy_of_later.iter_mut().for_each(|copy| copy.stamp.epoch = epoch(2, C));
        heard.promised(E, &Given { copy: copy_of_later, ..given(Some(OLD), None) });
        assert!(latest(&heard, claimed, &Tried::default()).may_be_old(), "there is a commit of a later owner");
    }
}
