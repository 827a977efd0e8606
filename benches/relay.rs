//! The figures of the relay: what users feel when nodes die, are restarted and join, and what it costs.
//!
//! `cargo bench --bench relay` measures everything, `cargo bench --bench relay -- kill restart` some of it. Cluster and
//! load share this machine, so times are those of a busy one; compare ratios taken in one run.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use support::{
    browser::Browser,
    cluster::{Cluster, Place, children, settled, status},
    load::{Load, Seen},
    wait_for,
};
use tasuki::{observe::NodeState, settings::Listening};
use tokio::{runtime::Builder, task::LocalSet, task::spawn_local, time::sleep};

const USERS: usize = 32;
const KILLS: usize = 20;
const SESSIONS: usize = 100_000;
const SESSION_BYTES: usize = 1_024;
/// On two nodes: half of them move.
const DRAINED_SESSIONS: usize = 20_000;
/// Small sessions that a joining node is told under load; TASUKI_JOINING_SESSIONS says otherwise.
const JOINING_SESSIONS: usize = 1_000_000;
/// How long each way of running is loaded at a time, and how often: the median of the rounds counts.
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
        for name in ["start", "parallel", "kill", "restart", "drain", "throughput", "managers", "sessions", "joining"] {
            if is_wanted(name) {
                println!("\n{name}");
                measure(name).await;
            }
        }
    });
}

async fn measure(name: &str) {
    match name {
        "start" => start().await,
        "parallel" => parallel().await,
        "kill" => kill().await,
        "restart" => restart().await,
        "drain" => drain().await,
        "throughput" => throughput().await,
        "managers" => managers().await,
        "sessions" => sessions().await,
        "joining" => joining().await,
        _ => unreachable!("named in main"),
    }
}

/// From the start of the command to the first answered request, and what an idle process keeps.
async fn start() {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let place = Place::new();
        let began = Instant::now();
        let up = place.start(&["up"]);
        let run = place.path("run");
        let listen = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await.listen;
        wait_for("an answer", || async { Browser::new(listen).count().await.ok() }).await;
        times.push(began.elapsed());
        if times.len() == ROUNDS {
            sleep(Duration::from_secs(1)).await;
            for pid in children(up.pid()) {
                println!("  {:44} {:6.1} MB", command_line(pid), resident_megabytes(pid));
            }
        }
    }
    times.sort_unstable();
    println!("  first answer after: median {:?}, longest {:?}", times[ROUNDS / 2], times[ROUNDS - 1]);
}

/// 200 increments of one session at the same moment.
async fn parallel() {
    let cluster = Cluster::up(2).await;
    let mut browser = cluster.browser();
    let (_, before) = browser.count().await.unwrap();
    let began = Instant::now();
    let windows = (0..200).map(|_| {
        let mut window = browser.window();
        spawn_local(async move { window.count().await.is_ok() })
    });
    let mut answered = 0;
    for window in windows.collect::<Vec<_>>() {
        answered += u64::from(window.await.unwrap());
    }
    let took = began.elapsed();
    let (_, after) = browser.count().await.unwrap();
    println!("  {answered} of 200 answered in {took:?}; the number grew by {}", after - 1 - before);
}

/// kill -9 of the node that has just answered the most, again and again, under load.
async fn kill() {
    let cluster = Cluster::up(2).await;
    let load = Load::start(cluster.listen, USERS);
    for n in 0..KILLS {
        let route = ["r1", "r2"][n % 2];
        load.progress(2_000).await;
        let killed = cluster.kill(route).await;
        load.progress(2_000).await;
        cluster.back(route, killed, 2).await;
    }
    report(&format!("{KILLS} x kill -9, {USERS} users"), load.finish().await);
}

/// Graceful restart of one node, then of all.
async fn restart() {
    let cluster = Cluster::up(2).await;
    for arguments in [&["restart", "r1"][..], &["restart", "--rolling"]] {
        let load = Load::start(cluster.listen, USERS);
        load.progress(2_000).await;
        let began = Instant::now();
        let (code, said) = cluster.command(arguments).await;
        assert_eq!(code, Some(0), "{said}");
        let took = began.elapsed();
        load.progress(2_000).await;
        report(
            &format!("tasuki {} in {:.1} s, {USERS} users", arguments.join(" "), took.as_secs_f64()),
            load.finish().await,
        );
    }
}

