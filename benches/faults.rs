//! What users lose when nodes die, hang, or lose their power under load: nothing, or this program fails.
//!
//! `cargo bench --bench faults` does everything, `cargo bench --bench faults -- kill crash` some of it. How often:
//! `KILLS=200 PAUSES=50 CRASHES=20 HAZARDS=40 USERS=32`, which are the defaults; two long pauses come on top. The crashes need
//! network namespaces (root).
//!
//! `members` is about the balancer alone: plain servers behind it are killed, stopped, hung and slowed down, and keep records
//! of what they have executed. `control` and `insist` are the controls of `crash` and `members`: they have to lose something.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    cluster::{self, Cluster, Place},
    load::{Load, Seen},
    machines::Machines,
    members::{Member, Users, Verdict, serve_if_asked},
    wait_for,
};
use tasuki::settings::Listening;
use tokio::{runtime::Builder, task::LocalSet, time::sleep};

/// Answers between two faults.
const PROGRESS: u64 = 500;
const NODES: [&str; 2] = ["r1", "r2"];
const LONG_PAUSES: [Duration; 2] = [Duration::from_secs(12), Duration::from_secs(60)];
const MODES: [&str; 6] = ["kill", "pause", "crash", "control", "members", "insist"];
/// `balancer.timeout` before plain servers.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

fn main() {
    serve_if_asked();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    assert!(
        wanted.iter().all(|wanted| MODES.contains(&wanted.as_str())),
        "one or more of {MODES:?}, or nothing for all"
    );
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    LocalSet::new().block_on(&runtime, async {
        for name in MODES {
            if is_wanted(name) {
                let began = Instant::now();
                run(name).await;
                println!("    took {:.0} s", began.elapsed().as_secs_f64());
            }
        }
    });
}

async fn run(name: &str) {
    match name {
        "kill" => kills(count("KILLS", 200)).await,
        "pause" => pauses(count("PAUSES", 50)).await,
        "crash" => crashes("one", count("CRASHES", 20)).await,
        "control" => crashes("none", count("CRASHES", 20)).await,
        "members" => hazards(count("HAZARDS", 40), false).await,
        "insist" => hazards(count("HAZARDS", 40), true).await,
        _ => unreachable!("named in MODES"),
    }
}

/// kill -9 of either node in turn, the next one as soon as both are in sync.
async fn kills(times: usize) {
    let cluster = Cluster::up(2).await;
    let load = Load::start(cluster.listen, users());
    let (mut gone, mut back) = (Vec::new(), Vec::new());
    for n in 0..times {
        load.progress(PROGRESS).await;
        back.push(load.take_gap());
        let killed = cluster.kill(NODES[n % 2]).await;
        load.progress(PROGRESS).await;
        load.everyone().await;
        gone.push(load.take_gap());
        cluster.back(NODES[n % 2], killed, 2).await;
    }
    back.push(load.take_gap());
    let seen = load.finish().await;
    report(&format!("{times} x kill -9"), &seen);
    println!("    gaps after a node was killed: {}", spread(gone));
    println!("    gaps while it came back:      {}", spread(back));
    seen.assert_whole();
}

/// SIGSTOP of either node for longer and longer, up to four seconds, and SIGCONT; then two that outlast whatever waits for a
/// silent peer.
async fn pauses(times: usize) {
    let cluster = Cluster::up(2).await;
    let load = Load::start(cluster.listen, users());
    let growing = (0..times).map(|n| Duration::from_millis(80 * (1 + n as u64 % 50)));
    for (n, long) in growing.chain(LONG_PAUSES).enumerate() {
        load.progress(PROGRESS).await;
        let pid = cluster.node(NODES[n % 2]).await.pid.unwrap();
        cluster::stop(pid).await;
        sleep(long).await;
        cluster::send(pid, Signal::CONT);
        load.progress(PROGRESS).await;
        cluster.settled(2).await;
    }
    let seen = load.finish().await;
    report(&format!("{times} x SIGSTOP of 0.1 to 4 s, two of {LONG_PAUSES:?}, SIGCONT"), &seen);
    seen.assert_whole();
}

