//! What the manager tells: what the balancer counts, and what each node says of itself.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::Serialize;

use super::super::{
    control,
    view::{Member, MemberReport, Standing, View},
    worker::Worker,
};
use crate::{
    limits,
    membership::Duty,
    observe::{BalancerReport, NodeReport, NodeState, PeerReport, SessionCounts, StatusReport, StrangersReport, Terms},
    settings::Alike,
    time::Moment,
};

/// What `json` and `?json` answer. A stable interface: fields are only added.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) balancer: BalancerReport,
    /// The clock of this machine, in milliseconds, for rates between two reports. It has no meaning of its own.
    pub(super) at_ms: u64,
    pub(super) members: Vec<ReportedMember>,
}

/// A member: what the balancer counts, and what the node says of itself.
#[derive(Serialize)]
pub(super) struct ReportedMember {
    #[serde(flatten)]
    pub(super) counted: MemberReport,
    pub(super) state: NodeState,
    pub(super) pid: Option<u32>,
    /// None for a member that does not say; one that is no tasuki node never does.
    pub(super) sessions: Option<SessionCounts>,
    pub(super) staying: usize,
    pub(super) peers: Vec<PeerReport>,
    /// Age of the oldest write that a peer has not acknowledged.
    pub(super) lag_ms: u64,
}

/// Asks every member at once; who does not answer in time is listed with what the balancer knows.
pub(super) async fn status(worker: &Worker) -> StatusReport {
    let view: &View = &worker.rules.published.view();
    let nodes = join_all(view.members.iter().map(|member| report(member))).await;
    StatusReport { balancer: balancer(worker, &nodes), nodes }
}

async fn report(member: &Member) -> NodeReport {
    let path = "/.tasuki/status";
    let asked = control::ask(member.address, hyper::Method::GET, path, None, limits::STATUS_TIMEOUT).await;
    let silent = asked.is_err();
    let said = asked.ok().and_then(|(_, body)| serde_json::from_slice::<NodeReport>(&body).ok());
    let mut report = said.unwrap_or_else(|| known(member, silent));
    // Under this route the balancer knows it, and nothing a node says may put it under another.
    report.route = member.route.clone();
    report.state = usable_state(report.state, member.standing);
    let Member { admin, weight, standby, ref differs, .. } = *member;
    report.terms = Terms { admin, weight, standby, differs: differs.clone() };
    report
}

/// A node counts as ready when this balancer uses it too: a rolling restart waits for that before the next one.
fn usable_state(said: NodeState, standing: Standing) -> NodeState {
    match (said, standing) {
        (NodeState::Ready, Standing::Coming) => NodeState::Starting,
        (NodeState::Ready, Standing::Failed) => NodeState::Failed,
        (said, _) => said,
    }
}

/// What is known of a member that does not say anything of itself. One that answers all the same is no tasuki node.
fn known(member: &Member, silent: bool) -> NodeReport {
    let state = match member.standing {
        _ if silent => NodeState::Failed,
        Standing::Failed => NodeState::Failed,
        Standing::Coming => NodeState::Starting,
        Standing::Usable | Standing::Draining | Standing::Disabled => NodeState::Ready,
    };
    NodeReport {
        route: member.route.clone(),
        pid: None,
        http: member.address,
        state,
        duty: member.duty,
        sessions: SessionCounts::default(),
        peers: Vec::new(),
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
    }
}

fn balancer(worker: &Worker, nodes: &[NodeReport]) -> BalancerReport {
    let rules = &worker.rules;
    let mut warnings = rules.certificate.as_ref().map(|shown| shown.warnings()).unwrap_or_default();
    warnings.extend(unlike(&rules.alike, nodes));
    warnings.extend(alone(nodes));
    BalancerReport { listen: rules.listen, pid: std::process::id(), refusals: rules.refusals.report(), warnings }
}

/// What the page shows: the balancer's counts beside what each node says.
pub(super) async fn everything(worker: &Worker) -> Report {
    let view: &View = &worker.rules.published.view();
    let nodes = join_all(view.members.iter().map(|member| report(member))).await;
    let mut balancer = balancer(worker, &nodes);
    balancer.warnings.extend(broken_webapps(&nodes));
    let members = view.report(Moment::now()).into_iter().zip(nodes).map(|(counted, node)| ReportedMember {
        counted,
        state: node.state,
        sessions: node.pid.map(|_| node.sessions),
        pid: node.pid,
        staying: node.staying,
        lag_ms: node.peers.iter().map(|peer| peer.lag_ms).max().unwrap_or(0),
        peers: node.peers,
    });
    Report { balancer, at_ms: Moment::now().0, members: members.collect() }
}

