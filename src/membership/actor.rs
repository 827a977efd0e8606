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
mod tests;
