//! Starts a node's part in deployments, and keeps it as the other nodes have it: asks each of them what is deployed, and
//! fetches what is newer.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc};

use actix_web::rt;
use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::{debug, warn};

use super::{
    coordinator::{Order, Place, carry_out},
    host::{Deployments, Host, HostConfig, PATIENCE, blocking},
    manifest::{Digest, Entry},
    message::{Ask, Say, receive, send},
};
use crate::{
    limits,
    membership::Roster,
    names::NodeId,
    replication::{Channel, Dialling, Visit},
    time::Moment,
};

/// Where a node's part in deployments meets the rest of it.
pub struct Neighbourhood {
    /// The other members.
    pub roster: Arc<ArcSwap<Roster>>,
    /// As whom this node opens channels.
    pub dialling: Dialling,
    /// Where its own door for channels is.
    pub door: SocketAddr,
    /// Channels that others have opened.
    pub visits: mpsc::Receiver<Visit>,
}

/// Turns true when every node that was live at the start has been asked what is deployed, or could not be.
pub type Synced = watch::Receiver<bool>;

/// Starts on this thread's arbiter, for as long as the process runs.
pub fn start(config: HostConfig, neighbourhood: Neighbourhood) -> (Deployments, Synced) {
    let Neighbourhood { roster, dialling, door, mut visits } = neighbourhood;
    let (orders, mut ordered) = mpsc::channel::<Order>(limits::DEPLOY_ORDERS);
    let deployments = Deployments::new(config.store.clone(), orders);
    let me = Place { route: config.route.clone(), id: config.me, address: door };
    let host = Host::new(config);
    let visited = host.clone();
    rt::spawn(async move {
        while let Some(visit) = visits.recv().await {
            rt::spawn(visited.clone().answer(visit));
        }
    });
    let (coordinating, nodes, as_whom) = (host.clone(), roster.clone(), dialling.clone());
    rt::spawn(async move {
        while let Some(order) = ordered.recv().await {
            let mut places = places(&nodes.load());
            places.push(me.clone());
            places.sort_by(|a, b| a.route.cmp(&b.route));
            rt::spawn(carry_out(order, coordinating.clone(), places, as_whom.clone()));
        }
    });
    let (done, synced) = watch::channel(false);
    rt::spawn(keep_in_sync(host, roster, dialling, done));
    (deployments, synced)
}

fn places(roster: &Roster) -> Vec<Place> {
    roster.nodes().map(|node| Place { route: node.route, id: node.id, address: node.replication }).collect()
}

async fn keep_in_sync(host: Rc<Host>, roster: Arc<ArcSwap<Roster>>, dialling: Dialling, done: watch::Sender<bool>) {
    let mut asked: BTreeMap<NodeId, Moment> = BTreeMap::new();
    loop {
        let seen = roster.load_full();
        let places = places(&seen);
        asked.retain(|node, _| places.iter().any(|place| place.id == *node));
        for place in places {
            let now = Moment::now();
            if asked.get(&place.id).is_some_and(|last| now.since(*last) < limits::DEPLOY_SYNC) {
                continue;
            }
            asked.insert(place.id, now);
            if let Err(why) = follow(&host, &place, &dialling).await {
                debug!(peer = %place.route, "what it has deployed is not known: {why}");
            }
        }
        if seen.discovered {
            done.send_replace(true);
        }
        // The node does not serve before.
        sleep(if seen.discovered { limits::DEPLOY_SYNC_TICK } else { limits::READY_POLL }).await;
    }
}

/// Asks one node, and takes what is newer there.
async fn follow(host: &Rc<Host>, place: &Place, dialling: &Dialling) -> Result<(), String> {
    let mut channel = dialling.dial(place.id, place.address).await.map_err(|error| error.to_string())?;
    let theirs = match ask(&mut channel, &Ask::Manifest).await? {
        Say::Manifest(manifest) => manifest,
        other => return Err(format!("an answer to another question: {other:?}")),
    };
    let mine = host.manifest().await;
    let mut news: Vec<(String, Entry)> = Vec::new();
    for (name, entry) in mine.news(&theirs) {
        let missing = entry.archive.iter().filter(|archive| host.config.store.archive(archive).is_none());
        for archive in missing {
            fetch(host, &mut channel, archive).await.map_err(|why| {
                warn!(peer = %place.route, "webapp {name} cannot be fetched, and is tried again: {why}");
                why
            })?;
        }
        news.push((name.clone(), entry.clone()));
    }
    if !news.is_empty() {
        host.learn(&news).await;
    }
    Ok(())
}

async fn fetch(host: &Host, channel: &mut Channel, archive: &Digest) -> Result<(), String> {
    let store = host.config.store.clone();
    let mut incoming = blocking(move || store.take_in()).await?;
    let mut said = ask(channel, &Ask::Fetch(archive.clone())).await?;
    loop {
        let part = match said {
            Say::Part(part) => part,
            Say::Refused(why) => return Err(why),
            other => return Err(format!("an answer to another question: {other:?}")),
        };
        if part.is_empty() {
            let expected = archive.clone();
            return blocking(move || incoming.finish(Some(&expected))).await.map(drop);
        }
        incoming = blocking(move || incoming.write(&part).map(|()| incoming)).await?;
        said = receive(channel, PATIENCE).await.map_err(|error| error.to_string())?;
    }
}

async fn ask(channel: &mut Channel, what: &Ask) -> Result<Say, String> {
    send(channel, what).await.map_err(|error| error.to_string())?;
    receive(channel, PATIENCE).await.map_err(|error| error.to_string())
}
