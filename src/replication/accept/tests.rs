//! The accepting side with a real table, and peers that are played by the test.

use actix::{Actor, Context, Handler};
use bytes::BytesMut;

use super::*;
use crate::{
    replication::{
        batch::{Batch, Packer},
        frame::{self, Reply, Request},
    },
    session::{
        delta::{Attribute, Update},
        lease::Term,
        replica::{Applied, Birth, Reach, Tenure},
        stamp::Epoch,
        value::Value,
    },
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

/// What the node 2 has linked to.
fn incoming(doorway: Doorway) -> Incoming {
    let (surveys, intake) = (Semaphore::new(1).into(), Intake::new(doorway.table.clone()));
    Incoming::new(doorway.into(), surveys, intake, Callers::default(), NodeId(2))
}

/// Sessions that this node owns, more than may wait to be merged, and other copies of them.
fn many(table: &Table, copy: &Whole) -> Vec<Whole> {
    let ids = (0..limits::MERGES_WAITING as u16 + 20).map(|n| {
        let mut bytes = [9; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        SessionId(bytes)
    });
    let own = |id| {
        let birth = Birth { id, me: ME, term: Term(0), context: &copy.context, reach: Reach::Cluster, timeout: None };
        let created = table.with(id, |slot| replica::create(slot, &birth, &[], Moment(1)));
        table.with(id, |slot| replica::keep(slot, id, &created.undo, Moment(1)));
        Whole { id, ..copy.clone() }
    };
    ids.map(own).collect()
}

fn is_merged(table: &Table, copy: &Whole) -> bool {
    table.peek(copy.id, |slot| Slot::live(slot).unwrap().attributes().count() == 1)
}

#[actix_web::test]
async fn no_copy_of_a_batch_is_left_out_however_many_there_are_of_sessions_of_this_node() {
    let (doorway, _heard, copy) = node(PATIENCE);
    let (table, mut packer) = (doorway.table.clone(), Packer::default());
    let copies = many(&table, &copy);
    for copy in copies.iter().cloned() {
        let (id, mut theirs) = (copy.id, None);
        replica::apply(&mut theirs, Update::Whole(copy), Moment(1));
        packer.add(id, Slot::live(&theirs).unwrap(), Moment(1));
    }
    let (mut input, mut output, (answers, mut answered)) = (BytesMut::new(), BytesMut::new(), mpsc::channel(1));
    frame::put_request(&mut input, &Request::Copies(Batch { number: 1, bytes: packer.pack().bytes }));
    incoming(doorway).take(&mut input, &mut output, &answers).unwrap();
    let reply = timeout(PATIENCE, answered.recv()).await.unwrap().unwrap().unwrap();
    assert!(matches!(reply, Reply::Took { batch: 1, .. }), "{reply:?}");
    let all_merged = async {
        while !copies.iter().all(|copy| is_merged(&table, copy)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_merged).await.expect("the last one waits for nobody");
}

#[actix_web::test]
async fn copies_that_come_together_are_merged_at_once_but_for_those_whose_session_has_a_request_running() {
    let (doorway, _heard, copy) = node(PATIENCE);
    let table = doorway.table.clone();
    let copies = many(&table, &copy);
    let running = table.turn(copies[0].id, PATIENCE).await.unwrap();
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    copies.iter().for_each(|copy| frame::put_update(&mut input, &Update::Copy(copy.clone())));
    incoming(doorway).take(&mut input, &mut output, &mpsc::channel(1).0).unwrap();
    let merged = || copies.iter().filter(|copy| is_merged(&table, copy)).count();
    assert_eq!((merged(), is_merged(&table, &copies[0])), (copies.len() - 1, false));
    drop(running);
    let all_merged = async {
        while merged() < copies.len() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_merged).await.expect("it had to wait for the request only");
}

#[actix_web::test]
async fn that_a_member_was_replaced_is_passed_on_to_it_by_any_of_its_links() {
    let (doorway, _heard, _) = node(PATIENCE);
    let (table, member) = (doorway.table.clone(), NodeId(3));
    let epoch = Epoch::first(ME).outranked_by(NodeId(2));
    let mut incoming = incoming(doorway);
    let mut hear = |member| {
        let (mut input, mut output, answers) = (BytesMut::new(), BytesMut::new(), mpsc::channel(1).0);
        frame::put_request(&mut input, &Request::Replaces { member, id: ID, epoch });
        incoming.take(&mut input, &mut output, &answers).unwrap();
        incoming.callers.clone()
    };
    let callers = hear(member);
    let [(gone, _), (full, _full), (there, mut hearing)] = [(); 3].map(|()| mpsc::channel(1));
    full.try_send(Ok(Reply::Ack(1))).unwrap();
    [gone, full, there].iter().for_each(|link| callers.add(member, link));
    hear(member);
    let heard = hearing.try_recv().unwrap().unwrap();
    assert_eq!(heard, Reply::Replaced(ID, epoch));
    let is_owned = || table.peek(ID, |slot| Slot::live(slot).is_some_and(|record| record.tenure() == Tenure::Owned));
    assert!(is_owned(), "it was about somebody else");
    hear(ME);
    assert!(!is_owned() && hearing.try_recv().is_err(), "it is told directly");
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
