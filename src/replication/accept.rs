//! The other end of the links: takes updates into the table, acknowledges what is held, answers claims.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use actix_web::rt;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    frame::{self, Reply, Request},
    greeting::{self, Hello},
    ledger::{Objection, Sequence},
    link,
};
use crate::{
    limits,
    membership::{Duty, Roster, SharedDuty},
    names::NodeId,
    session::{
        Slots, Table,
        delta::{Answer, ClaimRequest, Update},
        replica::{self, Applied, Slot, Tenure},
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
    /// This node's duty: one that drains gives its sessions away.
    pub duty: SharedDuty,
    /// The other members.
    pub roster: Arc<ArcSwap<Roster>>,
    /// How long a claim waits for the running request of its session.
    pub claim_timeout: Duration,
}

/// Accepts links for as long as the process runs.
pub async fn accept(listener: TcpListener, doorway: Doorway) {
    let doorway = Rc::new(doorway);
    let greetings = Arc::new(Semaphore::new(limits::PENDING_GREETINGS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!("cannot accept a link: {error}");
                sleep(limits::LINK_RETRY_LAST).await;
                continue;
            }
        };
        let Ok(permit) = greetings.clone().try_acquire_owned() else {
            debug!("too many links at once are being greeted: one is dropped");
            continue;
        };
        let doorway = doorway.clone();
        rt::spawn(async move {
            let greeted = doorway.greet(stream).await;
            drop(permit);
            if let Some((stream, hello)) = greeted {
                let peer = hello.route().clone();
                let error = Incoming::new(doorway, &hello).serve(stream).await;
                debug!(%peer, "incoming link ended: {error}");
            }
        });
    }
}

/// One accepted link.
struct Incoming {
    doorway: Rc<Doorway>,
    from: NodeId,
    received: Sequence,
}

impl Doorway {
    async fn greet(&self, mut stream: TcpStream) -> Option<(TcpStream, Hello)> {
        let greeting = greeting::answer(&mut stream, &self.cluster, self.table.me());
        let hello = match timeout(limits::GREETING_TIMEOUT, greeting).await {
            Ok(Ok(hello)) => hello,
            // The peer warns if somebody has to do something. One that asks for an ended life will hear of the new one.
            Ok(Err(error)) => {
                info!("a link was refused: {error}");
                return None;
            }
            Err(_) => return None,
        };
        link::tune(&stream).ok()?;
        Some((stream, hello))
    }

    /// Whether a node is live and answers requests.
    fn serves(&self, node: NodeId) -> bool {
        if node == self.table.me() {
            return self.duty.get() == Duty::Serving;
        }
        self.roster.load().node(node).is_some_and(|node| node.duty == Duty::Serving)
    }

    async fn claim(&self, request: ClaimRequest) -> Answer {
        let promise = |slot: &mut Option<Slot>| {
            let now = Moment::now();
            let standpoint = (self.table.me(), self.table.lease().term(now));
            replica::promise(slot, &request, standpoint, |node| self.serves(node), now)
        };
        let owned =
            self.table.peek(request.id, |slot| Slot::live(slot).is_some_and(|record| record.tenure() == Tenure::Owned));
        let stays = owned && !request.insist && self.serves(self.table.me());
        if !owned || stays {
            return self.table.with(request.id, promise);
        }
        // The running request commits first; after that nothing of this session runs here.
        match self.table.turn(request.id, self.claim_timeout).await {
            Ok(_turn) => self.table.with(request.id, promise),
            Err(_) => Answer::Owned(self.table.me()),
        }
    }
}

impl Incoming {
    fn new(doorway: Rc<Doorway>, hello: &Hello) -> Self {
        Self { doorway, from: hello.from(), received: 0 }
    }

    async fn serve(mut self, mut stream: TcpStream) -> String {
        let (answers, mut answered) = mpsc::channel(limits::CLAIMS_ANSWERED);
        let (mut input, mut output) = (BytesMut::with_capacity(limits::LINK_READ_BYTES), BytesMut::new());
        loop {
            let heard = tokio::select! {
                read = stream.read_buf(&mut input) => Heard::Bytes(read),
                Some(reply) = answered.recv() => Heard::Answer(reply),
            };
            let result = match heard {
                Heard::Bytes(Ok(0)) => return "closed by the peer".into(),
                Heard::Bytes(Ok(_)) => self.take(&mut input, &mut output, &answers),
                Heard::Bytes(Err(error)) => return error.to_string(),
                Heard::Answer(reply) => {
                    frame::put_reply(&mut output, &reply);
                    Ok(())
                }
            };
            if let Err(error) = result {
                warn!(peer = %self.from, "the link is closed: {error}");
                return error.to_string();
            }
            if !output.is_empty()
                && let Err(error) = stream.write_all(&output.split()).await
            {
                return error.to_string();
            }
        }
    }

    /// Handles every complete frame, and acknowledges all of them at once.
    fn take(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
        answers: &mpsc::Sender<Reply>,
    ) -> Result<(), frame::BadFrame> {
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
                    let (doorway, answers) = (self.doorway.clone(), answers.clone());
                    rt::spawn(async move {
                        let answer = doorway.claim(claim).await;
                        // Nobody listens when the link has gone meanwhile.
                        let _ = answers.send(Reply::Answer(ticket, answer)).await;
                    });
                }
            }
        }
        if self.received > before {
            frame::put_reply(output, &Reply::Ack(self.received));
        }
        Ok(())
    }

    fn update(&mut self, update: Update, output: &mut BytesMut) {
        self.received += 1;
        let objection = match self.doorway.table.with(update.id(), |slot| replica::apply(slot, update, Moment::now())) {
            Applied::Applied | Applied::Duplicate => return,
            Applied::Gap => Objection::Gap,
            Applied::Fenced(epoch) => Objection::Fenced(epoch),
            Applied::Ended(stamp) => Objection::Ended(stamp),
        };
        frame::put_reply(output, &Reply::Objection(self.received, objection));
    }
}

enum Heard {
    Bytes(io::Result<usize>),
    Answer(Reply),
}
