//! `tasuki webapps`: which version of each webapp answers on which node.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;

use super::{Config, Failure, aligned, block_on, client::Client, say};
use crate::{
    names::Route,
    observe::{StatusReport, WebappReport, WebappSource},
};

const COLUMNS: [&str; 5] = ["NAME", "PATH", "VERSION", "FROM", "NODES"];

/// Digits of a version that are shown.
const SHOWN: usize = 8;

#[derive(Debug, Args)]
pub(super) struct Webapps {
    /// Print them as JSON, for programs: for each node what "tasuki status --json" says of its webapps
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: Config,
}

impl Webapps {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let client = Client::of(&self.config.sources().load()?.settings)?;
        let report = block_on(async { Ok(client.status().await?) })?;
        say(&if self.json { json(&report) } else { table(&report) });
        Ok(ExitCode::SUCCESS)
    }
}

fn json(report: &StatusReport) -> String {
    let nodes: BTreeMap<&Route, &[WebappReport]> =
        report.nodes.iter().map(|node| (&node.route, &*node.webapps)).collect();
    // These types hold nothing that JSON cannot.
    serde_json::to_string_pretty(&nodes).unwrap_or_default()
}

/// A line for each version of each webapp, then what an administrator should know of.
fn table(report: &StatusReport) -> String {
    let mut versions: BTreeMap<[String; 4], Vec<&str>> = BTreeMap::new();
    let mut notes: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for node in &report.nodes {
        for app in &node.webapps {
            versions.entry(row(app)).or_default().push(node.route.as_str());
            for note in app.error.iter().chain(&app.notes) {
                notes.entry((&app.name, note)).or_default().push(node.route.as_str());
            }
        }
    }
    if versions.is_empty() {
        return "no webapps: put one into the webapps folder, or use \"tasuki deploy\"".to_owned();
    }
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(
        versions.into_iter().map(|([name, path, version, from], nodes)| [name, path, version, from, nodes.join(", ")]),
    );
    let mut lines = aligned(&rows);
    if !notes.is_empty() {
        lines.push(String::new());
    }
    lines.extend(notes.into_iter().map(|((name, note), nodes)| format!("{name} on {}: {note}", nodes.join(", "))));
    lines.join("\n")
}

fn row(app: &WebappReport) -> [String; 4] {
    let path =
        app.context.as_ref().map_or("-", |context| if context.as_str().is_empty() { "/" } else { context.as_str() });
    let version: String = app.version.as_deref().unwrap_or("-").chars().take(SHOWN).collect();
    let from = match app.source {
        WebappSource::Folder => "folder",
        WebappSource::Deployed => "deployed",
    };
    [app.name.clone(), path.to_owned(), version, from.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::status::tests::report, observe::NodeState};

    fn app(name: &str, version: Option<&str>, error: Option<&str>) -> WebappReport {
        WebappReport {
            name: name.into(),
            context: version.map(|_| if name == "ROOT" { "" } else { "/shop" }.parse().unwrap()),
            version: version.map(Into::into),
            distributable: true,
            source: WebappSource::Folder,
            error: error.map(Into::into),
            notes: Vec::new(),
        }
    }

    #[test]
    fn nodes_with_the_same_version_share_a_line_and_others_stand_out() {
        let mut report = report(&[("r1", NodeState::Ready, &["r2"]), ("r2", NodeState::Ready, &["r1"])]);
        assert!(table(&report).starts_with("no webapps"));
        report.nodes[0].webapps = vec![app("ROOT", Some("0123456789abcdef"), None), app("shop", Some("aaaa"), None)];
        report.nodes[1].webapps =
            vec![app("ROOT", Some("0123456789abcdef"), None), app("shop", None, Some("shop/a.j2:3: oh"))];
        let expected = "\
NAME  PATH   VERSION   FROM    NODES
ROOT  /      01234567  folder  r1, r2
shop  -      -         folder  r2
shop  /shop  aaaa      folder  r1

shop on r2: shop/a.j2:3: oh";
        assert_eq!(table(&report), expected);
        assert!(json(&report).contains("\"r2\": ["));
    }
}
