use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use actix::clock::timeout;
use tokio::sync::watch;

use super::*;
use crate::membership::{Datagrams, MemberState, Role, bind};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Far beyond what any test here needs; only a failure waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

/// A member on a real socket, and the rosters it publishes.
struct Neighbour {
    id: NodeId,
    address: SocketAddr,
    actor: Addr<Membership>,
    rosters: watch::Receiver<Arc<Roster>>,
}

struct Watcher(watch::Sender<Arc<Roster>>);

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<RosterChanged> for Watcher {
    type Result = ();

    fn handle(&mut self, RosterChanged(roster): RosterChanged, _: &mut Self::Context) {
        self.0.send_replace(roster);
    }
}

impl Neighbour {
    async fn start(settings: &settings::Cluster, socket: UdpSocket) -> Self {
        Self::start_with(settings, None, socket).await
    }

    async fn start_with(settings: &settings::Cluster, secret: Option<&settings::Secret>, socket: UdpSocket) -> Self {
        let address = socket.local_addr().unwrap();
        let role = Role::Node { route: "r1".parse().unwrap(), http: address, duty: Duty::Starting };
        let me = Member { id: NodeId::draw(), address, role };
        let id = me.id;
        let actor = Membership::start(settings, secret, me, socket).unwrap();
        let (sender, rosters) = watch::channel(Arc::default());
        actor.send(Subscribe(Watcher(sender).start().recipient())).await.unwrap();
        Self { id, address, actor, rosters }
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Roster) -> bool) -> Duration {
        let start = Instant::now();
        let found = timeout(DEADLINE, self.rosters.wait_for(|roster| condition(roster))).await.map(drop);
        assert!(found.is_ok(), "not within {DEADLINE:?}: {what}; {:?}", self.rosters.borrow());
        start.elapsed()
    }

    async fn observe(&self, what: &str, condition: impl Fn(&Datagrams) -> bool) -> Datagrams {
        let start = Instant::now();
        loop {
            let datagrams = self.actor.send(Observe).await.unwrap().datagrams;
            if condition(&datagrams) {
                return datagrams;
            }
            assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}; {datagrams:?}");
            actix::clock::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn socket() -> UdpSocket {
    bind(LOOPBACK, Some(0)).unwrap().0
}

/// A name of its own for each test, so that tests do not meet by multicast or a port used again.
fn cluster(discovery: settings::Discovery, peers: &[SocketAddr]) -> settings::Cluster {
    settings::Cluster {
        name: format!("test {:?}", NodeId::draw()),
        discovery: vec![discovery],
        peers: peers.iter().map(ToString::to_string).collect(),
        discovery_timeout: DEADLINE * 2,
        ..settings::Cluster::default()
    }
}

/// Three members that name each other.
async fn three() -> (settings::Cluster, [Neighbour; 3]) {
    let sockets = [(); 3].map(|()| socket());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let settings = cluster(settings::Discovery::Static, &addresses);
    let [a, b, c] = sockets;
    let mut all = [
        Neighbour::start(&settings, a).await,
        Neighbour::start(&settings, b).await,
        Neighbour::start(&settings, c).await,
    ];
    for neighbour in &mut all {
        neighbour.until("two others", |roster| roster.discovered && roster.members.len() == 2).await;
    }
    (settings, all)
}

#[actix::test]
async fn absent_peers_refuse_and_cost_no_time() {
    let absent = [(); 2].map(|()| socket().local_addr().unwrap());
    let mut alone = Neighbour::start(&cluster(settings::Discovery::Static, &absent), socket()).await;
    let took = alone.until("discovered", |roster| roster.discovered).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(alone.rosters.borrow().members.is_empty());
}

#[actix::test]
async fn members_on_real_sockets_find_each_other_and_tell_their_duty() {
    let (_, [a, mut b, _c]) = three().await;
    a.actor.send(SetDuty(Duty::Serving)).await.unwrap();
    let serving = |roster: &Roster| roster.node(a.id).is_some_and(|node| node.duty == Duty::Serving);
    let took = b.until("serving", serving).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let report = b.actor.send(Observe).await.unwrap();
    assert_eq!((report.members.len(), report.datagrams.refused), (2, 0), "{report:?}");
    assert!(report.members.iter().all(|member| member.state == MemberState::Alive));
}

#[actix::test]
async fn whoever_leaves_is_gone_at_the_others() {
    let (_, [a, mut b, mut c]) = three().await;
    a.actor.send(Leave).await.unwrap();
    for other in [&mut b, &mut c] {
        let took = other.until("gone", |roster| roster.node(a.id).is_none()).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[actix::test]
async fn a_live_member_whose_link_broke_returns() {
    let (_, [a, mut b, mut c]) = three().await;
    b.actor.send(LinkBroken(a.id)).await.unwrap();
    b.until("gone here", |roster| roster.node(a.id).is_none()).await;
    for other in [&mut b, &mut c] {
        other.until("back", |roster| roster.node(a.id).is_some_and(|node| node.replication == a.address)).await;
    }
}

#[actix::test]
async fn a_member_that_is_not_there_any_more_is_gone_within_three_seconds() {
    let (settings, [mut a, _b, _c]) = three().await;
    // Somebody who asks once and then never answers, as a killed process.
    let dead = socket();
    let settings = settings::Cluster { peers: vec![a.address.to_string()], ..settings };
    let me = Member { id: NodeId(1), address: dead.local_addr().unwrap(), role: Role::Balancer };
    let rng = StdRng::seed_from_u64(1);
    let mut core = Neighbours::new(&settings, None, false, Identity::new(me, unix_millis()), rng, Moment::now());
    for output in core.handle(Input::Tick, Moment::now()) {
        if let Output::Send { to, bytes } = output {
            dead.send_to(&bytes, to).unwrap();
        }
    }
    a.until("there", |roster| roster.members.len() == 3).await;
    let took = a.until("gone", |roster| roster.members.len() == 2).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[actix::test]
async fn a_host_name_is_looked_up() {
    let first = socket();
    let port = first.local_addr().unwrap().port();
    let settings = cluster(settings::Discovery::Static, &[]);
    let settings = settings::Cluster { peers: vec![format!("localhost:{port}")], ..settings };
    let mut first = Neighbour::start(&settings, first).await;
    let mut second = Neighbour::start(&settings, socket()).await;
    first.until("the second", |roster| roster.discovered && roster.members.len() == 1).await;
    second.until("the first", |roster| roster.discovered && roster.members.len() == 1).await;
}

#[actix::test]
async fn a_name_is_looked_up_for_the_members_behind_it() {
    let first = socket();
    let port = first.local_addr().unwrap().port();
    let settings = cluster(settings::Discovery::Dns, &[]);
    let settings = settings::Cluster { dns: vec![format!("localhost:{port}")], ..settings };
    let mut first = Neighbour::start(&settings, first).await;
    let mut second = Neighbour::start(&settings, socket()).await;
    first.until("the second", |roster| roster.discovered && roster.members.len() == 1).await;
    second.until("the first", |roster| roster.discovered && roster.members.len() == 1).await;
    let found = second.actor.send(Observe).await.unwrap().members[0].found;
    assert_eq!(found, Some(crate::membership::Way::Dns));
}

#[actix::test]
async fn members_with_one_secret_find_each_other_and_count_what_strangers_send() {
    let secrets = ['1', '2'].map(|digit| settings::Secret::parse(&digit.to_string().repeat(64)).unwrap());
    let sockets = [(); 4].map(|()| socket());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let settings = cluster(settings::Discovery::Static, &addresses);
    let settings = settings::Cluster { discovery_timeout: Duration::from_millis(300), ..settings };
    let [a, b, other, none] = sockets;
    let mut a = Neighbour::start_with(&settings, Some(&secrets[0]), a).await;
    let mut b = Neighbour::start_with(&settings, Some(&secrets[0]), b).await;
    let mut strangers = [
        Neighbour::start_with(&settings, Some(&secrets[1]), other).await,
        Neighbour::start_with(&settings, None, none).await,
    ];
    for neighbour in [&mut a, &mut b] {
        neighbour.until("the other", |roster| roster.discovered && roster.members.len() == 1).await;
    }
    for stranger in &mut strangers {
        stranger.until("alone", |roster| roster.discovered && roster.members.is_empty()).await;
    }
    let report = a.actor.send(Observe).await.unwrap();
    assert!(report.datagrams.unsealed >= 2 && report.members.len() == 1, "{report:?}");
}

#[actix::test]
async fn beacons_find_members_where_loopback_does_multicast() {
    let settings = cluster(settings::Discovery::Multicast, &[]);
    if !loopback_does_multicast(&settings).await {
        // To the terminal itself: what a test prints is shown only when it fails.
        let _ = writeln!(std::io::stderr(), "skipped: no multicast on loopback here");
        return;
    }
    let mut first = Neighbour::start(&settings, socket()).await;
    let mut second = Neighbour::start(&settings, socket()).await;
    for neighbour in [&mut first, &mut second] {
        neighbour.until("the other", |roster| roster.discovered && roster.members.len() == 1).await;
    }
}

/// The interface has been away for a while, and it is often time to join again.
#[derive(Message)]
#[rtype(result = "()")]
struct LoseGroup;

impl Handler<LoseGroup> for Membership {
    type Result = ();

    fn handle(&mut self, _: LoseGroup, ctx: &mut Self::Context) {
        if let Some(old) = self.group.take() {
            ctx.cancel_future(old);
        }
        (0..3).for_each(|_| self.join_again(ctx));
    }
}

#[actix::test]
async fn a_group_that_was_lost_is_joined_again_and_heard_once() {
    // A port of its own: nobody else is to be heard.
    let multicast = std::net::SocketAddrV4::new([228, 0, 0, 4].into(), socket().local_addr().unwrap().port());
    let settings = settings::Cluster { multicast, ..cluster(settings::Discovery::Multicast, &[]) };
    if !loopback_does_multicast(&settings).await {
        let _ = writeln!(std::io::stderr(), "skipped: no multicast on loopback here");
        return;
    }
    let member = Neighbour::start(&settings, socket()).await;
    member.actor.send(LoseGroup).await.unwrap();
    let sender = socket();
    socket2::SockRef::from(&sender).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    sender.send_to(b"tsk\xff of another version", multicast).unwrap();
    let heard = member.observe("heard", |datagrams| datagrams.refused > 0).await;
    // Its own beacons come after whatever else was in the sockets.
    let later = member.observe("two beacons", |datagrams| datagrams.received >= heard.received + 2).await;
    assert_eq!(later.refused, 1, "{later:?}");
}

async fn loopback_does_multicast(settings: &settings::Cluster) -> bool {
    let sender = socket();
    let Ok(group) = multicast::open(settings.multicast, LOOPBACK, &sender) else { return false };
    let sent = sender.send_to(b"tasuki test", settings.multicast);
    let heard = async { while group.recv(&mut [0; 64]).await.is_err() {} };
    sent.is_ok() && timeout(Duration::from_secs(1), heard).await.is_ok()
}
