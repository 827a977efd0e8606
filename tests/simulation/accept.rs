//! The other end of the links, as `replication/accept.rs` has it.

use bytes::BytesMut;
use tasuki::{
    names::NodeId,
    replication::{
        frame::{self, Reply, Request, Ticket},
        intake,
        ledger::{Objection, Sequence},
        survey,
    },
    session::{
        Slots,
        delta::{Answer, ClaimRequest, Update, Whole},
        replica::{self, Applied},
    },
    time::Moment,
};

use crate::{
    Canary, canary,
    cluster::{Cluster, machine_of},
    node::{CLAIM_TIMEOUT, Input, MERGE_PATIENCE, Who},
    slots::SimSlots,
    story,
    wire::{ConnId, End},
    world::Event,
};

/// A claim at the accepting side.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    conn: ConnId,
    ticket: Ticket,
    request: ClaimRequest,
}

/// One accepted link.
#[derive(Debug)]
pub(crate) struct Incoming {
    from: NodeId,
    received: Sequence,
    input: BytesMut,
}

impl Incoming {
    /// A link that a node has just opened.
    pub(crate) fn new(from: NodeId) -> Self {
        Self { from, received: 0, input: BytesMut::new() }
    }
}

impl Cluster {
    /// Bytes of a link: every complete frame is handled, and all updates are acknowledged at once.
    pub(crate) fn requests(&mut self, id: NodeId, conn: ConnId, bytes: &[u8]) {
        let machine = machine_of(id);
        let (now, canary) = (self.moment(id), self.canary);
        let node = self.machines[machine].node.as_mut().filter(|node| node.id == id);
        let Some(node) = node else { return };
        let (slots, Some(incoming)) = (&node.slots, node.incoming.get_mut(&conn)) else { return };
        incoming.input.extend_from_slice(bytes);
        let (before, mut replies, mut merges) = (incoming.received, Vec::new(), Vec::new());
        let mut passed_on = Vec::new();
        while let Some(request) = frame::take_request(&mut incoming.input, incoming.from).expect("bytes are frames") {
            match request {
                Request::Update(update) if canary == Some(Canary::AckBeforeApply) => {
                    incoming.received += 1;
                    let delay_us = self.world.between(1_000, 40_000);
                    self.world.after(delay_us, Event::Node(id, Input::LateApply(update)));
                }
                Request::Update(update) => {
                    incoming.received += 1;
                    story::tell(update.id(), id, || format!("from {:?}: {update:?}", incoming.from));
                    match take_update(slots, update, now, canary) {
                        Taken::Held => {}
                        Taken::Refused(objection) => replies.push(Reply::Objection(incoming.received, objection)),
                        Taken::Merge(merge) => merges.push(merge),
                    }
                }
                Request::Touch { id, idle } => slots.with(id, |slot| replica::touched(slot, idle, now)),
                Request::Renew { at } => {
                    slots.lease().grant(incoming.from, now);
                    replies.push(Reply::Renewed { at });
                }
                Request::Compare(question) => {
                    let finding = survey::compare(slots, incoming.from, &question, now);
                    replies.push(Reply::Compared(canary::finding(canary, finding)));
                }
                Request::Copies(batch) => {
                    for copy in batch.copies().flatten().filter(|_| story::is_told()) {
                        story::tell(copy.id, id, || format!("from {:?}: {copy:?}", incoming.from));
                    }
                    let taken = intake::take(slots, &batch, now).expect("our own bytes are copies");
                    let intake::Taken { ended, outranked, later } = taken;
                    replies.push(Reply::Took { batch: batch.number, ended, outranked });
                    merges.extend(later.into_iter().map(|copy| Merge::Later(copy.into())));
                }
                Request::Replaces { .. } if canary == Some(Canary::ReplacedUntold) => {}
                Request::Replaces { member, id, epoch } if member == slots.me() => {
                    slots.with(id, |slot| replica::replaced(slot, epoch));
                }
                Request::Replaces { member, id, epoch } => passed_on.push((member, Reply::Replaced(id, epoch))),
                // A drain pushes nothing here: whoever claims what was offered does as a request would.
                Request::Offer { .. } => {}
                Request::Claim(ticket, request) => {
                    let delay_us = self.world.between(0, 200);
                    self.world.after(delay_us, Event::Node(id, Input::Asked(Ask { conn, ticket, request })));
                }
            }
        }
        replies.extend((incoming.received > before).then_some(Reply::Ack(incoming.received)));
        let link = |member| node.incoming.iter().find(|(_, incoming)| incoming.from == member).map(|(conn, _)| *conn);
        let passed_on: Vec<_> =
            passed_on.into_iter().filter_map(|(member, reply)| Some((link(member)?, reply))).collect();
        self.reply(conn, &replies);
        passed_on.into_iter().for_each(|(link, reply)| self.reply(link, &[reply]));
        for merge in merges {
            match merge {
                Merge::Done(update) => self.tell_later(id, Some(*update)),
                Merge::Later(copy) => {
                    let Some(node) = self.node_mut(id) else { return };
                    node.next_ask += 1;
                    let (session, who) = (copy.id, Who::Merge(node.next_ask));
                    node.merges.insert(node.next_ask, *copy);
                    self.want_turn(id, session, who, MERGE_PATIENCE);
                }
            }
        }
    }

