//! The request form, filled in with a real browser while its nodes are killed: nothing that was typed is lost.

use std::fs;

use rustix::process::Signal;

use crate::{
    story,
    support::{
        chromium::{Chromium, Scheme},
        cluster::{Cluster, is_running, send, stop},
        wait_for,
    },
};

const PASSWORD: &str = "tasuki";

/// A form and the file beside it, in one window.
struct Applicant<'a> {
    window: &'a Chromium,
    cluster: &'a Cluster,
}

impl Applicant<'_> {
    async fn open(&self, page: &str) {
        self.window.open(&format!("http://{}/request/{page}", self.cluster.listen)).await;
    }

    /// Waits for the page of a step.
    async fn is_on(&self, page: &str) {
        self.window
            .until(&format!("location.pathname === '/request/{page}' && document.readyState === 'complete'"))
            .await;
    }

    async fn log_in(&self, name: &str, language: &str) {
        self.open(&format!("login.html?lang={language}")).await;
        self.window.type_into("#name", name).await;
        self.window.type_into("#password", PASSWORD).await;
        self.window.click("main button").await;
        self.is_on("").await;
    }

    async fn next(&self, page: &str) {
        self.window.click("main .card .actions button").await;
        self.is_on(page).await;
    }

    /// A date field takes its value as a picker gives it: how one is typed depends on the machine's language.
    async fn pick_date(&self, field: &str, date: &str) {
        self.window.run(&format!("document.getElementById('{field}').value = '{date}'")).await;
    }

    /// kill -9 of the node that answered the page that is shown, and the number of its process, which has ended then: a POST
    /// that reaches a dying process may have been executed, and is rightly not repeated.
    async fn kill_my_node(&self) -> (String, u32) {
        let node = self.window.text("footer .node b").await;
        // Nobody starts it again at once: the next step must find the other node.
        stop(self.cluster.pid()).await;
        let killed = self.cluster.kill(&node).await;
        let has_ended = || std::future::ready((!is_running(killed)).then_some(()));
        wait_for("the killed process ends", has_ended).await;
        (node, killed)
    }

    /// The bytes behind a link of the page.
    async fn fetched(&self, page: &str) -> String {
        let script = format!(
            "const request = new XMLHttpRequest(); request.open('GET', '/request/{page}', false); \
             request.overrideMimeType('text/plain; charset=x-user-defined'); request.send(); \
             return [...request.responseText].map(c => (c.charCodeAt(0) & 255).toString(16).padStart(2, '0')).join('')"
        );
        self.window.run(&script).await.as_str().unwrap_or_default().to_owned()
    }
}

#[test]
fn nothing_typed_is_lost_when_the_node_is_killed_between_two_steps() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(2).await;
        let me = Applicant { window: &window, cluster: &cluster };
        window.look_like(1_280, 900, Scheme::Light).await;
        me.log_in("佐藤 花子", "ja").await;
        assert_eq!(window.run("return document.documentElement.lang").await, "ja");
        window.click("main .button").await;
        me.is_on("who.html").await;
        window.type_into("#department", "開発部 <第一>").await;
        window.click("input[value=leave]").await;
        me.next("details.html").await;
        me.pick_date("from", "2027-04-01").await;
        me.pick_date("to", "2027-04-02").await;
        window.type_into("#reason", "家族の用事 & more").await;

        // What is typed and not yet sent is in the browser; what was sent is on the other node.
        let (first, killed) = me.kill_my_node().await;
        me.next("attachment.html").await;
        assert_ne!(window.text("footer .node b").await, first);
        send(cluster.pid(), Signal::CONT);
        cluster.back(&first, killed, 2).await;

        let bytes: Vec<u8> = (0..50_000_u32).map(|n| (n % 253) as u8).collect();
        let file = cluster.place().path("診断書.pdf");
        fs::write(&file, &bytes).unwrap();
        window.type_into("#attachment", file.to_str().unwrap()).await;
        me.next("review.html").await;
        window.picture("form-review-ja").await;

        let (second, killed) = me.kill_my_node().await;
        me.open("review.html").await;
        assert_ne!(window.text("footer .node b").await, second);
        let review = window.text("main .card").await;
        for typed in ["佐藤 花子", "開発部 <第一>", "2027-04-01", "2027-04-02", "家族の用事 & more", "診断書.pdf"]
        {
            assert!(review.contains(typed), "{typed} in {review}");
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(me.fetched("file.html").await == hex, "the file is on the other node, byte by byte");
        send(cluster.pid(), Signal::CONT);
        cluster.back(&second, killed, 2).await;

        me.next("done.html").await;
        assert!(window.text(".reference").await.starts_with("L-"));
        me.open("").await;
        assert_eq!(window.run("return document.querySelectorAll('article').length").await, 1);
        window.picture("form-list-ja").await;
        assert_eq!(window.complaints().await, [""; 0]);
    });
}

#[test]
fn a_form_with_mistakes_is_mended_with_the_keyboard_on_a_phone() {
    story(async {
        let Some(window) = Chromium::start().await else { return };
        let cluster = Cluster::up(2).await;
        let me = Applicant { window: &window, cluster: &cluster };
        window.look_like(360, 740, Scheme::Dark).await;
        me.log_in("Ann", "en").await;
        me.open("who.html").await;
        window.click("main button").await;
        window.until("document.activeElement.classList.contains('problems')").await;
        assert!(window.run("return document.title").await.as_str().unwrap().starts_with("Please check: "));
        window.picture("form-mistakes-narrow-dark").await;
        assert_eq!(window.run("return document.documentElement.scrollWidth").await, 360, "nothing leaves the screen");
        let nameless = "return [...document.querySelectorAll('input:not([type=hidden]), textarea, button, a')] \
                        .filter(one => !(one.textContent.trim() || one.labels?.length)).length";
        assert_eq!(window.run(nameless).await, 0, "everything that can be used has a name");
        window.click(".problems a[href=\"#department\"]").await;
        window.until("document.activeElement.id === 'department'").await;
        window.type_into("#department", "R&D").await;
        window.click("input[value=equipment]").await;
        me.next("details.html").await;
        window.type_into("#item", "Chair").await;
        window.type_into("#quantity", "2").await;
        me.pick_date("needed_by", "2027-05-01").await;
        me.next("attachment.html").await;

        let large = cluster.place().path("large.txt");
        fs::write(&large, vec![b'x'; 200 * 1024 + 1]).unwrap();
        window.type_into("#attachment", large.to_str().unwrap()).await;
        window.click("main .card .actions button").await;
        window.until("document.querySelector('#attachment-problem') !== null").await;
        assert!(window.text("#attachment-problem").await.contains("200 KiB"));
        window.picture("form-attachment-narrow-dark").await;
        assert_eq!(window.run("return document.documentElement.scrollWidth").await, 360);
        me.next("review.html").await;
        window.look_like(360, 740, Scheme::Light).await;
        window.picture("form-review-narrow-light").await;
        assert_eq!(window.complaints().await, [""; 0]);
    });
}
