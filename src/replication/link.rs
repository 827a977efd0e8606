//! One outgoing TCP connection to one peer: kept up for as long as the peer is a member.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use actix::{Message, Recipient};
use actix_web::rt;
use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    core::Queued,
    frame::{self, Reply},
    greeting::{self, Hello, NoGreeting},
    refusals::Refusals,
    seal::{LinkSeal, Opener, Sealer},
};
use crate::{limits, membership::NodeMember, names::NodeId, time::Moment};

/// A link to one life of one peer. Dropping it closes the connection.
pub(super) struct Link {
    number: u64,
    outbox: Rc<Outbox>,
    /// From so many on nothing more is queued.
    queue_bytes: usize,
    task: JoinHandle<()>,
}

/// What is to be written, shared by the replicator and the link's task on the same thread.
#[derive(Default)]
struct Outbox {
    buffer: RefCell<BytesMut>,
    wake: Notify,
    carried: Cell<Carried>,
}

/// Bytes that one link has carried, greetings left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// To the peer.
    pub sent: u64,
    /// From the peer: its acknowledgements and answers.
    pub received: u64,
}

/// An event of one link, for its replicator.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct FromLink {
    pub(super) peer: NodeId,
    /// Which of the links to this peer: see [`Link::open`].
    pub(super) link: u64,
    pub(super) event: LinkEvent,
}

/// What the link's task reports.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// Greeted; numbers start anew.
    Up,
    /// The peer answered.
    Replies(Vec<Reply>),
    /// The connection broke.
    Down,
    /// Soon after it broke nobody listened at the peer's address any more, or another process did: this life of the peer has
    /// ended.
    Gone,
    /// The same, of a peer that was never reached.
    Absent,
}

/// What the link's task does with the peer.
struct Dialer {
    number: u64,
    peer: NodeMember,
    hello: Hello,
    seal: LinkSeal,
    outbox: Rc<Outbox>,
    replicator: Recipient<FromLink>,
    /// Connections that this end closed: nothing that a member sends has come.
    closed: Rc<Refusals>,
}

/// A member is on the list and has no link.
struct Absence {
    since: Moment,
    told_at: Moment,
    /// What came of the last try.
    why: String,
    /// The refusal that was told last.
    told: String,
}

/// How a connection ended.
enum Ended {
    /// Never established: nobody listens there, or another process does.
    Gone,
    /// Somebody listened and broke it off before it was established. A process that dies looks so for a moment.
    BrokenOff(String),
    /// Never established, and why.
    Failed(String),
    /// The peer will have nothing to do with this node until somebody does something.
    Refused(String),
    /// Was up and broke.
    Broken,
}

impl Link {
    /// Starts connecting, and keeps at it. `number` tells its events from those of an earlier link to the same peer;
    /// `queue_bytes` may wait for it.
    pub(super) fn open(
        number: u64,
        peer: NodeMember,
        hello: Hello,
        seal: LinkSeal,
        queue_bytes: usize,
        replicator: Recipient<FromLink>,
    ) -> Self {
        let outbox = Rc::new(Outbox::default());
        let closed = Refusals::of_closed();
        let dialer = Dialer { number, peer, hello, seal, outbox: outbox.clone(), replicator, closed };
        Self { number, outbox, queue_bytes, task: rt::spawn(dialer.run()) }
    }

    /// Which link to its peer it is.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Queues what `put` writes. Only while the link is up: what is queued before is thrown away.
    pub(super) fn queue(&self, put: impl FnOnce(&mut BytesMut)) -> Queued {
        let mut buffer = self.outbox.buffer.borrow_mut();
        if buffer.len() >= self.queue_bytes {
            return Queued::Full;
        }
        put(&mut buffer);
        self.outbox.wake.notify_one();
        Queued::Yes
    }

    /// Bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.buffer.borrow().len()
    }

    /// Bytes written and read.
    pub(super) fn carried(&self) -> Carried {
        self.outbox.carried.get()
    }
}

impl Outbox {
    fn count(&self, sent: usize, received: usize) {
        let Carried { sent: before, received: heard } = self.carried.get();
        self.carried.set(Carried { sent: before + sent as u64, received: heard + received as u64 });
    }

