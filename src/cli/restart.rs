//! `tasuki restart`: asks a node to replace its process, and waits until it is back and in sync; or the balancer, whose
//! new process takes the listening socket over.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::time::sleep;

use super::{
    Config, Failure, block_on,
    client::{AskError, Balancer, Client, Life},
    say,
    status::state_word,
};
use crate::{
    limits,
    membership::Duty,
    names::Route,
    observe::{NodeReport, NodeState, StatusReport},
};

/// Between two looks at a node that is on its way back.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct Restart {
    /// The node's route, such as r1; or balancer
    #[arg(value_name = "ROUTE|balancer", required_unless_present = "rolling", conflicts_with = "rolling")]
    route: Option<Route>,
    /// Every node, one after the other, and the balancer last; stops at the first that does not come back
    #[arg(long)]
    rolling: bool,
    #[command(flatten)]
    config: Config,
}

/// What the balancer is called on the command line.
const BALANCER: &str = "balancer";

/// Why a node is not back.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRestarted {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{route} is not back after {seconds} s: {missing}", seconds = limits::RESTART_TIMEOUT.as_secs())]
    TooLate { route: Route, missing: String },
    #[error("{0}; a rolling restart needs every node ready and in sync, so that no session is lost with the next one")]
    Unsafe(String),
    #[error(
        "{route} is the only node: nobody would answer meanwhile; start another one, or say \"tasuki restart {route}\""
    )]
    Alone { route: Route },
    #[error("no node is known to the balancer")]
    NoNodes,
    #[error("the balancer was not restarted, and goes on as it is: {0}")]
    Balancer(String),
    #[error("{error}; not restarted: {remaining}")]
    Stopped { error: Box<NotRestarted>, remaining: String },
}

impl NotRestarted {
    fn with_remaining(self, routes: &[Route]) -> Self {
        if routes.is_empty() {
            return self;
        }
        let remaining = routes.iter().map(Route::as_str).collect::<Vec<_>>().join(", ");
        Self::Stopped { error: Box::new(self), remaining }
    }
}

