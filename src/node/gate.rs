//! Which session a request works on: its turn, and the ownership if the session is elsewhere.

use std::sync::Arc;

use actix_web::rt;
use smallvec::SmallVec;

use super::{SessionRules, Worker, cookie::Brought};
use crate::{
    names::{Route, SessionId},
    replication::{Claim, Claimed, Touch, core::Wish},
    session::{
        NoTurn, Slots, Swept, Turn,
        draft::{Draft, Refused},
        replica::{self, Reach, Slot, Standing, Visited},
        stamp::Epoch,
        value::Value,
    },
    time::Moment,
    webapp::Concurrency,
};

/// The attributes of a session.
pub(super) type Contents = SmallVec<[(Arc<str>, Value); 4]>;

/// A request's way in: its session or a blank draft.
pub(super) struct Entry {
    pub(super) draft: Draft,
    pub(super) admitted: Admitted,
    /// The cookie names another node, or a session that is no more.
    pub(super) cookie_is_stale: bool,
}

/// How a request was let to its session.
pub(super) enum Admitted {
    /// It has none yet.
    Blank,
    /// In its turn, which is held until the reply is decided.
    InTurn(Turn),
    /// Beside others, when this node owned the session under this epoch. Their turns come when they are done.
    Beside(Epoch),
}

/// Who decides where a request goes if it cannot be done here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Our balancer, which would rather go to the owner.
    Stay,
    /// Our balancer, which could not reach the owner.
    Move,
    /// Nobody: another front, or a client. The session comes here.
    Direct,
}

/// Whether a write that lacks copies here may find enough of them on the other side of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// So many live nodes are out of this one's reach that they may be enough for each other.
    Perhaps,
    /// They are not, or they are not there.
    No,
}

/// Why a request was not done. Nothing was changed, unless the reason says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotDone {
    /// The node of this route should do it.
    AskNode(Route),
    /// Any other node should do it.
    AskAnother,
    /// It ran beside others, and another node has had the session meanwhile. What its page saw may have been taken back, so
    /// the page is to be rendered again, here.
    Overtaken,
    /// Another node, perhaps the one of this route, claimed the session while the commit was under way: it was taken back
    /// here, but a third node may have held it already and passed it on. Only a request that may be done twice should be
    /// done again.
    Doubtful(Option<Route>),
    /// Too few nodes would hold its write, so it was not made.
    TooFewCopies(Elsewhere),
    /// Too few nodes came to hold its write, so it was taken back; who holds it all the same may pass it on.
    TakenBack(Elsewhere),
    /// It waited too long for its turn, or too many wait.
    NoTurn(NoTurn),
    /// Another request has changed the session meanwhile, and both changes together cannot be.
    Conflict(Refused),
    /// The node is full.
    Full,
}

impl Entry {
    /// Whether another node may take the session while the page is rendered.
    pub(super) fn may_be_overtaken(&self) -> bool {
        matches!(self.admitted, Admitted::Beside(_))
    }
}

impl Worker {
    /// Finds the first of the request's sessions that exists in this webapp, takes its turn, and makes this node its
    /// owner if need be.
    pub(super) async fn enter(
        &self,
        tokens: &[Brought],
        rules: &SessionRules,
        attempt: Attempt,
    ) -> Result<Entry, NotDone> {
        for Brought { token, is_in_path } in tokens {
            if let Some(turn) = self.admit(token.id, rules, attempt).await? {
                let cookie_is_stale = !is_in_path && token.route.as_ref() != Some(&self.house.route);
                let Some((epoch, attributes)) = self.contents(token.id) else { continue };
                let draft = self.compared(Draft::of(Some(token.id), attributes));
                let admitted = turn.map_or(Admitted::Beside(epoch), Admitted::InTurn);
                return Ok(Entry { draft, admitted, cookie_is_stale });
            }
        }
        let draft = self.compared(Draft::blank());
        let cookie_is_stale = tokens.iter().any(|brought| !brought.is_in_path);
        Ok(Entry { draft, admitted: Admitted::Blank, cookie_is_stale })
    }

