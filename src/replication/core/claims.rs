//! Claims on their way: who is asked, who is waited for, and what becomes of the answers.
//!
//! ```text
//!   no lease, outranked again: parked ─► owner asked ─► everyone asked ─► adopted
//!                          │                │
//!                          └─ serves: elsewhere    outranked, lease ran out, another owner named: once more
//! ```
//!
//! A member that gives no answer is left out only when it cannot act as the owner any more. All tries of a claim
//! together end in bounded time.

use std::{collections::BTreeMap, time::Duration};

use smallvec::SmallVec;

use super::{
    ClaimEnded, ClaimId, Core, Port, Queued, Wish,
    answers::Answers,
    missing::{is_recent, most_together},
    telling::whole,
};
use crate::{
    limits,
    names::{NodeId, SessionId},
    replication::{
        frame::{Request, Ticket},
        ledger::Ledger,
    },
    session::{
        Slots,
        claim::{Claim, Outcome},
        delta::{Answer, ClaimRequest, Ending, Given},
        lease::Term,
        placement::Spread,
        replica::{self, Adoption, Intent, Record, Slot},
        stamp::{Epoch, Stamp},
        tries::Tried,
    },
    time::Moment,
};

/// A claim on its way, however often it is tried.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) for_whom: ClaimId,
    pub(super) wish: Wish,
    pub(super) tries: usize,
    /// An epoch that refused an earlier try.
    pub(super) above: Option<Epoch>,
    /// Who is the owner, as others said.
    pub(super) owner: Option<NodeId>,
    /// When it has failed.
    pub(super) end: Moment,
    /// Until when it leaves the session to somebody else's claim.
    pub(super) rests_until: Moment,
    /// What its tries have heard, and those of claims before it.
    pub(super) tried: Tried,
}

/// One try of a claim.
#[derive(Debug)]
pub(super) struct Asking {
    errand: Errand,
    pub(super) claim: Claim,
    intent: Intent,
    /// In which it began.
    term: Term,
    round: Round,
    /// The newest commit that was held here or came with an earlier round.
    have: Option<Stamp>,
    /// Who is waited for and could not be asked yet: no link, or no room.
    pub(super) unasked: SmallVec<[NodeId; 4]>,
    /// Who may know of the session and was not heard.
    unheard: SmallVec<[NodeId; 4]>,
    answers: Answers,
    /// Who was asked once more because the others take it for the owner, and it did not know of the session.
    doubted: Option<NodeId>,
}

/// Whom a claim has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// The owner alone. Its running request commits before it hands over; were the others asked at the same time, or did
    /// this node claim already, they would refuse that commit, and perhaps not all of them.
    Owner(NodeId),
    /// All other members as well.
    Everyone,
}

impl<S: Slots> Core<S> {
    /// How long a member may take to answer, or to lose what it was granted.
    pub(super) fn claim_patience(&self) -> Duration {
        self.config.claim_timeout.max(self.grant_span())
    }

    /// How long a member may act on a lease, with a margin for clocks that do not run alike.
    fn grant_span(&self) -> Duration {
        self.config.lease * 13 / 12
    }

    pub(super) fn ask(&mut self, mut errand: Errand, now: Moment, port: &mut impl Port) {
        if errand.end <= now || errand.tries > limits::CLAIM_TRIES {
            return self.failed(errand, now, port);
        }
        // Read before anybody is asked: what they say counts only as long as this term holds.
        let Some(term) = self.slots.lease().term(now) else {
            return self.parked.push(errand);
        };
        let (me, id, above) = (self.slots.me(), errand.wish.id, errand.above);
        let intent = self.slots.with(id, |slot| replica::intent(slot, me, above));
        if intent.epoch == Epoch::unheard(me) {
            // Only to hear of it.
            errand.tries -= 1;
        }
        self.next_ticket = self.next_ticket.wrapping_add(1);
        // Since it was refused this node may have heard of a later owner, who is to be asked before the others.
        let owner = errand.owner.or(above.max(intent.promised).map(|epoch| epoch.node));
        let owner = owner.filter(|owner| self.may_answer(*owner, now));
        let round = match owner {
            Some(owner) => Round::Owner(owner),
            None => {
                // Never refused: the epoch was made to outrank what is promised here, a moment ago.
                let _ = self.slots.with(id, |slot| replica::claim(slot, intent.epoch));
                Round::Everyone
            }
        };
        let (claim, have, unasked, unheard) =
            (Claim::new(intent.epoch, []), intent.have, SmallVec::new(), SmallVec::new());
        let answers = Answers::default();
        let asking = Asking { errand, claim, intent, term, round, have, unasked, unheard, answers, doubted: None };
        self.ask_round(self.next_ticket, asking, (None, Given::default()), now, port);
    }

