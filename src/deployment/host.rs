//! This node's side: what is deployed here, for good and on trial, and who may change it.
//!
//! Changes go one after the other. What is served is always the manifest with the trials laid over it, so that a trial may
//! end while the manifest moves on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use actix::Addr;
use actix_web::rt;
use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};
use tracing::{error, info, warn};

use super::{
    coordinator::Order,
    manifest::{Change, Digest, Entry, Manifest, NoChange},
    message::{Ask, NoTalk, Say, receive, send},
    probe,
    store::{Incoming, Store},
};
use crate::{
    limits,
    membership::Duty,
    names::{NodeId, Route},
    observe::SessionCounts,
    replication::{Channel, Visit},
    webapp::{self, Catalogue, Check, Deployer, MemberInfo, NodeInfo, Refusal, Rehearsal, SetDeployed},
};

/// What a host works with.
#[derive(Clone)]
pub struct HostConfig {
    /// This life of the node.
    pub me: NodeId,
    /// Its name.
    pub route: Route,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// Its disk.
    pub store: Store,
    /// What it has deployed.
    pub manifest: Manifest,
    /// Who reads archives and makes them answer.
    pub deployer: Addr<Deployer>,
    /// What answers.
    pub catalogue: Catalogue,
}

/// The webapps that the cluster has deployed on this node.
pub(super) struct Host {
    pub(super) config: HostConfig,
    state: Mutex<State>,
}

/// Takes archives and orders from the control interface; for all threads.
#[derive(Clone, Debug)]
pub struct Deployments {
    store: Store,
    orders: mpsc::Sender<Order>,
}

/// An order cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is busy with other deployments; try again when they are over")]
pub struct Unavailable;

#[derive(Default)]
struct State {
    manifest: Manifest,
    /// What is served as long as its coordinator is heard.
    trials: BTreeMap<String, Entry>,
    /// Archives that other nodes run and this one cannot.
    unfit: BTreeSet<Digest>,
}

/// What one channel has under way.
#[derive(Default)]
struct Talk {
    arriving: Option<Arriving>,
    /// The page that must be answered well.
    probe: Option<String>,
    trial: Option<String>,
}

struct Arriving {
    name: String,
    archive: Digest,
    incoming: Incoming,
}

impl Deployments {
    pub(super) fn new(store: Store, orders: mpsc::Sender<Order>) -> Self {
        Self { store, orders }
    }

    /// Where an archive is put before it is ordered.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Gives an order.
    ///
    /// # Errors
    /// [`limits::DEPLOY_ORDERS`] wait already.
    pub fn order(&self, order: Order) -> Result<(), Unavailable> {
        self.orders.try_send(order).map_err(|_| Unavailable)
    }
}

impl State {
    fn archives(&self, store: &Store) -> BTreeMap<String, PathBuf> {
        let mut deployed = self.manifest.deployed();
        for (name, entry) in &self.trials {
            match &entry.archive {
                Some(archive) => drop(deployed.insert(name.clone(), archive.clone())),
                None => drop(deployed.remove(name)),
            }
        }
        deployed.retain(|_, archive| !self.unfit.contains(archive));
        store.archives(&deployed)
    }
}

impl Host {
    /// A host as its disk has it: the deployer serves that already.
    pub(super) fn new(config: HostConfig) -> Rc<Self> {
        let state = State { manifest: config.manifest.clone(), ..State::default() };
        Rc::new(Self { config, state: state.into() })
    }

    /// What a change would make of a name.
    pub(super) async fn next(&self, name: &str, change: Change) -> Result<Entry, NoChange> {
        self.state.lock().await.manifest.next(name, change, self.config.me)
    }

    pub(super) async fn manifest(&self) -> Manifest {
        self.state.lock().await.manifest.clone()
    }

    /// Reads an archive of the store whole; nothing changes for users.
    pub(super) async fn check(
        &self,
        name: &str,
        archive: &Digest,
        rehearsal: Option<Rehearsal>,
    ) -> Result<Vec<String>, String> {
        let archive = self.config.store.archive(archive).ok_or("the archive is not here")?;
        let checked = self.config.deployer.send(Check { name: name.into(), archive, rehearsal }).await;
        let checked = checked.map_err(|_| "the node is going down")?.map_err(|refusal| refusal.to_string())?;
        Ok(checked.remarks)
    }

    async fn activate(&self, name: &str, entry: Entry) -> Result<(), String> {
        let mut state = self.state.lock().await;
        if state.trials.contains_key(name) {
            return Err(format!("{name} is being deployed by somebody else; try again when that is over"));
        }
        if state.manifest.entry(name).is_some_and(|known| known.serial >= entry.serial) {
            return Err(format!("a newer deployment of {name} is known here; try again in a few seconds"));
        }
        if let Some(archive) = &entry.archive {
            self.config.store.archive(archive).ok_or("the archive is not here")?;
        }
        state.trials.insert(name.into(), entry);
        let served = self.serve(&state).await;
        if served.is_err() {
            state.trials.remove(name);
        }
        served
    }

