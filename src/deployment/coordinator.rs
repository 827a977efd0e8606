//! Carries one change over all nodes: opens a channel to each, asks for what the campaign says, and tells how it goes.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, time::Duration};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::info;

use super::{
    campaign::{Campaign, Care, Next, Outcome, Step, Verdict},
    host::{Host, PATIENCE, Parts},
    manifest::{Change, Digest, Entry},
    message::{Ask, NoTalk, Say, receive, send},
};
use crate::{
    names::{NodeId, Route},
    replication::{Channel, Dialling},
};

/// A change that somebody asks for, and who wants to hear of it. Nobody need listen to the end.
#[derive(Debug)]
pub struct Order {
    /// What is to change, and how carefully.
    pub plan: Plan,
    /// Where news of it go.
    pub events: mpsc::Sender<Event>,
}

/// What is to change, and how carefully.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The webapp's full name, such as `shop##2`.
    pub name: String,
    /// What becomes of it.
    pub wanted: Wanted,
    /// The node that serves it first, alone.
    pub canary: Option<Route>,
    /// How long the canary is watched.
    pub watch: Duration,
    /// The page that must be answered well on every node; the webapp's root need only not fail.
    pub probe: Option<String>,
}

/// What becomes of a name.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// This archive of the store of the node that was asked.
    Deploy(Digest),
    /// What lies in the folder, or nothing.
    Undeploy,
    /// What was deployed before.
    Rollback,
}

/// One line of news: what one node has done, or how it all has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The node; none in the last line.
    pub node: Option<Route>,
    /// Whether it went well.
    pub good: bool,
    /// In words.
    pub text: String,
    /// Nothing follows.
    #[serde(default)]
    pub last: bool,
}

/// Who can be reached where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) route: Route,
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
}

/// One campaign's means.
struct Coordinator {
    host: Rc<Host>,
    plan: Plan,
    entry: Entry,
    seats: BTreeMap<Route, Channel>,
    events: mpsc::Sender<Event>,
}

impl Event {
    fn of(node: &Route, outcome: &Outcome) -> Self {
        let (Ok(text) | Err(text)) = outcome;
        Self { node: Some(node.clone()), good: outcome.is_ok(), text: text.clone(), last: false }
    }

    fn last(good: bool, text: String) -> Self {
        Self { node: None, good, text, last: true }
    }
}

/// Carries out an order. What it comes to is told in its last event.
pub(super) async fn carry_out(order: Order, host: Rc<Host>, places: Vec<Place>, dialling: Dialling) {
    let Order { plan, events } = order;
    let name = plan.name.clone();
    let last = match prepare(plan, host, &places, &dialling, &events).await {
        Ok((mut coordinator, canary)) => coordinator.run(canary).await,
        Err(why) => Event::last(false, why),
    };
    info!(good = last.good, "deployment of {name}: {}", last.text);
    // Nobody need listen.
    let _ = events.send(last).await;
}

async fn prepare(
    plan: Plan,
    host: Rc<Host>,
    places: &[Place],
    dialling: &Dialling,
    events: &mpsc::Sender<Event>,
) -> Result<(Coordinator, Option<Route>), String> {
    let canary = plan.canary.clone();
    if let Some(canary) = canary.as_ref().filter(|canary| !places.iter().any(|place| place.route == **canary)) {
        let routes: Vec<&str> = places.iter().map(|place| place.route.as_str()).collect();
        return Err(format!("no node is {canary}; there are {}", routes.join(", ")));
    }
    let change = match &plan.wanted {
        Wanted::Deploy(archive) => Change::Deploy(archive.clone()),
        Wanted::Undeploy => Change::Undeploy,
        Wanted::Rollback => Change::Rollback,
    };
    let entry = host.next(&plan.name, change).await.map_err(|error| error.to_string())?;
    let dials = places.iter().map(async |place| (place, dialling.dial(place.id, place.address).await));
    let (mut seats, mut unreached) = (BTreeMap::new(), Vec::new());
    for (place, dialled) in join_all(dials).await {
        match dialled {
            Ok(channel) => drop(seats.insert(place.route.clone(), channel)),
            Err(error) => {
                let _ = events.send(Event::of(&place.route, &Err(error.to_string()))).await;
                unreached.push(place.route.as_str());
            }
        }
    }
    if !unreached.is_empty() {
        return Err(format!("nothing was changed: {} cannot be reached", unreached.join(", ")));
    }
    Ok((Coordinator { host, plan, entry, seats, events: events.clone() }, canary))
}

impl Coordinator {
    async fn run(&mut self, canary: Option<Route>) -> Event {
        let care = if self.entry.archive.is_some() { Care::Full } else { Care::Removal };
        let (me, nodes) = (self.host.config.route.clone(), self.seats.keys().cloned().collect());
        let (mut campaign, mut next) = Campaign::begin(me, nodes, canary, care);
        loop {
            match next {
                Next::Do(step, nodes) => {
                    let failed = self.everywhere(step, &nodes).await;
                    next = campaign.over(&failed);
                }
                Next::Over(verdict) => return self.last(&verdict),
            }
        }
    }