    /// Asks whom this round is about, but for a member that the round before has heard, and adds what that has brought.
    fn ask_round(
        &mut self,
        ticket: Ticket,
        mut asking: Asking,
        (but, given): (Option<NodeId>, Given),
        now: Moment,
        port: &mut impl Port,
    ) {
        let given = given.and(Given { owner: asking.intent.before, ..Given::default() });
        asking.have = asking.have.max(given.copy.as_ref().map(|copy| copy.stamp));
        let wanted = |peer: &NodeId| match asking.round {
            Round::Owner(owner) => *peer == owner,
            Round::Everyone => Some(*peer) != but,
        };
        // Who is not on the list any more may be alive, and act as an owner until what was granted has run out.
        let others = self.slots.lease().granted(self.grant_span(), now);
        let others = others.into_iter().filter(|other| !self.nodes.contains_key(other));
        let (silent, waited_for): (Vec<NodeId>, Vec<NodeId>) =
            self.nodes.keys().copied().chain(others).filter(wanted).partition(|peer| self.leaves_out(*peer, now));
        asking.claim = Claim::new(asking.intent.epoch, waited_for.iter().copied()).with(given);
        asking.unheard.extend(silent.iter().copied());
        // Those who are not waited for are told all the same, that they refuse an owner whom this claim outranks.
        asking.unasked = silent.into_iter().chain(waited_for).collect();
        ask_unasked((&ticket, &mut asking), &self.ledger, port);
        let outcome = asking.claim.outcome();
        self.claims.insert(ticket, asking);
        self.claim_ended(ticket, outcome, now, port);
    }

    fn may_answer(&self, member: NodeId, now: Moment) -> bool {
        self.nodes.contains_key(&member) && !self.leaves_out(member, now)
    }

    /// Whether a claim does without a member's answer: it may not act as an owner, because no lease that was granted here
    /// holds, and its process has ended, or it is known to be silent or not a member any more. One that is late and nothing
    /// of these is alive, and may have answered a write that nobody else holds. So is one that asks for its lease although
    /// nobody seems to listen on its port.
    fn leaves_out(&self, member: NodeId, now: Moment) -> bool {
        let lease = self.slots.lease();
        let may_act = lease.is_granted(member, self.grant_span(), now);
        !may_act && (self.gone.contains(&member) || lease.is_silent(member) || !self.nodes.contains_key(&member))
    }

    /// Whether a member that was not heard may have what nobody else has heard of. One that is silent for very long is
    /// as good as gone, whatever membership says.
    fn may_know(&self, member: NodeId, now: Moment) -> bool {
        let since = self.slots.lease().silent_since(member).unwrap_or(now);
        self.nodes.contains_key(&member) && !self.gone.contains(&member) && now.since(since) < limits::UNHEARD
    }

    /// A live member that the others have promised the session to, and that said it does not know it: its own claim was
    /// under way then, and may have ended well since. All others have promised this one by now, so a claim that it begins
    /// later is refused; the answer to one more question is its last word.
    fn doubtful(&self, asking: &Asking, given: &Given, now: Moment) -> Option<NodeId> {
        let id = asking.errand.wish.id;
        let promised = self.slots.with(id, |slot| Slot::live(slot).map(|record| record.promised()));
        let owner = given.owner.max(promised)?.node;
        let is_new = asking.doubted != Some(owner);
        (is_new && asking.claim.ignorant().contains(&owner) && self.may_answer(owner, now)).then_some(owner)
    }

