//! The manager as people use it: in a real browser, by mouse, by keyboard, on a phone, and without a script.

use tasuki::observe::Admin;

use crate::{
    story,
    support::{
        chromium::{Chromium, Scheme, TAB},
        cluster::Cluster,
        load::Load,
        wait_for,
    },
};

/// The part of the page that is about a node.
fn of(route: &str, rest: &str) -> String {
    format!("tbody[data-route=\"{route}\"] {rest}")
}

fn state_is(route: &str, word: &str) -> String {
    format!("document.querySelector('{}').textContent === '{word}'", of(route, "[data-f=state]"))
}

async fn has_admin(cluster: &Cluster, route: &str, admin: Admin) {
    wait_for("the balancer knows", || async { (cluster.node(route).await.terms.admin == admin).then_some(()) }).await;
}

#[test]
fn an_administrator_drains_a_node_by_a_click_sees_it_drained_and_resumes_it() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(2).await;
        let load = Load::start(cluster.listen, 4);
        load.progress(50).await;
        window.look_like(1_280, 900, Scheme::Light).await;
        window.open(&format!("http://{}/balancer-manager", cluster.listen)).await;
        window.until(&state_is("r1", "serving")).await;
        window.click(&of("r1", "button[value=drain]")).await;
        window.until(&state_is("r1", "drained")).await;
        window.until("document.getElementById('note').textContent === 'r1 drains'").await;
        let pressed = of("r1", "button[value=drain]");
        window.until(&format!("document.querySelector('{pressed}').ariaPressed === 'true'")).await;
        window.until(&format!("!document.querySelector('{}').hidden", of("r1", ".differs"))).await;
        let differing = format!("return document.querySelector('{}').textContent", of("r1", "[data-f=differing]"));
        assert_eq!(window.run(&differing).await, "differs from the file: duty drained (file: enabled)");
        has_admin(&cluster, "r1", Admin::Drained).await;
        let seen = load.seen().answered;
        window.until(&format!("document.querySelectorAll('{}').length === 3", of("r2", "svg.plot .line"))).await;
        let points =
            format!("document.querySelector('{}').getAttribute('d').split('L').length > 6", of("r2", ".plot .line"));
        window.until(&points).await;
        assert!(load.seen().answered > seen);
        let told = window.run(&format!("return document.querySelector('{}').ariaLabel", of("r2", "svg.plot"))).await;
        assert!(told.as_str().unwrap().starts_with("Requests a second in the last "), "{told}");
        window.picture("wide-light").await;
        window.look_like(1_280, 900, Scheme::Dark).await;
        window.picture("wide-dark").await;
        window.click(&of("r1", "button[value=resume]")).await;
        window.until(&state_is("r1", "serving")).await;
        has_admin(&cluster, "r1", Admin::Enabled).await;
        window.run(&format!("document.querySelector('{}').value = 7", of("r2", "[name=weight]"))).await;
        window.click(&of("r2", "button[value=weight]")).await;
        window
            .until(&format!("document.querySelector('{}').textContent === 'weight 7'", of("r2", "[data-f=share]")))
            .await;
        window.click(&of("r2", "button[value=reset]")).await;
        window
            .until(&format!("document.querySelector('{}').textContent === 'weight 50'", of("r2", "[data-f=share]")))
            .await;
        load.finish().await.assert_whole();
        assert_eq!(window.complaints().await, [""; 0], "of scripts, of the content security policy, of requests");
    });
}

#[test]
fn the_manager_is_used_with_a_keyboard_on_a_phone() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(2).await;
        window.look_like(360, 740, Scheme::Light).await;
        window.open(&format!("http://{}/balancer-manager", cluster.listen)).await;
        window.until(&state_is("r1", "serving")).await;
        window.until(&format!("document.querySelector('{}') !== null", of("r1", "svg.plot"))).await;
        let wide = "return [...document.querySelectorAll('main *:not(.unseen):not(thead *)')].filter(one => \
                    one.getBoundingClientRect().right > 360 && !one.closest('thead')).length";
        assert_eq!(window.run(wide).await, 0, "nothing leaves the screen");
        assert_eq!(window.run("return document.documentElement.scrollWidth").await, 360);
        let nameless = "return [...document.querySelectorAll('button, input:not([type=hidden]), svg, a')].filter(one => \
                        !(one.ariaLabel || one.textContent.trim() || one.labels?.length)).length";
        assert_eq!(window.run(nameless).await, 0, "everything that can be used or seen has a name");
        let focused =
            "document.activeElement.value === 'drain' && document.activeElement.closest('[data-route=r1]') !== null";
        for _ in 0..12 {
            if window.run(&format!("return {focused}")).await == true {
                break;
            }
            window.press(TAB).await;
        }
        window.until(focused).await;
        assert_ne!(window.run("return getComputedStyle(document.activeElement).outlineStyle").await, "none");
        window.press(" ").await;
        window.until(&state_is("r1", "drained")).await;
        window.until(focused).await;
        window.picture("narrow-light").await;
        window.look_like(360, 740, Scheme::Dark).await;
        window.picture("narrow-dark").await;
        assert_eq!(window.complaints().await, [""; 0]);
    });
}

#[test]
fn the_manager_works_without_a_script() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(2).await;
        cluster.browser().count().await.unwrap();
        window.scripts(false).await;
        window.look_like(1_280, 900, Scheme::Light).await;
        window.open(&format!("http://{}/balancer-manager", cluster.listen)).await;
        window.click(&of("r1", "button[value=disable]")).await;
        has_admin(&cluster, "r1", Admin::Disabled).await;
        window.click(&of("r1", "button[value=disable][aria-pressed=true]")).await;
        window.picture("without-script").await;
        window.click(&of("r1", "button[value=reset]")).await;
        has_admin(&cluster, "r1", Admin::Enabled).await;
    });
}
