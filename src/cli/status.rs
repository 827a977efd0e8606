//! `tasuki status`: the table, or the report itself.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;

use super::{Config, Failure, aligned, block_on, client::Client, say};
use crate::{
    membership::Duty,
    observe::{Admin, NodeReport, NodeState, PeerReport, StatusReport, StrangersReport},
};

const COLUMNS: [&str; 9] = ["ROUTE", "STATE", "DUTY", "HTTP", "PID", "OWNED", "HELD", "REPAIRED", "PEERS"];

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print the report as JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: Config,
}

impl Status {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let client = Client::of(&self.config.sources().load()?.settings)?;
        let report = block_on(async { Ok(client.status().await?) })?;
        let text = if self.json { json(&report) } else { table(&report) };
        say(&text);
        Ok(ExitCode::SUCCESS)
    }
}

fn json(report: &StatusReport) -> String {
    // These types hold nothing that JSON cannot.
    serde_json::to_string_pretty(report).unwrap_or_default()
}

/// The balancer, then a line a node, in columns as wide as they must be.
fn table(report: &StatusReport) -> String {
    let mut lines = vec![format!("balancer {}  pid {}", report.balancer.listen, report.balancer.pid)];
    lines.extend(report.balancer.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.push(String::new());
    if report.nodes.is_empty() {
        lines.push("no nodes: start one with \"tasuki node\", or all with \"tasuki up\"".to_owned());
        return lines.join("\n");
    }
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(report.nodes.iter().map(row));
    lines.extend(aligned(&rows));
    for remarks in [differing(report), strangers(report), webapps(report)].into_iter().filter(|lines| !lines.is_empty())
    {
        lines.push(String::new());
        lines.extend(remarks);
    }
    lines.join("\n")
}

/// A line a node that an administrator has set otherwise than the file, with the file's values beside.
fn differing(report: &StatusReport) -> Vec<String> {
    let differing = report.nodes.iter().filter(|node| !node.terms.differs.is_empty());
    let line = |node: &NodeReport| {
        let settings: Vec<String> = node.terms.differs.iter().map(ToString::to_string).collect();
        format!(
            "{route} differs from the file: {}; \"tasuki reset {route}\" takes it back",
            settings.join(", "),
            route = node.route
        )
    };
    differing.map(line).collect()
}

/// A line a node that has kept somebody out: an attack, or a member whose secret is another one.
fn strangers(report: &StatusReport) -> Vec<String> {
    let kept_out = report.nodes.iter().filter(|node| node.strangers != StrangersReport::default());
    let line = |node: &NodeReport| {
        let StrangersReport { datagrams, links } = node.strangers;
        format!(
            "{route} has turned strangers away: {datagrams} datagrams and {links} links that were not sealed with this \
             cluster's secret (cluster.secret_file); its log says where they came from",
            route = node.route
        )
    };
    kept_out.map(line).collect()
}

/// What is wrong with webapps and what else is to be known of them, a line each, with the nodes that say so.
fn webapps(report: &StatusReport) -> Vec<String> {
    let mut said: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in &report.nodes {
        for webapp in &node.webapps {
            let kept = if webapp.context.is_some() { "the version before goes on" } else { "not deployed" };
            let broken = webapp.error.iter().map(|error| format!("webapp {} is broken ({kept}): {error}", webapp.name));
            let notes = webapp.notes.iter().map(|note| format!("webapp {}: {note}", webapp.name));
            broken.chain(notes).for_each(|line| said.entry(line).or_default().push(node.route.as_str()));
        }
    }
    said.into_iter().map(|(line, routes)| format!("{}: {line}", routes.join(", "))).collect()
}

fn row(node: &NodeReport) -> [String; 9] {
    let peers: Vec<String> = node.peers.iter().map(peer).collect();
    [
        node.route.to_string(),
        state_word(node.state).to_owned(),
        if node.terms.admin == Admin::Disabled { Admin::Disabled.word() } else { duty_word(node.duty) }.to_owned(),
        node.http.to_string(),
        node.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        node.sessions.owned.to_string(),
        node.sessions.held.to_string(),
        node.peers.iter().map(|peer| peer.repaired_sessions).sum::<u64>().to_string(),
        if peers.is_empty() { "-".to_owned() } else { peers.join(", ") },
    ]
}

fn peer(PeerReport { route, in_sync, lag_ms, queued, .. }: &PeerReport) -> String {
    let mut text = format!("{route} {}in sync", if *in_sync { "" } else { "not " });
    if !in_sync && *lag_ms > 0 {
        text += &format!(", {lag_ms} ms behind");
    }
    if !in_sync && *queued > 0 {
        text += &format!(", {queued} queued");
    }
    text
}

/// As in the JSON report.
pub(super) fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "starting",
        NodeState::Ready => "ready",
        NodeState::Stopping => "stopping",
        NodeState::Failed => "failed",
    }
}

