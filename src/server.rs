//! Builds, connects, watches and drains a node (a balancer: `door`). The only file that knows every actor.

mod door;
mod lock;
mod namesake;
mod relief;
mod snapshot;

use std::{
    collections::BTreeSet,
    future::{Future, ready},
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use actix::{Actor, Addr, Arbiter};
use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    rt,
};
use arc_swap::ArcSwap;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{info, warn};

pub use self::door::{Replaced, Succession, run_balancer};
use self::{
    lock::RunLock,
    namesake::Namesake,
    snapshot::{Others, Snapshots},
};
use crate::{
    deployment::{self, HostConfig, Neighbourhood, Store, Synced},
    descriptors, limits,
    membership::{self, Duty, Leave, Member, Membership, Role, Roster, SetDuty, SharedDuty, Subscribe},
    names::{NodeId, Route},
    node::{self, Handover, House, NewDuty, Notable, Notice, Order, Taker, Traffic, Uploads, Worker, hand_over},
    observe::SessionCounts,
    replication::{
        Dialling, LinkSeal, OwnDuty, PeerNeeds, Replicator, ReplicatorConfig, Retire,
        accept::{Doorway, accept},
        core::CoreConfig,
    },
    session::{SessionStore, Table, placement::Spread, snapshot::Part},
    settings::{Badge, SessionManager, Settings, absolute, variable_of},
    time::Moment,
    webapp::{Deployer, NodeInfo, Sources},
};

/// How a node or a balancer came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to stop, and has finished its work.
    Stopped,
    /// It was asked to restart: the process replaces itself.
    Restart,
    /// Another process has taken its place, and it has finished what it had.
    Replaced,
}

/// Why a node or a balancer does not run, or no longer. The text is one line for the administrator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// A node's parts while it runs.
struct Node {
    house: Arc<House>,
    membership: Addr<Membership>,
    notice: Addr<Notice>,
    exporter: Addr<Replicator>,
    store: Addr<SessionStore>,
    snapshots: Snapshots,
    /// Whether it is known what the other nodes have deployed.
    synced: Synced,
    badge: Badge,
    run: PathBuf,
    /// Where the peers' links wait until this node has loaded its snapshot; none when they are accepted.
    door: Option<(TcpListener, Doorway)>,
    /// Accepts the peers' links.
    accepting: Option<rt::task::JoinHandle<()>>,
    /// Takes what other nodes hand over.
    taker: Addr<Taker>,
    seal: LinkSeal,
    workers: usize,
    shutdown_timeout: Duration,
}

/// Runs a node until `stop` ends or it is asked to restart.
///
/// # Errors
/// [`Failure`] when an earlier process of this node does not end, a port cannot be bound, the webapps folder cannot be read, or
/// an actor has died: the peers carry on, and a new process is safer than a crippled one.
pub async fn run_node(settings: Settings, stop: impl Future<Output = ()>) -> Result<Exit, Failure> {
    let mut stop = pin!(stop);
    // As long as a node that stops is let live even when its disk hangs. Before anything in the folder is looked at.
    let patience = settings.node.shutdown_timeout + limits::KILL_GRACE + limits::SAVE_PATIENCE;
    let _lock = tokio::select! {
        () = &mut stop => return Ok(Exit::Stopped),
        lock = RunLock::take(&settings.node.run, &settings.node.route, patience) => lock?,
    };
    let listener = listen(settings.node.http, "node.http")?;
    let (mut node, mut orders) = Node::build(&settings, &listener)?;
    let server = node.open(&settings, listener).map_err(|error| Failure(format!("cannot serve HTTP: {error}")))?;
    let handle = server.handle();
    let mut server = rt::spawn(server);
    let exit = tokio::select! {
        () = &mut stop => Ok(Exit::Stopped),
        ended = &mut server => Err(server_ended(ended.unwrap_or(Ok(())))),
        exit = node.live(&mut orders, settings.cluster.discovery_timeout) => exit,
    };
    if exit.is_ok() {
        node.farewell(&handle).await;
    }
    match exit {
        // A stop that was asked for meanwhile is no restart.
        Ok(Exit::Restart) => tokio::select! {
            biased;
            () = &mut stop => Ok(Exit::Stopped),
            () = ready(()) => Ok(Exit::Restart),
        },
        exit => exit,
    }
}

