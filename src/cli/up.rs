//! `tasuki up`: starts everything, says where it is and what to try.

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::time::sleep;

use super::{
    Config, Failure, block_on,
    client::{Client, reachable},
    complain, say, signals,
};
use crate::{
    balancer::Sockets,
    limits, observe,
    observe::{NodeState, StatusReport},
    settings::{self, Listening, Settings},
    supervisor::{self, ChildPlan, End},
};

/// Between two looks at children that are starting.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct Up {
    /// How many nodes, named r1, r2, ...
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(1..=limits::CHILD_NODES as i64))]
    nodes: u8,
    #[command(flatten)]
    config: Config,
}

impl Up {
    pub(super) fn nodes(&self) -> usize {
        usize::from(self.nodes)
    }

    /// Until a signal: code 0 when everything ended gracefully, 1 when something has died or had to be killed.
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let program = env::current_exe().map_err(|error| Failure::System("this executable has no path", error))?;
        let mut settings = self.config.sources().load()?.settings;
        settings.cluster.secret()?;
        let given = supervisor::inherited_sockets().map_err(|error| Failure::System("LISTEN_FDS", error))?;
        if let Some(given) = &given {
            // They are not to be found free: who gave the sockets has bound them.
            settings.balancer.listen.set_port(0);
            if let (Some(_), Some(tls)) = (&given.tls, &mut settings.balancer.tls) {
                tls.listen.set_port(0);
            }
            if let (Some(_), Some(manager)) = (&given.manager, &mut settings.balancer.manager.listen) {
                manager.set_port(0);
            }
        }
        let plan = supervisor::plan(&settings, self.nodes(), &program, self.config.config.as_deref())?;
        observe::start_log();
        forget_last_address(&settings);
        let sockets = match given {
            Some(sockets) => {
                settings.balancer.listen = sockets.plain.local_addr().map_err(Failure::Listen)?;
                if let (Some(socket), Some(tls)) = (&sockets.tls, &mut settings.balancer.tls) {
                    tls.listen = socket.local_addr().map_err(Failure::Listen)?;
                }
                sockets.completed(&settings.balancer)
            }
            None => Sockets::bind(&settings.balancer),
        };
        let sockets = sockets.map_err(Failure::Listen)?;
        let manager = sockets.manager.as_ref().map(|socket| socket.local_addr());
        settings.balancer.manager.listen = manager.transpose().map_err(Failure::Listen)?;
        let end = block_on(async {
            let signals = signals::first_and_second();
            let (first, second) = signals.map_err(|error| Failure::System("signals cannot be received", error))?;
            let came_up = announce(&settings, plan.nodes.clone());
            Ok(supervisor::run(plan, sockets, came_up, first, second).await?)
        })?;
        match end {
            End::Graceful => Ok(ExitCode::SUCCESS),
            End::Failed => {
                complain("not everything ended well; the log above says what did not, and why");
                Ok(ExitCode::FAILURE)
            }
            End::Killed => {
                complain("not everything ended by itself; what was left has been killed");
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

/// Where the system chose the port, the file of an earlier run would lead to a balancer that is gone.
fn forget_last_address(settings: &Settings) {
    let ports = [Some(settings.balancer.listen), settings.balancer.manager.listen];
    if ports.into_iter().flatten().any(|address| address.port() == 0) {
        Listening::forget(&settings.node.run);
    }
}

/// Waits until the balancer answers and all nodes are ready, or long enough, and prints the addresses.
async fn announce(settings: &Settings, nodes: Vec<ChildPlan>) {
    let begun = Instant::now();
    let mut seen = None;
    while begun.elapsed() < limits::UP_TIMEOUT {
        if let Ok(client) = Client::of(settings)
            && let Ok(report) = client.status().await
        {
            if ready(&report) >= nodes.len() {
                return say(&welcome(&report, &settings.balancer));
            }
            seen = Some(report);
        }
        sleep(LOOK).await;
    }
    complain(&unready(seen.as_ref(), nodes.len()));
    match &seen {
        Some(report) => say(&welcome(report, &settings.balancer)),
        None => say(&wanted(settings, &nodes)),
    }
}

fn ready(report: &StatusReport) -> usize {
    report.nodes.iter().filter(|node| node.state == NodeState::Ready).count()
}

fn unready(seen: Option<&StatusReport>, nodes: usize) -> String {
    let seconds = limits::UP_TIMEOUT.as_secs();
    match seen {
        None => format!("after {seconds} s the balancer does not answer yet; its log is above"),
        Some(report) => {
            format!("after {seconds} s only {} of {nodes} nodes are ready; their log is above", ready(report))
        }
    }
}

/// The addresses that were to be used.
fn wanted(settings: &Settings, nodes: &[ChildPlan]) -> String {
    let mut lines = vec![format!("  balancer  http://{}", reachable(settings.balancer.listen))];
    for node in nodes {
        lines.push(format!("  node {:<4} http://{}", node.name, node.chosen("node.http").unwrap_or("(unknown)")));
    }
    lines.join("\n")
}

/// Every address, and what to try.
fn welcome(report: &StatusReport, balancer: &settings::Balancer) -> String {
    let door = format!("http://{}", reachable(report.balancer.listen));
    let mut lines = vec![String::new(), format!("  balancer  {door:<26}  pid {}", report.balancer.pid)];
    if let Some(tls) = &balancer.tls {
        lines.push(format!("            https://{}", reachable(tls.listen)));
    }
    for node in &report.nodes {
        let (url, pid) = (format!("http://{}", node.http), node.pid.map_or("-".to_owned(), |pid| pid.to_string()));
        lines.push(format!("  node {:<4} {url:<26}  pid {pid}", node.route.as_str()));
    }
    let manager = balancer.manager.listen.map_or(door.clone(), |own| format!("http://{}", reachable(own)));
    lines.push(format!("  manager   {manager}{}", balancer.manager.path));
    lines.extend([String::new(), "Try:".to_owned(), format!("  open {door} and reload: the number grows")]);
    if let Some(pid) = report.nodes.first().and_then(|node| node.pid) {
        lines.push(format!("  kill -9 {pid}, reload: another node goes on with the number"));
    }
    lines.push("  tasuki status              who is there, who is in sync".to_owned());
    lines.push("  tasuki restart --rolling   every node and the balancer anew, and nobody notices".to_owned());
    lines.extend([String::new(), "Ctrl-C stops everything.".to_owned()]);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::report;

    #[test]
    fn the_welcome_names_every_address_and_what_to_try() {
        let mut settings = Settings::default();
        let report = report(&[("r1", NodeState::Ready, &[])]);
        assert!(!welcome(&report, &settings.balancer).contains("https"));
        let (listen, file) = (([0, 0, 0, 0], 443).into(), std::path::PathBuf::new());
        settings.balancer.tls = Some(settings::Tls { listen, certificate: file.clone(), key: file, http2: true });
        let text = welcome(&report, &settings.balancer);
        for part in [
            "            https://127.0.0.1:443\n",
            "  balancer  http://127.0.0.1:12121      pid 4710\n",
            "  node r1   http://127.0.0.1:18080      pid 4711\n",
            "  manager   http://127.0.0.1:12121/balancer-manager\n",
            "  kill -9 4711, reload",
        ] {
            assert!(text.contains(part), "{part:?} is in\n{text}");
        }
    }

    #[test]
    fn a_manager_with_an_address_of_its_own_is_named_there() {
        let mut settings = Settings::default();
        settings.balancer.manager.listen = Some(([0, 0, 0, 0], 12122).into());
        let text = welcome(&report(&[]), &settings.balancer);
        assert!(text.contains("  manager   http://127.0.0.1:12122/balancer-manager\n"), "{text}");
    }

    #[test]
    fn what_does_not_answer_is_counted() {
        let half = report(&[("r1", NodeState::Ready, &[]), ("r2", NodeState::Starting, &[])]);
        assert_eq!(unready(Some(&half), 2), "after 10 s only 1 of 2 nodes are ready; their log is above");
        assert_eq!(unready(None, 2), "after 10 s the balancer does not answer yet; its log is above");
    }
}