    /// Lets a request to a session that this node owns now: in its turn, or without one where requests run side by side. None
    /// when there is no such session.
    async fn admit(
        &self,
        id: SessionId,
        rules: &SessionRules,
        attempt: Attempt,
    ) -> Result<Option<Option<Turn>>, NotDone> {
        let is_beside = rules.concurrency == Concurrency::Parallel;
        if is_beside && self.standing(id, rules) == Standing::Owned {
            return Ok(self.still_runs(id).then_some(None));
        }
        // A session that has to be claimed is claimed once, so all take turns for that.
        let turn = self.take_turn(id, rules, attempt).await?;
        Ok(turn.map(|turn| Some(turn).filter(|_| !is_beside)))
    }

    async fn take_turn(&self, id: SessionId, rules: &SessionRules, attempt: Attempt) -> Result<Option<Turn>, NotDone> {
        let turn = self.house.table.turn(id, self.house.session.turn_timeout).await.map_err(NotDone::NoTurn)?;
        let turn = match self.standing(id, rules) {
            Standing::Owned => Some(turn),
            Standing::Ended | Standing::OtherWebapp => None,
            Standing::Unknown if rules.reach == Reach::Node => None,
            Standing::Unknown | Standing::Held { .. } => {
                let wish = Wish { id, context: rules.context.clone(), insist: attempt != Attempt::Stay };
                self.claim(wish, turn).await?
            }
        };
        Ok(turn.filter(|_| self.still_runs(id)))
    }

    pub(super) fn standing(&self, id: SessionId, rules: &SessionRules) -> Standing {
        let term = self.house.table.lease().term(Moment::now());
        self.house.table.peek(id, |slot| replica::standing(slot, &rules.context, term))
    }

    /// Asks for the session while holding its turn, to the end even when the client goes away meanwhile: the next
    /// request would otherwise begin a claim of its own beside this one, and each would outrank the other.
    async fn claim(&self, wish: Wish, turn: Turn) -> Result<Option<Turn>, NotDone> {
        let replicator = self.replicator.clone();
        let claim = rt::spawn(async move { (replicator.send(Claim(wish)).await, turn) });
        match claim.await {
            Ok((Ok(Claimed::Owner), turn)) => Ok(Some(turn)),
            Ok((Ok(Claimed::Nothing), _)) => Ok(None),
            Ok((Ok(Claimed::Elsewhere(route)), _)) => Err(NotDone::AskNode(route)),
            Ok((Ok(Claimed::Contended) | Err(_), _)) | Err(_) => Err(NotDone::AskAnother),
        }
    }

    /// What is in a live session now, and the highest epoch that was promised here.
    pub(super) fn contents(&self, id: SessionId) -> Option<(Epoch, Contents)> {
        let all =
            |slot: &Option<Slot>| Slot::live(slot).map(|record| (record.promised(), record.attributes().collect()));
        self.house.table.peek(id, all)
    }

    fn compared(&self, draft: Draft) -> Draft {
        if self.house.session.dirty_flag { draft } else { draft.comparing() }
    }

    /// Notes at the start of a request that the session is used, so that no sweep ends it under the page's hands, and
    /// tells the holders once in a while. A session whose time was over is ended: the next sweep may be seconds away.
    fn still_runs(&self, id: SessionId) -> bool {
        let (now, table) = (Moment::now(), &self.house.table);
        let term = table.lease().term(now);
        match table.with(id, |slot| replica::visit(slot, id, term, now)) {
            Visited::Fresh => true,
            Visited::Tell => {
                self.replicator.do_send(Touch(id));
                true
            }
            Visited::Over(ended) => {
                self.replicator.do_send(Swept(ended.into_iter().collect()));
                false
            }
        }
    }
}