    /// An answer to a claim, for whoever judges later what is found.
    pub(super) fn heard(&mut self, ticket: Ticket, from: NodeId, answer: &Answer) {
        let me = self.slots.me();
        let asking = self.claims.get_mut(&ticket).filter(|asking| asking.claim.waiting().contains(&from));
        let Some(Asking { answers, errand, .. }) = asking else { return };
        match answer {
            Answer::Promised(given) => answers.promised(from, given),
            Answer::Unknown => answers.unknown(from),
            Answer::Refused(by) if by.node != me => errand.tried.refused(*by),
            Answer::Refused(_) | Answer::Ended(..) | Answer::Owned(_) => {}
        }
    }

    /// Whether a node was among those that an owner told of its commits, when that was last heard.
    fn was_told(&self, id: SessionId, owner: NodeId, node: NodeId, now: Moment) -> bool {
        let lost = self.missing.nodes(now).find(|(missing, _)| *missing == owner).map(|(_, since)| since);
        let then = lost.or(self.slots.lease().silent_since(owner)).unwrap_or(now);
        self.missing.placement(then).is_told(id, owner, node)
    }

    /// Whether the copies that were found may all be older than what nodes have answered that were not heard.
    fn may_be_old(&self, asking: &Asking, given: &Given, now: Moment) -> bool {
        if self.placement.spread() == Spread::Everywhere {
            return false;
        }
        let (me, id, lease) = (self.slots.me(), asking.errand.wish.id, self.slots.lease());
        let silent =
            asking.unheard.iter().filter(|member| self.nodes.contains_key(member) && !self.gone.contains(member));
        let silent = silent.map(|member| (*member, lease.silent_since(*member).unwrap_or(now)));
        let unheard: BTreeMap<NodeId, Moment> = silent.chain(self.missing.nodes(now)).collect();
        let losses: Vec<Moment> = unheard.into_values().filter(|since| is_recent(*since, now)).collect();
        // A single one cannot have answered anything by itself.
        if most_together(&losses) < 2 {
            return false;
        }
        let (answers, promised) = self.slots.with(id, |slot| {
            let record = Slot::live(slot);
            (asking.answers.with_own(me, record), record.map(Record::promised))
        });
        let (epoch, has_copy) = (asking.intent.epoch, promised.is_some() || given.copy.is_some());
        if !has_copy || promised > Some(epoch) {
            return false;
        }
        // A copy of a member that was not told of the last owner's commits may be an old one, though it knows of nobody who
        // has gone on.
        let is_told = |member, owner: Epoch| self.was_told(id, owner.node, member, now);
        answers.latest(epoch, &asking.errand.tried, is_told).may_be_old()
    }

    pub(super) fn tick_claims(&mut self, now: Moment, port: &mut impl Port) {
        let (resting, due) = std::mem::take(&mut self.parked).into_iter().partition(|errand| errand.rests_until > now);
        self.parked = resting;
        due.into_iter().for_each(|errand: Errand| self.ask(errand, now, port));
        for ticket in self.tickets() {
            self.tick_claim(ticket, now, port);
        }
    }

    fn tick_claim(&mut self, ticket: Ticket, now: Moment, port: &mut impl Port) {
        let Some(asking) = self.claims.get(&ticket) else { return };
        let waiting = asking.claim.waiting().iter().copied();
        let left_out: Vec<NodeId> = waiting.filter(|member| self.leaves_out(*member, now)).collect();
        let Some(asking) = self.claims.get_mut(&ticket) else { return };
        let outcome = left_out.into_iter().fold(None, |ended, member| asking.lose(member).or(ended));
        match outcome {
            None if asking.errand.end <= now => self.give_up(ticket, now, port),
            None => ask_unasked((&ticket, asking), &self.ledger, port),
            ended => self.claim_ended(ticket, ended, now, port),
        }
    }

    /// Somebody who may act as the owner does not answer.
    fn give_up(&mut self, ticket: Ticket, now: Moment, port: &mut impl Port) {
        if let Some(asking) = self.claims.remove(&ticket) {
            self.failed(asking.tried(), now, port);
        }
    }

