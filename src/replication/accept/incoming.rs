//! One accepted link, for as long as it lasts.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Doorway, Greeted, Offered};
use crate::{
    limits,
    names::NodeId,
    replication::{
        batch::Batch,
        frame::{self, BadFrame, Reply, Request},
        intake::{self, Intake, Taken},
        ledger::{Objection, Sequence},
        survey::{Question, compare},
    },
    session::{
        Slots, Swept,
        delta::{Update, Whole},
        replica::{self, Applied},
    },
    time::Moment,
};
use actix_web::rt;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
};

/// What it works with.
pub(super) struct Incoming {
    doorway: Rc<Doorway>,
    from: NodeId,
    received: Sequence,
    surveys: Arc<Semaphore>,
    /// The right to be asked to compare: the peer asks again only when it has an answer.
    comparison: Arc<Semaphore>,
    intake: Intake,
    /// Of the batches that are being taken in.
    batches: Arc<Semaphore>,
    /// Of those who may wait for the turn of a session to merge a copy.
    merges: Arc<Semaphore>,
    /// Of the claims that wait for the turn of their session. Nothing is read while there are too many.
    claims: Arc<Semaphore>,
    pub(super) callers: Callers,
}

/// How a link ended, and why.
pub(super) enum Ended {
    /// The connection did.
    Lost(String),
    /// This node has closed it: nothing that a member sends has come.
    Closed(String),
}

/// What is found out beside, and is then to be written, or ends the link.
pub(super) type Answers = mpsc::Sender<Result<Reply, BadFrame>>;

/// The nodes that have links to this one, and how each is told what it did not ask. No more than there are links.
#[derive(Clone, Default)]
pub(super) struct Callers(Rc<RefCell<HashMap<NodeId, Vec<Answers>>>>);

impl Callers {
    /// A link is there.
    pub(super) fn add(&self, node: NodeId, answers: &Answers) {
        let mut callers = self.0.borrow_mut();
        callers.retain(|_, links| {
            links.retain(|answers| !answers.is_closed());
            !links.is_empty()
        });
        callers.entry(node).or_default().push(answers.clone());
    }

    /// On one of its links, the latest if there is room. Nobody waits for it: where too much is being answered on all of them
    /// it is left out.
    pub(super) fn tell(&self, node: NodeId, reply: &Reply) {
        let callers = self.0.borrow();
        let mut links = callers.get(&node).into_iter().flatten().rev();
        let _ = links.any(|answers| answers.try_send(Ok(reply.clone())).is_ok());
    }
}

impl Incoming {
    /// A link that another node has opened.
    pub(super) fn new(
        doorway: Rc<Doorway>,
        surveys: Arc<Semaphore>,
        intake: Intake,
        callers: Callers,
        from: NodeId,
    ) -> Self {
        let (comparison, merges) = (Semaphore::new(1).into(), Semaphore::new(limits::MERGES_WAITING).into());
        let (batches, claims) = (Semaphore::new(limits::REPAIR_BATCHES), Semaphore::new(limits::CLAIMS_WAITING));
        let (batches, claims) = (batches.into(), claims.into());
        Self { doorway, from, received: 0, surveys, comparison, intake, batches, merges, claims, callers }
    }

    /// Serves it to its end, and says what that was.
    pub(super) async fn serve(mut self, greeted: Greeted) -> Ended {
        let Greeted { mut stream, mut sealer, mut opener, .. } = greeted;
        let (answers, mut answered) = mpsc::channel(limits::CLAIMS_ANSWERED);
        self.callers.add(self.from, &answers);
        let (mut input, mut output) = (BytesMut::with_capacity(limits::LINK_READ_BYTES), BytesMut::new());
        loop {
            let heard = tokio::select! {
                read = stream.read_buf(opener.inbox(&mut input)), if self.claims.available_permits() > 0 => {
                    Heard::Bytes(read)
                }
                Some(reply) = answered.recv() => Heard::Answer(reply),
            };
            let result = match heard {
                Heard::Bytes(Ok(0)) => return Ended::Lost("closed by the peer".into()),
                Heard::Bytes(Ok(_)) => match opener.open(&mut input) {
                    Ok(()) => self.take(&mut input, &mut output, &answers).map_err(|error| error.to_string()),
                    Err(error) => {
                        self.doorway.strangers.fetch_add(1, Relaxed);
                        Err(error.to_string())
                    }
                },
                Heard::Bytes(Err(error)) => return Ended::Lost(error.to_string()),
                Heard::Answer(Ok(reply)) => {
                    frame::put_reply(&mut output, &reply);
                    Ok(())
                }
                Heard::Answer(Err(error)) => Err(error.to_string()),
            };
            if let Err(error) = result {
                return Ended::Closed(error);
            }
            if output.is_empty() {
                continue;
            }
            let sealed = match sealer.seal(output.split()) {
                Ok(sealed) => sealed,
                Err(error) => return Ended::Closed(error.to_string()),
            };
            if let Err(error) = stream.write_all(&sealed).await {
                return Ended::Lost(error.to_string());
            }
        }
    }

