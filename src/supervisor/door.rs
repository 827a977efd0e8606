//! The balancer as a child: started again when it ends, and replaced while it runs when it asks for that.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    child::{self, ChildPlan, End, Kept, Life, Lives, Order, command, kill, ordered},
    line::{Started, Word},
};
use crate::{balancer::Sockets, limits};

/// Given to a balancer that is not the first one on its socket.
const SUCCESSOR: &str = "--successor";

/// What the keeper of the balancer knows.
pub(super) struct Door {
    pub(super) plan: ChildPlan,
    /// None once everything stops: who comes then is refused.
    pub(super) sockets: Option<Sockets>,
    pub(super) restart_timeout: Duration,
}

/// The balancer that accepts, one that is to take its place, and those that finish what they have.
struct Watch<'a> {
    door: &'a mut Door,
    current: Started,
    /// One at most.
    coming: JoinSet<Result<Started, String>>,
    leaving: &'a mut JoinSet<Kept>,
}

impl Door {
    /// Keeps a balancer running until it is ordered to stop. `up` turns true when the whole system has come up once.
    pub(super) async fn keep(mut self, mut orders: watch::Receiver<Order>, up: Arc<AtomicBool>) -> (String, Kept) {
        let mut leaving = JoinSet::new();
        let mut kept = self.keep_running(&mut orders, &up, &mut leaving).await;
        while let Some(left) = leaving.join_next().await {
            kept = worse(kept, left.unwrap_or(Kept::Killed));
        }
        (self.plan.name, kept)
    }

    async fn keep_running(
        &mut self,
        orders: &mut watch::Receiver<Order>,
        up: &AtomicBool,
        leaving: &mut JoinSet<Kept>,
    ) -> Kept {
        let mut plan = self.plan.clone();
        let name = plan.name.clone();
        let mut lives = Lives::new(&name, up);
        while *orders.borrow() == Order::Run {
            let begun = Instant::now();
            let life = match self.start(&plan) {
                Ok(current) => Watch { door: self, current, coming: JoinSet::new(), leaving }.live(orders).await,
                Err(error) => Life::Ended(End::not_started(error)),
            };
            if let Some(kept) = lives.next(life, begun, orders).await {
                return kept;
            }
            plan = self.successor();
        }
        Kept::Stopped
    }

    fn start(&self, plan: &ChildPlan) -> io::Result<Started> {
        let sockets = self.sockets.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let started = Started::start(command(plan), sockets)?;
        info!(child = %plan.name, pid = started.child.id(), "started");
        Ok(started)
    }

    /// A balancer that knows its members before it accepts: until then connections wait in the socket.
    fn successor(&self) -> ChildPlan {
        let mut plan = self.plan.clone();
        plan.arguments.push(SUCCESSOR.into());
        plan
    }
}

impl Watch<'_> {
    async fn live(mut self, orders: &mut watch::Receiver<Order>) -> Life {
        loop {
            let pid = self.current.child.id();
            tokio::select! {
                next = self.current.next() => match next {
                    Ok(Word::Restart) if self.coming.is_empty() => self.replace(orders).await,
                    Ok(_) => {}
                    // One that is on its way is not started a second time.
                    Err(status) => match self.coming.join_next().await {
                        Some(Ok(Ok(heir))) => self.current = heir,
                        _ => return Life::Ended(End::of(pid, status)),
                    },
                },
                Some(came) = self.coming.join_next() => {
                    self.take_over(came.unwrap_or_else(|panic| Err(panic.to_string())), orders).await;
                }
                Some(left) = self.leaving.join_next() => if let Ok(Kept::Failed(text)) = left {
                    warn!(child = %self.door.plan.name, "{text}, before it had finished what it had when it was replaced");
                },
                () = ordered(orders, Order::Stop) => return Life::Stopped(self.stop(orders).await),
            }
        }
    }

    /// Starts a balancer beside the current one.
    async fn replace(&mut self, orders: &watch::Receiver<Order>) {
        match self.door.start(&self.door.successor()) {
            Ok(started) => drop(self.coming.spawn(come(started, orders.clone()))),
            Err(error) => self.go_on(&format!("it cannot be started: {error}")).await,
        }
    }

    /// The new balancer accepts, or has failed.
    async fn take_over(&mut self, came: Result<Started, String>, orders: &watch::Receiver<Order>) {
        match came {
            Ok(new) => {
                let mut old = std::mem::replace(&mut self.current, new);
                old.say(Word::Replaced).await;
                let longest = self.door.restart_timeout + limits::KILL_GRACE;
                self.leaving.spawn(leave(old, longest, orders.clone()));
            }
            Err(why) => self.go_on(&why).await,
        }
    }

    async fn go_on(&mut self, why: &str) {
        warn!(child = %self.door.plan.name, "not restarted: {why}");
        self.current.say(Word::Kept).await;
    }

    async fn stop(mut self, orders: &mut watch::Receiver<Order>) -> Kept {
        self.door.sockets = None;
        let kept = child::stop(self.current.hang_up(), orders).await;
        match self.coming.join_next().await {
            Some(Ok(Ok(heir))) => worse(kept, child::stop(heir.hang_up(), orders).await),
            _ => kept,
        }
    }
}

/// Waits until the new balancer accepts. One that does not, or that is not wanted any more, is killed.
async fn come(mut new: Started, mut orders: watch::Receiver<Order>) -> Result<Started, String> {
    let why = tokio::select! {
        ready = timeout(limits::RESTART_TIMEOUT, new.becomes_ready()) => match ready {
            Ok(Ok(())) => return Ok(new),
            Ok(Err(why)) => why,
            Err(_) => format!("the new process was not ready within {} s", limits::RESTART_TIMEOUT.as_secs()),
        },
        () = ordered(&mut orders, Order::Stop) => "everything stops".to_owned(),
    };
    kill(&mut new.hang_up()).await;
    Err(why)
}

/// Waits until the old balancer has finished what it has, which it bounds itself.
async fn leave(mut old: Started, longest: Duration, mut orders: watch::Receiver<Order>) -> Kept {
    let pid = old.child.id();
    tokio::select! {
        status = old.child.wait() => return End::of(pid, status).kept(),
        () = sleep(longest) => {}
        () = ordered(&mut orders, Order::Stop) => return child::stop(old.hang_up(), &mut orders).await,
    }
    warn!(pid, "the balancer that was replaced does not end; it is killed");
    kill(&mut old.hang_up()).await;
    Kept::Killed
}

fn worse(one: Kept, other: Kept) -> Kept {
    if matches!(one, Kept::Stopped) { other } else { one }
}