/// Power cuts with 20 to 50 ms of delay on the replication links, and all that was under way lost.
async fn crashes(ack: &str, times: usize) {
    let Some(mut machines) = Machines::start(Place::new().set("SESSION__ACK", ack), 2).await else { return };
    machines.network.delay("r1", "r2", 20..50);
    let load = Load::start(machines.listen, users());
    for n in 0..times {
        load.progress(PROGRESS).await;
        machines.crash(NODES[n % 2], 2).await;
        load.progress(PROGRESS).await;
        machines.boot(NODES[n % 2], 2);
        machines.settled(2).await;
    }
    let seen = load.finish().await;
    report(&format!("{times} x power cut, ack = \"{ack}\""), &seen);
    if ack == "none" {
        assert!(seen.lost > 0, "a control that does not fail proves nothing");
    } else {
        assert_eq!((seen.lost, seen.reset), (0, 0), "first: {:?}", seen.first_trouble);
    }
}

/// Plain servers die, leave, hang and are slow, in turn, one at a time. With `insist` users send a POST again that was not
/// answered well, as no balancer may.
async fn hazards(times: usize, insist: bool) {
    let place = Place::new().set("BALANCER__TIMEOUT", &format!("{}ms", MEMBER_TIMEOUT.as_millis()));
    let mut members = Vec::new();
    for route in ["r1", "r2", "r3"] {
        members.push(Member::start(route, &place.path(""), &[]).await);
    }
    std::fs::write(place.path("tasuki.toml"), members.iter().map(Member::settings).collect::<String>()).unwrap();
    let _balancer = place.start(&["balancer", "--config", "tasuki.toml"]);
    let run = place.path("run");
    let listening = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await;
    let load = Users::start(listening.listen, users() as u64, insist);
    for n in 0..times {
        load.progress(PROGRESS).await;
        hazard(&mut members[n % 3], n % 4, &load).await;
    }
    let told = load.finish().await;
    sleep(MEMBER_TIMEOUT * 3).await; // what was late is executed late
    let verdict = Verdict::of(&told, &members);
    println!(
        "\n{times} x kill -9, SIGTERM, SIGSTOP, slow members, {} users{}",
        users(),
        if insist { ", insisting" } else { "" }
    );
    println!(
        "    {} answered, {} GETs failed; {} POSTs executed, {} of them twice; {} POSTs without a clear answer",
        told.answered,
        told.failed_gets,
        verdict.executed,
        verdict.doubled.len(),
        verdict.unclear
    );
    if let Some(failure) = &told.first_failure {
        println!("    first failure: {failure}");
    }
    if insist {
        assert!(!verdict.doubled.is_empty(), "a control that does not fail proves nothing");
    } else {
        assert_eq!(told.failed_gets, 0);
        verdict.assert_once();
    }
}

/// One of the four, and back to health.
async fn hazard(member: &mut Member, which: usize, load: &Users) {
    match which {
        0 | 1 => {
            member.signal(if which == 0 { Signal::KILL } else { Signal::TERM });
            load.progress(PROGRESS).await;
            member.again().await;
        }
        2 => {
            member.stop().await;
            sleep(MEMBER_TIMEOUT * 2).await;
            member.signal(Signal::CONT);
        }
        _ => {
            member.slow_down(MEMBER_TIMEOUT * 3 / 2);
            sleep(MEMBER_TIMEOUT * 2).await;
            member.slow_down(Duration::ZERO);
        }
    }
}

fn users() -> usize {
    count("USERS", 32)
}

fn count(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The middle and the longest ones, with their places.
fn spread(gaps: Vec<Duration>) -> String {
    let mut gaps: Vec<_> = gaps.into_iter().zip(1..).collect();
    gaps.sort_unstable();
    let of = |share: f64| gaps[(gaps.len() as f64 * share) as usize].0.as_millis();
    let longest: Vec<String> =
        gaps.iter().rev().take(5).map(|(gap, n)| format!("{} (no. {n})", gap.as_millis())).collect();
    format!("median {} ms, 95 % {} ms, longest {} ms", of(0.5), of(0.95), longest.join(", "))
}

fn report(what: &str, seen: &Seen) {
    let mut times = seen.clone();
    let (p50, p99) = (times.percentile(0.5), times.percentile(0.99));
    println!("\n{what}, {} users", users());
    println!(
        "    {} answered, {} failed, {} lost, {} reset, {} counted twice; longest gap of a user {:.0} ms, p50 {p50:.1} \
         ms, p99 {p99:.1} ms",
        seen.answered,
        seen.failed,
        seen.lost,
        seen.reset,
        seen.doubled,
        seen.longest_gap.as_secs_f64() * 1e3
    );
    if let Some(trouble) = &seen.first_trouble {
        println!("    first trouble: {trouble}");
    }
}
