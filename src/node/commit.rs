//! What a request did to its session: made true here, told to the holders, and taken back if one of them objects.

use std::sync::atomic::Ordering::Relaxed;

use actix_web::rt;
use tracing::warn;

use super::{
    SessionRules, Worker,
    cookie::CookieChange,
    gate::{Admitted, Elsewhere, Entry, NotDone},
};
use crate::{
    limits,
    names::SessionId,
    observe::SessionCounts,
    replication::{Replicate, WouldHold, ledger::Verdict},
    session::{
        Slots, Swept, Turn,
        delta::Update,
        draft::{Change, Draft, Fate},
        replica::{self, Birth, Committed, Kept, NotOwner, Reach, Record, Slot, Standing, Undo},
        stamp::Epoch,
    },
    settings::{Ack, SessionManager},
    time::Moment,
};

/// A request whose reply may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) cookie: CookieChange,
    /// Nodes that hold the write, this one included; none when nothing was written.
    pub(super) copies: Option<usize>,
}

impl Worker {
    /// Commits what the page wants, and waits until the reply may leave.
    ///
    /// Runs to its end even when the client goes away meanwhile: a commit that a holder refuses must be taken back
    /// before the session's next turn.
    pub(super) async fn settle(&self, entry: Entry, draft: Draft, rules: &SessionRules) -> Result<Done, NotDone> {
        let Entry { admitted, cookie_is_stale, .. } = entry;
        let is_read = draft.changes().is_empty() && draft.fate() == Fate::Continues;
        if is_read && !matches!(admitted, Admitted::Beside(_)) {
            return Ok(settle_read(&draft, cookie_is_stale));
        }
        let (worker, rules) = (self.clone(), rules.clone());
        let commit = rt::spawn(async move {
            let (turn, draft) = match admitted {
                Admitted::Blank => (None, draft),
                Admitted::InTurn(turn) => (Some(turn), draft),
                Admitted::Beside(epoch) => worker.join(epoch, draft, &rules).await?,
            };
            let done = match is_read {
                true => Ok(settle_read(&draft, cookie_is_stale)),
                false => worker.settle_write(&draft, &rules, cookie_is_stale).await,
            };
            drop(turn);
            done
        });
        // It is never cancelled, and our own code does not panic; a reply that cannot be proved safe is not given.
        commit.await.unwrap_or(Err(NotDone::Doubtful(None)))
    }

    /// The turn of a request that ran beside others, and its changes on top of what they have done meanwhile.
    ///
    /// What it saw is safe then: a commit that was under way has ended, and none was taken back. That happens only under an
    /// epoch that outranks the one it began under, so then it is to begin again. Commits come one after the other here as
    /// everywhere: the core is promised the same as ever.
    async fn join(&self, epoch: Epoch, draft: Draft, rules: &SessionRules) -> Result<(Option<Turn>, Draft), NotDone> {
        let Some(id) = draft.id() else { return Ok((None, draft)) };
        let turn = self.house.table.turn(id, self.house.session.turn_timeout).await.map_err(NotDone::NoTurn)?;
        let contents = self.contents(id).filter(|_| self.standing(id, rules) == Standing::Owned);
        let (now, contents) = contents.ok_or(NotDone::Overtaken)?;
        if now != epoch {
            return Err(NotDone::Overtaken);
        }
        let draft = draft.rebased(contents).map_err(NotDone::Conflict)?;
        Ok((Some(turn), draft))
    }

    async fn settle_write(&self, draft: &Draft, rules: &SessionRules, cookie_is_stale: bool) -> Result<Done, NotDone> {
        match (draft.id(), draft.fate()) {
            (None, _) if !sets_something(draft) => Ok(Done { cookie: CookieChange::Keep, copies: None }),
            (None, _) => self.begin(draft.changes(), rules).await,
            (Some(id), Fate::Continues) => {
                let copies = self.change(id, draft.changes()).await?;
                let cookie = if cookie_is_stale { CookieChange::Set(id) } else { CookieChange::Keep };
                Ok(Done { cookie, copies: Some(copies) })
            }
            (Some(id), Fate::Renewed) => {
                let all: Vec<Change> =
                    draft.attributes().map(|(name, value)| Change::Set(name.into(), value.clone())).collect();
                self.replace(id, &all, rules).await
            }
            (Some(id), Fate::Ends) if !sets_something(draft) => {
                let copies = self.end(id).await?;
                Ok(Done { cookie: CookieChange::Clear, copies: Some(copies) })
            }
            (Some(id), Fate::Ends) => self.replace(id, draft.changes(), rules).await,
        }
    }