    /// What is queued, up to [`limits::LINK_WRITE_BYTES`].
    fn take(&self) -> BytesMut {
        let mut buffer = self.buffer.borrow_mut();
        let length = buffer.len().min(limits::LINK_WRITE_BYTES);
        buffer.split_to(length)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dialer {
    async fn run(self) {
        let mut pause = limits::LINK_RETRY_FIRST;
        let mut absence = Absence::begin(Moment::now());
        // When it broke, if nothing since says that it was the network that failed.
        let mut broke_at = None;
        loop {
            let began = Moment::now();
            let ended = self.connection().await;
            let now = Moment::now();
            let broke_lately = broke_at.filter(|at| now.since(*at) < limits::LINK_DEATH);
            let mut rest = pause;
            pause = longer(pause);
            broke_at = match ended {
                // At once: either the network hiccuped, or a refusal will tell that the process is gone. But one that breaks
                // as soon as it stands would be opened and broken without a rest.
                Ended::Broken => {
                    if now.since(began) >= limits::LINK_RETRY_LAST {
                        (rest, pause) = (Duration::ZERO, limits::LINK_RETRY_FIRST);
                    }
                    absence = Absence::begin(now);
                    Some(now)
                }
                Ended::Gone => {
                    self.tell(if broke_lately.is_some() { LinkEvent::Gone } else { LinkEvent::Absent }).await;
                    absence.why = "nobody listens there, or another process".into();
                    None
                }
                Ended::BrokenOff(why) => {
                    absence.why = why;
                    if broke_lately.is_some() {
                        rest = limits::LINK_RETRY_DYING;
                    }
                    broke_lately
                }
                Ended::Failed(why) => {
                    absence.why = why;
                    None
                }
                Ended::Refused(why) => {
                    // Once, not at each of many tries: then it is part of the line below.
                    if absence.is_new(&why) {
                        warn!(peer = %self.peer.route, address = %self.peer.replication, "no link: {why}");
                    }
                    absence.why = why;
                    None
                }
            };
            if let Some(lasts) = absence.is_to_be_told(now) {
                let (route, address) = (&self.peer.route, self.peer.replication);
                let why = &absence.why;
                warn!(peer = %route, %address, ?lasts, "a live member cannot be linked and gets no copies: {why}; this node must reach \
                      its TCP port (node.replication there)");
            }
            sleep(rest).await;
        }
    }

    async fn connection(&self) -> Ended {
        let mut stream = match timeout(limits::GREETING_TIMEOUT, connect(self.peer.replication)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Ended::Gone,
            // It was taken in by the kernel when the process ended.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ended::BrokenOff(error.to_string());
            }
            Ok(Err(error)) => return Ended::Failed(error.to_string()),
            Err(_) => return Ended::Failed("no answer to the connection".into()),
        };
        let greeting = greeting::greet(&mut stream, &self.seal, &self.hello);
        let (sealer, opener) = match timeout(limits::GREETING_TIMEOUT, greeting).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(NoGreeting::Io(error))) => return Ended::BrokenOff(format!("the greeting broke off: {error}")),
            Err(_) => return Ended::Failed("no answer to the greeting".into()),
            Ok(Err(NoGreeting::Ended(_))) => return Ended::Gone,
            Ok(Err(error)) => return Ended::Refused(error.to_string()),
        };
        self.outbox.buffer.borrow_mut().clear();
        self.tell(LinkEvent::Up).await;
        let up_at = Moment::now();
        debug!(peer = %self.peer.route, "link up");
        let (reader, writer) = stream.into_split();
        let error = tokio::select! {
            error = self.write(writer, sealer) => error,
            error = self.read(reader, opener) => error,
        };
        // One that breaks as soon as it stands does so again and again.
        match Moment::now().since(up_at) >= limits::LINK_RETRY_LAST {
            true => info!(peer = %self.peer.route, "link down: {error}"),
            false => debug!(peer = %self.peer.route, "link down: {error}"),
        }
        self.tell(LinkEvent::Down).await;
        Ended::Broken
    }

    async fn write(&self, mut stream: impl AsyncWriteExt + Unpin, mut sealer: Sealer) -> String {
        loop {
            let chunk = self.outbox.take();
            if chunk.is_empty() {
                self.outbox.wake.notified().await;
                continue;
            }
            let chunk = match sealer.seal(chunk) {
                Ok(chunk) => chunk,
                Err(error) => return error.to_string(),
            };
            if let Err(error) = stream.write_all(&chunk).await {
                return error.to_string();
            } else {
                self.outbox.count(chunk.len(), 0);
            }
        }
    }

    async fn read(&self, mut stream: impl AsyncReadExt + Unpin, mut opener: Opener) -> String {
        let mut input = BytesMut::with_capacity(limits::LINK_READ_BYTES);
        loop {
            match stream.read_buf(opener.inbox(&mut input)).await {
                Ok(0) => return "closed by the peer".into(),
                Ok(read) => self.outbox.count(0, read),
                Err(error) => return error.to_string(),
            }
            if let Err(error) = opener.open(&mut input) {
                return self.close(error.to_string());
            }
            match take_all(&mut input) {
                Ok(replies) if replies.is_empty() => {}
                Ok(replies) => self.tell(LinkEvent::Replies(replies)).await,
                Err(error) => return self.close(error.to_string()),
            }
        }
    }

    fn close(&self, why: String) -> String {
        self.closed.note(format!("to {} at {}: {why}", self.peer.route, self.peer.replication));
        why
    }

    /// Waits until the replicator has heard, so that a flood of replies is held back in the socket.
    async fn tell(&self, event: LinkEvent) {
        // A closed mailbox means that the process is going down.
        let _ = self.replicator.send(FromLink { peer: self.peer.id, link: self.number, event }).await;
    }
}

impl Absence {
    fn begin(now: Moment) -> Self {
        Self { since: now, told_at: now, why: String::new(), told: String::new() }
    }

    /// Whether this refusal is another one than the last.
    fn is_new(&mut self, refusal: &str) -> bool {
        let is_new = self.told != refusal;
        refusal.clone_into(&mut self.told);
        is_new
    }