impl Node {
    fn build(settings: &Settings, listener: &TcpListener) -> Result<(Self, mpsc::Receiver<Order>), Failure> {
        let me = NodeId::draw();
        let secret = settings.cluster.secret().map_err(|refusal| Failure(refusal.to_string()))?;
        let (gossip, links) = membership::bind(settings.cluster.bind, settings.node.replication)
            .map_err(|error| Failure(format!("{error} (node.replication)")))?;
        let address = local_addr(gossip.local_addr())?;
        let http = reachable(local_addr(listener.local_addr())?, settings.cluster.bind);
        if http.ip().is_loopback() && !settings.cluster.bind.is_loopback() {
            let variable = variable_of("node.http");
            warn!("balancers of other machines cannot reach this node at {http} (node.http); set {variable}");
        }
        let route = settings.node.route.clone();
        let run = settings.node.run.clone();
        let (kept, manifest) = Store::open(&run, &route).map_err(|error| Failure(cannot_write(&run, &error)))?;
        let deployed = kept.archives(&manifest.deployed());
        let work = run.join("work").join(route.as_str());
        let sources = Sources { deployed, ..Sources::new(&settings.node.webapps, &work) };
        let deployer = Deployer::open(sources).map_err(|error| Failure(error.to_string()))?;
        let (catalogue, deployer) = (deployer.catalogue(), deployer.start());
        let role = Role::Node { route: route.clone(), http, duty: Duty::Starting };
        let membership =
            Membership::start(&settings.cluster, secret.as_ref(), Member { id: me, address, role }, gossip)
                .map_err(|error| Failure(format!("cannot start membership: {error}")))?;
        let (table, duty, roster) = (Table::new(me), SharedDuty::starting(), Arc::new(ArcSwap::default()));
        let seal = LinkSeal::new(&settings.cluster.name, secret.as_ref());
        let (exporter, store) = start_keepers(replicator_config(settings, &seal, &table, &membership, None));
        let (orders, taken) = mpsc::channel(limits::ORDERS);
        let badge = Badge::draw(&route, http).map_err(|error| Failure(format!("no random key: {error}")))?;
        let host = HostConfig {
            me,
            route: route.clone(),
            http,
            store: kept,
            manifest,
            deployer: deployer.clone(),
            catalogue: catalogue.clone(),
        };
        let (visits, visited) = mpsc::channel(limits::VISITS);
        let cluster = settings.cluster.name.clone();
        let dialling = Dialling { cluster: cluster.clone(), me, route: route.clone(), seal: seal.clone() };
        let neighbourhood = Neighbourhood { roster: roster.clone(), dialling, door: address, visits: visited };
        let (deployments, synced) = deployment::start(host, neighbourhood);
        let strangers = Arc::new(AtomicU64::new(0));
        let house = Arc::new(House {
            me,
            info: ArcSwap::from_pointee(NodeInfo::new(&route, &[], SessionCounts::default())),
            route,
            http,
            table: table.clone(),
            catalogue,
            deployer,
            duty: duty.clone(),
            roster: roster.clone(),
            membership: membership.clone(),
            strangers: strangers.clone(),
            session: settings.session.clone(),
            min_copies: settings.cluster.min_copies.get(),
            development: settings.node.development,
            response_headers: settings.node.response_headers,
            trusted_proxies: settings.balancer.trusted_proxies.clone(),
            version_timeout: settings.node.version_timeout,
            orders,
            key: badge.key.clone(),
            deployments,
            replicators: vec![exporter.clone()].into(),
            traffic: Traffic::default(),
            shortage: Notable::default(),
            alone: Notable::default(),
            had_others: AtomicBool::new(false),
            full: Notable::default(),
            uploads: Uploads::open(&settings.node),
            handover: Handover::default(),
        });
        let notice = Notice::new(house.clone()).start();
        membership.do_send(Subscribe(notice.clone().recipient()));
        membership.do_send(Subscribe(exporter.clone().recipient()));
        let (claim_timeout, merged) = (settings.session.claim_timeout, exporter.clone().recipient());
        let taker = Taker::new(house.clone(), exporter.clone()).start();
        let offered = taker.clone().recipient();
        let doorway = Doorway {
            table,
            cluster,
            seal: seal.clone(),
            duty,
            roster,
            claim_timeout,
            merged,
            strangers,
            offered,
            visits,
        };
        info!(route = %house.route, %http, replication = %address, life = %me, "node starting");
        let (workers, shutdown_timeout) = (settings.node.workers.get(), settings.node.shutdown_timeout);
        let snapshots = Snapshots::new(settings);
        let door = Some((links, doorway));
        let mut node = Self {
            house,
            membership,
            notice,
            exporter,
            store,
            snapshots,
            synced,
            badge,
            run,
            door,
            accepting: None,
            taker,
            seal,
            workers,
            shutdown_timeout,
        };
        if !node.snapshots.is_there() {
            node.open_door()?;
        }
        Ok((node, taken))
    }

