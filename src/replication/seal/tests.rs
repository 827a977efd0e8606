//! Real links over real sockets, and somebody in between who listens, changes, repeats and leaves out.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix::{Actor, Context, Handler};
use actix_web::rt;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::*;
use crate::{
    limits,
    membership::{Duty, Member, NodeMember, Role, Roster, SharedDuty},
    names::{NodeId, SessionId},
    replication::{
        accept::{Doorway, Offered, accept},
        frame,
        greeting::Hello,
        link::{FromLink, Link, LinkEvent},
    },
    session::{
        Swept, Table,
        delta::{Attribute, Update, Whole},
        stamp::{Epoch, Stamp},
        value::Value,
    },
};

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const CLUSTER: &str = "tasuki";
/// What a session holds that nobody else may see.
const TEXT: &str = "the user's own words";
const DEADLINE: Duration = Duration::from_secs(10);

fn seal(digits: &str) -> LinkSeal {
    let lines: String = digits.chars().map(|digit| digit.to_string().repeat(64) + "\n").collect();
    LinkSeal::new(CLUSTER, (!digits.is_empty()).then(|| Secret::parse(&lines).unwrap()).as_ref())
}

/// A node that accepts links.
struct Acceptor {
    address: SocketAddr,
    table: Table,
    strangers: Arc<AtomicU64>,
    roster: Arc<ArcSwap<Roster>>,
}

impl Acceptor {
    async fn start(seal: LinkSeal) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, table) = (listener.local_addr().unwrap(), Table::new(PEER));
        let (strangers, roster) = (Arc::new(AtomicU64::new(0)), Arc::new(ArcSwap::default()));
        let doorway = Doorway {
            table: table.clone(),
            cluster: CLUSTER.into(),
            seal,
            duty: SharedDuty::starting(),
            roster: roster.clone(),
            claim_timeout: DEADLINE,
            merged: Deaf.start().recipient(),
            strangers: strangers.clone(),
            offered: Deaf.start().recipient(),
            visits: tokio::sync::mpsc::channel(1).0,
        };
        rt::spawn(accept(listener, doorway));
        Self { address, table, strangers, roster }
    }

    fn holds(&self, n: u8) -> bool {
        self.table.peek(session(n), Option::is_some)
    }
}

impl Handler<Offered> for Deaf {
    type Result = ();

    fn handle(&mut self, _: Offered, _: &mut Self::Context) {}
}

/// Nothing is merged here that others would have to hear of, and nothing offered.
struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<Swept> for Deaf {
    type Result = ();

    fn handle(&mut self, _: Swept, _: &mut Self::Context) {}
}

/// What a link reports, instead of a replicator.
struct Ear(mpsc::UnboundedSender<LinkEvent>);

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<FromLink> for Ear {
    type Result = ();

    fn handle(&mut self, FromLink { event, .. }: FromLink, _: &mut Self::Context) {
        // Nobody listens when the test has ended.
        let _ = self.0.send(event);
    }
}

struct Dialed {
    link: Link,
    events: mpsc::UnboundedReceiver<LinkEvent>,
}

impl Dialed {
    fn start(address: SocketAddr, seal: LinkSeal) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let route = || "r1".parse().unwrap();
        let peer = NodeMember { id: PEER, replication: address, route: route(), http: address, duty: Duty::Serving };
        let hello = Hello::new(CLUSTER, ME, route(), PEER);
        let queue_bytes = limits::FRAME_BYTES;
        Self { link: Link::open(1, peer, hello, seal, queue_bytes, Ear(sender).start().recipient()), events }
    }

    async fn event(&mut self) -> LinkEvent {
        timeout(DEADLINE, self.events.recv()).await.expect("an event in time").expect("the link lives")
    }

    async fn up(&mut self) {
        assert!(matches!(self.event().await, LinkEvent::Up));
    }

    fn send(&self, n: u8) {
        self.link.queue(|out| frame::put_update(out, &update(n)));
    }

    async fn acknowledged(&mut self) {
        assert!(matches!(self.event().await, LinkEvent::Replies(_)));
    }
}

fn session(n: u8) -> SessionId {
    SessionId([n; 16])
}

fn update(n: u8) -> Update {
    let epoch = Epoch { counter: 1, node: ME };
    let stamp = Stamp { epoch, version: 1 };
    let attribute = Attribute { name: "text".into(), value: Value::encode(&TEXT).ok(), stamp };
    Update::Whole(Whole {
        id: session(n),
        context: "/shop".parse().unwrap(),
        owner: epoch,
        stamp,
        timeout: None,
        idle: Duration::ZERO,
        behind: false,
        attributes: vec![attribute],
    })
}