impl Restart {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let client = Client::of(&self.config.sources().load()?.settings)?;
        block_on(async {
            match &self.route {
                Some(route) if route.as_str() == BALANCER => restart_balancer(&client).await?,
                Some(route) => restart_one(&client, route).await?,
                None => restart_all(&client).await?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

async fn restart_all(client: &Client) -> Result<(), NotRestarted> {
    let report = client.status().await?;
    let routes: Vec<Route> = report.nodes.iter().map(|node| node.route.clone()).collect();
    for (index, route) in routes.iter().enumerate() {
        let (before, after) = (&routes[index..], &routes[index + 1..]);
        may_restart(&client.status().await?, route).map_err(|error| error.with_remaining(before))?;
        restart_one(client, route).await.map_err(|error| error.with_remaining(after))?;
    }
    if routes.is_empty() {
        return Err(NotRestarted::NoNodes);
    }
    restart_balancer(client).await?;
    say(&format!("all {} nodes and the balancer are restarted", routes.len()));
    Ok(())
}

/// The new process answers only when it knows its nodes.
async fn restart_balancer(client: &Client) -> Result<(), NotRestarted> {
    let begun = Instant::now();
    let old = client.restart_balancer().await?.pid;
    say("balancer: asked to restart");
    loop {
        match client.balancer().await {
            Ok(Balancer { pid, .. }) if pid != old => break,
            Ok(Balancer { refused: Some(why), .. }) => return Err(NotRestarted::Balancer(why)),
            _ => {}
        }
        if begun.elapsed() >= limits::RESTART_TIMEOUT + limits::ASK_TIMEOUT {
            return Err(NotRestarted::Balancer("its new process does not answer".to_owned()));
        }
        sleep(LOOK).await;
    }
    say(&format!("balancer: a new process accepts after {:.1} s", begun.elapsed().as_secs_f32()));
    Ok(())
}

async fn restart_one(client: &Client, route: &Route) -> Result<(), NotRestarted> {
    let begun = Instant::now();
    let old = client.restart(route).await?;
    say(&format!("{route}: asked to restart"));
    wait_until_back(client, route, &old, begun).await?;
    say(&format!("{route}: ready and in sync after {:.1} s", begun.elapsed().as_secs_f32()));
    Ok(())
}

/// First for another life of the process, then for its readiness and both directions of every copy.
async fn wait_until_back(client: &Client, route: &Route, old: &Life, begun: Instant) -> Result<(), NotRestarted> {
    let mut back = false;
    let mut told = String::new();
    loop {
        if !back {
            back = client.life(route).await.is_ok_and(|life| life != *old);
        }
        let missing = match (back, client.status().await) {
            (false, _) => "its new process does not answer".to_owned(),
            (true, Err(error)) => error.to_string(),
            (true, Ok(report)) => match missing(&report, route) {
                None => return Ok(()),
                Some(missing) => missing,
            },
        };
        if begun.elapsed() >= limits::RESTART_TIMEOUT {
            return Err(NotRestarted::TooLate { route: route.clone(), missing });
        }
        if missing != told {
            say(&format!("{route}: waiting, {missing}"));
            told = missing;
        }
        sleep(LOOK).await;
    }
}

/// What is still to come before the node is as good as before: nothing, or the first thing.
fn missing(report: &StatusReport, route: &Route) -> Option<String> {
    let Some(node) = node(report, route) else { return Some("the balancer does not see it".to_owned()) };
    if node.state != NodeState::Ready {
        return Some(format!("it is {}", state_word(node.state)));
    }
    let others = report.nodes.iter().filter(|other| other.route != *route && is_live(other));
    others.flat_map(|other| [(node, other), (other, node)]).find_map(|(one, other)| {
        let in_sync = one.peers.iter().any(|peer| peer.route == other.route && peer.in_sync);
        (!in_sync).then(|| format!("{} is not in sync with {}", other.route, one.route))
    })
}

/// A node that cannot be asked, or is about to go, is not waited for.
fn is_live(node: &NodeReport) -> bool {
    matches!(node.state, NodeState::Ready | NodeState::Starting)
}

/// The next node of a rolling restart may go when all the others are ready and hold what it owns.
fn may_restart(report: &StatusReport, route: &Route) -> Result<(), NotRestarted> {
    if report.nodes.len() < 2 {
        return Err(NotRestarted::Alone { route: route.clone() });
    }
    if let Some(node) = report.nodes.iter().find(|node| node.state != NodeState::Ready) {
        return Err(NotRestarted::Unsafe(format!("{} is {}", node.route, state_word(node.state))));
    }
    // A drained node stays drained when it restarts, so it takes nobody's place.
    if !report.nodes.iter().any(|other| other.route != *route && other.duty == Duty::Serving) {
        return Err(NotRestarted::Unsafe(format!("no node beside {route} serves")));
    }
    missing(report, route).map_or(Ok(()), |missing| Err(NotRestarted::Unsafe(missing)))
}

fn node<'a>(report: &'a StatusReport, route: &Route) -> Option<&'a NodeReport> {
    report.nodes.iter().find(|node| node.route == *route)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::cli::status::tests::report;

    const READY: NodeState = NodeState::Ready;

    fn r(route: &str) -> Route {
        route.parse().unwrap()
    }

    #[test]
    fn a_node_is_back_when_both_directions_are_in_sync() {
        let both = report(&[("r1", READY, &["r2"]), ("r2", READY, &["r1"])]);
        assert_eq!(missing(&both, &r("r1")), None);
        let outward = report(&[("r1", READY, &["r2"]), ("r2", READY, &[])]);
        assert_eq!(missing(&outward, &r("r1")).unwrap(), "r1 is not in sync with r2");
        let inward = report(&[("r1", READY, &[]), ("r2", READY, &["r1"])]);
        assert_eq!(missing(&inward, &r("r1")).unwrap(), "r2 is not in sync with r1");
    }

    #[test]
    fn a_node_is_not_back_before_it_is_ready_or_seen() {
        let starting = report(&[("r1", NodeState::Starting, &["r2"]), ("r2", READY, &["r1"])]);
        assert_eq!(missing(&starting, &r("r1")).unwrap(), "it is starting");
        assert_eq!(missing(&starting, &r("r3")).unwrap(), "the balancer does not see it");
    }

    #[test]
    fn a_dead_node_is_not_waited_for_and_a_single_one_has_nobody_to_wait_for() {
        let with_dead = report(&[("r1", READY, &[]), ("r2", NodeState::Failed, &[])]);
        assert_eq!(missing(&with_dead, &r("r1")), None);
        assert_eq!(missing(&report(&[("r1", READY, &[])]), &r("r1")), None);
    }

    #[test]
    fn a_missing_peer_entry_is_not_in_sync() {
        let mut report = report(&[("r1", READY, &["r2"]), ("r2", READY, &["r1"])]);
        report.nodes[0].peers.clear();
        assert_eq!(missing(&report, &r("r1")).unwrap(), "r2 is not in sync with r1");
    }

    #[test]
    fn a_rolling_restart_that_stops_says_what_remains() {
        let error = || NotRestarted::TooLate { route: r("r1"), missing: "it is starting".to_owned() };
        let text = error().with_remaining(&[r("r2"), r("r3")]).to_string();
        assert_eq!(text, "r1 is not back after 30 s: it is starting; not restarted: r2, r3");
        assert_eq!(error().with_remaining(&[]).to_string(), "r1 is not back after 30 s: it is starting");
    }

    #[test]
    fn a_rolling_restart_does_not_take_the_last_copy_away() {
        let good = report(&[("r1", READY, &["r2"]), ("r2", READY, &["r1"])]);
        assert!(may_restart(&good, &r("r1")).is_ok());
        let dead = report(&[("r1", READY, &["r2"]), ("r2", NodeState::Failed, &[])]);
        assert!(may_restart(&dead, &r("r1")).unwrap_err().to_string().starts_with("r2 is failed; a rolling restart"));
        let apart = report(&[("r1", READY, &[]), ("r2", READY, &["r1"])]);
        assert!(matches!(may_restart(&apart, &r("r1")), Err(NotRestarted::Unsafe(_))));
        let mut drained = report(&[("r1", READY, &["r2"]), ("r2", READY, &["r1"])]);
        drained.nodes[0].duty = Duty::Draining;
        assert!(may_restart(&drained, &r("r1")).is_ok(), "r2 serves meanwhile");
        assert!(may_restart(&drained, &r("r2")).unwrap_err().to_string().starts_with("no node beside r2 serves"));
        let alone = report(&[("r1", READY, &[])]);
        assert!(matches!(may_restart(&alone, &r("r1")), Err(NotRestarted::Alone { .. })));
    }

    /// Answers each path with its answers in turn, the last one for ever.
    async fn serve(listener: TcpListener, mut script: HashMap<&'static str, VecDeque<(u16, String)>>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let read = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap();
            let answers = script.get_mut(path).unwrap_or_else(|| panic!("{path} is in the script"));
            let (code, body) = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
            let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn life(name: &str) -> (u16, String) {
        (200, format!("{{\"life\":\"{name}\"}}"))
    }

    fn state(nodes: &[(&str, NodeState, &[&str])]) -> (u16, String) {
        (200, serde_json::to_string(&report(nodes)).unwrap())
    }

    #[tokio::test]
    async fn a_restart_ends_when_another_life_is_ready_and_in_sync() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::at(listener.local_addr().unwrap());
        let gone = (404, "{\"error\":\"r1 does not answer\"}".to_owned());
        let states = [
            state(&[("r1", READY, &["r2"]), ("r2", READY, &["r1"])]), // still the old life: no reason to be content
            state(&[("r1", NodeState::Failed, &[]), ("r2", READY, &[])]),
            state(&[("r1", NodeState::Starting, &[]), ("r2", READY, &[])]),
            state(&[("r1", READY, &[]), ("r2", READY, &["r1"])]),
            state(&[("r1", READY, &["r2"]), ("r2", READY, &["r1"])]),
        ];
        let script = HashMap::from([
            ("/manager/members/r1/restart", VecDeque::from([life("a")])),
            ("/manager/members/r1/life", VecDeque::from([life("a"), gone, life("b")])),
            ("/manager/status.json", VecDeque::from(states)),
        ]);
        let route = r("r1");
        let done = tokio::select! {
            done = restart_one(&client, &route) => done,
            () = serve(listener, script) => unreachable!("it serves for ever"),
        };
        assert!(done.is_ok(), "{done:?}");
    }

    #[tokio::test]
    async fn a_restart_of_an_unknown_node_fails_in_the_balancers_words() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::at(listener.local_addr().unwrap());
        let unknown = (404, "{\"error\":\"no node is called r9\"}".to_owned());
        let script = HashMap::from([("/manager/members/r9/restart", VecDeque::from([unknown]))]);
        let route = r("r9");
        let failed = tokio::select! {
            done = restart_one(&client, &route) => done.unwrap_err(),
            () = serve(listener, script) => unreachable!("it serves for ever"),
        };
        assert_eq!(failed.to_string(), "no node is called r9");
    }
}