    /// Opens the HTTP door. Each worker starts its own replicator on its own arbiter.
    fn open(&self, settings: &Settings, listener: TcpListener) -> io::Result<Server> {
        let exporter = Some(self.exporter.clone().recipient());
        let config = replicator_config(settings, &self.seal, &self.house.table, &self.membership, exporter);
        let (house, membership) = (self.house.clone(), self.membership.clone());
        let server = HttpServer::new(move || {
            let replicator = Replicator::new(config.clone()).start();
            membership.do_send(Subscribe(replicator.clone().recipient()));
            house.add_replicator(replicator.clone());
            App::new().configure(node::routes(Worker::new(house.clone(), replicator)))
        });
        let (workers, connections) =
            (settings.node.workers.get(), descriptors::connections(limits::NODE_CONNECTIONS, 1));
        let server = server
            .workers(workers)
            .max_connections(connections.div_ceil(workers))
            .disable_signals()
            .tcp_nodelay(true)
            .keep_alive(limits::NODE_KEEP_ALIVE)
            .client_request_timeout(limits::HEAD_TIMEOUT)
            .client_disconnect_timeout(limits::LINGER)
            .shutdown_timeout(settings.node.shutdown_timeout.as_secs())
            .listen(listener)?;
        Ok(server.run())
    }

    /// From the first look around to the order to go.
    async fn live(&mut self, orders: &mut mpsc::Receiver<Order>, patience: Duration) -> Result<Exit, Failure> {
        self.get_ready(patience).await?;
        if let Err(error) = self.badge.write(&self.run) {
            warn!("\"tasuki deploy\" cannot reach this node: {}", cannot_write(&self.run, &error));
        }
        self.announce(Duty::Serving);
        info!(route = %self.house.route, http = %self.house.http, "node ready");
        let (mut handing_over, mut namesake) = (None, Namesake::default());
        loop {
            match timeout(limits::ACTOR_CHECK, orders.recv()).await {
                Ok(Some(Order::Duty(duty))) => {
                    self.announce(duty);
                    handing_over = self.hand_over(duty, handing_over);
                }
                Ok(Some(Order::Restart)) => return Ok(Exit::Restart),
                Ok(None) => return Err(Failure("the orders' channel is closed".into())),
                Err(_) => {
                    self.check()?;
                    self.warn_of(&mut namesake);
                }
            }
        }
    }

    fn warn_of(&self, namesake: &mut Namesake) {
        let (route, roster) = (&self.house.route, self.house.roster.load());
        if let Some(other) = namesake.look(&roster, route, Moment::now()) {
            warn!(%route, %other, "another node has this node's name, and the balancer uses only one of them: give each its own (node.route)");
        }
    }

    /// Waits until this node knows its peers and every worker has a link to each of them, so that it never takes an
    /// existing session for an unknown one. A peer that cannot be linked is waited for only as long as for discovery; those
    /// that stopped together with this node somewhat longer, for they may have what it lacks.
    async fn get_ready(&mut self, patience: Duration) -> Result<(), Failure> {
        let began = Moment::now();
        loop {
            let roster = self.house.roster.load_full();
            let is_late = began + patience + patience <= Moment::now();
            if roster.discovered || is_late {
                self.load_snapshot().await?;
                let missing = self.not_yet_back(&roster);
                // What it has not got it would answer with "not found".
                let is_complete = missing.is_empty() && *self.synced.borrow() && self.is_linked(&roster).await;
                let is_too_late = is_late && (missing.is_empty() || began + limits::RETURN <= Moment::now());
                if is_complete || is_too_late {
                    if !missing.is_empty() {
                        let missing = missing.iter().map(Route::as_str).collect::<Vec<_>>().join(", ");
                        warn!(%missing, "nodes that stopped together with this one are not back: what only they have saved is not there");
                    }
                    return Ok(());
                }
            }
            sleep(limits::READY_POLL).await;
        }
    }

