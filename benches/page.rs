//! What the counter page costs: microseconds for each rendering, whole and plain. `cargo bench --bench page`.
//!
//! Only the rendering: no network, no session table, no replication. The best of several rounds, because the machine has
//! other work too.

#![allow(missing_docs)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use tasuki::{
    names::SessionId,
    observe::SessionCounts,
    session::{draft::Draft, value::Value},
    webapp::{Catalogue, Deployer, Found, NodeInfo, Page, Request, Resource, Sources},
};

const ROUNDS: usize = 20;
const RENDERINGS: u32 = 2_000;

fn main() {
    let work = tempfile::tempdir().expect("a folder for unpacked webapps");
    let webapps = Path::new(env!("CARGO_MANIFEST_DIR")).join("webapps");
    let deployer = Deployer::open(Sources::new(&webapps, work.path())).expect("the project's webapps");
    let catalogue = deployer.catalogue();
    println!("counter page, us for each rendering (best of {ROUNDS} rounds of {RENDERINGS})");
    for (name, query) in [("whole page", ""), ("?plain", "plain")] {
        let (took, bytes) = measured(&catalogue, query);
        println!("  {name:12} {:6.2} us  {bytes} bytes", took.as_secs_f64() * 1e6);
    }
}

fn measured(catalogue: &Catalogue, query: &str) -> (Duration, usize) {
    let page = counter(catalogue);
    let node = Arc::new(NodeInfo::new(&"r1".parse().expect("a route"), &[], SessionCounts::default()));
    let render = || page.render(request(query), draft(), &node).expect("the counter page");
    let round = || {
        let begun = Instant::now();
        (0..RENDERINGS).for_each(|_| drop(std::hint::black_box(render())));
        begun.elapsed() / RENDERINGS
    };
    let best = (0..ROUNDS).map(|_| round()).min().unwrap_or_default();
    (best, render().body.len())
}

fn counter(catalogue: &Catalogue) -> Arc<Page> {
    let catalog = catalogue.load();
    let Found::Webapp { app, path, .. } = catalog.find("/") else { panic!("ROOT is not there") };
    let Resource::Page(page) = app.resolve(&path) else { panic!("ROOT has no index page") };
    page
}

/// What a node makes of a session that has counted for a while.
fn draft() -> Draft {
    let count = Value::encode(&41).expect("a number");
    Draft::of(Some(SessionId([7; 16])), [("count".into(), count)])
}

fn request(query: &str) -> Request {
    let mut headers = HeaderMap::new();
    let said = [("accept-language", "ja,en;q=0.5"), ("user-agent", "Mozilla/5.0"), ("accept", "text/html,*/*;q=0.8")];
    for (name, value) in said {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Request {
        method: "GET".into(),
        path: "/index.html".into(),
        query: query.into(),
        headers,
        remote_addr: "127.0.0.1".into(),
        scheme: "http".into(),
        host: "localhost:12121".into(),
        ..Request::default()
    }
}
