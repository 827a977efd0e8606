//! A balancer's life: it opens, is replaced by another process or stops, and goes.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    time::Duration,
};

use actix::Addr;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Exit, Failure, cannot_write, local_addr, server_ended};
use crate::{
    balancer::{self, Balancer, Door, IsSettled, Kept, Sockets},
    limits,
    membership::{self, HandOver, Leave, Member, Membership, Role, Subscribe},
    names::NodeId,
    settings::{self, Listening, Settings},
    time::Moment,
};

/// What a balancer's process was given by the one that started it, and how it gets a process in its place.
pub struct Succession {
    /// Sockets that listen already.
    pub sockets: Option<Sockets>,
    /// Another process accepted, or accepts, on them: this one begins when it knows its members.
    pub is_successor: bool,
    /// Says that this process accepts.
    pub tell_ready: Box<dyn FnOnce()>,
    /// Starts a process in place of this one, with these sockets; ends when that accepts.
    pub replace: Box<dyn Fn(Sockets) -> Replaced>,
}

/// Done, or why there is no other process.
pub type Replaced = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// The open door and its place in the cluster.
struct Open {
    settings: Settings,
    door: Door,
    membership: Addr<Membership>,
}

/// What is next in the life of an open door.
enum Next {
    Stop,
    Restart,
    Failed(Failure),
}

/// Runs a balancer until `stop` ends or another process has taken its place.
///
/// # Errors
/// [`Failure`] when the port cannot be bound, or an actor has died.
pub async fn run_balancer(
    settings: Settings,
    succession: Succession,
    stop: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    let Succession { sockets, is_successor, tell_ready, replace } = succession;
    let mut stop = pin!(stop);
    let run = settings.node.run.clone();
    let Some(mut open) = Open::new(settings, sockets, is_successor, stop.as_mut()).await? else {
        return Ok(Exit::Stopped);
    };
    tell_ready();
    info!(listen = %open.door.address, "balancer ready");
    let exit = loop {
        match open.next(stop.as_mut()).await {
            Next::Stop => break Ok(Exit::Stopped),
            Next::Failed(failure) => break Err(failure),
            Next::Restart => match open.replace(&replace, stop.as_mut()).await {
                Ok(exit) => break Ok(exit),
                Err(why) => {
                    warn!("not restarted: {why}; this process goes on");
                    open.door.refuse_restart(&why);
                    if let Err(failure) = open.rejoin().await {
                        break Err(failure);
                    }
                }
            },
        }
    };
    match &exit {
        Ok(Exit::Replaced) => open.retire(stop).await,
        Ok(_) => open.stop().await,
        Err(_) => {}
    }
    Listening::remove_own(&run);
    exit
}