    /// Of the nodes that stopped together with this one those that are not there.
    fn not_yet_back(&self, roster: &Roster) -> Vec<Route> {
        let is_back = |route: &Route| roster.nodes().any(|node| node.route == *route);
        self.snapshots.others().into_iter().filter(|route| !is_back(route)).collect()
    }

    /// Before a peer's link is accepted: until then nobody has asked here for a session, or told of one.
    async fn load_snapshot(&mut self) -> Result<(), Failure> {
        if self.is_loading() {
            let (_, serving) = snapshot::nodes(&self.membership).await;
            self.snapshots.load(&self.house.table, serving).await;
            self.tell_of_loaded().await;
            self.open_door()?;
        }
        Ok(())
    }

    /// This node's own links may have been up for long, and their peers were found to lack nothing of a table that was still
    /// empty.
    async fn tell_of_loaded(&self) {
        let peers: BTreeSet<NodeId> = self.house.links().await.into_iter().map(|link| link.peer).collect();
        for peer in peers {
            self.exporter.do_send(PeerNeeds(peer));
        }
    }

    fn open_door(&mut self) -> Result<(), Failure> {
        if let Some((links, doorway)) = self.door.take() {
            self.accepting = Some(accept_links(links, doorway)?);
        }
        Ok(())
    }

    async fn is_linked(&self, roster: &Roster) -> bool {
        // Workers start on threads of their own, each with a replicator beside the exporter's.
        if self.house.replicator_count() <= self.workers {
            return false;
        }
        let links = self.house.links().await;
        let wanted = roster.nodes().count() * self.house.replicator_count();
        links.len() == wanted && links.iter().all(|link| link.in_sync)
    }

    fn announce(&self, duty: Duty) {
        self.house.duty.set(duty);
        self.notice.do_send(NewDuty);
        self.house.tell_replicators(OwnDuty(duty));
        self.membership.do_send(SetDuty(duty));
        info!(route = %self.house.route, ?duty, "duty");
    }

    /// A node that drains offers what it owns to the others, once for each drain.
    fn hand_over(&self, duty: Duty, running: Option<rt::task::JoinHandle<()>>) -> Option<rt::task::JoinHandle<()>> {
        match (duty, running) {
            (Duty::Draining, None) => Some(rt::spawn(hand_over(self.house.clone(), self.exporter.clone()))),
            (Duty::Draining, running) => running,
            (_, running) => {
                running.inspect(rt::task::JoinHandle::abort);
                None
            }
        }
    }

    /// The graceful end: requests move away, what is owned is held by others or on the disk, the others know.
    async fn farewell(&self, server: &ServerHandle) {
        self.badge.remove(&self.run);
        self.announce(Duty::Draining);
        let began = Moment::now();
        let live = self.house.roster.load().nodes().map(|node| node.route).collect();
        while self.has_reason_to_stay(began).await {
            sleep(limits::READY_POLL).await;
        }
        let is_relieved = self.is_relieved().await;
        let (known, _) = snapshot::nodes(&self.membership).await;
        let left = self.shutdown_timeout.saturating_sub(Moment::now().since(began)).max(limits::LAST_REPLIES);
        if timeout(left, server.stop(true)).await.is_err() {
            let running = self.house.traffic.running();
            warn!(route = %self.house.route, running, "connections were cut at the end of the graceful stop");
        }
        // What was answered since is held by whoever was to be there for it, or by nobody.
        let is_relieved = is_relieved && self.somebody_serves();
        let part = if is_relieved && !self.is_loading() { Part::Local } else { Part::Everything };
        // Whoever hears that this node has left takes its sessions without asking it: nothing may be answered here from then on.
        let _ = timeout(limits::LEAVE_TIMEOUT, self.exporter.send(Retire)).await;
        let _ = timeout(limits::LEAVE_TIMEOUT, self.membership.send(Leave)).await;
        self.snapshots.save(&self.house.table, part, Others { known, live }).await;
        info!(route = %self.house.route, "node stopped");
    }

    /// Another node serves, and those that do hold everything.
    async fn is_relieved(&self) -> bool {
        let roster = self.house.roster.load_full();
        let serves = |id| roster.node(id).is_some_and(|node| node.duty == Duty::Serving);
        let (links, each) = (self.house.links().await, self.house.replicator_count());
        relief::is_relieved(&links, each, serves, self.house.table.placed().placement.spread())
    }

    fn somebody_serves(&self) -> bool {
        self.house.roster.load().nodes().any(|node| node.duty == Duty::Serving)
    }

