//! The actor: moves datagrams and time between the operating system and the core, and publishes the roster.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::SystemTime,
};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, Recipient,
    SpawnHandle, StreamHandler, WrapFuture,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    Duty, Member, Report, Roster, RosterChanged,
    health::{Health, Turn},
    identity::Identity,
    multicast,
    neighbours::{Input, Neighbours, Output},
    seal::{Life, Seal},
    udp::{self, Probed},
};
use crate::{limits, names::NodeId, settings, time::Moment};

/// Knows who is in the cluster and tells whoever asked to be told.
pub struct Membership {
    neighbours: Neighbours,
    socket: UdpSocket,
    settings: settings::Cluster,
    incoming: Option<Incoming>,
    /// Reads the socket that hears the group.
    group: Option<SpawnHandle>,
    joining: Health,
    beacons: Health,
    subscribers: Vec<Recipient<RosterChanged>>,
    probes: usize,
    alarm: Option<(Moment, SpawnHandle)>,
}

/// Delivers the current roster at once, and every other one when it is there.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<RosterChanged>);

/// This node wants to be asked for something else; the others know it within 0.2 s. Ignored by a balancer.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct SetDuty(pub Duty);

/// The TCP link to this member was reset and a new one refused. It counts as down at once, here and everywhere; if
/// it is live after all it returns by itself within a second.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct LinkBroken(pub NodeId);

/// Tells every member that this process leaves; answered when that has been sent. Nothing is sent or published
/// afterwards.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Leave;

/// Ends without a word and closes the socket: another process of this machine goes on under the same address, and to the
/// others it is the same member in a new life.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct HandOver;

/// Asks how it is.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Report")]
pub struct Observe;

/// Sockets that wait for the actor to start.
struct Incoming {
    gossip: tokio::net::UdpSocket,
    group: Option<tokio::net::UdpSocket>,
}

struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl Membership {
    /// Starts on the current arbiter. `socket` is the bound UDP socket of `me.address` (see [`super::bind`]). With a secret
    /// everything is sealed, and what is not is dropped.
    ///
    /// A multicast group that cannot be joined is logged and done without until it can be.
    ///
    /// # Errors
    /// The operating system has no file descriptor left for the socket, or no random bytes.
    ///
    /// # Panics
    /// Outside an actix `System`.
    pub fn start(
        settings: &settings::Cluster,
        secret: Option<&settings::Secret>,
        me: Member,
        socket: UdpSocket,
    ) -> io::Result<Addr<Self>> {
        socket.set_nonblocking(true)?;
        let seal =
            secret.map(|secret| Ok::<_, io::Error>(Seal::new(secret, &settings.name, draw_life()?))).transpose()?;
        let mut joining = Health::Works;
        let group = uses_multicast(settings).then(|| join(settings, &socket, &mut joining)).flatten();
        let incoming = Incoming { gossip: tokio::net::UdpSocket::from_std(socket.try_clone()?)?, group };
        let me = Identity::new(me, unix_millis());
        let rng = StdRng::seed_from_u64(NodeId::draw().0);
        let neighbours = Neighbours::new(settings, seal, incoming.group.is_some(), me, rng, Moment::now());
        Ok(Actor::start(Self {
            neighbours,
            socket,
            settings: settings.clone(),
            incoming: Some(incoming),
            group: None,
            joining,
            beacons: Health::Works,
            subscribers: Vec::new(),
            probes: 0,
            alarm: None,
        }))
    }

    fn step(&mut self, input: Input<'_>, ctx: &mut Context<Self>) {
        for output in self.neighbours.handle(input, Moment::now()) {
            match output {
                Output::Send { to, bytes } => self.send(to, &bytes),
                Output::Beacon { bytes } => self.send_beacon(&bytes),
                Output::Probe { to, bytes } => self.probe(to, bytes, ctx),
                Output::Resolve(name) => resolve(name, ctx),
                Output::Publish(roster) => self.publish(&roster),
                Output::Tell(news) if news.is_a_warning() => tracing::warn!("{news}"),
                Output::Tell(news) => tracing::info!("{news}"),
            }
        }
        self.set_alarm(ctx);
    }

    /// A datagram that the operating system does not take now is lost like any other: the protocol repeats.
    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        if let Err(error) = self.socket.send_to(bytes, to) {
            tracing::debug!(%error, %to, "membership datagram not sent");
        }
    }

    fn send_beacon(&mut self, bytes: &[u8]) {
        let group = self.settings.multicast;
        let sent = self.socket.send_to(bytes, group);
        match (self.beacons.turn(&sent), sent) {
            (Turn::Broke, Err(error)) => tracing::warn!(
                "cannot send to the multicast group {group} (cluster.multicast) from {} (cluster.bind): {error}; \
                 members that have to find this one by multicast may not, so list it in their cluster.peers",
                self.settings.bind
            ),
            (Turn::Recovered, _) => tracing::info!("can send to the multicast group {group} again"),
            _ => {}
        }
    }

    /// Whether the interface has been away cannot be seen, so a new socket takes over from the old one each time.
    fn join_again(&mut self, ctx: &mut Context<Self>) {
        if let Some(socket) = join(&self.settings, &self.socket, &mut self.joining)
            && let Some(old) = self.group.replace(listen(socket, ctx))
        {
            ctx.cancel_future(old);
        }
    }

    fn probe(&mut self, to: SocketAddr, bytes: Vec<u8>, ctx: &mut Context<Self>) {
        if self.probes >= limits::PROBES_AT_ONCE {
            return;
        }
        self.probes += 1;
        let probe = udp::probe(self.settings.bind, to, bytes).into_actor(self);
        ctx.spawn(probe.map(move |probed, actor, ctx| {
            actor.probes -= 1;
            if probed == Probed::Refused {
                actor.step(Input::ProbeRefused(to), ctx);
            }
        }));
    }

    fn publish(&mut self, roster: &Arc<Roster>) {
        self.subscribers.retain(Recipient::connected);
        for subscriber in &self.subscribers {
            subscriber.do_send(RosterChanged(roster.clone()));
        }
    }

    fn set_alarm(&mut self, ctx: &mut Context<Self>) {
        let next = self.neighbours.next();
        if self.alarm.map(|(at, _)| at) == next {
            return;
        }
        if let Some((_, handle)) = self.alarm.take() {
            ctx.cancel_future(handle);
        }
        self.alarm = next.map(|at| {
            let handle = ctx.run_later(at.since(Moment::now()), |actor, ctx| {
                actor.alarm = None;
                actor.step(Input::Tick, ctx);
            });
            (at, handle)
        });
    }
}

