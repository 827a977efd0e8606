//! The other end of the links: takes updates into the table, acknowledges what is held, answers claims.

use std::{
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix::{Message, Recipient};
use actix_web::rt;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    batch::Batch,
    channel::{Channel, Visit},
    frame::{self, BadFrame, Reply, Request},
    greeting::{self, Hello, NoGreeting, Purpose},
    intake::{self, Intake, Taken},
    ledger::{Objection, Sequence},
    link,
    refusals::Refusals,
    seal::{LinkSeal, Opener, Sealer},
    survey::{Question, compare},
};
use crate::{
    limits,
    membership::{Duty, Roster, SharedDuty},
    names::{ContextPath, NodeId, SessionId},
    session::{
        Slots, Swept, Table,
        delta::{Answer, ClaimRequest, Update, Whole},
        replica::{self, Applied, Slot},
    },
    time::Moment,
};

/// What the accepting side works with.
#[derive(Clone)]
pub struct Doorway {
    /// The sessions of this node.
    pub table: Table,
    /// The cluster's name.
    pub cluster: String,
    /// How links are sealed.
    pub seal: LinkSeal,
    /// This node's duty: one that drains gives its sessions away.
    pub duty: SharedDuty,
    /// The other members.
    pub roster: Arc<ArcSwap<Roster>>,
    /// How long a claim or a copy waits for the running request of its session.
    pub claim_timeout: Duration,
    /// Who tells the other nodes what has come of a merge.
    pub merged: Recipient<Swept>,
    /// Links of strangers that were refused.
    pub strangers: Arc<AtomicU64>,
    /// Who claims what a draining node offers.
    pub offered: Recipient<Offered>,
    /// Who talks about webapps. A visit that finds [`limits::VISITS`] waiting is turned away.
    pub visits: mpsc::Sender<Visit>,
}

/// Sessions of one webapp that a draining node would have this node claim. Who drops it harms nobody.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Offered {
    /// Their owner.
    pub from: NodeId,
    /// The webapp.
    pub context: ContextPath,
    /// At most [`limits::OFFER_SESSIONS`].
    pub ids: Vec<SessionId>,
}

/// Accepts links for as long as the process runs.
pub async fn accept(listener: TcpListener, doorway: Doorway) {
    let (doorway, turned_away) = (Rc::new(doorway), TurnedAway::nobody());
    let greetings = Arc::new(Semaphore::new(limits::PENDING_GREETINGS));
    // One at a time, whoever asks: looks at the whole table must not take all processors.
    let surveys = Arc::new(Semaphore::new(1));
    let intake = Intake::new(doorway.table.clone());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                turned_away.unaccepted.note(error.to_string());
                sleep(limits::LINK_RETRY_LAST).await;
                continue;
            }
        };
        let Ok(permit) = greetings.clone().try_acquire_owned() else {
            turned_away.too_many.note(format!("{} are being greeted", limits::PENDING_GREETINGS));
            continue;
        };
        let (doorway, surveys, turned_away) = (doorway.clone(), surveys.clone(), turned_away.clone());
        let intake = intake.clone();
        rt::spawn(async move {
            let greeted = doorway.greet(stream, &turned_away).await;
            drop(permit);
            let Some(greeted) = greeted else { return };
            if greeted.hello.purpose() == Purpose::Deployment {
                return doorway.visited(greeted);
            }
            let peer = greeted.hello.route().clone();
            let error = Incoming::new(doorway, surveys, intake, &greeted.hello).serve(greeted).await;
            debug!(%peer, "incoming link ended: {error}");
        });
    }
}

/// A link whose other end is a node of this cluster.
struct Greeted {
    stream: TcpStream,
    hello: Hello,
    sealer: Sealer,
    opener: Opener,
}

/// Links that do not come to be.
#[derive(Clone)]
struct TurnedAway {
    /// Nobody knows whose they are.
    strangers: Rc<Refusals>,
    /// Of another cluster or release. Their other end warns too.
    unlike: Rc<Refusals>,
    too_many: Rc<Refusals>,
    unaccepted: Rc<Refusals>,
}

/// One accepted link.
struct Incoming {
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
}

