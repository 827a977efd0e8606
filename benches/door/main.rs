//! What the hop through the balancer costs, beside HAProxy and nginx: CPU time of the proxy's processes for each request,
//! and memory for each idle connection.
//!
//! `cargo bench --bench door` does both, `cargo bench --bench door -- cpu` or `-- idle` one. `-- files` asks a node itself for
//! static files, beside nginx. What is not installed is left
//! out, with a line that says so (Debian: `apt-get install haproxy nginx-light`). `ROUNDS=7 SECONDS=3` by default, and
//! `CONNECTIONS=1,32,256 IDLE=10000`. `OTHER=/path/to/tasuki` sets another build of tasuki beside this one.
//!
//! Every proxy has one thread for requests and stands before the same upstream, one after the other in each round, and in
//! another order in the next, so that a busy moment of the machine hits all alike: ratios are worth more than times. The
//! upstream and the load are threads of this program, which are not counted. All three read the session's cookie to choose the
//! member, add `X-Forwarded-For`, and keep their connections to it.

mod files;
mod load;
mod proxies;
mod upstream;

use std::{env, thread, time::Duration};

use load::Load;
use proxies::Proxy;

/// How long connections are idle before they are weighed; all three keep them longer.
const IDLE: Duration = Duration::from_secs(3);

const USAGE: &str = "cpu, idle, or nothing for both; or files";

fn main() {
    let wanted: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    assert!(wanted.iter().all(|it| ["cpu", "idle", "files"].contains(&it.as_str())), "{USAGE}");
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    raise_file_limit();
    if wanted.iter().any(|wanted| wanted == "files") {
        return files::measure();
    }
    let upstream = upstream::start();
    let proxies = proxies::start_all(upstream);
    if is_wanted("cpu") {
        cpu(&proxies);
    }
    if is_wanted("idle") {
        idle(&proxies);
    }
}

pub(crate) fn number(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Sockets of ten thousand connections, for the proxies too, which inherit it.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // what is missing then is said where it is missing
}

fn cpu(proxies: &[Proxy]) {
    let (rounds, span) = (number("ROUNDS", 7), Duration::from_secs(number("SECONDS", 3) as u64));
    let connections = env::var("CONNECTIONS").unwrap_or_else(|_| "1,32,256".to_owned());
    let connections: Vec<usize> = connections.split(',').map(|n| n.parse().expect("CONNECTIONS=1,32")).collect();
    println!("CPU of the proxy for each request, in microseconds: {rounds} rounds of {span:?}");
    // For each number of connections, for each proxy, the rounds.
    let mut micros = vec![vec![Vec::new(); proxies.len()]; connections.len()];
    for round in 0..rounds {
        for (row, connections) in connections.iter().enumerate() {
            for turn in 0..proxies.len() {
                let column = (turn + round) % proxies.len();
                micros[row][column].push(measure(&proxies[column], *connections, span));
            }
        }
    }
    print!("{:>12}", "connections");
    proxies.iter().for_each(|proxy| print!("{:>22}", proxy.name));
    println!("{:>20}", "tasuki / haproxy");
    for (connections, row) in connections.iter().zip(&micros) {
        print!("{connections:>12}");
        for rounds in row {
            let rounds = sorted(rounds);
            print!("{:>22}", format!("{:.1} ({:.1}-{:.1})", middle(&rounds), rounds[0], rounds[rounds.len() - 1]));
        }
        println!("{:>20}", ratio(proxies, row).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
    }
}

/// The middle of the ratios of each round, whose two times are from the same moment of the machine.
fn ratio(proxies: &[Proxy], row: &[Vec<f64>]) -> Option<f64> {
    let column = |name| proxies.iter().position(|proxy| proxy.name == name);
    let (ours, theirs) = (&row[column("tasuki")?], &row[column("haproxy")?]);
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    Some(middle(&sorted(&ratios)))
}

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

pub(crate) fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn measure(proxy: &Proxy, connections: usize, span: Duration) -> f64 {
    micros(proxy, connections, load::PAGE, span)
}

/// CPU time of a server's processes for each answer to this request.
pub(crate) fn micros(proxy: &Proxy, connections: usize, request: &[u8], span: Duration) -> f64 {
    let load = Load::start(proxy.address, connections, request).wait_until_all_are_answered();
    let (cpu, answered) = (proxy.cpu(), load.answered());
    thread::sleep(span);
    let (cpu, answered) = (proxy.cpu() - cpu, load.answered() - answered);
    load.finish();
    assert!(answered > 100, "{}: only {answered} answers in {span:?}", proxy.name);
    cpu.as_secs_f64() * 1e6 / answered as f64
}

fn idle(proxies: &[Proxy]) {
    let connections = number("IDLE", 10_000);
    println!("memory of the proxy for each of {connections} idle keep-alive connections, after one request on each");
    for proxy in proxies {
        Load::start(proxy.address, 32, load::PAGE).wait_until_all_are_answered().finish();
        let before = proxy.memory();
        let clients = load::idle(proxy.address, connections);
        thread::sleep(IDLE);
        let after = proxy.memory();
        println!(
            "{:>12}  {:.2} KiB  ({:.1} MiB before, {:.1} MiB with them)",
            proxy.name,
            (after.saturating_sub(before)) as f64 / 1024.0 / connections as f64,
            before as f64 / 1048576.0,
            after as f64 / 1048576.0
        );
        drop(clients);
    }
}