    async fn confirm(&self, name: &str) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let entry = state.trials.get(name).cloned().ok_or("there is no trial")?;
        let mut manifest = state.manifest.clone();
        manifest.take(name, &entry);
        self.save(&manifest).await.map_err(|error| format!("cannot be kept on the disk: {error}"))?;
        state.manifest = manifest;
        state.trials.remove(name);
        self.sweep(&state).await;
        match &entry.archive {
            Some(archive) => info!(archive = archive.short(), "webapp {name} is deployed by the cluster"),
            None => info!("webapp {name} is undeployed by the cluster"),
        }
        Ok(())
    }

    async fn revert(&self, name: &str) {
        let mut state = self.state.lock().await;
        if state.trials.remove(name).is_none() {
            return;
        }
        match self.serve(&state).await {
            Ok(()) => warn!("the deployment of {name} was taken back"),
            Err(why) => error!("the deployment of {name} cannot be taken back: {why}"),
        }
    }

    /// Takes what other nodes have confirmed, when its archives are here.
    pub(super) async fn learn(&self, news: &[(String, Entry)]) {
        let mut state = self.state.lock().await;
        for (name, entry) in news {
            state.manifest.take(name, entry);
            let Some(archive) = &entry.archive else { continue };
            if let Err(why) = self.check(name, archive, None).await {
                error!("webapp {name}, which other nodes serve, is left out: {why}");
                state.unfit.insert(archive.clone());
            }
        }
        if let Err(why) = self.serve(&state).await {
            error!("what other nodes have deployed cannot be served: {why}");
        }
        let manifest = state.manifest.clone();
        if let Err(error) = self.save(&manifest).await {
            warn!("what is deployed cannot be kept on the disk, and is asked for again after a restart: {error}");
        }
        self.sweep(&state).await;
        for (name, entry) in news {
            let archive = entry.archive.as_ref().map_or("none", Digest::short);
            info!(archive, "webapp {name} is as the other nodes have it");
        }
    }

    /// Makes the deployer serve what the state says.
    async fn serve(&self, state: &State) -> Result<(), String> {
        let archives = state.archives(&self.config.store);
        let served = self.config.deployer.send(SetDeployed { archives }).await;
        let told = |refusals: Vec<Refusal>| refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; ");
        served.map_err(|_| "the node is going down")?.map_err(told)
    }

    async fn save(&self, manifest: &Manifest) -> std::io::Result<()> {
        let (store, manifest) = (self.config.store.clone(), manifest.clone());
        rt::task::spawn_blocking(move || store.save(&manifest)).await.map_err(std::io::Error::other)?
    }

    async fn sweep(&self, state: &State) {
        let on_trial = state.trials.values().filter_map(|entry| entry.archive.as_ref());
        let wanted: BTreeSet<Digest> = state.manifest.wanted().into_iter().chain(on_trial).cloned().collect();
        let store = self.config.store.clone();
        let _ = rt::task::spawn_blocking(move || store.sweep(|digest| wanted.contains(digest))).await;
    }

    /// Answers one coordinator, or a node that asks what is deployed, until it has gone.
    pub(super) async fn answer(self: Rc<Self>, visit: Visit) {
        let Visit { route, mut channel, .. } = visit;
        let mut talk = Talk::default();
        let ended = self.talk(&mut channel, &mut talk).await;
        if let Some(name) = talk.trial {
            warn!(peer = %route, "the deployment of {name} was broken off: {ended}");
            self.revert(&name).await;
        }
    }

    async fn talk(&self, channel: &mut Channel, talk: &mut Talk) -> NoTalk {
        loop {
            let heard = match receive::<Ask>(channel, limits::DEPLOY_TRIAL).await {
                Ok(Ask::Fetch(archive)) => self.give(channel, &archive).await,
                Ok(ask) => match self.obey(ask, talk).await {
                    Some(say) => send(channel, &say).await,
                    None => Ok(()),
                },
                Err(ended) => Err(ended),
            };
            if let Err(ended) = heard {
                return ended;
            }
        }
    }

    async fn obey(&self, ask: Ask, talk: &mut Talk) -> Option<Say> {
        let done = match ask {
            Ask::Part(part) => return self.take_part(part, talk).await,
            Ask::Check { name, archive, bytes, probe } => {
                talk.probe = probe;
                self.begin(name, archive, bytes, talk).await
            }
            Ask::Activate { name, entry } => self.activate(&name, entry).await.map(|()| {
                talk.trial = Some(name);
                Say::Done("serves it".into())
            }),
            Ask::Probe { path } => self.probe(talk, path.as_deref()).await.map(Say::Done),
            Ask::Count => self.count(talk),
            Ask::Confirm => match &talk.trial {
                Some(name) => self.confirm(name).await.map(|()| {
                    talk.trial = None;
                    Say::Done("keeps it".into())
                }),
                None => Err("there is no trial".into()),
            },
            Ask::Revert => {
                if let Some(name) = talk.trial.take() {
                    self.revert(&name).await;
                }
                Ok(Say::Done("serves what it served before".into()))
            }
            Ask::Manifest => Ok(Say::Manifest(self.manifest().await)),
            Ask::Fetch(_) => Err("it is given in parts".into()),
        };
        Some(done.unwrap_or_else(Say::Refused))
    }

    async fn begin(&self, name: String, archive: Digest, bytes: u64, talk: &mut Talk) -> Result<Say, String> {
        if self.config.store.archive(&archive).is_some() {
            return self.check(&name, &archive, Some(self.rehearsal(talk))).await.map(Say::Checked);
        }
        if bytes > limits::ARCHIVE_BYTES {
            return Err(format!("the archive has {bytes} bytes; {} are allowed", limits::ARCHIVE_BYTES));
        }
        let store = self.config.store.clone();
        let incoming = blocking(move || store.take_in()).await?;
        talk.arriving = Some(Arriving { name, archive, incoming });
        Ok(Say::Send)
    }

    /// Parts are not answered, but for the empty one that ends them, and for the first that cannot be kept.
    async fn take_part(&self, part: Vec<u8>, talk: &mut Talk) -> Option<Say> {
        let Arriving { name, archive, mut incoming } = talk.arriving.take()?;
        if part.is_empty() {
            let expected = archive.clone();
            let kept = blocking(move || incoming.finish(Some(&expected))).await;
            let checked = match kept {
                Ok(_) => self.check(&name, &archive, Some(self.rehearsal(talk))).await,
                Err(error) => Err(error),
            };
            return Some(checked.map_or_else(Say::Refused, Say::Checked));
        }
        match blocking(move || incoming.write(&part).map(|()| incoming)).await {
            Ok(incoming) => {
                talk.arriving = Some(Arriving { name, archive, incoming });
                None
            }
            Err(error) => Some(Say::Refused(error)),
        }
    }

    /// Sends an archive of the store.
    async fn give(&self, channel: &mut Channel, archive: &Digest) -> Result<(), NoTalk> {
        let Some(path) = self.config.store.archive(archive) else {
            return send(channel, &Say::Refused("the archive is not here".into())).await;
        };
        let mut parts = match Parts::open(path).await {
            Ok(parts) => parts,
            Err(error) => return send(channel, &Say::Refused(error)).await,
        };
        loop {
            match parts.next().await {
                Ok(part) => {
                    let is_last = part.is_empty();
                    send(channel, &Say::Part(part)).await?;
                    if is_last {
                        return Ok(());
                    }
                }
                Err(error) => return send(channel, &Say::Refused(error)).await,
            }
        }
    }

    fn rehearsal(&self, talk: &Talk) -> Rehearsal {
        let HostConfig { route, me: life, .. } = self.config.clone();
        let me = MemberInfo { route, life, duty: Duty::Serving, me: true, follows: None };
        let node = NodeInfo::new(&self.config.route, &[me], SessionCounts::default());
        Rehearsal { path: talk.probe.clone(), node: node.into(), now: Timestamp::now() }
    }

    async fn probe(&self, talk: &Talk, path: Option<&str>) -> Result<String, String> {
        let name = talk.trial.as_deref().ok_or("there is no trial")?;
        let reports = self.config.deployer.send(webapp::Observe).await.map_err(|_| "the node is going down")?;
        let report = reports.iter().find(|report| report.name == name);
        let context = report.and_then(|report| report.context.as_ref()).ok_or("it does not answer")?;
        probe::probe(self.config.http, context, path).await
    }

    fn count(&self, talk: &Talk) -> Result<Say, String> {
        let name = talk.trial.as_deref().ok_or("there is no trial")?;
        let catalog = self.config.catalogue.load();
        let app = catalog.webapps().find(|app| app.name() == name).ok_or("it does not answer")?;
        let (asked, failed) = app.tally().counts();
        Ok(Say::Count { asked, failed })
    }
}

/// An archive, part by part.
pub(super) struct Parts(Option<std::fs::File>);

impl Parts {
    pub(super) async fn open(path: PathBuf) -> Result<Self, String> {
        blocking(move || std::fs::File::open(path)).await.map(|file| Self(Some(file)))
    }

    /// The next part; an empty one at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, String> {
        let Some(mut file) = self.0.take() else { return Ok(Vec::new()) };
        let read = move || {
            let mut part = vec![0; limits::ARCHIVE_PART_BYTES];
            let length = std::io::Read::read(&mut file, &mut part)?;
            part.truncate(length);
            Ok((part, file))
        };
        let (part, file) = blocking(read).await?;
        self.0 = Some(file);
        Ok(part)
    }
}

/// Work with the disk, off this thread; an error as words.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = rt::task::spawn_blocking(work).await;
    done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Longest wait for one answer of a host: it may have to unpack and compile a large archive.
pub(super) const PATIENCE: Duration = limits::DEPLOY_STEP;