/// A drain with very many idle sessions, at rest and under load.
async fn drain() {
    for users in [0, USERS] {
        let cluster = Cluster::up(2).await;
        let mut cookies = each_user(&cluster, DRAINED_SESSIONS, |mut browser, _| async move {
            browser.count().await.unwrap();
            browser.hang_up();
            browser
        })
        .await;
        let load = Load::start(cluster.listen, users);
        if users > 0 {
            load.progress(2_000).await;
        }
        let owned = cluster.node("r1").await.sessions.owned;
        let pids: Vec<u32> = cluster.settled(2).await.nodes.iter().filter_map(|node| node.pid).collect();
        let cpu = cpu_seconds(&pids);
        let (code, said) = cluster.command(&["drain", "r1", "--wait"]).await;
        assert_eq!(code, Some(0), "{said}");
        let cpu = cpu_seconds(&pids) - cpu;
        println!("  {owned} of {DRAINED_SESSIONS} sessions to move: {} CPU of both nodes {cpu:.2} s", said.trim());
        if users > 0 {
            load.progress(2_000).await;
            report(&format!("meanwhile, {users} users"), load.finish().await);
        } else {
            load.finish().await;
        }
        let lost = each(std::mem::take(&mut cookies), |mut browser| async move {
            let kept = browser.count().await.is_ok_and(|(node, count)| node == "r2" && count == 2);
            browser.hang_up();
            !kept
        });
        println!("  {} lost", lost.await.into_iter().filter(|lost| *lost).count());
    }
}