    /// A claim has come to nothing, and may be made again: by a user who tries once more.
    fn failed(&mut self, errand: Errand, now: Moment, port: &mut impl Port) {
        self.slots.with(errand.wish.id, replica::withdraw);
        self.remember(errand.wish.id, errand.tried, now);
        port.claimed(errand.for_whom, ClaimEnded::Contended);
    }

    /// Where all hold everything, it does not matter who has seen what.
    fn remember(&self, id: SessionId, tried: Tried, now: Moment) {
        if self.placement.spread() != Spread::Everywhere {
            self.slots.tries().keep(id, tried, now);
        }
    }

    pub(super) fn claim_ended(&mut self, ticket: Ticket, outcome: Option<Outcome>, now: Moment, port: &mut impl Port) {
        let Some(outcome) = outcome else { return };
        let Some(mut asking) = self.claims.remove(&ticket) else { return };
        let id = asking.errand.wish.id;
        let ended = match outcome {
            Outcome::Take(_) if self.slots.lease().term(now) != Some(asking.term) => {
                let errand = asking.tried();
                return self.ask(Errand { tries: errand.tries + 1, above: None, ..errand }, now, port);
            }
            Outcome::Take(given) if let Round::Owner(owner) = asking.round => {
                if let Err(above) = self.slots.with(id, |slot| replica::claim(slot, asking.intent.epoch)) {
                    return self.ask_again(asking.tried(), above, now, port);
                }
                asking.round = Round::Everyone;
                // It has handed over, or is not there any more, whatever the others believe.
                asking.errand.wish.insist = true;
                // Who does not know the session may be about to own it.
                let heard = (!asking.claim.ignorant().contains(&owner)).then_some(owner);
                return self.ask_round(ticket, asking, (heard, given), now, port);
            }
            Outcome::Take(given) if let Some(member) = self.doubtful(&asking, &given, now) => {
                asking.doubted = Some(member);
                asking.claim = Claim::new(asking.intent.epoch, [member]).with(given);
                asking.unasked.push(member);
                ask_unasked((&ticket, &mut asking), &self.ledger, port);
                self.claims.insert(ticket, asking);
                return;
            }
            Outcome::Take(given) if self.may_be_old(&asking, &given, now) => {
                return self.failed(asking.tried(), now, port);
            }
            Outcome::Ended(ending) => self.found_ended(id, ending, asking.intent.epoch, now, port),
            Outcome::Stay(owner) => {
                self.slots.with(id, replica::withdraw);
                let errand = asking.tried();
                self.remember(id, errand.tried, now);
                return port.claimed(errand.for_whom, ClaimEnded::Elsewhere(owner));
            }
            Outcome::Hearsay(owner) => {
                self.slots.with(id, replica::withdraw);
                let mut errand = asking.tried();
                errand.wish.insist |= !self.may_answer(owner, now);
                let errand = Errand { tries: errand.tries + 1, above: None, owner: Some(owner), ..errand };
                return self.ask(errand, now, port);
            }
            Outcome::Refused(above) => return self.ask_again(asking.tried(), above, now, port),
            Outcome::Take(given) => {
                let (epoch, term) = (asking.intent.epoch, asking.term);
                let before = given.owner.max(asking.intent.before);
                match self.slots.with(id, |slot| replica::adopt(slot, epoch, given, term, now)) {
                    Adoption::Owner => {
                        self.tell_stragglers(id, now, port);
                        // One that is not on the list was not asked.
                        let is_off = |node: &NodeId| !self.nodes.contains_key(node) && *node != self.slots.me();
                        let before = before.map(|before| before.node).filter(is_off);
                        asking.unheard.extend(before);
                        self.tell_unheard(&asking.unheard, id, epoch, port);
                        ClaimEnded::Owner
                    }
                    Adoption::Nothing if asking.unheard.iter().any(|member| self.may_know(*member, now)) => {
                        return self.failed(asking.tried(), now, port);
                    }
                    Adoption::Nothing => ClaimEnded::Nothing,
                    Adoption::Ended(ending) => self.found_ended(id, ending, epoch, now, port),
                    Adoption::Superseded(above) => return self.ask_again(asking.tried(), above, now, port),
                }
            }
        };
        port.claimed(asking.errand.for_whom, ended);
    }