    /// Does one step at these nodes at the same time, and gives those where it went wrong.
    async fn everywhere(&mut self, step: Step, nodes: &[Route]) -> Vec<Route> {
        let (plan, entry, host) = (&self.plan, &self.entry, &self.host);
        let seats = self.seats.iter_mut().filter(|(route, _)| nodes.contains(route));
        let steps = seats.map(async |(route, channel)| (route.clone(), one(step, channel, plan, entry, host).await));
        let mut failed = Vec::new();
        for (route, outcome) in join_all(steps).await {
            if outcome.is_err() {
                failed.push(route.clone());
            }
            if step != Step::Confirm || outcome.is_err() {
                let _ = self.events.send(Event::of(&route, &outcome)).await;
            }
        }
        failed
    }

    fn last(&self, verdict: &Verdict) -> Event {
        let (name, nodes) = (&self.plan.name, self.seats.len());
        let on = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
        let archive = self.entry.archive.as_ref().map(Digest::short);
        match verdict {
            Verdict::Done { later } => {
                let done = match archive {
                    Some(archive) => format!("{name} is deployed on {on} (sha256 {archive}...)"),
                    None => format!(
                        "{name} is undeployed on {on}; what lies in the webapps folder answers, if anything does"
                    ),
                };
                let later: Vec<&str> = later.iter().map(Route::as_str).collect();
                let later = match later.is_empty() {
                    true => String::new(),
                    false => format!("; {} will follow when it can be reached", later.join(", ")),
                };
                Event::last(true, done + &later)
            }
            Verdict::Refused => Event::last(false, format!("{name} was not deployed: nothing was changed on any node")),
            Verdict::TakenBack => {
                Event::last(false, format!("{name} was taken back: every node serves what it served before"))
            }
        }
    }
}

/// One step at one node.
async fn one(step: Step, channel: &mut Channel, plan: &Plan, entry: &Entry, host: &Host) -> Outcome {
    let work = async {
        match step {
            Step::Check => check(channel, plan, entry, host).await,
            Step::Activate => done(channel, &Ask::Activate { name: plan.name.clone(), entry: entry.clone() }).await,
            Step::Probe => done(channel, &Ask::Probe { path: plan.probe.clone() }).await,
            Step::Watch => {
                sleep(plan.watch).await;
                watched(channel, plan.watch).await
            }
            Step::Confirm => done(channel, &Ask::Confirm).await,
            Step::Revert => done(channel, &Ask::Revert).await,
        }
    };
    let patience = PATIENCE + if step == Step::Watch { plan.watch } else { Duration::ZERO };
    timeout(patience, work).await.unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs())))
}

async fn check(channel: &mut Channel, plan: &Plan, entry: &Entry, host: &Host) -> Outcome {
    let archive = entry.archive.clone().ok_or("there is nothing to check")?;
    let path = host.config.store.archive(&archive).ok_or("the archive is not on this node any more")?;
    let bytes = std::fs::metadata(&path).map_err(|error| error.to_string())?.len();
    let mut said =
        ask(channel, &Ask::Check { name: plan.name.clone(), archive, bytes, probe: plan.probe.clone() }).await?;
    if said == Say::Send {
        let mut parts = Parts::open(path).await?;
        loop {
            let part = parts.next().await?;
            let is_last = part.is_empty();
            send(channel, &Ask::Part(part)).await.map_err(|error| error.to_string())?;
            if is_last {
                break;
            }
        }
        said = hear(channel).await?;
    }
    match said {
        Say::Checked(remarks) if remarks.is_empty() => Ok("has it, checked".into()),
        Say::Checked(remarks) => Ok(format!("has it, checked; {}", remarks.join("; "))),
        other => refused(other),
    }
}

async fn watched(channel: &mut Channel, watch: Duration) -> Outcome {
    match ask(channel, &Ask::Count).await? {
        Say::Count { asked, failed: 0 } => {
            Ok(format!("was watched for {} s: pages asked for: {asked}, failed: none", watch.as_secs()))
        }
        Say::Count { asked, failed } => Err(format!("{failed} of {asked} pages failed")),
        other => refused(other),
    }
}

async fn done(channel: &mut Channel, what: &Ask) -> Outcome {
    match ask(channel, what).await? {
        Say::Done(word) => Ok(word),
        other => refused(other),
    }
}

async fn ask(channel: &mut Channel, what: &Ask) -> Result<Say, String> {
    send(channel, what).await.map_err(|error| error.to_string())?;
    hear(channel).await
}

async fn hear(channel: &mut Channel) -> Result<Say, String> {
    receive(channel, PATIENCE).await.map_err(|error: NoTalk| error.to_string())
}

fn refused(said: Say) -> Outcome {
    Err(match said {
        Say::Refused(why) => why,
        other => format!("an answer to another question: {other:?}"),
    })
}
