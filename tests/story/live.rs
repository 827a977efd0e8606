//! The page of the live cluster, in a real browser.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    story,
    support::{
        chromium::{Chromium, Scheme},
        cluster::{Cluster, send, stop},
    },
};

/// From the moment something happens until it is on the screen. Two seconds on a machine that has time; the tests of this
/// project share theirs.
const SOON: Duration = Duration::from_secs(5);

/// A node's card has this state.
fn is(route: &str, state: &str) -> String {
    format!("document.querySelector('[data-route={route}]')?.classList.contains('{state}') ?? false")
}

/// Waits until it is on the screen, and gives the time it took.
async fn shown(window: &Chromium, what: &str, since: Instant) {
    window.until(what).await;
    println!("{what}: after {:?}", since.elapsed());
    assert!(since.elapsed() < SOON, "{what} after {:?}", since.elapsed());
}

#[test]
fn a_node_that_drains_dies_and_comes_back_is_seen_and_the_session_goes_on() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(3).await;
        window.look_like(1_280, 900, Scheme::Light).await;
        window.open(&format!("http://{}/cluster/?lang=en", cluster.listen)).await;
        for route in ["r1", "r2", "r3"] {
            window.until(&is(route, "serving")).await;
        }
        window.click("main button").await;
        window.until("document.querySelector('[data-is=writes]').textContent === '1'").await;
        window.until("document.querySelector('[data-is=copies]').textContent === '3'").await;
        let (mine, id) = (window.text(".owner").await, window.text("dd code").await);
        window.picture("cluster-wide-light").await;

        let other = ["r1", "r2", "r3"].into_iter().find(|route| *route != mine).unwrap();
        let (code, said) = cluster.command(&["drain", other]).await;
        assert_eq!(code, Some(0), "{said}");
        shown(&window, &is(other, "draining"), Instant::now()).await;

        // Nobody starts it again before it was seen to be gone.
        stop(cluster.pid()).await;
        let killed = cluster.kill(&mine).await;
        shown(&window, &is(&mine, "gone"), Instant::now()).await;
        window.until(&format!("document.querySelector('.owner').textContent !== '{mine}'")).await;
        assert_eq!(window.text("dd code").await, id, "the same session");
        assert_eq!(window.text("[data-is=writes]").await, "1");
        window.look_like(1_280, 900, Scheme::Dark).await;
        window.picture("cluster-wide-dark").await;

        send(cluster.pid(), Signal::CONT);
        assert_eq!(cluster.command(&["resume", other]).await.0, Some(0));
        shown(&window, &is(other, "serving"), Instant::now()).await;
        cluster.back(&mine, killed, 3).await;
        shown(&window, &is(&mine, "serving"), Instant::now()).await;
        let told = window.text(".events").await;
        for event in [format!("{other} draining"), format!("{mine} gone"), format!("{mine} has a new process")] {
            assert!(told.contains(&event), "{event}: {told}");
        }
        window.look_like(360, 740, Scheme::Light).await;
        window.picture("cluster-narrow-light").await;
        assert_eq!(window.run("return document.documentElement.scrollWidth").await, 360, "nothing leaves the screen");
    });
}

#[test]
fn without_a_script_the_page_loads_itself_anew() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(2).await;
        window.scripts(false).await;
        window.look_like(360, 740, Scheme::Dark).await;
        window.open(&format!("http://{}/cluster/?lang=ja", cluster.listen)).await;
        let mine = window.text(".owner").await;
        let other = if mine == "r1" { "r2" } else { "r1" };
        stop(cluster.pid()).await;
        cluster.kill(other).await;
        window.until(&is(other, "gone")).await;
        window.picture("cluster-narrow-dark-ja").await;
        assert_eq!(window.run("return document.documentElement.lang").await, "ja");
        assert_eq!(window.run("return document.querySelector('.scripted').hidden").await, true);
    });
}