    /// A new session in place of this one. The old one ends last: if the new one cannot begin, nothing has been done, and the
    /// request may be sent to another node.
    async fn replace(&self, id: SessionId, changes: &[Change], rules: &SessionRules) -> Result<Done, NotDone> {
        // One takes the other's room, but an end is remembered beside it.
        if self.house.table.is_full_of_ends(self.house.session.max_sessions.get()) {
            self.tell_full();
            return Err(NotDone::Full);
        }
        let done = self.create(changes, rules).await?;
        let ended = self.end(id).await;
        if let (Err(_), CookieChange::Set(new)) = (&ended, done.cookie) {
            // Nobody was told of it.
            let _ = self.end(new).await;
        }
        Ok(Done { copies: done.copies.min(Some(ended?)), ..done })
    }

    /// Begins a session by its first write, if there is room for one more.
    async fn begin(&self, changes: &[Change], rules: &SessionRules) -> Result<Done, NotDone> {
        if self.house.table.is_full(self.house.session.max_sessions.get()) {
            self.tell_full();
            return Err(NotDone::Full);
        }
        self.create(changes, rules).await
    }

    async fn create(&self, changes: &[Change], rules: &SessionRules) -> Result<Done, NotDone> {
        let table = &self.house.table;
        let placed = table.placed();
        let ids = std::iter::repeat_with(SessionId::draw).take(limits::ID_DRAWS);
        let id = ids.into_iter().find(|id| placed.placement.suits(*id, self.house.me)).unwrap_or_else(SessionId::draw);
        self.check_copies(id, rules.reach).await?;
        let (me, term) = (self.house.me, table.lease().latest());
        let birth = Birth { id, me, term, context: &rules.context, reach: rules.reach, timeout: rules.timeout };
        let committed = table.with(id, |slot| replica::create(slot, &birth, changes, Moment::now()));
        let copies = self.replicate(id, committed, rules.reach).await?;
        Ok(Done { cookie: CookieChange::Set(id), copies: Some(copies) })
    }

    async fn change(&self, id: SessionId, changes: &[Change]) -> Result<usize, NotDone> {
        let reach = self.reach(id);
        self.check_copies(id, reach).await?;
        let (now, table) = (Moment::now(), &self.house.table);
        let (term, is_full) = (table.lease().term(now), self.house.session.manager == SessionManager::Full);
        let committed = table.with(id, |slot| {
            let mut committed = replica::commit(slot, id, changes, term, now)?;
            if let Some(record) = Slot::live(slot).filter(|_| is_full) {
                committed.update = Update::Whole(record.whole(id, now));
            }
            Ok(committed)
        });
        self.replicate(id, committed.map_err(|NotOwner| self.not_owner(id))?, reach).await
    }

    async fn end(&self, id: SessionId) -> Result<usize, NotDone> {
        let reach = self.reach(id);
        self.check_copies(id, reach).await?;
        let (now, table) = (Moment::now(), &self.house.table);
        let term = table.lease().term(now);
        let committed = table.with(id, |slot| replica::end(slot, id, term, now));
        self.replicate(id, committed.map_err(|NotOwner| self.not_owner(id))?, reach).await
    }

    /// How far a session travels: as it was when it began, whatever its webapp says since. Its copies are there, or nowhere.
    fn reach(&self, id: SessionId) -> Reach {
        self.house.table.peek(id, |slot| Slot::live(slot).map_or(Reach::Cluster, Record::reach))
    }

    async fn replicate(&self, id: SessionId, committed: Committed, reach: Reach) -> Result<usize, NotDone> {
        if reach == Reach::Node {
            return Ok(1);
        }
        let Committed { update, undo } = committed;
        let peers = self.house.roster.load().nodes().count();
        // Without an answer the process is going down. Nobody may be told that the write is safe, nor that it was not made.
        let verdict = self.replicator.send(Replicate(update)).await.ok().flatten().ok_or(NotDone::Doubtful(None))?;
        match verdict {
            Verdict::Held(copies) => {
                match self.house.table.with(id, |slot| replica::keep(slot, id, &undo, Moment::now())) {
                    Kept::Stands(told) => self.tell(told),
                    Kept::Ended => return Err(NotDone::AskAnother),
                }
                self.note_copies(copies);
                Ok(copies)
            }
            Verdict::TooFew(copies) => {
                self.retreat(id, undo);
                self.tell_shortage(copies);
                Err(NotDone::TakenBack(self.elsewhere(copies)))
            }
            Verdict::Fenced(promised) => {
                self.give_way(id, undo, promised);
                Err(self.outranked(promised, peers))
            }
            Verdict::Replaced(by) => {
                self.give_way(id, undo, by);
                Err(NotDone::Doubtful(self.house.route_of(by.node)))
            }
            Verdict::Ended(ending) => {
                self.house.table.with(id, |slot| replica::bury(slot, ending, Moment::now()));
                Err(NotDone::AskAnother)
            }
        }
    }