    /// Those who were asked before may have promised the claim, and refuse an end of a lower rank.
    fn found_ended(
        &mut self,
        id: SessionId,
        ending: Ending,
        claimed: Epoch,
        now: Moment,
        port: &mut impl Port,
    ) -> ClaimEnded {
        self.end_everywhere(id, ending.raised_to(claimed), now, port);
        ClaimEnded::Nothing
    }

    /// The last owner's latest commits may still be on their way to some, who refuse them from now on. With a single other
    /// node there is nobody whom this node or that one does not know to hold what it holds.
    fn tell_stragglers(&mut self, id: SessionId, now: Moment, port: &mut impl Port) {
        if self.nodes.len() > 1
            && let Some(update) = self.slots.with(id, |slot| whole(slot, id, now))
        {
            self.announce(&update, now, port);
        }
    }

    /// A member that was not heard may be the last owner, and be heard by others, which confirm its lease: they tell it. So does
    /// this node itself, if it is only the other direction that fails. Also one that seems to have ended: a firewall looks
    /// the same.
    fn tell_unheard(&self, unheard: &[NodeId], id: SessionId, epoch: Epoch, port: &mut impl Port) {
        for member in unheard {
            for peer in self.ledger.peers() {
                // Where there is no room the next commit of the last owner is refused.
                let _ = port.send(peer, &Request::Replaces { member: *member, id, epoch });
            }
        }
    }

    fn ask_again(&mut self, errand: Errand, above: Epoch, now: Moment, port: &mut impl Port) {
        if errand.tries >= limits::CLAIM_TRIES || errand.end <= now {
            // A promise to this node itself, of an earlier claim, is no ownership.
            if above.node != self.slots.me() {
                self.slots.with(errand.wish.id, |slot| replica::yield_to(slot, above));
            }
            return self.failed(errand, now, port);
        }
        // What others said of its owner is older than this.
        let again = Errand { tries: errand.tries + 1, above: Some(above), owner: None, ..errand };
        match rest(errand.tries, above.node > self.slots.me()) {
            Duration::ZERO => self.ask(again, now, port),
            rest => self.parked.push(Errand { rests_until: now + rest, ..again }),
        }
    }
}

impl Asking {
    /// A member is not waited for any more.
    pub(super) fn lose(&mut self, member: NodeId) -> Option<Outcome> {
        if self.claim.waiting().contains(&member) {
            self.unheard.push(member);
        }
        self.claim.lost(member)
    }

    /// The claim, after a try that has come to nothing.
    fn tried(mut self) -> Errand {
        self.answers.add_to(&mut self.errand.tried, self.intent.epoch);
        self.errand
    }
}

/// How long to leave the session to the claim that has outranked this one `tries` times. Of two nodes the same one waits, so
/// that the other one comes to an end.
fn rest(tries: usize, is_theirs_higher: bool) -> Duration {
    match tries.checked_sub(2) {
        Some(doublings) if is_theirs_higher => limits::CLAIM_REST * (1 << doublings),
        _ => Duration::ZERO,
    }
}

/// Asks those who could not be asked before and now have a link and room.
pub(super) fn ask_unasked((ticket, asking): (&Ticket, &mut Asking), ledger: &Ledger, port: &mut impl Port) {
    if asking.unasked.is_empty() {
        return;
    }
    let Wish { id, ref context, insist } = asking.errand.wish;
    let request = ClaimRequest { id, epoch: asking.intent.epoch, context: context.clone(), have: asking.have, insist };
    let message = Request::Claim(*ticket, request);
    let is_linked = |peer| ledger.peers().any(|linked| linked == peer);
    asking.unasked.retain(|peer| !(is_linked(*peer) && port.send(*peer, &message) == Queued::Yes));
}