    /// `Doorway::merge`, once the turn has come.
    pub(crate) fn merge(&mut self, id: NodeId, copy: Whole) {
        let now = self.moment(id);
        let Some(node) = self.node_mut(id) else { return };
        if let Applied::Merged(update) = node.slots.with(copy.id, |slot| replica::merge_copy(slot, copy, now)) {
            self.tell_later(id, Some(*update));
        }
    }

    /// What nobody waits for goes through the mailbox of a replicator.
    pub(crate) fn tell_later(&mut self, id: NodeId, update: Option<Update>) {
        let (Some(update), Some(node)) = (update, self.node_mut(id)) else { return };
        node.tells_under_way += 1;
        let delay_us = self.world.between(0, 100);
        self.world.after(delay_us, Event::Node(id, Input::Tell(update)));
    }

    /// Writes to the node that opened a link.
    pub(crate) fn reply(&mut self, conn: ConnId, replies: &[Reply]) {
        let mut out = BytesMut::new();
        replies.iter().for_each(|reply| frame::put_reply(&mut out, reply));
        self.wire.write(conn, End::Dialer, &out, &mut self.world);
    }

    /// `Doorway::claim`: a session that this node owns and is to give away is given after its running request.
    pub(crate) fn asked(&mut self, id: NodeId, ask: Ask) {
        let session = ask.request.id;
        let now = self.moment(id);
        let Some(node) = self.node_mut(id) else { return };
        let (term, serves) = (node.slots.lease().term(now), node.serves(id));
        let is_given_away = node.slots.with(session, |slot| replica::is_given_away(slot, &ask.request, term, serves));
        if !is_given_away {
            return self.promise(id, ask);
        }
        node.next_ask += 1;
        let who = Who::Ask(node.next_ask);
        node.asks.insert(node.next_ask, ask);
        self.want_turn(id, session, who, CLAIM_TIMEOUT);
    }

    /// Answers a claim now.
    pub(crate) fn promise(&mut self, id: NodeId, ask: Ask) {
        let now = self.moment(id);
        let Some(node) = self.node_mut(id) else { return };
        let Ask { conn, ticket, request } = ask;
        let standpoint = (id, node.slots.lease().term(now));
        let serves = |owner| node.serves(owner);
        let answer = node.slots.with(request.id, |slot| {
            let answer = replica::promise(slot, &request, standpoint, serves, now);
            if answer == Answer::Unknown {
                replica::remember(slot, request.epoch, now);
            }
            answer
        });
        story::tell(request.id, id, || format!("asked for {:?}: {answer:?}", request.epoch));
        self.answer_later(id, conn, ticket, answer);
    }

    /// Answers a claim whose turn did not come.
    pub(crate) fn keep(&mut self, id: NodeId, ask: &Ask) {
        let Some(node) = self.node_mut(id) else { return };
        let answer = node.slots.with(ask.request.id, |slot| replica::kept(slot, id));
        self.answer_later(id, ask.conn, ask.ticket, answer);
    }

    fn answer_later(&mut self, id: NodeId, conn: ConnId, ticket: Ticket, answer: Answer) {
        let now = self.moment(id);
        if let Some(node) = self.node_mut(id)
            && let Some(incoming) = node.incoming.get(&conn)
        {
            node.slots.lease().grant(incoming.from, now);
        }
        let delay_us = self.world.between(0, 100);
        self.world.after(delay_us, Event::Node(id, Input::Answered(conn, ticket, answer)));
    }
}

/// What became of an update.
enum Taken {
    Held,
    Refused(Objection),
    Merge(Merge),
}

/// What is left to do for one that was merged.
enum Merge {
    Done(Box<Update>),
    Later(Box<Whole>),
}

/// Takes an update into the slots and says what speaks against it, or what is left to do.
fn take_update(slots: &SimSlots, update: Update, now: Moment, canary: Option<Canary>) -> Taken {
    let update = match update {
        Update::Copy(copy) => Update::Copy(intake::without_own_claim(slots, copy)),
        other => other,
    };
    let (id, kept) = (update.id(), canary.map(|_| update.clone()));
    let applied = slots.with(id, |slot| replica::apply(slot, update, now));
    if let (Some(canary), Some(update)) = (canary, kept)
        && canary::spoils(canary, slots, &update, &applied, now)
    {
        return Taken::Held;
    }
    match applied {
        Applied::Applied | Applied::Duplicate => Taken::Held,
        Applied::Merged(update) => Taken::Merge(Merge::Done(update)),
        Applied::Later(copy) => Taken::Merge(Merge::Later(copy)),
        Applied::Gap => Taken::Refused(Objection::Gap),
        Applied::Fenced(epoch) => Taken::Refused(Objection::Fenced(epoch)),
        Applied::Ended(ending) => Taken::Refused(Objection::Ended(ending)),
    }
}
