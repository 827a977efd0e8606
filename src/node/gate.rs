//! Which session a request works on: its turn, and the ownership if the session is elsewhere.

use smallvec::SmallVec;

use super::{SessionRules, Worker};
use crate::{
    names::{Route, SessionId, SessionToken},
    replication::{Claim, Claimed, core::Wish},
    session::{
        NoTurn, Slots, Turn,
        draft::Draft,
        replica::{self, Reach, Slot, Standing},
    },
    time::Moment,
};

/// A request's way in: its session or a blank draft.
pub(super) struct Entry {
    pub(super) draft: Draft,
    /// Held until the reply is decided; none for a blank draft.
    pub(super) turn: Option<Turn>,
    /// The cookie names another node, or a session that is no more.
    pub(super) cookie_is_stale: bool,
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

/// Why a request was not done. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotDone {
    /// The node of this route should do it.
    AskNode(Route),
    /// Any other node should do it.
    AskAnother,
    /// It waited too long for its turn, or too many wait.
    NoTurn(NoTurn),
    /// The node is full.
    Full,
}

impl Worker {
    /// Finds the first of the request's sessions that exists in this webapp, takes its turn, and makes this node its
    /// owner if need be.
    pub(super) async fn enter(
        &self,
        tokens: &[SessionToken],
        rules: &SessionRules,
        attempt: Attempt,
    ) -> Result<Entry, NotDone> {
        for token in tokens {
            if let Some(turn) = self.admit(token.id, rules, attempt).await? {
                let cookie_is_stale = token.route.as_ref() != Some(&self.house.route);
                return Ok(Entry { draft: self.draft(token.id), turn: Some(turn), cookie_is_stale });
            }
        }
        Ok(Entry { draft: Draft::blank(), turn: None, cookie_is_stale: !tokens.is_empty() })
    }

    /// The turn of a session that this node owns now; none when there is no such session.
    async fn admit(&self, id: SessionId, rules: &SessionRules, attempt: Attempt) -> Result<Option<Turn>, NotDone> {
        let turn = self.house.table.turn(id, self.house.session.turn_timeout).await.map_err(NotDone::NoTurn)?;
        match self.house.table.peek(id, |slot| replica::standing(slot, &rules.context)) {
            Standing::Owned => Ok(Some(turn)),
            Standing::Ended | Standing::OtherWebapp => Ok(None),
            Standing::Unknown if rules.reach == Reach::Node => Ok(None),
            Standing::Unknown | Standing::Held { .. } => {
                let wish = Wish { id, context: rules.context.clone(), insist: attempt != Attempt::Stay };
                match self.replicator.send(Claim(wish)).await {
                    Ok(Claimed::Owner) => Ok(Some(turn)),
                    Ok(Claimed::Nothing) => Ok(None),
                    Ok(Claimed::Elsewhere(route)) => Err(NotDone::AskNode(route)),
                    Ok(Claimed::Contended) | Err(_) => Err(NotDone::AskAnother),
                }
            }
        }
    }

    fn draft(&self, id: SessionId) -> Draft {
        let attributes: SmallVec<[_; 4]> = self
            .house
            .table
            .peek(id, |slot| Slot::live(slot).map(|record| record.attributes().collect()).unwrap_or_default());
        Draft::of(Some(id), attributes)
    }

    /// Notes that the session was used, and tells the holders once in a while.
    pub(super) fn touch(&self, id: SessionId) {
        if self.house.table.with(id, |slot| replica::touch(slot, Moment::now())) {
            self.replicator.do_send(crate::replication::Touch(id));
        }
    }
}
