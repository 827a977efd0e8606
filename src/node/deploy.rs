//! Takes deployments from `tasuki deploy`, `undeploy` and `rollback`: an archive and a plan in, news out, a line each.
//!
//! Only programs of this machine that can read the node's key in `run/ROUTE.node.json` may: nothing else here puts code on
//! all nodes.

use std::{convert::Infallible, io, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    rt,
    web::{self, Bytes},
};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use super::{Worker, refusal};
use crate::{
    deployment::{Digest, Event, Incoming, Order, Plan, Wanted},
    limits,
    membership::Duty,
    names::Route,
};

/// Shows that a request may deploy.
const KEY: &str = "Tasuki-Key";

/// The query of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
    wanted: What,
    canary: Option<Route>,
    /// Seconds.
    watch: Option<u64>,
    probe: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Deploy,
    Undeploy,
    Rollback,
}

impl Worker {
    pub(super) async fn deploy(&self, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
        let key = request.headers().get(KEY).map(|key| key.as_bytes());
        if !key.is_some_and(|key| is_same(key, self.house.key.as_bytes())) {
            return refusal::page(StatusCode::FORBIDDEN, "The key of this node is needed for that.");
        }
        if self.house.duty.get() == Duty::Starting {
            return refusal::page(StatusCode::SERVICE_UNAVAILABLE, "The node is starting; try again in a moment.");
        }
        let asked = match web::Query::<Asked>::from_query(request.query_string()) {
            Ok(asked) => asked.into_inner(),
            Err(error) => return refusal::page(StatusCode::BAD_REQUEST, &format!("This is no deployment: {error}.")),
        };
        match self.wanted(asked.wanted, payload).await {
            Ok(wanted) => self.deployment(asked, wanted),
            Err(error) => refusal::page(StatusCode::BAD_REQUEST, &format!("The archive cannot be taken in: {error}.")),
        }
    }

    async fn wanted(&self, what: What, payload: web::Payload) -> io::Result<Wanted> {
        Ok(match what {
            What::Deploy => Wanted::Deploy(self.take_in(payload).await?),
            What::Undeploy => Wanted::Undeploy,
            What::Rollback => Wanted::Rollback,
        })
    }

    async fn take_in(&self, mut payload: web::Payload) -> io::Result<Digest> {
        let store = self.house.deployments.store().clone();
        let mut incoming = on_disk(move || store.take_in()).await?;
        let stalled = || io::Error::new(io::ErrorKind::TimedOut, "it took too long to arrive");
        while let Some(part) = timeout(limits::FORM_TIMEOUT, payload.next()).await.map_err(|_| stalled())? {
            let part: Bytes = part.map_err(io::Error::other)?;
            incoming = on_disk(move || incoming.write(&part).map(|()| incoming)).await?;
        }
        on_disk(move || Incoming::finish(incoming, None)).await
    }

    fn deployment(&self, asked: Asked, wanted: Wanted) -> HttpResponse {
        let Asked { name, canary, watch, probe, .. } = asked;
        let watch = Duration::from_secs(watch.unwrap_or(0)).min(limits::DEPLOY_WATCH);
        let (events, heard) = mpsc::channel(limits::DEPLOY_EVENTS);
        let order = Order { plan: Plan { name, wanted, canary, watch, probe }, events };
        if let Err(busy) = self.house.deployments.order(order) {
            return refusal::page(StatusCode::SERVICE_UNAVAILABLE, &format!("{busy}."));
        }
        let lines = stream::unfold(heard, async |mut heard| Some((line(&heard.recv().await?), heard)));
        HttpResponse::Ok().content_type("application/x-ndjson").streaming(lines)
    }
}

fn line(event: &Event) -> Result<Bytes, Infallible> {
    // It holds nothing that JSON cannot.
    Ok(Bytes::from(serde_json::to_string(event).unwrap_or_default() + "\n"))
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    rt::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// In a time that tells nothing of where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