fn duty_word(duty: Duty) -> &'static str {
    match duty {
        Duty::Starting => "starting",
        Duty::Serving => "serving",
        Duty::Draining => "draining",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observe::{
        BalancerReport, Differs, RefusalCounts, SessionCounts, StrangersReport, Terms, WebappReport, WebappSource,
    };

    /// A report of nodes, each with the routes of the peers that it calls in sync.
    pub(in crate::cli) fn report(nodes: &[(&str, NodeState, &[&str])]) -> StatusReport {
        let node = |(route, state, in_sync): &(&str, NodeState, &[&str])| NodeReport {
            route: route.parse().unwrap(),
            pid: (*state != NodeState::Failed).then_some(4711),
            http: "127.0.0.1:18080".parse().unwrap(),
            state: *state,
            duty: Duty::Serving,
            sessions: SessionCounts { owned: 12, held: 3 },
            peers: nodes
                .iter()
                .filter(|(other, ..)| other != route)
                .map(|(other, ..)| PeerReport {
                    route: other.parse().unwrap(),
                    in_sync: in_sync.contains(other),
                    lag_ms: 0,
                    queued: 0,
                    queued_bytes: 0,
                    sent_bytes: 0,
                    received_bytes: 0,
                    repair_rounds: 1,
                    repaired_sessions: 0,
                })
                .collect(),
            writes_refused: 0,
            writes_alone: 0,
            alone: false,
            sessions_refused: 0,
            ended: 0,
            strangers: StrangersReport::default(),
            staying: 0,
            alike: BTreeMap::new(),
            webapps: Vec::new(),
            terms: Terms::default(),
        };
        StatusReport {
            balancer: BalancerReport {
                listen: "127.0.0.1:12121".parse().unwrap(),
                pid: 4710,
                refusals: RefusalCounts::default(),
                warnings: Vec::new(),
            },
            nodes: nodes.iter().map(node).collect(),
        }
    }

    #[test]
    fn the_table_is_aligned_and_names_every_node() {
        let mut report = report(&[("r1", NodeState::Ready, &["node-2"]), ("node-2", NodeState::Failed, &[])]);
        report.nodes[1].peers[0].lag_ms = 1_200;
        report.nodes[1].peers[0].queued = 7;
        report.nodes[0].peers[0].repaired_sessions = 120;
        assert_eq!(
            table(&report),
            "\
balancer 127.0.0.1:12121  pid 4710

ROUTE   STATE   DUTY     HTTP             PID   OWNED  HELD  REPAIRED  PEERS
r1      ready   serving  127.0.0.1:18080  4711  12     3     120       node-2 in sync
node-2  failed  serving  127.0.0.1:18080  -     12     3     0         r1 not in sync, 1200 ms behind, 7 queued"
        );
    }

    #[test]
    fn what_the_balancer_warns_of_stands_first_also_without_nodes() {
        let mut report = report(&[]);
        report.balancer.warnings = vec!["the certificate ends".into(), "something else".into()];
        let text = table(&report);
        let lines = "pid 4710\nwarning: the certificate ends\nwarning: something else\n\nno nodes";
        assert!(text.contains(lines), "{text}");
    }

    #[test]
    fn what_differs_from_the_file_is_said_with_the_files_value() {
        let mut report = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Ready, &["r1"])]);
        let differs = |setting: &str, now: &str, file: &str| Differs {
            setting: setting.into(),
            now: now.into(),
            file: file.into(),
        };
        report.nodes[0].terms.admin = Admin::Disabled;
        report.nodes[0].terms.differs = vec![differs("duty", "disabled", "enabled"), differs("weight", "7", "50")];
        let text = table(&report);
        assert!(text.contains("\nr1     ready  disabled"), "{text}");
        let line = "\n\nr1 differs from the file: duty disabled (file: enabled), weight 7 (file: 50); \
                    \"tasuki reset r1\" takes it back";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn a_node_says_whom_it_has_turned_away() {
        let mut report = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Ready, &["r1"])]);
        assert!(!table(&report).contains("strangers"));
        report.nodes[1].strangers = StrangersReport { datagrams: 12, links: 3 };
        let text = table(&report);
        assert!(text.contains("\n\nr2 has turned strangers away: 12 datagrams and 3 links that"), "{text}");
    }

    #[test]
    fn what_is_wrong_with_a_webapp_is_said_once_for_all_nodes() {
        let mut report = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Ready, &["r1"])]);
        let webapp = WebappReport {
            name: "shop".into(),
            context: "/shop".parse().ok(),
            version: Some("1".into()),
            distributable: true,
            source: WebappSource::Folder,
            error: Some("shop/a.html.j2:3: wrong".into()),
            notes: Vec::new(),
        };
        let copying = WebappReport { error: None, notes: vec!["being copied".into()], context: None, ..webapp.clone() };
        report.nodes[0].webapps = vec![webapp.clone(), WebappReport { name: "cart".into(), ..copying }];
        report.nodes[1].webapps = vec![webapp];
        let text = table(&report);
        let lines = "\n\nr1: webapp cart: being copied\n\
                     r1, r2: webapp shop is broken (the version before goes on): shop/a.html.j2:3: wrong";
        assert!(text.ends_with(lines), "{text}");
    }

    #[test]
    fn a_balancer_without_nodes_says_what_to_do() {
        assert!(table(&report(&[])).ends_with("no nodes: start one with \"tasuki node\", or all with \"tasuki up\""));
    }

    #[test]
    fn the_words_are_those_of_the_json_report() {
        for state in [NodeState::Starting, NodeState::Ready, NodeState::Stopping, NodeState::Failed] {
            assert_eq!(serde_json::to_value(state).unwrap(), state_word(state));
        }
        for duty in [Duty::Starting, Duty::Serving, Duty::Draining] {
            assert_eq!(serde_json::to_value(duty).unwrap(), duty_word(duty));
        }
    }

    #[test]
    fn the_json_report_is_read_back_as_it_was() {
        let report = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Starting, &[])]);
        assert_eq!(serde_json::from_str::<StatusReport>(&json(&report)).unwrap(), report);
    }
}