/// What is found out beside, and is then to be written, or ends the link.
type Answers = mpsc::Sender<Result<Reply, BadFrame>>;

impl Doorway {
    async fn greet(&self, mut stream: TcpStream, turned_away: &TurnedAway) -> Option<Greeted> {
        let greeting = greeting::answer(&mut stream, &self.seal, &self.cluster, self.table.me());
        let (hello, sealer, opener) = match timeout(limits::GREETING_TIMEOUT, greeting).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) if error.is_of_a_stranger() => {
                self.strangers.fetch_add(1, Relaxed);
                turned_away.strangers.note(error.to_string());
                return None;
            }
            // It will hear of the new life.
            Ok(Err(error @ (NoGreeting::Ended(_) | NoGreeting::Io(_)))) => {
                debug!("a link was refused: {error}");
                return None;
            }
            Ok(Err(error)) => {
                turned_away.unlike.note(error.to_string());
                return None;
            }
            Err(_) => return None,
        };
        link::tune(&stream).ok()?;
        Some(Greeted { stream, hello, sealer, opener })
    }

    fn visited(&self, Greeted { stream, hello, sealer, opener }: Greeted) {
        let (route, channel) = (hello.route().clone(), Channel::new(stream, sealer, opener));
        if self.visits.try_send(Visit { from: hello.from(), route, channel }).is_err() {
            debug!(peer = %hello.route(), "too many visits at once: one is turned away");
        }
    }

    /// Whether a node is live and answers requests.
    fn serves(&self, node: NodeId) -> bool {
        if node == self.table.me() {
            return self.duty.get() == Duty::Serving;
        }
        self.roster.load().node(node).is_some_and(|node| node.duty == Duty::Serving)
    }

    async fn claim(&self, request: ClaimRequest) -> Answer {
        // Seen once: what needs no turn while this node serves may need one when it drains.
        let (me, serves_itself) = (self.table.me(), self.serves(self.table.me()));
        let promise = |slot: &mut Option<Slot>| {
            let now = Moment::now();
            let serves = |node| if node == me { serves_itself } else { self.serves(node) };
            let answer = replica::promise(slot, &request, (me, self.table.lease().term(now)), serves, now);
            if answer == Answer::Unknown {
                replica::remember(slot, request.epoch, now);
            }
            answer
        };
        let is_given_away = |slot: &Option<Slot>| {
            replica::is_given_away(slot, &request, self.table.lease().term(Moment::now()), serves_itself)
        };
        // Under one lock: a request of this node may adopt the session at any moment, and commit.
        let answer = self.table.with(request.id, |slot| (!is_given_away(slot)).then(|| promise(slot)));
        if let Some(answer) = answer {
            return answer;
        }
        // The running request commits first; after that nothing of this session runs here.
        match self.table.turn(request.id, self.claim_timeout).await {
            Ok(_turn) => self.table.with(request.id, promise),
            Err(_) => Answer::Owned(me),
        }
    }

    /// Merges a copy into a session of this node, between two requests. If they take very long it is left to the next
    /// repair.
    async fn merge(&self, copy: Whole) {
        let id = copy.id;
        if let Ok(_turn) = self.table.turn(id, limits::MERGE_PATIENCE).await
            && let Applied::Merged(update) = self.table.with(id, |slot| replica::merge_copy(slot, copy, Moment::now()))
        {
            self.merged.do_send(Swept(vec![*update]));
        }
    }
}

impl TurnedAway {
    fn nobody() -> Self {
        Self {
            strangers: Refusals::of("links of strangers refused"),
            unlike: Refusals::of("links of another cluster or release refused"),
            too_many: Refusals::of("links dropped, peers of this cluster perhaps among them: too many at once"),
            unaccepted: Refusals::of(
                "links that cannot be accepted; too few file descriptors are a matter of ulimit -n",
            ),
        }
    }
}

impl Incoming {
    fn new(doorway: Rc<Doorway>, surveys: Arc<Semaphore>, intake: Intake, hello: &Hello) -> Self {
        let (comparison, merges) = (Semaphore::new(1).into(), Semaphore::new(limits::MERGES_WAITING).into());
        let batches = Semaphore::new(limits::REPAIR_BATCHES).into();
        Self { doorway, from: hello.from(), received: 0, surveys, comparison, intake, batches, merges }
    }