/// The counter page through the balancer, by the rule of acknowledgement: rounds in turn, so that a busy moment of the
/// machine hits all of them.
async fn throughput() {
    let ways = [("two nodes, ack = one", "one", 2), ("two nodes, ack = none", "none", 2), ("one node", "one", 1)];
    let mut clusters = Vec::new();
    for (name, ack, nodes) in ways {
        clusters.push((name, Cluster::up_in(Place::new().set("SESSION__ACK", ack), nodes).await, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (_, cluster, rounds) in &mut clusters {
            let processes = children(cluster.pid());
            let report = wait_for("the status", || cluster.status()).await;
            let nodes: Vec<u32> = report.nodes.iter().filter_map(|node| node.pid).collect();
            let cpu = || [cpu_seconds(&processes), cpu_seconds(&nodes)];
            let load = Load::start(cluster.listen, USERS);
            sleep(Duration::from_millis(500)).await;
            let (answered, before, began) = (load.seen().answered, cpu(), Instant::now());
            sleep(ROUND).await;
            let answers = (load.seen().answered - answered) as f64;
            let (rate, after) = (answers / began.elapsed().as_secs_f64(), cpu());
            let mut seen = load.finish().await;
            seen.assert_whole();
            let [all, nodes] = [0, 1].map(|of| (after[of] - before[of]) / answers * 1e6);
            rounds.push([rate, all, nodes, seen.percentile(0.99)]);
        }
    }
    for (name, _, rounds) in &clusters {
        let [rate, all, nodes, p99] =
            [0, 1, 2, 3].map(|column| median(rounds.iter().map(|round: &[f64; 4]| round[column]).collect()));
        println!(
            "  {name:24} {rate:7.0} req/s   CPU a request: {all:4.0} us, of the nodes {nodes:4.0} us   p99 {p99:5.1} ms"
        );
    }
}

/// What a write costs by the session manager and the number of nodes: bytes on the links, acknowledgements included, and
/// CPU of all nodes. What a cluster at rest costs (leases, membership) is measured first and left out. The load grows with
/// the nodes, so that each of them has as much to do.
///
/// Writes that are under way together share a packet when they go to the same node. With a few holders among many nodes
/// fewer of them do, and that is all that grows: one user a node shows the cost without it, and with many users every link
/// has enough to share.
///
/// `USERS_A_NODE="1 8 32" MANAGERS="none backup delta full"` are the defaults; less takes less time.
async fn managers() {
    let managers = listed("MANAGERS", "none backup delta full");
    for users_a_node in listed("USERS_A_NODE", "1 8 32") {
        println!("  {users_a_node} users a node");
        cost_of_managers(users_a_node.parse().expect("USERS_A_NODE has numbers"), &managers).await;
    }
}

fn listed(variable: &str, otherwise: &str) -> Vec<String> {
    let listed = std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned());
    listed.split_whitespace().map(str::to_owned).collect()
}

/// The sizes take turns, and the median of the rounds counts: what a write costs differs more from minute to minute of this
/// machine than from size to size.
async fn cost_of_managers(users_a_node: usize, managers: &[String]) {
    println!("  manager  nodes   bytes a write   CPU a write   of 2 nodes   at rest: bytes/s   CPU");
    for manager in managers {
        let mut sizes = Vec::new();
        for nodes in [2, 4, 8] {
            let place = Place::new().set("NODE__WORKERS", "1");
            let place = match manager.as_str() {
                // What more nodes and users cost on this machine when nothing is copied.
                "none" => stay_at_home(place),
                manager => place.set("SESSION__MANAGER", manager),
            };
            sizes.push((nodes, Cluster::up_in(place, nodes).await, Vec::new()));
        }
        for _ in 0..ROUNDS {
            for (nodes, cluster, rounds) in &mut sizes {
                rounds.push(cost_of_a_write(cluster, *nodes, users_a_node * *nodes).await);
            }
        }
        let mut of_two = f64::NAN;
        for (nodes, _, rounds) in sizes {
            let [bytes, micros, rest_bytes, rest_cpu] =
                [0, 1, 2, 3].map(|column| median(rounds.iter().map(|round: &[f64; 4]| round[column]).collect()));
            of_two = if nodes == 2 { micros } else { of_two };
            println!(
                "  {manager:7} {nodes:6} {bytes:15.0} {micros:10.0} us {:12.2} {rest_bytes:18.0} {rest_cpu:5.1} %",
                micros / of_two
            );
        }
    }
}

/// Bytes and microseconds of a write, and bytes a second and percent of a processor at rest.
async fn cost_of_a_write(cluster: &Cluster, nodes: usize, users: usize) -> [f64; 4] {
    const WRITES: u64 = 12_000;
    let pids: Vec<u32> = cluster.settled(nodes).await.nodes.iter().filter_map(|node| node.pid).collect();
    let cost = async || (link_bytes(cluster).await as f64, cpu_seconds(&pids), Instant::now());
    let spent = |from: (f64, f64, Instant), to: (f64, f64, Instant)| {
        (to.0 - from.0, to.1 - from.1, (to.2 - from.2).as_secs_f64())
    };
    let start = cost().await;
    sleep(ROUND).await;
    let rest = spent(start, cost().await);
    let (rest_bytes, rest_cpu) = (rest.0 / rest.2, rest.1 / rest.2);
    let load = Load::start(cluster.listen, users);
    load.progress(2_000).await;
    let (before, answered) = (cost().await, load.seen().answered);
    load.progress(WRITES).await;
    let (after, writes) = (cost().await, (load.seen().answered - answered) as f64);
    load.finish().await.assert_whole();
    let (bytes, cpu, seconds) = spent(before, after);
    let micros = (cpu - rest_cpu * seconds) / writes * 1e6;
    [(bytes - rest_bytes * seconds) / writes, micros, rest_bytes, rest_cpu * 100.0]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The counter page in a webapp that is not distributable.
fn stay_at_home(place: Place) -> Place {
    let (own, project) = (place.path("webapps/ROOT"), Path::new(env!("CARGO_MANIFEST_DIR")).join("webapps/ROOT"));
    fs::create_dir_all(own.join("WEB-INF")).unwrap();
    fs::write(own.join("WEB-INF/web.xml"), "<web-app/>").unwrap();
    fs::copy(project.join("index.html.j2"), own.join("index.html.j2")).unwrap();
    let webapps = place.path("webapps").display().to_string();
    place.set("NODE__WEBAPPS", &webapps)
}

/// Bytes that all links have carried, both ways.
async fn link_bytes(cluster: &Cluster) -> u64 {
    let report = wait_for("the status", || cluster.status()).await;
    let peers = report.nodes.iter().flat_map(|node| &node.peers);
    peers.map(|peer| peer.sent_bytes + peer.received_bytes).sum()
}

/// Many sessions, one node restarted: all still there, and how soon.
async fn sessions() {
    let place = Place::new();
    let webapp = place.path("webapps/ROOT");
    fs::create_dir_all(webapp.join("WEB-INF")).unwrap();
    fs::write(webapp.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    let fill = format!("{{% do session.set('data', '{}') %}}ok", "x".repeat(SESSION_BYTES));
    fs::write(webapp.join("fill.txt.j2"), fill).unwrap();
    fs::write(webapp.join("read.txt.j2"), "{{ session.get('data', '') | length }}").unwrap();
    let webapps = place.path("webapps").display().to_string();
    let cluster = Cluster::up_in(place.set("NODE__WEBAPPS", &webapps), 2).await;
    let began = Instant::now();
    let cookies = each_user(&cluster, SESSIONS, |mut browser, _| async move {
        assert_eq!(browser.get("/fill.txt").await.unwrap().body, "ok");
        browser.hang_up();
        browser
    })
    .await;
    println!("  {SESSIONS} sessions of {SESSION_BYTES} bytes made in {:.1} s", began.elapsed().as_secs_f64());
    for pid in children(cluster.pid()) {
        println!("  {:44} {:6.1} MB", command_line(pid), resident_megabytes(pid));
    }
    let killed = cluster.kill("r1").await;
    let began = Instant::now();
    wait_for("the new process holds everything", || async {
        let report = cluster.status().await?;
        let held =
            |route: &str| report.nodes.iter().find(|node| node.route.as_str() == route && node.pid != Some(killed));
        let counts = held("r1")?.sessions;
        (counts.owned + counts.held == SESSIONS).then_some(())
    })
    .await;
    println!("  r1 killed; its new process holds all {SESSIONS} after {:.2} s", began.elapsed().as_secs_f64());
    cluster.back("r1", killed, 2).await;
    let began = Instant::now();
    let (code, said) = cluster.command(&["restart", "r1"]).await;
    assert_eq!(code, Some(0), "{said}");
    println!("  tasuki restart r1, until back and in sync: {:.2} s", began.elapsed().as_secs_f64());
    let killed = cluster.kill("r2").await;
    let there = each(cookies, |mut browser| async move {
        let is_there = browser.get("/read.txt").await.is_ok_and(|answer| answer.body == SESSION_BYTES.to_string());
        browser.hang_up();
        is_there
    });
    let there = there.await.into_iter().filter(|there| *there).count();
    println!("  r2 killed as well: {there} of {SESSIONS} sessions still there");
    cluster.back("r2", killed, 2).await;
}

/// A node joins when very many sessions are there, while the one that has them serves, and so does the new one as soon as it
/// does.
async fn joining() {
    let wanted = std::env::var("TASUKI_JOINING_SESSIONS").ok().and_then(|text| text.parse().ok());
    let sessions: usize = wanted.unwrap_or(JOINING_SESSIONS);
    let (first, second, door) = (joining_place(), joining_place(), joining_place());
    let r1 = first.start(&["node", "--route", "r1"]);
    let gossip = wait_for("r1 has a port", || std::future::ready(replication_port(&first.log()))).await;
    let door = door.set("CLUSTER__PEERS", &gossip);
    let _balancer = door.start(&["balancer"]);
    let run = door.path("run");
    let listen = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await.listen;
    settled(listen, 1).await;
    let r1_http = status(listen).await.unwrap().nodes[0].http;
    let began = Instant::now();
    each((0..USERS).collect(), move |_| async move {
        let mut browser = Browser::new(r1_http);
        for _ in 0..sessions.div_ceil(USERS) {
            browser.cookies.clear();
            assert_eq!(browser.get("/fill.txt").await.unwrap().body, "ok");
        }
    })
    .await;
    let megabytes = resident_megabytes(r1.pid());
    println!("  {sessions} sessions made in {:.1} s, r1 has {megabytes:.0} MB", began.elapsed().as_secs_f64());
    let load = Load::start(listen, USERS);
    load.progress(5_000).await;
    sleep(Duration::from_secs(2)).await;
    let (calm, cpu) = (load.seen().micros.len(), cpu_seconds(&[r1.pid()]));
    let began = Instant::now();
    let r2 = second.set("CLUSTER__PEERS", &gossip).start(&["node", "--route", "r2"]);
    let joined = async || status(listen).await?.nodes.into_iter().find(|node| node.route.as_str() == "r2");
    let r2_http = wait_for("r2 serves", async || {
        joined().await.filter(|node| node.state == NodeState::Ready).map(|node| node.http)
    })
    .await;
    let (served_after, load_of_r2) = (began.elapsed(), Load::start(r2_http, USERS / 2));
    let held =
        async || joined().await.filter(|node| node.sessions.owned + node.sessions.held >= sessions + USERS + USERS / 2);
    while held().await.is_none() {
        assert!(began.elapsed() < Duration::from_secs(120), "{}", first.log());
        sleep(Duration::from_millis(20)).await;
    }
    let (took, answered) = (began.elapsed(), load.seen().micros.len());
    let mut of_r2 = load_of_r2.finish().await;
    of_r2.assert_whole();
    let cpu = [cpu_seconds(&[r1.pid()]) - cpu, cpu_seconds(&[r2.pid()])];
    println!(
        "  r2 started; it holds all of them after {:.2} s; CPU of r1 {:.1} s, r2 {:.1} s",
        took.as_secs_f64(),
        cpu[0],
        cpu[1]
    );
    settled(listen, 2).await;
    println!("  in sync after {:.2} s", began.elapsed().as_secs_f64());
    println!("  r1 has {:.0} MB, r2 {:.0} MB", resident_megabytes(r1.pid()), resident_megabytes(r2.pid()));
    sleep(Duration::from_secs(2)).await;
    let seen = load.finish().await;
    seen.assert_whole();
    let of = |micros: &[u32]| Seen { micros: micros.to_vec(), ..Seen::default() };
    for (when, from, to) in [("before", 0, calm), ("meanwhile", calm, answered), ("after", answered, seen.micros.len())]
    {
        let mut part = of(&seen.micros[from..to]);
        let (p50, p99, most) = (part.percentile(0.5), part.percentile(0.99), part.percentile(1.0));
        println!("  {when:9}: {:6} answered, p50 {p50:.1} ms, p99 {p99:.1} ms, longest {most:.0} ms", to - from);
    }
    let (p99, most) = (of_r2.percentile(0.99), of_r2.percentile(1.0));
    println!(
        "  r2 served after {:.2} s, {} users of its own: {} answered until it held everything, p99 {p99:.1} ms, longest {most:.0} ms",
        served_after.as_secs_f64(),
        USERS / 2,
        of_r2.answered,
    );
    for line in first.log().lines().filter(|line| line.contains("r2") || line.contains("replic")) {
        println!("  {line}");
    }
}

/// A webapp that counts, and one that makes small sessions.
fn joining_place() -> Place {
    let place = Place::new();
    let webapp = place.path("webapps/ROOT");
    fs::create_dir_all(webapp.join("WEB-INF")).unwrap();
    fs::write(webapp.join("WEB-INF/web.xml"), "<web-app><distributable/></web-app>").unwrap();
    fs::write(webapp.join("fill.txt.j2"), "{% do session.set('data', '1234567') %}ok").unwrap();
    fs::write(webapp.join("index.html.j2"), "[{{ node.route }}]\n{{ session.add('count') }}\n").unwrap();
    let webapps = place.path("webapps").display().to_string();
    let place = place.set("NODE__WEBAPPS", &webapps).set("CLUSTER__NAME", "joining");
    place.set("SESSION__MAX_SESSIONS", "3000000")
}

/// From the log line of a starting node.
fn replication_port(log: &str) -> Option<String> {
    let after = &log[log.find("replication=")?..];
    let address = &after[after.find("127.0.0.1:")?..];
    let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
    Some(address[..end].to_owned())
}

/// So many users one after the other, some at a time.
async fn each_user<T: 'static, F: Future<Output = T> + 'static>(
    cluster: &Cluster,
    count: usize,
    act: impl Fn(Browser, usize) -> F + Copy + 'static,
) -> Vec<T> {
    let listen = cluster.listen;
    each((0..count).collect(), move |n| act(Browser::new(listen), n)).await
}

async fn each<I: 'static, T: 'static, F: Future<Output = T> + 'static>(
    items: Vec<I>,
    act: impl Fn(I) -> F + Copy + 'static,
) -> Vec<T> {
    let mut lanes: Vec<Vec<I>> = (0..USERS).map(|_| Vec::new()).collect();
    for (n, item) in items.into_iter().enumerate() {
        lanes[n % USERS].push(item);
    }
    let lanes = lanes.into_iter().map(|lane| {
        spawn_local(async move {
            let mut results = Vec::with_capacity(lane.len());
            for item in lane {
                results.push(act(item).await);
            }
            results
        })
    });
    let mut results = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        results.extend(lane.await.unwrap());
    }
    results
}

fn report(what: &str, mut seen: Seen) {
    let (p50, p99) = (seen.percentile(0.5), seen.percentile(0.99));
    println!("  {what}");
    println!(
        "    {} answered, {} failed, {} lost, {} reset, {} counted twice; longest gap of a user {:.0} ms, p50 {p50:.1} ms, p99 {p99:.1} ms",
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

fn resident_megabytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1_024.0
}

/// User and system time together (proc(5), fields 14 and 15, in hundredths of a second).
fn cpu_seconds(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>()
    };
    pids.iter().map(ticks).sum::<f64>() / 100.0
}

fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy).collect();
    words.join(" ").replace("--supervised", "").trim().to_owned()
}
