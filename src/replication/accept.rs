//! The other end of the links: who is let in, and what this node answers to claims.

mod incoming;

use std::{
    net::SocketAddr,
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
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tracing::debug;

use self::incoming::{Callers, Ended, Incoming};
use super::{
    channel::{Channel, Visit},
    greeting::{self, Hello, NoGreeting, Purpose},
    intake::Intake,
    link,
    refusals::Refusals,
    seal::{LinkSeal, Opener, Sealer},
};
use crate::{
    limits,
    membership::{Duty, Roster, SharedDuty},
    names::{ContextPath, NodeId, SessionId},
    session::{
        Slots, Swept, Table, Turn,
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
    /// How long a claim waits for the running request of its session.
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
    // Strangers who say nothing leave members their room.
    let [of_members, of_others] = [(); 2].map(|()| Arc::new(Semaphore::new(limits::PENDING_GREETINGS)));
    // One at a time, whoever asks: looks at the whole table must not take all processors.
    let surveys = Arc::new(Semaphore::new(1));
    let intake = Intake::new(doorway.table.clone());
    let callers = Callers::default();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                turned_away.unaccepted.note(error.to_string());
                sleep(limits::LINK_RETRY_LAST).await;
                continue;
            }
        };
        let greetings = if doorway.is_of_a_member(address) { &of_members } else { &of_others };
        let Ok(permit) = greetings.clone().try_acquire_owned() else {
            turned_away.too_many.note(format!("from {address}, while {} are being greeted", limits::PENDING_GREETINGS));
            continue;
        };
        let (doorway, surveys, turned_away) = (doorway.clone(), surveys.clone(), turned_away.clone());
        let (intake, callers) = (intake.clone(), callers.clone());
        rt::spawn(async move {
            let greeted = doorway.greet(stream, address, &turned_away).await;
            drop(permit);
            let Some(greeted) = greeted else { return };
            if greeted.hello.purpose() == Purpose::Deployment {
                return doorway.visited(greeted);
            }
            let (peer, from) = (greeted.hello.route().clone(), greeted.hello.from());
            match Incoming::new(doorway, surveys, intake, callers, from).serve(greeted).await {
                Ended::Lost(why) => debug!(%peer, %address, "incoming link ended: {why}"),
                Ended::Closed(why) => turned_away.closed.note(format!("of {peer} from {address}: {why}")),
            }
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
    silent: Rc<Refusals>,
    /// What came over them is nothing that a member sends.
    closed: Rc<Refusals>,
    too_many: Rc<Refusals>,
    unaccepted: Rc<Refusals>,
}

impl Doorway {
    /// Whether a member lives at this IP address.
    fn is_of_a_member(&self, address: SocketAddr) -> bool {
        self.roster.load().members.iter().any(|member| member.address.ip() == address.ip())
    }

    async fn greet(&self, mut stream: TcpStream, address: SocketAddr, turned_away: &TurnedAway) -> Option<Greeted> {
        let greeting = greeting::answer(&mut stream, &self.seal, &self.cluster, self.table.me());
        let (hello, sealer, opener) = match timeout(limits::GREETING_TIMEOUT, greeting).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) if error.is_of_a_stranger() => {
                self.strangers.fetch_add(1, Relaxed);
                turned_away.strangers.note(format!("from {address}: {error}"));
                return None;
            }
            // It will hear of the new life.
            Ok(Err(error @ (NoGreeting::Late(_) | NoGreeting::Io(_)))) => {
                debug!(%address, "a link was refused: {error}");
                return None;
            }
            Ok(Err(error)) => {
                turned_away.unlike.note(format!("from {address}: {error}"));
                return None;
            }
            Err(_) => {
                turned_away.silent.note(format!("from {address}"));
                return None;
            }
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
            Err(_) => self.table.with(request.id, |slot| replica::kept(slot, me)),
        }
    }

    /// Merges a copy into a session of this node, between two requests. If they take very long it is left to the next
    /// repair.
    async fn merge(&self, copy: Whole) {
        let Ok(turn) = self.table.turn(copy.id, limits::MERGE_PATIENCE).await else { return };
        if let Some(update) = self.merge_in(turn, copy) {
            // Handled before another one may wait in its place.
            let _ = self.merged.send(Swept(vec![update])).await;
        }
    }

    /// The same, in its turn. Gives what others must hear of it.
    fn merge_in(&self, _turn: Turn, copy: Whole) -> Option<Update> {
        match self.table.with(copy.id, |slot| replica::merge_copy(slot, copy, Moment::now())) {
            Applied::Merged(update) => Some(*update),
            _ => None,
        }
    }
}

impl TurnedAway {
    fn nobody() -> Self {
        Self {
            strangers: Refusals::of("links of strangers refused"),
            unlike: Refusals::of("links of another cluster or release refused"),
            silent: Refusals::of("links on which nobody greeted in time"),
            closed: Refusals::of_closed(),
            too_many: Refusals::of("links dropped, peers of this cluster perhaps among them: too many at once"),
            unaccepted: Refusals::of(
                "links that cannot be accepted; too few file descriptors are a matter of ulimit -n",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