    /// What is being loaded, nobody has been told of. A load that has begun goes on to its end, and takes the file away.
    fn is_loading(&self) -> bool {
        self.door.is_some()
    }

    async fn has_reason_to_stay(&self, began: Moment) -> bool {
        let now = Moment::now();
        if !self.somebody_serves() || now.since(began) >= self.shutdown_timeout {
            return false;
        }
        // The balancers need a moment to hear of the drain; until then a reused connection may carry a request that
        // must not meet a closed door.
        let heard = now.since(began) >= limits::DRAIN_HEARD;
        let handed_over = relief::is_told(&self.house.links().await, now.since(began) < limits::DRAIN_UNTOLD);
        !(heard && handed_over && self.house.traffic.is_quiet(now, limits::DRAIN_QUIET))
    }

    /// An actor whose mailbox is closed has panicked, and so has a task that has ended.
    fn check(&self) -> Result<(), Failure> {
        let alive = [
            ("membership", self.membership.connected()),
            ("notice", self.notice.connected()),
            ("session store", self.store.connected()),
            ("deployer", self.house.deployer.connected()),
            ("replicator", self.house.replicators_live()),
            ("taker", self.taker.connected()),
            ("link", self.accepting.as_ref().is_none_or(|task| !task.is_finished())),
        ];
        match alive.iter().find(|(_, alive)| !alive) {
            Some((actor, _)) => Err(Failure(format!("the {actor} actor has died: this is a fault of tasuki"))),
            None => Ok(()),
        }
    }
}

/// Starts those who look after all sessions, each on a thread of its own: a look at a million sessions must hold up neither
/// the lease, nor the acknowledgements of the peers' commits, nor the answers to their probes.
fn start_keepers(config: ReplicatorConfig) -> (Addr<Replicator>, Addr<SessionStore>) {
    let table = config.table.clone();
    let exporter = Replicator::start_in_arbiter(&Arbiter::new().handle(), |_| Replicator::new(config));
    let ended = exporter.clone().recipient();
    let store = SessionStore::start_in_arbiter(&Arbiter::new().handle(), |_| SessionStore::new(table, ended));
    (exporter, store)
}

fn replicator_config(
    settings: &Settings,
    seal: &LinkSeal,
    table: &Table,
    membership: &Addr<Membership>,
    exporter: Option<actix::Recipient<PeerNeeds>>,
) -> ReplicatorConfig {
    ReplicatorConfig {
        table: table.clone(),
        route: settings.node.route.clone(),
        cluster: settings.cluster.name.clone(),
        seal: seal.clone(),
        rules: CoreConfig {
            ack: settings.session.ack,
            ack_timeout: settings.session.ack_timeout,
            claim_timeout: settings.session.claim_timeout,
            lease: limits::LEASE,
            repair_interval: settings.session.repair_interval,
        },
        spread: match settings.session.manager {
            SessionManager::Delta | SessionManager::Full => Spread::Everywhere,
            SessionManager::Backup => Spread::Chosen(settings.session.copies.get()),
        },
        min_copies: settings.cluster.min_copies.get(),
        queue_bytes: limits::link_queue_bytes(settings.node.workers.get() + 1),
        exporter,
        gone: membership.clone().recipient(),
    }
}

fn accept_links(listener: TcpListener, doorway: Doorway) -> Result<rt::task::JoinHandle<()>, Failure> {
    let listener = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    let listener = listener.map_err(|error| Failure(format!("cannot accept links: {error}")))?;
    Ok(rt::spawn(accept(listener, doorway)))
}

fn listen(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        Failure(format!("cannot listen on {address} ({key}): {error}; free it, or set {}", variable_of(key)))
    })
}

fn cannot_write(run: &Path, error: &io::Error) -> String {
    let variable = variable_of("node.run");
    format!(
        "cannot write into {} (node.run): {error}; let this user write there, or name another folder with {variable}",
        absolute(run).display()
    )
}

fn local_addr(address: io::Result<SocketAddr>) -> Result<SocketAddr, Failure> {
    address.map_err(|error| Failure(format!("a socket without an address: {error}")))
}

/// The address that others are told: one that listens everywhere is reached where the cluster is.
fn reachable(address: SocketAddr, cluster: IpAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new(cluster, address.port()) } else { address }
}

fn server_ended(ended: io::Result<()>) -> Failure {
    match ended {
        Ok(()) => Failure("the HTTP server ended by itself".into()),
        Err(error) => Failure(format!("the HTTP server failed: {error}")),
    }
}
