//! Nodes lose sight of each other, in both directions or in one, but not of the balancer: both go on, and when they meet
//! again each has what the other one answered.

use std::{fs, time::Duration};

use hyper::StatusCode;
use tokio::time::{sleep, timeout};

use crate::{
    managers::pages,
    story,
    support::{
        DEADLINE,
        browser::Browser,
        cluster::Place,
        load::{Load, Seen},
        machines::{BALANCER, Machines, http},
        wait_for,
    },
};

const USERS: usize = 12;

/// The links between r1 and r2 fail in these directions, and heal. Then r1 dies: r2 must have all that r1 answered.
///
/// While a node is alone its replies say so, and when the balancer then moves a user to the other one, that one cannot know
/// what was written last: only what another node was said to hold is asked for here.
async fn split_and_heal(directions: &[(&'static str, &'static str)]) {
    let Some(mut machines) = Machines::start(Place::new(), 2).await else { return };
    let load = Load::start(machines.listen, USERS);
    load.progress(200).await;
    for (from, to) in directions {
        machines.network.stop(from, to);
    }
    // They stay members of each other: the balancer answers for both (SWIM's indirect probes).
    machines.apart("r1").await;
    machines.apart("r2").await;
    // Everybody is served, those of r1 and those of r2.
    load.progress(600).await;
    for (from, to) in directions {
        machines.network.go(from, to);
    }
    machines.settled(2).await;
    load.progress(200).await;
    machines.kill("r1").await;
    load.progress(200).await;
    machines.boot("r1", 2);
    machines.settled(2).await;
    let seen = load.finish().await;
    let Seen { answered, doubled, failed, lost, longest_gap, .. } = seen;
    println!(
        "{answered} answered, {failed} refused, {doubled} doubled, {lost} lost that no other node held, longest gap \
         {longest_gap:?}"
    );
    seen.assert_held();
}

#[test]
fn after_a_partition_each_side_has_what_the_other_one_answered() {
    story(split_and_heal(&[("r1", "r2"), ("r2", "r1")]));
}

#[test]
fn a_partition_in_one_direction_is_survived_as_well() {
    story(split_and_heal(&[("r1", "r2")]));
}