/// Settings that have to be alike and are not: which values there are, and who has each. Who does not say counts for nothing.
fn unlike(balancer: &Alike, nodes: &[NodeReport]) -> Vec<String> {
    let mut said: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let nodes = nodes.iter().map(|node| (node.route.as_str(), &node.alike));
    for (who, settings) in nodes.chain([("this balancer", balancer)]) {
        for (key, value) in settings {
            said.entry(key).or_default().entry(value).or_default().push(who);
        }
    }
    let unlike = said.into_iter().filter(|(_, values)| values.len() > 1);
    let sentence = |(key, values): (&str, BTreeMap<&str, Vec<&str>>)| {
        let values = values.into_iter().map(|(value, who)| format!("{value} on {}", who.join(", ")));
        format!("{key} has to be the same everywhere and is {}", values.collect::<Vec<_>>().join("; "))
    };
    unlike.map(sentence).take(limits::MANAGER_WARNINGS).collect()
}

/// Nodes whose writes nobody else holds, though others did before.
fn alone(nodes: &[NodeReport]) -> Option<String> {
    let is_alone = |node: &&NodeReport| node.alone && node.duty == Duty::Serving;
    let routes: Vec<&str> = nodes.iter().filter(is_alone).map(|node| node.route.as_str()).collect();
    (!routes.is_empty())
        .then(|| format!("what is written on {} is held there only: no other node is in sync", routes.join(", ")))
}

/// What lies in the folders of nodes and does not answer, and why: nodes that say the same together.
fn broken_webapps(nodes: &[NodeReport]) -> Vec<String> {
    let mut broken: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for node in nodes {
        for app in &node.webapps {
            if let Some(error) = &app.error {
                broken.entry((&app.name, error)).or_default().push(node.route.as_str());
            }
        }
    }
    let sentence = |((name, error), routes): ((&str, &str), Vec<&str>)| {
        format!("webapp {name} is broken on {}: {error}", routes.join(", "))
    };
    broken.into_iter().map(sentence).take(limits::MANAGER_WARNINGS).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::super::view::tests::usable, *};
    use crate::observe::{WebappReport, WebappSource};

    #[test]
    fn nodes_with_the_same_broken_webapp_are_named_together() {
        let node = |route: &str, errors: &[(&str, Option<&str>)]| {
            let app = |&(name, error): &(&str, Option<&str>)| WebappReport {
                name: name.into(),
                context: None,
                version: None,
                distributable: true,
                source: WebappSource::Folder,
                error: error.map(Into::into),
                notes: Vec::new(),
            };
            let member = Member { route: route.parse().unwrap(), ..usable(1, "r1") };
            NodeReport { webapps: errors.iter().map(app).collect(), ..known(&member, false) }
        };
        let nodes =
            [node("r1", &[("ROOT", None), ("shop", Some("a.j2:3: oh"))]), node("r2", &[("shop", Some("a.j2:3: oh"))])];
        assert_eq!(broken_webapps(&nodes), ["webapp shop is broken on r1, r2: a.j2:3: oh"]);
        let many: Vec<(String, Option<&str>)> = (0..100).map(|n| (format!("a{n}"), Some("oh"))).collect();
        let many: Vec<(&str, Option<&str>)> = many.iter().map(|(name, error)| (name.as_str(), *error)).collect();
        assert_eq!(broken_webapps(&[node("r1", &many)]).len(), limits::MANAGER_WARNINGS);
    }

    #[test]
    fn a_setting_that_is_not_the_same_everywhere_is_named_with_who_has_what() {
        let alike = |manager: &str| Alike::from([("session.manager".to_owned(), manager.to_owned())]);
        let node = |route: &str, alike: Alike| {
            let member = Member { route: route.parse().unwrap(), ..usable(1, "r1") };
            NodeReport { alike, ..known(&member, false) }
        };
        let older = node("r0", Alike::new());
        let mut nodes = vec![older, node("r1", alike("delta")), node("r2", alike("delta"))];
        assert_eq!(unlike(&alike("delta"), &nodes), [""; 0]);
        nodes.push(node("r3", alike("backup")));
        assert_eq!(
            unlike(&alike("delta"), &nodes),
            ["session.manager has to be the same everywhere and is backup on r3; delta on r1, r2, this balancer"]
        );
    }

    #[test]
    fn a_node_is_ready_when_the_balancer_uses_it_too() {
        assert_eq!(usable_state(NodeState::Ready, Standing::Coming), NodeState::Starting);
        assert_eq!(usable_state(NodeState::Ready, Standing::Usable), NodeState::Ready);
        assert_eq!(usable_state(NodeState::Stopping, Standing::Usable), NodeState::Stopping);
        assert_eq!(usable_state(NodeState::Failed, Standing::Usable), NodeState::Failed);
    }
}