    async fn serve(mut self, greeted: Greeted) -> String {
        let Greeted { mut stream, mut sealer, mut opener, .. } = greeted;
        let (answers, mut answered) = mpsc::channel(limits::CLAIMS_ANSWERED);
        let (mut input, mut output) = (BytesMut::with_capacity(limits::LINK_READ_BYTES), BytesMut::new());
        loop {
            let heard = tokio::select! {
                read = stream.read_buf(opener.inbox(&mut input)) => Heard::Bytes(read),
                Some(reply) = answered.recv() => Heard::Answer(reply),
            };
            let result = match heard {
                Heard::Bytes(Ok(0)) => return "closed by the peer".into(),
                Heard::Bytes(Ok(_)) => match opener.open(&mut input) {
                    Ok(()) => self.take(&mut input, &mut output, &answers).map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                },
                Heard::Bytes(Err(error)) => return error.to_string(),
                Heard::Answer(Ok(reply)) => {
                    frame::put_reply(&mut output, &reply);
                    Ok(())
                }
                Heard::Answer(Err(error)) => Err(error.to_string()),
            };
            if let Err(error) = result {
                warn!(peer = %self.from, "the link is closed: {error}");
                return error;
            }
            if output.is_empty() {
                continue;
            }
            let sealed = match sealer.seal(output.split()) {
                Ok(sealed) => sealed,
                Err(error) => return error.to_string(),
            };
            if let Err(error) = stream.write_all(&sealed).await {
                return error.to_string();
            }
        }
    }

    /// Handles every complete frame, and acknowledges all of them at once.
    fn take(&mut self, input: &mut BytesMut, output: &mut BytesMut, answers: &Answers) -> Result<(), BadFrame> {
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
                    rt::spawn(async move {
                        let answer = doorway.claim(claim).await;
                        // It may be the owner from now on, and is asked before anybody here takes the session back: also
                        // when membership has not heard of it yet.
                        doorway.table.lease().grant(from, Moment::now());
                        // Nobody listens when the link has gone meanwhile.
                        let _ = answers.send(Ok(Reply::Answer(ticket, answer))).await;
                    });
                }
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
                Ok(Taken { ended, outranked, merged, later }) => {
                    for copy in later {
                        // The peer believes that all of it is held, so none is left out.
                        if let Ok(permit) = merges.clone().acquire_owned().await {
                            merge_later(doorway.clone(), permit, copy);
                        }
                    }
                    if !merged.is_empty() {
                        // Handled before the peer hears of it: its credit bounds what is still to be told here.
                        let _ = doorway.merged.send(Swept(merged)).await;
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
            Applied::Later(copy) => {
                // With too many of them waiting already it is left to the next repair.
                if let Ok(permit) = self.merges.clone().try_acquire_owned() {
                    merge_later(self.doorway.clone(), permit, *copy);
                }
                return;
            }
            Applied::Gap => Objection::Gap,
            Applied::Fenced(epoch) => Objection::Fenced(epoch),
            Applied::Ended(ending) => Objection::Ended(ending),
        };
        frame::put_reply(output, &Reply::Objection(self.received, objection));
    }
}

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

#[cfg(test)]
mod tests {
    use actix::{Actor, Context, Handler};

    use super::*;
    use crate::replication::batch::Packer;
    use crate::session::{
        delta::Attribute,
        lease::Term,
        replica::{Birth, Reach, Tenure},
        stamp::Epoch,
        value::Value,
    };

    const ME: NodeId = NodeId(1);
    const ID: SessionId = SessionId([7; 16]);
    const PATIENCE: Duration = Duration::from_secs(10);

    struct Ear(mpsc::UnboundedSender<Vec<Update>>);

    impl Actor for Ear {
        type Context = Context<Self>;
    }

    impl Handler<Swept> for Ear {
        type Result = ();

        fn handle(&mut self, swept: Swept, _: &mut Self::Context) {
            self.0.send(swept.0).unwrap();
        }
    }