/// What the one in between does with what the dialer's end wrote at once, counted from 0 on each connection.
type Meddle = Box<dyn Fn(usize, Vec<u8>) -> Vec<Vec<u8>>>;

/// Stands between a link and its acceptor and hears everything.
struct Between {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Between {
    async fn start(target: SocketAddr, meddle: Meddle) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let ear = heard.clone();
        rt::spawn(async move {
            let meddle = Rc::new(meddle);
            while let Ok((dialer, _)) = listener.accept().await {
                let Ok(acceptor) = TcpStream::connect(target).await else { return };
                rt::spawn(pass(dialer, acceptor, meddle.clone(), ear.clone()));
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }

    /// What is sent after this is a write of its own.
    async fn hears_more_than(&self, bytes: usize) {
        let heard = async {
            while self.heard().len() <= bytes {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, heard).await.expect("it was written in time");
    }
}

async fn pass(dialer: TcpStream, acceptor: TcpStream, meddle: Rc<Meddle>, heard: Arc<Mutex<Vec<u8>>>) {
    let (mut from_dialer, mut to_dialer) = dialer.into_split();
    let (mut from_acceptor, mut to_acceptor) = acceptor.into_split();
    let forth = async {
        let mut buffer = vec![0; limits::LINK_READ_BYTES];
        for count in 0.. {
            let Ok(length @ 1..) = from_dialer.read(&mut buffer).await else { return };
            heard.lock().unwrap().extend_from_slice(&buffer[..length]);
            for part in meddle(count, buffer[..length].to_vec()) {
                if to_acceptor.write_all(&part).await.is_err() {
                    return;
                }
            }
        }
    };
    let back = tokio::io::copy(&mut from_acceptor, &mut to_dialer);
    tokio::select! {
        () = forth => {}
        _ = back => {}
    }
}

fn honest() -> Meddle {
    Box::new(|_, bytes| vec![bytes])
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[actix_web::test]
async fn nothing_of_a_session_is_to_be_seen_on_a_sealed_link() {
    // Without a secret it is: whoever listens here does hear.
    for (digits, is_clear) in [("", true), ("1", false)] {
        let acceptor = Acceptor::start(seal(digits)).await;
        let between = Between::start(acceptor.address, honest()).await;
        let mut link = Dialed::start(between.address, seal(digits));
        link.up().await;
        link.send(7);
        link.acknowledged().await;
        assert!(acceptor.holds(7));
        assert!(between.heard().len() > 100);
        // Nothing shorter: that would be found by chance.
        for text in [TEXT, "/shop", "tasuki", "text"] {
            assert_eq!(contains(&between.heard(), text), is_clear, "{text} on a link of {digits:?}");
        }
    }
}

#[actix_web::test]
async fn who_has_another_secret_or_none_gets_no_link() {
    for (dialer, acceptor) in [("1", "2"), ("1", ""), ("", "1"), ("1", "23")] {
        let acceptor = Acceptor::start(seal(acceptor)).await;
        let mut link = Dialed::start(acceptor.address, seal(dialer));
        // A link that is refused is tried again and again: no moment says that it will never be up.
        let up = timeout(Duration::from_millis(200), link.events.recv()).await;
        assert!(up.is_err(), "{dialer:?}: {up:?}");
        assert!(acceptor.strangers.load(Relaxed) > 0, "{dialer:?} is counted");
    }
    for (dialer, acceptor) in [("12", "1"), ("21", "12"), ("2", "12")] {
        let acceptor = Acceptor::start(seal(acceptor)).await;
        Dialed::start(acceptor.address, seal(dialer)).up().await;
    }
}

#[actix_web::test]
async fn a_link_whose_bytes_were_changed_repeated_left_out_or_moved_ends() {
    // Writes of the dialer: 0 the handshake, 1 the greeting, 2 and later the updates.
    let last_bit: Meddle = Box::new(|count, mut bytes| {
        if count == 2 {
            *bytes.last_mut().unwrap() ^= 1;
        }
        vec![bytes]
    });
    let first_bit_of_content: Meddle = Box::new(|count, mut bytes| {
        if count == 2 {
            bytes[2] ^= 0x80;
        }
        vec![bytes]
    });
    let greeting_again: Meddle = Box::new(|count, bytes| vec![bytes; if count == 1 { 2 } else { 1 }]);
    let left_out: Meddle = Box::new(|count, bytes| if count == 2 { Vec::new() } else { vec![bytes] });
    let stolen = Arc::new(Mutex::new(Vec::new()));
    let moved: Meddle = Box::new(move |count, bytes| match count {
        2 => {
            stolen.lock().unwrap().push(bytes);
            Vec::new()
        }
        3 => [vec![bytes], std::mem::take(&mut *stolen.lock().unwrap())].concat(),
        _ => vec![bytes],
    });
    for (what, meddle) in [
        ("the last bit", last_bit),
        ("the first bit", first_bit_of_content),
        ("the greeting again", greeting_again),
        ("left out", left_out),
        ("moved", moved),
    ] {
        let acceptor = Acceptor::start(seal("1")).await;
        let between = Between::start(acceptor.address, meddle).await;
        let mut link = Dialed::start(between.address, seal("1"));
        link.up().await;
        let before = between.heard().len();
        link.send(7);
        between.hears_more_than(before).await;
        link.send(8);
        assert!(matches!(link.event().await, LinkEvent::Down), "{what}");
        assert!(!acceptor.holds(7) && !acceptor.holds(8), "{what}: something was believed");
        assert!(acceptor.strangers.load(Relaxed) > 0, "{what}: it is counted");
    }
}

#[actix_web::test]
async fn a_repeated_update_is_not_taken_and_ends_the_link() {
    let acceptor = Acceptor::start(seal("1")).await;
    let again: Meddle = Box::new(|count, bytes| vec![bytes; if count == 2 { 2 } else { 1 }]);
    let between = Between::start(acceptor.address, again).await;
    let mut link = Dialed::start(between.address, seal("1"));
    link.up().await;
    link.send(7);
    loop {
        match link.event().await {
            LinkEvent::Replies(replies) => assert_eq!(replies, [frame::Reply::Ack(1)]),
            LinkEvent::Down => break,
            other => panic!("{other:?}"),
        }
    }
}

#[actix_web::test]
async fn a_recorded_connection_is_no_use_to_anybody() {
    let acceptor = Acceptor::start(seal("1")).await;
    let between = Between::start(acceptor.address, honest()).await;
    let mut link = Dialed::start(between.address, seal("1"));
    link.up().await;
    link.send(7);
    link.acknowledged().await;
    drop(link);
    let fresh = Acceptor::start(seal("1")).await;
    let mut thief = TcpStream::connect(fresh.address).await.unwrap();
    thief.write_all(&between.heard()).await.unwrap();
    let mut answer = Vec::new();
    // The acceptor answers the handshake, for which no secret is shown, and nothing else.
    let _ = timeout(DEADLINE, thief.read_to_end(&mut answer)).await.expect("it hangs up");
    assert!(answer.len() <= PREFIX_BYTES + HANDSHAKE_BYTES, "{} bytes", answer.len());
    assert!(!fresh.holds(7));
}

#[actix_web::test]
async fn noise_is_hung_up_on_before_it_can_ask_for_much() {
    let acceptor = Acceptor::start(seal("1")).await;
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"TSK\x01\xff\xff", b"TSK\x02\0\x30", &[0; 100]] {
        let mut stranger = TcpStream::connect(acceptor.address).await.unwrap();
        stranger.write_all(noise).await.unwrap();
        let mut answer = Vec::new();
        // It may be a reset: not everything was read.
        let _ = timeout(Duration::from_secs(2), stranger.read_to_end(&mut answer)).await.expect("it hangs up at once");
        assert!(answer.is_empty(), "{noise:?} was answered {answer:?}");
    }
}

#[actix_web::test]
async fn another_version_of_the_seal_is_named() {
    let (mut here, mut there) = tokio::io::duplex(1_024);
    there.write_all(b"TSK\x09whatever version nine may be").await.unwrap();
    let refused = seal("1").accept(&mut here).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("speaks version 9 of sealed links"), "{refused}");
}

async fn pair() -> ((Sealer, Opener), (Sealer, Opener), (DuplexStream, DuplexStream)) {
    let (mut here, mut there) = tokio::io::duplex(1_024);
    let (dialer, acceptor) = (seal("1"), seal("1"));
    let (a, b) = tokio::join!(dialer.dial(&mut there), acceptor.accept(&mut here));
    (a.unwrap(), b.unwrap(), (here, there))
}

#[actix_web::test]
async fn the_cost_on_the_wire_is_18_bytes_a_write_and_96_more_for_the_handshake() {
    let ((mut sealer, _), (_, mut opener), _) = pair().await;
    for length in [1, 36, CONTENT_BYTES, CONTENT_BYTES + 1, 3 * CONTENT_BYTES] {
        let content: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let sealed = sealer.seal(BytesMut::from(&content[..])).unwrap();
        assert_eq!(sealed.len(), length + 18 * length.div_ceil(CONTENT_BYTES));
        let mut opened = BytesMut::new();
        // In pieces, as a network brings them.
        for piece in sealed.chunks(1_000) {
            opener.inbox(&mut opened).extend_from_slice(piece);
            opener.open(&mut opened).unwrap();
        }
        assert!(opened == content, "{length} bytes");
    }
    assert_eq!(2 * HANDSHAKE_BYTES, 96);
}

#[actix_web::test]
async fn the_same_words_look_different_each_time_and_each_way() {
    let ((mut a_sealer, _), (mut b_sealer, _), _) = pair().await;
    let words = || BytesMut::from(TEXT.as_bytes());
    let seen = [a_sealer.seal(words()), a_sealer.seal(words()), b_sealer.seal(words())].map(Result::unwrap);
    assert!(seen[0] != seen[1] && seen[0] != seen[2] && seen[1] != seen[2]);
    let ((mut other, _), ..) = pair().await;
    assert_ne!(other.seal(words()).unwrap(), seen[0], "each connection has keys of its own");
}

#[actix_web::test]
async fn every_changed_bit_of_a_record_is_noticed() {
    for bit in 0..(18 + 4) * 8 {
        let ((mut sealer, _), (_, mut opener), _) = pair().await;
        let mut record = sealer.seal(BytesMut::from(&b"body"[..])).unwrap();
        record[bit / 8] ^= 1 << (bit % 8);
        let mut opened = BytesMut::new();
        opener.inbox(&mut opened).extend_from_slice(&record);
        // A length that grew waits for bytes that belong to something else, and fails then.
        opener.inbox(&mut opened).extend_from_slice(&vec![0; usize::from(u16::MAX)]);
        assert_eq!(opener.open(&mut opened), Err(Broken), "bit {bit}");
        assert!(opened.is_empty(), "bit {bit}: {opened:?}");
    }
}

#[actix_web::test]
async fn silent_strangers_take_a_bounded_room_and_give_it_back() {
    let acceptor = Acceptor::start(seal("1")).await;
    let mut strangers = Vec::new();
    for _ in 0..limits::PENDING_GREETINGS {
        strangers.push(TcpStream::connect(acceptor.address).await.unwrap());
    }
    let mut excess = TcpStream::connect(acceptor.address).await.unwrap();
    let dropped = timeout(Duration::from_secs(2), excess.read(&mut [0; 1])).await.expect("it is dropped at once");
    assert!(matches!(dropped, Ok(0) | Err(_)));
    let waits = timeout(Duration::from_millis(50), strangers[0].read(&mut [0; 1])).await;
    assert!(waits.is_err(), "who came first has its time: {waits:?}");
    drop(strangers);
    Dialed::start(acceptor.address, seal("1")).up().await;
}

#[actix_web::test]
async fn silent_strangers_do_not_keep_members_out() {
    let acceptor = Acceptor::start(seal("1")).await;
    let mut strangers = Vec::new();
    for _ in 0..limits::PENDING_GREETINGS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        strangers.push(socket.connect(acceptor.address).await.unwrap());
    }
    let member = Member { id: ME, address: "127.0.0.1:4000".parse().unwrap(), role: Role::Balancer };
    acceptor.roster.store(Arc::new(Roster { members: vec![member], discovered: true }));
    Dialed::start(acceptor.address, seal("1")).up().await;
    let waits = timeout(Duration::from_millis(50), strangers[0].read(&mut [0; 1])).await;
    assert!(waits.is_err(), "they are still there: {waits:?}");
}

#[actix_web::test]
async fn who_cannot_prove_that_it_knows_the_secret_gets_no_link_either() {
    const ASKED: usize = MAGIC.len() + 1 + PREFIX_BYTES + HANDSHAKE_BYTES;
    const ANSWERED: usize = PREFIX_BYTES + HANDSHAKE_BYTES;
    // What was a good answer once.
    let acceptor = Acceptor::start(seal("1")).await;
    let (mut dialer, mut between) = tokio::io::duplex(1_024);
    let (mut recorded, sealed) = (vec![0; ANSWERED], seal("1"));
    let record = async {
        let mut asked = vec![0; ASKED];
        between.read_exact(&mut asked).await.unwrap();
        let mut known = TcpStream::connect(acceptor.address).await.unwrap();
        known.write_all(&asked).await.unwrap();
        known.read_exact(&mut recorded).await.unwrap();
        between.write_all(&recorded).await.unwrap();
    };
    assert!(tokio::join!(sealed.dial(&mut dialer), record).0.is_ok());
    let mut invented = recorded.clone();
    invented[PREFIX_BYTES..].fill(7);
    for answer in [recorded, invented] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut link = Dialed::start(listener.local_addr().unwrap(), seal("1"));
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; ASKED]).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        let mut more = Vec::new();
        // It may be a reset: what was written has not been read.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut more)).await.expect("it hangs up");
        assert!(more.is_empty(), "nothing is told to it, not even a greeting: {more:?}");
        assert!(link.events.try_recv().is_err(), "it is no link");
    }
}