impl Open {
    /// None when it is to stop before it has opened.
    async fn new(
        settings: Settings,
        sockets: Option<Sockets>,
        is_successor: bool,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Self>, Failure> {
        let text = |error: io::Error| Failure(error.to_string());
        let sockets = match sockets {
            Some(sockets) => inherited(sockets, &settings.balancer),
            None => Sockets::bind(&settings.balancer),
        };
        let sockets = sockets.map_err(text)?;
        let (patience, kept) = (settings.node.shutdown_timeout, Kept::of(&settings.node.run));
        let hall =
            balancer::prepare(&settings.balancer, &settings.session, patience, sockets, Some(kept)).map_err(text)?;
        let patience = if is_successor { limits::PORT_HANDED_OVER } else { Duration::ZERO };
        let membership = join(&settings, patience).await?;
        membership.do_send(Subscribe(hall.roster.clone()));
        if is_successor {
            let longest = settings.cluster.discovery_timeout + settings.balancer.timeout;
            tokio::select! {
                () = settled(&hall.balancer, longest) => {}
                () = stop => return Ok(None),
            }
        }
        let door = hall.open().map_err(text)?;
        let run = &settings.node.run;
        let listening = Listening { listen: door.address, manager: door.manager, pid: std::process::id() };
        listening.write(run).map_err(|error| Failure(cannot_write(run, &error)))?;
        Ok(Some(Self { settings, door, membership }))
    }

    async fn next(&mut self, stop: impl Future<Output = ()>) -> Next {
        let watch = watch(self.door.balancer.clone(), self.membership.clone());
        let restart = self.door.restart_asked();
        tokio::select! {
            () = stop => Next::Stop,
            ended = &mut self.door.server => Next::Failed(server_ended(ended.unwrap_or(Ok(())))),
            failure = watch => Next::Failed(failure),
            () = restart => Next::Restart,
        }
    }

    /// Another process in place of this one, which goes on accepting until the other does, and after a failure.
    async fn replace(
        &self,
        replace: impl Fn(Sockets) -> Replaced,
        stop: impl Future<Output = ()>,
    ) -> Result<Exit, String> {
        if self.settings.balancer.membership != 0 {
            // A fixed port belongs to one process at a time. What was known of the members stays, and is checked.
            let _ = self.membership.send(HandOver).await;
        }
        let sockets =
            self.door.sockets().map_err(|error| format!("the listening sockets cannot be given away: {error}"))?;
        info!("a new process takes this one's place");
        tokio::select! {
            replaced = replace(sockets) => replaced.map(|()| Exit::Replaced),
            () = stop => Ok(Exit::Stopped),
        }
    }

    /// Back in the cluster, if the port had been given away.
    async fn rejoin(&mut self) -> Result<(), Failure> {
        if !self.membership.connected() {
            self.membership = join(&self.settings, limits::PORT_HANDED_OVER).await?;
            self.membership.do_send(Subscribe(self.door.roster.clone()));
        }
        Ok(())
    }

    /// The end of a process that has been replaced.
    async fn retire(self, stop: impl Future<Output = ()>) {
        self.leave().await;
        let longest = self.settings.balancer.restart_timeout;
        let begun = Moment::now();
        let mut stopped = false;
        let enough = async {
            tokio::select! {
                () = sleep(longest) => {}
                () = stop => stopped = true,
            }
        };
        self.door.retire(enough).await;
        let left = if stopped { self.settings.node.shutdown_timeout } else { limits::LAST_REPLIES };
        self.door.stop(left).await;
        info!(after = ?Moment::now().since(begun), "balancer replaced");
    }

    async fn stop(self) {
        self.leave().await;
        self.door.stop(self.settings.node.shutdown_timeout).await;
        info!("balancer stopped");
    }

    async fn leave(&self) {
        if self.membership.connected() {
            let _ = timeout(limits::LEAVE_TIMEOUT, self.membership.send(Leave)).await;
        }
    }
}

/// Another process of this machine may still hold a fixed port for a moment: it is waited for so long.
async fn join(settings: &Settings, patience: Duration) -> Result<Addr<Membership>, Failure> {
    let secret = settings.cluster.secret().map_err(|refusal| Failure(refusal.to_string()))?;
    let begun = Moment::now();
    // By default any port but those of 4000 to 4099, which belong to nodes that may still be starting.
    let gossip = loop {
        match membership::bind(settings.cluster.bind, Some(settings.balancer.membership)) {
            Ok((gossip, _)) => break gossip,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Moment::now().since(begun) < patience => {
                sleep(limits::READY_POLL).await;
            }
            Err(error) => return Err(Failure(format!("{error} (balancer.membership)"))),
        }
    };
    let me = Member { id: NodeId::draw(), address: local_addr(gossip.local_addr())?, role: Role::Balancer };
    Membership::start(&settings.cluster, secret.as_ref(), me, gossip)
        .map_err(|error| Failure(format!("cannot start membership: {error}")))
}

/// A changed address takes effect when the balancer is stopped and started: the sockets are those that users know. A port
/// for TLS or for the manager that is new in the settings is opened now.
fn inherited(sockets: Sockets, settings: &settings::Balancer) -> io::Result<Sockets> {
    let sockets = sockets.completed(settings)?;
    let tls = settings.tls.as_ref().map(|tls| tls.listen);
    let wanted = [Some(settings.listen), tls, settings.manager.listen].into_iter().flatten();
    for ((key, socket), wanted) in sockets.all().zip(wanted) {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        if address.ip() != wanted.ip() || wanted.port() != 0 && address.port() != wanted.port() {
            warn!(%address, %wanted, "the socket was handed over, and listens where {key} does not say");
        }
    }
    Ok(sockets)
}

/// Users wait in the socket meanwhile, so not for ever.
async fn settled(balancer: &Addr<Balancer>, longest: Duration) {
    let settled = async {
        while !balancer.send(IsSettled).await.unwrap_or(true) {
            sleep(limits::READY_POLL).await;
        }
    };
    if timeout(longest, settled).await.is_err() {
        warn!("not every member answers yet");
    }
}

async fn watch(balancer: Addr<Balancer>, membership: Addr<Membership>) -> Failure {
    while balancer.connected() && membership.connected() {
        sleep(limits::ACTOR_CHECK).await;
    }
    Failure("an actor of the balancer has died: this is a fault of tasuki".into())
}