    /// Handles every complete frame, and acknowledges all of them at once.
    pub(super) fn take(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
        answers: &Answers,
    ) -> Result<(), BadFrame> {
        let before = self.received;
        while let Some(request) = frame::take_request(input, self.from)? {
            match request {
                Request::Update(update) => self.update(update, output),
                Request::Touch { id, idle } => {
                    self.doorway.table.with(id, |slot| replica::touched(slot, idle, Moment::now()));
                }
                Request::Renew { at } => {
                    // Before the peer hears of it.
                    self.doorway.table.lease().grant(self.from, Moment::now());
                    frame::put_reply(output, &Reply::Renewed { at });
                }
                Request::Claim(ticket, claim) => {
                    let (doorway, answers, from) = (self.doorway.clone(), answers.clone(), self.from);
                    // Those of the last read bytes may be more.
                    let permit = self.claims.clone().try_acquire_owned().ok();
                    rt::spawn(async move {
                        let answer = doorway.claim(claim).await;
                        drop(permit);
                        // It may be the owner from now on, and is asked before anybody here takes the session back: also
                        // when membership has not heard of it yet.
                        doorway.table.lease().grant(from, Moment::now());
                        // Nobody listens when the link has gone meanwhile.
                        let _ = answers.send(Ok(Reply::Answer(ticket, answer))).await;
                    });
                }
                Request::Replaces { member, id, epoch } if member == self.doorway.table.me() => {
                    self.doorway.table.with(id, |slot| replica::replaced(slot, epoch));
                }
                Request::Replaces { member, id, epoch } => self.callers.tell(member, &Reply::Replaced(id, epoch)),
                Request::Compare(question) => self.compare(question, answers.clone()),
                Request::Copies(batch) => self.copies(batch, answers.clone())?,
                Request::Offer { context, ids } => {
                    self.doorway.offered.do_send(Offered { from: self.from, context, ids });
                }
            }
        }
        if self.received > before {
            frame::put_reply(output, &Reply::Ack(self.received));
        }
        Ok(())
    }

    /// Answers later, from another thread: this one acknowledges commits.
    fn compare(&self, question: Question, answers: Answers) {
        // Who asks again too early gets one answer.
        let Ok(asked) = self.comparison.clone().try_acquire_owned() else { return };
        let (table, from, surveys) = (self.doorway.table.clone(), self.from, self.surveys.clone());
        rt::spawn(async move {
            let survey = surveys.acquire_owned().await;
            let finding = spawn_blocking(move || compare(&table, from, &question, Moment::now())).await;
            drop((survey, asked));
            if let Ok(finding) = finding {
                // Nobody listens when the link has gone meanwhile.
                let _ = answers.send(Ok(Reply::Compared(finding))).await;
            }
        });
    }

    /// Takes them in on another thread, and acknowledges them then.
    fn copies(&self, batch: Batch, answers: Answers) -> Result<(), BadFrame> {
        let Ok(permit) = self.batches.clone().try_acquire_owned() else { return Err(BadFrame::TooManyBatches) };
        let (number, taken) = (batch.number, self.intake.take(self.from, batch));
        let (doorway, merges) = (self.doorway.clone(), self.merges.clone());
        rt::spawn(async move {
            // A thread that has ended in the middle answers nothing: the peer begins anew.
            let Ok(taken) = taken.await else { return };
            let reply = match taken {
                Ok(Taken { ended, outranked, later }) => {
                    for copy in later {
                        // The peer believes that all of it is held, so none is left out.
                        if let Ok(permit) = merges.clone().acquire_owned().await {
                            merge_later(doorway.clone(), permit, copy);
                        }
                    }
                    Ok(Reply::Took { batch: number, ended, outranked })
                }
                Err(bad) => Err(bad),
            };
            // Before the peer hears of it, and sends another.
            drop(permit);
            let _ = answers.send(reply).await;
        });
        Ok(())
    }

    /// At once if no request of the session is running: then however many come together are merged. Where too many wait
    /// already it is left to the next repair.
    fn merge(&self, copy: Whole) {
        if let Some(turn) = self.doorway.table.free_turn(copy.id) {
            if let Some(update) = self.doorway.merge_in(turn, copy) {
                self.doorway.merged.do_send(Swept(vec![update]));
            }
        } else if let Ok(permit) = self.merges.clone().try_acquire_owned() {
            merge_later(self.doorway.clone(), permit, copy);
        }
    }

    fn update(&mut self, update: Update, output: &mut BytesMut) {
        self.received += 1;
        let (table, now) = (&self.doorway.table, Moment::now());
        let update = match update {
            Update::Copy(copy) => Update::Copy(intake::without_own_claim(table, copy)),
            other => other,
        };
        let objection = match table.with(update.id(), |slot| replica::apply(slot, update, now)) {
            Applied::Applied | Applied::Duplicate => return,
            Applied::Merged(update) => return self.doorway.merged.do_send(Swept(vec![*update])),
            Applied::Later(copy) => return self.merge(*copy),
            Applied::Gap => Objection::Gap,
            Applied::Fenced(epoch) => Objection::Fenced(epoch),
            Applied::Ended(ending) => Objection::Ended(ending),
        };
        frame::put_reply(output, &Reply::Objection(self.received, objection));
    }
}

/// Merges a copy in its turn, and keeps its place among those that wait until then.
fn merge_later(doorway: Rc<Doorway>, permit: OwnedSemaphorePermit, copy: Whole) {
    rt::spawn(async move {
        doorway.merge(copy).await;
        drop(permit);
    });
}

enum Heard {
    Bytes(io::Result<usize>),
    Answer(Result<Reply, BadFrame>),
}