    /// How long it lasts, now and then.
    fn is_to_be_told(&mut self, now: Moment) -> Option<Duration> {
        if now.since(self.told_at) < limits::LINK_ABSENCE {
            return None;
        }
        self.told_at = now;
        Some(now.since(self.since))
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(limits::LINK_RETRY_FIRST, limits::LINK_RETRY_LAST)
}

fn take_all(input: &mut BytesMut) -> Result<Vec<Reply>, frame::BadFrame> {
    let mut replies = Vec::new();
    while let Some(reply) = frame::take_reply(input)? {
        replies.push(reply);
    }
    Ok(replies)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    tune(&stream)?;
    Ok(stream)
}

/// No delay for small writes, and a peer that has vanished without a word is noticed.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // The accepting end sends nothing on a link at rest, and would never learn that its peer has lost power.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(limits::LINK_SILENCE).with_interval(limits::LINK_PROBE))?;
    socket.set_tcp_user_timeout(Some(limits::LINK_SILENCE))
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Context, Handler};
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;
    use crate::{membership::Duty, names::Route};

    struct Ear(mpsc::UnboundedSender<&'static str>);

    impl Actor for Ear {
        type Context = Context<Self>;
    }

    impl Handler<FromLink> for Ear {
        type Result = ();

        fn handle(&mut self, FromLink { event, .. }: FromLink, _: &mut Self::Context) {
            let name = match event {
                LinkEvent::Up => "up",
                LinkEvent::Down => "down",
                LinkEvent::Gone => "gone",
                LinkEvent::Absent => "absent",
                LinkEvent::Replies(_) => "replies",
            };
            // Nobody listens any more when the test is over.
            let _ = self.0.send(name);
        }
    }

    #[actix_web::test]
    async fn a_link_that_nobody_reads_takes_no_more_than_its_bound() {
        let outbox = Rc::<Outbox>::default();
        let queue_bytes = limits::link_queue_bytes(3);
        let link = Link { number: 1, outbox: outbox.clone(), queue_bytes, task: rt::spawn(std::future::pending()) };
        let put = |out: &mut BytesMut| out.extend_from_slice(&[0; 1_000]);
        let taken = (0..100_000).take_while(|_| link.queue(put) == Queued::Yes).count();
        assert_eq!((taken, link.queued_bytes()), (queue_bytes.div_ceil(1_000), taken * 1_000));
        assert_eq!(link.queue(put), Queued::Full, "and it stays full");
        assert_eq!(outbox.take().len(), limits::LINK_WRITE_BYTES);
        assert_eq!(link.queue(put), Queued::Yes, "something was written");
    }

    /// Links to an address of this machine; its events.
    fn dial(peer: SocketAddr) -> (Link, mpsc::UnboundedReceiver<&'static str>) {
        let (told, heard) = mpsc::unbounded_channel();
        let replicator = Ear(told).start().recipient();
        let (id, route): (NodeId, Route) = (NodeId(2), "r2".parse().unwrap());
        let hello = Hello::new("tasuki", NodeId(1), "r1".parse().unwrap(), id);
        let peer = NodeMember { id, route, replication: peer, http: peer, duty: Duty::Serving };
        (Link::open(1, peer, hello, LinkSeal::new("tasuki", None), limits::link_queue_bytes(3), replicator), heard)
    }

    async fn greeted(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        greeting::answer(&mut stream, &LinkSeal::new("tasuki", None), "tasuki", NodeId(2)).await.ok().unwrap();
        stream
    }

    #[actix_web::test]
    async fn a_process_that_dies_is_known_to_be_gone_however_short_the_link_was_and_however_slowly_it_dies() {
        for still_listens in [0, 1, 3] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (_link, mut events) = dial(listener.local_addr().unwrap());
            let stream = greeted(&listener).await;
            assert_eq!(events.recv().await, Some("up"));
            drop(stream);
            for _ in 0..still_listens {
                drop(listener.accept().await.unwrap());
            }
            drop(listener);
            assert_eq!((events.recv().await, events.recv().await), (Some("down"), Some("gone")));
            assert_eq!(events.recv().await, Some("absent"), "that was told");
        }
    }

    #[actix_web::test]
    async fn of_a_peer_that_was_never_reached_nobody_knows_that_it_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_link, mut events) = dial(listener.local_addr().unwrap());
        drop(listener.accept().await.unwrap());
        drop(listener);
        assert_eq!(events.recv().await, Some("absent"));
    }

    #[test]
    fn a_refusal_is_told_once_and_its_reason_again_while_it_lasts() {
        let start = Moment(1_000_000);
        let mut absence = Absence::begin(start);
        assert!(
            absence.is_new("another release")
                && !absence.is_new("another release")
                && absence.is_new("another cluster")
        );
        assert_eq!(absence.is_to_be_told(start + limits::LINK_ABSENCE / 2), None);
        assert_eq!(absence.is_to_be_told(start + limits::LINK_ABSENCE), Some(limits::LINK_ABSENCE));
        assert_eq!(absence.is_to_be_told(start + limits::LINK_ABSENCE), None);
    }
}