    /// Takes back a commit that a later epoch outranks.
    fn give_way(&self, id: SessionId, undo: Undo, epoch: Epoch) {
        let undone = self.house.table.with(id, |slot| replica::undo(slot, id, undo, epoch, Moment::now()));
        self.tell(undone);
    }

    /// Nobody waits for it.
    fn tell(&self, update: Option<Update>) {
        if let Some(update) = update {
            self.replicator.do_send(Swept(vec![update]));
        }
    }

    /// Refuses a write before it is made when fewer nodes than must hold it would.
    async fn check_copies(&self, id: SessionId, reach: Reach) -> Result<(), NotDone> {
        if reach == Reach::Node || self.house.min_copies <= 1 {
            return Ok(());
        }
        // A closed mailbox: the process is going down, and nothing has been written.
        let copies = self.replicator.send(WouldHold(id)).await.map_err(|_| NotDone::AskAnother)?;
        if copies >= self.house.min_copies {
            return Ok(());
        }
        self.tell_shortage(copies);
        Err(NotDone::TooFewCopies(self.elsewhere(copies)))
    }

    fn elsewhere(&self, copies: usize) -> Elsewhere {
        let live = self.house.roster.load().nodes().count() + 1;
        if live.saturating_sub(copies) >= self.house.min_copies { Elsewhere::Perhaps } else { Elsewhere::No }
    }

    /// Takes back what too few hold. Those who took it hear what has become of a session that nobody was told of.
    fn retreat(&self, id: SessionId, undo: Undo) {
        let (me, now) = (self.house.me, Moment::now());
        let ended = self.house.table.with(id, |slot| replica::retreat(slot, id, undo, me, now));
        self.tell(ended);
    }

    fn tell_full(&self) {
        if self.house.full.note(Moment::now()) {
            let (route, table, refused) = (&self.house.route, &self.house.table, self.house.full.count());
            let SessionCounts { owned, held } = table.counts();
            warn!(
                %route, sessions = owned + held, ended = table.remembered(), refused,
                "new sessions are refused: this node keeps as many as it may (session.max_sessions)"
            );
        }
    }

    /// A write was answered that no other node holds. Where there has never been another one, or none is waited for, that is as
    /// it should be.
    fn note_copies(&self, copies: usize) {
        let should_have_more = self.house.session.ack != Ack::None && self.house.had_others.load(Relaxed);
        if copies < 2 && should_have_more && self.house.alone.note(Moment::now()) {
            let (route, writes) = (&self.house.route, self.house.alone.count());
            warn!(%route, writes, "answered writes are held by this node only: no other node confirmed them in time");
        }
    }

    fn tell_shortage(&self, copies: usize) {
        if self.house.shortage.note(Moment::now()) {
            let (route, wanted, refused) = (&self.house.route, self.house.min_copies, self.house.shortage.count());
            warn!(%route, copies, wanted, refused, "writes are refused: too few nodes would hold them (cluster.min_copies)");
        }
    }

    /// It was the owner when the request came. If only its lease ran out since, it may soon be that again; if it has heard
    /// that it was replaced, that one is to be asked.
    fn not_owner(&self, id: SessionId) -> NotDone {
        let owner = self.house.table.peek(id, |slot| Slot::live(slot).map(|record| record.promised().node));
        let route = match owner.filter(|owner| *owner != self.house.me) {
            Some(other) => self.house.route_of(other),
            None => Some(self.house.route.clone()),
        };
        route.map_or(NotDone::AskAnother, NotDone::AskNode)
    }

    /// `peers` were there to be told of the commit; one that has gone since may come back with it.
    fn outranked(&self, promised: Epoch, peers: usize) -> NotDone {
        let owner = self.house.route_of(promised.node);
        // With a single peer, which has refused, nobody else can hold the commit.
        match peers.max(self.house.roster.load().nodes().count()) {
            0 | 1 => owner.map_or(NotDone::AskAnother, NotDone::AskNode),
            _ => NotDone::Doubtful(owner),
        }
    }
}

/// Whether there is something to begin a session with: what was set and removed again is nothing.
fn sets_something(draft: &Draft) -> bool {
    draft.changes().iter().any(|change| matches!(change, Change::Set(..)))
}

fn settle_read(draft: &Draft, cookie_is_stale: bool) -> Done {
    let stale = draft.id().filter(|_| cookie_is_stale);
    Done { cookie: stale.map_or(CookieChange::Keep, CookieChange::Set), copies: None }
}
