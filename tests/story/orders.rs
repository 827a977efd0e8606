//! Members are killed, stopped, hung and slowed down under a load of GETs and POSTs: every GET is answered, and no POST is
//! executed twice, by the members' own records.

use std::{fs, time::Duration};

use rustix::process::Signal;
use tasuki::settings::Listening;

use crate::{
    story,
    support::{
        cluster::{Place, Process},
        members::{Member, Told, Users, Verdict, serve_if_asked},
        wait_for,
    },
};

/// Longer than a member takes that is well, shorter than anybody wants to wait for this story.
const TIMEOUT: Duration = Duration::from_millis(400);

/// Not a test: the process of a member, when [`Member`] starts this program so.
#[test]
fn a_members_own_process() {
    serve_if_asked();
}

async fn members(place: &Place) -> Vec<Member> {
    let mut members = Vec::new();
    for route in ["r1", "r2", "r3"] {
        let arguments = ["orders::a_members_own_process", "--exact", "--nocapture"];
        members.push(Member::start(route, &place.path(""), &arguments).await);
    }
    members
}

/// A balancer before them, and where it listens.
async fn balancer(place: &Place, members: &[Member]) -> (Process, std::net::SocketAddr) {
    fs::write(place.path("tasuki.toml"), members.iter().map(Member::settings).collect::<String>()).unwrap();
    let process = place.start(&["balancer", "--config", "tasuki.toml"]);
    let run = place.path("run");
    let listening = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await;
    (process, listening.listen)
}

#[test]
fn whatever_happens_to_members_every_get_is_answered_and_no_post_is_executed_twice() {
    story(async {
        let place = Place::new().set("BALANCER__TIMEOUT", "400ms");
        let mut members = members(&place).await;
        let (_balancer, listen) = balancer(&place, &members).await;
        let users = Users::start(listen, 8, false);
        users.progress(200).await;
        for signal in [Signal::KILL, Signal::TERM] {
            members[0].signal(signal);
            users.progress(200).await;
            members[0].again().await;
            users.progress(200).await;
        }
        members[1].stop().await;
        users.progress(400).await;
        members[1].signal(Signal::CONT);
        members[2].slow_down(TIMEOUT * 3 / 2);
        users.progress(400).await;
        members[2].slow_down(Duration::ZERO);
        users.progress(200).await;
        let told = users.finish().await;
        assert_eq!(told.failed_gets, 0, "first: {:?}", told.first_failure);
        settled(&told, &members).await.assert_once();
    });
}

/// What was late is executed late: the records are read again until they say no more.
async fn settled(told: &Told, members: &[Member]) -> Verdict {
    let last = std::cell::Cell::new(None);
    wait_for("the members have done all", || async {
        // What a member still has before it shows nowhere else: it says no more for longer than it was ever slow.
        tokio::time::sleep(TIMEOUT * 2).await;
        let verdict = Verdict::of(told, members);
        (last.replace(Some(verdict.executed)) == Some(verdict.executed)).then_some(verdict)
    })
    .await
}

#[test]
fn a_record_that_holds_a_post_twice_is_found_out() {
    let told = Told { posts: [(1, 200), (2, 502), (3, 503), (4, 200)].into(), ..Told::default() };
    let good = Verdict::read(&told, "POST 1\nGET 1\nGET 1\nPOST 2\nPOST 4\n");
    assert_eq!(good, Verdict { executed: 3, unclear: 2, ..Verdict::default() });
    let bad = Verdict::read(&told, "POST 1\nPOST 1\nPOST 3\n");
    assert_eq!((bad.doubled, bad.denied, bad.invented), (vec![1], vec![3], vec![4]));
}