    impl Handler<Offered> for Ear {
        type Result = ();

        fn handle(&mut self, _: Offered, _: &mut Self::Context) {}
    }

    /// A node that owns a session, and another node's copy with something of its own in it.
    fn node(claim_timeout: Duration) -> (Doorway, mpsc::UnboundedReceiver<Vec<Update>>, Whole) {
        let (told, heard) = mpsc::unbounded_channel();
        let (table, context) = (Table::new(ME), ContextPath::root());
        let birth = Birth { id: ID, me: ME, term: Term(0), context: &context, reach: Reach::Cluster, timeout: None };
        let created = table.with(ID, |slot| replica::create(slot, &birth, &[], Moment(1)));
        table.with(ID, |slot| replica::keep(slot, ID, &created.undo, Moment(1)));
        let Update::Whole(mut copy) = created.update else { panic!("a session begins whole") };
        copy.stamp.epoch.node = NodeId(2);
        let value = Value::encode(&5).ok();
        copy.attributes = vec![Attribute { name: "theirs".into(), value, stamp: copy.stamp }];
        let ear = Ear(told).start();
        let doorway = Doorway {
            table,
            cluster: "tasuki".into(),
            seal: LinkSeal::new("tasuki", None),
            duty: SharedDuty::starting(),
            roster: Arc::default(),
            claim_timeout,
            merged: ear.clone().recipient(),
            strangers: Arc::default(),
            offered: ear.recipient(),
            visits: mpsc::channel(1).0,
        };
        (doorway, heard, copy)
    }

    fn attributes(table: &Table) -> usize {
        table.peek(ID, |slot| Slot::live(slot).unwrap().attributes().count())
    }

    fn asked(id: SessionId, epoch: Epoch) -> ClaimRequest {
        ClaimRequest { id, epoch, context: ContextPath::root(), have: None, insist: true }
    }

    #[actix_web::test]
    async fn a_session_is_given_away_when_its_running_request_is_over() {
        // This node has no lease: it serves, and gives away also what nobody insists on.
        for insist in [true, false] {
            let (doorway, _heard, _) = node(PATIENCE);
            doorway.duty.set(Duty::Serving);
            let running = doorway.table.turn(ID, PATIENCE).await.unwrap();
            let (table, request) = (doorway.table.clone(), asked(ID, Epoch { counter: 2, node: NodeId(2) }));
            let claim = rt::spawn(async move { doorway.claim(ClaimRequest { insist, ..request }).await });
            tokio::task::yield_now().await;
            let tenure = || table.peek(ID, |slot| Slot::live(slot).unwrap().tenure());
            assert_eq!(tenure(), Tenure::Owned);
            drop(running);
            assert!(matches!(claim.await.unwrap(), Answer::Promised(_)));
            assert_eq!(tenure(), Tenure::Held);
        }
    }

    #[actix_web::test]
    async fn who_does_not_have_a_session_remembers_whom_it_was_asked_for_by() {
        let (doorway, _heard, copy) = node(PATIENCE);
        let id = SessionId([9; 16]);
        let of = |counter, node| Epoch { counter, node: NodeId(node) };
        assert_eq!(doorway.claim(asked(id, Epoch::unheard(NodeId(3)))).await, Answer::Unknown);
        assert!(doorway.table.with(id, |slot| slot.is_none()), "that one only asks who owns it");
        assert_eq!(doorway.claim(asked(id, of(3, 3))).await, Answer::Unknown);
        assert_eq!(doorway.claim(asked(id, of(2, 2))).await, Answer::Refused(of(3, 3)));
        // It was told to somebody before the claim, and comes late: its owner has been replaced.
        let late = Update::Whole(Whole { id, owner: of(2, 2), ..copy });
        assert_eq!(doorway.table.with(id, |slot| replica::apply(slot, late, Moment::now())), Applied::Fenced(of(3, 3)));
    }

    /// What the node 2 has linked to, with one of everything.
    fn incoming(doorway: Doorway) -> Incoming {
        let one = || Arc::new(Semaphore::new(1));
        let (surveys, comparison, batches, merges) = (one(), one(), one(), one());
        let (intake, doorway) = (Intake::new(doorway.table.clone()), Rc::new(doorway));
        Incoming { doorway, from: NodeId(2), received: 0, surveys, comparison, intake, batches, merges }
    }