/// For a while each side is the only one that it knows, and says so in its replies. The users go on on one side; what the
/// other one did meanwhile, requests that were given up included, rarely puts them back: only if it claimed a session more
/// often. What both held is there, and everybody is served.
#[test]
fn a_node_that_is_cut_off_from_everyone_is_replaced_and_comes_back() {
    story(async {
        let Some(machines) = Machines::start(Place::new(), 2).await else { return };
        let load = Load::start(machines.listen, USERS);
        load.progress(200).await;
        // A user who is on its side of the cut still reaches it.
        let cut = [("r1", "r2"), ("r2", "r1"), ("r1", BALANCER), (BALANCER, "r1")];
        cut.iter().for_each(|(from, to)| machines.network.stop(from, to));
        let mut alone = Browser::new(machines.network.door_to("r1", http(0).parse().unwrap()));
        wait_for("the others give it up", async || {
            let nodes = machines.status().await?.nodes;
            (nodes.len() == 1 && nodes[0].route.as_str() == "r2").then_some(())
        })
        .await;
        load.progress(500).await;
        for expected in 1..4 {
            assert_eq!(alone.count().await.unwrap(), ("r1".to_owned(), expected), "it goes on alone");
        }
        cut.iter().for_each(|(from, to)| machines.network.go(from, to));
        machines.settled(2).await;
        load.progress(500).await;
        let answer = async {
            loop {
                match alone.count().await {
                    Ok((_, count)) => return count,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        assert_eq!(timeout(DEADLINE, answer).await, Ok(4), "what it did alone is not lost");
        let seen = load.finish().await;
        let Seen { answered, doubled, failed, lost, longest_gap, .. } = seen;
        println!(
            "{answered} answered, {failed} refused, {doubled} doubled, {lost} lost that no other node held, longest gap \
             {longest_gap:?}"
        );
        seen.assert_held();
    });
}

/// The others hear it, so it stays a member; its users are moved all the same, and have all that it answered.
#[test]
fn a_node_that_only_the_balancer_cannot_reach_gives_its_users_away() {
    story(async {
        let Some(machines) = Machines::start(Place::new(), 2).await else { return };
        let load = Load::start(machines.listen, USERS);
        load.progress(200).await;
        for (from, to) in [(BALANCER, "r1"), ("r1", BALANCER)] {
            machines.network.stop(from, to);
        }
        wait_for("r2 has the users of both, and r1 as its peer", async || {
            let nodes = machines.status().await?.nodes;
            let r2 = nodes.iter().find(|node| node.route.as_str() == "r2")?;
            (r2.sessions.owned >= USERS && r2.peers.iter().any(|peer| peer.in_sync)).then_some(())
        })
        .await;
        load.progress(500).await;
        for (from, to) in [(BALANCER, "r1"), ("r1", BALANCER)] {
            machines.network.go(from, to);
        }
        machines.settled(2).await;
        load.progress(200).await;
        let seen = load.finish().await;
        let Seen { answered, failed, doubled, lost, reset, longest_gap, .. } = seen;
        println!("{answered} answered, {failed} refused, {doubled} doubled, longest gap {longest_gap:?}");
        assert_eq!((lost, reset), (0, 0), "first: {:?}", seen.first_trouble);
    });
}

/// A split between r1 and r2 that both have noticed, though nobody writes.
async fn split(machines: &Machines) {
    machines.network.stop("r1", "r2");
    machines.network.stop("r2", "r1");
    machines.apart("r1").await;
    machines.apart("r2").await;
}

async fn heal(machines: &Machines, nodes: usize) {
    machines.network.go("r1", "r2");
    machines.network.go("r2", "r1");
    machines.settled(nodes).await;
}

/// One who goes to r1 and one who goes to r2, without the balancer.
fn doors(machines: &Machines) -> [Browser; 2] {
    [("r1", 0), ("r2", 1)]
        .map(|(node, index)| Browser::new(machines.network.door_to(node, http(index).parse().unwrap())))
}

/// A user of both, whose session is of r1.
async fn at_both_doors(machines: &Machines) -> [Browser; 2] {
    let [mut on_r1, mut on_r2] = doors(machines);
    let answer = on_r1.get("/add.txt").await.unwrap();
    assert_eq!((answer.body.as_str(), answer.header("tasuki-copies")), ("1", Some("2")));
    on_r2.cookies = on_r1.cookies.clone();
    [on_r1, on_r2]
}

/// What a page says as soon as it is answered: until it is settled who owns a session requests may be refused.
async fn said(user: &Browser, page: &str) -> String {
    let answer = async || user.window().get(page).await.ok().filter(|answer| answer.status == StatusCode::OK);
    wait_for(page, answer).await.body
}

#[test]
fn after_a_split_a_session_that_both_sides_wrote_has_what_each_of_them_set() {
    story(async {
        let place = pages(Place::new());
        let write = "{% do session.set(node.route, node.route) %}{% do session.set('both', node.route) %}";
        fs::write(place.path("pages/ROOT/write.txt.j2"), write).unwrap();
        let read = "{% for name in ['n', 'r1', 'r2', 'both'] %}{{ session.get(name, '-') }} {% endfor %}";
        fs::write(place.path("pages/ROOT/read.txt.j2"), read).unwrap();
        let Some(machines) = Machines::start(place, 2).await else { return };
        let users = at_both_doors(&machines).await;
        split(&machines).await;
        for (user, own) in users.iter().zip(["1 r1 - r1 ", "1 - r2 r2 "]) {
            said(user, "/write.txt").await;
            assert_eq!(said(user, "/read.txt").await, own);
        }
        heal(&machines, 2).await;
        let agreed = async || {
            let [on_r1, on_r2] = [said(&users[0], "/read.txt").await, said(&users[1], "/read.txt").await];
            (on_r1 == on_r2).then_some(on_r1)
        };
        let agreed = wait_for("r1 and r2 agree", agreed).await;
        assert!(["1 r1 r2 r1 ", "1 r1 r2 r2 "].contains(&agreed.as_str()), "{agreed}");
    });
}

/// Both have the third node, which confirms that each of them is there. A front that is not sticky sends a user to both.
#[test]
fn a_session_is_never_older_on_the_node_that_lost_it_to_one_that_it_cannot_hear() {
    story(async {
        let Some(machines) = Machines::start(pages(Place::new()), 3).await else { return };
        let users = at_both_doors(&machines).await;
        machines.network.stop("r1", "r2");
        machines.network.stop("r2", "r1");
        let [mut last, mut looks] = [1, 0];
        for round in 0..6 {
            let [writes, reads] = [&users[(round + 1) % 2], &users[round % 2]];
            last += 1;
            assert_eq!(said(writes, "/add.txt").await, last.to_string());
            for _ in 0..20 {
                let Ok(answer) = reads.window().get("/look.txt").await else { continue };
                if answer.status == StatusCode::OK {
                    assert_eq!(answer.body, last.to_string(), "what the other one has answered before");
                    looks += 1;
                }
            }
            assert_eq!(said(reads, "/look.txt").await, last.to_string());
        }
        println!("{looks} of 120 looks were answered at once");
        heal(&machines, 3).await;
        assert_eq!(said(&users[0], "/look.txt").await, last.to_string());
    });
}

#[test]
fn who_logged_out_on_one_side_of_a_split_is_logged_out_on_the_other_whatever_was_done_there() {
    story(async {
        let Some(machines) = Machines::start(pages(Place::new()), 2).await else { return };
        // Of r1, which owns the session, or of r2, which does not.
        let mut users = Vec::new();
        for (page, last) in [("/look.txt", "1"), ("/add.txt", "3")] {
            let [on_r1, on_r2] = at_both_doors(&machines).await;
            users.push((on_r1, on_r2, page, last));
            let [on_r1, on_r2] = at_both_doors(&machines).await;
            users.push((on_r2, on_r1, page, last));
        }
        split(&machines).await;
        for (leaves, stays, page, last) in &users {
            said(stays, page).await;
            assert_eq!(said(leaves, "/end.txt").await, "ended");
            assert_eq!(said(leaves, "/look.txt").await, "0");
            assert_eq!(said(stays, page).await, *last, "nobody could tell");
        }
        heal(&machines, 2).await;
        // Nobody asks for the sessions before.
        let gone = async || {
            let nodes = machines.status().await?.nodes;
            nodes.iter().all(|node| node.sessions.owned + node.sessions.held == 0).then_some(())
        };
        wait_for("no node has a copy", gone).await;
        for (leaves, stays, ..) in &users {
            assert_eq!([said(leaves, "/look.txt").await, said(stays, "/look.txt").await], ["0", "0"]);
        }
    });
}

#[test]
fn where_two_must_hold_a_write_both_sides_of_a_split_refuse_it_and_go_on_reading() {
    story(async {
        let place = pages(Place::new().set("CLUSTER__MIN_COPIES", "2"));
        let Some(machines) = Machines::start(place, 2).await else { return };
        let mut users = at_both_doors(&machines).await;
        machines.network.stop("r1", "r2");
        machines.network.stop("r2", "r1");
        for user in &mut users {
            // Made, not held by anybody else in time, and taken back.
            assert_eq!(user.get("/add.txt").await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
            // r2 has to claim it first, when what it has granted to r1 has run out.
            assert_eq!(said(user, "/look.txt").await, "1");
            let refused = user.get("/add.txt").await.unwrap();
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
            assert!(refused.body.contains("too few of the servers"), "{}", refused.body);
        }
        machines.network.go("r1", "r2");
        machines.network.go("r2", "r1");
        machines.settled(2).await;
        let mut user = machines.browser();
        user.cookies = users[0].cookies.clone();
        let answer = user.get("/add.txt").await.unwrap();
        // What was under way when it was refused may have been done: on one side, and once.
        assert!(["2", "3"].contains(&answer.body.as_str()), "{}", answer.body);
        assert_eq!(answer.header("tasuki-copies"), Some("2"));
        assert_eq!(user.get("/look.txt").await.unwrap().body, answer.body);
    });
}

#[test]
fn where_two_must_hold_a_write_a_node_that_is_cut_off_refuses_it_and_the_two_others_go_on() {
    story(async {
        let place = pages(Place::new().set("CLUSTER__MIN_COPIES", "2"));
        let count = "[{{ node.route }}]\n{{ session.add('count') }}\n";
        fs::write(place.path("pages/ROOT/index.html.j2"), count).unwrap();
        let Some(machines) = Machines::start(place, 3).await else { return };
        let load = Load::start(machines.listen, USERS);
        load.progress(200).await;
        let [on_r1, _] = at_both_doors(&machines).await;
        let mut elsewhere = machines.browser();
        elsewhere.cookies = on_r1.cookies.clone();
        let others = ["r2", "r3", BALANCER];
        others.iter().for_each(|other| machines.network.stop("r1", other));
        others.iter().for_each(|other| machines.network.stop(other, "r1"));
        let refused = async || {
            let refused = on_r1.window().get("/add.txt").await.unwrap();
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
            refused.body.contains("too few of the servers").then_some(())
        };
        wait_for("r1 refuses it before it is made", refused).await;
        assert_eq!(said(&on_r1, "/look.txt").await, "1");
        wait_for("the others give it up", async || {
            let nodes = machines.status().await?.nodes;
            (nodes.len() == 2 && nodes.iter().all(|node| node.route.as_str() != "r1")).then_some(())
        })
        .await;
        load.progress(500).await;
        assert_eq!(load.seen().failed, 0, "first: {:?}", load.seen().first_trouble);
        for count in ["2", "3"] {
            let answer = elsewhere.get("/add.txt").await.unwrap();
            assert_eq!((answer.body.as_str(), answer.header("tasuki-copies")), (count, Some("2")));
        }
        wait_for("r1 refuses it still", refused).await;
        others.iter().for_each(|other| machines.network.go("r1", other));
        others.iter().for_each(|other| machines.network.go(other, "r1"));
        machines.settled(3).await;
        load.progress(500).await;
        assert_eq!(said(&on_r1, "/look.txt").await, "3", "it has what the others did, and not what it refused");
        said(&on_r1, "/add.txt").await;
        let seen = load.finish().await;
        let Seen { answered, failed, doubled, lost, reset, longest_gap, .. } = seen;
        println!("{answered} answered, {failed} refused, {doubled} doubled, longest gap {longest_gap:?}");
        assert_eq!((lost, reset), (0, 0), "first: {:?}", seen.first_trouble);
    });
}

#[test]
fn a_peer_that_reads_nothing_costs_neither_memory_nor_time() {
    story(async {
        let place = large_sessions();
        let Some(machines) = Machines::start(place, 2).await else { return };
        machines.network.clog("r1", "r2");
        machines.network.clog("r2", "r1");
        let load = Load::start(machines.listen, USERS);
        // The first writes wait for the silent peer; after session.ack_timeout nobody does.
        load.progress(USERS as u64 + 1).await;
        sleep(Duration::from_secs(2)).await;
        let before = load.seen();
        load.progress(2_000).await;
        let mut seen = load.finish().await;
        seen.assert_whole();
        seen.micros.drain(..before.micros.len());
        let (p50, p99) = (seen.percentile(0.5), seen.percentile(0.99));
        let resident: Vec<u64> = ["r1", "r2"].iter().map(|node| resident_megabytes(machines.pid(node))).collect();
        println!("p50 {p50:.1} ms, p99 {p99:.1} ms, resident {resident:?} MB");
        assert!(p99 < 500.0, "nobody waits for it: p99 {p99} ms");
        // 2,000 x 64 KiB were written, and a queue holds 16 MiB for each of three links.
        assert!(resident.iter().all(|megabytes| *megabytes < 160), "{resident:?} MB");
        machines.network.go("r1", "r2");
        machines.network.go("r2", "r1");
        machines.settled(2).await;
    });
}

/// A counter whose every write carries 64 KiB.
pub(crate) fn large_sessions() -> Place {
    let place = Place::new();
    let root = place.path("webapps/ROOT");
    fs::create_dir_all(root.join("WEB-INF")).unwrap();
    fs::write(root.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    let set = format!("{{% do session.set('data', '{}') %}}", "x".repeat(64 * 1_024));
    let page = format!("{set}[{{{{ node.route }}}}]\n{{{{ session.add('count') }}}}\n");
    fs::write(root.join("index.html.j2"), page).unwrap();
    let webapps = place.path("webapps").display().to_string();
    place.set("NODE__WEBAPPS", &webapps)
}

fn resident_megabytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}