impl Actor for Membership {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(Incoming { gossip, group }) = self.incoming.take() {
            listen(gossip, ctx);
            self.group = group.map(|socket| listen(socket, ctx));
        }
        if uses_multicast(&self.settings) {
            ctx.run_interval(limits::MULTICAST_JOIN, Self::join_again);
        }
        self.step(Input::Tick, ctx);
    }
}

impl StreamHandler<Datagram> for Membership {
    fn handle(&mut self, Datagram { from, bytes }: Datagram, ctx: &mut Self::Context) {
        self.step(Input::Datagram { from, bytes: &bytes }, ctx);
    }

    /// The streams do not end by themselves; if one did, the others would go on.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Subscribe> for Membership {
    type Result = ();

    fn handle(&mut self, Subscribe(subscriber): Subscribe, _: &mut Self::Context) {
        subscriber.do_send(RosterChanged(self.neighbours.roster().clone()));
        self.subscribers.push(subscriber);
    }
}

impl Handler<SetDuty> for Membership {
    type Result = ();

    fn handle(&mut self, SetDuty(duty): SetDuty, ctx: &mut Self::Context) {
        self.step(Input::SetDuty(duty), ctx);
    }
}

impl Handler<LinkBroken> for Membership {
    type Result = ();

    fn handle(&mut self, LinkBroken(id): LinkBroken, ctx: &mut Self::Context) {
        self.step(Input::LinkBroken(id), ctx);
    }
}

impl Handler<Leave> for Membership {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) {
        self.step(Input::Leave, ctx);
    }
}

impl Handler<HandOver> for Membership {
    type Result = ();

    fn handle(&mut self, _: HandOver, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Observe> for Membership {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.neighbours.report())
    }
}

fn uses_multicast(settings: &settings::Cluster) -> bool {
    settings.discovery.contains(&settings::Discovery::Multicast)
}

/// A line when it begins to fail, and one when it works again.
fn join(settings: &settings::Cluster, socket: &UdpSocket, health: &mut Health) -> Option<tokio::net::UdpSocket> {
    let (multicast, bind) = (settings.multicast, settings.bind);
    let group = multicast::open(multicast, bind, socket);
    match (health.turn(&group), &group) {
        (Turn::Broke, Err(error)) => tracing::warn!(
            "cannot join the multicast group {multicast} (cluster.multicast) from {bind} (cluster.bind): {error}; it \
             is tried again every {} s; until then no member is found by multicast, so list them in cluster.peers",
            limits::MULTICAST_JOIN.as_secs()
        ),
        (Turn::Recovered, _) => tracing::info!("has joined the multicast group {multicast}"),
        _ => {}
    }
    group.ok()
}

/// Reads the socket until the handle is cancelled, which closes it.
fn listen(socket: tokio::net::UdpSocket, ctx: &mut Context<Membership>) -> SpawnHandle {
    use futures_util::StreamExt as _;
    ctx.add_stream(udp::datagrams(socket).map(|(from, bytes)| Datagram { from, bytes }))
}

fn resolve(name: String, ctx: &mut Context<Membership>) {
    let looked_up = async move {
        let addresses = tokio::net::lookup_host(&name).await;
        let addresses = addresses.map(|found| found.take(limits::ADDRESSES_OF_A_NAME * 2).collect::<Vec<_>>());
        (name, addresses.unwrap_or_default())
    };
    ctx.spawn(actix::fut::wrap_future::<_, Membership>(looked_up).map(|(name, addresses), actor, ctx| {
        actor.step(Input::Resolved { name: &name, addresses: &addresses }, ctx);
    }));
}

/// Of this start, for the nonces of its datagrams.
fn draw_life() -> io::Result<Life> {
    let mut life = Life::default();
    getrandom::fill(&mut life).map_err(io::Error::other)?;
    Ok(life)
}

/// By this machine's clock; a clock before 1970 counts as 1970.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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

        async fn start_with(
            settings: &settings::Cluster,
            secret: Option<&settings::Secret>,
            socket: UdpSocket,
        ) -> Self {
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
}