    #[actix_web::test]
    async fn no_copy_of_a_batch_is_left_out_however_many_there_are_of_sessions_of_this_node() {
        let (doorway, _heard, copy) = node(PATIENCE);
        let (table, mut packer) = (doorway.table.clone(), Packer::default());
        let ids = (10..18).map(|n| SessionId([n; 16]));
        for id in ids.clone() {
            let birth =
                Birth { id, me: ME, term: Term(0), context: &copy.context, reach: Reach::Cluster, timeout: None };
            let created = table.with(id, |slot| replica::create(slot, &birth, &[], Moment(1)));
            table.with(id, |slot| replica::keep(slot, id, &created.undo, Moment(1)));
            let (mut theirs, copy) = (None, Whole { id, ..copy.clone() });
            replica::apply(&mut theirs, Update::Whole(copy), Moment(1));
            packer.add(id, Slot::live(&theirs).unwrap(), Moment(1));
        }
        let (mut input, mut output, (answers, mut answered)) = (BytesMut::new(), BytesMut::new(), mpsc::channel(1));
        frame::put_request(&mut input, &Request::Copies(Batch { number: 1, bytes: packer.pack().bytes }));
        incoming(doorway).take(&mut input, &mut output, &answers).unwrap();
        let reply = timeout(PATIENCE, answered.recv()).await.unwrap().unwrap().unwrap();
        assert!(matches!(reply, Reply::Took { batch: 1, .. }), "{reply:?}");
        let merged = |id| table.peek(id, |slot| Slot::live(slot).unwrap().attributes().count() == 1);
        let all_merged = async {
            while !ids.clone().all(merged) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, all_merged).await.expect("the last one waits for nobody");
    }

    #[actix_web::test]
    async fn who_asks_for_its_lease_or_for_a_session_is_granted_the_lease() {
        let claim = Request::Claim(1, asked(ID, Epoch { counter: 2, node: NodeId(2) }));
        for request in [Request::Renew { at: Moment(5) }, claim] {
            let (doorway, _heard, _) = node(PATIENCE);
            let (table, from) = (doorway.table.clone(), NodeId(2));
            let mut incoming = incoming(doorway);
            let is_granted = || table.lease().is_granted(from, limits::LEASE, Moment::now());
            assert!(!is_granted());
            let (mut input, mut output, (answers, mut answered)) = (BytesMut::new(), BytesMut::new(), mpsc::channel(1));
            frame::put_request(&mut input, &request);
            incoming.take(&mut input, &mut output, &answers).unwrap();
            if output.is_empty() {
                timeout(PATIENCE, answered.recv()).await.unwrap().unwrap().unwrap();
            }
            assert!(is_granted(), "before it hears of it");
        }
    }

    #[actix_web::test]
    async fn a_copy_is_merged_between_two_requests_and_then_all_hear_of_it() {
        let (doorway, mut heard, copy) = node(PATIENCE);
        let table = doorway.table.clone();
        let running = table.turn(ID, PATIENCE).await.unwrap();
        let merge = rt::spawn(async move { doorway.merge(copy).await });
        tokio::task::yield_now().await;
        assert_eq!(attributes(&table), 0, "a request is running");
        drop(running);
        merge.await.unwrap();
        assert_eq!(attributes(&table), 1);
        let told = timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
        assert!(matches!(&told[..], [Update::Whole(whole)] if whole.stamp.version == 2 && whole.attributes.len() == 1));
    }

    #[actix_web::test]
    async fn a_copy_waits_for_its_turn_longer_than_a_claim_would() {
        let (doorway, mut heard, copy) = node(Duration::from_millis(1));
        let _running = doorway.table.turn(ID, PATIENCE).await.unwrap();
        let merge = doorway.merge(copy);
        assert!(timeout(Duration::from_millis(50), merge).await.is_err(), "it waits on");
        assert_eq!(attributes(&doorway.table), 0);
        assert!(heard.try_recv().is_err());
    }
}
